//! Servers of our own that share one engine: hubs, and the NATS servers that they keep everything in.
//!
//! On the loopback, or with a network namespace for each, so that one can be cut from another; and with the
//! streams on a disk of their own, if that is to lose its power.

#![expect(clippy::disallowed_methods, reason = "there is one task, so one blocking call at a time")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use hubbub::client::ServerUrl;
use rustix::process::Signal;
use tempfile::TempDir;
use testnats::{Host, Nats};

use super::{Server, Setup, disk::Disk, free_address, network::Network, usage::Usage};
use crate::Failure;

/// How many servers the engine has.
const ENGINES: usize = 3;
/// What the names of the streams with the logs begin with. Others may have more messages in a short run.
const LOGS: &str = "hubbub_MSG";
/// Of the disk under the engine's streams. Its file takes what is used of it.
const DISK_BYTES: u64 = 8 * 1024 * 1024 * 1024;
/// The ports of a hub that has an address for itself.
const PUBLIC_PORT: u16 = 7878;
const INTERNAL_PORT: u16 = 7879;

/// How to start it.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) hubs: usize,
    /// Whether there are NATS servers. Otherwise it is one hub with its log in SQLite.
    pub(crate) has_engine: bool,
    /// Whether the engine syncs before it acknowledges.
    pub(crate) sync_always: bool,
    /// Whether the engine's disk can lose its power.
    pub(crate) has_disk: bool,
    /// Whether one can be cut from another.
    pub(crate) has_network: bool,
    pub(crate) binary: Option<PathBuf>,
    /// Settings of the hubs.
    pub(crate) environment: Vec<(String, String)>,
}

/// Hubs and their engine. Dropped in this order: hubs, engine, disk, network, folder.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) hubs: Vec<Hub>,
    nats: Option<Arc<Mutex<Nats>>>,
    disk: Option<Disk>,
    network: Option<Network>,
    folder: TempDir,
}

/// One of the hubs, up or down.
#[derive(Debug)]
pub(crate) struct Hub {
    server: Option<Server>,
    pub(crate) setup: Setup,
}

impl Hub {
    pub(crate) fn pid(&self) -> Result<u32> {
        self.server.as_ref().context("the hub is down")?.pid()
    }
}

