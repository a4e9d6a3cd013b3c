//! The client against a scripted server: in memory, so that time can be paused.

use std::{
    future::Future,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use tokio::{
    io::DuplexStream,
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message as Frame,
        handshake::server::{Request, Response},
        http::{HeaderValue, header},
        protocol::CloseFrame,
    },
};

use super::{
    Change, Client, ClientError, Delivery, GetToken, Options, State, Subscription, TokenError,
    socket::Connect,
};
use crate::{
    limits::{CLIENT_BACKOFF_MAX, CLIENT_RETRY_AFTER_MAX},
    log::{
        place::{Epoch, Position, Sequence, UserId},
        settings::{Role, Settings},
    },
    wire::proto::{
        self, client_envelope::Command, reply::Result as Answer, server_envelope::Envelope,
    },
};

/// Each connection of the client appears at the other end of the queue.
struct Pipes(mpsc::Sender<DuplexStream>);

impl Connect for Pipes {
    type Stream = DuplexStream;

    fn connect(&self) -> impl Future<Output = io::Result<DuplexStream>> + Send + 'static {
        let mailbox = self.0.clone();
        async move {
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            mailbox.send(theirs).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
            Ok(ours)
        }
    }
}

/// A client, and the server's side of its connections.
struct Bench {
    client: Client,
    connections: mpsc::Receiver<DuplexStream>,
    /// The `Authorization` headers of the handshakes.
    tokens: Arc<Mutex<Vec<String>>>,
}

/// One connection, seen from the server.
struct Peer(WebSocketStream<DuplexStream>);

impl Bench {
    fn new() -> Self {
        Self::with(GetToken::fixed("t"), 64)
    }

    fn with(get_token: GetToken, deliveries_max: usize) -> Self {
        let (mailbox, connections) = mpsc::channel(1);
        let server = "http://127.0.0.1:7878".parse().unwrap();
        let options = Options { deliveries_max, ..Options::new(server, get_token) };
        let client = Client::connect_through(Pipes(mailbox), options);
        Self { client, connections, tokens: Arc::default() }
    }

    /// The handshake of the next connection.
    #[expect(clippy::result_large_err, reason = "the shape of tungstenite's callback")]
    async fn accept(&mut self) -> Peer {
        let stream = self.connections.recv().await.unwrap();
        let tokens = Arc::clone(&self.tokens);
        let callback = move |request: &Request, mut response: Response| {
            let protocol = &request.headers()[header::SEC_WEBSOCKET_PROTOCOL];
            assert_eq!(protocol, "hubbub.v1.proto");
            assert_eq!(request.uri().path(), "/v1/ws");
            let token = request.headers()[header::AUTHORIZATION].to_str().unwrap().to_owned();
            tokens.lock().unwrap().push(token);
            let protocol = HeaderValue::from_static("hubbub.v1.proto");
            response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
            Ok(response)
        };
        Peer(accept_hdr_async(stream, callback).await.unwrap())
    }

    async fn welcome(&mut self) -> Peer {
        self.welcome_for(Duration::from_secs(3_600)).await
    }

    async fn welcome_for(&mut self, lifetime: Duration) -> Peer {
        let mut peer = self.accept().await;
        let expires_at = (SystemTime::now() + lifetime).duration_since(UNIX_EPOCH).unwrap();
        peer.send(Envelope::Welcome(proto::Welcome {
            user_id: 1,
            name: "ada".to_owned(),
            expires_at: expires_at.as_secs(),
            ping_interval_ms: 25_000,
            pong_timeout_ms: 10_000,
            message_bytes_max: 64 * 1024,
            server_version: "0".to_owned(),
        }))
        .await;
        peer
    }

    /// A subscription at the start of a channel.
    async fn subscribe(&self, peer: &mut Peer) -> Subscription {
        let client = self.client.clone();
        let since = Position { epoch: Epoch(1), sequence: Sequence::ZERO };
        let asked = tokio::spawn(async move { client.subscribe("lobby", Some(since)).await });
        peer.confirm_subscribe(0).await;
        asked.await.unwrap().unwrap()
    }
}

impl Peer {
    async fn send(&mut self, envelope: Envelope) {
        let envelope = proto::ServerEnvelope { envelope: Some(envelope) };
        self.0.send(Frame::Binary(envelope.encode_to_vec().into())).await.unwrap();
    }

    async fn reply(&mut self, id: u32, answer: Answer) {
        self.send(Envelope::Reply(proto::Reply { id, result: Some(answer) })).await;
    }

