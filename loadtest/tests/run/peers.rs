//! hubbub beside the floor: measured, refused, interrupted.

use std::{fs, path::PathBuf, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::Command;

use crate::harness::{LOADTEST, loadtest, server_binary};

/// A second of each, with no peer that would have to be installed.
const SHORT: [&str; 7] = [
    "peers",
    "--only=floor,hubbub",
    "--rounds=1",
    "--seconds=1",
    "--warm-up=0",
    "--users=50",
    "--rate=2000",
];

/// How long a process may take to appear, or to go.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn hubbub_and_the_floor_deliver_everything_and_stand_in_one_table() {
    server_binary();
    let folder = tempfile::tempdir().unwrap();
    let tools = format!("--tools={}", folder.path().display());
    let page = folder.path().join("PAGE.md");
    fs::write(
        &page,
        "<!-- peers: begin (written by `cargo xtask peers -- --write`) -->\n<!-- peers: end -->\n",
    )
    .unwrap();
    let write = format!("--write={}", page.display());
    let arguments = ["--work=paced,saturation", "--json", &tools, &write];
    let ran = loadtest(&[&SHORT[..], &arguments].concat()).await;
    ran.assert_code(0);

    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    let summaries = document["summaries"].as_array().unwrap();
    let names: Vec<_> = summaries.iter().map(|it| it["contender"].as_str().unwrap()).collect();
    let once = ["floor-direct", "floor-batched", "hubbub"];
    assert_eq!(names, [once, once].concat());
    for it in summaries {
        assert_eq!((&it["lost"], &it["faults"]), (&0.into(), &0.into()), "{it:#}");
        let figures = &it["figures"]["carried"];
        assert!(figures["deliveries_per_s"]["median"].as_f64().unwrap() > 0.0, "{it:#}");
        assert!(figures["cpu_us_per_delivery"]["median"].as_f64().unwrap() > 0.0, "{it:#}");
    }
    let page = fs::read_to_string(&page).unwrap();
    assert!(page.contains("### Saturation") && page.contains("| hubbub |"), "{page}");
    assert!(folder.path().join("peers-saturation.svg").is_file());
}

#[tokio::test]
async fn a_peer_that_is_not_installed_is_named_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let tools = format!("--tools={}", folder.path().display());
    let mut arguments = SHORT.to_vec();
    arguments[1] = "--only=floor-direct,nats";
    arguments.extend(["--work=paced", &tools]);
    let ran = loadtest(&arguments).await;
    ran.assert_code(0);
    assert!(ran.stderr.contains("nats does not take part: no "), "{}", ran.stderr);
    assert!(ran.stdout.contains("floor-direct"), "{}", ran.stdout);

    arguments[1] = "--only=nats";
    loadtest(&arguments).await.assert_code(104);
}

#[tokio::test]
async fn what_cannot_be_written_or_is_nobody_is_refused_before_anything_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("PAGE.md");
    fs::write(&page, "# No marks\n").unwrap();
    let write = format!("--write={}", page.display());
    loadtest(&["peers", &write]).await.assert_refused(104, &["PAGE.md", "peers: begin"]);
    loadtest(&["peers", "--only=socketio"]).await.assert_refused(104, &["socketio", "uws"]);
}

/// The processes that this one has started, and that are there.
fn children(pid: u32) -> Vec<PathBuf> {
    let is_child = |folder: &PathBuf| {
        let stat = fs::read_to_string(folder.join("stat")).unwrap_or_default();
        // Behind the name, which may hold anything: the state, and who started it.
        let after = stat.rsplit_once(')').map_or("", |it| it.1);
        after.split_ascii_whitespace().nth(1) == Some(&pid.to_string())
    };
    let all = fs::read_dir("/proc").unwrap().map(|it| it.unwrap().path());
    all.filter(is_child).collect()
}

#[tokio::test]
async fn an_interrupted_run_leaves_no_process_behind() {
    let folder = tempfile::tempdir().unwrap();
    for signal in [Signal::INT, Signal::TERM] {
        let mut command = Command::new(LOADTEST);
        command.args(["peers", "--only=floor-direct", "--work=paced", "--seconds=60"]);
        command.arg("--tools").arg(folder.path()).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let mut run = command.spawn().unwrap();
        let pid = run.id().unwrap();
        let started = std::time::Instant::now();
        let there = loop {
            let there = children(pid);
            if !there.is_empty() {
                break there;
            }
            assert!(started.elapsed() < PATIENCE, "no floor was started");
            tokio::task::yield_now().await;
        };
        kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
        let status = tokio::time::timeout(PATIENCE, run.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(105));
        while there.iter().any(|it| it.exists()) {
            assert!(started.elapsed() < PATIENCE * 2, "{there:?} are still there");
            tokio::task::yield_now().await;
        }
    }
}
