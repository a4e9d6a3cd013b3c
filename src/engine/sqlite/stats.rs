//! What the log's threads count, for the metrics.

use crate::metrics::tally::{Counter, Durations};

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
