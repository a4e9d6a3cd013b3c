//! What is measured of the HTTP API, in the small: quotas under kills, imports, a store that grows.

use serde_json::Value;

use crate::harness::loadtest;

async fn json(arguments: &[&str]) -> Value {
    let ran = loadtest(&[arguments, &["--json"]].concat()).await;
    ran.assert_code(0);
    serde_json::from_str(&ran.stdout).unwrap()
}

/// Of each turn: added, known and invalid lines.
fn counts(import: &Value) -> Vec<[u64; 3]> {
    let turns = import["turns"].as_array().unwrap().iter();
    turns
        .map(|turn| {
            assert_eq!(turn["complaint"], Value::Null, "{turn:#}");
            ["added", "known", "invalid"].map(|name| turn["counts"][name].as_u64().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn a_quota_holds_while_its_server_is_killed() {
    let quota = ["quota", "--messages-max=500", "--beyond=300", "--kills=2"];
    let found = json(&quota).await;
    assert_eq!(found["violations"], 0, "{found:#}");
    assert_eq!((&found["in_history"], &found["accepted"]), (&500.into(), &500.into()));
    assert_eq!((&found["quota_exhausted"], &found["kills"]), (&300.into(), &2.into()));
}

#[tokio::test]
async fn an_import_adds_each_record_once_whole_or_in_requests() {
    let import = ["import", "--records=20000", "--invalid=7", "--rounds=1", "--requests=20"];
    let found = json(&[&import[..], &["--only=file,requests"]].concat()).await;
    assert_eq!(counts(&found), [[19_993, 0, 7], [19_993, 0, 7]]);
}

#[tokio::test]
async fn a_file_that_comes_again_adds_nothing() {
    let found = json(&["import", "--records=20000", "--twice"]).await;
    assert_eq!(counts(&found), [[20_000, 0, 0], [0, 20_000, 0]]);
}

#[tokio::test]
async fn a_store_that_grows_is_asked_at_each_step() {
    let growth = ["growth", "--messages=10000", "--small=2500", "--slices=1", "--requests=50"];
    let found = json(&growth).await;
    let steps = found["steps"].as_array().unwrap();
    let fills: Vec<_> = steps.iter().map(|step| step["messages"].as_u64().unwrap()).collect();
    assert_eq!((fills.first(), fills.last()), (Some(&2_500), Some(&10_000)), "{found:#}");
    for step in steps {
        assert_eq!(step["asked"].as_array().unwrap().len(), 5, "{step:#}");
    }
}
