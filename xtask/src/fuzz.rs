//! The fuzz targets of `fuzz/`: built by a nightly compiler, started from the committed seeds.
//!
//! What a run finds interesting stays under `target/`, and the next run goes on from there; an input
//! that breaks a target is kept beside it, to be run again by hand.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Result;

use crate::{
    report::{Counted, Outcome, one_check},
    root, target,
    tools::{Command, nightly},
};

const TARGETS: [&str; 5] = ["reader", "negotiation", "inflate", "verify_token", "import_line"];

/// How long `cargo xtask test` runs each target.
const STEP_SECONDS: u32 = 3;

/// How long an input may be: a few messages, or one in many pieces.
const INPUT_BYTES_MAX: u32 = 8192;

/// How much memory a target may take, in MiB. With the sanitizer's shadow and its quarantine it is
/// some hundreds; the targets themselves hold the reader to its bound, to the byte.
const MEMORY_MIB_MAX: u32 = 2048;

/// The sanitizer, and the coverage that libFuzzer reads: counters, comparisons and the stack's depth.
const INSTRUMENTED: [&str; 8] = [
    "-Zsanitizer=address",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-sanitizer-coverage-stack-depth",
    "--cfg=fuzzing",
];

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

/// Builds the targets, for [`step`].
pub(crate) fn prepare() -> Result<()> {
    if nightly() { build().map(drop) } else { Ok(()) }
}

fn fuzz(seconds: u32) -> Result<Outcome> {
    if !nightly() {
        return Ok(Outcome::Counted(Counted::skipped(
            "rustup has no nightly toolchain, which the sanitizer and the coverage need: \
             `rustup toolchain install nightly`",
        )));
    }
    let build = build()?;
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

/// Builds all targets. What cargo-fuzz would do as well, without its compilation and without code that
/// nothing calls.
fn build() -> Result<Outcome> {
    let mut build = Command::new("rustup");
    build.args(["run", "nightly", "cargo", "build", "--release", "--manifest-path"]);
    build.arg(root().join("fuzz/Cargo.toml")).arg("--target-dir").arg(target().join("fuzz"));
    // With a target named, the flags are not those of build scripts and macros.
    build.args(["--target", &platform()]).env("RUSTFLAGS", INSTRUMENTED.join(" "));
    // Of the cargo that runs this program, whose compiler is another.
    build.env_remove("CARGO").env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
    one_check("fuzz-build", build)
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
    target().join("fuzz").join(platform()).join("release").join(name)
}

fn platform() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}
