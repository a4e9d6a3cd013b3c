//! Two or three real shards on one thread, whose mailboxes a seed empties in any order: whatever
//! crosses when, a subscriber sees no gap and no repeat, and every command has one reply.
//!
//! `SEED=… cargo test --lib hub::shard` runs one seed again, step for step; `SEEDS=…` sets how many
//! are tried.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use prost::Message as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    runtime::{Builder, LocalOptions},
    task::yield_now,
};

use super::*;
use crate::{
    engine::memory::{Hold, MemoryEngine, Stage},
    hub::{
        crossing::{Arrivals, Crossing, borders},
        desk::tests::a_desk,
    },
    limits::{PRESENCE_INTERVAL_MIN, REVOCATION_KEPT, TYPING_INTERVAL_MIN},
    log::{
        place::{Epoch, Sequence},
        settings::Access,
    },
    wire::{
        Encoding,
        decode::PageFrom,
        proto::{ServerEnvelope, presence::Users, reply, server_envelope::Envelope},
    },
};

const EPOCH: Epoch = Epoch(1_700_000_000);
const CHANNELS: u32 = 3;
const CLIENTS: usize = 8;
const SEEDS: u64 = 60;
const STEPS: u32 = 600;
/// So large that a few of them fill a tail, and resumes must read the log.
const LARGE_BODY_BYTES: usize = 50_000;

type TestShard = Rc<Shard<MemoryEngine, ()>>;

struct World<'a> {
    rng: StdRng,
    engine: &'a MemoryEngine,
    shards: Vec<TestShard>,
    arrivals: Vec<Arrivals>,
    clients: Vec<Client>,
    next_id: u32,
    /// The engine does not get on while these are held.
    holds: Vec<Hold<'a>>,
}

struct Client {
    shard: usize,
    port: Rc<Port<()>>,
    followed: BTreeMap<u32, Followed>,
    /// Publishes without a reply.
    published: BTreeSet<u32>,
    /// History commands without a reply.
    paged: BTreeSet<u32>,
}

/// What a client knows of a channel.
#[derive(Default)]
struct Followed {
    /// As far as it knows, it is subscribed or about to be.
    is_wanted: bool,
    /// Between the replies to a subscribe and to an unsubscribe.
    is_live: bool,
    /// The last sequence that it was handed or told of.
    position: u64,
    /// Who else is there, and on how many connections, since it asked.
    there: Option<(BTreeSet<u32>, u32)>,
    /// Its subscribes and unsubscribes without a reply.
    asked: VecDeque<(u32, Wish)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    Subscribe(Option<u64>),
    Unsubscribe,
}

/// Two clients each are of one user.
fn user(client: usize) -> UserId {
    UserId(u32::try_from(client / 2 + 1).unwrap())
}

fn info(channel: u32) -> ChannelInfo {
    ChannelInfo { id: ChannelId(channel), name: "lobby".into(), epoch: EPOCH, access: Access::Open }
}

impl<'a> World<'a> {
    fn new(seed: u64, engine: &'a MemoryEngine) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let count = rng.random_range(2..=3);
        let shared = Arc::new(engine.clone());
        let desk = a_desk(&shared);
        let register = Arc::new(Register::new(REVOCATION_KEPT));
        // Nobody is slow here, however much crosses at once.
        let limits = Limits { outbox_bytes_max: bytesize::ByteSize::gib(1), ..Limits::default() };
        let (limits, metrics) = (Arc::new(limits), Arc::new(Metrics::default()));
        let (shards, arrivals) = borders(count)
            .into_iter()
            .map(|(borders, arrivals)| {
                let (engine, desk) = (Arc::clone(&shared), Arc::clone(&desk));
                let register = Arc::clone(&register);
                let (limits, metrics) = (Arc::clone(&limits), Arc::clone(&metrics));
                (Shard::new(borders, engine, desk, register, limits, metrics), arrivals)
            })
            .unzip();
        let holds = Vec::new();
        let mut world =
            Self { rng, engine, shards, arrivals, clients: Vec::new(), next_id: 0, holds };
        for _ in 0..CLIENTS {
            let client = world.connect();
            world.clients.push(client);
        }
        world
    }

    fn connect(&mut self) -> Client {
        let shard = self.rng.random_range(0..self.shards.len());
        let port = self.shards[shard].connect(Format::plain(Encoding::Proto), ());
        let (published, paged) = (BTreeSet::new(), BTreeSet::new());
        Client { shard, port, followed: BTreeMap::new(), published, paged }
    }

