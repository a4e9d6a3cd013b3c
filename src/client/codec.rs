//! Commands → bytes, bytes → events. The only file of the client that names the generated types.
//! Pure.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use super::{
    backoff::asked_for,
    error::{ProtocolError, Refusal},
};
use crate::{
    log::{
        place::{ChannelId, ClientMessageId, Epoch, Position, Sequence, UserId},
        settings::{Role, Settings},
    },
    wire::{
        channels::{ChannelCommand, ChannelView, MemberView, PresenceView},
        proto::{self, client_envelope, reply, server_envelope},
        record::{role_of, settings_of},
    },
};

mod channels;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Publish { channel: String, id: ClientMessageId, body: String },
    Subscribe { channel: String, since: Option<Position> },
    Unsubscribe(ChannelId),
    History { channel: String, from: HistoryFrom, limit: u32 },
    Authenticate(String),
    Users(Vec<UserId>),
    Channels(ChannelCommand),
}

/// Which page of history to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HistoryFrom {
    /// The newest page.
    #[default]
    Newest,
    /// The page that ends just before this sequence.
    Before(Sequence),
    /// The page that begins just after this sequence.
    After(Sequence),
}

/// What a server says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    Messages(Run),
    Reply {
        id: u32,
        result: Result<Answer, Refusal>,
    },
    Welcome(Welcome),
    Gap {
        channel: ChannelId,
        from: Sequence,
        to: Sequence,
    },
    Lagging,
    GoingAway {
        retry_after: Option<Duration>,
    },
    SubscriptionEnded {
        channel: ChannelId,
        refusal: Refusal,
    },
    /// An envelope of a later version of the protocol.
    Unknown,
}

/// The good answer to a command.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Published(Published),
    Subscribed { channel: ChannelId, epoch: Epoch, head: Sequence },
    Unsubscribed,
    History(HistoryPage),
    Authenticated { expires_at: u64 },
    Users(Vec<(UserId, String)>),
    Channel(Box<ChannelView>),
    Channels(Vec<ChannelView>, Option<String>),
    ChannelDeleted,
    Member(MemberView),
    Members(Vec<MemberView>, Option<String>),
    Presence(PresenceView),
    TypingSent,
    ReadMarker(Position),
}

/// A message that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The channel.
    pub channel: ChannelId,
    /// Where the message is.
    pub position: Position,
    /// When it was put in order, in milliseconds since 1970; 0 when an earlier attempt had done so.
    pub timestamp_ms: u64,
    /// How often it was sent until the answer came; above 1 after a reconnect or a refusal.
    pub attempts: u32,
}

/// A part of a channel's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryPage {
    /// The channel.
    pub channel: ChannelId,
    /// The epoch of its sequences.
    pub epoch: Epoch,
    /// The messages, ascending, without a hole.
    pub messages: Vec<Message>,
    /// The newest sequence of the channel when the page was read.
    pub head_sequence: Sequence,
}

/// An entry of a channel: a message, or a change of its members or settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its place.
    pub sequence: Sequence,
    /// Who published it, or made the change.
    pub user: UserId,
    /// What they wrote; empty when it is no message, but a change or a content of a later version of
    /// the protocol.
    pub body: String,
    /// What changed, if it is a change. With [`Message::written_at_ms`] it is history, which was so
    /// elsewhere, and changes nothing here.
    pub change: Option<Change>,
    /// When it was put in order, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// When it was written, in milliseconds since 1970, if it was imported.
    pub written_at_ms: Option<u64>,
    /// The publisher's number for it, if any.
    pub client_message_id: Option<ClientMessageId>,
}

/// A change of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// What a user is from here on; `None`: no member any more.
    Member(UserId, Option<Role>),
    /// What the channel is from here on.
    Settings(Settings),
    /// The channel is no more.
    Deleted,
}

impl Message {
    /// When it was written, in milliseconds since 1970. Of an imported message that is earlier than
    /// its neighbours may be: the order is the sequence's.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.written_at_ms.unwrap_or(self.timestamp_ms)
    }
}

