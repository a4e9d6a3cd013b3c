//! A request's body, read within its bounds and decoded by its content type.

use axum::{
    body::Body,
    extract::{Form, FromRequest as _, Request},
    http::{StatusCode, Uri, header},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use super::problem::Problem;
use crate::{limits, wire::code::ErrorCode};

/// The content types that an address takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Takes {
    /// `application/json`.
    Json,
    /// `application/json` and `application/x-www-form-urlencoded`.
    JsonOrForm,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    Json,
    Form,
}

/// Reads a whole body and decodes it.
///
/// # Errors
/// 415, 413, 408 or 400, by what is wrong with it.
pub async fn read<T: DeserializeOwned>(
    request: Request,
    takes: Takes,
    bytes_max: usize,
) -> Result<T, Problem> {
    let format = format(&request, takes)?;
    let (parts, body) = request.into_parts();
    let bytes = collect(body, bytes_max).await?;
    match format {
        // serde_json's message may quote a value, which may be a password: it is not passed on.
        // An array would be taken for an object's values in their order.
        Format::Json if first_byte(&bytes) == Some(b'[') => {
            Err(bad_request("not the expected JSON: an object"))
        }
        Format::Json => serde_json::from_slice(&bytes).map_err(|error| {
            bad_request(format!(
                "not the expected JSON: line {}, column {}",
                error.line(),
                error.column()
            ))
        }),
        // What is not UTF-8 would be replaced by one and the same character, in passwords too.
        Format::Form if !is_utf8(&bytes) => {
            Err(bad_request("the form is not percent-encoded UTF-8"))
        }
        Format::Form => Form::from_request(Request::from_parts(parts, Body::from(bytes)), &())
            .await
            .map(|Form(decoded)| decoded)
            .map_err(|_| bad_request("not the expected form fields")),
    }
}

/// Decodes what stands behind the `?` of an address.
///
/// # Errors
/// 400, if it is not what is expected.
pub async fn read_query<T: DeserializeOwned>(address: &Uri) -> Result<T, Problem> {
    let refusal = || bad_request("not the expected query: a parameter is unknown or repeated");
    if !is_utf8(address.query().unwrap_or_default().as_bytes()) {
        return Err(refusal());
    }
    // The form of a GET is its query.
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = address.clone();
    let decoded = Form::from_request(request, &()).await;
    decoded.map(|Form(decoded)| decoded).map_err(|_| refusal())
}

/// For a field that may be left out, and if it is there, is not `null`.
///
/// # Errors
/// Those of the field.
pub fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    field: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(field).map(Some)
}

fn bad_request(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(ErrorCode::BadRequest).detail(detail)
}

/// The media type of a body. It may not be compressed: that could be a bomb, and ours are too short to
/// need it.
///
/// # Errors
/// 415, if it is.
pub(super) fn media_type(request: &Request) -> Result<&str, Problem> {
    let headers = request.headers();
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(unsupported("request bodies may not be encoded"));
    }
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    Ok(content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim())
}

/// A body of a type that an address does not take.
pub(super) fn unsupported(detail: &'static str) -> Problem {
    Problem::new(ErrorCode::UnsupportedMediaType).detail(detail)
}

fn format(request: &Request, takes: Takes) -> Result<Format, Problem> {
    let media_type = media_type(request)?;
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(Format::Json);
    }
    match takes {
        Takes::JsonOrForm
            if media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") =>
        {
            Ok(Format::Form)
        }
        Takes::JsonOrForm => {
            Err(unsupported("expected application/json or application/x-www-form-urlencoded"))
        }
        Takes::Json => Err(unsupported("expected application/json")),
    }
}

