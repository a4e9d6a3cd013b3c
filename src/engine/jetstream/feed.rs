//! Follows what one stream commits, without a gap: a firehose of its republished messages.
//!
//! Every message of a stream has the next of its sequences, and the servers tell each once it is
//! committed. So one number says where a feed stands, and a sequence that is skipped is a message that
//! was lost on the way, or never was one. Few of them are read from the stream; for many, and whenever
//! the connection was lost, the follower is told to read for itself. What is lost at the very end shows
//! by what all nodes know to be committed, which they tell each other once a second.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::StreamExt as _;
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    api::{Api, ApiError, Stored, direct},
    subject::Subjects,
};
use crate::limits::{
    FEED_MAX, FEED_PAGE_BYTES, FEED_REPAIRED_MAX, NATS_DIGEST_BYTES_MAX, NATS_DIGEST_INTERVAL,
    NATS_RETRY_PAUSE,
};

/// What a follower gets, in the order of the stream's sequences.
#[derive(Clone, Debug)]
pub(super) enum News {
    /// A committed message, each once.
    Stored(Stored),
    /// The feed begins, or has been interrupted: what lies up to this sequence and has not been told
    /// never will be, and what lies behind it will. It is the first news of every feed. If a follower
    /// knows of a later sequence, the stream has lost messages.
    Reset {
        /// The stream's last sequence.
        position: u64,
    },
}

/// One stream to be followed.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// Its name.
    pub(super) stream: String,
    /// All its subjects.
    pub(super) subjects: String,
    /// Where the servers tell what it commits.
    pub(super) live: String,
}

/// Where a stream is known to be. Shared by its feed and by who writes to it.
#[derive(Debug, Default)]
pub(super) struct Known {
    committed: AtomicU64,
}

impl Known {
    /// This sequence of the stream is committed: a feed that has not told of it looks for it.
    pub(super) fn committed(&self, sequence: u64) {
        self.committed.fetch_max(sequence, Ordering::Relaxed);
    }

    fn last(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }
}

/// What all feeds of a node have in common.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    /// Raised whenever messages may have been lost without a trace.
    interruptions: watch::Sender<u64>,
    known: Mutex<HashMap<String, Arc<Known>>>,
}

impl Feeds {
    /// Messages may have been lost: every feed is reset.
    pub(super) fn interrupt(&self) {
        self.interruptions.send_modify(|count| *count += 1);
    }

    /// Where this stream is known to be.
    pub(super) fn known(&self, stream: &str) -> Arc<Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(stream.to_owned()).or_default())
    }

    /// Follows a stream from now on, on this runtime, for as long as the news are received. A follower
    /// that does not take them holds its feed up, until it is reset.
    pub(super) fn follow(&self, api: Api, source: Source) -> mpsc::Receiver<News> {
        let (news, receiver) = mpsc::channel(FEED_MAX);
        let known = self.known(&source.stream);
        let interruptions = self.interruptions.subscribe();
        let follower = Follower { api, source, known, position: 0, news };
        tokio::spawn(follower.run(interruptions));
        receiver
    }

    /// Tells the other nodes how far each stream is known to be, and hears it from them. Never ends.
    pub(super) async fn exchange(self: Arc<Self>, api: Api, subjects: Subjects) {
        let mut ticks = interval(NATS_DIGEST_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let Ok(mut digests) = api.client().subscribe(subjects.digests()).await else {
                sleep(NATS_RETRY_PAUSE).await;
                continue;
            };
            loop {
                tokio::select! {
                    _ = ticks.tick() => {
                        let digest = self.digest().into();
                        // A lost digest is made up for by the next one.
                        if api.client().publish(subjects.digests(), digest).await.is_err() {
                            break;
                        }
                    }
                    digest = digests.next() => match digest {
                        Some(digest) => self.hear(&digest.payload),
                        None => break,
                    },
                }
            }
            sleep(NATS_RETRY_PAUSE).await;
        }
    }

    fn digest(&self) -> String {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(stream, known)| format!("{stream} {}\n", known.last())).collect()
    }

    /// Takes in what another node knows. What it does not understand is of a later version.
    fn hear(&self, digest: &[u8]) {
        let text = digest.get(..digest.len().min(NATS_DIGEST_BYTES_MAX)).unwrap_or_default();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for line in std::str::from_utf8(text).unwrap_or_default().lines() {
            let Some((stream, sequence)) = line.split_once(' ') else { continue };
            if let (Some(known), Ok(sequence)) = (known.get(stream), sequence.parse()) {
                known.committed(sequence);
            }
        }
    }
}

/// One feed at work.
struct Follower {
    api: Api,
    source: Source,
    known: Arc<Known>,
    /// The last sequence that was told of.
    position: u64,
    news: mpsc::Sender<News>,
}

/// Nobody follows any more.
struct Unfollowed;

