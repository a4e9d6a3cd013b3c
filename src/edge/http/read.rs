//! `/v1/channels/{channel}/read`: how far the user has read.

use axum::{
    Json,
    extract::{Request, State},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    chat::{Caller, Chat, Named},
    problem::Problem,
};
use crate::{
    engine::Engine,
    log::place::{Epoch, Position, Sequence},
    wire::{
        channels::ChannelCommand,
        code::ErrorCode,
        encode::{Refusal, Reply},
    },
};

/// The last message that the user has read.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewReadMarker {
    /// The life of the channel's numbering.
    epoch: u32,
    /// The place of the message.
    sequence: u64,
}

/// How far the user has read.
#[derive(Serialize, ToSchema)]
pub struct ReadMarker {
    /// The channel's number.
    channel_id: u32,
    /// The life of the channel's numbering.
    epoch: u32,
    /// The last message that counts as read.
    sequence: u64,
}

/// The codes that [`mark`] refuses with.
pub const REFUSALS: &[ErrorCode] = &[
    ErrorCode::UnknownChannel,
    ErrorCode::NotAMember,
    ErrorCode::EpochChanged,
    ErrorCode::PositionAhead,
    ErrorCode::ChannelSealed,
    ErrorCode::RateLimited,
];

/// Moves the user's read marker forward, never back. For members.
///
/// The answer is where it is then: further on, if another client of the user has read more. It is on
/// disk. A message that the user writes does not move it.
///
/// # Errors
/// When the user is no member, or the channel has no such place.
#[utoipa::path(
    put, path = "/v1/channels/{channel}/read", tag = "members", operation_id = "mark_read",
    security(("bearer" = [])), request_body = NewReadMarker,
    params(("channel" = String, Path, description = "The channel's name.")),
    responses((status = 200, description = "How far the user has read.", body = ReadMarker)),
)]
pub async fn mark<E: Engine>(
    State(api): State<Chat<E>>,
    Caller(user): Caller,
    Named(channel): Named,
    request: Request,
) -> Result<Json<ReadMarker>, Problem> {
    let NewReadMarker { epoch, sequence } = api.body(request).await?;
    let to = Position { epoch: Epoch(epoch), sequence: Sequence(sequence) };
    let command = ChannelCommand::MarkRead(channel, to);
    let mut head = None;
    let marked = |reply| match reply {
        Reply::ReadMarker(channel, read) => Ok(Json(ReadMarker {
            channel_id: channel.0,
            epoch: read.epoch.0,
            sequence: read.sequence.0,
        })),
        other => {
            head = head_of(&other);
            Err(other)
        }
    };
    let marked = api.perform(user, command, marked).await;
    marked.map_err(|problem| match head {
        Some(Position { epoch, sequence }) => {
            problem.detail(format!("the channel is at epoch {}, sequence {sequence}", epoch.0))
        }
        None => problem,
    })
}

/// Where the channel is, if that is why the place is refused.
const fn head_of(reply: &Reply) -> Option<Position> {
    match reply {
        Reply::Refused(Refusal { head, .. }) => *head,
        _ => None,
    }
}
