//! `/v1/channels/{channel}/members`: who is in a channel, and as what.

use axum::{
    Json,
    extract::{Request, State},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    body::given,
    chat::{Caller, Chat, Named, Numbered, PageQuery, Query},
    problem::Problem,
};
use crate::{
    engine::Engine,
    log::settings::Role,
    wire::{
        channels::{ChannelCommand, MemberView},
        code::ErrorCode,
        encode::Reply,
    },
};

/// A user in a channel.
#[derive(Serialize, ToSchema)]
pub struct Member {
    /// The user's number.
    user_id: u32,
    /// The display name, in lists.
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    role: Standing,
    /// The place in the channel's log since which it is so; absent: since the channel was made, or
    /// nothing had to be changed.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(required = false)]
    sequence: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl From<MemberView> for Member {
    fn from(MemberView { user, name, role, sequence, .. }: MemberView) -> Self {
        Self { user_id: user.0, name, role: role.into(), sequence: sequence.0 }
    }
}

/// What a user is in a channel.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// No member.
    None,
    /// See `Role`.
    Member,
    /// See `Role`.
    Moderator,
    /// See `Role`.
    Owner,
}

impl From<Option<Role>> for Standing {
    fn from(role: Option<Role>) -> Self {
        match role {
            None => Self::None,
            Some(Role::Member) => Self::Member,
            Some(Role::Moderator) => Self::Moderator,
            Some(Role::Owner) => Self::Owner,
        }
    }
}

/// A page of members.
#[derive(Serialize, ToSchema)]
pub struct MemberList {
    members: Vec<Member>,
    /// What to ask for as `after`, if there may be more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// What a user is to be.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRole {
    /// Absent: a member.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    role: Option<Role>,
}

/// Nothing more to say.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

fn one(reply: Reply) -> Result<Json<Member>, Reply> {
    match reply {
        Reply::Member(view) => Ok(Json(view.into())),
        other => Err(other),
    }
}

/// The members of a channel, by number.
///
/// # Errors
/// When there is no such channel, or it is not for this user.
#[utoipa::path(
    get, path = "/v1/channels/{channel}/members", tag = "members", operation_id = "list_members",
    security(("bearer" = [])),
    params(
        ("channel" = String, Path, description = "The channel's name."),
        ("after" = Option<String>, Query, description = "`next` of the page before."),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200,
            description = "At most so many; absent: 50."),
    ),
    responses((status = 200, description = "A page of them.", body = MemberList)),
)]
pub async fn list<E: Engine>(
    State(api): State<Chat<E>>,
    Caller(user): Caller,
    Named(channel): Named,
    Query(page): Query<PageQuery>,
) -> Result<Json<MemberList>, Problem> {
    let listed = |reply| match reply {
        Reply::Members(views, next) => {
            Ok(Json(MemberList { members: views.into_iter().map(Member::from).collect(), next }))
        }
        other => Err(other),
    };
    api.perform(user, ChannelCommand::Members(channel, page.page()?), listed).await
}

/// The codes that changes of members are refused with.
pub const REFUSALS: &[ErrorCode] = &[
    ErrorCode::UnknownChannel,
    ErrorCode::UnknownUser,
    ErrorCode::NotAMember,
    ErrorCode::LastOwner,
    ErrorCode::TooMany,
    ErrorCode::ChannelSealed,
];

/// Makes the user a member of a public channel. Who is one already stays what it is.
///
/// # Errors
/// When there is no such channel, or it is not for this user.
#[utoipa::path(
    put, path = "/v1/channels/{channel}/members/me", tag = "members", operation_id = "join_channel",
    security(("bearer" = [])),
    params(("channel" = String, Path, description = "The channel's name.")),
    responses((status = 200, description = "What the user is now.", body = Member)),
)]
pub async fn join<E: Engine>(
    State(api): State<Chat<E>>,
    Caller(user): Caller,
    Named(channel): Named,
    request: Request,
) -> Result<Json<Member>, Problem> {
    let Nothing {} = api.body_or_default(request).await?;
    api.perform(user, ChannelCommand::Join(channel), one).await
}

/// Ends the user's own membership.
///
/// # Errors
/// When there is no such channel, or it is not for this user, or its last owner would go.
#[utoipa::path(
    delete, path = "/v1/channels/{channel}/members/me", tag = "members",
    operation_id = "leave_channel", security(("bearer" = [])),
    params(("channel" = String, Path, description = "The channel's name.")),
    responses((status = 200, description = "No member, or no more.", body = Member)),
)]
pub async fn leave<E: Engine>(
    State(api): State<Chat<E>>,
    Caller(user): Caller,
    Named(channel): Named,
) -> Result<Json<Member>, Problem> {
    api.perform(user, ChannelCommand::Leave(channel), one).await
}

/// Makes a user a member, or gives a member another role.
///
/// Moderators make members; owners give any role.
///
/// # Errors
/// When the user may not, there is no such user, or the channel would be left without an owner.
#[utoipa::path(
    put, path = "/v1/channels/{channel}/members/{user_id}", tag = "members",
    operation_id = "set_member", security(("bearer" = [])),
    request_body(content = Option<NewRole>, description = "May be left out."),
    params(
        ("channel" = String, Path, description = "The channel's name."),
        ("user_id" = u32, Path, description = "The user's number."),
    ),
    responses((status = 200, description = "What the user is now.", body = Member)),
)]
pub async fn set<E: Engine>(
    State(api): State<Chat<E>>,
    Caller(user): Caller,
    Named(channel): Named,
    Numbered(member): Numbered,
    request: Request,
) -> Result<Json<Member>, Problem> {
    let NewRole { role } = api.body_or_default(request).await?;
    let role = role.unwrap_or(Role::Member);
    api.perform(user, ChannelCommand::SetMember(channel, member, role), one).await
}

/// Ends a membership.
///
/// Moderators remove members; owners remove anybody.
///
/// # Errors
/// When the user may not, the other is no member, or the channel would be left without an owner.
#[utoipa::path(
    delete, path = "/v1/channels/{channel}/members/{user_id}", tag = "members",
    operation_id = "remove_member", security(("bearer" = [])),
    params(
        ("channel" = String, Path, description = "The channel's name."),
        ("user_id" = u32, Path, description = "The user's number."),
    ),
    responses((status = 200, description = "No member any more.", body = Member)),
)]
pub async fn remove<E: Engine>(
    State(api): State<Chat<E>>,
    Caller(user): Caller,
    Named(channel): Named,
    Numbered(member): Numbered,
) -> Result<Json<Member>, Problem> {
    api.perform(user, ChannelCommand::RemoveMember(channel, member), one).await
}
