//! What a channel wants done, and why it reads its log. Hot. Pure.

use std::sync::Arc;

use super::ephemeral::Cooling;
use crate::{
    engine::{Append, ReadFrom, ReadMax, bus::NodeId},
    hub::{
        ConnectionKey, Ticket,
        directory::ChannelInfo,
        ephemeral::{Announcement, Attendant},
        fanout::{Delivery, Subscriber},
        sequencer::ForwardedPublish,
    },
    limits::{READ_BYTES_MAX, TAIL_BYTES_MAX},
    log::place::{BatchId, ClientMessageId, Sequence, UserId},
    wire::{
        channels::PresenceView,
        decode::Page,
        encode::{Control, Reply},
    },
};

/// What the shard must do for a channel.
#[derive(Debug)]
pub enum Effect {
    /// Hand this to the engine, and its answer to [`Channel::appended`](super::Channel::appended).
    Append(Append),
    /// Read the log, and hand the answer to [`Channel::read_done`](super::Channel::read_done).
    Read(ReadFrom, Purpose),
    /// Call [`Channel::recover`](super::Channel::recover) after a while.
    RecoverLater,
    /// The same after a short time that is drawn, from a range that grows with this number.
    ContendLater(u32),
    /// Ask this node to write these, and hand its answer to
    /// [`Channel::forwarded`](super::Channel::forwarded).
    Forward(BatchId, NodeId, Vec<ForwardedPublish>),
    /// Call [`Channel::seek`](super::Channel::seek) after a while.
    SeekLater,
    /// Put the frame of this batch into the outboxes of all live subscribers: those who have joined
    /// by an effect before this one, and have not left.
    FanOut(Arc<Delivery>),
    /// Put what this batch holds after a place into one connection's outbox.
    Replay(Subscriber, Arc<Delivery>, Sequence),
    /// The connection has been handed everything before, and is live from here on.
    Join(Subscriber),
    /// The connection, which has joined, is no longer live.
    Leave(ConnectionKey),
    /// The connection asked for what is not in the log: it is told this of who is there, and gets what
    /// is announced from here on.
    Attend(Attendant, Box<PresenceView>),
    /// The connection, which has attended, does not any more.
    Unattend(ConnectionKey),
    /// Put this into the outboxes of all who attend, as far as there is room.
    Announce(Arc<Announcement>),
    /// Other nodes are to be told of who came and went, by [`Channel::take_untold`](super::Channel::take_untold).
    Untold,
    /// Tell other nodes that these are writing.
    TellTyping(Vec<UserId>),
    /// Call [`Channel::cooled`](super::Channel::cooled) after this.
    CoolDown(Cooling),
    /// Answer a command.
    Reply(Ticket, Reply),
    /// Tell a connection something.
    Tell(ConnectionKey, Control),
    /// Tell a connection, which attends, something, if there is room.
    TellIfRoom(ConnectionKey, Control),
    /// The connection is no longer a subscriber, nor about to be one, though it did not ask for that.
    Ended(ConnectionKey),
    /// The stored log is damaged: an operator must know.
    Sealed,
    /// Ask the engine which of these publishes are in the log, and hand the answer to
    /// [`Channel::keys_found`](super::Channel::keys_found).
    FindKeys(Vec<(UserId, ClientMessageId)>),
    /// Read the channel's record and its members, and hand them to
    /// [`Channel::rights_read`](super::Channel::rights_read).
    ReadRights,
    /// Whoever looks this channel up must find it so.
    Learn(ChannelInfo),
    /// A user is no member any more: whoever looks that up must find it so.
    ForgetMember(UserId),
    /// The channel is no more: nobody may find it, and its data is to be removed.
    Forget,
}

impl Effect {
    /// The one connection that it concerns, if it does.
    #[must_use]
    pub const fn connection(&self) -> Option<ConnectionKey> {
        match self {
            Self::Replay(Subscriber { connection, .. }, ..)
            | Self::Join(Subscriber { connection, .. })
            | Self::Leave(connection)
            | Self::Attend(Attendant { connection, .. }, _)
            | Self::Unattend(connection)
            | Self::Reply(Ticket { connection, .. }, _)
            | Self::Tell(connection, _)
            | Self::TellIfRoom(connection, _)
            | Self::Ended(connection) => Some(*connection),
            Self::Append(_)
            | Self::Read(..)
            | Self::RecoverLater
            | Self::ContendLater(_)
            | Self::Forward(..)
            | Self::SeekLater
            | Self::FanOut(_)
            | Self::Announce(_)
            | Self::Untold
            | Self::TellTyping(_)
            | Self::CoolDown(_)
            | Self::Sealed
            | Self::FindKeys(_)
            | Self::ReadRights
            | Self::Learn(_)
            | Self::ForgetMember(_)
            | Self::Forget => None,
        }
    }
}

/// Why a channel reads its log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// To learn its head and fill its tail.
    Load,
    /// To find what was committed after its head.
    CatchUp,
    /// To serve a resume.
    Replay(ConnectionKey),
    /// To serve a page to a user.
    History(Ticket, UserId, Page),
}

impl Purpose {
    /// How much of the log is wanted at once.
    #[must_use]
    pub fn read_max(self) -> ReadMax {
        match self {
            Self::Load => TAIL_BYTES_MAX.into(),
            Self::CatchUp | Self::Replay(_) => READ_BYTES_MAX.into(),
            Self::History(_, _, page) => {
                ReadMax { bytes: READ_BYTES_MAX, messages: page.limit.into() }
            }
        }
    }
}
