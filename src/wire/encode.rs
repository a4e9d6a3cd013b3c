//! Command and event → bytes. Hot. Pure.
//!
//! Messages are the one envelope that is written often: their records come from the log as they
//! are, and only the few bytes before them are made here. Everything else goes through prost.

use bytes::{BufMut, Bytes, BytesMut};
use prost::{
    Message as _,
    encoding::{encode_varint, encoded_len_varint},
};

use super::{
    Encoding,
    channels::{self, ChannelView, MemberView, PresenceView},
    code::ErrorCode,
    proto,
    stored::{self, StoredRecord},
};
use crate::log::{
    batch::{Batch, Records},
    place::{ChannelId, ClientMessageId, Durability, Epoch, Position, Sequence, UserId},
};

/// Consecutive records as they are sent: a batch, or the rest of one.
#[derive(Clone, Debug)]
pub struct Run {
    /// The sequence of the first record.
    pub first_sequence: Sequence,
    /// When they were put in order, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// The records, as [`Batch::records`] holds them.
    pub records: Bytes,
}

impl Run {
    /// All of a batch.
    #[must_use]
    pub fn whole(batch: &Batch) -> Self {
        Self::part(batch, (batch.first_sequence, batch.records.clone()))
    }

    /// What a batch holds after `sequence`, if anything.
    #[must_use]
    pub fn after(batch: &Batch, sequence: Sequence) -> Option<Self> {
        batch.records_after(sequence).map(|part| Self::part(batch, part))
    }

    /// What a batch holds from `first` to `last`, both included, if anything.
    #[must_use]
    pub fn between(batch: &Batch, first: Sequence, last: Sequence) -> Option<Self> {
        batch.records_between(first, last).map(|part| Self::part(batch, part))
    }

    fn part(batch: &Batch, (first_sequence, records): (Sequence, Bytes)) -> Self {
        Self { first_sequence, timestamp_ms: batch.timestamp_ms, records }
    }

    /// The records, each with its sequence. `None` in place of what is none.
    pub fn written(&self) -> impl Iterator<Item = (Sequence, Option<StoredRecord<'_>>)> {
        let numbers = (self.first_sequence.0..).map(Sequence);
        numbers.zip(Records::new(&self.records).map(|record| stored::read(record.ok()?).ok()))
    }

    /// How many records there are.
    #[must_use]
    pub fn count(&self) -> usize {
        Records::new(&self.records).count()
    }

    /// The length of this run as a `Messages`.
    fn encoded_len(&self, channel: ChannelId) -> usize {
        3 + encoded_len_varint(channel.0.into())
            + encoded_len_varint(self.first_sequence.0)
            + encoded_len_varint(self.timestamp_ms)
            + self.records.len()
    }

    /// Writes this run as a `Messages`. proto3 leaves zeros out, but none of the three is ever 0.
    fn encode(&self, channel: ChannelId, out: &mut impl BufMut) {
        out.put_u8(1 << 3);
        encode_varint(channel.0.into(), out);
        out.put_u8(2 << 3);
        encode_varint(self.first_sequence.0, out);
        out.put_u8(3 << 3);
        encode_varint(self.timestamp_ms, out);
        out.put_slice(&self.records);
    }

    fn to_proto(&self, channel: ChannelId) -> proto::Messages {
        let mut bytes = BytesMut::with_capacity(self.encoded_len(channel));
        self.encode(channel, &mut bytes);
        proto::Messages::decode(bytes.freeze()).unwrap_or_default()
    }
}

/// The record of a publish, as the log holds it.
#[must_use]
pub fn record(user: UserId, client_message_id: Option<ClientMessageId>, body: String) -> Bytes {
    let record = proto::Record {
        user_id: user.0,
        client_message_id: client_message_id.map_or(0, |id| id.0),
        content: Some(proto::record::Content::Body(body)),
        written_at_ms: 0,
    };
    Bytes::from(record.encode_to_vec())
}

