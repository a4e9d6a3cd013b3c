//! `/v1/channels/{channel}/messages`: to publish, and to read what was published. Publishing is hot.

use std::{collections::VecDeque, sync::Arc};

use axum::{
    Json,
    extract::{FromRequestParts as _, Request, State},
    http::{HeaderMap, Method, StatusCode},
    response::IntoResponse as _,
};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use super::{
    channels::QuotaBody,
    chat::{
        Caller, Chat, ChatApi, Named, Query, Time, bad_request, in_time, in_time_or, limit_in,
        number_in, refused_with, taken,
    },
    members::Standing,
    openapi::count_refusal,
    problem::Problem,
    site::Shortcut,
};
use crate::{
    engine::Engine,
    hub::{directory::ChannelInfo, rights::Author},
    limits::{
        HISTORY_MESSAGES_DEFAULT, HISTORY_MESSAGES_MAX, HISTORY_PAGE_BYTES_MAX,
        IDEMPOTENCY_KEY_BYTES_MAX,
    },
    log::{
        place::{ClientMessageId, Durability, Position, Sequence, UserId},
        settings::{Posting, Settings, Visibility},
    },
    metrics::Metrics,
    wire::{
        channels::by_name,
        code::ErrorCode,
        decode::{self, PageFrom},
        encode::{Published, Reply, Run},
        stored::{Content, StoredRecord},
    },
};

/// A message that is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMessage {
    /// What it says. Not empty.
    #[schema(min_length = 1)]
    body: String,
}

/// The place that a message has.
#[derive(Serialize, ToSchema)]
pub struct Posted {
    /// The channel's name.
    #[serde(serialize_with = "text")]
    #[schema(value_type = String)]
    channel: Arc<str>,
    /// The channel's number.
    channel_id: u32,
    /// The life of the channel's numbering.
    epoch: u32,
    /// The place.
    sequence: u64,
    /// When it was put in order (RFC 3339); absent where it was before this request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    time: Option<Time>,
    /// What the answer means: `fsynced`, on this node's disk; `quorum`, on those of most of the
    /// cluster; `ephemeral`, in memory only.
    durability: &'static str,
}

fn text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

/// The codes that a post is refused with, whoever posts.
pub const POST_REFUSALS: &[ErrorCode] = &[
    ErrorCode::EmptyMessage,
    ErrorCode::UnknownChannel,
    ErrorCode::ChannelArchived,
    ErrorCode::QuotaExhausted,
    ErrorCode::IdempotencyConflict,
    ErrorCode::ChannelSealed,
];

/// Publishes a message, and answers when it is durable.
///
/// Who brings an `Idempotency-Key` may try again without writing twice: the answer to a message that is
/// there already is 200 with its place. A key belongs to the user and the channel. A decimal number from
/// 1 to 2⁶⁴ − 1 is the message's `client_message_id`, as on a WebSocket; of any other key it is the
/// XXH3 with 64 bits, as of the `id` of an imported line.
///
/// # Errors
/// When the user may not, the channel takes no more, or the key stands for another message.
#[utoipa::path(
    post, path = "/v1/channels/{channel}/messages", tag = "messages",
    operation_id = "post_message", security(("bearer" = [])), request_body = NewMessage,
    params(
        ("channel" = String, Path, description = "The channel's name."),
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
    Caller(user): Caller,
    Named(channel): Named,
    request: Request,
) -> Result<(StatusCode, Json<Posted>), Problem> {
    let key = idempotency_key(request.headers())?;
    let body = api.message(request).await?;
    let channel = api.desk.find(user, &channel).await.map_err(refused_with)?;
    api.publish(Author::User(user), channel, key, body).await
}

/// The way to [`post`] past the router, which took a tenth of what a post costs. It is for names that
/// stand in a path as they are; the router leads to the same with any name.
#[expect(clippy::result_large_err, reason = "what is not taken is the request itself, unboxed")]
pub fn shortcut<E: Engine>(api: Chat<E>, metrics: Arc<Metrics>) -> Shortcut {
    Arc::new(move |request| {
        let channel = plain_name(request.method(), request.uri().path());
        let Some(channel) = channel.map(str::to_owned) else { return Err(request) };
        let api = Arc::clone(&api);
        let answer = async move {
            let (mut parts, body) = request.into_parts();
            let caller = Caller::from_request_parts(&mut parts, &api).await?;
            let named = by_name(channel).map(Named).map_err(Problem::new)?;
            post(State(api), caller, named, Request::from_parts(parts, body)).await
        };
        let metrics = Arc::clone(&metrics);
        Ok(Box::pin(async move {
            let answer = answer.await.into_response();
            count_refusal(&metrics, &answer);
            answer
        }))
    })
}

