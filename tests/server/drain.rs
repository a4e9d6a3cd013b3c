//! A server that is told to stop loses nothing that it has acknowledged, and says where it stands.

use std::time::Duration;

use hubbub::{
    engine::memory::Stage,
    wire::{
        Encoding,
        code::{CloseCode, ErrorCode},
        proto::server_envelope::Envelope,
    },
};

use tokio::net::TcpStream;

use crate::harness::{Heard, LOBBY, Peer, TestServer, code_of, get, off_runtime, publish, within};

fn is_going_away(heard: &Heard) -> bool {
    matches!(heard, Heard::Envelope(Envelope::GoingAway(_)))
}

const GOING_AWAY: Heard = Heard::Close(CloseCode::GoingAway.number());

#[tokio::test]
async fn what_was_acknowledged_before_a_drain_is_in_history_after_it() {
    let mut server = TestServer::start().await;
    let (acknowledged, mut news) = tokio::sync::mpsc::channel(64);
    let mut writers = Vec::new();
    for number in 0..8 {
        let mut peer = Peer::login(&server, &format!("writer{number}")).await;
        let acknowledged = acknowledged.clone();
        writers.push(tokio::spawn(async move {
            let mut places = Vec::new();
            for message in 0.. {
                let body = format!("{number} {message}");
                let id = peer.send_or_end(publish(LOBBY, &body, 0)).await;
                match peer.published_or_end(id).await {
                    Some(Ok(published)) => places.push((published.sequence, body)),
                    Some(refused) => {
                        assert_eq!(code_of(refused), ErrorCode::Draining);
                        break;
                    }
                    None => break,
                }
                // The news may be full, or nobody may want them any more.
                let _ = acknowledged.try_send(());
            }
            (places, peer.rest().await)
        }));
    }
    for _ in 0..64 {
        within("an acknowledgement", news.recv()).await.unwrap();
    }
    assert!(server.drain().await, "in time");

    let mut all = Vec::new();
    for writer in writers {
        let (places, heard) = within("a writer", writer).await.unwrap();
        assert!(places.is_sorted());
        all.extend(places);
        // What it had not read when it stopped writing: a warning, perhaps, and the close.
        let (close, before) = heard.split_last().expect("a close");
        assert_eq!(*close, GOING_AWAY);
        assert!(before.iter().all(is_going_away), "{before:?}");
    }
    all.sort();

    server.start_again().await;
    let mut reader = Peer::login(&server, "reader").await;
    let (mut stored, mut last) = (Vec::new(), 0);
    loop {
        let after = hubbub::wire::proto::history::From::AfterSequence(last);
        let (page, _) = reader.history(LOBBY, Some(after), 0).await.unwrap();
        let Some(message) = page.last() else { break };
        last = message.sequence;
        stored.extend(page.into_iter().map(|message| (message.sequence, message.body)));
    }
    assert!(stored.iter().map(|(sequence, _)| *sequence).eq(1..=last), "no holes");
    assert!(all.len() >= 64);
    assert_eq!(stored, all, "a drain finishes what it has taken in, and tells its publisher");
}

#[tokio::test]
async fn everybody_is_told_to_go_and_then_closed() {
    let mut server = TestServer::start().await;
    let mut peers = Vec::new();
    for encoding in Encoding::ALL {
        let mut subscriber = Peer::login_with(&server, "ada", encoding).await;
        subscriber.subscribe(LOBBY, None).await.unwrap();
        peers.push(subscriber);
        peers.push(Peer::login_with(&server, "bob", encoding).await);
        let mut anonymous = Peer::anonymous(&server, encoding).await;
        // Its handshake is over a moment before the hub knows it.
        anonymous.catch_up().await;
        peers.push(anonymous);
    }
    assert!(server.drain().await);
    for peer in &mut peers {
        let heard = peer.rest().await;
        assert_eq!(heard.len(), 2, "{heard:?}");
        assert!(is_going_away(&heard[0]), "{heard:?}");
        assert_eq!(heard[1], GOING_AWAY);
    }
}

#[tokio::test]
async fn a_drain_waits_for_the_commit_and_says_so_meanwhile() {
    let mut server = TestServer::in_memory().await;
    let engine = server.engine();
    let internal = server.internal_address();
    assert_eq!(get(internal, "/readyz").await.0, 200);
    let mut publisher = Peer::login(&server, "ada").await;
    publisher.subscribe(LOBBY, None).await.unwrap();
    let hold = engine.faults().hold(Stage::Commit);
    let accepted = publisher.send(publish(LOBBY, "accepted", 0)).await;
    within("the append", hold.waiting(1)).await;

    let taken = server.take();
    let draining = tokio::spawn(off_runtime(move || taken.drain()));
    assert!(is_going_away(&publisher.hear().await));
    let late = publisher.publish(LOBBY, "too late").await;
    assert_eq!(code_of(late), ErrorCode::Draining);
    // Reads are still answered.
    publisher.history(LOBBY, None, 0).await.unwrap();
    let (status, body) = get(internal, "/readyz").await;
    assert_eq!((status, body.trim_end()), (503, "draining"));
    assert_eq!(get(internal, "/livez").await.0, 200);
    assert_eq!(get(internal, "/metrics").await.0, 200);
    let refuses = async { while TcpStream::connect(server.address()).await.is_ok() {} };
    within("a closed port", refuses).await;

    drop(hold);
    assert_eq!(publisher.published(accepted).await.unwrap().sequence, 1);
    assert_eq!(publisher.messages(1).await[0].body, "accepted");
    assert_eq!(publisher.rest().await, [GOING_AWAY]);
    assert!(within("the drain", draining).await.unwrap(), "in time");

    server.start_again().await;
    let mut reader = Peer::login(&server, "ada").await;
    let (messages, _) = reader.history(LOBBY, None, 0).await.unwrap();
    assert_eq!(messages.len(), 1);
}

#[tokio::test]
async fn a_drain_gives_up_in_time() {
    let mut server = TestServer::in_memory_with(|config| {
        config.limits.drain_timeout = Duration::from_millis(1_100);
    })
    .await;
    let engine = server.engine();
    let mut publisher = Peer::login(&server, "ada").await;
    let hold = engine.faults().hold(Stage::Commit);
    publisher.send(publish(LOBBY, "never", 0)).await;
    within("the append", hold.waiting(1)).await;
    assert!(!server.drain().await, "the commit cannot have been in time");
}

#[tokio::test]
async fn a_drain_does_not_wait_for_clients_that_read_nothing() {
    let mut server = TestServer::in_memory().await;
    let mut slow = Peer::login_narrow(&server, "slow").await;
    slow.subscribe(LOBBY, None).await.unwrap();
    let mut publisher = Peer::login(&server, "ada").await;
    let body = "x".repeat(60_000);
    for _ in 0..16 {
        publisher.publish(LOBBY, &body).await.unwrap();
    }
    assert!(server.drain().await, "within the time that a close may take");
}
