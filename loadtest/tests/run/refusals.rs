//! What an operator gets wrong, and the sentence that says so.

use std::fs;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

use crate::harness::{LOADTEST, Server, loadtest, ran};

/// The exit codes of k6.
const BROKEN: i32 = 99;
const BAD_CONFIGURATION: i32 = 104;
const ABORTED: i32 = 105;

/// A short run of few.
const SHORT: [&str; 6] = [
    "--users=4",
    "--rate-per-user=5",
    "--idle=0s",
    "--ramp-up=500ms",
    "--plateau=1s",
    "--ramp-down=500ms",
];

#[tokio::test]
async fn a_mistake_in_a_scenario_file_is_named_with_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    let path = file.to_str().unwrap();
    let mistakes = [
        ("userz = 3", "userz"),
        ("users = \"many\"", "many"),
        ("users = -3", "-3"),
        ("stages = [{ duration = \"fast\", target = 3 }]", "fast"),
        ("thresholds = [\"quick\"]", "quick"),
        ("publish = { model = \"eager\" }", "eager"),
    ];
    for (text, name) in mistakes {
        fs::write(&file, text).unwrap();
        let ran = loadtest(&["run", "--start-server", "--scenario", path]).await;
        ran.assert_refused(BAD_CONFIGURATION, &["mine.toml", name]);
    }
}

#[tokio::test]
async fn a_scenario_that_is_not_there_is_named() {
    let ran = loadtest(&["run", "--start-server", "--scenario", "marathon"]).await;
    ran.assert_refused(BAD_CONFIGURATION, &["marathon"]);
    let ran = loadtest(&["run", "--start-server", "--scenario", "no/such/file.toml"]).await;
    ran.assert_refused(BAD_CONFIGURATION, &["no/such/file.toml"]);
}

#[tokio::test]
async fn a_threshold_or_chaos_that_means_nothing_is_named() {
    for threshold in ["deliver.p99 is low", "deliver.p99<", "<100ms", "deliver.p99<soon"] {
        let ran = loadtest(&["run", "--start-server", "--threshold", threshold]).await;
        ran.assert_refused(BAD_CONFIGURATION, &[threshold]);
    }
    for chaos in ["earthquake", "kill*", "kill@soon", "stop@3s"] {
        let ran = loadtest(&["run", "--start-server", "--chaos", chaos]).await;
        ran.assert_refused(BAD_CONFIGURATION, &[chaos]);
    }
}

#[tokio::test]
async fn chaos_needs_a_server_of_our_own() {
    let ran = loadtest(&["run", "--server", "http://127.0.0.1:1", "--chaos", "kill*3"]).await;
    ran.assert_refused(BAD_CONFIGURATION, &["--chaos", "--start-server"]);
}

#[tokio::test]
async fn a_profile_needs_an_internal_port() {
    let folder = tempfile::tempdir().unwrap();
    let report = format!("--report={}", folder.path().join("report.html").display());
    let ran = loadtest(&["run", "--server", "http://127.0.0.1:1", "--profile", &report]).await;
    ran.assert_refused(BAD_CONFIGURATION, &["--profile", "--internal"]);
}

#[tokio::test]
async fn either_a_server_is_named_or_one_is_started() {
    let names = ["--server", "--start-server"];
    let ran = loadtest(&["run"]).await;
    ran.assert_refused(BAD_CONFIGURATION, &names);
    let ran = loadtest(&["run", "--start-server", "--server", "http://127.0.0.1:1"]).await;
    ran.assert_refused(BAD_CONFIGURATION, &names);
}

#[tokio::test]
async fn a_server_that_is_not_there_ends_the_run() {
    let ran = loadtest(&["run", "--server", "http://127.0.0.1:1", "--users=4"]).await;
    ran.assert_refused(ABORTED, &["no server answers", "127.0.0.1:1"]);
}

#[tokio::test]
async fn something_that_is_no_chat_server_is_told_by_what_it_says() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let site = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let body = "<html>\n\x1b[31mIt works!\n</html>\n";
            let length = body.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    };
    let arguments = ["run", "--server", &url, "--users=4"];
    let ran = tokio::select! {
        ran = loadtest(&arguments) => ran,
        () = site => unreachable!("it serves without an end"),
    };
    ran.assert_refused(ABORTED, &["200", "It works! </html>"]);
}

#[tokio::test]
async fn a_wrong_token_ends_the_run_with_the_servers_word_for_it() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    fs::write(&file, "this.is.no-token\n").unwrap();
    let url = server.url();
    let tokens = file.to_str().unwrap();
    let mut arguments = vec!["run", "--server", &url, "--auth", "none", "--tokens", tokens];
    arguments.extend(SHORT);
    loadtest(&arguments).await.assert_refused(ABORTED, &["invalid_token"]);
}

#[tokio::test]
async fn too_few_file_descriptors_are_noticed_before_anything_is_done() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\"", LOADTEST]);
    command.args(["run", "--start-server", "--users=100"]);
    ran(command).await.assert_refused(BAD_CONFIGURATION, &["ulimit -n"]);
}

#[tokio::test]
async fn a_threshold_that_does_not_hold_fails_a_sound_run() {
    let mut arguments = vec!["run", "--start-server", "--json", "--threshold=deliver.p99<0.001ms"];
    arguments.extend(SHORT);
    let outcome = loadtest(&arguments).await.outcome(BROKEN);
    outcome.assert_sound();
    let thresholds = outcome.0["thresholds"].as_array().unwrap();
    assert_eq!(thresholds.len(), 1);
    assert_eq!(thresholds[0]["holds"], false);
    assert_eq!(thresholds[0]["text"], "deliver.p99<0.001ms");
    assert_eq!(thresholds[0]["value"].as_f64(), Some(outcome.figure("deliver.p99")));
}

#[tokio::test]
async fn what_is_asked_over_http_is_refused_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let tools = format!("--tools={}", folder.path().display());
    // Without wrk or without the Python beside us: the same command brings both.
    loadtest(&["posts", &tools]).await.assert_refused(BAD_CONFIGURATION, &["cargo xtask peers"]);
    loadtest(&["posts", "--duration=1500ms"]).await.assert_code(104);
    let import = ["import", "--records=10", &tools];
    let refused = loadtest(&import).await;
    refused.assert_refused(
        BAD_CONFIGURATION,
        &["venv-peers/bin/python", "cargo xtask peers --install"],
    );
    let import = ["import", "--records=10", "--invalid=11"];
    loadtest(&import).await.assert_refused(BAD_CONFIGURATION, &["--invalid", "--records"]);
    loadtest(&["growth", "--small=1000"])
        .await
        .assert_refused(BAD_CONFIGURATION, &["--small", "2500"]);
    let quota = ["quota", "--binary=/nowhere/hubbub"];
    loadtest(&quota).await.assert_refused(BAD_CONFIGURATION, &["/nowhere/hubbub"]);
}
