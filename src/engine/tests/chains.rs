//! The contract of chains, derived records, removals and marks.

use super::*;

/// The next batches, of so many messages each, as one chain.
fn chain_of(end: &mut Appender, counts: &[u64]) -> Chain {
    let mut ahead = end.clone();
    let mut chain = Chain {
        channel: end.channel,
        after: end.head.cursor,
        batches: Vec::new(),
        keys: Vec::new(),
        derived: Vec::new(),
    };
    for count in counts {
        let append = ahead.next(*count);
        ahead.head = append.batch.head(append.after);
        chain.batches.push(append.batch);
        chain.keys.extend(append.keys);
    }
    end.batches = ahead.batches;
    chain
}

/// The chain was committed.
fn extend(end: &mut Appender, chain: &Chain, cursors: &[Cursor]) {
    assert_eq!(cursors.len(), chain.batches.len());
    for (batch, cursor) in chain.batches.iter().zip(cursors) {
        assert!(batch.extends(&end.head));
        assert!(*cursor > end.head.cursor);
        end.head = batch.head(*cursor);
    }
}

fn derived(key: &str, value: Option<&'static str>) -> Derived {
    let value = value.map(|value| Bytes::from_static(value.as_bytes()));
    Derived { table: Table::Imports, key: key.to_owned(), value }
}

async fn stored(engine: &impl Engine, key: &str) -> Option<(Bytes, u64)> {
    let found = engine.get(Table::Imports, key).await.unwrap();
    found.map(|record| (record.value, record.revision.0))
}

pub(super) async fn a_chain_is_appended_batch_by_batch<E: Engine>(engine: &E) {
    let mut end = Appender::new(LOBBY);
    end.append(engine, 2).await;
    let chain = chain_of(&mut end, &[3, 1, 2]);
    let before = end.head.cursor;
    let cursors = engine.append_chain(chain.clone()).await.unwrap();
    extend(&mut end, &chain, &cursors);

    let mut after = before;
    let entries = engine.read(LOBBY, ReadFrom::After(before), ALL).await.unwrap();
    assert_eq!(entries.len(), 3);
    for ((entry, batch), at) in entries.iter().zip(&chain.batches).zip(cursors) {
        let batch = Batch::clone(batch);
        assert_eq!(*entry, Entry { channel: LOBBY, at, after, batch });
        after = at;
    }
    let next = end.next(1);
    assert_eq!(next.batch.first_sequence, Sequence(9));
    let at = engine.append(next.clone()).await.unwrap();
    end.extend(&next, at);
}

pub(super) async fn a_chain_after_another_place_than_the_end_is_moved_whole<E: Engine>(engine: &E) {
    let mut end = Appender::new(LOBBY);
    let mut early = chain_of(&mut end, &[1, 1]);
    early.derived = vec![derived("a", Some("1"))];
    end.append(engine, 1).await;
    assert_eq!(engine.append_chain(early.clone()).await, Err(AppendError::Moved));
    // Its cursor is right, but its sequences are not.
    early.after = end.head.cursor;
    assert_eq!(engine.append_chain(early).await, Err(AppendError::Moved));
    assert_eq!(firsts(engine, ReadFrom::Tail, ALL).await, [1]);
    assert_eq!(stored(engine, "a").await, None);

    let chain = chain_of(&mut end, &[1, 1]);
    let cursors = engine.append_chain(chain.clone()).await.unwrap();
    assert_eq!(engine.append_chain(chain.clone()).await, Err(AppendError::Moved), "once only");
    extend(&mut end, &chain, &cursors);
    assert_eq!(firsts(engine, ReadFrom::Tail, ALL).await, [1, 2, 3]);
}

