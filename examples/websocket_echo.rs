//! Sends every message back: what the Autobahn suite talks to. No login, no channels.
//!
//! The bytes go the way that they go in the server: its handshake, its reader, its outbox, its
//! socket, one vectored write for what waits. What differs is said where it does.
//! `cargo xtask autobahn` starts it; by hand: `cargo run --example websocket_echo -- --listen 127.0.0.1:9001`.

use std::{
    cell::RefCell,
    convert::Infallible,
    error::Error,
    io::{self, IoSlice},
    net::SocketAddr,
    rc::Rc,
};

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use hubbub::{
    connection::{
        reader::{Incoming, Next, Read, discard},
        socket::Socket,
    },
    hub::outbox::{Full, Outbox},
    limits::{CLOSE_TIMEOUT, WRITE_SLICES_MAX},
    metrics::Metrics,
    websocket::{
        deflate::{Agreed, compress::Compressor},
        frame::{self, BINARY, OpCode, TEXT},
        handshake::{self, Answer},
        reader::{Received, Violation},
    },
    wire::code::CloseCode,
};
use hyper::{
    Request, Response,
    body::Incoming as Body,
    header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::Interest,
    net::{TcpListener, TcpStream},
    task::{LocalSet, spawn_local, yield_now},
    time::timeout,
};

#[derive(Clone, Copy, Parser)]
#[command(about = "Sends every WebSocket message back")]
struct Arguments {
    /// Where to listen. Port 0: any; the first line of the output names it.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The largest message that is taken. Beyond it: close 1009.
    #[arg(long, default_value_t = 16 * 1024 * 1024)]
    message_bytes_max: usize,
    /// Whether a peer that offers compression gets it.
    #[arg(long, default_value = "on")]
    deflate: Deflate,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Deflate {
    Off,
    /// And then every message is compressed, however short it is, if it fits the peer's window.
    On,
    /// And if it does not fit, it is compressed in pieces that do. The server never does this.
    Always,
}

thread_local! {
    static COMPRESSOR: RefCell<Compressor> = RefCell::default();
    /// Nobody asks for them here.
    static METRICS: Metrics = Metrics::default();
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let listener = TcpListener::bind(arguments.listen).await?;
    println!("listening on ws://{}", listener.local_addr()?);
    let accepting = async {
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            spawn_local(serve_http(stream, arguments));
        }
    };
    LocalSet::new().run_until(accepting).await
}

/// HTTP up to the handshake. As at the server's edge, but for its deadlines and bounds.
async fn serve_http(stream: TcpStream, arguments: Arguments) {
    let service =
        service_fn(|request| async move { Ok::<_, Infallible>(answer(request, arguments)) });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.with_upgrades().await {
        eprintln!("a connection ended before its handshake: {error}");
    }
}

fn answer(mut request: Request<Body>, arguments: Arguments) -> Response<String> {
    // The suite names no subprotocol, and without one in common the server would close.
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("echo"));
    let wants_deflate = |(): &()| arguments.deflate != Deflate::Off;
    let (mut response, deflate) = match handshake::answer(&request, |_| Some(()), wants_deflate) {
        Ok(Answer::Agreed { response, deflate, .. }) => (response, deflate),
        Ok(Answer::NothingInCommon { .. }) => unreachable!("every name is taken"),
        Err(refusal) => {
            let mut response = Response::new(refusal.to_string());
            *response.status_mut() = refusal.status();
            response.headers_mut().extend(refusal.headers());
            return response;
        }
    };
    response.headers_mut().remove(SEC_WEBSOCKET_PROTOCOL);
    let upgrade = hyper::upgrade::on(&mut request);
    spawn_local(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let parts = upgraded.downcast::<TokioIo<TcpStream>>().expect("it was made of one");
        let echo = Echo::new(parts.io.into_inner(), parts.read_buf, deflate, arguments);
        // A peer that resets its connection is testing us, too.
        let ended = async { echo?.run().await };
        if let Err(error) = ended.await {
            eprintln!("a connection ended: {error}");
        }
    });
    response.map(|()| String::new())
}

/// One connection. Unlike the server's it has no heartbeat and no deadline, since the suite has
/// cases that wait, and it answers at once instead of at the end of a turn.
struct Echo {
    socket: Socket,
    incoming: Incoming,
    outbox: Outbox,
    form: Form,
    /// Beyond so many bytes that wait, nothing more is read.
    queued_bytes_max: usize,
}

impl Echo {
    fn new(
        stream: TcpStream,
        early: Bytes,
        agreed: Option<Agreed>,
        arguments: Arguments,
    ) -> io::Result<Self> {
        let Arguments { message_bytes_max, deflate, .. } = arguments;
        Ok(Self {
            socket: Socket::new(stream.into_std()?, None)?,
            incoming: Incoming::new(message_bytes_max, agreed, early.into()),
            form: Form { agreed, in_pieces: deflate == Deflate::Always },
            // One read's messages are at most what was held before, and the read itself. Their
            // places cost more than their bytes when they are empty.
            outbox: Outbox::new(8 * message_bytes_max + 8 * 1024 * 1024),
            queued_bytes_max: message_bytes_max,
        })
    }

