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
    collections::{HashMap, HashSet},
    mem,
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use slab::Slab;
use tokio::{sync::Notify, task::spawn_local};

use super::{
    ConnectionKey, Format, Ticket,
    channel::{Channel, Effect, Purpose},
    deflater::Deflater,
    directory::{ChannelInfo, Directory},
    fanout::{Deflated, Delivery, SharedFrames, Subscriber, control_frame, reply_frame},
    outbox::{Frame, Outbox},
    sequencer::Draft,
};
use crate::{
    clock,
    engine::{Append, AppendError, Engine, ReadError, ReadFrom},
    limits::{HISTORY_READS_PER_CONNECTION_MAX, IDLE_CHANNELS_LOADED_MAX, Limits, RECOVERY_PAUSE},
    log::{
        batch::Entry,
        place::{BatchId, ChannelId, ClientMessageId, Cursor, Position, UserId},
    },
    metrics::{Compressed, Metrics},
    websocket::frame,
    wire::{
        Encoding,
        code::{CloseCode, ErrorCode},
        decode::Page,
        encode::{self, Control, Reply},
    },
};

/// One thread of the hub. Lives and is used on that thread only.
#[derive(Debug)]
pub struct Shard<E, S> {
    engine: Arc<E>,
    directory: Arc<Directory<E>>,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    deflater: Deflater,
    state: RefCell<State<S>>,
    /// Rung when a turn has something to end with.
    turn: Notify,
    is_draining: Cell<bool>,
}

#[derive(Debug)]
struct State<S> {
    ports: Slab<Rc<Port<S>>>,
    connected: u32,
    channels: HashMap<ChannelId, Channel>,
    /// Beyond this number the idle channels are let go.
    channels_before_eviction: usize,
    /// Channels that may have drafts to form a batch of.
    ready: Vec<ChannelId>,
    /// Connections with something in the outbox that was not there before.
    dirty: Vec<Rc<Port<S>>>,
    /// The spare of what a channel decides, kept for its memory.
    effects: Vec<Effect>,
}

/// The shard's end of one connection: where its frames wait.
#[derive(Debug)]
pub struct Port<S> {
    key: ConnectionKey,
    format: Format,
    /// What the frames are written to.
    pub socket: S,
    /// The frames.
    pub outbox: RefCell<Outbox>,
    /// The socket took less than was written last time.
    pub is_blocked: Cell<bool>,
    /// Rung when the connection's task must look: at a blocked outbox, or at a close.
    pub wake: Notify,
    is_dirty: Cell<bool>,
    closing: Cell<Option<CloseCode>>,
    subscriptions: RefCell<HashSet<ChannelId>>,
    history_reads: Cell<u8>,
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

impl<S> Port<S> {
    /// Why this connection is being closed, if it is.
    pub const fn closing(&self) -> Option<CloseCode> {
        self.closing.get()
    }

