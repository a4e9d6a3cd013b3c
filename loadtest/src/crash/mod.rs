//! Crashes: a server is killed at a random moment and started again, over and over, under writers
//! who publish as fast as they are answered and readers who follow. Its clients find their way back
//! by themselves. After each start, and at the end once more from the beginning, history is
//! compared with what was promised.
//!
//! With `--power-cut` the server's disk loses its power as well. The server is frozen first, so
//! that whatever it has told anybody, it told before the cut: a real dead machine tells nothing
//! afterwards either.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use hubbub::{
    client::{Client, Delivery, HistoryFrom, Message, PublishOptions, Subscription},
    log::place::{ClientMessageId, Sequence, UserId},
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

mod users;

use users::User;

use crate::{
    Failure, Verdict,
    audit::{Audit, Digest, Place, Reader},
    latency::Latency,
    server::disk::Disk,
    server::{self, Server, Setup},
};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {
    /// How often the server crashes.
    #[arg(long, default_value_t = 100)]
    cycles: u32,
    /// Clients that write.
    #[arg(long, default_value_t = 8)]
    writers: u32,
    /// Publishes that each writer has under way.
    #[arg(long, default_value_t = 4)]
    window: u32,
    /// How long the server lives, in milliseconds: a number, or a range to draw from.
    #[arg(long, default_value = "20..300", value_name = "MS", value_parser = parse_range)]
    restart_after_ms: (u64, u64),
    /// Where the randomness begins. Drawn, and printed, if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Cut the disk's power as well. Needs root and loop devices.
    #[arg(long)]
    power_cut: bool,
    /// How the server syncs its log.
    #[arg(long, default_value = "full", value_parser = ["full", "normal"])]
    synchronous: String,
    /// Succeed when something is lost, and only then: the control of this very test.
    #[arg(long)]
    expect_loss: bool,
    /// The server's program, if not the one beside this.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

/// The channels.
const CHANNELS: [&str; 2] = ["crash-0", "crash-1"];
/// Clients that subscribe to all channels.
const READERS: usize = 2;
/// The longest wait of a client before it connects again: the server is never away for long.
const BACKOFF_MAX: Duration = Duration::from_millis(50);
/// How many starts are killed before the server comes up, and how old they get: about as old as a
/// start takes.
const STILLBORN: f64 = 0.2;
const STILLBORN_AGE_MAX: Duration = Duration::from_millis(15);
/// How long a publish is tried. Beyond it the server is taken for broken.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the readers may take to get everything, at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
const DRAIN_CHECK: Duration = Duration::from_millis(10);
/// Messages that are asked for at once when history is read.
const PAGE: u32 = 200;
/// A body is at most this much longer than its beginning.
const PADDING_MAX: u64 = 200;

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err("expected milliseconds such as `100`, or a range such as `20..300`".to_owned()),
    }
}

/// What the clients share.
struct Shared {
    audit: Mutex<Audit>,
    /// Of the channels, in their order.
    places: [Place; CHANNELS.len()],
    /// Publishes that had to be sent again, because the server was gone before it answered.
    retried: AtomicU64,
    /// Becomes true when the writers are to stop.
    is_over: watch::Sender<bool>,
}

impl Shared {
    fn audit(&self) -> MutexGuard<'_, Audit> {
        self.audit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) async fn run(flags: Flags, is_json: bool) -> Result<Verdict, Failure> {
    check(&flags)?;
    let seed = flags.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    eprintln!("seed {seed}");
    let folder = tempfile::Builder::new().prefix("hubbub-crash-").tempdir()?;
    // Dropped in the opposite order, at whichever end: server, disk, folder.
    let mut machine = Machine::start(&flags, folder.path()).await?;
    let run = crash(&flags, &mut machine, SmallRng::seed_from_u64(seed)).await?;
    if is_json {
        println!("{:#}", run.json(&flags, seed));
    } else {
        run.print(&flags, seed);
    }
    let is_broken = run.violations > 0;
    if is_broken && !flags.expect_loss && !flags.power_cut {
        machine.stop().await?;
        eprintln!("the server's data and log are kept in {}", folder.keep().display());
    }
    Ok(match (is_broken, flags.expect_loss, run.lost > 0) {
        (false, false, _) | (_, true, true) => Verdict::Holds,
        _ => Verdict::Broken,
    })
}

