//! A server of our own: started, frozen, killed and started again on the same data.

pub(crate) mod ask;
pub(crate) mod cluster;
pub(crate) mod disk;
pub(crate) mod network;
pub(crate) mod observer;
pub(crate) mod own;
pub(crate) mod program;
pub(crate) mod talk;
pub(crate) mod tokens;
pub(crate) mod usage;

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use hubbub::client::ServerUrl;
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{CpuSet, sched_getaffinity},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
};

use crate::Failure;

/// From the start of the process to the line that tells its address.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// From SIGSTOP until no thread runs any more.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(5);
/// Settings with which passwords are hashed as cheaply as argon2 can: for runs that measure
/// something else than logging in.
pub(crate) const CHEAP_LOGINS: [(&str, &str); 2] =
    [("HUBBUB__AUTH__COST__MEMORY", "8KiB"), ("HUBBUB__AUTH__COST__PASSES", "1")];

/// How to start a server.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    binary: PathBuf,
    pub(crate) listen: SocketAddr,
    /// Its internal port. Like the public one it stays the same over all starts.
    pub(crate) internal: SocketAddr,
    pub(crate) data_dir: PathBuf,
    /// Where it logs to; starts are appended.
    pub(crate) log: PathBuf,
    pub(crate) environment: Vec<(String, String)>,
    /// Where its log is kept for it. None: in its data directory, by itself.
    pub(crate) engine: Option<String>,
    /// The network namespace that it is started in.
    pub(crate) namespace: Option<String>,
    /// Whether its threads choose their cores. Servers that share them must not.
    pub(crate) is_pinned: bool,
    /// What this process was allowed to use when it began, and the server is: the generator leaves
    /// one of them to it.
    cores: CpuSet,
}

impl Setup {
    /// For the server that was built together with this program, or the one of this path, on fresh
    /// data in this folder, with the usual settings and an internal port of its own.
    pub(crate) fn new(
        binary: Option<PathBuf>,
        listen: SocketAddr,
        folder: &Path,
    ) -> Result<Self, Failure> {
        let binary = match binary {
            Some(binary) => binary,
            None => std::env::current_exe()?.with_file_name("hubbub"),
        };
        if !binary.is_file() {
            return Err(Failure::configuration(anyhow!(
                "there is no server at {}: build it with `cargo build --release -p hubbub`",
                binary.display()
            )));
        }
        // Both are free, so they may be drawn the same.
        let internal = loop {
            let internal = free_address()?;
            if internal != listen {
                break internal;
            }
        };
        Ok(Self {
            binary,
            listen,
            internal,
            data_dir: folder.join("data"),
            log: folder.join("server.log"),
            environment: Vec::new(),
            engine: None,
            namespace: None,
            is_pinned: true,
            cores: sched_getaffinity(None)?,
        })
    }

    /// The same, with passwords that cost next to nothing: logging in is not what is measured.
    pub(crate) fn with_cheap_logins(mut self) -> Self {
        let cheap = CHEAP_LOGINS.map(|(key, value)| (key.to_owned(), value.to_owned()));
        self.environment.extend(cheap);
        self
    }

    /// Leaves it one core, the first of those that this process may use.
    pub(crate) fn keep_to_first_core(&mut self) {
        let first = (0..CpuSet::MAX_CPU).find(|core| self.cores.is_set(*core));
        let mut only = CpuSet::new();
        first.into_iter().for_each(|first| only.set(first));
        self.cores = only;
    }

    /// Starts it, and kills it before it can have come far.
    pub(crate) async fn start_and_kill(&self, after: Duration) -> Result<()> {
        let mut child = self.spawn()?;
        tokio::time::sleep(after).await;
        child.kill().await.context("the server cannot be killed")
    }

