//! The steps of what is written in TypeScript: the client, the page, and the page in a browser.
//!
//! A package says by its scripts what is to be run: `check` (types, and that what is generated is
//! fresh), `test`, `test:server` beside a server, `test:browser` in a browser too. Its packages from npm
//! lie beside its sources, where imports look for them.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::{
    report::{Counted, Outcome, node_tests, one_check},
    root, target,
    tools::{BUILD_SERVER_AND_ECHO, Command, cargo, chromium, install_chromium, npm_ci},
};

/// Seconds that one script may take: far more than it does. Then it is killed, and has failed.
const SCRIPT_DEADLINE_S: &str = "300";

const NO_NODE: &str = "no Node.js of version 20 or newer with npm here";

/// The client of TypeScript.
pub(crate) fn sdk() -> Result<Outcome> {
    let package = sdk_package();
    if !npm_ci("sdk", &package)? {
        return Ok(not_run("the TypeScript client was neither checked nor tested", NO_NODE));
    }
    let server = target().join("debug/hubbub");
    one_after_another([
        &|| one_check("sdk-check", script(&package, "check")),
        &|| node_tests("sdk-test", script(&package, "test")),
        &build_server,
        &|| {
            let mut tests = script(&package, "test:server");
            tests.env("HUBBUB", &server);
            node_tests("sdk-server", tests)
        },
    ])
}

/// The page, without a browser.
pub(crate) fn web() -> Result<Outcome> {
    let package = web_package();
    if !npm_ci("web", &package)? {
        return Ok(not_run("the page was not checked, and may not be what is served", NO_NODE));
    }
    one_after_another([&|| one_check("web-check", script(&package, "check")), &|| {
        node_tests("web-test", script(&package, "test"))
    }])
}

/// The page as a server has it, in a browser that is real.
pub(crate) fn browser() -> Result<Outcome> {
    const NOT_TRIED: &str = "the page was not tried in a browser";
    let package = web_package();
    if !npm_ci("web", &package)? {
        return Ok(not_run(NOT_TRIED, NO_NODE));
    }
    // Installed by an earlier step, where it could be.
    install_chromium();
    let Some(chromium) = chromium() else {
        return Ok(not_run(NOT_TRIED, "no Chromium here, and apt-get could not install one"));
    };
    one_after_another([&build_server, &|| {
        let mut tests = script(&package, "test:browser");
        tests.env("HUBBUB", target().join("debug/hubbub")).env("CHROMIUM", &chromium);
        node_tests("browser", tests)
    }])
}

/// What the step `sdk` fetches.
pub(crate) fn prepare_sdk() -> Result<()> {
    npm_ci("sdk", &sdk_package()).map(drop)
}

/// What the steps `web` and `browser` fetch.
pub(crate) fn prepare_web() -> Result<()> {
    npm_ci("web", &web_package()).map(drop)
}

fn sdk_package() -> PathBuf {
    root().join("sdk/typescript")
}

fn web_package() -> PathBuf {
    root().join("web")
}

fn build_server() -> Result<Outcome> {
    one_check("node-server", cargo(BUILD_SERVER_AND_ECHO))
}

/// One of a package's scripts, whose tests say in TAP how they went.
fn script(package: &Path, name: &str) -> Command {
    let mut npm = Command::new("timeout");
    npm.args(["--kill-after", "10", SCRIPT_DEADLINE_S, "npm", "--no-update-notifier", "--prefix"]);
    npm.arg(package).args(["run", name]);
    npm.env("NODE_OPTIONS", "--test-reporter=tap");
    npm
}

fn not_run(what: &str, why: &str) -> Outcome {
    Outcome::Counted(Counted::skipped(&format!("{why}: {what}")))
}

/// The sum of all, or of those up to the first that fails: the later ones stand on the earlier.
fn one_after_another<const N: usize>(parts: [&dyn Fn() -> Result<Outcome>; N]) -> Result<Outcome> {
    let mut sum = Counted::default();
    for part in parts {
        match part()? {
            Outcome::Counted(counted) => sum.add(counted),
            Outcome::Failed { counted, output, log } => {
                sum.add(counted);
                return Ok(Outcome::Failed { counted: sum, output, log });
            }
        }
    }
    Ok(Outcome::Counted(sum))
}
