//! What only a disk can do: restarts, full disks, failed commits, damage.

use std::{fs, os::unix::fs::PermissionsExt, sync::mpsc::SyncSender};

use futures_util::future::join_all;
use rusqlite::ffi;
use tempfile::TempDir;

use super::{super::tests::*, *};
use crate::{engine::Derived, log::batch::BatchError};

const ALL: usize = usize::MAX;

fn open_in(dir: &TempDir) -> SqliteEngine {
    open(dir.path(), SqliteOptions::default()).unwrap()
}

fn started() -> (TempDir, SqliteEngine) {
    let dir = tempfile::tempdir().unwrap();
    let engine = open_in(&dir);
    (dir, engine)
}

/// A connection beside the engine's, as the `sqlite3` shell would have.
fn beside(dir: &TempDir) -> Connection {
    Connection::open(dir.path().join(DATABASE_FILE)).unwrap()
}

async fn entries(engine: &SqliteEngine, channel: ChannelId) -> Vec<Entry> {
    engine.read(channel, ReadFrom::After(Cursor(0)), ALL).await.unwrap()
}

impl SqliteEngine {
    /// Changes the writer between two transactions.
    fn meddle(&self, change: impl FnOnce(&mut Writer) + Send + 'static) {
        self.writer.send(Work::Meddle(Box::new(change))).unwrap();
    }

    /// Lets the writer take nothing until the answer is dropped or sent to.
    fn pause(&self) -> SyncSender<()> {
        let (resume, resumed) = sync_channel(8);
        let (pausing, paused) = sync_channel(8);
        self.meddle(move |_| {
            pausing.send(()).unwrap();
            let _ = resumed.recv();
        });
        paused.recv().unwrap();
        resume
    }

    /// The next commit goes this way, and the later ones as usual.
    fn next_commit(&self, commit: impl Fn(&Connection) -> rusqlite::Result<()> + Send + 'static) {
        self.meddle(move |writer| {
            let mut used = false;
            writer.commit = Box::new(move |connection| {
                if std::mem::replace(&mut used, true) {
                    connection.execute_batch("COMMIT")
                } else {
                    commit(connection)
                }
            });
        });
    }
}

fn sync_failed() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_FSYNC), None)
}

#[tokio::test]
async fn a_restart_finds_all_and_goes_on() {
    let (dir, engine) = started();
    let mut chain = Appender::new(LOBBY);
    let first = chain.next_with(&[5], b"a");
    let cursor = engine.append(first.clone()).await.unwrap();
    chain.extend(&first, cursor);
    chain.append(&engine, 3).await;
    let revision =
        engine.put(Table::Users, "ann", Bytes::from_static(b"1"), Expect::Absent).await.unwrap();
    let before = entries(&engine, LOBBY).await;
    engine.close();
    drop(engine);
    assert_eq!(fs::metadata(dir.path().join("hubbub.db-wal")).unwrap().len(), 0);

    let engine = open_in(&dir);
    assert_eq!(entries(&engine, LOBBY).await, before);
    let retry = chain.next_with(&[5], b"a");
    assert_eq!(engine.append(retry).await, Err(AppendError::Duplicates(first.keys)));
    chain.append(&engine, 1).await;
    assert_eq!(engine.get(Table::Users, "ann").await.unwrap().unwrap().revision, revision);
}

#[tokio::test]
async fn what_is_acknowledged_is_in_the_files_at_that_moment() {
    let (dir, engine) = started();
    let mut chain = Appender::new(LOBBY);
    for _ in 0..20 {
        chain.append(&engine, 2).await;
    }
    // What a killed process leaves behind, without a close.
    let copy = tempfile::tempdir().unwrap();
    for file in ["hubbub.db", "hubbub.db-wal"] {
        fs::copy(dir.path().join(file), copy.path().join(file)).unwrap();
    }
    let restarted = open_in(&copy);
    assert_eq!(entries(&restarted, LOBBY).await, entries(&engine, LOBBY).await);
    assert_eq!(chain.append(&restarted, 1).await, Cursor(21));
}

