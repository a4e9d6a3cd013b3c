//! What can go wrong with a client: the server's refusals, and the ends of a session.

use std::{fmt, sync::Arc, time::Duration};

use thiserror::Error;

use super::api::ApiError;
use crate::{
    log::place::{ChannelId, Epoch, Position, Sequence},
    wire::code::{CloseCode, ErrorCode},
};

/// Why a call of the client failed, or why the client ended.
#[derive(Clone, Debug, Error)]
pub enum ClientError {
    /// The server refused the command. The connection lives on.
    #[error("the server refused")]
    Refused(#[from] Refusal),
    /// No answer came before the deadline. Whether a publish took effect is not known; a retry with
    /// the same client message id tells.
    #[error("no answer came in time")]
    DeadlineExceeded,
    /// The server closed the connection, and asked not to come back.
    #[error("the server closed the connection: {0}")]
    Closed(Closed),
    /// The server refused the handshake.
    #[error("the server refused the connection with HTTP status {status}")]
    Handshake {
        /// The HTTP status.
        status: u16,
        /// Our error code, if the body named one.
        #[source]
        refusal: Option<Refusal>,
    },
    /// No token could be had.
    #[error("there is no valid login")]
    Token(#[source] Arc<TokenError>),
    /// A sequence was delivered that is not the next one: a hole or a repeat. A fault of the server
    /// (or of this client), and never hidden: everything ends here.
    #[error("channel {channel} delivered {delivered} where {expected} was due")]
    OutOfOrder {
        /// The channel.
        channel: String,
        /// The sequence that was due.
        expected: Sequence,
        /// The sequence that came.
        delivered: Sequence,
    },
    /// The server broke the protocol in another way. Everything ends here.
    #[error("the server broke the protocol")]
    Protocol(#[from] ProtocolError),
    /// The client was closed by its owner.
    #[error("the client is closed")]
    ClientClosed,
}

/// A server's refusal of one command or request.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub struct Refusal {
    /// The number of the code, also when this client does not know it.
    pub number: u16,
    /// The server's words.
    pub message: String,
    /// When a retry may pass, if the server can tell.
    pub retry_after: Option<Duration>,
    /// With `epoch_changed` and `position_ahead`: where the channel is now.
    pub head: Option<Position>,
}

impl Refusal {
    /// The code, if this client knows it.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        ErrorCode::from_number(self.number)
    }

    /// Whether the code is this one.
    #[must_use]
    pub fn is(&self, code: ErrorCode) -> bool {
        self.number == code.number()
    }

    /// Whether the same command may pass later. An unknown code is taken as final.
    #[must_use]
    pub fn again(&self) -> bool {
        self.code().is_some_and(ErrorCode::again)
    }

    /// A refusal that the client makes itself, in the server's stead.
    pub(super) fn local(code: ErrorCode) -> Self {
        Self {
            number: code.number(),
            message: code.sentence().to_owned(),
            retry_after: None,
            head: None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match (self.message.as_str(), self.code()) {
            ("", Some(code)) => code.sentence(),
            ("", None) => "no reason given",
            (message, _) => message,
        };
        let words = words.strip_suffix('.').unwrap_or(words);
        match self.code() {
            Some(code) => write!(f, "{words} [{code}]"),
            None => write!(f, "{words} [{}]", self.number),
        }
    }
}

/// How a connection was closed by the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Closed {
    /// The close code; absent when the connection just ended.
    pub number: Option<u16>,
    /// When to come back, if the server said.
    pub retry_after: Option<Duration>,
}

impl Closed {
    /// Whether to connect again. For a code that this client knows, the table says so; for another,
    /// its range does.
    #[must_use]
    pub fn reconnects(&self) -> bool {
        self.number.is_none_or(|number| {
            CloseCode::from_number(number).map_or(number < 4500, CloseCode::again)
        })
    }

    /// Whether the code is this one.
    #[must_use]
    pub fn is(&self, code: CloseCode) -> bool {
        self.number == Some(code.number())
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number.map(|number| (number, CloseCode::from_number(number))) {
            None => f.write_str("the connection ended"),
            Some((_, Some(code))) => {
                let sentence = code.sentence();
                write!(f, "{} [{code}]", sentence.strip_suffix('.').unwrap_or(sentence))
            }
            Some((number, None)) => write!(f, "close code {number}"),
        }
    }
}

/// How a server broke the protocol.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ProtocolError {
    /// A frame that is no server envelope.
    #[error("a frame could not be decoded")]
    Undecodable,
    /// Something other than a welcome came first.
    #[error("the connection did not begin with a welcome")]
    NoWelcome,
    /// A reply to nothing.
    #[error("a reply came for command {0}, which is not under way")]
    UnknownReply(u32),
    /// A frame of ours was refused as unreadable.
    #[error("the server could not read a frame of this client")]
    Unreadable(#[source] Refusal),
    /// A reply of another kind than its command.
    #[error("a reply of the wrong kind came for command {0}")]
    WrongReply(u32),
    /// Messages of a channel that is not subscribed.
    #[error("messages came for channel number {}, which is not subscribed", .0.0)]
    NotSubscribed(ChannelId),
    /// A subscription that resumed in another epoch without saying so.
    #[error("channel {channel} resumed in epoch {} instead of {}", .resumed.0, .asked.0)]
    EpochMixed {
        /// The channel.
        channel: String,
        /// The epoch that was asked for.
        asked: Epoch,
        /// The epoch that was answered.
        resumed: Epoch,
    },
    /// A subscription that resumed although the channel ends before the position.
    #[error("channel {channel} resumed after {asked} although it ends at {head}")]
    ResumedAhead {
        /// The channel.
        channel: String,
        /// The position that was asked for.
        asked: Sequence,
        /// The channel's newest sequence.
        head: Sequence,
    },
    /// A position was refused, without saying where the channel is now, or it was that very place.
    #[error("the server refused a position of channel {0} without naming a usable one")]
    NoHead(String),
}

/// Why there is no token.
#[derive(Debug, Error)]
pub enum TokenError {
    /// The server refused: a wrong password, an unknown user, or too much to do.
    #[error("the login was refused")]
    Refused(#[from] Refusal),
    /// The server could not be asked.
    #[error("the server at {server} could not be reached")]
    Unreachable {
        /// Its address.
        server: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("the server at {server} did not answer in time")]
    TimedOut {
        /// Its address.
        server: String,
    },
    /// The answer was not understood.
    #[error("the answer of {server} was not understood (HTTP status {status})")]
    Unintelligible {
        /// Its address.
        server: String,
        /// The HTTP status.
        status: u16,
    },
    /// The login has run out, and there is nothing to renew it with.
    #[error("the saved login has run out")]
    Expired,
}

impl From<ApiError> for TokenError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Refused(refusal) => Self::Refused(refusal),
            ApiError::Unreachable { server, source } => Self::Unreachable { server, source },
            ApiError::TimedOut { server } => Self::TimedOut { server },
            ApiError::Unintelligible { server, status } => Self::Unintelligible { server, status },
        }
    }
}

impl TokenError {
    /// Whether a later attempt may pass.
    #[must_use]
    pub fn again(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.again(),
            Self::Unreachable { .. } | Self::TimedOut { .. } => true,
            Self::Unintelligible { status, .. } => *status >= 500,
            Self::Expired => false,
        }
    }

    /// When to try again, if the server said.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }
}
