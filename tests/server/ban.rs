//! Who is banned here loses every connection, and gets no new one, until the ban is lifted.

use hubbub::{
    hub::bans::BanError,
    log::place::UserId,
    wire::{
        Encoding,
        code::{CloseCode, ErrorCode},
    },
};

use crate::harness::{Bystander, Heard, Peer, TestServer, ask, authenticate, code_of};

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

#[tokio::test]
async fn an_operator_bans_by_number_on_the_internal_port_only() {
    let server = TestServer::start().await;
    let mut ada = Peer::with_token(&server, &server.token("ada")).await;
    let number = ada.welcome().await.user_id;
    let secret = server.admin_secret();
    let path = format!("/v1/admin/users/{number}/ban");
    let internal = server.internal_address();
    assert_eq!(ask(server.address(), "POST", &path, Some(&secret)).await.0, 404);
    assert_eq!(ask(internal, "POST", &path, None).await.0, 401);
    assert_eq!(ask(internal, "POST", "/v1/admin/users/999/ban", Some(&secret)).await.0, 404);
    assert_eq!(ask(internal, "POST", "/v1/admin/users/ada/ban", Some(&secret)).await.0, 400);
    assert_eq!(ada.catch_up().await, [], "none of these was anything");

    let (status, ban) = ask(internal, "POST", &path, Some(&secret)).await;
    assert_eq!(status, 200, "{ban}");
    assert_eq!(ada.rest().await, [Heard::Close(CloseCode::Forbidden.number())]);
    let ban: serde_json::Value = serde_json::from_str(&ban).unwrap();
    assert_eq!(ban["user"], number);
    for (query, listed) in [("", 1), ("?after=0", 1), (&*format!("?after={number}"), 0)] {
        let path = format!("/v1/admin/bans{query}");
        let (status, page) = ask(internal, "GET", &path, Some(&secret)).await;
        assert_eq!(status, 200, "{page}");
        let page: serde_json::Value = serde_json::from_str(&page).unwrap();
        let bans = page["bans"].as_array().unwrap();
        assert!(bans.len() == listed && bans.iter().all(|it| *it == ban), "{query}: {page}");
    }
    assert_eq!(ask(internal, "GET", "/v1/admin/bans?after=-1", Some(&secret)).await.0, 400);

    assert_eq!(ask(internal, "DELETE", &path, Some(&secret)).await.0, 204);
    Peer::with_token(&server, &server.token("ada")).await.welcome().await;
}
