//! Many nodes: the engine on NATS JetStream.
//!
//! ```text
//! append ─▶ log ─▶ stream MSGk (R3, synced) ─▶ RePublish ─▶ feed of every node
//!                     │ what an entry says of records
//!                     ▼
//! put, append ─▶ settle ─▶ stream RECORDS ─▶ RePublish ─▶ mirror of every node (for scans)
//! ```
//!
//! | file | what |
//! |---|---|
//! | `subject` | every name that NATS sees |
//! | `api` | what JetStream is asked |
//! | `accounts` | the rows of the account stores |
//! | `connect` | who we are to a server |
//! | `check` | whether the servers are fit |
//! | `streams` | how the streams are made, and that they are so |
//! | `entry` | an entry of a log as a message; pure |
//! | `log` | appends and reads of the logs of channels |
//! | `reader` | one log in its stream |
//! | `keys` | the newest keys of a channel; pure |
//! | `ends` | the last entries that were seen of the logs; pure |
//! | `feed` | what a stream commits, without a gap |
//! | `settling` | what entries say of records and is not known to be written |
//! | `announced` | which channels may have such entries, for nodes that start |
//! | `records` | the records |
//! | `settled` | from which entries a record follows; pure |
//! | `mirror` | all records in the memory of one node, to be listed |
//! | `nodes` | the way between nodes |
//!
//! One thread runs the connection, the feeds and every request. A request is handed to it when the
//! method is called, not when the future is first polled; dropping the future does not take it back.

use std::{
    collections::HashSet,
    future::Future,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc::sync_channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use async_nats::{Client, Event};
use bytes::Bytes;
use rand::RngExt as _;
use thiserror::Error;
use tokio::{
    runtime::{Builder, Handle},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use self::{
    accounts::Accounts, api::Api, feed::Feeds, log::Log, mirror::Mirror, nodes::Nodes,
    records::Records, settling::Settling, streams::Plan, subject::Subjects,
};
use super::{
    Append, AppendError, Bus, Caps, Chain, Derived, Durability, Engine, Expect, Feed, LogEnd, Mark,
    MessageKey, ReadError, ReadFrom, ReadMax, RecordError, Refusal, Revision, Table, Versioned,
};
use crate::{
    limits::{self, NATS_REQUEST_TIMEOUT},
    log::{
        batch::Entry,
        place::{ChannelId, ClientMessageId, Cursor, Sequence, UserId},
    },
};

pub mod accounts;
mod announced;
mod api;
pub mod check;
mod connect;
mod ends;
mod entry;
mod feed;
mod keys;
mod log;
mod mirror;
mod nodes;
mod reader;
mod records;
mod settled;
mod settling;
mod streams;
mod subject;

#[cfg(test)]
pub(super) mod tests;

pub use connect::CredentialsError;
pub use streams::StreamsError;

/// How the engine is opened.
#[derive(Clone)]
pub struct JetStreamOptions {
    /// Where servers of the cluster are: `nats://host:port`.
    pub servers: Vec<String>,
    /// The file with the account's credentials, if the servers want some.
    pub credentials: Option<PathBuf>,
    /// What the names of everything begin with: letters, digits, `-` and `_`.
    pub prefix: String,
    /// How many logs the channels are spread over. Fixed when the cluster is made.
    pub streams: usize,
    /// Whether there is one server, which replicates nothing.
    pub single: bool,
    /// How long an append waits for its acknowledgement, if it is small. Beyond it: `Unknown`.
    pub ack_timeout: Duration,
    /// Called by the engine's thread before anything else, to choose its core.
    pub on_thread_start: Arc<dyn Fn() + Send + Sync>,
}

/// Why the engine cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The prefix is empty, or has a character that names cannot have.
    #[error("the prefix {0:?} has something else than letters, digits, - and _")]
    Prefix(String),
    /// The number of logs is not possible.
    #[error("the number of logs must be from 1 to {}", limits::JETSTREAM_LOGS_MAX)]
    Logs,
    /// Who we are to the servers is not known.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// No server can be reached.
    #[error("no NATS server can be reached")]
    Connect(#[source] async_nats::ConnectError),
    /// The streams are missing or not as they were made.
    #[error(transparent)]
    Streams(#[from] StreamsError),
    /// The system gives us no thread.
    #[error("the engine's thread cannot be started")]
    Thread(#[source] io::Error),
    /// The servers do not let this node hear the others.
    #[error("the servers do not take this node's subscriptions")]
    Listen,
    /// The servers did not answer in time.
    #[error("JetStream does not answer")]
    Timeout,
}

/// Connects to a cluster, and makes its streams if they are not there. Blocks.
///
/// # Errors
/// When no server can be reached, or the streams cannot be used.
pub fn open(options: JetStreamOptions) -> Result<JetStreamEngine, OpenError> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if options.prefix.is_empty() || !options.prefix.bytes().all(is_name) {
        return Err(OpenError::Prefix(options.prefix));
    }
    if !(1..=limits::JETSTREAM_LOGS_MAX).contains(&options.streams) {
        return Err(OpenError::Logs);
    }
    let (started, start) = sync_channel(1);
    let (stop, stopped) = oneshot::channel();
    let single = options.single;
    let thread = thread::Builder::new().name("engine".to_owned()).spawn(move || {
        (options.on_thread_start)();
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(OpenError::Thread(error)))),
        };
        runtime.block_on(async {
            let inner = timeout(limits::NATS_OPEN_TIMEOUT, start_up(&options)).await;
            let inner = match inner.unwrap_or(Err(OpenError::Timeout)) {
                Ok(inner) => inner,
                Err(error) => return drop(started.send(Err(error))),
            };
            let client = inner.api.client().clone();
            if started.send(Ok((inner, Handle::current()))).is_ok() {
                // It fails when the engine is gone, which means the same.
                let _ = stopped.await;
            }
            // What was cast is sent before the connection ends.
            let _ = timeout(limits::NATS_ACK_TIMEOUT, client.flush()).await;
        });
    });
    let thread = thread.map_err(OpenError::Thread)?;
    let (inner, runtime) = start.recv().unwrap_or(Err(OpenError::Timeout))?;
    Ok(JetStreamEngine {
        inner,
        runtime,
        single,
        requests: Arc::new(Semaphore::new(limits::JETSTREAM_REQUESTS_MAX)),
        thread: Mutex::new(Some((stop, thread))),
    })
}

