//! A channel whose rights matter, with each answer of its engine in the hands of the test.

use super::*;
use crate::{
    engine::Derived,
    hub::{
        directory::records::ChannelRecord,
        rights::{Change, Rights},
    },
    log::{
        batch::put_record,
        settings::{Posting, Quota, Role, Settings, Usage, Visibility},
    },
    wire::{channels::Update, record},
};

mod ephemeral;
mod nodes;

const OWNER: UserId = UserId(1);
const ADA: UserId = UserId(2);

/// A channel, and what it wants done and has not been given an answer for.
struct Held {
    log: MemoryLog,
    channel: Channel,
    record: ChannelRecord,
    members: HashMap<UserId, Role>,
    wanted: Vec<Effect>,
    told: Vec<Effect>,
    batches: u128,
}

impl Held {
    fn new(settings: &Settings) -> Self {
        let mut record = ChannelRecord {
            id: ID.0,
            name: String::new(),
            epoch: EPOCH.0,
            created_at_ms: 1,
            created_by: OWNER.0,
            topic: String::new(),
            visibility: Visibility::Public,
            posting: Posting::Everyone,
            archived: false,
            quota: Quota::default(),
            usage: Usage::default(),
            member_count: 0,
        };
        record.set(settings);
        let log = MemoryLog::default();
        Self {
            channel: Channel::new(&record.info(), log.caps(), 3),
            log,
            record,
            members: HashMap::from([(OWNER, Role::Owner), (ADA, Role::Member)]),
            wanted: Vec::new(),
            told: Vec::new(),
            batches: 1_000,
        }
    }

    fn open() -> Self {
        Self::new(&Settings::open("lobby"))
    }

    fn private() -> Self {
        Self::new(&Settings { visibility: Visibility::Private, ..Settings::open("lobby") })
    }

    fn with_quota(messages: u64) -> Self {
        let quota = Quota { messages_max: messages.try_into().ok(), bytes_max: None };
        Self::new(&Settings { quota, ..Settings::open("lobby") })
    }

    fn act(&mut self, act: impl FnOnce(&mut Channel, &mut Vec<Effect>)) {
        let mut effects = Vec::new();
        act(&mut self.channel, &mut effects);
        for effect in effects {
            match effect {
                Effect::Append(_) | Effect::Read(..) | Effect::ReadRights | Effect::FindKeys(_) => {
                    self.wanted.push(effect);
                }
                effect => self.told.push(effect),
            }
        }
    }

    fn turn(&mut self) {
        self.batches += 1;
        let id = BatchId(self.batches);
        self.act(|channel, effects| channel.next_append(id, 5, effects));
    }

    /// Gives the answer to the oldest thing that is wanted and `is_it`, as the log has it now.
    fn answer(&mut self, is_it: impl Fn(&Effect) -> bool) {
        let at = self.wanted.iter().position(is_it);
        let at = at.unwrap_or_else(|| panic!("not wanted: {:?}", self.wanted));
        match self.wanted.remove(at) {
            Effect::Append(append) => {
                let answer = self.log.append(&append);
                if answer.is_ok() {
                    self.keep(&append.derived);
                }
                self.act(|channel, effects| channel.appended(answer, effects));
            }
            Effect::Read(from, purpose) => {
                let answer = self.log.read(ID, from, purpose.read_max());
                self.act(|channel, effects| channel.read_done(purpose, answer, effects));
            }
            Effect::FindKeys(keys) => {
                let answer = Ok(self.log.find_keys(ID, &keys));
                self.act(|channel, effects| channel.keys_found(&keys, answer, effects));
            }
            _ => {
                let rights = Rights::new(self.record.clone(), self.members.clone());
                self.act(|channel, effects| channel.rights_read(Ok(Some(rights)), effects));
            }
        }
    }

    /// Takes the usage over that was written with a batch.
    fn keep(&mut self, derived: &[Derived]) {
        for Derived { value, .. } in derived {
            if let Some(Ok(record)) = value.as_deref().map(serde_json::from_slice::<ChannelRecord>)
            {
                self.record = record;
            }
        }
    }