fn check(flags: &Flags) -> Result<(), Failure> {
    if flags.cycles == 0 || flags.writers == 0 || flags.window == 0 {
        let zero = anyhow!("--cycles, --writers and --window must be at least 1");
        return Err(Failure::configuration(zero));
    }
    Ok(())
}

/// The server and its disk, if it has one of its own.
struct Machine {
    server: Option<Server>,
    setup: Setup,
    disk: Option<Disk>,
}

impl Machine {
    async fn start(flags: &Flags, folder: &std::path::Path) -> Result<Self, Failure> {
        let listen = server::free_address()?;
        let mut setup = Setup::new(flags.binary.clone(), listen, folder)?.with_cheap_logins();
        let synchronous = "HUBBUB__LOG__SYNCHRONOUS".to_owned();
        setup.environment.push((synchronous, flags.synchronous.clone()));
        let disk = if flags.power_cut { Some(Disk::make(folder)?) } else { None };
        if let Some(disk) = &disk {
            setup.data_dir = disk.path().join("data");
        }
        let server = Some(setup.start().await?);
        Ok(Self { server, setup, disk })
    }

    fn server(&self) -> Result<&Server> {
        self.server.as_ref().context("the server is down")
    }

    async fn stop(&mut self) -> Result<()> {
        match self.server.take() {
            Some(server) => server.kill().await,
            None => Ok(()),
        }
    }

    /// Ends the server without a warning.
    async fn crash(&mut self) -> Result<()> {
        if let Some(disk) = &mut self.disk {
            self.server.as_ref().context("the server is down")?.freeze()?;
            disk.cut()?;
        }
        self.stop().await
    }

    /// Starts it again, on what it left. At times the first start does not survive either, so that
    /// what a start does with the log is interrupted as well.
    async fn restart(&mut self, stillborn: Option<Duration>) -> Result<()> {
        if let Some(disk) = &mut self.disk {
            disk.unmount()?;
            disk.mount()?;
        }
        if let Some(after) = stillborn {
            self.setup.start_and_kill(after).await?;
        }
        self.server = Some(self.setup.start().await?);
        Ok(())
    }
}

