//! A server in this process, with a data directory that goes with it.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytesize::ByteSize;
use hubbub::{
    auth::{
        Account, Auth, Tokens, Username,
        errors::RegisterError,
        password::Cost,
        store::keys::KeyStore,
        token::{Issuer, Realm},
    },
    client::{Accounts, Client, GetToken, Options, ServerUrl},
    config::Config,
    edge::tls::TlsError,
    engine::{Engine, any::AnyEngine, memory::MemoryEngine},
    hub::bans::Bans,
    server::{
        self, Server, StartError,
        cores::{PinCores, Shards},
    },
};
use tempfile::TempDir;

use super::{Api, LOBBY, get, off_runtime, within};

type Start<E> = dyn Fn(&Config) -> Result<Server<E>, StartError> + Send + Sync;

/// A server, and what it takes to start it again: its address and its data stay the same.
pub(crate) struct TestServer<E: Engine> {
    server: Option<Server<E>>,
    start: Arc<Start<E>>,
    config: Config,
    data_dir: TempDir,
}

impl TestServer<AnyEngine> {
    /// A server on SQLite, with the usual limits.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A hub that takes the tokens of this server, and has no accounts.
    pub(crate) async fn hub_of<E: Engine>(auth: &TestServer<E>) -> Self {
        let keys = format!("http://{}/.well-known/jwks.json", auth.address());
        Self::with(|config| config.trust.jwks_url = keys, server::start_hub).await
    }

    /// A server on SQLite, with limits that a test can wait for.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::with(change, server::start).await
    }
}

impl TestServer<MemoryEngine> {
    /// A server whose log does as the test says.
    pub(crate) async fn in_memory() -> Self {
        Self::in_memory_with(|_| {}).await
    }

    /// The same, with limits that a test can wait for.
    pub(crate) async fn in_memory_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::on(MemoryEngine::default(), change).await
    }

    /// So many servers that are nodes of one cluster. Each has accounts of its own, and users with the
    /// same names.
    pub(crate) async fn nodes(count: usize, change: impl Fn(&mut Config)) -> Vec<Self> {
        let first = MemoryEngine::default();
        let mut engines: Vec<_> = (1..count).map(|_| first.another_node()).collect();
        engines.push(first);
        let mut nodes = Vec::new();
        for engine in engines {
            nodes.push(Self::on(engine, &change).await);
        }
        nodes
    }

    async fn on(engine: MemoryEngine, change: impl FnOnce(&mut Config)) -> Self {
        let engine = Arc::new(engine);
        Self::with(change, move |config| server::start_with(config, Arc::clone(&engine))).await
    }
}

