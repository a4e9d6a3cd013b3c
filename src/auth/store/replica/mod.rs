//! The account store in a cluster: every node's file is a copy of rows that all share.
//!
//! The rows, and the order in which they change, are the cluster's (`engine::rows`). A job first brings
//! the copy to the end of all that was committed before it was asked for, so what it reads is
//! never old. A change is a transaction on the copy whose changed rows are committed to the cluster while
//! it is open, provided that nobody has committed anything since the position of the copy: so it was
//! decided on the newest state, as if there were one file. If somebody was faster, it is taken back,
//! the copy is brought up, and the change is decided anew. What is committed and not yet in the copy when
//! the process ends comes back like another node's.
//!
//! If it is not known whether a commit happened, its **marker** tells: a row that this connection alone
//! writes, with every commit, and whose value is drawn for it. While nothing follows the position,
//! the very same commit is sent again; it can happen once at most.
//!
//! A node's own is nothing of the accounts: only how far its copy is, and what it cannot read of
//! rows of newer nodes, which it gives back with their next version. A copy whose schema is another by
//! now, or which was away for so long that the news of removed rows are forgotten, begins anew. One of
//! another history is refused and left alone: it may be all that is left of a cluster.

use std::{
    fmt,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use thiserror::Error;

use super::{schema, stored, unstored};
use crate::{
    clock,
    engine::rows::{CommitError, Row, Rows, RowsError},
    limits,
};

pub mod moved;
mod row;
mod tables;

/// The table of the markers, which is in no file.
const MARKERS: &str = "commits";
/// How old the copy's note of when it was last whole may become, in seconds.
const NOTE_AGE_MAX_S: u64 = 3_600;
/// How much before the cluster forgets removed rows a copy is taken as too old, in seconds.
const AWAY_RESERVE_S: u64 = 24 * 3_600;

/// What makes a file the copy of a cluster's rows.
pub(super) struct Replica {
    rows: Arc<dyn Rows>,
    /// The key of this connection's marker.
    id: String,
    /// All that was committed before this moment is in the copy.
    whole_at: Option<Instant>,
    /// Until when the job at hand may wait for the cluster.
    deadline: Instant,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("rows", &self.rows).finish_non_exhaustive()
    }
}

/// Why the cluster's rows cannot be read or changed now.
#[derive(Debug, Error)]
pub enum ReplicaError {
    /// The cluster's store.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// Each time another node was faster.
    #[error("other nodes change the accounts all the time")]
    Contended,
    /// Nobody says whether the change happened.
    #[error("whether the accounts were changed is not known")]
    Unknown,
    /// One change writes more rows than the cluster takes at once.
    #[error("a change of {0} rows of the accounts is too large for a cluster")]
    TooLarge(usize),
    /// The rows are not those that the file is a copy of.
    #[error(
        "the accounts of this data directory are a copy of another cluster's, or of what this one \
         has lost: move accounts.db away if the cluster's are the right ones"
    )]
    Foreign,
    /// A row that cannot be understood.
    #[error("the cluster's row {key} of {table} cannot be read")]
    Damaged {
        /// Its table.
        table: String,
        /// Its key.
        key: String,
    },
    /// The copy.
    #[error("the copy of the cluster's accounts failed")]
    Sqlite(#[from] rusqlite::Error),
}

/// How a change ended.
enum Outcome {
    /// It is committed, and this is the position behind it.
    Committed(u64),
    /// It is committed, and so is something after it.
    Buried,
    /// It is not, since something else is.
    Moved,
}

/// What was committed after a position.
enum Search {
    Ours,
    Others,
    Nothing,
}

/// How far the copy is.
struct State {
    history: String,
    position: u64,
    schema: u32,
    at_end_s: u64,
}

impl Replica {
    /// Makes the file of this connection a copy, if it is not one, and brings it up.
    pub(super) fn open(
        connection: &mut Connection,
        rows: Arc<dyn Rows>,
    ) -> Result<Self, ReplicaOpenError> {
        let id = format!("{:016x}", rand::random::<u64>());
        let deadline = Instant::now() + limits::ACCOUNTS_ENGINE_WAIT_MAX;
        let mut replica = Self { rows, id, whole_at: None, deadline };
        replica.adopt(connection)?;
        tables::watch(connection).map_err(ReplicaError::from)?;
        // However long the way is, as long as it goes on.
        while !replica.step(connection)? {
            replica.deadline = Instant::now() + limits::ACCOUNTS_ENGINE_WAIT_MAX;
        }
        Ok(replica)
    }

