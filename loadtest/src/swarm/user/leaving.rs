//! How a user becomes active, and how it leaves: its acknowledgements, then its channels, then the
//! connection.

use std::time::Duration;

use hubbub::wire::proto;

use super::{Command, Kind, Side, Stage, User, Want};
use crate::{
    scenario::{Login, Publish, schedule::Pace},
    swarm::{
        timers::{Due, Timer, patience},
        world::{World, us},
    },
};

/// How long a user who leaves waits for its own acknowledgements.
const LEAVE_PATIENCE: Duration = patience(5);

/// Before a user who is being replayed to looks again whether it can leave.
const REPLAY_PAUSE: Duration = Duration::from_millis(100);

/// How far a user has left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leaving {
    No,
    /// It waits for its acknowledgements.
    Acknowledged,
    /// It is leaving its channels.
    Unsubscribing,
}

impl User {
    /// The number of the range that begins is the timer's stamp.
    pub(super) fn activate(&mut self, timer: Timer, world: &mut World) {
        if self.stage == Stage::Over || self.is_active {
            return;
        }
        if world.plan.scenario.login == Login::During {
            self.join(Some(timer.at_us), world);
        }
        self.is_active = true;
        world.active += 1;
        self.activation += 1;
        self.pacing.has_begun = false;
        if !self.is_publisher(world) {
            return;
        }
        if matches!(world.plan.scenario.publish, Publish::Paced { .. }) {
            let ranges = world.schedule.active(self.number);
            let range = usize::try_from(timer.stamp).ok().and_then(|it| ranges.get(it));
            let pace = range.cloned();
            let pace = pace.and_then(|it| Pace::new(&world.plan.scenario, self.number, it));
            self.pacing.pace = pace.map(Box::new);
            self.set_pace(world);
        }
        self.begin_publishing(world);
    }

    pub(super) fn deactivate(&mut self, leaves: bool, world: &mut World) {
        if std::mem::take(&mut self.is_active) {
            world.active -= 1;
        }
        self.pacing.pace = None;
        if leaves {
            self.leave(world);
        }
    }

    pub(super) fn is_publisher(&self, world: &World) -> bool {
        let publishers = world.plan.scenario.publishers.unwrap_or(u32::MAX);
        self.kind == Kind::Ordinary && self.number < publishers && !self.subscriptions.is_empty()
    }

    fn leave(&mut self, world: &mut World) {
        if self.stage == Stage::Over || self.leaving != Leaving::No {
            return;
        }
        if !self.was_ready {
            // It was never in all its channels. In some it may have been, for a moment.
            world.books.totals.never_connected += 1;
            return self.give_up(world);
        }
        self.leaving = Leaving::Acknowledged;
        world.leaving += 1;
        let at_us = world.now_us + us(LEAVE_PATIENCE);
        world.timers.set(at_us, self.number, Due::LeaveBy, 0);
        self.go_on_leaving(world);
    }

    /// Goes as far as it can.
    pub(super) fn go_on_leaving(&mut self, world: &mut World) {
        if self.stage != Stage::Ready || self.leaving == Leaving::No {
            return;
        }
        if self.leaving == Leaving::Acknowledged {
            if !self.outstanding.is_empty() {
                return;
            }
            self.leaving = Leaving::Unsubscribing;
        }
        if !self.is_up_to_date(world) {
            // The server would end the replay, and what it left out would look lost.
            world.set_timer(REPLAY_PAUSE, self.number, Due::LeaveBy, 0);
            return;
        }
        let is_asked = |user: &Self, it: usize| {
            user.asked.iter().any(|asked| asked.command == Command::Unsubscribe(it))
        };
        for index in 0..self.subscriptions.len() {
            if self.subscriptions[index].is_open && !is_asked(self, index) {
                self.unsubscribe(index, world);
            }
        }
        if self.subscriptions.iter().all(|it| !it.is_open) {
            self.write_close(1000, world);
            self.over(world);
        }
    }

    fn is_up_to_date(&self, world: &World) -> bool {
        let has_all = |it: &super::Subscription| {
            it.reader.is_none_or(|reader| world.books.audit.last(reader) >= it.head)
        };
        self.subscriptions.iter().filter(|it| it.is_open).all(has_all)
    }

    fn unsubscribe(&mut self, index: usize, world: &mut World) {
        let it = &mut self.subscriptions[index];
        let channel_id = it.channel_id;
        // Only once: after a reconnect it unsubscribes again, and is due what it was due before.
        if let (Some(reader), false) = (it.reader, it.is_leaving) {
            world.books.audit.leaving(reader);
        }
        it.is_leaving = true;
        let command =
            proto::client_envelope::Command::Unsubscribe(proto::Unsubscribe { channel_id });
        self.ask(Command::Unsubscribe(index), command, world);
    }

    pub(super) fn unsubscribed(&mut self, index: usize, world: &mut World) {
        let it = &mut self.subscriptions[index];
        it.is_open = false;
        if let Some(reader) = it.reader {
            world.books.audit.left(reader);
        }
        self.go_on_leaving(world);
    }

    /// The acknowledgements, or a replay, have had their time.
    pub(super) fn leave_now(&mut self, world: &mut World) {
        if self.leaving == Leaving::Acknowledged && self.stage == Stage::Ready {
            for _ in 0..self.outstanding.len() {
                world.books.error("leave: not acknowledged in 5 s");
            }
            // Not forgotten: an acknowledgement that comes while it unsubscribes is one.
            self.leaving = Leaving::Unsubscribing;
        }
        self.go_on_leaving(world);
    }

    pub(super) fn has_left(&mut self, world: &mut World) {
        if std::mem::replace(&mut self.leaving, Leaving::No) != Leaving::No {
            world.leaving -= 1;
        }
    }

    pub(super) fn close_door(&mut self) {
        self.want(Side::Door, Want::Close);
    }
}