/// Consecutive messages of one channel. `first` is stated by the server even when there is no
/// message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) channel: ChannelId,
    pub(super) first: Sequence,
    pub(super) messages: Vec<Message>,
}

/// How a connection begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Welcome {
    /// Who is logged in.
    pub(super) user: UserId,
    /// Their name.
    pub(super) name: String,
    /// When the login runs out, in seconds since 1970.
    pub(super) expires_at: u64,
    /// The silence after which the server pings.
    pub(super) ping_interval: Duration,
    /// How long it waits for the pong.
    pub(super) pong_timeout: Duration,
    /// The largest frame that the server takes.
    pub(super) message_bytes_max: usize,
    /// The server's version.
    pub(super) server_version: String,
}

/// The frame of a command.
pub(super) fn encode(id: u32, command: &Command) -> Bytes {
    use client_envelope::Command as Wire;
    let command = match command.clone() {
        Command::Publish { channel, id, body } => Wire::Publish(proto::Publish {
            channel: Some(proto::publish::Channel::ChannelName(channel)),
            client_message_id: id.0,
            body,
        }),
        Command::Subscribe { channel, since } => Wire::Subscribe(proto::Subscribe {
            channel: Some(proto::subscribe::Channel::ChannelName(channel)),
            since: since.map(proto::Position::from),
            ephemeral: false,
        }),
        Command::Unsubscribe(channel) => {
            Wire::Unsubscribe(proto::Unsubscribe { channel_id: channel.0 })
        }
        Command::History { channel, from, limit } => Wire::History(proto::History {
            channel: Some(proto::history::Channel::ChannelName(channel)),
            limit,
            from: match from {
                HistoryFrom::Newest => None,
                HistoryFrom::Before(sequence) => {
                    Some(proto::history::From::BeforeSequence(sequence.0))
                }
                HistoryFrom::After(sequence) => {
                    Some(proto::history::From::AfterSequence(sequence.0))
                }
            },
        }),
        Command::Authenticate(token) => Wire::Authenticate(proto::Authenticate { token }),
        Command::Users(users) => {
            Wire::Users(proto::Users { user_ids: users.into_iter().map(|user| user.0).collect() })
        }
        Command::Channels(command) => channels::encode(command),
    };
    proto::ClientEnvelope { id, command: Some(command) }.encode_to_vec().into()
}

/// What a frame of the server says.
pub(super) fn decode(frame: Bytes) -> Result<Event, ProtocolError> {
    use server_envelope::Envelope;
    let envelope =
        proto::ServerEnvelope::decode(frame).map_err(|_| ProtocolError::Undecodable)?.envelope;
    Ok(match envelope {
        // What is not subscribed to is not told.
        None | Some(Envelope::Presence(_) | Envelope::Typing(_) | Envelope::ReadMarker(_)) => {
            Event::Unknown
        }
        Some(Envelope::Messages(messages)) => Event::Messages(run(messages)),
        Some(Envelope::Reply(proto::Reply { id, result })) => {
            Event::Reply { id, result: answer(id, result)? }
        }
        Some(Envelope::Welcome(welcome)) => Event::Welcome(Welcome {
            user: UserId(welcome.user_id),
            name: welcome.name,
            expires_at: welcome.expires_at,
            ping_interval: millis(welcome.ping_interval_ms),
            pong_timeout: millis(welcome.pong_timeout_ms),
            message_bytes_max: welcome.message_bytes_max as usize,
            server_version: welcome.server_version,
        }),
        Some(Envelope::Gap(gap)) => Event::Gap {
            channel: ChannelId(gap.channel_id),
            from: Sequence(gap.from_sequence),
            to: Sequence(gap.to_sequence),
        },
        Some(Envelope::Lagging(_)) => Event::Lagging,
        Some(Envelope::GoingAway(away)) => {
            Event::GoingAway { retry_after: asked_for(away.retry_after_ms.into()) }
        }
        Some(Envelope::SubscriptionEnded(ended)) => Event::SubscriptionEnded {
            channel: ChannelId(ended.channel_id),
            refusal: refusal(ended.error.unwrap_or_default()),
        },
    })
}

