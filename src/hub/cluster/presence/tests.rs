use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;
use crate::{
    hub::{
        ConnectionKey, ShardId,
        presence::{Elsewhere, Presence as Channel},
    },
    wire::channels::{Named, PresenceView},
};

const NODES: usize = 3;
const CHANNELS: u32 = 3;

fn channel(number: u32) -> ChannelId {
    ChannelId(number)
}

fn key(slot: u32) -> ConnectionKey {
    ConnectionKey { shard: ShardId(0), slot, generation: 1 }
}

/// A node of one shard, with all its channels in memory.
struct Node {
    id: NodeId,
    channels: BTreeMap<u32, Channel>,
    there: Vec<(u32, UserId)>,
    telling: Telling,
    listener: Listener,
}

impl Node {
    fn new(id: u64) -> Self {
        let open = |number| {
            let mut presence = Channel::new(channel(number), 1_000);
            presence.join_nodes(Elsewhere::default());
            (number, presence)
        };
        Self {
            id: NodeId(id),
            channels: (0..CHANNELS).map(open).collect(),
            there: Vec::new(),
            telling: Telling::new(0),
            listener: Listener::default(),
        }
    }

    fn tell(&mut self) -> Vec<Presence> {
        let changes = self.channels.iter_mut().filter(|(_, it)| it.has_untold());
        let changes = changes.map(|(number, it)| (channel(*number), it.take_untold())).collect();
        let mut messages = self.telling.changes(changes);
        let channels = &self.channels;
        let all = || channels.keys().map(|number| channel(*number)).collect();
        messages.extend(self.telling.round(all, |it| channels[&it.0].here().collect()));
        messages.push(self.telling.beat());
        messages
    }

