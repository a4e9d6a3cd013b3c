//! Who is in a channel and who is writing, and what of it was told to those who asked. Pure.
//!
//! A user is present as long as any connection of theirs is subscribed, on whichever node. What changes is announced at
//! once, and then not again before the caller says that [`limits::PRESENCE_INTERVAL_MIN`] is over; so
//! here is no clock, and no timer runs while nothing changes.
//!
//! What was announced is not kept: it is who is present, but for the `pending`. A newcomer is told
//! what the others were told, so that the next announcement is true for all of them alike.
//!
//! [`limits::PRESENCE_INTERVAL_MIN`]: crate::limits::PRESENCE_INTERVAL_MIN

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    mem,
};

pub use self::elsewhere::{Elsewhere, Teller};
use super::ConnectionKey;
use crate::{
    engine::bus::NodeId,
    limits::TYPING_USERS_MAX,
    log::place::{ChannelId, UserId},
    wire::channels::{Named, PresenceView},
};

mod elsewhere;

/// Who is in one channel.
#[derive(Debug)]
pub struct Presence {
    channel: ChannelId,
    /// More users than these are counted and not named. 0: none is ever named.
    users_max: usize,
    /// The subscriptions of each user on this node. None is 0.
    here: HashMap<UserId, u32>,
    /// The sum of them.
    connections_here: u32,
    /// Who is there on other nodes.
    elsewhere: Elsewhere,
    /// How many users there are, each once.
    users: usize,
    /// Whose subscriptions here have changed since other nodes were told. `None`: there are none to tell.
    untold: Option<BTreeSet<UserId>>,
    /// How many subscribers asked to be told.
    audience: u32,
    /// What they were told last. Without an audience it means nothing.
    announced: Announced,
    /// Who came or went since then, while users are named.
    pending: BTreeSet<UserId>,
    /// Who asked since then and was told other counts than the others.
    newcomers: HashMap<ConnectionKey, Counts>,
    /// The last announcement is too young for another.
    is_cooling: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Counts {
    users: u32,
    connections: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Announced {
    counts: Counts,
    is_named: bool,
}

/// What the audience is to be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct News {
    /// What has changed for who heard everything before.
    pub changes: PresenceView,
    /// The same for who did not.
    pub whole: PresenceView,
}

impl Presence {
    /// Nobody is there.
    #[must_use]
    pub fn new(channel: ChannelId, users_max: u32) -> Self {
        Self {
            channel,
            users_max: users_max as usize,
            here: HashMap::new(),
            connections_here: 0,
            elsewhere: Elsewhere::default(),
            users: 0,
            untold: None,
            audience: 0,
            announced: Announced::default(),
            pending: BTreeSet::new(),
            newcomers: HashMap::new(),
            is_cooling: false,
        }
    }

    /// There are other nodes. What they have told, and that they are to be told, from here on.
    pub fn join_nodes(&mut self, elsewhere: Elsewhere) {
        let users: BTreeSet<_> = elsewhere.users().chain(self.here.keys().copied()).collect();
        self.users = users.len();
        self.elsewhere = elsewhere;
        self.untold = Some(self.here.keys().copied().collect());
    }

    /// Who is there on other nodes. Nothing is left of it here.
    pub fn leave_nodes(&mut self) -> Elsewhere {
        let elsewhere = mem::take(&mut self.elsewhere);
        self.users = self.here.len();
        elsewhere
    }

    /// Who is there on other nodes.
    #[must_use]
    pub const fn elsewhere(&self) -> &Elsewhere {
        &self.elsewhere
    }

    /// A connection of a user has subscribed. Whether that is the first thing that other nodes are to be
    /// told.
    pub fn join(&mut self, user: UserId) -> bool {
        self.connections_here += 1;
        self.change(user, |it| *it.here.entry(user).or_default() += 1);
        self.is_to_be_told(user)
    }

