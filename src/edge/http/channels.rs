//! `/v1/channels`: what there is, and what it is.

use std::num::NonZeroU64;

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    body::given,
    chat::{Caller, Chat, Named, PageQuery, Query, Time, bad_request, page},
    problem::Problem,
};
use crate::{
    engine::Engine,
    log::{
        place::Position,
        settings::{Posting, Quota, Role, Settings, Usage, Visibility, is_channel_name, is_topic},
    },
    wire::{
        channels::{ChannelCommand, ChannelFilter, ChannelView, Update},
        code::ErrorCode,
        encode::Reply,
    },
};

/// A channel, as its reader sees it.
#[derive(Serialize, ToSchema)]
pub struct Channel {
    /// Its number: the same for as long as there is the channel.
    channel_id: u32,
    /// Its name, which may change.
    name: String,
    /// What it is about, for people. May be empty.
    topic: String,
    visibility: Visibility,
    posting: Posting,
    /// It takes no message any more.
    archived: bool,
    /// What it accepts in its whole life, if that is bounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<QuotaBody>,
    /// How much it has accepted, if it has a quota.
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<Used>,
    member_count: u32,
    /// What the reader is in it; absent: no member, or not known in this list.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
    /// When it was made (RFC 3339), if that was written down.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    created: Option<Time>,
    /// Where the channel is now, in the list of the user's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    head: Option<Place>,
    /// The last place that the user has read, in the list of the user's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    read_sequence: Option<u64>,
    /// How many places come after that, in the list of the user's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    unread_count: Option<u64>,
}

/// A place in a channel.
#[derive(Clone, Copy, Serialize, ToSchema)]
pub struct Place {
    /// The life of the channel's numbering.
    epoch: u32,
    /// The number of the record there; 0: before the first.
    sequence: u64,
}

impl From<Position> for Place {
    fn from(Position { epoch, sequence }: Position) -> Self {
        Self { epoch: epoch.0, sequence: sequence.0 }
    }
}

impl From<ChannelView> for Channel {
    fn from(view: ChannelView) -> Self {
        let Settings { name, topic, visibility, posting, archived, quota } = view.settings;
        Self {
            channel_id: view.id.0,
            name: name.to_string(),
            topic,
            visibility,
            posting,
            archived,
            quota: QuotaBody::of(quota),
            used: view.used.map(|Usage { messages, bytes }| Used { messages, bytes }),
            member_count: view.member_count,
            role: view.role,
            created: Time::known(view.created_at_ms),
            head: view.read.map(|read| read.head.into()),
            read_sequence: view.read.map(|read| read.read.0),
            unread_count: view.read.map(|read| read.unread()),
        }
    }
}

/// What a channel accepts in its whole life. A bound that is absent is none.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Quota)]
pub struct QuotaBody {
    /// Messages, at least 1.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u64, required = false, format = "uint64", minimum = 1)]
    messages_max: Option<NonZeroU64>,
    /// Bytes of their bodies, at least 1.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u64, required = false, format = "uint64", minimum = 1)]
    bytes_max: Option<NonZeroU64>,
}

impl QuotaBody {
    /// `None` where nothing is bounded.
    pub(super) fn of(quota: Quota) -> Option<Self> {
        let Quota { messages_max, bytes_max } = quota;
        (!quota.is_none()).then_some(Self { messages_max, bytes_max })
    }

    const fn quota(self) -> Quota {
        Quota { messages_max: self.messages_max, bytes_max: self.bytes_max }
    }
}

/// How much a channel with a quota has accepted.
#[derive(Serialize, ToSchema)]
pub struct Used {
    /// Messages.
    messages: u64,
    /// Bytes of their bodies.
    bytes: u64,
}

/// A page of channels.
#[derive(Serialize, ToSchema)]
pub struct ChannelList {
    channels: Vec<Channel>,
    /// What to ask for as `after`, if there may be more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A channel that is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewChannel {
    /// 1 to 64 lower-case letters, digits and `.` `_` `-` between them.
    #[schema(min_length = 1, max_length = 64, pattern = "^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$")]
    name: String,
    /// What it is about: at most 512 bytes, without control characters.
    #[serde(default)]
    #[schema(max_length = 512)]
    topic: String,
    /// Absent: public.
    #[serde(default)]
    visibility: Visibility,
    /// Absent: everyone.
    #[serde(default)]
    posting: Posting,
    /// Absent: no bound.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    quota: Option<QuotaBody>,
}

