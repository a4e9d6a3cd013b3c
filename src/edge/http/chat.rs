//! What the addresses of channels and messages have in common: who asks, of which channel, and how
//! the hub's answers become those of HTTP.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    extract::{FromRequestParts, RawPathParams, Request},
    http::request::Parts,
};
use serde::{Deserialize, Serialize, Serializer, de::DeserializeOwned};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    bearer,
    body::{self, Takes},
    channels, members, messages,
    openapi::Routes,
    presence,
    problem::Problem,
    read, transfer, users, webhooks,
};
use crate::{
    connection::login::{Login, LoginError},
    edge::upgrade::check_query,
    engine::Engine,
    hub::desk::Desk,
    limits::{BUSY_RETRY_AFTER, CALL_TIMEOUT, EXPORTS_MAX, LISTED_DEFAULT, LISTED_MAX, Limits},
    log::place::UserId,
    wire::{
        channels::{ChannelCommand, ListPage, by_name},
        code::ErrorCode,
        decode::ChannelRef,
        encode::{Refusal, Reply},
    },
};

/// What the addresses of channels and messages need.
#[derive(Debug)]
pub struct ChatApi<E> {
    /// Does what users want.
    pub(super) desk: Arc<Desk<E>>,
    login: Arc<Login<E>>,
    /// Bytes of a body.
    pub(super) body_bytes_max: usize,
    /// Bytes of a message.
    pub(super) message_bytes_max: usize,
    /// Places for exports.
    pub(super) exports: Arc<Semaphore>,
}

/// As the handlers have it.
pub type Chat<E> = Arc<ChatApi<E>>;

/// The codes that each of the addresses refuses with, whatever it does.
const REFUSALS: &[ErrorCode] = &[
    ErrorCode::NotAuthenticated,
    ErrorCode::InvalidToken,
    ErrorCode::TokenExpired,
    ErrorCode::Forbidden,
    ErrorCode::Busy,
    ErrorCode::Overloaded,
    ErrorCode::StorageUnavailable,
    ErrorCode::Draining,
    ErrorCode::Internal,
];

impl<E: Engine> ChatApi<E> {
    /// Addresses of what this desk does, for those whom this login knows.
    #[must_use]
    pub fn new(desk: &Arc<Desk<E>>, login: &Arc<Login<E>>, limits: &Limits) -> Self {
        let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        Self {
            desk: Arc::clone(desk),
            login: Arc::clone(login),
            body_bytes_max: bytes(limits.request_body_bytes_max),
            message_bytes_max: bytes(limits.message_bytes_max),
            exports: Arc::new(Semaphore::new(EXPORTS_MAX)),
        }
    }

    /// Does what a user wants, and takes of the answer what is expected.
    pub(super) async fn perform<T>(
        &self,
        user: UserId,
        command: ChannelCommand,
        expected: impl FnOnce(Reply) -> Result<T, Reply>,
    ) -> Result<T, Problem> {
        taken(in_time(self.desk.perform(user, command)).await?, expected)
    }

    /// Reads a body.
    pub(super) async fn body<T: DeserializeOwned>(&self, request: Request) -> Result<T, Problem> {
        body::read(request, Takes::Json, self.body_bytes_max).await
    }

    /// The same where the body may be left out.
    pub(super) async fn body_or_default<T: DeserializeOwned + Default>(
        &self,
        request: Request,
    ) -> Result<T, Problem> {
        if hyper::body::Body::is_end_stream(request.body()) {
            return Ok(T::default());
        }
        self.body(request).await
    }
}

