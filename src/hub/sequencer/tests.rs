use super::*;
use crate::{
    hub::{Asked, ConnectionKey, ShardId},
    log::place::Epoch,
};

const CHANNEL: ChannelId = ChannelId(1);

fn ticket(id: u32) -> Ticket {
    Ticket {
        connection: ConnectionKey { shard: ShardId(0), slot: 0, generation: 0 },
        id,
        asked: Asked::Publish,
    }
}

fn draft(id: u32, key: u64, digest: u64) -> Draft {
    Draft {
        user: UserId(1),
        client_message_id: (key != 0).then_some(ClientMessageId(key)),
        digest,
        record: Bytes::from_static(b"record"),
        ticket: ticket(id),
        wish: Wish::Message(Author::User(UserId(1)), 6),
    }
}

fn head() -> Head {
    Head::empty(Epoch(1))
}

fn form(sequencer: &mut Sequencer) -> Append {
    form_on(sequencer, &head()).unwrap()
}

/// Forms a batch of an open channel, in which nothing is refused.
fn form_on(sequencer: &mut Sequencer, head: &Head) -> Option<Append> {
    let end = |ticket, outcome| panic!("{ticket:?} ended: {outcome:?}");
    sequencer.next_batch(CHANNEL, head, BatchId(1), 5, Judge::new(None), end)
}

fn outcomes(run: impl FnOnce(&mut dyn FnMut(Ticket, Outcome))) -> Vec<(u32, Outcome)> {
    let mut ended = Vec::new();
    run(&mut |ticket: Ticket, outcome| ended.push((ticket.id, outcome)));
    ended
}

#[test]
fn drafts_get_consecutive_sequences_in_the_order_they_came() {
    let mut sequencer = Sequencer::default();
    for id in 1..=3 {
        assert_eq!(sequencer.accept(draft(id, 0, 0)), Accepted::Waits);
    }
    let append = form(&mut sequencer);
    assert_eq!((append.batch.first_sequence, append.batch.count), (Sequence(1), 3));
    let ended = outcomes(|end| sequencer.committed(&append.batch, end));
    assert_eq!(ended, [1, 2, 3].map(|n| (n, Outcome::Committed(Sequence(n.into())))));
    assert!(sequencer.is_idle());
}

#[test]
fn only_one_batch_is_in_flight() {
    let mut sequencer = Sequencer::default();
    sequencer.accept(draft(1, 0, 0));
    form(&mut sequencer);
    sequencer.accept(draft(2, 0, 0));
    assert!(!sequencer.is_ready());
    assert!(form_on(&mut sequencer, &head()).is_none());
}

#[test]
fn a_retry_of_a_waiting_draft_shares_its_sequence() {
    let mut sequencer = Sequencer::default();
    sequencer.accept(draft(1, 7, 70));
    assert_eq!(sequencer.accept(draft(2, 7, 70)), Accepted::Waits);
    let append = form(&mut sequencer);
    assert_eq!(append.batch.count, 1);
    let ended = outcomes(|end| sequencer.committed(&append.batch, end));
    assert_eq!(ended, [(1, Outcome::Committed(Sequence(1))), (2, Outcome::Repeated(Sequence(1)))]);
    assert_eq!(sequencer.accept(draft(3, 7, 70)), Accepted::Repeated(Sequence(1)));
}

#[test]
fn one_number_for_two_messages_is_a_conflict_before_and_after_the_commit() {
    let mut sequencer = Sequencer::default();
    sequencer.accept(draft(1, 7, 70));
    assert_eq!(sequencer.accept(draft(2, 7, 71)), Accepted::Conflict);
    let append = form(&mut sequencer);
    sequencer.committed(&append.batch, |_, _| {});
    assert_eq!(sequencer.accept(draft(3, 7, 71)), Accepted::Conflict);
}

#[test]
fn another_batch_ends_nothing() {
    let mut sequencer = Sequencer::default();
    sequencer.accept(draft(1, 0, 0));
    let append = form(&mut sequencer);
    let other = Batch { id: BatchId(2), ..(*append.batch).clone() };
    assert!(outcomes(|end| sequencer.committed(&other, end)).is_empty());
    assert!(sequencer.in_flight().is_some());
}

