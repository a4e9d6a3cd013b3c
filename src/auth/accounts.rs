//! The accounts, in a SQLite file of their own: `accounts.db` in the data directory.
//!
//! One thread owns the handle; requests wait for it in a bounded mailbox. A look-up takes some
//! microseconds and a sign-up one sync, so one thread serves more than the password workers can ask.

use std::{
    fs, io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread::JoinHandle,
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, params};
use thiserror::Error;
use tokio::sync::oneshot;

use super::{Account, Username};
use crate::{clock, limits};

/// The file's name in the data directory.
pub const FILE_NAME: &str = "accounts.db";

/// Each brings the schema from its index to the next number. Append only: a file in the field has
/// run some of them.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE accounts (
        id INTEGER PRIMARY KEY,
        username TEXT NOT NULL UNIQUE COLLATE NOCASE,
        subject TEXT NOT NULL UNIQUE,
        password_hash TEXT NOT NULL,
        created_at_s INTEGER NOT NULL
    ) STRICT;
"];

/// Random bytes of a subject: 80 bits are 16 characters of base32.
const SUBJECT_RANDOM_BYTES: usize = 10;

/// The store of accounts. Cheap to share; its thread ends when the last reference drops.
#[derive(Debug)]
pub struct Accounts {
    mailbox: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

/// An account as it is stored.
#[derive(Clone, Debug)]
pub struct StoredAccount {
    /// Who it is.
    pub account: Account,
    /// The PHC string of the password.
    pub password_hash: String,
}

/// Why the store did not answer, or not as hoped.
#[derive(Debug, Error)]
pub enum AccountsError {
    /// Another account has this user name.
    #[error("the user name is taken")]
    Taken,
    /// Too many requests wait.
    #[error("too many requests wait for the account store")]
    Busy,
    /// The store has stopped.
    #[error("the account store is stopped")]
    Stopped,
    /// SQLite failed.
    #[error("the account store failed")]
    Sqlite(#[from] rusqlite::Error),
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
    /// A newer hubbub wrote the file.
    #[error("the account store has schema {found}, this hubbub knows {} at most", MIGRATIONS.len())]
    TooNew {
        /// The schema's number in the file.
        found: usize,
    },
}

#[derive(Debug)]
enum Request {
    Create {
        username: Username,
        password_hash: String,
        reply: oneshot::Sender<Result<Account, AccountsError>>,
    },
    Find {
        username: Username,
        reply: oneshot::Sender<Result<Option<StoredAccount>, AccountsError>>,
    },
}

impl Accounts {
    /// Opens the store in this directory, and makes it (0600) if it is not there.
    ///
    /// # Errors
    /// When it cannot be opened, or a newer version wrote it.
    pub fn open(data_dir: &Path) -> Result<Self, OpenError> {
        let store = Store::open(&data_dir.join(FILE_NAME))?;
        let (mailbox, requests) = sync_channel(limits::ACCOUNTS_MAILBOX_MAX);
        let thread = std::thread::Builder::new()
            .name("accounts".to_owned())
            .spawn(move || store.serve(&requests))?;
        Ok(Self { mailbox: Some(mailbox), thread: Some(thread) })
    }

    /// Creates an account under a user name that nobody has, and draws its subject.
    ///
    /// # Errors
    /// When the name is taken or the store cannot take it now.
    pub async fn create(
        &self,
        username: Username,
        password_hash: String,
    ) -> Result<Account, AccountsError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Create { username, password_hash, reply })?;
        answer.await.unwrap_or(Err(AccountsError::Stopped))
    }

    /// Finds the account of this user name.
    ///
    /// # Errors
    /// When the store cannot answer now.
    pub async fn find(&self, username: Username) -> Result<Option<StoredAccount>, AccountsError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Find { username, reply })?;
        answer.await.unwrap_or(Err(AccountsError::Stopped))
    }

    fn send(&self, request: Request) -> Result<(), AccountsError> {
        let mailbox = self.mailbox.as_ref().ok_or(AccountsError::Stopped)?;
        mailbox.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => AccountsError::Busy,
            TrySendError::Disconnected(_) => AccountsError::Stopped,
        })
    }
}

impl Drop for Accounts {
    fn drop(&mut self) {
        self.mailbox = None;
        if let Some(thread) = self.thread.take() {
            // A store that panicked has nothing left to close.
            let _ = thread.join();
        }
    }
}

