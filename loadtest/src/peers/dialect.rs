//! How each contender wants to be spoken to: upgrade, subscribe, publish, receive. Hot. Pure.
//!
//! All speak WebSocket with binary frames. What is in a frame differs; a message's body never does.

use anyhow::{Context as _, Result, bail, ensure};
use hubbub::wire::proto::{
    self, client_envelope::Command, publish, reply, server_envelope::Envelope, subscribe,
};
use prost::Message as _;

use super::mark::{self, Mark};
use crate::swarm::{
    encoding::Encoding,
    frame::{self, Opcode},
    http,
    scan::{Scanned, scan},
};

/// The one channel, or subject.
const CHANNEL: &str = "chat";
/// Nobody looks at it.
const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAA==";
/// Any but zero, so that there is something to unmask.
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
/// Ids of the commands that a connection is subscribed with. Publishes have larger ones.
const CREATE: u32 = 1;
const SUBSCRIBE: u32 = 2;

/// What is in a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dialect {
    /// A body as it is.
    Raw,
    /// The reference's protobuf: user, channel, body, timestamp.
    Chat,
    /// NATS's lines, in a stream of which frames are pieces.
    Nats,
    /// `hubbub.v1.proto`.
    Hubbub,
}

/// What came of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Joined {
    NotYet,
    /// The connection gets everything from now on.
    Yes,
}

/// What all connections to a contender know.
#[derive(Debug)]
pub(super) struct Speaker {
    pub(super) dialect: Dialect,
    host: String,
    /// For [`Dialect::Hubbub`], one of each user.
    tokens: Vec<String>,
    /// As hubbub calls the channel; known once the first connection is subscribed.
    channel_id: u32,
    body_bytes: usize,
}

impl Speaker {
    pub(super) fn new(
        dialect: Dialect,
        host: String,
        tokens: Vec<String>,
        body_bytes: usize,
    ) -> Self {
        Self { dialect, host, tokens, channel_id: 0, body_bytes }
    }

    /// Whether all receivers get all messages in one order, rather than those of each author only.
    pub(super) fn has_one_order(&self) -> bool {
        self.dialect != Dialect::Nats
    }

    /// Whether nobody else may join before the first user has.
    pub(super) fn first_joins_alone(&self) -> bool {
        self.dialect == Dialect::Hubbub
    }

