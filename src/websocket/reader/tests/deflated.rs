//! The reader with permessage-deflate: where RSV1 may stand, both bounds, and the same on any cut.

use proptest::prelude::*;

use super::{
    BINARY_BITS, CLOSE, CONTINUE, FINAL, MESSAGE_BYTES_MAX, PING, PONG, Seen, TEXT_BITS, bytewise,
    client_frame, client_message, framed, plain_reader, read_with, sent, split,
};
use crate::{
    limits::deflated_message_bytes_max,
    websocket::{
        deflate::{Agreed, compress::Compressor},
        reader::Reader,
    },
    wire::code::CloseCode,
};

const RSV1: u8 = 0x40;

fn reader() -> Reader {
    Reader::new(MESSAGE_BYTES_MAX, Some(Agreed::WHOLE_WINDOW))
}

fn deflated(payload: &[u8]) -> Vec<u8> {
    Compressor::default().deflate(payload).to_vec()
}

fn read(bytes: &[u8]) -> Vec<Seen> {
    let whole = read_with(&mut reader(), [bytes.to_vec()]);
    assert_eq!(read_with(&mut reader(), bytewise(bytes)), whole);
    whole
}

#[track_caller]
fn refused(bytes: &[u8], code: CloseCode, reason: &str) {
    match read(bytes).last() {
        Some(Seen::Violation(violation)) => {
            assert_eq!((violation.code, violation.reason), (code, reason));
        }
        other => panic!("{bytes:02x?} gave {other:?}"),
    }
}

#[test]
fn compressed_and_plain_messages_are_read_side_by_side() {
    let payload = deflated("K\u{f6}ln".as_bytes());
    let (first, rest) = payload.split_at(3);
    let bytes = [
        sent(FINAL | RSV1 | TEXT_BITS, &payload),
        sent(FINAL | TEXT_BITS, b"plain"),
        sent(RSV1 | TEXT_BITS, first),
        sent(FINAL | PING, b"between"),
        sent(CONTINUE, b""),
        sent(FINAL, rest),
        sent(BINARY_BITS, b"pl"),
        sent(FINAL, b"ain"),
        sent(FINAL | RSV1 | BINARY_BITS, &deflated(b"")),
        sent(FINAL | RSV1 | TEXT_BITS, b""),
    ];
    let expected = [
        Seen::Text("K\u{f6}ln".into()),
        Seen::Text("plain".into()),
        Seen::Ping(b"between".into()),
        Seen::Text("K\u{f6}ln".into()),
        Seen::Binary(b"plain".into()),
        Seen::Binary(b"".into()),
        Seen::Text("".into()),
    ];
    assert_eq!(read(&bytes.concat()), expected);
}

#[test]
fn the_first_reserved_bit_stands_only_where_a_compressed_message_begins() {
    let code = CloseCode::ProtocolError;
    let reserved = "reserved bit set";
    let payload = deflated(b"x");
    let begun = sent(RSV1 | TEXT_BITS, &payload[..1]);
    refused(&[&begun[..], &sent(FINAL | RSV1, &payload[1..])].concat(), code, reserved);
    refused(&[sent(TEXT_BITS, b"x"), sent(FINAL | RSV1, b"")].concat(), code, reserved);
    for control in [PING, PONG, CLOSE] {
        refused(&sent(FINAL | RSV1 | control, b""), code, reserved);
    }
    refused(&sent(FINAL | RSV1 | 0x20 | TEXT_BITS, &payload), code, reserved);
    refused(&sent(FINAL | 0x10 | TEXT_BITS, b""), code, reserved);
    refused(&[begun, sent(FINAL | TEXT_BITS, b"")].concat(), code, "message within a message");

    let bytes = sent(FINAL | RSV1 | TEXT_BITS, &payload);
    let seen = read_with(&mut plain_reader(MESSAGE_BYTES_MAX), [bytes]);
    assert!(matches!(seen[..], [Seen::Violation(it)] if it.code == code), "it was not agreed on");
}

#[test]
fn what_is_inflated_must_be_whole_and_text_must_be_utf8() {
    let payload = deflated(b"a longer text, a longer text");
    let damaged = |payload: &[u8]| {
        let bytes = sent(FINAL | RSV1 | TEXT_BITS, payload);
        refused(&bytes, CloseCode::ProtocolError, "compressed data damaged");
    };
    damaged(&payload[..payload.len() / 2]);
    damaged(&[0xff; 7]);
    damaged(&[&payload[..], &[0xff]].concat());
    let bytes = sent(FINAL | RSV1 | TEXT_BITS, &[&[0x03, 0x00].repeat(100)[..], &[0]].concat());
    refused(&bytes, CloseCode::ProtocolError, "too many final blocks");

    let not_utf8 = deflated(b"\xce\xba\xed\xa0\x80");
    let bytes = sent(FINAL | RSV1 | TEXT_BITS, &not_utf8);
    refused(&bytes, CloseCode::InvalidUtf8, "text is not UTF-8");
    let bytes = sent(FINAL | RSV1 | BINARY_BITS, &not_utf8);
    assert_eq!(read(&bytes), [Seen::Binary(b"\xce\xba\xed\xa0\x80".into())]);
}

