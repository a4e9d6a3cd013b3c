//! What goes by itself when its time is over. In small steps: a process that was off for a month
//! holds up no login with what ran out meanwhile.

use rusqlite::{Connection, params};

use super::{Database, keys::KeyStoreError, stored, write};
use crate::limits;

/// How to find rows that have run out, and how to drop some of them.
const EXPIRED: [(&str, &str); 3] = [
    (
        "SELECT EXISTS (SELECT 1 FROM sessions WHERE expires_at_s <= ?1)",
        "DELETE FROM sessions WHERE id IN
             (SELECT id FROM sessions WHERE expires_at_s <= ?1 LIMIT ?2)",
    ),
    (
        "SELECT EXISTS (SELECT 1 FROM invites WHERE expires_at_s <= ?1)",
        "DELETE FROM invites WHERE hash IN
             (SELECT hash FROM invites WHERE expires_at_s <= ?1 LIMIT ?2)",
    ),
    (
        "SELECT EXISTS (SELECT 1 FROM revocations WHERE kept_until_s < ?1)",
        "DELETE FROM revocations WHERE number IN
             (SELECT number FROM revocations WHERE kept_until_s < ?1 LIMIT ?2)",
    ),
];

/// Drops some of what has run out. Takes the writer's lock only if there is any.
pub(super) fn drop_expired(database: &mut Database, now_s: u64) -> Result<(), KeyStoreError> {
    for (find, drop) in EXPIRED {
        let any: bool =
            database.prepare_cached(find)?.query_row([stored(now_s)], |row| row.get(0))?;
        if any {
            write(database, |transaction| {
                let step = params![stored(now_s), limits::HOUSEKEEPING_STEP_ROWS];
                Ok::<_, KeyStoreError>(transaction.prepare_cached(drop)?.execute(step)?)
            })?;
        }
    }
    Ok(())
}

/// Sessions that are not over, or ran out a moment ago.
pub(super) fn count_sessions(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT count(*) FROM sessions")?
        .query_row([], |row| row.get(0))
        .map(super::unstored)
}
