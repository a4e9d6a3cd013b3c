//! The life of a connection on its shard: unauthenticated → ready → closing.
//!
//! One task per connection reads and keeps its deadlines. It writes only when its socket was
//! blocked; otherwise the end of a turn does ([`writer`]). A command that needs more than memory (a
//! login, a name that nobody has asked for yet) holds up its own connection and no other.

use std::{
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use rustix::net::{Shutdown, shutdown};
use tokio::{
    io::Interest,
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::spawn_local,
    time::{sleep, sleep_until},
};

use self::{
    heartbeat::{Beat, Heartbeat},
    login::{Login, LoginError, seconds_since_1970},
    reader::{Incoming, Next, Read},
    writer::{Flushed, flush},
};
use crate::{
    engine::Engine,
    hub::{
        Handover, Identity, ShardInput,
        directory::{ChannelInfo, DirectoryError},
        shard::{Port, Publish, Shard},
    },
    limits::{
        CLOSE_TIMEOUT, DRAIN_CHECK_INTERVAL, LOGIN_LIFETIME_MAX, RECONNECTS_PER_SECOND,
        UNDECODABLE_FRAMES_MAX,
    },
    log::place::UserId,
    metrics::Metrics,
    websocket::reader::{Received, Violation},
    wire::{
        Encoding,
        code::{CloseCode, ErrorCode},
        decode::{ChannelRef, Command, Request, Undecodable, decode},
        encode::{Control, Reply},
    },
};

pub mod heartbeat;
pub mod login;
pub mod reader;
pub mod writer;

type TcpShard<E> = Shard<E, TcpStream>;
type TcpPort = Port<TcpStream>;

/// The life of a shard's thread: takes connections in until the mailbox closes.
pub async fn run_shard<E: Engine>(
    shard: Rc<TcpShard<E>>,
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

async fn drain<E: Engine>(shard: Rc<TcpShard<E>>, done: oneshot::Sender<()>) {
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

async fn serve<E: Engine>(shard: Rc<TcpShard<E>>, login: Arc<Login<E>>, handover: Handover) {
    let Handover { stream, early, encoding, identity, permit } = handover;
    let Ok(socket) = TcpStream::from_std(stream) else { return };
    let port = shard.connect(encoding, socket);
    let now = Instant::now();
    let limits = shard.limits();
    let dialogue = Dialogue {
        heartbeat: Heartbeat::new(limits.ping_interval, limits.pong_timeout, rand::random(), now),
        state: State::Unauthenticated { until: now + limits.authenticate_timeout },
        undecodable: 0,
        port: Rc::clone(&port),
        login,
        shard: Rc::clone(&shard),
    };
    let login_message_bytes_max = bytes(limits.login_message_bytes_max);
    let mut connection = Connection {
        port: Rc::clone(&port),
        incoming: Incoming::new(login_message_bytes_max, early.into()),
        mid_message_since: None,
        stalled_since: None,
        dialogue,
    };
    if shard.is_draining() {
        shard.close(&port, CloseCode::GoingAway, CloseCode::GoingAway.name());
    } else if let Some(identity) = identity {
        connection.begin(&identity);
    }
    connection.run().await;
    shard.disconnect(&port);
    drop(permit);
}

struct Connection<E> {
    port: Rc<TcpPort>,
    incoming: Incoming,
    /// Since when a message is unfinished.
    mid_message_since: Option<Instant>,
    /// Since when the socket has taken nothing of what waits.
    stalled_since: Option<Instant>,
    dialogue: Dialogue<E>,
}

/// What is said on a connection, apart from how its bytes are read.
struct Dialogue<E> {
    heartbeat: Heartbeat,
    state: State,
    /// Frames so far that held no envelope.
    undecodable: u8,
    port: Rc<TcpPort>,
    login: Arc<Login<E>>,
    shard: Rc<TcpShard<E>>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Nobody has logged in.
    Unauthenticated { until: Instant },
    /// This user has, with a token that is good until then.
    Ready { user: UserId, until: Instant },
}

/// A command that must wait for the edge or the engine, and holds up what comes behind it.
type Waiting = (u32, Command);

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
                Read::Wait((id, command)) => {
                    self.answer(id, command).await;
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
        let read = incoming.read(&port.socket, |received| dialogue.hear(received));
        self.note_mid_message(now);
        read
    }

    fn resume(&mut self) -> Read<Waiting> {
        let Self { incoming, dialogue, .. } = self;
        let read = incoming.resume(|received| dialogue.hear(received));
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
        let Dialogue { shard, port, heartbeat, state, .. } = &mut self.dialogue;
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

    fn begin(&mut self, identity: &Identity) {
        let Dialogue { shard, port, .. } = &self.dialogue;
        let limits = shard.limits();
        self.incoming.set_message_bytes_max(bytes(limits.message_bytes_max));
        shard.tell(
            port,
            &Control::Welcome {
                user: identity.user,
                name: identity.name.clone(),
                expires_at: identity.expires_at,
                ping_interval_ms: millis(limits.ping_interval),
                pong_timeout_ms: millis(limits.pong_timeout),
                message_bytes_max: u32::try_from(limits.message_bytes_max.as_u64())
                    .unwrap_or(u32::MAX),
            },
        );
        self.dialogue.admit(identity);
    }

    /// Answers a command that had to wait.
    async fn answer(&mut self, id: u32, command: Command) {
        let dialogue = &mut self.dialogue;
        let Dialogue { shard, port, .. } = dialogue;
        match command {
            Command::Authenticate { token } => {
                let login = dialogue.login.login_from_shard(token).await;
                self.logged_in(id, login);
            }
            Command::CreateChannel { name } => {
                let now_s = u32::try_from(seconds_since_1970()).unwrap_or(u32::MAX);
                match shard.directory().create_channel(&name, now_s).await {
                    Ok(channel) => {
                        shard.reply(port, id, &Reply::Channel { channel: channel.id, name });
                    }
                    Err(error) => shard.refuse(port, id, (&error).into()),
                }
            }
            Command::Users { users } => match dialogue.names(&users).await {
                Ok(names) => dialogue.shard.reply(&dialogue.port, id, &Reply::Users(names)),
                Err(error) => dialogue.shard.refuse(&dialogue.port, id, (&error).into()),
            },
            Command::Publish { ref channel, .. }
            | Command::Subscribe { ref channel, .. }
            | Command::History { ref channel, .. } => {
                let found = match channel {
                    ChannelRef::Id(id) => shard.directory().channel(*id).await,
                    ChannelRef::Name(name) => shard.directory().channel_by_name(name).await,
                };
                match found {
                    Ok(info) => dialogue.act(id, command, &info),
                    Err(error) => shard.refuse(port, id, (&error).into()),
                }
            }
            Command::Unsubscribe { channel } => shard.unsubscribe(port, id, channel),
        }
    }

    fn logged_in(&mut self, id: u32, login: Result<Identity, LoginError>) {
        let Dialogue { shard, port, state, .. } = &self.dialogue;
        let identity = match login {
            Ok(identity) => identity,
            Err(error) => {
                shard.refuse(port, id, (&error).into());
                // A bad renewal ends nothing: the login before it is still good.
                if let (State::Unauthenticated { .. }, Some(code)) = (state, error.close_code()) {
                    shard.close(port, code, code.name());
                }
                return;
            }
        };
        match state {
            State::Ready { user, .. } if *user != identity.user => {
                return shard.refuse(port, id, ErrorCode::WrongUser);
            }
            State::Ready { .. } => self.dialogue.admit(&identity),
            State::Unauthenticated { .. } => self.begin(&identity),
        }
        let Identity { user, name, expires_at } = identity;
        let Dialogue { shard, port, .. } = &self.dialogue;
        shard.reply(port, id, &Reply::Authenticated { user, name, expires_at });
    }
}

impl<E: Engine> Dialogue<E> {
    fn hear(&mut self, received: Received<'_>) -> Next<Waiting> {
        let next = match (received, self.port.encoding()) {
            (Received::Text(text), Encoding::Json) => self.hear_frame(text.as_bytes()),
            (Received::Binary(bytes), Encoding::Proto) => self.hear_frame(bytes),
            (Received::Text(_) | Received::Binary(_), _) => self.close(CloseCode::UnsupportedData),
            (Received::Ping(payload), _) => {
                self.shard.pong(&self.port, payload);
                Next::Go
            }
            (Received::Pong(_), _) => Next::Go,
            (Received::Close(_), _) => self.close(CloseCode::Normal),
        };
        if self.port.closing().is_some() { Next::Stop } else { next }
    }

    fn hear_frame(&mut self, frame: &[u8]) -> Next<Waiting> {
        let request = match decode(self.port.encoding(), frame) {
            Ok(request) => request,
            Err(Undecodable) => {
                self.undecodable += 1;
                let is_over = self.undecodable >= UNDECODABLE_FRAMES_MAX;
                if is_over || matches!(self.state, State::Unauthenticated { .. }) {
                    return self.close(CloseCode::ProtocolViolation);
                }
                self.shard.refuse(&self.port, 0, ErrorCode::BadRequest);
                return Next::Go;
            }
        };
        match request {
            Request { id, command: Err(code) } => self.shard.refuse(&self.port, id, code),
            Request { id, command: Ok(command @ Command::Authenticate { .. }) } => {
                return Next::Wait((id, command));
            }
            Request { id, .. } if matches!(self.state, State::Unauthenticated { .. }) => {
                self.shard.refuse(&self.port, id, ErrorCode::NotAuthenticated);
            }
            Request { id, command: Ok(command) } => return self.obey(id, command),
        }
        Next::Go
    }

    /// Does at once what can be done from memory.
    fn obey(&self, id: u32, command: Command) -> Next<Waiting> {
        let directory = self.shard.directory();
        let known = match &command {
            Command::Publish { channel, .. }
            | Command::Subscribe { channel, .. }
            | Command::History { channel, .. } => match channel {
                ChannelRef::Id(id) => directory.cached_channel(*id),
                ChannelRef::Name(name) => directory.cached_channel_by_name(name),
            },
            Command::Unsubscribe { channel } => {
                self.shard.unsubscribe(&self.port, id, *channel);
                return Next::Go;
            }
            Command::Authenticate { .. }
            | Command::Users { .. }
            | Command::CreateChannel { .. } => None,
        };
        match known {
            Some(channel) => {
                self.act(id, command, &channel);
                Next::Go
            }
            None => Next::Wait((id, command)),
        }
    }

    /// Hands a command on a known channel to the shard.
    fn act(&self, id: u32, command: Command, channel: &ChannelInfo) {
        let (shard, port) = (&self.shard, &self.port);
        match (command, self.state) {
            (Command::Publish { client_message_id, body, .. }, State::Ready { user, .. }) => {
                shard.publish(port, Publish { id, user, client_message_id, body }, channel);
            }
            (Command::Subscribe { since, .. }, _) => shard.subscribe(port, id, channel, since),
            (Command::History { page, .. }, _) => shard.history(port, id, channel, page),
            (command, _) => unreachable!("{command:?} names no channel, or nobody is logged in"),
        }
    }

    async fn names(&self, users: &[UserId]) -> Result<Vec<(UserId, String)>, DirectoryError> {
        let mut names = Vec::with_capacity(users.len());
        for &user in users {
            if let Some(name) = self.shard.directory().user_name(user).await? {
                names.push((user, name.to_string()));
            }
        }
        Ok(names)
    }

    fn admit(&mut self, identity: &Identity) {
        let left_s = identity.expires_at.saturating_sub(seconds_since_1970());
        let left = Duration::from_secs(left_s).min(LOGIN_LIFETIME_MAX);
        self.state = State::Ready { user: identity.user, until: Instant::now() + left };
    }

    fn close(&self, code: CloseCode) -> Next<Waiting> {
        self.shard.close(&self.port, code, code.name());
        Next::Stop
    }
}

/// The end of a connection: writes what is left, says that nothing follows, and waits for the client
/// to hang up, since a socket that is closed with unread bytes takes its last frames with it.
async fn finish(port: &TcpPort, metrics: &Metrics) {
    let end = sleep(CLOSE_TIMEOUT);
    tokio::pin!(end);
    let mut is_shut = false;
    loop {
        let interest = match flush(port, metrics) {
            Flushed::Broken => return,
            Flushed::Blocked { .. } => Interest::READABLE.add(Interest::WRITABLE),
            Flushed::Empty => {
                if !is_shut && shutdown(&port.socket, Shutdown::Write).is_err() {
                    return;
                }
                is_shut = true;
                Interest::READABLE
            }
        };
        tokio::select! {
            () = &mut end => return,
            ready = port.socket.ready(interest) => {
                if ready.is_err() || reader::discard(&port.socket).is_break() {
                    return;
                }
            }
        }
    }
}

fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
