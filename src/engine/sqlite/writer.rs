//! The log writer: the one thread that writes. Hot.
//!
//! It takes every request that is waiting, of all channels, puts them into one transaction, and
//! answers when its one sync of the disk has returned. What arrives meanwhile is the next
//! transaction: the slower the disk, the larger the group.
//!
//! Invariant: what this thread remembers is committed. A transaction's own changes become its
//! memory only after the commit, and a commit that fails empties it.

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::{Arc, mpsc},
    time::Instant,
};

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use thiserror::Error;
use tokio::sync::oneshot;

use super::{AppendReply, RecordReply, Synchronous, connect_writer, records, stats::Stats};
use crate::{
    engine::{Append, AppendError, Expect, MessageKey, RecordError, Refusal, Revision, Table},
    limits,
    log::place::{ChannelId, ClientMessageId, Cursor, Sequence, UserId},
};

/// What the writer is asked.
pub(super) enum Work {
    Append(Append, AppendReply),
    Put(Put, RecordReply<Revision>),
    Trim(Trim, RecordReply<()>),
    /// To end. Everything sent before is done first.
    Close,
    /// To let a test change it, between two transactions.
    #[cfg(test)]
    Meddle(Box<dyn FnOnce(&mut Writer) + Send>),
}

/// A record to write.
pub(super) struct Put {
    pub(super) table: Table,
    pub(super) key: String,
    pub(super) value: Bytes,
    pub(super) expect: Expect,
}

/// Entries to drop.
pub(super) struct Trim {
    pub(super) channel: ChannelId,
    pub(super) sequence: Sequence,
}

type Commit = Box<dyn FnMut(&Connection) -> rusqlite::Result<()> + Send>;

/// The writer's thread.
pub(super) struct Writer {
    path: PathBuf,
    synchronous: Synchronous,
    mailbox: mpsc::Receiver<Work>,
    /// Dropped after an error that is not a full disk, and opened again by the next transaction:
    /// after a sync has failed, nothing that this connection believes about the file is sure.
    pub(super) connection: Option<Connection>,
    /// The last entry of the channels that were written to. Forgotten when a commit fails.
    last_entries: HashMap<ChannelId, LastEntry>,
    /// Trims go on in small steps, one in each transaction, so that nobody waits for a large one.
    trims: VecDeque<(Trim, RecordReply<()>)>,
    /// How much must wait in the write-ahead log for the next checkpoint.
    checkpoint_from_bytes: u64,
    /// The disk was full and the write-ahead log could not give its space back. It may be what fills
    /// the disk, and then not even a trim gets in: the next checkpoint comes as soon as it can.
    cramped: bool,
    /// How a transaction is committed; tests put a slow or failing disk here.
    pub(super) commit: Commit,
    stats: Arc<Stats>,
}

/// Where a channel's log ends. Zeros when it has no entry.
#[derive(Clone, Copy, Default)]
struct LastEntry {
    cursor: Cursor,
    sequence: Sequence,
}

/// What one transaction takes. The order of requests that wait together is ours to choose.
#[derive(Default)]
struct Group {
    appends: Vec<(Append, AppendReply)>,
    puts: Vec<(Put, RecordReply<Revision>)>,
    bytes: usize,
}

/// What a transaction has done, once it is committed.
#[derive(Default)]
struct Outcome {
    appends: Vec<Result<Cursor, AppendError>>,
    puts: Vec<Result<Revision, RecordError>>,
    last_entries: HashMap<ChannelId, LastEntry>,
    /// How many entries a step of the first trim has dropped, if there was one.
    trimmed: Option<u32>,
}

