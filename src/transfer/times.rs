//! What was imported into a channel, and when it was written: how an import knows what it has seen.
//!
//! There is no row per message. A *span* says that a run of the channel's log holds all that was
//! imported of a range of time; the ranges of a channel's spans are disjoint. A line that is newer
//! than all of them is new, without a look. For an older one the span around its time is read from
//! the log, and its records are compared. What came too late for a span, because one that others
//! filled lies around its time or after it, is a *straggler* and has a row of its own.
//!
//! `Table::Imports` holds `{channel:010}:{last time:020}` for each span, and `{channel:010}:newest`
//! with the last time of all; `Table::ImportKeys` holds `{channel:010}:{time:020}:{identity:016x}`.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    num::NonZeroU64,
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::record::{identity, identity_at};
use crate::{
    engine::{Derived, Engine, ReadError, ReadFrom, RecordError, Table},
    limits::{
        IMPORT_READ_BYTES_MAX, IMPORT_SPANS_HELD_MAX, IMPORT_STRAGGLERS_HELD_MAX,
        IMPORT_STRAGGLERS_PER_SCAN,
    },
    log::place::{ChannelId, Sequence},
};

/// A run of a channel's log that holds all that was imported of a range of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The earliest time, in milliseconds since 1970.
    pub first_ms: u64,
    /// The latest.
    pub last_ms: u64,
    /// The first entry. Others of other times may lie between.
    pub first_sequence: Sequence,
    /// How many entries.
    pub count: u64,
}

#[derive(Serialize, Deserialize)]
struct SpanRecord {
    first_ms: u64,
    first_sequence: u64,
    count: u64,
}

#[derive(Serialize, Deserialize)]
struct NewestRecord {
    last_ms: u64,
}

/// Why the past cannot be looked at.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum PastError {
    /// The log cannot be read.
    #[error("the log cannot be read")]
    Log(#[from] ReadError),
    /// The records cannot be read.
    #[error("the records of imports cannot be read")]
    Records(#[from] RecordError),
    /// A record does not say what it should.
    #[error("a record of an import is damaged")]
    Damaged,
}

impl Span {
    /// The record that says so.
    #[must_use]
    pub fn derived(&self, channel: ChannelId) -> Derived {
        let record = SpanRecord {
            first_ms: self.first_ms,
            first_sequence: self.first_sequence.0,
            count: self.count,
        };
        written(Table::Imports, time_key(channel, self.last_ms), &record)
    }
}

/// The record of the last time of all spans.
#[must_use]
pub fn newest(channel: ChannelId, last_ms: u64) -> Derived {
    written(Table::Imports, newest_key(channel), &NewestRecord { last_ms })
}

/// The row of a straggler.
#[must_use]
pub fn straggler(channel: ChannelId, time_ms: u64, identity: u64) -> Derived {
    let key = straggler_key(channel, time_ms, identity);
    Derived { table: Table::ImportKeys, key, value: Some(Bytes::new()) }
}

/// The last time of all spans of a channel; 0 when there is none.
///
/// # Errors
/// When the record cannot be read.
pub async fn read_newest<E: Engine>(engine: &E, channel: ChannelId) -> Result<u64, PastError> {
    let found = engine.get(Table::Imports, &newest_key(channel)).await?;
    let Some(found) = found else { return Ok(0) };
    parse::<NewestRecord>(&found.value).map(|record| record.last_ms)
}

fn written(table: Table, key: String, record: &impl Serialize) -> Derived {
    let value = serde_json::to_vec(record).expect("numbers always have a JSON form").into();
    Derived { table, key, value: Some(value) }
}

fn parse<T: for<'de> Deserialize<'de>>(value: &[u8]) -> Result<T, PastError> {
    serde_json::from_slice(value).map_err(|_| PastError::Damaged)
}

fn prefix(channel: ChannelId) -> String {
    format!("{:010}:", channel.0)
}

fn time_key(channel: ChannelId, time_ms: u64) -> String {
    format!("{:010}:{time_ms:020}", channel.0)
}

/// Behind all times: digits come before letters.
fn newest_key(channel: ChannelId) -> String {
    format!("{:010}:newest", channel.0)
}

fn straggler_key(channel: ChannelId, time_ms: u64, identity: u64) -> String {
    format!("{:010}:{time_ms:020}:{identity:016x}", channel.0)
}

/// A line that is older than the newest span of its channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Old {
    /// When it was written.
    pub time_ms: u64,
    /// By what its record is known again.
    pub identity: u64,
    /// Whether it has an id. The engine's keys tell such lines apart as well.
    pub has_id: bool,
    /// Its place where it comes from.
    pub sequence: Option<NonZeroU64>,
}

