//! What the server pushes, read in place: of a `Messages` event only what the audit needs. Hot. Pure.
//!
//! The field numbers are those of `proto/hubbub/v1`. What it does not know it skips, as every client
//! must: it may be of a later version.

use hubbub::wire::proto;
use prost::Message as _;
use thiserror::Error;

/// An envelope of the server.
#[derive(Debug)]
pub(crate) enum Scanned<'a> {
    Messages(Messages<'a>),
    /// Anything else, which is rare.
    Other(proto::ServerEnvelope),
}

/// A run of messages; iterate for the records.
///
/// A malformed record is told when it is reached, and ends the iteration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Messages<'a> {
    pub(crate) channel_id: u32,
    pub(crate) first_sequence: u64,
    rest: &'a [u8],
}

/// One message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) user_id: u32,
    pub(crate) client_message_id: u64,
    /// Empty if the record has another content than a body. Whether it is text is not looked at.
    pub(crate) body: &'a [u8],
}

#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(crate) enum ScanError {
    #[error("bytes that are no envelope of the protocol")]
    Malformed,
}

/// The envelope in a frame's payload.
///
/// An envelope that holds `messages` twice is malformed: protobuf would merge the two, and no
/// server writes that.
#[inline]
pub(crate) fn scan(payload: &[u8]) -> Result<Scanned<'_>, ScanError> {
    let mut messages = None;
    let mut fields = Fields(payload);
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Bytes(bytes)) if messages.is_none() => messages = Some(bytes),
            (1, _) => return Err(ScanError::Malformed),
            // Of the envelopes that exclude each other, the last one counts.
            (2..=7, _) => messages = None,
            _ => {}
        }
    }
    match messages {
        Some(bytes) => Messages::scan(bytes).map(Scanned::Messages),
        None => decode(payload).map(Scanned::Other),
    }
}

#[cold]
fn decode(payload: &[u8]) -> Result<proto::ServerEnvelope, ScanError> {
    proto::ServerEnvelope::decode(payload).map_err(|_| ScanError::Malformed)
}

impl<'a> Messages<'a> {
    /// Passes over the records by their lengths, because the fields may come in any order.
    #[inline]
    fn scan(bytes: &'a [u8]) -> Result<Self, ScanError> {
        let mut messages = Self { channel_id: 0, first_sequence: 0, rest: bytes };
        let mut fields = Fields(bytes);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Varint(channel_id)) => messages.channel_id = low_half(channel_id),
                (2, Value::Varint(sequence)) => messages.first_sequence = sequence,
                (3, Value::Varint(_)) | (4, Value::Bytes(_)) => {}
                (1..=4, _) => return Err(ScanError::Malformed),
                _ => {}
            }
        }
        Ok(messages)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Record<'a>, ScanError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let mut fields = Fields(self.rest);
        while let Some(field) = fields.next().expect("the fields have been passed over once") {
            if let (4, Value::Bytes(bytes)) = field {
                let record = Record::scan(bytes);
                self.rest = if record.is_ok() { fields.0 } else { &[] };
                return Some(record);
            }
        }
        self.rest = &[];
        None
    }
}

impl<'a> Record<'a> {
    #[inline]
    fn scan(bytes: &'a [u8]) -> Result<Self, ScanError> {
        let mut record = Self { user_id: 0, client_message_id: 0, body: &[] };
        let mut fields = Fields(bytes);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Varint(user_id)) => record.user_id = low_half(user_id),
                (2, Value::Fixed64(id)) => record.client_message_id = id,
                (3, Value::Bytes(body)) => record.body = body,
                (1..=3, _) => return Err(ScanError::Malformed),
                _ => {}
            }
        }
        Ok(record)
    }
}

/// The value of a field, by its wire type.
#[derive(Clone, Copy)]
enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

