//! Who may do what in a channel, and what a change makes of it. Pure.
//!
//! A channel's rights are those that its log has made of them: [`Rights::apply`] is called for each
//! record in its order, and [`Rights::judge`] decides on the state before the next one. The records
//! of the directory are written with the entry that changes them, in one step.

use std::collections::HashMap;

use bytes::Bytes;

use super::directory::records::{
    ChannelRecord, NameRecord, channel_key, format, membership, name_key, new_membership,
    read_marker,
};
use crate::{
    engine::{Derived, Table},
    limits::MEMBERS_MAX,
    log::{
        place::{ChannelId, Epoch, Position, Sequence, UserId},
        settings::{Posting, Role, Settings, Usage, Visibility},
    },
    wire::{
        channels::{ChannelView, Update},
        code::ErrorCode,
        record::{self, Content},
    },
};

/// What somebody wants to be otherwise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// To be a member.
    Join,
    /// To be none any more.
    Leave,
    /// Somebody to be a member, or to have another role.
    SetMember(UserId, Role),
    /// Somebody to be none any more.
    RemoveMember(UserId),
    /// Other settings, but not another name.
    Update(Update),
    /// Other settings with another name. It is claimed for the channel, and may be put into the log
    /// until this time, in milliseconds since 1970: afterwards it may be another channel's.
    Rename(Update, u64),
    /// The channel to be no more.
    Delete,
}

/// What a change comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Changed {
    /// What a user is from here on.
    Member(UserId, Option<Role>),
    /// What the channel is from here on.
    Settings(Settings),
    /// The channel is no more.
    Deleted,
}

impl Changed {
    /// The record that says so.
    #[must_use]
    pub fn record(&self, by: UserId) -> Bytes {
        match self {
            Self::Member(user, role) => record::membership(by, *user, *role),
            Self::Settings(settings) => record::settings(by, settings),
            Self::Deleted => record::deletion(by),
        }
    }
}

/// What a change comes to, and whether it is not so already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// What is so then.
    pub changed: Changed,
    /// Whether something has to be written for it.
    pub is_new: bool,
}

/// Who publishes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Author {
    /// A user, by the user's own right.
    User(UserId),
    /// A webhook of the channel, by the right of who made it.
    Webhook(UserId),
}

impl Author {
    /// The user whose name the message has.
    #[must_use]
    pub const fn user(self) -> UserId {
        match self {
            Self::User(user) | Self::Webhook(user) => user,
        }
    }
}

/// The settings and members of one channel, as its log has made them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rights {
    record: ChannelRecord,
    members: HashMap<UserId, Role>,
}

impl Rights {
    /// As the records have them.
    #[must_use]
    pub fn new(mut record: ChannelRecord, members: HashMap<UserId, Role>) -> Self {
        record.member_count = u32::try_from(members.len()).unwrap_or(u32::MAX);
        Self { record, members }
    }

    /// The channel.
    #[must_use]
    pub const fn record(&self) -> &ChannelRecord {
        &self.record
    }

    /// What a user is in it.
    #[must_use]
    pub fn role(&self, user: UserId) -> Option<Role> {
        self.members.get(&user).copied()
    }

    /// The channel as a user sees it.
    #[must_use]
    pub fn view(&self, user: UserId) -> ChannelView {
        self.record.view(self.role(user))
    }

    /// Whether a user may know of the channel, and read all that is in it.
    ///
    /// # Errors
    /// The code of the refusal.
    pub fn may_read(&self, user: UserId) -> Result<(), ErrorCode> {
        match self.record.visibility {
            Visibility::Public => Ok(()),
            Visibility::Private if self.members.contains_key(&user) => Ok(()),
            Visibility::Private => Err(ErrorCode::UnknownChannel),
        }
    }

    /// Whether a message may come next, with which the channel will have accepted so much.
    ///
    /// # Errors
    /// The code of the refusal.
    pub fn may_publish(&self, author: Author, usage: Usage) -> Result<(), ErrorCode> {
        if let Author::User(user) = author {
            self.may_read(user)?;
            let role = self.role(user);
            let is_allowed = match self.record.posting {
                Posting::Everyone => true,
                Posting::Members => role.is_some(),
                Posting::Moderators => role >= Some(Role::Moderator),
            };
            if !is_allowed {
                return Err(ErrorCode::Forbidden);
            }
        }
        if self.record.archived {
            return Err(ErrorCode::ChannelArchived);
        }
        if self.record.quota.holds(usage) { Ok(()) } else { Err(ErrorCode::QuotaExhausted) }
    }

    /// How much the channel has accepted, if it has a quota.
    #[must_use]
    pub const fn usage(&self) -> Usage {
        self.record.usage
    }

    /// Whether what is accepted is counted.
    #[must_use]
    pub fn has_quota(&self) -> bool {
        !self.record.quota.is_none()
    }

