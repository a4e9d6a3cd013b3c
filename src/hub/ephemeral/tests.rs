use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*};
use prost::Message as _;

use super::*;
use crate::{
    hub::{ShardId, presence::Presence},
    wire::{
        channels::Named,
        proto::{ServerEnvelope, presence::Users, server_envelope::Envelope},
    },
};

const CHANNEL: ChannelId = ChannelId(7);

fn key(slot: u32) -> ConnectionKey {
    ConnectionKey { shard: ShardId(0), slot, generation: 1 }
}

/// Each user is on the connection of the same number.
fn audience(users: &[u32]) -> Audience {
    let mut audience = Audience::default();
    for &user in users {
        let format = Format::plain(Encoding::Proto);
        audience.insert(Attendant { connection: key(user), format, user: UserId(user) });
    }
    audience
}

fn came(user: u32, users: u32) -> Arc<Announcement> {
    let view = |named| PresenceView { channel: CHANNEL, users, connections: users, named };
    let changes = view(Named::Changes { joined: vec![UserId(user)], left: vec![] });
    let whole = view(Named::Everyone((1..=users).map(UserId).collect()));
    Arc::new(Announcement::presence(CHANNEL, News { changes, whole }))
}

fn writing(users: &[u32]) -> Arc<Announcement> {
    Arc::new(Announcement::typing(CHANNEL, users.iter().copied().map(UserId).collect()))
}

fn envelope(frame: &Frame) -> Envelope {
    ServerEnvelope::decode(&frame[2..]).unwrap().envelope.unwrap()
}

/// Who is told what, if all but these have room.
fn told(
    audience: &mut Audience,
    announcement: &Arc<Announcement>,
    full: &[u32],
) -> (BTreeSet<(u32, String)>, Handed) {
    let mut told = BTreeSet::new();
    let handed = audience.hand(announcement, |connection, frame| {
        let has_room = !full.contains(&connection.slot);
        if has_room {
            told.insert((connection.slot, words(&envelope(&frame))));
        }
        has_room
    });
    (told, handed)
}

fn words(envelope: &Envelope) -> String {
    match envelope {
        Envelope::Typing(typing) => format!("{:?} write", typing.user_ids),
        Envelope::Presence(presence) => match presence.users.as_ref().unwrap() {
            Users::Everyone(everyone) => format!("all {:?}", everyone.user_ids),
            Users::Changes(changes) => format!("came {:?}", changes.joined),
        },
        other => panic!("{other:?}"),
    }
}

fn all<const N: usize>(told: [(u32, &str); N]) -> BTreeSet<(u32, String)> {
    told.into_iter().map(|(slot, words)| (slot, words.to_owned())).collect()
}

#[test]
fn nobody_is_told_of_their_own_typing() {
    let mut audience = audience(&[1, 2, 3]);
    let (heard, handed) = told(&mut audience, &writing(&[2]), &[]);
    assert_eq!(heard, all([(1, "[2] write"), (3, "[2] write")]));
    assert_eq!(handed, Handed { sent: 2, ..Handed::default() });
    let (heard, _) = told(&mut audience, &writing(&[2, 3]), &[]);
    assert_eq!(heard, all([(1, "[2, 3] write"), (2, "[3] write"), (3, "[2] write")]));
}

#[test]
fn who_missed_a_change_is_told_the_whole_as_soon_as_there_is_room() {
    let mut audience = audience(&[1, 2]);
    let (heard, handed) = told(&mut audience, &came(2, 2), &[2]);
    assert_eq!(heard, all([(1, "came [2]")]));
    assert_eq!(handed, Handed { sent: 1, dropped: 1, is_behind: true });
    let (_, handed) = told(&mut audience, &came(3, 3), &[2]);
    assert!(!handed.is_behind, "it was said");
    let still = audience.catch_up(|_, _| false);
    assert_eq!(still, Handed { dropped: 1, is_behind: true, sent: 0 });
    let mut caught_up = Vec::new();
    let handed = audience.catch_up(|connection, frame| {
        caught_up.push((connection.slot, words(&envelope(&frame))));
        true
    });
    assert_eq!(caught_up, [(2, "all [1, 2, 3]".to_owned())]);
    assert_eq!(handed, Handed { sent: 1, ..Handed::default() });
    let (heard, _) = told(&mut audience, &came(4, 4), &[]);
    assert_eq!(heard, all([(1, "came [4]"), (2, "came [4]")]));
}

#[test]
fn a_change_that_has_room_before_that_is_the_whole() {
    let mut audience = audience(&[1, 2]);
    told(&mut audience, &came(3, 3), &[2]);
    let (heard, _) = told(&mut audience, &came(4, 4), &[]);
    assert_eq!(heard, all([(1, "came [4]"), (2, "all [1, 2, 3, 4]")]));
    assert_eq!(audience.catch_up(|_, _| panic!("nobody is behind")), Handed::default());
}