    fn hear(&mut self, from: NodeId, message: Presence) {
        for told in self.listener.hear(from, message) {
            match told {
                Told::Users(teller, round, channel, users) => {
                    self.channels.get_mut(&channel.0).unwrap().hear(teller, round, &users);
                }
                Told::RoundOver(teller, round) => {
                    self.channels.values_mut().for_each(|it| it.end_round(teller, round));
                }
                Told::Gone(node) => self.channels.values_mut().for_each(|it| it.lose_node(node)),
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Join {
        node: usize,
        channel: u32,
        user: u32,
    },
    Leave {
        node: usize,
        which: prop::sample::Index,
    },
    /// A second passes. What becomes of each message on its way: 0 and 1 are lost, 2 comes twice.
    Second {
        fates: Vec<u8>,
    },
    /// A node ends, and another starts in its place.
    Restart {
        node: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..NODES, 0..CHANNELS, 1_u32..6)
            .prop_map(|(node, channel, user)| Step::Join { node, channel, user }),
        6 => (0..NODES, any::<prop::sample::Index>())
            .prop_map(|(node, which)| Step::Leave { node, which }),
        6 => prop::collection::vec(0_u8..8, 24).prop_map(|fates| Step::Second { fates }),
        1 => (0..NODES).prop_map(|node| Step::Restart { node }),
    ]
}

/// One second of all nodes: each tells, and asks those of whom it misses something.
fn second(nodes: &mut [Node], fates: impl IntoIterator<Item = u8>) {
    let mut fates = fates.into_iter();
    let mut fate = || fates.next().unwrap_or(7);
    for place in 0..nodes.len() {
        let from = nodes[place].id;
        for message in nodes[place].tell() {
            for node in nodes.iter_mut().filter(|node| node.id != from) {
                let times = [0, 0, 2].get(usize::from(fate())).copied().unwrap_or(1);
                (0..times).for_each(|_| node.hear(from, message.clone()));
            }
        }
    }
    for place in 0..nodes.len() {
        for asked in nodes[place].listener.to_be_asked() {
            if fate() > 1
                && let Some(node) = nodes.iter_mut().find(|node| node.id == asked)
            {
                node.telling.ask();
            }
        }
    }
}

proptest! {
    #[test]
    fn all_nodes_agree_on_who_is_there_whatever_was_lost_or_repeated(
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut nodes: Vec<_> = (1..=NODES as u64).map(Node::new).collect();
        let mut started = NODES as u64;
        for step in steps {
            match step {
                Step::Join { node, channel, user } => {
                    let node = &mut nodes[node];
                    node.channels.get_mut(&channel).unwrap().join(UserId(user));
                    node.there.push((channel, UserId(user)));
                }
                Step::Leave { node, which } => {
                    let node = &mut nodes[node];
                    if !node.there.is_empty() {
                        let (channel, user) = node.there.swap_remove(which.index(node.there.len()));
                        node.channels.get_mut(&channel).unwrap().leave(key(0), user, false);
                    }
                }
                Step::Second { fates } => second(&mut nodes, fates),
                Step::Restart { node } => {
                    let gone = nodes[node].id;
                    started += 1;
                    nodes[node] = Node::new(started);
                    for other in &mut nodes {
                        other.listener.forget(gone);
                        other.channels.values_mut().for_each(|it| it.lose_node(gone));
                    }
                }
            }
        }
        // What is missing is seen by the next message, asked for, and told.
        (0..3).for_each(|_| second(&mut nodes, []));
        for number in 0..CHANNELS {
            let there = || nodes.iter().flat_map(|it| &it.there).filter(|(it, _)| *it == number);
            let users: BTreeSet<_> = there().map(|(_, user)| *user).collect();
            let expected = PresenceView {
                channel: channel(number),
                users: u32::try_from(users.len()).unwrap(),
                connections: u32::try_from(there().count()).unwrap(),
                named: Named::Everyone(users.into_iter().collect()),
            };
            for node in &nodes {
                prop_assert_eq!(node.channels[&number].now(), expected.clone());
            }
        }
        for node in &nodes {
            prop_assert_eq!(node.listener.to_be_asked(), []);
        }
    }

    #[test]
    fn many_are_told_of_in_messages_of_a_bounded_size(
        sizes in prop::collection::vec(0_usize..2 * PRESENCE_TOLD_MAX + 2, 0..6),
    ) {
        let there: HashMap<_, Users> = (0..)
            .zip(&sizes)
            .map(|(number, size)| {
                let users = (0..u32::try_from(*size).unwrap()).map(|user| (UserId(user), 1));
                (channel(number), users.collect())
            })
            .collect();
        let mut telling = Telling::new(3);
        telling.ask();
        let mut listener = Listener::default();
        let mut heard: HashMap<ChannelId, Users> = HashMap::new();
        let (mut is_over, mut steps) = (false, 0);
        while telling.is_in_round() {
            steps += 1;
            let told = telling.round(|| there.keys().copied().collect(), |it| there[&it].clone());
            for message in told {
                let users: usize = message.channels.iter().map(|it| it.users.len()).sum();
                prop_assert!(users <= PRESENCE_TOLD_MAX);
                for told in listener.hear(NodeId(1), message) {
                    match told {
                        Told::Users(_, _, channel, users) => {
                            heard.entry(channel).or_default().extend(users);
                        }
                        Told::RoundOver(..) => is_over = true,
                        Told::Gone(_) => panic!("nobody has gone"),
                    }
                }
            }
        }
        prop_assert!(is_over && steps <= sizes.len().max(1));
        heard.values_mut().for_each(|users| users.sort_unstable());
        let mut there = there;
        there.retain(|_, users| !users.is_empty());
        prop_assert_eq!(heard, there);
    }
}

#[test]
fn a_round_of_which_a_part_is_lost_ends_nobody() {
    let mut telling = Telling::new(0);
    let mut listener = Listener::default();
    let users = vec![(UserId(1), 1)];
    telling.ask();
    let told = telling.round(|| vec![channel(1)], |_| users.clone());
    let [begin, part, end] = <[_; 3]>::try_from(told).unwrap();
    assert_eq!(listener.hear(NodeId(1), begin), []);
    // The part is lost.
    drop(part);
    assert_eq!(listener.hear(NodeId(1), end), [], "nobody is gone because of it");
    assert_eq!(listener.to_be_asked(), [NodeId(1)]);
}

#[test]
fn a_lost_last_message_is_missed_with_the_next_beat() {
    let mut telling = Telling::new(0);
    let mut listener = Listener::default();
    assert_eq!(listener.hear(NodeId(1), telling.beat()), []);
    assert_eq!(listener.to_be_asked(), [], "it has told nothing yet");
    telling.changes(vec![(channel(1), vec![(UserId(1), 1)])]);
    listener.hear(NodeId(1), telling.beat());
    assert_eq!(listener.to_be_asked(), [NodeId(1)]);
}
