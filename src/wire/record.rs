//! What a record of the log says, and how such a record is written. Hot. Pure.

use bytes::Bytes;
use prost::{Message as _, encoding::decode_varint};

use super::proto::{self, record::Content as Wire};
use crate::log::{
    place::{ClientMessageId, UserId},
    settings::{Posting, Quota, Role, Settings, Visibility},
};

/// What a record says, as far as the channel itself must know. All that it says:
/// [`stored::read`](super::stored::read).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// A message whose body has so many bytes.
    Body {
        /// The bytes.
        bytes: usize,
    },
    /// What a user is from here on; `None`: no member.
    Member(UserId, Option<Role>),
    /// What the channel is from here on.
    Settings(Settings),
    /// The channel is no more.
    Deletion,
    /// Something that a later version has written, or nothing.
    Unknown,
}

/// The field of a body, length-delimited: `hubbub.v1.Record.body`.
const BODY_TAG: u8 = 3 << 3 | 2;

/// Reads what a record says. For a message, no more of it than the few bytes before its body.
#[must_use]
pub fn content(record: &[u8]) -> Content {
    if let Some(bytes) = body_bytes(record) {
        return Content::Body { bytes };
    }
    let Ok(record) = proto::Record::decode(record) else { return Content::Unknown };
    // What was imported tells what was so elsewhere: here it changes nothing.
    let is_imported = record.written_at_ms != 0;
    match record.content.filter(|content| !is_imported || matches!(content, Wire::Body(_))) {
        Some(Wire::Body(body)) => Content::Body { bytes: body.len() },
        Some(Wire::Membership(membership)) => {
            Content::Member(UserId(membership.user_id), role_of(membership.role))
        }
        Some(Wire::Settings(settings)) => Content::Settings(settings_of(settings)),
        Some(Wire::Deletion(_)) => Content::Deletion,
        None => Content::Unknown,
    }
}

/// Whether a record was written elsewhere, and imported. Of our own messages no more is read than the
/// few bytes before the body.
#[must_use]
pub fn is_imported(record: &[u8]) -> bool {
    let is_ours = body_ahead(record).is_some_and(|(bytes, rest)| rest.len() == bytes);
    !is_ours && proto::Record::decode(record).is_ok_and(|record| record.written_at_ms != 0)
}

/// The body of a record that is written as ours are. It shares the record's memory.
#[must_use]
pub fn body(record: &Bytes) -> Option<Bytes> {
    let (bytes, rest) = body_ahead(record)?;
    rest.get(..bytes).map(|body| record.slice_ref(body))
}

/// The length of the body, if the record is written as ours are.
fn body_bytes(record: &[u8]) -> Option<usize> {
    body_ahead(record).map(|(bytes, _)| bytes)
}

/// The length of the body and what comes behind it, if the record is written as ours are: user, then
/// number, then body.
fn body_ahead(record: &[u8]) -> Option<(usize, &[u8])> {
    let mut rest = record;
    if let [tag, ..] = rest
        && *tag == 1 << 3
    {
        rest = &rest[1..];
        decode_varint(&mut rest).ok()?;
    }
    if let [tag, ..] = rest
        && *tag == 2 << 3 | 1
    {
        rest = rest.get(9..)?;
    }
    let (&tag, mut rest) = rest.split_first()?;
    if tag != BODY_TAG {
        return None;
    }
    let bytes = decode_varint(&mut rest).ok().and_then(|length| usize::try_from(length).ok())?;
    Some((bytes, rest))
}

/// Whose a record is, and what else is known of one that was imported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Whose.
    pub user: UserId,
    /// The user's number for it.
    pub client_message_id: Option<ClientMessageId>,
    /// When it was written, in milliseconds since 1970; 0: when it was put in order.
    pub written_at_ms: u64,
}

impl From<UserId> for Origin {
    fn from(user: UserId) -> Self {
        Self { user, client_message_id: None, written_at_ms: 0 }
    }
}

/// The record of a membership that changed.
pub fn membership(by: impl Into<Origin>, user: UserId, role: Option<Role>) -> Bytes {
    let membership = proto::Membership { user_id: user.0, role: role_number(role) };
    record(by.into(), Wire::Membership(membership))
}

/// The record of settings that changed.
pub fn settings(by: impl Into<Origin>, settings: &Settings) -> Bytes {
    record(by.into(), Wire::Settings(settings_to_proto(settings)))
}

/// The last record of a channel.
#[must_use]
pub fn deletion(by: UserId) -> Bytes {
    record(by.into(), Wire::Deletion(proto::Deletion {}))
}

fn record(origin: Origin, content: Wire) -> Bytes {
    let record = proto::Record {
        user_id: origin.user.0,
        client_message_id: origin.client_message_id.map_or(0, |id| id.0),
        written_at_ms: origin.written_at_ms,
        content: Some(content),
    };
    record.encode_to_vec().into()
}

pub(crate) fn role_number(role: Option<Role>) -> i32 {
    match role {
        None => proto::Role::Unspecified,
        Some(Role::Member) => proto::Role::Member,
        Some(Role::Moderator) => proto::Role::Moderator,
        Some(Role::Owner) => proto::Role::Owner,
    }
    .into()
}

