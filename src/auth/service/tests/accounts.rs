//! Accounts: who gets in, who makes one, and what the operator and the user do to it.

use super::*;

const NEW_PASSWORD: &str = "battery staple";

async fn register(
    service: &Service,
    name: &str,
    invite: Option<&str>,
) -> Result<(), RegisterError> {
    let invite = invite.map(str::to_owned);
    service.register(name, PASSWORD.to_owned(), invite, HERE, NOW_S).await.map(drop)
}

async fn locked_out(service: &Service, username: &str, password: &str) {
    let refused = service.log_in(username, password.to_owned(), HERE, NOW_S).await;
    assert!(matches!(refused, Err(LogInError::InvalidCredentials)), "{username}: {refused:?}");
}

#[tokio::test]
async fn who_registered_can_log_in_and_the_token_says_who() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::open(settings(), dir.path());
    let account = service.register("Anna", PASSWORD.to_owned(), None, HERE, NOW_S).await.unwrap();
    let issued = service.log_in("ANNA", PASSWORD.to_owned(), HERE, NOW_S).await.unwrap();
    let claims = service.claims(&issued, NOW_S);
    assert_eq!(claims.sub, account.subject);
    assert_eq!(claims.name, "anna");
    let profile = service.me(&issued.access_token, NOW_S).await.unwrap();
    assert_eq!(profile, Profile { account, created_at_s: NOW_S, sessions: 1 });
    assert!(!format!("{issued:?}").contains(&issued.access_token));
}

#[tokio::test]
async fn whatever_is_wrong_with_credentials_is_one_error() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(settings(), dir.path()).await;
    for name in ["disabled", "deleted"] {
        register(&service, name, None).await.unwrap();
    }
    service.set_disabled("disabled", true, NOW_S).await.unwrap();
    service.delete("deleted", NOW_S).await.unwrap();
    for (username, password) in [
        ("anna", "wrong horse!"),
        ("bert", PASSWORD),
        ("no such form", PASSWORD),
        ("", PASSWORD),
        ("anna", "short"),
        ("disabled", PASSWORD),
        ("disabled", "wrong horse!"),
        ("deleted", PASSWORD),
    ] {
        locked_out(&service, username, password).await;
    }
    assert_eq!(service.stats().logins_refused.get(), 8);
}

#[tokio::test]
async fn what_is_read_for_a_name_that_nobody_has_is_nobodys() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::open(settings(), dir.path());
    let find = async |name: &str| {
        let found = service.store.find(Username::parse(name).ok(), address_of(HERE)).await;
        found.unwrap().is_some()
    };
    assert!(!find("anna").await, "there is nobody at all");
    service.register("anna", PASSWORD.to_owned(), None, HERE, NOW_S).await.unwrap();
    register(&service, "bert", None).await.unwrap();
    for gone in [false, true] {
        assert_eq!(find("anna").await, !gone);
        assert!(find("bert").await && find("BERT").await);
        for name in ["carl", "no name", ""] {
            assert!(!find(name).await, "{name}");
            locked_out(&service, name, PASSWORD).await;
        }
        if !gone {
            service.delete("anna", NOW_S).await.unwrap();
        }
    }
    locked_out(&service, "anna", PASSWORD).await;
}

#[tokio::test]
async fn a_name_is_given_once_whatever_its_case_and_never_again() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(settings(), dir.path()).await;
    assert!(matches!(register(&service, "ANNA", None).await, Err(RegisterError::Taken)));
    service.delete("anna", NOW_S).await.unwrap();
    assert!(matches!(register(&service, "Anna", None).await, Err(RegisterError::Taken)));
    let again = service.register_by_operator("anna", PASSWORD.to_owned(), NOW_S).await;
    assert!(matches!(again, Err(RegisterError::Taken)), "{again:?}");
}

