//! Whose tokens are taken: the issuers, their keys, and what was verified before.
//!
//! An issuer's keys come from this process, from a file, or from the JWKS document behind a URL of
//! the configuration, never from a token. Verified tokens are remembered by their hash until they
//! run out, so a client that comes back costs no signature.

use std::{path::PathBuf, sync::Arc};

use hyper::Uri;
use jsonwebtoken::{Algorithm, jwk::JwkSet};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::{runtime::Handle, sync::watch};

pub use self::file::KeyFileError;
use self::{
    cache::{Cache, Entry},
    issuer::{Issuer, Keys, Kind, Source},
    remote::Remote,
    stats::{Known, Stats},
};
pub use super::token::Verified;
use super::{
    fetch::{self, Fetcher},
    token::{Realm, Reason, TokenError, key::KeySet, outside::Rules, verify::Unverified},
};
use crate::limits::{JWKS_BYTES_MAX, JWKS_TIMEOUT, TOKEN_BYTES_MAX};

mod cache;
mod file;
mod issuer;
mod remote;
mod rules;
pub mod stats;

/// What an operator may set about whose tokens a hub takes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The JWKS document of the auth service. Empty under `hubbub serve`, which has it in itself.
    pub jwks_url: String,
    /// Or a file with its public key, as PEM or JWKS.
    pub key_file: PathBuf,
    /// Where the auth service says what it revoked. Empty: beside `jwks_url`.
    pub revocations_url: String,
    /// Other issuers, as `[[trust.issuers]]`.
    pub issuers: Vec<OutsideIssuer>,
}

/// An issuer that is not ours: a team with its own accounts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutsideIssuer {
    /// `iss`, exactly.
    pub issuer: String,
    /// `aud`: the token's must be or hold it.
    pub audience: String,
    /// The only algorithm of its tokens.
    pub algorithm: String,
    /// Where its keys are.
    #[serde(default)]
    pub jwks_url: String,
    /// Or a file: PEM or JWKS; the secret itself for HS256.
    #[serde(default)]
    pub key_file: PathBuf,
    /// The claim that tells users apart.
    #[serde(default = "sub")]
    pub user_claim: String,
    /// The claim that people see.
    #[serde(default = "name")]
    pub name_claim: String,
}

fn sub() -> String {
    "sub".to_owned()
}

fn name() -> String {
    "name".to_owned()
}

/// Verifies tokens of all issuers that are trusted. Shared by the threads of the edge.
#[derive(Debug)]
pub struct Trust {
    issuers: Vec<Issuer>,
    cache: Cache,
    stats: Arc<Stats>,
}

/// Why nobody's tokens can be verified.
#[derive(Debug, Error)]
pub enum TrustError {
    /// A file of the configuration.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// An address of the configuration that is none.
    #[error("an address of keys is not of the form `https://host/path`")]
    Address,
    /// An algorithm that nobody knows.
    #[error("`{0}` is not an algorithm of signatures")]
    Algorithm(String),
    /// No issuer is configured, and there is none in this process.
    #[error(
        "no issuer of tokens is trusted: set trust.jwks_url, trust.key_file or [[trust.issuers]]"
    )]
    Nobody,
}

