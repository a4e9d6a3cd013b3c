//! Programs that the steps need beyond cargo: found on the machine, or set up under `target/tools`.
//!
//! Everything that is fetched is pinned: Python wheels by their hashes, cargo-deny by its version
//! and lock file. A C compiler is not looked for: without one, cargo could not have built this
//! program either, and says so itself.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

pub(crate) use std::process::Command;

use crate::{report::log_file, root, target};

/// Ours, unless the machine has one already.
const CARGO_DENY: &str = "0.20.2";

/// The oldest Python that the interop tests are written for.
const PYTHON_MINOR_MIN: u32 = 11;

/// The Python of the Autobahn suite.
const PYTHON_2: &str = "2.7.18";

/// What others talk to, as `cargo test --workspace` has built it. Cargo compiles dependencies with the
/// features that all packages of a command want, examples their dev-dependencies too; without the
/// others or without an example most would be compiled anew.
pub(crate) const BUILD_SERVER_AND_ECHO: [&str; 6] =
    ["build", "--workspace", "--bin", "hubbub", "--example", "websocket_echo"];

/// A cargo command, run from the root of the workspace.
pub(crate) fn cargo<const N: usize>(arguments: [&str; N]) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).current_dir(root());
    // What cargo tells this program of its own package. ring is compiled anew, and all above it, when
    // these are others than the last time, as they are not there for who calls cargo by hand.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&*name);
        }
    }
    cargo
}

/// A cargo-deny of our version, built once.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    cargo_tool("cargo-deny", CARGO_DENY)
}

/// Whether rustup has a nightly toolchain. It is never fetched: that would be hundreds of megabytes.
pub(crate) fn nightly() -> bool {
    let list = Command::new("rustup").args(["toolchain", "list"]).output();
    list.is_ok_and(|list| {
        list.stdout.split(|byte| *byte == b'\n').any(|it| it.starts_with(b"nightly-"))
    })
}

fn cargo_tool(name: &str, version: &str) -> Result<PathBuf> {
    let installed = target().join("tools/bin").join(name);
    if version_of(&installed).is_some_and(|installed| installed == version) {
        return Ok(installed);
    }
    // Unoptimised and without debug information: it runs for a second and would compile for minutes.
    let mut install = cargo(["install", "--quiet", "--locked", "--debug", "--force"]);
    install.env("CARGO_PROFILE_DEV_DEBUG", "none");
    install.args(["--version", version, name, "--root"]).arg(target().join("tools"));
    install.arg("--target-dir").arg(target().join("tools/build"));
    succeed(name, install)?;
    // The build folder is large and of no further use.
    fs::remove_dir_all(target().join("tools/build"))?;
    Ok(installed)
}

fn version_of(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?;
    line.split_whitespace().last().map(str::to_owned)
}

/// The Python of a virtual environment that holds exactly what a requirements file names.
pub(crate) fn python_venv(name: &str, requirements: &Path) -> Result<PathBuf> {
    let folder = pinned(&format!("venv-{name}"), &[requirements], |folder| {
        if Command::new("python3").arg("--version").output().is_err() {
            bail!("`python3` was not found: install Python 3.{PYTHON_MINOR_MIN} or newer");
        }
        let minor = format!("import sys; sys.exit(sys.version_info < (3, {PYTHON_MINOR_MIN}))");
        let mut version = Command::new("python3");
        version.args(["-c", &minor]);
        if !version.status().is_ok_and(|status| status.success()) {
            bail!("python3 is older than 3.{PYTHON_MINOR_MIN}");
        }
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv"]).arg(folder);
        succeed("python-venv", venv)?;
        // The hashes are of wheels: nothing is built here.
        let install = pip_install(&folder.join("bin/python"), requirements);
        succeed("python-pip", with(install, &["--only-binary", ":all:"]))
    })?;
    Ok(folder.join("bin/python"))
}

/// The Autobahn suite's own runner, which lives in Python 2.7. `None` where there is no such Python.
pub(crate) fn wstest() -> Result<Option<PathBuf>> {
    let Some(python2) = python2() else { return Ok(None) };
    let folder = root().join("tests/autobahn");
    let (virtualenv, wstest) = (folder.join("virtualenv.txt"), folder.join("wstest.txt"));
    let maker = python_venv("virtualenv", &virtualenv)?;
    let folder = pinned("venv-wstest", &[&wstest], |folder| {
        let mut venv = Command::new(maker);
        venv.args(["-m", "virtualenv", "--quiet", "--no-download", "--python"]);
        venv.arg(python2).arg(folder);
        succeed("wstest-venv", venv)?;
        // Some come as source only, and are built with what the environment has.
        let install = pip_install(&folder.join("bin/python"), &wstest);
        succeed("wstest-pip", with(install, &["--no-build-isolation"]))
    })?;
    Ok(Some(folder.join("bin/wstest")))
}

/// Python 2.7, if pyenv has it: distributions carry it no more.
fn python2() -> Option<PathBuf> {
    let output = Command::new("pyenv").arg("root").output().ok()?;
    let pyenv = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    let python = pyenv.join(format!("versions/{PYTHON_2}/bin/python2.7"));
    python.is_file().then_some(python)
}

