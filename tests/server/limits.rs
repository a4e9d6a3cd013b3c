//! Bad input gets its code, and nobody else notices.

use std::time::Duration;

use hubbub::{
    engine::Engine,
    limits::EMPTY_FRAGMENTS_MAX,
    wire::{
        Encoding,
        code::{CloseCode, ErrorCode},
        proto::{self, ClientEnvelope, client_envelope::Command, reply, server_envelope::Envelope},
    },
};
use prost::Message as _;

use crate::harness::{
    BINARY, Bystander, CLOSE, CONTINUATION, Heard, LOBBY, PING, Peer, Socket, TEXT, TestServer,
    code_of, get, handshake, masked, publish, subscribe,
};

const PROTO: &str = "hubbub.v1.proto";
/// Bytes that are no envelope: a field of a group that never ends.
const GARBAGE: &[u8] = b"\x0b\xff\xff\xff\xff";

fn is_bad_request(heard: &Heard) -> bool {
    let code = i32::from(ErrorCode::BadRequest.number());
    matches!(heard, Heard::Envelope(Envelope::Reply(proto::Reply {
        id: 0,
        result: Some(reply::Result::Error(error)),
    })) if error.code == code)
}

/// A publish whose frame holds exactly this many bytes.
fn publish_of(frame_bytes: usize) -> Vec<u8> {
    let sized = |body_bytes: usize| {
        let command = Some(publish(LOBBY, &"x".repeat(body_bytes), 0));
        ClientEnvelope { id: 1, command }.encode_to_vec()
    };
    let overhead = sized(frame_bytes).len() - frame_bytes;
    let envelope = sized(frame_bytes - overhead);
    assert_eq!(envelope.len(), frame_bytes);
    envelope
}

#[tokio::test]
async fn the_third_frame_that_is_no_envelope_ends_a_connection() {
    let server = TestServer::start().await;
    let mut bystander = Bystander::join(&server).await;
    for (encoding, opcode) in [(Encoding::Proto, BINARY), (Encoding::Json, TEXT)] {
        let mut peer = Peer::login_with(&server, "mallory", encoding).await;
        let garbage: &[u8] = if opcode == TEXT { b"{\"id\":" } else { GARBAGE };
        for _ in 0..2 {
            peer.socket.write(&masked(opcode, garbage)).await;
            let heard = peer.hear().await;
            assert!(is_bad_request(&heard), "{heard:?}");
        }
        // Between them it is a connection like any other.
        peer.history(LOBBY, None, 0).await.unwrap();
        peer.socket.write(&masked(opcode, garbage)).await;
        let closed = [Heard::Close(CloseCode::ProtocolViolation.number())];
        assert_eq!(peer.rest().await, closed);
        bystander.is_untroubled().await;
    }
}

#[tokio::test]
async fn the_first_frame_that_is_no_envelope_ends_a_connection_without_a_login() {
    let server = TestServer::start().await;
    let mut bystander = Bystander::join(&server).await;
    let mut peer = Peer::anonymous(&server, Encoding::Proto).await;
    peer.socket.write(&masked(BINARY, GARBAGE)).await;
    let closed = [Heard::Close(CloseCode::ProtocolViolation.number())];
    assert_eq!(peer.rest().await, closed);
    bystander.is_untroubled().await;
}

