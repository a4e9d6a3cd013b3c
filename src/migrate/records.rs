//! The records of all tables but of the facts, which each store has for itself.

use std::{collections::HashMap, sync::atomic::Ordering::Relaxed};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{MigrateError, Patience, Progress, Side, patiently, read_records};
use crate::{
    engine::{Engine, Expect, RecordError, Table, Versioned},
    limits::{MIGRATE_RECORDS_AT_ONCE, SCAN_STEP},
};

/// The tables that are moved.
pub(super) fn tables() -> impl Iterator<Item = Table> {
    Table::ALL.into_iter().filter(|table| *table != Table::Facts)
}

/// One page of a table.
pub(super) async fn page(
    engine: &impl Engine,
    side: Side,
    table: Table,
    after: Option<&str>,
) -> Result<Vec<(String, Versioned)>, MigrateError> {
    let page = patiently(|| engine.scan(table, "", after, SCAN_STEP)).await;
    page.map_err(|error| read_records(side, error))
}

/// Shows every record, by table and key.
pub(super) async fn each_record(
    engine: &impl Engine,
    side: Side,
    mut show: impl FnMut(Table, &str, &[u8]),
) -> Result<(), MigrateError> {
    for table in tables() {
        let mut after = None;
        loop {
            let records = page(engine, side, table, after.as_deref()).await?;
            for (key, record) in &records {
                show(table, key, &record.value);
            }
            let Some((last, _)) = records.into_iter().next_back() else { break };
            after = Some(last);
        }
    }
    Ok(())
}

/// Copies what the target does not have yet.
pub(super) async fn copy<A: Engine, B: Engine>(
    source: &A,
    target: &B,
    progress: &Progress,
) -> Result<(), MigrateError> {
    for table in tables() {
        let mut after: Option<String> = None;
        loop {
            let records = page(source, Side::Source, table, after.as_deref()).await?;
            let Some((last, _)) = records.last() else { break };
            let last = last.clone();
            let there = page(target, Side::Target, table, after.as_deref()).await?;
            let there: HashMap<String, Versioned> = there.into_iter().collect();
            stream::iter(records)
                .map(Ok)
                .try_for_each_concurrent(MIGRATE_RECORDS_AT_ONCE, |(key, record)| {
                    let found = there.get(&key).map(|found| found.value.clone());
                    async move {
                        match found {
                            Some(found) => same(table, key, &record.value, &found)?,
                            None => put(target, table, key, record.value).await?,
                        }
                        progress.records.fetch_add(1, Relaxed);
                        Ok(())
                    }
                })
                .await?;
            after = Some(last);
        }
    }
    Ok(())
}

async fn put(
    target: &impl Engine,
    table: Table,
    key: String,
    value: Bytes,
) -> Result<(), MigrateError> {
    let mut patience = Patience::default();
    loop {
        match target.put(table, &key, value.clone(), Expect::Absent).await {
            Ok(_) => return Ok(()),
            // Also what an earlier try has written without a word.
            Err(RecordError::Conflict) => {
                let found = patiently(|| target.get(table, &key)).await;
                let found = found.map_err(|error| read_records(Side::Target, error))?;
                if let Some(found) = found {
                    return same(table, key, &value, &found.value);
                }
                if !patience.pause().await {
                    let source = RecordError::Conflict;
                    return Err(MigrateError::Put { table, key, source });
                }
            }
            Err(source) => {
                let passes = matches!(source, RecordError::Busy | RecordError::StorageUnavailable);
                if !passes || !patience.pause().await {
                    return Err(MigrateError::Put { table, key, source });
                }
            }
        }
    }
}

fn same(table: Table, key: String, value: &[u8], found: &[u8]) -> Result<(), MigrateError> {
    if value == found { Ok(()) } else { Err(MigrateError::RecordDiffers { table, key }) }
}
