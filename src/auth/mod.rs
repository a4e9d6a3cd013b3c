//! Accounts and tokens: a password → a token, a token → who.
//!
//! Passwords are hashed by [`workers`] only; verifying a token never waits for them. The hub knows
//! users by their claims, so this module can run in a process of its own.

use std::{path::Path, sync::Arc, time::Duration};

use jsonwebtoken::jwk::JwkSet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits;

pub mod accounts;
pub mod buckets;
pub mod calibrate;
pub mod common_passwords;
pub mod keys;
pub mod password;
pub mod token;
pub mod workers;

use accounts::{Accounts, AccountsError, OpenError};
use keys::{KeyError, TokenKey};
use password::{Cost, Password, PasswordRuleError};
use token::{Issuer, Realm, Verifier};
use workers::{Class, Options, StartError, WorkError, Workers};

/// What an operator may set about accounts and tokens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Threads that hash passwords. 0: half of the cores, at least one.
    pub workers: usize,
    /// What one hash costs.
    pub cost: Cost,
    /// How long an access token is good. An hour, as long as there are no refresh tokens: less would
    /// send people back to their password, and with it the server back to argon2.
    #[serde(with = "humantime_serde")]
    pub token_lifetime: Duration,
    /// Whether anybody may make an account.
    pub open_registration: bool,
    /// `iss` of the tokens.
    pub issuer: String,
    /// `aud` of the tokens.
    pub audience: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: 0,
            cost: Cost::default(),
            token_lifetime: Duration::from_secs(60 * 60),
            open_registration: true,
            issuer: "hubbub".to_owned(),
            audience: "hubbub".to_owned(),
        }
    }
}

impl Settings {
    fn realm(&self) -> Realm {
        Realm { issuer: self.issuer.clone(), audience: self.audience.clone() }
    }

