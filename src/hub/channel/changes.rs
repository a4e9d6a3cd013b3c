//! What a channel knows of its members and settings, and what becomes of it when they change.
//!
//! The rights are read when they are needed: an open channel, in which everybody may publish, never
//! reads them until somebody wants a change. They are read when the head is known, so that they are
//! as new as it, or newer; and what is newer, the log brings.

use std::collections::HashSet;

use super::{Channel, Effect, State};
use crate::{
    engine::Append,
    hub::{
        directory::ChannelInfo,
        rights::{Changed, Rights},
    },
    log::{
        batch::{Batch, Entry},
        place::{Cursor, Head, Sequence, UserId},
        settings::{Access, Role},
        tail::Tail,
    },
    wire::{
        channels::{ChannelView, MemberView},
        code::ErrorCode,
        encode::{Control, Reply},
        record::{self, Content},
    },
};

/// The rights, as far as they have been read.
#[derive(Debug, Default)]
pub(super) enum KnownRights {
    /// Nobody has needed them.
    #[default]
    Unread,
    /// They are being read. If something changes meanwhile, again; if others publish meanwhile, what
    /// was read does not count right.
    Reading { is_stale: bool, is_miscounted: bool },
    /// They are these, and follow the log.
    Known(Box<Rights>),
}

impl KnownRights {
    pub(super) fn known(&self) -> Option<&Rights> {
        match self {
            Self::Known(rights) => Some(rights),
            Self::Unread | Self::Reading { .. } => None,
        }
    }

    pub(super) const fn is_reading(&self) -> bool {
        matches!(self, Self::Reading { .. })
    }
}

impl Channel {
    /// Whether what waits for a place cannot be decided on without the rights.
    pub(super) fn needs_rights(&self) -> bool {
        self.access != Access::Open || self.sequencer.has_changes()
    }

    /// Whether the head is known, and all that is needed to tell who may read.
    pub(super) fn may_serve(&self) -> bool {
        self.state == State::Ready
            && (self.access != Access::Private || self.rights.known().is_some())
    }

    /// Whether a user may read. Only where [`Channel::may_serve`].
    pub(super) fn may_read(&self, user: UserId) -> Result<(), ErrorCode> {
        if self.access != Access::Private {
            return Ok(());
        }
        match self.rights.known() {
            Some(rights) => rights.may_read(user),
            None => Err(ErrorCode::UnknownChannel),
        }
    }

    /// Reads what is needed to serve somebody.
    pub(super) fn prepare(&mut self, effects: &mut Vec<Effect>) {
        self.load(effects);
        if self.access == Access::Private {
            self.read_rights(effects);
        }
    }

    pub(super) fn read_rights(&mut self, effects: &mut Vec<Effect>) {
        if self.state == State::Ready && matches!(self.rights, KnownRights::Unread) {
            self.rights = KnownRights::Reading { is_stale: false, is_miscounted: false };
            effects.push(Effect::ReadRights);
        }
    }

    /// The answer to [`Effect::ReadRights`]; `Ok(None)`: the channel is no more.
    pub fn rights_read(
        &mut self,
        answer: Result<Option<Rights>, ErrorCode>,
        effects: &mut Vec<Effect>,
    ) {
        let KnownRights::Reading { is_stale, is_miscounted } = self.rights else { return };
        self.rights = KnownRights::Unread;
        match answer {
            Ok(_) if is_stale => self.read_rights(effects),
            Ok(Some(rights)) => {
                self.access = rights.record().settings().access();
                self.is_miscounted = is_miscounted && rights.has_quota();
                self.rights = KnownRights::Known(Box::new(rights));
                self.admit_waiting(effects);
            }
            Ok(None) => {
                self.state = State::Deleted;
                self.end_subscriptions(ErrorCode::UnknownChannel, |_| true, effects);
                self.end_all(ErrorCode::UnknownChannel, effects);
            }
            Err(code) => self.refuse_all(code, effects),
        }
    }

    /// Takes what a committed batch changes. Its messages have been handed out.
    pub(super) fn take_changes(&mut self, batch: &Batch, effects: &mut Vec<Effect>) {
        let is_own = self.sequencer.in_flight().is_some_and(|it: &Append| it.batch.id == batch.id);
        let is_counted = self.rights.known().is_some_and(Rights::has_quota);
        if is_own && !self.sequencer.is_changing() && !is_counted {
            return;
        }
        let (mut has_changes, mut has_messages) = (false, false);
        for record in batch.records().flatten() {
            let content = record::content(record);
            match content {
                Content::Body { .. } => has_messages = true,
                Content::Unknown => {}
                Content::Member(..) | Content::Settings(_) | Content::Deletion => {
                    has_changes = true
                }
            }
            let changed = match &mut self.rights {
                KnownRights::Known(rights) => rights.apply(content),
                KnownRights::Unread | KnownRights::Reading { .. } => match content {
                    Content::Settings(settings) => Some(Changed::Settings(settings)),
                    Content::Deletion => Some(Changed::Deleted),
                    Content::Member(user, role) => Some(Changed::Member(user, role)),
                    Content::Body { .. } | Content::Unknown => None,
                },
            };
            if let Some(changed) = changed {
                self.take_change(changed, effects);
            }
        }
        match &mut self.rights {
            KnownRights::Reading { is_stale, is_miscounted } if !is_own => {
                *is_stale |= has_changes;
                *is_miscounted |= has_messages;
            }
            // The records may have been as new as this batch when they were read, and it counts once. They
            // are read again before something is judged by them.
            KnownRights::Known(_) if is_counted && !is_own => self.is_miscounted |= has_messages,
            _ => {}
        }
    }

