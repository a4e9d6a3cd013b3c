//! Whichever engine the configuration names, as one type: the server is compiled once for both.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use futures_util::future::Either;
use tokio::sync::mpsc;

use super::{
    Append, AppendError, Bus, Caps, Chain, Derived, Engine, Expect, Feed, LogEnd, Mark, MessageKey,
    ReadError, ReadFrom, ReadMax, RecordError, Revision, Table, Versioned,
    jetstream::JetStreamEngine, sqlite::SqliteEngine,
};
use crate::log::{
    batch::Entry,
    place::{ChannelId, ClientMessageId, Cursor, Sequence, UserId},
};

/// One node's engine, or a cluster's.
#[derive(Debug)]
pub enum AnyEngine {
    /// SQLite in the data directory.
    Sqlite(SqliteEngine),
    /// JetStream, which other nodes share.
    JetStream(JetStreamEngine),
}

/// Asks the engine that there is.
macro_rules! ask {
    ($any:expr, $engine:ident => $answer:expr) => {
        match $any {
            AnyEngine::Sqlite($engine) => Either::Left($answer),
            AnyEngine::JetStream($engine) => Either::Right($answer),
        }
    };
}

impl Engine for AnyEngine {
    fn append(
        &self,
        append: Append,
    ) -> impl Future<Output = Result<Cursor, AppendError>> + Send + 'static {
        ask!(self, engine => engine.append(append))
    }

    fn append_chain(
        &self,
        chain: Chain,
    ) -> impl Future<Output = Result<Vec<Cursor>, AppendError>> + Send + 'static {
        ask!(self, engine => engine.append_chain(chain))
    }

    fn mark(&self) -> impl Future<Output = Result<Mark, ReadError>> + Send + 'static {
        ask!(self, engine => engine.mark())
    }

    fn read(
        &self,
        channel: ChannelId,
        from: ReadFrom,
        max: impl Into<ReadMax>,
    ) -> impl Future<Output = Result<Vec<Entry>, ReadError>> + Send + 'static {
        let max = max.into();
        ask!(self, engine => engine.read(channel, from, max))
    }

    fn heads(
        &self,
        channels: Vec<ChannelId>,
    ) -> impl Future<Output = Result<Vec<LogEnd>, ReadError>> + Send + 'static {
        ask!(self, engine => engine.heads(channels))
    }

    fn find_keys(
        &self,
        channel: ChannelId,
        keys: Vec<(UserId, ClientMessageId)>,
    ) -> impl Future<Output = Result<Vec<MessageKey>, ReadError>> + Send + 'static {
        ask!(self, engine => engine.find_keys(channel, keys))
    }

    fn keys(
        &self,
        channel: ChannelId,
        first: Sequence,
        last: Sequence,
    ) -> impl Future<Output = Result<Vec<MessageKey>, ReadError>> + Send + 'static {
        ask!(self, engine => engine.keys(channel, first, last))
    }

    fn trim(
        &self,
        channel: ChannelId,
        sequence: Sequence,
    ) -> impl Future<Output = Result<(), RecordError>> + Send + 'static {
        ask!(self, engine => engine.trim(channel, sequence))
    }

    fn follow(&self) -> mpsc::Receiver<Feed> {
        match self {
            Self::Sqlite(engine) => engine.follow(),
            Self::JetStream(engine) => engine.follow(),
        }
    }

    fn get(
        &self,
        table: Table,
        key: &str,
    ) -> impl Future<Output = Result<Option<Versioned>, RecordError>> + Send + 'static {
        ask!(self, engine => engine.get(table, key))
    }

    fn put_with(
        &self,
        table: Table,
        key: &str,
        value: Bytes,
        expect: Expect,
        derived: Vec<Derived>,
    ) -> impl Future<Output = Result<Revision, RecordError>> + Send + 'static {
        ask!(self, engine => engine.put_with(table, key, value, expect, derived))
    }

    fn remove(
        &self,
        table: Table,
        key: &str,
        revision: Revision,
    ) -> impl Future<Output = Result<(), RecordError>> + Send + 'static {
        ask!(self, engine => engine.remove(table, key, revision))
    }

    fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
    ) -> impl Future<Output = Result<Vec<(String, Versioned)>, RecordError>> + Send + 'static {
        ask!(self, engine => engine.scan(table, prefix, after, count_max))
    }

    fn caps(&self) -> Caps {
        match self {
            Self::Sqlite(engine) => engine.caps(),
            Self::JetStream(engine) => engine.caps(),
        }
    }

    fn bus(&self) -> Option<Arc<dyn Bus>> {
        match self {
            Self::Sqlite(engine) => engine.bus(),
            Self::JetStream(engine) => engine.bus(),
        }
    }
}
