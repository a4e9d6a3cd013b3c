//! Names ↔ numbers, for channels and users. Names are for people; numbers are on the wire.
//!
//! Two records each: name → number and number → what is known of it, written in one step. What was
//! looked up once stays in a bounded map that the edge and all shards share; no guard of these maps
//! leaves this file. What a channel is changes with entries of its log: the shard that owns it writes
//! the records with them, and tells the maps by [`Directory::learn`] and [`Directory::forget`]. What was
//! read while something changed is answered, but not kept: it may be what was so before.

use std::{
    hint::black_box,
    ops::Range,
    sync::{Arc, atomic::AtomicU64},
};

use dashmap::DashMap;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{Mutex, Notify};

use self::records::{
    ChannelRecord, MemberRecord, NameRecord, channel_key, format, member_key, name_key,
    new_membership, of_channel, parse,
};
use super::cluster;
use crate::{
    engine::{Derived, Engine, Expect, RecordError, Revision, Table, Versioned},
    limits::{
        CHANNEL_NAME_BYTES_MAX, DIRECTORY_CACHED_MAX, NAME_CLAIM_TIMEOUT, NUMBER_ATTEMPTS_MAX,
        NUMBER_BLOCK, SCAN_STEP, USERS_FOUND_MAX,
    },
    log::{
        place::{ChannelId, Epoch, UserId},
        settings::{Access, Role, Settings},
    },
    wire::{cluster::changed::What, code::ErrorCode, decode::ChannelRef},
};

mod known;
pub mod records;

/// What the subjects begin with of users that no token is for: those of the hub itself.
pub const RESERVED_SUBJECTS: &str = "hubbub:";

/// The record that counts the numbers of channels.
const CHANNEL_NUMBERS: &str = "channels";

/// A channel as the directory knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChannelInfo {
    /// Its number.
    pub id: ChannelId,
    /// Its name.
    pub name: Arc<str>,
    /// When its numbering began, for as long as its log is empty.
    pub epoch: Epoch,
    /// What has to be known of who wants something of it.
    pub access: Access,
}

/// A user as the directory knows one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Person {
    /// The subject of the user's tokens.
    pub subject: String,
    /// The display name.
    pub name: String,
}

/// Why the directory has no answer.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum DirectoryError {
    /// There is no such channel.
    #[error("no channel has this name or number")]
    UnknownChannel,
    /// The name is taken.
    #[error("a channel of this name exists")]
    ChannelExists,
    /// Others kept changing the same record.
    #[error("too many tries collided")]
    Contended,
    /// A record does not say what it should.
    #[error("a directory record is damaged")]
    Damaged,
    /// The records cannot be read or written.
    #[error("the records cannot be reached")]
    Records(#[from] RecordError),
}

impl From<&DirectoryError> for ErrorCode {
    fn from(error: &DirectoryError) -> Self {
        match error {
            DirectoryError::UnknownChannel => Self::UnknownChannel,
            DirectoryError::ChannelExists => Self::ChannelExists,
            DirectoryError::Contended | DirectoryError::Records(RecordError::Busy) => Self::Busy,
            DirectoryError::Damaged
            | DirectoryError::Records(RecordError::Conflict | RecordError::TooLarge) => {
                Self::Internal
            }
            DirectoryError::Records(RecordError::StorageUnavailable) => Self::StorageUnavailable,
        }
    }
}

/// Looks names and numbers up, and gives out new ones.
#[derive(Debug)]
pub struct Directory<E> {
    engine: Arc<E>,
    known: known::Channels,
    /// What stands for a private channel where there is none; see [`Directory::cached_channel_for`].
    decoys: known::Channels,
    user_names: DashMap<UserId, Arc<str>>,
    user_ids: DashMap<Box<str>, UserId>,
    /// Members of private channels, as far as they have been looked up. Who is not here may be one.
    members: DashMap<(ChannelId, UserId), ()>,
    /// Counts what the maps were told. Who reads a record looks at it before the read, and again when
    /// it has the place in the map to itself: if it has moved, the record may be of before.
    changes: AtomicU64,
    channel_numbers: Counter,
    user_numbers: Counter,
    /// Rung when a channel was deleted, and its data is to be removed.
    pub deletions: Notify,
}

