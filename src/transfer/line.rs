//! One line of NDJSON → what it says, or why it says nothing. Hot. Pure.
//!
//! A message is read in a single pass that borrows its strings. What is unusual in it (escapes,
//! nested values, numbers of unknown fields) is left to `serde_json`, which in the tests is the oracle
//! for all of it: the same lines are valid, with the same values.
//!
//! Strict: RFC 8259 without byte order mark, lone surrogate or raw control character. `body` makes a
//! line a message; without it `created` makes it a channel's line, and `member` or `settings` an
//! event. Fields that a line of its kind does not have are skipped like unknown ones.

use std::{borrow::Cow, fmt, num::NonZeroU64};

use serde::{Deserialize, Deserializer, de};
use thiserror::Error;

use self::scan::Fields;
use crate::{
    limits::{
        IMPORT_DEPTH_MAX, IMPORT_ID_BYTES_MAX, SUBJECT_BYTES_MAX, USER_NAME_BYTES_MAX,
        import_line_bytes_max,
    },
    log::settings::{self, Posting, Quota, Role, Visibility, is_channel_name, is_topic},
};

mod scan;
pub mod time;

#[cfg(test)]
mod tests;

/// What a line says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line<'a> {
    /// A message.
    Message(Message<'a>),
    /// Something else that happened in a channel.
    Event(Box<Event<'a>>),
    /// A channel, to be made if it is not there.
    Channel(Box<ChannelLine>),
}

/// Where an entry belongs, and who wrote it when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin<'a> {
    /// The channel's name, of a valid form.
    pub channel: Cow<'a, str>,
    /// The display name of who wrote it. Not empty.
    pub author: Cow<'a, str>,
    /// The subject of the author's tokens. Absent: the imported user of that name.
    pub user: Option<Cow<'a, str>>,
    /// When, in milliseconds since 1970. Never 0.
    pub time_ms: u64,
    /// Its own id. Not empty.
    pub id: Option<Cow<'a, str>>,
    /// Its place in the channel that it comes from, which tells equal entries without id apart.
    pub sequence: Option<NonZeroU64>,
}

/// What somebody wrote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// Where, who, when.
    pub origin: Origin<'a>,
    /// The text. Not empty.
    pub body: Cow<'a, str>,
}

/// A change of a channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event<'a> {
    /// Where, who, when.
    pub origin: Origin<'a>,
    /// What changed.
    pub change: Change,
}

/// What changed in a channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// What a user is from there on.
    Member(Member),
    /// What the channel is from there on.
    Settings(Settings),
}

/// A channel as an export begins it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChannelLine {
    /// Its name, of a valid form.
    pub channel: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// What it is.
    pub settings: Settings,
    /// Who is in it.
    pub members: Vec<Member>,
}

impl ChannelLine {
    /// What it is, under its name.
    #[must_use]
    pub fn settings(&self) -> settings::Settings {
        settings::Settings { name: self.channel.as_str().into(), ..self.settings.of(&self.channel) }
    }
}

/// A user in a channel.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Member {
    /// The display name. Not empty.
    pub name: String,
    /// The subject of the user's tokens, as [`Origin::user`].
    #[serde(default)]
    pub user: Option<String>,
    /// What the user may do; `None`: no member any more.
    #[serde(deserialize_with = "role")]
    pub role: Option<Role>,
}

/// What a channel is, apart from its messages and members.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Its name, if that was another.
    pub name: Option<String>,
    /// For people.
    pub topic: String,
    /// Who knows of it.
    pub visibility: Visibility,
    /// Who may publish.
    pub posting: Posting,
    /// Whether it takes no message.
    pub archived: bool,
    /// What it accepts in its whole life.
    pub quota: Quota,
}

impl Settings {
    /// Those of a channel of this name, unless they have their own.
    #[must_use]
    pub fn of(&self, channel: &str) -> settings::Settings {
        settings::Settings {
            name: self.name.as_deref().unwrap_or(channel).into(),
            topic: self.topic.clone(),
            visibility: self.visibility,
            posting: self.posting,
            archived: self.archived,
            quota: self.quota,
        }
    }
}

/// `none`, or the name of a role.
fn role<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Role>, D::Error> {
    match &*Cow::<str>::deserialize(deserializer)? {
        "none" => Ok(None),
        name => name.parse().map(Some).map_err(de::Error::custom),
    }
}

/// A field that an import knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[expect(missing_docs, reason = "each is the field of its name")]
pub enum Field {
    Channel,
    Author,
    User,
    Time,
    Id,
    Sequence,
    Body,
    Member,
    Settings,
    Members,
    Created,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Channel => "channel",
            Self::Author => "author",
            Self::User => "user",
            Self::Time => "time",
            Self::Id => "id",
            Self::Sequence => "sequence",
            Self::Body => "body",
            Self::Member => "member",
            Self::Settings => "settings",
            Self::Members => "members",
            Self::Created => "created",
        })
    }
}

