//! What a batch promises: its bytes come back as they were, or not at all.

use proptest::{collection::vec, prelude::*};

use super::*;

const CHANNEL: ChannelId = ChannelId(7);

fn records_of(bodies: &[Vec<u8>]) -> Bytes {
    let mut records = BytesMut::new();
    for body in bodies {
        put_record(&mut records, body);
    }
    records.freeze()
}

fn batch_of(bodies: &[Vec<u8>], first_sequence: u64) -> Batch {
    Batch {
        epoch: Epoch(0x6543_2100),
        id: BatchId(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100),
        previous: BatchId(0x1f1e_1d1c_1b1a_1918_1716_1514_1312_1110),
        first_sequence: Sequence(first_sequence),
        count: u16::try_from(bodies.len()).unwrap(),
        timestamp_ms: 1_700_000_000_000,
        records: records_of(bodies),
    }
}

fn sample() -> Batch {
    batch_of(&[b"hello".to_vec(), Vec::new(), b"world".repeat(40)], 41)
}

/// The batch's bytes with a change that the checksum covers up, as a bug or an attacker would.
fn forged(batch: &Batch, change: impl FnOnce(&mut [u8])) -> Bytes {
    let mut bytes = batch.encode(CHANNEL).to_vec();
    change(&mut bytes);
    let checksum = checksum(CHANNEL, &bytes);
    bytes[4..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
    bytes.into()
}

prop_compose! {
    fn any_batch()(
        bodies in vec(vec(any::<u8>(), 0..300), 1..40),
        epoch: u32,
        id: u128,
        previous: u128,
        first_sequence in 1..=LAST_SEQUENCE_MAX - 40,
        timestamp_ms: u64,
    ) -> Batch {
        Batch {
            epoch: Epoch(epoch),
            id: BatchId(id),
            previous: BatchId(previous),
            timestamp_ms,
            ..batch_of(&bodies, first_sequence)
        }
    }
}

proptest! {
    #[test]
    fn every_batch_survives_encode_then_decode(batch in any_batch()) {
        let bytes = batch.encode(CHANNEL);
        prop_assert_eq!(bytes.len(), batch.encoded_bytes());
        let end = batch.head(Cursor(1)).position();
        prop_assert_eq!(Batch::span(bytes.first_chunk().unwrap()), Ok((batch.first_sequence, end)));
        prop_assert_eq!(Batch::decode(CHANNEL, &bytes), Ok(batch));
    }

    #[test]
    fn whatever_decodes_encodes_to_the_same_bytes(batch in any_batch(), noise in vec(any::<u8>(), 0..200)) {
        let bytes = forged(&batch, |bytes| {
            for (byte, noise) in bytes[CHECKED_FROM..].iter_mut().rev().zip(noise) {
                *byte ^= noise;
            }
        });
        if let Ok(decoded) = Batch::decode(CHANNEL, &bytes) {
            let end = decoded.head(Cursor(1)).position();
            let span = Batch::span(bytes.first_chunk().unwrap());
            prop_assert_eq!(span, Ok((decoded.first_sequence, end)));
            prop_assert_eq!(decoded.encode(CHANNEL), bytes);
            prop_assert!(decoded.last_sequence() >= decoded.first_sequence);
        }
    }

    #[test]
    fn any_bytes_decode_without_a_panic(bytes in vec(any::<u8>(), 0..400)) {
        prop_assert!(Batch::decode(CHANNEL, &bytes.into()).is_err());
    }

    #[test]
    fn a_flipped_bit_anywhere_is_detected(batch in any_batch(), at: prop::sample::Index, bit in 0_u32..8) {
        let mut bytes = batch.encode(CHANNEL).to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(Batch::decode(CHANNEL, &bytes.into()).is_err());
    }

    #[test]
    fn what_lies_after_a_place_is_the_rest_of_the_records(batch in any_batch(), skip in 0_u64..45) {
        let after = Sequence(batch.first_sequence.0 - 1 + skip);
        let bodies: Vec<Vec<u8>> = batch.records().map(|record| record.unwrap().to_vec()).collect();
        let expected = bodies
            .get(usize::try_from(skip).unwrap()..)
            .filter(|rest| !rest.is_empty())
            .map(|rest| (after.next(), records_of(rest)));
        prop_assert_eq!(batch.records_after(after), expected);
    }
}

#[test]
fn every_flipped_bit_of_one_batch_is_detected() {
    let bytes = sample().encode(CHANNEL);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let found = Batch::decode(CHANNEL, &flipped.into());
        assert!(found.is_err(), "bit {bit} was flipped and {found:?} was read");
    }
}

