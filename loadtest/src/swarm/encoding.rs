//! What the users write their envelopes in, as the subprotocol that they ask for says. Pure.
//!
//! What comes as JSON is turned into protobuf, and read on as that: a detour which costs this program
//! more than a reader of JSON would, but leaves one path from a message to the audit.

use hubbub::wire::proto;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::frame::Opcode;

/// Binary frames of protobuf, or text frames of its JSON mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    #[default]
    Proto,
    Json,
}

/// What a server must not send as JSON.
#[derive(Debug, Error)]
#[error("a text that is no envelope")]
pub(crate) struct NoEnvelope(#[source] serde_json::Error);

impl Encoding {
    pub(crate) const fn subprotocol(self) -> &'static str {
        match self {
            Self::Proto => "hubbub.v1.proto",
            Self::Json => "hubbub.v1.json",
        }
    }

    /// Of the frames that hold envelopes.
    pub(crate) const fn opcode(self) -> Opcode {
        match self {
            Self::Proto => Opcode::Binary,
            Self::Json => Opcode::Text,
        }
    }

    /// Appends a client's envelope.
    pub(crate) fn write(self, envelope: &proto::ClientEnvelope, out: &mut Vec<u8>) {
        match self {
            Self::Proto => envelope.encode(out).expect("a vector takes every write"),
            Self::Json => {
                serde_json::to_writer(out, envelope).expect("every envelope has a form in JSON");
            }
        }
    }
}

/// A server's envelope in JSON, as protobuf.
pub(crate) fn to_proto(json: &[u8]) -> Result<Vec<u8>, NoEnvelope> {
    let envelope: proto::ServerEnvelope = serde_json::from_slice(json).map_err(NoEnvelope)?;
    Ok(envelope.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use hubbub::wire::proto::{client_envelope::Command, server_envelope::Envelope};

    use super::*;

    #[test]
    fn an_envelope_is_written_as_its_subprotocol_says() {
        let command = Command::CreateChannel(proto::CreateChannel {
            channel_name: "a".to_owned(),
            ..Default::default()
        });
        let envelope = proto::ClientEnvelope { id: 7, command: Some(command) };
        let mut out = Vec::new();
        Encoding::Json.write(&envelope, &mut out);
        assert_eq!(out, br#"{"id":7,"createChannel":{"channelName":"a"}}"#);
        out.clear();
        Encoding::Proto.write(&envelope, &mut out);
        assert_eq!(proto::ClientEnvelope::decode(&out[..]).unwrap(), envelope);
    }

    #[test]
    fn what_comes_as_json_is_read_as_protobuf() {
        let json = br#"{"messages":{"channelId":3,"firstSequence":"18446744073709551615"}}"#;
        let read = proto::ServerEnvelope::decode(&to_proto(json).unwrap()[..]).unwrap();
        let Some(Envelope::Messages(messages)) = read.envelope else { panic!("{read:?}") };
        assert_eq!((messages.channel_id, messages.first_sequence), (3, u64::MAX));
        for wrong in [&b"{"[..], b"[]", b"\xff", b""] {
            assert_eq!(to_proto(wrong).unwrap_err().to_string(), "a text that is no envelope");
        }
    }
}
