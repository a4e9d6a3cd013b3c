use super::*;
use crate::{
    engine::memory::MemoryLog,
    hub::{
        Asked, Format, ShardId,
        ephemeral::{Announcement, Event},
        rights::Author,
        sequencer::Wish,
    },
    limits::{READ_BYTES_MAX, REPLAY_BYTES_MAX, REPLAY_MESSAGES_MAX, TAIL_BYTES_MAX},
    log::{
        batch::Batch,
        place::{ClientMessageId, Durability, Epoch, Position},
    },
    wire::{
        Encoding,
        channels::{Named, PresenceView},
        decode::PageFrom,
        encode::{self, Control},
    },
};

mod members;

const PROTO: Format = Format::plain(Encoding::Proto);

const ID: ChannelId = ChannelId(7);
const EPOCH: Epoch = Epoch(1_700_000_000);

/// A channel on a log, whose reads and appends are answered at once, in order.
struct Bench {
    log: MemoryLog,
    channel: Channel,
    batches: u128,
    /// What the channel wanted done, but for reads and appends.
    done: Vec<Effect>,
}

impl Bench {
    fn new() -> Self {
        Self::on(MemoryLog::new(Caps { durability: Durability::Fsynced, junk_possible: false }))
    }

    fn on(log: MemoryLog) -> Self {
        let info = ChannelInfo { id: ID, name: "lobby".into(), epoch: EPOCH, access: Access::Open };
        let channel = Channel::new(&info, log.caps(), 3);
        Self { log, channel, batches: 0, done: Vec::new() }
    }

    /// The same log after a restart.
    fn restarted(self) -> Self {
        Self::on(self.log)
    }

    fn act(&mut self, act: impl FnOnce(&mut Channel, &mut Vec<Effect>)) -> Vec<Effect> {
        let mut effects = Vec::new();
        act(&mut self.channel, &mut effects);
        let mut next = std::collections::VecDeque::from(effects);
        while let Some(effect) = next.pop_front() {
            let mut effects = Vec::new();
            match effect {
                Effect::Append(append) => {
                    let answer = self.log.append(&append);
                    self.channel.appended(answer, &mut effects);
                }
                Effect::Read(from, purpose) => {
                    let answer = self.log.read(ID, from, purpose.read_max());
                    self.channel.read_done(purpose, answer, &mut effects);
                }
                effect => self.done.push(effect),
            }
            next.extend(effects);
        }
        mem::take(&mut self.done)
    }

    fn publish(&mut self, body: &str) -> Vec<Effect> {
        let draft = Draft {
            user: UserId(1),
            client_message_id: None,
            digest: encode::digest(body),
            record: encode::record(UserId(1), None, body.to_owned()),
            wish: Wish::Message(Author::User(UserId(1)), body.len()),
            ticket: ticket(0),
        };
        let mut effects = self.act(|channel, effects| channel.publish(draft, effects));
        effects.extend(self.turn());
        effects
    }

    fn turn(&mut self) -> Vec<Effect> {
        self.batches += 1;
        let id = BatchId(self.batches);
        self.act(|channel, effects| channel.next_append(id, 5, effects))
    }

    fn subscribe(&mut self, slot: u32, since: Option<u64>) -> Vec<Effect> {
        let since = since.map(|sequence| Position { epoch: EPOCH, sequence: Sequence(sequence) });
        self.act(|channel, effects| {
            channel.subscribe(wanted(slot, UserId(slot), since), effects);
        })
    }

    fn history(&mut self, from: PageFrom, limit: u32) -> Vec<u64> {
        let page = Page { from, limit };
        let effects =
            self.act(|channel, effects| channel.history(ticket(0), UserId(1), page, effects));
        let [Effect::Reply(_, Reply::History { runs, .. })] = &effects[..] else {
            panic!("{effects:?}")
        };
        let sequences = runs.iter().flat_map(|run| {
            let batch = Batch {
                epoch: EPOCH,
                id: BatchId(1),
                previous: BatchId(0),
                first_sequence: run.first_sequence,
                count: 1,
                timestamp_ms: 0,
                records: run.records.clone(),
            };
            (0..batch.records().count() as u64).map(move |n| run.first_sequence.0 + n)
        });
        sequences.collect()
    }
}

