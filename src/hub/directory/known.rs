//! What was looked up once: the maps that the edge and all shards share.

use std::{hint::black_box, sync::atomic::Ordering};

use dashmap::Entry;

use super::{ChannelInfo, Directory, bound};
use crate::{
    engine::Engine,
    log::{
        place::{ChannelId, UserId},
        settings::Access,
    },
    wire::decode::ChannelRef,
};

impl<E: Engine> Directory<E> {
    /// The channel of this name, if it has been looked up before.
    #[must_use]
    pub fn cached_channel_by_name(&self, name: &str) -> Option<ChannelInfo> {
        let id = *self.channel_ids.get(name)?;
        // It may have another name now.
        self.cached_channel(id).filter(|channel| *channel.name == *name)
    }

    /// The channel of this number, if it has been looked up before.
    #[must_use]
    pub fn cached_channel(&self, id: ChannelId) -> Option<ChannelInfo> {
        self.channels.get(&id).map(|channel| channel.clone())
    }

    /// The channel that a user names, if the user may know of it and that is known here: what is not
    /// is found out by [`Directory::channel_for`].
    #[must_use]
    pub fn cached_channel_for(&self, user: UserId, channel: &ChannelRef) -> Option<ChannelInfo> {
        let channel = match channel {
            ChannelRef::Id(id) => self.cached_channel(*id),
            ChannelRef::Name(name) => self.cached_channel_by_name(name),
        };
        let Some(channel) = channel else {
            // The looks that a private channel costs.
            black_box(self.cached_channel(ChannelId(0)));
            black_box(self.members.contains_key(&(ChannelId(0), user)));
            return None;
        };
        let is_known = match channel.access {
            Access::Open | Access::Public => true,
            Access::Private => self.members.contains_key(&(channel.id, user)),
        };
        is_known.then_some(channel)
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Remembers what a channel was when it was read, if nothing has changed since.
    pub(super) fn keep(&self, changes: u64, channel: &ChannelInfo) {
        bound(&self.channels);
        bound(&self.channel_ids);
        let is_named = self.channel_ids.get(&*channel.name).is_some_and(|id| *id == channel.id);
        if let Entry::Vacant(place) = self.channels.entry(channel.id) {
            if self.changes() != changes {
                return;
            }
            place.insert(channel.clone());
        }
        if !is_named {
            // If it has got another name meanwhile, whoever asks for this one sees that.
            self.channel_ids.insert(Box::from(&*channel.name), channel.id);
        }
    }

    /// Remembers that a user was a member, if nothing has changed since.
    pub(super) fn keep_member(&self, changes: u64, channel: ChannelId, user: UserId) {
        bound(&self.members);
        if let Entry::Vacant(place) = self.members.entry((channel, user))
            && self.changes() == changes
        {
            place.insert(());
        }
    }

    /// Remembers what a channel is now.
    pub fn learn(&self, channel: ChannelInfo) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        bound(&self.channels);
        bound(&self.channel_ids);
        self.channel_ids.insert(Box::from(&*channel.name), channel.id);
        let before = self.channels.insert(channel.id, channel.clone());
        if let Some(before) = before.filter(|before| before.name != channel.name) {
            self.channel_ids.remove_if(&*before.name, |_, id| *id == channel.id);
        }
    }

    /// Remembers a channel no more, which was deleted, and has its data removed.
    pub fn forget(&self, channel: ChannelId) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        if let Some((_, before)) = self.channels.remove(&channel) {
            self.channel_ids.remove_if(&*before.name, |_, id| *id == channel);
        }
        self.deletions.notify_one();
    }

    /// Remembers a member no more, who was removed.
    pub fn forget_member(&self, channel: ChannelId, user: UserId) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.members.remove(&(channel, user));
    }
}
