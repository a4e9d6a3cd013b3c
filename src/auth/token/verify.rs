//! An access token → the user, or what is wrong with it.
//!
//! In this order: length, head, key, signature, claims, issuer and audience, times. What is in a
//! token decides nothing but which of the keys that we have it is checked with.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use thiserror::Error;

use super::{
    claims::{Claims, Realm},
    key::{Key, KeySet},
};
use crate::limits;

/// The `typ` of an access token (RFC 9068), so that no other JWT of ours is ever taken for one.
pub const TYPE: &str = "at+jwt";

/// Parts a subject of an outside issuer: what stands before the first one is the issuer. No subject
/// of ours has one in it.
pub(super) const ISSUER_END: char = '#';

/// What a good token says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    /// The user's stable name among machines, unique over all issuers.
    pub subject: String,
    /// The display name.
    pub name: String,
    /// Whether it is of the auth service, and not of an outside issuer.
    pub is_own: bool,
    /// When the token was issued, in seconds since 1970, if it says so. Those of our own do.
    pub issued_at_s: Option<u64>,
    /// When the token runs out, in seconds since 1970.
    pub expires_at_s: u64,
    /// The session that it belongs to: `sid`. Tokens of outside issuers have none.
    pub session: Option<String>,
    /// The user's generation when it was issued: `gen`. Tokens of outside issuers have none.
    pub generation: Option<u32>,
    /// The key that signed it: `kid`. Empty if an outside issuer's token names none.
    pub key_id: String,
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
    /// Nobody knows: its issuer's keys cannot be had now. Another attempt may find them.
    #[error("the keys of the token's issuer cannot be had now")]
    KeysUnavailable,
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
    /// Another algorithm than the key's.
    #[error("algorithm not allowed")]
    Algorithm,
    /// Another kind of token.
    #[error("not an access token")]
    Type,
    /// Signed, if at all, by a key that is not the issuer's.
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

/// A token taken apart. Nothing of it is believed yet.
#[derive(Debug)]
pub struct Unverified<'t> {
    signed: &'t str,
    signature: &'t str,
    head: Head,
    claims: Vec<u8>,
}

/// The whole of a head that we accept. RFC 7515 would ignore fields that it does not know; `jku`,
/// `x5u`, `jwk`, `x5c` and `crit` want to be followed, so nothing unknown passes. A thumbprint of a
/// certificate only names a key once more.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
    x5t: Option<String>,
    #[serde(rename = "x5t#S256")]
    x5t_s256: Option<String>,
}

/// The one claim that is looked at before the signature, to find the keys.
#[derive(Deserialize)]
struct NamedIssuer {
    iss: String,
}

