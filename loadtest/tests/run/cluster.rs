//! Several servers, and servers that break. Those that share an engine need NATS; what is here does not.

use serde_json::Value;

use crate::{
    harness::{Server, loadtest},
    proxy::{Defect, Proxy},
};

const LOAD: [&str; 8] = [
    "--users=20",
    "--rate-per-user=5",
    "--channels=2",
    "--idle=0s",
    "--ramp-up=500ms",
    "--plateau=3s",
    "--ramp-down=500ms",
    "--json",
];

/// Two doors to one server, which are two servers to the load generator. One may do wrong.
#[tokio::test]
async fn users_are_spread_over_the_servers_and_what_one_of_them_does_wrong_is_found() {
    for (defect, code) in [(Defect::None, 0), (Defect::Duplicate, 99)] {
        let server = Server::start().await;
        let doors = [
            Proxy::start(server.address, Defect::None).await,
            Proxy::start(server.address, defect).await,
        ];
        let [first, second] = [doors[0].url(), doors[1].url()];
        let mut arguments = vec!["run", "--server", &first, "--server", &second];
        arguments.extend(LOAD);
        let outcome = loadtest(&arguments).await.outcome(code);
        if code == 0 {
            outcome.assert_sound();
        } else {
            assert!(outcome.evidence().iter().any(|it| it.starts_with("repeat: ")), "{outcome:?}");
        }
    }
}

#[tokio::test]
async fn two_servers_that_share_nothing_do_not_pass_for_a_cluster() {
    let servers = [Server::start().await, Server::start().await];
    let [first, second] = [servers[0].url(), servers[1].url()];
    let mut arguments = vec!["run", "--server", &first, "--server", &second];
    arguments.extend(LOAD);
    let outcome = loadtest(&arguments).await.outcome(99);
    assert!(outcome.figure("violations") > 0.0, "{outcome:?}");
}

#[tokio::test]
async fn a_hub_that_is_killed_or_stopped_loses_nothing_and_the_stall_is_told() {
    for fault in ["kill-hub", "stop-hub"] {
        let arguments = ["cluster", "--engine=sqlite", "--cycles=2", "--calm-ms=200", "--json"];
        let arguments = [&arguments[..], &["--hold=500ms", "--fault", fault]].concat();
        let ran = loadtest(&arguments).await;
        ran.assert_code(0);
        let told: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((&told["lost"], &told["violations"]), (&0.into(), &0.into()), "{told:#}");
        assert_eq!((&told["cycles"], &told["fault"]), (&2.into(), &fault.into()), "{told:#}");
        assert!(told["acknowledged"].as_u64() > Some(0), "{told:#}");
        assert!(told["messages"].as_u64() >= told["acknowledged"].as_u64(), "{told:#}");
        let stall = told["figures"]["hot_stall.p50"].as_f64().unwrap();
        assert!((490.0..30_000.0).contains(&stall), "{told:#}");
    }
}

#[tokio::test]
async fn how_fast_it_is_is_told_for_one_channel_and_for_many() {
    let ran =
        loadtest(&["cluster", "--engine=sqlite", "--throughput", "--time=1s", "--json"]).await;
    ran.assert_code(0);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    let parts = told["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 2, "{told:#}");
    for (part, channels) in parts.iter().zip([1, 64]) {
        assert_eq!((&part["channels"], &part["violations"]), (&channels.into(), &0.into()));
        for figure in ["messages_per_s", "batches_per_s", "messages_per_batch"] {
            assert!(part[figure].as_f64() > Some(0.0), "{figure}: {told:#}");
        }
        assert!(part["cpu_percent"]["hub-0"].as_f64() > Some(0.0), "{told:#}");
    }
}

#[tokio::test]
async fn what_a_cluster_cannot_do_is_refused_before_it_is_started() {
    for (arguments, names) in [
        (&["cluster", "--hubs=0"][..], "--hubs"),
        (&["cluster", "--engine=sqlite", "--fault=cut-hub"], "one hub"),
        (&["cluster", "--binary=/nowhere/hubbub", "--engine=sqlite"], "/nowhere/hubbub"),
        (&["run", "--start-cluster", "--hubs=0"], "--hubs"),
        (&["run"], "--start-cluster"),
    ] {
        loadtest(arguments).await.assert_refused(104, &[names]);
    }
}
