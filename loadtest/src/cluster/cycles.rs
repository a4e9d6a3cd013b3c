//! One fault after another under load, and what the audit says of all that was promised meanwhile.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use hubbub::log::place::Sequence;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    Crowd, Engine, Fault, Flags, PUBLISH_TIMEOUT, Sync, log_in,
    meter::{HOT, Meter},
};
use crate::{
    Failure, Verdict,
    latency::Latency,
    server::cluster::Cluster,
    traffic::{self, Shared, users::User},
};

/// How long the hubs may take to work again after a fault has been undone. Beyond it they never do.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);
const RECOVERY_CHECK: Duration = Duration::from_millis(20);

/// Runs it, and tells what came of it.
pub(super) async fn run(
    flags: &Flags,
    crowd: Crowd,
    mut cluster: Cluster,
    seed: u64,
    is_json: bool,
) -> Result<Verdict, Failure> {
    let run = match break_and_mend(flags, crowd, &mut cluster, seed).await {
        Ok(run) => run,
        Err(error) => {
            let kept = cluster.end_and_keep_logs()?;
            return Err(error.context(format!("the logs are kept in {}", kept.display())).into());
        }
    };
    if is_json {
        println!("{:#}", run.json(flags, crowd, seed));
    } else {
        run.print(flags, crowd, seed);
    }
    let is_broken = run.violations > 0;
    if is_broken && !flags.expect_loss {
        eprintln!("the logs are kept in {}", cluster.end_and_keep_logs()?.display());
    }
    Ok(match (is_broken, flags.expect_loss, run.lost > 0) {
        (false, false, _) | (_, true, true) => Verdict::Holds,
        _ => Verdict::Broken,
    })
}

/// The people, and the servers that break under them.
struct Scene<'a> {
    flags: &'a Flags,
    cluster: &'a mut Cluster,
    shared: Arc<Shared>,
    meter: Arc<Mutex<Meter>>,
    /// One for each hub.
    auditors: Vec<User>,
    readers: JoinSet<()>,
    writers: JoinSet<()>,
}

/// What one fault did.
struct Cycle {
    anywhere: Duration,
    hot: Duration,
    recovery: Duration,
}

