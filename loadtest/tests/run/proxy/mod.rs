//! A proxy between the load generator and a real server that does one thing wrong now and then, so
//! that the audit has something to find.
//!
//! Plain HTTP passes through untouched, and so does the upgrade of a WebSocket. After it, the proxy
//! speaks WebSocket to both sides. What it does to the frames is decided in `meddler`.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message as Frame, protocol::Role},
};

use meddler::{Meddler, Passage};

pub(crate) mod meddler;

#[cfg(test)]
mod tests;

pub(crate) use meddler::Defect;

/// Frames that wait for one client. Whoever has more waiting makes its server wait.
const OUTBOX_FRAMES_MAX: usize = 4_096;
/// How long a publish is held back on both sides of the moment at which its message is told.
const HELD_BACK: Duration = Duration::from_millis(300);
/// How long the real event may take once the publish has been passed on.
const SETTLED_MAX: Duration = Duration::from_secs(5);
const HEADS_MAX: usize = 32;

/// A running proxy. Dropping it ends its connections.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    meddler: Mutex<Meddler>,
    /// Whoever passes a publish on holds it, where publishes have to be held back.
    gate: tokio::sync::Mutex<()>,
}

impl Shared {
    fn meddler(&self) -> MutexGuard<'_, Meddler> {
        self.meddler.lock().unwrap()
    }
}

impl Proxy {
    /// Listens on a free port, in front of this server.
    pub(crate) async fn start(server: SocketAddr, defect: Defect) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let meddler = Mutex::new(Meddler::new(defect));
        let shared = Arc::new(Shared { meddler, gate: tokio::sync::Mutex::default() });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, server, Arc::clone(&shared)));
        Self { address, shared, _accepting: accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How often it has done wrong.
    pub(crate) fn deeds(&self) -> u64 {
        self.shared.meddler().deeds
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            // A connection that breaks is broken on both sides, which is all there is to do.
            let _ = serve(client, server, &shared).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// One connection: requests and their answers, until one of them is an upgrade.
async fn serve(mut client: TcpStream, server: SocketAddr, shared: &Shared) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    loop {
        let Some((request, _)) = next_request(&mut client, &mut asked).await? else {
            return Ok(());
        };
        server.write_all(&request).await?;
        let Some((response, status)) = next_response(&mut server, &mut answered).await? else {
            return Ok(());
        };
        client.write_all(&response).await?;
        if status == 101 {
            break;
        }
    }
    let client = WebSocketStream::from_partially_read(client, asked, Role::Server, None).await;
    let server = WebSocketStream::from_partially_read(server, answered, Role::Client, None).await;
    relay(client, server, shared).await;
    Ok(())
}

async fn next_request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<(Vec<u8>, u16)>> {
    next_http(stream, buffer, |bytes| {
        let mut heads = [httparse::EMPTY_HEADER; HEADS_MAX];
        let mut request = httparse::Request::new(&mut heads);
        let status = request.parse(bytes).map_err(io::Error::other)?;
        Ok(status.is_complete().then(|| (status.unwrap(), body_bytes(request.headers), 0)))
    })
    .await
}

async fn next_response(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<(Vec<u8>, u16)>> {
    next_http(stream, buffer, |bytes| {
        let mut heads = [httparse::EMPTY_HEADER; HEADS_MAX];
        let mut response = httparse::Response::new(&mut heads);
        let status = response.parse(bytes).map_err(io::Error::other)?;
        let code = response.code.unwrap_or_default();
        Ok(status.is_complete().then(|| (status.unwrap(), body_bytes(response.headers), code)))
    })
    .await
}

/// Reads one request or answer, whole. `parse` tells the bytes of the head, those of the body and
/// the status, once the head is whole.
async fn next_http(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    parse: impl Fn(&[u8]) -> io::Result<Option<(usize, usize, u16)>>,
) -> io::Result<Option<(Vec<u8>, u16)>> {
    loop {
        if let Some((head, body, status)) = parse(buffer)?
            && buffer.len() >= head + body
        {
            let rest = buffer.split_off(head + body);
            return Ok(Some((std::mem::replace(buffer, rest), status)));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

fn body_bytes(heads: &[httparse::Header<'_>]) -> usize {
    let is_length = |head: &&httparse::Header<'_>| head.name.eq_ignore_ascii_case("content-length");
    let length = heads.iter().find(is_length).and_then(|head| str::from_utf8(head.value).ok());
    length.and_then(|length| length.trim().parse().ok()).unwrap_or(0)
}

/// Frames both ways, until one side closes.
async fn relay(
    client: WebSocketStream<TcpStream>,
    server: WebSocketStream<TcpStream>,
    shared: &Shared,
) {
    let (outbox, mut waiting) = mpsc::channel::<Frame>(OUTBOX_FRAMES_MAX);
    let number = shared.meddler().connected(outbox.clone());
    let (mut to_client, mut from_client) = client.split();
    let (mut to_server, mut from_server) = server.split();

    let write = async {
        while let Some(frame) = waiting.recv().await {
            let is_last = frame.is_close();
            if to_client.send(frame).await.is_err() || is_last {
                return;
            }
        }
    };
    let read_server = async {
        while let Some(Ok(frame)) = from_server.next().await {
            let frames = match frame {
                Frame::Binary(bytes) => shared.meddler().server_sends(number, bytes),
                // Each side answers the pings of its own peer.
                Frame::Ping(_) | Frame::Pong(_) => continue,
                other => vec![other],
            };
            for frame in frames {
                if outbox.send(frame).await.is_err() {
                    return;
                }
            }
        }
        // The writer ends the connection when it has written this.
        let _ = outbox.send(Frame::Close(None)).await;
        std::future::pending::<()>().await;
    };
    let read_client = async {
        while let Some(Ok(frame)) = from_client.next().await {
            let is_last = frame.is_close();
            let is_sent = match frame {
                Frame::Binary(bytes) => {
                    let passage = shared.meddler().client_sends(number, &bytes);
                    match passage {
                        Passage::Pass => to_server.send(Frame::Binary(bytes)).await,
                        Passage::Answered => Ok(()),
                        Passage::InTurn => {
                            let _turn = shared.gate.lock().await;
                            to_server.send(Frame::Binary(bytes)).await
                        }
                        Passage::ToldEarly => {
                            let _turn = shared.gate.lock().await;
                            // What was passed on before has come by then.
                            tokio::time::sleep(HELD_BACK).await;
                            let told = shared.meddler().tell_early(number, &bytes);
                            tokio::time::sleep(HELD_BACK).await;
                            let sent = to_server.send(Frame::Binary(bytes)).await;
                            if let Some((channel, sequence)) = told {
                                settled(shared, channel, sequence).await;
                            }
                            sent
                        }
                    }
                }
                Frame::Ping(_) | Frame::Pong(_) => continue,
                other => to_server.send(other).await,
            };
            if is_sent.is_err() || is_last {
                return;
            }
        }
    };
    tokio::select! {
        () = write => {}
        () = read_server => {}
        () = read_client => {}
    }
    shared.meddler().ended(number);
}

/// Waits until the server has told of this sequence.
async fn settled(shared: &Shared, channel: u32, sequence: u64) {
    let deadline = tokio::time::Instant::now() + SETTLED_MAX;
    while shared.meddler().head(channel) < sequence {
        assert!(tokio::time::Instant::now() < deadline, "the publish came to nothing");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
