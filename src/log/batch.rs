//! A batch: what one append commits, fan-out delivers, replay copies and migration moves. Pure.
//!
//! ```text
//!  0 magic "hb"      16 batch_id               48 first_sequence
//!  2 version u16     32 previous batch_id      56 timestamp_ms
//!  4 checksum                                  64 records: for each, as in hubbub.v1.Messages,
//!  8 epoch u32                                    the field's tag, the length, the record
//! 12 count u16, 2 zero bytes
//! ```
//!
//! Numbers are little-endian. Each batch names the one before it, and the checksum is the CRC-32C of
//! the channel's number and all that follows the checksum: a flipped bit, a lost tail, a fork or a
//! batch of another channel is seen by whoever reads. The records are in
//! the very form in which `hubbub.v1.Messages` carries them, so that fan-out and replay copy bytes
//! and encode nothing.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::place::{BatchId, ChannelId, Cursor, Epoch, Head, Position, Sequence};

/// The tag of `hubbub.v1.Messages.records`: field 4, length-delimited. A contract test holds it
/// against the descriptor.
pub const RECORD_TAG: u8 = 4 << 3 | 2;

const MAGIC: [u8; 2] = *b"hb";
const VERSION: u16 = 1;
const CHECKED_FROM: usize = 8;
/// Bytes before the records.
pub const HEADER_BYTES: usize = 64;
/// No sequence lies beyond: SQL databases count in 63 bits, and so `last_sequence` cannot overflow.
const LAST_SEQUENCE_MAX: u64 = i64::MAX.cast_unsigned();

/// A run of consecutive records with its place in the chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// The life of the numbering.
    pub epoch: Epoch,
    /// This batch.
    pub id: BatchId,
    /// The batch before it; 0 for the first of an epoch.
    pub previous: BatchId,
    /// The sequence of the first record.
    pub first_sequence: Sequence,
    /// How many records. Never 0.
    pub count: u16,
    /// When the records were put in order, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// The records, each behind [`RECORD_TAG`] and its length.
    pub records: Bytes,
}

/// Why bytes from a log are not a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BatchError {
    /// Shorter than a header, or its records end in the middle.
    #[error("the batch is cut short")]
    Truncated,
    /// Not a batch, or one of a later version.
    #[error("the batch has an unknown format")]
    UnknownFormat,
    /// The checksum does not fit the bytes.
    #[error("the batch's checksum is wrong")]
    WrongChecksum,
    /// The records are not as many as the header says.
    #[error("the batch's record count is wrong")]
    WrongCount,
    /// It begins before the first sequence, or ends beyond the last that there can be.
    #[error("the batch's sequences cannot be")]
    WrongSequence,
    /// It is whole, but stored in the place of another.
    #[error("the batch is stored in another one's place")]
    Misplaced,
    /// It is whole, but does not extend the one stored before it: something is missing or forked.
    #[error("the batch does not follow the one before it")]
    BrokenChain,
}

impl Batch {
    /// The sequence of the last record.
    #[must_use]
    pub const fn last_sequence(&self) -> Sequence {
        Sequence(self.first_sequence.0 + self.count as u64 - 1)
    }

    /// Whether this batch is the next link of the chain that ends in `head`.
    #[must_use]
    pub fn extends(&self, head: &Head) -> bool {
        self.epoch == head.epoch
            && self.previous == head.batch
            && self.first_sequence == head.sequence.next()
            && self.timestamp_ms >= head.timestamp_ms
    }

    /// The head of the chain once this batch, stored at `cursor`, is its last.
    #[must_use]
    pub const fn head(&self, cursor: Cursor) -> Head {
        Head {
            epoch: self.epoch,
            sequence: self.last_sequence(),
            batch: self.id,
            timestamp_ms: self.timestamp_ms,
            cursor,
        }
    }