#[tokio::test]
async fn of_many_who_want_one_name_at_once_one_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) =
        (Service::open(settings(), dir.path()), Service::open(settings(), dir.path()));
    let (a, b, c, d) = tokio::join!(
        register(&first, "anna", None),
        register(&second, "anna", None),
        register(&first, "anna", None),
        register(&second, "anna", None),
    );
    let made = [a, b, c, d].into_iter().filter(Result::is_ok).count();
    assert_eq!(made, 1);
}

#[tokio::test]
async fn disabling_ends_everything_and_enabling_gives_the_login_back() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(settings(), dir.path()).await;
    let tokens = service.anna(NOW_S).await;
    let subject = service.claims(&tokens, NOW_S).sub;
    let log = Log::read();
    service.set_disabled("Anna", true, NOW_S).await.unwrap();
    assert_eq!(service.revoked().await, [Revoked::User { subject, generation: 2 }]);
    assert!(matches!(service.me(&tokens.access_token, NOW_S).await, Err(MeError::Forbidden)));
    let refreshed = service.refresh(&tokens.refresh_token, HERE, NOW_S).await;
    assert!(matches!(refreshed, Err(RefreshError::InvalidGrant)), "{refreshed:?}");
    let changed = service
        .change_password(
            &tokens.access_token,
            PASSWORD.to_owned(),
            NEW_PASSWORD.to_owned(),
            HERE,
            NOW_S,
        )
        .await;
    assert!(matches!(changed, Err(ChangePasswordError::Forbidden)), "{changed:?}");
    locked_out(&service, "anna", PASSWORD).await;

    service.set_disabled("anna", false, NOW_S).await.unwrap();
    let tokens = service.anna(NOW_S).await;
    assert_eq!(service.claims(&tokens, NOW_S).generation, Some(2));
    assert_eq!((log.audited("user disabled"), log.audited("user enabled")), (1, 1));
}

#[tokio::test]
async fn logging_a_user_out_ends_its_sessions_and_no_other_users() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(settings(), dir.path()).await;
    register(&service, "bert", None).await.unwrap();
    let (one, two) = (service.anna(NOW_S).await, service.anna(NOW_S).await);
    let other = service.log_in("bert", PASSWORD.to_owned(), HERE, NOW_S).await.unwrap();
    service.log_out("anna", NOW_S).await.unwrap();
    for tokens in [one, two] {
        assert!(service.refresh(&tokens.refresh_token, HERE, NOW_S).await.is_err());
    }
    service.refresh(&other.refresh_token, HERE, NOW_S).await.unwrap();
    service.anna(NOW_S).await;
}

#[tokio::test]
async fn a_deleted_user_leaves_a_tombstone_without_a_password() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(settings(), dir.path()).await;
    let tokens = service.anna(NOW_S).await;
    service.delete("anna", NOW_S).await.unwrap();
    assert!(matches!(service.me(&tokens.access_token, NOW_S).await, Err(MeError::Forbidden)));
    for result in [
        service.delete("anna", NOW_S).await,
        service.set_disabled("anna", false, NOW_S).await,
        service.log_out("anna", NOW_S).await,
        service.log_out("no such form", NOW_S).await,
    ] {
        assert!(matches!(result, Err(AdministerError::UnknownUser)), "{result:?}");
    }
    let path = dir.path().join(crate::auth::store::FILE_NAME);
    let store = rusqlite::Connection::open(path).unwrap();
    let left: (String, u32, u32) = store
        .query_row(
            "SELECT password_hash, (SELECT count(*) FROM sessions),
                    (SELECT count(*) FROM known_addresses)
             FROM accounts WHERE username = 'anna'",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .unwrap();
    assert_eq!(left, (String::new(), 0, 0));
}

