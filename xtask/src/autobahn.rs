//! The Autobahn suite against `examples/websocket_echo.rs`, compared with what was recorded.
//!
//! The record is `tests/autobahn/expected.json`: for each of the suite's cases how the server behaved
//! and how it closed. Any difference is a failure, one for the better too, since a record that is not
//! true says nothing; and nothing that is less than strict can become the record.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ExitCode, Stdio},
    str::FromStr,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::{
    report::{Counted, Outcome, log_file, one_check},
    root, target,
    tools::{BUILD_SERVER_AND_ECHO, Command, cargo, python_venv, wstest},
};

/// Cases of the suite.
const CASES: usize = 517;

/// Every case.
const ALL: &[&str] = &["*"];

/// What CI runs: every case about framing, and of those about deflate some small ones of each kind.
/// The others send the same through the same code, thousands of times and in every size.
const QUICK: &[&str] = &[
    "1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*", "12.1.1", "12.1.2", "12.1.3",
    "12.1.4", "13.1.1", "13.2.1", "13.3.1", "13.4.1", "13.5.1", "13.6.1", "13.7.1",
];

/// How long the suite may take, in seconds, before it is taken for stuck.
const DEADLINE_S: &str = "3600";

/// Who plays the suite's side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Runner {
    /// The suite's own. It needs Python 2.7, takes longer, and is right when they differ.
    Wstest,
    /// The same cases in a newer program.
    Kosoku,
}