/// Why a transaction failed, and with it everything in it.
#[derive(Debug, Error)]
enum CommitError {
    #[error("a transaction could not be written, and was not")]
    NotCommitted(#[source] rusqlite::Error),
    #[error("a transaction was rolled back on its way")]
    RolledBack,
    #[error("a commit failed, and may be found in the log after a restart")]
    Unknown(#[source] rusqlite::Error),
}

impl Writer {
    pub(super) fn new(
        path: PathBuf,
        synchronous: Synchronous,
        mailbox: mpsc::Receiver<Work>,
        connection: Connection,
        stats: Arc<Stats>,
    ) -> Self {
        Self {
            path,
            synchronous,
            mailbox,
            connection: Some(connection),
            last_entries: HashMap::new(),
            trims: VecDeque::new(),
            checkpoint_from_bytes: limits::WAL_CHECKPOINT_BYTES,
            cramped: false,
            commit: Box::new(commit_now),
            stats,
        }
    }

    /// Writes until it is told to end, or until nobody is left to ask.
    pub(super) fn run(mut self) {
        loop {
            let (group, last) = self.gather();
            self.write(group);
            self.checkpoint_if_due();
            if last {
                break;
            }
        }
        self.close();
    }

    /// Waits for work, then takes all that is there, up to the size of a transaction. The second
    /// value says that no more will come.
    fn gather(&mut self) -> (Group, bool) {
        let mut group = Group::default();
        let mut next = if self.trims.is_empty() {
            self.mailbox.recv().map_err(|_| mpsc::TryRecvError::Disconnected)
        } else {
            self.mailbox.try_recv()
        };
        loop {
            match next {
                Ok(Work::Append(append, reply)) => {
                    group.bytes += append.batch.encoded_bytes();
                    group.appends.push((append, reply));
                }
                Ok(Work::Put(put, reply)) => {
                    group.bytes += put.value.len();
                    group.puts.push((put, reply));
                }
                Ok(Work::Trim(trim, reply)) if self.trims.len() < limits::TRIMS_MAX => {
                    self.trims.push_back((trim, reply));
                }
                Ok(Work::Trim(_, reply)) => answer(reply, Err(RecordError::Busy)),
                #[cfg(test)]
                Ok(Work::Meddle(meddle)) => meddle(self),
                Ok(Work::Close) | Err(mpsc::TryRecvError::Disconnected) => return (group, true),
                Err(mpsc::TryRecvError::Empty) => return (group, false),
            }
            if group.appends.len() + group.puts.len() >= limits::TRANSACTION_BATCHES_MAX
                || group.bytes >= limits::TRANSACTION_BYTES_MAX
            {
                return (group, false);
            }
            next = self.mailbox.try_recv();
        }
    }

    /// One transaction: all of the group and a step of a trim, and then the answers.
    fn write(&mut self, group: Group) {
        if group.appends.is_empty() && group.puts.is_empty() && self.trims.is_empty() {
            return;
        }
        let started = Instant::now();
        match self.transact(&group) {
            Ok(outcome) => {
                self.count(&group, &outcome, started);
                if self.last_entries.len() + outcome.last_entries.len() > limits::LAST_ENTRIES_MAX {
                    self.last_entries.clear();
                }
                self.last_entries.extend(outcome.last_entries);
                for ((_, reply), result) in group.appends.into_iter().zip(outcome.appends) {
                    answer(reply, result);
                }
                for ((_, reply), result) in group.puts.into_iter().zip(outcome.puts) {
                    answer(reply, result);
                }
                if outcome.trimmed.is_some_and(|count| count < limits::TRIM_STEP_ENTRIES) {
                    let (_, reply) = self.trims.pop_front().expect("the first trim was stepped");
                    answer(reply, Ok(()));
                }
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    appends = group.appends.len(),
                    "the log takes no writes"
                );
                self.stats.commits_failed.add(1);
                self.recover(&error);
                let failure = match error {
                    CommitError::NotCommitted(_) | CommitError::RolledBack => {
                        AppendError::Refused(Refusal::StorageUnavailable)
                    }
                    CommitError::Unknown(_) => AppendError::Unknown,
                };
                for (_, reply) in group.appends {
                    answer(reply, Err(failure.clone()));
                }
                for (_, reply) in group.puts {
                    answer(reply, Err(RecordError::StorageUnavailable));
                }
                // A trim that made no way would be tried for ever.
                for (_, reply) in self.trims.drain(..) {
                    answer(reply, Err(RecordError::StorageUnavailable));
                }
            }
        }
    }

    fn transact(&mut self, group: &Group) -> Result<Outcome, CommitError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                connect_writer(&self.path, self.synchronous).map_err(CommitError::NotCommitted)?
            }
        };
        let connection = &*self.connection.insert(connection);
        let mut transaction = Transaction {
            connection,
            committed: &mut self.last_entries,
            outcome: Outcome::default(),
        };
        let trim = self.trims.front().map(|(trim, _)| trim);
        transaction.write(group, trim).map_err(CommitError::NotCommitted)?;
        let outcome = transaction.outcome;

        // A full or failing disk may roll back by itself, and then a commit commits nothing.
        if connection.is_autocommit() {
            return Err(CommitError::RolledBack);
        }
        (self.commit)(connection).map_err(|error| match error.sqlite_error_code() {
            // The frame that makes a commit valid is written last, so it is not in the file; and
            // who finds the database locked has written nothing.
            Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy) => CommitError::NotCommitted(error),
            _ => CommitError::Unknown(error),
        })?;
        Ok(outcome)
    }

    /// After a failed transaction: nothing is remembered, and unless the disk was only full or the
    /// file locked, the connection goes.
    fn recover(&mut self, error: &CommitError) {
        self.last_entries.clear();
        let Some(connection) = &self.connection else { return };
        let reason = match error {
            CommitError::NotCommitted(error) => error.sqlite_error_code(),
            CommitError::RolledBack | CommitError::Unknown(_) => None,
        };
        let rolled_back =
            connection.is_autocommit() || connection.execute_batch("ROLLBACK").is_ok();
        let usable = rolled_back
            && match reason {
                Some(ErrorCode::DatabaseBusy) => true,
                Some(ErrorCode::DiskFull) => {
                    self.cramped = true;
                    true
                }
                _ => false,
            };
        if !usable {
            self.connection = None;
        }
    }

    fn count(&self, group: &Group, outcome: &Outcome, started: Instant) {
        self.stats.commits.add(1);
        self.stats.commit_time.record(started.elapsed());
        for ((append, _), result) in group.appends.iter().zip(&outcome.appends) {
            if result.is_ok() {
                self.stats.batches.add(1);
                self.stats.messages.add(append.batch.count.into());
                self.stats.bytes.add(append.batch.encoded_bytes() as u64);
            }
        }
    }

    /// Moves the write-ahead log into the database once enough of it waits. Passively: readers go
    /// on reading, and what one of them still needs stays for the next time.
    fn checkpoint_if_due(&mut self) {
        let Some(connection) = &self.connection else { return };
        let checkpoint = || {
            let mut wal = Wal::look(connection)?;
            if wal.waiting_bytes() < self.checkpoint_from_bytes && !self.cramped {
                return Ok(None);
            }
            let started = Instant::now();
            wal = if wal.bytes < limits::WAL_BYTES_MAX && !self.cramped {
                Wal::checkpoint_passively(connection)?
            } else {
                Wal::truncate(connection)?
            };
            self.stats.checkpoints.add(1);
            self.stats.checkpoint_time.record(started.elapsed());
            Ok::<_, rusqlite::Error>(Some(wal))
        };
        match checkpoint() {
            Ok(None) => {}
            // Counted from what is left: who holds an old snapshot for long does not make us try
            // after every transaction.
            Ok(Some(wal)) => {
                self.checkpoint_from_bytes = wal.waiting_bytes() + limits::WAL_CHECKPOINT_BYTES;
                self.cramped &= wal.bytes > 0;
            }
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                self.cramped = true;
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the write-ahead log cannot be moved into the database"
                );
                self.connection = None;
                self.last_entries.clear();
            }
        }
    }

    fn close(mut self) {
        for (_, reply) in self.trims.drain(..) {
            answer(reply, Err(RecordError::StorageUnavailable));
        }
        while let Ok(work) = self.mailbox.try_recv() {
            match work {
                Work::Append(_, reply) => {
                    answer(reply, Err(AppendError::Refused(Refusal::StorageUnavailable)));
                }
                Work::Put(_, reply) => answer(reply, Err(RecordError::StorageUnavailable)),
                Work::Trim(_, reply) => answer(reply, Err(RecordError::StorageUnavailable)),
                Work::Close => {}
                #[cfg(test)]
                Work::Meddle(_) => {}
            }
        }
        if let Some(connection) = &self.connection
            && let Err(error) = Wal::truncate(connection)
        {
            // Nothing is lost: the next start reads the write-ahead log as after a crash.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the write-ahead log stays as it is"
            );
        }
    }
}

