//! The program as a person and a script meet it: the built binary, its output and its exit codes.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::Duration,
};

use rcgen::{CertificateParams, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

mod auth;
mod channel;
mod hub;
mod migrate;
mod smoke;
mod transfer;

/// How long anything may take. Far more than it does: who gets here has found a fault.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lines of a program that are read ahead of the test.
const LINES_MAX: usize = 1_024;

/// The program, in a home of its own.
fn hubbub(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hubbub"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HUBBUB_") {
            command.env_remove(name);
        }
    }
    command
        .args(arguments)
        .current_dir(home)
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home.join("config"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs to the end what ends by itself.
fn run(home: &Path, arguments: &[&str]) -> Output {
    hubbub(home, arguments).output().unwrap()
}

/// What the program said when it succeeded.
#[track_caller]
fn success(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one sentence with which it failed.
#[track_caller]
fn failure(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    let sentence = said.trim_end().strip_prefix("hubbub: ").expect("it says who speaks");
    sentence.to_owned()
}

/// A program that runs until it is told to stop. Killed when the test is over.
struct Running {
    child: Child,
    lines: Receiver<String>,
    /// What it says to people.
    log: Receiver<String>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let log = lines_of(child.stderr.take().unwrap());
        Self { child, lines, log }
    }

    /// The next line of the log with these words.
    fn logged(&self, words: &str) -> String {
        loop {
            let line = self.log.recv_timeout(PATIENCE).expect("another line of the log");
            if line.contains(words) {
                return line;
            }
        }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("another line")
    }

    /// What follows these words on the next line that begins with them.
    fn line_with(&self, start: &str) -> String {
        loop {
            if let Some(rest) = self.line().trim_start().strip_prefix(start) {
                return rest.trim_start().to_owned();
            }
        }
    }

    /// The public and the internal address, as `127.0.0.1:PORT`, by the greeting of a server.
    fn addresses(&self) -> (String, String) {
        let public = self.line_with("listening on http://");
        let health = self.line_with("health");
        let internal = health.strip_prefix("http://").unwrap().strip_suffix("/readyz").unwrap();
        (public, internal.to_owned())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end, which is seen as the end of its output.
    fn ended(&mut self) -> ExitStatus {
        while self.lines.recv_timeout(PATIENCE).is_ok() {}
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = sync_channel(LINES_MAX);
    thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            if line.is_err() || sender.send(line.unwrap()).is_err() {
                break;
            }
        }
    });
    lines
}

/// A server on free ports, and its address.
fn serve(home: &Path) -> (Running, String) {
    serve_with(home, &[])
}

/// The same, with these flags too.
fn serve_with(home: &Path, flags: &[&str]) -> (Running, String) {
    let mut command = hubbub(home, &SERVE);
    command.args(flags);
    command.env("HUBBUB__AUTH__COST__MEMORY", "64 KiB").env("HUBBUB__AUTH__COST__PASSES", "1");
    let server = Running::start(command);
    let first = server.line();
    let address = first.strip_prefix("listening on ").expect("scripts wait for this line");
    (server, address.to_owned())
}

const SERVE: [&str; 8] = [
    "serve",
    "--listen=127.0.0.1:0",
    "--internal-listen",
    "127.0.0.1:0",
    "--data-dir",
    "data",
    "--pin-cores",
    "off",
];

/// Makes an account, and answers what is said of it.
fn add_account(home: &Path, server: &str, name: &str) -> String {
    let mut command = hubbub(home, &["account", "add", name, "--server", server]);
    let output = command.env("HUBBUB_PASSWORD", "correct horse battery").output().unwrap();
    let said = success(&output);
    assert!(said.contains("has an account"));
    said
}

#[test]
fn a_persons_first_five_minutes() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    let (mut server, address) = serve(home);
    let address = address.as_str();
    assert_eq!(server.line_with("open"), format!("{address}/"), "the page comes first");
    let mode = home.join("data").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "the data is its owner's");

    add_account(home, address, "ada");
    let tail = ["tail", "lobby", "--as", "ada", "--json", "--since", "0", "--server", address];
    let tail = Running::start(hubbub(home, &tail));
    let send = ["send", "lobby", "hello", "--as", "ada", "--server", address];
    assert_eq!(success(&run(home, &send)), "1\n");
    let message: Value = serde_json::from_str(&tail.line()).unwrap();
    assert_eq!(message["sequence"], 1);
    assert_eq!((&message["user"], &message["body"]), (&"ada".into(), &"hello".into()));

    // A script sends lines, each of them one message.
    let mut lines = hubbub(home, &["send", "lobby", "--as", "ada", "--server", address]);
    let mut lines = lines.stdin(Stdio::piped()).spawn().unwrap();
    lines.stdin.take().unwrap().write_all(b"two\n\nthree\n").unwrap();
    assert_eq!(success(&lines.wait_with_output().unwrap()), "2\n3\n");
    for body in ["two", "three"] {
        let message: Value = serde_json::from_str(&tail.line()).unwrap();
        assert_eq!(message["body"], body);
    }

    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    let (mut server, address) = serve(home);
    let sentence = failure(&run(home, &SERVE));
    assert!(sentence.contains("data"), "{sentence}");
    // The first is none the worse for it.
    add_account(home, &address, "ada");
    server.signal(Signal::INT);
    assert_eq!(server.ended().code(), Some(0));
    // And when it has gone, the next one may.
    serve(home);
}

