//! permessage-deflate from the outside: who gets it, what it changes on the wire and what not.

use flate2::{Compress, Compression, FlushCompress};
use hubbub::{edge::Deflate, engine::Engine, wire::Encoding};

use crate::harness::{
    BINARY, Bystander, Heard, LOBBY, Message, Peer, RSV1, TEXT, TestServer, masked, position,
    publish,
};

const OFFER: &str = "permessage-deflate; client_max_window_bits";
const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The payload of a compressed message.
fn deflate(content: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(content.len() + 1_024);
    let mut state = Compress::new(Compression::default(), false);
    state.compress_vec(content, &mut payload, FlushCompress::Sync).unwrap();
    assert_eq!(state.total_in(), content.len() as u64);
    payload.truncate(payload.len() - 4);
    payload
}

/// Of 1,200 bytes, and easily compressed.
fn long_body(number: usize) -> String {
    format!("message {number:04}").repeat(100)
}

async fn subscriber<E: Engine>(
    server: &TestServer<E>,
    name: &str,
    encoding: Encoding,
    offer: &str,
) -> (Peer, Option<String>) {
    let (mut peer, answer) = Peer::login_offering(server, name, encoding, offer).await;
    peer.subscribe(LOBBY, None).await.unwrap();
    (peer, answer)
}

async fn compressions<E: Engine>(server: &TestServer<E>, of: &str) -> f64 {
    server.metric_of(&format!("hubbub_compressions_total{{of=\"{of}\"}}")).await
}

fn bodies(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| &message.body[..]).collect()
}

#[tokio::test]
async fn a_message_is_compressed_once_for_all_who_take_it_so() {
    const MESSAGES: usize = 5;
    let server = TestServer::in_memory().await;
    let (mut peers, mut answers) = (Vec::new(), Vec::new());
    for name in ["ada", "bob", "cid"] {
        let (peer, answer) = subscriber(&server, name, Encoding::Json, OFFER).await;
        peers.push(peer);
        answers.push(answer);
    }
    assert!(answers.iter().all(|answer| answer.as_deref() == Some(ANSWER)), "{answers:?}");
    // By default protobuf is not compressed, whatever its client offers.
    let (mut plain, answer) = subscriber(&server, "dan", Encoding::Proto, OFFER).await;
    assert_eq!(answer, None);

    let mut author = Peer::login(&server, "eve").await;
    for number in 0..MESSAGES {
        author.publish(LOBBY, &long_body(number)).await.unwrap();
    }
    let expected = plain.messages(MESSAGES).await;
    assert_eq!(expected.last().unwrap().body, long_body(MESSAGES - 1));
    for peer in &mut peers {
        assert_eq!(peer.messages(MESSAGES).await, expected);
        assert_eq!(peer.deflated_frames as usize, MESSAGES, "and neither welcome nor replies");
    }

    assert_eq!(server.metric_of("hubbub_messages_total").await, MESSAGES as f64);
    assert_eq!(compressions(&server, "batch").await, MESSAGES as f64);
    assert_eq!(server.metric_of("hubbub_deflated_frames_total").await, 3.0 * MESSAGES as f64);
    let saved = server.metric_of("hubbub_deflate_saved_bytes_total").await;
    assert!(saved > 3.0 * MESSAGES as f64 * 1_000.0, "{saved}");
    assert!(server.metric_of("hubbub_compress_seconds_total").await > 0.0);
}

