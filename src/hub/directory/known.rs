//! What was looked up once: the maps that the edge and all shards share.

use std::{
    hint::black_box,
    sync::{Arc, atomic::Ordering},
};

use dashmap::{DashMap, Entry};

use super::{ChannelInfo, Directory, bound};
use crate::{
    engine::Engine,
    log::{
        place::{ChannelId, Epoch, UserId},
        settings::Access,
    },
    wire::decode::ChannelRef,
};

/// Channels that were looked up, by number and by name.
#[derive(Debug, Default)]
pub(super) struct Channels {
    pub(super) channels: DashMap<ChannelId, ChannelInfo>,
    pub(super) ids: DashMap<Box<str>, ChannelId>,
}

const DECOY: ChannelId = ChannelId(1);
const DECOY_NAME: &str = "decoy";

impl Channels {
    pub(super) fn decoys() -> Self {
        let decoys = Self::default();
        let (name, access) = (Arc::from(DECOY_NAME), Access::Private);
        decoys.channels.insert(DECOY, ChannelInfo { id: DECOY, name, epoch: Epoch(0), access });
        decoys.ids.insert(Box::from(DECOY_NAME), DECOY);
        decoys
    }

    fn by_name(&self, name: &str) -> Option<ChannelInfo> {
        let id = *self.ids.get(name)?;
        // It may have another name now.
        self.by_id(id).filter(|channel| *channel.name == *name)
    }

    fn by_id(&self, id: ChannelId) -> Option<ChannelInfo> {
        self.channels.get(&id).map(|channel| channel.clone())
    }
}

impl<E: Engine> Directory<E> {
    /// The channel of this name, if it has been looked up before.
    #[must_use]
    pub fn cached_channel_by_name(&self, name: &str) -> Option<ChannelInfo> {
        self.known.by_name(name)
    }

    /// The channel of this number, if it has been looked up before.
    #[must_use]
    pub fn cached_channel(&self, id: ChannelId) -> Option<ChannelInfo> {
        self.known.by_id(id)
    }

    /// The channel that a user names, if the user may know of it and that is known here: what is not
    /// is found out by [`Directory::channel_for`].
    #[must_use]
    pub fn cached_channel_for(&self, user: UserId, channel: &ChannelRef) -> Option<ChannelInfo> {
        let found = match channel {
            ChannelRef::Id(id) => self.known.by_id(*id),
            ChannelRef::Name(name) => self.known.by_name(name),
        };
        let may_know = |found: &ChannelInfo| {
            found.access != Access::Private || self.members.contains_key(&(found.id, user))
        };
        if found.as_ref().is_some_and(may_know) {
            return found;
        }
        // A look that finds something takes longer than one that does not. So whoever is told of nothing has
        // had one of each, whether there is a private channel or none.
        black_box(match (&found, channel) {
            (Some(_), ChannelRef::Id(_)) => self.decoys.by_id(ChannelId(0)),
            (Some(_), ChannelRef::Name(_)) => self.decoys.by_name(""),
            (None, ChannelRef::Id(_)) => self.decoys.by_id(DECOY),
            (None, ChannelRef::Name(_)) => self.decoys.by_name(DECOY_NAME),
        });
        if found.is_none() {
            black_box(self.members.contains_key(&(ChannelId(0), user)));
        }
        None
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Remembers what a channel was when it was read, if nothing has changed since.
    pub(super) fn keep(&self, changes: u64, channel: &ChannelInfo) {
        bound(&self.known.channels);
        bound(&self.known.ids);
        let is_named = self.known.ids.get(&*channel.name).is_some_and(|id| *id == channel.id);
        if let Entry::Vacant(place) = self.known.channels.entry(channel.id) {
            if self.changes() != changes {
                return;
            }
            place.insert(channel.clone());
        }
        if !is_named {
            // If it has got another name meanwhile, whoever asks for this one sees that.
            self.known.ids.insert(Box::from(&*channel.name), channel.id);
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
        bound(&self.known.channels);
        bound(&self.known.ids);
        self.known.ids.insert(Box::from(&*channel.name), channel.id);
        let before = self.known.channels.insert(channel.id, channel.clone());
        if let Some(before) = before.filter(|before| before.name != channel.name) {
            self.known.ids.remove_if(&*before.name, |_, id| *id == channel.id);
        }
    }

    /// Remembers a channel no more, which was deleted, and has its data removed.
    pub fn forget(&self, channel: ChannelId) {
        self.unlearn(channel);
        self.deletions.notify_one();
    }

    /// Looks a channel up anew when it is asked for.
    pub fn unlearn(&self, channel: ChannelId) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        if let Some((_, before)) = self.known.channels.remove(&channel) {
            self.known.ids.remove_if(&*before.name, |_, id| *id == channel);
        }
    }

    /// Looks everything up anew when it is asked for.
    pub fn unlearn_all(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.known.channels.clear();
        self.known.ids.clear();
        self.members.clear();
        self.user_names.clear();
    }

    /// Remembers the display name that a user had when it was read, if nothing has changed since.
    pub(super) fn keep_name(&self, changes: u64, id: UserId, name: Arc<str>) {
        bound(&self.user_names);
        let place = self.user_names.entry(id);
        if self.changes() == changes {
            place.insert(name);
        }
    }

    /// Looks a user's display name up anew when it is asked for.
    pub fn forget_name(&self, user: UserId) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.user_names.remove(&user);
    }

    /// Remembers a member no more, who was removed.
    pub fn forget_member(&self, channel: ChannelId, user: UserId) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.members.remove(&(channel, user));
    }
}
