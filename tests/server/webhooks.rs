//! Webhooks: an address with a secret, by which a program posts.

use std::{fs, path::Path};

use hubbub::{
    auth::{Account, Username},
    engine::Engine,
};
use serde_json::{Value, json};

use crate::harness::{Answer, Api, JSON, LOBBY, Peer, TestServer};

async fn channel(api: &Api, channel: Value) {
    api.post("/v1/channels", &channel).await.is(201);
}

async fn make(api: &Api, channel: &str, name: &str) -> (String, String) {
    let made = api.post(&format!("/v1/channels/{channel}/webhooks"), &json!({"name": name})).await;
    let made = made.is(201);
    assert_eq!(made["name"], name);
    let text = |field: &str| made[field].as_str().expect("a text").to_owned();
    (text("webhook_id"), text("url"))
}

/// A program that knows nothing but the address.
async fn post<E: Engine>(server: &TestServer<E>, url: &str, body: &str, key: &str) -> Answer {
    let key = if key.is_empty() { String::new() } else { format!("Idempotency-Key: {key}\r\n") };
    let body = json!({"body": body}).to_string();
    let head = format!("{JSON}{key}");
    Api::nobody(server.address()).ask("POST", url, &head, Some(body.as_bytes())).await
}

/// Whether any file of a server holds a text.
fn is_stored(dir: &Path, text: &str) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return is_stored(&path, text);
        }
        let bytes = fs::read(path).unwrap();
        bytes.windows(text.len()).any(|part| part == text.as_bytes())
    })
}

#[tokio::test]
async fn a_webhook_posts_in_its_own_name_until_it_is_removed() {
    let mut server = TestServer::start().await;
    let ada = server.api("ada");
    // Where only moderators and webhooks may publish.
    let private = json!({"name": "ci", "visibility": "private", "posting": "moderators"});
    channel(&ada, private).await;
    let (id, url) = make(&ada, "ci", "Build bot").await;
    let secret = url.rsplit('/').next().unwrap();
    assert_eq!(url, format!("/v1/webhooks/{id}/{secret}"));
    assert_eq!(secret.len(), 43);

    let mut peer = Peer::login(&server, "ada").await;
    peer.subscribe("ci", None).await.unwrap();
    let first = post(&server, &url, "green", "run-1").await;
    let first = first.is(201);
    let received = &peer.messages(1).await[0];
    assert_eq!((received.body.as_str(), &first["sequence"]), ("green", &json!(received.sequence)));
    let again = post(&server, &url, "green", "run-1").await;
    assert_eq!(again.is(200)["sequence"], first["sequence"]);
    post(&server, &url, "red", "run-1").await.is_refused(409, "idempotency_conflict");

    assert!(is_stored(server.data_dir(), "Build bot"), "this finds what is stored");
    assert!(!is_stored(server.data_dir(), secret), "the secret itself is not");
    server.restart().await;
    let ada = server.api("ada");
    let listed = ada.get("/v1/channels/ci/webhooks").await;
    assert!(!listed.text.contains(secret));
    let [webhook] = &listed.is(200)["webhooks"].as_array().unwrap()[..] else {
        panic!("{listed:?}")
    };
    assert_eq!((&webhook["webhook_id"], &webhook["name"]), (&json!(id), &json!("Build bot")));
    let page = ada.get("/v1/channels/ci/messages").await;
    let message = &page.is(200)["messages"][0];
    assert_eq!((&message["author"], &message["body"]), (&json!("Build bot"), &json!("green")));
    assert_eq!(message["user_id"], webhook["user_id"]);
    assert_ne!(message["user_id"], webhook["created_by"]);

    post(&server, &url, "again", "").await.is(201);
    let removed = format!("/v1/channels/ci/webhooks/{id}");
    assert_eq!(ada.delete(&removed).await.status, 204);
    ada.delete(&removed).await.is_refused(404, "not_found");
    post(&server, &url, "late", "").await.is_refused(404, "not_found");
    assert_eq!(ada.get("/v1/channels/ci/webhooks").await.is(200)["webhooks"], json!([]));
}

