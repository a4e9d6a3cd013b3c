//! The accounts: who there is, and what the operator does to them.

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{
    AccountId, Store, StoreError, base32, invites,
    sessions::{self, Live, NewSession, Rules},
    stored, unstored, write,
};
use crate::auth::{Account, Profile, Username, refresh_token::SessionId, token::Claims};

/// Random bytes of a subject: 80 bits are 16 characters of base32.
const SUBJECT_RANDOM_BYTES: usize = 10;

/// An account as a password meets it.
#[derive(Clone)]
pub struct Found {
    /// Which.
    pub id: AccountId,
    /// The PHC string of the password.
    pub password_hash: String,
    /// Which of the user's passwords that is.
    pub password_number: u32,
    /// Whether the operator has disabled it.
    pub disabled: bool,
    /// Whether the user has logged in from this address.
    pub known_here: bool,
}

/// Hashes are not for logs.
impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Found").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Whether an account could be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vacancy {
    /// It could.
    Free,
    /// Another account has, or had, the name.
    Taken,
    /// The invite code is not good. Said first, so that nobody without one learns who is here.
    InvalidInvite,
}

/// What became of a new account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Creation {
    /// It was made.
    Created(Account),
    /// Another account has, or had, the name.
    Taken,
    /// The invite code is not good, or no longer.
    InvalidInvite,
}

/// What a new account needs.
pub struct NewAccount {
    /// Its name.
    pub username: Username,
    /// The PHC string of its password.
    pub password_hash: String,
    /// A use of this code is taken.
    pub invite: Option<String>,
    /// From where it is made. None: by the operator.
    pub address: Option<String>,
}

impl std::fmt::Debug for NewAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewAccount").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What the operator does to a user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measure {
    /// No login, and no session.
    Disable,
    /// Login again.
    Enable,
    /// Gone for good; the name and the subject stay taken.
    Delete,
    /// No session.
    LogOut,
}

impl Store {
    /// Whether an account could be made under this name. The transaction that makes it decides.
    ///
    /// # Errors
    /// When the store cannot answer now.
    pub async fn vacancy(
        &self,
        username: Username,
        invite: Option<String>,
        now_s: u64,
    ) -> Result<Vacancy, StoreError> {
        self.ask_while_awaited(move |connection| {
            if let Some(code) = invite
                && !invites::is_good(connection, &code, now_s)?
            {
                return Ok(Vacancy::InvalidInvite);
            }
            let found = connection
                .prepare_cached("SELECT 1 FROM accounts WHERE username = ?1")?
                .query_row([username.as_str()], |_| Ok(()))
                .optional()?;
            Ok(if found.is_some() { Vacancy::Taken } else { Vacancy::Free })
        })
        .await
    }

    /// Creates an account under a name that nobody has or had, and draws its subject.
    ///
    /// # Errors
    /// When the store cannot take it now.
    pub async fn create_account(
        &self,
        new: NewAccount,
        now_s: u64,
    ) -> Result<Creation, StoreError> {
        self.ask(move |connection| {
            write(connection, |transaction| Ok(create(transaction, &new, now_s)?))
        })
        .await
    }

    /// Finds the account that a password is for. A name that no account can have, or one that is
    /// deleted, is looked for all the same; and where there is none, as much is read of nobody's row.
    /// So all take the same way, to the microsecond.
    ///
    /// # Errors
    /// When the store cannot answer now.
    pub async fn find(
        &self,
        username: Option<Username>,
        address: String,
    ) -> Result<Option<Found>, StoreError> {
        self.ask_while_awaited(move |connection| {
            let username = username.as_ref().map_or("", Username::as_str);
            let (found, is_gone) = connection
                .prepare_cached(
                    "SELECT a.id, a.password_hash, a.password_number, a.disabled_at_s IS NOT NULL,
                            EXISTS (SELECT 1 FROM known_addresses k
                                    WHERE k.account = a.id AND k.address = ?2),
                            a.deleted_at_s IS NOT NULL
                     FROM accounts a
                     WHERE a.id = coalesce((SELECT id FROM accounts WHERE username = ?1), 0)",
                )?
                .query_row(params![username, address], |row| {
                    let found = Found {
                        id: AccountId(row.get(0)?),
                        password_hash: row.get(1)?,
                        password_number: row.get(2)?,
                        disabled: row.get(3)?,
                        known_here: row.get(4)?,
                    };
                    Ok((found, row.get(5)?))
                })?;
            let is_gone: bool = is_gone;
            Ok((!is_gone).then_some(found))
        })
        .await
    }

