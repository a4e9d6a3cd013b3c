//! `POST /v1/accounts`: makes an account.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};

use super::{
    body::{self, Takes},
    problem::Problem,
};
use crate::{
    auth::{Auth, RegisterError},
    clock,
    wire::code::ErrorCode,
};

#[derive(Deserialize)]
struct NewAccount {
    username: String,
    password: String,
    invite: Option<String>,
}

/// The account that was made.
#[derive(Debug, Serialize)]
pub struct Created {
    username: String,
    user: String,
}

/// What the address needs.
#[derive(Clone, Debug)]
pub struct Accounts {
    /// The auth service.
    pub auth: Arc<Auth>,
    /// Bytes of a body.
    pub body_bytes_max: usize,
}

/// Makes an account.
///
/// # Errors
/// When registration is closed, name or password are not allowed, or there is no room.
pub async fn create(
    State(accounts): State<Accounts>,
    request: Request,
) -> Result<(StatusCode, Json<Created>), Problem> {
    let new: NewAccount = body::read(request, Takes::Json, accounts.body_bytes_max).await?;
    let from = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    let registered =
        accounts.auth.register(&new.username, new.password, new.invite, from, clock::unix_s());
    let account = registered.await.map_err(refusal)?;
    let created = Created { username: account.username.as_str().to_owned(), user: account.subject };
    Ok((StatusCode::CREATED, Json(created)))
}

fn refusal(error: RegisterError) -> Problem {
    match error {
        RegisterError::Username(error) => {
            Problem::new(ErrorCode::InvalidUsername).detail(error.to_string())
        }
        RegisterError::Password(error) => {
            Problem::new(ErrorCode::InvalidPassword).detail(error.to_string())
        }
        RegisterError::Closed => Problem::new(ErrorCode::Forbidden)
            .detail("accounts are made by the operator of this server"),
        RegisterError::InvalidInvite => {
            Problem::new(ErrorCode::Forbidden).detail("an invite code is needed")
        }
        RegisterError::RateLimited { retry_after } => {
            Problem::new(ErrorCode::RateLimited).retry_after(retry_after)
        }
        RegisterError::Taken => Problem::new(ErrorCode::UsernameTaken),
        RegisterError::Overloaded { retry_after } => {
            Problem::new(ErrorCode::Overloaded).retry_after(retry_after)
        }
        RegisterError::Failed(error) => {
            tracing::error!(%error, "an account could not be made");
            Problem::new(ErrorCode::Internal)
        }
    }
}
