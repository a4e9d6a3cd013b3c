//! The log writer: the one thread that writes. Hot.
//!
//! It takes every request that is waiting, of all channels, puts them into one transaction, and
//! answers when its one sync of the disk has returned. What arrives meanwhile is the next
//! transaction: the slower the disk, the larger the group.
//!
//! Invariant: what this thread remembers is committed. A transaction's own changes become its
//! memory only after the commit, and a commit that fails empties it.

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, TryRecvError},
    },
    time::Instant,
};

use rusqlite::{Connection, ErrorCode};
use thiserror::Error;
use tokio::sync::oneshot;

use super::{
    AppendReply, ChainReply, RecordReply, Synchronous, connect_writer,
    stats::Stats,
    transaction::{LastEntry, Outcome, Put, Transaction, Trim},
    wal::Wal,
};
use crate::{
    engine::{Append, AppendError, Chain, RecordError, Refusal, Revision},
    limits,
    log::place::ChannelId,
};

/// What the writer is asked.
pub(super) enum Work {
    Append(Append, AppendReply),
    Chain(Chain, ChainReply),
    Put(Put, RecordReply<Revision>),
    Trim(Trim, RecordReply<()>),
    /// To end. Everything sent before is done first.
    Close,
    /// To let a test change it, between two transactions.
    #[cfg(test)]
    Meddle(Box<dyn FnOnce(&mut Writer) + Send>),
}

type Commit = Box<dyn FnMut(&Connection) -> rusqlite::Result<()> + Send>;

/// The writer's thread.
pub(super) struct Writer {
    path: PathBuf,
    synchronous: Synchronous,
    mailbox: mpsc::Receiver<Work>,
    /// Dropped after an error that is not a full disk, and opened again by the next transaction:
    /// after a sync has failed, nothing that this connection believes about the file is sure.
    pub(super) connection: Option<Connection>,
    /// The last entry of the channels that were written to. Forgotten when a commit fails.
    last_entries: HashMap<ChannelId, LastEntry>,
    /// Trims go on in small steps, one in each transaction, so that nobody waits for a large one.
    trims: VecDeque<(Trim, RecordReply<()>)>,
    /// About how much was written since the write-ahead log was last looked at.
    unlooked_bytes: u64,
    /// How much must wait in the write-ahead log for the next checkpoint.
    checkpoint_from_bytes: u64,
    /// The disk was full and the write-ahead log could not give its space back. It may be what fills
    /// the disk, and then not even a trim gets in: the next checkpoint comes as soon as it can.
    cramped: bool,
    /// How a transaction is committed; tests put a slow or failing disk here.
    pub(super) commit: Commit,
    stats: Arc<Stats>,
}

/// What one transaction takes. The order of requests that wait together is ours to choose.
#[derive(Default)]
struct Group {
    appends: Vec<(Append, AppendReply)>,
    chains: Vec<(Chain, ChainReply)>,
    puts: Vec<(Put, RecordReply<Revision>)>,
    /// Batches and records.
    count: usize,
    bytes: usize,
}

