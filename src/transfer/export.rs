//! Channels → a stream of bytes: NDJSON as an import reads it, or CSV.
//!
//! An export begins with a [`Mark`]. It walks through its channels page by page and leaves out what the
//! mark does not hold, so that it shows one state of all logs, however long it takes and whatever is
//! published meanwhile. Names, and what a channel is, are those of the moment when they are read.
//!
//! It never ends silently short. Pages are checked against each other as the engine checks entries: a
//! hole, damage or an unknown record is an error, and an error in the stream is the end of the response
//! without its proper end.
//!
//! In memory at any time: two pages of the log ([`EXPORT_READ_BYTES_MAX`] each, or one entry), the text
//! of one batch beside one chunk ([`EXPORT_CHUNK_BYTES`]), a page of channel names, and users
//! ([`EXPORT_USERS_BYTES_MAX`]). Nothing is read ahead of these while nobody takes the chunks.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{
    Stream,
    future::try_join_all,
    stream::{self},
};
use thiserror::Error;

use super::{
    csv::{self, Column, Columns},
    ndjson::{self, ChannelLine, MemberLine, SettingsLine},
};
use crate::{
    engine::{Engine, Mark, ReadError, ReadFrom, RecordError},
    hub::directory::{ChannelInfo, Directory, DirectoryError},
    limits::{
        EXPORT_BUSY_PAUSE, EXPORT_CHANNELS_PER_PAGE, EXPORT_CHUNK_BYTES, EXPORT_MEMBERS_PER_LINE,
        EXPORT_READ_BYTES_MAX, EXPORT_TRIES_MAX, EXPORT_USERS_BYTES_MAX, EXPORT_USERS_PER_READ,
    },
    log::{
        batch::{BatchError, Entry},
        place::{ChannelId, Cursor, Head, UserId},
    },
    wire::stored::{self, Content, RecordFormatError, StoredRecord},
};

#[cfg(test)]
mod tests;

/// Which channels are exported.
#[derive(Clone, Debug)]
pub enum Selection {
    /// This one.
    One(ChannelInfo),
    /// All that there are, by name.
    All,
}

/// How they are written.
#[derive(Clone, Debug)]
pub enum Format {
    /// Everything, a line each, as an import reads it.
    Ndjson,
    /// Messages alone, and of them these columns.
    Csv(Columns),
}