/// `None` for unspecified, and for what a later version may know.
pub(crate) fn role_of(number: i32) -> Option<Role> {
    match proto::Role::try_from(number) {
        Ok(proto::Role::Member) => Some(Role::Member),
        Ok(proto::Role::Moderator) => Some(Role::Moderator),
        Ok(proto::Role::Owner) => Some(Role::Owner),
        Ok(proto::Role::Unspecified) | Err(_) => None,
    }
}

pub(super) fn settings_to_proto(settings: &Settings) -> proto::Settings {
    proto::Settings {
        channel_name: settings.name.to_string(),
        topic: settings.topic.clone(),
        visibility: visibility_number(settings.visibility),
        posting: posting_number(settings.posting),
        archived: settings.archived,
        quota: quota_to_proto(settings.quota),
    }
}

pub(crate) fn visibility_number(visibility: Visibility) -> i32 {
    match visibility {
        Visibility::Public => proto::Visibility::Public,
        Visibility::Private => proto::Visibility::Private,
    }
    .into()
}

pub(crate) fn posting_number(posting: Posting) -> i32 {
    match posting {
        Posting::Everyone => proto::Posting::Everyone,
        Posting::Members => proto::Posting::Members,
        Posting::Moderators => proto::Posting::Moderators,
    }
    .into()
}

pub(crate) fn quota_to_proto(quota: Quota) -> Option<proto::Quota> {
    (!quota.is_none()).then(|| proto::Quota {
        messages_max: quota.messages_max.map_or(0, Into::into),
        bytes_max: quota.bytes_max.map_or(0, Into::into),
    })
}

pub(super) fn quota_of(quota: Option<proto::Quota>) -> Quota {
    let quota = quota.unwrap_or_default();
    Quota {
        messages_max: quota.messages_max.try_into().ok(),
        bytes_max: quota.bytes_max.try_into().ok(),
    }
}

/// `None` for unspecified, and for what a later version may know.
pub(super) fn visibility_of(number: i32) -> Option<Visibility> {
    match proto::Visibility::try_from(number) {
        Ok(proto::Visibility::Public) => Some(Visibility::Public),
        Ok(proto::Visibility::Private) => Some(Visibility::Private),
        Ok(proto::Visibility::Unspecified) | Err(_) => None,
    }
}

/// `None` for unspecified, and for what a later version may know.
pub(super) fn posting_of(number: i32) -> Option<Posting> {
    match proto::Posting::try_from(number) {
        Ok(proto::Posting::Everyone) => Some(Posting::Everyone),
        Ok(proto::Posting::Members) => Some(Posting::Members),
        Ok(proto::Posting::Moderators) => Some(Posting::Moderators),
        Ok(proto::Posting::Unspecified) | Err(_) => None,
    }
}

/// What cannot be read is taken as the narrower: a channel is not opened by a mistake.
pub(crate) fn settings_of(settings: proto::Settings) -> Settings {
    Settings {
        name: settings.channel_name.into(),
        topic: settings.topic,
        visibility: visibility_of(settings.visibility).unwrap_or(Visibility::Private),
        posting: posting_of(settings.posting).unwrap_or(Posting::Moderators),
        archived: settings.archived,
        quota: quota_of(settings.quota),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::encode;

    proptest! {
        #[test]
        fn a_message_is_measured_without_being_read(
            user in any::<u32>(), id in any::<u64>(), body in "\\PC{0,300}"
        ) {
            let id = (id != 0).then_some(ClientMessageId(id));
            let bytes = body.len();
            let record = encode::record(UserId(user), id, body);
            prop_assert_eq!(content(&record), Content::Body { bytes });
        }

        #[test]
        fn any_bytes_say_something_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = content(&bytes);
        }

        #[test]
        fn settings_are_read_as_they_were_written(
            topic in "\\PC{0,40}",
            is_private in any::<bool>(),
            posting in 0..3_i32,
            archived in any::<bool>(),
            messages_max in any::<u64>(),
            bytes_max in any::<u64>(),
        ) {
            let written = Settings {
                name: "lobby".into(),
                topic,
                visibility: if is_private { Visibility::Private } else { Visibility::Public },
                posting: posting_of(posting + 1).unwrap(),
                archived,
                quota: quota_of(Some(proto::Quota { messages_max, bytes_max })),
            };
            let read = content(&settings(UserId(7), &written));
            prop_assert_eq!(read, Content::Settings(written));
        }
    }

    #[test]
    fn a_membership_is_read_as_it_was_written() {
        for role in [None, Some(Role::Member), Some(Role::Moderator), Some(Role::Owner)] {
            let read = content(&membership(UserId(1), UserId(2), role));
            assert_eq!(read, Content::Member(UserId(2), role));
        }
        assert_eq!(content(&deletion(UserId(1))), Content::Deletion);
    }

    #[test]
    fn an_imported_membership_changes_nothing() {
        let mut record = proto::Record::decode(&*membership(UserId(1), UserId(2), None)).unwrap();
        record.written_at_ms = 1;
        assert_eq!(content(&record.encode_to_vec()), Content::Unknown);
        record.content = Some(Wire::Body("hi".to_owned()));
        assert_eq!(content(&record.encode_to_vec()), Content::Body { bytes: 2 });
    }
}
