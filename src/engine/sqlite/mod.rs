//! The engine of a single node: SQLite, one thread that writes and a few that read.
//!
//! The durability of the whole server is made here and in `writer`: a write-ahead log that is
//! synced before any answer (`synchronous=FULL`), no memory mapping, one connection that writes and
//! checkpoints, and a lock file that keeps a second server away.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    future::Future,
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags, config::DbConfig};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use self::{
    reader::{Query, Reader},
    schema::SchemaError,
    stats::Stats,
    transaction::{Put, Trim},
    writer::{Work, Writer},
};
use super::{
    Append, AppendError, Caps, Chain, Derived, Durability, Engine, Expect, Feed, LogEnd, Mark,
    MessageKey, ReadError, ReadFrom, ReadMax, RecordError, Refusal, Revision, Table, Versioned,
};
use crate::{
    limits,
    log::{
        batch::Entry,
        place::{ChannelId, ClientMessageId, Cursor, Sequence, UserId},
    },
};

mod reader;
mod records;
pub mod schema;
pub mod stats;
mod transaction;
mod wal;
mod writer;

#[cfg(test)]
mod tests;

const DATABASE_FILE: &str = "hubbub.db";
const LOCK_FILE: &str = "hubbub.lock";
/// Twice SQLite's default: half as many writes of pages for an import, and a post costs the same. A file
/// keeps the size that it was made with.
const PAGE_BYTES: u64 = 8192;

type AppendReply = oneshot::Sender<Result<Cursor, AppendError>>;
type ChainReply = oneshot::Sender<Result<Vec<Cursor>, AppendError>>;
type MarkReply = oneshot::Sender<Result<Mark, ReadError>>;
type HeadsReply = oneshot::Sender<Result<Vec<LogEnd>, ReadError>>;
type KeysReply = oneshot::Sender<Result<Vec<MessageKey>, ReadError>>;
type ReadReply = oneshot::Sender<Result<Vec<Entry>, ReadError>>;
type RecordReply<T> = oneshot::Sender<Result<T, RecordError>>;

/// How the engine is opened.
#[derive(Clone)]
pub struct SqliteOptions {
    /// When the disk is synced.
    pub synchronous: Synchronous,
    /// Called by each of the engine's threads before anything else, to choose its core and
    /// priority: none of them may run on the hub's core.
    pub on_thread_start: Arc<dyn Fn(ThreadRole) + Send + Sync>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { synchronous: Synchronous::Full, on_thread_start: Arc::new(|_| {}) }
    }
}

/// When the disk is synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Synchronous {
    /// Before every answer.
    Full,
    /// At checkpoints only: **acknowledged messages are lost by a power cut**. It exists for the
    /// control run of the durability test, which must see that loss to prove that it would see it.
    Normal,
}

/// What one of the engine's threads does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ThreadRole {
    /// It writes the log.
    LogWriter,
    /// It reads the log; they are numbered from 0.
    LogReader(usize),
}

/// Why the engine cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The directory or a file in it cannot be made or opened.
    #[error("the data directory {} cannot be used", .path.display())]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another server has it.
    #[error("another hubbub serves from the data directory {}", .0.display())]
    InUse(PathBuf),
    /// The tables are not ours, or not yet.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The file system has no shared memory for it, as some network file systems.
    #[error("the file system takes no write-ahead log")]
    NoWriteAheadLog,
    /// SQLite says no.
    #[error("the database cannot be opened")]
    Storage(#[from] rusqlite::Error),
    /// The system gives us no thread.
    #[error("a thread of the log cannot be started")]
    Thread(#[source] io::Error),
}

/// Opens the log in the directory, and makes both when they are not there. Blocks.
///
/// # Errors
/// When the directory is in use, of a newer version, or not usable.
pub fn open(dir: &Path, options: SqliteOptions) -> Result<SqliteEngine, OpenError> {
    let lock = lock(dir)?;
    // SQLite gives its other files the mode of this one. It is closed before SQLite opens it: to
    // close any handle of a file drops all locks that the process has on it.
    let path = dir.join(DATABASE_FILE);
    drop(private_file(&path).map_err(|source| unusable(&path, source))?);
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| unusable(dir, source))?;

    let mut connection = connect_writer(&path, options.synchronous)?;
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    if mode != "wal" {
        return Err(OpenError::NoWriteAheadLog);
    }
    schema::migrate(&mut connection)?;

    let stats = Arc::new(Stats::default());
    let (writer, writer_mailbox) = sync_channel(limits::WRITER_MAILBOX_MAX);
    let (readers, reader_mailbox) = sync_channel(limits::READER_MAILBOX_MAX);
    let reader_mailbox = Arc::new(Mutex::new(reader_mailbox));
    // From here on an error drops the engine, and that ends the threads that have been started.
    let engine = SqliteEngine {
        writer,
        readers,
        followers: Mutex::default(),
        threads: Mutex::default(),
        stats: Arc::clone(&stats),
        _lock: lock,
    };
    for number in 0..limits::LOG_READERS {
        let reader = Reader::open(path.clone(), Arc::clone(&reader_mailbox), Arc::clone(&stats))?;
        let role = ThreadRole::LogReader(number);
        engine.spawn(format!("log-reader-{number}"), role, &options, move || reader.run())?;
    }
    let writer = Writer::new(path, options.synchronous, writer_mailbox, connection, stats);
    engine.spawn("log-writer".to_owned(), ThreadRole::LogWriter, &options, move || writer.run())?;
    Ok(engine)
}

