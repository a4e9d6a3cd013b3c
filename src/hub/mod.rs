//! The hub: shards, channels, fan-out.

use std::{net::TcpStream, sync::Arc};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::{log::place::UserId, wire::Encoding};

/// Who a connection belongs to, and until when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// The display name.
    pub name: String,
    /// When the token runs out, in seconds since 1970.
    pub expires_at: u64,
}

/// Counts one open connection against the process's bound. Makes room when the last clone drops, so
/// whoever holds the socket holds one.
#[derive(Clone, Debug, Default)]
pub struct Permit(
    #[expect(dead_code, reason = "held for its drop")] Option<Arc<OwnedSemaphorePermit>>,
);

impl Permit {
    /// A permit that gives its place back on drop. The default one counts nothing.
    #[must_use]
    pub fn new(place: OwnedSemaphorePermit) -> Self {
        Self(Some(Arc::new(place)))
    }
}

/// A WebSocket whose handshake is done, on its way from the edge to a shard.
#[derive(Debug)]
pub struct Handover {
    /// The socket, non-blocking.
    pub stream: TcpStream,
    /// What the client sent behind its handshake.
    pub early: Bytes,
    /// The agreed subprotocol.
    pub encoding: Encoding,
    /// The login, if the handshake carried a token.
    pub identity: Option<Identity>,
    /// Its place among the process's connections. To be held as long as the socket is.
    pub permit: Permit,
}

/// The way into the hub. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hub {}

impl Hub {
    /// Gives a connection to a shard.
    ///
    /// # Errors
    /// The handover itself, when the hub has no room for it now.
    pub fn hand_over(&self, handover: Handover) -> Result<(), Handover> {
        Err(handover)
    }
}
