//! Stage 3: command → draft, and the performance of what the channels decide. Hot.
//!
//! One shard is one thread. It owns its connections' outboxes and its channels without locks, and
//! works in turns: whatever is ready is read and handed to the channels first, then every channel
//! that has drafts forms one batch, then every connection that was handed something is flushed
//! once. So load makes its own batches, and a lone message waits for nobody.
//!
//! `S` is the socket, which the connection's tasks read and flush; the shard only keeps it.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    mem,
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use slab::Slab;
use tokio::sync::Notify;

use self::{abroad::Abroad, elsewhere::PresenceElsewhere, nodes::Nodes};
pub use super::port::Port;
use super::{
    Asked, ConnectionKey, Format, ShardId,
    calls::Calls,
    channel::{Channel, Effect, Subscribe},
    crossing::{Ask, Borders},
    deflater::Deflater,
    desk::Desk,
    directory::{ChannelInfo, Directory},
    ephemeral::Audience,
    fanout::{Subscribers, control_frame, reply_frame},
    outbox::Frame,
    revocations::Register,
    revoked::Credential,
    rights::Author,
    sequencer::{Draft, Wish},
};
use crate::{
    clock,
    engine::Engine,
    limits::{HISTORY_READS_PER_CONNECTION_MAX, IDLE_CHANNELS_LOADED_MAX, Limits},
    log::place::{BatchId, ChannelId, ClientMessageId, Position, UserId},
    metrics::{Compressed, Metrics},
    websocket::frame,
    wire::{
        code::{CloseCode, ErrorCode},
        decode::Page,
        encode::{self, Control, Reply},
    },
};

mod abroad;
mod announce;
mod called;
mod elsewhere;
mod logins;
mod nodes;
mod perform;

/// One thread of the hub. Lives and is used on that thread only.
#[derive(Debug)]
pub struct Shard<E, S> {
    engine: Arc<E>,
    desk: Arc<Desk<E>>,
    /// What is revoked.
    register: Arc<Register>,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    deflater: Deflater,
    id: ShardId,
    /// How many there are.
    shards: u16,
    state: RefCell<State<S>>,
    /// Rung when a turn has something to end with.
    turn: Notify,
    /// Rung when there may be room again for what other shards are told.
    room: Notify,
    is_draining: Cell<bool>,
    /// The other nodes, as far as they concern the channels here.
    nodes: Nodes,
}

#[derive(Debug)]
struct State<S> {
    ports: Slab<Rc<Port<S>>>,
    /// What the login of each port is known by, at the same place. As long as `ports` has ever been.
    credentials: Vec<Option<Credential>>,
    connected: u32,
    channels: HashMap<ChannelId, Channel>,
    /// Who of the connections here receives which channel live. None of the lists is empty.
    subscribers: HashMap<ChannelId, Subscribers>,
    /// Beyond this number the idle channels are let go.
    channels_before_eviction: usize,
    /// The ways to the other shards.
    borders: Borders,
    /// The live subscribers on other shards.
    live_abroad: Abroad,
    /// Who of the connections here asked for what is not in the log of which channel. None of them is
    /// idle.
    audiences: HashMap<ChannelId, Audience>,
    /// Those on other shards.
    attending_abroad: Abroad,
    /// Who is there on other nodes, and what they are told, if there can be any.
    elsewhere: Option<PresenceElsewhere>,
    /// Unsubscribes that the owner of the channel has not replied to. What it tells before was
    /// decided about an earlier subscription.
    unsubscribing: HashMap<(ConnectionKey, ChannelId), u32>,
    /// Who waits for channels here without a connection.
    calls: Calls,
    /// Publishes that other shards have not replied to.
    publishes_abroad: usize,
    /// Shards that hand out nothing more.
    lasts_heard: u16,
    /// Channels that may have drafts to form a batch of.
    ready: Vec<ChannelId>,
    /// Connections that were handed a reply, or something else of their own.
    urgent: Vec<Rc<Port<S>>>,
    /// Connections that were handed a message, in the order in which they are written to.
    dirty: VecDeque<Rc<Port<S>>>,
    /// The spare of what a channel decides, kept for its memory.
    effects: Vec<Effect>,
}

/// A message on its way in.
#[derive(Debug)]
pub struct Publish {
    /// The client's correlation id.
    pub id: u32,
    /// Who says it.
    pub user: UserId,
    /// The client's number for it.
    pub client_message_id: Option<ClientMessageId>,
    /// What it says.
    pub body: String,
}

