//! Sessions: one row each, from login to revocation. A row that is gone is a session that is over;
//! what still carries its id is refused.

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::{AccountId, Store, StoreError, revocations, stored, write};
use crate::{
    auth::{
        Account, Username,
        refresh_token::{self, FamilyKey, Presented, Secret, SessionId, Standing},
        revocation::Revoked,
    },
    limits,
};

/// How sessions begin and rest.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long a session may rest.
    pub rest_max_s: u64,
    /// Sessions of one user.
    pub per_user_max: u32,
}

/// What a new session needs.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Whose.
    pub account: AccountId,
    /// The password that was verified. If the user has another by now, no session begins.
    pub password_number: u32,
    /// Where the user is.
    pub address: String,
}

/// A session that has just begun or gone on, and the token for its next step.
#[derive(Clone)]
pub struct Live {
    /// Whose.
    pub account: Account,
    /// Its id.
    pub session: SessionId,
    /// The user's generation.
    pub generation: u32,
    /// Its newest refresh token.
    pub refresh_token: String,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("session", &self.session).finish_non_exhaustive()
    }
}

/// What became of a refresh token.
#[derive(Clone, Debug)]
pub enum Refreshed {
    /// It was the newest, and has a successor now.
    Rotated(Live),
    /// It had been used up. The session is revoked.
    Replayed {
        /// Whose.
        subject: String,
        /// Which.
        session: SessionId,
    },
    /// It is nobody's, or its session is over. Nothing happened.
    Refused,
}

impl Store {
    /// Begins a session, unless the user is disabled, gone, or has another password by now. The
    /// address is one that the user is known from, from now on.
    ///
    /// # Errors
    /// When the store cannot take it now.
    pub async fn begin_session(
        &self,
        new: NewSession,
        rules: Rules,
        now_s: u64,
    ) -> Result<Option<Live>, StoreError> {
        self.ask_while_awaited(move |connection| {
            write(connection, |transaction| Ok(begin(transaction, &new, rules, now_s)?))
        })
        .await
    }

    /// Trades a refresh token. Of two that bring the same one, the first gets its successor and the
    /// second ends the session: a thief and the robbed look the same from here.
    ///
    /// # Errors
    /// When the store cannot take it now.
    pub async fn refresh(
        &self,
        presented: Presented,
        rules: Rules,
        now_s: u64,
    ) -> Result<Refreshed, StoreError> {
        self.ask_while_awaited(move |connection| {
            // Looked at without the writer's lock first, so that forged tokens hold up nobody.
            if !is_genuine(connection, &presented)? {
                return Ok(Refreshed::Refused);
            }
            write(connection, |transaction| Ok(trade(transaction, &presented, rules, now_s)?))
        })
        .await
    }

    /// Ends the session of this refresh token, if it was ever one of the session. Which one it was.
    ///
    /// # Errors
    /// When the store cannot take it now.
    pub async fn end_session_by(
        &self,
        presented: Presented,
        now_s: u64,
    ) -> Result<bool, StoreError> {
        self.ask(move |connection| {
            if !is_genuine(connection, &presented)? {
                return Ok(false);
            }
            write(connection, |transaction| Ok(end(transaction, presented.session, now_s)?))
        })
        .await
    }

    /// Ends this session. Whether it was not over.
    ///
    /// # Errors
    /// When the store cannot take it now.
    pub async fn end_session(&self, session: SessionId, now_s: u64) -> Result<bool, StoreError> {
        self.ask(move |connection| {
            write(connection, |transaction| Ok(end(transaction, session, now_s)?))
        })
        .await
    }
}

pub(super) fn begin(
    transaction: &Transaction<'_>,
    new: &NewSession,
    rules: Rules,
    now_s: u64,
) -> rusqlite::Result<Option<Live>> {
    let found = transaction
        .prepare_cached(
            "SELECT username, subject, generation FROM accounts
             WHERE id = ?1 AND password_number = ?2
             AND disabled_at_s IS NULL AND deleted_at_s IS NULL",
        )?
        .query_row(params![new.account.0, new.password_number], |row| {
            Ok((account(row)?, row.get(2)?))
        })
        .optional()?;
    let Some((account, generation)) = found else { return Ok(None) };
    make_room(transaction, new.account, rules.per_user_max, now_s)?;

    let session = SessionId::new(rand::random());
    let (family, secret) = (FamilyKey::new(rand::random()), Secret::new(rand::random()));
    transaction
        .prepare_cached(
            "INSERT INTO sessions (id, account, created_at_s, used_at_s, expires_at_s, address,
                                   family_key, current_hash)
             VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            session.as_bytes(),
            new.account.0,
            stored(now_s),
            stored(now_s.saturating_add(rules.rest_max_s)),
            new.address,
            family.as_bytes(),
            secret.hash(),
        ])?;
    remember_address(transaction, new.account, &new.address, now_s)?;
    let refresh_token = refresh_token::encode(session, &secret, &family);
    Ok(Some(Live { account, session, generation, refresh_token }))
}

/// Forgets what has run out, and revokes what rested longest, until one more fits.
fn make_room(
    transaction: &Transaction<'_>,
    account: AccountId,
    per_user_max: u32,
    now_s: u64,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM sessions WHERE account = ?1 AND expires_at_s <= ?2")?
        .execute(params![account.0, stored(now_s)])?;
    let count: u32 = transaction
        .prepare_cached("SELECT count(*) FROM sessions WHERE account = ?1")?
        .query_row([account.0], |row| row.get(0))?;
    let excess = (count + 1).saturating_sub(per_user_max.max(1));
    if excess == 0 {
        return Ok(());
    }
    let longest_rested = transaction
        .prepare_cached(
            "SELECT id FROM sessions WHERE account = ?1
             ORDER BY used_at_s, created_at_s, id LIMIT ?2",
        )?
        .query_map(params![account.0, excess], |row| Ok(SessionId::new(row.get(0)?)))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for session in longest_rested {
        end(transaction, session, now_s)?;
    }
    Ok(())
}

