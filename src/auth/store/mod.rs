//! The account store: users, sessions, invites, revocations and the list of keys, in a SQLite file
//! of their own: `accounts.db` in the data directory.
//!
//! Several auth processes may share the file. So what must hold lives in it and nowhere else, and
//! each change that matters is one transaction that begins as a writer (`BEGIN IMMEDIATE`), looks,
//! decides and writes. What a process keeps in memory may be lost or be old by a second.
//!
//! One thread owns the handle; requests wait for it in a bounded mailbox. A look-up takes some
//! microseconds and a change one sync, so one thread serves more than the password workers can ask.
//!
//! | file | the tables |
//! |---|---|
//! | `schema` | all of them, and their migrations |
//! | `accounts` | who there is, and what the operator does to them |
//! | `sessions` | sessions and their refresh tokens, the addresses that a user is known from |
//! | `invites` | codes that are good for making accounts |
//! | `revocations` | the feed of what was taken back |
//! | `keys` | which key signs, with the key files beside; it has a connection of its own |
//! | `upkeep` | what goes by itself when its time is over |
//! | `replica` | in a cluster: the file as one node's copy of rows that all nodes share |

use std::{
    fs, io,
    ops::{Deref, DerefMut},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use thiserror::Error;
use tokio::sync::oneshot;

use self::replica::{Replica, ReplicaError, ReplicaOpenError};
use crate::{
    engine::rows::{Rows, RowsError},
    limits,
};

pub mod accounts;
pub mod invites;
pub mod keys;
pub mod replica;
pub mod revocations;
mod schema;
pub mod sessions;
mod upkeep;

/// The file's name in the data directory.
pub const FILE_NAME: &str = "accounts.db";
/// The file that is locked while the store is being opened. Empty.
const LOCK_FILE_NAME: &str = "accounts.lock";

/// The store. Cheap to share; its thread ends when the last reference drops.
#[derive(Debug)]
pub struct Store {
    mailbox: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// How long a request may wait for its turn.
    wait_max: Duration,
}

/// A user among the tables, never outside of the service.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AccountId(i64);

/// Why the store did not answer.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Too many requests wait, or another process held the file for too long.
    #[error("the account store is busy")]
    Busy,
    /// The store has stopped.
    #[error("the account store is stopped")]
    Stopped,
    /// SQLite failed.
    #[error("the account store failed")]
    Sqlite(#[source] rusqlite::Error),
    /// The cluster's accounts cannot be used here.
    #[error("the account store failed")]
    Replica(#[source] ReplicaError),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                Self::Busy
            }
            _ => Self::Sqlite(error),
        }
    }
}

impl From<ReplicaError> for StoreError {
    fn from(error: ReplicaError) -> Self {
        match error {
            ReplicaError::Rows(RowsError::Unavailable)
            | ReplicaError::Contended
            | ReplicaError::Unknown => Self::Busy,
            ReplicaError::Sqlite(error) => error.into(),
            error => Self::Replica(error),
        }
    }
}

/// Why the store could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file cannot be made or read.
    #[error("the account store cannot be opened")]
    Io(#[from] io::Error),
    /// SQLite failed.
    #[error("the account store cannot be opened")]
    Sqlite(#[from] rusqlite::Error),
    /// The file is another user's. What is made beside it now would be ours, and a server that runs as
    /// that user could not use it.
    #[error("{} belongs to another user: do this as the user that the server runs as", .0.display())]
    Owner(PathBuf),
    /// A newer hubbub wrote the file.
    #[error(
        "the account store has schema {found}, this hubbub knows {} at most",
        schema::MIGRATIONS.len()
    )]
    TooNew {
        /// The schema's number in the file.
        found: usize,
    },
    /// What is changed here would be known to no other node.
    #[error(
        "the accounts of this data directory are a copy of a cluster's: ask an auth service of it"
    )]
    IsACopy,
    /// The cluster's accounts cannot be used.
    #[error(transparent)]
    Replica(#[from] ReplicaOpenError),
}

/// A connection to the file, and in a cluster what makes it a copy.
#[derive(Debug)]
struct Database {
    connection: Connection,
    replica: Option<Replica>,
}

