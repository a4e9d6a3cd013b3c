//! What a defective server would do to the frames of its clients. Pure, but for the outboxes that
//! it puts frames into.

use std::collections::{HashMap, HashSet};

use hubbub::wire::proto::{
    ClientEnvelope, Messages, Publish, Published, Record, Reply, ServerEnvelope, Unsubscribe,
    client_envelope::Command, publish, published::Durability, record, reply,
    server_envelope::Envelope,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{Bytes, Message as Frame};

/// What a proxy does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Defect {
    /// Nothing: the control.
    None,
    /// Leaves out one in ten thousand deliveries.
    Drop,
    /// Sends a delivery twice.
    Duplicate,
    /// Exchanges two consecutive deliveries of one client.
    Swap,
    /// Tells subscribers of a message before the server has it.
    BeforeCommit,
    /// Acknowledges a publish that it does not pass on.
    Forget,
    /// Sends a channel's messages to somebody who is not subscribed to it.
    Leak,
}

impl Defect {
    /// Whether it is one of what clients send, and not of what they get.
    const fn is_of_publishes(self) -> bool {
        matches!(self, Self::BeforeCommit | Self::Forget)
    }
}

/// Of the deliveries, one in so many is left out.
const DROP_EVERY: u64 = 10_000;
/// One in so many deliveries is sent twice, exchanged or leaked.
const DELIVERIES_BETWEEN: u64 = 500;
/// One in so many publishes is told early, or forgotten. Few enough that those behind it, which are
/// held back, do not pile up.
const PUBLISHES_BETWEEN: u64 = 100;

/// Which way a client's frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Passage {
    /// On to the server.
    Pass,
    /// On to the server, after whoever is before it.
    InTurn,
    /// Told to the subscribers first, and then on to the server.
    ToldEarly,
    /// Nowhere: it has been answered.
    Answered,
}

/// The proxy's picture of its clients and their channels.
#[derive(Debug)]
pub(crate) struct Meddler {
    defect: Defect,
    pub(crate) deeds: u64,
    clients: Vec<Client>,
    channels: HashMap<u32, Channel>,
    numbers: HashMap<String, u32>,
    deliveries: u64,
    publishes: u64,
    /// A deed is due, and waits for an occasion.
    is_due: bool,
}

#[derive(Debug)]
struct Client {
    /// `None`: its connection has ended.
    outbox: Option<mpsc::Sender<Frame>>,
    user_id: u32,
    subscriptions: HashSet<u32>,
    /// What comes after the next delivery of the same channel.
    held: Option<(u32, Bytes)>,
    /// What it was told early, by channel and sequence.
    told: HashSet<(u32, u64)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Channel {
    epoch: u32,
    head: u64,
    timestamp_ms: u64,
}

impl Meddler {
    pub(crate) fn new(defect: Defect) -> Self {
        Self {
            defect,
            deeds: 0,
            clients: Vec::new(),
            channels: HashMap::new(),
            numbers: HashMap::new(),
            deliveries: 0,
            publishes: 0,
            is_due: false,
        }
    }

    /// A client has a connection; answers its number.
    pub(crate) fn connected(&mut self, outbox: mpsc::Sender<Frame>) -> usize {
        self.clients.push(Client {
            outbox: Some(outbox),
            user_id: 0,
            subscriptions: HashSet::new(),
            held: None,
            told: HashSet::new(),
        });
        self.clients.len() - 1
    }

    pub(crate) fn ended(&mut self, client: usize) {
        let client = &mut self.clients[client];
        client.outbox = None;
        client.subscriptions.clear();
    }

    /// The newest sequence of which the server has told.
    pub(crate) fn head(&self, channel: u32) -> u64 {
        self.channels.get(&channel).map_or(0, |channel| channel.head)
    }