fn key(slot: u32) -> ConnectionKey {
    ConnectionKey { shard: ShardId(0), slot, generation: 0 }
}

fn ticket(slot: u32) -> Ticket {
    // What was asked is for the shard to know, not for the channel.
    Ticket { connection: key(slot), id: slot, asked: Asked::Publish }
}

fn wanted(slot: u32, user: UserId, since: Option<Position>) -> Subscribe {
    Subscribe { ticket: ticket(slot), format: PROTO, user, since, ephemeral: false }
}

/// The effects in a few words.
fn told(effects: &[Effect]) -> Vec<String> {
    let words = |effect: &Effect| match effect {
        Effect::FanOut(delivery) => format!("{} to all", delivery.batch.first_sequence),
        Effect::Join(subscriber) => format!("#{} joins", subscriber.connection.slot),
        Effect::Leave(connection) => format!("#{} leaves", connection.slot),
        Effect::Replay(to, delivery, after) => {
            let first = delivery.batch.first_sequence.max(after.next());
            format!("{first}-{} to #{}", delivery.batch.last_sequence(), to.connection.slot)
        }
        Effect::Reply(_, Reply::Subscribed { head, .. }) => {
            format!("subscribed at {}", head.sequence)
        }
        Effect::Reply(_, Reply::Unsubscribed(_)) => "unsubscribed".to_owned(),
        Effect::Reply(_, Reply::Published(published)) => {
            format!("published {}", published.sequence)
        }
        Effect::Reply(_, Reply::Refused(refusal)) => refusal.code.name().to_owned(),
        Effect::Tell(_, Control::Gap { from, to, .. }) => format!("gap {from}-{to}"),
        Effect::Tell(_, Control::SubscriptionEnded { refusal, .. }) => {
            format!("ended by {}", refusal.code.name())
        }
        Effect::Ended(connection) => format!("#{} is out", connection.slot),
        Effect::Sealed => "sealed".to_owned(),
        Effect::Reply(_, Reply::History { .. }) => "a page".to_owned(),
        Effect::Reply(_, Reply::Member(member)) => {
            format!("{:?} is {:?}", member.user, member.role)
        }
        Effect::Reply(_, Reply::Channel(_)) => "changed".to_owned(),
        Effect::Reply(_, Reply::ChannelDeleted(_)) => "deleted".to_owned(),
        Effect::Reply(_, Reply::Presence(view)) => format!("there: {}", there(view)),
        Effect::Reply(_, Reply::TypingSent(_)) => "typing sent".to_owned(),
        Effect::Attend(attendant, first) => {
            format!("#{} attends: {}", attendant.connection.slot, there(first))
        }
        Effect::Unattend(connection) => format!("#{} attends no more", connection.slot),
        Effect::Announce(announcement) => format!("announced: {}", announced(announcement)),
        Effect::Untold => "nodes are to be told".to_owned(),
        Effect::TellTyping(users) => format!("nodes are told who writes: {users:?}"),
        Effect::CoolDown(cooling) => format!("{cooling:?} cools"),
        Effect::Learn(info) => format!("{} is {:?}", info.name, info.access),
        Effect::ForgetMember(user) => format!("{user:?} is forgotten"),
        Effect::Forget => "forgotten".to_owned(),
        effect => panic!("{effect:?}"),
    };
    effects.iter().map(words).collect()
}

fn numbers(users: &[UserId]) -> Vec<u32> {
    users.iter().map(|user| user.0).collect()
}