    async fn step(&mut self) {
        let client = self.rng.random_range(0..CLIENTS);
        let channel = self.rng.random_range(1..=CHANNELS);
        let shard = self.rng.random_range(0..self.shards.len());
        match self.rng.random_range(0..100) {
            0..14 => self.publish(client, channel),
            14..26 => self.subscribe(client, channel),
            26..34 => self.unsubscribe(client, channel),
            34..37 => self.history(client, channel),
            37..39 => self.reconnect(client),
            39..56 => self.take_asks(shard),
            56..73 => self.take_answers(shard),
            73..86 => self.end_turn(shard),
            86..95 => yield_now().await,
            95 => tokio::time::advance(TYPING_INTERVAL_MIN).await,
            96..98 => {
                let stage = if self.rng.random_bool(0.5) { Stage::Read } else { Stage::Commit };
                self.holds.push(self.engine.faults().hold(stage));
            }
            98 => self.holds.clear(),
            _ => self.shards[shard].state.borrow_mut().channels_before_eviction = 0,
        }
        self.listen();
    }

    fn id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    fn publish(&mut self, client: usize, channel: u32) {
        let id = self.id();
        let length = if self.rng.random_bool(0.3) { LARGE_BODY_BYTES } else { 3 };
        let client = &mut self.clients[client];
        client.published.insert(id);
        let publish =
            Publish { id, user: UserId(1), client_message_id: None, body: "x".repeat(length) };
        self.shards[client.shard].publish(&client.port, publish, &info(channel));
    }

    fn history(&mut self, client: usize, channel: u32) {
        let id = self.id();
        let client = &mut self.clients[client];
        client.paged.insert(id);
        let page = Page { from: PageFrom::Newest, limit: 3 };
        self.shards[client.shard].history(&client.port, id, UserId(1), &info(channel), page);
    }

    fn subscribe(&mut self, client: usize, channel: u32) {
        let id = self.id();
        let choice = self.rng.random_range(0..10);
        let ephemeral = self.rng.random_bool(0.5);
        let user = user(client);
        let client = &mut self.clients[client];
        let followed = client.followed.entry(channel).or_default();
        let since = match choice {
            0 => None,
            1 => Some(u64::MAX),
            2 => Some(0),
            _ => Some(followed.position),
        };
        followed.asked.push_back((id, Wish::Subscribe(since)));
        let was_wanted = followed.is_wanted;
        followed.is_wanted = true;
        let since = since.map(|since| Position { epoch: EPOCH, sequence: Sequence(since) });
        self.shards[client.shard].subscribe(
            &client.port,
            id,
            user,
            &info(channel),
            since,
            ephemeral,
        );
        if was_wanted {
            assert_eq!(client.refused_at_once(channel, id), ErrorCode::AlreadySubscribed);
        }
    }

    fn unsubscribe(&mut self, client: usize, channel: u32) {
        let id = self.id();
        let client = &mut self.clients[client];
        let followed = client.followed.entry(channel).or_default();
        followed.asked.push_back((id, Wish::Unsubscribe));
        let was_wanted = mem::take(&mut followed.is_wanted);
        self.shards[client.shard].unsubscribe(&client.port, id, ChannelId(channel));
        if !was_wanted {
            assert_eq!(client.refused_at_once(channel, id), ErrorCode::NotSubscribed);
        }
    }

    fn reconnect(&mut self, client: usize) {
        let fresh = self.connect();
        let gone = mem::replace(&mut self.clients[client], fresh);
        self.shards[gone.shard].disconnect(&gone.port);
        // What it had heard when its connection ended, it still knows.
        for (channel, followed) in gone.followed {
            let position = followed.position;
            let known = Followed { position, ..Followed::default() };
            self.clients[client].followed.insert(channel, known);
        }
    }

    fn take_asks(&mut self, shard: usize) {
        if self.shards[shard].has_room()
            && let Ok(Crossing { parcels, .. }) = self.arrivals[shard].asks.try_recv()
        {
            parcels.into_iter().for_each(|ask| self.shards[shard].take_ask(ask));
        }
    }

    fn take_answers(&mut self, shard: usize) {
        if let Ok(crossing) = self.arrivals[shard].answers.try_recv() {
            self.shards[shard].take_answers(crossing);
        }
    }

    fn end_turn(&self, shard: usize) {
        self.shards[shard].form_batches();
    }

    /// Everybody reads what waits for him.
    fn listen(&mut self) {
        for client in &mut self.clients {
            client.listen();
        }
    }

