//! A refusal as an RFC 9457 body, with the number of [`ErrorCode`].

use std::{borrow::Cow, time::Duration};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    auth::{ServiceError, admission::TooMany},
    wire::code::ErrorCode,
};

/// An HTTP refusal. Its status follows from the code, unless HTTP has a finer one.
#[derive(Debug)]
pub struct Problem {
    code: ErrorCode,
    status: StatusCode,
    detail: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
    /// RFC 6749's name for it, on the token endpoint.
    oauth: Option<&'static str>,
}

/// A refusal (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Body<'a> {
    /// `urn:hubbub:error:` and the name.
    r#type: String,
    /// What the code means.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// The number of the code, as in frames and in `hubbub explain`.
    code: u16,
    /// The name of the code.
    name: &'static str,
    /// Whether trying again, unchanged, may help.
    retryable: bool,
    /// What about this very request was wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    /// Milliseconds after which another attempt may pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// RFC 6749's name for it, from the token endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    /// What stands in `title`, for clients of OAuth.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_description: Option<&'static str>,
}

impl Problem {
    /// A refusal with this code.
    #[must_use]
    pub fn new(code: ErrorCode) -> Self {
        Self { code, status: status(code), detail: None, retry_after: None, oauth: None }
    }

    /// The code.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        self.code
    }

    /// What about this very request was wrong. Never anything secret of it.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// A finer status than the code's own.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// When a retry may pass.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// RFC 6749's name for it.
    #[must_use]
    pub fn oauth(mut self, error: &'static str) -> Self {
        self.oauth = Some(error);
        self
    }
}

impl From<ErrorCode> for Problem {
    fn from(code: ErrorCode) -> Self {
        Self::new(code)
    }
}

/// What a service that could do nothing about a request says. Who has the failure logs it.
impl From<TooMany> for Problem {
    fn from(TooMany { retry_after }: TooMany) -> Self {
        Self::new(ErrorCode::RateLimited).retry_after(retry_after)
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Overloaded { retry_after } => {
                Self::new(ErrorCode::Overloaded).retry_after(retry_after)
            }
            ServiceError::Failed(_) => Self::new(ErrorCode::Internal),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            r#type: format!("urn:hubbub:error:{}", self.code.name()),
            title: self.code.sentence(),
            status: self.status.as_u16(),
            code: self.code.number(),
            name: self.code.name(),
            retryable: self.code.again(),
            detail: self.detail.as_deref(),
            retry_after_ms: self
                .retry_after
                .map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            error: self.oauth,
            error_description: self.oauth.map(|_| self.code.sentence()),
        };
        let mut response = (self.status, Json(body)).into_response();
        // For who counts it.
        response.extensions_mut().insert(self.code);
        let headers = response.headers_mut();
        let content_type = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, content_type);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(after) = self.retry_after {
            // The header counts whole seconds; rounding down would invite a retry too early.
            let seconds = after.as_millis().div_ceil(1000).max(1);
            if let Ok(value) = HeaderValue::from_str(&seconds.to_string()) {
                headers.insert(header::RETRY_AFTER, value);
            }
        }
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 6750 §3: a token that was brought and is not good is told apart from none.
            let challenge = match self.code {
                ErrorCode::InvalidToken | ErrorCode::TokenExpired => {
                    "Bearer error=\"invalid_token\""
                }
                _ => "Bearer",
            };
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

/// The HTTP status of a code, where there is no finer one.
#[must_use]
pub fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadRequest
        | ErrorCode::UnknownCommand
        | ErrorCode::InvalidUsername
        | ErrorCode::InvalidPassword
        | ErrorCode::InvalidChannelName
        | ErrorCode::EmptyMessage => StatusCode::BAD_REQUEST,
        ErrorCode::NotAuthenticated
        | ErrorCode::InvalidToken
        | ErrorCode::TokenExpired
        | ErrorCode::InvalidCredentials => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden | ErrorCode::WrongUser => StatusCode::FORBIDDEN,
        ErrorCode::NotFound
        | ErrorCode::UnknownChannel
        | ErrorCode::UnknownUser
        | ErrorCode::NotAMember => StatusCode::NOT_FOUND,
        ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::UsernameTaken
        | ErrorCode::ChannelExists
        | ErrorCode::AlreadySubscribed
        | ErrorCode::NotSubscribed
        | ErrorCode::PositionAhead
        | ErrorCode::IdempotencyConflict
        | ErrorCode::ChannelArchived
        | ErrorCode::LastOwner
        | ErrorCode::QuotaExhausted
        | ErrorCode::ChannelSealed => StatusCode::CONFLICT,
        ErrorCode::EpochChanged => StatusCode::GONE,
        ErrorCode::MessageTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ErrorCode::RateLimited | ErrorCode::TooMany => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorCode::Busy
        | ErrorCode::Overloaded
        | ErrorCode::StorageUnavailable
        | ErrorCode::Draining => StatusCode::SERVICE_UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    use super::*;

    async fn rendered(problem: Problem) -> (StatusCode, axum::http::HeaderMap, Value) {
        let (parts, body) = problem.into_response().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_problem_says_everything_the_code_says() {
        let (status, headers, body) =
            rendered(Problem::new(ErrorCode::UsernameTaken).detail("anna")).await;
        assert_eq!(status, StatusCode::CONFLICT);
        assert_eq!(headers["content-type"], "application/problem+json");
        assert_eq!(
            body,
            json!({
                "type": "urn:hubbub:error:username_taken",
                "title": "Another account has this user name.",
                "status": 409,
                "code": 205,
                "name": "username_taken",
                "retryable": false,
                "detail": "anna",
            })
        );
    }

    #[tokio::test]
    async fn a_hint_is_rounded_up_to_seconds_in_the_header() {
        let problem = Problem::new(ErrorCode::Overloaded).retry_after(Duration::from_millis(1001));
        let (status, headers, body) = rendered(problem).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(headers["retry-after"], "2");
        assert_eq!(body["retry_after_ms"], 1001);
    }

    #[tokio::test]
    async fn an_unauthorized_request_learns_the_scheme() {
        for (code, challenge) in [
            (ErrorCode::NotAuthenticated, "Bearer"),
            (ErrorCode::InvalidToken, "Bearer error=\"invalid_token\""),
        ] {
            let (status, headers, _) = rendered(Problem::new(code)).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED);
            assert_eq!(headers["www-authenticate"], challenge);
        }
    }

    #[test]
    fn every_code_is_an_error_and_only_a_retryable_one_blames_the_server() {
        for code in ErrorCode::ALL {
            let status = status(*code);
            assert!(status.is_client_error() || status.is_server_error(), "{code}");
            assert!(!status.is_server_error() || code.again(), "{code}");
        }
    }
}