/// Who is there, in a few words: users, connections, and who they are.
fn there(view: &PresenceView) -> String {
    let named = match &view.named {
        Named::Everyone(users) => format!("{:?}", numbers(users)),
        Named::Changes { joined, left } => format!("+{:?} -{:?}", numbers(joined), numbers(left)),
        Named::TooMany => "too many".to_owned(),
    };
    format!("{}/{} {named}", view.users, view.connections)
}

fn announced(announcement: &Announcement) -> String {
    match announcement.event() {
        Event::Presence(news) => there(&news.changes),
        Event::Typing(users) => {
            format!("{:?} write", users.iter().map(|it| it.0).collect::<Vec<_>>())
        }
    }
}

#[test]
fn a_message_is_handed_out_before_its_publisher_is_answered() {
    let mut bench = Bench::new();
    bench.subscribe(1, None);
    bench.subscribe(2, None);
    assert_eq!(told(&bench.publish("a")), ["1 to all", "published 1"]);
}

#[test]
fn what_comes_while_a_batch_is_in_flight_is_one_batch_behind_it() {
    let mut bench = Bench::new();
    bench.publish("first");
    let mut effects = Vec::new();
    for body in ["a", "b", "c"] {
        let draft = Draft {
            user: UserId(1),
            client_message_id: None,
            digest: 0,
            record: encode::record(UserId(1), None, body.to_owned()),
            wish: Wish::Message(Author::User(UserId(1)), body.len()),
            ticket: ticket(0),
        };
        bench.channel.publish(draft, &mut effects);
    }
    assert_eq!(told(&bench.turn()), ["2 to all", "published 2", "published 3", "published 4"]);
}

#[test]
fn a_resume_from_memory_is_the_rest_of_a_batch_and_then_live() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        bench.publish("a");
    }
    assert_eq!(
        told(&bench.subscribe(1, Some(1))),
        ["subscribed at 3", "2-2 to #1", "3-3 to #1", "#1 joins"]
    );
    assert_eq!(told(&bench.publish("b")), ["4 to all", "published 4"]);
}

#[test]
fn a_resume_at_the_head_replays_nothing() {
    let mut bench = Bench::new();
    bench.publish("a");
    assert_eq!(told(&bench.subscribe(1, Some(1))), ["subscribed at 1", "#1 joins"]);
}

#[test]
fn a_resume_from_before_the_tail_reads_the_log() {
    let mut bench = Bench::new();
    let body = "x".repeat(TAIL_BYTES_MAX / 8);
    for _ in 0..11 {
        bench.publish(&body);
    }
    let mut bench = bench.restarted();
    let effects = told(&bench.subscribe(1, Some(0)));
    let expected: Vec<String> =
        (1..=11).map(|n| format!("{n}-{n} to #1")).chain(["#1 joins".to_owned()]).collect();
    assert_eq!(effects[0], "subscribed at 11");
    assert_eq!(effects[1..], expected);
    assert_eq!(told(&bench.publish("b")), ["12 to all", "published 12"]);
}

#[test]
fn a_resume_over_too_many_bytes_ends_in_a_gap_and_the_tail() {
    let mut bench = Bench::new();
    let body = "x".repeat(TAIL_BYTES_MAX / 8);
    for _ in 0..30 {
        bench.publish(&body);
    }
    let effects = told(&bench.subscribe(1, Some(0)));
    let gaps: Vec<&String> = effects.iter().filter(|told| told.starts_with("gap")).collect();
    assert_eq!(gaps.len(), 1, "{effects:?}");
    let bytes = (effects.len() - 3) * body.len();
    assert!(bytes <= TAIL_BYTES_MAX + REPLAY_BYTES_MAX + READ_BYTES_MAX, "{bytes}");
    assert!(effects.ends_with(&["30-30 to #1".to_owned(), "#1 joins".to_owned()]));
}

