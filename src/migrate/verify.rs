//! Both sides read once more, entry by entry and record by record, and compared.
//!
//! A digest is of what is read, and not of how an engine keeps it: two stores that hold the same have
//! the same digest, whichever engines they are in.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};
use xxhash_rust::xxh3::Xxh3;

use super::{
    MigrateError, Progress, Side, patiently,
    plan::Plan,
    records::{each_record, page, tables},
    walk::Walk,
};
use crate::{
    engine::{Engine, MessageKey, Table},
    limits::MIGRATE_CHANNELS_AT_ONCE,
    log::{
        batch::Batch,
        place::{ChannelId, Sequence},
    },
};

/// 128 bits of XXH3: against accidents, since whoever migrates is the operator.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest(pub u128);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What was read, and of a comparison: what both sides hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Channels with messages, and the digest of each log with its keys, by number.
    pub logs: Vec<(ChannelId, Digest)>,
    /// Messages in them.
    pub messages: u64,
    /// Batches in them.
    pub batches: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Keys by which a retry is known.
    pub keys: u64,
    /// Keys that the source had twice, and the target has once.
    pub repeated_keys: u64,
    /// Records.
    pub records: u64,
    /// The digest of all records.
    pub records_digest: Digest,
    /// Rows of accounts, sessions and keys.
    pub account_rows: u64,
    /// Their digest.
    pub accounts_digest: Digest,
}

impl Verified {
    /// One digest of everything.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut all = Xxh3::new();
        for (channel, log) in &self.logs {
            all.update(&channel.0.to_le_bytes());
            all.update(&log.0.to_le_bytes());
        }
        all.update(&self.records_digest.0.to_le_bytes());
        all.update(&self.accounts_digest.0.to_le_bytes());
        Digest(all.digest128())
    }
}

/// What was read of one log.
#[derive(Default)]
struct Log {
    digest: Digest,
    messages: u64,
    batches: u64,
    bytes: u64,
    keys: u64,
    repeated_keys: u64,
}

/// Compares all of both sides.
pub(super) async fn compare<A: Engine, B: Engine>(
    source: &A,
    target: &B,
    plan: &Plan,
    progress: &Progress,
) -> Result<Verified, MigrateError> {
    let logs = stream::iter(&plan.logs)
        .map(|(channel, _)| async move {
            let log = compare_log(source, target, *channel, progress).await?;
            Ok::<_, MigrateError>((*channel, log))
        })
        .buffered(MIGRATE_CHANNELS_AT_ONCE)
        .try_collect()
        .await?;
    let (records, records_digest) = compare_records(source, target).await?;
    Ok(total(logs, records, records_digest))
}

/// Reads all of one side.
pub(super) async fn read<A: Engine>(
    source: &A,
    plan: &Plan,
    progress: &Progress,
) -> Result<Verified, MigrateError> {
    let logs = stream::iter(&plan.logs)
        .map(|(channel, _)| async move {
            let mut read = Reading::new(source, Side::Source, *channel);
            let mut log = Log::default();
            let mut digest = Xxh3::new();
            while let Some((batch, keys)) = read.next().await? {
                log.add(&batch, &keys, progress);
                add_batch(&mut digest, *channel, &batch, &keys);
            }
            log.digest = Digest(digest.digest128());
            Ok::<_, MigrateError>((*channel, log))
        })
        .buffered(MIGRATE_CHANNELS_AT_ONCE)
        .try_collect()
        .await?;
    let (mut records, mut digest) = (0, Xxh3::new());
    each_record(source, Side::Source, |table, key, value| {
        records += 1;
        add_record(&mut digest, table, key, value);
    })
    .await?;
    Ok(total(logs, records, Digest(digest.digest128())))
}

fn total(logs: Vec<(ChannelId, Log)>, records: u64, records_digest: Digest) -> Verified {
    let mut verified = Verified { records, records_digest, ..Verified::default() };
    for (channel, log) in logs {
        verified.logs.push((channel, log.digest));
        verified.messages += log.messages;
        verified.batches += log.batches;
        verified.bytes += log.bytes;
        verified.keys += log.keys;
        verified.repeated_keys += log.repeated_keys;
    }
    verified
}

impl Log {
    fn add(&mut self, batch: &Batch, keys: &[MessageKey], progress: &Progress) {
        self.messages += u64::from(batch.count);
        self.batches += 1;
        self.bytes += batch.encoded_bytes() as u64;
        self.keys += keys.len() as u64;
        progress.compared.fetch_add(u64::from(batch.count), Relaxed);
    }
}