    /// Takes what a batch changes that was in the log before this channel was in memory: who made the
    /// channel may have looked it up before that.
    pub(super) fn take_loaded_changes(&mut self, batch: &Batch) {
        // A change is alone in its batch, but a change of another node's or version may not be.
        for record in batch.records().flatten() {
            match record::content(record) {
                Content::Settings(settings) => {
                    self.access = settings.access();
                    self.name = settings.name;
                }
                Content::Deletion => self.state = State::Deleted,
                Content::Body { .. } | Content::Member(..) | Content::Unknown => {}
            }
        }
    }

    fn take_change(&mut self, changed: Changed, effects: &mut Vec<Effect>) {
        match changed {
            Changed::Member(_, Some(_)) => {}
            Changed::Member(user, None) => {
                effects.push(Effect::ForgetMember(user));
                if self.access == Access::Private {
                    self.end_subscriptions(ErrorCode::NotAMember, |it| it == user, effects);
                }
            }
            Changed::Settings(settings) => {
                self.access = settings.access();
                self.name = settings.name;
                effects.push(Effect::Learn(ChannelInfo {
                    id: self.id,
                    name: self.name.clone(),
                    epoch: self.head.epoch,
                    access: self.access,
                }));
                if self.access == Access::Private {
                    let outsiders: HashSet<_> = self
                        .live
                        .values()
                        .chain(self.replays.values().map(|replay| &replay.who))
                        .map(|who| who.user)
                        .filter(|user| self.may_read(*user).is_err())
                        .collect();
                    let is_outside = |user| outsiders.contains(&user);
                    // Of a change by another node, while who is a member is not known here, only a
                    // try again can tell.
                    let is_known = self.rights.known().is_some();
                    let code = if is_known { ErrorCode::NotAMember } else { ErrorCode::Busy };
                    self.end_subscriptions(code, is_outside, effects);
                }
            }
            Changed::Deleted => {
                self.state = State::Deleted;
                effects.push(Effect::Forget);
                self.end_subscriptions(ErrorCode::UnknownChannel, |_| true, effects);
            }
        }
    }

    /// What answers a change.
    pub(super) fn changed_reply(&self, changed: Changed, sequence: Sequence) -> Reply {
        match changed {
            Changed::Member(user, role) => Reply::Member(MemberView {
                channel: self.id,
                user,
                name: String::new(),
                role,
                sequence,
            }),
            Changed::Settings(settings) => {
                // Only an owner changes settings.
                let role = Some(Role::Owner);
                let view = self.rights.known().map(|rights| rights.record().view(role));
                Reply::Channel(Box::new(view.unwrap_or(ChannelView {
                    id: self.id,
                    settings,
                    member_count: 0,
                    role,
                    created_at_ms: 0,
                    used: None,
                    read: None,
                })))
            }
            Changed::Deleted => Reply::ChannelDeleted(self.id),
        }
    }

    /// An import on another node has put this into the log: like [`Channel::apply`], but live subscribers
    /// are told of a gap.
    pub fn apply_imported(&mut self, entry: Entry, effects: &mut Vec<Effect>) {
        let is_next = entry.after == self.head.cursor && entry.batch.extends(&self.head);
        if self.state != State::Ready || self.is_catching_up || !is_next {
            return self.apply(entry, effects);
        }
        self.imported(entry.after, entry.batch.head(entry.at), effects);
    }

    /// Members were added by an import, of which the log says nothing.
    pub fn members_imported(&mut self) {
        match &mut self.rights {
            KnownRights::Reading { is_stale, .. } => *is_stale = true,
            // Read again when they are needed.
            KnownRights::Known(_) => self.rights = KnownRights::Unread,
            KnownRights::Unread => {}
        }
    }

    /// Entries after `after` were appended by an import, and the log ends with `head` now; or, if it ended
    /// there before, members were added. Live subscribers are told of a gap: they page it at leisure, and
    /// are not flooded.
    pub fn imported(&mut self, after: Cursor, head: Head, effects: &mut Vec<Effect>) {
        if self.state == State::Loading {
            self.is_stale = true;
        }
        if head.cursor == after {
            return self.members_imported();
        }
        if self.state != State::Ready || head.cursor <= self.head.cursor {
            return;
        }
        // What was accepted is counted in the records that were written with the entries.
        match &mut self.rights {
            KnownRights::Reading { is_stale, .. } => *is_stale = true,
            KnownRights::Known(rights) if rights.has_quota() => {
                self.rights = KnownRights::Unread;
                self.read_rights(effects);
            }
            KnownRights::Known(_) | KnownRights::Unread => {}
        }
        if after != self.head.cursor || self.is_catching_up {
            return self.catch_up(effects);
        }
        let from = self.head.sequence.next();
        self.head = head;
        self.tail = Tail::new(head.sequence);
        for connection in self.live.keys() {
            let gap = Control::Gap { channel: self.id, from, to: head.sequence };
            effects.push(Effect::Tell(*connection, gap));
        }
        // A batch of ours that was formed on the former head is told so by the engine.
    }
}