/// Runs the whole suite, and compares it with the record or makes the record of it.
pub(crate) fn full(runner: Option<Runner>, accept: bool) -> Result<ExitCode> {
    let runner = match runner {
        Some(runner) => runner,
        None if wstest()?.is_some() => Runner::Wstest,
        None => {
            println!("pyenv has no Python 2.7, which the suite's own runner needs: kosoku runs it");
            Runner::Kosoku
        }
    };
    let echo = build_echo()?;
    println!("the suite takes several minutes");
    let got = run(&echo, runner, ALL)?;
    println!("{}", got.counted());
    if accept {
        got.check_for_record()?;
        fs::write(record_path(), got.to_json())?;
        println!("{} holds this run", record_path().display());
        return Ok(ExitCode::SUCCESS);
    }
    let differences = Verdicts::recorded()?.differences(&got);
    for difference in &differences {
        println!("{difference}");
    }
    println!("{} differences from {}", differences.len(), record_path().display());
    Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the quick part, for CI.
pub(crate) fn quick() -> Result<Outcome> {
    let build = one_check("autobahn-echo", cargo(BUILD_SERVER_AND_ECHO))?;
    if let Outcome::Failed { .. } = build {
        return Ok(build);
    }
    let expected = Verdicts::recorded()?.only(QUICK);
    let got = run(&echo_path(), Runner::Kosoku, QUICK)?;
    let differences = expected.differences(&got);
    if differences.is_empty() {
        return Ok(Outcome::Counted(Counted::of(got.0.len(), 0)));
    }
    let counted = Counted::of(got.0.len().saturating_sub(differences.len()), differences.len());
    let log = report_folder(&run_name(Runner::Kosoku, QUICK)).join("index.html");
    Ok(Outcome::Failed { counted, output: differences.join("\n"), log })
}

/// Fetches who runs the quick part.
pub(crate) fn prepare() -> Result<()> {
    kosoku().map(drop)
}

fn kosoku() -> Result<PathBuf> {
    let python = python_venv("kosoku", &root().join("tests/autobahn/kosoku.txt"))?;
    Ok(python.with_file_name("kosoku"))
}

fn echo_path() -> PathBuf {
    target().join("debug/examples/websocket_echo")
}

fn record_path() -> PathBuf {
    root().join("tests/autobahn/expected.json")
}

/// `autobahn`, who ran it, and whether it was all: two runs may go on at the same time.
fn run_name(runner: Runner, cases: &[&str]) -> String {
    let extent = if cases == ALL { "full" } else { "quick" };
    format!("autobahn-{runner:?}-{extent}").to_lowercase()
}

fn report_folder(run_name: &str) -> PathBuf {
    target().join("xtask").join(run_name)
}

fn build_echo() -> Result<PathBuf> {
    let status = cargo(BUILD_SERVER_AND_ECHO).status().context("cargo could not be started")?;
    ensure!(status.success(), "the echo could not be built");
    Ok(echo_path())
}

/// One run of these cases.
fn run(echo: &Path, runner: Runner, cases: &[&str]) -> Result<Verdicts> {
    // kosoku 0.1.0 breaks off at a message that is not compressed on a connection where it could be.
    // The server sends such messages, and wstest knows them.
    let deflate = if runner == Runner::Kosoku { "always" } else { "on" };
    let echo = Echo::start(echo, deflate)?;
    let name = run_name(runner, cases);
    let folder = report_folder(&name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let mut suite = Command::new("timeout");
    suite.arg(DEADLINE_S);
    match runner {
        Runner::Wstest => {
            let spec = folder.join("spec.json");
            let agent = json!({"agent": "hubbub", "url": format!("ws://{}", echo.address)});
            let value = json!({"outdir": &folder, "servers": [agent], "cases": cases,
                "exclude-cases": [], "exclude-agent-cases": {}});
            fs::write(&spec, value.to_string())?;
            let wstest = wstest()?.context("wstest needs the Python 2.7 of pyenv")?;
            suite.arg(wstest).args(["--mode", "fuzzingclient", "--spec"]).arg(spec);
        }
        Runner::Kosoku => {
            suite.arg(kosoku()?).args(["-p", "2", "-o"]).arg(&folder);
            for case in cases.iter().filter(|_| cases != ALL) {
                suite.args(["-i", case]);
            }
            suite.arg(&echo.address);
        }
    }
    let (log, log_path) = log_file(&name)?;
    suite.stdout(log.try_clone()?).stderr(log).current_dir(&folder);
    let status = suite.status().context("`timeout` could not be started")?;
    // Whether a case failed is read from the report: the runners' exit codes mean different things.
    let report = fs::read_to_string(folder.join("index.json")).with_context(|| {
        format!("the suite made no report ({status}); its output: {}", log_path.display())
    })?;
    Verdicts::reported(&report)
}

/// The echo, for as long as this lives.
struct Echo {
    process: Child,
    address: String,
}

impl Echo {
    fn start(program: &Path, deflate: &str) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["--listen", "127.0.0.1:0", "--deflate", deflate]);
        let (log, _) = log_file(&format!("autobahn-echo-{deflate}"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let process = command.spawn().context("the echo could not be started")?;
        let mut echo = Self { process, address: String::new() };
        let stdout = echo.process.stdout.take().context("its output is piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on ws://");
        echo.address = address.context("the echo did not say where it listens")?.to_owned();
        Ok(echo)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It may have ended by itself, which the suite has noticed then.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A case's number, such as 12.1.5. In the order of the numbers, not of their digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Case(Vec<u32>);

impl FromStr for Case {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers: Result<_, _> = text.split('.').map(str::parse).collect();
        Ok(Self(numbers.map_err(|_| anyhow!("`{text}` is not the number of a case"))?))
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<_> = self.0.iter().map(u32::to_string).collect();
        f.write_str(&numbers.join("."))
    }
}

/// How the server behaved in a case, and how it closed, in the suite's words.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Verdict {
    behavior: String,
    behavior_close: String,
}

impl Verdict {
    fn of(value: &Value) -> Result<Self> {
        let word = |key| {
            let word = value.get(key).and_then(Value::as_str);
            word.map(str::to_owned).with_context(|| format!("a case has no `{key}`"))
        };
        Ok(Self { behavior: word("behavior")?, behavior_close: word("behaviorClose")? })
    }

    /// Whether nothing is wrong. Informational cases have no right answer.
    fn is_strict(&self) -> bool {
        [&self.behavior, &self.behavior_close]
            .iter()
            .all(|word| matches!(word.as_str(), "OK" | "INFORMATIONAL"))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, close {}", self.behavior, self.behavior_close)
    }
}

/// What came of each case.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Verdicts(BTreeMap<Case, Verdict>);

impl Verdicts {
    /// From the `index.json` of either runner, which holds one agent.
    fn reported(text: &str) -> Result<Self> {
        let report: Value = serde_json::from_str(text).context("the suite's report is no JSON")?;
        let agents: Vec<_> = report.as_object().into_iter().flatten().collect();
        match agents[..] {
            [(_, cases)] => Self::of(cases),
            _ => bail!("the suite's report has {} agents instead of one", agents.len()),
        }
    }

    /// The committed record.
    fn recorded() -> Result<Self> {
        let text = fs::read_to_string(record_path())
            .with_context(|| format!("{} could not be read", record_path().display()))?;
        let record = Self::of(&serde_json::from_str(&text).context("the record is no JSON")?)?;
        record.check_for_record()?;
        Ok(record)
    }

    fn of(cases: &Value) -> Result<Self> {
        let cases = cases.as_object().context("the cases are no JSON object")?;
        let verdicts = cases.iter().map(|(case, value)| Ok((case.parse()?, Verdict::of(value)?)));
        Ok(Self(verdicts.collect::<Result<_>>()?))
    }

    /// One case a line, so that a change of the record is read as one.
    fn to_json(&self) -> String {
        let lines: Vec<_> = self
            .0
            .iter()
            .map(|(case, Verdict { behavior, behavior_close })| {
                let verdict = json!({"behavior": behavior, "behaviorClose": behavior_close});
                format!("  \"{case}\": {verdict}")
            })
            .collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }

    /// Refuses what may not become, or be, the record.
    fn check_for_record(&self) -> Result<()> {
        let bad: Vec<_> = self.0.iter().filter(|(_, verdict)| !verdict.is_strict()).collect();
        if !bad.is_empty() {
            let bad: Vec<_> = bad.iter().map(|(case, bad)| format!("{case}: {bad}")).collect();
            bail!("these cannot be what is expected:\n{}", bad.join("\n"));
        }
        ensure!(self.0.len() == CASES, "{} cases instead of {CASES}", self.0.len());
        Ok(())
    }

    /// Those of these cases, a `*` at the end standing for anything.
    fn only(self, cases: &[&str]) -> Self {
        let wanted = |case: &Case| {
            let case = case.to_string();
            cases.iter().any(|wanted| match wanted.strip_suffix('*') {
                Some(start) => case.starts_with(start),
                None => case == *wanted,
            })
        };
        Self(self.0.into_iter().filter(|(case, _)| wanted(case)).collect())
    }

    /// A line for each case that came out otherwise, did not run, or is not known.
    fn differences(&self, got: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        for (case, expected) in &self.0 {
            match got.0.get(case) {
                Some(got) if got == expected => {}
                Some(got) => differences.push(format!("{case}: {got}; expected {expected}")),
                None => differences.push(format!("{case}: did not run; expected {expected}")),
            }
        }
        let unknown = got.0.iter().filter(|(case, _)| !self.0.contains_key(case));
        differences.extend(unknown.map(|(case, got)| format!("{case}: {got}; not expected")));
        differences
    }

    /// How many of each verdict.
    fn counted(&self) -> String {
        let mut counts = BTreeMap::<String, usize>::new();
        for verdict in self.0.values() {
            *counts.entry(verdict.to_string()).or_default() += 1;
        }
        let counts: Vec<_> =
            counts.iter().map(|(word, count)| format!("{count} × {word}")).collect();
        format!("{} cases: {}", self.0.len(), counts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::{CASES, Case, QUICK, Verdict, Verdicts};

    fn recorded() -> Verdicts {
        Verdicts::recorded().unwrap()
    }

    fn change(verdicts: &mut Verdicts, case: &str, change: impl FnOnce(&mut Verdict)) {
        change(verdicts.0.get_mut(&case.parse::<Case>().unwrap()).unwrap());
    }

    #[test]
    fn the_record_is_whole_strict_and_equal_to_itself() {
        let record = recorded();
        assert_eq!(record.0.len(), CASES);
        assert!(record.differences(&record).is_empty());
        let written: serde_json::Value = serde_json::from_str(&record.to_json()).unwrap();
        assert_eq!(Verdicts::of(&written).unwrap(), record);
    }

    #[test]
    fn a_case_that_comes_out_otherwise_is_named() {
        let mut got = recorded();
        change(&mut got, "3.2", |verdict| verdict.behavior = "NON-STRICT".to_owned());
        change(&mut got, "7.7.1", |verdict| verdict.behavior_close = "UNCLEAN".to_owned());
        assert_eq!(
            recorded().differences(&got),
            [
                "3.2: NON-STRICT, close OK; expected OK, close OK",
                "7.7.1: OK, close UNCLEAN; expected OK, close OK"
            ]
        );
    }

    #[test]
    fn a_case_that_did_not_run_is_named_and_so_is_one_that_nobody_expects() {
        let mut got = recorded();
        let verdict = got.0.remove(&"12.1.5".parse().unwrap()).unwrap();
        got.0.insert("99.1".parse().unwrap(), verdict);
        assert_eq!(
            recorded().differences(&got),
            ["12.1.5: did not run; expected OK, close OK", "99.1: OK, close OK; not expected"]
        );
    }

    #[test]
    fn what_is_less_than_strict_never_becomes_the_record() {
        for word in ["FAILED", "UNCLEAN", "NON-STRICT", "UNIMPLEMENTED", "WRONG CODE", ""] {
            let mut bad = recorded();
            change(&mut bad, "1.1.1", |verdict| verdict.behavior = word.to_owned());
            assert!(bad.check_for_record().unwrap_err().to_string().contains("1.1.1"), "{word}");
            let mut bad = recorded();
            change(&mut bad, "1.1.1", |verdict| verdict.behavior_close = word.to_owned());
            assert!(bad.check_for_record().is_err(), "{word}");
        }
        let mut short = recorded();
        short.0.pop_last();
        assert!(short.check_for_record().is_err());
    }

    #[test]
    fn every_line_of_the_quick_part_stands_for_some_case() {
        for cases in QUICK {
            assert!(!recorded().only(&[cases]).0.is_empty(), "{cases}");
        }
        assert_eq!(recorded().only(&["1.*"]).0.len(), 16, "and 10.1.1 is none of them");
    }

    #[test]
    fn the_report_of_a_runner_is_read() {
        let report = r#"{"127.0.0.1:9001": {"1.1.1": {"behavior": "OK", "behaviorClose": "OK",
            "duration": 2, "remoteCloseCode": 1000, "reportfile": "a.json"}}}"#;
        let verdicts = Verdicts::reported(report).unwrap();
        assert_eq!(verdicts.counted(), "1 cases: 1 × OK, close OK");
        assert!(Verdicts::reported("{}").is_err());
        assert!(Verdicts::reported(r#"{"a": {}, "b": {}}"#).is_err());
        assert!(Verdicts::reported(r#"{"a": {"1.1.1": {"behavior": "OK"}}}"#).is_err());
    }
}
