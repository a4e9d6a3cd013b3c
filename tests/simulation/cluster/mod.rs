//! One seeded history of a cluster: three nodes with a channel each on one log, of which one owns it, or
//! so each believes; forwards that get lost, come late or are answered twice; a feed with holes; nodes that
//! stop, go on and start again.

use std::mem;

use hubbub::{
    engine::{
        Append, AppendError, Caps, ReadError, ReadFrom, ReadMax, Refusal,
        bus::NodeId,
        memory::{Fault, MemoryLog},
    },
    hub::{
        Asked, ConnectionKey, Format, ShardId, Ticket,
        channel::{Channel, Effect, Purpose, Subscribe},
        directory::ChannelInfo,
        fanout::Subscriber,
        rights::Author,
        sequencer::{Answered, Draft, ForwardedPublish, Wish},
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
        encode::{self, Reply},
    },
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

mod oracle;

const CHANNEL: ChannelId = ChannelId(1);
const EPOCH: Epoch = Epoch(1_700_000_000);
const NODES: usize = 3;
const CLIENTS: usize = 6;
/// Bytes that one read answers: a few small batches.
const READ_BYTES: usize = 200;
/// The connection of who asks for another node: nobody's.
const NOBODY: ConnectionKey = ConnectionKey { shard: ShardId(0), slot: u32::MAX, generation: 0 };

/// A mistake made on purpose, to see that the oracle sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Defect {
    /// None.
    None,
    /// A sender is told when the owner answers, and not when its own node has got so far.
    RepliesBeforeItsTurn,
    /// The owner answers when it takes a publish in.
    AnswersBeforeCommit,
    /// The answers of a forward are those of its neighbours.
    MixesAnswers,
    /// Nobody notices that a forward is not answered.
    WaitsForever,
    /// The engine forgets which keys are taken.
    ForgetsKeys,
    /// What the feed has dropped is not made good.
    IgnoresReset,
}

/// All there is.
pub(crate) struct Cluster {
    rng: StdRng,
    defect: Defect,
    log: MemoryLog,
    chain: Chain,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    publishes: Vec<Publish>,
    /// What is on the way between nodes, in any order.
    letters: Vec<Letter>,
    /// Appends whose sender is gone or was told `Unknown`, which may yet reach the log.
    late: Vec<Append>,
    /// The highest sequence that anybody was told.
    told: Sequence,
    now_ms: u64,
    generations: u32,
    next_batch: u128,
    is_settling: bool,
}

/// The entries that extend the chain: what everybody must agree on.
struct Chain {
    head: Head,
    entries: Vec<Entry>,
    /// How many of the log have been looked at.
    seen: usize,
}

struct Node {
    channel: Channel,
    /// Which start of the node this is.
    life: u32,
    /// It does nothing, as a process that is stopped.
    is_paused: bool,
    /// Whom it takes for the owner.
    owner: usize,
    live: Vec<Subscriber>,
    under_way: Vec<UnderWay>,
    /// Forwards that it waits for.
    asked: Vec<BatchId>,
    /// Forwards of others that it does.
    calls: Vec<Call>,
    /// How much of the log's feed has reached this node, and whether something has not.
    fed: usize,
    has_missed: bool,
}

enum UnderWay {
    Append(Append),
    Appended(Result<Cursor, AppendError>),
    Read(ReadFrom, Purpose),
    Recover,
    Seek,
}

struct Call {
    from: usize,
    id: BatchId,
    answers: Vec<Option<Answered>>,
}

enum Letter {
    Forward { from: usize, to: usize, life: u32, id: BatchId, publishes: Vec<ForwardedPublish> },
    Answer { to: usize, life: u32, id: BatchId, answers: Vec<Answered> },
}

struct Client {
    node: usize,
    connection: ConnectionKey,
    subscription: Subscription,
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
    key: Option<ClientMessageId>,
    body: String,
    ticket: Option<(ConnectionKey, u32)>,
    acknowledged: Option<Sequence>,
    /// What anybody had been told when it was first sent: it comes after that.
    after: Sequence,
}

type Checked = Result<(), String>;