/// What breaks the framing: its name, the bytes, the code of the close.
fn violations() -> Vec<(&'static str, Vec<u8>, CloseCode)> {
    let fragment = |opcode: u8, payload: &[u8]| {
        let mut frame = masked(opcode, payload);
        frame[0] &= 0x7f;
        frame
    };
    // With its mask, a header is complete: not a byte of the payload is waited for.
    let header_only = |second: u8, length: &[u8]| [&[0x82, second], length, &[1, 2, 3, 4]].concat();
    let many_empty: Vec<u8> = std::iter::once(fragment(BINARY, b""))
        .chain((0..=EMPTY_FRAGMENTS_MAX).map(|_| fragment(CONTINUATION, b"")))
        .flatten()
        .collect();
    vec![
        ("text on a binary connection", masked(TEXT, b"{}"), CloseCode::UnsupportedData),
        ("no mask", vec![0x82, 1, 0], CloseCode::ProtocolError),
        ("a reserved bit", masked(BINARY | 0x40, b"x"), CloseCode::ProtocolError),
        ("a reserved opcode", masked(3, b"x"), CloseCode::ProtocolError),
        ("a reserved control opcode", masked(0xb, b"x"), CloseCode::ProtocolError),
        ("a continuation of nothing", masked(CONTINUATION, b"x"), CloseCode::ProtocolError),
        (
            "a message within a message",
            [fragment(BINARY, b"x"), masked(BINARY, b"x")].concat(),
            CloseCode::ProtocolError,
        ),
        ("a fragmented ping", fragment(PING, b"x"), CloseCode::ProtocolError),
        ("a long ping", masked(PING, &[0; 126]), CloseCode::ProtocolError),
        ("a close of one byte", masked(CLOSE, &[3]), CloseCode::ProtocolError),
        ("a close with no code of a close", masked(CLOSE, &[3, 231]), CloseCode::ProtocolError),
        ("a length beyond all", header_only(0xff, &[0xff; 8]), CloseCode::ProtocolError),
        (
            "a length beyond the limit",
            header_only(0xff, &0x7fff_ffff_ffff_ffff_u64.to_be_bytes()),
            CloseCode::MessageTooBig,
        ),
        (
            "a length of 4 GiB",
            header_only(0xff, &(1_u64 << 32).to_be_bytes()),
            CloseCode::MessageTooBig,
        ),
        ("nothing, in ever more fragments", many_empty, CloseCode::MessageTooBig),
    ]
}

#[tokio::test]
async fn a_broken_frame_ends_its_connection_with_the_code_of_rfc_6455() {
    let server = TestServer::start().await;
    let mut bystander = Bystander::join(&server).await;
    for (name, bytes, code) in violations() {
        let mut peer = Peer::login(&server, "mallory").await;
        peer.subscribe(LOBBY, None).await.unwrap();
        peer.socket.write(&bytes).await;
        assert_eq!(peer.rest().await, [Heard::Close(code.number())], "{name}");
        // The same before a login.
        let mut peer = Peer::anonymous(&server, Encoding::Proto).await;
        peer.socket.write(&bytes).await;
        assert_eq!(peer.rest().await, [Heard::Close(code.number())], "{name}, unknown");
        bystander.is_untroubled().await;
    }
}

#[tokio::test]
async fn a_text_connection_takes_text_and_only_in_utf8() {
    let server = TestServer::start().await;
    let mut bystander = Bystander::join(&server).await;
    for (bytes, code) in [
        (masked(BINARY, b"{}"), CloseCode::UnsupportedData),
        (masked(TEXT, b"\xc0\x80"), CloseCode::InvalidUtf8),
        (masked(TEXT, b"\"\xed\xa0\x80\""), CloseCode::InvalidUtf8),
    ] {
        let mut peer = Peer::login_with(&server, "mallory", Encoding::Json).await;
        peer.socket.write(&bytes).await;
        assert_eq!(peer.rest().await, [Heard::Close(code.number())]);
        bystander.is_untroubled().await;
    }
}

#[tokio::test]
async fn a_message_may_have_64_kib_and_before_the_login_4() {
    let server = TestServer::start().await;
    let mut bystander = Bystander::join(&server).await;
    let too_big = [Heard::Close(CloseCode::MessageTooBig.number())];

    let mut peer = Peer::login(&server, "ada").await;
    peer.socket.write(&masked(BINARY, &publish_of(64 * 1024))).await;
    assert_eq!(peer.published(1).await.unwrap().sequence, 1);
    bystander.resync().await;
    peer.socket.write(&masked(BINARY, &publish_of(64 * 1024 + 1))).await;
    assert_eq!(peer.rest().await, too_big);

    let mut peer = Peer::anonymous(&server, Encoding::Proto).await;
    peer.socket.write(&masked(BINARY, &publish_of(4 * 1024))).await;
    assert_eq!(code_of(peer.published(1).await), ErrorCode::NotAuthenticated);
    peer.socket.write(&masked(BINARY, &publish_of(4 * 1024 + 1))).await;
    assert_eq!(peer.rest().await, too_big);
    bystander.is_untroubled().await;
}