    /// Answers everything, and lets batches be formed, until nothing is wanted.
    fn settle(&mut self) {
        for _ in 0..100 {
            self.turn();
            if self.wanted.is_empty() {
                return;
            }
            while !self.wanted.is_empty() {
                self.answer(|_| true);
            }
        }
        panic!("never settles: {:?}", self.wanted);
    }

    fn publish(&mut self, id: u32, user: UserId) {
        self.publish_as(id, user, None);
    }

    fn publish_as(&mut self, id: u32, user: UserId, key: Option<ClientMessageId>) {
        let draft = Draft {
            user,
            client_message_id: key,
            digest: 0,
            record: encode::record(user, key, "hi".to_owned()),
            wish: Wish::Message(Author::User(user), 2),
            ticket: ticket(id),
        };
        self.act(|channel, effects| channel.publish(draft, effects));
    }

    fn change(&mut self, id: u32, change: Change) {
        let draft = Draft {
            user: OWNER,
            client_message_id: None,
            digest: 0,
            record: bytes::Bytes::new(),
            wish: Wish::Change(Box::new(change)),
            ticket: ticket(id),
        };
        self.act(|channel, effects| channel.publish(draft, effects));
    }

    fn subscribe(&mut self, slot: u32, user: UserId, since: Option<Position>) {
        let wanted = wanted(slot, user, since);
        self.act(|channel, effects| channel.subscribe(wanted, effects));
    }

    fn history(&mut self, id: u32, user: UserId) {
        let page = Page { from: PageFrom::Newest, limit: 10 };
        self.act(|channel, effects| channel.history(ticket(id), user, page, effects));
    }

    /// Another node or an import puts records into the log.
    fn place(&mut self, records: &[bytes::Bytes]) -> Entry {
        let last = self.log.entries(ID).last().cloned();
        let head = last.map_or(Head::empty(EPOCH), |entry| entry.batch.head(entry.at));
        let mut bytes = bytes::BytesMut::new();
        records.iter().for_each(|record| put_record(&mut bytes, record));
        self.batches += 1;
        let batch = Batch {
            epoch: EPOCH,
            id: BatchId(self.batches),
            previous: head.batch,
            first_sequence: head.sequence.next(),
            count: u16::try_from(records.len()).unwrap(),
            timestamp_ms: 5,
            records: bytes.freeze(),
        };
        self.log.place(ID, batch);
        self.log.entries(ID).last().unwrap().clone()
    }

    fn told(&mut self) -> Vec<String> {
        told(&mem::take(&mut self.told))
    }
}

fn is_append(effect: &Effect) -> bool {
    matches!(effect, Effect::Append(_))
}

fn is_page(effect: &Effect) -> bool {
    matches!(effect, Effect::Read(_, Purpose::History(..)))
}

fn is_rights(effect: &Effect) -> bool {
    matches!(effect, Effect::ReadRights)
}

fn to_private() -> Settings {
    Settings { visibility: Visibility::Private, ..Settings::open("lobby") }
}

fn message() -> bytes::Bytes {
    encode::record(UserId(9), None, "hi".to_owned())
}

#[test]
fn a_page_that_was_read_before_a_removal_is_not_handed_out_after_it() {
    let mut held = Held::private();
    held.publish(1, OWNER);
    held.settle();
    held.history(2, ADA);
    held.change(3, Change::RemoveMember(ADA));
    held.turn();
    held.answer(is_append);
    held.told();
    held.answer(is_page);
    assert_eq!(held.told(), ["unknown_channel"]);
}

#[test]
fn a_page_that_was_read_before_a_deletion_is_not_handed_out_after_it() {
    let mut held = Held::open();
    held.publish(1, OWNER);
    held.settle();
    held.history(2, ADA);
    held.change(3, Change::Delete);
    held.turn();
    held.answer(is_rights);
    held.turn();
    held.answer(is_append);
    held.told();
    held.answer(is_page);
    assert_eq!(held.told(), ["unknown_channel"]);
    assert!(held.channel.is_evictable());
}

