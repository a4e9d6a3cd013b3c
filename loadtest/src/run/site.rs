//! Where a run takes place: a server that is there, or one that is started for it.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tempfile::TempDir;

use crate::{
    Failure,
    scenario::{Login, Scenario, chaos::Chaos},
    server::{
        self, Server, Setup,
        cluster::{Cluster, Options},
        tokens,
    },
    swarm::Target,
};

// A group of clap's is named after its struct, and those who flatten this one are named `Flags` too.
#[derive(clap::Args, Clone, Debug)]
#[group(id = "site-flags")]
pub(crate) struct Flags {
    /// The server to load. Several share one engine: users are spread over them in turn, and each channel
    /// is audited across all.
    #[arg(long, value_name = "URL", conflicts_with_all = ["start_server", "start_cluster"])]
    server: Vec<String>,
    /// Start a server for the run, on fresh data and its own core.
    #[arg(long)]
    start_server: bool,
    /// Start hubs for the run that share an engine of three servers, on the cores that are there.
    #[arg(long, conflicts_with = "start_server")]
    start_cluster: bool,
    /// How many hubs.
    #[arg(long, default_value_t = 3, requires = "start_cluster")]
    hubs: usize,
    /// The program of the server to start, if not the one beside this.
    #[arg(long, value_name = "PATH", conflicts_with = "server")]
    binary: Option<PathBuf>,
    /// The cores of the server to start: the first one for all of its threads, or all, as in
    /// production.
    #[arg(long, value_enum, default_value_t = ServerCores::All, requires = "start_server")]
    server_cores: ServerCores,
    /// The internal port of a server that is there, of the first if there are several, for its metrics and profiles.
    #[arg(long, value_name = "ADDRESS", requires = "server")]
    internal: Option<SocketAddr>,
    /// The process of a server that is there, of the first if there are several, if it is on this machine, for its CPU and memory.
    #[arg(long, value_name = "PID", requires = "server")]
    pid: Option<u32>,
    /// Access tokens, one on each line, for --auth none.
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
}

/// The setting that lets a server compress.
const DEFLATE: [&str; 2] = ["HUBBUB__EDGE__DEFLATE", "on"];

/// Where a server runs. The generator has all cores but the first, either way.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum ServerCores {
    One,
    All,
}

/// The place, checked but not touched yet.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    place: Place,
    tokens: Option<Vec<String>>,
}

#[derive(Clone, Debug)]
enum Place {
    There { urls: Vec<String>, internal: Option<SocketAddr>, pid: Option<u32> },
    Started { binary: Option<PathBuf>, cores: ServerCores },
    Cluster { binary: Option<PathBuf>, hubs: usize },
}

/// The place, with a server that answers.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) targets: Vec<Target>,
    pub(crate) internal: Option<SocketAddr>,
    pub(crate) pid: Option<u32>,
    pub(crate) tokens: Option<Vec<String>>,
    /// Of a server that was started for the run.
    pub(crate) started: Option<Started>,
    /// Of several.
    pub(crate) cluster: Option<Cluster>,
    /// Its data and its log. After it, because that is how they are dropped.
    pub(crate) folder: Option<TempDir>,
    /// The core that it has for itself.
    pub(crate) core: Option<CoreLeft>,
}

/// A server of our own.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) server: Server,
    pub(crate) setup: Setup,
}

impl Site {
    pub(crate) fn new(flags: &Flags, scenario: &Scenario) -> Result<Self, Failure> {
        let wrong = |what: String| Err(Failure::configuration(anyhow!(what)));
        let binary = flags.binary.clone();
        let place = if !flags.server.is_empty() {
            for url in &flags.server {
                authority(url).map_err(Failure::Configuration)?;
            }
            let (internal, pid) = (flags.internal, flags.pid);
            Place::There { urls: flags.server.clone(), internal, pid }
        } else if flags.start_server {
            Place::Started { binary, cores: flags.server_cores }
        } else if flags.start_cluster {
            if flags.hubs == 0 {
                return wrong("--hubs must be at least 1".to_owned());
            }
            Place::Cluster { binary, hubs: flags.hubs }
        } else {
            let which = "say which server: --server URL, --start-server or --start-cluster";
            return wrong(which.to_owned());
        };
        let is_started = matches!(place, Place::Started { .. });
        let is_of_server = |it: &Chaos| it.action.is_of_server();
        if scenario.chaos.iter().any(is_of_server) && !is_started {
            return wrong("--chaos needs a server of our own: --start-server".to_owned());
        }
        let tokens = flags.tokens.as_deref().map(read_tokens).transpose()?;
        let is_ours = !matches!(place, Place::There { .. });
        match (scenario.login, &tokens) {
            (Login::None, None) if !is_ours => {
                return wrong("--auth none needs --tokens FILE, or --start-server".to_owned());
            }
            (Login::First | Login::During, Some(_)) => {
                return wrong("--tokens goes with --auth none".to_owned());
            }
            _ => {}
        }
        Ok(Self { place, tokens })
    }