#[tokio::test]
async fn when_it_is_on_each_encoding_is_compressed_once() {
    let server = TestServer::in_memory_with(|config| config.edge.deflate = Deflate::On).await;
    let mut peers = Vec::new();
    for (name, encoding) in [
        ("ada", Encoding::Json),
        ("bob", Encoding::Json),
        ("cid", Encoding::Json),
        ("dan", Encoding::Proto),
        ("eva", Encoding::Proto),
        ("flo", Encoding::Proto),
    ] {
        let (peer, answer) = subscriber(&server, name, encoding, OFFER).await;
        assert_eq!(answer.as_deref(), Some(ANSWER));
        peers.push(peer);
    }
    let mut author = Peer::login(&server, "gus").await;
    author.publish(LOBBY, &long_body(1)).await.unwrap();
    author.publish(LOBBY, "too short to be worth it").await.unwrap();
    for peer in &mut peers {
        let messages = peer.messages(2).await;
        assert_eq!(bodies(&messages), [&long_body(1)[..], "too short to be worth it"]);
        assert_eq!(peer.deflated_frames, 1);
    }
    assert_eq!(compressions(&server, "batch").await, 2.0);
}

#[tokio::test]
async fn what_a_client_sends_compressed_is_heard() {
    let server = TestServer::in_memory().await;
    let (mut peer, _) = subscriber(&server, "ada", Encoding::Json, OFFER).await;
    let envelope = |id: u32, body: &str| serde_json::json!({ "id": id, "publish": { "channelName": LOBBY, "body": body } });
    for (id, body) in [(100, "short".to_owned()), (101, long_body(7))] {
        let payload = deflate(envelope(id, &body).to_string().as_bytes());
        peer.socket.write(&masked(RSV1 | TEXT, &payload)).await;
        assert_eq!(bodies(&peer.messages(1).await), [body]);
        peer.published(id).await.unwrap();
    }
    // Plain ones are taken beside them.
    peer.socket.write(&masked(TEXT, envelope(102, "plain").to_string().as_bytes())).await;
    assert_eq!(bodies(&peer.messages(1).await), ["plain"]);
    assert_eq!(server.metric_of("hubbub_inflated_messages_total").await, 2.0);
    assert!(server.metric_of("hubbub_inflate_seconds_total").await > 0.0);
}

#[tokio::test]
async fn a_read_that_inflates_to_very_much_is_worked_off_in_order() {
    const MESSAGES: u32 = 200;
    let server = TestServer::in_memory().await;
    let (mut peer, _) = subscriber(&server, "ada", Encoding::Json, OFFER).await;
    // Each takes less than 400 bytes and inflates to 60,000: all of them are dozens of turns.
    let message = |id: u32| {
        let publish = serde_json::json!({ "channelName": LOBBY, "body": id.to_string() });
        let envelope = serde_json::json!({ "id": id, "publish": publish });
        masked(RSV1 | TEXT, &deflate(format!("{envelope}{}", " ".repeat(60_000)).as_bytes()))
    };
    let sent: Vec<u8> = (1..=MESSAGES).flat_map(message).collect();
    peer.socket.write(&sent).await;
    let mut replies = Vec::new();
    let mut delivered = Vec::new();
    while replies.len() + delivered.len() < 2 * MESSAGES as usize {
        match peer.hear().await {
            Heard::Messages(messages) => delivered.extend(messages),
            other => replies.push(other),
        }
    }
    let expected: Vec<_> = (1..=MESSAGES).map(|id| id.to_string()).collect();
    assert_eq!(bodies(&delivered), expected);
    let inflated = server.metric_of("hubbub_inflated_bytes_total").await;
    assert!(inflated > 60_000.0 * f64::from(MESSAGES), "{inflated}");
}

#[tokio::test]
async fn replays_and_pages_are_compressed_too() {
    let server = TestServer::in_memory().await;
    let mut author = Peer::login(&server, "eve").await;
    let epoch = author.subscribe(LOBBY, None).await.unwrap().epoch;
    for number in 0..3 {
        author.publish(LOBBY, &long_body(number)).await.unwrap();
    }
    let (mut peer, _) = Peer::login_offering(&server, "ada", Encoding::Json, OFFER).await;
    peer.subscribe(LOBBY, position(epoch, 1)).await.unwrap();
    assert_eq!(bodies(&peer.messages(2).await), [long_body(1), long_body(2)]);
    assert_eq!(peer.deflated_frames, 2);
    assert_eq!(compressions(&server, "replay").await, 2.0);

    peer.history(LOBBY, None, 10).await.unwrap();
    assert_eq!(peer.deflated_frames, 3);
    assert_eq!(compressions(&server, "page").await, 1.0);
    assert_eq!(server.metric_of("hubbub_deflated_frames_total").await, 3.0);
}

