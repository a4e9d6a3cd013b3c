//! Who is banned here loses every connection, and gets no new one, until the ban is lifted.

use hubbub::{
    hub::bans::BanError,
    log::place::UserId,
    wire::{
        Encoding,
        code::{CloseCode, ErrorCode},
    },
};

use crate::harness::{Bystander, Heard, Peer, TestServer, authenticate, code_of};

#[tokio::test]
async fn a_ban_ends_connections_outlives_a_restart_and_can_be_lifted() {
    let mut server = TestServer::start().await;
    let mut bystander = Bystander::join(&server).await;
    // Tokens that no auth service of ours has a session of.
    let token = server.token("ada");
    let mut peers = Vec::new();
    let mut ada = UserId(0);
    for _ in 0..3 {
        let mut peer = Peer::with_token(&server, &token).await;
        ada = UserId(peer.welcome().await.user_id);
        peers.push(peer);
    }
    let ban = server.bans().ban(ada, 1).await.unwrap();
    let closed = [Heard::Close(CloseCode::Forbidden.number())];
    for mut peer in peers {
        assert_eq!(peer.rest().await, closed);
    }
    bystander.is_untroubled().await;
    assert_eq!(server.bans().ban(UserId(u32::MAX), 1).await, Err(BanError::UnknownUser));

    drop(bystander);
    server.restart().await;
    assert_eq!(server.bans().list(None).await.unwrap(), [ban]);
    let mut refused = Peer::anonymous(&server, Encoding::Proto).await;
    assert_eq!(code_of(refused.ask(authenticate(&token)).await), ErrorCode::Forbidden);
    assert_eq!(refused.rest().await, closed);

    server.bans().lift(ada).await.unwrap();
    let mut back = Peer::with_token(&server, &token).await;
    assert_eq!(back.welcome().await.user_id, ada.0);
}