fn answer<T>(reply: oneshot::Sender<T>, result: T) {
    // Who asked may be gone. What was done stays done.
    let _ = reply.send(result);
}

fn commit_now(connection: &Connection) -> rusqlite::Result<()> {
    connection.prepare_cached("COMMIT")?.execute([]).map(drop)
}

/// A transaction on its way: reads see its own writes.
struct Transaction<'a> {
    connection: &'a Connection,
    committed: &'a mut HashMap<ChannelId, LastEntry>,
    outcome: Outcome,
}

impl Transaction<'_> {
    /// Everything but the commit. An error ends the whole transaction; what is wrong with a single
    /// request is its answer.
    fn write(&mut self, group: &Group, trim: Option<&Trim>) -> rusqlite::Result<()> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        for (append, _) in &group.appends {
            let result = self.append(append)?;
            self.outcome.appends.push(result);
        }
        for (put, _) in &group.puts {
            let result =
                records::put(self.connection, put.table, &put.key, &put.value, put.expect)?;
            self.outcome.puts.push(result);
        }
        if let Some(trim) = trim {
            self.outcome.trimmed = Some(self.trim(trim)?);
        }
        Ok(())
    }

    fn append(&mut self, append: &Append) -> rusqlite::Result<Result<Cursor, AppendError>> {
        let Append { channel, after, batch, keys } = append;
        let last = self.last_entry(*channel)?;
        // The cursor is the fence. The sequence is checked too: after a restore from an older copy
        // the same cursors come back, and a caller that stands in the lost log must not get in.
        let follows = batch.first_sequence == last.sequence.next() || last.cursor == Cursor(0);
        if *after != last.cursor || !follows {
            return Ok(Err(AppendError::Moved));
        }
        let duplicates = self.put_keys(*channel, batch.first_sequence, keys)?;
        if !duplicates.is_empty() {
            return Ok(Err(AppendError::Duplicates(duplicates)));
        }
        self.connection
            .prepare_cached(
                "INSERT INTO batches
                 (channel, first_sequence, last_sequence, after_cursor, bytes, keys)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                channel.0,
                batch.first_sequence.0.cast_signed(),
                batch.last_sequence().0.cast_signed(),
                after.0.cast_signed(),
                &batch.encode()[..],
                pack(keys),
            ])?;
        let cursor = Cursor(self.connection.last_insert_rowid().cast_unsigned());
        let last = LastEntry { cursor, sequence: batch.last_sequence() };
        self.outcome.last_entries.insert(*channel, last);
        Ok(Ok(cursor))
    }

    fn last_entry(&mut self, channel: ChannelId) -> rusqlite::Result<LastEntry> {
        let known =
            self.outcome.last_entries.get(&channel).or_else(|| self.committed.get(&channel));
        if let Some(last) = known {
            return Ok(*last);
        }
        let last = self
            .connection
            .prepare_cached(
                "SELECT cursor, last_sequence FROM batches WHERE channel = ?1
                 ORDER BY first_sequence DESC LIMIT 1",
            )?
            .query_row([channel.0], |row| {
                let (cursor, sequence): (i64, i64) = (row.get(0)?, row.get(1)?);
                Ok(LastEntry {
                    cursor: Cursor(cursor.cast_unsigned()),
                    sequence: Sequence(sequence.cast_unsigned()),
                })
            })
            .optional()?
            .unwrap_or_default();
        // This transaction has not written to the channel, or it would have been known.
        self.committed.insert(channel, last);
        Ok(last)
    }

    /// Claims the keys, all or none: the answer are the stored ones that stand in the way.
    fn put_keys(
        &self,
        channel: ChannelId,
        first_sequence: Sequence,
        keys: &[MessageKey],
    ) -> rusqlite::Result<Vec<MessageKey>> {
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO message_keys (channel, user, client_message_id, sequence, digest)
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
        )?;
        let mut duplicates = Vec::new();
        let mut claimed = Vec::new();
        for key in keys {
            let id = key.client_message_id.0.cast_signed();
            let (sequence, digest) = (key.sequence.0.cast_signed(), key.digest.cast_signed());
            if insert.execute(params![channel.0, key.user.0, id, sequence, digest])? == 1 {
                claimed.push((key.user, key.client_message_id));
            } else {
                let stored = self.stored_key(channel, key.user, key.client_message_id)?;
                assert!(stored.sequence < first_sequence, "an append names each key once");
                duplicates.push(stored);
            }
        }
        if !duplicates.is_empty() {
            self.free_keys(channel, claimed)?;
        }
        Ok(duplicates)
    }

    fn stored_key(
        &self,
        channel: ChannelId,
        user: UserId,
        client_message_id: ClientMessageId,
    ) -> rusqlite::Result<MessageKey> {
        self.connection
            .prepare_cached(
                "SELECT sequence, digest FROM message_keys
                 WHERE channel = ?1 AND user = ?2 AND client_message_id = ?3",
            )?
            .query_row(params![channel.0, user.0, client_message_id.0.cast_signed()], |row| {
                let (sequence, digest): (i64, i64) = (row.get(0)?, row.get(1)?);
                Ok(MessageKey {
                    user,
                    client_message_id,
                    sequence: Sequence(sequence.cast_unsigned()),
                    digest: digest.cast_unsigned(),
                })
            })
    }

    fn free_keys(
        &self,
        channel: ChannelId,
        keys: impl IntoIterator<Item = (UserId, ClientMessageId)>,
    ) -> rusqlite::Result<()> {
        let mut delete = self.connection.prepare_cached(
            "DELETE FROM message_keys
             WHERE channel = ?1 AND user = ?2 AND client_message_id = ?3",
        )?;
        for (user, id) in keys {
            delete.execute(params![channel.0, user.0, id.0.cast_signed()])?;
        }
        Ok(())
    }

    /// One step of a trim: drops the oldest entries and frees their keys. Answers how many.
    fn trim(&self, trim: &Trim) -> rusqlite::Result<u32> {
        let place = i64::try_from(trim.sequence.0).unwrap_or(i64::MAX);
        let mut select = self.connection.prepare_cached(
            "SELECT cursor, keys FROM batches
             WHERE channel = ?1 AND first_sequence < ?2 AND last_sequence < ?2
               AND first_sequence < (SELECT first_sequence FROM batches WHERE channel = ?1
                                     ORDER BY first_sequence DESC LIMIT 1)
             ORDER BY first_sequence LIMIT ?3",
        )?;
        let dropped: Vec<(i64, Vec<u8>)> = select
            .query_map(params![trim.channel.0, place, limits::TRIM_STEP_ENTRIES], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let mut delete = self.connection.prepare_cached("DELETE FROM batches WHERE cursor = ?1")?;
        let mut count = 0;
        for (cursor, keys) in dropped {
            self.free_keys(trim.channel, unpack(&keys))?;
            delete.execute([cursor])?;
            count += 1;
        }
        Ok(count)
    }
}

