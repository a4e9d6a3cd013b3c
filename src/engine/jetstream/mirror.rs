//! All records in the memory of one node, by table and key, so that they can be listed in order: a
//! stream can be read by subject, or by sequence, but not so. Fed by what the stream tells, so it may be
//! behind; who lists waits until it knows of all that was written before (see [`Mirror::reach`]).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::watch, time::timeout};

use super::records::Current;
use crate::{
    engine::{RecordError, Table, Versioned},
    limits::MIRROR_TIMEOUT,
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

    /// Everything up to this sequence is in.
    pub(super) fn position(&self) -> u64 {
        *self.shared.position.borrow()
    }

    /// A record was written, in the table of this name. It may be known already, or a later one.
    pub(super) fn apply(&self, table: &str, key: &str, current: Current) {
        let mut records = self.records();
        let known = records.entry(format!("{table}.{key}")).or_default();
        if current.sequence > known.sequence {
            *known = current;
        }
    }

    /// All that was written up to this sequence was applied.
    pub(super) fn advance(&self, position: u64) {
        self.shared.position.send_if_modified(|known| {
            let is_new = position > *known;
            *known = position.max(*known);
            is_new
        });
    }

    /// What is known of a record, if anything is.
    pub(super) fn current(&self, table: Table, key: &str) -> Option<Current> {
        self.records().get(&format!("{}.{key}", table.name())).cloned()
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
