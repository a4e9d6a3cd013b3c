//! One user's receive path without sockets: what the generator itself can count at most.

use super::{
    Plan,
    user::{Kind, Stage, User},
    world::World,
};

/// A user who is subscribed and takes bytes from anywhere.
///
/// What it does for each delivery is what it does in a run: frames, envelopes, digests, the audit
/// and the histograms.
#[derive(Debug)]
pub(crate) struct Receiver {
    user: User,
    world: World,
}

impl Receiver {
    /// A user in one channel, which the server calls `channel_id`, and who will be sent messages with
    /// the ids 1 to `messages`.
    pub(crate) fn new(plan: Plan, channel_id: u32, messages: u64) -> Self {
        let mut world = World::new(plan);
        let mut user = User::new(0, Kind::Ordinary, &world);
        user.stand_in(channel_id, &mut world);
        for _ in 0..messages {
            world.books.due(0, true, 0);
        }
        Self { user, world }
    }

    /// Takes what one `read` brought, at this time in microseconds.
    pub(crate) fn receive(&mut self, bytes: &[u8], now_us: u64) {
        self.world.now_us = now_us;
        self.user.receive(bytes, &mut self.world);
    }

    /// How many messages were delivered since the last call, and whether the user still takes them:
    /// it stops at the first frame that breaks the protocol.
    pub(crate) fn deliveries(&mut self) -> (u64, bool) {
        let moment = super::books::Moment {
            at_us: self.world.now_us,
            phase: self.world.phase,
            connected: 1,
            active: 1,
            cpu: std::time::Duration::ZERO,
        };
        let interval = self.world.books.end_second(moment);
        (interval.deliveries, self.user.stage == Stage::Ready)
    }
}
