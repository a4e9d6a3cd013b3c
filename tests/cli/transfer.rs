//! `hubbub import` and `hubbub export` against a server that runs.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::{Output, Stdio},
    thread,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{Running, add_account, failure, hubbub, run, serve, success};

/// Two messages of two channels, in an order that is not that of an export.
const LINES: &str = r#"{"channel":"old","author":"bob","time":1700000000000,"body":"=1+1","id":"7"}
{"channel":"lobby","author":"ada","time":"2026-11-21T12:00:00Z","body":"hello"}
"#;

fn import(home: &Path, file: &str) -> Output {
    run(home, &["import", file, "--data-dir", "data"])
}

/// What the server of this home exports.
#[track_caller]
fn export(home: &Path, flags: &[&str]) -> String {
    success(&run(home, &[&["export", "--data-dir", "data"], flags].concat()))
}

/// A home with a server, and with the lines in a file.
fn place() -> (TempDir, Running, String) {
    let home = TempDir::new().unwrap();
    let (server, address) = serve(home.path());
    fs::write(home.path().join("lines.ndjson"), LINES).unwrap();
    (home, server, address)
}

#[test]
fn what_is_exported_and_imported_elsewhere_is_exported_there_to_the_byte() {
    let (one, _one, address) = place();
    add_account(one.path(), &address, "ada");
    success(&import(one.path(), "lines.ndjson"));
    let send = ["send", "lobby", "and live", "--as", "ada", "--server", &address];
    success(&run(one.path(), &send));
    let first = export(one.path(), &[]);
    // Two channels, three messages.
    assert_eq!(first.lines().count(), 5, "{first}");

    // There is a lobby of its own there, which would stay as it is.
    let other = TempDir::new().unwrap();
    let other = other.path();
    let mut serve = hubbub(other, &super::SERVE);
    serve.env("HUBBUB__CHANNELS__CREATED_AT_START", "[]");
    let there = Running::start(serve);
    there.addresses();
    let mut command = hubbub(other, &["import", "-", "--data-dir", "data"]);
    let mut command = command.stdin(Stdio::piped()).spawn().unwrap();
    command.stdin.take().unwrap().write_all(first.as_bytes()).unwrap();
    let said = success(&command.wait_with_output().unwrap());
    assert!(said.contains("5 lines: 5 added, 0 known already, 0 invalid"), "{said}");
    assert_eq!(export(other, &[]), first);

    // A file gets its name when it is whole, and takes the place of another.
    fs::write(other.join("all.ndjson"), "before").unwrap();
    assert_eq!(export(other, &["--output", "all.ndjson"]), "");
    assert_eq!(fs::read_to_string(other.join("all.ndjson")).unwrap(), first);
    let names = fs::read_dir(other).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with(".all")));

    let csv = export(other, &["--format", "csv", "--channel", "old", "--columns", "body,author"]);
    assert_eq!(csv, "body,author\r\n'=1+1,bob\r\n");
}

#[test]
fn the_exit_code_says_whether_lines_were_invalid() {
    let (home, _server, _) = place();
    let home = home.path();
    let said = success(&import(home, "lines.ndjson"));
    assert!(said.ends_with("2 lines: 2 added, 0 known already, 0 invalid\n"), "{said}");

    fs::write(home.join("bad.ndjson"), format!("{{bad\n{LINES}")).unwrap();
    let output = import(home, "bad.ndjson");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("3 lines: 0 added, 2 known already, 1 invalid\nline 1: "), "{said}");

    let json = run(home, &["import", "lines.ndjson", "--json", "--data-dir", "data"]);
    let answer: Value = serde_json::from_str(&success(&json)).unwrap();
    assert_eq!(answer["result"]["stats"]["known"], 2);

    let missing = failure(&import(home, "nowhere.ndjson"));
    assert!(missing.starts_with("could not read nowhere.ndjson"), "{missing}");
    let nobody = failure(&run(home, &["export", "--channel", "nobody", "--data-dir", "data"]));
    assert!(nobody.contains("nobody") || nobody.contains("channel"), "{nobody}");
}

#[test]
fn a_connection_that_breaks_says_that_the_same_import_goes_on() {
    let (home, _server, _) = place();
    let home = home.path();
    // A server that hangs up in the middle.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let internal = format!("http://{}", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 64 * 1024]).unwrap();
    });
    fs::write(home.join("many.ndjson"), LINES.repeat(10_000)).unwrap();
    let many = ["import", "many.ndjson", "--data-dir", "data", "--internal", &internal];
    let said = failure(&run(home, &many));
    server.join().unwrap();
    assert!(said.starts_with("the import broke off after"), "{said}");
    assert!(said.contains("run the same again, and it goes on from there"), "{said}");
}
