//! Who guesses passwords, or sends what can be none: slowed down by address and by name, without
//! locking out whose name it is.

use std::net::{IpAddr, Ipv4Addr};

use hubbub::engine::Engine;
use rusqlite::Connection;
use serde_json::json;

use crate::harness::{Answer, TestServer, now_s, post};

const PASSWORD: &str = "correct horse battery";

/// Another client of this machine.
fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 9, number).into()
}

async fn log_in_with<E: Engine>(
    server: &TestServer<E>,
    from: IpAddr,
    head: &str,
    username: &str,
    password: &str,
) -> Answer {
    let grant = json!({ "grant_type": "password", "username": username, "password": password });
    post(from, server.address(), "/v1/token", head, &grant).await
}

async fn log_in<E: Engine>(
    server: &TestServer<E>,
    from: IpAddr,
    username: &str,
    password: &str,
) -> Answer {
    log_in_with(server, from, "", username, password).await
}

async fn sign_up<E: Engine>(server: &TestServer<E>, username: &str, password: &str) -> Answer {
    let new = json!({ "username": username, "password": password });
    post(address(1), server.address(), "/v1/accounts", "", &new).await
}

/// It is too much, and the answer says when it is not.
fn assert_limited(answer: &Answer) {
    assert_eq!((answer.status, answer.name()), (429, "rate_limited"), "{answer:?}");
    assert!(answer.retry_after().is_some_and(|seconds| seconds >= 1), "{answer:?}");
}

#[tokio::test]
async fn a_name_is_guessed_at_as_slowly_from_many_addresses_and_its_owner_gets_in() {
    let server = TestServer::start_with(|config| config.auth.attempts_per_account_burst = 6).await;
    let home = address(1);
    assert_eq!(sign_up(&server, "ada", PASSWORD).await.status, 201);
    for username in ["ada", "nobody", "No Name At All"] {
        for guess in 0..6 {
            let answer = log_in(&server, address(10 + guess), username, "a wrong password").await;
            assert_eq!((answer.status, answer.name()), (401, "invalid_credentials"), "{username}");
        }
        // From addresses that have not tried yet; with the right password too.
        for guess in 6..12 {
            assert_limited(&log_in(&server, address(10 + guess), username, PASSWORD).await);
        }
        // The owner, where the account was made, is none of them.
        assert_eq!(log_in(&server, home, "ada", PASSWORD).await.status, 200);
    }
}

#[tokio::test]
async fn an_address_is_limited_over_all_names_and_by_what_it_is_not_by_what_it_says() {
    let server = TestServer::start_with(|config| config.auth.attempts_per_address_burst = 6).await;
    for guess in 0..6 {
        let head =
            format!("X-Forwarded-For: 192.0.2.{guess}\r\nForwarded: for=192.0.2.{guess}\r\n");
        let name = format!("name{guess}");
        let answer = log_in_with(&server, address(2), &head, &name, "a wrong password").await;
        assert_eq!(answer.status, 401);
    }
    for guess in 6..9 {
        let head = format!("X-Forwarded-For: 192.0.2.{guess}\r\nX-Real-IP: 192.0.2.{guess}\r\n");
        let name = format!("name{guess}");
        assert_limited(&log_in_with(&server, address(2), &head, &name, PASSWORD).await);
    }
    assert_eq!(log_in(&server, address(3), "name", PASSWORD).await.status, 401);
}

#[tokio::test]
async fn a_refresh_token_that_comes_back_ends_its_session_everywhere() {
    let server = TestServer::start().await;
    let first = server.session("ada").await;
    let other = server.session("ada").await;
    let refresh = async |token: &str| {
        let grant = json!({ "grant_type": "refresh_token", "refresh_token": token });
        post(address(1), server.address(), "/v1/token", "", &grant).await
    };
    let traded = refresh(&first.refresh_token).await;
    assert_eq!(traded.status, 200);
    let mut live =
        crate::harness::Peer::with_token(&server, traded.body["access_token"].as_str().unwrap())
            .await;
    live.welcome().await;
    let replayed = refresh(&first.refresh_token).await;
    assert_eq!((replayed.status, &replayed.body["error"]), (401, &json!("invalid_grant")));
    let close = hubbub::wire::code::CloseCode::Forbidden.number();
    assert_eq!(live.rest().await, [crate::harness::Heard::Close(close)]);
    assert_eq!(refresh(traded.body["refresh_token"].as_str().unwrap()).await.status, 401);
    assert_eq!(server.auth().stats().replays.get(), 1);
    assert_eq!(refresh(&other.refresh_token).await.status, 200, "another session goes on");
}

#[tokio::test]
async fn a_password_is_8_to_1024_bytes_as_they_are_and_any_other_costs_no_hash() {
    let server = TestServer::start().await;
    let hashed = || -> u64 { server.auth().worker_stats().hash_time.buckets().iter().sum() };
    let bad = ["", "1234567", "password1", "iloveyou", "NoBody123", &"x".repeat(1025)];
    for password in bad {
        let answer = sign_up(&server, "nobody123", password).await;
        assert_eq!((answer.status, answer.name()), (400, "invalid_password"), "{password}");
    }
    for password in ["", "1234567", &"x".repeat(1025), &"x".repeat(1 << 20)] {
        let answer = log_in(&server, address(1), "nobody123", password).await;
        assert!([400, 401, 413].contains(&answer.status), "{}: {answer:?}", password.len());
    }
    let huge = sign_up(&server, "nobody123", &"x".repeat(1 << 20)).await;
    assert_eq!(huge.status, 413);
    assert_eq!(hashed(), 0);

    let good = [" leading space", "caf\u{e9} au lait", "cafe\u{301} au lait", &"y".repeat(1024)];
    for (number, password) in good.iter().enumerate() {
        let name = format!("user{number}");
        assert_eq!(sign_up(&server, &name, password).await.status, 201, "{password}");
        assert_eq!(log_in(&server, address(1), &name, password).await.status, 200, "{password}");
    }
    for (name, other) in [("user0", good[0].trim()), ("user1", good[2]), ("user2", good[1])] {
        assert_eq!(log_in(&server, address(1), name, other).await.status, 401, "{name}");
    }
}

#[tokio::test]
async fn a_stored_hash_that_asks_for_gigabytes_is_an_error_for_its_user_alone() {
    let server = TestServer::start().await;
    server.session("ada").await;
    server.session("bob").await;
    let store = Connection::open(server.data_dir().join("accounts.db")).unwrap();
    let salt_and_hash = "c29tZXNhbHRzb21lc2FsdA$K0ApyjrNNsnJd7gNjUnYPsSKx+k0NKIuvmR9MW3xcYA";
    for cost in ["m=4194304,t=2,p=1", "m=65536,t=4294967295,p=1", "m=65536,t=1,p=16777215"] {
        let hash = format!("$argon2id$v=19${cost}${salt_and_hash}");
        store
            .execute("UPDATE accounts SET password_hash = ?1 WHERE username = 'ada'", [hash])
            .unwrap();
        let answer = log_in(&server, address(1), "ada", PASSWORD).await;
        assert_eq!((answer.status, answer.name()), (500, "internal"), "{cost}");
        assert_eq!(log_in(&server, address(1), "bob", PASSWORD).await.status, 200);
    }
    let held = server.auth().worker_stats().memory_bytes.get();
    assert!(held < 1 << 20, "{held}");
    assert!(server.auth().me(&server.session("bob").await.access_token, now_s()).await.is_ok());
}
