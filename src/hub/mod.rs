//! The hub: shards, channels, fan-out.
//!
//! A message enters in [`shard`] as a command, becomes a draft in [`channel`], gets its place in
//! [`sequencer`], is committed by the engine, and leaves through [`fanout`] into the [`outbox`] of
//! every subscriber. What is for another shard goes by [`crossing`]. `channel`, `sequencer`, `fanout`,
//! `outbox` and `cork` are pure and synchronous: the shard performs their effects, and so does the
//! simulation in the tests.

use std::{
    net::TcpStream,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use rustls::ServerConnection;
use tokio::{
    runtime::Handle,
    sync::{
        OwnedSemaphorePermit,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    task::yield_now,
};

use self::{
    calls::{Call, Gathering, Wanted},
    cluster::News,
    directory::ChannelInfo,
    revoked::Claim,
};

use crate::{
    log::place::{ChannelId, Cursor, Head, UserId},
    websocket::deflate::Agreed,
    wire::{Encoding, code::ErrorCode, encode::Reply},
};

pub mod allowance;
pub mod bans;
pub mod calls;
pub mod channel;
pub mod cluster;
pub mod cork;
pub mod crossing;
pub mod deflater;
pub mod desk;
pub mod directory;
pub mod ephemeral;
pub mod fanout;
pub mod list_cursor;
pub mod outbox;
pub mod port;
pub mod presence;
mod read_markers;
pub mod revocations;
pub mod revoked;
pub mod rights;
pub mod sequencer;
pub mod shard;
pub mod webhooks;

/// A shard of this process, by its place: 0, 1, 2, …
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShardId(pub u16);

/// A connection. The generation tells it from an earlier one in the same slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionKey {
    /// Where its outbox is.
    pub shard: ShardId,
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

/// Who waits for the answer to a command, and what it is called there. A command has exactly one
/// answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket {
    /// The connection.
    pub connection: ConnectionKey,
    /// The client's correlation id.
    pub id: u32,
    /// What it waits for.
    pub asked: Asked,
}

/// The commands that a channel answers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Asked {
    /// To publish.
    Publish,
    /// To subscribe.
    Subscribe,
    /// To unsubscribe.
    Unsubscribe,
    /// To read a page of history.
    History,
    /// Anything, by somebody without a connection: the id is that of a [`calls::Call`].
    Call,
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
    /// What the login will be known by. Boxed: it goes from thread to thread in large messages.
    pub claim: Box<Claim>,
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
    /// Its TLS session, if it has one. Nothing that it decrypted is still in it.
    pub tls: Option<Box<ServerConnection>>,
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
    /// Take this step of a drain, then say so.
    Drain(DrainStep, oneshot::Sender<()>),
    /// Do these for those without a connection.
    Calls(Vec<Call>),
    /// Entries were appended to a channel's log by an import.
    Imported(Imported),
    /// Other nodes have committed, tell or are this.
    News(News),
}

/// Entries that were appended to a channel's log by an import.
#[derive(Clone, Copy, Debug)]
pub struct Imported {
    /// The channel.
    pub channel: ChannelId,
    /// The entry before the first of them.
    pub after: Cursor,
    /// Where the log ends with the last of them.
    pub head: Head,
}

/// The steps in which a hub stops. All shards take one before any takes the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DrainStep {
    /// Send the connections to the other nodes, slice by slice, and go on with those that stay. Within
    /// this time.
    Leave(Duration),
    /// Take no further publishes, and tell every connection.
    Stop,
    /// Finish every publish that was taken in. When all shards have, each is answered.
    Finish,
    /// Hand out what other shards still tell, and close every connection.
    Close,
}

/// The way into the hub. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hub {
    mailboxes: Arc<[Mailbox]>,
    /// Counts the connections that were handed over, to spread them.
    handed_over: Arc<AtomicUsize>,
}

/// The way to one shard.
#[derive(Debug)]
struct Mailbox {
    inputs: mpsc::Sender<ShardInput>,
    /// Calls go together: to wake a shard for each took more than all else about it.
    calls: Gathering,
}

impl Mailbox {
    /// Hands the shard the calls that have gathered.
    fn send_calls(&self) {
        if let Err(TrySendError::Full(ShardInput::Calls(calls))) =
            self.inputs.try_send(ShardInput::Calls(self.calls.take()))
        {
            calls.into_iter().for_each(|call| call.refuse(ErrorCode::Busy));
        }
        // Where the shard has ended, so has who waits for it, when the call is dropped.
    }

    /// Tells the shard something of other nodes. Whether it had room to be told.
    fn tell(&self, news: News) -> bool {
        self.inputs.try_send(ShardInput::News(news)).is_ok()
    }
}

/// Sees to it that calls go to their shard, whatever becomes of who waits with them.
struct Departure<'m>(&'m Mailbox);

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        self.0.send_calls();
    }
}

/// The way into the hub, for who must not keep it open: a shard, whose mailbox ends with the hub.
#[derive(Clone, Debug)]
pub struct WeakHub {
    mailboxes: Weak<[Mailbox]>,
    handed_over: Arc<AtomicUsize>,
}

