//! Accounts and tokens: a password → a token, a token → who.
//!
//! Passwords are hashed by [`workers`] only; verifying a token never waits for them. The hub knows
//! users by their claims, so this module can run in a process of its own.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use jsonwebtoken::jwk::JwkSet;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::watch;

use crate::limits;

pub mod accounts;
pub mod keys;
pub mod password;
pub mod private_file;
pub mod revocation;
pub mod token;
pub mod trust;
pub mod workers;

use accounts::{Accounts, AccountsError, OpenError};
use keys::{KeyError, TokenKey};
use password::{Cost, Password, PasswordRuleError};
use token::{Issuer, Realm, TokenError, Verifier};
use workers::{StartError, WorkError, Workers};

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
            key_rotation: Duration::from_secs(90 * 24 * 3_600),
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

    fn workers_max(&self) -> usize {
        if self.workers_max > 0 {
            return self.workers_max;
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

/// The tokens of a session, just issued.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens {
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
    /// Accounts are made by the operator only.
    #[error("nobody may make an account here")]
    Closed,
    /// An invite code is needed, and this is none that is good.
    #[error("the invite code is not good")]
    InvalidInvite,
    /// Too many tries from this address.
    #[error("too many tries")]
    RateLimited {
        /// When a retry may pass.
        retry_after: Duration,
    },
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
    /// Too many tries, from this address or for this user name.
    #[error("too many tries")]
    RateLimited {
        /// When a retry may pass.
        retry_after: Duration,
    },
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

/// Why a refresh token got nothing.
#[derive(Debug, Error)]
pub enum RefreshError {
    /// It is nobody's, used up, too old, or of a session or user that is revoked. One error for all.
    #[error("the refresh token is not good")]
    InvalidGrant,
    /// Too many tries from this address.
    #[error("too many tries")]
    RateLimited {
        /// When a retry may pass.
        retry_after: Duration,
    },
    /// The store cannot take it now, or failed.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// The service could do nothing about a request that may be right.
#[derive(Debug, Error)]
pub enum ServiceError {
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

/// Why the password is as it was.
#[derive(Debug, Error)]
pub enum ChangePasswordError {
    /// The access token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The current password.
    #[error("the current password is wrong")]
    InvalidCredentials,
    /// The form of the new password.
    #[error(transparent)]
    Password(#[from] PasswordRuleError),
    /// The user is disabled or gone, or the session is revoked.
    #[error("the session is revoked")]
    Forbidden,
    /// Too many tries.
    #[error("too many tries")]
    RateLimited {
        /// When a retry may pass.
        retry_after: Duration,
    },
    /// No room, or a failure.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// Why a user is not told about itself.
#[derive(Debug, Error)]
pub enum MeError {
    /// The access token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The user is disabled or gone, or the session is revoked.
    #[error("the session is revoked")]
    Forbidden,
    /// No room, or a failure.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// Why the operator's wish was not carried out.
#[derive(Debug, Error)]
pub enum AdministerError {
    /// There is no such user.
    #[error("there is no such user")]
    UnknownUser,
    /// No room, or a failure.
    #[error(transparent)]
    Service(#[from] ServiceError),
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
        on_worker_start: impl Fn() + Clone + Send + 'static,
    ) -> Result<Self, AuthStartError> {
        let key = TokenKey::load_or_create(data_dir)?;
        let accounts = Accounts::open(data_dir)?;
        let signing = key.encoding_key().ok_or(AuthStartError::KeyUnusable)?;
        let key_id = key.key_id().to_owned();
        let issuer = Issuer::new(signing, key_id, settings.realm(), settings.access_token_lifetime);
        let workers = Workers::start(settings.cost, settings.workers_max(), on_worker_start)?;
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

    /// Who may make an account.
    #[must_use]
    pub fn registration(&self) -> Registration {
        self.settings.registration
    }

    /// Makes an account.
    ///
    /// # Errors
    /// When name or password are not allowed, the name is taken, or there is no room.
    pub async fn register(
        &self,
        username: &str,
        password: String,
        invite: Option<String>,
        from: IpAddr,
        now_s: u64,
    ) -> Result<Account, RegisterError> {
        let _ = (invite, from, now_s);
        let username = Username::parse(username)?;
        let password = Password::new(password)?;
        // Asked first so that a taken name costs no hash; the insert decides.
        if self.accounts.find(username.clone()).await?.is_some() {
            return Err(RegisterError::Taken);
        }
        let hash = self.workers.hash(password).await?;
        Ok(self.accounts.create(username, hash).await?)
    }

    /// Makes an account for the operator, whoever may make one otherwise.
    ///
    /// # Errors
    /// When name or password are not allowed, the name is taken, or there is no room.
    pub async fn create(
        &self,
        username: &str,
        password: String,
        now_s: u64,
    ) -> Result<Account, RegisterError> {
        let _ = now_s;
        let username = Username::parse(username)?;
        let password = Password::new(password)?;
        let hash = self.workers.hash(password).await?;
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
        from: IpAddr,
        now_s: u64,
    ) -> Result<Tokens, LogInError> {
        let _ = from;
        // A password that nobody can have need not be compared, whatever the user name is.
        let password = Password::new(password).map_err(|_| LogInError::InvalidCredentials)?;
        let stored = match Username::parse(username) {
            Ok(username) => self.accounts.find(username).await?,
            Err(UsernameError) => None,
        };
        let hash = stored.as_ref().map(|stored| stored.password_hash.clone());
        let verified = self.workers.verify(password, hash).await?;
        let (true, Some(stored)) = (verified, stored) else {
            return Err(LogInError::InvalidCredentials);
        };
        let token = self
            .issuer
            .issue(&stored.account, rand::random(), now_s)
            .map_err(|error| LogInError::Failed(error.into()))?;
        let refresh_token = String::new();
        Ok(Tokens { access_token: token, lifetime: self.issuer.lifetime(), refresh_token })
    }

    /// Trades a refresh token for new tokens of the same session. The one traded is used up; who
    /// brings it again ends the session.
    ///
    /// # Errors
    /// When it is not, or no longer, the newest refresh token of a session.
    pub async fn refresh(
        &self,
        refresh_token: &str,
        from: IpAddr,
        now_s: u64,
    ) -> Result<Tokens, RefreshError> {
        let _ = (refresh_token, from, now_s);
        Err(RefreshError::InvalidGrant)
    }

    /// Ends the session of this refresh or access token (RFC 7009). A token that is nobody's is no
    /// error.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn revoke(&self, token: &str, now_s: u64) -> Result<(), ServiceError> {
        let _ = (token, now_s);
        Ok(())
    }

    /// Sets a new password, which ends all sessions of the user, and begins a new one.
    ///
    /// # Errors
    /// When the token or the current password is wrong, the new one is not allowed, or there is no
    /// room.
    pub async fn change_password(
        &self,
        access_token: &str,
        current: String,
        new: String,
        from: IpAddr,
        now_s: u64,
    ) -> Result<Tokens, ChangePasswordError> {
        let _ = (access_token, current, new, from, now_s);
        Err(ChangePasswordError::InvalidCredentials)
    }

    /// Who the user behind this access token is.
    ///
    /// # Errors
    /// When the token is not good, or the user is disabled or gone.
    pub async fn me(&self, access_token: &str, now_s: u64) -> Result<Profile, MeError> {
        let claims = self.verifier().verify(access_token, now_s)?;
        let _ = claims;
        Err(MeError::Forbidden)
    }

    /// Takes from a user the right to log in, and revokes what is there, or gives it back.
    ///
    /// # Errors
    /// When there is no such user, or the store fails.
    pub async fn set_disabled(
        &self,
        username: &str,
        disabled: bool,
        now_s: u64,
    ) -> Result<(), AdministerError> {
        let _ = (username, disabled, now_s);
        Err(AdministerError::UnknownUser)
    }

    /// Removes a user for good. The user name and the subject are never given out again.
    ///
    /// # Errors
    /// When there is no such user, or the store fails.
    pub async fn delete(&self, username: &str, now_s: u64) -> Result<(), AdministerError> {
        let _ = (username, now_s);
        Err(AdministerError::UnknownUser)
    }

    /// Ends all sessions of a user.
    ///
    /// # Errors
    /// When there is no such user, or the store fails.
    pub async fn log_out(&self, username: &str, now_s: u64) -> Result<(), AdministerError> {
        let _ = (username, now_s);
        Err(AdministerError::UnknownUser)
    }

    /// Makes an invite code that is good for so many accounts, until then.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn invite(
        &self,
        uses: u32,
        lifetime: Duration,
        now_s: u64,
    ) -> Result<Invite, AdministerError> {
        let _ = (uses, lifetime, now_s);
        Err(AdministerError::UnknownUser)
    }

    /// What was revoked after this number, for hubs. Reads; never waits for news.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn revocations(&self, after: u64) -> Result<revocation::Page, ServiceError> {
        Ok(revocation::Page { revocations: Vec::new(), last: after })
    }

    /// The public keys, and each change of them.
    #[must_use]
    pub fn keys(&self) -> watch::Receiver<Arc<JwkSet>> {
        let (_, keys) = watch::channel(Arc::new(self.jwks()));
        keys
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
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn settings() -> Settings {
        let cost = Cost { memory: ByteSize::kib(64), passes: 1, lanes: 1 };
        Settings { workers_max: 1, cost, ..Settings::default() }
    }

    #[tokio::test]
    async fn who_registered_can_log_in_and_the_token_says_who() {
        let dir = tempfile::tempdir().unwrap();
        let auth = Auth::start(settings(), dir.path(), || {}).unwrap();
        let account =
            auth.register("Anna", "correct horse".to_owned(), None, HERE, NOW_S).await.unwrap();
        let issued = auth.log_in("ANNA", "correct horse".to_owned(), HERE, NOW_S).await.unwrap();
        let claims = auth.verifier().verify(&issued.access_token, NOW_S).unwrap();
        assert_eq!(claims.sub, account.subject);
        assert_eq!(claims.name, "anna");
        assert!(!format!("{issued:?}").contains(&issued.access_token));
    }

    #[tokio::test]
    async fn tokens_outlive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let auth = Auth::start(settings(), dir.path(), || {}).unwrap();
        auth.register("anna", "correct horse".to_owned(), None, HERE, NOW_S).await.unwrap();
        let issued = auth.log_in("anna", "correct horse".to_owned(), HERE, NOW_S).await.unwrap();
        drop(auth);
        let auth = Auth::start(settings(), dir.path(), || {}).unwrap();
        assert!(auth.verifier().verify(&issued.access_token, NOW_S).is_ok());
    }

    #[tokio::test]
    async fn an_unknown_user_and_a_wrong_password_are_one_error() {
        let dir = tempfile::tempdir().unwrap();
        let auth = Auth::start(settings(), dir.path(), || {}).unwrap();
        auth.register("anna", "correct horse".to_owned(), None, HERE, NOW_S).await.unwrap();
        for (username, password) in [
            ("anna", "wrong horse!"),
            ("bert", "correct horse"),
            ("no such form", "correct horse"),
            ("anna", "short"),
        ] {
            let refused = auth.log_in(username, password.to_owned(), HERE, NOW_S).await;
            assert!(matches!(refused, Err(LogInError::InvalidCredentials)), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn a_taken_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let auth = Auth::start(settings(), dir.path(), || {}).unwrap();
        auth.register("anna", "correct horse".to_owned(), None, HERE, NOW_S).await.unwrap();
        let again = auth.register("Anna", "another horse".to_owned(), None, HERE, NOW_S).await;
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