/// What is to be otherwise. What is absent stays as it is.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSettings {
    /// Another name: the old one is free then.
    #[serde(default, deserialize_with = "given")]
    #[schema(
        nullable = false,
        min_length = 1,
        max_length = 64,
        pattern = "^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$"
    )]
    name: Option<String>,
    /// What it is about: at most 512 bytes, without control characters.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false, max_length = 512)]
    topic: Option<String>,
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    visibility: Option<Visibility>,
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    posting: Option<Posting>,
    /// Whether it takes no message any more.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    archived: Option<bool>,
    /// All of the quota. Only where there has been one from the beginning: it can be another one, but not
    /// none.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    quota: Option<QuotaBody>,
}

fn check_name(name: &str) -> Result<(), Problem> {
    if is_channel_name(name) { Ok(()) } else { Err(ErrorCode::InvalidChannelName.into()) }
}

fn check_topic(topic: &str) -> Result<(), Problem> {
    if is_topic(topic) {
        return Ok(());
    }
    Err(bad_request("a topic has at most 512 bytes and no control characters"))
}

fn one(reply: Reply) -> Result<Json<Channel>, Reply> {
    match reply {
        Reply::Channel(view) => Ok(Json(Channel::from(*view))),
        other => Err(other),
    }
}

fn listed(reply: Reply) -> Result<Json<ChannelList>, Reply> {
    match reply {
        Reply::Channels(views, next) => {
            let channels = views.into_iter().map(Channel::from).collect();
            Ok(Json(ChannelList { channels, next }))
        }
        other => Err(other),
    }
}

/// The codes that [`create`] refuses with.
pub const CREATE_REFUSALS: &[ErrorCode] =
    &[ErrorCode::InvalidChannelName, ErrorCode::ChannelExists];

/// Makes a channel. Its maker becomes its owner.
///
/// # Errors
/// When the name has no allowed form or is taken.
#[utoipa::path(
    post, path = "/v1/channels", tag = "channels", operation_id = "create_channel",
    security(("bearer" = [])), request_body = NewChannel,
    responses((status = 201, description = "The channel.", body = Channel)),
)]
pub async fn create<E: Engine>(
    State(api): State<Chat<E>>,
    Caller(user): Caller,
    request: Request,
) -> Result<(StatusCode, Json<Channel>), Problem> {
    let NewChannel { name, topic, visibility, posting, quota } = api.body(request).await?;
    check_name(&name)?;
    check_topic(&topic)?;
    let quota = quota.map(QuotaBody::quota).unwrap_or_default();
    let open = Settings::open(&name);
    let settings = Settings { topic, visibility, posting, quota, ..open };
    let made = api.perform(user, ChannelCommand::Create(settings), one).await?;
    Ok((StatusCode::CREATED, made))
}

/// Which channels are listed.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListQuery {
    prefix: String,
    archived: Option<String>,
    after: Option<String>,
    limit: Option<String>,
}

/// The public channels, by name.
///
/// A page may be short although more follow: `next` says whether there may be more.
///
/// # Errors
/// When the query is none.
#[utoipa::path(
    get, path = "/v1/channels", tag = "channels", operation_id = "list_channels",
    security(("bearer" = [])),
    params(
        ("prefix" = Option<String>, Query, description = "Those whose names begin so."),
        ("archived" = Option<bool>, Query, description = "Archived ones only, or others only."),
        ("after" = Option<String>, Query, description = "`next` of the page before."),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200,
            description = "At most so many; absent: 50."),
    ),
    responses((status = 200, description = "A page of them.", body = ChannelList)),
)]
pub async fn list<E: Engine>(
    State(api): State<Chat<E>>,
    Caller(user): Caller,
    Query(ListQuery { prefix, archived, after, limit }): Query<ListQuery>,
) -> Result<Json<ChannelList>, Problem> {
    let archived = match archived.as_deref() {
        None => None,
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(_) => return Err(bad_request("`archived` is true or false")),
    };
    let page = page(after, limit.as_deref())?;
    let filter = ChannelFilter { prefix, archived };
    api.perform(user, ChannelCommand::List(filter, page), listed).await
}

