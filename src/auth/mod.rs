//! Accounts and tokens: a password → a session, a session → tokens, a token → who.
//!
//! ```text
//! password ─ admission ─ workers ─▶ session ─▶ access token (minutes) + refresh token (one trade)
//!                                      │ trade: both anew. Replay, logout, new password, disabling:
//!                                      ▼
//!                                  revocations ─▶ hubs, which verify access tokens by themselves
//! ```
//!
//! Passwords are hashed by [`workers`] only, after [`admission`] has counted the try; verifying a
//! token never waits for them. What must hold lives in the [`store`], which several processes may
//! share; what one process counts or remembers by itself may be lost. The hub knows users by their
//! claims, so this module can run in a process of its own.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits;

pub mod admission;
pub mod buckets;
pub mod calibrate;
pub mod common_passwords;
pub mod errors;
pub mod fetch;
mod housekeeping;
pub mod keyring;
pub mod keys;
pub mod password;
pub mod private_file;
pub mod refresh_token;
pub mod revocation;
pub mod service;
pub mod stats;
pub mod store;
pub mod token;
pub mod trust;
pub mod workers;

pub use errors::{
    AdministerError, AuthStartError, ChangePasswordError, FailedError, LogInError, MeError,
    RefreshError, RegisterError, RevokeError, ServiceError,
};
use password::Cost;
pub use service::Auth;
use token::Realm;

/// What an operator may set about accounts and tokens.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The public port of `hubbub auth`. Under `hubbub serve` it is the server's.
    pub listen: SocketAddr,
    /// Health, metrics and administration of `hubbub auth`.
    pub internal_listen: SocketAddr,
    /// Threads that hash passwords, at least.
    pub workers_min: usize,
    /// Threads that hash passwords, at most. 0: half of the cores, at least one.
    pub workers_max: usize,
    /// What one hash costs.
    pub cost: Cost,
    /// Who may make an account.
    pub registration: Registration,
    /// How long an access token is good.
    #[serde(with = "humantime_serde")]
    pub access_token_lifetime: Duration,
    /// How long a session may rest before its refresh token is no longer taken.
    #[serde(with = "humantime_serde")]
    pub refresh_token_lifetime: Duration,
    /// Sessions of one user. Beyond it, the one that rested longest is revoked.
    pub sessions_per_user_max: u32,
    /// Passwords that one address may try at once. IPv6 counts by /64.
    pub attempts_per_address_burst: u32,
    /// Passwords that one address may try, in the long run.
    pub attempts_per_address_per_second: f64,
    /// Wrong passwords that strangers to one user name may try at once.
    pub attempts_per_account_burst: u32,
    /// Wrong passwords that strangers to one user name may try, in the long run.
    pub attempts_per_account_per_minute: f64,
    /// After this time a new key signs. Zero: only when the operator says so.
    #[serde(with = "humantime_serde")]
    pub key_rotation: Duration,
    /// `iss` of the tokens.
    pub issuer: String,
    /// `aud` of the tokens.
    pub audience: String,
}

/// Who may make an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registration {
    /// Everybody.
    #[default]
    Open,
    /// Whoever has an invite code.
    Invite,
    /// Nobody but the operator.
    Closed,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7880)),
            internal_listen: SocketAddr::from(([127, 0, 0, 1], 7881)),
            workers_min: 1,
            workers_max: 0,
            cost: Cost::default(),
            registration: Registration::default(),
            access_token_lifetime: Duration::from_secs(15 * 60),
            refresh_token_lifetime: Duration::from_secs(30 * 24 * 3_600),
            sessions_per_user_max: 50,
            attempts_per_address_burst: 50,
            attempts_per_address_per_second: 1.0,
            attempts_per_account_burst: 10,
            attempts_per_account_per_minute: 1.0,
            key_rotation: Duration::from_secs(30 * 24 * 3_600),
            issuer: "hubbub".to_owned(),
            audience: "hubbub".to_owned(),
        }
    }
}

impl Settings {
    /// Who issues tokens, and for whom.
    #[must_use]
    pub fn realm(&self) -> Realm {
        Realm { issuer: self.issuer.clone(), audience: self.audience.clone() }
    }

    /// The pool of password workers. Who leaves its bound to us gets half of the cores, but what was
    /// asked for at least.
    fn workers(&self) -> workers::Options {
        let half =
            || std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
        let min = self.workers_min.max(1);
        let max = if self.workers_max > 0 { self.workers_max } else { half().max(min) };
        workers::Options { cost: self.cost, min, max }
    }
}

/// A user name: 1 to 32 of `a`–`z`, `0`–`9`, `.`, `_` and `-`. Upper case is folded, so that no two
/// users differ by it alone.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Username(String);

impl Username {
    /// Takes a user name as a person writes it.
    ///
    /// # Errors
    /// When it has another form.
    pub fn parse(text: &str) -> Result<Self, UsernameError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=limits::USERNAME_BYTES_MAX).contains(&text.len());
        if !fits || !text.bytes().all(plain) {
            return Err(UsernameError);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// A name that the store has, which took it in its form.
    fn of_store(name: String) -> Self {
        Self(name)
    }

    /// The name, in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A user name has another form than ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("a user name has 1 to {} of a-z, 0-9, '.', '_' and '-'", limits::USERNAME_BYTES_MAX)]
pub struct UsernameError;

/// A user, as the auth service knows one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// The user's stable name among machines: `sub`. Never reused, never changed.
    pub subject: String,
    /// What the user is called, and logs in with.
    pub username: Username,
}

/// The tokens of a session, just issued.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Whose.
    pub account: Account,
    /// The JWT.
    pub access_token: String,
    /// How long it is good.
    pub lifetime: Duration,
    /// Good for one trade.
    pub refresh_token: String,
}

/// Tokens are not for logs.
impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// What a user may know about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Profile {
    /// Who it is.
    pub account: Account,
    /// When the account was made, in seconds since 1970.
    pub created_at_s: u64,
    /// Sessions that are not revoked and have not run out.
    pub sessions: u32,
}

/// A code that is good for making accounts.
#[derive(Clone, PartialEq, Eq)]
pub struct Invite {
    /// The code. Shown once: the store keeps its hash.
    pub code: String,
    /// Accounts that it is good for.
    pub uses: u32,
    /// Until when, in seconds since 1970.
    pub expires_at_s: u64,
}

impl std::fmt::Debug for Invite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invite").field("uses", &self.uses).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_have_one_form() {
        for (text, taken) in [
            ("anna", true),
            ("a", true),
            ("a.b_c-9", true),
            ("", false),
            ("an na", false),
            ("ännä", false),
            ("anna\n", false),
            ("\u{202e}anna", false),
            ("a/b", false),
        ] {
            assert_eq!(Username::parse(text).is_ok(), taken, "{text:?}");
        }
        assert!(Username::parse(&"x".repeat(32)).is_ok());
        assert!(Username::parse(&"x".repeat(33)).is_err());
    }
}
