//! One HTTP request at a time.

use std::net::{IpAddr, SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
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

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: serde_json::Value,
}

impl Answer {
    /// The seconds after which another attempt may pass.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        let line = |line: &str| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("retry-after").then(|| value.trim().parse().ok())?
        };
        self.head.lines().find_map(line)
    }

    /// The name of the code of a refusal.
    pub(crate) fn name(&self) -> &str {
        self.body["name"].as_str().unwrap_or_default()
    }
}

/// The answer to a JSON document that comes from this address, with more lines for the head.
pub(crate) async fn post(
    from: IpAddr,
    server: SocketAddr,
    path: &str,
    head: &str,
    body: &serde_json::Value,
) -> Answer {
    let answer = within(path, async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from, 0)).unwrap();
        let mut stream = socket.connect(server).await.unwrap();
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {server}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n{head}Connection: close\r\n\r\n{body}",
            body.len()
        );
        // A body that is too large is refused before its end.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    });
    let answer = answer.await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head ends");
    let body = serde_json::from_str(body).unwrap_or_default();
    Answer { status: status(head), head: head.to_owned(), body }
}

/// The status in a response's head.
pub(super) fn status(head: &str) -> u16 {
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    status.and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status: {head}"))
}
