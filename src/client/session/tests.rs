use std::time::{Duration, Instant};

use prost::Message as _;

use super::{Delivery, Effect, Session, SubscriptionKey};
use crate::{
    client::{
        codec::{Answer, Command, Event, Message, Published, Run},
        error::{ClientError, ProtocolError, Refusal},
    },
    limits::CLIENT_COMMANDS_MAX,
    log::place::{ChannelId, ClientMessageId, Epoch, Position, Sequence, UserId},
    wire::{
        code::ErrorCode,
        proto::{self, client_envelope::Command as Wire},
    },
};

const LOBBY: ChannelId = ChannelId(7);
const KEY: SubscriptionKey = SubscriptionKey(1);

/// A session whose tickets are numbers, and a clock that stands still unless it is moved.
struct Bench {
    session: Session<u32>,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { session: Session::new(), now: Instant::now() }
    }

    fn connected() -> Self {
        let mut bench = Self::new();
        bench.session.connected(64 * 1024);
        bench
    }

    fn publish(&mut self, body: &str, ticket: u32) {
        let id = ClientMessageId(u64::from(ticket));
        let command = Command::Publish { channel: "lobby".to_owned(), id, body: body.to_owned() };
        self.session.command(&command, ticket, self.now + Duration::from_secs(30));
    }

    fn subscribe(&mut self, since: Option<Position>) {
        let deadline = self.now + Duration::from_secs(30);
        self.session.subscribe(KEY, "lobby".to_owned(), since, 99, deadline);
    }

    /// A subscription that begins at this position and has it confirmed.
    fn subscribed_at(sequence: u64) -> Self {
        let mut bench = Self::connected();
        bench.subscribe(Some(at(1, sequence)));
        let (id, _) = bench.sent().pop().unwrap();
        bench.reply(id, Ok(subscribed(1, sequence)));
        assert!(matches!(bench.effects()[..], [Effect::Answer(99, Ok(_))]));
        bench
    }

    fn sent(&mut self) -> Vec<(u32, Wire)> {
        let decode = |frame: bytes::Bytes| proto::ClientEnvelope::decode(frame).unwrap();
        let frames = self.session.outgoing().drain(..).map(decode);
        frames.map(|envelope| (envelope.id, envelope.command.unwrap())).collect()
    }

    fn event(&mut self, event: Event) {
        self.session.event(event, self.now, 1.0);
    }

    fn reply(&mut self, id: u32, result: Result<Answer, Refusal>) {
        self.event(Event::Reply { id, result });
    }

    fn effects(&mut self) -> Vec<Effect<u32>> {
        std::iter::from_fn(|| self.session.effect()).collect()
    }

    fn delivered(&mut self) -> Vec<Delivery> {
        let deliver = |effect| match effect {
            Effect::Deliver(KEY, delivery) => delivery,
            effect => panic!("{effect:?}"),
        };
        self.effects().into_iter().map(deliver).collect()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.session.tick(self.now);
    }
}

fn at(epoch: u32, sequence: u64) -> Position {
    Position { epoch: Epoch(epoch), sequence: Sequence(sequence) }
}

fn subscribed(epoch: u32, head: u64) -> Answer {
    Answer::Subscribed { channel: LOBBY, epoch: Epoch(epoch), head: Sequence(head) }
}

fn published(sequence: u64) -> Answer {
    let position = at(1, sequence);
    Answer::Published(Published { channel: LOBBY, position, timestamp_ms: 1, attempts: 1 })
}

fn message(sequence: u64) -> Message {
    Message {
        sequence: Sequence(sequence),
        user: UserId(1),
        body: format!("message {sequence}"),
        change: None,
        timestamp_ms: 1,
        written_at_ms: None,
        client_message_id: None,
    }
}

fn run(sequences: std::ops::RangeInclusive<u64>) -> Event {
    let first = Sequence(*sequences.start());
    Event::Messages(Run { channel: LOBBY, first, messages: sequences.map(message).collect() })
}

fn refusal(code: ErrorCode, retry_after_ms: u64, head: Option<Position>) -> Refusal {
    let retry_after = Some(retry_after_ms).filter(|&ms| ms != 0).map(Duration::from_millis);
    Refusal { number: code.number(), message: String::new(), retry_after, head }
}

#[test]
fn an_unanswered_publish_is_sent_again_byte_for_byte() {
    let mut bench = Bench::connected();
    bench.publish("hello", 5);
    let first = bench.session.outgoing().pop_front().unwrap();
    bench.session.disconnected();
    assert!(bench.session.outgoing().is_empty());
    bench.session.connected(64 * 1024);
    assert_eq!(bench.session.outgoing().front(), Some(&first));

    let (id, _) = bench.sent().pop().unwrap();
    bench.reply(id, Ok(published(3)));
    let effects = bench.effects();
    let [Effect::Answer(5, Ok(Answer::Published(published)))] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(published.attempts, 2);
}

