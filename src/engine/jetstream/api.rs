//! What JetStream is asked, as requests and answers over core NATS. Nothing here knows what is stored.
//!
//! Two kinds of read: from the leader of a stream, which knows all that was acknowledged
//! ([`Api::last`], [`Api::next`]), and from any of its replicas, which may be behind ([`Api::page`]).
//! What the latter answers is committed all the same.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Request, client::RequestErrorKind};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::{sleep, timeout};

use super::subject;
use crate::limits::{
    NATS_ACK_BYTES, NATS_ACK_MESSAGES, NATS_ACK_TIMEOUT, NATS_PAGE_TIMEOUT, NATS_READ_TIMEOUT,
    NATS_RETRY_PAUSE,
};

/// JetStream behind one connection. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Api {
    client: Client,
    /// How long a small publish waits for its acknowledgement.
    ack_timeout: Duration,
}

/// A message to be stored.
#[derive(Clone, Debug)]
pub(super) struct Publish {
    pub(super) subject: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) payload: Bytes,
    /// The sequence that must be the subject's last; 0: there must be none.
    pub(super) expect: Option<u64>,
}

/// A message as it is stored.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) subject: String,
    pub(super) sequence: u64,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

impl Stored {
    /// The value of a header, if there is such.
    pub(super) fn header(&self, name: &'static str) -> Option<&str> {
        self.headers.get(name).map(async_nats::HeaderValue::as_str)
    }
}

/// Why a publish was not acknowledged.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(super) enum PublishError {
    /// Another message came first: certainly not stored.
    #[error("another message came first")]
    Moved,
    /// It may be stored.
    #[error("no acknowledgement in time")]
    Unknown,
    /// It is larger than the servers take: certainly not stored.
    #[error("the message is larger than the servers take")]
    TooLarge,
    /// Certainly not stored.
    #[error("refused with error {code}: {description}")]
    Refused {
        /// NATS's number of the error.
        code: u32,
        /// NATS's words.
        description: String,
    },
}

/// Why a request has no answer.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(super) enum ApiError {
    /// No server answered in time.
    #[error("JetStream does not answer")]
    Unavailable,
    /// A server refused it.
    #[error("JetStream refuses with error {code}: {description}")]
    Refused {
        /// NATS's number of the error.
        code: u32,
        /// NATS's words.
        description: String,
    },
    /// The answer cannot be understood.
    #[error("JetStream's answer cannot be understood")]
    Malformed,
}

/// NATS's numbers of errors: the last sequence is another; the same, while that one is on its way.
const WRONG_LAST_SEQUENCE: u32 = 10071;
const WRONG_LAST_SEQUENCE_IN_FLIGHT: u32 = 10164;
const STREAM_NOT_FOUND: u32 = 10059;
const NO_MESSAGE_FOUND: u32 = 10037;
const MESSAGE_TOO_LARGE: u32 = 10054;

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: u32,
    #[serde(default)]
    err_code: u32,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
struct Ack {
    error: Option<Refusal>,
    #[serde(default)]
    seq: u64,
}

#[derive(Deserialize)]
struct Answer<T> {
    error: Option<Refusal>,
    #[serde(flatten)]
    answer: Option<T>,
}

#[derive(Deserialize)]
struct MessageAnswer {
    message: StoredMessage,
}

#[derive(Deserialize)]
struct StoredMessage {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

/// What is known of a stream.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct StreamInfo {
    /// When it was made: no two streams of a name have that in common.
    pub(super) created: String,
    /// As the servers have it.
    pub(super) config: Value,
    pub(super) state: StreamState,
}

/// How far a stream is.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct StreamState {
    pub(super) last_seq: u64,
}

impl Api {
    pub(super) const fn new(client: Client) -> Self {
        Self { client, ack_timeout: NATS_ACK_TIMEOUT }
    }

    /// The same, which waits so long for acknowledgements.
    pub(super) fn with_ack_timeout(self, ack_timeout: Duration) -> Self {
        Self { ack_timeout, ..self }
    }

    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    /// Stores one message, and answers its sequence.
    pub(super) async fn publish(&self, publish: Publish) -> Result<u64, PublishError> {
        let headers = headers_of(&publish);
        let within = self.ack_timeout(1, publish.payload.len());
        self.publish_with(publish.subject, headers, publish.payload, within).await
    }

