//! Every violation by the shortest history that has it. Random histories are in `random`.

use super::*;

mod random;

/// The user of the first reader; the next has the next number.
const USER: u32 = 5;

fn message(n: u64) -> Digest {
    Digest::new(7, n, b"body")
}

/// An empty channel with so many readers, into which these messages may be published.
fn empty(readers: u32, messages: u64) -> (Audit, Place, Vec<Reader>) {
    let mut audit = Audit::default();
    let place = audit.channel("lobby");
    (1..=messages).for_each(|n| audit.publishing(place, message(n)));
    let readers = (0..readers).map(|n| audit.subscribed(USER + n, place, 0)).collect();
    (audit, place, readers)
}

/// Three messages that two readers have; the third is not acknowledged.
fn sound() -> (Audit, Place, Vec<Reader>) {
    let (mut audit, place, readers) = empty(2, 3);
    for n in 1..=3 {
        for reader in &readers {
            audit.delivered(*reader, n, message(n));
        }
        if n < 3 {
            audit.acknowledged(place, n, message(n));
        }
    }
    (audit, place, readers)
}

fn read_history(audit: &mut Audit, place: Place, messages: &[u64]) {
    audit.begin_history();
    for (n, at) in messages.iter().zip(1..) {
        audit.history(place, at, message(*n));
    }
    audit.end_history(place, messages.len() as u64);
}

#[track_caller]
fn only(audit: &Audit) -> &Violation {
    assert_eq!(audit.violations(), 1, "{:?}", audit.findings().evidence);
    &audit.evidence[0]
}

#[track_caller]
fn assert_sound(audit: &Audit) {
    assert_eq!(audit.findings().evidence, [""; 0]);
    assert_eq!(audit.violations(), 0);
}

#[test]
fn a_sound_run_has_no_violation_however_often_history_is_read() {
    let (mut audit, place, _) = sound();
    read_history(&mut audit, place, &[1, 2, 3]);
    read_history(&mut audit, place, &[1, 2, 3]);
    audit.probed(place, 3, 3, Some(message(3)));
    assert!(audit.is_complete(place, 3));
    audit.end_delivery(place, 3);
    assert_sound(&audit);
    assert_eq!((audit.deliveries(), audit.acknowledgements()), (6, 2));
    assert_eq!(audit.findings(), Findings { probed: 1, ..Findings::default() });
}

#[test]
fn digests_differ_by_author_number_and_body_and_are_never_unknown() {
    let digests = [(1, 2, "x"), (2, 1, "x"), (1, 2, "y"), (1, 2, ""), (0, 0, ""), (2, 2, "x")]
        .map(|(author, id, body)| Digest::new(author, id, body.as_bytes()));
    let distinct: std::collections::HashSet<_> = digests.iter().collect();
    assert_eq!(distinct.len(), digests.len());
    assert!(digests.iter().all(|digest| Digest::known(digest.0).is_some()));
    let long = |end: &str| Digest::new(1, 2, ("x".repeat(5_000) + end).as_bytes());
    assert_ne!(long("y"), long("z"));
}

#[test]
fn only_the_first_delivery_of_a_message_asks_for_history() {
    let (mut audit, place, readers) = empty(2, 2);
    assert!(audit.delivered(readers[0], 1, message(1)));
    assert!(!audit.delivered(readers[1], 1, message(1)));
    audit.acknowledged(place, 2, message(2));
    assert!(!audit.delivered(readers[0], 2, message(2)), "the acknowledgement promises it");
    assert_sound(&audit);
}

