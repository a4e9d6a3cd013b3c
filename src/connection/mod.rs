//! The life of a connection on its shard: unauthenticated → ready → closing.
//!
//! One task per connection reads and keeps its deadlines. It writes only when its socket was
//! blocked; otherwise the end of a turn does ([`writer`]). A command that needs more than memory (a
//! login, a name that nobody has asked for yet) holds up its own connection and no other.

use std::{pin::pin, rc::Rc, sync::Arc, time::Instant};

use bytesize::ByteSize;
use tokio::{
    io::Interest,
    sync::{mpsc, oneshot},
    task::{spawn_local, yield_now},
    time::{sleep, sleep_until},
};

use self::{
    dialogue::{Dialogue, State, Waiting},
    heartbeat::Beat,
    login::Login,
    reader::{Incoming, Read},
    socket::Socket,
    writer::{Flushed, flush},
};
use crate::{
    engine::Engine,
    hub::{
        Handover, ShardInput,
        shard::{Port, Shard},
    },
    limits::{CLOSE_TIMEOUT, DRAIN_CHECK_INTERVAL, RECONNECTS_PER_SECOND},
    metrics::Metrics,
    websocket::reader::Violation,
    wire::code::CloseCode,
};

mod dialogue;
pub mod heartbeat;
pub mod login;
pub mod reader;
pub mod socket;
pub mod writer;

type SocketShard<E> = Shard<E, Socket>;
type SocketPort = Port<Socket>;

/// The life of a shard's thread: takes connections in until the mailbox closes.
pub async fn run_shard<E: Engine>(
    shard: Rc<SocketShard<E>>,
    login: Arc<Login<E>>,
    mut mailbox: mpsc::Receiver<ShardInput>,
) {
    spawn_local(writer::end_turns(Rc::clone(&shard)));
    while let Some(input) = mailbox.recv().await {
        match input {
            ShardInput::Connection(handover) => {
                spawn_local(serve(Rc::clone(&shard), Arc::clone(&login), handover));
            }
            ShardInput::Drain(done) => {
                spawn_local(drain(Rc::clone(&shard), done));
            }
        }
    }
}

async fn drain<E: Engine>(shard: Rc<SocketShard<E>>, done: oneshot::Sender<()>) {
    let spread_ms = reconnect_spread_ms(shard.connection_count());
    shard.drain(|| rand::random_range(0..=spread_ms));
    while !shard.is_idle() {
        sleep(DRAIN_CHECK_INTERVAL).await;
    }
    shard.close_all(CloseCode::GoingAway);
    while shard.connection_count() > 0 {
        sleep(DRAIN_CHECK_INTERVAL).await;
    }
    // Whoever asked may have stopped waiting: then nobody wants to know.
    let _ = done.send(());
}

/// Over how many milliseconds so many clients should come back.
fn reconnect_spread_ms(connections: usize) -> u32 {
    u32::try_from(connections).unwrap_or(u32::MAX).saturating_mul(1_000) / RECONNECTS_PER_SECOND
}

async fn serve<E: Engine>(shard: Rc<SocketShard<E>>, login: Arc<Login<E>>, handover: Handover) {
    let Handover { stream, early, format, identity, permit } = handover;
    let Ok(socket) = Socket::new(stream) else { return };
    let port = shard.connect(format, socket);
    let mut dialogue = Dialogue::new(Rc::clone(&port), Rc::clone(&shard), login, Instant::now());
    if shard.is_draining() {
        shard.close(&port, CloseCode::GoingAway, CloseCode::GoingAway.name());
    } else if let Some(identity) = identity {
        dialogue.begin(&identity);
    }
    let mut connection = Connection {
        port: Rc::clone(&port),
        incoming: Incoming::new(dialogue.message_bytes_max(), format.deflate, early.into()),
        mid_message_since: None,
        stalled_since: None,
        dialogue,
    };
    connection.run().await;
    shard.disconnect(&port);
    drop(permit);
}

struct Connection<E> {
    port: Rc<SocketPort>,
    incoming: Incoming,
    /// Since when a message is unfinished.
    mid_message_since: Option<Instant>,
    /// Since when the socket has taken nothing of what waits.
    stalled_since: Option<Instant>,
    dialogue: Dialogue<E>,
}

impl<E: Engine> Connection<E> {
    async fn run(&mut self) {
        let port = Rc::clone(&self.port);
        let mut read = self.resume();
        let mut timer = pin!(sleep_until(self.deadline().into()));
        loop {
            match read {
                Read::Taken | Read::Stop => {}
                Read::Gone => return,
                Read::Violation(Violation { code, reason }) => {
                    self.dialogue.shard.close(&port, code, reason);
                }
                Read::Yield => {
                    yield_now().await;
                    read = self.resume();
                    continue;
                }
                Read::Wait((id, command)) => {
                    self.dialogue.answer(id, command).await;
                    self.incoming.set_message_bytes_max(self.dialogue.message_bytes_max());
                    read = self.resume();
                    continue;
                }
            }
            read = Read::Taken;
            if port.closing().is_some() {
                return finish(&port, self.dialogue.shard.metrics()).await;
            }
            let deadline = self.deadline();
            if deadline < timer.deadline().into_std() {
                timer.as_mut().reset(deadline.into());
            }
            let is_stalled = self.stalled_since.is_some();
            let interest = if is_stalled {
                Interest::READABLE.add(Interest::WRITABLE)
            } else {
                Interest::READABLE
            };
            tokio::select! {
                biased;
                () = port.wake.notified() => {
                    if self.write_on() == Flushed::Broken {
                        return;
                    }
                }
                ready = port.socket.ready(interest) => {
                    let Ok(ready) = ready else { return };
                    if is_stalled && ready.is_writable() && self.write_on() == Flushed::Broken {
                        return;
                    }
                    if ready.is_readable() {
                        read = self.read();
                    }
                }
                () = &mut timer => {
                    self.on_time(Instant::now());
                    timer.as_mut().reset(self.deadline().into());
                }
            }
        }
    }

