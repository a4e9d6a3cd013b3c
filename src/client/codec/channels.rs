//! Channels and members → bytes, and back: the other side of `wire::channels`. Pure.

use crate::{
    log::{
        place::{ChannelId, Sequence, UserId},
        settings::{Quota, Usage},
    },
    wire::{
        channels::{
            ChannelCommand, ChannelView, ListPage, MemberView, Named, PresenceView, ReadState,
        },
        decode::ChannelRef,
        proto::{self, client_envelope::Command as Wire},
        record::{
            posting_number, quota_to_proto, role_number, role_of, settings_of, visibility_number,
        },
    },
};

/// The envelope's form of a command.
pub(super) fn encode(command: ChannelCommand) -> Wire {
    macro_rules! of {
        ($channel:expr, $module:ident) => {
            Some(match $channel {
                ChannelRef::Id(id) => proto::$module::Channel::ChannelId(id.0),
                ChannelRef::Name(name) => proto::$module::Channel::ChannelName(name),
            })
        };
    }
    match command {
        ChannelCommand::Create(settings) => Wire::CreateChannel(proto::CreateChannel {
            channel_name: settings.name.to_string(),
            topic: settings.topic,
            visibility: visibility_number(settings.visibility),
            posting: posting_number(settings.posting),
            quota: quota_to_proto(settings.quota),
        }),
        ChannelCommand::Get(channel) => {
            Wire::GetChannel(proto::GetChannel { channel: of!(channel, get_channel) })
        }
        ChannelCommand::List(filter, page) => {
            let (after, limit) = asked(page);
            let (prefix, archived) = (filter.prefix, filter.archived);
            Wire::ListChannels(proto::ListChannels { prefix, after, limit, archived })
        }
        ChannelCommand::Memberships(page) => {
            let (after, limit) = asked(page);
            Wire::ListMemberships(proto::ListMemberships { after, limit })
        }
        ChannelCommand::Update(channel, update) => Wire::UpdateChannel(proto::UpdateChannel {
            channel: of!(channel, update_channel),
            new_name: update.name,
            topic: update.topic,
            visibility: update.visibility.map_or(0, visibility_number),
            posting: update.posting.map_or(0, posting_number),
            archived: update.archived,
            // One without bounds is said too: the server refuses to take them away.
            quota: update.quota.map(|quota: Quota| quota_to_proto(quota).unwrap_or_default()),
        }),
        ChannelCommand::Delete(channel) => {
            Wire::DeleteChannel(proto::DeleteChannel { channel: of!(channel, delete_channel) })
        }
        ChannelCommand::Join(channel) => Wire::Join(proto::Join { channel: of!(channel, join) }),
        ChannelCommand::Leave(channel) => {
            Wire::Leave(proto::Leave { channel: of!(channel, leave) })
        }
        ChannelCommand::SetMember(channel, user, role) => Wire::SetMember(proto::SetMember {
            channel: of!(channel, set_member),
            user_id: user.0,
            role: role_number(Some(role)),
        }),
        ChannelCommand::RemoveMember(channel, user) => Wire::RemoveMember(proto::RemoveMember {
            channel: of!(channel, remove_member),
            user_id: user.0,
        }),
        ChannelCommand::Members(channel, page) => {
            let (after, limit) = asked(page);
            let channel = of!(channel, list_members);
            Wire::ListMembers(proto::ListMembers { channel, after, limit })
        }
        ChannelCommand::FindUsers(name) => Wire::FindUsers(proto::FindUsers { name }),
        ChannelCommand::Presence(channel) => {
            Wire::GetPresence(proto::GetPresence { channel: of!(channel, get_presence) })
        }
        ChannelCommand::Typing(channel) => {
            Wire::SendTyping(proto::SendTyping { channel: of!(channel, send_typing) })
        }
        ChannelCommand::MarkRead(channel, position) => Wire::MarkRead(proto::MarkRead {
            channel: of!(channel, mark_read),
            position: Some(position.into()),
        }),
    }
}

fn asked(page: ListPage) -> (String, u32) {
    (page.after.unwrap_or_default(), u32::try_from(page.limit).unwrap_or(u32::MAX))
}

/// Where the next page begins, if there is one.
pub(super) fn next(next: String) -> Option<String> {
    Some(next).filter(|next| !next.is_empty())
}

