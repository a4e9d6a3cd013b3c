//! Sessions: they begin, go on, and end, whoever ends them.

use super::*;

async fn refused(service: &Service, token: &str, now_s: u64) {
    let refreshed = service.refresh(token, HERE, now_s).await;
    assert!(matches!(refreshed, Err(RefreshError::InvalidGrant)), "{refreshed:?}");
}

#[tokio::test]
async fn a_session_goes_on_under_one_id_with_new_tokens_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(settings(), dir.path()).await;
    let first = service.anna(NOW_S).await;
    let second = service.refresh(&first.refresh_token, HERE, NOW_S + 1).await.unwrap();
    let third = service.refresh(&second.refresh_token, HERE, NOW_S + 2).await.unwrap();
    assert_ne!(first.refresh_token, second.refresh_token);
    assert_ne!(first.access_token, second.access_token);
    let (old, new) = (service.claims(&first, NOW_S), service.claims(&third, NOW_S + 2));
    assert_eq!((old.sid, old.generation), (new.sid.clone(), Some(1)));
    assert!(new.sid.is_some());
    assert_eq!(service.me(&third.access_token, NOW_S + 2).await.unwrap().sessions, 1);
    assert_eq!(service.stats().refreshes.get(), 2);
    assert_eq!(service.revoked().await, []);
}

#[tokio::test]
async fn a_replayed_refresh_token_ends_its_session_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(settings(), dir.path()).await;
    let (stolen, other) = (service.anna(NOW_S).await, service.anna(NOW_S).await);
    let next = service.refresh(&stolen.refresh_token, HERE, NOW_S).await.unwrap();
    refused(&service, &stolen.refresh_token, NOW_S).await;
    refused(&service, &next.refresh_token, NOW_S).await;
    let me = service.me(&next.access_token, NOW_S).await;
    assert!(matches!(me, Err(MeError::Forbidden)), "{me:?}");
    assert_eq!(service.revoked().await, [session(service.claims(&stolen, NOW_S).sid)]);
    assert_eq!(service.stats().replays.get(), 1);
    service.refresh(&other.refresh_token, HERE, NOW_S).await.unwrap();
}

#[tokio::test]
async fn a_forged_refresh_token_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(settings(), dir.path()).await;
    let tokens = service.anna(NOW_S).await;
    // The session is right: its id is in every access token. Secret and tag are made up.
    let (head, tail) = tokens.refresh_token.split_at(60);
    let forged = format!("{head}{}", tail.chars().rev().collect::<String>());
    for token in ["", "hbr_", "token", &forged, &tokens.access_token, &"x".repeat(100_000)] {
        refused(&service, token, NOW_S).await;
        service.revoke(token, HERE, NOW_S + 3_600).await.unwrap();
    }
    assert_eq!(service.revoked().await, []);
    service.refresh(&tokens.refresh_token, HERE, NOW_S).await.unwrap();
}

#[tokio::test]
async fn of_two_processes_that_trade_one_token_exactly_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let first = Service::with_anna(settings(), dir.path()).await;
    let second = Service::open(settings(), dir.path());
    for _ in 0..20 {
        let tokens = first.anna(NOW_S).await;
        let (one, other) = tokio::join!(
            first.refresh(&tokens.refresh_token, HERE, NOW_S),
            second.refresh(&tokens.refresh_token, HERE, NOW_S),
        );
        let won = match (one, other) {
            (Ok(won), Err(RefreshError::InvalidGrant))
            | (Err(RefreshError::InvalidGrant), Ok(won)) => won,
            both => panic!("{both:?}"),
        };
        // The other one was a replay, so what was won is worth nothing any more.
        refused(&first, &won.refresh_token, NOW_S).await;
    }
    assert_eq!(first.stats().replays.get() + second.stats().replays.get(), 20);
    assert_eq!(first.revoked().await.len(), 20);
    assert_eq!(first.revoked().await, second.revoked().await);
}

#[tokio::test]
async fn processes_on_one_store_are_one_service() {
    let dir = tempfile::tempdir().unwrap();
    let first = Service::with_anna(settings(), dir.path()).await;
    let second = Service::open(settings(), dir.path());
    let tokens = first.anna(NOW_S).await;
    let tokens = second.refresh(&tokens.refresh_token, HERE, NOW_S).await.unwrap();
    assert_eq!(second.me(&tokens.access_token, NOW_S).await.unwrap().sessions, 1);
    let tokens = first.refresh(&tokens.refresh_token, HERE, NOW_S).await.unwrap();
    second.revoke(&tokens.refresh_token, HERE, NOW_S).await.unwrap();
    refused(&first, &tokens.refresh_token, NOW_S).await;
    assert!(matches!(first.me(&tokens.access_token, NOW_S).await, Err(MeError::Forbidden)));
}

#[tokio::test]
async fn any_token_of_a_session_logs_it_out() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(settings(), dir.path()).await;
    for which in 0..3 {
        let first = service.anna(NOW_S).await;
        let second = service.refresh(&first.refresh_token, HERE, NOW_S).await.unwrap();
        let tokens = [&first.refresh_token, &second.refresh_token, &first.access_token];
        service.revoke(tokens[which], HERE, NOW_S).await.unwrap();
        refused(&service, &second.refresh_token, NOW_S).await;
        let revoked = service.revoked().await;
        assert_eq!(revoked.last(), Some(&session(service.claims(&first, NOW_S).sid)));
    }
    assert_eq!(service.stats().logouts.get(), 3);
    assert_eq!(service.stats().replays.get(), 0);
}

