//! How many batches the SQLite engine commits a second: by how many are in flight, and by how many
//! are appended as one chain, as an import does.
//!
//! `cargo bench --bench commit [DIRECTORY]`; without a directory, in the system's temporary one,
//! which may be memory. Prints, and asserts nothing: the disk decides.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use hubbub::{
    engine::{
        Append, Chain, Derived, Engine, MessageKey, Table,
        sqlite::{self, SqliteEngine, SqliteOptions},
    },
    limits::BATCH_MESSAGES_MAX,
    log::{
        batch::{Batch, put_record},
        place::{BatchId, ChannelId, ClientMessageId, Epoch, Head, Sequence, UserId},
    },
};
use tokio::{runtime::Builder, task::JoinSet};

const RUN: Duration = Duration::from_secs(3);
const RECORD: [u8; 120] = [b'x'; 120];

fn main() {
    let parent = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let parent = parent.map_or_else(std::env::temp_dir, PathBuf::from);
    println!(
        "in flight  messages/batch   commits/s  batches/s  messages/s   p50 ms   p99 ms   max ms"
    );
    for messages in [1, 16] {
        for in_flight in [1, 10, 100, 1_000] {
            let dir = tempfile::tempdir_in(&parent).expect("the directory takes another");
            let engine = sqlite::open(dir.path(), SqliteOptions::default()).expect("it opens");
            run(engine, in_flight, messages);
        }
    }
    println!("batches/chain  messages/batch   chains/s  messages/s");
    for batches in [1, 8, 64] {
        let dir = tempfile::tempdir_in(&parent).expect("the directory takes another");
        let engine = sqlite::open(dir.path(), SqliteOptions::default()).expect("it opens");
        run_chains(&engine, batches);
    }
}

/// One channel gets chains of full batches, with a derived record for each.
fn run_chains(engine: &SqliteEngine, batches: u64) {
    let channel = ChannelId(0);
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let mut records = BytesMut::new();
    for _ in 0..BATCH_MESSAGES_MAX {
        put_record(&mut records, &RECORD);
    }
    let records = records.freeze();
    let mut head = Head::empty(Epoch(1));
    let (mut chains, mut taken) = (0, Duration::ZERO);
    while taken < RUN {
        let mut chain = Chain {
            channel,
            after: head.cursor,
            batches: Vec::new(),
            keys: Vec::new(),
            derived: Vec::new(),
        };
        for _ in 0..batches {
            let batch = batch_after(&head, BATCH_MESSAGES_MAX as u16, records.clone());
            head = batch.head(head.cursor);
            chain.keys.extend(keys_of(&batch));
            chain.derived.push(Derived {
                table: Table::Imports,
                key: format!("{:010}:{:020}", channel.0, batch.first_sequence.0),
                value: Some(Bytes::from_static(&RECORD)),
            });
            chain.batches.push(Arc::new(batch));
        }
        let sent = Instant::now();
        let cursors = runtime.block_on(engine.append_chain(chain)).expect("the chain is taken");
        taken += sent.elapsed();
        head.cursor = *cursors.last().expect("a cursor for each batch");
        chains += 1;
    }
    let chains_per_s = chains as f64 / taken.as_secs_f64();
    let messages_per_s = chains_per_s * (batches * BATCH_MESSAGES_MAX as u64) as f64;
    println!("{batches:13}  {BATCH_MESSAGES_MAX:14}  {chains_per_s:9.0}  {messages_per_s:10.0}");
}

/// Each channel has one append in flight, as the hub's channels do.
fn run(engine: SqliteEngine, in_flight: u32, messages: u16) {
    let engine = Arc::new(engine);
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let started = Instant::now();
    let mut latencies = runtime.block_on(async {
        let mut channels = JoinSet::new();
        for channel in 0..in_flight {
            channels.spawn(write(Arc::clone(&engine), ChannelId(channel), messages, started));
        }
        channels.join_all().await.concat()
    });
    let seconds = started.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let ms = |part: f64| {
        let at = (latencies.len() as f64 * part) as usize;
        latencies[at.min(latencies.len() - 1)].as_secs_f64() * 1000.0
    };
    let stats = engine.stats();
    println!(
        "{in_flight:9}  {messages:14}  {:10.0} {:10.0}  {:10.0}  {:7.2}  {:7.2}  {:7.2}",
        stats.commits.get() as f64 / seconds,
        stats.batches.get() as f64 / seconds,
        stats.messages.get() as f64 / seconds,
        ms(0.5),
        ms(0.99),
        ms(1.0),
    );
}

async fn write(
    engine: Arc<SqliteEngine>,
    channel: ChannelId,
    messages: u16,
    started: Instant,
) -> Vec<Duration> {
    let mut head = Head::empty(Epoch(1));
    let mut records = BytesMut::new();
    for _ in 0..messages {
        put_record(&mut records, &RECORD);
    }
    let records = records.freeze();
    let mut latencies = Vec::new();
    while started.elapsed() < RUN {
        let batch = batch_after(&head, messages, records.clone());
        let keys = keys_of(&batch).collect();
        let batch = Arc::new(batch);
        let append = Append {
            channel,
            after: head.cursor,
            batch: Arc::clone(&batch),
            keys,
            derived: Vec::new(),
        };
        let sent = Instant::now();
        let cursor = engine.append(append).await.expect("the append is taken");
        latencies.push(sent.elapsed());
        head = batch.head(cursor);
    }
    latencies
}

fn batch_after(head: &Head, messages: u16, records: Bytes) -> Batch {
    Batch {
        epoch: head.epoch,
        id: BatchId(u128::from(head.sequence.0) + 1),
        previous: head.batch,
        first_sequence: head.sequence.next(),
        count: messages,
        timestamp_ms: 0,
        records,
    }
}

fn keys_of(batch: &Batch) -> impl Iterator<Item = MessageKey> {
    (batch.first_sequence.0..=batch.last_sequence().0).map(|sequence| MessageKey {
        // Clients draw their numbers at random, and many users write in turns.
        user: UserId((sequence % 50) as u32),
        client_message_id: ClientMessageId(sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        sequence: Sequence(sequence),
        digest: 0,
    })
}
