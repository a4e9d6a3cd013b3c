//! Pages of what is committed: where they lie, how long they are, and that they have no holes.

use hubbub::{
    engine::{ReadError, memory::Stage},
    limits::{
        HISTORY_MESSAGES_DEFAULT, HISTORY_MESSAGES_MAX, HISTORY_READS_PER_CONNECTION_MAX,
        READ_BYTES_MAX,
    },
    wire::{
        Encoding,
        code::ErrorCode,
        proto::history::From::{self, AfterSequence, BeforeSequence},
    },
};

use crate::harness::{LOBBY, Message, Peer, TestServer, code_of, history, within};

fn sequences(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| message.sequence).collect()
}

#[tokio::test]
async fn a_page_lies_where_it_was_asked_for() {
    let server = TestServer::start().await;
    let mut publisher = Peer::login(&server, "ada").await;
    let published =
        publisher.publish_all(LOBBY, (1..=30).map(|number| format!("message {number}"))).await;
    for encoding in Encoding::ALL {
        let mut peer = Peer::login_with(&server, "bob", encoding).await;
        let pages: [(Option<From>, u32, std::ops::Range<u64>); 15] = [
            (None, 5, 26..31),
            (None, 0, 1..31),
            (None, 30, 1..31),
            (None, u32::MAX, 1..31),
            (Some(BeforeSequence(11)), 5, 6..11),
            (Some(BeforeSequence(4)), 5, 1..4),
            (Some(BeforeSequence(1)), 5, 0..0),
            (Some(BeforeSequence(0)), 5, 0..0),
            (Some(BeforeSequence(31)), 5, 26..31),
            (Some(BeforeSequence(u64::MAX)), 5, 26..31),
            (Some(AfterSequence(0)), 5, 1..6),
            (Some(AfterSequence(28)), 5, 29..31),
            (Some(AfterSequence(30)), 5, 0..0),
            (Some(AfterSequence(31)), 5, 0..0),
            (Some(AfterSequence(u64::MAX)), u32::MAX, 0..0),
        ];
        for (from, limit, expected) in pages {
            let (messages, page) = peer.history(LOBBY, from, limit).await.unwrap();
            let expected: Vec<_> = expected.collect();
            assert_eq!(sequences(&messages), expected, "{from:?}, at most {limit}");
            assert_eq!((page.epoch, page.head_sequence), (published[0].epoch, 30));
            for message in messages {
                assert_eq!(message.body, format!("message {}", message.sequence));
                let at = usize::try_from(message.sequence - 1).unwrap();
                assert_eq!(message.timestamp_ms, published[at].timestamp_ms);
            }
        }
    }
}

#[tokio::test]
async fn an_empty_channel_has_empty_pages_and_no_head() {
    let server = TestServer::start().await;
    for encoding in Encoding::ALL {
        let mut peer = Peer::login_with(&server, "ada", encoding).await;
        for from in [None, Some(BeforeSequence(1)), Some(BeforeSequence(9)), Some(AfterSequence(0))]
        {
            let (messages, page) = peer.history(LOBBY, from, 0).await.unwrap();
            assert_eq!((messages.len(), page.head_sequence), (0, 0));
        }
        let nowhere = peer.history("nowhere", None, 0).await;
        assert_eq!(code_of(nowhere), ErrorCode::UnknownChannel);
    }
}

#[tokio::test]
async fn paging_meets_every_message_once_in_both_directions() {
    const COUNT: u64 = 450;
    let mut server = TestServer::start().await;
    let mut publisher = Peer::login(&server, "ada").await;
    publisher.publish_all(LOBBY, (1..=COUNT).map(|number| format!("{number:0600}"))).await;
    // What a restarted server pages is in no memory.
    server.restart().await;
    let mut peer = Peer::login(&server, "bob").await;
    for limit in [0, 7, HISTORY_MESSAGES_MAX, u32::MAX] {
        let most =
            if limit == 0 { HISTORY_MESSAGES_DEFAULT } else { limit.min(HISTORY_MESSAGES_MAX) };
        let (mut forward, mut backward) = (Vec::new(), Vec::new());
        while (forward.len() as u64) < COUNT {
            let after = AfterSequence(forward.last().copied().unwrap_or(0));
            let (page, _) = peer.history(LOBBY, Some(after), limit).await.unwrap();
            assert!((1..=most as usize).contains(&page.len()));
            forward.extend(sequences(&page));
        }
        assert!(forward.into_iter().eq(1..=COUNT));
        while (backward.len() as u64) < COUNT {
            let before = backward.last().copied().map(BeforeSequence);
            let (page, _) = peer.history(LOBBY, before, limit).await.unwrap();
            assert!((1..=most as usize).contains(&page.len()));
            backward.extend(sequences(&page).into_iter().rev());
        }
        assert!(backward.into_iter().rev().eq(1..=COUNT));
    }
}

