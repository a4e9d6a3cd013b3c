//! The receive loop that the ceiling measures: every delivery is read, scanned, hashed, checked
//! against the sequence before it, and its latency recorded. Hot.

use std::{
    io::{self, Read as _},
    net::{self, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use rustix::time::{ClockId, clock_gettime};
use xxhash_rust::xxh3::xxh3_64;

use super::{connect::connect, sink};
use crate::{
    latency::Latency,
    swarm::{
        frame::next_frame,
        scan::{Scanned, scan},
    },
};

/// Shared by all connections: what is left of a frame in it moves to its connection.
const BUFFER_BYTES: usize = 256 * 1024;
const EVENTS_MAX: usize = 1_024;
/// A sink that writes nothing for so long has stopped.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// What was counted, and what counting it took.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) tally: Tally,
    pub(super) wall: Duration,
    /// Of this thread.
    pub(super) cpu: Duration,
}

/// What the audit of a real run would keep.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    origin: Instant,
    body_hash: u64,
    pub(super) deliveries: u64,
    /// Not the sequence that was due, or not what was written.
    pub(super) wrong: u64,
    pub(super) latency: Latency,
}

impl Tally {
    fn new(origin: Instant) -> Self {
        let body_hash = xxh3_64(sink::body().as_bytes());
        Self { origin, body_hash, deliveries: 0, wrong: 0, latency: Latency::new() }
    }
}

/// One subscribed connection.
#[derive(Debug)]
struct Reader {
    connection: TcpStream,
    /// The beginning of a frame that was not whole.
    kept: Vec<u8>,
    last_sequence: u64,
}

/// All connections of the users, in one loop.
#[derive(Debug)]
pub(super) struct Receiver {
    poll: Poll,
    readers: Vec<Reader>,
    tally: Tally,
}

impl Receiver {
    pub(super) fn connect(address: SocketAddr, users: u32, origin: Instant) -> Result<Self> {
        let poll = Poll::new()?;
        let reader = |index| {
            let connection: net::TcpStream = connect(address)?;
            connection.set_nonblocking(true)?;
            let mut connection = TcpStream::from_std(connection);
            poll.registry().register(&mut connection, Token(index), Interest::READABLE)?;
            Ok(Reader { connection, kept: Vec::new(), last_sequence: 0 })
        };
        let readers = (0..users as usize).map(reader).collect::<Result<_>>()?;
        Ok(Self { poll, readers, tally: Tally::new(origin) })
    }

    /// Counts for so long, after a while in which nothing is counted but what is wrong.
    pub(super) fn receive(&mut self, warm_up: Duration, run: Duration) -> Result<Received> {
        self.receive_for(warm_up)?;
        self.tally.deliveries = 0;
        self.tally.latency.clear();
        let (begin, cpu_before) = (Instant::now(), thread_cpu());
        self.receive_for(run)?;
        let (wall, cpu) = (begin.elapsed(), thread_cpu().saturating_sub(cpu_before));
        Ok(Received { tally: self.tally.clone(), wall, cpu })
    }

    fn receive_for(&mut self, duration: Duration) -> Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut buffer = vec![0; BUFFER_BYTES];
        let begin = Instant::now();
        while begin.elapsed() < duration {
            match self.poll.poll(&mut events, Some(SILENCE_MAX)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            ensure!(!events.is_empty(), "the sink wrote nothing for {SILENCE_MAX:?}");
            for event in &events {
                self.readers[event.token().0].drain(&mut buffer, &mut self.tally)?;
            }
        }
        Ok(())
    }
}

