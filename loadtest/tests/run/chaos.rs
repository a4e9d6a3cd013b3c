//! A server that is killed and started again under its users: they come back, and have everything.

use crate::harness::{Outcome, loadtest};

async fn run_under(chaos: &str) -> Outcome {
    let ran = loadtest(&[
        "run",
        "--start-server",
        "--json",
        "--users=20",
        "--rate-per-user=5",
        "--channels=2",
        "--ramp-up=1s",
        "--plateau=6s",
        "--ramp-down=1s",
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