    /// Lets everything under way arrive, in any order, until `is_over`.
    async fn settle(&mut self, is_over: impl Fn(&Self) -> bool) {
        self.holds.clear();
        for _ in 0..20_000 {
            let shard = self.rng.random_range(0..self.shards.len());
            match self.rng.random_range(0..40) {
                0 => tokio::time::advance(PRESENCE_INTERVAL_MIN).await,
                1..10 => self.take_asks(shard),
                10..20 => self.take_answers(shard),
                20..30 => self.end_turn(shard),
                _ => yield_now().await,
            }
            self.listen();
            if is_over(self) {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn head(&self, channel: u32) -> u64 {
        self.engine.with_log(|log| {
            let last = log.entries(ChannelId(channel)).last();
            last.map_or(0, |entry| entry.batch.last_sequence().0)
        })
    }

    /// The shards stop as they do on SIGTERM.
    async fn drain(&mut self) {
        for shard in &self.shards {
            shard.drain(|| 1);
        }
        self.settle(|world| world.shards.iter().all(|shard| shard.is_idle())).await;
        let are_answered = self.clients.iter().all(|client| client.published.is_empty());
        assert!(are_answered, "a publish is not answered before the end");
        for shard in &self.shards {
            shard.tell_last();
        }
        self.settle(|world| world.shards.iter().all(|shard| shard.has_heard_last())).await;
        for client in &self.clients {
            for (channel, followed) in &client.followed {
                let has_all = followed.position == self.head(*channel);
                assert!(has_all || !followed.is_live, "it misses the end of #{channel}");
            }
        }
    }

    /// Whether all who asked have heard exactly who is subscribed.
    fn knows_who_is_there(&self, channel: u32) -> bool {
        let follows = |client: &Client| client.followed.get(&channel).is_some_and(|it| it.is_live);
        let there: Vec<_> = (0..).zip(&self.clients).filter(|(_, it)| follows(it)).collect();
        let connections = u32::try_from(there.len()).unwrap();
        let users: BTreeSet<_> = there.iter().map(|(client, _)| user(*client).0).collect();
        let told = there.iter().filter_map(|(_, client)| client.followed[&channel].there.as_ref());
        told.into_iter().all(|told| *told == (users.clone(), connections))
    }

    /// When everybody is gone nothing is left of them.
    async fn leave(&mut self) {
        self.settle(|world| {
            let has_all = |client: &Client| {
                client.published.is_empty()
                    && client.paged.is_empty()
                    && client.followed.values().all(|followed| followed.asked.is_empty())
            };
            world.clients.iter().all(has_all)
        })
        .await;
        if !self.shards[0].is_draining() {
            self.settle(|world| (1..=CHANNELS).all(|channel| world.knows_who_is_there(channel)))
                .await;
        }
        for client in mem::take(&mut self.clients) {
            self.shards[client.shard].disconnect(&client.port);
        }
        self.settle(|world| world.shards.iter().all(|shard| shard.state.borrow().is_forgotten()))
            .await;
    }
}

impl<S> State<S> {
    /// Nothing is left of the connections that were.
    fn is_forgotten(&self) -> bool {
        self.live_abroad.is_empty()
            && self.subscribers.is_empty()
            && self.attending_abroad.is_empty()
            && self.audiences.is_empty()
            && self.unsubscribing.is_empty()
            && self.publishes_abroad == 0
            && self.borders.neighbours.iter().all(|neighbour| neighbour.unanswered == 0)
            && self.channels.values().all(Channel::is_evictable)
    }
}

impl Client {
    /// What the command was refused with that has just been given.
    fn refused_at_once(&mut self, channel: u32, id: u32) -> ErrorCode {
        let frames = self.frames();
        let [Envelope::Reply(answer)] = &frames[..] else { panic!("{frames:?}") };
        let Some(reply::Result::Error(error)) = &answer.result else { panic!("{answer:?}") };
        assert_eq!(answer.id, id);
        self.followed.get_mut(&channel).unwrap().asked.retain(|(asked, _)| *asked != id);
        ErrorCode::ALL.iter().copied().find(|code| i32::from(code.number()) == error.code).unwrap()
    }

    fn listen(&mut self) {
        for envelope in self.frames() {
            match envelope {
                Envelope::Messages(messages) => {
                    let followed = self.followed.get_mut(&messages.channel_id).unwrap();
                    assert!(followed.is_live, "messages without a subscription");
                    assert_eq!(messages.first_sequence, followed.position + 1, "gap or repeat");
                    followed.position += messages.records.len() as u64;
                }
                Envelope::Gap(gap) => {
                    let followed = self.followed.get_mut(&gap.channel_id).unwrap();
                    assert!(followed.is_live, "a gap without a subscription");
                    assert_eq!(gap.from_sequence, followed.position + 1);
                    followed.position = gap.to_sequence;
                }
                Envelope::Reply(answer) => self.hear(answer.id, answer.result.unwrap()),
                Envelope::Presence(presence) => {
                    let followed = self.followed.get_mut(&presence.channel_id).unwrap();
                    assert!(followed.is_live, "presence without a subscription");
                    let (there, connections) = match presence.users.expect("they are few") {
                        Users::Everyone(everyone) => {
                            let (there, connections) = followed.there.get_or_insert_default();
                            *there = everyone.user_ids.into_iter().collect();
                            (there, connections)
                        }
                        Users::Changes(changes) => {
                            let (there, connections) = followed.there.as_mut().expect("it asked");
                            there.extend(changes.joined);
                            there.retain(|user| !changes.left.contains(user));
                            (there, connections)
                        }
                    };
                    *connections = presence.connection_count;
                    assert!(there.len() <= CLIENTS);
                }
                Envelope::GoingAway(_) => {}
                envelope => panic!("unexpected {envelope:?}"),
            }
        }
    }

    fn hear(&mut self, id: u32, result: reply::Result) {
        if self.published.remove(&id) || self.paged.remove(&id) {
            return;
        }
        let asked = |followed: &&mut Followed| followed.asked.iter().any(|(asked, _)| *asked == id);
        let followed = self.followed.values_mut().find(asked).expect("one reply to each command");
        let (first, asked) = followed.asked.pop_front().unwrap();
        assert_eq!(first, id, "commands on one channel are answered in order: {result:?}");
        match (asked, result) {
            (Wish::Subscribe(since), reply::Result::Subscribed(subscribed)) => {
                assert!(!mem::replace(&mut followed.is_live, true), "it was live");
                let head = subscribed.head_sequence;
                followed.position = since.unwrap_or(head);
            }
            (Wish::Unsubscribe, reply::Result::Unsubscribed(_)) => {
                followed.is_live = false;
                followed.there = None;
            }
            (Wish::Unsubscribe, reply::Result::Error(_)) => assert!(!followed.is_live),
            (Wish::Subscribe(_), reply::Result::Error(_)) => {
                assert!(!followed.is_live);
                let is_left = followed.asked.iter().any(|(_, it)| *it == Wish::Unsubscribe);
                followed.is_wanted &= is_left;
            }
            (asked, result) => panic!("{result:?} to {asked:?}"),
        }
    }

    fn frames(&self) -> Vec<Envelope> {
        let mut outbox = self.port.outbox.borrow_mut();
        let mut bytes = Vec::new();
        while !outbox.is_empty() {
            let mut slices = [std::io::IoSlice::new(&[]); 8];
            let used = outbox.slices(&mut slices);
            let before = bytes.len();
            slices[..used].iter().for_each(|slice| bytes.extend_from_slice(slice));
            outbox.advance(bytes.len() - before);
        }
        let (mut rest, mut envelopes) = (&bytes[..], Vec::new());
        while let [_, short, ..] = rest {
            let (head, length) = match short {
                126 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
                127 => {
                    let length = u64::from_be_bytes(rest[2..10].try_into().unwrap());
                    (10, usize::try_from(length).unwrap())
                }
                short => (2, usize::from(*short)),
            };
            let payload = &rest[head..head + length];
            envelopes.push(ServerEnvelope::decode(payload).unwrap().envelope.unwrap());
            rest = &rest[head + length..];
        }
        envelopes
    }
}

fn run(seed: u64) {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build_local(LocalOptions::default());
    let runtime = runtime.unwrap();
    let engine = MemoryEngine::default();
    runtime.block_on(async {
        let mut world = World::new(seed, &engine);
        for _ in 0..STEPS {
            world.step().await;
        }
        // Half of the worlds stop in the middle of it all.
        if seed.is_multiple_of(2) {
            world.drain().await;
        }
        world.leave().await;
    });
}

#[test]
fn subscribers_on_any_shard_see_no_gap_and_no_repeat() {
    let number = |name| std::env::var(name).ok().and_then(|seed: String| seed.parse().ok());
    let seeds = match number("SEED") {
        Some(seed) => seed..=seed,
        None => 0..=number("SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let run = std::panic::catch_unwind(|| run(seed));
        assert!(run.is_ok(), "SEED={seed}");
    }
}
