//! The handshake: an HTTP request → 101 and a subprotocol, or a refusal. Pure.
//!
//! Works on the head alone, so any server's request will do. Path, origin and login are the edge's.

use thiserror::Error;
use tokio_tungstenite::tungstenite::{
    error::{Error as WsError, ProtocolError},
    handshake::server::create_response_with_body,
    http::{
        HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode,
        header::{
            ALLOW, CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
            UPGRADE,
        },
    },
};

/// A browser cannot set a header on a WebSocket, so it offers its token as one more subprotocol:
/// this and the base64url of the token. Such a name is a secret: it is never chosen, never echoed.
pub const BEARER_PREFIX: &str = "hubbub.bearer.";

/// A request that is a WebSocket handshake: the response that completes it.
#[derive(Debug)]
pub enum Answer<P> {
    /// Both speak this subprotocol; the response names it.
    Agreed {
        /// 101, to be sent as it is.
        response: Response<()>,
        /// What `choose` made of the name.
        subprotocol: P,
    },
    /// The client offered none that is spoken here. The connection is made only to be closed with
    /// 4506, since a browser shows its page a close code but never an HTTP status. It would not
    /// even show the code unless the response named a subprotocol that it offered, so the
    /// response names the first.
    NothingInCommon {
        /// 101, to be sent as it is.
        response: Response<()>,
    },
}

/// Why a request is not a WebSocket handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Refusal {
    /// Another method than GET.
    #[error("a WebSocket handshake is a GET")]
    NotGet,
    /// HTTP/1.0.
    #[error("a WebSocket handshake needs HTTP/1.1")]
    OldHttp,
    /// No `Upgrade: websocket`, or no `Connection: Upgrade`.
    #[error("the request asks for no upgrade to WebSocket")]
    NoUpgrade,
    /// Another `Sec-WebSocket-Version` than 13, or none.
    #[error("only version 13 of WebSocket is spoken here")]
    UnsupportedVersion,
    /// `Sec-WebSocket-Key` is missing or not the base64 of 16 bytes.
    #[error("the Sec-WebSocket-Key is missing or not the base64 of 16 bytes")]
    InvalidKey,
    /// A header that says one thing only is there twice.
    #[error("a WebSocket header is repeated")]
    RepeatedHeader,
}

impl Refusal {
    /// The status of the response.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::NotGet => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnsupportedVersion => StatusCode::UPGRADE_REQUIRED,
            Self::OldHttp | Self::NoUpgrade | Self::InvalidKey | Self::RepeatedHeader => {
                StatusCode::BAD_REQUEST
            }
        }
    }

    /// The headers that RFC 9110 and RFC 6455 ask for beside this status.
    #[must_use]
    pub fn headers(self) -> HeaderMap {
        let headers: &[(HeaderName, &'static str)] = match self {
            Self::NotGet => &[(ALLOW, "GET")],
            Self::UnsupportedVersion => {
                &[(CONNECTION, "Upgrade"), (UPGRADE, "websocket"), (SEC_WEBSOCKET_VERSION, "13")]
            }
            Self::OldHttp | Self::NoUpgrade | Self::InvalidKey | Self::RepeatedHeader => &[],
        };
        let headers = headers.iter().cloned();
        headers.map(|(name, value)| (name, HeaderValue::from_static(value))).collect()
    }
}

/// Answers a handshake. `choose` is asked for each subprotocol in the client's order, until it
/// takes one; names with [`BEARER_PREFIX`] are left out.
///
/// # Errors
/// The [`Refusal`], when the request is no WebSocket handshake.
pub fn answer<B, P>(
    request: &Request<B>,
    choose: impl FnMut(&str) -> Option<P>,
) -> Result<Answer<P>, Refusal> {
    let mut response = create_response_with_body(request, || ()).map_err(Refusal::from)?;
    // tungstenite reads the first and does not look for a second.
    for name in [SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION] {
        if request.headers().get_all(name).iter().nth(1).is_some() {
            return Err(Refusal::RepeatedHeader);
        }
    }

    let names = || offered(request.headers()).filter(|name| !name.starts_with(BEARER_PREFIX));
    let chosen = names().map(Some).zip(names().map(choose)).find_map(|(name, p)| Some((name, p?)));
    let (name, subprotocol) = match chosen {
        Some((name, subprotocol)) => (name, Some(subprotocol)),
        None => (names().next(), None),
    };
    if let Some(name) = name {
        let name = HeaderValue::from_str(name).expect("it came out of a header");
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, name);
    }
    Ok(match subprotocol {
        Some(subprotocol) => Answer::Agreed { response, subprotocol },
        None => Answer::NothingInCommon { response },
    })
}

