use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::{Notify, mpsc};

use super::*;
use crate::{
    engine::{
        Append, Caps, Chain, Derived, Expect, Feed, LogEnd, Mark, MessageKey, ReadFrom, ReadMax,
        Refusal, Revision, Versioned,
        memory::{Fault, MemoryEngine, MemoryLog},
        sqlite::{self, SqliteEngine, SqliteOptions, Synchronous},
    },
    log::{
        batch::{Batch, Entry, put_record},
        place::{BatchId, ClientMessageId, Cursor, Durability, Epoch, UserId},
    },
};

/// What a store holds, as a test makes it up.
#[derive(Clone, Debug)]
struct World {
    /// Of each channel, from 1 on: the messages of each batch, and how many of them are trimmed.
    logs: Vec<(Vec<u16>, u64)>,
    records: BTreeMap<String, Vec<u8>>,
}

fn worlds() -> impl Strategy<Value = World> {
    let log = (prop::collection::vec(1_u16..5, 0..12), 0_u64..20);
    let record = (".{0,6}", prop::collection::vec(any::<u8>(), 0..9));
    (prop::collection::vec(log, 0..5), prop::collection::btree_map(record.0, record.1, 0..12))
        .prop_map(|(logs, records)| World { logs, records })
}

fn world() -> World {
    let records = [("", "nobody"), ("0000000001:0000000002", "x"), ("ü", "\u{1f600}")];
    let records = records.map(|(key, value)| (key.to_owned(), value.into())).into();
    World { logs: vec![(vec![3, 1, 2], 0), (vec![], 0), (vec![2, 2, 4, 1], 3)], records }
}

fn batch_of(channel: u32, number: u128, first: u64, count: u16) -> Batch {
    let mut records = BytesMut::new();
    for sequence in first..first + u64::from(count) {
        put_record(&mut records, &sequence.to_le_bytes());
    }
    let name = |number: u128| BatchId(u128::from(channel) << 64 | number);
    Batch {
        epoch: Epoch(1_700_000_000 + channel),
        id: name(number),
        previous: if number == 1 { BatchId(0) } else { name(number - 1) },
        first_sequence: Sequence(first),
        count,
        timestamp_ms: 1_700_000_000_000 + first,
        records: records.freeze(),
    }
}

/// Every third message has no key.
fn keys_of(batch: &Batch) -> Vec<MessageKey> {
    let sequences = batch.first_sequence.0..=batch.last_sequence().0;
    let key = |sequence| MessageKey {
        user: UserId(7),
        client_message_id: ClientMessageId(u64::MAX - sequence),
        sequence: Sequence(sequence),
        digest: sequence << 40,
    };
    sequences.filter(|sequence| sequence % 3 != 0).map(key).collect()
}

async fn fill(engine: &impl Engine, world: &World) {
    let count = Bytes::from(format!("{{\"id\":{}}}", world.logs.len() + 2));
    engine.put(Table::Counters, "channels", count, Expect::Absent).await.unwrap();
    let tables: Vec<_> = records::tables().collect();
    for (table, (key, value)) in tables.into_iter().cycle().zip(&world.records) {
        // The counter of channels is there already.
        let key = if table == Table::Counters { format!("x{key}") } else { key.clone() };
        engine.put(table, &key, value.clone().into(), Expect::Absent).await.unwrap();
    }
    for (channel, (batches, trimmed)) in (1..).zip(&world.logs) {
        let (mut after, mut first) = (Cursor(0), 1);
        for (number, count) in (1..).zip(batches) {
            let batch = batch_of(channel, number, first, *count);
            let keys = keys_of(&batch);
            first += u64::from(*count);
            let (channel, batch, derived) = (ChannelId(channel), Arc::new(batch), Vec::new());
            let append = Append { channel, after, batch, keys, derived };
            after = engine.append(append).await.unwrap();
        }
        engine.trim(ChannelId(channel), Sequence(*trimmed)).await.unwrap();
    }
}