impl Trust {
    /// Trusts the auth service, whose keys are published in this process or found by the settings, and
    /// the other issuers of the settings. Reads files; what is behind addresses is fetched on
    /// `runtime` from now on, and nothing waits for it here.
    ///
    /// # Errors
    /// When a file has no keys in it, or nobody is trusted.
    pub fn new(
        in_process: Option<watch::Receiver<Arc<JwkSet>>>,
        realm: Realm,
        settings: &Settings,
        runtime: &Handle,
    ) -> Result<Self, TrustError> {
        let stats = Arc::new(Stats::default());
        let mut sources = Sources { fetcher: None, stats: &stats, runtime };
        let mut issuers = Vec::new();
        let own = Kind::Own(realm);
        if let Some(published) = in_process {
            let keys = Arc::new(Keys::new(Algorithm::EdDSA, KeySet::default()));
            issuers.push(Issuer::new(own, Source::Process(published), keys));
        } else if !settings.jwks_url.is_empty() {
            issuers.push(sources.remote(own, &settings.jwks_url, Algorithm::EdDSA)?);
        } else if !settings.key_file.as_os_str().is_empty() {
            let keys = Keys::new(Algorithm::EdDSA, file::of_own(&settings.key_file)?);
            issuers.push(Issuer::new(own, Source::File, Arc::new(keys)));
        }
        for outside in &settings.issuers {
            let algorithm = outside
                .algorithm
                .parse()
                .map_err(|_| TrustError::Algorithm(outside.algorithm.clone()))?;
            let kind = Kind::Outside(Rules {
                issuer: outside.issuer.clone(),
                audience: outside.audience.clone(),
                user_claim: outside.user_claim.clone(),
                name_claim: outside.name_claim.clone(),
            });
            issuers.push(if outside.jwks_url.is_empty() {
                let keys = Keys::new(algorithm, file::of_outside(&outside.key_file, algorithm)?);
                Issuer::new(kind, Source::File, Arc::new(keys))
            } else {
                sources.remote(kind, &outside.jwks_url, algorithm)?
            });
        }
        if issuers.is_empty() {
            return Err(TrustError::Nobody);
        }
        Ok(Self { issuers, cache: Cache::default(), stats })
    }

    /// Verifies a token at this moment. Waits only when the key is unknown and may be fetched.
    ///
    /// # Errors
    /// When it is not good, or no longer; or when its issuer's keys cannot be had.
    pub async fn verify(&self, token: &str, now_s: u64) -> Result<Verified, TokenError> {
        let outcome = self.find_out(token, now_s).await;
        self.stats.count(&outcome);
        outcome.map(|(verified, _)| verified)
    }

    /// No token of this key of the auth service is good from now on, for as long as this process
    /// runs, whatever a document of keys says.
    pub fn forget_key(&self, key_id: &str) {
        self.issuers.iter().filter(|issuer| issuer.is_own()).for_each(|it| it.revoke_key(key_id));
    }

    /// What verifying has come to.
    #[must_use]
    pub const fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    async fn find_out(&self, token: &str, now_s: u64) -> Result<(Verified, Known), TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Invalid(Reason::TooLong));
        }
        self.issuers.iter().for_each(Issuer::catch_up);
        let hash = cache::hash(token);
        if let Some(entry) = self.cache.get(&hash) {
            if entry.verified.expires_at_s <= now_s {
                return Err(TokenError::Expired);
            }
            return Ok((entry.verified.clone(), Known::Before));
        }
        let token = Unverified::parse(token).map_err(TokenError::Invalid)?;
        // Which keys it is checked with; nothing else follows from what it says here.
        let named = token.issuer().map_err(TokenError::Invalid)?;
        let issuer = self.issuers.iter().find(|issuer| issuer.name() == named);
        let issuer = issuer.ok_or(TokenError::Invalid(Reason::Issuer))?;
        let (verified, key) = issuer.verify(&token, now_s).await?;
        self.cache.put(hash, Entry { verified: verified.clone(), key });
        Ok((verified, Known::Now))
    }
}

/// Makes the sources that are behind addresses.
struct Sources<'s> {
    /// Made for the first one: it reads the system's authorities.
    fetcher: Option<Fetcher>,
    stats: &'s Arc<Stats>,
    runtime: &'s Handle,
}

impl Sources<'_> {
    fn remote(
        &mut self,
        kind: Kind,
        url: &str,
        algorithm: Algorithm,
    ) -> Result<Issuer, TrustError> {
        let url: Uri = fetch::address(url).ok_or(TrustError::Address)?;
        if fetch::is_exposed(&url) {
            tracing::warn!(%url, "keys are fetched over plain HTTP: who is in between can forge them");
        }
        let fetcher = self.fetcher.get_or_insert_with(Fetcher::new).clone();
        let keys = Arc::new(Keys::new(algorithm, KeySet::default()));
        let stats = Arc::clone(self.stats);
        let fetch = {
            let url = url.clone();
            move || {
                let (fetcher, url) = (fetcher.clone(), url.clone());
                async move { fetcher.get(&url, JWKS_BYTES_MAX, JWKS_TIMEOUT).await }
            }
        };
        let remote = Remote::start(fetch, url, Arc::clone(&keys), stats, self.runtime);
        Ok(Issuer::new(kind, Source::Remote(remote), keys))
    }
}

#[cfg(test)]
mod tests;
