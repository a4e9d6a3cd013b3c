//! One store into another: everything that an engine holds, byte for byte, and the accounts beside it.
//!
//! ```text
//! plan ─▶ marker ─▶ logs, records, accounts ─▶ compare both sides ─▶ plan again ─▶ no marker
//! ```
//!
//! Batches keep their epochs and sequences, and messages the keys by which a retry is known, so that
//! clients go on where they stopped. Only cursors and the revisions of records are the target's own.
//!
//! The source is only read, and must stand still: the plan is made once more at the end, and must be
//! the same. The target must be empty, or have the marker of the same plan: then this migration goes on
//! where it stopped. As long as the marker is there no server starts on the target.
//!
//! It may stop anywhere. What is found in the target is compared with the source and never written
//! again, and what differs ends the migration.

use std::{future::Future, sync::atomic::AtomicU64};

use thiserror::Error;

use self::plan::Plan;
pub use self::{
    accounts::{Accounts, AccountsError},
    marker::unfinished,
    verify::{Digest, Verified},
};
use crate::{
    engine::{AppendError, Engine, ReadError, RecordError, Table},
    hub::directory::DirectoryError,
    limits::{MIGRATE_LISTEN, MIGRATE_PAUSE, MIGRATE_TRIES_MAX},
    log::{
        batch::BatchError,
        place::{ChannelId, Sequence},
    },
};

mod accounts;
mod logs;
mod marker;
pub mod plan;
mod records;
mod verify;
mod walk;

#[cfg(test)]
mod tests;

/// Why a migration stopped.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// The log of the source.
    #[error("the log of channel {} cannot be read from the source", .0.0)]
    ReadSource(ChannelId, #[source] ReadError),
    /// The log of the target.
    #[error("the log of channel {} cannot be read from the target", .0.0)]
    ReadTarget(ChannelId, #[source] ReadError),
    /// What the source has at the end of a log.
    #[error("the log of channel {} is damaged at the source", .0.0)]
    Damaged(ChannelId, #[source] BatchError),
    /// The source has two entries that do not belong behind each other.
    #[error("the log of channel {} is broken before message {}", .channel.0, .sequence)]
    Broken {
        /// The channel.
        channel: ChannelId,
        /// The first message behind the break.
        sequence: Sequence,
    },
    /// The target takes no messages.
    #[error("messages of channel {} cannot be written to the target", .0.0)]
    Append(ChannelId, #[source] AppendError),
    /// The records of one side.
    #[error("the records of the {0} cannot be read")]
    ReadRecords(Side, #[source] RecordError),
    /// How many channels there are.
    #[error("the number of channels cannot be read from the {0}")]
    Channels(Side, #[source] DirectoryError),
    /// The target takes no records.
    #[error("the record {} {key:?} cannot be written to the target", .table.name())]
    Put {
        /// Its table.
        table: Table,
        /// Its key.
        key: String,
        /// Why.
        #[source]
        source: RecordError,
    },
    /// The log of the target goes on otherwise than the source's.
    #[error(
        "channel {} of the target differs from the source at message {sequence}; nothing was \
         overwritten: begin again with an empty target", .channel.0
    )]
    LogDiffers {
        /// The channel.
        channel: ChannelId,
        /// From which message on.
        sequence: Sequence,
    },
    /// A record of the target is another one.
    #[error(
        "the record {} {key:?} of the target differs from the source; nothing was overwritten: \
         begin again with an empty target", .table.name()
    )]
    RecordDiffers {
        /// Its table.
        table: Table,
        /// Its key.
        key: String,
    },
    /// The accounts of one side.
    #[error("the accounts of the {0} cannot be moved")]
    Accounts(Side, #[source] AccountsError),
    /// The target has something that no migration has put there.
    #[error("the target has data of its own, and only an empty one is filled: {0}")]
    TargetInUse(String),
    /// The target has the marker of another plan.
    #[error(
        "the target is half a copy of something else, or the source has changed since: begin again with \
         an empty target"
    )]
    OtherSource,
    /// The marker cannot be understood.
    #[error("the target's marker of a migration is damaged, or of a later version")]
    Marker,
    /// The source is a target itself.
    #[error("the source is half a copy itself, whose migration is not finished")]
    SourceUnfinished,
    /// The plan is another one at the end.
    #[error(
        "the source has changed meanwhile: stop what writes to it, and begin with an empty target"
    )]
    SourceChanged,
    /// Somebody else is there.
    #[error("a node is at work on the {0}: stop it first")]
    NodeAtWork(Side),
}