/// The engine's parts, each of which has what it needs of the others.
#[derive(Debug)]
struct Inner {
    api: Api,
    accounts: Accounts,
    records: Records,
    settling: Arc<Settling>,
    log: Arc<Log>,
    nodes: Arc<Nodes>,
}

/// On the engine's own thread: connects, makes the streams and begins the work in the background.
async fn start_up(options: &JetStreamOptions) -> Result<Arc<Inner>, OpenError> {
    let feeds = Arc::new(Feeds::default());
    let client = connect(options, Arc::clone(&feeds)).await?;
    let api = Api::new(client).with_ack_timeout(options.ack_timeout);
    let subjects = Subjects::new(&options.prefix);
    let plan = Plan { subjects: &subjects, logs: options.streams, single: options.single };
    streams::make(&api, plan).await?;
    let accounts = Accounts::new(api.clone(), subjects.clone());

    let records = Records::new(api.clone(), subjects.clone());
    let news = feeds.follow(api.clone(), Mirror::source(&subjects));
    tokio::spawn(records.mirror().clone().follow(api.clone(), subjects.clone(), news));
    let nodes = Nodes::listen(api.client().clone(), subjects.clone()).await;
    let nodes = Arc::new(nodes.map_err(|_| OpenError::Listen)?);
    let settling = Settling::new(
        api.clone(),
        subjects.clone(),
        options.streams,
        records.clone(),
        nodes.node(),
    );
    let settling = Arc::new(settling);
    let log =
        Log::new(api.clone(), subjects.clone(), options.streams, &feeds, Arc::clone(&settling));
    let log = Arc::new(log);
    for shelf in 0..options.streams {
        let news = feeds.follow(api.clone(), Log::source(&subjects, shelf));
        tokio::spawn(Arc::clone(&log).tell(news));
    }
    tokio::spawn(Arc::clone(&settling).run());
    tokio::spawn(Arc::clone(&feeds).exchange(api.clone(), subjects));
    Ok(Arc::new(Inner { api, accounts, records, settling, log, nodes }))
}

