//! Channels and members over HTTP: who may do what, and what others learn of it.

use futures_util::future::join_all;
use hubbub::{
    engine::Engine,
    wire::{code::ErrorCode, proto::server_envelope::Envelope},
};
use serde_json::{Value, json};

use crate::harness::{Answer, Api, Heard, JSON, Peer, TestServer, code_of};

/// The number of a user, whom everybody finds by name.
async fn number(api: &Api, name: &str) -> u64 {
    let found = api.get(&format!("/v1/users?name={name}")).await;
    found.is(200)["users"][0]["user_id"].as_u64().expect("there is such a user")
}

/// Users who are known to the server.
async fn users<E: Engine, const N: usize>(server: &TestServer<E>, names: [&str; N]) -> [Api; N] {
    let users = names.map(|name| server.api(name));
    for user in &users {
        user.get("/v1/me/channels").await.is(200);
    }
    users
}

async fn make(api: &Api, channel: Value) -> Value {
    api.post("/v1/channels", &channel).await.is(201).clone()
}

fn names(list: &Value) -> Vec<&str> {
    let channels = list["channels"].as_array().expect("a page").iter();
    channels.map(|it| it["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_channel_is_made_found_changed_and_removed() {
    let mut server = TestServer::start().await;
    let [ada, bob] = users(&server, ["ada", "bob"]).await;
    let quota = json!({"messages_max": 10, "bytes_max": 1000});
    let made = make(&ada, json!({"name": "dev", "topic": "Ängste", "quota": quota})).await;
    assert_eq!((&made["name"], &made["topic"]), (&json!("dev"), &json!("Ängste")));
    assert_eq!((&made["visibility"], &made["posting"]), (&json!("public"), &json!("everyone")));
    assert_eq!((&made["archived"], &made["quota"]), (&json!(false), &quota));
    assert_eq!(made["used"], json!({"messages": 0, "bytes": 0}));
    assert_eq!((&made["role"], &made["member_count"]), (&json!("owner"), &json!(1)));
    assert!(made["created"].as_str().unwrap().ends_with('Z'));
    let taken = bob.post("/v1/channels", &json!({"name": "dev"})).await;
    taken.is_refused(409, "channel_exists");

    let seen = bob.get("/v1/channels/dev").await;
    assert_eq!(seen.is(200)["channel_id"], made["channel_id"]);
    assert!(seen.body.get("role").is_none());
    assert_eq!(names(bob.get("/v1/channels?prefix=d").await.is(200)), ["dev"]);
    assert_eq!(names(ada.get("/v1/me/channels").await.is(200)), ["dev"]);
    assert_eq!(names(bob.get("/v1/me/channels").await.is(200)), <[&str; 0]>::default());

    let change = json!({"topic": "", "posting": "members", "quota": {"messages_max": 20}});
    let changed = ada.send("PATCH", "/v1/channels/dev", &change).await;
    let changed = changed.is(200);
    assert_eq!((&changed["topic"], &changed["posting"]), (&json!(""), &json!("members")));
    assert_eq!(changed["quota"], json!({"messages_max": 20}));
    server.restart().await;
    let [ada, bob] = users(&server, ["ada", "bob"]).await;
    assert_eq!(ada.get("/v1/channels/dev").await.is(200), changed);
    let unchanged = ada.send("PATCH", "/v1/channels/dev", &json!({})).await;
    assert_eq!(unchanged.is(200), changed);
    let page = bob.get("/v1/channels/dev/messages").await;
    let [entry] = &page.is(200)["messages"].as_array().unwrap()[..] else { panic!("{page:?}") };
    assert_eq!((&entry["author"], &entry["sequence"]), (&json!("ada"), &json!(1)));
    assert_eq!(entry["settings"]["posting"], "members");
    assert_eq!(entry["settings"]["name"], "dev");
    // What was accepted is counted from the beginning, or not at all.
    let refused = ada.send("PATCH", "/v1/channels/dev", &json!({"quota": {}})).await;
    refused.is_refused(400, "bad_request");
    assert!(refused.body["detail"].as_str().unwrap().contains("quota"));

    assert_eq!(ada.delete("/v1/channels/dev").await.status, 204);
    ada.get("/v1/channels/dev").await.is_refused(404, "unknown_channel");
    ada.delete("/v1/channels/dev").await.is_refused(404, "unknown_channel");
    assert_eq!(names(ada.get("/v1/me/channels").await.is(200)), <[&str; 0]>::default());
}

#[tokio::test]
async fn a_hub_without_accounts_has_the_same_addresses() {
    let auth = TestServer::start().await;
    let hub = TestServer::hub_of(&auth).await;
    let ada = Api::new(hub.address(), auth.token("ada"));
    make(&ada, json!({"name": "dev"})).await;
    let posted = ada.post("/v1/channels/dev/messages", &json!({"body": "hi"})).await;
    assert_eq!(posted.is(201)["sequence"], 1);
    assert_eq!(Api::nobody(hub.address()).get("/v1/accounts").await.status, 404);
    let document = Api::nobody(hub.address()).get("/openapi.json").await;
    let paths = document.is(200)["paths"].as_object().unwrap();
    assert!(paths.contains_key("/v1/channels/{channel}/messages"));
    assert!(!paths.contains_key("/v1/accounts"));
    assert!(paths.values().all(|item| item.get("post").is_none_or(|it| it["summary"].is_string())));
}

#[tokio::test]
async fn each_role_may_do_what_it_may_and_no_more() {
    let server = TestServer::start().await;
    let everyone = users(&server, ["owner", "moderator", "member", "outsider", "other"]).await;
    let [owner, moderator, member, outsider, other] = &everyone;
    make(owner, json!({"name": "dev", "posting": "members"})).await;
    let members = "/v1/channels/dev/members";
    let of = async |name: &str| format!("{members}/{}", number(owner, name).await);
    let set = async |by: &Api, name: &str, role: &str| {
        by.send("PUT", &of(name).await, &json!({"role": role})).await
    };
    assert_eq!(set(owner, "moderator", "moderator").await.is(200)["role"], "moderator");
    assert_eq!(member.put(&format!("{members}/me")).await.is(200)["role"], "member");
    assert_eq!(member.put(&format!("{members}/me")).await.is(200)["role"], "member");

    let listed = outsider.get(members).await;
    let listed: Vec<_> = listed.is(200)["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["name"].as_str().unwrap(), it["role"].as_str().unwrap()))
        .collect();
    assert_eq!(listed, [("owner", "owner"), ("moderator", "moderator"), ("member", "member")]);

    // To publish.
    let post = async |by: &Api| by.post("/v1/channels/dev/messages", &json!({"body": "x"})).await;
    post(outsider).await.is_refused(403, "forbidden");
    for by in [member, moderator, owner] {
        assert_eq!(post(by).await.status, 201);
    }
    owner.send("PATCH", "/v1/channels/dev", &json!({"posting": "moderators"})).await.is(200);
    post(member).await.is_refused(403, "forbidden");
    assert_eq!(post(moderator).await.status, 201);

    // To change settings, and to delete.
    for by in [outsider, member, moderator] {
        let change = json!({"topic": "mine"});
        by.send("PATCH", "/v1/channels/dev", &change).await.is_refused(403, "forbidden");
        let rename = json!({"name": "mine"});
        by.send("PATCH", "/v1/channels/dev", &rename).await.is_refused(403, "forbidden");
        by.delete("/v1/channels/dev").await.is_refused(403, "forbidden");
    }
    // To give roles.
    for by in [outsider, member] {
        set(by, "other", "member").await.is_refused(403, "forbidden");
        by.delete(&of("moderator").await).await.is_refused(403, "forbidden");
    }
    for role in ["moderator", "owner"] {
        set(moderator, "other", role).await.is_refused(403, "forbidden");
        set(moderator, "moderator", role).await.is_refused(403, "forbidden");
        set(member, "member", role).await.is_refused(403, "forbidden");
    }
    set(moderator, "owner", "member").await.is_refused(403, "forbidden");
    moderator.delete(&of("owner").await).await.is_refused(403, "forbidden");
    // A moderator invites, without a body too, and removes.
    assert_eq!(moderator.put(&of("other").await).await.is(200)["role"], "member");
    assert_eq!(moderator.delete(&of("other").await).await.is(200)["role"], "none");
    moderator.delete(&of("other").await).await.is_refused(404, "not_a_member");
    assert_eq!(names(other.get("/v1/me/channels").await.is(200)), <[&str; 0]>::default());
    owner.put(&format!("{members}/4000000000")).await.is_refused(404, "unknown_user");

    // The last owner stays.
    owner.delete(&format!("{members}/me")).await.is_refused(409, "last_owner");
    set(owner, "owner", "member").await.is_refused(409, "last_owner");
    assert_eq!(set(owner, "moderator", "owner").await.is(200)["role"], "owner");
    assert_eq!(owner.delete(&format!("{members}/me")).await.is(200)["role"], "none");
    owner
        .send("PATCH", "/v1/channels/dev", &json!({"topic": "x"}))
        .await
        .is_refused(403, "forbidden");

    let page = outsider.get("/v1/channels/dev/messages?limit=200").await;
    let entries = page.is(200)["messages"].as_array().unwrap();
    let first = &entries[0];
    assert_eq!((&first["author"], &first["sequence"]), (&json!("owner"), &json!(1)));
    assert_eq!(first["member"]["name"], "moderator");
    assert_eq!(first["member"]["role"], "moderator");
    assert_eq!(entries.last().unwrap()["member"]["role"], "none");
}

#[tokio::test]
async fn nobody_becomes_more_by_saying_so() {
    let server = TestServer::start().await;
    let [owner, eve] = users(&server, ["owner", "eve"]).await;
    make(&owner, json!({"name": "dev"})).await;
    let me = "/v1/channels/dev/members/me";
    eve.send("PUT", me, &json!({"role": "owner"})).await.is_refused(400, "bad_request");
    assert_eq!(eve.send("PUT", me, &json!({})).await.is(200)["role"], "member");
    let own = format!("/v1/channels/dev/members/{}", number(&eve, "eve").await);
    eve.send("PUT", &own, &json!({"role": "owner"})).await.is_refused(403, "forbidden");
    for (method, path, body) in [
        ("POST", "/v1/channels", json!({"name": "mine", "owner": 1})),
        ("POST", "/v1/channels", json!({"name": "mine", "role": "owner"})),
        ("POST", "/v1/channels", json!({"name": "mine", "archived": true})),
        ("POST", "/v1/channels", json!({"name": "mine", "channel_id": 1})),
        ("POST", "/v1/channels", json!({"name": "mine", "quota": {"used": 0}})),
        ("POST", "/v1/channels", json!({"name": "mine", "quota": {"messages_max": 0}})),
        ("POST", "/v1/channels", json!({"name": "mine", "quota": {"bytes_max": -1}})),
        ("POST", "/v1/channels", json!({"name": "mine", "visibility": "hidden"})),
        ("POST", "/v1/channels", json!({"name": "mine", "topic": "a\u{7}b"})),
        ("POST", "/v1/channels", json!({"name": "mine", "topic": "x".repeat(513)})),
        ("POST", "/v1/channels", json!({"topic": "no name"})),
        ("PATCH", "/v1/channels/dev", json!({"role": "owner"})),
        ("PATCH", "/v1/channels/dev", json!({"members": []})),
        ("PATCH", "/v1/channels/dev", json!({"topic": null})),
        ("PATCH", "/v1/channels/dev", json!({"topic": "x".repeat(513)})),
        ("PUT", &own, json!({"role": "member", "as": "owner"})),
        ("PUT", &own, json!({"role": "none"})),
        ("PUT", &own, json!({"role": null})),
    ] {
        eve.send(method, path, &body).await.is_refused(400, "bad_request");
    }
    let before = owner.get("/v1/channels/dev").await;
    assert_eq!(before.is(200)["member_count"], 2);
}

/// What an answer says, but for the moment.
fn said(answer: &Answer) -> (String, String) {
    let lines = answer.head.lines().filter(|line| !line.to_lowercase().starts_with("date:"));
    (lines.collect::<Vec<_>>().join("\n"), answer.text.clone())
}

#[tokio::test]
async fn a_private_channel_is_to_others_as_one_that_is_missing() {
    let server = TestServer::start().await;
    let [ada, eve] = users(&server, ["ada", "eve"]).await;
    make(&ada, json!({"name": "secret", "visibility": "private"})).await;
    ada.post("/v1/channels/secret/messages", &json!({"body": "psst"})).await.is(201);
    let message = json!({"body": "x"}).to_string();
    let topic = json!({"topic": "x"}).to_string();
    let name = json!({"name": "x"}).to_string();
    let user = number(&ada, "ada").await;
    let member = format!("/members/{user}");
    let unknown_member = "/members/4000000000";
    for (method, rest, body) in [
        ("GET", "", None),
        ("PATCH", "", Some(&topic)),
        ("PATCH", "", Some(&name)),
        ("DELETE", "", None),
        ("GET", "/members", None),
        ("GET", "/members?after=bm9uZQ", None),
        ("PUT", "/members/me", None),
        ("DELETE", "/members/me", None),
        ("PUT", &member, None),
        ("PUT", unknown_member, None),
        ("DELETE", &member, None),
        ("POST", "/messages", Some(&message)),
        ("GET", "/messages", None),
        ("GET", "/webhooks", None),
        ("POST", "/webhooks", Some(&name)),
        ("DELETE", "/webhooks/1-1", None),
    ] {
        let mut answers = Vec::new();
        for channel in ["secret", "absent"] {
            let path = format!("/v1/channels/{channel}{rest}");
            let head = if body.is_some() { JSON } else { "" };
            let answer = eve.ask(method, &path, head, body.map(|it| it.as_bytes())).await;
            answer.is_refused(404, "unknown_channel");
            answers.push(said(&answer));
        }
        assert_eq!(answers[0], answers[1], "{method} {rest}");
    }
    assert_eq!(names(eve.get("/v1/channels?prefix=secret").await.is(200)), <[&str; 0]>::default());
    assert_eq!(names(ada.get("/v1/me/channels").await.is(200)), ["secret"]);

    // Invited, and removed again.
    let path = format!("/v1/channels/secret/members/{}", number(&ada, "eve").await);
    ada.put(&path).await.is(200);
    let page = eve.get("/v1/channels/secret/messages").await;
    assert_eq!(page.is(200)["messages"][0]["body"], "psst");
    let mut peer = Peer::login(&server, "eve").await;
    peer.subscribe("secret", None).await.unwrap();
    ada.delete(&path).await.is(200);
    eve.get("/v1/channels/secret/messages").await.is_refused(404, "unknown_channel");
    eve.post("/v1/channels/secret/messages", &json!({"body": "x"}))
        .await
        .is_refused(404, "unknown_channel");
    assert_eq!(code_of(peer.publish("secret", "x").await), ErrorCode::UnknownChannel);
}

#[tokio::test]
async fn a_quota_is_used_up_to_the_last_message_and_no_further() {
    let server = TestServer::start().await;
    let [ada] = users(&server, ["ada"]).await;
    make(&ada, json!({"name": "small", "quota": {"messages_max": 200}})).await;
    let posters = (0..64).map(|poster| {
        let ada = ada.clone();
        tokio::spawn(async move {
            let (mut taken, mut refused) = (Vec::new(), 0);
            for round in 0..5 {
                let body = json!({"body": format!("{poster}/{round}")});
                let answer = ada.post("/v1/channels/small/messages", &body).await;
                if answer.status == 201 {
                    taken.push(answer.body["sequence"].as_u64().unwrap());
                } else {
                    answer.is_refused(409, "quota_exhausted");
                    refused += 1;
                }
            }
            (taken, refused)
        })
    });
    let (mut taken, mut refused) = (Vec::new(), 0);
    for poster in join_all(posters).await {
        let (sequences, count) = poster.unwrap();
        taken.extend(sequences);
        refused += count;
    }
    taken.sort_unstable();
    assert_eq!(taken, (1..=200).collect::<Vec<u64>>());
    assert_eq!(refused, 64 * 5 - 200);
    let channel = ada.get("/v1/channels/small").await;
    assert_eq!(channel.is(200)["used"]["messages"], 200);

    // Bytes count by the body, and one that fits still does.
    make(&ada, json!({"name": "tiny", "quota": {"bytes_max": 10}})).await;
    let post =
        async |body: &str| ada.post("/v1/channels/tiny/messages", &json!({"body": body})).await;
    post("12345").await.is(201);
    post("123456").await.is_refused(409, "quota_exhausted");
    post("äöx").await.is(201);
    post("1").await.is_refused(409, "quota_exhausted");
    assert_eq!(ada.get("/v1/channels/tiny").await.is(200)["used"]["bytes"], 10);
}

#[tokio::test]
async fn an_archived_channel_is_read_and_not_written() {
    let server = TestServer::start().await;
    let [ada, bob] = users(&server, ["ada", "bob"]).await;
    make(&ada, json!({"name": "old"})).await;
    let messages = "/v1/channels/old/messages";
    bob.post(messages, &json!({"body": "last"})).await.is(201);
    ada.send("PATCH", "/v1/channels/old", &json!({"archived": true})).await.is(200);
    for by in [&ada, &bob] {
        by.post(messages, &json!({"body": "x"})).await.is_refused(409, "channel_archived");
        assert_eq!(by.get(messages).await.is(200)["messages"][0]["body"], "last");
    }
    assert_eq!(names(bob.get("/v1/channels?archived=true").await.is(200)), ["old"]);
    let others = bob.get("/v1/channels?archived=false").await;
    assert!(!names(others.is(200)).contains(&"old"));
    bob.get("/v1/channels?archived=yes").await.is_refused(400, "bad_request");
    ada.send("PATCH", "/v1/channels/old", &json!({"archived": false})).await.is(200);
    bob.post(messages, &json!({"body": "again"})).await.is(201);
}

#[tokio::test]
async fn a_channel_that_is_renamed_leaves_its_name_to_others() {
    let server = TestServer::start().await;
    let [ada, bob] = users(&server, ["ada", "bob"]).await;
    let before = make(&ada, json!({"name": "before"})).await;
    ada.post("/v1/channels/before/messages", &json!({"body": "hi"})).await.is(201);
    let mut peer = Peer::login(&server, "bob").await;
    peer.subscribe("before", None).await.unwrap();

    make(&bob, json!({"name": "taken"})).await;
    let rename = |name: &str| json!({"name": name});
    let refused = ada.send("PATCH", "/v1/channels/before", &rename("taken")).await;
    refused.is_refused(409, "channel_exists");
    let refused = ada.send("PATCH", "/v1/channels/before", &rename("No Name")).await;
    refused.is_refused(400, "invalid_channel_name");
    let renamed = ada.send("PATCH", "/v1/channels/before", &rename("after")).await;
    assert_eq!(renamed.is(200)["name"], "after");
    assert_eq!(renamed.body["channel_id"], before["channel_id"]);

    bob.get("/v1/channels/before").await.is_refused(404, "unknown_channel");
    bob.post("/v1/channels/before/messages", &json!({"body": "x"}))
        .await
        .is_refused(404, "unknown_channel");
    let page = bob.get("/v1/channels/after/messages").await;
    assert_eq!(page.is(200)["messages"][0]["body"], "hi");
    assert_eq!(page.body["messages"][1]["settings"]["name"], "after");
    assert_eq!(names(bob.get("/v1/channels?prefix=after").await.is(200)), ["after"]);
    assert_eq!(names(bob.get("/v1/channels?prefix=before").await.is(200)), <[&str; 0]>::default());
    // Subscribers stay, and are told.
    let told = &peer.messages(1).await[0];
    assert!(told.body.contains("after"), "{told:?}");
    bob.post("/v1/channels/after/messages", &json!({"body": "new"})).await.is(201);
    assert_eq!(peer.messages(1).await[0].body, "new");
    let other = make(&bob, json!({"name": "before"})).await;
    assert_ne!(other["channel_id"], before["channel_id"]);
}

#[tokio::test]
async fn a_channel_that_is_deleted_is_gone_and_one_of_its_name_begins_anew() {
    let server = TestServer::start().await;
    let [ada, bob] = users(&server, ["ada", "bob"]).await;
    make(&ada, json!({"name": "gone"})).await;
    let messages = "/v1/channels/gone/messages";
    let before = bob.post(messages, &json!({"body": "hi"})).await;
    let before = before.is(201).clone();
    let mut peer = Peer::login(&server, "bob").await;
    peer.subscribe("gone", None).await.unwrap();

    assert_eq!(ada.delete("/v1/channels/gone").await.status, 204);
    let ended = loop {
        match peer.hear().await {
            Heard::Envelope(Envelope::SubscriptionEnded(ended)) => break ended,
            Heard::Messages(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(before["channel_id"], ended.channel_id);
    bob.get(messages).await.is_refused(404, "unknown_channel");
    bob.post(messages, &json!({"body": "x"})).await.is_refused(404, "unknown_channel");
    assert_eq!(code_of(peer.publish("gone", "x").await), ErrorCode::UnknownChannel);

    let anew = make(&bob, json!({"name": "gone"})).await;
    assert_ne!(anew["channel_id"], before["channel_id"]);
    let page = ada.get(messages).await;
    assert_eq!(page.is(200)["messages"], json!([]));
    let first = ada.post(messages, &json!({"body": "new"})).await;
    assert_eq!(first.is(201)["sequence"], 1);
    assert!(first.body["epoch"].as_u64() > before["epoch"].as_u64());
    ada.delete("/v1/channels/gone").await.is_refused(403, "forbidden");
}

#[tokio::test]
async fn a_name_is_one_and_any_other_segment_is_no_channel() {
    let server = TestServer::start().await;
    let [ada] = users(&server, ["ada"]).await;
    let long = "a".repeat(65);
    for name in [
        "",
        "Dev",
        "dev.",
        ".dev",
        "d v",
        "d\u{200b}ev",
        "d\u{202e}ev",
        "dеv",
        "dev\0",
        "../dev",
        "dev/../x",
        "dev'--",
        "é",
        "e\u{301}",
        "\u{ff44}ev",
        &long,
    ] {
        let refused = ada.post("/v1/channels", &json!({"name": name})).await;
        refused.is_refused(400, "invalid_channel_name");
    }
    let longer = "a".repeat(8_000);
    for segment in [
        "%00",
        "dev%00",
        "..%2f",
        "..%2fdev",
        "%2e%2e",
        "%ff",
        "%zz",
        "%",
        "dev%0a",
        "DEV",
        "dev.",
        "dev%20",
        "dev'--",
        "dev%27%3b%20DROP%20TABLE%20entries",
        "d%D0%B5v",
        "%E2%80%AEdev",
        "*",
        "1%25",
        "name:dev",
        &long,
        &longer,
    ] {
        for (method, path) in [
            ("GET", format!("/v1/channels/{segment}")),
            ("GET", format!("/v1/channels/{segment}/messages")),
            ("DELETE", format!("/v1/channels/{segment}/members/me")),
            ("DELETE", format!("/v1/channels/{segment}")),
        ] {
            let answer = ada.ask(method, &path, "", None).await;
            answer.is_refused(404, "unknown_channel");
        }
    }
    for user in ["%00", "ada", "-1", "+1", "4294967296", "..%2f", "1e3", "1%27"] {
        let answer = ada.put(&format!("/v1/channels/lobby/members/{user}")).await;
        answer.is_refused(400, "bad_request");
    }
    for path in ["/v1/channels/", "/v1/channels/lobby/", "/v1/channels//messages", "/v1/users/1"] {
        assert_eq!(ada.get(path).await.status, 404, "{path}");
    }
    for path in ["/metrics", "/debug/profile", "/v1/admin/bans", "/v1/import"] {
        assert_eq!(ada.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_list_is_read_page_by_page_with_a_cursor_that_nobody_makes() {
    let server = TestServer::start().await;
    let [ada, bob] = users(&server, ["ada", "bob"]).await;
    for number in 0..7 {
        make(&ada, json!({"name": format!("room-{number}")})).await;
    }
    for list in ["/v1/channels?prefix=room-&limit=3", "/v1/me/channels?limit=3"] {
        let (mut seen, mut next) = (Vec::new(), None::<String>);
        loop {
            let after = next.map(|it| format!("&after={it}")).unwrap_or_default();
            let page = ada.get(&format!("{list}{after}")).await;
            assert!(names(page.is(200)).len() <= 3);
            seen.extend(names(&page.body).into_iter().map(str::to_owned));
            match page.body["next"].as_str() {
                Some(cursor) => next = Some(cursor.to_owned()),
                None => break,
            }
        }
        let expected: Vec<_> = (0..7).map(|number| format!("room-{number}")).collect();
        assert_eq!(seen, expected, "{list}");
    }
    let page = ada.get("/v1/channels?prefix=room-&limit=3").await;
    let cursor = page.is(200)["next"].as_str().unwrap().to_owned();
    let mine = ada.get("/v1/me/channels?limit=3").await.body["next"].as_str().unwrap().to_owned();
    let changed = format!("{}{}", if cursor.starts_with('A') { "B" } else { "A" }, &cursor[1..]);
    for (by, query) in [
        (&ada, format!("/v1/channels?prefix=room-&after={changed}")),
        (&ada, format!("/v1/channels?prefix=other&after={cursor}")),
        (&ada, format!("/v1/channels?prefix=room-&after={mine}")),
        (&bob, format!("/v1/me/channels?after={mine}")),
        (&ada, "/v1/channels?after=".to_owned()),
        (&ada, "/v1/channels?after=cm9vbS0x".to_owned()),
        (&ada, "/v1/channels?limit=-1".to_owned()),
        (&ada, "/v1/channels?limit=1e9".to_owned()),
        (&ada, "/v1/channels?limit=201".to_owned()),
        (&ada, "/v1/channels?limit=0".to_owned()),
        (&ada, "/v1/channels?prefix=a&prefix=b".to_owned()),
        (&ada, "/v1/channels?sort=name".to_owned()),
        (&ada, "/v1/channels/lobby/members?limit=0".to_owned()),
        (&ada, format!("/v1/channels/lobby/members?after={mine}")),
        (&ada, "/v1/users".to_owned()),
        (&ada, "/v1/users?name=".to_owned()),
        (&ada, format!("/v1/users?name={}", "a".repeat(65))),
    ] {
        by.get(&query).await.is_refused(400, "bad_request");
    }
    for prefix in ["%00", "..%2f", "%25", "_", "'--", "%F0%9F%98%80", &"a".repeat(1000)] {
        let page = ada.get(&format!("/v1/channels?prefix={prefix}")).await;
        assert_eq!(names(page.is(200)), <[&str; 0]>::default(), "{prefix}");
    }
    for name in ["nobody", "%00", "ada%0a", "ADA", "ad_"] {
        let found = ada.get(&format!("/v1/users?name={name}")).await;
        assert_eq!(found.is(200)["users"], json!([]), "{name}");
    }
}

#[tokio::test]
async fn a_change_of_members_reaches_subscribers_in_its_place() {
    let server = TestServer::start().await;
    let [ada, bob] = users(&server, ["ada", "bob"]).await;
    make(&ada, json!({"name": "dev"})).await;
    let mut peer = Peer::login(&server, "ada").await;
    let (_, page) = peer.history("dev", None, 0).await.unwrap();
    assert_eq!(page.head_sequence, 0, "the log begins with the first message or change");
    let joined = bob.put("/v1/channels/dev/members/me").await;
    assert_eq!(joined.is(200)["sequence"], 1);
    let posted = bob.post("/v1/channels/dev/messages", &json!({"body": "hi"})).await;
    assert_eq!(posted.is(201)["sequence"], 2);
    let left = bob.delete("/v1/channels/dev/members/me").await;
    assert_eq!(left.is(200)["sequence"], 3);
    let page = ada.get("/v1/channels/dev/messages").await;
    let roles: Vec<_> = page.is(200)["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["member"]["role"].as_str())
        .collect();
    assert_eq!(roles, [Some("member"), None, Some("none")]);
}