async fn compare_log<A: Engine, B: Engine>(
    source: &A,
    target: &B,
    channel: ChannelId,
    progress: &Progress,
) -> Result<Log, MigrateError> {
    let mut from = Reading::new(source, Side::Source, channel);
    let mut to = Reading::new(target, Side::Target, channel);
    let mut of_source = Xxh3::new();
    let mut of_target = Xxh3::new();
    let mut log = Log::default();
    let mut sequence = Sequence::ZERO;
    loop {
        let (sent, found) = future::try_join(from.next(), to.next()).await?;
        let differs = |sequence| MigrateError::LogDiffers { channel, sequence };
        let ((sent, mut sent_keys), (found, found_keys)) = match (sent, found) {
            (None, None) => break,
            (Some(sent), Some(found)) => (sent, found),
            (Some((one, _)), None) | (None, Some((one, _))) => {
                return Err(differs(one.first_sequence));
            }
        };
        if sent != found {
            return Err(differs(sent.first_sequence));
        }
        if sent_keys != found_keys {
            let before = sent_keys.len();
            leave_out_repeated(target, channel, &mut sent_keys, &found_keys).await?;
            if sent_keys != found_keys {
                return Err(differs(sent.first_sequence));
            }
            log.repeated_keys += (before - sent_keys.len()) as u64;
        }
        sequence = sent.last_sequence();
        add_batch(&mut of_source, channel, &sent, &sent_keys);
        add_batch(&mut of_target, channel, &found, &found_keys);
        log.add(&sent, &sent_keys, progress);
    }
    log.digest = Digest(of_source.digest128());
    // Nothing of it could differ and pass until here; it is what the operator is told.
    if log.digest != Digest(of_target.digest128()) {
        return Err(MigrateError::LogDiffers { channel, sequence });
    }
    Ok(log)
}

/// Leaves out the keys that the target has for an earlier message.
async fn leave_out_repeated(
    target: &impl Engine,
    channel: ChannelId,
    sent: &mut Vec<MessageKey>,
    found: &[MessageKey],
) -> Result<(), MigrateError> {
    let missing: Vec<_> = sent.iter().filter(|key| !found.contains(key)).copied().collect();
    let names: Vec<_> = missing.iter().map(|key| (key.user, key.client_message_id)).collect();
    let stored = patiently(|| target.find_keys(channel, names.clone())).await;
    let stored = stored.map_err(|error| MigrateError::ReadTarget(channel, error))?;
    sent.retain(|key| {
        !stored.iter().any(|stored| {
            (stored.user, stored.client_message_id) == (key.user, key.client_message_id)
                && stored.sequence < key.sequence
        })
    });
    Ok(())
}

async fn compare_records<A: Engine, B: Engine>(
    source: &A,
    target: &B,
) -> Result<(u64, Digest), MigrateError> {
    let mut count = 0;
    let mut digest = Xxh3::new();
    for table in tables() {
        let mut after: Option<String> = None;
        loop {
            let sent = page(source, Side::Source, table, after.as_deref());
            let found = page(target, Side::Target, table, after.as_deref());
            let (sent, found) = future::try_join(sent, found).await?;
            for (index, (key, record)) in sent.iter().enumerate() {
                let same = found
                    .get(index)
                    .is_some_and(|(other, found)| other == key && found.value == record.value);
                if !same {
                    return Err(MigrateError::RecordDiffers { table, key: key.clone() });
                }
                add_record(&mut digest, table, key, &record.value);
                count += 1;
            }
            if let Some((key, _)) = found.get(sent.len()) {
                return Err(MigrateError::RecordDiffers { table, key: key.clone() });
            }
            let Some((last, _)) = sent.into_iter().next_back() else { break };
            after = Some(last);
        }
    }
    Ok((count, Digest(digest.digest128())))
}

fn add_batch(digest: &mut Xxh3, channel: ChannelId, batch: &Batch, keys: &[MessageKey]) {
    digest.update(&batch.encode(channel));
    for key in keys {
        digest.update(&key.user.0.to_le_bytes());
        digest.update(&key.client_message_id.0.to_le_bytes());
        digest.update(&key.sequence.0.to_le_bytes());
        digest.update(&key.digest.to_le_bytes());
    }
}

/// Each part with its length before it, so that no two records read as one.
pub(super) fn add_record(digest: &mut Xxh3, table: Table, key: &str, value: &[u8]) {
    for part in [table.name().as_bytes(), key.as_bytes(), value] {
        digest.update(&(part.len() as u64).to_le_bytes());
        digest.update(part);
    }
}

/// A log batch by batch, each with its keys.
struct Reading<'e, E> {
    walk: Walk<'e, E>,
    batches: VecDeque<Arc<Batch>>,
    keys: VecDeque<MessageKey>,
}

impl<'e, E: Engine> Reading<'e, E> {
    const fn new(engine: &'e E, side: Side, channel: ChannelId) -> Self {
        let walk = Walk::new(engine, side, channel);
        Self { walk, batches: VecDeque::new(), keys: VecDeque::new() }
    }

    async fn next(&mut self) -> Result<Option<(Arc<Batch>, Vec<MessageKey>)>, MigrateError> {
        if self.batches.is_empty() {
            let page = self.walk.next_page().await?;
            self.batches = page.batches.into();
            self.keys = page.keys.into();
        }
        let Some(batch) = self.batches.pop_front() else { return Ok(None) };
        let last = batch.last_sequence();
        let of_batch = self.keys.iter().take_while(|key| key.sequence <= last).count();
        Ok(Some((batch, self.keys.drain(..of_batch).collect())))
    }
}
