//! What a line says → a record of the log, and by what it is known again. Hot. Pure.
//!
//! Messages are written by hand into the bytes that a batch copies: a prost message for each would
//! cost a string and a buffer.

use std::num::NonZeroU64;

use prost::encoding;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::line::Settings;
use crate::log::{
    batch::{RECORD_TAG, put_record},
    place::{ClientMessageId, UserId},
    settings::Role,
};
use crate::wire::record::{self, Origin};

/// Who wrote something, under which number of their own, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Who.
    pub user: UserId,
    /// The client's number for it.
    pub id: Option<ClientMessageId>,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
}

/// The fields of `hubbub.v1.Record`: each the tag that prost writes before it.
const USER: u8 = 1 << 3;
const ID: u8 = 2 << 3 | 1;
const BODY: u8 = 3 << 3 | 2;
const WRITTEN_AT: u8 = 8 << 3;
/// The longest that stands before a body: two tags and lengths, and the fields before it.
const HEAD_BYTES_MAX: usize = 1 + 10 + (1 + 5) + (1 + 8) + (1 + 10);

/// Bytes on their way into a record: few, and on the stack.
struct Few<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Few<N> {
    const fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    fn put(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put(value as u8 | 0x80);
            value >>= 7;
        }
        self.put(value as u8);
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Appends a message, as [`Batch::records`](crate::log::batch::Batch::records) holds it. Nobody has
/// the number 0, and no time is 0, so that no field is left out.
pub fn put_message(records: &mut Vec<u8>, written: Written, body: &str) {
    let mut tail = Few::<11>::new();
    tail.put(WRITTEN_AT);
    tail.put_varint(written.time_ms);

    let user_bytes = 1 + encoding::encoded_len_varint(written.user.0.into());
    let id_bytes = if written.id.is_some() { 9 } else { 0 };
    let body_bytes = 1 + encoding::encoded_len_varint(body.len() as u64) + body.len();
    let mut head = Few::<HEAD_BYTES_MAX>::new();
    head.put(RECORD_TAG);
    head.put_varint((user_bytes + id_bytes + body_bytes + tail.length) as u64);
    head.put(USER);
    head.put_varint(written.user.0.into());
    if let Some(id) = written.id {
        head.put(ID);
        for byte in id.0.to_le_bytes() {
            head.put(byte);
        }
    }
    head.put(BODY);
    head.put_varint(body.len() as u64);

    records.extend_from_slice(head.as_slice());
    records.extend_from_slice(body.as_bytes());
    records.extend_from_slice(tail.as_slice());
}

impl From<Written> for Origin {
    fn from(Written { user, id, time_ms }: Written) -> Self {
        Self { user, client_message_id: id, written_at_ms: time_ms }
    }
}

/// Appends what a member is from there on.
pub fn put_member(records: &mut Vec<u8>, written: Written, member: UserId, role: Option<Role>) {
    put_record(records, &record::membership(written, member, role));
}

/// Appends what a channel is from there on.
pub fn put_settings(records: &mut Vec<u8>, written: Written, channel: &str, settings: &Settings) {
    put_record(records, &record::settings(written, &settings.of(channel)));
}

/// By what a record of an import is known again: two that have the same are the same message. It is
/// stored, so it stays what it is: XXH3 with 64 bits, of the user and the number if the record has
/// one, otherwise of all the record, which [`put_message`] and its like write in one way only.
#[must_use]
pub fn identity(record: &[u8]) -> u64 {
    match numbered(record) {
        Some(user_and_number) => xxh3_64_with_seed(user_and_number, 1),
        None => xxh3_64(record),
    }
}

/// The identity of a line without id that names its place, which tells equal ones apart.
#[must_use]
pub fn identity_at(identity: u64, sequence: NonZeroU64) -> u64 {
    xxh3_64_with_seed(&identity.to_le_bytes(), sequence.get())
}

/// The front of a record: user and number, if it has one.
fn numbered(record: &[u8]) -> Option<&[u8]> {
    let after_tag = record.strip_prefix(&[USER])?;
    let user_bytes = after_tag.iter().position(|byte| *byte < 0x80)? + 1;
    if after_tag.get(user_bytes) != Some(&ID) {
        return None;
    }
    record.get(..1 + user_bytes + 9)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::log::{
        batch::Batch,
        place::{BatchId, Epoch, Sequence},
        settings::{Posting, Quota, Visibility},
    };

    /// `hubbub.v1.Record` as prost knows it.
    #[derive(Clone, PartialEq, Message)]
    struct Record {
        #[prost(uint32, tag = "1")]
        user_id: u32,
        #[prost(fixed64, tag = "2")]
        client_message_id: u64,
        #[prost(oneof = "Content", tags = "3, 4, 5")]
        content: Option<Content>,
        #[prost(uint64, tag = "8")]
        written_at_ms: u64,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    enum Content {
        #[prost(string, tag = "3")]
        Body(String),
        #[prost(message, tag = "4")]
        Membership(Membership),
        #[prost(message, tag = "5")]
        Settings(ProtoSettings),
    }

    #[derive(Clone, PartialEq, Message)]
    struct Membership {
        #[prost(uint32, tag = "1")]
        user_id: u32,
        #[prost(int32, tag = "2")]
        role: i32,
    }

    #[derive(Clone, PartialEq, Message)]
    struct ProtoSettings {
        #[prost(string, tag = "1")]
        channel_name: String,
        #[prost(string, tag = "2")]
        topic: String,
        #[prost(int32, tag = "3")]
        visibility: i32,
        #[prost(int32, tag = "4")]
        posting: i32,
        #[prost(bool, tag = "5")]
        archived: bool,
        #[prost(message, optional, tag = "6")]
        quota: Option<ProtoQuota>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct ProtoQuota {
        #[prost(uint64, tag = "1")]
        messages_max: u64,
        #[prost(uint64, tag = "2")]
        bytes_max: u64,
    }

    fn framed(record: &Record) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_record(&mut bytes, &record.encode_to_vec());
        bytes
    }

    fn only_record(records: Vec<u8>) -> Vec<u8> {
        let batch = Batch {
            epoch: Epoch(1),
            id: BatchId(1),
            previous: BatchId(0),
            first_sequence: Sequence(1),
            count: 1,
            timestamp_ms: 1,
            records: Bytes::from(records),
        };
        batch.records().next().unwrap().unwrap().to_vec()
    }

    const WRITTEN: Written = Written { user: UserId(300), id: None, time_ms: 1_795_262_400_123 };

    proptest! {
        #[test]
        fn messages_are_written_as_prost_writes_them(
            user in 1..=u32::MAX, id in any::<u64>(), time_ms in 1..u64::MAX, body in "\\PC{1,300}"
        ) {
            let id = (id % 3 != 0).then_some(ClientMessageId(id.max(1)));
            let mut records = vec![7];
            put_message(&mut records, Written { user: UserId(user), id, time_ms }, &body);
            let record = Record {
                user_id: user,
                client_message_id: id.map_or(0, |id| id.0),
                content: Some(Content::Body(body)),
                written_at_ms: time_ms,
            };
            prop_assert_eq!(&records[1..], framed(&record));
        }
    }

    #[test]
    fn events_are_written_as_prost_writes_them() {
        let record = |content| Record {
            user_id: 300,
            client_message_id: 0,
            content: Some(content),
            written_at_ms: WRITTEN.time_ms,
        };
        for (role, number) in [(None, 0), (Some(Role::Owner), 3)] {
            let mut records = Vec::new();
            put_member(&mut records, WRITTEN, UserId(5), role);
            let membership = Membership { user_id: 5, role: number };
            assert_eq!(records, framed(&record(Content::Membership(membership))));
        }
        let mut settings = Settings::default();
        let mut proto = ProtoSettings {
            channel_name: "lobby".into(),
            visibility: 1,
            posting: 1,
            ..ProtoSettings::default()
        };
        for _ in 0..2 {
            let mut records = Vec::new();
            put_settings(&mut records, WRITTEN, "lobby", &settings);
            assert_eq!(records, framed(&record(Content::Settings(proto.clone()))));
            settings = Settings {
                name: None,
                topic: "all".into(),
                visibility: Visibility::Private,
                posting: Posting::Moderators,
                archived: true,
                quota: Quota { messages_max: NonZeroU64::new(9), bytes_max: None },
            };
            proto = ProtoSettings {
                channel_name: "lobby".into(),
                topic: "all".into(),
                visibility: 2,
                posting: 3,
                archived: true,
                quota: Some(ProtoQuota { messages_max: 9, bytes_max: 0 }),
            };
        }
    }

    #[test]
    fn what_is_stored_to_know_a_message_again_never_changes() {
        let identity_of = |written, body| {
            let mut records = Vec::new();
            put_message(&mut records, written, body);
            identity(&only_record(records))
        };
        assert_eq!(identity_of(WRITTEN, "hi"), GOLDEN_PLAIN);
        let numbered = Written { id: Some(ClientMessageId(17)), ..WRITTEN };
        assert_eq!(identity_of(numbered, "hi"), GOLDEN_NUMBERED);
        let later = Written { time_ms: 5, ..numbered };
        assert_eq!(identity_of(later, "ho"), GOLDEN_NUMBERED, "the number says it all");
        assert_eq!(identity_at(GOLDEN_PLAIN, NonZeroU64::MIN), GOLDEN_AT);
    }

    const GOLDEN_PLAIN: u64 = 8890889525421743626;
    const GOLDEN_NUMBERED: u64 = 13354136377132265062;
    const GOLDEN_AT: u64 = 12222432129577366937;
}
