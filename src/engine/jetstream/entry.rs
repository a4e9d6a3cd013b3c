//! An entry of a log as one message of its stream. Pure.
//!
//! ```text
//! the batch, byte for byte as `Batch::encode` makes it
//! version u8
//! the cursor of the entry before it, u64; all ones: the message just before this one
//! count u16, and for each key: place in the batch u16, user u32, client message id u64, digest u64
//! count u32, and for each derived record: table u8, key's length u16, key,
//!                                         value's length u32 (all ones: removed), value
//! length of the batch u32
//! checksum u32: the CRC-32C of all behind the batch
//! ```
//!
//! Numbers are little-endian. The batch has a checksum of its own, which covers the channel too.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::{
    engine::{Derived, MessageKey, Table},
    log::{
        batch::{Batch, BatchError},
        place::{ChannelId, ClientMessageId, Cursor, Sequence, UserId},
    },
};

const VERSION: u8 = 1;
const JUST_BEFORE: u64 = u64::MAX;
const REMOVED: u32 = u32::MAX;
/// The length of the batch and the checksum.
const TRAILER_BYTES: usize = 8;

/// Every table, by its number in an entry, from 0: only ever appended to.
const TABLES: [Table; 13] = [
    Table::Counters,
    Table::Channels,
    Table::Users,
    Table::PublicChannels,
    Table::Members,
    Table::Memberships,
    Table::Deletions,
    Table::Webhooks,
    Table::UserNames,
    Table::Imports,
    Table::ImportKeys,
    Table::ReadMarkers,
    Table::Facts,
];

/// Which entry was the log's last when this one was appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum After {
    /// The one at this cursor; 0: there was none.
    At(Cursor),
    /// The one before it in the same chain, which is the stream's message before.
    JustBefore,
}

impl After {
    /// As a cursor, of an entry at this one.
    pub(super) const fn of(self, entry_at: Cursor) -> Cursor {
        match self {
            Self::At(cursor) => cursor,
            Self::JustBefore => Cursor(entry_at.0.saturating_sub(1)),
        }
    }
}

/// What one message of a log's stream says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Payload {
    pub(super) after: After,
    pub(super) batch: Batch,
    pub(super) keys: Vec<MessageKey>,
    pub(super) derived: Vec<Derived>,
}

impl Payload {
    /// The bytes of the message.
    ///
    /// # Panics
    /// When a key is none of the batch's, or there are too many of something. The limits of an append
    /// are far below.
    pub(super) fn encode(
        channel: ChannelId,
        after: After,
        batch: &Batch,
        keys: &[MessageKey],
        derived: &[Derived],
    ) -> Bytes {
        let encoded = batch.encode(channel);
        let mut bytes = BytesMut::with_capacity(encoded.len() + 64 + 22 * keys.len());
        bytes.put_slice(&encoded);
        bytes.put_u8(VERSION);
        bytes.put_u64_le(match after {
            After::At(cursor) => cursor.0,
            After::JustBefore => JUST_BEFORE,
        });
        bytes.put_u16_le(u16::try_from(keys.len()).expect("a batch has at most 65,535 records"));
        for key in keys {
            let place = key.sequence.0.checked_sub(batch.first_sequence.0);
            let place = place.and_then(|place| u16::try_from(place).ok());
            bytes.put_u16_le(place.expect("a key is of a record of its batch"));
            bytes.put_u32_le(key.user.0);
            bytes.put_u64_le(key.client_message_id.0);
            bytes.put_u64_le(key.digest);
        }
        bytes.put_u32_le(length(derived.len()));
        for Derived { table, key, value } in derived {
            let number = TABLES.iter().position(|it| it == table).expect("every table is listed");
            bytes.put_u8(number as u8);
            bytes.put_u16_le(u16::try_from(key.len()).expect("a record's key is short"));
            bytes.put_slice(key.as_bytes());
            bytes.put_u32_le(value.as_ref().map_or(REMOVED, |value| length(value.len())));
            bytes.put_slice(value.as_deref().unwrap_or_default());
        }
        bytes.put_u32_le(length(encoded.len()));
        let checksum = crc32c::crc32c(&bytes[encoded.len()..]);
        bytes.put_u32_le(checksum);
        bytes.freeze()
    }

