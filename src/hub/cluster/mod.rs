//! This node among the others of its cluster: who lives, what they tell and ask, what they commit.
//!
//! | what comes | where it goes |
//! |---|---|
//! | `Alive` | [`members`], and who owns what then to every shard: [`News::Owners`]; who is gone, as `Presence` |
//! | `Forward` | `forward`: calls to the shard of the channel, whose answers go back |
//! | `Presence` | [`presence`]: what is new to the shards of the channels: [`News::Told`] |
//! | `Typing`, `ReadMarker` | the shard of the channel |
//! | `Hello` | every shard |
//! | `Changed` | `Parts::changed`: what is held in memory is read again |
//! | the engine's feed | `feed`: [`News::Entries`] to the shards of the channels, [`News::Reset`] to all |
//!
//! Nothing here is durable and nothing is waited for but room in a shard's mailbox. On an engine without
//! a [`Bus`] there is none of it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message as _;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};

use self::{
    members::{Heard, Members, Owners},
    presence::{Listener, Told},
};
use super::{Hub, WeakHub, bans::Bans, crossing, directory::Directory};
use crate::{
    engine::{
        Bus, Engine,
        bus::{Inbound, NodeId},
    },
    limits::{ALIVE_INTERVAL, FORWARDS_TAKEN_MAX, STANDSTILL},
    log::{
        batch::Entry,
        place::{ChannelId, Epoch, Position, Sequence, UserId},
    },
    metrics::Metrics,
    wire::cluster::{self as wire, NodeMessage, changed::What, node_message::Message},
};

mod feed;
pub(super) mod forward;
pub mod members;
pub mod presence;

/// What a shard is told of the other nodes.
#[derive(Clone, Debug)]
pub enum News {
    /// Who owns what from now on.
    Owners(Owners),
    /// What others have committed, in order per channel, of channels of this shard.
    Entries(Vec<Entry>),
    /// Something was missed of what others have committed.
    Reset,
    /// Other nodes tell who is in channels of this shard there, or are gone.
    Told(Vec<Told>),
    /// Users are writing in a channel of this shard, on another node.
    Typing(ChannelId, Vec<UserId>),
    /// A user has read so far in a channel of this shard, on another node.
    MarkedRead(ChannelId, UserId, Position),
    /// Members were imported into a channel of this shard.
    Members(ChannelId),
    /// A node wants to know who is in the channels of this shard here.
    Hello,
}

/// What the cluster's tasks work on.
#[derive(Debug)]
pub struct Parts<E> {
    /// The engine.
    pub engine: Arc<E>,
    /// The way to the shards, which does not keep them open.
    pub hub: WeakHub,
    /// The names.
    pub directory: Arc<Directory<E>>,
    /// The bans.
    pub bans: Arc<Bans<E>>,
    /// The counters.
    pub metrics: Arc<Metrics>,
}

impl<E: Engine> Parts<E> {
    /// A record changed on another node that may be held in memory here.
    fn changed(&self, what: What, hub: &Hub) {
        match what {
            What::Bans(_) => self.bans.have_changed(),
            What::NameOf(user) => self.directory.forget_name(UserId(user)),
            What::MembersOf(channel) => {
                hub.tell_owner(ChannelId(channel), News::Members(ChannelId(channel)));
            }
        }
    }
}

/// This node's part in its cluster. It ends with the runtime that it was started on, or the hub.
#[derive(Debug)]
pub struct Cluster {
    is_draining: watch::Sender<bool>,
    others: watch::Receiver<usize>,
}

impl Cluster {
    /// Joins the cluster. `None`: the engine is of one node.
    pub fn start<E: Engine>(parts: Parts<E>, runtime: &Handle) -> Option<Self> {
        let bus = parts.engine.bus()?;
        let parts = Arc::new(parts);
        let (is_draining, drains) = watch::channel(false);
        let (count, others) = watch::channel(0);
        // Followed before anything is read: what is committed from here on is not missed.
        runtime.spawn(feed::bring(parts.engine.follow(), Arc::clone(&parts)));
        let bans = Arc::clone(&parts.bans);
        runtime.spawn(async move { bans.follow().await });
        let inbox = bus.inbox();
        let node = Node {
            members: Members::new(bus.node()),
            bus,
            parts,
            start: Instant::now(),
            untold: true,
            listener: Listener::default(),
            gone: Vec::new(),
            forwards: Arc::new(Semaphore::new(FORWARDS_TAKEN_MAX)),
            count,
            awake: Awake::default(),
        };
        runtime.spawn(node.run(inbox, drains));
        Some(Self { is_draining, others })
    }