/// A digest of what a publish says, to tell a retry from another message under the same number.
#[must_use]
pub fn digest(body: &str) -> u64 {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    u64::from(crc32c::crc32c(body.as_bytes())) << 32 | u64::from(length)
}

/// Writes the envelope that delivers a run.
pub fn messages(encoding: Encoding, channel: ChannelId, run: &Run, out: &mut impl BufMut) {
    match encoding {
        Encoding::Proto => {
            let length = run.encoded_len(channel);
            out.put_u8(1 << 3 | 2);
            encode_varint(length as u64, out);
            run.encode(channel, out);
        }
        Encoding::Json => {
            let messages = proto::server_envelope::Envelope::Messages(run.to_proto(channel));
            write(encoding, messages, out);
        }
    }
}

/// The one answer to a command.
#[derive(Clone, Debug)]
pub enum Reply {
    /// It was refused.
    Refused(Refusal),
    /// The message is durable.
    Published(Published),
    /// Delivery starts.
    Subscribed {
        /// The channel.
        channel: ChannelId,
        /// Its name.
        name: std::sync::Arc<str>,
        /// Where it is now.
        head: Position,
    },
    /// Delivery ended.
    Unsubscribed(ChannelId),
    /// The login is accepted.
    Authenticated {
        /// Who.
        user: UserId,
        /// The display name.
        name: String,
        /// When the token runs out, in seconds since 1970.
        expires_at: u64,
    },
    /// Names.
    Users(Vec<(UserId, String)>),
    /// A channel. Boxed: it is rare, and larger than the others.
    Channel(Box<ChannelView>),
    /// A page of channels, and where the next begins.
    Channels(Vec<ChannelView>, Option<String>),
    /// A channel is no more.
    ChannelDeleted(ChannelId),
    /// What a user is in a channel now.
    Member(MemberView),
    /// A page of members, and where the next begins.
    Members(Vec<MemberView>, Option<String>),
    /// Who is in a channel.
    Presence(PresenceView),
    /// Those who are there are told that the user is writing.
    TypingSent(ChannelId),
    /// How far the user has read.
    ReadMarker(ChannelId, Position),
    /// A page of history.
    History {
        /// The channel.
        channel: ChannelId,
        /// Where it is now.
        head: Position,
        /// The messages, ascending.
        runs: Vec<Run>,
    },
}

/// The place that a publish has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Published {
    /// The channel.
    pub channel: ChannelId,
    /// The life of its numbering.
    pub epoch: Epoch,
    /// The place.
    pub sequence: Sequence,
    /// When it was put in order; 0 for a repeated publish.
    pub timestamp_ms: u64,
    /// What the acknowledgement means.
    pub durability: Durability,
}

/// Why, and what helps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The code.
    pub code: ErrorCode,
    /// When a retry may pass, in milliseconds; 0: unknown.
    pub retry_after_ms: u32,
    /// Where the channel is now, if that is the point.
    pub head: Option<Position>,
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        let retry_after_ms = if code == ErrorCode::Busy {
            u32::try_from(crate::limits::BUSY_RETRY_AFTER.as_millis()).unwrap_or(u32::MAX)
        } else {
            0
        };
        Self { code, retry_after_ms, head: None }
    }
}

/// What the server says unasked, but for messages.
#[derive(Clone, Debug)]
pub enum Control {
    /// The connection is logged in.
    Welcome {
        /// Who.
        user: UserId,
        /// The display name.
        name: String,
        /// When the token runs out, in seconds since 1970.
        expires_at: u64,
        /// Silence before a ping, in milliseconds.
        ping_interval_ms: u32,
        /// From ping to pong, in milliseconds.
        pong_timeout_ms: u32,
        /// The largest frame that is taken, in bytes.
        message_bytes_max: u32,
    },
    /// These messages are left to history.
    Gap {
        /// The channel.
        channel: ChannelId,
        /// The first of them.
        from: Sequence,
        /// The last of them.
        to: Sequence,
    },
    /// The connection is slow.
    Lagging {
        /// What waits for it, in bytes.
        outbox_bytes: u32,
    },
    /// The server drains.
    GoingAway {
        /// When to come back, in milliseconds.
        retry_after_ms: u32,
    },
    /// No more messages of this channel come.
    SubscriptionEnded {
        /// The channel.
        channel: ChannelId,
        /// Why.
        refusal: Refusal,
    },
    /// Who is in a channel.
    Presence(PresenceView),
    /// These users are writing.
    Typing {
        /// Where.
        channel: ChannelId,
        /// Who.
        users: Vec<UserId>,
    },
    /// The user has read on.
    ReadMarker(ChannelId, Position),
}

