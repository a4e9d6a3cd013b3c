//! The fuzz targets of `fuzz/`: built by a nightly compiler, started from the committed seeds.
//!
//! What a run finds interesting stays under `target/`, and the next run goes on from there; an input
//! that breaks a target is kept beside it, to be run again by hand.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Result;

use crate::{
    report::{Counted, Outcome, one_check},
    root, target,
    tools::{Command, cargo_fuzz, nightly},
};

const TARGETS: [&str; 4] = ["reader", "negotiation", "inflate", "verify_token"];

/// How long `cargo xtask test` runs each target.
const STEP_SECONDS: u32 = 8;

/// How long an input may be: a few messages, or one in many pieces.
const INPUT_BYTES_MAX: u32 = 8192;

/// How much memory a target may take, in MiB. With the sanitizer's shadow and its quarantine it is
/// some hundreds; the targets themselves hold the reader to its bound, to the byte.
const MEMORY_MIB_MAX: u32 = 2048;

/// Runs every target for so many seconds, and says how each went.
pub(crate) fn run(seconds: u32) -> Result<ExitCode> {
    Ok(match fuzz(seconds)? {
        Outcome::Counted(counted) => {
            println!("{counted}");
            ExitCode::SUCCESS
        }
        Outcome::Failed { output, log, .. } => {
            println!("{output}\n(all of it: {})", log.display());
            ExitCode::FAILURE
        }
    })
}

/// A few seconds of each, for CI.
pub(crate) fn step() -> Result<Outcome> {
    fuzz(STEP_SECONDS)
}

fn fuzz(seconds: u32) -> Result<Outcome> {
    if !nightly() {
        return Ok(Outcome::Counted(Counted::skipped(
            "rustup has no nightly toolchain, which the sanitizer and the coverage need: \
             `rustup toolchain install nightly`",
        )));
    }
    let Some(cargo_fuzz) = cargo_fuzz() else {
        return Ok(Outcome::Counted(Counted::skipped(
            "cargo-fuzz is not here and could not be installed: see target/xtask/cargo-fuzz.log",
        )));
    };
    let built = target().join("fuzz");
    let mut build = Command::new("rustup");
    build.args(["run", "nightly"]).arg(cargo_fuzz).args(["build", "--fuzz-dir"]);
    build.arg(root().join("fuzz")).arg("--target-dir").arg(&built);
    // Of the cargo that runs this program, whose compiler is another.
    build.env_remove("CARGO").env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
    let build = one_check("fuzz-build", build)?;
    if let Outcome::Failed { .. } = build {
        return Ok(build);
    }
    for name in TARGETS {
        let outcome = one_check(&format!("fuzz-{name}"), fuzzer(name, seconds)?)?;
        if let Outcome::Failed { .. } = outcome {
            return Ok(outcome);
        }
    }
    Ok(Outcome::Counted(Counted::of(TARGETS.len(), 0)))
}

/// The run of a target that is built.
fn fuzzer(name: &str, seconds: u32) -> Result<Command> {
    let corpus = target().join("fuzz-corpus").join(name);
    fs::create_dir_all(&corpus)?;
    let mut run = Command::new(program(name));
    // New inputs go to the first folder; the seeds are only read.
    run.arg(corpus).arg(root().join("fuzz/seeds").join(name));
    run.arg(format!("-max_total_time={seconds}")).arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"));
    run.args(["-print_final_stats=1", "-timeout=10", &format!("-max_len={INPUT_BYTES_MAX}")]);
    run.arg(format!("-artifact_prefix={}/{name}-", target().join("fuzz-corpus").display()));
    Ok(run)
}

fn program(name: &str) -> PathBuf {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    target().join("fuzz").join(platform).join("release").join(name)
}
