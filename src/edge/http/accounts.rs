//! `POST /v1/accounts`: makes an account.

use std::borrow::Cow;

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    AuthApi,
    body::{self, Takes},
    problem::Problem,
};
use crate::{
    auth::{Account, RegisterError, ServiceError},
    clock,
    wire::code::ErrorCode,
};

/// What an account is made of.
#[derive(Deserialize, ToSchema)]
#[schema(examples(json!({"username": "ada", "password": "correct horse battery"})))]
pub struct NewAccount {
    /// 1 to 32 of `a`–`z`, `0`–`9`, `.`, `_` and `-`. Upper case is folded.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,32}$")]
    pub(super) username: String,
    /// 8 to 1024 bytes of UTF-8, taken as they are.
    #[schema(max_length = 1024, format = "password")]
    pub(super) password: String,
    /// The code of the invite, where one is needed.
    pub(super) invite: Option<String>,
}

/// The account that was made.
#[derive(Debug, Serialize, ToSchema)]
pub struct Created {
    /// What the user logs in with, in lower case.
    username: String,
    /// The user's stable name among machines: `sub` of its tokens.
    user: String,
}

impl From<Account> for Created {
    fn from(account: Account) -> Self {
        Self { username: account.username.as_str().to_owned(), user: account.subject }
    }
}

/// The codes that [`create`] refuses with.
pub const REFUSALS: &[ErrorCode] = &[
    ErrorCode::InvalidUsername,
    ErrorCode::InvalidPassword,
    ErrorCode::UsernameTaken,
    ErrorCode::Forbidden,
    ErrorCode::RateLimited,
    ErrorCode::Overloaded,
    ErrorCode::Internal,
];

/// Makes an account.
///
/// # Errors
/// When registration is closed, name or password are not allowed, or there is no room.
#[utoipa::path(
    post, path = "/v1/accounts", tag = "accounts", operation_id = "create_account",
    request_body = NewAccount,
    responses((status = 201, description = "The account is made.", body = Created)),
)]
pub async fn create(
    State(api): State<AuthApi>,
    request: Request,
) -> Result<(StatusCode, Json<Created>), Problem> {
    let from = api.client(&request);
    let new: NewAccount = body::read(request, Takes::Json, api.body_bytes_max).await?;
    let registered =
        api.auth.register(&new.username, new.password, new.invite, from, clock::unix_s());
    let account = registered.await.map_err(refusal)?;
    Ok((StatusCode::CREATED, Json(account.into())))
}

/// What the answer to a failed sign-up is.
pub(super) fn refusal(error: RegisterError) -> Problem {
    let with = |code, detail: Cow<'static, str>| Problem::new(code).detail(detail);
    match error {
        RegisterError::Username(error) => {
            with(ErrorCode::InvalidUsername, error.to_string().into())
        }
        RegisterError::Password(error) => {
            with(ErrorCode::InvalidPassword, error.to_string().into())
        }
        RegisterError::Closed => {
            with(ErrorCode::Forbidden, "accounts are made by the operator of this server".into())
        }
        RegisterError::InvalidInvite => {
            with(ErrorCode::Forbidden, "an invite code that is good is needed".into())
        }
        RegisterError::RateLimited(error) => error.into(),
        RegisterError::Taken => Problem::new(ErrorCode::UsernameTaken),
        RegisterError::Service(error) => {
            if let ServiceError::Failed(error) = &error {
                tracing::error!(%error, "an account could not be made");
            }
            error.into()
        }
    }
}