/// All of them.
pub fn routes<E: Engine>(api: &Chat<E>) -> Routes {
    let by_token = Routes::new("")
        .with(channels::__path_create, channels::create::<E>, api, channels::CREATE_REFUSALS)
        .with(channels::__path_list, channels::list::<E>, api, &[])
        .with(channels::__path_mine, channels::mine::<E>, api, &[])
        .with(channels::__path_show, channels::show::<E>, api, CHANNEL_REFUSALS)
        .with(channels::__path_change, channels::change::<E>, api, channels::CHANGE_REFUSALS)
        .with(channels::__path_delete, channels::delete::<E>, api, channels::DELETE_REFUSALS)
        .with(members::__path_list, members::list::<E>, api, CHANNEL_REFUSALS)
        .with(members::__path_join, members::join::<E>, api, members::REFUSALS)
        .with(members::__path_leave, members::leave::<E>, api, members::REFUSALS)
        .with(members::__path_set, members::set::<E>, api, members::REFUSALS)
        .with(members::__path_remove, members::remove::<E>, api, members::REFUSALS)
        .with(read::__path_mark, read::mark::<E>, api, read::REFUSALS)
        .with(presence::__path_show, presence::show::<E>, api, presence::SHOW_REFUSALS)
        .with(presence::__path_tell, presence::tell::<E>, api, presence::TELL_REFUSALS)
        .with(messages::__path_post, messages::post::<E>, api, messages::POST_REFUSALS)
        .with(messages::__path_read, messages::read::<E>, api, messages::READ_REFUSALS)
        .with(webhooks::__path_make, webhooks::make::<E>, api, webhooks::MAKE_REFUSALS)
        .with(webhooks::__path_list, webhooks::list::<E>, api, CHANNEL_REFUSALS)
        .with(webhooks::__path_remove, webhooks::remove::<E>, api, webhooks::REMOVE_REFUSALS)
        .with(users::__path_find, users::find::<E>, api, &[])
        .with(
            transfer::__path_export_channel,
            transfer::export_channel::<E>,
            api,
            transfer::EXPORT_REFUSALS,
        )
        .refusing(REFUSALS);
    let by_secret = webhooks::POST_REFUSALS;
    by_token.and(Routes::new("").with(webhooks::__path_post, webhooks::post::<E>, api, by_secret))
}

/// The codes of an address that names a channel.
pub(super) const CHANNEL_REFUSALS: &[ErrorCode] = &[ErrorCode::UnknownChannel];

/// What is expected of an answer, or the problem that it is.
pub(super) fn taken<T>(
    reply: Reply,
    expected: impl FnOnce(Reply) -> Result<T, Reply>,
) -> Result<T, Problem> {
    match expected(reply) {
        Ok(taken) => Ok(taken),
        Err(Reply::Refused(refusal)) => Err(refused(&refusal)),
        // Not what it was: there may be messages in it.
        Err(_) => {
            tracing::error!("the hub answered something else than was asked for");
            Err(Problem::new(ErrorCode::Internal))
        }
    }
}

/// What is said of an answer that did not come.
const LATE: &str = "no answer in time: what was asked for may have been done, or may yet be";

/// Waits for an answer no longer than anybody should.
pub(super) async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, Problem> {
    in_time_or(LATE, answer).await
}

/// The same, with words of its own for an answer that does not come.
pub(super) async fn in_time_or<T>(
    late: &'static str,
    answer: impl Future<Output = T>,
) -> Result<T, Problem> {
    let late = |_| Problem::new(ErrorCode::Busy).retry_after(BUSY_RETRY_AFTER).detail(late);
    timeout(CALL_TIMEOUT, answer).await.map_err(late)
}

/// The problem that a refusal of the hub is.
pub(super) fn refused(refusal: &Refusal) -> Problem {
    let problem = Problem::new(refusal.code);
    match refusal.retry_after_ms {
        0 if refusal.code == ErrorCode::Internal || !refusal.code.again() => problem,
        0 => problem.retry_after(BUSY_RETRY_AFTER),
        after_ms => problem.retry_after(Duration::from_millis(after_ms.into())),
    }
}

/// The problem that a code is.
pub(super) fn refused_with(code: ErrorCode) -> Problem {
    refused(&code.into())
}

/// A request that says what no such request may.
pub(super) fn bad_request(detail: &'static str) -> Problem {
    Problem::new(ErrorCode::BadRequest).detail(detail)
}

/// The user behind the token of a request.
#[derive(Clone, Copy, Debug)]
pub struct Caller(pub UserId);

impl<E: Engine> FromRequestParts<Chat<E>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Chat<E>) -> Result<Self, Problem> {
        check_query(parts.uri.query())?;
        let token = bearer::token(&parts.headers)?;
        match in_time(api.login.login(token)).await? {
            Ok(identity) => Ok(Self(identity.user)),
            Err(error) => Err(stranger(&error)),
        }
    }
}

fn stranger(error: &LoginError) -> Problem {
    let problem = Problem::new(error.into());
    if error.close_code().is_some() { problem } else { problem.retry_after(BUSY_RETRY_AFTER) }
}

/// The channel that an address names.
#[derive(Clone, Debug)]
pub struct Named(pub ChannelRef);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let name = segment(parts, "channel").await.unwrap_or_default();
        by_name(name).map(Self).map_err(Problem::new)
    }
}

