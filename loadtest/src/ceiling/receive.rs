//! The sockets of the users that the ceiling measures. Hot.
//!
//! They are read as in `swarm/event_loop`, with its bounds. What is done with the bytes is what a run
//! does, because a run's users do it: they are behind [`Receiver`].

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read as _},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use mio::{Events, Interest, Poll, Token, net::TcpStream};

use super::{
    connect::connect,
    sink::{self, AUTHOR, CHANNEL_ID, MESSAGES},
};
use crate::{
    audit::Findings,
    scenario::Scenario,
    swarm::{
        self, EVENTS_PER_TURN, READ_BYTES, READS_PER_TURN, Target, body::Bodies,
        receiver::Receiver, thread_cpu,
    },
};

/// A sink that writes nothing for so long has stopped.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// A run tells as often what it saw.
const SECOND: Duration = Duration::from_secs(1);

/// What was counted, and what counting it took.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) deliveries: u64,
    /// Of sockets: one takes several writes if the generator came to them late.
    pub(super) reads: u64,
    pub(super) wall: Duration,
    /// Of this thread.
    pub(super) cpu: Duration,
    /// How long this thread could have run while its core was another's; 0 if the kernel does not
    /// tell.
    pub(super) waited: Duration,
}

/// All users and their sockets, in one loop.
#[derive(Debug)]
pub(super) struct Readers {
    poll: Poll,
    connections: Vec<TcpStream>,
    /// Those that had more than one turn may read.
    unread: VecDeque<usize>,
    buffer: Vec<u8>,
    receiver: Receiver,
    reads: u64,
    body_bytes: usize,
    began: Instant,
}

impl Readers {
    /// Users who know what a sink writes.
    pub(super) fn connect(address: SocketAddr, users: u32, body_bytes: usize) -> Result<Self> {
        let poll = Poll::new()?;
        let both = Interest::READABLE | Interest::WRITABLE;
        let connection = |user| {
            let connection = connect(address)?;
            connection.set_nonblocking(true)?;
            let mut connection = TcpStream::from_std(connection);
            poll.registry().register(&mut connection, Token(user), both)?;
            Ok(connection)
        };
        Ok(Self {
            connections: (0..users as usize).map(connection).collect::<Result<_>>()?,
            poll,
            unread: VecDeque::new(),
            buffer: vec![0; READ_BYTES],
            receiver: receiver(address, users),
            reads: 0,
            body_bytes,
            began: Instant::now(),
        })
    }

    /// Counts for so long, after a while in which nothing is counted but what is wrong.
    pub(super) fn receive(&mut self, warm_up: Duration, run: Duration) -> Result<Received> {
        self.receive_for(warm_up)?;
        self.reads = 0;
        // The wall's time encloses the two others, so that they cannot be more.
        let begin = Instant::now();
        let (cpu_before, waited_before) = (thread_cpu(), thread_waited());
        let deliveries = self.receive_for(run)?;
        let cpu = thread_cpu().saturating_sub(cpu_before);
        let waited = thread_waited().saturating_sub(waited_before);
        Ok(Received { deliveries, reads: self.reads, wall: begin.elapsed(), cpu, waited })
    }

    /// What the audit found. Closes the connections.
    pub(super) fn findings(self) -> Findings {
        findings(self.receiver, self.body_bytes)
    }

    fn receive_for(&mut self, duration: Duration) -> Result<u64> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let (begin, mut second, mut deliveries) = (Instant::now(), Instant::now(), 0);
        while begin.elapsed() < duration {
            let sleep = if self.unread.is_empty() { SILENCE_MAX } else { Duration::ZERO };
            match self.poll.poll(&mut events, Some(sleep)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            let is_silent = events.is_empty() && self.unread.is_empty();
            ensure!(!is_silent, "the sink wrote nothing for {SILENCE_MAX:?}");
            for event in &events {
                self.read(event.token().0)?;
            }
            for _ in 0..self.unread.len() {
                if let Some(user) = self.unread.pop_front() {
                    self.read(user)?;
                }
            }
            if second.elapsed() >= SECOND {
                second = Instant::now();
                deliveries += self.receiver.end_second();
            }
        }
        Ok(deliveries + self.receiver.end_second())
    }

    /// Reads what is there, up to a bound.
    fn read(&mut self, user: usize) -> Result<()> {
        for _ in 0..READS_PER_TURN {
            let bytes = match self.connections[user].read(&mut self.buffer) {
                Ok(0) => bail!("the sink has closed a connection"),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("a connection to the sink broke"),
            };
            self.reads += 1;
            let now_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.receiver.receive(user, &self.buffer[..bytes], now_us);
            // A short read has emptied the socket, and what comes later makes a new event.
            if bytes < self.buffer.len() {
                return Ok(());
            }
        }
        if !self.unread.contains(&user) {
            self.unread.push_back(user);
        }
        Ok(())
    }
}

/// How long this thread has waited for a core.
fn thread_waited() -> Duration {
    // Nanoseconds on a core, nanoseconds waiting for one, and how often it ran.
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let waited_ns = told.split(' ').nth(1).and_then(|it| it.parse().ok());
    Duration::from_nanos(waited_ns.unwrap_or(0))
}