async fn filled(world: &World) -> MemoryEngine {
    let engine = MemoryEngine::default();
    fill(&engine, world).await;
    engine
}

async fn run<A: Engine, B: Engine>(source: &A, target: &B) -> Result<Verified, MigrateError> {
    let (source, target) = (bare(source), bare(target));
    let plan = Plan::make(&source).await?;
    migrate(&source, &target, &plan, &Progress::default()).await
}

/// Without accounts.
const fn bare<E>(engine: &E) -> Store<'_, E> {
    Store { engine, accounts: Accounts::None }
}

/// What an engine holds, by a way of its own: every batch as bytes, every key, every record.
async fn contents(
    engine: &impl Engine,
) -> (Vec<(u32, Bytes)>, Vec<(u32, MessageKey)>, Vec<(Table, String, Bytes)>) {
    let (mut batches, mut keys, mut records) = (Vec::new(), Vec::new(), Vec::new());
    for channel in 1..10 {
        let id = ChannelId(channel);
        for entry in engine.read(id, ReadFrom::After(Cursor(0)), usize::MAX).await.unwrap() {
            batches.push((channel, entry.batch.encode(id)));
        }
        let found = engine.keys(id, Sequence(1), Sequence(u64::MAX)).await.unwrap();
        keys.extend(found.into_iter().map(|key| (channel, key)));
    }
    for table in Table::ALL {
        for (key, record) in engine.scan(table, "", None, 1_000).await.unwrap() {
            records.push((table, key, record.value));
        }
    }
    (batches, keys, records)
}

fn sqlite_in(dir: &TempDir, name: &str) -> SqliteEngine {
    let options = SqliteOptions { synchronous: Synchronous::Normal, ..SqliteOptions::default() };
    sqlite::open(&dir.path().join(name), options).unwrap()
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().unwrap().block_on(test)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_goes_there_and_back_is_the_same(world in worlds()) {
        block_on(async {
            let dir = TempDir::new().unwrap();
            let source = sqlite_in(&dir, "source");
            fill(&source, &world).await;
            let before = contents(&source).await;
            let plan = Plan::make(&bare(&source)).await.unwrap();
            let rehearsed = rehearse(&bare(&source), &plan, &Progress::default()).await.unwrap();

            let there = MemoryEngine::default();
            let first = run(&source, &there).await.unwrap();
            assert_eq!(contents(&there).await, before);
            let back = sqlite_in(&dir, "back");
            let second = run(&there, &back).await.unwrap();
            assert_eq!(contents(&back).await, before);
            assert_eq!(contents(&source).await, before, "the source is only read");
            assert_eq!((&rehearsed, &first), (&first, &second));
        });
    }

    #[test]
    fn whatever_goes_wrong_at_two_steps_the_copy_becomes_whole(
        world in worlds(),
        steps in prop::array::uniform2((0_usize..60, mishaps())),
    ) {
        block_on(async {
            let source = filled(&world).await;
            let target = MemoryEngine::default();
            for (step, mishap) in steps {
                stopped(&source, &target, step, mishap).await;
            }
            if unfinished(&target).await.unwrap() || contents(&target).await.2.is_empty() {
                run(&source, &target).await.unwrap();
            }
            assert_eq!(contents(&target).await, contents(&source).await);
        });
    }
}

fn mishaps() -> impl Strategy<Value = Mishap> {
    prop_oneof![Just(Mishap::DiesBefore), Just(Mishap::DiesAfter), Just(Mishap::AnswerLost)]
}

/// Runs a migration in which the call of this number goes wrong. Whether it reached its end.
async fn stopped(
    source: &impl Engine,
    target: &MemoryEngine,
    step: usize,
    mishap: Mishap,
) -> Option<Result<Verified, MigrateError>> {
    let mishap = Mishaps { mishap, at: step, ..Mishaps::default() };
    let target = Unlucky { engine: target.clone(), mishaps: Arc::new(mishap), more: Vec::new() };
    let died = Arc::clone(&target.mishaps);
    tokio::select! {
        biased;
        result = run(source, &target) => Some(result),
        () = died.died.notified() => None,
    }
}

