//! The accept loop, and HTTP/1.1 on each connection until it ends or becomes a WebSocket.
//!
//! Our own, since axum's has no deadline for a head. What bounds a connection: a place among the
//! process's connections, a deadline and a size for each head, and an age. Idle keep-alive counts as
//! waiting for a head, so it ends with the same deadline. A TLS handshake counts as part of the first
//! head: it has the connection's place and its deadline, and holds up nobody else.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, response::Response};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, getrlimit};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    task::{coop::unconstrained, yield_now},
    time::{Instant, sleep, timeout, timeout_at},
};
use tower::Service;

use super::{
    address::Peer,
    plain::{HubFollows, Plain},
    tls::{self, Opened},
};
use crate::{
    hub::Permit,
    limits::{self, Limits},
};

/// What a connection gets for which there is no place. Written before its request is read.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Content-Type: application/problem+json\r\n\
    Content-Length: 202\r\n\
    Retry-After: 5\r\n\
    Cache-Control: no-store\r\n\
    Connection: close\r\n\
    \r\n\
    {\"type\":\"urn:hubbub:error:overloaded\",\
    \"title\":\"The server has no room for this now; try again after the hinted time.\",\
    \"status\":503,\"code\":503,\"name\":\"overloaded\",\"retryable\":true,\"retry_after_ms\":5000}\n";

/// What plain HTTP gets on a port that speaks TLS.
const SPEAK_HTTPS: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 49\r\n\
    Connection: close\r\n\
    \r\n\
    This port speaks HTTPS: use https:// and wss://.\n";

/// The places for connections.
#[derive(Clone, Debug)]
pub struct Permits {
    places: Arc<Semaphore>,
    count: usize,
}

impl Permits {
    /// As many places as this.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let count = count.min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(count)), count }
    }

    /// As many places as configured, but not more than the allowed number of open files bears.
    #[must_use]
    pub fn for_process(connections_max: u32) -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let borne = files - kept_files(files);
        if borne < u64::from(connections_max) {
            tracing::warn!(files, connections = borne, "open files bound the connections");
        }
        Self::new(usize::try_from(borne.min(u64::from(connections_max))).unwrap_or(usize::MAX))
    }

    /// How many places there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many of them are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.count - self.places.available_permits().min(self.count)
    }

    fn take(&self) -> Option<Permit> {
        Arc::clone(&self.places).try_acquire_owned().ok().map(Permit::new)
    }
}

/// Of so many open files, those that connections do not get.
fn kept_files(files: u64) -> u64 {
    (files / 100 * limits::OPEN_FILES_KEPT_PERCENT).min(limits::OPEN_FILES_KEPT)
}

/// The streams of one connection that may take longer than a request should, and whether they move.
#[derive(Clone, Debug, Default)]
pub struct Transfers {
    under_way: Arc<AtomicUsize>,
    moves: Arc<AtomicU64>,
}

/// One of [`Transfers`], until it is dropped.
#[derive(Debug)]
pub struct Transfer(Transfers);

impl Transfers {
    /// One more.
    #[must_use]
    pub fn begin(self) -> Transfer {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Transfer(self)
    }

    fn any(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }

    fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed)
    }
}

impl Transfer {
    /// Another piece went through.
    pub fn moved(&self) {
        self.0.moves.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers requests: a router, or what is in front of one.
pub trait Site:
    Service<Request<Body>, Response = Response, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Site for S where
    S: Service<Request<Body>, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// What one connection may cost.
#[derive(Clone, Debug)]
struct Bounds {
    head_bytes_max: usize,
    read_bytes_max: usize,
    head_timeout: Duration,
}

/// Accepts connections and serves the site on them, until `shutdown` turns true or its sender is
/// gone. Then it accepts no more, lets requests that are under way finish, and returns.
///
/// WebSockets do not count: they left for the hub, with their permits. `tls` is asked for each new
/// connection whether it is to be secure, and with what. One read takes at most `read_bytes_max`, or
/// what a head may have if that is more: 0 leaves it at that.
pub async fn serve(
    listener: TcpListener,
    site: impl Site,
    permits: Permits,
    tls: impl Fn() -> Option<Arc<ServerConfig>>,
    limits: &Limits,
    read_bytes_max: usize,
    shutdown: watch::Receiver<bool>,
) {
    let head_bytes_max =
        usize::try_from(limits.request_head_bytes_max.as_u64()).unwrap_or(usize::MAX);
    let bounds = Bounds {
        head_bytes_max,
        read_bytes_max: read_bytes_max.max(head_bytes_max),
        head_timeout: limits.request_head_timeout,
    };
    // Counts its own turns: tokio's are so short that in a storm the kernel's queue would overflow
    // behind the connections that were accepted before, and the clients' kernels wait a second.
    unconstrained(accept(listener, site, permits, tls, bounds, shutdown)).await;
}

/// The loop itself, which ends its turn after [`limits::ACCEPTS_PER_TURN`].
async fn accept(
    listener: TcpListener,
    site: impl Site,
    permits: Permits,
    tls: impl Fn() -> Option<Arc<ServerConfig>>,
    bounds: Bounds,
    mut shutdown: watch::Receiver<bool>,
) {
    let refusals = Arc::new(Semaphore::new(limits::REFUSALS_MAX));
    // Every connection's task holds a clone; when the last is gone, `ended` says so.
    let (alive, mut ended) = mpsc::channel::<()>(1);
    // Said once, not at every attempt.
    let mut starved = false;
    let mut left_of_turn = limits::ACCEPTS_PER_TURN;
    loop {
        left_of_turn -= 1;
        if left_of_turn == 0 {
            left_of_turn = limits::ACCEPTS_PER_TURN;
            yield_now().await;
        }
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut shutdown) => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok((stream, from)) => (stream, Peer(from.ip())),
            Err(error) => {
                if !is_of_one_connection(&error) {
                    if !starved {
                        tracing::warn!(%error, "connections cannot be accepted now");
                    }
                    starved = true;
                    pause().await;
                }
                continue;
            }
        };
        starved = false;
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let tls = tls();
        let Some(permit) = permits.take() else {
            // Where TLS is spoken it is only cut: a handshake is more than there is room for.
            if tls.is_none() {
                refuse(stream, &refusals);
            }
            continue;
        };
        let (site, bounds, alive) = (site.clone(), bounds.clone(), alive.clone());
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            match tls {
                None => serve_plain(stream, peer, permit, site, &bounds, shutdown).await,
                // Boxed, since its sessions are large, and nobody pays for them without TLS.
                Some(tls) => {
                    Box::pin(serve_tls(stream, peer, tls, permit, site, bounds, shutdown)).await;
                }
            }
            drop(alive);
        });
    }
    drop((listener, alive));
    // Each connection bounds itself; this wait is bounded by theirs.
    ended.recv().await;
}