/// The handle, on its thread.
struct Store {
    connection: Connection,
}

impl Store {
    fn open(path: &Path) -> Result<Self, OpenError> {
        // SQLite gives the -wal and -shm files the mode of the database, so this covers all three.
        fs::OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        migrate(&mut connection)?;
        Ok(Self { connection })
    }

    fn serve(self, requests: &Receiver<Request>) {
        // A requester that has gone does not want its answer; there is nothing to do about it.
        for request in requests {
            match request {
                Request::Create { username, password_hash, reply } => {
                    let _ = reply.send(self.create(&username, &password_hash));
                }
                Request::Find { username, reply } => {
                    let _ = reply.send(self.find(&username));
                }
            }
        }
    }

    fn create(&self, username: &Username, password_hash: &str) -> Result<Account, AccountsError> {
        let subject = base32(&rand::random::<[u8; SUBJECT_RANDOM_BYTES]>());
        let now_s = clock::unix_s();
        let created = self
            .connection
            .prepare_cached(
                "INSERT INTO accounts (username, subject, password_hash, created_at_s)
                 VALUES (?1, ?2, ?3, ?4) ON CONFLICT (username) DO NOTHING",
            )?
            .execute(params![username.as_str(), subject, password_hash, now_s.cast_signed()])?;
        if created == 0 {
            return Err(AccountsError::Taken);
        }
        Ok(Account { subject, username: username.clone() })
    }

    fn find(&self, username: &Username) -> Result<Option<StoredAccount>, AccountsError> {
        let row = self
            .connection
            .prepare_cached("SELECT subject, password_hash FROM accounts WHERE username = ?1")?
            .query_row([username.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        Ok(row.map(|(subject, password_hash)| StoredAccount {
            account: Account { subject, username: username.clone() },
            password_hash,
        }))
    }
}

/// Runs the migrations that the file has not seen, each in a transaction with its number.
fn migrate(connection: &mut Connection) -> Result<(), OpenError> {
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let done: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(done).unwrap_or(usize::MAX);
    let Some(missing) = MIGRATIONS.get(done..) else {
        return Err(OpenError::TooNew { found: done });
    };
    for migration in missing {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(
        None,
        "user_version",
        i64::try_from(MIGRATIONS.len()).unwrap_or(0),
    )?;
    transaction.commit()?;
    Ok(())
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

    fn username(text: &str) -> Username {
        Username::parse(text).unwrap()
    }

    #[tokio::test]
    async fn an_account_is_found_again_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(dir.path()).unwrap();
        let created = accounts.create(username("anna"), "$hash".to_owned()).await.unwrap();
        assert_eq!(created.subject.len(), 16);
        drop(accounts);

        let accounts = Accounts::open(dir.path()).unwrap();
        let found = accounts.find(username("anna")).await.unwrap().unwrap();
        assert_eq!(found.account, created);
        assert_eq!(found.password_hash, "$hash");
        assert!(accounts.find(username("bert")).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_name_is_given_once_whatever_its_case() {
        let dir = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(dir.path()).unwrap();
        accounts.create(username("anna"), "$1".to_owned()).await.unwrap();
        let again = accounts.create(username("ANNA"), "$2".to_owned()).await;
        assert!(matches!(again, Err(AccountsError::Taken)), "{again:?}");
        let found = accounts.find(username("Anna")).await.unwrap().unwrap();
        assert_eq!(found.password_hash, "$1");
    }

    #[tokio::test]
    async fn no_other_local_user_can_read_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(dir.path()).unwrap();
        accounts.create(username("anna"), "$hash".to_owned()).await.unwrap();
        let mut files = 0;
        for file in fs::read_dir(dir.path()).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{file:?}");
            files += 1;
        }
        assert!(files >= 2, "the database and its log");
    }

    #[test]
    fn a_file_of_a_newer_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        drop(connection);
        assert!(matches!(Accounts::open(dir.path()), Err(OpenError::TooNew { found: 99 })));
    }

    #[test]
    fn base32_is_that_of_rfc_4648() {
        assert_eq!(base32(b"foobar"), "mzxw6ytboi");
        assert_eq!(base32(b"foob"), "mzxw6yq");
    }
}
