//! `cargo xtask peers`: installs hubbub's peers, builds what is ours, and runs `loadtest peers`.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::{
    root, target,
    tools::{Command, cargo, debian_package, npm_packages, python_venv},
};

/// Also of the folders under `target/tools`, where `loadtest peers` looks for them.
const NAME: &str = "peers";

/// A peer that cannot be installed is left out; without any, there are still the floor and hubbub.
pub(crate) fn run(only_install: bool, arguments: &[String]) -> Result<ExitCode> {
    let sources = root().join("loadtest").join(NAME);
    let python = python_venv(NAME, &sources.join("requirements.txt")).map(drop);
    let node = npm_packages(NAME, &sources)
        .and_then(|folder| folder.map(drop).context("there is no Node.js with npm here"));
    let installed = [
        ("nats-server and the reference's stack", python),
        ("uWebSockets and ws", node),
        ("wrk, for `loadtest posts`,", debian_package("wrk")),
    ];
    let mut is_whole = true;
    for (what, installed) in installed {
        if let Err(error) = installed {
            eprintln!("{what} could not be installed: {error:#}");
            is_whole = false;
        }
    }
    if only_install {
        return Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let build = cargo(["build", "--release", "--package", "hubbub", "--package", "loadtest"]);
    if !succeeds(build)? {
        bail!("the release build failed");
    }
    let mut peers = Command::new(target().join("release/loadtest"));
    peers.arg(NAME).arg("--tools").arg(target().join("tools")).args(arguments);
    Ok(if succeeds(peers)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn succeeds(mut command: Command) -> Result<bool> {
    let status = command.current_dir(root()).status();
    let status = status.with_context(|| format!("{:?}", command.get_program()))?;
    Ok(status.success())
}
