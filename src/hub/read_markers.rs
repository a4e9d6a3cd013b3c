//! Read markers: how far each member of a channel has read, and so what is unread.
//!
//! A marker is a record beside the membership. It is written with the entry of the log that begins a
//! membership, and removed with the one that ends it; in between only the member moves it, by
//! compare-and-set, and never back. So it does not wait for the channel's shard, and loads nothing there.

use std::collections::HashMap;

use super::{
    ConnectionKey,
    calls::Wanted,
    channel::read_code,
    desk::{Desk, Refused},
    directory::{
        DirectoryError,
        records::{self, ChannelRecord, MemberRecord, ReadRecord, membership_key, of_user},
    },
};
use crate::{
    engine::{Engine, Expect, LogEnd, RecordError, Table, Versioned},
    limits::READ_MARKER_ATTEMPTS_MAX,
    log::{
        place::{ChannelId, Position, Sequence, UserId},
        settings::Access,
    },
    wire::{
        channels::ReadState,
        code::ErrorCode,
        decode::ChannelRef,
        encode::{Refusal, Reply},
    },
};

impl<E: Engine> Desk<E> {
    /// Moves a user's marker forward, and answers where it is then. The user's other connections are told
    /// before that, as far as there is room for it.
    pub(super) async fn mark_read(
        &self,
        user: UserId,
        by: Option<ConnectionKey>,
        channel: &ChannelRef,
        to: Position,
    ) -> Result<Reply, Refused> {
        let channel = self.directory().channel_for(user, channel).await?;
        let stranger = match channel.access {
            // The membership has ended since.
            Access::Private => ErrorCode::UnknownChannel,
            Access::Open | Access::Public => ErrorCode::NotAMember,
        };
        let member = self.directory().member(channel.id, user).await?.ok_or(stranger)?;
        let ends = self.engine().heads(vec![channel.id]).await;
        let ends = ends.map_err(|error| read_code(&error))?;
        let end = ends.first().copied().unwrap_or(LogEnd::Empty);
        let beginning = Position { epoch: channel.epoch, sequence: Sequence::ZERO };
        let head = head(beginning, end).ok_or(ErrorCode::ChannelSealed)?;
        let elsewhere =
            |code| Ok(Reply::Refused(Refusal { code, retry_after_ms: 0, head: Some(head) }));
        if to.epoch != head.epoch {
            return elsewhere(ErrorCode::EpochChanged);
        }
        if to.sequence > head.sequence {
            return elsewhere(ErrorCode::PositionAhead);
        }
        let (table, key) = (Table::ReadMarkers, membership_key(user, channel.id));
        for _ in 0..READ_MARKER_ATTEMPTS_MAX {
            let found = self.engine().get(table, &key).await?;
            let marker = found.as_ref().map(records::parse).transpose()?;
            let read = ReadRecord::sequence_in(marker, head.epoch, member.since);
            if to.sequence <= read {
                let read = Position { sequence: read, ..head };
                return Ok(Reply::ReadMarker(channel.id, read));
            }
            let expect = found.map_or(Expect::Absent, |found| Expect::Revision(found.revision));
            let value = records::format(&ReadRecord::from(to));
            let revision = match self.engine().put(table, &key, value, expect).await {
                Ok(revision) => revision,
                // Another connection of the user has moved it, or the membership has ended.
                Err(RecordError::Conflict) => continue,
                Err(error) => return Err(error.into()),
            };
            if self.directory().member(channel.id, user).await?.is_some() {
                let id = channel.id;
                // Whatever becomes of that, it is marked.
                let _ = self.call(channel, Wanted::MarkedRead { user, read: to, by }).await;
                return Ok(Reply::ReadMarker(id, to));
            }
            // The membership ended just before, and its end has not seen this marker. If it is left
            // behind by a crash here, it does no harm: a new membership writes over it.
            return match self.engine().remove(table, &key, revision).await {
                Ok(()) | Err(RecordError::Conflict) => Err(stranger.into()),
                Err(error) => Err(error.into()),
            };
        }
        Err(ErrorCode::Busy.into())
    }

    /// The markers of a page of memberships, which begins after the key `after`.
    pub(super) async fn read_markers(
        &self,
        user: UserId,
        mut after: Option<String>,
        page: &[(String, Versioned)],
    ) -> Result<HashMap<ChannelId, ReadRecord>, Refused> {
        let mut markers = HashMap::with_capacity(page.len());
        let Some((end, _)) = page.last() else { return Ok(markers) };
        // They have the keys of their memberships, so one scan brings them all, unless a crash has left
        // some behind.
        loop {
            let (table, prefix) = (Table::ReadMarkers, of_user(user));
            let found = self.engine().scan(table, &prefix, after.as_deref(), page.len()).await?;
            for (key, record) in &found {
                let channel = records::last_number(key).ok_or(DirectoryError::Damaged)?;
                markers.insert(ChannelId(channel), records::parse(record)?);
            }
            match found.into_iter().next_back() {
                Some((last, _)) if last < *end => after = Some(last),
                _ => return Ok(markers),
            }
        }
    }
}

/// How much of a channel is read. `None`: its log is damaged.
pub(super) fn read_state(
    record: &ChannelRecord,
    end: LogEnd,
    marker: Option<ReadRecord>,
    member: MemberRecord,
) -> Option<ReadState> {
    let head = head(record.beginning(), end)?;
    let read = ReadRecord::sequence_in(marker, head.epoch, member.since);
    Some(ReadState { head, read: read.min(head.sequence) })
}

fn head(beginning: Position, end: LogEnd) -> Option<Position> {
    match end {
        LogEnd::Empty => Some(beginning),
        LogEnd::At(head) => Some(head),
        LogEnd::Damaged(_) => None,
    }
}

#[cfg(test)]
mod tests;
