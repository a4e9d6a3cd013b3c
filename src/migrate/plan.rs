//! What there is to move, and by what a source is known again.

use xxhash_rust::xxh3::Xxh3;

use super::{Digest, MigrateError, Side, Store, patiently, records::each_record};
use crate::{
    engine::{Engine, LogEnd},
    hub::directory,
    limits::SCAN_STEP,
    log::place::{ChannelId, Position},
};

/// Everything that a source has. Two that are equal are of the same source, which has not changed in
/// between.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The channels whose logs are not empty, by number, and where they end.
    pub logs: Vec<(ChannelId, Position)>,
    /// How many records there are.
    pub records: u64,
    /// Bytes of their keys and values.
    pub record_bytes: u64,
    /// How many rows the accounts have, and their digest.
    pub accounts: (u64, Digest),
    /// All of the above, and what the records say.
    pub digest: Digest,
}

impl Plan {
    /// Looks at the ends of all logs, and reads all records.
    ///
    /// # Errors
    /// When the source cannot be read, or the end of a log is damaged.
    pub async fn make<E: Engine>(store: &Store<'_, E>) -> Result<Self, MigrateError> {
        let source = store.engine;
        let last = patiently(|| directory::last_channel(source)).await;
        let last = last.map_err(|error| MigrateError::Channels(Side::Source, error))?;
        let mut logs = Vec::new();
        let mut digest = Xxh3::new();
        for first in (1..=last.0).step_by(SCAN_STEP) {
            let end = last.0.min(first.saturating_add(SCAN_STEP as u32 - 1));
            let channels: Vec<_> = (first..=end).map(ChannelId).collect();
            let ends = patiently(|| source.heads(channels.clone())).await;
            let ends = ends.map_err(|error| MigrateError::ReadSource(ChannelId(first), error))?;
            for (channel, end) in channels.into_iter().zip(ends) {
                match end {
                    LogEnd::Empty => {}
                    LogEnd::At(position) => {
                        digest.update(&channel.0.to_le_bytes());
                        digest.update(&position.epoch.0.to_le_bytes());
                        digest.update(&position.sequence.0.to_le_bytes());
                        logs.push((channel, position));
                    }
                    LogEnd::Damaged(error) => return Err(MigrateError::Damaged(channel, error)),
                }
            }
        }
        let (mut records, mut record_bytes) = (0, 0);
        let mut of_records = Xxh3::new();
        each_record(source, Side::Source, |table, key, value| {
            records += 1;
            record_bytes += (key.len() + value.len()) as u64;
            super::verify::add_record(&mut of_records, table, key, value);
        })
        .await?;
        digest.update(&of_records.digest128().to_le_bytes());
        let accounts = store.accounts.count();
        let accounts = accounts.map_err(|error| MigrateError::Accounts(Side::Source, error))?;
        digest.update(&accounts.1.0.to_le_bytes());
        Ok(Self { logs, records, record_bytes, accounts, digest: Digest(digest.digest128()) })
    }

    /// The messages of all logs, if nothing was trimmed.
    #[must_use]
    pub fn messages_max(&self) -> u64 {
        self.logs.iter().map(|(_, end)| end.sequence.0).sum()
    }
}