#[test]
fn stopped_at_any_step_it_goes_on_where_it_was() {
    block_on(async {
        let source = filled(&world()).await;
        let whole = contents(&source).await;
        let calls = target_calls(&source).await;
        assert!(calls > 40, "only {calls} steps");
        for mishap in [Mishap::DiesBefore, Mishap::DiesAfter, Mishap::AnswerLost] {
            for step in 0..calls {
                let target = MemoryEngine::default();
                let ended = stopped(&source, &target, step, mishap).await;
                let is_unfinished = unfinished(&target).await.unwrap();
                match ended {
                    Some(result) => {
                        result.unwrap();
                        assert!(!is_unfinished);
                    }
                    None if is_unfinished => {
                        run(&source, &target).await.unwrap();
                    }
                    // Nothing was begun, or all was done but the last answer.
                    None => {
                        let records = contents(&target).await.2.len();
                        assert!(records == 0 || records == whole.2.len());
                        if records == 0 {
                            run(&source, &target).await.unwrap();
                        }
                    }
                }
                assert_eq!(contents(&target).await, whole, "{mishap:?} at {step}");
            }
        }
    });
}

/// How many calls of the target a migration makes where nothing goes wrong.
async fn target_calls(source: &impl Engine) -> usize {
    let mishaps = Arc::new(Mishaps { at: usize::MAX, ..Mishaps::default() });
    let engine = MemoryEngine::default();
    let target = Unlucky { engine, mishaps: Arc::clone(&mishaps), more: Vec::new() };
    run(source, &target).await.unwrap();
    mishaps.calls.load(SeqCst)
}

#[test]
fn an_engine_that_is_busy_for_a_while_is_waited_for() {
    block_on(async {
        let source = filled(&world()).await;
        let target = MemoryEngine::default();
        for faults in [source.faults(), target.faults()] {
            for _ in 0..9 {
                faults.fail_next_read(ReadError::StorageUnavailable);
                faults.fail_next_record(RecordError::Busy);
                faults.fail_next_record(RecordError::StorageUnavailable);
            }
        }
        let fault = [Fault::Refused(Refusal::Busy), Fault::UnknownLost, Fault::UnknownCommitted];
        fault.into_iter().for_each(|fault| target.faults().next_append(fault));
        run(&source, &target).await.unwrap();
        assert_eq!(contents(&target).await, contents(&source).await);

        for _ in 0..=MIGRATE_TRIES_MAX {
            source.faults().fail_next_read(ReadError::StorageUnavailable);
        }
        let error = run(&source, &MemoryEngine::default()).await.unwrap_err();
        assert!(matches!(error, MigrateError::ReadSource(..)), "{error}");
    });
}

#[test]
fn a_target_with_data_of_its_own_is_refused_and_left_alone() {
    block_on(async {
        let source = filled(&world()).await;
        let target = MemoryEngine::default();
        target.put(Table::Users, "id:1", Bytes::new(), Expect::Absent).await.unwrap();
        let before = contents(&target).await;
        let error = run(&source, &target).await.unwrap_err();
        assert!(matches!(error, MigrateError::TargetInUse(_)), "{error}");
        assert_eq!(contents(&target).await, before);

        let target = MemoryEngine::default();
        target.with_log(|log| log.place(ChannelId(3), batch_of(3, 1, 1, 1)));
        let error = run(&source, &target).await.unwrap_err();
        assert!(matches!(error, MigrateError::TargetInUse(_)), "{error}");
        // A copy that is finished is one like any other store.
        let target = MemoryEngine::default();
        run(&source, &target).await.unwrap();
        let error = run(&source, &target).await.unwrap_err();
        assert!(matches!(error, MigrateError::TargetInUse(_)), "{error}");
    });
}