    /// A connection of a user is subscribed no more. It may have been in the audience. Whether that is
    /// the first thing that other nodes are to be told.
    ///
    /// # Panics
    /// When it was not subscribed.
    pub fn leave(&mut self, connection: ConnectionKey, user: UserId, was_told: bool) -> bool {
        self.connections_here -= 1;
        self.change(user, |it| {
            let Entry::Occupied(mut subscriptions) = it.here.entry(user) else {
                panic!("who leaves was there")
            };
            *subscriptions.get_mut() -= 1;
            if *subscriptions.get() == 0 {
                subscriptions.remove();
            }
        });
        if was_told {
            self.newcomers.remove(&connection);
            self.audience -= 1;
            if self.audience == 0 {
                self.pending = BTreeSet::new();
                self.newcomers = HashMap::new();
            }
        }
        self.is_to_be_told(user)
    }

    /// Another node has told of users there: so many subscriptions each, 0 for none any more.
    pub fn hear(&mut self, teller: Teller, round: u32, users: &[(UserId, u32)]) {
        for &(user, connections) in users {
            self.change(user, |it| it.elsewhere.set(teller, round, user, connections));
        }
    }

    /// Another node has told of all who are there in this round: whom it did not tell of is gone.
    pub fn end_round(&mut self, teller: Teller, round: u32) {
        for user in self.elsewhere.not_in(teller, round) {
            self.change(user, |it| it.elsewhere.set(teller, round, user, 0));
        }
    }

    /// Another node is gone, and who was there with it.
    pub fn lose_node(&mut self, node: NodeId) {
        for (teller, user) in self.elsewhere.of_node(node) {
            self.change(user, |it| it.elsewhere.set(teller, 0, user, 0));
        }
    }

    /// Does what may have a user come or go.
    fn change(&mut self, user: UserId, change: impl FnOnce(&mut Self)) {
        let was_there = self.is_there(user);
        change(self);
        match (was_there, self.is_there(user)) {
            (false, true) => self.users += 1,
            (true, false) => self.users -= 1,
            _ => return,
        }
        self.has_changed(user);
    }

    fn is_there(&self, user: UserId) -> bool {
        self.here.contains_key(&user) || self.elsewhere.has(user)
    }

    fn is_to_be_told(&mut self, user: UserId) -> bool {
        let untold = self.untold.as_mut();
        untold.is_some_and(|untold| untold.insert(user) && untold.len() == 1)
    }

    /// Whether other nodes are to be told something.
    #[must_use]
    pub fn has_untold(&self) -> bool {
        self.untold.as_ref().is_some_and(|untold| !untold.is_empty())
    }

    /// What other nodes are to be told: the subscriptions here of those for whom they have changed.
    pub fn take_untold(&mut self) -> Vec<(UserId, u32)> {
        let untold = self.untold.as_mut().map(mem::take).unwrap_or_default();
        let now = |user| (user, self.here.get(&user).copied().unwrap_or_default());
        untold.into_iter().map(now).collect()
    }

    /// The users here and their subscriptions, for a node that knows nothing of them.
    pub fn here(&self) -> impl Iterator<Item = (UserId, u32)> {
        self.here.iter().map(|(user, connections)| (*user, *connections))
    }

    /// Whoever is told of users was told otherwise about this one.
    fn has_changed(&mut self, user: UserId) {
        if self.audience > 0 && self.announced.is_named && !self.pending.remove(&user) {
            self.pending.insert(user);
        }
    }

    /// A connection that has joined asks to be told from here on. What it is told first: whom the others
    /// were told of and its own user, and how many there are now.
    pub fn welcome(&mut self, connection: ConnectionKey, user: UserId) -> PresenceView {
        let counts = self.counts();
        if self.audience == 0 {
            self.announced = Announced { counts, is_named: self.names() };
        }
        self.audience += 1;
        if counts != self.announced.counts {
            self.newcomers.insert(connection, counts);
        }
        if !self.announced.is_named {
            return self.view(Named::TooMany);
        }
        let there = self.everyone().filter(|it| !self.pending.contains(it) || *it == user);
        let gone = self.pending.iter().copied().filter(|it| !self.is_there(*it));
        self.view(Named::Everyone(ascending(there.chain(gone))))
    }