#[test]
fn a_lost_acknowledged_message_is_found_at_the_end_and_in_the_middle() {
    let (mut audit, place, _) = empty(0, 4);
    audit.acknowledged(place, 1, message(1));
    audit.acknowledged(place, 2, message(2));
    read_history(&mut audit, place, &[1]);
    assert_eq!(only(&audit), &Violation::Lost { place, sequence: 2, head: 1 });
    read_history(&mut audit, place, &[1]);
    assert_eq!((audit.violations(), audit.findings().acknowledged_lost), (2, 1));

    let (mut audit, place, _) = empty(0, 4);
    (1..=3).for_each(|n| audit.acknowledged(place, n, message(n)));
    read_history(&mut audit, place, &[4, 2, 3]);
    assert_eq!(only(&audit), &Violation::Lost { place, sequence: 1, head: 1 });
    assert_eq!(audit.findings().acknowledged_lost, 1);
}

#[test]
fn a_message_whose_sequence_was_taken_before_it_was_published_is_found() {
    let (mut audit, place, _) = empty(0, 1);
    // Who is told that the channel goes up to 2 gets neither 1 nor 2.
    audit.subscribed(USER, place, 2);
    audit.publishing(place, message(2));
    audit.publishing(place, message(3));
    // Again, when more is known: its first time is what counts.
    audit.acknowledged(place, 3, message(3));
    audit.publishing(place, message(3));
    read_history(&mut audit, place, &[1, 2, 3]);
    assert_eq!(only(&audit), &Violation::Backdated { place, sequence: 2, known_to: 2 });
}

#[test]
fn history_is_overtaken_by_what_came_after_its_reading_began_and_lies_beyond_its_end() {
    let (mut audit, place, readers) = empty(1, 3);
    audit.acknowledged(place, 1, message(1));
    audit.begin_history();
    assert!(!audit.is_overtaken(place, 0), "that is a loss, which is found without that");
    audit.acknowledged(place, 2, message(2));
    assert!(audit.is_overtaken(place, 1));
    assert!(!audit.is_overtaken(place, 2));
    audit.go_on_with_history();
    assert!(!audit.is_overtaken(place, 1));
    (1..=3).for_each(|n| _ = audit.delivered(readers[0], n, message(n)));
    assert!(audit.is_overtaken(place, 2));
}

#[test]
fn what_is_promised_after_a_reading_began_is_due_to_the_next_only() {
    let (mut audit, place, readers) = empty(1, 1);
    audit.begin_history();
    audit.acknowledged(place, 1, message(1));
    audit.delivered(readers[0], 1, message(1));
    audit.end_history(place, 0);
    assert_sound(&audit);
    audit.go_on_with_history();
    audit.end_history(place, 0);
    let lost = Violation::Lost { place, sequence: 1, head: 0 };
    let vanished = Violation::Vanished { place, last_seen: 1, head: 0 };
    assert_eq!(audit.evidence, [lost, vanished]);
}

#[test]
fn history_that_is_read_on_in_parts_is_sound() {
    let (mut audit, place, _) = empty(0, 3);
    audit.begin_history();
    audit.history(place, 1, message(1));
    audit.end_history(place, 1);
    audit.acknowledged(place, 2, message(2));
    audit.go_on_with_history();
    assert_eq!(audit.history_read(place), 1);
    audit.history(place, 2, message(2));
    audit.end_history(place, 2);
    audit.begin_history();
    assert_eq!(audit.history_read(place), 0);
    audit.history(place, 1, message(1));
    audit.history(place, 2, message(2));
    audit.end_history(place, 2);
    assert_sound(&audit);
}

#[test]
fn a_delivered_message_that_history_lacks_has_vanished() {
    let (mut audit, place, _) = sound();
    read_history(&mut audit, place, &[1, 2]);
    assert_eq!(only(&audit), &Violation::Vanished { place, last_seen: 3, head: 2 });
}