/// Why an export ends before its end.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ExportError {
    /// The log cannot be read, or is damaged.
    #[error("the log cannot be read")]
    Log(#[from] ReadError),
    /// A name cannot be read.
    #[error("a name cannot be read")]
    Directory(#[from] DirectoryError),
    /// Something lies between two entries, or did: it is damaged, or old messages were dropped
    /// meanwhile.
    #[error("entry {0:?} of the log does not follow the one before it")]
    BrokenChain(Cursor),
    /// An entry holds something that cannot be written.
    #[error("a record of entry {cursor:?} of the log cannot be written")]
    Record {
        /// The entry.
        cursor: Cursor,
        /// What is wrong with it.
        #[source]
        source: RecordFormatError,
    },
    /// Nobody has the number of an author or member.
    #[error("nobody is known by the number {}", .0.0)]
    UnknownUser(UserId),
}

/// An export on its way.
pub struct Export<E> {
    engine: Arc<E>,
    directory: Arc<Directory<E>>,
    format: Format,
    mark: Mark,
    channels: Queue,
    /// The channel that is walked through.
    walk: Option<Walk>,
    users: Users,
    /// What is written and not taken.
    out: Vec<u8>,
    /// There is nothing more to write.
    ended: bool,
}

/// The channels that are still to come.
struct Queue {
    names: VecDeque<String>,
    /// The last name that was read of those that there are. `None`: no more are read.
    after: Option<Option<String>>,
    one: Option<ChannelInfo>,
}

type Page = Pin<Box<dyn Future<Output = Result<Vec<Entry>, ReadError>> + Send>>;

/// The way through one channel.
struct Walk {
    channel: ChannelId,
    /// Its name, as the format has it.
    name: Box<[u8]>,
    /// The last entry that was written.
    last: Option<Head>,
    entries: std::vec::IntoIter<Entry>,
    /// The page after these entries, on its way already. `None`: they are the last.
    next: Option<(Cursor, Page)>,
}

/// Who has been seen, as the format has it.
#[derive(Default)]
struct Users {
    known: HashMap<UserId, User>,
    bytes: usize,
}

struct User {
    name: Box<[u8]>,
    subject: Box<[u8]>,
}

impl<E: Engine> Export<E> {
    /// Takes the mark. What is committed from here on is not in the export.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn begin(
        engine: Arc<E>,
        directory: Arc<Directory<E>>,
        selection: Selection,
        format: Format,
    ) -> Result<Self, ExportError> {
        let mark = patiently(|| engine.mark(), |error| *error == ReadError::Busy).await?;
        let mut out = Vec::new();
        if let Format::Csv(columns) = &format {
            columns.header(&mut out);
        }
        let (one, after) = match selection {
            Selection::One(channel) => (Some(channel), None),
            Selection::All => (None, Some(None)),
        };
        let channels = Queue { names: VecDeque::new(), after, one };
        let users = Users::default();
        Ok(Self { engine, directory, format, mark, channels, walk: None, users, out, ended: false })
    }

    /// The bytes, in chunks of [`EXPORT_CHUNK_BYTES`]. After an error nothing comes.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, ExportError>> + Send {
        stream::try_unfold(self, async |mut export| {
            Ok(export.next_chunk().await?.map(|chunk| (chunk, export)))
        })
    }

    async fn next_chunk(&mut self) -> Result<Option<Bytes>, ExportError> {
        while self.out.len() < EXPORT_CHUNK_BYTES && !self.ended {
            self.advance().await?;
        }
        if self.out.is_empty() {
            return Ok(None);
        }
        let mut rest = Vec::new();
        if self.out.len() > EXPORT_CHUNK_BYTES || !self.ended {
            // Mostly less than a batch is over.
            rest.reserve(EXPORT_CHUNK_BYTES + EXPORT_CHUNK_BYTES / 4);
            let taken = self.out.len().min(EXPORT_CHUNK_BYTES);
            rest.extend_from_slice(&self.out[taken..]);
            self.out.truncate(taken);
        }
        Ok(Some(Bytes::from(std::mem::replace(&mut self.out, rest))))
    }

    /// Writes the next batch, or takes the next page or channel.
    async fn advance(&mut self) -> Result<(), ExportError> {
        let Some(walk) = &mut self.walk else {
            match self.next_channel().await? {
                Some(channel) => self.enter(&channel).await?,
                None => self.ended = true,
            }
            return Ok(());
        };
        if let Some(entry) = walk.entries.next() {
            return self.write_entry(&entry).await;
        }
        match walk.next.take() {
            Some((after, page)) => self.turn_page(after, page).await,
            None => {
                self.walk = None;
                Ok(())
            }
        }
    }

    async fn next_channel(&mut self) -> Result<Option<ChannelInfo>, ExportError> {
        if let Some(one) = self.channels.one.take() {
            return Ok(Some(one));
        }
        loop {
            if let Some(name) = self.channels.names.pop_front() {
                let found = patiently(|| self.directory.channel_by_name(&name), is_busy).await;
                match found {
                    // It was deleted since its name was read.
                    Err(DirectoryError::UnknownChannel) => continue,
                    found => return Ok(Some(found?)),
                }
            }
            let Some(after) = &self.channels.after else { return Ok(None) };
            let directory = &self.directory;
            let names = patiently(
                || directory.channel_names(after.as_deref(), EXPORT_CHANNELS_PER_PAGE),
                is_busy,
            )
            .await?;
            let is_full = names.len() == EXPORT_CHANNELS_PER_PAGE;
            self.channels.after = is_full.then(|| names.last().cloned());
            self.channels.names = names.into();
        }
    }

    /// Begins a channel.
    async fn enter(&mut self, channel: &ChannelInfo) -> Result<(), ExportError> {
        let mut name = Vec::new();
        match &self.format {
            Format::Ndjson => {
                ndjson::string(&mut name, &channel.name);
                self.write_channel_line(channel).await?;
            }
            Format::Csv(_) => csv::cell(&mut name, &channel.name),
        }
        self.walk = Some(Walk {
            channel: channel.id,
            name: name.into(),
            last: None,
            entries: Vec::new().into_iter(),
            next: Some((Cursor(0), read_page(&*self.engine, channel.id, Cursor(0)))),
        });
        Ok(())
    }

    async fn write_channel_line(&mut self, channel: &ChannelInfo) -> Result<(), ExportError> {
        let directory = &self.directory;
        let record = patiently(|| directory.record(channel.id), is_busy).await?;
        let roles = patiently(|| directory.members(channel.id), is_busy).await?;
        let mut members = Vec::with_capacity(roles.len());
        for (user, role) in roles {
            let person = patiently(|| directory.person(user), is_busy).await?;
            members.push((person.ok_or(ExportError::UnknownUser(user))?, role));
        }
        let settings = record.settings();
        let created_ms = match record.created_at_ms {
            0 => u64::from(record.epoch) * 1_000,
            created_at_ms => created_at_ms,
        };
        // A line is not to be longer than an import takes, however many members there are.
        let mut rest = &members[..];
        loop {
            let (some, others) = rest.split_at(rest.len().min(EXPORT_MEMBERS_PER_LINE));
            let line = ChannelLine {
                channel: &channel.name,
                created_ms,
                settings: SettingsLine::of(&settings),
                members: some
                    .iter()
                    .map(|(person, role)| MemberLine {
                        name: &person.name,
                        user: &person.subject,
                        role: *role,
                    })
                    .collect(),
            };
            ndjson::channel_line(&mut self.out, &line);
            rest = others;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Takes a page, and asks for the one after it before it is written.
    async fn turn_page(&mut self, after: Cursor, page: Page) -> Result<(), ExportError> {
        let Some(channel) = self.walk.as_ref().map(|walk| walk.channel) else { return Ok(()) };
        let mut first = Some(page);
        let engine = &*self.engine;
        let page = || first.take().unwrap_or_else(|| read_page(engine, channel, after));
        let mut entries = patiently(page, |error| *error == ReadError::Busy).await?;
        let held = entries.partition_point(|entry| self.mark.holds(entry.at));
        let is_last = held < entries.len() || entries.is_empty();
        entries.truncate(held);
        let next = entries.last().filter(|_| !is_last).map(|last| last.at);
        let next = next.map(|after| (after, read_page(engine, channel, after)));
        if let Some(walk) = &mut self.walk {
            walk.entries = entries.into_iter();
            walk.next = next;
        }
        Ok(())
    }

    async fn write_entry(&mut self, entry: &Entry) -> Result<(), ExportError> {
        let Entry { at, after, ref batch, .. } = *entry;
        let Some(walk) = &mut self.walk else { return Ok(()) };
        // The first that there is may have lost those before it to a trim.
        if let Some(last) = &walk.last {
            if after != last.cursor {
                return Err(ExportError::BrokenChain(at));
            }
            if !batch.extends(last) {
                if self.engine.caps().junk_possible {
                    walk.last = Some(Head { cursor: at, ..*last });
                    return Ok(());
                }
                return Err(ExportError::BrokenChain(at));
            }
        }
        walk.last = Some(batch.head(at));

        let damaged = |source: BatchError| ReadError::Damaged { cursor: at, source };
        let unwritable = |source| ExportError::Record { cursor: at, source };
        let mut records = Vec::with_capacity(batch.count.into());
        for record in batch.records() {
            records.push(stored::read(record.map_err(damaged)?).map_err(unwritable)?);
        }
        self.users.read(&self.directory, &self.format, &records).await?;
        let Some(walk) = &self.walk else { return Ok(()) };
        for (sequence, record) in (batch.first_sequence.0..).zip(&records) {
            let time_ms = record.written_at_ms.unwrap_or(batch.timestamp_ms);
            let line = Line { channel: &walk.name, sequence, time_ms, record, users: &self.users };
            match &self.format {
                Format::Ndjson => line.write_json(&mut self.out).map_err(unwritable)?,
                Format::Csv(columns) => line.write_csv(columns, &mut self.out),
            }
        }
        Ok(())
    }
}

fn read_page(engine: &impl Engine, channel: ChannelId, after: Cursor) -> Page {
    Box::pin(engine.read(channel, ReadFrom::After(after), EXPORT_READ_BYTES_MAX))
}

/// A record and where it lies, ready to be written.
struct Line<'a> {
    channel: &'a [u8],
    sequence: u64,
    time_ms: u64,
    record: &'a StoredRecord<'a>,
    users: &'a Users,
}

