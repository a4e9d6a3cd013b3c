//! Who of the nodes lives, and which of them owns a channel. Pure: the caller brings the time.
//!
//! Every node decides that by itself, from what it has heard; for a while two may disagree. That costs
//! time and never order: an owner only writes first, and the place in the log is what decides.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    engine::bus::NodeId,
    limits::{NODE_SILENCE_MAX, NODES_MAX},
    log::place::ChannelId,
};

/// The nodes that this one has heard of. Times are since any moment that stays the same.
#[derive(Debug)]
pub struct Members {
    me: NodeId,
    is_draining: bool,
    others: BTreeMap<NodeId, Other>,
}

#[derive(Clone, Copy, Debug)]
struct Other {
    heard_at: Duration,
    is_draining: bool,
}

/// What a sign of life has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// Nothing.
    Same,
    /// The node has come.
    Came,
    /// The node drains now, or does no more.
    Turned,
    /// There are as many as may be: the node is not one of them.
    TooMany,
}

impl Members {
    /// Nobody but this node.
    #[must_use]
    pub const fn new(me: NodeId) -> Self {
        Self { me, is_draining: false, others: BTreeMap::new() }
    }

    /// A node runs.
    pub fn hear(&mut self, from: NodeId, is_draining: bool, now: Duration) -> Heard {
        if from == self.me {
            return Heard::Same;
        }
        let is_full = self.others.len() + 1 >= NODES_MAX;
        let other = Other { heard_at: now, is_draining };
        if let Some(known) = self.others.get_mut(&from) {
            let was_draining = std::mem::replace(known, other).is_draining;
            return if was_draining == is_draining { Heard::Same } else { Heard::Turned };
        }
        if is_full {
            return Heard::TooMany;
        }
        self.others.insert(from, other);
        Heard::Came
    }

    /// This node owns nothing any more.
    pub const fn drain(&mut self) {
        self.is_draining = true;
    }

    /// Whether this node drains.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// Lets those go who have been silent for too long, and names them.
    pub fn expire(&mut self, now: Duration) -> Vec<NodeId> {
        let is_gone =
            |_: &NodeId, other: &mut Other| now.saturating_sub(other.heard_at) >= NODE_SILENCE_MAX;
        self.others.extract_if(.., is_gone).map(|(node, _)| node).collect()
    }

    /// The others.
    pub fn others(&self) -> impl Iterator<Item = NodeId> {
        self.others.keys().copied()
    }

    /// Who owns what, as this node sees it now.
    #[must_use]
    pub fn owners(&self) -> Owners {
        let others = self.others.iter().filter(|(_, other)| !other.is_draining);
        let me = (!self.is_draining).then_some(self.me);
        let nodes: Arc<[NodeId]> = others.map(|(node, _)| *node).chain(me).collect();
        Owners { me: self.me, nodes }
    }
}

/// Who owns what: the nodes that take new work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owners {
    me: NodeId,
    nodes: Arc<[NodeId]>,
}

impl Owners {
    /// The node to which a channel's publishes are forwarded. `None`: this one writes them itself.
    #[must_use]
    pub fn elsewhere(&self, channel: ChannelId) -> Option<NodeId> {
        self.owner(channel).filter(|owner| *owner != self.me)
    }

    /// The node that owns a channel, if any takes new work. By the highest weight, so that a node that
    /// comes or goes moves no channel but its own.
    fn owner(&self, channel: ChannelId) -> Option<NodeId> {
        let weight = |node: &NodeId| (xxh3_64_with_seed(&channel.0.to_le_bytes(), node.0), *node);
        self.nodes.iter().copied().max_by_key(weight)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const CHANNELS: u32 = 1_000;

    fn owners(me: NodeId, nodes: impl IntoIterator<Item = NodeId>) -> Owners {
        Owners { me, nodes: nodes.into_iter().collect() }
    }

    fn nodes() -> impl Strategy<Value = BTreeSet<NodeId>> {
        proptest::collection::btree_set(any::<u64>().prop_map(NodeId), 2..8)
    }

    proptest! {
        #[test]
        fn a_node_that_comes_or_goes_moves_only_its_own_channels(nodes in nodes(), gone in any::<u64>()) {
            let gone = NodeId(gone);
            let me = *nodes.iter().next().unwrap();
            let with = owners(me, nodes.iter().copied().chain([gone]));
            let without = owners(me, nodes.iter().copied());
            let mut moved = 0;
            for channel in (1..=CHANNELS).map(ChannelId) {
                if with.owner(channel) == Some(gone) {
                    moved += 1;
                } else {
                    prop_assert_eq!(with.owner(channel), without.owner(channel));
                }
            }
            // About its share: twice that is more than five standard deviations off.
            prop_assert!(moved <= 2 * CHANNELS as usize / (nodes.len() + 1), "{} moved", moved);
        }

        #[test]
        fn nodes_that_know_the_same_agree(nodes in nodes()) {
            let views: Vec<_> =
                nodes.iter().map(|me| owners(*me, nodes.iter().rev().copied())).collect();
            for channel in (1..=CHANNELS).map(ChannelId) {
                let own = views.iter().filter(|view| view.elsewhere(channel).is_none()).count();
                prop_assert_eq!(own, 1);
            }
        }
    }

    #[test]
    fn a_silent_node_goes_and_one_that_speaks_stays() {
        let mut members = Members::new(NodeId(1));
        let second = Duration::from_secs(1);
        assert_eq!(members.hear(NodeId(2), false, second), Heard::Came);
        assert_eq!(members.hear(NodeId(3), false, second), Heard::Came);
        assert_eq!(members.hear(NodeId(3), false, 4 * second), Heard::Same);
        assert_eq!(members.hear(NodeId(1), false, 4 * second), Heard::Same, "itself");
        assert_eq!(members.expire(5 * second), []);
        assert_eq!(members.expire(6 * second), [NodeId(2)]);
        assert_eq!(members.others().collect::<Vec<_>>(), [NodeId(3)]);
    }

    #[test]
    fn a_node_that_drains_owns_nothing() {
        let mut members = Members::new(NodeId(1));
        members.hear(NodeId(2), false, Duration::ZERO);
        let owned = |members: &Members| {
            let owners = members.owners();
            (1..=CHANNELS).filter(|it| owners.elsewhere(ChannelId(*it)).is_none()).count()
        };
        assert!((300..700).contains(&owned(&members)), "{}", owned(&members));
        assert_eq!(members.hear(NodeId(2), true, Duration::ZERO), Heard::Turned);
        assert_eq!(owned(&members), CHANNELS as usize);
        members.hear(NodeId(2), false, Duration::ZERO);
        members.drain();
        assert_eq!(owned(&members), 0);
        members.hear(NodeId(2), true, Duration::ZERO);
        assert_eq!(owned(&members), CHANNELS as usize, "nobody else takes them");
    }

    #[test]
    fn there_are_not_more_than_there_may_be() {
        let mut members = Members::new(NodeId(0));
        for node in 1..NODES_MAX as u64 {
            assert_eq!(members.hear(NodeId(node), false, Duration::ZERO), Heard::Came);
        }
        assert_eq!(members.hear(NodeId(1 << 60), false, Duration::ZERO), Heard::TooMany);
    }
}
