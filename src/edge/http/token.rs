//! `POST /v1/token` and `POST /v1/token/revoke`: tokens, in the shape of OAuth 2.0 (RFC 6749 §4.3 and
//! §6, RFC 7009).
//!
//! Fields that nobody knows are ignored, as RFC 6749 has it; so are `client_id`, `client_secret` and
//! HTTP Basic, since there are no clients to tell apart.

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
    auth::{LogInError, RefreshError, RevokeError, ServiceError, Tokens, admission::TooMany},
    clock,
    wire::code::ErrorCode,
};

/// What is asked for. All optional, so that what is missing is answered in OAuth's words.
#[derive(Deserialize, ToSchema)]
#[schema(examples(json!({
    "grant_type": "password", "username": "ada", "password": "correct horse battery",
})))]
pub struct Grant {
    /// What the other fields are.
    #[schema(value_type = GrantType, required = true, inline)]
    grant_type: Option<String>,
    /// With `password`.
    username: Option<String>,
    /// With `password`.
    #[schema(format = "password")]
    password: Option<String>,
    /// With `refresh_token`.
    refresh_token: Option<String>,
}

/// What there is to trade for tokens.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(
    dead_code,
    reason = "describes a field of `Grant`, which is a string so that OAuth's words \
    can be said of any other"
)]
enum GrantType {
    Password,
    RefreshToken,
}

/// Tokens (RFC 6749 §5.1).
#[derive(Debug, Serialize, ToSchema)]
pub struct Granted {
    /// The JWT that hubs take.
    access_token: String,
    /// `Bearer`.
    token_type: &'static str,
    /// Seconds until the access token runs out.
    expires_in: u64,
    /// Good for one trade, for a new pair. The one traded in is used up.
    refresh_token: String,
}

impl From<Tokens> for Granted {
    fn from(tokens: Tokens) -> Self {
        Self {
            access_token: tokens.access_token,
            token_type: "Bearer",
            expires_in: tokens.lifetime.as_secs(),
            refresh_token: tokens.refresh_token,
        }
    }
}

/// The codes that [`issue`] refuses with.
pub const REFUSALS: &[ErrorCode] = &[
    ErrorCode::InvalidCredentials,
    ErrorCode::InvalidToken,
    ErrorCode::RateLimited,
    ErrorCode::Overloaded,
    ErrorCode::Internal,
];

/// Issues tokens for a password or a refresh token.
///
/// A refusal has RFC 6749's name for it too, as `error`. An unknown user, a wrong password and a user
/// who may not log in get one and the same answer.
///
/// # Errors
/// When password or refresh token are wrong, the grant is another one, or there is no room.
#[utoipa::path(
    post, path = "/v1/token", tag = "tokens", operation_id = "issue_token",
    request_body(content(
        (Grant = "application/json"),
        (Grant = "application/x-www-form-urlencoded"),
    )),
    responses((status = 200, description = "Tokens. Not to be cached.", body = Granted)),
)]
pub async fn issue(State(api): State<AuthApi>, request: Request) -> Result<Json<Granted>, Problem> {
    let (from, now_s) = (api.client(&request), clock::unix_s());
    let grant: Grant = body::read(request, Takes::JsonOrForm, api.body_bytes_max)
        .await
        .map_err(|problem| problem.oauth("invalid_request"))?;
    let tokens = match given(grant.grant_type)?.as_deref() {
        Some("password") => {
            let username = given(grant.username)?;
            // A password is whatever it is; only an empty one counts as missing.
            let password = grant.password.filter(|password| !password.is_empty());
            let (Some(username), Some(password)) = (username, password) else {
                return Err(invalid_request("username or password is missing"));
            };
            api.auth.log_in(&username, password, from, now_s).await.map_err(not_logged_in)?
        }
        Some("refresh_token") => {
            let Some(token) = given(grant.refresh_token)? else {
                return Err(invalid_request("refresh_token is missing"));
            };
            api.auth.refresh(&token, from, now_s).await.map_err(not_refreshed)?
        }
        None => return Err(invalid_request("grant_type is missing")),
        Some(_) => {
            let problem = Problem::new(ErrorCode::BadRequest).oauth("unsupported_grant_type");
            return Err(problem.detail("grant_type is `password` or `refresh_token`"));
        }
    };
    Ok(Json(tokens.into()))
}

/// The codes that [`revoke`] refuses with.
pub const REVOKE_REFUSALS: &[ErrorCode] =
    &[ErrorCode::RateLimited, ErrorCode::Overloaded, ErrorCode::Internal];

/// A token that is not wanted any more.
#[derive(Deserialize, ToSchema)]
pub struct Unwanted {
    /// The refresh token or access token of a session.
    #[schema(value_type = String, required = true, min_length = 1)]
    token: Option<String>,
}

/// Ends the session of a token.
///
/// A token that is nobody's, or not any more, is no error.
///
/// # Errors
/// When the token is missing, the address has tried too often, or the store fails.
#[utoipa::path(
    post, path = "/v1/token/revoke", tag = "tokens", operation_id = "revoke_token",
    request_body(content(
        (Unwanted = "application/json"),
        (Unwanted = "application/x-www-form-urlencoded"),
    )),
    responses((status = 200, description = "No session has this token any more.")),
)]
pub async fn revoke(State(api): State<AuthApi>, request: Request) -> Result<StatusCode, Problem> {
    let from = api.client(&request);
    let unwanted: Unwanted = body::read(request, Takes::JsonOrForm, api.body_bytes_max)
        .await
        .map_err(|problem| problem.oauth("invalid_request"))?;
    let Some(token) = given(unwanted.token)? else {
        return Err(invalid_request("token is missing"));
    };
    api.auth.revoke(&token, from, clock::unix_s()).await.map_err(not_revoked)?;
    Ok(StatusCode::OK)
}

/// A field with something in it. RFC 6749 takes an empty one for a missing one.
fn given(field: Option<String>) -> Result<Option<String>, Problem> {
    match field {
        Some(text) if text.contains('\0') => Err(invalid_request("a field has a NUL in it")),
        field => Ok(field.filter(|text| !text.is_empty())),
    }
}

fn invalid_request(detail: &'static str) -> Problem {
    Problem::new(ErrorCode::BadRequest).oauth("invalid_request").detail(detail)
}

fn not_logged_in(error: LogInError) -> Problem {
    match error {
        LogInError::InvalidCredentials => {
            Problem::new(ErrorCode::InvalidCredentials).oauth("invalid_grant")
        }
        LogInError::RateLimited(error) => rate_limited(error),
        LogInError::Service(error) => unserved(error, "issued"),
    }
}

fn not_refreshed(error: RefreshError) -> Problem {
    match error {
        RefreshError::InvalidGrant => Problem::new(ErrorCode::InvalidToken).oauth("invalid_grant"),
        RefreshError::RateLimited(error) => rate_limited(error),
        RefreshError::Service(error) => unserved(error, "refreshed"),
    }
}

fn not_revoked(error: RevokeError) -> Problem {
    match error {
        RevokeError::RateLimited(error) => rate_limited(error),
        RevokeError::Service(error) => unserved(error, "revoked"),
    }
}

fn rate_limited(error: TooMany) -> Problem {
    Problem::from(error).oauth("temporarily_unavailable")
}

fn unserved(error: ServiceError, what: &'static str) -> Problem {
    let is_mistake = matches!(error, ServiceError::Failed(_));
    if is_mistake {
        tracing::error!(%error, "a token could not be {what}");
    }
    let name = if is_mistake { "server_error" } else { "temporarily_unavailable" };
    Problem::from(error).oauth(name)
}
