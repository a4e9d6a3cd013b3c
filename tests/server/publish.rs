//! Commit, then fan-out, then reply; every subscriber gets every sequence once.

use std::collections::HashSet;

use hubbub::{
    client::Delivery,
    engine::{
        Refusal,
        memory::{Fault, Stage},
    },
    limits::DRAFTS_MAX,
    wire::{
        Encoding,
        code::ErrorCode,
        proto::{reply, server_envelope::Envelope},
    },
};

use crate::harness::{Heard, LOBBY, Peer, TestServer, code_of, publish, subscribe, within};

#[tokio::test]
async fn every_client_gets_every_message_of_every_client_once_and_in_order() {
    const CLIENTS: usize = 50;
    const EACH: usize = 20;
    let server = TestServer::start().await;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let client = server.client(&format!("user{number}"));
        let subscription = within("a subscription", client.subscribe(LOBBY, None)).await.unwrap();
        clients.push((client, subscription));
    }

    let mut tasks = Vec::new();
    for (number, (client, mut subscription)) in clients.into_iter().enumerate() {
        let publishing = tokio::spawn(async move {
            let mut sequences = Vec::new();
            for message in 0..EACH {
                let body = format!("{number} {message}");
                let published = client.publish(LOBBY, &body).await.unwrap();
                sequences.push((published.position.sequence.0, body));
            }
            sequences
        });
        let reading = tokio::spawn(async move {
            let mut heard = Vec::new();
            while heard.len() < CLIENTS * EACH {
                match subscription.next().await.unwrap().unwrap() {
                    Delivery::Message(message) => heard.push((message.sequence.0, message.body)),
                    other => panic!("{other:?}"),
                }
            }
            heard
        });
        tasks.push((publishing, reading));
    }

    let (mut acknowledged, mut first) = (Vec::new(), None);
    for (publishing, reading) in tasks {
        let own = within("a publisher", publishing).await.unwrap();
        assert!(own.is_sorted(), "a publisher's own order");
        acknowledged.extend(own);
        let heard = within("a reader", reading).await.unwrap();
        assert!(heard.iter().map(|(sequence, _)| *sequence).eq(1..=(CLIENTS * EACH) as u64));
        assert_eq!(first.get_or_insert_with(|| heard.clone()), &heard, "one order for all");
    }
    acknowledged.sort();
    assert_eq!(Some(acknowledged), first, "what was acknowledged is what was delivered");
}

