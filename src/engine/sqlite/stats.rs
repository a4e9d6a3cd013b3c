//! What the log's threads count, for the metrics: relaxed atomics, read while they run.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Where it stands.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The upper bounds of [`Durations::buckets`], in microseconds; the last bucket has none.
pub const BUCKET_BOUNDS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 5_000_000,
];

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Durations {
    buckets: [Counter; BUCKET_BOUNDS_US.len() + 1],
    sum_us: Counter,
}

impl Durations {
    pub(super) fn record(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[BUCKET_BOUNDS_US.partition_point(|bound| *bound < us)].add(1);
        self.sum_us.add(us);
    }

    /// How many durations fell into each bucket; not cumulative.
    #[must_use]
    pub fn buckets(&self) -> [u64; BUCKET_BOUNDS_US.len() + 1] {
        std::array::from_fn(|at| self.buckets[at].get())
    }

    /// The sum of all, in microseconds.
    #[must_use]
    pub fn sum_us(&self) -> u64 {
        self.sum_us.get()
    }
}

/// What the log's threads have done since the start.
#[derive(Debug, Default)]
pub struct Stats {
    /// Transactions committed: each that has written is one sync of the disk.
    pub commits: Counter,
    /// Batches in them.
    pub batches: Counter,
    /// Messages in these.
    pub messages: Counter,
    /// Bytes of these batches.
    pub bytes: Counter,
    /// From the start of a transaction to the end of its commit.
    pub commit_time: Durations,
    /// Transactions that failed, with everything that was in them.
    pub commits_failed: Counter,
    /// Checkpoints of the write-ahead log.
    pub checkpoints: Counter,
    /// How long they took.
    pub checkpoint_time: Durations,
    /// Reads answered, of log and records.
    pub reads: Counter,
    /// Reads that the storage failed.
    pub reads_failed: Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let durations = Durations::default();
        for us in [0, 100, 101, 5_000_000, 5_000_001] {
            durations.record(Duration::from_micros(us));
        }
        let buckets = durations.buckets();
        assert_eq!((buckets[0], buckets[1], buckets[13], buckets[14]), (2, 1, 1, 1));
        assert_eq!(durations.sum_us(), 10_000_202);
    }
}
