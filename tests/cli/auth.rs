//! `hubbub auth` and what its operator does, as they meet it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    time::Instant,
};

use rustix::process::{Pid, Signal, getpriority_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    PATIENCE, Running, TLS, add_account, failure, hubbub, issue_certificate, run, serve, success,
};

const AUTH: [&str; 7] = [
    "auth",
    "--listen=127.0.0.1:0",
    "--internal-listen",
    "127.0.0.1:0",
    "--data-dir",
    "data",
    "--config=hubbub.toml",
];

const PASSWORD: &str = "correct horse battery";

/// An auth service on free ports, and what it says of itself.
struct Auth {
    process: Running,
    public: String,
    internal: String,
}

impl Auth {
    fn start(home: &Path, settings: &str) -> Self {
        fs::write(home.join("hubbub.toml"), settings).unwrap();
        let mut command = hubbub(home, &AUTH);
        command.env("HUBBUB__AUTH__COST__MEMORY", "64 KiB").env("HUBBUB__AUTH__COST__PASSES", "1");
        let process = Running::start(command);
        let (public, internal) = process.addresses();
        // What is to be tried next can be pasted as it is.
        assert_eq!(process.line_with("Try, in another terminal"), ":");
        let next = process.line();
        let jwks =
            format!(" hub --data-dir hub-data --jwks-url http://{public}/.well-known/jwks.json");
        assert!(next.ends_with(&jwks), "{next}");
        Self { process, public, internal }
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        exchange(&self.public, &format!("POST {path}"), None, Some(body))
    }

    fn log_in(&self, username: &str) -> (u16, Value) {
        let grant = json!({"grant_type": "password", "username": username, "password": PASSWORD});
        self.post("/v1/token", &grant)
    }

    fn refresh(&self, login: &Value) -> (u16, Value) {
        let token = &login["refresh_token"];
        self.post("/v1/token", &json!({"grant_type": "refresh_token", "refresh_token": token}))
    }

    fn me(&self, login: &Value) -> u16 {
        let token = login["access_token"].as_str().unwrap();
        exchange(&self.public, "GET /v1/me", Some(token), None).0
    }

    fn key_ids(&self) -> Vec<String> {
        let (status, document) = exchange(&self.public, "GET /.well-known/jwks.json", None, None);
        assert_eq!(status, 200, "{document}");
        let keys = document["keys"].as_array().unwrap().iter();
        keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }
}

/// Status and body of one request.
pub(super) fn exchange(
    server: &str,
    request: &str,
    token: Option<&str>,
    body: Option<&Value>,
) -> (u16, Value) {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let body = body.map(ToString::to_string).unwrap_or_default();
    let mut head = format!("{request} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n");
    if let Some(token) = token {
        head.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    let length = body.len();
    head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"));
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())))
}

/// Asks until it is so.
#[track_caller]
fn soon(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
    }
}

#[test]
fn an_auth_service_from_its_first_start_to_its_end() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    let mut auth = Auth::start(home, "");
    let new = json!({"username": "ada", "password": PASSWORD});
    assert_eq!(auth.post("/v1/accounts", &new).0, 201);
    let (status, first) = auth.log_in("ada");
    assert_eq!(status, 200, "{first}");
    assert_eq!((&first["token_type"], &first["expires_in"]), (&json!("Bearer"), &json!(900)));
    assert_eq!(auth.me(&first), 200);
    let (status, second) = auth.refresh(&first);
    assert_eq!(status, 200, "{second}");
    let (status, replayed) = auth.refresh(&first);
    assert_eq!((status, &replayed["error"]), (401, &json!("invalid_grant")));
    assert_eq!(auth.refresh(&second).0, 401, "the replay ended the session");
    assert_eq!(auth.me(&second), 401);

    let operator = |verb: &str| run(home, &["account", verb, "ada", "--data-dir", "data"]);
    let (_, third) = auth.log_in("ada");
    assert_eq!(success(&operator("disable")), "ada is disabled\n");
    assert_eq!(auth.log_in("ada").0, 401);
    assert_eq!((auth.refresh(&third).0, auth.me(&third)), (401, 401));
    assert_eq!(success(&operator("enable")), "ada is enabled\n");
    let (_, fourth) = auth.log_in("ada");
    assert_eq!(success(&operator("logout")), "ada is logged out everywhere\n");
    assert_eq!(auth.refresh(&fourth).0, 401);
    assert_eq!(success(&operator("delete")), "ada is removed\n");
    assert!(failure(&operator("delete")).contains("there is no such user"));

    // Health on both ports; metrics and administration on the internal one alone.
    for port in [&auth.public, &auth.internal] {
        assert_eq!(exchange(port, "GET /readyz", None, None).0, 200);
    }
    assert_eq!(exchange(&auth.public, "GET /metrics", None, None).0, 404);
    let (_, metrics) = exchange(&auth.internal, "GET /metrics", None, None);
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("hubbub_auth_replays_total 1\n"), "{metrics}");
    let admin = "POST /v1/admin/accounts/ada/disable";
    assert_eq!(exchange(&auth.public, admin, None, None).0, 404);
    assert_eq!(exchange(&auth.internal, admin, None, None).0, 401);

    auth.process.signal(Signal::TERM);
    assert_eq!(auth.process.ended().code(), Some(0));
    let gone = failure(&operator("disable"));
    assert!(gone.contains("no server runs on data"), "{gone}");
}