    /// What a client sends.
    pub(crate) fn client_sends(&mut self, client: usize, bytes: &[u8]) -> Passage {
        let envelope = ClientEnvelope::decode(bytes).unwrap();
        match envelope.command {
            Some(Command::Unsubscribe(Unsubscribe { channel_id })) => {
                self.clients[client].subscriptions.remove(&channel_id);
                Passage::Pass
            }
            Some(Command::Publish(publish)) => {
                self.publishes += 1;
                self.is_due |= self.defect.is_of_publishes()
                    && self.publishes.is_multiple_of(PUBLISHES_BETWEEN);
                match self.defect {
                    Defect::BeforeCommit if std::mem::take(&mut self.is_due) => Passage::ToldEarly,
                    Defect::BeforeCommit => Passage::InTurn,
                    Defect::Forget if self.is_due => self.forget(client, envelope.id, &publish),
                    _ => Passage::Pass,
                }
            }
            _ => Passage::Pass,
        }
    }

    /// What the server sends to a client, and what the client gets instead.
    pub(crate) fn server_sends(&mut self, client: usize, bytes: Bytes) -> Vec<Frame> {
        let envelope = ServerEnvelope::decode(bytes.clone()).unwrap();
        match envelope.envelope {
            Some(Envelope::Welcome(welcome)) => self.clients[client].user_id = welcome.user_id,
            Some(Envelope::Reply(reply)) => self.learn(client, reply.result),
            Some(Envelope::Messages(messages)) => {
                let head = messages.first_sequence + messages.records.len() as u64 - 1;
                let channel = self.channels.entry(messages.channel_id).or_default();
                channel.head = channel.head.max(head);
                channel.timestamp_ms = messages.timestamp_ms;
                return self.meddle(client, bytes, messages);
            }
            _ => {}
        }
        vec![Frame::Binary(bytes)]
    }

    fn learn(&mut self, client: usize, result: Option<reply::Result>) {
        match result {
            Some(reply::Result::Subscribed(subscribed)) => {
                self.clients[client].subscriptions.insert(subscribed.channel_id);
                self.numbers.insert(subscribed.channel_name, subscribed.channel_id);
                let channel = self.channels.entry(subscribed.channel_id).or_default();
                channel.epoch = subscribed.epoch;
                channel.head = channel.head.max(subscribed.head_sequence);
            }
            Some(reply::Result::Published(published)) => {
                let channel = self.channels.entry(published.channel_id).or_default();
                channel.head = channel.head.max(published.sequence);
            }
            _ => {}
        }
    }

    /// Deliveries to one client.
    fn meddle(&mut self, client: usize, bytes: Bytes, messages: Messages) -> Vec<Frame> {
        let channel_id = messages.channel_id;
        let before = self.deliveries;
        self.deliveries += messages.records.len() as u64;
        let is_beyond = |every: u64| self.deliveries / every > before / every;
        let drops_at = is_beyond(DROP_EVERY).then(|| DROP_EVERY - before % DROP_EVERY - 1);
        self.is_due |= !self.defect.is_of_publishes() && is_beyond(DELIVERIES_BETWEEN);
        let whole = Frame::Binary(bytes.clone());
        match (self.defect, drops_at) {
            (Defect::Drop, Some(at)) => {
                self.deeds += 1;
                let dropped = messages.first_sequence + at;
                without(messages, |sequence| sequence == dropped)
            }
            (Defect::Duplicate, _) if std::mem::take(&mut self.is_due) => {
                self.deeds += 1;
                vec![whole.clone(), whole]
            }
            (Defect::Swap, _) => {
                match self.clients[client].held.take() {
                    Some((held, earlier)) if held == channel_id => {
                        self.deeds += 1;
                        return vec![whole, Frame::Binary(earlier)];
                    }
                    other => self.clients[client].held = other,
                }
                if std::mem::take(&mut self.is_due) {
                    self.clients[client].held = Some((channel_id, bytes));
                    return Vec::new();
                }
                vec![whole]
            }
            (Defect::BeforeCommit, _) if !self.clients[client].told.is_empty() => {
                let told = &mut self.clients[client].told;
                without(messages, |sequence| told.remove(&(channel_id, sequence)))
            }
            (Defect::Leak, _) if self.is_due => {
                self.leak(channel_id, &whole);
                vec![whole]
            }
            _ => vec![whole],
        }
    }

