//! A client that sends as fast as it can gets its turns like any other, and its answers in between.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
};

use hubbub::limits::TURN_READ_BYTES_MAX;

use crate::harness::{PING, TestServer, handshake, masked, off_runtime};

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