    /// What a change comes to.
    ///
    /// # Errors
    /// The code of the refusal.
    pub fn judge(&self, by: UserId, change: &Change) -> Result<Verdict, ErrorCode> {
        self.may_read(by)?;
        let own = self.role(by);
        match change {
            Change::Join => self.set(by, own.unwrap_or(Role::Member)),
            Change::Leave => self.remove(by),
            Change::SetMember(user, role) => {
                let before = self.role(*user);
                let may = match (own, before) {
                    (Some(Role::Owner), _) => true,
                    // A moderator makes members, and takes nobody's role.
                    (Some(Role::Moderator), None | Some(Role::Member)) => *role == Role::Member,
                    _ => false,
                };
                if !may {
                    return Err(ErrorCode::Forbidden);
                }
                if before == Some(Role::Owner) && *role < Role::Owner && self.is_last_owner(*user) {
                    return Err(ErrorCode::LastOwner);
                }
                self.set(*user, *role)
            }
            Change::RemoveMember(user) if *user == by => self.remove(by),
            Change::RemoveMember(user) => match (own, self.role(*user)) {
                (Some(Role::Owner | Role::Moderator), None) => Err(ErrorCode::NotAMember),
                (Some(Role::Owner), Some(_)) | (Some(Role::Moderator), Some(Role::Member)) => {
                    self.remove(*user)
                }
                _ => Err(ErrorCode::Forbidden),
            },
            Change::Update(update) | Change::Rename(update, _) => {
                if own < Some(Role::Owner) {
                    return Err(ErrorCode::Forbidden);
                }
                let before = self.record.settings();
                let after = updated(&before, update)?;
                Ok(Verdict { is_new: after != before, changed: Changed::Settings(after) })
            }
            Change::Delete if own < Some(Role::Owner) => Err(ErrorCode::Forbidden),
            Change::Delete => Ok(Verdict { is_new: true, changed: Changed::Deleted }),
        }
    }

    fn set(&self, user: UserId, role: Role) -> Result<Verdict, ErrorCode> {
        let before = self.role(user);
        if before.is_none() && self.members.len() >= MEMBERS_MAX {
            return Err(ErrorCode::TooMany);
        }
        let changed = Changed::Member(user, Some(role));
        Ok(Verdict { is_new: before != Some(role), changed })
    }

    fn remove(&self, user: UserId) -> Result<Verdict, ErrorCode> {
        if self.is_last_owner(user) {
            return Err(ErrorCode::LastOwner);
        }
        let is_new = self.members.contains_key(&user);
        Ok(Verdict { is_new, changed: Changed::Member(user, None) })
    }

    fn is_last_owner(&self, user: UserId) -> bool {
        let is_owner = |role: &Role| *role == Role::Owner;
        self.members.get(&user).is_some_and(is_owner)
            && self.members.values().filter(|role| is_owner(role)).count() == 1
    }

    /// The records that follow from a change which gets this place in the log.
    #[must_use]
    pub fn derived(&self, changed: &Changed, sequence: Sequence) -> Vec<Derived> {
        let id = ChannelId(self.record.id);
        let mut after = self.record.clone();
        match changed {
            Changed::Member(user, role) => {
                after.member_count = self.count_after(*user, *role);
                let mut derived: Vec<_> = match (self.role(*user), *role) {
                    (None, Some(role)) => {
                        let at = Position { sequence, ..after.beginning() };
                        new_membership(id, *user, role, at).collect()
                    }
                    // Another role changes nothing about what was read.
                    (Some(_), Some(_)) => membership(id, *user, *role, sequence).into(),
                    (_, None) => {
                        let forgotten = read_marker(id, *user, None);
                        let gone = membership(id, *user, None, sequence).into_iter();
                        gone.chain([forgotten]).collect()
                    }
                };
                derived.extend(after.derived());
                derived
            }
            Changed::Settings(settings) => {
                after.set(settings);
                let mut derived: Vec<_> = after.derived().collect();
                if *settings.name != *self.record.name {
                    let owned = NameRecord::of(id);
                    derived.push(Derived {
                        table: Table::Channels,
                        key: name_key(&settings.name),
                        value: Some(format(&owned)),
                    });
                    derived.extend(self.unlist());
                }
                derived
            }
            Changed::Deleted => {
                let gone = Derived { table: Table::Channels, key: channel_key(id), value: None };
                let rest = Derived {
                    table: Table::Deletions,
                    key: channel_key(id),
                    value: Some(Bytes::from_static(b"{}")),
                };
                [gone, rest].into_iter().chain(self.unlist()).collect()
            }
        }
    }

    /// The records of a channel that has accepted so much.
    #[must_use]
    pub fn derived_usage(&self, usage: Usage) -> Vec<Derived> {
        let mut after = self.record.clone();
        after.usage = usage;
        after.derived().collect()
    }

    /// The name that the channel has is nobody's any more.
    fn unlist(&self) -> [Derived; 2] {
        let name = &self.record.name;
        let listed = Derived { table: Table::PublicChannels, key: name.clone(), value: None };
        [NameRecord::free(name, Epoch(self.record.epoch)), listed]
    }