#[tokio::test]
async fn a_new_password_ends_all_sessions_and_begins_one() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(settings(), dir.path()).await;
    let (mine, thiefs) = (service.anna(NOW_S).await, service.anna(NOW_S).await);
    let change = |token: &str, current: &str, now_s| {
        let (token, current) = (token.to_owned(), current.to_owned());
        let auth = &service.auth;
        async move { auth.change_password(&token, current, NEW_PASSWORD.to_owned(), HERE, now_s).await }
    };
    let wrong = change(&mine.access_token, "wrong horse!", NOW_S).await;
    assert!(matches!(wrong, Err(ChangePasswordError::InvalidCredentials)), "{wrong:?}");
    let late = change(&mine.access_token, PASSWORD, NOW_S + 900).await;
    assert!(matches!(late, Err(ChangePasswordError::Token(_))), "{late:?}");

    let log = Log::read();
    let new = change(&mine.access_token, PASSWORD, NOW_S).await.unwrap();
    for tokens in [&mine, &thiefs] {
        assert!(service.refresh(&tokens.refresh_token, HERE, NOW_S).await.is_err());
        let again = change(&tokens.access_token, NEW_PASSWORD, NOW_S).await;
        assert!(matches!(again, Err(ChangePasswordError::Forbidden)), "{again:?}");
    }
    assert_eq!(service.claims(&new, NOW_S).generation, Some(2));
    service.refresh(&new.refresh_token, HERE, NOW_S).await.unwrap();
    locked_out(&service, "anna", PASSWORD).await;
    service.log_in("anna", NEW_PASSWORD.to_owned(), HERE, NOW_S).await.unwrap();
    assert_eq!(log.audited("password changed"), 1);
    assert!(!log.text().contains(NEW_PASSWORD));
}

#[tokio::test]
async fn of_two_new_passwords_at_once_one_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let first = Service::with_anna(settings(), dir.path()).await;
    let second = Service::open(settings(), dir.path());
    let (one, two) = (first.anna(NOW_S).await, first.anna(NOW_S).await);
    let change = async |service: &Service, token: &str, new: &str| {
        let (current, new) = (PASSWORD.to_owned(), new.to_owned());
        service.change_password(token, current, new, HERE, NOW_S).await
    };
    let (one, two) = tokio::join!(
        change(&first, &one.access_token, "the first new one"),
        change(&second, &two.access_token, "the second new one"),
    );
    assert_eq!(u32::from(one.is_ok()) + u32::from(two.is_ok()), 1, "{one:?} {two:?}");
}

#[tokio::test]
async fn a_session_does_not_begin_on_a_password_that_was_replaced_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(settings(), dir.path()).await;
    let found = service.store.find(Username::parse("anna").ok(), "here".to_owned()).await;
    let found = found.unwrap().unwrap();
    let tokens = service.anna(NOW_S).await;
    service
        .change_password(
            &tokens.access_token,
            PASSWORD.to_owned(),
            NEW_PASSWORD.to_owned(),
            HERE,
            NOW_S,
        )
        .await
        .unwrap();
    let new = NewSession {
        account: found.id,
        password_number: found.password_number,
        address: "here".to_owned(),
    };
    let begun = service.store.begin_session(new, service.rules(), NOW_S).await.unwrap();
    assert!(begun.is_none());
}

#[tokio::test]
async fn a_session_does_not_begin_for_a_user_who_was_disabled_or_deleted_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(settings(), dir.path()).await;
    let found = service.store.find(Username::parse("anna").ok(), "here".to_owned()).await;
    let found = found.unwrap().unwrap();
    let begin = async || {
        let new = NewSession {
            account: found.id,
            password_number: found.password_number,
            address: "here".to_owned(),
        };
        service.store.begin_session(new, service.rules(), NOW_S).await.unwrap()
    };
    assert!(begin().await.is_some());
    service.set_disabled("anna", true, NOW_S).await.unwrap();
    assert!(begin().await.is_none());
    service.set_disabled("anna", false, NOW_S).await.unwrap();
    assert!(begin().await.is_some());
    service.delete("anna", NOW_S).await.unwrap();
    assert!(begin().await.is_none());
}