#[test]
fn a_resume_over_too_many_messages_is_a_gap_at_once() {
    let mut bench = Bench::new();
    let body = "x".repeat(TAIL_BYTES_MAX / 400);
    for _ in 0..REPLAY_MESSAGES_MAX + 500 {
        bench.publish(&body);
    }
    let effects = told(&bench.subscribe(1, Some(0)));
    let start = bench.channel.tail.start().0;
    assert!(start > REPLAY_MESSAGES_MAX, "the tail begins at {start}");
    assert_eq!(effects[..2], ["subscribed at 1500".to_owned(), format!("gap 1-{start}")]);
    assert_eq!(effects[2], format!("{0}-{0} to #1", start + 1));
}

#[test]
fn a_position_of_another_life_or_from_the_future_is_refused_with_the_head() {
    let mut bench = Bench::new();
    bench.publish("a");
    assert_eq!(told(&bench.subscribe(1, Some(2))), ["position_ahead", "#1 is out"]);
    let since = Some(Position { epoch: Epoch(1), sequence: Sequence(1) });
    let effects = bench.act(|channel, effects| {
        channel.subscribe(wanted(1, UserId(1), since), effects);
    });
    assert_eq!(told(&effects), ["epoch_changed", "#1 is out"]);
    let Effect::Reply(_, Reply::Refused(refusal)) = &effects[0] else { panic!("{effects:?}") };
    assert_eq!(refusal.head, Some(Position { epoch: EPOCH, sequence: Sequence(1) }));
    assert_eq!(told(&bench.publish("b")), ["2 to all", "published 2"]);
}

#[test]
fn nothing_is_delivered_after_an_unsubscribe() {
    let mut bench = Bench::new();
    bench.subscribe(1, None);
    let unsubscribe = |bench: &mut Bench| {
        told(&bench.act(|channel, effects| channel.unsubscribe(ticket(1), effects)))
    };
    assert_eq!(unsubscribe(&mut bench), ["#1 leaves", "unsubscribed"]);
    assert_eq!(told(&bench.publish("a")), ["1 to all", "published 1"]);
    assert!(bench.channel.is_evictable());
    assert_eq!(unsubscribe(&mut bench), ["not_subscribed"]);
}

#[test]
fn a_repeated_publish_has_the_sequence_of_the_first_also_after_a_restart() {
    let mut bench = Bench::new();
    let publish = |bench: &mut Bench, body: &str| {
        let draft = Draft {
            user: UserId(1),
            client_message_id: Some(ClientMessageId(9)),
            digest: encode::digest(body),
            record: encode::record(UserId(1), Some(ClientMessageId(9)), body.to_owned()),
            wish: Wish::Message(Author::User(UserId(1)), body.len()),
            ticket: ticket(0),
        };
        let mut effects = bench.act(|channel, effects| channel.publish(draft, effects));
        effects.extend(bench.turn());
        told(&effects)
    };
    bench.publish("before");
    assert_eq!(publish(&mut bench, "a"), ["2 to all", "published 2"]);
    assert_eq!(publish(&mut bench, "a"), ["published 2"]);
    assert_eq!(publish(&mut bench, "b"), ["idempotency_conflict"]);
    let mut bench = bench.restarted();
    assert_eq!(publish(&mut bench, "a"), ["published 2"]);
    assert_eq!(publish(&mut bench, "b"), ["idempotency_conflict"]);
    assert_eq!(told(&bench.publish("after")), ["3 to all", "published 3"]);
}

#[test]
fn a_page_is_what_was_asked_for_and_no_more() {
    let mut bench = Bench::new();
    assert_eq!(bench.history(PageFrom::Newest, 10), [0_u64; 0]);
    for _ in 0..9 {
        bench.publish("a");
    }
    let at = |sequence| Sequence(sequence);
    assert_eq!(bench.history(PageFrom::Newest, 3), [7, 8, 9]);
    assert_eq!(bench.history(PageFrom::Newest, 100), (1..=9).collect::<Vec<u64>>());
    assert_eq!(bench.history(PageFrom::Before(at(4)), 2), [2, 3]);
    assert_eq!(bench.history(PageFrom::Before(at(1)), 2), [0_u64; 0]);
    assert_eq!(bench.history(PageFrom::Before(at(0)), 2), [0_u64; 0]);
    assert_eq!(bench.history(PageFrom::Before(at(u64::MAX)), 2), [8, 9]);
    assert_eq!(bench.history(PageFrom::After(at(0)), 2), [1, 2]);
    assert_eq!(bench.history(PageFrom::After(at(7)), 5), [8, 9]);
    assert_eq!(bench.history(PageFrom::After(at(9)), 5), [0_u64; 0]);
    assert_eq!(bench.history(PageFrom::After(at(u64::MAX)), 5), [0_u64; 0]);
}

