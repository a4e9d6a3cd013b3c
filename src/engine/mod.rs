//! Stage 5: batch → committed batch. The seam between one node and many.
//!
//! An engine commits batches, hands them back to readers, and carries them between nodes. It does
//! not know what is in them: numbering, batching, rights and fan-out stay above it and are tested
//! once, against [`memory`], which drops, delays, forks and answers `Unknown` on demand.
//!
//! What every engine promises:
//! - `append` answers `Ok` only when the batch is durable and visible to `read`. Per channel it is
//!   linearizable, and the cursor it expects is compared and set in one step.
//! - An append, or a chain of them, is one step with its keys and with the records that are derived
//!   from it: after any answer, error or crash either all of it is there or nothing is.
//! - An outcome that the engine cannot tell is [`AppendError::Unknown`], never a guess.
//! - A read never blocks an append.
//! - Bytes that do not check are an error, never an answer.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::mpsc;

use crate::log::{
    batch::{Batch, BatchError, Entry},
    place::{ChannelId, ClientMessageId, Cursor, Durability, Position, Sequence, UserId},
};

pub mod any;
pub mod bus;
pub mod jetstream;
pub mod memory;
pub mod rows;
pub mod sqlite;

pub use bus::Bus;

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

    /// Appends several batches of one channel, all or none, and answers the cursor of each. Otherwise
    /// as [`append`](Self::append), with the same errors: those of the place are about the first batch,
    /// since the others follow it by themselves.
    ///
    /// # Panics
    /// When the chain is not one, see [`Chain`].
    fn append_chain(
        &self,
        chain: Chain,
    ) -> impl Future<Output = Result<Vec<Cursor>, AppendError>> + Send + 'static;

    /// A cut through all channels at this moment: it holds every entry whose append was answered
    /// before the call, and none that is committed after the answer.
    fn mark(&self) -> impl Future<Output = Result<Mark, ReadError>> + Send + 'static;

    /// Reads entries of a channel, oldest first: as many whole ones as `max` allows, and at least one if
    /// there is one.
    fn read(
        &self,
        channel: ChannelId,
        from: ReadFrom,
        max: impl Into<ReadMax>,
    ) -> impl Future<Output = Result<Vec<Entry>, ReadError>> + Send + 'static;

    /// Where the logs of these channels end: one answer for each, in their order. It knows what an append
    /// before the call was answered with. It looks at the place of a last entry and not at what is in
    /// it, so it costs the same however long the log and however large the entry, and loads nothing.
    fn heads(
        &self,
        channels: Vec<ChannelId>,
    ) -> impl Future<Output = Result<Vec<LogEnd>, ReadError>> + Send + 'static;

    /// Which of these publishes are in a channel's log: the stored keys of those that are, in any
    /// order. It knows what an append before the call was answered with. Where several nodes write, it
    /// looks at the newest [`JETSTREAM_KEYS_MIN`](crate::limits::JETSTREAM_KEYS_MIN) keys at least, and
    /// so does an append.
    fn find_keys(
        &self,
        channel: ChannelId,
        keys: Vec<(UserId, ClientMessageId)>,
    ) -> impl Future<Output = Result<Vec<MessageKey>, ReadError>> + Send + 'static;

    /// The stored keys of the messages from `first` to `last`, both included, by their sequences: what
    /// goes along when a log is moved to another engine.
    fn keys(
        &self,
        channel: ChannelId,
        first: Sequence,
        last: Sequence,
    ) -> impl Future<Output = Result<Vec<MessageKey>, ReadError>> + Send + 'static;

    /// Drops entries that lie wholly below `sequence`, and never the last one: retention only. The
    /// keys of what is dropped are free again, on other nodes as soon as they have forgotten them.
    fn trim(
        &self,
        channel: ChannelId,
        sequence: Sequence,
    ) -> impl Future<Output = Result<(), RecordError>> + Send + 'static;

    /// What other nodes commit from now on, and maybe what this one does. At most once, in order per
    /// channel, gaps possible: compare [`Entry::after`]. On a single node nothing ever comes.
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
    ) -> impl Future<Output = Result<Revision, RecordError>> + Send + 'static {
        self.put_with(table, key, value, expect, Vec::new())
    }

    /// Writes one record if it is as expected, and in the same step what follows from it. In a cluster
    /// one step takes [`RECORDS_PER_BATCH_MAX`](crate::limits::RECORDS_PER_BATCH_MAX) records and
    /// [`RECORDS_BATCH_BYTES_MAX`](crate::limits::RECORDS_BATCH_BYTES_MAX) bytes of them; the rest of what
    /// follows goes before, and is there without the record if the node dies in between.
    fn put_with(
        &self,
        table: Table,
        key: &str,
        value: Bytes,
        expect: Expect,
        derived: Vec<Derived>,
    ) -> impl Future<Output = Result<Revision, RecordError>> + Send + 'static;

    /// Removes one record if it is at this revision, and is a [`Conflict`](RecordError::Conflict) if it
    /// is at another or absent. If the key is written again, its revision goes on above this one.
    fn remove(
        &self,
        table: Table,
        key: &str,
        revision: Revision,
    ) -> impl Future<Output = Result<(), RecordError>> + Send + 'static;

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

    /// This node's way to the other nodes. `None`: there can be no others.
    fn bus(&self) -> Option<Arc<dyn Bus>> {
        None
    }
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
    /// The records that follow from the batch.
    pub derived: Vec<Derived>,
}

