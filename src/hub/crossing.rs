//! What crosses from one shard to another: one message per destination and turn. Hot.
//!
//! A channel is decided on by one shard, its owner, and a connection lives on one shard, not always
//! the same. So there are two ways between any two shards, each first in, first out:
//!
//! - **asks**: what connections want of channels that are owned elsewhere;
//! - **answers**: what an owner decides about connections elsewhere, and each committed batch once,
//!   however many subscribers there are.
//!
//! All that a channel decides about one connection goes the same way, in the order in which it was
//! decided; so the connection is handed exactly what it would be handed beside its channel.
//!
//! Nothing here waits and nothing is dropped. What the destination's mailbox has no room for stays
//! in its [`Lane`] and goes with what comes next; whoever fills a lane looks at its bound before. An
//! answer is always taken in, and leads to nothing that crosses; asks are taken in only while there
//! is room for their answers. So asks wait for answers and answers for nobody: no two shards can
//! wait for each other.

use std::{mem, sync::Arc};

use tokio::sync::mpsc::{self, OwnedPermit, error::TrySendError};

use super::{
    ConnectionKey, ShardId, Ticket,
    channel::{Effect, Subscribe},
    directory::ChannelInfo,
    ephemeral::{Announcement, named},
    fanout::Delivery,
    sequencer::Draft,
};
use crate::{
    limits::{ASKS_ABROAD_MAX, CROSSING_BYTES_MAX, CROSSINGS_MAX},
    log::place::{ChannelId, UserId},
    wire::{channels::PresenceView, decode::Page, encode::Reply},
};

/// What a shard wants of the owner of a channel, for a connection of its own. All but the last have
/// exactly one reply.
#[derive(Debug)]
pub enum Ask {
    /// Put this into the channel.
    Publish(ChannelInfo, Draft),
    /// Start delivery.
    Subscribe(ChannelInfo, Subscribe),
    /// End delivery.
    Unsubscribe(ChannelId, Ticket),
    /// Read a page.
    History(ChannelInfo, Ticket, UserId, Page),
    /// The connection is gone, and with it what it wanted of the channel.
    Gone(ChannelId, ConnectionKey),
}

/// What the owner of channels tells a shard with connections that are concerned.
#[derive(Debug)]
pub enum Answer {
    /// Perform this for one connection.
    Effect(ChannelId, Effect),
    /// Hand this to all who have joined its channel.
    FanOut(Arc<Delivery>),
    /// Hand this to all who attend its channel, as far as there is room.
    Announce(Arc<Announcement>),
    /// No publish is under way any more: what came before is the last that this shard hands out.
    Last,
}

/// What waits or crosses has a weight in bytes: its place, and what it alone keeps in memory.
pub trait Weigh {
    /// The bytes.
    fn weight(&self) -> usize;
}

impl Weigh for Ask {
    fn weight(&self) -> usize {
        let held = match self {
            Self::Publish(_, draft) => draft.record.len(),
            Self::Subscribe(..) | Self::Unsubscribe(..) | Self::History(..) | Self::Gone(..) => 0,
        };
        size_of::<Self>() + held
    }
}

impl Weigh for Answer {
    fn weight(&self) -> usize {
        let held = match self {
            Self::FanOut(delivery) => delivery.batch.records.len(),
            Self::Effect(_, Effect::Reply(_, Reply::History { runs, .. })) => {
                runs.iter().map(|run| run.records.len()).sum()
            }
            Self::Announce(announcement) => announcement.weight(),
            Self::Effect(_, Effect::Attend(_, first)) => {
                size_of::<PresenceView>() + named(first) * size_of::<UserId>()
            }
            // Most of what is replayed is shared with the channel's tail.
            Self::Effect(..) | Self::Last => 0,
        };
        size_of::<Self>() + held
    }
}

