//! A server that stands still: what it makes people wait must be in the figures, although a
//! generator that waits for it would hardly send anything in the meantime.

use crate::harness::loadtest;

#[tokio::test]
async fn a_stall_shows_in_p99_and_max_and_nobody_waits_for_it() {
    let ran = loadtest(&[
        "run",
        "--start-server",
        "--json",
        "--users=50",
        "--rate-per-user=2",
        // Who hashes passwords before, on the same cores, tells nothing of the stall.
        "--auth=none",
        "--idle=0s",
        "--ramp-up=1s",
        "--plateau=10s",
        "--ramp-down=1s",
        "--chaos=stop:2s@3s",
    ])
    .await;
    let outcome = ran.outcome(0);
    outcome.assert_sound();
    assert!(outcome.figure("deliver.max") >= 1_900.0, "{:#}", outcome.0["figures"]);
    // A fifth of the messages were due while the server stood still.
    assert!(outcome.figure("deliver.p99") >= 1_000.0, "{:#}", outcome.0["figures"]);
    // 50 users twice a second, for ten seconds and on average half of two more.
    let messages = outcome.figure("messages");
    assert!((900.0..1_250.0).contains(&messages), "{messages} messages");
    assert!(outcome.figure("unsent") == 0.0, "{:#}", outcome.0["figures"]);
}
