//! What is said on a connection: messages of the client → commands → the shard, and their answers.
//!
//! Apart from [`super::reader`] and [`super::writer`], which move the bytes. What can be done from
//! memory is done at once; a login, or a name that nobody has asked for yet, waits for the edge or
//! the engine, and what the client sent behind it waits too.

use std::{
    future::poll_fn,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use tokio::time::{sleep_until, timeout};

use super::{
    SocketPort, SocketShard, bytes,
    heartbeat::Heartbeat,
    login::{Login, LoginError},
    reader::Next,
};
use crate::{
    clock,
    engine::Engine,
    hub::{
        Identity,
        directory::{ChannelInfo, DirectoryError},
        revoked::Refused,
        shard::Publish,
    },
    limits::{CALL_TIMEOUT, LOGIN_LIFETIME_MAX, UNDECODABLE_FRAMES_MAX},
    log::place::UserId,
    websocket::reader::Received,
    wire::{
        Encoding,
        code::{CloseCode, ErrorCode},
        decode::{Command, Request, Undecodable, decode},
        encode::{Control, Reply},
    },
};

/// What is said on a connection, apart from how its bytes are read.
pub(super) struct Dialogue<E> {
    pub(super) heartbeat: Heartbeat,
    pub(super) state: State,
    /// Frames so far that held no envelope.
    undecodable: u8,
    pub(super) port: Rc<SocketPort>,
    login: Arc<Login<E>>,
    pub(super) shard: Rc<SocketShard<E>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    /// Nobody has logged in.
    Unauthenticated { until: Instant },
    /// This user has, with a token that is good until then.
    Ready { user: UserId, until: Instant },
}

/// A command that must wait for the edge or the engine, and holds up what comes behind it. Boxed,
/// since the place for it is there all the time.
pub(super) type Waiting = Box<(u32, Command)>;

impl<E: Engine> Dialogue<E> {
    /// The beginning of a conversation with somebody unknown.
    pub(super) fn new(
        port: Rc<SocketPort>,
        shard: Rc<SocketShard<E>>,
        login: Arc<Login<E>>,
        now: Instant,
    ) -> Self {
        let limits = shard.limits();
        let spread = rand::random();
        Self {
            heartbeat: Heartbeat::new(limits.ping_interval, limits.pong_timeout, spread, now),
            state: State::Unauthenticated { until: now + limits.authenticate_timeout },
            undecodable: 0,
            port,
            login,
            shard,
        }
    }

    /// The largest message that is taken now.
    pub(super) fn message_bytes_max(&self) -> usize {
        let limits = self.shard.limits();
        bytes(match self.state {
            State::Unauthenticated { .. } => limits.login_message_bytes_max,
            State::Ready { .. } => limits.message_bytes_max,
        })
    }

    /// Lets the user in who came with a login.
    pub(super) fn begin(&mut self, identity: &Identity) {
        match self.admit(identity) {
            Ok(()) => self.welcome(identity),
            Err(refused) => {
                let code = CloseCode::from(refused);
                self.shard.close(&self.port, code, code.name());
            }
        }
    }

    fn welcome(&self, identity: &Identity) {
        let limits = self.shard.limits();
        self.shard.tell(
            &self.port,
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
    }

    /// Answers a command that had to wait.
    pub(super) async fn answer(&mut self, waiting: Waiting) {
        let (id, command) = *waiting;
        let (shard, port) = (Rc::clone(&self.shard), Rc::clone(&self.port));
        match command {
            Command::Authenticate { token } => {
                let login = self.login.login_from_shard(token);
                if let Some(login) = self.unless_over(login).await {
                    self.logged_in(id, login);
                }
            }
            Command::Channels(command) => {
                let State::Ready { user, .. } = self.state else { return };
                let performed = shard.desk().perform_by(user, Some(port.key()), *command);
                let Some(performed) = self.in_time(performed).await else { return };
                let reply = performed.unwrap_or_else(|code| Reply::Refused(code.into()));
                if let Reply::Refused(refusal) = &reply {
                    shard.metrics().refused(refusal.code);
                }
                shard.reply(&port, id, &reply);
            }
            Command::Users { users } => match self.in_time(self.names(&users)).await {
                Some(Ok(Ok(names))) => shard.reply(&port, id, &Reply::Users(names)),
                Some(Ok(Err(error))) => shard.refuse(&port, id, (&error).into()),
                Some(Err(code)) => shard.refuse(&port, id, code),
                None => {}
            },
            Command::Publish { ref channel, .. }
            | Command::Subscribe { ref channel, .. }
            | Command::History { ref channel, .. } => {
                let State::Ready { user, .. } = self.state else { return };
                match self.in_time(shard.directory().channel_for(user, channel)).await {
                    Some(Ok(Ok(info))) => self.act(id, command, &info),
                    Some(Ok(Err(error))) => shard.refuse(&port, id, (&error).into()),
                    Some(Err(code)) => shard.refuse(&port, id, code),
                    None => {}
                }
            }
            Command::Unsubscribe { channel } => shard.unsubscribe(&port, id, channel),
        }
    }

    /// What the engine answers, or the refusal where it takes too long; nothing if the connection is to
    /// end before.
    async fn in_time<T>(&self, answer: impl Future<Output = T>) -> Option<Result<T, ErrorCode>> {
        let answer = self.unless_over(timeout(CALL_TIMEOUT, answer)).await?;
        Some(answer.map_err(|_| ErrorCode::Busy))
    }

    /// What the edge finds out, unless the connection is to end before: it may ask an issuer far away,
    /// and nobody stays longer for that.
    async fn unless_over<T>(&self, found: impl Future<Output = T>) -> Option<T> {
        let (State::Unauthenticated { until } | State::Ready { until, .. }) = self.state;
        let (mut found, mut end) = (pin!(found), pin!(sleep_until(until.into())));
        let mut was_rung = false;
        let outcome = poll_fn(|cx| {
            if let Poll::Ready(found) = found.as_mut().poll(cx) {
                return Poll::Ready(Some(found));
            }
            while self.port.wake.poll_notified(cx).is_ready() {
                was_rung = true;
            }
            if self.port.closing().is_some() {
                return Poll::Ready(None);
            }
            end.as_mut().poll(cx).map(|()| None)
        });
        let outcome = outcome.await;
        if was_rung {
            // Perhaps for something else, which is seen to now.
            self.port.wake.notify_one();
        }
        outcome
    }

    fn logged_in(&mut self, id: u32, login: Result<Identity, LoginError>) {
        let before = self.state;
        let admitted = login.and_then(|identity| match before {
            State::Ready { user, .. } if user != identity.user => Ok(None),
            _ => self.admit(&identity).map(|()| Some(identity)).map_err(LoginError::from),
        });
        let identity = match admitted {
            Ok(Some(identity)) => identity,
            Ok(None) => return self.shard.refuse(&self.port, id, ErrorCode::WrongUser),
            Err(error) => {
                self.shard.refuse(&self.port, id, (&error).into());
                // A bad renewal ends nothing: the login before it is still good.
                if let (State::Unauthenticated { .. }, Some(code)) = (before, error.close_code()) {
                    self.shard.close(&self.port, code, code.name());
                }
                return;
            }
        };
        if matches!(before, State::Unauthenticated { .. }) {
            self.welcome(&identity);
        }
        let Identity { user, name, expires_at, .. } = identity;
        self.shard.reply(&self.port, id, &Reply::Authenticated { user, name, expires_at });
    }

    /// Takes in what the client sent.
    pub(super) fn hear(&mut self, received: Received<'_>) -> Next<Waiting> {
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
                return Next::Wait(Box::new((id, command)));
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
        let State::Ready { user, .. } = self.state else { return Next::Stop };
        let known = match &command {
            Command::Publish { channel, .. }
            | Command::Subscribe { channel, .. }
            | Command::History { channel, .. } => {
                self.shard.directory().cached_channel_for(user, channel)
            }
            Command::Unsubscribe { channel } => {
                self.shard.unsubscribe(&self.port, id, *channel);
                return Next::Go;
            }
            Command::Authenticate { .. } | Command::Users { .. } | Command::Channels(_) => None,
        };
        match known {
            Some(channel) => {
                self.act(id, command, &channel);
                Next::Go
            }
            None => Next::Wait(Box::new((id, command))),
        }
    }

    /// Hands a command on a known channel to the shard.
    fn act(&self, id: u32, command: Command, channel: &ChannelInfo) {
        let (shard, port) = (&self.shard, &self.port);
        let State::Ready { user, .. } = self.state else {
            unreachable!("nobody is obeyed who has not logged in")
        };
        match command {
            Command::Publish { client_message_id, body, .. } => {
                shard.publish(port, Publish { id, user, client_message_id, body }, channel);
            }
            Command::Subscribe { since, ephemeral, .. } => {
                shard.subscribe(port, id, user, channel, since, ephemeral);
            }
            Command::History { page, .. } => shard.history(port, id, user, channel, page),
            command => unreachable!("{command:?} names no channel"),
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

    fn admit(&mut self, identity: &Identity) -> Result<(), Refused> {
        self.shard.admit(&self.port, identity)?;
        let until_ms = identity.expires_at.saturating_mul(1000);
        let left = Duration::from_millis(until_ms.saturating_sub(clock::unix_ms()));
        let until = Instant::now() + left.min(LOGIN_LIFETIME_MAX);
        self.state = State::Ready { user: identity.user, until };
        Ok(())
    }

    fn close(&self, code: CloseCode) -> Next<Waiting> {
        self.shard.close(&self.port, code, code.name());
        Next::Stop
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