impl Database {
    /// Opens the file of this directory, and makes it (0600) if it is not there. With rows, it is the
    /// copy of them.
    fn open(data_dir: &Path, rows: Option<Arc<dyn Rows>>) -> Result<Self, OpenError> {
        let mut connection = connect(data_dir)?;
        let replica = match rows {
            Some(rows) => Some(Replica::open(&mut connection, rows)?),
            None if replica::is_copy(&connection)? => return Err(OpenError::IsACopy),
            None => None,
        };
        Ok(Self { connection, replica })
    }

    /// Begins a job: what it reads is as new as this moment.
    fn begin(&mut self, since: Instant) -> Result<(), ReplicaError> {
        match &mut self.replica {
            Some(replica) => replica.begin(&mut self.connection, since),
            None => Ok(()),
        }
    }
}

impl Deref for Database {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Database {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

type Job = Box<dyn FnOnce(&mut Database) + Send>;

impl Store {
    /// Opens the store in this directory, and makes it (0600) if it is not there.
    ///
    /// # Errors
    /// When it cannot be opened, or a newer version wrote it.
    pub fn open(data_dir: &Path) -> Result<Self, OpenError> {
        Self::start(Database::open(data_dir, None)?)
    }

    /// Opens the store in this directory as a copy of these rows, which other nodes share.
    ///
    /// # Errors
    /// As [`Store::open`], and when the rows cannot be read, or the file holds what is not theirs.
    pub fn open_replica(data_dir: &Path, rows: Arc<dyn Rows>) -> Result<Self, OpenError> {
        Self::start(Database::open(data_dir, Some(rows))?)
    }

    fn start(database: Database) -> Result<Self, OpenError> {
        let (mailbox, jobs) = sync_channel(limits::ACCOUNTS_MAILBOX_MAX);
        let thread = std::thread::Builder::new()
            .name("accounts".to_owned())
            .spawn(move || serve(database, &jobs))?;
        let wait_max = limits::ACCOUNTS_WAIT_MAX;
        Ok(Self { mailbox: Some(mailbox), thread: Some(thread), wait_max })
    }

    /// Does this on the store's thread, whether the caller still waits for the answer or not.
    async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = self.in_time(job);
        self.put(Box::new(move |database| {
            // A requester that has gone does not want its answer; there is nothing to do about it.
            let _ = reply.send(job(database));
        }))?;
        answer.await.unwrap_or(Err(StoreError::Stopped))
    }

    /// Does this on the store's thread, unless the caller has gone by then: for what is of use to
    /// nobody but the caller.
    async fn ask_while_awaited<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = self.in_time(job);
        self.put(Box::new(move |database| {
            if !reply.is_closed() {
                let _ = reply.send(job(database));
            }
        }))?;
        answer.await.unwrap_or(Err(StoreError::Stopped))
    }

    /// The job, unless its turn comes too late: then it is not begun. Where each job before it waits
    /// for another process's lock, those behind would wait for minutes otherwise.
    fn in_time<T>(
        &self,
        job: impl FnOnce(&mut Database) -> Result<T, StoreError> + Send + 'static,
    ) -> impl FnOnce(&mut Database) -> Result<T, StoreError> + Send + 'static {
        let (since, wait_max) = (Instant::now(), self.wait_max);
        move |database| {
            if since.elapsed() > wait_max {
                return Err(StoreError::Busy);
            }
            database.begin(since)?;
            job(database)
        }
    }

    fn put(&self, job: Job) -> Result<(), StoreError> {
        let mailbox = self.mailbox.as_ref().ok_or(StoreError::Stopped)?;
        mailbox.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Busy,
            TrySendError::Disconnected(_) => StoreError::Stopped,
        })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.mailbox = None;
        if let Some(thread) = self.thread.take() {
            // A store that panicked has nothing left to close.
            let _ = thread.join();
        }
    }
}

fn serve(mut database: Database, jobs: &Receiver<Job>) {
    for job in jobs {
        job(&mut database);
    }
}