#[tokio::test]
async fn an_unknown_id_and_a_wrong_secret_have_one_answer() {
    let server = TestServer::start().await;
    let ada = server.api("ada");
    channel(&ada, json!({"name": "ci"})).await;
    let (id, url) = make(&ada, "ci", "bot").await;
    let secret = url.rsplit('/').next().unwrap();
    let other = make(&ada, "ci", "other").await.1;
    let others = other.rsplit('/').next().unwrap();
    let mut answers = Vec::new();
    for (id, secret) in [
        (id.as_str(), "wrong"),
        (&id, others),
        (&id, &secret[1..]),
        (&id, &format!("{secret}x")),
        (&id, "%00"),
        (&id, "%ff"),
        (&id, "..%2f"),
        (&id, &"x".repeat(4_000)),
        ("1-1", secret),
        ("0-0", secret),
        ("0-0", ""),
        (&format!("0{id}"), secret),
        ("1'--", secret),
        ("%00", secret),
        ("..%2f", secret),
        ("99999999999999999999-1", secret),
    ] {
        let path = format!("/v1/webhooks/{id}/{secret}");
        let answer = post(&server, &path, "x", "").await;
        answer.is_refused(404, "not_found");
        answers.push(answer.text);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    // What is wrong with the body is told to nobody else.
    let bad = Api::nobody(server.address());
    let wrong = format!("/v1/webhooks/{id}/wrong");
    bad.ask("POST", &wrong, JSON, Some(b"{")).await.is_refused(404, "not_found");
    bad.ask("POST", &url, JSON, Some(b"{")).await.is_refused(400, "bad_request");
    let twice = br#"{"body":"x","user_id":1}"#;
    bad.ask("POST", &url, JSON, Some(twice)).await.is_refused(400, "bad_request");
    bad.ask("GET", &url, "", None).await.is_refused(405, "method_not_allowed");
    post(&server, &url, "", "").await.is_refused(400, "empty_message");
}

#[tokio::test]
async fn webhooks_are_for_moderators_and_owners_and_there_are_not_many() {
    let server = TestServer::start().await;
    let [ada, bob, eve] = ["ada", "bob", "eve"].map(|name| server.api(name));
    channel(&ada, json!({"name": "ci"})).await;
    bob.put("/v1/channels/ci/members/me").await.is(200);
    let (id, _) = make(&ada, "ci", "bot").await;
    let webhooks = "/v1/channels/ci/webhooks";
    for by in [&bob, &eve] {
        by.post(webhooks, &json!({"name": "x"})).await.is_refused(403, "forbidden");
        by.get(webhooks).await.is_refused(403, "forbidden");
        by.delete(&format!("{webhooks}/{id}")).await.is_refused(403, "forbidden");
    }
    let found = ada.get("/v1/users?name=bob").await;
    let number = &found.is(200)["users"][0]["user_id"];
    let member = format!("/v1/channels/ci/members/{number}");
    ada.send("PUT", &member, &json!({"role": "moderator"})).await.is(200);
    assert_eq!(bob.delete(&format!("{webhooks}/{id}")).await.status, 204);
    // One of another channel is none of this.
    channel(&eve, json!({"name": "eves"})).await;
    let (id, url) = make(&eve, "eves", "bot").await;
    bob.delete(&format!("{webhooks}/{id}")).await.is_refused(404, "not_found");
    post(&server, &url, "still", "").await.is(201);

    for name in ["", " ", "a\nb", &"x".repeat(65)] {
        bob.post(webhooks, &json!({"name": name})).await.is_refused(400, "bad_request");
    }
    for body in [json!({}), json!({"name": 1}), json!({"name": "a", "secret": "mine"})] {
        bob.post(webhooks, &body).await.is_refused(400, "bad_request");
    }
    let mut makers = Vec::new();
    for _ in 0..40 {
        let bob = bob.clone();
        makers.push(tokio::spawn(async move { bob.post(webhooks, &json!({"name": "x"})).await }));
    }
    let mut made = 0;
    for maker in makers {
        let answer = maker.await.unwrap();
        if answer.status == 201 {
            made += 1;
        } else {
            answer.is_refused(429, "too_many");
        }
    }
    assert_eq!(made, 32);
    let listed = bob.get(webhooks).await;
    assert_eq!(listed.is(200)["webhooks"].as_array().unwrap().len(), 32);
}

#[tokio::test]
async fn a_webhook_ends_with_its_channel_and_takes_its_settings() {
    let server = TestServer::start().await;
    let ada = server.api("ada");
    channel(&ada, json!({"name": "ci", "quota": {"messages_max": 1}})).await;
    let (_, url) = make(&ada, "ci", "bot").await;
    post(&server, &url, "one", "").await.is(201);
    post(&server, &url, "two", "").await.is_refused(409, "quota_exhausted");
    let change = json!({"quota": {"messages_max": 2}, "archived": true, "name": "build"});
    ada.send("PATCH", "/v1/channels/ci", &change).await.is(200);
    post(&server, &url, "two", "").await.is_refused(409, "channel_archived");
    ada.send("PATCH", "/v1/channels/build", &json!({"archived": false})).await.is(200);
    assert_eq!(post(&server, &url, "two", "").await.is(201)["channel"], "build");
    assert_eq!(ada.delete("/v1/channels/build").await.status, 204);
    post(&server, &url, "three", "").await.is_refused(404, "not_found");
    channel(&ada, json!({"name": "build"})).await;
    post(&server, &url, "three", "").await.is_refused(404, "not_found");
}

#[tokio::test]
async fn no_token_is_for_a_subject_of_the_hub_itself() {
    let server = TestServer::start().await;
    for (subject, status) in [("hubbub:webhook:1-1", 401), ("hubbub:", 401), ("hubbubs", 200)] {
        let username = Username::parse("ada").unwrap();
        let token =
            server.token_without_session(&Account { subject: subject.to_owned(), username });
        let answer = Api::new(server.address(), token).get("/v1/me/channels").await;
        assert_eq!(answer.status, status, "{subject}: {}", answer.text);
    }
    assert_eq!(server.api("ada").get(&format!("/v1/channels/{LOBBY}")).await.status, 200);
}
