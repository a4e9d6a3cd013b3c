//! The contract of an engine, as tests that every engine passes.

use std::{collections::HashSet, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use tokio::task::JoinSet;

use self::{chains::*, heads::*};
use super::{
    memory::MemoryEngine,
    sqlite::{self, SqliteOptions},
    *,
};
use crate::log::{
    batch::put_record,
    place::{BatchId, Epoch, Head},
};

mod chains;
mod heads;

pub(super) const LOBBY: ChannelId = ChannelId(7);
pub(super) const ATTIC: ChannelId = ChannelId(8);
pub(super) const ANN: UserId = UserId(1);

/// The writing end of one channel: it builds the batch that comes next.
#[derive(Clone, Debug)]
pub(super) struct Appender {
    pub(super) channel: ChannelId,
    pub(super) head: Head,
    batches: u128,
}

impl Appender {
    pub(super) fn new(channel: ChannelId) -> Self {
        Self { channel, head: Head::empty(Epoch(1)), batches: 0 }
    }

    /// The next batch, of these messages, all by Ann, with these client message ids.
    pub(super) fn next_with(&mut self, ids: &[u64], body: &[u8]) -> Append {
        self.batches += 1;
        let mut records = BytesMut::new();
        for id in ids {
            put_record(&mut records, &[&id.to_le_bytes()[..], body].concat());
        }
        let batch = Batch {
            epoch: self.head.epoch,
            id: BatchId(u128::from(self.channel.0) << 64 | self.batches),
            previous: self.head.batch,
            first_sequence: self.head.sequence.next(),
            count: u16::try_from(ids.len()).unwrap(),
            timestamp_ms: self.head.timestamp_ms + 1,
            records: records.freeze(),
        };
        let keys = (batch.first_sequence.0..)
            .zip(ids)
            .map(|(sequence, id)| MessageKey {
                user: ANN,
                client_message_id: ClientMessageId(*id),
                sequence: Sequence(sequence),
                digest: u64::MAX - id,
            })
            .collect();
        Append {
            channel: self.channel,
            after: self.head.cursor,
            batch: Arc::new(batch),
            keys,
            derived: Vec::new(),
        }
    }

    /// The next batch, of `count` messages with numbers of their own.
    pub(super) fn next(&mut self, count: u64) -> Append {
        let first = self.head.sequence.0 + 1_000_000;
        self.next_with(&(first..first + count).collect::<Vec<_>>(), b"text")
    }

    /// The batch was committed.
    pub(super) fn extend(&mut self, append: &Append, cursor: Cursor) {
        assert!(append.batch.extends(&self.head));
        assert!(cursor > self.head.cursor);
        self.head = append.batch.head(cursor);
    }

    /// Appends `count` messages in one batch.
    pub(super) async fn append(&mut self, engine: &impl Engine, count: u64) -> Cursor {
        let append = self.next(count);
        let cursor = engine.append(append.clone()).await.unwrap();
        self.extend(&append, cursor);
        cursor
    }
}

/// The first sequences of the entries.
async fn firsts(engine: &impl Engine, from: ReadFrom, max: impl Into<ReadMax>) -> Vec<u64> {
    let entries = engine.read(LOBBY, from, max).await.unwrap();
    entries.iter().map(|entry| entry.batch.first_sequence.0).collect()
}

const ALL: usize = usize::MAX;

async fn what_is_appended_is_read_back<E: Engine>(engine: &E) {
    let mut chain = Appender::new(LOBBY);
    let first = chain.next(3);
    let at = engine.append(first.clone()).await.unwrap();
    chain.extend(&first, at);
    let second = chain.next(1);
    let then = engine.append(second.clone()).await.unwrap();
    chain.extend(&second, then);

    let entries = engine.read(LOBBY, ReadFrom::After(Cursor(0)), ALL).await.unwrap();
    let expected = [
        Entry { channel: LOBBY, at, after: Cursor(0), batch: Batch::clone(&first.batch) },
        Entry { channel: LOBBY, at: then, after: at, batch: Batch::clone(&second.batch) },
    ];
    assert_eq!(entries, expected);
    assert_eq!(engine.read(ATTIC, ReadFrom::Tail, ALL).await.unwrap(), []);
}

async fn an_append_after_another_place_than_the_end_is_moved<E: Engine>(engine: &E) {
    let mut chain = Appender::new(LOBBY);
    let early = chain.next(1);
    chain.append(engine, 2).await;
    assert_eq!(engine.append(early.clone()).await, Err(AppendError::Moved));
    chain.append(engine, 2).await;
    let mut stale = chain.next(1);
    stale.after = Cursor(chain.head.cursor.0 - 1);
    assert_eq!(engine.append(stale).await, Err(AppendError::Moved));
    let mut ahead = chain.next(1);
    ahead.after = Cursor(chain.head.cursor.0 + 1);
    assert_eq!(engine.append(ahead).await, Err(AppendError::Moved));
    let mut other = early;
    other.channel = ATTIC;
    other.after = chain.head.cursor;
    assert_eq!(engine.append(other).await, Err(AppendError::Moved), "cursors of another channel");
    assert_eq!(firsts(engine, ReadFrom::Tail, ALL).await, [1, 3]);
    chain.append(engine, 1).await;
}

async fn a_batch_that_leaves_a_hole_does_not_get_in<E: Engine>(engine: &E) {
    let mut chain = Appender::new(LOBBY);
    chain.append(engine, 2).await;
    let cursor = chain.head.cursor;
    chain.head.sequence = Sequence(9);
    let hole = chain.next(1);
    assert_eq!(hole.after, cursor);
    assert_eq!(engine.append(hole).await, Err(AppendError::Moved));
}

async fn a_log_may_begin_at_any_sequence<E: Engine>(engine: &E) {
    let mut chain = Appender::new(LOBBY);
    chain.head.sequence = Sequence(500);
    chain.append(engine, 2).await;
    chain.append(engine, 2).await;
    assert_eq!(firsts(engine, ReadFrom::Holding(Sequence(1)), ALL).await, [501, 503]);
}

async fn taken_keys_are_all_named_and_nothing_is_appended<E: Engine>(engine: &E) {
    let mut chain = Appender::new(LOBBY);
    // Ids and digests use all of their 64 bits.
    let first = chain.next_with(&[1, u64::MAX, 1 << 63], b"a");
    let cursor = engine.append(first.clone()).await.unwrap();
    chain.extend(&first, cursor);

    let mixed = chain.next_with(&[10, u64::MAX, 11, 1], b"b");
    let stored = vec![first.keys[1], first.keys[0]];
    assert_eq!(engine.append(mixed).await, Err(AppendError::Duplicates(stored)));
    assert_eq!(firsts(engine, ReadFrom::Tail, ALL).await, [1]);

    // The new ones of the refused batch are still free, and so are these in another channel.
    let rest = chain.next_with(&[10, 11], b"b");
    let cursor = engine.append(rest.clone()).await.unwrap();
    chain.extend(&rest, cursor);
    let elsewhere = Appender::new(ATTIC).next_with(&[1, 10], b"c");
    engine.append(elsewhere).await.unwrap();
    let again = chain.next_with(&[11], b"other");
    assert_eq!(
        engine.append(again).await,
        Err(AppendError::Duplicates(vec![rest.keys[1]])),
        "the stored digest and sequence, not the new ones"
    );
}

async fn the_place_is_checked_before_the_keys<E: Engine>(engine: &E) {
    let mut chain = Appender::new(LOBBY);
    let first = chain.next_with(&[1], b"a");
    engine.append(first.clone()).await.unwrap();
    assert_eq!(engine.append(first).await, Err(AppendError::Moved));
}

async fn a_read_begins_and_ends_where_it_should<E: Engine>(engine: &E) {
    let mut chain = Appender::new(LOBBY);
    let mut other = Appender::new(ATTIC);
    let mut cursors = Vec::new();
    for _ in 0..5 {
        // Sequences 1-3, 4-6, 7-9, 10-12, 13-15.
        cursors.push(chain.append(engine, 3).await);
        // Something else comes between, so that the cursors of the channel are not neighbours.
        other.append(engine, 1).await;
    }
    use ReadFrom::{After, EndingWith, Holding, Tail};
    let cases: &[(ReadFrom, &[u64])] = &[
        (After(Cursor(0)), &[1, 4, 7, 10, 13]),
        (After(cursors[1]), &[7, 10, 13]),
        (After(cursors[4]), &[]),
        (After(Cursor(u64::MAX)), &[]),
        (Holding(Sequence(0)), &[1, 4, 7, 10, 13]),
        (Holding(Sequence(6)), &[4, 7, 10, 13]),
        (Holding(Sequence(7)), &[7, 10, 13]),
        (Holding(Sequence(15)), &[13]),
        (Holding(Sequence(16)), &[]),
        (Holding(Sequence(u64::MAX)), &[]),
        (EndingWith(Sequence(0)), &[]),
        (EndingWith(Sequence(1)), &[1]),
        (EndingWith(Sequence(6)), &[1, 4]),
        (EndingWith(Sequence(7)), &[1, 4, 7]),
        (EndingWith(Sequence(u64::MAX)), &[1, 4, 7, 10, 13]),
        (Tail, &[1, 4, 7, 10, 13]),
    ];
    for (from, expected) in cases {
        assert_eq!(firsts(engine, *from, ALL).await, *expected, "{from:?}");
    }
    let of_messages: &[(ReadFrom, u64, &[u64])] = &[
        (After(Cursor(0)), 0, &[1]),
        (After(Cursor(0)), 3, &[1]),
        (After(Cursor(0)), 4, &[1, 4]),
        (Holding(Sequence(6)), 1, &[4]),
        (Holding(Sequence(6)), 2, &[4, 7]),
        (Holding(Sequence(0)), 4, &[1, 4]),
        (EndingWith(Sequence(8)), 2, &[7]),
        (EndingWith(Sequence(8)), 3, &[4, 7]),
        (EndingWith(Sequence(u64::MAX)), 7, &[7, 10, 13]),
        (Tail, 3, &[13]),
    ];
    for (from, messages, expected) in of_messages {
        let max = ReadMax { bytes: ALL, messages: *messages };
        assert_eq!(firsts(engine, *from, max).await, *expected, "{from:?}, {messages}");
    }
}

async fn a_read_answers_whole_entries_that_fit_and_at_least_one<E: Engine>(engine: &E) {
    let mut chain = Appender::new(LOBBY);
    for _ in 0..5 {
        chain.append(engine, 1).await;
    }
    let bytes = engine.read(LOBBY, ReadFrom::Tail, 0).await.unwrap()[0].batch.encoded_bytes();
    let begin = ReadFrom::After(Cursor(0));
    assert_eq!(firsts(engine, begin, 0).await, [1]);
    assert_eq!(firsts(engine, begin, 2 * bytes - 1).await, [1]);
    assert_eq!(firsts(engine, begin, 2 * bytes).await, [1, 2]);
    assert_eq!(firsts(engine, ReadFrom::Tail, 0).await, [5]);
    assert_eq!(firsts(engine, ReadFrom::Tail, 3 * bytes).await, [3, 4, 5]);
    assert_eq!(firsts(engine, ReadFrom::EndingWith(Sequence(4)), 2 * bytes).await, [3, 4]);
    assert_eq!(firsts(engine, ReadFrom::Holding(Sequence(2)), 2 * bytes).await, [2, 3]);
}

async fn a_trim_drops_what_lies_wholly_below_and_never_the_last<E: Engine>(engine: &E) {
    let mut chain = Appender::new(LOBBY);
    let mut first = chain.next_with(&[1, 2, 3], b"a");
    let cursor = engine.append(first.clone()).await.unwrap();
    chain.extend(&first, cursor);
    for _ in 0..3 {
        chain.append(engine, 3).await;
    }
    engine.trim(ATTIC, Sequence(100)).await.unwrap();
    engine.trim(LOBBY, Sequence(3)).await.unwrap();
    assert_eq!(firsts(engine, ReadFrom::Tail, ALL).await, [1, 4, 7, 10], "3 is not below 3");
    engine.trim(LOBBY, Sequence(4)).await.unwrap();
    assert_eq!(firsts(engine, ReadFrom::Tail, ALL).await, [4, 7, 10]);
    engine.trim(LOBBY, Sequence(9)).await.unwrap();
    assert_eq!(firsts(engine, ReadFrom::Holding(Sequence(2)), ALL).await, [7, 10]);
    assert_eq!(firsts(engine, ReadFrom::After(cursor), ALL).await, [7, 10], "its entry is gone");

    // The keys of the dropped are free again, those of the kept are not.
    first.after = chain.head.cursor;
    let retry = chain.next_with(&[1], b"a");
    let cursor = engine.append(retry.clone()).await.unwrap();
    chain.extend(&retry, cursor);
    let kept = chain.next_with(&[1_000_006], b"text");
    assert!(matches!(engine.append(kept).await, Err(AppendError::Duplicates(_))));

    engine.trim(LOBBY, Sequence(u64::MAX)).await.unwrap();
    assert_eq!(firsts(engine, ReadFrom::Tail, ALL).await, [13]);
    let last = chain.head.cursor;
    assert!(chain.append(engine, 1).await > last, "a cursor never comes back");
}

async fn a_record_is_written_only_as_expected<E: Engine>(engine: &E) {
    let put = |value: &'static str, expect| {
        engine.put(Table::Users, "ann", Bytes::from_static(value.as_bytes()), expect)
    };
    assert_eq!(engine.get(Table::Users, "ann").await, Ok(None));
    assert_eq!(put("x", Expect::Revision(Revision(1))).await, Err(RecordError::Conflict));
    let first = put("1", Expect::Absent).await.unwrap();
    assert_eq!(put("x", Expect::Absent).await, Err(RecordError::Conflict));
    let second = put("2", Expect::Revision(first)).await.unwrap();
    assert!(second > first);
    assert_eq!(put("x", Expect::Revision(first)).await, Err(RecordError::Conflict));
    let found = engine.get(Table::Users, "ann").await.unwrap().unwrap();
    assert_eq!(found, Versioned { value: Bytes::from_static(b"2"), revision: second });
    assert_eq!(engine.get(Table::Channels, "ann").await, Ok(None));
}