/// What one shard tells another at the end of one turn.
#[derive(Debug)]
pub struct Crossing<T> {
    /// The shard that tells it.
    pub from: ShardId,
    /// What it tells, in order.
    pub parcels: Vec<T>,
}

/// One of the two ways to one other shard: what has not crossed yet, in order.
#[derive(Debug)]
pub struct Lane<T> {
    waiting: Vec<T>,
    /// Their weight. From [`CROSSING_BYTES_MAX`] on the lane is full.
    bytes: usize,
    mailbox: mpsc::Sender<Crossing<T>>,
    /// Somebody waits for room in the mailbox, and will send what waits here.
    is_held: bool,
}

/// The mailbox was full: reserve a place in it, and [`Lane::resume`] with that.
#[derive(Debug)]
pub struct Held<T>(pub mpsc::Sender<Crossing<T>>);

impl<T: Weigh> Lane<T> {
    const fn new(mailbox: mpsc::Sender<Crossing<T>>) -> Self {
        Self { waiting: Vec::new(), bytes: 0, mailbox, is_held: false }
    }

    /// Puts something at the end. Whether it is the first that waits.
    pub fn push(&mut self, parcel: T) -> bool {
        self.bytes += parcel.weight();
        self.waiting.push(parcel);
        self.waiting.len() == 1
    }

    /// Whether as much waits as may.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.bytes >= CROSSING_BYTES_MAX
    }

    /// Sends all that waits as one message, if the mailbox takes it.
    ///
    /// # Errors
    /// When it takes none now, and nobody was told so before.
    pub fn send(&mut self, from: ShardId) -> Result<(), Held<T>> {
        if self.waiting.is_empty() || self.is_held {
            return Ok(());
        }
        let crossing = Crossing { from, parcels: mem::take(&mut self.waiting) };
        match self.mailbox.try_send(crossing) {
            // When it is closed the other shard has ended, which only happens as the process does.
            Ok(()) | Err(TrySendError::Closed(_)) => {
                self.bytes = 0;
                Ok(())
            }
            Err(TrySendError::Full(crossing)) => {
                self.waiting = crossing.parcels;
                self.is_held = true;
                Err(Held(self.mailbox.clone()))
            }
        }
    }

    /// Sends all that waits to the place that was reserved; none: the other shard has ended.
    pub fn resume(&mut self, from: ShardId, place: Option<OwnedPermit<Crossing<T>>>) {
        self.is_held = false;
        self.bytes = 0;
        let crossing = Crossing { from, parcels: mem::take(&mut self.waiting) };
        if let Some(place) = place {
            place.send(crossing);
        }
    }
}

/// Another shard, as one shard sees it.
#[derive(Debug)]
pub struct Neighbour {
    /// The way for what is wanted of it.
    pub asks: Lane<Ask>,
    /// The way for what it is told.
    pub answers: Lane<Answer>,
    /// Asks that it has not replied to. From [`ASKS_ABROAD_MAX`] on, further ones are `busy`.
    pub unanswered: u32,
}

impl Neighbour {
    /// Whether it may be asked for more.
    #[must_use]
    pub const fn may_be_asked(&self) -> bool {
        self.unanswered < ASKS_ABROAD_MAX && !self.asks.is_full()
    }
}

/// A shard's place among all shards, and its ways to them.
#[derive(Debug)]
pub struct Borders {
    /// The shard itself.
    pub id: ShardId,
    /// All shards, by their place; its own place is not used.
    pub neighbours: Vec<Neighbour>,
}

/// Where what crosses to one shard comes in.
#[derive(Debug)]
pub struct Arrivals {
    /// What others want of the channels here.
    pub asks: mpsc::Receiver<Crossing<Ask>>,
    /// What others decided about the connections here.
    pub answers: mpsc::Receiver<Crossing<Answer>>,
}

