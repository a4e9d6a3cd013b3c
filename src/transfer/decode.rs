//! Chunks of lines → blocks of records, on threads of their own. Hot.
//!
//! A worker needs the numbers of all authors in a chunk to write its records. It remembers those it
//! has met; a chunk with authors that nobody knows yet comes back with their names, and is decoded
//! once more when they have numbers.

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    num::NonZeroU64,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use bytes::Bytes;
use dashmap::DashMap;
use foldhash::fast::RandomState;
use memchr::memchr;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use utoipa::ToSchema;

use super::{
    line::{self, Change, ChannelLine, Event, Line, LineError, Member, Origin},
    record::{self, Written},
};
use crate::{
    limits::{
        IMPORT_AUTHORS_CACHED_MAX, IMPORT_DECODERS, IMPORT_INVALID_LINES_TOLD_MAX, IMPORT_JOBS_MAX,
    },
    log::place::{ClientMessageId, UserId},
    wire::encode,
};

/// What a chunk says.
#[derive(Debug, Default)]
pub struct Block {
    /// Its channels' lines.
    pub channels: Vec<ChannelLine>,
    /// Its records, by channel.
    pub parts: Vec<Part>,
    /// What was counted in it.
    pub lines: Lines,
}

/// What was counted in lines.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lines {
    /// All lines, blank ones too.
    pub lines: u64,
    /// Those that say something.
    pub valid: u64,
    /// Those that do not.
    pub invalid: u64,
    /// The first of them.
    pub told: Vec<InvalidLine>,
}

/// A line that says nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct InvalidLine {
    /// Its number, from 1.
    pub line: u64,
    /// Why, for people.
    #[serde(serialize_with = "as_text")]
    #[schema(value_type = String)]
    pub reason: LineError,
}

fn as_text<S: serde::Serializer>(value: &impl fmt::Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

/// Records of one channel, in the order of their lines.
#[derive(Debug, Default)]
pub struct Part {
    /// The channel's name.
    pub channel: Box<str>,
    /// The records, as a batch holds them.
    pub records: Bytes,
    /// Where each ends, and its time.
    pub items: Vec<Item>,
    /// What is to be known of some of them, in their order.
    pub marks: Vec<Mark>,
}

impl Part {
    /// Where the bytes of these records lie.
    #[must_use]
    pub fn bytes_of(&self, items: &Range<usize>) -> Range<usize> {
        let end_of = |count: usize| match count {
            0 => 0,
            count => self.items[count - 1].end as usize,
        };
        end_of(items.start)..end_of(items.end)
    }
}

/// One record of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Item {
    /// When it was written, in milliseconds since 1970.
    pub time_ms: u64,
    /// Where it ends in the part's records.
    pub end: u32,
}

/// An item with an id or a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Which.
    pub item: usize,
    /// Who wrote it.
    pub user: UserId,
    /// Its number, if it has an id.
    pub id: Option<ClientMessageId>,
    /// Its place where it comes from.
    pub sequence: Option<NonZeroU64>,
    /// A digest of its content, as for a publish.
    pub digest: u64,
}

/// An author by what stays.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Author {
    /// The subject of the author's tokens; absent: known by the name alone.
    pub user: Option<Box<str>>,
    /// The display name.
    pub name: Box<str>,
}

impl Author {
    fn new(user: Option<&str>, name: &str) -> Self {
        Self { user: user.map(Into::into), name: name.into() }
    }

    /// The subject in the directory.
    #[must_use]
    pub fn subject(&self) -> String {
        match &self.user {
            Some(user) => user.to_string(),
            None => format!("hubbub:import:{}", self.name),
        }
    }
}

impl From<&Member> for Author {
    fn from(member: &Member) -> Self {
        Self::new(member.user.as_deref(), &member.name)
    }
}

/// What a worker answers.
#[derive(Debug)]
pub enum Decoded {
    /// All of it.
    Block(Block),
    /// The chunk again, and who must have a number first.
    Unknown(Vec<u8>, Vec<Author>),
}

