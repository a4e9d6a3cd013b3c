//! Rows that all nodes of a cluster share: the seam between the account store of a node, which keeps a
//! copy of them, and what holds them.
//!
//! There is one history of commits, each with a number, the position behind it. A commit names the
//! position that it follows, so of two that follow the same one the first is taken and the second
//! is told that it came too late. Of each row only the last version is kept.
//!
//! Called by threads that may wait, and never by one that drives what it waits for. Every call ends at
//! its deadline.

use std::{fmt, time::Instant};

use bytes::Bytes;
use thiserror::Error;

pub mod memory;

/// The rows of one cluster.
pub trait Rows: fmt::Debug + Send + Sync + 'static {
    /// Rows that were written after this position, each in a version that was its last when it was
    /// read, the oldest first. Whoever asks on until [`Page::is_end`] has all that was committed
    /// before the last call, and nothing that was not.
    ///
    /// # Errors
    /// When nobody answers in time, or the answer is no row.
    fn read_after(&self, position: u64, deadline: Instant) -> Result<Page, RowsError>;

    /// Writes all of these rows if nothing was committed after this position, or none. The position
    /// behind them.
    ///
    /// # Errors
    /// When something was, or the outcome is not known, or there is none.
    fn commit(&self, rows: Vec<Row>, after: u64, deadline: Instant) -> Result<u64, CommitError>;
}

/// One row in one version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Its table: letters and `_`.
    pub table: String,
    /// Which of the table.
    pub key: String,
    /// What it holds. Opaque here.
    pub value: Bytes,
    /// Whether this is only the news that the row is gone. Forgotten some time after
    /// [`crate::limits::REMOVED_ROWS_KEPT`].
    pub is_passing: bool,
}

/// Rows in the order in which they were written.
#[derive(Clone, Debug)]
pub struct Page {
    /// Which history they are of. Another one has nothing to do with it, whatever its positions.
    pub history: String,
    /// The rows.
    pub rows: Vec<Row>,
    /// The position up to which they are all.
    pub position: u64,
    /// Whether there was nothing behind it at this moment.
    pub is_end: bool,
    /// The position behind all that is committed.
    pub end: u64,
}

/// Why there are no rows.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RowsError {
    /// Nobody answers in time.
    #[error("the cluster's store of accounts does not answer")]
    Unavailable,
    /// It refuses, or answers what is no row.
    #[error("the cluster's store of accounts cannot be used: {0}")]
    Refused(String),
}

/// Why rows were not committed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CommitError {
    /// Something was committed after the position. Certainly not committed.
    #[error("another commit came first")]
    Moved,
    /// They may be committed, or may come to be until something else is.
    #[error("no acknowledgement in time")]
    Unknown,
    /// Certainly not committed.
    #[error(transparent)]
    Not(#[from] RowsError),
}
