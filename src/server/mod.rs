//! Wires the parts together: the only module that knows all of them.
//!
//! ```text
//! edge runtime   accepts, HTTP, handshakes, tokens      the other cores
//! hub            one thread for each shard              a core each, of its own
//! log            one writer, a few readers              the other cores
//! auth           argon2 workers, the account store      the other cores, the workers niced
//! import         decoders, one writer                   all cores, at the lowest priority
//! internal       health, metrics, administration        the other cores
//! ```

use std::{
    fs::File,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime::{Builder, Handle, LocalOptions, Runtime},
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use self::{
    cores::{Plan, PlanError},
    engine::Opened,
    revocations::{Feed, Follower},
    vitals::Vitals,
};
use crate::{
    auth::{
        Auth, AuthStartError,
        trust::{self, Trust, TrustError},
    },
    clock,
    config::Config,
    connection::{login::Login, run_shard},
    edge::{
        Edge,
        accept::{self, Permits},
        admin_access::{self, Secret, SecretError},
        http::{self, AuthApi, admin, health::Health, openapi::Routes, transfer::Bulk},
        internal::{self, Internal},
        live::Live,
        tls::TlsError,
    },
    engine::{
        Engine, RecordError,
        any::AnyEngine,
        jetstream::{self, check::CheckError},
        sqlite,
    },
    hub::{
        Hub, Imported, ShardInput,
        bans::{BanError, Bans},
        cluster::{self, Cluster},
        crossing::{self, Arrivals, Borders},
        desk::Desk,
        directory::{Directory, DirectoryError},
        list_cursor::ListCursors,
        revocations::{NoticesMailbox, Register, Revoker},
        shard::Shard,
    },
    limits::{DRAIN_CHECK_INTERVAL, DRAIN_RESERVE, LISTEN_BACKLOG, SHARD_MAILBOX_MAX},
    log::settings::Settings,
    metrics::Metrics,
    migrate, priority,
    transfer::import::{ImportOptions, Importer},
};

mod accounts_metrics;
pub mod auth;
mod auth_metrics;
pub mod cores;
mod engine;
mod log_metrics;
mod revocations;
mod trust_metrics;
mod vitals;

pub use engine::check_options;

/// A server at work. Dropping it without [`Server::drain`] leaves its threads running.
#[derive(Debug)]
pub struct Server<E> {
    public: SocketAddr,
    internal: SocketAddr,
    data_dir: PathBuf,
    warning: Option<cores::Warning>,
    drain_timeout: Duration,
    engine: Arc<E>,
    hub: Hub,
    auth: Option<Arc<Auth>>,
    bans: Arc<Bans<E>>,
    /// The other nodes, if there can be any.
    cluster: Option<Cluster>,
    edge: Runtime,
    live: Arc<Live>,
    vitals: Arc<Vitals>,
    /// Ends the public port.
    shutdown: watch::Sender<bool>,
    /// Ends the internal port, which tells how a drain goes and so outlives it.
    internal_shutdown: watch::Sender<bool>,
    hub_threads: Vec<JoinHandle<()>>,
    internal_thread: JoinHandle<()>,
    import_thread: JoinHandle<()>,
    /// Of the data directory, where the engine does not hold it.
    _lock: Option<File>,
}

/// Why a server does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The log.
    #[error(transparent)]
    Log(#[from] sqlite::OpenError),
    /// The servers of the cluster's engine.
    #[error(transparent)]
    Unfit(#[from] CheckError),
    /// The cluster's engine.
    #[error(transparent)]
    Cluster(#[from] jetstream::OpenError),
    /// The secret that the nodes share.
    #[error("the nodes' secret cannot be read or made")]
    SharedSecret(#[source] RecordError),
    /// Accounts and keys.
    #[error(transparent)]
    Auth(#[from] AuthStartError),
    /// Whose tokens are taken.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A server that has accounts was told that they are elsewhere.
    #[error(
        "trust.jwks_url and trust.key_file are for `hubbub hub`: this server has accounts of its own"
    )]
    AccountsTwice,
    /// The secret of the admin addresses.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The data directory.
    #[error("the data directory {} cannot be used", path.display())]
    DataDir {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The list of cores.
    #[error(transparent)]
    Cores(#[from] PlanError),
    /// The certificate or its key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A port that is taken, or not ours to take.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A thread or its runtime.
    #[error("a thread cannot be started")]
    Thread(#[source] io::Error),
    /// The bans.
    #[error("the bans cannot be read")]
    Bans(#[from] BanError),
    /// What is to be known of the store.
    #[error("the records cannot be read")]
    Records(#[source] RecordError),
    /// It is the target of a migration that is not finished.
    #[error(
        "the store is half a copy of another one: run the same `hubbub migrate` again until it ends \
         well, or begin with an empty store"
    )]
    HalfACopy,
    /// The records of channels and users.
    #[error("the directory cannot be read or brought up to date")]
    Directory(#[source] DirectoryError),
    /// A channel that the configuration names.
    #[error("the channel {name} cannot be made")]
    Channel {
        /// Which.
        name: String,
        /// Why.
        source: DirectoryError,
    },
}

/// Starts a server with its own accounts, on the configured engine.
///
/// # Errors
/// When a part of it cannot start. What has started ends with the process.
pub fn start(config: &Config) -> Result<Server<AnyEngine>, StartError> {
    start_as_configured(config, Accounts::Here)
}

/// Starts a hub without accounts, on the configured engine: it takes the tokens of those whom `[trust]`
/// names.
///
/// # Errors
/// As [`start`], and when nobody is trusted.
pub fn start_hub(config: &Config) -> Result<Server<AnyEngine>, StartError> {
    start_as_configured(config, Accounts::Elsewhere)
}

/// Where users log in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Accounts {
    /// In this process.
    Here,
    /// At an issuer of the configuration.
    Elsewhere,
}

fn start_as_configured(
    config: &Config,
    accounts: Accounts,
) -> Result<Server<AnyEngine>, StartError> {
    let plan = plan(config)?;
    let opened = engine::open(config, plan.rest.clone())?;
    start_on(config, accounts, plan, opened)
}

/// Starts a server on any engine, such as one that fails on demand.
///
/// # Errors
/// As [`start`].
pub fn start_with<E: Engine>(config: &Config, engine: Arc<E>) -> Result<Server<E>, StartError> {
    start_on(config, Accounts::Here, plan(config)?, Opened::plain(engine))
}

/// Whether the settings say where another auth service is.
fn has_own_issuer(trust: &trust::Settings) -> bool {
    !trust.jwks_url.is_empty() || !trust.key_file.as_os_str().is_empty()
}

fn plan(config: &Config) -> Result<Plan, PlanError> {
    let plan = cores::plan(&cores::allowed(), &config.hub.pin_cores, config.hub.shards)?;
    if let Some(warning) = &plan.warning {
        tracing::warn!("{warning}");
    }
    Ok(plan)
}

fn start_on<E: Engine>(
    config: &Config,
    accounts: Accounts,
    plan: Plan,
    opened: Opened<E>,
) -> Result<Server<E>, StartError> {
    let Opened { engine, mut metrics, failed_commits, is_remote, rows, lock } = opened;
    let live = Arc::new(Live::new(config.edge.clone())?);
    let edge = edge_runtime(&plan).map_err(StartError::Thread)?;
    let public_listener = {
        let _entered = edge.enter();
        listen(config.server.listen)?
    };
    let internal_listener = listen_internally(config.server.internal_listen)?;
    let public = public_listener.local_addr().map_err(StartError::Thread)?;
    let internal = internal_listener.local_addr().map_err(StartError::Thread)?;
    let (shutdown, is_shutdown) = watch::channel(false);
    let (internal_shutdown, is_internal_shutdown) = watch::channel(false);

    if edge.block_on(migrate::unfinished(&*engine)).map_err(StartError::Records)? {
        return Err(StartError::HalfACopy);
    }
    let directory = Arc::new(Directory::new(Arc::clone(&engine)));
    edge.block_on(directory.index_older()).map_err(StartError::Directory)?;
    edge.block_on(create_channels(&directory, &config.channels.created_at_start))?;

    let rest = plan.rest.clone();
    let on_worker_start = move || pin(rest.as_deref());
    let data_dir = config.server.data_dir.clone();
    let secret = Secret::load_or_create(&data_dir)?;
    let auth = match accounts {
        Accounts::Here if has_own_issuer(&config.trust) => return Err(StartError::AccountsTwice),
        Accounts::Here => {
            let settings = config.auth.clone();
            let auth = match rows {
                Some(rows) => Auth::start_replica(settings, &data_dir, rows, on_worker_start),
                None => Auth::start(settings, &data_dir, on_worker_start),
            };
            Some(Arc::new(auth?))
        }
        Accounts::Elsewhere => None,
    };
    let keys = auth.as_ref().map(|auth| auth.keys());
    let trust = Trust::new(keys, config.auth.realm(), &config.trust, edge.handle())?;
    let count = u16::try_from(plan.shards.len()).expect("SHARDS_MAX has 16 bits");
    let register = Arc::new(Register::new(revocations::kept(&config.auth)));
    let (revoker, notices) = Revoker::new(Arc::clone(&register), usize::from(count));
    let bans = Bans::load(Arc::clone(&engine), Arc::clone(&directory), revoker.clone());
    let bans = Arc::new(edge.block_on(bans)?);
    trust_metrics::register(&mut metrics, trust.stats());
    let login =
        Login::new(Arc::new(trust), register, Arc::clone(&directory), edge.handle().clone());
    let login = Arc::new(login);

    if let Some(auth) = &auth {
        accounts_metrics::register(&mut metrics, auth.stats());
        auth_metrics::register(&mut metrics, &auth.worker_stats());
    }
    let metrics = Arc::new(metrics);
    let vitals = Vitals::new(plan.shards.len(), failed_commits);
    let vitals = Arc::new(if is_remote { vitals.of_remote_engine() } else { vitals });
    if is_remote {
        edge.spawn(engine::watch(Arc::clone(&engine), Arc::clone(&vitals)));
    }
    let limits = Arc::new(config.limits.clone());
    let (mailboxes, inputs): (Vec<_>, Vec<_>) =
        plan.shards.iter().map(|_| mpsc::channel(SHARD_MAILBOX_MAX)).unzip();
    let hub = Hub::new(mailboxes);
    let cursors = if is_remote {
        let shared = edge.block_on(engine::shared_secret(&*engine));
        ListCursors::new(&shared.map_err(StartError::SharedSecret)?)
    } else {
        ListCursors::new(secret.expose().as_bytes())
    };
    let desk = Desk::new(Arc::clone(&engine), Arc::clone(&directory), &hub, cursors);
    let desk = Arc::new(desk.limited(&config.limits));
    let mut hub_threads = Vec::new();
    let borders = crossing::borders(count).into_iter().zip(notices).zip(inputs);
    for ((((borders, arrivals), notices), inputs), cores) in borders.zip(plan.shards) {
        let shard = ShardThread {
            cores,
            borders,
            arrivals,
            engine: Arc::clone(&engine),
            desk: Arc::clone(&desk),
            limits: Arc::clone(&limits),
            metrics: Arc::clone(&metrics),
            vitals: Arc::clone(&vitals),
            login: Arc::clone(&login),
            cork_max: config.hub.cork_max,
            notices,
            inputs,
        };
        hub_threads.push(shard.spawn().map_err(StartError::Thread)?);
    }
    {
        let desk = Arc::clone(&desk);
        edge.spawn(async move { desk.remove_deleted().await });
    }
    let nodes = cluster::Parts {
        engine: Arc::clone(&engine),
        hub: hub.downgrade(),
        directory: Arc::clone(&directory),
        bans: Arc::clone(&bans),
        metrics: Arc::clone(&metrics),
    };
    let cluster = Cluster::start(nodes, edge.handle());

    let health = health(&vitals);
    let admin = match &auth {
        Some(auth) => admin::auth(&AuthApi::new(auth, &live, &config.limits)),
        None => Routes::new(""),
    };
    let (importer, import_thread) = importer(config, &engine, &directory, &hub, edge.handle())?;
    let bulk = Bulk::new(Arc::clone(&engine), Arc::clone(&directory), importer);
    let admin = admin.and(admin::hub(&bans)).and(bulk.routes());
    let internal_thread = internal::spawn(
        internal_listener,
        Internal::new(health.clone(), {
            let metrics = Arc::clone(&metrics);
            move || metrics.to_text()
        })
        .with_admin(admin, secret),
        config.limits.clone(),
        is_internal_shutdown,
    )
    .map_err(StartError::Thread)?;

    if let Some(feed) = Feed::of(auth.as_ref(), &config.trust) {
        let trust = Arc::clone(login.trust());
        let forget_key = move |key_id: &str| trust.forget_key(key_id);
        let mut follower = Follower::new(feed, revoker, forget_key, Arc::clone(&metrics));
        edge.block_on(follower.catch_up());
        edge.spawn(follower.follow());
    }

    let router = http::public(Edge {
        hub: hub.clone(),
        desk,
        login,
        auth: auth.clone(),
        metrics: Arc::clone(&metrics),
        health,
        live: Arc::clone(&live),
        limits: config.limits.clone(),
    });
    let limits = config.limits.clone();
    let present = Arc::clone(&live);
    edge.spawn(async move {
        let permits = Permits::for_process(limits.connections_max);
        let tls = || present.now().tls.clone();
        accept::serve(public_listener, router, permits, tls, &limits, 0, is_shutdown).await;
    });

    announce(&data_dir, internal)?;

    Ok(Server {
        public,
        internal,
        data_dir,
        warning: plan.warning,
        drain_timeout: config.limits.drain_timeout,
        engine,
        hub,
        auth,
        bans,
        cluster,
        edge,
        live,
        vitals,
        shutdown,
        internal_shutdown,
        hub_threads,
        internal_thread,
        import_thread,
        _lock: lock,
    })
}

impl<E: Engine> Server<E> {
    /// The public port.
    #[must_use]
    pub const fn public_address(&self) -> SocketAddr {
        self.public
    }

    /// The internal port.
    #[must_use]
    pub const fn internal_address(&self) -> SocketAddr {
        self.internal
    }

    /// What is not as it should be about the cores.
    #[must_use]
    pub const fn warning(&self) -> Option<cores::Warning> {
        self.warning
    }

    /// The engine.
    #[must_use]
    pub const fn engine(&self) -> &Arc<E> {
        &self.engine
    }

    /// Accounts and tokens, if they are in this process.
    #[must_use]
    pub const fn auth(&self) -> Option<&Arc<Auth>> {
        self.auth.as_ref()
    }

    /// Who may not come in.
    #[must_use]
    pub const fn bans(&self) -> &Arc<Bans<E>> {
        &self.bans
    }

    /// Applies the edge's part of a configuration to new connections, and reads the certificate and
    /// its key again. Connections that are open keep what they have. Nothing else of the
    /// configuration is looked at. Blocks while it reads files.
    ///
    /// # Errors
    /// When a file is missing or is not what it should be; then nothing has changed.
    pub fn reload(&self, config: &Config) -> Result<(), TlsError> {
        self.live.replace(config.edge.clone())
    }

    /// Ends in order: not ready, no new connections, accepted publishes finished, outboxes flushed,
    /// connections closed. Blocks until then, or until the drain timeout; answers whether it was in
    /// time. Either way nothing that was acknowledged is lost.
    pub fn drain(self) -> bool {
        self.vitals.start_draining();
        let others = self.cluster.as_ref().map_or(0, |cluster| {
            cluster.drain();
            cluster.others()
        });
        // An error means that nobody listens any more.
        let _ = self.shutdown.send(true);
        let within = self.drain_timeout.saturating_sub(DRAIN_RESERVE);
        let leave_within = (others > 0).then_some(within / 2);
        let drained = async { timeout(within, self.hub.drain(leave_within)).await };
        let in_time = self.edge.block_on(drained).is_ok();
        drop(self.hub);
        admin_access::renounce(&self.data_dir, self.internal);
        end_internally(&self.edge, &self.internal_shutdown, &self.internal_thread);
        // With the port the last who could import is gone.
        wait_for(&self.edge, &self.import_thread);
        self.edge.shutdown_timeout(DRAIN_RESERVE / 2);
        if in_time {
            // A thread that panicked has said so already.
            for thread in self.hub_threads {
                let _ = thread.join();
            }
        }
        in_time
    }
}

/// Starts the threads that import. The shards are told of what is new.
fn importer<E: Engine>(
    config: &Config,
    engine: &Arc<E>,
    directory: &Arc<Directory<E>>,
    hub: &Hub,
    edge: &Handle,
) -> Result<(Importer, JoinHandle<()>), StartError> {
    let (hub, edge) = (hub.downgrade(), edge.clone());
    let options = ImportOptions {
        message_bytes_max: usize::try_from(config.limits.message_bytes_max.as_u64())
            .unwrap_or(usize::MAX),
        // On any core, the hub's too, where nobody else wants it.
        on_thread_start: Arc::new(|| priority::lower_to(priority::LOWEST)),
        imported: Arc::new(move |channel, after, head| {
            if let Some(hub) = hub.upgrade() {
                hub.imported(Imported { channel, after, head }, &edge);
            }
        }),
    };
    Importer::start(Arc::clone(engine), Arc::clone(directory), options).map_err(StartError::Thread)
}

/// Ends the internal port, which tells how a drain goes and so outlives it. Blocks until then, but
/// not for long: who is slow to read the metrics does not hold up the end.
fn end_internally(runtime: &Runtime, shutdown: &watch::Sender<bool>, thread: &JoinHandle<()>) {
    // An error means that nobody listens any more.
    let _ = shutdown.send(true);
    wait_for(runtime, thread);
}

/// Waits for the end of a thread, but not for long.
fn wait_for(runtime: &Runtime, thread: &JoinHandle<()>) {
    let ended = async {
        while !thread.is_finished() {
            sleep(DRAIN_CHECK_INTERVAL).await;
        }
    };
    let bounded = async { timeout(DRAIN_RESERVE / 2, ended).await };
    let _ = runtime.block_on(bounded);
}

/// What the thread of a shard is made of.
struct ShardThread<E> {
    cores: Option<Vec<usize>>,
    borders: Borders,
    arrivals: Arrivals,
    engine: Arc<E>,
    desk: Arc<Desk<E>>,
    limits: Arc<crate::limits::Limits>,
    metrics: Arc<Metrics>,
    vitals: Arc<Vitals>,
    login: Arc<Login<E>>,
    cork_max: Duration,
    notices: NoticesMailbox,
    inputs: mpsc::Receiver<ShardInput>,
}

impl<E: Engine> ShardThread<E> {
    fn spawn(self) -> io::Result<JoinHandle<()>> {
        let place = self.borders.id.0;
        // All of one name, by which tools add up what the hub uses.
        std::thread::Builder::new().name("hub".to_owned()).spawn(move || {
            pin(self.cores.as_deref());
            let runtime = Builder::new_current_thread()
                .enable_all()
                // Every socket that is ready is read before the turn ends, so look for ready ones
                // only once all known ones are served.
                .event_interval(EVENT_INTERVAL)
                .build_local(LocalOptions::default())
                .expect("a runtime needs a few file descriptors, which are free at the start");
            let Self { borders, engine, desk, limits, metrics, login, .. } = self;
            let register = Arc::clone(login.register());
            let shard = Shard::new(borders, engine, desk, register, limits, metrics);
            let (arrivals, notices, inputs) = (self.arrivals, self.notices, self.inputs);
            runtime.block_on(async {
                tokio::task::spawn_local(vitals::beat(self.vitals, place));
                run_shard(shard, login, arrivals, self.cork_max, notices, inputs).await;
            });
        })
    }
}

/// Tasks that the hub's runtime polls before it asks the kernel for more.
const EVENT_INTERVAL: u32 = 1_024;

/// Listens with room for a storm of connects: all clients of a server that was restarted.
fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let listen = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(LISTEN_BACKLOG)
    };
    listen().map_err(|source| StartError::Listen { address, source })
}

fn listen_internally(address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    std::net::TcpListener::bind(address).map_err(|source| StartError::Listen { address, source })
}

/// Leaves word for the commands of the operator of where the internal port is.
fn announce(data_dir: &Path, internal: SocketAddr) -> Result<(), StartError> {
    admin_access::announce(data_dir, internal)
        .map_err(|source| StartError::DataDir { path: data_dir.to_owned(), source })
}

fn edge_runtime(plan: &Plan) -> io::Result<Runtime> {
    let workers = plan.rest.as_ref().map_or(1, Vec::len).max(1);
    let rest = plan.rest.clone();
    Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("edge")
        .on_thread_start(move || pin(rest.as_deref()))
        .enable_all()
        .build()
}

fn pin(cores: Option<&[usize]>) {
    if let Some(cores) = cores
        && let Err(error) = cores::pin(cores)
    {
        tracing::warn!(%error, "a thread could not be pinned to its cores");
    }
}

async fn create_channels<E: Engine>(
    directory: &Directory<E>,
    names: &[String],
) -> Result<(), StartError> {
    for name in names {
        match directory.create_channel(&Settings::open(name), None, clock::unix_ms()).await {
            Ok(_) | Err(DirectoryError::ChannelExists) => {}
            Err(source) => return Err(StartError::Channel { name: name.clone(), source }),
        }
    }
    Ok(())
}

fn health(vitals: &Arc<Vitals>) -> Health {
    let (live, ready) = (Arc::clone(vitals), Arc::clone(vitals));
    Health::new(move || live.is_live(), move || ready.is_ready())
}