/// Connects to any of the servers. From then on a lost connection is made again by itself, and every
/// feed is told that it was lost.
async fn connect(options: &JetStreamOptions, feeds: Arc<Feeds>) -> Result<Client, OpenError> {
    let credentials = options.credentials.as_deref().unwrap_or(Path::new(""));
    let connect = connect::options(credentials)?
        .name("hubbub")
        .ping_interval(limits::NATS_PING_INTERVAL)
        .connection_timeout(limits::NATS_CONNECT_TIMEOUT)
        .subscription_capacity(limits::NATS_SUBSCRIPTION_MAX)
        .reconnect_delay_callback(|_| {
            rand::rng().random_range(limits::NATS_RECONNECT_MIN..limits::NATS_RECONNECT_MAX)
        })
        .event_callback(move |event| {
            let lost = matches!(event, Event::Connected | Event::SlowConsumer(_));
            match event {
                Event::Connected => tracing::info!("connected to the cluster's engine"),
                event => tracing::warn!(%event, "the connection to the cluster's engine"),
            }
            if lost {
                feeds.interrupt();
            }
            std::future::ready(())
        });
    connect.connect(&options.servers).await.map_err(OpenError::Connect)
}

/// A node's way to the cluster's logs and records. Share it in an [`Arc`]. Dropping it closes it.
#[derive(Debug)]
pub struct JetStreamEngine {
    inner: Arc<Inner>,
    runtime: Handle,
    single: bool,
    /// One for each request on its way.
    requests: Arc<Semaphore>,
    thread: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

impl JetStreamEngine {
    /// The rows of the accounts that all nodes share.
    #[must_use]
    pub fn accounts(&self) -> Accounts {
        self.inner.accounts.clone()
    }

    /// Ends the engine's thread, and with it what is on its way. Blocks until that is done; what is
    /// asked later is refused.
    pub fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((stop, thread)) = thread else { return };
        drop(stop);
        if thread.join().is_err() {
            tracing::error!("the engine's thread has panicked");
        }
        self.inner.log.close();
    }

    /// Does this on the engine's thread. `busy` is answered when too much is on its way already, and
    /// `lost` when it takes too long or the engine ends meanwhile.
    fn request<T, E, F>(
        &self,
        busy: E,
        lost: E,
        work: impl FnOnce(Arc<Inner>) -> F,
    ) -> impl Future<Output = Result<T, E>> + Send + 'static
    where
        T: Send + 'static,
        E: Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let permit = Arc::clone(&self.requests).try_acquire_owned();
        let task = permit.ok().map(|permit| {
            let work = work(Arc::clone(&self.inner));
            self.runtime.spawn(async move {
                let result = timeout(NATS_REQUEST_TIMEOUT, work).await;
                drop(permit);
                result.ok()
            })
        });
        async move {
            let Some(task) = task else { return Err(busy) };
            match task.await {
                Ok(Some(result)) => result,
                Ok(None) => Err(lost),
                Err(error) => {
                    if error.is_panic() {
                        tracing::error!(%error, "a request to the cluster's engine has panicked");
                    }
                    Err(lost)
                }
            }
        }
    }

    fn append_any<T: Send + 'static, F>(
        &self,
        fits: bool,
        work: impl FnOnce(Arc<Inner>) -> F,
    ) -> impl Future<Output = Result<T, AppendError>> + Send + 'static
    where
        F: Future<Output = Result<T, AppendError>> + Send + 'static,
    {
        let busy = AppendError::Refused(Refusal::Busy);
        let asked = fits.then(|| self.request(busy, AppendError::Unknown, work));
        async move {
            match asked {
                Some(asked) => asked.await,
                None => Err(AppendError::Refused(Refusal::TooLarge)),
            }
        }
    }

    fn read_any<T: Send + 'static, F>(
        &self,
        work: impl FnOnce(Arc<Inner>) -> F,
    ) -> impl Future<Output = Result<T, ReadError>> + Send + 'static
    where
        F: Future<Output = Result<T, ReadError>> + Send + 'static,
    {
        self.request(ReadError::Busy, ReadError::StorageUnavailable, work)
    }

    fn record<T: Send + 'static, F>(
        &self,
        work: impl FnOnce(Arc<Inner>) -> F,
    ) -> impl Future<Output = Result<T, RecordError>> + Send + 'static
    where
        F: Future<Output = Result<T, RecordError>> + Send + 'static,
    {
        self.request(RecordError::Busy, RecordError::StorageUnavailable, work)
    }
}

impl Drop for JetStreamEngine {
    fn drop(&mut self) {
        self.close();
    }
}

