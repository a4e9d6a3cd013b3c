//! `POST /v1/password`: another password.

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    AuthApi, bearer,
    body::{self, Takes},
    problem::Problem,
    token::Granted,
};
use crate::{auth::ChangePasswordError, clock, wire::code::ErrorCode};

/// The password as it is and as it is to be.
#[derive(Deserialize, ToSchema)]
#[schema(as = PasswordChange, examples(json!({
    "current_password": "correct horse battery", "new_password": "wrong donkey battery",
})))]
pub struct Change {
    /// As it is.
    #[schema(format = "password")]
    current_password: String,
    /// As it is to be: 8 to 1024 bytes of UTF-8, taken as they are.
    #[schema(max_length = 1024, format = "password")]
    new_password: String,
}

/// The codes that [`change`] refuses with.
pub const REFUSALS: &[ErrorCode] = &[
    ErrorCode::NotAuthenticated,
    ErrorCode::InvalidToken,
    ErrorCode::TokenExpired,
    ErrorCode::InvalidPassword,
    ErrorCode::RateLimited,
    ErrorCode::Overloaded,
    ErrorCode::Internal,
];

/// Sets a new password.
///
/// All sessions of the user end. The tokens in the answer are of a new one.
///
/// # Errors
/// When the token or the current password is wrong, the new one is not allowed, or there is no room.
#[utoipa::path(
    post, path = "/v1/password", tag = "accounts", security(("bearer" = [])),
    operation_id = "change_password",
    request_body = Change,
    responses(
        (status = 200, description = "Tokens of a new session. Not to be cached.", body = Granted),
        (status = 403, description = "invalid_credentials (204): the current password is wrong.",
            body = super::problem::Body, content_type = "application/problem+json"),
    ),
)]
pub async fn change(
    State(api): State<AuthApi>,
    request: Request,
) -> Result<Json<Granted>, Problem> {
    let (from, now_s) = (api.client(&request), clock::unix_s());
    let token = bearer::token(request.headers())?.to_owned();
    let change: Change = body::read(request, Takes::Json, api.body_bytes_max).await?;
    let Change { current_password, new_password } = change;
    let changed = api.auth.change_password(&token, current_password, new_password, from, now_s);
    Ok(Json(changed.await.map_err(refusal)?.into()))
}

fn refusal(error: ChangePasswordError) -> Problem {
    match error {
        ChangePasswordError::Token(error) => bearer::refusal(error),
        ChangePasswordError::Forbidden => bearer::revoked(),
        // Not 401: the token is good, and another would not help.
        ChangePasswordError::InvalidCredentials => Problem::new(ErrorCode::InvalidCredentials)
            .status(StatusCode::FORBIDDEN)
            .detail("the current password is wrong"),
        ChangePasswordError::Password(error) => {
            Problem::new(ErrorCode::InvalidPassword).detail(error.to_string())
        }
        ChangePasswordError::RateLimited(error) => error.into(),
        ChangePasswordError::Service(error) => {
            if let crate::auth::ServiceError::Failed(error) = &error {
                tracing::error!(%error, "a password could not be changed");
            }
            error.into()
        }
    }
}
