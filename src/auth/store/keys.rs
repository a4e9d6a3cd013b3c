//! Which key signs, and which are published: a list in the store, and a file for each in `keys/`.
//!
//! A key is published from the moment it is made, signs from a moment on, and is superseded when the
//! next one signs. When the last token that it signed has run out it is retired: off the list, and
//! its file removed. A revoked key is off at once, and its row stays, so that no copy of its file
//! is ever taken up again.
//!
//! In a cluster the keys are rows beside the list, which all nodes share, and there are no files.
//!
//! The list is decided on in transactions, so several processes and the command line may turn keys
//! at the same time. A file is made before its row is committed and removed after, so that a crash
//! leaves a file that nobody asks for, and never a row without its file.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use thiserror::Error;

use super::{
    Database, FILE_NAME, OpenError, replica::ReplicaError, revocations, stored, unstored, upkeep,
    write,
};
use crate::{
    auth::{
        keys::{KeyError, TokenKey, file_name},
        revocation::Revoked,
    },
    engine::rows::Rows,
    limits,
};

/// The folder of the key files in the data directory.
pub const FOLDER: &str = "keys";
/// The only key of a hubbub that knew one, in the data directory. It is adopted.
const FORMER_FILE_NAME: &str = "token-key.pem";

/// The keys of a data directory, without anything else of the service: what the command line needs,
/// and what the service's housekeeping works with.
#[derive(Debug)]
pub struct KeyStore {
    database: Database,
    data_dir: PathBuf,
}

/// A key on the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedKey {
    /// Its name in the head of a token: `kid`.
    pub key_id: String,
    /// When it was made, in seconds since 1970.
    pub created_at_s: u64,
    /// When it begins or began to sign.
    pub signs_from_s: u64,
    /// What it does now.
    pub state: KeyState,
}

/// What a key does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyState {
    /// Published; signs when those who remember our keys have seen it.
    Next,
    /// Signs.
    Signing,
    /// Published until its last token has run out.
    Former,
    /// Revoked at this time, in seconds since 1970.
    Revoked(u64),
}

