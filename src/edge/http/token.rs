//! `POST /v1/token`: a password → an access token, in the shape of OAuth 2.0 (RFC 6749 §4.3).

use std::{net::IpAddr, sync::Arc};

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderName, StatusCode, header},
};
use serde::{Deserialize, Serialize};

use super::{
    body::{self, Takes},
    problem::Problem,
};
use crate::{
    auth::{Auth, LogInError},
    clock,
    wire::code::ErrorCode,
};

/// All optional, so that what is missing is answered in OAuth's words.
#[derive(Deserialize)]
struct Grant {
    grant_type: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

/// RFC 6749 §5.1.
#[derive(Debug, Serialize)]
pub struct Granted {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
}

/// What the address needs.
#[derive(Clone, Debug)]
pub struct Token {
    /// The auth service.
    pub auth: Arc<Auth>,
    /// Bytes of a body.
    pub body_bytes_max: usize,
}

/// Issues a token. The answer is not to be cached.
///
/// # Errors
/// When the password is wrong, the grant is another one, or there is no room.
pub async fn issue(
    State(token): State<Token>,
    request: Request,
) -> Result<([(HeaderName, &'static str); 1], Json<Granted>), Problem> {
    let grant: Grant = body::read(request, Takes::JsonOrForm, token.body_bytes_max)
        .await
        .map_err(|problem| problem.oauth("invalid_request"))?;
    match grant.grant_type.as_deref() {
        Some("password") => {}
        None => return Err(invalid_request("grant_type is missing")),
        Some(_) => {
            let problem = Problem::new(ErrorCode::BadRequest).oauth("unsupported_grant_type");
            return Err(problem.detail("the only grant_type is `password`"));
        }
    }
    let (Some(username), Some(password)) = (grant.username, grant.password) else {
        return Err(invalid_request("username or password is missing"));
    };
    let (from, now_s) = (IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), clock::unix_s());
    let issued = token.auth.log_in(&username, password, from, now_s).await.map_err(refusal)?;
    let granted = Granted {
        access_token: issued.access_token,
        token_type: "Bearer",
        expires_in: issued.lifetime.as_secs(),
    };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(granted)))
}

fn invalid_request(detail: &'static str) -> Problem {
    Problem::new(ErrorCode::BadRequest).oauth("invalid_request").detail(detail)
}

fn refusal(error: LogInError) -> Problem {
    match error {
        LogInError::InvalidCredentials => Problem::new(ErrorCode::InvalidCredentials)
            .status(StatusCode::UNAUTHORIZED)
            .oauth("invalid_grant"),
        LogInError::RateLimited { retry_after } => Problem::new(ErrorCode::RateLimited)
            .oauth("temporarily_unavailable")
            .retry_after(retry_after),
        LogInError::Overloaded { retry_after } => Problem::new(ErrorCode::Overloaded)
            .oauth("temporarily_unavailable")
            .retry_after(retry_after),
        LogInError::Failed(error) => {
            tracing::error!(%error, "a token could not be issued");
            Problem::new(ErrorCode::Internal).oauth("server_error")
        }
    }
}
