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
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    Failure, Verdict,
    latency::Latency,
    server::disk::Disk,
    server::{self, Server, Setup},
    traffic::{self, Shared, users},
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
/// Of the disk that loses its power.
const DISK_BYTES: u64 = 1024 * 1024 * 1024;
/// Milliseconds, or a range of them.
pub(crate) fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err("expected milliseconds such as `100`, or a range such as `20..300`".to_owned()),
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
        let disk = if flags.power_cut { Some(Disk::make(folder, DISK_BYTES)?) } else { None };
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
    let channels = CHANNELS.map(str::to_owned).into();
    let shared = Shared::make(channels, &auditor.client, PUBLISH_TIMEOUT).await?;
    let mut readers = JoinSet::new();
    for reader in 0..READERS {
        let name = format!("reader-{reader}");
        let user = log_in(name.clone()).await?;
        shared.follow(&user, &name, &mut readers).await?;
    }
    let mut writers = JoinSet::new();
    for writer in 0..flags.writers {
        let user = log_in(format!("writer-{writer}")).await?;
        for slot in 0..flags.window {
            let author = u64::from(writer * flags.window + slot);
            let channel_of = move |n| usize::try_from((author + n) % 2).unwrap_or_default();
            let shared = Arc::clone(&shared);
            writers.spawn(traffic::write(shared, user.clone(), author, channel_of, |_, _| {}));
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
        shared.check_history(&auditor.client).await?;
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

    shared.end_writing(&mut writers).await?;
    // The whole history once more, now that nothing moves.
    shared.audit().begin_history();
    let heads = shared.check_history(&auditor.client).await?;
    shared.drain(&heads, &mut readers).await;
    let audit = shared.audit();
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
}
