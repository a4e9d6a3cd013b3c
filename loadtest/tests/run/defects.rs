//! The audit's own audit: behind a proxy with a defect every run fails and names it, and behind an
//! honest one none does.

use crate::{
    harness::{Outcome, Server, loadtest},
    proxy::{Defect, Proxy},
};

/// A few users in two channels. Each is in one of them, so that there is somebody to leak to.
const USUAL: [&str; 6] = ["--users", "20", "--rate-per-user", "5", "--channels", "2"];
/// Enough for more than twenty thousand deliveries, of which one in ten thousand is left out: 20
/// users who send 15 messages a second to 20 each, for five seconds and a little.
const MANY: [&str; 6] = ["--users", "20", "--rate-per-user", "15", "--channels", "1"];

async fn run_behind(defect: Defect, load: [&str; 6], code: i32) -> Outcome {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address, defect).await;
    let url = proxy.url();
    let mut arguments = vec!["run", "--server", &url, "--json"];
    arguments.extend(load);
    arguments.extend(["--idle=0s", "--ramp-up=500ms", "--plateau=5s", "--ramp-down=500ms"]);
    let outcome = loadtest(&arguments).await.outcome(code);
    assert_eq!(proxy.deeds() > 0, defect != Defect::None, "what the proxy did");
    outcome
}

/// Whether the run failed, and one of these kinds is among the evidence.
async fn assert_found(defect: Defect, load: [&str; 6], kinds: &[&str]) -> Outcome {
    let outcome = run_behind(defect, load, 99).await;
    assert!(outcome.figure("violations") > 0.0, "{:#}", outcome.0["figures"]);
    let is_named = |sentence: &&str| kinds.iter().any(|kind| sentence.starts_with(kind));
    let evidence = outcome.evidence();
    assert!(evidence.iter().any(is_named), "none of {kinds:?} is in {evidence:#?}");
    outcome
}

#[tokio::test]
async fn nothing_is_found_through_an_honest_proxy() {
    run_behind(Defect::None, USUAL, 0).await.assert_sound();
}

#[tokio::test]
async fn one_lost_delivery_in_ten_thousand_is_found_and_counted() {
    let outcome = assert_found(Defect::Drop, MANY, &["gap: ", "missed: "]).await;
    assert!(outcome.figure("deliveries") > 20_000.0, "{:#}", outcome.0["figures"]);
    assert!(outcome.figure("lost") >= 1.0, "{:#}", outcome.0["figures"]);
}

#[tokio::test]
async fn a_delivery_that_comes_twice_is_found() {
    let outcome = assert_found(Defect::Duplicate, USUAL, &["repeat: "]).await;
    assert!(outcome.figure("lost") == 0.0, "{:#}", outcome.0["figures"]);
}

#[tokio::test]
async fn two_exchanged_deliveries_are_found() {
    assert_found(Defect::Swap, USUAL, &["late: "]).await;
}

#[tokio::test]
async fn a_message_that_is_told_before_it_is_committed_is_found() {
    assert_found(Defect::BeforeCommit, USUAL, &["before commit: "]).await;
}

#[tokio::test]
async fn an_acknowledged_message_that_is_not_stored_is_found() {
    let outcome = assert_found(Defect::Forget, USUAL, &["lost: "]).await;
    assert!(outcome.figure("acknowledged_lost") >= 1.0, "{:#}", outcome.0["figures"]);
}

#[tokio::test]
async fn a_message_for_somebody_who_is_not_subscribed_is_found() {
    assert_found(Defect::Leak, USUAL, &["leak: "]).await;
}
