//! One connection: TCP, perhaps TLS, the WebSocket handshake, the welcome; then frames in both directions.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Sink as _, SinkExt as _, Stream as _, StreamExt as _};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream, lookup_host},
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self, Message as Frame,
        client::IntoClientRequest as _,
        http::{HeaderValue, Response, header},
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{
    backoff::asked_for,
    codec::{self, Event, Welcome},
    error::{Closed, ProtocolError, Refusal},
    http, tls,
};
use crate::{
    limits::{
        CLIENT_MESSAGE_BYTES_MAX, CLIENT_READ_BUFFER_BYTES, CLIENT_WRITE_BUFFER_BYTES,
        CLIENT_WRITE_BUFFER_BYTES_MAX, CLOSE_TIMEOUT,
    },
    wire::Encoding,
};

/// Opens a byte stream to the server. TCP, or a pipe in tests.
pub(super) trait Connect: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn connect(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send + 'static;
}

/// Connects over TCP.
#[derive(Clone, Debug)]
pub(super) struct TcpConnect {
    /// `host:port`.
    pub(super) authority: String,
    /// What TLS takes, if it is to be.
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) local_address: Option<IpAddr>,
}

/// TCP, or TLS over it.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for S {}

impl Connect for TcpConnect {
    type Stream = Box<dyn Wire>;

    fn connect(&self) -> impl Future<Output = io::Result<Box<dyn Wire>>> + Send + 'static {
        let Self { authority, tls, local_address } = self.clone();
        async move {
            let mut error = io::Error::from(io::ErrorKind::AddrNotAvailable);
            for address in lookup_host(&authority).await? {
                match connect_from(local_address, address).await {
                    Ok(stream) => return secure(stream, tls, &authority).await,
                    Err(refused) => error = refused,
                }
            }
            Err(error)
        }
    }
}

/// Does the TLS handshake, if there is to be one.
async fn secure(
    stream: TcpStream,
    tls: Option<Arc<ClientConfig>>,
    authority: &str,
) -> io::Result<Box<dyn Wire>> {
    let Some(config) = tls else { return Ok(Box::new(stream)) };
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(tls::explain)?;
    Ok(Box::new(stream))
}

