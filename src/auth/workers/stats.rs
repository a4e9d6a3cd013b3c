//! What the auth workers count, for the metrics.

use super::Class;
use crate::metrics::tally::{Counter, Durations, Gauge};

/// A number for each class.
#[derive(Debug, Default)]
pub struct ByClass<T> {
    known: T,
    stranger: T,
}

impl<T> ByClass<T> {
    /// That of the class.
    #[must_use]
    pub const fn of(&self, class: Class) -> &T {
        match class {
            Class::Known => &self.known,
            Class::Stranger => &self.stranger,
        }
    }
}

/// What the auth workers have done since the start, and how they stand.
#[derive(Debug, Default)]
pub struct Stats {
    /// New passwords hashed.
    pub hashed: ByClass<Counter>,
    /// Passwords compared with a stored hash, or with nobody's.
    pub verified: ByClass<Counter>,
    /// Passwords hashed again because their stored hash had another cost.
    pub rehashed: Counter,
    /// Work refused because there was no room for it, or known work came in its place.
    pub refused: ByClass<Counter>,
    /// Work dropped unhashed because it waited too long or its client was gone.
    pub expired: ByClass<Counter>,
    /// Work that could not be done: a stored hash was malformed, or beyond our ceiling.
    pub failed: ByClass<Counter>,
    /// Work that waits now.
    pub waiting: ByClass<Gauge>,
    /// Threads now.
    pub workers: Gauge,
    /// Bytes that they hold now for hashing.
    pub memory_bytes: Gauge,
    /// How long the hashes took, each on its thread, without the wait.
    pub hash_time: Durations,
    /// How long work that was hashed waited for it.
    pub wait_time: Durations,
}
