//! Passwords: taken as they are, and changed.

use super::*;

async fn change(api: &Api, token: &str, current: &str, new: &str) -> Answered {
    let body = json!({"current_password": current, "new_password": new}).to_string();
    let mut request = post("/v1/password", JSON, &body);
    let line = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    request.headers_mut().insert("authorization", line);
    api.send(request).await
}

#[tokio::test]
async fn passwords_are_taken_verbatim() {
    let api = Api::start();
    let passwords = [
        " leading and trailing ",
        "p\u{e4}ssword composed",
        "pa\u{308}ssword composed",
        "a NUL \0 inside",
        "line\nbreak\r\n",
        "+plus & % equals=",
        "\u{1f40e}\u{1f40e}",
    ];
    for (number, password) in passwords.iter().enumerate() {
        let username = format!("user{number}");
        assert_eq!(api.register(&username, password).await.status, StatusCode::CREATED);
        for other in &passwords {
            let status = api.log_in(&username, other).await.status;
            assert_eq!(status == StatusCode::OK, other == password, "{password:?} {other:?}");
        }
        let trimmed = api.log_in(&username, password.trim()).await.status;
        assert_eq!(trimmed == StatusCode::OK, password.trim() == *password);
    }
}

#[tokio::test]
async fn a_new_password_ends_all_sessions_and_begins_one() {
    let api = Api::start();
    let before = api.user("anna").await;
    let other = Login::of(&api.log_in("anna", PASSWORD).await);
    let changed = change(&api, &before.access, PASSWORD, "another horse battery").await;
    assert_eq!(changed.headers["cache-control"], "no-store");
    let after = Login::of(&changed);
    assert_eq!(api.get_as("/v1/me", &after.access).await.body["sessions"], 1);
    for old in [before, other] {
        is_problem(&api.get_as("/v1/me", &old.access).await, 401, "invalid_token");
        is_problem(&api.refresh(&old.refresh).await, 401, "invalid_token");
    }
    is_problem(&api.log_in("anna", PASSWORD).await, 401, "invalid_credentials");
    Login::of(&api.log_in("anna", "another horse battery").await);
}

#[tokio::test]
async fn a_password_is_changed_by_who_knows_it_and_to_a_good_one() {
    let api = Api::start();
    let anna = api.user("anna").await;
    let wrong = change(&api, &anna.access, "wrong horse battery", "another horse").await;
    is_problem(&wrong, 403, "invalid_credentials");
    is_problem(&change(&api, &anna.access, PASSWORD, "short").await, 400, "invalid_password");
    is_problem(&change(&api, &anna.access, PASSWORD, "password").await, 400, "invalid_password");
    is_problem(&change(&api, "garbage", PASSWORD, "another horse").await, 401, "invalid_token");
    let body = json!({"current_password": PASSWORD, "new_password": "another horse"});
    is_problem(&api.post_json("/v1/password", &body).await, 401, "not_authenticated");
    // It is still as it was, and so is the session.
    Login::of(&api.log_in("anna", PASSWORD).await);
    assert_eq!(api.get_as("/v1/me", &anna.access).await.status, StatusCode::OK);
}
