//! Who is in a channel on other nodes, as far as these have told it. Pure.
//!
//! A node tells how many subscriptions a user has there, and never how many more or fewer: what is lost
//! or comes twice does no lasting harm. It is set right by a *round*, in which a node tells of all who
//! are there. Who is not told of in it is there no more.

use std::collections::HashMap;

use crate::{engine::bus::NodeId, log::place::UserId};

/// Bytes that a node's part takes, about, besides its users.
const PART_BYTES: usize = 160;
/// Bytes that a user takes, about.
const USER_BYTES: usize = 20;

/// Where something was told: a node, and which of its shards.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Teller {
    /// The node.
    pub node: NodeId,
    /// Its shard, that owns the channel there.
    pub shard: u32,
}

/// Who is in one channel on other nodes.
#[derive(Debug, Default)]
pub struct Elsewhere {
    /// One for each node with anybody there: a few.
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    teller: Teller,
    /// Nobody is in it without a subscription.
    users: HashMap<UserId, There>,
    connections: u32,
}

#[derive(Debug)]
struct There {
    connections: u32,
    /// In which it was told last.
    round: u32,
}

impl Elsewhere {
    /// A user has so many subscriptions there now; 0: none any more.
    pub fn set(&mut self, teller: Teller, round: u32, user: UserId, connections: u32) {
        let place = match self.parts.iter().position(|part| part.teller == teller) {
            Some(place) => place,
            None if connections == 0 => return,
            None => {
                self.parts.push(Part { teller, users: HashMap::new(), connections: 0 });
                self.parts.len() - 1
            }
        };
        let part = &mut self.parts[place];
        let before = if connections == 0 {
            part.users.remove(&user)
        } else {
            part.users.insert(user, There { connections, round })
        };
        let before = before.map_or(0, |before| before.connections);
        part.connections = part.connections.saturating_sub(before).saturating_add(connections);
        if part.users.is_empty() {
            self.parts.swap_remove(place);
        }
    }

    /// Whom a teller has not told of in this round, which is over.
    #[must_use]
    pub fn not_in(&self, teller: Teller, round: u32) -> Vec<UserId> {
        let users = self.parts.iter().filter(|part| part.teller == teller).flat_map(|it| &it.users);
        users.filter(|(_, it)| it.round != round).map(|(user, _)| *user).collect()
    }

    /// Whom a node has told of, and by which of its shards.
    #[must_use]
    pub fn of_node(&self, node: NodeId) -> Vec<(Teller, UserId)> {
        let parts = self.parts.iter().filter(|part| part.teller.node == node);
        parts.flat_map(|part| part.users.keys().map(|user| (part.teller, *user))).collect()
    }

    /// Lets those go whom a teller has not told of in this round, which is over.
    pub fn end_round(&mut self, teller: Teller, round: u32) {
        for user in self.not_in(teller, round) {
            self.set(teller, round, user, 0);
        }
    }

    /// Lets those go who were on a node.
    pub fn lose_node(&mut self, node: NodeId) {
        self.parts.retain(|part| part.teller.node != node);
    }

    /// Whether a user is there.
    #[must_use]
    pub fn has(&self, user: UserId) -> bool {
        self.parts.iter().any(|part| part.users.contains_key(&user))
    }

    /// Whether nobody is there.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// All who are there. Who is on two nodes comes twice.
    pub fn users(&self) -> impl Iterator<Item = UserId> {
        self.parts.iter().flat_map(|part| part.users.keys().copied())
    }

    /// Their subscriptions.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.parts.iter().fold(0, |sum: u32, part| sum.saturating_add(part.connections))
    }

    /// The memory that it takes, about, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.parts.iter().map(|part| PART_BYTES + part.users.len() * USER_BYTES).sum()
    }
}
