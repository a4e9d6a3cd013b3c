//! Logs on healthy servers.

use super::*;
use crate::engine::ReadFrom::{After, EndingWith, Holding, Tail};

#[tokio::test]
async fn a_cluster_keeps_the_number_of_its_logs_and_its_settings() {
    let Some(cluster) = Cluster::start(1) else { return };
    let engine = cluster.node();
    drop(cluster.node());
    let error = open(JetStreamOptions { streams: 3, ..cluster.options() }).unwrap_err();
    let OpenError::Streams(StreamsError::Logs { made, configured: 3 }) = error else {
        panic!("{error}");
    };
    assert_eq!(made, "2");
    let error = open(JetStreamOptions { single: false, ..cluster.options() }).unwrap_err();
    let OpenError::Streams(StreamsError::Setting { setting: "num_replicas", .. }) = error else {
        panic!("{error}");
    };
    // Another prefix is another cluster.
    drop(open(JetStreamOptions { prefix: "b".into(), streams: 3, ..cluster.options() }).unwrap());
    assert_eq!(engine.caps().durability, Durability::Fsynced);
}

#[tokio::test]
async fn a_conflict_and_a_repeat_on_another_node_have_their_answers() {
    let Some(cluster) = Cluster::start(1) else { return };
    let (ann, ben) = (cluster.node(), cluster.node());
    let mut chain = Appender::new(LOBBY);
    let first = chain.next_with(&[1], b"a");
    let late = first.clone();
    let at = ann.append(first.clone()).await.unwrap();
    chain.extend(&first, at);
    assert_eq!(ben.append(late).await, Err(AppendError::Moved), "ben has not read on");
    let again = chain.clone().next_with(&[2, 1], b"a");
    assert_eq!(ben.append(again).await, Err(AppendError::Duplicates(first.keys.clone())));

    // Both at the same place, again and again: one gets in.
    for round in 0..50 {
        let (one, mut other) = (chain.next(1), chain.next(1));
        other.batch = Arc::new(Batch { previous: chain.head.batch, ..Batch::clone(&other.batch) });
        match tokio::join!(ann.append(one.clone()), ben.append(other.clone())) {
            (Ok(at), Err(AppendError::Moved)) => chain.extend(&one, at),
            (Err(AppendError::Moved), Ok(at)) => chain.extend(&other, at),
            answers => panic!("round {round}: {answers:?}"),
        }
    }
    let key = (ANN, ClientMessageId(1));
    assert_eq!(ben.find_keys(LOBBY, vec![key]).await.unwrap(), first.keys);
}

