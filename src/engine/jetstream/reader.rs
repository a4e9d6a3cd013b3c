//! Reads the log of one channel from its stream.
//!
//! An entry's cursor is its sequence in the stream, which many channels share. So a place in a log is
//! found by halving the stream, and what lies before an entry by looking further and further back; then
//! pages are read forward. The end of a log is asked of the stream's leader, pages of any replica.
//!
//! Each entry names the one before it. One that names a later entry than the one found before it shows
//! that something is missing. One that names an earlier entry has lost a race: it is junk, which readers
//! skip.

use super::{
    api::{Api, ApiError, Stored},
    entry::{After, Payload},
    subject::Subjects,
};
use crate::{
    engine::{ReadError, shelf},
    limits::{JETSTREAM_PAGE_BYTES, JETSTREAM_PAGE_ENTRIES},
    log::{
        batch::{BatchError, Entry},
        place::{ChannelId, Cursor, Sequence},
    },
};

/// How many sequences the first look back spans. Each further one is longer if little was found.
const STEP: u64 = 64;
const STEP_GROWTH: u64 = 4;

/// An entry as it is in the log.
#[derive(Clone, Debug)]
pub(super) struct Logged {
    pub(super) at: Cursor,
    pub(super) payload: Payload,
}

impl Logged {
    /// The entry that it names as the one before it.
    pub(super) const fn after(&self) -> Cursor {
        self.payload.after.of(self.at)
    }

    pub(super) fn first(&self) -> Sequence {
        self.payload.batch.first_sequence
    }

    pub(super) const fn last(&self) -> Sequence {
        self.payload.batch.last_sequence()
    }

    /// As an entry that readers get, behind this one.
    pub(super) fn entry(self, channel: ChannelId, after: Cursor) -> Entry {
        Entry { channel, at: self.at, after, batch: self.payload.batch }
    }
}

/// The entry in a message of this channel's subject.
pub(super) fn decode(
    channel: ChannelId,
    subject: &str,
    stored: &Stored,
) -> Result<Logged, ReadError> {
    let at = Cursor(stored.sequence);
    let damaged = |source| ReadError::Damaged { cursor: at, source };
    if stored.subject != subject {
        return Err(damaged(BatchError::Misplaced));
    }
    let payload = Payload::decode(channel, &stored.payload).map_err(damaged)?;
    if payload.after.of(at) >= at {
        return Err(damaged(BatchError::UnknownFormat));
    }
    Ok(Logged { at, payload })
}

pub(super) fn unavailable(error: ApiError) -> ReadError {
    match error {
        ApiError::Unavailable => {}
        error => tracing::warn!(%error, "the log cannot be read"),
    }
    ReadError::StorageUnavailable
}

/// One channel's log.
#[derive(Debug)]
pub(super) struct Reader<'r> {
    api: &'r Api,
    channel: ChannelId,
    stream: String,
    subject: String,
}

impl<'r> Reader<'r> {
    pub(super) fn new(
        api: &'r Api,
        subjects: &Subjects,
        shelves: usize,
        channel: ChannelId,
    ) -> Self {
        let shelf = shelf(channel, shelves);
        let (stream, subject) = (subjects.log_stream(shelf), subjects.log(shelf, channel));
        Self { api, channel, stream, subject }
    }

    pub(super) fn stream(&self) -> &str {
        &self.stream
    }

    pub(super) fn subject(&self) -> &str {
        &self.subject
    }

    fn decode(&self, stored: &Stored) -> Result<Logged, ReadError> {
        decode(self.channel, &self.subject, stored)
    }

    /// The last entry, as the leader has it.
    pub(super) async fn last(&self) -> Result<Option<Logged>, ReadError> {
        let last = self.api.last(&self.stream, &self.subject).await.map_err(unavailable)?;
        last.map(|stored| self.decode(&stored)).transpose()
    }

    /// The first entry from this cursor on, as the leader has it.
    async fn next(&self, from: u64) -> Result<Option<Logged>, ReadError> {
        let next = self.api.next(&self.stream, from, &self.subject).await.map_err(unavailable)?;
        next.map(|stored| self.decode(&stored)).transpose()
    }

