//! Tokens: for a password, for a refresh token, and back.

use super::*;

#[tokio::test]
async fn a_password_gets_a_token_that_verifies_by_form_and_by_json() {
    let api = Api::start();
    let created = api.register("Anna", PASSWORD).await;
    let form = "grant_type=password&username=anna&password=correct+horse+battery&scope=ignored";
    let json = json!({"grant_type": "password", "username": "anna", "password": PASSWORD,
        "client_id": "ignored"})
    .to_string();
    for (content_type, body) in [(FORM, form), (JSON, &json)] {
        let granted = api.post("/v1/token", content_type, body).await;
        assert_eq!(granted.status, StatusCode::OK, "{}", granted.body);
        assert_eq!(granted.headers["cache-control"], "no-store");
        assert_eq!(granted.body["token_type"], "Bearer");
        assert_eq!(granted.body["expires_in"], 900);
        let token = granted.body["access_token"].as_str().unwrap();
        let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let claims = api.auth.verifier().verify(token, now_s).unwrap();
        assert_eq!(created.body["user"], claims.sub);
    }
}

#[tokio::test]
async fn whatever_is_wrong_about_a_login_it_is_one_answer() {
    let api = Api::start();
    api.register("anna", PASSWORD).await;
    api.register("bert", PASSWORD).await;
    let disabled = api.administer(Method::POST, "/v1/admin/accounts/bert/disable", None).await;
    assert_eq!(disabled.status, StatusCode::NO_CONTENT, "{}", disabled.body);
    let wrong = api.log_in("anna", "wrong horse battery").await;
    is_problem(&wrong, 401, "invalid_credentials");
    assert_eq!(wrong.body["error"], "invalid_grant");
    for (username, password) in [
        ("carl", PASSWORD),
        ("bert", PASSWORD),
        ("anna", "short"),
        ("anna", "correct horse battery "),
        ("no such form", PASSWORD),
    ] {
        let other = api.log_in(username, password).await;
        assert_eq!(other.status, wrong.status);
        assert_eq!(other.body, wrong.body, "{username}");
        assert_eq!(other.headers, wrong.headers, "{username}");
    }
}

#[tokio::test]
async fn what_is_malformed_is_told_in_the_words_of_oauth() {
    let api = Api::start();
    for (body, error) in [
        ("grant_type=client_credentials", "unsupported_grant_type"),
        ("username=anna&password=correct+horse", "invalid_request"),
        ("grant_type=password&username=anna", "invalid_request"),
        ("grant_type=password&username=anna&password=", "invalid_request"),
        ("grant_type=password&username=&password=correct+horse", "invalid_request"),
        ("grant_type=password&username=an%00na&password=correct+horse", "invalid_request"),
        ("grant_type=password&username=anna&password=p%e4ssword", "invalid_request"),
        ("grant_type=password&grant_type=password&username=a&password=b", "invalid_request"),
        ("grant_type=password&username=a&password=b&password=c", "invalid_request"),
        ("grant_type=refresh_token", "invalid_request"),
        ("grant_type=refresh_token&refresh_token=", "invalid_request"),
        ("grant_type=refresh_token&refresh_token=a%00", "invalid_request"),
        ("", "invalid_request"),
    ] {
        let refused = api.post("/v1/token", FORM, body).await;
        is_problem(&refused, 400, "bad_request");
        assert_eq!(refused.body["error"], error, "{body}");
    }
    let twice = r#"{"grant_type":"password","username":"a","password":"b","password":"c"}"#;
    let wrong_type = r#"{"grant_type":"password","username":"a","password":["b"]}"#;
    for body in [twice, wrong_type, r#"["password","anna","correct horse",null]"#] {
        let refused = api.post("/v1/token", JSON, body).await;
        is_problem(&refused, 400, "bad_request");
        assert_eq!(refused.body["error"], "invalid_request", "{body}");
    }
    let long = format!("grant_type=password&username=a&password={}", "x".repeat(5000));
    is_problem(&api.post("/v1/token", FORM, &long).await, 413, "message_too_large");
    is_problem(&api.post("/v1/token", "text/plain", "").await, 415, "unsupported_media_type");
}

#[tokio::test]
async fn a_refresh_token_is_good_for_one_trade_and_a_replay_ends_the_session() {
    let api = Api::start();
    let first = api.user("anna").await;
    let other = Login::of(&api.log_in("anna", PASSWORD).await);
    let form = format!("grant_type=refresh_token&refresh_token={}", first.refresh);
    let second = Login::of(&api.post("/v1/token", FORM, &form).await);
    assert_ne!(second.refresh, first.refresh);
    assert_eq!(api.get_as("/v1/me", &second.access).await.status, StatusCode::OK);
    let third = Login::of(&api.refresh(&second.refresh).await);

    let replayed = api.refresh(&first.refresh).await;
    is_problem(&replayed, 401, "invalid_token");
    assert_eq!(replayed.body["error"], "invalid_grant");
    let unknown = api.refresh("garbage").await;
    assert_eq!(unknown.body, replayed.body, "nobody learns why");
    // The thief's and the owner's token are one family: neither is good any more.
    is_problem(&api.refresh(&third.refresh).await, 401, "invalid_token");
    is_problem(&api.get_as("/v1/me", &third.access).await, 401, "invalid_token");
    // Another session of the same user is.
    Login::of(&api.refresh(&other.refresh).await);
}