impl Cluster {
    pub(crate) fn new(seed: u64, defect: Defect) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let junk_possible = rng.random_bool(0.5);
        let log = MemoryLog::new(Caps { durability: Durability::Quorum, junk_possible });
        let mut cluster = Self {
            rng,
            defect,
            log,
            chain: Chain { head: Head::empty(EPOCH), entries: Vec::new(), seen: 0 },
            nodes: Vec::new(),
            clients: Vec::new(),
            publishes: Vec::new(),
            letters: Vec::new(),
            late: Vec::new(),
            told: Sequence::ZERO,
            now_ms: 1,
            generations: 0,
            next_batch: 1,
            is_settling: false,
        };
        for _ in 0..NODES {
            let node = cluster.fresh_node(0);
            cluster.nodes.push(node);
        }
        for slot in 0..CLIENTS {
            let connection = cluster.connection(slot);
            let node = cluster.rng.random_range(0..NODES);
            let (subscription, position) = (Subscription::None, None);
            cluster.clients.push(Client { node, connection, subscription, position });
        }
        cluster
    }

    fn fresh_node(&self, life: u32) -> Node {
        Node {
            channel: Channel::new(&info(), self.log.caps(), 3),
            life,
            is_paused: false,
            owner: 0,
            live: Vec::new(),
            under_way: Vec::new(),
            asked: Vec::new(),
            calls: Vec::new(),
            fed: self.log.placed().len(),
            has_missed: false,
        }
    }

    fn connection(&mut self, slot: usize) -> ConnectionKey {
        self.generations += 1;
        let slot = u32::try_from(slot).unwrap();
        ConnectionKey { shard: ShardId(0), slot, generation: self.generations }
    }

    /// Does one thing, whichever the seed says.
    pub(crate) fn step(&mut self) -> Checked {
        self.now_ms += 1;
        let node = self.rng.random_range(0..NODES);
        let client = self.rng.random_range(0..CLIENTS);
        match self.rng.random_range(0..1_000) {
            0..160 => self.publish(client),
            160..200 => self.retry(),
            200..260 => self.subscribe(client),
            260..280 => self.leave(client),
            280..440 => self.turn(node),
            440..680 => self.complete(node),
            680..790 => self.feed(node),
            790..930 => self.post(),
            930..950 => self.time_out(node),
            950..960 => self.land_late(),
            960..964 => self.restart(node),
            964..974 => {
                self.nodes[node].is_paused ^= true;
                Ok(())
            }
            974..990 => {
                // Each node finds out by itself who owns what.
                self.nodes[node].owner = self.rng.random_range(0..NODES);
                Ok(())
            }
            _ => self.reset(node),
        }
    }

    /// Lets everything finish, and looks whether all is as it must be.
    pub(crate) fn settle(&mut self) -> Checked {
        self.is_settling = true;
        self.late.clear();
        for node in &mut self.nodes {
            (node.is_paused, node.owner) = (false, 0);
        }
        for _ in 0..2_000 {
            for client in 0..CLIENTS {
                self.subscribe(client)?;
            }
            for node in 0..NODES {
                while self.nodes[node].fed < self.log.placed().len() {
                    self.feed(node)?;
                }
                self.reset(node)?;
                self.complete_all(node)?;
                self.turn(node)?;
                self.complete_all(node)?;
            }
            while !self.letters.is_empty() {
                self.post()?;
            }
            for node in 0..NODES {
                self.time_out(node)?;
            }
            let is_done = self.publishes.iter().all(|it| it.acknowledged.is_some() || it.is_lost());
            self.fold();
            let end = Some(self.end());
            let is_told = self.clients.iter().all(|client| client.position == end);
            let is_idle = self.nodes.iter().all(|node| node.channel.is_idle());
            if is_done && is_told && is_idle {
                return self.check_log();
            }
            for index in 0..self.publishes.len() {
                let publish = &self.publishes[index];
                let connection = self.clients[publish.client].connection;
                let is_asked = publish.ticket.is_some_and(|(asked, _)| asked == connection);
                if publish.acknowledged.is_none() && !publish.is_lost() && !is_asked {
                    self.send(index)?;
                }
            }
        }
        let positions: Vec<_> = self.clients.iter().map(|client| client.position).collect();
        let unanswered = self.publishes.iter().filter(|it| it.acknowledged.is_none());
        let unanswered: Vec<_> = unanswered.map(|it| (&it.body, it.ticket)).collect();
        Err(format!("never settles: end {:?}, {positions:?}, {unanswered:?}", self.end()))
    }

    fn publish(&mut self, client: usize) -> Checked {
        let number = self.publishes.len() as u64 + 1;
        let is_numbered = self.rng.random_bool(0.85);
        self.publishes.push(Publish {
            client,
            key: is_numbered.then_some(ClientMessageId(number)),
            body: format!("message {number}"),
            ticket: None,
            acknowledged: None,
            after: self.told,
        });
        self.send(self.publishes.len() - 1)
    }

    /// Sends a publish again, answered or not. One without a number would be another.
    fn retry(&mut self) -> Checked {
        if self.publishes.is_empty() {
            return Ok(());
        }
        let index = self.rng.random_range(0..self.publishes.len());
        if self.publishes[index].key.is_some() { self.send(index) } else { Ok(()) }
    }

    fn send(&mut self, index: usize) -> Checked {
        let publish = &mut self.publishes[index];
        let client = &self.clients[publish.client];
        let id = u32::try_from(index).unwrap();
        publish.ticket = Some((client.connection, id));
        let ticket = Ticket { connection: client.connection, id, asked: Asked::Publish };
        let draft = draft(user(publish.client), publish.key, publish.body.clone(), ticket);
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
        let (node, user, format) = (*node, user(client), Format::plain(Encoding::Proto));
        self.act(node, |channel, effects| {
            channel.subscribe(Subscribe { ticket, format, user, since, ephemeral: false }, effects);
        })
    }

    /// The client's connection ends; it comes back somewhere.
    fn leave(&mut self, client: usize) -> Checked {
        let Client { node, connection, .. } = self.clients[client];
        self.act(node, |channel, effects| {
            channel.leave(connection, effects);
        })?;
        let connection = self.connection(client);
        let node = self.rng.random_range(0..NODES);
        let client = &mut self.clients[client];
        (client.connection, client.node) = (connection, node);
        client.subscription = Subscription::None;
        Ok(())
    }

    /// As the shard does at the end of a turn.
    fn turn(&mut self, node: usize) -> Checked {
        let id = BatchId(self.next_batch);
        self.next_batch += 1;
        let now_ms = self.now_ms;
        let owner = self.nodes[node].owner;
        // What was not written there is written from here.
        let is_suspect = self.rng.random_bool(if self.is_settling { 0.5 } else { 0.1 });
        let to = NodeId(owner as u64);
        let is_paused = self.nodes[node].is_paused;
        if is_paused {
            return Ok(());
        }
        self.act(node, |channel, effects| {
            if owner == node || is_suspect || !channel.forward(id, to, effects) {
                channel.next_append(id, now_ms, effects);
            }
        })
    }

    /// The node dies and starts again with nothing but the log.
    fn restart(&mut self, node: usize) -> Checked {
        for under_way in mem::take(&mut self.nodes[node].under_way) {
            if let UnderWay::Append(append) = under_way {
                self.late.push(append);
            }
        }
        self.nodes[node] = self.fresh_node(self.nodes[node].life + 1);
        self.nodes[node].owner = self.rng.random_range(0..NODES);
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
        if self.nodes[node].is_paused {
            return Ok(());
        }
        self.nodes[node].fed += 1;
        if self.rng.random_bool(0.2) {
            self.nodes[node].has_missed = true;
            return Ok(());
        }
        self.act(node, |channel, effects| channel.apply(entry, effects))
    }

    /// The engine notices what the feed has lost.
    fn reset(&mut self, node: usize) -> Checked {
        let Node { has_missed, is_paused, .. } = &mut self.nodes[node];
        if *is_paused || !mem::take(has_missed) || self.defect == Defect::IgnoresReset {
            return Ok(());
        }
        self.act(node, Channel::catch_up)
    }

    /// A letter arrives, gets lost, or arrives twice.
    fn post(&mut self) -> Checked {
        if self.letters.is_empty() {
            return Ok(());
        }
        let index = self.rng.random_range(0..self.letters.len());
        let (to, life) = match &self.letters[index] {
            Letter::Forward { to, life, .. } | Letter::Answer { to, life, .. } => (*to, *life),
        };
        if self.nodes[to].is_paused {
            return Ok(());
        }
        let letter = self.letters.swap_remove(index);
        if self.nodes[to].life != life || !self.is_settling && self.rng.random_bool(0.05) {
            return Ok(());
        }
        match letter {
            Letter::Forward { from, to, id, publishes, .. } => self.take(from, to, id, publishes),
            Letter::Answer { to, id, answers, .. } => {
                let times = if self.rng.random_bool(0.1) { 2 } else { 1 };
                for _ in 0..times {
                    self.answer(to, id, &answers)?;
                }
                Ok(())
            }
        }
    }

    /// The owner, or who is taken for it, does what another node asks.
    fn take(
        &mut self,
        from: usize,
        node: usize,
        id: BatchId,
        publishes: Vec<ForwardedPublish>,
    ) -> Checked {
        if self.rng.random_bool(0.05) {
            // It drains, or has no room.
            return self.reply(from, id, Vec::new());
        }
        let call = self.nodes[node].calls.len();
        let mut answers = vec![None; publishes.len()];
        if self.defect == Defect::AnswersBeforeCommit {
            let next = self.nodes[node].channel.head().sequence.next();
            let answer = |place: usize| Answered::Stored(next.plus(place as u64), 1);
            answers = (0..publishes.len()).map(|place| Some(answer(place))).collect();
        }
        self.nodes[node].calls.push(Call { from, id, answers });
        for (place, publish) in publishes.into_iter().enumerate() {
            let id = u32::try_from(call * 1_000 + place).unwrap();
            let ticket = Ticket { connection: NOBODY, id, asked: Asked::Call };
            let body = String::from_utf8(publish.body.into()).unwrap();
            let draft = draft(publish.user, Some(publish.client_message_id), body, ticket);
            self.act(node, |channel, effects| channel.publish(draft, effects))?;
        }
        self.answer_calls(node)
    }

    /// Sends the answers that are complete.
    fn answer_calls(&mut self, node: usize) -> Checked {
        for index in 0..self.nodes[node].calls.len() {
            let call = &mut self.nodes[node].calls[index];
            if !call.answers.is_empty() && call.answers.iter().all(Option::is_some) {
                let (from, id) = (call.from, call.id);
                let mut answers: Vec<_> =
                    mem::take(&mut call.answers).into_iter().flatten().collect();
                if self.defect == Defect::MixesAnswers {
                    answers.rotate_left(1);
                }
                self.reply(from, id, answers)?;
            }
        }
        if self.nodes[node].calls.iter().all(|call| call.answers.is_empty()) {
            self.nodes[node].calls.clear();
        }
        Ok(())
    }

    fn reply(&mut self, to: usize, id: BatchId, answers: Vec<Answered>) -> Checked {
        let life = self.nodes[to].life;
        self.letters.push(Letter::Answer { to, life, id, answers });
        Ok(())
    }

    /// The answer to a forward has come.
    fn answer(&mut self, node: usize, id: BatchId, answers: &[Answered]) -> Checked {
        self.nodes[node].asked.retain(|asked| *asked != id);
        if self.defect == Defect::RepliesBeforeItsTurn {
            let told = answers.iter().filter_map(|it| match it {
                Answered::Stored(sequence, _) => Some(*sequence),
                Answered::Refused(_) => None,
            });
            let head = self.nodes[node].channel.head().sequence;
            ensure(told.max().is_none_or(|it| it <= head), || "told before its turn".to_owned())?;
        }
        self.act(node, |channel, effects| channel.forwarded(id, EPOCH, answers, effects))
    }

    /// A node waits no longer for the answers that it has not got.
    fn time_out(&mut self, node: usize) -> Checked {
        if self.nodes[node].is_paused || self.defect == Defect::WaitsForever {
            return Ok(());
        }
        for id in mem::take(&mut self.nodes[node].asked) {
            self.act(node, |channel, effects| channel.forwarded(id, EPOCH, &[], effects))?;
        }
        Ok(())
    }

    /// Something that the node waits for goes on. What has left a node goes on while it is paused.
    fn complete(&mut self, node: usize) -> Checked {
        let count = self.nodes[node].under_way.len();
        if count == 0 {
            return Ok(());
        }
        let index = self.rng.random_range(0..count);
        let is_append = matches!(self.nodes[node].under_way[index], UnderWay::Append(_));
        if self.nodes[node].is_paused && !is_append {
            return Ok(());
        }
        match self.nodes[node].under_way.swap_remove(index) {
            UnderWay::Append(append) => {
                let answer = self.append(&append);
                if self.defect == Defect::ForgetsKeys {
                    self.forget_keys();
                }
                self.nodes[node].under_way.push(UnderWay::Appended(answer));
                Ok(())
            }
            UnderWay::Appended(answer) => {
                self.act(node, |channel, effects| channel.appended(answer, effects))
            }
            UnderWay::Read(from, purpose) => {
                let answer = if !self.is_settling && self.rng.random_bool(0.05) {
                    Err(ReadError::Busy)
                } else {
                    let is_tail_of_junk = from == ReadFrom::Tail && self.log.caps().junk_possible;
                    let bytes = if is_tail_of_junk { usize::MAX } else { READ_BYTES };
                    self.log.read(CHANNEL, from, ReadMax { bytes, ..purpose.read_max() })
                };
                self.act(node, |channel, effects| channel.read_done(purpose, answer, effects))
            }
            UnderWay::Recover => self.act(node, Channel::recover),
            UnderWay::Seek => self.act(node, Channel::seek),
        }
    }

    fn complete_all(&mut self, node: usize) -> Checked {
        // What looks again after a while does so for as long as there is something to look for.
        for _ in 0..1_000 {
            if self.nodes[node].under_way.is_empty() {
                break;
            }
            self.complete(node)?;
        }
        Ok(())
    }

    fn append(&mut self, append: &Append) -> Result<Cursor, AppendError> {
        if self.is_settling {
            return self.log.append(append);
        }
        match self.rng.random_range(0..25) {
            0 => self.log.append_with(append, Fault::UnknownCommitted),
            1 => self.log.append_with(append, Fault::UnknownLost),
            2 => {
                self.late.push(append.clone());
                Err(AppendError::Unknown)
            }
            3 => self.log.append_with(append, Fault::Refused(Refusal::StorageUnavailable)),
            4 if self.log.caps().junk_possible => match self.log.append(append) {
                Err(AppendError::Moved) => self.land_misplaced(append),
                answer => answer,
            },
            _ => self.log.append(append),
        }
    }

    /// Puts an append behind an entry that it does not know, as the hole of old servers does. Its keys count
    /// only if it is part of the chain all the same, because what came between was junk.
    fn land_misplaced(&mut self, append: &Append) -> Result<Cursor, AppendError> {
        let last = self.log.entries(CHANNEL).last().map_or(Cursor(0), |entry| entry.at);
        self.fold();
        if append.batch.extends(&Head { cursor: last, ..self.chain.head }) {
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
        self.fold();
        for effect in effects {
            let under_way = match effect {
                Effect::Append(append) => UnderWay::Append(append),
                Effect::Read(from, purpose) => UnderWay::Read(from, purpose),
                Effect::RecoverLater | Effect::ContendLater(_) => UnderWay::Recover,
                Effect::SeekLater => UnderWay::Seek,
                Effect::Forward(id, NodeId(to), publishes) => {
                    let to = usize::try_from(to).unwrap();
                    let life = self.nodes[to].life;
                    self.nodes[node].asked.push(id);
                    self.letters.push(Letter::Forward { from: node, to, life, id, publishes });
                    continue;
                }
                Effect::Reply(ticket, reply) if ticket.connection == NOBODY => {
                    let (call, place) = (ticket.id as usize / 1_000, ticket.id as usize % 1_000);
                    let call = self.nodes[node].calls.get_mut(call);
                    // With a defect it may have been answered before.
                    if let Some(answer) = call.and_then(|call| call.answers.get_mut(place)) {
                        *answer = Some(match reply {
                            Reply::Published(it) => Answered::Stored(it.sequence, it.timestamp_ms),
                            Reply::Refused(refusal) => Answered::Refused(refusal.code),
                            reply => return Err(format!("unexpected {reply:?}")),
                        });
                    }
                    continue;
                }
                effect => {
                    self.observe(node, effect)?;
                    continue;
                }
            };
            self.nodes[node].under_way.push(under_way);
        }
        self.answer_calls(node)
    }
}

impl Publish {
    /// Its sender will never know: the connection is gone that waited, and without a number it cannot be
    /// sent again.
    fn is_lost(&self) -> bool {
        self.key.is_none()
    }
}

fn draft(user: UserId, key: Option<ClientMessageId>, body: String, ticket: Ticket) -> Draft {
    Draft {
        user,
        client_message_id: key,
        digest: encode::digest(&body),
        wish: Wish::Message(Author::User(user), body.len()),
        record: encode::record(user, key, body),
        ticket,
    }
}

fn user(client: usize) -> UserId {
    UserId(u32::try_from(client).unwrap() + 1)
}

fn ensure(holds: bool, broken: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(broken()) }
}

fn info() -> ChannelInfo {
    ChannelInfo { id: CHANNEL, name: "lobby".into(), epoch: EPOCH, access: Access::Open }
}
