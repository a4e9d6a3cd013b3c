//! The subscribers of a channel: how a connection comes to be live, is handed what it missed on the
//! way, and leaves. Pure.
//!
//! What is missed is read from the log page by page, and its end comes from the tail, in one step with
//! becoming live. What is not replayed is told as a gap.

use std::sync::Arc;

use super::{Channel, Effect, Purpose, Waiting, refused};
use crate::{
    engine::{ReadError, ReadFrom},
    hub::{
        ConnectionKey, Format, Ticket,
        fanout::{Delivery, Subscriber},
    },
    limits::{DRAFTS_MAX, REPLAY_BYTES_MAX, REPLAY_MESSAGES_MAX},
    log::{
        batch::Entry,
        place::{Position, Sequence, UserId},
    },
    wire::{
        code::ErrorCode,
        encode::{Control, Refusal, Reply},
    },
};

/// What a connection asks for that wants to receive a channel.
#[derive(Clone, Copy, Debug)]
pub struct Subscribe {
    /// Which connection.
    pub ticket: Ticket,
    /// How its frames are written.
    pub format: Format,
    /// Whose it is.
    pub user: UserId,
    /// After which place; none: live only.
    pub since: Option<Position>,
    /// Whether it is told what is not in the log as well.
    pub ephemeral: bool,
}

/// Who a subscriber is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who {
    pub(super) user: UserId,
    /// Whether it asked for what is not in the log as well.
    pub(super) ephemeral: bool,
}

/// A subscriber that is still being handed what it missed.
#[derive(Debug)]
pub(super) struct Replay {
    subscriber: Subscriber,
    pub(super) who: Who,
    /// The last sequence that it has been handed.
    handed: Sequence,
    bytes: usize,
}

impl Channel {
    /// Starts delivery to a connection.
    pub fn subscribe(&mut self, wanted: Subscribe, effects: &mut Vec<Effect>) {
        let ticket = wanted.ticket;
        let connection = ticket.connection;
        if let Some(code) = self.state.refusal() {
            effects.push(refused(ticket, code));
            effects.push(Effect::Ended(connection));
        } else if self.may_serve() {
            self.subscribe_now(wanted, false, effects);
        } else if self.waiting.len() < DRAFTS_MAX {
            self.waiting.push(Waiting::Subscribe(wanted));
            self.prepare(effects);
        } else {
            effects.push(refused(ticket, ErrorCode::Busy));
            effects.push(Effect::Ended(connection));
        }
    }

    /// Ends delivery to a connection, as it asked.
    pub fn unsubscribe(&mut self, ticket: Ticket, effects: &mut Vec<Effect>) {
        let was_any = self.leave(ticket.connection, effects);
        effects.push(if was_any {
            Effect::Reply(ticket, Reply::Unsubscribed(self.id))
        } else {
            refused(ticket, ErrorCode::NotSubscribed)
        });
    }

    /// Ends delivery to a connection, which may be gone. Whether there was or was to be any.
    pub fn leave(&mut self, connection: ConnectionKey, effects: &mut Vec<Effect>) -> bool {
        let live = self.live.remove(&connection);
        if live.is_some() {
            effects.push(Effect::Leave(connection));
        }
        let who = live.or_else(|| self.replays.remove(&connection).map(|replay| replay.who));
        if let Some(who) = who {
            self.depart(connection, who, effects);
            self.announce(effects);
        }
        let mut was_waiting = false;
        let mut stays = |waiting: &Waiting| match waiting {
            Waiting::Subscribe(wanted) if wanted.ticket.connection == connection => {
                effects.push(refused(wanted.ticket, ErrorCode::NotSubscribed));
                was_waiting = true;
                false
            }
            _ => true,
        };
        self.waiting.retain(&mut stays);
        self.doubted.retain(&mut stays);
        who.is_some() || was_waiting
    }

