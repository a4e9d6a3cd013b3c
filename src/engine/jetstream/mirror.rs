//! All records in the memory of one node, by table and key, so that they can be listed in order: a
//! stream can be read by subject, or by sequence, but not so. Fed by what the stream tells, so it may be
//! behind; who lists waits until it knows of all that was written before (see [`Mirror::reach`]).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use super::{
    api::{Api, ApiError, Stored},
    feed::{News, Source},
    records::Current,
    subject::Subjects,
};
use crate::{
    engine::{RecordError, Versioned},
    limits::{MIRROR_PAGE_BYTES, MIRROR_PAGE_RECORDS, MIRROR_TIMEOUT, NATS_RETRY_PAUSE},
};

/// What one node knows of the records. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Mirror {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// By table, a point, and key; also those that were removed.
    records: Mutex<BTreeMap<String, Current>>,
    /// Everything up to this sequence of the stream is in.
    position: watch::Sender<u64>,
}

impl Mirror {
    pub(super) fn new() -> Self {
        let (records, position) = (Mutex::default(), watch::Sender::new(0));
        Self { shared: Arc::new(Shared { records, position }) }
    }

    /// What it follows.
    pub(super) fn source(subjects: &Subjects) -> Source {
        Source {
            stream: subjects.records_stream(),
            subjects: subjects.records(),
            live: subjects.live_records(),
        }
    }

    /// Takes in what the stream commits, for as long as there is news.
    pub(super) async fn follow(self, api: Api, subjects: Subjects, mut news: mpsc::Receiver<News>) {
        while let Some(news) = news.recv().await {
            match news {
                News::Stored(stored) => {
                    self.take_in(&subjects, &stored);
                    self.advance(stored.sequence);
                }
                News::Reset { position } => {
                    while let Err(error) = self.read_on(&api, &subjects, position).await {
                        tracing::warn!(%error, "the records are not read yet");
                        sleep(NATS_RETRY_PAUSE).await;
                    }
                }
            }
        }
    }

    /// Reads what was written behind the own position up to this one. Of each record the last is there.
    async fn read_on(&self, api: &Api, subjects: &Subjects, to: u64) -> Result<(), ApiError> {
        let (stream, all) = (subjects.records_stream(), subjects.records());
        while self.position() < to {
            let from = self.position() + 1;
            let (mut page, _) =
                api.page(&stream, from, &all, MIRROR_PAGE_RECORDS, MIRROR_PAGE_BYTES).await?;
            if page.is_empty() {
                // The replica may be behind; the leader knows.
                page.extend(api.next(&stream, from, &all).await?);
            }
            for stored in &page {
                self.take_in(subjects, stored);
            }
            self.advance(page.last().map_or(to, |last| last.sequence));
        }
        Ok(())
    }

    fn take_in(&self, subjects: &Subjects, stored: &Stored) {
        let record = subjects.record_of(&stored.subject);
        match record.and_then(|(table, key)| Some((table, key, Current::of(stored)?))) {
            Some((table, key, current)) => self.apply(table, &key, current),
            None => tracing::error!(subject = stored.subject, "not a record, or a damaged one"),
        }
    }

    /// Everything up to this sequence is in.
    pub(super) fn position(&self) -> u64 {
        *self.shared.position.borrow()
    }

    /// A record was written, in the table of this name. It may be known already, or a later one.
    fn apply(&self, table: &str, key: &str, current: Current) {
        let mut records = self.records();
        let known = records.entry(format!("{table}.{key}")).or_default();
        if current.sequence > known.sequence {
            *known = current;
        }
    }

    /// All that was written up to this sequence was applied.
    fn advance(&self, position: u64) {
        self.shared.position.send_if_modified(|known| {
            let is_new = position > *known;
            *known = position.max(*known);
            is_new
        });
    }

    /// What is known of a record, if anything is.
    pub(super) fn current(&self, table: &str, key: &str) -> Option<Current> {
        self.records().get(&format!("{table}.{key}")).cloned()
    }

    /// Told whenever more is in.
    pub(super) fn positions(&self) -> watch::Receiver<u64> {
        self.shared.position.subscribe()
    }

    /// Waits until all up to this sequence is in.
    pub(super) async fn reach(&self, position: u64) -> Result<(), RecordError> {
        let mut known = self.shared.position.subscribe();
        let reached = timeout(MIRROR_TIMEOUT, known.wait_for(|known| *known >= position)).await;
        reached.map_err(|_| RecordError::StorageUnavailable)?.expect("this is its sender");
        Ok(())
    }

    /// Lists records, as [`Engine::scan`](crate::engine::Engine::scan) does, as far as they are known.
    pub(super) fn scan(
        &self,
        table: &str,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
    ) -> Vec<(String, Versioned)> {
        let whole = format!("{table}.{prefix}");
        let begin = format!("{table}.{}", after.map_or(prefix, |after| after.max(prefix)));
        let key_from = table.len() + 1;
        self.records()
            .range(begin..)
            .take_while(|(name, _)| name.starts_with(&whole))
            .filter(|(name, _)| after.is_none_or(|after| &name[key_from..] > after))
            .filter_map(|(name, current)| Some((name[key_from..].to_owned(), current.versioned()?)))
            .take(count_max)
            .collect()
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<String, Current>> {
        self.shared.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
