//! `GET /v1/ws`: an HTTP request → a WebSocket, handed to the hub with the login it brought.
//!
//! A client of ours that is refused gets an HTTP status. A browser shows its page nothing of a failed
//! handshake, so what a browser may get wrong (a token among the subprotocols, a version) is answered
//! after the handshake, with a close code.

use std::{io, net::TcpStream as StdTcpStream, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use rustls::ServerConnection;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::server::TlsStream;

use super::{
    Edge, Settings,
    http::problem::Problem,
    plain::{HubFollows, Plain},
    tls,
};
use crate::{
    auth::token::{Reason, TokenError},
    connection::login::LoginError,
    engine::Engine,
    hub::{Format, Handover, Identity, Permit},
    limits,
    websocket::{
        frame,
        handshake::{self, Answer, Refusal},
    },
    wire::{
        Encoding,
        code::{CloseCode, ErrorCode},
    },
};

/// Names under which people put tokens into addresses, where logs and proxies keep them.
const TOKEN_PARAMETERS: [&str; 6] =
    ["token", "access_token", "bearer", "jwt", "auth", "authorization"];

/// What becomes of a connection after its 101.
#[derive(Debug)]
enum Fate {
    /// A shard takes it.
    HandOver { format: Format, identity: Option<Identity> },
    /// It is told why it ends.
    Close { code: CloseCode, reason: String },
}

/// A token, and how it came.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    /// In `Authorization`: the client can read an HTTP status.
    Header(String),
    /// As a subprotocol: the client is a browser's page. None if it is not base64url.
    Subprotocol(Option<String>),
}

/// Answers the handshake, and sees to the connection from then on.
///
/// # Errors
/// When the request is no handshake, or comes from a page or with a token that is not welcome.
pub async fn upgrade<E: Engine>(
    State(edge): State<Arc<Edge<E>>>,
    request: Request,
) -> Result<Response, Problem> {
    let hub = edge.hub.clone();
    let log_in = async |token: String| edge.login.login(&token).await;
    let present = edge.live.now();
    answer(request, &present.settings, log_in, move |handover| hub.hand_over(handover)).await
}

/// The same, without knowing who logs in and who takes the connection.
async fn answer(
    mut request: Request,
    settings: &Settings,
    log_in: impl AsyncFnOnce(String) -> Result<Identity, LoginError>,
    hand_over: impl FnOnce(Handover) -> Result<(), Handover> + Send + 'static,
) -> Result<Response, Problem> {
    check_query(request.uri().query())?;
    check_origin(request.headers(), settings)?;
    check_no_body(request.headers())?;
    let wants_deflate = |encoding: &Encoding| settings.deflate.is_for(*encoding);
    let answer = match handshake::answer(&request, Encoding::from_subprotocol, wants_deflate) {
        Ok(answer) => answer,
        Err(refusal) => return Ok(refuse(refusal)),
    };
    let token = token(request.headers())?;
    let (response, fate) = match answer {
        Answer::Agreed { response, subprotocol, deflate } => {
            let format = Format { encoding: subprotocol, deflate };
            (response, decide(format, token, log_in).await?)
        }
        Answer::NothingInCommon { response } => {
            (response, close_with(CloseCode::UnsupportedVersion, ErrorCode::BadRequest, None))
        }
    };

    let permit = request.extensions().get::<Permit>().cloned().unwrap_or_default();
    if let Fate::HandOver { identity: Some(_), .. } = fate
        && let Some(hub_follows) = request.extensions().get::<HubFollows>()
    {
        hub_follows.say();
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Err(error) = carry_out(upgrade, fate, permit, hand_over).await {
            tracing::debug!(%error, "a connection ended between handshake and hub");
        }
    });
    Ok(response.map(|()| Body::empty()))
}

fn refuse(refusal: Refusal) -> Response {
    let code = match refusal {
        Refusal::NotGet => ErrorCode::MethodNotAllowed,
        Refusal::OldHttp
        | Refusal::NoUpgrade
        | Refusal::UnsupportedVersion
        | Refusal::InvalidKey
        | Refusal::RepeatedHeader => ErrorCode::BadRequest,
    };
    let problem = Problem::new(code).status(refusal.status()).detail(refusal.to_string());
    let mut response = problem.into_response();
    response.headers_mut().extend(refusal.headers());
    response
}

