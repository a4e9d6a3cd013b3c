//! Messages over HTTP: the same log by both doors, and nothing that a client sends breaks it.

use std::time::Instant;

use hubbub::{
    engine::{Engine, memory::Stage},
    limits::{HISTORY_MESSAGES_MAX, HISTORY_PAGE_BYTES_MAX},
    log::place::UserId,
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
async fn a_name_may_stand_in_the_path_encoded_or_not() {
    let server = TestServer::start().await;
    let ada = server.api("ada");
    let encoded = "/v1/channels/lob%62y/messages";
    for (path, sequence) in [(MESSAGES, 1), (encoded, 2), (MESSAGES, 3)] {
        let posted = ada.post(path, &json!({"body": "hello"})).await;
        assert_eq!(posted.is(201)["sequence"], sequence);
        let empty = ada.post(path, &json!({"body": ""})).await;
        empty.is_refused(400, "empty_message");
    }
    for path in ["/v1/channels/nowhere/messages", "/v1/channels/nowher%65/messages"] {
        ada.post(path, &json!({"body": "hello"})).await.is_refused(404, "unknown_channel");
    }
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

#[tokio::test]
async fn a_page_is_full_although_the_log_is_read_in_pieces() {
    let server = TestServer::start().await;
    let ada = server.api("ada");
    // Two of them are more than one read of the log answers.
    let body = "x".repeat(40 * 1024);
    for _ in 0..12 {
        ada.post(MESSAGES, &json!({"body": body})).await.is(201);
    }
    let page = async |query: &str| {
        let page = ada.get(&format!("{MESSAGES}?{query}")).await;
        assert_eq!(page.is(200)["head_sequence"], 12, "{query}");
        sequences(&page.body)
    };
    let range = |from: u64, to: u64| (from..=to).collect::<Vec<_>>();
    assert_eq!(page("limit=5").await, range(8, 12));
    assert_eq!(page("limit=12").await, range(1, 12));
    assert_eq!(page("limit=200").await, range(1, 12));
    assert_eq!(page("before=8&limit=5").await, range(3, 7));
    assert_eq!(page("before=3&limit=5").await, range(1, 2));
    assert!(page("before=1").await.is_empty());
    assert!(page("before=0").await.is_empty());
    assert_eq!(page("before=9223372036854775807&limit=1").await, [12]);
    assert_eq!(page("after=0&limit=5").await, range(1, 5));
    assert_eq!(page("after=5&limit=5").await, range(6, 10));
    assert_eq!(page("after=10").await, range(11, 12));
    assert!(page("after=12").await.is_empty());
    assert!(page("after=9223372036854775807").await.is_empty());

    for _ in 0..20 {
        ada.post(MESSAGES, &json!({"body": body})).await.is(201);
    }
    let most = (HISTORY_PAGE_BYTES_MAX / body.len()) as u64 + 1;
    let page = ada.get(&format!("{MESSAGES}?limit={HISTORY_MESSAGES_MAX}")).await;
    assert_eq!(sequences(page.is(200)), range(32 - most + 1, 32), "no page is without a bound");
    let page = ada.get(&format!("{MESSAGES}?after=0&limit={HISTORY_MESSAGES_MAX}")).await;
    assert_eq!(sequences(page.is(200)), range(1, most));
}

#[tokio::test]
async fn an_engine_that_fails_is_a_503_and_nothing_is_stored() {
    let server = TestServer::in_memory().await;
    let (engine, ada) = (server.engine(), server.api("ada"));
    ada.post(MESSAGES, &json!({"body": "before"})).await.is(201);
    engine.faults().refuse_next_append(hubbub::engine::Refusal::StorageUnavailable);
    let refused = publish(&ada, MESSAGES, "hello", "k").await;
    refused.is_refused(503, "storage_unavailable");
    assert!(refused.retry_after().is_some());
    publish(&ada, MESSAGES, "hello", "k").await.is(201);
    assert_eq!(sequences(ada.get(MESSAGES).await.is(200)), [1, 2]);
}

#[tokio::test]
async fn nothing_is_answered_and_nothing_is_read_before_it_is_durable() {
    let server = TestServer::in_memory().await;
    let (engine, ada) = (server.engine(), server.api("ada"));
    ada.post(MESSAGES, &json!({"body": "before"})).await.is(201);
    let hold = engine.faults().hold(Stage::Commit);
    let post = {
        let ada = ada.clone();
        tokio::spawn(async move { ada.post(MESSAGES, &json!({"body": "held"})).await })
    };
    within("the append", hold.waiting(1)).await;
    let page = ada.get(MESSAGES).await;
    assert_eq!(page.is(200)["head_sequence"], 1);
    assert_eq!(sequences(&page.body), [1]);
    assert!(!post.is_finished());
    drop(hold);
    assert_eq!(within("the post", post).await.unwrap().is(201)["sequence"], 2);
}

#[tokio::test]
async fn a_body_that_is_none_is_refused_at_once() {
    let server = TestServer::start().await;
    let ada = server.api("ada");
    let deep = format!(r#"{{"body":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let deep_unknown = format!(r#"{{"x":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let bad: [&[u8]; 18] = [
        b"",
        b"{",
        b"{}",
        b"null",
        b"\"body\"",
        b"[\"body\"]",
        b"{\"body\":1}",
        b"{\"body\":null}",
        b"{\"body\":1e400}",
        b"{\"body\":\"a\",\"body\":\"b\"}",
        b"{\"body\":\"a\",\"user_id\":7}",
        b"{\"body\":\"a\",\"role\":\"owner\"}",
        b"\xef\xbb\xbf{\"body\":\"a\"}",
        b"{\"body\":\"\\ud800\"}",
        b"{\"body\":\"\xff\"}",
        b"{\"body\":\"a\"} x",
        deep.as_bytes(),
        deep_unknown.as_bytes(),
    ];
    let begin = Instant::now();
    for body in bad {
        let refused = ada.ask("POST", MESSAGES, JSON, Some(body)).await;
        refused.is_refused(400, "bad_request");
    }
    assert!(begin.elapsed().as_secs() < 5, "{:?} for {} bodies", begin.elapsed(), bad.len());
    ada.post(MESSAGES, &json!({"body": ""})).await.is_refused(400, "empty_message");

    let good = br#"{"body":"a"}"#;
    for head in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
    ] {
        let refused = ada.ask("POST", MESSAGES, head, Some(good)).await;
        refused.is_refused(415, "unsupported_media_type");
    }
    let large = json!({"body": "x".repeat(64 * 1024)}).to_string();
    let refused = ada.ask("POST", MESSAGES, JSON, Some(large.as_bytes())).await;
    assert_eq!(refused.status, 413);
    // One that says nothing of its length, and does not end.
    let chunked = format!("{JSON}Transfer-Encoding: chunked\r\n");
    let endless = [b"fffff\r\n".as_slice(), &[b' '; 70_000]].concat();
    let refused = raw(&server, &chunked, &endless).await;
    assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");
    let page = ada.get(MESSAGES).await;
    assert_eq!(page.is(200)["messages"], json!([]), "none of these was a message");
}

/// A POST whose head and body are as they are here.
async fn raw<E: Engine>(server: &TestServer<E>, head: &str, body: &[u8]) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let request = format!(
        "POST {MESSAGES} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n{head}\r\n",
        server.address(),
        server.token("ada"),
    );
    let _ = stream.write_all(&[request.as_bytes(), body].concat()).await;
    let mut answer = vec![0; 512];
    let length = within("an answer", stream.read(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test]
async fn a_message_may_be_as_large_as_on_a_websocket_and_no_larger() {
    use bytesize::ByteSize;
    let server = TestServer::start_with(|config| {
        config.limits.message_bytes_max = ByteSize::kib(1);
        config.limits.request_body_bytes_max = ByteSize::kib(8);
    });
    let server = server.await;
    let ada = server.api("ada");
    ada.post(MESSAGES, &json!({"body": "x".repeat(1024)})).await.is(201);
    let refused = ada.post(MESSAGES, &json!({"body": "x".repeat(1025)})).await;
    refused.is_refused(413, "message_too_large");
    // Each of these is six bytes in JSON, and one in the message.
    let escaped = format!(r#"{{"body":"{}"}}"#, "\\u0041".repeat(1024));
    ada.ask("POST", MESSAGES, JSON, Some(escaped.as_bytes())).await.is(201);
}

#[tokio::test]
async fn a_query_that_is_none_is_refused() {
    let server = TestServer::start().await;
    let ada = server.api("ada");
    for query in [
        "limit=-1",
        "limit=0",
        "limit=201",
        "limit=1e9",
        "limit=",
        "limit=1&limit=2",
        "limit=18446744073709551616",
        "before=1&after=1",
        "before=-1",
        "before=9223372036854775808",
        "after=18446744073709551616",
        "after=1%20OR%201=1",
        "after=1';DROP%20TABLE%20entries;--",
        "before=%00",
        "before=..%2f",
        "before=%ff",
        "before=%zz",
        "token=abc",
        "access_token=abc",
        "unknown=1",
    ] {
        let refused = ada.get(&format!("{MESSAGES}?{query}")).await;
        refused.is_refused(400, "bad_request");
    }
    assert_eq!(ada.get(&format!("{MESSAGES}?")).await.status, 200);
}

#[tokio::test]
async fn a_request_without_a_good_token_is_refused() {
    let server = TestServer::start().await;
    let address = server.address();
    for path in [MESSAGES, "/v1/channels", "/v1/me/channels", "/v1/channels/no-such/members"] {
        let nobody = Api::nobody(address).get(path).await;
        nobody.is_refused(401, "not_authenticated");
        assert_eq!(nobody.line("www-authenticate"), Some("Bearer"));
        let forged = Api::new(address, "a.b.c".to_owned()).get(path).await;
        forged.is_refused(401, "invalid_token");
        let expired = Api::new(address, server.expired_token("ada")).get(path).await;
        expired.is_refused(401, "token_expired");
    }
    // Addresses are written down in many places: no token belongs there.
    let me = "/v1/channels/lobby/members/me";
    for (method, path) in [("GET", "/v1/channels/lobby"), ("DELETE", me), ("GET", MESSAGES)] {
        let path = format!("{path}?access_token={}", server.token("ada"));
        let refused = server.api("ada").ask(method, &path, "", None).await;
        refused.is_refused(400, "bad_request");
    }
    let two = "Authorization: Bearer a.b.c\r\n";
    server.api("ada").ask("GET", MESSAGES, two, None).await.is_refused(400, "bad_request");
    // A cookie is nobody's login.
    let cookie = format!("Cookie: token={}\r\n", server.token("ada"));
    let refused = Api::nobody(address).ask("GET", MESSAGES, &cookie, None).await;
    refused.is_refused(401, "not_authenticated");

    server.api("eve").post(MESSAGES, &json!({"body": "still here"})).await.is(201);
    let page = server.api("eve").get(MESSAGES).await;
    let eve = u32::try_from(page.body["messages"][0]["user_id"].as_u64().unwrap()).unwrap();
    server.bans().ban(UserId(eve), 1).await.unwrap();
    server.api("eve").get(MESSAGES).await.is_refused(403, "forbidden");
    server.api("eve").post(MESSAGES, &json!({"body": "x"})).await.is_refused(403, "forbidden");
}

#[tokio::test]
async fn a_page_of_another_host_is_given_nothing() {
    let server = TestServer::start().await;
    let ada = server.api("ada");
    let origins = ["https://evil.example", "null", "https://127.0.0.1.evil.example"];
    for origin in origins {
        let origin = format!("Origin: {origin}\r\n");
        let preflight = format!(
            "{origin}Access-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: authorization,content-type\r\n"
        );
        let body = json!({"body": "hi"}).to_string();
        let answers = [
            ada.ask("GET", MESSAGES, &origin, None).await,
            ada.ask("POST", MESSAGES, &format!("{JSON}{origin}"), Some(body.as_bytes())).await,
            ada.ask("GET", "/v1/channels/no-such", &origin, None).await,
            Api::nobody(server.address()).ask("OPTIONS", MESSAGES, &preflight, None).await,
            Api::nobody(server.address()).ask("OPTIONS", "/v1/channels", &preflight, None).await,
        ];
        for answer in answers {
            let head = answer.head.to_lowercase();
            assert!(!head.contains("access-control-"), "{head}");
            assert!(!head.contains("set-cookie"), "{head}");
            assert!(head.contains("x-content-type-options: nosniff"), "{head}");
        }
    }
    let preflight = Api::nobody(server.address()).ask("OPTIONS", MESSAGES, "", None).await;
    preflight.is_refused(405, "method_not_allowed");
}
