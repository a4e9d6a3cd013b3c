use std::{future::Future, io::Write as _, net::SocketAddr, time::Instant};

use axum::{Extension, Router, http::StatusCode, routing::get};
use tokio::{net::TcpSocket, task::JoinHandle};

use super::*;

struct Server {
    address: SocketAddr,
    permits: Permits,
    shutdown: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Server {
    async fn start(permits: usize) -> Self {
        Self::start_with(permits, Duration::from_millis(200)).await
    }

    async fn start_with(permits: usize, request_head_timeout: Duration) -> Self {
        let limits = Limits { request_head_timeout, ..Limits::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let peer = async |Extension(Peer(ip)): Extension<Peer>| ip.to_string();
        let router =
            Router::new().route("/", get(async || "hello")).route("/peer", get(peer)).route(
                "/slow",
                get(async || {
                    sleep(Duration::from_millis(100)).await;
                    "done"
                }),
            );
        let permits = Permits::new(permits);
        let (shutdown, stop) = watch::channel(false);
        let places = permits.clone();
        let serving = tokio::spawn(async move {
            serve(listener, router, places, || None, &limits, 0, stop).await;
        });
        Self { address, permits, shutdown, serving }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

async fn in_time<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(5), future).await.expect("it takes too long")
}

/// All that comes until the server closes, however it does.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = in_time(stream.read_to_end(&mut bytes)).await;
    String::from_utf8(bytes).unwrap()
}

async fn read_answer(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        text.push(char::from(in_time(stream.read_u8()).await.unwrap()));
    }
    text
}

async fn ask(server: &Server, request: &str) -> String {
    let mut stream = server.connect().await;
    let _ = stream.write_all(request.as_bytes()).await;
    read_all(&mut stream).await
}

#[tokio::test]
async fn every_request_carries_the_address_that_it_came_from() {
    let server = Server::start(2).await;
    for from in ["127.0.0.1", "127.0.0.9"] {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
        let mut stream = socket.connect(server.address).await.unwrap();
        let request = "GET /peer HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1.2.3.4\r\n";
        stream.write_all(format!("{request}Connection: close\r\n\r\n").as_bytes()).await.unwrap();
        let answer = read_all(&mut stream).await;
        assert!(answer.ends_with(&format!("\r\n\r\n{from}")), "{answer}");
    }
}

#[tokio::test]
async fn half_a_head_and_no_head_are_closed_in_time() {
    let server = Server::start(8).await;
    for head in ["", "G", "GET / HT", "GET / HTTP/1.1\r\nHost: x\r\n"] {
        let begun = Instant::now();
        let answer = ask(&server, head).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{head:?}");
    }
}

#[tokio::test]
async fn a_trickled_head_has_the_same_deadline() {
    let server = Server::start(8).await;
    let mut stream = server.connect().await;
    let begun = Instant::now();
    let trickle = async {
        for byte in b"GET / HTTP/1.1\r\nX-Long: ".iter().chain(std::iter::repeat(&b'x')) {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(trickle).await;
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn heads_that_are_too_large_get_431() {
    let server = Server::start(8).await;
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(17 * 1024));
    assert!(ask(&server, &long).await.starts_with("HTTP/1.1 431 "));
    let headers: String = (0..200).map(|number| format!("X-{number}: y\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    assert!(ask(&server, &many).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn garbage_gets_400() {
    let server = Server::start(8).await;
    for garbage in [
        "\u{16}\u{3}\u{1}\0\u{5}hello\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ] {
        let answer = ask(&server, garbage).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{garbage:?}: {answer}");
    }
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_request_and_ends_when_idle() {
    let server = Server::start(8).await;
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(read_answer(&mut stream, "hello").await.starts_with("HTTP/1.1 200 "));
    }
    assert_eq!(read_all(&mut stream).await, "");
}

#[tokio::test]
async fn beyond_the_permits_connections_get_503_until_one_ends() {
    let server = Server::start(1).await;
    let mut first = server.connect().await;
    first.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    read_answer(&mut first, "hello").await;
    assert_eq!(server.permits.taken(), 1);

    let refused = ask(&server, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("Retry-After: 5\r\n"));
    let (head, body) = refused.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["code"], crate::wire::code::ErrorCode::Overloaded.number());
    assert_eq!(body["title"], crate::wire::code::ErrorCode::Overloaded.sentence());

    // The first one idles out, which frees its place.
    assert_eq!(read_all(&mut first).await, "");
    let answer = ask(&server, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 ") || answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_shutdown_finishes_what_is_under_way_and_accepts_nothing_more() {
    // So long that nothing ends by it.
    let server = Server::start_with(8, Duration::from_secs(60)).await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut idle = server.connect().await;
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    read_answer(&mut idle, "hello").await;
    let begun = Instant::now();
    server.shutdown.send(true).unwrap();
    assert_eq!(read_all(&mut idle).await, "");
    assert!(read_all(&mut busy).await.ends_with("done"));
    in_time(server.serving).await.unwrap();
    assert!(begun.elapsed() < limits::HTTP_CLOSE_TIMEOUT / 2, "nothing was cut");
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[test]
fn the_refusal_has_the_status_of_its_code() {
    let status = StatusCode::SERVICE_UNAVAILABLE.to_string();
    assert!(REFUSAL.starts_with(format!("HTTP/1.1 {status}\r\n").as_bytes()));
}

#[test]
fn errors_of_the_process_make_the_loop_pause() {
    for code in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE, rustix::io::Errno::NOBUFS] {
        assert!(!is_of_one_connection(&code.into()), "{code}");
    }
    assert!(is_of_one_connection(&rustix::io::Errno::CONNABORTED.into()));
}

#[test]
fn open_files_bound_the_places() {
    assert_eq!(kept_files(1_000), 200, "a fifth of few");
    assert_eq!(kept_files(20_000), limits::OPEN_FILES_KEPT);
    let permits = Permits::for_process(u32::MAX);
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    assert!(permits.count() as u64 <= files - kept_files(files));
    assert_eq!(Permits::for_process(3).count(), 3);
}

#[tokio::test]
async fn all_that_wait_are_accepted_before_the_first_is_served() {
    const WAITING: usize = 300;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listener = socket.listen(2 * WAITING as u32).unwrap();
    let address = listener.local_addr().unwrap();
    // The kernel takes them, whether or not somebody accepts.
    let mut waiting: Vec<_> =
        (0..WAITING).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    for stream in &mut waiting {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    }
    let permits = Permits::new(2 * WAITING);
    let taken = permits.clone();
    let router = Router::new().route("/", get(async move || taken.taken().to_string()));
    let (_shutdown, stop) = watch::channel(false);
    tokio::spawn(async move {
        serve(listener, router, permits, || None, &Limits::default(), 0, stop).await;
    });
    let first = waiting.remove(0);
    first.set_nonblocking(true).unwrap();
    let answer = read_all(&mut TcpStream::from_std(first).unwrap()).await;
    assert!(answer.ends_with(&format!("\r\n\r\n{WAITING}")), "{answer}");
}
