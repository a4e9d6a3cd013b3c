//! `GET /v1/me`: what a user may know about itself.

use axum::{
    Json,
    extract::{Request, State},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{AuthApi, bearer, problem::Problem};
use crate::{
    auth::{MeError, ServiceError},
    clock,
    wire::code::ErrorCode,
};

/// The user behind a token.
#[derive(Debug, Serialize, ToSchema)]
pub struct Me {
    /// What the user logs in with.
    username: String,
    /// The user's stable name among machines: `sub` of its tokens.
    user: String,
    /// When the account was made, in seconds since 1970.
    created_at_s: u64,
    /// Sessions that are not revoked and have not run out.
    sessions: u32,
}

/// The codes that [`me`] refuses with.
pub const REFUSALS: &[ErrorCode] = &[
    ErrorCode::NotAuthenticated,
    ErrorCode::InvalidToken,
    ErrorCode::TokenExpired,
    ErrorCode::Overloaded,
    ErrorCode::Internal,
];

/// Who the user behind the token is.
///
/// # Errors
/// When the token is not good, or not any more.
#[utoipa::path(
    get, path = "/v1/me", tag = "accounts", operation_id = "get_me", security(("bearer" = [])),
    responses((status = 200, description = "The user.", body = Me)),
)]
pub async fn me(State(api): State<AuthApi>, request: Request) -> Result<Json<Me>, Problem> {
    let token = bearer::token(request.headers())?.to_owned();
    // Its body, if there is one, is nobody's concern.
    drop(request);
    let profile = api.auth.me(&token, clock::unix_s()).await.map_err(refusal)?;
    Ok(Json(Me {
        username: profile.account.username.as_str().to_owned(),
        user: profile.account.subject,
        created_at_s: profile.created_at_s,
        sessions: profile.sessions,
    }))
}

fn refusal(error: MeError) -> Problem {
    match error {
        MeError::Token(error) => bearer::refusal(error),
        MeError::Forbidden => bearer::revoked(),
        MeError::Service(error) => {
            if let ServiceError::Failed(error) = &error {
                tracing::error!(%error, "a user could not be told about itself");
            }
            error.into()
        }
    }
}
