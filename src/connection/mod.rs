//! The life of a connection on its shard: unauthenticated → ready → closing.
//!
//! One task per connection reads and keeps its deadlines. It writes only when its socket was
//! blocked; otherwise the end of a turn does ([`writer`]). A command that needs more than memory (a
//! login, a name that nobody has asked for yet) holds up its own connection and no other.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use tokio::{
    io::Interest,
    sync::{mpsc, oneshot},
    task::{spawn_local, yield_now},
    time::{Sleep, sleep, sleep_until},
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
        DrainStep, Handover, Permit, ShardInput,
        crossing::Arrivals,
        revocations::NoticesMailbox,
        shard::{Port, Shard},
    },
    limits::{
        CLOSE_TIMEOUT, DRAIN_CHECK_INTERVAL, DRAIN_SLICE_INTERVAL, RECONNECTS_PER_SECOND,
        REVOCATION_SCAN_CONNECTIONS,
    },
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
    arrivals: Arrivals,
    cork_max: Duration,
    notices: NoticesMailbox,
    mut mailbox: mpsc::Receiver<ShardInput>,
) {
    shard.take_arrivals(arrivals);
    spawn_local(writer::end_turns(Rc::clone(&shard), cork_max));
    spawn_local(end_revoked(Rc::clone(&shard), notices));
    shard.tell_nodes();
    while let Some(input) = mailbox.recv().await {
        match input {
            ShardInput::Connection(handover) => {
                serve(&shard, &login, handover);
            }
            ShardInput::Drain(step, done) => {
                spawn_local(drain(Rc::clone(&shard), step, done));
            }
            ShardInput::Calls(calls) => calls.into_iter().for_each(|call| shard.call(call)),
            ShardInput::Imported(imported) => shard.imported(imported),
            ShardInput::News(news) => shard.news(news),
        }
    }
}

/// Closes connections whose login is revoked, in parts between which others have their turn. By a
/// mailbox of its own, since a revocation must not wait for a storm of connections.
async fn end_revoked<E: Engine>(shard: Rc<SocketShard<E>>, mut mailbox: NoticesMailbox) {
    while let Some(notices) = mailbox.recv().await {
        let mut place = Some(0);
        while let Some(from) = place {
            place = shard.close_revoked(&notices, from, REVOCATION_SCAN_CONNECTIONS);
            yield_now().await;
        }
    }
}

async fn drain<E: Engine>(shard: Rc<SocketShard<E>>, step: DrainStep, done: oneshot::Sender<()>) {
    // The other shards have about as many.
    let connections = shard.connection_count() * usize::from(shard.shards());
    let spread_ms = reconnect_spread_ms(connections);
    match step {
        DrainStep::Leave(within) => leave(&shard, within, spread_ms).await,
        DrainStep::Stop => {
            shard.drain(|| rand::random_range(0..=spread_ms));
        }
        DrainStep::Finish => {
            while !shard.is_idle() {
                sleep(DRAIN_CHECK_INTERVAL).await;
            }
        }
        DrainStep::Close => {
            shard.tell_last();
            while !shard.has_heard_last() {
                sleep(DRAIN_CHECK_INTERVAL).await;
            }
            shard.close_all(CloseCode::GoingAway);
            while shard.connection_count() > 0 {
                sleep(DRAIN_CHECK_INTERVAL).await;
            }
        }
    }
    // Whoever asked may have stopped waiting: then nobody wants to know.
    let _ = done.send(());
}

/// Sends all connections away, in slices between which the other nodes take them in. A publish that is
/// under way is committed all the same: who does not hear of it finds it at the other node.
async fn leave<E: Engine>(shard: &SocketShard<E>, within: Duration, spread_ms: u32) {
    let time = within.min(Duration::from_millis(spread_ms.into()));
    let slice_ms = u32::try_from(DRAIN_SLICE_INTERVAL.as_millis()).unwrap_or(u32::MAX);
    let slices = time.as_millis().div_ceil(u128::from(slice_ms)).max(1);
    let slices = usize::try_from(slices).unwrap_or(usize::MAX);
    let count = shard.connection_count().div_ceil(slices);
    for _ in 0..slices {
        shard.send_away(count, || rand::random_range(0..=slice_ms));
        sleep(DRAIN_SLICE_INTERVAL).await;
    }
}

