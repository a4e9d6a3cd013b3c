//! The desk: what users want of channels and members, whichever door they came through.
//!
//! What only reads is answered from the directory's records, which are written in one step with the
//! log's entries. What changes something is asked of the shard that owns the channel, which decides on
//! it in the order of the log.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use tokio::time::timeout;

use tokio::sync::Mutex;

use super::{
    ConnectionKey, Hub, WeakHub,
    allowance::Allowance,
    calls::Wanted,
    channel::read_code,
    directory::{
        ChannelInfo, Directory, DirectoryError,
        records::{self, ChannelRecord, of_channel, of_user},
    },
    list_cursor::ListCursors,
    read_markers::read_state,
    rights::{Author, Change},
};
use crate::{
    clock,
    engine::{Engine, RecordError, Table},
    limits::{DELETION_PAUSE, LIST_SCAN_MAX, Limits, RENAME_TIMEOUT, SCAN_STEP},
    log::{
        place::{ChannelId, ClientMessageId, Sequence, UserId},
        settings::{Role, Settings, Visibility},
    },
    wire::{
        channels::{ChannelCommand, ChannelFilter, ChannelView, ListPage, MemberView, Update},
        code::ErrorCode,
        decode::{ChannelRef, Page},
        encode::{Refusal, Reply},
    },
};

/// Does what users want of channels and members.
#[derive(Debug)]
pub struct Desk<E> {
    engine: Arc<E>,
    directory: Arc<Directory<E>>,
    hub: WeakHub,
    cursors: ListCursors,
    /// What is left to each user of commands that cost no place in a log.
    allowance: std::sync::Mutex<Allowance>,
    /// Held by who makes a webhook.
    pub(super) webhooks: Mutex<()>,
}

/// Why there is no answer but a code.
pub(super) struct Refused(ErrorCode);

impl From<Refused> for ErrorCode {
    fn from(Refused(code): Refused) -> Self {
        code
    }
}

impl From<ErrorCode> for Refused {
    fn from(code: ErrorCode) -> Self {
        Self(code)
    }
}

impl From<DirectoryError> for Refused {
    fn from(error: DirectoryError) -> Self {
        if matches!(error, DirectoryError::Damaged) {
            tracing::error!(%error, "the directory cannot answer");
        }
        Self((&error).into())
    }
}

impl From<RecordError> for Refused {
    fn from(error: RecordError) -> Self {
        DirectoryError::from(error).into()
    }
}

impl<E: Engine> Desk<E> {
    /// A desk that asks this hub.
    #[must_use]
    pub fn new(
        engine: Arc<E>,
        directory: Arc<Directory<E>>,
        hub: &Hub,
        cursors: ListCursors,
    ) -> Self {
        let allowance = std::sync::Mutex::new(Allowance::new(&Limits::default()));
        let (hub, webhooks) = (hub.downgrade(), Mutex::default());
        Self { engine, directory, hub, cursors, allowance, webhooks }
    }

    /// The same, where these limits hold.
    #[must_use]
    pub fn limited(self, limits: &Limits) -> Self {
        Self { allowance: std::sync::Mutex::new(Allowance::new(limits)), ..self }
    }

    /// The names.
    #[must_use]
    pub const fn directory(&self) -> &Arc<Directory<E>> {
        &self.directory
    }

    /// The engine.
    #[must_use]
    pub const fn engine(&self) -> &Arc<E> {
        &self.engine
    }

    /// The seals of lists.
    #[must_use]
    pub const fn cursors(&self) -> &ListCursors {
        &self.cursors
    }

    /// Does what a user wants.
    pub async fn perform(&self, user: UserId, command: ChannelCommand) -> Reply {
        self.perform_by(user, None, command).await
    }

