use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::hub::ShardId;

const CHANNEL: ChannelId = ChannelId(7);

fn key(slot: u32) -> ConnectionKey {
    ConnectionKey { shard: ShardId(0), slot, generation: 1 }
}

fn users(numbers: &[u32]) -> Vec<UserId> {
    numbers.iter().copied().map(UserId).collect()
}

fn everyone(numbers: &[u32], connections: u32) -> PresenceView {
    let named = Named::Everyone(users(numbers));
    let count = u32::try_from(numbers.len()).unwrap();
    PresenceView { channel: CHANNEL, users: count, connections, named }
}

/// User 1 is there, on connection 1, and is told.
fn watched(users_max: u32) -> Presence {
    let mut presence = Presence::new(CHANNEL, users_max);
    presence.join(UserId(1));
    assert_eq!(presence.announce(), None, "nobody asked");
    assert_eq!(presence.welcome(key(1), UserId(1)), everyone(&[1], 1));
    presence
}

fn changes(presence: &mut Presence) -> Option<(u32, u32, Vec<u32>, Vec<u32>)> {
    presence.cooled();
    let PresenceView { users, connections, named, .. } = presence.announce()?.changes;
    let Named::Changes { joined, left } = named else { panic!("{named:?}") };
    let numbers = |users: Vec<UserId>| users.into_iter().map(|user| user.0).collect();
    Some((users, connections, numbers(joined), numbers(left)))
}

#[test]
fn the_first_change_is_told_at_once_and_the_next_ones_together() {
    let mut presence = watched(9);
    presence.join(UserId(2));
    let news = presence.announce().unwrap();
    assert_eq!(news.changes.named, Named::Changes { joined: users(&[2]), left: vec![] });
    assert_eq!(news.whole, everyone(&[1, 2], 2));
    presence.join(UserId(3));
    assert_eq!(presence.announce(), None, "too early");
    presence.join(UserId(4));
    presence.leave(key(3), UserId(3), false);
    presence.leave(key(2), UserId(2), false);
    assert_eq!(changes(&mut presence), Some((2, 2, vec![4], vec![2])), "3 came and went");
    assert_eq!(changes(&mut presence), None);
    assert!(!presence.is_cooling(), "nothing changes, no timer runs");
}

#[test]
fn a_second_tab_changes_the_counts_alone() {
    let mut presence = watched(9);
    presence.join(UserId(1));
    assert_eq!(changes(&mut presence), Some((1, 2, vec![], vec![])));
    presence.leave(key(2), UserId(1), false);
    presence.join(UserId(1));
    assert_eq!(changes(&mut presence), None, "it is as it was told");
}

#[test]
fn a_newcomer_is_told_what_the_others_were_and_hears_the_rest_with_them() {
    let mut presence = watched(9);
    presence.join(UserId(2));
    presence.announce().unwrap();
    presence.join(UserId(3));
    presence.leave(key(2), UserId(2), false);
    presence.join(UserId(4));
    let first = presence.welcome(key(4), UserId(4));
    assert_eq!(first.named, Named::Everyone(users(&[1, 2, 4])), "as announced, and itself");
    assert_eq!((first.users, first.connections), (3, 3), "as it is");
    assert_eq!(changes(&mut presence), Some((3, 3, vec![3, 4], vec![2])));
}

#[test]
fn a_newcomer_who_was_told_other_counts_is_set_right() {
    let mut presence = watched(9);
    presence.join(UserId(2));
    presence.announce().unwrap();
    presence.join(UserId(2));
    presence.join(UserId(1));
    presence.welcome(key(9), UserId(1));
    presence.leave(key(2), UserId(2), false);
    presence.leave(key(1), UserId(1), true);
    assert_eq!(changes(&mut presence), Some((2, 2, vec![], vec![])));
    assert_eq!(changes(&mut presence), None);
}

