//! The feed of what was taken back.
//!
//! Writers come one after the other, so numbers are committed in their order: who has read up to one
//! has missed none below it.

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{Store, StoreError, stored, unstored};
use crate::{
    auth::revocation::{Page, Revocation, Revoked},
    clock, limits,
};

/// The fact that holds the longest lifetime that an access token of this store may have, in seconds.
/// It only grows: a process that is configured for less may meet tokens of one that was for more.
const LIFETIME_FACT: &str = "access_token_lifetime_max_s";

impl Store {
    /// What was revoked after this number. Who names a number that the feed has not come to knows
    /// another feed, such as the one before a backup was played back, and gets all of it.
    ///
    /// # Errors
    /// When the store cannot answer now.
    pub async fn revocations(&self, after: u64) -> Result<Page, StoreError> {
        self.ask_while_awaited(move |connection| Ok(page(connection, after)?)).await
    }
}

fn page(connection: &mut Connection, after: u64) -> rusqlite::Result<Page> {
    // One view of the file for both statements: else an entry between the two would be skipped.
    let view = connection.transaction()?;
    let last = view
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'revocations'")?
        .query_row([], |row| row.get(0))
        .optional()?
        .map_or(0, unstored);
    let after = if after > last { 0 } else { after };
    let count = u32::try_from(limits::REVOCATIONS_PER_PAGE_MAX).expect("a page is short");
    let revocations = view
        .prepare_cached(
            "SELECT number, revoked_at_ms, kind, id, generation FROM revocations
             WHERE number > ?1 ORDER BY number LIMIT ?2",
        )?
        .query_map(params![stored(after), count], |row| {
            let (kind, id): (String, String) = (row.get(2)?, row.get(3)?);
            let what = match kind.as_str() {
                "session" => Revoked::Session { session: id },
                "key" => Revoked::Key { key: id },
                _ => Revoked::User { subject: id, generation: row.get(4)? },
            };
            Ok(Revocation {
                number: unstored(row.get(0)?),
                revoked_at_ms: unstored(row.get(1)?),
                what,
            })
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(Page { revocations, last })
}

/// Appends to the feed, in the transaction that revokes.
pub(super) fn append(
    transaction: &Transaction<'_>,
    what: Revoked,
    now_s: u64,
) -> rusqlite::Result<()> {
    let (kind, id, generation) = match what {
        Revoked::Session { session } => ("session", session, None),
        Revoked::User { subject, generation } => ("user", subject, Some(generation)),
        Revoked::Key { key } => ("key", key, None),
    };
    // A stolen key makes tokens of any time, and a hub may have it from a file for ever.
    let kept_until_s = match kind {
        "key" => u64::MAX,
        _ => now_s.saturating_add(overlap_s(transaction)?),
    };
    transaction
        .prepare_cached(
            "INSERT INTO revocations (revoked_at_ms, kept_until_s, kind, id, generation)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![stored(clock::unix_ms()), stored(kept_until_s), kind, id, generation])?;
    Ok(())
}

/// How long a token that was just issued may be met, in seconds: as long as the longest-lived is good,
/// and the skew of clocks.
pub(super) fn overlap_s(connection: &Connection) -> rusqlite::Result<u64> {
    let lifetime_s = connection
        .prepare_cached("SELECT value FROM facts WHERE name = ?1")?
        .query_row([LIFETIME_FACT], |row| row.get(0))
        .optional()?
        .map_or(0, unstored);
    Ok(lifetime_s.saturating_add(limits::TOKEN_LEEWAY.as_secs()))
}

/// Says that access tokens may be good for as long as this.
pub(super) fn raise_lifetime(connection: &Connection, lifetime_s: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO facts (name, value) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
        )?
        .execute(params![LIFETIME_FACT, stored(lifetime_s)])?;
    Ok(())
}