#[tokio::test]
async fn a_page_of_long_messages_is_short_but_lies_at_its_place() {
    let server = TestServer::start().await;
    let mut peer = Peer::login(&server, "ada").await;
    peer.publish_all(LOBBY, (0..12).map(|_| "x".repeat(40_000))).await;
    for (from, first, last) in [
        (None, None, Some(12)),
        (Some(BeforeSequence(9)), None, Some(8)),
        (Some(AfterSequence(3)), Some(4), None),
    ] {
        let (page, _) = peer.history(LOBBY, from, 0).await.unwrap();
        assert!((1..=1 + READ_BYTES_MAX / 40_000).contains(&page.len()), "{}", page.len());
        assert!(first.is_none_or(|first| page[0].sequence == first));
        assert!(last.is_none_or(|last| page[page.len() - 1].sequence == last));
    }
}

#[tokio::test]
async fn history_works_without_a_subscription_and_moves_none() {
    let server = TestServer::start().await;
    let mut peer = Peer::login(&server, "ada").await;
    let epoch = peer.publish(LOBBY, "one").await.unwrap().epoch;
    peer.subscribe(LOBBY, crate::harness::position(epoch, 0)).await.unwrap();
    assert_eq!(sequences(&peer.messages(1).await), [1]);
    peer.history(LOBBY, Some(AfterSequence(0)), 0).await.unwrap();
    assert_eq!(peer.catch_up().await, []);
    peer.publish(LOBBY, "two").await.unwrap();
    assert_eq!(sequences(&peer.messages(1).await), [2]);
}

#[tokio::test]
async fn one_connection_reads_only_so_many_pages_at_once() {
    let server = TestServer::in_memory().await;
    let engine = server.engine();
    let mut peer = Peer::login(&server, "ada").await;
    peer.publish(LOBBY, "one").await.unwrap();
    let hold = engine.faults().hold(Stage::Read);
    let mut ids = Vec::new();
    for _ in 0..HISTORY_READS_PER_CONNECTION_MAX {
        ids.push(peer.send(history(LOBBY, None, 0)).await);
    }
    let one_too_many = peer.history(LOBBY, None, 0).await;
    assert_eq!(code_of(one_too_many), ErrorCode::Busy);
    // It is that connection's bound, not the server's.
    let mut other = Peer::login(&server, "bob").await;
    let of_other = other.send(history(LOBBY, None, 0)).await;
    within("the reads", hold.waiting(usize::from(HISTORY_READS_PER_CONNECTION_MAX) + 1)).await;
    drop(hold);
    for id in ids {
        peer.reply(id).await.unwrap();
    }
    other.reply(of_other).await.unwrap();
    peer.history(LOBBY, None, 0).await.unwrap();
}

#[tokio::test]
async fn a_read_that_fails_is_an_error_and_the_next_may_pass() {
    let server = TestServer::in_memory().await;
    let engine = server.engine();
    let mut peer = Peer::login(&server, "ada").await;
    peer.publish(LOBBY, "one").await.unwrap();
    engine.faults().fail_next_read(ReadError::StorageUnavailable);
    let failed = peer.history(LOBBY, None, 0).await;
    assert_eq!(code_of(failed), ErrorCode::StorageUnavailable);
    let (page, _) = peer.history(LOBBY, None, 0).await.unwrap();
    assert_eq!(sequences(&page), [1]);
}
