//! The commands about channels and members, and what answers them. Pure.
//!
//! The same values for both doors: a frame is decoded to them here, a request of the HTTP API in
//! `edge::http`.

use super::{
    code::ErrorCode,
    decode::ChannelRef,
    proto::{self, client_envelope::Command as Wire},
    record::{posting_of, quota_of, role_number, role_of, settings_to_proto, visibility_of},
};
use crate::{
    limits::{LISTED_DEFAULT, LISTED_MAX, USER_NAME_BYTES_MAX},
    log::{
        place::{ChannelId, Epoch, Position, Sequence, UserId},
        settings::{Posting, Quota, Role, Settings, Usage, Visibility, is_channel_name, is_topic},
    },
};

/// What a user wants of channels and members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChannelCommand {
    /// Make one of these settings.
    Create(Settings),
    /// Learn what it is.
    Get(ChannelRef),
    /// List public channels.
    List(ChannelFilter, ListPage),
    /// List the channels that the user is a member of.
    Memberships(ListPage),
    /// Change its settings.
    Update(ChannelRef, Update),
    /// Remove it.
    Delete(ChannelRef),
    /// Become a member.
    Join(ChannelRef),
    /// Be no member any more.
    Leave(ChannelRef),
    /// Invite a user, or give a member another role.
    SetMember(ChannelRef, UserId, Role),
    /// End a membership.
    RemoveMember(ChannelRef, UserId),
    /// List members.
    Members(ChannelRef, ListPage),
    /// Learn who has a name.
    FindUsers(String),
    /// Learn who is there.
    Presence(ChannelRef),
    /// Tell who is there that the user is writing.
    Typing(ChannelRef),
    /// Move the user's read marker forward.
    MarkRead(ChannelRef, Position),
}

/// Which public channels are listed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChannelFilter {
    /// Those whose names begin so.
    pub prefix: String,
    /// Only archived ones, or only others.
    pub archived: Option<bool>,
}

/// A page of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListPage {
    /// Where the page before ended, as the server said. `None`: from the beginning.
    pub after: Option<String>,
    /// At most so many. Between 1 and [`LISTED_MAX`].
    pub limit: usize,
}

/// What of a channel's settings is changed. What is `None` stays.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Update {
    /// Its name, of a valid form.
    pub name: Option<String>,
    /// For people.
    pub topic: Option<String>,
    /// Who knows of it.
    pub visibility: Option<Visibility>,
    /// Who may publish.
    pub posting: Option<Posting>,
    /// Whether it takes messages.
    pub archived: Option<bool>,
    /// What it accepts.
    pub quota: Option<Quota>,
}

/// A channel as one user sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChannelView {
    /// Its number.
    pub id: ChannelId,
    /// What it is.
    pub settings: Settings,
    /// How many members it has.
    pub member_count: u32,
    /// What the user is in it; `None`: no member.
    pub role: Option<Role>,
    /// When it was made, in milliseconds since 1970; 0: before that was written down.
    pub created_at_ms: u64,
    /// How much it has accepted, if it has a quota.
    pub used: Option<Usage>,
    /// How far the user has read, in the list of memberships.
    pub read: Option<ReadState>,
}

/// How much of a channel a member has read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadState {
    /// Where the channel is now.
    pub head: Position,
    /// The last message that the user has read. Not beyond the head.
    pub read: Sequence,
}

impl ReadState {
    /// How many messages lie after what was read.
    #[must_use]
    pub const fn unread(&self) -> u64 {
        self.head.sequence.0.saturating_sub(self.read.0)
    }
}

/// Who is in a channel: the users with a subscription to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PresenceView {
    /// The channel.
    pub channel: ChannelId,
    /// How many users.
    pub users: u32,
    /// How many connections of theirs.
    pub connections: u32,
    /// Which users.
    pub named: Named,
}

/// The users of a [`PresenceView`], by number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Named {
    /// All, ascending.
    Everyone(Vec<UserId>),
    /// What is another one than the time before.
    Changes {
        /// Who came, ascending.
        joined: Vec<UserId>,
        /// Who went, ascending.
        left: Vec<UserId>,
    },
    /// None: they are too many.
    TooMany,
}

