//! What the records of channels, members and users say, and under which keys. Pure.
//!
//! A key that ends in a number is written with all its digits, so that keys sort as their numbers.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::DirectoryError;
use crate::{
    engine::{Derived, Table, Versioned},
    log::{
        place::{ChannelId, Epoch, Position, Sequence, UserId},
        settings::{Posting, Quota, Role, Settings, Usage, Visibility},
    },
    wire::channels::ChannelView,
};

/// A channel as its record tells of it: under its number, and once more under its name among the
/// public ones.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChannelRecord {
    /// Its number. In records of older versions it is only in the key.
    #[serde(default)]
    pub id: u32,
    /// Its name.
    pub name: String,
    /// When its numbering began, for as long as its log is empty.
    pub epoch: u32,
    /// When it was made, in milliseconds since 1970; 0: not known.
    #[serde(default)]
    pub created_at_ms: u64,
    /// Who made it; 0: nobody, but the configuration or an older version.
    #[serde(default)]
    pub created_by: u32,
    /// See [`Settings`].
    #[serde(default)]
    pub topic: String,
    /// See [`Settings`].
    #[serde(default)]
    pub visibility: Visibility,
    /// See [`Settings`].
    #[serde(default)]
    pub posting: Posting,
    /// See [`Settings`].
    #[serde(default)]
    pub archived: bool,
    /// See [`Settings`].
    #[serde(default)]
    pub quota: Quota,
    /// What it has accepted, if it has a quota.
    #[serde(default)]
    pub usage: Usage,
    /// How many members it has.
    #[serde(default)]
    pub member_count: u32,
}

impl ChannelRecord {
    /// A channel without members.
    #[must_use]
    pub fn new(id: ChannelId, settings: &Settings, epoch: Epoch, by: UserId) -> Self {
        let Settings { name, topic, visibility, posting, archived, quota } = settings;
        Self {
            id: id.0,
            name: name.to_string(),
            epoch: epoch.0,
            created_at_ms: 0,
            created_by: by.0,
            topic: topic.clone(),
            visibility: *visibility,
            posting: *posting,
            archived: *archived,
            quota: *quota,
            usage: Usage::default(),
            member_count: 0,
        }
    }

    /// What it is.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            name: self.name.as_str().into(),
            topic: self.topic.clone(),
            visibility: self.visibility,
            posting: self.posting,
            archived: self.archived,
            quota: self.quota,
        }
    }

    /// Takes these settings.
    pub fn set(&mut self, settings: &Settings) {
        let Settings { name, topic, visibility, posting, archived, quota } = settings;
        self.name = name.to_string();
        self.topic.clone_from(topic);
        self.visibility = *visibility;
        self.posting = *posting;
        self.archived = *archived;
        self.quota = *quota;
    }

    /// The channel as a user with this role sees it.
    #[must_use]
    pub fn view(&self, role: Option<Role>) -> ChannelView {
        ChannelView {
            id: ChannelId(self.id),
            settings: self.settings(),
            member_count: self.member_count,
            role,
            created_at_ms: self.created_at_ms,
            used: (!self.quota.is_none()).then_some(self.usage),
            read: None,
        }
    }

    /// Where its numbering began.
    #[must_use]
    pub const fn beginning(&self) -> Position {
        Position { epoch: Epoch(self.epoch), sequence: Sequence::ZERO }
    }

    /// The channel as commands carry it.
    #[must_use]
    pub fn info(&self) -> super::ChannelInfo {
        super::ChannelInfo {
            id: ChannelId(self.id),
            name: Arc::from(self.name.as_str()),
            epoch: Epoch(self.epoch),
            access: self.settings().access(),
        }
    }

    /// Reads the record of this channel.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn parse(id: ChannelId, record: &Versioned) -> Result<Self, DirectoryError> {
        Ok(Self { id: id.0, ..parse(record)? })
    }

    /// The records under which a channel is found: by number, and by name if it is public.
    pub fn derived(&self) -> impl Iterator<Item = Derived> {
        let value = format(self);
        let is_public = self.visibility == Visibility::Public;
        let by_id = Derived {
            table: Table::Channels,
            key: channel_key(ChannelId(self.id)),
            value: Some(value.clone()),
        };
        let by_name = Derived {
            table: Table::PublicChannels,
            key: self.name.clone(),
            value: is_public.then_some(value),
        };
        [by_id, by_name].into_iter()
    }
}

/// Whose a channel's name is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NameRecord {
    /// The channel; 0: nobody's any more.
    pub id: u32,
    /// When it was claimed, in seconds since 1970, for a channel that was about to have it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub claimed_at_s: u64,
    /// The epoch of the last channel that had it, if it is nobody's: the next one's is a later one.
    #[serde(default, skip_serializing_if = "is_zero_32")]
    pub last_epoch: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero_32(number: &u32) -> bool {
    *number == 0
}