/// Over how many milliseconds so many clients should come back.
fn reconnect_spread_ms(connections: usize) -> u32 {
    u32::try_from(connections).unwrap_or(u32::MAX).saturating_mul(1_000) / RECONNECTS_PER_SECOND
}

/// Takes a connection in, and starts its task.
///
/// The task is most of what an idle connection costs. So what is done once is done before it starts,
/// and what is done rarely has memory of its own only while it is under way.
fn serve<E: Engine>(shard: &Rc<SocketShard<E>>, login: &Arc<Login<E>>, handover: Handover) {
    let Handover { stream, tls, early, format, identity, permit } = handover;
    let Ok(socket) = Socket::new(stream, tls) else { return };
    let port = shard.connect(format, socket);
    let mut dialogue =
        Dialogue::new(Rc::clone(&port), Rc::clone(shard), Arc::clone(login), Instant::now());
    if shard.is_draining() {
        shard.close(&port, CloseCode::GoingAway, CloseCode::GoingAway.name());
    } else if let Some(identity) = identity {
        dialogue.begin(&identity);
    }
    let mut connection = Connection {
        incoming: Incoming::new(dialogue.message_bytes_max(), format.deflate, early.into()),
        waiting: None,
        late: None,
        dialogue,
        _permit: permit,
    };
    // What came behind the handshake.
    if connection.resume().is_ok() {
        spawn_local(live(connection));
    }
}

/// One connection, for as long as its task lives. Every word of it is paid for by those who are idle.
struct Connection<E: Engine> {
    incoming: Incoming,
    /// The command that holds up what comes behind it.
    waiting: Option<Waiting>,
    /// What has begun and is not done. None on an idle connection.
    late: Option<Box<Late>>,
    dialogue: Dialogue<E>,
    /// Goes after the connection has left its shard.
    _permit: Permit,
}

/// What has begun and must be done in time.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Late {
    /// Since when a message is unfinished.
    mid_message_since: Option<Instant>,
    /// Since when the socket has taken nothing of what waits.
    stalled_since: Option<Instant>,
    /// Others are to have a turn before the rest of what was read.
    must_yield: bool,
}

/// The socket is gone, and nothing more can be said on it.
struct Gone;

/// What a connection was waiting for.
enum Event {
    /// The shard wants it to look.
    Rung,
    /// The socket takes more.
    Writable,
    /// There is something to read.
    Readable,
    /// A deadline may have passed.
    Due,
}

impl<E: Engine> Drop for Connection<E> {
    fn drop(&mut self) {
        let Dialogue { shard, port, .. } = &self.dialogue;
        shard.disconnect(port);
    }
}

/// The task of a connection. Not an `async fn`, which would have two places for its argument.
#[expect(clippy::manual_async_fn, reason = "as said")]
fn live<E: Engine>(mut connection: Connection<E>) -> impl Future<Output = Result<(), Gone>> {
    async move {
        let mut timer = pin!(sleep_until(connection.deadline().into()));
        loop {
            // What a connection that is being closed still had to say is not obeyed.
            while connection.dialogue.port.closing().is_none() {
                if let Some(command) = connection.waiting.take() {
                    Box::pin(connection.dialogue.answer(command)).await;
                    // Also who has one thing after the other to wait for has deadlines.
                    if Instant::now() >= connection.deadline() {
                        connection.on_time(timer.as_mut());
                    }
                    connection.answered()?;
                } else if connection.take_yield() {
                    yield_now().await;
                    connection.resume()?;
                } else {
                    break;
                }
            }
            if connection.dialogue.port.closing().is_some() {
                return Box::pin(finish(&connection.dialogue)).await;
            }
            connection.bring_forward(timer.as_mut());
            match poll_fn(|cx| connection.poll_event(timer.as_mut(), cx)).await? {
                Event::Rung | Event::Writable => connection.write_on()?,
                Event::Readable => connection.read()?,
                Event::Due => connection.on_time(timer.as_mut()),
            }
        }
    }
}

