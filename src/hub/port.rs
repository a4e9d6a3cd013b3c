//! The shard's end of one connection. Hot: fan-out touches it for each delivery.
//!
//! Shared by the shard and the connection's task, on the same thread.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
};

use tokio::sync::Notify;

use super::{ConnectionKey, Format, outbox::Outbox};
use crate::{
    log::place::ChannelId,
    wire::{Encoding, code::CloseCode},
};

/// The shard's end of one connection: where its frames wait.
#[derive(Debug)]
pub struct Port<S> {
    pub(super) key: ConnectionKey,
    pub(super) format: Format,
    /// What the frames are written to.
    pub socket: S,
    /// The frames.
    pub outbox: RefCell<Outbox>,
    /// The socket took less than was written last time.
    pub is_blocked: Cell<bool>,
    /// Rung when the connection's task must look: at a blocked outbox, or at a close.
    pub wake: Notify,
    pub(super) is_dirty: Cell<bool>,
    pub(super) closing: Cell<Option<CloseCode>>,
    pub(super) subscriptions: RefCell<HashSet<ChannelId>>,
    pub(super) history_reads: Cell<u8>,
}

impl<S> Port<S> {
    /// The end of a connection that was just taken in.
    pub(super) fn new(
        key: ConnectionKey,
        format: Format,
        socket: S,
        outbox_bytes_max: usize,
    ) -> Self {
        Self {
            key,
            format,
            socket,
            outbox: RefCell::new(Outbox::new(outbox_bytes_max)),
            is_blocked: Cell::new(false),
            wake: Notify::new(),
            is_dirty: Cell::new(false),
            closing: Cell::new(None),
            subscriptions: RefCell::new(HashSet::new()),
            history_reads: Cell::new(0),
        }
    }

    /// Why this connection is being closed, if it is.
    pub const fn closing(&self) -> Option<CloseCode> {
        self.closing.get()
    }

    /// How its envelopes are written.
    pub const fn encoding(&self) -> Encoding {
        self.format.encoding
    }
}