/// The numbers of authors. They never change, so it may be forgotten and not be wrong.
#[derive(Debug, Default)]
pub struct Authors {
    by_user: Known,
    by_name: Known,
}

type Known = DashMap<Box<str>, UserId, RandomState>;
type Met = HashMap<Box<str>, UserId, RandomState>;

impl Authors {
    /// The number of an author, if somebody has asked for it before.
    #[must_use]
    pub fn get(&self, author: &Author) -> Option<UserId> {
        match &author.user {
            Some(user) => self.by_user.get(user).map(|id| *id),
            None => self.by_name.get(&author.name).map(|id| *id),
        }
    }

    /// Remembers an author.
    pub fn insert(&self, author: &Author, id: UserId) {
        let (map, key) = match &author.user {
            Some(user) => (&self.by_user, user),
            None => (&self.by_name, &author.name),
        };
        if map.len() >= IMPORT_AUTHORS_CACHED_MAX {
            map.clear();
        }
        map.insert(key.clone(), id);
    }
}

/// The threads.
#[derive(Clone, Debug)]
pub struct Decoders {
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
struct Job {
    chunk: Vec<u8>,
    /// Authors that must be known now, however soon all others forget them.
    resolved: Vec<(Author, UserId)>,
    reply: oneshot::Sender<Decoded>,
}

impl Decoders {
    /// Starts them. `on_thread_start` is called by each, to choose its core and priority. They end
    /// when this and its clones are dropped.
    ///
    /// # Errors
    /// When the system gives us no thread.
    pub fn start(
        message_bytes_max: usize,
        authors: &Arc<Authors>,
        on_thread_start: &Arc<dyn Fn() + Send + Sync>,
    ) -> io::Result<Self> {
        let (jobs, mailbox) = mpsc::channel(IMPORT_JOBS_MAX);
        let mailbox = Arc::new(Mutex::new(mailbox));
        for _ in 0..IMPORT_DECODERS {
            let (mailbox, on_thread_start) = (Arc::clone(&mailbox), Arc::clone(on_thread_start));
            let mut worker = Worker::new(message_bytes_max, Arc::clone(authors));
            thread::Builder::new().name("import".to_owned()).spawn(move || {
                on_thread_start();
                worker.run(&mailbox);
            })?;
        }
        Ok(Self { jobs })
    }

    /// Decodes a chunk. `None` when that failed by a mistake of ours.
    pub async fn decode(&self, chunk: Vec<u8>, resolved: Vec<(Author, UserId)>) -> Option<Decoded> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job { chunk, resolved, reply }).await.ok()?;
        answer.await.ok()
    }
}

/// One thread's state.
pub struct Worker {
    message_bytes_max: usize,
    authors: Arc<Authors>,
    by_user: Met,
    by_name: Met,
    /// How many channels the last chunk was of. The next will be of as many.
    parts_before: usize,
}

impl Worker {
    /// A worker that takes messages whose body has at most so many bytes.
    #[must_use]
    pub fn new(message_bytes_max: usize, authors: Arc<Authors>) -> Self {
        let (by_user, by_name) = (Met::default(), Met::default());
        Self { message_bytes_max, authors, by_user, by_name, parts_before: 1 }
    }

    fn run(&mut self, mailbox: &Mutex<mpsc::Receiver<Job>>) {
        loop {
            let job = mailbox.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
            let Some(Job { chunk, resolved, reply }) = job else { break };
            for (author, id) in &resolved {
                self.meet(author, *id);
            }
            // A panic ends the one import whose lines bring it about; the hook has printed it.
            if let Ok(decoded) = catch_unwind(AssertUnwindSafe(|| self.decode(chunk))) {
                // Who asked may be gone.
                let _ = reply.send(decoded);
            }
        }
    }

