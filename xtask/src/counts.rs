//! The output of a test program → how many tests passed, failed and were skipped, and what those said
//! that failed. Pure.

use crate::report::{Counted, Failure};

/// The lines of one failed test that are shown.
const FAILURE_LINES_MAX: usize = 60;
/// Those of them before the panic, where a test said more.
const LINES_BEFORE_PANIC: usize = 20;
/// The bytes of a line that are shown: one may hold a whole message.
const LINE_BYTES_MAX: usize = 1_000;

/// Reads what `cargo test` prints: the `test result:` line of every test program, the `failures:`
/// before one that failed, and the programs that ended otherwise.
pub(crate) fn cargo_tests(output: &str) -> Counted {
    let mut counted = Counted::default();
    let lines: Vec<_> = output.lines().collect();
    let mut program = "";
    let mut begin = 0;
    for (at, line) in lines.iter().enumerate() {
        if let Some(name) = program_of(line) {
            (program, begin) = (name, at + 1);
        } else if let Some(numbers) = line.strip_prefix("test result: ") {
            counted.passed += number_before(numbers, "passed");
            counted.failed += number_before(numbers, "failed");
            for _ in 0..number_before(numbers, "ignored") {
                counted.skipped.push("a test is marked #[ignore]".to_owned());
            }
            counted.failures.extend(cargo_failures(program, &lines[begin..at]));
        } else if line.starts_with("  process didn't exit successfully: ") && !program.is_empty() {
            // It crashed, so it has no result. (Before the first program it was a compiler.)
            counted.failed += 1;
            let said = &lines[at.saturating_sub(FAILURE_LINES_MAX).max(begin)..=at];
            counted.failures.push(failure(program, "crashed", said));
        }
    }
    counted
}

/// The name that cargo gives to the program that it starts now: `unittests src/lib.rs`.
fn program_of(line: &str) -> Option<&str> {
    let running = line.trim_start().strip_prefix("Running ").filter(|_| line.starts_with("  "));
    let running = running.and_then(|name| Some(name.rsplit_once(" (")?.0));
    running.or_else(|| line.starts_with("   Doc-tests ").then(|| line.trim_start()))
}

/// The failures of a test program, from what it printed up to its result: what each test said, then
/// the names of all.
fn cargo_failures(program: &str, lines: &[&str]) -> Vec<Failure> {
    let Some(list) = lines.iter().rposition(|line| *line == "failures:") else { return Vec::new() };
    let names = lines[list..].iter().filter_map(|line| line.strip_prefix("    "));
    let heads: Vec<_> = names.clone().map(|name| format!("---- {name} stdout ----")).collect();
    let is_head = |line: &&str| heads.iter().any(|head| head == line);
    let said_by = |head: &String| {
        // A test that printed nothing has no part of its own.
        let begin = lines[..list].iter().position(|line| line == head).unwrap_or(list);
        let rest = lines.get(begin + 1..list).unwrap_or_default();
        &rest[..rest.iter().position(is_head).unwrap_or(rest.len())]
    };
    names.zip(&heads).map(|(name, head)| failure(program, name, said_by(head))).collect()
}

/// Reads what Python's unittest prints: `test_a (…) ... ok`, a part for each failure, and
/// `FAILED (failures=1, errors=1, skipped=1)` at the end.
pub(crate) fn unittests(output: &str) -> Counted {
    let mut counted = Counted::default();
    let lines: Vec<_> = output.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        if line.ends_with(" ... ok") {
            counted.passed += 1;
        } else if let Some((_, reason)) = line.split_once(" ... skipped ") {
            counted.skipped.push(reason.trim_matches(['\'', '"']).to_owned());
        } else if line.starts_with("FAILED (") {
            counted.failed = number_after(line, "failures=") + number_after(line, "errors=");
        } else if line.starts_with("Ran 0 tests") {
            // The folder was not found, or its names do not fit.
            counted.failed = 1;
        } else if let Some(name) =
            line.strip_prefix("FAIL: ").or_else(|| line.strip_prefix("ERROR: "))
        {
            let rest = &lines[at + 1..];
            let is_end = |line: &&str| line.starts_with("=====") || line.starts_with("Ran ");
            let end = rest.iter().position(is_end).unwrap_or(rest.len());
            counted.failures.push(failure("", name, &rest[..end]));
        }
    }
    counted
}