impl<E: Engine> Connection<E> {
    /// Waits by the places that port, socket and timer have for a waker each: futures that are made
    /// anew for each wait would be the larger half of the task.
    fn poll_event(
        &self,
        timer: Pin<&mut Sleep>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Event, Gone>> {
        let port = &self.dialogue.port;
        if port.wake.poll_notified(cx).is_ready() {
            return Poll::Ready(Ok(Event::Rung));
        }
        // Before the socket: a client that sends without end has its deadlines too.
        if timer.poll(cx).is_ready() {
            return Poll::Ready(Ok(Event::Due));
        }
        let when_ready = |ready: io::Result<()>, event| ready.map(|()| event).map_err(|_| Gone);
        if self.late.as_ref().is_some_and(|late| late.stalled_since.is_some())
            && let Poll::Ready(ready) = port.socket.poll_writable(cx)
        {
            return Poll::Ready(when_ready(ready, Event::Writable));
        }
        port.socket.poll_readable(cx).map(|ready| when_ready(ready, Event::Readable))
    }

    fn read(&mut self) -> Result<(), Gone> {
        let now = Instant::now();
        let Self { incoming, dialogue, .. } = self;
        dialogue.heartbeat.heard(now);
        let (port, shard) = (Rc::clone(&dialogue.port), Rc::clone(&dialogue.shard));
        let read = incoming.read(&port.socket, shard.metrics(), |received| dialogue.hear(received));
        self.take(read, now)
    }

    /// Goes on with what was read before.
    fn resume(&mut self) -> Result<(), Gone> {
        let Self { incoming, dialogue, .. } = self;
        let shard = Rc::clone(&dialogue.shard);
        let read = incoming.resume(shard.metrics(), |received| dialogue.hear(received));
        self.take(read, Instant::now())
    }

    fn answered(&mut self) -> Result<(), Gone> {
        self.incoming.set_message_bytes_max(self.dialogue.message_bytes_max());
        self.resume()
    }

    /// What a read means: perhaps a command that must wait, perhaps the end.
    fn take(&mut self, read: Read<Waiting>, now: Instant) -> Result<(), Gone> {
        let is_mid_message = self.incoming.is_mid_message();
        self.note(|late| {
            late.mid_message_since = is_mid_message.then(|| late.mid_message_since.unwrap_or(now));
        });
        match read {
            Read::Taken | Read::Stop => {}
            Read::Gone => return Err(Gone),
            Read::Violation(Violation { code, reason }) => {
                self.dialogue.shard.close(&self.dialogue.port, code, reason);
            }
            Read::Wait(command) => self.waiting = Some(command),
            Read::Yield => self.note(|late| late.must_yield = true),
        }
        Ok(())
    }

    fn write_on(&mut self) -> Result<(), Gone> {
        let flushed = flush(&self.dialogue.port, self.dialogue.shard.metrics());
        self.note(|late| match flushed {
            Flushed::Blocked { progressed: false } => {
                late.stalled_since.get_or_insert_with(Instant::now);
            }
            Flushed::Blocked { progressed: true } => late.stalled_since = Some(Instant::now()),
            Flushed::Empty | Flushed::Broken => late.stalled_since = None,
        });
        if flushed == Flushed::Broken { Err(Gone) } else { Ok(()) }
    }

    /// Notes what has begun and what is done, in memory that is there only between the two.
    fn note(&mut self, note: impl FnOnce(&mut Late)) {
        let mut late = self.late.as_deref().copied().unwrap_or_default();
        note(&mut late);
        if late == Late::default() {
            self.late = None;
        } else {
            **self.late.get_or_insert_default() = late;
        }
    }

    /// Whether others are to have a turn, which is said once.
    fn take_yield(&mut self) -> bool {
        let must_yield = self.late.as_ref().is_some_and(|late| late.must_yield);
        if must_yield {
            self.note(|late| late.must_yield = false);
        }
        must_yield
    }

    /// When something is due if nothing happens before.
    fn deadline(&self) -> Instant {
        let limits = self.dialogue.shard.limits();
        let (State::Unauthenticated { until } | State::Ready { until, .. }) = self.dialogue.state;
        let late = self.late.as_deref().copied().unwrap_or_default();
        let frame = late.mid_message_since.map(|since| since + limits.frame_timeout);
        let stall = late.stalled_since.map(|since| since + limits.write_stall_timeout);
        [frame, stall]
            .into_iter()
            .flatten()
            .fold(until.min(self.dialogue.heartbeat.deadline()), Instant::min)
    }

    /// Lets the timer end earlier, if it must. One that ends too early is set anew then, which costs
    /// less than to move it with every sign of life.
    fn bring_forward(&self, timer: Pin<&mut Sleep>) {
        let deadline = self.deadline();
        if deadline < timer.deadline().into_std() {
            timer.reset(deadline.into());
        }
    }

    /// Does what is due, and sets the timer anew.
    fn on_time(&mut self, timer: Pin<&mut Sleep>) {
        let now = Instant::now();
        let late = self.late.as_deref().copied().unwrap_or_default();
        let Dialogue { shard, port, heartbeat, state, .. } = &mut self.dialogue;
        let limits = shard.limits();
        let close = |code: CloseCode| shard.close(port, code, code.name());
        match *state {
            State::Unauthenticated { until } if now >= until => close(CloseCode::NotAuthenticated),
            State::Ready { until, .. } if now >= until => close(CloseCode::TokenExpired),
            State::Unauthenticated { .. } | State::Ready { .. } => {}
        }
        if late.mid_message_since.is_some_and(|since| now >= since + limits.frame_timeout) {
            close(CloseCode::PolicyViolation);
        }
        if late.stalled_since.is_some_and(|since| now >= since + limits.write_stall_timeout) {
            shard.close_slow_consumer(port);
        }
        match heartbeat.beat(now) {
            Beat::Wait => {}
            Beat::Ping => {
                port.outbox.borrow_mut().release_spare();
                shard.ping(port);
            }
            Beat::Dead => close(CloseCode::PongTimeout),
        }
        timer.reset(self.deadline().into());
    }
}

/// The end of a connection: writes what is left, says that nothing follows, and waits for the client
/// to hang up, since a socket that is closed with unread bytes takes its last frames with it.
async fn finish<E: Engine>(Dialogue { shard, port, .. }: &Dialogue<E>) -> Result<(), Gone> {
    let end = sleep(CLOSE_TIMEOUT);
    tokio::pin!(end);
    let mut is_shut = false;
    let mut has_hung_up = false;
    loop {
        let mut flushed = flush(port, shard.metrics());
        if flushed == Flushed::Empty && !is_shut {
            match port.socket.finish() {
                Ok(()) => is_shut = true,
                // A TLS session has a last word of its own.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    flushed = Flushed::Blocked { progressed: false };
                }
                Err(_) => return Err(Gone),
            }
        }
        match flushed {
            Flushed::Broken => return Err(Gone),
            // A client that said its last word may still be reading ours.
            Flushed::Empty if has_hung_up => return Ok(()),
            Flushed::Empty | Flushed::Blocked { .. } => {}
        }
        let interest = match (flushed, has_hung_up) {
            (Flushed::Blocked { .. }, true) => Interest::WRITABLE,
            (Flushed::Blocked { .. }, false) => Interest::READABLE.add(Interest::WRITABLE),
            _ => Interest::READABLE,
        };
        tokio::select! {
            () = &mut end => return Ok(()),
            ready = port.socket.ready(interest) => match ready {
                Ok(ready) if ready.is_readable() => {
                    has_hung_up |= reader::discard(&port.socket).is_break();
                }
                Ok(_) => {}
                Err(_) => return Err(Gone),
            },
        }
    }
}

fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::memory::MemoryEngine;

    /// The size of what a function makes of a connection.
    fn size_of_task<F>(_: fn(Connection<MemoryEngine>) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_is_small() {
        // With 104 bytes that tokio adds, the task takes three of the 128 that it is aligned to. A
        // timer of tokio's is 112 of them.
        let task = size_of_task(live);
        assert!(task <= 280, "{task}");
        // With the two counts of its `Rc`.
        let port = 2 * size_of::<usize>() + size_of::<SocketPort>();
        assert!(port <= 184, "{port}");
    }
}
