//! Keys: made, adopted, turned, retired and revoked, by this process or another one.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use super::*;
use crate::auth::{
    keyring::KeyringError,
    keys::{KeyError, TokenKey, file_name},
    store::keys::{FOLDER, KeyState, KeyStoreError},
};

/// Which key signed the token.
fn kid(token: &str) -> String {
    jsonwebtoken::decode_header(token).unwrap().kid.unwrap()
}

fn published(service: &Service) -> Vec<String> {
    service.jwks().keys.into_iter().map(|key| key.common.key_id.unwrap()).collect()
}

fn files(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir.join(FOLDER)).unwrap();
    let mut names: Vec<String> =
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn path_of(dir: &Path, key_id: &str) -> PathBuf {
    dir.join(FOLDER).join(file_name(key_id))
}

#[tokio::test]
async fn the_first_start_makes_a_private_key_and_the_next_one_finds_it() {
    let dir = tempfile::tempdir().unwrap();
    let keys = published(&Service::open(settings(), dir.path()));
    assert_eq!(published(&Service::open(settings(), dir.path())), keys);
    assert_eq!(files(dir.path()), [file_name(&keys[0])]);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.path().join(FOLDER)), 0o700);
    assert_eq!(mode(&path_of(dir.path(), &keys[0])), 0o600);
}

#[test]
fn processes_that_start_together_on_a_fresh_directory_share_one_key() {
    let dir = tempfile::tempdir().unwrap();
    let keys: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| published(&Service::open(settings(), dir.path()))))
            .collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert!(keys.iter().all(|one| one.len() == 1 && *one == keys[0]), "{keys:?}");
    assert_eq!(files(dir.path()).len(), 1);
}

#[tokio::test]
async fn the_key_of_an_earlier_version_is_adopted_and_its_tokens_stay_good() {
    let dir = tempfile::tempdir().unwrap();
    let former = dir.path().join("token-key.pem");
    let key = TokenKey::create(dir.path()).unwrap();
    fs::rename(dir.path().join(file_name(key.key_id())), &former).unwrap();
    let realm = settings().realm();
    let issuer = crate::auth::token::Issuer::new(
        key.encoding_key().unwrap(),
        key.key_id().to_owned(),
        realm,
        Duration::from_secs(60),
    );
    let service = Service::with_anna(settings(), dir.path()).await;
    let username = Username::parse("anna").unwrap();
    let account = Account { subject: "s".to_owned(), username };
    let token = issuer.issue(&account, 1, NOW_S).unwrap();
    service.verifier().verify(&token, NOW_S).unwrap();
    assert_eq!(published(&service), [key.key_id()]);
    assert_eq!(files(dir.path()), [file_name(key.key_id())]);
    assert!(!former.exists());

    // A crash between the last two steps leaves both names.
    drop(service);
    fs::hard_link(path_of(dir.path(), key.key_id()), &former).unwrap();
    let service = Service::open(settings(), dir.path());
    assert_eq!(published(&service), [key.key_id()]);
    assert!(!former.exists());

    // A key that was never ours is left alone, and unused.
    let other = TokenKey::create(dir.path()).unwrap();
    fs::rename(dir.path().join(file_name(other.key_id())), &former).unwrap();
    let service = Service::open(settings(), dir.path());
    assert_eq!(published(&service), [key.key_id()]);
    assert!(former.exists());
}

#[test]
fn a_key_that_is_damaged_or_open_to_others_stops_the_start_and_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let keys = published(&Service::open(settings(), dir.path()));
    let path = path_of(dir.path(), &keys[0]);
    let start = || Auth::open(settings(), dir.path(), None, || {}, NOW_S).map(drop);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(
        start(),
        Err(AuthStartError::Keyring(KeyringError::Store(KeyStoreError::Key(KeyError::Readable(
            _
        )))))
    ));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let another = tempfile::tempdir().unwrap();
    let another_key = TokenKey::create(another.path()).unwrap();
    let another_pem = fs::read(another.path().join(file_name(another_key.key_id()))).unwrap();
    for content in [&b"nonsense"[..], &another_pem] {
        fs::write(&path, content).unwrap();
        assert!(matches!(
            start(),
            Err(AuthStartError::Keyring(KeyringError::Store(KeyStoreError::Key(
                KeyError::Content(_)
            ))))
        ));
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

#[test]
fn a_key_folder_that_is_a_link_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::os::unix::fs::symlink(other.path(), dir.path().join(FOLDER)).unwrap();
    let started = Auth::open(settings(), dir.path(), None, || {}, NOW_S).map(drop);
    assert!(matches!(
        started,
        Err(AuthStartError::Keys(KeyStoreError::Key(KeyError::NotAFile(_))))
    ));
}