fn lock(meter: &Mutex<Meter>) -> MutexGuard<'_, Meter> {
    meter.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Scene<'a> {
    /// Lets everybody in. When it answers, the writers write.
    async fn begin(flags: &'a Flags, crowd: Crowd, cluster: &'a mut Cluster) -> Result<Self> {
        let urls = cluster.urls()?;
        let mut auditors = Vec::new();
        for hub in 0..crowd.hubs {
            auditors.push(log_in(&urls, hub, &format!("auditor-{hub}")).await?);
        }
        let channels = (0..flags.channels).map(|number| format!("cluster-{number}")).collect();
        let shared = Shared::make(channels, &auditors[0].client, PUBLISH_TIMEOUT).await?;
        let mut readers = JoinSet::new();
        for hub in 0..crowd.hubs {
            let name = format!("reader-{hub}");
            let user = log_in(&urls, hub, &name).await?;
            shared.follow(&user, &name, &mut readers).await?;
        }
        let mut people = Vec::new();
        for writer in 0..crowd.writers {
            let hub = writer as usize % crowd.hubs;
            people.push((hub, log_in(&urls, hub, &format!("writer-{writer}")).await?));
        }
        // What was made so far is there after the power is back, also where nothing is synced: the kernel
        // would have written it in half a minute.
        cluster.settle()?;
        let meter = Arc::new(Mutex::new(Meter::new(crowd.hubs, Instant::now())));
        let mut writers = JoinSet::new();
        for (writer, (hub, user)) in (0_u64..).zip(people) {
            for slot in 0..u64::from(crowd.window) {
                let author = writer * u64::from(crowd.window) + slot;
                let others = flags.channels - 1;
                // A channel that stands still holds up the slots that write into it, and no others: half of
                // them write into the hot one, and each of the rest into one.
                let other =
                    HOT + 1 + usize::try_from(author / 2).unwrap_or_default() % others.max(1);
                let channel = if author % 2 == 0 || others == 0 { HOT } else { other };
                let meter = Arc::clone(&meter);
                let acknowledged = move |channel, begun| {
                    lock(&meter).acknowledged(hub, channel, begun, Instant::now());
                };
                let shared = Arc::clone(&shared);
                let write =
                    traffic::write(shared, user.clone(), author, move |_| channel, acknowledged);
                writers.spawn(write);
            }
        }
        Ok(Self { flags, cluster, shared, meter, auditors, readers, writers })
    }

    /// A calm time, the fault, and everything until it is over.
    async fn cycle(&mut self, number: usize, random: &mut SmallRng) -> Result<Cycle> {
        let (first, last) = self.flags.calm_ms;
        let calm = Duration::from_millis(random.random_range(first..=last));
        tokio::time::sleep(calm).await;
        lock(&self.meter).begin(Instant::now());
        let hub = random.random_range(0..self.auditors.len());
        let fault = self.flags.fault;
        let whom = fault.strike(self.cluster, hub, self.flags.hold).await?;
        if self.flags.expect_loss {
            // They remember what is lost, and will not go on. Others would not know.
            for hub in 0..self.auditors.len() {
                self.cluster.kill_hub(hub).await?;
                self.cluster.start_hub(hub).await.context("after a loss")?;
            }
        }
        let undone = Instant::now();
        if !self.flags.expect_loss {
            self.recover(undone).await;
        }
        let now = Instant::now();
        let (anywhere, hot) = {
            let meter = lock(&self.meter);
            (meter.anywhere.so_far(now), meter.hot.so_far(now))
        };
        let recovery = now - undone;
        eprintln!(
            "{number:>3} {fault}{whom}: nothing for {:.2} s, in the hot channel for {:.2} s, all hubs \
             {:.2} s after it was over; {} acknowledged",
            anywhere.as_secs_f64(),
            hot.as_secs_f64(),
            recovery.as_secs_f64(),
            self.shared.audit().acknowledgements(),
        );
        let auditor = &self.auditors[number % self.auditors.len()];
        self.shared.check_history(&auditor.client).await?;
        Ok(Cycle { anywhere, hot, recovery })
    }

    /// Waits until every hub acknowledges what is written into the hot channel now.
    async fn recover(&self, undone: Instant) {
        loop {
            let Some(hub) = lock(&self.meter).is_missing(undone) else { return };
            if undone.elapsed() > RECOVERY_TIMEOUT {
                let user = self.auditors[hub].id.0;
                let error =
                    format!("hub-{hub} acknowledges nothing {RECOVERY_TIMEOUT:?} after the fault");
                return self.shared.audit().ended(user, error);
            }
            if self.shared.audit().violations() > 0 {
                return;
            }
            tokio::time::sleep(RECOVERY_CHECK).await;
        }
    }

    /// The whole history once more and from every hub, now that nothing moves.
    async fn end(&mut self) -> Result<Vec<Sequence>> {
        self.shared.end_writing(&mut self.writers).await?;
        let mut heads = Vec::new();
        for (hub, auditor) in self.auditors.iter().enumerate() {
            self.shared.audit().begin_history();
            let read = self.shared.check_history(&auditor.client).await;
            heads = read.with_context(|| format!("from hub-{hub}, at the end"))?;
        }
        self.shared.drain(&heads, &mut self.readers).await;
        Ok(heads)
    }
}

async fn break_and_mend(
    flags: &Flags,
    crowd: Crowd,
    cluster: &mut Cluster,
    seed: u64,
) -> Result<Run> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut scene = Scene::begin(flags, crowd, cluster).await?;
    let begun = Instant::now();
    let mut run = Run::default();
    for number in 1..=flags.cycles as usize {
        let cycle = scene.cycle(number, &mut random).await;
        let cycle = cycle.with_context(|| format!("cycle {number} of {}", flags.cycles))?;
        run.cycles += 1;
        run.anywhere.record(cycle.anywhere);
        run.hot.record(cycle.hot);
        run.recovery.record(cycle.recovery);
        if scene.shared.audit().violations() > 0 {
            eprintln!("cycle {number} of {} broke it", flags.cycles);
            break;
        }
    }
    run.time = begun.elapsed();
    run.acknowledged_in_time = scene.shared.audit().acknowledgements();
    // What is lost is lost: the writers may wait for a channel that will never be the same.
    let heads = if flags.expect_loss && scene.shared.audit().violations() > 0 {
        scene.writers.abort_all();
        Vec::new()
    } else {
        scene.end().await?
    };
    run.messages = heads.iter().map(|head| head.0).sum();
    run.acks = lock(&scene.meter).acks.clone();
    let audit = scene.shared.audit();
    let findings = audit.findings();
    run.acknowledged = audit.acknowledgements();
    run.deliveries = audit.deliveries();
    run.retried = scene.shared.retried.load(Ordering::Relaxed);
    run.lost = findings.acknowledged_lost;
    run.violations = findings.violations;
    run.evidence = findings.evidence;
    Ok(run)
}