#[test]
fn a_changed_body_is_found_in_history_and_in_a_delivery() {
    let other = Digest::new(7, 3, b"another body");
    let (mut audit, place, _) = sound();
    audit.begin_history();
    audit.history(place, 1, message(1));
    audit.history(place, 2, message(2));
    audit.history(place, 3, other);
    let (witness, known, came) = (Witness::History, message(3), other);
    let differs = Violation::Differs { place, witness, sequence: 3, known, came };
    let foreign = Violation::Foreign { place, sequence: 3, published_in: None };
    assert_eq!(audit.evidence, [differs, foreign]);

    let (mut audit, place, readers) = empty(2, 1);
    audit.delivered(readers[0], 1, message(1));
    audit.delivered(readers[1], 1, other);
    let (witness, known) = (Witness::User(USER + 1), message(1));
    let differs = Violation::Differs { place, witness, sequence: 1, known, came };
    assert_eq!(only(&audit), &differs);
}

#[test]
fn a_gap_a_repeat_and_a_late_message_are_found_and_what_came_late_is_not_lost() {
    let (mut audit, place, readers) = empty(1, 4);
    let (reader, witness) = (readers[0], Witness::User(USER));
    audit.delivered(reader, 1, message(1));
    audit.delivered(reader, 4, message(4));
    assert_eq!(only(&audit), &Violation::Gap { place, witness, due: 2, came: 4 });
    assert_eq!(audit.findings().lost, 2);
    audit.delivered(reader, 3, message(3));
    assert_eq!(audit.evidence[1], Violation::Late { place, user: USER, due: 5, came: 3 });
    assert_eq!(audit.findings().lost, 1);
    audit.delivered(reader, 3, message(3));
    assert_eq!(audit.evidence[2], Violation::Repeat { place, witness, due: 5, came: 3 });
    assert_eq!((audit.last(reader), audit.findings().lost), (4, 1));
}

#[test]
fn messages_that_a_reader_may_skip_are_no_gap() {
    let (mut audit, place, readers) = empty(1, 10);
    audit.delivered(readers[0], 1, message(1));
    audit.skipped(readers[0], 2, 9);
    audit.delivered(readers[0], 10, message(10));
    assert_sound(&audit);
    audit.skipped(readers[0], 12, 13);
    let witness = Witness::User(USER);
    assert_eq!(only(&audit), &Violation::Gap { place, witness, due: 11, came: 12 });
    audit.skipped(readers[0], 14, 13);
    assert_eq!(audit.evidence[1], Violation::Absurd { place, witness, sequence: 14, known: 10 });
}

#[test]
fn a_gap_within_history_a_repeat_and_a_page_that_ends_early_are_found() {
    let (mut audit, place, _) = sound();
    let witness = Witness::History;
    audit.begin_history();
    audit.history(place, 1, message(1));
    audit.history(place, 1, message(1));
    audit.history(place, 3, message(3));
    audit.end_history(place, 4);
    let violations = [
        Violation::Repeat { place, witness, due: 2, came: 1 },
        Violation::Gap { place, witness, due: 2, came: 3 },
        Violation::CutShort { place, read: 3, head: 4 },
    ];
    assert_eq!(audit.evidence, violations);
}

#[test]
fn a_message_that_is_in_history_twice_is_found_by_one_reading() {
    let (mut audit, place, _) = empty(0, 1);
    read_history(&mut audit, place, &[1, 1]);
    assert_eq!(only(&audit), &Violation::Twice { place, before: 1, sequence: 2 });
}

#[test]
fn a_message_that_nobody_published_or_in_another_channel_is_found() {
    let (mut audit, place, _) = empty(0, 0);
    read_history(&mut audit, place, &[1]);
    assert_eq!(only(&audit), &Violation::Foreign { place, sequence: 1, published_in: None });

    let (mut audit, place, _) = empty(0, 1);
    let other = audit.channel("other");
    read_history(&mut audit, other, &[1]);
    let published_in = Some(place);
    assert_eq!(only(&audit), &Violation::Foreign { place: other, sequence: 1, published_in });
}

