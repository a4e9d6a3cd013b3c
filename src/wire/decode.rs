//! Stage 2: frame → command. Hot. Pure.
//!
//! What comes out is valid by form: ids are not 0 where 0 means absent, a channel is named one way,
//! a message has a body. Whether the channel exists and the user may is decided behind this.

use prost::Message as _;
use thiserror::Error;

use super::{
    Encoding,
    channels::{self, ChannelCommand, by_name},
    code::ErrorCode,
    proto::{self, client_envelope},
};
use crate::{
    limits::{HISTORY_MESSAGES_DEFAULT, HISTORY_MESSAGES_MAX, USERS_PER_LOOKUP_MAX},
    log::place::{ChannelId, ClientMessageId, Position, Sequence, UserId},
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
        /// Whether what is not in the log is told as well.
        ephemeral: bool,
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
    /// Something about channels and members. Boxed: it is rare, and larger than the others.
    Channels(Box<ChannelCommand>),
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
            since: subscribe.since.map(Position::from),
            ephemeral: subscribe.ephemeral,
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
        other => match channels::decode(other) {
            Ok(command) => command.map(|command| Command::Channels(Box::new(command))),
            Err(_) => Err(ErrorCode::UnknownCommand),
        },
    }
}

fn by_id(id: u32) -> Result<ChannelRef, ErrorCode> {
    Ok(ChannelRef::Id(ChannelId(id)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::place::Epoch;

    fn json(frame: &str) -> Result<Command, ErrorCode> {
        let request = decode(Encoding::Json, frame.as_bytes()).unwrap();
        assert_eq!(request.id, 7);
        request.command
    }

    #[test]
    fn a_command_typed_by_hand_is_understood() {
        let publish = json(r#"{"id":7,"publish":{"channelName":"lobby","body":"hi"}}"#);
        let channel = ChannelRef::Name("lobby".into());
        let body = "hi".to_owned();
        assert_eq!(publish, Ok(Command::Publish { channel, client_message_id: None, body }));

        let subscribe =
            r#"{"id":7,"subscribe":{"channelId":2,"since":{"epoch":1,"sequence":"40"}}}"#;
        let since = Some(Position { epoch: Epoch(1), sequence: Sequence(40) });
        let channel = ChannelRef::Id(ChannelId(2));
        assert_eq!(json(subscribe), Ok(Command::Subscribe { channel, since, ephemeral: false }));
    }

    #[test]
    fn what_is_missing_or_wrong_has_its_code() {
        for (frame, code) in [
            (r#"{"id":7}"#, ErrorCode::UnknownCommand),
            (r#"{"id":7,"dance":{}}"#, ErrorCode::UnknownCommand),
            (r#"{"id":7,"publish":{"body":"hi"}}"#, ErrorCode::BadRequest),
            (r#"{"id":7,"publish":{"channelId":1}}"#, ErrorCode::EmptyMessage),
            (r#"{"id":7,"subscribe":{"channelName":"No Such"}}"#, ErrorCode::UnknownChannel),
            (r#"{"id":7,"createChannel":{"channelName":"Lobby"}}"#, ErrorCode::InvalidChannelName),
        ] {
            assert_eq!(json(frame), Err(code), "{frame}");
        }
        assert!(decode(Encoding::Json, b"{").is_err());
        assert!(decode(Encoding::Proto, b"\xff\xff").is_err());
    }

    #[test]
    fn a_page_is_never_larger_than_the_server_allows() {
        for (asked, limit) in
            [(0, HISTORY_MESSAGES_DEFAULT), (5, 5), (u32::MAX, HISTORY_MESSAGES_MAX)]
        {
            let history =
                json(&format!(r#"{{"id":7,"history":{{"channelId":1,"limit":{asked}}}}}"#));
            let Ok(Command::History { page, .. }) = history else { panic!("{history:?}") };
            assert_eq!(page, Page { from: PageFrom::Newest, limit });
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_not_but_never_a_panic(frame in prop::collection::vec(any::<u8>(), 0..300)) {
            for encoding in Encoding::ALL {
                let _ = decode(encoding, &frame);
            }
        }
    }
}