impl Old {
    /// By what it is known among stragglers: equal lines of different places are different.
    #[must_use]
    pub fn own_identity(&self) -> u64 {
        match self.sequence {
            Some(sequence) if !self.has_id => identity_at(self.identity, sequence),
            _ => self.identity,
        }
    }
}

/// Where a new line's time lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Within a span.
    Span,
    /// Before the span that ends at this time, and after the one before that. At the end of time: after
    /// the last one.
    Gap(u64),
}

/// What was looked up of the past, as far as it is kept in memory.
pub struct Past<E> {
    engine: Arc<E>,
    /// The last ones first.
    held: VecDeque<Held>,
    stragglers: HashMap<ChannelId, Stragglers>,
    stragglers_held: usize,
    /// New ones of the next commit, and of the one under way: their rows may not be there yet.
    gathered: HashSet<(ChannelId, u64)>,
    under_way: HashSet<(ChannelId, u64)>,
}

/// A range of a channel's time of which everything is known.
struct Held {
    channel: ChannelId,
    first_ms: u64,
    last_ms: u64,
    place: Place,
    /// Of all records in it, sorted.
    identities: Vec<u64>,
    /// Which places the equal lines have that were found in it: each record is one of them.
    claims: HashMap<u64, Vec<NonZeroU64>>,
}

enum Stragglers {
    All(HashSet<u64>),
    TooMany,
}

impl<E: Engine> Past<E> {
    /// Nothing is kept yet.
    #[must_use]
    pub fn new(engine: Arc<E>) -> Self {
        Self {
            engine,
            held: VecDeque::new(),
            stragglers: HashMap::new(),
            stragglers_held: 0,
            gathered: HashSet::new(),
            under_way: HashSet::new(),
        }
    }

    /// Where an old line's time lies, if it is new. `None`: it is there already.
    ///
    /// # Errors
    /// When the engine does not say.
    pub async fn find(
        &mut self,
        channel: ChannelId,
        old: &Old,
    ) -> Result<Option<Place>, PastError> {
        let held = self.range_at(channel, old.time_ms).await?;
        let place = held.place;
        if held.has(old) || self.is_straggler(channel, old).await? {
            return Ok(None);
        }
        Ok(Some(place))
    }

    /// A new straggler is in the next commit. Its row may not be there when others are read.
    pub fn add_straggler(&mut self, channel: ChannelId, identity: u64) {
        self.gathered.insert((channel, identity));
    }

    /// What was gathered is under way.
    pub fn begin_commit(&mut self) {
        self.under_way = std::mem::take(&mut self.gathered);
    }

    /// What was under way is in the log.
    pub fn end_commit(&mut self) {
        for (channel, identity) in self.under_way.drain() {
            if let Some(Stragglers::All(known)) = self.stragglers.get_mut(&channel)
                && known.insert(identity)
            {
                self.stragglers_held += 1;
            }
        }
    }

    /// A new span is on its way into the log: what was empty may no longer be.
    pub fn forget_gaps(&mut self, channel: ChannelId) {
        self.held.retain(|held| held.channel != channel || held.place == Place::Span);
    }

    /// Forgets everything: it is read again.
    pub fn forget(&mut self) {
        self.held.clear();
        self.gathered.clear();
        self.under_way.clear();
        self.stragglers.clear();
        self.stragglers_held = 0;
    }

    async fn range_at(&mut self, channel: ChannelId, time_ms: u64) -> Result<&mut Held, PastError> {
        let covers = |held: &Held| {
            held.channel == channel && (held.first_ms..=held.last_ms).contains(&time_ms)
        };
        match self.held.iter().position(covers) {
            Some(0) => {}
            Some(place) => {
                let held = self.held.remove(place).expect("it was found there");
                self.held.push_front(held);
            }
            None => {
                let held = self.read(channel, time_ms).await?;
                self.held.truncate(IMPORT_SPANS_HELD_MAX - 1);
                self.held.push_front(held);
            }
        }
        Ok(&mut self.held[0])
    }

