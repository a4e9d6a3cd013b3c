//! The other nodes, as far as they concern the channels of this shard: what they have committed, and who
//! of them writes for whom. Hot.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use tokio::{
    task::spawn_local,
    time::{Instant, sleep},
};

use super::Shard;
use crate::{
    engine::{
        Bus, Engine,
        bus::{CallError, NodeId},
    },
    hub::{
        channel::Channel,
        cluster::{News, forward, members::Owners},
        sequencer::{Answered, ForwardedPublish},
    },
    limits::{FORWARD_TIMEOUT, RESET_SPREAD, SUSPECT_FOR},
    log::{
        batch::Entry,
        place::{BatchId, ChannelId},
    },
    wire::record::{self, Content},
};

/// What a shard knows of the other nodes.
#[derive(Debug)]
pub(super) struct Nodes {
    bus: Option<Arc<dyn Bus>>,
    /// None as long as there is no other node.
    owners: RefCell<Option<Owners>>,
    /// Nodes that did not write what they were asked to, and until when nothing is forwarded to them. Each
    /// at most once.
    suspects: RefCell<Vec<(NodeId, Instant)>>,
    /// Counts the looks at all channels.
    resets: Cell<u64>,
}

impl Nodes {
    pub(super) fn new(bus: Option<Arc<dyn Bus>>) -> Self {
        Self { bus, owners: RefCell::default(), suspects: RefCell::default(), resets: Cell::new(0) }
    }

    /// The node to which publishes in this channel are forwarded, if not here.
    pub(super) fn owner_elsewhere(&self, channel: ChannelId) -> Option<NodeId> {
        let owner = self.owners.borrow().as_ref()?.elsewhere(channel)?;
        let mut suspects = self.suspects.borrow_mut();
        if !suspects.is_empty() {
            let now = Instant::now();
            suspects.retain(|(_, until)| *until > now);
        }
        suspects.iter().all(|(suspect, _)| *suspect != owner).then_some(owner)
    }

    fn suspect(&self, node: NodeId) {
        let mut suspects = self.suspects.borrow_mut();
        suspects.retain(|(suspect, _)| *suspect != node);
        suspects.push((node, Instant::now() + SUSPECT_FOR));
    }
}

impl<E: Engine, S: 'static> Shard<E, S> {
    /// Takes in what other nodes have committed, tell or are.
    pub fn news(self: &Rc<Self>, news: News) {
        match news {
            News::Owners(owners) => *self.nodes.owners.borrow_mut() = Some(owners),
            News::Entries(entries) => entries.into_iter().for_each(|it| self.take_entry(it)),
            News::Reset => self.look_at_all(),
            News::Told(told) => self.hear_presence(told),
            News::Typing(channel, users) => self.typing_elsewhere(channel, users),
            News::MarkedRead(channel, user, read) => self.read_elsewhere(channel, user, read),
            News::Members(channel) => {
                self.with_channel(channel, |channel, _| channel.members_imported());
            }
            News::Hello => self.begin_round(),
        }
    }

    /// Another node has committed this. Most are of channels that nobody here wants anything of.
    fn take_entry(self: &Rc<Self>, entry: Entry) {
        let channel = entry.channel;
        // A change is alone in its batch.
        let content = match entry.batch.count {
            1 => entry.batch.records().flatten().next().map(record::content),
            _ => None,
        };
        let mut is_applied = false;
        self.with_channel(channel, |channel, effects| {
            is_applied = channel.is_ready();
            let first = entry.batch.records().flatten().next();
            if first.is_some_and(record::is_imported) {
                channel.apply_imported(entry, effects);
            } else {
                channel.apply(entry, effects);
            }
        });
        if is_applied {
            return;
        }
        match content {
            Some(Content::Settings(_) | Content::Deletion) => self.directory().unlearn(channel),
            Some(Content::Member(user, None)) => self.directory().forget_member(channel, user),
            Some(Content::Member(..) | Content::Body { .. } | Content::Unknown) | None => {}
        }
    }

    /// Something was missed: every channel in memory looks at its log, not all at once.
    fn look_at_all(self: &Rc<Self>) {
        let reset = self.nodes.resets.get() + 1;
        self.nodes.resets.set(reset);
        let channels: Vec<_> = self.state.borrow().channels.keys().copied().collect();
        let shard = Rc::clone(self);
        spawn_local(async move {
            let step = channels.len().div_ceil(RESET_STEPS as usize).max(1);
            for channels in channels.chunks(step) {
                for channel in channels {
                    shard.with_channel(*channel, Channel::catch_up);
                }
                sleep(RESET_SPREAD / RESET_STEPS).await;
                // A later look goes over all of them again.
                if shard.nodes.resets.get() != reset {
                    return;
                }
            }
        });
    }

    /// Asks the owner of a channel to write these.
    pub(super) fn forward(
        self: &Rc<Self>,
        channel: ChannelId,
        id: BatchId,
        to: NodeId,
        publishes: &[ForwardedPublish],
    ) {
        let question = forward::question(channel, publishes);
        let asked = self.nodes.bus.as_ref().map(|bus| bus.call(to, question, FORWARD_TIMEOUT));
        let count = publishes.len();
        self.metrics.forwards.inc();
        let shard = Rc::clone(self);
        spawn_local(async move {
            let reply = match asked {
                Some(asked) => asked.await,
                None => Err(CallError::Gone),
            };
            if let Err(error) = &reply {
                tracing::debug!(channel = channel.0, %to, %error, "a forward was not answered");
            } else {
                shard.metrics.forwards_answered.inc();
            }
            let (epoch, answers) = forward::answer(reply.unwrap_or_default());
            let passes_elsewhere =
                |it: &Answered| matches!(it, Answered::Refused(code) if code.again());
            if answers.len() < count || answers.iter().any(passes_elsewhere) {
                shard.nodes.suspect(to);
                shard.metrics.forwards_taken_back.inc();
            }
            shard.with_channel(channel, |channel, effects| {
                channel.forwarded(id, epoch, &answers, effects);
            });
            // What came meanwhile is next, or what was not written.
            shard.mark_ready(channel);
        });
    }
}

/// In so many steps all channels look at their logs.
const RESET_STEPS: u32 = 20;
