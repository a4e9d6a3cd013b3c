//! Any bytes as a compressed message, and any message compressed by us.
//!
//! Input: the bound (2 bytes), how many piece lengths follow, these, the payload. It is read twice:
//! as it is, with the bit that calls it compressed, where the bound must hold whatever it inflates
//! to; and after our own compressor, where it must come out as it went in.

#![no_main]

use hubbub_fuzz::{
    Numbers, Seen, Session,
    limits::deflated_message_bytes_max,
    websocket::deflate::{compress::Compressor, inflate::Inflater},
    wire::code::CloseCode,
};
use libfuzzer_sys::fuzz_target;

/// A client's message in one frame: final, compressed, binary, masked by nothing.
fn framed(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0b1100_0010, 0x80 | 127];
    match u16::try_from(payload.len()) {
        Ok(length @ 0..126) => frame[1] = 0x80 | length as u8,
        Ok(length) => {
            frame[1] = 0x80 | 126;
            frame.extend(length.to_be_bytes());
        }
        Err(_) => frame.extend((payload.len() as u64).to_be_bytes()),
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

fuzz_target!(|input: &[u8]| {
    let mut numbers = Numbers { rest: input };
    let message_bytes_max = numbers.word();
    let count = usize::from(numbers.byte());
    let pieces = numbers.bytes(count);
    let payload = numbers.rest;
    let mut inflater = Inflater::new();
    let mut only = |stream: &[u8]| {
        let session = Session { stream, pieces, message_bytes_max, deflate: true };
        let (mut seen, open) = session.read(&mut inflater);
        session.read_within_bounds(&mut inflater);
        assert!(!open && seen.len() == 1, "one frame is one message or one violation: {seen:?}");
        seen.remove(0)
    };

    match only(&framed(payload)) {
        Seen::Binary(bytes) => assert!(bytes.len() <= message_bytes_max),
        Seen::Violation(_) => {}
        other => panic!("a binary message became {other:?}"),
    }

    let mut compressor = Compressor::default();
    let deflated = compressor.deflate(payload);
    let fits = payload.len() <= message_bytes_max
        && deflated.len() <= deflated_message_bytes_max(message_bytes_max);
    match only(&framed(deflated)) {
        Seen::Binary(bytes) if fits => assert_eq!(bytes, payload),
        Seen::Violation(violation) if !fits => {
            assert_eq!(violation.code, CloseCode::MessageTooBig);
        }
        other => panic!("{} bytes of {message_bytes_max} became {other:?}", payload.len()),
    }
});