#[tokio::test]
async fn a_command_that_means_nothing_is_refused_and_the_connection_goes_on() {
    let server = TestServer::start().await;
    let mut bystander = Bystander::join(&server).await;
    let mut peer = Peer::login(&server, "ada").await;

    // An envelope with an id and a command of a later version; one with nothing at all.
    peer.socket.write(&masked(BINARY, b"\x08\x07\xfa\x01\x00")).await;
    assert_eq!(code_of(peer.reply(7).await), ErrorCode::UnknownCommand);
    peer.socket.write(&masked(BINARY, b"")).await;
    assert_eq!(code_of(peer.reply(0).await), ErrorCode::UnknownCommand);
    for command in [
        Command::Publish(proto::Publish { body: "nowhere".to_owned(), ..Default::default() }),
        Command::Subscribe(proto::Subscribe::default()),
        Command::History(proto::History::default()),
    ] {
        assert_eq!(code_of(peer.ask(command).await), ErrorCode::BadRequest);
    }
    let by_number = proto::subscribe::Channel::ChannelId(u32::MAX);
    let command =
        Command::Subscribe(proto::Subscribe { channel: Some(by_number), ..Default::default() });
    assert_eq!(code_of(peer.ask(command).await), ErrorCode::UnknownChannel);
    let nowhere = peer.subscribe("nowhere", None).await;
    assert_eq!(code_of(nowhere), ErrorCode::UnknownChannel);
    peer.subscribe(LOBBY, None).await.unwrap();
    bystander.is_untroubled().await;
}

#[tokio::test]
async fn a_channel_is_made_once_and_with_a_name_that_fits() {
    let server = TestServer::start().await;
    let mut peer = Peer::login(&server, "ada").await;
    let create = |name: &str| {
        Command::CreateChannel(proto::CreateChannel {
            channel_name: name.to_owned(),
            ..Default::default()
        })
    };
    for name in ["", "Lobby", "a b", "-a", "a-", "\u{430}bc", "a/b", "a\n", &"a".repeat(65)] {
        let refused = peer.ask(create(name)).await;
        assert_eq!(code_of(refused), ErrorCode::InvalidChannelName, "{name:?}");
    }
    assert_eq!(code_of(peer.ask(create(LOBBY)).await), ErrorCode::ChannelExists);
    peer.ask(create(&"a".repeat(64))).await.unwrap();
    peer.ask(create("r.2-d_2")).await.unwrap();
    peer.subscribe("r.2-d_2", None).await.unwrap();
}

#[tokio::test]
async fn a_connection_has_only_so_many_subscriptions() {
    let server = TestServer::start_with(|config| {
        config.limits.subscriptions_per_connection_max = 2;
        config.channels.created_at_start = [LOBBY, "one", "two"].map(str::to_owned).to_vec();
    })
    .await;
    let mut bystander = Bystander::join(&server).await;
    let mut peer = Peer::login(&server, "ada").await;
    let one = peer.subscribe("one", None).await.unwrap().channel_id;
    peer.subscribe("two", None).await.unwrap();
    assert_eq!(code_of(peer.subscribe(LOBBY, None).await), ErrorCode::TooMany);
    peer.ask(crate::harness::unsubscribe(one)).await.unwrap();
    peer.subscribe(LOBBY, None).await.unwrap();
    bystander.is_untroubled().await;
}

