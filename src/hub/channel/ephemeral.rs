//! What of a channel is not in its log: who is there, who is writing, and how far a user's other
//! connections are told to have read. Pure.
//!
//! A subscriber is there from the reply that it is subscribed, while it is handed what it missed as
//! well, until the subscription ends. Whoever asked is told, in the order of all else.

use std::sync::Arc;

use super::{Channel, Effect, State, Waiting, refused, subscriptions::Who};
use crate::{
    engine::bus::NodeId,
    hub::{
        ConnectionKey, ShardId, Ticket,
        cluster::presence::Users,
        ephemeral::{Announcement, Attendant},
        fanout::Subscriber,
        presence::{Elsewhere, Teller},
        rights::Author,
    },
    limits::{DRAFTS_MAX, PRESENCE_INTERVAL_MIN, TYPING_INTERVAL_MIN},
    log::{
        batch::Batch,
        place::{Position, UserId},
        settings::Access,
    },
    wire::{
        code::ErrorCode,
        encode::{Control, Reply},
        stored,
    },
};

/// What was told so recently that it is not told again yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cooling {
    /// Who is there.
    Presence,
    /// Who is writing.
    Typing,
    /// The same, to other nodes.
    TypingElsewhere,
}

impl Cooling {
    /// For how long.
    #[must_use]
    pub const fn interval(self) -> std::time::Duration {
        match self {
            Self::Presence => PRESENCE_INTERVAL_MIN,
            Self::Typing | Self::TypingElsewhere => TYPING_INTERVAL_MIN,
        }
    }
}

impl Channel {
    /// A connection is a subscriber from here on.
    pub(super) fn arrive(&mut self, subscriber: Subscriber, who: Who, effects: &mut Vec<Effect>) {
        let Subscriber { connection, format } = subscriber;
        let Who { user, ephemeral } = who;
        if self.presence.join(user) {
            effects.push(Effect::Untold);
        }
        self.announce(effects);
        if ephemeral {
            self.attending.insert((user, connection));
            let first = Box::new(self.presence.welcome(connection, user));
            effects.push(Effect::Attend(Attendant { connection, format, user }, first));
        }
    }

    /// A connection is no subscriber from here on. The others are told by [`Channel::announce`].
    pub(super) fn depart(
        &mut self,
        connection: ConnectionKey,
        who: Who,
        effects: &mut Vec<Effect>,
    ) {
        if self.presence.leave(connection, who.user, who.ephemeral) {
            effects.push(Effect::Untold);
        }
        if who.ephemeral {
            self.attending.remove(&(who.user, connection));
            effects.push(Effect::Unattend(connection));
        }
    }

    /// A user has read up to here, and said so on this connection: the others are told.
    pub fn marked_read(
        &self,
        user: UserId,
        read: Position,
        by: Option<ConnectionKey>,
        effects: &mut Vec<Effect>,
    ) {
        let first = ConnectionKey { shard: ShardId(0), slot: 0, generation: 0 };
        let own = self.attending.range((user, first)..).take_while(|(of, _)| *of == user);
        let others = own.map(|(_, connection)| *connection).filter(|it| Some(*it) != by);
        let marker = |to| Effect::TellIfRoom(to, Control::ReadMarker(self.id, read));
        effects.extend(others.map(marker));
    }

    /// Tells of who came and went, unless it is too early.
    pub(super) fn announce(&mut self, effects: &mut Vec<Effect>) {
        if let Some(news) = self.presence.announce() {
            effects.push(Effect::Announce(Arc::new(Announcement::presence(self.id, news))));
            effects.push(Effect::CoolDown(Cooling::Presence));
        }
    }

    /// Tells of who is writing, unless it is too early.
    fn announce_typing(&mut self, effects: &mut Vec<Effect>) {
        if !self.presence.has_audience() || !self.presence.names() {
            return self.typing.clear();
        }
        if let Some(users) = self.typing.take() {
            effects.push(Effect::Announce(Arc::new(Announcement::typing(self.id, users))));
            effects.push(Effect::CoolDown(Cooling::Typing));
        }
    }

    /// Tells other nodes of who is writing, unless it is too early.
    fn tell_typing(&mut self, effects: &mut Vec<Effect>) {
        if self.presence.elsewhere().is_empty() {
            return self.typing_untold.clear();
        }
        if let Some(users) = self.typing_untold.take() {
            effects.push(Effect::TellTyping(users));
            effects.push(Effect::CoolDown(Cooling::TypingElsewhere));
        }
    }

    /// There are other nodes, which have told of these users.
    pub fn join_nodes(&mut self, elsewhere: Elsewhere) {
        self.presence.join_nodes(elsewhere);
        self.is_shared = true;
        self.sequencer.doubt_refusals();
    }

    /// Who is there on other nodes, for when the channel is not in memory any more.
    pub fn leave_nodes(&mut self) -> Elsewhere {
        self.presence.leave_nodes()
    }

    /// Who is there on other nodes.
    #[must_use]
    pub const fn elsewhere(&self) -> &Elsewhere {
        self.presence.elsewhere()
    }

