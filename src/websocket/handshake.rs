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
            ALLOW, CONNECTION, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
            SEC_WEBSOCKET_VERSION, UPGRADE,
        },
    },
};

use super::deflate::{Agreed, negotiation::negotiate};

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
        /// What was agreed on about compression. The response says so.
        deflate: Option<Agreed>,
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
/// takes one; names with [`BEARER_PREFIX`] are left out. `wants_deflate` is asked whether its client
/// gets compression if it offers that.
///
/// # Errors
/// The [`Refusal`], when the request is no WebSocket handshake.
pub fn answer<B, P>(
    request: &Request<B>,
    mut choose: impl FnMut(&str) -> Option<P>,
    wants_deflate: impl FnOnce(&P) -> bool,
) -> Result<Answer<P>, Refusal> {
    let mut response = create_response_with_body(request, || ()).map_err(Refusal::from)?;
    // tungstenite reads the first and does not look for a second.
    for name in [SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION] {
        if request.headers().get_all(name).iter().nth(1).is_some() {
            return Err(Refusal::RepeatedHeader);
        }
    }

    let names = || offered(request.headers()).filter(|name| !name.starts_with(BEARER_PREFIX));
    let chosen = names().find_map(|name| Some((name, choose(name)?)));
    let (name, subprotocol) = chosen.unzip();
    if let Some(name) = name.or_else(|| names().next()) {
        let name = HeaderValue::from_str(name).expect("it came out of a header");
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, name);
    }
    Ok(match subprotocol {
        Some(subprotocol) => {
            let agreed = negotiate(request.headers(), wants_deflate(&subprotocol));
            let (deflate, header) = agreed.unzip();
            response.headers_mut().extend(header.map(|value| (SEC_WEBSOCKET_EXTENSIONS, value)));
            Answer::Agreed { response, subprotocol, deflate }
        }
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
mod tests;
