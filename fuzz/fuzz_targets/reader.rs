//! Any bytes in any pieces: what they say does not depend on the pieces, and never takes more memory
//! than a message may.
//!
//! Input: flags (1: deflate), the bound (2 bytes), how many piece lengths follow, these, the stream.

#![no_main]

use hubbub_fuzz::{Numbers, Seen, Session, websocket::deflate::inflate::Inflater};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut numbers = Numbers { rest: input };
    let deflate = numbers.byte() & 1 == 1;
    let message_bytes_max = numbers.word();
    let count = usize::from(numbers.byte());
    let pieces = numbers.bytes(count);
    let stream = numbers.rest;

    let mut inflater = Inflater::new();
    let whole = Session { stream, pieces: &[], message_bytes_max, deflate };
    let (expected, expected_open) = whole.read(&mut inflater);
    for seen in &expected {
        let length = match seen {
            Seen::Text(text) => text.len(),
            Seen::Binary(bytes) => bytes.len(),
            Seen::Ping(_) | Seen::Pong(_) | Seen::Close(_) | Seen::Violation(_) => 0,
        };
        assert!(length <= message_bytes_max, "{length} bytes were let through");
    }

    let pieces = if pieces.is_empty() { &[1] } else { pieces };
    let cut = Session { pieces, ..whole };
    let (seen, open) = cut.read(&mut inflater);
    assert_eq!(seen, expected);
    assert_eq!(open, expected_open);
    // The inflater is warm by now: its own state is the thread's, not the connection's.
    cut.read_within_bounds(&mut inflater);
});
