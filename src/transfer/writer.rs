//! The one task that brings imports into the log: blocks → chains of batches.
//!
//! It gathers the blocks that have come, of all imports, tells new lines from known ones, and appends
//! to many channels at once; what comes meanwhile is gathered for the next commit. To the engine it
//! is another node: it has no share in a channel's shard, and appends behind the tail that it read.
//!
//! Invariant: what a decision rests on is committed, under way, or in the same commit. When a commit
//! fails, everything that rests on it fails with it, and what this task remembers is dropped.

use std::{
    collections::{HashMap, HashSet},
    future::{Future, pending},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use thiserror::Error;
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::{Instant, sleep},
};

use super::{
    decode::{Author, Authors, Block, Part},
    line::ChannelLine,
    pending::{Pending, Step},
    times::{self, Old, Past, PastError},
};
use crate::{
    clock,
    engine::{AppendError, Chain, Engine, MessageKey, ReadError, ReadFrom, Refusal},
    hub::directory::{ChannelInfo, Directory, DirectoryError, records::ChannelRecord},
    limits::{
        IMPORT_ATTEMPTS_MAX, IMPORT_CHAINS_MAX, IMPORT_CHANNELS_LOADED_MAX, IMPORT_IDLE,
        IMPORT_LINGER, IMPORT_LINGER_BYTES, IMPORT_LOOKUPS_MAX, IMPORT_MOMENT_MAX, IMPORT_PAUSE,
        IMPORT_READ_BYTES_MAX, IMPORT_WINDOW_BYTES, IMPORT_WINDOW_RECORDS, READ_BYTES_MAX,
    },
    log::{
        batch::{Batch, Entry},
        place::{BatchId, ChannelId, Cursor, Head, Sequence, UserId},
        settings::{Settings, Usage},
    },
    wire::record::{self, Content},
};

/// Told of every commit: the channel, the entry before it, and the channel's end behind it.
pub type Imported = Arc<dyn Fn(ChannelId, Cursor, Head) + Send + Sync>;

/// What the task is asked.
pub enum Work {
    /// To bring a block into the log. The flag is the import's: once one of its blocks has failed, none
    /// of those behind it is taken, so that its lines stay in their order.
    Write(Block, Arc<AtomicBool>, oneshot::Sender<Result<Written, WriteError>>),
    /// To find or give the numbers of authors.
    Number(Vec<Author>, oneshot::Sender<Result<Vec<(Author, UserId)>, WriteError>>),
}

/// What became of a block's lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Written {
    /// How many are in the log by this.
    pub added: u64,
    /// How many were there before.
    pub known: u64,
}