/// Reads what `node --test` prints as TAP: `not ok 1 - name` with a part of YAML behind it, `# SKIP`
/// behind the name of one that was skipped, and the numbers at the end.
pub(crate) fn tap(output: &str) -> Counted {
    let mut counted = Counted::default();
    let mut tests = 0;
    let lines: Vec<_> = output.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let result = line.trim_start();
        // One script may run several programs.
        if let Some(number) = line.strip_prefix("# tests ") {
            tests += number.parse().unwrap_or(0);
        } else if let Some(number) = line.strip_prefix("# pass ") {
            counted.passed += number.parse().unwrap_or(0);
        } else if let Some(number) =
            line.strip_prefix("# fail ").or_else(|| line.strip_prefix("# cancelled "))
        {
            counted.failed += number.parse().unwrap_or(0);
        } else if result.starts_with("ok ")
            && let Some((test, reason)) = result.split_once(" # SKIP")
        {
            let reason = if reason.trim().is_empty() { name_of(test) } else { reason.trim() };
            counted.skipped.push(reason.to_owned());
        } else if result.starts_with("not ok ") {
            let indent = line.len() - result.len();
            let is_end = |line: &&str| line.len() > indent && line.trim() == "...";
            let rest = &lines[at + 1..];
            let said = &rest[..rest.iter().position(is_end).unwrap_or(0)];
            // What it stands above has failed, and is named by itself.
            if !said.iter().any(|line| line.trim() == "failureType: 'subtestsFailed'") {
                counted.failures.push(failure("", name_of(result), said));
            }
        }
    }
    if tests == 0 {
        // There were none: the pattern of the script does not fit.
        counted.failed += 1;
    }
    counted
}

/// `name` of `not ok 1 - name`.
fn name_of(result: &str) -> &str {
    result.split_once(" - ").map_or(result, |(_, name)| name)
}

/// What a test said, within bounds: its end, or what is about its panic.
fn failure(program: &str, test: &str, said: &[&str]) -> Failure {
    let panic = said.iter().position(|line| line.contains("panicked at "));
    let last = said.len().saturating_sub(FAILURE_LINES_MAX);
    let begin = panic.map_or(last, |at| at.saturating_sub(LINES_BEFORE_PANIC).min(last));
    let end = said.len().min(begin + FAILURE_LINES_MAX);
    let cut = |line: &&str| line[..line.floor_char_boundary(LINE_BYTES_MAX)].to_owned();
    let said: Vec<_> = said[begin..end].iter().map(cut).collect();
    let test = if program.is_empty() { test.to_owned() } else { format!("{program}: {test}") };
    Failure { test, said: said.join("\n").trim().to_owned() }
}

