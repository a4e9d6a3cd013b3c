use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU64,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::stream;
use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::*;
use crate::{
    engine::{
        Append, ReadError, Refusal, Table,
        memory::{Fault, MemoryEngine, Stage},
        sqlite::{self, SqliteOptions},
    },
    log::{
        batch::Batch,
        place::{BatchId, ChannelId, Cursor, Head, Sequence},
    },
    wire::proto::{Record, record::Content},
};

/// A log that is imported to.
struct Site {
    engine: Arc<MemoryEngine>,
    directory: Arc<Directory<MemoryEngine>>,
    told: Arc<Mutex<Vec<(ChannelId, Cursor, Head)>>>,
    importer: Importer,
}

impl Site {
    fn new() -> Self {
        Self::on(MemoryEngine::default())
    }

    fn on(engine: MemoryEngine) -> Self {
        let engine = Arc::new(engine);
        let directory = Arc::new(Directory::new(Arc::clone(&engine)));
        let told: Arc<Mutex<Vec<_>>> = Arc::default();
        let telling = Arc::clone(&told);
        let options = ImportOptions {
            message_bytes_max: 1_000,
            on_thread_start: Arc::new(|| {}),
            imported: Arc::new(move |channel, after, head| {
                telling.lock().unwrap().push((channel, after, head));
            }),
        };
        let importer = Importer::start(Arc::clone(&engine), Arc::clone(&directory), options);
        Self { engine, directory, told, importer: importer.unwrap().0 }
    }

    /// The same log after a restart.
    fn restarted(&self) -> Self {
        Self::on(MemoryEngine::clone(&self.engine))
    }

    async fn import(&self, text: &str) -> Stats {
        let report = self.importer.import(whole(text)).await.unwrap();
        assert_eq!(report.stats.bytes, text.len() as u64);
        let Stats { records, added, known, .. } = report.stats;
        assert_eq!(records.valid, added + known, "each valid line is there");
        report.stats
    }

    async fn channel(&self, name: &str) -> ChannelId {
        self.directory.channel_by_name(name).await.unwrap().id
    }

    /// What a channel holds, in order. Panics when its chain is broken.
    async fn held(&self, name: &str) -> Vec<Held> {
        let info = self.directory.channel_by_name(name).await.unwrap();
        let mut head = Head::empty(info.epoch);
        let mut held = Vec::new();
        for entry in self.engine.with_log(|log| log.entries(info.id).to_vec()) {
            assert!(entry.batch.extends(&head), "the chain holds");
            head = entry.batch.head(entry.at);
            for record in entry.batch.records() {
                let record = <Record as prost::Message>::decode(record.unwrap()).unwrap();
                let Some(Content::Body(body)) = record.content else { panic!("a message") };
                let author = self.directory.user_name(crate::log::place::UserId(record.user_id));
                let author = author.await.unwrap().unwrap().to_string();
                held.push((author, record.client_message_id, body));
            }
        }
        held
    }
}

/// Author, number, body.
type Held = (String, u64, String);

fn whole(text: &str) -> impl Stream<Item = Result<Bytes, String>> {
    stream::iter([Ok(Bytes::from(text.to_owned()))])
}

