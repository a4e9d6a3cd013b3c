//! The lean generator: all connections of a measure on one thread and one event loop. Hot.
//!
//! It parses what it must to know each delivery, and nothing more: at a million deliveries a second
//! its core must not be what is slow. It answers pings, keeps to the intended moments, and tells how
//! it ended; what the numbers mean is for `measure`.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read as _, Write as _},
    net::SocketAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use mio::{Events, Interest, Poll, Token, net::TcpStream, unix::SourceFd};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::{
    books::{Books, Findings},
    dialect::{self, Joined, Speaker},
};
use crate::{
    latency::Latency,
    swarm::{
        EVENTS_PER_TURN, READ_BYTES, READS_PER_TURN,
        frame::{self, Opcode},
        http,
        socket::{self, Origin},
    },
};

/// Connections that are being made at a time.
const CONNECTING_MAX: usize = 64;
/// For a connection to be subscribed, while others come along too.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Who delivers nothing in so many turns, each of which waits for as long as [`SLEEP_MAX`] after all
/// was sent, delivers nothing any more. Turns and not time: of what was there while this program had
/// no core, it is not the contender who is guilty.
const SILENT_TURNS_MAX: u32 = 15;
/// After the last message was sent.
const DRAIN_MAX: Duration = Duration::from_secs(20);
/// Who is this far behind in deliveries does not keep up: the measure ends.
const BEHIND_MAX: Duration = Duration::from_secs(3);
/// Who is this far behind when the window ends has not kept up either, though all may come in the end.
const BEHIND_AT_END_MAX: Duration = Duration::from_secs(1);
/// Publishes between two looks at the sockets.
const PUBLISHES_PER_TURN: usize = 256;
/// Longest sleep, should the kernel's timer fail to wake.
const SLEEP_MAX: Duration = Duration::from_millis(200);

const CLOCK: Token = Token(usize::MAX - 1);

/// What is sent, and when.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Pace {
    /// So many messages a second, at exponential intervals, whatever the contender does.
    Open { messages_per_s: f64 },
    /// So many messages under way: the next is sent when everybody has one of them.
    Closed { under_way: u32 },
}

/// One measure.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Load {
    pub(super) pace: Pace,
    pub(super) warm_up: Duration,
    pub(super) window: Duration,
    /// Of the intervals and authors: the same for all contenders of a round.
    pub(super) seed: u64,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) latency: Latency,
    /// That came in the window, whenever they were due.
    pub(super) deliveries: u64,
    /// That were read in the window, frames and all.
    pub(super) bytes: u64,
    /// Shorter than was asked for if the contender could not keep up.
    pub(super) window: Duration,
    /// Whether the contender could not keep up; then nothing is lost that is not there.
    pub(super) is_overloaded: bool,
    pub(super) findings: Findings,
}

/// What is to be done at the edges of the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Edge {
    Begins,
    Ends,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Connecting,
    Upgrading,
    Joining,
    Ready,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    stage: Stage,
    /// The beginning of a frame whose end has not come.
    kept: Vec<u8>,
    /// The same of a message, in a dialect whose messages may span frames.
    unfinished: Vec<u8>,
    /// What the socket would not take.
    unsent: Vec<u8>,
    is_unread: bool,
}

#[derive(Debug)]
pub(super) struct Generator {
    poll: Poll,
    clock: OwnedFd,
    /// For when it is set.
    clock_at: Option<Instant>,
    connections: Vec<Connection>,
    /// Those that had more than one turn may read.
    unread: VecDeque<usize>,
    buffer: Vec<u8>,
    out: Vec<u8>,
    address: SocketAddr,
    speaker: Speaker,
    began: Instant,
    ready: usize,
    /// Read in all.
    bytes: u64,
    books: Books,
}

impl Generator {
    pub(super) fn new(address: SocketAddr, speaker: Speaker) -> Result<Self> {
        let poll = Poll::new()?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let clock = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        poll.registry().register(&mut SourceFd(&clock.as_raw_fd()), CLOCK, Interest::READABLE)?;
        Ok(Self {
            poll,
            clock,
            clock_at: None,
            connections: Vec::new(),
            unread: VecDeque::new(),
            buffer: vec![0; READ_BYTES],
            out: Vec::new(),
            address,
            speaker,
            began: Instant::now(),
            ready: 0,
            bytes: 0,
            books: Books::new(0, true, false),
        })
    }

