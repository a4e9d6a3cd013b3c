//! The tables of the log, and how an older file becomes a newer one.
//!
//! `PRAGMA user_version` counts the migrations that a file has had. Each runs in a transaction
//! that also raises the count, so that a crash at any place leaves either version, whole.

use rusqlite::{Connection, TransactionBehavior};
use thiserror::Error;

/// The migrations in order. Append only: what has been released never changes.
///
/// `batches.cursor` is the rowid, given out as the highest one plus 1. It needs no `AUTOINCREMENT`:
/// a cursor could come back only after the highest row was deleted, that row is the last entry of
/// its channel, and a trim never drops a channel's last entry. Cursors of a transaction that was
/// rolled back come back, and nobody has seen them.
///
/// The only index is by sequence: within a channel, cursors and sequences ascend together, so it
/// serves both and each batch dirties one page less. It carries the rowid at its end.
///
/// `keys` repeats a batch's keys in the form of `transaction::pack`, so that a trim finds the rows of
/// `message_keys` without a second index over every message. It comes last: SQLite reads a row from
/// its front and a read of the log never gets there.
///
/// Ids of clients and digests are 64 bits without a sign, stored as the signed number of the same
/// bits.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE batches (
        cursor INTEGER PRIMARY KEY,
        channel INTEGER NOT NULL,
        first_sequence INTEGER NOT NULL,
        last_sequence INTEGER NOT NULL,
        after_cursor INTEGER NOT NULL,
        bytes BLOB NOT NULL,
        keys BLOB NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX batches_by_sequence ON batches (channel, first_sequence);
    CREATE TABLE message_keys (
        channel INTEGER NOT NULL,
        user INTEGER NOT NULL,
        client_message_id INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        digest INTEGER NOT NULL,
        PRIMARY KEY (channel, user, client_message_id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE records (
        collection TEXT NOT NULL,
        key TEXT NOT NULL,
        revision INTEGER NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (collection, key)
    ) STRICT, WITHOUT ROWID;
"];

/// Why a file's tables cannot be used.
#[derive(Debug, Error)]
pub enum SchemaError {
    /// A later hubbub has written it.
    #[error(
        "the database has schema {found} and this hubbub knows up to {known}: run the newer version"
    )]
    TooNew {
        /// What the file has.
        found: u32,
        /// What this program has.
        known: u32,
    },
    /// SQLite says no.
    #[error("the database's schema cannot be read or raised")]
    Storage(#[from] rusqlite::Error),
}

/// Brings the file to the newest schema.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), SchemaError> {
    migrate_by(connection, MIGRATIONS)
}

fn migrate_by(connection: &mut Connection, migrations: &[&str]) -> Result<(), SchemaError> {
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = u32::try_from(migrations.len()).expect("there are few migrations");
    if found > known {
        return Err(SchemaError::TooNew { found, known });
    }
    for (version, migration) in (1..).zip(migrations).skip(found as usize) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(connection: &Connection) -> u32 {
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_file_gets_only_the_migrations_that_it_lacks() {
        let mut connection = Connection::open_in_memory().unwrap();
        let first = "CREATE TABLE a (n)";
        migrate_by(&mut connection, &[first]).unwrap();
        migrate_by(&mut connection, &[first, "CREATE TABLE b (n)"]).unwrap();
        migrate_by(&mut connection, &[first, "CREATE TABLE b (n)"]).unwrap();
        assert_eq!(version(&connection), 2);
        connection.execute_batch("SELECT n FROM a; SELECT n FROM b").unwrap();
    }

    #[test]
    fn a_migration_that_fails_leaves_the_older_schema_whole() {
        let mut connection = Connection::open_in_memory().unwrap();
        let first = "CREATE TABLE a (n)";
        let failing = "CREATE TABLE b (n); INSERT INTO nowhere VALUES (1)";
        assert!(migrate_by(&mut connection, &[first, failing]).is_err());
        assert_eq!(version(&connection), 1);
        assert!(connection.execute_batch("SELECT n FROM b").is_err());
        migrate_by(&mut connection, &[first, "CREATE TABLE b (n)"]).unwrap();
        assert_eq!(version(&connection), 2);
    }

    #[test]
    fn a_newer_schema_is_refused_and_untouched() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "user_version", 9).unwrap();
        let error = migrate_by(&mut connection, &["CREATE TABLE a (n)"]).unwrap_err();
        assert!(matches!(error, SchemaError::TooNew { found: 9, known: 1 }), "{error}");
        assert_eq!(version(&connection), 9);
    }
}