/// A channel, as the server shows it.
pub(super) fn channel(channel: proto::Channel) -> ChannelView {
    let mut settings = settings_of(channel.settings.unwrap_or_default());
    settings.name = channel.channel_name.into();
    ChannelView {
        id: ChannelId(channel.channel_id),
        settings,
        member_count: channel.member_count,
        role: role_of(channel.role),
        created_at_ms: channel.created_at_ms,
        used: channel.used.map(|used| Usage { messages: used.messages, bytes: used.bytes }),
        read: channel
            .head
            .map(|head| ReadState { head: head.into(), read: Sequence(channel.read_sequence) }),
    }
}

/// A member, as the server shows it.
pub(super) fn member(member: proto::Member) -> MemberView {
    MemberView {
        channel: ChannelId(member.channel_id),
        user: UserId(member.user_id),
        name: member.name,
        role: role_of(member.role),
        sequence: Sequence(member.sequence),
    }
}

/// Who is in a channel, as the server says.
pub(super) fn presence(presence: proto::Presence) -> PresenceView {
    use proto::presence::Users;
    let users = |numbers: Vec<u32>| numbers.into_iter().map(UserId).collect();
    PresenceView {
        channel: ChannelId(presence.channel_id),
        users: presence.user_count,
        connections: presence.connection_count,
        named: match presence.users {
            Some(Users::Everyone(everyone)) => Named::Everyone(users(everyone.user_ids)),
            Some(Users::Changes(changes)) => {
                Named::Changes { joined: users(changes.joined), left: users(changes.left) }
            }
            None => Named::TooMany,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use prost::Message as _;

    use super::*;
    use crate::{
        client::codec::{Command as ClientCommand, encode as encode_frame},
        log::settings::{Posting, Role, Settings, Visibility},
        wire::{
            Encoding,
            channels::{ChannelFilter, Update},
            decode::{Command, decode},
        },
    };

    #[test]
    fn the_server_reads_each_command_as_it_was_meant() {
        let lobby = || ChannelRef::Name("lobby".to_owned());
        let page = || ListPage { after: Some("AAEC".to_owned()), limit: 7 };
        let quota = Quota { messages_max: NonZeroU64::new(5), bytes_max: None };
        let full = Settings {
            name: "ops".into(),
            topic: "what breaks".to_owned(),
            visibility: Visibility::Private,
            posting: Posting::Moderators,
            archived: false,
            quota,
        };
        let update = Update {
            name: Some("lobby-2".to_owned()),
            topic: Some(String::new()),
            visibility: Some(Visibility::Public),
            posting: Some(Posting::Members),
            archived: Some(false),
            quota: Some(Quota::default()),
        };
        let filter = ChannelFilter { prefix: "team-".to_owned(), archived: Some(true) };
        let meant = [
            ChannelCommand::Create(Settings::open("lobby")),
            ChannelCommand::Create(full),
            ChannelCommand::Get(ChannelRef::Id(ChannelId(7))),
            ChannelCommand::List(filter, page()),
            ChannelCommand::Memberships(page()),
            ChannelCommand::Update(lobby(), Update::default()),
            ChannelCommand::Update(lobby(), update),
            ChannelCommand::Delete(lobby()),
            ChannelCommand::Join(lobby()),
            ChannelCommand::Leave(lobby()),
            ChannelCommand::SetMember(lobby(), UserId(9), Role::Moderator),
            ChannelCommand::RemoveMember(lobby(), UserId(9)),
            ChannelCommand::Members(lobby(), page()),
            ChannelCommand::FindUsers("ada".to_owned()),
        ];
        for command in meant {
            let frame = encode_frame(7, &ClientCommand::Channels(command.clone()));
            let read = decode(Encoding::Proto, &frame).unwrap();
            assert_eq!((read.id, read.command), (7, Ok(Command::Channels(Box::new(command)))));
        }
    }

    #[test]
    fn a_channel_of_a_later_version_is_taken_for_the_narrower() {
        let settings = proto::Settings { visibility: 99, posting: 99, ..Default::default() };
        let later = proto::Channel {
            channel_name: "lobby".to_owned(),
            settings: Some(settings),
            role: 99,
            ..Default::default()
        };
        let read = channel(proto::Channel::decode(later.encode_to_vec().as_slice()).unwrap());
        assert_eq!(read.settings.visibility, Visibility::Private);
        assert_eq!(read.settings.posting, Posting::Moderators);
        assert_eq!((&*read.settings.name, read.role), ("lobby", None));
    }
}
