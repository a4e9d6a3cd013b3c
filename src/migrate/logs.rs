//! The logs of all channels, several channels at once, each in its order, in chains.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};

use super::{
    MigrateError, Patience, Progress, Side, patiently,
    plan::Plan,
    walk::{Page, Walk},
};
use crate::{
    engine::{AppendError, Chain, Engine, MessageKey, ReadFrom, ReadMax, Refusal},
    limits::{MIGRATE_CHAIN_BATCHES_MAX, MIGRATE_CHANNELS_AT_ONCE},
    log::{
        batch::{Batch, Entry},
        place::{ChannelId, Cursor, Sequence},
    },
};

/// Copies what the target does not have yet.
pub(super) async fn copy<A: Engine, B: Engine>(
    source: &A,
    target: &B,
    plan: &Plan,
    progress: &Progress,
) -> Result<(), MigrateError> {
    stream::iter(&plan.logs)
        .map(Ok)
        .try_for_each_concurrent(MIGRATE_CHANNELS_AT_ONCE, |(channel, _)| {
            copy_log(source, target, *channel, progress)
        })
        .await
}

async fn copy_log<A: Engine, B: Engine>(
    source: &A,
    target: &B,
    channel: ChannelId,
    progress: &Progress,
) -> Result<(), MigrateError> {
    let (mut end, mut walk) = match tail(target, channel).await? {
        None => (End { target, channel, at: Cursor(0) }, Walk::new(source, Side::Source, channel)),
        Some(Entry { at, batch, .. }) => {
            let walk = Walk::behind(source, Side::Source, channel, &batch).await?;
            let sequence = batch.first_sequence;
            let walk = walk.ok_or(MigrateError::LogDiffers { channel, sequence })?;
            progress.messages.fetch_add(batch.last_sequence().0, Relaxed);
            (End { target, channel, at }, walk)
        }
    };
    let mut page = walk.next_page().await?;
    while !page.batches.is_empty() {
        let count: u64 = page.batches.iter().map(|batch| u64::from(batch.count)).sum();
        // The next page is read while this one is written.
        let (next, ()) = future::try_join(walk.next_page(), end.append_all(page)).await?;
        progress.messages.fetch_add(count, Relaxed);
        page = next;
    }
    Ok(())
}

/// The last entry of a log of the target.
async fn tail(target: &impl Engine, channel: ChannelId) -> Result<Option<Entry>, MigrateError> {
    let one = ReadMax { bytes: 0, messages: 1 };
    let tail = patiently(|| target.read(channel, ReadFrom::Tail, one)).await;
    Ok(tail.map_err(|error| MigrateError::ReadTarget(channel, error))?.pop())
}

/// The end of one log of the target.
struct End<'e, E> {
    target: &'e E,
    channel: ChannelId,
    /// The last entry.
    at: Cursor,
}

impl<E: Engine> End<'_, E> {
    async fn append_all(&mut self, page: Page) -> Result<(), MigrateError> {
        let Page { batches, mut keys } = page;
        let mut rest = &batches[..];
        // Becomes less when the target finds a chain too large.
        let mut count_max = MIGRATE_CHAIN_BATCHES_MAX;
        let mut patience = Patience::default();
        while let Some(first) = rest.first() {
            let count = rest.len().min(count_max);
            let last = rest[count - 1].last_sequence();
            keys.retain(|key| key.sequence >= first.first_sequence);
            let chain = Chain {
                channel: self.channel,
                after: self.at,
                batches: rest[..count].to_vec(),
                keys: each_once(&keys, last),
                derived: Vec::new(),
            };
            let error = match self.target.append_chain(chain).await {
                Ok(cursors) => {
                    self.at = cursors.last().copied().unwrap_or(self.at);
                    rest = &rest[count..];
                    patience = Patience::default();
                    continue;
                }
                Err(error) => error,
            };
            match &error {
                AppendError::Refused(Refusal::TooLarge) if count > 1 => {
                    count_max = count.div_ceil(2);
                    continue;
                }
                // An engine that knows a key for a while only has taken it again later. One that keeps
                // all of them keeps the first.
                AppendError::Duplicates(taken) => {
                    let before = keys.len();
                    keys.retain(|key| !is_repeated(key, taken));
                    if keys.len() == before {
                        return Err(self.differs(first));
                    }
                    continue;
                }
                AppendError::Moved | AppendError::Unknown => {
                    let written = self.find_end(&rest[..count]).await?;
                    rest = &rest[written..];
                    if written > 0 {
                        continue;
                    }
                }
                AppendError::Refused(Refusal::Busy | Refusal::StorageUnavailable) => {}
                AppendError::Refused(Refusal::TooLarge) => {
                    return Err(MigrateError::Append(self.channel, error));
                }
            }
            if !patience.pause().await {
                return Err(MigrateError::Append(self.channel, error));
            }
        }
        Ok(())
    }

    /// Looks at the end again, and answers how many of these batches, which may have been appended, are
    /// there.
    async fn find_end(&mut self, batches: &[Arc<Batch>]) -> Result<usize, MigrateError> {
        let tail = tail(self.target, self.channel).await?;
        let Some(tail) = tail else {
            return if self.at == Cursor(0) { Ok(0) } else { Err(self.differs(&batches[0])) };
        };
        if tail.at == self.at {
            return Ok(0);
        }
        let found = batches.iter().position(|batch| **batch == tail.batch);
        let index = found.ok_or_else(|| self.differs(&tail.batch))?;
        self.at = tail.at;
        Ok(index + 1)
    }

    fn differs(&self, batch: &Batch) -> MigrateError {
        let sequence = batch.first_sequence;
        MigrateError::LogDiffers { channel: self.channel, sequence }
    }
}

fn is_repeated(key: &MessageKey, taken: &[MessageKey]) -> bool {
    taken.iter().any(|taken| {
        (taken.user, taken.client_message_id) == (key.user, key.client_message_id)
            && taken.sequence < key.sequence
    })
}

/// Those up to this message, and of several of one user and number the first.
fn each_once(keys: &[MessageKey], last: Sequence) -> Vec<MessageKey> {
    let mut seen = HashSet::new();
    let keys = keys.iter().take_while(|key| key.sequence <= last);
    keys.filter(|key| seen.insert((key.user, key.client_message_id))).copied().collect()
}