impl<'t> Unverified<'t> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// When it has no three parts of base64url, or a head that no token of ours has.
    pub fn parse(token: &'t str) -> Result<Self, Reason> {
        if token.len() > limits::TOKEN_BYTES_MAX {
            return Err(Reason::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Reason::Head)?;
        let (head, claims) = signed.split_once('.').ok_or(Reason::Head)?;
        let head = URL_SAFE_NO_PAD.decode(head).map_err(|_| Reason::Head)?;
        let head = serde_json::from_slice(&head).map_err(|_| Reason::Head)?;
        // A fourth part would leave a dot in here.
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| Reason::Claims)?;
        Ok(Self { signed, signature, head, claims })
    }

    /// Who it says that issued it.
    ///
    /// # Errors
    /// When it does not say that once, as text.
    pub fn issuer(&self) -> Result<String, Reason> {
        let named: NamedIssuer =
            serde_json::from_slice(&self.claims).map_err(|_| Reason::Claims)?;
        Ok(named.iss)
    }

    /// Which key it says that signed it.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.head.kid.as_deref()
    }

    /// Whether it says that it was signed by this algorithm. None is called by two names.
    #[must_use]
    pub fn is_of(&self, algorithm: Algorithm) -> bool {
        self.head.alg.parse() == Ok(algorithm)
    }

    /// What it says, as a token of our own issuer.
    ///
    /// # Errors
    /// When it is none, is not for us, or its time is not now.
    pub fn verify(&self, key: &Key, realm: &Realm, now_s: u64) -> Result<Claims, TokenError> {
        let claims = self.own_claims(key, realm, now_s).map_err(TokenError::Invalid)?;
        if claims.exp <= now_s {
            return Err(TokenError::Expired);
        }
        Ok(claims)
    }

    /// Checks that the head of a token of our own has what it must have and nothing else.
    ///
    /// # Errors
    /// When it has not.
    pub fn check_own_head(&self) -> Result<&str, Reason> {
        let Head { alg, typ, kid, x5t, x5t_s256 } = &self.head;
        if x5t.is_some() || x5t_s256.is_some() {
            return Err(Reason::Head);
        }
        if alg != "EdDSA" {
            return Err(Reason::Algorithm);
        }
        if typ.as_deref() != Some(TYPE) {
            return Err(Reason::Type);
        }
        kid.as_deref().ok_or(Reason::Head)
    }

    fn own_claims(&self, key: &Key, realm: &Realm, now_s: u64) -> Result<Claims, Reason> {
        self.check_own_head()?;
        self.check_signature(key)?;
        let claims: Claims = serde_json::from_slice(&self.claims).map_err(|_| Reason::Claims)?;
        if claims.iss != realm.issuer {
            return Err(Reason::Issuer);
        }
        if claims.aud != realm.audience {
            return Err(Reason::Audience);
        }
        let is_subject = (1..=limits::SUBJECT_BYTES_MAX).contains(&claims.sub.len())
            && !claims.sub.contains(ISSUER_END);
        let name_fits = (1..=limits::USER_NAME_BYTES_MAX).contains(&claims.name.len());
        let session_fits = claims
            .sid
            .as_ref()
            .is_none_or(|session| (1..=limits::SESSION_BYTES_MAX).contains(&session.len()));
        if !is_subject || !name_fits || !session_fits {
            return Err(Reason::Claims);
        }
        check_times(Some(claims.iat), claims.nbf, claims.exp, now_s)?;
        Ok(claims)
    }

    pub(super) fn check_signature(&self, key: &Key) -> Result<(), Reason> {
        if !self.is_of(key.algorithm()) {
            return Err(Reason::Algorithm);
        }
        if !key.signed(self.signed.as_bytes(), self.signature) {
            return Err(Reason::Signature);
        }
        Ok(())
    }

    pub(super) fn kind(&self) -> Option<&str> {
        self.head.typ.as_deref()
    }

    pub(super) fn claims(&self) -> &[u8] {
        &self.claims
    }
}

/// Everything about the times but that the token has run out.
pub(super) fn check_times(
    iat: Option<u64>,
    nbf: Option<u64>,
    exp: u64,
    now_s: u64,
) -> Result<(), Reason> {
    if iat.is_some_and(|iat| iat > exp) {
        return Err(Reason::Claims);
    }
    let latest = now_s.saturating_add(limits::TOKEN_LEEWAY.as_secs());
    if iat.is_some_and(|iat| iat > latest) || nbf.is_some_and(|nbf| nbf > latest) {
        return Err(Reason::NotYet);
    }
    Ok(())
}

impl Verified {
    /// What a token of our own says.
    #[must_use]
    pub fn of_own(claims: Claims, key_id: &str) -> Self {
        Self {
            subject: claims.sub,
            name: claims.name,
            is_own: true,
            issued_at_s: Some(claims.iat),
            expires_at_s: claims.exp,
            session: claims.sid,
            generation: claims.generation,
            key_id: key_id.to_owned(),
        }
    }
}

/// Verifies tokens of our own with keys that do not change.
#[derive(Clone, Debug)]
pub struct Verifier {
    keys: KeySet,
    realm: Realm,
}

impl Verifier {
    /// A verifier of this realm's tokens, signed by any of these keys.
    #[must_use]
    pub fn new(
        keys: impl IntoIterator<Item = (String, jsonwebtoken::DecodingKey)>,
        realm: Realm,
    ) -> Self {
        let mut set = KeySet::default();
        for (id, key) in keys {
            if let Some(key) = Key::new(key, Algorithm::EdDSA) {
                set.add(id, key.into());
            }
        }
        Self { keys: set, realm }
    }

    /// Verifies a token at this moment.
    ///
    /// # Errors
    /// When it is not one of ours, or no longer.
    pub fn verify(&self, token: &str, now_s: u64) -> Result<Claims, TokenError> {
        let token = Unverified::parse(token).map_err(TokenError::Invalid)?;
        let key_id = token.check_own_head().map_err(TokenError::Invalid)?;
        let key = self.keys.find(Some(key_id)).ok_or(TokenError::Invalid(Reason::Key))?;
        token.verify(key, &self.realm, now_s)
    }
}
