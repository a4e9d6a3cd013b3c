//! Records: the last message of each subject of one stream. Its sequence is the record's revision.
//!
//! A record that was removed is a message too, which says so: so its revision goes on if it comes back,
//! and what it follows from is not forgotten (see `settled`). A write expects the sequences that its
//! writer knew. It may know them from the mirror: if that is behind, the servers refuse the write, and
//! it is tried again with what the stream's leader says.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{
    api::{Api, ApiError, Publish, PublishError, Stored},
    mirror::Mirror,
    settled::Settled,
    subject::{self, Subjects},
};
use crate::{
    engine::{Derived, Expect, RecordError, Revision, Table, Versioned, put_bytes},
    limits::{
        JETSTREAM_ENTRY_BYTES_MAX, NATS_READ_TIMEOUT, RECORD_ATTEMPTS_MAX,
        RECORD_HEADERS_BYTES_MAX, RECORD_PAUSE, RECORD_PAUSE_MAX, RECORD_READS_MAX,
        RECORD_REFUSALS_MAX, RECORDS_BATCH_BYTES_MAX, RECORDS_BATCHES_MAX, RECORDS_PER_BATCH_MAX,
    },
    log::place::{ChannelId, Cursor},
};

#[cfg(test)]
pub(super) mod tests;

/// The records of a cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Records {
    api: Api,
    subjects: Subjects,
    mirror: Mirror,
    /// One for each batch of messages on its way.
    batches: Arc<Semaphore>,
}

/// What a subject of records holds.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Current {
    /// The sequence of its message; 0: there never was one.
    pub(super) sequence: u64,
    /// What the record says. None: there is no such record.
    pub(super) value: Option<Bytes>,
    /// From which entries of logs it follows.
    pub(super) settled: Settled,
}

impl Current {
    /// What a message says. None: it is none of a record.
    pub(super) fn of(stored: &Stored) -> Option<Self> {
        let settled = match stored.header(subject::SETTLED) {
            None => Settled::default(),
            Some(header) => header.parse().ok()?,
        };
        let is_removed = stored.header(subject::REMOVED).is_some();
        // A copy, so that a small record does not keep the whole buffer that it was read into.
        let value = (!is_removed).then(|| Bytes::copy_from_slice(&stored.payload));
        Some(Self { sequence: stored.sequence, value, settled })
    }

    pub(super) fn versioned(&self) -> Option<Versioned> {
        let value = self.value.clone()?;
        Some(Versioned { value, revision: Revision(self.sequence) })
    }

    fn is(&self, expect: Expect) -> bool {
        match expect {
            Expect::Absent => self.value.is_none(),
            Expect::Revision(revision) => self.value.is_some() && self.sequence == revision.0,
        }
    }
}

