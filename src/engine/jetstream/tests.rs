//! On real servers: what the contract does not say of a cluster. The contract itself is in
//! `engine/tests.rs`.

use std::{ops::Deref, sync::Arc, time::Duration};

use bytes::Bytes;
use rustix::process::Signal;
use testnats::{Nats, Options};
use tokio::time::{Instant, sleep, timeout};

use super::{
    super::tests::{ANN, ATTIC, Appender, LOBBY},
    api::Publish,
    *,
};
use crate::log::{
    batch::{Batch, BatchError},
    place::{BatchId, Epoch, Head},
};

mod faults;
mod feeds;
mod logs;

/// How long what must happen may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an append waits that will have no answer.
const IMPATIENCE: Duration = Duration::from_secs(2);

/// Real servers, which end with it.
pub(in crate::engine) struct Cluster {
    nats: Nats,
}

impl Cluster {
    /// One server, or three. None: there is no program for it.
    pub(in crate::engine) fn start(servers: usize) -> Option<Self> {
        if testnats::program().is_none() {
            println!("{}", testnats::MISSING);
            return None;
        }
        // Nothing here cuts the power.
        let options = Options { sync_always: false, ..Options::new(servers) };
        Some(Self { nats: Nats::start(&options).unwrap() })
    }

    fn options(&self) -> JetStreamOptions {
        JetStreamOptions {
            servers: self.nats.servers().iter().map(testnats::Server::url).collect(),
            credentials: None,
            prefix: "test".to_owned(),
            streams: 2,
            single: self.nats.servers().len() == 1,
            ack_timeout: PATIENCE,
            on_thread_start: Arc::new(|| {}),
        }
    }

    /// Another node.
    fn node(&self) -> JetStreamEngine {
        open(self.options()).unwrap()
    }

    /// Another node, which has less patience: for appends that are not answered.
    fn impatient_node(&self) -> JetStreamEngine {
        open(JetStreamOptions { ack_timeout: IMPATIENCE, ..self.options() }).unwrap()
    }

    /// The stream of a channel, and its subject.
    fn place(&self, channel: ChannelId) -> (String, String) {
        let subjects = Subjects::new("test");
        let shelf = crate::engine::shelf(channel, 2);
        (subjects.log_stream(shelf), subjects.log(shelf, channel))
    }
}

/// One node on servers of its own.
pub(in crate::engine) struct TestEngine {
    // It goes first.
    engine: JetStreamEngine,
    cluster: Cluster,
}

impl TestEngine {
    pub(in crate::engine) fn start(servers: usize) -> Option<Self> {
        let cluster = Cluster::start(servers)?;
        Some(Self { engine: cluster.node(), cluster })
    }
}

impl Deref for TestEngine {
    type Target = JetStreamEngine;

    fn deref(&self) -> &JetStreamEngine {
        &self.engine
    }
}

/// Until it is so.
async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "it did not come to pass");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Appends one message to the end of the channel as its log says, again and again until it is in.
async fn insist(engine: &JetStreamEngine, chain: &mut Appender) -> Cursor {
    let append = chain.next(1);
    until(async || match engine.append(append.clone()).await {
        Ok(cursor) => Some(cursor),
        Err(AppendError::Moved) => {
            let last = engine.read(chain.channel, ReadFrom::Tail, 0).await.ok()?.pop()?;
            (last.batch.id == append.batch.id).then_some(last.at)
        }
        Err(_) => None,
    })
    .await
}
