use std::{
    net::SocketAddr,
    sync::{LazyLock, Mutex},
};

use axum::{Router, routing::get};
use futures_util::StreamExt as _;
use tokio::{net::TcpListener, sync::watch};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, client::IntoClientRequest as _, protocol::Message},
};

use super::*;
use crate::{
    edge::{
        Deflate,
        accept::{Permits, serve},
        http::finish,
    },
    hub::{revocations::Register, revoked::Claim},
    limits::Limits,
    log::place::UserId,
};

type Taken = Arc<Mutex<Vec<Handover>>>;

/// An edge whose login knows the token `good`, and whose hub takes connections as long as it may.
struct Server {
    address: SocketAddr,
    permits: Permits,
    taken: Taken,
    _shutdown: watch::Sender<bool>,
}

fn identity() -> Identity {
    // Fingerprints of one register only are comparable.
    static REGISTER: LazyLock<Register> = LazyLock::new(|| Register::new(Duration::MAX));
    let credential = REGISTER.credential("anna", None, None, "key");
    let claim = Box::new(Claim { credential, issued_at_s: None });
    Identity { user: UserId(7), name: "anna".to_owned(), expires_at: u64::MAX, claim }
}

impl Server {
    async fn start(hub_has_room: bool) -> Self {
        let taken = Taken::default();
        let hub = Arc::clone(&taken);
        let upgrade = async move |request: Request| {
            let settings = Settings {
                allowed_origins: vec!["https://chat.example".to_owned()],
                ..Settings::default()
            };
            let log_in = async |token: String| match token.as_str() {
                "good" => Ok(identity()),
                "old" => Err(TokenError::Expired.into()),
                "unlucky" => Err(LoginError::Stopped),
                _ => Err(TokenError::Invalid(Reason::Signature).into()),
            };
            let hub = Arc::clone(&hub);
            let hand_over = move |handover| {
                if !hub_has_room {
                    return Err(handover);
                }
                hub.lock().unwrap().push(handover);
                Ok(())
            };
            answer(request, &settings, log_in, hand_over).await
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = finish(Router::new().route("/v1/ws", get(upgrade)));
        let (shutdown, stop) = watch::channel(false);
        let permits = Permits::new(4);
        let places = permits.clone();
        tokio::spawn(async move {
            serve(listener, router, places, || None, &Limits::default(), 0, stop).await;
        });
        Self { address, permits, taken, _shutdown: shutdown }
    }

    async fn connect(
        &self,
        headers: &[(&str, &str)],
    ) -> Result<WebSocketStream<TcpStream>, tungstenite::Error> {
        let mut request = format!("ws://{}/v1/ws", self.address).into_client_request().unwrap();
        for (name, value) in headers {
            let name: axum::http::HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let stream = TcpStream::connect(self.address).await.unwrap();
        Ok(client_async(request, stream).await?.0)
    }

    /// The status of a handshake that is refused.
    async fn refused(&self, headers: &[(&str, &str)]) -> u16 {
        match self.connect(headers).await {
            Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
            other => panic!("{other:?}"),
        }
    }

    /// The code and the reason of the close that follows an accepted handshake.
    async fn closed(&self, headers: &[(&str, &str)]) -> (u16, String) {
        let mut socket = self.connect(headers).await.unwrap();
        let frame = timeout(Duration::from_secs(5), socket.next()).await.unwrap();
        let Some(Ok(Message::Close(Some(close)))) = frame else { panic!("{frame:?}") };
        (close.code.into(), close.reason.to_string())
    }

    /// What the hub was given. The handover follows the 101, so it may take a moment.
    async fn handover(&self) -> Handover {
        let given = async {
            loop {
                if let Some(handover) = self.taken.lock().unwrap().pop() {
                    return handover;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(5), given).await.unwrap()
    }
}

const PROTO: (&str, &str) = ("sec-websocket-protocol", "hubbub.v1.proto");

fn offer_with_token(token: &str) -> String {
    format!("hubbub.v1.json, hubbub.bearer.{}", URL_SAFE_NO_PAD.encode(token))
}

#[tokio::test]
async fn a_handshake_hands_the_socket_to_the_hub_with_its_permit() {
    let server = Server::start(true).await;
    let socket = server.connect(&[PROTO]).await.unwrap();
    let handover = server.handover().await;
    assert_eq!(handover.format.encoding, Encoding::Proto);
    assert_eq!(handover.identity, None);
    assert_eq!(handover.stream.peer_addr().unwrap(), socket.get_ref().local_addr().unwrap());
    assert_eq!(server.permits.taken(), 1, "the hub holds it now");
    drop(handover);
    assert_eq!(server.permits.taken(), 0);
}

#[tokio::test]
async fn what_the_hub_writes_on_its_socket_waits_for_no_acknowledgement() {
    let server = Server::start(true).await;
    let _client = server.connect(&[PROTO]).await.unwrap();
    assert!(server.handover().await.stream.nodelay().unwrap());
}

#[tokio::test]
async fn frames_behind_the_request_are_handed_over_too() {
    let server = Server::start(true).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = "GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Protocol: hubbub.v1.json\r\n\r\nearly frames";
    stream.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(server.handover().await.early, "early frames");
}

#[tokio::test]
async fn a_token_is_taken_from_the_header_or_the_subprotocol() {
    let server = Server::start(true).await;
    let _by_header = server.connect(&[PROTO, ("authorization", "Bearer good")]).await.unwrap();
    assert_eq!(server.handover().await.identity, Some(identity()));

    let offer = offer_with_token("good");
    let _by_protocol = server.connect(&[("sec-websocket-protocol", &offer)]).await.unwrap();
    let handover = server.handover().await;
    assert_eq!(handover.identity, Some(identity()));
    assert_eq!(handover.format.encoding, Encoding::Json);
}

#[tokio::test]
async fn a_bad_token_in_the_header_is_refused_by_http() {
    let server = Server::start(true).await;
    for (header, status) in [
        ("Bearer bad", 401),
        ("Bearer old", 401),
        ("Bearer ", 401),
        ("Basic Z29vZA==", 401),
        ("good", 401),
        ("Bearer unlucky", 503),
    ] {
        assert_eq!(server.refused(&[PROTO, ("authorization", header)]).await, status, "{header}");
    }
    let twice = [PROTO, ("authorization", "Bearer good"), ("authorization", "Bearer bad")];
    assert_eq!(server.refused(&twice).await, 400);
    let offer = offer_with_token("good");
    let both = [("sec-websocket-protocol", offer.as_str()), ("authorization", "Bearer good")];
    assert_eq!(server.refused(&both).await, 400);
}

#[tokio::test]
async fn a_bad_token_in_the_subprotocol_is_refused_by_a_close_code() {
    let server = Server::start(true).await;
    for (token, code) in [("bad", 4500), ("old", 4001), ("unlucky", 1013)] {
        let offer = offer_with_token(token);
        let closed = server.closed(&[("sec-websocket-protocol", &offer)]).await;
        assert_eq!(closed.0, code, "{token}");
    }
    let garbage = server.closed(&[("sec-websocket-protocol", "hubbub.v1.json, hubbub.bearer.*")]);
    assert_eq!(garbage.await, (4500, r#"{"code":201}"#.to_owned()));
    assert!(server.taken.lock().unwrap().is_empty());
}

#[tokio::test]
async fn no_common_subprotocol_is_closed_with_4506() {
    let server = Server::start(true).await;
    for offer in ["hubbub.v2.proto", "mqtt, soap"] {
        assert_eq!(server.closed(&[("sec-websocket-protocol", offer)]).await.0, 4506);
    }
    assert_eq!(server.closed(&[]).await.0, 4506);
}

#[tokio::test]
async fn a_full_hub_closes_with_1013_and_a_hint() {
    let server = Server::start(false).await;
    let (code, reason) = server.closed(&[PROTO]).await;
    assert_eq!(code, 1013);
    let reason: serde_json::Value = serde_json::from_str(&reason).unwrap();
    assert_eq!(reason["code"], ErrorCode::Overloaded.number());
    assert!(reason["retry_after_ms"].as_u64().unwrap() >= 500);
}

#[tokio::test]
async fn pages_of_other_hosts_may_not_connect() {
    let server = Server::start(true).await;
    let own = format!("http://{}", server.address);
    for origin in ["https://chat.example", own.as_str()] {
        assert!(server.connect(&[PROTO, ("origin", origin)]).await.is_ok(), "{origin}");
    }
    let other_port = format!("http://{}:1", server.address.ip());
    for origin in [
        "null",
        "",
        "https://chat.example.evil",
        "https://sub.chat.example",
        "https://chat.example:8443",
        "http://chat.example",
        "https://Chat.example",
        "https://chat.example/",
        other_port.as_str(),
        "file://",
    ] {
        assert_eq!(server.refused(&[PROTO, ("origin", origin)]).await, 403, "{origin}");
    }
    let two = [PROTO, ("origin", "https://chat.example"), ("origin", "https://chat.example")];
    assert_eq!(server.refused(&two).await, 403);
}

#[tokio::test]
async fn what_is_no_handshake_is_refused() {
    let server = Server::start(true).await;
    let good = [
        ("Host", "x"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Protocol", "hubbub.v1.json"),
    ];
    let ask = async |line: &str, change: (&str, &str)| {
        let mut head = format!("{line}\r\n");
        for (name, value) in good.iter().filter(|(name, _)| *name != change.0) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("{}: {}\r\n\r\n", change.0, change.1));
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        String::from_utf8_lossy(&status[9..]).into_owned()
    };
    let get = "GET /v1/ws HTTP/1.1";
    assert_eq!(ask(get, ("X", "y")).await, "101");
    assert_eq!(ask(get, ("Sec-WebSocket-Key", "short")).await, "400");
    assert_eq!(ask(get, ("Sec-WebSocket-Key", "")).await, "400");
    assert_eq!(ask(get, ("Sec-WebSocket-Version", "8")).await, "426");
    assert_eq!(ask(get, ("Sec-WebSocket-Version", "0")).await, "426");
    assert_eq!(ask(get, ("Upgrade", "h2c")).await, "400");
    assert_eq!(ask(get, ("Connection", "keep-alive")).await, "400");
    assert_eq!(ask(get, ("Content-Length", "5")).await, "400");
    assert_eq!(ask(get, ("Transfer-Encoding", "chunked")).await, "400");
    assert_eq!(ask("POST /v1/ws HTTP/1.1", ("X", "y")).await, "405");
    assert_eq!(ask("GET /v1/ws HTTP/1.0", ("X", "y")).await, "400");
    assert_eq!(ask("GET /v1/ws?access_token=good HTTP/1.1", ("X", "y")).await, "400");
    assert_eq!(ask("GET /v1/ws?x=1&Token=good HTTP/1.1", ("X", "y")).await, "400");
    assert_eq!(ask("GET /v1/ws?x=token HTTP/1.1", ("X", "y")).await, "101");
}

#[tokio::test]
async fn a_token_is_never_echoed() {
    let server = Server::start(true).await;
    let offer = offer_with_token("good");
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {offer}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n") {
        answer.push(char::from(stream.read_u8().await.unwrap()));
    }
    let lower = answer.to_ascii_lowercase();
    assert!(lower.contains("sec-websocket-protocol: hubbub.v1.json\r\n"), "{answer}");
    assert!(!lower.contains("bearer"), "{answer}");
}

#[tokio::test]
async fn compression_is_agreed_with_a_client_of_json_that_offers_it() {
    let server = Server::start(true).await;
    let offer = ("sec-websocket-extensions", "permessage-deflate; server_max_window_bits=12");
    for (subprotocol, headers, is_agreed) in [
        ("hubbub.v1.json", &[offer][..], true),
        ("hubbub.v1.json", &[], false),
        ("hubbub.v1.proto", &[offer], false),
    ] {
        let protocol = [("sec-websocket-protocol", subprotocol)];
        let _socket = server.connect(&[&protocol, headers].concat()).await.unwrap();
        let Format { deflate, .. } = server.handover().await.format;
        assert_eq!(deflate.is_some(), is_agreed, "{subprotocol}");
        assert!(deflate.is_none_or(|agreed| agreed.takes(4_096) && !agreed.takes(4_097)));
    }
}

#[test]
fn who_gets_compression_is_the_operators_word() {
    let [proto, json] = [Encoding::Proto, Encoding::Json];
    let all = [Deflate::Off, Deflate::Auto, Deflate::On];
    assert_eq!(all.map(|it| it.is_for(json)), [false, true, true]);
    assert_eq!(all.map(|it| it.is_for(proto)), [false, false, true]);
    assert_eq!(all.map(|it| it.to_string().parse()), all.map(Ok));
    assert!("ON".parse::<Deflate>().is_err());
}
