//! Stage 7: outbox → bytes, in as few writes as possible. Hot.
//!
//! At the end of a turn every connection that was handed something gets one vectored write of all
//! that waits for it. What the socket does not take stays where it is, and the connection's own
//! task writes on when the socket is writable.
//!
//! A large fan-out is written in chunks, between which others get a turn: what they publish is
//! committed while the fan-out goes on, and reaches those whose turn has yet to come in the same
//! write.

use std::{
    io::{self, IoSlice},
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{task::yield_now, time::timeout_at};

use super::socket::Socket;
use crate::{
    engine::Engine,
    hub::{
        cork::Cork,
        outbox::Outbox,
        shard::{Port, Shard},
    },
    limits::{FLUSH_CHUNK_CONNECTIONS, WRITE_SLICES_MAX},
    metrics::Metrics,
};

/// Where an outbox stands after a flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flushed {
    /// Everything is written.
    Empty,
    /// The socket takes no more now. Whether it took anything.
    Blocked {
        /// Some bytes went out.
        progressed: bool,
    },
    /// The socket is gone.
    Broken,
}

/// What some flushes did, so that counting costs no atomic operation for each write.
#[derive(Clone, Copy, Default, Debug)]
struct Tally {
    writes: u64,
    bytes: u64,
}

impl Tally {
    fn record(self, metrics: &Metrics) {
        metrics.writes.inc_by(self.writes);
        metrics.written_bytes.inc_by(self.bytes);
    }
}

/// Writes as much as the socket takes.
pub fn flush(port: &Port<Socket>, metrics: &Metrics) -> Flushed {
    let mut tally = Tally::default();
    let flushed = flush_counting(port, &mut tally);
    tally.record(metrics);
    flushed
}

fn flush_counting(port: &Port<Socket>, tally: &mut Tally) -> Flushed {
    let flushed = write(port, tally);
    port.is_blocked.set(matches!(flushed, Flushed::Blocked { .. }));
    flushed
}

fn write(port: &Port<Socket>, tally: &mut Tally) -> Flushed {
    let mut outbox = port.outbox.borrow_mut();
    let mut progressed = false;
    while !outbox.is_empty() {
        let written = write_once(&port.socket, &outbox);
        tally.writes += 1;
        match written {
            Ok(0) => return Flushed::Broken,
            Ok(written) => {
                tally.bytes += written as u64;
                outbox.advance(written);
                progressed = true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Flushed::Blocked { progressed: progressed | port.socket.took_some() };
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Flushed::Broken,
        }
    }
    // A TLS session may still hold what the outbox has given it.
    match port.socket.try_flush() {
        Ok(()) => Flushed::Empty,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Flushed::Blocked { progressed: progressed | port.socket.took_some() }
        }
        Err(_) => Flushed::Broken,
    }
}

/// One write of what waits. A lone frame is the common case, and spares the list of slices: it is
/// longer than most frames.
fn write_once(socket: &Socket, outbox: &Outbox) -> io::Result<usize> {
    if let Some(only) = outbox.only_frame() {
        return socket.try_write(&[IoSlice::new(only)]);
    }
    let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
    let used = outbox.slices(&mut slices);
    socket.try_write(&slices[..used])
}

/// Ends the turns of a shard, for as long as it lives. `cork_max` bounds what a message may wait
/// for others that share its writes.
pub async fn end_turns<E: Engine>(shard: Rc<Shard<E, Socket>>, cork_max: Duration) {
    end_turns_with(&shard, Cork::new(cork_max, Instant::now())).await;
}

async fn end_turns_with<E: Engine>(shard: &Rc<Shard<E, Socket>>, mut cork: Cork) {
    let mut ports = Vec::with_capacity(FLUSH_CHUNK_CONNECTIONS);
    loop {
        end_turn(shard, &mut ports);
        if shard.dirty_count() == 0 {
            shard.turn().await;
        } else if let Some(until) = cork.holds_until(Instant::now()) {
            // Whether the time is over or something has come, the loop looks again.
            let _ = timeout_at(until.into(), shard.turn()).await;
        } else {
            write_round(shard, &mut cork, &mut ports).await;
        }
    }
}

/// Ends the reading part of a turn: batches are formed, and who was handed something of its own gets
/// it.
fn end_turn<E: Engine>(shard: &Rc<Shard<E, Socket>>, ports: &mut Vec<Rc<Port<Socket>>>) {
    shard.form_batches();
    shard.take_urgent(ports);
    flush_all(shard.metrics(), ports);
}

/// Writes to every connection of the fan-outs that wait now. Whatever a chunk's connections are
/// handed after they were written to is for the next round.
async fn write_round<E: Engine>(
    shard: &Rc<Shard<E, Socket>>,
    cork: &mut Cork,
    ports: &mut Vec<Rc<Port<Socket>>>,
) {
    let mut left = shard.dirty_count();
    let mut began = Instant::now();
    cork.begin(began);
    while left > 0 {
        shard.take_dirty(left.min(FLUSH_CHUNK_CONNECTIONS), ports);
        left -= ports.len();
        flush_all(shard.metrics(), ports);
        cork.wrote(began, Instant::now());
        if shard.dirty_count() > 0 {
            yield_now().await;
        }
        if left > 0 {
            end_turn(shard, ports);
            began = Instant::now();
        }
    }
}

fn flush_all(metrics: &Metrics, ports: &mut Vec<Rc<Port<Socket>>>) {
    let mut tally = Tally::default();
    for port in ports.drain(..) {
        // A blocked socket is its own task's to write on.
        if !port.is_blocked.get() && flush_counting(&port, &mut tally) != Flushed::Empty {
            port.wake.notify_one();
        }
    }
    tally.record(metrics);
}

#[cfg(test)]
mod tests;
