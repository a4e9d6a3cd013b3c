//! The engine for tests: a log in memory, and everything that can go wrong with one.
//!
//! [`MemoryLog`] is the log itself, synchronous and pure, for a simulation that owns the time: it
//! decides when an append reaches the log, with which [`Fault`], and when the answer and the feed
//! come back. [`MemoryEngine`] is the same log behind [`Engine`], with a script of faults and
//! gates that hold a request until the test lets it go.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use self::bus::Inboxes;
pub use self::{
    bus::{BusFaults, MemoryBus},
    log::{Fault, MemoryLog},
};
use super::{
    Append, AppendError, Bus, Caps, Chain, Derived, Engine, Expect, Feed, LogEnd, Mark, MessageKey,
    ReadError, ReadFrom, ReadMax, RecordError, Refusal, Revision, Table, Versioned, put_bytes,
};
use crate::{
    engine::bus::NodeId,
    limits,
    log::{
        batch::{Batch, Entry},
        place::{ChannelId, ClientMessageId, Cursor, Sequence, UserId},
    },
};

mod bus;
mod log;

/// A node's engine over a log in memory, which other nodes may share.
#[derive(Clone, Debug)]
pub struct MemoryEngine {
    shared: Arc<Mutex<Shared>>,
    faults: Arc<Faults>,
    bus: MemoryBus,
}

#[derive(Debug)]
struct Shared {
    log: MemoryLog,
    followers: Vec<Follower>,
    inboxes: Inboxes,
    nodes: u64,
}

/// One feed, and the node that it goes to.
#[derive(Debug)]
struct Follower {
    node: Arc<Faults>,
    feed: mpsc::Sender<Feed>,
    /// Something was dropped because the feed was full, and it has not been reset yet.
    interrupted: bool,
}

impl Default for MemoryEngine {
    fn default() -> Self {
        Self::new(MemoryLog::default())
    }
}

impl MemoryEngine {
    /// The first node over this log.
    #[must_use]
    pub fn new(log: MemoryLog) -> Self {
        let inboxes = Inboxes::default();
        let bus = MemoryBus::new(NodeId(1), Arc::clone(&inboxes));
        let shared = Shared { log, followers: Vec::new(), inboxes, nodes: 1 };
        Self { shared: Arc::new(Mutex::new(shared)), faults: Arc::default(), bus }
    }

    /// Another node over the same log, with faults of its own. Each node's feed brings what the
    /// others commit. Once there is another one, each has a bus.
    #[must_use]
    pub fn another_node(&self) -> Self {
        let mut shared = self.shared();
        shared.nodes += 1;
        let bus = MemoryBus::new(NodeId(shared.nodes), Arc::clone(&shared.inboxes));
        drop(shared);
        Self { shared: Arc::clone(&self.shared), faults: Arc::default(), bus }
    }

    /// This node's way to the others, and what will go wrong on it.
    #[must_use]
    pub const fn memory_bus(&self) -> &MemoryBus {
        &self.bus
    }

    /// What will go wrong on this node.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Looks at the log, or changes it. What is placed in it goes to every feed.
    pub fn with_log<T>(&self, change: impl FnOnce(&mut MemoryLog) -> T) -> T {
        self.shared().change(change, |_, _| true)
    }