/// Logs the token in, if there is one.
async fn decide(
    format: Format,
    token: Option<Token>,
    log_in: impl AsyncFnOnce(String) -> Result<Identity, LoginError>,
) -> Result<Fate, Problem> {
    let (outcome, http_can_tell) = match token {
        None => return Ok(Fate::HandOver { format, identity: None }),
        Some(Token::Header(token)) => (log_in(token).await, true),
        Some(Token::Subprotocol(Some(token))) => (log_in(token).await, false),
        Some(Token::Subprotocol(None)) => (Err(TokenError::Invalid(Reason::Head).into()), false),
    };
    match outcome {
        Ok(identity) => Ok(Fate::HandOver { format, identity: Some(identity) }),
        Err(error) if !http_can_tell => Ok(close_for(&error)),
        Err(error) => {
            let problem = Problem::new((&error).into());
            let is_final = error.close_code().is_some();
            Err(if is_final { problem } else { problem.retry_after(limits::BUSY_RETRY_AFTER) })
        }
    }
}

fn close_for(error: &LoginError) -> Fate {
    match error.close_code() {
        Some(code) => close_with(code, error.into(), None),
        None => {
            let after = Some(limits::BUSY_RETRY_AFTER);
            close_with(CloseCode::TryAgainLater, error.into(), after)
        }
    }
}