/// The name of the channel that is posted to, if it needs no decoding.
fn plain_name<'p>(method: &Method, path: &'p str) -> Option<&'p str> {
    let name = path.strip_prefix("/v1/channels/")?.strip_suffix("/messages")?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (*method == Method::POST && !name.is_empty() && name.bytes().all(is_plain)).then_some(name)
}

/// What is said of a message whose place did not come.
const LATE: &str = "no answer in time: the message may have been stored; with the same \
    Idempotency-Key it is not stored twice";

impl<E: Engine> ChatApi<E> {
    /// Reads a message.
    pub(super) async fn message(&self, request: Request) -> Result<String, Problem> {
        let NewMessage { body } = self.body(request).await?;
        if body.is_empty() {
            return Err(ErrorCode::EmptyMessage.into());
        }
        if body.len() > self.message_bytes_max {
            return Err(Problem::new(ErrorCode::MessageTooLarge).detail("the message is too large"));
        }
        Ok(body)
    }

    /// Publishes a message, and waits until it is durable.
    pub(super) async fn publish(
        &self,
        author: Author,
        channel: ChannelInfo,
        key: Option<ClientMessageId>,
        body: String,
    ) -> Result<(StatusCode, Json<Posted>), Problem> {
        let name = Arc::clone(&channel.name);
        let publish = self.desk.publish(author, channel, key, body);
        let reply = in_time_or(LATE, publish).await?;
        let published = taken(reply, |reply| match reply {
            Reply::Published(published) => Ok(published),
            other => Err(other),
        })?;
        let Published { channel, epoch, sequence, timestamp_ms, durability } = published;
        let time = Time::known(timestamp_ms);
        let status = if time.is_some() { StatusCode::CREATED } else { StatusCode::OK };
        let posted = Posted {
            channel: name,
            channel_id: channel.0,
            epoch: epoch.0,
            sequence: sequence.0,
            time,
            durability: match durability {
                Durability::Fsynced => "fsynced",
                Durability::Quorum => "quorum",
                Durability::Ephemeral => "ephemeral",
            },
        };
        Ok((status, Json(posted)))
    }
}

/// The sender's own name for a message, as the number that the log keeps.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<ClientMessageId>, Problem> {
    let mut lines = headers.get_all("idempotency-key").iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let is_key = |key: &str| {
        (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len())
            && key.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let key = line.to_str().ok().filter(|key| is_key(key) && lines.next().is_none());
    let Some(key) = key else {
        return Err(bad_request("an Idempotency-Key is 1 to 64 visible ASCII characters, once"));
    };
    Ok(Some(ClientMessageId::of_text(key)))
}

/// A record of a channel's log: a message, which has a `body`, or a change of members or settings.
#[derive(Serialize, ToSchema)]
pub struct Entry {
    /// Its place: 1, 2, 3, …
    sequence: u64,
    /// When it was put in order, or written, if it was imported (RFC 3339).
    #[schema(value_type = String, format = DateTime)]
    time: Time,
    /// The number of the user who wrote it, or did it.
    user_id: u32,
    /// The name of that user now.
    #[serde(serialize_with = "text")]
    #[schema(value_type = String)]
    author: Arc<str>,
    /// The author's number for it, as a decimal number, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// What a message says.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<MemberChange>,
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<SettingsChange>,
}

/// What a user is from here on.
#[derive(Serialize, ToSchema)]
pub struct MemberChange {
    /// The user's number.
    user_id: u32,
    /// The name of the user now.
    #[serde(serialize_with = "text")]
    #[schema(value_type = String)]
    name: Arc<str>,
    role: Standing,
}

/// What the channel is from here on.
#[derive(Serialize, ToSchema)]
pub struct SettingsChange {
    /// Its name.
    #[serde(serialize_with = "text")]
    #[schema(value_type = String)]
    name: Arc<str>,
    topic: String,
    visibility: Visibility,
    posting: Posting,
    archived: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<QuotaBody>,
}

impl From<Settings> for SettingsChange {
    fn from(settings: Settings) -> Self {
        let Settings { name, topic, visibility, posting, archived, quota } = settings;
        Self { name, topic, visibility, posting, archived, quota: QuotaBody::of(quota) }
    }
}

/// Records of a channel's log, ascending.
#[derive(Serialize, ToSchema)]
pub struct MessageList {
    /// The channel's name.
    #[serde(serialize_with = "text")]
    #[schema(value_type = String)]
    channel: Arc<str>,
    /// The channel's number.
    channel_id: u32,
    /// The life of the channel's numbering.
    epoch: u32,
    /// The last place of the channel.
    head_sequence: u64,
    messages: Vec<Entry>,
}

