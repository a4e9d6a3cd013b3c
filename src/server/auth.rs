//! The process `hubbub auth`: accounts and tokens without a hub. It opens no log of messages and has
//! no shards.
//!
//! Beside a hub on the same machine it stands back: the whole process is niced, its password workers
//! further, and the kernel chooses the cores.

use std::{
    fs::DirBuilder, net::SocketAddr, os::unix::fs::DirBuilderExt as _, path::PathBuf, sync::Arc,
    thread::JoinHandle, time::Duration,
};

use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
    time::timeout,
};

use super::{
    StartError, accounts_metrics, auth_metrics,
    engine::{self, Opened},
    listen, listen_internally,
    vitals::{self, Vitals},
};
use crate::{
    auth::Auth,
    config::{Config, EngineKind},
    edge::{
        accept::{self, Permits},
        admin_access::{self, Secret},
        http::{self, AuthApi, admin},
        internal::{self, Internal},
        live::Live,
        tls::TlsError,
    },
    engine::any::AnyEngine,
    limits::DRAIN_RESERVE,
    metrics::Metrics,
    priority,
};

/// How far below a hub's the priority of the process is. Its password workers are lower still.
const NICENESS: i32 = 5;

/// An auth service at work. Dropping it without [`AuthServer::drain`] leaves its threads running.
#[derive(Debug)]
pub struct AuthServer {
    public: SocketAddr,
    internal: SocketAddr,
    data_dir: PathBuf,
    drain_timeout: Duration,
    runtime: Runtime,
    live: Arc<Live>,
    vitals: Arc<Vitals>,
    /// Ends the public port.
    shutdown: watch::Sender<bool>,
    /// The public port. Ends when its last request is answered.
    serving: tokio::task::JoinHandle<()>,
    /// Ends the internal port, which tells how a drain goes and so outlives it.
    internal_shutdown: watch::Sender<bool>,
    internal_thread: JoinHandle<()>,
    /// Where the accounts of a cluster are.
    _cluster: Option<Opened<AnyEngine>>,
}

/// Starts an auth service in the configured directory.
///
/// # Errors
/// When a part of it cannot start. What has started ends with the process.
pub fn start(config: &Config) -> Result<AuthServer, StartError> {
    // Before any other thread is there: those that are started from now on inherit it.
    priority::lower_to(NICENESS);
    let live = Arc::new(Live::new(config.edge.clone())?);
    let runtime = Builder::new_multi_thread()
        .thread_name("edge")
        .enable_all()
        .build()
        .map_err(StartError::Thread)?;
    let public_listener = {
        let _entered = runtime.enter();
        listen(config.auth.listen)?
    };
    let internal_listener = listen_internally(config.auth.internal_listen)?;
    let public = public_listener.local_addr().map_err(StartError::Thread)?;
    let internal = internal_listener.local_addr().map_err(StartError::Thread)?;
    let (shutdown, is_shutdown) = watch::channel(false);
    let (internal_shutdown, is_internal_shutdown) = watch::channel(false);

    let data_dir = config.server.data_dir.clone();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&data_dir)
        .map_err(|source| StartError::DataDir { path: data_dir.clone(), source })?;
    let secret = Secret::load_or_create(&data_dir)?;
    let cluster = match config.engine {
        EngineKind::Sqlite => None,
        EngineKind::JetStream => Some(engine::open(config, None)?),
    };
    let rows = cluster.as_ref().and_then(|opened| opened.rows.clone());
    let auth = Arc::new(match rows {
        Some(rows) => Auth::start_replica(config.auth.clone(), &data_dir, rows, || {})?,
        None => Auth::start(config.auth.clone(), &data_dir, || {})?,
    });
    let api = AuthApi::new(&auth, &live, &config.limits);

    let vitals = Vitals::new(1, || 0);
    let vitals = Arc::new(if cluster.is_some() { vitals.of_remote_engine() } else { vitals });
    runtime.spawn(vitals::beat(Arc::clone(&vitals), 0));
    if let Some(opened) = &cluster {
        runtime.spawn(engine::watch(Arc::clone(&opened.engine), Arc::clone(&vitals)));
    }
    let health = super::health(&vitals);
    let mut metrics = Metrics::default();
    accounts_metrics::register(&mut metrics, auth.stats());
    auth_metrics::register(&mut metrics, &auth.worker_stats());
    let internal_thread = internal::spawn(
        internal_listener,
        Internal::new(health.clone(), move || metrics.to_text())
            .with_admin(admin::auth(&api), secret),
        config.limits.clone(),
        is_internal_shutdown,
    )
    .map_err(StartError::Thread)?;

    let router = http::auth(&api, &health);
    let limits = config.limits.clone();
    let present = Arc::clone(&live);
    let serving = runtime.spawn(async move {
        let permits = Permits::for_process(limits.connections_max);
        let tls = || present.now().tls.clone();
        accept::serve(public_listener, router, permits, tls, &limits, 0, is_shutdown).await;
    });
    super::announce(&data_dir, internal)?;

    Ok(AuthServer {
        public,
        internal,
        data_dir,
        drain_timeout: config.limits.drain_timeout,
        runtime,
        live,
        vitals,
        shutdown,
        serving,
        internal_shutdown,
        internal_thread,
        _cluster: cluster,
    })
}

impl AuthServer {
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

    /// Applies the edge's part of a configuration to new connections, and reads the certificate and
    /// its key again, as [`super::Server::reload`] does.
    ///
    /// # Errors
    /// When a file is missing or is not what it should be; then nothing has changed.
    pub fn reload(&self, config: &Config) -> Result<(), TlsError> {
        self.live.replace(config.edge.clone())
    }

    /// Ends in order: not ready, no new connections, requests that are under way answered. Blocks
    /// until then, or until the drain timeout; answers whether it was in time.
    pub fn drain(self) -> bool {
        self.vitals.start_draining();
        // An error means that nobody listens any more.
        let _ = self.shutdown.send(true);
        let within = self.drain_timeout.saturating_sub(DRAIN_RESERVE);
        let drained = async { timeout(within, self.serving).await };
        let in_time = self.runtime.block_on(drained).is_ok();
        admin_access::renounce(&self.data_dir, self.internal);
        super::end_internally(&self.runtime, &self.internal_shutdown, &self.internal_thread);
        self.runtime.shutdown_timeout(DRAIN_RESERVE / 2);
        in_time
    }
}