    fn adopt(&mut self, connection: &mut Connection) -> Result<(), ReplicaOpenError> {
        let position = state(connection).map_err(ReplicaError::from)?.map_or(0, |it| it.position);
        let page = self.rows.read_after(position, self.deadline).map_err(ReplicaError::from)?;
        let mut begin = || {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let known = u32::try_from(schema::MIGRATIONS.len()).expect("there are few");
            let now_s = clock::unix_s();
            let anew = match state(&transaction)? {
                None if tables::is_in_use(&transaction)? => return Ok(false),
                None => true,
                Some(state) if state.history != page.history => false,
                Some(state) => {
                    let away_max_s = limits::REMOVED_ROWS_KEPT.as_secs() - AWAY_RESERVE_S;
                    state.schema != known || now_s.saturating_sub(state.at_end_s) > away_max_s
                }
            };
            if anew {
                tables::clear(&transaction)?;
                transaction.execute(
                    "INSERT OR REPLACE INTO replica VALUES (1, ?1, 0, ?2, ?3)",
                    params![page.history, known, stored(now_s)],
                )?;
            }
            transaction.commit()?;
            Ok::<_, rusqlite::Error>(true)
        };
        let is_copy = begin().map_err(ReplicaError::from)?;
        if is_copy { Ok(()) } else { Err(ReplicaOpenError::NotACopy) }
    }

    /// Makes sure that all is in the copy that was committed before this moment, and gives the job at
    /// hand its deadline.
    pub(super) fn begin(
        &mut self,
        connection: &mut Connection,
        since: Instant,
    ) -> Result<(), ReplicaError> {
        self.deadline = Instant::now() + limits::ACCOUNTS_ENGINE_WAIT_MAX;
        // Jobs that waited while another one brought the copy up need not do so again.
        if self.whole_at.is_some_and(|at| at >= since) { Ok(()) } else { self.catch_up(connection) }
    }

    fn catch_up(&mut self, connection: &mut Connection) -> Result<(), ReplicaError> {
        while !self.step(connection)? {
            if Instant::now() > self.deadline {
                return Err(RowsError::Unavailable.into());
            }
        }
        Ok(())
    }

    /// Takes one page into the copy. Whether the copy was at the end then.
    fn step(&mut self, connection: &mut Connection) -> Result<bool, ReplicaError> {
        let began = Instant::now();
        let State { history, position, at_end_s, .. } =
            state(connection)?.ok_or(ReplicaError::Foreign)?;
        let page = self.rows.read_after(position, self.deadline)?;
        if page.history != history || page.end < position {
            return Err(ReplicaError::Foreign);
        }
        let now_s = clock::unix_s();
        let is_noted = !page.is_end || now_s < at_end_s.saturating_add(NOTE_AGE_MAX_S);
        let mut reached = position;
        if page.position > position || !is_noted {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            reached = state(&transaction)?.map_or(0, |state| state.position);
            // Otherwise the other connection of this process was faster.
            if reached == position {
                for row in page.rows.iter().filter(|row| row.table != MARKERS) {
                    tables::apply(&transaction, row)?;
                }
                tables::forget_changed(&transaction)?;
                reached = page.position;
                set_position(&transaction, reached)?;
                if page.is_end {
                    let sql = "UPDATE replica SET at_end_s = ?1";
                    transaction.prepare_cached(sql)?.execute([stored(now_s)])?;
                }
                transaction.commit()?;
            }
        }
        let is_whole = page.is_end && reached >= page.position;
        if is_whole {
            self.whole_at = Some(began);
        }
        Ok(is_whole)
    }

