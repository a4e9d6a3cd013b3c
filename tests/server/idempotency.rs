//! The same publish, however often it comes, is one message with one sequence.

use hubbub::{
    engine::{Engine, memory::Stage},
    limits::KEY_WINDOW_MAX,
    wire::{code::ErrorCode, proto},
};

use crate::harness::{LOBBY, Peer, Refused, TestServer, code_of, publish, within};

const KEY: u64 = 0xfeed_0000_0000_0001;

async fn bodies<E: Engine>(server: &TestServer<E>) -> Vec<String> {
    let (messages, _) = Peer::login(server, "reader").await.history(LOBBY, None, 0).await.unwrap();
    messages.into_iter().map(|message| message.body).collect()
}

fn place(published: Result<proto::Published, Refused>) -> (u32, u64) {
    let published = published.unwrap();
    (published.epoch, published.sequence)
}

#[tokio::test]
async fn a_publish_that_is_repeated_keeps_its_place_also_after_a_restart() {
    let mut server = TestServer::start().await;
    let mut peer = Peer::login(&server, "ada").await;
    let first = peer.publish_as(LOBBY, "hello", KEY).await.unwrap();
    assert_ne!(first.timestamp_ms, 0);
    let again = peer.publish_as(LOBBY, "hello", KEY).await.unwrap();
    assert_eq!((again.epoch, again.sequence), (first.epoch, first.sequence));
    assert_eq!(again.timestamp_ms, 0, "history has it");
    peer.publish(LOBBY, "another").await.unwrap();

    for _ in 0..2 {
        server.restart().await;
        let mut peer = Peer::login(&server, "ada").await;
        let again = peer.publish_as(LOBBY, "hello", KEY).await;
        assert_eq!(place(again), (first.epoch, first.sequence));
        let other_body = peer.publish_as(LOBBY, "goodbye", KEY).await;
        assert_eq!(code_of(other_body), ErrorCode::IdempotencyConflict);
    }
    assert_eq!(bodies(&server).await, ["hello", "another"]);
}

#[tokio::test]
async fn the_same_publish_on_two_connections_at_once_is_one_message() {
    let server = TestServer::in_memory().await;
    let engine = server.engine();
    let mut peers = [Peer::login(&server, "ada").await, Peer::login(&server, "ada").await];
    let mut subscriber = Peer::login(&server, "bob").await;
    subscriber.subscribe(LOBBY, None).await.unwrap();

    // Both while the commit is under way.
    let hold = engine.faults().hold(Stage::Commit);
    let first = peers[0].send(publish(LOBBY, "hello", KEY)).await;
    within("the append", hold.waiting(1)).await;
    let second = peers[1].send(publish(LOBBY, "hello", KEY)).await;
    let other_body = peers[1].publish_as(LOBBY, "goodbye", KEY).await;
    assert_eq!(code_of(other_body), ErrorCode::IdempotencyConflict);
    drop(hold);
    let places = [place(peers[0].published(first).await), place(peers[1].published(second).await)];
    assert_eq!(places[0], places[1]);
    assert_eq!(subscriber.messages(1).await[0].sequence, places[0].1);
    assert_eq!(subscriber.catch_up().await, []);
    assert_eq!(bodies(&server).await, ["hello"]);
}

#[tokio::test]
async fn two_connections_that_race_on_a_real_log_get_one_sequence_each_time() {
    let mut server = TestServer::start().await;
    for round in 0..3 {
        let mut racers = Vec::new();
        for _ in 0..2 {
            let mut peer = Peer::login(&server, "ada").await;
            racers.push(tokio::spawn(async move {
                let mut places = Vec::new();
                for number in 1..=20 {
                    places.push(place(peer.publish_as(LOBBY, &number.to_string(), number).await));
                }
                places
            }));
        }
        let mut places = Vec::new();
        for racer in racers {
            places.push(within("a racer", racer).await.unwrap());
        }
        assert_eq!(places[0], places[1], "round {round}");
        assert!(places[0].iter().map(|(_, sequence)| *sequence).eq(1..=20));
        // And once more on a server that remembers nothing but its log.
        server.restart().await;
    }
    assert_eq!(bodies(&server).await.len(), 20);
}

