//! What is made of more than one run: a search for the capacity, a comparison; and the page of one.

use std::fs;

use serde_json::Value;

use crate::harness::loadtest;

/// A run of a second, beside which nothing else happens.
const SHORT: [&str; 5] =
    ["--start-server", "--idle=0s", "--ramp-up=200ms", "--plateau=1s", "--ramp-down=200ms"];

async fn json(arguments: &[&str], code: i32) -> Value {
    let arguments: Vec<_> = arguments.iter().chain(&SHORT).chain(&["--json"]).copied().collect();
    let ran = loadtest(&arguments).await;
    ran.assert_code(code);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[tokio::test]
async fn a_search_ends_at_the_most_users_that_pass() {
    let search = ["capacity", "--rate-per-user=5", "--slo=lost==0", "--from=2", "--to=4"];
    let found = json(&search, 0).await;
    assert_eq!((&found["users"], &found["too_many"]), (&4.into(), &Value::Null));
    let users: Vec<_> = found["steps"].as_array().unwrap().iter().map(|it| &it["users"]).collect();
    assert_eq!(users, [2, 4]);
}

#[tokio::test]
async fn a_bound_that_nobody_keeps_is_what_gave_out_first() {
    let search = ["capacity", "--rate-per-user=5", "--slo=deliver.p50<1us", "--from=2", "--to=4"];
    let found = json(&search, 99).await;
    assert_eq!(found["users"], 0);
    let why = found["gave_out_first"].as_str().unwrap();
    assert!(why.starts_with("deliver.p50<1us broke (it was "), "{why}");
}

#[tokio::test]
async fn two_runs_are_compared_and_each_has_its_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let page = format!("--report={}", path("page.html"));
    for (name, users) in [("a.json", "--users=3"), ("b.json", "--users=4")] {
        let outcome = json(&["run", users, "--rate-per-user=5", &page], 0).await;
        fs::write(path(name), outcome.to_string()).unwrap();
        let page = fs::read_to_string(path("page.html")).unwrap();
        assert!(page.contains("Passed") && page.contains("audit found no violation"), "{page}");
    }
    let ran = loadtest(&["compare", &path("a.json"), &path("b.json")]).await;
    ran.assert_code(0);
    for text in ["deliver.p99", "deliveries_per_s", "users"] {
        assert!(ran.stdout.contains(text), "no {text} in {}", ran.stdout);
    }
    let ran = loadtest(&["compare", &path("a.json"), &path("page.html")]).await;
    ran.assert_refused(104, &["page.html"]);
}
