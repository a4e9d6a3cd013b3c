//! A client that sends as fast as it can gets its turns like any other: no more of them, and no
//! fewer.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use hubbub::limits::TURN_READ_BYTES_MAX;

use crate::harness::{Bystander, PING, TestServer, handshake, masked, off_runtime};

/// An unasked pong.
const PONG: u8 = 0xa;

#[tokio::test]
async fn a_flood_does_not_put_off_the_deadline_of_a_login() {
    let server = TestServer::start_with(|config| {
        config.limits.authenticate_timeout = Duration::from_secs(2);
    })
    .await;
    let address = server.address();
    let mut bystander = Bystander::join(&server).await;
    let has_ended = off_runtime(move || {
        let mut socket = knock(address);
        let flood = masked(PONG, &[]).repeat(TURN_READ_BYTES_MAX);
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if socket.write_all(&flood).is_err() {
                return true;
            }
        }
        false
    })
    .await;
    assert!(has_ended, "it was never told to log in");
    assert_eq!(server.closed("not_authenticated").await, 1);
    bystander.is_untroubled().await;
}

#[tokio::test]
async fn who_reads_is_not_slow_however_much_it_sends_at_once() {
    let server = TestServer::start().await;
    let address = server.address();
    let pings = 16 * TURN_READ_BYTES_MAX / masked(PING, &[]).len();
    let (pongs, end) = off_runtime(move || {
        let mut socket = knock(address);
        let mut writing = socket.try_clone().unwrap();
        let flood = thread::spawn(move || {
            // A server that hangs up is noticed by who reads.
            let _ = writing.write_all(&masked(PING, &[]).repeat(pings));
        });
        let mut pongs = 0;
        let mut frame = [0; 2];
        while pongs < pings && socket.read_exact(&mut frame).is_ok() && frame == [0x8a, 0] {
            pongs += 1;
        }
        flood.join().unwrap();
        (pongs, frame)
    })
    .await;
    assert_eq!((pongs, end), (pings, [0x8a, 0]), "each ping has its pong");
}

/// A connection that has not logged in.
fn knock(server: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(server).unwrap();
    socket.write_all(handshake(server, &["hubbub.v1.proto"], None).as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    socket
}
