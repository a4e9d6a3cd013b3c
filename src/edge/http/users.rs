//! `/v1/users`: who has a name.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    chat::{Caller, Chat, Query, bad_request},
    problem::Problem,
};
use crate::{
    engine::Engine,
    limits::USER_NAME_BYTES_MAX,
    wire::{channels::ChannelCommand, encode::Reply},
};

/// A user.
#[derive(Serialize, ToSchema)]
pub struct User {
    /// The user's number.
    user_id: u32,
    /// The display name.
    name: String,
}

/// Users of one name.
#[derive(Serialize, ToSchema)]
pub struct UserList {
    users: Vec<User>,
}

/// Who is looked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    name: String,
}

/// The users of a name, at most 50. Display names are not unique.
///
/// # Errors
/// When the query is none.
#[utoipa::path(
    get, path = "/v1/users", tag = "members", operation_id = "find_users",
    security(("bearer" = [])),
    params(("name" = String, Query, min_length = 1, max_length = 64,
        description = "The whole name, as it is written.")),
    responses((status = 200, description = "Who has it.", body = UserList)),
)]
pub async fn find<E: Engine>(
    State(api): State<Chat<E>>,
    Caller(user): Caller,
    Query(Wanted { name }): Query<Wanted>,
) -> Result<Json<UserList>, Problem> {
    if name.is_empty() || name.len() > USER_NAME_BYTES_MAX {
        return Err(bad_request("a name has 1 to 64 bytes"));
    }
    let found = |reply| match reply {
        Reply::Users(users) => {
            let named = users.into_iter().map(|(user, name)| User { user_id: user.0, name });
            Ok(Json(UserList { users: named.collect() }))
        }
        other => Err(other),
    };
    api.perform(user, ChannelCommand::FindUsers(name), found).await
}
