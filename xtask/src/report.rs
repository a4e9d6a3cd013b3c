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

use crate::{root, target};

/// The lines of a failed step's output that are shown; the log has all.
const SHOWN_LINES_MAX: usize = 200;

/// How many tests (or checks) of a step passed, failed and were skipped.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Counted {
    passed: u32,
    failed: u32,
    /// Why, once for each that was skipped.
    skipped: Vec<String>,
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

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped } = self;
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
                (counted, Some(format!("{}\n(all of it: {})", tail(&output), log.display())))
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
        let reasons = counted.skipped.iter().map(|reason| format!("{name}: {reason}")).collect();
        self.total.add(Counted { skipped: reasons, ..counted });
    }

    /// The last line, and the exit code that goes with it.
    pub(crate) fn finish(self) -> ExitCode {
        println!();
        for reason in &self.total.skipped {
            println!("skipped: {reason}");
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

/// Runs `cargo test`, and counts by its `test result:` lines.
pub(crate) fn cargo_tests(name: &str, command: Command) -> Result<Outcome> {
    counted_by(name, command, count_cargo_tests)
}

/// Runs Python's unittest, and counts by its last lines.
pub(crate) fn unittests(name: &str, command: Command) -> Result<Outcome> {
    counted_by(name, command, count_unittests)
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

/// Reads `test result: ok. 12 passed; 0 failed; 1 ignored; …` of every test program.
fn count_cargo_tests(output: &str) -> Counted {
    let mut counted = Counted::default();
    for line in output.lines() {
        let Some(numbers) = line.strip_prefix("test result: ") else { continue };
        counted.passed += number_before(numbers, "passed");
        counted.failed += number_before(numbers, "failed");
        for _ in 0..number_before(numbers, "ignored") {
            counted.skipped.push("a test is marked #[ignore]".to_owned());
        }
    }
    counted
}

/// Reads `test_a (…) ... ok`, and `FAILED (failures=1, errors=1, skipped=1)` at the end.
fn count_unittests(output: &str) -> Counted {
    let mut counted = Counted::default();
    for line in output.lines() {
        if line.ends_with(" ... ok") {
            counted.passed += 1;
        } else if let Some((_, reason)) = line.split_once(" ... skipped ") {
            counted.skipped.push(reason.trim_matches(['\'', '"']).to_owned());
        } else if line.starts_with("FAILED (") {
            counted.failed = number_after(line, "failures=") + number_after(line, "errors=");
        } else if line.starts_with("Ran 0 tests") {
            // The folder was not found, or its names do not fit.
            counted.failed = 1;
        }
    }
    counted
}

fn number_before(text: &str, word: &str) -> u32 {
    let before = text.find(word).map_or("", |at| text[..at].trim_end());
    before.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn number_after(text: &str, word: &str) -> u32 {
    let after = text.find(word).map_or("", |at| &text[at + word.len()..]);
    after.split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn tail(output: &str) -> String {
    let lines: Vec<_> = output.trim_end().lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES_MAX)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{Outcome, check_unless, count_cargo_tests, count_unittests, tail};

    #[test]
    fn the_results_of_all_test_programs_are_added_up() {
        let counted = count_cargo_tests(
            "running 3 tests\n\
             test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n\
             test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n",
        );
        assert_eq!((counted.passed, counted.failed, counted.skipped.len()), (15, 2, 1));
    }

    #[test]
    fn a_unittest_run_is_counted_with_the_reason_of_each_skip() {
        let counted = count_unittests(
            "test_a (test.A) ... ok\ntest_b (test.A) ... FAIL\n\
             test_c (test.A) ... skipped 'no moon'\n\nRan 3 tests in 0.1s\n\n\
             FAILED (failures=1, skipped=1)\n",
        );
        assert_eq!((counted.passed, counted.failed), (1, 1));
        assert_eq!(counted.skipped, ["no moon"]);
    }

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
    fn a_run_without_any_test_has_failed() {
        assert_eq!(count_unittests("Ran 0 tests in 0.000s\n\nOK\n").failed, 1);
    }

    #[test]
    fn only_the_end_of_a_long_output_is_shown() {
        let output: String = (0..1_000).map(|line| format!("line {line}\n")).collect();
        assert!(tail(&output).starts_with("line 800\n"));
        assert!(tail(&output).ends_with("line 999"));
    }
}