#[test]
fn both_sizes_of_a_compressed_message_are_bounded() {
    let message = |payload: &[u8]| sent(FINAL | RSV1 | BINARY_BITS, payload);
    let fits = vec![b'x'; MESSAGE_BYTES_MAX];
    assert_eq!(read(&message(&deflated(&fits))), [Seen::Binary(fits)]);
    let bomb = message(&deflated(&vec![b'x'; MESSAGE_BYTES_MAX + 1]));
    refused(&bomb, CloseCode::MessageTooBig, "message too big");

    // What does not compress may be a little larger than what it stands for, and is refused by its
    // header where it is much larger, over all of its fragments.
    let mut noise = vec![0; MESSAGE_BYTES_MAX];
    rand::fill(&mut noise[..]);
    let grown = deflated(&noise);
    assert!(grown.len() > MESSAGE_BYTES_MAX);
    assert_eq!(read(&message(&grown)), [Seen::Binary(noise)]);

    let bytes_max = deflated_message_bytes_max(MESSAGE_BYTES_MAX);
    let header_only = |bytes: Vec<u8>, payload: usize| bytes[..bytes.len() - payload].to_vec();
    let one = header_only(message(&vec![0; bytes_max + 1]), bytes_max + 1);
    refused(&one, CloseCode::MessageTooBig, "message too big");
    let two = [sent(RSV1 | BINARY_BITS, &[0; 800]), sent(FINAL, &vec![0; bytes_max - 799])];
    let two = header_only(two.concat(), bytes_max - 799);
    refused(&two, CloseCode::MessageTooBig, "message too big");
}

#[test]
fn an_idle_reader_holds_nothing_of_a_compressed_message() {
    let mut reader = reader();
    let bytes = sent(FINAL | RSV1 | TEXT_BITS, &deflated(b"text"));
    assert_eq!(read_with(&mut reader, bytewise(&bytes)), [Seen::Text("text".into())]);
    assert!(reader.unfinished.is_none());
}

/// Compressed and perhaps fragmented: well-formed, or with a few bytes of it spoilt.
fn deflated_message() -> impl Strategy<Value = Vec<u8>> {
    let content = prop_oneof![
        "\\PC{0,200}".prop_map(String::into_bytes),
        prop::collection::vec(Just(b'x'), 900..1_100),
        prop::collection::vec(any::<u8>(), 0..100),
    ];
    let spoilt = prop::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>()));
    (any::<bool>(), content, spoilt, any::<prop::sample::Index>(), any::<[u8; 4]>()).prop_map(
        |(is_text, content, spoilt, cut, mask)| {
            let mut payload = deflated(&content);
            if let Some((at, byte)) = spoilt {
                let at = at.index(payload.len());
                payload[at] = byte;
            }
            let opcode = RSV1 | (2 - u8::from(is_text));
            let (first, last) = payload.split_at(cut.index(payload.len() + 1));
            let last = framed(FINAL | CONTINUE, last, mask);
            [framed(opcode, first, mask), framed(FINAL | PING, &mask, mask), last].concat()
        },
    )
}

proptest! {
    #[test]
    fn how_the_bytes_of_compressed_messages_are_cut_changes_nothing(
        frames in prop::collection::vec(
            prop_oneof![3 => deflated_message(), 1 => client_message(), 1 => client_frame()],
            1..8,
        ),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
        lost in 0..20_usize,
    ) {
        let mut bytes = frames.concat();
        bytes.truncate(bytes.len().saturating_sub(lost));
        let mut whole = reader();
        let expected = read_with(&mut whole, [bytes.clone()]);
        for pieces in [split(&bytes, &cuts), bytewise(&bytes).collect()] {
            let mut reader = reader();
            prop_assert_eq!(&read_with(&mut reader, pieces), &expected);
            if !matches!(expected.last(), Some(Seen::Violation(_) | Seen::Close(_))) {
                prop_assert_eq!(reader.is_mid_message(), whole.is_mid_message());
            }
        }
    }

    #[test]
    fn every_message_that_is_compressed_is_read_back(
        contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 1..5),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let frames: Vec<_> = contents
            .iter()
            .map(|content| sent(FINAL | RSV1 | BINARY_BITS, &deflated(content)))
            .collect();
        let expected: Vec<_> = contents.into_iter().map(Seen::Binary).collect();
        prop_assert_eq!(read_with(&mut reader(), split(&frames.concat(), &cuts)), expected);
    }
}
