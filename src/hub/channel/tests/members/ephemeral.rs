//! Who is there and who is writing: by every way in which a subscription begins and ends.

use super::*;
use crate::{
    engine::bus::NodeId,
    hub::presence::{Elsewhere, Teller},
    log::batch::BatchError,
};

const EVE: UserId = UserId(9);

impl Held {
    /// Subscribes, and asks for what is not in the log.
    fn attend(&mut self, slot: u32, user: UserId, since: Option<u64>) {
        let since = since.map(|sequence| Position { epoch: EPOCH, sequence: Sequence(sequence) });
        let wanted = Subscribe { ephemeral: true, ..wanted(slot, user, since) };
        self.act(|channel, effects| channel.subscribe(wanted, effects));
    }

    /// Its owner is there, asks, and has heard of all before.
    fn attended(mut self) -> Self {
        self.attend(1, OWNER, None);
        self.settle();
        self.told();
        self
    }

    fn cool(&mut self, cooling: Cooling) -> Vec<String> {
        self.act(|channel, effects| channel.cooled(cooling, effects));
        self.told()
    }

    fn leave(&mut self, slot: u32) -> Vec<String> {
        self.act(|channel, effects| {
            channel.leave(key(slot), effects);
        });
        self.told()
    }

    fn typing(&mut self, id: u32, user: UserId) -> Vec<String> {
        self.act(|channel, effects| channel.typing(ticket(id), user, effects));
        self.told()
    }

    fn presence(&mut self, user: UserId) -> Vec<String> {
        self.act(|channel, effects| channel.presence(ticket(99), user, effects));
        self.settle();
        self.told()
    }

    /// So many messages that a resume from the beginning reads the log.
    fn long(settings: &Settings) -> Self {
        let mut held = Self::new(settings);
        let body = "x".repeat(TAIL_BYTES_MAX / 3);
        for _ in 0..6 {
            held.place(&[encode::record(OWNER, None, body.clone())]);
        }
        held
    }
}

#[test]
fn who_asks_is_told_at_once_and_the_others_hear_of_it() {
    let mut held = Held::open().attended();
    held.attend(2, ADA, None);
    assert_eq!(
        held.told(),
        [
            "subscribed at 0",
            "announced: 2/2 +[2] -[]",
            "Presence cools",
            "#2 attends: 2/2 [1, 2]",
            "#2 joins",
        ]
    );
    held.subscribe(3, EVE, None);
    assert_eq!(held.told(), ["subscribed at 0", "#3 joins"], "who did not ask counts all the same");
    assert_eq!(held.leave(2), ["#2 leaves", "#2 attends no more"]);
    assert_eq!(held.cool(Cooling::Presence), ["announced: 2/2 +[9] -[2]", "Presence cools"]);
    assert_eq!(held.cool(Cooling::Presence), [""; 0]);
}

#[test]
fn nothing_is_announced_and_no_timer_runs_where_nobody_asked() {
    let mut held = Held::open();
    held.subscribe(1, OWNER, None);
    held.settle();
    held.subscribe(2, ADA, None);
    held.leave(1);
    let told = held.told();
    assert!(!told.iter().any(|it| it.contains("announced") || it.contains("cools")), "{told:?}");
    assert_eq!(held.presence(EVE), ["there: 1/1 [2]"]);
    assert_eq!(held.typing(1, EVE), ["typing sent"]);
}

#[test]
fn who_replays_is_there_and_who_leaves_in_the_middle_is_not() {
    let mut held = Held::long(&Settings::open("lobby")).attended();
    held.attend(2, ADA, Some(0));
    let told = held.told();
    assert_eq!(told.last().unwrap(), "#2 attends: 2/2 [1, 2]", "before what it missed: {told:?}");
    assert_eq!(held.leave(2), ["#2 attends no more"], "it was not live yet");
    assert_eq!(held.cool(Cooling::Presence), ["announced: 1/1 +[] -[2]", "Presence cools"]);
    // What was read for it goes nowhere.
    held.settle();
    assert_eq!(held.told(), [""; 0]);
    assert_eq!(held.presence(OWNER), ["there: 1/1 [1]"]);
    held.attend(2, ADA, Some(0));
    held.settle();
    held.told();
    assert_eq!(held.presence(OWNER), ["there: 2/2 [1, 2]"], "once, replayed and live");
}

#[test]
fn a_replay_that_fails_leaves_its_subscriber_there() {
    let mut held = Held::long(&Settings::open("lobby")).attended();
    held.attend(2, ADA, Some(0));
    held.wanted.clear();
    let purpose = Purpose::Replay(key(2));
    let failed = Err(ReadError::Busy);
    held.act(|channel, effects| channel.read_done(purpose, failed, effects));
    held.told();
    assert_eq!(held.presence(OWNER), ["there: 2/2 [1, 2]"]);
    assert_eq!(held.leave(2)[..2], ["#2 leaves", "#2 attends no more"]);
}

