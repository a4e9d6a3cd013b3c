//! The auth service: what may be asked of it.
//!
//! The order of checks is that of their price: the form, the address's tries, the user name's tries,
//! room among the workers, the hash. The last word is a transaction of the store, which looks again at
//! what was true before the hash.

use std::{
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jsonwebtoken::jwk::JwkSet;
use thiserror::Error;
use tokio::sync::watch;

use super::{
    Account, AdministerError, AuthStartError, ChangePasswordError, Invite, LogInError, MeError,
    Profile, RefreshError, RegisterError, Registration, RevokeError, ServiceError, Settings,
    Tokens, Username,
    admission::{Admission, Guesser, TooMany, address_of},
    housekeeping::{Housekeeper, Housekeeping},
    keyring::Keyring,
    password::{Password, Verdict},
    refresh_token::{Presented, SessionId},
    revocation,
    stats::Stats,
    store::{
        Store,
        accounts::{Creation, Found, Measure, NewAccount, Vacancy},
        keys::KeyStore,
        sessions::{Live, NewSession, Refreshed, Rules},
    },
    token::Verifier,
    workers::{self, Class, Workers},
};
use crate::{clock, engine::rows::Rows, limits};

/// The auth service.
#[derive(Debug)]
pub struct Auth {
    store: Arc<Store>,
    workers: Arc<Workers>,
    admission: Admission,
    keyring: Arc<Keyring>,
    stats: Arc<Stats>,
    settings: Settings,
    /// Stops when this drops. None in tests, which turn the clock by themselves.
    housekeeper: Option<Housekeeper>,
}

impl Auth {
    /// Opens the store and the keys in the data directory and starts the threads, each of which calls
    /// `on_thread_start` first: to move itself to its cores.
    ///
    /// # Errors
    /// When any of them fails.
    pub fn start(
        settings: Settings,
        data_dir: &Path,
        on_thread_start: impl Fn() + Clone + Send + Sync + 'static,
    ) -> Result<Self, AuthStartError> {
        Self::start_with(settings, data_dir, None, on_thread_start)
    }

    /// As [`Auth::start`], in a cluster: the accounts are these rows, and the data directory has a copy
    /// of them. Not for a thread that drives what the rows wait for.
    ///
    /// # Errors
    /// When any of them fails, or the rows cannot be read.
    pub fn start_replica(
        settings: Settings,
        data_dir: &Path,
        rows: Arc<dyn Rows>,
        on_thread_start: impl Fn() + Clone + Send + Sync + 'static,
    ) -> Result<Self, AuthStartError> {
        Self::start_with(settings, data_dir, Some(rows), on_thread_start)
    }

    fn start_with(
        settings: Settings,
        data_dir: &Path,
        rows: Option<Arc<dyn Rows>>,
        on_thread_start: impl Fn() + Clone + Send + Sync + 'static,
    ) -> Result<Self, AuthStartError> {
        let (mut auth, housekeeping) =
            Self::open(settings, data_dir, rows, on_thread_start.clone(), clock::unix_s())?;
        let housekeeper =
            Housekeeper::start(housekeeping, on_thread_start).map_err(AuthStartError::Thread)?;
        auth.housekeeper = Some(housekeeper);
        Ok(auth)
    }

    /// The service, and what is to be done beside it.
    fn open(
        mut settings: Settings,
        data_dir: &Path,
        rows: Option<Arc<dyn Rows>>,
        on_worker_start: impl Fn() + Send + Sync + 'static,
        now_s: u64,
    ) -> Result<(Self, Housekeeping), AuthStartError> {
        let (store, mut keys) = match rows {
            Some(rows) => {
                let most = limits::SESSIONS_PER_USER_IN_CLUSTER_MAX;
                settings.sessions_per_user_max = settings.sessions_per_user_max.min(most);
                let store = Store::open_replica(data_dir, Arc::clone(&rows))?;
                (store, KeyStore::open_replica(data_dir, rows, now_s)?)
            }
            None => (Store::open(data_dir)?, KeyStore::open(data_dir, now_s)?),
        };
        keys.raise_lifetime(settings.access_token_lifetime)?;
        let store = Arc::new(store);
        let keyring = Arc::new(Keyring::open(&keys, settings.clone(), now_s)?);
        let admission = Admission::new(&settings)?;
        let workers = Workers::start(settings.workers(), on_worker_start)?;
        let stats = Arc::new(Stats::default());
        let housekeeping = Housekeeping {
            keys,
            keyring: Arc::clone(&keyring),
            stats: Arc::clone(&stats),
            key_rotation: settings.key_rotation,
            ticks: 0,
        };
        let auth = Self {
            store,
            workers: Arc::new(workers),
            admission,
            keyring,
            stats,
            settings,
            housekeeper: None,
        };
        Ok((auth, housekeeping))
    }

    /// A verifier of the tokens that this service issues, by the keys of this moment.
    #[must_use]
    pub fn verifier(&self) -> Verifier {
        self.keyring.verifier()
    }

    /// The public keys of this moment.
    #[must_use]
    pub fn jwks(&self) -> JwkSet {
        JwkSet::clone(&self.keyring.published().borrow())
    }

    /// The public keys, and each change of them. The key that signs is the first.
    #[must_use]
    pub fn keys(&self) -> watch::Receiver<Arc<JwkSet>> {
        self.keyring.published()
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// What the password workers have done so far.
    #[must_use]
    pub fn worker_stats(&self) -> Arc<workers::stats::Stats> {
        self.workers.stats()
    }

    /// Who may make an account.
    #[must_use]
    pub fn registration(&self) -> Registration {
        self.settings.registration
    }

    /// How long a session may rest.
    #[must_use]
    pub fn refresh_token_lifetime(&self) -> Duration {
        self.settings.refresh_token_lifetime
    }

    /// Makes an account. What is wrong with name, password or invite costs no hash; an invite loses
    /// a use only to an account that was made.
    ///
    /// # Errors
    /// When nobody may make one here, name, password or invite are not good, the name is taken, the
    /// address has tried too often, or there is no room.
    pub async fn register(
        &self,
        username: &str,
        password: String,
        invite: Option<String>,
        from: IpAddr,
        now_s: u64,
    ) -> Result<Account, RegisterError> {
        let invite = match self.settings.registration {
            Registration::Open => None,
            Registration::Invite => Some(invite.ok_or(RegisterError::InvalidInvite)?),
            Registration::Closed => return Err(RegisterError::Closed),
        };
        let username = Username::parse(username)?;
        let password = Password::for_new(password, username.as_str())?;
        self.admit(from)?;
        self.workers.check_room().map_err(|error| self.count(error))?;
        self.create_account(username, password, invite, Some(address_of(from)), now_s).await
    }

    /// Makes an account as the operator, whoever else may.
    ///
    /// # Errors
    /// When name or password are not allowed, the name is taken, or there is no room.
    pub async fn register_by_operator(
        &self,
        username: &str,
        password: String,
        now_s: u64,
    ) -> Result<Account, RegisterError> {
        let username = Username::parse(username)?;
        let password = Password::for_new(password, username.as_str())?;
        self.create_account(username, password, None, None, now_s).await
    }

    async fn create_account(
        &self,
        username: Username,
        password: Password,
        invite: Option<String>,
        address: Option<String>,
        now_s: u64,
    ) -> Result<Account, RegisterError> {
        // Asked first so that what cannot be costs no hash; the insert decides.
        let vacancy = self.store.vacancy(username.clone(), invite.clone(), now_s).await;
        match vacancy.map_err(|error| self.count(error))? {
            Vacancy::Free => {}
            Vacancy::Taken => return Err(RegisterError::Taken),
            Vacancy::InvalidInvite => return Err(RegisterError::InvalidInvite),
        }
        // The operator waits behind no stranger.
        let class = if address.is_some() { Class::Stranger } else { Class::Known };
        let hashed = self.workers.hash(password, class).await;
        let password_hash = hashed.map_err(|error| self.count(error))?;
        let new = NewAccount { username, password_hash, invite, address };
        let created = self.store.create_account(new, now_s).await;
        match created.map_err(|error| self.count(error))? {
            Creation::Created(account) => {
                self.stats.registrations.increase();
                Ok(account)
            }
            Creation::Taken => Err(RegisterError::Taken),
            Creation::InvalidInvite => Err(RegisterError::InvalidInvite),
        }
    }

    /// Begins a session for whoever knows the password. A user who does not exist costs what the
    /// others cost. One who is disabled gets the same answer as one who does not exist, even with the
    /// right password: who the operator has locked out is told by the operator.
    ///
    /// # Errors
    /// When the credentials are wrong, the address or strangers to the name have tried too often,
    /// or there is no room.
    pub async fn log_in(
        &self,
        username: &str,
        password: String,
        from: IpAddr,
        now_s: u64,
    ) -> Result<Tokens, LogInError> {
        // A password that nobody can have need not be compared, whatever the user name is.
        let password = Password::new(password).map_err(|_| {
            self.stats.logins_refused.increase();
            LogInError::InvalidCredentials
        })?;
        self.admit(from)?;
        self.workers.check_room().map_err(|error| self.count(error))?;
        let (username, address) = (Username::parse(username).ok(), address_of(from));
        let found = self.store.find(username.clone(), address.clone()).await;
        let found = found.map_err(|error| self.count(error))?;
        let (guesser, class) = match &found {
            Some(found) if found.known_here => {
                (Guesser::Known(found.id, from.into()), Class::Known)
            }
            _ => (self.admission.stranger(username.as_ref()), Class::Stranger),
        };
        let verdict = self.compare(password.clone(), found.as_ref(), guesser, class).await?;
        let live = match found.filter(|found| verdict.matches && !found.disabled) {
            Some(found) => {
                let new = NewSession {
                    account: found.id,
                    password_number: found.password_number,
                    address,
                };
                let begun = self.store.begin_session(new, self.rules(), now_s).await;
                let begun = begun.map_err(|error| self.count(error))?;
                if verdict.outdated && begun.is_some() {
                    self.hash_again(password, found);
                }
                begun
            }
            None => None,
        };
        let Some(live) = live else {
            self.stats.logins_refused.increase();
            return Err(LogInError::InvalidCredentials);
        };
        self.stats.logins.increase();
        Ok(self.issue(live, now_s)?)
    }

    /// Takes a password from this address.
    fn admit(&self, from: IpAddr) -> Result<(), TooMany> {
        self.admission
            .take_password(from, Instant::now())
            .inspect_err(|_| self.stats.limited_by_address.increase())
    }

    /// Whether the password is the account's, at the same cost if there is no account. Counts as a
    /// wrong one until it has proven right.
    async fn compare(
        &self,
        password: Password,
        found: Option<&Found>,
        guesser: Guesser,
        class: Class,
    ) -> Result<Verdict, CompareError> {
        self.admission
            .take_guess(guesser, Instant::now())
            .inspect_err(|_| self.stats.limited_by_account.increase())?;
        let hash = found.map(|found| found.password_hash.clone());
        let verdict = self.workers.verify(password, hash, class).await;
        // What was never compared told nothing about the password.
        if !matches!(verdict, Ok(Verdict { matches: false, .. })) {
            self.admission.give_back(guesser);
        }
        Ok(verdict.map_err(|error| self.count(error))?)
    }

    /// Hashes the same password at the cost of today, in the background, if a worker has nothing else
    /// to do. Otherwise a later login does.
    fn hash_again(&self, password: Password, found: Found) {
        let (workers, store) = (Arc::clone(&self.workers), Arc::clone(&self.store));
        let stats = Arc::clone(&self.stats);
        tokio::spawn(async move {
            let Ok(Some(hash)) = workers.rehash(password).await else { return };
            match store.replace_hash(found.id, found.password_hash, hash).await {
                Ok(()) => stats.rehashes.increase(),
                Err(error) => tracing::warn!(%error, "a hash at the new cost was not stored"),
            }
        });
    }

    /// Trades a refresh token for new tokens of the same session. The one traded is used up; who
    /// brings it again ends the session. Of two who bring it at the same time one gets the tokens, and
    /// the other ends the session that they are of: which of them is the thief cannot be known.
    ///
    /// # Errors
    /// When it is not, or no longer, the newest refresh token of a session, the address has tried
    /// too often, or there is no room.
    pub async fn refresh(
        &self,
        refresh_token: &str,
        from: IpAddr,
        now_s: u64,
    ) -> Result<Tokens, RefreshError> {
        self.admission
            .take_refresh(from, Instant::now())
            .inspect_err(|_| self.stats.limited_by_address.increase())?;
        let refused = || {
            self.stats.refreshes_refused.increase();
            RefreshError::InvalidGrant
        };
        let presented = Presented::parse(refresh_token).ok_or_else(refused)?;
        let refreshed = self.store.refresh(presented, self.rules(), now_s).await;
        match refreshed.map_err(|error| self.count(error))? {
            Refreshed::Rotated(live) => {
                self.stats.refreshes.increase();
                Ok(self.issue(live, now_s)?)
            }
            Refreshed::Replayed { subject, session } => {
                self.stats.replays.increase();
                tracing::warn!(
                    target: "hubbub::audit",
                    user = %subject, %session, from = %address_of(from),
                    "refresh token replayed: session revoked"
                );
                Err(RefreshError::InvalidGrant)
            }
            Refreshed::Refused => Err(refused()),
        }
    }

    /// Ends the session of this refresh or access token (RFC 7009), whichever refresh token of the
    /// session it is. A token that is nobody's is no error.
    ///
    /// # Errors
    /// When the address has tried too often, with refresh tokens of any use, or the store fails.
    pub async fn revoke(&self, token: &str, from: IpAddr, now_s: u64) -> Result<(), RevokeError> {
        self.admission
            .take_refresh(from, Instant::now())
            .inspect_err(|_| self.stats.limited_by_address.increase())?;
        let ended = if let Some(presented) = Presented::parse(token) {
            self.store.end_session_by(presented, now_s).await
        } else {
            let claims = self.verifier().verify(token, now_s);
            let session = claims.ok().and_then(|claims| SessionId::parse(&claims.sid?));
            let Some(session) = session else { return Ok(()) };
            self.store.end_session(session, now_s).await
        };
        if ended.map_err(|error| self.count(error))? {
            self.stats.logouts.increase();
        }
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
        let claims = self.verifier().verify(access_token, now_s)?;
        let new = Password::for_new(new, &claims.name)?;
        let current =
            Password::new(current).map_err(|_| ChangePasswordError::InvalidCredentials)?;
        self.admit(from)?;
        let address = address_of(from);
        let found = self.store.find_by_token(claims.clone(), now_s).await;
        let found = found.map_err(|error| self.count(error))?;
        let found = found.ok_or(ChangePasswordError::Forbidden)?;
        // Who holds a token of the user is no stranger.
        let guesser = Guesser::Insider(found.id);
        let verdict = self.compare(current, Some(&found), guesser, Class::Known).await?;
        if !verdict.matches {
            return Err(ChangePasswordError::InvalidCredentials);
        }
        let hashed = self.workers.hash(new, Class::Known).await;
        let password_hash = hashed.map_err(|error| self.count(error))?;
        let session =
            NewSession { account: found.id, password_number: found.password_number, address };
        let changed =
            self.store.change_password(claims, session, password_hash, self.rules(), now_s).await;
        let live = changed.map_err(|error| self.count(error))?;
        let live = live.ok_or(ChangePasswordError::Forbidden)?;
        self.stats.passwords_changed.increase();
        tracing::info!(target: "hubbub::audit", user = %live.account.subject, "password changed");
        Ok(self.issue(live, now_s)?)
    }

    /// Who the user behind this access token is.
    ///
    /// # Errors
    /// When the token is not good, or the user is disabled or gone, or the session is over.
    pub async fn me(&self, access_token: &str, now_s: u64) -> Result<Profile, MeError> {
        let claims = self.verifier().verify(access_token, now_s)?;
        let profile = self.store.profile(claims, now_s).await;
        profile.map_err(|error| self.count(error))?.ok_or(MeError::Forbidden)
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
        let measure = if disabled { Measure::Disable } else { Measure::Enable };
        self.administer(username, measure, now_s).await
    }

    /// Removes a user for good. The user name and the subject are never given out again.
    ///
    /// # Errors
    /// When there is no such user, or the store fails.
    pub async fn delete(&self, username: &str, now_s: u64) -> Result<(), AdministerError> {
        self.administer(username, Measure::Delete, now_s).await
    }

    /// Ends all sessions of a user.
    ///
    /// # Errors
    /// When there is no such user, or the store fails.
    pub async fn log_out(&self, username: &str, now_s: u64) -> Result<(), AdministerError> {
        self.administer(username, Measure::LogOut, now_s).await
    }

    async fn administer(
        &self,
        username: &str,
        measure: Measure,
        now_s: u64,
    ) -> Result<(), AdministerError> {
        let username = Username::parse(username).map_err(|_| AdministerError::UnknownUser)?;
        let done = self.store.administer(username, measure, now_s).await;
        let subject = done.map_err(|error| self.count(error))?;
        let subject = subject.ok_or(AdministerError::UnknownUser)?;
        let what = match measure {
            Measure::Disable => "user disabled",
            Measure::Enable => "user enabled",
            Measure::Delete => "user deleted",
            Measure::LogOut => "user logged out",
        };
        tracing::info!(target: "hubbub::audit", user = %subject, "{what}");
        Ok(())
    }

    /// Makes an invite code that is good for so many accounts, at least one, for so long; at most
    /// [`limits::INVITE_USES_MAX`] and [`limits::INVITE_LIFETIME_MAX`].
    ///
    /// # Errors
    /// When the store fails.
    pub async fn invite(
        &self,
        uses: u32,
        lifetime: Duration,
        now_s: u64,
    ) -> Result<Invite, AdministerError> {
        let uses = uses.clamp(1, limits::INVITE_USES_MAX);
        let lifetime = lifetime.min(limits::INVITE_LIFETIME_MAX);
        let expires_at_s = now_s.saturating_add(lifetime.as_secs());
        let made = self.store.create_invite(uses, expires_at_s).await;
        let invite = made.map_err(|error| self.count(error))?;
        tracing::info!(target: "hubbub::audit", uses, expires_at_s, "invite made");
        Ok(invite)
    }

    /// What was revoked after this number, for hubs. Reads; never waits for news. A number that the
    /// feed has not come to is one of another feed, and gets all of this one.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn revocations(&self, after: u64) -> Result<revocation::Page, ServiceError> {
        self.store.revocations(after).await.map_err(|error| self.count(error))
    }

    fn issue(&self, live: Live, now_s: u64) -> Result<Tokens, ServiceError> {
        let issuer = self.keyring.issuer();
        let session = (live.session.to_string(), live.generation);
        let issued = issuer.issue_in(&live.account, session, rand::random(), now_s);
        let access_token = issued.map_err(|error| self.count(error))?;
        let Live { account, refresh_token, .. } = live;
        Ok(Tokens { account, access_token, lifetime: issuer.lifetime(), refresh_token })
    }

    fn rules(&self) -> Rules {
        Rules {
            rest_max_s: self.settings.refresh_token_lifetime.as_secs(),
            per_user_max: self.settings.sessions_per_user_max,
        }
    }

    /// Counts what the service could not do.
    fn count(&self, error: impl Into<ServiceError>) -> ServiceError {
        let error = error.into();
        match &error {
            ServiceError::Overloaded { .. } => self.stats.overloaded.increase(),
            ServiceError::Failed(_) => self.stats.failed.increase(),
        }
        error
    }
}

/// Why a password was not compared.
#[derive(Debug, Error)]
enum CompareError {
    #[error(transparent)]
    TooMany(#[from] TooMany),
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl From<CompareError> for LogInError {
    fn from(error: CompareError) -> Self {
        match error {
            CompareError::TooMany(error) => error.into(),
            CompareError::Service(error) => error.into(),
        }
    }
}

impl From<CompareError> for ChangePasswordError {
    fn from(error: CompareError) -> Self {
        match error {
            CompareError::TooMany(error) => error.into(),
            CompareError::Service(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
