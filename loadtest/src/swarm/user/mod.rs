//! One virtual user as a state machine without I/O: bytes in → bytes out, and entries in the books.
//! Hot.
//!
//! This file has its connection, from the upgrade to the close. Beside it: `login` (the token),
//! `replies` (what the server says), `publishing`, `leaving`. The loop owns the sockets: it gives a
//! user what it has read, and afterwards writes what is in `out` and does what is in `wants`.

use std::{collections::VecDeque, time::Duration};

use hubbub::wire::proto;
use prost::Message as _;
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};

use super::{
    frame::{Frame, Opcode, next_frame, write_frame},
    http,
    scan::{Messages, ScanError, Scanned, scan},
    timers::{Due, Timer},
    world::World,
};
use crate::{audit::Reader, scenario::schedule::Phase};

mod leaving;
mod login;
mod publishing;
mod replies;
pub(crate) mod witness;

use leaving::Leaving;
use login::Door;
use publishing::{Outstanding, Pacing};
use replies::{Asked, Command};

/// Connecting, upgrading, the welcome and all subscriptions together.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);
/// A user that has no connection for this long is at its end.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(60);
/// Until a command must be answered.
const COMMAND_PATIENCE: Duration = Duration::from_secs(60);
/// How often a slow reader reads.
pub(crate) const SLOW_READ_PAUSE: Duration = Duration::from_millis(100);
/// A larger output buffer is not kept for the next time.
const OUT_BYTES_KEPT: usize = 1024;

/// What a user is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Ordinary,
    /// It reads less than it is sent.
    Slow,
    /// It makes the channels and reads history, and is in no channel itself.
    Witness,
}

/// How far a user is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// Its time has not come.
    Out,
    /// It gets a token.
    LoggingIn,
    /// Its connection is made and upgraded.
    Upgrading,
    /// The welcome is to come.
    Greeting,
    /// It subscribes to its channels.
    Subscribing,
    /// It is in all its channels.
    Ready,
    /// It has no connection, and will try again.
    Waiting,
    /// It has left, or was given up.
    Over,
}

/// Which of a user's two sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    /// The WebSocket.
    Connection,
    /// HTTP, for the account and the token.
    Door,
}

/// What the loop is to do with a socket, once the output is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Want {
    /// Open a new one, and drop the old one if there is one.
    Open,
    Close,
}

/// One channel of one user.
#[derive(Clone, Copy, Debug)]
struct Subscription {
    /// Its place in the list of all channels.
    channel: u32,
    /// As the server counts; 0 before the first reply.
    channel_id: u32,
    epoch: u32,
    /// The newest sequence when this connection subscribed: until then messages are replayed.
    head: u64,
    /// From the first subscribing on.
    reader: Option<Reader>,
    /// Whether this connection is subscribed.
    is_open: bool,
    /// Whether its end has been told to the audit.
    is_leaving: bool,
}

/// One virtual user.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) number: u32,
    pub(crate) kind: Kind,
    pub(crate) stage: Stage,
    /// As the server counts; 0 before the first welcome.
    id: u32,
    token: Option<String>,
    token_stamp: u32,
    has_account: bool,
    /// From when on its login is counted.
    login_began_us: Option<u64>,
    door: Option<Box<Door>>,

    /// Which connection it is: timers of an older one mean nothing.
    attempt: u32,
    connecting_us: u64,
    /// What the server must answer to the upgrade.
    accept: Option<Box<str>>,
    /// The beginning of a frame whose end has not come. Empty most of the time, and then without
    /// memory.
    unfinished: Vec<u8>,
    /// The beginning of a message that comes in several frames.
    parts: Vec<u8>,
    out: Vec<u8>,
    wants: [Option<Want>; 2],
    /// Failures in a row, and since when.
    tries: u32,
    trying_since_us: Option<u64>,
    /// Whether its first connection is being made.
    is_joining: bool,
    was_ready: bool,

    last_command: u32,
    asked: Vec<Asked>,
    has_patience_timer: bool,
    subscriptions: Vec<Subscription>,
    last_hit: usize,

    pub(crate) is_active: bool,
    activation: u32,
    pacing: Pacing,
    outstanding: VecDeque<Outstanding>,
    /// Nothing is published before.
    hold_until_us: u64,
    leaving: Leaving,
}