    /// Makes connections until there are so many, all subscribed.
    pub(super) fn connect(&mut self, users: usize) -> Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let mut progress = (self.ready, Instant::now());
        while self.ready < users {
            let is_first_alone = self.ready == 0 && self.speaker.first_joins_alone();
            let at_once = if is_first_alone { 1 } else { CONNECTING_MAX };
            while self.connections.len() < users && self.connections.len() < self.ready + at_once {
                self.open().with_context(|| format!("connection {}", self.connections.len()))?;
            }
            self.turn(&mut events, Some(Instant::now() + SLEEP_MAX))?;
            if self.ready > progress.0 {
                progress = (self.ready, Instant::now());
            }
            ensure!(
                progress.1.elapsed() < CONNECT_TIMEOUT,
                "{} of {users} connections were subscribed, and no more for {CONNECT_TIMEOUT:?}",
                self.ready
            );
        }
        Ok(())
    }

    /// Sends nothing for so long, and answers what must be answered.
    pub(super) fn rest(&mut self, time: Duration) -> Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn(&mut events, Some(end))?;
        }
        Ok(())
    }

    /// Sends and receives. `at_edge` is called when the window begins and when it ends.
    pub(super) fn load(
        &mut self,
        load: Load,
        mut at_edge: impl FnMut(Edge) -> Result<()>,
    ) -> Result<Loaded> {
        let users = self.connections.len();
        let is_closed = matches!(load.pace, Pace::Closed { .. });
        self.books = Books::new(users, self.speaker.has_one_order(), is_closed);
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let mut schedule = Schedule::new(load, Instant::now(), users);
        let (opens, closes) = (schedule.begins + load.warm_up, schedule.ends);
        self.books.measure(self.us(opens), self.us(closes));

        let mut opened = None;
        while opened.is_none_or(|_| Instant::now() < closes) {
            let now = Instant::now();
            if opened.is_none() && now >= opens {
                at_edge(Edge::Begins)?;
                // Only now: looking at processes takes its time.
                opened = Some((Instant::now(), self.books.deliveries(), self.bytes));
            }
            for _ in 0..PUBLISHES_PER_TURN {
                let Some(due) = schedule.next_due(now, self.books.under_way()) else { break };
                let author = schedule.take_author();
                self.publish(author, due)?;
            }
            let wake = if opened.is_none() { opens } else { closes };
            let wake = schedule.wakes().map_or(wake, |it| it.min(wake));
            self.turn(&mut events, Some(wake))?;
            if self.is_behind(&load, BEHIND_MAX) {
                break;
            }
        }
        // Who does not keep up in the warm-up already has no window.
        let now = (Instant::now(), self.books.deliveries(), self.bytes);
        let (opened, deliveries_before, bytes_before) = opened.unwrap_or(now);
        let window = opened.elapsed();
        let deliveries = self.books.deliveries() - deliveries_before;
        let bytes = self.bytes - bytes_before;
        at_edge(Edge::Ends)?;
        // What comes far too late need not be waited for.
        let is_overloaded = self.is_behind(&load, BEHIND_AT_END_MAX) || !self.drain(&mut events)?;
        Ok(Loaded {
            latency: self.books.latency.clone(),
            deliveries,
            bytes,
            window,
            is_overloaded,
            findings: self.books.findings(),
        })
    }

    /// Waits for what is still to come. Answers whether it stopped coming, whole or not.
    fn drain(&mut self, events: &mut Events) -> Result<bool> {
        let end = Instant::now() + DRAIN_MAX;
        let mut silent_turns = 0;
        while self.books.outstanding() > 0 && silent_turns < SILENT_TURNS_MAX {
            if Instant::now() >= end {
                return Ok(false);
            }
            let before = self.books.deliveries();
            let is_idle = self.turn(events, Some(Instant::now() + SLEEP_MAX))?;
            if self.books.deliveries() > before {
                silent_turns = 0;
            } else {
                silent_turns += u32::from(is_idle);
            }
        }
        Ok(true)
    }

    fn is_behind(&self, load: &Load, most: Duration) -> bool {
        let Pace::Open { messages_per_s } = load.pace else { return false };
        #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
        let outstanding = self.books.outstanding() as f64 / self.connections.len().max(1) as f64;
        // A message or two are always under way.
        outstanding > messages_per_s * most.as_secs_f64() + 2.0
    }

    fn publish(&mut self, author: usize, due: Instant) -> Result<()> {
        let mark = self.books.send(author, self.us(due));
        self.out.clear();
        self.speaker.publish(&mut self.out, author, mark);
        self.send_out(author)
    }

    /// One turn: waits for the sockets, at most until then, and reads them. Answers whether there was
    /// nothing to do all the while.
    fn turn(&mut self, events: &mut Events, wake: Option<Instant>) -> Result<bool> {
        let now = Instant::now();
        let is_due = !self.unread.is_empty() || wake.is_some_and(|it| it <= now);
        if let (false, Some(wake)) = (is_due, wake) {
            self.set_clock(wake, now)?;
        }
        let sleep = if is_due { Duration::ZERO } else { SLEEP_MAX };
        match self.poll.poll(events, Some(sleep)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(false),
            polled => polled?,
        }
        let mut is_idle = !is_due;
        for event in &*events {
            if event.token() == CLOCK {
                self.clock_at = None;
                continue;
            }
            is_idle = false;
            let user = event.token().0;
            if event.is_writable() {
                self.on_writable(user)?;
            }
            if event.is_readable() {
                self.read(user)?;
            }
        }
        for _ in 0..self.unread.len() {
            if let Some(user) = self.unread.pop_front() {
                self.connections[user].is_unread = false;
                self.read(user)?;
            }
        }
        Ok(is_idle)
    }

    /// Milliseconds, which a poll can wait for, are too coarse.
    fn set_clock(&mut self, at: Instant, now: Instant) -> Result<()> {
        if self.clock_at == Some(at) {
            return Ok(());
        }
        let wait = at.saturating_duration_since(now).max(Duration::from_nanos(1));
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let tv_sec = i64::try_from(wait.as_secs()).unwrap_or(i64::MAX);
        let value = Timespec { tv_sec, tv_nsec: i64::from(wait.subsec_nanos()) };
        let spec = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(&self.clock, TimerfdTimerFlags::empty(), &spec)?;
        self.clock_at = Some(at);
        Ok(())
    }

    fn us(&self, at: Instant) -> u64 {
        let us = at.saturating_duration_since(self.began).as_micros();
        u64::try_from(us).unwrap_or(u64::MAX)
    }

    fn open(&mut self) -> Result<()> {
        let number = self.connections.len();
        let user = u32::try_from(number).context("too many connections")?;
        let origin = Origin { user, source_addresses: 1, is_slow: false };
        let (mut stream, _) = socket::open(self.address, origin)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(number), both)?;
        self.connections.push(Connection {
            stream,
            stage: Stage::Connecting,
            kept: Vec::new(),
            unfinished: Vec::new(),
            unsent: Vec::new(),
            is_unread: false,
        });
        Ok(())
    }

    fn on_writable(&mut self, user: usize) -> Result<()> {
        if self.connections[user].stage == Stage::Connecting {
            if let Some(error) = self.connections[user].stream.take_error()? {
                return Err(error).with_context(|| format!("connection {user}"));
            }
            self.connections[user].stage = Stage::Upgrading;
            self.out.clear();
            self.speaker.upgrade(&mut self.out, user)?;
            return self.send_out(user);
        }
        let connection = &mut self.connections[user];
        if !connection.unsent.is_empty() {
            let sent = write(&mut connection.stream, &connection.unsent)?;
            connection.unsent.drain(..sent);
        }
        Ok(())
    }

    /// Sends what is in `out`, or keeps what the socket does not take.
    fn send_out(&mut self, user: usize) -> Result<()> {
        let connection = &mut self.connections[user];
        let sent = if connection.unsent.is_empty() {
            write(&mut connection.stream, &self.out)
                .with_context(|| format!("connection {user} broke"))?
        } else {
            0
        };
        connection.unsent.extend_from_slice(&self.out[sent..]);
        Ok(())
    }

    /// Reads what is there, up to a bound.
    fn read(&mut self, user: usize) -> Result<()> {
        for _ in 0..READS_PER_TURN {
            let connection = &mut self.connections[user];
            // What is kept goes before what comes, so that a frame is always in one piece.
            let kept = connection.kept.len();
            if kept > 0 {
                if self.buffer.len() < kept + READ_BYTES / 2 {
                    self.buffer.resize(kept + READ_BYTES, 0);
                }
                self.buffer[..kept].copy_from_slice(&connection.kept);
                connection.kept.clear();
            }
            let bytes = match connection.stream.read(&mut self.buffer[kept..]) {
                Ok(0) => bail!("connection {user} was closed"),
                Ok(bytes) => bytes,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) =>
                {
                    connection.kept.extend_from_slice(&self.buffer[..kept]);
                    return Ok(());
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("connection {user} broke"));
                }
            };
            self.bytes += bytes as u64;
            let is_whole = kept + bytes < self.buffer.len();
            // Lent to the parser, since the frames lie in it.
            let buffer = std::mem::take(&mut self.buffer);
            let taken = self.take(user, &buffer[..kept + bytes]);
            self.buffer = buffer;
            taken.with_context(|| format!("connection {user}"))?;
            // A short read has emptied the socket, and what comes later makes a new event.
            if is_whole {
                return Ok(());
            }
        }
        if !std::mem::replace(&mut self.connections[user].is_unread, true) {
            self.unread.push_back(user);
        }
        Ok(())
    }

    /// Takes what is whole of these bytes, and keeps the rest.
    fn take(&mut self, user: usize, bytes: &[u8]) -> Result<()> {
        let now_us = self.us(Instant::now());
        self.out.clear();
        let mut at = 0;
        if self.connections[user].stage == Stage::Upgrading
            && let Some(response) = http::response(bytes)?
        {
            ensure!(response.status == 101, "the upgrade was answered with {}", response.status);
            at = response.bytes;
            let joined = self.speaker.upgraded();
            self.joined(user, joined);
        }
        let stage = self.connections[user].stage;
        if matches!(stage, Stage::Joining | Stage::Ready) {
            while let Some(frame) = frame::next_frame(&bytes[at..])? {
                at += frame.bytes;
                match frame.opcode {
                    Opcode::Binary | Opcode::Continuation => {
                        ensure!(
                            frame.is_final && frame.opcode == Opcode::Binary,
                            "a message in several frames"
                        );
                        self.take_payload(user, frame.payload, now_us)?;
                    }
                    Opcode::Ping => dialect::pong(&mut self.out, frame.payload),
                    Opcode::Pong => {}
                    Opcode::Close => return Err(closed(frame.payload)),
                    Opcode::Text => bail!("a frame of text"),
                }
            }
        }
        self.connections[user].kept.extend_from_slice(&bytes[at..]);
        if self.out.is_empty() { Ok(()) } else { self.send_out(user) }
    }

    #[inline]
    fn take_payload(&mut self, user: usize, payload: &[u8], now_us: u64) -> Result<()> {
        let connection = &mut self.connections[user];
        if connection.stage == Stage::Ready {
            let books = &mut self.books;
            let deliver = |body: &[u8]| books.deliver(user, body, now_us);
            let (out, unfinished) = (&mut self.out, &mut connection.unfinished);
            return self.speaker.receive(out, unfinished, payload, deliver);
        }
        let joined = self.speaker.join(&mut self.out, user, payload)?;
        self.joined(user, joined);
        Ok(())
    }

    fn joined(&mut self, user: usize, joined: Joined) {
        let stage = match joined {
            Joined::NotYet => Stage::Joining,
            Joined::Yes => Stage::Ready,
        };
        self.ready += usize::from(stage == Stage::Ready);
        self.connections[user].stage = stage;
    }
}