    /// How many bytes [`encode`](Self::encode) answers.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        HEADER_BYTES + self.records.len()
    }

    /// The bytes of this batch, as they are in every log.
    #[must_use]
    pub fn encode(&self, channel: ChannelId) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.encoded_bytes());
        bytes.put_slice(&MAGIC);
        bytes.put_u16_le(VERSION);
        bytes.put_u32_le(0);
        bytes.put_u32_le(self.epoch.0);
        bytes.put_u16_le(self.count);
        bytes.put_u16_le(0);
        bytes.put_u128_le(self.id.0);
        bytes.put_u128_le(self.previous.0);
        bytes.put_u64_le(self.first_sequence.0);
        bytes.put_u64_le(self.timestamp_ms);
        bytes.put_slice(&self.records);
        let checksum = checksum(channel, &bytes);
        bytes[4..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
        bytes.freeze()
    }

    /// Reads a batch and checks that its bytes are whole.
    ///
    /// # Errors
    /// When the bytes are not exactly one undamaged batch.
    pub fn decode(channel: ChannelId, bytes: &Bytes) -> Result<Self, BatchError> {
        let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(BatchError::Truncated)?;
        if header[..2] != MAGIC || u16_at(header, 2) != VERSION {
            return Err(BatchError::UnknownFormat);
        }
        if checksum(channel, bytes) != u32_at(header, 4) {
            return Err(BatchError::WrongChecksum);
        }
        // A later version may use what is zero now, and must raise the version when it does.
        if u16_at(header, 14) != 0 {
            return Err(BatchError::UnknownFormat);
        }
        let batch = Self {
            epoch: Epoch(u32_at(header, 8)),
            count: u16_at(header, 12),
            id: BatchId(u128_at(header, 16)),
            previous: BatchId(u128_at(header, 32)),
            first_sequence: Sequence(u64_at(header, 48)),
            timestamp_ms: u64_at(header, 56),
            records: bytes.slice(HEADER_BYTES..),
        };
        let mut counted = 0_u16;
        for record in batch.records() {
            record?;
            counted = counted.checked_add(1).ok_or(BatchError::WrongCount)?;
        }
        if counted == 0 || counted != batch.count {
            return Err(BatchError::WrongCount);
        }
        let first = batch.first_sequence.0;
        if first == 0 || first > LAST_SEQUENCE_MAX - (u64::from(counted) - 1) {
            return Err(BatchError::WrongSequence);
        }
        Ok(batch)
    }

    /// Where a batch begins and ends, by its header alone. The checksum is of all bytes, so a header
    /// that says something else than was written is only seen where that cannot be.
    ///
    /// # Errors
    /// When it is no header of a batch.
    pub fn span(header: &[u8; HEADER_BYTES]) -> Result<(Sequence, Position), BatchError> {
        if header[..2] != MAGIC || u16_at(header, 2) != VERSION || u16_at(header, 14) != 0 {
            return Err(BatchError::UnknownFormat);
        }
        let (first, count) = (u64_at(header, 48), u64::from(u16_at(header, 12)));
        if count == 0 {
            return Err(BatchError::WrongCount);
        }
        if first == 0 || first > LAST_SEQUENCE_MAX - (count - 1) {
            return Err(BatchError::WrongSequence);
        }
        let end =
            Position { epoch: Epoch(u32_at(header, 8)), sequence: Sequence(first + count - 1) };
        Ok((Sequence(first), end))
    }

    /// The records, one by one, without the tag and the length before them.
    pub fn records(&self) -> Records<'_> {
        Records::new(&self.records)
    }

    /// The tail of this batch's records that lies after `sequence`: its first sequence and the
    /// bytes. `None` when nothing does.
    #[must_use]
    pub fn records_after(&self, sequence: Sequence) -> Option<(Sequence, Bytes)> {
        self.records_between(sequence.next(), self.last_sequence())
    }

    /// This batch's records from `first` to `last`, both included: the first sequence and the
    /// bytes. `None` when there are none.
    #[must_use]
    pub fn records_between(&self, first: Sequence, last: Sequence) -> Option<(Sequence, Bytes)> {
        let first = first.max(self.first_sequence);
        let last = last.min(self.last_sequence());
        if first > last {
            return None;
        }
        let mut records = self.records();
        let skipped = records.by_ref().take((first.0 - self.first_sequence.0) as usize).count();
        let start = self.records.len() - records.rest.len();
        let taken = records.by_ref().take((last.0 - first.0 + 1) as usize).count();
        let end = self.records.len() - records.rest.len();
        debug_assert_eq!((skipped + taken) as u64, last.0 - self.first_sequence.0 + 1);
        Some((first, self.records.slice(start..end)))
    }
}

/// Appends one record, as [`Batch::records`] holds them.
pub fn put_record(records: &mut impl BufMut, record: &[u8]) {
    records.put_u8(RECORD_TAG);
    prost::encoding::encode_varint(record.len() as u64, records);
    records.put_slice(record);
}

/// The records of a batch in order.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// Those in these bytes, as [`Batch::records`] holds them.
    #[must_use]
    pub const fn new(records: &'a [u8]) -> Self {
        Self { rest: records }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<&'a [u8], BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&tag, mut after_tag) = self.rest.split_first()?;
        self.rest = &[];
        if tag != RECORD_TAG {
            return Some(Err(BatchError::UnknownFormat));
        }
        let Ok(length) = prost::encoding::decode_varint(&mut after_tag) else {
            return Some(Err(BatchError::Truncated));
        };
        match usize::try_from(length).ok().and_then(|length| after_tag.split_at_checked(length)) {
            Some((record, rest)) => {
                self.rest = rest;
                Some(Ok(record))
            }
            None => Some(Err(BatchError::Truncated)),
        }
    }
}

/// An entry of a channel's log, as an engine stores and carries it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The channel.
    pub channel: ChannelId,
    /// This entry's cursor.
    pub at: Cursor,
    /// The cursor of the entry before it in the same channel; 0 for the first. A reader that stands
    /// elsewhere has missed something.
    pub after: Cursor,
    /// The batch.
    pub batch: Batch,
}

fn checksum(channel: ChannelId, batch: &[u8]) -> u32 {
    let of_channel = crc32c::crc32c(&channel.0.to_le_bytes());
    crc32c::crc32c_append(of_channel, &batch[CHECKED_FROM..])
}

fn u16_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

fn u128_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u128 {
    u128::from_le_bytes(array_at(bytes, at))
}

fn array_at<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

#[cfg(test)]
mod tests;