impl Engine for JetStreamEngine {
    fn append(
        &self,
        append: Append,
    ) -> impl Future<Output = Result<Cursor, AppendError>> + Send + 'static {
        let fits = append.bytes() <= limits::JETSTREAM_ENTRY_BYTES_MAX;
        self.append_any(fits, move |inner| async move { inner.log.append(append).await })
    }

    fn append_chain(
        &self,
        chain: Chain,
    ) -> impl Future<Output = Result<Vec<Cursor>, AppendError>> + Send + 'static {
        chain.check();
        let fits = chain.bytes() <= limits::JETSTREAM_ENTRY_BYTES_MAX;
        self.append_any(fits, move |inner| async move { inner.log.append_chain(chain).await })
    }

    fn mark(&self) -> impl Future<Output = Result<Mark, ReadError>> + Send + 'static {
        self.read_any(|inner| async move { inner.log.mark().await })
    }

    fn read(
        &self,
        channel: ChannelId,
        from: ReadFrom,
        max: impl Into<ReadMax>,
    ) -> impl Future<Output = Result<Vec<Entry>, ReadError>> + Send + 'static {
        let max = max.into();
        self.read_any(move |inner| async move { inner.log.read(channel, from, max).await })
    }

    fn heads(
        &self,
        channels: Vec<ChannelId>,
    ) -> impl Future<Output = Result<Vec<LogEnd>, ReadError>> + Send + 'static {
        self.read_any(move |inner| async move { inner.log.heads(channels).await })
    }

    fn find_keys(
        &self,
        channel: ChannelId,
        keys: Vec<(UserId, ClientMessageId)>,
    ) -> impl Future<Output = Result<Vec<MessageKey>, ReadError>> + Send + 'static {
        self.read_any(move |inner| async move { inner.log.find_keys(channel, &keys).await })
    }

    fn keys(
        &self,
        channel: ChannelId,
        first: Sequence,
        last: Sequence,
    ) -> impl Future<Output = Result<Vec<MessageKey>, ReadError>> + Send + 'static {
        self.read_any(move |inner| async move { inner.log.keys(channel, first, last).await })
    }

    fn trim(
        &self,
        channel: ChannelId,
        sequence: Sequence,
    ) -> impl Future<Output = Result<(), RecordError>> + Send + 'static {
        self.record(move |inner| async move { inner.log.trim(channel, sequence).await })
    }

    fn follow(&self) -> mpsc::Receiver<Feed> {
        self.inner.log.follow()
    }

    fn get(
        &self,
        table: Table,
        key: &str,
    ) -> impl Future<Output = Result<Option<Versioned>, RecordError>> + Send + 'static {
        let key = key.to_owned();
        self.record(move |inner| async move {
            inner.settling.settle_for(table, |of| of == key).await?;
            inner.records.get(table, &key).await
        })
    }

    fn put_with(
        &self,
        table: Table,
        key: &str,
        value: Bytes,
        expect: Expect,
        derived: Vec<Derived>,
    ) -> impl Future<Output = Result<Revision, RecordError>> + Send + 'static {
        let key = key.to_owned();
        self.record(move |inner| async move {
            let own = (table, key.as_str());
            let names = derived.iter().map(|of| (of.table, of.key.as_str())).chain([own]);
            let names: HashSet<_> = names.collect();
            let is_one = |of: &Derived| names.contains(&(of.table, of.key.as_str()));
            inner.settling.settle_those(is_one).await?;
            drop(names);
            inner.records.put(table, &key, Some(value), expect, derived).await
        })
    }

    fn remove(
        &self,
        table: Table,
        key: &str,
        revision: Revision,
    ) -> impl Future<Output = Result<(), RecordError>> + Send + 'static {
        let key = key.to_owned();
        self.record(move |inner| async move {
            inner.settling.settle_for(table, |of| of == key).await?;
            let expect = Expect::Revision(revision);
            inner.records.put(table, &key, None, expect, Vec::new()).await.map(drop)
        })
    }

    fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
    ) -> impl Future<Output = Result<Vec<(String, Versioned)>, RecordError>> + Send + 'static {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.record(move |inner| async move {
            inner.settling.settle_for(table, |of| of.starts_with(&prefix)).await?;
            inner.records.scan(table, &prefix, after.as_deref(), count_max).await
        })
    }

    fn bus(&self) -> Option<Arc<dyn Bus>> {
        Some(Arc::clone(&self.inner.nodes) as Arc<dyn Bus>)
    }

    fn caps(&self) -> Caps {
        let durability = if self.single { Durability::Fsynced } else { Durability::Quorum };
        Caps { durability, junk_possible: true }
    }
}
