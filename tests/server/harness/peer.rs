//! A client that hides nothing: it hears every frame in the order in which it came, and does
//! nothing by itself, not even answer a ping.

use std::collections::VecDeque;

use bytes::Bytes;
use flate2::{Decompress, FlushDecompress};
use hubbub::{
    engine::Engine,
    wire::{
        Encoding,
        code::ErrorCode,
        proto::{
            self, ClientEnvelope, Position, ServerEnvelope, client_envelope::Command, reply,
            server_envelope::Envelope,
        },
    },
};
use prost::Message as _;

use super::{
    TestServer,
    socket::{BINARY, CLOSE, Frame, PING, Socket, TEXT, handshake, masked, with_header},
};

const PONG: u8 = 0xa;

/// One connection.
#[derive(Debug)]
pub(crate) struct Peer {
    /// For bytes of the test's own.
    pub(crate) socket: Socket,
    encoding: Encoding,
    last_id: u32,
    /// Compressed frames that came so far. Whoever did not agree to them must get none.
    pub(crate) deflated_frames: u32,
    takes_deflated: bool,
    /// What came while a reply was waited for.
    unheard: VecDeque<Heard>,
}

/// What came from the server.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Heard {
    /// Messages of a channel, one after the other.
    Messages(Vec<Message>),
    /// Any other envelope.
    Envelope(Envelope),
    /// A ping.
    Ping,
    /// A pong.
    Pong(Bytes),
    /// A close frame.
    Close(u16),
    /// The end of the connection.
    End,
}

/// A message as it was delivered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Message {
    pub(crate) channel: u32,
    pub(crate) sequence: u64,
    pub(crate) timestamp_ms: u64,
    pub(crate) user: u32,
    pub(crate) body: String,
}

/// A refusal.
pub(crate) type Refused = proto::Error;

impl Peer {
    /// Connects with the encoding that programs prefer, as this user.
    pub(crate) async fn login<E: Engine>(server: &TestServer<E>, name: &str) -> Self {
        Self::login_with(server, name, Encoding::Proto).await
    }

    /// Connects as this user.
    pub(crate) async fn login_with<E: Engine>(
        server: &TestServer<E>,
        name: &str,
        encoding: Encoding,
    ) -> Self {
        let token = server.token(name);
        let socket = Socket::connect(server.address()).await;
        let mut peer = Self::upgrade(server, socket, encoding, Some(&token)).await;
        peer.welcome().await;
        peer
    }

    /// Connects as this user, with a receive buffer that is soon full.
    pub(crate) async fn login_narrow<E: Engine>(server: &TestServer<E>, name: &str) -> Self {
        let token = server.token(name);
        let socket = Socket::connect_narrow(server.address()).await;
        let mut peer = Self::upgrade(server, socket, Encoding::Proto, Some(&token)).await;
        peer.welcome().await;
        peer
    }

    /// Logs in as this user on a socket that is connected already.
    pub(crate) async fn login_over<E: Engine>(
        server: &TestServer<E>,
        socket: Socket,
        name: &str,
    ) -> Self {
        let token = server.token(name);
        let mut peer = Self::upgrade(server, socket, Encoding::Proto, Some(&token)).await;
        peer.welcome().await;
        peer
    }

    /// Connects as nobody yet.
    pub(crate) async fn anonymous<E: Engine>(server: &TestServer<E>, encoding: Encoding) -> Self {
        let socket = Socket::connect(server.address()).await;
        Self::upgrade(server, socket, encoding, None).await
    }

    /// Connects with a token that may be no good.
    pub(crate) async fn with_token<E: Engine>(server: &TestServer<E>, token: &str) -> Self {
        let socket = Socket::connect(server.address()).await;
        Self::upgrade(server, socket, Encoding::Proto, Some(token)).await
    }

    async fn upgrade<E: Engine>(
        server: &TestServer<E>,
        mut socket: Socket,
        encoding: Encoding,
        token: Option<&str>,
    ) -> Self {
        let request = handshake(server.address(), &[encoding.subprotocol()], token);
        socket.write(request.as_bytes()).await;
        let (status, head) = socket.head().await;
        assert_eq!(status, 101, "{head}");
        Self::over(socket, encoding)
    }

