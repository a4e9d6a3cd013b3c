//! The steps of `cargo xtask test`: one line of [`STEPS`] each, in the order in which they run.
//!
//! The order is that of patience: what fails fastest comes first. All steps share one target folder.
//! Up to `browser` they share the dev profile too, so clippy and rustdoc use the same checked
//! dependencies, and the tests and the peers in Python and TypeScript the same server; those after `release` run what
//! people run.

use std::{env, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{
    autobahn, fuzz,
    lane::Lane,
    node,
    report::{Counted, Outcome, Report, cargo_tests, check_unless, one_check, unittests},
    root, target,
    tools::{
        BUILD_SERVER_AND_ECHO, Command, cargo, cargo_deny, chromium, debian_package, install,
        install_chromium, nats_server, npm_packages, python_venv,
    },
};

/// One step: a name to choose it by, a line for people, and what it does.
pub(crate) struct Step {
    name: &'static str,
    about: &'static str,
    /// The part of `run` that the [second lane](crate::lane) can do before its turn; `run` finds it
    /// done, or does it. It has no part in target/debug, whose lock the other steps take.
    prepare: Option<fn() -> Result<()>>,
    run: fn() -> Result<Outcome>,
}

impl Step {
    const fn new(name: &'static str, about: &'static str, run: fn() -> Result<Outcome>) -> Self {
        Self { name, about, prepare: None, run }
    }

    const fn after(self, prepare: fn() -> Result<()>) -> Self {
        Self { prepare: Some(prepare), ..self }
    }
}

const STEPS: &[Step] = &[
    Step::new("fmt", "cargo fmt --all --check", fmt),
    Step::new("clippy", "cargo clippy, warnings are errors", clippy),
    Step::new("doc", "cargo doc, warnings are errors", doc),
    Step::new("test", "cargo test --workspace", test).after(|| nats_server().map(drop)),
    Step::new("2-shards", "what crosses shards, with 2", two_shards),
    Step::new("3-shards", "all that shards have a part in, with 3", three_shards),
    Step::new("cluster", "hubs on real NATS servers", cluster).after(cluster_tools),
    Step::new("deny", "cargo deny: bans, licences, sources", deny).after(|| cargo_deny().map(drop)),
    Step::new("advisories", "cargo deny: known vulnerabilities", advisories),
    Step::new("autobahn", "RFC 6455 and 7692, the quick part", autobahn::quick)
        .after(autobahn::prepare),
    Step::new("python", "a Python client, from proto/ alone", python)
        .after(|| python_of("python").map(drop)),
    Step::new("schemathesis", "the API against its documents", schemathesis)
        .after(schemathesis_tools),
    Step::new("interop", "ws, websockets, aiohttp and Chromium", interop).after(interop_peers),
    Step::new("sdk", "the TypeScript client, beside a server", node::sdk).after(node::prepare_sdk),
    Step::new("web", "the page: types, what is served, tests", node::web).after(node::prepare_web),
    Step::new("browser", "the page in Chromium", node::browser),
    Step::new("fuzz", "WebSocket, tokens, imports: 3 s each", fuzz::step).after(fuzz::prepare),
    Step::new("release", "cargo build --release", release).after(|| release().map(drop)),
    Step::new("reference", "100 users, every delivery audited", reference),
    Step::new("chaos", "14 restarts under 100 users, every delivery audited", chaos),
    Step::new("crash", "kill -9 under writers, 20 times", crash),
    Step::new("power-cut", "the disk's power cut, 5 times", power_cut),
    Step::new("control", "a server that does lose messages is caught", control),
    Step::new("faults", "a cluster: its leader is killed, then the power cut", faults),
];

/// Runs the steps of these names, or all.
///
/// A step that fails does not keep the others from running: one run tells everything.
pub(crate) fn run(only: &[String]) -> Result<ExitCode> {
    if let Some(unknown) = only.iter().find(|name| STEPS.iter().all(|step| step.name != **name)) {
        let names: Vec<_> = STEPS.iter().map(|step| step.name).collect();
        bail!("there is no step `{unknown}`; the steps are {}", names.join(", "));
    }
    let mut report = Report::default();
    // Who names steps waits for these, and for nothing else.
    let mut lane = if only.is_empty() { Lane::start() } else { None };
    for step in STEPS {
        if only.is_empty() || only.iter().any(|name| name == step.name) {
            report.step(step.name, step.about, || {
                if let (Some(lane), Some(_)) = (&mut lane, step.prepare) {
                    lane.wait_for(step.name);
                }
                (step.run)()
            });
        }
    }
    Ok(report.finish())
}

/// Prepares all steps, in their order, and prints the name of each that is prepared.
pub(crate) fn prepare() {
    for step in STEPS {
        if let Some(prepare) = step.prepare {
            // The step itself tells what fails.
            let _ = prepare();
            println!("{}", step.name);
        }
    }
}

/// Prints the table of steps.
pub(crate) fn list() {
    for step in STEPS {
        println!("{:<12} {}", step.name, step.about);
    }
}

/// Compares the contract with the released one, or takes it as released.
pub(crate) fn contract(accept: bool) -> Result<ExitCode> {
    let mut tests = cargo(["test", "--quiet", "--test", "contract", "--", "--nocapture"]);
    if accept {
        tests.env("HUBBUB_CONTRACT", "accept");
        // One thread: each golden file is written by one test and read by others.
        tests.arg("--test-threads=1");
    }
    let status = tests.status().context("cargo could not be started")?;
    if accept && status.success() {
        println!(
            "tests/contract/ holds the contract as it is now; read `git diff tests/contract`."
        );
    }
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn fmt() -> Result<Outcome> {
    let workspace = one_check("fmt", cargo(["fmt", "--all", "--check"]))?;
    if let Outcome::Failed { .. } = workspace {
        return Ok(workspace);
    }
    one_check("fmt-fuzz", cargo(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))
}

fn clippy() -> Result<Outcome> {
    let all = cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    let all = one_check("clippy", all)?;
    if let Outcome::Failed { .. } = all {
        return Ok(all);
    }
    // No part of all, as it is none of `cargo test`.
    let cluster = ["clippy", "--workspace", "--test", "cluster", "--", "-D", "warnings"];
    one_check("clippy-cluster", cargo(cluster))
}

fn doc() -> Result<Outcome> {
    let mut doc = cargo(["doc", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-Dwarnings");
    one_check("doc", doc)
}

fn test() -> Result<Outcome> {
    let nats = nats_server();
    let mut outcome = cargo_tests("test", cargo(["test", "--workspace", "--no-fail-fast"]))?;
    let (Outcome::Counted(counted) | Outcome::Failed { counted, .. }) = &mut outcome;
    // They say so themselves, where nobody sees it.
    counted.add(without_nats(nats.err(), "the tests of the engine on JetStream"));
    Ok(outcome)
}

/// Hubs that share an engine, on real servers of NATS that are killed and started again.
fn cluster() -> Result<Outcome> {
    if let Err(error) = nats_server() {
        return Ok(Outcome::Counted(without_nats(Some(error), "hubs on real NATS servers")));
    }
    // Of the whole workspace, as in `shards`: with it the server is the one that `test` has built.
    let tests = ["test", "--workspace", "--test", "cluster", "--no-fail-fast"];
    let mut outcome = cargo_tests("cluster", cargo(tests))?;
    if debian_package("haproxy").is_err() {
        let (Outcome::Counted(counted) | Outcome::Failed { counted, .. }) = &mut outcome;
        counted.add(Counted::skipped("the balancer of docs/CLUSTER.md: there is no haproxy"));
    }
    Ok(outcome)
}

/// What the step `cluster` fetches.
fn cluster_tools() -> Result<()> {
    install("haproxy");
    nats_server().map(drop)
}

/// These tests were not run, if there is an error.
fn without_nats(error: Option<anyhow::Error>, tests: &str) -> Counted {
    error.map_or_else(Counted::default, |error| {
        Counted::skipped(&format!("{tests}: there is no nats-server here: {error:#}"))
    })
}

/// What goes from one shard to another, which two do otherwise than three: there is one other.
const ACROSS_SHARDS: [&str; 8] = [
    "drain::",
    "members::",
    "nodes::",
    "presence::",
    "publish::",
    "read_markers::",
    "resume::",
    "revocation::",
];

/// The tests of what is decided before a shard has a part in it, or for one connection alone. `test` runs
/// them; another number of shards tells nothing new of these.
const AT_THE_DOOR: [&str; 11] = [
    "api_document::",
    "auth::",
    "guessing::",
    "json::",
    "limits::",
    "migrate::",
    "profile::",
    "session::",
    "timing::",
    "tls::",
    "tokens::",
];

fn two_shards() -> Result<Outcome> {
    shards("2-shards", "2", &ACROSS_SHARDS)
}

fn three_shards() -> Result<Outcome> {
    shards("3-shards", "3", &AT_THE_DOOR.map(|module| ["--skip", module]).concat())
}

/// The tests of the server that these arguments choose, with so many shards.
fn shards(name: &str, shards: &str, chosen: &[&str]) -> Result<Outcome> {
    // Of the whole workspace, as in `test`: without the other members' features half of the dependencies
    // would be compiled anew, and the server with them.
    let mut tests = cargo(["test", "--workspace", "--test", "server", "--no-fail-fast", "--"]);
    tests.args(chosen).env("SHARDS", shards);
    cargo_tests(name, tests)
}

fn deny() -> Result<Outcome> {
    let mut deny = Command::new(cargo_deny()?);
    deny.args(["--color", "never", "check", "--hide-inclusion-graph"]);
    deny.args(["bans", "licenses", "sources"]);
    one_check("deny", deny)
}

/// Needs the RustSec database, which cargo-deny clones from GitHub. It is read where it lies
/// already, and never fetched: a build without internet must be able to finish.
fn advisories() -> Result<Outcome> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    // A fetch that failed leaves the folder behind, without a database in it.
    let fetched = home.is_some_and(|home| {
        let mut databases = home.join("advisory-dbs").read_dir().into_iter().flatten().flatten();
        databases.any(|database| database.path().join(".git").exists())
    });
    if !fetched {
        return Ok(Outcome::Counted(Counted::skipped(
            "no RustSec database here; `cargo deny fetch db` gets it from GitHub, and deny.toml \
             keeps the floors that matter by hand",
        )));
    }
    let mut deny = Command::new(cargo_deny()?);
    deny.args(["--color", "never", "--offline", "check", "advisories"]);
    one_check("advisories", deny)
}

/// The server as a stranger sees it: the wire contract compiled by Google's protoc, a WebSocket
/// library that is not ours, and no Rust.
fn python() -> Result<Outcome> {
    python_peers("python", "test_*.py", |_| Ok(()))
}

/// The HTTP API against its OpenAPI documents, and the page that shows one.
fn schemathesis() -> Result<Outcome> {
    python_peers("schemathesis", "test_*.py", |unittest| {
        if let Some(chromium) = chromium() {
            unittest.env("CHROMIUM", chromium);
        }
        Ok(())
    })
}

/// WebSocket libraries that are not ours, and a browser, with permessage-deflate off and on.
fn interop() -> Result<Outcome> {
    python_peers("interop", "peers.py", |unittest| {
        if let Some(folder) = npm_packages("interop", &root().join("tests/interop"))? {
            unittest.env("NODE_FOLDER", folder);
        }
        if let Some(chromium) = chromium() {
            unittest.env("CHROMIUM", chromium);
        }
        Ok(())
    })
}

/// What the step `schemathesis` fetches. It is the first that wants Chromium: the later ones find it
/// whole, or not at all.
fn schemathesis_tools() -> Result<()> {
    install_chromium();
    python_of("schemathesis").map(drop)
}

/// What the step `interop` fetches.
fn interop_peers() -> Result<()> {
    python_of("interop")?;
    npm_packages("interop", &root().join("tests/interop")).map(drop)
}

/// The Python that has what `tests/NAME` needs.
fn python_of(name: &str) -> Result<PathBuf> {
    python_venv(name, &root().join("tests").join(name).join("requirements.txt"))
}

/// Python's unittest on the files of this pattern in `tests/NAME`, beside a server.
fn python_peers(
    name: &str,
    pattern: &str,
    prepare: impl FnOnce(&mut Command) -> Result<()>,
) -> Result<Outcome> {
    let build = one_check(&format!("{name}-server"), cargo(BUILD_SERVER_AND_ECHO))?;
    if let Outcome::Failed { .. } = build {
        return Ok(build);
    }
    let folder = root().join("tests").join(name);
    let mut unittest = Command::new(python_of(name)?);
    unittest.args(["-m", "unittest", "discover", "--verbose", "--pattern", pattern]);
    unittest.arg("--start-directory").arg(&folder);
    unittest.env("HUBBUB", target().join("debug/hubbub"));
    unittest.env("PYTHONDONTWRITEBYTECODE", "1");
    prepare(&mut unittest)?;
    unittests(name, unittest)
}

fn release() -> Result<Outcome> {
    one_check(
        "release",
        cargo(["build", "--release", "--package", "hubbub", "--package", "loadtest"]),
    )
}

fn reference() -> Result<Outcome> {
    let arguments = "run --start-server --scenario reference-425 --users 100 --rate-per-user 0.5 \
                     --ramp-up 2s --plateau 10s --ramp-down 2s";
    loadtest("reference", arguments)
}

fn chaos() -> Result<Outcome> {
    let arguments = "run --start-server --users 100 --rate-per-user 1 --channels 3 --ramp-up 2s \
                     --plateau 21s --ramp-down 2s --chaos kill*10 --chaos term*4 --chaos stop:500ms@11s \
                     --threshold lost==0 --threshold acknowledged_lost==0 --threshold reconnects>=1000";
    loadtest("chaos", arguments)
}

fn crash() -> Result<Outcome> {
    loadtest("crash", "crash --cycles 20")
}

fn power_cut() -> Result<Outcome> {
    loadtest("power-cut", "crash --power-cut --cycles 5")
}

/// Without it nobody would know whether the steps before could fail at all.
fn control() -> Result<Outcome> {
    loadtest("control", "crash --power-cut --cycles 20 --synchronous normal --expect-loss")
}

/// Three hubs on three servers of NATS, and every message audited while these break.
fn faults() -> Result<Outcome> {
    if let Err(error) = nats_server() {
        return Ok(Outcome::Counted(without_nats(Some(error), "faults of a cluster")));
    }
    let mut all = Counted::default();
    for (name, arguments) in [
        ("faults-leader", "cluster --fault kill-leader --cycles 1 --hold 8s"),
        ("faults-power-cut", "cluster --fault power-cut --cycles 1 --hold 100ms"),
    ] {
        match loadtest(name, arguments)? {
            Outcome::Counted(counted) => all.add(counted),
            failed @ Outcome::Failed { .. } => return Ok(failed),
        }
    }
    Ok(Outcome::Counted(all))
}

/// One run of the load generator, as it was built by the step `release`. It can cut a disk's power
/// only as root and where there are loop devices.
fn loadtest(name: &str, arguments: &str) -> Result<Outcome> {
    let program = target().join("release/loadtest");
    if !program.is_file() {
        bail!("{} is missing: the step `release` builds it", program.display());
    }
    let mut run = Command::new(program);
    run.args(arguments.split_whitespace());
    check_unless("a power cut needs", name, run)
}