impl NameRecord {
    /// The name of this channel.
    #[must_use]
    pub const fn of(id: ChannelId) -> Self {
        Self { id: id.0, claimed_at_s: 0, last_epoch: 0 }
    }

    /// Nobody's name any more.
    #[must_use]
    pub fn free(name: &str, last_epoch: Epoch) -> Derived {
        let record = Self { id: 0, claimed_at_s: 0, last_epoch: last_epoch.0 };
        Derived { table: Table::Channels, key: name_key(name), value: Some(format(&record)) }
    }
}

/// What a member is: under the channel and the user, and once more under the user and the channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberRecord {
    /// The role.
    pub role: Role,
    /// The place in the log since which it is so; 0: since the channel was made.
    #[serde(default)]
    pub since: u64,
}

/// How far a member has read. It is there from the first moment of a membership to the last, but for
/// memberships of before there were any.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReadRecord {
    /// The life of the numbering.
    pub epoch: u32,
    /// The last message that was read.
    pub sequence: u64,
}

impl From<Position> for ReadRecord {
    fn from(position: Position) -> Self {
        Self { epoch: position.epoch.0, sequence: position.sequence.0 }
    }
}

impl ReadRecord {
    /// What was read of the life of a channel that is in this epoch, by a member who is what it is since
    /// `since`.
    #[must_use]
    pub fn sequence_in(marker: Option<Self>, epoch: Epoch, since: u64) -> Sequence {
        let marker = marker.filter(|marker| marker.epoch == epoch.0);
        Sequence(marker.map_or(since, |marker| marker.sequence))
    }
}

/// The record of how far a member has read. `None`: it is no member any more.
#[must_use]
pub fn read_marker(channel: ChannelId, user: UserId, read: Option<Position>) -> Derived {
    Derived {
        table: Table::ReadMarkers,
        key: membership_key(user, channel),
        value: read.map(|read| format(&ReadRecord::from(read))),
    }
}

/// The records of somebody who becomes a member with the entry at this place: all before it counts as
/// read.
pub fn new_membership(
    channel: ChannelId,
    user: UserId,
    role: Role,
    at: Position,
) -> impl Iterator<Item = Derived> {
    let marker = read_marker(channel, user, Some(at));
    membership(channel, user, Some(role), at.sequence).into_iter().chain([marker])
}

/// The records of a membership.
pub fn membership(
    channel: ChannelId,
    user: UserId,
    role: Option<Role>,
    since: Sequence,
) -> [Derived; 2] {
    let value = role.map(|role| format(&MemberRecord { role, since: since.0 }));
    let by_channel =
        Derived { table: Table::Members, key: member_key(channel, user), value: value.clone() };
    let by_user = Derived { table: Table::Memberships, key: membership_key(user, channel), value };
    [by_channel, by_user]
}

/// The key of a channel by its name.
#[must_use]
pub fn name_key(name: &str) -> String {
    format!("name:{name}")
}

/// The key of a channel by its number.
#[must_use]
pub fn channel_key(channel: ChannelId) -> String {
    format!("id:{}", channel.0)
}

/// What the keys of a channel's members, and of other things of its, begin with.
#[must_use]
pub fn of_channel(channel: ChannelId) -> String {
    format!("{:010}:", channel.0)
}

/// The key of a member.
#[must_use]
pub fn member_key(channel: ChannelId, user: UserId) -> String {
    format!("{:010}:{:010}", channel.0, user.0)
}

/// What the keys of a user's memberships begin with.
#[must_use]
pub fn of_user(user: UserId) -> String {
    format!("{:010}:", user.0)
}

/// The key of a membership.
#[must_use]
pub fn membership_key(user: UserId, channel: ChannelId) -> String {
    format!("{:010}:{:010}", user.0, channel.0)
}

/// The number at the end of such a key.
#[must_use]
pub fn last_number(key: &str) -> Option<u32> {
    key.rsplit_once(':')?.1.parse().ok()
}

/// Reads a record.
///
/// # Errors
/// When it is damaged.
pub fn parse<T: DeserializeOwned>(record: &Versioned) -> Result<T, DirectoryError> {
    serde_json::from_slice(&record.value).map_err(|_| DirectoryError::Damaged)
}

/// Writes a record.
///
/// # Panics
/// Never: numbers and strings always have a JSON form.
pub fn format(record: &impl Serialize) -> Bytes {
    serde_json::to_vec(record).expect("numbers and strings always have a JSON form").into()
}
