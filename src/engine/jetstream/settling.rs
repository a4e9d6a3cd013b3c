//! What log entries say of records and is not known to be written yet.

use crate::{
    engine::{Derived, RecordError},
    log::place::{ChannelId, Cursor},
};

/// The entries whose records may not follow from them yet.
#[derive(Debug, Default)]
pub(super) struct Settling {}

impl Settling {
    /// An entry was seen, in the log or in the feed. Cheap, also if it derives nothing or is settled.
    pub(super) fn seen(&self, _channel: ChannelId, _entry_at: Cursor, _derived: &[Derived]) {}

    /// Before an append that derives something: a node that starts will look at this channel.
    pub(super) async fn announce(&self, _channel: ChannelId) -> Result<(), RecordError> {
        Ok(())
    }

    /// Settles what was seen of this channel, if there is anything.
    pub(super) async fn settle(&self, _channel: ChannelId) -> Result<(), RecordError> {
        Ok(())
    }

    /// Settles what was seen of all channels.
    pub(super) async fn settle_all(&self) -> Result<(), RecordError> {
        Ok(())
    }
}
