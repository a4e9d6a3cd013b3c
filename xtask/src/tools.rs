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

/// A cargo command, run from the root of the workspace.
pub(crate) fn cargo<const N: usize>(arguments: [&str; N]) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).current_dir(root());
    cargo
}

/// A cargo-deny of our version, built once.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    let installed = target().join("tools/bin/cargo-deny");
    if version_of(&installed).is_some_and(|version| version == CARGO_DENY) {
        return Ok(installed);
    }
    // Unoptimised: it runs for a second and would compile for minutes.
    let mut install = cargo(["install", "--quiet", "--locked", "--debug", "--force"]);
    install.args(["--version", CARGO_DENY, "cargo-deny", "--root"]).arg(target().join("tools"));
    install.arg("--target-dir").arg(target().join("tools/build"));
    succeed("cargo-deny", install)?;
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
    let folder = target().join("tools").join(format!("venv-{name}"));
    let python = folder.join("bin/python");
    let stamp = folder.join("requirements.txt");
    let wanted = fs::read(requirements)
        .with_context(|| format!("{} could not be read", requirements.display()))?;
    if fs::read(&stamp).is_ok_and(|installed| installed == wanted) && python.exists() {
        return Ok(python);
    }

    if Command::new("python3").arg("--version").output().is_err() {
        bail!("`python3` was not found: install Python 3.{PYTHON_MINOR_MIN} or newer");
    }
    let minor = format!("import sys; sys.exit(sys.version_info < (3, {PYTHON_MINOR_MIN}))");
    let mut version = Command::new("python3");
    version.args(["-c", &minor]);
    if !version.status().is_ok_and(|status| status.success()) {
        bail!("python3 is older than 3.{PYTHON_MINOR_MIN}");
    }
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(&folder);
    succeed("python-venv", venv)?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    // The hashes are of wheels: nothing is built here, and nothing comes that is not named.
    install.args(["--require-hashes", "--no-deps", "--only-binary", ":all:", "--requirement"]);
    install.arg(requirements);
    succeed("python-pip", install)?;
    fs::write(stamp, wanted)?;
    Ok(python)
}

/// Puts exactly the npm packages that a lock file names into this folder of `target/tools`, and runs
/// no script of theirs.
pub(crate) fn node_packages(name: &str, sources: &Path) -> Result<()> {
    const FILES: [&str; 2] = ["package.json", "package-lock.json"];
    let folder = target().join("tools").join(name);
    let read = |folder: &Path| FILES.map(|file| fs::read(folder.join(file)).ok());
    let wanted = read(sources);
    if wanted.contains(&None) {
        bail!("{} has no {} and {}", sources.display(), FILES[0], FILES[1]);
    }
    // `npm ci` writes this file last.
    let is_whole = folder.join("node_modules/.package-lock.json").exists();
    if is_whole && read(&folder) == wanted {
        return Ok(());
    }
    if Command::new("npm").arg("--version").output().is_err() {
        bail!("`npm` was not found: install Node.js 20 or newer");
    }
    fs::create_dir_all(&folder)?;
    for (file, text) in FILES.iter().zip(wanted) {
        fs::write(folder.join(file), text.unwrap_or_default())?;
    }
    let mut install = Command::new("npm");
    install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"]).arg(folder);
    succeed("npm-ci", install)
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
