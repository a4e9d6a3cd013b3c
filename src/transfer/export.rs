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
//! All channels come by name. One that was renamed meanwhile may have been passed by, so all numbers are
//! looked through at the end, and what was not written is.
//!
//! Lines do not depend on the numbers that this server has given to channels and users, so that the
//! server that imports an export exports the same bytes.
//!
//! In memory at any time: two pages of the log ([`EXPORT_READ_BYTES_MAX`] each, or one entry), the text
//! of one batch beside one chunk ([`EXPORT_CHUNK_BYTES`]), the members of one channel
//! ([`MEMBERS_MAX`](crate::limits::MEMBERS_MAX)), a page of channels and a bit for each, and users
//! ([`EXPORT_USERS_BYTES_MAX`](crate::limits::EXPORT_USERS_BYTES_MAX)). Nothing is read ahead of these
//! while nobody takes the chunks.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, stream};
use thiserror::Error;

use self::{
    queue::Queue,
    users::{User, Users},
};
use super::{
    csv::{self, Column, Columns},
    ndjson::{self, SettingsLine},
};
use crate::{
    engine::{Engine, Mark, ReadError, ReadFrom, RecordError},
    hub::directory::{ChannelInfo, Directory, DirectoryError},
    limits::{
        EXPORT_BUSY_PAUSE, EXPORT_CHUNK_BYTES, EXPORT_MEMBERS_PER_LINE, EXPORT_READ_BYTES_MAX,
        EXPORT_TRIES_MAX,
    },
    log::{
        batch::{BatchError, Entry},
        place::{ChannelId, Cursor, Head, UserId},
        settings::Role,
    },
    wire::stored::{self, Content, RecordFormatError, StoredRecord},
};

mod queue;
mod users;

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
    /// Something lies between two entries, or did: it is damaged, or old messages or the whole
    /// channel were dropped meanwhile.
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

type Page = Pin<Box<dyn Future<Output = Result<Vec<Entry>, ReadError>> + Send>>;

/// The way through one channel.
struct Walk {
    channel: ChannelId,
    /// Its name, as the format has it.
    name: Box<[u8]>,
    /// Of NDJSON, its first lines. `None`: they are written.
    first: Option<FirstLines>,
    /// The last entry that was written.
    last: Option<Head>,
    entries: std::vec::IntoIter<Entry>,
    /// The page after these entries, on its way already. `None`: they are the last.
    next: Option<(Cursor, Page)>,
}