    /// The next command.
    async fn command(&mut self) -> (u32, Command) {
        loop {
            if let Frame::Binary(frame) = self.0.next().await.unwrap().unwrap() {
                let envelope = proto::ClientEnvelope::decode(frame).unwrap();
                return (envelope.id, envelope.command.unwrap());
            }
        }
    }

    async fn publish(&mut self) -> (u32, proto::Publish) {
        match self.command().await {
            (id, Command::Publish(publish)) => (id, publish),
            (_, command) => panic!("{command:?}"),
        }
    }

    async fn confirm_publish(&mut self, id: u32, sequence: u64) {
        let published =
            proto::Published { channel_id: 7, epoch: 1, sequence, timestamp_ms: 1, durability: 1 };
        self.reply(id, Answer::Published(published)).await;
    }

    /// Confirms a subscribe, and answers the sequence that it resumes from.
    async fn confirm_subscribe(&mut self, head_sequence: u64) -> u64 {
        let (id, command) = self.command().await;
        let Command::Subscribe(subscribe) = command else { panic!("{command:?}") };
        let subscribed = proto::Subscribed {
            channel_id: 7,
            channel_name: "lobby".to_owned(),
            epoch: 1,
            head_sequence,
        };
        self.reply(id, Answer::Subscribed(subscribed)).await;
        subscribe.since.unwrap().sequence
    }

    async fn messages(&mut self, first_sequence: u64, count: usize) {
        let record = proto::Record {
            user_id: 1,
            client_message_id: 0,
            content: Some(proto::record::Content::Body("hello".to_owned())),
            written_at_ms: 0,
        };
        let records = vec![record; count];
        let messages = proto::Messages { channel_id: 7, first_sequence, timestamp_ms: 1, records };
        self.send(Envelope::Messages(messages)).await;
    }

    async fn close(mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: code.into(), reason: reason.to_owned().into() };
        self.0.send(Frame::Close(Some(frame))).await.unwrap();
    }
}