    /// Sends to every feed of this node, as the network to the other nodes would.
    pub fn feed(&self, news: &Feed) {
        for follower in &mut self.shared().followers {
            if Arc::ptr_eq(&follower.node, &self.faults) {
                follower.send(news.clone());
            }
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        unpoisoned(&self.shared)
    }

    /// Appends with the next fault of the script, and tells the other nodes.
    fn commit<T>(
        &self,
        batches: &[Arc<Batch>],
        append: impl FnOnce(&mut MemoryLog, Option<Fault>) -> T,
    ) -> T {
        let fault = unpoisoned(&self.faults.script).appends.pop_front();
        self.shared().change(
            |log| append(log, fault),
            |follower, entry| {
                batches.iter().all(|batch| batch.id != entry.batch.id)
                    || !Arc::ptr_eq(&follower.node, &self.faults)
            },
        )
    }

    /// Reads the log, unless the script has a failure for it.
    async fn read_log<T>(
        &self,
        read: impl FnOnce(&MemoryLog) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        self.faults.read.pass().await;
        let failure = unpoisoned(&self.faults.script).reads.pop_front();
        match failure {
            Some(failure) => Err(failure),
            None => read(&self.shared().log),
        }
    }

    /// Does what a record operation does, unless the script has a failure for it.
    fn records<T>(
        &self,
        operation: impl FnOnce(&mut MemoryLog) -> Result<T, RecordError>,
    ) -> Result<T, RecordError> {
        let failure = unpoisoned(&self.faults.script).records.pop_front();
        match failure {
            Some(failure) => Err(failure),
            None => operation(&mut self.shared().log),
        }
    }
}

impl Shared {
    fn change<T>(
        &mut self,
        change: impl FnOnce(&mut MemoryLog) -> T,
        goes_to: impl Fn(&Follower, &Entry) -> bool,
    ) -> T {
        let before = self.log.placed().len();
        let result = change(&mut self.log);
        for entry in &self.log.placed()[before..] {
            for follower in &mut self.followers {
                if goes_to(follower, entry) {
                    follower.send(Feed::Entry(entry.clone()));
                }
            }
        }
        result
    }
}

impl Follower {
    fn send(&mut self, news: Feed) {
        let script = &mut *unpoisoned(&self.node.script);
        if script.feed_drops > 0 {
            script.feed_drops -= 1;
            return;
        }
        if self.interrupted {
            self.interrupted = self.feed.try_send(Feed::Reset).is_err();
        }
        if !self.interrupted {
            self.interrupted = self.feed.try_send(news).is_err();
        }
    }
}

/// A node's faults: a script, whose lines are used up one by one, and gates.
#[derive(Debug, Default)]
pub struct Faults {
    script: Mutex<Script>,
    commit: Gate,
    answer: Gate,
    read: Gate,
}

#[derive(Debug, Default)]
struct Script {
    appends: VecDeque<Fault>,
    reads: VecDeque<ReadError>,
    records: VecDeque<RecordError>,
    feed_drops: usize,
}

/// Where a gate stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Before an append reaches the log.
    Commit,
    /// After it did, before its answer.
    Answer,
    /// Before a read of the log.
    Read,
}

impl Faults {
    /// The next append or chain of this node that is not in the script yet has this fault.
    pub fn next_append(&self, fault: Fault) {
        unpoisoned(&self.script).appends.push_back(fault);
    }

    /// The next append is refused.
    pub fn refuse_next_append(&self, refusal: Refusal) {
        self.next_append(Fault::Refused(refusal));
    }

    /// The next read of the log fails, and a mark or a look for keys or heads is one.
    pub fn fail_next_read(&self, error: ReadError) {
        unpoisoned(&self.script).reads.push_back(error);
    }

    /// The next operation on records fails, and a trim is one.
    pub fn fail_next_record(&self, error: RecordError) {
        unpoisoned(&self.script).records.push_back(error);
    }

    /// The next `count` news of this node's feeds are lost without a trace.
    pub fn drop_feed(&self, count: usize) {
        unpoisoned(&self.script).feed_drops += count;
    }

    /// Closes the gate until the hold is dropped.
    #[must_use = "dropping the hold opens the gate"]
    pub fn hold(&self, stage: Stage) -> Hold<'_> {
        let gate = self.gate(stage);
        gate.closed.send_replace(true);
        Hold { gate }
    }

    const fn gate(&self, stage: Stage) -> &Gate {
        match stage {
            Stage::Commit => &self.commit,
            Stage::Answer => &self.answer,
            Stage::Read => &self.read,
        }
    }
}

#[derive(Debug, Default)]
struct Gate {
    closed: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
}

impl Gate {
    async fn pass(&self) {
        let mut closed = self.closed.subscribe();
        if !*closed.borrow() {
            return;
        }
        self.waiting.send_modify(|waiting| *waiting += 1);
        let _leave = Leave(self);
        // It fails when the sender is gone, and that is in `self`.
        let _ = closed.wait_for(|closed| !closed).await;
    }
}

/// Counts a waiting request out, also when its future is dropped.
struct Leave<'a>(&'a Gate);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

/// A closed gate. Dropping it lets all through.
#[derive(Debug)]
pub struct Hold<'a> {
    gate: &'a Gate,
}

impl Hold<'_> {
    /// Until this many requests wait at the gate.
    pub async fn waiting(&self, count: usize) {
        // It fails when the sender is gone, and that is in the gate.
        let _ = self.gate.waiting.subscribe().wait_for(|waiting| *waiting >= count).await;
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.gate.closed.send_replace(false);
    }
}