    /// The same, asked for on this connection.
    pub async fn perform_by(
        &self,
        user: UserId,
        by: Option<ConnectionKey>,
        command: ChannelCommand,
    ) -> Reply {
        let done = match command {
            ChannelCommand::Create(settings) => self.create(user, &settings).await,
            ChannelCommand::Get(channel) => self.get(user, &channel).await,
            ChannelCommand::List(filter, page) => self.list(&filter, page).await,
            ChannelCommand::Memberships(page) => self.memberships(user, page).await,
            ChannelCommand::Update(channel, update) => self.update(user, &channel, update).await,
            ChannelCommand::Delete(channel) => self.change(user, &channel, Change::Delete).await,
            ChannelCommand::Join(channel) => self.change(user, &channel, Change::Join).await,
            ChannelCommand::Leave(channel) => self.change(user, &channel, Change::Leave).await,
            ChannelCommand::SetMember(channel, member, role) => {
                self.set_member(user, &channel, member, role).await
            }
            ChannelCommand::RemoveMember(channel, member) => {
                self.change(user, &channel, Change::RemoveMember(member)).await
            }
            ChannelCommand::Members(channel, page) => self.members(user, &channel, page).await,
            ChannelCommand::FindUsers(name) => self.find_users(&name).await,
            ChannelCommand::Presence(channel) => {
                self.ephemeral(user, &channel, Wanted::Presence(user)).await
            }
            ChannelCommand::Typing(channel) => {
                self.ephemeral(user, &channel, Wanted::Typing(user)).await
            }
            ChannelCommand::MarkRead(channel, read) => match self.spend(user) {
                Ok(()) => self.mark_read(user, by, &channel, read).await,
                Err(refusal) => Ok(Reply::Refused(refusal)),
            },
        };
        done.unwrap_or_else(|Refused(code)| Reply::Refused(code.into()))
    }

    /// The channel that a user names, if the user may know of it.
    ///
    /// # Errors
    /// When there is none for this user or the records cannot be read.
    pub async fn find(&self, user: UserId, channel: &ChannelRef) -> Result<ChannelInfo, ErrorCode> {
        let found = self.directory.channel_for(user, channel).await;
        found.map_err(|error| Refused::from(error).into())
    }

    /// Publishes to a channel that the author may know of.
    pub async fn publish(
        &self,
        author: Author,
        channel: ChannelInfo,
        client_message_id: Option<ClientMessageId>,
        body: String,
    ) -> Reply {
        self.call(channel, Wanted::Publish { author, client_message_id, body }).await
    }

    /// Reads a page of a channel's history.
    pub async fn history(&self, user: UserId, channel: ChannelInfo, page: Page) -> Reply {
        self.call(channel, Wanted::History(user, page)).await
    }

    pub(super) async fn call(&self, channel: ChannelInfo, wanted: Wanted) -> Reply {
        match self.hub.upgrade() {
            Some(hub) => hub.call(channel, wanted).await,
            None => Reply::Refused(ErrorCode::Draining.into()),
        }
    }

    async fn create(&self, user: UserId, settings: &Settings) -> Result<Reply, Refused> {
        let made = self.directory.create_channel(settings, Some(user), clock::unix_ms()).await?;
        Ok(Reply::Channel(Box::new(made.view(Some(Role::Owner)))))
    }

    async fn get(&self, user: UserId, channel: &ChannelRef) -> Result<Reply, Refused> {
        let id = self.directory.channel_for(user, channel).await?.id;
        let (record, role) = (self.directory.record(id), self.directory.role(id, user));
        let (record, role) = (record.await?, role.await?);
        // The membership may have ended since, and the record be of after that.
        if record.visibility == Visibility::Private && role.is_none() {
            return Err(ErrorCode::UnknownChannel.into());
        }
        Ok(Reply::Channel(Box::new(record.view(role))))
    }

    async fn list(&self, filter: &ChannelFilter, page: ListPage) -> Result<Reply, Refused> {
        let list = format!("channels {filter:?}");
        let mut after = self.opened(&list, page.after.as_deref())?;
        let mut listed = Vec::new();
        let mut scanned = 0;
        let next = loop {
            let count = page.limit - listed.len();
            let table = Table::PublicChannels;
            let found = self.engine.scan(table, &filter.prefix, after.as_deref(), count).await?;
            let is_end = found.len() < count;
            scanned += found.len();
            for (name, record) in found {
                let record: ChannelRecord = records::parse(&record)?;
                if filter.archived.is_none_or(|archived| archived == record.archived) {
                    listed.push(record.view(None));
                }
                after = Some(name);
            }
            if is_end {
                break None;
            }
            if listed.len() >= page.limit || scanned >= LIST_SCAN_MAX {
                break after;
            }
        };
        Ok(Reply::Channels(listed, next.map(|place| self.cursors.seal(&list, &place))))
    }

