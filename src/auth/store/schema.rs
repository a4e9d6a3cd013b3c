//! The tables of the account store, and how an older file becomes a newer one.
//!
//! `PRAGMA user_version` counts the migrations that a file has had. Those that it lacks run in one
//! transaction with the new count, so that a crash leaves either version, whole, and of two
//! processes that start together one waits for the other.

use rusqlite::{Connection, TransactionBehavior};

use super::OpenError;

/// Each brings the schema from its index to the next number. Append only: a file in the field has
/// run some of them.
///
/// Of migration 2: an account that is deleted stays as a tombstone, so that nobody ever gets its name
/// or subject again. `generation` counts how often all sessions of the user were ended,
/// `password_number` its passwords; a hash that is made anew from the same password is none. A session
/// is a row and its refresh tokens are none: see `refresh_token`. `revocations` and `keys` are numbered
/// by AUTOINCREMENT, so that a number never comes back. `facts` are single numbers, by name.
pub(super) const MIGRATIONS: [&str; 4] = [
    "
    CREATE TABLE accounts (
        id INTEGER PRIMARY KEY,
        username TEXT NOT NULL UNIQUE COLLATE NOCASE,
        subject TEXT NOT NULL UNIQUE,
        password_hash TEXT NOT NULL,
        created_at_s INTEGER NOT NULL
    ) STRICT;
    ",
    "
    ALTER TABLE accounts ADD COLUMN generation INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE accounts ADD COLUMN password_number INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE accounts ADD COLUMN disabled_at_s INTEGER;
    ALTER TABLE accounts ADD COLUMN deleted_at_s INTEGER;
    CREATE TABLE sessions (
        id BLOB PRIMARY KEY,
        account INTEGER NOT NULL,
        created_at_s INTEGER NOT NULL,
        used_at_s INTEGER NOT NULL,
        expires_at_s INTEGER NOT NULL,
        address TEXT NOT NULL,
        family_key BLOB NOT NULL,
        current_hash BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX sessions_by_account ON sessions (account, used_at_s);
    CREATE INDEX sessions_by_expiry ON sessions (expires_at_s);
    CREATE TABLE known_addresses (
        account INTEGER NOT NULL,
        address TEXT NOT NULL,
        used_at_s INTEGER NOT NULL,
        PRIMARY KEY (account, address)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE invites (
        hash BLOB PRIMARY KEY,
        uses_left INTEGER NOT NULL,
        expires_at_s INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX invites_by_expiry ON invites (expires_at_s);
    CREATE TABLE revocations (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        revoked_at_ms INTEGER NOT NULL,
        kept_until_s INTEGER NOT NULL,
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        generation INTEGER
    ) STRICT;
    CREATE INDEX revocations_by_age ON revocations (kept_until_s);
    CREATE TABLE keys (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        key_id TEXT NOT NULL UNIQUE,
        created_at_s INTEGER NOT NULL,
        signs_from_s INTEGER NOT NULL,
        retired_at_s INTEGER,
        revoked_at_s INTEGER
    ) STRICT;
    CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    ",
    // Nobody: what is read in the place of an account that does not exist, and as long. No user name
    // is empty.
    "
    INSERT INTO accounts (id, username, subject, password_hash, created_at_s, deleted_at_s)
    VALUES (0, '', '', printf('%097d', 0), 0, 0);
    ",
    // Empty but in a cluster: see `replica`.
    "
    CREATE TABLE key_files (key_id TEXT PRIMARY KEY, pem TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE replica (
        the_only INTEGER PRIMARY KEY CHECK (the_only = 1),
        history TEXT NOT NULL,
        position INTEGER NOT NULL,
        schema INTEGER NOT NULL,
        at_end_s INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE unknown_columns (
        row_table TEXT NOT NULL,
        row_key TEXT NOT NULL,
        columns BLOB NOT NULL,
        PRIMARY KEY (row_table, row_key)
    ) STRICT, WITHOUT ROWID;
    ",
];

/// Runs the migrations that the file has not seen.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), OpenError> {
    migrate_by(connection, &MIGRATIONS)
}

fn migrate_by(connection: &mut Connection, migrations: &[&str]) -> Result<(), OpenError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(done).unwrap_or(usize::MAX);
    let Some(missing) = migrations.get(done..) else {
        return Err(OpenError::TooNew { found: done });
    };
    if missing.is_empty() {
        return Ok(());
    }
    for migration in missing {
        transaction.execute_batch(migration)?;
    }
    let known = i64::try_from(migrations.len()).expect("there are few migrations");
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_of_the_first_schema_are_kept_and_can_log_in() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate_by(&mut connection, &MIGRATIONS[..1]).unwrap();
        connection
            .execute_batch("INSERT INTO accounts VALUES (1, 'anna', 'subject', '$hash', 5)")
            .unwrap();
        migrate(&mut connection).unwrap();
        let row: (String, i64, i64, Option<i64>, Option<i64>) = connection
            .query_row(
                "SELECT subject, generation, password_number, disabled_at_s, deleted_at_s
                 FROM accounts WHERE username = 'Anna'",
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
            )
            .unwrap();
        assert_eq!(row, ("subject".to_owned(), 1, 1, None, None));
        migrate(&mut connection).unwrap();
    }

    #[test]
    fn a_migration_that_fails_leaves_the_older_schema_whole() {
        let mut connection = Connection::open_in_memory().unwrap();
        let failing = "CREATE TABLE sessions (n); INSERT INTO nowhere VALUES (1)";
        assert!(migrate_by(&mut connection, &[MIGRATIONS[0], failing]).is_err());
        migrate(&mut connection).unwrap();
        connection.execute_batch("SELECT family_key FROM sessions").unwrap();
    }
}