    /// Decodes a chunk.
    pub fn decode(&mut self, chunk: Vec<u8>) -> Decoded {
        // Checked at once, and line by line only to tell which one is no text.
        let text = simdutf8::basic::from_utf8(&chunk).ok();
        let mut builder = Builder::new(chunk.len(), self.parts_before);
        let mut start = 0;
        while start < chunk.len() {
            let end = memchr(b'\n', &chunk[start..]).map_or(chunk.len(), |length| start + length);
            let line = match text {
                Some(text) => Ok(&text[start..end]),
                None => std::str::from_utf8(&chunk[start..end])
                    .map_err(|error| LineError::NotUtf8(error.valid_up_to() + 1)),
            };
            builder.lines.lines += 1;
            self.take(line, &mut builder);
            start = end + 1;
        }
        if builder.unknown.is_empty() {
            self.parts_before = builder.parts.len().max(1);
            return Decoded::Block(builder.finish());
        }
        let unknown = builder.unknown.into_iter().collect();
        Decoded::Unknown(chunk, unknown)
    }

    fn take(&mut self, line: Result<&str, LineError>, builder: &mut Builder) {
        match line.and_then(|line| line::decode(line, self.message_bytes_max)) {
            Ok(Line::Message(message)) => {
                builder.lines.valid += 1;
                if let Some(user) = self.author(&message.origin, builder) {
                    builder.put_message(&message, user);
                }
            }
            Ok(Line::Event(event)) => {
                builder.lines.valid += 1;
                let author = self.author(&event.origin, builder);
                let member = match &event.change {
                    Change::Member(Member { name, user, .. }) => {
                        self.number(user.as_deref(), name, builder)
                    }
                    Change::Settings(_) => Some(UserId(0)),
                };
                if let (Some(user), Some(member)) = (author, member) {
                    builder.put_event(&event, user, member);
                }
            }
            Ok(Line::Channel(channel)) => {
                builder.lines.valid += 1;
                builder.channels.push(*channel);
            }
            Err(LineError::NotJson(_)) if line.is_ok_and(|line| line.trim_ascii().is_empty()) => {}
            Err(reason) => builder.lines.tell(reason),
        }
    }

    fn author(&mut self, origin: &Origin<'_>, builder: &mut Builder) -> Option<UserId> {
        self.number(origin.user.as_deref(), &origin.author, builder)
    }

    fn number(&mut self, user: Option<&str>, name: &str, builder: &mut Builder) -> Option<UserId> {
        let met = match user {
            Some(user) => self.by_user.get(user),
            None => self.by_name.get(name),
        };
        if let Some(id) = met {
            return Some(*id);
        }
        let author = Author::new(user, name);
        let Some(id) = self.authors.get(&author) else {
            builder.unknown.insert(author);
            return None;
        };
        self.meet(&author, id);
        Some(id)
    }

    fn meet(&mut self, author: &Author, id: UserId) {
        let (map, key) = match &author.user {
            Some(user) => (&mut self.by_user, user),
            None => (&mut self.by_name, &author.name),
        };
        if map.len() >= IMPORT_AUTHORS_CACHED_MAX {
            map.clear();
        }
        map.insert(key.clone(), id);
    }
}

impl Lines {
    fn tell(&mut self, reason: LineError) {
        self.invalid += 1;
        if self.told.len() < IMPORT_INVALID_LINES_TOLD_MAX {
            self.told.push(InvalidLine { line: self.lines, reason });
        }
    }

    /// Adds what was counted in the lines behind these.
    pub fn add(&mut self, behind: Self) {
        let room = IMPORT_INVALID_LINES_TOLD_MAX.saturating_sub(self.told.len());
        let before = self.lines;
        let told = behind.told.into_iter().take(room);
        self.told.extend(told.map(|told| InvalidLine { line: before + told.line, ..told }));
        self.lines += behind.lines;
        self.valid += behind.valid;
        self.invalid += behind.invalid;
    }
}

/// A block on its way.
struct Builder {
    channels: Vec<ChannelLine>,
    parts: Vec<PartBuilder>,
    places: HashMap<Box<str>, usize, RandomState>,
    /// The part of the last record.
    current: usize,
    /// Room that the records of a part get at once: the chunk's bytes, for all parts together.
    part_bytes: usize,
    parts_max: usize,
    lines: Lines,
    unknown: HashSet<Author>,
}

struct PartBuilder {
    channel: Box<str>,
    records: Vec<u8>,
    items: Vec<Item>,
    marks: Vec<Mark>,
}