/// What a channel is, on as many lines as its members need: none is longer than an import takes.
struct FirstLines {
    /// What each of them begins with.
    head: Vec<u8>,
    /// Who is not on a line yet, in the order of their subjects: their numbers are another server's
    /// business.
    members: std::vec::IntoIter<(User, Role)>,
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
        let channels = Queue::new(selection);
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
            match self.channels.next(&self.directory).await? {
                Some(channel) => self.enter(&channel).await?,
                None => self.ended = true,
            }
            return Ok(());
        };
        if let Some(first) = &mut walk.first {
            first.write_one(&mut self.out);
            if first.members.len() == 0 {
                walk.first = None;
            }
            return Ok(());
        }
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

    /// Begins a channel.
    async fn enter(&mut self, channel: &ChannelInfo) -> Result<(), ExportError> {
        let mut name = Vec::new();
        let mut first = None;
        match &self.format {
            Format::Ndjson => {
                ndjson::string(&mut name, &channel.name);
                first = Some(self.first_lines(channel.id, &name).await?);
            }
            Format::Csv(_) => csv::cell(&mut name, &channel.name),
        }
        self.walk = Some(Walk {
            channel: channel.id,
            name: name.into(),
            first,
            last: None,
            entries: Vec::new().into_iter(),
            next: Some((Cursor(0), read_page(&*self.engine, channel.id, Cursor(0)))),
        });
        Ok(())
    }

    async fn first_lines(
        &mut self,
        channel: ChannelId,
        name: &[u8],
    ) -> Result<FirstLines, ExportError> {
        let directory = &*self.directory;
        let record = patiently(|| directory.record(channel), is_busy).await?;
        let found = patiently(|| directory.members(channel), is_busy).await?;
        self.users.read(directory, &self.format, found.iter().map(|(user, _)| *user)).await?;
        let known = |(user, role): &(UserId, Role)| (self.users.known(*user).clone(), *role);
        let mut members: Vec<(User, Role)> = found.iter().map(known).collect();
        members.sort_unstable();

        let created_ms = match record.created_at_ms {
            0 => u64::from(record.epoch) * 1_000,
            created_at_ms => created_at_ms,
        };
        let mut head = b"{\"channel\":".to_vec();
        head.extend_from_slice(name);
        head.extend_from_slice(b",\"created\":\"");
        ndjson::time(&mut head, created_ms);
        head.extend_from_slice(b"\",\"settings\":");
        ndjson::json(&mut head, &SettingsLine::of(&record.settings()));
        head.extend_from_slice(b",\"members\":[");
        Ok(FirstLines { head, members: members.into_iter() })
    }

    /// Takes a page, and asks for the one after it before it is written.
    async fn turn_page(&mut self, after: Cursor, page: Page) -> Result<(), ExportError> {
        let Some(channel) = self.walk.as_ref().map(|walk| walk.channel) else { return Ok(()) };
        let mut first = Some(page);
        let engine = &*self.engine;
        let page = || first.take().unwrap_or_else(|| read_page(engine, channel, after));
        let mut entries = patiently(page, |error| *error == ReadError::Busy).await?;
        let held = entries.partition_point(|entry| self.mark.holds(entry.channel, entry.at));
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
            let record = stored::read(record.map_err(damaged)?);
            records.push(record.and_then(StoredRecord::known).map_err(unwritable)?);
        }
        let authors = records.iter().map(|record| record.user);
        let members = records.iter().filter_map(|record| match record.content {
            Content::Membership { user, .. } => Some(user),
            Content::Body(_) | Content::Settings(_) | Content::Deletion | Content::Unknown => None,
        });
        self.users.read(&self.directory, &self.format, authors.chain(members)).await?;
        let Some(walk) = &self.walk else { return Ok(()) };
        for (sequence, record) in (batch.first_sequence.0..).zip(&records) {
            let time_ms = record.written_at_ms.unwrap_or(batch.timestamp_ms);
            let line = Line { channel: &walk.name, sequence, time_ms, record, users: &self.users };
            match &self.format {
                Format::Ndjson => line.write_json(&mut self.out),
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
    fn write_json(&self, out: &mut Vec<u8>) {
        // The channel is no more, and has no lines then.
        if self.record.content == Content::Deletion {
            return;
        }
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
        match &self.record.content {
            Content::Body(body) => {
                out.extend_from_slice(b",\"body\":");
                ndjson::string(out, body);
            }
            Content::Membership { user, role, .. } => {
                out.extend_from_slice(b",\"member\":");
                write_member(out, self.users.known(*user), *role);
            }
            Content::Settings(settings) => {
                out.extend_from_slice(b",\"settings\":");
                ndjson::json(out, &SettingsLine::named(settings));
            }
            Content::Deletion | Content::Unknown => {}
        }
        out.extend_from_slice(b"}\n");
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

impl FirstLines {
    fn write_one(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        let members = self.members.by_ref().take(EXPORT_MEMBERS_PER_LINE);
        for (place, (user, role)) in members.enumerate() {
            if place > 0 {
                out.push(b',');
            }
            write_member(out, &user, Some(role));
        }
        out.extend_from_slice(b"]}\n");
    }
}

fn write_member(out: &mut Vec<u8>, user: &User, role: Option<Role>) {
    out.extend_from_slice(b"{\"name\":");
    out.extend_from_slice(&user.name);
    out.extend_from_slice(b",\"user\":");
    out.extend_from_slice(&user.subject);
    out.extend_from_slice(b",\"role\":\"");
    out.extend_from_slice(role.map_or("none", Role::name).as_bytes());
    out.extend_from_slice(b"\"}");
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
