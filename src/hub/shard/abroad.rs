//! The shard among its neighbours: what it asks of them, and what it does when it is asked. Hot.
//!
//! What crosses, how and in which order is told in [`crossing`](crate::hub::crossing).

use std::{
    collections::{HashMap, hash_map::Entry},
    rc::Rc,
    sync::Arc,
};

use tokio::task::spawn_local;

use super::{Shard, State};
use crate::{
    engine::Engine,
    hub::{
        Asked, ShardId, Ticket,
        channel::Effect,
        crossing::{Answer, Arrivals, Ask, Crossing, Held, Lane, Neighbour, Weigh, owner},
        ephemeral::Announcement,
        fanout::Delivery,
    },
    log::place::ChannelId,
    wire::{code::ErrorCode, encode::Reply},
};

impl<E: Engine, S: 'static> Shard<E, S> {
    /// How many shards there are.
    #[must_use]
    pub const fn shards(&self) -> u16 {
        self.shards
    }

    /// Takes in what crosses from other shards, for as long as this one lives.
    pub fn take_arrivals(self: &Rc<Self>, arrivals: Arrivals) {
        let Arrivals { mut asks, mut answers } = arrivals;
        let shard = Rc::clone(self);
        spawn_local(async move {
            while let Some(crossing) = asks.recv().await {
                for ask in crossing.parcels {
                    while !shard.has_room() {
                        shard.room.notified().await;
                    }
                    shard.take_ask(ask);
                }
            }
        });
        let shard = Rc::clone(self);
        spawn_local(async move {
            while let Some(crossing) = answers.recv().await {
                shard.take_answers(crossing);
            }
        });
    }

    /// Does what another shard wants of a channel here.
    pub fn take_ask(self: &Rc<Self>, ask: Ask) {
        match ask {
            Ask::Publish(info, draft) => {
                self.with_known_channel(&info, |channel, effects| channel.publish(draft, effects));
                self.mark_ready(info.id);
            }
            Ask::Subscribe(info, wanted) => {
                self.with_known_channel(&info, |channel, effects| {
                    channel.subscribe(wanted, effects);
                });
            }
            Ask::Unsubscribe(id, ticket) => {
                if !self.with_channel(id, |channel, effects| channel.unsubscribe(ticket, effects)) {
                    // The subscription had ended by itself, and the channel was let go since.
                    let refused = Reply::Refused(ErrorCode::NotSubscribed.into());
                    let mut state = self.state.borrow_mut();
                    self.perform(&mut state, id, Effect::Reply(ticket, refused));
                }
            }
            Ask::History(info, ticket, user, page) => {
                self.with_known_channel(&info, |channel, effects| {
                    channel.history(ticket, user, page, effects);
                });
            }
            Ask::Gone(id, connection) => {
                self.with_channel(id, |channel, effects| {
                    channel.leave(connection, effects);
                });
            }
        }
    }

    /// Performs what another shard has decided, in its order.
    pub fn take_answers(self: &Rc<Self>, Crossing { from, parcels }: Crossing<Answer>) {
        let mut state = self.state.borrow_mut();
        for answer in parcels {
            match answer {
                Answer::Effect(channel, effect) => {
                    if let Effect::Reply(ticket, _) = &effect {
                        state.count_reply(from, channel, *ticket);
                    }
                    self.perform(&mut state, channel, effect);
                }
                Answer::FanOut(delivery) => self.fan_out(&mut state, &delivery),
                Answer::Announce(announcement) => self.announce(&mut state, &announcement),
                Answer::Last => state.lasts_heard += 1,
            }
        }
    }

    /// Whether the answers to all other shards have room for more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let state = self.state.borrow();
        !state.borders.neighbours.iter().any(|neighbour| neighbour.answers.is_full())
    }

    /// Sends what waits for other shards: one message to each, and way.
    pub fn send_crossings(self: &Rc<Self>) {
        if self.shards == 1 {
            return;
        }
        let mut state = self.state.borrow_mut();
        for (place, neighbour) in (0..).zip(&mut state.borders.neighbours) {
            if let Err(held) = neighbour.asks.send(self.id) {
                self.send_later(ShardId(place), held, |neighbour| &mut neighbour.asks);
            }
            if let Err(held) = neighbour.answers.send(self.id) {
                self.send_later(ShardId(place), held, |neighbour| &mut neighbour.answers);
            }
        }
        self.room.notify_one();
    }

    /// Tells all other shards that no publish is under way here any more.
    pub fn tell_last(&self) {
        let mut state = self.state.borrow_mut();
        for (place, neighbour) in (0..).zip(&mut state.borders.neighbours) {
            if ShardId(place) != self.id {
                neighbour.answers.push(Answer::Last);
            }
        }
        self.turn.notify_one();
    }

    /// Whether every other shard has said that it hands out nothing more.
    #[must_use]
    pub fn has_heard_last(&self) -> bool {
        self.state.borrow().lasts_heard + 1 >= self.shards
    }

    pub(super) fn owner(&self, channel: ChannelId) -> ShardId {
        if self.shards == 1 { self.id } else { owner(channel, self.shards) }
    }

    /// Whether a command for this owner can be taken on.
    pub(super) fn may_ask(&self, owner: ShardId) -> bool {
        owner == self.id
            || self.state.borrow().borders.neighbours[usize::from(owner.0)].may_be_asked()
    }

    /// Asks another shard. It replies to all but [`Ask::Gone`].
    pub(super) fn ask(&self, owner: ShardId, ask: Ask) {
        let mut state = self.state.borrow_mut();
        let neighbour = &mut state.borders.neighbours[usize::from(owner.0)];
        let is_publish = matches!(ask, Ask::Publish(..));
        if !matches!(ask, Ask::Gone(..)) {
            neighbour.unanswered += 1;
        }
        if neighbour.asks.push(ask) {
            self.turn.notify_one();
        }
        if is_publish {
            state.publishes_abroad += 1;
        }
    }

    /// Lets the shard of a connection perform what a channel here decided about it.
    pub(super) fn perform_abroad(
        &self,
        state: &mut State<S>,
        to: ShardId,
        channel: ChannelId,
        effect: Effect,
    ) {
        match &effect {
            Effect::Join(_) => state.live_abroad.join(channel, to, self.shards),
            Effect::Leave(_) => state.live_abroad.leave(channel, to),
            Effect::Attend(..) => state.attending_abroad.join(channel, to, self.shards),
            Effect::Unattend(_) => state.attending_abroad.leave(channel, to),
            _ => {}
        }
        self.answer(state, to, Answer::Effect(channel, effect));
    }

    /// Hands a batch to every other shard that has subscribers, once.
    pub(super) fn fan_out_abroad(&self, state: &mut State<S>, delivery: &Arc<Delivery>) {
        let State { live_abroad, borders, .. } = state;
        for neighbour in live_abroad.of(delivery.channel, &mut borders.neighbours) {
            self.metrics.crossings.inc();
            if neighbour.answers.push(Answer::FanOut(Arc::clone(delivery))) {
                self.turn.notify_one();
            }
        }
    }

    /// Hands an announcement to every other shard where somebody attends, once.
    pub(super) fn announce_abroad(&self, state: &mut State<S>, announcement: &Arc<Announcement>) {
        let State { attending_abroad, borders, .. } = state;
        for neighbour in attending_abroad.of(announcement.channel, &mut borders.neighbours) {
            if neighbour.answers.push(Answer::Announce(Arc::clone(announcement))) {
                self.turn.notify_one();
            }
        }
    }

    fn answer(&self, state: &mut State<S>, to: ShardId, answer: Answer) {
        if state.borders.neighbours[usize::from(to.0)].answers.push(answer) {
            self.turn.notify_one();
        }
    }

    /// Sends what waits on a way once there is room for it.
    fn send_later<T: Weigh + 'static>(
        self: &Rc<Self>,
        to: ShardId,
        Held(mailbox): Held<T>,
        lane: fn(&mut Neighbour) -> &mut Lane<T>,
    ) {
        let shard = Rc::clone(self);
        spawn_local(async move {
            let place = mailbox.reserve_owned().await.ok();
            let mut state = shard.state.borrow_mut();
            lane(&mut state.borders.neighbours[usize::from(to.0)]).resume(shard.id, place);
            // Batches may be formed again, and asks be taken in.
            shard.turn.notify_one();
            shard.room.notify_one();
        });
    }
}

