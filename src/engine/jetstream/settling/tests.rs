use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use tokio::time::sleep;

use super::*;
use crate::{
    engine::{
        Append, Expect, ReadFrom,
        jetstream::{
            Inner,
            api::Publish,
            entry::{After, Payload},
            records::tests::{derived, nats, node},
        },
        shelf,
    },
    log::{
        batch::{Batch, put_record},
        place::{BatchId, Epoch, Sequence},
    },
};

const LOBBY: ChannelId = ChannelId(7);
const ATTIC: ChannelId = ChannelId(8);
const CELLAR: ChannelId = ChannelId(9);

/// The batch of one message with this sequence.
fn batch(sequence: u64) -> Batch {
    let mut records = BytesMut::new();
    put_record(&mut records, b"text");
    Batch {
        epoch: Epoch(1),
        id: BatchId(u128::from(sequence)),
        previous: BatchId(u128::from(sequence) - 1),
        first_sequence: Sequence(sequence),
        count: 1,
        timestamp_ms: 1,
        records: records.freeze(),
    }
}

/// Puts an entry at the end of a log, whatever is there: one that is not the end that it names has lost a
/// race, as with a server that does not keep its word.
async fn put_entry(
    inner: &Inner,
    channel: ChannelId,
    after: After,
    sequence: u64,
    derived: &[Derived],
) -> Cursor {
    let shelf = shelf(channel, inner.settling.shelves);
    let publish = Publish {
        subject: inner.settling.subjects.log(shelf, channel),
        headers: Vec::new(),
        payload: Payload::encode(channel, after, &batch(sequence), &[], derived),
        expect: None,
    };
    Cursor(inner.api.publish(publish).await.unwrap())
}

/// An appender up to the acknowledgement of its entry, the log's first, when it dies.
async fn append_and_die(inner: &Inner, channel: ChannelId, derived: &[Derived]) -> Cursor {
    inner.settling.announce(channel).await.unwrap();
    put_entry(inner, channel, After::At(Cursor(0)), 1, derived).await
}

impl Settling {
    /// The log's first entry was seen.
    fn seen_first(&self, channel: ChannelId, entry_at: Cursor, derived: &[Derived]) {
        self.seen(channel, entry_at, After::At(Cursor(0)), derived, true);
    }
}

#[tokio::test]
async fn an_entry_of_an_appender_that_died_is_settled_by_who_needs_its_records() {
    let Some(nats) = nats() else { return };
    let [dead, other] = [node(&nats).await, node(&nats).await];
    let said = [derived("a", Some("1")), derived("b", None)];
    let at = append_and_die(&dead, LOBBY, &said).await;
    other.settling.seen_first(LOBBY, at, &said);
    other.settling.settle_for(Table::Channels, |key| key == "b").await.unwrap();
    assert_eq!(other.records.text("a").await.as_deref(), Some("1"));
    assert!(other.settling.state().unsettled.is_empty());
    other.records.catch_up().await.unwrap();
    assert!(other.settling.is_settled(LOBBY, at, &said), "also what was removed");
    other.settling.seen_first(LOBBY, at, &said);
    assert!(other.settling.state().unsettled.is_empty(), "it is known to be settled");
}

#[tokio::test]
async fn who_needs_other_records_does_not_wait() {
    let Some(nats) = nats() else { return };
    let node = node(&nats).await;
    node.settling.settle_those(|_| true).await.unwrap();
    let said = [derived("a", Some("1"))];
    node.settling.seen_first(LOBBY, Cursor(1), &said);
    node.settling.settle_for(Table::Channels, |key| key == "c").await.unwrap();
    node.settling.settle_for(Table::Users, |_| true).await.unwrap();
    assert!(node.settling.state().unsettled.contains_key(&LOBBY));
}

#[tokio::test]
async fn a_node_that_starts_settles_what_one_that_died_has_announced() {
    let Some(nats) = nats() else { return };
    let dead = node(&nats).await;
    append_and_die(&dead, LOBBY, &[derived("a", Some("1"))]).await;
    append_and_die(&dead, ATTIC, &[derived("b", Some("2"))]).await;
    let new = node(&nats).await;
    new.settling.settle_for(Table::Channels, |key| key == "a").await.unwrap();
    assert_eq!(new.records.text("a").await.as_deref(), Some("1"));
    assert_eq!(new.records.text("b").await.as_deref(), Some("2"), "what it says was not known");
}