/// Why a line says nothing. For people. Columns are bytes, from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum LineError {
    /// The line breaks the grammar, has a lone surrogate, or a number that is none.
    #[error("not JSON: column {0}")]
    NotJson(usize),
    /// The bytes are no text.
    #[error("not UTF-8: column {0}")]
    NotUtf8(usize),
    /// Some programs begin a file so. JSON does not.
    #[error("begins with a byte order mark")]
    ByteOrderMark,
    /// Something in it lies too deep.
    #[error("nested more than {IMPORT_DEPTH_MAX} deep")]
    TooDeep,
    /// It was not read to its end.
    #[error("longer than {0} bytes")]
    TooLong(usize),
    /// It is no object.
    #[error("not an object")]
    NotAnObject,
    /// Which of the two would count?
    #[error("{0} is given twice")]
    Twice(Field),
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(Field),
    /// A field has a value of another kind.
    #[error("{0} is not a string")]
    NotAString(Field),
    /// A field has nothing in it.
    #[error("{0} is empty")]
    Empty(Field),
    /// A field is longer than allowed.
    #[error("{0} has more than {1} bytes")]
    TooLarge(Field, usize),
    /// No channel has such a name.
    #[error("channel is no channel name: lower-case letters, digits, and . _ - between them")]
    ChannelName,
    /// It cannot be read as a time.
    #[error("{0} is not a time: RFC 3339, or a whole number of milliseconds since 1970")]
    Time(Field),
    /// Nobody can have written anything then.
    #[error("{0} is not between 1970 and 9999")]
    TimeRange(Field),
    /// Places are counted from 1.
    #[error("sequence is not a whole number from 1 on")]
    Sequence,
    /// It is no id.
    #[error("id is not a string or a whole number")]
    Id,
    /// It is no member.
    #[error("{0} is not as in an export: name, user and role")]
    Member(Field),
    /// They are no settings.
    #[error("settings are not as in an export")]
    Settings,
}

/// Reads a line, without its end.
///
/// # Errors
/// When it is none that an import takes.
pub fn decode(line: &str, message_bytes_max: usize) -> Result<Line<'_>, LineError> {
    let line_bytes_max = import_line_bytes_max(message_bytes_max);
    if line.len() > line_bytes_max {
        return Err(LineError::TooLong(line_bytes_max));
    }
    let fields = Fields::scan(line)?;
    let channel = fields.channel.ok_or(LineError::Missing(Field::Channel))?;
    if !is_channel_name(&channel) {
        return Err(LineError::ChannelName);
    }
    if fields.body.is_none()
        && let Some(created) = fields.created
    {
        return Ok(Line::Channel(Box::new(channel_line(
            channel.into_owned(),
            created,
            fields.settings,
            fields.members,
        )?)));
    }
    let author = fields.author.ok_or(LineError::Missing(Field::Author))?;
    sized(Field::Author, &author, USER_NAME_BYTES_MAX)?;
    if let Some(user) = &fields.user {
        sized(Field::User, user, SUBJECT_BYTES_MAX)?;
    }
    if let Some(id) = &fields.id {
        sized(Field::Id, id, IMPORT_ID_BYTES_MAX)?;
    }
    let time_ms = fields.time_ms.ok_or(LineError::Missing(Field::Time))?;
    let origin = Origin {
        channel,
        author,
        user: fields.user,
        time_ms,
        id: fields.id,
        sequence: fields.sequence,
    };
    match (fields.body, fields.member, fields.settings) {
        (Some(body), ..) => {
            sized(Field::Body, &body, message_bytes_max)?;
            Ok(Line::Message(Message { origin, body }))
        }
        (None, Some(raw), _) => {
            let change = Change::Member(member(raw)?);
            Ok(Line::Event(Box::new(Event { origin, change })))
        }
        (None, None, Some(raw)) => {
            let change = Change::Settings(settings_of(raw)?);
            Ok(Line::Event(Box::new(Event { origin, change })))
        }
        (None, None, None) => Err(LineError::Missing(Field::Body)),
    }
}

fn sized(field: Field, value: &str, bytes_max: usize) -> Result<(), LineError> {
    match value.len() {
        0 => Err(LineError::Empty(field)),
        bytes if bytes > bytes_max => Err(LineError::TooLarge(field, bytes_max)),
        _ => Ok(()),
    }
}

fn channel_line(
    channel: String,
    created: &str,
    raw_settings: Option<&str>,
    members: Option<&str>,
) -> Result<ChannelLine, LineError> {
    let not_a_time = LineError::Time(Field::Created);
    let created: Cow<'_, str> = serde_json::from_str(created).map_err(|_| not_a_time)?;
    let created_ms = time::rfc3339_ms(&created).map_err(|error| error.of(Field::Created))?;
    let settings = raw_settings.map_or(Ok(Settings::default()), settings_of)?;
    let members: Vec<Member> = members
        .map_or(Ok(Vec::new()), serde_json::from_str)
        .map_err(|_| LineError::Member(Field::Members))?;
    for member in &members {
        check(member, Field::Members)?;
    }
    Ok(ChannelLine { channel, created_ms, settings, members })
}

fn member(raw: &str) -> Result<Member, LineError> {
    let member = serde_json::from_str(raw).map_err(|_| LineError::Member(Field::Member))?;
    check(&member, Field::Member)?;
    Ok(member)
}

fn check(member: &Member, field: Field) -> Result<(), LineError> {
    let is_valid = (1..=USER_NAME_BYTES_MAX).contains(&member.name.len())
        && member.user.as_ref().is_none_or(|user| (1..=SUBJECT_BYTES_MAX).contains(&user.len()));
    if is_valid { Ok(()) } else { Err(LineError::Member(field)) }
}

fn settings_of(raw: &str) -> Result<Settings, LineError> {
    let settings: Settings = serde_json::from_str(raw).map_err(|_| LineError::Settings)?;
    let is_name = settings.name.as_deref().is_none_or(is_channel_name);
    if is_name && is_topic(&settings.topic) { Ok(settings) } else { Err(LineError::Settings) }
}
