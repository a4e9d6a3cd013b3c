//! The way through one channel's log, page by page, as its readers see it: without junk.

use std::sync::Arc;

use super::{MigrateError, Side, patiently};
use crate::{
    engine::{Engine, MessageKey, ReadFrom, ReadMax},
    limits::MIGRATE_READ_BYTES_MAX,
    log::{
        batch::{Batch, Entry},
        place::{ChannelId, Cursor, Head},
    },
};

/// How far one channel has been read.
#[derive(Debug)]
pub(super) struct Walk<'e, E> {
    engine: &'e E,
    side: Side,
    channel: ChannelId,
    /// The last batch of the chain so far. `None`: whatever comes first begins it, since what was before
    /// it may be trimmed.
    head: Option<Head>,
    /// The last entry that was read, junk or not.
    at: Cursor,
}

/// Batches that follow each other, and the keys of their messages by their sequences.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// None: the log has no more.
    pub(super) batches: Vec<Arc<Batch>>,
    pub(super) keys: Vec<MessageKey>,
}

impl<'e, E: Engine> Walk<'e, E> {
    /// From the first entry on.
    pub(super) const fn new(engine: &'e E, side: Side, channel: ChannelId) -> Self {
        Self { engine, side, channel, head: None, at: Cursor(0) }
    }

    /// From behind this batch on, which is looked for in the log. `None`: it is not there.
    pub(super) async fn behind(
        engine: &'e E,
        side: Side,
        channel: ChannelId,
        batch: &Batch,
    ) -> Result<Option<Self>, MigrateError> {
        let walk = Self::new(engine, side, channel);
        let entries = walk.read(ReadFrom::Holding(batch.first_sequence)).await?;
        let found = entries.into_iter().find(|entry| entry.batch == *batch);
        Ok(found.map(|entry| Self { head: Some(batch.head(entry.at)), at: entry.at, ..walk }))
    }

    pub(super) async fn next_page(&mut self) -> Result<Page, MigrateError> {
        let mut page = Page::default();
        while page.batches.is_empty() {
            let entries = self.read(ReadFrom::After(self.at)).await?;
            if entries.is_empty() {
                return Ok(page);
            }
            for entry in entries {
                if let Some(batch) = self.follow(entry)? {
                    page.batches.push(batch);
                }
            }
        }
        if let Some((first, last)) = page.batches.first().zip(page.batches.last()) {
            let (first, last) = (first.first_sequence, last.last_sequence());
            let keys = patiently(|| self.engine.keys(self.channel, first, last)).await;
            page.keys = keys.map_err(|error| self.unreadable(error))?;
        }
        Ok(page)
    }

    /// Takes the next entry, if it is none that readers skip.
    fn follow(&mut self, entry: Entry) -> Result<Option<Arc<Batch>>, MigrateError> {
        self.at = entry.at;
        let follows = self.head.is_none_or(|head| entry.batch.extends(&head));
        if !follows && !self.engine.caps().junk_possible {
            let sequence = entry.batch.first_sequence;
            return Err(MigrateError::Broken { channel: self.channel, sequence });
        }
        if !follows {
            return Ok(None);
        }
        self.head = Some(entry.batch.head(entry.at));
        Ok(Some(Arc::new(entry.batch)))
    }

    async fn read(&self, from: ReadFrom) -> Result<Vec<Entry>, MigrateError> {
        let max = ReadMax::from(MIGRATE_READ_BYTES_MAX);
        let read = patiently(|| self.engine.read(self.channel, from, max)).await;
        read.map_err(|error| self.unreadable(error))
    }

    fn unreadable(&self, error: crate::engine::ReadError) -> MigrateError {
        match self.side {
            Side::Source => MigrateError::ReadSource(self.channel, error),
            Side::Target => MigrateError::ReadTarget(self.channel, error),
        }
    }
}