/// The fields of one protobuf message. Groups, which proto3 does not have, are malformed.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The next field's number and value.
    #[inline]
    fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, ScanError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = u32::try_from(self.varint()?).map_err(|_| ScanError::Malformed)?;
        let value = match key & 0x7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(*self.fixed()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ScanError::Malformed)?;
                let (bytes, rest) = self.0.split_at_checked(length).ok_or(ScanError::Malformed)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            5 => {
                self.fixed::<4>()?;
                Value::Fixed32
            }
            _ => return Err(ScanError::Malformed),
        };
        match key >> 3 {
            0 => Err(ScanError::Malformed),
            number => Ok(Some((number, value))),
        }
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, ScanError> {
        // Keys, lengths of a message and most numbers take one byte.
        if let &[byte @ ..0x80, ref rest @ ..] = self.0 {
            self.0 = rest;
            return Ok(u64::from(byte));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, ScanError> {
        let mut number = 0;
        for (at, &byte) in self.0.iter().take(10).enumerate() {
            // The tenth byte has room for the highest of 64 bits only.
            if at == 9 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7F) << (7 * at);
            if byte < 0x80 {
                self.0 = &self.0[at + 1..];
                return Ok(number);
            }
        }
        Err(ScanError::Malformed)
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Result<&'a [u8; N], ScanError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(ScanError::Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }
}

/// A `uint32` of which a writer has sent more bits, as protobuf reads it.
#[inline]
fn low_half(number: u64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "this is what it is for")]
    let low = number as u32;
    low
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::encoding::encode_varint;
    use proto::{record::Content, server_envelope::Envelope};

    use super::*;

    /// What `scan` finds, as prost would tell it; without the timestamp, which it skips.
    fn found(payload: &[u8]) -> Result<proto::ServerEnvelope, ScanError> {
        let messages = match scan(payload)? {
            Scanned::Messages(messages) => messages,
            Scanned::Other(other) => return Ok(other),
        };
        let records = messages.map(|record| {
            let Record { user_id, client_message_id, body } = record?;
            let body = String::from_utf8_lossy(body).into_owned();
            let content = (!body.is_empty()).then_some(Content::Body(body));
            Ok(proto::Record { user_id, client_message_id, content, written_at_ms: 0 })
        });
        Ok(envelope(proto::Messages {
            channel_id: messages.channel_id,
            first_sequence: messages.first_sequence,
            timestamp_ms: 0,
            records: records.collect::<Result<_, _>>()?,
        }))
    }

    /// What prost finds, without what `scan` does not tell: the timestamp, and whether an empty
    /// content is a body.
    fn expected(payload: &[u8]) -> Option<proto::ServerEnvelope> {
        let mut decoded = proto::ServerEnvelope::decode(payload).ok()?;
        if let Some(Envelope::Messages(messages)) = &mut decoded.envelope {
            messages.timestamp_ms = 0;
            for record in &mut messages.records {
                let says_nothing = |content: &mut Content| match content {
                    Content::Body(body) => body.is_empty(),
                    _ => true,
                };
                record.content.take_if(says_nothing);
                record.written_at_ms = 0;
            }
        }
        Some(decoded)
    }

    fn envelope(messages: proto::Messages) -> proto::ServerEnvelope {
        proto::ServerEnvelope { envelope: Some(Envelope::Messages(messages)) }
    }

    fn records() -> impl Strategy<Value = Vec<proto::Record>> {
        let content = prop::option::of("\\PC{0,80}".prop_map(Content::Body));
        let record = (any::<u32>(), any::<u64>(), content).prop_map(
            |(user_id, client_message_id, content)| proto::Record {
                user_id,
                client_message_id,
                content,
                written_at_ms: 0,
            },
        );
        prop::collection::vec(record, 0..6)
    }

    fn envelopes() -> impl Strategy<Value = proto::ServerEnvelope> {
        (any::<u32>(), any::<u64>(), any::<u64>(), records()).prop_map(
            |(channel_id, first_sequence, timestamp_ms, records)| {
                envelope(proto::Messages { channel_id, first_sequence, timestamp_ms, records })
            },
        )
    }

    /// One field of a later version: of a number that no message has or will have soon, with each wire type.
    fn unknown() -> impl Strategy<Value = Vec<u8>> {
        (32..200_u64, any::<u64>(), prop::sample::select(vec![0_u64, 1, 2, 5])).prop_map(
            |(number, value, wire_type)| {
                let mut field = Vec::new();
                encode_varint(number << 3 | wire_type, &mut field);
                match wire_type {
                    0 => encode_varint(value, &mut field),
                    1 => field.extend_from_slice(&value.to_le_bytes()),
                    2 => {
                        encode_varint(value % 40, &mut field);
                        field.extend((0..value % 40).map(|_| b'?'));
                    }
                    _ => field.extend_from_slice(&value.to_le_bytes()[..4]),
                }
                field
            },
        )
    }

    /// A field that holds these bytes.
    fn nested(number: u64, bytes: &[u8]) -> Vec<u8> {
        let mut field = Vec::new();
        encode_varint(number << 3 | 2, &mut field);
        encode_varint(bytes.len() as u64, &mut field);
        field.extend_from_slice(bytes);
        field
    }

    /// The same fields in another order.
    fn any_order(fields: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
        Just(fields).prop_shuffle().prop_map(|fields| fields.concat())
    }

    proptest! {
        #[test]
        fn messages_are_what_prost_decodes(sent in envelopes()) {
            let payload = sent.encode_to_vec();
            prop_assert!(matches!(scan(&payload), Ok(Scanned::Messages(_))));
            prop_assert_eq!(Some(found(&payload).unwrap()), expected(&payload));
        }

        #[test]
        fn fields_come_in_any_order_among_unknown_ones(
            payload in (records(), prop::collection::vec(unknown(), 6)).prop_flat_map(|(records, unknown)| {
                let mut fields = vec![vec![0x08, 7], vec![0x10, 0x96, 0x01], vec![0x18, 3]];
                for (record, unknown) in records.iter().zip(&unknown) {
                    fields.push(nested(4, &[&unknown[..], &record.encode_to_vec(), unknown].concat()));
                }
                fields.extend_from_slice(&unknown[..3]);
                any_order(fields).prop_flat_map(move |messages| {
                    any_order(vec![nested(1, &messages), unknown[4].clone(), unknown[5].clone()])
                })
            }),
        ) {
            let Ok(Scanned::Messages(messages)) = scan(&payload) else { panic!("no messages") };
            prop_assert_eq!((messages.channel_id, messages.first_sequence), (7, 150));
            prop_assert_eq!(Some(found(&payload).unwrap()), expected(&payload));
        }

        #[test]
        fn what_is_cut_off_is_malformed(sent in envelopes(), at in any::<prop::sample::Index>()) {
            let payload = sent.encode_to_vec();
            let cut = at.index(payload.len());
            // Nothing at all is an envelope, an empty one.
            prop_assert_eq!(found(&payload[..cut]).is_err(), cut > 0);
        }

        #[test]
        fn a_changed_byte_is_read_as_prost_reads_it_or_is_malformed(
            sent in envelopes(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut payload = sent.encode_to_vec();
            for (at, byte) in changes {
                let at = at.index(payload.len());
                payload[at] = byte;
            }
            // Prost refuses a body that is not text; that is not looked for here.
            if let (Ok(found), Some(expected)) = (found(&payload), expected(&payload)) {
                prop_assert_eq!(found, expected);
            }
        }

        #[test]
        fn bytes_of_any_kind_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let (Ok(found), Some(expected)) = (found(&bytes), expected(&bytes)) {
                prop_assert_eq!(found, expected);
            }
        }

        #[test]
        fn a_varint_is_read_as_it_was_written(number in any::<u64>()) {
            let mut bytes = Vec::new();
            encode_varint(number, &mut bytes);
            let mut fields = Fields(&bytes);
            prop_assert_eq!(fields.long_varint(), Ok(number));
            prop_assert!(fields.0.is_empty());
            prop_assert_eq!(Fields(&bytes).varint(), Ok(number));
        }
    }

    #[test]
    fn everything_else_is_decoded() {
        let gap = proto::Gap { channel_id: 3, from_sequence: 5, to_sequence: 9 };
        let sent = proto::ServerEnvelope { envelope: Some(Envelope::Gap(gap)) };
        let payload = sent.encode_to_vec();
        assert!(matches!(scan(&payload), Ok(Scanned::Other(found)) if found == sent));
        assert!(matches!(scan(&[]), Ok(Scanned::Other(found)) if found.envelope.is_none()));

        // The last of those that exclude each other counts.
        let messages = envelope(proto::Messages::default()).encode_to_vec();
        let both = [&messages[..], &payload[..]].concat();
        assert!(matches!(scan(&both), Ok(Scanned::Other(found)) if found == sent));
        let both = [&payload[..], &messages[..]].concat();
        assert!(matches!(scan(&both), Ok(Scanned::Messages(_))));
    }

    #[test]
    fn a_content_of_a_later_version_is_no_body() {
        let record = [0x08, 5, 0x22, 2, b'h', b'i'];
        let payload = nested(1, &nested(4, &record));
        let Ok(Scanned::Messages(messages)) = scan(&payload) else { panic!("no messages") };
        let expected = Record { user_id: 5, client_message_id: 0, body: &[] };
        assert_eq!(messages.collect::<Vec<_>>(), [Ok(expected)]);
    }

    #[test]
    fn a_malformed_record_ends_the_iteration() {
        let mut run = nested(4, &[0x08, 5]);
        run.extend(nested(4, &[0x08]));
        run.extend(nested(4, &[0x08, 6]));
        let payload = nested(1, &run);
        let Ok(Scanned::Messages(messages)) = scan(&payload) else { panic!("no messages") };
        let first = Record { user_id: 5, client_message_id: 0, body: &[] };
        assert_eq!(messages.collect::<Vec<_>>(), [Ok(first), Err(ScanError::Malformed)]);
    }

    #[test]
    fn malformed_fields_are_errors() {
        let malformed: [&[u8]; 9] = [
            // Varints that do not end, that end too late, and that have more than 64 bits.
            &[0x08, 0x80],
            &[0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
            &[0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02],
            // A field of number 0, a group, and a wire type that does not exist.
            &[0x00, 0x01],
            &[0x4B, 0x4C],
            &[0x4F],
            // Fields of ours with a wire type that is not theirs.
            &[0x0D, 0, 0, 0, 0],
            &[0x20, 0],
            // A length beyond the end.
            &[0x22, 0x05, 0x00],
        ];
        for bytes in malformed {
            assert!(matches!(scan(&nested(1, bytes)), Err(ScanError::Malformed)), "{bytes:x?}");
        }
        let twice = [nested(1, &[]), nested(1, &[])].concat();
        assert!(matches!(scan(&twice), Err(ScanError::Malformed)), "messages twice");
    }
}