impl Reader {
    /// Reads until nothing is left to be read.
    fn drain(&mut self, buffer: &mut [u8], tally: &mut Tally) -> Result<()> {
        loop {
            let kept = self.kept.len();
            buffer[..kept].copy_from_slice(&self.kept);
            let read = match self.connection.read(&mut buffer[kept..]) {
                Ok(0) => bail!("the sink has closed a connection"),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("a connection to the sink broke"),
            };
            let whole = kept + read;
            let rest = take_frames(&buffer[..whole], &mut self.last_sequence, tally)?;
            self.kept.clear();
            self.kept.extend_from_slice(rest);
            // A short read has emptied the socket, and what comes later makes a new event.
            if whole < buffer.len() {
                return Ok(());
            }
        }
    }
}

/// The receive path itself: the place to put the swarm's. Answers what is left of a frame.
fn take_frames<'a>(
    mut bytes: &'a [u8],
    last_sequence: &mut u64,
    tally: &mut Tally,
) -> Result<&'a [u8]> {
    let now_us = u64::try_from(tally.origin.elapsed().as_micros()).unwrap_or(u64::MAX);
    while let Some(frame) = next_frame(bytes)? {
        bytes = &bytes[frame.bytes..];
        let Scanned::Messages(messages) = scan(frame.payload)? else {
            bail!("the sink wrote something else than messages")
        };
        for (sequence, record) in (messages.first_sequence..).zip(messages) {
            let record = record?;
            let is_due = sequence == *last_sequence + 1;
            tally.wrong += u64::from(!is_due || xxh3_64(record.body) != tally.body_hash);
            *last_sequence = sequence;
            let waited_us = now_us.saturating_sub(sink::written_us(record.client_message_id));
            tally.latency.record_us(waited_us);
            tally.deliveries += 1;
        }
    }
    Ok(bytes)
}

/// CPU time that this thread has used.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("a thread's time is positive")
}

#[cfg(test)]
mod tests {
    use super::{
        sink::{Plan, Run, Sink},
        *,
    };

    fn tally() -> Tally {
        Tally::new(Instant::now())
    }

    #[test]
    fn runs_in_order_are_counted_and_a_part_of_a_frame_is_left() {
        let mut run = Run::new(3);
        let mut bytes = run.encode_next(0).to_vec();
        bytes.extend_from_slice(run.encode_next(1));
        bytes.extend_from_slice(&[0x82, 100, 1]);
        let (mut last, mut tally) = (0, tally());
        assert_eq!(take_frames(&bytes, &mut last, &mut tally).unwrap(), [0x82, 100, 1]);
        assert_eq!((last, tally.deliveries, tally.wrong, tally.latency.count()), (6, 6, 0, 6));
    }

    #[test]
    fn a_gap_a_repeat_and_another_body_are_wrong() {
        let mut run = Run::new(1);
        let frames: Vec<_> = (0..3).map(|us| run.encode_next(us).to_vec()).collect();
        let mut spoilt = frames[1].clone();
        *spoilt.last_mut().unwrap() ^= 1;
        let cases = [
            ([&frames[0], &frames[2]], 1),
            ([&frames[0], &frames[0]], 1),
            ([&frames[0], &spoilt], 1),
            ([&frames[0], &frames[1]], 0),
        ];
        for (frames, wrong) in cases {
            let (mut last, mut tally) = (0, tally());
            for frame in frames {
                assert!(take_frames(frame, &mut last, &mut tally).unwrap().is_empty());
            }
            assert_eq!(tally.wrong, wrong);
        }
    }

    #[test]
    fn all_users_receive_what_a_sink_writes() {
        let origin = Instant::now();
        let sink = Sink::start(Plan { users: 3, messages_per_write: 2, origin, core: None });
        let sink = sink.unwrap();
        let mut receiver = Receiver::connect(sink.address, 3, origin).unwrap();
        let received = receiver.receive(Duration::ZERO, Duration::from_millis(50)).unwrap();
        sink.end_soon();
        drop(receiver);
        sink.join().unwrap();
        let Received { tally, wall, cpu } = received;
        assert!(tally.deliveries > 0 && tally.wrong == 0, "{tally:?}");
        assert!(wall >= Duration::from_millis(50) && cpu <= wall, "{wall:?} {cpu:?}");
    }
}