impl Builder {
    fn new(chunk_bytes: usize, parts: usize) -> Self {
        Self {
            channels: Vec::new(),
            parts: Vec::with_capacity(parts),
            places: HashMap::with_capacity_and_hasher(parts, RandomState::default()),
            current: 0,
            part_bytes: chunk_bytes / parts,
            parts_max: parts,
            lines: Lines::default(),
            unknown: HashSet::new(),
        }
    }

    fn put_message(&mut self, message: &line::Message<'_>, user: UserId) {
        // What lacks an author is decoded again: until then the rest is read for its authors only.
        if !self.unknown.is_empty() {
            return;
        }
        let origin = &message.origin;
        let id = origin.id.as_deref().map(ClientMessageId::of_text);
        let part = self.part(&origin.channel);
        let written = Written { user, id, time_ms: origin.time_ms };
        record::put_message(&mut part.records, written, &message.body);
        let digest = if id.is_some() { encode::digest(&message.body) } else { 0 };
        part.finish_item(written, origin.sequence, digest);
    }

    fn put_event(&mut self, event: &Event<'_>, user: UserId, member: UserId) {
        if !self.unknown.is_empty() {
            return;
        }
        let origin = &event.origin;
        let id = origin.id.as_deref().map(ClientMessageId::of_text);
        let part = self.part(&origin.channel);
        let written = Written { user, id, time_ms: origin.time_ms };
        match &event.change {
            Change::Member(Member { role, .. }) => {
                record::put_member(&mut part.records, written, member, *role);
            }
            Change::Settings(settings) => {
                record::put_settings(&mut part.records, written, &origin.channel, settings);
            }
        }
        part.finish_item(written, origin.sequence, 0);
    }

    fn part(&mut self, channel: &str) -> &mut PartBuilder {
        let is_current = self.parts.get(self.current).is_some_and(|part| *part.channel == *channel);
        if !is_current {
            self.current = match self.places.get(channel) {
                Some(place) => *place,
                None => self.add_part(channel),
            };
        }
        &mut self.parts[self.current]
    }

    fn add_part(&mut self, channel: &str) -> usize {
        let place = self.parts.len();
        let share = if place < self.parts_max { self.part_bytes } else { 0 };
        self.parts.push(PartBuilder {
            channel: channel.into(),
            records: Vec::with_capacity(share),
            items: Vec::with_capacity(share / 128),
            marks: Vec::new(),
        });
        self.places.insert(channel.into(), place);
        place
    }

    fn finish(self) -> Block {
        let parts = self.parts.into_iter().map(|part| Part {
            channel: part.channel,
            records: part.records.into(),
            items: part.items,
            marks: part.marks,
        });
        Block { channels: self.channels, parts: parts.collect(), lines: self.lines }
    }
}

impl PartBuilder {
    fn finish_item(&mut self, written: Written, sequence: Option<NonZeroU64>, digest: u64) {
        if written.id.is_some() || sequence.is_some() {
            let Written { user, id, .. } = written;
            self.marks.push(Mark { item: self.items.len(), user, id, sequence, digest });
        }
        let end = u32::try_from(self.records.len()).expect("a chunk has less than 4 GiB");
        self.items.push(Item { time_ms: written.time_ms, end });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log::batch::{Batch, BatchError},
        log::place::{BatchId, Epoch, Sequence},
    };

    fn worker(known: &[&str]) -> Worker {
        let authors = Authors::default();
        for (number, name) in (1..).zip(known) {
            authors.insert(&Author::new(None, name), UserId(number));
        }
        Worker::new(1_000, Arc::new(authors))
    }

    fn block(worker: &mut Worker, chunk: &[u8]) -> Block {
        match worker.decode(chunk.to_vec()) {
            Decoded::Block(block) => block,
            Decoded::Unknown(_, authors) => panic!("nobody knows {authors:?}"),
        }
    }