/// Gives out numbers from 1 on. A number that a crash leaves unused stays so.
#[derive(Debug)]
struct Counter {
    name: &'static str,
    /// Reserved in the records, not yet given out.
    reserved: Mutex<Range<u32>>,
}

impl Counter {
    fn new(name: &'static str) -> Self {
        Self { name, reserved: Mutex::new(0..0) }
    }
}

#[derive(Serialize, Deserialize)]
struct NumberRecord {
    id: u32,
}

/// The highest number that any channel of this engine may have, also one that is deleted.
///
/// # Errors
/// When the record cannot be read.
pub async fn last_channel(engine: &impl Engine) -> Result<ChannelId, DirectoryError> {
    let found = engine.get(Table::Counters, CHANNEL_NUMBERS).await?;
    let last = found.map(|found| parse::<NumberRecord>(&found)).transpose()?;
    Ok(ChannelId(last.map_or(0, |last| last.id)))
}

/// How far the lists by name have been made.
#[derive(Default, Serialize, Deserialize)]
struct Indexed {
    after: Option<String>,
    is_over: bool,
}

#[derive(Serialize, Deserialize)]
struct UserRecord {
    subject: String,
    name: String,
}

impl<E: Engine> Directory<E> {
    /// A directory over an engine's records.
    #[must_use]
    pub fn new(engine: Arc<E>) -> Self {
        Self {
            engine,
            known: known::Channels::default(),
            decoys: known::Channels::decoys(),
            user_names: DashMap::new(),
            user_ids: DashMap::new(),
            members: DashMap::new(),
            changes: AtomicU64::new(0),
            channel_numbers: Counter::new(CHANNEL_NUMBERS),
            user_numbers: Counter::new("users"),
            deletions: Notify::new(),
        }
    }

    /// The channel of this name.
    ///
    /// # Errors
    /// When there is none or the records cannot be read.
    pub async fn channel_by_name(&self, name: &str) -> Result<ChannelInfo, DirectoryError> {
        match self.cached_channel_by_name(name) {
            Some(channel) => Ok(channel),
            None => self.find_by_name(name).await?.ok_or(DirectoryError::UnknownChannel),
        }
    }

    /// The channel of this number.
    ///
    /// # Errors
    /// When there is none or the records cannot be read.
    pub async fn channel(&self, id: ChannelId) -> Result<ChannelInfo, DirectoryError> {
        match self.cached_channel(id) {
            Some(channel) => Ok(channel),
            None => self.find(id).await?.ok_or(DirectoryError::UnknownChannel),
        }
    }

    /// The channel that a user names, if the user may know of it. A private channel costs who is no
    /// member exactly the reads that a missing one does, of as many records that are there and that are
    /// not, and the same work with what they find, and has the same answer.
    ///
    /// # Errors
    /// When there is none for this user or the records cannot be read.
    pub async fn channel_for(
        &self,
        user: UserId,
        channel: &ChannelRef,
    ) -> Result<ChannelInfo, DirectoryError> {
        if let Some(channel) = self.cached_channel_for(user, channel) {
            return Ok(channel);
        }
        let changes = self.changes();
        let found = match channel {
            ChannelRef::Id(id) => self.find(*id).await?,
            ChannelRef::Name(name) => self.find_by_name(name).await?,
        };
        // A stranger's membership is a record that is not there. Where the one that was looked for before
        // was not either, this one is.
        let id = found.as_ref().map_or(ChannelId(0), |channel| channel.id);
        let record = self.get_or_decoy(id, Table::Members, &member_key(id, user)).await?;
        let channel = found.ok_or(DirectoryError::UnknownChannel)?;
        if channel.access == Access::Private {
            let record = record.ok_or(DirectoryError::UnknownChannel)?;
            parse::<MemberRecord>(&record)?;
            self.keep_member(changes, channel.id, user);
        }
        Ok(channel)
    }