    /// Connects as this user, and offers to take compressed frames. The server's answer to that.
    pub(crate) async fn login_offering<E: Engine>(
        server: &TestServer<E>,
        name: &str,
        encoding: Encoding,
        offer: &str,
    ) -> (Self, Option<String>) {
        let token = server.token(name);
        let request = handshake(server.address(), &[encoding.subprotocol()], Some(&token));
        let line = format!("Sec-WebSocket-Extensions: {offer}");
        let mut socket = Socket::connect(server.address()).await;
        socket.write(with_header(&request, &line).as_bytes()).await;
        let (status, head) = socket.head().await;
        assert_eq!(status, 101, "{head}");
        let answer = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("sec-websocket-extensions").then(|| value.to_owned())
        });
        let mut peer = Self { takes_deflated: answer.is_some(), ..Self::over(socket, encoding) };
        peer.welcome().await;
        (peer, answer)
    }

    /// A client on a socket whose handshake is done.
    pub(crate) const fn over(socket: Socket, encoding: Encoding) -> Self {
        Self {
            socket,
            encoding,
            last_id: 0,
            deflated_frames: 0,
            takes_deflated: false,
            unheard: VecDeque::new(),
        }
    }

    /// The welcome, which must be the next.
    pub(crate) async fn welcome(&mut self) -> proto::Welcome {
        match self.hear().await {
            Heard::Envelope(Envelope::Welcome(welcome)) => welcome,
            other => panic!("{other:?} instead of a welcome"),
        }
    }

    /// Sends a command, and says under which id.
    pub(crate) async fn send(&mut self, command: Command) -> u32 {
        self.last_id += 1;
        let frame = self.encode(self.last_id, command);
        self.socket.write(&frame).await;
        self.last_id
    }

    /// The same towards a server that may have closed: the reading side tells.
    pub(crate) async fn send_or_end(&mut self, command: Command) -> u32 {
        self.last_id += 1;
        let frame = self.encode(self.last_id, command);
        self.socket.try_write(&frame).await;
        self.last_id
    }

    /// A command as the bytes of a frame.
    pub(crate) fn encode(&self, id: u32, command: Command) -> Vec<u8> {
        let envelope = ClientEnvelope { id, command: Some(command) };
        match self.encoding {
            Encoding::Proto => masked(BINARY, &envelope.encode_to_vec()),
            Encoding::Json => masked(TEXT, &serde_json::to_vec(&envelope).unwrap()),
        }
    }

    /// Asks for a pong, and waits for it: what the shard of this connection had for it has come.
    pub(crate) async fn catch_up(&mut self) -> Vec<Heard> {
        self.socket.write(&masked(PING, b"?")).await;
        let mut before = Vec::new();
        loop {
            match self.hear().await {
                Heard::Pong(payload) if payload == b"?"[..] => return before,
                other => before.push(other),
            }
        }
    }

    /// The next frame.
    pub(crate) async fn hear(&mut self) -> Heard {
        match self.unheard.pop_front() {
            Some(heard) => heard,
            None => self.hear_new().await,
        }
    }

    async fn hear_new(&mut self) -> Heard {
        match self.socket.frame().await {
            Some(frame) if frame.is_deflated => {
                assert!(self.takes_deflated, "compressed, but that was not agreed on");
                self.deflated_frames += 1;
                let payload = inflate(&frame.payload);
                self.decode(&Frame { payload, ..frame })
            }
            Some(frame) => self.decode(&frame),
            None => Heard::End,
        }
    }

    fn decode(&self, frame: &Frame) -> Heard {
        let envelope = match (frame.opcode, self.encoding) {
            (BINARY, Encoding::Proto) => ServerEnvelope::decode(frame.payload.clone()).unwrap(),
            (TEXT, Encoding::Json) => serde_json::from_slice(&frame.payload).unwrap(),
            (PING, _) => return Heard::Ping,
            (PONG, _) => return Heard::Pong(frame.payload.clone()),
            (CLOSE, _) => {
                let code = frame.payload.first_chunk().expect("our closes have a code");
                return Heard::Close(u16::from_be_bytes(*code));
            }
            _ => panic!("{frame:?} on a connection of {:?}", self.encoding),
        };
        match envelope.envelope.expect("an envelope of this version") {
            Envelope::Messages(messages) => Heard::Messages(flatten(messages)),
            other => Heard::Envelope(other),
        }
    }

    /// The reply to the command with this id. What comes before it is kept.
    pub(crate) async fn reply(&mut self, id: u32) -> Result<reply::Result, Refused> {
        let at = match self.unheard.iter().position(|heard| is_reply_to(heard, id)) {
            Some(at) => at,
            None => loop {
                let heard = self.hear_new().await;
                assert_ne!(heard, Heard::End, "the connection ended before reply {id}");
                self.unheard.push_back(heard);
                if self.unheard.back().is_some_and(|heard| is_reply_to(heard, id)) {
                    break self.unheard.len() - 1;
                }
            },
        };
        match self.unheard.remove(at) {
            Some(Heard::Envelope(Envelope::Reply(reply))) => match reply.result {
                Some(reply::Result::Error(error)) => Err(error),
                Some(result) => Ok(result),
                None => panic!("reply {id} says nothing"),
            },
            other => panic!("{other:?} is no reply"),
        }
    }

    /// Sends a command and waits for its reply.
    pub(crate) async fn ask(&mut self, command: Command) -> Result<reply::Result, Refused> {
        let id = self.send(command).await;
        self.reply(id).await
    }

    /// Publishes, and waits until it is durable.
    pub(crate) async fn publish(
        &mut self,
        channel: &str,
        body: &str,
    ) -> Result<proto::Published, Refused> {
        self.publish_as(channel, body, 0).await
    }

    /// Publishes under a number of the client's own.
    pub(crate) async fn publish_as(
        &mut self,
        channel: &str,
        body: &str,
        client_message_id: u64,
    ) -> Result<proto::Published, Refused> {
        let id = self.send(publish(channel, body, client_message_id)).await;
        self.published(id).await
    }

    /// The reply to a publish.
    pub(crate) async fn published(&mut self, id: u32) -> Result<proto::Published, Refused> {
        match self.reply(id).await? {
            reply::Result::Published(published) => Ok(published),
            other => panic!("{other:?} answers a publish"),
        }
    }

    /// The same, or none if the connection is closed without it.
    pub(crate) async fn published_or_end(
        &mut self,
        id: u32,
    ) -> Option<Result<proto::Published, Refused>> {
        loop {
            let heard = self.hear_new().await;
            let ends = matches!(heard, Heard::Close(_) | Heard::End);
            let answers = is_reply_to(&heard, id);
            self.unheard.push_back(heard);
            if answers {
                return Some(self.published(id).await);
            }
            if ends {
                return None;
            }
        }
    }

    /// Publishes many, one behind the other, without waiting in between.
    pub(crate) async fn publish_all(
        &mut self,
        channel: &str,
        bodies: impl IntoIterator<Item = String>,
    ) -> Vec<proto::Published> {
        let mut ids = Vec::new();
        for body in bodies {
            ids.push(self.send(publish(channel, &body, 0)).await);
        }
        let mut published = Vec::new();
        for id in ids {
            published.push(self.published(id).await.unwrap());
        }
        published
    }

    /// Subscribes.
    pub(crate) async fn subscribe(
        &mut self,
        channel: &str,
        since: Option<Position>,
    ) -> Result<proto::Subscribed, Refused> {
        match self.ask(subscribe(channel, since)).await? {
            reply::Result::Subscribed(subscribed) => Ok(subscribed),
            other => panic!("{other:?} answers a subscribe"),
        }
    }

    /// Reads a page of history.
    pub(crate) async fn history(
        &mut self,
        channel: &str,
        from: Option<proto::history::From>,
        limit: u32,
    ) -> Result<(Vec<Message>, proto::HistoryPage), Refused> {
        match self.ask(history(channel, from, limit)).await? {
            reply::Result::History(page) => {
                Ok((page.runs.iter().cloned().flat_map(flatten).collect(), page))
            }
            other => panic!("{other:?} answers a history"),
        }
    }

    /// The messages that come next: so many, and nothing else between them.
    pub(crate) async fn messages(&mut self, count: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        while messages.len() < count {
            match self.hear().await {
                Heard::Messages(more) => messages.extend(more),
                other => panic!("{other:?} after {} of {count} messages", messages.len()),
            }
        }
        assert_eq!(messages.len(), count, "more messages than were published");
        messages
    }

    /// Everything to the end of the connection.
    pub(crate) async fn rest(&mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        loop {
            match self.hear().await {
                Heard::End => return heard,
                other => heard.push(other),
            }
        }
    }
}

