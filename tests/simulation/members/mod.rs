//! Members, settings and quotas under faults: two nodes with a channel on one log and its records,
//! users who do anything at any time, and an oracle that says for each place of the log what was
//! allowed there. Here is what they do; what must come of it is in `checks`.

mod checks;
mod oracle;

use std::collections::{BTreeMap, HashMap};

use bytes::{Bytes, BytesMut};
use hubbub::{
    engine::{
        Append, AppendError, Caps, Expect, ReadError, ReadFrom, ReadMax, Refusal, Table,
        memory::{Fault, MemoryLog},
    },
    hub::{
        Asked, ConnectionKey, Format, ShardId, Ticket,
        channel::{Channel, Effect, Purpose, Subscribe},
        directory::{
            ChannelInfo,
            records::{self, ChannelRecord, MemberRecord, NameRecord},
        },
        fanout::Subscriber,
        presence::Elsewhere,
        rights::{Author, Change, Rights},
        sequencer::{Draft, Wish},
    },
    log::{
        batch::{Batch, put_record},
        place::{
            BatchId, ChannelId, ClientMessageId, Cursor, Epoch, Head, Position, Sequence, UserId,
        },
        settings::{Posting, Quota, Role, Settings, Usage, Visibility},
    },
    wire::{
        Encoding,
        channels::Update,
        code::ErrorCode,
        decode::{Page, PageFrom},
        encode, proto,
        record::Content,
    },
};
use prost::Message as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use self::oracle::State;

const CHANNEL: ChannelId = ChannelId(1);
const EPOCH: Epoch = Epoch(1_700_000_000);
const NODES: usize = 2;
const USERS: u32 = 6;
const READ_BYTES: usize = 200;

/// A mistake made on purpose, to see that the oracle sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Defect {
    /// None.
    None,
    /// Messages come by a right that their author may not have.
    PublishesWithoutRight,
    /// Who is no longer live is handed messages all the same.
    DeliversToWhoLeft,
    /// A page goes out although the right to it has ended.
    HandsPagesOut,
    /// An append is committed without the records that follow from it.
    LosesRecords,
    /// A member is left out when the rights are read.
    MisreadsMembers,
    /// What a channel has accepted is not counted beyond a restart.
    ForgetsUsage,
    /// A refusal says something else.
    RefusesOtherwise,
    /// A message that is in the log already is not found there.
    FindsNothing,
    /// The answers to some reads of rights never come.
    ForgetsAnswers,
    /// A channel does not know that others write into its log.
    TrustsItsFeed,
}

pub(crate) struct Members {
    rng: StdRng,
    defect: Defect,
    log: MemoryLog,
    nodes: Vec<Node>,
    /// What the channel is behind each place of the log; the first: before all.
    states: Vec<State>,
    /// Each record of the log: who wrote it, and its bytes.
    records: Vec<(UserId, Bytes)>,
    /// How many entries of the log are in `states`.
    folded: usize,
    first_info: ChannelInfo,
    operations: Vec<Operation>,
    next: u128,
    is_settling: bool,
    /// The channels know that there are other nodes: what was so before a question is no answer to it.
    has_nodes: bool,
}

struct Node {
    channel: Channel,
    live: Vec<(Subscriber, UserId)>,
    under_way: Vec<UnderWay>,
    /// Connections here are of this generation.
    generation: u32,
}

enum UnderWay {
    Append(Append),
    Read(ReadFrom, Purpose),
    Keys(Vec<(UserId, ClientMessageId)>),
    Rights,
    /// The record has been read, the members have not.
    MembersOf(Option<ChannelRecord>),
    Recover,
}

#[derive(Debug)]
struct Operation {
    node: usize,
    user: UserId,
    wanted: Wanted,
    /// How many records the log had then.
    since: usize,
    is_answered: bool,
}

#[derive(Debug)]
enum Wanted {
    Publish(Bytes),
    Change(Change),
    Subscribe,
    Unsubscribe,
    History,
}

type Checked = Result<(), String>;