async fn crash(flags: &Flags, machine: &mut Machine, mut random: SmallRng) -> Result<Run> {
    let url = machine.server()?.url.clone();
    let log_in = async |name: String| users::log_in(&url, &name, BACKOFF_MAX).await;
    let auditor = log_in("auditor".to_owned()).await?;
    for channel in CHANNELS {
        auditor.client.create_channel(channel).await.context("a channel cannot be made")?;
    }
    let mut audit = Audit::default();
    let places = CHANNELS.map(|name| audit.channel(name));
    let shared = Arc::new(Shared {
        audit: Mutex::new(audit),
        places,
        retried: AtomicU64::new(0),
        is_over: watch::Sender::new(false),
    });
    shared.audit().begin_history();

    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        let user = log_in(format!("reader-{reader}")).await?;
        for (channel, name) in CHANNELS.iter().enumerate() {
            let subscription = user.client.subscribe(name, None).await?;
            // Nobody has published yet.
            let counted = shared.audit().subscribed(user.id.0, places[channel], 0);
            let name = format!("reader-{reader}");
            readers.spawn(read(Arc::clone(&shared), user.id, name, counted, subscription));
        }
    }
    let mut writers = JoinSet::new();
    for writer in 0..flags.writers {
        let user = log_in(format!("writer-{writer}")).await?;
        for slot in 0..flags.window {
            let author = u64::from(writer * flags.window + slot);
            writers.spawn(write(Arc::clone(&shared), user.clone(), author));
        }
    }

    let mut restarts = Latency::new();
    let mut per_life = Vec::new();
    let mut stillbirths = 0;
    for cycle in 1..=flags.cycles {
        let before = shared.audit().acknowledgements();
        let (first, last) = flags.restart_after_ms;
        tokio::time::sleep(Duration::from_millis(random.random_range(first..=last))).await;
        machine.crash().await?;
        let stillborn = random
            .random_bool(STILLBORN)
            .then(|| STILLBORN_AGE_MAX.mul_f64(random.random_range(0.0..1.0)));
        stillbirths += u32::from(stillborn.is_some());
        let begun = Instant::now();
        machine.restart(stillborn).await.with_context(|| format!("after crash {cycle}"))?;
        restarts.record(begun.elapsed());
        check_history(&shared, &auditor.client).await?;
        let audit = shared.audit();
        per_life.push(audit.acknowledgements() - before);
        if audit.violations() > 0 {
            eprintln!("crash {cycle} of {} broke it", flags.cycles);
            break;
        }
        if cycle % 10 == 0 {
            eprintln!("{cycle} crashes, {} acknowledged", audit.acknowledgements());
        }
    }

    shared.is_over.send_replace(true);
    while let Some(writer) = writers.join_next().await {
        writer?;
    }
    // The whole history once more, now that nothing moves.
    shared.audit().begin_history();
    let heads = check_history(&shared, &auditor.client).await?;
    let complete = || {
        let audit = shared.audit();
        places.iter().zip(&heads).all(|(place, head)| audit.is_complete(*place, head.0))
    };
    let begun = Instant::now();
    while !complete() && begun.elapsed() < DRAIN_TIMEOUT && shared.audit().violations() == 0 {
        tokio::time::sleep(DRAIN_CHECK).await;
    }
    readers.abort_all();
    let mut audit = shared.audit();
    places.iter().zip(&heads).for_each(|(place, head)| audit.end_delivery(*place, head.0));
    let findings = audit.findings();
    per_life.sort_unstable();
    Ok(Run {
        crashes: per_life.len(),
        stillbirths,
        acknowledged: audit.acknowledgements(),
        retried: shared.retried.load(Ordering::Relaxed),
        messages: heads.iter().map(|head| head.0).sum(),
        deliveries: audit.deliveries(),
        acknowledged_per_life: [
            per_life.first().copied().unwrap_or_default(),
            per_life.get(per_life.len() / 2).copied().unwrap_or_default(),
        ],
        restarts,
        lost: findings.acknowledged_lost,
        violations: findings.violations,
        evidence: findings.evidence,
    })
}

/// One of the publishes that a writer has under way, again and again.
async fn write(shared: Arc<Shared>, user: User, author: u64) {
    let is_over = shared.is_over.subscribe();
    for n in 1_u64.. {
        if *is_over.borrow() {
            return;
        }
        let channel = usize::try_from((author + n) % 2).unwrap_or_default();
        let id = ClientMessageId(((author + 1) << 40) | n);
        let body = body(id);
        let (place, message) = (shared.places[channel], digest(user.id, id, &body));
        shared.audit().publishing(place, message);
        let options =
            PublishOptions { client_message_id: Some(id), timeout: Some(PUBLISH_TIMEOUT) };
        match user.client.publish_with(CHANNELS[channel], &body, options).await {
            Ok(published) => {
                shared.retried.fetch_add(u64::from(published.attempts > 1), Ordering::Relaxed);
                shared.audit().acknowledged(place, published.position.sequence.0, message);
            }
            Err(error) => {
                let error = format!("it wrote as author {author}: {}", users::in_full(&error));
                shared.audit().ended(user.id.0, error);
                return;
            }
        }
    }
}

/// Bodies of many lengths, each found again from its number.
fn body(id: ClientMessageId) -> String {
    let padding = id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let padding = usize::try_from(padding % PADDING_MAX).unwrap_or_default();
    format!("{:x} {}", id.0, "x".repeat(padding))
}

fn digest(user: UserId, id: ClientMessageId, body: &str) -> Digest {
    Digest::new(user.0, id.0, body.as_bytes())
}

fn digest_of(message: &Message) -> Digest {
    digest(message.user, message.client_message_id.unwrap_or(ClientMessageId(0)), &message.body)
}

async fn read(
    shared: Arc<Shared>,
    user: UserId,
    name: String,
    reader: Reader,
    mut subscription: Subscription,
) {
    while let Some(delivery) = subscription.next().await {
        let mut audit = shared.audit();
        match delivery {
            Ok(Delivery::Message(message)) => {
                audit.delivered(reader, message.sequence.0, digest_of(&message));
            }
            Ok(Delivery::Gap { from, to }) => audit.skipped(reader, from.0, to.0),
            Ok(Delivery::Reset { head }) => audit.started_over(reader, head.sequence.0),
            Err(error) => {
                audit.ended(user.0, format!("it read as {name}: {}", users::in_full(&error)))
            }
        }
    }
}