pub(super) async fn a_taken_key_keeps_the_whole_chain_out<E: Engine>(engine: &E) {
    let mut end = Appender::new(LOBBY);
    let first = end.next_with(&[1, 2], b"a");
    let at = engine.append(first.clone()).await.unwrap();
    end.extend(&first, at);

    let fresh = chain_of(&mut end, &[2, 2, 2]);
    let mut repeating = fresh.clone();
    repeating.keys[5].client_message_id = ClientMessageId(2);
    repeating.keys[3].client_message_id = ClientMessageId(1);
    repeating.derived = vec![derived("a", Some("1"))];
    let taken = vec![first.keys[0], first.keys[1]];
    assert_eq!(engine.append_chain(repeating).await, Err(AppendError::Duplicates(taken)));
    assert_eq!(firsts(engine, ReadFrom::Tail, ALL).await, [1]);
    assert_eq!(stored(engine, "a").await, None);

    // Every other key of it is still free, and afterwards none is.
    let cursors = engine.append_chain(fresh.clone()).await.unwrap();
    extend(&mut end, &fresh, &cursors);
    for key in &fresh.keys {
        let again = end.next_with(&[key.client_message_id.0], b"b");
        let taken = AppendError::Duplicates(vec![*key]);
        assert_eq!(engine.append(again).await, Err(taken));
    }
}

pub(super) async fn a_trim_frees_the_keys_of_the_batches_of_a_chain_that_it_drops<E: Engine>(
    engine: &E,
) {
    let mut end = Appender::new(LOBBY);
    let mut chain = chain_of(&mut end, &[2, 3, 1]);
    // One record of the second batch has no key.
    let unkeyed = chain.keys.remove(3);
    let cursors = engine.append_chain(chain.clone()).await.unwrap();
    extend(&mut end, &chain, &cursors);
    engine.trim(LOBBY, Sequence(3)).await.unwrap();
    let ids: Vec<u64> = chain.keys.iter().map(|key| key.client_message_id.0).collect();
    let again = end.next_with(&ids, b"text");
    let kept = chain.keys[2..].to_vec();
    assert_eq!(engine.append(again).await, Err(AppendError::Duplicates(kept)));
    let free = end.next_with(&[ids[0], ids[1], unkeyed.client_message_id.0], b"text");
    engine.append(free).await.unwrap();
}

pub(super) async fn what_is_derived_is_written_whatever_was_there<E: Engine>(engine: &E) {
    let mut end = Appender::new(LOBBY);
    let put = engine.put(Table::Imports, "old", Bytes::from_static(b"put"), Expect::Absent);
    let revision = put.await.unwrap().0;

    let mut append = end.next(1);
    append.derived = vec![
        derived("old", Some("1")),
        derived("new", Some("2")),
        derived("new", Some("3")),
        derived("gone", Some("4")),
        derived("gone", None),
        derived("never there", None),
    ];
    let at = engine.append(append.clone()).await.unwrap();
    end.extend(&append, at);
    let (value, old_revision) = stored(engine, "old").await.unwrap();
    assert_eq!(value, "1");
    assert!(old_revision > revision);
    let (value, new_revision) = stored(engine, "new").await.unwrap();
    assert_eq!(value, "3");
    assert_eq!(stored(engine, "gone").await, None);
    let stale = Expect::Revision(Revision(revision));
    let put = engine.put(Table::Imports, "old", Bytes::new(), stale).await;
    assert_eq!(put, Err(RecordError::Conflict), "it has another revision now");

    let mut chain = chain_of(&mut end, &[1, 1]);
    chain.derived = vec![derived("old", None), derived("new", Some("5"))];
    engine.append_chain(chain).await.unwrap();
    assert_eq!(stored(engine, "old").await, None);
    let (value, newest_revision) = stored(engine, "new").await.unwrap();
    assert_eq!(value, "5");
    assert!(newest_revision > new_revision);
    let other = engine.get(Table::ImportKeys, "new").await.unwrap();
    assert_eq!(other, None, "of another table");
}

pub(super) async fn an_append_that_does_not_pass_derives_nothing<E: Engine>(engine: &E) {
    let mut end = Appender::new(LOBBY);
    let first = end.next_with(&[1], b"a");
    let at = engine.append(first.clone()).await.unwrap();
    end.extend(&first, at);

    let mut moved = first.clone();
    moved.derived = vec![derived("a", Some("1"))];
    assert_eq!(engine.append(moved).await, Err(AppendError::Moved));
    let mut repeating = end.next_with(&[2, 1], b"a");
    repeating.derived = vec![derived("a", Some("1"))];
    let duplicates = AppendError::Duplicates(first.keys);
    assert_eq!(engine.append(repeating).await, Err(duplicates));
    assert_eq!(stored(engine, "a").await, None);
}

