//! `loadtest cluster`: hubs of our own on an engine of our own, which break in many ways under writers and
//! readers on all hubs (`cycles`), or only work as fast as they can (`throughput`).

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, anyhow};
use hubbub::client::ServerUrl;

mod cycles;
mod fault;
mod meter;
mod throughput;

use fault::Fault;

use crate::{
    Failure, Verdict,
    crash::parse_range,
    server::{
        CHEAP_LOGINS,
        cluster::{Cluster, Options},
    },
    traffic::users::{self, User},
};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {
    /// What is done to it.
    #[arg(long, value_enum, default_value_t = Fault::None)]
    fault: Fault,
    /// How often.
    #[arg(long, default_value_t = 20)]
    cycles: u32,
    /// Only measure how fast it is: one channel, then 64.
    #[arg(long, conflicts_with_all = ["fault", "cycles"])]
    throughput: bool,
    /// How long each of the two is measured.
    #[arg(long, default_value = "15s", value_parser = humantime::parse_duration, requires = "throughput")]
    time: Duration,
    /// Hubs. If not named: 3, and 2 to measure how fast they are.
    #[arg(long)]
    hubs: Option<usize>,
    /// What the hubs keep everything in. With SQLite there is one hub, to compare with.
    #[arg(long, value_enum, default_value_t = Engine::Jetstream)]
    engine: Engine,
    /// Clients that write, spread over the hubs. If not named: 6, and 4 to measure how fast they are.
    #[arg(long)]
    writers: Option<u32>,
    /// Publishes that each writer has under way. If not named: 4, and 32 to measure how fast they are.
    #[arg(long)]
    window: Option<u32>,
    /// Channels: half of the publishes go to the first, which is the hot one.
    #[arg(long, default_value_t = 8, conflicts_with = "throughput")]
    channels: usize,
    /// How long all is well before each fault, in milliseconds: a number, or a range to draw from.
    #[arg(long, default_value = "500..2000", value_name = "MS", value_parser = parse_range)]
    calm_ms: (u64, u64),
    /// How long the fault lasts.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    hold: Duration,
    /// Where the randomness begins. Drawn, and printed, if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// When the engine syncs: before it acknowledges, or as it does by default.
    #[arg(long, value_enum, default_value_t = Sync::Always)]
    sync: Sync,
    /// Succeed when something is lost, and only then: the control of this very test.
    #[arg(long)]
    expect_loss: bool,
    /// The hubs' program, if not the one beside this.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Engine {
    Jetstream,
    Sqlite,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Sync {
    Always,
    Default,
}

/// How many people there are, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Crowd {
    hubs: usize,
    writers: u32,
    window: u32,
}

/// The longest wait of a client before it connects again.
const BACKOFF_MAX: Duration = Duration::from_millis(200);
/// How long a publish is tried. Longer than any fault with what follows from it.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(120);

impl Flags {
    fn crowd(&self) -> Result<Crowd, Failure> {
        let wrong = |what: &str| Err(Failure::configuration(anyhow!(what.to_owned())));
        let is_single = self.engine == Engine::Sqlite;
        let fast = self.throughput;
        let crowd = Crowd {
            hubs: self.hubs.unwrap_or(if is_single {
                1
            } else if fast {
                2
            } else {
                3
            }),
            writers: self.writers.unwrap_or(if fast { 4 } else { 6 }),
            window: self.window.unwrap_or(if fast { 32 } else { 4 }),
        };
        if crowd.hubs == 0 || crowd.window == 0 || self.cycles == 0 || self.channels == 0 {
            return wrong("--hubs, --window, --cycles and --channels must be at least 1");
        }
        if (crowd.writers as usize) < crowd.hubs {
            return wrong("--writers: each hub needs one, to show that it works");
        }
        if is_single && (crowd.hubs != 1 || self.fault.needs_engine()) {
            return wrong("--engine sqlite is one hub, and has nothing that this could be done to");
        }
        if self.expect_loss && self.fault != Fault::PowerCut {
            return wrong("--expect-loss goes with --fault power-cut");
        }
        Ok(crowd)
    }

    fn options(&self, hubs: usize) -> Options {
        let cheap = CHEAP_LOGINS.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Options {
            hubs,
            has_engine: self.engine == Engine::Jetstream,
            sync_always: self.sync == Sync::Always,
            has_disk: self.fault == Fault::PowerCut,
            has_network: self.fault.needs_network(),
            binary: self.binary.clone(),
            environment: cheap.into(),
        }
    }
}

pub(crate) async fn run(flags: Flags, is_json: bool) -> Result<Verdict, Failure> {
    let crowd = flags.crowd()?;
    let seed = flags.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    eprintln!("seed {seed}");
    let cluster = Cluster::start(&flags.options(crowd.hubs)).await?;
    if flags.throughput {
        throughput::run(&flags, crowd, cluster, is_json).await
    } else {
        cycles::run(&flags, crowd, cluster, seed, is_json).await
    }
}

/// Logs a user in at the hub of this number.
async fn log_in(urls: &[ServerUrl], hub: usize, name: &str) -> Result<User> {
    users::log_in(&urls[hub % urls.len()], name, BACKOFF_MAX).await
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser, Debug)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn crowd(line: &str) -> Result<Crowd, String> {
        let line = Line::try_parse_from(["cluster"].into_iter().chain(line.split_whitespace()));
        match line.map_err(|error| error.to_string())?.flags.crowd() {
            Ok(crowd) => Ok(crowd),
            Err(Failure::Configuration(error) | Failure::Aborted(error)) => Err(error.to_string()),
        }
    }

    #[test]
    fn who_is_there_follows_from_what_is_measured() {
        let of = |hubs, writers, window| Ok(Crowd { hubs, writers, window });
        assert_eq!(crowd(""), of(3, 6, 4));
        assert_eq!(crowd("--throughput --time 2s"), of(2, 4, 32));
        assert_eq!(crowd("--engine sqlite --fault kill-hub"), of(1, 6, 4));
        assert_eq!(crowd("--hubs 2 --writers 2 --window 9 --fault cut-hub"), of(2, 2, 9));
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_started() {
        for (line, said) in [
            ("--hubs 0", "at least 1"),
            ("--cycles 0", "at least 1"),
            ("--writers 2", "each hub needs one"),
            ("--engine sqlite --hubs 2", "one hub"),
            ("--engine sqlite --fault cut-leader", "one hub"),
            ("--fault kill-hub --expect-loss", "power-cut"),
            ("--fault kill-hub --throughput", "cannot be used with"),
            ("--fault flood", "possible values"),
            ("--time 2s", "--throughput"),
        ] {
            assert!(crowd(line).is_err_and(|error| error.contains(said)), "{line}");
        }
    }
}
