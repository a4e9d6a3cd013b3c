//! One HTTP request at a time.

use std::net::{IpAddr, SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::OnceCell,
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
    /// `null` if it is no JSON.
    pub(crate) body: serde_json::Value,
    /// As it came.
    pub(crate) text: String,
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

    /// A line of the head, by its name in lower case.
    pub(crate) fn line(&self, name: &str) -> Option<&str> {
        let line = |line: &'_ str| {
            let at = line.find(':')?;
            line[..at].eq_ignore_ascii_case(name).then_some(at)
        };
        self.head.lines().find_map(|text| line(text).map(|at| text[at + 1..].trim()))
    }

    /// It was done, with this status.
    #[track_caller]
    pub(crate) fn is(&self, status: u16) -> &serde_json::Value {
        assert_eq!(self.status, status, "{}", self.text);
        &self.body
    }

    /// It was refused, with this status and code.
    #[track_caller]
    pub(crate) fn is_refused(&self, status: u16, name: &str) {
        assert_eq!((self.status, self.name()), (status, name), "{}\n{}", self.head, self.text);
        assert_eq!(self.line("content-type"), Some("application/problem+json"));
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
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    let stream = within("a connection", socket.connect(server)).await.unwrap();
    let head = format!("{head}Content-Type: application/json\r\n");
    exchange(stream, "POST", path, &head, Some(body.to_string().as_bytes())).await
}

/// The answer to one request, with more lines for its head.
async fn exchange(
    mut stream: TcpStream,
    method: &str,
    path: &str,
    head: &str,
    body: Option<&[u8]>,
) -> Answer {
    let server = stream.peer_addr().unwrap();
    let length = body.map(|body| format!("Content-Length: {}\r\n", body.len()));
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {server}\r\n{}{head}Connection: close\r\n\r\n",
        length.unwrap_or_default(),
    );
    let answer = within(path, async {
        let request = [request.as_bytes(), body.unwrap_or_default()].concat();
        // A body that is too large is refused before its end.
        let _ = stream.write_all(&request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    });
    let answer = answer.await;
    let (head, text) = answer.split_once("\r\n\r\n").expect("a head ends");
    let body = serde_json::from_str(text).unwrap_or_default();
    Answer { status: status(head), head: head.to_owned(), body, text: text.to_owned() }
}

/// A user of the HTTP API.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    server: SocketAddr,
    token: Option<String>,
}

impl Api {
    /// Somebody with this token.
    pub(crate) const fn new(server: SocketAddr, token: String) -> Self {
        Self { server, token: Some(token) }
    }

    /// Somebody without one.
    pub(crate) const fn nobody(server: SocketAddr) -> Self {
        Self { server, token: None }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", None).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, "", None).await
    }

    /// A PUT without a body.
    pub(crate) async fn put(&self, path: &str) -> Answer {
        self.ask("PUT", path, "", None).await
    }

    /// Sends a JSON document.
    pub(crate) async fn send(&self, method: &str, path: &str, body: &serde_json::Value) -> Answer {
        self.ask(method, path, JSON, Some(body.to_string().as_bytes())).await
    }

    pub(crate) async fn post(&self, path: &str, body: &serde_json::Value) -> Answer {
        self.send("POST", path, body).await
    }

    /// Sends any bytes, with more lines for the head.
    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        head: &str,
        body: Option<&[u8]>,
    ) -> Answer {
        let stream = within("a connection", TcpStream::connect(self.server)).await.unwrap();
        let token = self.token.as_ref().map(|it| format!("Authorization: Bearer {it}\r\n"));
        let head = format!("{}{head}", token.unwrap_or_default());
        let answer = exchange(stream, method, path, &head, body).await;
        is_documented(self.server, method, path, &answer).await;
        answer
    }
}

/// Holds an answer against the OpenAPI document of the server.
async fn is_documented(server: SocketAddr, method: &str, path: &str, answer: &Answer) {
    // All servers of the tests that have accounts have the same one, and others a part of it.
    static DOCUMENT: OnceCell<serde_json::Value> = OnceCell::const_new();
    let document = DOCUMENT.get_or_init(async || {
        let (_, document) = get(server, "/openapi.json").await;
        serde_json::from_str(&document).unwrap()
    });
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let parts: Vec<_> = path.split('/').collect();
    let likeness = |template: &str| {
        let like: Vec<_> = template.split('/').collect();
        let same = parts.iter().zip(&like).filter(|(part, like)| part == like).count();
        let is_like = like.len() == parts.len()
            && parts
                .iter()
                .zip(&like)
                .all(|(part, like)| part == like || (like.starts_with('{') && !part.is_empty()));
        is_like.then_some(same)
    };
    let paths = document.await["paths"].as_object().unwrap();
    let named = paths.iter().filter_map(|(name, item)| Some((likeness(name)?, name, item)));
    let Some((_, name, item)) = named.max_by_key(|(likeness, ..)| *likeness) else { return };
    let Some(operation) = item.get(method.to_lowercase()) else { return };
    let described = &operation["responses"][answer.status.to_string()];
    assert!(described.is_object(), "{method} {name} has no {}: {}", answer.status, answer.text);
    if answer.status >= 400 {
        let code = format!("{} ({})", answer.name(), answer.body["code"]);
        let said = described["description"].as_str().unwrap();
        assert!(said.contains(&code), "{method} {name} {}: {code}: {said}", answer.status);
    }
}

/// The line of a head that says that a body is JSON.
pub(crate) const JSON: &str = "Content-Type: application/json\r\n";

/// The status in a response's head.
pub(super) fn status(head: &str) -> u16 {
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    status.and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status: {head}"))
}