    pub(crate) fn has_internal_port(&self) -> bool {
        match &self.place {
            Place::There { internal, .. } => internal.is_some(),
            Place::Started { .. } | Place::Cluster { .. } => true,
        }
    }

    /// Starts the server, if there is one to start, and leaves its core to it.
    pub(crate) async fn enter(self, scenario: &Scenario) -> Result<Ground, Failure> {
        let (binary, cores) = match self.place {
            Place::Started { binary, cores } => (binary, cores),
            Place::There { urls, internal, pid } => {
                let mut targets = Vec::new();
                for url in urls {
                    let host = authority(&url)?;
                    let address = resolve(&host).await?;
                    targets.push(Target { address, host });
                }
                return Ok(Ground { internal, pid, ..Ground::of(targets, self.tokens) });
            }
            Place::Cluster { binary, hubs } => {
                return cluster(binary, hubs, self.tokens, scenario).await;
            }
        };
        let folder = tempfile::Builder::new().prefix("hubbub-load-").tempdir()?;
        // The port is chosen beforehand, since the server has to come back to it.
        let mut setup = Setup::new(binary, server::free_address()?, folder.path())?;
        if cores == ServerCores::One {
            setup.keep_to_first_core();
        }
        if scenario.deflate {
            // Its users speak protobuf, which is not compressed by default.
            setup.environment.push(DEFLATE.map(str::to_owned).into());
        }
        setup.environment.extend(scenario.server.clone());
        let server = setup.start().await?;
        let core = CoreLeft::leave()?;
        let tokens = match scenario.login {
            Login::None if self.tokens.is_none() => {
                let count = scenario.users as usize + 1;
                Some(tokens::sign(setup.listen, &setup.data_dir, count).await?)
            }
            _ => self.tokens,
        };
        let (internal, pid) = (Some(setup.internal), Some(server.pid()?));
        Ok(Ground {
            internal,
            pid,
            started: Some(Started { server, setup: setup.clone() }),
            folder: Some(folder),
            core: Some(core),
            ..Ground::of(vec![target(&setup)], tokens)
        })
    }
}

impl Ground {
    /// With servers that somebody else has started.
    fn of(targets: Vec<Target>, tokens: Option<Vec<String>>) -> Self {
        Self {
            targets,
            internal: None,
            pid: None,
            tokens,
            started: None,
            cluster: None,
            folder: None,
            core: None,
        }
    }
}

fn target(setup: &Setup) -> Target {
    Target { address: setup.listen, host: setup.listen.to_string() }
}

/// Starts hubs and their engine. They and this side share all cores.
async fn cluster(
    binary: Option<PathBuf>,
    hubs: usize,
    tokens: Option<Vec<String>>,
    scenario: &Scenario,
) -> Result<Ground, Failure> {
    let mut environment: Vec<_> = scenario.server.clone().into_iter().collect();
    if scenario.deflate {
        environment.push(DEFLATE.map(str::to_owned).into());
    }
    let options = Options {
        hubs,
        has_engine: true,
        sync_always: true,
        has_disk: false,
        has_network: false,
        binary,
        environment,
    };
    let cluster = Cluster::start(&options).await?;
    let first = &cluster.hubs[0].setup;
    let tokens = match scenario.login {
        Login::None if tokens.is_none() => {
            let count = scenario.users as usize + 1;
            Some(tokens::sign(first.listen, &first.data_dir, count).await?)
        }
        _ => tokens,
    };
    let targets = cluster.hubs.iter().map(|hub| target(&hub.setup)).collect();
    let (internal, pid) = (Some(first.internal), Some(cluster.hubs[0].pid()?));
    Ok(Ground { internal, pid, cluster: Some(cluster), ..Ground::of(targets, tokens) })
}