/// Users of whom each is in the sink's channel, and who know what it writes.
fn receiver(address: SocketAddr, users: u32) -> Receiver {
    let targets = vec![Target { address, host: address.to_string() }];
    let scenario = Scenario { users, ..Scenario::default() };
    let plan = swarm::Plan { scenario, targets, run: "ceiling".to_owned(), tokens: None };
    Receiver::new(plan, CHANNEL_ID, MESSAGES)
}

/// What the audit found, once it was told what the sink wrote.
fn findings(mut receiver: Receiver, body_bytes: usize) -> Findings {
    let mut bodies = Bodies::new(body_bytes);
    for sequence in 1..=receiver.newest() {
        let id = sink::id_at(sequence);
        let body = bodies.take(id);
        receiver.acknowledged(sequence, AUTHOR, id, body.as_bytes());
        bodies.give_back(body);
    }
    receiver.findings()
}

#[cfg(test)]
mod tests {
    use prost::encoding::encode_varint;

    use super::{
        sink::{Plan, Run, Sink, TIMESTAMP_MS},
        *,
    };

    const BODY_BYTES: usize = 64;

    fn users(users: u32) -> Receiver {
        receiver("127.0.0.1:1".parse().unwrap(), users)
    }

    fn frames(count: usize) -> Vec<Vec<u8>> {
        let mut run = Run::new(3, BODY_BYTES);
        (0..count).map(|_| run.encode_next().to_vec()).collect()
    }

    /// What comes of it if each user receives its part.
    fn violations(parts: &[&[u8]]) -> u64 {
        let mut receiver = users(u32::try_from(parts.len()).unwrap());
        for (user, bytes) in parts.iter().enumerate() {
            receiver.receive(user, bytes, 1_000);
        }
        findings(receiver, BODY_BYTES).violations
    }

    #[test]
    fn every_delivery_of_what_a_sink_writes_is_accepted() {
        let stream = frames(50).concat();
        let mut receiver = users(3);
        (0..3).for_each(|user| receiver.receive(user, &stream, 1_000));
        assert_eq!((receiver.end_second(), receiver.newest()), (3 * 50 * 3, 50 * 3));
        assert_eq!(findings(receiver, BODY_BYTES), Findings::default());
    }

    #[test]
    fn messages_that_come_again_are_accepted() {
        let mut run = Run::new(u32::try_from(MESSAGES / 2 + 1).unwrap(), 0);
        let mut receiver = users(1);
        (0..2).for_each(|_| receiver.receive(0, run.encode_next(), 1_000));
        assert_eq!(receiver.newest(), MESSAGES + 2);
        assert_eq!(findings(receiver, 0), Findings::default());
    }

    #[test]
    fn one_wrong_byte_is_a_violation_unless_it_is_of_the_time() {
        let frames = frames(4);
        let right = frames.concat();
        let mut timestamp = Vec::new();
        encode_varint(TIMESTAMP_MS, &mut timestamp);
        let at = frames[0].windows(timestamp.len()).position(|it| it == timestamp).unwrap();
        // The audit does not look at the time that the server gives a message.
        let unseen: Vec<_> = (at..at + timestamp.len()).collect();

        let is_unseen = |at: usize, is_alone: bool| {
            let mut wrong = right.clone();
            wrong[at] ^= 1;
            let both: [&[u8]; 2] = [&wrong, &right];
            violations(&both[..2 - usize::from(is_alone)]) == 0
        };
        for is_alone in [true, false] {
            let found = (0..frames[0].len()).filter(|&at| is_unseen(at, is_alone));
            assert_eq!(found.collect::<Vec<_>>(), unseen, "alone: {is_alone}");
        }
    }

    #[test]
    fn a_gap_and_a_repeat_are_violations() {
        let frames = frames(3);
        assert_eq!(violations(&[&frames.concat()]), 0);
        for wrong in [[&frames[0][..], &frames[2]], [&frames[0], &frames[0]]] {
            assert!(violations(&[&wrong.concat()]) > 0);
        }
    }

    #[test]
    fn all_users_receive_what_a_sink_writes() {
        let plan = Plan { users: 3, messages_per_write: 2, body_bytes: 64, core: None };
        let sink = Sink::start(plan).unwrap();
        let mut readers = Readers::connect(sink.address, 3, 64).unwrap();
        let received = readers.receive(Duration::ZERO, Duration::from_millis(50)).unwrap();
        sink.end_soon();
        assert_eq!(readers.findings(), Findings::default());
        sink.join().unwrap();
        let Received { deliveries, reads, wall, cpu, waited } = received;
        assert!(deliveries > 0 && reads > 0);
        // Two clocks of the kernel do not agree to the last bit.
        assert!(wall >= Duration::from_millis(50), "{wall:?}");
        assert!(cpu + waited <= wall + wall / 50, "{cpu:?} + {waited:?} > {wall:?}");
    }
}