    /// Stores all of these messages of one stream, or none, one behind the other, and answers the
    /// sequence of the last. `after` is the sequence that must be the stream's last.
    ///
    /// # Panics
    /// When there are none.
    pub(super) async fn publish_all(
        &self,
        messages: Vec<Publish>,
        after: Option<u64>,
    ) -> Result<u64, PublishError> {
        let id = format!("{:032x}", rand::random::<u128>());
        let count = messages.len();
        let bytes = messages.iter().map(|message| message.payload.len()).sum();
        let mut last = None;
        for (index, message) in messages.into_iter().enumerate() {
            let mut headers = headers_of(&message);
            if let Some(after) = after.filter(|_| index == 0) {
                headers.insert(subject::EXPECT_STREAM, after.to_string());
            }
            headers.insert(subject::BATCH_ID, id.as_str());
            headers.insert(subject::BATCH_SEQUENCE, (index + 1).to_string());
            if index + 1 == count {
                headers.insert(subject::BATCH_COMMIT, "1");
                last = Some((message.subject, headers, message.payload));
            } else {
                let sent =
                    self.client.publish_with_headers(message.subject, headers, message.payload);
                // Without its commit nothing of it is ever stored.
                sent.await.map_err(|error| match error.kind() {
                    async_nats::client::PublishErrorKind::MaxPayloadExceeded => {
                        PublishError::TooLarge
                    }
                    _ => refused_here(&error),
                })?;
            }
        }
        let (subject, headers, payload) = last.expect("there is a message");
        self.publish_with(subject, headers, payload, self.ack_timeout(count, bytes)).await
    }

    /// How long so many messages and bytes may wait for their acknowledgement.
    fn ack_timeout(&self, messages: usize, bytes: usize) -> Duration {
        let parts = 1 + messages / NATS_ACK_MESSAGES + bytes / NATS_ACK_BYTES;
        self.ack_timeout.saturating_mul(u32::try_from(parts).unwrap_or(u32::MAX))
    }

    async fn publish_with(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
        within: Duration,
    ) -> Result<u64, PublishError> {
        let is_whole = headers.get(subject::BATCH_ID).is_none();
        let asked = async {
            loop {
                let request = Request::new().headers(headers.clone()).payload(payload.clone());
                let request = request.timeout(None);
                match self.client.send_request(subject.clone(), request).await {
                    // Nobody leads the stream, or our server has not heard who does: it went nowhere.
                    Err(error) if is_whole && error.kind() == RequestErrorKind::NoResponders => {
                        sleep(NATS_RETRY_PAUSE).await;
                    }
                    answer => return answer,
                }
            }
        };
        let answer = timeout(within, asked).await;
        let answer =
            answer.map_err(|_| PublishError::Unknown)?.map_err(|error| match error.kind() {
                RequestErrorKind::MaxPayloadExceeded => PublishError::TooLarge,
                RequestErrorKind::InvalidSubject => refused_here(&error),
                _ => PublishError::Unknown,
            })?;
        let ack: Ack =
            serde_json::from_slice(&answer.payload).map_err(|_| PublishError::Unknown)?;
        match ack.error {
            None if ack.seq > 0 => Ok(ack.seq),
            None => Err(PublishError::Unknown),
            Some(refusal) => Err(match refusal.err_code {
                WRONG_LAST_SEQUENCE | WRONG_LAST_SEQUENCE_IN_FLIGHT => PublishError::Moved,
                MESSAGE_TOO_LARGE => PublishError::TooLarge,
                // What a server could not finish, another one may have.
                _ if refusal.code >= 500 => PublishError::Unknown,
                code => PublishError::Refused { code, description: refusal.description },
            }),
        }
    }

