//! `POST /v1/admin/invites`: codes that are good for making accounts.

use std::time::Duration;

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::accounts;
use crate::{
    clock,
    edge::http::{
        AuthApi,
        body::{self, Takes},
        problem::Problem,
    },
    limits::{INVITE_LIFETIME_DEFAULT, INVITE_LIFETIME_MAX, INVITE_USES_MAX},
    wire::code::ErrorCode,
};

/// What an invite is to be good for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// Accounts that it is good for; without it, one.
    #[schema(minimum = 1, maximum = 10_000)]
    uses: Option<u32>,
    /// Seconds that it is good; without it, seven days.
    #[schema(minimum = 1, maximum = 31_536_000)]
    expires_in: Option<u64>,
}

/// An invite, just made.
#[derive(Debug, Serialize, ToSchema)]
pub struct Invited {
    /// The code. It is shown this once.
    code: String,
    /// Accounts that it is good for.
    uses: u32,
    /// Until when it is good, in seconds since 1970.
    expires_at_s: u64,
}

/// The codes that [`make`] refuses with.
pub const REFUSALS: &[ErrorCode] = &[ErrorCode::Overloaded, ErrorCode::Internal];

/// Makes an invite code.
///
/// # Errors
/// When it is to be good for too much or for nothing, or the store fails.
#[utoipa::path(
    post, path = "/v1/admin/invites", tag = "admin", security(("bearer" = [])),
    operation_id = "make_invite", request_body = Invite,
    responses((status = 201, description = "The code.", body = Invited)),
)]
pub async fn make(
    State(api): State<AuthApi>,
    request: Request,
) -> Result<(StatusCode, Json<Invited>), Problem> {
    let invite: Invite = body::read(request, Takes::Json, api.body_bytes_max).await?;
    let uses = invite.uses.unwrap_or(1);
    let lifetime = invite.expires_in.map_or(INVITE_LIFETIME_DEFAULT, Duration::from_secs);
    if uses == 0 || uses > INVITE_USES_MAX {
        let detail = format!("uses must be 1 to {INVITE_USES_MAX}");
        return Err(Problem::new(ErrorCode::BadRequest).detail(detail));
    }
    if lifetime.is_zero() || lifetime > INVITE_LIFETIME_MAX {
        let detail = format!("expires_in must be 1 to {}", INVITE_LIFETIME_MAX.as_secs());
        return Err(Problem::new(ErrorCode::BadRequest).detail(detail));
    }
    let made = api.auth.invite(uses, lifetime, clock::unix_s());
    let made = made.await.map_err(accounts::refusal)?;
    let invited = Invited { code: made.code, uses: made.uses, expires_at_s: made.expires_at_s };
    Ok((StatusCode::CREATED, Json(invited)))
}