    fn count_after(&self, user: UserId, role: Option<Role>) -> u32 {
        let before = self.record.member_count;
        match (self.members.contains_key(&user), role) {
            (false, Some(_)) => before.saturating_add(1),
            (true, None) => before.saturating_sub(1),
            _ => before,
        }
    }

    /// Takes a record of the log in. What of it others must be told of.
    pub fn apply(&mut self, content: Content) -> Option<Changed> {
        match content {
            Content::Body { bytes } => {
                if self.has_quota() {
                    self.record.usage = self.record.usage.with(bytes);
                }
                None
            }
            Content::Member(user, role) => {
                self.record.member_count = self.count_after(user, role);
                match role {
                    Some(role) => self.members.insert(user, role),
                    None => self.members.remove(&user),
                };
                Some(Changed::Member(user, role))
            }
            Content::Settings(settings) => {
                self.record.set(&settings);
                Some(Changed::Settings(settings))
            }
            Content::Deletion => Some(Changed::Deleted),
            Content::Unknown => None,
        }
    }
}

/// Decides on what waits for a place in the next batch, in order, each on the state before it.
#[derive(Debug)]
pub struct Judge<'a> {
    /// `None`: an open channel, in which everybody may publish.
    rights: Option<&'a Rights>,
    /// What the channel will have accepted with what was let in.
    usage: Usage,
    derived: Vec<Derived>,
}

/// What becomes of one draft.
#[derive(Debug)]
pub enum Judgement {
    /// It is in.
    Take,
    /// It changes who may do what: this record is in, and nothing else.
    TakeAlone(Bytes, Changed),
    /// Whether there is room for it is known when what was let in before it is committed: some of that
    /// may be in the log already.
    Defer,
    /// It is so already.
    AsItIs(Changed),
    /// It is not allowed.
    Refuse(ErrorCode),
}

impl<'a> Judge<'a> {
    /// One who knows these rights; none: of an open channel, where no change may be asked for.
    #[must_use]
    pub fn new(rights: Option<&'a Rights>) -> Self {
        let usage = rights.map(Rights::usage).unwrap_or_default();
        Self { rights, usage, derived: Vec::new() }
    }

    /// One who knows the same, and has let nothing in.
    #[must_use]
    pub fn afresh(&self) -> Self {
        Self::new(self.rights)
    }

    /// Whether a message may be in.
    pub fn message(&mut self, author: Author, bytes: usize) -> Judgement {
        let Some(rights) = self.rights else { return Judgement::Take };
        let usage = self.usage.with(bytes);
        match rights.may_publish(author, usage) {
            Ok(()) => {
                self.usage = usage;
                Judgement::Take
            }
            Err(ErrorCode::QuotaExhausted) if self.usage != rights.usage() => Judgement::Defer,
            Err(code) => Judgement::Refuse(code),
        }
    }

    /// Whether a change may be now, which would have this place.
    ///
    /// # Panics
    /// When the rights are not known: a channel waits for them before it judges a change.
    pub fn change(
        &mut self,
        by: UserId,
        change: &Change,
        sequence: Sequence,
        now_ms: u64,
    ) -> Judgement {
        let rights = self.rights.expect("a change is judged when the rights are known");
        match rights.judge(by, change) {
            Ok(_) if matches!(change, Change::Rename(_, until_ms) if now_ms > *until_ms) => {
                Judgement::Refuse(ErrorCode::Busy)
            }
            Ok(Verdict { changed, is_new: true }) => {
                self.derived = rights.derived(&changed, sequence);
                Judgement::TakeAlone(changed.record(by), changed)
            }
            Ok(Verdict { changed, is_new: false }) => Judgement::AsItIs(changed),
            Err(code) => Judgement::Refuse(code),
        }
    }

    /// The records that follow from all that was let in.
    #[must_use]
    pub fn derived(self) -> Vec<Derived> {
        match self.rights {
            Some(rights) if rights.has_quota() && self.usage != rights.usage() => {
                rights.derived_usage(self.usage)
            }
            _ => self.derived,
        }
    }
}

/// What settings become.
fn updated(before: &Settings, update: &Update) -> Result<Settings, ErrorCode> {
    let Update { name, topic, visibility, posting, archived, quota } = update;
    // How much was accepted before is only known where it was counted from the beginning.
    if quota.is_some_and(|quota| quota.is_none() != before.quota.is_none()) {
        return Err(ErrorCode::BadRequest);
    }
    Ok(Settings {
        name: name.as_deref().map_or_else(|| before.name.clone(), Into::into),
        topic: topic.clone().unwrap_or_else(|| before.topic.clone()),
        visibility: visibility.unwrap_or(before.visibility),
        posting: posting.unwrap_or(before.posting),
        archived: archived.unwrap_or(before.archived),
        quota: quota.unwrap_or(before.quota),
    })
}

#[cfg(test)]
mod tests;