fn first_byte(json: &[u8]) -> Option<u8> {
    json.iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

/// Whether a form is percent-encoded UTF-8. What parts its fields is ASCII, so it need not be taken
/// apart for that.
fn is_utf8(form: &[u8]) -> bool {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(form.len());
    let mut bytes = form.iter();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => match (digit(bytes.next()), digit(bytes.next())) {
                (Some(high), Some(low)) => u8::try_from(high << 4 | low).ok(),
                _ => None,
            },
            byte => Some(*byte),
        };
        let Some(byte) = byte else { return false };
        decoded.push(byte);
    }
    std::str::from_utf8(&decoded).is_ok()
}

async fn collect(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let collected = Limited::new(body, bytes_max).collect();
    match tokio::time::timeout(limits::REQUEST_BODY_TIMEOUT, collected).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Problem::new(ErrorCode::MessageTooLarge).detail("the body is too large"))
        }
        Ok(Err(_)) => Err(bad_request("the body ended early")),
        Err(_) => Err(bad_request("the body took too long").status(StatusCode::REQUEST_TIMEOUT)),
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Greeting {
        text: String,
    }

    async fn decode(content_type: &str, body: impl Into<Body>) -> Result<Greeting, u16> {
        let request = Request::post("/").header(header::CONTENT_TYPE, content_type);
        let request = request.body(body.into()).unwrap();
        let decoded = read(request, Takes::JsonOrForm, 64).await;
        decoded.map_err(|problem| problem.into_response().status().as_u16())
    }

    #[tokio::test]
    async fn json_and_forms_are_decoded_alike() {
        let expected = Ok(Greeting { text: "a b".to_owned() });
        assert_eq!(decode("application/json", r#"{"text":"a b"}"#).await, expected);
        assert_eq!(decode("Application/JSON; charset=utf-8", r#"{"text":"a b"}"#).await, expected);
        assert_eq!(decode("application/x-www-form-urlencoded", "text=a+b").await, expected);
        let umlaut = Ok(Greeting { text: "ä+&".to_owned() });
        let form = "text=%c3%A4%2B%26&other=1";
        assert_eq!(decode("application/x-www-form-urlencoded", form).await, umlaut);
    }

    #[tokio::test]
    async fn what_is_not_decodable_is_a_bad_request() {
        let deep = "[".repeat(60);
        let twice = r#"{"text":"a","text":"b"}"#;
        let surrogate = r#"{"text":"\ud800"}"#;
        for body in ["", "{", "{}", "[]", "\u{feff}{}", "1e400", twice, surrogate, deep.as_str()] {
            assert_eq!(decode("application/json", body.to_owned()).await, Err(400), "{body}");
        }
        let array = r#" ["a"]"#;
        assert_eq!(decode("application/json", array).await, Err(400));
        for body in ["other=1", "text=a&text=a", "text=%ff", "text=%", "text=%4", "text=%zz"] {
            assert_eq!(decode("application/x-www-form-urlencoded", body).await, Err(400), "{body}");
        }
        let bytes = Body::from(&b"text=p\xe4"[..]);
        assert_eq!(decode("application/x-www-form-urlencoded", bytes).await, Err(400));
    }

    #[tokio::test]
    async fn other_content_types_are_refused() {
        for content_type in ["", "text/plain", "application/jsonp", "multipart/form-data"] {
            assert_eq!(decode(content_type, "{}").await, Err(415), "{content_type}");
        }
        let request = Request::post("/")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_ENCODING, "gzip")
            .body(Body::from("{}"))
            .unwrap();
        let refused = read::<Greeting>(request, Takes::Json, 64).await.unwrap_err();
        assert_eq!(refused.into_response().status(), 415);
    }

    #[tokio::test]
    async fn a_long_body_is_refused() {
        let body = format!(r#"{{"text":"{}"}}"#, "x".repeat(64));
        assert_eq!(decode("application/json", body).await, Err(413));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_end_is_given_up() {
        let endless = Body::new(http_body_util::StreamBody::new(futures_util::stream::pending::<
            Result<hyper::body::Frame<Bytes>, std::convert::Infallible>,
        >()));
        assert_eq!(decode("application/json", endless).await, Err(408));
    }
}
