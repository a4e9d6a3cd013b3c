//! One seeded history: two nodes with a channel each on one log, clients that come and go, and the
//! oracle that watches what they are told.

use std::{collections::HashMap, sync::Arc};

use hubbub::{
    engine::{
        Append, AppendError, Caps, ReadError, ReadFrom, ReadMax, Refusal,
        memory::{Fault, MemoryLog},
    },
    hub::{
        Asked, ConnectionKey, Format, ShardId, Ticket,
        channel::{Channel, Effect, Purpose, Subscribe},
        directory::ChannelInfo,
        fanout::{Delivery, Subscriber},
        rights::Author,
        sequencer::{Draft, Wish},
    },
    log::{
        batch::Entry,
        place::{
            BatchId, ChannelId, ClientMessageId, Cursor, Durability, Epoch, Head, Position,
            Sequence, UserId,
        },
        settings::Access,
    },
    wire::{
        Encoding,
        code::ErrorCode,
        encode::{self, Control, Reply},
    },
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

const CHANNEL: ChannelId = ChannelId(1);
const EPOCH: Epoch = Epoch(1_700_000_000);
const NODES: usize = 2;
const CLIENTS: usize = 6;
/// Bytes that one read answers: a few small batches.
const READ_BYTES: usize = 200;

/// A mistake made on purpose, to see that the oracle sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Defect {
    /// None.
    None,
    /// A delivery is dropped on its way to a client.
    LosesDelivery,
    /// A delivery is handed out twice.
    RepeatsDelivery,
    /// A failed append is answered as if it had been committed.
    AcknowledgesUncommitted,
    /// The engine forgets which keys are taken.
    ForgetsKeys,
    /// The answer to an append is believed although a fork is possible.
    TrustsFork,
}

/// All there is.
pub(crate) struct World {
    rng: StdRng,
    defect: Defect,
    log: MemoryLog,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    publishes: Vec<Publish>,
    /// Appends whose answer was `Unknown` and which may yet reach the log.
    late: Vec<Append>,
    now_ms: u64,
    generations: u32,
    next_batch: u128,
    is_settling: bool,
}

struct Node {
    channel: Channel,
    /// Those who have joined and not left.
    live: Vec<Subscriber>,
    under_way: Vec<UnderWay>,
    /// How much of the log's feed has reached this node.
    fed: usize,
}

enum UnderWay {
    Append(Append),
    Read(ReadFrom, Purpose),
    Recover,
}

struct Client {
    node: usize,
    connection: ConnectionKey,
    subscription: Subscription,
    /// The last sequence that it was handed or told of, once it has been subscribed.
    position: Option<Sequence>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Subscription {
    None,
    Asked(u32),
    Live,
}

struct Publish {
    client: usize,
    key: ClientMessageId,
    body: String,
    ticket: Option<(ConnectionKey, u32)>,
    acknowledged: Option<Sequence>,
}

type Checked = Result<(), String>;

impl World {
    pub(crate) fn new(seed: u64, defect: Defect) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let junk_possible = defect == Defect::TrustsFork || rng.random_bool(0.5);
        let log = MemoryLog::new(Caps { durability: Durability::Quorum, junk_possible });
        let mut world = Self {
            rng,
            defect,
            log,
            nodes: Vec::new(),
            clients: Vec::new(),
            publishes: Vec::new(),
            late: Vec::new(),
            now_ms: 1,
            generations: 0,
            next_batch: 1,
            is_settling: false,
        };
        for _ in 0..NODES {
            let node = world.fresh_node();
            world.nodes.push(node);
        }
        for _ in 0..CLIENTS {
            let connection = world.connection(world.clients.len());
            let node = world.rng.random_range(0..NODES);
            world.clients.push(Client {
                node,
                connection,
                subscription: Subscription::None,
                position: None,
            });
        }
        world
    }

    fn fresh_node(&self) -> Node {
        let mut caps = self.log.caps();
        if self.defect == Defect::TrustsFork {
            caps.junk_possible = false;
        }
        Node {
            channel: Channel::new(&info(), caps, 3),
            live: Vec::new(),
            under_way: Vec::new(),
            fed: self.log.placed().len(),
        }
    }

    fn connection(&mut self, slot: usize) -> ConnectionKey {
        self.generations += 1;
        ConnectionKey {
            shard: ShardId(0),
            slot: u32::try_from(slot).unwrap(),
            generation: self.generations,
        }
    }

