//! `hubbub migrate`, from one data directory into another.

use std::{fs, path::Path};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{add_account, failure, run, serve, success};

const MOVE: [&str; 5] = ["migrate", "--from", "sqlite:data", "--to", "sqlite:copy"];

fn migrate(home: &Path, flags: &[&str]) -> std::process::Output {
    run(home, &[&MOVE, flags].concat())
}

#[test]
fn a_stopped_server_goes_on_in_the_copy_with_its_accounts() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    let said = failure(&migrate(home, &[]));
    assert!(said.contains("there is no server's data in data"), "{said}");

    let (mut server, address) = serve(home);
    add_account(home, &address, "ada");
    success(&run(home, &["send", "lobby", "hello", "--as", "ada", "--server", &address]));
    let said = failure(&migrate(home, &["--dry-run"]));
    assert!(said.contains("another hubbub serves from the data directory"), "{said}");
    server.signal(Signal::TERM);
    assert!(server.ended().success());

    let said = success(&migrate(home, &["--dry-run", "--digests"]));
    assert!(said.contains("1 messages of 1 channels") && !home.join("copy").exists(), "{said}");
    let copied = success(&migrate(home, &["--digests"]));
    let digests = |said: &str| {
        let lines = said.lines().filter(|line| line.contains("digest"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(digests(&copied), digests(&said));
    let said = failure(&migrate(home, &[]));
    assert!(said.contains("the target has data of its own"), "{said}");

    for (from, to) in [("data", "old"), ("copy", "data")] {
        fs::rename(home.join(from), home.join(to)).unwrap();
    }
    let (_server, _) = serve(home);
    let said = success(&run(home, &["export", "--data-dir", "data"]));
    assert!(said.contains("hello"), "{said}");
}

#[test]
fn what_is_no_store_is_told_how_one_looks() {
    let home = TempDir::new().unwrap();
    for place in ["data", "sqlite:", "mysql:data"] {
        let said = failure(&run(home.path(), &["migrate", "--from", place, "--to", "sqlite:x"]));
        assert!(said.contains("sqlite:DIR or nats://a,b,c"), "{said}");
    }
}
