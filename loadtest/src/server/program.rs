//! A program that listens at an address: started on the cores of a server, and killed.

use std::{
    fs,
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// From the start of a process until it takes connections.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two attempts to connect to it.
const KNOCK_INTERVAL: Duration = Duration::from_millis(20);

/// A program that takes connections. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Its data and its log; dropped after the process.
    pub(crate) folder: TempDir,
}

impl Program {
    /// Starts it on these cores, and waits until it listens at this address.
    pub(crate) async fn start(
        mut command: Command,
        address: SocketAddr,
        folder: TempDir,
        cores: &CpuSet,
    ) -> Result<Self> {
        let log = fs::File::create(folder.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let child = spawn_on(cores, &mut command).context("it cannot be started")?;
        let mut program = Self { child, address, folder };
        program.knock().await?;
        Ok(program)
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.id().ok_or_else(|| anyhow!("it ended by itself; {}", self.last_words()))
    }

    /// Kills it, and waits until nothing of it is left.
    pub(crate) async fn kill(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("it ended by itself: {status}; {}", self.last_words());
        }
        Ok(self.child.kill().await?)
    }

    /// The end of what it printed.
    pub(crate) fn last_words(&self) -> String {
        let said = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let mut last: Vec<_> = said.lines().rev().take(5).collect();
        last.reverse();
        format!("it said last: {}", last.join(" / "))
    }

    async fn knock(&mut self) -> Result<()> {
        let started = Instant::now();
        while tokio::net::TcpStream::connect(self.address).await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended: {status}; {}", self.last_words());
            }
            if started.elapsed() > START_TIMEOUT {
                bail!("nobody listens after {START_TIMEOUT:?}; {}", self.last_words());
            }
            tokio::time::sleep(KNOCK_INTERVAL).await;
        }
        Ok(())
    }
}

/// Starts a process on these cores: a child inherits those of the thread that makes it.
pub(crate) fn spawn_on(cores: &CpuSet, command: &mut Command) -> Result<Child> {
    let ours = sched_getaffinity(None)?;
    sched_setaffinity(None, cores)?;
    let child = command.spawn();
    sched_setaffinity(None, &ours)?;
    Ok(child?)
}
