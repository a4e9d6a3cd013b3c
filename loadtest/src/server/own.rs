//! A server of our own whose HTTP API is measured: fresh data, users with tokens, its admin secret.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use super::{Server, Setup, free_address, talk::Talk, tokens};
use crate::{Failure, ceiling::allowed_cores, run::site::CoreLeft};

// A group of clap's is named after its struct.
#[derive(clap::Args, Clone, Debug)]
#[group(id = "own-flags")]
pub(crate) struct Flags {
    /// The server's program, if not the one beside this.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// The cores of a server: the first one for all of its threads, or all, as in production. This
    /// side has all but the first, either way.
    #[arg(long, value_enum, default_value_t = ServerCores::All)]
    pub(crate) server_cores: ServerCores,
    /// Where data and logs are while it runs, instead of the system's folder for such things.
    #[arg(long, value_name = "FOLDER")]
    scratch: Option<PathBuf>,
    /// Writes what --json prints, and the plot if there is one, into this folder too.
    #[arg(long, value_name = "FOLDER")]
    write: Option<PathBuf>,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ServerCores {
    One,
    All,
}

/// How long the disk may take to write what it was given.
const SETTLE_DEADLINE: Duration = Duration::from_secs(300);
/// The files in a data directory by which an operator finds the internal port and is let in.
const ADMIN_FILES: [&str; 2] = ["admin-address", "admin-secret"];

/// The cores, divided until this is dropped.
#[derive(Debug)]
pub(crate) struct Ground {
    flags: Flags,
    /// Of each server, and of whatever stands beside it in a comparison.
    pub(crate) servers: CpuSet,
    pub(crate) all: Vec<usize>,
    _left: CoreLeft,
}

/// The server, up or down.
#[derive(Debug)]
pub(crate) struct Own {
    server: Option<Server>,
    pub(crate) setup: Setup,
    /// Of the users `virtual-0`, `virtual-1`, …
    pub(crate) tokens: Vec<String>,
    /// After the server, because that is how they are dropped.
    folder: TempDir,
}

impl Flags {
    /// A folder for data and logs, gone when it is dropped.
    pub(crate) fn scratch(&self, what: &str) -> Result<TempDir> {
        let mut builder = tempfile::Builder::new();
        let prefix = format!("hubbub-{what}-");
        let builder = builder.prefix(&prefix);
        let folder = match &self.scratch {
            Some(scratch) => builder.tempdir_in(scratch),
            None => builder.tempdir(),
        };
        folder.context("there is no folder for the data")
    }

    /// Divides the cores between servers and this side.
    pub(crate) fn ground(&self) -> Result<Ground> {
        let all = sched_getaffinity(None)?;
        let mut servers = all;
        if self.server_cores == ServerCores::One {
            servers = CpuSet::new();
            let first = (0..CpuSet::MAX_CPU).find(|core| all.is_set(*core));
            first.into_iter().for_each(|first| servers.set(first));
        }
        let flags = self.clone();
        Ok(Ground { flags, servers, all: allowed_cores()?, _left: CoreLeft::leave()? })
    }

    /// Prints the document, or what people read of it, and writes what is to be kept.
    pub(crate) fn tell(
        &self,
        name: &str,
        document: &serde_json::Value,
        text: &str,
        is_json: bool,
        plot: Option<&str>,
    ) -> Result<()> {
        if is_json {
            println!("{document:#}");
        } else {
            print!("{text}");
        }
        let Some(folder) = &self.write else { return Ok(()) };
        fs::create_dir_all(folder)?;
        let mut files = vec![(format!("{name}.json"), format!("{document:#}\n"))];
        files.extend(plot.map(|plot| (format!("{name}.svg"), plot.to_owned())));
        for (name, content) in files {
            let path = folder.join(name);
            fs::write(&path, content)
                .with_context(|| format!("{} cannot be written", path.display()))?;
        }
        Ok(())
    }
}

impl Ground {
    /// Starts a server on fresh data, with so many users.
    pub(crate) async fn start(&self, what: &str, users: usize) -> Result<Own, Failure> {
        let folder = self.flags.scratch(what)?;
        let mut setup = Setup::new(self.flags.binary.clone(), free_address()?, folder.path())?;
        setup.cores = self.servers;
        // What there is, is what was put there.
        setup.environment.push(("HUBBUB__CHANNELS__CREATED_AT_START".into(), "[]".into()));
        let server = setup.start().await?;
        let tokens = tokens::sign(setup.listen, &setup.data_dir, users).await?;
        Ok(Own { server: Some(server), setup, tokens, folder })
    }

