//! Compressed messages, and JSON: the same audit, other bytes, and no run at all where they are not agreed on.

use crate::harness::{Outcome, Server, loadtest};

const LOAD: [&str; 9] = [
    "--json",
    "--users=4",
    "--rate-per-user=10",
    "--body=json",
    "--body-bytes=1024",
    "--idle=0s",
    "--ramp-up=200ms",
    "--plateau=1s",
    "--ramp-down=200ms",
];

async fn outcome(flags: &[&str]) -> Outcome {
    let ran = loadtest(&[&["run", "--start-server"], flags, &LOAD].concat()).await;
    ran.assert_code(0);
    let outcome = Outcome(serde_json::from_str(&ran.stdout).unwrap());
    outcome.assert_sound();
    outcome
}

#[tokio::test]
async fn what_comes_compressed_or_as_json_is_audited() {
    let bytes = |outcome: Outcome| outcome.figure("server.wire_bytes_per_delivery");
    let plain = bytes(outcome(&[]).await);
    let deflated = bytes(outcome(&["--deflate"]).await);
    assert!(plain > 1_024.0, "{plain}");
    assert!(deflated < 0.9 * plain, "{deflated} of {plain}");
    let json = bytes(outcome(&["--encoding=json"]).await);
    assert!(json > plain + 100.0, "{json} of {plain}: bodies are quoted, and fields have names");
    let deflated_json = bytes(outcome(&["--encoding=json", "--deflate"]).await);
    assert!(deflated_json < 0.9 * json, "{deflated_json} of {json}");
}

#[tokio::test]
async fn a_server_that_declines_ends_the_run() {
    let server = Server::start().await;
    let there = ["run", "--deflate", "--server", &server.url()];
    let ran = loadtest(&[&there[..], &LOAD].concat()).await;
    ran.assert_refused(105, &["does not agree on permessage-deflate"]);
}
