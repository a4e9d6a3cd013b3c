use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream as StdTcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use rcgen::{CertificateParams, KeyPair};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned,
    crypto::ring,
    pki_types::{PrivateKeyDer, ServerName},
};
use tokio::time::timeout;

use super::*;

type Client = StreamOwned<ClientConnection, StdTcpStream>;

/// What the kernel is asked to hold on either side: less than is sent, so that it is often full.
const BUFFER_BYTES: usize = 8 * 1024;

/// A socket with a session whose handshake is done, and a client who blocks. What the kernel holds
/// between them is as small as it gets.
fn secure() -> (Socket, Client) {
    let provider = Arc::new(ring::default_provider());
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connecting = thread::spawn(move || {
        let mut stream = StdTcpStream::connect(address).unwrap();
        set_socket_recv_buffer_size(&stream, BUFFER_BYTES).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut session = ClientConnection::new(Arc::new(client), name).unwrap();
        while session.is_handshaking() {
            session.complete_io(&mut stream).unwrap();
        }
        StreamOwned::new(session, stream)
    });
    let (mut stream, _) = listener.accept().unwrap();
    set_socket_send_buffer_size(&stream, BUFFER_BYTES).unwrap();
    let mut session = ServerConnection::new(Arc::new(server)).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut stream).unwrap();
    }
    while session.wants_write() {
        session.write_tls(&mut stream).unwrap();
    }
    stream.set_nonblocking(true).unwrap();
    (Socket::new(stream, Some(Box::new(session))).unwrap(), connecting.join().unwrap())
}

async fn ready(socket: &Socket, interest: Interest) {
    let ready = timeout(Duration::from_secs(10), socket.ready(interest)).await;
    ready.expect("nothing happens").unwrap();
}

/// Numbers that do not repeat soon.
fn noise(count: usize) -> Vec<u8> {
    let step = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    let mut state = 1;
    (0..count).map(|_| step(&mut state)).collect()
}

/// Reads until something comes.
async fn read(socket: &Socket, bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.try_read(bytes) {
            Err(error) if is_passing(&error) => ready(socket, Interest::READABLE).await,
            outcome => return outcome,
        }
    }
}

async fn flush(socket: &Socket) {
    while let Err(error) = socket.try_flush() {
        assert!(is_passing(&error), "{error}");
        ready(socket, Interest::WRITABLE).await;
    }
}

#[tokio::test]
async fn what_is_written_in_any_pieces_arrives_unchanged() {
    let (socket, mut client) = secure();
    let sent = noise(300_000);
    let expected = sent.clone();
    let receiving = thread::spawn(move || {
        let mut received = vec![0; expected.len()];
        client.read_exact(&mut received).unwrap();
        assert!(received == expected, "the stream is damaged");
        // The last word of the session comes through too.
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    });
    let mut unsent = &sent[..];
    let mut blocked = 0;
    while !unsent.is_empty() {
        let pieces: Vec<_> = unsent.chunks(1_777).take(64).map(IoSlice::new).collect();
        match socket.try_write(&pieces) {
            Ok(taken) => unsent = &unsent[taken..],
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                blocked += 1;
                ready(&socket, Interest::WRITABLE).await;
            }
        }
    }
    flush(&socket).await;
    while let Err(error) = socket.finish() {
        assert!(is_passing(&error), "{error}");
        flush(&socket).await;
    }
    assert!(blocked > 5, "the socket was blocked only {blocked} times");
    receiving.join().unwrap();
}

#[tokio::test]
async fn a_session_that_holds_something_says_so_and_takes_no_more_before_it_is_gone() {
    let (socket, mut client) = secure();
    let sent = noise(60_000);
    assert_eq!(socket.try_write(&[IoSlice::new(&sent)]).unwrap(), sent.len());
    assert_eq!(socket.try_flush().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let more = socket.try_write(&[IoSlice::new(b"more")]);
    assert_eq!(more.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    socket.took_some();
    assert!(!socket.took_some(), "nobody reads");
    let finish = socket.finish().unwrap_err();
    assert_eq!(finish.kind(), io::ErrorKind::WouldBlock, "the last word waits");

    let length = sent.len();
    let reading = thread::spawn(move || {
        let mut received = vec![0; length];
        client.read_exact(&mut received).unwrap();
        assert!(received == sent);
    });
    flush(&socket).await;
    assert!(socket.took_some());
    reading.join().unwrap();
}

#[tokio::test]
async fn all_that_a_client_sends_is_read_and_nothing_stays_in_the_session() {
    let (socket, mut client) = secure();
    let sent = noise(300_000);
    let expected = sent.clone();
    let sending = thread::spawn(move || {
        client.write_all(&sent).unwrap();
        client.conn.send_close_notify();
        client.flush().unwrap();
        client
    });
    let mut received = Vec::new();
    let mut scratch = vec![0; TLS_READ_BYTES_MAX + 100];
    loop {
        let count = read(&socket, &mut scratch).await.unwrap();
        let session = &socket.tls.as_ref().unwrap();
        let rest = session.borrow_mut().tls.reader().read(&mut [0]);
        assert!(!matches!(rest, Ok(1..)), "something stayed behind");
        received.extend_from_slice(&scratch[..count]);
        if count == 0 {
            break;
        }
    }
    assert!(received == expected, "the stream is damaged");
    // Who says goodbye is answered.
    let mut client = sending.join().unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[tokio::test]
async fn garbage_is_an_error_and_the_client_is_told() {
    let (socket, mut client) = secure();
    // A record of 20 bytes that nobody has encrypted.
    client.sock.write_all(&[&[23, 3, 3, 0, 20][..], &[7; 20]].concat()).unwrap();
    let error = read(&socket, &mut vec![0; TLS_READ_BYTES_MAX]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let told = client.read(&mut [0]).unwrap_err().to_string();
    assert!(told.contains("BadRecordMac"), "{told}");
}

#[tokio::test]
async fn a_change_of_keys_is_answered_in_passing() {
    let (socket, mut client) = secure();
    client.conn.refresh_traffic_keys().unwrap();
    client.write_all(b"under new keys").unwrap();
    let mut bytes = vec![0; TLS_READ_BYTES_MAX];
    let count = read(&socket, &mut bytes).await.unwrap();
    assert_eq!(bytes[..count], *b"under new keys");
    assert_eq!(socket.try_write(&[IoSlice::new(b"and back")]).unwrap(), 8);
    let mut received = [0; 8];
    client.read_exact(&mut received).unwrap();
    assert_eq!(received, *b"and back");
}

#[test]
fn a_plain_socket_is_no_larger_for_it() {
    assert_eq!(size_of::<Socket>(), size_of::<TcpStream>() + size_of::<usize>());
}
