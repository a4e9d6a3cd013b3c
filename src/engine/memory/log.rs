//! The log itself: synchronous and pure, for a simulation that owns the time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    engine::{
        Append, AppendError, Caps, Chain, Derived, Durability, Expect, LogEnd, Mark, MessageKey,
        ReadError, ReadFrom, ReadMax, RecordError, Refusal, Revision, Table, Versioned,
    },
    log::{
        batch::{Batch, BatchError, Entry},
        place::{ChannelId, ClientMessageId, Cursor, Sequence, UserId},
    },
};

/// A log in memory.
#[derive(Clone, Debug)]
pub struct MemoryLog {
    caps: Caps,
    channels: BTreeMap<ChannelId, Vec<Entry>>,
    keys: HashMap<(ChannelId, UserId, ClientMessageId), MessageKey>,
    records: BTreeMap<(Table, String), Versioned>,
    /// The highest revision that was removed: new records begin above it.
    removed: u64,
    damaged: BTreeSet<Cursor>,
    /// Every entry that was ever placed. Its length is the last cursor.
    placed: Vec<Entry>,
}

/// What happens to an append on its way.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is committed, and the answer is lost.
    UnknownCommitted,
    /// It is lost, and nobody says so.
    UnknownLost,
    /// The engine refuses it.
    Refused(Refusal),
    /// Another node commits this batch just before.
    Beaten {
        /// The other node's batch.
        by: Arc<Batch>,
    },
    /// Another node commits this batch just before, and the append lands behind it all the same
    /// and is answered as if it were part of the chain. Only where junk is possible.
    Forked {
        /// The other node's batch.
        by: Arc<Batch>,
    },
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new(Caps { durability: Durability::Ephemeral, junk_possible: false })
    }
}

impl MemoryLog {
    /// An empty log that says this of itself.
    #[must_use]
    pub fn new(caps: Caps) -> Self {
        Self {
            caps,
            channels: BTreeMap::new(),
            keys: HashMap::new(),
            records: BTreeMap::new(),
            removed: 0,
            damaged: BTreeSet::new(),
            placed: Vec::new(),
        }
    }

    /// What the log says of itself.
    #[must_use]
    pub const fn caps(&self) -> Caps {
        self.caps
    }

    /// Appends as [`Engine::append`](crate::engine::Engine::append) does, at once.
    ///
    /// # Errors
    /// `Moved` and `Duplicates`, as there.
    pub fn append(&mut self, append: &Append) -> Result<Cursor, AppendError> {
        self.append_chain(&chain_of(append)).map(|cursors| cursors[0])
    }

    /// Appends as [`Engine::append_chain`](crate::engine::Engine::append_chain) does, at once.
    ///
    /// # Errors
    /// `Moved` and `Duplicates`, as there.
    ///
    /// # Panics
    /// When it is not a chain.
    pub fn append_chain(&mut self, chain: &Chain) -> Result<Vec<Cursor>, AppendError> {
        chain.check();
        let last = self.entries(chain.channel).last();
        if last.map_or(Cursor(0), |entry| entry.at) != chain.after {
            return Err(AppendError::Moved);
        }
        let first_sequence = chain.batches[0].first_sequence;
        if !self.caps.junk_possible
            && last.is_some_and(|entry| first_sequence != entry.batch.last_sequence().next())
        {
            return Err(AppendError::Moved);
        }
        let key_of = |key: &MessageKey| (chain.channel, key.user, key.client_message_id);
        let duplicates: Vec<MessageKey> =
            chain.keys.iter().filter_map(|key| self.keys.get(&key_of(key)).copied()).collect();
        if !duplicates.is_empty() {
            return Err(AppendError::Duplicates(duplicates));
        }
        for key in &chain.keys {
            let twice = self.keys.insert(key_of(key), *key).is_some();
            assert!(!twice, "an append names each key once");
        }
        let cursors = self.place_all(chain);
        self.derive(&chain.derived);
        Ok(cursors)
    }

    /// Appends with a fault on the way.
    ///
    /// # Errors
    /// What the fault makes of it.
    ///
    /// # Panics
    /// When it should fork a log in which no junk is possible.
    pub fn append_with(&mut self, append: &Append, fault: Fault) -> Result<Cursor, AppendError> {
        self.append_chain_with(&chain_of(append), fault).map(|cursors| cursors[0])
    }

