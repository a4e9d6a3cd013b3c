//! The log readers: threads with read-only connections of their own, which never hold up the writer.
//!
//! Each read is one statement or one transaction, so it sees one state of the log; it begins at a key of an index and
//! ends when its answer is full, so it costs the same however long the log is. Every entry that
//! leaves here has been decoded, and checked against its row and against the entry before it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc::Receiver},
};

use bytes::Bytes;
use rusqlite::{Connection, MAIN_DB, OpenFlags, OptionalExtension, Row, blob::Blob, params};
use tokio::sync::oneshot;

use super::{
    HeadsReply, KeysReply, MarkReply, ReadReply, RecordReply, keep_plans, records, stats::Stats,
    transaction,
};
use crate::{
    engine::{LogEnd, Mark, ReadError, ReadFrom, ReadMax, RecordError, Table, Versioned},
    limits,
    log::{
        batch::{Batch, BatchError, Entry, HEADER_BYTES},
        place::{ChannelId, ClientMessageId, Cursor, Sequence, UserId},
    },
};

/// What a reader is asked.
pub(super) enum Query {
    /// For entries of a channel.
    Log { channel: ChannelId, from: ReadFrom, max: ReadMax, reply: ReadReply },
    /// For where logs end.
    Heads { channels: Vec<ChannelId>, reply: HeadsReply },
    /// For the keys of publishes.
    Keys { channel: ChannelId, keys: Vec<(UserId, ClientMessageId)>, reply: KeysReply },
    /// For the keys of the messages of a range.
    KeysBetween { channel: ChannelId, first: Sequence, last: Sequence, reply: KeysReply },
    /// For a cut through all channels.
    Mark { reply: MarkReply },
    /// For a record.
    Get { table: Table, key: String, reply: RecordReply<Option<Versioned>> },
    /// For a page of records.
    Scan {
        table: Table,
        prefix: String,
        after: Option<String>,
        count_max: usize,
        reply: RecordReply<Vec<(String, Versioned)>>,
    },
    /// To end.
    Close,
}

/// One reader's thread.
pub(super) struct Reader {
    path: PathBuf,
    /// All readers share one mailbox: whoever is free takes the next query, and waits for it with
    /// the lock held, so that the others wait for the lock.
    mailbox: Arc<Mutex<Receiver<Query>>>,
    /// Dropped after an error, and opened again by the next query.
    connection: Option<Connection>,
    stats: Arc<Stats>,
}

impl Reader {
    pub(super) fn open(
        path: PathBuf,
        mailbox: Arc<Mutex<Receiver<Query>>>,
        stats: Arc<Stats>,
    ) -> rusqlite::Result<Self> {
        let connection = Some(connect(&path)?);
        Ok(Self { path, mailbox, connection, stats })
    }

    /// Answers queries until it is told to end, or until nobody is left to ask.
    pub(super) fn run(mut self) {
        loop {
            let query = self.mailbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
            match query {
                Ok(Query::Log { channel, from, max, reply }) => {
                    let answer = |connection: &Connection| {
                        Ok(match read(connection, channel, from, max) {
                            Ok(entries) => Ok(entries),
                            Err(Failure::Damaged(cursor, source)) => {
                                Err(ReadError::Damaged { cursor, source })
                            }
                            Err(Failure::Storage(error)) => return Err(error),
                        })
                    };
                    self.answer(reply, answer, ReadError::StorageUnavailable);
                }
                Ok(Query::Heads { channels, reply }) => {
                    self.answer(
                        reply,
                        |connection| heads(connection, &channels).map(Ok),
                        ReadError::StorageUnavailable,
                    );
                }
                Ok(Query::Keys { channel, keys, reply }) => {
                    let answer = |connection: &Connection| {
                        let found = keys.iter().filter_map(|(user, id)| {
                            transaction::find_key(connection, channel, *user, *id).transpose()
                        });
                        found.collect::<rusqlite::Result<_>>().map(Ok)
                    };
                    self.answer(reply, answer, ReadError::StorageUnavailable);
                }
                Ok(Query::KeysBetween { channel, first, last, reply }) => {
                    let answer = |connection: &Connection| {
                        transaction::keys_between(connection, channel, first, last).map(Ok)
                    };
                    self.answer(reply, answer, ReadError::StorageUnavailable);
                }
                Ok(Query::Mark { reply }) => {
                    self.answer(
                        reply,
                        |connection| mark(connection).map(Ok),
                        ReadError::StorageUnavailable,
                    );
                }
                Ok(Query::Get { table, key, reply }) => self.answer(
                    reply,
                    |connection| records::get(connection, table, &key).map(Ok),
                    RecordError::StorageUnavailable,
                ),
                Ok(Query::Scan { table, prefix, after, count_max, reply }) => self.answer(
                    reply,
                    |connection| {
                        records::scan(connection, table, &prefix, after.as_deref(), count_max)
                            .map(Ok)
                    },
                    RecordError::StorageUnavailable,
                ),
                Ok(Query::Close) | Err(_) => return,
            }
        }
    }