    /// Who is there on this node.
    #[must_use]
    pub fn here(&self) -> Users {
        self.presence.here().collect()
    }

    /// Whether nobody is there on this node.
    #[must_use]
    pub fn is_nobody_here(&self) -> bool {
        self.presence.here().next().is_none()
    }

    /// What other nodes are to be told since [`Effect::Untold`].
    pub fn take_untold(&mut self) -> Users {
        self.presence.take_untold()
    }

    /// Another node has told of users there.
    pub fn hear_presence(
        &mut self,
        teller: Teller,
        round: u32,
        users: &[(UserId, u32)],
        effects: &mut Vec<Effect>,
    ) {
        self.presence.hear(teller, round, users);
        self.announce(effects);
    }

    /// Another node has told of all who are there.
    pub fn end_round(&mut self, teller: Teller, round: u32, effects: &mut Vec<Effect>) {
        self.presence.end_round(teller, round);
        self.announce(effects);
    }

    /// Another node is gone.
    pub fn lose_node(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        self.presence.lose_node(node);
        self.announce(effects);
    }

    /// Users are writing on another node, which has seen to it that they may.
    pub fn hear_typing(&mut self, users: Vec<UserId>, effects: &mut Vec<Effect>) {
        users.into_iter().for_each(|user| self.typing.add(user));
        self.announce_typing(effects);
    }

    /// The time is over for which [`Effect::CoolDown`] asked.
    pub fn cooled(&mut self, cooling: Cooling, effects: &mut Vec<Effect>) {
        match cooling {
            Cooling::Presence => {
                self.presence.cooled();
                self.announce(effects);
            }
            Cooling::Typing => {
                self.typing.cooled();
                self.announce_typing(effects);
            }
            Cooling::TypingElsewhere => {
                self.typing_untold.cooled();
                self.tell_typing(effects);
            }
        }
    }

    /// Whether a time runs for which [`Effect::CoolDown`] asked.
    pub(super) const fn is_cooling(&self) -> bool {
        self.presence.is_cooling() || self.typing.is_cooling() || self.typing_untold.is_cooling()
    }

    /// Says who is there.
    pub fn presence(&mut self, ticket: Ticket, user: UserId, effects: &mut Vec<Effect>) {
        if let Some(code) = self.state.refusal() {
            effects.push(refused(ticket, code));
        } else if !self.may_serve() {
            self.wait(ticket, Waiting::Presence(ticket, user), effects);
        } else {
            self.presence_now(ticket, user, false, effects);
        }
    }

    pub(super) fn presence_now(
        &mut self,
        ticket: Ticket,
        user: UserId,
        is_current: bool,
        effects: &mut Vec<Effect>,
    ) {
        match self.may_read(user) {
            Ok(()) => effects.push(Effect::Reply(ticket, Reply::Presence(self.presence.now()))),
            Err(code) => {
                self.decline(Waiting::Presence(ticket, user), code, is_current, effects);
            }
        }
    }

    /// Tells those who are there that a user is writing, who must be one who may publish.
    pub fn typing(&mut self, ticket: Ticket, user: UserId, effects: &mut Vec<Effect>) {
        self.typing_now(ticket, user, false, effects);
    }

    pub(super) fn typing_now(
        &mut self,
        ticket: Ticket,
        user: UserId,
        is_current: bool,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(code) = self.state.refusal() {
            return effects.push(refused(ticket, code));
        }
        let is_open = self.access == Access::Open;
        if self.state != State::Ready || (!is_open && self.rights.known().is_none()) {
            self.wait(ticket, Waiting::Typing(ticket, user), effects);
            return if !is_open {
                self.read_rights(effects)
            };
        }
        let rights = self.rights.known().filter(|_| !is_open);
        let may = rights.map_or(Ok(()), |it| it.may_publish(Author::User(user), it.usage()));
        if let Err(code) = may {
            return self.decline(Waiting::Typing(ticket, user), code, is_current, effects);
        }
        effects.push(Effect::Reply(ticket, Reply::TypingSent(self.id)));
        self.typing.add(user);
        self.announce_typing(effects);
        self.typing_untold.add(user);
        self.tell_typing(effects);
    }

    /// Keeps what cannot be answered yet.
    fn wait(&mut self, ticket: Ticket, waiting: Waiting, effects: &mut Vec<Effect>) {
        if self.waiting.len() < DRAFTS_MAX {
            self.waiting.push(waiting);
            self.prepare(effects);
        } else {
            effects.push(refused(ticket, ErrorCode::Busy));
        }
    }

    /// Who has written is not writing any more.
    pub(super) fn forget_typing(&mut self, batch: &Batch) {
        if self.typing.is_waiting() || self.typing_untold.is_waiting() {
            for record in batch.records().flatten() {
                if let Ok(record) = stored::read(record) {
                    self.typing.has_written(record.user);
                    self.typing_untold.has_written(record.user);
                }
            }
        }
    }
}
