//! What the log makes of a channel, said once more and apart from the server's own words.

use std::collections::BTreeMap;

use hubbub::{
    hub::rights::Change,
    log::{
        place::UserId,
        settings::{Posting, Role, Settings, Usage, Visibility},
    },
    wire::{code::ErrorCode, record::Content},
};

/// The channel behind some place of its log.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) settings: Settings,
    pub(super) members: BTreeMap<UserId, Role>,
    /// The place in the log at which each of them became a member: so far all counts as read.
    pub(super) joined: BTreeMap<UserId, u64>,
    /// The last place in the log.
    pub(super) last: u64,
    pub(super) usage: Usage,
    pub(super) is_deleted: bool,
}

impl State {
    pub(super) fn may_read(&self, user: UserId) -> bool {
        let is_public = self.settings.visibility == Visibility::Public;
        !self.is_deleted && (is_public || self.members.contains_key(&user))
    }

    /// Why a message of so many bytes may not come next, if it may not.
    pub(super) fn publish(&self, user: UserId, bytes: usize) -> Result<(), ErrorCode> {
        if !self.may_read(user) {
            return Err(ErrorCode::UnknownChannel);
        }
        let needed = match self.settings.posting {
            Posting::Everyone => 0,
            Posting::Members => 1,
            Posting::Moderators => 2,
        };
        if self.rank(user) < needed {
            return Err(ErrorCode::Forbidden);
        }
        if self.settings.archived {
            return Err(ErrorCode::ChannelArchived);
        }
        if self.has_room(bytes) { Ok(()) } else { Err(ErrorCode::QuotaExhausted) }
    }

    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let messages_max = self.settings.quota.messages_max.map_or(u64::MAX, Into::into);
        let bytes_max = self.settings.quota.bytes_max.map_or(u64::MAX, Into::into);
        self.usage.messages < messages_max && self.usage.bytes + bytes as u64 <= bytes_max
    }

    /// Why a change may not come next, if it may not.
    pub(super) fn change(&self, by: UserId, change: &Change) -> Result<(), ErrorCode> {
        if !self.may_read(by) {
            return Err(ErrorCode::UnknownChannel);
        }
        let allowed = |is_allowed: bool| is_allowed.then_some(()).ok_or(ErrorCode::Forbidden);
        match change {
            Change::Join => Ok(()),
            Change::Leave => self.keeps_an_owner(by),
            Change::RemoveMember(user) if *user == by => self.keeps_an_owner(by),
            Change::RemoveMember(user) => {
                let (own, other) = (self.rank(by), self.rank(*user));
                allowed(own == 3 || own == 2 && other < 2)?;
                if other == 0 { Err(ErrorCode::NotAMember) } else { Ok(()) }
            }
            Change::SetMember(user, role) => {
                let (own, other) = (self.rank(by), self.rank(*user));
                allowed(own == 3 || own == 2 && other < 2 && *role == Role::Member)?;
                if *role == Role::Owner { Ok(()) } else { self.keeps_an_owner(*user) }
            }
            Change::Update(update) | Change::Rename(update, _) => {
                allowed(self.rank(by) == 3)?;
                let had = self.settings.quota.is_none();
                match update.quota {
                    Some(quota) if quota.is_none() != had => Err(ErrorCode::BadRequest),
                    _ => Ok(()),
                }
            }
            Change::Delete => allowed(self.rank(by) == 3),
        }
    }

    /// Takes a record in that `by` has written, if that was allowed. What was imported may do
    /// anything but exceed a quota.
    pub(super) fn take(
        &mut self,
        by: UserId,
        content: Content,
        imported: bool,
    ) -> Result<(), String> {
        let refused = |code: ErrorCode| format!("{content:?} by {by:?}: {code}, in {self:?}");
        if self.is_deleted {
            return Err(refused(ErrorCode::UnknownChannel));
        }
        match &content {
            Content::Body { bytes } => {
                match imported {
                    false => self.publish(by, *bytes).map_err(refused)?,
                    true if self.has_room(*bytes) => {}
                    true => return Err(refused(ErrorCode::QuotaExhausted)),
                }
                if !self.settings.quota.is_none() {
                    self.usage.messages += 1;
                    self.usage.bytes += *bytes as u64;
                }
            }
            Content::Member(user, role) => {
                let joins = *user == by && *role == Some(Role::Member) && self.rank(by) == 0;
                let change = match role {
                    Some(_) if joins => Change::Join,
                    Some(role) => Change::SetMember(*user, *role),
                    None => Change::RemoveMember(*user),
                };
                self.change(by, &change).map_err(refused)?;
                if self.members.get(user).copied() == *role {
                    return Err(format!("{content:?} changes nothing"));
                }
                match role {
                    Some(role) => {
                        self.members.insert(*user, *role);
                        self.joined.entry(*user).or_insert(self.last + 1);
                    }
                    None => {
                        self.members.remove(user);
                        self.joined.remove(user);
                    }
                }
            }
            Content::Settings(settings) => {
                if self.rank(by) < 3 || settings.quota.is_none() != self.settings.quota.is_none() {
                    return Err(refused(ErrorCode::Forbidden));
                }
                self.settings = settings.clone();
            }
            Content::Deletion => {
                self.change(by, &Change::Delete).map_err(refused)?;
                self.is_deleted = true;
            }
            Content::Unknown => return Err("a record that says nothing".to_owned()),
        }
        self.last += 1;
        Ok(())
    }

    fn rank(&self, user: UserId) -> u8 {
        match self.members.get(&user) {
            None => 0,
            Some(Role::Member) => 1,
            Some(Role::Moderator) => 2,
            Some(Role::Owner) => 3,
        }
    }

    fn keeps_an_owner(&self, without: UserId) -> Result<(), ErrorCode> {
        let others = self.members.iter().filter(|(user, _)| **user != without);
        let has_owner = others.into_iter().any(|(_, role)| *role == Role::Owner);
        if self.rank(without) < 3 || has_owner { Ok(()) } else { Err(ErrorCode::LastOwner) }
    }
}
