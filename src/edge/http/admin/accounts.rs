//! `/v1/admin/accounts`: accounts, whoever's they are.

use axum::{
    Json,
    extract::{FromRequestParts, Path, Request, State},
    http::{StatusCode, request},
};

use crate::{
    auth::{AdministerError, ServiceError},
    clock,
    edge::http::{
        AuthApi,
        accounts::{self, Created, NewAccount},
        body::{self, Takes},
        problem::Problem,
    },
    wire::code::ErrorCode,
};

/// The codes that [`create`] refuses with.
pub const CREATE_REFUSALS: &[ErrorCode] = &[
    ErrorCode::InvalidUsername,
    ErrorCode::InvalidPassword,
    ErrorCode::UsernameTaken,
    ErrorCode::Overloaded,
    ErrorCode::Internal,
];

/// The codes that the others refuse with.
pub const REFUSALS: &[ErrorCode] =
    &[ErrorCode::NotFound, ErrorCode::Overloaded, ErrorCode::Internal];

/// The user that an address names.
#[derive(Debug)]
pub struct User(String);

impl<S: Send + Sync> FromRequestParts<S> for User {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::from_request_parts(parts, state).await;
        let not_utf8 = |_| Problem::new(ErrorCode::BadRequest).detail("the path is not UTF-8");
        path.map(|Path(username)| Self(username)).map_err(not_utf8)
    }
}

/// Makes an account, whoever may make one otherwise.
///
/// # Errors
/// When name or password are not allowed, or there is no room.
#[utoipa::path(
    post, path = "/v1/admin/accounts", tag = "admin", security(("bearer" = [])),
    operation_id = "admin_create_account", request_body = NewAccount,
    responses((status = 201, description = "The account is made.", body = Created)),
)]
pub async fn create(
    State(api): State<AuthApi>,
    request: Request,
) -> Result<(StatusCode, Json<Created>), Problem> {
    let new: NewAccount = body::read(request, Takes::Json, api.body_bytes_max).await?;
    let created = api.auth.register_by_operator(&new.username, new.password, clock::unix_s());
    let account = created.await.map_err(accounts::refusal)?;
    Ok((StatusCode::CREATED, Json(account.into())))
}

/// Takes from a user the right to log in, and ends its sessions.
///
/// # Errors
/// When there is no such user, or the store fails.
#[utoipa::path(
    post, path = "/v1/admin/accounts/{username}/disable", tag = "admin",
    operation_id = "disable_account",
    security(("bearer" = [])), params(("username" = String, Path)),
    responses((status = 204, description = "Disabled.")),
)]
pub async fn disable(
    State(api): State<AuthApi>,
    User(username): User,
) -> Result<StatusCode, Problem> {
    done(api.auth.set_disabled(&username, true, clock::unix_s()).await)
}

/// Gives a user back the right to log in.
///
/// # Errors
/// When there is no such user, or the store fails.
#[utoipa::path(
    post, path = "/v1/admin/accounts/{username}/enable", tag = "admin",
    operation_id = "enable_account",
    security(("bearer" = [])), params(("username" = String, Path)),
    responses((status = 204, description = "Enabled.")),
)]
pub async fn enable(
    State(api): State<AuthApi>,
    User(username): User,
) -> Result<StatusCode, Problem> {
    done(api.auth.set_disabled(&username, false, clock::unix_s()).await)
}

/// Ends all sessions of a user.
///
/// # Errors
/// When there is no such user, or the store fails.
#[utoipa::path(
    post, path = "/v1/admin/accounts/{username}/logout", tag = "admin",
    operation_id = "log_out_account",
    security(("bearer" = [])), params(("username" = String, Path)),
    responses((status = 204, description = "Logged out everywhere.")),
)]
pub async fn log_out(
    State(api): State<AuthApi>,
    User(username): User,
) -> Result<StatusCode, Problem> {
    done(api.auth.log_out(&username, clock::unix_s()).await)
}

/// Removes a user for good. Nobody gets the name again.
///
/// # Errors
/// When there is no such user, or the store fails.
#[utoipa::path(
    delete, path = "/v1/admin/accounts/{username}", tag = "admin", operation_id = "delete_account",
    security(("bearer" = [])), params(("username" = String, Path)),
    responses((status = 204, description = "Removed.")),
)]
pub async fn delete(
    State(api): State<AuthApi>,
    User(username): User,
) -> Result<StatusCode, Problem> {
    done(api.auth.delete(&username, clock::unix_s()).await)
}

fn done(outcome: Result<(), AdministerError>) -> Result<StatusCode, Problem> {
    outcome.map(|()| StatusCode::NO_CONTENT).map_err(refusal)
}

/// What the answer to a wish is that was not carried out.
pub(super) fn refusal(error: AdministerError) -> Problem {
    match error {
        AdministerError::UnknownUser => {
            Problem::new(ErrorCode::NotFound).detail("there is no such user")
        }
        AdministerError::Service(error) => {
            if let ServiceError::Failed(error) = &error {
                tracing::error!(%error, "an operator's wish could not be carried out");
            }
            error.into()
        }
    }
}