/// Why the keys cannot be used or turned.
#[derive(Debug, Error)]
pub enum KeyStoreError {
    /// The store.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A file.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The list.
    #[error("the list of keys cannot be read or changed")]
    Storage(#[from] rusqlite::Error),
    /// The list of the cluster.
    #[error("the list of keys cannot be read or changed")]
    Replica(#[from] ReplicaError),
    /// There is no such key, or it is revoked.
    #[error("there is no key of this id that could be revoked")]
    Unknown,
    /// As many as allowed are published.
    #[error("{} keys are published: wait until one is retired", limits::KEYS_PUBLISHED_MAX)]
    TooMany,
}

impl KeyStore {
    /// Opens the keys of this data directory. Makes the first one if there is none, or takes over
    /// that of an earlier version, whose tokens stay good.
    ///
    /// # Errors
    /// When the store or a file is unusable, or usable by others.
    pub fn open(data_dir: &Path, now_s: u64) -> Result<Self, KeyStoreError> {
        let database = Database::open(data_dir, None)?;
        let mut keys = Self { database, data_dir: data_dir.to_owned() };
        make_folder(&keys.folder())?;
        keys.ensure(now_s)?;
        for row in rows(&keys.database)?.iter().filter(|row| row.revoked_at_s.is_some()) {
            keys.remove_file_if_possible(&row.key_id);
        }
        Ok(keys)
    }

    /// Opens the keys of a cluster: those of these rows, of which this data directory has a copy. Makes
    /// the first one if there is none.
    ///
    /// # Errors
    /// As [`super::Store::open_replica`].
    pub fn open_replica(
        data_dir: &Path,
        rows: Arc<dyn Rows>,
        now_s: u64,
    ) -> Result<Self, KeyStoreError> {
        let database = Database::open(data_dir, Some(rows))?;
        let mut keys = Self { database, data_dir: data_dir.to_owned() };
        keys.ensure(now_s)?;
        Ok(keys)
    }

    /// All keys that are published or were revoked, the newest first.
    ///
    /// # Errors
    /// When the store fails.
    pub fn list(&mut self, now_s: u64) -> Result<Vec<ListedKey>, KeyStoreError> {
        self.database.begin(Instant::now())?;
        let mut rows = rows(&self.database)?;
        let signing = signing(&rows, now_s).map(|row| row.number);
        rows.reverse();
        let list = rows.into_iter().filter(|row| row.retired_at_s.is_none());
        Ok(list.map(|row| row.listed(signing, now_s)).collect())
    }

    /// Makes a key that is published at once and signs after this time. Its id.
    ///
    /// # Errors
    /// When as many as allowed are published, or the store or the file fails.
    pub fn rotate(&mut self, signs_after: Duration, now_s: u64) -> Result<String, KeyStoreError> {
        self.database.begin(Instant::now())?;
        let folder = self.folder_of_files();
        let signs_from_s = now_s.saturating_add(signs_after.as_secs());
        let key_id = write(&mut self.database, |transaction| {
            create(transaction, folder.as_deref(), now_s, signs_from_s)
        })?;
        tracing::info!(target: "hubbub::audit", key = %key_id, signs_from_s, "key rotated");
        Ok(key_id)
    }

    /// Takes a key off at once, with every token that it signed. If it was the one that signs, a new
    /// one does from now on: its id.
    ///
    /// # Errors
    /// When there is no such key, or the store or a file fails.
    pub fn revoke(&mut self, key_id: &str, now_s: u64) -> Result<Option<String>, KeyStoreError> {
        self.database.begin(Instant::now())?;
        let folder = self.folder_of_files();
        let successor = write(&mut self.database, |transaction| {
            let signed =
                signing(&rows(transaction)?, now_s).is_some_and(|row| row.key_id == key_id);
            let revoked = transaction.execute(
                "UPDATE keys SET revoked_at_s = ?2
                 WHERE key_id = ?1 AND revoked_at_s IS NULL AND retired_at_s IS NULL",
                params![key_id, stored(now_s)],
            )?;
            if revoked == 0 {
                return Err(KeyStoreError::Unknown);
            }
            revocations::append(transaction, Revoked::Key { key: key_id.to_owned() }, now_s)?;
            forget(transaction, key_id)?;
            signed.then(|| create(transaction, folder.as_deref(), now_s, now_s)).transpose()
        })?;
        tracing::warn!(target: "hubbub::audit", key = %key_id, "key revoked");
        self.remove_file_if_possible(key_id);
        Ok(successor)
    }

    /// The key that signs at this moment, as this node knows it.
    ///
    /// # Errors
    /// When the store fails or its file is unusable.
    pub fn signing_key(&self, now_s: u64) -> Result<TokenKey, KeyStoreError> {
        let rows = rows(&self.database)?;
        let row = signing(&rows, now_s).ok_or(KeyStoreError::Unknown)?;
        self.load(&row.key_id)
    }

    /// The published keys, as this node knows them, the one that signs first, then from the newest to the oldest.
    pub(in crate::auth) fn published(&self, now_s: u64) -> Result<Vec<String>, KeyStoreError> {
        let mut rows = rows(&self.database)?;
        let signing = signing(&rows, now_s).map(|row| row.number);
        rows.retain(Row::is_published);
        rows.sort_by_key(|row| (Some(row.number) != signing, std::cmp::Reverse(row.number)));
        Ok(rows.into_iter().map(|row| row.key_id).collect())
    }

    /// The key pair of this key.
    pub(in crate::auth) fn load(&self, key_id: &str) -> Result<TokenKey, KeyStoreError> {
        let (key, path) = match self.folder_of_files() {
            Some(folder) => {
                let path = folder.join(file_name(key_id));
                (Some(TokenKey::load(&path)?), path)
            }
            None => {
                let path = self.data_dir.join(FILE_NAME);
                let pem: Option<String> = self
                    .database
                    .prepare_cached("SELECT pem FROM key_files WHERE key_id = ?1")?
                    .query_row([key_id], |row| row.get(0))
                    .optional()?;
                let Some(pem) = pem else {
                    let source = io::ErrorKind::NotFound.into();
                    return Err(KeyError::Io { path, source }.into());
                };
                (TokenKey::from_pem(&pem), path)
            }
        };
        let key = key.filter(|key| key.key_id() == key_id);
        Ok(key.ok_or(KeyError::Content(path))?)
    }

    /// Makes the next key when the newest is as old as `rotation`, and retires those whose tokens
    /// have all run out. Rotation zero: only the operator turns keys.
    pub(in crate::auth) fn turn(
        &mut self,
        rotation: Duration,
        now_s: u64,
    ) -> Result<(), KeyStoreError> {
        self.database.begin(Instant::now())?;
        let rows = rows(&self.database)?;
        let newest_s =
            rows.iter().filter(|row| row.is_published()).map(|row| row.created_at_s).max();
        let due = |newest_s: Option<u64>| {
            let age_s = newest_s.map_or(0, |newest_s| now_s.saturating_sub(newest_s));
            !rotation.is_zero() && age_s >= rotation.as_secs().max(1)
        };
        if due(newest_s) {
            self.rotate_if(due, now_s)?;
        }
        self.retire(&rows, now_s)
    }

    fn rotate_if(
        &mut self,
        due: impl Fn(Option<u64>) -> bool,
        now_s: u64,
    ) -> Result<(), KeyStoreError> {
        let folder = self.folder_of_files();
        let signs_from_s = now_s.saturating_add(limits::KEY_SIGNS_AFTER.as_secs());
        let made = write(&mut self.database, |transaction| {
            // Another process may have been first.
            let newest_s = rows(transaction)?
                .iter()
                .filter(|row| row.is_published())
                .map(|row| row.created_at_s)
                .max();
            due(newest_s)
                .then(|| create(transaction, folder.as_deref(), now_s, signs_from_s))
                .transpose()
        })?;
        if let Some(key_id) = made {
            tracing::info!(target: "hubbub::audit", key = %key_id, signs_from_s, "key rotated");
        }
        Ok(())
    }

    /// Marks the keys whose tokens have all run out, removes their files, then their rows.
    fn retire(&mut self, rows: &[Row], now_s: u64) -> Result<(), KeyStoreError> {
        let overlap_s = revocations::overlap_s(&self.database)?;
        for row in rows {
            let superseded_s = superseded_at(rows, row, now_s);
            let over = superseded_s.is_some_and(|s| now_s > s.saturating_add(overlap_s));
            if row.is_published() && over {
                write(&mut self.database, |transaction| {
                    transaction.execute(
                        "UPDATE keys SET retired_at_s = ?2
                         WHERE number = ?1 AND revoked_at_s IS NULL",
                        params![row.number, stored(now_s)],
                    )?;
                    Ok::<_, KeyStoreError>(())
                })?;
                tracing::info!(target: "hubbub::audit", key = %row.key_id, "key retired");
            } else if row.retired_at_s.is_none() {
                continue;
            }
            // Also what a crash left half-done before.
            self.remove_file(&row.key_id)?;
            write(&mut self.database, |transaction| {
                let gone = transaction.execute(
                    "DELETE FROM keys WHERE number = ?1 AND retired_at_s IS NOT NULL",
                    [row.number],
                )?;
                if gone > 0 {
                    forget(transaction, &row.key_id)?;
                }
                Ok::<_, KeyStoreError>(())
            })?;
        }
        Ok(())
    }

    /// Drops what has run out by itself.
    pub(in crate::auth) fn drop_expired(&mut self, now_s: u64) -> Result<(), KeyStoreError> {
        upkeep::drop_expired(&mut self.database, now_s)
    }

    /// Sessions that are not over.
    pub(in crate::auth) fn count_sessions(&self) -> Result<u64, KeyStoreError> {
        Ok(upkeep::count_sessions(&self.database)?)
    }

    /// Says that access tokens may be good for as long as this.
    pub(in crate::auth) fn raise_lifetime(
        &mut self,
        lifetime: Duration,
    ) -> Result<(), KeyStoreError> {
        self.database.begin(Instant::now())?;
        write(&mut self.database, |transaction| {
            Ok(revocations::raise_lifetime(transaction, lifetime.as_secs())?)
        })
    }

    fn folder(&self) -> PathBuf {
        self.data_dir.join(FOLDER)
    }

    /// Where the key files are. None: the keys are rows.
    fn folder_of_files(&self) -> Option<PathBuf> {
        self.database.replica.is_none().then(|| self.folder())
    }

    fn ensure(&mut self, now_s: u64) -> Result<(), KeyStoreError> {
        let Some(folder) = self.folder_of_files() else {
            return write(&mut self.database, |transaction| {
                if !rows(transaction)?.iter().any(Row::is_published) {
                    create(transaction, None, now_s, now_s)?;
                }
                Ok(())
            });
        };
        let former = self.data_dir.join(FORMER_FILE_NAME);
        let adopted = write(&mut self.database, |transaction| {
            if !rows(transaction)?.iter().any(Row::is_published) {
                if former.symlink_metadata().is_err() {
                    return create(transaction, Some(&folder), now_s, now_s).map(|_| false);
                }
                let key = TokenKey::load(&former)?;
                link(&former, &folder.join(file_name(key.key_id())))?;
                insert(transaction, key.key_id(), now_s, now_s)?;
                return Ok(true);
            }
            if former.symlink_metadata().is_err() {
                return Ok(false);
            }
            // What is left of an adoption whose process ended half-way. Any other key is not ours.
            let known = TokenKey::load(&former)
                .ok()
                .map(|key| is_listed(transaction, key.key_id()))
                .transpose()?
                .unwrap_or(false);
            if !known {
                let path = former.display();
                tracing::warn!(%path, "a key file of an earlier version is left unused");
            }
            Ok::<_, KeyStoreError>(known)
        })?;
        if adopted {
            remove(&former)?;
        }
        Ok(())
    }

    /// For a key that is revoked: it is, whatever becomes of the file. The next start tries again.
    fn remove_file_if_possible(&self, key_id: &str) {
        if let Err(error) = self.remove_file(key_id) {
            tracing::error!(%error, "the file of a revoked key could not be removed");
        }
    }

    fn remove_file(&self, key_id: &str) -> Result<(), KeyError> {
        remove(&self.folder().join(file_name(key_id)))
    }
}

/// A key as it is stored.
#[derive(Clone, Debug)]
struct Row {
    number: i64,
    key_id: String,
    created_at_s: u64,
    signs_from_s: u64,
    retired_at_s: Option<u64>,
    revoked_at_s: Option<u64>,
}

impl Row {
    const fn is_published(&self) -> bool {
        self.retired_at_s.is_none() && self.revoked_at_s.is_none()
    }

    fn listed(self, signing: Option<i64>, now_s: u64) -> ListedKey {
        let state = match self.revoked_at_s {
            Some(revoked_at_s) => KeyState::Revoked(revoked_at_s),
            None if signing == Some(self.number) => KeyState::Signing,
            None if self.signs_from_s > now_s => KeyState::Next,
            None => KeyState::Former,
        };
        let Self { key_id, created_at_s, signs_from_s, .. } = self;
        ListedKey { key_id, created_at_s, signs_from_s, state }
    }
}

/// From the oldest to the newest.
fn rows(connection: &Connection) -> rusqlite::Result<Vec<Row>> {
    connection
        .prepare_cached(
            "SELECT number, key_id, created_at_s, signs_from_s, retired_at_s, revoked_at_s
             FROM keys ORDER BY number",
        )?
        .query_map([], |row| {
            Ok(Row {
                number: row.get(0)?,
                key_id: row.get(1)?,
                created_at_s: unstored(row.get(2)?),
                signs_from_s: unstored(row.get(3)?),
                retired_at_s: row.get::<_, Option<i64>>(4)?.map(unstored),
                revoked_at_s: row.get::<_, Option<i64>>(5)?.map(unstored),
            })
        })?
        .collect()
}

/// The key that signs: of those whose time has come, the one whose time came last. On a clock that
/// stands before all of them, the first.
fn signing(rows: &[Row], now_s: u64) -> Option<&Row> {
    let published = || rows.iter().filter(|row| row.is_published());
    published()
        .filter(|row| row.signs_from_s <= now_s)
        .max_by_key(|row| (row.signs_from_s, row.number))
        .or_else(|| published().min_by_key(|row| (row.signs_from_s, row.number)))
}

/// When another key took over from this one, which is none of those that still or not yet sign.
fn superseded_at(rows: &[Row], row: &Row, now_s: u64) -> Option<u64> {
    rows.iter()
        .filter(|other| other.is_published() && other.signs_from_s <= now_s)
        .filter(|other| (other.signs_from_s, other.number) > (row.signs_from_s, row.number))
        .map(|other| other.signs_from_s)
        .min()
}

fn is_listed(connection: &Connection, key_id: &str) -> rusqlite::Result<bool> {
    connection
        .query_row("SELECT 1 FROM keys WHERE key_id = ?1", [key_id], |_| Ok(()))
        .optional()
        .map(|found| found.is_some())
}

/// Makes a key within the transaction that lists it: as a file in this folder, or as a row.
fn create(
    transaction: &Transaction<'_>,
    folder: Option<&Path>,
    now_s: u64,
    signs_from_s: u64,
) -> Result<String, KeyStoreError> {
    let published = rows(transaction)?.iter().filter(|row| row.is_published()).count();
    if published >= limits::KEYS_PUBLISHED_MAX {
        return Err(KeyStoreError::TooMany);
    }
    let key = match folder {
        Some(folder) => TokenKey::create(folder)?,
        None => {
            let key = TokenKey::generate();
            let path = PathBuf::from(file_name(key.key_id()));
            let pem = key.to_pem().map_err(|source| KeyError::Io { path, source })?;
            transaction.execute(
                "INSERT INTO key_files (key_id, pem) VALUES (?1, ?2)",
                params![key.key_id(), pem.as_ref()],
            )?;
            key
        }
    };
    insert(transaction, key.key_id(), now_s, signs_from_s)?;
    Ok(key.key_id().to_owned())
}

/// Removes a key that is a row.
fn forget(transaction: &Transaction<'_>, key_id: &str) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM key_files WHERE key_id = ?1", [key_id]).map(drop)
}

fn insert(
    transaction: &Transaction<'_>,
    key_id: &str,
    now_s: u64,
    signs_from_s: u64,
) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT INTO keys (key_id, created_at_s, signs_from_s) VALUES (?1, ?2, ?3)",
        params![key_id, stored(now_s), stored(signs_from_s)],
    )?;
    Ok(())
}

pub(super) fn make_folder(folder: &Path) -> Result<(), KeyError> {
    let io_error = |source| KeyError::Io { path: folder.to_owned(), source };
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made.map_err(io_error),
    }
    if !folder.symlink_metadata().map_err(io_error)?.is_dir() {
        return Err(KeyError::NotAFile(folder.to_owned()));
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(io_error)
}

/// Gives the file a second name, durably.
fn link(from: &Path, to: &Path) -> Result<(), KeyError> {
    let linked = match fs::hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    };
    let folder = to.parent().unwrap_or(Path::new("."));
    linked
        .and_then(|()| fs::File::open(folder)?.sync_all())
        .map_err(|source| KeyError::Io { path: to.to_owned(), source })
}

fn remove(path: &Path) -> Result<(), KeyError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|source| KeyError::Io { path: path.to_owned(), source }),
    }
}
