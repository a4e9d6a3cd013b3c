//! What happens within one transaction: batches are checked against their channel's end and the
//! taken keys, and inserted; records are compared and set; old entries are dropped. Hot.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::records;
use crate::{
    engine::{
        Append, AppendError, Chain, Derived, Expect, MessageKey, RecordError, Revision, Table,
        put_bytes,
    },
    limits,
    log::{
        batch::Batch,
        place::{ChannelId, ClientMessageId, Cursor, Sequence, UserId},
    },
};

/// A record to write, or to remove if there is no value.
pub(super) struct Put {
    pub(super) table: Table,
    pub(super) key: String,
    pub(super) value: Option<Bytes>,
    pub(super) expect: Expect,
    /// What follows from it.
    pub(super) derived: Vec<Derived>,
}

impl Put {
    /// What it takes of a transaction, with all that follows from it.
    pub(super) fn bytes(&self) -> usize {
        put_bytes(&self.key, self.value.as_ref(), &self.derived)
    }
}

/// Entries to drop.
pub(super) struct Trim {
    pub(super) channel: ChannelId,
    pub(super) sequence: Sequence,
}

/// A run of batches to append, all or none.
struct Run<'a> {
    channel: ChannelId,
    after: Cursor,
    /// At least one, each extending the one before it.
    batches: &'a [Arc<Batch>],
    /// Those of all batches, in the order of their sequences.
    keys: &'a [MessageKey],
    derived: &'a [Derived],
}

/// Where a channel's log ends. Zeros when it has no entry.
#[derive(Clone, Copy, Default)]
pub(super) struct LastEntry {
    cursor: Cursor,
    sequence: Sequence,
}

/// What a transaction has done, once it is committed.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) appends: Vec<Result<Cursor, AppendError>>,
    pub(super) chains: Vec<Result<Vec<Cursor>, AppendError>>,
    pub(super) puts: Vec<Result<Revision, RecordError>>,
    pub(super) last_entries: HashMap<ChannelId, LastEntry>,
    /// How many entries a step of the first trim has dropped, if there was one.
    pub(super) trimmed: Option<u32>,
}

/// A transaction on its way: reads see its own writes.
pub(super) struct Transaction<'a> {
    connection: &'a Connection,
    committed: &'a mut HashMap<ChannelId, LastEntry>,
    outcome: Outcome,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(
        connection: &'a Connection,
        committed: &'a mut HashMap<ChannelId, LastEntry>,
    ) -> Self {
        Self { connection, committed, outcome: Outcome::default() }
    }

    /// Everything but the commit. An error ends the whole transaction; what is wrong with a single
    /// request is its answer.
    pub(super) fn write<'b>(
        mut self,
        appends: impl Iterator<Item = &'b Append>,
        chains: impl Iterator<Item = &'b Chain>,
        puts: impl Iterator<Item = &'b Put>,
        trim: Option<&Trim>,
    ) -> rusqlite::Result<Outcome> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        for append in appends {
            let Append { channel, after, batch, keys, derived } = append;
            let (channel, after, batches) = (*channel, *after, std::slice::from_ref(batch));
            let mut at = Cursor(0);
            let run = Run { channel, after, batches, keys, derived };
            let result = self.append(&run, |cursor| at = cursor)?;
            self.outcome.appends.push(result.map(|()| at));
        }
        for chain in chains {
            let Chain { channel, after, batches, keys, derived } = chain;
            let mut cursors = Vec::with_capacity(batches.len());
            let run = Run { channel: *channel, after: *after, batches, keys, derived };
            let result = self.append(&run, |cursor| cursors.push(cursor))?;
            self.outcome.chains.push(result.map(|()| cursors));
        }
        for Put { table, key, value, expect, derived } in puts {
            let result = records::put(self.connection, *table, key, value.as_deref(), *expect)?;
            if result.is_ok() {
                self.derive(derived)?;
            }
            self.outcome.puts.push(result);
        }
        if let Some(trim) = trim {
            self.outcome.trimmed = Some(self.trim(trim)?);
        }
        Ok(self.outcome)
    }

    /// Appends a run, and tells the cursor of each of its batches.
    fn append(
        &mut self,
        run: &Run<'_>,
        mut appended: impl FnMut(Cursor),
    ) -> rusqlite::Result<Result<(), AppendError>> {
        let Run { channel, mut after, batches, mut keys, derived } = *run;
        let first_sequence = batches[0].first_sequence;
        let last = self.last_entry(channel)?;
        // The cursor is the fence. The sequence is checked too: after a restore from an older copy
        // the same cursors come back, and a caller that stands in the lost log must not get in.
        let follows = first_sequence == last.sequence.next() || last.cursor == Cursor(0);
        if after != last.cursor || !follows {
            return Ok(Err(AppendError::Moved));
        }
        let duplicates = self.put_keys(channel, first_sequence, keys)?;
        if !duplicates.is_empty() {
            return Ok(Err(AppendError::Duplicates(duplicates)));
        }
        // From here on nothing is refused: what fails ends the whole transaction.
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO batches
             (channel, first_sequence, last_sequence, after_cursor, bytes, keys)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        for batch in batches {
            let last_sequence = batch.last_sequence();
            let (of_batch, of_later) =
                keys.split_at(keys.partition_point(|key| key.sequence <= last_sequence));
            keys = of_later;
            insert.execute(params![
                channel.0,
                batch.first_sequence.0.cast_signed(),
                last_sequence.0.cast_signed(),
                after.0.cast_signed(),
                &batch.encode(channel)[..],
                pack(of_batch),
            ])?;
            let cursor = Cursor(self.connection.last_insert_rowid().cast_unsigned());
            let last = LastEntry { cursor, sequence: last_sequence };
            self.outcome.last_entries.insert(channel, last);
            appended(cursor);
            after = cursor;
        }
        self.derive(derived)?;
        Ok(Ok(()))
    }

    fn derive(&self, derived: &[Derived]) -> rusqlite::Result<()> {
        for Derived { table, key, value } in derived {
            records::derive(self.connection, *table, key, value.as_deref())?;
        }
        Ok(())
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
                let found = find_key(self.connection, channel, key.user, key.client_message_id)?;
                let stored = found.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
                assert!(stored.sequence < first_sequence, "an append names each key once");
                duplicates.push(stored);
            }
        }
        if !duplicates.is_empty() {
            self.free_keys(channel, claimed)?;
        }
        Ok(duplicates)
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

/// The stored key of one publish, if it is in the log.
pub(super) fn find_key(
    connection: &Connection,
    channel: ChannelId,
    user: UserId,
    client_message_id: ClientMessageId,
) -> rusqlite::Result<Option<MessageKey>> {
    connection
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
        .optional()
}

/// The keys of the messages of a range, by their sequences.
pub(super) fn keys_between(
    connection: &Connection,
    channel: ChannelId,
    first: Sequence,
    last: Sequence,
) -> rusqlite::Result<Vec<MessageKey>> {
    let mut batches = connection.prepare_cached(
        "SELECT keys FROM batches
         WHERE channel = ?1 AND first_sequence <= ?3 AND last_sequence >= ?2
         ORDER BY first_sequence",
    )?;
    let (from, to) = (first.0.cast_signed(), last.0.min(i64::MAX as u64).cast_signed());
    let mut rows = batches.query(params![channel.0, from, to])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        for (user, id) in unpack(row.get_ref(0)?.as_blob()?) {
            keys.extend(find_key(connection, channel, user, id)?);
        }
    }
    keys.retain(|key| (first..=last).contains(&key.sequence));
    Ok(keys)
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