impl Line<'_> {
    fn write_json(&self, out: &mut Vec<u8>) -> Result<(), RecordFormatError> {
        let author = self.users.known(self.record.user);
        out.extend_from_slice(b"{\"channel\":");
        out.extend_from_slice(self.channel);
        out.extend_from_slice(b",\"sequence\":");
        ndjson::number(out, self.sequence);
        out.extend_from_slice(b",\"time\":\"");
        ndjson::time(out, self.time_ms);
        out.extend_from_slice(b"\",\"author\":");
        out.extend_from_slice(&author.name);
        out.extend_from_slice(b",\"user\":");
        out.extend_from_slice(&author.subject);
        if let Some(id) = self.record.client_message_id {
            out.extend_from_slice(b",\"id\":\"");
            ndjson::number(out, id.0);
            out.push(b'"');
        }
        match self.record.content {
            Content::Body(body) => {
                out.extend_from_slice(b",\"body\":");
                ndjson::string(out, body);
            }
            Content::Membership { user, role } => {
                let member = self.users.known(user);
                out.extend_from_slice(b",\"member\":{\"name\":");
                out.extend_from_slice(&member.name);
                out.extend_from_slice(b",\"user\":");
                out.extend_from_slice(&member.subject);
                out.extend_from_slice(b",\"role\":");
                ndjson::string(out, role_name(role).ok_or(RecordFormatError::UnknownContent)?);
                out.push(b'}');
            }
            Content::Settings(settings) => {
                let settings = stored::settings(settings)?;
                out.extend_from_slice(b",\"settings\":");
                ndjson::json(out, &SettingsLine::named(&settings));
            }
            Content::Deletion => return Err(RecordFormatError::UnknownContent),
        }
        out.extend_from_slice(b"}\n");
        Ok(())
    }

    fn write_csv(&self, columns: &Columns, out: &mut Vec<u8>) {
        let Content::Body(body) = self.record.content else { return };
        let author = self.users.known(self.record.user);
        columns.row(out, |out, column| match column {
            Column::Channel => out.extend_from_slice(self.channel),
            Column::Sequence => ndjson::number(out, self.sequence),
            Column::Time => ndjson::time(out, self.time_ms),
            Column::Author => out.extend_from_slice(&author.name),
            Column::User => out.extend_from_slice(&author.subject),
            Column::Id => {
                if let Some(id) = self.record.client_message_id {
                    ndjson::number(out, id.0);
                }
            }
            Column::Body => csv::cell(out, body),
        });
    }
}