/// Writes the envelope of a reply.
pub fn reply(encoding: Encoding, id: u32, reply: &Reply, out: &mut impl BufMut) {
    if let (Encoding::Proto, Reply::History { channel, head, runs }) = (encoding, reply) {
        return history_page(id, *channel, *head, runs, out);
    }
    let result = match reply {
        Reply::Refused(refusal) => proto::reply::Result::Error(error(refusal)),
        Reply::Published(published) => proto::reply::Result::Published(proto::Published {
            channel_id: published.channel.0,
            epoch: published.epoch.0,
            sequence: published.sequence.0,
            timestamp_ms: published.timestamp_ms,
            durability: match published.durability {
                Durability::Fsynced => proto::published::Durability::Fsynced,
                Durability::Quorum => proto::published::Durability::Quorum,
                Durability::Ephemeral => proto::published::Durability::Ephemeral,
            }
            .into(),
        }),
        Reply::Subscribed { channel, name, head } => {
            proto::reply::Result::Subscribed(proto::Subscribed {
                channel_id: channel.0,
                channel_name: name.to_string(),
                epoch: head.epoch.0,
                head_sequence: head.sequence.0,
            })
        }
        Reply::Unsubscribed(channel) => {
            proto::reply::Result::Unsubscribed(proto::Unsubscribed { channel_id: channel.0 })
        }
        Reply::Authenticated { user, name, expires_at } => {
            proto::reply::Result::Authenticated(proto::Authenticated {
                user_id: user.0,
                name: name.clone(),
                expires_at: *expires_at,
            })
        }
        Reply::Users(users) => proto::reply::Result::Users(proto::UserList {
            users: users
                .iter()
                .map(|(user, name)| proto::User { user_id: user.0, name: name.clone() })
                .collect(),
        }),
        Reply::Channel(view) => proto::reply::Result::Channel(channels::channel(view)),
        Reply::Channels(list, next) => proto::reply::Result::Channels(proto::ChannelList {
            channels: list.iter().map(channels::channel).collect(),
            next: next.clone().unwrap_or_default(),
        }),
        Reply::ChannelDeleted(channel) => {
            proto::reply::Result::ChannelDeleted(proto::ChannelDeleted { channel_id: channel.0 })
        }
        Reply::Member(view) => proto::reply::Result::Member(channels::member(view)),
        Reply::Members(list, next) => proto::reply::Result::Members(proto::MemberList {
            members: list.iter().map(channels::member).collect(),
            next: next.clone().unwrap_or_default(),
        }),
        Reply::Presence(view) => proto::reply::Result::Presence(channels::presence(view)),
        Reply::TypingSent(channel) => {
            proto::reply::Result::TypingSent(proto::TypingSent { channel_id: channel.0 })
        }
        Reply::ReadMarker(channel, position) => {
            proto::reply::Result::ReadMarker(channels::read_marker(*channel, *position))
        }
        Reply::History { channel, head, runs } => {
            proto::reply::Result::History(proto::HistoryPage {
                channel_id: channel.0,
                epoch: head.epoch.0,
                runs: runs.iter().map(|run| run.to_proto(*channel)).collect(),
                head_sequence: head.sequence.0,
            })
        }
    };
    let reply = proto::Reply { id, result: Some(result) };
    write(encoding, proto::server_envelope::Envelope::Reply(reply), out);
}