#[test]
fn publishes_are_sent_again_in_their_order_and_after_the_subscriptions() {
    let mut bench = Bench::new();
    bench.publish("one", 1);
    bench.publish("two", 2);
    bench.subscribe(None);
    assert!(bench.sent().is_empty(), "there is no connection yet");
    bench.session.connected(64 * 1024);
    let sent = bench.sent();
    assert!(matches!(sent[0].1, Wire::Subscribe(_)));
    let bodies: Vec<_> = sent[1..]
        .iter()
        .map(|(_, command)| match command {
            Wire::Publish(publish) => publish.body.as_str(),
            command => panic!("{command:?}"),
        })
        .collect();
    assert_eq!(bodies, ["one", "two"]);
}

#[test]
fn a_busy_server_is_asked_again_when_it_said() {
    let mut bench = Bench::connected();
    bench.publish("hello", 5);
    let (id, _) = bench.sent().pop().unwrap();
    bench.reply(id, Err(refusal(ErrorCode::Busy, 700, None)));
    assert!(bench.effects().is_empty());
    assert_eq!(bench.session.next_tick(), Some(bench.now + Duration::from_millis(700)));
    bench.pass(Duration::from_millis(699));
    assert!(bench.sent().is_empty());
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.sent().pop().unwrap().0, id);
}

#[test]
fn a_final_refusal_is_the_answer() {
    let mut bench = Bench::connected();
    bench.publish("hello", 5);
    let (id, _) = bench.sent().pop().unwrap();
    bench.reply(id, Err(refusal(ErrorCode::UnknownChannel, 0, None)));
    let effects = bench.effects();
    assert!(
        matches!(&effects[..], [Effect::Answer(5, Err(ClientError::Refused(refusal)))]
            if refusal.is(ErrorCode::UnknownChannel)),
        "{effects:?}"
    );
}

#[test]
fn at_its_deadline_a_command_fails_with_the_last_refusal_if_there_was_one() {
    let mut bench = Bench::connected();
    bench.publish("refused", 1);
    let (id, _) = bench.sent().pop().unwrap();
    bench.publish("unanswered", 2);
    let (unanswered, _) = bench.sent().pop().unwrap();
    bench.reply(id, Err(refusal(ErrorCode::Busy, 29_999, None)));
    bench.session.disconnected();
    bench.session.connected(64 * 1024);
    bench.sent();
    bench.pass(Duration::from_secs(30));
    let effects = bench.effects();
    assert!(
        matches!(
            &effects[..],
            [
                Effect::Answer(1, Err(ClientError::Refused(_))),
                Effect::Answer(2, Err(ClientError::DeadlineExceeded)),
            ]
        ),
        "{effects:?}"
    );
    // The reply that comes too late is known for what it is.
    bench.reply(unanswered, Ok(published(1)));
    assert!(bench.effects().is_empty());
    bench.reply(unanswered, Ok(published(1)));
    assert!(matches!(
        bench.effects()[..],
        [Effect::Fatal(ClientError::Protocol(ProtocolError::UnknownReply(_)))]
    ));
}

#[test]
fn a_frame_that_the_server_would_not_take_is_refused_here() {
    let mut bench = Bench::new();
    bench.session.connected(100);
    bench.publish(&"x".repeat(100), 5);
    assert!(bench.sent().is_empty());
    let effects = bench.effects();
    assert!(
        matches!(&effects[..], [Effect::Answer(5, Err(ClientError::Refused(refusal)))]
            if refusal.is(ErrorCode::MessageTooLarge)),
        "{effects:?}"
    );
}

#[test]
fn a_subscription_resumes_where_it_stopped() {
    let mut bench = Bench::subscribed_at(4);
    bench.event(run(5..=6));
    bench.event(run(7..=7));
    assert_eq!(bench.delivered(), [5, 6, 7].map(|n| Delivery::Message(message(n))));
    bench.session.disconnected();
    bench.session.connected(64 * 1024);
    let (id, command) = bench.sent().pop().unwrap();
    let Wire::Subscribe(subscribe) = command else { panic!("{command:?}") };
    assert_eq!(subscribe.since, Some(proto::Position { epoch: 1, sequence: 7 }));
    bench.reply(id, Ok(subscribed(1, 9)));
    bench.event(run(8..=9));
    assert_eq!(bench.delivered(), [8, 9].map(|n| Delivery::Message(message(n))));
}