#[test]
fn half_a_copy_is_neither_a_source_nor_filled_from_elsewhere() {
    block_on(async {
        let source = filled(&world()).await;
        let target = MemoryEngine::default();
        assert!(stopped(&source, &target, 40, Mishap::DiesAfter).await.is_none());
        assert!(unfinished(&target).await.unwrap());
        let error = run(&target, &MemoryEngine::default()).await.unwrap_err();
        assert!(matches!(error, MigrateError::SourceUnfinished), "{error}");

        let mut other = world();
        other.logs[0].0.push(1);
        let error = run(&filled(&other).await, &target).await.unwrap_err();
        assert!(matches!(error, MigrateError::OtherSource), "{error}");
        let mut other = world();
        other.records.insert("one more".to_owned(), Vec::new());
        let error = run(&filled(&other).await, &target).await.unwrap_err();
        assert!(matches!(error, MigrateError::OtherSource), "{error}");
        run(&source, &target).await.unwrap();
    });
}

#[test]
fn what_differs_in_the_target_is_found_and_not_overwritten() {
    block_on(async {
        let source = filled(&world()).await;
        let half = |step| {
            let source = source.clone();
            async move {
                let target = MemoryEngine::default();
                assert!(stopped(&source, &target, step, Mishap::DiesAfter).await.is_none());
                target
            }
        };
        // After the marker and its checks.
        let target = half(16).await;
        let other = Batch { id: BatchId(5), ..batch_of(1, 1, 1, 3) };
        target.with_log(|log| log.place(ChannelId(1), other));
        let error = run(&source, &target).await.unwrap_err();
        assert!(matches!(error, MigrateError::LogDiffers { .. }), "{error}");

        let target = half(16).await;
        target.put(Table::Users, "ü", Bytes::new(), Expect::Absent).await.unwrap();
        let error = run(&source, &target).await.unwrap_err();
        assert!(matches!(error, MigrateError::RecordDiffers { .. }), "{error}");
        assert!(unfinished(&target).await.unwrap());

        // Right up to its end, and with something behind it.
        let target = half(16).await;
        fill_log(&target, 1, &[3, 1, 2, 1]).await;
        let error = run(&source, &target).await.unwrap_err();
        assert!(matches!(error, MigrateError::LogDiffers { .. }), "{error}");
    });
}

async fn fill_log(engine: &impl Engine, channel: u32, counts: &[u16]) {
    let (mut after, mut first) = (Cursor(0), 1);
    for (number, count) in (1..).zip(counts) {
        let batch = Arc::new(batch_of(channel, number, first, *count));
        let (channel, keys) = (ChannelId(channel), Vec::new());
        first += u64::from(*count);
        let append = Append { channel, after, batch, keys, derived: Vec::new() };
        after = engine.append(append).await.unwrap();
    }
}

#[test]
fn keys_that_are_missing_in_the_target_are_found() {
    block_on(async {
        let source = filled(&world()).await;
        let target = MemoryEngine::default();
        assert!(stopped(&source, &target, 16, Mishap::DiesAfter).await.is_none());
        fill_log(&target, 1, &[3, 1, 2]).await;
        let error = run(&source, &target).await.unwrap_err();
        assert!(matches!(error, MigrateError::LogDiffers { .. }), "{error}");
    });
}

#[test]
fn a_source_that_changes_meanwhile_is_noticed() {
    block_on(async {
        let source = filled(&world()).await;
        let plan = Plan::make(&bare(&source)).await.unwrap();
        source.put(Table::Users, "late", Bytes::new(), Expect::Absent).await.unwrap();
        let target = MemoryEngine::default();
        let error =
            migrate(&bare(&source), &bare(&target), &plan, &Progress::default()).await.unwrap_err();
        assert!(matches!(error, MigrateError::SourceChanged), "{error}");
        assert!(unfinished(&target).await.unwrap());
    });
}

