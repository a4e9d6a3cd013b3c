//! What other nodes have written and their feed has not brought: nobody is refused for want of that.

use super::*;
use crate::hub::{presence::Elsewhere, sequencer::Answered};

const EVE: UserId = UserId(9);

impl Held {
    /// One of several nodes, which has read the rights.
    fn shared(settings: &Settings) -> Self {
        let mut held = Self::new(settings);
        held.act(|channel, _| channel.join_nodes(Elsewhere::default()));
        held.change(1, Change::SetMember(ADA, Role::Member));
        held.settle();
        held.told();
        assert!(held.channel.rights().is_some());
        held
    }

    /// Another node makes somebody a member.
    fn join_elsewhere(&mut self, user: UserId) {
        self.place(&[record::membership(user, user, Some(Role::Member))]);
        self.members.insert(user, Role::Member);
    }

    fn change_by(&mut self, user: UserId, change: Change) {
        let wish = Wish::Change(Box::new(change));
        let (record, ticket) = (bytes::Bytes::new(), ticket(7));
        let draft = Draft { user, client_message_id: None, digest: 0, record, wish, ticket };
        self.act(|channel, effects| channel.publish(draft, effects));
    }

    /// All that can be refused, asked for by somebody.
    fn ask_all(&mut self, user: UserId) {
        self.subscribe(2, user, None);
        self.history(3, user);
        self.act(|channel, effects| channel.presence(ticket(4), user, effects));
        self.act(|channel, effects| channel.typing(ticket(5), user, effects));
        self.publish_as(6, user, Some(ClientMessageId(6)));
        self.change_by(user, Change::Leave);
        self.turn();
    }

    fn answers(&mut self) -> Vec<String> {
        let mut told = self.told();
        let no_answers =
            ["all", "joins", "leaves", "out", "announced", "cools", "told", "forgotten"];
        told.retain(|it| !no_answers.iter().any(|end| it.contains(end)));
        told.sort();
        told
    }
}

fn is_look(effect: &Effect) -> bool {
    matches!(effect, Effect::Read(_, Purpose::CatchUp))
}

#[test]
fn what_another_node_has_allowed_is_not_refused() {
    let mut held = Held::shared(&to_private());
    held.join_elsewhere(EVE);
    held.ask_all(EVE);
    assert!(!held.channel.is_idle() && !held.channel.is_evictable(), "it is not answered yet");
    assert_eq!(held.wanted.iter().filter(|it| is_look(it)).count(), 1, "one look for all");
    held.settle();
    // She leaves after all that.
    let mut due = [
        "UserId(9) is None",
        "a page",
        "ended by not_a_member",
        "published 2",
        "subscribed at 1",
        "there: 1/1 [9]",
        "typing sent",
    ];
    due.sort_unstable();
    assert_eq!(held.answers(), due);
    assert!(held.channel.is_idle());
}

#[test]
fn who_is_allowed_by_nobody_is_refused_after_a_look() {
    let mut held = Held::shared(&to_private());
    held.ask_all(EVE);
    assert_eq!(held.answers(), [""; 0]);
    let mut looks = 0;
    while !held.channel.is_idle() || !held.wanted.is_empty() {
        held.turn();
        if !held.wanted.is_empty() {
            looks += u32::from(is_look(&held.wanted[0]));
            held.answer(|_| true);
        }
    }
    // What came after the first look had begun has another, and so have the publish and the change.
    assert_eq!(looks, 3);
    assert_eq!(held.answers(), ["unknown_channel"; 6].map(str::to_owned));
    assert!(held.channel.doubted.is_empty());
}

#[test]
fn a_single_node_refuses_without_a_look() {
    let mut held = Held::private();
    held.publish(1, OWNER);
    held.settle();
    held.told();
    held.ask_all(EVE);
    assert!(held.wanted.is_empty(), "{:?}", held.wanted);
    assert_eq!(held.answers(), ["unknown_channel"; 6].map(str::to_owned));
}

#[test]
fn what_another_node_has_undone_is_not_taken_for_done() {
    let mut held = Held::shared(&Settings::open("lobby"));
    // She is a member as far as is known here.
    held.place(&[record::membership(ADA, ADA, None)]);
    held.members.remove(&ADA);
    held.change_by(ADA, Change::Join);
    held.settle();
    assert_eq!(held.answers(), ["UserId(2) is Some(Member)"]);
    assert_eq!(held.channel.head().sequence, Sequence(2), "it is in the log");
}