    /// Appends a chain with a fault on the way, which meets it as a whole.
    ///
    /// # Errors
    /// What the fault makes of it.
    ///
    /// # Panics
    /// When it should fork a log in which no junk is possible.
    pub fn append_chain_with(
        &mut self,
        chain: &Chain,
        fault: Fault,
    ) -> Result<Vec<Cursor>, AppendError> {
        match fault {
            Fault::UnknownCommitted => {
                // What would not have been committed is not, and nobody says so either.
                let _ = self.append_chain(chain);
                Err(AppendError::Unknown)
            }
            Fault::UnknownLost => Err(AppendError::Unknown),
            Fault::Refused(refusal) => Err(AppendError::Refused(refusal)),
            Fault::Beaten { by } => {
                self.place(chain.channel, Batch::clone(&by));
                self.append_chain(chain)
            }
            Fault::Forked { by } => {
                assert!(self.caps.junk_possible, "this log has no junk");
                self.place(chain.channel, Batch::clone(&by));
                Ok(self.place_all(chain))
            }
        }
    }

    fn place_all(&mut self, chain: &Chain) -> Vec<Cursor> {
        let place = |batch: &Arc<Batch>| self.place(chain.channel, Batch::clone(batch));
        chain.batches.iter().map(place).collect()
    }

