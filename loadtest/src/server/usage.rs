//! What a process has used of CPU and memory, as `/proc` tells it.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};

/// What a process has used up to a moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// User and system time of the whole process.
    pub(crate) cpu: Duration,
    /// The same of its living threads, by name; those of one name are added up.
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
            let Ok(stat) = fs::read_to_string(task?.path().join("stat")) else { continue };
            if let Some((name, cpu)) = parse(&stat) {
                *threads.entry(name.to_owned()).or_default() += cpu;
            }
        }
        let statm = fs::read_to_string(folder.join("statm"))?;
        let pages = statm.split(' ').nth(1).and_then(|it| it.parse::<u64>().ok());
        let resident_bytes = pages.unwrap_or(0) * rustix::param::page_size() as u64;
        Ok(Self { cpu, threads, resident_bytes })
    }

    /// The CPU time since an earlier moment.
    pub(crate) fn cpu_since(&self, earlier: &Self) -> Duration {
        self.cpu.saturating_sub(earlier.cpu)
    }

    /// The same of the threads of one name.
    pub(crate) fn thread_since(&self, earlier: &Self, name: &str) -> Duration {
        let of = |usage: &Self| usage.threads.get(name).copied().unwrap_or_default();
        of(self).saturating_sub(of(earlier))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_gives_name_and_time_whatever_the_name() {
        let line = "42 (a) b) S 1 42 42 0 -1 4194304 1 0 0 0 150 50 0 0 20 0 5 0 9 1 1";
        let per_second = rustix::param::clock_ticks_per_second();
        let time = Duration::from_millis(200 * 1_000 / per_second);
        assert_eq!(parse(line), Some(("a) b", time)));
        assert_eq!(parse("42"), None);
    }

    #[test]
    fn our_own_usage_can_be_read_and_grows() {
        let before = Usage::read(std::process::id()).unwrap();
        assert!(before.resident_bytes > 0);
        let started = std::time::Instant::now();
        let used = || Usage::read(std::process::id()).unwrap().cpu_since(&before);
        while used() < Duration::from_millis(20) {
            assert!(started.elapsed() < Duration::from_secs(20), "{:?}", used());
        }
    }
}