impl Follower {
    async fn run(mut self, mut interruptions: watch::Receiver<u64>) {
        loop {
            match self.api.client().subscribe(self.source.live.clone()).await {
                Ok(live) => {
                    let Err(Unfollowed) = self.tell(live, &mut interruptions).await else {
                        continue;
                    };
                    return;
                }
                Err(_) if self.news.is_closed() => return,
                Err(_) => sleep(NATS_RETRY_PAUSE).await,
            }
        }
    }

    /// Tells what comes, until the subscription ends.
    async fn tell(
        &mut self,
        mut live: async_nats::Subscriber,
        interruptions: &mut watch::Receiver<u64>,
    ) -> Result<(), Unfollowed> {
        // Subscribed first, then asked where the stream is: what is committed in between comes.
        interruptions.mark_unchanged();
        self.reset().await?;
        let mut ticks = interval(NATS_DIGEST_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What was known at the last tick has had the time to come.
        let mut due = 0;
        loop {
            tokio::select! {
                biased;
                changed = interruptions.changed() => match changed {
                    Ok(()) => self.reset().await?,
                    // The engine is gone.
                    Err(_) => return Err(Unfollowed),
                },
                message = live.next() => match message.map(direct) {
                    Some(Some(stored)) => self.take_in(stored).await?,
                    // Not the servers' word: somebody else published to the subject.
                    Some(None) => tracing::warn!(stream = self.source.stream, "foreign message"),
                    None => return Ok(()),
                },
                _ = ticks.tick() => {
                    if due > self.position {
                        self.repair(due + 1).await?;
                    }
                    due = self.known.last();
                }
                () = self.news.closed() => return Err(Unfollowed),
            }
        }
    }

    async fn take_in(&mut self, stored: Stored) -> Result<(), Unfollowed> {
        if stored.sequence > self.position + 1 {
            self.repair(stored.sequence).await?;
        }
        self.pass_on(stored).await
    }

    /// Passes on what is next. What was told of already, or lies before a reset, is left out.
    async fn pass_on(&mut self, stored: Stored) -> Result<(), Unfollowed> {
        let sequence = stored.sequence;
        if sequence <= self.position {
            return Ok(());
        }
        self.news.send(News::Stored(stored)).await.map_err(|_| Unfollowed)?;
        self.position = sequence;
        self.known.committed(sequence);
        Ok(())
    }

    /// Reads what has been missed below this sequence, or gives up and resets.
    async fn repair(&mut self, below: u64) -> Result<(), Unfollowed> {
        if below - self.position - 1 > FEED_REPAIRED_MAX {
            return self.reset().await;
        }
        match self.missed(below).await {
            Ok(missed) => {
                for stored in missed {
                    self.pass_on(stored).await?;
                }
                // Sequences that no message has any more, or never had.
                self.position = self.position.max(below - 1);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(stream = self.source.stream, %error, "a gap could not be read");
                self.reset().await
            }
        }
    }

    /// Those of the stream's messages behind the position and below this sequence that are still there.
    async fn missed(&self, below: u64) -> Result<Vec<Stored>, ApiError> {
        let Source { stream, subjects, .. } = &self.source;
        let (mut from, mut missed) = (self.position + 1, Vec::new());
        while from < below {
            let count = (below - from) as usize;
            let (page, _) = self.api.page(stream, from, subjects, count, FEED_PAGE_BYTES).await?;
            let page: Vec<_> = page.into_iter().take_while(|it| it.sequence < below).collect();
            if let Some(last) = page.last() {
                from = last.sequence + 1;
                missed.extend(page);
                continue;
            }
            // The replica may be behind; the leader knows.
            match self.api.next(stream, from, subjects).await? {
                Some(stored) if stored.sequence < below => {
                    from = stored.sequence + 1;
                    missed.push(stored);
                }
                _ => break,
            }
        }
        Ok(missed)
    }

    /// Asks where the stream is until somebody says so, and goes on from there.
    async fn reset(&mut self) -> Result<(), Unfollowed> {
        loop {
            match self.api.stream(&self.source.stream).await {
                Ok(Some(info)) => {
                    let position = info.state.last_seq;
                    if position < self.position {
                        tracing::error!(
                            stream = self.source.stream,
                            position,
                            before = self.position,
                            "a stream of the cluster has lost messages"
                        );
                    }
                    self.position = position;
                    self.known.committed(position);
                    let reset = self.news.send(News::Reset { position }).await;
                    return reset.map_err(|_| Unfollowed);
                }
                Ok(None) => tracing::error!(stream = self.source.stream, "the stream is gone"),
                Err(error) => tracing::debug!(stream = self.source.stream, %error, "no answer yet"),
            }
            if self.news.is_closed() {
                return Err(Unfollowed);
            }
            sleep(NATS_RETRY_PAUSE).await;
        }
    }
}