    /// This node takes no new work from now on. The others are told at once.
    pub fn drain(&self) {
        // An error means that the tasks have ended, as the process does.
        let _ = self.is_draining.send(true);
    }

    /// How many other nodes live.
    #[must_use]
    pub fn others(&self) -> usize {
        *self.others.borrow()
    }
}

/// Writes a message for other nodes.
#[must_use]
pub fn encode(message: Message) -> Bytes {
    NodeMessage { message: Some(message) }.encode_to_vec().into()
}

/// The message that a record has changed which other nodes may hold in memory.
#[must_use]
pub fn changed(what: What) -> Bytes {
    encode(Message::Changed(wire::Changed { what: Some(what) }))
}

/// The task that hears the others.
struct Node<E> {
    members: Members,
    bus: Arc<dyn Bus>,
    parts: Arc<Parts<E>>,
    start: Instant,
    /// Not all shards know who owns what.
    untold: bool,
    /// What the others tell of who is there.
    listener: Listener,
    /// Nodes of which not all shards know that they are gone.
    gone: Vec<NodeId>,
    forwards: Arc<Semaphore>,
    count: watch::Sender<usize>,
    awake: Awake,
}

/// Whether this node has just gone on after a standstill.
#[derive(Debug, Default)]
struct Awake {
    last: Duration,
    /// What comes until then may have waited for the whole standstill.
    deaf_until: Duration,
}

impl Awake {
    /// Something happens at this time, as does at least once in [`ALIVE_INTERVAL`]. Whether it may have
    /// waited for too long.
    fn is_late(&mut self, now: Duration) -> bool {
        if now.saturating_sub(self.last) > STANDSTILL {
            self.deaf_until = now + ALIVE_INTERVAL;
        }
        self.last = now;
        now < self.deaf_until
    }
}

impl<E: Engine> Node<E> {
    async fn run(mut self, mut inbox: mpsc::Receiver<Inbound>, mut drains: watch::Receiver<bool>) {
        let mut beat = interval(ALIVE_INTERVAL);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.bus.cast(encode(Message::Hello(wire::Hello::default())));
        loop {
            tokio::select! {
                inbound = inbox.recv() => match inbound {
                    Some(inbound) => self.take(inbound).await,
                    // The bus has ended, as the process does.
                    None => return,
                },
                _ = beat.tick() => self.beat(),
                Ok(()) = drains.changed() => {
                    self.members.drain();
                    self.untold = true;
                    self.beat();
                }
            }
            if self.untold {
                let Some(hub) = self.parts.hub.upgrade() else { return };
                let owners = self.members.owners();
                self.untold = !hub.tell_all(|| News::Owners(owners.clone()));
                self.count.send_if_modified(|count| {
                    let others = self.members.others().count();
                    std::mem::replace(count, others) != others
                });
                let nodes = *self.count.borrow() + 1;
                self.parts.metrics.nodes.set(i64::try_from(nodes).unwrap_or(i64::MAX));
            }
        }
    }

    /// Tells the others that this node lives, and looks who of them does.
    fn beat(&mut self) {
        self.awake.is_late(self.start.elapsed());
        let is_draining = self.members.is_draining();
        self.bus.cast(encode(Message::Alive(wire::Alive { is_draining })));
        for node in self.members.expire(self.start.elapsed()) {
            tracing::warn!(%node, "a node is silent and taken for gone");
            self.untold = true;
            self.listener.forget(node);
            self.gone.push(node);
        }
        if !self.gone.is_empty()
            && let Some(hub) = self.parts.hub.upgrade()
        {
            let gone: Vec<_> = self.gone.iter().copied().map(Told::Gone).collect();
            // Twice is as good as once.
            if hub.tell_all(|| News::Told(gone.clone())) {
                self.gone.clear();
            }
        }
        for NodeId(node) in self.listener.to_be_asked() {
            self.bus.cast(encode(Message::Hello(wire::Hello { node })));
        }
    }