    /// Finds the account behind a good access token, unless the session is over or the account is
    /// disabled or gone.
    ///
    /// # Errors
    /// When the store cannot answer now.
    pub async fn find_by_token(
        &self,
        claims: Claims,
        now_s: u64,
    ) -> Result<Option<Found>, StoreError> {
        self.ask_while_awaited(move |connection| {
            let Some(id) = behind(connection, &claims, now_s)? else { return Ok(None) };
            let found = connection
                .prepare_cached(
                    "SELECT password_hash, password_number FROM accounts WHERE id = ?1",
                )?
                .query_row([id.0], |row| {
                    Ok(Found {
                        id,
                        password_hash: row.get(0)?,
                        password_number: row.get(1)?,
                        disabled: false,
                        known_here: true,
                    })
                })?;
            Ok(Some(found))
        })
        .await
    }

    /// What the user behind a good access token may know about itself.
    ///
    /// # Errors
    /// When the store cannot answer now.
    pub async fn profile(&self, claims: Claims, now_s: u64) -> Result<Option<Profile>, StoreError> {
        self.ask_while_awaited(move |connection| {
            let Some(id) = behind(connection, &claims, now_s)? else { return Ok(None) };
            let profile = connection
                .prepare_cached(
                    "SELECT username, subject, created_at_s,
                            (SELECT count(*) FROM sessions
                             WHERE account = ?1 AND expires_at_s > ?2)
                     FROM accounts WHERE id = ?1",
                )?
                .query_row(params![id.0, stored(now_s)], |row| {
                    Ok(Profile {
                        account: sessions::account(row)?,
                        created_at_s: unstored(row.get(2)?),
                        sessions: row.get(3)?,
                    })
                })?;
            Ok(Some(profile))
        })
        .await
    }

    /// Replaces a password, ends all sessions of the user, and begins a new one. None, and no
    /// change, when the session or the password is no longer the one that was verified.
    ///
    /// # Errors
    /// When the store cannot take it now.
    pub async fn change_password(
        &self,
        claims: Claims,
        new: NewSession,
        password_hash: String,
        rules: Rules,
        now_s: u64,
    ) -> Result<Option<Live>, StoreError> {
        self.ask(move |connection| {
            write(connection, |transaction| {
                if behind(transaction, &claims, now_s)? != Some(new.account) {
                    return Ok(None);
                }
                let replaced: Option<u32> = transaction
                    .prepare_cached(
                        "UPDATE accounts
                         SET password_hash = ?3, password_number = password_number + 1
                         WHERE id = ?1 AND password_number = ?2 RETURNING password_number",
                    )?
                    .query_row(params![new.account.0, new.password_number, password_hash], |row| {
                        row.get(0)
                    })
                    .optional()?;
                let Some(password_number) = replaced else { return Ok(None) };
                sessions::end_all(transaction, new.account, now_s)?;
                let new = NewSession { password_number, ..new.clone() };
                Ok(sessions::begin(transaction, &new, rules, now_s)?)
            })
        })
        .await
    }

    /// Stores the same password's hash at another cost, unless somebody was faster. Sessions go on.
    ///
    /// # Errors
    /// When the store cannot take it now.
    pub async fn replace_hash(
        &self,
        account: AccountId,
        old: String,
        new: String,
    ) -> Result<(), StoreError> {
        self.ask(move |connection| {
            write(connection, |transaction| {
                transaction
                    .prepare_cached(
                        "UPDATE accounts SET password_hash = ?3
                         WHERE id = ?1 AND password_hash = ?2 AND deleted_at_s IS NULL",
                    )?
                    .execute(params![account.0, old, new])?;
                Ok(())
            })
        })
        .await
    }

