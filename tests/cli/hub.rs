//! `hubbub auth` and `hubbub hub` as two processes: people log in at the one and chat at the other.

use std::{fs, path::Path};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{Running, add_account, auth::exchange, failure, hubbub, run, success};

/// A process of a server, and its addresses, as `127.0.0.1:PORT`.
struct Process {
    process: Running,
    public: String,
    internal: String,
}

impl Process {
    /// Starts one on this public address.
    fn start(home: &Path, listen: &str, arguments: &[&str]) -> Self {
        let mut command = hubbub(home, arguments);
        command.args(["--listen", listen, "--internal-listen", "127.0.0.1:0"]);
        command.env("HUBBUB__AUTH__COST__MEMORY", "64 KiB").env("HUBBUB__AUTH__COST__PASSES", "1");
        let process = Running::start(command);
        let (public, internal) = process.addresses();
        Self { process, public, internal }
    }

    fn auth(home: &Path, listen: &str) -> Self {
        Self::start(home, listen, &["auth", "--data-dir", "auth-data"])
    }

    fn hub(home: &Path, auth: &str) -> Self {
        let jwks = format!("http://{auth}/.well-known/jwks.json");
        let arguments =
            ["hub", "--data-dir", "hub-data", "--pin-cores", "off", "--jwks-url", &jwks];
        Self::start(home, "127.0.0.1:0", &arguments)
    }

    fn url(&self) -> String {
        format!("http://{}", self.public)
    }

    /// What the operator of the auth service does about a user.
    fn administer(&self, home: &Path, user: &str, what: &str) {
        let secret = fs::read_to_string(home.join("auth-data/admin-secret")).unwrap();
        let request = format!("POST /v1/admin/accounts/{user}/{what}");
        let (status, answer) = exchange(&self.internal, &request, Some(secret.trim()), None);
        assert_eq!(status, 204, "{answer}");
    }

    /// A number of the metrics.
    fn metric(&self, name: &str) -> f64 {
        let (_, page) = exchange(&self.internal, "GET /metrics", None, None);
        let page = page.as_str().unwrap().to_owned();
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
    }
}

/// A command of this user, who logs in at the one and chats at the other.
fn as_user<'a>(words: &[&'a str], user: &'a str, hub: &'a str, auth: &'a str) -> Vec<&'a str> {
    [words, &["--as", user, "--server", hub, "--auth", auth]].concat()
}

#[test]
fn people_log_in_at_one_process_and_chat_at_the_other_whatever_becomes_of_the_first() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    let mut auth = Process::auth(home, "127.0.0.1:0");
    let hub = Process::hub(home, &auth.public);
    let (at_auth, at_hub) = (auth.url(), hub.url());
    let users = ["ada", "bob", "cyd"];
    let tails = users.map(|user| {
        add_account(home, &at_auth, user);
        let words = ["tail", "lobby", "--json", "--since", "0"];
        Running::start(hubbub(home, &as_user(&words, user, &at_hub, &at_auth)))
    });
    let say = |number: u32, body: &str| {
        let send = as_user(&["send", "lobby", body], "ada", &at_hub, &at_auth);
        assert_eq!(success(&run(home, &send)), format!("{number}\n"));
        for tail in &tails {
            let message: Value = serde_json::from_str(&tail.line()).unwrap();
            assert_eq!(message["body"], body);
        }
    };
    say(1, "hello");

    // The hub has no accounts, and says where they are not.
    for path in ["POST /v1/token", "POST /v1/accounts", "GET /.well-known/jwks.json"] {
        let (status, problem) = exchange(&hub.public, path, None, None);
        assert_eq!((status, &problem["name"]), (404, &"not_found".into()), "{path}");
    }
    let (_, page) = exchange(&hub.public, "GET /", None, None);
    assert!(page.as_str().unwrap().contains("auth service"), "{page}");

    // Without the auth service talk goes on, and who comes back is let in: every send connects anew.
    auth.process.signal(Signal::KILL);
    assert!(!auth.process.ended().success());
    hub.process.logged("is not known here");
    say(2, "is anybody there?");
    say(3, "all of us");

    let auth = Process::auth(home, &auth.public);
    hub.process.logged("can be read again");
    // The promise is one second, but not on a machine that others keep busy: of three times one must
    // be within it.
    for (user, tail) in users.into_iter().zip(tails) {
        auth.administer(home, user, "disable");
        let mut tail = tail;
        assert_eq!(tail.ended().code(), Some(1));
    }
    assert_eq!(hub.metric("hubbub_revoked_connections_total"), 3.0);
    assert!(hub.metric("hubbub_revocation_lag_seconds_bucket{le=\"1.0\"}") >= 1.0);
    let send = as_user(&["send", "lobby", "x"], "ada", &at_hub, &at_auth);
    failure(&hubbub(home, &send).env("HUBBUB_PASSWORD", "correct horse battery").output().unwrap());
}

