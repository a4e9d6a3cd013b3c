//! Out of one server and into another: nothing is lost, and nothing is there twice.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr};

use hubbub::engine::{Engine, any::AnyEngine};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{JSON, Peer, TestServer, publish, within};

/// A server without a channel that is made at the start: that is nobody else's.
async fn empty() -> TestServer<AnyEngine> {
    TestServer::start_with(|config| config.channels.created_at_start.clear()).await
}

/// Status and body of a request, as HTTP/1.0 has them: without chunks.
async fn ask(
    server: SocketAddr,
    request: &str,
    bearer: &str,
    body: Option<&[u8]>,
) -> (u16, Vec<u8>) {
    let answer = within(request, async {
        let mut stream = TcpStream::connect(server).await.unwrap();
        let mut head =
            format!("{request} HTTP/1.0\r\nHost: {server}\r\nAuthorization: Bearer {bearer}\r\n");
        if let Some(body) = body {
            let length = body.len();
            write!(head, "Content-Type: application/x-ndjson\r\nContent-Length: {length}\r\n")
                .unwrap();
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.unwrap_or_default()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    });
    let answer = answer.await;
    let end = answer.windows(4).position(|it| it == b"\r\n\r\n").expect("a head ends");
    let head = str::from_utf8(&answer[..end]).unwrap();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{head}")), answer[end + 4..].to_vec())
}

/// What an operator exports: of one channel, or of all.
async fn export<E: Engine>(server: &TestServer<E>, channel: Option<&str>) -> String {
    let query = channel.map(|name| format!("?channel={name}")).unwrap_or_default();
    let request = format!("GET /v1/export{query}");
    let (status, body) =
        ask(server.internal_address(), &request, &server.admin_secret(), None).await;
    assert_eq!(status, 200);
    String::from_utf8(body).unwrap()
}

/// The statistics of an import in which no line is invalid.
async fn import<E: Engine>(server: &TestServer<E>, lines: &str) -> Value {
    let secret = server.admin_secret();
    let body = Some(lines.as_bytes());
    let (status, answer) = ask(server.internal_address(), "POST /v1/import", &secret, body).await;
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(status, 200, "{answer}");
    let result = &answer["result"];
    assert_eq!((&result["status"], &result["invalid"]), (&json!("ok"), &json!([])), "{answer}");
    result["stats"].clone()
}

/// Something of everything that a channel may hold.
async fn with_everything() -> TestServer<AnyEngine> {
    let server = empty().await;
    // A crowd, whose members are more than a line of an export has; and two users of one name.
    let mut lines = String::new();
    let members = |numbers: std::ops::Range<u32>| -> Vec<Value> {
        let member =
            |n| json!({"name": format!("user{n}"), "user": format!("u{n}"), "role": "member"});
        numbers.map(member).collect()
    };
    let crowd = |members: Vec<Value>| {
        json!({"channel": "crowd", "created": "2020-01-02T03:04:05.678Z",
            "settings": {"topic": "\u{1f389} \"all\"", "visibility": "public", "posting": "members",
                "archived": false},
            "members": members})
    };
    writeln!(lines, "{}", crowd(members(0..1_000))).unwrap();
    writeln!(lines, "{}", crowd(members(1_000..2_100))).unwrap();
    for (time, user, body) in
        [(1_000, "t1", "one"), (1_000, "t2", "one"), (1_000, "t1", "two"), (2_000, "t2", "3")]
    {
        let line = json!({"channel": "crowd", "time": time, "author": "twin", "user": user,
            "body": body});
        writeln!(lines, "{line}").unwrap();
    }
    for (id, body) in [("17", "numbered"), ("a-b", "named"), ("\u{fc}", "\u{0}\u{202e}\u{1f680}")] {
        let line = json!({"channel": "crowd", "time": "2021-01-01T00:00:00+01:00",
            "author": "Zo\u{eb} \u{1f680}", "id": id, "body": body});
        writeln!(lines, "{line}").unwrap();
    }
    import(&server, &lines).await;

    let (ada, bob) = (server.api("ada"), server.api("bob"));
    let mut numbers = BTreeMap::new();
    for name in ["ada", "bob", "eve"] {
        let mut peer = Peer::login(&server, name).await;
        numbers.insert(name, peer.number_of(name).await);
    }
    for channel in [
        json!({"name": "plain"}),
        json!({"name": "attic", "visibility": "private", "topic": "hush"}),
        json!({"name": "old"}),
        json!({"name": "full", "quota": {"messages_max": 4, "bytes_max": 100}}),
        json!({"name": "void"}),
    ] {
        ada.post("/v1/channels", &channel).await.is(201);
    }
    for (path, body) in [
        ("plain", "hi"),
        ("attic", "\u{e9}\u{301}\r\n\t\u{1f1e9}\u{1f1ea}"),
        ("old", "bye"),
        ("full", "\u{20ac}"),
    ] {
        let path = format!("/v1/channels/{path}/messages");
        ada.post(&path, &json!({"body": body})).await.is(201);
        for key in ["17", "a key"] {
            let head = format!("{JSON}Idempotency-Key: {}\r\n", key.replace(' ', "-"));
            let body = json!({"body": format!("{body} {key}")}).to_string();
            ada.ask("POST", &path, &head, Some(body.as_bytes())).await.is(201);
        }
    }
    // Equal messages, in one batch or in few.
    let mut peer = Peer::login(&server, "bob").await;
    let mut sent = Vec::new();
    for _ in 0..20 {
        sent.push(peer.send(publish("plain", "same", 0)).await);
    }
    for id in sent {
        peer.published(id).await.unwrap();
    }
    bob.put("/v1/channels/plain/members/me").await.is(200);
    bob.delete("/v1/channels/plain/members/me").await;
    for (name, role) in [("bob", "moderator"), ("eve", "member")] {
        let path = format!("/v1/channels/attic/members/{}", numbers[name]);
        ada.send("PUT", &path, &json!({"role": role})).await.is(200);
    }
    let change = json!({"topic": "t\u{f6}pic", "posting": "members"});
    ada.send("PATCH", "/v1/channels/plain", &change).await.is(200);
    ada.send("PATCH", "/v1/channels/plain", &json!({"name": "plainer"})).await.is(200);
    ada.send("PATCH", "/v1/channels/old", &json!({"archived": true})).await.is(200);
    server
}

#[tokio::test]
async fn what_is_exported_imported_and_exported_again_is_the_same() {
    let here = with_everything().await;
    let there = empty().await;
    let first = export(&here, None).await;
    let stats = import(&there, &first).await;
    let count = first.lines().count();
    assert_eq!((&stats["added"], &stats["known"]), (&json!(count), &json!(0)), "{stats}");
    let second = export(&there, None).await;
    for (first, second) in first.lines().zip(second.lines()) {
        assert_eq!(first, second);
    }
    assert_eq!(first, second);
    for channel in ["attic", "crowd", "full", "old", "plainer", "void"] {
        let mine = export(&here, Some(channel)).await;
        assert!(!mine.is_empty() && first.contains(&mine), "{channel}");
        assert_eq!(mine, export(&there, Some(channel)).await);
    }

    // Again it is known.
    let stats = import(&there, &first).await;
    assert_eq!((&stats["added"], &stats["known"]), (&json!(0), &json!(count)), "{stats}");
    assert_eq!(export(&there, None).await, second);

    // And the channels are what they were.
    for (user, channel) in [("ada", "attic"), ("bob", "attic"), ("ada", "full"), ("ada", "old")] {
        let path = format!("/v1/channels/{channel}");
        let [mut here, mut there] =
            [here.api(user).get(&path).await, there.api(user).get(&path).await]
                .map(|it| it.is(200).clone());
        for view in [&mut here, &mut there] {
            view.as_object_mut().unwrap().remove("channel_id");
        }
        assert_eq!(here, there);
    }
    there.api("stranger").get("/v1/channels/attic").await.is_refused(404, "unknown_channel");
    let posts = there.api("ada");
    posts.post("/v1/channels/full/messages", &json!({"body": "4"})).await.is(201);
    let full = posts.post("/v1/channels/full/messages", &json!({"body": "5"})).await;
    full.is_refused(409, "quota_exhausted");
    // A retry of a message that was imported is that message.
    let head = format!("{JSON}Idempotency-Key: a-key\r\n");
    let body = json!({"body": "\u{20ac} a key"}).to_string();
    let again = posts.ask("POST", "/v1/channels/full/messages", &head, Some(body.as_bytes())).await;
    assert_eq!(again.is(200)["sequence"], 3);
}

#[tokio::test]
async fn what_a_full_channel_has_by_its_id_needs_no_room_in_an_import() {
    let server = empty().await;
    let ada = server.api("ada");
    let quota = json!({"name": "full", "quota": {"messages_max": 3}});
    ada.post("/v1/channels", &quota).await.is(201);
    for number in 1..=2 {
        let head = format!("{JSON}Idempotency-Key: {number}\r\n");
        let body = json!({"body": "hi"}).to_string();
        let path = "/v1/channels/full/messages";
        ada.ask("POST", path, &head, Some(body.as_bytes())).await.is(201);
    }
    let line = |id: u32| {
        json!({"channel": "full", "time": 1_000 + id, "author": "ada", "user": "ada",
            "id": id.to_string(), "body": "hi"})
    };
    let lines: String = (1..=3).map(|id| format!("{}\n", line(id))).collect();
    for (added, known) in [(1, 2), (0, 3)] {
        let stats = import(&server, &lines).await;
        assert_eq!((&stats["added"], &stats["known"]), (&json!(added), &json!(known)), "{stats}");
    }
}