    /// Where all of this happens, for people.
    pub(crate) fn setting(&self) -> String {
        let cores = match self.flags.server_cores {
            ServerCores::One => "server on the first core only",
            ServerCores::All => "server on all cores, its hub on the first",
        };
        let ours = if self.all.len() > 1 { "all but the first" } else { "the same one" };
        format!("{cores}, this side on {ours} of {}; {}", self.all.len(), machine())
    }
}

/// The processor and the kernel, as far as the system tells.
pub(crate) fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let mut models = cpu.lines().filter_map(|line| line.strip_prefix("model name"));
    let model = models.next().and_then(|it| it.split_once(": ")).map_or("a processor", |it| it.1);
    format!("{model}, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}

impl Own {
    pub(crate) fn pid(&self) -> Result<u32> {
        self.server.as_ref().context("the server is down")?.pid()
    }

    /// A conversation as one of its users.
    pub(crate) fn user(&self, number: usize) -> Talk {
        Talk::new(self.setup.listen, &self.tokens[number % self.tokens.len()])
    }

    /// A conversation on its internal port.
    pub(crate) fn operator(&self) -> Result<Talk> {
        let (address, secret) = admin(&self.setup.data_dir)?;
        Ok(Talk::new(address, &secret))
    }

    /// Makes a public channel, with these settings more.
    pub(crate) async fn create_channel(
        &self,
        mut settings: serde_json::Value,
        name: &str,
    ) -> Result<()> {
        settings["name"] = json!(name);
        let answer = self.user(0).post("/v1/channels", &settings).await?;
        answer.expect::<serde_json::Value>(201).map(drop).context("the channel cannot be made")
    }

    /// Ends it for good, and its data.
    ///
    /// # Errors
    /// Also when it has ended by itself, which no server should.
    pub(crate) async fn end(mut self) -> Result<()> {
        self.kill().await
    }

    /// Kills it with SIGKILL, and waits until nothing of it is left.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.server.take().context("the server is down")?.kill().await
    }

    /// Starts it again, on the same data.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        self.server = Some(self.setup.start().await?);
        Ok(())
    }

    /// Keeps its data and its log, for whoever looks for a fault.
    pub(crate) async fn keep(mut self) -> Result<PathBuf> {
        if self.server.is_some() {
            self.kill().await?;
        }
        Ok(self.folder.keep())
    }
}

/// Waits until what has been written by anybody is on the disk: what one turn has left to be written
/// is not to slow the syncs of the next.
pub(crate) async fn settle() -> Result<()> {
    let sync = Command::new("sync").stdin(Stdio::null()).kill_on_drop(true).status();
    let status = tokio::time::timeout(SETTLE_DEADLINE, sync).await;
    let status = status.context("the disk does not settle")?.context("`sync` cannot be started")?;
    ensure!(status.success(), "`sync` failed: {status}");
    Ok(())
}

/// The address of a running server's internal port, and what it wants to be shown there.
fn admin(data_dir: &Path) -> Result<(SocketAddr, String)> {
    let read = |name| {
        let path = data_dir.join(name);
        fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
    };
    let [address, secret] = ADMIN_FILES.map(read);
    let address = address?;
    let address = address.trim();
    let address = address.parse().with_context(|| format!("`{address}` is no address"))?;
    Ok((address, secret?.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_internal_port_and_its_secret_lie_in_the_data_directory() {
        let data = tempfile::tempdir().unwrap();
        let missing = admin(data.path()).unwrap_err();
        assert!(missing.to_string().contains("admin-address cannot be read"), "{missing}");
        fs::write(data.path().join(ADMIN_FILES[0]), "127.0.0.1:7879\n").unwrap();
        fs::write(data.path().join(ADMIN_FILES[1]), "abc\n").unwrap();
        let expected = ("127.0.0.1:7879".parse().unwrap(), "abc".to_owned());
        assert_eq!(admin(data.path()).unwrap(), expected);
        // The same files as the server's.
        use hubbub::edge::admin_access::{ADDRESS_FILE_NAME, SECRET_FILE_NAME};
        assert_eq!(ADMIN_FILES, [ADDRESS_FILE_NAME, SECRET_FILE_NAME]);
    }
}