#[tokio::test]
async fn a_publisher_hears_its_own_message_before_the_reply() {
    let server = TestServer::start().await;
    for encoding in Encoding::ALL {
        let mut peer = Peer::login_with(&server, "ada", encoding).await;
        let head = peer.subscribe(LOBBY, None).await.unwrap().head_sequence;
        for next in 1..=5 {
            let id = peer.send(publish(LOBBY, "hello", 0)).await;
            match peer.hear().await {
                Heard::Messages(messages) => assert_eq!(messages[0].sequence, head + next),
                other => panic!("{other:?} before the message"),
            }
            match peer.hear().await {
                Heard::Envelope(Envelope::Reply(reply)) => assert_eq!(reply.id, id),
                other => panic!("{other:?} instead of the reply"),
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_seen_before_it_is_committed() {
    let server = TestServer::in_memory().await;
    let engine = server.engine();
    let mut publisher = Peer::login(&server, "ada").await;
    let mut subscribers = Vec::new();
    for encoding in Encoding::ALL {
        let mut subscriber = Peer::login_with(&server, "bob", encoding).await;
        subscriber.subscribe(LOBBY, None).await.unwrap();
        subscribers.push(subscriber);
    }

    let hold = engine.faults().hold(Stage::Commit);
    let id = publisher.send(publish(LOBBY, "wait for it", 0)).await;
    within("the append", hold.waiting(1)).await;
    assert_eq!(publisher.catch_up().await, [], "no reply yet");
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.catch_up().await, [], "no delivery yet");
        let (messages, page) = subscriber.history(LOBBY, None, 0).await.unwrap();
        assert_eq!((messages.len(), page.head_sequence), (0, 0), "not in history yet");
    }
    // Who comes now is told of the head that is durable.
    let mut late = Peer::login(&server, "eve").await;
    assert_eq!(late.subscribe(LOBBY, None).await.unwrap().head_sequence, 0);

    drop(hold);
    subscribers.push(late);
    for subscriber in &mut subscribers {
        let messages = subscriber.messages(1).await;
        assert_eq!((messages[0].sequence, messages[0].body.as_str()), (1, "wait for it"));
    }
    assert_eq!(publisher.published(id).await.unwrap().sequence, 1);
}

#[tokio::test]
async fn a_refused_commit_is_an_error_for_its_publisher_and_nothing_for_the_others() {
    let server = TestServer::in_memory().await;
    let engine = server.engine();
    let mut publisher = Peer::login(&server, "ada").await;
    let mut subscriber = Peer::login(&server, "bob").await;
    subscriber.subscribe(LOBBY, None).await.unwrap();

    for (refusal, code) in [
        (Refusal::StorageUnavailable, ErrorCode::StorageUnavailable),
        (Refusal::Busy, ErrorCode::Busy),
        (Refusal::TooLarge, ErrorCode::MessageTooLarge),
    ] {
        engine.faults().refuse_next_append(refusal);
        let refused = publisher.publish_as(LOBBY, "lost", 7).await;
        assert_eq!(code_of(refused), code);
        assert_eq!(subscriber.catch_up().await, []);
    }
    // The number is free again, and no sequence is missing.
    assert_eq!(publisher.publish_as(LOBBY, "kept", 7).await.unwrap().sequence, 1);
    assert_eq!(subscriber.messages(1).await[0].body, "kept");
}

#[tokio::test]
async fn every_message_of_a_refused_batch_is_refused() {
    let server = TestServer::in_memory().await;
    let engine = server.engine();
    let mut publisher = Peer::login(&server, "ada").await;
    let hold = engine.faults().hold(Stage::Commit);
    let first = publisher.send(publish(LOBBY, "first", 0)).await;
    within("the append", hold.waiting(1)).await;
    let mut others = Vec::new();
    for number in 0..10 {
        others.push(publisher.send(publish(LOBBY, &number.to_string(), 0)).await);
    }
    // Behind them on the way to the channel, whichever shard has it.
    publisher.history(LOBBY, None, 1).await.unwrap();
    // The first is still committed; the batch behind it is not.
    engine.faults().next_append(Fault::UnknownCommitted);
    engine.faults().refuse_next_append(Refusal::StorageUnavailable);
    drop(hold);

    assert_eq!(publisher.published(first).await.unwrap().sequence, 1);
    for id in others {
        assert_eq!(code_of(publisher.published(id).await), ErrorCode::StorageUnavailable);
    }
    assert_eq!(publisher.publish(LOBBY, "next").await.unwrap().sequence, 2);
}

#[tokio::test]
async fn an_append_whose_outcome_is_unknown_ends_with_one_message_and_one_reply() {
    let server = TestServer::in_memory().await;
    let engine = server.engine();
    let mut publisher = Peer::login(&server, "ada").await;
    let mut subscriber = Peer::login(&server, "bob").await;
    subscriber.subscribe(LOBBY, None).await.unwrap();

    let histories = [
        vec![Fault::UnknownCommitted],
        vec![Fault::UnknownLost],
        vec![Fault::UnknownLost, Fault::UnknownLost, Fault::UnknownCommitted],
    ];
    for (sequence, faults) in (1..).zip(histories) {
        for fault in faults {
            engine.faults().next_append(fault);
        }
        let published = publisher.publish(LOBBY, "once").await.unwrap();
        assert_eq!(published.sequence, sequence);
        assert_eq!(subscriber.messages(1).await[0].sequence, sequence);
        assert_eq!(subscriber.catch_up().await, []);
    }
}

#[tokio::test]
async fn what_comes_during_a_commit_shares_the_next_one() {
    let server = TestServer::in_memory().await;
    let engine = server.engine();
    let mut publisher = Peer::login(&server, "ada").await;
    let mut subscriber = Peer::login(&server, "bob").await;
    subscriber.subscribe(LOBBY, None).await.unwrap();

    let hold = engine.faults().hold(Stage::Commit);
    publisher.send(publish(LOBBY, "first", 0)).await;
    within("the append", hold.waiting(1)).await;
    for _ in 0..10 {
        publisher.send(publish(LOBBY, "later", 0)).await;
    }
    // Behind them on the way to the channel, whichever shard has it.
    publisher.history(LOBBY, None, 1).await.unwrap();
    drop(hold);
    for expected in [1, 10] {
        match subscriber.hear().await {
            Heard::Messages(messages) => assert_eq!(messages.len(), expected),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn too_many_publishes_that_wait_are_told_to_come_back() {
    let server = TestServer::in_memory().await;
    let engine = server.engine();
    let mut publisher = Peer::login(&server, "ada").await;
    let hold = engine.faults().hold(Stage::Commit);
    publisher.send(publish(LOBBY, "in flight", 0)).await;
    within("the append", hold.waiting(1)).await;
    for _ in 0..DRAFTS_MAX {
        publisher.send(publish(LOBBY, "waits", 0)).await;
    }
    let refused = publisher.publish(LOBBY, "one too many").await.unwrap_err();
    assert_eq!(refused.code, i32::from(ErrorCode::Busy.number()));
    assert!(refused.retry_after_ms > 0);
    drop(hold);
    // All that waited is committed.
    while publisher.publish(LOBBY, "now").await.is_err() {}
    let (_, page) = publisher.history(LOBBY, None, 1).await.unwrap();
    assert_eq!(page.head_sequence, DRAFTS_MAX as u64 + 2);
}

#[tokio::test]
async fn a_delivery_costs_at_most_40_bytes_more_than_its_text() {
    let server = TestServer::start().await;
    let mut publisher = Peer::login(&server, "ada").await;
    let mut subscriber = Peer::login(&server, "bob").await;
    let id = subscriber.send(subscribe(LOBBY, None)).await;
    assert!(matches!(subscriber.reply(id).await.unwrap(), reply::Result::Subscribed(_)));
    let body = "x".repeat(100);
    publisher.publish_as(LOBBY, &body, u64::MAX).await.unwrap();
    let frame = subscriber.socket.frame().await.unwrap();
    let overhead = frame.wire_bytes - body.len();
    assert!((1..=40).contains(&overhead), "{overhead} bytes");
}

#[tokio::test]
async fn a_publish_that_cannot_be_is_refused_with_its_reason() {
    let server = TestServer::start().await;
    let mut peer = Peer::login(&server, "ada").await;
    let empty = peer.publish(LOBBY, "").await;
    assert_eq!(code_of(empty), ErrorCode::EmptyMessage);
    for nowhere in ["nowhere", "", "No Such Name", "\u{fb01}"] {
        let refused = peer.publish(nowhere, "hello").await;
        assert_eq!(code_of(refused), ErrorCode::UnknownChannel, "{nowhere:?}");
    }
    let (messages, _) = peer.history(LOBBY, None, 0).await.unwrap();
    assert_eq!(messages, []);
}

#[tokio::test]
async fn channels_do_not_mix() {
    let server = TestServer::start().await;
    let client = server.client("ada");
    let mut channels = HashSet::new();
    for name in ["one", "two"] {
        channels.insert(within("a channel", client.create_channel(name)).await.unwrap());
    }
    assert_eq!(channels.len(), 2);
    let mut peer = Peer::login(&server, "bob").await;
    let one = peer.subscribe("one", None).await.unwrap().channel_id;
    client.publish("two", "not for one").await.unwrap();
    client.publish("one", "for one").await.unwrap();
    let message = peer.messages(1).await.remove(0);
    assert_eq!((message.channel, message.sequence, message.body.as_str()), (one, 1, "for one"));
}

#[tokio::test]
async fn text_arrives_as_it_was_written() {
    let server = TestServer::start().await;
    let mut peers = Vec::new();
    for encoding in Encoding::ALL {
        let mut peer = Peer::login_with(&server, "ada", encoding).await;
        peer.subscribe(LOBBY, None).await.unwrap();
        peers.push(peer);
    }
    let bodies = ["\u{0}", "\"\\\n\r\t", "\u{1f600}\u{202e}\u{feff}", "</script>", "e\u{301}"];
    for (number, body) in bodies.into_iter().enumerate() {
        peers[number % 2].publish(LOBBY, body).await.unwrap();
        for peer in &mut peers {
            assert_eq!(peer.messages(1).await[0].body, body);
        }
    }
}
