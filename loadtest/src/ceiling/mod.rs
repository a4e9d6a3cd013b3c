//! What the generator itself can count: its users against a sink that only writes.
//!
//! A run against a real server says something about the server only as long as the generator is not
//! what is slow. So its receive path is measured alone: how many deliveries a second it counts and
//! audits, and how much of a core that takes. The sink has a core of its own, if there are two.

use std::{fmt, thread, time::Duration};

use anyhow::{Context as _, anyhow};
use rustix::{
    process::{Resource, getrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use serde::Serialize;

use self::{
    receive::{Readers, Received},
    sink::{Plan, Sink},
};
use crate::{Failure, Verdict, audit::Findings};

mod connect;
mod receive;
mod sink;

/// Until buffers have their size and sockets their pace.
const WARM_UP: Duration = Duration::from_millis(500);
/// What is waited for the core beyond this is told: the machine is not quiet.
const CORE_WAIT_PERCENT_MAX: f64 = 5.0;
/// Beside the connections: standard streams, polls, and what the runtime has open.
const OTHER_FILES: u64 = 32;

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {
    /// Connections, each of which gets every message.
    #[arg(long, default_value_t = 425, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    users: u32,
    /// Messages in one frame of the sink; one is measured too.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    messages_per_write: u32,
    /// The size of a message's body.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=16_384))]
    body_bytes: u32,
    /// How long each measure takes.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
}

/// What is told.
#[derive(Debug, Serialize)]
struct Ceiling {
    users: u32,
    body_bytes: u32,
    seconds: u64,
    /// If not, its share of the core is missing in the deliveries per second.
    sink_has_its_own_core: bool,
    /// The one that was asked for, then one message in a write.
    measures: Vec<Measure>,
}

/// One pace of the sink.
#[derive(Debug, Serialize)]
struct Measure {
    messages_per_write: u32,
    deliveries: u64,
    /// Whatever was not as it was written.
    violations: u64,
    /// The first of them.
    evidence: Vec<String>,
    deliveries_per_second: f64,
    cpu_ns_per_delivery: f64,
    core_percent: f64,
    /// How long the generator could have run while another program had its core.
    core_wait_percent: f64,
    /// More than the messages in a write if the generator came to its sockets late, because it or
    /// another program filled its core: then a delivery costs less.
    deliveries_per_read: f64,
    /// If the generator's thread had a whole core, and something that fills it.
    deliveries_per_cpu_second: f64,
}

pub(crate) fn run(flags: &Flags, is_json: bool) -> Result<Verdict, Failure> {
    let &Flags { users, messages_per_write, body_bytes, seconds } = flags;
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
        body_bytes,
        seconds,
        sink_has_its_own_core: sink_core.is_some(),
        measures: Vec::new(),
    };
    for messages_per_write in paces {
        let body_bytes = body_bytes as usize;
        let plan = Plan { users, messages_per_write, body_bytes, core: sink_core };
        let (received, findings) = measure(plan, own_core, Duration::from_secs(seconds))?;
        ceiling.measures.push(Measure::new(messages_per_write, &received, findings));
    }
    if is_json {
        println!("{}", serde_json::to_string(&ceiling).map_err(anyhow::Error::from)?);
    } else {
        println!("{ceiling}");
    }
    let is_right = ceiling.measures.iter().all(|it| it.violations == 0);
    Ok(if is_right { Verdict::Holds } else { Verdict::Broken })
}

/// The receive path in a thread of its own, against a sink of its own.
fn measure(
    plan: Plan,
    own_core: Option<usize>,
    run: Duration,
) -> anyhow::Result<(Received, Findings)> {
    let sink = Sink::start(plan)?;
    let receive = || {
        own_core.map_or(Ok(()), run_on).context("the generator has no core")?;
        let mut readers = Readers::connect(sink.address, plan.users, plan.body_bytes)?;
        let received = readers.receive(WARM_UP, run);
        // Now, because the connections are closed next.
        sink.end_soon();
        Ok((received?, readers.findings()))
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
pub(crate) fn allowed_cores() -> anyhow::Result<Vec<usize>> {
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
    fn new(messages_per_write: u32, received: &Received, findings: Findings) -> Self {
        let (wall, cpu) = (received.wall.as_secs_f64(), received.cpu.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
        let (deliveries, reads) = (received.deliveries as f64, received.reads as f64);
        Self {
            messages_per_write,
            deliveries: received.deliveries,
            violations: findings.violations,
            evidence: findings.evidence,
            deliveries_per_second: deliveries / wall,
            cpu_ns_per_delivery: cpu * 1e9 / deliveries,
            core_percent: cpu / wall * 100.0,
            core_wait_percent: received.waited.as_secs_f64() / wall * 100.0,
            deliveries_per_read: deliveries / reads,
            deliveries_per_cpu_second: deliveries / cpu,
        }
    }
}

impl fmt::Display for Ceiling {
    /// For people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { users, body_bytes, seconds, sink_has_its_own_core, measures } = self;
        let cores =
            if *sink_has_its_own_core { "the sink on another core" } else { "one core for both" };
        writeln!(f, "{users} users, bodies of {body_bytes} bytes, {seconds} s each, {cores}")?;
        writeln!(
            f,
            "messages/write  deliveries/s  CPU ns/delivery  % of a core  deliveries/read  \
             deliveries/s of CPU"
        )?;
        for it in measures {
            writeln!(
                f,
                "{:>14}  {:>12.0}  {:>15.0}  {:>11.1}  {:>15.1}  {:>19.0}",
                it.messages_per_write,
                it.deliveries_per_second,
                it.cpu_ns_per_delivery,
                it.core_percent,
                it.deliveries_per_read,
                it.deliveries_per_cpu_second
            )?;
        }
        for it in measures.iter().filter(|it| it.violations > 0) {
            writeln!(f, "{} violations in {} deliveries:", it.violations, it.deliveries)?;
            it.evidence.iter().try_for_each(|sentence| writeln!(f, "  {sentence}"))?;
        }
        for it in measures.iter().filter(|it| it.core_wait_percent > CORE_WAIT_PERCENT_MAX) {
            writeln!(
                f,
                "at {} a write another program had the generator's core for {:.0} % of the time, and \
                 what had waited was read at once, which is cheaper: measure on a quiet machine",
                it.messages_per_write, it.core_wait_percent
            )?;
        }
        let Some(first) = measures.first() else { return Ok(()) };
        let messages = match first.messages_per_write {
            1 => "1 message".to_owned(),
            many => format!("{many} messages"),
        };
        write!(
            f,
            "the generator can count at most {:.0} deliveries/s on one core of this machine, when \
             the server puts {messages} into a write",
            first.deliveries_per_cpu_second
        )
    }
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
        for wrong in [["--users", "9"], ["--messages-per-write", "1001"], ["--seconds", "0"]] {
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
        let plan = Plan { users: 2, messages_per_write: 4, body_bytes: 64, core: None };
        let (received, findings) = measure(plan, None, Duration::from_millis(50)).unwrap();
        let measure = Measure::new(4, &received, findings);
        assert!(measure.deliveries > 0 && measure.violations == 0, "{measure:?}");
        assert!(measure.deliveries_per_cpu_second >= measure.deliveries_per_second, "{measure:?}");
        let ns = 1e9 / measure.deliveries_per_cpu_second;
        assert!((measure.cpu_ns_per_delivery - ns).abs() < 0.01, "{measure:?}");
    }

    #[test]
    fn what_it_means_is_said_last_and_what_is_wrong_with_it_before() {
        let measure = |messages_per_write, violations, waited_ms| {
            let received = Received {
                deliveries: 3_000_000,
                reads: 300_000,
                wall: Duration::from_secs(2),
                cpu: Duration::from_secs(1),
                waited: Duration::from_millis(waited_ms),
            };
            let evidence = vec!["it differs".to_owned(); usize::from(violations > 0)];
            let findings = Findings { violations, evidence, ..Findings::default() };
            Measure::new(messages_per_write, &received, findings)
        };
        let mut ceiling = Ceiling {
            users: 425,
            body_bytes: 64,
            seconds: 2,
            sink_has_its_own_core: true,
            measures: vec![measure(8, 0, 100), measure(1, 0, 0)],
        };
        let told = ceiling.to_string();
        let meaning = "the generator can count at most 3000000 deliveries/s on one core of this \
                       machine, when the server puts 8 messages into a write";
        assert!(told.ends_with(meaning) && !told.contains("violations"), "{told}");
        assert!(!told.contains("another program"), "{told}");
        assert!(
            told.contains(
                "1500000              333         50.0             10.0              3000000"
            ),
            "{told}"
        );

        ceiling.measures = vec![measure(1, 2, 500)];
        let told = ceiling.to_string();
        assert!(told.contains("2 violations in 3000000 deliveries:\n  it differs\n"), "{told}");
        assert!(told.contains("had the generator's core for 25 % of the time"), "{told}");
        assert!(told.ends_with("puts 1 message into a write"), "{told}");
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