#[tokio::test]
async fn a_place_is_found_in_a_long_log_among_others() {
    const BATCHES: u64 = 2_000;
    let Some(engine) = TestEngine::start(1) else { return };
    let mut chain = Appender::new(LOBBY);
    // In the same stream, and much more often at first than at last.
    let mut others: Vec<_> = (1..6).map(|n| Appender::new(ChannelId(7 + 2 * n))).collect();
    let mut cursors = Vec::new();
    for n in 0..BATCHES {
        cursors.push(chain.append(&*engine, 1 + n % 2).await);
        if n % 100 == 0 {
            for other in &mut others {
                other.append(&*engine, 1).await;
            }
        }
        if n == BATCHES / 2 {
            for _ in 0..300 {
                others[0].append(&*engine, 1).await;
            }
        }
    }
    let log = engine.read(LOBBY, After(Cursor(0)), usize::MAX).await.unwrap();
    assert!(log.iter().map(|entry| entry.at).eq(cursors.iter().copied()));
    let mut head = Head::empty(Epoch(1));
    for entry in &log {
        assert!(entry.after == head.cursor && entry.batch.extends(&head));
        head = entry.batch.head(entry.at);
    }

    let max = ReadMax { bytes: usize::MAX, messages: 5 };
    let expect = |from: ReadFrom| {
        let messages = |entry: &&Entry| from.wanted_of(&entry.batch);
        let enough = |entries: Vec<&Entry>| {
            let mut sum = 0;
            let taken = entries.into_iter().take_while(|entry| {
                let wants = sum < 5;
                sum += messages(entry);
                wants
            });
            taken.cloned().collect::<Vec<_>>()
        };
        let mut back = match from {
            After(cursor) => return enough(log.iter().filter(|it| it.at > cursor).collect()),
            Holding(sequence) => {
                return enough(
                    log.iter().filter(|it| it.batch.last_sequence() >= sequence).collect(),
                );
            }
            EndingWith(sequence) => {
                let before = log.iter().rev().filter(|it| it.batch.first_sequence <= sequence);
                enough(before.collect())
            }
            Tail => enough(log.iter().rev().collect()),
        };
        back.reverse();
        back
    };
    let sequences = [1, 2, 3, 700, 1_499, 1_500, 1_501, 1_502, 2_998, 2_999, 3_000, 3_001];
    for sequence in sequences.map(Sequence) {
        for from in [Holding(sequence), EndingWith(sequence)] {
            let read = engine.read(LOBBY, from, max).await.unwrap();
            assert_eq!(read, expect(from), "{from:?}");
        }
    }
    for from in [Tail, After(cursors[0]), After(cursors[1_000]), After(cursors[1_998])] {
        assert_eq!(engine.read(LOBBY, from, max).await.unwrap(), expect(from), "{from:?}");
    }
    let all = engine.read(LOBBY, Tail, usize::MAX).await.unwrap();
    assert!(all == log, "the whole log, backward");
    let keys = engine.keys(LOBBY, Sequence(10), Sequence(2_000)).await.unwrap();
    assert!(keys.iter().map(|key| key.sequence.0).eq(10..=2_000));

    // A node that comes later has read all keys that it must know.
    let node = engine.cluster.node();
    let again = chain.clone().next_with(&[1_000_000], b"text");
    assert!(matches!(node.append(again).await, Err(AppendError::Duplicates(_))));
}

#[tokio::test]
async fn what_somebody_else_put_into_a_log_is_never_served() {
    let Some(engine) = TestEngine::start(1) else { return };
    let mut chain = Appender::new(LOBBY);
    let kept = chain.append(&*engine, 2).await;
    let (_, subject) = engine.cluster.place(LOBBY);
    let mut other = Appender::new(ATTIC);
    let misplaced = other.next(1);
    let misplaced =
        entry::Payload::encode(ATTIC, entry::After::At(kept), &misplaced.batch, &[], &[]);
    for payload in [Bytes::from_static(b"foreign"), misplaced] {
        let client = engine.inner.api.client().clone();
        let publish =
            Publish { subject: subject.clone(), headers: Vec::new(), payload, expect: None };
        let at = Api::new(client).publish(publish).await.unwrap();
        for from in [Tail, After(kept), After(Cursor(0)), Holding(Sequence(2))] {
            let read = engine.read(LOBBY, from, usize::MAX).await;
            let Err(ReadError::Damaged { cursor, .. }) = read else { panic!("{from:?}: {read:?}") };
            assert_eq!(cursor, Cursor(at));
        }
        let [end, attic] = engine.heads(vec![LOBBY, ATTIC]).await.unwrap()[..] else { panic!() };
        assert!(matches!(end, LogEnd::Damaged(_)), "{end:?}");
        assert_eq!(attic, LogEnd::Empty);
    }
    let mut next = chain.next(1);
    assert_eq!(engine.append(next.clone()).await, Err(AppendError::Moved), "nothing follows it");
    next.after = Cursor(0);
    assert_eq!(engine.append(next).await, Err(AppendError::Moved));
    assert!(engine.read(LOBBY, After(Cursor(0)), 1).await.is_err());
}

