//! What the generator itself can count: its users against a sink that only writes.
//!
//! A run against a real server says something about the server only as long as the generator is not
//! what is slow. So its receive path is measured alone: how many deliveries a second it counts and
//! audits, and how much of a core that takes. The sink has a core of its own, if there are two.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use rustix::{
    process::{Resource, getrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use serde::Serialize;

use self::{
    receive::{Received, Receiver},
    sink::{Plan, Sink},
};
use crate::{Failure, Verdict};

mod connect;
mod receive;
mod sink;

/// Until buffers have their size and sockets their pace.
const WARM_UP: Duration = Duration::from_millis(500);
/// Beside the connections: standard streams, polls, and what the runtime has open.
const OTHER_FILES: u64 = 32;

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {
    /// Connections, each of which gets every message.
    #[arg(long, default_value_t = 425, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    users: u32,
    /// Messages in one frame of the sink; one is measured too.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    messages_per_write: u32,
    /// How long each measure takes.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

/// What is told.
#[derive(Debug, Serialize)]
struct Ceiling {
    users: u32,
    seconds: u64,
    /// If not, its share of the core is missing in the deliveries per second.
    sink_has_its_own_core: bool,
    measures: Vec<Measure>,
}

/// One pace of the sink.
#[derive(Debug, Serialize)]
struct Measure {
    messages_per_write: u32,
    deliveries: u64,
    /// Not what was written, or not in this order.
    wrong: u64,
    deliveries_per_second: f64,
    cpu_ns_per_delivery: f64,
    core_percent: f64,
    /// If the generator's thread had a whole core, and something that fills it.
    deliveries_per_core_second: f64,
}

pub(crate) fn run(flags: &Flags, is_json: bool) -> Result<Verdict, Failure> {
    let &Flags { users, messages_per_write, seconds } = flags;
    check_files(users)?;
    let cores = allowed_cores()?;
    // With one core only they share it, as they do without being told.
    let (sink_core, own_core) = match *cores {
        [first, .., last] => (Some(first), Some(last)),
        _ => (None, None),
    };
    let mut paces = vec![messages_per_write, 1];
    paces.dedup();
    let mut ceiling = Ceiling {
        users,
        seconds,
        sink_has_its_own_core: sink_core.is_some(),
        measures: Vec::new(),
    };
    for messages_per_write in paces {
        let plan = Plan { users, messages_per_write, origin: Instant::now(), core: sink_core };
        let received = measure(plan, own_core, Duration::from_secs(seconds))?;
        ceiling.measures.push(Measure::new(messages_per_write, &received));
    }
    print(&ceiling, is_json)?;
    let is_right = ceiling.measures.iter().all(|it| it.wrong == 0);
    Ok(if is_right { Verdict::Holds } else { Verdict::Broken })
}

/// The receive path in a thread of its own, against a sink of its own.
fn measure(plan: Plan, own_core: Option<usize>, run: Duration) -> anyhow::Result<Received> {
    let sink = Sink::start(plan)?;
    let receive = || {
        own_core.map_or(Ok(()), run_on).context("the generator has no core")?;
        let mut receiver = Receiver::connect(sink.address, plan.users, plan.origin)?;
        let received = receiver.receive(WARM_UP, run);
        // Now, because the connections are closed next.
        sink.end_soon();
        received
    };
    let received = thread::scope(|scope| scope.spawn(receive).join())
        .unwrap_or_else(|_| Err(anyhow!("the generator panicked")));
    // What went wrong at the sink is often why something went wrong here.
    match (received, sink.join()) {
        (Ok(received), Ok(())) => Ok(received),
        (Ok(_), Err(at_sink)) => Err(at_sink),
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(at_sink)) => Err(error.context(format!("{at_sink:#}"))),
    }
}

/// Every user has two ends, and both are here.
fn check_files(users: u32) -> Result<(), Failure> {
    let needed = 2 * u64::from(users) + OTHER_FILES;
    match getrlimit(Resource::Nofile).current {
        Some(files) if files < needed => Err(Failure::configuration(anyhow!(
            "{users} users need {needed} open files, and {files} are allowed: `ulimit -n {needed}`"
        ))),
        _ => Ok(()),
    }
}

/// The cores that this process may use, ascending.
fn allowed_cores() -> anyhow::Result<Vec<usize>> {
    let allowed = sched_getaffinity(None).context("the allowed cores cannot be read")?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect())
}