#[test]
fn keys_are_turned_and_taken_back_while_the_service_runs() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    let auth = Auth::start(home, "");
    auth.post("/v1/accounts", &json!({"username": "ada", "password": PASSWORD}));
    let (_, login) = auth.log_in("ada");
    let first = auth.key_ids();
    assert_eq!(first.len(), 1);
    let keys =
        |words: &[&str]| run(home, &[&["auth", "keys"], words, &["--data-dir=data"]].concat());
    let rotated = success(&keys(&["rotate"]));
    let next = rotated.split(' ').next().unwrap().to_owned();
    soon("the new key is published", || auth.key_ids() == [first[0].clone(), next.clone()]);
    assert_eq!(auth.me(&login), 200, "the old key is good");
    let list = success(&keys(&["list"]));
    let lines: Vec<_> = list.lines().collect();
    assert!(lines[0].starts_with(&next) && lines[0].contains("signs from"), "{list}");
    assert!(lines[1].starts_with(&first[0]) && lines[1].ends_with("  signs"), "{list}");

    let revoked = success(&keys(&["revoke", &first[0]]));
    assert!(revoked.starts_with(&format!("{} is revoked", first[0])), "{revoked}");
    soon("the old key is taken back", || auth.me(&login) == 401);
    assert!(!auth.key_ids().contains(&first[0]));
    let (_, feed) = exchange(&auth.public, "GET /v1/revocations", None, None);
    assert_eq!(feed["revocations"][0]["key"], json!(first[0]), "{feed}");
    let (status, login) = auth.log_in("ada");
    assert_eq!((status, auth.me(&login)), (200, 200));
    assert!(failure(&keys(&["revoke", "nothing"])).contains("no key of this id"));
}

#[test]
fn an_invite_opens_a_closed_door_once() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    let auth = Auth::start(home, "[auth]\nregistration = 'invite'\n");
    let new = |name: &str, invite: Option<&str>| json!({"username": name, "password": PASSWORD, "invite": invite});
    assert_eq!(auth.post("/v1/accounts", &new("ada", None)).0, 403);
    let invite = ["auth", "invite", "--uses=1", "--expires=1h", "--data-dir", "data"];
    let code = success(&run(home, &invite));
    let code = code.trim_end();
    assert_eq!(auth.post("/v1/accounts", &new("ada", Some(code))).0, 201);
    assert_eq!(auth.post("/v1/accounts", &new("bob", Some(code))).0, 403);
    let never = ["auth", "invite", "--uses=0", "--data-dir", "data"];
    assert!(failure(&run(home, &never)).contains("uses must be 1 to"));
}

#[test]
fn an_auth_service_speaks_tls_if_it_is_told_to() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    issue_certificate(home);
    fs::write(home.join("hubbub.toml"), "").unwrap();
    let mut command = hubbub(home, &[&AUTH[..], &TLS[..]].concat());
    command.env("HUBBUB__AUTH__COST__MEMORY", "64 KiB").env("HUBBUB__AUTH__COST__PASSES", "1");
    let mut process = Running::start(command);
    let address = process.line();
    let address = address.strip_prefix("listening on ").unwrap();
    assert!(address.starts_with("https://"), "{address}");
    let add = ["account", "add", "ada", "--server", address, "--ca", "cert.pem"];
    let mut add = hubbub(home, &add);
    success(&add.env("HUBBUB_PASSWORD", PASSWORD).output().unwrap());
    // The internal port stays plain.
    let disable = ["account", "disable", "ada", "--data-dir", "data"];
    assert_eq!(success(&run(home, &disable)), "ada is disabled\n");
    process.signal(Signal::HUP);
    process.logged("reloaded");
    process.signal(Signal::INT);
    assert_eq!(process.ended().code(), Some(0));
}

