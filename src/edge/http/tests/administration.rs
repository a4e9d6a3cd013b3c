//! What an operator does, and that nobody else can.

use super::*;
use crate::auth::Registration;

const ADMIN: &str = "/v1/admin/accounts";

#[tokio::test]
async fn the_public_port_has_no_admin_addresses() {
    let api = Api::start();
    let mut request = post(ADMIN, JSON, "{}");
    let line = HeaderValue::from_str(&format!("Bearer {}", api.secret.expose())).unwrap();
    request.headers_mut().insert("authorization", line);
    is_problem(&api.send(request).await, 404, "not_found");
    for path in ["/v1/admin/invites", "/v1/admin/accounts/anna", "/metrics", "/debug/profile"] {
        is_problem(&api.get(path).await, 404, "not_found");
    }
    let document = api.get("/openapi.json").await.body.to_string();
    assert!(!document.contains("/v1/admin"), "{document}");
}

#[tokio::test]
async fn only_who_knows_the_secret_administers_and_only_by_an_address() {
    let api = Api::start();
    let secret = format!("Bearer {}", api.secret.expose());
    let try_with = async |host: &str, authorization: Option<&str>| {
        let mut request =
            post(ADMIN, JSON, &json!({"username": "anna", "password": PASSWORD}).to_string());
        request.headers_mut().insert("host", HeaderValue::from_str(host).unwrap());
        if let Some(line) = authorization {
            let line = HeaderValue::from_str(line).unwrap();
            request.headers_mut().insert("authorization", line);
        }
        answer(&api.internal, request).await
    };
    let here = "127.0.0.1:7881";
    is_problem(&try_with(here, None).await, 401, "not_authenticated");
    let short = &secret[..secret.len() - 1];
    let longer = format!("{secret}A");
    for wrong in ["Bearer x", "Bearer ", short, &longer, &secret.replace("Bearer", "Basic")] {
        is_problem(&try_with(here, Some(wrong)).await, 401, "not_authenticated");
    }
    let token = api.user("bert").await.access;
    let users = format!("Bearer {token}");
    is_problem(&try_with(here, Some(&users)).await, 401, "not_authenticated");
    for host in ["evil.example", "evil.example:7881", "127.0.0.1.evil.example:7881"] {
        is_problem(&try_with(host, Some(&secret)).await, 403, "forbidden");
    }
    assert_eq!(try_with("localhost:7881", Some(&secret)).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn an_operator_makes_accounts_although_nobody_else_may() {
    let api = Api::start_with(|settings, _| settings.registration = Registration::Closed);
    let new =
        |username: &str, password: &str| Some(json!({"username": username, "password": password}));
    let created = api.administer(Method::POST, ADMIN, new("Anna", PASSWORD)).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.body);
    assert_eq!(created.body["username"], "anna");
    Login::of(&api.log_in("anna", PASSWORD).await);
    let again = api.administer(Method::POST, ADMIN, new("anna", PASSWORD)).await;
    is_problem(&again, 409, "username_taken");
    let short = api.administer(Method::POST, ADMIN, new("bert", "short")).await;
    is_problem(&short, 400, "invalid_password");
}

#[tokio::test]
async fn a_disabled_user_is_out_until_it_is_enabled() {
    let api = Api::start();
    let anna = api.user("anna").await;
    let say = async |what: &str| {
        api.administer(Method::POST, &format!("{ADMIN}/Anna/{what}"), None).await
    };
    assert_eq!(say("disable").await.status, StatusCode::NO_CONTENT);
    is_problem(&api.log_in("anna", PASSWORD).await, 401, "invalid_credentials");
    is_problem(&api.refresh(&anna.refresh).await, 401, "invalid_token");
    is_problem(&api.get_as("/v1/me", &anna.access).await, 401, "invalid_token");
    assert_eq!(say("enable").await.status, StatusCode::NO_CONTENT);
    let anna = Login::of(&api.log_in("anna", PASSWORD).await);
    assert_eq!(say("logout").await.status, StatusCode::NO_CONTENT);
    is_problem(&api.refresh(&anna.refresh).await, 401, "invalid_token");
    Login::of(&api.log_in("anna", PASSWORD).await);
}

#[tokio::test]
async fn a_deleted_user_is_gone_for_good() {
    let api = Api::start();
    let anna = api.user("anna").await;
    let path = format!("{ADMIN}/anna");
    assert_eq!(api.administer(Method::DELETE, &path, None).await.status, StatusCode::NO_CONTENT);
    is_problem(&api.log_in("anna", PASSWORD).await, 401, "invalid_credentials");
    is_problem(&api.get_as("/v1/me", &anna.access).await, 401, "invalid_token");
    is_problem(&api.register("anna", PASSWORD).await, 409, "username_taken");
    is_problem(&api.administer(Method::DELETE, &path, None).await, 404, "not_found");
    for name in ["nobody", "no%20name", "..%2f..", "%00", "anna'--"] {
        for what in ["disable", "enable", "logout"] {
            let path = format!("{ADMIN}/{name}/{what}");
            is_problem(&api.administer(Method::POST, &path, None).await, 404, "not_found");
        }
    }
    let not_utf8 = api.administer(Method::POST, &format!("{ADMIN}/%ff/disable"), None).await;
    is_problem(&not_utf8, 400, "bad_request");
}

#[tokio::test]
async fn an_invite_has_bounds() {
    let api = Api::start();
    let make =
        async |wish: Value| api.administer(Method::POST, "/v1/admin/invites", Some(wish)).await;
    let made = make(json!({})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    assert_eq!(made.body["uses"], 1);
    for wish in [
        json!({"uses": 0}),
        json!({"uses": 10_001}),
        json!({"uses": -1}),
        json!({"uses": 1.5}),
        json!({"expires_in": 0}),
        json!({"expires_in": 31_536_001}),
        json!({"expires": 60}),
    ] {
        is_problem(&make(wish).await, 400, "bad_request");
    }
}
