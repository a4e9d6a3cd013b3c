//! What an import will append to one channel: new lines in their order, cut into batches. Hot. Pure.
//!
//! The records stay where the decoder has put them: a batch whose records lie together there is a
//! slice of it, and only a batch over an edge is copied.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use foldhash::fast::RandomState;

use super::{
    decode::{Mark, Part},
    record::identity,
    times::{self, Old, Place, Span},
};
use crate::{
    engine::{Chain, Derived, MessageKey},
    limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, IMPORT_SPAN_RECORDS, IMPORT_STRAGGLER_BYTES},
    log::{
        batch::{Batch, RECORD_TAG},
        place::{BatchId, ChannelId, ClientMessageId, Head, UserId},
    },
};

type Identities = HashSet<u64, RandomState>;

/// New lines of one channel.
#[derive(Debug)]
pub struct Pending {
    runs: Vec<Run>,
    count: usize,
    bytes: usize,
    /// The time up to which the past must be asked: the end of the newest span.
    floor_ms: u64,
    /// The latest time in here, or the floor.
    last_ms: u64,
    /// Whether the lines above the floor are in the order of their times.
    is_sorted: bool,
    /// Of all lines in here; made when the first line comes that is not newer than all before it.
    identities: Option<Identities>,
    /// The ids in here, and where.
    ids: HashMap<(UserId, ClientMessageId), Key, RandomState>,
    stragglers: Vec<Straggler>,
}

#[derive(Clone, Debug)]
struct Run {
    part: Arc<Part>,
    items: Range<usize>,
    block: usize,
}

#[derive(Clone, Copy, Debug)]
struct Key {
    /// Which line in here, from 0.
    place: usize,
    digest: u64,
}

#[derive(Clone, Copy, Debug)]
struct Straggler {
    time_ms: u64,
    /// What its row says. `None`: it has an id, which tells as much.
    row: Option<u64>,
    place: Place,
}

/// Where [`Pending::advance`] stopped in a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// At its end.
    End,
    /// At a line that may be in the past. Whoever knows calls [`Pending::add_straggler`] if it is new,
    /// and goes on behind it.
    Old(usize, Old),
}

impl Pending {
    /// Nothing yet, on a channel whose newest span ends at this time.
    #[must_use]
    pub fn new(floor_ms: u64) -> Self {
        Self {
            runs: Vec::new(),
            count: 0,
            bytes: 0,
            floor_ms,
            last_ms: floor_ms,
            is_sorted: true,
            identities: None,
            ids: HashMap::default(),
            stragglers: Vec::new(),
        }
    }

    /// How many lines.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// What they take of a commit.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The end of the channel's newest span once this is committed.
    #[must_use]
    pub const fn last_ms(&self) -> u64 {
        self.last_ms
    }

    /// Whether this brings a channel a span where none was.
    #[must_use]
    pub fn has_span(&self) -> bool {
        self.last_ms > self.floor_ms || self.lies_in_one_gap()
    }

    /// Takes the new lines of a part from this item on. Equal lines count once.
    pub fn advance(&mut self, part: &Arc<Part>, block: usize, from: usize) -> Step {
        let items = &part.items;
        let mut at = from;
        let mut marks = &part.marks[part.marks.partition_point(|mark| mark.item < from)..];
        while at < items.len() {
            // What is newer than all before it is new. Most lines are.
            let plain_end = marks.first().map_or(items.len(), |mark| mark.item);
            let start = at;
            let mut last_ms = self.last_ms;
            while at < plain_end && items[at].time_ms > last_ms {
                last_ms = items[at].time_ms;
                at += 1;
            }
            if at > start {
                self.last_ms = last_ms;
                self.push(part, start..at, block);
            }
            if at == items.len() {
                break;
            }
            let mark = marks.first().filter(|mark| mark.item == at);
            if mark.is_some() {
                marks = &marks[1..];
            } else if at == plain_end {
                continue;
            }
            if let Some(old) = self.take_one(part, block, at, mark) {
                return Step::Old(at, old);
            }
            at += 1;
        }
        Step::End
    }