#[test]
fn too_many_are_counted_and_named_again_when_they_are_fewer() {
    let mut presence = watched(2);
    for user in 2..=3 {
        presence.join(UserId(user));
    }
    let news = presence.announce().unwrap();
    assert_eq!((news.changes.named.clone(), news.changes.users), (Named::TooMany, 3));
    assert_eq!(news.whole, news.changes);
    assert_eq!(presence.now().named, Named::TooMany);
    presence.join(UserId(4));
    presence.cooled();
    let news = presence.announce().unwrap();
    assert_eq!((news.changes.named, news.changes.users), (Named::TooMany, 4));
    presence.leave(key(4), UserId(4), false);
    presence.leave(key(3), UserId(3), false);
    presence.cooled();
    assert_eq!(presence.announce().unwrap().changes, everyone(&[1, 2], 2));
}

#[test]
fn a_bound_of_0_names_nobody() {
    let mut presence = Presence::new(CHANNEL, 0);
    assert_eq!(presence.now().named, Named::TooMany);
    presence.join(UserId(1));
    assert_eq!(presence.welcome(key(1), UserId(1)).named, Named::TooMany);
}

#[test]
fn who_is_writing_is_told_at_once_then_together_and_not_after_having_written() {
    let mut typing = Typing::default();
    typing.add(UserId(2));
    assert_eq!(typing.take(), Some(users(&[2])));
    for user in [4, 3, 4, 5] {
        typing.add(UserId(user));
    }
    assert_eq!(typing.take(), None, "too early");
    typing.has_written(UserId(3));
    typing.cooled();
    assert_eq!(typing.take(), Some(users(&[4, 5])));
    typing.cooled();
    assert_eq!((typing.take(), typing.is_cooling()), (None, false));
}

#[test]
fn one_event_tells_of_no_more_than_its_bound() {
    let mut typing = Typing::default();
    (0..=u32::try_from(TYPING_USERS_MAX).unwrap()).for_each(|user| typing.add(UserId(user)));
    assert_eq!(typing.take().unwrap().len(), TYPING_USERS_MAX);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Join {
        user: u32,
        asks: bool,
    },
    Leave(prop::sample::Index),
    Cool,
    /// Another node tells of a user.
    Elsewhere {
        node: u64,
        user: u32,
        connections: u32,
    },
    /// Another node has told of all who are there: of nobody.
    RoundOver(u64),
    Gone(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u32..6, any::<bool>()).prop_map(|(user, asks)| Step::Join { user, asks }),
        4 => any::<prop::sample::Index>().prop_map(Step::Leave),
        2 => Just(Step::Cool),
        4 => (1_u64..4, 1_u32..6, 0_u32..3)
            .prop_map(|(node, user, connections)| Step::Elsewhere { node, user, connections }),
        1 => (1_u64..4).prop_map(Step::RoundOver),
        1 => (1_u64..4).prop_map(Step::Gone),
    ]
}

/// What a client makes of what it hears.
#[derive(Debug)]
struct Client {
    user: UserId,
    counts: (u32, u32),
    named: Option<BTreeSet<UserId>>,
}

impl Client {
    fn hear(&mut self, view: &PresenceView) {
        self.counts = (view.users, view.connections);
        match &view.named {
            Named::Everyone(users) => self.named = Some(users.iter().copied().collect()),
            Named::TooMany => self.named = None,
            Named::Changes { joined, left } => {
                let named = self.named.as_mut().expect("changes build on names");
                named.extend(joined);
                named.retain(|user| !left.contains(user));
            }
        }
    }
}

#[test]
fn what_other_nodes_are_told_is_how_it_is_now() {
    let mut presence = Presence::new(CHANNEL, 9);
    assert!(!presence.join(UserId(1)), "there is none");
    presence.join_nodes(Elsewhere::default());
    assert_eq!(presence.take_untold(), [(UserId(1), 1)]);
    assert!(presence.join(UserId(2)), "the first thing to tell");
    assert!(!presence.join(UserId(1)));
    presence.join(UserId(3));
    presence.leave(key(3), UserId(3), false);
    presence.leave(key(2), UserId(2), false);
    let told = [(UserId(1), 2), (UserId(2), 0), (UserId(3), 0)];
    assert_eq!(presence.take_untold(), told);
    assert!(!presence.has_untold());
}