/// A connection to the store of this directory, with the newest schema.
fn connect(data_dir: &Path) -> Result<Connection, OpenError> {
    check_owner(data_dir, rustix::process::geteuid().as_raw())?;
    let path = data_dir.join(FILE_NAME);
    // SQLite gives the -wal and -shm files the mode of the database, so this covers all three.
    // One at a time: of several that turn a new file to write-ahead logging at once, SQLite tells all
    // but one that it is locked, without waiting. Who holds this waits for nobody for long.
    let lock_path = data_dir.join(LOCK_FILE_NAME);
    let lock = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(lock_path)?;
    lock.lock()?;
    // Made, never opened: to close a file gives up all locks that this process has on it, those of
    // SQLite's other connections included. By them another process that leaves sees that it is not the
    // last one, which would tidy up the write-ahead log.
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => drop(made?),
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    let mut connection = Connection::open(&path)?;
    connection.busy_timeout(limits::ACCOUNTS_LOCK_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.set_prepared_statement_cache_capacity(96);
    schema::migrate(&mut connection)?;
    Ok(connection)
}

/// Whether the store of this directory, if there is one, is that of this user.
fn check_owner(data_dir: &Path, user: u32) -> Result<(), OpenError> {
    let path = data_dir.join(FILE_NAME);
    match path.metadata() {
        Ok(metadata) if metadata.uid() != user => Err(OpenError::Owner(path)),
        // Whoever opens it says what is wrong with it.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// One transaction that is the only writer from its first statement on. An error takes it back. In a
/// cluster it may be tried several times, so it changes nothing but the tables.
fn write<T, E: From<rusqlite::Error> + From<ReplicaError>>(
    database: &mut Database,
    mut change: impl FnMut(&Transaction<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let Database { connection, replica } = database;
    if let Some(replica) = replica {
        return replica.write(connection, change);
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let outcome = change(&transaction)?;
    transaction.commit()?;
    Ok(outcome)
}

/// Seconds or counts, as SQLite stores them: beyond its range is for ever.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The way back. What is below zero was written by nobody here.
fn unstored(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// RFC 4648's base32 in lower case, without padding: no letter that reads as a digit.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bit = |index: usize| bytes.get(index / 8).map_or(0, |byte| byte >> (7 - index % 8) & 1);
    (0..bytes.len() * 8)
        .step_by(5)
        .map(|start| (start..start + 5).fold(0, |value, index| value << 1 | bit(index)))
        .map(|value| char::from(ALPHABET[usize::from(value)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_other_local_user_can_read_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let _store = Store::open(dir.path()).unwrap();
        let mut files = 0;
        for file in fs::read_dir(dir.path()).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{file:?}");
            files += 1;
        }
        assert!(files >= 2, "the database and its log");
    }

    #[test]
    fn a_store_of_another_user_is_refused_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let us = rustix::process::geteuid().as_raw();
        check_owner(dir.path(), us + 1).unwrap();
        let _store = Store::open(dir.path()).unwrap();
        check_owner(dir.path(), us).unwrap();
        let error = check_owner(dir.path(), us + 1).unwrap_err().to_string();
        assert!(error.contains(FILE_NAME) && error.contains("as the user"), "{error}");
    }

    #[tokio::test]
    async fn what_waited_too_long_is_not_begun() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        store.wait_max = Duration::ZERO;
        let (begun, has_begun) = sync_channel(2);
        let again = begun.clone();
        let done = store.ask(move |_| Ok(begun.send(())));
        let while_awaited = store.ask_while_awaited(move |_| Ok(again.send(())));
        let (done, while_awaited) = tokio::join!(done, while_awaited);
        assert!(matches!(done, Err(StoreError::Busy)));
        assert!(matches!(while_awaited, Err(StoreError::Busy)));
        assert!(has_begun.try_recv().is_err());
    }

    #[test]
    fn a_file_of_a_newer_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let connection = Connection::open(dir.path().join(FILE_NAME)).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        drop(connection);
        assert!(matches!(Store::open(dir.path()), Err(OpenError::TooNew { found: 99 })));
    }

    #[test]
    fn processes_may_start_on_a_fresh_directory_together() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            let starts: Vec<_> =
                (0..4).map(|_| scope.spawn(|| connect(dir.path()).map(|_| ()))).collect();
            for start in starts {
                start.join().unwrap().unwrap();
            }
        });
    }

    #[test]
    fn base32_is_that_of_rfc_4648() {
        assert_eq!(base32(b"foobar"), "mzxw6ytboi");
        assert_eq!(base32(b"foob"), "mzxw6yq");
    }
}