#[test]
fn a_subscription_that_saw_no_message_resumes_too() {
    let mut bench = Bench::connected();
    bench.subscribe(None);
    let (id, _) = bench.sent().pop().unwrap();
    bench.reply(id, Ok(subscribed(1, 40)));
    bench.session.disconnected();
    bench.session.connected(64 * 1024);
    let (_, command) = bench.sent().pop().unwrap();
    let Wire::Subscribe(subscribe) = command else { panic!("{command:?}") };
    assert_eq!(subscribe.since, Some(proto::Position { epoch: 1, sequence: 40 }));
}

#[test]
fn a_hole_a_repeat_and_a_wrong_gap_are_errors() {
    let gap = |from, to| Event::Gap { channel: LOBBY, from: Sequence(from), to: Sequence(to) };
    for (event, delivered) in
        [(run(6..=6), 6), (run(4..=5), 4), (gap(6, 9), 6), (gap(4, 9), 4), (gap(5, 4), 5)]
    {
        let mut bench = Bench::subscribed_at(4);
        bench.event(event);
        let effects = bench.effects();
        assert!(
            matches!(&effects[..], [Effect::Fatal(ClientError::OutOfOrder { expected: Sequence(5), delivered: found, .. })]
                if *found == Sequence(delivered)),
            "{effects:?}"
        );
    }
}

#[test]
fn a_gap_is_told_and_what_follows_it_is_delivered() {
    let mut bench = Bench::subscribed_at(4);
    bench.event(run(5..=5));
    bench.event(Event::Gap { channel: LOBBY, from: Sequence(6), to: Sequence(9) });
    bench.event(run(10..=10));
    assert_eq!(
        bench.delivered(),
        [
            Delivery::Message(message(5)),
            Delivery::Gap { from: Sequence(6), to: Sequence(9) },
            Delivery::Message(message(10)),
        ]
    );
}

#[test]
fn another_epoch_is_told_before_its_first_message() {
    for code in [ErrorCode::EpochChanged, ErrorCode::PositionAhead] {
        let mut bench = Bench::subscribed_at(4);
        bench.session.disconnected();
        bench.session.connected(64 * 1024);
        let (id, _) = bench.sent().pop().unwrap();
        bench.reply(id, Err(refusal(code, 0, Some(at(2, 1)))));
        let (id, command) = bench.sent().pop().unwrap();
        let Wire::Subscribe(subscribe) = command else { panic!("{command:?}") };
        assert_eq!(subscribe.since, Some(proto::Position { epoch: 2, sequence: 0 }));
        bench.reply(id, Ok(subscribed(2, 1)));
        bench.event(run(1..=1));
        assert_eq!(
            bench.delivered(),
            [Delivery::Reset { head: at(2, 1) }, Delivery::Message(message(1))]
        );
    }
}

#[test]
fn a_mixture_of_epochs_is_an_error() {
    let mut bench = Bench::connected();
    bench.subscribe(Some(at(1, 4)));
    let (id, _) = bench.sent().pop().unwrap();
    bench.reply(id, Ok(subscribed(2, 4)));
    assert!(matches!(
        bench.effects()[..],
        [Effect::Fatal(ClientError::Protocol(ProtocolError::EpochMixed { .. }))]
    ));
}

#[test]
fn a_refused_resume_ends_its_subscription_only() {
    let mut bench = Bench::subscribed_at(4);
    bench.event(Event::SubscriptionEnded {
        channel: LOBBY,
        refusal: refusal(ErrorCode::Forbidden, 0, None),
    });
    let effects = bench.effects();
    assert!(matches!(&effects[..], [Effect::End(KEY, ClientError::Refused(_))]), "{effects:?}");
    bench.session.disconnected();
    bench.session.connected(64 * 1024);
    assert!(bench.sent().is_empty());
}

#[test]
fn what_comes_after_unsubscribing_is_dropped_until_the_server_confirms() {
    let mut bench = Bench::subscribed_at(4);
    bench.session.unsubscribe(KEY);
    let (id, command) = bench.sent().pop().unwrap();
    assert!(matches!(command, Wire::Unsubscribe(_)));
    bench.event(run(5..=5));
    assert!(bench.effects().is_empty());
    bench.reply(id, Ok(Answer::Unsubscribed));
    bench.event(run(6..=6));
    assert!(matches!(
        bench.effects()[..],
        [Effect::Fatal(ClientError::Protocol(ProtocolError::NotSubscribed(LOBBY)))]
    ));
}