#[test]
fn who_is_refused_or_waits_is_not_there() {
    let mut held = Held::open();
    held.attend(1, OWNER, None);
    held.leave(1);
    held.settle();
    held.told();
    assert_eq!(held.presence(OWNER), ["there: 0/0 []"], "it left while it waited");
    let elsewhere = Some(Position { epoch: Epoch(1), sequence: Sequence(0) });
    let asked = Subscribe { ephemeral: true, ..wanted(2, ADA, elsewhere) };
    held.act(|channel, effects| channel.subscribe(asked, effects));
    assert_eq!(held.told(), ["epoch_changed", "#2 is out"]);
    held.attend(2, ADA, Some(7));
    held.settle();
    assert_eq!(held.told(), ["position_ahead", "#2 is out"]);
    assert_eq!(held.presence(OWNER), ["there: 0/0 []"]);
}

#[test]
fn to_unsubscribe_ends_it_before_the_reply() {
    let mut held = Held::open().attended();
    held.attend(2, ADA, None);
    held.told();
    held.act(|channel, effects| channel.unsubscribe(ticket(2), effects));
    assert_eq!(held.told(), ["#2 leaves", "#2 attends no more", "unsubscribed"]);
    held.act(|channel, effects| channel.unsubscribe(ticket(2), effects));
    assert_eq!(held.told(), ["not_subscribed"], "and no second time");
    assert_eq!(held.presence(OWNER), ["there: 1/1 [1]"]);
}

#[test]
fn who_is_removed_hears_nothing_more_and_the_others_do() {
    let mut held = Held::private().attended();
    held.attend(2, ADA, None);
    held.attend(3, ADA, None);
    held.cool(Cooling::Presence);
    held.cool(Cooling::Presence);
    held.change(4, Change::RemoveMember(ADA));
    held.settle();
    let told = held.told();
    for slot in [2, 3] {
        let place = |what: &str| told.iter().position(|it| it == what).unwrap();
        let out = place(&format!("#{slot} is out"));
        assert!(place(&format!("#{slot} attends no more")) < out, "{told:?}");
        assert!(out < place("announced: 1/1 +[] -[2]"), "{told:?}");
    }
    assert_eq!(held.presence(OWNER), ["there: 1/1 [1]"]);
    assert_eq!(held.presence(ADA), ["unknown_channel"]);
    assert_eq!(held.typing(5, ADA), ["unknown_channel"]);
}

#[test]
fn outsiders_are_not_there_once_a_channel_is_private() {
    let mut held = Held::long(&Settings::open("lobby")).attended();
    held.attend(2, EVE, None);
    held.attend(3, EVE, Some(0));
    held.told();
    let update = Update { visibility: Some(Visibility::Private), ..Update::default() };
    held.change(4, Change::Update(update));
    held.turn();
    // The rights are read and the change committed while the third replays.
    while !held.wanted.iter().all(|it| matches!(it, Effect::Read(_, Purpose::Replay(_)))) {
        held.answer(|it| !matches!(it, Effect::Read(_, Purpose::Replay(_))));
        held.turn();
    }
    let told = held.told();
    assert!(told.contains(&"#3 attends no more".to_owned()), "{told:?}");
    assert!(!told.contains(&"#3 leaves".to_owned()), "it was not live: {told:?}");
    held.settle();
    assert_eq!(held.presence(OWNER), ["there: 1/1 [1]"]);
    assert_eq!(held.cool(Cooling::Presence), ["announced: 1/1 +[] -[9]", "Presence cools"]);
}

#[test]
fn a_deleted_or_sealed_channel_has_nobody() {
    let mut held = Held::open().attended();
    held.attend(2, ADA, None);
    held.told();
    held.change(3, Change::Delete);
    held.settle();
    let told = held.told();
    assert!(
        !told.iter().any(|it| it.contains("announced")),
        "there is nobody to hear it: {told:?}"
    );
    assert!(told.contains(&"#1 attends no more".to_owned()), "{told:?}");
    assert_eq!(held.presence(OWNER), ["unknown_channel"]);
    assert_eq!(held.typing(4, OWNER), ["unknown_channel"]);
    assert!(!held.channel.is_evictable(), "its time still runs");
    held.cool(Cooling::Presence);
    assert!(held.channel.is_evictable());

    let mut held = Held::open().attended();
    held.act(Channel::catch_up);
    let (cursor, source) = (held.channel.head().cursor, BatchError::WrongChecksum);
    let damaged = ReadError::Damaged { cursor, source };
    held.wanted.clear();
    held.act(|channel, effects| channel.read_done(Purpose::CatchUp, Err(damaged), effects));
    let told = held.told();
    assert!(told.contains(&"#1 attends no more".to_owned()), "{told:?}");
    assert_eq!(held.presence(OWNER), ["channel_sealed"]);
    assert_eq!(held.typing(4, OWNER), ["channel_sealed"]);
}