/// The handle of the engine's threads. Share it in an [`Arc`]. Dropping it closes it.
///
/// A request is handed to its thread when the method is called, not when the future is first
/// polled; dropping the future does not take it back.
#[derive(Debug)]
pub struct SqliteEngine {
    writer: SyncSender<Work>,
    readers: SyncSender<Query>,
    /// Held so that the feeds do not end before the engine does. One per caller of `follow`.
    followers: Mutex<Vec<mpsc::Sender<Feed>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stats: Arc<Stats>,
    /// Locked while it is open.
    _lock: File,
}

impl SqliteEngine {
    /// What the engine's threads have done.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// Finishes what was accepted, moves the write-ahead log into the database, and ends the
    /// threads. Blocks until that is done; what is asked later is refused. The directory stays
    /// locked until the engine is dropped.
    pub fn close(&self) {
        let threads = std::mem::take(&mut *unpoisoned(&self.threads));
        if threads.is_empty() {
            return;
        }
        // To send waits while a mailbox is full. It fails only when the threads are gone.
        for _ in 0..limits::LOG_READERS {
            let _ = self.readers.send(Query::Close);
        }
        let _ = self.writer.send(Work::Close);
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the log has panicked");
            }
        }
        unpoisoned(&self.followers).clear();
    }

    fn spawn(
        &self,
        name: String,
        role: ThreadRole,
        options: &SqliteOptions,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), OpenError> {
        let on_start = Arc::clone(&options.on_thread_start);
        let thread = thread::Builder::new().name(name).spawn(move || {
            on_start(role);
            run();
        });
        unpoisoned(&self.threads).push(thread.map_err(OpenError::Thread)?);
        Ok(())
    }

    fn read_log(&self, query: Query) -> Result<(), ReadError> {
        self.readers.try_send(query).map_err(|error| match error {
            TrySendError::Full(_) => ReadError::Busy,
            TrySendError::Disconnected(_) => ReadError::StorageUnavailable,
        })
    }

    fn query(&self, query: Query) -> Result<(), RecordError> {
        self.readers.try_send(query).map_err(|error| match error {
            TrySendError::Full(_) => RecordError::Busy,
            TrySendError::Disconnected(_) => RecordError::StorageUnavailable,
        })
    }

    fn append_if(&self, fits: bool, work: Work) -> Result<(), Refusal> {
        if !fits {
            return Err(Refusal::TooLarge);
        }
        self.writer.try_send(work).map_err(|error| match error {
            TrySendError::Full(_) => Refusal::Busy,
            TrySendError::Disconnected(_) => Refusal::StorageUnavailable,
        })
    }

    fn write(&self, work: Work) -> Result<(), RecordError> {
        self.writer.try_send(work).map_err(|error| match error {
            TrySendError::Full(_) => RecordError::Busy,
            TrySendError::Disconnected(_) => RecordError::StorageUnavailable,
        })
    }
}

impl Drop for SqliteEngine {
    fn drop(&mut self) {
        self.close();
    }
}

