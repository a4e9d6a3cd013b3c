//! `/.well-known/jwks.json`: the public keys that tokens are signed with.

use axum::{
    Json,
    extract::State,
    http::{HeaderName, header},
};
use jsonwebtoken::jwk::JwkSet;
use utoipa::ToSchema;

use super::AuthApi;

/// How long a verifier may go without asking again. It asks earlier for a `kid` that it does not
/// know, and learns of a revoked key by the feed of revocations.
const CACHE_CONTROL: &str = "public, max-age=60";

/// Public keys (RFC 7517).
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `JwkSet` of jsonwebtoken writes")]
pub struct Jwks {
    keys: Vec<Jwk>,
}

/// A public key (RFC 8037).
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `Jwk` of jsonwebtoken writes")]
pub struct Jwk {
    /// Its name in the head of a token.
    kid: String,
    /// `OKP`.
    kty: String,
    /// `Ed25519`.
    crv: String,
    /// `EdDSA`.
    alg: String,
    /// `sig`.
    r#use: String,
    /// The key, as base64url.
    x: String,
}

/// The public keys: the one that signs, and those whose tokens have not all run out.
#[utoipa::path(
    get, path = "/.well-known/jwks.json", tag = "tokens", operation_id = "get_keys",
    responses((status = 200, description = "The keys. Good for a minute.", body = Jwks)),
)]
pub async fn jwks(State(api): State<AuthApi>) -> ([(HeaderName, &'static str); 1], Json<JwkSet>) {
    let keys = JwkSet::clone(&api.auth.keys().borrow());
    ([(header::CACHE_CONTROL, CACHE_CONTROL)], Json(keys))
}
