//! `/v1/admin/bans`: users who may not come in here, whoever issues their tokens.
//!
//! Users are named by their number, as clients see it.

use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRequestParts, Path, State, rejection::FormRejection},
    http::{StatusCode, request},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    clock,
    edge::http::problem::Problem,
    engine::Engine,
    hub::bans::{BanError, Bans},
    limits::{BANS_PER_PAGE_MAX, BUSY_RETRY_AFTER},
    log::place::UserId,
    wire::code::ErrorCode,
};

/// The codes that [`ban`] refuses with.
pub const BAN_REFUSALS: &[ErrorCode] = &[
    ErrorCode::NotFound,
    ErrorCode::TooMany,
    ErrorCode::Busy,
    ErrorCode::StorageUnavailable,
    ErrorCode::Internal,
];

/// The codes that [`lift`] refuses with.
pub const LIFT_REFUSALS: &[ErrorCode] =
    &[ErrorCode::NotFound, ErrorCode::Busy, ErrorCode::StorageUnavailable, ErrorCode::Internal];

/// The codes that [`list`] refuses with.
pub const LIST_REFUSALS: &[ErrorCode] =
    &[ErrorCode::Busy, ErrorCode::StorageUnavailable, ErrorCode::Internal];

/// A user who is banned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Ban {
    /// The user's number.
    user: u32,
    /// Since when, in milliseconds since 1970.
    since_ms: u64,
}

/// Bans, by the number of the user.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct BanList {
    bans: Vec<Ban>,
    /// What to ask for as `after`, if there may be more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u32>,
}

impl From<crate::hub::bans::Ban> for Ban {
    fn from(ban: crate::hub::bans::Ban) -> Self {
        Self { user: ban.user.0, since_ms: ban.since_ms }
    }
}

/// The user that an address names by number.
#[derive(Debug)]
pub struct Numbered(UserId);

impl<S: Send + Sync> FromRequestParts<S> for Numbered {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, state: &S) -> Result<Self, Problem> {
        let number = Path::from_request_parts(parts, state).await;
        let number = number.ok().and_then(|Path(text): Path<String>| number_in(&text));
        let not_one = || Problem::new(ErrorCode::BadRequest).detail("a user is named by number");
        number.map(|number| Self(UserId(number))).ok_or_else(not_one)
    }
}

/// Digits and nothing else.
fn number_in(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Bans a user.
///
/// Its connections end within a second, and no token of it is taken, whoever issued it. Who is banned
/// already stays so.
///
/// # Errors
/// When there is no such user, as many are banned as may be, or it cannot be stored.
#[utoipa::path(
    post, path = "/v1/admin/users/{user}/ban", tag = "admin", security(("bearer" = [])),
    operation_id = "ban_user", params(("user" = u32, Path)),
    responses((status = 200, description = "Banned.", body = Ban)),
)]
pub async fn ban<E: Engine>(
    State(bans): State<Arc<Bans<E>>>,
    Numbered(user): Numbered,
) -> Result<Json<Ban>, Problem> {
    let banned = whole(async move { bans.ban(user, clock::unix_ms()).await }).await?;
    let ban = banned.map_err(|error| refusal(&error))?;
    tracing::info!(target: "hubbub::audit", user = user.0, "user banned");
    Ok(Json(ban.into()))
}

/// Lifts a ban.
///
/// # Errors
/// When there is no such user, or it cannot be stored.
#[utoipa::path(
    delete, path = "/v1/admin/users/{user}/ban", tag = "admin", security(("bearer" = [])),
    operation_id = "lift_ban", params(("user" = u32, Path)),
    responses((status = 204, description = "Not banned, or no more.")),
)]
pub async fn lift<E: Engine>(
    State(bans): State<Arc<Bans<E>>>,
    Numbered(user): Numbered,
) -> Result<StatusCode, Problem> {
    let lifted = whole(async move { bans.lift(user).await }).await?;
    lifted.map_err(|error| refusal(&error))?;
    tracing::info!(target: "hubbub::audit", user = user.0, "ban lifted");
    Ok(StatusCode::NO_CONTENT)
}

/// Does this to its end, also when the client goes away meanwhile: else a ban could be written, and be
/// in force only after the next start.
async fn whole<T: Send + 'static>(
    change: impl Future<Output = T> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(change).await.map_err(|error| {
        tracing::error!(%error, "a ban ended half-way");
        Problem::new(ErrorCode::Internal)
    })
}

/// Where a list begins.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wish {
    after: Option<String>,
}

/// Who is banned, by number.
///
/// # Errors
/// When it cannot be read.
#[utoipa::path(
    get, path = "/v1/admin/bans", tag = "admin", security(("bearer" = [])),
    operation_id = "list_bans",
    params(("after" = Option<u32>, Query, description = "The user to begin after.")),
    responses((status = 200, description = "A page of them.", body = BanList)),
)]
pub async fn list<E: Engine>(
    State(bans): State<Arc<Bans<E>>>,
    wish: Result<axum::extract::Form<Wish>, FormRejection>,
) -> Result<Json<BanList>, Problem> {
    let after = wish.ok().and_then(|axum::extract::Form(Wish { after })| match after {
        None => Some(None),
        Some(text) => number_in(&text).map(|number| Some(UserId(number))),
    });
    let bad = || Problem::new(ErrorCode::BadRequest).detail("the query is `after` with a number");
    let page = bans.list(after.ok_or_else(bad)?).await.map_err(|error| refusal(&error))?;
    let is_full = page.len() >= BANS_PER_PAGE_MAX;
    let next = page.last().filter(|_| is_full).map(|last| last.user.0);
    Ok(Json(BanList { bans: page.into_iter().map(Ban::from).collect(), next }))
}

fn refusal(error: &BanError) -> Problem {
    let code = ErrorCode::from(error);
    match code {
        ErrorCode::Internal => {
            tracing::error!(%error, "a ban failed");
            Problem::new(code)
        }
        ErrorCode::NotFound => Problem::new(code).detail("nobody has this number"),
        _ if code.again() => Problem::new(code).retry_after(BUSY_RETRY_AFTER),
        _ => Problem::new(code),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::oneshot, task::yield_now};

    use super::*;

    #[tokio::test]
    async fn what_has_begun_is_done_although_the_client_has_gone() {
        let (begin, has_begun) = oneshot::channel();
        let (go_on, may_go_on) = oneshot::channel();
        let (done, is_done) = oneshot::channel();
        let change = whole(async move {
            begin.send(()).unwrap();
            may_go_on.await.unwrap();
            done.send(()).unwrap();
        });
        tokio::select! {
            biased;
            _ = change => panic!("it waits"),
            () = yield_now() => {}
        }
        has_begun.await.unwrap();
        go_on.send(()).unwrap();
        is_done.await.unwrap();
    }
}