#[test]
fn one_number_may_stand_for_a_message_in_each_of_two_channels() {
    let (mut audit, place, _) = empty(0, 1);
    let other = audit.channel("other");
    audit.publishing(other, message(1));
    audit.begin_history();
    audit.history(place, 1, message(1));
    audit.history(other, 1, message(1));
    assert_sound(&audit);
}

#[test]
fn two_messages_acknowledged_at_one_sequence_are_found() {
    let (mut audit, place, _) = empty(0, 2);
    audit.acknowledged(place, 1, message(1));
    audit.acknowledged(place, 1, message(1));
    assert_sound(&audit);
    audit.acknowledged(place, 1, message(2));
    let (witness, known, came) = (Witness::Acknowledgement, message(1), message(2));
    assert_eq!(only(&audit), &Violation::Differs { place, witness, sequence: 1, known, came });

    // Each is found, also where a reader has got what the second says.
    let (mut audit, place, readers) = empty(1, 2);
    audit.delivered(readers[0], 1, message(2));
    audit.acknowledged(place, 1, message(1));
    audit.acknowledged(place, 1, message(2));
    assert_eq!(audit.violations(), 2, "{:?}", audit.evidence);
}

#[test]
fn a_reader_that_is_sent_back_and_one_that_gets_too_little_are_found() {
    let (mut audit, place, readers) = sound();
    audit.started_over(readers[1], 1);
    let (user, had) = (USER + 1, 3);
    assert_eq!(only(&audit), &Violation::StartedOver { place, user, had, head: 1 });
    audit.delivered(readers[1], 1, message(1));
    assert!(!audit.is_complete(place, 3));
    audit.end_delivery(place, 3);
    assert_eq!(audit.evidence[1..], [Violation::Missed { place, user, last_seen: 1, head: 3 }]);
    assert_eq!(audit.findings().lost, 2);
}

#[test]
fn only_what_comes_after_its_head_is_due_to_a_reader() {
    let (mut audit, place, _) = sound();
    let late = audit.subscribed(9, place, 3);
    assert_eq!(audit.last(late), 3);
    audit.delivered(late, 4, message(4));
    assert_sound(&audit);
    assert!(!audit.is_complete(place, 4), "the first two still lack it");
}

#[test]
fn a_leaving_reader_is_owed_what_was_acknowledged_before_and_no_more() {
    let (mut audit, place, readers) = empty(3, 3);
    for n in 1..=2 {
        audit.acknowledged(place, n, message(n));
    }
    readers.iter().for_each(|reader| audit.leaving(*reader));
    audit.acknowledged(place, 3, message(3));
    for n in 1..=2 {
        audit.delivered(readers[0], n, message(n));
    }
    audit.left(readers[0]);
    assert_sound(&audit);
    audit.delivered(readers[1], 1, message(1));
    audit.left(readers[1]);
    let user = USER + 1;
    let missed = |user, last_seen| Violation::MissedLeaving { place, user, last_seen, due: 2 };
    assert_eq!(only(&audit), &missed(user, 1));
    assert!(!audit.is_complete(place, 3), "the third has not left yet");
    audit.end_delivery(place, 3);
    assert_eq!(audit.evidence[1..], [missed(USER + 2, 0)]);
    assert_eq!(audit.findings().lost, 3);
}

#[test]
fn a_message_for_somebody_who_has_left_or_never_came_is_a_leak() {
    let (mut audit, place, readers) = sound();
    audit.leaving(readers[0]);
    audit.left(readers[0]);
    audit.leaked(8, 77, 12);
    assert!(!audit.delivered(readers[0], 4, message(4)));
    // Also where it would be the next, and is known to others.
    audit.delivered(readers[1], 4, message(4));
    assert!(!audit.delivered(readers[0], 4, message(4)));
    let leak = Violation::Leak { user: 8, channel_id: 77, first_sequence: 12 };
    let late = Violation::LeakAfterLeaving { place, user: USER, sequence: 4 };
    assert_eq!(audit.evidence, [leak, late.clone(), late]);
}