impl Append {
    /// What the append takes of a transaction: the batch, its keys, and what is derived from it.
    /// Beyond [`ENTRY_BYTES_MAX`](crate::limits::ENTRY_BYTES_MAX) it is refused as too large, in a
    /// cluster beyond [`JETSTREAM_ENTRY_BYTES_MAX`](crate::limits::JETSTREAM_ENTRY_BYTES_MAX).
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.batch.encoded_bytes() + bytes_beside(&self.keys, &self.derived)
    }
}

/// Several batches of one channel, which are appended all or not at all.
///
/// There is at least one; each extends the one before it; and the keys are in the order of their
/// sequences, which lie within the batches. Whoever builds another one has a bug.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The channel.
    pub channel: ChannelId,
    /// The entry that must be the channel's last for the append to happen.
    pub after: Cursor,
    /// The batches, oldest first.
    pub batches: Vec<Arc<Batch>>,
    /// The keys of all the batches' records that have one, each at most once in the chain. If any of
    /// them is taken in this channel, nothing is appended.
    pub keys: Vec<MessageKey>,
    /// The records that follow from the batches.
    pub derived: Vec<Derived>,
}

impl Chain {
    /// What the chain takes of a transaction: the batches, their keys, and what is derived from them.
    /// Beyond [`CHAIN_BYTES_MAX`](crate::limits::CHAIN_BYTES_MAX) it is refused as too large, in a
    /// cluster as an append is.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let batches: usize = self.batches.iter().map(|batch| batch.encoded_bytes()).sum();
        batches + bytes_beside(&self.keys, &self.derived)
    }

    /// Panics if the chain is not one. On the caller's thread, so that a bug ends who has it and not
    /// the one that writes for all.
    fn check(&self) {
        let (first, last) =
            self.batches.first().zip(self.batches.last()).expect("a chain has a batch");
        for pair in self.batches.windows(2) {
            assert!(
                pair[1].extends(&pair[0].head(self.after)),
                "a batch of a chain extends the last"
            );
        }
        let sequences = self.keys.iter().map(|key| key.sequence);
        assert!(sequences.is_sorted(), "the keys of a chain are in the order of their sequences");
        let mut ends = self.keys.first().into_iter().chain(self.keys.last());
        let range = first.first_sequence..=last.last_sequence();
        assert!(ends.all(|key| range.contains(&key.sequence)), "a chain has only keys of its own");
    }
}

/// A record that follows from what is appended: written in the same step, whatever was there before,
/// and only if the append itself passes. Its revision is raised by it. Of several with one key the last
/// one counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Derived {
    /// The kind of record.
    pub table: Table,
    /// Its key.
    pub key: String,
    /// What it says from now on. `None`: it is removed, if it is there.
    pub value: Option<Bytes>,
}

fn bytes_beside(keys: &[MessageKey], derived: &[Derived]) -> usize {
    size_of_val(keys) + derived_bytes(derived)
}

/// What a record takes of a transaction, with what follows from it.
fn put_bytes(key: &str, value: Option<&Bytes>, derived: &[Derived]) -> usize {
    key.len() + value.map_or(0, Bytes::len) + derived_bytes(derived)
}

fn derived_bytes(derived: &[Derived]) -> usize {
    let of_record = |record: &Derived| {
        size_of::<Derived>() + record.key.len() + record.value.as_ref().map_or(0, Bytes::len)
    };
    derived.iter().map(of_record).sum()
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
    /// The batch or chain is larger than the engine takes.
    #[error("the batch is too large")]
    TooLarge,
}

