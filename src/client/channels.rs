//! What a client asks of channels and members.
//!
//! All of it is retried like the rest: what it reads or sets is the same the second time. Only
//! [`Client::create_channel`] can be told of its own deed, and says so.

use super::{Client, ClientError, codec::Answer, codec::Command, unreachable_answer};
use crate::{
    limits::LISTED_DEFAULT,
    log::{
        place::{ChannelId, Position, UserId},
        settings::{Posting, Quota, Role, Settings, Visibility},
    },
    wire::{
        channels::{ChannelCommand, ChannelFilter, ChannelView, ListPage, MemberView, Update},
        code::ErrorCode,
        decode::ChannelRef,
    },
};

/// What a channel is to be, apart from its name. As it is by default, everybody may read and write.
#[derive(Clone, Debug, Default)]
pub struct NewChannel {
    /// For people.
    pub topic: String,
    /// Who knows of it.
    pub visibility: Visibility,
    /// Who may publish.
    pub posting: Posting,
    /// What it accepts in its whole life.
    pub quota: Quota,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T> {
    /// What is on it. It may be empty, and not the last.
    pub items: Vec<T>,
    /// What to ask with for the next page, if there is one.
    pub next: Option<String>,
}

impl Client {
    /// Makes a channel in which everybody may read and write.
    ///
    /// # Errors
    /// As [`Client::create_channel_with`].
    pub async fn create_channel(&self, name: &str) -> Result<ChannelId, ClientError> {
        let made = self.create_channel_with(name, NewChannel::default()).await?;
        Ok(made.id)
    }

    /// Makes a channel of which this user is the owner.
    ///
    /// # Errors
    /// When the server refuses, or does not answer in time. After a reconnect in between,
    /// `channel_exists` may speak of the channel that this very call made.
    pub async fn create_channel_with(
        &self,
        name: &str,
        NewChannel { topic, visibility, posting, quota }: NewChannel,
    ) -> Result<ChannelView, ClientError> {
        let (name, archived) = (name.into(), false);
        let settings = Settings { name, topic, visibility, posting, archived, quota };
        self.about_channel(ChannelCommand::Create(settings)).await
    }

    /// What a channel is.
    ///
    /// # Errors
    /// When the server refuses, or does not answer in time.
    pub async fn channel(&self, channel: &str) -> Result<ChannelView, ClientError> {
        self.about_channel(ChannelCommand::Get(named(channel))).await
    }

    /// A page of the public channels, by name: the first, or the one after another's `next`.
    ///
    /// # Errors
    /// When the server refuses, or does not answer in time.
    pub async fn channels(
        &self,
        filter: ChannelFilter,
        after: Option<String>,
    ) -> Result<List<ChannelView>, ClientError> {
        self.list_of_channels(ChannelCommand::List(filter, page(after))).await
    }

    /// A page of the channels that this user is a member of, with how far each was read.
    ///
    /// # Errors
    /// When the server refuses, or does not answer in time.
    pub async fn my_channels(
        &self,
        after: Option<String>,
    ) -> Result<List<ChannelView>, ClientError> {
        self.list_of_channels(ChannelCommand::Memberships(page(after))).await
    }

    /// Changes what is named, and leaves the rest.
    ///
    /// # Errors
    /// When the server refuses, or does not answer in time.
    pub async fn update_channel(
        &self,
        channel: &str,
        update: Update,
    ) -> Result<ChannelView, ClientError> {
        // By number, so that a retry finds it under its new name too.
        let channel = ChannelRef::Id(self.channel(channel).await?.id);
        self.about_channel(ChannelCommand::Update(channel, update)).await
    }