#[test]
fn a_second_server_is_refused_until_the_first_is_gone() {
    let (dir, engine) = started();
    let error = open(dir.path(), SqliteOptions::default()).unwrap_err();
    assert!(matches!(&error, OpenError::InUse(path) if path == dir.path()), "{error}");
    assert!(error.to_string().starts_with("another hubbub serves from the data directory /"));
    drop(engine);
    open_in(&dir);
}

#[test]
fn a_newer_schema_is_refused_with_a_sentence() {
    let (dir, engine) = started();
    drop(engine);
    beside(&dir).pragma_update(None, "user_version", 1000).unwrap();
    let error = open(dir.path(), SqliteOptions::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the database has schema 1000 and this hubbub knows up to 1: run the newer version"
    );
}

#[tokio::test]
async fn nobody_else_may_read_the_files() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data").join("hubbub");
    let engine = open(&dir, SqliteOptions::default()).unwrap();
    Appender::new(LOBBY).append(&engine, 1).await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let files: Vec<_> = fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 4, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    assert_eq!(mode(&dir), 0o700);
}

#[test]
fn every_thread_says_what_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let (role_started, roles) = sync_channel(8);
    let on_thread_start = Arc::new(move |role| role_started.send(role).unwrap());
    let engine = open(dir.path(), SqliteOptions { on_thread_start, ..Default::default() }).unwrap();
    drop(engine);
    let mut roles: Vec<ThreadRole> = roles.iter().collect();
    roles.sort_by_key(|role| format!("{role:?}"));
    assert_eq!(roles, [ThreadRole::LogReader(0), ThreadRole::LogReader(1), ThreadRole::LogWriter]);
}

#[tokio::test]
async fn what_waits_together_is_one_commit() {
    let (_dir, engine) = started();
    let resume = engine.pause();
    let appends: Vec<_> =
        (0..100).map(|n| engine.append(Appender::new(ChannelId(n)).next(2))).collect();
    let put = engine.put(Table::Counters, "user", Bytes::new(), Expect::Absent);
    drop(resume);
    let cursors: Vec<u64> = join_all(appends).await.into_iter().map(|at| at.unwrap().0).collect();
    assert_eq!(cursors, (1..=100).collect::<Vec<_>>());
    put.await.unwrap();
    let stats = engine.stats();
    assert_eq!((stats.commits.get(), stats.batches.get(), stats.messages.get()), (1, 100, 200));
    assert_eq!(stats.commit_time.buckets().iter().sum::<u64>(), 1);
}

#[tokio::test]
async fn an_append_that_fails_leaves_its_neighbours_in_peace() {
    let (_dir, engine) = started();
    let mut lobby = Appender::new(LOBBY);
    let first = lobby.next_with(&[1], b"a");
    let cursor = engine.append(first.clone()).await.unwrap();
    lobby.extend(&first, cursor);

    let mut attic = Appender::new(ATTIC);
    let resume = engine.pause();
    let early = engine.append(attic.next_with(&[1], b"a"));
    let duplicate = engine.append(lobby.next_with(&[2, 1], b"a"));
    let moved = engine.append(first.clone());
    let fitting = engine.append(lobby.next_with(&[2], b"a"));
    let late = engine.append(attic.next_with(&[2], b"a"));
    drop(resume);
    assert_eq!(early.await, Ok(Cursor(2)));
    assert_eq!(duplicate.await, Err(AppendError::Duplicates(first.keys)));
    assert_eq!(moved.await, Err(AppendError::Moved));
    assert_eq!(fitting.await, Ok(Cursor(3)), "key 2 was freed within the transaction");
    assert_eq!(late.await, Err(AppendError::Moved), "it did not wait for the early one");
    assert_eq!(engine.stats().commits.get(), 2);
}

#[tokio::test]
async fn a_full_mailbox_is_busy_and_all_in_it_is_answered() {
    let (_dir, engine) = started();
    let resume = engine.pause();
    let count = u32::try_from(limits::WRITER_MAILBOX_MAX).unwrap();
    let appends: Vec<_> =
        (0..count).map(|n| engine.append(Appender::new(ChannelId(n)).next(1))).collect();
    let refused = engine.append(Appender::new(ChannelId(count)).next(1));
    assert_eq!(refused.await, Err(AppendError::Refused(Refusal::Busy)));
    assert_eq!(engine.trim(LOBBY, Sequence(1)).await, Err(RecordError::Busy));
    drop(resume);
    assert!(join_all(appends).await.iter().all(Result::is_ok));
    Appender::new(ChannelId(count)).append(&engine, 1).await;
}