    /// Who is there now.
    #[must_use]
    pub fn now(&self) -> PresenceView {
        let named =
            if self.names() { Named::Everyone(ascending(self.everyone())) } else { Named::TooMany };
        self.view(named)
    }

    /// What the audience does not know yet and is to be told now, if anything. Then
    /// [`Presence::cooled`] is to be called after a while.
    pub fn announce(&mut self) -> Option<News> {
        if self.is_cooling || self.audience == 0 {
            return None;
        }
        let counts = self.counts();
        let is_named = self.names();
        let are_counts_known =
            counts == self.announced.counts && self.newcomers.values().all(|told| *told == counts);
        self.newcomers.clear();
        if are_counts_known && self.pending.is_empty() {
            return None;
        }
        let was_named = self.announced.is_named;
        self.announced = Announced { counts, is_named };
        let pending = mem::take(&mut self.pending);
        self.is_cooling = true;
        let whole = self.now();
        let changes = if was_named && is_named {
            let (joined, left) = pending.into_iter().partition(|it| self.is_there(*it));
            self.view(Named::Changes { joined, left })
        } else {
            whole.clone()
        };
        Some(News { changes, whole })
    }

    /// The last announcement is old enough for another.
    pub const fn cooled(&mut self) {
        self.is_cooling = false;
    }

    /// Whether [`Presence::cooled`] is to be called.
    #[must_use]
    pub const fn is_cooling(&self) -> bool {
        self.is_cooling
    }

    /// Whether anybody asked to be told.
    #[must_use]
    pub const fn has_audience(&self) -> bool {
        self.audience > 0
    }

    /// Whether those who are there are few enough to be named.
    #[must_use]
    pub fn names(&self) -> bool {
        self.users_max > 0 && self.users <= self.users_max
    }

    /// All who are there. Who is on two nodes comes twice.
    fn everyone(&self) -> impl Iterator<Item = UserId> {
        self.here.keys().copied().chain(self.elsewhere.users())
    }

    fn counts(&self) -> Counts {
        let users = u32::try_from(self.users).unwrap_or(u32::MAX);
        let connections = self.connections_here.saturating_add(self.elsewhere.connections());
        Counts { users, connections }
    }

    fn view(&self, named: Named) -> PresenceView {
        let Counts { users, connections } = self.counts();
        PresenceView { channel: self.channel, users, connections, named }
    }
}

fn ascending(users: impl Iterator<Item = UserId>) -> Vec<UserId> {
    let mut users: Vec<_> = users.collect();
    users.sort_unstable();
    users.dedup();
    users
}

/// Who is writing in one channel and has not been told of, at most [`TYPING_USERS_MAX`].
#[derive(Debug, Default)]
pub struct Typing {
    users: BTreeSet<UserId>,
    is_cooling: bool,
}

impl Typing {
    /// A user is writing.
    pub fn add(&mut self, user: UserId) {
        if self.users.len() < TYPING_USERS_MAX {
            self.users.insert(user);
        }
    }

    /// Whether somebody has not been told of.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.users.is_empty()
    }

    /// A user has written: there is nothing to tell any more.
    pub fn has_written(&mut self, user: UserId) {
        self.users.remove(&user);
    }

    /// Whom to tell of now, ascending. Not nobody: then [`Typing::cooled`] is to be called after a while.
    pub fn take(&mut self) -> Option<Vec<UserId>> {
        if self.is_cooling || self.users.is_empty() {
            return None;
        }
        self.is_cooling = true;
        Some(mem::take(&mut self.users).into_iter().collect())
    }

    /// Nobody is to be told of who is.
    pub fn clear(&mut self) {
        self.users.clear();
    }

    /// The last event is old enough for another.
    pub const fn cooled(&mut self) {
        self.is_cooling = false;
    }

    /// Whether [`Typing::cooled`] is to be called.
    #[must_use]
    pub const fn is_cooling(&self) -> bool {
        self.is_cooling
    }
}

#[cfg(test)]
mod tests;