/// Which records are asked for.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PageQuery {
    before: Option<String>,
    after: Option<String>,
    limit: Option<String>,
}

impl PageQuery {
    fn page(&self) -> Result<decode::Page, Problem> {
        let sequence = |text: &str| {
            let number = number_in(text).filter(|number| i64::try_from(*number).is_ok());
            number.map(Sequence).ok_or_else(|| bad_request("a sequence is a number below 2^63"))
        };
        let from = match (&self.before, &self.after) {
            (None, None) => PageFrom::Newest,
            (Some(before), None) => PageFrom::Before(sequence(before)?),
            (None, Some(after)) => PageFrom::After(sequence(after)?),
            (Some(_), Some(_)) => return Err(bad_request("either `before` or `after`")),
        };
        let limit = self.limit.as_deref();
        let limit = limit_in(limit, HISTORY_MESSAGES_DEFAULT, HISTORY_MESSAGES_MAX)?;
        Ok(decode::Page { from, limit })
    }
}

/// The codes that [`read`] refuses with.
pub const READ_REFUSALS: &[ErrorCode] = &[ErrorCode::UnknownChannel, ErrorCode::ChannelSealed];

/// Reads the newest records of a channel, or those before or after a sequence.
///
/// Sequences have no gaps, so a page is the last one in its direction if it holds sequence 1, or
/// `head_sequence`. Others have as many records as were asked for, but for those of 1 MiB and more.
///
/// # Errors
/// When there is no such channel, or it is not for this user.
#[utoipa::path(
    get, path = "/v1/channels/{channel}/messages", tag = "messages",
    operation_id = "read_messages", security(("bearer" = [])),
    params(
        ("channel" = String, Path, description = "The channel's name."),
        ("before" = Option<u64>, Query, maximum = 9223372036854775807_u64,
            description = "Those that lie before this sequence."),
        ("after" = Option<u64>, Query, maximum = 9223372036854775807_u64,
            description = "Those that lie after this sequence. Not together with `before`."),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200,
            description = "At most so many; absent: 50."),
    ),
    responses((status = 200, description = "The records.", body = MessageList)),
)]
pub async fn read<E: Engine>(
    State(api): State<Chat<E>>,
    Caller(user): Caller,
    Named(channel): Named,
    Query(page): Query<PageQuery>,
) -> Result<Json<MessageList>, Problem> {
    let page = page.page()?;
    let channel = api.desk.find(user, &channel).await.map_err(refused_with)?;
    let (name, id) = (Arc::clone(&channel.name), channel.id);
    let (head, messages) = in_time(api.entries(user, channel, page)).await??;
    Ok(Json(MessageList {
        channel: name,
        channel_id: id.0,
        epoch: head.epoch.0,
        head_sequence: head.sequence.0,
        messages,
    }))
}

impl<E: Engine> ChatApi<E> {
    /// The records of a page, and where the channel is.
    async fn entries(
        &self,
        user: UserId,
        channel: ChannelInfo,
        page: decode::Page,
    ) -> Result<(Position, Vec<Entry>), Problem> {
        let id = channel.id;
        let (head, runs) = self.gather(user, channel, page).await?;
        let mut entries = Vec::with_capacity(runs.iter().map(Run::count).sum());
        for run in &runs {
            for (sequence, record) in run.written() {
                let Some(record) = record else {
                    tracing::error!(channel = id.0, %sequence, "a record of the log cannot be read");
                    return Err(ErrorCode::Internal.into());
                };
                entries.push(self.entry(sequence, run.timestamp_ms, record).await?);
            }
        }
        Ok((head, entries))
    }

    /// Reads on until there are as many records as were asked for: one read of the log may be cut by
    /// its bytes. Each read that is not the last one brings a record at least.
    async fn gather(
        &self,
        user: UserId,
        channel: ChannelInfo,
        page: decode::Page,
    ) -> Result<(Position, VecDeque<Run>), Problem> {
        let mut runs = VecDeque::new();
        let (mut from, mut left, mut bytes) = (page.from, page.limit, 0);
        loop {
            let page = decode::Page { from, limit: left };
            let reply = self.desk.history(user, channel.clone(), page).await;
            let (head, read) = taken(reply, |reply| match reply {
                Reply::History { head, runs, .. } => Ok((head, runs)),
                other => Err(other),
            })?;
            let count: usize = read.iter().map(Run::count).sum();
            bytes += read.iter().map(|run| run.records.len()).sum::<usize>();
            left = left.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
            let first = read.first().map_or(Sequence::ZERO, |run| run.first_sequence);
            let last = first.plus((count as u64).saturating_sub(1));
            let is_end = if let PageFrom::After(_) = page.from {
                from = PageFrom::After(last);
                runs.extend(read);
                last >= head.sequence
            } else {
                from = PageFrom::Before(first);
                read.into_iter().rev().for_each(|run| runs.push_front(run));
                first.0 <= 1
            };
            if count == 0 || left == 0 || is_end || bytes >= HISTORY_PAGE_BYTES_MAX {
                return Ok((head, runs));
            }
        }
    }