#[test]
fn typing_is_told_at_once_then_gathered() {
    let mut held = Held::open().attended();
    assert_eq!(
        held.typing(2, ADA),
        ["typing sent", "announced: [2] write", "Typing cools"],
        "whether she is there or not"
    );
    assert_eq!(held.typing(2, ADA), ["typing sent"]);
    assert_eq!(held.typing(3, EVE), ["typing sent"]);
    held.publish(4, EVE);
    held.settle();
    held.told();
    assert_eq!(
        held.cool(Cooling::Typing),
        ["announced: [2] write", "Typing cools"],
        "9 has written"
    );
    assert_eq!(held.cool(Cooling::Typing), [""; 0]);
}

#[test]
fn other_nodes_are_told_who_writes_while_somebody_is_there() {
    let mut held = Held::open();
    held.act(|channel, _| channel.join_nodes(Elsewhere::default()));
    held.presence(EVE);
    assert_eq!(held.typing(1, ADA), ["typing sent"], "nobody is there");
    let teller = Teller { node: NodeId(1), shard: 0 };
    held.act(|channel, effects| channel.hear_presence(teller, 1, &[(EVE, 1)], effects));
    let told = ["nodes are told who writes: [UserId(2)]", "TypingElsewhere cools"];
    assert_eq!(held.typing(2, ADA), [&["typing sent"], &told[..]].concat());
    assert_eq!(held.typing(3, ADA), ["typing sent"]);
    assert_eq!(held.typing(4, EVE), ["typing sent"]);
    held.publish(5, EVE);
    held.settle();
    held.told();
    assert_eq!(held.cool(Cooling::TypingElsewhere), told, "9 has written");
    assert_eq!(held.cool(Cooling::TypingElsewhere), [""; 0]);
}

#[test]
fn who_writes_or_comes_elsewhere_is_told_of_here() {
    let mut held = Held::open().attended();
    held.act(|channel, _| {
        channel.join_nodes(Elsewhere::default());
        assert_eq!(channel.take_untold(), [(OWNER, 1)]);
    });
    held.act(|channel, effects| channel.hear_typing(vec![ADA, EVE], effects));
    assert_eq!(held.told(), ["announced: [2, 9] write", "Typing cools"]);
    let teller = Teller { node: NodeId(1), shard: 0 };
    held.act(|channel, effects| channel.hear_presence(teller, 1, &[(EVE, 2)], effects));
    assert_eq!(held.told(), ["announced: 2/3 +[9] -[]", "Presence cools"]);
    held.act(|channel, effects| channel.lose_node(NodeId(1), effects));
    assert_eq!(held.told(), [""; 0], "too early");
    assert_eq!(held.cool(Cooling::Presence), ["announced: 1/1 +[] -[9]", "Presence cools"]);
    held.subscribe(2, ADA, None);
    assert!(held.told().contains(&"nodes are to be told".to_owned()));
    assert!(!held.channel.is_evictable());
}

#[test]
fn typing_among_too_many_is_answered_and_not_told() {
    let mut held = Held::open().attended();
    for slot in 2..=4 {
        held.subscribe(slot, UserId(slot), None);
    }
    held.told();
    assert_eq!(held.typing(5, ADA), ["typing sent"]);
    held.leave(4);
    assert_eq!(held.typing(5, ADA), ["typing sent", "announced: [2] write", "Typing cools"]);
}

#[test]
fn only_who_may_publish_is_writing() {
    let settings = Settings { posting: Posting::Members, ..Settings::open("lobby") };
    let mut held = Held::new(&settings).attended();
    // The rights are not known yet: it waits for them.
    assert_eq!(held.typing(2, EVE), [""; 0]);
    held.settle();
    assert_eq!(held.told(), ["forbidden"]);
    assert_eq!(held.typing(2, ADA)[0], "typing sent");
    held.change(3, Change::Update(Update { archived: Some(true), ..Update::default() }));
    held.settle();
    held.told();
    assert_eq!(held.typing(2, ADA), ["channel_archived"]);
    assert_eq!(held.presence(EVE), ["there: 1/1 [1]"], "all may know who is there");
    let mut held = Held::private();
    held.typing(2, EVE);
    held.act(|channel, effects| channel.presence(ticket(3), EVE, effects));
    held.settle();
    assert_eq!(held.told(), ["unknown_channel", "unknown_channel"]);
}

#[test]
fn what_waits_is_refused_when_the_rights_cannot_be_read() {
    let mut held = Held::private();
    held.act(|channel, effects| channel.presence(ticket(1), OWNER, effects));
    held.act(|channel, effects| channel.typing(ticket(2), OWNER, effects));
    held.answer(|it| matches!(it, Effect::Read(..)));
    held.act(|channel, effects| channel.rights_read(Err(ErrorCode::Busy), effects));
    assert_eq!(held.told(), ["busy", "busy"]);
}