/// The user is known from this address from now on, and from the last few others.
pub(super) fn remember_address(
    transaction: &Transaction<'_>,
    account: AccountId,
    address: &str,
    now_s: u64,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO known_addresses (account, address, used_at_s) VALUES (?1, ?2, ?3)
             ON CONFLICT (account, address) DO UPDATE SET used_at_s = excluded.used_at_s",
        )?
        .execute(params![account.0, address, stored(now_s)])?;
    transaction
        .prepare_cached(
            "DELETE FROM known_addresses WHERE account = ?1 AND address IN (
                 SELECT address FROM known_addresses WHERE account = ?1
                 ORDER BY used_at_s DESC, address = ?2 DESC LIMIT -1 OFFSET ?3)",
        )?
        .execute(params![account.0, address, limits::KNOWN_ADDRESSES_PER_ACCOUNT_MAX])?;
    Ok(())
}

fn is_genuine(connection: &Connection, presented: &Presented) -> rusqlite::Result<bool> {
    let found = connection
        .prepare_cached("SELECT family_key, current_hash FROM sessions WHERE id = ?1")?
        .query_row([presented.session.as_bytes()], |row| {
            Ok((FamilyKey::new(row.get(0)?), row.get(1)?))
        })
        .optional()?;
    Ok(found
        .is_some_and(|(family, current)| presented.standing(&family, &current) != Standing::Forged))
}

/// A session as a refresh token meets it.
struct Met {
    account: Account,
    generation: u32,
    good: bool,
    family: FamilyKey,
    current_hash: [u8; 32],
}

fn trade(
    transaction: &Transaction<'_>,
    presented: &Presented,
    rules: Rules,
    now_s: u64,
) -> rusqlite::Result<Refreshed> {
    let session = presented.session;
    let found = transaction
        .prepare_cached(
            "SELECT a.username, a.subject, a.generation,
                    s.expires_at_s > ?2 AND a.disabled_at_s IS NULL AND a.deleted_at_s IS NULL,
                    s.family_key, s.current_hash
             FROM sessions s JOIN accounts a ON a.id = s.account WHERE s.id = ?1",
        )?
        .query_row(params![session.as_bytes(), stored(now_s)], |row| {
            Ok(Met {
                account: account(row)?,
                generation: row.get(2)?,
                good: row.get(3)?,
                family: FamilyKey::new(row.get(4)?),
                current_hash: row.get(5)?,
            })
        })
        .optional()?;
    let Some(met) = found.filter(|met| met.good) else { return Ok(Refreshed::Refused) };
    match presented.standing(&met.family, &met.current_hash) {
        Standing::Forged => Ok(Refreshed::Refused),
        Standing::Former => {
            end(transaction, session, now_s)?;
            Ok(Refreshed::Replayed { subject: met.account.subject, session })
        }
        Standing::Current => {
            let secret = Secret::new(rand::random());
            transaction
                .prepare_cached(
                    "UPDATE sessions SET current_hash = ?2, used_at_s = ?3, expires_at_s = ?4
                     WHERE id = ?1",
                )?
                .execute(params![
                    session.as_bytes(),
                    secret.hash(),
                    stored(now_s),
                    stored(now_s.saturating_add(rules.rest_max_s)),
                ])?;
            Ok(Refreshed::Rotated(Live {
                account: met.account,
                session,
                generation: met.generation,
                refresh_token: refresh_token::encode(session, &secret, &met.family),
            }))
        }
    }
}

/// Ends a session and says so in the feed. Whether it was not over.
fn end(transaction: &Transaction<'_>, session: SessionId, now_s: u64) -> rusqlite::Result<bool> {
    let ended = transaction
        .prepare_cached("DELETE FROM sessions WHERE id = ?1")?
        .execute([session.as_bytes()])?;
    if ended == 0 {
        return Ok(false);
    }
    revocations::append(transaction, Revoked::Session { session: session.to_string() }, now_s)?;
    Ok(true)
}

/// Ends all sessions of a user by a new generation, and says so in the feed.
pub(super) fn end_all(
    transaction: &Transaction<'_>,
    account: AccountId,
    now_s: u64,
) -> rusqlite::Result<()> {
    let (subject, generation): (String, u32) = transaction
        .prepare_cached(
            "UPDATE accounts SET generation = generation + 1 WHERE id = ?1
             RETURNING subject, generation",
        )?
        .query_row([account.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
    transaction.prepare_cached("DELETE FROM sessions WHERE account = ?1")?.execute([account.0])?;
    revocations::append(transaction, Revoked::User { subject, generation }, now_s)
}

/// Whether the session is one of this user, and not over.
pub(super) fn is_live(
    connection: &Connection,
    session: SessionId,
    account: AccountId,
    now_s: u64,
) -> rusqlite::Result<bool> {
    let found = connection
        .prepare_cached(
            "SELECT 1 FROM sessions WHERE id = ?1 AND account = ?2 AND expires_at_s > ?3",
        )?
        .query_row(params![session.as_bytes(), account.0, stored(now_s)], |_| Ok(()))
        .optional()?;
    Ok(found.is_some())
}

/// An account whose name and subject are the first two columns.
pub(super) fn account(row: &Row<'_>) -> rusqlite::Result<Account> {
    let (username, subject): (String, String) = (row.get(0)?, row.get(1)?);
    Ok(Account { username: Username::of_store(username), subject })
}
