//! Tokens of issuers that are not ours: what they must say, and who their users are here.

use std::{collections::HashMap, fmt};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    key::Key,
    verify::{ISSUER_END, Reason, TYPE, TokenError, Unverified, Verified, check_times},
};
use crate::limits;

/// What tokens of one issuer must say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// `iss`, exactly.
    pub issuer: String,
    /// `aud` is or holds it.
    pub audience: String,
    /// The claim that tells users apart.
    pub user_claim: String,
    /// The claim that people see. Where it is missing, they see the user's id.
    pub name_claim: String,
}

impl Rules {
    /// Verifies a token of this issuer, by a key of this issuer.
    ///
    /// # Errors
    /// When it is none, is not for us, or its time is not now.
    pub fn verify(
        &self,
        token: &Unverified<'_>,
        key: &Key,
        now_s: u64,
    ) -> Result<Verified, TokenError> {
        let verified = self.check(token, key, now_s).map_err(TokenError::Invalid)?;
        if verified.expires_at_s <= now_s {
            return Err(TokenError::Expired);
        }
        Ok(verified)
    }

    fn check(&self, token: &Unverified<'_>, key: &Key, now_s: u64) -> Result<Verified, Reason> {
        if !matches!(token.kind(), None | Some("JWT" | TYPE)) {
            return Err(Reason::Type);
        }
        token.check_signature(key)?;
        let Object(claims) = serde_json::from_slice(token.claims()).map_err(|_| Reason::Claims)?;
        if text(&claims, "iss")? != Some(&self.issuer) {
            return Err(Reason::Issuer);
        }
        if !is_for(claims.get("aud"), &self.audience)? {
            return Err(Reason::Audience);
        }
        let exp = time(&claims, "exp")?.ok_or(Reason::Claims)?;
        let iat = time(&claims, "iat")?;
        check_times(iat, time(&claims, "nbf")?, exp, now_s)?;

        let user = text(&claims, &self.user_claim)?.ok_or(Reason::Claims)?;
        if user.is_empty() || user.contains(char::is_control) {
            return Err(Reason::Claims);
        }
        let name = text(&claims, &self.name_claim)?.map(presentable);
        let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| presentable(user));
        if name.is_empty() {
            return Err(Reason::Claims);
        }
        Ok(Verified {
            subject: self.subject(user),
            name,
            is_own: false,
            issued_at_s: iat,
            expires_at_s: exp,
            session: None,
            generation: None,
            key_id: token.key_id().unwrap_or_default().to_owned(),
        })
    }

    /// Who the user is among all issuers: the issuer, `#` and the user's id, or the hash of that where
    /// it is too long. No two users are the same: no name of an issuer has a `#` in it, so the first
    /// one ends it; a hash begins with one; and subjects of our own have none.
    #[must_use]
    pub fn subject(&self, user: &str) -> String {
        let whole = format!("{}{ISSUER_END}{user}", self.issuer);
        if whole.len() <= limits::SUBJECT_BYTES_MAX {
            return whole;
        }
        format!("{ISSUER_END}{}", URL_SAFE_NO_PAD.encode(Sha256::digest(whole)))
    }
}

/// Claims in which no name stands twice: two readers might take another one of them each.
struct Object(HashMap<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;

        impl<'de> Visitor<'de> for Once {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("claims")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut claims = HashMap::new();
                while let Some((name, value)) = map.next_entry()? {
                    if claims.insert(name, value).is_some() {
                        return Err(A::Error::custom("a claim stands twice"));
                    }
                }
                Ok(Object(claims))
            }
        }

        deserializer.deserialize_map(Once)
    }
}

fn text<'c>(claims: &'c HashMap<String, Value>, name: &str) -> Result<Option<&'c str>, Reason> {
    claims.get(name).map(|value| value.as_str().ok_or(Reason::Claims)).transpose()
}

/// A time in whole seconds: not as text, not as a fraction, not before 1970.
fn time(claims: &HashMap<String, Value>, name: &str) -> Result<Option<u64>, Reason> {
    claims.get(name).map(|value| value.as_u64().ok_or(Reason::Claims)).transpose()
}

fn is_for(claim: Option<&Value>, audience: &str) -> Result<bool, Reason> {
    match claim {
        Some(Value::String(one)) => Ok(one == audience),
        Some(Value::Array(all)) => {
            let mut found = false;
            for one in all {
                found |= one.as_str().ok_or(Reason::Claims)? == audience;
            }
            Ok(found)
        }
        _ => Err(Reason::Claims),
    }
}

/// A name that people can be shown: without control characters, not longer than a name may be.
fn presentable(name: &str) -> String {
    let mut shown: String = name.chars().filter(|char| !char.is_control()).collect();
    shown.truncate(shown.floor_char_boundary(limits::USER_NAME_BYTES_MAX));
    shown.trim().to_owned()
}
