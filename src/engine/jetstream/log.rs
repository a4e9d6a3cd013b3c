//! The logs of the channels: stub.
use super::{
    api::Api,
    feed::{Feeds, News, Source},
    settling::Settling,
    subject::Subjects,
};
use crate::{
    engine::*,
    log::{
        batch::Entry,
        place::{ChannelId, ClientMessageId, Cursor, Sequence, UserId},
    },
};
use std::sync::Arc;
use tokio::sync::mpsc;

#[derive(Debug)]
pub(super) struct Log;

impl Log {
    pub(super) fn new(
        _api: Api,
        _subjects: Subjects,
        _shelves: usize,
        _feeds: &Feeds,
        _settling: Arc<Settling>,
    ) -> Self {
        Self
    }
    pub(super) fn source(subjects: &Subjects, shelf: usize) -> Source {
        Source {
            stream: subjects.log_stream(shelf),
            subjects: subjects.logs(shelf),
            live: subjects.live_logs(shelf),
        }
    }
    pub(super) async fn tell(self: Arc<Self>, mut news: mpsc::Receiver<News>) {
        while news.recv().await.is_some() {}
    }
    pub(super) fn close(&self) {}
    pub(super) async fn append(&self, _append: Append) -> Result<Cursor, AppendError> {
        Err(AppendError::Unknown)
    }
    pub(super) async fn append_chain(&self, _chain: Chain) -> Result<Vec<Cursor>, AppendError> {
        Err(AppendError::Unknown)
    }
    pub(super) async fn mark(&self) -> Result<Mark, ReadError> {
        Err(ReadError::Busy)
    }
    pub(super) async fn read(
        &self,
        _channel: ChannelId,
        _from: ReadFrom,
        _max: ReadMax,
    ) -> Result<Vec<Entry>, ReadError> {
        Err(ReadError::Busy)
    }
    pub(super) async fn heads(&self, _channels: Vec<ChannelId>) -> Result<Vec<LogEnd>, ReadError> {
        Err(ReadError::Busy)
    }
    pub(super) async fn find_keys(
        &self,
        _channel: ChannelId,
        _keys: &[(UserId, ClientMessageId)],
    ) -> Result<Vec<MessageKey>, ReadError> {
        Err(ReadError::Busy)
    }
    pub(super) async fn keys(
        &self,
        _channel: ChannelId,
        _first: Sequence,
        _last: Sequence,
    ) -> Result<Vec<MessageKey>, ReadError> {
        Err(ReadError::Busy)
    }
    pub(super) async fn trim(
        &self,
        _channel: ChannelId,
        _sequence: Sequence,
    ) -> Result<(), RecordError> {
        Err(RecordError::Busy)
    }
    pub(super) fn follow(&self) -> mpsc::Receiver<Feed> {
        mpsc::channel(1).1
    }
}
