//! The faults do what they say: a test that asks for one gets it.

use super::{
    super::tests::{Appender, LOBBY},
    *,
};
use crate::{engine::Durability, log::place::BatchId};

fn forking() -> MemoryLog {
    MemoryLog::new(Caps { durability: Durability::Quorum, junk_possible: true })
}

fn ids(log: &MemoryLog) -> Vec<BatchId> {
    log.entries(LOBBY).iter().map(|entry| entry.batch.id).collect()
}

/// What another node would append at the same place.
fn rival(append: &Append) -> Arc<Batch> {
    Arc::new(Batch { id: BatchId(append.batch.id.0 + (1 << 100)), ..Batch::clone(&append.batch) })
}

#[test]
fn an_unknown_outcome_is_committed_or_lost_as_the_test_wants() {
    let mut log = MemoryLog::default();
    let mut chain = Appender::new(LOBBY);
    let append = chain.next(1);
    assert_eq!(log.append_with(&append, Fault::UnknownLost), Err(AppendError::Unknown));
    assert_eq!(ids(&log), []);
    assert_eq!(log.append_with(&append, Fault::UnknownCommitted), Err(AppendError::Unknown));
    assert_eq!(ids(&log), [append.batch.id]);
    assert_eq!(log.append(&append), Err(AppendError::Moved), "a second attempt finds the first");
}

#[test]
fn a_beaten_append_is_moved_and_leaves_nothing() {
    let mut log = MemoryLog::default();
    let append = Appender::new(LOBBY).next(1);
    let by = rival(&append);
    let fault = Fault::Beaten { by: Arc::clone(&by) };
    assert_eq!(log.append_with(&append, fault), Err(AppendError::Moved));
    assert_eq!(ids(&log), [by.id]);
}

#[test]
fn a_fork_is_acknowledged_and_extends_no_chain() {
    let mut log = forking();
    let append = Appender::new(LOBBY).next(1);
    let by = rival(&append);
    let cursor = log.append_with(&append, Fault::Forked { by: Arc::clone(&by) }).unwrap();
    assert_eq!(ids(&log), [by.id, append.batch.id]);
    let [first, junk] = log.entries(LOBBY) else { panic!("two entries") };
    assert_eq!((junk.at, junk.after), (cursor, first.at));
    assert!(!junk.batch.extends(&first.batch.head(first.at)));
    assert_eq!(log.placed().len(), 2, "the feed carries junk too");
}

#[test]
fn a_fault_meets_a_chain_as_a_whole() {
    let mut end = Appender::new(LOBBY);
    let first = end.next(1);
    let by = rival(&first);
    end.head = first.batch.head(first.after);
    let second = end.next(1);
    let chain = Chain {
        channel: LOBBY,
        after: first.after,
        batches: vec![Arc::clone(&first.batch), Arc::clone(&second.batch)],
        keys: [&first.keys[..], &second.keys].concat(),
        derived: Vec::new(),
    };
    let cases = [
        (Fault::UnknownLost, Err(AppendError::Unknown), vec![]),
        (Fault::UnknownCommitted, Err(AppendError::Unknown), vec![first.batch.id, second.batch.id]),
        (Fault::Refused(Refusal::Busy), Err(AppendError::Refused(Refusal::Busy)), vec![]),
        (Fault::Beaten { by: Arc::clone(&by) }, Err(AppendError::Moved), vec![by.id]),
        (
            Fault::Forked { by: Arc::clone(&by) },
            Ok(vec![Cursor(2), Cursor(3)]),
            vec![by.id, first.batch.id, second.batch.id],
        ),
    ];
    for (fault, answer, left) in cases {
        let mut log = forking();
        assert_eq!(log.append_chain_with(&chain, fault.clone()), answer, "{fault:?}");
        assert_eq!(ids(&log), left, "{fault:?}");
    }
}