    fn answer<T, E>(
        &mut self,
        reply: oneshot::Sender<Result<T, E>>,
        query: impl FnOnce(&Connection) -> rusqlite::Result<Result<T, E>>,
        unavailable: E,
    ) {
        // Whoever asked may have gone meanwhile, in a reconnect storm many have.
        if reply.is_closed() {
            return;
        }
        self.stats.reads.add(1);
        let answer = self.connection().and_then(query);
        if let Err(error) = &answer {
            tracing::error!(error = error as &dyn std::error::Error, "the log cannot be read");
            self.stats.reads_failed.add(1);
            self.connection = None;
        }
        // The receiver may be gone by now, and then nobody wants the answer.
        let _ = reply.send(answer.unwrap_or(Err(unavailable)));
    }

    fn connection(&mut self) -> rusqlite::Result<&Connection> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.path)?,
        };
        Ok(self.connection.insert(connection))
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(limits::STORAGE_LOCK_TIMEOUT)?;
    keep_plans(&connection)?;
    connection.execute_batch("PRAGMA mmap_size = 0; PRAGMA cell_size_check = ON;")?;
    Ok(connection)
}

/// Why a read of the log has no answer.
enum Failure {
    Damaged(Cursor, BatchError),
    Storage(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Storage(error)
    }
}

/// The entry at the cursor may have been trimmed. Then the first one that is left lies behind it.
pub(super) const AFTER: &str = "
    SELECT cursor, first_sequence, last_sequence, after_cursor, bytes FROM batches
    WHERE channel = ?1 AND cursor > ?2 AND first_sequence > coalesce(
        (SELECT last_sequence FROM batches WHERE cursor = ?2 AND channel = ?1), 0)
    ORDER BY first_sequence";

/// The last entry that begins at or before the sequence is the one that holds it, if any does.
pub(super) const HOLDING: &str = "
    SELECT cursor, first_sequence, last_sequence, after_cursor, bytes FROM batches
    WHERE channel = ?1 AND last_sequence >= ?2 AND first_sequence >= coalesce(
        (SELECT first_sequence FROM batches WHERE channel = ?1 AND first_sequence <= ?2
         ORDER BY first_sequence DESC LIMIT 1), 0)
    ORDER BY first_sequence";

pub(super) const ENDING_WITH: &str = "
    SELECT cursor, first_sequence, last_sequence, after_cursor, bytes FROM batches
    WHERE channel = ?1 AND first_sequence <= ?2
    ORDER BY first_sequence DESC";

/// Answered by the index alone.
pub(super) const LAST: &str = "
    SELECT cursor, first_sequence FROM batches
    WHERE channel = ?1 ORDER BY first_sequence DESC LIMIT 1";