pub(super) async fn many_derived_records_are_one_step<E: Engine>(engine: &E) {
    let mut end = Appender::new(LOBBY);
    let mut append = end.next(1);
    append.derived = (0..5_000).map(|n| derived(&format!("{n:05}"), Some("x"))).collect();
    engine.append(append).await.unwrap();
    let found = engine.scan(Table::Imports, "", None, ALL).await.unwrap();
    assert_eq!(found.len(), 5_000);
    assert_eq!(found[4_999].0, "04999");
}

pub(super) async fn what_is_too_large_together_is_refused<E: Engine>(engine: &E) {
    let mut end = Appender::new(LOBBY);
    let (append_bytes_max, chain_bytes_max) = bytes_max(engine);
    let large = vec![b'x'; chain_bytes_max];
    let value = Bytes::from(large);

    let mut chain = chain_of(&mut end, &[1, 1]);
    chain.derived = vec![derived("a", None)];
    let bytes = chain.bytes();
    chain.derived[0].value = Some(value.slice(bytes - 1..));
    let too_large = AppendError::Refused(Refusal::TooLarge);
    assert_eq!(engine.append_chain(chain.clone()).await, Err(too_large.clone()));
    assert_eq!(firsts(engine, ReadFrom::Tail, ALL).await, [0; 0]);
    chain.derived[0].value = Some(value.slice(bytes..));
    let cursors = engine.append_chain(chain.clone()).await.unwrap();
    extend(&mut end, &chain, &cursors);

    let mut append = end.next(1);
    append.derived = vec![derived("b", None), derived("c", None)];
    append.derived[0].value = Some(value.clone());
    append.derived[1].value = Some(value);
    assert!(append.bytes() > append_bytes_max);
    assert_eq!(engine.append(append).await, Err(too_large));
    assert_eq!(stored(engine, "b").await, None);
}

pub(super) async fn a_record_is_removed_only_at_its_revision<E: Engine>(engine: &E) {
    let remove = |revision| engine.remove(Table::Webhooks, "hook", revision);
    let put = |expect| engine.put(Table::Webhooks, "hook", Bytes::from_static(b"x"), expect);
    assert_eq!(remove(Revision(1)).await, Err(RecordError::Conflict), "absent");
    let first = put(Expect::Absent).await.unwrap();
    let second = put(Expect::Revision(first)).await.unwrap();
    assert_eq!(remove(first).await, Err(RecordError::Conflict));
    let elsewhere = engine.remove(Table::Users, "hook", second);
    assert_eq!(elsewhere.await, Err(RecordError::Conflict));
    assert!(engine.get(Table::Webhooks, "hook").await.unwrap().is_some());
    assert_eq!(remove(second).await, Ok(()));
    assert_eq!(engine.get(Table::Webhooks, "hook").await, Ok(None));
    assert_eq!(engine.scan(Table::Webhooks, "", None, ALL).await, Ok(vec![]));
    assert_eq!(remove(second).await, Err(RecordError::Conflict), "once only");
}

pub(super) async fn a_record_that_comes_back_has_a_revision_of_its_own<E: Engine>(engine: &E) {
    let value = || Bytes::from_static(b"x");
    let put = |expect| engine.put(Table::Imports, "a", value(), expect);
    let first = put(Expect::Absent).await.unwrap();
    engine.remove(Table::Imports, "a", first).await.unwrap();
    let second = put(Expect::Absent).await.unwrap();
    assert!(second > first, "who has read the first life must not write to the second");
    assert_eq!(put(Expect::Revision(first)).await, Err(RecordError::Conflict));

    let mut end = Appender::new(LOBBY);
    for expected in [None, Some(())] {
        let mut append = end.next(1);
        append.derived = vec![derived("a", expected.map(|()| "x"))];
        let at = engine.append(append.clone()).await.unwrap();
        end.extend(&append, at);
        assert_eq!(stored(engine, "a").await.map(drop), expected);
    }
    let (_, third) = stored(engine, "a").await.unwrap();
    assert!(third > second.0);
    let found = engine.get(Table::Imports, "a").await.unwrap().unwrap();
    engine.remove(Table::Imports, "a", found.revision).await.unwrap();
}