    async fn entry(
        &self,
        sequence: Sequence,
        timestamp_ms: u64,
        record: StoredRecord<'_>,
    ) -> Result<Entry, Problem> {
        let StoredRecord { user, client_message_id, written_at_ms, content } = record;
        let mut entry = Entry {
            sequence: sequence.0,
            time: Time(written_at_ms.unwrap_or(timestamp_ms)),
            user_id: user.0,
            author: self.name_of(user).await?,
            id: client_message_id.map(|id| id.0.to_string()),
            body: None,
            member: None,
            settings: None,
        };
        match content {
            Content::Body(body) => entry.body = Some(body.to_owned()),
            Content::Membership { user, role, .. } => {
                let name = self.name_of(user).await?;
                entry.member = Some(MemberChange { user_id: user.0, name, role: role.into() });
            }
            Content::Settings(settings) => entry.settings = Some((*settings).into()),
            // Nobody reads a channel after its end; and what is not known has no words.
            Content::Deletion | Content::Unknown => {}
        }
        Ok(entry)
    }

    async fn name_of(&self, user: UserId) -> Result<Arc<str>, Problem> {
        let name = self.desk.directory().user_name(user).await;
        let name = name.map_err(|error| refused_with((&error).into()))?;
        Ok(name.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn key(lines: &[&'static str]) -> Result<Option<u64>, ()> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("idempotency-key", HeaderValue::from_static(line));
        }
        idempotency_key(&headers).map(|key| key.map(|key| key.0)).map_err(|_| ())
    }

    #[test]
    fn a_key_is_a_number_or_is_hashed_to_one() {
        assert_eq!(key(&[]), Ok(None));
        assert_eq!(key(&["1"]), Ok(Some(1)));
        assert_eq!(key(&["18446744073709551615"]), Ok(Some(u64::MAX)));
        // As an import numbers the id.
        assert_eq!(key(&["a-b"]), Ok(Some(17717960608275414559)));
        let hashed = ["0", "01", "+1", "18446744073709551616", "1e3", "-1"];
        for text in hashed {
            let number = key(&[text]).unwrap().unwrap();
            assert!(number > u64::from(u32::MAX), "{text}: {number}");
        }
        assert_ne!(key(&["1"]), key(&["01"]));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        const LONG: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        assert_eq!(LONG.len(), IDEMPOTENCY_KEY_BYTES_MAX + 1);
        assert!(key(&[&LONG[1..]]).is_ok());
        for lines in [&[LONG][..], &[""], &["a b"], &["a\tb"], &["a", "a"]] {
            assert_eq!(key(lines), Err(()), "{lines:?}");
        }
    }

    #[test]
    fn only_a_post_to_a_plain_name_goes_past_the_router() {
        let name = |path| plain_name(&Method::POST, path);
        assert_eq!(name("/v1/channels/lobby/messages"), Some("lobby"));
        assert_eq!(name("/v1/channels/a-b_c.9/messages"), Some("a-b_c.9"));
        for path in [
            "/v1/channels//messages",
            "/v1/channels/messages",
            "/v1/channels/lob%62y/messages",
            "/v1/channels/a/b/messages",
            "/v1/channels/lobby/messages/",
            "/v1/channels/lobby/webhooks",
            "/v2/channels/lobby/messages",
        ] {
            assert_eq!(name(path), None, "{path}");
        }
        assert_eq!(plain_name(&Method::GET, "/v1/channels/lobby/messages"), None);
    }

    #[test]
    fn a_page_is_asked_for_one_way() {
        let query = |before: Option<&str>, after: Option<&str>| PageQuery {
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
            limit: None,
        };
        let limit = HISTORY_MESSAGES_DEFAULT;
        let from = |query: PageQuery| query.page().ok();
        assert_eq!(from(query(None, None)), Some(decode::Page { from: PageFrom::Newest, limit }));
        let before = PageFrom::Before(Sequence(9));
        assert_eq!(from(query(Some("9"), None)), Some(decode::Page { from: before, limit }));
        let after = PageFrom::After(Sequence(0));
        assert_eq!(from(query(None, Some("0"))), Some(decode::Page { from: after, limit }));
        assert_eq!(from(query(Some("9"), Some("0"))), None);
        for text in ["-1", "1e9", "", "9223372036854775808", "18446744073709551616", "1;--"] {
            assert_eq!(from(query(Some(text), None)), None, "{text}");
        }
    }
}
