//! The little HTTP that a virtual user speaks: two JSON requests and an upgrade. Pure.

use std::{io::Write as _, str};

use thiserror::Error;

use super::encoding::Encoding;

/// Appends `POST path` with a JSON body, to be answered on a connection that stays open.
pub(crate) fn write_post(out: &mut Vec<u8>, host: &str, path: &str, json: &str) {
    let bytes = json.len();
    write!(
        out,
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
         Content-Length: {bytes}\r\n\r\n{json}"
    )
    .expect(INTO_MEMORY);
}

/// What is offered, and what has to be in the answer: no side keeps context, so that one inflater
/// serves all users.
const DEFLATE: [&str; 3] =
    ["permessage-deflate", "server_no_context_takeover", "client_no_context_takeover"];

/// Appends the upgrade of `/v1/ws` for this encoding, with this `Sec-WebSocket-Key`.
pub(crate) fn write_upgrade(
    out: &mut Vec<u8>,
    host: &str,
    key: &str,
    token: &str,
    encoding: Encoding,
    offers_deflate: bool,
) {
    let [deflate, server_no_context, client_no_context] = DEFLATE;
    let extensions = if offers_deflate {
        format!("Sec-WebSocket-Extensions: {deflate}; {server_no_context}; {client_no_context}\r\n")
    } else {
        String::new()
    };
    let subprotocol = encoding.subprotocol();
    write!(
        out,
        "GET /v1/ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\
         Sec-WebSocket-Protocol: {subprotocol}\r\n{extensions}Authorization: Bearer {token}\r\n\r\n"
    )
    .expect(INTO_MEMORY);
}

const INTO_MEMORY: &str = "a vector takes every write";

/// An answer, whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Response<'a> {
    pub(crate) status: u16,
    /// In seconds. A date is not understood, as if there were none.
    pub(crate) retry_after: Option<u64>,
    /// Of an upgrade.
    pub(crate) accept: Option<&'a str>,
    /// Of an upgrade: the extensions that the server says are agreed on.
    pub(crate) extensions: Option<&'a str>,
    pub(crate) body: &'a [u8],
    /// Bytes of head and body: what follows is not HTTP any more after an upgrade.
    pub(crate) bytes: usize,
    /// Whether the server closes the connection after it.
    pub(crate) closes: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(crate) enum HttpError {
    #[error("an answer that is not HTTP")]
    Malformed,
    #[error("an answer of more than {0} bytes")]
    TooLarge(usize),
    #[error("an answer with more than {HEADERS_MAX} header fields")]
    TooManyHeaders,
    /// The server always knows how long its body is; a body in chunks has no place in [`Response`].
    #[error("an answer {status} whose Content-Length is not told")]
    UnknownLength { status: u16 },
}

const HEADERS_MAX: usize = 32;
/// Of the status line and the header fields.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Of head and body.
const RESPONSE_BYTES_MAX: usize = 256 * 1024;

impl Response<'_> {
    /// Whether exactly what was offered about compression is agreed on.
    pub(crate) fn agrees_on_deflate(&self) -> bool {
        let mut agreed = self.extensions.unwrap_or_default().split(';').map(str::trim);
        DEFLATE.into_iter().all(|it| agreed.next() == Some(it)) && agreed.next().is_none()
    }
}

/// The answer at the beginning of these bytes. `None`: it is not whole yet.
pub(crate) fn response(bytes: &[u8]) -> Result<Option<Response<'_>>, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let head_bytes = match head.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() <= HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(HttpError::TooLarge(HEAD_BYTES_MAX)),
        Err(httparse::Error::TooManyHeaders) => return Err(HttpError::TooManyHeaders),
        Err(_) => return Err(HttpError::Malformed),
    };
    if head_bytes > HEAD_BYTES_MAX {
        return Err(HttpError::TooLarge(HEAD_BYTES_MAX));
    }
    let status = head.code.expect("a parsed head has a status");
    let body_bytes = body_bytes(status, head.headers)?;
    let whole = head_bytes
        .checked_add(body_bytes)
        .filter(|&whole| whole <= RESPONSE_BYTES_MAX)
        .ok_or(HttpError::TooLarge(RESPONSE_BYTES_MAX))?;
    let Some(body) = bytes.get(head_bytes..whole) else { return Ok(None) };
    Ok(Some(Response {
        status,
        retry_after: value(head.headers, "retry-after").and_then(number),
        accept: value(head.headers, "sec-websocket-accept"),
        extensions: value(head.headers, "sec-websocket-extensions"),
        body,
        bytes: whole,
        closes: head.version == Some(0)
            || values(head.headers, "connection")
                .flat_map(|value| value.split(','))
                .any(|option| option.trim().eq_ignore_ascii_case("close")),
    }))
}

