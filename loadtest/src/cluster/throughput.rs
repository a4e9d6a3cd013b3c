//! How many durable messages there are in a second when all hubs write as fast as they are answered.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Crowd, Engine, Flags, PUBLISH_TIMEOUT, log_in};
use crate::{
    Failure, Verdict,
    latency::Latency,
    server::{cluster::Cluster, observer::Observer, usage::Usage},
    traffic::{self, Shared},
};

/// How many channels are written into at once.
const CHANNELS: [usize; 2] = [1, 64];
/// From the first publish until it counts.
const WARM_UP: Duration = Duration::from_secs(2);

/// Measures both, and tells what came of it.
pub(super) async fn run(
    flags: &Flags,
    crowd: Crowd,
    cluster: Cluster,
    is_json: bool,
) -> Result<Verdict, Failure> {
    let mut parts = Vec::new();
    for channels in CHANNELS {
        match measure(flags.time, crowd, &cluster, channels).await {
            Ok(part) => {
                eprintln!("{}", part.line());
                parts.push(part);
            }
            Err(error) => {
                let kept = cluster.end_and_keep_logs()?;
                let kept = format!("the logs are kept in {}", kept.display());
                return Err(error.context(kept).into());
            }
        }
    }
    if is_json {
        let parts: Vec<_> = parts.iter().map(Part::json).collect();
        println!(
            "{:#}",
            json!({
                "engine": if flags.engine == Engine::Sqlite { "sqlite" } else { "jetstream" },
                "hubs": crowd.hubs,
                "writers": crowd.writers,
                "window": crowd.window,
                "parts": parts,
            })
        );
    } else {
        parts.iter().for_each(Part::print);
    }
    if parts.iter().any(|part| part.violations > 0) {
        eprintln!("the logs are kept in {}", cluster.end_and_keep_logs()?.display());
        return Ok(Verdict::Broken);
    }
    Ok(Verdict::Holds)
}

/// What is counted while it counts.
#[derive(Debug)]
struct Counted {
    begins: Instant,
    acks: Latency,
}

async fn measure(time: Duration, crowd: Crowd, cluster: &Cluster, channels: usize) -> Result<Part> {
    let urls = cluster.urls()?;
    let auditor = log_in(&urls, 0, "auditor").await?;
    let names = (0..channels).map(|number| format!("of-{channels}-{number}")).collect();
    let shared = Shared::make(names, &auditor.client, PUBLISH_TIMEOUT).await?;
    let mut readers = JoinSet::new();
    for hub in 0..crowd.hubs {
        let name = format!("reader-{hub}");
        let user = log_in(&urls, hub, &name).await?;
        shared.follow(&user, &name, &mut readers).await?;
    }
    let begins = Instant::now() + WARM_UP;
    let counted = Arc::new(Mutex::new(Counted { begins, acks: Latency::new() }));
    let mut writers = JoinSet::new();
    for writer in 0..crowd.writers {
        let hub = writer as usize % crowd.hubs;
        let user = log_in(&urls, hub, &format!("writer-{writer}")).await?;
        for slot in 0..crowd.window {
            let author = u64::from(writer * crowd.window + slot);
            let channel = usize::try_from(author).unwrap_or_default() % channels;
            let counted = Arc::clone(&counted);
            let acknowledged = move |_, begun: Instant| {
                let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
                if Instant::now() >= counted.begins {
                    counted.acks.record(begun.elapsed());
                }
            };
            let shared = Arc::clone(&shared);
            let write =
                traffic::write(shared, user.clone(), author, move |_| channel, acknowledged);
            writers.spawn(write);
        }
    }
    tokio::time::sleep_until(begins.into()).await;
    // Those who logged in late are counted from the same moment on as all others.
    counted.lock().unwrap_or_else(PoisonError::into_inner).begins = Instant::now();
    let mut observer = Observer::new(None, Some(cluster.hubs[0].setup.internal));
    let begun = Instant::now();
    let (batches, before) = (observer.sample().await?, usage(cluster).await?);
    tokio::time::sleep(time).await;
    let (more_batches, after) = (observer.sample().await?, usage(cluster).await?);
    let took = begun.elapsed();
    let acks = counted.lock().unwrap_or_else(PoisonError::into_inner).acks.clone();
    let counter = |name: &str| {
        let at = |counters: &BTreeMap<String, f64>| counters.get(name).copied().unwrap_or_default();
        at(&more_batches.counters) - at(&batches.counters)
    };
    let (batches, of_batches) = (counter("batch_messages_count"), counter("batch_messages_sum"));

    shared.end_writing(&mut writers).await?;
    let mut heads = Vec::new();
    for hub in 0..crowd.hubs {
        let auditor = log_in(&urls, hub, "auditor").await?;
        shared.audit().begin_history();
        heads = shared.check_history(&auditor.client).await.context("at the end")?;
    }
    shared.drain(&heads, &mut readers).await;
    let findings = shared.audit().findings();
    let seconds = took.as_secs_f64();
    let cpu = |(name, after): (String, Usage)| {
        let before = before.get(&name).map(|it| it.cpu).unwrap_or_default();
        let percent = after.cpu.saturating_sub(before).as_secs_f64() / seconds * 100.0;
        (name, percent)
    };
    #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
    let messages_per_s = acks.count() as f64 / seconds;
    Ok(Part {
        channels,
        messages_per_s,
        batches_per_s: batches / seconds,
        messages_per_batch: of_batches / batches.max(1.0),
        acks,
        cpu: after.into_iter().map(cpu).collect(),
        violations: findings.violations,
        evidence: findings.evidence,
    })
}

/// Of all processes, and of this one.
async fn usage(cluster: &Cluster) -> Result<BTreeMap<String, Usage>> {
    let mut all: BTreeMap<_, _> = cluster.usage().await?.into_iter().collect();
    all.insert("loadtest".to_owned(), Usage::read(std::process::id())?);
    Ok(all)
}

/// What was measured.
struct Part {
    channels: usize,
    /// Acknowledged, hence durable.
    messages_per_s: f64,
    /// As the first hub has applied them, which all do.
    batches_per_s: f64,
    messages_per_batch: f64,
    acks: Latency,
    /// In percent of a core.
    cpu: BTreeMap<String, f64>,
    violations: u64,
    evidence: Vec<String>,
}

impl Part {
    fn line(&self) -> String {
        format!(
            "{:>3} channels: {:.0} messages/s, {:.0} batches/s of {:.1}, ack p50 {:.2} ms, p99 {:.2} ms",
            self.channels,
            self.messages_per_s,
            self.batches_per_s,
            self.messages_per_batch,
            self.acks.percentile(50.0),
            self.acks.percentile(99.0)
        )
    }

    fn json(&self) -> Value {
        let mut figures = BTreeMap::new();
        self.acks.figures("ack", &mut figures);
        json!({
            "channels": self.channels,
            "messages_per_s": self.messages_per_s,
            "batches_per_s": self.batches_per_s,
            "messages_per_batch": self.messages_per_batch,
            "figures": figures,
            "cpu_percent": self.cpu,
            "violations": self.violations,
            "evidence": self.evidence,
        })
    }

    fn print(&self) {
        println!("{}", self.line());
        let cpu: Vec<_> = self.cpu.iter().map(|(name, it)| format!("{name} {it:.0} %")).collect();
        println!("     CPU      {}", cpu.join(", "));
        for violation in &self.evidence {
            println!("     VIOLATION {violation}");
        }
        let verdict = if self.violations == 0 { "holds" } else { "BROKEN" };
        println!("     audit    {verdict}: {} violations", self.violations);
    }
}