/// Reads on in the history of all channels, and answers where they end.
async fn check_history(shared: &Shared, client: &Client) -> Result<Vec<Sequence>> {
    shared.audit().go_on_with_history();
    let mut heads = Vec::new();
    for (place, name) in shared.places.into_iter().zip(CHANNELS) {
        loop {
            let after = Sequence(shared.audit().history_read(place));
            let page = client.history(name, HistoryFrom::After(after), PAGE).await;
            let page = page.context("history cannot be read")?;
            let mut audit = shared.audit();
            for message in &page.messages {
                audit.history(place, message.sequence.0, digest_of(message));
            }
            let has_all = audit.history_read(place) >= page.head_sequence.0;
            if page.messages.is_empty() || has_all {
                audit.end_history(place, page.head_sequence.0);
                heads.push(page.head_sequence);
                break;
            }
        }
    }
    Ok(heads)
}

/// What the run showed.
struct Run {
    crashes: usize,
    /// Starts that were killed on top of these.
    stillbirths: u32,
    messages: u64,
    acknowledged: u64,
    retried: u64,
    deliveries: u64,
    /// The fewest, and the median: a life without any tests nothing.
    acknowledged_per_life: [u64; 2],
    /// From the end of the old server to the start of the new one.
    restarts: Latency,
    lost: u64,
    violations: u64,
    evidence: Vec<String>,
}

impl Run {
    fn json(&self, flags: &Flags, seed: u64) -> Value {
        let mut restarts = std::collections::BTreeMap::new();
        self.restarts.figures("restart", &mut restarts);
        json!({
            "seed": seed,
            "power_cut": flags.power_cut,
            "synchronous": flags.synchronous,
            "crashes": self.crashes,
            "killed_starts": self.stillbirths,
            "messages": self.messages,
            "acknowledged": self.acknowledged,
            "acknowledged_per_life_min": self.acknowledged_per_life[0],
            "acknowledged_per_life_p50": self.acknowledged_per_life[1],
            "retried": self.retried,
            "deliveries": self.deliveries,
            "restart": restarts,
            "lost": self.lost,
            "violations": self.violations,
            "evidence": self.evidence,
        })
    }

    fn print(&self, flags: &Flags, seed: u64) {
        let how = if flags.power_cut { "power cuts" } else { "kills" };
        let [fewest, median] = self.acknowledged_per_life;
        println!(
            "crashes       {} {how} and {} killed starts, synchronous={}, seed {seed}",
            self.crashes, self.stillbirths, flags.synchronous
        );
        println!(
            "acknowledged  {}, per life at least {fewest}, median {median}",
            self.acknowledged
        );
        println!("sent again    {} publishes, after the server was gone", self.retried);
        println!("in history    {}", self.messages);
        println!("delivered     {}", self.deliveries);
        println!("restart       {}", self.restarts.line());
        println!("lost          {} acknowledged messages", self.lost);
        for violation in &self.evidence {
            println!("VIOLATION     {violation}");
        }
        let verdict = if self.violations == 0 { "holds" } else { "BROKEN" };
        println!("audit         {verdict}: {} violations", self.violations);
        if flags.expect_loss {
            let found = if self.lost > 0 { "was found" } else { "WAS NOT FOUND" };
            println!("control       the loss that was to be expected {found}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_lives_is_read_or_refused() {
        assert_eq!(parse_range("20..300"), Ok((20, 300)));
        assert_eq!(parse_range("50"), Ok((50, 50)));
        for text in ["", "x", "3..2", "1..", "..2"] {
            assert!(parse_range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bodies_differ_in_length_and_are_found_again() {
        let of = |n| body(ClientMessageId(n));
        assert_eq!(of(77), of(77));
        let lengths: std::collections::BTreeSet<_> = (1..200).map(|n| of(n).len()).collect();
        assert!(lengths.len() > 50, "{lengths:?}");
    }
}
