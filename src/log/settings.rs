//! What a channel is apart from its messages: its settings, its quota, and the roles in it.

use std::{fmt, num::NonZeroU64, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

use crate::limits::{CHANNEL_NAME_BYTES_MAX, TOPIC_BYTES_MAX};

/// What a member may do. Each may do what those before it may.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads and writes.
    Member,
    /// Invites and removes members.
    Moderator,
    /// Gives roles, and changes, archives and deletes the channel.
    Owner,
}

impl Role {
    /// Every role, the least first.
    pub const ALL: [Self; 3] = [Self::Member, Self::Moderator, Self::Owner];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Moderator => "moderator",
            Self::Owner => "owner",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text is the name of no role.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("must be member, moderator or owner")]
pub struct RoleError;

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or(RoleError)
    }
}

/// Who knows of a channel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Every user may find, read and join it.
    #[default]
    Public,
    /// Members only. To others there is no such channel.
    Private,
}

/// Who may publish.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Posting {
    /// Whoever may read.
    #[default]
    Everyone,
    /// Members.
    Members,
    /// Moderators and owners.
    Moderators,
}

/// What a channel accepts in its whole life. A bound that is absent is none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Quota {
    /// Messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages_max: Option<NonZeroU64>,
    /// Bytes of their bodies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<NonZeroU64>,
}

impl Quota {
    /// Whether there is no bound in it.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.messages_max.is_none() && self.bytes_max.is_none()
    }

    /// Whether all of this is within it.
    #[must_use]
    pub fn holds(&self, usage: Usage) -> bool {
        self.messages_max.is_none_or(|max| usage.messages <= max.get())
            && self.bytes_max.is_none_or(|max| usage.bytes <= max.get())
    }
}

/// How much a channel with a quota has accepted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Messages.
    pub messages: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

impl Usage {
    /// With one more message, of so many bytes.
    #[must_use]
    pub const fn with(self, bytes: usize) -> Self {
        Self {
            messages: self.messages.saturating_add(1),
            bytes: self.bytes.saturating_add(bytes as u64),
        }
    }
}

/// What a channel is, apart from its members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Its name.
    pub name: Arc<str>,
    /// For people; may be empty.
    pub topic: String,
    /// Who knows of it.
    pub visibility: Visibility,
    /// Who may publish.
    pub posting: Posting,
    /// Nothing may be published any more.
    pub archived: bool,
    /// What it accepts in its whole life, if that is bounded.
    pub quota: Quota,
}

impl Settings {
    /// A public channel in which everyone may publish.
    #[must_use]
    pub fn open(name: &str) -> Self {
        Self {
            name: name.into(),
            topic: String::new(),
            visibility: Visibility::Public,
            posting: Posting::Everyone,
            archived: false,
            quota: Quota::default(),
        }
    }

    /// What has to be known of a user.
    #[must_use]
    pub fn access(&self) -> Access {
        match self.visibility {
            Visibility::Private => Access::Private,
            Visibility::Public if self.archived || !self.quota.is_none() => Access::Public,
            Visibility::Public => match self.posting {
                Posting::Everyone => Access::Open,
                Posting::Members | Posting::Moderators => Access::Public,
            },
        }
    }
}

/// What has to be known before somebody may do something in a channel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// Nothing: everyone may read and publish.
    Open,
    /// To publish: the channel's settings and members. Everyone may read.
    Public,
    /// To read and to publish: whether the user is a member.
    Private,
}

/// Whether a channel may have this name: lower-case letters, digits and `.` `_` `-` between them,
/// so that no two names look alike and every name fits a URL.
#[must_use]
pub fn is_channel_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.len() <= CHANNEL_NAME_BYTES_MAX
        && bytes.first().is_some_and(is_alphanumeric)
        && bytes.last().is_some_and(is_alphanumeric)
        && bytes.iter().all(|byte| is_alphanumeric(byte) || b"._-".contains(byte))
}

/// Whether a topic is one: not too long, and without control characters.
#[must_use]
pub fn is_topic(topic: &str) -> bool {
    topic.len() <= TOPIC_BYTES_MAX && !topic.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_name_fits_a_url_and_looks_like_no_other() {
        for name in ["a", "lobby", "dev-2.x", "a_b", "0"] {
            assert!(is_channel_name(name), "{name}");
        }
        let long = "a".repeat(CHANNEL_NAME_BYTES_MAX + 1);
        for name in ["", "Lobby", "a b", ".a", "a.", "-", "é", "a/b", "a\u{200b}", &long] {
            assert!(!is_channel_name(name), "{name}");
        }
    }
}