/// When the next message is due, and whose it is.
#[derive(Debug)]
struct Schedule {
    pace: Pace,
    chance: SmallRng,
    begins: Instant,
    ends: Instant,
    next: Instant,
    users: usize,
}

impl Schedule {
    fn new(load: Load, begins: Instant, users: usize) -> Self {
        let ends = begins + load.warm_up + load.window;
        let chance = SmallRng::seed_from_u64(load.seed);
        let mut schedule = Self { pace: load.pace, chance, begins, ends, next: begins, users };
        schedule.draw_next();
        schedule
    }

    /// The moment of the message that is to be sent now, if one is.
    fn next_due(&mut self, now: Instant, under_way: u32) -> Option<Instant> {
        match self.pace {
            Pace::Open { .. } => {
                let due = self.next;
                (due <= now && due < self.ends).then(|| {
                    self.draw_next();
                    due
                })
            }
            // It is due when it is sent, and many are sent in a turn.
            Pace::Closed { under_way: most } => {
                let now = Instant::now();
                (under_way < most && now < self.ends).then_some(now)
            }
        }
    }

    /// When to look again, if it is known.
    fn wakes(&self) -> Option<Instant> {
        matches!(self.pace, Pace::Open { .. }).then_some(self.next)
    }

    fn take_author(&mut self) -> usize {
        self.chance.random_range(0..self.users)
    }

    fn draw_next(&mut self) {
        if let Pace::Open { messages_per_s } = self.pace {
            // Of a uniform chance above 0, so that no interval is endless.
            let chance: f64 = 1.0 - self.chance.random::<f64>();
            self.next += Duration::from_secs_f64(-chance.ln() / messages_per_s);
        }
    }
}

/// How many bytes the socket took.
fn write(stream: &mut TcpStream, bytes: &[u8]) -> Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(0) => bail!("a socket takes nothing"),
            Ok(bytes) => sent += bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sent)
}

fn closed(payload: &[u8]) -> anyhow::Error {
    match payload.split_first_chunk() {
        Some((code, reason)) => {
            anyhow!("closed with {} {}", u16::from_be_bytes(*code), String::from_utf8_lossy(reason))
        }
        None => anyhow!("closed without a code"),
    }
}
