//! The floor: the least that a broadcaster over WebSocket can be. Hot.
//!
//! What it reads it sends to everybody, and that is all: no ids, no limits, no heartbeat, no memory of
//! anything. Who does more than this pays for it on top; who does it in fewer writes pays less.
//!
//! Everybody gets the same bytes, so what is read in a turn is unmasked and framed once, into one
//! buffer. It is sent message by message, or in one piece at the end of the turn.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener as Listener, TcpStream},
};
use rustix::net::listen;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The kernel's own bound is often lower.
const BACKLOG: i32 = 4_096;
const EVENTS_PER_TURN: usize = 1_024;
const READ_BYTES: usize = 64 * 1024;
/// How often it looks whether it is over.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
const HEADERS_MAX: usize = 32;
/// Far above what the generator sends, and what is told in eight bytes is not even looked at.
const PAYLOAD_BYTES_MAX: usize = 60 * 1024;

const LISTENER: Token = Token(usize::MAX - 1);

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    mode: Mode,
    /// Leaves the first connection out of the message of this number, from 1: to see that it is noticed.
    #[arg(long)]
    forget: Option<u64>,
}

/// When it sends.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Each message at once, with a `send` for each connection.
    Direct,
    /// At the end of a turn everything that was read in it, with one `send` for each connection.
    Batched,
}

/// Until it is killed.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    let listener = TcpListener::bind(flags.listen).context("the floor cannot listen")?;
    Floor::new(listener, flags.mode, flags.forget)?.serve(&AtomicBool::new(false))
}

#[derive(Debug)]
pub(super) struct Floor {
    poll: Poll,
    listener: Listener,
    mode: Mode,
    forget: Option<u64>,
    messages: u64,
    connections: Vec<Option<Connection>>,
    buffer: Vec<u8>,
    /// Frames of this turn, or of one message, for everybody.
    turn: Vec<u8>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    is_upgraded: bool,
    /// The beginning of a request or frame whose end has not come.
    kept: Vec<u8>,
    /// What the socket would not take.
    unsent: Vec<u8>,
}