#[tokio::test]
async fn a_rotation_from_outside_is_published_then_signs_then_retires_the_old_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = Service::with_anna(settings(), dir.path()).await;
    let mut watched = service.keys();
    watched.mark_unchanged();
    let old_token = service.anna(NOW_S).await;
    let old = kid(&old_token.access_token);

    let log = Log::read();
    let mut outside = KeyStore::open(dir.path(), NOW_S).unwrap();
    let new = outside.rotate(limits::KEY_SIGNS_AFTER, NOW_S).unwrap();
    assert_eq!(log.audited("key rotated"), 1);
    service.housekeeping.tick(NOW_S).unwrap();
    assert!(watched.has_changed().unwrap());
    assert_eq!(published(&service), [old.clone(), new.clone()]);
    assert_eq!(kid(&service.anna(NOW_S).await.access_token), old);

    let signs_s = NOW_S + limits::KEY_SIGNS_AFTER.as_secs();
    service.housekeeping.tick(signs_s - 1).unwrap();
    assert_eq!(published(&service), [old.clone(), new.clone()]);
    service.housekeeping.tick(signs_s).unwrap();
    assert_eq!(published(&service), [new.clone(), old.clone()]);
    assert_eq!(kid(&service.anna(signs_s).await.access_token), new);
    service.verifier().verify(&old_token.access_token, NOW_S).unwrap();
    let listed = outside.list(signs_s).unwrap();
    let states: Vec<_> = listed.iter().map(|key| (key.key_id.as_str(), key.state)).collect();
    assert_eq!(states, [(new.as_str(), KeyState::Signing), (&old, KeyState::Former)]);

    let over_s = signs_s + settings().access_token_lifetime.as_secs() + 60;
    service.housekeeping.tick(over_s).unwrap();
    assert_eq!(published(&service).len(), 2);
    service.housekeeping.tick(over_s + 1).unwrap();
    assert_eq!(published(&service), std::slice::from_ref(&new));
    assert_eq!(files(dir.path()), [file_name(&new)]);
    assert_eq!(outside.list(over_s).unwrap().len(), 1);
}

#[tokio::test]
async fn the_schedule_turns_keys_once_however_many_processes_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let day = Duration::from_secs(86_400);
    let settings = Settings { key_rotation: day, ..settings() };
    let mut first = Service::open(settings.clone(), dir.path());
    let mut second = Service::open(settings, dir.path());
    first.housekeeping.tick(NOW_S + day.as_secs() - 1).unwrap();
    assert_eq!(published(&first).len(), 1);
    let due_s = NOW_S + day.as_secs();
    for _ in 0..3 {
        second.housekeeping.tick(due_s).unwrap();
        first.housekeeping.tick(due_s).unwrap();
    }
    assert_eq!(published(&first).len(), 2);
    assert_eq!(published(&first), published(&second));

    let never = Settings { key_rotation: Duration::ZERO, ..super::settings() };
    let mut third = Service::open(never, dir.path());
    third.housekeeping.tick(due_s + 100 * day.as_secs()).unwrap();
    assert_eq!(published(&third).len(), 1);
}

#[tokio::test]
async fn a_revoked_key_is_off_at_once_and_another_signs() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = Service::with_anna(settings(), dir.path()).await;
    let tokens = service.anna(NOW_S).await;
    let old = kid(&tokens.access_token);
    let mut outside = KeyStore::open(dir.path(), NOW_S).unwrap();
    let log = Log::read();
    let new = outside.revoke(&old, NOW_S).unwrap().unwrap();
    assert_eq!(log.audited("key revoked"), 1);
    service.housekeeping.tick(NOW_S).unwrap();
    assert_eq!(published(&service), std::slice::from_ref(&new));
    assert!(service.verifier().verify(&tokens.access_token, NOW_S).is_err());
    assert_eq!(service.revoked().await, [Revoked::Key { key: old.clone() }]);
    assert_eq!(files(dir.path()), [file_name(&new)]);
    // The session is not the key's: it goes on.
    let tokens = service.refresh(&tokens.refresh_token, HERE, NOW_S).await.unwrap();
    assert_eq!(kid(&tokens.access_token), new);

    // A hub that has the key in a file and starts years later is told.
    service.housekeeping.keys.drop_expired(NOW_S + 10 * 365 * 24 * 3_600).unwrap();
    assert_eq!(service.revoked().await, [Revoked::Key { key: old.clone() }]);

    for id in [old.as_str(), "../../etc/passwd", ""] {
        assert!(matches!(outside.revoke(id, NOW_S), Err(KeyStoreError::Unknown)));
    }
    let states: Vec<_> = outside.list(NOW_S).unwrap().iter().map(|key| key.state).collect();
    assert_eq!(states, [KeyState::Signing, KeyState::Revoked(NOW_S)]);

    // A copy of the file, such as one from a backup, is not taken up again.
    fs::write(path_of(dir.path(), &old), "a copy").unwrap();
    let again = Service::open(settings(), dir.path());
    assert_eq!(published(&again), std::slice::from_ref(&new));
    assert_eq!(files(dir.path()), [file_name(&new)]);
}