    /// Appends the request to upgrade.
    pub(super) fn upgrade(&self, out: &mut Vec<u8>, user: usize) -> Result<()> {
        let Self { dialect, host, tokens, .. } = self;
        if *dialect == Dialect::Hubbub {
            let token = tokens.get(user).context("a user without a token")?;
            http::write_upgrade(out, host, KEY, token, Encoding::Proto, false);
            return Ok(());
        }
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        );
        out.extend_from_slice(request.as_bytes());
        Ok(())
    }

    /// The connection has been upgraded.
    pub(super) fn upgraded(&self) -> Joined {
        match self.dialect {
            Dialect::Raw | Dialect::Chat => Joined::Yes,
            Dialect::Nats | Dialect::Hubbub => Joined::NotYet,
        }
    }

    /// Takes what came before the connection was subscribed, and appends what is to be said to it.
    pub(super) fn join(
        &mut self,
        out: &mut Vec<u8>,
        user: usize,
        payload: &[u8],
    ) -> Result<Joined> {
        match self.dialect {
            Dialect::Raw | Dialect::Chat => bail!("a message before anybody sent one"),
            Dialect::Nats if payload.starts_with(b"INFO ") => {
                let hello = format!(
                    "CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\nSUB {CHANNEL} 1\r\nPING\r\n"
                );
                binary(out, |out| out.extend_from_slice(hello.as_bytes()));
                Ok(Joined::NotYet)
            }
            Dialect::Nats if payload == b"PONG\r\n" => Ok(Joined::Yes),
            Dialect::Nats => bail!("NATS said {:?}", String::from_utf8_lossy(payload)),
            Dialect::Hubbub => self.join_hubbub(out, user, payload),
        }
    }

    fn join_hubbub(&mut self, out: &mut Vec<u8>, user: usize, payload: &[u8]) -> Result<Joined> {
        let Scanned::Other(envelope) = scan(payload)? else {
            // Others are subscribed already, and their messages are not for this one yet.
            bail!("messages before the subscription")
        };
        let subscribe = || {
            let channel = Some(subscribe::Channel::ChannelName(CHANNEL.to_owned()));
            (SUBSCRIBE, Command::Subscribe(proto::Subscribe { channel, ..Default::default() }))
        };
        let (id, command) = match envelope.envelope {
            Some(Envelope::Welcome(_)) if user == 0 => {
                let channel_name = CHANNEL.to_owned();
                (
                    CREATE,
                    Command::CreateChannel(proto::CreateChannel {
                        channel_name,
                        ..Default::default()
                    }),
                )
            }
            Some(Envelope::Welcome(_)) => subscribe(),
            Some(Envelope::Reply(reply)) => match (reply.id, reply.result) {
                (CREATE, Some(reply::Result::Channel(_))) => subscribe(),
                (SUBSCRIBE, Some(reply::Result::Subscribed(subscribed))) => {
                    self.channel_id = subscribed.channel_id;
                    return Ok(Joined::Yes);
                }
                (_, other) => bail!("hubbub replied {other:?}"),
            },
            other => bail!("hubbub said {other:?}"),
        };
        let envelope = proto::ClientEnvelope { id, command: Some(command) };
        binary(out, |out| envelope.encode(out).expect(INTO_MEMORY));
        Ok(Joined::NotYet)
    }

    /// Appends a message of this user.
    pub(super) fn publish(&self, out: &mut Vec<u8>, user: usize, mark: Mark) {
        let bytes = self.body_bytes;
        match self.dialect {
            Dialect::Raw => binary(out, |out| mark::write(out, mark, bytes)),
            Dialect::Nats => {
                let whole = bytes.max(mark::MARK_BYTES);
                binary(out, |out| {
                    out.extend_from_slice(format!("PUB {CHANNEL} {whole}\r\n").as_bytes());
                    mark::write(out, mark, bytes);
                    out.extend_from_slice(b"\r\n");
                });
            }
            Dialect::Chat => {
                let message = Chat {
                    user: format!("user-{user}"),
                    channel: CHANNEL.to_owned(),
                    body: body(mark, bytes),
                    timestamp: 0.0,
                };
                binary(out, |out| message.encode(out).expect(INTO_MEMORY));
            }
            Dialect::Hubbub => {
                let publish = proto::Publish {
                    channel: Some(publish::Channel::ChannelId(self.channel_id)),
                    client_message_id: u64::from(mark.number) + 1,
                    body: body(mark, bytes),
                };
                // An id is of one connection; a few have been used up by subscribing.
                let id = mark.number.wrapping_add(SUBSCRIBE + 1).max(SUBSCRIBE + 1);
                let envelope =
                    proto::ClientEnvelope { id, command: Some(Command::Publish(publish)) };
                binary(out, |out| envelope.encode(out).expect(INTO_MEMORY));
            }
        }
    }

    /// Tells the bodies in a frame of a subscribed connection. `unfinished` is the connection's own:
    /// what a frame has left over in a dialect whose messages may span frames. Appends what has to
    /// be answered.
    #[inline]
    pub(super) fn receive(
        &self,
        out: &mut Vec<u8>,
        unfinished: &mut Vec<u8>,
        payload: &[u8],
        mut deliver: impl FnMut(&[u8]),
    ) -> Result<()> {
        match self.dialect {
            Dialect::Raw => deliver(payload),
            Dialect::Chat => deliver(chat_body(payload).context("no chat message")?),
            Dialect::Hubbub => match scan(payload)? {
                Scanned::Messages(messages) => {
                    for record in messages {
                        deliver(record?.body);
                    }
                }
                Scanned::Other(envelope) => check_reply(envelope)?,
            },
            Dialect::Nats if unfinished.is_empty() => {
                let used = nats_lines(out, payload, &mut deliver)?;
                unfinished.extend_from_slice(&payload[used..]);
            }
            Dialect::Nats => {
                unfinished.extend_from_slice(payload);
                let used = nats_lines(out, unfinished, &mut deliver)?;
                unfinished.drain(..used);
            }
        }
        Ok(())
    }
}

const INTO_MEMORY: &str = "a vector takes every message";

