//! The logs of the channels: appends, reads and the feed.
//!
//! An append is one publish, or one atomic batch of them, that expects the sequence of the log's last
//! entry. Before it this node knows all keys up to that very entry (see `keys`), and has settled what the
//! entry says of records; behind it, it settles its own.

use std::{
    iter,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use futures_util::{StreamExt as _, TryStreamExt as _, future::try_join_all, stream};
use tokio::sync::{Mutex as AsyncMutex, Semaphore, mpsc};

use super::{
    api::{Api, Publish, PublishError, Stored},
    ends::{End, Fit, Recent},
    entry::{After, Payload},
    feed::{Feeds, Known, News, Source},
    keys::{self, KeyWindow},
    reader::{Logged, Reader, decode, unavailable},
    settling::Settling,
    subject::{self, Subjects},
};
use crate::{
    engine::{
        Append, AppendError, Chain, Derived, Feed, LogEnd, Mark, MessageKey, ReadError, ReadFrom,
        ReadMax, RecordError, Refusal, shelf,
    },
    limits,
    log::{
        batch::{Batch, BatchError, Entry},
        place::{BatchId, ChannelId, ClientMessageId, Cursor, Sequence, UserId},
    },
};

/// A cluster's logs, as one node has them.
#[derive(Debug)]
pub(super) struct Log {
    api: Api,
    subjects: Subjects,
    settling: Arc<Settling>,
    /// Where the stream of each shelf is known to be.
    known: Vec<Arc<Known>>,
    seen: Mutex<Seen>,
    followers: Mutex<Vec<Follower>>,
    /// One for each chain on its way.
    chains: Semaphore,
    /// Held while a mark is made: two at a time could cross.
    marking: AsyncMutex<()>,
}

/// What is known of the channels that were used last.
#[derive(Debug, Default)]
struct Seen {
    ends: Recent<End>,
    windows: Recent<Window>,
    /// Sum of the windows' lengths.
    keys: usize,
}

#[derive(Debug)]
struct Window {
    keys: Arc<AsyncMutex<KeyWindow>>,
    /// How many keys it had when it was used last.
    len: usize,
}

/// One caller of `follow`.
#[derive(Debug)]
struct Follower {
    feed: mpsc::Sender<Feed>,
    /// Something was dropped because the feed was full, and it has not been reset yet.
    interrupted: bool,
}

impl Log {
    pub(super) fn new(
        api: Api,
        subjects: Subjects,
        shelves: usize,
        feeds: &Feeds,
        settling: Arc<Settling>,
    ) -> Self {
        let known = (0..shelves).map(|shelf| feeds.known(&subjects.log_stream(shelf)));
        Self {
            known: known.collect(),
            api,
            subjects,
            settling,
            seen: Mutex::default(),
            followers: Mutex::default(),
            chains: Semaphore::new(limits::JETSTREAM_CHAINS_AT_ONCE),
            marking: AsyncMutex::default(),
        }
    }

    /// What the feed of a shelf follows.
    pub(super) fn source(subjects: &Subjects, shelf: usize) -> Source {
        Source {
            stream: subjects.log_stream(shelf),
            subjects: subjects.logs(shelf),
            live: subjects.live_logs(shelf),
        }
    }

    fn reader(&self, channel: ChannelId) -> Reader<'_> {
        Reader::new(&self.api, &self.subjects, self.known.len(), channel)
    }

    pub(super) async fn append(&self, append: Append) -> Result<Cursor, AppendError> {
        let Append { channel, after, batch, keys, derived } = append;
        let chain = Chain { channel, after, batches: vec![batch], keys, derived };
        let cursors = self.append_chain(chain).await?;
        cursors.first().copied().ok_or(AppendError::Unknown)
    }

    pub(super) async fn append_chain(&self, chain: Chain) -> Result<Vec<Cursor>, AppendError> {
        if chain.batches.len() > limits::JETSTREAM_CHAIN_MAX {
            return Err(AppendError::Refused(Refusal::TooLarge));
        }
        let Chain { channel, after, batches, keys, derived } = chain;
        let reader = self.reader(channel);
        let window = self.window(channel);
        let mut window = window.lock().await;
        if window.position() != after {
            match self.extend(&reader, channel, &mut window).await {
                Ok(()) => {}
                // Whoever reads on is told so.
                Err(ReadError::Damaged { .. }) => return Err(AppendError::Moved),
                Err(_) => return Err(AppendError::Refused(Refusal::StorageUnavailable)),
            }
        }
        let leaves_hole = |it: keys::Last| it.sequence.next() != batches[0].first_sequence;
        if window.position() != after || window.last().is_some_and(leaves_hole) {
            return Err(AppendError::Moved);
        }
        let taken = window.taken(keys.iter().map(|key| (key.user, key.client_message_id)));
        if !taken.is_empty() {
            return Err(AppendError::Duplicates(taken));
        }
        // Nothing is appended behind an entry that is not settled.
        let mut ready = self.settling.settle(channel).await;
        if ready.is_ok() && !derived.is_empty() {
            ready = self.settling.announce(channel).await;
        }
        ready.map_err(|_| AppendError::Refused(Refusal::StorageUnavailable))?;

        let payloads = payloads(after, &batches, &keys, &derived);
        let last = self.publish(&reader, channel, after, &payloads).await?;
        self.known[shelf(channel, self.known.len())].committed(last);
        let first = last + 1 - payloads.len() as u64;
        let cursors: Vec<_> = (first..=last).map(Cursor).collect();
        for (at, payload) in cursors.iter().zip(&payloads) {
            window.take_in(*at, payload);
        }
        self.used(channel, window.len());
        if let Some(last) = window.last() {
            self.hold(channel, last.at, last.batch);
        }
        drop(window);
        if !derived.is_empty() {
            self.settling.seen(channel, Cursor(last), After::At(after), &derived, true);
            // It is in the log, and what follows from it is not in the records for sure.
            self.settling.settle(channel).await.map_err(|_| AppendError::Unknown)?;
        }
        Ok(cursors)
    }

    /// Stores the entries, all or none, and answers the cursor of the last.
    async fn publish(
        &self,
        reader: &Reader<'_>,
        channel: ChannelId,
        after: Cursor,
        payloads: &[Payload],
    ) -> Result<u64, AppendError> {
        let mut messages: Vec<_> = payloads
            .iter()
            .enumerate()
            .map(|(index, Payload { after: link, batch, keys, derived })| Publish {
                subject: reader.subject().to_owned(),
                headers: Vec::new(),
                payload: Payload::encode(channel, *link, batch, keys, derived),
                expect: (index == 0).then_some(after.0),
            })
            .collect();
        let published = match messages.pop() {
            Some(message) if messages.is_empty() => self.api.publish(message).await,
            last => {
                let _one_of_them = self.chains.acquire().await;
                messages.extend(last);
                self.api.publish_all(messages, None).await
            }
        };
        published.map_err(|error| match error {
            PublishError::Moved => AppendError::Moved,
            PublishError::Unknown => AppendError::Unknown,
            PublishError::TooLarge => AppendError::Refused(Refusal::TooLarge),
            PublishError::Refused { .. } => {
                tracing::warn!(channel = channel.0, %error, "an append was refused");
                AppendError::Refused(Refusal::StorageUnavailable)
            }
        })
    }

    /// The window of a channel's keys, which may be empty or behind.
    fn window(&self, channel: ChannelId) -> Arc<AsyncMutex<KeyWindow>> {
        let windows = &mut self.seen().windows;
        if let Some(window) = windows.used(channel) {
            return Arc::clone(&window.keys);
        }
        let keys = Arc::default();
        windows.add(channel, Window { keys: Arc::clone(&keys), len: 0 });
        keys
    }

    /// A channel's window has so many keys now. Forgets the windows not used for longest while there are
    /// too many.
    fn used(&self, channel: ChannelId, len: usize) {
        let seen = &mut *self.seen();
        if let Some(window) = seen.windows.used(channel) {
            seen.keys = seen.keys + len - window.len;
            window.len = len;
        }
        while seen.keys > limits::JETSTREAM_KEYS_ALL_MAX && seen.windows.len() > 1
            || seen.windows.len() > limits::JETSTREAM_WINDOWS_MAX
        {
            let Some(window) = seen.windows.forget_oldest() else { break };
            seen.keys -= window.len;
        }
    }

    /// Takes in all keys up to the log's end.
    async fn extend(
        &self,
        reader: &Reader<'_>,
        channel: ChannelId,
        window: &mut KeyWindow,
    ) -> Result<(), ReadError> {
        let Some(last) = self.last(reader, channel).await? else {
            *window = KeyWindow::default();
            return Ok(());
        };
        let position = window.position();
        if position == last.at {
            return Ok(());
        }
        let behind = last.at.0.saturating_sub(position.0);
        let is_known = position.0 > 0 && position < last.at;
        if is_known && reader.is_next(position, &last).await? {
            window.take_in(last.at, &last.payload);
        } else if is_known && behind <= limits::JETSTREAM_KEYS_BEHIND_MAX {
            let begin = Cursor(position.0 + 1);
            let take = |logged: Logged, _| {
                window.take_in(logged.at, &logged.payload);
                true
            };
            reader.forward(begin, last.at, usize::MAX, take).await?;
        } else {
            let newest_ms = last.payload.batch.timestamp_ms;
            let (mut keys, mut bytes) = (0, 0);
            let mut is_enough = false;
            let entries = reader.backward(last, |logged| {
                let wanted = !is_enough;
                let batch = &logged.payload.batch;
                keys += logged.payload.keys.len();
                bytes += batch.encoded_bytes();
                is_enough = bytes > limits::JETSTREAM_KEYS_BYTES_MAX
                    || keys::is_full(keys, batch.timestamp_ms, newest_ms);
                wanted
            });
            *window = KeyWindow::default();
            for logged in entries.await? {
                window.take_in(logged.at, &logged.payload);
            }
        }
        self.used(channel, window.len());
        Ok(())
    }

    /// The log's last entry, as the leader has it. What it says of records is remembered.
    async fn last(
        &self,
        reader: &Reader<'_>,
        channel: ChannelId,
    ) -> Result<Option<Logged>, ReadError> {
        let last = reader.last().await?;
        self.check_end(channel, last.as_ref().map(|last| (last.at, last.payload.batch.id)))?;
        if let Some(last) = &last {
            let Payload { after, derived, .. } = &last.payload;
            self.settling.seen(channel, last.at, *after, derived, false);
        }
        Ok(last)
    }

    /// Compares a log's end with what was seen of it before.
    fn check_end(
        &self,
        channel: ChannelId,
        last: Option<(Cursor, BatchId)>,
    ) -> Result<(), ReadError> {
        let ends = &mut self.seen().ends;
        let fit = match ends.used(channel) {
            Some(end) => end.see(last, Instant::now()),
            None => {
                if let Some((at, batch)) = last {
                    add_end(ends, channel, End::new(at, batch));
                }
                Fit::Grown
            }
        };
        match fit {
            Fit::Grown => Ok(()),
            Fit::Behind => Err(ReadError::StorageUnavailable),
            Fit::Lost(cursor) => {
                Err(ReadError::Damaged { cursor, source: BatchError::BrokenChain })
            }
        }
    }

    /// This entry is in the log.
    fn hold(&self, channel: ChannelId, at: Cursor, batch: BatchId) {
        let ends = &mut self.seen().ends;
        match ends.used(channel) {
            Some(end) => end.holds(at, batch),
            None => add_end(ends, channel, End::new(at, batch)),
        }
    }

    pub(super) async fn mark(&self) -> Result<Mark, ReadError> {
        let _one_at_a_time = self.marking.lock().await;
        let ends = (0..self.known.len()).map(|shelf| async move {
            let info = self.api.stream(&self.subjects.log_stream(shelf)).await;
            let info = info.map_err(unavailable)?.ok_or(ReadError::StorageUnavailable)?;
            Ok(Cursor(info.state.last_seq))
        });
        Ok(Mark::new(try_join_all(ends).await?))
    }

    pub(super) async fn read(
        &self,
        channel: ChannelId,
        from: ReadFrom,
        max: ReadMax,
    ) -> Result<Vec<Entry>, ReadError> {
        let reader = self.reader(channel);
        let Some(last) = self.last(&reader, channel).await? else { return Ok(Vec::new()) };
        // Who has read it may tell the world, and then its records must say it too.
        let settled = self.settling.settle(channel).await;
        settled.map_err(|_| ReadError::StorageUnavailable)?;

        let begin = match from {
            ReadFrom::After(cursor) if cursor >= last.at => return Ok(Vec::new()),
            ReadFrom::After(cursor) => {
                if last.after() == cursor && reader.is_next(cursor, &last).await? {
                    return Ok(vec![last.entry(channel, cursor)]);
                }
                cursor
            }
            ReadFrom::Holding(sequence) => match reader.holding(&last, sequence).await? {
                Some(first) => first.at,
                None => return Ok(Vec::new()),
            },
            ReadFrom::Tail => return back(&reader, channel, last, from, max).await,
            ReadFrom::EndingWith(sequence) => {
                let end = match reader.holding(&last, sequence.next()).await? {
                    None => Some(last),
                    Some(next) if next.first() <= sequence => Some(next),
                    Some(next) => reader.at(next.after()).await?,
                };
                return match end.filter(|end| end.first() <= sequence) {
                    Some(end) => back(&reader, channel, end, from, max).await,
                    None => Ok(Vec::new()),
                };
            }
        };
        let mut entries = Fitting::new(from, max);
        let mut is_other = None;
        let known = self.seen().ends.peek(channel).copied();
        let take = |logged: Logged, after| {
            if matches!(from, ReadFrom::After(cursor) if logged.at == cursor) {
                let other = known.filter(|it| it.at == logged.at);
                is_other = other.filter(|it| it.batch != logged.payload.batch.id);
                return is_other.is_none();
            }
            entries.push(logged.entry(channel, after))
        };
        // The entry at the cursor is read too, so that one which is missing behind it shows.
        reader.forward(begin, last.at, max.bytes, take).await?;
        match is_other {
            Some(End { at: cursor, .. }) => {
                Err(ReadError::Damaged { cursor, source: BatchError::BrokenChain })
            }
            None => Ok(entries.entries),
        }
    }

    pub(super) async fn heads(&self, channels: Vec<ChannelId>) -> Result<Vec<LogEnd>, ReadError> {
        let ends = channels.into_iter().map(|channel| async move {
            match self.last(&self.reader(channel), channel).await {
                Ok(None) => Ok(LogEnd::Empty),
                Ok(Some(last)) => Ok(LogEnd::At(last.payload.batch.head(last.at).position())),
                Err(ReadError::Damaged { source, .. }) => Ok(LogEnd::Damaged(source)),
                Err(error) => Err(error),
            }
        });
        stream::iter(ends).buffered(limits::JETSTREAM_HEADS_AT_ONCE).try_collect().await
    }

    pub(super) async fn find_keys(
        &self,
        channel: ChannelId,
        keys: &[(UserId, ClientMessageId)],
    ) -> Result<Vec<MessageKey>, ReadError> {
        let window = self.window(channel);
        let mut window = window.lock().await;
        self.extend(&self.reader(channel), channel, &mut window).await?;
        Ok(window.taken(keys.iter().copied()))
    }

    pub(super) async fn keys(
        &self,
        channel: ChannelId,
        first: Sequence,
        last: Sequence,
    ) -> Result<Vec<MessageKey>, ReadError> {
        let reader = self.reader(channel);
        let mut keys = Vec::new();
        let Some(end) = self.last(&reader, channel).await? else { return Ok(keys) };
        let Some(begin) = reader.holding(&end, first).await? else { return Ok(keys) };
        let take = |logged: Logged, before| {
            let is_within = logged.first() <= last;
            // One that names an earlier entry is junk, and its messages are not there.
            if is_within && logged.after() == before {
                let keys_of = logged.payload.keys.into_iter();
                keys.extend(keys_of.filter(|key| (first..=last).contains(&key.sequence)));
            }
            is_within
        };
        reader.forward(begin.at, end.at, usize::MAX, take).await?;
        Ok(keys)
    }

    pub(super) async fn trim(
        &self,
        channel: ChannelId,
        sequence: Sequence,
    ) -> Result<(), RecordError> {
        let failed = |_| RecordError::StorageUnavailable;
        let reader = self.reader(channel);
        let Some(last) = self.last(&reader, channel).await.map_err(failed)? else { return Ok(()) };
        let kept = reader.holding(&last, sequence).await.map_err(failed)?.unwrap_or(last);
        let purged = self.api.purge(reader.stream(), reader.subject(), kept.at.0).await;
        purged.map_err(|error| {
            tracing::warn!(channel = channel.0, %error, "a trim was refused");
            RecordError::StorageUnavailable
        })?;
        self.window(channel).lock().await.trim(kept.first());
        Ok(())
    }

    pub(super) fn follow(&self) -> mpsc::Receiver<Feed> {
        let (feed, news) = mpsc::channel(limits::FEED_MAX);
        self.followers().push(Follower { feed, interrupted: false });
        news
    }

    /// Ends every feed.
    pub(super) fn close(&self) {
        self.followers().clear();
    }

    /// Passes on what the feed of one shelf tells, and learns from it.
    pub(super) async fn tell(self: Arc<Self>, mut news: mpsc::Receiver<News>) {
        while let Some(news) = news.recv().await {
            let told = match news {
                News::Reset { .. } => {
                    self.settling.missed();
                    Some(Feed::Reset)
                }
                News::Stored(stored) => self.learn(&stored).map(Feed::Entry),
            };
            if let Some(told) = told {
                self.followers().retain_mut(|follower| follower.send(&told));
            }
        }
    }

    fn learn(&self, stored: &Stored) -> Option<Entry> {
        let channel = Subjects::channel_of(&stored.subject)?;
        let subject = self.subjects.log(shelf(channel, self.known.len()), channel);
        let logged = match decode(channel, &subject, stored) {
            Ok(logged) => logged,
            Err(error) => {
                // The gap that it leaves makes everybody read the log, and that says so again.
                tracing::error!(channel = channel.0, %error, "the feed brought a damaged entry");
                return None;
            }
        };
        // What lost a race names an earlier entry than the server does.
        let before = stored.header(subject::LAST_SEQUENCE).and_then(|it| it.parse().ok());
        // In a page, which a gap is filled from, it is the entry before in the page.
        let before = before.filter(|_| stored.header(subject::PENDING).is_none());
        let before = before.map_or(Cursor(0), Cursor);
        let after = logged.after().max(before);
        let Payload { after: link, derived, .. } = &logged.payload;
        let has_won = before.0 > 0 && *link == After::At(before);
        self.hold(channel, logged.at, logged.payload.batch.id);
        self.settling.seen(channel, logged.at, *link, derived, has_won);
        let window = self.seen().windows.peek(channel).map(|window| Arc::clone(&window.keys));
        // One that is in use is extended by its user.
        if let Some(mut window) = window.as_ref().and_then(|window| window.try_lock().ok())
            && window.position().0 > 0
            && window.position() == after
        {
            window.take_in(logged.at, &logged.payload);
            self.used(channel, window.len());
        }
        Some(logged.entry(channel, after))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn followers(&self) -> MutexGuard<'_, Vec<Follower>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    /// Whether it still follows.
    fn send(&mut self, told: &Feed) -> bool {
        if self.interrupted {
            self.interrupted = self.feed.try_send(Feed::Reset).is_err();
        }
        if !self.interrupted {
            self.interrupted = self.feed.try_send(told.clone()).is_err();
        }
        !self.feed.is_closed()
    }
}

fn add_end(ends: &mut Recent<End>, channel: ChannelId, end: End) {
    ends.add(channel, end);
    while ends.len() > limits::JETSTREAM_WINDOWS_MAX {
        ends.forget_oldest();
    }
}

/// The entries of a chain. What is derived from it goes with the last: only that one may be unsettled.
fn payloads(
    after: Cursor,
    batches: &[Arc<Batch>],
    keys: &[MessageKey],
    derived: &[Derived],
) -> Vec<Payload> {
    let links = iter::once(After::At(after)).chain(iter::repeat(After::JustBefore));
    let of_batch = |batch: &Batch| {
        let range = batch.first_sequence..=batch.last_sequence();
        keys.iter().filter(|key| range.contains(&key.sequence)).copied().collect()
    };
    let mut payloads: Vec<_> = batches
        .iter()
        .zip(links)
        .map(|(batch, after)| Payload {
            after,
            batch: Batch::clone(batch),
            keys: of_batch(batch),
            derived: Vec::new(),
        })
        .collect();
    if let Some(last) = payloads.last_mut() {
        last.derived = derived.to_vec();
    }
    payloads
}

/// The entries that end with this one, as many as fit.
async fn back(
    reader: &Reader<'_>,
    channel: ChannelId,
    end: Logged,
    from: ReadFrom,
    max: ReadMax,
) -> Result<Vec<Entry>, ReadError> {
    let mut fitting = Fitting::new(from, max);
    let entries = reader.backward(end, |logged| fitting.fits(&logged.payload.batch)).await?;
    let mut before = None;
    let entries = entries.into_iter().map(|logged| {
        let after = logged.after().max(before.unwrap_or(Cursor(0)));
        before = Some(logged.at);
        logged.entry(channel, after)
    });
    Ok(entries.collect())
}

/// As many entries as fit, and at least one if there is one.
struct Fitting {
    from: ReadFrom,
    max: ReadMax,
    bytes: usize,
    messages: u64,
    count: usize,
    entries: Vec<Entry>,
}

impl Fitting {
    const fn new(from: ReadFrom, max: ReadMax) -> Self {
        Self { from, max, bytes: 0, messages: 0, count: 0, entries: Vec::new() }
    }

    /// Whether this one still fits.
    fn fits(&mut self, batch: &Batch) -> bool {
        let is_enough = self.messages >= self.max.messages;
        self.bytes = self.bytes.saturating_add(batch.encoded_bytes());
        self.messages = self.messages.saturating_add(self.from.wanted_of(batch));
        self.count += 1;
        self.count == 1 || (self.bytes <= self.max.bytes && !is_enough)
    }

    /// Adds it if it fits, and whether it did.
    fn push(&mut self, entry: Entry) -> bool {
        let fits = self.fits(&entry.batch);
        if fits {
            self.entries.push(entry);
        }
        fits
    }
}