impl User {
    pub(crate) fn new(number: u32, kind: Kind, world: &World) -> Self {
        let scenario = &world.plan.scenario;
        let channels = if kind == Kind::Witness { 0 } else { scenario.channels_per_user };
        let first = u64::from(number) * u64::from(scenario.channels_per_user);
        let channel = |k: u32| {
            let channel = (first + u64::from(k)) % u64::from(scenario.channels.max(1));
            u32::try_from(channel).expect("less than the channels, who are a u32")
        };
        let subscriptions = (0..channels.min(scenario.channels)).map(|k| Subscription {
            channel: channel(k),
            channel_id: 0,
            epoch: 0,
            head: 0,
            reader: None,
            is_open: false,
            is_leaving: false,
        });
        Self {
            number,
            kind,
            stage: Stage::Out,
            id: 0,
            token: None,
            token_stamp: 0,
            has_account: false,
            login_began_us: None,
            door: None,
            attempt: 0,
            connecting_us: 0,
            accept: None,
            unfinished: Vec::new(),
            parts: Vec::new(),
            out: Vec::new(),
            wants: [None; 2],
            tries: 0,
            trying_since_us: None,
            is_joining: false,
            was_ready: false,
            last_command: 0,
            asked: Vec::new(),
            has_patience_timer: false,
            subscriptions: subscriptions.collect(),
            last_hit: 0,
            is_active: false,
            activation: 0,
            pacing: Pacing::default(),
            outstanding: VecDeque::new(),
            hold_until_us: 0,
            leaving: Leaving::No,
        }
    }

    /// Begins to log in and to connect. A login is counted from `scheduled_us`, if that is given.
    pub(crate) fn join(&mut self, scheduled_us: Option<u64>, world: &mut World) {
        if self.stage != Stage::Out {
            return;
        }
        self.login_began_us = scheduled_us;
        self.is_joining = true;
        world.joining += 1;
        self.connect(world);
    }

    /// A timer of this user.
    pub(crate) fn timer(&mut self, timer: Timer, world: &mut World) {
        let is_current = timer.stamp == self.attempt;
        match timer.due {
            Due::Join => self.activate(timer, world),
            Due::Leave => self.deactivate(timer.stamp == 1, world),
            Due::LeaveBy => self.leave_now(world),
            Due::Publish => self.publish_due(timer, world),
            Due::Retry if is_current && self.stage == Stage::Waiting => self.connect(world),
            Due::Attempt if is_current && self.is_connecting() => {
                self.lost("connect: not ready in 30 s", None, world);
            }
            Due::Again => self.send_outstanding(world),
            Due::Patience => self.look_for_answers(world),
            Due::Knock | Due::KnockBy | Due::Renew => self.login_timer(timer, world),
            _ => {}
        }
        if timer.due == Due::Again && self.kind == Kind::Witness {
            self.inquire(world);
        }
    }

    fn connect(&mut self, world: &mut World) {
        if self.token.is_none() && !world.has_logins() {
            self.token = self.token_of_plan(world);
        }
        let Some(token) = &self.token else { return self.log_in(world) };
        self.attempt += 1;
        self.stage = Stage::Upgrading;
        self.connecting_us = world.now_us;
        let key = generate_key();
        self.accept = Some(derive_accept_key(key.as_bytes()).into_boxed_str());
        self.out.clear();
        http::write_upgrade(&mut self.out, &world.plan.target.host, &key, token);
        world.set_timer(CONNECT_PATIENCE, self.number, Due::Attempt, self.attempt);
        self.want(Side::Connection, Want::Open);
    }

    fn token_of_plan(&self, world: &World) -> Option<String> {
        let tokens = world.plan.tokens.as_deref().unwrap_or_default();
        match self.kind {
            Kind::Witness => tokens.last().cloned(),
            _ if tokens.is_empty() => None,
            _ => Some(tokens[usize::try_from(self.number).ok()? % tokens.len()].clone()),
        }
    }

    /// Whether there is a connection that is not ready.
    fn is_connecting(&self) -> bool {
        matches!(self.stage, Stage::Upgrading | Stage::Greeting | Stage::Subscribing)
    }