    /// Takes one line, if it is new. Answers it, if only the past can tell.
    fn take_one(
        &mut self,
        part: &Arc<Part>,
        block: usize,
        at: usize,
        mark: Option<&Mark>,
    ) -> Option<Old> {
        let time_ms = part.items[at].time_ms;
        let key = mark.and_then(|mark| Some((mark.user, mark.id?)));
        if key.is_some_and(|key| self.ids.contains_key(&key)) {
            return None;
        }
        if time_ms <= self.floor_ms {
            let old = old(part, at, mark);
            let own = old.own_identity();
            let is_here = !old.has_id && self.identities().contains(&own);
            return (!is_here).then_some(old);
        }
        if time_ms <= self.last_ms {
            let own = old(part, at, mark).own_identity();
            if self.identities().contains(&own) {
                return None;
            }
            self.is_sorted &= time_ms == self.last_ms;
        }
        self.last_ms = self.last_ms.max(time_ms);
        self.push_marked(part, at, block, mark);
        None
    }

    /// Takes a line that is not newer than the newest span, and that is new.
    pub fn add_straggler(
        &mut self,
        part: &Arc<Part>,
        block: usize,
        at: usize,
        old: &Old,
        place: Place,
    ) {
        let row = (!old.has_id).then(|| old.own_identity());
        self.stragglers.push(Straggler { time_ms: old.time_ms, row, place });
        self.bytes += IMPORT_STRAGGLER_BYTES;
        let mark = part.marks.binary_search_by_key(&at, |mark| mark.item).ok();
        self.push_marked(part, at, block, mark.map(|mark| &part.marks[mark]));
    }

    fn push_marked(&mut self, part: &Arc<Part>, at: usize, block: usize, mark: Option<&Mark>) {
        if let Some(Mark { user, id: Some(id), digest, .. }) = mark {
            self.ids.insert((*user, *id), Key { place: self.count, digest: *digest });
            self.bytes += size_of::<MessageKey>();
        }
        self.push(part, at..at + 1, block);
    }

    fn push(&mut self, part: &Arc<Part>, items: Range<usize>, block: usize) {
        if let Some(identities) = &mut self.identities {
            identities.extend(items.clone().map(|at| own_identity(part, at)));
        }
        self.count += items.len();
        self.bytes += part.bytes_of(&items).len();
        match self.runs.last_mut() {
            Some(last) if Arc::ptr_eq(&last.part, part) && last.items.end == items.start => {
                last.items.end = items.end;
            }
            _ => self.runs.push(Run { part: Arc::clone(part), items, block }),
        }
    }

    fn identities(&mut self) -> &Identities {
        self.identities.get_or_insert_with(|| {
            let of_run = |run: &Run| {
                let part = Arc::clone(&run.part);
                run.items.clone().map(move |at| own_identity(&part, at))
            };
            self.runs.iter().flat_map(of_run).collect()
        })
    }

    /// Identities of the lines of the latest moment, if there are new moments in here.
    #[must_use]
    pub fn last_moment(&self) -> Option<HashSet<u64>> {
        if self.last_ms == self.floor_ms {
            return None;
        }
        let of_run = |run: &Run| {
            let (part, last_ms) = (Arc::clone(&run.part), self.last_ms);
            let items = run.items.clone().filter({
                let part = Arc::clone(&part);
                move |at| part.items[*at].time_ms == last_ms
            });
            items.map(move |at| own_identity(&part, at))
        };
        Some(self.runs.iter().flat_map(of_run).collect())
    }