    /// How its envelopes are written.
    pub const fn encoding(&self) -> Encoding {
        self.format.encoding
    }
}

impl<E: Engine, S: 'static> Shard<E, S> {
    /// A shard without connections.
    #[must_use]
    pub fn new(
        engine: Arc<E>,
        directory: Arc<Directory<E>>,
        limits: Arc<Limits>,
        metrics: Arc<Metrics>,
    ) -> Rc<Self> {
        Rc::new(Self {
            engine,
            directory,
            limits,
            deflater: Deflater::new(Arc::clone(&metrics)),
            metrics,
            state: RefCell::new(State {
                ports: Slab::new(),
                connected: 0,
                channels: HashMap::new(),
                channels_before_eviction: IDLE_CHANNELS_LOADED_MAX,
                ready: Vec::new(),
                dirty: Vec::new(),
                effects: Vec::new(),
            }),
            turn: Notify::new(),
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
        &self.directory
    }

    /// Takes a connection in.
    pub fn connect(&self, format: Format, socket: S) -> Rc<Port<S>> {
        let mut state = self.state.borrow_mut();
        state.connected = state.connected.wrapping_add(1);
        let generation = state.connected;
        let place = state.ports.vacant_entry();
        let slot = u32::try_from(place.key()).expect("open files are fewer than 32 bits count");
        let outbox_bytes_max = usize::try_from(self.limits.outbox_bytes_max.as_u64());
        let port = Rc::new(Port {
            key: ConnectionKey { slot, generation },
            format,
            socket,
            outbox: RefCell::new(Outbox::new(outbox_bytes_max.unwrap_or(usize::MAX))),
            is_blocked: Cell::new(false),
            wake: Notify::new(),
            is_dirty: Cell::new(false),
            closing: Cell::new(None),
            subscriptions: RefCell::new(HashSet::new()),
            history_reads: Cell::new(0),
        });
        place.insert(Rc::clone(&port));
        self.metrics.connections.inc();
        port
    }

    /// Lets a connection go.
    pub fn disconnect(self: &Rc<Self>, port: &Port<S>) {
        for channel in mem::take(&mut *port.subscriptions.borrow_mut()) {
            self.with_channel(channel, |channel, effects| channel.unsubscribe(port.key, effects));
        }
        self.state.borrow_mut().ports.remove(port.key.slot as usize);
        self.metrics.connections.dec();
    }

    /// Publishes a message.
    pub fn publish(self: &Rc<Self>, port: &Rc<Port<S>>, publish: Publish, channel: &ChannelInfo) {
        let Publish { id, user, client_message_id, body } = publish;
        if self.is_draining.get() {
            return self.refuse(port, id, ErrorCode::Draining);
        }
        let draft = Draft {
            user,
            client_message_id,
            digest: encode::digest(&body),
            record: encode::record(user, client_message_id, body),
            ticket: Ticket { connection: port.key, id },
        };
        self.metrics.publishes.inc();
        self.with_known_channel(channel, |channel, effects| channel.publish(draft, effects));
        self.mark_ready(channel.id);
    }

    /// Starts delivery of a channel.
    pub fn subscribe(
        self: &Rc<Self>,
        port: &Rc<Port<S>>,
        id: u32,
        channel: &ChannelInfo,
        since: Option<Position>,
    ) {
        let mut subscriptions = port.subscriptions.borrow_mut();
        if subscriptions.len() >= self.limits.subscriptions_per_connection_max as usize {
            return self.refuse(port, id, ErrorCode::TooMany);
        }
        if !subscriptions.insert(channel.id) {
            return self.refuse(port, id, ErrorCode::AlreadySubscribed);
        }
        drop(subscriptions);
        let ticket = Ticket { connection: port.key, id };
        self.with_known_channel(channel, |channel, effects| {
            channel.subscribe(ticket, port.format, since, effects);
        });
    }

    /// Ends delivery of a channel.
    pub fn unsubscribe(self: &Rc<Self>, port: &Rc<Port<S>>, id: u32, channel: ChannelId) {
        if !port.subscriptions.borrow_mut().remove(&channel) {
            return self.refuse(port, id, ErrorCode::NotSubscribed);
        }
        self.with_channel(channel, |channel, effects| channel.unsubscribe(port.key, effects));
        self.reply(port, id, &Reply::Unsubscribed(channel));
    }

    /// Reads a page of history.
    pub fn history(
        self: &Rc<Self>,
        port: &Rc<Port<S>>,
        id: u32,
        channel: &ChannelInfo,
        page: Page,
    ) {
        if port.history_reads.get() >= HISTORY_READS_PER_CONNECTION_MAX {
            return self.refuse(port, id, ErrorCode::Busy);
        }
        let ticket = Ticket { connection: port.key, id };
        self.with_known_channel(channel, |channel, effects| channel.history(ticket, page, effects));
    }

    /// Refuses a command.
    pub fn refuse(&self, port: &Rc<Port<S>>, id: u32, code: ErrorCode) {
        self.metrics.refused(code);
        self.reply(port, id, &Reply::Refused(code.into()));
    }

    /// Answers a command.
    pub fn reply(&self, port: &Rc<Port<S>>, id: u32, reply: &Reply) {
        self.push_own(port, self.reply_frame(port, id, reply));
    }

    /// Tells a connection something.
    pub fn tell(&self, port: &Rc<Port<S>>, control: &Control) {
        self.push_own(port, control_frame(port.format, control));
    }

    /// Answers a ping.
    pub fn pong(&self, port: &Rc<Port<S>>, payload: &[u8]) {
        self.push_own(port, frame::pong(payload));
    }

    /// Asks a connection for a sign of life.
    pub fn ping(&self, port: &Rc<Port<S>>) {
        self.push_own(port, frame::ping(&[]));
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

    /// Ends the reading part of a turn: every channel with drafts forms a batch.
    pub fn form_batches(self: &Rc<Self>) {
        let mut ready = mem::take(&mut self.state.borrow_mut().ready);
        let now_ms = clock::unix_ms();
        for id in ready.drain(..) {
            self.with_channel(id, |channel, effects| {
                if channel.is_ready_to_append() {
                    channel.next_append(BatchId(rand::random()), now_ms, effects);
                }
            });
        }
        let mut state = self.state.borrow_mut();
        if state.ready.is_empty() {
            state.ready = ready;
        }
        if state.channels.len() > state.channels_before_eviction {
            state.channels.retain(|_, channel| !channel.is_evictable());
            state.channels_before_eviction = IDLE_CHANNELS_LOADED_MAX + 2 * state.channels.len();
        }
    }

    /// The connections to flush, of which each is in the list once.
    pub fn take_dirty(&self, into: &mut Vec<Rc<Port<S>>>) {
        mem::swap(&mut self.state.borrow_mut().dirty, into);
        for port in into.iter() {
            port.is_dirty.set(false);
        }
    }

    /// Starts to drain: no more publishes are taken, and every connection is told.
    pub fn drain(&self, mut retry_after_ms: impl FnMut() -> u32) {
        self.is_draining.set(true);
        for port in self.all_ports() {
            self.tell(&port, &Control::GoingAway { retry_after_ms: retry_after_ms() });
        }
    }

    /// Whether it has started to drain.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.is_draining.get()
    }

    /// Whether every accepted publish is committed or refused.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.state.borrow().channels.values().all(Channel::is_idle)
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

    fn with_known_channel(
        self: &Rc<Self>,
        info: &ChannelInfo,
        act: impl FnOnce(&mut Channel, &mut Vec<Effect>),
    ) {
        self.state.borrow_mut().channels.entry(info.id).or_insert_with(|| {
            Channel::new(info.id, Arc::clone(&info.name), info.epoch, self.engine.caps())
        });
        self.with_channel(info.id, act);
    }

    /// Lets a channel decide, and performs what it decides.
    fn with_channel(
        self: &Rc<Self>,
        id: ChannelId,
        act: impl FnOnce(&mut Channel, &mut Vec<Effect>),
    ) {
        let mut state = self.state.borrow_mut();
        let mut effects = mem::take(&mut state.effects);
        if let Some(channel) = state.channels.get_mut(&id) {
            act(channel, &mut effects);
            for effect in effects.drain(..) {
                self.perform(&mut state, id, effect);
            }
        }
        state.effects = effects;
    }

    fn perform(self: &Rc<Self>, state: &mut State<S>, channel: ChannelId, effect: Effect) {
        match effect {
            Effect::FanOut(delivery, count) => self.fan_out(state, &delivery, count),
            Effect::Reply(ticket, reply) => {
                if let Some(port) = find(state, ticket.connection) {
                    if let Reply::Refused(refusal) = &reply {
                        self.metrics.refused(refusal.code);
                    }
                    let frame = self.reply_frame(&port, ticket.id, &reply);
                    self.push(&mut state.dirty, &port, Rc::new(frame));
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
                    self.push(&mut state.dirty, &port, Rc::new(frame));
                }
            }
            Effect::Tell(connection, control) => {
                if let Some(port) = find(state, connection) {
                    let frame = control_frame(port.format, &control);
                    self.push(&mut state.dirty, &port, Rc::new(frame));
                }
            }
            Effect::Ended(connection) => {
                if let Some(port) = find(state, connection) {
                    port.subscriptions.borrow_mut().remove(&channel);
                }
            }
            Effect::Sealed => {
                tracing::error!(channel = channel.0, "the channel's log is damaged: it is sealed");
                self.metrics.channels_sealed.inc();
            }
            Effect::Read(from, purpose) => self.read(state, channel, from, purpose),
            Effect::RecoverLater => {
                let shard = Rc::clone(self);
                spawn_local(async move {
                    tokio::time::sleep(RECOVERY_PAUSE).await;
                    shard.with_channel(channel, Channel::recover);
                });
            }
        }
    }

    fn fan_out(&self, state: &mut State<S>, delivery: &Delivery, count: usize) {
        let State { ports, channels, dirty, .. } = state;
        let Some(channel) = channels.get(&delivery.channel) else { return };
        let mut frames = SharedFrames::default();
        for &Subscriber { connection, format } in channel.subscribers().iter().take(count) {
            if let Some(port) = ports.get(connection.slot as usize)
                && port.key == connection
            {
                let twin = |plain: &[u8]| self.deflater.twin(Compressed::Batch, plain);
                self.push(dirty, port, frames.of(delivery, format, twin));
            }
        }
        let Deflated { frames, saved_bytes } = frames.deflated();
        if frames > 0 {
            self.metrics.sent_deflated(frames, saved_bytes);
        }
        self.metrics.fanned_out(u64::from(delivery.batch.count), count as u64);
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

    fn read(
        self: &Rc<Self>,
        state: &mut State<S>,
        channel: ChannelId,
        from: ReadFrom,
        purpose: Purpose,
    ) {
        let reader = match purpose {
            Purpose::History(ticket, _) => find(state, ticket.connection),
            Purpose::Load | Purpose::CatchUp | Purpose::Replay(_) => None,
        };
        if let Some(port) = &reader {
            port.history_reads.update(|reads| reads + 1);
        }
        let shard = Rc::clone(self);
        let answer = self.engine.read(channel, from, purpose.bytes_max());
        spawn_local(async move {
            let answer: Result<Vec<Entry>, ReadError> = answer.await;
            if let Some(port) = reader {
                port.history_reads.update(|reads| reads - 1);
            }
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

    /// Marks a channel that may have drafts to form a batch of.
    fn mark_ready(&self, channel: ChannelId) {
        let mut state = self.state.borrow_mut();
        if state.ready.last() != Some(&channel) {
            state.ready.push(channel);
        }
        self.turn.notify_one();
    }

    /// Puts a frame into an outbox; a full one makes its connection a slow consumer.
    fn push(&self, dirty: &mut Vec<Rc<Port<S>>>, port: &Rc<Port<S>>, frame: Frame) {
        let full = port.outbox.borrow_mut().push(frame).is_err();
        if full && port.closing.get().is_none() {
            self.begin_close(port, CloseCode::SlowConsumer);
            let code = CloseCode::SlowConsumer;
            let close = frame::close(code.number(), code.name());
            port.outbox.borrow_mut().replace_with_close(Rc::new(close));
        }
        if !port.is_dirty.replace(true) {
            dirty.push(Rc::clone(port));
            self.turn.notify_one();
        }
    }

    fn reply_frame(&self, port: &Port<S>, id: u32, reply: &Reply) -> Bytes {
        let twin = |plain: &[u8]| self.deflater.twin(Compressed::Page, plain);
        self.deflater.count(reply_frame(port.format, id, reply, twin))
    }

    fn push_own(&self, port: &Rc<Port<S>>, frame: Bytes) {
        self.push(&mut self.state.borrow_mut().dirty, port, Rc::new(frame));
    }

    fn begin_close(&self, port: &Port<S>, code: CloseCode) {
        port.closing.set(Some(code));
        self.metrics.closed(code);
        port.wake.notify_one();
    }
}

fn find<S>(state: &State<S>, connection: ConnectionKey) -> Option<Rc<Port<S>>> {
    let port = state.ports.get(connection.slot as usize)?;
    (port.key == connection).then(|| Rc::clone(port))
}
