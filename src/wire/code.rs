//! Every refusal: number, name, one sentence, whether a retry helps. Pure.
//!
//! The numbers are those of `proto/hubbub/v1/error.proto`; the same number stands in the frame, the
//! HTTP body, the log, the metric and `hubbub explain NUMBER`.

use std::fmt;

macro_rules! codes {
    ($(#[$enum_doc:meta])* $name:ident : $repr:ty {
        $($variant:ident = $number:literal, $text:literal, $sentence:literal, $again:ident;)*
    }) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr($repr)]
        pub enum $name {
            $(#[doc = $sentence] $variant = $number,)*
        }

        impl $name {
            /// Every code, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The number on the wire. Never reused.
            #[must_use]
            pub const fn number(self) -> $repr {
                self as $repr
            }

            /// The name, in snake_case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// What it means, in one sentence.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }

            /// Whether trying again, unchanged, may help.
            #[must_use]
            pub const fn again(self) -> bool {
                match self { $(Self::$variant => codes!(@ $again),)* }
            }

            /// The code with this number.
            #[must_use]
            pub const fn from_number(number: $repr) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} ({})", self.name(), self.number())
            }
        }
    };
    (@ again) => { true };
    (@ final) => { false };
}

codes! {
    /// Why a command or a request was refused.
    ErrorCode: u16 {
        BadRequest = 100, "bad_request", "The frame or the request could not be understood.", final;
        UnknownCommand = 101, "unknown_command", "The envelope holds no command that this server knows.", final;
        MessageTooLarge = 102, "message_too_large", "The message is larger than the server takes.", final;
        NotFound = 103, "not_found", "There is nothing at this address.", final;
        MethodNotAllowed = 104, "method_not_allowed", "This address does not take this method.", final;
        UnsupportedMediaType = 105, "unsupported_media_type", "The body has a content type that this address does not take.", final;

        NotAuthenticated = 200, "not_authenticated", "A valid login is needed first.", final;
        InvalidToken = 201, "invalid_token", "The token is not one that this server accepts.", final;
        TokenExpired = 202, "token_expired", "The token has run out; get a fresh one.", final;
        Forbidden = 203, "forbidden", "This user may not do that.", final;
        InvalidCredentials = 204, "invalid_credentials", "The user name or the password is wrong.", final;
        UsernameTaken = 205, "username_taken", "Another account has this user name.", final;
        InvalidUsername = 206, "invalid_username", "The user name has a form that is not allowed.", final;
        InvalidPassword = 207, "invalid_password", "The password is too short, too long or too common.", final;
        WrongUser = 208, "wrong_user", "A connection can be renewed only with a token of the same user.", final;
        UnknownUser = 209, "unknown_user", "There is no such user.", final;

        UnknownChannel = 300, "unknown_channel", "There is no such channel, or it is not for this user.", final;
        ChannelExists = 301, "channel_exists", "A channel of this name exists already.", final;
        InvalidChannelName = 302, "invalid_channel_name", "The channel name has a form that is not allowed.", final;
        AlreadySubscribed = 303, "already_subscribed", "This connection is subscribed to the channel already.", final;
        NotSubscribed = 304, "not_subscribed", "This connection is not subscribed to the channel.", final;
        EpochChanged = 305, "epoch_changed", "The channel's numbering began anew since that position; load it from the start.", final;
        PositionAhead = 306, "position_ahead", "The channel has not reached that position: messages that were seen are gone.", final;
        ChannelArchived = 307, "channel_archived", "The channel is archived; it takes no messages.", final;
        LastOwner = 308, "last_owner", "A channel needs an owner; make another member one first.", final;
        NotAMember = 309, "not_a_member", "The user is not a member of the channel.", final;

        EmptyMessage = 400, "empty_message", "A message needs a body.", final;
        IdempotencyConflict = 401, "idempotency_conflict", "This client_message_id stands for another message already.", final;
        QuotaExhausted = 402, "quota_exhausted", "The channel has accepted all that it ever will.", final;

        Busy = 500, "busy", "Too much waits for this; try again after the hinted time.", again;
        RateLimited = 501, "rate_limited", "This user or connection does that too often; slow down.", again;
        TooMany = 502, "too_many", "A limit on how many of these there may be is reached.", final;
        Overloaded = 503, "overloaded", "The server has no room for this now; try again after the hinted time.", again;

        Internal = 600, "internal", "The server made a mistake.", again;
        StorageUnavailable = 601, "storage_unavailable", "The server cannot store messages now; nothing was stored.", again;
        ChannelSealed = 602, "channel_sealed", "The channel's stored log is damaged; it takes no messages until it is repaired.", final;
        Draining = 603, "draining", "The server is about to stop; reconnect and try again.", again;
    }
}

