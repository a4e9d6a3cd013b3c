//! What a user publishes, when, and what it does until it is acknowledged. Hot.

use hubbub::wire::proto;

use super::{Stage, User, replies};
use crate::{
    audit::Digest,
    scenario::{Publish, schedule::Pace},
    swarm::{
        timers::{Due, Timer},
        world::{World, us},
    },
};

/// Publishes of one user that are not acknowledged. What is due beyond it is left out, and counted.
pub(super) const OUTSTANDING_MAX: usize = 256;

/// When a user publishes.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    /// In the paced model.
    pub(super) pace: Option<Box<Pace>>,
    /// In the closed models: whether the first messages of this activity were sent.
    pub(super) has_begun: bool,
    /// Messages so far: which channel is next.
    turn: usize,
}

/// A publish that is not acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outstanding {
    id: u64,
    /// In which of the user's channels.
    subscription: usize,
    /// Of the command that it was sent with. 0: it is to be sent.
    pub(super) command: u32,
    pub(super) sent_us: u64,
    /// From the first sending on.
    digest: Option<Digest>,
}

impl User {
    /// Sets the timer for the next message of its pace.
    pub(super) fn set_pace(&mut self, world: &mut World) {
        let next = self.pacing.pace.as_mut().and_then(Iterator::next);
        if let (Some(next), Some(zero_us)) = (next, world.zero_us) {
            world.timers.set(zero_us + us(next), self.number, Due::Publish, self.activation);
        }
    }

    /// In the closed models: the first messages, as soon as it is active and in its channels.
    pub(super) fn begin_publishing(&mut self, world: &mut World) {
        let can = self.is_active && self.stage == Stage::Ready && !self.pacing.has_begun;
        if !can || !self.is_publisher(world) {
            return;
        }
        self.pacing.has_begun = true;
        let first = match world.plan.scenario.publish {
            Publish::Closed { .. } => 1,
            Publish::Window { publishes } => publishes,
            _ => 0,
        };
        // After a pause some may still be under way.
        let under_way = u32::try_from(self.outstanding.len()).unwrap_or(u32::MAX);
        for _ in under_way..first.min(OUTSTANDING_MAX as u32) {
            self.publish(world.now_us, world);
        }
    }

    /// A message is due by the clock.
    pub(super) fn publish_due(&mut self, timer: Timer, world: &mut World) {
        if timer.stamp != self.activation || self.stage == Stage::Over {
            return;
        }
        if self.pacing.pace.is_some() {
            self.publish(timer.at_us, world);
            self.set_pace(world);
        } else if self.is_active {
            self.publish(timer.at_us, world);
        }
    }

    /// Whether a message that arrives from anywhere can be its own.
    pub(crate) fn publishes(&self, world: &World) -> bool {
        self.is_active && self.is_publisher(world)
    }

    /// Whether it can take one, if only to send it after a reconnect.
    pub(crate) fn takes_messages(&self, world: &World) -> bool {
        self.publishes(world) && self.was_ready
    }

    /// A message that was due at this time. It waits here while there is no connection. Of a user
    /// who is still logging in nothing is due: how long that takes is a latency of its own.
    pub(crate) fn publish(&mut self, intended_us: u64, world: &mut World) {
        if !self.was_ready {
            return;
        }
        if self.outstanding.len() >= OUTSTANDING_MAX {
            world.books.totals.unsent += 1;
            return;
        }
        let is_measured = world.is_measured(intended_us);
        let id = world.books.due(intended_us, is_measured, world.now_us);
        let subscription = self.pacing.turn % self.subscriptions.len();
        self.pacing.turn += 1;
        let new = Outstanding { id, subscription, command: 0, sent_us: 0, digest: None };
        self.outstanding.push_back(new);
        world.unacknowledged += 1;
        if self.stage == Stage::Ready && self.hold_until_us <= world.now_us {
            self.send(self.outstanding.len() - 1, world);
        }
    }

    /// Sends all that was not sent on this connection, in the order in which it was due.
    pub(super) fn send_outstanding(&mut self, world: &mut World) {
        if self.stage != Stage::Ready || self.hold_until_us > world.now_us {
            return;
        }
        for index in 0..self.outstanding.len() {
            if self.outstanding[index].command == 0 {
                self.send(index, world);
            }
        }
    }

    fn send(&mut self, index: usize, world: &mut World) {
        let it = &mut self.outstanding[index];
        let subscription = &self.subscriptions[it.subscription];
        let body = world.bodies.take(it.id);
        if it.digest.is_none() {
            let digest = Digest::new(self.id, it.id, body.as_bytes());
            it.digest = Some(digest);
            let place = world.channels[subscription.channel as usize].place;
            world.books.publishing(it.id, place, digest);
        }
        self.last_command += 1;
        (it.command, it.sent_us) = (self.last_command, world.now_us);
        let publish = proto::Publish {
            channel: Some(proto::publish::Channel::ChannelId(subscription.channel_id)),
            client_message_id: it.id,
            body,
        };
        let command = proto::client_envelope::Command::Publish(publish);
        let envelope = proto::ClientEnvelope { id: self.last_command, command: Some(command) };
        self.write_envelope(&envelope, world);
        if let Some(proto::client_envelope::Command::Publish(publish)) = envelope.command {
            world.bodies.give_back(publish.body);
        }
    }

    /// Which of its publishes this command was.
    pub(super) fn outstanding(&self, command: u32) -> Option<usize> {
        if command == 0 {
            return None;
        }
        self.outstanding.iter().position(|it| it.command == command)
    }

    pub(super) fn published(&mut self, index: usize, sequence: u64, world: &mut World) {
        let Some(it) = self.outstanding.remove(index) else { return };
        world.unacknowledged -= 1;
        let channel = self.subscriptions[it.subscription].channel;
        let place = world.channels[channel as usize].place;
        let digest = it.digest.expect("what has a command was sent");
        world.books.acknowledged(it.id, place, sequence, digest, world.now_us);
        if self.is_active && self.is_publisher(world) {
            match world.plan.scenario.publish {
                Publish::Closed { think_time } => {
                    world.set_timer(think_time, self.number, Due::Publish, self.activation);
                }
                Publish::Window { .. } => self.publish(world.now_us, world),
                _ => {}
            }
        }
        self.go_on_leaving(world);
    }

    pub(super) fn not_published(&mut self, index: usize, error: &proto::Error, world: &mut World) {
        let (number, name) = (error.code, replies::name(error.code));
        world.books.error(&format!("publish: {number} {name}"));
        if replies::may_pass_later(error.code) {
            self.outstanding[index].command = 0;
            // Everything waits, so that the order stays what it was.
            self.hold_until_us = world.now_us + us(replies::put_off_for(error));
            world.timers.set(self.hold_until_us, self.number, Due::Again, 0);
        } else {
            self.end(&format!("a publish was refused: {number} {name}"), world);
        }
    }

    pub(super) fn drop_outstanding(&mut self, world: &mut World) {
        world.unacknowledged -= self.outstanding.len() as u64;
        self.outstanding = std::collections::VecDeque::new();
    }
}
