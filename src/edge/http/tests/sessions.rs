//! The session of a page, in its cookie.

use super::*;
use crate::{auth::Registration, limits::SESSION_COOKIES_MAX};

const SESSION: &str = "/v1/session";
const RENEW: &str = "/v1/session/renew";

fn credentials(password: &str) -> String {
    json!({"username": "Ada", "password": password}).to_string()
}

/// A request as a page makes it, with these lines in its head.
fn as_page(method: Method, path: &str, lines: &[(&str, &str)], body: &str) -> Request {
    let mut request = ask(method, path);
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    if !body.is_empty() {
        request = request.header("content-type", JSON);
    }
    request.body(Body::from(body.to_owned())).unwrap()
}

impl Api {
    async fn with_cookie(&self, method: Method, path: &str, cookie: &str) -> Answered {
        self.send(as_page(method, path, &[("cookie", cookie)], "")).await
    }

    async fn sign_in(&self, lines: &[(&str, &str)]) -> Answered {
        self.send(as_page(Method::POST, SESSION, lines, &credentials(PASSWORD))).await
    }
}

/// `hubbub_session=…` as a browser sends it back, and the attributes that came with it.
#[track_caller]
fn set_cookie(answered: &Answered) -> (String, Vec<String>) {
    let all: Vec<_> = answered.headers.get_all("set-cookie").iter().collect();
    let [line] = all[..] else { panic!("{all:?}") };
    let mut parts = line.to_str().unwrap().split("; ").map(str::to_owned);
    (parts.next().unwrap(), parts.collect())
}

/// The cookie of a session that was opened.
#[track_caller]
fn opened(answered: &Answered) -> String {
    assert_eq!(answered.status, StatusCode::OK, "{}", answered.body);
    let (cookie, attributes) = set_cookie(answered);
    assert!(cookie.starts_with("hubbub_session=hbr_"), "{cookie}");
    assert_eq!(
        attributes,
        ["Path=/v1/session", "HttpOnly", "SameSite=Strict", "Max-Age=2592000"],
        "30 days, and no Secure over plain HTTP"
    );
    assert!(!answered.body.to_string().contains("hbr_"), "{}", answered.body);
    assert_eq!(answered.headers["cache-control"], "no-store");
    cookie
}

#[track_caller]
fn is_taken_away(answered: &Answered) {
    let (cookie, attributes) = set_cookie(answered);
    assert_eq!(cookie, "hubbub_session=");
    assert_eq!(attributes, ["Path=/v1/session", "HttpOnly", "SameSite=Strict", "Max-Age=0"]);
}

#[tokio::test]
async fn a_session_is_opened_renewed_and_closed_by_its_cookie() {
    let api = Api::start();
    let created = api.register("ada", PASSWORD).await;
    let first = api.sign_in(&[]).await;
    let cookie = opened(&first);
    assert_eq!(first.body["username"], "ada");
    assert_eq!(first.body["user"], created.body["user"]);
    assert_eq!(first.body["token_type"], "Bearer");
    assert_eq!(first.body["expires_in"], 900);
    let access = first.body["access_token"].as_str().unwrap();
    assert_eq!(api.get_as("/v1/me", access).await.body["username"], "ada");

    let other = format!("theme=dark; {cookie}; hubbub_session_old=x");
    let second = api.with_cookie(Method::POST, RENEW, &other).await;
    let renewed = opened(&second);
    assert_ne!(renewed, cookie);
    assert_eq!(second.body["username"], "ada");
    let access = second.body["access_token"].as_str().unwrap();
    assert_eq!(api.get_as("/v1/me", access).await.body["sessions"], 1);

    let closed = api.with_cookie(Method::DELETE, SESSION, &renewed).await;
    assert_eq!(closed.status, StatusCode::NO_CONTENT, "{}", closed.body);
    is_taken_away(&closed);
    is_problem(&api.get_as("/v1/me", access).await, 401, "invalid_token");
    let over = api.with_cookie(Method::POST, RENEW, &renewed).await;
    is_problem(&over, 401, "invalid_token");
    is_taken_away(&over);
}

#[tokio::test]
async fn signing_out_is_done_as_often_as_it_is_asked() {
    let api = Api::start();
    api.register("ada", PASSWORD).await;
    let cookie = opened(&api.sign_in(&[]).await);
    for cookie in [&cookie, &cookie, "hubbub_session=garbage", "hubbub_session=", "other=1"] {
        let closed = api.with_cookie(Method::DELETE, SESSION, cookie).await;
        assert_eq!(closed.status, StatusCode::NO_CONTENT, "{cookie}: {}", closed.body);
        is_taken_away(&closed);
    }
    let closed = api.send(as_page(Method::DELETE, SESSION, &[], "")).await;
    assert_eq!(closed.status, StatusCode::NO_CONTENT, "{}", closed.body);
}