#[test]
fn a_batch_that_is_cut_or_continued_is_detected() {
    let bytes = sample().encode(CHANNEL);
    for length in 0..bytes.len() {
        assert!(Batch::decode(CHANNEL, &bytes.slice(..length)).is_err(), "cut to {length} bytes");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(Batch::decode(CHANNEL, &longer.into()), Err(BatchError::WrongChecksum));
}

#[test]
fn a_right_checksum_does_not_excuse_wrong_contents() {
    let batch = sample();
    let cases: [(&str, Bytes, BatchError); 7] = [
        ("a count too low", forged(&batch, |b| b[12] = 2), BatchError::WrongCount),
        ("a count too high", forged(&batch, |b| b[12] = 4), BatchError::WrongCount),
        ("used zero bytes", forged(&batch, |b| b[15] = 1), BatchError::UnknownFormat),
        ("a wrong tag", forged(&batch, |b| b[HEADER_BYTES] = 0), BatchError::UnknownFormat),
        // The top bit makes the record's first letter a part of its length.
        ("a long length", forged(&batch, |b| b[HEADER_BYTES + 1] |= 0x80), BatchError::Truncated),
        ("sequence 0", forged(&batch, |b| b[48..56].fill(0)), BatchError::WrongSequence),
        ("the last sequence", forged(&batch, |b| b[48..56].fill(0xff)), BatchError::WrongSequence),
    ];
    for (name, bytes, error) in cases {
        assert_eq!(Batch::decode(CHANNEL, &bytes), Err(error), "{name}");
    }
}

#[test]
fn a_batch_without_records_is_none() {
    let empty = Batch { count: 0, records: Bytes::new(), ..sample() };
    assert_eq!(Batch::decode(CHANNEL, &empty.encode(CHANNEL)), Err(BatchError::WrongCount));
}

#[test]
fn a_batch_may_end_with_the_last_sequence_and_not_beyond() {
    let bodies = [vec![1], vec![2], vec![3]];
    let last = batch_of(&bodies, LAST_SEQUENCE_MAX - 2);
    assert_eq!(Batch::decode(CHANNEL, &last.encode(CHANNEL)), Ok(last));
    let beyond = batch_of(&bodies, LAST_SEQUENCE_MAX - 1);
    assert_eq!(Batch::decode(CHANNEL, &beyond.encode(CHANNEL)), Err(BatchError::WrongSequence));
}

#[test]
fn a_batch_of_another_channel_is_refused() {
    let bytes = sample().encode(CHANNEL);
    assert_eq!(Batch::decode(ChannelId(8), &bytes), Err(BatchError::WrongChecksum));
}

#[test]
fn only_the_next_link_extends_the_chain() {
    let batch = sample();
    let head = Head {
        epoch: batch.epoch,
        sequence: Sequence(40),
        batch: batch.previous,
        timestamp_ms: batch.timestamp_ms,
        cursor: Cursor(7),
    };
    assert!(batch.extends(&head));
    assert!(!batch.extends(&Head { epoch: Epoch(1), ..head }));
    assert!(!batch.extends(&Head { sequence: Sequence(39), ..head }));
    assert!(!batch.extends(&Head { sequence: Sequence(41), ..head }));
    assert!(!batch.extends(&Head { batch: batch.id, ..head }));
    assert!(!batch.extends(&Head { timestamp_ms: batch.timestamp_ms + 1, ..head }));

    let next = batch.head(Cursor(8));
    assert_eq!(next.sequence, Sequence(43));
    assert_eq!(next.position().sequence, Sequence(43));
    assert!(!batch.extends(&next), "no batch extends itself");
}

/// The layout is in every log and every export: this changes only together with the version.
#[test]
fn the_bytes_of_a_batch_are_these() {
    let batch = batch_of(&[b"hi".to_vec(), b"there".to_vec()], 41);
    let hex: String = batch.encode(CHANNEL).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        concat!(
            "6862",
            "0100",
            "0b0e0dc4", // magic, version, checksum
            "00214365",
            "0200",
            "0000",                             // epoch, count
            "000102030405060708090a0b0c0d0e0f", // batch
            "101112131415161718191a1b1c1d1e1f", // the batch before it
            "2900000000000000",
            "0068e5cf8b010000", // first sequence, timestamp
            "22026869",
            "22057468657265", // "hi", "there"
        )
    );
}
