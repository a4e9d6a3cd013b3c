//! The write-ahead log's size, and the checkpoints that move it into the database.

use rusqlite::Connection;

use super::PAGE_BYTES;

/// The write-ahead log, as a checkpoint of any kind reports it.
pub(super) struct Wal {
    pub(super) bytes: u64,
    moved_bytes: u64,
}

impl Wal {
    pub(super) fn look(connection: &Connection) -> rusqlite::Result<Self> {
        Self::report(connection, "PRAGMA wal_checkpoint(NOOP)")
    }

    pub(super) fn checkpoint_passively(connection: &Connection) -> rusqlite::Result<Self> {
        Self::report(connection, "PRAGMA wal_checkpoint(PASSIVE)")
    }

    pub(super) fn truncate(connection: &Connection) -> rusqlite::Result<Self> {
        Self::report(connection, "PRAGMA wal_checkpoint(TRUNCATE)")
    }

    fn report(connection: &Connection, sql: &str) -> rusqlite::Result<Self> {
        let bytes = |pages: i64| u64::try_from(pages).unwrap_or(0) * PAGE_BYTES;
        connection.prepare_cached(sql)?.query_row([], |row| {
            Ok(Self { bytes: bytes(row.get(1)?), moved_bytes: bytes(row.get(2)?) })
        })
    }

    pub(super) fn waiting_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.moved_bytes)
    }
}