#[tokio::test]
async fn a_client_of_one_byte_at_a_time_is_a_client() {
    let server = TestServer::start().await;
    let token = server.token("ada");
    let mut socket = Socket::connect(server.address()).await;
    for byte in handshake(server.address(), &[PROTO], Some(&token)).as_bytes() {
        socket.write(&[*byte]).await;
    }
    assert_eq!(socket.head().await.0, 101);
    let mut peer = Peer::over(socket, Encoding::Proto);
    peer.welcome().await;
    let mut bytes = peer.encode(1, subscribe(LOBBY, None));
    bytes.extend(masked(PING, b"?"));
    bytes.extend(peer.encode(2, publish(LOBBY, &"long enough for a longer head".repeat(10), 0)));
    for byte in bytes {
        peer.socket.write(&[byte]).await;
    }
    peer.reply(1).await.unwrap();
    peer.published(2).await.unwrap();
    assert_eq!(peer.hear().await, Heard::Pong((&b"?"[..]).into()));
    assert_eq!(peer.messages(1).await[0].sequence, 1);
}

#[tokio::test]
async fn frames_right_behind_the_handshake_are_taken() {
    let server = TestServer::start().await;
    for token in [Some(server.token("ada")), None] {
        let socket = Socket::connect(server.address()).await;
        let mut peer = Peer::over(socket, Encoding::Proto);
        let mut bytes = handshake(server.address(), &[PROTO], token.as_deref()).into_bytes();
        if token.is_none() {
            bytes.extend(peer.encode(9, crate::harness::authenticate(&server.token("ada"))));
        }
        bytes.extend(peer.encode(1, subscribe(LOBBY, None)));
        bytes.extend(peer.encode(2, publish(LOBBY, "early", 0)));
        peer.socket.write(&bytes).await;
        assert_eq!(peer.socket.head().await.0, 101);
        peer.welcome().await;
        peer.reply(1).await.unwrap();
        peer.published(2).await.unwrap();
    }
}

#[tokio::test]
async fn a_ping_gets_its_pong_and_a_close_its_close() {
    let server = TestServer::start().await;
    for (payload, before_login) in [(&b""[..], true), (&[7; 125], false)] {
        let mut peer = if before_login {
            Peer::anonymous(&server, Encoding::Proto).await
        } else {
            Peer::login(&server, "ada").await
        };
        peer.socket.write(&masked(PING, payload)).await;
        assert_eq!(peer.hear().await, Heard::Pong(payload.into()));
        peer.socket.write(&masked(CLOSE, &1000_u16.to_be_bytes())).await;
        assert_eq!(peer.rest().await, [Heard::Close(1000)]);
    }
}

#[tokio::test]
async fn who_does_not_answer_a_ping_is_taken_for_dead() {
    let server = TestServer::start_with(|config| {
        config.limits.ping_interval = Duration::from_millis(100);
        config.limits.pong_timeout = Duration::from_millis(100);
        config.limits.authenticate_timeout = Duration::from_secs(3_600);
    })
    .await;
    for mut dead in
        [Peer::login(&server, "ada").await, Peer::anonymous(&server, Encoding::Json).await]
    {
        let heard = dead.rest().await;
        assert_eq!(heard, [Heard::Ping, Heard::Close(CloseCode::PongTimeout.number())]);
    }
}

#[tokio::test]
async fn who_answers_pings_stays() {
    let server = TestServer::start_with(|config| {
        config.limits.ping_interval = Duration::from_millis(20);
        config.limits.pong_timeout = Duration::from_secs(3_600);
    })
    .await;
    let mut peer = Peer::login(&server, "ada").await;
    for _ in 0..5 {
        assert_eq!(peer.hear().await, Heard::Ping);
        peer.socket.write(&masked(0xa, b"")).await;
    }
    peer.publish(LOBBY, "here").await.unwrap();
}

