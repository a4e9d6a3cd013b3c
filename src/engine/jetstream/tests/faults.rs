//! Three servers, and what happens to them.

use futures_util::future::join_all;

use super::*;

#[tokio::test]
async fn an_append_is_unknown_while_the_leader_is_stopped_and_lands_once() {
    let Some(cluster) = Cluster::start(3) else { return };
    let engine = cluster.impatient_node();
    let mut chain = Appender::new(LOBBY);
    chain.append(&engine, 1).await;
    let (stream, _) = cluster.place(LOBBY);
    let leader = cluster.nats.leader_of(&stream).unwrap();
    cluster.nats.servers()[leader].signal(Signal::STOP).unwrap();
    let append = chain.next(1);
    let outcome = engine.append(append.clone()).await;
    assert_eq!(outcome, Err(AppendError::Unknown));
    // The others choose a new leader, and the same batch gets in.
    let at = until(async || match engine.append(append.clone()).await {
        Ok(at) => Some(at),
        Err(AppendError::Moved) => {
            let read = engine.read(LOBBY, ReadFrom::After(append.after), 0).await.ok()?;
            read.first().filter(|entry| entry.batch.id == append.batch.id).map(|entry| entry.at)
        }
        Err(_) => None,
    });
    let at = at.await;
    cluster.nats.servers()[leader].signal(Signal::CONT).unwrap();
    chain.extend(&append, at);
    for _ in 0..20 {
        let at = insist(&engine, &mut chain).await;
        let last = until(async || engine.read(LOBBY, ReadFrom::Tail, 0).await.ok()?.pop()).await;
        assert_eq!(last.at, at);
        chain.head = last.batch.head(last.at);
    }
    let log = engine.read(LOBBY, ReadFrom::After(Cursor(0)), usize::MAX).await.unwrap();
    let mut head = Head::empty(Epoch(1));
    for entry in log {
        assert!(entry.batch.extends(&head), "{entry:?}");
        head = entry.batch.head(entry.at);
    }
    assert_eq!(head, chain.head);
}

#[tokio::test]
async fn two_nodes_write_one_log_without_a_fork_and_all_followers_see_the_same() {
    const EACH: usize = 60;
    let Some(cluster) = Cluster::start(3) else { return };
    let nodes = [cluster.node(), cluster.node()];
    let feeds: Vec<_> = nodes.iter().map(Engine::follow).collect();
    let writers = nodes.iter().zip(1_u128..).map(|(node, writer)| async move {
        let (mut own, begun) = (Vec::new(), Instant::now());
        while own.len() < EACH {
            assert!(begun.elapsed() < PATIENCE, "it takes too long");
            let Ok(mut read) = node.read(LOBBY, ReadFrom::Tail, 0).await else { continue };
            let last = read.pop();
            let head = last.map_or(Head::empty(Epoch(1)), |last| last.batch.head(last.at));
            let mut chain = Appender::new(LOBBY);
            chain.head = head;
            let id = own.len() as u64 * 2 + writer as u64;
            let mut append = chain.next_with(&[id], b"text");
            let batch_id = BatchId((writer << 96) | (own.len() as u128 + 1));
            append.batch = Arc::new(Batch { id: batch_id, ..Batch::clone(&append.batch) });
            match node.append(append).await {
                Ok(at) => own.push((at, batch_id)),
                // Where three servers just begin, one may not answer at once. It is not in the log then.
                Err(AppendError::Moved | AppendError::Refused(Refusal::StorageUnavailable)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        own
    });
    let written = join_all(writers).await;
    let log = nodes[0].read(LOBBY, ReadFrom::After(Cursor(0)), usize::MAX).await.unwrap();
    let mut head = Head::empty(Epoch(1));
    for entry in &log {
        assert!(entry.after == head.cursor && entry.batch.extends(&head), "{entry:?}");
        head = entry.batch.head(entry.at);
    }
    let mut acknowledged: Vec<_> = written.concat();
    acknowledged.sort_by_key(|(at, _)| *at);
    let logged: Vec<_> = log.iter().map(|entry| (entry.at, entry.batch.id)).collect();
    assert_eq!(acknowledged, logged, "each acknowledged one once, in its place");
    for mut feed in feeds {
        let mut heard = Vec::new();
        while heard.last() != log.last() {
            match timeout(PATIENCE, feed.recv()).await.unwrap().unwrap() {
                Feed::Entry(entry) => heard.push(entry),
                // At the begin: whatever was before is not told.
                Feed::Reset => {}
            }
        }
        assert!(log.ends_with(&heard), "what is heard is the log, from some place on");
    }
}

#[tokio::test]
async fn a_log_that_has_lost_its_end_is_not_served() {
    let Some(mut cluster) = Cluster::start(1) else { return };
    let engine = cluster.node();
    let mut chain = Appender::new(LOBBY);
    let first = chain.append(&engine, 1).await;
    for _ in 0..3 {
        chain.append(&engine, 1).await;
    }
    assert_eq!(engine.read(LOBBY, ReadFrom::Tail, usize::MAX).await.unwrap().len(), 4);
    // Somebody wipes the log away, but for its first entry.
    let (stream, _) = cluster.place(LOBBY);
    let api = &engine.inner.api;
    let (client, plan) = (api.client().clone(), Subjects::new("test"));
    let kept = api.next(&stream, first.0, ">").await.unwrap().unwrap();
    let asked = client.request(format!("$JS.API.STREAM.DELETE.{stream}"), "".into());
    asked.await.unwrap();
    streams::make(api, Plan { subjects: &plan, logs: 2, single: true }).await.unwrap();
    let subject = kept.subject.clone();
    let publish = Publish { subject, headers: Vec::new(), payload: kept.payload, expect: None };
    until(async || api.publish(publish.clone()).await.ok()).await;

    let last = chain.head.cursor;
    let damaged = ReadError::Damaged { cursor: last, source: BatchError::BrokenChain };
    let begun = Instant::now();
    let error = until(async || {
        let error = engine.read(LOBBY, ReadFrom::Tail, usize::MAX).await.unwrap_err();
        assert!([ReadError::StorageUnavailable, damaged.clone()].contains(&error), "{error}");
        Some(error).filter(|error| *error == damaged)
    });
    error.await;
    assert!(begun.elapsed() >= limits::JETSTREAM_REGRESSION_MIN / 2);
    assert_eq!(engine.append(chain.next(1)).await, Err(AppendError::Moved));
    cluster.nats.kill(0).unwrap();
}
