//! What nodes tell one another of who is there, and how a loss is noticed and made good. Pure.
//!
//! A shard tells what has changed once a second, in messages that it numbers. Who misses one asks for a
//! round: all who are there, among what goes on to change, in the same order. As what is told of a user is
//! how it is and not how it changed, a round is right whatever was lost before it.

use std::collections::HashMap;

use crate::{
    engine::bus::NodeId,
    hub::presence::Teller,
    limits::{PRESENCE_TOLD_MAX, TELLERS_MAX},
    log::place::{ChannelId, UserId},
    wire::cluster::{ChannelPresence, Presence, Present},
};

/// The users of a channel on one node, and their subscriptions there.
pub type Users = Vec<(UserId, u32)>;

/// What a shard is to take in of what another node has told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// So many subscriptions have these users of a channel there.
    Users(Teller, u32, ChannelId, Users),
    /// All were told of, of all channels: who was not told of in this round is not there.
    RoundOver(Teller, u32),
    /// The node is gone.
    Gone(NodeId),
}

/// What other nodes tell, and whether anything of it is missing.
#[derive(Debug, Default)]
pub struct Listener {
    tellers: HashMap<Teller, Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    /// The last message.
    number: u64,
    /// The round that was begun last.
    round: u32,
    /// It is under way, and nothing of it is missing.
    is_in_round: bool,
    /// Something is missing.
    is_incomplete: bool,
}

impl Listener {
    /// Takes a message of another node. What the shards here are to take in, in this order.
    pub fn hear(&mut self, node: NodeId, message: Presence) -> Vec<Told> {
        let teller = Teller { node, shard: message.shard };
        if self.tellers.len() >= TELLERS_MAX && !self.tellers.contains_key(&teller) {
            return Vec::new();
        }
        let heard = self.tellers.entry(teller).or_default();
        let is_beat = is_beat(&message);
        let expected = heard.number + u64::from(!is_beat);
        if message.number < expected {
            return Vec::new();
        }
        if message.number > expected {
            heard.miss();
        }
        heard.number = message.number;
        if message.begins_round {
            heard.round = heard.round.wrapping_add(1);
            heard.is_in_round = true;
        }
        let round = heard.round;
        let users = |users: Vec<Present>| {
            users.into_iter().map(|it| (UserId(it.user_id), it.connections)).collect()
        };
        let told = |it: ChannelPresence| {
            Told::Users(teller, round, ChannelId(it.channel_id), users(it.users))
        };
        let mut news: Vec<_> = message.channels.into_iter().map(told).collect();
        if message.ends_round && heard.is_in_round {
            heard.is_in_round = false;
            heard.is_incomplete = false;
            news.push(Told::RoundOver(teller, round));
        }
        news
    }

    /// Something of what a node told did not come to where it belongs.
    pub fn miss(&mut self, node: NodeId) {
        let its = self.tellers.iter_mut().filter(|(teller, _)| teller.node == node);
        its.for_each(|(_, heard)| heard.miss());
    }

    /// Something may be missing of what all nodes told.
    pub fn miss_all(&mut self) {
        self.tellers.values_mut().for_each(Heard::miss);
    }

    /// A node is gone.
    pub fn forget(&mut self, node: NodeId) {
        self.tellers.retain(|teller, _| teller.node != node);
    }

    /// The nodes that are to be asked for a round. To be asked again as long as they stand here.
    #[must_use]
    pub fn to_be_asked(&self) -> Vec<NodeId> {
        let is_due = |(_, heard): &(&Teller, &Heard)| heard.is_incomplete && !heard.is_in_round;
        let mut nodes: Vec<_> =
            self.tellers.iter().filter(is_due).map(|(teller, _)| teller.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

impl Heard {
    const fn miss(&mut self) {
        self.is_in_round = false;
        self.is_incomplete = true;
    }
}

/// Whether a message tells nothing but where its teller is.
const fn is_beat(message: &Presence) -> bool {
    message.channels.is_empty() && !message.begins_round && !message.ends_round
}

/// What one shard tells other nodes.
#[derive(Debug)]
pub struct Telling {
    shard: u32,
    /// Of the last message.
    number: u64,
    /// The channels that are still to be told of in the round under way.
    round: Option<Vec<ChannelId>>,
    /// Somebody asked for a round who has not heard the beginning of this one.
    is_asked: bool,
}

impl Telling {
    /// A shard that has told nothing.
    #[must_use]
    pub const fn new(shard: u32) -> Self {
        Self { shard, number: 0, round: None, is_asked: false }
    }

    /// Another node asks for a round.
    pub const fn ask(&mut self) {
        self.is_asked = true;
    }

    /// Whether a round is under way or asked for.
    #[must_use]
    pub const fn is_in_round(&self) -> bool {
        self.is_asked || self.round.is_some()
    }

    /// What is told of users that have come, gone, or opened and closed tabs.
    pub fn changes(&mut self, changes: Vec<(ChannelId, Users)>) -> Vec<Presence> {
        let mut messages = Vec::new();
        self.tell(changes, &mut messages);
        messages
    }

    /// Where this shard is, for who has missed its last message.
    #[must_use]
    pub fn beat(&self) -> Presence {
        let Self { shard, number, .. } = *self;
        Presence { shard, number, ..Presence::default() }
    }

    /// The next part of a round, if somebody has asked for one: about [`PRESENCE_TOLD_MAX`] users.
    /// `channels` says in which channels there is anybody, and `here` who is in one.
    pub fn round(
        &mut self,
        channels: impl FnOnce() -> Vec<ChannelId>,
        mut here: impl FnMut(ChannelId) -> Users,
    ) -> Vec<Presence> {
        let mut messages = Vec::new();
        if self.round.is_none() && self.is_asked {
            self.is_asked = false;
            self.round = Some(channels());
            self.push(Presence { begins_round: true, ..Presence::default() }, &mut messages);
        }
        let Some(mut rest) = self.round.take() else { return messages };
        let mut part = Vec::new();
        let mut told = 0;
        while told < PRESENCE_TOLD_MAX
            && let Some(channel) = rest.pop()
        {
            let users = here(channel);
            told += users.len() + 1;
            part.push((channel, users));
        }
        self.tell(part, &mut messages);
        if rest.is_empty() {
            self.push(Presence { ends_round: true, ..Presence::default() }, &mut messages);
        } else {
            self.round = Some(rest);
        }
        messages
    }

    /// Tells of these in messages of a bounded size.
    fn tell(&mut self, channels: Vec<(ChannelId, Users)>, messages: &mut Vec<Presence>) {
        let (mut part, mut told) = (Vec::new(), 0);
        for (channel, users) in channels {
            let mut users = &*users;
            while !users.is_empty() {
                let (some, rest) = users.split_at(users.len().min(PRESENCE_TOLD_MAX - told));
                let present =
                    |&(user, connections): &(UserId, u32)| Present { user_id: user.0, connections };
                let users_told = some.iter().map(present).collect();
                part.push(ChannelPresence { channel_id: channel.0, users: users_told });
                told += some.len();
                users = rest;
                if told == PRESENCE_TOLD_MAX {
                    let channels = std::mem::take(&mut part);
                    self.push(Presence { channels, ..Presence::default() }, messages);
                    told = 0;
                }
            }
        }
        if !part.is_empty() {
            self.push(Presence { channels: part, ..Presence::default() }, messages);
        }
    }

    fn push(&mut self, told: Presence, messages: &mut Vec<Presence>) {
        self.number += 1;
        messages.push(Presence { shard: self.shard, number: self.number, ..told });
    }
}

#[cfg(test)]
mod tests;