impl Engine for MemoryEngine {
    fn append(
        &self,
        append: Append,
    ) -> impl Future<Output = Result<Cursor, AppendError>> + Send + 'static {
        let node = self.clone();
        async move {
            if append.bytes() > limits::ENTRY_BYTES_MAX {
                return Err(AppendError::Refused(Refusal::TooLarge));
            }
            node.faults.commit.pass().await;
            let batches = std::slice::from_ref(&append.batch);
            let result = node.commit(batches, |log, fault| match fault {
                Some(fault) => log.append_with(&append, fault),
                None => log.append(&append),
            });
            node.faults.answer.pass().await;
            result
        }
    }

    fn append_chain(
        &self,
        chain: Chain,
    ) -> impl Future<Output = Result<Vec<Cursor>, AppendError>> + Send + 'static {
        chain.check();
        let node = self.clone();
        async move {
            if chain.bytes() > limits::CHAIN_BYTES_MAX {
                return Err(AppendError::Refused(Refusal::TooLarge));
            }
            node.faults.commit.pass().await;
            let result = node.commit(&chain.batches, |log, fault| match fault {
                Some(fault) => log.append_chain_with(&chain, fault),
                None => log.append_chain(&chain),
            });
            node.faults.answer.pass().await;
            result
        }
    }

    fn mark(&self) -> impl Future<Output = Result<Mark, ReadError>> + Send + 'static {
        let node = self.clone();
        async move { node.read_log(|log| Ok(log.mark())).await }
    }

    fn read(
        &self,
        channel: ChannelId,
        from: ReadFrom,
        max: impl Into<ReadMax>,
    ) -> impl Future<Output = Result<Vec<Entry>, ReadError>> + Send + 'static {
        let (node, max) = (self.clone(), max.into());
        async move { node.read_log(|log| log.read(channel, from, max)).await }
    }

    fn heads(
        &self,
        channels: Vec<ChannelId>,
    ) -> impl Future<Output = Result<Vec<LogEnd>, ReadError>> + Send + 'static {
        let node = self.clone();
        async move {
            node.read_log(|log| Ok(channels.into_iter().map(|it| log.end(it)).collect())).await
        }
    }

    fn find_keys(
        &self,
        channel: ChannelId,
        keys: Vec<(UserId, ClientMessageId)>,
    ) -> impl Future<Output = Result<Vec<MessageKey>, ReadError>> + Send + 'static {
        let node = self.clone();
        async move { node.read_log(|log| Ok(log.find_keys(channel, &keys))).await }
    }

    fn keys(
        &self,
        channel: ChannelId,
        first: Sequence,
        last: Sequence,
    ) -> impl Future<Output = Result<Vec<MessageKey>, ReadError>> + Send + 'static {
        let node = self.clone();
        async move { node.read_log(|log| Ok(log.keys(channel, first, last))).await }
    }

    fn trim(
        &self,
        channel: ChannelId,
        sequence: Sequence,
    ) -> impl Future<Output = Result<(), RecordError>> + Send + 'static {
        let node = self.clone();
        async move {
            node.records(|log| {
                log.trim(channel, sequence);
                Ok(())
            })
        }
    }

    fn follow(&self) -> mpsc::Receiver<Feed> {
        let (feed, news) = mpsc::channel(limits::FEED_MAX);
        let node = Arc::clone(&self.faults);
        self.shared().followers.push(Follower { node, feed, interrupted: false });
        news
    }

    fn get(
        &self,
        table: Table,
        key: &str,
    ) -> impl Future<Output = Result<Option<Versioned>, RecordError>> + Send + 'static {
        let (node, key) = (self.clone(), key.to_owned());
        async move { node.records(|log| Ok(log.get(table, &key))) }
    }

    fn put_with(
        &self,
        table: Table,
        key: &str,
        value: Bytes,
        expect: Expect,
        derived: Vec<Derived>,
    ) -> impl Future<Output = Result<Revision, RecordError>> + Send + 'static {
        let (node, key) = (self.clone(), key.to_owned());
        let fits = put_bytes(&key, Some(&value), &derived) <= limits::ENTRY_BYTES_MAX;
        async move {
            if !fits {
                return Err(RecordError::TooLarge);
            }
            node.records(|log| {
                let revision = log.put(table, &key, value, expect)?;
                log.derive(&derived);
                Ok(revision)
            })
        }
    }

    fn remove(
        &self,
        table: Table,
        key: &str,
        revision: Revision,
    ) -> impl Future<Output = Result<(), RecordError>> + Send + 'static {
        let (node, key) = (self.clone(), key.to_owned());
        async move { node.records(|log| log.remove(table, &key, revision)) }
    }

    fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
    ) -> impl Future<Output = Result<Vec<(String, Versioned)>, RecordError>> + Send + 'static {
        let (node, prefix, after) = (self.clone(), prefix.to_owned(), after.map(str::to_owned));
        async move { node.records(|log| Ok(log.scan(table, &prefix, after.as_deref(), count_max))) }
    }

    fn caps(&self) -> Caps {
        self.shared().log.caps()
    }

    fn bus(&self) -> Option<Arc<dyn Bus>> {
        (self.shared().nodes > 1).then(|| Arc::new(self.bus.clone()) as Arc<dyn Bus>)
    }
}

/// A test that has panicked still wants to see its log.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