pub(super) async fn a_mark_holds_what_was_there<E: Engine>(engine: &E) {
    let empty = engine.mark().await.unwrap();
    let mut lobby = Appender::new(LOBBY);
    let mut attic = Appender::new(ATTIC);
    let first = lobby.append(engine, 1).await;
    let second = attic.append(engine, 1).await;
    assert!(!empty.holds(LOBBY, first) && !empty.holds(ATTIC, second));
    let mark = engine.mark().await.unwrap();
    let chain = chain_of(&mut lobby, &[1, 1]);
    let later = engine.append_chain(chain.clone()).await.unwrap();
    extend(&mut lobby, &chain, &later);
    assert!(mark.holds(LOBBY, first) && mark.holds(ATTIC, second));
    assert!(later.iter().all(|cursor| !mark.holds(LOBBY, *cursor)));
    assert!(engine.mark().await.unwrap().holds(LOBBY, later[1]));
}

pub(super) async fn a_mark_cuts_through_appends_that_go_on<E: Engine>(engine: &E) {
    const CHANNELS: u32 = 8;
    const APPENDS: u64 = 100;
    let writers = (0..CHANNELS).map(|channel| async move {
        let mut end = Appender::new(ChannelId(channel));
        // For each append, the mark before it, its channel and its own cursor.
        let mut steps = Vec::new();
        for _ in 0..APPENDS {
            let mark = engine.mark().await.unwrap();
            if let Some((_, of, last)) = steps.last() {
                assert!(mark.holds(*of, *last), "what was answered before the call is held");
            }
            steps.push((mark, end.channel, end.append(engine, 1).await));
        }
        steps
    });
    let steps: Vec<_> = join_all(writers).await.concat();
    for (mark, of, cursor) in &steps {
        assert!(!mark.holds(*of, *cursor), "what was sent after the answer is not");
    }
    // Cuts do not cross: of any two, one holds all that the other does.
    let mut held: Vec<Vec<bool>> = steps
        .iter()
        .map(|(mark, ..)| steps.iter().map(|(_, of, at)| mark.holds(*of, *at)).collect())
        .collect();
    held.sort_by_key(|held| held.iter().filter(|held| **held).count());
    for pair in held.windows(2) {
        assert!(pair[0].iter().zip(&pair[1]).all(|(less, more)| more >= less));
    }
}

pub(super) async fn of_appends_and_chains_to_one_place_one_gets_in<E: Engine>(engine: &E) {
    let mut end = Appender::new(LOBBY);
    for round in 0..50 {
        let append = end.next(1);
        let chain = chain_of(&mut end, &[1, 2]);
        let (first, second) =
            tokio::join!(engine.append(append.clone()), engine.append_chain(chain.clone()));
        match (first, second) {
            (Ok(cursor), Err(AppendError::Moved)) => end.extend(&append, cursor),
            (Err(AppendError::Moved), Ok(cursors)) => extend(&mut end, &chain, &cursors),
            other => panic!("round {round}: {other:?}"),
        }
    }
    let entries = engine.read(LOBBY, ReadFrom::After(Cursor(0)), ALL).await.unwrap();
    assert_eq!(entries.last().unwrap().batch.head(end.head.cursor), end.head);
}

#[tokio::test]
#[should_panic(expected = "a batch of a chain extends the last")]
async fn what_is_no_chain_is_a_bug_of_its_builder() {
    let mut chain = chain_of(&mut Appender::new(LOBBY), &[1, 1, 1]);
    chain.batches.remove(1);
    chain.keys.clear();
    drop(MemoryEngine::default().append_chain(chain));
}

#[tokio::test]
#[should_panic(expected = "a chain has only keys of its own")]
async fn a_key_of_another_batch_is_a_bug_of_its_builder() {
    let mut chain = chain_of(&mut Appender::new(LOBBY), &[1, 1]);
    chain.batches.pop();
    drop(MemoryEngine::default().append_chain(chain));
}
