//! `hubbub smoke` against a server that runs, and one that does not.

use serde_json::Value;
use tempfile::TempDir;

use super::{TLS, add_account, failure, issue_certificate, run, serve, serve_with, success};

/// The names of the steps that went well.
fn good(report: &str) -> Vec<String> {
    let report: Value = serde_json::from_str(report).unwrap();
    let steps = report["steps"].as_array().unwrap().iter();
    let good = steps.filter(|step| step["ok"] == true && step["reason"] == Value::Null);
    good.map(|step| step["step"].as_str().unwrap().to_owned()).collect()
}

const STEPS: [&str; 8] =
    ["token", "channel", "post", "receive", "list", "history", "export", "delete"];

#[test]
fn a_server_is_tried_from_end_to_end_and_nothing_stays_behind() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    let (_server, address) = serve(home);
    add_account(home, &address, "ada");
    let report = success(&run(home, &["smoke", &address, "--as", "ada", "--json"]));
    assert_eq!(good(&report), STEPS, "{report}");
    let mine = run(home, &["channel", "list", "--mine", "--as", "ada", "--server", &address]);
    assert_eq!(success(&mine), "");
}

#[test]
fn an_account_of_its_own_will_do_and_so_will_tls() {
    let home = TempDir::new().unwrap();
    let home = home.path();
    issue_certificate(home);
    let (_server, address) = serve_with(home, &TLS);
    let smoke = ["smoke", &address, "--sign-up", "--json", "--ca", "cert.pem"];
    let report = success(&run(home, &smoke));
    assert_eq!(good(&report), STEPS, "{report}");
    let stranger = run(home, &["smoke", &address, "--sign-up"]);
    let line = String::from_utf8(stranger.stdout.clone()).unwrap();
    assert!(line.starts_with("FAIL token") && line.contains("certificate"), "{line}");
    assert_eq!(failure(&stranger), format!("{address} is not well: token failed"));
}

#[test]
fn where_nobody_listens_the_first_step_fails() {
    let home = TempDir::new().unwrap();
    // That of a port that was free a moment ago.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = format!("http://{gone}");
    let output = run(home.path(), &["smoke", &gone, "--sign-up", "--timeout", "5s"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1);
    assert_eq!(failure(&output), format!("{gone} is not well: token failed"));
}
