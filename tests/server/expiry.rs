//! A connection ends when its token has run out, at that moment, unless it was renewed.

use std::time::{Duration, SystemTime};

use hubbub::{
    engine::memory::Stage,
    log::place::UserId,
    wire::{Encoding, code::CloseCode},
};

use crate::harness::{
    Bystander, Heard, LOBBY, Peer, TestServer, authenticate, channels::join, now_s, within,
};

#[tokio::test]
async fn a_connection_ends_with_its_token_and_not_before() {
    let server = TestServer::start().await;
    let mut bystander = Bystander::join(&server).await;
    // Tokens count in whole seconds; two are enough to log in.
    let lifetime = Duration::from_secs(2);
    let ends_at = SystemTime::UNIX_EPOCH + Duration::from_secs(now_s()) + lifetime;
    let token = server.token_for("ada", lifetime);
    let mut peer = Peer::with_token(&server, &token).await;
    let heard = peer.rest().await;
    assert!(SystemTime::now() >= ends_at, "it was still good: {heard:?}");
    assert_eq!(heard.last(), Some(&Heard::Close(CloseCode::TokenExpired.number())));
    bystander.is_untroubled().await;
}

#[tokio::test]
async fn a_token_of_another_session_of_the_same_user_renews_a_connection() {
    let server = TestServer::start().await;
    let other = server.token_in("ada", "another session", Duration::from_secs(3_600));
    // Tokens count in seconds, and a slow machine may need more than a few to log in.
    let mut seconds = 2;
    let (mut renewed, mut forgotten) = loop {
        let token = server.token_in("ada", "a session", Duration::from_secs(seconds));
        let mut peers = Vec::new();
        for _ in 0..2 {
            let mut peer = Peer::anonymous(&server, Encoding::Proto).await;
            if peer.ask(authenticate(&token)).await.is_ok() {
                peer.welcome().await;
                peers.push(peer);
            }
        }
        if let Ok([mut renewed, forgotten]) = <[Peer; 2]>::try_from(peers)
            && renewed.ask(authenticate(&other)).await.is_ok()
        {
            break (renewed, forgotten);
        }
        seconds *= 2;
    };
    let closed = [Heard::Close(CloseCode::TokenExpired.number())];
    assert_eq!(forgotten.rest().await, closed);
    renewed.publish(LOBBY, "still here").await.unwrap();
}

#[tokio::test]
async fn nobody_outlives_a_token_by_asking_for_logins_whose_keys_must_be_fetched() {
    let auth = TestServer::start().await;
    let hub = TestServer::hub_of(&auth).await;
    // Of a key that nobody publishes, so that each of them waits for the keys to be fetched again.
    let elsewhere = TestServer::start().await.token("ada");
    let lifetime = Duration::from_secs(4);
    let mut peer = Peer::with_token(&hub, &auth.token_for("ada", lifetime)).await;
    peer.welcome().await;
    let mut frames = Vec::new();
    for id in 1..=100 {
        frames.extend(peer.encode(id, authenticate(&elsewhere)));
    }
    peer.socket.write(&frames).await;
    let heard = peer.rest().await;
    assert_eq!(heard.last(), Some(&Heard::Close(CloseCode::TokenExpired.number())), "{heard:?}");
    assert!(heard.len() < 50, "{}", heard.len());
}

#[tokio::test]
async fn a_ban_ends_a_connection_at_once_that_waits_for_keys() {
    let auth = TestServer::start().await;
    let hub = TestServer::hub_of(&auth).await;
    let elsewhere = TestServer::start().await.token("ada");
    let mut peer = Peer::with_token(&hub, &auth.token("ada")).await;
    let ada = UserId(peer.welcome().await.user_id);
    for _ in 0..3 {
        peer.send(authenticate(&elsewhere)).await;
    }
    hub.bans().ban(ada, 1).await.unwrap();
    let closed = [Heard::Close(CloseCode::Forbidden.number())];
    assert!(peer.rest().await.ends_with(&closed));
}

#[tokio::test]
async fn a_ban_ends_a_connection_at_once_that_waits_for_the_engine() {
    let server = TestServer::in_memory().await;
    let engine = server.engine();
    let mut peer = Peer::with_token(&server, &server.token("ada")).await;
    let ada = UserId(peer.welcome().await.user_id);
    let hold = engine.faults().hold(Stage::Commit);
    peer.send(join(LOBBY)).await;
    within("the append", hold.waiting(1)).await;
    server.bans().ban(ada, 1).await.unwrap();
    assert_eq!(peer.rest().await, [Heard::Close(CloseCode::Forbidden.number())]);
}