#[test]
fn a_channel_takes_who_is_elsewhere_along_in_and_out_of_memory() {
    let teller = Teller { node: NodeId(1), shard: 0 };
    let mut elsewhere = Elsewhere::default();
    elsewhere.set(teller, 0, UserId(2), 2);
    let mut presence = Presence::new(CHANNEL, 9);
    presence.join_nodes(elsewhere);
    assert_eq!(presence.now(), everyone(&[2], 2));
    presence.join(UserId(2));
    assert_eq!(presence.now(), everyone(&[2], 3));
    let elsewhere = presence.leave_nodes();
    assert_eq!((elsewhere.connections(), presence.now()), (2, everyone(&[2], 1)));
}

proptest! {
    #[test]
    fn every_client_knows_who_is_there_once_it_was_told(
        users_max in 0_u32..5,
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut presence = Presence::new(CHANNEL, users_max);
        // By the slot of the connection; who asked is in `clients` too.
        let mut there: BTreeMap<u32, UserId> = BTreeMap::new();
        let mut elsewhere: BTreeMap<(u64, UserId), u32> = BTreeMap::new();
        let teller = |node| Teller { node: NodeId(node), shard: 0 };
        let mut round = 0;
        let mut clients: BTreeMap<u32, Client> = BTreeMap::new();
        let tell = |presence: &mut Presence, clients: &mut BTreeMap<u32, Client>| {
            let was_cooling = presence.is_cooling();
            let Some(news) = presence.announce() else { return };
            assert!(!was_cooling, "no two within the interval");
            for (slot, client) in clients {
                // Some have missed what came before.
                client.hear(if slot % 3 == 0 { &news.whole } else { &news.changes });
            }
        };
        for (slot, step) in (0_u32..).zip(steps) {
            match step {
                Step::Join { user, asks } => {
                    let user = UserId(user);
                    presence.join(user);
                    there.insert(slot, user);
                    tell(&mut presence, &mut clients);
                    if asks {
                        let first = presence.welcome(key(slot), user);
                        let mut client = Client { user, counts: (0, 0), named: None };
                        client.hear(&first);
                        prop_assert!(client.named.iter().all(|it| it.contains(&client.user)));
                        clients.insert(slot, client);
                    }
                }
                Step::Leave(index) if !there.is_empty() => {
                    let slot = *there.keys().nth(index.index(there.len())).unwrap();
                    let user = there.remove(&slot).unwrap();
                    let was_told = clients.remove(&slot).is_some();
                    presence.leave(key(slot), user, was_told);
                    tell(&mut presence, &mut clients);
                }
                Step::Leave(_) => {}
                Step::Elsewhere { node, user, connections } => {
                    let user = UserId(user);
                    presence.hear(teller(node), round, &[(user, connections)]);
                    elsewhere.insert((node, user), connections);
                    elsewhere.retain(|_, connections| *connections > 0);
                    tell(&mut presence, &mut clients);
                }
                Step::RoundOver(node) => {
                    round += 1;
                    presence.end_round(teller(node), round);
                    elsewhere.retain(|(of, _), _| *of != node);
                    tell(&mut presence, &mut clients);
                }
                Step::Gone(node) => {
                    presence.lose_node(NodeId(node));
                    elsewhere.retain(|(of, _), _| *of != node);
                    tell(&mut presence, &mut clients);
                }
                Step::Cool => {
                    presence.cooled();
                    tell(&mut presence, &mut clients);
                }
            }
            let mut users: BTreeSet<_> = there.values().copied().collect();
            users.extend(elsewhere.keys().map(|(_, user)| *user));
            let named = (users_max as usize >= users.len() && users_max > 0).then_some(users.clone());
            let connections = u32::try_from(there.len()).unwrap() + elsewhere.values().sum::<u32>();
            let counts = (u32::try_from(users.len()).unwrap(), connections);
            let now = presence.now();
            prop_assert_eq!((now.users, now.connections), counts);
            let listed = named.clone().map(|users| users.into_iter().collect());
            prop_assert_eq!(now.named, listed.map_or(Named::TooMany, Named::Everyone));
            if !presence.is_cooling() {
                for client in clients.values() {
                    prop_assert_eq!(client.counts, counts);
                    prop_assert_eq!(&client.named, &named);
                }
            }
        }
        // A time that runs ends, and then another only if there was something to tell.
        presence.cooled();
        tell(&mut presence, &mut clients);
        presence.cooled();
        prop_assert_eq!(presence.announce(), None);
    }
}
