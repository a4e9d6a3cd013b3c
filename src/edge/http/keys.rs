//! `/.well-known/jwks.json`: the public keys that tokens are signed with.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderName, header},
};
use jsonwebtoken::jwk::JwkSet;

use crate::auth::Auth;

/// How long a verifier may go without asking again. It asks earlier for a `kid` that it does not know.
const CACHE_CONTROL: &str = "public, max-age=300";

/// The public keys.
pub async fn jwks(
    State(auth): State<Arc<Auth>>,
) -> ([(HeaderName, &'static str); 1], Json<JwkSet>) {
    ([(header::CACHE_CONTROL, CACHE_CONTROL)], Json(auth.jwks()))
}
