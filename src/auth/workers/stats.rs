//! What the auth workers count, for the metrics: relaxed atomics, read while they run.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::Class;

/// A number that grows, or one that also falls.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn subtract(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    pub(super) fn set(&self, n: usize) {
        self.0.store(n as u64, Ordering::Relaxed);
    }

    /// Where it stands.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number for each class.
#[derive(Debug, Default)]
pub struct ByClass {
    known: Number,
    stranger: Number,
}

impl ByClass {
    /// That of the class.
    #[must_use]
    pub fn of(&self, class: Class) -> &Number {
        match class {
            Class::Known => &self.known,
            Class::Stranger => &self.stranger,
        }
    }
}

/// The upper bounds of [`Durations::buckets`], in microseconds; the last bucket has none.
pub const BUCKET_BOUNDS_US: [u64; 12] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_000_000,
    5_000_000,
];

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Durations {
    buckets: [Number; BUCKET_BOUNDS_US.len() + 1],
    sum_us: Number,
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

/// What the auth workers have done since the start, and how they stand.
#[derive(Debug, Default)]
pub struct Stats {
    /// New passwords hashed.
    pub hashed: ByClass,
    /// Passwords compared with a stored hash, or with nobody's.
    pub verified: ByClass,
    /// Passwords hashed again because their stored hash had another cost.
    pub rehashed: Number,
    /// Work refused because there was no room for it, or known work came in its place.
    pub refused: ByClass,
    /// Work dropped unhashed because it waited too long or its client was gone.
    pub expired: ByClass,
    /// Work that could not be done: a stored hash was malformed, or beyond our ceiling.
    pub failed: ByClass,
    /// Work that waits now.
    pub waiting: ByClass,
    /// Threads now.
    pub workers: Number,
    /// Bytes that they hold now for hashing.
    pub memory_bytes: Number,
    /// How long the hashes took, each on its thread, without the wait.
    pub hash_time: Durations,
    /// How long work that was hashed waited for it.
    pub wait_time: Durations,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let durations = Durations::default();
        for us in [0, 1_000, 1_001, 5_000_000, 5_000_001] {
            durations.record(Duration::from_micros(us));
        }
        let buckets = durations.buckets();
        assert_eq!((buckets[0], buckets[1], buckets[11], buckets[12]), (2, 1, 1, 1));
        assert_eq!(durations.sum_us(), 10_002_002);
    }
}