#[test]
fn nobody_waits_for_rights_that_nobody_reads() {
    // A channel that is open as far as is known here, and is closed by another node.
    let mut held = Held::open();
    held.publish(1, OWNER);
    held.settle();
    let head = held.channel.head().position();
    held.act(Channel::catch_up);
    held.publish(2, ADA);
    held.publish(3, UserId(9));
    let ahead = Position { sequence: head.sequence.next(), ..head };
    held.subscribe(4, ADA, Some(ahead));
    held.subscribe(5, UserId(9), Some(ahead));
    held.place(&[record::settings(OWNER, &to_private())]);
    held.record.set(&to_private());
    held.told();
    held.settle();
    let mut told = held.told();
    told.retain(|it| !it.contains("to all"));
    assert!(held.channel.is_idle() && held.channel.waiting.is_empty());
    assert!(told.contains(&"published 3".to_owned()), "{told:?}");
    assert!(told.iter().any(|it| it.starts_with("subscribed at ")), "{told:?}");
    assert_eq!(told.iter().filter(|it| *it == "unknown_channel").count(), 2, "{told:?}");
}

#[test]
fn a_deletion_by_another_node_ends_the_batch_in_flight() {
    let mut held = Held::open();
    held.publish(1, OWNER);
    held.settle();
    held.publish(2, OWNER);
    held.turn();
    held.place(&[record::deletion(OWNER)]);
    held.told();
    held.settle();
    assert!(held.told().contains(&"unknown_channel".to_owned()));
    assert!(held.channel.is_idle() && held.channel.is_evictable());
}

#[test]
fn what_an_import_has_counted_is_counted_once() {
    for tells_of_it in [false, true] {
        let mut held = Held::with_quota(4);
        held.publish(1, OWNER);
        held.settle();
        // The rights that are read hold two messages that the channel has not applied yet.
        let after = held.channel.head().cursor;
        let entry = held.place(&[message(), message()]);
        held.record.usage = Usage { messages: 3, bytes: 6 };
        if tells_of_it {
            let head = entry.batch.head(entry.at);
            held.act(|channel, effects| channel.imported(after, head, effects));
        }
        for id in 2..5 {
            held.publish(id, OWNER);
        }
        held.told();
        held.settle();
        let answers: Vec<_> =
            held.told().into_iter().filter(|it| !it.contains(" to all")).collect();
        assert_eq!(answers, ["published 4", "quota_exhausted", "quota_exhausted"]);
        assert_eq!(held.record.usage.messages, 4);
    }
}

#[test]
fn rights_are_read_behind_the_head_and_not_beside_it() {
    let mut held = Held::with_quota(4);
    held.publish(1, OWNER);
    held.turn();
    assert!(held.wanted.iter().all(|it| matches!(it, Effect::Read(_, Purpose::Load))));
    held.settle();
    assert_eq!(held.told(), ["1 to all", "published 1"]);
}

#[test]
fn a_channel_that_became_private_is_private_to_who_looked_it_up_before() {
    let mut held = Held::open();
    held.place(&[record::settings(OWNER, &to_private())]);
    held.record.set(&to_private());
    held.subscribe(1, UserId(9), None);
    held.history(2, UserId(9));
    held.publish(3, UserId(9));
    held.settle();
    let told = held.told();
    assert_eq!(told.iter().filter(|it| *it == "unknown_channel").count(), 3, "{told:?}");
}

#[test]
fn what_is_told_of_while_the_log_is_read_is_looked_for_again() {
    let mut held = Held::open();
    held.publish(1, OWNER);
    held.settle();
    held.act(Channel::catch_up);
    // The read has found nothing, and its answer is on the way when something is committed.
    let after = held.channel.head().cursor;
    let nothing = Vec::new();
    let entry = held.place(&[message()]);
    let head = entry.batch.head(entry.at);
    held.act(|channel, effects| channel.imported(after, head, effects));
    held.wanted.clear();
    held.act(|channel, effects| channel.read_done(Purpose::CatchUp, Ok(nothing), effects));
    held.settle();
    assert_eq!(held.channel.head().sequence, Sequence(2));
}