    fn records(part: &Part) -> Vec<Vec<u8>> {
        let batch = Batch {
            epoch: Epoch(1),
            id: BatchId(1),
            previous: BatchId(0),
            first_sequence: Sequence(1),
            count: u16::try_from(part.items.len()).unwrap(),
            timestamp_ms: 1,
            records: part.records.clone(),
        };
        let records: Result<Vec<_>, BatchError> =
            batch.records().map(|record| record.map(<[u8]>::to_vec)).collect();
        records.unwrap()
    }

    #[test]
    fn lines_become_records_of_their_channels_in_order() {
        let mut worker = worker(&["ada", "bob"]);
        let block = block(
            &mut worker,
            br#"{"channel":"a","author":"ada","time":5,"body":"one"}
{"channel":"b","author":"bob","time":6,"body":"two","id":"9"}
{"channel":"a","author":"bob","time":7,"body":"three","sequence":4}"#,
        );
        let [a, b] = &block.parts[..] else { panic!("two channels") };
        assert_eq!((&*a.channel, &*b.channel), ("a", "b"));
        let mut expected = Vec::new();
        let written = |user, time_ms| Written { user: UserId(user), id: None, time_ms };
        record::put_message(&mut expected, written(1, 5), "one");
        let first_bytes = expected.len();
        record::put_message(&mut expected, written(2, 7), "three");
        assert_eq!(a.records, expected);
        assert_eq!(records(a).len(), 2);
        assert_eq!(a.bytes_of(&(0..1)), 0..first_bytes);
        assert_eq!(a.bytes_of(&(1..2)), first_bytes..expected.len());
        assert_eq!(a.marks.len(), 1);
        assert_eq!(a.marks[0].item, 1);
        assert_eq!(b.marks[0].id, Some(ClientMessageId(9)));
        assert_eq!(b.marks[0].digest, encode::digest("two"));
        assert_eq!((block.lines.lines, block.lines.valid, block.lines.invalid), (3, 3, 0));
    }

    #[test]
    fn authors_without_a_number_send_the_chunk_back() {
        let mut worker = worker(&["ada"]);
        let chunk = br#"{"channel":"a","author":"ada","time":5,"body":"one"}
{"channel":"a","author":"bob","time":6,"body":"two"}
{"channel":"a","author":"ada","user":"u1","time":7,"body":"three"}
{"channel":"a","author":"bob","time":8,"body":"four"}
"#;
        let Decoded::Unknown(again, mut authors) = worker.decode(chunk.to_vec()) else {
            panic!("nobody knows bob")
        };
        authors.sort_by_key(Author::subject);
        assert_eq!(authors[0].subject(), "hubbub:import:bob");
        assert_eq!(authors[1].subject(), "u1");
        for (number, author) in (7..).zip(&authors) {
            worker.meet(author, UserId(number));
        }
        assert_eq!(block(&mut worker, &again).parts[0].items.len(), 4);
    }

    #[test]
    fn blank_lines_are_no_records_and_bad_ones_are_told_by_their_number() {
        let mut worker = worker(&["ada"]);
        let mut chunk =
            b"\n  \r\n{\"channel\":\"a\",\"author\":\"ada\",\"time\":5,\"body\":\"one\"}\r\nbad\n"
                .to_vec();
        chunk.extend_from_slice(b"{\"channel\":\"\xff\"}\n");
        let block = block(&mut worker, &chunk);
        assert_eq!((block.lines.lines, block.lines.valid, block.lines.invalid), (5, 1, 2));
        assert_eq!(
            block.lines.told,
            [
                InvalidLine { line: 4, reason: LineError::NotJson(1) },
                InvalidLine { line: 5, reason: LineError::NotUtf8(13) },
            ]
        );
        let mut both = block.lines.clone();
        both.add(block.lines);
        assert_eq!(both.told[3].line, 10);
        let json = serde_json::to_string(&both.told[0]).unwrap();
        assert_eq!(json, r#"{"line":4,"reason":"not JSON: column 1"}"#);
    }

    #[test]
    fn only_the_first_bad_lines_are_told() {
        let block = block(&mut worker(&[]), &b"bad\n".repeat(300));
        assert_eq!(block.lines.invalid, 300);
        assert_eq!(block.lines.told.len(), IMPORT_INVALID_LINES_TOLD_MAX);
    }
}
