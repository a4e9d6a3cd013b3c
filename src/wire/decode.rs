//! Stage 2: frame → command. Hot. Pure.
//!
//! What comes out is valid by form: ids are not 0 where 0 means absent, a channel is named one way,
//! a message has a body. Whether the channel exists and the user may is decided behind this.

use prost::Message as _;
use thiserror::Error;

use super::{
    Encoding,
    code::ErrorCode,
    proto::{self, client_envelope},
};
use crate::{
    limits::{
        CHANNEL_NAME_BYTES_MAX, HISTORY_MESSAGES_DEFAULT, HISTORY_MESSAGES_MAX,
        USERS_PER_LOOKUP_MAX,
    },
    log::place::{ChannelId, ClientMessageId, Epoch, Position, Sequence, UserId},
};

/// One decoded envelope.
#[derive(Debug)]
pub struct Request {
    /// The client's correlation id.
    pub id: u32,
    /// What it asks for, or the error that answers it.
    pub command: Result<Command, ErrorCode>,
}

/// What a client asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Log in, or renew the login.
    Authenticate {
        /// The access token.
        token: String,
    },
    /// Add a message to a channel.
    Publish {
        /// Where.
        channel: ChannelRef,
        /// The client's number for it.
        client_message_id: Option<ClientMessageId>,
        /// The text. Not empty.
        body: String,
    },
    /// Start delivery.
    Subscribe {
        /// Of which channel.
        channel: ChannelRef,
        /// After which place; absent: live only.
        since: Option<Position>,
    },
    /// End delivery.
    Unsubscribe {
        /// Of which channel.
        channel: ChannelId,
    },
    /// Read committed messages.
    History {
        /// Of which channel.
        channel: ChannelRef,
        /// Which of them.
        page: Page,
    },
    /// Learn names.
    Users {
        /// Of whom.
        users: Vec<UserId>,
    },
    /// Make a channel.
    CreateChannel {
        /// Its name, of a valid form.
        name: String,
    },
}

/// A channel as a client names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChannelRef {
    /// By number.
    Id(ChannelId),
    /// By name.
    Name(String),
}

/// A page of history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page {
    /// Where it lies.
    pub from: PageFrom,
    /// At most this many messages. Between 1 and [`HISTORY_MESSAGES_MAX`].
    pub limit: u32,
}

/// Where a page of history lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageFrom {
    /// At the end.
    Newest,
    /// It ends just before this sequence.
    Before(Sequence),
    /// It begins just after this sequence.
    After(Sequence),
}

/// A frame that holds no envelope.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the frame holds no envelope")]
pub struct Undecodable;

/// Reads the envelope in a frame.
///
/// # Errors
/// When there is none: then not even its id is known.
pub fn decode(encoding: Encoding, frame: &[u8]) -> Result<Request, Undecodable> {
    let envelope = match encoding {
        Encoding::Proto => proto::ClientEnvelope::decode(frame).map_err(|_| Undecodable)?,
        Encoding::Json => serde_json::from_slice(frame).map_err(|_| Undecodable)?,
    };
    let command = match envelope.command {
        None => Err(ErrorCode::UnknownCommand),
        Some(command) => validate(command),
    };
    Ok(Request { id: envelope.id, command })
}

fn validate(command: client_envelope::Command) -> Result<Command, ErrorCode> {
    use client_envelope::Command as Wire;
    match command {
        Wire::Publish(publish) => Ok(Command::Publish {
            channel: match publish.channel {
                Some(proto::publish::Channel::ChannelId(id)) => by_id(id)?,
                Some(proto::publish::Channel::ChannelName(name)) => by_name(name)?,
                None => return Err(ErrorCode::BadRequest),
            },
            client_message_id: (publish.client_message_id != 0)
                .then_some(ClientMessageId(publish.client_message_id)),
            body: if publish.body.is_empty() {
                return Err(ErrorCode::EmptyMessage);
            } else {
                publish.body
            },
        }),
        Wire::Subscribe(subscribe) => Ok(Command::Subscribe {
            channel: match subscribe.channel {
                Some(proto::subscribe::Channel::ChannelId(id)) => by_id(id)?,
                Some(proto::subscribe::Channel::ChannelName(name)) => by_name(name)?,
                None => return Err(ErrorCode::BadRequest),
            },
            since: subscribe.since.map(|position| Position {
                epoch: Epoch(position.epoch),
                sequence: Sequence(position.sequence),
            }),
        }),
        Wire::Unsubscribe(unsubscribe) => {
            Ok(Command::Unsubscribe { channel: ChannelId(unsubscribe.channel_id) })
        }
        Wire::History(history) => Ok(Command::History {
            channel: match history.channel {
                Some(proto::history::Channel::ChannelId(id)) => by_id(id)?,
                Some(proto::history::Channel::ChannelName(name)) => by_name(name)?,
                None => return Err(ErrorCode::BadRequest),
            },
            page: Page {
                from: match history.from {
                    None => PageFrom::Newest,
                    Some(proto::history::From::BeforeSequence(before)) => {
                        PageFrom::Before(Sequence(before))
                    }
                    Some(proto::history::From::AfterSequence(after)) => {
                        PageFrom::After(Sequence(after))
                    }
                },
                limit: match history.limit {
                    0 => HISTORY_MESSAGES_DEFAULT,
                    limit => limit.min(HISTORY_MESSAGES_MAX),
                },
            },
        }),
        Wire::Authenticate(authenticate) => Ok(Command::Authenticate { token: authenticate.token }),
        Wire::Users(users) if users.user_ids.len() > USERS_PER_LOOKUP_MAX => {
            Err(ErrorCode::BadRequest)
        }
        Wire::Users(users) => {
            Ok(Command::Users { users: users.user_ids.into_iter().map(UserId).collect() })
        }
        Wire::CreateChannel(create) if is_channel_name(&create.channel_name) => {
            Ok(Command::CreateChannel { name: create.channel_name })
        }
        Wire::CreateChannel(_) => Err(ErrorCode::InvalidChannelName),
    }
}

fn by_id(id: u32) -> Result<ChannelRef, ErrorCode> {
    Ok(ChannelRef::Id(ChannelId(id)))
}

fn by_name(name: String) -> Result<ChannelRef, ErrorCode> {
    // A name that no channel can have is of an unknown channel, not a bad request: a client need
    // not know the rules to ask.
    if is_channel_name(&name) { Ok(ChannelRef::Name(name)) } else { Err(ErrorCode::UnknownChannel) }
}

/// Whether a channel may have this name: lower-case letters, digits and `.` `_` `-` between them,
/// so that no two names look alike and every name fits a URL.
#[must_use]
pub fn is_channel_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.len() <= CHANNEL_NAME_BYTES_MAX
        && bytes.first().is_some_and(is_alphanumeric)
        && bytes.last().is_some_and(is_alphanumeric)
        && bytes.iter().all(|byte| is_alphanumeric(byte) || b"._-".contains(byte))
}