    async fn memberships(&self, user: UserId, page: ListPage) -> Result<Reply, Refused> {
        let list = format!("memberships {}", user.0);
        let after = self.opened(&list, page.after.as_deref())?;
        let (table, prefix) = (Table::Memberships, of_user(user));
        let found = self.engine.scan(table, &prefix, after.as_deref(), page.limit).await?;
        let next = (found.len() == page.limit)
            .then(|| found.last().map(|(key, _)| self.cursors.seal(&list, key)))
            .flatten();
        // All are asked for before the first is waited for.
        let mut asked = Vec::with_capacity(found.len());
        for (key, record) in &found {
            let id = ChannelId(records::last_number(key).ok_or(DirectoryError::Damaged)?);
            let member: records::MemberRecord = records::parse(record)?;
            let key = records::channel_key(id);
            asked.push((id, member, self.engine.get(Table::Channels, &key)));
        }
        let markers = self.read_markers(user, after, &found).await?;
        // After the markers: none lies beyond its channel's head.
        let heads = self.engine.heads(asked.iter().map(|(id, ..)| *id).collect());
        let heads = heads.await.map_err(|error| read_code(&error))?;
        let mut listed = Vec::with_capacity(asked.len());
        for ((id, member, record), end) in asked.into_iter().zip(heads) {
            // One that was just deleted has left its memberships behind for a moment.
            let Some(record) = record.await? else { continue };
            let record = ChannelRecord::parse(id, &record)?;
            let read = read_state(&record, end, markers.get(&id).copied(), member);
            listed.push(ChannelView { read, ..record.view(Some(member.role)) });
        }
        Ok(Reply::Channels(listed, next))
    }

    async fn members(
        &self,
        user: UserId,
        channel: &ChannelRef,
        page: ListPage,
    ) -> Result<Reply, Refused> {
        let channel = self.directory.channel_for(user, channel).await?.id;
        let list = format!("members {}", channel.0);
        let after = self.opened(&list, page.after.as_deref())?;
        let (table, prefix) = (Table::Members, of_channel(channel));
        let found = self.engine.scan(table, &prefix, after.as_deref(), page.limit).await?;
        let next = (found.len() == page.limit)
            .then(|| found.last().map(|(key, _)| self.cursors.seal(&list, key)))
            .flatten();
        let mut listed = Vec::with_capacity(found.len());
        for (key, record) in &found {
            let user = UserId(records::last_number(key).ok_or(DirectoryError::Damaged)?);
            let record: records::MemberRecord = records::parse(record)?;
            let name = self.directory.user_name(user).await?;
            listed.push(MemberView {
                channel,
                user,
                name: name.map(|name| name.to_string()).unwrap_or_default(),
                role: Some(record.role),
                sequence: Sequence(record.since),
            });
        }
        Ok(Reply::Members(listed, next))
    }

    async fn find_users(&self, name: &str) -> Result<Reply, Refused> {
        let users = self.directory.users_named(name).await?;
        Ok(Reply::Users(users.into_iter().map(|user| (user, name.to_owned())).collect()))
    }

    async fn set_member(
        &self,
        user: UserId,
        channel: &ChannelRef,
        member: UserId,
        role: Role,
    ) -> Result<Reply, Refused> {
        // Before the user is looked for: who may not know of the channel learns nothing of users.
        let channel = self.directory.channel_for(user, channel).await?;
        if self.directory.user_name(member).await?.is_none() {
            return Err(ErrorCode::UnknownUser.into());
        }
        Ok(self.call(channel, Wanted::Change(user, Change::SetMember(member, role))).await)
    }

    async fn update(
        &self,
        user: UserId,
        channel: &ChannelRef,
        update: Update,
    ) -> Result<Reply, Refused> {
        let channel = self.directory.channel_for(user, channel).await?;
        let new_name = update.name.clone().filter(|name| **name != *channel.name);
        let Some(name) = new_name else {
            let update = Update { name: None, ..update };
            return Ok(self.call(channel, Wanted::Change(user, Change::Update(update))).await);
        };
        // Who may not rename it does not hold a name up either.
        if self.directory.role(channel.id, user).await? != Some(Role::Owner) {
            return Err(ErrorCode::Forbidden.into());
        }
        let (id, now_s) = (channel.id, clock::unix_s());
        self.directory.claim_name(&name, id, now_s).await?;
        let until_ms = (now_s + RENAME_TIMEOUT.as_secs()) * 1_000;
        let rename = Change::Rename(update, until_ms);
        let reply = self.call(channel, Wanted::Change(user, rename)).await;
        if matches!(reply, Reply::Refused(_)) {
            self.directory.release_name(&name, id).await?;
        }
        Ok(reply)
    }

    async fn change(
        &self,
        user: UserId,
        channel: &ChannelRef,
        change: Change,
    ) -> Result<Reply, Refused> {
        let channel = self.directory.channel_for(user, channel).await?;
        Ok(self.call(channel, Wanted::Change(user, change)).await)
    }

    /// Takes one command out of the user's allowance.
    fn spend(&self, user: UserId) -> Result<(), Refusal> {
        // Nothing that can panic is done with it.
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        allowance.take(user, Instant::now())
    }

