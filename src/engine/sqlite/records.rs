//! Records: one row each, written by the log writer beside the batches, read by the log readers.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::engine::{Expect, RecordError, Revision, Table, Versioned};

/// Writes one record if it is as expected. The inner result is the answer, the outer one says
/// whether the transaction may go on.
pub(super) fn put(
    connection: &Connection,
    table: Table,
    key: &str,
    value: &[u8],
    expect: Expect,
) -> rusqlite::Result<Result<Revision, RecordError>> {
    let (changed, revision) = match expect {
        Expect::Absent => {
            let changed = connection
                .prepare_cached(
                    "INSERT INTO records (collection, key, revision, value) VALUES (?1, ?2, 1, ?3)
                     ON CONFLICT DO NOTHING",
                )?
                .execute(params![table.name(), key, value])?;
            (changed, Revision(1))
        }
        Expect::Revision(Revision(revision)) => {
            let changed = connection
                .prepare_cached(
                    "UPDATE records SET revision = revision + 1, value = ?3
                     WHERE collection = ?1 AND key = ?2 AND revision = ?4",
                )?
                .execute(params![table.name(), key, value, revision.cast_signed()])?;
            (changed, Revision(revision.wrapping_add(1)))
        }
    };
    Ok(if changed == 1 { Ok(revision) } else { Err(RecordError::Conflict) })
}

/// Reads one record.
pub(super) fn get(
    connection: &Connection,
    table: Table,
    key: &str,
) -> rusqlite::Result<Option<Versioned>> {
    connection
        .prepare_cached("SELECT revision, value FROM records WHERE collection = ?1 AND key = ?2")?
        .query_row(params![table.name(), key], |row| versioned(row, 0))
        .optional()
}

/// Lists records by key. Keys compare as their UTF-8 bytes, so those with the prefix are one run.
pub(super) fn scan(
    connection: &Connection,
    table: Table,
    prefix: &str,
    after: Option<&str>,
    count_max: usize,
) -> rusqlite::Result<Vec<(String, Versioned)>> {
    let mut statement = connection.prepare_cached(
        "SELECT key, revision, value FROM records
         WHERE collection = ?1 AND key >= ?2 AND (?3 IS NULL OR key > ?3)
         ORDER BY key LIMIT ?4",
    )?;
    // A page deep in the run begins its search at its own key, not at the run's.
    let begin = after.map_or(prefix, |after| after.max(prefix));
    let count_max = i64::try_from(count_max).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![table.name(), begin, after, count_max])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        if !key.starts_with(prefix) {
            break;
        }
        found.push((key, versioned(row, 1)?));
    }
    Ok(found)
}

fn versioned(row: &Row<'_>, at: usize) -> rusqlite::Result<Versioned> {
    let revision: i64 = row.get(at)?;
    let value = Bytes::copy_from_slice(row.get_ref(at + 1)?.as_blob()?);
    Ok(Versioned { value, revision: Revision(revision.cast_unsigned()) })
}