/// The channels that the user is a member of, and how much is unread there.
///
/// # Errors
/// When the query is none.
#[utoipa::path(
    get, path = "/v1/me/channels", tag = "channels", operation_id = "list_my_channels",
    security(("bearer" = [])),
    params(
        ("after" = Option<String>, Query, description = "`next` of the page before."),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200,
            description = "At most so many; absent: 50."),
    ),
    responses((status = 200, description = "A page of them.", body = ChannelList)),
)]
pub async fn mine<E: Engine>(
    State(api): State<Chat<E>>,
    Caller(user): Caller,
    Query(page): Query<PageQuery>,
) -> Result<Json<ChannelList>, Problem> {
    api.perform(user, ChannelCommand::Memberships(page.page()?), listed).await
}

/// A channel.
///
/// # Errors
/// When there is none of this name, or it is not for this user.
#[utoipa::path(
    get, path = "/v1/channels/{channel}", tag = "channels", operation_id = "get_channel",
    security(("bearer" = [])),
    params(("channel" = String, Path, description = "The channel's name.")),
    responses((status = 200, description = "The channel.", body = Channel)),
)]
pub async fn show<E: Engine>(
    State(api): State<Chat<E>>,
    Caller(user): Caller,
    Named(channel): Named,
) -> Result<Json<Channel>, Problem> {
    api.perform(user, ChannelCommand::Get(channel), one).await
}

/// The codes that [`change`] refuses with.
pub const CHANGE_REFUSALS: &[ErrorCode] = &[
    ErrorCode::InvalidChannelName,
    ErrorCode::UnknownChannel,
    ErrorCode::ChannelExists,
    ErrorCode::ChannelSealed,
];

/// Changes a channel's settings. For owners.
///
/// A change is an entry of the channel's log, with a sequence of its own.
///
/// # Errors
/// When the user may not, or the new name has no allowed form or is taken.
#[utoipa::path(
    patch, path = "/v1/channels/{channel}", tag = "channels", operation_id = "change_channel",
    security(("bearer" = [])), request_body = NewSettings,
    params(("channel" = String, Path, description = "The channel's name.")),
    responses((status = 200, description = "The channel as it is now.", body = Channel)),
)]
pub async fn change<E: Engine>(
    State(api): State<Chat<E>>,
    Caller(user): Caller,
    Named(channel): Named,
    request: Request,
) -> Result<Json<Channel>, Problem> {
    let wanted: NewSettings = api.body(request).await?;
    let NewSettings { name, topic, visibility, posting, archived, quota } = wanted;
    name.as_deref().map_or(Ok(()), check_name)?;
    topic.as_deref().map_or(Ok(()), check_topic)?;
    let quota = quota.map(QuotaBody::quota);
    let update = Update { name, topic, visibility, posting, archived, quota };
    let changed = api.perform(user, ChannelCommand::Update(channel, update), one).await;
    changed.map_err(|problem| match problem.code() {
        ErrorCode::BadRequest => {
            problem.detail("a quota is there from the beginning, or not at all")
        }
        _ => problem,
    })
}

/// The codes that [`delete`] refuses with.
pub const DELETE_REFUSALS: &[ErrorCode] = &[ErrorCode::UnknownChannel, ErrorCode::ChannelSealed];

/// Removes a channel with all that is in it. For owners.
///
/// Its name is free then. A channel that gets it has another number, and a later epoch.
///
/// # Errors
/// When the user may not.
#[utoipa::path(
    delete, path = "/v1/channels/{channel}", tag = "channels", operation_id = "delete_channel",
    security(("bearer" = [])),
    params(("channel" = String, Path, description = "The channel's name.")),
    responses((status = 204, description = "There is no such channel any more.")),
)]
pub async fn delete<E: Engine>(
    State(api): State<Chat<E>>,
    Caller(user): Caller,
    Named(channel): Named,
) -> Result<StatusCode, Problem> {
    let deleted = |reply| match reply {
        Reply::ChannelDeleted(_) => Ok(StatusCode::NO_CONTENT),
        other => Err(other),
    };
    api.perform(user, ChannelCommand::Delete(channel), deleted).await
}
