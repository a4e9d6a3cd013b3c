//! A record of a log, read where it lies. Hot. Pure.
//!
//! For who wants all that a record says: a body is not copied, and no message of the generated type
//! is made, which is the oracle of the tests.

use prost::{
    DecodeError, Message as _,
    bytes::Buf,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use thiserror::Error;

use super::{
    proto,
    record::{role_of, settings_of},
};
use crate::log::{
    place::{ClientMessageId, UserId},
    settings::{Role, Settings},
};

/// One entry of a channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredRecord<'a> {
    /// Who published it.
    pub user: UserId,
    /// The client's number for it.
    pub client_message_id: Option<ClientMessageId>,
    /// When it was written, in milliseconds since 1970, if that is not the time of its batch.
    pub written_at_ms: Option<u64>,
    /// What it says.
    pub content: Content<'a>,
}

/// What a record says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content<'a> {
    /// What a person or a program wrote.
    Body(&'a str),
    /// What a user is in the channel from here on.
    Membership {
        /// The user.
        user: UserId,
        /// What the user is; `None`: no member any more, or something that is not known here.
        role: Option<Role>,
        /// Whether this version knows what the user is.
        is_known: bool,
    },
    /// What the channel is from here on.
    Settings(Box<Settings>),
    /// The channel is no more.
    Deletion,
    /// Something that a later version has written, or nothing.
    Unknown,
}

impl StoredRecord<'_> {
    /// The record, for who must understand all that it says.
    ///
    /// # Errors
    /// When a later version has written it.
    pub fn known(self) -> Result<Self, RecordFormatError> {
        match self.content {
            Content::Unknown | Content::Membership { is_known: false, .. } => {
                Err(RecordFormatError::UnknownContent)
            }
            _ => Ok(self),
        }
    }
}

/// Why bytes from a log are not a record, or not one that is understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum RecordFormatError {
    /// They break the encoding.
    #[error("the record is malformed")]
    Malformed,
    /// A later version may know it.
    #[error("the record says nothing that this version knows")]
    UnknownContent,
}

impl From<DecodeError> for RecordFormatError {
    fn from(_: DecodeError) -> Self {
        Self::Malformed
    }
}

/// Reads one record, as [`Batch::records`](crate::log::batch::Batch::records) answers it.
///
/// # Errors
/// When the bytes are none.
pub fn read(mut record: &[u8]) -> Result<StoredRecord<'_>, RecordFormatError> {
    let (mut user, mut client_message_id, mut written_at_ms, mut content) = (0, 0, 0, None);
    while !record.is_empty() {
        match decode_key(&mut record)? {
            (1, WireType::Varint) => user = number(&mut record)?,
            (2, WireType::SixtyFourBit) => {
                let (bytes, rest) =
                    record.split_first_chunk().ok_or(RecordFormatError::Malformed)?;
                client_message_id = u64::from_le_bytes(*bytes);
                record = rest;
            }
            (3, WireType::LengthDelimited) => {
                let body = str::from_utf8(field(&mut record)?);
                content = Some(Content::Body(body.map_err(|_| RecordFormatError::Malformed)?));
            }
            (4, WireType::LengthDelimited) => content = Some(membership(field(&mut record)?)?),
            (5, WireType::LengthDelimited) => {
                let settings = settings_of(proto::Settings::decode(field(&mut record)?)?);
                content = Some(Content::Settings(Box::new(settings)));
            }
            (6, WireType::LengthDelimited) => {
                field(&mut record)?;
                content = Some(Content::Deletion);
            }
            (8, WireType::Varint) => written_at_ms = decode_varint(&mut record)?,
            (tag, wire_type) => skip(tag, wire_type, &mut record)?,
        }
    }
    Ok(StoredRecord {
        user: UserId(user),
        client_message_id: (client_message_id != 0).then_some(ClientMessageId(client_message_id)),
        written_at_ms: (written_at_ms != 0).then_some(written_at_ms),
        content: content.unwrap_or(Content::Unknown),
    })
}

fn membership(mut bytes: &[u8]) -> Result<Content<'_>, RecordFormatError> {
    let (mut user, mut role) = (0, 0);
    while !bytes.is_empty() {
        match decode_key(&mut bytes)? {
            (1, WireType::Varint) => user = number(&mut bytes)?,
            (2, WireType::Varint) => role = number(&mut bytes)?,
            (tag, wire_type) => skip(tag, wire_type, &mut bytes)?,
        }
    }
    let known = i32::try_from(role).ok().and_then(role_of);
    let is_known = role == 0 || known.is_some();
    Ok(Content::Membership { user: UserId(user), role: known, is_known })
}

