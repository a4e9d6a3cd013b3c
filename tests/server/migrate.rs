//! From one store to another: whoever was connected to the old server goes on at the new one, and much
//! goes there and back.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use hubbub::{
    client::Delivery,
    engine::{
        Chain, Engine, Expect, MessageKey, Table,
        jetstream::{self, JetStreamEngine, JetStreamOptions},
        sqlite::{self, SqliteEngine, SqliteOptions},
    },
    log::{
        batch::{Batch, put_record},
        place::{BatchId, ChannelId, ClientMessageId, Cursor, Epoch, Sequence, UserId},
    },
    migrate::{self, Accounts, Progress, Store, Verified, plan::Plan},
    wire::code::ErrorCode,
};
use tempfile::TempDir;
use testnats::{Nats, Options};

use crate::harness::{LOBBY, Peer, TestServer, code_of, now_s, off_runtime, position, within};

const KEY: u64 = 77;

#[tokio::test]
async fn clients_go_on_in_the_copy_from_their_positions() {
    let mut server = TestServer::start().await;
    let reader = server.client("ada");
    let mut subscription = within("subscribe", reader.subscribe(LOBBY, None)).await.unwrap();
    let writer = server.client("bob");
    for number in 1..=100 {
        within("publish", writer.publish(LOBBY, &number.to_string())).await.unwrap();
    }
    let mut peer = Peer::login(&server, "eve").await;
    let first = peer.publish_as(LOBBY, "once", KEY).await.unwrap();
    assert_eq!(first.sequence, 101);
    drop(peer);

    // Where the server still is at work nothing is copied.
    let used = sqlite::open(server.data_dir(), SqliteOptions::default()).unwrap_err();
    assert!(matches!(used, sqlite::OpenError::InUse(_)), "{used}");
    assert!(server.drain().await, "drained too late");
    let copy = TempDir::new().unwrap();
    let verified = migrate_dir(server.data_dir(), copy.path()).await;
    assert!(verified.account_rows > 0);
    assert_eq!((verified.messages, verified.keys), (101, 101));
    server.move_to(copy);
    server.start_again().await;

    // A publish that is sent again keeps its place, and another one under its number is refused.
    let mut peer = Peer::login(&server, "eve").await;
    let again = peer.publish_as(LOBBY, "once", KEY).await.unwrap();
    assert_eq!((again.epoch, again.sequence), (first.epoch, first.sequence));
    let other = peer.publish_as(LOBBY, "twice", KEY).await;
    assert_eq!(code_of(other), ErrorCode::IdempotencyConflict);
    peer.subscribe(LOBBY, position(first.epoch, 98)).await.unwrap();
    let sequences: Vec<_> = peer.messages(3).await.iter().map(|it| it.sequence).collect();
    assert_eq!(sequences, [99, 100, 101]);

    within("publish", writer.publish(LOBBY, "after")).await.unwrap();
    for sequence in 1..=102 {
        match within("a delivery", subscription.next()).await.unwrap().unwrap() {
            Delivery::Message(message) => assert_eq!(message.sequence.0, sequence),
            other => panic!("{other:?} instead of message {sequence}"),
        }
    }
}

#[tokio::test]
async fn no_server_starts_on_half_a_copy() {
    let mut server = TestServer::start().await;
    assert!(server.drain().await, "drained too late");
    let half = TempDir::new().unwrap();
    {
        let source = open(server.data_dir());
        let target = open(half.path());
        let (from, to) = (store(&source), store(&target));
        let plan = Plan::make(&from).await.unwrap();
        // It was published to since the plan was made, which shows at the end.
        source.put(Table::Users, "late", Bytes::new(), Expect::Absent).await.unwrap();
        let progress = Progress::default();
        let error = migrate::migrate(&from, &to, &plan, &progress).await.unwrap_err();
        assert!(matches!(error, migrate::MigrateError::SourceChanged), "{error}");
    }
    server.move_to(half);
    let refused = server.try_to_start().await.unwrap_err();
    assert!(refused.contains("half a copy"), "{refused}");
}

/// As many as `MESSAGES` says; docs/MIGRATION.md measures a million.
#[tokio::test]
async fn what_goes_there_and_back_has_the_same_digests() {
    let count = std::env::var("MESSAGES").map_or(20_000, |count| count.parse().unwrap());
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap()];
    let [source, there, back] = dirs.each_ref().map(|dir| open(dir.path()));
    timed("made", generate(&source, count)).await;
    let (first, second) = match cluster(3).await {
        Some((_nats, there)) => {
            let first = timed("there", migrate(&source, &there)).await;
            (first, timed("back", migrate(&there, &back)).await)
        }
        None => {
            let first = timed("there", migrate(&source, &there)).await;
            (first, timed("back", migrate(&there, &back)).await)
        }
    };
    assert_eq!(first, second);
    assert_eq!(first.messages, count);
    println!("{} messages, {} bytes, digest {}", first.messages, first.bytes, first.digest());
}