#[tokio::test]
async fn a_cookie_that_was_traded_before_ends_the_session() {
    let api = Api::start();
    api.register("ada", PASSWORD).await;
    let first = opened(&api.sign_in(&[]).await);
    let second = opened(&api.with_cookie(Method::POST, RENEW, &first).await);
    for cookie in [&first, &second] {
        let refused = api.with_cookie(Method::POST, RENEW, cookie).await;
        is_problem(&refused, 401, "invalid_token");
        assert_eq!(refused.body["error"], Value::Null, "OAuth's words are of the token addresses");
    }
}

#[tokio::test]
async fn whatever_is_wrong_about_signing_in_it_is_one_answer() {
    let api = Api::start();
    api.register("ada", PASSWORD).await;
    let try_with = async |username: &str, password: &str| {
        let body = json!({"username": username, "password": password}).to_string();
        api.send(as_page(Method::POST, SESSION, &[], &body)).await
    };
    let wrong = try_with("ada", "wrong horse battery").await;
    is_problem(&wrong, 401, "invalid_credentials");
    assert!(!wrong.headers.contains_key("set-cookie"));
    for (username, password) in [("bert", PASSWORD), ("no such form", PASSWORD), ("ada", "")] {
        let other = try_with(username, password).await;
        assert_eq!((other.status, &other.body), (wrong.status, &wrong.body), "{username}");
    }
}