    /// The entry at this cursor, if it is still there.
    pub(super) async fn at(&self, cursor: Cursor) -> Result<Option<Logged>, ReadError> {
        let found = if cursor.0 == 0 { None } else { self.next(cursor.0).await? };
        Ok(found.filter(|found| found.at == cursor))
    }

    /// Whether `last` is the first entry behind this cursor. Its own word is not enough: what lost a race
    /// names the same one as the entry that it lost against.
    pub(super) async fn is_next(&self, cursor: Cursor, last: &Logged) -> Result<bool, ReadError> {
        let is_next = last.after() <= cursor;
        Ok(is_next && self.next(cursor.0 + 1).await?.is_some_and(|next| next.at == last.at))
    }

    /// The last entry up to this one that lost no race: the one that counts. `None`: there is none.
    pub(super) async fn last_won(&self, mut end: Logged) -> Result<Option<Logged>, ReadError> {
        loop {
            let first = self.first_of_chain(end.clone()).await?;
            if self.is_next(first.after(), &first).await? {
                return Ok(Some(end));
            }
            let mut count = 0;
            let pair = self.backward(first, |_| {
                count += 1;
                count <= 2
            });
            let mut pair = pair.await?.into_iter();
            match (pair.next(), pair.next()) {
                (Some(before), Some(_)) => end = before,
                _ => return Ok(None),
            }
        }
    }

    /// The first entry of the chain that ends with this one: the chain has won its race if that one has.
    async fn first_of_chain(&self, end: Logged) -> Result<Logged, ReadError> {
        if matches!(end.payload.after, After::At(_)) {
            return Ok(end);
        }
        let mut is_begun = false;
        let chain = self.backward(end.clone(), |logged| {
            let wanted = !is_begun;
            is_begun |= matches!(logged.payload.after, After::At(_));
            wanted
        });
        Ok(chain.await?.into_iter().next().unwrap_or(end))
    }