codes! {
    /// Why the server closed a connection. RFC 6455's own codes keep their meaning for frames.
    CloseCode: u16 {
        Normal = 1000, "normal", "The client closed.", final;
        ProtocolError = 1002, "protocol_error", "The frame breaks RFC 6455.", final;
        UnsupportedData = 1003, "unsupported_data", "A text frame came on a binary connection, or the other way round.", final;
        InvalidUtf8 = 1007, "invalid_utf8", "A text frame is not UTF-8.", final;
        PolicyViolation = 1008, "policy_violation", "A frame was left unfinished for too long.", final;
        MessageTooBig = 1009, "message_too_big", "The message is larger than the server takes.", final;
        InternalError = 1011, "internal_error", "The server made a mistake.", again;
        TryAgainLater = 1013, "try_again_later", "The server has no room for another connection now.", again;
        GoingAway = 4000, "going_away", "The server drains; reconnect after the hinted time.", again;
        TokenExpired = 4001, "token_expired", "The token ran out and was not renewed on the connection.", again;
        PongTimeout = 4002, "pong_timeout", "No pong came in time; the connection was taken for dead.", again;
        SlowConsumer = 4008, "slow_consumer", "The client did not take its frames; resume from your position.", again;
        Replaced = 4010, "replaced", "A newer connection resumed the same session.", again;
        Overloaded = 4013, "overloaded", "The connection was accepted, then shed.", again;
        RateLimited = 4029, "rate_limited", "Limits were ignored for too long.", again;
        InvalidToken = 4500, "invalid_token", "The token is wrong, forged or for another audience.", final;
        NotAuthenticated = 4501, "not_authenticated", "No valid login came within the deadline.", final;
        Forbidden = 4503, "forbidden", "The account is banned, revoked or disabled.", final;
        ProtocolViolation = 4505, "protocol_violation", "Frames could not be decoded, three times or before login.", final;
        UnsupportedVersion = 4506, "unsupported_version", "Client and server have no subprotocol in common.", final;
    }
}

#[cfg(test)]
mod tests {
    use super::{CloseCode, ErrorCode};
    use crate::wire::proto;

    #[test]
    fn every_error_code_has_the_number_and_name_of_the_proto() {
        for code in ErrorCode::ALL {
            let in_proto = proto::error::Code::try_from(i32::from(code.number())).unwrap();
            assert_eq!(in_proto.as_str_name().to_lowercase(), code.name());
        }
        for number in 1..1000 {
            let in_proto = proto::error::Code::try_from(number).is_ok();
            let in_table = ErrorCode::from_number(u16::try_from(number).unwrap()).is_some();
            assert_eq!(in_proto, in_table, "{number}");
        }
    }

    #[test]
    fn every_close_code_of_ours_has_the_number_and_name_of_the_proto() {
        for number in 4000..5000 {
            let in_table = CloseCode::from_number(u16::try_from(number).unwrap());
            let in_proto = proto::CloseCode::try_from(number).ok();
            assert_eq!(
                in_proto.map(|code| code.as_str_name().to_lowercase()),
                in_table.map(|code| code.name().to_owned()),
            );
        }
    }

    #[test]
    fn a_close_code_says_by_its_range_whether_to_reconnect() {
        for code in CloseCode::ALL.iter().filter(|code| code.number() >= 4000) {
            assert_eq!(code.again(), code.number() < 4500, "{code}");
        }
    }
}
