//! The engine that the configuration names: opened, and watched.

use std::{fmt, fs::File, sync::Arc};

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use super::{StartError, log_metrics, pin, vitals::Vitals};
use crate::{
    config::{Config, EngineKind, Synchronous},
    engine::{
        Engine, Expect, RecordError, Table,
        any::AnyEngine,
        jetstream::{
            self, JetStreamOptions,
            check::{CheckOptions, wait_until_fit},
        },
        rows::Rows,
        sqlite::{self, SqliteOptions},
    },
    limits::{ENGINE_PROBE_INTERVAL, ENGINE_SILENCE_MAX, NATS_ACK_TIMEOUT},
    metrics::Metrics,
};

/// The record that is asked for to see whether the engine answers, and the one of all nodes' secret.
const PROBE_KEY: &str = "probe";
const SECRET_KEY: &str = "list_cursors";

/// An engine, and what a server wants to know of it.
pub(super) struct Opened<E> {
    pub(super) engine: Arc<E>,
    pub(super) metrics: Metrics,
    /// How many commits have failed.
    pub(super) failed_commits: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Whether it is elsewhere, and may stop to answer.
    pub(super) is_remote: bool,
    /// The accounts of all nodes, if there may be others.
    pub(super) rows: Option<Arc<dyn Rows>>,
    /// Held as long as the server runs, unless the engine holds it.
    pub(super) lock: Option<File>,
}

impl<E> fmt::Debug for Opened<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("is_remote", &self.is_remote).finish_non_exhaustive()
    }
}

impl<E> Opened<E> {
    /// One of which nothing is known.
    pub(super) fn plain(engine: Arc<E>) -> Self {
        Self {
            engine,
            metrics: Metrics::default(),
            failed_commits: Box::new(|| 0),
            is_remote: false,
            rows: None,
            lock: None,
        }
    }
}

/// Opens the engine of this configuration. Blocks.
pub(super) fn open(
    config: &Config,
    rest: Option<Vec<usize>>,
) -> Result<Opened<AnyEngine>, StartError> {
    let on_thread_start = Arc::new(move || pin(rest.as_deref()));
    match config.engine {
        EngineKind::Sqlite => {
            let synchronous = match config.log.synchronous {
                Synchronous::Full => sqlite::Synchronous::Full,
                Synchronous::Normal => sqlite::Synchronous::Normal,
            };
            let on_thread_start = Arc::new(move |_| on_thread_start());
            let options = SqliteOptions { synchronous, on_thread_start };
            let engine = sqlite::open(&config.server.data_dir, options)?;
            let stats = engine.stats();
            let mut opened = Opened::plain(Arc::new(AnyEngine::Sqlite(engine)));
            log_metrics::register(&mut opened.metrics, &stats);
            opened.failed_commits = Box::new(move || stats.commits_failed.get());
            Ok(opened)
        }
        EngineKind::JetStream => {
            let lock = sqlite::lock(&config.server.data_dir)?;
            check(config)?;
            let settings = &config.jetstream;
            let credentials = settings.credentials.clone();
            let engine = jetstream::open(JetStreamOptions {
                servers: settings.servers.clone(),
                credentials: Some(credentials).filter(|path| !path.as_os_str().is_empty()),
                prefix: settings.prefix.clone(),
                streams: settings.streams,
                single: settings.single,
                ack_timeout: NATS_ACK_TIMEOUT,
                on_thread_start,
            })?;
            let rows: Arc<dyn Rows> = Arc::new(engine.accounts());
            let opened = Opened::plain(Arc::new(AnyEngine::JetStream(engine)));
            Ok(Opened { is_remote: true, rows: Some(rows), lock: Some(lock), ..opened })
        }
    }
}

/// Looks at the servers of NATS, on a thread of its own: the caller's may have a runtime already.
fn check(config: &Config) -> Result<(), StartError> {
    let options = check_options(config);
    let check = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(runtime.map_err(StartError::Thread)?.block_on(wait_until_fit(&options))?)
    };
    let thread = std::thread::Builder::new().name("check".to_owned()).spawn(check);
    let checked = thread.map_err(StartError::Thread)?.join();
    checked.unwrap_or_else(|_| Err(StartError::Thread(std::io::Error::other("the check panicked"))))
}

/// What this configuration wants of the servers of NATS.
#[must_use]
pub fn check_options(config: &Config) -> CheckOptions {
    let settings = &config.jetstream;
    CheckOptions {
        servers: settings.servers.clone(),
        credentials: settings.credentials.clone(),
        prefix: settings.prefix.clone(),
        streams: settings.streams,
        single: settings.single,
        accept_lossy: settings.accept_lossy,
        monitor_urls: settings.monitor_urls.clone(),
    }
}

/// The secret that all nodes sign the cursors of lists with: a list may go on at another node.
pub(super) async fn shared_secret<E: Engine>(engine: &E) -> Result<Bytes, RecordError> {
    loop {
        if let Some(secret) = engine.get(Table::Counters, SECRET_KEY).await? {
            return Ok(secret.value);
        }
        let secret = Bytes::copy_from_slice(&rand::random::<[u8; 32]>());
        match engine.put(Table::Counters, SECRET_KEY, secret.clone(), Expect::Absent).await {
            Ok(_) => return Ok(secret),
            // Another node was quicker.
            Err(RecordError::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Asks the engine for something small again and again, and notes when it answers.
pub(super) async fn watch<E: Engine>(engine: Arc<E>, vitals: Arc<Vitals>) {
    loop {
        let asked = engine.get(Table::Counters, PROBE_KEY);
        if let Ok(Ok(_)) = timeout(ENGINE_SILENCE_MAX, asked).await {
            vitals.engine_answered();
        }
        sleep(ENGINE_PROBE_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::memory::MemoryEngine;

    #[tokio::test]
    async fn all_nodes_sign_lists_with_one_secret() {
        let node = MemoryEngine::default();
        let other = node.another_node();
        let (one, two) = tokio::join!(shared_secret(&node), shared_secret(&other));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!(one, two);
        assert_eq!(one.len(), 32);
    }
}