    fn read(&mut self) -> Read<Waiting> {
        let now = Instant::now();
        let Self { port, incoming, dialogue, .. } = self;
        dialogue.heartbeat.heard(now);
        let shard = Rc::clone(&dialogue.shard);
        let read = incoming.read(&port.socket, shard.metrics(), |received| dialogue.hear(received));
        self.note_mid_message(now);
        read
    }

    fn resume(&mut self) -> Read<Waiting> {
        let Self { incoming, dialogue, .. } = self;
        let shard = Rc::clone(&dialogue.shard);
        let read = incoming.resume(shard.metrics(), |received| dialogue.hear(received));
        self.note_mid_message(Instant::now());
        read
    }

    fn note_mid_message(&mut self, now: Instant) {
        self.mid_message_since =
            self.incoming.is_mid_message().then(|| self.mid_message_since.unwrap_or(now));
    }

    fn write_on(&mut self) -> Flushed {
        let flushed = flush(&self.port, self.dialogue.shard.metrics());
        match flushed {
            Flushed::Blocked { progressed: false } => {
                self.stalled_since.get_or_insert_with(Instant::now);
            }
            Flushed::Blocked { progressed: true } => self.stalled_since = Some(Instant::now()),
            Flushed::Empty | Flushed::Broken => self.stalled_since = None,
        }
        flushed
    }

    /// When something is due if nothing happens before.
    fn deadline(&self) -> Instant {
        let limits = self.dialogue.shard.limits();
        let (State::Unauthenticated { until } | State::Ready { until, .. }) = self.dialogue.state;
        let frame = self.mid_message_since.map(|since| since + limits.frame_timeout);
        let stall = self.stalled_since.map(|since| since + limits.write_stall_timeout);
        [frame, stall]
            .into_iter()
            .flatten()
            .fold(until.min(self.dialogue.heartbeat.deadline()), Instant::min)
    }

    fn on_time(&mut self, now: Instant) {
        let port = &self.port;
        let Dialogue { shard, heartbeat, state, .. } = &mut self.dialogue;
        let limits = shard.limits();
        let close = |code: CloseCode| shard.close(port, code, code.name());
        match *state {
            State::Unauthenticated { until } if now >= until => close(CloseCode::NotAuthenticated),
            State::Ready { until, .. } if now >= until => close(CloseCode::TokenExpired),
            State::Unauthenticated { .. } | State::Ready { .. } => {}
        }
        if self.mid_message_since.is_some_and(|since| now >= since + limits.frame_timeout) {
            close(CloseCode::PolicyViolation);
        }
        if self.stalled_since.is_some_and(|since| now >= since + limits.write_stall_timeout) {
            shard.close_slow_consumer(port);
        }
        match heartbeat.beat(now) {
            Beat::Wait => {}
            Beat::Ping => shard.ping(port),
            Beat::Dead => close(CloseCode::PongTimeout),
        }
    }
}

/// The end of a connection: writes what is left, says that nothing follows, and waits for the client
/// to hang up, since a socket that is closed with unread bytes takes its last frames with it.
async fn finish(port: &SocketPort, metrics: &Metrics) {
    let end = sleep(CLOSE_TIMEOUT);
    tokio::pin!(end);
    let mut is_shut = false;
    let mut has_hung_up = false;
    loop {
        let flushed = flush(port, metrics);
        match flushed {
            Flushed::Broken => return,
            // A client that said its last word may still be reading ours.
            Flushed::Empty if has_hung_up => return,
            Flushed::Empty if !is_shut => {
                if port.socket.finish().is_err() {
                    return;
                }
                is_shut = true;
            }
            Flushed::Empty | Flushed::Blocked { .. } => {}
        }
        let interest = match (flushed, has_hung_up) {
            (Flushed::Blocked { .. }, true) => Interest::WRITABLE,
            (Flushed::Blocked { .. }, false) => Interest::READABLE.add(Interest::WRITABLE),
            _ => Interest::READABLE,
        };
        tokio::select! {
            () = &mut end => return,
            ready = port.socket.ready(interest) => match ready {
                Ok(ready) if ready.is_readable() => {
                    has_hung_up |= reader::discard(&port.socket).is_break();
                }
                Ok(_) => {}
                Err(_) => return,
            },
        }
    }
}

fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}