    /// Drops the lines that have these keys. Answers of which blocks, each as often as it had one.
    pub fn remove(&mut self, keys: &[MessageKey]) -> Vec<usize> {
        let places: HashSet<usize> = keys
            .iter()
            .filter_map(|key| self.ids.remove(&(key.user, key.client_message_id)))
            .map(|key| key.place)
            .collect();
        let runs = std::mem::take(&mut self.runs);
        let mut digests: HashMap<usize, _> =
            self.ids.drain().map(|(id, key)| (key.place, (id, key.digest))).collect();
        let mut blocks = Vec::new();
        let mut place = 0;
        (self.count, self.bytes) = (0, self.stragglers.len() * IMPORT_STRAGGLER_BYTES);
        for Run { part, items, block } in runs {
            for at in items {
                if places.contains(&place) {
                    blocks.push(block);
                } else {
                    if let Some((id, digest)) = digests.remove(&place) {
                        self.ids.insert(id, Key { place: self.count, digest });
                        self.bytes += size_of::<MessageKey>();
                    }
                    self.push(&part, at..at + 1, block);
                }
                place += 1;
            }
        }
        blocks
    }

    /// How many lines of each block are in here.
    pub fn blocks(&self) -> impl Iterator<Item = (usize, usize)> {
        self.runs.iter().map(|run| (run.block, run.items.len()))
    }

    /// The chain that appends all of it to `head`.
    ///
    /// # Panics
    /// When there is nothing.
    pub fn chain(
        &self,
        channel: ChannelId,
        head: &Head,
        now_ms: u64,
        mut next_id: impl FnMut() -> BatchId,
    ) -> Chain {
        assert!(self.count > 0, "a chain appends something");
        let mut batches: Vec<Arc<Batch>> = Vec::with_capacity(self.count / BATCH_MESSAGES_MAX + 2);
        let mut end = *head;
        for (count, records) in self.cut() {
            let batch = Batch {
                epoch: end.epoch,
                id: next_id(),
                previous: end.batch,
                first_sequence: end.sequence.next(),
                count,
                timestamp_ms: now_ms.max(end.timestamp_ms),
                records,
            };
            end = batch.head(head.cursor);
            batches.push(Arc::new(batch));
        }
        let first_sequence = head.sequence.next();
        let mut keys: Vec<MessageKey> = self
            .ids
            .iter()
            .map(|((user, client_message_id), key)| MessageKey {
                user: *user,
                client_message_id: *client_message_id,
                sequence: first_sequence.plus(key.place as u64),
                digest: key.digest,
            })
            .collect();
        keys.sort_unstable_by_key(|key| key.sequence);
        let derived = self.derived(channel, head);
        Chain { channel, after: head.cursor, batches, keys, derived }
    }

    /// The records of each batch, and how many.
    fn cut(&self) -> Vec<(u16, Bytes)> {
        let mut cut = Vec::with_capacity(self.count / BATCH_MESSAGES_MAX + 2);
        let mut pieces: Vec<Bytes> = Vec::new();
        let (mut count, mut bytes) = (0, 0);
        let mut close = |pieces: &mut Vec<Bytes>, count: &mut usize, bytes: &mut usize| {
            let records = match &pieces[..] {
                [only] => only.clone(),
                several => {
                    let mut records = BytesMut::with_capacity(*bytes);
                    several.iter().for_each(|piece| records.extend_from_slice(piece));
                    records.freeze()
                }
            };
            cut.push((u16::try_from(*count).expect("BATCH_MESSAGES_MAX fits 16 bits"), records));
            pieces.clear();
            (*count, *bytes) = (0, 0);
        };
        for Run { part, items, .. } in &self.runs {
            let mut at = items.start;
            while at < items.end {
                let start = part.bytes_of(&(at..at)).start;
                let most = (items.end - at).min(BATCH_MESSAGES_MAX - count);
                let room = BATCH_BYTES_MAX.saturating_sub(bytes);
                let mut fitting = part.items[at..at + most]
                    .partition_point(|item| item.end as usize - start <= room);
                if fitting == 0 && count == 0 {
                    // A message that is larger than a batch has one of its own.
                    fitting = 1;
                }
                if fitting > 0 {
                    let piece = part.bytes_of(&(at..at + fitting));
                    bytes += piece.len();
                    pieces.push(part.records.slice(piece));
                    count += fitting;
                    at += fitting;
                }
                if at < items.end || count == BATCH_MESSAGES_MAX {
                    close(&mut pieces, &mut count, &mut bytes);
                }
            }
        }
        if count > 0 {
            close(&mut pieces, &mut count, &mut bytes);
        }
        cut
    }

