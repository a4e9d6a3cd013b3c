//! What is not in the logs, on other nodes: who is there, who is writing, what was read.
//!
//! Who is in a channel on other nodes is kept with the channel while that is in memory, and here
//! otherwise: it could not be asked for when somebody comes.

use std::{collections::HashMap, rc::Rc, sync::Arc};

use tokio::{task::spawn_local, time::sleep};

use super::{Shard, State};
use crate::{
    engine::{Bus, Engine},
    hub::{
        ShardId,
        channel::{Channel, Effect},
        cluster::{
            encode,
            presence::{Telling, Told, Users},
        },
        presence::{Elsewhere, Teller},
    },
    limits::{PRESENCE_ELSEWHERE_BYTES_MAX, PRESENCE_INTERVAL_MIN, PRESENCE_ROUND_PAUSE},
    log::place::{ChannelId, Position, UserId},
    wire::cluster::{self as wire, node_message::Message},
};

/// What a shard knows of who is there on other nodes, and tells them. On an engine of one node there is
/// none of it.
#[derive(Debug)]
pub(super) struct PresenceElsewhere {
    bus: Arc<dyn Bus>,
    /// Who is there in channels that are not in memory. None of it is empty.
    unloaded: HashMap<ChannelId, Elsewhere>,
    /// What it takes, and what the channels in memory have of it, about.
    bytes: usize,
    /// Channels of which other nodes are to be told something.
    untold: Vec<ChannelId>,
    telling: Telling,
}

impl PresenceElsewhere {
    pub(super) fn new(bus: Arc<dyn Bus>, shard: ShardId) -> Self {
        let telling = Telling::new(shard.0.into());
        Self { bus, unloaded: HashMap::new(), bytes: 0, untold: Vec::new(), telling }
    }

    /// A channel comes into memory.
    pub(super) fn load(&mut self, id: ChannelId, channel: &mut Channel) {
        channel.join_nodes(self.unloaded.remove(&id).unwrap_or_default());
    }

    /// A channel goes out of memory.
    pub(super) fn unload(&mut self, id: ChannelId, channel: &mut Channel) {
        let elsewhere = channel.leave_nodes();
        if !elsewhere.is_empty() {
            self.unloaded.insert(id, elsewhere);
        }
    }

    /// Other nodes are to be told of a channel.
    pub(super) fn note(&mut self, channel: ChannelId) {
        self.untold.push(channel);
    }

    /// Tells other nodes something.
    pub(super) fn cast(&self, message: Message) {
        self.bus.cast(encode(message));
    }
}