/// Asserts that this start of a request, and no more, is answered or cut in time.
async fn is_cut<E: Engine>(server: &TestServer<E>, beginning: &[u8]) {
    let mut socket = Socket::connect(server.address()).await;
    socket.write(beginning).await;
    let answer = socket.rest().await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn half_a_request_head_is_not_waited_for() {
    let server = TestServer::start_with(|config| {
        config.limits.request_head_timeout = Duration::from_millis(200);
    })
    .await;
    let mut bystander = Bystander::join(&server).await;
    let whole = handshake(server.address(), &[PROTO], None);
    for beginning in [&b""[..], b"GET / HT", &whole.as_bytes()[..whole.len() - 2]] {
        is_cut(&server, beginning).await;
    }
    bystander.is_untroubled().await;
}

#[tokio::test]
async fn half_a_frame_is_not_waited_for() {
    let server = TestServer::start_with(|config| {
        config.limits.frame_timeout = Duration::from_millis(200);
    })
    .await;
    let mut bystander = Bystander::join(&server).await;
    let whole = masked(BINARY, b"\x08\x07\xfa\x01\x00");
    for cut in [1, 3, whole.len() - 1] {
        let mut peer = Peer::login(&server, "mallory").await;
        peer.socket.write(&whole[..cut]).await;
        let closed = [Heard::Close(CloseCode::PolicyViolation.number())];
        assert_eq!(peer.rest().await, closed, "{cut} bytes");
    }
    bystander.is_untroubled().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = TestServer::start().await;
    let mut bystander = Bystander::join(&server).await;
    let whole = handshake(server.address(), &[PROTO], None);
    let line = format!("X-Large: {}\r\n\r\n", "x".repeat(20 * 1024));
    let lines = "X-Many: x\r\n".repeat(2_000);
    for tail in [line.as_str(), lines.as_str()] {
        let mut socket = Socket::connect(server.address()).await;
        let request = format!("{}{tail}", whole.strip_suffix("\r\n").unwrap());
        socket.try_write(request.as_bytes()).await;
        let answer = socket.rest().await;
        // The reset that follows an unread rest may take the answer with it.
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    bystander.is_untroubled().await;
}

#[tokio::test]
async fn without_a_subprotocol_in_common_the_close_says_so() {
    let server = TestServer::start().await;
    let mut bystander = Bystander::join(&server).await;
    for offered in [&[][..], &["hubbub.v0.proto"], &["graphql-ws", "mqtt"]] {
        let mut socket = Socket::connect(server.address()).await;
        socket.write(handshake(server.address(), offered, None).as_bytes()).await;
        assert_eq!(socket.head().await.0, 101);
        let mut peer = Peer::over(socket, Encoding::Proto);
        let closed = [Heard::Close(CloseCode::UnsupportedVersion.number())];
        assert_eq!(peer.rest().await, closed, "{offered:?}");
    }
    bystander.is_untroubled().await;
}

#[tokio::test]
async fn what_is_no_handshake_gets_a_status() {
    let server = TestServer::start().await;
    let whole = handshake(server.address(), &[PROTO], None);
    for (from, to, expected) in [
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8", 426),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Key: short", 400),
        ("Upgrade: websocket\r\n", "", 400),
        ("GET /v1/ws", "POST /v1/ws", 405),
        ("Host:", "Origin: https://elsewhere.example\r\nHost:", 403),
        ("Host:", "Content-Length: 4\r\nHost:", 400),
        ("GET /v1/ws", "GET /v1/nothing", 404),
    ] {
        let mut socket = Socket::connect(server.address()).await;
        socket.write(whole.replace(from, to).as_bytes()).await;
        let (status, head) = socket.head().await;
        assert_eq!(status, expected, "{to}: {head}");
    }
    for (path, expected) in [("/livez", 200), ("/readyz", 200), ("/metrics", 404)] {
        assert_eq!(get(server.address(), path).await.0, expected, "{path}");
    }
}

#[tokio::test]
async fn who_finds_no_place_is_told_so_and_the_place_is_given_back() {
    let server = TestServer::start_with(|config| config.limits.connections_max = 2).await;
    let mut bystander = Bystander::join(&server).await;
    let mut peer = Peer::login(&server, "ada").await;
    let mut refused = Socket::connect(server.address()).await;
    assert!(refused.rest().await.starts_with("HTTP/1.1 503 "));
    peer.socket.write(&masked(CLOSE, &1000_u16.to_be_bytes())).await;
    peer.rest().await;
    drop(peer);
    // The place is free a moment after the end is seen.
    loop {
        let mut socket = Socket::connect(server.address()).await;
        let token = server.token("ada");
        socket.try_write(handshake(server.address(), &[PROTO], Some(&token)).as_bytes()).await;
        if socket.head().await.0 == 101 {
            break;
        }
    }
    bystander.is_untroubled().await;
}