#[test]
fn a_damaged_entry_is_not_served() {
    let mut log = MemoryLog::default();
    let mut chain = Appender::new(LOBBY);
    for _ in 0..2 {
        let append = chain.next(1);
        let cursor = log.append(&append).unwrap();
        chain.extend(&append, cursor);
    }
    log.damage(Cursor(2));
    assert!(matches!(
        log.read(LOBBY, ReadFrom::Tail, 1),
        Err(ReadError::Damaged { cursor: Cursor(2), .. })
    ));
    assert_eq!(log.read(LOBBY, ReadFrom::After(Cursor(0)), 1).unwrap().len(), 1);
}

#[tokio::test]
async fn a_held_append_is_not_in_the_log_and_a_held_answer_is() {
    let engine = MemoryEngine::default();
    for (stage, found) in [(Stage::Commit, 0), (Stage::Answer, 1)] {
        let log = MemoryEngine::new(MemoryLog::default());
        let hold = log.faults().hold(stage);
        let append = tokio::spawn(log.append(Appender::new(LOBBY).next(1)));
        hold.waiting(1).await;
        assert_eq!(log.with_log(|log| ids(log).len()), found, "{stage:?}");
        assert!(!append.is_finished());
        drop(hold);
        assert_eq!(append.await.unwrap(), Ok(Cursor(1)));
    }
    assert_eq!(engine.caps().durability, Durability::Ephemeral);
}

#[tokio::test]
async fn the_script_is_used_up_line_by_line() {
    let engine = MemoryEngine::default();
    let append = Appender::new(LOBBY).next(1);
    engine.faults().refuse_next_append(Refusal::Busy);
    engine.faults().next_append(Fault::UnknownLost);
    engine.faults().fail_next_read(ReadError::Busy);
    engine.faults().fail_next_record(RecordError::Busy);
    assert_eq!(engine.append(append.clone()).await, Err(AppendError::Refused(Refusal::Busy)));
    assert_eq!(engine.append(append.clone()).await, Err(AppendError::Unknown));
    assert_eq!(engine.append(append).await, Ok(Cursor(1)));
    assert_eq!(engine.read(LOBBY, ReadFrom::Tail, 1).await, Err(ReadError::Busy));
    assert_eq!(engine.read(LOBBY, ReadFrom::Tail, 1).await.unwrap().len(), 1);
    assert_eq!(engine.get(Table::Users, "ann").await, Err(RecordError::Busy));
    assert_eq!(engine.get(Table::Users, "ann").await, Ok(None));
}

#[tokio::test]
async fn a_feed_brings_what_the_other_nodes_commit() {
    let here = MemoryEngine::default();
    let there = here.another_node();
    let (mut feed_here, mut feed_there) = (here.follow(), there.follow());
    let mut chain = Appender::new(LOBBY);
    let cursor = chain.append(&here, 1).await;
    let Some(Feed::Entry(entry)) = feed_there.recv().await else { panic!("an entry") };
    assert_eq!(entry.at, cursor);
    assert!(feed_here.try_recv().is_err(), "not one's own");

    there.faults().drop_feed(1);
    chain.append(&here, 1).await;
    let cursor = chain.append(&here, 1).await;
    let Some(Feed::Entry(entry)) = feed_there.recv().await else { panic!("an entry") };
    assert_eq!(entry.at, cursor);
    assert_ne!(entry.after, Cursor(1), "the gap shows");
}

#[tokio::test]
async fn a_feed_that_overflows_is_reset() {
    let here = MemoryEngine::default();
    let mut feed = here.another_node().follow();
    let mut chain = Appender::new(LOBBY);
    for _ in 0..limits::FEED_MAX + 5 {
        chain.append(&here, 1).await;
    }
    for _ in 0..limits::FEED_MAX {
        assert!(matches!(feed.recv().await, Some(Feed::Entry(_))));
    }
    let cursor = chain.append(&here, 1).await;
    assert!(matches!(feed.recv().await, Some(Feed::Reset)));
    assert!(matches!(feed.recv().await, Some(Feed::Entry(entry)) if entry.at == cursor));
}
