//! Runs a step, counts what passed, failed and was skipped, and says so at the end.
//!
//! A step's output goes to `target/xtask/STEP.log`; it is shown only when the step fails.

use std::{
    fmt,
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{counts, root, target};

/// The lines of a failed step's output that are shown; the log has all.
const SHOWN_LINES_MAX: usize = 200;

/// The failed tests of a step whose output is shown; the others are only named.
const SHOWN_FAILURES_MAX: usize = 20;

/// How many tests (or checks) of a step passed, failed and were skipped.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Counted {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    /// Why, once for each that was skipped.
    pub(crate) skipped: Vec<String>,
    /// Those that failed, as far as their names are known.
    pub(crate) failures: Vec<Failure>,
}

/// A test that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    pub(crate) test: String,
    /// What it printed, within bounds.
    pub(crate) said: String,
}

impl Counted {
    /// So many that passed and failed.
    pub(crate) fn of(passed: usize, failed: usize) -> Self {
        let count = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Self { passed: count(passed), failed: count(failed), ..Self::default() }
    }

    /// One check that was not made, and why.
    pub(crate) fn skipped(reason: &str) -> Self {
        Self { skipped: vec![reason.to_owned()], ..Self::default() }
    }

    /// The same, with a step's name before every reason and every test.
    fn named(mut self, step: &str) -> Self {
        let name = |text: &mut String| *text = format!("{step}: {text}");
        self.skipped.iter_mut().for_each(name);
        self.failures.iter_mut().map(|failure| &mut failure.test).for_each(name);
        self
    }

    /// These and those.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
        self.failures.extend(other.failures);
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped, failures: _ } = self;
        write!(f, "{passed} passed, {failed} failed, {} skipped", skipped.len())?;
        skipped.iter().try_for_each(|reason| write!(f, "\nskipped: {reason}"))
    }
}

/// What came of a step.
pub(crate) enum Outcome {
    /// It ended as it should.
    Counted(Counted),
    /// It failed: at least one of `counted` did.
    Failed { counted: Counted, output: String, log: PathBuf },
}

/// The run so far.
#[derive(Default)]
pub(crate) struct Report {
    total: Counted,
    failed_steps: Vec<&'static str>,
    took: Duration,
}

impl Report {
    /// Runs one step, and says how it went.
    pub(crate) fn step(
        &mut self,
        name: &'static str,
        about: &str,
        run: impl FnOnce() -> Result<Outcome>,
    ) {
        print!("── {name:<10} {about:<40} ");
        let _ = std::io::stdout().flush();
        let start = Instant::now();
        let outcome = run();
        let took = start.elapsed();
        self.took += took;
        let (counted, failure) = match outcome {
            Ok(Outcome::Counted(counted)) => (counted, None),
            Ok(Outcome::Failed { counted, output, log }) => {
                let shown = shown(&counted.failures, &output);
                (counted, Some(format!("{shown}\n(all of it: {})", log.display())))
            }
            Err(error) => (Counted { failed: 1, ..Counted::default() }, Some(format!("{error:#}"))),
        };
        let verdict = match (&failure, counted.passed, counted.skipped.is_empty()) {
            (Some(_), ..) => "FAILED",
            (None, 0, false) => "skipped",
            (None, ..) => "ok",
        };
        println!(
            "{verdict:<7} {:>6.1} s  {} passed, {} failed, {} skipped",
            took.as_secs_f64(),
            counted.passed,
            counted.failed,
            counted.skipped.len(),
        );
        if let Some(failure) = failure {
            println!("{failure}\n── {name} FAILED\n");
            self.failed_steps.push(name);
        }
        self.total.add(counted.named(name));
    }