    /// The last message of a subject, as the stream's leader has it.
    pub(super) async fn last(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Option<Stored>, ApiError> {
        self.message(stream, json!({ "last_by_subj": subject })).await
    }

    /// The first message from this sequence on whose subject fits, as the stream's leader has it.
    pub(super) async fn next(
        &self,
        stream: &str,
        from: u64,
        subjects: &str,
    ) -> Result<Option<Stored>, ApiError> {
        self.message(stream, json!({ "seq": from.max(1), "next_by_subj": subjects })).await
    }

    async fn message(&self, stream: &str, query: Value) -> Result<Option<Stored>, ApiError> {
        let subject = format!("$JS.API.STREAM.MSG.GET.{stream}");
        match self.ask::<MessageAnswer>(subject, query).await {
            Ok(answer) => stored(answer.message).map(Some).ok_or(ApiError::Malformed),
            Err(ApiError::Refused { code: NO_MESSAGE_FOUND, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Messages from this sequence on whose subject fits, up to about so many and so many bytes, but one
    /// if there is one. As any replica has them: there may be more than it knows of. Whether it knows
    /// of more.
    pub(super) async fn page(
        &self,
        stream: &str,
        from: u64,
        subjects: &str,
        count_max: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Stored>, bool), ApiError> {
        let query = json!({
            "seq": from.max(1), "next_by_subj": subjects, "batch": count_max, "max_bytes": bytes_max,
        });
        let inbox = self.client.new_inbox();
        let mut answers =
            self.client.subscribe(inbox.clone()).await.map_err(|_| ApiError::Unavailable)?;
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        let asked = self.client.publish_with_reply(subject, inbox, query.to_string().into());
        asked.await.map_err(|_| ApiError::Unavailable)?;
        let mut page = Vec::new();
        loop {
            let answer = timeout(NATS_PAGE_TIMEOUT, answers.next()).await;
            let answer = answer.ok().flatten().ok_or(ApiError::Unavailable)?;
            match answer.status.map(|status| status.as_u16()) {
                None | Some(200) => page.push(direct(answer).ok_or(ApiError::Malformed)?),
                Some(404) => return Ok((page, false)),
                Some(204) => {
                    let pending = header(&answer, subject::PENDING);
                    return Ok((page, pending.is_some_and(|pending| pending != "0")));
                }
                Some(503) => return Err(ApiError::Unavailable),
                Some(code) => {
                    let description = answer.description.unwrap_or_default();
                    return Err(ApiError::Refused { code: code.into(), description });
                }
            }
        }
    }

    /// What is known of a stream. `None`: there is none.
    pub(super) async fn stream(&self, stream: &str) -> Result<Option<StreamInfo>, ApiError> {
        match self.ask(format!("$JS.API.STREAM.INFO.{stream}"), Value::Null).await {
            Ok(info) => Ok(Some(info)),
            Err(ApiError::Refused { code: STREAM_NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a stream. It is no error if there is one with the same settings.
    pub(super) async fn create_stream(
        &self,
        stream: &str,
        config: &Value,
    ) -> Result<StreamInfo, ApiError> {
        self.ask(format!("$JS.API.STREAM.CREATE.{stream}"), config.clone()).await
    }

    /// Removes the messages of a subject below this sequence.
    pub(super) async fn purge(
        &self,
        stream: &str,
        subject: &str,
        below: u64,
    ) -> Result<(), ApiError> {
        let query = json!({ "filter": subject, "seq": below });
        let purged: Value = self.ask(format!("$JS.API.STREAM.PURGE.{stream}"), query).await?;
        if purged["success"] == true { Ok(()) } else { Err(ApiError::Malformed) }
    }

    async fn ask<T: DeserializeOwned>(&self, subject: String, query: Value) -> Result<T, ApiError> {
        let payload = if query.is_null() { Bytes::new() } else { query.to_string().into() };
        let request = Request::new().payload(payload).timeout(None);
        // While the connection is lost, even to hand the request over may wait.
        let answer = timeout(NATS_READ_TIMEOUT, self.client.send_request(subject, request)).await;
        let answer = answer.ok().and_then(Result::ok).ok_or(ApiError::Unavailable)?;
        let answer: Answer<T> =
            serde_json::from_slice(&answer.payload).map_err(|_| ApiError::Malformed)?;
        match (answer.error, answer.answer) {
            (Some(Refusal { code: 503, .. }), _) => Err(ApiError::Unavailable),
            (Some(Refusal { err_code: code, description, .. }), _) => {
                Err(ApiError::Refused { code, description })
            }
            (None, Some(answer)) => Ok(answer),
            (None, None) => Err(ApiError::Malformed),
        }
    }
}

fn headers_of(publish: &Publish) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &publish.headers {
        headers.insert(*name, value.as_str());
    }
    if let Some(expect) = publish.expect {
        headers.insert(subject::EXPECT_SUBJECT, expect.to_string());
    }
    headers
}

/// What never left this process.
fn refused_here(error: &impl std::fmt::Display) -> PublishError {
    PublishError::Refused { code: 0, description: error.to_string() }
}

fn header<'m>(message: &'m Message, name: &'static str) -> Option<&'m str> {
    message.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str)
}

/// A message that a replica answered with, or that a server told of: where it is stored is in its
/// headers.
pub(super) fn direct(message: Message) -> Option<Stored> {
    let sequence = header(&message, subject::SEQUENCE)?.parse().ok()?;
    let subject = header(&message, subject::SUBJECT)?.to_owned();
    let Message { headers, payload, .. } = message;
    Some(Stored { subject, sequence, headers: headers.unwrap_or_default(), payload })
}

fn stored(message: StoredMessage) -> Option<Stored> {
    let StoredMessage { subject, seq: sequence, hdrs, data } = message;
    let payload = BASE64_STANDARD.decode(data).ok()?.into();
    let mut headers = HeaderMap::new();
    let lines = BASE64_STANDARD.decode(hdrs).ok()?;
    for line in std::str::from_utf8(&lines).ok()?.lines().skip(1) {
        if let Some((name, value)) = line.split_once(':') {
            headers.append(name, value.trim());
        }
    }
    Some(Stored { subject, sequence, headers, payload })
}