    fn derived(&self, channel: ChannelId, head: &Head) -> Vec<Derived> {
        let first_sequence = head.sequence.next();
        let whole = |first_ms, last_ms| Span {
            first_ms,
            last_ms,
            first_sequence,
            count: self.count as u64,
        };
        if self.last_ms == self.floor_ms {
            let times = self.stragglers.iter().map(|straggler| straggler.time_ms);
            if self.lies_in_one_gap()
                && let (Some(first_ms), Some(last_ms)) = (times.clone().min(), times.max())
            {
                let span = whole(first_ms, last_ms).derived(channel);
                return vec![span, times::newest(channel, self.last_ms)];
            }
        }
        let mut derived: Vec<Derived> = self.rows(channel).collect();
        // Also where it is no news: the commit that was to say so may have had nothing new.
        derived.push(times::newest(channel, self.last_ms));
        if self.last_ms == self.floor_ms {
            return derived;
        }
        let mut span: Option<Span> = None;
        let mut sequence = first_sequence;
        for item in self.runs.iter().flat_map(|run| &run.part.items[run.items.clone()]) {
            match &mut span {
                _ if item.time_ms <= self.floor_ms => {}
                None => span = Some(Span { count: 1, ..whole(item.time_ms, item.time_ms) }),
                Some(open) => {
                    let count = sequence.0 - open.first_sequence.0;
                    let is_full = count >= IMPORT_SPAN_RECORDS && item.time_ms > open.last_ms;
                    if is_full && self.is_sorted {
                        derived.push(Span { count, ..*open }.derived(channel));
                        let (first_ms, last_ms) = (item.time_ms, item.time_ms);
                        *open = Span { first_ms, last_ms, first_sequence: sequence, count: 1 };
                    } else {
                        open.first_ms = open.first_ms.min(item.time_ms);
                        open.last_ms = open.last_ms.max(item.time_ms);
                    }
                }
            }
            sequence = sequence.next();
        }
        if let Some(open) = span {
            let count = sequence.0 - open.first_sequence.0;
            derived.push(Span { count, ..open }.derived(channel));
        }
        derived
    }

    fn rows(&self, channel: ChannelId) -> impl Iterator<Item = Derived> {
        self.stragglers.iter().filter_map(move |straggler| {
            Some(times::straggler(channel, straggler.time_ms, straggler.row?))
        })
    }

    /// Whether all of it lies between two spans: then it is another one.
    fn lies_in_one_gap(&self) -> bool {
        let mut places = self.stragglers.iter().map(|straggler| straggler.place);
        self.last_ms == self.floor_ms
            && places.next().is_some_and(|first| {
                matches!(first, Place::Gap(_)) && places.all(|place| place == first)
            })
    }
}

fn old(part: &Part, at: usize, mark: Option<&Mark>) -> Old {
    let framed = &part.records[part.bytes_of(&(at..at + 1))];
    let mut rest = framed.strip_prefix(&[RECORD_TAG]).unwrap_or(framed);
    // The decoder has written it: the length is there.
    let _ = prost::encoding::decode_varint(&mut rest);
    Old {
        time_ms: part.items[at].time_ms,
        identity: identity(rest),
        has_id: mark.is_some_and(|mark| mark.id.is_some()),
        sequence: mark.and_then(|mark| mark.sequence),
    }
}

fn own_identity(part: &Part, at: usize) -> u64 {
    let mark = part.marks.binary_search_by_key(&at, |mark| mark.item).ok();
    old(part, at, mark.map(|mark| &part.marks[mark])).own_identity()
}
