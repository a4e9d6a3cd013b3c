//! One HTTP request at a time.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::within;

/// Status and body of an address.
pub(crate) async fn get(server: SocketAddr, path: &str) -> (u16, String) {
    ask(server, "GET", path, None).await
}

/// Status and body of a request without a body, with a secret if it needs one.
pub(crate) async fn ask(
    server: SocketAddr,
    method: &str,
    path: &str,
    secret: Option<&str>,
) -> (u16, String) {
    let answer = within(path, async {
        let mut stream = TcpStream::connect(server).await.unwrap();
        let secret = secret.map(|it| format!("Authorization: Bearer {it}\r\n")).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {server}\r\n{secret}Connection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    });
    let answer = answer.await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head ends");
    (status(head), body.to_owned())
}

/// The status in a response's head.
pub(super) fn status(head: &str) -> u16 {
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    status.and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status: {head}"))
}