/// A number of 32 bits. Who wrote more has written something else.
fn number(bytes: &mut &[u8]) -> Result<u32, RecordFormatError> {
    u32::try_from(decode_varint(bytes)?).map_err(|_| RecordFormatError::Malformed)
}

/// The bytes of a field behind their length.
fn field<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], RecordFormatError> {
    let length = usize::try_from(decode_varint(bytes)?).ok();
    let (field, rest) = length
        .and_then(|length| bytes.split_at_checked(length))
        .ok_or(RecordFormatError::Malformed)?;
    *bytes = rest;
    Ok(field)
}

fn skip(tag: u32, wire_type: WireType, bytes: &mut impl Buf) -> Result<(), RecordFormatError> {
    Ok(skip_field(wire_type, tag, bytes, DecodeContext::default())?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::{Message as _, encoding};

    use super::*;
    use crate::wire::{
        encode, proto,
        record::{self, Origin},
    };

    #[test]
    fn what_is_no_record_is_an_error() {
        let whole = encode::record(UserId(7), Some(ClientMessageId(9)), "hello".to_owned());
        assert!(read(&whole).is_ok());
        for length in 1..whole.len() {
            let cut = read(&whole[..length]).and_then(StoredRecord::known);
            assert!(cut.is_err(), "{length}");
        }
        assert_eq!(read(b"\x1a\x01\xff"), Err(RecordFormatError::Malformed), "no UTF-8");
        assert_eq!(read(b"\x08\x80\x80\x80\x80\x10\x1a\x00"), Err(RecordFormatError::Malformed));
    }

    #[test]
    fn contents_that_are_no_message_are_told_apart() {
        fn content(record: &[u8]) -> Result<Content<'_>, RecordFormatError> {
            read(record)?.known().map(|record| record.content)
        }
        for role in [None, Some(Role::Member), Some(Role::Moderator), Some(Role::Owner)] {
            let written = record::membership(UserId(5), UserId(7), role);
            let expected = Content::Membership { user: UserId(7), role, is_known: true };
            assert_eq!(content(&written), Ok(expected));
        }
        let settings = Settings { topic: "all".to_owned(), ..Settings::open("lobby") };
        let written = record::settings(UserId(5), &settings);
        assert_eq!(content(&written), Ok(Content::Settings(Box::new(settings))));
        assert_eq!(content(&record::deletion(UserId(5))), Ok(Content::Deletion));
    }

    #[test]
    fn what_a_later_version_wrote_is_read_and_is_not_known() {
        let unknown_role = Content::Membership { user: UserId(7), role: None, is_known: false };
        for (bytes, content) in [
            (&b""[..], Content::Unknown),
            (b"\x08\x01\x3a\x00", Content::Unknown),
            (b"\x22\x04\x08\x07\x10\x09", unknown_role),
        ] {
            let record = read(bytes).unwrap();
            assert_eq!(record.content, content);
            assert_eq!(record.known(), Err(RecordFormatError::UnknownContent));
        }
    }

    #[test]
    fn an_imported_membership_is_told_like_any_other() {
        let origin = Origin { user: UserId(1), client_message_id: None, written_at_ms: 1 };
        let bytes = record::membership(origin, UserId(2), None);
        let content = Content::Membership { user: UserId(2), role: None, is_known: true };
        let (user, written_at_ms) = (UserId(1), Some(1));
        let expected = StoredRecord { user, client_message_id: None, written_at_ms, content };
        assert_eq!(read(&bytes), Ok(expected));
    }

    proptest! {
        #[test]
        fn a_record_is_what_the_generated_type_says(
            user_id: u32, client_message_id: u64, written_at_ms: u64, body: String,
            unknown in prop::option::of("\\PC*"),
        ) {
            let content = Some(proto::record::Content::Body(body.clone()));
            let record = proto::Record { user_id, client_message_id, content, written_at_ms };
            let mut bytes = record.encode_to_vec();
            if let Some(unknown) = unknown {
                encoding::string::encode(100, &unknown, &mut bytes);
            }
            let expected = StoredRecord {
                user: UserId(user_id),
                client_message_id: (client_message_id != 0)
                    .then_some(ClientMessageId(client_message_id)),
                written_at_ms: (written_at_ms != 0).then_some(written_at_ms),
                content: Content::Body(&body),
            };
            prop_assert_eq!(read(&bytes), Ok(expected));
        }

        #[test]
        fn any_bytes_are_a_record_or_not_but_never_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            if let (Ok(read), Ok(generated)) = (read(&bytes), proto::Record::decode(&bytes[..])) {
                prop_assert_eq!(read.user.0, generated.user_id);
            }
        }
    }
}