/// Why a block did not get into the log, or not all of it.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum WriteError {
    /// The log takes nothing now.
    #[error("the log takes no more: {0}")]
    Refused(Refusal),
    /// Others were faster each time, or the engine could not tell.
    #[error("too many tries to append collided")]
    Contended,
    /// A channel or an author cannot be found or made.
    #[error("the directory has no answer")]
    Directory(#[from] DirectoryError),
    /// What was imported before cannot be found out.
    #[error("what was imported before cannot be read")]
    Past(#[from] PastError),
    /// The end of a channel cannot be read.
    #[error("the end of a channel cannot be read")]
    Tail(#[from] ReadError),
    /// A block of the same import before it has failed.
    #[error("what comes before it is not in the log")]
    Behind,
    /// The channel takes no more, by its quota.
    #[error("the channel {0} has no room for more")]
    NoRoom(Box<str>),
}

/// The task's state.
pub struct Writer<E> {
    engine: Arc<E>,
    directory: Arc<Directory<E>>,
    authors: Arc<Authors>,
    imported: Imported,
    mailbox: mpsc::Receiver<Work>,
    channels: HashMap<Box<str>, Channel>,
    past: Past<E>,
    window: Window,
    under_way: Option<UnderWay>,
    /// Held while authors are looked up: chunks that come together have the same ones, and the engine
    /// has other readers.
    numbering: Arc<Mutex<()>>,
}

/// A channel that is imported to.
struct Channel {
    id: ChannelId,
    head: Head,
    /// The end of its newest span, also of one that is under way.
    newest_ms: u64,
    /// All lines of just this time, if they are remembered: ends of commits split moments.
    newest_moment: Option<HashSet<u64>>,
    pending: Pending,
    is_under_way: bool,
    /// Whether it has no quota, at its head. A change of that is an entry, and so moves the head.
    is_unlimited: bool,
}

/// What the next commit will have.
#[derive(Default)]
struct Window {
    blocks: Vec<BlockOnItsWay>,
    records: usize,
    bytes: usize,
    /// When the first of them came.
    began: Option<Instant>,
}

impl Window {
    const fn has_room(&self) -> bool {
        self.records < IMPORT_WINDOW_RECORDS && self.bytes < IMPORT_WINDOW_BYTES
    }

    /// Whether it is to be committed now: a commit costs about the same for few records as for many.
    fn is_ripe(&self) -> bool {
        self.bytes >= IMPORT_LINGER_BYTES || self.ripe_in().is_some_and(|it| it.is_zero())
    }

    /// How long it is to wait for more. `None`: there is nothing in it.
    fn ripe_in(&self) -> Option<Duration> {
        self.began.map(|began| IMPORT_LINGER.saturating_sub(began.elapsed()))
    }
}

struct BlockOnItsWay {
    written: Written,
    has_failed: Arc<AtomicBool>,
    reply: oneshot::Sender<Result<Written, WriteError>>,
}

struct UnderWay {
    blocks: Vec<BlockOnItsWay>,
    commits: Pin<Box<dyn Future<Output = Result<Vec<Committed>, WriteError>> + Send>>,
}

/// The end of the commit under way; never, where there is none.
async fn settling(under_way: &mut Option<UnderWay>) -> Result<Vec<Committed>, WriteError> {
    match under_way {
        Some(under_way) => (&mut under_way.commits).await,
        None => pending().await,
    }
}

/// A channel's part of a commit.
struct Committed {
    name: Box<str>,
    before: Cursor,
    head: Head,
    is_unlimited: bool,
    /// The blocks of lines that turned out to be known.
    known: Vec<usize>,
}

impl<E: Engine> Writer<E> {
    /// A task that has done nothing yet.
    pub fn new(
        engine: Arc<E>,
        directory: Arc<Directory<E>>,
        authors: Arc<Authors>,
        imported: Imported,
        mailbox: mpsc::Receiver<Work>,
    ) -> Self {
        Self {
            past: Past::new(Arc::clone(&engine)),
            engine,
            directory,
            authors,
            imported,
            mailbox,
            channels: HashMap::new(),
            window: Window::default(),
            under_way: None,
            numbering: Arc::default(),
        }
    }

    /// Works until nobody is left to ask, and what was asked is done.
    pub async fn run(mut self) {
        let mut is_open = true;
        loop {
            let is_idle = self.under_way.is_none();
            if is_idle && !self.window.blocks.is_empty() && (self.window.is_ripe() || !is_open) {
                self.commit();
                continue;
            }
            if is_idle && !is_open {
                return;
            }
            let has_room = self.window.has_room();
            let pause = self.window.ripe_in().unwrap_or(IMPORT_IDLE);
            tokio::select! {
                biased;
                result = settling(&mut self.under_way), if !is_idle => self.settled(result),
                work = self.mailbox.recv(), if is_open && has_room => match work {
                    Some(work) => self.take(work).await,
                    None => is_open = false,
                },
                () = sleep(pause), if is_idle => {
                    if self.window.blocks.is_empty() {
                        self.forget();
                    }
                }
            }
        }
    }

    async fn take(&mut self, work: Work) {
        match work {
            Work::Number(authors, reply) => {
                let (directory, known) = (Arc::clone(&self.directory), Arc::clone(&self.authors));
                let numbering = Arc::clone(&self.numbering);
                tokio::spawn(async move {
                    let _alone = numbering.lock().await;
                    // Who asked may be gone.
                    let _ = reply.send(number_all(&directory, &known, authors).await);
                });
            }
            Work::Write(_, has_failed, reply) if has_failed.load(Ordering::Relaxed) => {
                let _ = reply.send(Err(WriteError::Behind));
            }
            Work::Write(block, has_failed, reply) => {
                let written = Written::default();
                self.window.began.get_or_insert_with(Instant::now);
                self.window.blocks.push(BlockOnItsWay { written, has_failed, reply });
                if let Err(error) = self.add(block).await {
                    self.fail(&error);
                }
            }
        }
    }

    /// Adds a block to the next commit.
    async fn add(&mut self, block: Block) -> Result<(), WriteError> {
        let place = self.window.blocks.len() - 1;
        for line in block.channels {
            let is_new = self.make_channel(&line).await?;
            let written = &mut self.window.blocks[place].written;
            *if is_new { &mut written.added } else { &mut written.known } += 1;
        }
        self.load(&block.parts).await?;
        for part in block.parts {
            self.add_part(&Arc::new(part), place).await?;
        }
        Ok(())
    }

    async fn add_part(&mut self, part: &Arc<Part>, block: usize) -> Result<(), WriteError> {
        let mut from = 0;
        let mut known = part.items.len();
        loop {
            let channel = loaded(&mut self.channels, &part.channel);
            let before = (channel.pending.count(), channel.pending.bytes());
            let step = channel.pending.advance(part, block, from);
            if let Step::Old(at, old) = step {
                self.add_old(part, block, at, &old).await?;
                from = at + 1;
            }
            let channel = loaded(&mut self.channels, &part.channel);
            let added = channel.pending.count() - before.0;
            self.window.records += added;
            self.window.bytes += channel.pending.bytes() - before.1;
            known -= added;
            if step == Step::End {
                break;
            }
        }
        let written = &mut self.window.blocks[block].written;
        written.added += (part.items.len() - known) as u64;
        written.known += known as u64;
        Ok(())
    }

    /// A line that is not newer than the newest span: adds it if the past does not have it.
    async fn add_old(
        &mut self,
        part: &Arc<Part>,
        block: usize,
        at: usize,
        old: &Old,
    ) -> Result<(), WriteError> {
        let channel = loaded(&mut self.channels, &part.channel);
        let id = channel.id;
        if old.time_ms == channel.newest_ms
            && let Some(moment) = &mut channel.newest_moment
        {
            if moment.insert(old.own_identity()) {
                self.past.add_straggler(id, old.own_identity());
                channel.pending.add_straggler(part, block, at, old, times::Place::Span);
            }
            return Ok(());
        }
        // What is under way is not in the log yet, where the past is looked up.
        if channel.is_under_way
            && let Some(under_way) = &mut self.under_way
        {
            let result = (&mut under_way.commits).await;
            self.settled_or(result)?;
        }
        let Some(place) = self.past.find(id, old).await? else { return Ok(()) };
        if !old.has_id {
            self.past.add_straggler(id, old.own_identity());
        }
        let channel = loaded(&mut self.channels, &part.channel);
        channel.pending.add_straggler(part, block, at, old, place);
        Ok(())
    }

    /// Sends what was gathered to the engine.
    fn commit(&mut self) {
        let blocks = std::mem::take(&mut self.window).blocks;
        self.past.begin_commit();
        let mut commits = Vec::new();
        for (name, channel) in &mut self.channels {
            if channel.pending.count() == 0 {
                continue;
            }
            let last_ms = channel.pending.last_ms();
            if channel.pending.has_span() {
                self.past.forget_gaps(channel.id);
            }
            if let Some(moment) = channel.pending.last_moment() {
                channel.newest_moment = Some(moment);
            }
            channel.newest_moment.take_if(|moment| moment.len() > IMPORT_MOMENT_MAX);
            channel.newest_ms = last_ms;
            channel.is_under_way = true;
            let pending = std::mem::replace(&mut channel.pending, Pending::new(last_ms));
            let attempt = Attempt::new(channel, pending);
            let (engine, directory) = (Arc::clone(&self.engine), Arc::clone(&self.directory));
            commits.push(attempt.commit(engine, directory, name.clone()));
        }
        let mut commits = Box::pin(
            stream::iter(commits).buffer_unordered(IMPORT_CHAINS_MAX).try_collect::<Vec<_>>(),
        );
        // The engine has it from the first poll on, and works while the next blocks are gathered.
        match (&mut commits).now_or_never() {
            Some(result) => {
                self.under_way = Some(UnderWay { blocks, commits: Box::pin(async { result }) });
            }
            None => self.under_way = Some(UnderWay { blocks, commits }),
        }
    }

    fn settled(&mut self, result: Result<Vec<Committed>, WriteError>) {
        // What fails has been told to all that wait for it.
        let _ = self.settled_or(result);
    }

    /// The commit under way has ended.
    fn settled_or(&mut self, result: Result<Vec<Committed>, WriteError>) -> Result<(), WriteError> {
        let committed = match result {
            Ok(committed) => committed,
            Err(error) => {
                self.fail(&error);
                return Err(error);
            }
        };
        let Some(UnderWay { mut blocks, .. }) = self.under_way.take() else { return Ok(()) };
        self.past.end_commit();
        for Committed { name, before, head, is_unlimited, known } in committed {
            let Some(channel) = self.channels.get_mut(&name) else { continue };
            channel.head = head;
            channel.is_unlimited = is_unlimited;
            channel.is_under_way = false;
            for block in known {
                blocks[block].written.added -= 1;
                blocks[block].written.known += 1;
            }
            if head.cursor != before {
                (self.imported)(channel.id, before, head);
            }
        }
        for BlockOnItsWay { written, reply, .. } in blocks {
            // Who asked may be gone; what is in the log stays.
            let _ = reply.send(Ok(written));
        }
        Ok(())
    }

    /// Ends everything that waits. Nothing is remembered of what may not have happened.
    fn fail(&mut self, error: &WriteError) {
        let under_way = self.under_way.take().map(|it| it.blocks).unwrap_or_default();
        let waiting = std::mem::take(&mut self.window).blocks;
        for BlockOnItsWay { has_failed, reply, .. } in under_way.into_iter().chain(waiting) {
            has_failed.store(true, Ordering::Relaxed);
            let _ = reply.send(Err(error.clone()));
        }
        self.forget();
    }

    fn forget(&mut self) {
        self.channels.clear();
        self.past.forget();
    }

    /// Loads the channels of these parts.
    async fn load(&mut self, parts: &[Part]) -> Result<(), WriteError> {
        if self.channels.len() >= IMPORT_CHANNELS_LOADED_MAX {
            self.channels.retain(|_, channel| channel.is_under_way || channel.pending.count() > 0);
        }
        let names = parts.iter().map(|part| &part.channel);
        let missing: Vec<_> =
            names.filter(|name| !self.channels.contains_key(*name)).cloned().collect();
        let opened: Vec<_> = stream::iter(missing)
            .map(|name| open(&*self.engine, &self.directory, name))
            .buffer_unordered(IMPORT_LOOKUPS_MAX)
            .try_collect()
            .await?;
        self.channels.extend(opened);
        Ok(())
    }

    /// Makes the channel of a line unless it is there. Answers whether it is new.
    async fn make_channel(&self, line: &ChannelLine) -> Result<bool, WriteError> {
        let authors = line.members.iter().map(Author::from);
        let numbered = number_all(&self.directory, &self.authors, authors.collect()).await?;
        let numbers: HashMap<Author, UserId> = numbered.into_iter().collect();
        let members = line.members.iter().filter_map(|member| {
            let number = numbers.get(&Author::from(member)).expect("all of them have numbers");
            Some((*number, member.role?))
        });
        let (settings, members) = (line.settings(), members.collect::<Vec<_>>());
        let (created_ms, now_ms) = (line.created_ms, clock::unix_ms());
        let made =
            self.directory.import_channel(&settings, members.clone(), created_ms, now_ms).await;
        match made {
            Ok(_) => Ok(true),
            Err(DirectoryError::ChannelExists) => {
                let channel = self.directory.channel_by_name(&line.channel).await?;
                let is_empty = read_head(&*self.engine, &channel).await?.cursor == Cursor(0);
                // One of several lines of the same channel, before its messages.
                let id = channel.id;
                let is_added =
                    is_empty && self.directory.import_members(id, members, created_ms).await?;
                if is_added {
                    (self.imported)(id, Cursor(0), Head::empty(channel.epoch));
                }
                Ok(is_added)
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn loaded<'c>(channels: &'c mut HashMap<Box<str>, Channel>, name: &str) -> &'c mut Channel {
    channels.get_mut(name).expect("a channel stays loaded while a block is added to it")
}

/// Finds a channel, or makes it, and reads where it ends.
async fn open<E: Engine>(
    engine: &E,
    directory: &Directory<E>,
    name: Box<str>,
) -> Result<(Box<str>, Channel), WriteError> {
    let info = match directory.channel_by_name(&name).await {
        Err(DirectoryError::UnknownChannel) => {
            match directory
                .create_channel(&Settings::open(&name), None, clock::unix_ms())
                .await
                .map(|made| made.info())
            {
                Err(DirectoryError::ChannelExists) => directory.channel_by_name(&name).await?,
                made => made?,
            }
        }
        found => found?,
    };
    let newest_ms = times::read_newest(engine, info.id).await?;
    let channel = Channel {
        id: info.id,
        head: read_head(engine, &info).await?,
        newest_ms,
        newest_moment: None,
        pending: Pending::new(newest_ms),
        is_under_way: false,
        is_unlimited: false,
    };
    Ok((name, channel))
}

/// One channel's part of a commit, with all that may happen to it.
struct Attempt {
    channel: ChannelId,
    head: Head,
    is_unlimited: bool,
    pending: Pending,
    known: Vec<usize>,
    /// The chain's own derived records. Those of a quota come behind them.
    derived: usize,
}

/// What the log says after an attempt that did not pass, or may have.
enum Found {
    /// The batches are there; this is the end of the channel.
    Ours(Head),
    /// They are not, and can no longer be: others were first.
    Others(Head),
    /// Nothing has changed.
    Nothing,
}

impl Attempt {
    fn new(channel: &Channel, pending: Pending) -> Self {
        let Channel { id, head, is_unlimited, .. } = *channel;
        Self { channel: id, head, is_unlimited, pending, known: Vec::new(), derived: 0 }
    }

    async fn commit<E: Engine>(
        mut self,
        engine: Arc<E>,
        directory: Arc<Directory<E>>,
        name: Box<str>,
    ) -> Result<Committed, WriteError> {
        let mut chain = self.chain();
        for _ in 0..IMPORT_ATTEMPTS_MAX {
            let Some(first) = chain.batches.first().map(|batch| batch.id) else { break };
            let before = self.head.cursor;
            chain.derived.truncate(self.derived);
            if !self.is_unlimited {
                // Read behind the head: whoever publishes, changes or deletes the channel meanwhile
                // moves that.
                let record = directory.record(self.channel).await?;
                self.is_unlimited = record.quota.is_none();
                let usage = match self.is_unlimited {
                    true => record.usage,
                    false => accepted(record.usage, &chain.batches),
                };
                if !record.quota.holds(usage) {
                    // What is there already needs no room.
                    let keys = chain.keys.iter().map(|key| (key.user, key.client_message_id));
                    let known = engine.find_keys(self.channel, keys.collect()).await?;
                    if known.is_empty() {
                        return Err(WriteError::NoRoom(name));
                    }
                    self.drop_known(&known);
                    if self.pending.count() == 0 {
                        let head = self.head;
                        return Ok(self.committed(name, before, head));
                    }
                    chain = self.chain();
                    continue;
                }
                if !self.is_unlimited {
                    chain.derived.extend(ChannelRecord { usage, ..record }.derived());
                }
            }
            let error = match engine.append_chain(chain.clone()).await {
                Ok(cursors) => {
                    let last = chain.batches.last().zip(cursors.last());
                    let head = last.map_or(self.head, |(batch, cursor)| batch.head(*cursor));
                    return Ok(self.committed(name, before, head));
                }
                Err(error) => error,
            };
            match error {
                AppendError::Refused(refusal) => return Err(WriteError::Refused(refusal)),
                AppendError::Duplicates(keys) => {
                    self.drop_known(&keys);
                    if self.pending.count() == 0 {
                        let head = self.head;
                        return Ok(self.committed(name, before, head));
                    }
                    chain = self.chain();
                }
                AppendError::Moved | AppendError::Unknown => {
                    match self.look(&*engine, first).await? {
                        Found::Ours(head) => return Ok(self.committed(name, before, head)),
                        Found::Others(head) => {
                            self.head = head;
                            self.is_unlimited = false;
                            chain = self.chain();
                        }
                        // The same again: should the first try arrive late, one of them is refused.
                        Found::Nothing => sleep(IMPORT_PAUSE).await,
                    }
                }
            }
        }
        Err(WriteError::Contended)
    }

    fn chain(&mut self) -> Chain {
        let next_id = || BatchId(rand::random::<u128>().max(1));
        let chain = self.pending.chain(self.channel, &self.head, clock::unix_ms(), next_id);
        self.derived = chain.derived.len();
        chain
    }

    fn committed(self, name: Box<str>, before: Cursor, head: Head) -> Committed {
        let Self { is_unlimited, known, .. } = self;
        Committed { name, before, head, is_unlimited, known }
    }

    fn drop_known(&mut self, keys: &[MessageKey]) {
        self.known.extend(self.pending.remove(keys));
    }

    /// Reads on from the head to find the batch with this id.
    async fn look<E: Engine>(&self, engine: &E, first: BatchId) -> Result<Found, ReadError> {
        let mut head = self.head;
        let mut is_ours = false;
        let mut page = 0;
        loop {
            let after = ReadFrom::After(head.cursor);
            let entries = engine.read(self.channel, after, IMPORT_READ_BYTES_MAX).await?;
            if entries.is_empty() {
                break;
            }
            is_ours |= entries.iter().any(|entry| entry.batch.id == first);
            entries.iter().for_each(|entry| extend(&mut head, entry));
            page += 1;
            // Ours would be the first behind our head. How far others have gone, the tail tells.
            if page == 1 && !engine.caps().junk_possible {
                let tail = engine.read(self.channel, ReadFrom::Tail, READ_BYTES_MAX).await?;
                head = end_of(head, &tail);
                break;
            }
        }
        Ok(match head.cursor == self.head.cursor {
            true => Found::Nothing,
            false if is_ours => Found::Ours(head),
            false => Found::Others(head),
        })
    }
}

/// What a channel has accepted with these batches.
fn accepted(before: Usage, batches: &[Arc<Batch>]) -> Usage {
    let records = batches.iter().flat_map(|batch| batch.records().flatten());
    records.fold(before, |usage, record| match record::content(record) {
        Content::Body { bytes } => usage.with(bytes),
        _ => usage,
    })
}

/// The head of a chain after an entry of its log.
fn extend(head: &mut Head, entry: &Entry) {
    if entry.batch.extends(head) {
        *head = entry.batch.head(entry.at);
    } else {
        // Where junk is possible it still is the entry that the next append must follow.
        head.cursor = entry.at;
    }
}

fn end_of(empty: Head, tail: &[Entry]) -> Head {
    let Some(first) = tail.first() else { return empty };
    let mut head = Head {
        epoch: first.batch.epoch,
        sequence: Sequence(first.batch.first_sequence.0 - 1),
        batch: first.batch.previous,
        timestamp_ms: first.batch.timestamp_ms,
        cursor: first.after,
    };
    tail.iter().for_each(|entry| extend(&mut head, entry));
    head
}

async fn read_head<E: Engine>(engine: &E, info: &ChannelInfo) -> Result<Head, ReadError> {
    let tail = engine.read(info.id, ReadFrom::Tail, READ_BYTES_MAX).await?;
    Ok(end_of(Head::empty(info.epoch), &tail))
}

async fn number_all<E: Engine>(
    directory: &Directory<E>,
    known: &Authors,
    authors: Vec<Author>,
) -> Result<Vec<(Author, UserId)>, WriteError> {
    let number = |author: Author| async move {
        if let Some(id) = known.get(&author) {
            return Ok((author, id));
        }
        let id = number(directory, &author).await?;
        known.insert(&author, id);
        Ok((author, id))
    };
    stream::iter(authors).map(number).buffer_unordered(IMPORT_LOOKUPS_MAX).try_collect().await
}

/// The number of an author. An import gives nobody another name.
async fn number<E: Engine>(
    directory: &Directory<E>,
    author: &Author,
) -> Result<UserId, DirectoryError> {
    let subject = author.subject();
    match directory.user_of(&subject).await? {
        Some(id) => Ok(id),
        None => directory.user(&subject, &author.name).await,
    }
}