impl Members {
    pub(crate) fn new(seed: u64, defect: Defect) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let quota = rng.random_bool(0.5).then(|| Quota {
            messages_max: rng.random_range(1..60_u64).try_into().ok(),
            bytes_max: rng.random_range(0..2_000_u64).try_into().ok(),
        });
        let settings = Settings {
            visibility: any_visibility(&mut rng),
            posting: any_posting(&mut rng),
            quota: quota.unwrap_or_default(),
            ..Settings::open("lobby")
        };
        let mut record = ChannelRecord {
            id: CHANNEL.0,
            name: String::new(),
            epoch: EPOCH.0,
            created_at_ms: 1,
            created_by: 1,
            topic: String::new(),
            visibility: Visibility::Public,
            posting: Posting::Everyone,
            archived: false,
            quota: Quota::default(),
            usage: Usage::default(),
            member_count: 1,
        };
        record.set(&settings);
        let mut log = MemoryLog::default();
        let owner = records::new_membership(CHANNEL, UserId(1), Role::Owner, record.beginning());
        let name = records::format(&NameRecord::of(CHANNEL));
        log.put(Table::Channels, &records::name_key("lobby"), name, Expect::Absent).unwrap();
        for derived in record.derived().chain(owner) {
            if let Some(value) = derived.value {
                log.put(derived.table, &derived.key, value, Expect::Absent).unwrap();
            }
        }
        let state = State {
            settings,
            members: BTreeMap::from([(UserId(1), Role::Owner)]),
            joined: BTreeMap::from([(UserId(1), 0)]),
            last: 0,
            usage: Usage::default(),
            is_deleted: false,
        };
        let has_nodes = seed.is_multiple_of(2);
        let is_shared = has_nodes && defect != Defect::TrustsItsFeed;
        let node = |number: u32| Node {
            channel: fresh(&record.info(), log.caps(), is_shared),
            live: Vec::new(),
            under_way: Vec::new(),
            generation: number,
        };
        Self {
            nodes: (0..NODES).map(|number| node(u32::try_from(number).unwrap())).collect(),
            rng,
            defect,
            log,
            states: vec![state],
            records: Vec::new(),
            folded: 0,
            first_info: record.info(),
            operations: Vec::new(),
            next: 1,
            is_settling: false,
            has_nodes,
        }
    }

    /// Somebody does something, and then some of what is under way goes on.
    pub(crate) fn step(&mut self) -> Checked {
        let node = self.rng.random_range(0..NODES);
        let user = UserId(self.rng.random_range(1..=USERS));
        match self.rng.random_range(0..100) {
            0..40 => self.publish(node, user)?,
            40..70 => self.change(node, user)?,
            70..82 => self.subscribe(node, user)?,
            82..86 => self.unsubscribe(node, user)?,
            86..95 => self.history(node, user)?,
            95..98 => self.import(node)?,
            _ if self.rng.random_bool(0.3) => self.restart(node),
            _ => {}
        }
        for _ in 0..self.rng.random_range(0..5) {
            let node = self.rng.random_range(0..NODES);
            match self.rng.random_range(0..10) {
                0..3 => self.turn(node)?,
                3 => self.act(node, Channel::catch_up)?,
                _ => self.complete(node)?,
            }
            self.check()?;
        }
        Ok(())
    }

    /// Lets everything finish: then everything is answered.
    pub(crate) fn settle(&mut self) -> Checked {
        self.is_settling = true;
        for _ in 0..50 {
            for node in 0..NODES {
                self.act(node, Channel::catch_up)?;
                self.complete_all(node)?;
                self.turn(node)?;
                self.complete_all(node)?;
            }
        }
        let unanswered: Vec<_> = self.operations.iter().filter(|it| !it.is_answered).collect();
        ensure(unanswered.is_empty(), || format!("never answered: {unanswered:?}"))?;
        let is_idle = self.nodes.iter().all(|node| node.channel.is_idle());
        ensure(is_idle, || "something is in flight without an end".to_owned())
    }

    fn publish(&mut self, node: usize, user: UserId) -> Checked {
        let number = self.operations.len() as u64 + 1;
        let again = self.rng.random_bool(0.15).then(|| self.rng.random_range(0..number));
        let again = again.and_then(|at| self.operations.get(usize::try_from(at).unwrap()));
        let body = format!("message {number}");
        let (user, body, key) = match again {
            Some(Operation { user, wanted: Wanted::Publish(record), .. }) => {
                let record = proto::Record::decode(record.clone()).unwrap();
                (*user, body_of(&record), record.client_message_id)
            }
            _ => (user, body, if self.rng.random_bool(0.7) { number } else { 0 }),
        };
        let key = (key != 0).then_some(ClientMessageId(key));
        let record = encode::record(user, key, body.clone());
        let author = if self.defect == Defect::PublishesWithoutRight {
            Author::Webhook(user)
        } else {
            Author::User(user)
        };
        let ticket = self.operation(node, user, Asked::Publish, Wanted::Publish(record.clone()));
        let draft = Draft {
            user,
            client_message_id: key,
            digest: encode::digest(&body),
            record,
            ticket,
            wish: Wish::Message(author, body.len()),
        };
        self.act(node, |channel, effects| channel.publish(draft, effects))
    }

    fn change(&mut self, node: usize, user: UserId) -> Checked {
        let other = UserId(self.rng.random_range(1..=USERS));
        let change = match self.rng.random_range(0..200) {
            0..40 => Change::Join,
            40..60 => Change::Leave,
            60..120 => Change::SetMember(other, Role::ALL[self.rng.random_range(0..3)]),
            120..150 => Change::RemoveMember(other),
            150..199 => Change::Update(self.update()),
            _ => Change::Delete,
        };
        let ticket = self.operation(node, user, Asked::Call, Wanted::Change(change.clone()));
        let draft = Draft {
            user,
            client_message_id: None,
            digest: 0,
            record: Bytes::new(),
            ticket,
            wish: Wish::Change(Box::new(change)),
        };
        self.act(node, |channel, effects| channel.publish(draft, effects))
    }

    fn update(&mut self) -> Update {
        let name = format!("name-{}", self.operations.len());
        let rng = &mut self.rng;
        let messages_max = rng.random_range(0..80_u64).try_into().ok();
        Update {
            name: rng.random_bool(0.2).then_some(name),
            topic: rng.random_bool(0.2).then(|| "topic".to_owned()),
            visibility: rng.random_bool(0.5).then(|| any_visibility(rng)),
            posting: rng.random_bool(0.3).then(|| any_posting(rng)),
            archived: rng.random_bool(0.5).then(|| rng.random_bool(0.1)),
            quota: rng.random_bool(0.3).then_some(Quota { messages_max, bytes_max: None }),
        }
    }

    fn subscribe(&mut self, node: usize, user: UserId) -> Checked {
        let ticket = self.operation(node, user, Asked::Subscribe, Wanted::Subscribe);
        let end = self.states.len() as u64;
        let sequence = Sequence(self.rng.random_range(0..end));
        let since = self.rng.random_bool(0.7).then_some(Position { epoch: EPOCH, sequence });
        let format = Format::plain(Encoding::Proto);
        // A shard has no connection subscribed twice.
        self.act(node, |channel, effects| {
            channel.leave(ticket.connection, effects);
            channel.subscribe(Subscribe { ticket, format, user, since, ephemeral: false }, effects);
        })
    }

    fn unsubscribe(&mut self, node: usize, user: UserId) -> Checked {
        let ticket = self.operation(node, user, Asked::Unsubscribe, Wanted::Unsubscribe);
        self.act(node, |channel, effects| channel.unsubscribe(ticket, effects))
    }

    fn history(&mut self, node: usize, user: UserId) -> Checked {
        let ticket = self.operation(node, user, Asked::History, Wanted::History);
        let page = Page { from: PageFrom::Newest, limit: 5 };
        self.act(node, |channel, effects| channel.history(ticket, user, page, effects))
    }

    /// Messages come from elsewhere, and perhaps the node is told so.
    fn import(&mut self, node: usize) -> Checked {
        let Some(mut channel) = self.record() else { return Ok(()) };
        let last = self.log.entries(CHANNEL).last();
        let (after, head) = last.map_or((Cursor(0), Head::empty(EPOCH)), |entry| {
            (entry.at, entry.batch.head(entry.at))
        });
        let mut records = BytesMut::new();
        let mut count = 0;
        let mut state = self.states.last().unwrap().clone();
        for _ in 0..self.rng.random_range(1..4) {
            let content = Content::Body { bytes: 8 };
            if state.take(UserId(9), content, true).is_err() {
                break;
            }
            let record = proto::Record {
                user_id: 9,
                content: Some(proto::record::Content::Body("imported".to_owned())),
                written_at_ms: 1,
                ..proto::Record::default()
            };
            put_record(&mut records, &record.encode_to_vec());
            count += 1;
        }
        if count == 0 {
            return Ok(());
        }
        channel.usage = state.usage;
        let batch = Batch {
            epoch: EPOCH,
            id: self.batch_id(),
            previous: head.batch,
            first_sequence: head.sequence.next(),
            count,
            timestamp_ms: 1,
            records: records.freeze(),
        };
        let derived = channel.derived().collect();
        let append = Append {
            channel: CHANNEL,
            after,
            batch: batch.clone().into(),
            keys: Vec::new(),
            derived,
        };
        let at = self.log.append(&append).expect("its place is the last");
        self.fold()?;
        if self.rng.random_bool(0.8) {
            let head = batch.head(at);
            self.act(node, |channel, effects| channel.imported(after, head, effects))?;
        }
        Ok(())
    }

    fn restart(&mut self, node: usize) {
        for operation in self.operations.iter_mut().filter(|it| it.node == node) {
            operation.is_answered = true;
        }
        // Whoever asks first may have looked the channel up long ago.
        let info = match self.record() {
            Some(record) if self.rng.random_bool(0.7) => record.info(),
            _ => self.first_info.clone(),
        };
        let generation = self.nodes[node].generation + u32::try_from(NODES).unwrap();
        let is_shared = self.has_nodes && self.defect != Defect::TrustsItsFeed;
        let channel = fresh(&info, self.log.caps(), is_shared);
        self.nodes[node] = Node { channel, live: Vec::new(), under_way: Vec::new(), generation };
    }

    fn turn(&mut self, node: usize) -> Checked {
        let id = self.batch_id();
        self.act(node, |channel, effects| channel.next_append(id, 1, effects))
    }

    fn complete(&mut self, node: usize) -> Checked {
        let count = self.nodes[node].under_way.len();
        if count == 0 {
            return Ok(());
        }
        let index = self.rng.random_range(0..count);
        let fails = !self.is_settling && self.rng.random_bool(0.05);
        match self.nodes[node].under_way.swap_remove(index) {
            UnderWay::Append(append) => {
                let answer = self.append(append);
                self.fold()?;
                self.act(node, |channel, effects| channel.appended(answer, effects))
            }
            UnderWay::Read(from, purpose) => {
                let bytes = if purpose == Purpose::Load { usize::MAX } else { READ_BYTES };
                let answer = match fails {
                    true => Err(ReadError::Busy),
                    false => self.log.read(CHANNEL, from, ReadMax { bytes, ..purpose.read_max() }),
                };
                self.act(node, |channel, effects| channel.read_done(purpose, answer, effects))
            }
            UnderWay::Keys(keys) => {
                let answer = match fails {
                    true => Err(ReadError::Busy),
                    false if self.defect == Defect::FindsNothing => Ok(Vec::new()),
                    false => Ok(self.log.find_keys(CHANNEL, &keys)),
                };
                self.act(node, |channel, effects| channel.keys_found(&keys, answer, effects))
            }
            UnderWay::Rights if self.defect == Defect::ForgetsAnswers => Ok(()),
            UnderWay::Rights if fails => {
                let answer = Err(ErrorCode::StorageUnavailable);
                self.act(node, |channel, effects| channel.rights_read(answer, effects))
            }
            UnderWay::Rights => {
                let record = self.record();
                self.nodes[node].under_way.push(UnderWay::MembersOf(record));
                Ok(())
            }
            UnderWay::MembersOf(record) => {
                let mut members: HashMap<_, _> = self.members().into_iter().collect();
                if self.defect == Defect::MisreadsMembers {
                    members.remove(&UserId(2));
                }
                let rights = record.map(|mut record| {
                    if self.defect == Defect::ForgetsUsage {
                        record.usage = Usage::default();
                    }
                    Rights::new(record, members)
                });
                self.act(node, |channel, effects| channel.rights_read(Ok(rights), effects))
            }
            UnderWay::Recover => self.act(node, Channel::recover),
        }
    }

    fn complete_all(&mut self, node: usize) -> Checked {
        while !self.nodes[node].under_way.is_empty() {
            self.complete(node)?;
            self.check()?;
        }
        Ok(())
    }

    fn append(&mut self, mut append: Append) -> Result<Cursor, AppendError> {
        if self.defect == Defect::LosesRecords && self.rng.random_bool(0.1) {
            append.derived.clear();
        }
        if self.is_settling {
            return self.log.append(&append);
        }
        match self.rng.random_range(0..20) {
            0 => self.log.append_with(&append, Fault::UnknownCommitted),
            1 => self.log.append_with(&append, Fault::UnknownLost),
            2 => self.log.append_with(&append, Fault::Refused(Refusal::StorageUnavailable)),
            _ => self.log.append(&append),
        }
    }

    fn batch_id(&mut self) -> BatchId {
        self.next += 1;
        BatchId(self.next)
    }

    fn operation(&mut self, node: usize, user: UserId, asked: Asked, wanted: Wanted) -> Ticket {
        let id = u32::try_from(self.operations.len()).unwrap();
        let since = self.records.len();
        self.operations.push(Operation { node, user, wanted, since, is_answered: false });
        let generation = self.nodes[node].generation;
        let connection = ConnectionKey { shard: ShardId(0), slot: user.0, generation };
        Ticket { connection, id, asked }
    }

    /// Lets a node's channel decide, and checks what comes of it.
    fn act(&mut self, node: usize, act: impl FnOnce(&mut Channel, &mut Vec<Effect>)) -> Checked {
        let mut effects = Vec::new();
        act(&mut self.nodes[node].channel, &mut effects);
        for effect in effects {
            let under_way = match effect {
                Effect::Append(append) => UnderWay::Append(append),
                Effect::Read(from, purpose) => UnderWay::Read(from, purpose),
                Effect::FindKeys(keys) => UnderWay::Keys(keys),
                Effect::ReadRights => UnderWay::Rights,
                Effect::RecoverLater | Effect::ContendLater(_) => UnderWay::Recover,
                effect => {
                    self.observe(node, effect)?;
                    continue;
                }
            };
            self.nodes[node].under_way.push(under_way);
        }
        Ok(())
    }

    fn record(&self) -> Option<ChannelRecord> {
        let found = self.log.get(Table::Channels, &records::channel_key(CHANNEL))?;
        Some(ChannelRecord::parse(CHANNEL, &found).unwrap())
    }

    fn members(&self) -> BTreeMap<UserId, Role> {
        let found = self.log.scan(Table::Members, &records::of_channel(CHANNEL), None, 100);
        let member = |(key, record): (String, _)| {
            let role = records::parse::<MemberRecord>(&record).unwrap().role;
            (UserId(records::last_number(&key).unwrap()), role)
        };
        found.into_iter().map(member).collect()
    }
}

fn fresh(info: &ChannelInfo, caps: Caps, is_shared: bool) -> Channel {
    let mut channel = Channel::new(info, caps, 3);
    if is_shared {
        channel.join_nodes(Elsewhere::default());
    }
    channel
}

fn any_visibility(rng: &mut StdRng) -> Visibility {
    if rng.random_bool(0.5) { Visibility::Private } else { Visibility::Public }
}

fn any_posting(rng: &mut StdRng) -> Posting {
    [Posting::Everyone, Posting::Members, Posting::Moderators][rng.random_range(0..3)]
}

fn body_of(record: &proto::Record) -> String {
    match &record.content {
        Some(proto::record::Content::Body(body)) => body.clone(),
        content => panic!("{content:?} is no message"),
    }
}

fn ensure(holds: bool, broken: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(broken()) }
}