    async fn ephemeral(
        &self,
        user: UserId,
        channel: &ChannelRef,
        wanted: Wanted,
    ) -> Result<Reply, Refused> {
        if let Err(refusal) = self.spend(user) {
            return Ok(Reply::Refused(refusal));
        }
        let channel = self.directory.channel_for(user, channel).await?;
        Ok(self.call(channel, wanted).await)
    }

    fn opened(&self, list: &str, after: Option<&str>) -> Result<Option<String>, Refused> {
        let open = |cursor| self.cursors.open(list, cursor);
        after.map(open).transpose().map_err(|_| ErrorCode::BadRequest.into())
    }

    /// Removes what deleted channels have left behind, each time some are deleted. Never ends. Every node
    /// does so: what another has removed first is removed.
    pub async fn remove_deleted(&self) {
        loop {
            let pause = match self.remove_all_deleted().await {
                Ok(()) => Duration::MAX,
                Err(error) => {
                    tracing::warn!(%error, "a deleted channel's data could not be removed yet");
                    DELETION_PAUSE
                }
            };
            // An error means that it is time to try again.
            let _ = timeout(pause, self.directory.deletions.notified()).await;
        }
    }

    async fn remove_all_deleted(&self) -> Result<(), DirectoryError> {
        let (engine, mut after) = (&self.engine, None::<String>);
        loop {
            let found = engine.scan(Table::Deletions, "id:", after.as_deref(), SCAN_STEP).await?;
            if found.is_empty() {
                return Ok(());
            }
            for (key, deletion) in found {
                let id = ChannelId(records::last_number(&key).ok_or(DirectoryError::Damaged)?);
                // All but the last entry, which says that the channel is no more.
                engine.trim(id, Sequence(u64::MAX)).await?;
                self.remove_records(id).await?;
                removed(engine.remove(Table::Deletions, &key, deletion.revision).await)?;
                tracing::info!(channel = id.0, "a deleted channel's data is removed");
                after = Some(key);
            }
        }
    }

    /// Removes what hangs on a channel's number.
    async fn remove_records(&self, channel: ChannelId) -> Result<(), DirectoryError> {
        let prefix = of_channel(channel);
        for table in [Table::Members, Table::Webhooks, Table::Imports, Table::ImportKeys] {
            loop {
                let found = self.engine.scan(table, &prefix, None, SCAN_STEP).await?;
                if found.is_empty() {
                    break;
                }
                for (key, record) in found {
                    if table == Table::Members {
                        let user = records::last_number(&key).ok_or(DirectoryError::Damaged)?;
                        let key = records::membership_key(UserId(user), channel);
                        for table in [Table::Memberships, Table::ReadMarkers] {
                            if let Some(mine) = self.engine.get(table, &key).await? {
                                removed(self.engine.remove(table, &key, mine.revision).await)?;
                            }
                        }
                    }
                    removed(self.engine.remove(table, &key, record.revision).await)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a record is removed, by whomever.
fn removed(answer: Result<(), RecordError>) -> Result<(), RecordError> {
    match answer {
        Ok(()) | Err(RecordError::Conflict) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::engine::{Expect, memory::MemoryEngine};

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nodes_that_remove_the_same_do_not_get_in_each_others_way() {
        let engine = MemoryEngine::default();
        let put = async |table, key: &str| {
            engine.put(table, key, "{}".into(), Expect::Absent).await.unwrap();
        };
        for channel in (1..=20).map(ChannelId) {
            for user in (1..=20).map(UserId) {
                put(Table::Members, &records::member_key(channel, user)).await;
                put(Table::Memberships, &records::membership_key(user, channel)).await;
            }
            put(Table::Deletions, &records::channel_key(channel)).await;
        }
        let mut nodes = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let desk = a_desk(&Arc::new(engine.another_node()));
            nodes.spawn(async move { desk.remove_all_deleted().await });
        }
        assert_eq!(nodes.join_all().await, [const { Ok(()) }; 4]);
        for table in [Table::Members, Table::Memberships, Table::Deletions] {
            assert_eq!(engine.scan(table, "", None, 1_000).await.unwrap().len(), 0, "{table:?}");
        }
    }

    /// A desk of a hub that is not there.
    pub(crate) fn a_desk<E: Engine>(engine: &Arc<E>) -> Arc<Desk<E>> {
        let directory = Arc::new(Directory::new(Arc::clone(engine)));
        let hub = Hub::new(Vec::new());
        Arc::new(Desk::new(Arc::clone(engine), directory, &hub, ListCursors::new(b"secret")))
    }
}
