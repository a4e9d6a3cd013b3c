//! Servers of NATS, and hubs on them that are killed, told to stop and started again.

use std::{
    future::Future,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hubbub::{
    client::{Accounts, Client, HistoryFrom, Message, Options, ServerUrl, Token},
    log::place::Sequence,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use testnats::Nats;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// How long anything may take. Far more than it does: who gets here has found a fault.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const LOBBY: &str = "lobby";
pub(crate) const PASSWORD: &str = "correct horse battery";
/// How long the kernel remembers where a port led. Two connections to each hub are enough to find one.
const TRIES: usize = 6;

/// What this brings, in time.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// Waits until this is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < PATIENCE, "{what} does not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The program, without the settings of who runs the tests.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hubbub"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HUBBUB_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Hubs on one engine.
pub(crate) struct Cluster {
    pub(crate) hubs: Vec<Hub>,
    pub(crate) nats: Nats,
    /// Behind them, because that is how they are dropped.
    _folder: TempDir,
}

impl Cluster {
    /// So many hubs on so many servers of NATS. `None`: there is no nats-server here.
    pub(crate) fn start(hubs: usize, servers: usize) -> Option<Self> {
        if testnats::program().is_none() {
            println!("{}", testnats::MISSING);
            return None;
        }
        let folder = TempDir::new().unwrap();
        let nats = testnats::Options {
            folder: Some(folder.path().join("nats")),
            ..testnats::Options::new(servers)
        };
        let nats = Nats::start(&nats).unwrap();
        let hubs = (0..hubs)
            .map(|number| Hub::new(&nats, folder.path().join(format!("hub{number}"))))
            .collect();
        let mut cluster = Self { hubs, nats, _folder: folder };
        for hub in &mut cluster.hubs {
            hub.start();
        }
        Some(cluster)
    }

    /// Where all hubs are, for a balancer.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.hubs.iter().map(|hub| hub.address).collect()
    }
}

/// One hub, and what it takes to start it again: its address and its data stay the same.
pub(crate) struct Hub {
    pub(crate) address: SocketAddr,
    pub(crate) internal: SocketAddr,
    engine: Vec<String>,
    monitors: String,
    data: PathBuf,
    process: Option<Child>,
}

impl Hub {
    fn new(nats: &Nats, data: PathBuf) -> Self {
        let mut engine = vec!["--engine".to_owned(), nats.url()];
        if nats.servers().len() == 1 {
            engine.push("--engine-single".to_owned());
        }
        let [address, internal] = free_addresses();
        Self { address, internal, engine, monitors: monitor_urls(nats), data, process: None }
    }

    pub(crate) fn start(&mut self) {
        let mut serve = program(&["serve", "--pin-cores", "off", "--shards", "2"]);
        serve.arg("--listen").arg(self.address.to_string());
        serve.arg("--internal-listen").arg(self.internal.to_string());
        serve.arg("--data-dir").arg(&self.data).args(&self.engine);
        serve.env("HUBBUB__JETSTREAM__MONITOR_URLS", &self.monitors);
        serve.env("HUBBUB__AUTH__COST__MEMORY", "64 KiB").env("HUBBUB__AUTH__COST__PASSES", "1");
        serve.env("HUBBUB__LOG_OUTPUT__FILTER", "warn");
        let mut process = serve.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        self.process = Some(process);
        let first = lines.next().expect("it starts, or says why not").unwrap();
        assert_eq!(first, format!("listening on http://{}", self.address));
        // Its greeting is longer than that, and must find a reader.
        thread::spawn(move || lines.for_each(drop));
    }

    pub(crate) fn url(&self) -> ServerUrl {
        url(self.address)
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Tells it to stop, and waits for its end.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("it runs");
        kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
        process.wait().unwrap()
    }

    /// What `/readyz` says, on the internal port.
    pub(crate) async fn readiness(&self) -> String {
        let asked = async {
            let mut stream = TcpStream::connect(self.internal).await?;
            stream.write_all(b"GET /readyz HTTP/1.0\r\nHost: hub\r\n\r\n").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = within("an answer of /readyz", asked).await.unwrap();
        answer.rsplit("\r\n").next().unwrap_or_default().to_owned()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It may have ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

pub(crate) fn url(address: SocketAddr) -> ServerUrl {
    format!("http://{address}").parse().unwrap()
}

/// As a list of TOML.
pub(crate) fn monitor_urls(nats: &Nats) -> String {
    let urls = nats.servers().iter().map(|server| format!("\"{}\"", server.monitor_url()));
    format!("[{}]", urls.collect::<Vec<_>>().join(","))
}

/// Addresses that nobody listens on now.
pub(crate) fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

/// Makes an account at a hub, and logs in there.
pub(crate) async fn account(server: &ServerUrl, name: &str) -> Token {
    let accounts = Accounts::new(server.clone(), None);
    accounts.create(name, PASSWORD).await.unwrap();
    accounts.token(name, PASSWORD).await.unwrap()
}

/// A client that comes back soon.
pub(crate) fn client(server: ServerUrl, name: &str, token: Token) -> Client {
    let accounts = Accounts::new(server.clone(), None);
    let options = Options::new(server, accounts.get_token_after(token, name, PASSWORD));
    Client::connect(Options { backoff_max: Duration::from_millis(500), ..options })
}

/// All messages of a channel, oldest first.
pub(crate) async fn history(client: &Client, channel: &str) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut after = Sequence::ZERO;
    loop {
        let page = within("history", client.history(channel, HistoryFrom::After(after), 0)).await;
        let page = page.unwrap();
        let Some(last) = page.messages.last() else { return messages };
        after = last.sequence;
        messages.extend(page.messages);
    }
}

/// What stands before the hubs: a port that leads to the next hub that takes a connection. It knows
/// nothing of HTTP.
pub(crate) async fn balance(hubs: Vec<SocketAddr>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let next = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (hubs, next) = (hubs.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                for _ in 0..TRIES {
                    let hub = hubs[next.fetch_add(1, Ordering::Relaxed) % hubs.len()];
                    if let Ok(mut hub) = TcpStream::connect(hub).await {
                        // It ends as one of the two does.
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut hub).await;
                        return;
                    }
                }
            });
        }
    });
    address
}

/// The folder of this tree.
pub(crate) fn tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
