//! What the channels decide, performed in order. Hot.

use std::{collections::hash_map, mem, rc::Rc, time::Duration};

use tokio::task::spawn_local;

use super::{Port, Shard, State, elsewhere::typing};
use crate::{
    engine::{Append, AppendError, Engine, ReadError, ReadFrom},
    hub::{
        Asked, ConnectionKey,
        channel::{Channel, Effect, Purpose},
        directory::{ChannelInfo, DirectoryError},
        fanout::{Deflated, Delivery, SharedFrames, Subscriber, control_frame},
        rights::Rights,
    },
    limits::{CONTENTION_PAUSE_MAX, LANDING_TIMEOUT, RECOVERY_PAUSE},
    log::{
        batch::Entry,
        place::{ChannelId, ClientMessageId, Cursor, UserId},
    },
    metrics::Compressed,
    wire::{code::ErrorCode, encode::Reply},
};

impl<E: Engine, S: 'static> Shard<E, S> {
    pub(super) fn with_known_channel(
        self: &Rc<Self>,
        info: &ChannelInfo,
        act: impl FnOnce(&mut Channel, &mut Vec<Effect>),
    ) {
        let mut state = self.state.borrow_mut();
        let State { channels, elsewhere, .. } = &mut *state;
        channels.entry(info.id).or_insert_with(|| {
            // The directory may have learned of a change while the command was on its way.
            let known = self.directory().cached_channel(info.id);
            let info = known.as_ref().unwrap_or(info);
            let caps = self.engine.caps();
            let mut channel = Channel::new(info, caps, self.limits.presence_users_max);
            if let Some(elsewhere) = elsewhere {
                elsewhere.load(info.id, &mut channel);
            }
            channel
        });
        drop(state);
        self.with_channel(info.id, act);
    }

    /// Lets a channel decide, and performs what it decides. Whether there is such a channel.
    pub(super) fn with_channel(
        self: &Rc<Self>,
        id: ChannelId,
        act: impl FnOnce(&mut Channel, &mut Vec<Effect>),
    ) -> bool {
        let mut state = self.state.borrow_mut();
        let mut effects = mem::take(&mut state.effects);
        let known = state.channels.get_mut(&id).map(|channel| act(channel, &mut effects));
        if known.is_some() {
            for effect in effects.drain(..) {
                self.perform(&mut state, id, effect);
            }
        }
        state.effects = effects;
        known.is_some()
    }

    /// Performs what a channel has decided, or lets the shard do so where its connection is.
    pub(super) fn perform(
        self: &Rc<Self>,
        state: &mut State<S>,
        channel: ChannelId,
        effect: Effect,
    ) {
        if let Some(connection) = effect.connection()
            && connection.shard != self.id
        {
            return self.perform_abroad(state, connection.shard, channel, effect);
        }
        match effect {
            Effect::FanOut(delivery) => {
                self.metrics.committed(u64::from(delivery.batch.count));
                self.fan_out_abroad(state, &delivery);
                self.fan_out(state, &delivery);
            }
            Effect::Join(subscriber) => {
                if find(state, subscriber.connection).is_some() {
                    state.subscribers.entry(channel).or_default().insert(subscriber);
                }
            }
            Effect::Leave(connection) => state.leave(channel, connection),
            Effect::Attend(attendant, first) => self.attend(state, channel, attendant, *first),
            Effect::Unattend(connection) => state.unattend(channel, connection),
            Effect::Announce(announcement) => {
                if !self.is_draining() {
                    self.announce_abroad(state, &announcement);
                    self.announce(state, &announcement);
                }
            }
            Effect::Untold => {
                if let Some(elsewhere) = &mut state.elsewhere {
                    elsewhere.note(channel);
                }
            }
            Effect::TellTyping(users) => {
                if let Some(elsewhere) = &state.elsewhere {
                    elsewhere.cast(typing(channel, &users));
                }
            }
            Effect::CoolDown(cooling) => self.cool_down(channel, cooling),
            // Who called counts what is refused: much of that is refused before it comes here.
            Effect::Reply(ticket, reply) if ticket.asked == Asked::Call => {
                state.calls.end(ticket, reply);
            }
            Effect::Reply(ticket, reply) => {
                if let Some(port) = find(state, ticket.connection) {
                    if ticket.asked == Asked::History {
                        port.history_reads.update(|reads| reads - 1);
                    }
                    if let Reply::Refused(refusal) = &reply {
                        self.metrics.refused(refusal.code);
                    }
                    let frame = self.reply_frame(&port, ticket.id, &reply);
                    self.push_own(&mut state.urgent, &port, frame);
                }
            }
            Effect::Append(append) => self.append(channel, append),
            Effect::Replay(subscriber, delivery, after) => {
                if let Some(port) = find(state, subscriber.connection)
                    && let Some(picked) = delivery.frame_after(subscriber.format, after, |plain| {
                        self.deflater.twin(Compressed::Replay, plain)
                    })
                {
                    self.metrics.replayed_frames.inc();
                    let frame = self.deflater.count(picked);
                    self.push_own(&mut state.urgent, &port, frame);
                }
            }
            Effect::Tell(connection, control) => {
                if let Some(port) = find(state, connection) {
                    let frame = control_frame(port.format, &control);
                    self.push_own(&mut state.urgent, &port, frame);
                }
            }
            Effect::TellIfRoom(connection, control) => {
                self.tell_if_room(state, connection, &control);
            }
            Effect::Ended(connection) => {
                if let Some(port) = find(state, connection)
                    && !state.unsubscribing.contains_key(&(connection, channel))
                {
                    port.subscriptions.borrow_mut().remove(channel);
                }
            }
            Effect::Sealed => {
                tracing::error!(channel = channel.0, "the channel's log is damaged: it is sealed");
                self.metrics.channels_sealed.inc();
            }
            Effect::Read(from, purpose) => self.read(channel, from, purpose),
            Effect::FindKeys(keys) => self.find_keys(channel, keys),
            Effect::ReadRights => self.read_rights(channel),
            Effect::Learn(info) => self.directory().learn(info),
            Effect::ForgetMember(user) => self.directory().forget_member(channel, user),
            Effect::Forget => self.directory().forget(channel),
            Effect::RecoverLater => self.later(channel, RECOVERY_PAUSE, Channel::recover),
            Effect::ContendLater(losses) => {
                let longest_us = CONTENTION_PAUSE_MAX.as_micros() >> 6_u32.saturating_sub(losses);
                let pause = rand::random_range(0..=u64::try_from(longest_us).unwrap_or(0));
                self.later(channel, Duration::from_micros(pause), Channel::recover);
            }
            Effect::Forward(id, to, publishes) => self.forward(channel, id, to, &publishes),
            Effect::SeekLater => self.later(channel, LANDING_TIMEOUT, Channel::seek),
        }
    }

    /// Puts a batch into the outboxes of the live subscribers here.
    pub(super) fn fan_out(&self, state: &mut State<S>, delivery: &Delivery) {
        let State { ports, subscribers, dirty, .. } = state;
        let Some(subscribers) = subscribers.get(&delivery.channel) else { return };
        let mut frames = SharedFrames::default();
        for &Subscriber { connection, format } in subscribers.as_slice() {
            if let Some(port) = ports.get(connection.slot as usize)
                && port.key == connection
            {
                let twin = |plain: &[u8]| self.deflater.twin(Compressed::Batch, plain);
                self.push(port, frames.of(delivery, format, twin));
                if !port.is_dirty.replace(true) {
                    dirty.push_back(Rc::clone(port));
                }
            }
        }
        self.turn.notify_one();
        let Deflated { frames, saved_bytes } = frames.deflated();
        if frames > 0 {
            self.metrics.sent_deflated(frames, saved_bytes);
        }
        let messages = u64::from(delivery.batch.count);
        self.metrics.delivered(messages, subscribers.as_slice().len());
    }

    /// Lets a channel decide after a while, if it is still in memory.
    fn later(
        self: &Rc<Self>,
        channel: ChannelId,
        pause: Duration,
        act: fn(&mut Channel, &mut Vec<Effect>),
    ) {
        let shard = Rc::clone(self);
        spawn_local(async move {
            tokio::time::sleep(pause).await;
            shard.with_channel(channel, act);
        });
    }

    fn append(self: &Rc<Self>, channel: ChannelId, append: Append) {
        let shard = Rc::clone(self);
        let answer = self.engine.append(append);
        spawn_local(async move {
            let answer: Result<Cursor, AppendError> = answer.await;
            if let Err(error) = &answer {
                tracing::warn!(channel = channel.0, %error, "an append did not pass");
            }
            shard.with_channel(channel, |channel, effects| channel.appended(answer, effects));
            // What came while this batch was in flight is the next one.
            shard.mark_ready(channel);
        });
    }

    fn find_keys(self: &Rc<Self>, channel: ChannelId, keys: Vec<(UserId, ClientMessageId)>) {
        let shard = Rc::clone(self);
        let answer = self.engine.find_keys(channel, keys.clone());
        spawn_local(async move {
            let answer = answer.await;
            if let Err(error) = &answer {
                tracing::warn!(channel = channel.0, %error, "a look for stored messages failed");
            }
            shard.with_channel(channel, |channel, effects| {
                channel.keys_found(&keys, answer, effects);
            });
            // What is not stored is judged again.
            shard.mark_ready(channel);
        });
    }

    fn read_rights(self: &Rc<Self>, channel: ChannelId) {
        let shard = Rc::clone(self);
        spawn_local(async move {
            let directory = shard.directory();
            let read = async {
                let record = directory.record(channel).await?;
                let members = directory.members(channel).await?;
                Ok(Rights::new(record, members.into_iter().collect()))
            };
            let answer = match read.await {
                Ok(rights) => Ok(Some(rights)),
                Err(DirectoryError::UnknownChannel) => Ok(None),
                Err(error) => {
                    tracing::warn!(channel = channel.0, %error, "a channel's rights are not read");
                    Err(ErrorCode::from(&error))
                }
            };
            shard.with_channel(channel, |channel, effects| channel.rights_read(answer, effects));
            // What waits can be decided on now.
            shard.mark_ready(channel);
        });
    }

    fn read(self: &Rc<Self>, channel: ChannelId, from: ReadFrom, purpose: Purpose) {
        let shard = Rc::clone(self);
        let answer = self.engine.read(channel, from, purpose.read_max());
        spawn_local(async move {
            let answer: Result<Vec<Entry>, ReadError> = answer.await;
            if let Err(error) = &answer {
                tracing::warn!(channel = channel.0, %error, "a read of the log failed");
            }
            shard.with_channel(channel, |channel, effects| {
                channel.read_done(purpose, answer, effects);
            });
            // The channel may have been waiting for this to form a batch.
            shard.mark_ready(channel);
        });
    }
}

impl<S> State<S> {
    /// Takes a connection out of the live subscribers here. Not an error if it is none.
    pub(super) fn leave(&mut self, channel: ChannelId, connection: ConnectionKey) {
        if let hash_map::Entry::Occupied(mut subscribers) = self.subscribers.entry(channel) {
            subscribers.get_mut().remove(connection);
            if subscribers.get().is_empty() {
                subscribers.remove();
            }
        }
    }
}

pub(super) fn find<S>(state: &State<S>, connection: ConnectionKey) -> Option<Rc<Port<S>>> {
    let port = state.ports.get(connection.slot as usize)?;
    (port.key == connection).then(|| Rc::clone(port))
}