    /// Removes a channel and all that is in it.
    ///
    /// # Errors
    /// When the server refuses, or does not answer in time.
    pub async fn delete_channel(&self, channel: &str) -> Result<(), ClientError> {
        // By number: a retry must not find another channel that has got the name since.
        let channel = ChannelRef::Id(self.channel(channel).await?.id);
        match self.command(Command::Channels(ChannelCommand::Delete(channel)), None).await {
            Ok(Answer::ChannelDeleted) => Ok(()),
            Ok(_) => unreachable_answer(),
            // It was there a moment ago: this call has done it, or somebody else.
            Err(ClientError::Refused(refusal)) if refusal.is(ErrorCode::UnknownChannel) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Becomes a member of a public channel.
    ///
    /// # Errors
    /// When the server refuses, or does not answer in time.
    pub async fn join(&self, channel: &str) -> Result<MemberView, ClientError> {
        self.about_member(ChannelCommand::Join(named(channel))).await
    }

    /// Ends this user's membership.
    ///
    /// # Errors
    /// When the server refuses, or does not answer in time. Of a private channel, after a reconnect
    /// in between, `unknown_channel` may mean that this very call has done it.
    pub async fn leave(&self, channel: &str) -> Result<MemberView, ClientError> {
        self.about_member(ChannelCommand::Leave(named(channel))).await
    }

    /// Invites a user, or gives a member another role.
    ///
    /// # Errors
    /// When the server refuses, or does not answer in time.
    pub async fn set_member(
        &self,
        channel: &str,
        user: UserId,
        role: Role,
    ) -> Result<MemberView, ClientError> {
        self.about_member(ChannelCommand::SetMember(named(channel), user, role)).await
    }

    /// Ends somebody's membership.
    ///
    /// # Errors
    /// When the server refuses, or does not answer in time. After a reconnect in between,
    /// `not_a_member` may mean that this very call has done it.
    pub async fn remove_member(
        &self,
        channel: &str,
        user: UserId,
    ) -> Result<MemberView, ClientError> {
        self.about_member(ChannelCommand::RemoveMember(named(channel), user)).await
    }

    /// Moves this user's read marker forward, never back. Where it is then: further on, if the user has
    /// read more elsewhere.
    ///
    /// # Errors
    /// When the server refuses, or does not answer in time.
    pub async fn mark_read(&self, channel: &str, to: Position) -> Result<Position, ClientError> {
        let command = ChannelCommand::MarkRead(named(channel), to);
        match self.command(Command::Channels(command), None).await? {
            Answer::ReadMarker(marker) => Ok(marker),
            _ => unreachable_answer(),
        }
    }

    /// A page of a channel's members, by number.
    ///
    /// # Errors
    /// When the server refuses, or does not answer in time.
    pub async fn members(
        &self,
        channel: &str,
        after: Option<String>,
    ) -> Result<List<MemberView>, ClientError> {
        let command = ChannelCommand::Members(named(channel), page(after));
        match self.command(Command::Channels(command), None).await? {
            Answer::Members(items, next) => Ok(List { items, next }),
            _ => unreachable_answer(),
        }
    }

    /// The users of exactly this name.
    ///
    /// # Errors
    /// When the server refuses, or does not answer in time.
    pub async fn find_users(&self, name: &str) -> Result<Vec<UserId>, ClientError> {
        let command = ChannelCommand::FindUsers(name.to_owned());
        match self.command(Command::Channels(command), None).await? {
            Answer::Users(users) => Ok(users.into_iter().map(|(user, _)| user).collect()),
            _ => unreachable_answer(),
        }
    }

    async fn about_channel(&self, command: ChannelCommand) -> Result<ChannelView, ClientError> {
        match self.command(Command::Channels(command), None).await? {
            Answer::Channel(channel) => Ok(*channel),
            _ => unreachable_answer(),
        }
    }

    async fn list_of_channels(
        &self,
        command: ChannelCommand,
    ) -> Result<List<ChannelView>, ClientError> {
        match self.command(Command::Channels(command), None).await? {
            Answer::Channels(items, next) => Ok(List { items, next }),
            _ => unreachable_answer(),
        }
    }

    async fn about_member(&self, command: ChannelCommand) -> Result<MemberView, ClientError> {
        match self.command(Command::Channels(command), None).await? {
            Answer::Member(member) => Ok(member),
            _ => unreachable_answer(),
        }
    }
}

fn named(channel: &str) -> ChannelRef {
    ChannelRef::Name(channel.to_owned())
}

fn page(after: Option<String>) -> ListPage {
    ListPage::new(after.unwrap_or_default(), LISTED_DEFAULT)
}