/// Appends the answer to a ping of the WebSocket.
pub(super) fn pong(out: &mut Vec<u8>, payload: &[u8]) {
    frame::write_frame(out, Opcode::Pong, MASK, |out| out.extend_from_slice(payload));
}

fn binary(out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    frame::write_frame(out, Opcode::Binary, MASK, payload);
}

fn body(mark: Mark, bytes: usize) -> String {
    let mut body = Vec::with_capacity(bytes);
    mark::write(&mut body, mark, bytes);
    String::from_utf8(body).expect("digits and filler are text")
}

/// The reference's message, as `reference.py` declares it.
#[derive(Clone, PartialEq, prost::Message)]
struct Chat {
    #[prost(string, tag = "1")]
    user: String,
    #[prost(string, tag = "2")]
    channel: String,
    #[prost(string, tag = "3")]
    body: String,
    #[prost(double, tag = "4")]
    timestamp: f64,
}

/// The body of the reference's message. Python writes the fields in order, and each string of ours is
/// short enough for one byte of length, or two.
fn chat_body(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let (&key, after) = rest.split_first()?;
        let (&low, mut after) = after.split_first()?;
        let mut length = usize::from(low & 0x7F);
        if low & 0x80 != 0 {
            let (&high, more) = after.split_first()?;
            length |= usize::from(high & 0x7F) << 7;
            after = more;
        }
        let (value, after) = after.split_at_checked(length)?;
        match key {
            0x1A => return Some(value),
            0x0A | 0x12 => rest = after,
            _ => return None,
        }
    }
}

/// A publish must be answered with its place. What else there is says that somebody is left behind.
#[cold]
fn check_reply(envelope: proto::ServerEnvelope) -> Result<()> {
    match envelope.envelope {
        Some(Envelope::Reply(proto::Reply {
            result: Some(reply::Result::Published(_)), ..
        })) => Ok(()),
        other => bail!("hubbub said {other:?}"),
    }
}

/// Takes all whole messages from the beginning of NATS's stream, and tells how many bytes they were.
fn nats_lines(out: &mut Vec<u8>, stream: &[u8], deliver: &mut impl FnMut(&[u8])) -> Result<usize> {
    let mut used = 0;
    while let Some(end) = stream[used..].windows(2).position(|it| it == b"\r\n") {
        let line = &stream[used..used + end];
        let after = used + end + 2;
        // MSG subject sid length, and then the payload on a line of its own.
        if let Some(message) = line.strip_prefix(b"MSG ") {
            let length = message.rsplit(|&it| it == b' ').next().and_then(decimal);
            let length = length.context("a message of NATS without a length")?;
            let Some(payload) = stream.get(after..after + length + 2) else { break };
            let (body, line_end) = payload.split_at(length);
            ensure!(line_end == b"\r\n", "a message of NATS is longer than it says");
            deliver(body);
            used = after + length + 2;
            continue;
        }
        match line {
            b"PING" => binary(out, |out| out.extend_from_slice(b"PONG\r\n")),
            b"PONG" | b"+OK" => {}
            info if info.starts_with(b"INFO ") => {}
            other => bail!("NATS said {:?}", String::from_utf8_lossy(other)),
        }
        used = after;
    }
    Ok(used)
}