/// A cut through all channels: which entries were committed when it was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The last entry of each of the engine's logs. It has one or more of them, gives out the cursors
    /// of each in ascending order, and keeps a channel in the one that [`shelf`] says.
    ends: Arc<[Cursor]>,
}

impl Mark {
    /// A cut that ends with these entries.
    fn new(ends: impl Into<Arc<[Cursor]>>) -> Self {
        Self { ends: ends.into() }
    }

    /// Whether the entry of this channel at this cursor was committed when the cut was made.
    #[must_use]
    pub fn holds(&self, channel: ChannelId, entry_at: Cursor) -> bool {
        entry_at <= self.ends[shelf(channel, self.ends.len())]
    }
}

/// Which of an engine's so many logs, from 0 on, keeps a channel's entries. It never changes for a
/// channel, so neither does the number of logs.
const fn shelf(channel: ChannelId, count: usize) -> usize {
    channel.0 as usize % count
}

/// Where a channel's log ends, as far as that is seen without its last entry's records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogEnd {
    /// There is no entry.
    Empty,
    /// With this message. Where junk is possible it may be of an entry that extends no chain.
    At(Position),
    /// What is stored cannot be there. Of the other channels it says nothing.
    Damaged(BatchError),
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

impl ReadFrom {
    /// How many messages of a batch lie on the side that is read.
    #[must_use]
    pub fn wanted_of(self, batch: &Batch) -> u64 {
        let (first, last) = (batch.first_sequence, batch.last_sequence());
        match self {
            Self::After(_) | Self::Tail => u64::from(batch.count),
            Self::Holding(from) => (last.0 + 1).saturating_sub(first.max(from).0),
            Self::EndingWith(to) => (last.min(to).0 + 1).saturating_sub(first.0),
        }
    }
}

/// How much a read brings at most. A number alone is of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadMax {
    /// As [`Batch::encode`] makes them.
    pub bytes: usize,
    /// Once so many lie on the side that is read, no further entry comes.
    pub messages: u64,
}

impl From<usize> for ReadMax {
    fn from(bytes: usize) -> Self {
        Self { bytes, messages: u64::MAX }
    }
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

/// A kind of record. Each key is one record, with compare-and-set; only what is derived from an append
/// is written together with something else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Table {
    /// Counters that give out numbers.
    Counters,
    /// Channel name → channel.
    Channels,
    /// Token subject → user.
    Users,
    /// Name of a public channel → what a page of channels shows of it.
    PublicChannels,
    /// Channel and user → the user's role there.
    Members,
    /// User and channel: the channels that a user is a member of.
    Memberships,
    /// Channels whose data is being removed.
    Deletions,
    /// Webhooks.
    Webhooks,
    /// User name and number, to find users by their name.
    UserNames,
    /// What was imported into a channel, by time.
    Imports,
    /// Messages that were imported out of their order.
    ImportKeys,
    /// User and channel → how far the user has read there.
    ReadMarkers,
    /// What is to be known of the store as a whole before it is used, such as that it is half a copy.
    /// It belongs to the store and is not moved with the rest.
    Facts,
}

impl Table {
    /// Every kind that there is.
    pub const ALL: [Self; 13] = [
        Self::Counters,
        Self::Channels,
        Self::Users,
        Self::PublicChannels,
        Self::Members,
        Self::Memberships,
        Self::Deletions,
        Self::Webhooks,
        Self::UserNames,
        Self::Imports,
        Self::ImportKeys,
        Self::ReadMarkers,
        Self::Facts,
    ];

    /// The table's name in storage.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counters => "counters",
            Self::Channels => "channels",
            Self::Users => "users",
            Self::PublicChannels => "public_channels",
            Self::Members => "members",
            Self::Memberships => "memberships",
            Self::Deletions => "deletions",
            Self::Webhooks => "webhooks",
            Self::UserNames => "user_names",
            Self::Imports => "imports",
            Self::ImportKeys => "import_keys",
            Self::ReadMarkers => "read_markers",
            Self::Facts => "facts",
        }
    }
}

/// A record's version, ascending with every write to its key, also if it was removed in between.
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
    /// With what follows from it, it is more than [`ENTRY_BYTES_MAX`](crate::limits::ENTRY_BYTES_MAX),
    /// in a cluster than [`JETSTREAM_ENTRY_BYTES_MAX`](crate::limits::JETSTREAM_ENTRY_BYTES_MAX):
    /// certainly not written.
    #[error("the record is too large, with what follows from it")]
    TooLarge,
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