impl<E: Engine> TestServer<E> {
    async fn with(
        change: impl FnOnce(&mut Config),
        start: impl Fn(&Config) -> Result<Server<E>, StartError> + Send + Sync + 'static,
    ) -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.server.data_dir = data_dir.path().to_owned();
        config.server.listen = address_of_our_own();
        config.server.internal_listen = config.server.listen;
        config.hub.pin_cores = PinCores::Off;
        config.hub.shards = Shards::Number(shards());
        config.channels.created_at_start = vec![LOBBY.to_owned()];
        config.auth.workers_max = 1;
        config.auth.cost = Cost { memory: ByteSize::kib(64), passes: 1, lanes: 1 };
        change(&mut config);
        let mut server = Self { server: None, start: Arc::new(start), config, data_dir };
        server.start_again().await;
        server
    }

    /// Starts the server, which has been taken out by [`TestServer::take`].
    pub(crate) async fn start_again(&mut self) {
        assert!(self.server.is_none(), "one at a time");
        let (start, config) = (Arc::clone(&self.start), self.config.clone());
        let server = off_runtime(move || start(&config)).await.unwrap();
        self.config.server.listen = server.public_address();
        self.config.server.internal_listen = server.internal_address();
        self.server = Some(server);
    }

    /// Starts the server, if it does. Why it does not.
    pub(crate) async fn try_to_start(&mut self) -> Result<(), String> {
        let (start, config) = (Arc::clone(&self.start), self.config.clone());
        let server = off_runtime(move || start(&config).map_err(|error| error.to_string())).await;
        self.server = Some(server?);
        Ok(())
    }

    /// Takes the server out, for a test that ends it in its own way.
    pub(crate) fn take(&mut self) -> Server<E> {
        self.server.take().expect("it runs")
    }

    /// The data that the server, which has been taken out, has from its next start on.
    pub(crate) fn move_to(&mut self, data_dir: TempDir) {
        self.config.server.data_dir = data_dir.path().to_owned();
        self.data_dir = data_dir;
    }

    /// Drains the server. Whether it was in time.
    pub(crate) async fn drain(&mut self) -> bool {
        let server = self.take();
        within("a drain", off_runtime(move || server.drain())).await
    }

    /// Ends the server in order, and starts it on the same data and address.
    pub(crate) async fn restart(&mut self) {
        assert!(self.drain().await, "drained too late");
        self.start_again().await;
    }

    /// Has the server apply another configuration of the edge while it runs.
    pub(crate) fn reload(&mut self, change: impl FnOnce(&mut Config)) -> Result<(), TlsError> {
        change(&mut self.config);
        self.server.as_ref().expect("it runs").reload(&self.config)
    }

    /// The engine.
    pub(crate) fn engine(&self) -> Arc<E> {
        Arc::clone(self.server.as_ref().expect("it runs").engine())
    }

    /// Its accounts and tokens, without HTTP.
    pub(crate) fn auth(&self) -> Arc<Auth> {
        Arc::clone(self.server.as_ref().expect("it runs").auth().expect("it has accounts"))
    }

    /// Who may not come in.
    pub(crate) fn bans(&self) -> Arc<Bans<E>> {
        Arc::clone(self.server.as_ref().expect("it runs").bans())
    }

    /// What its operator shows on the internal port.
    pub(crate) fn admin_secret(&self) -> String {
        let file = self.config.server.data_dir.join("admin-secret");
        std::fs::read_to_string(file).unwrap().trim().to_owned()
    }

    /// A new session of this user, who has an account from the first one on.
    pub(crate) async fn session(&self, name: &str) -> Tokens {
        const PASSWORD: &str = "correct horse battery";
        let auth = self.auth();
        let here = IpAddr::from([127, 0, 0, 1]);
        match auth.register(name, PASSWORD.to_owned(), None, here, now_s()).await {
            Ok(_) | Err(RegisterError::Taken) => {}
            Err(error) => panic!("{error}"),
        }
        auth.log_in(name, PASSWORD.to_owned(), here, now_s()).await.unwrap()
    }

    /// The public address. It stays the same.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.config.server.listen
    }

    /// The internal address. It stays the same.
    pub(crate) const fn internal_address(&self) -> SocketAddr {
        self.config.server.internal_listen
    }

    /// Where its data are.
    pub(crate) fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    /// What the Rust client wants to know of the server.
    pub(crate) fn url(&self) -> ServerUrl {
        format!("http://{}", self.address()).parse().unwrap()
    }

    /// The accounts and tokens of the server, over HTTP.
    pub(crate) fn accounts(&self) -> Accounts {
        Accounts::new(self.url(), None)
    }

    /// A Rust client that acts as this user.
    pub(crate) fn client(&self, name: &str) -> Client {
        Client::connect(Options::new(self.url(), GetToken::fixed(&self.token(name))))
    }

    /// This user, by HTTP.
    pub(crate) fn api(&self, name: &str) -> Api {
        Api::new(self.address(), self.token(name))
    }

    /// A token of this user that is good for an hour.
    pub(crate) fn token(&self, name: &str) -> String {
        self.token_for(name, Duration::from_secs(3_600))
    }

    /// A token of this user that is good for so long, in whole seconds.
    pub(crate) fn token_for(&self, name: &str, lifetime: Duration) -> String {
        self.token_from(name, lifetime, now_s())
    }

    /// A token of this user that ran out an hour ago.
    pub(crate) fn expired_token(&self, name: &str) -> String {
        self.token_from(name, Duration::from_secs(3_600), now_s() - 7_200)
    }

    fn token_from(&self, name: &str, lifetime: Duration, now_s: u64) -> String {
        let (issuer, account) = self.issuer(name, lifetime, now_s);
        issuer.issue(&account, rand::random(), now_s).unwrap()
    }

    /// A token of this account as a hubbub without sessions issued them: without `sid` and `gen`.
    pub(crate) fn token_without_session(&self, account: &Account) -> String {
        let lifetime = Duration::from_secs(3_600);
        let (issuer, _) = self.issuer(account.username.as_str(), lifetime, now_s());
        issuer.issue(account, rand::random(), now_s()).unwrap()
    }

    /// The same, of a session.
    pub(crate) fn token_in(&self, name: &str, session: &str, lifetime: Duration) -> String {
        let (issuer, account) = self.issuer(name, lifetime, now_s());
        issuer.issue_in(&account, (session.to_owned(), 0), rand::random(), now_s()).unwrap()
    }

    fn issuer(&self, name: &str, lifetime: Duration, now_s: u64) -> (Issuer, Account) {
        let keys = KeyStore::open(&self.config.server.data_dir, now_s).unwrap();
        let key = keys.signing_key(now_s).unwrap();
        let realm = Realm {
            issuer: self.config.auth.issuer.clone(),
            audience: self.config.auth.audience.clone(),
        };
        let issuer =
            Issuer::new(key.encoding_key().unwrap(), key.key_id().to_owned(), realm, lifetime);
        let account =
            Account { subject: name.to_owned(), username: Username::parse(name).unwrap() };
        (issuer, account)
    }

    /// A counter of the metrics.
    pub(crate) async fn counter(&self, name: &str) -> u64 {
        self.gauge(&format!("hubbub_{name}_total")).await
    }

    /// A whole number of the metrics, by its whole name.
    pub(crate) async fn gauge(&self, name: &str) -> u64 {
        let is_it = |line: &str| line.rsplit_once(' ').is_some_and(|(it, _)| it == name);
        self.metric(is_it).await.expect("a metric of this name").parse().unwrap()
    }

    /// How often a connection was closed with this code, as the metrics have it.
    pub(crate) async fn closed(&self, name: &str) -> u64 {
        let label = format!("\"{name}\"");
        let counts_it =
            |line: &str| line.starts_with("hubbub_closed_total{") && line.contains(&label);
        self.metric(counts_it).await.map_or(0, |count| count.parse().unwrap())
    }

    /// What stands behind this name, with its labels, in the metrics.
    pub(crate) async fn metric_of(&self, name: &str) -> f64 {
        let is_it = |line: &str| line.rsplit_once(' ').is_some_and(|(it, _)| it == name);
        self.metric(is_it).await.map_or(0.0, |value| value.parse().unwrap())
    }

    async fn metric(&self, is_it: impl Fn(&str) -> bool) -> Option<String> {
        let (status, metrics) = get(self.internal_address(), "/metrics").await;
        assert_eq!(status, 200);
        let line = metrics.lines().find(|line| is_it(line))?;
        line.rsplit(' ').next().map(str::to_owned)
    }
}

impl<E: Engine> Drop for TestServer<E> {
    fn drop(&mut self) {
        // Its runtime must not be dropped on a thread of ours.
        if let Some(server) = self.server.take() {
            std::thread::spawn(move || drop(server));
        }
    }
}

/// How many shards the servers of the tests have: one, or as many as `SHARDS` says.
pub(crate) fn shards() -> u16 {
    std::env::var("SHARDS").map_or(1, |shards| shards.parse().expect("SHARDS is a number"))
}

/// A loopback address for one server only, so that its port is still free when it starts again:
/// all clients are on 127.0.0.1, and take their ports there.
fn address_of_our_own() -> SocketAddr {
    static SERVERS: AtomicU16 = AtomicU16::new(0);
    let [high, low] = SERVERS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    SocketAddr::from(([127, 1 + high, low, 1], 0))
}

/// The wall clock, for what tokens say.
pub(crate) fn now_s() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}