#[tokio::test]
async fn into_a_cluster_and_back_clients_and_accounts_go_on() {
    let Some((_nats, cluster)) = cluster(1).await else { return };
    let mut server = TestServer::start().await;
    let tokens = server.session("ada").await;
    let reader = server.client("bob");
    let mut subscription = within("subscribe", reader.subscribe(LOBBY, None)).await.unwrap();
    let writer = server.client("eve");
    for number in 1..=50 {
        within("publish", writer.publish(LOBBY, &number.to_string())).await.unwrap();
    }
    assert!(server.drain().await, "drained too late");

    let copy = TempDir::new().unwrap();
    {
        let (source, target) = (open(server.data_dir()), open(copy.path()));
        let accounts = |dir: &Path| Accounts::In(dir.to_owned());
        let source = Store { engine: &source, accounts: accounts(server.data_dir()) };
        let target = Store { engine: &target, accounts: accounts(copy.path()) };
        let there = Store {
            engine: &cluster,
            accounts: Accounts::Of(std::sync::Arc::new(cluster.accounts())),
        };
        let first = migrate_all(&source, &there).await;
        assert_eq!(first.messages, 50);
        assert!(first.account_rows > 4, "{first:?}");
        assert_eq!(migrate_all(&there, &target).await, first);
    }
    server.move_to(copy);
    server.start_again().await;
    within("publish", writer.publish(LOBBY, "after")).await.unwrap();
    for sequence in 1..=51 {
        match within("a delivery", subscription.next()).await.unwrap().unwrap() {
            Delivery::Message(message) => assert_eq!(message.sequence.0, sequence),
            other => panic!("{other:?} instead of message {sequence}"),
        }
    }
    // A session that was open goes on, with keys and secrets that are the old ones.
    let auth = server.auth();
    let renewed = auth.refresh(&tokens.refresh_token, [127, 0, 0, 1].into(), now_s()).await;
    assert!(renewed.is_ok(), "{renewed:?}");
}

/// A cluster of so many servers of NATS, if there is the program.
async fn cluster(servers: usize) -> Option<(Nats, JetStreamEngine)> {
    if testnats::program().is_none() {
        println!("{}", testnats::MISSING);
        return None;
    }
    let nats = off_runtime(move || Nats::start(&Options::new(servers)).unwrap()).await;
    let servers_of = nats.url().split(',').map(str::to_owned).collect();
    let engine = jetstream::open(JetStreamOptions {
        servers: servers_of,
        credentials: None,
        prefix: "moved".to_owned(),
        streams: 4,
        single: servers == 1,
        ack_timeout: Duration::from_secs(10),
        on_thread_start: Arc::new(|| {}),
    });
    Some((nats, engine.unwrap()))
}

fn open(dir: &Path) -> SqliteEngine {
    sqlite::open(dir, SqliteOptions::default()).unwrap()
}

async fn migrate<A: Engine, B: Engine>(source: &A, target: &B) -> Verified {
    migrate_all(&store(source), &store(target)).await
}

/// Without accounts.
const fn store<E>(engine: &E) -> Store<'_, E> {
    Store { engine, accounts: Accounts::None }
}

async fn migrate_all<A: Engine, B: Engine>(
    source: &Store<'_, A>,
    target: &Store<'_, B>,
) -> Verified {
    let plan = Plan::make(source).await.unwrap();
    migrate::migrate(source, target, &plan, &Progress::default()).await.unwrap()
}

/// One data directory with all that is in it.
async fn migrate_dir(from: &Path, to: &Path) -> Verified {
    let (source, target) = (open(from), open(to));
    let source = Store { engine: &source, accounts: Accounts::In(from.to_owned()) };
    let target = Store { engine: &target, accounts: Accounts::In(to.to_owned()) };
    migrate_all(&source, &target).await
}

async fn timed<T>(what: &str, work: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let done = work.await;
    println!("{what} in {:.1} s", began.elapsed().as_secs_f64());
    done
}

/// So many messages in 16 channels, 20 to a batch and 200 bytes each, all with keys; and a record for
/// every hundred.
async fn generate(engine: &impl Engine, count: u64) {
    const CHANNELS: u32 = 16;
    const BATCH: u64 = 20;
    let counter = Bytes::from_static(b"{\"id\":16}");
    engine.put(Table::Counters, "channels", counter, Expect::Absent).await.unwrap();
    let users: Vec<_> = (1..=count / 100).map(|user| format!("id:{user}")).collect();
    for users in users.chunks(100) {
        let value = Bytes::from_static(&[b'x'; 60]);
        let puts =
            users.iter().map(|user| engine.put(Table::Users, user, value.clone(), Expect::Absent));
        for put in join_all(puts).await {
            put.unwrap();
        }
    }
    let mut batch_id = 0;
    for channel in 1..=CHANNELS {
        let rest = u64::from(u64::from(channel) <= count % u64::from(CHANNELS));
        let of_channel = count / u64::from(CHANNELS) + rest;
        let (mut after, mut first, mut previous) = (Cursor(0), 1, BatchId(0));
        while first <= of_channel {
            let mut chain = Chain {
                channel: ChannelId(channel),
                after,
                batches: Vec::new(),
                keys: Vec::new(),
                derived: Vec::new(),
            };
            while first <= of_channel && chain.batches.len() < 200 {
                let last = of_channel.min(first + BATCH - 1);
                batch_id += 1;
                let mut records = BytesMut::new();
                for sequence in first..=last {
                    put_record(&mut records, format!("{sequence:0200}").as_bytes());
                    chain.keys.push(MessageKey {
                        user: UserId(u32::try_from(sequence % 97).unwrap()),
                        client_message_id: ClientMessageId(sequence << 20),
                        sequence: Sequence(sequence),
                        digest: sequence << 7,
                    });
                }
                let id = BatchId(batch_id);
                chain.batches.push(Arc::new(Batch {
                    epoch: Epoch(1_700_000_000),
                    id,
                    previous,
                    first_sequence: Sequence(first),
                    count: u16::try_from(last + 1 - first).unwrap(),
                    timestamp_ms: 1_700_000_000_000 + first,
                    records: records.freeze(),
                }));
                (first, previous) = (last + 1, id);
            }
            after = *engine.append_chain(chain).await.unwrap().last().unwrap();
        }
    }
}
