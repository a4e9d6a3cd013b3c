//! Coming back to a position: what was missed first, then what is new, without hole or repeat; or a
//! word about what is missing.

use std::{
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hubbub::{
    client::Delivery,
    engine::{Engine, memory::Stage},
    limits::{HISTORY_MESSAGES_MAX, REPLAY_MESSAGES_MAX, TAIL_BYTES_MAX},
    wire::{
        Encoding,
        code::ErrorCode,
        proto::{history, server_envelope::Envelope},
    },
};

use crate::harness::{
    Heard, LOBBY, Message, Peer, TestServer, code_of, position, publish, subscribe, unsubscribe,
    within,
};

/// So many publishes by one client, each with this many bytes. Answers the epoch.
async fn fill<E: Engine>(server: &TestServer<E>, count: usize, body_bytes: usize) -> u32 {
    let mut publisher = Peer::login(server, "filler").await;
    let bodies = (1..=count).map(|number| format!("{number:0body_bytes$}"));
    let published = publisher.publish_all(LOBBY, bodies).await;
    published.last().expect("at least one").epoch
}

fn assert_sequences(messages: &[Message], expected: RangeInclusive<u64>) {
    let sequences = messages.iter().map(|message| message.sequence);
    assert!(
        sequences.clone().eq(expected.clone()),
        "{:?}: {expected:?}",
        sequences.collect::<Vec<_>>()
    );
}

/// The next thing, which must be a gap.
async fn gap(peer: &mut Peer) -> (u64, u64) {
    match peer.hear().await {
        Heard::Envelope(Envelope::Gap(gap)) => (gap.from_sequence, gap.to_sequence),
        other => panic!("{other:?} instead of a gap"),
    }
}

#[tokio::test]
async fn a_resume_brings_what_was_missed_and_then_what_is_new() {
    let server = TestServer::start().await;
    let epoch = fill(&server, 10, 10).await;
    for encoding in Encoding::ALL {
        for since in [0, 4, 9, 10] {
            let mut peer = Peer::login_with(&server, "ada", encoding).await;
            let subscribed = peer.subscribe(LOBBY, position(epoch, since)).await.unwrap();
            assert_eq!((subscribed.epoch, subscribed.head_sequence), (epoch, 10));
            let missed = peer.messages(10 - usize::try_from(since).unwrap()).await;
            assert_sequences(&missed, since + 1..=10);
            assert_eq!(peer.catch_up().await, []);
        }
    }
    let mut peer = Peer::login(&server, "ada").await;
    peer.subscribe(LOBBY, position(epoch, 4)).await.unwrap();
    peer.publish(LOBBY, "new").await.unwrap();
    assert_sequences(&peer.messages(7).await, 5..=11);
}

#[tokio::test]
async fn a_resume_reads_from_the_log_what_is_no_longer_in_memory() {
    let mut server = TestServer::start().await;
    // More than a restarted server reads into memory, less than it replays.
    let epoch = fill(&server, 100, 2_000).await;
    server.restart().await;
    for encoding in Encoding::ALL {
        for since in [0, 1, 37, 99] {
            let mut peer = Peer::login_with(&server, "ada", encoding).await;
            peer.subscribe(LOBBY, position(epoch, since)).await.unwrap();
            let missed = peer.messages(100 - usize::try_from(since).unwrap()).await;
            assert_sequences(&missed, since + 1..=100);
            let numbers = missed.iter().map(|message| message.body.parse::<u64>().unwrap());
            assert!(numbers.eq(since + 1..=100), "another body");
            assert_eq!(peer.catch_up().await, []);
        }
    }
    assert_eq!(fill(&server, 1, 1).await, epoch, "the numbering goes on after a restart");
}

#[tokio::test]
async fn a_position_too_far_back_gets_a_gap_that_history_fills() {
    let server = TestServer::in_memory().await;
    // So many that the messages before those in memory are too many to be replayed.
    let body_bytes = 1_000;
    let count = REPLAY_MESSAGES_MAX as usize + TAIL_BYTES_MAX / body_bytes + 100;
    let epoch = fill(&server, count, body_bytes).await;
    let mut peer = Peer::login(&server, "ada").await;
    let head = peer.subscribe(LOBBY, position(epoch, 3)).await.unwrap().head_sequence;
    assert_eq!(head, count as u64);
    let (from, to) = gap(&mut peer).await;
    assert_eq!(from, 4);
    assert!(to - from >= REPLAY_MESSAGES_MAX && to < head);
    assert_sequences(&peer.messages(usize::try_from(head - to).unwrap()).await, to + 1..=head);

    let mut filled = Vec::new();
    while filled.len() < usize::try_from(to - from + 1).unwrap() {
        let after = history::From::AfterSequence(from - 1 + filled.len() as u64);
        let (page, _) = peer.history(LOBBY, Some(after), HISTORY_MESSAGES_MAX).await.unwrap();
        assert!(!page.is_empty());
        filled.extend(page.into_iter().filter(|message| message.sequence <= to));
    }
    assert_sequences(&filled, from..=to);
    peer.publish(LOBBY, "and on").await.unwrap();
    assert_sequences(&peer.messages(1).await, head + 1..=head + 1);
}

#[tokio::test]
async fn a_replay_of_too_many_bytes_ends_with_a_gap() {
    let server = TestServer::in_memory().await;
    // Few messages, so that their bytes alone are too many.
    let count = 900;
    let epoch = fill(&server, count, 1_000).await;
    let mut peer = Peer::login(&server, "ada").await;
    peer.subscribe(LOBBY, position(epoch, 0)).await.unwrap();
    let (mut next, mut gaps) = (1, 0);
    while next <= count as u64 {
        match peer.hear().await {
            Heard::Messages(messages) => {
                let last = next + messages.len() as u64;
                assert_sequences(&messages, next..=last - 1);
                next = last;
            }
            Heard::Envelope(Envelope::Gap(gap)) => {
                assert_eq!(gap.from_sequence, next);
                assert!(next > 1, "a part is replayed");
                next = gap.to_sequence + 1;
                gaps += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((next, gaps), (count as u64 + 1, 1));
}

#[tokio::test]
async fn a_position_of_another_numbering_or_of_the_future_is_refused_with_the_head() {
    let server = TestServer::start().await;
    let epoch = fill(&server, 5, 1).await;
    let mut peer = Peer::login(&server, "ada").await;
    for (position, code) in [
        (position(epoch + 1, 3), ErrorCode::EpochChanged),
        (position(epoch - 1, 3), ErrorCode::EpochChanged),
        (position(0, 0), ErrorCode::EpochChanged),
        (position(epoch + 1, 6), ErrorCode::EpochChanged),
        (position(epoch, 6), ErrorCode::PositionAhead),
        (position(epoch, u64::MAX), ErrorCode::PositionAhead),
    ] {
        let refused = peer.subscribe(LOBBY, position).await.unwrap_err();
        assert_eq!(refused.code, i32::from(code.number()), "{position:?}");
        let head = refused.head.expect("where the channel is");
        assert_eq!((head.epoch, head.sequence), (epoch, 5));
    }
    // Neither is it subscribed, nor is anything in the way of it.
    peer.publish(LOBBY, "not delivered").await.unwrap();
    assert_eq!(peer.catch_up().await, []);
    peer.subscribe(LOBBY, position(epoch, 5)).await.unwrap();
    assert_sequences(&peer.messages(1).await, 6..=6);
}

#[tokio::test]
async fn a_channel_has_one_subscription_per_connection() {
    let server = TestServer::start().await;
    let mut peer = Peer::login(&server, "ada").await;
    let channel = peer.subscribe(LOBBY, None).await.unwrap().channel_id;
    let again = peer.subscribe(LOBBY, None).await;
    assert_eq!(code_of(again), ErrorCode::AlreadySubscribed);
    peer.publish(LOBBY, "once").await.unwrap();
    assert_sequences(&peer.messages(1).await, 1..=1);

    peer.ask(unsubscribe(channel)).await.unwrap();
    peer.publish(LOBBY, "unheard").await.unwrap();
    assert_eq!(peer.catch_up().await, []);
    let again = peer.ask(unsubscribe(channel)).await;
    assert_eq!(code_of(again), ErrorCode::NotSubscribed);
    peer.subscribe(LOBBY, None).await.unwrap();
    peer.publish(LOBBY, "heard").await.unwrap();
    assert_sequences(&peer.messages(1).await, 3..=3);
}

#[tokio::test]
async fn what_is_committed_during_a_replay_follows_it() {
    let mut server = TestServer::in_memory().await;
    let epoch = fill(&server, 200, 2_000).await;
    server.restart().await;
    let engine = server.engine();
    let mut publisher = Peer::login(&server, "bob").await;
    publisher.publish(LOBBY, "loads the channel").await.unwrap();

    let mut peer = Peer::login(&server, "ada").await;
    let hold = engine.faults().hold(Stage::Read);
    let id = peer.send(subscribe(LOBBY, position(epoch, 0))).await;
    within("the replay's read", hold.waiting(1)).await;
    peer.reply(id).await.unwrap();
    for _ in 0..5 {
        publisher.publish(LOBBY, "meanwhile").await.unwrap();
    }
    drop(hold);
    assert_sequences(&peer.messages(206).await, 1..=206);
    publisher.publish(LOBBY, "afterwards").await.unwrap();
    assert_sequences(&peer.messages(1).await, 207..=207);
}

#[tokio::test]
async fn what_the_log_holds_before_its_commit_is_known_comes_once_and_afterwards() {
    let mut server = TestServer::in_memory().await;
    let epoch = fill(&server, 100, 2_000).await;
    server.restart().await;
    let engine = server.engine();
    let mut publisher = Peer::login(&server, "bob").await;
    publisher.history(LOBBY, None, 1).await.unwrap();

    let hold = engine.faults().hold(Stage::Answer);
    let id = publisher.send(publish(LOBBY, "in the log already", 0)).await;
    within("the append", hold.waiting(1)).await;
    let mut peer = Peer::login(&server, "ada").await;
    peer.subscribe(LOBBY, position(epoch, 0)).await.unwrap();
    assert_sequences(&peer.messages(100).await, 1..=100);
    let (page, outline) = peer.history(LOBBY, None, 1).await.unwrap();
    assert_sequences(&page, 100..=100);
    assert_eq!(outline.head_sequence, 100);
    assert_eq!(peer.catch_up().await, []);
    drop(hold);
    assert_eq!(publisher.published(id).await.unwrap().sequence, 101);
    assert_sequences(&peer.messages(1).await, 101..=101);
}

#[tokio::test]
async fn an_unsubscribe_during_a_replay_ends_it() {
    let mut server = TestServer::in_memory().await;
    let epoch = fill(&server, 200, 2_000).await;
    server.restart().await;
    let engine = server.engine();
    let mut peer = Peer::login(&server, "ada").await;
    let channel = peer.subscribe(LOBBY, None).await.unwrap().channel_id;
    peer.ask(unsubscribe(channel)).await.unwrap();

    let hold = engine.faults().hold(Stage::Read);
    peer.send(subscribe(LOBBY, position(epoch, 0))).await;
    within("the replay's read", hold.waiting(1)).await;
    peer.ask(unsubscribe(channel)).await.unwrap();
    peer.catch_up().await;
    drop(hold);
    peer.publish(LOBBY, "unheard").await.unwrap();
    assert_eq!(peer.catch_up().await, []);
}

#[tokio::test]
async fn whoever_comes_and_goes_while_others_write_misses_and_repeats_nothing() {
    const ROUNDS: u64 = 40;
    let server = TestServer::start().await;
    let epoch = fill(&server, 1, 4_000).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for name in ["ada", "bob"] {
        let (mut peer, is_over) = (Peer::login(&server, name).await, Arc::clone(&is_over));
        writers.push(tokio::spawn(async move {
            // Large enough that positions fall out of memory.
            let body = "x".repeat(4_000);
            while !is_over.load(Ordering::Relaxed) {
                peer.publish(LOBBY, &body).await.unwrap();
            }
        }));
    }

    let mut last = 0_u64;
    for round in 0..ROUNDS {
        let encoding = Encoding::ALL[usize::from(round % 7 == 0)];
        let mut peer = Peer::login_with(&server, "eve", encoding).await;
        // Every other time from far back: through the log, while its end moves.
        let since = if round % 2 == 0 { last } else { last.saturating_sub(100) };
        peer.subscribe(LOBBY, position(epoch, since)).await.unwrap();
        let mut at = since;
        while at < last + round % 5 {
            match peer.hear().await {
                Heard::Messages(messages) => {
                    assert_sequences(&messages, at + 1..=at + messages.len() as u64);
                    at += messages.len() as u64;
                }
                // The writers may have run too far ahead meanwhile: said, not silent.
                Heard::Envelope(Envelope::Gap(gap)) => {
                    assert_eq!(gap.from_sequence, at + 1);
                    at = gap.to_sequence;
                }
                other => panic!("{other:?}"),
            }
        }
        last = last.max(at);
        // The connection ends wherever it is, often in the middle of a frame.
    }
    is_over.store(true, Ordering::Relaxed);
    for writer in writers {
        within("a writer", writer).await.unwrap();
    }
}

#[tokio::test]
async fn a_client_resumes_by_itself_after_a_restart() {
    let mut server = TestServer::start().await;
    let reader = server.client("ada");
    let mut subscription = within("subscribe", reader.subscribe(LOBBY, None)).await.unwrap();
    let writer = server.client("bob");
    within("publish", writer.publish(LOBBY, "before")).await.unwrap();
    server.restart().await;
    let mut other = Peer::login(&server, "eve").await;
    other.publish(LOBBY, "meanwhile").await.unwrap();
    within("publish", writer.publish(LOBBY, "after")).await.unwrap();
    for (sequence, body) in (1..).zip(["before", "meanwhile", "after"]) {
        match within("a delivery", subscription.next()).await.unwrap().unwrap() {
            Delivery::Message(message) => {
                assert_eq!((message.sequence.0, message.body.as_str()), (sequence, body));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn commands_behind_one_that_waits_are_obeyed_in_their_order() {
    let server = TestServer::start().await;
    let mut peer = Peer::login(&server, "ada").await;
    // The first command must look the channel up; the others lie behind it in one write.
    let mut frames = Vec::new();
    for (id, command) in
        (1..).zip([subscribe(LOBBY, None), publish(LOBBY, "one", 0), publish(LOBBY, "two", 0)])
    {
        frames.extend(peer.encode(id, command));
    }
    peer.socket.write(&frames).await;
    peer.reply(1).await.unwrap();
    assert_eq!(peer.published(2).await.unwrap().sequence, 1);
    assert_eq!(peer.published(3).await.unwrap().sequence, 2);
    assert_sequences(&peer.messages(2).await, 1..=2);
}