#[tokio::test]
async fn a_client_with_a_small_window_gets_plain_what_exceeds_it() {
    let server = TestServer::in_memory().await;
    let offer = "permessage-deflate; server_max_window_bits=10";
    let (mut small, answer) = subscriber(&server, "ada", Encoding::Json, offer).await;
    assert_eq!(answer, Some(format!("{ANSWER}; server_max_window_bits=10")));
    let mut author = Peer::login(&server, "eve").await;
    let fits = "x".repeat(600);
    author.publish(LOBBY, &fits).await.unwrap();
    author.publish(LOBBY, &long_body(1)).await.unwrap();
    assert_eq!(bodies(&small.messages(2).await), [fits, long_body(1)]);
    assert_eq!(small.deflated_frames, 1);
}

#[tokio::test]
async fn when_it_is_off_nothing_is_agreed_and_compressed_messages_are_refused() {
    let server = TestServer::in_memory_with(|config| config.edge.deflate = Deflate::Off).await;
    for (encoding, opcode) in [(Encoding::Json, TEXT), (Encoding::Proto, BINARY)] {
        let (mut peer, answer) = subscriber(&server, "ada", encoding, OFFER).await;
        assert_eq!(answer, None);
        let mut author = Peer::login(&server, "eve").await;
        author.publish(LOBBY, &long_body(1)).await.unwrap();
        assert_eq!(bodies(&peer.messages(1).await), [long_body(1)]);
        assert_eq!(peer.deflated_frames, 0);

        peer.socket.write(&masked(RSV1 | opcode, &deflate(b"{}"))).await;
        assert_eq!(peer.rest().await, [Heard::Close(1002)]);
    }
    assert_eq!(compressions(&server, "batch").await, 0.0);
}

#[tokio::test]
async fn bombs_and_damaged_messages_end_their_connection_and_no_other() {
    let server = TestServer::in_memory().await;
    let mut bystander = Bystander::join(&server).await;
    let bomb = deflate(&vec![b' '; 8 * 1024 * 1024]);
    let half = &deflate(long_body(1).as_bytes())[..20];
    for (payload, code) in [(&bomb[..], 1009), (half, 1002), (&[0xff; 8], 1002)] {
        let (mut peer, _) = subscriber(&server, "ada", Encoding::Json, OFFER).await;
        peer.socket.write(&masked(RSV1 | TEXT, payload)).await;
        assert_eq!(peer.rest().await, [Heard::Close(code)]);
    }
    let (mut peer, _) = subscriber(&server, "ada", Encoding::Json, OFFER).await;
    let not_utf8 = deflate(b"\"\xff\"");
    peer.socket.write(&masked(RSV1 | TEXT, &not_utf8)).await;
    assert_eq!(peer.rest().await, [Heard::Close(1007)]);

    let (mut peer, _) = subscriber(&server, "ada", Encoding::Json, OFFER).await;
    peer.socket.write(&masked(RSV1 | 0x9, b"ping")).await;
    assert_eq!(peer.rest().await, [Heard::Close(1002)]);
    bystander.is_untroubled().await;
}

#[tokio::test]
async fn a_malformed_offer_is_declined_and_the_client_goes_on() {
    let server = TestServer::in_memory().await;
    let offer = "permessage-deflate; server_max_window_bits=\"";
    let (mut peer, answer) = subscriber(&server, "ada", Encoding::Json, offer).await;
    assert_eq!(answer, None);
    let id = peer.send(publish(LOBBY, &long_body(1), 1)).await;
    assert_eq!(bodies(&peer.messages(1).await), [long_body(1)]);
    peer.published(id).await.unwrap();
    assert_eq!(peer.deflated_frames, 0);
}