#[tokio::test]
async fn a_repeat_in_a_batch_with_new_messages_holds_none_of_them_up() {
    let mut server = TestServer::start().await;
    let mut peer = Peer::login(&server, "ada").await;
    for number in 1..=3 {
        peer.publish_as(LOBBY, &format!("old {number}"), number).await.unwrap();
    }
    server.restart().await;
    let mut peer = Peer::login(&server, "ada").await;
    let mut frames = Vec::new();
    let expected = [(2, Ok(2)), (11, Ok(4)), (3, Err(())), (1, Ok(1)), (12, Ok(5)), (11, Ok(4))];
    for (id, (key, outcome)) in (1..).zip(expected) {
        let age = if key > 10 { "new" } else { "old" };
        let body = if outcome.is_ok() { format!("{age} {key}") } else { "changed".to_owned() };
        frames.extend(peer.encode(id, publish(LOBBY, &body, key)));
    }
    peer.socket.write(&frames).await;
    for (id, (key, outcome)) in (1..).zip(expected) {
        match (peer.published(id).await, outcome) {
            (Ok(published), Ok(sequence)) => assert_eq!(published.sequence, sequence, "key {key}"),
            (Err(refused), Err(())) => {
                assert_eq!(refused.code, i32::from(ErrorCode::IdempotencyConflict.number()));
            }
            (published, _) => panic!("{published:?} for key {key}"),
        }
    }
    assert_eq!(bodies(&server).await, ["old 1", "old 2", "old 3", "new 11", "new 12"]);
}

#[tokio::test]
async fn a_number_is_one_users_in_one_channel() {
    let server = TestServer::start().await;
    let client = server.client("ada");
    within("a channel", client.create_channel("elsewhere")).await.unwrap();
    let mut ada = Peer::login(&server, "ada").await;
    let mut bob = Peer::login(&server, "bob").await;
    assert_eq!(ada.publish_as(LOBBY, "hers", KEY).await.unwrap().sequence, 1);
    assert_eq!(bob.publish_as(LOBBY, "his", KEY).await.unwrap().sequence, 2);
    assert_eq!(ada.publish_as("elsewhere", "hers too", KEY).await.unwrap().sequence, 1);
    assert_eq!(bodies(&server).await, ["hers", "his"]);
}

#[tokio::test]
async fn without_a_number_the_same_words_are_two_messages() {
    let server = TestServer::start().await;
    let mut peer = Peer::login(&server, "ada").await;
    assert_eq!(peer.publish(LOBBY, "hello").await.unwrap().sequence, 1);
    assert_eq!(peer.publish(LOBBY, "hello").await.unwrap().sequence, 2);
}

#[tokio::test]
async fn a_number_that_memory_has_forgotten_is_found_in_the_log() {
    let server = TestServer::in_memory().await;
    let mut peer = Peer::login(&server, "ada").await;
    let first = place(peer.publish_as(LOBBY, "the oldest", KEY).await);
    // Fewer at a time than may wait.
    for chunk in 0..(KEY_WINDOW_MAX as u64).div_ceil(2_000) + 1 {
        let mut frames = Vec::new();
        let keys = chunk * 2_000 + 1..=(chunk + 1) * 2_000;
        for key in keys.clone() {
            let id = u32::try_from(1_000_000 + key).unwrap();
            frames.extend(peer.encode(id, publish(LOBBY, "x", key)));
        }
        peer.socket.write(&frames).await;
        for key in keys {
            peer.published(u32::try_from(1_000_000 + key).unwrap()).await.unwrap();
        }
    }
    assert_eq!(place(peer.publish_as(LOBBY, "the oldest", KEY).await), first);
    let other_body = peer.publish_as(LOBBY, "changed", KEY).await;
    assert_eq!(code_of(other_body), ErrorCode::IdempotencyConflict);
    let (_, page) = peer.history(LOBBY, None, 1).await.unwrap();
    assert_eq!(page.head_sequence % 2_000, 1, "no repeat was stored");
}
