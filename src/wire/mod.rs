//! The wire contract as Rust: the generated types, and what the server makes of them.

pub mod channels;
pub mod code;
pub mod decode;
pub mod encode;
pub mod record;
pub mod stored;

/// The messages of `proto/hubbub/v1`, and their proto3 JSON mapping.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::unwrap_used)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/hubbub.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/hubbub.v1.serde.rs"));
}

/// The messages of `proto/hubbub/cluster/v1`, which nodes of a cluster tell one another.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::unwrap_used)]
pub mod cluster {
    include!(concat!(env!("OUT_DIR"), "/hubbub.cluster.v1.rs"));
}

/// The compiled `proto/`, as a `google.protobuf.FileDescriptorSet`: for the contract test, and for
/// tools that read any message.
pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

/// How a connection's envelopes are written: chosen once, by the WebSocket subprotocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Encoding {
    /// Binary frames that hold protobuf.
    Proto,
    /// Text frames that hold the proto3 JSON mapping of the same messages.
    Json,
}

impl Encoding {
    /// Every encoding, the preferred first.
    pub const ALL: [Self; 2] = [Self::Proto, Self::Json];

    /// The name of the WebSocket subprotocol.
    #[must_use]
    pub const fn subprotocol(self) -> &'static str {
        match self {
            Self::Proto => "hubbub.v1.proto",
            Self::Json => "hubbub.v1.json",
        }
    }

    /// The encoding that a subprotocol of this name asks for.
    #[must_use]
    pub fn from_subprotocol(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|encoding| encoding.subprotocol() == name)
    }
}