impl<E: Engine, S: 'static> Shard<E, S> {
    /// A shard without connections.
    #[must_use]
    pub fn new(
        borders: Borders,
        engine: Arc<E>,
        desk: Arc<Desk<E>>,
        register: Arc<Register>,
        limits: Arc<Limits>,
        metrics: Arc<Metrics>,
    ) -> Rc<Self> {
        let elsewhere = engine.bus().map(|bus| PresenceElsewhere::new(bus, borders.id));
        Rc::new(Self {
            nodes: Nodes::new(engine.bus()),
            engine,
            desk,
            register,
            limits,
            deflater: Deflater::new(Arc::clone(&metrics)),
            metrics,
            id: borders.id,
            shards: u16::try_from(borders.neighbours.len()).expect("shards count in 16 bits"),
            state: RefCell::new(State {
                ports: Slab::new(),
                credentials: Vec::new(),
                connected: 0,
                channels: HashMap::new(),
                subscribers: HashMap::new(),
                channels_before_eviction: IDLE_CHANNELS_LOADED_MAX,
                borders,
                live_abroad: Abroad::default(),
                audiences: HashMap::new(),
                attending_abroad: Abroad::default(),
                elsewhere,
                unsubscribing: HashMap::new(),
                calls: Calls::default(),
                publishes_abroad: 0,
                lasts_heard: 0,
                ready: Vec::new(),
                urgent: Vec::new(),
                dirty: VecDeque::new(),
                effects: Vec::new(),
            }),
            turn: Notify::new(),
            room: Notify::new(),
            is_draining: Cell::new(false),
        })
    }

    /// The limits that hold here.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The names.
    #[must_use]
    pub fn directory(&self) -> &Directory<E> {
        self.desk.directory()
    }

    /// Where what concerns channels and members is done.
    #[must_use]
    pub const fn desk(&self) -> &Arc<Desk<E>> {
        &self.desk
    }

    /// Takes a connection in.
    pub fn connect(&self, format: Format, socket: S) -> Rc<Port<S>> {
        let mut state = self.state.borrow_mut();
        state.connected = state.connected.wrapping_add(1);
        let generation = state.connected;
        let place = state.ports.vacant_entry();
        let slot = u32::try_from(place.key()).expect("open files are fewer than 32 bits count");
        let outbox_bytes_max = usize::try_from(self.limits.outbox_bytes_max.as_u64());
        let port = Rc::new(Port::new(
            ConnectionKey { shard: self.id, slot, generation },
            format,
            socket,
            outbox_bytes_max.unwrap_or(usize::MAX),
        ));
        place.insert(Rc::clone(&port));
        let places = state.credentials.len().max(slot as usize + 1);
        state.credentials.resize(places, None);
        self.metrics.connections.inc();
        port
    }

    /// Lets a connection go.
    pub fn disconnect(self: &Rc<Self>, port: &Port<S>) {
        let subscriptions = mem::take(&mut *port.subscriptions.borrow_mut());
        for &channel in subscriptions.as_slice() {
            let owner = self.owner(channel);
            if owner == self.id {
                self.with_channel(channel, |channel, effects| {
                    channel.leave(port.key, effects);
                });
            } else {
                let mut state = self.state.borrow_mut();
                state.leave(channel, port.key);
                state.unattend(channel, port.key);
                drop(state);
                self.ask(owner, Ask::Gone(channel, port.key));
            }
        }
        let mut state = self.state.borrow_mut();
        state.ports.remove(port.key.slot as usize);
        state.credentials[port.key.slot as usize] = None;
        drop(state);
        self.metrics.connections.dec();
    }

    /// Publishes a message.
    pub fn publish(self: &Rc<Self>, port: &Rc<Port<S>>, publish: Publish, channel: &ChannelInfo) {
        let Publish { id, user, client_message_id, body } = publish;
        if self.is_draining.get() {
            return self.refuse(port, id, ErrorCode::Draining);
        }
        let owner = self.owner(channel.id);
        if !self.may_ask(owner) {
            return self.refuse(port, id, ErrorCode::Busy);
        }
        let ticket = port.ticket(id, Asked::Publish);
        let draft = Draft {
            user,
            client_message_id,
            digest: encode::digest(&body),
            wish: Wish::Message(Author::User(user), body.len()),
            record: encode::record(user, client_message_id, body),
            ticket,
        };
        self.metrics.publishes.inc();
        if owner != self.id {
            return self.ask(owner, Ask::Publish(channel.clone(), draft));
        }
        self.with_known_channel(channel, |channel, effects| channel.publish(draft, effects));
        self.mark_ready(channel.id);
    }

    /// Starts delivery of a channel.
    pub fn subscribe(
        self: &Rc<Self>,
        port: &Rc<Port<S>>,
        id: u32,
        user: UserId,
        channel: &ChannelInfo,
        since: Option<Position>,
        ephemeral: bool,
    ) {
        let owner = self.owner(channel.id);
        if !self.may_ask(owner) {
            return self.refuse(port, id, ErrorCode::Busy);
        }
        let mut subscriptions = port.subscriptions.borrow_mut();
        if subscriptions.as_slice().len() >= self.limits.subscriptions_per_connection_max as usize {
            return self.refuse(port, id, ErrorCode::TooMany);
        }
        if !subscriptions.insert(channel.id) {
            return self.refuse(port, id, ErrorCode::AlreadySubscribed);
        }
        drop(subscriptions);
        let ticket = port.ticket(id, Asked::Subscribe);
        let wanted = Subscribe { ticket, format: port.format, user, since, ephemeral };
        if owner != self.id {
            return self.ask(owner, Ask::Subscribe(channel.clone(), wanted));
        }
        self.with_known_channel(channel, |channel, effects| channel.subscribe(wanted, effects));
    }

    /// Ends delivery of a channel.
    pub fn unsubscribe(self: &Rc<Self>, port: &Rc<Port<S>>, id: u32, channel: ChannelId) {
        if !port.subscriptions.borrow_mut().remove(channel) {
            return self.refuse(port, id, ErrorCode::NotSubscribed);
        }
        let ticket = port.ticket(id, Asked::Unsubscribe);
        let owner = self.owner(channel);
        if owner != self.id {
            *self.state.borrow_mut().unsubscribing.entry((port.key, channel)).or_default() += 1;
            return self.ask(owner, Ask::Unsubscribe(channel, ticket));
        }
        self.with_channel(channel, |channel, effects| channel.unsubscribe(ticket, effects));
    }

    /// Reads a page of history.
    pub fn history(
        self: &Rc<Self>,
        port: &Rc<Port<S>>,
        id: u32,
        user: UserId,
        channel: &ChannelInfo,
        page: Page,
    ) {
        if port.history_reads.get() >= HISTORY_READS_PER_CONNECTION_MAX {
            return self.refuse(port, id, ErrorCode::Busy);
        }
        let owner = self.owner(channel.id);
        if !self.may_ask(owner) {
            return self.refuse(port, id, ErrorCode::Busy);
        }
        port.history_reads.update(|reads| reads + 1);
        let ticket = port.ticket(id, Asked::History);
        if owner != self.id {
            return self.ask(owner, Ask::History(channel.clone(), ticket, user, page));
        }
        self.with_known_channel(channel, |channel, effects| {
            channel.history(ticket, user, page, effects);
        });
    }

    /// Refuses a command.
    pub fn refuse(&self, port: &Rc<Port<S>>, id: u32, code: ErrorCode) {
        self.metrics.refused(code);
        self.reply(port, id, &Reply::Refused(code.into()));
    }

    /// Answers a command.
    pub fn reply(&self, port: &Rc<Port<S>>, id: u32, reply: &Reply) {
        self.send(port, self.reply_frame(port, id, reply));
    }

    /// Tells a connection something.
    pub fn tell(&self, port: &Rc<Port<S>>, control: &Control) {
        self.send(port, control_frame(port.format, control));
    }

    /// Answers a ping.
    pub fn pong(&self, port: &Rc<Port<S>>, payload: &[u8]) {
        self.send(port, frame::pong(payload));
    }

    /// Asks a connection for a sign of life.
    pub fn ping(&self, port: &Rc<Port<S>>) {
        self.send(port, frame::ping(&[]));
    }

    /// Closes a connection once its frames are out, for which its own task is woken.
    pub fn close(&self, port: &Port<S>, code: CloseCode, reason: &str) {
        if port.closing.get().is_some() {
            return;
        }
        self.begin_close(port, code);
        port.outbox.borrow_mut().push_close(Rc::new(frame::close(code.number(), reason)));
    }

    /// Closes a connection that does not take its frames: those that have not begun are dropped.
    pub fn close_slow_consumer(&self, port: &Port<S>) {
        if port.closing.get().is_none() {
            let code = CloseCode::SlowConsumer;
            self.begin_close(port, code);
            let close = frame::close(code.number(), code.name());
            port.outbox.borrow_mut().replace_with_close(Rc::new(close));
        }
    }

    /// Waits until there is something to end a turn with.
    pub async fn turn(&self) {
        self.turn.notified().await;
    }

    /// Ends the reading part of a turn: what other shards are told is sent, and every channel with
    /// drafts forms a batch.
    pub fn form_batches(self: &Rc<Self>) {
        self.send_crossings();
        if !self.has_room() {
            // The turn is rung again when there is.
            return;
        }
        let mut ready = mem::take(&mut self.state.borrow_mut().ready);
        let now_ms = clock::unix_ms();
        for id in ready.drain(..) {
            self.with_channel(id, |channel, effects| {
                if channel.is_ready_to_append() {
                    let batch = BatchId(rand::random());
                    let owner = self.nodes.owner_elsewhere(id);
                    if !owner.is_some_and(|owner| channel.forward(batch, owner, effects)) {
                        channel.next_append(batch, now_ms, effects);
                    }
                }
            });
        }
        let mut state = self.state.borrow_mut();
        if state.ready.is_empty() {
            state.ready = ready;
        }
        if state.channels.len() > state.channels_before_eviction {
            let State { channels, elsewhere, .. } = &mut *state;
            for (id, mut channel) in channels.extract_if(|_, channel| channel.is_evictable()) {
                if let Some(elsewhere) = elsewhere {
                    elsewhere.unload(id, &mut channel);
                }
            }
            state.channels_before_eviction = IDLE_CHANNELS_LOADED_MAX + 2 * state.channels.len();
        }
    }

    /// The connections to flush at once: those that were handed something of their own.
    pub fn take_urgent(&self, into: &mut Vec<Rc<Port<S>>>) {
        mem::swap(&mut self.state.borrow_mut().urgent, into);
        for port in into.iter() {
            port.is_urgent.set(false);
        }
    }

    /// The next `count` connections of the fan-out, those who have waited longest.
    pub fn take_dirty(&self, count: usize, into: &mut Vec<Rc<Port<S>>>) {
        let dirty = &mut self.state.borrow_mut().dirty;
        into.extend(dirty.drain(..count.min(dirty.len())));
        for port in into.iter() {
            port.is_dirty.set(false);
        }
    }

    /// How many connections wait for their part of a fan-out to be written.
    #[must_use]
    pub fn dirty_count(&self) -> usize {
        self.state.borrow().dirty.len()
    }

    /// Starts to drain: no more publishes are taken, and every connection is told.
    pub fn drain(&self, mut retry_after_ms: impl FnMut() -> u32) {
        self.is_draining.set(true);
        for port in self.all_ports() {
            self.tell(&port, &Control::GoingAway { retry_after_ms: retry_after_ms() });
        }
    }

    /// Closes so many connections, and tells each before when to come back: to another node.
    pub fn send_away(&self, count: usize, mut retry_after_ms: impl FnMut() -> u32) {
        let ports = self.all_ports().into_iter().filter(|port| port.closing().is_none());
        for port in ports.take(count) {
            self.tell(&port, &Control::GoingAway { retry_after_ms: retry_after_ms() });
            self.close(&port, CloseCode::GoingAway, CloseCode::GoingAway.name());
        }
    }

    /// Whether it has started to drain.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.is_draining.get()
    }

    /// Whether every publish is committed or refused that a channel or a connection here has taken
    /// in.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let state = self.state.borrow();
        state.publishes_abroad == 0 && state.channels.values().all(Channel::is_idle)
    }

    /// How many connections there are.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.state.borrow().ports.len()
    }

    /// Closes every connection.
    pub fn close_all(&self, code: CloseCode) {
        for port in self.all_ports() {
            self.close(&port, code, code.name());
        }
    }

    fn all_ports(&self) -> Vec<Rc<Port<S>>> {
        self.state.borrow().ports.iter().map(|(_, port)| Rc::clone(port)).collect()
    }

    /// Marks a channel that may have drafts to form a batch of.
    fn mark_ready(&self, channel: ChannelId) {
        let mut state = self.state.borrow_mut();
        if state.ready.last() != Some(&channel) {
            state.ready.push(channel);
        }
        self.turn.notify_one();
    }

    /// Puts a frame into an outbox; a full one makes its connection a slow consumer.
    fn push(&self, port: &Port<S>, frame: Frame) {
        let full = port.outbox.borrow_mut().push(frame).is_err();
        if full {
            self.close_slow_consumer(port);
        }
    }

    /// The same for a frame that is this connection's own: it is not to wait for a fan-out.
    fn push_own(&self, urgent: &mut Vec<Rc<Port<S>>>, port: &Rc<Port<S>>, frame: Bytes) {
        self.push(port, Rc::new(frame));
        if !port.is_urgent.replace(true) {
            urgent.push(Rc::clone(port));
            self.turn.notify_one();
        }
    }

    fn send(&self, port: &Rc<Port<S>>, frame: Bytes) {
        self.push_own(&mut self.state.borrow_mut().urgent, port, frame);
    }

    fn reply_frame(&self, port: &Port<S>, id: u32, reply: &Reply) -> Bytes {
        let twin = |plain: &[u8]| self.deflater.twin(Compressed::Page, plain);
        self.deflater.count(reply_frame(port.format, id, reply, twin))
    }

    fn begin_close(&self, port: &Port<S>, code: CloseCode) {
        port.closing.set(Some(code));
        self.metrics.closed(code);
        port.wake.notify_one();
    }
}

#[cfg(test)]
mod tests;