fn sequence(delivery: Option<Result<Delivery, ClientError>>) -> u64 {
    match delivery {
        Some(Ok(Delivery::Message(message))) => message.sequence.0,
        delivery => panic!("{delivery:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_publish_whose_ack_was_lost_is_sent_again_with_its_number() {
    let mut bench = Bench::new();
    let mut peer = bench.welcome().await;
    let client = bench.client.clone();
    let publishing = tokio::spawn(async move { client.publish("lobby", "hello").await });
    let (_, first) = peer.publish().await;
    // The server has committed, and dies before it answers.
    drop(peer);

    let mut peer = bench.welcome().await;
    let (id, second) = peer.publish().await;
    assert_ne!(first.client_message_id, 0);
    assert_eq!(first, second);
    peer.confirm_publish(id, 1).await;
    let published = publishing.await.unwrap().unwrap();
    assert_eq!((published.position.sequence, published.attempts), (Sequence(1), 2));
}

#[tokio::test(start_paused = true)]
async fn a_subscription_goes_on_after_a_drop_without_hole_or_repeat() {
    let mut bench = Bench::new();
    let mut peer = bench.welcome().await;
    let mut subscription = bench.subscribe(&mut peer).await;
    peer.messages(1, 3).await;
    for expected in 1..=3 {
        assert_eq!(sequence(subscription.next().await), expected);
    }
    drop(peer);
    let mut peer = bench.welcome().await;
    assert_eq!(peer.confirm_subscribe(5).await, 3);
    peer.messages(4, 2).await;
    assert_eq!(sequence(subscription.next().await), 4);
    assert_eq!(sequence(subscription.next().await), 5);
}

#[tokio::test(start_paused = true)]
async fn a_repeat_ends_the_client_after_what_was_in_order() {
    let mut bench = Bench::new();
    let mut peer = bench.welcome().await;
    let mut subscription = bench.subscribe(&mut peer).await;
    peer.messages(1, 2).await;
    peer.messages(2, 1).await;
    assert_eq!(sequence(subscription.next().await), 1);
    assert_eq!(sequence(subscription.next().await), 2);
    let error = subscription.next().await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::OutOfOrder { expected: Sequence(3), .. }), "{error:?}");
    assert!(subscription.next().await.is_none());
    let error = bench.client.publish("lobby", "late").await.unwrap_err();
    assert!(matches!(error, ClientError::OutOfOrder { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_close_code_from_4500_up_is_the_end() {
    for code in [4_500, 4_505, 4_999] {
        let mut bench = Bench::new();
        let mut peer = bench.welcome().await;
        let mut subscription = bench.subscribe(&mut peer).await;
        peer.close(code, "").await;
        let error = subscription.next().await.unwrap().unwrap_err();
        assert!(matches!(&error, ClientError::Closed(closed) if closed.number == Some(code)));
        assert!(bench.client.connected().await.is_err());
        assert!(bench.connections.recv().await.is_none(), "it connected again");
    }
}

#[tokio::test(start_paused = true)]
async fn the_servers_retry_after_is_obeyed() {
    let mut bench = Bench::new();
    let peer = bench.welcome().await;
    bench.client.connected().await.unwrap();
    peer.close(4_013, r#"{"code":4013,"retry_after_ms":90000}"#).await;
    let begin = Instant::now();
    let mut peer = bench.welcome().await;
    assert_eq!(begin.elapsed().as_secs(), 90);

    // The same by `going_away`, when the close frame says nothing.
    peer.send(Envelope::GoingAway(proto::GoingAway { retry_after_ms: 45_000 })).await;
    peer.close(4_000, "").await;
    let begin = Instant::now();
    bench.accept().await;
    assert_eq!(begin.elapsed().as_secs(), 45);
}

#[tokio::test(start_paused = true)]
async fn a_wait_of_0_leaves_it_to_the_back_off_and_one_without_end_is_cut() {
    let mut bench = Bench::new();
    let peer = bench.welcome().await;
    bench.client.connected().await.unwrap();
    let begin = Instant::now();
    peer.close(4_013, r#"{"code":4013,"retry_after_ms":0}"#).await;
    let mut peer = bench.welcome().await;
    assert!(!begin.elapsed().is_zero(), "all would be back at once");

    let begin = Instant::now();
    peer.send(Envelope::GoingAway(proto::GoingAway { retry_after_ms: 0 })).await;
    peer.close(4_000, "").await;
    let peer = bench.welcome().await;
    assert!(!begin.elapsed().is_zero(), "all would be back at once");

    let begin = Instant::now();
    peer.close(4_013, r#"{"code":4013,"retry_after_ms":18446744073709551615}"#).await;
    bench.accept().await;
    assert_eq!(begin.elapsed().as_secs(), CLIENT_RETRY_AFTER_MAX.as_secs());
}

#[tokio::test(start_paused = true)]
async fn without_a_hint_a_client_comes_back_within_the_ceiling() {
    let mut bench = Bench::new();
    let mut ceiling = Duration::from_millis(500);
    for _ in 0..8 {
        let begin = Instant::now();
        drop(bench.accept().await);
        assert!(begin.elapsed() <= ceiling, "{:?} > {ceiling:?}", begin.elapsed());
        ceiling = (ceiling * 2).min(CLIENT_BACKOFF_MAX);
    }
    assert!(!matches!(*bench.client.state().borrow(), State::Closed(_)));
}

#[tokio::test(start_paused = true)]
async fn a_login_is_renewed_in_band_before_it_runs_out() {
    let calls = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&calls);
    let get_token = GetToken::new(move || {
        let call = counter.fetch_add(1, Ordering::Relaxed) + 1;
        async move {
            // Slow, so that a second call at the same time would show.
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ok::<_, TokenError>(format!("t{call}"))
        }
    });
    let mut bench = Bench::with(get_token, 64);
    let mut peer = bench.welcome_for(Duration::from_secs(40)).await;
    let begin = Instant::now();
    let (id, command) = peer.command().await;
    let Command::Authenticate(authenticate) = command else { panic!("{command:?}") };
    assert_eq!(authenticate.token, "t2");
    let waited = begin.elapsed().as_secs();
    assert!((30..=36).contains(&waited), "{waited}");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    let in_an_hour = SystemTime::now() + Duration::from_secs(3_600);
    let expires_at = in_an_hour.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let authenticated = proto::Authenticated { user_id: 1, name: "ada".to_owned(), expires_at };
    peer.reply(id, Answer::Authenticated(authenticated)).await;

    // The connection stayed; the next one begins with the newest token, and asks for none.
    drop(peer);
    bench.accept().await;
    assert_eq!(*bench.tokens.lock().unwrap(), ["Bearer t1", "Bearer t2"]);
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_ran_out_is_replaced() {
    let calls = AtomicU32::new(0);
    let get_token = GetToken::new(move || {
        std::future::ready(Ok(format!("t{}", calls.fetch_add(1, Ordering::Relaxed) + 1)))
    });
    let mut bench = Bench::with(get_token, 64);
    bench.welcome().await.close(4_001, "").await;
    bench.accept().await;
    assert_eq!(*bench.tokens.lock().unwrap(), ["Bearer t1", "Bearer t2"]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_stops_the_reading_and_loses_nothing() {
    let mut bench = Bench::with(GetToken::fixed("t"), 1);
    let mut peer = bench.welcome().await;
    let mut subscription = bench.subscribe(&mut peer).await;
    // Far more than the pipe, the buffers and the mailbox hold together.
    let flood = async move {
        for first in (1..).step_by(100).take(1_000) {
            peer.messages(first, 100).await;
        }
        peer
    };
    let flood = tokio::spawn(flood);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!flood.is_finished(), "the client has taken everything in");
    for expected in 1..=100_000 {
        assert_eq!(sequence(subscription.next().await), expected);
    }
    flood.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_left() {
    let mut bench = Bench::new();
    let peer = bench.welcome().await;
    bench.client.connected().await.unwrap();
    let begin = Instant::now();
    let again = timeout(Duration::from_secs(120), bench.accept()).await;
    assert!(again.is_ok(), "it waits for a dead server");
    assert!(begin.elapsed() >= Duration::from_millis(47_500), "{:?}", begin.elapsed());
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_pings_is_not_left_and_gets_its_pongs() {
    let mut bench = Bench::new();
    let mut peer = bench.welcome().await;
    bench.client.connected().await.unwrap();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(30)).await;
        peer.0.send(Frame::Ping("beat".into())).await.unwrap();
        assert_eq!(peer.0.next().await.unwrap().unwrap(), Frame::Pong("beat".into()));
    }
    assert!(matches!(*bench.client.state().borrow(), State::Connected { connection: 1, .. }));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_is_the_end_and_an_unreachable_server_is_not() {
    let attempts = AtomicU32::new(0);
    let get_token = GetToken::new(move || {
        let again = attempts.fetch_add(1, Ordering::Relaxed) < 3;
        let server = String::new();
        std::future::ready(Err(if again {
            TokenError::TimedOut { server }
        } else {
            TokenError::Unintelligible { server, status: 400 }
        }))
    });
    let bench = Bench::with(get_token, 64);
    let error = bench.client.connected().await.unwrap_err();
    assert!(matches!(error, ClientError::Token(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_subscription_is_unsubscribed_and_can_be_made_anew() {
    let mut bench = Bench::new();
    let mut peer = bench.welcome().await;
    let subscription = bench.subscribe(&mut peer).await;
    drop(subscription);
    let (id, command) = peer.command().await;
    assert!(matches!(command, Command::Unsubscribe(_)), "{command:?}");
    peer.reply(id, Answer::Unsubscribed(proto::Unsubscribed { channel_id: 7 })).await;
    bench.subscribe(&mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn closing_says_goodbye() {
    let mut bench = Bench::new();
    let mut peer = bench.welcome().await;
    bench.client.connected().await.unwrap();
    let client = bench.client.clone();
    let closing = tokio::spawn(async move { client.close().await });
    let Frame::Close(Some(frame)) = peer.0.next().await.unwrap().unwrap() else { panic!() };
    assert_eq!(u16::from(frame.code), 1_000);
    assert!(peer.0.next().await.is_none());
    drop(peer);
    closing.await.unwrap();
    let error = bench.client.publish("lobby", "late").await.unwrap_err();
    assert!(matches!(error, ClientError::ClientClosed), "{error:?}");
}

#[tokio::test]
async fn over_tcp_it_connects_from_the_chosen_address() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let local_address = Some([127, 0, 0, 9].into());
    let get_token = GetToken::fixed("t");
    let client = Client::connect(Options { local_address, ..Options::new(server, get_token) });
    let (stream, from) = listener.accept().await.unwrap();
    assert_eq!(from.ip().to_string(), "127.0.0.9");
    // A plain HTTP answer instead of the handshake, with a code that is the end.
    let mut stream = tokio::io::BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        tokio::io::AsyncBufReadExt::read_line(&mut stream, &mut head).await.unwrap();
    }
    assert!(head.contains("Bearer t\r\n"), "{head}");
    let answer =
        b"HTTP/1.1 403 Forbidden\r\ncontent-length: 28\r\n\r\n{\"code\":203,\"detail\":\"gone\"}";
    tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
    let error = client.connected().await.unwrap_err();
    assert!(matches!(error, ClientError::Handshake { status: 403, .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_channel_is_removed_by_number_and_a_retry_that_finds_none_has_done_it() {
    let mut bench = Bench::new();
    let mut peer = bench.welcome().await;
    let client = bench.client.clone();
    let deleting = tokio::spawn(async move { client.delete_channel("lobby").await });
    let (id, command) = peer.command().await;
    assert!(matches!(command, Command::GetChannel(_)), "{command:?}");
    let channel = proto::Channel { channel_id: 7, ..Default::default() };
    peer.reply(id, Answer::Channel(channel)).await;
    let by_number = |command: Command| match command {
        Command::DeleteChannel(delete) => {
            assert_eq!(delete.channel, Some(proto::delete_channel::Channel::ChannelId(7)));
        }
        command => panic!("{command:?}"),
    };
    by_number(peer.command().await.1);
    // The server has done it, and dies before it answers.
    drop(peer);

    let mut peer = bench.welcome().await;
    let (id, command) = peer.command().await;
    by_number(command);
    let code = proto::error::Code::UnknownChannel.into();
    peer.reply(id, Answer::Error(proto::Error { code, ..Default::default() })).await;
    deleting.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_change_is_delivered_as_one_and_an_imported_message_has_its_own_time() {
    use proto::record::Content;
    let mut bench = Bench::new();
    let mut peer = bench.welcome().await;
    let mut subscription = bench.subscribe(&mut peer).await;
    let record = |content, written_at_ms| {
        let content = Some(content);
        proto::Record { user_id: 1, client_message_id: 0, content, written_at_ms }
    };
    let settings = proto::Settings {
        channel_name: "lobby-2".to_owned(),
        visibility: proto::Visibility::Public.into(),
        posting: proto::Posting::Everyone.into(),
        archived: true,
        ..Default::default()
    };
    let member = |role| Content::Membership(proto::Membership { user_id: 9, role });
    let records = vec![
        record(member(proto::Role::Owner.into()), 0),
        record(member(0), 0),
        record(Content::Settings(settings), 0),
        record(Content::Body("from elsewhere".to_owned()), 500),
        record(Content::Deletion(proto::Deletion {}), 0),
    ];
    let messages = proto::Messages { channel_id: 7, first_sequence: 1, timestamp_ms: 900, records };
    peer.send(Envelope::Messages(messages)).await;
    let mut delivered = Vec::new();
    for _ in 0..5 {
        match subscription.next().await {
            Some(Ok(Delivery::Message(message))) => delivered.push(message),
            delivery => panic!("{delivery:?}"),
        }
    }
    let changes: Vec<_> = delivered.iter().map(|message| message.change.clone()).collect();
    let archived = Settings { archived: true, ..Settings::open("lobby-2") };
    let expected = [
        Some(Change::Member(UserId(9), Some(Role::Owner))),
        Some(Change::Member(UserId(9), None)),
        Some(Change::Settings(archived)),
        None,
        Some(Change::Deleted),
    ];
    assert_eq!(changes, expected);
    assert_eq!((delivered[0].body.as_str(), delivered[0].time_ms()), ("", 900));
    assert_eq!((delivered[3].body.as_str(), delivered[3].time_ms()), ("from elsewhere", 500));
}

#[tokio::test(start_paused = true)]
async fn a_list_is_read_page_by_page() {
    let mut bench = Bench::new();
    let mut peer = bench.welcome().await;
    let client = bench.client.clone();
    let listing = tokio::spawn(async move {
        let first = client.my_channels(None).await.unwrap();
        let second = client.my_channels(first.next.clone()).await.unwrap();
        (first, second)
    });
    for (after, next) in [("", "AAEC"), ("AAEC", "")] {
        let (id, command) = peer.command().await;
        let Command::ListMemberships(list) = command else { panic!("{command:?}") };
        assert_eq!(list.after, after);
        let channel = proto::Channel { channel_name: "lobby".to_owned(), ..Default::default() };
        let list = proto::ChannelList { channels: vec![channel], next: next.to_owned() };
        peer.reply(id, Answer::Channels(list)).await;
    }
    let (first, second) = listing.await.unwrap();
    assert_eq!(&*first.items[0].settings.name, "lobby");
    assert_eq!((first.next.as_deref(), second.next), (Some("AAEC"), None));
}