    /// Reads the span around a time, or finds the gap.
    async fn read(&self, channel: ChannelId, time_ms: u64) -> Result<Held, PastError> {
        let before = time_key(channel, time_ms.saturating_sub(1));
        let prefix = prefix(channel);
        let found = self.engine.scan(Table::Imports, &prefix, Some(&before), 1).await?;
        let next = match found.first() {
            Some((key, found)) => {
                let last_ms = key.strip_prefix(&prefix).and_then(|time| time.parse().ok());
                last_ms.map(|last_ms: u64| {
                    parse::<SpanRecord>(&found.value).map(|span| (last_ms, span))
                })
            }
            None => None,
        };
        let mut held = Held {
            channel,
            first_ms: time_ms,
            last_ms: time_ms,
            place: Place::Gap(u64::MAX),
            identities: Vec::new(),
            claims: HashMap::new(),
        };
        // Behind the last span: the newest line turned out to be known by its id, and is in none.
        let Some(next) = next else { return Ok(held) };
        let (last_ms, span) = next?;
        (held.first_ms, held.last_ms, held.place) = (span.first_ms, last_ms, Place::Span);
        if time_ms < span.first_ms {
            held.place = Place::Gap(last_ms);
            held.first_ms = time_ms;
            held.last_ms = span.first_ms - 1;
            return Ok(held);
        }
        let mut from = Sequence(span.first_sequence);
        let end = from.plus(span.count);
        while from < end {
            let entries =
                self.engine.read(channel, ReadFrom::Holding(from), IMPORT_READ_BYTES_MAX).await?;
            let Some(last) = entries.last() else { break };
            let next = last.batch.last_sequence().next();
            for entry in &entries {
                let mut sequence = entry.batch.first_sequence;
                for record in entry.batch.records() {
                    let record = record.map_err(|_| PastError::Damaged)?;
                    if (from..end).contains(&sequence) {
                        held.identities.push(identity(record));
                    }
                    sequence = sequence.next();
                }
            }
            from = next;
        }
        held.identities.sort_unstable();
        Ok(held)
    }

    async fn is_straggler(&mut self, channel: ChannelId, old: &Old) -> Result<bool, PastError> {
        let on_its_way = (channel, old.own_identity());
        if self.gathered.contains(&on_its_way) || self.under_way.contains(&on_its_way) {
            return Ok(true);
        }
        if !self.stragglers.contains_key(&channel) {
            self.read_stragglers(channel).await?;
        }
        if let Some(Stragglers::All(known)) = self.stragglers.get(&channel) {
            return Ok(known.contains(&old.own_identity()));
        }
        let key = straggler_key(channel, old.time_ms, old.own_identity());
        Ok(self.engine.get(Table::ImportKeys, &key).await?.is_some())
    }

    async fn read_stragglers(&mut self, channel: ChannelId) -> Result<(), PastError> {
        if self.stragglers_held >= IMPORT_STRAGGLERS_HELD_MAX {
            self.stragglers.clear();
            self.stragglers_held = 0;
        }
        let prefix = prefix(channel);
        let mut known = HashSet::new();
        let mut after: Option<String> = None;
        loop {
            let page = self
                .engine
                .scan(Table::ImportKeys, &prefix, after.as_deref(), IMPORT_STRAGGLERS_PER_SCAN)
                .await?;
            for (key, _) in &page {
                let identity = key.rsplit(':').next();
                let identity = identity.and_then(|hex| u64::from_str_radix(hex, 16).ok());
                known.insert(identity.ok_or(PastError::Damaged)?);
            }
            if self.stragglers_held + known.len() > IMPORT_STRAGGLERS_HELD_MAX {
                self.stragglers.insert(channel, Stragglers::TooMany);
                return Ok(());
            }
            match page.into_iter().next_back() {
                Some((last, _)) => after = Some(last),
                None => break,
            }
        }
        self.stragglers_held += known.len();
        self.stragglers.insert(channel, Stragglers::All(known));
        Ok(())
    }
}

impl Held {
    /// Whether one of the records here is this line.
    fn has(&mut self, old: &Old) -> bool {
        let first = self.identities.partition_point(|identity| *identity < old.identity);
        let equal = self.identities[first..].iter().take_while(|it| **it == old.identity).count();
        if equal == 0 {
            return false;
        }
        let Some(sequence) = old.sequence.filter(|_| !old.has_id) else { return true };
        let claims = self.claims.entry(old.identity).or_default();
        if claims.contains(&sequence) {
            return true;
        }
        let is_free = claims.len() < equal;
        if is_free {
            claims.push(sequence);
        }
        is_free
    }
}
