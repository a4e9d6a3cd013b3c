use std::collections::BTreeMap;

use super::*;
use crate::{
    outcome::{Figures, PhaseSpan},
    scenario::Scenario,
};

fn outcome(figures: &[(&str, f64)]) -> Outcome {
    let figures = figures.iter().map(|&(name, value)| (name.to_owned(), value));
    Outcome {
        version: outcome::VERSION,
        server_version: None,
        began_at: "2026-01-01T00:00:00Z".to_owned(),
        scenario: Scenario::default(),
        figures: Figures::from_iter(figures),
        percentiles_ms: [0.0; 3],
        thresholds: Vec::new(),
        violations: 0,
        evidence: Vec::new(),
        errors: BTreeMap::new(),
        warnings: Vec::new(),
        phases: vec![PhaseSpan { phase: Phase::Plateau, begins: 10.0, ends: 20.0 }],
        seconds: Vec::new(),
        curves: BTreeMap::new(),
        server_threads: BTreeMap::new(),
        processes: BTreeMap::new(),
        chaos: Vec::new(),
    }
}

/// A run whose seconds have this p99, of which the first ten are no plateau.
fn outcome_with_seconds(p99: f64, seconds: [f64; 10]) -> Outcome {
    let second = |(at, p99): (u32, f64)| Second {
        at: f64::from(at) + 1.0,
        deliver: Some([0.0, 0.0, 0.0, p99, 0.0]),
        ..Second::default()
    };
    let seconds = (0..).zip([1_000.0; 10].into_iter().chain(seconds)).map(second).collect();
    Outcome { seconds, ..outcome(&[("deliver.p99", p99)]) }
}

fn judge(name: &str, a: f64, b: f64) -> Judgement {
    Row::new(name.to_owned(), &outcome(&[(name, a)]), &outcome(&[(name, b)]), 5.0).judgement
}

#[test]
fn each_figure_knows_what_is_better() {
    for (name, a, b, expected) in [
        ("login.p99", 10.0, 12.0, Judgement::Worse),
        ("login.p99", 12.0, 10.0, Judgement::Better),
        ("login.p99", 100.0, 105.0, Judgement::Same),
        ("deliveries_per_s", 100.0, 120.0, Judgement::Better),
        ("deliveries_per_s", 100.0, 80.0, Judgement::Worse),
        ("users", 100.0, 200.0, Judgement::None),
        ("unheard_of", 1.0, 2.0, Judgement::None),
        ("lost", 0.0, 1.0, Judgement::Worse),
        ("lost", 0.0, 0.0, Judgement::Same),
    ] {
        assert_eq!(judge(name, a, b), expected, "{name} {a} {b}");
    }
}

#[test]
fn a_figure_that_one_run_does_not_have_is_not_judged() {
    let row = Row::new("lost".to_owned(), &outcome(&[("lost", 1.0)]), &outcome(&[]), 5.0);
    assert_eq!((row.b, row.change_percent, row.judgement), (None, None, Judgement::None));
}

#[test]
fn a_difference_within_the_spread_of_the_seconds_is_the_same() {
    let noisy = [10.0, 30.0, 12.0, 28.0, 14.0, 26.0, 16.0, 24.0, 18.0, 22.0];
    let still = [20.0, 20.1, 19.9, 20.0, 20.1, 19.9, 20.0, 20.1, 19.9, 20.0];
    let judge = |seconds| {
        let (a, b) = (outcome_with_seconds(20.0, seconds), outcome_with_seconds(23.0, seconds));
        Row::new("deliver.p99".to_owned(), &a, &b, 5.0)
    };
    let row = judge(noisy);
    assert_eq!((row.judgement, row.change_percent), (Judgement::Same, Some(15.0)));
    // The deviations from 20 are 2, 2, 4, 4, 6, 6, …: 1.4826 · 6 · √(π/20) is one error.
    assert!(row.noise.is_some_and(|noise| (9.9..10.0).contains(&noise)), "{row:?}");
    assert_eq!(judge(still).judgement, Judgement::Worse);
}

#[test]
fn too_few_seconds_have_no_spread() {
    assert_eq!(error_of_median(&[1.0, 2.0, 3.0, 4.0]), None);
    assert_eq!(error_of_median(&[7.0; 5]), Some(0.0));
    assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
}

#[test]
fn runs_of_different_scenarios_are_warned_of() {
    let a = outcome(&[]);
    let mut b = Outcome { warnings: vec!["the generator was busy".to_owned()], ..a.clone() };
    b.scenario.set_users(300);
    b.scenario.about = "something else".to_owned();
    let warnings = Comparison::new(&a, &b, 5.0).warnings;
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[0].starts_with("the scenarios differ in stages: ["), "{warnings:?}");
    assert_eq!(warnings[1], "the scenarios differ in users: 425 and 300");
    assert_eq!(warnings[2], "B: the generator was busy");
}

#[test]
fn the_table_has_a_line_for_each_figure() {
    let a = outcome(&[("users", 425.0), ("deliver.p99", 8.0), ("server.rss_bytes", 22_000_000.0)]);
    let b = outcome(&[("users", 425.0), ("deliver.p99", 4.5), ("zzz", 0.25)]);
    let expected = "\
A  2026-01-01T00:00:00Z
B  2026-01-01T00:00:00Z

figure                    A        B   change  verdict
deliver.p99            8 ms  4.50 ms  -43.8 %  better
users                   425      425   +0.0 %  –
server.rss_bytes  20.98 MiB        –        –  –
zzz                       –    0.250        –  –
";
    assert_eq!(Comparison::new(&a, &b, 5.0).text(), expected);
}

#[test]
fn only_documents_of_this_layout_are_read() {
    let told = |text: &str| format!("{:#}", parse(text).unwrap_err());
    assert!(told("{").starts_with("it is no JSON: "));
    assert_eq!(told("{}"), "it is not the document of a run, as `loadtest run` writes it");
    assert_eq!(told("{\"version\":9}"), "its layout is number 9, and this program reads 1");
    let missing = told("{\"version\":1}");
    assert!(missing.starts_with("it is not the document of a run: missing field"), "{missing}");
    let written = serde_json::to_string(&outcome(&[("lost", 0.0)])).unwrap();
    assert_eq!(parse(&written).unwrap().figures, Figures::from([("lost".to_owned(), 0.0)]));
}

#[test]
fn a_worse_figure_fails_only_if_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, lost: f64| {
        let path = folder.path().join(name);
        fs::write(&path, serde_json::to_string(&outcome(&[("lost", lost)])).unwrap()).unwrap();
        path
    };
    let (a, b) = (write("a.json", 0.0), write("b.json", 3.0));
    let flags = |fail_on_worse| Flags { a: a.clone(), b: b.clone(), noise: 5.0, fail_on_worse };
    assert_eq!(run(&flags(false), true).unwrap(), Verdict::Holds);
    assert_eq!(run(&flags(true), false).unwrap(), Verdict::Broken);
    let missing = Flags { a: folder.path().join("c.json"), ..flags(false) };
    assert!(matches!(run(&missing, false), Err(Failure::Configuration(_))));
}

#[test]
fn a_share_is_read_with_or_without_its_sign() {
    assert_eq!((percent("5%"), percent("2.5"), percent("5 %")), (Ok(5.0), Ok(2.5), Ok(5.0)));
    assert!(percent("-1%").is_err() && percent("five").is_err() && percent("inf").is_err());
}