fn number_before(text: &str, word: &str) -> u32 {
    let before = text.find(word).map_or("", |at| text[..at].trim_end());
    before.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn number_after(text: &str, word: &str) -> u32 {
    let after = text.find(word).map_or("", |at| &text[at + word.len()..]);
    after.split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_PROGRAMS: &str = "\
   Compiling hubbub v0.1.0 (/hubbub)
     Running unittests src/lib.rs (target/debug/deps/hubbub-0123)

running 4 tests
test log::a ... ok
test log::b ... FAILED
test log::c ... FAILED
test log::d ... FAILED

failures:

---- log::b stdout ----

thread 'log::b' panicked at src/log.rs:1:2:
assertion failed
failures:

---- log::c stdout ----
what c said


failures:
    log::b
    log::c
    log::d

test result: FAILED. 1 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.00s

error: test failed, to rerun pass `-p hubbub --lib`
     Running tests/server/main.rs (target/debug/deps/server-4567)

running 2 tests
test e ... ok

thread 'f' has overflowed its stack
error: test failed, to rerun pass `-p hubbub --test server`

Caused by:
  process didn't exit successfully: `/hubbub/target/debug/deps/server-4567` (signal: 6, SIGABRT)
   Doc-tests hubbub

running 12 tests

test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out

error: 2 targets failed:
";

    #[test]
    fn the_results_of_all_test_programs_are_added_up() {
        let counted = cargo_tests(TWO_PROGRAMS);
        // The program that crashed counts as one that failed.
        assert_eq!((counted.passed, counted.failed, counted.skipped.len()), (13, 4, 1));
    }

    #[test]
    fn each_failed_test_is_named_with_what_it_said() {
        let failures = cargo_tests(TWO_PROGRAMS).failures;
        let said: Vec<_> =
            failures.iter().map(|it| (it.test.as_str(), it.said.lines().next_back())).collect();
        let crash = "  process didn't exit successfully: \
                     `/hubbub/target/debug/deps/server-4567` (signal: 6, SIGABRT)";
        assert_eq!(
            said,
            [
                ("unittests src/lib.rs: log::b", Some("failures:")),
                ("unittests src/lib.rs: log::c", Some("what c said")),
                ("unittests src/lib.rs: log::d", None),
                ("tests/server/main.rs: crashed", Some(crash)),
            ]
        );
        assert!(failures[0].said.starts_with("thread 'log::b' panicked at src/log.rs:1:2:\n"));
        assert!(failures[3].said.contains("thread 'f' has overflowed its stack\n"));
    }

    #[test]
    fn what_a_test_said_is_bounded_and_its_panic_is_in_it() {
        let mut said = vec!["before"; 1_000];
        said.push("thread 't' panicked at src/t.rs:1:2:");
        let long = "é".repeat(LINE_BYTES_MAX);
        said.push(&long);
        said.extend(["after"; 1_000]);
        let shown = failure("", "t", &said).said;
        assert_eq!(shown.lines().count(), FAILURE_LINES_MAX);
        assert!(shown.lines().any(|line| line == "thread 't' panicked at src/t.rs:1:2:"));
        assert!(shown.lines().all(|line| line.len() <= LINE_BYTES_MAX));

        let shown = failure("", "t", &["a line"; 1_000]).said;
        assert_eq!(shown.lines().count(), FAILURE_LINES_MAX);
    }

    #[test]
    fn a_unittest_run_is_counted_with_the_reason_of_each_skip_and_the_words_of_each_failure() {
        let counted = unittests(
            "test_a (test.A) ... ok\ntest_b (test.A) ... FAIL\n\
             test_c (test.A) ... skipped 'no moon'\n\n\
             =====================\nFAIL: test_b (test.A)\n---------------------\n\
             Traceback (most recent call last):\nAssertionError: 1 != 2\n\n\
             ---------------------\nRan 3 tests in 0.1s\n\n\
             FAILED (failures=1, skipped=1)\n",
        );
        assert_eq!((counted.passed, counted.failed), (1, 1));
        assert_eq!(counted.skipped, ["no moon"]);
        let [failure] = &counted.failures[..] else { panic!("{:?}", counted.failures) };
        assert_eq!(failure.test, "test_b (test.A)");
        assert!(failure.said.contains("AssertionError: 1 != 2"), "{}", failure.said);
    }

    #[test]
    fn a_run_of_node_is_counted_with_the_reason_of_each_skip_and_the_words_of_each_failure() {
        let counted = tap("\
> hubbub-page@0.0.0 test
TAP version 13
# Subtest: the log
    # Subtest: fills gaps
    ok 1 - fills gaps
      ---
      duration_ms: 0.5
      ...
    # Subtest: forgets
    not ok 2 - forgets
      ---
      failureType: 'testCodeFailure'
      error: 'Expected values to be strictly equal'
      ...
    1..2
not ok 1 - the log
  ---
  failureType: 'subtestsFailed'
  error: '1 subtest failed'
  ...
# Subtest: in a browser
ok 2 - in a browser # SKIP no moon
  ---
  duration_ms: 0.1
  ...
ok 3 - later # SKIP
1..3
# tests 4
# suites 1
# pass 1
# fail 1
# cancelled 1
# skipped 2
");
        assert_eq!((counted.passed, counted.failed), (1, 2));
        assert_eq!(counted.skipped, ["no moon", "later"]);
        let [failure] = &counted.failures[..] else { panic!("{:?}", counted.failures) };
        assert_eq!(failure.test, "forgets");
        assert!(failure.said.contains("strictly equal"), "{}", failure.said);
    }

    #[test]
    fn a_run_without_any_test_has_failed() {
        assert_eq!(tap("TAP version 13\n1..0\n# tests 0\n# pass 0\n").failed, 1);
        assert_eq!(tap("sh: 1: tsc: not found\n").failed, 1);
        assert_eq!(unittests("Ran 0 tests in 0.000s\n\nOK\n").failed, 1);
    }
}