#[tokio::test]
async fn readers_neither_wait_for_a_commit_nor_see_it_early() {
    let (_dir, engine) = started();
    let mut chain = Appender::new(LOBBY);
    chain.append(&engine, 1).await;
    let (resume, resumed) = sync_channel(8);
    let (committing, in_commit) = sync_channel(8);
    engine.next_commit(move |connection| {
        committing.send(()).unwrap();
        resumed.recv().unwrap();
        connection.execute_batch("COMMIT")
    });
    let append = engine.append(chain.next(1));
    in_commit.recv().unwrap();
    assert_eq!(entries(&engine, LOBBY).await.len(), 1);
    resume.send(()).unwrap();
    append.await.unwrap();
    assert_eq!(entries(&engine, LOBBY).await.len(), 2);
}

#[tokio::test]
async fn a_full_disk_refuses_serves_reads_and_heals() {
    let (dir, engine) = started();
    let body = [0; 20_000];
    let mut chain = Appender::new(LOBBY);
    chain.append(&engine, 1).await;
    engine.meddle(|writer| {
        let connection = writer.connection.as_ref().unwrap();
        connection.execute_batch("PRAGMA max_page_count = 40").unwrap();
    });
    let mut attic = Appender::new(ATTIC);
    let refused = loop {
        let append = chain.next_with(&[chain.head.sequence.0], &body);
        match engine.append(append.clone()).await {
            Ok(cursor) => chain.extend(&append, cursor),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, AppendError::Refused(Refusal::StorageUnavailable));
    let count = entries(&engine, LOBBY).await.len();
    assert_eq!(entries(&engine, LOBBY).await.last().unwrap().at, chain.head.cursor);

    // All in the transaction are refused, also what would have fitted alone.
    let resume = engine.pause();
    let small = engine.append(attic.next(1));
    let large = engine.append(chain.next_with(&[1 << 40], &body));
    drop(resume);
    assert_eq!(small.await, Err(AppendError::Refused(Refusal::StorageUnavailable)));
    assert_eq!(large.await, Err(AppendError::Refused(Refusal::StorageUnavailable)));
    assert_eq!(entries(&engine, ATTIC).await, []);
    assert_eq!(engine.stats().commits_failed.get(), 2);
    // The answer comes before the checkpoint, and the pause after it.
    drop(engine.pause());
    let wal = fs::metadata(dir.path().join("hubbub.db-wal")).unwrap();
    assert_eq!(wal.len(), 0, "it gives its space back");

    engine.meddle(|writer| {
        let connection = writer.connection.as_ref().expect("a full disk costs no connection");
        connection.execute_batch("PRAGMA max_page_count = 4000").unwrap();
    });
    let again = chain.next_with(&[1 << 40], &body);
    let cursor = engine.append(again.clone()).await.unwrap();
    chain.extend(&again, cursor);
    attic.append(&engine, 1).await;
    assert_eq!(entries(&engine, LOBBY).await.len(), count + 1);
}

#[tokio::test]
async fn a_commit_that_fails_after_the_fact_is_unknown_and_found_in_the_log() {
    let (_dir, engine) = started();
    let mut lobby = Appender::new(LOBBY);
    lobby.append(&engine, 1).await;
    engine.next_commit(|connection| {
        connection.execute_batch("COMMIT")?;
        Err(sync_failed())
    });
    let resume = engine.pause();
    let unknown = lobby.next(1);
    let append = engine.append(unknown.clone());
    let beside = engine.append(Appender::new(ATTIC).next(1));
    drop(resume);
    assert_eq!(append.await, Err(AppendError::Unknown));
    assert_eq!(beside.await, Err(AppendError::Unknown), "the group shares its outcome");

    let found = entries(&engine, LOBBY).await.pop().unwrap();
    assert_eq!(found.batch, *unknown.batch);
    assert_eq!(engine.append(unknown.clone()).await, Err(AppendError::Moved));
    lobby.extend(&unknown, found.at);
    lobby.append(&engine, 1).await;
}

#[tokio::test]
async fn a_commit_that_fails_is_unknown_forgotten_and_never_acknowledged() {
    let (dir, engine) = started();
    let mut chain = Appender::new(LOBBY);
    chain.append(&engine, 1).await;
    engine.next_commit(|_| Err(sync_failed()));
    let lost = chain.next_with(&[1], b"a");
    assert_eq!(engine.append(lost.clone()).await, Err(AppendError::Unknown));
    assert_eq!(entries(&engine, LOBBY).await.len(), 1);
    engine.meddle(|writer| assert!(writer.connection.is_none(), "the connection is not trusted"));

    // The cursor and the key of the lost batch are free; the writer believed neither.
    let cursor = engine.append(lost.clone()).await.unwrap();
    chain.extend(&lost, cursor);
    assert_eq!(cursor, Cursor(2));
    drop(engine);
    assert_eq!(entries(&open_in(&dir), LOBBY).await.len(), 2);
}

#[tokio::test]
async fn of_a_chain_whose_commit_fails_nothing_is_left() {
    let (dir, engine) = started();
    let mut end = Appender::new(LOBBY);
    end.append(&engine, 1).await;
    let first = end.next_with(&[1, 2], b"a");
    let mut second = end.clone();
    second.head = first.batch.head(first.after);
    let second = second.next_with(&[3], b"b");
    let chain = Chain {
        channel: LOBBY,
        after: first.after,
        batches: vec![first.batch, second.batch],
        keys: [first.keys, second.keys].concat(),
        derived: vec![Derived {
            table: Table::Imports,
            key: "a".to_owned(),
            value: Some(Bytes::from_static(b"1")),
        }],
    };
    engine.next_commit(|_| Err(sync_failed()));
    assert_eq!(engine.append_chain(chain.clone()).await, Err(AppendError::Unknown));
    assert_eq!(entries(&engine, LOBBY).await.len(), 1);
    assert_eq!(engine.get(Table::Imports, "a").await, Ok(None));

    let cursors = engine.append_chain(chain).await.unwrap();
    assert_eq!(cursors, [Cursor(2), Cursor(3)]);
    let stats = engine.stats();
    assert_eq!((stats.commits.get(), stats.batches.get(), stats.messages.get()), (2, 3, 4));
    drop(engine);
    let engine = open_in(&dir);
    assert_eq!(entries(&engine, LOBBY).await.len(), 3);
    assert!(engine.mark().await.unwrap().holds(LOBBY, Cursor(3)));
    assert_eq!(engine.get(Table::Imports, "a").await.unwrap().unwrap().value, "1");
}

#[tokio::test]
async fn a_locked_database_refuses_until_it_is_free() {
    let (dir, engine) = started();
    let mut chain = Appender::new(LOBBY);
    let shell = beside(&dir);
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    let append = chain.next(1);
    assert_eq!(
        engine.append(append.clone()).await,
        Err(AppendError::Refused(Refusal::StorageUnavailable))
    );
    shell.execute_batch("ROLLBACK").unwrap();
    engine.append(append).await.unwrap();
}

#[tokio::test]
async fn damage_is_detected_and_never_served() {
    let (dir, engine) = started();
    let mut chain = Appender::new(LOBBY);
    for _ in 0..5 {
        chain.append(&engine, 2).await;
    }
    let mut attic = Appender::new(ATTIC);
    for _ in 0..5 {
        attic.append(&engine, 2).await;
    }
    let whole = entries(&engine, LOBBY).await;
    let cases = [
        ("UPDATE batches SET bytes = CAST(substr(bytes, 1, 80) || x'00' || substr(bytes, 82) AS BLOB)
          WHERE cursor = 3", 3, BatchError::WrongChecksum),
        ("UPDATE batches SET bytes = substr(bytes, 1, length(bytes) - 1) WHERE cursor = 3",
         3, BatchError::WrongChecksum),
        ("UPDATE batches SET bytes = x'' WHERE cursor = 3", 3, BatchError::Truncated),
        ("UPDATE batches SET bytes = (SELECT bytes FROM batches WHERE cursor = 2)
          WHERE cursor = 3", 3, BatchError::Misplaced),
        // A batch of another channel, though its sequences fit.
        ("UPDATE batches SET bytes = (SELECT bytes FROM batches WHERE cursor = 8)
          WHERE cursor = 3", 3, BatchError::WrongChecksum),
        ("UPDATE batches SET last_sequence = 9 WHERE cursor = 3", 3, BatchError::Misplaced),
        ("UPDATE batches SET after_cursor = 1 WHERE cursor = 3", 3, BatchError::BrokenChain),
        ("UPDATE batches SET after_cursor = 3 WHERE cursor = 3", 3, BatchError::Misplaced),
        ("DELETE FROM batches WHERE cursor = 3", 4, BatchError::BrokenChain),
    ];
    for (damage, cursor, source) in cases {
        let shell = beside(&dir);
        shell.execute_batch("CREATE TABLE saved AS SELECT * FROM batches").unwrap();
        assert_eq!(shell.execute(damage, []).unwrap(), 1);
        let damaged = Err(ReadError::Damaged { cursor: Cursor(cursor), source });
        for from in [ReadFrom::After(Cursor(0)), ReadFrom::Tail, ReadFrom::EndingWith(Sequence(8))]
        {
            assert_eq!(engine.read(LOBBY, from, ALL).await, damaged, "{from:?}, {damage}");
        }
        // The sound part is still served.
        let after = engine.read(LOBBY, ReadFrom::After(Cursor(4)), ALL).await.unwrap();
        assert_eq!(after, whole[4..], "{damage}");
        shell
            .execute_batch(
                "DELETE FROM batches; INSERT INTO batches SELECT * FROM saved; DROP TABLE saved",
            )
            .unwrap();
    }
    assert_eq!(entries(&engine, LOBBY).await, whole);
}

#[tokio::test]
async fn a_damaged_end_says_nothing_of_other_logs() {
    let (dir, engine) = started();
    let (mut lobby, mut attic) = (Appender::new(LOBBY), Appender::new(ATTIC));
    for _ in 0..2 {
        lobby.append(&engine, 2).await;
        attic.append(&engine, 3).await;
    }
    let cases = [
        ("UPDATE batches SET bytes = x''", BatchError::Truncated),
        ("UPDATE batches SET bytes = zeroblob(80)", BatchError::UnknownFormat),
        (
            "UPDATE batches SET bytes = (SELECT bytes FROM batches WHERE cursor = 1)",
            BatchError::Misplaced,
        ),
    ];
    for (damage, error) in cases {
        beside(&dir).execute(&format!("{damage} WHERE cursor = 3"), []).unwrap();
        let ends = engine.heads(vec![LOBBY, ATTIC, LOBBY]).await.unwrap();
        let sound = LogEnd::At(attic.head.position());
        assert_eq!(ends, [LogEnd::Damaged(error), sound, LogEnd::Damaged(error)]);
    }
}

#[tokio::test]
async fn a_head_takes_no_page_of_the_entry_but_the_first() {
    let (dir, engine) = started();
    let mut chain = Appender::new(LOBBY);
    let large = chain.next_with(&[1], &vec![7; 100 * 1024]);
    let at = engine.append(large.clone()).await.unwrap();
    chain.extend(&large, at);
    drop(engine);
    // A page of nothing but the body, behind the number of the next one: that leads nowhere now.
    let path = dir.path().join(DATABASE_FILE);
    let mut file = fs::read(&path).unwrap();
    let mut pages = file.chunks_mut(usize::try_from(PAGE_BYTES).unwrap());
    let page = pages.find(|page| page[4..].iter().all(|byte| *byte == 7)).unwrap();
    page[..4].fill(0xff);
    fs::write(path, file).unwrap();
    let engine = open_in(&dir);
    let ends = engine.heads(vec![LOBBY]).await.unwrap();
    assert_eq!(ends, [LogEnd::At(chain.head.position())]);
    let read = engine.read(LOBBY, ReadFrom::Tail, ALL).await;
    assert_eq!(read, Err(ReadError::StorageUnavailable));
}

#[tokio::test]
async fn a_large_trim_lets_others_pass() {
    let (_dir, engine) = started();
    let mut chain = Appender::new(LOBBY);
    let count = u64::from(limits::TRIM_STEP_ENTRIES) * 2 + 10;
    for _ in 0..count {
        chain.append(&engine, 1).await;
    }
    let before = engine.stats().commits.get();
    let (order, done) = sync_channel(8);
    let resume = engine.pause();
    let trim = {
        let (trim, order) = (engine.trim(LOBBY, Sequence(u64::MAX)), order.clone());
        async move {
            trim.await.unwrap();
            order.send("trim").unwrap();
        }
    };
    let append = {
        let append = engine.append(Appender::new(ATTIC).next(1));
        async move {
            append.await.unwrap();
            order.send("append").unwrap();
        }
    };
    drop(resume);
    tokio::join!(trim, append);
    assert_eq!(done.iter().collect::<Vec<_>>(), ["append", "trim"]);
    assert_eq!(engine.stats().commits.get() - before, 3);
    assert_eq!(entries(&engine, LOBBY).await.len(), 1);
}

#[tokio::test]
async fn the_write_ahead_log_stays_bounded() {
    let (dir, engine) = started();
    let mut chain = Appender::new(LOBBY);
    let body = [7; 60_000];
    for id in 0..500 {
        let append = chain.next_with(&[id], &body);
        let cursor = engine.append(append.clone()).await.unwrap();
        chain.extend(&append, cursor);
    }
    let wal_bytes = fs::metadata(dir.path().join("hubbub.db-wal")).unwrap().len();
    assert!(wal_bytes < limits::WAL_CHECKPOINT_BYTES * 2, "{wal_bytes}");
    assert!(engine.stats().checkpoints.get() >= 5);
}

#[tokio::test]
async fn a_close_finishes_what_was_accepted_and_refuses_the_rest() {
    let (dir, engine) = started();
    let mut chain = Appender::new(LOBBY);
    let mut feed = engine.follow();
    assert!(feed.try_recv().is_err_and(|error| error == mpsc::error::TryRecvError::Empty));
    let resume = engine.pause();
    let first = chain.next(1);
    let accepted = engine.append(first.clone());
    drop(resume);
    engine.close();
    let cursor = accepted.await.unwrap();
    chain.extend(&first, cursor);
    let refused = Err(AppendError::Refused(Refusal::StorageUnavailable));
    assert_eq!(engine.append(chain.next(1)).await, refused);
    assert_eq!(engine.read(LOBBY, ReadFrom::Tail, ALL).await, Err(ReadError::StorageUnavailable));
    assert!(feed.recv().await.is_none());
    engine.close();
    drop(engine);
    assert_eq!(entries(&open_in(&dir), LOBBY).await.len(), 1);
}

/// A read must cost the same however long the log is: no scan, no sort.
#[test]
fn every_read_of_the_log_begins_at_a_key_of_the_index() {
    let (dir, _engine) = started();
    let shell = beside(&dir);
    for sql in [reader::AFTER, reader::HOLDING, reader::ENDING_WITH] {
        let mut explain = shell.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let plan: Vec<String> =
            explain.query_map([1, 1], |row| row.get(3)).unwrap().map(Result::unwrap).collect();
        let main = &plan[0];
        assert!(main.contains("USING INDEX batches_by_sequence (channel=?"), "{plan:?}");
        assert!(main.contains("AND first_sequence"), "{plan:?}");
        assert!(plan.iter().all(|step| !step.contains("SCAN")));
        assert!(plan.iter().all(|step| !step.contains("TEMP B-TREE")), "{plan:?}");
    }
    let mut explain = shell.prepare(&format!("EXPLAIN QUERY PLAN {}", reader::LAST)).unwrap();
    let plan: String = explain.query_row([1], |row| row.get(3)).unwrap();
    assert_eq!(plan, "SEARCH batches USING COVERING INDEX batches_by_sequence (channel=?)");
}

#[test]
fn a_second_server_on_the_same_directory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data");
    let first = lock(&dir).unwrap();
    assert!(matches!(lock(&dir), Err(OpenError::InUse(_))));
    drop(first);
    lock(&dir).unwrap();
}