#[test]
fn an_auth_service_stands_back_and_keeps_no_messages() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    let auth = Auth::start(home, "");
    let pid = Pid::from_child(&auth.process.child);
    // More, if whoever runs this test is niced further.
    assert!(getpriority_process(Some(pid)).unwrap() >= 5);
    let threads = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).unwrap();
    for thread in threads {
        // One may have ended meanwhile.
        let name = fs::read_to_string(thread.unwrap().path().join("comm")).unwrap_or_default();
        assert!(!name.starts_with("hub\n") && !name.starts_with("log"), "{name}");
    }
    let data = home.join("data");
    assert_eq!(data.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let mut names = Vec::new();
    for file in fs::read_dir(&data).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file:?} is its owner's");
        names.push(file.file_name().into_string().unwrap());
    }
    for expected in ["accounts.db", "admin-address", "admin-secret", "keys"] {
        assert!(names.iter().any(|name| name == expected), "{names:?}");
    }
    let unexpected = |name: &String| name == "hubbub.lock" || name == "hubbub.db";
    assert!(!names.iter().any(unexpected), "{names:?}");
}

#[test]
fn a_whole_server_is_administered_in_the_same_way() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    let (_server, address) = serve(home);
    add_account(home, &address, "ada");
    let disable = ["account", "disable", "Ada", "--data-dir", "data"];
    assert_eq!(success(&run(home, &disable)), "ada is disabled\n");
    let mut send = hubbub(home, &["send", "lobby", "x", "--as", "ada", "--server", &address]);
    let refused = send.env("HUBBUB_PASSWORD", PASSWORD).output().unwrap();
    assert!(failure(&refused).contains("the user name or the password is wrong"));
}

#[test]
fn an_operator_who_asks_wrongly_is_told_so_in_one_sentence() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    let auth = Auth::start(home, "");
    let disable = |words: &[&str]| failure(&run(home, &[&["account", "disable"], words].concat()));
    let nowhere = disable(&["ada", "--data-dir", "nowhere"]);
    assert!(nowhere.contains("no server runs on nowhere"), "{nowhere}");
    let internal = format!("http://{}", auth.internal);
    let no_secret = disable(&["ada", "--data-dir", "nowhere", "--internal", &internal]);
    assert!(no_secret.contains("admin secret of nowhere"), "{no_secret}");
    let name = disable(&["a b", "--data-dir", "data"]);
    assert!(name.contains("a user name has"), "{name}");
    let unknown = disable(&["ada", "--data-dir", "data"]);
    assert_eq!(unknown, "there is no such user [not_found (103)]");
    let secure = disable(&["ada", "--data-dir", "data", "--internal", "https://127.0.0.1:1"]);
    assert!(secure.contains("must be of the form http://ADDRESS:PORT"), "{secure}");
    let public = format!("http://{}", auth.public);
    let public = disable(&["ada", "--data-dir", "data", "--internal", &public]);
    assert!(public.contains("not_found"), "{public}");
    let rebound = internal.replace("127.0.0.1", "localhost");
    let unknown = disable(&["ada", "--data-dir", "data", "--internal", &rebound]);
    assert_eq!(unknown, "there is no such user [not_found (103)]");

    // Another server's secret opens nothing.
    let other = TempDir::new().unwrap();
    let _other = Auth::start(other.path(), "");
    let other = other.path().join("data");
    let stranger =
        disable(&["ada", "--data-dir", other.to_str().unwrap(), "--internal", &internal]);
    assert!(stranger.contains("not the secret of this server"), "{stranger}");
}

#[test]
fn a_running_service_holds_its_lock_on_the_store() {
    let home = TempDir::new().unwrap();
    let _auth = Auth::start(home.path(), "");
    let store = home.path().join("data/accounts.db").metadata().unwrap().ino();
    let locks = fs::read_to_string("/proc/locks").unwrap();
    // SQLite's, which closing another handle of the same file would have given up.
    let is_ours = |line: &&str| line.contains("POSIX") && line.contains(&format!(":{store} "));
    assert!(locks.lines().any(|line| is_ours(&line)), "{store}: {locks}");
}