#[test]
fn what_to_try_after_an_account_was_made_names_the_auth_service_only_where_there_is_no_hub() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    let mut auth = Process::auth(home, "127.0.0.1:0");
    let at_auth = auth.url();
    let said = add_account(home, &at_auth, "ada");
    assert!(said.ends_with(&format!(" chat lobby --as ada --auth {at_auth}\n")), "{said}");
    auth.process.signal(Signal::TERM);
    assert!(auth.process.ended().success());

    let whole = ["serve", "--data-dir", "auth-data", "--pin-cores", "off"];
    let _whole = Process::start(home, &auth.public, &whole);
    let said = add_account(home, &at_auth, "bob");
    assert!(said.ends_with(&format!(" chat lobby --as bob --server {at_auth}\n")), "{said}");
}

#[test]
fn a_hub_starts_while_its_auth_service_is_down_and_finds_it_later() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    let mut auth = Process::auth(home, "127.0.0.1:0");
    add_account(home, &auth.url(), "ada");
    auth.process.signal(Signal::TERM);
    assert!(auth.process.ended().success());

    let hub = Process::hub(home, &auth.public);
    assert_eq!(exchange(&hub.internal, "GET /readyz", None, None).0, 200);
    let (at_auth, at_hub) = (auth.url(), hub.url());
    let send = as_user(&["send", "lobby", "hello"], "ada", &at_hub, &at_auth);
    failure(&run(home, &send));
    let _auth = Process::auth(home, &auth.public);
    hub.process.logged("can be read again");
    // The keys are asked for on their own.
    let sent = (0..100).any(|_| run(home, &send).status.success());
    assert!(sent, "it does not find the keys");
}

#[test]
fn a_key_that_is_taken_back_makes_clients_renew_and_go_on() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    let auth = Process::auth(home, "127.0.0.1:0");
    let hub = Process::hub(home, &auth.public);
    let (at_auth, at_hub) = (auth.url(), hub.url());
    add_account(home, &at_auth, "ada");
    let words = ["tail", "lobby", "--json", "--since", "0"];
    let tail = Running::start(hubbub(home, &as_user(&words, "ada", &at_hub, &at_auth)));
    // With a password, and so with a token that was issued just now.
    let send = || {
        let mut send = hubbub(home, &as_user(&["send", "lobby", "x"], "ada", &at_hub, &at_auth));
        send.env("HUBBUB_PASSWORD", "correct horse battery").output().unwrap()
    };
    assert_eq!(success(&send()), "1\n");
    tail.line();

    let keys = success(&run(home, &["auth", "keys", "list", "--data-dir", "auth-data"]));
    let signing = keys.lines().find(|line| line.ends_with("  signs")).expect("one of them signs");
    let key_id = signing.split(' ').next().unwrap();
    success(&run(home, &["auth", "keys", "revoke", key_id, "--data-dir", "auth-data"]));
    // It is told that its token ran out, not that it may not come back.
    while hub.metric("hubbub_revoked_connections_total") < 1.0 {}
    // The auth service itself sees it within a second, and signs with the revoked key until then.
    let sent = (0..100).any(|_| send().status.success());
    assert!(sent, "no token is good any more");
    let message: Value = serde_json::from_str(&tail.line()).unwrap();
    assert_eq!(message["sequence"], 2);
}

#[test]
fn a_hub_that_trusts_nobody_does_not_start() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    let hub = ["hub", "--listen", "127.0.0.1:0", "--internal-listen", "127.0.0.1:0"];
    let sentence = failure(&run(home, &hub));
    assert!(sentence.contains("trust.jwks_url"), "{sentence}");
    // And who has accounts of its own takes no others for them.
    let jwks = ["--jwks-url", "http://127.0.0.1:1/keys"];
    let serve = ["serve", "--listen", "127.0.0.1:0", "--internal-listen", "127.0.0.1:0"];
    let sentence = failure(&run(home, &[&serve[..], &jwks].concat()));
    assert!(sentence.contains("hubbub hub"), "{sentence}");
}