impl Engine for SqliteEngine {
    fn append(
        &self,
        append: Append,
    ) -> impl Future<Output = Result<Cursor, AppendError>> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        let fits = append.bytes() <= limits::ENTRY_BYTES_MAX;
        appended(self.append_if(fits, Work::Append(append, reply)), answer)
    }

    fn append_chain(
        &self,
        chain: Chain,
    ) -> impl Future<Output = Result<Vec<Cursor>, AppendError>> + Send + 'static {
        chain.check();
        let (reply, answer) = oneshot::channel();
        let fits = chain.bytes() <= limits::CHAIN_BYTES_MAX;
        appended(self.append_if(fits, Work::Chain(chain, reply)), answer)
    }

    fn mark(&self) -> impl Future<Output = Result<Mark, ReadError>> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        let sent = self.read_log(Query::Mark { reply });
        async move {
            sent?;
            answer.await.unwrap_or(Err(ReadError::StorageUnavailable))
        }
    }

    fn read(
        &self,
        channel: ChannelId,
        from: ReadFrom,
        max: impl Into<ReadMax>,
    ) -> impl Future<Output = Result<Vec<Entry>, ReadError>> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        let sent = self.read_log(Query::Log { channel, from, max: max.into(), reply });
        async move {
            sent?;
            answer.await.unwrap_or(Err(ReadError::StorageUnavailable))
        }
    }

    fn heads(
        &self,
        channels: Vec<ChannelId>,
    ) -> impl Future<Output = Result<Vec<LogEnd>, ReadError>> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        let sent = self.read_log(Query::Heads { channels, reply });
        async move {
            sent?;
            answer.await.unwrap_or(Err(ReadError::StorageUnavailable))
        }
    }

    fn find_keys(
        &self,
        channel: ChannelId,
        keys: Vec<(UserId, ClientMessageId)>,
    ) -> impl Future<Output = Result<Vec<MessageKey>, ReadError>> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        let sent = self.read_log(Query::Keys { channel, keys, reply });
        async move {
            sent?;
            answer.await.unwrap_or(Err(ReadError::StorageUnavailable))
        }
    }

    fn keys(
        &self,
        channel: ChannelId,
        first: Sequence,
        last: Sequence,
    ) -> impl Future<Output = Result<Vec<MessageKey>, ReadError>> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        let sent = self.read_log(Query::KeysBetween { channel, first, last, reply });
        async move {
            sent?;
            answer.await.unwrap_or(Err(ReadError::StorageUnavailable))
        }
    }

    fn trim(
        &self,
        channel: ChannelId,
        sequence: Sequence,
    ) -> impl Future<Output = Result<(), RecordError>> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        answered(self.write(Work::Trim(Trim { channel, sequence }, reply)), answer)
    }

    fn follow(&self) -> mpsc::Receiver<Feed> {
        let (follower, feed) = mpsc::channel(1);
        unpoisoned(&self.followers).push(follower);
        feed
    }

    fn get(
        &self,
        table: Table,
        key: &str,
    ) -> impl Future<Output = Result<Option<Versioned>, RecordError>> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        answered(self.query(Query::Get { table, key: key.to_owned(), reply }), answer)
    }

    fn put_with(
        &self,
        table: Table,
        key: &str,
        value: Bytes,
        expect: Expect,
        derived: Vec<Derived>,
    ) -> impl Future<Output = Result<Revision, RecordError>> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        let put = Put { table, key: key.to_owned(), value: Some(value), expect, derived };
        let fits = put.bytes() <= limits::ENTRY_BYTES_MAX;
        let sent =
            if fits { self.write(Work::Put(put, reply)) } else { Err(RecordError::TooLarge) };
        answered(sent, answer)
    }

    fn remove(
        &self,
        table: Table,
        key: &str,
        revision: Revision,
    ) -> impl Future<Output = Result<(), RecordError>> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        let expect = Expect::Revision(revision);
        let put = Put { table, key: key.to_owned(), value: None, expect, derived: Vec::new() };
        let removed = answered(self.write(Work::Put(put, reply)), answer);
        async move { removed.await.map(drop) }
    }

    fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
    ) -> impl Future<Output = Result<Vec<(String, Versioned)>, RecordError>> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        answered(self.query(Query::Scan { table, prefix, after, count_max, reply }), answer)
    }

    fn caps(&self) -> Caps {
        Caps { durability: Durability::Fsynced, junk_possible: false }
    }
}

async fn appended<T>(
    sent: Result<(), Refusal>,
    answer: oneshot::Receiver<Result<T, AppendError>>,
) -> Result<T, AppendError> {
    sent.map_err(AppendError::Refused)?;
    // No answer: the writer has ended in the middle, and only the log knows.
    answer.await.unwrap_or(Err(AppendError::Unknown))
}

async fn answered<T>(
    sent: Result<(), RecordError>,
    answer: oneshot::Receiver<Result<T, RecordError>>,
) -> Result<T, RecordError> {
    sent?;
    answer.await.unwrap_or(Err(RecordError::StorageUnavailable))
}

/// The guarded lists stay whole whatever panics.
fn unpoisoned<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a data directory if it is not there, and keeps a second server away from it for as long as the file
/// is open.
///
/// # Errors
/// When the directory is in use or not usable.
pub fn lock(dir: &Path) -> Result<File, OpenError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| unusable(dir, source))?;
    let path = dir.join(LOCK_FILE);
    let lock = private_file(&path).map_err(|source| unusable(&path, source))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(unusable(&path, source)),
    }
}

fn unusable(path: &Path, source: io::Error) -> OpenError {
    OpenError::Directory { path: path.to_owned(), source }
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Makes a prepared statement keep its plan. Otherwise SQLite, as it is compiled in here, plans again
/// for each new value that it is given, which took more than the query itself.
fn keep_plans(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// The only kind of connection that writes.
fn connect_writer(path: &Path, synchronous: Synchronous) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(limits::STORAGE_LOCK_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(32);
    // The writer checkpoints when it closes cleanly. A connection that is dropped because the disk
    // fails must not try.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    keep_plans(&connection)?;
    let synchronous = match synchronous {
        Synchronous::Full => "FULL",
        Synchronous::Normal => "NORMAL",
    };
    // The page size before the journal mode: it is fixed once there is a page. `fullfsync` means
    // something on macOS only, where a plain fsync leaves the data in the drive's cache.
    connection.execute_batch(&format!(
        "PRAGMA page_size = {PAGE_BYTES};
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = {synchronous};
         PRAGMA fullfsync = ON;
         PRAGMA checkpoint_fullfsync = ON;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA mmap_size = 0;
         PRAGMA cell_size_check = ON;
         PRAGMA cache_size = -{};",
        limits::PAGE_CACHE_BYTES / 1024
    ))?;
    Ok(connection)
}