    /// Reads a record about a channel, or for number 0, which is nobody's, one that is there as soon as any
    /// channel is.
    async fn get_or_decoy(
        &self,
        id: ChannelId,
        table: Table,
        key: &str,
    ) -> Result<Option<Versioned>, RecordError> {
        let is_decoy = id == ChannelId(0);
        let decoy = (Table::Counters, self.channel_numbers.name);
        let (table, key) = if is_decoy { decoy } else { (table, key) };
        self.engine.get(table, key).await
    }

    /// What a user is in a channel.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub async fn role(
        &self,
        channel: ChannelId,
        user: UserId,
    ) -> Result<Option<Role>, DirectoryError> {
        self.member(channel, user).await.map(|member| member.map(|member| member.role))
    }

    /// What is known of a member.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub async fn member(
        &self,
        channel: ChannelId,
        user: UserId,
    ) -> Result<Option<MemberRecord>, DirectoryError> {
        let found = self.engine.get(Table::Members, &member_key(channel, user)).await?;
        found.as_ref().map(parse).transpose()
    }

    /// All that is known of a channel.
    ///
    /// # Errors
    /// When there is none or the records cannot be read.
    pub async fn record(&self, id: ChannelId) -> Result<ChannelRecord, DirectoryError> {
        let found = self.engine.get(Table::Channels, &channel_key(id)).await?;
        ChannelRecord::parse(id, &found.ok_or(DirectoryError::UnknownChannel)?)
    }

    /// All members of a channel.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub async fn members(&self, id: ChannelId) -> Result<Vec<(UserId, Role)>, DirectoryError> {
        let mut members = Vec::new();
        let mut after = None;
        loop {
            let prefix = of_channel(id);
            let page =
                self.engine.scan(Table::Members, &prefix, after.as_deref(), SCAN_STEP).await?;
            for (key, record) in &page {
                let user = records::last_number(key).ok_or(DirectoryError::Damaged)?;
                members.push((UserId(user), parse::<MemberRecord>(record)?.role));
            }
            match page.into_iter().next_back() {
                Some((last, _)) => after = Some(last),
                None => return Ok(members),
            }
        }
    }

    async fn find_by_name(&self, name: &str) -> Result<Option<ChannelInfo>, DirectoryError> {
        // No channel has a longer one, and a key is not to be as long as a frame.
        let name = if name.len() > CHANNEL_NAME_BYTES_MAX { "" } else { name };
        let found = self.engine.get(Table::Channels, &name_key(name)).await?;
        let id = match found {
            Some(found) => parse::<NameRecord>(&found)?.id,
            None => black_box(decoy::<NameRecord>(DECOY_NAME)).map_or(0, |_| 0),
        };
        let found = self.find(ChannelId(id)).await?;
        // A name that was claimed for a channel is not its own yet.
        Ok(found.filter(|channel| *channel.name == *name))
    }

    async fn find(&self, id: ChannelId) -> Result<Option<ChannelInfo>, DirectoryError> {
        let changes = self.changes();
        let found = self.get_or_decoy(id, Table::Channels, &channel_key(id)).await?;
        let Some(found) = found.filter(|_| id != ChannelId(0)) else {
            if let Some(record) = decoy::<ChannelRecord>(DECOY_CHANNEL) {
                self.keep(u64::MAX, &black_box(record.info()));
            }
            return Ok(None);
        };
        let channel = ChannelRecord::parse(id, &found)?.info();
        self.keep(changes, &channel);
        Ok(Some(channel))
    }

    /// The names of channels in order, up to `count_max` of those after the name `after`. Some may be
    /// nobody's any more.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub async fn channel_names(
        &self,
        after: Option<&str>,
        count_max: usize,
    ) -> Result<Vec<String>, DirectoryError> {
        let prefix = name_key("");
        let after = after.map(name_key);
        let page = self.engine.scan(Table::Channels, &prefix, after.as_deref(), count_max).await?;
        Ok(page.into_iter().map(|(key, _)| key[prefix.len()..].to_owned()).collect())
    }

    /// The numbers of channels in some order that does not change, up to `count_max` of those after
    /// the number `after`. Some may be nobody's.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub async fn channel_numbers(
        &self,
        after: Option<ChannelId>,
        count_max: usize,
    ) -> Result<Vec<ChannelId>, DirectoryError> {
        let after = after.map(channel_key);
        let page = self.engine.scan(Table::Channels, "id:", after.as_deref(), count_max).await?;
        let number = |(key, _): &(String, Versioned)| records::last_number(key).map(ChannelId);
        page.iter().map(|record| number(record).ok_or(DirectoryError::Damaged)).collect()
    }

    /// Makes a channel. `now_ms` (milliseconds since 1970) becomes its epoch, in seconds.
    ///
    /// # Errors
    /// When the name is taken or the records cannot be written.
    pub async fn create_channel(
        &self,
        settings: &Settings,
        owner: Option<UserId>,
        now_ms: u64,
    ) -> Result<ChannelRecord, DirectoryError> {
        let members = owner.map(|owner| (owner, Role::Owner)).into_iter().collect();
        self.make_channel(settings, owner, members, now_ms, now_ms).await
    }

    /// Makes a channel as it was elsewhere, where it was made at `created_at_ms`.
    ///
    /// # Errors
    /// When the name is taken or the records cannot be written.
    pub async fn import_channel(
        &self,
        settings: &Settings,
        members: Vec<(UserId, Role)>,
        created_at_ms: u64,
        now_ms: u64,
    ) -> Result<ChannelRecord, DirectoryError> {
        self.make_channel(settings, None, members, created_at_ms, now_ms).await
    }

    /// Adds members to a channel that was just imported and made elsewhere at `created_at_ms`. Whether
    /// it is that channel, and there were any to add.
    ///
    /// # Errors
    /// When the records cannot be read or written.
    pub async fn import_members(
        &self,
        id: ChannelId,
        members: Vec<(UserId, Role)>,
        created_at_ms: u64,
    ) -> Result<bool, DirectoryError> {
        let key = channel_key(id);
        let found = self.engine.get(Table::Channels, &key).await?;
        let found = found.ok_or(DirectoryError::UnknownChannel)?;
        let mut record = ChannelRecord::parse(id, &found)?;
        let mut derived = Vec::new();
        if record.created_at_ms == created_at_ms {
            for (user, role) in members {
                if self.role(id, user).await?.is_none() {
                    record.member_count = record.member_count.saturating_add(1);
                    derived.extend(new_membership(id, user, role, record.beginning()));
                }
            }
        }
        if derived.is_empty() {
            return Ok(false);
        }
        derived.extend(record.derived());
        let expect = Expect::Revision(found.revision);
        match self.engine.put_with(Table::Channels, &key, found.value, expect, derived).await {
            Ok(_) => {
                // No entry of the log says so.
                if let Some(bus) = self.engine.bus() {
                    bus.cast(cluster::changed(What::MembersOf(id.0)));
                }
                Ok(true)
            }
            Err(RecordError::Conflict) => Err(DirectoryError::Contended),
            Err(error) => Err(error.into()),
        }
    }

    async fn make_channel(
        &self,
        settings: &Settings,
        by: Option<UserId>,
        members: Vec<(UserId, Role)>,
        created_at_ms: u64,
        now_ms: u64,
    ) -> Result<ChannelRecord, DirectoryError> {
        let name = &*settings.name;
        let now_s = now_ms / 1_000;
        let (expect, last_epoch) = self.free_name(name, now_s).await?;
        let id = self.next_number(&self.channel_numbers).await?;
        let changes = self.changes();
        let epoch = u32::try_from(now_s).unwrap_or(u32::MAX).max(last_epoch.saturating_add(1));
        let by = by.unwrap_or(UserId(0));
        let mut record = ChannelRecord::new(ChannelId(id), settings, Epoch(epoch), by);
        record.created_at_ms = created_at_ms;
        record.member_count = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let members = members
            .into_iter()
            .flat_map(|(user, role)| new_membership(ChannelId(id), user, role, record.beginning()));
        let derived = record.derived().chain(members).collect();
        let named = format(&NameRecord::of(ChannelId(id)));
        match self.engine.put_with(Table::Channels, &name_key(name), named, expect, derived).await {
            Ok(_) => {
                self.keep(changes, &record.info());
                Ok(record)
            }
            Err(RecordError::Conflict) => Err(DirectoryError::ChannelExists),
            Err(error) => Err(error.into()),
        }
    }

    /// Claims a name for a channel that is about to have it.
    ///
    /// # Errors
    /// When the name is taken or the records cannot be written.
    pub async fn claim_name(
        &self,
        name: &str,
        channel: ChannelId,
        now_s: u64,
    ) -> Result<(), DirectoryError> {
        let (expect, last_epoch) = self.free_name(name, now_s).await?;
        let claim = format(&NameRecord { id: channel.0, claimed_at_s: now_s, last_epoch });
        match self.engine.put(Table::Channels, &name_key(name), claim, expect).await {
            Ok(_) => Ok(()),
            Err(RecordError::Conflict) => Err(DirectoryError::ChannelExists),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a claimed name back that the channel did not get.
    ///
    /// # Errors
    /// When the records cannot be read or written.
    pub async fn release_name(&self, name: &str, channel: ChannelId) -> Result<(), DirectoryError> {
        let key = name_key(name);
        let Some(found) = self.engine.get(Table::Channels, &key).await? else { return Ok(()) };
        let record: NameRecord = parse(&found)?;
        if record.id != channel.0 || record.claimed_at_s == 0 {
            return Ok(());
        }
        let free = format(&NameRecord { id: 0, claimed_at_s: 0, ..record });
        match self.engine.put(Table::Channels, &key, free, Expect::Revision(found.revision)).await {
            // Somebody else's already.
            Ok(_) | Err(RecordError::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What the record of a name must be for it to be taken, and the last epoch under it.
    async fn free_name(&self, name: &str, now_s: u64) -> Result<(Expect, u32), DirectoryError> {
        let Some(found) = self.engine.get(Table::Channels, &name_key(name)).await? else {
            return Ok((Expect::Absent, 0));
        };
        let record: NameRecord = parse(&found)?;
        let is_free = record.id == 0
            || (record.claimed_at_s > 0
                && now_s.abs_diff(record.claimed_at_s) > NAME_CLAIM_TIMEOUT.as_secs());
        if is_free {
            Ok((Expect::Revision(found.revision), record.last_epoch))
        } else {
            Err(DirectoryError::ChannelExists)
        }
    }

    /// The user of this token subject; a new one gets a number. The name is brought up to date.
    ///
    /// # Errors
    /// When the records cannot be read or written.
    pub async fn user(&self, subject: &str, name: &str) -> Result<UserId, DirectoryError> {
        let known = self.user_ids.get(subject).map(|id| *id);
        if let Some(id) = known
            && self.user_names.get(&id).is_some_and(|known| **known == *name)
        {
            return Ok(id);
        }
        let by_subject = format!("subject:{subject}");
        let id = match self.engine.get(Table::Users, &by_subject).await? {
            Some(found) => parse::<NumberRecord>(&found)?.id,
            None => self.create_user(subject, name, &by_subject).await?,
        };
        let id = UserId(id);
        let changes = self.changes();
        self.update_name(id, subject, name).await?;
        bound(&self.user_ids);
        self.user_ids.insert(subject.into(), id);
        self.keep_name(changes, id, name.into());
        Ok(id)
    }

    /// The user of this token subject, under whatever name; `None` if there is none yet.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub async fn user_of(&self, subject: &str) -> Result<Option<UserId>, DirectoryError> {
        let known = self.user_ids.get(subject).map(|id| *id);
        if known.is_some() {
            return Ok(known);
        }
        let found = self.engine.get(Table::Users, &format!("subject:{subject}")).await?;
        found.map(|found| Ok(UserId(parse::<NumberRecord>(&found)?.id))).transpose()
    }

    /// A user's display name; `None` if nobody has this number.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub async fn user_name(&self, id: UserId) -> Result<Option<Arc<str>>, DirectoryError> {
        let known = self.user_names.get(&id).map(|name| Arc::clone(&name));
        if known.is_some() {
            return Ok(known);
        }
        let changes = self.changes();
        let Some(found) = self.engine.get(Table::Users, &format!("id:{}", id.0)).await? else {
            return Ok(None);
        };
        let record: UserRecord = parse(&found)?;
        let name: Arc<str> = record.name.into();
        self.keep_name(changes, id, Arc::clone(&name));
        Ok(Some(name))
    }

    /// The token subject of a user; `None` if nobody has this number.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub async fn subject(&self, id: UserId) -> Result<Option<String>, DirectoryError> {
        let Some(found) = self.engine.get(Table::Users, &format!("id:{}", id.0)).await? else {
            return Ok(None);
        };
        let UserRecord { subject, .. } = parse(&found)?;
        // A number that lost the race for its subject is nobody's.
        let owner = self.engine.get(Table::Users, &format!("subject:{subject}")).await?;
        let Some(owner) = owner else { return Ok(None) };
        Ok((parse::<NumberRecord>(&owner)?.id == id.0).then_some(subject))
    }

    /// Who a user is, in one read. Only for a number that is in a log or a list of
    /// members: others may be nobody's.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub async fn person(&self, id: UserId) -> Result<Option<Person>, DirectoryError> {
        let found = self.engine.get(Table::Users, &format!("id:{}", id.0)).await?;
        let record = found.as_ref().map(parse::<UserRecord>).transpose()?;
        Ok(record.map(|UserRecord { subject, name }| Person { subject, name }))
    }

    /// Lists by name what an older version has only by number: public channels and users. Goes on where
    /// it was interrupted, and is over at once when it has been done.
    ///
    /// # Errors
    /// When the records cannot be read or written.
    pub async fn index_older(&self) -> Result<(), DirectoryError> {
        for table in [Table::Channels, Table::Users] {
            let key = format!("indexed:{}", table.name());
            loop {
                let found = self.engine.get(Table::Counters, &key).await?;
                let expect =
                    found.as_ref().map_or(Expect::Absent, |it| Expect::Revision(it.revision));
                let done = found.map(|found| parse::<Indexed>(&found)).transpose()?;
                let Indexed { after, is_over } = done.unwrap_or_default();
                if is_over {
                    break;
                }
                let page = self.engine.scan(table, "id:", after.as_deref(), SCAN_STEP).await?;
                let is_over = page.len() < SCAN_STEP;
                let after = page.last().map(|(key, _)| key.clone());
                let mut derived = Vec::new();
                for (key, record) in page {
                    let id = records::last_number(&key).ok_or(DirectoryError::Damaged)?;
                    if table == Table::Channels {
                        derived.extend(self.listed(ChannelId(id), &record).await?);
                    } else {
                        let UserRecord { name, .. } = parse(&record)?;
                        derived.push(named(&name, UserId(id), true));
                    }
                }
                let step = format(&Indexed { after, is_over });
                match self.engine.put_with(Table::Counters, &key, step, expect, derived).await {
                    // Another node has done this step.
                    Ok(_) | Err(RecordError::Conflict) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// The records of a channel of an older version, unless it is a number that lost its name.
    async fn listed(
        &self,
        id: ChannelId,
        record: &Versioned,
    ) -> Result<Vec<Derived>, DirectoryError> {
        let record = ChannelRecord::parse(id, record)?;
        let owner = self.engine.get(Table::Channels, &name_key(&record.name)).await?;
        let owner = owner.map(|owner| parse::<NameRecord>(&owner)).transpose()?;
        let is_owner = owner.is_some_and(|owner| owner.id == id.0);
        Ok(if is_owner { record.derived().collect() } else { Vec::new() })
    }

    /// The users of this name, by number, and no more than a search answers.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub async fn users_named(&self, name: &str) -> Result<Vec<UserId>, DirectoryError> {
        let prefix = format!("{name}\n");
        let found = self.engine.scan(Table::UserNames, &prefix, None, USERS_FOUND_MAX).await?;
        let number = |key: &str| key.strip_prefix(&prefix)?.parse().ok().map(UserId);
        Ok(found.iter().filter_map(|(key, _)| number(key)).collect())
    }

    async fn create_user(
        &self,
        subject: &str,
        name: &str,
        by_subject: &str,
    ) -> Result<u32, DirectoryError> {
        let id = self.next_number(&self.user_numbers).await?;
        let record = UserRecord { subject: subject.to_owned(), name: name.to_owned() };
        let derived = vec![
            Derived { table: Table::Users, key: format!("id:{id}"), value: Some(format(&record)) },
            named(name, UserId(id), true),
        ];
        let number = format(&NumberRecord { id });
        let put = self.engine.put_with(Table::Users, by_subject, number, Expect::Absent, derived);
        match put.await {
            Ok(_) => Ok(id),
            // Another connection of the same user was first; its number is the user's.
            Err(RecordError::Conflict) => {
                let found = self.engine.get(Table::Users, by_subject).await?;
                Ok(parse::<NumberRecord>(&found.ok_or(DirectoryError::Damaged)?)?.id)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn update_name(
        &self,
        id: UserId,
        subject: &str,
        name: &str,
    ) -> Result<(), DirectoryError> {
        let key = format!("id:{}", id.0);
        let found = self.engine.get(Table::Users, &key).await?.ok_or(DirectoryError::Damaged)?;
        let before = parse::<UserRecord>(&found)?.name;
        if before == name {
            return Ok(());
        }
        let record = UserRecord { subject: subject.to_owned(), name: name.to_owned() };
        let expect = Expect::Revision(found.revision);
        let derived = vec![named(&before, id, false), named(name, id, true)];
        match self.engine.put_with(Table::Users, &key, format(&record), expect, derived).await {
            Ok(_) => {
                if let Some(bus) = self.engine.bus() {
                    bus.cast(cluster::changed(What::NameOf(id.0)));
                }
                Ok(())
            }
            // Another login has just brought a name of its own; the next one settles it.
            Err(RecordError::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the next number of a counter. One at a time in this process, out of a block that is
    /// reserved at once, so that a storm of first logins neither collides nor commits one by one.
    async fn next_number(&self, counter: &Counter) -> Result<u32, DirectoryError> {
        let mut reserved = counter.reserved.lock().await;
        if let Some(number) = reserved.next() {
            return Ok(number);
        }
        for _ in 0..NUMBER_ATTEMPTS_MAX {
            let found = self.engine.get(Table::Counters, counter.name).await?;
            let (last, expect) = match &found {
                None => (0, Expect::Absent),
                Some(found) => (parse::<NumberRecord>(found)?.id, Expect::Revision(found.revision)),
            };
            let end = last.checked_add(NUMBER_BLOCK).ok_or(DirectoryError::Damaged)?;
            let record = format(&NumberRecord { id: end });
            match self.engine.put(Table::Counters, counter.name, record, expect).await {
                Ok(_) => {
                    *reserved = last + 2..end + 1;
                    return Ok(last + 1);
                }
                Err(RecordError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(DirectoryError::Contended)
    }
}

/// What is read in the place of a record that is not there, so that the time does not tell that.
const DECOY_NAME: &[u8] = br#"{"id":1}"#;
const DECOY_CHANNEL: &[u8] = br#"{"id":1,"name":"secret","epoch":1700000000,"created_at_ms":1700000000000,"created_by":1,"topic":"","visibility":"private","posting":"everyone","archived":false,"quota":{},"usage":{"messages":0,"bytes":0},"member_count":1}"#;

fn decoy<T: serde::de::DeserializeOwned>(record: &'static [u8]) -> Option<T> {
    let value = bytes::Bytes::from_static(black_box(record));
    parse(&Versioned { value, revision: Revision(0) }).ok()
}

/// Makes room in a full map. Forgetting everything is crude, rare, and costs one read per entry.
fn bound<K: Eq + std::hash::Hash, V>(map: &DashMap<K, V>) {
    if map.len() >= DIRECTORY_CACHED_MAX {
        map.clear();
    }
}

/// The record by which a user is found by name, or that it is no more.
fn named(name: &str, user: UserId, is_so: bool) -> Derived {
    Derived {
        table: Table::UserNames,
        key: format!("{name}\n{:010}", user.0),
        value: is_so.then(|| bytes::Bytes::from_static(b"{}")),
    }
}

#[cfg(test)]
mod tests;