    /// Takes in what a node tells of who is there.
    fn take_presence(&mut self, from: NodeId, presence: wire::Presence, hub: &Hub) {
        // Who is not known to live would never be gone. What is dropped here is missed with the next.
        if !self.members.others().any(|other| other == from) || self.gone.contains(&from) {
            return;
        }
        let told = self.listener.hear(from, presence);
        if !hub.tell_presence(told) {
            self.listener.miss(from);
        }
    }

    async fn take(&mut self, Inbound { from, message, reply }: Inbound) {
        let Ok(NodeMessage { message: Some(message) }) = NodeMessage::decode(message) else {
            // Of a later version, or nobody's.
            tracing::debug!(%from, "a node's message says nothing");
            return;
        };
        let Some(hub) = self.parts.hub.upgrade() else { return };
        let is_late = self.awake.is_late(self.start.elapsed());
        match message {
            Message::Alive(alive) => self.hear(from, alive.is_draining),
            Message::Forward(forward) => {
                let Some(reply) = reply else { return };
                // Dropped, it is not taken: as what was asked for before a standstill, whose sender has written it
                // or refused it meanwhile.
                if is_late {
                    return;
                }
                if let Ok(permit) = Arc::clone(&self.forwards).try_acquire_owned() {
                    let is_draining = self.members.is_draining();
                    let parts = Arc::clone(&self.parts);
                    tokio::spawn(async move {
                        let answer = forward::take(&parts, hub, forward, is_draining).await;
                        drop(permit);
                        // An error means that nobody waits any more.
                        let _ = reply.send(answer);
                    });
                }
            }
            Message::Presence(presence) => self.take_presence(from, presence, &hub),
            Message::Typing(typing) => {
                let channel = ChannelId(typing.channel_id);
                let users = typing.user_ids.into_iter().map(UserId).collect();
                hub.tell_owner(channel, News::Typing(channel, users));
            }
            Message::ReadMarker(marker) => {
                let channel = ChannelId(marker.channel_id);
                let epoch = Epoch(marker.epoch);
                let read = Position { epoch, sequence: Sequence(marker.sequence) };
                hub.tell_owner(channel, News::MarkedRead(channel, UserId(marker.user_id), read));
            }
            Message::Hello(hello) => {
                if hello.node == 0 || hello.node == self.bus.node().0 {
                    // Who is not told of because of that asks again.
                    hub.tell_all(|| News::Hello);
                }
            }
            Message::Changed(changed) => {
                if let Some(what) = changed.what {
                    self.parts.changed(what, &hub);
                }
            }
        }
    }

    fn hear(&mut self, from: NodeId, is_draining: bool) {
        match self.members.hear(from, is_draining, self.start.elapsed()) {
            Heard::Same => {}
            Heard::Came | Heard::Turned => {
                tracing::info!(node = %from, is_draining, "a node of the cluster");
                self.untold = true;
            }
            Heard::TooMany => tracing::warn!(node = %from, "there are too many nodes"),
        }
    }
}

impl Hub {
    /// Tells the shard of a channel. Whether it had room to be told.
    pub(super) fn tell_owner(&self, channel: ChannelId, news: News) -> bool {
        self.owner(channel).is_some_and(|mailbox| mailbox.tell(news))
    }

    /// Tells each shard of its channels what other nodes told. Whether all had room to be told.
    fn tell_presence(&self, told: Vec<Told>) -> bool {
        let mut news = vec![Vec::new(); self.mailboxes.len()];
        let shards = u16::try_from(news.len()).expect("shards count in 16 bits");
        for told in told {
            if let Told::Users(_, _, channel, _) = &told {
                news[usize::from(crossing::owner(*channel, shards).0)].push(told);
            } else {
                news.iter_mut().for_each(|news| news.push(told.clone()));
            }
        }
        let mut has_room = true;
        for (mailbox, news) in self.mailboxes.iter().zip(news).filter(|(_, it)| !it.is_empty()) {
            has_room &= mailbox.tell(News::Told(news));
        }
        has_room
    }

    /// Tells all shards. Whether all had room to be told.
    fn tell_all(&self, mut news: impl FnMut() -> News) -> bool {
        let mut told = true;
        for mailbox in &*self.mailboxes {
            told &= mailbox.tell(news());
        }
        told
    }
}

#[cfg(test)]
mod tests;