    /// Does one thing, whichever the seed says.
    pub(crate) fn step(&mut self) -> Checked {
        self.now_ms += 1;
        let node = self.rng.random_range(0..NODES);
        let client = self.rng.random_range(0..CLIENTS);
        match self.rng.random_range(0..100) {
            0..20 => self.publish(client),
            20..25 => self.retry(),
            25..33 => self.subscribe(client),
            33..36 => self.leave(client),
            36..55 => self.turn(node),
            55..85 => self.complete(node),
            85..97 => self.feed(node),
            97..98 => self.land_late(),
            98..99 if self.rng.random_bool(0.3) => self.restart(node),
            _ => Ok(()),
        }
    }

    /// Lets everything finish, and looks whether all is as it must be.
    pub(crate) fn settle(&mut self) -> Checked {
        self.is_settling = true;
        for _ in 0..10_000 {
            if self.late.pop().is_some() {
                continue;
            }
            for client in 0..CLIENTS {
                if self.clients[client].subscription == Subscription::None {
                    self.subscribe(client)?;
                }
            }
            for node in 0..NODES {
                self.act(node, |channel, effects| channel.catch_up(effects))?;
                self.complete_all(node)?;
                self.turn(node)?;
                self.complete_all(node)?;
            }
            let unanswered: Vec<usize> = (0..self.publishes.len())
                .filter(|&index| self.publishes[index].acknowledged.is_none())
                .collect();
            let settled = self.clients.iter().all(|client| client.position == Some(self.end()));
            if unanswered.is_empty() && settled && self.nodes.iter().all(|it| it.channel.is_idle())
            {
                return self.check_log();
            }
            for index in unanswered {
                let publish = &self.publishes[index];
                let connection = self.clients[publish.client].connection;
                if publish.ticket.is_none_or(|(asked, _)| asked != connection) {
                    self.send(index)?;
                }
            }
        }
        let positions: Vec<_> = self.clients.iter().map(|client| client.position).collect();
        let unanswered = self.publishes.iter().filter(|it| it.acknowledged.is_none());
        let unanswered: Vec<_> = unanswered.map(|it| (&it.body, it.ticket)).collect();
        let channels: Vec<_> = self.nodes.iter().map(|node| &node.channel).collect();
        let end = self.end();
        Err(format!("never settles: end {end:?}, {positions:?}, {unanswered:?}, {channels:#?}"))
    }

    fn end(&self) -> Sequence {
        self.valid().last().map_or(Sequence::ZERO, |entry| entry.batch.last_sequence())
    }

    /// The entries that extend the chain: what everybody must agree on.
    fn valid(&self) -> Vec<&Entry> {
        let mut head = Head::empty(EPOCH);
        let mut valid = Vec::new();
        for entry in self.log.entries(CHANNEL) {
            if entry.batch.extends(&head) {
                head = entry.batch.head(entry.at);
                valid.push(entry);
            }
        }
        valid
    }

    fn check_log(&self) -> Checked {
        let mut bodies = HashMap::new();
        let mut next = Sequence(1);
        for entry in self.valid() {
            ensure(entry.batch.first_sequence == next, || format!("a hole before {next:?}"))?;
            for record in entry.batch.records() {
                bodies.insert(record.map_err(|error| error.to_string())?.to_vec(), next);
                next = next.next();
            }
        }
        ensure(bodies.len() as u64 + 1 == next.0, || "a message is in the log twice".into())?;
        for publish in &self.publishes {
            let found = bodies.get(&*record(publish)).copied();
            ensure(found == publish.acknowledged, || {
                format!(
                    "{:?} acknowledged at {:?}, found at {found:?}",
                    publish.body, publish.acknowledged
                )
            })?;
        }
        Ok(())
    }

    fn publish(&mut self, client: usize) -> Checked {
        let number = self.publishes.len() as u64 + 1;
        self.publishes.push(Publish {
            client,
            key: ClientMessageId(number),
            body: format!("message {number}"),
            ticket: None,
            acknowledged: None,
        });
        self.send(self.publishes.len() - 1)
    }

    /// Sends a publish again, answered or not.
    fn retry(&mut self) -> Checked {
        if self.publishes.is_empty() {
            return Ok(());
        }
        let index = self.rng.random_range(0..self.publishes.len());
        self.send(index)
    }

