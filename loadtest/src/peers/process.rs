//! What the processes and the cores have used, to better than the kernel's tick.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::server::usage::Usage;

/// By how much the kernel's count of a process, in ticks of user and of system time, may be ahead of
/// the exact one of its threads by rounding alone.
const ROUNDING: Duration = Duration::from_millis(40);

/// A moment's view of a server, of the generator, and of the cores.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    at: Instant,
    server: Usage,
    generator: Usage,
    /// Time in which the cores had nothing to run, added up.
    free: Duration,
}

/// Between two views, in seconds.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Spent {
    pub(crate) wall_s: f64,
    /// Of all threads of the server, also of those that have ended.
    pub(crate) server_s: f64,
    /// Of the server's threads, by name.
    pub(crate) threads_s: BTreeMap<String, f64>,
    /// Of this whole process.
    pub(crate) generator_s: f64,
    /// Of both cores by anybody else, among them the machine below, where this one is virtual.
    pub(crate) foreign_s: f64,
}

impl Probe {
    pub(crate) fn take(server_pid: u32, cores: &[usize]) -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("/proc/stat cannot be read")?;
        Ok(Self {
            at: Instant::now(),
            server: Usage::read(server_pid)?,
            generator: Usage::read(std::process::id())?,
            free: free(&stat, cores),
        })
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        self.server.resident_bytes
    }

    /// From this one to a later one, on so many cores.
    pub(crate) fn until(&self, later: &Self, cores: usize) -> Spent {
        let wall_s = (later.at - self.at).as_secs_f64();
        let server_s = between(&self.server, &later.server).as_secs_f64();
        let thread = |(name, after): (&String, &Duration)| {
            let before = self.server.threads.get(name).copied().unwrap_or_default();
            (name.clone(), after.saturating_sub(before).as_secs_f64())
        };
        let threads_s = later.server.threads.iter().map(thread).collect();
        let generator_s = between(&self.generator, &later.generator).as_secs_f64();
        let free_s = later.free.saturating_sub(self.free).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "cores are few")]
        let all_s = wall_s * cores as f64;
        let foreign_s = (all_s - free_s - server_s - generator_s).max(0.0);
        Spent { wall_s, server_s, threads_s, generator_s, foreign_s }
    }
}

/// The exact count knows the threads that are there. A thread that has ended is missing in it, which
/// the coarse count shows if it was worth anything.
fn between(before: &Usage, after: &Usage) -> Duration {
    let exact = |usage: &Usage| usage.threads.values().sum::<Duration>();
    let coarse = after.cpu.saturating_sub(before.cpu).saturating_sub(ROUNDING);
    exact(after).saturating_sub(exact(before)).max(coarse)
}

/// Time of these cores, added up, in which they had nothing to run, from `/proc/stat`.
fn free(stat: &str, cores: &[usize]) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second();
    let of_core = |line: &str| {
        let (name, times) = line.split_once(' ')?;
        let core = name.strip_prefix("cpu")?.parse().ok()?;
        cores.contains(&core).then_some(())?;
        // User, nice, system, idle, iowait, …
        let ticks = times.split_ascii_whitespace().skip(3).take(2);
        ticks.map(|it| it.parse::<u64>().ok()).sum::<Option<u64>>()
    };
    let ticks: u64 = stat.lines().filter_map(of_core).sum();
    Duration::from_millis(ticks * 1_000 / per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(cpu_ms: u64, threads: &[(&str, u64)]) -> Usage {
        let threads = threads.iter();
        Usage {
            cpu: Duration::from_millis(cpu_ms),
            threads: threads.map(|it| (it.0.to_owned(), Duration::from_millis(it.1))).collect(),
            resident_bytes: 0,
        }
    }

    #[test]
    fn the_threads_count_exactly_and_those_that_ended_coarsely() {
        let before = usage(100, &[("a", 55), ("b", 45)]);
        let exact = between(&before, &usage(200, &[("a", 153), ("b", 48)]));
        assert_eq!(exact, Duration::from_millis(101));
        let with_ended = between(&before, &usage(400, &[("a", 155)]));
        assert_eq!(with_ended, Duration::from_millis(260));
    }

    #[test]
    fn idle_and_waiting_time_of_the_named_cores_is_free() {
        let stat =
            "cpu  9 9 9 9 9\ncpu0 1 2 3 40 5 6\ncpu1 1 2 3 400 50 6\ncpu10 0 0 0 1 1\nintr 4\n";
        let second = rustix::param::clock_ticks_per_second();
        assert_eq!(free(stat, &[0, 1]), Duration::from_millis(495 * 1_000 / second));
        assert_eq!(free(stat, &[1]), Duration::from_millis(450 * 1_000 / second));
    }

    #[test]
    fn what_neither_server_nor_generator_used_is_foreign() {
        let at = Instant::now();
        let probe = |at, server, generator, free_ms| Probe {
            at,
            server: usage(0, &[("a", server)]),
            generator: usage(0, &[("a", generator)]),
            free: Duration::from_millis(free_ms),
        };
        let later = probe(at + Duration::from_secs(1), 500, 300, 1_100);
        let spent = probe(at, 0, 0, 0).until(&later, 2);
        assert!((spent.foreign_s - 0.1).abs() < 1e-9, "{spent:?}");
        assert_eq!(spent.threads_s, [("a".to_owned(), 0.5)].into());
        assert!((spent.server_s - 0.5).abs() < 1e-9 && (spent.wall_s - 1.0).abs() < 1e-9);
    }
}
