//! What the tests stand on: the built programs, started and awaited.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// How long anything may take. Far more than it does: who gets here has found a fault.
const PATIENCE: Duration = Duration::from_secs(90);

/// The program under test.
pub(crate) const LOADTEST: &str = env!("CARGO_BIN_EXE_loadtest");

/// Runs the load generator to its end.
pub(crate) async fn loadtest(arguments: &[&str]) -> Ran {
    let mut command = Command::new(LOADTEST);
    command.args(arguments);
    ran(command).await
}

/// Runs a program to its end.
pub(crate) async fn ran(mut command: Command) -> Ran {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await;
    let output = output.expect("it ends within its time").unwrap();
    Ran {
        status: output.status,
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// What a program did and said.
#[derive(Debug)]
pub(crate) struct Ran {
    status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The outcome that it printed, after it has ended with this code.
    #[track_caller]
    pub(crate) fn outcome(&self, code: i32) -> Outcome {
        self.assert_code(code);
        let outcome = serde_json::from_str(&self.stdout);
        Outcome(outcome.unwrap_or_else(|error| panic!("{error} in what it printed: {self:?}")))
    }

    /// Whether it refused with one sentence that names the mistake by all of these words. Behind an
    /// empty line it may say more.
    #[track_caller]
    pub(crate) fn assert_refused(&self, code: i32, names: &[&str]) {
        self.assert_code(code);
        let told = if code == 104 { "error: " } else { "aborted: " };
        let refusals: Vec<&str> =
            self.stderr.lines().skip_while(|line| !line.starts_with(told)).collect();
        let paragraph: Vec<&str> =
            refusals.iter().take_while(|line| !line.trim().is_empty()).copied().collect();
        assert_eq!(paragraph.len(), 1, "one sentence: {}", self.stderr);
        for name in names {
            assert!(paragraph[0].contains(name), "{name} is not in: {}", paragraph[0]);
        }
        assert_eq!(self.stdout, "", "who refuses has no outcome");
    }

    #[track_caller]
    pub(crate) fn assert_code(&self, code: i32) {
        let (status, stderr, stdout) = (self.status, &self.stderr, &self.stdout);
        assert_eq!(status.code(), Some(code), "{status}\n{stderr}\n{stdout}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

/// The document of a run.
#[derive(Debug)]
pub(crate) struct Outcome(pub(crate) Value);

impl Outcome {
    /// A figure, which must be there.
    #[track_caller]
    pub(crate) fn figure(&self, name: &str) -> f64 {
        let figure = self.0["figures"][name].as_f64();
        figure.unwrap_or_else(|| panic!("no figure {name} in {:#}", self.0["figures"]))
    }

    /// The sentences about what was violated.
    pub(crate) fn evidence(&self) -> Vec<&str> {
        let evidence = self.0["evidence"].as_array().unwrap();
        evidence.iter().map(|sentence| sentence.as_str().unwrap()).collect()
    }

    /// Whether the audit found nothing, in a run that had something to audit.
    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        assert_eq!(self.evidence(), [""; 0]);
        assert_eq!(self.0["violations"], 0);
        for name in ["violations", "lost", "acknowledged_lost"] {
            assert!(self.figure(name) == 0.0, "{name}: {:#}", self.0["figures"]);
        }
        for name in ["messages", "acks", "deliveries"] {
            assert!(self.figure(name) > 0.0, "{name}: {:#}", self.0["figures"]);
        }
    }
}

/// A server with its data. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _child: Child,
    /// Held open, so that it can go on printing.
    _stdout: BufReader<ChildStdout>,
    _data_dir: TempDir,
}

impl Server {
    /// Starts it, and waits until it listens.
    pub(crate) async fn start() -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(server_binary());
        command.args(["serve", "--listen", "127.0.0.1:0", "--internal-listen", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(data_dir.path());
        // Passwords are hashed as cheaply as argon2 can: the tests are not about it.
        command.env("HUBBUB__AUTH__COST__MEMORY", "8KiB").env("HUBBUB__AUTH__COST__PASSES", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        timeout(PATIENCE, stdout.read_line(&mut line)).await.expect("it starts in time").unwrap();
        let address = line.trim().strip_prefix("listening on http://");
        let address = address.unwrap_or_else(|| panic!("it said `{line}`")).parse().unwrap();
        Self { address, _child: child, _stdout: stdout, _data_dir: data_dir }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// The server that was built together with the load generator.
pub(crate) fn server_binary() -> PathBuf {
    let binary = Path::new(LOADTEST).with_file_name("hubbub");
    assert!(
        binary.is_file(),
        "there is no server at {}: build it with `cargo build -p hubbub`",
        binary.display()
    );
    binary
}