    fn send(&mut self, index: usize) -> Checked {
        let publish = &mut self.publishes[index];
        let client = &self.clients[publish.client];
        let id = u32::try_from(index).unwrap();
        publish.ticket = Some((client.connection, id));
        let draft = Draft {
            user: user(publish.client),
            client_message_id: Some(publish.key),
            digest: encode::digest(&publish.body),
            record: record(publish),
            ticket: Ticket { connection: client.connection, id, asked: Asked::Publish },
            wish: Wish::Message(Author::User(user(publish.client)), publish.body.len()),
        };
        let node = client.node;
        self.act(node, |channel, effects| channel.publish(draft, effects))
    }

    fn subscribe(&mut self, client: usize) -> Checked {
        let id = 1_000_000 + self.generations;
        let Client { node, connection, subscription, position } = &mut self.clients[client];
        if *subscription != Subscription::None {
            return Ok(());
        }
        *subscription = Subscription::Asked(id);
        let since = position.map(|sequence| Position { epoch: EPOCH, sequence });
        let ticket = Ticket { connection: *connection, id, asked: Asked::Subscribe };
        let (node, user) = (*node, user(client));
        self.act(node, |channel, effects| {
            let format = Format::plain(Encoding::Proto);
            channel.subscribe(Subscribe { ticket, format, user, since, ephemeral: false }, effects);
        })
    }

    /// The client's connection ends; it comes back somewhere.
    fn leave(&mut self, client: usize) -> Checked {
        let connection = self.clients[client].connection;
        let node = self.clients[client].node;
        self.act(node, |channel, effects| {
            channel.leave(connection, effects);
        })?;
        let fresh = self.connection(client);
        let node = self.rng.random_range(0..NODES);
        let client = &mut self.clients[client];
        (client.connection, client.node) = (fresh, node);
        client.subscription = Subscription::None;
        Ok(())
    }

    fn turn(&mut self, node: usize) -> Checked {
        let id = BatchId(self.next_batch);
        self.next_batch += 1;
        let now_ms = self.now_ms;
        self.act(node, |channel, effects| channel.next_append(id, now_ms, effects))
    }

    /// The node dies and starts again with nothing but the log.
    fn restart(&mut self, node: usize) -> Checked {
        for under_way in std::mem::take(&mut self.nodes[node].under_way) {
            if let UnderWay::Append(append) = under_way {
                self.late.push(append);
            }
        }
        self.nodes[node] = self.fresh_node();
        for client in 0..CLIENTS {
            if self.clients[client].node == node {
                self.clients[client].connection = self.connection(client);
                self.clients[client].subscription = Subscription::None;
            }
        }
        Ok(())
    }

    /// An append that everybody had given up on reaches the log, if its place is still free.
    fn land_late(&mut self) -> Checked {
        if let Some(append) = self.late.pop() {
            let _ = self.log.append(&append);
        }
        Ok(())
    }

    /// The next commit of the others reaches a node, or gets lost on the way.
    fn feed(&mut self, node: usize) -> Checked {
        let Some(entry) = self.log.placed().get(self.nodes[node].fed).cloned() else {
            return Ok(());
        };
        self.nodes[node].fed += 1;
        if self.rng.random_bool(0.2) {
            return Ok(());
        }
        self.act(node, |channel, effects| channel.apply(entry, effects))
    }

    /// Something that the node waits for is answered.
    fn complete(&mut self, node: usize) -> Checked {
        let count = self.nodes[node].under_way.len();
        if count == 0 {
            return Ok(());
        }
        let index = self.rng.random_range(0..count);
        match self.nodes[node].under_way.swap_remove(index) {
            UnderWay::Append(append) => {
                let answer = self.answer(&append);
                if self.defect == Defect::ForgetsKeys {
                    self.forget_keys();
                }
                self.act(node, |channel, effects| channel.appended(answer, effects))
            }
            UnderWay::Read(from, purpose) => {
                let answer = if !self.is_settling && self.rng.random_bool(0.05) {
                    Err(ReadError::Busy)
                } else {
                    // From the middle of a log with junk nobody can tell which chain is the true
                    // one: an engine whose log may hold junk must answer `Tail` from a known place.
                    let is_tail_of_junk = from == ReadFrom::Tail && self.log.caps().junk_possible;
                    let bytes = if is_tail_of_junk { usize::MAX } else { READ_BYTES };
                    self.log.read(CHANNEL, from, ReadMax { bytes, ..purpose.read_max() })
                };
                self.act(node, |channel, effects| channel.read_done(purpose, answer, effects))
            }
            UnderWay::Recover => self.act(node, Channel::recover),
        }
    }