/// The borders between so many shards, one part for each.
#[must_use]
pub fn borders(shards: u16) -> Vec<(Borders, Arrivals)> {
    let capacity = CROSSINGS_MAX * usize::from(shards.max(2) - 1);
    let mut mailboxes = Vec::new();
    let mut arrivals = Vec::new();
    for _ in 0..shards {
        let (ask, asks) = mpsc::channel(capacity);
        let (answer, answers) = mpsc::channel(capacity);
        mailboxes.push((ask, answer));
        arrivals.push(Arrivals { asks, answers });
    }
    let neighbour = |(ask, answer): &(mpsc::Sender<_>, mpsc::Sender<_>)| Neighbour {
        asks: Lane::new(ask.clone()),
        answers: Lane::new(answer.clone()),
        unanswered: 0,
    };
    let borders = |place| Borders {
        id: ShardId(place),
        neighbours: mailboxes.iter().map(neighbour).collect(),
    };
    (0..shards).map(borders).zip(arrivals).collect()
}

/// The shard that decides for a channel. The same in every process with so many shards.
///
/// # Panics
/// When there is no shard.
#[must_use]
pub fn owner(channel: ChannelId, shards: u16) -> ShardId {
    // Multiplied by 2⁶⁴ over the golden ratio, neighbouring numbers lie far apart.
    let spread = u64::from(channel.0).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    let place = spread % u64::from(shards);
    ShardId(u16::try_from(place).expect("a remainder is less than its divisor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_spread_over_the_shards() {
        for shards in [1, 2, 3, 4, 7] {
            let mut owned = vec![0_u32; usize::from(shards)];
            for channel in 1..=10_000 {
                owned[usize::from(owner(ChannelId(channel), shards).0)] += 1;
            }
            let fair = 10_000 / u32::from(shards);
            assert!(owned.iter().all(|owned| owned.abs_diff(fair) < fair / 10), "{owned:?}");
        }
    }

    #[test]
    fn a_full_mailbox_holds_the_lane_and_keeps_the_order() {
        let mut all = borders(2);
        let (_, mut arrivals) = all.pop().unwrap();
        let (mut borders, _arrivals) = all.pop().unwrap();
        let lane = &mut borders.neighbours[1].answers;
        let ended = |number| Answer::Effect(ChannelId(number), Effect::Sealed);
        let mut sent = 0;
        let held = loop {
            assert!(lane.push(ended(sent)));
            sent += 1;
            match lane.send(ShardId(0)) {
                Ok(()) => {}
                Err(Held(mailbox)) => break mailbox,
            }
        };
        assert_eq!(sent as usize, CROSSINGS_MAX + 1);
        assert!(!lane.push(ended(sent)));
        assert!(lane.send(ShardId(0)).is_ok(), "it is told once");
        let mut arrived = Vec::new();
        let mut take = |arrivals: &mut Arrivals| {
            let Crossing { parcels, .. } = arrivals.answers.try_recv().unwrap();
            arrived.extend(parcels.iter().map(|parcel| match parcel {
                Answer::Effect(ChannelId(number), _) => *number,
                parcel => panic!("{parcel:?}"),
            }));
        };
        take(&mut arrivals);
        lane.resume(ShardId(0), held.try_reserve_owned().ok());
        assert!(lane.push(ended(sent + 1)), "nothing waits any more");
        for _ in 0..CROSSINGS_MAX {
            take(&mut arrivals);
        }
        assert!(arrived.iter().copied().eq(0..=sent), "{arrived:?}");
    }

    #[test]
    fn a_lane_is_full_by_bytes_until_it_is_sent() {
        let (mut borders, _arrivals) = borders(1).pop().unwrap();
        let lane = &mut borders.neighbours[0].answers;
        let mut pushed = 0;
        while !lane.is_full() {
            lane.push(Answer::Last);
            pushed += 1;
        }
        assert!(pushed * size_of::<Answer>() >= CROSSING_BYTES_MAX);
        assert!(lane.send(ShardId(0)).is_ok());
        assert!(!lane.is_full());
    }
}