#[tokio::test]
async fn a_revoked_session_is_over_and_an_unknown_token_no_error() {
    let api = Api::start();
    let anna = api.user("anna").await;
    let by_access = Login::of(&api.log_in("anna", PASSWORD).await);
    for token in ["garbage", "a.b.c", &anna.refresh, &anna.refresh, &by_access.access] {
        let form = format!("token={token}&token_type_hint=refresh_token");
        let revoked = api.post("/v1/token/revoke", FORM, &form).await;
        assert_eq!(revoked.status, StatusCode::OK, "{}", revoked.body);
        assert_eq!(revoked.body, "");
        let json = json!({"token": token});
        let revoked = api.post_json("/v1/token/revoke", &json).await;
        assert_eq!(revoked.status, StatusCode::OK, "{}", revoked.body);
    }
    for login in [anna, by_access] {
        is_problem(&api.refresh(&login.refresh).await, 401, "invalid_token");
        is_problem(&api.get_as("/v1/me", &login.access).await, 401, "invalid_token");
    }
    for body in ["", "token=", "token=a&token=b", "token=%00"] {
        let refused = api.post("/v1/token/revoke", FORM, body).await;
        is_problem(&refused, 400, "bad_request");
        assert_eq!(refused.body["error"], "invalid_request", "{body}");
    }
}

#[tokio::test]
async fn hubs_are_told_what_was_revoked() {
    let api = Api::start();
    let anna = api.user("anna").await;
    let feed = api.get("/v1/revocations").await;
    assert_eq!(feed.body, json!({"revocations": [], "last": 0}));
    assert_eq!(feed.headers["cache-control"], "no-store");
    api.post_json("/v1/token/revoke", &json!({"token": anna.refresh})).await;
    let feed = api.get("/v1/revocations?after=0").await;
    assert_eq!(feed.body["last"], 1, "{}", feed.body);
    assert_eq!(feed.body["revocations"][0]["number"], 1);
    assert_eq!(feed.body["revocations"][0]["revoked"], "session");
    assert!(feed.body["revocations"][0]["session"].is_string());
    assert!(!feed.body.to_string().contains("anna"));
    let feed = api.get("/v1/revocations?after=1").await;
    assert_eq!(feed.body, json!({"revocations": [], "last": 1}));
    for query in [
        "after=",
        "after=-1",
        "after=%2B1",
        "after=1e3",
        "after=9223372036854775808",
        "after=1&after=2",
        "after=1%00",
        "before=1",
        "after=1'--",
    ] {
        is_problem(&api.get(&format!("/v1/revocations?{query}")).await, 400, "bad_request");
    }
}

#[tokio::test]
async fn the_keys_are_public_and_only_their_public_half_is() {
    let api = Api::start();
    let keys = api.get("/.well-known/jwks.json").await;
    assert_eq!(keys.headers["cache-control"], "public, max-age=60");
    assert_eq!(keys.body["keys"][0]["kty"], "OKP");
    assert_eq!(keys.body["keys"][0].get("d"), None);
}

#[tokio::test]
async fn who_tries_too_often_is_told_to_wait_and_others_are_not() {
    let api = Api::start_with(|settings, edge| {
        settings.attempts_per_address_burst = 3;
        settings.attempts_per_address_per_second = 0.001;
        edge.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
    });
    let try_from = async |peer: [u8; 4], forwarded: &str| {
        let mut request = post(
            "/v1/token",
            JSON,
            &json!({"grant_type": "password", "username": "anna", "password": PASSWORD})
                .to_string(),
        );
        request.extensions_mut().insert(Peer(IpAddr::from(peer)));
        request.headers_mut().insert("x-forwarded-for", HeaderValue::from_str(forwarded).unwrap());
        api.send(request).await
    };
    // What a stranger says of itself changes nothing.
    for number in 1..=3 {
        let tried = try_from([192, 0, 2, 1], &format!("198.51.100.{number}")).await;
        is_problem(&tried, 401, "invalid_credentials");
    }
    let limited = try_from([192, 0, 2, 1], "198.51.100.4").await;
    is_problem(&limited, 429, "rate_limited");
    assert!(limited.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
    // What a trusted proxy says of its callers does.
    is_problem(&try_from([10, 0, 0, 1], "192.0.2.1").await, 429, "rate_limited");
    is_problem(&try_from([10, 0, 0, 1], "192.0.2.2").await, 401, "invalid_credentials");
}
