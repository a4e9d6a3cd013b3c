//! Stage 7: outbox → bytes, in as few writes as possible. Hot.
//!
//! At the end of a turn every connection that was handed something gets one vectored write of all
//! that waits for it. What the socket does not take stays where it is, and the connection's own
//! task writes on when the socket is writable.

use std::{
    io::{self, IoSlice},
    rc::Rc,
};

use tokio::task::yield_now;

use super::socket::Socket;
use crate::{
    engine::Engine,
    hub::shard::{Port, Shard},
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

/// Writes as much as the socket takes.
pub fn flush(port: &Port<Socket>, metrics: &Metrics) -> Flushed {
    let flushed = write(port, metrics);
    port.is_blocked.set(matches!(flushed, Flushed::Blocked { .. }));
    flushed
}

fn write(port: &Port<Socket>, metrics: &Metrics) -> Flushed {
    let mut outbox = port.outbox.borrow_mut();
    let mut progressed = false;
    while !outbox.is_empty() {
        let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
        let used = outbox.slices(&mut slices);
        let written = port.socket.try_write(&slices[..used]);
        metrics.writes.inc();
        match written {
            Ok(0) => return Flushed::Broken,
            Ok(written) => {
                metrics.written_bytes.inc_by(written as u64);
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

/// Ends the turns of a shard, for as long as it lives.
pub async fn end_turns<E: Engine>(shard: Rc<Shard<E, Socket>>) {
    let mut dirty = Vec::new();
    loop {
        shard.turn().await;
        shard.form_batches();
        shard.take_dirty(&mut dirty);
        for (flushed, port) in dirty.drain(..).enumerate() {
            // A large fan-out lets others read and write in between.
            if flushed % FLUSH_CHUNK_CONNECTIONS == FLUSH_CHUNK_CONNECTIONS - 1 {
                yield_now().await;
            }
            // A blocked socket is its own task's to write on.
            if !port.is_blocked.get() && flush(&port, shard.metrics()) != Flushed::Empty {
                port.wake.notify_one();
            }
        }
    }
}