#[test]
fn who_leaves_while_the_log_is_looked_at_is_answered_once() {
    let mut held = Held::shared(&to_private());
    held.subscribe(2, EVE, None);
    held.act(|channel, effects| {
        assert!(channel.leave(key(2), effects));
    });
    held.settle();
    assert_eq!(held.answers(), ["not_subscribed"]);
}

#[test]
fn what_another_node_may_yet_write_is_not_said_to_be_refused() {
    for is_answered in [false, true] {
        let archived = Settings { archived: true, ..Settings::open("lobby") };
        let mut held = Held::shared(&archived);
        held.publish_as(2, ADA, Some(ClientMessageId(2)));
        let (id, owner) = (BatchId(1), crate::engine::bus::NodeId(2));
        held.act(|channel, effects| assert!(channel.forward(id, owner, effects)));
        held.told.clear();
        let refused = [Answered::Refused(ErrorCode::Busy)];
        let answers = if is_answered { &refused[..] } else { &[] };
        held.act(|channel, effects| channel.forwarded(id, EPOCH, answers, effects));
        held.settle();
        let told = held.told();
        let code = if is_answered { "channel_archived" } else { "busy" };
        assert_eq!(told.last().map(String::as_str), Some(code), "{told:?}");
        assert!(held.channel.is_idle());
    }
}

#[test]
fn what_others_publish_is_counted_before_something_is_judged() {
    let quota = Quota { messages_max: 3.try_into().ok(), bytes_max: None };
    let mut held = Held::shared(&Settings { quota, ..Settings::open("lobby") });
    held.publish(2, OWNER);
    held.settle();
    let entry = held.place(&[message()]);
    held.record.usage = Usage { messages: 2, bytes: 4 };
    held.act(|channel, effects| channel.apply(entry, effects));
    assert!(held.channel.rights().is_none(), "they do not count right");
    held.told();
    held.publish(3, OWNER);
    held.publish(4, OWNER);
    held.settle();
    assert_eq!(held.answers(), ["published 3", "quota_exhausted"]);
}

#[test]
fn who_loses_again_and_again_waits_before_the_next_look() {
    let mut held = Held::shared(&Settings::open("lobby"));
    held.publish(2, OWNER);
    let mut pauses = Vec::new();
    for _ in 0..4 {
        held.turn();
        held.place(&[message()]);
        held.answer(is_append);
        for told in std::mem::take(&mut held.told) {
            if let Effect::ContendLater(losses) = told {
                pauses.push(losses);
                assert!(held.wanted.is_empty(), "no look before");
                held.act(Channel::recover);
            }
        }
        while !held.wanted.is_empty() {
            held.answer(|_| true);
        }
    }
    assert_eq!(pauses, [1, 2], "the first two looks are at once");
    held.settle();
    assert!(held.answers().contains(&"published 5".to_owned()));
    // Who has won begins anew.
    held.publish(3, OWNER);
    held.turn();
    held.place(&[message()]);
    held.answer(is_append);
    assert!(held.wanted.iter().any(is_look));
}

#[test]
fn what_another_node_imports_is_a_gap() {
    let mut held = Held::shared(&Settings::open("lobby"));
    held.subscribe(1, ADA, None);
    held.settle();
    held.told();
    let entry = held.place(&[message(), message()]);
    held.act(|channel, effects| channel.apply_imported(entry, effects));
    assert_eq!(held.told(), ["gap 1-2"]);
    // What is no continuation is looked for.
    held.place(&[message()]);
    let entry = held.place(&[message()]);
    held.act(|channel, effects| channel.apply_imported(entry, effects));
    held.settle();
    assert_eq!(held.told(), ["3 to all", "4 to all"]);
}

#[test]
fn members_that_were_imported_are_read() {
    let mut held = Held::shared(&to_private());
    held.members.insert(EVE, Role::Member);
    held.act(|channel, _| channel.members_imported());
    held.history(2, EVE);
    held.settle();
    assert_eq!(held.answers(), ["a page"]);
    // Also while they are being read.
    held.act(|channel, _| channel.members_imported());
    held.history(3, OWNER);
    assert!(is_rights(&held.wanted.remove(0)));
    let before = Rights::new(held.record.clone(), held.members.clone());
    held.members.insert(UserId(10), Role::Member);
    held.act(|channel, _| channel.members_imported());
    held.act(|channel, effects| channel.rights_read(Ok(Some(before)), effects));
    held.history(4, UserId(10));
    held.settle();
    assert_eq!(held.answers(), ["a page", "a page"]);
}
