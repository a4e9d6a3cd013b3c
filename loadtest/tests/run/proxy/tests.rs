//! Each defect as a plain client sees it, through a real server.

use std::time::Duration;

use hubbub::{
    client::Accounts,
    wire::proto::{
        ClientEnvelope, History, Messages, Publish, ServerEnvelope, Subscribe,
        client_envelope::Command, history, publish, record, reply, server_envelope::Envelope,
        subscribe,
    },
};
use prost::Message as _;
use tokio::time::timeout;
use tokio_tungstenite::{
    MaybeTlsStream, connect_async,
    tungstenite::{ClientRequestBuilder, http::Uri},
};

use super::*;
use crate::harness::Server;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client who does nothing by itself.
struct Peer {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last_id: u32,
    /// Sequences and bodies, in the order in which they came.
    heard: Vec<(u64, String)>,
}

impl Peer {
    /// Makes an account and logs in, all through the proxy.
    async fn connect(proxy: &Proxy, name: &str) -> Self {
        let accounts = Accounts::new(proxy.url().parse().unwrap(), None);
        accounts.create(name, "a long password").await.unwrap();
        let token = accounts.token(name, "a long password").await.unwrap().access_token;
        let uri: Uri = format!("ws://{}/v1/ws", proxy.address).parse().unwrap();
        let request = ClientRequestBuilder::new(uri)
            .with_header("Authorization", format!("Bearer {token}"))
            .with_sub_protocol("hubbub.v1.proto");
        let (socket, response) = connect_async(request).await.unwrap();
        assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "hubbub.v1.proto");
        Self { socket, last_id: 0, heard: Vec::new() }
    }

    async fn ask(&mut self, command: Command) -> reply::Result {
        self.last_id += 1;
        let envelope = ClientEnvelope { id: self.last_id, command: Some(command) };
        self.socket.send(Frame::Binary(envelope.encode_to_vec().into())).await.unwrap();
        loop {
            if let Some(Envelope::Reply(reply)) = self.hear().await
                && reply.id == self.last_id
            {
                return reply.result.unwrap();
            }
        }
    }

    /// The next envelope; messages are noted.
    async fn hear(&mut self) -> Option<Envelope> {
        let frame = timeout(PATIENCE, self.socket.next()).await.expect("a frame comes in time");
        let Frame::Binary(bytes) = frame.unwrap().unwrap() else { return None };
        let envelope = ServerEnvelope::decode(bytes).unwrap().envelope.unwrap();
        if let Envelope::Messages(Messages { first_sequence, records, .. }) = &envelope {
            for (sequence, record) in (*first_sequence..).zip(records) {
                let Some(record::Content::Body(body)) = &record.content else { continue };
                self.heard.push((sequence, body.clone()));
            }
        }
        Some(envelope)
    }

    async fn subscribe(&mut self, channel: &str) {
        let channel = Some(subscribe::Channel::ChannelName(channel.to_owned()));
        let subscribed =
            self.ask(Command::Subscribe(Subscribe { channel, ..Default::default() })).await;
        assert!(matches!(subscribed, reply::Result::Subscribed(_)), "{subscribed:?}");
    }

    async fn create(&mut self, name: &str) {
        let channel_name = name.to_owned();
        let create = hubbub::wire::proto::CreateChannel { channel_name, ..Default::default() };
        let created = self.ask(Command::CreateChannel(create)).await;
        assert!(matches!(created, reply::Result::Channel(_)), "{created:?}");
    }

    /// Publishes, and answers under which sequence.
    async fn publish(&mut self, channel: &str, n: u64) -> u64 {
        let channel = Some(publish::Channel::ChannelName(channel.to_owned()));
        let publish = Publish { channel, client_message_id: n, body: n.to_string() };
        match self.ask(Command::Publish(publish)).await {
            reply::Result::Published(published) => published.sequence,
            other => panic!("{other:?} answers a publish"),
        }
    }

    /// Publishes so many, one after the other.
    async fn publish_all(&mut self, channel: &str, count: u64) {
        for n in 1..=count {
            self.publish(channel, n).await;
        }
    }

    async fn head_in_history(&mut self, channel: &str) -> u64 {
        let channel = Some(history::Channel::ChannelName(channel.to_owned()));
        match self.ask(Command::History(History { channel, from: None, limit: 1 })).await {
            reply::Result::History(page) => page.head_sequence,
            other => panic!("{other:?} answers a history"),
        }
    }

    fn sequences(&self) -> Vec<u64> {
        self.heard.iter().map(|(sequence, _)| *sequence).collect()
    }
}

