//! What a process has used of CPU and memory, as `/proc` tells it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

/// What a process has used up to a moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// User and system time of the whole process, in the kernel's ticks of some 10 ms.
    pub(crate) cpu: Duration,
    /// The same of its living threads, by name; those of one name are added up. To the nanosecond
    /// where the kernel keeps it.
    pub(crate) threads: BTreeMap<String, Duration>,
    pub(crate) resident_bytes: u64,
}

impl Usage {
    /// Reads the process of this id.
    pub(crate) fn read(pid: u32) -> Result<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let stat = fs::read_to_string(folder.join("stat")).context("the process is gone")?;
        let (_, cpu) = parse(&stat).context("/proc/PID/stat is not understood")?;
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(folder.join("task"))? {
            // A thread that has just ended is not there to be read.
            if let Some((name, cpu)) = read_thread(&task?.path()) {
                *threads.entry(name).or_default() += cpu;
            }
        }
        let statm = fs::read_to_string(folder.join("statm"))?;
        let pages = statm.split(' ').nth(1).and_then(|it| it.parse::<u64>().ok());
        let resident_bytes = pages.unwrap_or(0) * rustix::param::page_size() as u64;
        Ok(Self { cpu, threads, resident_bytes })
    }
}

/// How often the kernel has switched away from the living threads of a process: because they
/// waited, and because others had their turn.
pub(crate) fn context_switches(pid: u32) -> Result<u64> {
    let mut switches = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("the process is gone")? {
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
        switches += parse_switches(&status);
    }
    Ok(switches)
}

/// The most memory that a process has had resident since it began.
pub(crate) fn peak_bytes(pid: u32) -> Result<u64> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    parse_peak(&status).context("/proc/PID/status has no VmHWM")
}

/// The name and the CPU time of a thread.
fn read_thread(folder: &Path) -> Option<(String, Duration)> {
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let (name, cpu) = parse(&stat)?;
    let exact = fs::read_to_string(folder.join("schedstat")).ok();
    let exact = exact.as_deref().and_then(parse_schedstat);
    Some((name.to_owned(), exact.unwrap_or(cpu)))
}

/// The name and the user and system time of a `stat` line.
fn parse(stat: &str) -> Option<(&str, Duration)> {
    // The name may hold anything, so its end is the last parenthesis.
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let mut fields = after.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    let per_second = rustix::param::clock_ticks_per_second();
    Some((name, Duration::from_millis(ticks * 1_000 / per_second)))
}

/// The time on a CPU of a `schedstat` line, which is zero on kernels that do not keep it.
fn parse_schedstat(schedstat: &str) -> Option<Duration> {
    let nanoseconds = schedstat.split_ascii_whitespace().next()?.parse().ok()?;
    (nanoseconds > 0).then_some(Duration::from_nanos(nanoseconds))
}

/// The switches of both kinds in a thread's `status`.
fn parse_switches(status: &str) -> u64 {
    let switches = |line: &str| {
        let (key, count) = line.split_once(':')?;
        key.ends_with("voluntary_ctxt_switches").then_some(())?;
        count.trim().parse::<u64>().ok()
    };
    status.lines().filter_map(switches).sum()
}

fn parse_peak(status: &str) -> Option<u64> {
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = peak.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_of_memory_is_told_in_bytes_and_not_below_what_is_resident() {
        assert_eq!(
            parse_peak("VmPeak:\t 9 kB\nVmHWM:\t   1234 kB\nVmRSS: 1 kB\n"),
            Some(1_263_616)
        );
        assert_eq!(parse_peak("VmHWM:\t   1234 MB\n"), None);
        let pid = std::process::id();
        let resident = Usage::read(pid).unwrap().resident_bytes;
        // The kernel counts the pages of each core in batches.
        assert!(peak_bytes(pid).unwrap() + 4 * 1024 * 1024 > resident);
    }

    #[test]
    fn a_stat_line_gives_name_and_time_whatever_the_name() {
        let line = "42 (a) b) S 1 42 42 0 -1 4194304 1 0 0 0 150 50 0 0 20 0 5 0 9 1 1";
        let per_second = rustix::param::clock_ticks_per_second();
        let time = Duration::from_millis(200 * 1_000 / per_second);
        assert_eq!(parse(line), Some(("a) b", time)));
        assert_eq!(parse("42"), None);
    }

    #[test]
    fn a_schedstat_line_gives_nanoseconds_unless_nobody_counts_them() {
        assert_eq!(parse_schedstat("1234567 89 10\n"), Some(Duration::from_nanos(1_234_567)));
        assert_eq!(parse_schedstat("0 0 0\n"), None);
        assert_eq!(parse_schedstat(""), None);
    }

    #[test]
    fn switches_of_both_kinds_are_added_up() {
        let status = "Name:\thub\nThreads:\t9\nvoluntary_ctxt_switches:\t12\n\
                      nonvoluntary_ctxt_switches:\t30\n";
        assert_eq!(parse_switches(status), 42);
        assert_eq!(parse_switches("Name:\thub\n"), 0);
    }

    #[test]
    fn our_own_usage_can_be_read_and_grows() {
        let before = Usage::read(std::process::id()).unwrap();
        assert!(before.resident_bytes > 0);
        let switches = context_switches(std::process::id()).unwrap();
        let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
        let started = std::time::Instant::now();
        loop {
            let now = Usage::read(std::process::id()).unwrap();
            let enough = Duration::from_millis(20);
            let of = |usage: &Usage| usage.threads.get(name.trim_end()).copied();
            let thread = of(&now).unwrap_or_default() - of(&before).unwrap_or_default();
            if now.cpu - before.cpu >= enough && thread >= enough {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "{now:?} after {before:?}");
            std::thread::yield_now();
        }
        assert!(switches > 0 && context_switches(std::process::id()).unwrap() > 0);
    }
}
