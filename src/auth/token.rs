//! A user ↔ an access token. Pure: keys, ids and the time are arguments.
//!
//! Tokens are EdDSA JWTs. What may be in their head is fixed here, not negotiated by it: the
//! algorithm is EdDSA, `kid` is looked up in our own keys and nowhere else, and a head with any
//! further field is refused.

use std::{collections::HashMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Account;
use crate::limits;

/// The `typ` of an access token (RFC 9068), so that no other JWT of ours is ever taken for one.
const TYPE: &str = "at+jwt";
/// What an access token is good for.
const SCOPE: &str = "chat";

/// What a token says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// The user's stable name among machines.
    pub sub: String,
    /// The display name.
    pub name: String,
    /// Who issued the token.
    pub iss: String,
    /// Who it is for.
    pub aud: String,
    /// When it was issued, in seconds since 1970.
    pub iat: u64,
    /// When it begins to be good, if not at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// When it runs out, in seconds since 1970.
    pub exp: u64,
    /// The token's own id.
    pub jti: String,
    /// What it is good for.
    pub scope: String,
    /// The session that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// The user's generation when it was issued: whoever ends all sessions of a user raises it.
    #[serde(default, rename = "gen", skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
}

/// Issues tokens.
pub struct Issuer {
    key: EncodingKey,
    key_id: String,
    realm: Realm,
    lifetime: Duration,
}

/// Who issues tokens, and for whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Realm {
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
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

/// Verifies tokens.
#[derive(Clone, Debug)]
pub struct Verifier {
    /// By `kid`. A `kid` is a key of this map and nothing else: no file, no address.
    keys: HashMap<String, DecodingKey>,
    realm: Realm,
    validation: Validation,
}

/// Why a token is not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum TokenError {
    /// It is not a token of this server, for this server.
    #[error("the token is invalid: {0}")]
    Invalid(Reason),
    /// It was one; its time is over.
    #[error("the token has expired")]
    Expired,
}

/// What is wrong with a token. For logs: a client learns only that it is invalid.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Reason {
    /// Longer than any token of ours.
    #[error("too long")]
    TooLong,
    /// Not three parts of base64url, or a head that is no JSON of the fields we know.
    #[error("malformed head")]
    Head,
    /// Another algorithm than EdDSA.
    #[error("algorithm not allowed")]
    Algorithm,
    /// Another kind of token.
    #[error("not an access token")]
    Type,
    /// Signed, if at all, by a key that is not ours.
    #[error("unknown key")]
    Key,
    /// The signature does not fit.
    #[error("wrong signature")]
    Signature,
    /// A claim is missing, or of the wrong type.
    #[error("malformed claims")]
    Claims,
    /// Another issuer's.
    #[error("wrong issuer")]
    Issuer,
    /// For somebody else.
    #[error("wrong audience")]
    Audience,
    /// From the future.
    #[error("not yet valid")]
    NotYet,
}

/// The whole of a head that we accept. RFC 7515 would ignore fields that it does not know; `jku`,
/// `x5u`, `jwk` and `crit` want to be followed, so nothing unknown passes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    alg: String,
    typ: String,
    kid: String,
}

impl Verifier {
    /// A verifier of this realm's tokens, signed by any of these keys.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = (String, DecodingKey)>, realm: Realm) -> Self {
        // The library would compare times with its own clock, and skip claims of a wrong type; both
        // are done here, after the signature.
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        Self { keys: keys.into_iter().collect(), realm, validation }
    }

    /// Verifies a token at this moment.
    ///
    /// # Errors
    /// When it is not one of ours, or no longer.
    pub fn verify(&self, token: &str, now_s: u64) -> Result<Claims, TokenError> {
        let claims = self.verify_signed(token).map_err(TokenError::Invalid)?;
        self.check_claims(&claims, now_s).map_err(TokenError::Invalid)?;
        if claims.exp <= now_s {
            return Err(TokenError::Expired);
        }
        Ok(claims)
    }

    fn verify_signed(&self, token: &str) -> Result<Claims, Reason> {
        if token.len() > limits::TOKEN_BYTES_MAX {
            return Err(Reason::TooLong);
        }
        let (head, _) = token.split_once('.').ok_or(Reason::Head)?;
        let head = URL_SAFE_NO_PAD.decode(head).map_err(|_| Reason::Head)?;
        let head: Head = serde_json::from_slice(&head).map_err(|_| Reason::Head)?;
        if head.alg != "EdDSA" {
            return Err(Reason::Algorithm);
        }
        if head.typ != TYPE {
            return Err(Reason::Type);
        }
        let key = self.keys.get(&head.kid).ok_or(Reason::Key)?;
        let data =
            jsonwebtoken::decode::<Claims>(token, key, &self.validation).map_err(|error| {
                match error.kind() {
                    jsonwebtoken::errors::ErrorKind::Json(_) => Reason::Claims,
                    _ => Reason::Signature,
                }
            })?;
        Ok(data.claims)
    }

    fn check_claims(&self, claims: &Claims, now_s: u64) -> Result<(), Reason> {
        if claims.iss != self.realm.issuer {
            return Err(Reason::Issuer);
        }
        if claims.aud != self.realm.audience {
            return Err(Reason::Audience);
        }
        let subject_fits = (1..=limits::SUBJECT_BYTES_MAX).contains(&claims.sub.len());
        let name_fits = (1..=limits::USER_NAME_BYTES_MAX).contains(&claims.name.len());
        if !subject_fits || !name_fits || claims.iat > claims.exp {
            return Err(Reason::Claims);
        }
        let latest = now_s.saturating_add(limits::TOKEN_LEEWAY.as_secs());
        if claims.iat > latest || claims.nbf.is_some_and(|nbf| nbf > latest) {
            return Err(Reason::NotYet);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
