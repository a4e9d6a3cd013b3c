//! The record that says that a store is half a copy, and of what.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{MigrateError, Patience, Side, Store, patiently, plan::Plan, read_records};
use crate::{
    engine::{Engine, Expect, LogEnd, RecordError, Table},
    limits::SCAN_STEP,
    log::place::ChannelId,
};

const KEY: &str = "migration";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    /// The plan's digest, in hexadecimal digits.
    plan: String,
}

impl Marker {
    fn of(plan: &Plan) -> Self {
        Self { plan: plan.digest.to_string() }
    }
}

/// Whether a migration into this store has begun and is not finished. Then nothing but the migration may
/// use it.
///
/// # Errors
/// When the store cannot be read.
pub async fn unfinished(engine: &impl Engine) -> Result<bool, RecordError> {
    Ok(patiently(|| engine.get(Table::Facts, KEY)).await?.is_some())
}

/// Puts the marker of this plan into an empty target, unless it is there.
pub(super) async fn begin<E: Engine>(
    store: &Store<'_, E>,
    plan: &Plan,
) -> Result<(), MigrateError> {
    let target = store.engine;
    let marker = Marker::of(plan);
    let text = serde_json::to_vec(&marker).expect("a string always has a JSON form");
    let value = Bytes::from(text);
    let mut patience = Patience::default();
    loop {
        let found = patiently(|| target.get(Table::Facts, KEY)).await;
        if let Some(found) = found.map_err(|error| read_records(Side::Target, error))? {
            let found = serde_json::from_slice::<Marker>(&found.value);
            let found = found.map_err(|_| MigrateError::Marker)?;
            return if found == marker { Ok(()) } else { Err(MigrateError::OtherSource) };
        }
        check_empty(target, plan).await?;
        let accounts = store.accounts.count();
        let (rows, _) = accounts.map_err(|error| MigrateError::Accounts(Side::Target, error))?;
        if rows > 0 {
            return Err(MigrateError::TargetInUse("it has accounts or keys".to_owned()));
        }
        match target.put(Table::Facts, KEY, value.clone(), Expect::Absent).await {
            Ok(_) => return Ok(()),
            // It may have been written all the same: look again.
            Err(source) if !patience.pause().await => {
                return Err(MigrateError::Put { table: Table::Facts, key: KEY.to_owned(), source });
            }
            Err(_) => {}
        }
    }
}

/// Takes the marker away: the copy is whole.
pub(super) async fn end(target: &impl Engine) -> Result<(), MigrateError> {
    let mut patience = Patience::default();
    loop {
        let found = patiently(|| target.get(Table::Facts, KEY)).await;
        let found = found.map_err(|error| read_records(Side::Target, error))?;
        let Some(found) = found else { return Ok(()) };
        match target.remove(Table::Facts, KEY, found.revision).await {
            Ok(()) => return Ok(()),
            Err(source) if !patience.pause().await => {
                return Err(MigrateError::Put { table: Table::Facts, key: KEY.to_owned(), source });
            }
            Err(_) => {}
        }
    }
}

/// Whether nobody has ever used the target. A log without any record has no channel, so only those of
/// channels are looked for that are to be written.
async fn check_empty(target: &impl Engine, plan: &Plan) -> Result<(), MigrateError> {
    for table in Table::ALL {
        let found = patiently(|| target.scan(table, "", None, 1)).await;
        let found = found.map_err(|error| read_records(Side::Target, error))?;
        if let Some((key, _)) = found.first() {
            let what = format!("it has the record {} {key:?}", table.name());
            return Err(MigrateError::TargetInUse(what));
        }
    }
    for logs in plan.logs.chunks(SCAN_STEP) {
        let channels: Vec<ChannelId> = logs.iter().map(|(channel, _)| *channel).collect();
        let ends = patiently(|| target.heads(channels.clone())).await;
        let ends = ends.map_err(|error| MigrateError::ReadTarget(channels[0], error))?;
        let used = channels.iter().zip(ends).find(|(_, end)| *end != LogEnd::Empty);
        if let Some((channel, _)) = used {
            let what = format!("channel {} has messages", channel.0);
            return Err(MigrateError::TargetInUse(what));
        }
    }
    Ok(())
}