fn close_with(code: CloseCode, why: ErrorCode, retry_after: Option<Duration>) -> Fate {
    let reason = match retry_after {
        Some(after) => {
            format!(r#"{{"code":{},"retry_after_ms":{}}}"#, why.number(), after.as_millis())
        }
        None => format!(r#"{{"code":{}}}"#, why.number()),
    };
    Fate::Close { code, reason }
}

/// Waits for the 101 to be sent, then does with the socket what was decided.
async fn carry_out(
    upgrade: OnUpgrade,
    fate: Fate,
    permit: Permit,
    hand_over: impl FnOnce(Handover) -> Result<(), Handover>,
) -> Result<(), EndedError> {
    let (stream, tls, early) = take_socket(upgrade.await?)?;
    let (format, identity) = match fate {
        Fate::HandOver { format, identity } => (format, identity),
        Fate::Close { code, reason } => return Ok(close(stream, tls, code, &reason).await?),
    };
    let handover = Handover { stream: stream.into_std()?, tls, early, format, identity, permit };
    let Err(refused) = hand_over(handover) else { return Ok(()) };
    // The permit lives to the end of the close.
    let Handover { stream, tls, permit: _permit, .. } = refused;
    let after = Some(limits::BUSY_RETRY_AFTER.mul_f64(rand::random_range(1.0..4.0)));
    match close_with(CloseCode::TryAgainLater, ErrorCode::Overloaded, after) {
        Fate::Close { code, reason } => {
            close(back_to_tokio(stream)?, tls, code, &reason).await?;
        }
        Fate::HandOver { .. } => {}
    }
    Ok(())
}

/// Why a connection never reached the hub.
#[derive(Debug, thiserror::Error)]
enum EndedError {
    #[error("the upgrade failed")]
    Upgrade(#[from] hyper::Error),
    #[error("the socket failed")]
    Io(#[from] io::Error),
    #[error("the socket is neither TCP nor TLS over it")]
    Unknown,
}

/// The socket itself with its session, and what the client sent behind its request: what has been
/// read, and what the session has decrypted.
fn take_socket(
    upgraded: Upgraded,
) -> Result<(TcpStream, Option<Box<ServerConnection>>, Bytes), EndedError> {
    let upgraded = match upgraded.downcast::<TokioIo<Plain>>() {
        Ok(parts) => return Ok((parts.io.into_inner().into_inner(), None, parts.read_buf)),
        Err(upgraded) => upgraded,
    };
    let secure = upgraded.downcast::<TokioIo<TlsStream<TcpStream>>>();
    let parts = secure.map_err(|_| EndedError::Unknown)?;
    let (stream, session) = parts.io.into_inner().into_inner();
    let mut session = Box::new(session);
    let unread = tls::unread(&mut session);
    let early = match (parts.read_buf, unread) {
        (read, unread) if unread.is_empty() => read,
        (read, unread) => [read, unread.into()].concat().into(),
    };
    Ok((stream, Some(session), early))
}

fn back_to_tokio(stream: StdTcpStream) -> io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

/// Sends a close frame and gives the client a moment to close in its turn.
async fn close(
    mut stream: TcpStream,
    tls: Option<Box<ServerConnection>>,
    code: CloseCode,
    reason: &str,
) -> io::Result<()> {
    let frame = frame::close(code.number(), reason);
    let wire = match tls {
        None => frame,
        Some(mut session) => tls::last_words(&mut session, &frame)?.into(),
    };
    let closing = async {
        stream.write_all(&wire).await?;
        stream.shutdown().await?;
        // What it sends is not looked at: it ends with its own close frame and the connection.
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        Ok(())
    };
    timeout(limits::CLOSE_TIMEOUT, closing).await.unwrap_or(Ok(()))
}

fn bad_request(detail: &'static str) -> Problem {
    Problem::new(ErrorCode::BadRequest).detail(detail)
}

pub(super) fn check_query(query: Option<&str>) -> Result<(), Problem> {
    let names = query.unwrap_or_default().split('&').filter_map(|pair| pair.split('=').next());
    for name in names {
        if TOKEN_PARAMETERS.iter().any(|parameter| name.eq_ignore_ascii_case(parameter)) {
            return Err(bad_request(
                "a token does not belong in an address: use the Authorization header, or for a \
                 WebSocket the hubbub.bearer subprotocol or the first frame",
            ));
        }
    }
    Ok(())
}

/// A page may connect if it comes from this host or is on the list. Compared byte by byte: a browser
/// writes its origin in one way only. Whoever sends none is no browser.
fn check_origin(headers: &HeaderMap, settings: &Settings) -> Result<(), Problem> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else { return Ok(()) };
    let refusal =
        || Err(Problem::new(ErrorCode::Forbidden).detail("pages of this origin may not connect"));
    if origins.next().is_some() {
        return refusal();
    }
    let Ok(origin) = origin.to_str() else { return refusal() };
    if settings.allowed_origins.iter().any(|allowed| allowed == origin) {
        return Ok(());
    }
    // Behind a proxy that ends TLS we do not know our own scheme, so both will do.
    let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let ours = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if host.is_some() && host == ours { Ok(()) } else { refusal() }
}

/// Bytes of a body would be taken for the first frames.
fn check_no_body(headers: &HeaderMap) -> Result<(), Problem> {
    let length = headers.get(header::CONTENT_LENGTH);
    let empty = length.is_none_or(|length| length.as_bytes() == b"0");
    if empty && !headers.contains_key(header::TRANSFER_ENCODING) {
        return Ok(());
    }
    Err(bad_request("a handshake has no body"))
}

/// The token of the request, if it brings one.
fn token(headers: &HeaderMap) -> Result<Option<Token>, Problem> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let (first, second) = (lines.next(), lines.next());
    let offered = handshake::offered_bearer(headers);
    if second.is_some() || (first.is_some() && offered.is_some()) {
        return Err(bad_request("more than one token"));
    }
    if let Some(line) = first {
        let token = line.to_str().ok().and_then(|line| line.split_once(' '));
        return match token {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                Ok(Some(Token::Header(token.trim().to_owned())))
            }
            _ => Err(Problem::new(ErrorCode::InvalidToken)
                .status(StatusCode::UNAUTHORIZED)
                .detail("the only scheme of Authorization is Bearer")),
        };
    }
    let Some(offered) = offered else { return Ok(None) };
    let decoded = URL_SAFE_NO_PAD.decode(offered).ok();
    Ok(Some(Token::Subprotocol(decoded.and_then(|bytes| String::from_utf8(bytes).ok()))))
}

#[cfg(test)]
mod tests;