/// The oldest Node.js that the TypeScript is written for.
const NODE_MAJOR_MIN: u32 = 20;

/// The folder of the npm packages that a lock file names. `None` where there is no npm.
pub(crate) fn npm_packages(name: &str, package: &Path) -> Result<Option<PathBuf>> {
    if !has_npm() {
        return Ok(None);
    }
    let (manifest, lock) = (package.join("package.json"), package.join("package-lock.json"));
    let folder = pinned(&format!("npm-{name}"), &[&manifest, &lock], |folder| {
        fs::create_dir_all(folder)?;
        fs::copy(&manifest, folder.join("package.json"))?;
        fs::copy(&lock, folder.join("package-lock.json"))?;
        succeed("npm", npm_install(folder))
    })?;
    Ok(Some(folder))
}

/// Puts the packages that a lock file names beside the sources that import them, which look for them
/// there. Whether there is an npm that can.
pub(crate) fn npm_ci(name: &str, package: &Path) -> Result<bool> {
    if !has_npm() || node_major().is_none_or(|major| major < NODE_MAJOR_MIN) {
        return Ok(false);
    }
    let mut wanted = Vec::new();
    for pin in ["package.json", "package-lock.json"] {
        let pin = package.join(pin);
        let text = fs::read(&pin).with_context(|| format!("{} could not be read", pin.display()));
        wanted.extend(text?);
    }
    // npm empties the folder, so what it holds is what this file says.
    let stamp = package.join("node_modules/.pins.txt");
    if fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(true);
    }
    succeed(&format!("npm-{name}"), npm_install(package))?;
    fs::write(stamp, wanted)?;
    Ok(true)
}

/// By the lock's hashes, and without running anything that a package brings.
fn npm_install(folder: &Path) -> Command {
    let mut install = Command::new("npm");
    install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"]).arg(folder);
    install
}

fn has_npm() -> bool {
    let is_here = |program| Command::new(program).arg("--version").output().is_ok();
    is_here("node") && is_here("npm")
}

fn node_major() -> Option<u32> {
    let output = Command::new("node").arg("--version").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    version.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

/// A Chromium, if the machine has one.
pub(crate) fn chromium() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let places = || env::split_paths(&path);
    names.iter().find_map(|name| places().map(|place| place.join(name)).find(|it| it.is_file()))
}

/// Tries to install Chromium where there is none. What needs it says that it is not there.
pub(crate) fn install_chromium() {
    if chromium().is_none() {
        install("chromium");
    }
}

/// Tries to install a program where there is none. What needs it says that it is not there.
pub(crate) fn install(program: &str) {
    if debian_package(program).is_err() {
        // The lists of packages may be missing, or name versions that are gone.
        let mut update = Command::new("apt-get");
        update.args(["update", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=20"]);
        let _ = succeed("apt-get", update).and_then(|()| debian_package(program));
    }
}

/// A nats-server: the one that `NATS_SERVER` names, or the pinned one, where the tests look for it.
pub(crate) fn nats_server() -> Result<PathBuf> {
    if let Some(named) = env::var_os("NATS_SERVER").map(PathBuf::from).filter(|it| it.is_file()) {
        return Ok(named);
    }
    let python = python_venv("nats", &root().join("testnats/requirements.txt"))?;
    let program = python.with_file_name("nats-server");
    if !program.is_file() {
        bail!("{} is missing", program.display());
    }
    Ok(program)
}

/// Installs the Debian package of a program, unless the machine has the program. Needs root.
pub(crate) fn debian_package(program: &str) -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|place| place.join(program).is_file()) {
        return Ok(());
    }
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--no-install-recommends", program]);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    succeed(program, install)
}

/// Nothing comes that is not named, with its hash.
fn pip_install(python: &Path, requirements: &Path) -> Command {
    let mut install = Command::new(python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    install.args(["--require-hashes", "--no-deps", "--requirement"]).arg(requirements);
    install
}

fn with(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments);
    command
}

/// A folder under `target/tools` that `set_up` filled from these files, which pin what is in it. It is
/// made anew when one of them changes.
fn pinned(name: &str, pins: &[&Path], set_up: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = target().join("tools").join(name);
    let stamp = folder.join("pins.txt");
    let mut wanted = Vec::new();
    for pin in pins {
        let pin = fs::read(pin).with_context(|| format!("{} could not be read", pin.display()))?;
        wanted.extend(pin);
    }
    if fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(folder);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    set_up(&folder)?;
    fs::write(stamp, wanted)?;
    Ok(folder)
}

fn succeed(name: &str, mut command: Command) -> Result<()> {
    let (log, path) = log_file(name)?;
    command.stdout(log.try_clone()?).stderr(log).current_dir(root());
    let program = command.get_program().to_owned();
    let status =
        command.status().with_context(|| format!("{} could not be started", program.display()))?;
    if !status.success() {
        let said = fs::read_to_string(&path).unwrap_or_default();
        bail!("{name} could not be set up ({status}):\n{}", said.trim_end());
    }
    Ok(())
}
