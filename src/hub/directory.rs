//! Names ↔ numbers, for channels and users. Names are for people; numbers are on the wire.
//!
//! Two records each: name → number and number → name, written in the order in which a crash leaves
//! nothing but an unused number. What was looked up once stays in a bounded map that the edge and
//! all shards share; no guard of these maps leaves this file.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use dashmap::DashMap;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::sync::Mutex;

use crate::{
    engine::{Engine, Expect, RecordError, Table, Versioned},
    limits::{CHANNEL_NAME_BYTES_MAX, DIRECTORY_CACHED_MAX, NUMBER_ATTEMPTS_MAX, NUMBER_BLOCK},
    log::place::{ChannelId, Epoch, UserId},
    wire::code::ErrorCode,
};

/// A channel as the directory knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChannelInfo {
    /// Its number.
    pub id: ChannelId,
    /// Its name.
    pub name: Arc<str>,
    /// When its numbering began, for as long as its log is empty.
    pub epoch: Epoch,
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
            DirectoryError::Damaged | DirectoryError::Records(RecordError::Conflict) => {
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
    channels: DashMap<ChannelId, ChannelInfo>,
    channel_ids: DashMap<Box<str>, ChannelId>,
    user_names: DashMap<UserId, Arc<str>>,
    user_ids: DashMap<Box<str>, UserId>,
    channel_numbers: Counter,
    user_numbers: Counter,
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

#[derive(Serialize, Deserialize)]
struct ChannelRecord {
    name: String,
    epoch: u32,
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
            channels: DashMap::new(),
            channel_ids: DashMap::new(),
            user_names: DashMap::new(),
            user_ids: DashMap::new(),
            channel_numbers: Counter::new("channels"),
            user_numbers: Counter::new("users"),
        }
    }

    /// The channel of this name, if it has been looked up before.
    #[must_use]
    pub fn cached_channel_by_name(&self, name: &str) -> Option<ChannelInfo> {
        let id = *self.channel_ids.get(name)?;
        self.cached_channel(id)
    }

    /// The channel of this number, if it has been looked up before.
    #[must_use]
    pub fn cached_channel(&self, id: ChannelId) -> Option<ChannelInfo> {
        self.channels.get(&id).map(|channel| channel.clone())
    }

    /// The channel of this name.
    ///
    /// # Errors
    /// When there is none or the records cannot be read.
    pub async fn channel_by_name(&self, name: &str) -> Result<ChannelInfo, DirectoryError> {
        if name.len() > CHANNEL_NAME_BYTES_MAX {
            return Err(DirectoryError::UnknownChannel);
        }
        if let Some(channel) = self.cached_channel_by_name(name) {
            return Ok(channel);
        }
        let found = self.engine.get(Table::Channels, &format!("name:{name}")).await?;
        let found = found.ok_or(DirectoryError::UnknownChannel)?;
        self.channel(ChannelId(parse::<NumberRecord>(&found)?.id)).await
    }

    /// The channel of this number.
    ///
    /// # Errors
    /// When there is none or the records cannot be read.
    pub async fn channel(&self, id: ChannelId) -> Result<ChannelInfo, DirectoryError> {
        if let Some(channel) = self.cached_channel(id) {
            return Ok(channel);
        }
        let found = self.engine.get(Table::Channels, &format!("id:{}", id.0)).await?;
        let found = found.ok_or(DirectoryError::UnknownChannel)?;
        let record: ChannelRecord = parse(&found)?;
        // A number whose name went to another one is a try that lost: there is no such channel.
        let owner = self.engine.get(Table::Channels, &format!("name:{}", record.name)).await?;
        let owner = owner.ok_or(DirectoryError::UnknownChannel)?;
        if parse::<NumberRecord>(&owner)?.id != id.0 {
            return Err(DirectoryError::UnknownChannel);
        }
        Ok(self.keep_channel(ChannelInfo {
            id,
            name: record.name.into(),
            epoch: Epoch(record.epoch),
        }))
    }

    /// Makes a channel. `now_s` (seconds since 1970) becomes its epoch.
    ///
    /// # Errors
    /// When the name is taken or the records cannot be written.
    pub async fn create_channel(
        &self,
        name: &str,
        now_s: u64,
    ) -> Result<ChannelInfo, DirectoryError> {
        let by_name = format!("name:{name}");
        if self.engine.get(Table::Channels, &by_name).await?.is_some() {
            return Err(DirectoryError::ChannelExists);
        }
        let id = self.next_number(&self.channel_numbers).await?;
        let epoch = u32::try_from(now_s).unwrap_or(u32::MAX);
        let record = ChannelRecord { name: name.to_owned(), epoch };
        self.insert(Table::Channels, &format!("id:{id}"), &record).await?;
        match self.insert(Table::Channels, &by_name, &NumberRecord { id }).await {
            Ok(()) => Ok(self.keep_channel(ChannelInfo {
                id: ChannelId(id),
                name: name.into(),
                epoch: Epoch(epoch),
            })),
            Err(RecordError::Conflict) => Err(DirectoryError::ChannelExists),
            Err(error) => Err(error.into()),
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
        self.update_name(id, subject, name).await?;
        bound(&self.user_ids);
        self.user_ids.insert(subject.into(), id);
        self.keep_name(id, name.into());
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
        let Some(found) = self.engine.get(Table::Users, &format!("id:{}", id.0)).await? else {
            return Ok(None);
        };
        let record: UserRecord = parse(&found)?;
        let name: Arc<str> = record.name.into();
        self.keep_name(id, Arc::clone(&name));
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

    async fn create_user(
        &self,
        subject: &str,
        name: &str,
        by_subject: &str,
    ) -> Result<u32, DirectoryError> {
        let id = self.next_number(&self.user_numbers).await?;
        let record = UserRecord { subject: subject.to_owned(), name: name.to_owned() };
        self.insert(Table::Users, &format!("id:{id}"), &record).await?;
        match self.insert(Table::Users, by_subject, &NumberRecord { id }).await {
            Ok(()) => Ok(id),
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
        if parse::<UserRecord>(&found)?.name == name {
            return Ok(());
        }
        let record = UserRecord { subject: subject.to_owned(), name: name.to_owned() };
        let expect = Expect::Revision(found.revision);
        match self.engine.put(Table::Users, &key, format(&record), expect).await {
            // Another login has just brought a name of its own; the next one settles it.
            Ok(_) | Err(RecordError::Conflict) => Ok(()),
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

    async fn insert(
        &self,
        table: Table,
        key: &str,
        record: &impl Serialize,
    ) -> Result<(), RecordError> {
        self.engine.put(table, key, format(record), Expect::Absent).await.map(drop)
    }

    fn keep_channel(&self, channel: ChannelInfo) -> ChannelInfo {
        bound(&self.channels);
        bound(&self.channel_ids);
        self.channels.insert(channel.id, channel.clone());
        self.channel_ids.insert(Box::from(&*channel.name), channel.id);
        channel
    }

    fn keep_name(&self, id: UserId, name: Arc<str>) {
        bound(&self.user_names);
        self.user_names.insert(id, name);
    }
}

/// Makes room in a full map. Forgetting everything is crude, rare, and costs one read per entry.
fn bound<K: Eq + std::hash::Hash, V>(map: &DashMap<K, V>) {
    if map.len() >= DIRECTORY_CACHED_MAX {
        map.clear();
    }
}

fn parse<T: DeserializeOwned>(record: &Versioned) -> Result<T, DirectoryError> {
    serde_json::from_slice(&record.value).map_err(|_| DirectoryError::Damaged)
}

fn format(record: &impl Serialize) -> Bytes {
    serde_json::to_vec(record).expect("numbers and strings always have a JSON form").into()
}

#[cfg(test)]
mod tests;