/// Writes the envelope of a control message.
pub fn control(encoding: Encoding, control: &Control, out: &mut impl BufMut) {
    use proto::server_envelope::Envelope;
    let envelope = match control {
        Control::Welcome {
            user,
            name,
            expires_at,
            ping_interval_ms,
            pong_timeout_ms,
            message_bytes_max,
        } => Envelope::Welcome(proto::Welcome {
            user_id: user.0,
            name: name.clone(),
            expires_at: *expires_at,
            ping_interval_ms: *ping_interval_ms,
            pong_timeout_ms: *pong_timeout_ms,
            message_bytes_max: *message_bytes_max,
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
        }),
        Control::Gap { channel, from, to } => Envelope::Gap(proto::Gap {
            channel_id: channel.0,
            from_sequence: from.0,
            to_sequence: to.0,
        }),
        Control::Lagging { outbox_bytes } => {
            Envelope::Lagging(proto::Lagging { outbox_bytes: *outbox_bytes })
        }
        Control::GoingAway { retry_after_ms } => {
            Envelope::GoingAway(proto::GoingAway { retry_after_ms: *retry_after_ms })
        }
        Control::SubscriptionEnded { channel, refusal } => {
            Envelope::SubscriptionEnded(proto::SubscriptionEnded {
                channel_id: channel.0,
                error: Some(error(refusal)),
            })
        }
        Control::Presence(view) => Envelope::Presence(channels::presence(view)),
        Control::Typing { channel, users } => Envelope::Typing(proto::Typing {
            channel_id: channel.0,
            user_ids: users.iter().map(|user| user.0).collect(),
        }),
        Control::ReadMarker(channel, position) => {
            Envelope::ReadMarker(channels::read_marker(*channel, *position))
        }
    };
    write(encoding, envelope, out);
}

/// A page of history, by hand, so that the records are copied and not encoded again.
fn history_page(id: u32, channel: ChannelId, head: Position, runs: &[Run], out: &mut impl BufMut) {
    let mut page = BytesMut::with_capacity(
        32 + runs.iter().map(|run| run.encoded_len(channel) + 8).sum::<usize>(),
    );
    let outline = proto::HistoryPage {
        channel_id: channel.0,
        epoch: head.epoch.0,
        runs: Vec::new(),
        head_sequence: head.sequence.0,
    };
    page.put_slice(&outline.encode_to_vec());
    for run in runs {
        page.put_u8(3 << 3 | 2);
        encode_varint(run.encoded_len(channel) as u64, &mut page);
        run.encode(channel, &mut page);
    }
    let mut reply = BytesMut::with_capacity(page.len() + 16);
    reply.put_slice(&proto::Reply { id, result: None }.encode_to_vec());
    reply.put_u8(6 << 3 | 2);
    encode_varint(page.len() as u64, &mut reply);
    reply.put_slice(&page);
    out.put_u8(2 << 3 | 2);
    encode_varint(reply.len() as u64, out);
    out.put_slice(&reply);
}

fn error(refusal: &Refusal) -> proto::Error {
    proto::Error {
        code: refusal.code.number().into(),
        message: refusal.code.sentence().to_owned(),
        retry_after_ms: refusal.retry_after_ms,
        head: refusal
            .head
            .map(|head| proto::Position { epoch: head.epoch.0, sequence: head.sequence.0 }),
    }
}

fn write(encoding: Encoding, envelope: proto::server_envelope::Envelope, out: &mut impl BufMut) {
    let envelope = proto::ServerEnvelope { envelope: Some(envelope) };
    match encoding {
        Encoding::Proto => {
            envelope.encode(out).expect("the buffer grows as needed");
        }
        Encoding::Json => {
            serde_json::to_writer(out.writer(), &envelope)
                .expect("numbers and strings always have a JSON form");
        }
    }
}

#[cfg(test)]
mod tests;
