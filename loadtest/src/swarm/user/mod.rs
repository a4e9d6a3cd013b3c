//! One virtual user as a state machine without I/O: bytes in → bytes out, and entries in the books.
//! Hot.
//!
//! This file has what a user is, and how it connects. Beside it: `login` (the token), `receiving`,
//! `replies` (what the server says), `publishing`, `leaving`, `ending` (and reconnecting), and what
//! only the `witness` does. The loop owns the sockets: it gives a user what it has read, and
//! afterwards writes what is in `out` and does what is in `wants`.

use std::{collections::VecDeque, time::Duration};

use hubbub::wire::proto;
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};

use super::{
    frame::write_frame,
    http,
    returning::Return,
    timers::{Due, Timer, patience},
    world::World,
};
use crate::{audit::Reader, scenario::schedule::Phase};

mod ending;
mod leaving;
mod login;
mod publishing;
mod receiving;
mod replies;
pub(crate) mod witness;

use leaving::Leaving;
use login::Door;
pub(crate) use login::problem;
use publishing::{Outstanding, Pacing};
use replies::{Asked, Command};

/// Connecting, upgrading, the welcome and all subscriptions together.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);
/// A user that has no connection for this long is at its end.
const RECONNECT_PATIENCE: Duration = patience(60);
/// Until a command must be answered.
const COMMAND_PATIENCE: Duration = patience(60);
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
    /// How far it is back, after all connections were cut.
    returns: Return,
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
            returns: Return::Done,
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
        let scenario = &world.plan.scenario;
        let (encoding, deflate) = (scenario.encoding, scenario.deflate);
        let host = &world.plan.target(self.number).host;
        http::write_upgrade(&mut self.out, host, &key, token, encoding, deflate);
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
        world.connected += 1;
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

    fn write(&mut self, command: proto::client_envelope::Command, world: &mut World) -> u32 {
        self.last_command += 1;
        let envelope = proto::ClientEnvelope { id: self.last_command, command: Some(command) };
        self.write_envelope(&envelope, world);
        self.last_command
    }

    fn write_envelope(&mut self, envelope: &proto::ClientEnvelope, world: &mut World) {
        let mask = world.mask();
        let encoding = world.plan.scenario.encoding;
        write_frame(&mut self.out, encoding.opcode(), mask, |out| encoding.write(envelope, out));
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_who_has_nothing_to_do_is_small() {
        assert!(size_of::<User>() <= 512, "{} bytes", size_of::<User>());
    }
}