/// For each channel that is owned here and concerns connections on other shards: how many, by shard.
#[derive(Debug, Default)]
pub(super) struct Abroad(HashMap<ChannelId, Vec<u32>>);

impl Abroad {
    fn join(&mut self, channel: ChannelId, to: ShardId, shards: u16) {
        let counts = self.0.entry(channel).or_default();
        counts.resize(usize::from(shards), 0);
        counts[usize::from(to.0)] += 1;
    }

    fn leave(&mut self, channel: ChannelId, to: ShardId) {
        let counts = self.0.get_mut(&channel).expect("it has joined");
        counts[usize::from(to.0)] -= 1;
        if counts.iter().all(|count| *count == 0) {
            self.0.remove(&channel);
        }
    }

    /// The shards with any, out of all.
    fn of<'a>(
        &'a self,
        channel: ChannelId,
        neighbours: &'a mut [Neighbour],
    ) -> impl Iterator<Item = &'a mut Neighbour> {
        let counts = self.0.get(&channel).map_or(&[][..], Vec::as_slice);
        let concerned = counts.iter().zip(neighbours).filter(|(count, _)| **count > 0);
        concerned.map(|(_, neighbour)| neighbour)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<S> State<S> {
    /// Another shard has replied to a command of a connection here, which may be gone.
    fn count_reply(
        &mut self,
        from: ShardId,
        channel: ChannelId,
        Ticket { connection, asked, .. }: Ticket,
    ) {
        self.borders.neighbours[usize::from(from.0)].unanswered -= 1;
        match asked {
            Asked::Publish => self.publishes_abroad -= 1,
            Asked::Unsubscribe => {
                if let Entry::Occupied(mut count) = self.unsubscribing.entry((connection, channel))
                {
                    *count.get_mut() -= 1;
                    if *count.get() == 0 {
                        count.remove();
                    }
                }
            }
            Asked::Subscribe | Asked::History | Asked::Call => {}
        }
    }
}