/// A user in a channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberView {
    /// The channel.
    pub channel: ChannelId,
    /// Who.
    pub user: UserId,
    /// The display name, in lists.
    pub name: String,
    /// What the user is; `None`: no member.
    pub role: Option<Role>,
    /// The place of the change in the log, if something changed.
    pub sequence: Sequence,
}

impl ListPage {
    /// A page as a client asks for it.
    #[must_use]
    pub fn new(after: String, limit: u32) -> Self {
        let limit = if limit == 0 { LISTED_DEFAULT } else { limit.min(LISTED_MAX) };
        Self { after: (!after.is_empty()).then_some(after), limit: limit as usize }
    }
}

/// Takes a channel command out of an envelope; `None`: it is another command.
pub(super) fn decode(command: Wire) -> Result<Result<ChannelCommand, ErrorCode>, Wire> {
    macro_rules! channel {
        ($command:expr, $module:ident) => {
            match $command.channel.take() {
                Some(proto::$module::Channel::ChannelId(id)) => ChannelRef::Id(ChannelId(id)),
                Some(proto::$module::Channel::ChannelName(name)) => match by_name(name) {
                    Ok(name) => name,
                    Err(code) => return Ok(Err(code)),
                },
                None => return Ok(Err(ErrorCode::BadRequest)),
            }
        };
    }
    Ok(match command {
        Wire::CreateChannel(create) => new_channel(create).map(ChannelCommand::Create),
        Wire::GetChannel(mut get) => Ok(ChannelCommand::Get(channel!(get, get_channel))),
        Wire::ListChannels(list) => {
            let filter = ChannelFilter { prefix: list.prefix, archived: list.archived };
            Ok(ChannelCommand::List(filter, ListPage::new(list.after, list.limit)))
        }
        Wire::UpdateChannel(mut change) => {
            let channel = channel!(change, update_channel);
            update(change).map(|update| ChannelCommand::Update(channel, update))
        }
        Wire::DeleteChannel(mut delete) => {
            Ok(ChannelCommand::Delete(channel!(delete, delete_channel)))
        }
        Wire::Join(mut join) => Ok(ChannelCommand::Join(channel!(join, join))),
        Wire::Leave(mut leave) => Ok(ChannelCommand::Leave(channel!(leave, leave))),
        Wire::SetMember(mut set) => {
            let channel = channel!(set, set_member);
            let role = match (set.role, role_of(set.role)) {
                (0, _) => Ok(Role::Member),
                (_, role) => role.ok_or(ErrorCode::BadRequest),
            };
            role.map(|role| ChannelCommand::SetMember(channel, UserId(set.user_id), role))
        }
        Wire::RemoveMember(mut remove) => {
            let channel = channel!(remove, remove_member);
            Ok(ChannelCommand::RemoveMember(channel, UserId(remove.user_id)))
        }
        Wire::ListMembers(mut list) => {
            let channel = channel!(list, list_members);
            Ok(ChannelCommand::Members(channel, ListPage::new(list.after, list.limit)))
        }
        Wire::ListMemberships(list) => {
            Ok(ChannelCommand::Memberships(ListPage::new(list.after, list.limit)))
        }
        Wire::FindUsers(find) if find.name.is_empty() || find.name.len() > USER_NAME_BYTES_MAX => {
            Err(ErrorCode::BadRequest)
        }
        Wire::FindUsers(find) => Ok(ChannelCommand::FindUsers(find.name)),
        Wire::GetPresence(mut get) => Ok(ChannelCommand::Presence(channel!(get, get_presence))),
        Wire::SendTyping(mut send) => Ok(ChannelCommand::Typing(channel!(send, send_typing))),
        Wire::MarkRead(mut mark) => {
            let channel = channel!(mark, mark_read);
            let position = mark.position.ok_or(ErrorCode::BadRequest);
            position.map(|position| ChannelCommand::MarkRead(channel, position.into()))
        }
        other => return Err(other),
    })
}