impl Cluster {
    pub(crate) async fn start(options: &Options) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("hubbub-cluster-").tempdir()?;
        let network = match options.has_network {
            true => Some(Network::make(ENGINES + options.hubs)?),
            false => None,
        };
        let disk = match options.has_disk {
            true => Some(Disk::make(folder.path(), DISK_BYTES)?),
            false => None,
        };
        let mut cluster = Self { hubs: Vec::new(), nats: None, disk, network, folder };
        if options.has_engine {
            if testnats::program().is_none() {
                return Err(Failure::configuration(anyhow!(testnats::MISSING)));
            }
            cluster.start_engine(options.sync_always).await?;
        }
        for number in 0..options.hubs {
            let setup = cluster.setup(number, options)?;
            let server = setup.start().await.with_context(|| format!("hub {number}"));
            let server = server.map_err(|error| cluster.keep(error))?;
            cluster.hubs.push(Hub { server: Some(server), setup });
        }
        Ok(cluster)
    }

    async fn start_engine(&mut self, sync_always: bool) -> Result<()> {
        // Like a server's, an address from which nobody connects.
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let here = Host { address: Ipv4Addr::new(127, 78, high, low), namespace: None };
        let host = |place| match &self.network {
            Some(network) => {
                Host { address: network.address(place), namespace: Some(network.namespace(place)) }
            }
            None => here.clone(),
        };
        let options = testnats::Options {
            sync_always,
            folder: Some(self.folder.path().to_owned()),
            store: self.disk.as_ref().map(|disk| disk.path().to_owned()),
            hosts: Some((0..ENGINES).map(host).collect()),
            ..testnats::Options::new(ENGINES)
        };
        let started = tokio::task::spawn_blocking(move || Nats::start(&options)).await?;
        self.nats = Some(Arc::new(Mutex::new(started?)));
        Ok(())
    }

    /// How to start one of the hubs.
    fn setup(&self, number: usize, options: &Options) -> Result<Setup, Failure> {
        let folder = self.folder.path().join(format!("hub-{number}"));
        std::fs::create_dir_all(&folder)?;
        let listen = match &self.network {
            Some(network) => SocketAddr::from((network.address(ENGINES + number), PUBLIC_PORT)),
            None => free_address()?,
        };
        let mut setup = Setup::new(options.binary.clone(), listen, &folder)?;
        if let Some(network) = &self.network {
            setup.internal.set_ip(listen.ip());
            setup.internal.set_port(INTERNAL_PORT);
            setup.namespace = Some(network.namespace(ENGINES + number));
        }
        setup.is_pinned = !options.has_engine;
        setup.environment.extend(options.environment.clone());
        if let Some(nats) = &self.nats {
            let nats = nats.lock().unwrap_or_else(PoisonError::into_inner);
            setup.engine = Some(nats.url());
            let pages: Vec<_> =
                nats.servers().iter().map(|it| format!("\"{}\"", it.monitor_url())).collect();
            let mut set = |key: &str, value: String| {
                setup.environment.push((format!("HUBBUB__JETSTREAM__{key}"), value));
            };
            set("MONITOR_URLS", format!("[{}]", pages.join(", ")));
            if !options.sync_always {
                set("ACCEPT_LOSSY", "true".to_owned());
            }
        }
        Ok(setup)
    }

    /// Where users find each hub.
    pub(crate) fn urls(&self) -> Result<Vec<ServerUrl>> {
        let url = |hub: &Hub| Ok(format!("http://{}", hub.setup.listen).parse()?);
        self.hubs.iter().map(url).collect()
    }

    /// What all processes have used, by name: `hub-0`, …, `nats-0`, …. Without those that are down.
    pub(crate) async fn usage(&self) -> Result<Vec<(String, Usage)>> {
        let hubs = self.hubs.iter().map(|hub| hub.pid().ok());
        let hubs = hubs.enumerate().map(|(number, pid)| (format!("hub-{number}"), pid));
        let mut processes: Vec<_> = hubs.collect();
        if self.nats.is_some() {
            let of =
                |nats: &mut Nats| -> Vec<_> { nats.servers().iter().map(|it| it.pid()).collect() };
            let nats = self.nats(of).await?;
            let nats = nats.into_iter().enumerate();
            processes.extend(nats.map(|(number, pid)| (format!("nats-{number}"), pid)));
        }
        let read = |(name, pid): (String, Option<u32>)| Some((name, Usage::read(pid?).ok()?));
        Ok(processes.into_iter().filter_map(read).collect())
    }

    /// Does this with the engine's servers, which may take its time.
    async fn nats<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Nats) -> T + Send + 'static,
    ) -> Result<T> {
        let nats = Arc::clone(self.nats.as_ref().context("there is no engine beside the hub")?);
        let done = tokio::task::spawn_blocking(move || {
            what(&mut nats.lock().unwrap_or_else(PoisonError::into_inner))
        });
        Ok(done.await?)
    }

    /// Keeps data and logs, for whoever looks for a fault.
    fn keep(&self, error: anyhow::Error) -> anyhow::Error {
        let kept = self.folder.path().with_extension("kept");
        match copy_logs(self.folder.path(), &kept) {
            Ok(()) => error.context(format!("the logs are kept in {}", kept.display())),
            Err(copying) => error.context(format!("the logs cannot be kept: {copying}")),
        }
    }

    /// Ends everything, and keeps the logs of all servers.
    pub(crate) fn end_and_keep_logs(self) -> Result<PathBuf> {
        let kept = self.folder.path().with_extension("kept");
        copy_logs(self.folder.path(), &kept)?;
        Ok(kept)
    }
}

/// Copies the logs and the configurations of all servers: their data may be gigabytes, and on a disk that
/// is about to go.
fn copy_logs(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    for server in std::fs::read_dir(from)? {
        let server = server?;
        if !server.file_type()?.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(server.path())? {
            let file = file?;
            let is_text = file.path().extension().is_some_and(|it| it == "log" || it == "conf");
            if is_text {
                let folder = to.join(server.file_name());
                std::fs::create_dir_all(&folder)?;
                std::fs::copy(file.path(), folder.join(file.file_name()))?;
            }
        }
    }
    Ok(())
}

/// What is done to one of them.
impl Cluster {
    /// The server that leads the log stream with the most messages, which the busiest channel is in.
    pub(crate) async fn leader(&self) -> Result<usize> {
        let leader = self.nats(|nats| nats.leader_of_most(LOGS)).await?;
        Ok(leader.context("no server of the engine says who leads")?.0)
    }

    pub(crate) async fn kill_hub(&mut self, hub: usize) -> Result<()> {
        self.hubs[hub].server.take().context("the hub is down")?.kill().await
    }

    pub(crate) async fn start_hub(&mut self, hub: usize) -> Result<()> {
        self.hubs[hub].server = Some(self.hubs[hub].setup.start().await?);
        Ok(())
    }

    pub(crate) fn freeze_hub(&self, hub: usize) -> Result<()> {
        self.hubs[hub].server.as_ref().context("the hub is down")?.freeze()
    }

    pub(crate) fn resume_hub(&self, hub: usize) -> Result<()> {
        self.hubs[hub].server.as_ref().context("the hub is down")?.resume()
    }

    pub(crate) async fn kill_engine(&self, server: usize) -> Result<()> {
        self.nats(move |nats| nats.kill(server)).await?
    }

    /// Starts it again, and waits until it serves.
    pub(crate) async fn start_engine_again(&self, server: usize) -> Result<()> {
        self.nats(move |nats| nats.launch(server).and_then(|()| nats.wait(server))).await?
    }

    pub(crate) async fn signal_engine(&self, server: usize, signal: Signal) -> Result<()> {
        self.nats(move |nats| nats.servers()[server].signal(signal)).await?
    }

