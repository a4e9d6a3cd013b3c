//! The page and its session, from the sign-in to the WebSocket and back.

use hubbub::{
    engine::Engine,
    wire::{Encoding, code::CloseCode},
};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::harness::{
    Answer, Api, Bystander, Heard, JSON, LOBBY, Peer, Socket, TestServer, bearer, get, handshake,
};
use crate::tls::{self, Files};

const SESSION: &str = "/v1/session";
const RENEW: &str = "/v1/session/renew";

/// A browser's page: it has a cookie, and says where it is from.
struct Page {
    api: Api,
    origin: String,
    cookie: String,
}

impl Page {
    fn open<E: Engine>(server: &TestServer<E>) -> Self {
        let origin = format!("http://{}", server.address());
        Self { api: Api::nobody(server.address()), origin, cookie: String::new() }
    }

    async fn ask(&mut self, method: &str, path: &str, body: Option<&serde_json::Value>) -> Answer {
        let content_type = if body.is_some() { JSON } else { "" };
        let head = format!(
            "Origin: {}\r\nSec-Fetch-Site: same-origin\r\nCookie: {}\r\n{content_type}",
            self.origin, self.cookie
        );
        let body = body.map(ToString::to_string);
        let answer = self.api.ask(method, path, &head, body.as_deref().map(str::as_bytes)).await;
        if let Some(line) = answer.line("set-cookie") {
            self.cookie = line.split(';').next().unwrap().to_owned();
        }
        answer
    }

    async fn sign_in(&mut self) -> String {
        let body = json!({"username": "ada", "password": "correct horse battery"});
        token(&self.ask("POST", SESSION, Some(&body)).await)
    }
}

fn token(answer: &Answer) -> String {
    answer.is(200)["access_token"].as_str().unwrap().to_owned()
}

/// Connects as a page does, and logs in.
async fn connect<E: Engine>(server: &TestServer<E>, page: &Page, token: &str) -> Peer {
    let mut socket = Socket::connect(server.address()).await;
    let offer = [Encoding::Proto.subprotocol(), &bearer(token)];
    let request = handshake(server.address(), &offer, None);
    let origin = format!("\r\nOrigin: {}\r\n\r\n", page.origin);
    socket.write(request.replace("\r\n\r\n", &origin).as_bytes()).await;
    assert_eq!(socket.head().await.0, 101);
    let mut peer = Peer::over(socket, Encoding::Proto);
    peer.welcome().await;
    peer
}

#[tokio::test]
async fn a_page_signs_in_chats_outlives_a_restart_and_signs_out() {
    let mut server = TestServer::start().await;
    let mut page = Page::open(&server);
    let account = json!({"username": "ada", "password": "correct horse battery"});
    page.ask("POST", "/v1/accounts", Some(&account)).await.is(201);
    let first = page.sign_in().await;
    let mut peer = connect(&server, &page, &first).await;
    peer.publish(LOBBY, "from a page").await.unwrap();
    drop(peer);

    server.restart().await;
    let second = token(&page.ask("POST", RENEW, None).await);
    let mut bystander = Bystander::join(&server).await;
    let mut peer = connect(&server, &page, &second).await;
    peer.subscribe(LOBBY, None).await.unwrap();

    page.ask("DELETE", SESSION, None).await.is(204);
    assert_eq!(page.cookie, "hubbub_session=");
    let end = peer.rest().await;
    assert_eq!(end.last(), Some(&Heard::Close(CloseCode::Forbidden.number())));
    page.ask("POST", RENEW, None).await.is_refused(401, "invalid_token");
    bystander.is_untroubled().await;
}

#[tokio::test]
async fn another_page_can_neither_sign_in_nor_use_the_cookie_nor_connect() {
    let server = TestServer::start().await;
    let mut page = Page::open(&server);
    let account = json!({"username": "ada", "password": "correct horse battery"});
    page.ask("POST", "/v1/accounts", Some(&account)).await.is(201);
    page.sign_in().await;
    let ours = std::mem::replace(&mut page.origin, "https://evil.example".to_owned());
    for (method, path) in [("GET", SESSION), ("POST", RENEW), ("DELETE", SESSION)] {
        page.ask(method, path, None).await.is_refused(403, "forbidden");
    }
    page.ask("POST", SESSION, Some(&account)).await.is_refused(403, "forbidden");
    page.origin = ours;
    token(&page.ask("POST", RENEW, None).await);
}

#[tokio::test]
async fn of_two_tabs_that_renew_at_once_one_wins_and_the_session_ends() {
    let server = TestServer::start().await;
    let mut page = Page::open(&server);
    let account = json!({"username": "ada", "password": "correct horse battery"});
    page.ask("POST", "/v1/accounts", Some(&account)).await.is(201);
    page.sign_in().await;
    let mut other = Page::open(&server);
    other.cookie = page.cookie.clone();
    let (one, two) = tokio::join!(page.ask("POST", RENEW, None), other.ask("POST", RENEW, None));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401], "a thief and the robbed look the same from here");
    page.ask("POST", RENEW, None).await.is_refused(401, "invalid_token");
}

#[tokio::test]
async fn a_hub_without_accounts_has_no_sessions() {
    let auth = TestServer::start().await;
    let hub = TestServer::hub_of(&auth).await;
    let (status, body) = get(hub.address(), SESSION).await;
    assert_eq!(status, 404, "{body}");
    assert!(body.contains("not_found"), "{body}");
}

/// Everything that is answered to one request over TLS.
async fn over_tls<E: Engine>(files: &Files, server: &TestServer<E>, request: &str) -> String {
    let mut stream = files.connect(server.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    tls::rest(&mut stream).await
}

#[tokio::test]
async fn over_tls_the_cookie_is_secure_and_the_page_connects_by_wss() {
    let files = Files::issue();
    let server = tls::start(&files, |_| {}).await;
    server.session("ada").await;
    let head = "HTTP/1.1\r\nHost: hubbub.test\r\nConnection: close\r\n";
    let page = format!("GET / {head}Accept: text/html\r\n\r\n");
    let page = over_tls(&files, &server, &page).await;
    assert!(page.contains("connect-src 'self' wss://hubbub.test\r\n"), "{page}");

    let body = r#"{"username":"ada","password":"correct horse battery"}"#;
    let sign_in = |origin: &str| {
        let length = body.len();
        format!(
            "POST {SESSION} {head}{JSON}Origin: {origin}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    let opened = over_tls(&files, &server, &sign_in("https://hubbub.test")).await;
    assert!(opened.starts_with("HTTP/1.1 200 "), "{opened}");
    assert!(
        opened.contains("; HttpOnly; SameSite=Strict; Max-Age=2592000; Secure\r\n"),
        "{opened}"
    );
    let refused = over_tls(&files, &server, &sign_in("http://hubbub.test")).await;
    assert!(refused.starts_with("HTTP/1.1 403 "), "another scheme is another origin: {refused}");
}

#[tokio::test]
async fn the_page_is_at_the_root_of_a_server_with_accounts_and_nowhere_else() {
    let server = TestServer::start().await;
    let hub = TestServer::hub_of(&server).await;
    for (address, has_page) in [(server.address(), true), (hub.address(), false)] {
        let api = Api::nobody(address);
        let root = api.ask("GET", "/", "Accept: text/html\r\n", None).await;
        assert_eq!(root.text.starts_with("<!doctype html>"), has_page, "{}", root.text);
        let (status, _) = get(address, "/app.js").await;
        assert_eq!(status == 200, has_page);
        let (_, words) = get(address, "/").await;
        assert!(words.starts_with("This is "), "{words}");
    }
}