    fn workers(&self) -> usize {
        if self.workers > 0 {
            return self.workers;
        }
        std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
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

/// The auth service.
#[derive(Debug)]
pub struct Auth {
    accounts: Accounts,
    workers: Workers,
    issuer: Issuer,
    key: TokenKey,
    settings: Settings,
}

/// An access token that was just issued.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken {
    /// The JWT.
    pub token: String,
    /// How long it is good.
    pub lifetime: Duration,
}

/// Tokens are not for logs.
impl std::fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessToken").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// Why the service could not start.
#[derive(Debug, Error)]
pub enum AuthStartError {
    /// The account store.
    #[error(transparent)]
    Accounts(#[from] OpenError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The password workers.
    #[error(transparent)]
    Workers(#[from] StartError),
    /// The key cannot be written in the form that the issuer needs.
    #[error("the token key cannot sign")]
    KeyUnusable,
}

/// Why no account was made.
#[derive(Debug, Error)]
pub enum RegisterError {
    /// The form of the user name.
    #[error(transparent)]
    Username(#[from] UsernameError),
    /// The form of the password.
    #[error(transparent)]
    Password(#[from] PasswordRuleError),
    /// Another account has the user name.
    #[error("the user name is taken")]
    Taken,
    /// There is no room for it now.
    #[error("the auth service is overloaded")]
    Overloaded {
        /// When a retry may pass.
        retry_after: Duration,
    },
    /// The service failed.
    #[error("the auth service failed")]
    Failed(#[source] FailedError),
}

/// Why no token was issued.
#[derive(Debug, Error)]
pub enum LogInError {
    /// No such user, or another password. Deliberately one error.
    #[error("the user name or the password is wrong")]
    InvalidCredentials,
    /// There is no room for it now.
    #[error("the auth service is overloaded")]
    Overloaded {
        /// When a retry may pass.
        retry_after: Duration,
    },
    /// The service failed.
    #[error("the auth service failed")]
    Failed(#[source] FailedError),
}

/// A failure on our side.
#[derive(Debug, Error)]
pub enum FailedError {
    /// Of the account store.
    #[error(transparent)]
    Accounts(AccountsError),
    /// Of the password workers.
    #[error(transparent)]
    Work(WorkError),
    /// Of the issuer.
    #[error(transparent)]
    Issue(#[from] token::IssueError),
}

impl Auth {
    /// Opens the store and the key in the data directory and starts the workers, each of which calls
    /// `on_worker_start` first: to move itself to its cores.
    ///
    /// # Errors
    /// When any of them fails.
    pub fn start(
        settings: Settings,
        data_dir: &Path,
        on_worker_start: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, AuthStartError> {
        let key = TokenKey::load_or_create(data_dir)?;
        let accounts = Accounts::open(data_dir)?;
        let signing = key.encoding_key().ok_or(AuthStartError::KeyUnusable)?;
        let key_id = key.key_id().to_owned();
        let issuer = Issuer::new(signing, key_id, settings.realm(), settings.token_lifetime);
        let count = settings.workers();
        let options = Options { cost: settings.cost, min: count, max: count };
        let workers = Workers::start(options, on_worker_start)?;
        Ok(Self { accounts, workers, issuer, key, settings })
    }

    /// A verifier of the tokens that this service issues.
    #[must_use]
    pub fn verifier(&self) -> Verifier {
        let key = (self.key.key_id().to_owned(), self.key.decoding_key());
        Verifier::new([key], self.settings.realm())
    }

    /// The public keys.
    #[must_use]
    pub fn jwks(&self) -> JwkSet {
        self.key.jwks()
    }

    /// What the password workers count.
    #[must_use]
    pub fn worker_stats(&self) -> Arc<workers::stats::Stats> {
        self.workers.stats()
    }

    /// Whether anybody may make an account.
    #[must_use]
    pub fn open_registration(&self) -> bool {
        self.settings.open_registration
    }

    /// Makes an account.
    ///
    /// # Errors
    /// When name or password are not allowed, the name is taken, or there is no room.
    pub async fn register(
        &self,
        username: &str,
        password: String,
    ) -> Result<Account, RegisterError> {
        let username = Username::parse(username)?;
        let password = Password::for_new(password, username.as_str())?;
        // Asked first so that a taken name costs no hash; the insert decides.
        if self.accounts.find(username.clone()).await?.is_some() {
            return Err(RegisterError::Taken);
        }
        let hash = self.workers.hash(password, Class::Stranger).await?;
        Ok(self.accounts.create(username, hash).await?)
    }

    /// Issues a token to whoever knows the password. A user who does not exist costs what the others
    /// cost.
    ///
    /// # Errors
    /// When the password is wrong or there is no room.
    pub async fn log_in(
        &self,
        username: &str,
        password: String,
        now_s: u64,
    ) -> Result<AccessToken, LogInError> {
        // A password that nobody can have need not be compared, whatever the user name is.
        let password = Password::new(password).map_err(|_| LogInError::InvalidCredentials)?;
        let stored = match Username::parse(username) {
            Ok(username) => self.accounts.find(username).await?,
            Err(UsernameError) => None,
        };
        let hash = stored.as_ref().map(|stored| stored.password_hash.clone());
        let verdict = self.workers.verify(password, hash, Class::Stranger).await?;
        let (true, Some(stored)) = (verdict.matches, stored) else {
            return Err(LogInError::InvalidCredentials);
        };
        let token = self
            .issuer
            .issue(&stored.account, rand::random(), now_s)
            .map_err(|error| LogInError::Failed(error.into()))?;
        Ok(AccessToken { token, lifetime: self.issuer.lifetime() })
    }
}

impl From<AccountsError> for RegisterError {
    fn from(error: AccountsError) -> Self {
        match error {
            AccountsError::Taken => Self::Taken,
            AccountsError::Busy => Self::Overloaded { retry_after: limits::AUTH_WAIT_MAX },
            error @ (AccountsError::Stopped | AccountsError::Sqlite(_)) => {
                Self::Failed(FailedError::Accounts(error))
            }
        }
    }
}

impl From<WorkError> for RegisterError {
    fn from(error: WorkError) -> Self {
        match error {
            WorkError::Overloaded { retry_after } => Self::Overloaded { retry_after },
            error @ (WorkError::Stopped | WorkError::Hash(_)) => {
                Self::Failed(FailedError::Work(error))
            }
        }
    }
}

impl From<AccountsError> for LogInError {
    fn from(error: AccountsError) -> Self {
        match error {
            AccountsError::Busy => Self::Overloaded { retry_after: limits::AUTH_WAIT_MAX },
            error @ (AccountsError::Taken | AccountsError::Stopped | AccountsError::Sqlite(_)) => {
                Self::Failed(FailedError::Accounts(error))
            }
        }
    }
}

impl From<WorkError> for LogInError {
    fn from(error: WorkError) -> Self {
        match error {
            WorkError::Overloaded { retry_after } => Self::Overloaded { retry_after },
            error @ (WorkError::Stopped | WorkError::Hash(_)) => {
                Self::Failed(FailedError::Work(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;

    use super::*;

    const NOW_S: u64 = 1_800_000_000;

    fn settings() -> Settings {
        let cost = Cost { memory: ByteSize::kib(64), passes: 1, lanes: 1 };
        Settings { workers: 1, cost, ..Settings::default() }
    }

    #[tokio::test]
    async fn who_registered_can_log_in_and_the_token_says_who() {
        let dir = tempfile::tempdir().unwrap();
        let auth = Auth::start(settings(), dir.path(), || {}).unwrap();
        let account = auth.register("Anna", "correct horse".to_owned()).await.unwrap();
        let issued = auth.log_in("ANNA", "correct horse".to_owned(), NOW_S).await.unwrap();
        let claims = auth.verifier().verify(&issued.token, NOW_S).unwrap();
        assert_eq!(claims.sub, account.subject);
        assert_eq!(claims.name, "anna");
        assert!(!format!("{issued:?}").contains(&issued.token));
    }

    #[tokio::test]
    async fn tokens_outlive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let auth = Auth::start(settings(), dir.path(), || {}).unwrap();
        auth.register("anna", "correct horse".to_owned()).await.unwrap();
        let issued = auth.log_in("anna", "correct horse".to_owned(), NOW_S).await.unwrap();
        drop(auth);
        let auth = Auth::start(settings(), dir.path(), || {}).unwrap();
        assert!(auth.verifier().verify(&issued.token, NOW_S).is_ok());
    }

    #[tokio::test]
    async fn an_unknown_user_and_a_wrong_password_are_one_error() {
        let dir = tempfile::tempdir().unwrap();
        let auth = Auth::start(settings(), dir.path(), || {}).unwrap();
        auth.register("anna", "correct horse".to_owned()).await.unwrap();
        for (username, password) in [
            ("anna", "wrong horse!"),
            ("bert", "correct horse"),
            ("no such form", "correct horse"),
            ("anna", "short"),
        ] {
            let refused = auth.log_in(username, password.to_owned(), NOW_S).await;
            assert!(matches!(refused, Err(LogInError::InvalidCredentials)), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn a_taken_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let auth = Auth::start(settings(), dir.path(), || {}).unwrap();
        auth.register("anna", "correct horse".to_owned()).await.unwrap();
        let again = auth.register("Anna", "another horse".to_owned()).await;
        assert!(matches!(again, Err(RegisterError::Taken)), "{again:?}");
    }

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