#[test]
fn keys_that_the_engine_holds_end_their_drafts_and_the_others_go_on_in_order() {
    let mut sequencer = Sequencer::default();
    for (id, key) in [(1, 1), (2, 2), (3, 3), (4, 4)] {
        sequencer.accept(draft(id, key, key));
    }
    sequencer.accept(draft(5, 2, 2));
    form(&mut sequencer);
    let stored = |key: u64, digest| MessageKey {
        user: UserId(1),
        client_message_id: ClientMessageId(key),
        sequence: Sequence(90 + key),
        digest,
    };
    let mut ended = outcomes(|end| sequencer.repeated(&[stored(2, 2), stored(3, 1000)], end));
    ended.sort_by_key(|(id, _)| *id);
    assert_eq!(
        ended,
        [
            (2, Outcome::Repeated(Sequence(92))),
            (3, Outcome::Conflict),
            (5, Outcome::Repeated(Sequence(92))),
        ]
    );
    let append = form(&mut sequencer);
    let ended = outcomes(|end| sequencer.committed(&append.batch, end));
    assert_eq!(ended, [(1, Outcome::Committed(Sequence(1))), (4, Outcome::Committed(Sequence(2)))]);
}

#[test]
fn a_refused_batch_leaves_its_keys_free_for_the_retry() {
    let mut sequencer = Sequencer::default();
    sequencer.accept(draft(1, 7, 70));
    sequencer.accept(draft(2, 7, 70));
    form(&mut sequencer);
    let mut refused = Vec::new();
    sequencer.refuse_in_flight(ErrorCode::Busy, |ticket, _| refused.push(ticket.id));
    assert_eq!(refused, [1, 2]);
    assert_eq!(sequencer.accept(draft(3, 7, 71)), Accepted::Waits);
}

#[test]
fn what_is_taken_back_goes_out_again_first() {
    let mut sequencer = Sequencer::default();
    sequencer.accept(draft(1, 0, 0));
    form(&mut sequencer);
    sequencer.accept(draft(2, 0, 0));
    sequencer.retake();
    let append = form(&mut sequencer);
    let ended = outcomes(|end| sequencer.committed(&append.batch, end));
    assert_eq!(ended.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_batch_is_bounded_by_messages_and_by_bytes_but_takes_one_large_message() {
    let mut sequencer = Sequencer::default();
    for id in 0..=BATCH_MESSAGES_MAX {
        sequencer.accept(draft(u32::try_from(id).unwrap(), 0, 0));
    }
    assert_eq!(usize::from(form(&mut sequencer).batch.count), BATCH_MESSAGES_MAX);

    let mut sequencer = Sequencer::default();
    let large = Bytes::from(vec![0; BATCH_BYTES_MAX + 1]);
    sequencer.accept(Draft { record: large, ..draft(1, 0, 0) });
    sequencer.accept(draft(2, 0, 0));
    assert_eq!(form(&mut sequencer).batch.count, 1);
}

#[test]
fn too_many_drafts_are_refused_as_busy_and_the_others_stay() {
    let mut sequencer = Sequencer::default();
    for id in 0..DRAFTS_MAX {
        assert_eq!(sequencer.accept(draft(u32::try_from(id).unwrap(), 0, 0)), Accepted::Waits);
    }
    assert_eq!(sequencer.accept(draft(0, 0, 0)), Accepted::Busy);
    assert_eq!(sequencer.accept(draft(0, 9, 0)), Accepted::Busy);
    assert_eq!(sequencer.drafts.len(), DRAFTS_MAX);
    assert!(sequencer.keys.states.is_empty(), "a refused draft leaves no key behind");
}

#[test]
fn time_never_runs_backwards_within_a_channel() {
    let mut sequencer = Sequencer::default();
    sequencer.accept(draft(1, 0, 0));
    let head = Head { timestamp_ms: 900, ..head() };
    let append = form_on(&mut sequencer, &head).unwrap();
    assert_eq!(append.batch.timestamp_ms, 900);
}

#[test]
fn the_key_window_forgets_the_oldest() {
    let mut window = KeyWindow::default();
    for id in 1..=KEY_WINDOW_MAX as u64 + 1 {
        window.settle((UserId(1), ClientMessageId(id)), Sequence(id), 0, &mut |_, _| {});
    }
    assert_eq!(window.states.len(), KEY_WINDOW_MAX);
    assert!(!window.states.contains_key(&(UserId(1), ClientMessageId(1))));
}
