//! What nodes hear of each other's entries.

use tokio::sync::mpsc::Receiver;

use super::*;
use crate::engine::jetstream::feed::{Feeds, News};

/// The next entry of the feed, and whether there was a reset before it.
async fn entry(feed: &mut Receiver<Feed>) -> (Entry, bool) {
    let mut was_reset = false;
    loop {
        match timeout(PATIENCE, feed.recv()).await.unwrap().unwrap() {
            Feed::Entry(entry) => return (entry, was_reset),
            Feed::Reset => was_reset = true,
        }
    }
}

/// Until the feed of both logs has begun.
async fn followed(engine: &JetStreamEngine) -> Receiver<Feed> {
    let mut feed = engine.follow();
    let mut chain = Appender::new(ChannelId(100));
    let mut other = Appender::new(ChannelId(101));
    for chain in [&mut chain, &mut other] {
        let last = engine.read(chain.channel, ReadFrom::Tail, 0).await.unwrap().pop();
        if let Some(last) = last {
            chain.head = last.batch.head(last.at);
        }
        // The feed begins some time after the node does.
        until(async || {
            insist(engine, chain).await;
            let last = engine.read(chain.channel, ReadFrom::Tail, 0).await.unwrap().pop().unwrap();
            chain.head = last.batch.head(last.at);
            timeout(Duration::from_millis(200), async {
                while !matches!(feed.recv().await, Some(Feed::Entry(it)) if it.channel == chain.channel) {}
            })
            .await
            .ok()
        })
        .await;
    }
    while feed.try_recv().is_ok() {}
    feed
}

#[tokio::test]
async fn a_feed_brings_every_entry_of_every_node_in_order() {
    let Some(cluster) = Cluster::start(1) else { return };
    let (ann, ben) = (cluster.node(), cluster.node());
    let mut feed = followed(&ben).await;
    let mut chain = Appender::new(LOBBY);
    for _ in 0..100 {
        let head = chain.head.cursor;
        let at = chain.append(&ann, 1).await;
        let (entry, was_reset) = entry(&mut feed).await;
        assert_eq!((entry.channel, entry.at, entry.after), (LOBBY, at, head));
        assert_eq!(entry.batch.head(at), chain.head);
        assert!(!was_reset);
    }
    let own = chain.append(&ben, 1).await;
    assert_eq!(entry(&mut feed).await.0.at, own, "its own, too");
}

#[tokio::test]
async fn what_was_lost_on_the_way_is_read() {
    let Some(engine) = TestEngine::start(1) else { return };
    let mut chain = Appender::new(LOBBY);
    chain.append(&*engine, 1).await;
    let (api, runtime) = (engine.inner.api.clone(), engine.runtime.clone());
    // Nobody publishes here: everything gets lost but what the test tells.
    let (stream, _) = engine.cluster.place(LOBBY);
    let shelf = crate::engine::shelf(LOBBY, 2);
    let mut source = Log::source(&Subjects::new("test"), shelf);
    source.live = "silence.>".to_owned();
    let feeds = Arc::new(Feeds::default());
    let known = feeds.known(&stream);
    let mut news = {
        let (feeds, api) = (Arc::clone(&feeds), api.clone());
        runtime.spawn(async move { feeds.follow(api, source) }).await.unwrap()
    };
    let next = async |news: &mut Receiver<News>| timeout(PATIENCE, news.recv()).await.unwrap();
    let Some(News::Reset { position }) = next(&mut news).await else { panic!("it begins so") };
    assert_eq!(position, chain.head.cursor.0);

    // The last ones were lost: what is known to be committed shows it.
    for _ in 0..3 {
        chain.append(&*engine, 1).await;
    }
    known.committed(chain.head.cursor.0);
    for sequence in position + 1..=chain.head.cursor.0 {
        let Some(News::Stored(stored)) = next(&mut news).await else { panic!("an entry") };
        assert_eq!(stored.sequence, sequence);
    }

    // Some in the middle were lost: the next one shows it.
    let before = chain.head.cursor.0;
    for _ in 0..5 {
        chain.append(&*engine, 1).await;
    }
    let mut last = api.next(&stream, before + 5, ">").await.unwrap().unwrap();
    last.headers.insert(subject::SEQUENCE, last.sequence.to_string());
    last.headers.insert(subject::SUBJECT, last.subject.clone());
    let told = api.client().publish_with_headers("silence.x", last.headers, last.payload);
    told.await.unwrap();
    for sequence in before + 1..=before + 5 {
        let Some(News::Stored(stored)) = next(&mut news).await else { panic!("an entry") };
        assert_eq!(stored.sequence, sequence);
    }

    // More than is read one by one.
    let mut lost = Vec::new();
    for n in 0..=limits::FEED_REPAIRED_MAX {
        lost.push((ChannelId(1_001 + 2 * n as u32), n));
    }
    for (channel, _) in lost {
        Appender::new(channel).append(&*engine, 1).await;
    }
    let end = before + 5 + limits::FEED_REPAIRED_MAX + 1;
    known.committed(end);
    let Some(News::Reset { position }) = next(&mut news).await else { panic!("a reset") };
    assert_eq!(position, end);
}

#[tokio::test]
async fn a_lost_connection_is_made_again_and_resets_the_feed() {
    let Some(mut cluster) = Cluster::start(1) else { return };
    let engine = cluster.impatient_node();
    let mut feed = followed(&engine).await;
    let mut chain = Appender::new(LOBBY);
    let before = chain.append(&engine, 1).await;
    assert_eq!(entry(&mut feed).await.0.at, before);
    cluster.nats.kill(0).unwrap();
    let append = chain.next(1);
    let lost = engine.append(append.clone()).await;
    assert_eq!(lost, Err(AppendError::Unknown));
    assert_eq!(engine.read(LOBBY, ReadFrom::Tail, 1).await, Err(ReadError::StorageUnavailable));
    cluster.nats.launch(0).unwrap();
    cluster.nats.wait(0).unwrap();
    until(async || match timeout(PATIENCE, feed.recv()).await.unwrap() {
        Some(Feed::Reset) => Some(()),
        _ => None,
    })
    .await;
    chain.append_again(&engine, append).await;
    let at = chain.append(&engine, 1).await;
    let found = until(async || Some(entry(&mut feed).await.0.at).filter(|found| *found == at));
    assert_eq!(found.await, at);
    assert_eq!(engine.read(LOBBY, ReadFrom::After(before), usize::MAX).await.unwrap().len(), 2);
}

impl Appender {
    /// Appends what had an unknown outcome, if it is not in the log.
    async fn append_again(&mut self, engine: &JetStreamEngine, append: Append) {
        let at = until(async || match engine.append(append.clone()).await {
            Ok(at) => Some(at),
            Err(AppendError::Moved) => {
                let last = engine.read(self.channel, ReadFrom::Tail, 0).await.ok()?.pop()?;
                assert_eq!(last.batch.id, append.batch.id);
                Some(last.at)
            }
            Err(_) => None,
        });
        let at = at.await;
        self.extend(&append, at);
    }
}
