//! How a connection ends, and what comes after it: another one, or nothing.

use std::time::Duration;

use super::{
    COMMAND_PATIENCE, Kind, RECONNECT_PATIENCE, Side, Stage, User, Want, replies::in_one_line,
};
use crate::{
    scenario::Login,
    swarm::{
        frame::{Opcode, write_frame},
        returning::Return,
        socket::in_short,
        timers::{Due, patience},
        world::{World, us},
    },
};

/// A slow reader whose connection breaks so soon after the server was stopped on purpose was not
/// closed for its slowness, and comes back like everybody else.
const CHAOS_LASTS: Duration = Duration::from_secs(10);

/// How long the witness tries to be connected for the first time.
const START_PATIENCE: Duration = patience(30);

impl User {
    /// The server closes the connection.
    pub(super) fn closed(&mut self, payload: &[u8], world: &mut World) {
        let (code, reason) = match payload {
            [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
            _ => (1005, &[][..]),
        };
        self.write_close(code, world);
        let what = format!("closed: {code}");
        match code {
            // Nobody is closed for good for reading slowly.
            4500..=4999 => {
                let reason = in_one_line(&String::from_utf8_lossy(reason));
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

    pub(super) fn write_close(&mut self, code: u16, world: &mut World) {
        // 1005 says that there was none, and may not be sent.
        let code = if code == 1005 { 1000 } else { code };
        let close = |out: &mut Vec<u8>| out.extend_from_slice(&code.to_be_bytes());
        let mask = world.mask();
        write_frame(&mut self.out, Opcode::Close, mask, close);
    }

    /// Its oldest command has waited long enough, unless the server was stopped meanwhile.
    pub(super) fn look_for_answers(&mut self, world: &mut World) {
        self.has_patience_timer = false;
        let commands = self.asked.iter().map(|it| it.at_us);
        let publishes = self.outstanding.iter().filter(|it| it.command != 0).map(|it| it.sent_us);
        let Some(oldest_us) = commands.chain(publishes).min() else { return };
        let since_us = oldest_us.max(world.chaos_us.unwrap_or_default());
        let until_us = since_us + us(COMMAND_PATIENCE);
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
            let (address, why) = (world.plan.target(self.number).address, error.kind());
            world.fail(anyhow::anyhow!("no server answers at {address}: {why}"));
        }
        let short = in_short(error);
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

    /// Its connection is to be cut from this side. Answers whether it was in its channels.
    pub(crate) fn cut(&mut self, world: &mut World) -> bool {
        if self.stage != Stage::Ready {
            return false;
        }
        self.disconnect(world);
        // The loop does that by itself, and nothing more is written.
        self.take_want(Side::Connection);
        self.out.clear();
        world.books.reconnect();
        world.returning.counts.cut += 1;
        self.trying_since_us = Some(world.now_us);
        self.returns = Return::Waiting;
        world.returning.away += 1;
        true
    }

    /// Its turn to connect again has come.
    pub(crate) fn come_back(&mut self, world: &mut World) {
        if self.returns == Return::Waiting && self.stage == Stage::Waiting {
            self.returns = Return::UnderWay;
            self.trying_since_us = Some(world.now_us);
            world.returning.under_way += 1;
            self.connect(world);
        }
    }

    /// It is in all its channels.
    pub(super) fn is_back(&mut self, world: &mut World) {
        if self.returns != Return::Done {
            let since_us = self.trying_since_us.unwrap_or(self.connecting_us);
            world.books.resumed(world.now_us - since_us);
            world.returning.counts.resumed += 1;
            self.ends_return(world);
        }
    }

    fn ends_return(&mut self, world: &mut World) {
        let returns = std::mem::replace(&mut self.returns, Return::Done);
        let returning = &mut world.returning;
        returning.under_way -= u32::from(returns == Return::UnderWay);
        if returns != Return::Done {
            returning.away -= 1;
            returning.back_us = world.now_us;
        }
    }

    /// The connection is gone; there may be another one.
    pub(super) fn lost(&mut self, what: &str, asked_for: Option<Duration>, world: &mut World) {
        world.books.error(what);
        if self.returns == Return::UnderWay {
            world.returning.under_way -= 1;
            self.returns = Return::PutOff;
        }
        let was_ready = self.stage == Stage::Ready;
        self.disconnect(world);
        let is_past = |at_us| world.now_us - at_us > us(CHAOS_LASTS);
        if self.kind == Kind::Slow && was_ready && world.chaos_us.is_none_or(is_past) {
            world.books.totals.slow_closed += 1;
            return self.give_up(world);
        }
        if was_ready {
            world.books.reconnect();
        }
        self.try_again(what, RECONNECT_PATIENCE, asked_for, Due::Retry, world);
    }

    /// Sets the timer for the next try, or gives up.
    pub(super) fn try_again(
        &mut self,
        what: &str,
        patience: Duration,
        asked_for: Option<Duration>,
        due: Due,
        world: &mut World,
    ) {
        if self.kind == Kind::Witness && !world.has_answered {
            let address = world.plan.target(self.number).address;
            world.fail(anyhow::anyhow!("no server answers at {address}: {what}"));
        }
        // Before there is anything to lose, nobody waits long for a server that does not work.
        let is_first = self.kind == Kind::Witness && !self.was_ready;
        let patience = if is_first { patience.min(START_PATIENCE) } else { patience };
        let since_us = *self.trying_since_us.get_or_insert(world.now_us);
        if world.now_us - since_us > us(patience) {
            let seconds = patience.as_secs();
            return self.end(&format!("it was not connected for {seconds} s: {what}"), world);
        }
        // Whatever the server asks for, there is one more try within its time.
        let pause = world.pause(self.tries, asked_for.map(|it| it.min(patience)));
        self.tries += 1;
        let stamp = if due == Due::Retry { self.attempt } else { 0 };
        world.set_timer(pause, self.number, due, stamp);
    }

    /// Forgets all that was of this connection.
    pub(super) fn disconnect(&mut self, world: &mut World) {
        if self.stage == Stage::Ready && self.kind != Kind::Witness {
            world.connected -= 1;
        }
        if self.kind == Kind::Witness && !world.witness.disconnected() {
            world.fail(anyhow::anyhow!("the connection broke while the channels were made"));
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
    pub(super) fn give_up(&mut self, world: &mut World) {
        for reader in self.subscriptions.iter().filter_map(|it| it.reader) {
            world.books.audit.given_up(reader);
        }
        self.over(world);
    }

    /// It cannot go on, and nobody asked it to stop: that is against the contract.
    pub(super) fn end(&mut self, why: &str, world: &mut World) {
        match self.kind {
            Kind::Witness => world.fail(anyhow::anyhow!("the witness cannot go on: {why}")),
            _ => world.books.audit.ended(self.number, why.to_owned()),
        }
        world.turned_away += u32::from(self.is_joining);
        // Its end is the violation, and not also all that it then misses.
        self.give_up(world);
    }

    /// It is done. What it has in `out` is still written.
    pub(super) fn over(&mut self, world: &mut World) {
        self.disconnect(world);
        self.joined(world);
        self.ends_return(world);
        world.books.totals.unacknowledged += self.outstanding.len() as u64;
        self.drop_outstanding(world);
        if std::mem::take(&mut self.is_active) {
            world.active -= 1;
        }
        self.has_left(world);
        if self.door.take().is_some() {
            self.want(Side::Door, Want::Close);
        }
        self.stage = Stage::Over;
    }

    /// Nothing more happens to a run in which all of these are over: what was not acknowledged by
    /// now will not be.
    pub(crate) fn judge_outstanding(&mut self, world: &mut World) {
        let count = self.outstanding.len();
        if count > 0 {
            let why = format!("{count} of its messages were not acknowledged until the end");
            world.books.audit.ended(self.number, why);
        }
    }

    /// Whether all were to log in before the first stage, and it was not even tried with it.
    fn was_left_out(&self, world: &World) -> bool {
        self.stage == Stage::Out && world.plan.scenario.login != Login::During
    }

    /// Whether it was connected and is not any more, and still tries.
    pub(crate) fn is_away(&self) -> bool {
        self.was_ready && !matches!(self.stage, Stage::Ready | Stage::Over)
    }

    /// The run ends, and it is not where it should be.
    pub(crate) fn judge_absence(&mut self, world: &mut World) {
        if self.is_away() {
            let since_us = self.trying_since_us.unwrap_or(world.now_us);
            let seconds = world.now_us.saturating_sub(since_us) / 1_000_000;
            let why = format!("it had no connection at the end, and has tried for {seconds} s");
            world.books.audit.ended(self.number, why);
        } else if self.is_joining || self.was_left_out(world) {
            world.books.totals.never_connected += 1;
        }
        world.books.totals.unacknowledged += self.outstanding.len() as u64;
    }

    /// Its joining is over, well or not.
    pub(super) fn joined(&mut self, world: &mut World) {
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
