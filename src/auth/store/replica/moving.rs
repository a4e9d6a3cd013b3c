//! Accounts from a single node's directory to a cluster, and back. For a migration: nobody else works
//! with either meanwhile.

use std::{collections::BTreeMap, io, path::Path, sync::Arc, time::Instant};

use rusqlite::params;
use thiserror::Error;

use super::{MARKERS, ReplicaError, pause, tables};
use crate::{
    auth::{
        keys::{KeyError, TokenKey, file_name},
        private_file,
        store::{
            Database, OpenError,
            keys::{FOLDER, KeyStoreError, make_folder, published},
        },
    },
    engine::rows::{CommitError, Row, Rows, RowsError},
    limits,
};

/// How often rows are sent until the cluster has them all.
const TRIES_MAX: usize = 20;

/// Why accounts were not moved.
#[derive(Debug, Error)]
pub enum MoveError {
    /// The directory.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its keys.
    #[error(transparent)]
    Keys(#[from] KeyStoreError),
    /// The cluster, or the copy.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// There is something else already.
    #[error("the cluster has accounts that are not those of this data directory")]
    NotEmpty,
}

type ByKey = BTreeMap<(String, String), Row>;

/// Writes the accounts of a single node's directory, and its keys, to these rows: those that are not there
/// yet, so it may be done again after a failure. How many rows there are then, read back and compared.
///
/// # Errors
/// When there is anything else among the rows, or either fails.
pub fn take_in(data_dir: &Path, rows: &dyn Rows) -> Result<usize, MoveError> {
    let ours = read_single(data_dir)?;
    for _ in 0..TRIES_MAX {
        let (theirs, mut position) = read_rows(rows)?;
        if theirs.iter().any(|(key, row)| ours.get(key) != Some(row)) {
            return Err(MoveError::NotEmpty);
        }
        let missing: Vec<Row> =
            ours.iter().filter(|it| !theirs.contains_key(it.0)).map(|it| it.1.clone()).collect();
        if missing.is_empty() {
            return Ok(ours.len());
        }
        for step in missing.chunks(limits::ACCOUNT_ROWS_PER_COMMIT_MAX) {
            match rows.commit(step.to_vec(), position, deadline()) {
                Ok(end) => position = end,
                // What is there by now is read again.
                Err(CommitError::Moved | CommitError::Unknown) => break,
                Err(CommitError::Not(error)) => return Err(ReplicaError::from(error).into()),
            }
        }
        pause();
    }
    Err(ReplicaError::Unknown.into())
}

/// Makes a single node's directory of these rows: brings it up as a copy, writes the key files (0600), and
/// forgets the cluster. It may be done again after a failure. How many rows there are.
///
/// # Errors
/// When either fails.
pub fn take_out(data_dir: &Path, rows: Arc<dyn Rows>) -> Result<usize, MoveError> {
    let database = Database::open(data_dir, Some(rows))?;
    let count = tables::read_all(&database).map_err(ReplicaError::from)?.len();
    let folder = data_dir.join(FOLDER);
    make_folder(&folder).map_err(KeyStoreError::from)?;
    for (key_id, pem) in key_files(&database).map_err(ReplicaError::from)? {
        let path = folder.join(file_name(&key_id));
        if TokenKey::from_pem(&pem).is_none_or(|key| key.key_id() != key_id) {
            return Err(KeyStoreError::from(KeyError::Content(path)).into());
        }
        match private_file::create(&path, pem.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                TokenKey::load(&path).map_err(KeyStoreError::from)?;
            }
            made => {
                made.map_err(|source| KeyError::Io { path, source }).map_err(KeyStoreError::from)?
            }
        }
    }
    database
        .execute_batch(
            "BEGIN IMMEDIATE; DELETE FROM key_files; DELETE FROM unknown_columns;
             DELETE FROM replica; COMMIT;",
        )
        .map_err(ReplicaError::from)?;
    Ok(count)
}

fn read_single(data_dir: &Path) -> Result<ByKey, MoveError> {
    let mut database = Database::open(data_dir, None)?;
    let transaction = database.transaction().map_err(ReplicaError::from)?;
    for key_id in published(&transaction).map_err(ReplicaError::from)? {
        let path = data_dir.join(FOLDER).join(file_name(&key_id));
        let key = TokenKey::load(&path).map_err(KeyStoreError::from)?;
        let pem = key.to_pem().map_err(|source| KeyError::Io { path, source });
        let pem = pem.map_err(KeyStoreError::from)?;
        transaction
            .execute("INSERT INTO key_files VALUES (?1, ?2)", params![key_id, pem.as_ref()])
            .map_err(ReplicaError::from)?;
    }
    let rows = tables::read_all(&transaction).map_err(ReplicaError::from)?;
    // The files stay files here: the transaction is taken back.
    Ok(rows.into_iter().map(|row| ((row.table.clone(), row.key.clone()), row)).collect())
}

/// All rows, and the position behind them.
fn read_rows(rows: &dyn Rows) -> Result<(ByKey, u64), ReplicaError> {
    let (mut all, mut position) = (ByKey::new(), 0);
    loop {
        let page = rows.read_after(position, deadline())?;
        if page.position < position {
            return Err(RowsError::Unavailable.into());
        }
        for row in page.rows.into_iter().filter(|row| row.table != MARKERS) {
            let key = (row.table.clone(), row.key.clone());
            if row.is_passing {
                all.remove(&key)
            } else {
                all.insert(key, row)
            };
        }
        position = page.position;
        if page.is_end {
            return Ok((all, position));
        }
    }
}

fn key_files(database: &Database) -> rusqlite::Result<Vec<(String, String)>> {
    let mut statement = database.prepare("SELECT key_id, pem FROM key_files")?;
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

fn deadline() -> Instant {
    Instant::now() + limits::ACCOUNTS_ENGINE_WAIT_MAX
}