/// What the run showed.
struct Run {
    cycles: usize,
    time: Duration,
    acknowledged: u64,
    /// Before the writers were told to stop.
    acknowledged_in_time: u64,
    retried: u64,
    messages: u64,
    deliveries: u64,
    acks: Latency,
    /// The longest times without an acknowledgement, one of each cycle: in all channels, and in the hot one.
    anywhere: Latency,
    hot: Latency,
    /// From the end of the fault until all hubs have acknowledged something new.
    recovery: Latency,
    lost: u64,
    violations: u64,
    evidence: Vec<String>,
}

impl Default for Run {
    fn default() -> Self {
        let latency = Latency::new();
        Self {
            cycles: 0,
            time: Duration::ZERO,
            acknowledged: 0,
            acknowledged_in_time: 0,
            retried: 0,
            messages: 0,
            deliveries: 0,
            acks: latency.clone(),
            anywhere: latency.clone(),
            hot: latency.clone(),
            recovery: latency,
            lost: 0,
            violations: 0,
            evidence: Vec::new(),
        }
    }
}

impl Run {
    fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
        let acknowledged = self.acknowledged_in_time as f64;
        acknowledged / self.time.as_secs_f64().max(0.001)
    }

    fn json(&self, flags: &Flags, crowd: Crowd, seed: u64) -> Value {
        let mut figures = std::collections::BTreeMap::new();
        self.acks.figures("ack", &mut figures);
        let waits =
            [("stall", &self.anywhere), ("hot_stall", &self.hot), ("recovery", &self.recovery)];
        for (name, wait) in waits {
            figures.insert(format!("{name}.p50"), wait.percentile(50.0));
            figures.insert(format!("{name}.max"), wait.max());
        }
        json!({
            "seed": seed,
            "fault": flags.fault.to_string(),
            "engine": if flags.engine == Engine::Sqlite { "sqlite" } else { "jetstream" },
            "sync": if flags.sync == Sync::Always { "always" } else { "default" },
            "hubs": crowd.hubs,
            "writers": crowd.writers,
            "window": crowd.window,
            "channels": flags.channels,
            "hold_s": flags.hold.as_secs_f64(),
            "cycles": self.cycles,
            "messages": self.messages,
            "acknowledged": self.acknowledged,
            "messages_per_s": self.rate(),
            "retried": self.retried,
            "deliveries": self.deliveries,
            "figures": figures,
            "lost": self.lost,
            "violations": self.violations,
            "evidence": self.evidence,
        })
    }

    fn print(&self, flags: &Flags, crowd: Crowd, seed: u64) {
        let seconds = |wait: &Latency| {
            format!("p50 {:.2} s, max {:.2} s", wait.percentile(50.0) / 1e3, wait.max() / 1e3)
        };
        println!(
            "faults        {} × {}, {} hubs, seed {seed}",
            self.cycles, flags.fault, crowd.hubs
        );
        println!("acknowledged  {}, {:.0} in a second", self.acknowledged, self.rate());
        println!("ack           {}", self.acks.line());
        println!("no ack at all {} (the longest time of each cycle)", seconds(&self.anywhere));
        println!("in the hot    {}", seconds(&self.hot));
        println!("all hubs back {} after the fault was over", seconds(&self.recovery));
        println!("sent again    {} publishes", self.retried);
        println!("in history    {}, read from every hub", self.messages);
        println!("delivered     {}", self.deliveries);
        println!("lost          {} acknowledged messages", self.lost);
        for violation in &self.evidence {
            println!("VIOLATION     {violation}");
        }
        let verdict = if self.violations == 0 { "holds" } else { "BROKEN" };
        println!("audit         {verdict}: {} violations", self.violations);
        if flags.fault == Fault::PowerCut && flags.expect_loss {
            let found = if self.lost > 0 { "was found" } else { "WAS NOT FOUND" };
            println!("control       the loss that was to be expected {found}");
        }
    }
}