#[test]
fn a_message_that_is_in_the_log_already_takes_no_room_from_another() {
    let mut held = Held::with_quota(2);
    held.publish_as(1, OWNER, Some(ClientMessageId(1)));
    held.settle();
    // A restart: the key is known to the engine only.
    held.channel = Channel::new(&held.record.info(), held.log.caps(), 3);
    held.told();
    held.publish_as(2, OWNER, Some(ClientMessageId(1)));
    held.publish_as(3, OWNER, Some(ClientMessageId(2)));
    held.publish_as(4, OWNER, Some(ClientMessageId(3)));
    held.settle();
    assert_eq!(held.told(), ["published 1", "2 to all", "published 2", "quota_exhausted"]);
}

#[test]
fn who_is_removed_is_told_after_the_removal_and_gets_nothing_more() {
    let mut held = Held::private();
    held.subscribe(1, OWNER, None);
    held.subscribe(2, ADA, None);
    held.settle();
    held.told();
    held.change(3, Change::RemoveMember(ADA));
    held.publish(4, OWNER);
    held.publish(5, ADA);
    held.settle();
    let told = held.told();
    let place = |what: &str| told.iter().position(|it| it == what).unwrap();
    assert!(place("1 to all") < place("#2 leaves"), "{told:?}");
    assert!(place("#2 leaves") < place("2 to all"), "{told:?}");
    assert!(told.contains(&"unknown_channel".to_owned()), "{told:?}");
    held.subscribe(2, ADA, Some(Position { epoch: EPOCH, sequence: Sequence(0) }));
    assert_eq!(held.told()[0], "unknown_channel", "and no byte of history");
}

#[test]
fn outsiders_of_a_channel_that_becomes_private_are_gone() {
    let mut held = Held::open();
    for (slot, user) in [(1, OWNER), (2, ADA), (3, UserId(9))] {
        held.subscribe(slot, user, None);
    }
    held.settle();
    held.told();
    let update = Update { visibility: Some(Visibility::Private), ..Update::default() };
    held.change(4, Change::Update(update));
    held.settle();
    let told = held.told();
    let left: Vec<_> = told.iter().filter(|it| it.ends_with("leaves")).collect();
    assert_eq!(left, ["#3 leaves"], "{told:?}");
}

#[test]
fn there_is_one_append_at_a_time_whatever_is_read_meanwhile() {
    let mut held = Held::open();
    held.publish(1, OWNER);
    held.settle();
    held.publish(2, OWNER);
    held.turn();
    let appends = |held: &Held| held.wanted.iter().filter(|it| is_append(it)).count();
    for is_beaten in [false, true] {
        if is_beaten {
            held.place(&[message()]);
        }
        held.act(Channel::catch_up);
        while let Some(read) = held.wanted.iter().position(|it| matches!(it, Effect::Read(..))) {
            held.wanted.swap(0, read);
            held.answer(|it| matches!(it, Effect::Read(..)));
        }
        held.turn();
        assert_eq!(appends(&held), 1);
    }
    held.told();
    held.settle();
    assert_eq!(held.told(), ["3 to all", "published 3"]);
}

/// A channel that has a message of Ada's, as it is after a restart, with these settings.
fn with_a_message_of_adas(settings: &Settings) -> Held {
    let mut held = Held::open();
    held.publish_as(1, ADA, Some(ClientMessageId(1)));
    held.settle();
    held.record.set(settings);
    held.channel = Channel::new(&held.record.info(), held.log.caps(), 3);
    held.told();
    held
}

#[test]
fn what_is_in_the_log_is_answered_with_its_sequence_whatever_has_changed_since() {
    let changes = [
        Settings { archived: true, ..Settings::open("lobby") },
        Settings { posting: Posting::Moderators, ..Settings::open("lobby") },
        Settings {
            quota: Quota { messages_max: 1.try_into().ok(), bytes_max: None },
            ..Settings::open("lobby")
        },
    ];
    for (settings, refusal) in
        changes.iter().zip(["channel_archived", "forbidden", "quota_exhausted"])
    {
        let mut held = with_a_message_of_adas(settings);
        held.record.usage = Usage { messages: 1, bytes: 2 };
        let key = |number| Some(ClientMessageId(number));
        held.publish_as(2, ADA, key(1));
        held.publish_as(3, ADA, key(1));
        held.publish_as(4, ADA, key(2));
        held.publish(5, ADA);
        // The same number of another user is another message.
        held.publish_as(6, UserId(9), key(1));
        held.turn();
        held.settle();
        let mut told = held.told();
        told.sort();
        let refused = [refusal; 3].map(str::to_owned);
        let answered = ["published 1", "published 1"].map(str::to_owned);
        let mut due = [&refused[..], &answered].concat();
        due.sort();
        assert_eq!(told, due);
        assert!(held.channel.is_idle() && held.channel.is_evictable());
        held.publish_as(7, ADA, key(1));
        assert_eq!(held.told(), ["published 1"], "without another look");
    }
}

