//! A storm of logins at a real server, while users chat.

use crate::harness::loadtest;

const SCENARIO: &str = r#"
users = 10
ramp_up = "500ms"
plateau = "7s"
ramp_down = "500ms"
login = "none"
idle = "0s"
publish = { model = "paced", rate_per_user = 2.0 }
thresholds = ["storm.wrong==0", "storm.unsent==0", "storm.refusal.count>0"]

[storm]
rate = "20x"
valid = 0.5
accounts = 8
addresses = 50
calm = "1s"
probe = "1s"
probe_requests = 2
lasts = "2s"

# Slow enough that this many cannot be hashed, whatever runs beside the test.
[server]
HUBBUB__AUTH__COST__MEMORY = "8MiB"
HUBBUB__AUTH__COST__PASSES = "4"
"#;

#[tokio::test]
async fn a_storm_that_no_server_can_serve_is_refused_and_the_chat_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("storm.toml");
    std::fs::write(&path, SCENARIO).unwrap();
    let path = path.to_str().unwrap();
    let ran = loadtest(&["run", "--start-server", "--json", "--scenario", path]).await;
    let outcome = ran.outcome(0);
    outcome.assert_sound();
    let figure = |name: &str| outcome.figure(&format!("storm.{name}"));
    assert!(figure("capacity") > 0.0 && figure("offered") > figure("capacity"));
    assert!(figure("valid") > 0.0 && figure("valid_share") > 0.0);
    for name in ["calm.deliver", "storm.deliver", "storm.login", "storm.refusal"] {
        assert!(outcome.figure(&format!("{name}.count")) > 0.0, "{name}");
    }
    let refused = figure("refused_503") + figure("refused_429");
    assert_eq!(refused, figure("refusal.count"));
    // All have one answer or another, in the storm or soon after it.
    let answered = refused + figure("denied") + figure("login.count") + figure("unanswered");
    let offered = figure("offered") * 2.0;
    assert!((answered - offered).abs() < 1.0, "{answered} of {offered}: {:#}", outcome.0);
    assert!(outcome.figure("server.rss_growth_bytes") > 8.0 * 1024.0 * 1024.0);
}