    /// Whether frames are exchanged.
    fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Greeting | Stage::Subscribing | Stage::Ready)
    }

    /// Whether its socket is read by the clock and not when there is something. At the end a slow
    /// reader hurries, so that it can be judged like the others.
    pub(crate) fn reads_slowly(&self, world: &World) -> bool {
        self.kind == Kind::Slow && self.stage == Stage::Ready && world.phase < Phase::Drain
    }

    /// Which connection it is: a `Due::Read` of another one means nothing.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Makes it ready without any server.
    pub(crate) fn stand_in(&mut self, channel_id: u32, world: &mut World) {
        self.stage = Stage::Ready;
        for it in &mut self.subscriptions {
            let place = world.channels[it.channel as usize].place;
            it.reader = Some(world.books.audit.subscribed(self.number, place, 0));
            (it.channel_id, it.is_open) = (channel_id, true);
        }
    }

    fn want(&mut self, side: Side, want: Want) {
        self.wants[side as usize] = Some(want);
    }

    pub(crate) fn has_want(&self, side: Side) -> bool {
        self.wants[side as usize].is_some()
    }

    pub(crate) fn take_want(&mut self, side: Side) -> Option<Want> {
        self.wants[side as usize].take()
    }

    /// What is to be written.
    pub(crate) fn out(&self, side: Side) -> &[u8] {
        match (side, &self.door) {
            (Side::Connection, _) => &self.out,
            (Side::Door, Some(door)) => &door.out,
            (Side::Door, None) => &[],
        }
    }

    /// So much of it was written.
    pub(crate) fn written(&mut self, side: Side, bytes: usize) {
        let out = match (side, &mut self.door) {
            (Side::Connection, _) => &mut self.out,
            (Side::Door, Some(door)) => &mut door.out,
            (Side::Door, None) => return,
        };
        out.drain(..bytes);
        if out.is_empty() && out.capacity() > OUT_BYTES_KEPT {
            *out = Vec::new();
        }
    }

    /// What its connection received. `world.now_us` is the moment of it.
    ///
    /// This is all that a delivery costs on this side of the socket, so that it can be measured
    /// alone: see [`super::receiver`].
    pub(crate) fn receive(&mut self, bytes: &[u8], world: &mut World) {
        if self.unfinished.is_empty() {
            let used = self.consume(bytes, world);
            if self.has_connection() && used < bytes.len() {
                self.unfinished.extend_from_slice(&bytes[used..]);
            }
            return;
        }
        let mut whole = std::mem::take(&mut world.scratch);
        whole.clear();
        whole.append(&mut self.unfinished);
        whole.extend_from_slice(bytes);
        let used = self.consume(&whole, world);
        if self.has_connection() && used < whole.len() {
            self.unfinished.extend_from_slice(&whole[used..]);
        } else {
            self.unfinished = Vec::new();
        }
        world.scratch = whole;
    }

    fn has_connection(&self) -> bool {
        self.is_open() || self.stage == Stage::Upgrading
    }

    /// Answers how many of the bytes were whole.
    fn consume(&mut self, bytes: &[u8], world: &mut World) -> usize {
        let mut used = 0;
        if self.stage == Stage::Upgrading {
            used = self.upgraded(bytes, world);
        }
        while self.is_open() {
            match next_frame(&bytes[used..]) {
                Ok(Some(frame)) => {
                    used += frame.bytes;
                    self.frame(frame, world);
                }
                Ok(None) => break,
                Err(error) => self.end(&format!("the server sent {error}"), world),
            }
        }
        used
    }

    fn upgraded(&mut self, bytes: &[u8], world: &mut World) -> usize {
        let response = match http::response(bytes) {
            Ok(Some(response)) => response,
            Ok(None) => return 0,
            Err(error) => {
                self.lost(&format!("upgrade: {error}"), None, world);
                return 0;
            }
        };
        if response.status != 101 {
            self.not_upgraded(&response, world);
        } else if response.accept != self.accept.take().as_deref() {
            self.end("the server answered the upgrade with another Sec-WebSocket-Accept", world);
        } else {
            world.books.handshake(world.now_us - self.connecting_us);
            self.stage = Stage::Greeting;
        }
        response.bytes
    }

    fn not_upgraded(&mut self, response: &http::Response<'_>, world: &mut World) {
        let status = response.status;
        let said = login::problem(response.body);
        match status {
            401 if self.was_ready && world.has_logins() => {
                self.token = None;
                self.lost("upgrade: 401", None, world);
            }
            401 if !self.was_ready => {
                world.fail(anyhow::anyhow!("the server refuses the token: {said}"));
            }
            401 => self.end(&format!("the server refuses the token: {said}"), world),
            _ => {
                let asked_for = response.retry_after.map(Duration::from_secs);
                self.lost(&format!("upgrade: {status}"), asked_for, world);
            }
        }
    }

    fn frame(&mut self, frame: Frame<'_>, world: &mut World) {
        match (frame.opcode, frame.is_final) {
            (Opcode::Binary, true) => self.payload(frame.payload, world),
            (Opcode::Binary, false) => self.parts.extend_from_slice(frame.payload),
            (Opcode::Continuation, is_final) => {
                self.parts.extend_from_slice(frame.payload);
                if is_final {
                    let parts = std::mem::take(&mut self.parts);
                    self.payload(&parts, world);
                }
            }
            (Opcode::Text, _) => self.end("the server sent a text frame", world),
            (Opcode::Ping, _) => {
                let mask = world.mask();
                let pong = |out: &mut Vec<u8>| out.extend_from_slice(frame.payload);
                write_frame(&mut self.out, Opcode::Pong, mask, pong);
            }
            (Opcode::Pong, _) => {}
            (Opcode::Close, _) => self.closed(frame.payload, world),
        }
    }

    fn payload(&mut self, payload: &[u8], world: &mut World) {
        let result = match scan(payload) {
            Ok(Scanned::Messages(messages)) => self.messages(messages, world),
            Ok(Scanned::Other(envelope)) => {
                self.envelope(envelope, world);
                Ok(())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            self.end(&format!("the server sent {error}"), world);
        }
    }

    fn messages(&mut self, messages: Messages<'_>, world: &mut World) -> Result<(), ScanError> {
        let (channel_id, first) = (messages.channel_id, messages.first_sequence);
        let Some((channel, reader)) = self.reader(channel_id) else {
            world.books.audit.leaked(self.number, channel_id, first);
            return Ok(());
        };
        let is_slow = self.kind == Kind::Slow;
        for (sequence, record) in (first..).zip(messages) {
            let now_us = world.now_us;
            if world.books.delivered(reader, sequence, &record?, is_slow, now_us) {
                world.witness.notice(channel, sequence);
            }
        }
        Ok(())
    }

    /// The subscription to this channel. Most users have one, and most events are of the channel of
    /// the one before.
    #[inline]
    fn reader(&mut self, channel_id: u32) -> Option<(u32, Reader)> {
        let is_it = |it: &Subscription| it.is_open && it.channel_id == channel_id;
        if !self.subscriptions.get(self.last_hit).is_some_and(is_it) {
            self.last_hit = self.subscriptions.iter().position(is_it)?;
        }
        let it = &self.subscriptions[self.last_hit];
        Some((it.channel, it.reader?))
    }

    /// The server closes the connection.
    fn closed(&mut self, payload: &[u8], world: &mut World) {
        let (code, reason) = match payload {
            [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
            _ => (1005, &[][..]),
        };
        self.write_close(code, world);
        let what = format!("closed: {code}");
        match code {
            4500..=4999 if self.kind != Kind::Slow => {
                let reason = String::from_utf8_lossy(reason);
                world.books.error(&what);
                if !self.was_ready && code == 4500 {
                    world.fail(anyhow::anyhow!("the server refuses the token: {code} {reason}"));
                } else {
                    self.end(&format!("the server closed with {code}: {reason}"), world);
                }
            }
            _ => {
                if code == 4001 {
                    self.token = None;
                }
                self.lost(&what, retry_after(reason), world);
            }
        }
    }

    fn write_close(&mut self, code: u16, world: &mut World) {
        // 1005 says that there was none, and may not be sent.
        let code = if code == 1005 { 1000 } else { code };
        let close = |out: &mut Vec<u8>| out.extend_from_slice(&code.to_be_bytes());
        let mask = world.mask();
        write_frame(&mut self.out, Opcode::Close, mask, close);
    }

    fn write(&mut self, command: proto::client_envelope::Command, world: &mut World) -> u32 {
        self.last_command += 1;
        let envelope = proto::ClientEnvelope { id: self.last_command, command: Some(command) };
        self.write_envelope(&envelope, world);
        self.last_command
    }

    fn write_envelope(&mut self, envelope: &proto::ClientEnvelope, world: &mut World) {
        let mask = world.mask();
        write_frame(&mut self.out, Opcode::Binary, mask, |out| {
            envelope.encode(out).expect("a vector takes every write");
        });
        if !self.has_patience_timer {
            self.has_patience_timer = true;
            world.set_timer(COMMAND_PATIENCE, self.number, Due::Patience, 0);
        }
    }

    fn ask(
        &mut self,
        command: Command,
        envelope: proto::client_envelope::Command,
        world: &mut World,
    ) {
        let id = self.write(envelope, world);
        self.asked.push(Asked { id, command, at_us: world.now_us });
    }

    /// Its oldest command has waited long enough, unless the server was stopped meanwhile.
    fn look_for_answers(&mut self, world: &mut World) {
        self.has_patience_timer = false;
        let commands = self.asked.iter().map(|it| it.at_us);
        let publishes = self.outstanding.iter().filter(|it| it.command != 0).map(|it| it.sent_us);
        let Some(oldest_us) = commands.chain(publishes).min() else { return };
        let since_us = oldest_us.max(world.chaos_us.unwrap_or_default());
        let until_us = since_us + super::world::us(COMMAND_PATIENCE);
        if until_us <= world.now_us && self.is_open() && !self.reads_slowly(world) {
            self.lost("command: no answer in 60 s", None, world);
        } else {
            self.has_patience_timer = true;
            let at_us = until_us.max(world.now_us + 1_000_000);
            world.timers.set(at_us, self.number, Due::Patience, 0);
        }
    }

    /// A socket broke, or could not be made.
    pub(crate) fn broken(&mut self, side: Side, error: &std::io::Error, world: &mut World) {
        if self.kind == Kind::Witness && !self.was_ready && !world.has_answered {
            let (address, why) = (world.plan.target.address, error.kind());
            world.fail(anyhow::anyhow!("no server answers at {address}: {why}"));
        }
        let short = super::socket::in_short(error);
        match side {
            Side::Door => self.door_lost(&format!("login: {short}"), world),
            Side::Connection if self.stage == Stage::Upgrading => {
                self.lost(&format!("connect: {short}"), None, world);
            }
            Side::Connection if self.is_open() => {
                self.lost(&format!("closed: {short}"), None, world);
            }
            Side::Connection => {}
        }
    }

    /// The connection is gone; there may be another one.
    fn lost(&mut self, what: &str, asked_for: Option<Duration>, world: &mut World) {
        world.books.error(what);
        let was_ready = self.stage == Stage::Ready;
        self.disconnect(world);
        if self.kind == Kind::Slow && was_ready {
            world.books.totals.slow_closed += 1;
            return self.give_up(world);
        }
        if was_ready {
            world.books.reconnect();
        }
        self.try_again(what, RECONNECT_PATIENCE, asked_for, Due::Retry, world);
    }

    /// Sets the timer for the next try, or gives up.
    fn try_again(
        &mut self,
        what: &str,
        patience: Duration,
        asked_for: Option<Duration>,
        due: Due,
        world: &mut World,
    ) {
        let since_us = *self.trying_since_us.get_or_insert(world.now_us);
        if world.now_us - since_us > super::world::us(patience) {
            let seconds = patience.as_secs();
            return self.end(&format!("it was not connected for {seconds} s: {what}"), world);
        }
        let pause = world.pause(self.tries, asked_for);
        self.tries += 1;
        let stamp = if due == Due::Retry { self.attempt } else { 0 };
        world.set_timer(pause, self.number, due, stamp);
    }

    /// Forgets all that was of this connection.
    fn disconnect(&mut self, world: &mut World) {
        if self.stage == Stage::Ready && self.kind != Kind::Witness {
            world.connected -= 1;
        }
        if self.kind == Kind::Witness {
            world.witness.disconnected();
        }
        self.attempt += 1;
        self.stage = Stage::Waiting;
        self.unfinished = Vec::new();
        self.parts = Vec::new();
        self.asked.clear();
        self.hold_until_us = 0;
        self.outstanding.iter_mut().for_each(|it| it.command = 0);
        self.subscriptions.iter_mut().for_each(|it| it.is_open = false);
        self.want(Side::Connection, Want::Close);
    }

    /// Nothing more is due to it.
    fn give_up(&mut self, world: &mut World) {
        for reader in self.subscriptions.iter().filter_map(|it| it.reader) {
            world.books.audit.given_up(reader);
        }
        self.over(world);
    }

    /// It cannot go on, and nobody asked it to stop: that is against the contract.
    fn end(&mut self, why: &str, world: &mut World) {
        match self.kind {
            Kind::Witness => world.fail(anyhow::anyhow!("the witness cannot go on: {why}")),
            Kind::Slow if self.was_ready => {}
            _ => world.books.audit.ended(self.number, why.to_owned()),
        }
        // Its end is the violation, and not also all that it then misses.
        self.give_up(world);
    }

    /// It is done. What it has in `out` is still written.
    fn over(&mut self, world: &mut World) {
        self.disconnect(world);
        self.joined(world);
        self.drop_outstanding(world);
        if std::mem::take(&mut self.is_active) {
            world.active -= 1;
        }
        self.has_left(world);
        if self.door.is_some() {
            self.want(Side::Door, Want::Close);
        }
        self.stage = Stage::Over;
    }

    /// Its joining is over, well or not.
    fn joined(&mut self, world: &mut World) {
        if std::mem::take(&mut self.is_joining) {
            world.joining -= 1;
        }
    }
}

/// When to come back, if the reason of a close says so.
fn retry_after(reason: &[u8]) -> Option<Duration> {
    let reason: serde_json::Value = serde_json::from_slice(reason).ok()?;
    reason.get("retry_after_ms")?.as_u64().map(Duration::from_millis)
}
