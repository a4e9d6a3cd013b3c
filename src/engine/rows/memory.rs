//! The rows in memory, for tests: shared by several stores, with everything that can go wrong.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{CommitError, Page, Row, Rows, RowsError};

/// One node's way to rows that other nodes share.
#[derive(Clone, Debug, Default)]
pub struct MemoryRows {
    shared: Arc<Mutex<Shared>>,
    faults: Arc<Mutex<VecDeque<Fault>>>,
}

/// What happens to a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing unusual.
    None,
    /// It is told that it came too late, though it did not.
    Moved,
    /// It is committed, and nobody says so.
    Unknown,
    /// It is lost, and nobody says so.
    Lost,
    /// It stays on its way: it is tried after the next read, or before the next commit.
    Late,
    /// It is refused.
    Unavailable,
}

#[derive(Debug)]
struct Shared {
    history: String,
    end: u64,
    /// By table and key: the last version, and its number.
    rows: BTreeMap<(String, String), (u64, Row)>,
    late: Option<(Vec<Row>, u64)>,
    down: bool,
    page: usize,
}

impl Default for Shared {
    fn default() -> Self {
        let history = "1".to_owned();
        Self { history, end: 0, rows: BTreeMap::new(), late: None, down: false, page: 7 }
    }
}

impl MemoryRows {
    /// Another node's way to the same rows, with faults of its own.
    #[must_use]
    pub fn another_node(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), faults: Arc::default() }
    }

    /// What happens to the next commits of this node, in turn.
    pub fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.faults).extend(faults);
    }

    /// Whether nobody answers.
    pub fn set_down(&self, down: bool) {
        lock(&self.shared).down = down;
    }

    /// Begins another history: what was committed is lost.
    pub fn lose_all(&self) {
        let history = format!("{}1", lock(&self.shared).history);
        *lock(&self.shared) = Shared { history, ..Shared::default() };
    }

    /// Forgets the news of rows that are gone.
    pub fn forget_removed(&self) {
        lock(&self.shared).rows.retain(|_, (_, row)| !row.is_passing);
    }

    /// All that is kept, by table and key.
    #[must_use]
    pub fn all(&self) -> Vec<Row> {
        lock(&self.shared).rows.values().map(|(_, row)| row.clone()).collect()
    }

    /// Where it ends.
    #[must_use]
    pub fn end(&self) -> u64 {
        lock(&self.shared).end
    }
}

impl Shared {
    fn write(&mut self, rows: Vec<Row>, after: u64) -> Result<u64, CommitError> {
        if self.end != after {
            return Err(CommitError::Moved);
        }
        for row in rows {
            self.end += 1;
            self.rows.insert((row.table.clone(), row.key.clone()), (self.end, row));
        }
        Ok(self.end)
    }

    fn arrive(&mut self) {
        if let Some((rows, after)) = self.late.take() {
            // It came too late, or it is in: whoever waits for it has gone.
            let _ = self.write(rows, after);
        }
    }
}

impl Rows for MemoryRows {
    fn read_after(&self, position: u64, _: Instant) -> Result<Page, RowsError> {
        let mut shared = lock(&self.shared);
        if shared.down {
            return Err(RowsError::Unavailable);
        }
        let mut found: Vec<_> =
            shared.rows.values().filter(|(number, _)| *number > position).cloned().collect();
        found.sort_by_key(|(number, _)| *number);
        let is_end = found.len() <= shared.page;
        found.truncate(shared.page);
        let last = found.last().map_or(shared.end, |(number, _)| *number);
        let page = Page {
            history: shared.history.clone(),
            rows: found.into_iter().map(|(_, row)| row).collect(),
            position: if is_end { shared.end } else { last },
            is_end,
            end: shared.end,
        };
        shared.arrive();
        Ok(page)
    }

    fn commit(&self, rows: Vec<Row>, after: u64, _: Instant) -> Result<u64, CommitError> {
        let fault = lock(&self.faults).pop_front().unwrap_or(Fault::None);
        let mut shared = lock(&self.shared);
        shared.arrive();
        if shared.down || fault == Fault::Unavailable {
            return Err(RowsError::Unavailable.into());
        }
        match fault {
            Fault::None | Fault::Unavailable => shared.write(rows, after),
            Fault::Moved => Err(CommitError::Moved),
            Fault::Unknown => {
                shared.write(rows, after)?;
                Err(CommitError::Unknown)
            }
            Fault::Lost => Err(CommitError::Unknown),
            Fault::Late => {
                shared.late = Some((rows, after));
                Err(CommitError::Unknown)
            }
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