/// The user that an address names by number.
#[derive(Clone, Copy, Debug)]
pub struct Numbered(pub UserId);

impl<S: Send + Sync> FromRequestParts<S> for Numbered {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let number = segment(parts, "user_id").await.and_then(|text| number_in(&text));
        let number = number.and_then(|number| u32::try_from(number).ok());
        number
            .map(|number| Self(UserId(number)))
            .ok_or_else(|| bad_request("a user is named by number"))
    }
}

/// A part of the path, decoded. `None`: it is not UTF-8.
pub(super) async fn segment(parts: &mut Parts, name: &str) -> Option<String> {
    let segments = RawPathParams::from_request_parts(parts, &()).await.ok()?;
    segments.iter().find(|(key, _)| *key == name).map(|(_, text)| text.to_owned())
}

/// What is asked for behind the `?` of an address. What it does not know, it refuses.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        body::read_query(&parts.uri).await.map(Self)
    }
}

/// Which page of a list is asked for.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PageQuery {
    after: Option<String>,
    limit: Option<String>,
}

impl PageQuery {
    pub(super) fn page(self) -> Result<ListPage, Problem> {
        page(self.after, self.limit.as_deref())
    }
}

/// A page of a list.
pub(super) fn page(after: Option<String>, limit: Option<&str>) -> Result<ListPage, Problem> {
    let limit = limit_in(limit, LISTED_DEFAULT, LISTED_MAX)?;
    Ok(ListPage { after, limit: limit as usize })
}

/// How many are asked for.
pub(super) fn limit_in(text: Option<&str>, default: u32, max: u32) -> Result<u32, Problem> {
    let Some(text) = text else { return Ok(default) };
    let limit = number_in(text).and_then(|limit| u32::try_from(limit).ok());
    limit
        .filter(|limit| (1..=max).contains(limit))
        .ok_or_else(|| bad_request("`limit` is a number from 1 to 200"))
}

const _: () = assert!(LISTED_MAX == 200 && crate::limits::HISTORY_MESSAGES_MAX == 200);

/// Digits and nothing else.
pub(super) fn number_in(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The last moment of the year 9999, after which there is no such text.
const TIME_MS_MAX: u64 = 253_402_300_799_999;

/// A moment, in milliseconds since 1970, as people and other programs write it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Time(pub u64);

impl Time {
    /// Unless it is not known.
    pub(super) fn known(unix_ms: u64) -> Option<Self> {
        (unix_ms > 0).then_some(Self(unix_ms))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let since_1970 = Duration::from_millis(self.0.min(TIME_MS_MAX));
        serializer.collect_str(&humantime::format_rfc3339_millis(UNIX_EPOCH + since_1970))
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let late = in_time(std::future::pending::<()>()).await.unwrap_err().into_response();
        assert_eq!(late.status(), 503);
        assert_eq!(late.headers()["retry-after"], "1");
        assert_eq!(in_time(async { 7 }).await.unwrap(), 7);
    }

    #[test]
    fn what_may_pass_later_says_when() {
        for code in ErrorCode::ALL {
            let response = refused_with(*code).into_response();
            let is_hinted = response.headers().contains_key("retry-after");
            assert_eq!(is_hinted, code.again() && *code != ErrorCode::Internal, "{code}");
        }
    }

    #[test]
    fn a_moment_is_written_to_the_millisecond_and_any_number_is_one() {
        for (unix_ms, expected) in [
            (1, "\"1970-01-01T00:00:00.001Z\""),
            (1_795_300_000_123, "\"2026-11-21T22:26:40.123Z\""),
            (u64::MAX, "\"9999-12-31T23:59:59.999Z\""),
        ] {
            assert_eq!(serde_json::to_string(&Time(unix_ms)).unwrap(), expected);
        }
    }

    #[test]
    fn a_limit_is_a_number_from_1_to_200() {
        for (text, expected) in [("1", Some(1)), ("200", Some(200)), ("007", Some(7))] {
            assert_eq!(limit_in(Some(text), 50, 200).ok(), expected, "{text}");
        }
        assert_eq!(limit_in(None, 50, 200).ok(), Some(50));
        for text in ["", "0", "201", "-1", "+1", "1e9", "1.0", " 1", "0x1", "18446744073709551616"]
        {
            assert!(limit_in(Some(text), 50, 200).is_err(), "{text}");
        }
    }
}