/// The roles of the contract by their numbers.
const fn role_name(role: u32) -> Option<&'static str> {
    match role {
        0 => Some("none"),
        1 => Some("member"),
        2 => Some("moderator"),
        3 => Some("owner"),
        _ => None,
    }
}

impl Users {
    /// Sees to it that everybody in these records is known.
    async fn read<E: Engine>(
        &mut self,
        directory: &Directory<E>,
        format: &Format,
        records: &[StoredRecord<'_>],
    ) -> Result<(), ExportError> {
        if self.bytes > EXPORT_USERS_BYTES_MAX {
            *self = Self::default();
        }
        let authors = records.iter().map(|record| record.user);
        let members = records.iter().filter_map(|record| match record.content {
            Content::Membership { user, .. } => Some(user),
            Content::Body(_) | Content::Settings(_) | Content::Deletion => None,
        });
        let is_unknown = |user: &UserId| !self.known.contains_key(user);
        let mut unknown: Vec<UserId> = authors.chain(members).filter(is_unknown).collect();
        unknown.sort_unstable();
        unknown.dedup();
        for users in unknown.chunks(EXPORT_USERS_PER_READ) {
            let reads = users.iter().map(|user| patiently(|| directory.person(*user), is_busy));
            for (user, found) in users.iter().zip(try_join_all(reads).await?) {
                let identity = found.ok_or(ExportError::UnknownUser(*user))?;
                let [name, subject] = [identity.name, identity.subject].map(|text| {
                    let mut written = Vec::new();
                    match format {
                        Format::Ndjson => ndjson::string(&mut written, &text),
                        Format::Csv(_) => csv::cell(&mut written, &text),
                    }
                    written.into_boxed_slice()
                });
                // A table that has just grown has twice the places that it needs.
                self.bytes += name.len() + subject.len() + 2 * size_of::<(UserId, User)>();
                self.known.insert(*user, User { name, subject });
            }
        }
        Ok(())
    }

    fn known(&self, user: UserId) -> &User {
        self.known.get(&user).expect("all users of a batch are read before it is written")
    }
}

fn is_busy(error: &DirectoryError) -> bool {
    *error == DirectoryError::Records(RecordError::Busy)
}

/// Asks again while too many reads wait: who exports has time.
async fn patiently<T, X, F: Future<Output = Result<T, X>>>(
    mut ask: impl FnMut() -> F,
    is_busy: impl Fn(&X) -> bool,
) -> Result<T, X> {
    for _ in 1..EXPORT_TRIES_MAX {
        match ask().await {
            Err(error) if is_busy(&error) => tokio::time::sleep(EXPORT_BUSY_PAUSE).await,
            answer => return answer,
        }
    }
    ask().await
}
