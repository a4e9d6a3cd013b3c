//! Making accounts, and what a user is told about itself.

use super::*;
use crate::auth::Registration;

#[tokio::test]
async fn a_taken_name_and_rules_have_their_codes() {
    let api = Api::start();
    let created = api.register("Anna", PASSWORD).await;
    assert_eq!(created.status, StatusCode::CREATED);
    assert_eq!(created.body["username"], "anna");
    is_problem(&api.register("ANNA", "another horse").await, 409, "username_taken");
    is_problem(&api.register("an na", PASSWORD).await, 400, "invalid_username");
    is_problem(&api.register("an\0na", PASSWORD).await, 400, "invalid_username");
    is_problem(&api.register("", PASSWORD).await, 400, "invalid_username");
    is_problem(&api.register("bert", "short").await, 400, "invalid_password");
    is_problem(&api.register("bert", &"x".repeat(1025)).await, 400, "invalid_password");
    is_problem(&api.register("bert", &"x".repeat(5000)).await, 413, "message_too_large");
}

#[tokio::test]
async fn a_closed_registration_is_forbidden() {
    let api = Api::start_with(|settings, _| settings.registration = Registration::Closed);
    is_problem(&api.register("anna", PASSWORD).await, 403, "forbidden");
}

#[tokio::test]
async fn an_invite_is_good_for_as_many_accounts_as_it_says() {
    let api = Api::start_with(|settings, _| settings.registration = Registration::Invite);
    is_problem(&api.register("anna", PASSWORD).await, 403, "forbidden");
    let wish = json!({"uses": 2, "expires_in": 60});
    let invited = api.administer(Method::POST, "/v1/admin/invites", Some(wish)).await;
    assert_eq!(invited.status, StatusCode::CREATED, "{}", invited.body);
    let code = invited.body["code"].as_str().unwrap();
    let register = async |username: &str, invite: &str| {
        let body = json!({"username": username, "password": PASSWORD, "invite": invite});
        api.post_json("/v1/accounts", &body).await
    };
    is_problem(&register("anna", "no such code").await, 403, "forbidden");
    is_problem(&register("anna", &format!("{code}\0")).await, 403, "forbidden");
    for username in ["anna", "bert"] {
        assert_eq!(register(username, code).await.status, StatusCode::CREATED);
    }
    is_problem(&register("carl", code).await, 403, "forbidden");
}

#[tokio::test]
async fn a_body_that_is_no_object_of_texts_costs_no_hash() {
    let api = Api::start();
    for body in [
        "{\"username\":",
        "[\"anna\",\"correct horse battery\",null]",
        "{\"username\":\"anna\"}",
        "{\"username\":\"anna\",\"username\":\"bert\",\"password\":\"correct horse battery\"}",
        "{\"username\":7,\"password\":\"correct horse battery\"}",
        "null",
    ] {
        is_problem(&api.post("/v1/accounts", JSON, body).await, 400, "bad_request");
    }
    let form = "username=anna&password=correct+horse+battery";
    is_problem(&api.post("/v1/accounts", FORM, form).await, 415, "unsupported_media_type");
}

#[tokio::test]
async fn a_decoding_error_never_quotes_a_password() {
    let api = Api::start();
    let body = r#"{"username":7,"password":"hunter2-hunter2"}"#;
    let refused = api.post("/v1/accounts", JSON, body).await;
    is_problem(&refused, 400, "bad_request");
    assert!(!refused.body.to_string().contains("hunter2"));
    let body = r#"{"username":"anna","password":1234567890}"#;
    let refused = api.post("/v1/accounts", JSON, body).await;
    assert!(!refused.body.to_string().contains("1234567890"), "{}", refused.body);
}

#[tokio::test]
async fn a_user_is_told_about_itself_and_nobody_else() {
    let api = Api::start();
    let anna = api.user("anna").await;
    let me = api.get_as("/v1/me", &anna.access).await;
    assert_eq!(me.status, StatusCode::OK, "{}", me.body);
    assert_eq!((&me.body["username"], &me.body["sessions"]), (&json!("anna"), &json!(1)));
    let age_s = clock_s() - me.body["created_at_s"].as_u64().unwrap();
    assert!(age_s < 60, "{age_s}");
    assert!(me.body["user"].is_string());

    is_problem(&api.get("/v1/me").await, 401, "not_authenticated");
    let refused = api.get_as("/v1/me", "garbage").await;
    is_problem(&refused, 401, "invalid_token");
    assert_eq!(refused.headers["www-authenticate"], "Bearer error=\"invalid_token\"");
    // A refresh token is no access token.
    is_problem(&api.get_as("/v1/me", &anna.refresh).await, 401, "invalid_token");
}

fn clock_s() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}
