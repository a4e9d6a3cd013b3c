//! What is asked of a channel by somebody without a connection: a request of the HTTP API, or a command
//! that is decided on elsewhere than where its connection is.
//!
//! A call goes straight to the shard that owns the channel, and its one answer straight back. Nothing
//! of it crosses from shard to shard.

use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use slab::Slab;
use tokio::sync::oneshot;

use super::{
    Asked, ConnectionKey, ShardId, Ticket,
    directory::ChannelInfo,
    rights::{Author, Change},
};
use crate::{
    limits::{CALLS_GATHERED_MAX, CALLS_MAX},
    log::place::{ClientMessageId, Position, UserId},
    wire::{code::ErrorCode, decode::Page, encode::Reply},
};

/// Something wanted of a channel, and who waits for the answer.
#[derive(Debug)]
pub struct Call {
    /// The channel.
    pub channel: ChannelInfo,
    /// What is wanted of it.
    pub wanted: Wanted,
    /// Where the answer goes. Who waited may have gone: what was done stays done.
    pub reply: oneshot::Sender<Reply>,
}

/// What is wanted of a channel.
#[derive(Debug)]
pub enum Wanted {
    /// To publish.
    Publish {
        /// By whom.
        author: Author,
        /// The author's number for it.
        client_message_id: Option<ClientMessageId>,
        /// The text. Not empty.
        body: String,
    },
    /// To read a page of history.
    History(UserId, Page),
    /// To know who is there.
    Presence(UserId),
    /// To tell those who are there that a user is writing.
    Typing(UserId),
    /// To tell a user's other connections how far the user has read.
    MarkedRead {
        /// Who.
        user: UserId,
        /// What is durable.
        read: Position,
        /// The connection that knows already.
        by: Option<ConnectionKey>,
    },
    /// To change its members or settings.
    Change(UserId, Change),
}

impl Call {
    /// Answers that it is not done.
    pub fn refuse(self, code: ErrorCode) {
        // An error means that nobody waits any more.
        let _ = self.reply.send(Reply::Refused(code.into()));
    }
}

/// The calls that wait to go to one shard together, at most [`CALLS_GATHERED_MAX`]. Beyond it: `busy`.
#[derive(Debug, Default)]
pub struct Gathering(Mutex<Vec<Call>>);

impl Gathering {
    /// Adds one. Whether it is the first, whose caller sees to it that they go.
    ///
    /// # Errors
    /// When too many wait.
    pub fn add(&self, call: Call) -> Result<bool, ErrorCode> {
        let mut calls = self.lock();
        if calls.len() >= CALLS_GATHERED_MAX {
            return Err(ErrorCode::Busy);
        }
        calls.push(call);
        Ok(calls.len() == 1)
    }

    /// Takes all of them.
    pub fn take(&self) -> Vec<Call> {
        let mut calls = self.lock();
        // The next ones are likely to be about as many.
        let next = Vec::with_capacity(calls.len());
        mem::replace(&mut *calls, next)
    }

    /// Nothing that can panic is done with it.
    fn lock(&self) -> MutexGuard<'_, Vec<Call>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The calls that one shard has not answered, at most [`CALLS_MAX`]. Beyond it: `busy`.
#[derive(Debug, Default)]
pub struct Calls {
    waiting: Slab<oneshot::Sender<Reply>>,
}

impl Calls {
    /// Notes who waits.
    ///
    /// # Errors
    /// The waiter itself, when too many wait.
    pub fn begin(
        &mut self,
        shard: ShardId,
        reply: oneshot::Sender<Reply>,
    ) -> Result<Ticket, oneshot::Sender<Reply>> {
        if self.waiting.len() >= CALLS_MAX {
            return Err(reply);
        }
        let id = u32::try_from(self.waiting.insert(reply)).expect("CALLS_MAX has 32 bits");
        // No connection has generation 0.
        let connection = ConnectionKey { shard, slot: 0, generation: 0 };
        Ok(Ticket { connection, id, asked: Asked::Call })
    }

    /// Hands an answer to who waits for it.
    pub fn end(&mut self, ticket: Ticket, reply: Reply) {
        if let Some(waiting) = self.waiting.try_remove(ticket.id as usize) {
            // An error means that nobody waits any more.
            let _ = waiting.send(reply);
        }
    }
}