async fn of_many_that_write_a_record_one_wins<E: Engine>(engine: &E) {
    let mut tasks = JoinSet::new();
    for n in 0..50_u8 {
        let value = Bytes::copy_from_slice(&[n]);
        let put = engine.put(Table::Counters, "user", value, Expect::Absent);
        tasks.spawn(async move { put.await.is_ok().then_some(n) });
    }
    let won: Vec<u8> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(won.len(), 1, "{won:?}");
    let found = engine.get(Table::Counters, "user").await.unwrap().unwrap();
    assert_eq!(found.value[..], won);
}

async fn a_scan_is_in_order_and_goes_on_after_a_key<E: Engine>(engine: &E) {
    for key in ["a.2", "b", "a.10", "a", "ab", "a.\u{10ffff}", "a.ü", "A.1", "a/"] {
        let value = Bytes::copy_from_slice(key.as_bytes());
        engine.put(Table::Channels, key, value, Expect::Absent).await.unwrap();
    }
    engine.put(Table::Users, "a.3", Bytes::new(), Expect::Absent).await.unwrap();
    let scan = async |prefix: &str, after: Option<&str>, count_max| {
        let found = engine.scan(Table::Channels, prefix, after, count_max).await.unwrap();
        for (key, record) in &found {
            assert_eq!(record.value, key.as_bytes());
        }
        found.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    assert_eq!(scan("a.", None, 9).await, ["a.10", "a.2", "a.ü", "a.\u{10ffff}"]);
    assert_eq!(scan("a.", None, 2).await, ["a.10", "a.2"]);
    assert_eq!(scan("a.", Some("a.2"), 9).await, ["a.ü", "a.\u{10ffff}"]);
    assert_eq!(scan("a.", Some("A"), 1).await, ["a.10"]);
    assert_eq!(scan("a.", Some("b"), 9).await, [""; 0]);
    assert_eq!(scan("", Some("a/"), 9).await, ["ab", "b"]);
    assert_eq!(scan("c", None, 9).await, [""; 0]);
    assert_eq!(scan("a.", None, 0).await, [""; 0]);
}

/// What this engine takes of an append, and of a chain.
fn bytes_max(engine: &impl Engine) -> (usize, usize) {
    use crate::limits::{CHAIN_BYTES_MAX, ENTRY_BYTES_MAX, JETSTREAM_ENTRY_BYTES_MAX};
    let is_cluster = engine.caps().junk_possible;
    let of_cluster = (JETSTREAM_ENTRY_BYTES_MAX, JETSTREAM_ENTRY_BYTES_MAX);
    if is_cluster { of_cluster } else { (ENTRY_BYTES_MAX, CHAIN_BYTES_MAX) }
}

async fn a_batch_that_is_too_large_is_refused<E: Engine>(engine: &E) {
    let mut chain = Appender::new(LOBBY);
    let body = vec![0; bytes_max(engine).0];
    let large = chain.next_with(&[1], &body);
    assert_eq!(engine.append(large).await, Err(AppendError::Refused(Refusal::TooLarge)));
    let fits = chain.next_with(&[1], &body[..body.len() - 200]);
    let cursor = engine.append(fits.clone()).await.unwrap();
    chain.extend(&fits, cursor);
    assert_eq!(firsts(engine, ReadFrom::Tail, 1).await, [1]);
}

async fn a_record_that_is_too_large_with_what_follows_is_refused<E: Engine>(engine: &E) {
    let half = Bytes::from(vec![0; bytes_max(engine).0 / 2]);
    let put = |key, derived: &Bytes| {
        let (table, value) = (Table::Counters, Some(derived.clone()));
        let derived = vec![Derived { table, key: "too large".into(), value }];
        engine.put_with(Table::Counters, key, half.clone(), Expect::Absent, derived)
    };
    assert_eq!(put("too large, too", &half).await, Err(RecordError::TooLarge));
    for key in ["too large", "too large, too"] {
        assert_eq!(engine.get(Table::Counters, key).await, Ok(None));
    }
    put("large", &half.slice(200..)).await.unwrap();
}

async fn many_channels_append_at_once_without_a_gap<E: Engine>(engine: &E) {
    const CHANNELS: u32 = 64;
    const APPENDS: u64 = 200;
    let writers = (0..CHANNELS).map(|channel| async move {
        let mut chain = Appender::new(ChannelId(channel));
        for n in 0..APPENDS {
            chain.append(engine, n % 3 + 1).await;
        }
        chain
    });
    let chains = join_all(writers).await;
    let logs = engine.mark().await.unwrap().ends.len();
    let mut cursors = HashSet::new();
    for chain in chains {
        let entries = engine.read(chain.channel, ReadFrom::After(Cursor(0)), ALL).await.unwrap();
        assert_eq!(entries.len() as u64, APPENDS);
        let mut head = Head::empty(Epoch(1));
        for entry in entries {
            assert_eq!(entry.after, head.cursor);
            assert!(entry.batch.extends(&head));
            let place = (shelf(chain.channel, logs), entry.at);
            assert!(cursors.insert(place), "{place:?} was given out twice");
            head = entry.batch.head(entry.at);
        }
        assert_eq!(head, chain.head, "what was acknowledged is what is there");
    }
}

async fn a_key_is_found_for_as_long_as_its_message_is_there<E: Engine>(engine: &E) {
    let key = |user, id| (UserId(user), ClientMessageId(id));
    assert_eq!(engine.find_keys(LOBBY, vec![key(1, 1)]).await.unwrap(), []);
    let mut chain = Appender::new(LOBBY);
    for ids in [&[1, u64::MAX][..], &[3]] {
        let append = chain.next_with(ids, b"text");
        let at = engine.append(append.clone()).await.unwrap();
        chain.extend(&append, at);
    }
    let asked = vec![key(1, u64::MAX), key(1, 2), key(2, 1), key(1, 3)];
    let found = async || {
        let mut found = engine.find_keys(LOBBY, asked.clone()).await.unwrap();
        found.sort_by_key(|key| key.sequence);
        found.into_iter().map(|key| (key.sequence.0, key.client_message_id.0, key.digest))
    };
    assert!(found().await.eq([(2, u64::MAX, 0), (3, 3, u64::MAX - 3)]));
    assert_eq!(engine.find_keys(ATTIC, asked.clone()).await.unwrap(), []);
    assert_eq!(engine.find_keys(LOBBY, Vec::new()).await.unwrap(), []);
    engine.trim(LOBBY, Sequence(3)).await.unwrap();
    assert!(found().await.eq([(3, 3, u64::MAX - 3)]));
}

async fn keys_are_listed_by_their_sequences<E: Engine>(engine: &E) {
    assert_eq!(engine.keys(LOBBY, Sequence(1), Sequence(9)).await.unwrap(), []);
    let mut chain = Appender::new(LOBBY);
    for ids in [&[9, 8][..], &[7, 6], &[5]] {
        let append = chain.next_with(ids, b"text");
        let at = engine.append(append.clone()).await.unwrap();
        chain.extend(&append, at);
    }
    let listed = engine.keys(LOBBY, Sequence(2), Sequence(3)).await.unwrap();
    let listed = listed.iter().map(|key| (key.sequence.0, key.client_message_id.0, key.digest));
    assert!(listed.eq([(2, 8, u64::MAX - 8), (3, 7, u64::MAX - 7)]));
    assert_eq!(engine.keys(LOBBY, Sequence(0), Sequence(u64::MAX)).await.unwrap().len(), 5);
    assert_eq!(engine.keys(ATTIC, Sequence(0), Sequence(u64::MAX)).await.unwrap(), []);
}

macro_rules! contract {
    ($($test:ident,)*) => {
        mod memory_engine {
            $(#[tokio::test]
            async fn $test() {
                super::$test(&super::MemoryEngine::default()).await;
            })*
        }

        mod sqlite_engine {
            $(#[tokio::test]
            async fn $test() {
                let dir = tempfile::tempdir().unwrap();
                let engine = super::sqlite::open(dir.path(), super::SqliteOptions::default());
                super::$test(&engine.unwrap()).await;
            })*
        }

        mod jetstream_engine {
            use super::super::jetstream::tests::TestEngine;

            $(#[tokio::test]
            async fn $test() {
                if let Some(engine) = TestEngine::start(1) {
                    super::$test(&*engine).await;
                }
            })*
        }
    };
}

contract!(
    what_is_appended_is_read_back,
    an_append_after_another_place_than_the_end_is_moved,
    a_batch_that_leaves_a_hole_does_not_get_in,
    a_log_may_begin_at_any_sequence,
    taken_keys_are_all_named_and_nothing_is_appended,
    the_place_is_checked_before_the_keys,
    a_read_begins_and_ends_where_it_should,
    a_read_answers_whole_entries_that_fit_and_at_least_one,
    a_trim_drops_what_lies_wholly_below_and_never_the_last,
    a_record_is_written_only_as_expected,
    of_many_that_write_a_record_one_wins,
    a_scan_is_in_order_and_goes_on_after_a_key,
    a_batch_that_is_too_large_is_refused,
    a_record_that_is_too_large_with_what_follows_is_refused,
    many_channels_append_at_once_without_a_gap,
    a_key_is_found_for_as_long_as_its_message_is_there,
    keys_are_listed_by_their_sequences,
    each_log_that_is_asked_for_has_its_own_end,
    a_head_stays_when_what_is_older_is_dropped,
    a_head_is_as_new_as_the_last_answer,
    a_chain_is_appended_batch_by_batch,
    a_chain_after_another_place_than_the_end_is_moved_whole,
    a_taken_key_keeps_the_whole_chain_out,
    a_trim_frees_the_keys_of_the_batches_of_a_chain_that_it_drops,
    what_is_derived_is_written_whatever_was_there,
    an_append_that_does_not_pass_derives_nothing,
    many_derived_records_are_one_step,
    what_is_too_large_together_is_refused,
    a_record_is_removed_only_at_its_revision,
    a_record_that_comes_back_has_a_revision_of_its_own,
    a_mark_holds_what_was_there,
    a_mark_cuts_through_appends_that_go_on,
    of_appends_and_chains_to_one_place_one_gets_in,
);