    fn complete_all(&mut self, node: usize) -> Checked {
        while !self.nodes[node].under_way.is_empty() {
            self.complete(node)?;
        }
        Ok(())
    }

    fn answer(&mut self, append: &Append) -> Result<Cursor, AppendError> {
        if self.is_settling {
            return self.log.append(append);
        }
        let answer = match self.rng.random_range(0..20) {
            0 => self.log.append_with(append, Fault::UnknownCommitted),
            1 => self.log.append_with(append, Fault::UnknownLost),
            2 => {
                self.late.push(append.clone());
                Err(AppendError::Unknown)
            }
            3 => self.log.append_with(append, Fault::Refused(Refusal::StorageUnavailable)),
            4 if self.log.caps().junk_possible => {
                // The hole of old servers: the append lands although its place is taken.
                match self.log.append(append) {
                    Err(AppendError::Moved) => self.land_misplaced(append),
                    answer => answer,
                }
            }
            _ => self.log.append(append),
        };
        match answer {
            Err(AppendError::Refused(_)) if self.defect == Defect::AcknowledgesUncommitted => {
                Ok(Cursor(append.after.0 + 1))
            }
            answer => answer,
        }
    }

    /// Puts an append behind an entry that it does not know. Its keys count only if it is part of
    /// the chain all the same, because what came between was junk.
    fn land_misplaced(&mut self, append: &Append) -> Result<Cursor, AppendError> {
        let last = self.log.entries(CHANNEL).last().map_or(Cursor(0), |entry| entry.at);
        let head = self.valid().last().map(|entry| entry.batch.head(last));
        if append.batch.extends(&head.unwrap_or(Head::empty(EPOCH))) {
            self.log.append(&Append { after: last, ..append.clone() })
        } else {
            Ok(self.log.place(CHANNEL, (*append.batch).clone()))
        }
    }

    fn forget_keys(&mut self) {
        let mut log = MemoryLog::new(self.log.caps());
        for entry in self.log.placed() {
            log.place(CHANNEL, entry.batch.clone());
        }
        self.log = log;
    }

    /// Lets a node's channel decide, performs its effects, and checks what clients are told.
    fn act(&mut self, node: usize, act: impl FnOnce(&mut Channel, &mut Vec<Effect>)) -> Checked {
        let mut effects = Vec::new();
        act(&mut self.nodes[node].channel, &mut effects);
        for effect in effects {
            match effect {
                Effect::Append(append) => {
                    self.nodes[node].under_way.push(UnderWay::Append(append));
                }
                Effect::Read(from, purpose) => {
                    self.nodes[node].under_way.push(UnderWay::Read(from, purpose));
                }
                Effect::RecoverLater | Effect::ContendLater(_) => {
                    self.nodes[node].under_way.push(UnderWay::Recover);
                }
                Effect::Forward(..) | Effect::SeekLater => {
                    return Err("nobody else owns the channel".into());
                }
                Effect::FanOut(delivery) => {
                    for subscriber in self.nodes[node].live.clone() {
                        self.deliver(node, subscriber, &delivery, None)?;
                    }
                }
                Effect::Join(subscriber) => self.nodes[node].live.push(subscriber),
                Effect::Leave(connection) => {
                    self.nodes[node].live.retain(|it| it.connection != connection);
                }
                Effect::Replay(subscriber, delivery, after) => {
                    self.deliver(node, subscriber, &delivery, Some(after))?;
                }
                Effect::Reply(ticket, reply) => self.hear(node, ticket, reply)?,
                Effect::Tell(connection, Control::Gap { from, to, .. }) => {
                    if let Some(client) = self.client(node, connection) {
                        let position = self.clients[client].position.unwrap_or_default();
                        ensure(from == position.next(), || format!("gap from {from:?}"))?;
                        self.clients[client].position = Some(to);
                    }
                }
                Effect::Sealed => return Err("the channel was sealed".into()),
                Effect::ReadRights
                | Effect::FindKeys(_)
                | Effect::Learn(_)
                | Effect::ForgetMember(_)
                | Effect::Forget => {
                    return Err("an open channel needs no rights".into());
                }
                Effect::Attend(..)
                | Effect::Unattend(_)
                | Effect::Announce(_)
                | Effect::TellIfRoom(..)
                | Effect::Untold
                | Effect::TellTyping(_)
                | Effect::CoolDown(_) => {
                    return Err("nobody asked for what is not in the log".into());
                }
                Effect::Tell(_, control) => return Err(format!("unexpected {control:?}")),
                Effect::Ended(connection) => {
                    if let Some(client) = self.client(node, connection) {
                        self.clients[client].subscription = Subscription::None;
                    }
                }
            }
        }
        Ok(())
    }