#[tokio::test]
async fn tries_are_those_of_the_token_address() {
    let api = Api::start_with(|settings, _| {
        settings.attempts_per_address_burst = 2;
        settings.attempts_per_address_per_second = 0.001;
    });
    // Makes one of the two.
    api.register("ada", PASSWORD).await;
    is_problem(&api.log_in("ada", "wrong horse battery").await, 401, "invalid_credentials");
    let limited = api.sign_in(&[]).await;
    is_problem(&limited, 429, "rate_limited");
    assert!(limited.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn without_exactly_one_cookie_nothing_is_renewed() {
    let api = Api::start();
    api.register("ada", PASSWORD).await;
    let cookie = opened(&api.sign_in(&[]).await);
    for none in ["", "theme=dark", "Hubbub_Session=x", "hubbub_session"] {
        let refused = api.with_cookie(Method::POST, RENEW, none).await;
        is_problem(&refused, 401, "not_authenticated");
    }
    let mut request = as_page(Method::POST, RENEW, &[("cookie", "hubbub_session=x")], "");
    request.headers_mut().append("cookie", HeaderValue::from_str(&cookie).unwrap());
    is_problem(&api.send(request).await, 400, "bad_request");
    let two = format!("hubbub_session=planted; {cookie}");
    is_problem(&api.with_cookie(Method::POST, RENEW, &two).await, 400, "bad_request");
    // Who was given a second one gets out of it: what is his ends.
    let closed = api.with_cookie(Method::DELETE, SESSION, &two).await;
    assert_eq!(closed.status, StatusCode::NO_CONTENT);
    let over = api.with_cookie(Method::POST, RENEW, &cookie).await;
    is_problem(&over, 401, "invalid_token");
}

#[tokio::test]
async fn the_cookie_is_found_beside_those_of_others_in_any_script() {
    let api = Api::start();
    api.register("ada", PASSWORD).await;
    let ask = async |method: Method, path: &str, cookie: &str| {
        let mut request = as_page(method, path, &[], "");
        let line = HeaderValue::from_bytes(cookie.as_bytes()).unwrap();
        request.headers_mut().insert("cookie", line);
        api.send(request).await
    };
    let cookie = opened(&api.sign_in(&[]).await);
    let beside = format!("city=K\u{f6}ln; {cookie}; \u{1f36a}=1");
    let renewed = opened(&ask(Method::POST, RENEW, &beside).await);
    let two = format!("hubbub_session=\u{1f36a}; {renewed}");
    is_problem(&ask(Method::POST, RENEW, &two).await, 400, "bad_request");
    // A neighbour's cookie must not keep a session alive that its user has ended.
    let closed = ask(Method::DELETE, SESSION, &two).await;
    assert_eq!(closed.status, StatusCode::NO_CONTENT);
    let over = api.with_cookie(Method::POST, RENEW, &renewed).await;
    is_problem(&over, 401, "invalid_token");
}

#[tokio::test]
async fn a_session_that_is_not_ended_is_not_said_to_be() {
    let api = Api::start();
    api.register("ada", PASSWORD).await;
    let cookie = opened(&api.sign_in(&[]).await);
    let planted = "hubbub_session=planted; ".repeat(SESSION_COOKIES_MAX);
    let refused = api.with_cookie(Method::DELETE, SESSION, &format!("{planted}{cookie}")).await;
    is_problem(&refused, 400, "bad_request");
    assert!(!refused.headers.contains_key("set-cookie"), "the page can try again");
    let closed = api.with_cookie(Method::DELETE, SESSION, &cookie).await;
    assert_eq!(closed.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_page_of_another_origin_gets_nowhere() {
    let api = Api::start();
    api.register("ada", PASSWORD).await;
    let cookie = opened(&api.sign_in(&[]).await);
    let foreign: [&[(&str, &str)]; 10] = [
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "Same-Origin")],
        &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("origin", "http://127.0.0.1.evil.example")],
        &[("origin", "http://127.0.0.1:7878"), ("sec-fetch-site", "same-origin")],
        &[("origin", "file://127.0.0.1")],
        &[("origin", "http://127.0.0.1"), ("origin", "http://127.0.0.1")],
    ];
    for lines in foreign {
        is_problem(&api.sign_in(lines).await, 403, "forbidden");
        let lines = [lines, &[("cookie", cookie.as_str())]].concat();
        for (method, path) in
            [(Method::POST, RENEW), (Method::DELETE, SESSION), (Method::GET, SESSION)]
        {
            let refused = api.send(as_page(method, path, &lines, "")).await;
            is_problem(&refused, 403, "forbidden");
            assert!(!refused.headers.contains_key("set-cookie"), "{lines:?}");
        }
    }
    let ours: [&[(&str, &str)]; 4] = [
        &[("origin", "http://127.0.0.1"), ("sec-fetch-site", "same-origin")],
        // Behind a proxy that ends TLS.
        &[("origin", "https://127.0.0.1")],
        &[("sec-fetch-site", "none")],
        &[],
    ];
    for lines in ours {
        opened(&api.sign_in(lines).await);
    }
    // It was refused before it was looked at, so it is still good.
    opened(&api.with_cookie(Method::POST, RENEW, &cookie).await);
}

#[tokio::test]
async fn a_form_of_another_site_is_no_sign_in() {
    let api = Api::start();
    for content_type in ["", FORM, "text/plain", "multipart/form-data"] {
        let refused = api.post(SESSION, content_type, &credentials(PASSWORD)).await;
        is_problem(&refused, 415, "unsupported_media_type");
    }
    for body in ["{}", "[]", r#"{"username":"ada"}"#, r#"["ada","correct horse battery"]"#] {
        is_problem(&api.post(SESSION, JSON, body).await, 400, "bad_request");
    }
    is_problem(
        &api.post(SESSION, JSON, &credentials(&"x".repeat(5000))).await,
        413,
        "message_too_large",
    );
}

#[tokio::test]
async fn behind_a_trusted_proxy_that_speaks_https_the_cookie_is_secure() {
    let api = Api::start_with(|_, edge| {
        edge.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    });
    api.register("ada", PASSWORD).await;
    let https = ("x-forwarded-proto", "https");
    let answered = api.sign_in(&[https, ("origin", "https://127.0.0.1")]).await;
    let (cookie, attributes) = set_cookie(&answered);
    assert_eq!(attributes.last().unwrap(), "Secure");
    let closed =
        api.send(as_page(Method::DELETE, SESSION, &[https, ("cookie", &cookie)], "")).await;
    assert_eq!(set_cookie(&closed).1.last().unwrap(), "Secure");
    // The same host by another scheme is another origin.
    is_problem(&api.sign_in(&[https, ("origin", "http://127.0.0.1")]).await, 403, "forbidden");
    opened(&api.sign_in(&[("x-forwarded-proto", "http")]).await);
    // Of somebody who is not trusted it is not believed.
    let api = Api::start();
    api.register("ada", PASSWORD).await;
    opened(&api.sign_in(&[https]).await);
}

#[tokio::test]
async fn a_page_learns_who_may_sign_up_and_whether_there_is_a_cookie() {
    for (registration, expected) in [
        (Registration::Open, "open"),
        (Registration::Invite, "invite"),
        (Registration::Closed, "closed"),
    ] {
        let api = Api::start_with(|settings, _| settings.registration = registration);
        let told = api.get(SESSION).await;
        assert_eq!(told.body, json!({"sign_up": expected, "has_cookie": false}));
        let told = api.with_cookie(Method::GET, SESSION, "hubbub_session=hbr_x").await;
        assert_eq!(told.body, json!({"sign_up": expected, "has_cookie": true}));
    }
}