impl<E: Engine, S: 'static> Shard<E, S> {
    /// Tells other nodes who comes and goes, for as long as this shard lives.
    pub fn tell_nodes(self: &Rc<Self>) {
        if self.state.borrow().elsewhere.is_none() {
            return;
        }
        let shard = Rc::clone(self);
        spawn_local(async move {
            loop {
                let is_in_round = shard.tell_presence();
                let pause = if is_in_round { PRESENCE_ROUND_PAUSE } else { PRESENCE_INTERVAL_MIN };
                sleep(pause).await;
            }
        });
    }

    /// Tells who came and went since the last time. Whether more is to be told soon.
    fn tell_presence(&self) -> bool {
        let State { elsewhere: Some(nodes), channels, .. } = &mut *self.state.borrow_mut() else {
            return false;
        };
        let telling = &mut nodes.telling;
        let take = |id| channels.get_mut(&id).map(|channel| (id, channel.take_untold()));
        let mut messages = telling.changes(nodes.untold.drain(..).filter_map(take).collect());
        let all = || {
            let anybody = channels.iter().filter(|(_, channel)| !channel.is_nobody_here());
            anybody.map(|(id, _)| *id).collect()
        };
        let here = |id: ChannelId| channels.get(&id).map(Channel::here).unwrap_or_default();
        messages.extend(telling.round(all, here));
        messages.push(telling.beat());
        let is_in_round = telling.is_in_round();
        messages.into_iter().for_each(|it| nodes.cast(Message::Presence(it)));
        is_in_round
    }

    /// A node wants to know who is in the channels here.
    pub(super) fn begin_round(&self) {
        if let Some(nodes) = &mut self.state.borrow_mut().elsewhere {
            nodes.telling.ask();
        }
    }

    /// Other nodes tell who is there, or are gone.
    pub(super) fn hear_presence(self: &Rc<Self>, told: Vec<Told>) {
        for told in told {
            match told {
                Told::Users(teller, round, channel, users) => {
                    self.hear_users(teller, round, channel, users);
                }
                Told::RoundOver(teller, round) => self.change_all(
                    |channel, effects| channel.end_round(teller, round, effects),
                    |elsewhere| elsewhere.end_round(teller, round),
                ),
                Told::Gone(node) => self.change_all(
                    |channel, effects| channel.lose_node(node, effects),
                    |elsewhere| elsewhere.lose_node(node),
                ),
            }
        }
    }

    fn hear_users(
        self: &Rc<Self>,
        teller: Teller,
        round: u32,
        channel: ChannelId,
        mut users: Users,
    ) {
        let is_full = {
            let state = self.state.borrow();
            let Some(nodes) = &state.elsewhere else { return };
            nodes.bytes >= PRESENCE_ELSEWHERE_BYTES_MAX
        };
        let mut refuse_new = |elsewhere: &Elsewhere| {
            if is_full {
                let before = users.len();
                users.retain(|(user, connections)| *connections == 0 || elsewhere.has(*user));
                self.metrics.presence_dropped.inc_by((before - users.len()) as u64);
            }
            std::mem::take(&mut users)
        };
        let (mut before, mut after) = (0, 0);
        let is_loaded = self.with_channel(channel, |channel, effects| {
            before = channel.elsewhere().weight();
            let users = refuse_new(channel.elsewhere());
            channel.hear_presence(teller, round, &users, effects);
            after = channel.elsewhere().weight();
        });
        let mut state = self.state.borrow_mut();
        let Some(nodes) = &mut state.elsewhere else { return };
        if !is_loaded {
            let elsewhere = nodes.unloaded.entry(channel).or_default();
            before = elsewhere.weight();
            for (user, connections) in refuse_new(elsewhere) {
                elsewhere.set(teller, round, user, connections);
            }
            after = elsewhere.weight();
            if elsewhere.is_empty() {
                nodes.unloaded.remove(&channel);
            }
        }
        nodes.bytes = nodes.bytes + after - before;
    }

    /// Takes in what concerns all channels, in memory or not.
    fn change_all(
        self: &Rc<Self>,
        mut loaded: impl FnMut(&mut Channel, &mut Vec<Effect>),
        mut unloaded: impl FnMut(&mut Elsewhere),
    ) {
        let channels: Vec<_> = self.state.borrow().channels.keys().copied().collect();
        for channel in channels {
            self.with_channel(channel, &mut loaded);
        }
        let State { elsewhere: Some(nodes), channels, .. } = &mut *self.state.borrow_mut() else {
            return;
        };
        nodes.unloaded.retain(|_, elsewhere| {
            unloaded(elsewhere);
            !elsewhere.is_empty()
        });
        let all = channels.values().map(Channel::elsewhere).chain(nodes.unloaded.values());
        nodes.bytes = all.map(Elsewhere::weight).sum();
    }

    /// Users are writing on another node.
    pub(super) fn typing_elsewhere(self: &Rc<Self>, channel: ChannelId, users: Vec<UserId>) {
        self.with_channel(channel, |channel, effects| channel.hear_typing(users, effects));
    }

    /// A user has read so far on another node.
    pub(super) fn read_elsewhere(
        self: &Rc<Self>,
        channel: ChannelId,
        user: UserId,
        read: Position,
    ) {
        self.with_channel(channel, |channel, effects| {
            channel.marked_read(user, read, None, effects);
        });
    }

    /// Tells other nodes how far a user has read.
    pub(super) fn tell_read(&self, channel: ChannelId, user: UserId, read: Position) {
        if let Some(nodes) = &self.state.borrow().elsewhere {
            nodes.cast(Message::ReadMarker(wire::ReadMarker {
                channel_id: channel.0,
                user_id: user.0,
                epoch: read.epoch.0,
                sequence: read.sequence.0,
            }));
        }
    }
}

/// The message that these are writing.
pub(super) fn typing(channel: ChannelId, users: &[UserId]) -> Message {
    let user_ids = users.iter().map(|user| user.0).collect();
    Message::Typing(wire::Typing { channel_id: channel.0, user_ids })
}

#[cfg(test)]
mod tests;