/// What a compressed message stands for, by itself.
fn inflate(payload: &[u8]) -> Bytes {
    let payload = [payload, &[0x00, 0x00, 0xff, 0xff]].concat();
    let mut inflated = Vec::with_capacity(1024 * 1024);
    let mut state = Decompress::new(false);
    state.decompress_vec(&payload, &mut inflated, FlushDecompress::Sync).unwrap();
    assert_eq!(state.total_in(), payload.len() as u64, "all of it");
    inflated.into()
}

fn is_reply_to(heard: &Heard, id: u32) -> bool {
    matches!(heard, Heard::Envelope(Envelope::Reply(reply)) if reply.id == id)
}

fn flatten(messages: proto::Messages) -> Vec<Message> {
    let proto::Messages { channel_id, first_sequence, timestamp_ms, records } = messages;
    let numbered = (first_sequence..).zip(records);
    numbered
        .map(|(sequence, record)| Message {
            channel: channel_id,
            sequence,
            timestamp_ms,
            user: record.user_id,
            body: match record.content {
                Some(proto::record::Content::Body(body)) => body,
                // A change of members or settings is none of its user's words.
                content => format!("{content:?}"),
            },
        })
        .collect()
}

/// The command to publish; 0 is no number.
pub(crate) fn publish(channel: &str, body: &str, client_message_id: u64) -> Command {
    Command::Publish(proto::Publish {
        channel: Some(proto::publish::Channel::ChannelName(channel.to_owned())),
        client_message_id,
        body: body.to_owned(),
    })
}