fn read(
    connection: &Connection,
    channel: ChannelId,
    from: ReadFrom,
    max: ReadMax,
) -> Result<Vec<Entry>, Failure> {
    let (sql, place, descending) = match from {
        ReadFrom::After(Cursor(cursor)) => (AFTER, cursor, false),
        ReadFrom::Holding(Sequence(sequence)) => (HOLDING, sequence, false),
        ReadFrom::EndingWith(Sequence(sequence)) => (ENDING_WITH, sequence, true),
        ReadFrom::Tail => (ENDING_WITH, u64::MAX, true),
    };
    let place = i64::try_from(place).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![channel.0, place])?;
    let mut entries = Vec::new();
    let (mut bytes_left, mut messages) = (max.bytes, 0);
    while let Some(row) = rows.next()? {
        let entry = entry_of(channel, row)?;
        let bytes = entry.batch.encoded_bytes();
        if bytes > bytes_left && !entries.is_empty() {
            break;
        }
        bytes_left = bytes_left.saturating_sub(bytes);
        messages += from.wanted_of(&entry.batch);
        entries.push(entry);
        if messages >= max.messages {
            break;
        }
    }
    if descending {
        entries.reverse();
    }
    for pair in entries.windows(2) {
        let (before, entry) = (&pair[0], &pair[1]);
        if entry.after != before.at || !entry.batch.extends(&before.batch.head(before.at)) {
            return Err(Failure::Damaged(entry.at, BatchError::BrokenChain));
        }
    }
    Ok(entries)
}

/// Where these logs end, in one state of all of them.
fn heads(connection: &Connection, channels: &[ChannelId]) -> rusqlite::Result<Vec<LogEnd>> {
    let transaction = connection.unchecked_transaction()?;
    let mut blob = None;
    let ends = channels.iter().map(|channel| end_of(&transaction, *channel, &mut blob)).collect();
    drop(blob);
    transaction.finish()?;
    ends
}

/// The index has the place of the last entry. Of its bytes the header is read through a handle on the
/// column, which is kept from one to the next: a statement would bring all of the batch into memory.
fn end_of<'c>(
    connection: &'c Connection,
    channel: ChannelId,
    blob: &mut Option<Blob<'c>>,
) -> rusqlite::Result<LogEnd> {
    let last = connection
        .prepare_cached(LAST)?
        .query_row([channel.0], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    let Some((cursor, first_sequence)) = last else { return Ok(LogEnd::Empty) };
    let bytes = match blob {
        Some(bytes) => {
            bytes.reopen(cursor)?;
            bytes
        }
        None => blob.insert(connection.blob_open(MAIN_DB, "batches", "bytes", cursor, true)?),
    };
    let mut header = [0; HEADER_BYTES];
    if bytes.len() < HEADER_BYTES {
        return Ok(LogEnd::Damaged(BatchError::Truncated));
    }
    bytes.read_at_exact(&mut header, 0)?;
    Ok(match Batch::span(&header) {
        Ok((first, end)) if first.0 == first_sequence.cast_unsigned() => LogEnd::At(end),
        Ok(_) => LogEnd::Damaged(BatchError::Misplaced),
        Err(error) => LogEnd::Damaged(error),
    })
}

/// The one writer gives out the cursors of all channels in the order of its commits.
fn mark(connection: &Connection) -> rusqlite::Result<Mark> {
    let last: Option<i64> = connection
        .prepare_cached("SELECT max(cursor) FROM batches")?
        .query_row([], |row| row.get(0))?;
    Ok(Mark::new([Cursor(last.unwrap_or(0).cast_unsigned())]))
}

fn entry_of(channel: ChannelId, row: &Row<'_>) -> Result<Entry, Failure> {
    let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
    let at = Cursor(number(0)?);
    let bytes = Bytes::copy_from_slice(row.get_ref(4)?.as_blob().map_err(rusqlite::Error::from)?);
    let batch = Batch::decode(channel, &bytes).map_err(|error| Failure::Damaged(at, error))?;
    let after = Cursor(number(3)?);
    if (number(1)?, number(2)?) != (batch.first_sequence.0, batch.last_sequence().0) || after >= at
    {
        return Err(Failure::Damaged(at, BatchError::Misplaced));
    }
    Ok(Entry { channel, at, after, batch })
}
