//! What is not in the logs: who is told of it here, and when.

use std::{rc::Rc, sync::Arc};

use tokio::{task::spawn_local, time::sleep};

use super::{Port, Shard, State, perform::find};
use crate::{
    engine::Engine,
    hub::{
        ConnectionKey,
        channel::Cooling,
        ephemeral::{Announcement, Attendant, Audience, Handed},
        fanout::control_frame,
        outbox::Frame,
    },
    limits::PRESENCE_INTERVAL_MIN,
    log::place::ChannelId,
    wire::{channels::PresenceView, encode::Control},
};

impl<E: Engine, S: 'static> Shard<E, S> {
    /// Takes a connection here into the audience of a channel, and tells it who is there.
    pub(super) fn attend(
        &self,
        state: &mut State<S>,
        channel: ChannelId,
        attendant: Attendant,
        first: PresenceView,
    ) {
        let Some(port) = find(state, attendant.connection) else { return };
        state.audiences.entry(channel).or_default().insert(attendant);
        if !self.is_draining() {
            let frame = control_frame(port.format, &Control::Presence(first));
            self.push_own(&mut state.urgent, &port, frame);
        }
    }

    /// Hands an announcement to the audience here.
    pub(super) fn announce(
        self: &Rc<Self>,
        state: &mut State<S>,
        announcement: &Arc<Announcement>,
    ) {
        if self.is_draining() {
            return;
        }
        let State { ports, audiences, dirty, .. } = state;
        let channel = announcement.channel;
        let Some(audience) = audiences.get_mut(&channel) else { return };
        let handed = audience.hand(announcement, |connection, frame| {
            let port = ports.get(connection.slot as usize);
            port.filter(|port| port.key == connection)
                .is_some_and(|port| push_spare(port, frame, dirty))
        });
        self.count(handed);
        if handed.is_behind {
            self.catch_up_later(channel);
        }
    }

    /// Tells a connection here what only its user is told.
    pub(super) fn tell_if_room(
        &self,
        state: &mut State<S>,
        connection: ConnectionKey,
        control: &Control,
    ) {
        let Some(port) = find(state, connection).filter(|_| !self.is_draining()) else { return };
        let frame = Rc::new(control_frame(port.format, control));
        let is_sent = push_spare(&port, frame, &mut state.dirty);
        let (sent, dropped) = (u64::from(is_sent), u64::from(!is_sent));
        self.count(Handed { sent, dropped, is_behind: false });
    }

    /// Tells those who missed who is there, as soon as they have room.
    fn catch_up_later(self: &Rc<Self>, channel: ChannelId) {
        let shard = Rc::clone(self);
        spawn_local(async move {
            loop {
                sleep(PRESENCE_INTERVAL_MIN).await;
                let mut state = shard.state.borrow_mut();
                let State { ports, audiences, dirty, .. } = &mut *state;
                let Some(audience) = audiences.get_mut(&channel) else { return };
                if shard.is_draining() {
                    audience.give_up();
                    return state.forget_idle(channel);
                }
                let handed = audience.catch_up(|connection, frame| {
                    let port = ports.get(connection.slot as usize);
                    port.filter(|port| port.key == connection)
                        .is_some_and(|port| push_spare(port, frame, dirty))
                });
                shard.count(handed);
                if !handed.is_behind {
                    return state.forget_idle(channel);
                }
            }
        });
    }

    /// Lets a channel go on once it may tell more, and there is room for it.
    pub(super) fn cool_down(self: &Rc<Self>, channel: ChannelId, cooling: Cooling) {
        let shard = Rc::clone(self);
        spawn_local(async move {
            sleep(cooling.interval()).await;
            while !shard.has_room() {
                sleep(cooling.interval()).await;
            }
            shard.with_channel(channel, |channel, effects| channel.cooled(cooling, effects));
        });
    }

    fn count(&self, handed: Handed) {
        self.metrics.ephemeral_sent.inc_by(handed.sent);
        self.metrics.ephemeral_dropped.inc_by(handed.dropped);
        if handed.sent > 0 {
            self.turn.notify_one();
        }
    }
}

/// Puts a frame into an outbox that has room to spare. It waits its turn with those of a fan-out.
fn push_spare<S>(
    port: &Rc<Port<S>>,
    frame: Frame,
    dirty: &mut std::collections::VecDeque<Rc<Port<S>>>,
) -> bool {
    let is_pushed = port.outbox.borrow_mut().push_spare(frame).is_ok();
    if is_pushed && !port.is_dirty.replace(true) {
        dirty.push_back(Rc::clone(port));
    }
    is_pushed
}

impl<S> State<S> {
    /// Takes a connection out of the audience of a channel here. Not an error if it is not in it.
    pub(super) fn unattend(&mut self, channel: ChannelId, connection: ConnectionKey) {
        if let Some(audience) = self.audiences.get_mut(&channel) {
            audience.remove(connection);
            self.forget_idle(channel);
        }
    }

    fn forget_idle(&mut self, channel: ChannelId) {
        if self.audiences.get(&channel).is_some_and(Audience::is_idle) {
            self.audiences.remove(&channel);
        }
    }
}
