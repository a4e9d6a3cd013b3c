//! Webhooks: `/v1/channels/{channel}/webhooks` for who runs the channel, `/v1/webhooks/…` for programs.

use axum::{
    Json,
    extract::{FromRequestParts, Request, State},
    http::{StatusCode, request::Parts},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    chat::{Caller, Chat, Named, Time, bad_request, in_time, refused_with, segment},
    messages::{Posted, idempotency_key},
    problem::Problem,
};
use crate::{
    engine::Engine,
    hub::{
        rights::Author,
        webhooks::{WebhookId, is_webhook_name},
    },
    wire::code::ErrorCode,
};

/// A webhook that is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// The name that its messages have: 1 to 64 bytes, without control characters.
    #[schema(min_length = 1, max_length = 64)]
    name: String,
}

/// A webhook, but for its secret.
#[derive(Serialize, ToSchema)]
pub struct Webhook {
    webhook_id: String,
    /// The name that its messages have.
    name: String,
    /// The number of the user that its messages have.
    user_id: u32,
    /// The number of the user who made it.
    created_by: u32,
    /// When it was made (RFC 3339).
    #[schema(value_type = String, format = DateTime)]
    created: Time,
}

/// A webhook that was just made.
#[derive(Serialize, ToSchema)]
pub struct WebhookMade {
    webhook_id: String,
    /// The name that its messages have.
    name: String,
    /// Where to post to, as a path at this server. Its last part is the secret, which is shown this once.
    url: String,
}

/// The webhooks of a channel: 32 at most.
#[derive(Serialize, ToSchema)]
pub struct WebhookList {
    webhooks: Vec<Webhook>,
}

/// The codes that [`make`] refuses with.
pub const MAKE_REFUSALS: &[ErrorCode] = &[ErrorCode::UnknownChannel, ErrorCode::TooMany];

/// Makes a webhook: an address at which a program posts to the channel. For moderators and owners.
///
/// What is posted there is by a user of the webhook's name, whoever may publish in the channel.
///
/// # Errors
/// When the user may not, or the channel has as many as it may.
#[utoipa::path(
    post, path = "/v1/channels/{channel}/webhooks", tag = "webhooks",
    operation_id = "make_webhook", security(("bearer" = [])), request_body = NewWebhook,
    params(("channel" = String, Path, description = "The channel's name.")),
    responses((status = 201, description = "The webhook.", body = WebhookMade)),
)]
pub async fn make<E: Engine>(
    State(api): State<Chat<E>>,
    Caller(user): Caller,
    Named(channel): Named,
    request: Request,
) -> Result<(StatusCode, Json<WebhookMade>), Problem> {
    let NewWebhook { name } = api.body(request).await?;
    if !is_webhook_name(&name) {
        return Err(bad_request("a name has 1 to 64 bytes and no control characters"));
    }
    let made = in_time(api.desk.make_webhook(user, &channel, &name)).await?;
    let (webhook, secret) = made.map_err(refused_with)?;
    let url = format!("/v1/webhooks/{}/{}", webhook.id, secret.expose());
    let made = WebhookMade { webhook_id: webhook.id.to_string(), name, url };
    Ok((StatusCode::CREATED, Json(made)))
}

/// The webhooks of a channel. For moderators and owners.
///
/// # Errors
/// When the user may not know.
#[utoipa::path(
    get, path = "/v1/channels/{channel}/webhooks", tag = "webhooks",
    operation_id = "list_webhooks", security(("bearer" = [])),
    params(("channel" = String, Path, description = "The channel's name.")),
    responses((status = 200, description = "All of them.", body = WebhookList)),
)]
pub async fn list<E: Engine>(
    State(api): State<Chat<E>>,
    Caller(user): Caller,
    Named(channel): Named,
) -> Result<Json<WebhookList>, Problem> {
    let listed = in_time(api.desk.list_webhooks(user, &channel)).await?;
    let webhooks = listed.map_err(refused_with)?.into_iter().map(|webhook| Webhook {
        webhook_id: webhook.id.to_string(),
        name: webhook.name,
        user_id: webhook.user.0,
        created_by: webhook.created_by.0,
        created: Time(webhook.created_at_ms),
    });
    Ok(Json(WebhookList { webhooks: webhooks.collect() }))
}

