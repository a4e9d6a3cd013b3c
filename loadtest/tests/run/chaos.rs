//! A server that is killed and started again under its users: they come back, and have everything.

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::harness::{Outcome, loadtest, server_binary};

async fn run_under(chaos: &str) -> Outcome {
    let ran = loadtest(&[
        "run",
        "--start-server",
        "--json",
        "--users=20",
        "--rate-per-user=5",
        "--channels=2",
        "--idle=0s",
        "--ramp-up=500ms",
        "--plateau=6s",
        "--ramp-down=500ms",
        "--chaos",
        chaos,
    ])
    .await;
    let outcome = ran.outcome(0);
    outcome.assert_sound();
    assert!(outcome.figure("reconnects") > 0.0, "{:#}", outcome.0["figures"]);
    outcome
}

#[tokio::test]
async fn three_kills_lose_nothing() {
    let outcome = run_under("kill*3").await;
    assert!(outcome.0["chaos"].as_array().unwrap().len() >= 3, "{:#}", outcome.0["chaos"]);
}

#[tokio::test]
async fn two_restarts_lose_nothing() {
    let outcome = run_under("term*2").await;
    assert!(outcome.0["chaos"].as_array().unwrap().len() >= 2, "{:#}", outcome.0["chaos"]);
}

#[tokio::test]
async fn all_who_lose_their_connections_come_back_and_have_everything() {
    let ran = loadtest(&[
        "run",
        "--start-server",
        "--server-cores=one",
        "--json",
        "--auth=none",
        "--users=40",
        "--open-rate=20",
        "--channels=2",
        "--idle=0s",
        "--ramp-up=500ms",
        "--plateau=5s",
        "--ramp-down=500ms",
        "--reconnects-max=10",
        "--chaos=drop:500ms*2",
        "--threshold=reconnect.resumed==80",
        "--threshold=reconnect.p99<5s",
    ])
    .await;
    let outcome = ran.outcome(0);
    outcome.assert_sound();
    for name in ["cut", "resumed", "count"] {
        assert_eq!(outcome.figure(&format!("reconnect.{name}")), 80.0, "{name}");
    }
    assert_eq!(outcome.figure("reconnects"), 80.0);
    for name in ["rate", "replayed", "server_us", "generator_us"] {
        assert!(outcome.figure(&format!("reconnect.{name}")) > 0.0, "{name}");
    }
    let said: Vec<_> = outcome.0["chaos"].as_array().unwrap().iter().collect();
    assert_eq!(said.len(), 6, "{said:?}");
}

#[tokio::test]
async fn a_server_that_does_not_come_back_ends_the_run_and_leaves_its_log() {
    let folder = tempfile::tempdir().unwrap();
    // The second time it only complains.
    let (program, mark) = (folder.path().join("server"), folder.path().join("mark"));
    let (binary, mark) = (server_binary(), mark.display().to_string());
    let script = format!(
        "#!/bin/sh\nif [ -e {mark} ]; then echo the disk is on fire >&2; exit 3; fi\n\
         touch {mark}\nexec {} \"$@\"\n",
        binary.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let ran = loadtest(&[
        "run",
        "--start-server",
        "--binary",
        program.to_str().unwrap(),
        "--auth=none",
        "--users=4",
        "--idle=0s",
        "--ramp-up=500ms",
        "--plateau=60s",
        "--chaos=kill@500ms",
    ])
    .await;
    ran.assert_code(105);
    let said = "aborted: chaos: it does not come back: the server did not start; it said last:\n";
    assert!(ran.stderr.contains(&format!("{said}the disk is on fire")), "{}", ran.stderr);
    let kept = ran.stderr.lines().find_map(|line| line.split_once(" are kept in "));
    let (_, kept) = kept.unwrap_or_else(|| panic!("{}", ran.stderr));
    let log = fs::read_to_string(format!("{kept}/server.log")).unwrap();
    assert!(log.contains("the disk is on fire"), "{log}");
    fs::remove_dir_all(kept).unwrap();
}