async fn resolve(host: &str) -> Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(host)
        .await
        .with_context(|| format!("the name of {host} cannot be resolved"))?;
    found.next().with_context(|| format!("{host} has no address"))
}

/// `http://host:port` → `host:port`.
fn authority(url: &str) -> Result<String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let host = rest.trim_end_matches('/');
    match scheme {
        "http" | "ws" => {}
        "https" | "wss" => bail!("--server {url}: TLS is not spoken yet"),
        _ => bail!("--server {url}: expected http://HOST:PORT"),
    }
    if host.is_empty() || host.contains(['/', '?', '#', '@']) {
        bail!("--server {url}: expected http://HOST:PORT and nothing after it");
    }
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let is_v6_only = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|it| it.is_ipv6());
    let is_colon_left = host.rsplit(']').next().is_some_and(|it| it.contains(':'));
    if is_colon_left && !has_port && !is_v6_only {
        bail!("--server {url}: expected a port from 1 to 65535 after the colon");
    }
    Ok(if has_port && !is_v6_only { host.to_owned() } else { format!("{host}:80") })
}

fn read_tokens(path: &Path) -> Result<Vec<String>, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--tokens {shown} cannot be read"))
        .map_err(Failure::Configuration)?;
    let tokens: Vec<_> = text.lines().map(str::trim).filter(|it| !it.is_empty()).collect();
    let is_plain = |token: &&str| token.bytes().all(|byte| byte.is_ascii_graphic());
    if tokens.is_empty() || !tokens.iter().all(is_plain) {
        let wrong = anyhow!("--tokens {shown}: expected one access token on each line");
        return Err(Failure::Configuration(wrong));
    }
    Ok(tokens.into_iter().map(str::to_owned).collect())
}

/// The first allowed core, left by this thread, and by those that it starts, to a server's hub. It
/// comes back when this is dropped: the next run's server must not inherit what is left.
#[derive(Debug)]
pub(crate) struct CoreLeft {
    all: CpuSet,
}

impl CoreLeft {
    /// Where there is no other core, nothing is left.
    pub(crate) fn leave() -> Result<Self> {
        let all = sched_getaffinity(None)?;
        let first = (0..CpuSet::MAX_CPU).find(|core| all.is_set(*core));
        if all.count() > 1
            && let Some(first) = first
        {
            let mut others = all;
            others.unset(first);
            sched_setaffinity(None, &others)?;
        }
        Ok(Self { all })
    }
}

impl Drop for CoreLeft {
    fn drop(&mut self) {
        if let Err(error) = sched_setaffinity(None, &self.all) {
            eprintln!("the cores of this thread cannot be set back: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_that_was_left_comes_back() {
        let before = sched_getaffinity(None).unwrap();
        let left = CoreLeft::leave().unwrap();
        let during = sched_getaffinity(None).unwrap();
        assert_eq!(during.count(), before.count().saturating_sub(1).max(1));
        drop(left);
        assert!(sched_getaffinity(None).unwrap() == before);
    }

    #[test]
    fn a_url_gives_host_and_port_or_says_what_is_wrong() {
        let of = |url| authority(url).map_err(|error| error.to_string());
        assert_eq!(of("http://127.0.0.1:7878"), Ok("127.0.0.1:7878".to_owned()));
        assert_eq!(of("127.0.0.1:7878/"), Ok("127.0.0.1:7878".to_owned()));
        assert_eq!(of("ws://chat.example"), Ok("chat.example:80".to_owned()));
        assert_eq!(of("http://[::1]:7878"), Ok("[::1]:7878".to_owned()));
        assert_eq!(of("http://[::1]"), Ok("[::1]:80".to_owned()));
        for (url, wrong) in [
            ("https://x:1", "TLS"),
            ("ftp://x:1", "expected"),
            ("http://x:1/v1/ws", "nothing after"),
            ("http://", "expected"),
            ("http://x:", "port"),
            ("http://x:70000", "port"),
            ("http://[::1]:http", "port"),
        ] {
            assert!(of(url).is_err_and(|error| error.contains(wrong)), "{url}");
        }
    }
}