#[test]
fn a_broken_chain_seals_the_channel_and_tells_everybody() {
    let mut bench = Bench::new();
    bench.publish("a");
    bench.subscribe(1, None);
    let stranger = Batch {
        epoch: EPOCH,
        id: BatchId(99),
        previous: BatchId(98),
        first_sequence: Sequence(2),
        count: 1,
        timestamp_ms: 9,
        records: bytes::Bytes::from_static(b"\x22\x00"),
    };
    let at = bench.log.place(ID, stranger.clone());
    let entry = Entry { channel: ID, at, after: bench.channel.head().cursor, batch: stranger };
    let effects = bench.act(|channel, effects| channel.apply(entry, effects));
    assert_eq!(told(&effects), ["sealed", "#1 leaves", "ended by channel_sealed", "#1 is out"]);
    assert_eq!(told(&bench.publish("b")), ["channel_sealed"]);
    assert_eq!(told(&bench.subscribe(2, None)), ["channel_sealed", "#2 is out"]);
}

#[test]
fn a_damaged_log_is_sealed_when_it_is_loaded() {
    let mut bench = Bench::new();
    bench.publish("a");
    let mut bench = bench.restarted();
    bench.log.damage(Cursor(1));
    let effects = bench.subscribe(1, None);
    assert_eq!(told(&effects), ["sealed", "channel_sealed", "#1 is out"]);
}

#[test]
fn a_log_that_cannot_be_read_now_is_asked_again_later() {
    let mut bench = Bench::new();
    let mut effects = Vec::new();
    bench.channel.subscribe(wanted(1, UserId(1), None), &mut effects);
    let [Effect::Read(_, Purpose::Load)] = &effects[..] else { panic!("{effects:?}") };
    let mut effects = Vec::new();
    bench.channel.read_done(Purpose::Load, Err(ReadError::StorageUnavailable), &mut effects);
    assert_eq!(told(&effects), ["storage_unavailable", "#1 is out"]);
    assert_eq!(told(&bench.subscribe(1, None)), ["subscribed at 0", "#1 joins"]);
}

#[test]
fn a_damaged_page_is_refused_and_the_rest_goes_on() {
    let mut bench = Bench::new();
    bench.publish("a");
    bench.log.damage(Cursor(1));
    let page = Page { from: PageFrom::Newest, limit: 1 };
    let effects =
        bench.act(|channel, effects| channel.history(ticket(0), UserId(1), page, effects));
    assert_eq!(told(&effects), ["channel_sealed"]);
}

#[test]
fn a_channel_is_kept_while_somebody_waits_for_a_catch_up() {
    let mut bench = Bench::new();
    bench.publish("a");
    let ahead = Some(Position { epoch: EPOCH, sequence: Sequence(2) });
    let mut effects = Vec::new();
    bench.channel.subscribe(wanted(1, UserId(1), ahead), &mut effects);
    let [Effect::Read(_, Purpose::CatchUp)] = &effects[..] else { panic!("{effects:?}") };
    assert!(!bench.channel.is_evictable());
    bench.channel.read_done(Purpose::CatchUp, Ok(Vec::new()), &mut effects);
    assert_eq!(told(&effects[1..]), ["position_ahead", "#1 is out"]);
    assert!(bench.channel.is_evictable());
}