/// How much follows the head.
fn body_bytes(status: u16, headers: &[httparse::Header<'_>]) -> Result<usize, HttpError> {
    if matches!(status, 100..=199 | 204 | 304) {
        return Ok(0);
    }
    let mut lengths = values(headers, "content-length");
    // With a Transfer-Encoding, a Content-Length does not count.
    let length = match lengths.next() {
        Some(length) if values(headers, "transfer-encoding").next().is_none() => length,
        _ => return Err(HttpError::UnknownLength { status }),
    };
    if lengths.any(|other| other != length) {
        return Err(HttpError::Malformed);
    }
    let length = number(length).ok_or(HttpError::Malformed)?;
    usize::try_from(length).map_err(|_| HttpError::TooLarge(RESPONSE_BYTES_MAX))
}

/// The values of all header fields of this name, in lower case.
fn values<'a>(headers: &[httparse::Header<'a>], name: &str) -> impl Iterator<Item = &'a str> {
    let of_name = headers.iter().filter(move |it| it.name.eq_ignore_ascii_case(name));
    // A value that is not even text says nothing that is understood here.
    of_name.map(|it| str::from_utf8(it.value).unwrap_or_default().trim())
}

fn value<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a str> {
    values(headers, name).next()
}

/// Digits only: no sign, as Rust would allow.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|it| it.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn only(status: u16, bytes: usize) -> Response<'static> {
        Response {
            status,
            retry_after: None,
            accept: None,
            extensions: None,
            body: b"",
            bytes,
            closes: false,
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_none_and_then_the_same_response(
            status in prop::sample::select(vec![101_u16, 200, 201, 204, 401, 503]),
            others in prop::collection::vec(("x-[a-z]{1,8}", "[ -~]{0,30}"), 0..20),
            retry_after in prop::option::of(any::<u32>()),
            accept in prop::option::of("[a-zA-Z0-9+/]{27}="),
            closes in any::<bool>(),
            body in prop::collection::vec(any::<u8>(), 0..200),
            after in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let body = if matches!(status, 101 | 204) { vec![] } else { body };
            let mut sent = format!("HTTP/1.1 {status} Whatever\r\n");
            for (name, value) in others {
                sent += &format!("{name}: {value}\r\n");
            }
            if let Some(seconds) = retry_after {
                sent += &format!("Retry-After: {seconds}\r\n");
            }
            if let Some(accept) = &accept {
                sent += &format!("sec-websocket-accept: {accept}\r\n");
            }
            sent += if closes { "Connection: Close\r\n" } else { "Connection: keep-alive, Upgrade\r\n" };
            if !body.is_empty() || status == 200 {
                sent += &format!("content-length: {}\r\n", body.len());
            } else if !matches!(status, 101 | 204) {
                sent += "Content-Length: 0\r\n";
            }
            sent += "\r\n";
            let mut sent = sent.into_bytes();
            sent.extend_from_slice(&body);
            let expected = Response {
                status,
                retry_after: retry_after.map(u64::from),
                accept: accept.as_deref(),
                extensions: None,
                body: &body,
                bytes: sent.len(),
                closes,
            };
            for bytes in 0..sent.len() {
                prop_assert_eq!(response(&sent[..bytes]), Ok(None));
            }
            let sent = [sent, after].concat();
            prop_assert_eq!(response(&sent), Ok(Some(expected)));
        }

        #[test]
        fn bytes_of_any_kind_do_not_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            is_like_http in any::<bool>(),
        ) {
            let begin: &[u8] = if is_like_http { b"HTTP/1.1 200 OK\r\nContent-Length:" } else { b"" };
            let bytes = [begin, &bytes].concat();
            if let Ok(Some(response)) = response(&bytes) {
                prop_assert!(bytes[..response.bytes].ends_with(response.body));
            }
        }
    }

    #[test]
    fn requests_are_read_as_they_were_meant() {
        let mut out = Vec::new();
        write_post(&mut out, "localhost:1", "/v1/token", r#"{"a":"ä"}"#);
        let posted = out.len();
        write_upgrade(&mut out, "localhost:1", "KEY==", "a.b.c", Encoding::Proto, true);

        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut post = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(head_bytes) = post.parse(&out).unwrap() else {
            panic!("the head is whole")
        };
        assert_eq!(
            (post.method, post.path, post.version),
            (Some("POST"), Some("/v1/token"), Some(1))
        );
        assert_eq!(value(post.headers, "host"), Some("localhost:1"));
        assert_eq!(value(post.headers, "content-type"), Some("application/json"));
        assert_eq!(value(post.headers, "content-length"), Some("10"));
        assert_eq!(&out[head_bytes..posted], r#"{"a":"ä"}"#.as_bytes());

        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut upgrade = httparse::Request::new(&mut headers);
        let whole = httparse::Status::Complete(out.len() - posted);
        assert_eq!(upgrade.parse(&out[posted..]), Ok(whole));
        assert_eq!((upgrade.method, upgrade.path), (Some("GET"), Some("/v1/ws")));
        let expected = [
            ("host", "localhost:1"),
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "KEY=="),
            ("sec-websocket-protocol", "hubbub.v1.proto"),
            (
                "sec-websocket-extensions",
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            ),
            ("authorization", "Bearer a.b.c"),
        ];
        for (name, expected) in expected {
            assert_eq!(value(upgrade.headers, name), Some(expected), "{name}");
        }
    }

    #[test]
    fn nothing_is_offered_that_was_not_asked_for() {
        let mut out = Vec::new();
        write_upgrade(&mut out, "localhost:1", "KEY==", "a.b.c", Encoding::Json, false);
        assert!(!String::from_utf8(out).unwrap().to_lowercase().contains("extensions"));
    }

    #[test]
    fn only_what_was_offered_is_an_agreement() {
        let all = DEFLATE.join("; ");
        for (extensions, agrees) in [
            (all.clone(), true),
            (DEFLATE.join(";"), true),
            (DEFLATE[0].to_owned(), false),
            (DEFLATE[..2].join("; "), false),
            (format!("{all}; server_max_window_bits=10"), false),
            (format!("foo, {all}"), false),
        ] {
            let sent = format!(
                "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Extensions: {extensions}\r\n\r\n"
            );
            let response = response(sent.as_bytes()).unwrap().unwrap();
            assert_eq!(response.agrees_on_deflate(), agrees, "{extensions}");
        }
        assert!(!only(101, 0).agrees_on_deflate());
    }

    #[test]
    fn a_date_to_retry_after_is_ignored() {
        let sent = b"HTTP/1.1 204 \r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n\r\n";
        assert_eq!(response(sent), Ok(Some(only(204, sent.len()))));
    }

    #[test]
    fn http_1_0_closes() {
        let sent = b"HTTP/1.0 304 Not Modified\r\n\r\n";
        assert_eq!(response(sent), Ok(Some(Response { closes: true, ..only(304, sent.len()) })));
    }

    #[test]
    fn a_body_of_unknown_length_is_refused_by_its_name() {
        for heads in ["", "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"] {
            let sent = format!("HTTP/1.1 200 OK\r\n{heads}\r\n3\r\nabc\r\n0\r\n\r\n");
            assert_eq!(response(sent.as_bytes()), Err(HttpError::UnknownLength { status: 200 }));
        }
    }

    #[test]
    fn a_length_that_is_none_is_malformed() {
        for lengths in
            [&["+3"][..], &["-1"], &[""], &["3 3"], &["3", "4"], &["99999999999999999999"]]
        {
            let heads: String =
                lengths.iter().map(|it| format!("Content-Length: {it}\r\n")).collect();
            let sent = format!("HTTP/1.1 200 OK\r\n{heads}\r\nabcd");
            assert_eq!(response(sent.as_bytes()), Err(HttpError::Malformed), "{lengths:?}");
        }
        let sent = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc";
        let expected = Response { body: b"abc", ..only(200, sent.len()) };
        assert_eq!(response(sent), Ok(Some(expected)));
    }

    #[test]
    fn an_answer_has_bounds() {
        let endless = [b"HTTP/1.1 200 OK\r\nx: ", &[b'x'; HEAD_BYTES_MAX][..]].concat();
        assert_eq!(response(&endless[..HEAD_BYTES_MAX]), Ok(None));
        assert_eq!(response(&endless), Err(HttpError::TooLarge(HEAD_BYTES_MAX)));
        let ended = [&endless[..], b"\r\n\r\n"].concat();
        assert_eq!(response(&ended), Err(HttpError::TooLarge(HEAD_BYTES_MAX)));

        let of_length =
            |length: u64| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let too_large = Err(HttpError::TooLarge(RESPONSE_BYTES_MAX));
        assert_eq!(response(of_length(RESPONSE_BYTES_MAX as u64).as_bytes()), too_large);
        assert_eq!(response(of_length(u64::MAX).as_bytes()), too_large);
        assert_eq!(response(of_length(200_000).as_bytes()), Ok(None));

        let heads = "x: y\r\n".repeat(HEADERS_MAX + 1);
        let sent = format!("HTTP/1.1 204 No Content\r\n{heads}\r\n");
        assert_eq!(response(sent.as_bytes()), Err(HttpError::TooManyHeaders));
        assert_eq!(response(b"SSH-2.0-OpenSSH_9\r\n"), Err(HttpError::Malformed));
    }
}