    fn client(&self, node: usize, connection: ConnectionKey) -> Option<usize> {
        let slot = connection.slot as usize;
        let client = &self.clients[slot];
        (client.connection == connection && client.node == node).then_some(slot)
    }

    fn deliver(
        &mut self,
        node: usize,
        subscriber: Subscriber,
        delivery: &Arc<Delivery>,
        after: Option<Sequence>,
    ) -> Checked {
        let Some(client) = self.client(node, subscriber.connection) else {
            return Err("a delivery to a connection that is gone".into());
        };
        let times = match self.defect {
            Defect::LosesDelivery if self.rng.random_bool(0.01) => 0,
            Defect::RepeatsDelivery if self.rng.random_bool(0.01) => 2,
            _ => 1,
        };
        for _ in 0..times {
            let batch = &delivery.batch;
            let first = match after {
                Some(after) => batch.first_sequence.max(after.next()),
                None => batch.first_sequence,
            };
            let committed = self.valid().iter().any(|entry| entry.batch == **batch);
            ensure(committed, || {
                format!("{:?} was delivered before its commit", batch.first_sequence)
            })?;
            let client = &mut self.clients[client];
            ensure(client.subscription == Subscription::Live, || {
                "a delivery before the subscribe was answered".into()
            })?;
            let position = client.position.unwrap_or_default();
            ensure(first == position.next(), || format!("{first:?} delivered after {position:?}"))?;
            client.position = Some(batch.last_sequence());
        }
        Ok(())
    }

    fn hear(&mut self, node: usize, ticket: Ticket, reply: Reply) -> Checked {
        let Some(client) = self.client(node, ticket.connection) else { return Ok(()) };
        match reply {
            Reply::Subscribed { head, .. } => {
                let client = &mut self.clients[client];
                ensure(client.subscription == Subscription::Asked(ticket.id), || {
                    "an answer to no subscribe".into()
                })?;
                client.subscription = Subscription::Live;
                client.position.get_or_insert(head.sequence);
                Ok(())
            }
            Reply::Published(published) => self.acknowledge(ticket, published.sequence),
            Reply::Refused(refusal) => match refusal.code {
                ErrorCode::Busy | ErrorCode::StorageUnavailable | ErrorCode::NotSubscribed => {
                    if let Some(publish) = self.publishes.get_mut(ticket.id as usize) {
                        publish.ticket = None;
                    }
                    Ok(())
                }
                code => Err(format!("refused with {code}")),
            },
            reply => Err(format!("unexpected {reply:?}")),
        }
    }

    fn acknowledge(&mut self, ticket: Ticket, sequence: Sequence) -> Checked {
        let publish = &mut self.publishes[ticket.id as usize];
        let before = *publish.acknowledged.get_or_insert(sequence);
        ensure(before == sequence, || format!("acknowledged at {before:?}, then {sequence:?}"))?;
        let wanted = record(publish);
        let committed = self.valid().into_iter().any(|entry| {
            let place = sequence.0.checked_sub(entry.batch.first_sequence.0);
            let record = place.and_then(|place| entry.batch.records().nth(place as usize));
            record.is_some_and(|record| record == Ok(&*wanted))
        });
        ensure(committed, || format!("acknowledged at {sequence:?}, which the log does not hold"))
    }
}

fn user(client: usize) -> UserId {
    UserId(u32::try_from(client).unwrap() + 1)
}

fn record(publish: &Publish) -> bytes::Bytes {
    encode::record(user(publish.client), Some(publish.key), publish.body.clone())
}

fn ensure(holds: bool, broken: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(broken()) }
}

fn info() -> ChannelInfo {
    ChannelInfo { id: CHANNEL, name: "lobby".into(), epoch: EPOCH, access: Access::Open }
}
