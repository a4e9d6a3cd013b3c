//! Commands about channels and members.

use hubbub::wire::proto::{self, Role, client_envelope::Command, reply, update_channel};

use super::{Peer, Refused, position};

/// A command that names a channel, and nothing else but what is given.
macro_rules! command {
    ($variant:ident, $module:ident, $channel:expr $(, $field:ident: $value:expr)*) => {
        Command::$variant(proto::$variant {
            channel: Some(proto::$module::Channel::ChannelName($channel.to_owned())),
            $($field: $value,)*
            ..Default::default()
        })
    };
}

/// A public channel of this name, in which everybody may publish.
pub(crate) fn open(name: &str) -> proto::CreateChannel {
    proto::CreateChannel { channel_name: name.to_owned(), ..Default::default() }
}

/// A private one.
pub(crate) fn private(name: &str) -> proto::CreateChannel {
    proto::CreateChannel { visibility: proto::Visibility::Private.into(), ..open(name) }
}

/// Nothing to be changed.
pub(crate) fn change(channel: &str) -> proto::UpdateChannel {
    let channel = update_channel::Channel::ChannelName(channel.to_owned());
    proto::UpdateChannel { channel: Some(channel), ..Default::default() }
}

#[allow(clippy::needless_update, reason = "some commands have no other field")]
pub(crate) fn get_channel(channel: &str) -> Command {
    command!(GetChannel, get_channel, channel)
}

#[allow(clippy::needless_update, reason = "some commands have no other field")]
pub(crate) fn delete(channel: &str) -> Command {
    command!(DeleteChannel, delete_channel, channel)
}

#[allow(clippy::needless_update, reason = "some commands have no other field")]
pub(crate) fn join(channel: &str) -> Command {
    command!(Join, join, channel)
}

#[allow(clippy::needless_update, reason = "some commands have no other field")]
pub(crate) fn leave(channel: &str) -> Command {
    command!(Leave, leave, channel)
}

#[allow(clippy::needless_update, reason = "all are given")]
pub(crate) fn set_member(channel: &str, user_id: u32, role: Role) -> Command {
    command!(SetMember, set_member, channel, user_id: user_id, role: role.into())
}

#[allow(clippy::needless_update, reason = "all are given")]
pub(crate) fn remove_member(channel: &str, user_id: u32) -> Command {
    command!(RemoveMember, remove_member, channel, user_id: user_id)
}

#[allow(clippy::needless_update, reason = "all are given")]
pub(crate) fn mark_read(channel: &str, epoch: u32, sequence: u64) -> Command {
    command!(MarkRead, mark_read, channel, position: position(epoch, sequence))
}

pub(crate) fn list_members(channel: &str) -> Command {
    command!(ListMembers, list_members, channel)
}

#[allow(clippy::needless_update, reason = "some commands have no other field")]
pub(crate) fn get_presence(channel: &str) -> Command {
    command!(GetPresence, get_presence, channel)
}

#[allow(clippy::needless_update, reason = "some commands have no other field")]
pub(crate) fn send_typing(channel: &str) -> Command {
    command!(SendTyping, send_typing, channel)
}

impl Peer {
    /// Makes a channel.
    pub(crate) async fn create(
        &mut self,
        channel: proto::CreateChannel,
    ) -> Result<proto::Channel, Refused> {
        match self.ask(Command::CreateChannel(channel)).await? {
            reply::Result::Channel(channel) => Ok(channel),
            other => panic!("{other:?} answers a create"),
        }
    }

    /// Changes a channel.
    pub(crate) async fn update(
        &mut self,
        update: proto::UpdateChannel,
    ) -> Result<proto::Channel, Refused> {
        match self.ask(Command::UpdateChannel(update)).await? {
            reply::Result::Channel(channel) => Ok(channel),
            other => panic!("{other:?} answers an update"),
        }
    }

    /// Changes somebody's membership.
    pub(crate) async fn member(&mut self, command: Command) -> Result<proto::Member, Refused> {
        match self.ask(command).await? {
            reply::Result::Member(member) => Ok(member),
            other => panic!("{other:?} answers {other:?}"),
        }
    }

    /// Moves the user's read marker. Where it is then.
    pub(crate) async fn mark(
        &mut self,
        channel: &str,
        epoch: u32,
        sequence: u64,
    ) -> Result<u64, Refused> {
        match self.ask(mark_read(channel, epoch, sequence)).await? {
            reply::Result::ReadMarker(marker) => {
                let position = marker.position.expect("a marker has a position");
                assert_eq!(position.epoch, epoch);
                Ok(position.sequence)
            }
            other => panic!("{other:?} answers a mark"),
        }
    }

    /// The number of the user of this name, who has logged in before.
    pub(crate) async fn number_of(&mut self, name: &str) -> u32 {
        let find = Command::FindUsers(proto::FindUsers { name: name.to_owned() });
        match self.ask(find).await.unwrap() {
            reply::Result::Users(users) if users.users.len() == 1 => users.users[0].user_id,
            other => panic!("{other:?} answers a search for {name}"),
        }
    }

    /// A page of the public channels: their names, and where the next begins.
    pub(crate) async fn list(
        &mut self,
        prefix: &str,
        after: &str,
        limit: u32,
    ) -> Result<(Vec<String>, String), Refused> {
        let list = proto::ListChannels {
            prefix: prefix.to_owned(),
            after: after.to_owned(),
            limit,
            archived: None,
        };
        self.listed(Command::ListChannels(list)).await
    }

    /// The names of the user's own channels.
    pub(crate) async fn memberships(&mut self) -> Vec<String> {
        let list = proto::ListMemberships { after: String::new(), limit: 0 };
        self.listed(Command::ListMemberships(list)).await.unwrap().0
    }

    /// A page of the user's own channels as they are told of.
    pub(crate) async fn memberships_after(
        &mut self,
        after: &str,
        limit: u32,
    ) -> (Vec<proto::Channel>, String) {
        let list = proto::ListMemberships { after: after.to_owned(), limit };
        match self.ask(Command::ListMemberships(list)).await.unwrap() {
            reply::Result::Channels(list) => (list.channels, list.next),
            other => panic!("{other:?} answers a list"),
        }
    }

    async fn listed(&mut self, list: Command) -> Result<(Vec<String>, String), Refused> {
        match self.ask(list).await? {
            reply::Result::Channels(list) => {
                let names = list.channels.into_iter().map(|channel| channel.channel_name);
                Ok((names.collect(), list.next))
            }
            other => panic!("{other:?} answers a list"),
        }
    }
}