#[test]
fn an_audience_that_goes_while_it_is_behind_stays_until_it_is_called_for_that() {
    let mut audience = audience(&[1]);
    assert!(audience.hand(&came(2, 2), |_, _| false).is_behind, "the first call is asked for");
    audience.remove(key(1));
    assert!(!audience.is_idle(), "who came now would have a second call asked for");
    assert!(!audience.catch_up(|_, _| false).is_behind);
    assert!(audience.is_idle());
}

#[test]
fn missed_typing_is_forgotten() {
    let mut audience = audience(&[1]);
    let (_, handed) = told(&mut audience, &writing(&[2]), &[1]);
    assert_eq!(handed, Handed { dropped: 1, ..Handed::default() });
    let (heard, _) = told(&mut audience, &came(2, 2), &[]);
    assert_eq!(heard, all([(1, "came [2]")]));
}

#[test]
fn an_event_is_encoded_once_for_all() {
    let mut audience = audience(&[1, 2, 3]);
    let mut frames = Vec::new();
    audience.hand(&writing(&[9]), |_, frame| {
        frames.push(frame);
        true
    });
    assert!(frames.windows(2).all(|two| Rc::ptr_eq(&two[0], &two[1])));
}

/// What connections make of what they hear: how many users there are, and which, if they are named.
type Known = BTreeMap<u32, (u32, Option<BTreeSet<u32>>)>;

fn hear(known: &mut Known, connection: ConnectionKey, envelope: Envelope) {
    let Envelope::Presence(presence) = envelope else { panic!("{envelope:?}") };
    let (count, named) = known.get_mut(&connection.slot).unwrap();
    *count = presence.user_count;
    *named = match presence.users {
        None => None,
        Some(Users::Everyone(everyone)) => Some(everyone.user_ids.into_iter().collect()),
        Some(Users::Changes(changes)) => {
            let mut named = named.take().expect("changes build on names");
            named.extend(changes.joined);
            named.retain(|user| !changes.left.contains(user));
            Some(named)
        }
    };
}

proptest! {
    /// Connections of two tabs each come and go; whatever they miss meanwhile, they know all once they
    /// have room.
    #[test]
    fn who_has_room_again_knows_who_is_there(
        users_max in 0_u32..4,
        steps in vec((0_u32..8, 0_u32..8), 0..100),
    ) {
        let user = |slot: u32| UserId(slot / 2 + 1);
        let mut presence = Presence::new(CHANNEL, users_max);
        let (mut audience, mut known, mut full) = (Audience::default(), Known::new(), BTreeSet::new());
        let quiet = (0..8).map(|slot| (7, slot)).chain([(6, 0), (5, 0), (5, 0)]);
        for (act, slot) in steps.into_iter().chain(quiet) {
            let announce = |audience: &mut Audience, presence: &mut Presence, known: &mut Known| {
                let Some(news) = presence.announce() else { return };
                let announcement = Arc::new(Announcement::presence(CHANNEL, news));
                audience.hand(&announcement, |connection, frame| {
                    let has_room = !full.contains(&connection.slot);
                    if has_room {
                        hear(known, connection, envelope(&frame));
                    }
                    has_room
                });
            };
            match act {
                0 | 1 if !known.contains_key(&slot) => {
                    presence.join(user(slot));
                    announce(&mut audience, &mut presence, &mut known);
                    known.insert(slot, (0, None));
                    let first = Control::Presence(presence.welcome(key(slot), user(slot)));
                    let format = Format::plain(Encoding::Proto);
                    let first = Rc::new(control_frame(format, &first));
                    hear(&mut known, key(slot), envelope(&first));
                    audience.insert(Attendant { connection: key(slot), format, user: user(slot) });
                }
                2 if known.remove(&slot).is_some() => {
                    audience.remove(key(slot));
                    presence.leave(key(slot), user(slot), true);
                    announce(&mut audience, &mut presence, &mut known);
                }
                3 | 4 => {
                    full.insert(slot);
                }
                5 => {
                    presence.cooled();
                    announce(&mut audience, &mut presence, &mut known);
                }
                6 => {
                    audience.catch_up(|connection, frame| {
                        let has_room = !full.contains(&connection.slot);
                        if has_room {
                            hear(&mut known, connection, envelope(&frame));
                        }
                        has_room
                    });
                }
                7 => {
                    full.remove(&slot);
                }
                _ => {}
            }
        }
        let there: BTreeSet<_> = known.keys().map(|slot| user(*slot).0).collect();
        let is_named = users_max > 0 && there.len() <= users_max as usize;
        let due = (u32::try_from(there.len()).unwrap(), is_named.then_some(there));
        prop_assert!(known.values().all(|known| *known == due), "{known:?} of {due:?}");
    }
}
