//! The store of a directory that no service uses, as rows such as the nodes of a cluster share: what a
//! migration reads and writes. Files of keys are rows on their way.

use std::path::Path;

use bytes::Bytes;
use rusqlite::{TransactionBehavior, types::Value};
use thiserror::Error;

use super::{ReplicaError, row, tables};
use crate::{
    auth::{
        keys::{KeyError, TokenKey, file_name},
        private_file,
        store::{
            Database, FILE_NAME, OpenError,
            keys::{FOLDER, make_folder},
        },
    },
    engine::rows::Row,
};

const KEY_FILES: &str = "key_files";

/// Why a store cannot be moved.
#[derive(Debug, Error)]
pub enum MoveError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A file of a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A row.
    #[error(transparent)]
    Row(#[from] ReplicaError),
    /// The store has something already.
    #[error("there are accounts in the data directory already")]
    InUse,
}

impl From<rusqlite::Error> for MoveError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Row(error.into())
    }
}

/// All rows of the store in this directory. None if there is no store.
///
/// # Errors
/// When it cannot be read, or is a node's copy of a cluster's.
pub fn read_rows(data_dir: &Path) -> Result<Vec<Row>, MoveError> {
    if !data_dir.join(FILE_NAME).exists() {
        return Ok(Vec::new());
    }
    let database = Database::open(data_dir, None)?;
    let mut rows = tables::read_all(&database)?;
    let published: Vec<String> = database
        .prepare("SELECT key_id FROM keys WHERE retired_at_s IS NULL AND revoked_at_s IS NULL")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for key_id in published {
        let path = data_dir.join(FOLDER).join(file_name(&key_id));
        let io_error = |source| KeyError::Io { path: path.clone(), source };
        let pem = TokenKey::load(&path)?.to_pem().map_err(io_error)?;
        let columns = [
            ("key_id".to_owned(), Value::Text(key_id.clone())),
            ("pem".to_owned(), Value::Text(pem.as_ref().to_owned())),
        ];
        let value = Bytes::from(row::encode(&columns));
        rows.push(Row { table: KEY_FILES.to_owned(), key: key_id, value, is_passing: false });
    }
    Ok(rows)
}

/// Writes these rows into the store of this directory, which has none: all, or nothing but files of
/// keys that nobody asks for.
///
/// # Errors
/// When it has some, or cannot be written.
pub fn write_rows(data_dir: &Path, rows: &[Row]) -> Result<(), MoveError> {
    let mut database = Database::open(data_dir, None)?;
    let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if tables::is_in_use(&transaction)? {
        return Err(MoveError::InUse);
    }
    let folder = data_dir.join(FOLDER);
    make_folder(&folder)?;
    for row in rows.iter().filter(|row| !row.is_passing) {
        if row.table != KEY_FILES {
            tables::apply(&transaction, row)?;
            continue;
        }
        let damaged = || ReplicaError::Damaged { table: row.table.clone(), key: row.key.clone() };
        let columns = row::decode(&row.value).ok_or_else(damaged)?;
        let pem = columns.into_iter().find(|(name, _)| name == "pem");
        let Some((_, Value::Text(pem))) = pem else { return Err(damaged().into()) };
        // What the row says is its name is a part of a path from here on: it is taken from the key.
        let key = TokenKey::from_pem(&pem).ok_or_else(damaged)?;
        let path = folder.join(file_name(key.key_id()));
        let written = private_file::replace(&path, pem.as_bytes());
        written.map_err(|source| KeyError::Io { path, source })?;
    }
    transaction.commit()?;
    Ok(())
}