    /// A cut through all channels, as [`Engine::mark`](crate::engine::Engine::mark) makes it.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark::new([Cursor(self.placed.len() as u64)])
    }

    /// Puts a batch at the end of a channel's log, whatever it is.
    pub fn place(&mut self, channel: ChannelId, batch: Batch) -> Cursor {
        let at = Cursor(self.placed.len() as u64 + 1);
        let entries = self.channels.entry(channel).or_default();
        let after = entries.last().map_or(Cursor(0), |entry| entry.at);
        let entry = Entry { channel, at, after, batch };
        entries.push(entry.clone());
        self.placed.push(entry);
        at
    }

    /// The entries of a channel.
    #[must_use]
    pub fn entries(&self, channel: ChannelId) -> &[Entry] {
        self.channels.get(&channel).map_or(&[], Vec::as_slice)
    }

    /// Every entry that was ever placed, of all channels, in the order of commits: what a feed
    /// carries. A cursor is the number of the entry in here, from 1.
    #[must_use]
    pub fn placed(&self) -> &[Entry] {
        &self.placed
    }

    /// Makes an entry unreadable.
    pub fn damage(&mut self, cursor: Cursor) {
        self.damaged.insert(cursor);
    }

    /// Reads as [`Engine::read`](crate::engine::Engine::read) does.
    ///
    /// # Errors
    /// When an entry that the answer needs is damaged.
    pub fn read(
        &self,
        channel: ChannelId,
        from: ReadFrom,
        max: impl Into<ReadMax>,
    ) -> Result<Vec<Entry>, ReadError> {
        let max = max.into();
        let entries = self.entries(channel);
        let mut found: Vec<Entry> = match from {
            ReadFrom::After(cursor) => {
                let begin = entries.partition_point(|entry| entry.at <= cursor);
                fitting(entries[begin..].iter(), from, max)
            }
            // Not a binary search: junk repeats sequences.
            ReadFrom::Holding(sequence) => fitting(
                entries.iter().skip_while(|entry| entry.batch.last_sequence() < sequence),
                from,
                max,
            ),
            ReadFrom::EndingWith(sequence) => {
                let after_end = entries
                    .iter()
                    .rposition(|entry| entry.batch.first_sequence <= sequence)
                    .map_or(0, |end| end + 1);
                fitting(entries[..after_end].iter().rev(), from, max)
            }
            ReadFrom::Tail => fitting(entries.iter().rev(), from, max),
        };
        found.sort_by_key(|entry| entry.at);
        match found.iter().find(|entry| self.damaged.contains(&entry.at)) {
            Some(Entry { at: cursor, .. }) => {
                Err(ReadError::Damaged { cursor: *cursor, source: BatchError::WrongChecksum })
            }
            None => Ok(found),
        }
    }

    /// Where a channel's log ends, as [`Engine::heads`](crate::engine::Engine::heads) tells it.
    #[must_use]
    pub fn end(&self, channel: ChannelId) -> LogEnd {
        match self.entries(channel).last() {
            None => LogEnd::Empty,
            Some(last) if self.damaged.contains(&last.at) => {
                LogEnd::Damaged(BatchError::WrongChecksum)
            }
            Some(last) => LogEnd::At(last.batch.head(last.at).position()),
        }
    }

    /// Finds keys as [`Engine::find_keys`](crate::engine::Engine::find_keys) does.
    #[must_use]
    pub fn find_keys(
        &self,
        channel: ChannelId,
        keys: &[(UserId, ClientMessageId)],
    ) -> Vec<MessageKey> {
        let found = |(user, id): &(UserId, ClientMessageId)| self.keys.get(&(channel, *user, *id));
        keys.iter().filter_map(found).copied().collect()
    }

    /// The keys of messages, as [`Engine::keys`](crate::engine::Engine::keys) lists them.
    #[must_use]
    pub fn keys(&self, channel: ChannelId, first: Sequence, last: Sequence) -> Vec<MessageKey> {
        let of_channel = self.keys.iter().filter(|((of, ..), _)| *of == channel);
        let keys = of_channel.map(|(_, key)| *key);
        let mut keys: Vec<_> = keys.filter(|key| (first..=last).contains(&key.sequence)).collect();
        keys.sort_unstable_by_key(|key| key.sequence);
        keys
    }

    /// Drops old entries as [`Engine::trim`](crate::engine::Engine::trim) does.
    pub fn trim(&mut self, channel: ChannelId, sequence: Sequence) {
        let Some(entries) = self.channels.get_mut(&channel) else { return };
        let whole = entries.iter().take_while(|entry| entry.batch.last_sequence() < sequence);
        let count = whole.count().min(entries.len() - 1);
        entries.drain(..count);
        let kept = entries[0].batch.first_sequence;
        self.keys.retain(|(of, ..), key| *of != channel || key.sequence >= kept);
    }

    /// Reads a record as [`Engine::get`](crate::engine::Engine::get) does.
    #[must_use]
    pub fn get(&self, table: Table, key: &str) -> Option<Versioned> {
        self.records.get(&(table, key.to_owned())).cloned()
    }

    /// Writes a record as [`Engine::put`](crate::engine::Engine::put) does.
    ///
    /// # Errors
    /// `Conflict`, as there.
    pub fn put(
        &mut self,
        table: Table,
        key: &str,
        value: Bytes,
        expect: Expect,
    ) -> Result<Revision, RecordError> {
        let found = self.get(table, key).map(|record| record.revision);
        let revision = match (expect, found) {
            (Expect::Absent, None) => Revision(self.removed + 1),
            (Expect::Revision(expected), Some(found)) if expected == found => Revision(found.0 + 1),
            _ => return Err(RecordError::Conflict),
        };
        self.records.insert((table, key.to_owned()), Versioned { value, revision });
        Ok(revision)
    }

    /// Removes a record as [`Engine::remove`](crate::engine::Engine::remove) does.
    ///
    /// # Errors
    /// `Conflict`, as there.
    pub fn remove(
        &mut self,
        table: Table,
        key: &str,
        revision: Revision,
    ) -> Result<(), RecordError> {
        if self.get(table, key).is_none_or(|record| record.revision != revision) {
            return Err(RecordError::Conflict);
        }
        self.derive_one(table, key, None);
        Ok(())
    }

    /// Writes or removes records, whatever was there before.
    pub(super) fn derive(&mut self, derived: &[Derived]) {
        for Derived { table, key, value } in derived {
            self.derive_one(*table, key, value.clone());
        }
    }

    fn derive_one(&mut self, table: Table, key: &str, value: Option<Bytes>) {
        let found = self.records.remove(&(table, key.to_owned())).map(|record| record.revision.0);
        match value {
            Some(value) => {
                let revision = Revision(found.unwrap_or(self.removed) + 1);
                self.records.insert((table, key.to_owned()), Versioned { value, revision });
            }
            None => self.removed = self.removed.max(found.unwrap_or(0)),
        }
    }

    /// Lists records as [`Engine::scan`](crate::engine::Engine::scan) does.
    #[must_use]
    pub fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
    ) -> Vec<(String, Versioned)> {
        self.records
            .range((table, prefix.to_owned())..)
            .take_while(|((of, key), _)| *of == table && key.starts_with(prefix))
            .filter(|((_, key), _)| after.is_none_or(|after| key.as_str() > after))
            .take(count_max)
            .map(|((_, key), record)| (key.clone(), record.clone()))
            .collect()
    }
}

/// An append is a chain of one.
fn chain_of(append: &Append) -> Chain {
    let Append { channel, after, batch, keys, derived } = append.clone();
    Chain { channel, after, batches: vec![batch], keys, derived }
}

/// As many entries as fit, and at least one if there is one.
fn fitting<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    from: ReadFrom,
    max: ReadMax,
) -> Vec<Entry> {
    let (mut bytes, mut messages) = (0, 0);
    entries
        .enumerate()
        .take_while(|(at, entry)| {
            let is_enough = messages >= max.messages;
            bytes += entry.batch.encoded_bytes();
            messages += from.wanted_of(&entry.batch);
            *at == 0 || (bytes <= max.bytes && !is_enough)
        })
        .map(|(_, entry)| entry.clone())
        .collect()
}