    pub(super) fn subscribe_now(
        &mut self,
        wanted: Subscribe,
        is_current: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Subscribe { ticket, format, user, since, ephemeral } = wanted;
        let connection = ticket.connection;
        if let Err(code) = self.may_read(user) {
            return self.decline(Waiting::Subscribe(wanted), code, is_current, effects);
        }
        let head = self.head.position();
        let is_ahead = since.is_some_and(|since| since.sequence > head.sequence);
        if is_ahead && !is_current {
            // The client may come from a node that has seen more of the log than this one.
            return self.doubt(Waiting::Subscribe(wanted), effects);
        }
        if let Some(since) = since
            && (since.epoch != head.epoch || is_ahead)
        {
            let code = if since.epoch == head.epoch {
                ErrorCode::PositionAhead
            } else {
                ErrorCode::EpochChanged
            };
            let refusal = Refusal { head: Some(head), ..code.into() };
            effects.push(Effect::Reply(ticket, Reply::Refused(refusal)));
            return effects.push(Effect::Ended(connection));
        }
        effects.push(Effect::Reply(
            ticket,
            Reply::Subscribed { channel: self.id, name: Arc::clone(&self.name), head },
        ));
        let subscriber = Subscriber { connection, format };
        let handed = since.map_or(head.sequence, |since| since.sequence);
        let who = Who { user, ephemeral };
        self.arrive(subscriber, who, effects);
        let replay = Replay { subscriber, who, handed, bytes: 0 };
        let missed = self.tail.start().0.saturating_sub(handed.0);
        if missed == 0 || missed > REPLAY_MESSAGES_MAX {
            self.join(replay, effects);
        } else {
            self.replays.insert(connection, replay);
            effects
                .push(Effect::Read(ReadFrom::Holding(handed.next()), Purpose::Replay(connection)));
        }
    }

    /// A page of what a subscriber missed has been read.
    pub(super) fn replayed(
        &mut self,
        connection: ConnectionKey,
        entries: Vec<Entry>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(mut replay) = self.replays.remove(&connection) else { return };
        let before = replay.handed;
        for entry in entries {
            let batch = Arc::new(entry.batch);
            // The log may be ahead of what has been applied here; that comes live.
            if batch.last_sequence() <= replay.handed || batch.first_sequence > self.head.sequence {
                continue;
            }
            // Retention may have taken what lies before: then that is a gap, and said so.
            self.leave_gap(&mut replay, Sequence(batch.first_sequence.0 - 1), effects);
            replay.bytes += batch.records.len();
            let delivery = Arc::new(Delivery::new(self.id, Arc::clone(&batch)));
            effects.push(Effect::Replay(replay.subscriber, delivery, replay.handed));
            replay.handed = batch.last_sequence();
        }
        let is_over = replay.handed == before || replay.bytes >= REPLAY_BYTES_MAX;
        if is_over || replay.handed >= self.tail.start() {
            self.join(replay, effects);
        } else {
            let from = ReadFrom::Holding(replay.handed.next());
            self.replays.insert(connection, replay);
            effects.push(Effect::Read(from, Purpose::Replay(connection)));
        }
    }

    pub(super) fn replay_failed(
        &mut self,
        connection: ConnectionKey,
        error: &ReadError,
        effects: &mut Vec<Effect>,
    ) {
        if matches!(error, ReadError::Damaged { .. }) {
            return self.seal(effects);
        }
        // What cannot be read now is left to history, which answers with the error itself.
        if let Some(replay) = self.replays.remove(&connection) {
            self.join(replay, effects);
        }
    }

    /// Hands a subscriber the rest from the tail, and makes it live.
    fn join(&mut self, mut replay: Replay, effects: &mut Vec<Effect>) {
        self.leave_gap(&mut replay, self.tail.start(), effects);
        for delivery in self.tail.after(replay.handed) {
            effects.push(Effect::Replay(replay.subscriber, Arc::clone(delivery), replay.handed));
            replay.handed = delivery.batch.last_sequence();
        }
        if self.live.insert(replay.subscriber.connection, replay.who).is_none() {
            effects.push(Effect::Join(replay.subscriber));
        }
    }

    /// Tells a subscriber that what lies between its place and `to` is not replayed.
    fn leave_gap(&self, replay: &mut Replay, to: Sequence, effects: &mut Vec<Effect>) {
        if replay.handed < to {
            let gap = Control::Gap { channel: self.id, from: replay.handed.next(), to };
            effects.push(Effect::Tell(replay.subscriber.connection, gap));
            replay.handed = to;
        }
    }

    /// Ends delivery to the connections of some users, and tells them why.
    pub(super) fn end_subscriptions(
        &mut self,
        code: ErrorCode,
        is_concerned: impl Fn(UserId) -> bool,
        effects: &mut Vec<Effect>,
    ) {
        let live = self
            .live
            .extract_if(|_, who| is_concerned(who.user))
            .map(|(key, who)| (key, who, true));
        let replays = self
            .replays
            .extract_if(|_, replay| is_concerned(replay.who.user))
            .map(|(key, replay)| (key, replay.who, false));
        let ended: Vec<_> = live.chain(replays).collect();
        for (connection, who, was_live) in ended {
            if was_live {
                effects.push(Effect::Leave(connection));
            }
            self.depart(connection, who, effects);
            let ended = Control::SubscriptionEnded { channel: self.id, refusal: code.into() };
            effects.push(Effect::Tell(connection, ended));
            effects.push(Effect::Ended(connection));
        }
        self.announce(effects);
    }
}