/// The command to subscribe.
pub(crate) fn subscribe(channel: &str, since: Option<Position>) -> Command {
    Command::Subscribe(proto::Subscribe {
        channel: Some(proto::subscribe::Channel::ChannelName(channel.to_owned())),
        since,
        ephemeral: false,
    })
}

/// The command to unsubscribe.
pub(crate) const fn unsubscribe(channel_id: u32) -> Command {
    Command::Unsubscribe(proto::Unsubscribe { channel_id })
}

/// The command to read a page of history; a limit of 0 leaves it to the server.
pub(crate) fn history(channel: &str, from: Option<proto::history::From>, limit: u32) -> Command {
    Command::History(proto::History {
        channel: Some(proto::history::Channel::ChannelName(channel.to_owned())),
        from,
        limit,
    })
}

/// The command to log in, or to renew the login.
pub(crate) fn authenticate(token: &str) -> Command {
    Command::Authenticate(proto::Authenticate { token: token.to_owned() })
}

/// A place in a channel.
pub(crate) const fn position(epoch: u32, sequence: u64) -> Option<Position> {
    Some(Position { epoch, sequence })
}

/// The code of a refusal.
pub(crate) fn code_of<T: std::fmt::Debug>(outcome: Result<T, Refused>) -> ErrorCode {
    let refused = outcome.expect_err("this is to be refused");
    ErrorCode::from_number(u16::try_from(refused.code).unwrap()).expect("a code of ours")
}