fn answer(
    id: u32,
    result: Option<reply::Result>,
) -> Result<Result<Answer, Refusal>, ProtocolError> {
    let Some(result) = result else { return Err(ProtocolError::WrongReply(id)) };
    Ok(Ok(match result {
        reply::Result::Error(error) => return Ok(Err(refusal(error))),
        reply::Result::Published(published) => Answer::Published(Published {
            channel: ChannelId(published.channel_id),
            position: Position {
                epoch: Epoch(published.epoch),
                sequence: Sequence(published.sequence),
            },
            timestamp_ms: published.timestamp_ms,
            attempts: 1,
        }),
        reply::Result::Subscribed(subscribed) => Answer::Subscribed {
            channel: ChannelId(subscribed.channel_id),
            epoch: Epoch(subscribed.epoch),
            head: Sequence(subscribed.head_sequence),
        },
        reply::Result::Unsubscribed(_) => Answer::Unsubscribed,
        reply::Result::History(page) => Answer::History(HistoryPage {
            channel: ChannelId(page.channel_id),
            epoch: Epoch(page.epoch),
            messages: page.runs.into_iter().flat_map(|messages| run(messages).messages).collect(),
            head_sequence: Sequence(page.head_sequence),
        }),
        reply::Result::Authenticated(authenticated) => {
            Answer::Authenticated { expires_at: authenticated.expires_at }
        }
        reply::Result::Users(list) => Answer::Users(
            list.users.into_iter().map(|user| (UserId(user.user_id), user.name)).collect(),
        ),
        reply::Result::Channel(channel) => Answer::Channel(Box::new(channels::channel(channel))),
        reply::Result::Channels(list) => {
            let channels = list.channels.into_iter().map(channels::channel).collect();
            Answer::Channels(channels, channels::next(list.next))
        }
        reply::Result::ChannelDeleted(_) => Answer::ChannelDeleted,
        reply::Result::Member(member) => Answer::Member(channels::member(member)),
        reply::Result::Members(list) => {
            let members = list.members.into_iter().map(channels::member).collect();
            Answer::Members(members, channels::next(list.next))
        }
        reply::Result::Presence(presence) => Answer::Presence(channels::presence(presence)),
        reply::Result::TypingSent(_) => Answer::TypingSent,
        reply::Result::ReadMarker(marker) => {
            Answer::ReadMarker(marker.position.unwrap_or_default().into())
        }
    }))
}

fn run(messages: proto::Messages) -> Run {
    let timestamp_ms = messages.timestamp_ms;
    Run {
        channel: ChannelId(messages.channel_id),
        first: Sequence(messages.first_sequence),
        messages: messages
            .records
            .into_iter()
            .zip(0..)
            .map(|(record, index)| {
                let sequence = Sequence(messages.first_sequence.saturating_add(index));
                message(record, sequence, timestamp_ms)
            })
            .collect(),
    }
}

fn message(record: proto::Record, sequence: Sequence, timestamp_ms: u64) -> Message {
    use proto::record::Content;
    let (body, change) = match record.content {
        Some(Content::Body(body)) => (body, None),
        Some(Content::Membership(membership)) => {
            let (user, role) = (UserId(membership.user_id), role_of(membership.role));
            (String::new(), Some(Change::Member(user, role)))
        }
        Some(Content::Settings(settings)) => {
            (String::new(), Some(Change::Settings(settings_of(settings))))
        }
        Some(Content::Deletion(_)) => (String::new(), Some(Change::Deleted)),
        None => (String::new(), None),
    };
    Message {
        sequence,
        user: UserId(record.user_id),
        body,
        change,
        timestamp_ms,
        written_at_ms: Some(record.written_at_ms).filter(|&ms| ms != 0),
        client_message_id: Some(record.client_message_id)
            .filter(|&id| id != 0)
            .map(ClientMessageId),
    }
}

fn refusal(error: proto::Error) -> Refusal {
    Refusal {
        number: u16::try_from(error.code).unwrap_or_default(),
        message: error.message,
        retry_after: asked_for(error.retry_after_ms.into()),
        head: error.head.map(Position::from),
    }
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms))
}
