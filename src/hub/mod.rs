//! The hub: shards, channels, fan-out.
//!
//! A message enters in [`shard`] as a command, becomes a draft in [`channel`], gets its place in
//! [`sequencer`], is committed by the engine, and leaves through [`fanout`] into the [`outbox`] of
//! every subscriber. `channel`, `sequencer`, `fanout` and `outbox` are pure and synchronous: the
//! shard performs their effects, and so does the simulation in the tests.

use std::{net::TcpStream, sync::Arc};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::{log::place::UserId, websocket::deflate::Agreed, wire::Encoding};

pub mod channel;
pub mod deflater;
pub mod directory;
pub mod fanout;
pub mod outbox;
pub mod sequencer;
pub mod shard;

/// A connection of a shard. The generation tells it from an earlier one in the same slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionKey {
    /// Its place in the shard's table.
    pub slot: u32,
    /// How many connections had this place before.
    pub generation: u32,
}

/// How the frames of one connection are written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Format {
    /// Of the envelopes in them.
    pub encoding: Encoding,
    /// What was agreed on about compression, if it was.
    pub deflate: Option<Agreed>,
}

impl Format {
    /// Without compression.
    #[must_use]
    pub const fn plain(encoding: Encoding) -> Self {
        Self { encoding, deflate: None }
    }
}

/// Who waits for the answer to a command, and what it is called there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket {
    /// The connection.
    pub connection: ConnectionKey,
    /// The client's correlation id.
    pub id: u32,
}

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
    /// What was agreed in the handshake.
    pub format: Format,
    /// The login, if the handshake carried a token.
    pub identity: Option<Identity>,
    /// Its place among the process's connections. To be held as long as the socket is.
    pub permit: Permit,
}

/// What a shard's thread is told from outside.
#[derive(Debug)]
pub enum ShardInput {
    /// A new connection.
    Connection(Handover),
    /// Finish what was accepted, close every connection, then say so.
    Drain(oneshot::Sender<()>),
}

/// The way into the hub. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hub {
    mailbox: mpsc::Sender<ShardInput>,
}

impl Hub {
    /// The hub behind this mailbox of its shard.
    #[must_use]
    pub const fn new(mailbox: mpsc::Sender<ShardInput>) -> Self {
        Self { mailbox }
    }

    /// Gives a connection to a shard.
    ///
    /// # Errors
    /// The handover itself, when the hub has no room for it now.
    pub fn hand_over(&self, handover: Handover) -> Result<(), Handover> {
        self.mailbox.try_send(ShardInput::Connection(handover)).map_err(|error| {
            match error.into_inner() {
                ShardInput::Connection(handover) => handover,
                ShardInput::Drain(_) => unreachable!("what comes back is what was sent"),
            }
        })
    }

    /// Finishes what was accepted and closes every connection.
    pub async fn drain(&self) {
        let (done, is_done) = oneshot::channel();
        if self.mailbox.send(ShardInput::Drain(done)).await.is_ok() {
            // An error means that the shard is gone already, and its connections with it.
            let _ = is_done.await;
        }
    }
}