fn line(author: &str, time: u64, body: &str, more: &str) -> String {
    format!(r#"{{"channel":"lobby","author":"{author}","time":{time},"body":"{body}"{more}}}"#)
        + "\n"
}

fn bodies(held: &[Held]) -> Vec<&str> {
    held.iter().map(|(_, _, body)| &**body).collect()
}

#[tokio::test]
async fn lines_come_into_the_log_in_their_order_once() {
    let site = Site::new();
    let text = line("ada", 5, "one", "")
        + &line("bob", 6, "two", r#","id":"9""#)
        + "\nbad\n"
        + &line("ada", 6, "three", "").replace("lobby", "den")
        + line("ada", 7, "four", "").trim_end();
    let report = site.importer.import(whole(&text)).await.unwrap();
    let json = serde_json::to_string(&report).unwrap();
    let bytes = text.len();
    assert_eq!(
        json,
        format!(
            r#"{{"stats":{{"bytes":{bytes},"records":{{"valid":4,"invalid":1,"total":5}},"added":4,"known":0}},"invalid":[{{"line":4,"reason":"not JSON: column 1"}}]}}"#
        )
    );
    let held = site.held("lobby").await;
    assert_eq!(bodies(&held), ["one", "two", "four"]);
    assert_eq!(held[1], ("bob".to_owned(), 9, "two".to_owned()));
    assert_eq!(bodies(&site.held("den").await), ["three"]);

    let told = site.told.lock().unwrap().clone();
    assert_eq!(told.len(), 2, "each channel's commit is told");
    let lobby = site.channel("lobby").await;
    let (_, after, head) = told.into_iter().find(|(channel, ..)| *channel == lobby).unwrap();
    assert_eq!((after, head.sequence), (Cursor(0), Sequence(3)));

    for site in [&site, &site.restarted()] {
        let stats = site.import(&text.replace("bad\n", "")).await;
        assert_eq!((stats.added, stats.known), (0, 4), "the second time adds nothing");
    }
}

#[tokio::test]
async fn lines_that_come_late_or_twice_are_told_apart() {
    let site = Site::new();
    let file = line("ada", 9, "a", "")
        + &line("ada", 5, "b", "")
        + &line("ada", 5, "b", "")
        + &line("ada", 5, "b", r#","sequence":7"#)
        + &line("ada", 5, "b", r#","sequence":8"#)
        + &line("bob", 5, "b", "")
        + &line("bob", 9, "c", r#","id":"x""#)
        + &line("bob", 3, "other text", r#","id":"x""#)
        + &line("ada", 3, "d", r#","id":"x""#);
    let stats = site.import(&file).await;
    assert_eq!((stats.added, stats.known), (7, 2));
    assert_eq!(bodies(&site.held("lobby").await), ["a", "b", "b", "b", "b", "c", "d"]);

    for site in [&site, &site.restarted()] {
        assert_eq!(site.import(&file).await.added, 0);
    }
    let late = line("ada", 4, "e", "") + &line("ada", 9, "f", "") + &line("ada", 1, "g", "");
    for (site, added) in [(&site, 3), (&site, 0), (&site.restarted(), 0)] {
        assert_eq!(site.import(&late).await.added, added);
        assert_eq!(site.import(&file).await.added, 0);
    }
}

#[tokio::test]
async fn a_file_that_goes_back_in_time_is_known_again_by_its_spans() {
    let site = Site::new();
    let parts: Vec<String> = (0..5_u64)
        .rev()
        .map(|part| (1..50).map(|at| line("ada", part * 100 + at, "b", "")).collect())
        .collect();
    for part in &parts {
        assert_eq!(site.import(part).await.added, 49);
    }
    let rows = site.engine.with_log(|log| log.scan(Table::ImportKeys, "", None, 10));
    assert_eq!(rows.len(), 0, "no line needs a row of its own");
    for site in [&site, &site.restarted()] {
        for part in &parts {
            assert_eq!(site.import(part).await.known, 49);
        }
    }
}

fn many(count: usize) -> String {
    (0..count)
        .map(|at| {
            line(["ada", "bob", "eve"][at % 3], 1_000 + at as u64 / 3, &format!("body {at}"), "")
        })
        .collect()
}

#[tokio::test]
async fn what_broke_off_is_finished_by_the_next_run() {
    let text = many(5_000);
    let once = Site::new();
    assert_eq!(once.import(&text).await.added, 5_000);
    let expected = once.held("lobby").await;
    assert_eq!(expected.len(), 5_000);

    let site = Site::new();
    for cut in [1_000, 100_000, 250_001, 300_000] {
        let pieces: Vec<_> =
            text.as_bytes()[..cut].chunks(10_007).map(Bytes::copy_from_slice).collect();
        let body = pieces.into_iter().map(Ok).chain([Err("connection reset")]);
        let error = site.importer.import(stream::iter(body)).await.unwrap_err();
        assert_eq!(error.why, ImportFailure::Body("connection reset".to_owned()));
        let lines = text[..cut].matches('\n').count() as u64;
        assert_eq!(error.report.stats.records.valid, lines, "whole lines are in, the last is not");
        assert_eq!(site.held("lobby").await.len() as u64, lines);
    }
    site.import(&text).await;
    assert_eq!(site.held("lobby").await, expected);
}

#[tokio::test]
async fn the_same_file_twice_at_the_same_time_is_in_the_log_once() {
    let text = many(20_000);
    let site = Site::new();
    let pieces = |size: usize| {
        let pieces: Vec<_> = text.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect();
        stream::iter(pieces.into_iter().map(Ok::<_, String>))
    };
    let (one, two) =
        tokio::join!(site.importer.import(pieces(9_001)), site.importer.import(pieces(100_003)));
    let (one, two) = (one.unwrap().stats, two.unwrap().stats);
    assert_eq!(one.added + two.added, 20_000);
    assert_eq!(one.known + two.known, 20_000);
    let held = site.held("lobby").await;
    assert_eq!(held.len(), 20_000);
    assert_eq!(BTreeSet::from_iter(&held).len(), 20_000);
}

fn foreign(head: &Head) -> Arc<Batch> {
    let mut records = Vec::new();
    let written =
        super::super::record::Written { user: crate::log::place::UserId(1), id: None, time_ms: 1 };
    super::super::record::put_message(&mut records, written, "live");
    Arc::new(Batch {
        epoch: head.epoch,
        id: BatchId(77 + u128::from(head.sequence.0)),
        previous: head.batch,
        first_sequence: head.sequence.next(),
        count: 1,
        timestamp_ms: head.timestamp_ms,
        records: records.into(),
    })
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_to_a_commit_each_line_is_in_the_log_once() {
    for file in [many(700), many(700).replace("\"}", "\",\"id\":\"7\"}")] {
        let ids = file.contains("\"id\"");
        let expected = if ids { 3 } else { 700 };
        for case in 0..6 {
            let site = Site::new();
            let first = line("ada", 1, "first", "");
            site.import(&first).await;
            let info = site.directory.channel_by_name("lobby").await.unwrap();
            let head = site.told.lock().unwrap()[0].2;
            assert_eq!(head.epoch, info.epoch);
            let faults = match case {
                0 => vec![Fault::UnknownCommitted],
                1 => vec![Fault::UnknownLost],
                2 => vec![Fault::UnknownLost, Fault::UnknownLost, Fault::UnknownCommitted],
                3 => vec![Fault::Beaten { by: foreign(&head) }],
                4 => vec![Fault::UnknownLost, Fault::Beaten { by: foreign(&head) }],
                _ => vec![Fault::Beaten { by: foreign(&head) }, Fault::UnknownCommitted],
            };
            let is_beaten = faults.iter().any(|fault| matches!(fault, Fault::Beaten { .. }));
            faults.into_iter().for_each(|fault| site.engine.faults().next_append(fault));
            assert_eq!(site.import(&file).await.added, expected, "case {case}");
            assert_eq!(site.import(&file).await.added, 0, "case {case}");
            let held = site.held("lobby").await;
            assert_eq!(held.len() as u64, 1 + expected + u64::from(is_beaten), "case {case}");
            assert_eq!(site.restarted().import(&(first + &file)).await.added, 0, "case {case}");
        }
    }
}

#[tokio::test]
async fn a_quota_that_comes_between_two_commits_holds() {
    let site = Site::new();
    site.import(&line("ada", 1, "first", "")).await;
    let (channel, head) = (site.channel("lobby").await, site.told.lock().unwrap()[0].2);
    let mut record = site.directory.record(channel).await.unwrap();
    record.quota.messages_max = NonZeroU64::new(2);
    record.usage = record.usage.with(5).with(4);
    let (batch, derived) = (foreign(&head), record.derived().collect());
    let change = Append { channel, after: head.cursor, batch, keys: Vec::new(), derived };
    site.engine.append(change).await.unwrap();
    let error = site.importer.import(whole(&line("ada", 2, "second", ""))).await.unwrap_err();
    assert_eq!(error.why, ImportFailure::Write(WriteError::NoRoom("lobby".into())));
}

#[tokio::test]
async fn a_log_that_takes_nothing_ends_the_import_with_what_is_in() {
    let site = Site::new();
    let text = many(100);
    site.import(&text).await;
    site.engine.faults().refuse_next_append(Refusal::StorageUnavailable);
    let more = text.clone() + &line("ada", 9_000, "more", "");
    let error = site.importer.import(whole(&more)).await.unwrap_err();
    assert_eq!(error.why, ImportFailure::Write(WriteError::Refused(Refusal::StorageUnavailable)));
    assert_eq!(error.report.stats.added, 0);
    assert_eq!(site.import(&more).await.added, 1, "the next run goes on");

    let late = line("ada", 1_005, "late", "");
    let cold = site.restarted();
    cold.engine.faults().fail_next_read(ReadError::Busy);
    let error = cold.importer.import(whole(&late)).await.unwrap_err();
    assert!(matches!(error.why, ImportFailure::Write(WriteError::Tail(ReadError::Busy))));
    assert_eq!(cold.import(&late).await.added, 1);
}

#[tokio::test]
async fn a_stored_id_of_a_live_message_is_not_written_again() {
    let site = Site::new();
    let text: String =
        (0..600).map(|at| line("ada", 100 + at, "b", &format!(r#","id":"{}""#, at + 1))).collect();
    site.import(&text).await;
    // As of messages that were not imported: nothing but their keys tells of them.
    site.engine.with_log(|log| {
        for (key, found) in log.scan(Table::Imports, "", None, 100) {
            log.remove(Table::Imports, &key, found.revision).unwrap();
        }
    });
    let text = text + &line("ada", 900, "new", r#","id":"1000""#);
    let stats = site.restarted().import(&text).await;
    assert_eq!((stats.added, stats.known), (1, 600));
}

#[tokio::test]
async fn no_more_of_a_body_is_read_than_has_room() {
    let site = Site::new();
    let read = Arc::new(AtomicUsize::new(0));
    let hold = site.engine.faults().hold(Stage::Commit);
    let chunk = many(500);
    let counting = Arc::clone(&read);
    let body = stream::repeat_with(move || {
        counting.fetch_add(chunk.len(), Ordering::Relaxed);
        Ok::<_, String>(Bytes::from(chunk.clone()))
    });
    let importer = site.importer.clone();
    let task = tokio::spawn(async move { importer.import(body).await });
    hold.waiting(1).await;
    let mut before = 0;
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let now = read.load(Ordering::Relaxed);
        if now == before {
            break;
        }
        before = now;
    }
    let most = (IMPORT_CHUNKS_MAX + 3) * crate::limits::IMPORT_CHUNK_BYTES;
    assert!(before > 1_000_000 && before < most, "{before} bytes were read, of at most {most}");
    // Dropped in the middle: what was handed over is committed, and the importer goes on.
    task.abort();
    drop(hold);
    assert_eq!(site.import(&many(500)).await.added, 0);
}

#[tokio::test]
async fn more_imports_than_may_be_are_refused() {
    let site = Site::new();
    let mut tasks = Vec::new();
    for _ in 0..IMPORTS_MAX {
        let importer = site.importer.clone();
        let mut import =
            Box::pin(
                async move { importer.import(stream::pending::<Result<Bytes, String>>()).await },
            );
        assert!(futures_util::FutureExt::now_or_never(&mut import).is_none());
        tasks.push(import);
    }
    let error = site.importer.import(whole("")).await.unwrap_err();
    assert_eq!(error.why, ImportFailure::Busy);
    tasks.pop();
    assert_eq!(site.import("").await, Stats::default());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stands_still_ends_its_import() {
    let site = Site::new();
    let text = line("ada", 5, "one", "") + "cut";
    let body = stream::iter([Ok::<_, String>(Bytes::from(text))]).chain(stream::pending());
    let error = site.importer.import(body).await.unwrap_err();
    assert_eq!(error.why, ImportFailure::Stalled);
    assert_eq!(error.report.stats.added, 1);
}

#[tokio::test]
async fn what_sqlite_holds_is_known_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let plain = many(3_000);
    let with_ids: String =
        (0..300).map(|at| line("ada", 9_000 + at / 7, "b", &format!(r#","id":"n{at}""#))).collect();
    let late = line("ada", 1_001, "late", "");
    for (text, added) in
        [(plain.clone(), 3_000), (with_ids.clone(), 300), (plain + &with_ids + &late, 1), (late, 0)]
    {
        let engine = Arc::new(sqlite::open(dir.path(), SqliteOptions::default()).unwrap());
        let directory = Arc::new(Directory::new(Arc::clone(&engine)));
        let options = ImportOptions {
            message_bytes_max: 1_000,
            on_thread_start: Arc::new(|| {}),
            imported: Arc::new(|_, _, _| {}),
        };
        let (importer, _) = Importer::start(Arc::clone(&engine), directory, options).unwrap();
        let stats = importer.import(whole(&text)).await.unwrap().stats;
        assert_eq!(stats.added, added);
        assert_eq!(stats.added + stats.known, text.lines().count() as u64);
        drop(importer);
        engine.close();
        // The importer's thread gives its handle back a moment after its mailbox has closed.
        while Arc::strong_count(&engine) > 1 {
            tokio::task::yield_now().await;
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    author: usize,
    time: u64,
    body: u8,
    id: Option<u8>,
}

fn entry() -> impl Strategy<Value = Entry> {
    let id = prop_oneof![3 => Just(None), 1 => (1..20_u8).prop_map(Some)];
    (0..3_usize, 1..30_u64, 0..3_u8, id).prop_map(|(author, time, body, id)| Entry {
        author,
        time,
        body,
        id,
    })
}

#[tokio::test]
async fn a_newest_line_that_is_known_by_its_id_leaves_no_hole_in_time() {
    let site = Site::new();
    let numbered = |time| line("ada", time, "numbered", r#","id":"17""#);
    site.import(&numbered(1)).await;
    assert_eq!(site.import(&numbered(4)).await.known, 1);
    let between = line("ada", 2, "between", "");
    assert_eq!(site.import(&between).await.added, 1);
    assert_eq!(site.import(&between).await.known, 1);
    assert_eq!(site.restarted().import(&between).await.known, 1);
}

#[tokio::test]
async fn a_late_line_is_known_that_was_on_its_way_when_others_were_read() {
    let site = Site::new();
    site.import(&line("ada", 25, "first", "")).await;
    // The second of its moment goes in as a late line before those of the channel are looked up.
    let late = line("ada", 25, "second", "");
    let three = late.clone() + &line("ada", 26, "newer", "") + &line("ada", 1, "oldest", "");
    assert_eq!(site.import(&three).await.added, 3);
    let stats = site.import(&late).await;
    assert_eq!((stats.added, stats.known), (0, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// The slow twin is a set.
    #[test]
    fn any_runs_of_any_lines_add_each_message_once(
        runs in prop::collection::vec(
            (prop::collection::vec(entry(), 0..25), any::<bool>(), any::<bool>()), 1..8
        )
    ) {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let mut site = Site::new();
            let mut known: BTreeMap<(usize, u64, u8, u8), ()> = BTreeMap::new();
            let mut order = Vec::new();
            for (mut entries, is_sorted, restart) in runs {
                if restart {
                    site = site.restarted();
                }
                if is_sorted {
                    entries.sort_by_key(|entry| entry.time);
                }
                let mut text = String::new();
                let mut added = 0;
                for Entry { author, time, body, id } in entries {
                    let more = id.map_or(String::new(), |id| format!(r#","id":"{id}""#));
                    text += &line(["ada", "bob", "eve"][author], time, &format!("b{body}"), &more);
                    let key = match id {
                        Some(id) => (author, 0, 0, id),
                        None => (author, time, body, 0),
                    };
                    if known.insert(key, ()).is_none() {
                        added += 1;
                        order.push(format!("b{body}"));
                    }
                }
                assert_eq!(site.import(&text).await.added, added, "{text}");
                if !order.is_empty() {
                    assert_eq!(bodies(&site.held("lobby").await), order);
                }
            }
        });
    }
}