impl WeakHub {
    /// The hub, if it is still open.
    #[must_use]
    pub fn upgrade(&self) -> Option<Hub> {
        let handed_over = Arc::clone(&self.handed_over);
        self.mailboxes.upgrade().map(|mailboxes| Hub { mailboxes, handed_over })
    }
}

impl Hub {
    /// The same, without keeping it open.
    #[must_use]
    pub fn downgrade(&self) -> WeakHub {
        let mailboxes = Arc::downgrade(&self.mailboxes);
        WeakHub { mailboxes, handed_over: Arc::clone(&self.handed_over) }
    }

    /// The hub behind these mailboxes of its shards.
    #[must_use]
    pub fn new(mailboxes: Vec<mpsc::Sender<ShardInput>>) -> Self {
        let mailbox = |inputs| Mailbox { inputs, calls: Gathering::default() };
        let mailboxes = mailboxes.into_iter().map(mailbox).collect();
        Self { mailboxes, handed_over: Arc::default() }
    }

    /// Gives a connection to the next shard in turn, or to the first after it that has room.
    ///
    /// # Errors
    /// The handover itself, when the hub has no room for it now.
    pub fn hand_over(&self, handover: Handover) -> Result<(), Handover> {
        let turn = self.handed_over.fetch_add(1, Ordering::Relaxed);
        let shards = self.mailboxes.len();
        let mut input = ShardInput::Connection(handover);
        for place in 0..shards {
            match self.mailboxes[(turn.wrapping_add(place)) % shards].inputs.try_send(input) {
                Ok(()) => return Ok(()),
                Err(error) => input = error.into_inner(),
            }
        }
        match input {
            ShardInput::Connection(handover) => Err(handover),
            _ => unreachable!("what comes back is what was sent"),
        }
    }

    /// Asks the shard that owns a channel for something, and waits for its answer, which does not keep
    /// the hub open.
    pub async fn call(self, channel: ChannelInfo, wanted: Wanted) -> Reply {
        let (reply, answer) = oneshot::channel();
        if let Err(code) = self.bring(Call { channel, wanted, reply }).await {
            return Reply::Refused(code.into());
        }
        drop(self);
        // No answer: the shard has ended, as the process does.
        answer.await.unwrap_or(Reply::Refused(ErrorCode::Draining.into()))
    }

    /// The same for several, whose order stays, and whose answers come in it.
    pub async fn call_each(self, channel: &ChannelInfo, wanted: Vec<Wanted>) -> Vec<Reply> {
        let mut answers = Vec::with_capacity(wanted.len());
        if let Some(mailbox) = self.owner(channel.id) {
            let mut departure = None;
            for wanted in wanted {
                let (reply, answer) = oneshot::channel();
                let call = Call { channel: channel.clone(), wanted, reply };
                let added = mailbox.calls.add(call);
                if let Ok(true) = added {
                    departure = Some(Departure(mailbox));
                }
                answers.push(added.map(|_| answer));
            }
            if departure.is_some() {
                yield_now().await;
            }
        }
        drop(self);
        let mut replies = Vec::with_capacity(answers.len());
        for answer in answers {
            replies.push(match answer {
                Ok(answer) => answer.await.unwrap_or(Reply::Refused(ErrorCode::Draining.into())),
                Err(code) => Reply::Refused(code.into()),
            });
        }
        replies
    }

    /// Brings a call to the shard that owns its channel, together with those that other tasks which are
    /// ready now have.
    async fn bring(&self, call: Call) -> Result<(), ErrorCode> {
        let mailbox = self.owner(call.channel.id).ok_or(ErrorCode::Draining)?;
        if mailbox.calls.add(call)? {
            let departure = Departure(mailbox);
            yield_now().await;
            drop(departure);
        }
        Ok(())
    }

    /// Tells the shard that owns a channel of what was imported into it. If it has no room to be told,
    /// that is the errand of a task on this runtime.
    pub fn imported(&self, imported: Imported, runtime: &Handle) {
        let Some(owner) = self.owner(imported.channel) else { return };
        if let Err(TrySendError::Full(input)) =
            owner.inputs.try_send(ShardInput::Imported(imported))
        {
            let owner = owner.inputs.clone();
            // An error means that the shard has ended, as the process does.
            runtime.spawn(async move { owner.send(input).await });
        }
    }

    fn owner(&self, channel: ChannelId) -> Option<&Mailbox> {
        let shards = u16::try_from(self.mailboxes.len()).ok().filter(|shards| *shards > 0)?;
        self.mailboxes.get(usize::from(crossing::owner(channel, shards).0))
    }

    /// Finishes what was accepted and closes every connection. With `leave_within`, where there are other
    /// nodes to go to, most are closed a slice at a time before, within that time.
    pub async fn drain(&self, leave_within: Option<Duration>) {
        let leave = leave_within.map(DrainStep::Leave);
        let end = [DrainStep::Stop, DrainStep::Finish, DrainStep::Close];
        for step in leave.into_iter().chain(end) {
            let mut steps = Vec::with_capacity(self.mailboxes.len());
            for mailbox in &*self.mailboxes {
                let (done, is_done) = oneshot::channel();
                if mailbox.inputs.send(ShardInput::Drain(step, done)).await.is_ok() {
                    steps.push(is_done);
                }
            }
            for is_done in steps {
                // An error means that the shard is gone already, and its connections with it.
                let _ = is_done.await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