#[tokio::test]
async fn an_invite_is_good_for_exactly_so_many_accounts_whoever_is_first() {
    let dir = tempfile::tempdir().unwrap();
    let by_invite = Settings { registration: Registration::Invite, ..settings() };
    let first = Service::open(by_invite.clone(), dir.path());
    let second = Service::open(by_invite, dir.path());
    let log = Log::read();
    let invite = first.invite(3, Duration::from_secs(60), NOW_S).await.unwrap();
    let code = invite.code.as_str();
    assert_eq!((code.len(), &code[..4], invite.expires_at_s), (20, "hbi_", NOW_S + 60));
    let names: Vec<String> = (0..8).map(|number| format!("user-{number}")).collect();
    let tries = names.iter().enumerate().map(|(number, name)| {
        register(if number % 2 == 0 { &first } else { &second }, name, Some(code))
    });
    let results = futures_util::future::join_all(tries).await;
    let made = results.iter().filter(|result| result.is_ok()).count();
    let spent =
        results.iter().filter(|result| matches!(result, Err(RegisterError::InvalidInvite))).count();
    assert_eq!((made, spent), (3, 5));
    assert_eq!(log.audited("invite made"), 1);
    assert!(!log.text().contains(code));
}

#[tokio::test]
async fn a_registration_that_fails_uses_no_invite_up() {
    let dir = tempfile::tempdir().unwrap();
    let by_invite = Settings { registration: Registration::Invite, ..settings() };
    let service = Service::open(by_invite, dir.path());
    let invite = service.invite(1, Duration::from_secs(60), NOW_S).await.unwrap();
    let code = Some(invite.code.as_str());
    service.register_by_operator("anna", PASSWORD.to_owned(), NOW_S).await.unwrap();
    assert!(matches!(register(&service, "anna", code).await, Err(RegisterError::Taken)));
    assert!(matches!(register(&service, "", code).await, Err(RegisterError::Username(_))));
    // What the transaction itself refuses takes the use back with it.
    let new = NewAccount {
        username: Username::parse("anna").unwrap(),
        password_hash: "$hash".to_owned(),
        invite: Some(invite.code.clone()),
        address: None,
    };
    let created = service.store.create_account(new, NOW_S).await.unwrap();
    assert_eq!(created, Creation::Taken);
    register(&service, "bert", code).await.unwrap();
    assert!(matches!(register(&service, "carl", code).await, Err(RegisterError::InvalidInvite)));
}

#[tokio::test]
async fn without_a_good_invite_nobody_learns_which_names_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let by_invite = Settings { registration: Registration::Invite, ..settings() };
    let mut service = Service::open(by_invite, dir.path());
    service.register_by_operator("anna", PASSWORD.to_owned(), NOW_S).await.unwrap();
    let invite = service.invite(1, Duration::from_secs(60), NOW_S).await.unwrap();
    let code = invite.code;
    for name in ["anna", "bert"] {
        for code in [None, Some(""), Some("hbi_aaaaaaaaaaaaaaaa"), Some(&code[..19])] {
            let refused = register(&service, name, code).await;
            assert!(matches!(refused, Err(RegisterError::InvalidInvite)), "{refused:?}");
        }
        let late =
            service.register(name, PASSWORD.to_owned(), Some(code.clone()), HERE, NOW_S + 60).await;
        assert!(matches!(late, Err(RegisterError::InvalidInvite)), "{late:?}");
    }
    service.housekeeping.tick(NOW_S + 60).unwrap();
    assert!(matches!(
        register(&service, "bert", Some(&code)).await,
        Err(RegisterError::InvalidInvite)
    ));
}