#[tokio::test]
async fn a_key_that_does_not_sign_yet_can_be_revoked_without_a_successor() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = Service::open(settings(), dir.path());
    let before = published(&service);
    let mut outside = KeyStore::open(dir.path(), NOW_S).unwrap();
    let next = outside.rotate(Duration::from_secs(60), NOW_S).unwrap();
    assert_eq!(outside.list(NOW_S).unwrap()[0].state, KeyState::Next);
    assert_eq!(outside.revoke(&next, NOW_S).unwrap(), None);
    service.housekeeping.tick(NOW_S + 60).unwrap();
    assert_eq!(published(&service), before);
}

#[tokio::test]
async fn a_file_that_cannot_be_used_does_not_hide_the_revocation_of_another_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = Service::open(settings(), dir.path());
    let stolen = published(&service).remove(0);
    let mut outside = KeyStore::open(dir.path(), NOW_S).unwrap();
    let next = outside.rotate(Duration::from_secs(60), NOW_S).unwrap();
    fs::set_permissions(path_of(dir.path(), &next), fs::Permissions::from_mode(0o644)).unwrap();
    let successor = outside.revoke(&stolen, NOW_S).unwrap().unwrap();
    service.housekeeping.tick(NOW_S).unwrap();
    assert_eq!(published(&service), std::slice::from_ref(&successor));
    // When it is to sign, there is no way around it; what signs goes on.
    assert!(service.housekeeping.tick(NOW_S + 60).is_err());
    assert_eq!(published(&service), [successor]);
    assert!(Auth::open(settings(), dir.path(), None, || {}, NOW_S).is_err());
}

#[test]
fn only_so_many_keys_are_published() {
    let dir = tempfile::tempdir().unwrap();
    let mut keys = KeyStore::open(dir.path(), NOW_S).unwrap();
    for _ in 1..limits::KEYS_PUBLISHED_MAX {
        keys.rotate(Duration::ZERO, NOW_S).unwrap();
    }
    assert!(matches!(keys.rotate(Duration::ZERO, NOW_S), Err(KeyStoreError::TooMany)));
    assert_eq!(files(dir.path()).len(), limits::KEYS_PUBLISHED_MAX);
    assert_eq!(keys.list(NOW_S).unwrap().len(), limits::KEYS_PUBLISHED_MAX);
}

#[test]
fn what_a_crash_left_of_a_retired_key_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = Service::open(settings(), dir.path());
    let old = published(&service).remove(0);
    let mut keys = KeyStore::open(dir.path(), NOW_S).unwrap();
    let new = keys.rotate(Duration::ZERO, NOW_S).unwrap();
    // As if the process had ended between the mark and the file.
    let path = dir.path().join(crate::auth::store::FILE_NAME);
    let store = rusqlite::Connection::open(path).unwrap();
    store.execute("UPDATE keys SET retired_at_s = 1 WHERE key_id = ?1", [&old]).unwrap();
    service.housekeeping.tick(NOW_S).unwrap();
    assert_eq!(files(dir.path()), [file_name(&new)]);
    let rows: u32 = store.query_row("SELECT count(*) FROM keys", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
}

#[tokio::test]
async fn a_running_service_sees_by_itself_what_was_done_to_the_keys() {
    let dir = tempfile::tempdir().unwrap();
    let auth = Auth::start(settings(), dir.path(), || {}).unwrap();
    let mut watched = auth.keys();
    watched.mark_unchanged();
    let now_s = clock::unix_s();
    let mut outside = KeyStore::open(dir.path(), now_s).unwrap();
    let new = outside.rotate(Duration::ZERO, now_s).unwrap();
    tokio::time::timeout(Duration::from_secs(30), watched.changed()).await.unwrap().unwrap();
    assert_eq!(watched.borrow().keys[0].common.key_id.as_deref(), Some(new.as_str()));
}