/// A channel as a client names it. A name that no channel can have is of an unknown channel, not a
/// bad request: a client need not know the rules to ask.
///
/// # Errors
/// The code of the refusal.
pub fn by_name(name: String) -> Result<ChannelRef, ErrorCode> {
    if is_channel_name(&name) { Ok(ChannelRef::Name(name)) } else { Err(ErrorCode::UnknownChannel) }
}

fn new_channel(create: proto::CreateChannel) -> Result<Settings, ErrorCode> {
    if !is_channel_name(&create.channel_name) {
        return Err(ErrorCode::InvalidChannelName);
    }
    if !is_topic(&create.topic) {
        return Err(ErrorCode::BadRequest);
    }
    let open = Settings::open(&create.channel_name);
    Ok(Settings {
        topic: create.topic,
        visibility: given(create.visibility, visibility_of)?.unwrap_or(open.visibility),
        posting: given(create.posting, posting_of)?.unwrap_or(open.posting),
        quota: quota_of(create.quota),
        ..open
    })
}

fn update(change: proto::UpdateChannel) -> Result<Update, ErrorCode> {
    if change.new_name.as_deref().is_some_and(|name| !is_channel_name(name)) {
        return Err(ErrorCode::InvalidChannelName);
    }
    if change.topic.as_deref().is_some_and(|topic| !is_topic(topic)) {
        return Err(ErrorCode::BadRequest);
    }
    Ok(Update {
        name: change.new_name,
        topic: change.topic,
        visibility: given(change.visibility, visibility_of)?,
        posting: given(change.posting, posting_of)?,
        archived: change.archived,
        quota: change.quota.map(|quota| quota_of(Some(quota))),
    })
}

/// What an enum says; `None` when it is left open.
fn given<T>(number: i32, known: impl FnOnce(i32) -> Option<T>) -> Result<Option<T>, ErrorCode> {
    if number == 0 {
        return Ok(None);
    }
    known(number).map(Some).ok_or(ErrorCode::BadRequest)
}

pub(super) fn channel(view: &ChannelView) -> proto::Channel {
    proto::Channel {
        channel_id: view.id.0,
        channel_name: view.settings.name.to_string(),
        settings: Some(settings_to_proto(&view.settings)),
        member_count: view.member_count,
        role: role_number(view.role),
        created_at_ms: view.created_at_ms,
        used: view.used.map(|used| proto::Usage { messages: used.messages, bytes: used.bytes }),
        head: view.read.map(|read| read.head.into()),
        read_sequence: view.read.map_or(0, |read| read.read.0),
        unread_count: view.read.map_or(0, |read| read.unread()),
    }
}

impl From<proto::Position> for Position {
    fn from(position: proto::Position) -> Self {
        Self { epoch: Epoch(position.epoch), sequence: Sequence(position.sequence) }
    }
}

impl From<Position> for proto::Position {
    fn from(position: Position) -> Self {
        Self { epoch: position.epoch.0, sequence: position.sequence.0 }
    }
}

pub(super) fn presence(view: &PresenceView) -> proto::Presence {
    use proto::presence::{Changes, Everyone, Users};
    let numbers = |users: &[UserId]| users.iter().map(|user| user.0).collect();
    proto::Presence {
        channel_id: view.channel.0,
        user_count: view.users,
        connection_count: view.connections,
        users: match &view.named {
            Named::Everyone(users) => Some(Users::Everyone(Everyone { user_ids: numbers(users) })),
            Named::Changes { joined, left } => {
                Some(Users::Changes(Changes { joined: numbers(joined), left: numbers(left) }))
            }
            Named::TooMany => None,
        },
    }
}

pub(super) fn read_marker(channel: ChannelId, position: Position) -> proto::ReadMarker {
    proto::ReadMarker { channel_id: channel.0, position: Some(position.into()) }
}

pub(super) fn member(view: &MemberView) -> proto::Member {
    proto::Member {
        channel_id: view.channel.0,
        user_id: view.user.0,
        name: view.name.clone(),
        role: role_number(view.role),
        sequence: view.sequence.0,
    }
}