async fn connect_from(local: Option<IpAddr>, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(local) = local {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    let stream = socket.connect(address).await?;
    // Frames are small and awaited; a delayed one only waits for its own acknowledgement.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection that the server has welcomed.
pub(super) struct Socket<S> {
    stream: WebSocketStream<S>,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum OpenError {
    /// The network, or a server that does not speak WebSocket. Worth another attempt.
    Network(String),
    /// An HTTP status instead of the handshake.
    Status { status: u16, refusal: Option<Refusal> },
    /// A close frame instead of the welcome.
    Closed(Closed),
    /// Something else instead of the welcome.
    Protocol(ProtocolError),
}

/// What a connection brought.
#[derive(Debug)]
pub(super) enum Incoming {
    Event(Event),
    /// A ping or pong: a sign of life.
    Sign,
    Closed(Closed),
    Protocol(ProtocolError),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Handshake and welcome.
    pub(super) async fn open(
        stream: S,
        url: &str,
        token: &str,
    ) -> Result<(Self, Welcome), OpenError> {
        let network = |error: &dyn std::fmt::Display| OpenError::Network(error.to_string());
        let mut request = url.into_client_request().map_err(|error| network(&error))?;
        let mut bearer = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| OpenError::Network("the token is no header value".to_owned()))?;
        bearer.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, bearer);
        request.headers_mut().insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(Encoding::Proto.subprotocol()),
        );
        let config = WebSocketConfig::default()
            .read_buffer_size(CLIENT_READ_BUFFER_BYTES)
            .write_buffer_size(CLIENT_WRITE_BUFFER_BYTES)
            .max_write_buffer_size(CLIENT_WRITE_BUFFER_BYTES_MAX)
            .max_message_size(Some(CLIENT_MESSAGE_BYTES_MAX))
            .max_frame_size(Some(CLIENT_MESSAGE_BYTES_MAX));
        let (stream, _) =
            client_async_with_config(request, stream, Some(config)).await.map_err(|error| {
                match error {
                    tungstenite::Error::Http(response) => refused(&response),
                    error => network(&error),
                }
            })?;
        let mut socket = Self { stream };
        loop {
            let frame = socket.stream.next().await;
            match incoming(frame) {
                Incoming::Event(Event::Welcome(welcome)) => return Ok((socket, welcome)),
                Incoming::Event(Event::Reply { id: 0, result: Err(refusal) }) => {
                    return Err(OpenError::Protocol(ProtocolError::Unreadable(refusal)));
                }
                Incoming::Event(_) => return Err(OpenError::Protocol(ProtocolError::NoWelcome)),
                Incoming::Sign => {}
                Incoming::Closed(closed) => return Err(OpenError::Closed(closed)),
                Incoming::Protocol(error) => return Err(OpenError::Protocol(error)),
            }
        }
    }

    /// Writes what is outgoing, then reads one frame, unless reading is to pause. Nothing is lost
    /// when it is not polled again: all state is in the socket and in `outgoing`.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        outgoing: &mut VecDeque<Bytes>,
        reads: bool,
    ) -> Poll<Incoming> {
        // A failed write says less than what the server sent before it closed, so read on.
        while !outgoing.is_empty() {
            if !matches!(Pin::new(&mut self.stream).poll_ready(cx), Poll::Ready(Ok(()))) {
                break;
            }
            let Some(frame) = outgoing.pop_front() else { break };
            if Pin::new(&mut self.stream).start_send(Frame::Binary(frame)).is_err() {
                break;
            }
        }
        let _ = Pin::new(&mut self.stream).poll_flush(cx);
        if !reads {
            return Poll::Pending;
        }
        Poll::Ready(incoming(ready!(Pin::new(&mut self.stream).poll_next(cx))))
    }

    /// Says goodbye and waits a little for the answer, so that the close frame is not lost in a
    /// reset.
    pub(super) async fn close(mut self) {
        let farewell = async {
            let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            if self.stream.send(Frame::Close(Some(frame))).await.is_ok() {
                while let Some(Ok(_)) = self.stream.next().await {}
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, farewell).await;
    }
}

fn incoming(frame: Option<Result<Frame, tungstenite::Error>>) -> Incoming {
    match frame {
        Some(Ok(Frame::Binary(bytes))) => match codec::decode(bytes) {
            Ok(event) => Incoming::Event(event),
            Err(error) => Incoming::Protocol(error),
        },
        Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => Incoming::Sign,
        Some(Ok(Frame::Close(frame))) => Incoming::Closed(closed(frame.as_ref())),
        // A text frame on a binary connection; a raw frame is never read.
        Some(Ok(Frame::Text(_) | Frame::Frame(_)))
        | Some(Err(tungstenite::Error::Capacity(_) | tungstenite::Error::Utf8(_))) => {
            Incoming::Protocol(ProtocolError::Undecodable)
        }
        Some(Err(_)) | None => Incoming::Closed(Closed { number: None, retry_after: None }),
    }
}

fn closed(frame: Option<&CloseFrame>) -> Closed {
    Closed {
        number: frame.map(|frame| frame.code.into()),
        retry_after: frame.and_then(|frame| retry_after(frame.reason.as_str().as_bytes())),
    }
}

/// The `retry_after_ms` of a JSON close reason.
fn retry_after(reason: &[u8]) -> Option<Duration> {
    let reason: serde_json::Value = serde_json::from_slice(reason).ok()?;
    reason.get("retry_after_ms")?.as_u64().and_then(asked_for)
}

fn refused(response: &Response<Option<Vec<u8>>>) -> OpenError {
    let status = response.status();
    let body = response.body().as_deref().unwrap_or_default();
    OpenError::Status { status: status.as_u16(), refusal: http::refusal(response.headers(), body) }
}
