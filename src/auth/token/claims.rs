//! What a token of our own says, and for whom.

use serde::{Deserialize, Deserializer, Serialize};

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
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// When it runs out, in seconds since 1970.
    pub exp: u64,
    /// The token's own id.
    pub jti: String,
    /// What it is good for.
    pub scope: String,
    /// The session that it belongs to.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// The user's generation when it was issued: those of earlier ones may be revoked together.
    #[serde(
        default,
        rename = "gen",
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    pub generation: Option<u32>,
}

/// Who issues tokens, and for whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Realm {
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
}

/// A claim that may be missing, but has its type when it is there: `null` is none.
fn given<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}