#[tokio::test]
async fn an_entry_that_lost_a_race_is_passed_on_as_junk_and_takes_no_key() {
    let Some(engine) = TestEngine::start(1) else { return };
    let mut chain = Appender::new(LOBBY);
    let kept = chain.append(&*engine, 2).await;
    let lost = chain.next_with(&[5], b"lost");
    let won = chain.append(&*engine, 1).await;
    // As a server would that does not keep its word: it lands behind the one that it lost against.
    let (_, subject) = engine.cluster.place(LOBBY);
    let payload =
        entry::Payload::encode(LOBBY, entry::After::At(kept), &lost.batch, &lost.keys, &[]);
    let publish = Publish { subject, headers: Vec::new(), payload, expect: None };
    let junk = Cursor(engine.inner.api.publish(publish).await.unwrap());

    let read = engine.read(LOBBY, After(kept), usize::MAX).await.unwrap();
    let places: Vec<_> = read.iter().map(|entry| (entry.at, entry.after)).collect();
    assert_eq!(places, [(won, kept), (junk, won)]);
    assert!(!read[1].batch.extends(&read[0].batch.head(won)));
    chain.head.cursor = junk;
    let same = chain.next_with(&[5], b"again");
    let at = engine.append(same.clone()).await.unwrap();
    chain.extend(&same, at);
    let tail = engine.read(LOBBY, Tail, usize::MAX).await.unwrap();
    assert_eq!(tail.len(), 4);
    assert_eq!(tail[3].after, junk);
    let keys = engine.keys(LOBBY, Sequence(1), Sequence(9)).await.unwrap();
    assert_eq!(keys.len(), 4, "{keys:?}");
}

#[tokio::test]
async fn what_lost_against_the_first_of_many_entries_hides_none_of_them() {
    let Some(engine) = TestEngine::start(1) else { return };
    let mut chain = Appender::new(LOBBY);
    let lost = chain.next(1);
    for _ in 0..2 * limits::JETSTREAM_PAGE_ENTRIES + 50 {
        chain.append(&*engine, 1).await;
    }
    let log = engine.read(LOBBY, Tail, usize::MAX).await.unwrap();
    let (_, subject) = engine.cluster.place(LOBBY);
    for link in [Cursor(0), log[0].at] {
        let payload =
            entry::Payload::encode(LOBBY, entry::After::At(link), &lost.batch, &lost.keys, &[]);
        let subject = subject.clone();
        let publish = Publish { subject, headers: Vec::new(), payload, expect: None };
        engine.inner.api.publish(publish).await.unwrap();
        let read = engine.read(LOBBY, Tail, usize::MAX).await.unwrap();
        assert_eq!(read[..log.len()], log[..], "behind {link:?}");
    }
}

#[tokio::test]
async fn an_entry_that_is_missing_in_the_middle_is_damage() {
    let Some(engine) = TestEngine::start(1) else { return };
    let mut chain = Appender::new(LOBBY);
    let first = chain.append(&*engine, 1).await;
    // What says that it follows an entry which is not there, and everything behind it.
    chain.head.cursor = Cursor(first.0 + 1);
    let next = chain.next(1);
    let mut other = Appender::new(ChannelId(9));
    other.append(&*engine, 1).await;
    let (_, subject) = engine.cluster.place(LOBBY);
    let link = entry::After::At(Cursor(first.0 + 1));
    let payload = entry::Payload::encode(LOBBY, link, &next.batch, &next.keys, &[]);
    let publish = Publish { subject, headers: Vec::new(), payload, expect: None };
    let at = Cursor(engine.inner.api.publish(publish).await.unwrap());
    let damaged = Err(ReadError::Damaged { cursor: at, source: BatchError::BrokenChain });
    for from in
        [After(first), After(Cursor(0)), Tail, EndingWith(Sequence(9)), Holding(Sequence(1))]
    {
        assert_eq!(engine.read(LOBBY, from, usize::MAX).await, damaged, "{from:?}");
    }
}
