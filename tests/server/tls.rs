//! TLS on the public port: everything works as it does without, and a reload changes only what is new.

use std::{
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use hubbub::{
    config::Config,
    edge::tls::TlsError,
    engine::{Engine, memory::MemoryEngine},
    wire::{Encoding, code::CloseCode},
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
    version::{TLS12, TLS13},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    harness::{Heard, LOBBY, PING, Peer, Socket, TestServer, bearer, handshake, masked, within},
    slow_consumer::{publish_until_closed, read_what_came},
};

/// The type of a record that holds what was sent, in its head of so many bytes.
const APPLICATION_DATA: u8 = 23;
const RECORD_HEAD_BYTES: usize = 5;

/// The files that a server is given, and what its clients trust.
pub(crate) struct Files {
    dir: TempDir,
    certificate: CertificateDer<'static>,
}

impl Files {
    pub(crate) fn issue() -> Self {
        let mut files = Self {
            dir: tempfile::tempdir().unwrap(),
            certificate: CertificateDer::from(Vec::new()),
        };
        files.issue_again();
        files
    }

    /// A new certificate under the same paths.
    fn issue_again(&mut self) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["hubbub.test".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(self.path("cert.pem"), certificate.pem()).unwrap();
        fs::write(self.path("key.pem"), key.serialize_pem()).unwrap();
        self.certificate = certificate.der().clone();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, config: &mut Config) {
        config.edge.tls.certificate = self.path("cert.pem");
        config.edge.tls.key = self.path("key.pem");
    }

    fn connector(&self, versions: &[&'static SupportedProtocolVersion]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsConnector::from(Arc::new(config))
    }

    /// Does the handshake on a connection.
    async fn secure<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<TlsStream<S>> {
        let name = ServerName::try_from("hubbub.test").unwrap();
        let connector = self.connector(&[&TLS12, &TLS13]);
        within("a handshake", connector.connect(name, stream)).await
    }

    pub(crate) async fn connect(&self, server: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        self.secure(tcp(server).await).await
    }

    /// Connects as this user.
    async fn login<E: Engine>(&self, server: &TestServer<E>, name: &str) -> Peer {
        let stream = self.connect(server.address()).await.unwrap();
        Peer::login_over(server, Socket::over(stream), name).await
    }
}

async fn tcp(server: SocketAddr) -> TcpStream {
    let stream = within("a connection", TcpStream::connect(server)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

pub(crate) async fn start(
    files: &Files,
    change: impl FnOnce(&mut Config),
) -> TestServer<MemoryEngine> {
    TestServer::in_memory_with(|config| {
        files.configure(config);
        change(config);
    })
    .await
}

/// All that comes until the end, as text.
pub(crate) async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _ = within("the end", stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// TCP whose incoming bytes are kept.
#[derive(Debug)]
struct Tapped {
    stream: TcpStream,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.heard.lock().unwrap().extend_from_slice(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// How many records of application data these bytes are.
fn records(mut wire: &[u8]) -> usize {
    let mut count = 0;
    while let Some((&[kind, _, _, high, low], rest)) = wire.split_first_chunk::<RECORD_HEAD_BYTES>()
    {
        assert_eq!(kind, APPLICATION_DATA);
        count += 1;
        wire = &rest[usize::from(u16::from_be_bytes([high, low]))..];
    }
    assert!(wire.is_empty(), "half a record");
    count
}

#[tokio::test]
async fn messages_travel_over_either_version_of_tls() {
    let files = Files::issue();
    let server = start(&files, |_| {}).await;
    let mut anna = files.login(&server, "anna").await;
    anna.subscribe(LOBBY, None).await.unwrap();
    for version in [&TLS12, &TLS13] {
        let name = ServerName::try_from("hubbub.test").unwrap();
        let stream = tcp(server.address()).await;
        let stream = files.connector(&[version]).connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let mut ben = Peer::login_over(&server, Socket::over(stream), "ben").await;
        let body = "as long as it takes ".repeat(2_000);
        let published = ben.publish(LOBBY, &body).await.unwrap();
        let message = anna.messages(1).await.remove(0);
        assert_eq!((message.sequence, message.body), (published.sequence, body));
    }
}

#[tokio::test]
async fn what_a_client_sends_with_its_handshake_is_heard() {
    let files = Files::issue();
    let server = start(&files, |_| {}).await;
    for version in [&TLS12, &TLS13] {
        let name = ServerName::try_from("hubbub.test").unwrap();
        let stream = tcp(server.address()).await;
        let stream = files.connector(&[version]).connect(name, stream).await.unwrap();
        let mut socket = Socket::over(stream);
        let token = server.token("eager");
        let mut request =
            handshake(server.address(), &[Encoding::Proto.subprotocol()], Some(&token))
                .into_bytes();
        // More than a record, so that some of it is still encrypted when the head is read.
        for number in 0..2_000 {
            request.extend(masked(PING, format!("{number}").as_bytes()));
        }
        socket.write(&request).await;
        assert_eq!(socket.head().await.0, 101);
        let mut peer = Peer::over(socket, Encoding::Proto);
        peer.welcome().await;
        for number in 0..2_000 {
            assert_eq!(peer.hear().await, Heard::Pong(format!("{number}").into()));
        }
    }
}

#[tokio::test]
async fn the_frames_of_one_turn_are_one_record() {
    const FRAMES: usize = 16;
    let files = Files::issue();
    let server = start(&files, |_| {}).await;
    let heard = Arc::default();
    let tapped = Tapped { stream: tcp(server.address()).await, heard: Arc::clone(&heard) };
    let stream = files.secure(tapped).await.unwrap();
    let mut peer = Peer::login_over(&server, Socket::over(stream), "anna").await;
    peer.catch_up().await;
    for round in 0..10 {
        heard.lock().unwrap().clear();
        peer.socket.write(&masked(PING, b"!").repeat(FRAMES)).await;
        for _ in 0..FRAMES {
            assert_eq!(peer.hear().await, Heard::Pong(b"!"[..].into()));
        }
        assert_eq!(records(&heard.lock().unwrap()), 1, "in round {round}");
    }
}

#[tokio::test]
async fn a_refused_token_is_told_by_a_close_code() {
    let files = Files::issue();
    let server = start(&files, |_| {}).await;
    let stream = files.connect(server.address()).await.unwrap();
    let mut socket = Socket::over(stream);
    let offer = [Encoding::Proto.subprotocol(), &bearer("no.good.token")];
    socket.write(handshake(server.address(), &offer, None).as_bytes()).await;
    assert_eq!(socket.head().await.0, 101);
    let mut peer = Peer::over(socket, Encoding::Proto);
    assert_eq!(peer.hear().await, Heard::Close(CloseCode::InvalidToken.number()));
    assert_eq!(peer.hear().await, Heard::End);
}

#[tokio::test]
async fn a_reload_changes_the_certificate_of_new_connections_only() {
    let mut files = Files::issue();
    let mut server = start(&files, |_| {}).await;
    let old = files.certificate.clone();
    let mut before = files.login(&server, "before").await;
    before.subscribe(LOBBY, None).await.unwrap();

    // The same paths: the files are read again.
    files.issue_again();
    server.reload(|_| {}).unwrap();
    let stream = files.connect(server.address()).await.unwrap();
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap(), [files.certificate.clone()]);
    assert_ne!(files.certificate, old);
    let mut after = Peer::login_over(&server, Socket::over(stream), "after").await;
    after.publish(LOBBY, "hello").await.unwrap();
    assert_eq!(before.messages(1).await[0].body, "hello");
    before.publish(LOBBY, "still here").await.unwrap();
}

#[tokio::test]
async fn a_broken_reload_changes_nothing() {
    let mut files = Files::issue();
    let mut server = start(&files, |_| {}).await;
    let good = Files { dir: tempfile::tempdir().unwrap(), certificate: files.certificate.clone() };
    let key = fs::read(files.path("key.pem")).unwrap();
    files.issue_again();
    fs::write(files.path("key.pem"), key).unwrap();
    let refused = server.reload(|config| {
        config.edge.allowed_origins = vec!["https://chat.example".to_owned()];
    });
    assert!(matches!(refused, Err(TlsError::Mismatch { .. })), "{refused:?}");
    fs::remove_file(files.path("key.pem")).unwrap();
    assert!(matches!(server.reload(|_| {}), Err(TlsError::Unreadable { .. })));

    good.login(&server, "anna").await;
    let status = status_for_page(&good, &server, "https://chat.example").await;
    assert_eq!(status, 403, "all of it is refused, not only the certificate");
}

#[tokio::test]
async fn a_reload_applies_to_pages_too() {
    let files = Files::issue();
    let mut server = start(&files, |_| {}).await;
    assert_eq!(status_for_page(&files, &server, "https://chat.example").await, 403);
    let allow = |config: &mut Config| {
        config.edge.allowed_origins = vec!["https://chat.example".to_owned()];
    };
    server.reload(allow).unwrap();
    assert_eq!(status_for_page(&files, &server, "https://chat.example").await, 101);
}

/// What a page of this origin gets for a handshake.
async fn status_for_page<E: Engine>(files: &Files, server: &TestServer<E>, origin: &str) -> u16 {
    let mut socket = Socket::over(files.connect(server.address()).await.unwrap());
    let request = handshake(server.address(), &[Encoding::Proto.subprotocol()], None);
    let request = request.replace("\r\n\r\n", &format!("\r\nOrigin: {origin}\r\n\r\n"));
    socket.write(request.as_bytes()).await;
    socket.head().await.0
}

#[tokio::test]
async fn a_reload_may_begin_tls_and_end_it() {
    let files = Files::issue();
    let mut server = TestServer::in_memory().await;
    let mut plain = Peer::login(&server, "plain").await;
    server.reload(|config| files.configure(config)).unwrap();
    files.login(&server, "secure").await;
    plain.publish(LOBBY, "open all the time").await.unwrap();
    server.reload(|config| config.edge.tls = Default::default()).unwrap();
    Peer::login(&server, "plain").await;
}

#[tokio::test]
async fn plain_http_is_told_to_use_tls() {
    let files = Files::issue();
    let server = start(&files, |_| {}).await;
    let mut stream = tcp(server.address()).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{}", body.len());
    assert!(body.contains("HTTPS"), "{body}");
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_cut_in_time_and_holds_no_other() {
    let files = Files::issue();
    let server = start(&files, |config| {
        config.limits.request_head_timeout = Duration::from_secs(2);
    })
    .await;
    let begun = Instant::now();
    let mut stalled = Vec::new();
    for sent in [&b""[..], &[22], &[22, 3, 1, 2, 0, 1], &[0; 3]].repeat(10) {
        let mut stream = tcp(server.address()).await;
        stream.write_all(sent).await.unwrap();
        stalled.push(stream);
    }
    files.login(&server, "anna").await;
    for mut stream in stalled {
        rest(&mut stream).await;
    }
    // Nor may it wait with the head when the handshake is done.
    let mut silent = files.connect(server.address()).await.unwrap();
    assert_eq!(rest(&mut silent).await, "");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn handshakes_under_way_do_not_hold_up_a_drain() {
    let files = Files::issue();
    let mut server = start(&files, |config| {
        config.limits.request_head_timeout = Duration::from_secs(3_600);
    })
    .await;
    let mut stalled = tcp(server.address()).await;
    stalled.write_all(&[22, 3, 1]).await.unwrap();
    let mut anna = files.login(&server, "anna").await;
    let (in_time, heard) = tokio::join!(server.drain(), anna.rest());
    assert!(in_time);
    assert!(heard.contains(&Heard::Close(CloseCode::GoingAway.number())), "{heard:?}");
    assert_eq!(rest(&mut stalled).await, "");
}

#[tokio::test]
async fn without_a_place_a_connection_is_cut() {
    let files = Files::issue();
    let server = start(&files, |config| config.limits.connections_max = 1).await;
    let _anna = files.login(&server, "anna").await;
    assert!(files.connect(server.address()).await.is_err());
}

#[tokio::test]
async fn garbage_in_a_session_ends_that_connection_only() {
    let files = Files::issue();
    let server = start(&files, |_| {}).await;
    let mut attentive = files.login(&server, "attentive").await;
    for garbage in [
        &[0xff; 64][..],
        &[23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20],
    ] {
        let stream = tcp(server.address()).await.into_std().unwrap();
        let mut beneath = stream.try_clone().unwrap();
        let stream = TcpStream::from_std(stream).unwrap();
        let stream = files.secure(stream).await.unwrap();
        let mut peer = Peer::login_over(&server, Socket::over(stream), "rude").await;
        peer.catch_up().await;
        beneath.write_all(garbage).unwrap();
        assert_eq!(peer.hear().await, Heard::End);
        assert_eq!(attentive.catch_up().await, []);
    }
}

#[tokio::test]
async fn a_client_that_stops_reading_is_closed_and_nobody_else_notices() {
    let files = Files::issue();
    let server = start(&files, |config| {
        config.limits.outbox_bytes_max = ByteSize::kib(512);
        // Its outbox is what ends it here, not its silence.
        config.limits.write_stall_timeout = Duration::from_secs(3_600);
    })
    .await;
    let mut slow = login_narrow(&files, &server).await;
    slow.subscribe(LOBBY, None).await.unwrap();
    let mut attentive = files.login(&server, "attentive").await;
    attentive.subscribe(LOBBY, None).await.unwrap();
    let mut publisher = files.login(&server, "publisher").await;
    let published = publish_until_closed(&server, &mut publisher, &mut attentive).await;
    assert!(read_what_came(&mut slow).await < published);
    assert_eq!(server.closed("slow_consumer").await, 1);
    assert_eq!(attentive.catch_up().await, []);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_closed_with_room_in_its_outbox() {
    let files = Files::issue();
    let server = start(&files, |config| {
        config.limits.outbox_bytes_max = ByteSize::gib(1);
        config.limits.write_stall_timeout = Duration::from_millis(100);
    })
    .await;
    let mut slow = login_narrow(&files, &server).await;
    slow.subscribe(LOBBY, None).await.unwrap();
    let mut attentive = files.login(&server, "attentive").await;
    attentive.subscribe(LOBBY, None).await.unwrap();
    let mut publisher = files.login(&server, "publisher").await;
    let published = publish_until_closed(&server, &mut publisher, &mut attentive).await;
    assert!(read_what_came(&mut slow).await < published);
}

#[tokio::test]
async fn what_a_session_still_holds_is_sent_when_the_client_reads_on() {
    const MESSAGES: u64 = 400;
    let files = Files::issue();
    let server = start(&files, |config| {
        config.limits.outbox_bytes_max = ByteSize::mib(64);
        // Nothing but the client's reading makes the server go on.
        config.limits.write_stall_timeout = Duration::from_secs(3_600);
        config.limits.ping_interval = Duration::from_secs(3_600);
    })
    .await;
    let mut slow = login_narrow(&files, &server).await;
    slow.subscribe(LOBBY, None).await.unwrap();
    let mut publisher = files.login(&server, "publisher").await;
    let body = "x".repeat(16 * 1024);
    for sequence in 1..=MESSAGES {
        assert_eq!(publisher.publish(LOBBY, &body).await.unwrap().sequence, sequence);
    }
    for sequence in 1..=MESSAGES {
        assert_eq!(slow.messages(1).await[0].sequence, sequence);
    }
}

/// Connects with a receive buffer that is soon full.
async fn login_narrow<E: Engine>(files: &Files, server: &TestServer<E>) -> Peer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    let stream = within("a connection", socket.connect(server.address())).await.unwrap();
    let stream = files.secure(stream).await.unwrap();
    Peer::login_over(server, Socket::over(stream), "slow").await
}