#[tokio::test]
async fn a_session_that_rests_too_long_is_over_and_its_row_goes() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = Service::with_anna(settings(), dir.path()).await;
    let rest_s = settings().refresh_token_lifetime.as_secs();
    let tokens = service.anna(NOW_S).await;
    // The time counts from the last use.
    let used_s = NOW_S + rest_s - 1;
    let tokens = service.refresh(&tokens.refresh_token, HERE, used_s).await.unwrap();
    service.housekeeping.tick(used_s + rest_s - 1).unwrap();
    assert_eq!(service.stats().sessions.get(), 1);
    refused(&service, &tokens.refresh_token, used_s + rest_s).await;
    service.housekeeping.ticks = 0;
    service.housekeeping.tick(used_s + rest_s).unwrap();
    assert_eq!(service.stats().sessions.get(), 0);
    // Its access tokens have run out before: hubs need not be told.
    assert_eq!(service.revoked().await, []);
}

#[tokio::test]
async fn beyond_the_bound_the_session_that_rested_longest_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { sessions_per_user_max: 2, ..settings() };
    let service = Service::with_anna(settings, dir.path()).await;
    let first = service.anna(NOW_S).await;
    let second = service.anna(NOW_S + 1).await;
    let first = service.refresh(&first.refresh_token, HERE, NOW_S + 2).await.unwrap();
    let third = service.anna(NOW_S + 3).await;
    refused(&service, &second.refresh_token, NOW_S + 3).await;
    assert_eq!(service.revoked().await, [session(service.claims(&second, NOW_S + 3).sid)]);
    service.refresh(&first.refresh_token, HERE, NOW_S + 3).await.unwrap();
    service.refresh(&third.refresh_token, HERE, NOW_S + 3).await.unwrap();
}

#[tokio::test]
async fn sessions_outlive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(settings(), dir.path()).await;
    let tokens = service.anna(NOW_S).await;
    drop(service);
    let service = Service::open(settings(), dir.path());
    assert!(service.verifier().verify(&tokens.access_token, NOW_S).is_ok());
    service.refresh(&tokens.refresh_token, HERE, NOW_S).await.unwrap();
}

#[tokio::test]
async fn the_feed_is_read_from_a_number_and_entries_leave_it_when_nobody_needs_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = Service::with_anna(settings(), dir.path()).await;
    assert_eq!(service.revocations(0).await.unwrap(), revocation::Page::default());
    for _ in 0..3 {
        let tokens = service.anna(NOW_S).await;
        service.revoke(&tokens.refresh_token, HERE, NOW_S).await.unwrap();
    }
    let page = service.revocations(1).await.unwrap();
    assert_eq!(page.last, 3);
    let numbers: Vec<u64> = page.revocations.iter().map(|entry| entry.number).collect();
    assert_eq!(numbers, [2, 3]);
    // Who knows more than there is knows another feed.
    assert_eq!(service.revocations(9).await.unwrap().revocations.len(), 3);

    let lifetime_s = settings().access_token_lifetime.as_secs();
    let needed_s = NOW_S + lifetime_s + limits::TOKEN_LEEWAY.as_secs();
    service.housekeeping.tick(needed_s).unwrap();
    assert_eq!(service.revoked().await.len(), 3);
    service.housekeeping.tick(needed_s + 1).unwrap();
    assert_eq!(service.revocations(0).await.unwrap().revocations, []);
    // Numbers are never used twice.
    let tokens = service.anna(needed_s).await;
    service.revoke(&tokens.refresh_token, HERE, needed_s).await.unwrap();
    assert_eq!(service.revocations(3).await.unwrap().revocations[0].number, 4);
}

#[tokio::test]
async fn the_feed_keeps_what_a_token_of_a_longer_lived_process_needs() {
    let dir = tempfile::tempdir().unwrap();
    let hour = Duration::from_secs(3_600);
    let long_lived = Settings { access_token_lifetime: hour, ..settings() };
    let longer = Service::with_anna(long_lived, dir.path()).await;
    let tokens = longer.anna(NOW_S).await;
    let mut shorter = Service::open(settings(), dir.path());
    shorter.revoke(&tokens.refresh_token, HERE, NOW_S).await.unwrap();
    shorter.housekeeping.tick(NOW_S + hour.as_secs()).unwrap();
    assert_eq!(shorter.revoked().await.len(), 1);
}

#[tokio::test]
async fn what_ran_out_is_dropped_in_steps() {
    let dir = tempfile::tempdir().unwrap();
    let count = limits::HOUSEKEEPING_STEP_ROWS + 1;
    let settings = Settings { sessions_per_user_max: count, ..settings() };
    let rest_s = settings.refresh_token_lifetime.as_secs();
    let mut service = Service::with_anna(settings, dir.path()).await;
    let found = service.store.find(Username::parse("anna").ok(), String::new()).await;
    let account = found.unwrap().unwrap().id;
    for _ in 0..count {
        let new = NewSession { account, password_number: 1, address: String::new() };
        service.store.begin_session(new, service.rules(), NOW_S).await.unwrap().unwrap();
    }
    for left in [1, 0] {
        service.housekeeping.ticks = 0;
        service.housekeeping.tick(NOW_S + rest_s).unwrap();
        assert_eq!(service.stats().sessions.get(), left);
    }
}