#[tokio::test]
async fn where_registration_is_closed_only_the_operator_makes_accounts() {
    let dir = tempfile::tempdir().unwrap();
    let closed = Settings { registration: Registration::Closed, ..settings() };
    let service = Service::open(closed, dir.path());
    let invite = service.invite(1, Duration::from_secs(60), NOW_S).await.unwrap();
    let refused = register(&service, "anna", Some(&invite.code)).await;
    assert!(matches!(refused, Err(RegisterError::Closed)), "{refused:?}");
    service.register_by_operator("anna", PASSWORD.to_owned(), NOW_S).await.unwrap();
    service.anna(NOW_S).await;
}

#[tokio::test]
async fn a_user_is_known_from_the_last_few_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(settings(), dir.path()).await;
    let known = limits::KNOWN_ADDRESSES_PER_ACCOUNT_MAX;
    let address = |number: u32| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number));
    for number in 0..=known {
        let now_s = NOW_S + u64::from(number);
        service.log_in("anna", PASSWORD.to_owned(), address(number), now_s).await.unwrap();
    }
    let find = async |from: IpAddr| {
        let found = service.store.find(Username::parse("anna").ok(), address_of(from)).await;
        found.unwrap().unwrap().known_here
    };
    assert!(!find(address(0)).await && !find(HERE).await);
    for number in 1..=known {
        assert!(find(address(number)).await, "{number}");
    }
}

#[test]
fn what_counts_as_one_address_is_an_ipv4_address_or_half_an_ipv6_one() {
    for (from, address) in [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
    ] {
        assert_eq!(address_of(from.parse().unwrap()), address);
    }
}

#[tokio::test]
async fn a_replay_is_audited_without_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(settings(), dir.path()).await;
    let tokens = service.anna(NOW_S).await;
    let log = Log::read();
    let next = service.refresh(&tokens.refresh_token, HERE, NOW_S).await.unwrap();
    assert!(service.refresh(&tokens.refresh_token, HERE, NOW_S).await.is_err());
    assert_eq!(log.audited("replayed"), 1);
    for secret in [tokens.refresh_token, next.refresh_token, next.access_token] {
        assert!(!log.text().contains(&secret[..60]));
    }
}

#[tokio::test]
async fn a_common_password_or_the_user_name_is_refused_where_a_password_is_set() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(settings(), dir.path()).await;
    let tokens = service.anna(NOW_S).await;
    for password in ["password1", "anna-the-first", "short"] {
        let password = password.to_owned();
        let name = "anna-the-first";
        let registered = service.register(name, password.clone(), None, HERE, NOW_S).await;
        assert!(matches!(registered, Err(RegisterError::Password(_))), "{registered:?}");
        let by_operator = service.register_by_operator(name, password, NOW_S).await;
        assert!(matches!(by_operator, Err(RegisterError::Password(_))), "{by_operator:?}");
    }
    let (current, new) = (PASSWORD.to_owned(), "password1".to_owned());
    let changed = service.change_password(&tokens.access_token, current, new, HERE, NOW_S).await;
    assert!(matches!(changed, Err(ChangePasswordError::Password(_))), "{changed:?}");
}

#[tokio::test]
async fn a_login_brings_an_outdated_hash_to_the_cost_of_today_and_ends_no_session() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::with_anna(settings(), dir.path()).await;
    let before = service.anna(NOW_S).await;
    drop(service);
    let cost = Cost { memory: ByteSize::kib(128), passes: 1, lanes: 1 };
    let service = Service::open(Settings { cost, ..settings() }, dir.path());
    let stored = async || {
        let found = service.store.find(Username::parse("anna").ok(), String::new()).await;
        found.unwrap().unwrap().password_hash
    };
    assert!(stored().await.contains("m=64,"));
    service.anna(NOW_S).await;
    // The hash is made in the background, by a worker that has nothing else to do.
    let upgraded = tokio::time::timeout(Duration::from_secs(30), async {
        while !stored().await.contains("m=128,") {
            tokio::task::yield_now().await;
        }
    });
    upgraded.await.unwrap();
    service.anna(NOW_S).await;
    service.refresh(&before.refresh_token, HERE, NOW_S).await.unwrap();
}