const PACKED_KEY_BYTES: usize = 12;

/// The keys as `batches.keys` holds them: user and number of each, little-endian.
fn pack(keys: &[MessageKey]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(keys.len() * PACKED_KEY_BYTES);
    for key in keys {
        packed.extend_from_slice(&key.user.0.to_le_bytes());
        packed.extend_from_slice(&key.client_message_id.0.to_le_bytes());
    }
    packed
}

fn unpack(packed: &[u8]) -> impl Iterator<Item = (UserId, ClientMessageId)> {
    let (keys, _) = packed.as_chunks::<PACKED_KEY_BYTES>();
    keys.iter().map(|&[a, b, c, d, ref id @ ..]| {
        (UserId(u32::from_le_bytes([a, b, c, d])), ClientMessageId(u64::from_le_bytes(*id)))
    })
}

/// The write-ahead log, as a checkpoint of any kind reports it.
struct Wal {
    bytes: u64,
    moved_bytes: u64,
}

impl Wal {
    fn look(connection: &Connection) -> rusqlite::Result<Self> {
        Self::report(connection, "PRAGMA wal_checkpoint(NOOP)")
    }

    fn checkpoint_passively(connection: &Connection) -> rusqlite::Result<Self> {
        Self::report(connection, "PRAGMA wal_checkpoint(PASSIVE)")
    }

    fn truncate(connection: &Connection) -> rusqlite::Result<Self> {
        Self::report(connection, "PRAGMA wal_checkpoint(TRUNCATE)")
    }

    fn report(connection: &Connection, sql: &str) -> rusqlite::Result<Self> {
        let bytes = |pages: i64| u64::try_from(pages).unwrap_or(0) * super::PAGE_BYTES;
        connection.prepare_cached(sql)?.query_row([], |row| {
            Ok(Self { bytes: bytes(row.get(1)?), moved_bytes: bytes(row.get(2)?) })
        })
    }

    fn waiting_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.moved_bytes)
    }
}