#[test]
fn a_subscription_dropped_before_its_answer_is_left_again() {
    let mut bench = Bench::connected();
    bench.subscribe(None);
    let (id, _) = bench.sent().pop().unwrap();
    bench.session.unsubscribe(KEY);
    assert!(bench.sent().is_empty());
    bench.reply(id, Ok(subscribed(1, 0)));
    assert!(matches!(bench.sent()[..], [(_, Wire::Unsubscribe(_))]));
}

impl Bench {
    /// Another subscription to the same channel.
    fn subscribe_again(&mut self) {
        let deadline = self.now + Duration::from_secs(30);
        self.session.subscribe(SubscriptionKey(2), "lobby".to_owned(), None, 98, deadline);
    }
}

#[test]
fn a_late_unsubscribed_does_not_end_the_subscription_that_has_begun_since() {
    for late in [Ok(Answer::Unsubscribed), Err(refusal(ErrorCode::NotSubscribed, 0, None))] {
        let mut bench = Bench::subscribed_at(4);
        bench.session.unsubscribe(KEY);
        let (left, _) = bench.sent().pop().unwrap();
        bench.subscribe_again();
        let (again, command) = bench.sent().pop().unwrap();
        assert!(matches!(command, Wire::Subscribe(_)));
        bench.reply(again, Ok(subscribed(1, 6)));
        bench.reply(left, late);
        assert!(matches!(bench.effects()[..], [Effect::Answer(98, Ok(_))]));
        bench.event(run(7..=7));
        let effects = bench.effects();
        assert!(
            matches!(effects[..], [Effect::Deliver(SubscriptionKey(2), Delivery::Message(_))]),
            "{effects:?}"
        );
    }
}

#[test]
fn who_subscribes_again_waits_for_the_answer_to_the_dropped_subscription() {
    for answer in [Ok(subscribed(1, 0)), Err(refusal(ErrorCode::Busy, 0, None))] {
        let has_begun = answer.is_ok();
        let mut bench = Bench::connected();
        bench.subscribe(None);
        let (dropped, _) = bench.sent().pop().unwrap();
        bench.session.unsubscribe(KEY);
        bench.subscribe_again();
        assert!(bench.sent().is_empty(), "the server would say already_subscribed");
        bench.reply(dropped, answer);
        let sent = bench.sent();
        match &sent[..] {
            [(_, Wire::Unsubscribe(_)), (_, Wire::Subscribe(_))] if has_begun => {}
            [(_, Wire::Subscribe(_))] if !has_begun => {}
            other => panic!("{other:?}"),
        }
        bench.reply(sent.last().unwrap().0, Ok(subscribed(1, 0)));
        assert!(matches!(bench.effects()[..], [Effect::Answer(98, Ok(_))]));
    }
}

#[test]
fn who_waits_for_a_dropped_subscription_is_asked_for_on_the_next_connection() {
    let mut bench = Bench::connected();
    bench.subscribe(None);
    bench.session.unsubscribe(KEY);
    bench.subscribe_again();
    bench.session.disconnected();
    bench.session.connected(64 * 1024);
    assert!(matches!(bench.sent()[..], [(_, Wire::Subscribe(_))]));
}

#[test]
fn a_subscribe_that_the_server_would_not_take_is_refused_here() {
    let mut bench = Bench::new();
    bench.subscribe(Some(at(1, 4)));
    bench.session.connected(10);
    assert!(bench.sent().is_empty());
    let effects = bench.effects();
    assert!(
        matches!(&effects[..], [Effect::Answer(99, Err(ClientError::Refused(refusal)))]
            if refusal.is(ErrorCode::MessageTooLarge)),
        "{effects:?}"
    );
    assert_eq!(bench.session.next_tick(), None, "nothing is left of it");
}

#[test]
fn commands_are_bounded_and_a_silent_server_is_noticed() {
    let mut bench = Bench::connected();
    for ticket in 0..CLIENT_COMMANDS_MAX {
        assert!(bench.session.has_room());
        bench.publish("hello", u32::try_from(ticket).unwrap());
    }
    assert!(!bench.session.has_room() && !bench.session.is_stuck());
    bench.pass(Duration::from_secs(30));
    assert!(bench.session.is_stuck(), "all have given up, and none was answered");
    bench.session.disconnected();
    assert!(bench.session.has_room());
}

#[test]
fn at_its_end_everybody_is_told() {
    let mut bench = Bench::subscribed_at(4);
    bench.publish("hello", 5);
    bench.session.end(&ClientError::ClientClosed);
    let effects = bench.effects();
    assert!(
        matches!(
            &effects[..],
            [
                Effect::Answer(5, Err(ClientError::ClientClosed)),
                Effect::End(KEY, ClientError::ClientClosed),
            ]
        ),
        "{effects:?}"
    );
}