/// The subprotocols that the client offers, in its order, over all the headers it spread them on.
pub fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

/// The base64url of the token that the client offers as a subprotocol, not decoded.
#[must_use]
pub fn offered_bearer(headers: &HeaderMap) -> Option<&str> {
    offered(headers).find_map(|name| name.strip_prefix(BEARER_PREFIX))
}

impl From<WsError> for Refusal {
    fn from(error: WsError) -> Self {
        match error {
            WsError::Protocol(ProtocolError::WrongHttpMethod) => Self::NotGet,
            WsError::Protocol(ProtocolError::WrongHttpVersion) => Self::OldHttp,
            WsError::Protocol(ProtocolError::MissingSecWebSocketVersionHeader) => {
                Self::UnsupportedVersion
            }
            WsError::Protocol(
                ProtocolError::MissingSecWebSocketKey | ProtocolError::InvalidSecWebSocketKey,
            ) => Self::InvalidKey,
            _ => Self::NoUpgrade,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::http::{Request, Response, StatusCode, Version};

    use super::{Answer, Refusal, answer, offered, offered_bearer};
    use crate::wire::Encoding;

    const GOOD: [(&str, &str); 5] = [
        ("Host", "localhost"),
        ("Connection", "keep-alive, Upgrade"),
        ("Upgrade", "WebSocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get("/v1/ws");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn good_with(headers: &[(&str, &str)]) -> Request<()> {
        request(&[&GOOD[..], headers].concat())
    }

    /// A good request in which one header has another value, or is left out.
    fn good_but(header: &str, value: Option<&str>) -> Request<()> {
        let others: Vec<_> = GOOD.into_iter().filter(|(name, _)| *name != header).collect();
        let changed: Vec<_> = value.map(|value| (header, value)).into_iter().collect();
        request(&[others, changed].concat())
    }

    fn refusal(request: &Request<()>) -> Refusal {
        answer(request, Encoding::from_subprotocol).unwrap_err()
    }

    fn agreed(request: &Request<()>) -> (Response<()>, Encoding) {
        match answer(request, Encoding::from_subprotocol).unwrap() {
            Answer::Agreed { response, subprotocol } => (response, subprotocol),
            Answer::NothingInCommon { .. } => panic!("nothing in common"),
        }
    }

    fn nothing_in_common(request: &Request<()>) -> Response<()> {
        match answer(request, Encoding::from_subprotocol).unwrap() {
            Answer::NothingInCommon { response } => response,
            Answer::Agreed { subprotocol, .. } => panic!("agreed on {subprotocol:?}"),
        }
    }

    fn echoed(response: &Response<()>) -> Vec<&str> {
        let echoed = response.headers().get_all("Sec-WebSocket-Protocol");
        echoed.iter().map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn a_handshake_is_completed_with_the_key_of_the_rfc() {
        let (response, encoding) =
            agreed(&good_with(&[("Sec-WebSocket-Protocol", "hubbub.v1.json")]));
        assert_eq!(encoding, Encoding::Json);
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()["Sec-WebSocket-Accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers()["Upgrade"], "websocket");
        assert_eq!(response.headers()["Connection"], "Upgrade");
        assert!(!response.headers().contains_key("Sec-WebSocket-Extensions"));
    }

    #[test]
    fn the_first_subprotocol_that_both_speak_is_echoed_alone() {
        let request = good_with(&[
            ("Sec-WebSocket-Protocol", "chat,hubbub.v9.proto"),
            ("Sec-WebSocket-Protocol", ", hubbub.v1.json ,hubbub.v1.proto"),
        ]);
        let (response, encoding) = agreed(&request);
        assert_eq!(encoding, Encoding::Json);
        assert_eq!(echoed(&response), ["hubbub.v1.json"]);
    }

    #[test]
    fn a_token_among_the_subprotocols_is_found_and_never_echoed() {
        let offer = [("Sec-WebSocket-Protocol", "hubbub.bearer.ZXlK, hubbub.v1.proto")];
        let request = good_with(&offer);
        assert_eq!(offered_bearer(request.headers()), Some("ZXlK"));
        assert_eq!(echoed(&agreed(&request).0), ["hubbub.v1.proto"]);

        let alone = good_with(&[("Sec-WebSocket-Protocol", "hubbub.bearer.ZXlK")]);
        assert!(echoed(&nothing_in_common(&alone)).is_empty());
        let mut asked = Vec::new();
        answer(&alone, |name| {
            asked.push(name.to_owned());
            Some(())
        })
        .unwrap();
        assert!(asked.is_empty());
    }

    #[test]
    fn a_client_with_nothing_in_common_is_connected_to_be_told() {
        let none = nothing_in_common(&good_with(&[]));
        assert_eq!(none.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert!(echoed(&none).is_empty());

        let request =
            good_with(&[("Sec-WebSocket-Protocol", "hubbub.bearer.ZXlK, hubbub.v2.proto, chat")]);
        assert_eq!(echoed(&nothing_in_common(&request)), ["hubbub.v2.proto"]);
        assert_eq!(
            offered(request.headers()).collect::<Vec<_>>(),
            ["hubbub.bearer.ZXlK", "hubbub.v2.proto", "chat"]
        );
    }

    #[test]
    fn a_bad_key_is_a_bad_request() {
        let bad = [
            None,
            Some(""),
            Some("dGhlIHNhbXBsZQ=="),
            Some("dGhlIHNhbXBsZSBub25jZSB0b28="),
            Some("dGhlIHNhbXBsZSBub25j*Q=="),
            Some("dGhlIHNhbXBsZSBub25jZQ"),
        ];
        for key in bad {
            assert_eq!(
                refusal(&good_but("Sec-WebSocket-Key", key)),
                Refusal::InvalidKey,
                "{key:?}"
            );
        }
        let twice = good_with(&[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]);
        assert_eq!(refusal(&twice), Refusal::RepeatedHeader);
        for refusal in [Refusal::InvalidKey, Refusal::RepeatedHeader] {
            assert_eq!(refusal.status(), StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn another_version_is_told_which_one_is_spoken() {
        for version in [None, Some("8"), Some("0"), Some("013"), Some("13, 8")] {
            let refusal = refusal(&good_but("Sec-WebSocket-Version", version));
            assert_eq!(refusal, Refusal::UnsupportedVersion, "{version:?}");
        }
        assert_eq!(Refusal::UnsupportedVersion.status(), StatusCode::UPGRADE_REQUIRED);
        assert_eq!(Refusal::UnsupportedVersion.headers()["Sec-WebSocket-Version"], "13");
        let both = good_with(&[("Sec-WebSocket-Version", "8")]);
        assert_eq!(refusal(&both), Refusal::RepeatedHeader);
    }

    #[test]
    fn a_request_that_asks_for_no_upgrade_is_refused() {
        for (header, value) in [
            ("Connection", None),
            ("Connection", Some("keep-alive")),
            ("Connection", Some("NotUpgrade")),
            ("Upgrade", None),
            ("Upgrade", Some("h2c")),
        ] {
            assert_eq!(refusal(&good_but(header, value)), Refusal::NoUpgrade, "{header} {value:?}");
        }
        assert_eq!(Refusal::NoUpgrade.status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn another_method_or_an_old_http_is_refused() {
        let mut post = good_with(&[]);
        *post.method_mut() = "POST".parse().unwrap();
        assert_eq!(refusal(&post), Refusal::NotGet);
        assert_eq!(Refusal::NotGet.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(Refusal::NotGet.headers()["Allow"], "GET");

        let mut old = good_with(&[]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(refusal(&old), Refusal::OldHttp);
        assert_eq!(Refusal::OldHttp.status(), StatusCode::BAD_REQUEST);
    }
}
