//! How many messages an export writes a second, from memory and from SQLite.
//!
//! `cargo bench --bench export [DIRECTORY]`; without a directory, in the system's temporary one. From
//! memory it is what one core makes of the text; from SQLite a log reader works beside it. Prints, and
//! asserts nothing.

use std::{path::PathBuf, pin::pin, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use hubbub::{
    engine::{
        Chain, Engine,
        memory::MemoryEngine,
        sqlite::{self, SqliteOptions},
    },
    hub::directory::Directory,
    limits::BATCH_MESSAGES_MAX,
    log::{
        batch::{Batch, put_record},
        place::{BatchId, ClientMessageId, Cursor, Head},
        settings::Settings,
    },
    transfer::{
        csv::Columns,
        export::{Export, Format, Selection},
    },
    wire::encode,
};
use tokio::runtime::Builder;

const CHAINS: usize = 64;
const BATCHES_PER_CHAIN: usize = 32;
const USERS: usize = 1_000;
const BODY: &str = "A message as people write them: some words, \"quotes\" now and then, and a \
                    line or two.\nNot long, not short, and mostly plain.";

fn main() {
    let parent = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let parent = parent.map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(&parent).expect("the directory takes another");
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    println!("engine  format  messages/s      MiB/s");
    runtime.block_on(run("memory", MemoryEngine::default()));
    let engine = sqlite::open(dir.path(), SqliteOptions::default()).expect("it opens");
    runtime.block_on(run("sqlite", engine));
}

async fn run<E: Engine>(engine_name: &str, engine: E) {
    let engine = Arc::new(engine);
    let directory = Arc::new(Directory::new(Arc::clone(&engine)));
    fill(&*engine, &directory).await;
    for (name, format) in [("ndjson", Format::Ndjson), ("csv", Format::Csv(Columns::default()))] {
        let started = Instant::now();
        let (engine, directory) = (Arc::clone(&engine), Arc::clone(&directory));
        let export = Export::begin(engine, directory, Selection::All, format);
        let mut chunks = pin!(export.await.expect("it begins").into_stream());
        let mut bytes = 0;
        while let Some(chunk) = chunks.try_next().await.expect("the log is whole") {
            bytes += chunk.len();
        }
        let seconds = started.elapsed().as_secs_f64();
        let messages = (CHAINS * BATCHES_PER_CHAIN * BATCH_MESSAGES_MAX) as f64;
        println!(
            "{engine_name:6}  {name:6}  {:10.0}  {:9.0}",
            messages / seconds,
            bytes as f64 / seconds / 1024.0 / 1024.0
        );
    }
}

async fn fill<E: Engine>(engine: &E, directory: &Directory<E>) {
    let settings = Settings::open("lobby");
    let channel = directory.create_channel(&settings, None, 1_700_000_000_000);
    let channel = channel.await.expect("it is new").info();
    let mut users = Vec::new();
    for number in 0..USERS {
        let (subject, name) = (format!("user-{number}"), format!("User {number}"));
        users.push(directory.user(&subject, &name).await.expect("a number"));
    }
    let mut writers = users.iter().cycle();
    let mut head = Head::empty(channel.epoch);
    for _ in 0..CHAINS {
        let mut chain = Chain {
            channel: channel.id,
            after: head.cursor,
            batches: Vec::new(),
            keys: Vec::new(),
            derived: Vec::new(),
        };
        for _ in 0..BATCHES_PER_CHAIN {
            let batch = Batch {
                epoch: head.epoch,
                id: BatchId(u128::from(head.sequence.0) + 1),
                previous: head.batch,
                first_sequence: head.sequence.next(),
                count: BATCH_MESSAGES_MAX as u16,
                timestamp_ms: head.timestamp_ms.max(1_800_000_000_000) + 1,
                records: records(&mut writers.by_ref().copied(), head.sequence.0),
            };
            head = batch.head(head.cursor);
            chain.batches.push(Arc::new(batch));
        }
        let cursors = engine.append_chain(chain).await.expect("the chain is taken");
        head.cursor = cursors.last().copied().unwrap_or(Cursor(0));
    }
}

fn records(writers: &mut dyn Iterator<Item = hubbub::log::place::UserId>, first: u64) -> Bytes {
    let mut records = BytesMut::new();
    for (id, user) in (first + 1..).zip(writers.take(BATCH_MESSAGES_MAX)) {
        put_record(&mut records, &encode::record(user, Some(ClientMessageId(id)), BODY.to_owned()));
    }
    records.freeze()
}