/// The webhook that an address names, if it names one.
#[derive(Clone, Copy, Debug)]
pub struct Which(Option<WebhookId>);

impl<S: Send + Sync> FromRequestParts<S> for Which {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let id = segment(parts, "webhook_id").await;
        Ok(Self(id.and_then(|id| id.parse().ok())))
    }
}

/// The codes that [`remove`] refuses with.
pub const REMOVE_REFUSALS: &[ErrorCode] = &[ErrorCode::UnknownChannel, ErrorCode::NotFound];

/// Removes a webhook: nothing can be posted there any more. For moderators and owners.
///
/// # Errors
/// When the user may not, or the channel has no such webhook.
#[utoipa::path(
    delete, path = "/v1/channels/{channel}/webhooks/{webhook_id}", tag = "webhooks",
    operation_id = "remove_webhook", security(("bearer" = [])),
    params(
        ("channel" = String, Path, description = "The channel's name."),
        ("webhook_id" = String, Path, description = "The webhook."),
    ),
    responses((status = 204, description = "It is no more.")),
)]
pub async fn remove<E: Engine>(
    State(api): State<Chat<E>>,
    Caller(user): Caller,
    Named(channel): Named,
    Which(id): Which,
) -> Result<StatusCode, Problem> {
    let removed = in_time(api.desk.remove_webhook(user, &channel, id)).await?;
    removed.map_err(refused_with)?;
    Ok(StatusCode::NO_CONTENT)
}

/// What stands in the address of a webhook.
pub struct Address {
    id: String,
    secret: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Address {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let id = segment(parts, "webhook_id").await.unwrap_or_default();
        let secret = segment(parts, "secret").await.unwrap_or_default();
        Ok(Self { id, secret })
    }
}

/// The codes that [`post`] refuses with.
pub const POST_REFUSALS: &[ErrorCode] = &[
    ErrorCode::EmptyMessage,
    ErrorCode::NotFound,
    ErrorCode::ChannelArchived,
    ErrorCode::QuotaExhausted,
    ErrorCode::IdempotencyConflict,
    ErrorCode::ChannelSealed,
    ErrorCode::Busy,
    ErrorCode::StorageUnavailable,
    ErrorCode::Draining,
    ErrorCode::Internal,
];

/// Publishes a message as the webhook, and answers when it is durable.
///
/// The address is all that is needed: who has it may post. As for other messages, an `Idempotency-Key`
/// makes a retry harmless.
///
/// # Errors
/// When there is no such webhook, the secret is not its, or the channel takes no more.
#[utoipa::path(
    post, path = "/v1/webhooks/{webhook_id}/{secret}", tag = "webhooks",
    operation_id = "post_to_webhook", request_body = super::messages::NewMessage,
    params(
        ("webhook_id" = String, Path, description = "The webhook."),
        ("secret" = String, Path, description = "Its secret."),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 64,
            description = "The sender's own name for the message: 1 to 64 visible ASCII characters."),
    ),
    responses(
        (status = 201, description = "The message is durable.", body = Posted),
        (status = 200, description = "It was there already.", body = Posted),
    ),
)]
pub async fn post<E: Engine>(
    State(api): State<Chat<E>>,
    Address { id, secret }: Address,
    request: Request,
) -> Result<(StatusCode, Json<Posted>), Problem> {
    let opened = in_time(api.desk.webhook(&id, &secret)).await?;
    let (user, channel) = opened.map_err(refused_with)?;
    let key = idempotency_key(request.headers())?;
    let body = api.message(request).await?;
    let author = Author::Webhook(user);
    // The channel may have gone meanwhile: then there is no such webhook.
    let gone = |problem: Problem| match problem.code() {
        ErrorCode::UnknownChannel => ErrorCode::NotFound.into(),
        _ => problem,
    };
    api.publish(author, channel, key, body).await.map_err(gone)
}
