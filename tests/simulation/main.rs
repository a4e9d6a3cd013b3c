//! The hub's pure core under virtual time: nodes, clients and a log that fails in every way, in an
//! order that a seed decides.
//!
//! Each seed is one history of some thousand steps. A failure prints its seed; `SEED=… cargo test
//! --test simulation` runs that one again, step for step. `SEEDS=…` sets how many are tried.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod cluster;
mod members;
mod world;

use cluster::Cluster;
use members::Members;
use world::{Defect, World};

const SEEDS: u64 = 300;
const STEPS: u32 = 1_500;
/// Histories of a cluster.
const CLUSTER_SEEDS: u64 = 300;
/// Histories of members and settings, and operations in each: 100,000 together.
const MEMBERS_SEEDS: u64 = 250;
const MEMBERS_STEPS: u32 = 400;

fn run(seed: u64, defect: Defect) -> Result<(), String> {
    let mut world = World::new(seed, defect);
    for _ in 0..STEPS {
        world.step()?;
    }
    world.settle()
}

fn run_cluster(seed: u64, defect: cluster::Defect) -> Result<(), String> {
    let mut cluster = Cluster::new(seed, defect);
    for _ in 0..STEPS {
        cluster.step()?;
    }
    cluster.settle()
}

fn run_members(seed: u64, defect: members::Defect) -> Result<(), String> {
    let mut members = Members::new(seed, defect);
    for _ in 0..MEMBERS_STEPS {
        members.step()?;
    }
    members.settle()
}

fn seeds(count: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|seed: String| seed.parse().ok());
    match number("SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SEEDS").unwrap_or(count)).collect(),
    }
}

#[test]
fn every_promise_holds_whatever_the_engine_does() {
    for seed in seeds(SEEDS) {
        if let Err(broken) = run(seed, Defect::None) {
            panic!("SEED={seed}: {broken}");
        }
    }
}

/// The control: a world with a defect must be found out, or the test above proves nothing.
#[test]
fn a_core_with_a_defect_is_found_out() {
    for defect in [
        Defect::LosesDelivery,
        Defect::RepeatsDelivery,
        Defect::AcknowledgesUncommitted,
        Defect::ForgetsKeys,
        Defect::TrustsFork,
    ] {
        let caught = (0..60).filter(|&seed| run(seed, defect).is_err()).count();
        assert!(caught > 0, "{defect:?} was not found out");
    }
}

#[test]
fn every_promise_holds_in_a_cluster() {
    for seed in seeds(CLUSTER_SEEDS) {
        if let Err(broken) = run_cluster(seed, cluster::Defect::None) {
            panic!("SEED={seed}: {broken}");
        }
    }
}

/// The control for what a cluster adds.
#[test]
fn a_cluster_with_a_defect_is_found_out() {
    use cluster::Defect::*;
    for defect in [
        RepliesBeforeItsTurn,
        AnswersBeforeCommit,
        MixesAnswers,
        WaitsForever,
        ForgetsKeys,
        IgnoresReset,
    ] {
        let caught = (0..20).filter(|&seed| run_cluster(seed, defect).is_err()).count();
        assert!(caught > 0, "{defect:?} was not found out");
    }
}

#[test]
fn nobody_does_or_hears_what_the_log_does_not_allow() {
    for seed in seeds(MEMBERS_SEEDS) {
        if let Err(broken) = run_members(seed, members::Defect::None) {
            panic!("SEED={seed}: {broken}");
        }
    }
}

/// The control for each of its assertions.
#[test]
fn a_defect_about_members_is_found_out() {
    use members::Defect::*;
    for defect in [
        PublishesWithoutRight,
        DeliversToWhoLeft,
        HandsPagesOut,
        LosesRecords,
        MisreadsMembers,
        ForgetsUsage,
        RefusesOtherwise,
        FindsNothing,
        ForgetsAnswers,
        TrustsItsFeed,
    ] {
        let caught = (0..20).filter(|&seed| run_members(seed, defect).is_err()).count();
        assert!(caught > 0, "{defect:?} was not found out");
    }
}
