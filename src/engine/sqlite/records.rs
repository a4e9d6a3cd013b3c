//! Records: one row each, written by the log writer beside the batches, read by the log readers.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::engine::{Expect, RecordError, Revision, Table, Versioned};

// A record that is not there begins above every revision that was ever removed, so that a revision
// of a key never comes back and nobody takes a new record for the one that they have read. The highest
// of these is kept in a row that no `Table` has a name for.

const INSERT: &str = "
    INSERT INTO records (collection, key, revision, value)
    VALUES (?1, ?2,
            1 + coalesce((SELECT revision FROM records WHERE collection = '' AND key = ''), 0), ?3)
    ON CONFLICT DO NOTHING RETURNING revision";

const UPDATE: &str = "
    UPDATE records SET revision = revision + 1, value = ?3
    WHERE collection = ?1 AND key = ?2 AND revision = ?4 RETURNING revision";

const UPSERT: &str = "
    INSERT INTO records (collection, key, revision, value)
    VALUES (?1, ?2,
            1 + coalesce((SELECT revision FROM records WHERE collection = '' AND key = ''), 0), ?3)
    ON CONFLICT DO UPDATE SET revision = revision + 1, value = excluded.value";

/// Without a revision: whatever it is.
const DELETE: &str = "
    DELETE FROM records
    WHERE collection = ?1 AND key = ?2 AND (?3 IS NULL OR revision = ?3) RETURNING revision";

const REMEMBER_REMOVED: &str = "
    INSERT INTO records (collection, key, revision, value) VALUES ('', '', ?1, x'')
    ON CONFLICT DO UPDATE SET revision = excluded.revision WHERE excluded.revision > revision";

/// Writes one record if it is as expected, or removes it if there is no value, and answers the
/// revision that was written or removed. The inner result is the answer, the outer one says whether the
/// transaction may go on.
pub(super) fn put(
    connection: &Connection,
    table: Table,
    key: &str,
    value: Option<&[u8]>,
    expect: Expect,
) -> rusqlite::Result<Result<Revision, RecordError>> {
    let written = match (value, expect) {
        (Some(value), Expect::Absent) => connection
            .prepare_cached(INSERT)?
            .query_row(params![table.name(), key, value], |row| row.get(0))
            .optional()?,
        (Some(value), Expect::Revision(Revision(revision))) => connection
            .prepare_cached(UPDATE)?
            .query_row(params![table.name(), key, value, revision.cast_signed()], |row| row.get(0))
            .optional()?,
        (None, Expect::Revision(revision)) => delete(connection, table, key, Some(revision))?,
        (None, Expect::Absent) => None,
    };
    let written = written.map(|revision: i64| Revision(revision.cast_unsigned()));
    Ok(written.ok_or(RecordError::Conflict))
}

/// Writes or removes one record, whatever was there before.
pub(super) fn derive(
    connection: &Connection,
    table: Table,
    key: &str,
    value: Option<&[u8]>,
) -> rusqlite::Result<()> {
    match value {
        Some(value) => {
            connection.prepare_cached(UPSERT)?.execute(params![table.name(), key, value])?;
        }
        None => {
            delete(connection, table, key, None)?;
        }
    }
    Ok(())
}

/// Removes one record if it is there and as expected, and answers its revision.
fn delete(
    connection: &Connection,
    table: Table,
    key: &str,
    expect: Option<Revision>,
) -> rusqlite::Result<Option<i64>> {
    let expect = expect.map(|Revision(revision)| revision.cast_signed());
    let removed = connection
        .prepare_cached(DELETE)?
        .query_row(params![table.name(), key, expect], |row| row.get(0))
        .optional()?;
    if let Some(revision) = removed {
        connection.prepare_cached(REMEMBER_REMOVED)?.execute([revision])?;
    }
    Ok(removed)
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