/// Why a transaction failed, and with it everything in it.
#[derive(Debug, Error)]
enum CommitError {
    #[error("a transaction could not be written, and was not")]
    NotCommitted(#[source] rusqlite::Error),
    #[error("a transaction was rolled back on its way")]
    RolledBack,
    #[error("a commit failed, and may be found in the log after a restart")]
    Unknown(#[source] rusqlite::Error),
}

impl Writer {
    pub(super) fn new(
        path: PathBuf,
        synchronous: Synchronous,
        mailbox: mpsc::Receiver<Work>,
        connection: Connection,
        stats: Arc<Stats>,
    ) -> Self {
        Self {
            path,
            synchronous,
            mailbox,
            connection: Some(connection),
            last_entries: HashMap::new(),
            trims: VecDeque::new(),
            unlooked_bytes: 0,
            checkpoint_from_bytes: limits::WAL_CHECKPOINT_BYTES,
            cramped: false,
            commit: Box::new(commit_now),
            stats,
        }
    }

    /// Writes until it is told to end, or until nobody is left to ask.
    pub(super) fn run(mut self) {
        loop {
            let (group, last) = self.gather();
            self.write(group);
            self.checkpoint_if_due();
            if last {
                break;
            }
        }
        self.close();
    }

    /// Waits for work, then takes all that is there, up to the size of a transaction. The second
    /// value says that no more will come.
    fn gather(&mut self) -> (Group, bool) {
        let mut group = Group::default();
        let mut next = if self.trims.is_empty() {
            self.mailbox.recv().map_err(|_| TryRecvError::Disconnected)
        } else {
            self.mailbox.try_recv()
        };
        loop {
            let is_chain = matches!(next, Ok(Work::Chain(..)));
            match next {
                Ok(Work::Append(append, reply)) => {
                    group.count += 1;
                    group.bytes += append.bytes();
                    group.appends.push((append, reply));
                }
                Ok(Work::Chain(chain, reply)) => {
                    group.count += chain.batches.len();
                    group.bytes += chain.bytes();
                    group.chains.push((chain, reply));
                }
                Ok(Work::Put(put, reply)) => {
                    group.count += 1;
                    group.bytes += put.bytes();
                    group.puts.push((put, reply));
                }
                Ok(Work::Trim(trim, reply)) if self.trims.len() < limits::TRIMS_MAX => {
                    self.trims.push_back((trim, reply));
                }
                Ok(Work::Trim(_, reply)) => answer(reply, Err(RecordError::Busy)),
                #[cfg(test)]
                Ok(Work::Meddle(meddle)) => meddle(self),
                Ok(Work::Close) | Err(TryRecvError::Disconnected) => return (group, true),
                Err(TryRecvError::Empty) => return (group, false),
            }
            if group.count >= limits::TRANSACTION_BATCHES_MAX
                || group.bytes >= limits::TRANSACTION_BYTES_MAX
            {
                return (group, false);
            }
            next = if is_chain {
                self.mailbox.recv_timeout(limits::CHAIN_GATHER).map_err(|error| match error {
                    RecvTimeoutError::Timeout => TryRecvError::Empty,
                    RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
                })
            } else {
                self.mailbox.try_recv()
            };
        }
    }

    /// One transaction: all of the group and a step of a trim, and then the answers.
    fn write(&mut self, group: Group) {
        if group.count == 0 && self.trims.is_empty() {
            return;
        }
        let started = Instant::now();
        self.unlooked_bytes += limits::WAL_TRANSACTION_BYTES + group.bytes as u64;
        match self.transact(&group) {
            Ok(outcome) => {
                self.count(&group, &outcome, started);
                if self.last_entries.len() + outcome.last_entries.len() > limits::LAST_ENTRIES_MAX {
                    self.last_entries.clear();
                }
                self.last_entries.extend(outcome.last_entries);
                for ((_, reply), result) in group.appends.into_iter().zip(outcome.appends) {
                    answer(reply, result);
                }
                for ((_, reply), result) in group.chains.into_iter().zip(outcome.chains) {
                    answer(reply, result);
                }
                for ((_, reply), result) in group.puts.into_iter().zip(outcome.puts) {
                    answer(reply, result);
                }
                if outcome.trimmed.is_some_and(|count| count < limits::TRIM_STEP_ENTRIES) {
                    let (_, reply) = self.trims.pop_front().expect("the first trim was stepped");
                    answer(reply, Ok(()));
                }
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    appends = group.appends.len() + group.chains.len(),
                    "the log takes no writes"
                );
                self.stats.commits_failed.add(1);
                self.recover(&error);
                let failure = match error {
                    CommitError::NotCommitted(_) | CommitError::RolledBack => {
                        AppendError::Refused(Refusal::StorageUnavailable)
                    }
                    CommitError::Unknown(_) => AppendError::Unknown,
                };
                for (_, reply) in group.appends {
                    answer(reply, Err(failure.clone()));
                }
                for (_, reply) in group.chains {
                    answer(reply, Err(failure.clone()));
                }
                for (_, reply) in group.puts {
                    answer(reply, Err(RecordError::StorageUnavailable));
                }
                // A trim that made no way would be tried for ever.
                for (_, reply) in self.trims.drain(..) {
                    answer(reply, Err(RecordError::StorageUnavailable));
                }
            }
        }
    }

    fn transact(&mut self, group: &Group) -> Result<Outcome, CommitError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                connect_writer(&self.path, self.synchronous).map_err(CommitError::NotCommitted)?
            }
        };
        let connection = &*self.connection.insert(connection);
        let outcome = Transaction::new(connection, &mut self.last_entries)
            .write(
                group.appends.iter().map(|(append, _)| append),
                group.chains.iter().map(|(chain, _)| chain),
                group.puts.iter().map(|(put, _)| put),
                self.trims.front().map(|(trim, _)| trim),
            )
            .map_err(CommitError::NotCommitted)?;

        // A full or failing disk may roll back by itself, and then a commit commits nothing.
        if connection.is_autocommit() {
            return Err(CommitError::RolledBack);
        }
        (self.commit)(connection).map_err(|error| match error.sqlite_error_code() {
            // The frame that makes a commit valid is written last, so it is not in the file; and
            // who finds the database locked has written nothing.
            Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy) => CommitError::NotCommitted(error),
            _ => CommitError::Unknown(error),
        })?;
        Ok(outcome)
    }

    /// After a failed transaction: nothing is remembered, and unless the disk was only full or the
    /// file locked, the connection goes.
    fn recover(&mut self, error: &CommitError) {
        self.last_entries.clear();
        let Some(connection) = &self.connection else { return };
        let reason = match error {
            CommitError::NotCommitted(error) => error.sqlite_error_code(),
            CommitError::RolledBack | CommitError::Unknown(_) => None,
        };
        let rolled_back =
            connection.is_autocommit() || connection.execute_batch("ROLLBACK").is_ok();
        let usable = rolled_back
            && match reason {
                Some(ErrorCode::DatabaseBusy) => true,
                Some(ErrorCode::DiskFull) => {
                    self.cramped = true;
                    true
                }
                _ => false,
            };
        if !usable {
            self.connection = None;
        }
    }

    fn count(&self, group: &Group, outcome: &Outcome, started: Instant) {
        self.stats.commits.add(1);
        self.stats.commit_time.record(started.elapsed());
        let appends = group.appends.iter().zip(&outcome.appends);
        let appended =
            appends.filter(|(_, result)| result.is_ok()).map(|((append, _), _)| &append.batch);
        let chains = group.chains.iter().zip(&outcome.chains);
        let chained =
            chains.filter(|(_, result)| result.is_ok()).flat_map(|((chain, _), _)| &chain.batches);
        for batch in appended.chain(chained) {
            self.stats.batches.add(1);
            self.stats.messages.add(batch.count.into());
            self.stats.bytes.add(batch.encoded_bytes() as u64);
        }
    }

    /// Moves the write-ahead log into the database once enough of it waits. Passively: readers go
    /// on reading, and what one of them still needs stays for the next time.
    fn checkpoint_if_due(&mut self) {
        if self.unlooked_bytes < limits::WAL_LOOK_BYTES && !self.cramped {
            return;
        }
        self.unlooked_bytes = 0;
        let Some(connection) = &self.connection else { return };
        let checkpoint = || {
            let mut wal = Wal::look(connection)?;
            if wal.waiting_bytes() < self.checkpoint_from_bytes && !self.cramped {
                return Ok(None);
            }
            let started = Instant::now();
            wal = if wal.bytes < limits::WAL_BYTES_MAX && !self.cramped {
                Wal::checkpoint_passively(connection)?
            } else {
                Wal::truncate(connection)?
            };
            self.stats.checkpoints.add(1);
            self.stats.checkpoint_time.record(started.elapsed());
            Ok::<_, rusqlite::Error>(Some(wal))
        };
        match checkpoint() {
            Ok(None) => {}
            // Counted from what is left: who holds an old snapshot for long does not make us try
            // after every transaction.
            Ok(Some(wal)) => {
                self.checkpoint_from_bytes = wal.waiting_bytes() + limits::WAL_CHECKPOINT_BYTES;
                self.cramped &= wal.bytes > 0;
            }
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                self.cramped = true;
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the write-ahead log cannot be moved into the database"
                );
                self.connection = None;
                self.last_entries.clear();
            }
        }
    }

    fn close(mut self) {
        for (_, reply) in self.trims.drain(..) {
            answer(reply, Err(RecordError::StorageUnavailable));
        }
        while let Ok(work) = self.mailbox.try_recv() {
            match work {
                Work::Append(_, reply) => {
                    answer(reply, Err(AppendError::Refused(Refusal::StorageUnavailable)));
                }
                Work::Chain(_, reply) => {
                    answer(reply, Err(AppendError::Refused(Refusal::StorageUnavailable)));
                }
                Work::Put(_, reply) => answer(reply, Err(RecordError::StorageUnavailable)),
                Work::Trim(_, reply) => answer(reply, Err(RecordError::StorageUnavailable)),
                Work::Close => {}
                #[cfg(test)]
                Work::Meddle(_) => {}
            }
        }
        if let Some(connection) = &self.connection
            && let Err(error) = Wal::truncate(connection)
        {
            // Nothing is lost: the next start reads the write-ahead log as after a crash.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the write-ahead log stays as it is"
            );
        }
    }
}

fn answer<T>(reply: oneshot::Sender<T>, result: T) {
    // Who asked may be gone. What was done stays done.
    let _ = reply.send(result);
}

fn commit_now(connection: &Connection) -> rusqlite::Result<()> {
    connection.prepare_cached("COMMIT")?.execute([]).map(drop)
}
