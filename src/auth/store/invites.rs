//! Invite codes. The store keeps their hashes: who reads a backup cannot make accounts by it.

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use sha2::{Digest as _, Sha256};

use super::{Store, StoreError, base32, stored, write};
use crate::auth::Invite;

/// What a code begins with, for people and for those who search logs for secrets.
const PREFIX: &str = "hbi_";
/// Random bytes of a code: 80 bits are 16 characters of base32.
const RANDOM_BYTES: usize = 10;

impl Store {
    /// Makes a code that is good for so many accounts until then.
    ///
    /// # Errors
    /// When the store cannot take it now.
    pub async fn create_invite(&self, uses: u32, expires_at_s: u64) -> Result<Invite, StoreError> {
        self.ask_while_awaited(move |connection| {
            let code = format!("{PREFIX}{}", base32(&rand::random::<[u8; RANDOM_BYTES]>()));
            write(connection, |transaction| {
                transaction
                    .prepare_cached(
                        "INSERT INTO invites (hash, uses_left, expires_at_s) VALUES (?1, ?2, ?3)",
                    )?
                    .execute(params![hash(&code), uses, stored(expires_at_s)])?;
                Ok::<_, StoreError>(())
            })?;
            Ok(Invite { code, uses, expires_at_s })
        })
        .await
    }
}

/// Whether the code would be good for an account now.
pub(super) fn is_good(connection: &Connection, code: &str, now_s: u64) -> rusqlite::Result<bool> {
    let found = connection
        .prepare_cached(
            "SELECT 1 FROM invites WHERE hash = ?1 AND uses_left > 0 AND expires_at_s > ?2",
        )?
        .query_row(params![hash(code), stored(now_s)], |_| Ok(()))
        .optional()?;
    Ok(found.is_some())
}

/// Takes one use of a good code, in the transaction that makes the account.
pub(super) fn take(transaction: &Transaction<'_>, code: &str, now_s: u64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "UPDATE invites SET uses_left = uses_left - 1
             WHERE hash = ?1 AND uses_left > 0 AND expires_at_s > ?2",
        )?
        .execute(params![hash(code), stored(now_s)])?;
    Ok(())
}

/// A code is 80 random bits, so a fast hash without salt hides it; and it is looked up by it.
fn hash(code: &str) -> [u8; 32] {
    Sha256::digest(code.as_bytes()).into()
}