fn decimal(digits: &[u8]) -> Option<usize> {
    str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proto::{record::Content, server_envelope};

    use super::*;
    use crate::swarm::frame::next_frame;

    const MARK: Mark = Mark { number: 0xBEEF, due_us: 1_000 };
    const BODY: &[u8] = b"0000beef000003e8xxxx";

    fn speaker(dialect: Dialect) -> Speaker {
        let tokens = vec!["a.b.c".to_owned(), "d.e.f".to_owned()];
        Speaker { channel_id: 7, ..Speaker::new(dialect, "127.0.0.1:1".to_owned(), tokens, 20) }
    }

    /// The payload of the one frame that a client has written.
    fn payload(sent: &[u8]) -> Vec<u8> {
        assert_eq!((sent[0], sent[1] & 0x80), (0x82, 0x80), "a final binary frame, masked");
        let length = usize::from(sent[1] & 0x7F);
        assert!(length < 126 && sent.len() == 6 + length, "one short frame");
        sent[6..].iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
    }

    fn published(dialect: Dialect) -> Vec<u8> {
        let mut out = Vec::new();
        speaker(dialect).publish(&mut out, 5, MARK);
        payload(&out)
    }

    /// What a subscribed connection makes of these payloads: bodies, and what it answers.
    fn received(dialect: Dialect, payloads: &[&[u8]]) -> Result<(Vec<Vec<u8>>, Vec<u8>)> {
        let (mut out, mut unfinished, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
        for payload in payloads {
            let deliver = |body: &[u8]| bodies.push(body.to_vec());
            speaker(dialect).receive(&mut out, &mut unfinished, payload, deliver)?;
        }
        assert!(unfinished.is_empty(), "{unfinished:?}");
        Ok((bodies, out))
    }

    fn join(speaker: &mut Speaker, user: usize, payload: &[u8]) -> Result<(Joined, Vec<u8>)> {
        let mut out = Vec::new();
        let joined = speaker.join(&mut out, user, payload)?;
        Ok((joined, if out.is_empty() { out } else { super::tests::payload(&out) }))
    }

    fn envelope(envelope: Envelope) -> Vec<u8> {
        proto::ServerEnvelope { envelope: Some(envelope) }.encode_to_vec()
    }

    #[test]
    fn a_publish_is_what_each_contender_reads() {
        assert_eq!(published(Dialect::Raw), BODY);
        assert_eq!(published(Dialect::Nats), b"PUB chat 20\r\n0000beef000003e8xxxx\r\n");
        // Fields 1, 2 and 3, each with its length; a timestamp of zero is left out.
        let chat = [b"\x0a\x06user-5\x12\x04chat\x1a\x14", BODY].concat();
        assert_eq!(published(Dialect::Chat), chat);

        let envelope = proto::ClientEnvelope::decode(&*published(Dialect::Hubbub)).unwrap();
        let Some(Command::Publish(publish)) = envelope.command else { panic!("{envelope:?}") };
        assert_eq!(publish.channel, Some(publish::Channel::ChannelId(7)));
        assert_eq!(publish.body.as_bytes(), BODY);
        assert_eq!((envelope.id, publish.client_message_id), (0xBEEF + 3, 0xBEEF + 1));
    }

    #[test]
    fn what_is_received_is_the_body_that_was_published() {
        let of = |dialect, payload: &[u8]| received(dialect, &[payload]).unwrap().0;
        assert_eq!(of(Dialect::Raw, BODY), [BODY]);
        // With the timestamp that the reference sets.
        let chat = [&published(Dialect::Chat)[..], b"\x21\0\0\0\0\0\0\xf0\x3f"].concat();
        assert_eq!(of(Dialect::Chat, &chat), [BODY]);
        assert!(received(Dialect::Chat, &[b"\x1a\x7f"]).is_err());

        let record = |body: &[u8]| proto::Record {
            user_id: 1,
            client_message_id: 2,
            content: Some(Content::Body(String::from_utf8(body.to_vec()).unwrap())),
            written_at_ms: 0,
        };
        let records = vec![record(BODY), record(b"another")];
        let messages =
            proto::Messages { channel_id: 7, first_sequence: 1, timestamp_ms: 9, records };
        let messages = envelope(server_envelope::Envelope::Messages(messages));
        assert_eq!(of(Dialect::Hubbub, &messages), [BODY, b"another"]);
    }

    #[test]
    fn a_body_of_more_than_127_bytes_is_found_in_the_reference_message() {
        let message = Chat {
            user: "user-5".to_owned(),
            channel: CHANNEL.to_owned(),
            body: "y".repeat(1_000),
            timestamp: 1.0,
        };
        assert_eq!(chat_body(&message.encode_to_vec()), Some("y".repeat(1_000).as_bytes()));
    }

    #[test]
    fn lines_of_nats_may_be_cut_anywhere() {
        let stream = b"MSG chat 1 5\r\nhe\r\no\r\nPING\r\nMSG chat 1 3\r\nyou\r\n+OK\r\n";
        for at in 0..stream.len() {
            for end in at..stream.len() {
                let pieces = [&stream[..at], &stream[at..end], &stream[end..]];
                let (bodies, out) = received(Dialect::Nats, &pieces).unwrap();
                assert_eq!(bodies, [&b"he\r\no"[..], b"you"], "{at} {end}");
                assert_eq!(payload(&out), b"PONG\r\n");
            }
        }
    }

    #[test]
    fn what_a_contender_refuses_ends_the_measure() {
        let error = received(Dialect::Nats, &[b"-ERR 'Slow Consumer'\r\n"]).unwrap_err();
        assert!(error.to_string().contains("Slow Consumer"), "{error}");
        let busy = proto::Error { code: proto::error::Code::Busy.into(), ..Default::default() };
        let reply =
            |result| envelope(Envelope::Reply(proto::Reply { id: 9, result: Some(result) }));
        assert!(received(Dialect::Hubbub, &[&reply(reply::Result::Error(busy))]).is_err());
        let published = reply(reply::Result::Published(proto::Published::default()));
        assert!(received(Dialect::Hubbub, &[&published]).unwrap().0.is_empty());
    }

    #[test]
    fn a_connection_to_nats_is_subscribed_when_its_ping_is_answered() {
        let mut nats = speaker(Dialect::Nats);
        assert_eq!(nats.upgraded(), Joined::NotYet);
        let (joined, said) = join(&mut nats, 3, b"INFO {\"server_id\":\"x\"}\r\n").unwrap();
        let hello = b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB chat 1\r\nPING\r\n";
        assert_eq!((joined, &said[..]), (Joined::NotYet, &hello[..]));
        assert_eq!(join(&mut nats, 3, b"PONG\r\n").unwrap().0, Joined::Yes);
        assert!(join(&mut nats, 3, b"-ERR 'no'\r\n").is_err());
    }

    #[test]
    fn the_first_user_of_hubbub_makes_the_channel_and_all_subscribe() {
        let mut hubbub = speaker(Dialect::Hubbub);
        let command = |said: Vec<u8>| proto::ClientEnvelope::decode(&*said).unwrap().command;
        let welcome = envelope(Envelope::Welcome(proto::Welcome::default()));
        let reply =
            |id, result| envelope(Envelope::Reply(proto::Reply { id, result: Some(result) }));
        let (_, said) = join(&mut hubbub, 0, &welcome).unwrap();
        assert!(matches!(command(said), Some(Command::CreateChannel(_))));
        let channel = reply(CREATE, reply::Result::Channel(proto::Channel::default()));
        let (_, said) = join(&mut hubbub, 0, &channel).unwrap();
        assert!(matches!(command(said), Some(Command::Subscribe(_))));
        let subscribed = proto::Subscribed { channel_id: 41, ..Default::default() };
        let subscribed = reply(SUBSCRIBE, reply::Result::Subscribed(subscribed));
        assert_eq!(join(&mut hubbub, 0, &subscribed).unwrap().0, Joined::Yes);
        assert_eq!(hubbub.channel_id, 41);

        let (_, said) = join(&mut hubbub, 1, &welcome).unwrap();
        assert!(matches!(command(said), Some(Command::Subscribe(_))));
        let refused = reply(SUBSCRIBE, reply::Result::Error(proto::Error::default()));
        assert!(join(&mut hubbub, 1, &refused).is_err());
    }

    #[test]
    fn an_upgrade_has_the_token_only_where_one_is_wanted() {
        let upgrade = |dialect, user| {
            let mut out = Vec::new();
            speaker(dialect).upgrade(&mut out, user).map(|()| String::from_utf8(out).unwrap())
        };
        assert!(upgrade(Dialect::Hubbub, 1).unwrap().contains("Bearer d.e.f\r\n"));
        assert!(upgrade(Dialect::Hubbub, 2).is_err(), "nobody is without a token");
        let raw = upgrade(Dialect::Raw, 2).unwrap();
        assert!(raw.starts_with("GET / HTTP/1.1\r\nHost: 127.0.0.1:1\r\n"), "{raw}");
        assert!(!raw.contains("Bearer") && raw.ends_with("\r\n\r\n"), "{raw}");
    }

    #[test]
    fn a_pong_carries_what_the_ping_said() {
        let mut out = Vec::new();
        pong(&mut out, b"1");
        assert_eq!(out, [0x8A, 0x81, MASK[0], MASK[1], MASK[2], MASK[3], b'1' ^ MASK[0]]);
        assert!(next_frame(&out).is_err(), "a client's frame is masked");
    }
}
