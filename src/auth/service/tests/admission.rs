//! Abuse case 40: one user name from many addresses, many from one, and locking somebody out.

use super::*;

const FAR: Duration = Duration::from_secs(24 * 3_600);

/// Tries that do not come back while a test runs.
fn strict() -> Settings {
    Settings {
        attempts_per_address_burst: 20,
        attempts_per_address_per_second: 1.0 / FAR.as_secs_f64(),
        attempts_per_account_burst: 3,
        attempts_per_account_per_minute: 60.0 / FAR.as_secs_f64(),
        ..settings()
    }
}

fn stranger(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0xc000_0200 + number))
}

/// What a login is answered: whether it is let in, or why not.
async fn answer(service: &Service, name: &str, password: &str, from: IpAddr) -> &'static str {
    match service.log_in(name, password.to_owned(), from, NOW_S).await {
        Ok(_) => "in",
        Err(LogInError::InvalidCredentials) => "wrong",
        Err(LogInError::RateLimited(TooMany { retry_after })) => {
            assert!(retry_after > FAR / 2 && retry_after <= FAR, "{retry_after:?}");
            "later"
        }
        Err(error) => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn guesses_from_many_addresses_count_together_and_do_not_lock_the_user_out() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(strict(), dir.path()).await;
    for number in 0..3 {
        assert_eq!(answer(&service, "anna", "wrong horse!", stranger(number)).await, "wrong");
    }
    for number in 3..10 {
        // Even the right one: a guess that would be told from the others is a guess.
        assert_eq!(answer(&service, "anna", PASSWORD, stranger(number)).await, "later");
    }
    assert_eq!(answer(&service, "anna", PASSWORD, HERE).await, "in");
    assert_eq!(service.stats().limited_by_account.get(), 7);
}

#[tokio::test]
async fn a_name_that_nobody_has_is_limited_as_one_that_somebody_has() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(strict(), dir.path()).await;
    for name in ["anna", "nobody", "no such form"] {
        let mut answers = Vec::new();
        for number in 0..5 {
            answers.push(answer(&service, name, "wrong horse!", stranger(number)).await);
        }
        assert_eq!(answers, ["wrong", "wrong", "wrong", "later", "later"], "{name}");
    }
}

#[tokio::test]
async fn a_known_address_has_tries_of_its_own_and_no_more_than_others() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(strict(), dir.path()).await;
    for _ in 0..3 {
        assert_eq!(answer(&service, "anna", "wrong horse!", HERE).await, "wrong");
    }
    assert_eq!(answer(&service, "anna", PASSWORD, HERE).await, "later");
    // The user's own mistakes are not the strangers' either.
    assert_eq!(answer(&service, "anna", PASSWORD, stranger(1)).await, "in");
}

#[tokio::test]
async fn right_passwords_use_up_nothing_of_the_user_name() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(strict(), dir.path()).await;
    for number in 0..6 {
        assert_eq!(answer(&service, "anna", PASSWORD, stranger(number)).await, "in");
        assert_eq!(answer(&service, "anna", PASSWORD, HERE).await, "in");
    }
}

#[tokio::test]
async fn one_address_has_so_many_tries_whatever_they_are_for() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(strict(), dir.path()).await;
    let tokens = service.anna(NOW_S).await;
    // Two were used: the account and the session.
    for number in 2..20 {
        let name = format!("user-{number}");
        assert_eq!(answer(&service, &name, PASSWORD, HERE).await, "wrong");
    }
    assert_eq!(answer(&service, "anna", PASSWORD, HERE).await, "later");
    let new = "battery staple".to_owned();
    let registered = service.register("bert", new.clone(), None, HERE, NOW_S).await;
    assert!(matches!(registered, Err(RegisterError::RateLimited(_))), "{registered:?}");
    let access = &tokens.access_token;
    let changed =
        service.change_password(access, PASSWORD.to_owned(), new.clone(), HERE, NOW_S).await;
    assert!(matches!(changed, Err(ChangePasswordError::RateLimited(_))), "{changed:?}");
    // Refresh tokens cost no hash and have tries of their own; the operator has no address.
    service.refresh(&tokens.refresh_token, HERE, NOW_S).await.unwrap();
    service.register_by_operator("bert", new, NOW_S).await.unwrap();
    assert_eq!(answer(&service, "anna", PASSWORD, stranger(1)).await, "in");
    assert_eq!(service.stats().limited_by_address.get(), 3);
}

#[tokio::test]
async fn who_holds_a_token_may_not_guess_the_password_either() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(strict(), dir.path()).await;
    let tokens = service.anna(NOW_S).await;
    let mut answers = Vec::new();
    for number in 0..4 {
        let (current, new) = ("wrong horse!".to_owned(), "battery staple".to_owned());
        let from = stranger(number);
        let access = &tokens.access_token;
        answers.push(match service.change_password(access, current, new, from, NOW_S).await {
            Err(ChangePasswordError::InvalidCredentials) => "wrong",
            Err(ChangePasswordError::RateLimited(_)) => "later",
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(answers, ["wrong", "wrong", "wrong", "later"]);
    assert_eq!(answer(&service, "anna", PASSWORD, HERE).await, "in");
}

#[tokio::test]
async fn refresh_tokens_from_one_address_are_limited() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::open(settings(), dir.path());
    let mut limited = false;
    // Some come back while the test runs.
    for _ in 0..10 * limits::REFRESHES_PER_ADDRESS_BURST {
        limited |=
            matches!(service.refresh("hbr_", HERE, NOW_S).await, Err(RefreshError::RateLimited(_)));
    }
    assert!(limited);
    // To revoke them is to ask the store too. Some come back, as above.
    let mut revocation_limited = false;
    for _ in 0..10 * limits::REFRESHES_PER_ADDRESS_BURST {
        revocation_limited |=
            matches!(service.revoke("hbr_", HERE, NOW_S).await, Err(RevokeError::RateLimited(_)));
    }
    assert!(revocation_limited);
    service.revoke("hbr_", stranger(2), NOW_S).await.unwrap();
    let other = service.refresh("hbr_", stranger(1), NOW_S).await;
    assert!(matches!(other, Err(RefreshError::InvalidGrant)), "{other:?}");
}

#[test]
fn rates_that_let_nothing_through_stop_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let none = Settings { attempts_per_account_burst: 0, ..settings() };
    let started = Auth::open(none, dir.path(), None, || {}, NOW_S).map(drop);
    assert!(matches!(started, Err(AuthStartError::Rate(_))));
}
