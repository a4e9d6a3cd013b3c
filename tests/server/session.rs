//! A page's session, from the sign-in to the WebSocket and back.

use hubbub::{
    engine::Engine,
    wire::{Encoding, code::CloseCode},
};
use serde_json::json;

use crate::harness::{
    Answer, Api, Bystander, Heard, JSON, LOBBY, Peer, Socket, TestServer, bearer, get, handshake,
};

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