/// A server, a proxy in front of it, and a client who is subscribed to the first of two channels.
async fn subscribed_through(defect: Defect) -> (Server, Proxy, Peer) {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address, defect).await;
    let mut peer = Peer::connect(&proxy, "ada").await;
    peer.create("first").await;
    peer.create("second").await;
    peer.subscribe("first").await;
    (server, proxy, peer)
}

#[tokio::test]
async fn an_honest_proxy_changes_nothing() {
    let (_server, proxy, mut peer) = subscribed_through(Defect::None).await;
    peer.publish_all("first", 600).await;
    assert_eq!(peer.sequences(), (1..=600).collect::<Vec<_>>());
    assert!(peer.heard.iter().all(|(sequence, body)| *body == sequence.to_string()));
    assert_eq!(proxy.deeds(), 0);
}

#[tokio::test]
async fn a_delivery_is_sent_twice() {
    let (_server, proxy, mut peer) = subscribed_through(Defect::Duplicate).await;
    peer.publish_all("first", 501).await;
    let expected: Vec<u64> = (1..=500).chain([500, 501]).collect();
    assert_eq!((peer.sequences(), proxy.deeds()), (expected, 1));
}

#[tokio::test]
async fn two_deliveries_are_exchanged() {
    let (_server, proxy, mut peer) = subscribed_through(Defect::Swap).await;
    peer.publish_all("first", 502).await;
    let expected: Vec<u64> = (1..=499).chain([501, 500, 502]).collect();
    assert_eq!((peer.sequences(), proxy.deeds()), (expected, 1));
}

#[tokio::test]
async fn a_message_is_told_before_the_server_has_it_and_only_once() {
    let (_server, proxy, mut peer) = subscribed_through(Defect::BeforeCommit).await;
    let mut reader = Peer::connect(&proxy, "bob").await;
    reader.subscribe("first").await;
    let mut witness = Peer::connect(&proxy, "eve").await;
    let publishing = async {
        peer.publish_all("first", 101).await;
        peer
    };
    let reading = async {
        while reader.heard.len() < 100 {
            reader.hear().await;
        }
        let head = witness.head_in_history("first").await;
        while reader.heard.len() < 101 {
            reader.hear().await;
        }
        head
    };
    let (peer, head) = tokio::join!(publishing, reading);
    assert_eq!(head, 99, "history lacks what the reader has");
    assert_eq!(witness.head_in_history("first").await, 101);
    for who in [&peer, &reader] {
        assert_eq!(who.sequences(), (1..=101).collect::<Vec<_>>());
        assert_eq!(who.heard[99].1, "100");
    }
    assert_eq!(proxy.deeds(), 1);
}

#[tokio::test]
async fn a_publish_is_acknowledged_and_forgotten() {
    let (_server, proxy, mut peer) = subscribed_through(Defect::Forget).await;
    peer.publish_all("first", 99).await;
    assert_eq!(peer.publish("first", 100).await, 100);
    assert_eq!(peer.head_in_history("first").await, 99);
    assert_eq!(peer.publish("first", 101).await, 100, "the place was not taken");
    assert_eq!((peer.heard.len(), proxy.deeds()), (100, 1));
}

#[tokio::test]
async fn messages_are_leaked_to_somebody_who_is_elsewhere() {
    let (_server, proxy, mut peer) = subscribed_through(Defect::Leak).await;
    let mut stranger = Peer::connect(&proxy, "bob").await;
    stranger.subscribe("second").await;
    peer.publish_all("first", 501).await;
    stranger.hear().await;
    assert_eq!((stranger.sequences(), proxy.deeds()), (vec![500], 1));
    assert_eq!(peer.heard.len(), 501);
}

/// A real server would be asked for ten thousand messages one by one; runs tell the same.
#[test]
fn one_delivery_in_ten_thousand_is_left_out_of_its_run() {
    let mut meddler = Meddler::new(Defect::Drop);
    let (outbox, _waiting) = mpsc::channel(1);
    let client = meddler.connected(outbox);
    let mut came = Vec::new();
    for first_sequence in (1..=20_000).step_by(8) {
        let run = Messages {
            channel_id: 1,
            first_sequence,
            timestamp_ms: 1,
            records: vec![Default::default(); 8],
        };
        let envelope = ServerEnvelope { envelope: Some(Envelope::Messages(run)) };
        for frame in meddler.server_sends(client, envelope.encode_to_vec().into()) {
            let Frame::Binary(bytes) = frame else { panic!("{frame:?}") };
            match ServerEnvelope::decode(bytes).unwrap().envelope {
                Some(Envelope::Messages(run)) => {
                    came.extend((run.first_sequence..).take(run.records.len()));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let expected: Vec<u64> = (1..=20_000).filter(|n| n % 10_000 != 0).collect();
    assert_eq!((came, meddler.deeds), (expected, 2));
}