    /// Reads a message and checks that it is whole.
    ///
    /// # Errors
    /// When the bytes are not exactly one undamaged entry of this channel.
    pub(super) fn decode(channel: ChannelId, bytes: &Bytes) -> Result<Self, BatchError> {
        let trailer = bytes.len().checked_sub(TRAILER_BYTES).ok_or(BatchError::Truncated)?;
        let mut rest = &bytes[trailer..];
        let batch_bytes = rest.get_u32_le() as usize;
        let checksum = rest.get_u32_le();
        if batch_bytes > trailer {
            return Err(BatchError::UnknownFormat);
        }
        if crc32c::crc32c(&bytes[batch_bytes..trailer + 4]) != checksum {
            return Err(BatchError::WrongChecksum);
        }
        let batch = Batch::decode(channel, &bytes.slice(..batch_bytes))?;
        let mut rest = Rest(bytes.slice(batch_bytes..trailer));
        if rest.take::<1>()? != [VERSION] {
            return Err(BatchError::UnknownFormat);
        }
        let after = match u64::from_le_bytes(rest.take()?) {
            JUST_BEFORE => After::JustBefore,
            cursor => After::At(Cursor(cursor)),
        };
        let mut keys = Vec::new();
        for _ in 0..u16::from_le_bytes(rest.take()?) {
            let place = u16::from_le_bytes(rest.take()?);
            if place >= batch.count {
                return Err(BatchError::UnknownFormat);
            }
            keys.push(MessageKey {
                sequence: Sequence(batch.first_sequence.0 + u64::from(place)),
                user: UserId(u32::from_le_bytes(rest.take()?)),
                client_message_id: ClientMessageId(u64::from_le_bytes(rest.take()?)),
                digest: u64::from_le_bytes(rest.take()?),
            });
        }
        let mut derived = Vec::new();
        for _ in 0..u32::from_le_bytes(rest.take()?) {
            let [table] = rest.take()?;
            let table = *TABLES.get(usize::from(table)).ok_or(BatchError::UnknownFormat)?;
            let key_bytes = u16::from_le_bytes(rest.take()?);
            let key = rest.bytes(usize::from(key_bytes))?;
            let key = String::from_utf8(key.into()).map_err(|_| BatchError::UnknownFormat)?;
            let value = match u32::from_le_bytes(rest.take()?) {
                REMOVED => None,
                bytes => Some(rest.bytes(bytes as usize)?),
            };
            derived.push(Derived { table, key, value });
        }
        if !rest.0.is_empty() {
            return Err(BatchError::UnknownFormat);
        }
        Ok(Self { after, batch, keys, derived })
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("an append is far smaller")
}

/// What is not read yet.
struct Rest(Bytes);

impl Rest {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BatchError> {
        let taken = *self.0.first_chunk::<N>().ok_or(BatchError::Truncated)?;
        self.0.advance(N);
        Ok(taken)
    }

    fn bytes(&mut self, count: usize) -> Result<Bytes, BatchError> {
        if count > self.0.len() {
            return Err(BatchError::Truncated);
        }
        Ok(self.0.split_to(count))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::{
        batch::put_record,
        place::{BatchId, Epoch},
    };

    const LOBBY: ChannelId = ChannelId(7);

    fn payloads() -> impl Strategy<Value = Payload> {
        let records = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..8);
        let keys = prop::collection::vec((any::<u32>(), any::<u64>(), any::<u64>()), 0..8);
        let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..30));
        let derived = prop::collection::vec((0..TABLES.len(), ".{0,9}", value), 0..5);
        let after = prop::option::of(0..u64::MAX);
        (records, keys, derived, after, 1..1_000_u64).prop_map(
            |(records, keys, derived, after, first)| {
                let mut bytes = BytesMut::new();
                for record in &records {
                    put_record(&mut bytes, record);
                }
                let batch = Batch {
                    epoch: Epoch(3),
                    id: BatchId(5),
                    previous: BatchId(4),
                    first_sequence: Sequence(first),
                    count: records.len() as u16,
                    timestamp_ms: 9,
                    records: bytes.freeze(),
                };
                let keys = (first..first + records.len() as u64).zip(keys).map(
                    |(sequence, (user, id, digest))| MessageKey {
                        user: UserId(user),
                        client_message_id: ClientMessageId(id),
                        sequence: Sequence(sequence),
                        digest,
                    },
                );
                let derived = derived.into_iter().map(|(table, key, value)| Derived {
                    table: TABLES[table],
                    key,
                    value: value.map(Bytes::from),
                });
                let after = after.map_or(After::JustBefore, |cursor| After::At(Cursor(cursor)));
                Payload { after, batch, keys: keys.collect(), derived: derived.collect() }
            },
        )
    }

    fn encode(payload: &Payload) -> Bytes {
        let Payload { after, batch, keys, derived } = payload;
        Payload::encode(LOBBY, *after, batch, keys, derived)
    }

    proptest! {
        #[test]
        fn every_entry_survives_encode_then_decode(payload in payloads()) {
            let bytes = encode(&payload);
            let batch = payload.batch.encode(LOBBY);
            prop_assert_eq!(&bytes[..batch.len()], &batch[..], "the batch is in it byte for byte");
            prop_assert_eq!(Payload::decode(LOBBY, &bytes), Ok(payload));
            prop_assert!(Payload::decode(ChannelId(8), &bytes).is_err(), "of another channel");
        }

        #[test]
        fn a_flipped_bit_or_a_lost_end_is_seen(
            payload in payloads(), at in any::<prop::sample::Index>(), bit in 0..8_u32,
        ) {
            let bytes = encode(&payload);
            let at = at.index(bytes.len());
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1 << bit;
            prop_assert!(Payload::decode(LOBBY, &flipped.into()).is_err());
            prop_assert!(Payload::decode(LOBBY, &bytes.slice(..at)).is_err());
        }

        #[test]
        fn bytes_of_anything_are_read_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            prop_assert!(Payload::decode(LOBBY, &bytes.into()).is_err());
        }
    }

    #[test]
    fn the_number_of_a_table_never_changes() {
        let names = TABLES.map(Table::name);
        assert_eq!(
            names,
            [
                "counters",
                "channels",
                "users",
                "public_channels",
                "members",
                "memberships",
                "deletions",
                "webhooks",
                "user_names",
                "imports",
                "import_keys",
                "read_markers",
                "facts",
            ],
        );
    }
}