#[test]
fn what_was_acknowledged_outlives_a_kill() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    let (mut server, address) = serve(home);
    add_account(home, &address, "ada");
    let send = ["send", "lobby", "kept", "--as", "ada", "--server", &address];
    assert_eq!(success(&run(home, &send)), "1\n");
    server.signal(Signal::KILL);
    assert!(!server.ended().success());

    let (_server, address) = serve(home);
    let tail = ["tail", "lobby", "--as", "ada", "--json", "--since=0", "--server", &address];
    let mut tail = hubbub(home, &tail);
    tail.env("HUBBUB_PASSWORD", "correct horse battery");
    let message: Value = serde_json::from_str(&Running::start(tail).line()).unwrap();
    assert_eq!((&message["sequence"], &message["body"]), (&1.into(), &"kept".into()));
}

#[test]
fn what_goes_wrong_is_said_in_one_sentence() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    let (_server, address) = serve(home);
    let address = address.as_str();
    add_account(home, address, "ada");

    let again = ["account", "add", "ada", "--server", address];
    let taken = hubbub(home, &again).env("HUBBUB_PASSWORD", "another password").output().unwrap();
    let taken = failure(&taken);
    assert!(taken.contains("there is an account ada already"), "{taken}");
    let mut wrong = hubbub(home, &["send", "lobby", "x", "--as", "ada", "--server", address]);
    let wrong = wrong.env("HUBBUB_PASSWORD", "wrong horse battery").output().unwrap();
    let wrong = failure(&wrong);
    assert!(wrong.contains("password"), "{wrong}");
    let nowhere = run(home, &["send", "nowhere", "x", "--as", "ada", "--server", address]);
    let nowhere = failure(&nowhere);
    assert!(nowhere.contains("no channel nowhere"), "{nowhere}");
    let empty = run(home, &["send", "lobby", " ", "--as", "ada", "--server", address]);
    assert!(failure(&empty).contains("no text"));

    // An address that nobody listens on: that of a port that was free a moment ago.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = format!("http://{gone}");
    let mut send = hubbub(home, &["send", "lobby", "x", "--as", "ada", "--server", &gone]);
    let unreachable = send.env("HUBBUB_PASSWORD", "correct horse battery").output().unwrap();
    assert!(failure(&unreachable).contains(&gone));

    std::fs::write(home.join("typo.toml"), "[limits]\nping_intervall = \"1s\"\n").unwrap();
    let typo = failure(&run(home, &["serve", "--config", "typo.toml"]));
    assert!(typo.contains("did you mean `limits.ping_interval`?"), "{typo}");
}

/// A certificate for this machine and its key, as `cert.pem` and `key.pem` in the home.
fn issue_certificate(home: &Path) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(home.join("cert.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(home.join("key.pem"), key.serialize_pem()).unwrap();
}

const TLS: [&str; 4] = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"];

#[test]
fn tls_from_end_to_end() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    issue_certificate(home);
    let (_server, address) = serve_with(home, &TLS);
    let address = address.as_str();
    assert!(address.starts_with("https://"), "{address}");
    let add = ["account", "add", "ada", "--server", address, "--ca", "cert.pem"];
    let mut add = hubbub(home, &add);
    success(&add.env("HUBBUB_PASSWORD", "correct horse battery").output().unwrap());
    let to_it = ["--as", "ada", "--server", address, "--ca", "cert.pem"];
    let tail = [&["tail", "lobby", "--json", "--since", "0"], &to_it[..]].concat();
    let tail = Running::start(hubbub(home, &tail));
    assert_eq!(success(&run(home, &[&["send", "lobby", "hello"], &to_it[..]].concat())), "1\n");
    let message: Value = serde_json::from_str(&tail.line()).unwrap();
    assert_eq!(message["body"], "hello");

    // Whoever does not know the certificate does not believe it, and says so.
    let stranger = ["send", "lobby", "x", "--as", "ada", "--server", address];
    let stranger = hubbub(home, &stranger).env("HUBBUB_PASSWORD", "x").output().unwrap();
    assert!(failure(&stranger).contains("certificate"));
    // And what is meant to be secure is not done otherwise.
    let plain = address.replace("https", "http");
    let plain = ["send", "lobby", "x", "--as", "ada", "--server", &plain, "--ca", "cert.pem"];
    assert!(failure(&run(home, &plain)).contains("https://"));
    let no_ca = ["send", "lobby", "x", "--as", "ada", "--server", address, "--ca", "key.pem"];
    assert!(failure(&run(home, &no_ca)).contains("key.pem"));
}

#[test]
fn a_hang_up_reloads_what_it_can_and_says_what_it_cannot() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    issue_certificate(home);
    let (mut server, address) = serve_with(home, &TLS);
    let add = |name: &str| {
        let add = ["account", "add", name, "--server", &address, "--ca", "cert.pem"];
        hubbub(home, &add).env("HUBBUB_PASSWORD", "correct horse battery").output().unwrap()
    };
    success(&add("ada"));
    issue_certificate(home);
    failure(&add("ben"));
    server.signal(Signal::HUP);
    server.logged("reloaded");
    success(&add("ben"));

    std::fs::write(home.join("key.pem"), "").unwrap();
    server.signal(Signal::HUP);
    let said = server.logged("nothing is reloaded");
    assert!(said.contains("key.pem has no private key"), "{said}");
    success(&add("cyd"));

    issue_certificate(home);
    std::fs::write(home.join("hubbub.toml"), "[limits]\nping_interval = \"9s\"\n").unwrap();
    server.signal(Signal::HUP);
    let said = server.logged("needs a restart");
    assert!(said.contains("limits.ping_interval"), "{said}");
    success(&add("dan"));
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn a_code_is_explained() {
    let home = TempDir::new().unwrap();
    for (code, word) in [("4008", "slow_consumer"), ("305", "epoch_changed")] {
        assert!(success(&run(home.path(), &["explain", code])).contains(word));
    }
    failure(&run(home.path(), &["explain", "99"]));
}
