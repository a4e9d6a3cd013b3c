//! `/v1/channels/{channel}/presence` and `…/typing`: who is there, and to tell them that one is writing.

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    chat::{Caller, Chat, ChatApi, Named, in_time, refused_with},
    problem::Problem,
};
use crate::{
    engine::Engine,
    log::place::UserId,
    wire::{
        channels::{self, ChannelCommand, PresenceView},
        code::ErrorCode,
        encode::Reply,
    },
};

/// Who is in a channel now.
#[derive(Serialize, ToSchema)]
pub struct Presence {
    /// How many users have a subscription to it.
    user_count: u32,
    /// On how many connections.
    connection_count: u32,
    /// The users, by number; null where they are too many to be named.
    users: Option<Vec<Present>>,
}

/// A user who is there.
#[derive(Serialize, ToSchema)]
pub struct Present {
    /// The user's number.
    user_id: u32,
    /// The display name.
    name: String,
}

/// Nothing more to say.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// The codes that this is refused with.
pub const SHOW_REFUSALS: &[ErrorCode] =
    &[ErrorCode::UnknownChannel, ErrorCode::ChannelSealed, ErrorCode::RateLimited];

/// Who is in a channel: the users who are subscribed to it now, on any connection.
///
/// # Errors
/// When there is no such channel, it is not for this user, or the user asks too often.
#[utoipa::path(
    get, path = "/v1/channels/{channel}/presence", tag = "presence", operation_id = "get_presence",
    security(("bearer" = [])),
    params(("channel" = String, Path, description = "The channel's name.")),
    responses((status = 200, description = "Who is there.", body = Presence)),
)]
pub async fn show<E: Engine>(
    State(api): State<Chat<E>>,
    Caller(user): Caller,
    Named(channel): Named,
) -> Result<Json<Presence>, Problem> {
    let seen = |reply| match reply {
        Reply::Presence(view) => Ok(view),
        other => Err(other),
    };
    let view = api.perform(user, ChannelCommand::Presence(channel), seen).await?;
    in_time(api.named(view)).await?.map(Json)
}

/// The codes that this is refused with.
pub const TELL_REFUSALS: &[ErrorCode] = &[
    ErrorCode::UnknownChannel,
    ErrorCode::ChannelArchived,
    ErrorCode::QuotaExhausted,
    ErrorCode::ChannelSealed,
    ErrorCode::RateLimited,
];

/// Tells those who are in a channel that the user is writing.
///
/// They are told once: say it again every 3 seconds while it lasts. It is for who may publish.
///
/// # Errors
/// When the user may not, there is no such channel, or the user says so too often.
#[utoipa::path(
    post, path = "/v1/channels/{channel}/typing", tag = "presence", operation_id = "send_typing",
    security(("bearer" = [])),
    params(("channel" = String, Path, description = "The channel's name.")),
    responses((status = 202, description = "They are told now, as far as they have room for it.")),
)]
pub async fn tell<E: Engine>(
    State(api): State<Chat<E>>,
    Caller(user): Caller,
    Named(channel): Named,
    request: Request,
) -> Result<StatusCode, Problem> {
    let Nothing {} = api.body_or_default(request).await?;
    let told = |reply| match reply {
        Reply::TypingSent(_) => Ok(StatusCode::ACCEPTED),
        other => Err(other),
    };
    api.perform(user, ChannelCommand::Typing(channel), told).await
}

impl<E: Engine> ChatApi<E> {
    /// The same with the names of the users.
    async fn named(&self, view: PresenceView) -> Result<Presence, Problem> {
        let PresenceView { users: user_count, connections: connection_count, named, .. } = view;
        let users = match named {
            channels::Named::Everyone(users) => {
                let mut present = Vec::with_capacity(users.len());
                for UserId(user_id) in users {
                    let name = self.desk.directory().user_name(UserId(user_id)).await;
                    let name = name.map_err(|error| refused_with((&error).into()))?;
                    let name = name.map(|name| name.to_string()).unwrap_or_default();
                    present.push(Present { user_id, name });
                }
                Some(present)
            }
            channels::Named::Changes { .. } | channels::Named::TooMany => None,
        };
        Ok(Presence { user_count, connection_count, users })
    }
}