#[test]
fn another_text_under_a_stored_number_is_a_conflict_also_where_it_would_be_refused() {
    let archived = Settings { archived: true, ..Settings::open("lobby") };
    let mut held = with_a_message_of_adas(&archived);
    let draft = Draft {
        user: ADA,
        client_message_id: Some(ClientMessageId(1)),
        digest: 1,
        record: encode::record(ADA, Some(ClientMessageId(1)), "other".to_owned()),
        wish: Wish::Message(Author::User(ADA), 5),
        ticket: ticket(2),
    };
    held.act(|channel, effects| channel.publish(draft, effects));
    held.settle();
    assert_eq!(held.told(), ["idempotency_conflict"]);
}

#[test]
fn who_may_not_read_a_channel_does_not_hear_of_messages_there_either() {
    let mut held = with_a_message_of_adas(&to_private());
    held.members.remove(&ADA);
    held.publish_as(2, ADA, Some(ClientMessageId(1)));
    held.settle();
    assert_eq!(held.told(), ["unknown_channel"]);

    // Nor from memory.
    let mut held = Held::private();
    held.publish_as(1, ADA, Some(ClientMessageId(1)));
    held.settle();
    held.change(2, Change::RemoveMember(ADA));
    held.settle();
    held.told();
    held.publish_as(3, ADA, Some(ClientMessageId(1)));
    assert_eq!(held.told(), ["unknown_channel"]);
}

#[test]
fn a_refusal_waits_for_the_engine_and_says_so_when_that_cannot_answer() {
    let archived = Settings { archived: true, ..Settings::open("lobby") };
    let mut held = with_a_message_of_adas(&archived);
    held.publish_as(2, ADA, Some(ClientMessageId(1)));
    let is_look = |effect: &Effect| matches!(effect, Effect::FindKeys(_));
    while !held.wanted.iter().any(is_look) {
        held.turn();
        if !held.wanted.iter().any(is_look) {
            held.answer(|_| true);
        }
    }
    assert!(!held.channel.is_idle(), "a drain waits for it");
    assert!(!held.channel.is_evictable());
    assert_eq!(held.told(), [""; 0]);
    let Some(Effect::FindKeys(keys)) = held.wanted.pop() else { panic!("{:?}", held.wanted) };
    let failed = Err(ReadError::StorageUnavailable);
    held.act(|channel, effects| channel.keys_found(&keys, failed, effects));
    assert_eq!(held.told(), ["storage_unavailable"]);
    assert!(held.channel.is_idle());
    held.publish_as(3, ADA, Some(ClientMessageId(1)));
    held.settle();
    assert_eq!(held.told(), ["published 1"]);
}

#[test]
fn what_is_not_in_the_log_is_judged_as_things_are_then() {
    let archived = Settings { archived: true, ..Settings::open("lobby") };
    let mut held = with_a_message_of_adas(&archived);
    held.publish_as(2, ADA, Some(ClientMessageId(7)));
    held.change(3, Change::Update(Update { archived: Some(false), ..Update::default() }));
    held.settle();
    let told = held.told();
    assert!(told.contains(&"published 3".to_owned()), "{told:?}");
}

#[test]
fn a_name_is_taken_only_while_it_is_claimed() {
    let rename = |until_ms| {
        let update = Update { name: Some("hall".to_owned()), ..Update::default() };
        Change::Rename(update, until_ms)
    };
    let mut held = Held::open();
    // Batches are formed at the time 5.
    held.change(1, rename(4));
    held.settle();
    assert_eq!(held.told(), ["busy"]);
    held.change(2, rename(5));
    held.settle();
    assert!(held.told().contains(&"hall is Open".to_owned()));
}