    async fn run(mut self) -> io::Result<()> {
        let mut read = self.resume();
        loop {
            match read {
                Read::Taken | Read::Stop => {}
                Read::Wait(nothing) => match nothing {},
                Read::Yield => {
                    self.write()?;
                    yield_now().await;
                    read = self.resume();
                    continue;
                }
                Read::Gone => return Ok(()),
                Read::Violation(Violation { code, reason }) => {
                    close(&mut self.outbox, code, reason)
                }
            }
            read = Read::Taken;
            self.write()?;
            if self.outbox.is_closing() {
                // A peer that never hangs up is left alone after a while.
                return timeout(CLOSE_TIMEOUT, self.finish()).await.unwrap_or(Ok(()));
            }
            let interest = match self.outbox.queued_bytes() {
                0 => Interest::READABLE,
                queued if queued < self.queued_bytes_max => {
                    Interest::READABLE.add(Interest::WRITABLE)
                }
                _ => Interest::WRITABLE,
            };
            if self.socket.ready(interest).await?.is_readable() {
                read = self.read();
            }
        }
    }

    fn read(&mut self) -> Read<Infallible> {
        let Self { socket, incoming, outbox, form, .. } = self;
        let form = *form;
        METRICS
            .with(|metrics| incoming.read(socket, metrics, |received| hear(outbox, form, received)))
    }

    fn resume(&mut self) -> Read<Infallible> {
        let Self { incoming, outbox, form, .. } = self;
        let form = *form;
        METRICS.with(|metrics| incoming.resume(metrics, |received| hear(outbox, form, received)))
    }

    /// Writes what the socket takes.
    fn write(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
            let used = self.outbox.slices(&mut slices);
            match self.socket.try_write(&slices[..used]) {
                Ok(written) => self.outbox.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes what is left, says that nothing follows, and waits for the peer to hang up.
    async fn finish(mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            self.socket.ready(Interest::WRITABLE).await?;
            self.write()?;
        }
        self.socket.finish()?;
        while discard(&self.socket).is_continue() {
            self.socket.ready(Interest::READABLE).await?;
        }
        Ok(())
    }
}

/// What the server's dialogue does, but for a message, which goes back as it came.
fn hear(outbox: &mut Outbox, form: Form, received: Received<'_>) -> Next<Infallible> {
    let frame = match received {
        Received::Text(text) => form.encode(TEXT, text.as_bytes()),
        Received::Binary(bytes) => form.encode(BINARY, bytes),
        Received::Ping(payload) => frame::pong(payload),
        Received::Pong(_) => return Next::Go,
        Received::Close(_) => {
            close(outbox, CloseCode::Normal, CloseCode::Normal.name());
            return Next::Stop;
        }
    };
    match outbox.push(Rc::new(frame)) {
        Ok(()) => Next::Go,
        Err(Full) => {
            close(outbox, CloseCode::SlowConsumer, CloseCode::SlowConsumer.name());
            Next::Stop
        }
    }
}

/// How messages go back on one connection.
#[derive(Clone, Copy)]
struct Form {
    agreed: Option<Agreed>,
    /// [`Deflate::Always`].
    in_pieces: bool,
}

impl Form {
    /// Unlike the server, this compresses what is short or does not get smaller: compression is what
    /// the suite is about.
    fn encode(self, opcode: OpCode, payload: &[u8]) -> Bytes {
        match self.agreed {
            Some(agreed) if agreed.takes(payload.len()) => {
                COMPRESSOR.with_borrow_mut(|compressor| {
                    frame::encode_deflated(opcode, compressor.deflate(payload))
                })
            }
            Some(_) if self.in_pieces => {
                frame::encode_deflated(opcode, &deflate_in_pieces(payload))
            }
            Some(_) | None => frame::encode(opcode, payload),
        }
    }
}

/// Compresses for a window of any size: no piece refers to another, and each fits the smallest.
fn deflate_in_pieces(payload: &[u8]) -> Vec<u8> {
    const WINDOW_BYTES_MIN: usize = 512;
    const PIECE_END: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
    COMPRESSOR.with_borrow_mut(|compressor| {
        let mut deflated = Vec::new();
        for piece in payload.chunks(WINDOW_BYTES_MIN) {
            if !deflated.is_empty() {
                deflated.extend(PIECE_END);
            }
            deflated.extend(compressor.deflate(piece));
        }
        deflated
    })
}

fn close(outbox: &mut Outbox, code: CloseCode, reason: &str) {
    outbox.push_close(Rc::new(frame::close(code.number(), reason)));
}