/// Which record: the name of its table, and its key.
type Name = (&'static str, String);

/// What becomes of one; no value: it is removed.
type Change = (Name, Option<Bytes>);

/// What becomes of records, each at most once.
type Changes = BTreeMap<Name, Option<Bytes>>;

impl Records {
    /// Those that are in the stream. Their mirror is empty until it [follows](Mirror::follow) it.
    pub(super) fn new(api: Api, subjects: Subjects) -> Self {
        let batches = Arc::new(Semaphore::new(RECORDS_BATCHES_MAX));
        Self { api, subjects, mirror: Mirror::new(), batches }
    }

    pub(super) const fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// Reads one record, as the stream's leader has it.
    pub(super) async fn get(
        &self,
        table: Table,
        key: &str,
    ) -> Result<Option<Versioned>, RecordError> {
        self.get_named(table.name(), key).await
    }

    pub(super) async fn get_named(
        &self,
        table: &'static str,
        key: &str,
    ) -> Result<Option<Versioned>, RecordError> {
        Ok(self.read(table, key).await?.versioned())
    }

    /// Lists records, of all that were written before.
    pub(super) async fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
    ) -> Result<Vec<(String, Versioned)>, RecordError> {
        self.catch_up().await?;
        Ok(self.mirror.scan(table.name(), prefix, after, count_max))
    }

    /// Waits until the mirror has all that was written before the call.
    pub(super) async fn catch_up(&self) -> Result<(), RecordError> {
        let known = self.mirror.position();
        let info = self.api.stream(&self.subjects.records_stream()).await;
        match info.ok().flatten().map(|info| info.state.last_seq) {
            Some(last) if last >= known => self.mirror.reach(last).await,
            Some(last) => {
                tracing::error!(last, known, "the stream of records has lost some");
                Err(RecordError::StorageUnavailable)
            }
            None => Err(RecordError::StorageUnavailable),
        }
    }

    /// Writes one record if it is as expected, or removes it if there is no value, together with what is
    /// derived from it. Of the latter, what is too much for one step goes before: if the writer dies, it
    /// is there without the record.
    pub(super) async fn put(
        &self,
        table: Table,
        key: &str,
        value: Option<Bytes>,
        expect: Expect,
        derived: Vec<Derived>,
    ) -> Result<Revision, RecordError> {
        self.put_named(table.name(), key, value, expect, derived).await
    }

    pub(super) async fn put_named(
        &self,
        table: &'static str,
        key: &str,
        value: Option<Bytes>,
        expect: Expect,
        derived: Vec<Derived>,
    ) -> Result<Revision, RecordError> {
        let largest = self.api.client().max_payload().saturating_sub(RECORD_HEADERS_BYTES_MAX);
        let values = derived.iter().map(|derived| derived.value.as_ref()).chain([value.as_ref()]);
        let is_too_large = values.flatten().any(|value| value.len() > largest);
        if is_too_large || put_bytes(key, value.as_ref(), &derived) > JETSTREAM_ENTRY_BYTES_MAX {
            return Err(RecordError::TooLarge);
        }
        let mut changes = last_of_each(&derived);
        let own = (table, key.to_owned());
        let value = changes.remove(&own).unwrap_or(value);
        let mut before = steps_of(changes);
        let mut with_it = match before.pop() {
            Some(step) if step.len() == RECORDS_PER_BATCH_MAX => {
                before.push(step);
                Vec::new()
            }
            step => step.unwrap_or_default(),
        };
        with_it.push((own, value));
        if !before.is_empty() && !self.read(table, key).await?.is(expect) {
            return Err(RecordError::Conflict);
        }
        for step in before {
            self.write(&step, None, None).await?;
        }
        self.write(&with_it, Some(expect), None).await
    }

    /// Writes what follows from an entry of a log, whatever was there before, but for what has followed
    /// from it already.
    pub(super) async fn settle(
        &self,
        channel: ChannelId,
        entry_at: Cursor,
        derived: &[Derived],
    ) -> Result<(), RecordError> {
        for step in steps_of(last_of_each(derived)) {
            self.write(&step, None, Some((channel, entry_at))).await?;
        }
        Ok(())
    }

    /// Writes records all or none, and answers the revision of the last one. `expect` is what that one
    /// must be. `entry` is what they follow from; a record that follows from it already is left as it is.
    async fn write(
        &self,
        changes: &[Change],
        expect: Option<Expect>,
        entry: Option<(ChannelId, Cursor)>,
    ) -> Result<Revision, RecordError> {
        let (mut pause, mut refusals) = (RECORD_PAUSE, 0);
        for attempt in 0..RECORD_ATTEMPTS_MAX {
            let is_fresh = attempt > 0;
            let found = self.currents(changes, is_fresh).await?;
            if let Some((expect, own)) = expect.zip(found.last())
                && !own.is(expect)
            {
                if is_fresh {
                    return Err(RecordError::Conflict);
                }
                continue;
            }
            let messages: Vec<_> = changes
                .iter()
                .zip(&found)
                .filter_map(|(change, current)| match entry {
                    None => Some(self.message(change, current, &current.settled)),
                    Some((of, at)) if current.settled.holds(of, at) => None,
                    Some((of, at)) => {
                        Some(self.message(change, current, &current.settled.with(of, at)))
                    }
                })
                .collect();
            if messages.is_empty() {
                return Ok(Revision(found.last().map_or(0, |current| current.sequence)));
            }
            match self.store(messages).await {
                Ok(last) => return Ok(Revision(last)),
                // Another one wrote one of them first; which one is found when they are read.
                Err(PublishError::Moved) => {}
                // Who expects nothing may write again: what was written is not written twice.
                Err(PublishError::Unknown) if expect.is_none() => {}
                Err(PublishError::Unknown) => return Err(RecordError::StorageUnavailable),
                Err(PublishError::TooLarge) => return Err(RecordError::TooLarge),
                // Nothing of it is stored. Also if the servers lost a part of it on its way.
                Err(PublishError::Refused { code, description }) => {
                    tracing::warn!(code, description, "records were refused");
                    refusals += 1;
                    if refusals == RECORD_REFUSALS_MAX {
                        return Err(RecordError::StorageUnavailable);
                    }
                }
            }
            if attempt > 0 {
                sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                pause = (2 * pause).min(RECORD_PAUSE_MAX);
            }
        }
        Err(RecordError::Busy)
    }

    async fn store(&self, mut messages: Vec<Publish>) -> Result<u64, PublishError> {
        if messages.len() == 1 {
            return self.api.publish(messages.swap_remove(0)).await;
        }
        let permit = timeout(NATS_READ_TIMEOUT, self.batches.acquire()).await;
        let _permit = permit.map_err(|_| PublishError::Unknown)?.expect("it is never closed");
        self.api.publish_all(messages, None).await
    }

    /// What these records are, in their order: as the mirror has it, or the stream's leader.
    async fn currents(
        &self,
        changes: &[Change],
        is_fresh: bool,
    ) -> Result<Vec<Current>, RecordError> {
        let current = |((table, key), _): &Change| {
            let (table, key) = (*table, key.clone());
            async move {
                if is_fresh {
                    self.read(table, &key).await
                } else {
                    Ok(self.mirror.current(table, &key).unwrap_or_default())
                }
            }
        };
        let reads: Vec<_> = changes.iter().map(current).collect();
        stream::iter(reads).buffered(RECORD_READS_MAX).try_collect().await
    }

    async fn read(&self, table: &'static str, key: &str) -> Result<Current, RecordError> {
        let subject = self.subjects.record(table, key);
        match self.api.last(&self.subjects.records_stream(), &subject).await {
            Ok(None) => Ok(Current::default()),
            Ok(Some(stored)) => Current::of(&stored).ok_or_else(|| {
                tracing::error!(subject, "a record is damaged");
                RecordError::StorageUnavailable
            }),
            Err(ApiError::Unavailable) => Err(RecordError::StorageUnavailable),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a record was not read");
                Err(RecordError::StorageUnavailable)
            }
        }
    }

    fn message(
        &self,
        ((table, key), value): &Change,
        before: &Current,
        settled: &Settled,
    ) -> Publish {
        let mut headers = Vec::new();
        if value.is_none() {
            headers.push((subject::REMOVED, "1".to_owned()));
        }
        if !settled.is_empty() {
            headers.push((subject::SETTLED, settled.to_string()));
        }
        Publish {
            subject: self.subjects.record(table, key),
            headers,
            payload: value.clone().unwrap_or_default(),
            expect: Some(before.sequence),
        }
    }
}

/// What the derived records come to.
fn last_of_each(derived: &[Derived]) -> Changes {
    let change = |it: &Derived| ((it.table.name(), it.key.clone()), it.value.clone());
    derived.iter().map(change).collect()
}

/// Cut into what is written at once.
fn steps_of(changes: Changes) -> Vec<Vec<Change>> {
    let mut steps: Vec<Vec<Change>> = Vec::new();
    let mut bytes = 0;
    for change in changes {
        let more = change.1.as_ref().map_or(0, Bytes::len);
        match steps.last_mut() {
            Some(step)
                if step.len() < RECORDS_PER_BATCH_MAX
                    && bytes + more <= RECORDS_BATCH_BYTES_MAX =>
            {
                step.push(change);
                bytes += more;
            }
            _ => {
                steps.push(vec![change]);
                bytes = more;
            }
        }
    }
    steps
}