/// Serves requests on a socket without TLS.
async fn serve_plain(
    stream: TcpStream,
    peer: Peer,
    permit: Permit,
    site: impl Site,
    bounds: &Bounds,
    shutdown: watch::Receiver<bool>,
) {
    let hub_follows = HubFollows::default();
    let stream = Plain::new(stream, hub_follows.clone());
    serve_connection(stream, peer, hub_follows, permit, site, bounds, shutdown).await;
}

/// Does the TLS handshake, then serves requests on it.
async fn serve_tls(
    stream: TcpStream,
    peer: Peer,
    tls: Arc<ServerConfig>,
    permit: Permit,
    site: impl Site,
    mut bounds: Bounds,
    mut shutdown: watch::Receiver<bool>,
) {
    let deadline = Instant::now() + bounds.head_timeout;
    let opened = tokio::select! {
        biased;
        () = stopped(&mut shutdown) => return,
        opened = timeout_at(deadline, tls::open(stream, tls)) => opened,
    };
    match opened {
        Ok(Ok(Opened::Secure(stream))) => {
            // The head has what the handshake left of its time. That the next heads have no more
            // either takes nothing from a client that is not slow.
            bounds.head_timeout = deadline.saturating_duration_since(Instant::now());
            // Its session sends whole records: what it is told of the hub's words is not heard.
            let hub_follows = HubFollows::default();
            serve_connection(stream, peer, hub_follows, permit, site, &bounds, shutdown).await;
        }
        // It holds its permit, which bounds how many are told at once.
        Ok(Ok(Opened::Plain(stream))) => tell(stream, SPEAK_HTTPS).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        // Late: cut, as a late head is.
        Err(_) => {}
    }
}

/// Serves requests on one connection, until it ends or becomes a WebSocket.
async fn serve_connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: Peer,
    hub_follows: HubFollows,
    permit: Permit,
    site: impl Site,
    bounds: &Bounds,
    mut shutdown: watch::Receiver<bool>,
) {
    let transfers = Transfers::default();
    let watched = transfers.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(transfers.clone());
        request.extensions_mut().insert(permit.clone());
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(hub_follows.clone());
        site.clone().call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head_timeout)
        .max_headers(limits::REQUEST_HEADERS_MAX)
        .max_header_size(bounds.head_bytes_max)
        .max_buf_size(bounds.read_bytes_max)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);

    // How a connection ended is its client's affair: a reset or a late head is no news.
    let mut is_stopping = tokio::select! {
        _ = connection.as_mut() => return,
        () = stopped(&mut shutdown) => true,
        () = sleep(limits::HTTP_AGE_MAX) => false,
    };
    connection.as_mut().graceful_shutdown();
    // A transfer goes on for as long as it moves.
    while !is_stopping && watched.any() {
        let before = watched.moves();
        tokio::select! {
            _ = connection.as_mut() => return,
            () = stopped(&mut shutdown) => is_stopping = true,
            () = sleep(limits::TRANSFER_STALL_TIMEOUT) => {
                if watched.moves() == before {
                    return;
                }
            }
        }
    }
    let _ = timeout(limits::HTTP_CLOSE_TIMEOUT, connection).await;
}

async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and the server with it.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Whether the error is about the connection that was to be accepted, not about the process.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Waits for file descriptors or memory to come back: the connection is still there to be accepted,
/// so without a pause the loop would spin.
async fn pause() {
    sleep(limits::ACCEPT_PAUSE.mul_f64(rand::random_range(1.0..2.0))).await;
}

/// Says 503. Beyond a number of clients that are being told, the connection is only cut.
fn refuse(stream: TcpStream, refusals: &Arc<Semaphore>) {
    let Ok(place) = Arc::clone(refusals).try_acquire_owned() else { return };
    tokio::spawn(async move {
        tell(stream, REFUSAL).await;
        drop(place);
    });
}

/// Gives an answer without having read the request, and ends the connection.
async fn tell(mut stream: TcpStream, answer: &[u8]) {
    let told = async {
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        // To close with a request unread would reset the connection, and the answer with it.
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    // Late or reset: it was refused either way.
    let _ = timeout(limits::REFUSAL_TIMEOUT, told).await;
}

#[cfg(test)]
mod tests;