    fn spawn(&self) -> Result<Child> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = match &self.namespace {
            Some(namespace) => network::inside(namespace, &self.binary),
            None => Command::new(&self.binary),
        };
        command.args(["serve", "--pin-cores", if self.is_pinned { "auto" } else { "off" }]);
        if let Some(engine) = &self.engine {
            command.arg("--engine").arg(engine);
        }
        command.arg("--listen").arg(self.listen.to_string());
        command.arg("--internal-listen").arg(self.internal.to_string());
        command.arg("--data-dir").arg(&self.data_dir);
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let binary = self.binary.display();
        program::spawn_on(&self.cores, &mut command)
            .with_context(|| format!("{binary} cannot be started"))
    }

    /// Starts it, and waits until it listens.
    pub(crate) async fn start(&self) -> Result<Server> {
        let mut child = self.spawn()?;
        let stdout = child.stdout.take().context("the server has no standard output")?;
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        let reading = stdout.read_line(&mut line);
        match tokio::time::timeout(START_TIMEOUT, reading).await {
            Ok(read) => read?,
            Err(_) => bail!("the server did not say in {START_TIMEOUT:?} where it listens"),
        };
        let Some(url) = line.trim().strip_prefix("listening on ") else {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            let last: Vec<_> = said.lines().rev().take(5).collect();
            let last: Vec<_> = last.into_iter().rev().collect();
            bail!("the server did not start; it said last:\n{}", last.join("\n"));
        };
        let url = url.parse().with_context(|| format!("the server listens on `{url}`"))?;
        Ok(Server { child, url, _stdout: stdout })
    }
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) url: ServerUrl,
    /// Held open, so that it can go on printing.
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.id().context("the server has ended by itself")
    }

    /// Kills it with SIGKILL, and waits until nothing of it is left.
    pub(crate) async fn kill(mut self) -> Result<()> {
        // A server that is not there any more has crashed without our help.
        if let Some(status) = self.child.try_wait()? {
            bail!("the server ended by itself: {status}");
        }
        self.child.kill().await.context("the server cannot be killed")
    }

    /// Stops it with SIGSTOP, and waits until no thread of it can run: each has stopped, or is in
    /// the middle of a system call that does not let it go, such as fsync, and will stop before it
    /// sees the outcome. Whatever it has told anybody, it told before.
    pub(crate) fn freeze(&self) -> Result<()> {
        let pid = self.pid()?;
        self.signal(Signal::STOP)?;
        wait_until_frozen(pid)
    }

    /// Lets it run again after [`Server::freeze`].
    pub(crate) fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Asks it to end with SIGTERM, and waits until nothing of it is left.
    ///
    /// # Errors
    /// When it takes longer than this, and is killed; or when it says that something went wrong.
    pub(crate) async fn terminate(mut self, deadline: Duration) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the server ended by itself: {status}");
        }
        self.signal(Signal::TERM)?;
        match tokio::time::timeout(deadline, self.child.wait()).await {
            Ok(status) if status.as_ref().is_ok_and(|status| status.success()) => Ok(()),
            Ok(status) => bail!("the server did not end well: {}", status?),
            Err(_) => {
                self.child.kill().await.context("the server cannot be killed")?;
                bail!("the server was still there {deadline:?} after SIGTERM");
            }
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid()?)?).context("process 0 is not ours")?;
        Ok(kill_process(pid, signal)?)
    }
}

/// Waits until no thread of a stopped process can run any more.
pub(crate) fn wait_until_frozen(pid: u32) -> Result<()> {
    let started = Instant::now();
    while !is_frozen(pid)? {
        if started.elapsed() > FREEZE_TIMEOUT {
            bail!("the server still runs {FREEZE_TIMEOUT:?} after SIGSTOP");
        }
    }
    Ok(())
}

fn is_frozen(pid: u32) -> Result<bool> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(stat) = fs::read_to_string(task?.path().join("stat")) else { continue };
        let state = stat.rsplit_once(") ").and_then(|(_, after)| after.chars().next());
        if !matches!(state, Some('T' | 'D' | 'Z' | 'X')) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// An address that is free now, for a server that has to come back to the same one.
///
/// It is no port of 127.0.0.1, from which clients connect: while the server is down, one of theirs
/// would sooner or later be given its port. By the same accident it could even connect to itself.
pub(crate) fn free_address() -> Result<SocketAddr> {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let ours = (std::net::Ipv4Addr::new(127, 77, high, low), 0);
    let listener = std::net::TcpListener::bind(ours).context("no free port")?;
    Ok(listener.local_addr()?)
}

#[cfg(test)]
mod tests;
