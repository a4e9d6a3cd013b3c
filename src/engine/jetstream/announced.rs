//! Which channels' last entries may derive records that are not written: a record for each such channel,
//! so that a node that starts need not look at all channels. It names the nodes that append there and
//! when each said so; it is written before the first such append, and withdrawn when there were none for
//! a while.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Mutex as AsyncMutex, time::Instant};

use super::records::Records;
use crate::{
    clock,
    engine::{Expect, RecordError, bus::NodeId},
    limits::{
        ANNOUNCED_IDLE, ANNOUNCED_MAX, ANNOUNCED_RENEW, ANNOUNCED_STALE, RECORD_ATTEMPTS_MAX,
    },
    log::place::ChannelId,
};

/// The table of these records, which no [`Table`](crate::engine::Table) has the name of.
const TABLE: &str = "settling";

/// What this node has announced.
#[derive(Debug)]
pub(super) struct Announced {
    records: Records,
    node: NodeId,
    channels: Mutex<HashMap<ChannelId, Arc<AsyncMutex<Mark>>>>,
}

/// This node's announcement of one channel.
#[derive(Debug)]
struct Mark {
    written: Option<Instant>,
    used: Instant,
}

impl Announced {
    pub(super) fn new(records: Records, node: NodeId) -> Self {
        Self { records, node, channels: Mutex::default() }
    }

    /// Announces a channel, unless that is done.
    pub(super) async fn announce(&self, channel: ChannelId) -> Result<(), RecordError> {
        let mark = {
            let mut channels = self.channels();
            if channels.len() >= ANNOUNCED_MAX && !channels.contains_key(&channel) {
                return Err(RecordError::Busy);
            }
            let new = || Arc::new(AsyncMutex::new(Mark { written: None, used: Instant::now() }));
            Arc::clone(channels.entry(channel).or_insert_with(new))
        };
        let mut mark = mark.lock().await;
        mark.used = Instant::now();
        if mark.written.is_none_or(|written| written.elapsed() > ANNOUNCED_RENEW) {
            let written = Instant::now();
            self.write(channel, Some(self.node), Some(clock::unix_ms())).await?;
            mark.written = Some(written);
        }
        Ok(())
    }

    /// Withdraws what this node has not used for a while.
    pub(super) async fn withdraw_idle(&self) -> Result<(), RecordError> {
        let all: Vec<_> = self.channels().iter().map(|(of, mark)| (*of, mark.clone())).collect();
        for (channel, mark) in all {
            // Who holds it uses it.
            let Ok(mut held) = mark.try_lock() else { continue };
            if held.used.elapsed() < ANNOUNCED_IDLE {
                continue;
            }
            // Before, since it may be gone also when the answer is not.
            held.written = None;
            self.withdraw(channel).await?;
            drop(held);
            let mut channels = self.channels();
            // This one and the map's: nobody else is about to use it.
            if Arc::strong_count(&mark) == 2 {
                channels.remove(&channel);
            }
        }
        Ok(())
    }

    pub(super) async fn withdraw(&self, channel: ChannelId) -> Result<(), RecordError> {
        self.write(channel, Some(self.node), None).await
    }

    /// The channels that any node has announced, as far as the mirror knows.
    pub(super) fn all(&self) -> Vec<ChannelId> {
        let all = self.records.mirror().scan(TABLE, "", None, usize::MAX);
        all.iter().filter_map(|(key, _)| key.parse().ok().map(ChannelId)).collect()
    }

    /// Those of them with an announcement of a node that is gone.
    pub(super) fn left_behind(&self) -> Vec<ChannelId> {
        let all = self.records.mirror().scan(TABLE, "", None, usize::MAX);
        let now_ms = clock::unix_ms();
        let is_stale = |value: &[u8]| marks(value).iter().any(|(_, at_ms)| stale(*at_ms, now_ms));
        let left = all.iter().filter(|(_, record)| is_stale(&record.value));
        left.filter_map(|(key, _)| key.parse().ok().map(ChannelId)).collect()
    }

    /// Withdraws those of nodes that are gone, once the channel is settled.
    pub(super) async fn clear(&self, channel: ChannelId) -> Result<(), RecordError> {
        self.write(channel, None, None).await
    }

    /// Replaces a node's mark of a channel, and leaves out those of nodes that are gone.
    async fn write(
        &self,
        channel: ChannelId,
        node: Option<NodeId>,
        at_ms: Option<u64>,
    ) -> Result<(), RecordError> {
        let key = channel.0.to_string();
        for _ in 0..RECORD_ATTEMPTS_MAX {
            let found = self.records.get_named(TABLE, &key).await?;
            let now_ms = clock::unix_ms();
            let mut marks = found.as_ref().map_or_else(Vec::new, |found| marks(&found.value));
            marks.retain(|(of, at_ms)| Some(*of) != node && !stale(*at_ms, now_ms));
            marks.extend(node.zip(at_ms));
            if marks.is_empty() && found.is_none() {
                return Ok(());
            }
            let expect = found.map_or(Expect::Absent, |it| Expect::Revision(it.revision));
            let value = (!marks.is_empty()).then(|| text(&marks).into());
            match self.records.put_named(TABLE, &key, value, expect, Vec::new()).await {
                Err(RecordError::Conflict) => {}
                written => return written.map(drop),
            }
        }
        Err(RecordError::Busy)
    }

    fn channels(&self) -> MutexGuard<'_, HashMap<ChannelId, Arc<AsyncMutex<Mark>>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stale(at_ms: u64, now_ms: u64) -> bool {
    Duration::from_millis(now_ms.saturating_sub(at_ms)) > ANNOUNCED_STALE
}

/// The nodes of such a record, and when each announced it. What it does not understand, it leaves out.
fn marks(value: &[u8]) -> Vec<(NodeId, u64)> {
    let mark = |line: &str| {
        let (node, at_ms) = line.split_once(' ')?;
        Some((NodeId(u64::from_str_radix(node, 16).ok()?), at_ms.parse().ok()?))
    };
    std::str::from_utf8(value).unwrap_or_default().lines().filter_map(mark).collect()
}

fn text(marks: &[(NodeId, u64)]) -> String {
    let mut text = String::new();
    for (node, at_ms) in marks {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{node} {at_ms}");
    }
    text
}