/// Keeps the calling thread on this core.
fn run_on(core: usize) -> anyhow::Result<()> {
    let mut only = CpuSet::new();
    only.set(core);
    Ok(sched_setaffinity(None, &only)?)
}

impl Measure {
    fn new(messages_per_write: u32, received: &Received) -> Self {
        let (wall, cpu) = (received.wall.as_secs_f64(), received.cpu.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
        let deliveries = received.tally.deliveries as f64;
        Self {
            messages_per_write,
            deliveries: received.tally.deliveries,
            wrong: received.tally.wrong,
            deliveries_per_second: deliveries / wall,
            cpu_ns_per_delivery: cpu * 1e9 / deliveries,
            core_percent: cpu / wall * 100.0,
            deliveries_per_core_second: deliveries / cpu,
        }
    }
}

fn print(ceiling: &Ceiling, is_json: bool) -> anyhow::Result<()> {
    if is_json {
        println!("{}", serde_json::to_string(ceiling)?);
        return Ok(());
    }
    let Ceiling { users, seconds, sink_has_its_own_core, measures } = ceiling;
    let beside =
        if *sink_has_its_own_core { "the sink on another core" } else { "one core for both" };
    println!("{users} users, {seconds} s each, {beside}");
    println!("messages/write  deliveries/s  CPU ns/delivery  % of a core  deliveries/core second");
    for it in measures {
        println!(
            "{:>14}  {:>12.0}  {:>15.0}  {:>11.1}  {:>22.0}",
            it.messages_per_write,
            it.deliveries_per_second,
            it.cpu_ns_per_delivery,
            it.core_percent,
            it.deliveries_per_core_second
        );
    }
    for it in measures.iter().filter(|it| it.wrong > 0) {
        println!("{} of {} deliveries were wrong", it.wrong, it.deliveries);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(arguments: &[&str]) -> Result<Flags, clap::Error> {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            flags: Flags,
        }
        let only: Only = clap::Parser::try_parse_from([&["ceiling"], arguments].concat())?;
        Ok(only.flags)
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        for wrong in [["--users", "0"], ["--messages-per-write", "1001"], ["--seconds", "0"]] {
            assert!(flags(&wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(flags(&[]).unwrap().users, 425);
    }

    #[test]
    fn more_users_than_files_are_a_wrong_configuration() {
        assert!(check_files(1).is_ok());
        if getrlimit(Resource::Nofile).current.is_some_and(|it| it < 2 * u64::from(u32::MAX)) {
            assert!(matches!(check_files(u32::MAX), Err(Failure::Configuration(_))));
        }
    }

    #[test]
    fn a_measure_relates_deliveries_to_time() {
        let plan = Plan { users: 2, messages_per_write: 4, origin: Instant::now(), core: None };
        let received = measure(plan, None, Duration::from_millis(50)).unwrap();
        let measure = Measure::new(4, &received);
        assert!(measure.deliveries > 0 && measure.wrong == 0, "{measure:?}");
        assert!(measure.deliveries_per_core_second >= measure.deliveries_per_second, "{measure:?}");
        let ns = 1e9 / measure.deliveries_per_core_second;
        assert!((measure.cpu_ns_per_delivery - ns).abs() < 0.01, "{measure:?}");
    }

    #[test]
    fn a_thread_keeps_to_its_core() {
        let last = *allowed_cores().unwrap().last().unwrap();
        thread::spawn(move || {
            run_on(last).unwrap();
            assert_eq!(allowed_cores().unwrap(), [last]);
        })
        .join()
        .unwrap();
    }
}