#[test]
fn junk_stays_behind() {
    block_on(async {
        let caps = Caps { durability: Durability::Quorum, junk_possible: true };
        let source = MemoryEngine::new(MemoryLog::new(caps));
        fill(&source, &world()).await;
        let junk = Batch { id: BatchId(5), ..batch_of(1, 3, 5, 1) };
        source.with_log(|log| log.place(ChannelId(1), junk));
        let next = batch_of(1, 4, 7, 2);
        source.with_log(|log| log.place(ChannelId(1), next.clone()));
        let target = MemoryEngine::default();
        let verified = run(&source, &target).await.unwrap();
        assert_eq!(verified.messages, 6 + 2 + 9 - 2);
        let batches = contents(&target).await.0;
        assert_eq!(batches[3], (1, next.encode(ChannelId(1))));
        assert_eq!(batches.len(), 4 + 3);
        // Where there can be none it is damage.
        let broken = filled(&world()).await;
        broken.with_log(|log| log.place(ChannelId(1), batch_of(1, 9, 5, 1)));
        let error = run(&broken, &MemoryEngine::default()).await.unwrap_err();
        assert!(matches!(error, MigrateError::Broken { .. }), "{error}");
    });
}

#[test]
fn of_a_key_that_the_source_has_taken_twice_the_first_is_kept() {
    block_on(async {
        let source = filled(&world()).await;
        let whole = contents(&source).await;
        // As an engine tells them that knows a key only for a while: once more in the same batch, and in a
        // later one.
        let key = |of: usize, sequence| {
            let (channel, key) = whole.1[of];
            (ChannelId(channel), MessageKey { sequence: Sequence(sequence), ..key })
        };
        let mishaps = Arc::new(Mishaps { at: usize::MAX, ..Mishaps::default() });
        let more = vec![key(0, 3), key(1, 6)];
        let source = Unlucky { engine: source, mishaps, more };
        // All batches in one chain, and each in one of its own.
        for refused in [0, 2] {
            let target = MemoryEngine::default();
            for _ in 0..refused {
                target.faults().refuse_next_append(Refusal::TooLarge);
            }
            let verified = run(&source, &target).await.unwrap();
            assert_eq!(verified.repeated_keys, 2);
            assert_eq!(contents(&target).await, whole);
        }
    });
}

#[test]
fn a_chain_that_the_target_finds_too_large_goes_in_parts() {
    block_on(async {
        let counts = vec![1; 50];
        let source = filled(&World { logs: vec![(counts, 0)], records: BTreeMap::new() }).await;
        let target = MemoryEngine::default();
        target.faults().refuse_next_append(Refusal::TooLarge);
        target.faults().refuse_next_append(Refusal::TooLarge);
        run(&source, &target).await.unwrap();
        assert_eq!(contents(&target).await, contents(&source).await);
        let target = MemoryEngine::default();
        for _ in 0..9 {
            target.faults().refuse_next_append(Refusal::TooLarge);
        }
        let error = run(&source, &target).await.unwrap_err();
        let too_large = AppendError::Refused(Refusal::TooLarge);
        assert!(matches!(&error, MigrateError::Append(_, why) if *why == too_large), "{error}");
    });
}

/// What happens to one call.
#[derive(Clone, Copy, Debug, Default)]
enum Mishap {
    /// The process ends before it.
    #[default]
    DiesBefore,
    /// The process ends after it, before the answer.
    DiesAfter,
    /// It is done, and nobody says so.
    AnswerLost,
}

#[derive(Debug, Default)]
struct Mishaps {
    mishap: Mishap,
    /// The number of the call, from 0 on.
    at: usize,
    calls: AtomicUsize,
    died: Notify,
}

/// An engine of which one call goes wrong, and which knows more keys than it should.
#[derive(Debug)]
struct Unlucky {
    engine: MemoryEngine,
    mishaps: Arc<Mishaps>,
    more: Vec<(ChannelId, MessageKey)>,
}

impl Unlucky {
    fn pass<T: Send + 'static, X: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, X>> + Send + 'static,
        lost: X,
    ) -> impl Future<Output = Result<T, X>> + Send + 'static {
        let mishaps = Arc::clone(&self.mishaps);
        async move {
            if mishaps.calls.fetch_add(1, SeqCst) != mishaps.at {
                return call.await;
            }
            if !matches!(mishaps.mishap, Mishap::DiesBefore) {
                let _ = call.await;
            }
            if matches!(mishaps.mishap, Mishap::AnswerLost) {
                return Err(lost);
            }
            mishaps.died.notify_one();
            std::future::pending().await
        }
    }
}