    /// Cuts a server of the engine from the others. The hubs reach it still.
    pub(crate) fn cut_engine(&self, server: usize, is_healed: bool) -> Result<()> {
        self.cut(server, is_healed)
    }

    /// Cuts a hub from the engine. Its users reach it still.
    pub(crate) fn cut_hub(&self, hub: usize, is_healed: bool) -> Result<()> {
        self.cut(ENGINES + hub, is_healed)
    }

    fn cut(&self, place: usize, is_healed: bool) -> Result<()> {
        let network = self.network.as_ref().context("there is no network of our own")?;
        let engine: Vec<_> = (0..ENGINES).collect();
        if is_healed { network.heal(place, &engine) } else { network.cut(place, &engine) }
    }

    /// Lets the engine's disk have all that it was given so far.
    pub(crate) fn settle(&self) -> Result<()> {
        self.disk.as_ref().map_or(Ok(()), Disk::settle)
    }

    /// All servers of the engine lose their power at once, and come back. They are frozen first, so that
    /// whatever they have told anybody, they told before the cut.
    pub(crate) async fn cut_power(&mut self, dark: Duration) -> Result<()> {
        let frozen = self.nats(|nats| {
            nats.servers().iter().try_for_each(|it| it.signal(Signal::STOP))?;
            let pids = nats.servers().iter().filter_map(testnats::Server::pid);
            pids.into_iter().try_for_each(super::wait_until_frozen)
        });
        frozen.await??;
        self.disk.as_mut().context("there is no disk of our own")?.cut()?;
        self.nats(Nats::kill_all).await??;
        tokio::time::sleep(dark).await;
        let disk = self.disk.as_mut().context("there is no disk of our own")?;
        disk.unmount()?;
        disk.mount()?;
        let restarted = self.nats(|nats| {
            (0..nats.servers().len()).try_for_each(|it| nats.launch(it))?;
            (0..nats.servers().len()).try_for_each(|it| nats.wait(it))
        });
        restarted.await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing but the engine, if this machine can do it.
    async fn engine(has_disk: bool, has_network: bool) -> Option<Cluster> {
        if testnats::program().is_none() {
            println!("{}", testnats::MISSING);
            return None;
        }
        let options = Options {
            hubs: 0,
            has_engine: true,
            sync_always: true,
            has_disk,
            has_network,
            binary: None,
            environment: Vec::new(),
        };
        match Cluster::start(&options).await {
            Err(Failure::Configuration(error)) => {
                println!("NOT RUN: {error:#}");
                None
            }
            started => Some(started.unwrap()),
        }
    }

    /// How many of the other servers each of them is connected to.
    async fn routes(cluster: &Cluster) -> Vec<u64> {
        let of = |server: &testnats::Server| server.ask("/routez").unwrap();
        let pages = cluster.nats(move |nats| nats.servers().iter().map(of).collect::<Vec<_>>());
        let names = |page: &serde_json::Value| {
            let routes = page["routes"].as_array().unwrap().clone();
            let names = routes.iter().map(|it| it["remote_name"].as_str().unwrap().to_owned());
            names.collect::<std::collections::BTreeSet<_>>().len() as u64
        };
        pages.await.unwrap().iter().map(names).collect()
    }

    #[tokio::test]
    async fn an_engine_comes_back_after_its_power_was_cut() {
        let Some(mut cluster) = engine(true, false).await else { return };
        let pids =
            |usage: Vec<(String, Usage)>| usage.into_iter().map(|it| it.0).collect::<Vec<_>>();
        cluster.settle().unwrap();
        cluster.cut_power(Duration::from_millis(100)).await.unwrap();
        assert_eq!(pids(cluster.usage().await.unwrap()), ["nats-0", "nats-1", "nats-2"]);
        let kept = cluster.end_and_keep_logs().unwrap();
        let log = std::fs::read_to_string(kept.join("n0/nats.log")).unwrap();
        std::fs::remove_dir_all(kept).unwrap();
        assert_eq!(log.matches("Server is ready").count(), 2, "{log}");
    }

    #[tokio::test]
    async fn a_server_of_the_engine_can_be_cut_from_its_peers_and_killed() {
        let Some(cluster) = engine(false, true).await else { return };
        assert_eq!(routes(&cluster).await, [2, 2, 2]);
        cluster.cut_engine(1, false).unwrap();
        // Whoever comes back while it is cut finds one of the two.
        cluster.kill_engine(0).await.unwrap();
        cluster.nats(|nats| nats.launch(0)).await.unwrap().unwrap();
        let begun = std::time::Instant::now();
        let to_third = |routes: Vec<u64>| routes[0];
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let is_up = cluster.nats(|nats| nats.servers()[0].ask("/routez").is_ok());
            if is_up.await.unwrap() && to_third(routes(&cluster).await) == 1 {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", routes(&cluster).await);
        }
        cluster.cut_engine(1, true).unwrap();
        while to_third(routes(&cluster).await) != 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", routes(&cluster).await);
        }
    }
}
