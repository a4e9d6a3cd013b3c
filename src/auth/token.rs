//! A user ↔ an access token. Pure: keys, ids and the time are arguments.
//!
//! Our own tokens are EdDSA JWTs. What may be in the head of any is fixed here, not negotiated by it:
//! a key has one algorithm, `kid` is looked up among the keys that we have and nowhere else, and a
//! head with a field that wants to be followed is refused. This file issues; [`verify`] verifies.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use thiserror::Error;

use super::Account;

pub mod claims;
pub mod key;
pub mod outside;
pub mod verify;

pub use claims::{Claims, Realm};
use verify::TYPE;
pub use verify::{Reason, TokenError, Verified, Verifier};

/// What an access token is good for.
const SCOPE: &str = "chat";

/// Issues tokens.
pub struct Issuer {
    key: EncodingKey,
    key_id: String,
    realm: Realm,
    lifetime: Duration,
}

impl Issuer {
    /// An issuer that signs with this key.
    #[must_use]
    pub fn new(key: EncodingKey, key_id: String, realm: Realm, lifetime: Duration) -> Self {
        Self { key, key_id, realm, lifetime }
    }

    /// Issues a token for the account, good from `now_s` on. `id` is to be random.
    ///
    /// # Errors
    /// When the key does not sign.
    pub fn issue(&self, account: &Account, id: u128, now_s: u64) -> Result<String, IssueError> {
        self.issue_with(account, None, id, now_s)
    }

    /// Issues a token of a session: it can be taken back with the session, or with the user's
    /// generation.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn issue_in(
        &self,
        account: &Account,
        session: (String, u32),
        id: u128,
        now_s: u64,
    ) -> Result<String, IssueError> {
        self.issue_with(account, Some(session), id, now_s)
    }

    fn issue_with(
        &self,
        account: &Account,
        session: Option<(String, u32)>,
        id: u128,
        now_s: u64,
    ) -> Result<String, IssueError> {
        let (sid, generation) = session.unzip();
        let claims = Claims {
            sub: account.subject.clone(),
            name: account.username.as_str().to_owned(),
            iss: self.realm.issuer.clone(),
            aud: self.realm.audience.clone(),
            iat: now_s,
            nbf: None,
            exp: now_s.saturating_add(self.lifetime.as_secs()),
            jti: format!("{id:032x}"),
            scope: SCOPE.to_owned(),
            sid,
            generation,
        };
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(self.key_id.clone());
        jsonwebtoken::encode(&header, &claims, &self.key).map_err(|_| IssueError)
    }

    /// How long a token of this issuer is good.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// The key does not sign.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the signing key is unusable")]
pub struct IssueError;

#[cfg(test)]
mod tests;