impl Engine for Unlucky {
    fn append(
        &self,
        append: Append,
    ) -> impl Future<Output = Result<Cursor, AppendError>> + Send + 'static {
        self.pass(self.engine.append(append), AppendError::Unknown)
    }

    fn append_chain(
        &self,
        chain: Chain,
    ) -> impl Future<Output = Result<Vec<Cursor>, AppendError>> + Send + 'static {
        self.pass(self.engine.append_chain(chain), AppendError::Unknown)
    }

    fn mark(&self) -> impl Future<Output = Result<Mark, ReadError>> + Send + 'static {
        self.pass(self.engine.mark(), ReadError::Busy)
    }

    fn read(
        &self,
        channel: ChannelId,
        from: ReadFrom,
        max: impl Into<ReadMax>,
    ) -> impl Future<Output = Result<Vec<Entry>, ReadError>> + Send + 'static {
        self.pass(self.engine.read(channel, from, max), ReadError::Busy)
    }

    fn heads(
        &self,
        channels: Vec<ChannelId>,
    ) -> impl Future<Output = Result<Vec<LogEnd>, ReadError>> + Send + 'static {
        self.pass(self.engine.heads(channels), ReadError::Busy)
    }

    fn find_keys(
        &self,
        channel: ChannelId,
        keys: Vec<(UserId, ClientMessageId)>,
    ) -> impl Future<Output = Result<Vec<MessageKey>, ReadError>> + Send + 'static {
        self.pass(self.engine.find_keys(channel, keys), ReadError::Busy)
    }

    fn keys(
        &self,
        channel: ChannelId,
        first: Sequence,
        last: Sequence,
    ) -> impl Future<Output = Result<Vec<MessageKey>, ReadError>> + Send + 'static {
        let keys = self.engine.keys(channel, first, last);
        let more = self
            .more
            .iter()
            .filter(move |(of, key)| *of == channel && (first..=last).contains(&key.sequence));
        let more: Vec<_> = more.map(|(_, key)| *key).collect();
        let keys = async move {
            let mut keys = keys.await?;
            keys.extend(more);
            keys.sort_by_key(|key| key.sequence);
            Ok(keys)
        };
        self.pass(keys, ReadError::Busy)
    }

    fn trim(
        &self,
        channel: ChannelId,
        sequence: Sequence,
    ) -> impl Future<Output = Result<(), RecordError>> + Send + 'static {
        self.pass(self.engine.trim(channel, sequence), RecordError::StorageUnavailable)
    }

    fn follow(&self) -> mpsc::Receiver<Feed> {
        self.engine.follow()
    }

    fn get(
        &self,
        table: Table,
        key: &str,
    ) -> impl Future<Output = Result<Option<Versioned>, RecordError>> + Send + 'static {
        self.pass(self.engine.get(table, key), RecordError::StorageUnavailable)
    }

    fn put_with(
        &self,
        table: Table,
        key: &str,
        value: Bytes,
        expect: Expect,
        derived: Vec<Derived>,
    ) -> impl Future<Output = Result<Revision, RecordError>> + Send + 'static {
        let put = self.engine.put_with(table, key, value, expect, derived);
        self.pass(put, RecordError::StorageUnavailable)
    }

    fn remove(
        &self,
        table: Table,
        key: &str,
        revision: Revision,
    ) -> impl Future<Output = Result<(), RecordError>> + Send + 'static {
        self.pass(self.engine.remove(table, key, revision), RecordError::StorageUnavailable)
    }

    fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
    ) -> impl Future<Output = Result<Vec<(String, Versioned)>, RecordError>> + Send + 'static {
        let scan = self.engine.scan(table, prefix, after, count_max);
        self.pass(scan, RecordError::StorageUnavailable)
    }

    fn caps(&self) -> Caps {
        self.engine.caps()
    }
}
