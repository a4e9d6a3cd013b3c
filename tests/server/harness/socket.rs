//! A WebSocket by hand: frames as bytes, so that a test can send what no client would.

use std::net::SocketAddr;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use super::{http::status, within};

/// Continues a message.
pub(crate) const CONTINUATION: u8 = 0x0;
/// A text message.
pub(crate) const TEXT: u8 = 0x1;
/// A binary message.
pub(crate) const BINARY: u8 = 0x2;
/// The end.
pub(crate) const CLOSE: u8 = 0x8;
/// Asks for a pong.
pub(crate) const PING: u8 = 0x9;
/// With an opcode: the message is compressed.
pub(crate) const RSV1: u8 = 0x40;

/// A connection as bytes.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    unread: BytesMut,
}

/// A frame of the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    /// What it is.
    pub(crate) opcode: u8,
    /// Whether what it holds is compressed.
    pub(crate) is_deflated: bool,
    /// What it holds.
    pub(crate) payload: Bytes,
    /// Its length on the wire, head and all.
    pub(crate) wire_bytes: usize,
}

impl Socket {
    /// Connects.
    pub(crate) async fn connect(server: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(server)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: BytesMut::new() }
    }

    /// Connects with a receive buffer that is soon full.
    pub(crate) async fn connect_narrow(server: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 * 1024).unwrap();
        let stream = within("a connection", socket.connect(server)).await.unwrap();
        Self { stream, unread: BytesMut::new() }
    }

    /// Sends bytes.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        within("a write", self.stream.write_all(bytes)).await.unwrap();
    }

    /// Sends bytes to a server that may have hung up already.
    pub(crate) async fn try_write(&mut self, bytes: &[u8]) {
        // A broken pipe is what the reading side will report better.
        let _ = within("a write", self.stream.write_all(bytes)).await;
    }

    /// The status and the text of the response's head.
    pub(crate) async fn head(&mut self) -> (u16, String) {
        loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = self.unread.split_to(end + 4);
                let head = String::from_utf8(head.to_vec()).unwrap();
                return (status(&head), head);
            }
            assert!(self.read().await, "the connection ended within the head");
        }
    }

    /// What comes until the end, as text.
    pub(crate) async fn rest(&mut self) -> String {
        while self.read().await {}
        String::from_utf8_lossy(&self.unread.split()).into_owned()
    }

    /// The next frame; none at the end of the connection.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = take_frame(&mut self.unread) {
                return Some(frame);
            }
            if !self.read().await {
                assert!(self.unread.is_empty(), "the connection ended within a frame");
                return None;
            }
        }
    }

    /// Reads what is there; false at the end.
    async fn read(&mut self) -> bool {
        let read = within("bytes of the server", self.stream.read_buf(&mut self.unread)).await;
        // A reset is an end too.
        read.is_ok_and(|count| count > 0)
    }
}

/// Takes a whole frame off the front.
fn take_frame(unread: &mut BytesMut) -> Option<Frame> {
    let [first, second] = *unread.first_chunk()?;
    assert_eq!(first & 0xb0, 0x80, "whole messages");
    assert_eq!(second & 0x80, 0, "a server masks nothing");
    let (head, length) = match second {
        126 => {
            let [_, _, length @ ..] = *unread.first_chunk::<4>()?;
            (4, usize::from(u16::from_be_bytes(length)))
        }
        127 => {
            let [_, _, length @ ..] = *unread.first_chunk::<10>()?;
            (10, usize::try_from(u64::from_be_bytes(length)).unwrap())
        }
        length => (2, usize::from(length)),
    };
    if unread.len() < head + length {
        return None;
    }
    unread.advance(head);
    let payload = unread.split_to(length).freeze();
    let (opcode, is_deflated) = (first & 0x0f, first & RSV1 != 0);
    Some(Frame { opcode, is_deflated, payload, wire_bytes: head + length })
}

/// A whole message of a client, as one masked frame.
pub(crate) fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x5a, 0x01, 0xff, 0x80];
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A handshake with one more header line.
pub(crate) fn with_header(handshake: &str, line: &str) -> String {
    handshake.replace("\r\n\r\n", &format!("\r\n{line}\r\n\r\n"))
}

/// A handshake that offers these subprotocols, and brings a token in a header.
pub(crate) fn handshake(server: SocketAddr, subprotocols: &[&str], token: Option<&str>) -> String {
    let mut request = format!(
        "GET /v1/ws HTTP/1.1\r\nHost: {server}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    if !subprotocols.is_empty() {
        request.push_str(&format!("Sec-WebSocket-Protocol: {}\r\n", subprotocols.join(", ")));
    }
    if let Some(token) = token {
        request.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    request.push_str("\r\n");
    request
}

/// The subprotocol by which a browser brings its token.
pub(crate) fn bearer(token: &str) -> String {
    format!("hubbub.bearer.{}", URL_SAFE_NO_PAD.encode(token))
}