    /// Carries out what the operator wants done to a user. The user's subject; none when there is no
    /// such user.
    ///
    /// # Errors
    /// When the store cannot take it now.
    pub async fn administer(
        &self,
        username: Username,
        measure: Measure,
        now_s: u64,
    ) -> Result<Option<String>, StoreError> {
        self.ask(move |connection| {
            write(connection, |transaction| Ok(administer(transaction, &username, measure, now_s)?))
        })
        .await
    }
}

fn create(
    transaction: &Transaction<'_>,
    new: &NewAccount,
    now_s: u64,
) -> rusqlite::Result<Creation> {
    if let Some(code) = &new.invite
        && !invites::is_good(transaction, code, now_s)?
    {
        return Ok(Creation::InvalidInvite);
    }
    let subject = base32(&rand::random::<[u8; SUBJECT_RANDOM_BYTES]>());
    let created = transaction
        .prepare_cached(
            "INSERT INTO accounts (username, subject, password_hash, created_at_s)
             VALUES (?1, ?2, ?3, ?4) ON CONFLICT (username) DO NOTHING",
        )?
        .execute(params![new.username.as_str(), subject, new.password_hash, stored(now_s)])?;
    if created == 0 {
        return Ok(Creation::Taken);
    }
    let id = AccountId(transaction.last_insert_rowid());
    if let Some(code) = &new.invite {
        invites::take(transaction, code, now_s)?;
    }
    if let Some(address) = &new.address {
        sessions::remember_address(transaction, id, address, now_s)?;
    }
    Ok(Creation::Created(Account { subject, username: new.username.clone() }))
}

/// The account behind the claims of a token that verifies, unless what they stand on is gone. Here the
/// session's row says all that generations say to hubs: a new one leaves no row of the old. A token
/// of a hubbub that had no sessions has no `sid`; it is as good as its user until it runs out.
fn behind(
    connection: &Connection,
    claims: &Claims,
    now_s: u64,
) -> rusqlite::Result<Option<AccountId>> {
    let found = connection
        .prepare_cached(
            "SELECT id FROM accounts
             WHERE subject = ?1 AND disabled_at_s IS NULL AND deleted_at_s IS NULL",
        )?
        .query_row([&claims.sub], |row| Ok(AccountId(row.get(0)?)))
        .optional()?;
    let Some(account) = found else { return Ok(None) };
    let Some(session) = &claims.sid else { return Ok(Some(account)) };
    let Some(session) = SessionId::parse(session) else { return Ok(None) };
    let live = sessions::is_live(connection, session, account, now_s)?;
    Ok(live.then_some(account))
}

fn administer(
    transaction: &Transaction<'_>,
    username: &Username,
    measure: Measure,
    now_s: u64,
) -> rusqlite::Result<Option<String>> {
    let found = transaction
        .prepare_cached(
            "SELECT id, subject FROM accounts WHERE username = ?1 AND deleted_at_s IS NULL",
        )?
        .query_row([username.as_str()], |row| Ok((AccountId(row.get(0)?), row.get(1)?)))
        .optional()?;
    let Some((account, subject)) = found else { return Ok(None) };
    let set = |change: &str| {
        let sql = format!("UPDATE accounts SET {change} WHERE id = ?1 AND ?2 IS NOT NULL");
        transaction.prepare_cached(&sql)?.execute(params![account.0, stored(now_s)])
    };
    match measure {
        Measure::Disable => {
            // The time of the first stays.
            set("disabled_at_s = coalesce(disabled_at_s, ?2)")?;
        }
        Measure::Enable => {
            set("disabled_at_s = NULL")?;
        }
        Measure::Delete => {
            set("deleted_at_s = ?2, password_hash = ''")?;
            transaction
                .prepare_cached("DELETE FROM known_addresses WHERE account = ?1")?
                .execute([account.0])?;
        }
        Measure::LogOut => {}
    }
    if measure != Measure::Enable {
        sessions::end_all(transaction, account, now_s)?;
    }
    Ok(Some(subject))
}