    /// One transaction on all nodes' rows. It may be tried several times: each begins from nothing.
    pub(super) fn write<T, E: From<rusqlite::Error> + From<ReplicaError>>(
        &mut self,
        connection: &mut Connection,
        mut change: impl FnMut(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        loop {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let outcome = change(&transaction)?;
            let mut rows = tables::take_changed(&transaction)?;
            if rows.is_empty() {
                transaction.commit()?;
                return Ok(outcome);
            }
            let marker = self.marker();
            rows.push(marker.clone());
            if rows.len() > limits::ACCOUNT_ROWS_PER_COMMIT_MAX {
                return Err(ReplicaError::TooLarge(rows.len()).into());
            }
            let after = state(&transaction)?.ok_or(ReplicaError::Foreign)?.position;
            match self.commit(&rows, &marker, after)? {
                Outcome::Committed(position) => {
                    let finished =
                        set_position(&transaction, position).and_then(|()| transaction.commit());
                    self.forgive(finished);
                    return Ok(outcome);
                }
                Outcome::Buried => {
                    drop(transaction);
                    let caught_up = self.catch_up(connection);
                    self.forgive(caught_up);
                    return Ok(outcome);
                }
                Outcome::Moved => drop(transaction),
            }
            if Instant::now() > self.deadline {
                return Err(ReplicaError::Contended.into());
            }
            pause();
            self.catch_up(connection)?;
        }
    }

    /// For what is committed: it is, whatever becomes of the copy. The next job brings it up.
    fn forgive(&mut self, outcome: Result<(), impl std::error::Error>) {
        if let Err(error) = outcome {
            self.whole_at = None;
            tracing::warn!(%error, "a change to the accounts is not in this node's copy yet");
        }
    }

    fn commit(&self, rows: &[Row], marker: &Row, after: u64) -> Result<Outcome, ReplicaError> {
        // Whether an earlier try may have happened.
        let mut is_doubtful = false;
        loop {
            match self.rows.commit(rows.to_vec(), after, self.deadline) {
                Ok(position) => return Ok(Outcome::Committed(position)),
                Err(CommitError::Moved) if !is_doubtful => return Ok(Outcome::Moved),
                Err(CommitError::Moved | CommitError::Unknown) => {}
                Err(CommitError::Not(error)) if !is_doubtful => return Err(error.into()),
                Err(CommitError::Not(_)) => {}
            }
            is_doubtful = true;
            match self.search(marker, after) {
                Ok(Search::Ours) => return Ok(Outcome::Buried),
                Ok(Search::Others) => return Ok(Outcome::Moved),
                Ok(Search::Nothing) | Err(RowsError::Unavailable) => {}
                Err(error) => return Err(error.into()),
            }
            if Instant::now() > self.deadline {
                return Err(ReplicaError::Unknown);
            }
            pause();
        }
    }

    /// Whether the commit with this marker happened after this position. If anything else did
    /// instead, it never will.
    fn search(&self, marker: &Row, after: u64) -> Result<Search, RowsError> {
        let mut position = after;
        loop {
            let page = self.rows.read_after(position, self.deadline)?;
            if page.rows.contains(marker) {
                return Ok(Search::Ours);
            }
            if page.is_end {
                return Ok(if page.end > after { Search::Others } else { Search::Nothing });
            }
            if Instant::now() > self.deadline {
                return Err(RowsError::Unavailable);
            }
            position = page.position;
        }
    }

    fn marker(&self) -> Row {
        let value = Bytes::copy_from_slice(&rand::random::<[u8; 16]>());
        Row { table: MARKERS.to_owned(), key: self.id.clone(), value, is_passing: true }
    }
}

/// Why a file cannot be the copy of a cluster's rows.
#[derive(Debug, Error)]
pub enum ReplicaOpenError {
    /// There are accounts in it that no cluster knows.
    #[error(
        "the accounts of this data directory are a single node's: `hubbub migrate` takes them into the \
         cluster, from another directory"
    )]
    NotACopy,
    /// The rows or the file.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
}

/// Whether the file is the copy of a cluster's rows.
pub(super) fn is_copy(connection: &Connection) -> rusqlite::Result<bool> {
    Ok(state(connection)?.is_some())
}

fn state(connection: &Connection) -> rusqlite::Result<Option<State>> {
    connection
        .prepare_cached("SELECT history, position, schema, at_end_s FROM replica")?
        .query_row([], |row| {
            Ok(State {
                history: row.get(0)?,
                position: unstored(row.get(1)?),
                schema: row.get(2)?,
                at_end_s: unstored(row.get(3)?),
            })
        })
        .optional()
}

fn set_position(transaction: &Transaction<'_>, position: u64) -> rusqlite::Result<()> {
    let sql = "UPDATE replica SET position = ?1";
    transaction.prepare_cached(sql)?.execute([stored(position)]).map(drop)
}

/// Waits a moment, by chance, so that nodes that met do not meet again.
#[expect(clippy::disallowed_methods, reason = "there is no event to wait for but that time passes")]
fn pause() {
    let most = limits::ACCOUNTS_RETRY_PAUSE_MAX;
    thread::sleep(most.mul_f64(rand::random::<f64>()).max(Duration::from_millis(1)));
}

#[cfg(test)]
mod tests;