#[test]
fn a_reader_that_was_given_up_is_owed_nothing() {
    let (mut audit, place, readers) = empty(2, 2);
    audit.acknowledged(place, 1, message(1));
    audit.given_up(readers[0]);
    audit.delivered(readers[1], 2, message(2));
    assert_eq!((audit.violations(), audit.findings().lost), (1, 1));
    audit.given_up(readers[1]);
    assert!(audit.is_complete(place, 2));
    audit.end_delivery(place, 2);
    assert_eq!((audit.violations(), audit.findings().lost), (1, 0));
}

#[test]
fn a_message_that_history_does_not_have_yet_was_delivered_too_early() {
    let (mut audit, place, readers) = empty(1, 2);
    audit.delivered(readers[0], 1, message(1));
    audit.probed(place, 1, 0, None);
    assert_eq!(only(&audit), &Violation::BeforeCommit { place, sequence: 1, head: 0 });
    audit.probed(place, 1, 2, Some(message(2)));
    audit.probed(place, 1, 2, None);
    audit.probed(place, 1, 2, Some(message(1)));
    assert_eq!((audit.violations(), audit.findings().probed), (3, 4));
}

#[test]
fn sequences_beyond_all_reason_are_found_and_take_no_memory() {
    let (mut audit, place, readers) = empty(1, 1);
    audit.delivered(readers[0], u64::MAX, message(1));
    audit.delivered(readers[0], 0, message(1));
    audit.acknowledged(place, u64::MAX, message(1));
    audit.skipped(readers[0], 1, u64::MAX);
    audit.subscribed(8, place, u64::MAX);
    audit.probed(place, 0, 0, None);
    audit.begin_history();
    audit.history(place, u64::MAX, message(1));
    audit.end_history(place, u64::MAX);
    audit.end_delivery(place, u64::MAX);
    let is_absurd = |it: &&Violation| matches!(it, Violation::Absurd { .. });
    assert_eq!(audit.evidence.iter().filter(is_absurd).count(), 6);
    assert!(audit.places[place.index()].known.is_empty());
}

#[test]
fn a_flood_of_one_kind_does_not_hide_another_kind() {
    let (mut audit, place, readers) = empty(1, 0);
    (0..100).for_each(|n| audit.ended(n, "it was refused".to_owned()));
    (0..2).for_each(|_| audit.started_over(readers[0], 0));
    read_history(&mut audit, place, &[1]);
    let findings = audit.findings();
    assert_eq!((findings.violations, findings.evidence.len()), (103, EVIDENCE_MAX + 2));
    let last_two = &findings.evidence[EVIDENCE_MAX..];
    assert!(last_two[0].starts_with("started over: "), "{last_two:?}");
    assert!(last_two[1].starts_with("foreign: "), "{last_two:?}");
}

#[test]
fn evidence_names_the_user_the_channel_what_was_due_and_what_came() {
    let (mut audit, place, readers) = empty(2, 9);
    audit.acknowledged(place, 2, message(2));
    audit.delivered(readers[0], 2, message(2));
    audit.delivered(readers[1], 1, message(1));
    audit.leaving(readers[1]);
    audit.left(readers[1]);
    audit.ended(6, "the server said 1011".to_owned());
    audit.begin_history();
    audit.end_history(place, 0);
    audit.end_delivery(place, 9);
    let said = [
        "gap: user 5 got 2 of channel lobby where 1 was due: 1 message left out",
        "missed: user 6 left channel lobby with 1, though 2 had been acknowledged before: 1 message \
         did not come",
        "ended: user 6: the server said 1011",
        "lost: 2 of channel lobby was acknowledged, but history ends at 0",
        "vanished: channel lobby was delivered up to 2, but history ends at 0",
        "missed: user 5 got channel lobby up to 2, but it goes up to 9: 7 messages did not come",
    ];
    assert_eq!(audit.findings().evidence, said);
}