    /// Reads on from this cursor, which is included if `from` is one of an entry, up to the entry `last`,
    /// for as long as `take` wants more. It gets each entry with the cursor of the one before it.
    pub(super) async fn forward(
        &self,
        from: Cursor,
        last: Cursor,
        bytes: usize,
        mut take: impl FnMut(Logged, Cursor) -> bool,
    ) -> Result<(), ReadError> {
        let (mut next, mut before) = (from.0.max(1), None);
        let bytes = bytes.clamp(1, JETSTREAM_PAGE_BYTES);
        while next <= last.0 {
            let mut page = self.page(next, bytes).await?;
            if page.is_empty() {
                // The replica is behind; the leader knows.
                page.extend(self.next(next).await?);
            }
            let Some(end) = page.last() else { return Ok(()) };
            next = end.at.0 + 1;
            for logged in page.into_iter().take_while(|logged| logged.at <= last) {
                let actual = self.link(before, &logged).await?;
                before = Some(logged.at);
                if !take(logged, actual) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Reads back from the entry `end`, which is included, for as long as `take` wants more: the newest
    /// first. What it refuses is not in the answer, which is in order.
    pub(super) async fn backward(
        &self,
        end: Logged,
        mut take: impl FnMut(&Logged) -> bool,
    ) -> Result<Vec<Logged>, ReadError> {
        let mut taken = Vec::new();
        let mut step = STEP;
        let mut begun = (end.at.0, end.after());
        if !take(&end) {
            return Ok(taken);
        }
        taken.push(end);
        'back: loop {
            let (first_at, mut after) = begun;
            if after.0 == 0 {
                // Nothing is before it, unless it lost against the very first.
                match self.next(1).await? {
                    Some(first) if first.at.0 < first_at => after = first.at,
                    _ => break,
                }
            }
            let low = first_at.saturating_sub(step).min(after.0).max(1);
            let (earlier, is_whole) = self.between(low, first_at, after).await?;
            if !is_whole {
                // Too much for a page. Half as far, at worst only the entry before.
                step = (first_at - low) / 2;
                continue;
            }
            let Some(first) = earlier.first() else { break };
            begun = (first.at.0, first.after());
            if earlier.len() < JETSTREAM_PAGE_ENTRIES / 4 {
                step = (first_at - low).saturating_mul(STEP_GROWTH);
            }
            // Each with the one behind it: the newest of them with what was taken last.
            for logged in earlier.into_iter().rev() {
                if let Some(later) = taken.last() {
                    self.link(Some(logged.at), later).await?;
                }
                if !take(&logged) {
                    break 'back;
                }
                taken.push(logged);
            }
        }
        taken.reverse();
        Ok(taken)
    }

    /// The entries from `low` on before the one at `end`, which names `after` as the one before it; and
    /// whether these are all. From `after` on there are more only if the one at `end` has lost a race:
    /// then the last of them.
    async fn between(
        &self,
        low: u64,
        end: u64,
        after: Cursor,
    ) -> Result<(Vec<Logged>, bool), ReadError> {
        let (mut from, mut found) = (low, Vec::new());
        loop {
            let mut page = self.page(from, JETSTREAM_PAGE_BYTES).await?;
            let mut is_whole = page.last().is_some_and(|last| last.at.0 >= end);
            page.retain(|logged| logged.at.0 < end);
            let reaches = page.last().is_some_and(|last| last.at >= after);
            if !is_whole && (page.is_empty() || reaches) {
                let behind = page.last().map_or(from, |last| last.at.0 + 1);
                match self.next(behind).await? {
                    Some(next) if next.at.0 < end => page.push(next),
                    _ => is_whole = true,
                }
            }
            if let Some(last) = page.last() {
                from = last.at.0 + 1;
                found = page;
            }
            if is_whole || low < after.0 {
                return Ok((found, is_whole));
            }
        }
    }

    /// The first entry that ends with this sequence or a later one, in a log that ends with `last`.
    pub(super) async fn holding(
        &self,
        last: &Logged,
        sequence: Sequence,
    ) -> Result<Option<Logged>, ReadError> {
        if last.last() < sequence {
            return Ok(None);
        }
        // All up to `low` end before it; `high` does not, and there is no entry from `bound` to it.
        let (mut low, mut high, mut bound) = (Cursor(0), last.clone(), last.at.0);
        while high.after() > low && bound - low.0 > 1 {
            let middle = low.0 + (bound - low.0) / 2;
            match self.next(middle).await? {
                Some(probe) if probe.at < high.at => {
                    if probe.last() < sequence {
                        low = probe.at;
                    } else {
                        bound = middle;
                        high = probe;
                    }
                }
                _ => bound = middle,
            }
        }
        if high.first() > sequence && low.0 > 0 {
            // Junk may end before the very entry that it lost against, which holds the sequence.
            let from = self.at(low).await?.map_or(low, |junk| junk.after());
            let held = self.next(from.0 + 1).await?;
            if let Some(held) = held.filter(|it| it.at < high.at && it.last() >= sequence) {
                return Ok(Some(held));
            }
        }
        Ok(Some(high))
    }

    async fn page(&self, from: u64, bytes: usize) -> Result<Vec<Logged>, ReadError> {
        let count = JETSTREAM_PAGE_ENTRIES;
        let page = self.api.page(&self.stream, from, &self.subject, count, bytes).await;
        let (page, _) = page.map_err(unavailable)?;
        page.iter().map(|stored| self.decode(stored)).collect()
    }

    /// The cursor of the entry before this one: the one that was found there, or that it names itself.
    async fn link(&self, before: Option<Cursor>, logged: &Logged) -> Result<Cursor, ReadError> {
        let Some(before) = before else { return Ok(logged.after()) };
        if logged.after() > before && self.at(before).await?.is_some() {
            // The entries between the two are gone, and it was no trim: that begins at the front.
            let source = BatchError::BrokenChain;
            return Err(ReadError::Damaged { cursor: logged.at, source });
        }
        Ok(before.max(logged.after()))
    }
}
