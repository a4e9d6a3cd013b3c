//! The accounts: rows of a store in a directory, or of a cluster.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use thiserror::Error;
use xxhash_rust::xxh3::Xxh3;

use super::{Digest, Patience};
use crate::{
    auth::store::replica::moved::{MoveError, read_rows, write_rows},
    engine::rows::{CommitError, Row, Rows, RowsError},
    limits::ACCOUNT_ROWS_PER_COMMIT_MAX,
};

/// How long one request to a cluster's rows may take.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Where accounts are.
#[derive(Clone, Debug)]
pub enum Accounts {
    /// Nowhere: of a store that has none.
    None,
    /// In the store of this directory.
    In(PathBuf),
    /// In a cluster.
    Of(Arc<dyn Rows>),
}

/// Why accounts were not moved.
#[derive(Debug, Error)]
pub enum AccountsError {
    /// A store in a directory.
    #[error(transparent)]
    Directory(#[from] MoveError),
    /// A cluster's rows cannot be read.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// A cluster's rows cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// There are accounts, and no place for them.
    #[error("the target takes no accounts")]
    NoPlace,
    /// The target has a row that is another one.
    #[error(
        "the row {key:?} of {table} in the target is not the source's; nothing was overwritten: begin \
         again with an empty target"
    )]
    Differs {
        /// Its table.
        table: String,
        /// Its key.
        key: String,
    },
}

/// Rows by table and key. All of them are in memory: some hundred bytes for each account.
type All = BTreeMap<(String, String), Bytes>;

/// How many rows there are, and the digest of all.
pub(super) type Count = (u64, Digest);

impl Accounts {
    pub(super) fn count(&self) -> Result<Count, AccountsError> {
        Ok(count(&self.read()?.0))
    }

    /// All rows, and in a cluster the position behind them.
    fn read(&self) -> Result<(All, u64), AccountsError> {
        let mut all = All::new();
        let mut position = 0;
        match self {
            Self::None => {}
            Self::In(data_dir) => take(&mut all, read_rows(data_dir)?),
            Self::Of(rows) => loop {
                let page = rows.read_after(position, Instant::now() + WAIT_MAX)?;
                take(&mut all, page.rows);
                position = page.position;
                if page.is_end {
                    break;
                }
            },
        }
        Ok((all, position))
    }
}

fn take(all: &mut All, rows: Vec<Row>) {
    for row in rows {
        let name = (row.table, row.key);
        if row.is_passing {
            all.remove(&name)
        } else {
            all.insert(name, row.value)
        };
    }
}

fn count(all: &All) -> Count {
    let mut digest = Xxh3::new();
    for ((table, key), value) in all {
        for part in [table.as_bytes(), key.as_bytes(), value] {
            digest.update(&(part.len() as u64).to_le_bytes());
            digest.update(part);
        }
    }
    (all.len() as u64, Digest(digest.digest128()))
}

/// Copies what the target does not have yet.
pub(super) async fn copy(source: &Accounts, target: &Accounts) -> Result<(), AccountsError> {
    let (sent, _) = source.read()?;
    let mut patience = Patience::default();
    loop {
        let (found, position) = target.read()?;
        let mut missing = Vec::new();
        for ((table, key), value) in &sent {
            let (table, key) = (table.clone(), key.clone());
            match found.get(&(table.clone(), key.clone())) {
                None => missing.push(Row { table, key, value: value.clone(), is_passing: false }),
                Some(found) if found == value => {}
                Some(_) => return Err(AccountsError::Differs { table, key }),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let error = match target {
            Accounts::None => return Err(AccountsError::NoPlace),
            Accounts::In(data_dir) => return Ok(write_rows(data_dir, &missing)?),
            Accounts::Of(rows) => match commit(rows.as_ref(), &missing, position) {
                Ok(()) => continue,
                Err(error) => error,
            },
        };
        // What of it was written is found by the next look.
        if !patience.pause().await {
            return Err(error.into());
        }
    }
}

fn commit(rows: &dyn Rows, missing: &[Row], mut position: u64) -> Result<(), CommitError> {
    for some in missing.chunks(ACCOUNT_ROWS_PER_COMMIT_MAX) {
        position = rows.commit(some.to_vec(), position, Instant::now() + WAIT_MAX)?;
    }
    Ok(())
}

/// Compares both sides, row by row.
pub(super) fn compare(source: &Accounts, target: &Accounts) -> Result<Count, AccountsError> {
    let ((sent, _), (found, _)) = (source.read()?, target.read()?);
    let of_found = |name| sent.get(name) == found.get(name);
    match sent.keys().chain(found.keys()).find(|name| !of_found(name)) {
        Some((table, key)) => {
            Err(AccountsError::Differs { table: table.clone(), key: key.clone() })
        }
        None => Ok(count(&found)),
    }
}
