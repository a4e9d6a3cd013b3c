//! Messages over HTTP: the same log by both doors, and nothing that a client sends breaks it.

use std::time::Instant;

use futures_util::future::join_all;
use hubbub::{
    engine::{Engine, memory::Stage},
    limits::{HISTORY_MESSAGES_MAX, HISTORY_PAGE_BYTES_MAX},
};
use serde_json::{Value, json};

use crate::harness::{Answer, Api, JSON, LOBBY, Peer, TestServer, within};

const MESSAGES: &str = "/v1/channels/lobby/messages";

async fn publish(api: &Api, path: &str, body: &str, key: &str) -> Answer {
    let head = format!("{JSON}Idempotency-Key: {key}\r\n");
    api.ask("POST", path, &head, Some(json!({"body": body}).to_string().as_bytes())).await
}

fn sequences(page: &Value) -> Vec<u64> {
    let messages = page["messages"].as_array().expect("a page");
    messages.iter().map(|it| it["sequence"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn what_is_posted_by_http_is_received_by_websocket_and_the_other_way_round() {
    let server = TestServer::start().await;
    let (ada, mut bob) = (server.api("ada"), Peer::login(&server, "bob").await);
    let subscribed = bob.subscribe(LOBBY, None).await.unwrap();

    let posted = ada.post(MESSAGES, &json!({"body": "by http"})).await;
    let posted = posted.is(201);
    let received = &bob.messages(1).await[0];
    assert_eq!(received.body, "by http");
    assert_eq!(posted["sequence"], received.sequence);
    assert_eq!(posted["channel"], LOBBY);
    assert_eq!(posted["channel_id"], received.channel);
    assert_eq!(posted["epoch"], subscribed.epoch);
    assert_eq!(posted["durability"], "fsynced");
    let by_socket = bob.publish_as(LOBBY, "by websocket", 17).await.unwrap();

    let page = ada.get(MESSAGES).await;
    let page = page.is(200);
    assert_eq!((page["channel"].as_str(), &page["epoch"]), (Some(LOBBY), &posted["epoch"]));
    assert_eq!(page["head_sequence"], by_socket.sequence);
    assert_eq!(sequences(page), [1, 2]);
    let first = &page["messages"][0];
    assert_eq!((&first["body"], &first["author"]), (&json!("by http"), &json!("ada")));
    assert_eq!((&first["user_id"], &first["time"]), (&json!(received.user), &posted["time"]));
    assert!(first.get("id").is_none() && first.get("member").is_none());
    let second = &page["messages"][1];
    assert_eq!((&second["body"], &second["author"]), (&json!("by websocket"), &json!("bob")));
    assert_eq!(second["id"], "17");
}

#[tokio::test]
async fn a_post_that_is_repeated_keeps_its_place() {
    let mut server = TestServer::start().await;
    let ada = server.api("ada");
    let first = publish(&ada, MESSAGES, "hello", "order-17").await;
    let first = first.is(201).clone();
    for _ in 0..2 {
        let again = publish(&server.api("ada"), MESSAGES, "hello", "order-17").await;
        let again = again.is(200);
        assert_eq!((&again["sequence"], &again["epoch"]), (&first["sequence"], &first["epoch"]));
        assert!(again.get("time").is_none());
        let other = publish(&server.api("ada"), MESSAGES, "goodbye", "order-17").await;
        other.is_refused(409, "idempotency_conflict");
        server.restart().await;
    }
    // A key is its user's own, and a number is the same key at both doors.
    publish(&server.api("bob"), MESSAGES, "hello", "order-17").await.is(201);
    let number = publish(&server.api("ada"), MESSAGES, "number", "18446744073709551615").await;
    let mut peer = Peer::login(&server, "ada").await;
    let again = peer.publish_as(LOBBY, "number", u64::MAX).await.unwrap();
    assert_eq!(number.is(201)["sequence"], again.sequence);
    let page = server.api("ada").get(MESSAGES).await;
    assert_eq!(sequences(page.is(200)), [1, 2, 3]);

    for key in ["", " ", "a b", &"k".repeat(65), "\u{e4}"] {
        let refused = publish(&server.api("ada"), MESSAGES, "x", key).await;
        refused.is_refused(400, "bad_request");
    }
}