/// Where a migration comes from and goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// It is read.
    Source,
    /// It is written.
    Target,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// How far a migration is, for whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Messages that are in the target, whether this run has written them or another one.
    pub messages: AtomicU64,
    /// Records likewise.
    pub records: AtomicU64,
    /// Messages that were read back and compared.
    pub compared: AtomicU64,
}

/// An engine, and the accounts beside it.
#[derive(Debug)]
pub struct Store<'e, E> {
    /// Logs and records.
    pub engine: &'e E,
    /// Accounts, sessions and keys.
    pub accounts: Accounts,
}

/// Moves everything from one store to the other, and compares both at the end.
///
/// # Errors
/// When it stops before its end. Run again, it goes on, unless the error says otherwise.
pub async fn migrate<A: Engine, B: Engine>(
    source: &Store<'_, A>,
    target: &Store<'_, B>,
    plan: &Plan,
    progress: &Progress,
) -> Result<Verified, MigrateError> {
    check_finished(source.engine).await?;
    let (from, to) = (source.engine, target.engine);
    marker::begin(target, plan).await?;
    logs::copy(from, to, plan, progress).await?;
    records::copy(from, to, progress).await?;
    let copied = accounts::copy(&source.accounts, &target.accounts).await;
    copied.map_err(|error| MigrateError::Accounts(Side::Target, error))?;
    let mut verified = verify::compare(from, to, plan, progress).await?;
    let compared = accounts::compare(&source.accounts, &target.accounts);
    (verified.account_rows, verified.accounts_digest) =
        compared.map_err(|error| MigrateError::Accounts(Side::Target, error))?;
    if Plan::make(source).await? != *plan {
        return Err(MigrateError::SourceChanged);
    }
    marker::end(to).await?;
    Ok(verified)
}

/// Reads all of a source as a migration would, and writes nothing.
///
/// # Errors
/// When it cannot be read, or is not whole.
pub async fn rehearse<A: Engine>(
    source: &Store<'_, A>,
    plan: &Plan,
    progress: &Progress,
) -> Result<Verified, MigrateError> {
    check_finished(source.engine).await?;
    let mut verified = verify::read(source.engine, plan, progress).await?;
    (verified.account_rows, verified.accounts_digest) = plan.accounts;
    Ok(verified)
}

async fn check_finished(source: &impl Engine) -> Result<(), MigrateError> {
    let half = unfinished(source).await.map_err(|error| read_records(Side::Source, error))?;
    if half { Err(MigrateError::SourceUnfinished) } else { Ok(()) }
}

/// Listens whether any other node is at work on this engine.
///
/// # Errors
/// When one is.
pub async fn check_alone(engine: &impl Engine, side: Side) -> Result<(), MigrateError> {
    let Some(bus) = engine.bus() else { return Ok(()) };
    let mut inbox = bus.inbox();
    match tokio::time::timeout(MIGRATE_LISTEN, inbox.recv()).await {
        Ok(Some(_)) => Err(MigrateError::NodeAtWork(side)),
        Ok(None) | Err(_) => Ok(()),
    }
}

fn read_records(side: Side, error: RecordError) -> MigrateError {
    MigrateError::ReadRecords(side, error)
}

/// How often something has been tried in vain.
#[derive(Debug, Default)]
struct Patience {
    tries: usize,
}

impl Patience {
    /// Waits before the next try. False: there were enough.
    async fn pause(&mut self) -> bool {
        self.tries += 1;
        if self.tries >= MIGRATE_TRIES_MAX {
            return false;
        }
        tokio::time::sleep(MIGRATE_PAUSE).await;
        true
    }
}

/// An error that may pass.
trait Passing {
    fn may_pass(&self) -> bool;
}

impl Passing for ReadError {
    fn may_pass(&self) -> bool {
        matches!(self, Self::Busy | Self::StorageUnavailable)
    }
}

impl Passing for RecordError {
    fn may_pass(&self) -> bool {
        matches!(self, Self::Busy | Self::StorageUnavailable)
    }
}

impl Passing for DirectoryError {
    fn may_pass(&self) -> bool {
        matches!(self, Self::Records(error) if error.may_pass())
    }
}

/// Asks until there is an answer, or an error that does not pass.
async fn patiently<T, X: Passing, F: Future<Output = Result<T, X>>>(
    mut ask: impl FnMut() -> F,
) -> Result<T, X> {
    let mut patience = Patience::default();
    loop {
        match ask().await {
            Err(error) if error.may_pass() => {
                if !patience.pause().await {
                    return Err(error);
                }
            }
            answer => return answer,
        }
    }
}