#[tokio::test]
async fn what_nobody_needs_is_settled_in_the_background() {
    let Some(nats) = nats() else { return };
    let [dead, other] = [node(&nats).await, node(&nats).await];
    let said = [derived("a", Some("1"))];
    let at = append_and_die(&dead, LOBBY, &said).await;
    other.settling.seen_first(LOBBY, at, &said);
    let mut waited = 0;
    while other.records.text("a").await.is_none() {
        waited += 1;
        assert!(waited < 200, "within ten seconds, on a busy machine");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn who_appends_behind_an_entry_of_an_appender_that_died_settles_it_first() {
    let Some(nats) = nats() else { return };
    let [dead, other] = [node(&nats).await, node(&nats).await];
    let at = append_and_die(&dead, LOBBY, &[derived("a", Some("1"))]).await;
    let append = |after, sequence, derived: &[Derived]| Append {
        channel: LOBBY,
        after,
        batch: Arc::new(batch(sequence)),
        keys: Vec::new(),
        derived: derived.to_vec(),
    };
    let at = other.log.append(append(at, 2, &[])).await.unwrap();
    // Nobody would look for it any more: the log's last entry is another one.
    assert_eq!(other.records.text("a").await.as_deref(), Some("1"));
    other.log.append(append(at, 3, &[derived("a", Some("3"))])).await.unwrap();
    assert_eq!(dead.records.text("a").await.as_deref(), Some("3"));
}

#[tokio::test]
async fn what_lost_a_race_says_nothing_of_records_and_hides_nothing() {
    let Some(nats) = nats() else { return };
    let [dead, other] = [node(&nats).await, node(&nats).await];
    let first = After::At(Cursor(0));
    let lost = |value| [derived("a", Some(value)), derived("b", Some(value))];
    // One that derives something, one that does not, and a chain, each behind an entry that won.
    for (channel, key) in [(LOBBY, "7"), (ATTIC, "8"), (CELLAR, "9")] {
        let won = [derived(key, Some("won"))];
        let at = append_and_die(&dead, channel, &won).await;
        let lost_at =
            put_entry(&dead, channel, first, 1, if key == "7" { &won } else { &[] }).await;
        assert!(lost_at > at);
    }
    let at = put_entry(&dead, CELLAR, After::JustBefore, 2, &lost("of a chain")).await;
    other.settling.seen(CELLAR, at, After::JustBefore, &lost("of a chain"), false);
    put_entry(&dead, LOBBY, first, 1, &lost("lost")).await;
    // As far as the feed has not told of them, it has been interrupted.
    other.settling.missed();

    for (channel, key) in [(LOBBY, "7"), (ATTIC, "8"), (CELLAR, "9")] {
        let read = other.log.read(channel, ReadFrom::Tail, usize::MAX.into()).await.unwrap();
        assert!(read.len() > 1);
        assert_eq!(other.records.text(key).await.as_deref(), Some("won"), "{channel:?}");
    }
    // Not in the background either.
    sleep(2 * UNSETTLED_AGE).await;
    other.settling.settle_those(|_| true).await.unwrap();
    for key in ["a", "b"] {
        assert_eq!(other.records.text(key).await, None);
    }
    assert!(other.settling.state().unsettled.is_empty());
}

#[test]
fn what_an_entry_did_not_know_of_stays_unsettled_behind_it() {
    let mut state = State::default();
    let entry = |at| Unsettled {
        derived: Some([derived("a", None)].into()),
        has_won: true,
        ..Unsettled::unread(Cursor(at))
    };
    let at = |at| After::At(Cursor(at));
    for (entry_at, after, has_won, is_kept) in [
        (6, at(5), false, false),
        (9, at(8), false, false),
        (6, at(4), false, true),
        (6, After::JustBefore, false, true),
        (6, After::JustBefore, true, false),
        (5, at(4), true, true),
        (4, at(3), true, true),
    ] {
        state.remember(LOBBY, entry(5));
        state.pass(LOBBY, Cursor(entry_at), after, has_won);
        assert_eq!(state.unsettled.contains_key(&LOBBY), is_kept, "{entry_at} {after:?}");
        let kept = state.unsettled.get(&LOBBY);
        let is_read = kept.is_none_or(|kept| kept.derived.is_some());
        assert_eq!(is_read, entry_at <= 5 || !is_kept, "it is read from the log");
        state.remove(LOBBY);
    }
}

#[tokio::test]
async fn a_late_second_settling_overwrites_nothing_that_came_after_the_first() {
    let Some(nats) = nats() else { return };
    let records = node(&nats).await.records.clone();
    let settle = async |channel, at, value| {
        records.settle(channel, Cursor(at), &[derived("name", value)]).await.unwrap();
    };
    let text = async || records.text("name").await;
    settle(LOBBY, 5, Some("freed by 7")).await;
    assert_eq!(text().await.as_deref(), Some("freed by 7"));

    // A put in between, a removal, and one more put.
    let revision = records.get(Table::Channels, "name").await.unwrap().unwrap().revision;
    let expect = Expect::Revision(revision);
    let revision = records.write_text("name", Some("taken"), expect).await.unwrap();
    settle(LOBBY, 5, Some("freed by 7")).await;
    assert_eq!(text().await.as_deref(), Some("taken"));
    records.write_text("name", None, Expect::Revision(revision)).await.unwrap();
    settle(LOBBY, 5, Some("freed by 7")).await;
    assert_eq!(text().await, None);
    records.write_text("name", Some("taken again"), Expect::Absent).await.unwrap();
    settle(LOBBY, 5, None).await;
    assert_eq!(text().await.as_deref(), Some("taken again"));

    // Another channel takes the name over, and gives it away.
    settle(ATTIC, 2, Some("of 8")).await;
    settle(LOBBY, 5, Some("freed by 7")).await;
    settle(LOBBY, 4, Some("older")).await;
    assert_eq!(text().await.as_deref(), Some("of 8"));
    settle(ATTIC, 3, None).await;
    settle(ATTIC, 2, Some("of 8")).await;
    assert_eq!(text().await, None);

    // The first again, later.
    settle(LOBBY, 9, Some("of 7")).await;
    settle(ATTIC, 3, None).await;
    assert_eq!(text().await.as_deref(), Some("of 7"));
}

#[tokio::test]
async fn all_who_settle_at_once_write_the_same_once() {
    let Some(nats) = nats() else { return };
    let nodes = [node(&nats).await, node(&nats).await];
    let said: Vec<_> = (0..1_500).map(|n| derived(&format!("{n}"), Some("x"))).collect();
    let settle = |n: usize| nodes[n % 2].records.settle(LOBBY, Cursor(1), &said);
    for settled in join_all((0..6).map(settle)).await {
        settled.unwrap();
    }
    let stream = nodes[0].settling.subjects.records_stream();
    let state = nodes[0].api.stream(&stream).await.unwrap().unwrap().state;
    assert_eq!(state.last_seq, 1_500);
}

#[tokio::test]
async fn an_announcement_is_made_once_and_withdrawn() {
    let Some(nats) = nats() else { return };
    let [one, two] = [node(&nats).await, node(&nats).await];
    let stream = one.settling.subjects.records_stream();
    for node in [&one, &two, &one, &two] {
        node.settling.announce(LOBBY).await.unwrap();
    }
    let state = one.api.stream(&stream).await.unwrap().unwrap().state;
    assert_eq!(state.last_seq, 2, "one each");
    one.records.catch_up().await.unwrap();
    assert_eq!(one.settling.announced.all(), [LOBBY]);
    assert_eq!(one.settling.announced.left_behind(), []);
    one.settling.announced.withdraw(LOBBY).await.unwrap();
    two.records.catch_up().await.unwrap();
    assert_eq!(two.settling.announced.all(), [LOBBY], "the other's stays");
    two.settling.announced.withdraw(LOBBY).await.unwrap();
    two.records.catch_up().await.unwrap();
    assert_eq!(two.settling.announced.all(), []);
}

#[tokio::test]
async fn more_than_can_be_remembered_is_looked_up_again() {
    let mut state = State::default();
    let large: Arc<[Derived]> = [Derived {
        table: Table::Channels,
        key: "a".to_owned(),
        value: Some(Bytes::from(vec![0; UNSETTLED_BYTES_MAX / 2])),
    }]
    .into();
    let entry =
        |at| Unsettled { derived: Some(Arc::clone(&large)), ..Unsettled::unread(Cursor(at)) };
    state.remember(LOBBY, entry(5));
    state.remember(ATTIC, entry(6));
    assert!(state.unsettled[&LOBBY].derived.is_some());
    assert!(state.unsettled[&ATTIC].derived.is_none(), "it is read from the log");
    state.remember(LOBBY, entry(4));
    assert_eq!(state.unsettled[&LOBBY].entry_at, Cursor(5), "the later one");
    state.remember(LOBBY, entry(7));
    state.forget(LOBBY, Cursor(6));
    assert_eq!(state.unsettled[&LOBBY].entry_at, Cursor(7));
    state.forget(LOBBY, Cursor(7));
    state.forget(ATTIC, Cursor(6));
    assert_eq!((state.bytes, state.unsettled.len()), (0, 0));

    for channel in 0..=u32::try_from(UNSETTLED_MAX).unwrap() {
        state.remember(ChannelId(channel), Unsettled { derived: None, ..entry(1) });
    }
    assert_eq!((state.missed, state.unsettled.len()), (1, UNSETTLED_MAX));
}
