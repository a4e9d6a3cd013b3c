//! Stage 5: batch → committed batch. The seam between one node and many.
//!
//! An engine commits batches, hands them back to readers, and carries them between nodes. It does
//! not know what is in them: numbering, batching, rights and fan-out stay above it and are tested
//! once, against [`memory`], which drops, delays, forks and answers `Unknown` on demand.
//!
//! What every engine promises:
//! - `append` answers `Ok` only when the batch is durable and visible to `read`. Per channel it is
//!   linearizable, and the cursor it expects is compared and set in one step.
//! - An outcome that the engine cannot tell is [`AppendError::Unknown`], never a guess.
//! - A read never blocks an append.
//! - Bytes that do not check are an error, never an answer.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::mpsc;

use crate::log::{
    batch::{Batch, BatchError, Entry},
    place::{ChannelId, ClientMessageId, Cursor, Durability, Sequence, UserId},
};

pub mod memory;
pub mod sqlite;

#[cfg(test)]
mod tests;

/// Commits batches and keeps records. Cheap to share: one engine serves the whole process.
pub trait Engine: Send + Sync + 'static {
    /// Appends one batch. At most one call per channel may be in flight; across channels the engine
    /// gathers what waits and syncs once.
    fn append(
        &self,
        append: Append,
    ) -> impl Future<Output = Result<Cursor, AppendError>> + Send + 'static;

    /// Reads entries of a channel, oldest first: as many whole entries as fit `bytes_max`, in the
    /// bytes of [`Batch::encode`], and at least one if there is one.
    fn read(
        &self,
        channel: ChannelId,
        from: ReadFrom,
        bytes_max: usize,
    ) -> impl Future<Output = Result<Vec<Entry>, ReadError>> + Send + 'static;

    /// Drops entries that lie wholly below `sequence`, and never the last one: retention only. The
    /// keys of what is dropped are free again.
    fn trim(
        &self,
        channel: ChannelId,
        sequence: Sequence,
    ) -> impl Future<Output = Result<(), RecordError>> + Send + 'static;

    /// What other nodes commit from now on. At most once, in order per channel, gaps possible:
    /// compare [`Entry::after`]. On a single node nothing ever comes.
    fn follow(&self) -> mpsc::Receiver<Feed>;

    /// Reads one record.
    fn get(
        &self,
        table: Table,
        key: &str,
    ) -> impl Future<Output = Result<Option<Versioned>, RecordError>> + Send + 'static;

    /// Writes one record if it is as expected, and answers its new revision.
    fn put(
        &self,
        table: Table,
        key: &str,
        value: Bytes,
        expect: Expect,
    ) -> impl Future<Output = Result<Revision, RecordError>> + Send + 'static;

    /// Lists up to `count_max` records whose key begins with `prefix`, by key, after the key `after`.
    fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
    ) -> impl Future<Output = Result<Vec<(String, Versioned)>, RecordError>> + Send + 'static;

    /// What an acknowledgement of this engine means, and what its log may hold.
    fn caps(&self) -> Caps;
}

/// One append: a batch, where it must go, and the publishes that it must not repeat.
#[derive(Clone, Debug)]
pub struct Append {
    /// The channel.
    pub channel: ChannelId,
    /// The entry that must be the channel's last for the append to happen.
    pub after: Cursor,
    /// The batch.
    pub batch: Arc<Batch>,
    /// The keys of the batch's records that have one, each at most once. If any of them is taken in
    /// this channel, nothing is appended.
    pub keys: Vec<MessageKey>,
}

/// The durable unique key of one publish, and what it stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MessageKey {
    /// Who published.
    pub user: UserId,
    /// The client's number for it.
    pub client_message_id: ClientMessageId,
    /// The sequence it has.
    pub sequence: Sequence,
    /// A digest of its content, to tell a retry from another message under the same number.
    pub digest: u64,
}

/// Why an append did not answer `Ok`.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum AppendError {
    /// The channel's last entry is another one: certainly not committed. Read on and try again.
    #[error("another batch came first")]
    Moved,
    /// Some of the keys are taken: certainly not committed. These are the stored keys.
    #[error("{} of the messages are stored already", .0.len())]
    Duplicates(Vec<MessageKey>),
    /// May or may not be committed: read on and look for the batch.
    #[error("the outcome of the append is unknown")]
    Unknown,
    /// Certainly not committed, and the same append will not pass now.
    #[error("the engine refused the append: {0}")]
    Refused(Refusal),
}

/// Why an engine refuses to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Refusal {
    /// Too much is waiting; a later attempt may pass.
    #[error("too many appends wait")]
    Busy,
    /// The disk is full, read-only or failing.
    #[error("the storage takes no writes")]
    StorageUnavailable,
    /// The batch is larger than the engine takes.
    #[error("the batch is too large")]
    TooLarge,
}

/// Where a read begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadFrom {
    /// With the entry after this cursor.
    After(Cursor),
    /// With the entry that holds this sequence, or the first one there is if it was trimmed. Empty
    /// when the log ends before it.
    Holding(Sequence),
    /// So that the read ends with the entry that holds this sequence (or the last entry before it).
    EndingWith(Sequence),
    /// So that the read ends with the last entry.
    Tail,
}

/// Why a read failed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ReadError {
    /// Too many reads wait.
    #[error("too many reads wait")]
    Busy,
    /// The storage cannot be read.
    #[error("the storage cannot be read")]
    StorageUnavailable,
    /// What is stored is not what was written. It is not served.
    #[error("entry {cursor:?} of the log is damaged")]
    Damaged {
        /// The entry.
        cursor: Cursor,
        /// What is wrong with it.
        #[source]
        source: BatchError,
    },
}

/// News from the other nodes.
#[derive(Clone, Debug)]
pub enum Feed {
    /// A committed entry.
    Entry(Entry),
    /// The feed was interrupted: every head that is held in memory must be read again.
    Reset,
}

/// A kind of record. Each key is one record, with compare-and-set; there is no transaction over two.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Table {
    /// Counters that give out numbers.
    Counters,
    /// Channel name → channel.
    Channels,
    /// Token subject → user.
    Users,
}

impl Table {
    /// The table's name in storage.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counters => "counters",
            Self::Channels => "channels",
            Self::Users => "users",
        }
    }
}

/// A record's version, ascending with every write to its key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Revision(pub u64);

/// A record and its version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Versioned {
    /// The stored bytes.
    pub value: Bytes,
    /// Their version.
    pub revision: Revision,
}

/// What a record must be for a write to happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// Not there.
    Absent,
    /// At this version.
    Revision(Revision),
}

/// Why a record was not read or written.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RecordError {
    /// The record is not as expected: certainly not written.
    #[error("the record is not as expected")]
    Conflict,
    /// Too much is waiting.
    #[error("too many requests wait for the storage")]
    Busy,
    /// The storage is failing; a write may or may not have happened.
    #[error("the storage is unavailable")]
    StorageUnavailable,
}

/// What an engine is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// What `Ok` of an append means.
    pub durability: Durability,
    /// Whether a lost race can leave an entry in the log that extends no chain, which readers skip.
    /// Where it cannot, such an entry is damage.
    pub junk_possible: bool,
}