    /// To somebody who is subscribed, only not to this.
    fn leak(&mut self, channel_id: u32, frame: &Frame) {
        let stranger = self.clients.iter().find(|client| {
            !client.subscriptions.is_empty() && !client.subscriptions.contains(&channel_id)
        });
        if let Some(outbox) = stranger.and_then(|client| client.outbox.as_ref()) {
            outbox.try_send(frame.clone()).unwrap();
            self.deeds += 1;
            self.is_due = false;
        }
    }

    /// Acknowledges what it keeps from the server.
    fn forget(&mut self, client: usize, id: u32, publish: &Publish) -> Passage {
        let Some(channel_id) = self.number(publish) else { return Passage::Pass };
        let channel = self.channels.entry(channel_id).or_default();
        let published = Published {
            channel_id,
            epoch: channel.epoch,
            sequence: channel.head + 1,
            timestamp_ms: channel.timestamp_ms,
            durability: Durability::Fsynced.into(),
        };
        let result = Some(reply::Result::Published(published));
        let frame = frame(Envelope::Reply(Reply { id, result }));
        self.clients[client].outbox.as_ref().unwrap().try_send(frame).unwrap();
        self.deeds += 1;
        self.is_due = false;
        Passage::Answered
    }

    /// Tells the subscribers of a publish, at the sequence that it is going to have, and keeps the
    /// real event from them. Answers the channel and the sequence.
    pub(crate) fn tell_early(&mut self, client: usize, bytes: &[u8]) -> Option<(u32, u64)> {
        let Some(Command::Publish(publish)) = ClientEnvelope::decode(bytes).unwrap().command else {
            return None;
        };
        let channel_id = self.number(&publish)?;
        let channel = self.channels.get(&channel_id).copied().unwrap_or_default();
        let sequence = channel.head + 1;
        let record = Record {
            user_id: self.clients[client].user_id,
            client_message_id: publish.client_message_id,
            content: Some(record::Content::Body(publish.body)),
            written_at_ms: 0,
        };
        let (timestamp_ms, records) = (channel.timestamp_ms, vec![record]);
        let event = Messages { channel_id, first_sequence: sequence, timestamp_ms, records };
        let event = frame(Envelope::Messages(event));
        for client in &mut self.clients {
            if let Some(outbox) = &client.outbox
                && client.subscriptions.contains(&channel_id)
            {
                outbox.try_send(event.clone()).unwrap();
                client.told.insert((channel_id, sequence));
            }
        }
        self.deeds += 1;
        Some((channel_id, sequence))
    }

    fn number(&self, publish: &Publish) -> Option<u32> {
        match publish.channel.as_ref()? {
            publish::Channel::ChannelId(channel_id) => Some(*channel_id),
            publish::Channel::ChannelName(name) => self.numbers.get(name).copied(),
        }
    }
}

fn frame(envelope: Envelope) -> Frame {
    Frame::Binary(ServerEnvelope { envelope: Some(envelope) }.encode_to_vec().into())
}

/// The run without some of its messages: as one or more runs.
fn without(messages: Messages, mut is_left_out: impl FnMut(u64) -> bool) -> Vec<Frame> {
    let Messages { channel_id, first_sequence, timestamp_ms, records } = messages;
    let mut runs: Vec<Messages> = Vec::new();
    let mut is_new_run = true;
    for (sequence, record) in (first_sequence..).zip(records) {
        if is_left_out(sequence) {
            is_new_run = true;
            continue;
        }
        if is_new_run {
            let records = Vec::new();
            runs.push(Messages { channel_id, first_sequence: sequence, timestamp_ms, records });
            is_new_run = false;
        }
        runs.last_mut().expect("one was just begun").records.push(record);
    }
    runs.into_iter().map(|run| frame(Envelope::Messages(run))).collect()
}