impl Floor {
    pub(super) fn new(listener: TcpListener, mode: Mode, forget: Option<u64>) -> Result<Self> {
        // Once more, for a longer backlog than the standard library's.
        listen(&listener, BACKLOG)?;
        listener.set_nonblocking(true)?;
        let mut listener = Listener::from_std(listener);
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            mode,
            forget,
            messages: 0,
            connections: Vec::new(),
            buffer: vec![0; READ_BYTES],
            turn: Vec::new(),
        })
    }

    pub(super) fn serve(mut self, is_over: &AtomicBool) -> Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        while !is_over.load(Ordering::Relaxed) {
            match self.poll.poll(&mut events, Some(LOOK_INTERVAL)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                if event.token() == LISTENER {
                    self.accept()?;
                    continue;
                }
                let number = event.token().0;
                if event.is_writable() {
                    self.flush(number);
                }
                if event.is_readable() && self.read(number).is_err() {
                    // Who breaks off, or does not speak WebSocket, is gone.
                    self.connections[number] = None;
                }
            }
            if !self.turn.is_empty() {
                self.send_turn();
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error).context("the floor cannot accept"),
            };
            stream.set_nodelay(true)?;
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(self.connections.len()), both)?;
            let (kept, unsent) = (Vec::new(), Vec::new());
            self.connections.push(Some(Connection { stream, is_upgraded: false, kept, unsent }));
        }
    }

    /// Reads until the socket is empty, because its next event comes for new bytes only.
    fn read(&mut self, number: usize) -> Result<()> {
        loop {
            let Some(connection) = &mut self.connections[number] else { return Ok(()) };
            let bytes = match connection.stream.read(&mut self.buffer) {
                Ok(0) => bail!("closed"),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let is_last = bytes < self.buffer.len();
            if connection.is_upgraded && connection.kept.is_empty() {
                let mut buffer = std::mem::take(&mut self.buffer);
                let used = self.take_frames(&mut buffer[..bytes]);
                self.buffer = buffer;
                let used = used?;
                if let Some(connection) = &mut self.connections[number] {
                    connection.kept.extend_from_slice(&self.buffer[used..bytes]);
                }
            } else {
                connection.kept.extend_from_slice(&self.buffer[..bytes]);
                self.take_kept(number)?;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    #[cold]
    fn take_kept(&mut self, number: usize) -> Result<()> {
        let Some(connection) = &mut self.connections[number] else { return Ok(()) };
        if !connection.is_upgraded {
            let Some((request_bytes, answer)) = upgrade(&connection.kept)? else { return Ok(()) };
            connection.kept.drain(..request_bytes);
            connection.stream.write_all(answer.as_bytes())?;
            connection.is_upgraded = true;
        }
        let mut kept = std::mem::take(&mut connection.kept);
        let used = self.take_frames(&mut kept)?;
        kept.drain(..used);
        if let Some(connection) = &mut self.connections[number]
            && !kept.is_empty()
        {
            connection.kept = kept;
        }
        Ok(())
    }

    /// Takes all whole frames, and tells how many bytes they were.
    fn take_frames(&mut self, bytes: &mut [u8]) -> Result<usize> {
        let mut used = 0;
        while let Some(frame) = client_frame(&bytes[used..])? {
            let begin = used + frame.head_bytes;
            used = begin + frame.payload_bytes;
            let payload = &mut bytes[begin..used];
            // Pongs, and whatever else is no message, are for nobody.
            if frame.opcode != BINARY {
                ensure!(frame.opcode != CLOSE, "closed");
                continue;
            }
            unmask(payload, frame.mask);
            self.messages += 1;
            write_frame(&mut self.turn, payload);
            if self.mode == Mode::Direct || self.forget == Some(self.messages) {
                self.send_turn();
            }
        }
        Ok(used)
    }

    /// Sends what is in the turn to everybody.
    fn send_turn(&mut self) {
        let is_forgotten = self.forget == Some(self.messages);
        let receivers = self.connections.iter_mut().skip(usize::from(is_forgotten)).flatten();
        for connection in receivers.filter(|it| it.is_upgraded) {
            connection.send(&self.turn);
        }
        self.turn.clear();
        if is_forgotten {
            self.forget = None;
        }
    }

    fn flush(&mut self, number: usize) {
        let Some(connection) = &mut self.connections[number] else { return };
        if !connection.unsent.is_empty() {
            let unsent = std::mem::take(&mut connection.unsent);
            connection.send(&unsent);
        }
    }
}

impl Connection {
    /// What the socket does not take waits until it does.
    #[inline]
    fn send(&mut self, bytes: &[u8]) {
        let mut sent = 0;
        if self.unsent.is_empty() {
            sent = match self.stream.write(bytes) {
                Ok(sent) if sent == bytes.len() => return,
                Ok(sent) => sent,
                // A broken connection shows when it is read.
                Err(_) => 0,
            };
        }
        self.unsent.extend_from_slice(&bytes[sent..]);
    }
}

const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;

/// The head of a client's frame whose payload is there.
struct ClientFrame {
    opcode: u8,
    mask: [u8; 4],
    head_bytes: usize,
    payload_bytes: usize,
}

/// The whole frame at the beginning of these bytes, if one is there.
fn client_frame(bytes: &[u8]) -> Result<Option<ClientFrame>> {
    let &[first, second, ref after @ ..] = bytes else { return Ok(None) };
    ensure!(second & 0x80 != 0 && first & 0x70 == 0, "no frame of a client");
    let (payload_bytes, after, head_bytes) = match second & 0x7F {
        127 => bail!("a frame too long for the floor"),
        126 => {
            let Some((length, after)) = after.split_first_chunk() else { return Ok(None) };
            (usize::from(u16::from_be_bytes(*length)), after, 8)
        }
        short => (usize::from(short), after, 6),
    };
    ensure!(payload_bytes <= PAYLOAD_BYTES_MAX, "a frame too long for the floor");
    let Some((&mask, after)) = after.split_first_chunk() else { return Ok(None) };
    let frame = ClientFrame { opcode: first & 0x0F, mask, head_bytes, payload_bytes };
    Ok((after.len() >= payload_bytes).then_some(frame))
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    for (byte, mask) in payload.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
}

fn write_frame(out: &mut Vec<u8>, payload: &[u8]) {
    match u8::try_from(payload.len()) {
        Ok(short @ ..126) => out.extend_from_slice(&[0x80 | BINARY, short]),
        _ => {
            let length = u16::try_from(payload.len()).expect("longer ones are not taken");
            out.extend_from_slice(&[0x80 | BINARY, 126]);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

/// The bytes of the request at the beginning, and the answer to it. `None`: it is not whole yet.
fn upgrade(bytes: &[u8]) -> Result<Option<(usize, String)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(request_bytes) = request.parse(bytes)? else { return Ok(None) };
    let mut headers = request.headers.iter();
    let key = headers.find(|it| it.name.eq_ignore_ascii_case("sec-websocket-key"));
    let accept = derive_accept_key(key.context("a request that is no upgrade")?.value);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    Ok(Some((request_bytes, answer)))
}