    /// The last line, and the exit code that goes with it.
    pub(crate) fn finish(self) -> ExitCode {
        println!();
        for reason in &self.total.skipped {
            println!("skipped: {reason}");
        }
        for failure in &self.total.failures {
            println!("failed: {}", failure.test);
        }
        if !self.failed_steps.is_empty() {
            println!("failed steps: {}", self.failed_steps.join(", "));
        }
        println!("took {:.0} s", self.took.as_secs_f64());
        println!(
            "passed {}, failed {}, skipped {}",
            self.total.passed,
            self.total.failed,
            self.total.skipped.len()
        );
        if self.failed_steps.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Runs a command that is one check: it passes or fails by its exit code.
pub(crate) fn one_check(name: &str, command: Command) -> Result<Outcome> {
    counted_by(name, command, |_| Counted::default())
}

/// Runs a command that is one check, or none when the last line that it prints says that something
/// is needed which is not here. (An exit code would not do: a wrong flag has the same.)
pub(crate) fn check_unless(needs: &str, name: &str, mut command: Command) -> Result<Outcome> {
    let (file, log) = log_file(name)?;
    command.stdout(file.try_clone()?).stderr(file).current_dir(root());
    let program = command.get_program().display().to_string();
    let status = command.status().with_context(|| format!("{program} could not be started"))?;
    let output = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let last = output.trim_end().lines().next_back().unwrap_or_default();
    let passed = Counted { passed: 1, ..Counted::default() };
    let failed = Counted { failed: 1, ..Counted::default() };
    Ok(match last.strip_prefix("error: ").filter(|reason| reason.starts_with(needs)) {
        _ if status.success() => Outcome::Counted(passed),
        Some(reason) => Outcome::Counted(Counted::skipped(reason)),
        None => Outcome::Failed { counted: failed, output, log },
    })
}

/// Runs `cargo test`, and counts by what its test programs say.
pub(crate) fn cargo_tests(name: &str, mut command: Command) -> Result<Outcome> {
    // Most wait for a deadline, a disk or another process: one more than there are cores (2, where CI runs)
    // fills the time.
    command.env("RUST_TEST_THREADS", "3");
    counted_by(name, command, counts::cargo_tests)
}

/// Runs Python's unittest, and counts by what it says.
pub(crate) fn unittests(name: &str, command: Command) -> Result<Outcome> {
    counted_by(name, command, counts::unittests)
}

/// Runs tests of Node.js, and counts by what they say.
pub(crate) fn node_tests(name: &str, command: Command) -> Result<Outcome> {
    counted_by(name, command, counts::tap)
}

fn counted_by(name: &str, mut command: Command, count: fn(&str) -> Counted) -> Result<Outcome> {
    let (file, log) = log_file(name)?;
    // Plain text, whatever the terminal: the output is counted and kept.
    command.env("CARGO_TERM_COLOR", "never").env("CARGO_TERM_PROGRESS_WHEN", "never");
    command.stdout(file.try_clone()?).stderr(file).current_dir(root());
    let program = command.get_program().display().to_string();
    let status = command.status().with_context(|| format!("{program} could not be started"))?;
    let output = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let mut counted = count(&output);
    // A command that fails without counting a failure did not get so far as to run its tests; one
    // that counts nothing at all is a check by itself.
    match (status.success(), counted.failed, counted.passed) {
        (true, 0, 0) if counted.skipped.is_empty() => counted.passed = 1,
        (false, 0, _) => counted.failed = 1,
        _ => {}
    }
    if status.success() && counted.failed == 0 {
        Ok(Outcome::Counted(counted))
    } else {
        Ok(Outcome::Failed { counted, output, log })
    }
}

/// A fresh log for a step.
pub(crate) fn log_file(name: &str) -> Result<(File, PathBuf)> {
    let folder = target().join("xtask");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{name}.log"));
    let file = File::create(&path).with_context(|| format!("{} cannot be made", path.display()))?;
    Ok((file, path))
}

/// What is shown of a step that failed: what the failed tests said and then all their names, or the
/// end of its output when no names are known.
fn shown(failures: &[Failure], output: &str) -> String {
    if failures.is_empty() {
        return tail(output);
    }
    let mut shown = String::new();
    for Failure { test, said } in failures.iter().take(SHOWN_FAILURES_MAX) {
        shown += &format!("---- {test}\n{said}\n\n");
    }
    shown += "failures:";
    failures.iter().for_each(|failure| shown += &format!("\n    {}", failure.test));
    shown
}

fn tail(output: &str) -> String {
    let lines: Vec<_> = output.trim_end().lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES_MAX)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_skipped_only_when_it_says_what_it_needs() {
        let run = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            check_unless("a moon needs", "test-of-xtask", command).unwrap()
        };
        let counted = |outcome| match outcome {
            Outcome::Counted(it) => (it.passed, it.failed, it.skipped.len()),
            Outcome::Failed { counted: it, .. } => (it.passed, it.failed, it.skipped.len()),
        };
        assert_eq!(counted(run("true")), (1, 0, 0));
        assert_eq!(counted(run("echo 'error: a moon needs a planet'; exit 104")), (0, 0, 1));
        assert_eq!(counted(run("echo 'error: unexpected argument'; exit 104")), (0, 1, 0));
        assert_eq!(counted(run("exit 99")), (0, 1, 0));
    }

    #[test]
    fn only_the_end_of_a_long_output_is_shown() {
        let output: String = (0..1_000).map(|line| format!("line {line}\n")).collect();
        assert!(tail(&output).starts_with("line 800\n"));
        assert!(tail(&output).ends_with("line 999"));
    }

    #[test]
    fn what_failed_tests_said_comes_before_all_their_names() {
        let failures: Vec<_> = (0..=SHOWN_FAILURES_MAX)
            .map(|number| Failure { test: format!("t{number}"), said: format!("said {number}") })
            .collect();
        let shown = shown(&failures, "the output");
        assert!(shown.starts_with("---- t0\nsaid 0\n\n---- t1\nsaid 1\n"), "{shown}");
        let names: String = failures.iter().map(|it| format!("\n    {}", it.test)).collect();
        assert!(shown.ends_with(&format!("said 19\n\nfailures:{names}")), "{shown}");
        assert_eq!(super::shown(&[], "the output\n"), "the output");
    }
}
