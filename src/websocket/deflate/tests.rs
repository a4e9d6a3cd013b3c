//! Our compressor and inflater against flate2's other half, and against the RFC.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use proptest::prelude::*;

use super::{
    Agreed,
    compress::Compressor,
    inflate::{Bill, InflateError, Inflater},
    negotiation::WINDOW_BITS_MAX,
};
use crate::{
    limits::{DEFLATE_BYTES_MIN, DEFLATE_FINAL_BLOCKS_MAX, DEFLATE_SCRATCH_BYTES_KEPT},
    websocket::frame::{self, BINARY, SharedFrame, TEXT},
};

const BYTES_MAX: usize = 64 * 1024;

/// What zlib with this window makes of a payload whose tail is put back.
fn raw_inflate(payload: &[u8], window_bits: u8) -> Vec<u8> {
    let input = [payload, &[0x00, 0x00, 0xff, 0xff]].concat();
    let mut state = Decompress::new_with_window_bits(false, window_bits);
    let mut output = Vec::with_capacity(2 * BYTES_MAX);
    state.decompress_vec(&input, &mut output, FlushDecompress::Sync).unwrap();
    assert_eq!(state.total_in(), input.len() as u64);
    output
}

/// A compressed message as other senders make it: any level, any window, in several flushes.
fn sent(pieces: &[&[u8]], level: u32, window_bits: u8, is_final: bool) -> Vec<u8> {
    let mut state = Compress::new_with_window_bits(Compression::new(level), false, window_bits);
    let mut output = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let is_last = index + 1 == pieces.len();
        let flush = if is_final && is_last { FlushCompress::Finish } else { FlushCompress::Sync };
        output.reserve(piece.len() * 2 + 256);
        state.compress_vec(piece, &mut output, flush).unwrap();
    }
    if is_final {
        // An empty block and the cut of its tail leave one byte (RFC 7692, 7.2.3.4).
        output.push(0);
    } else {
        output.truncate(output.len() - 4);
    }
    output
}

fn text(bytes: usize) -> Vec<u8> {
    b"{\"user\":17,\"body\":\"and what came of it in the end\"},"
        .iter()
        .copied()
        .cycle()
        .take(bytes)
        .collect()
}

#[test]
fn the_examples_of_the_rfc_are_inflated() {
    // RFC 7692, 7.2.3.1 to 7.2.3.6.
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let stored = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
    let with_final = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
    let two_blocks = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
    let mut inflater = Inflater::new();
    for payload in [&hello[..], &stored, &with_final, &two_blocks] {
        assert_eq!(inflater.inflate(payload, 5), Ok(&b"Hello"[..]), "{payload:02x?}");
    }
    assert_eq!(inflater.inflate(&[0x00], 0), Ok(&b""[..]));
}

#[test]
fn an_empty_message_is_one_byte_and_none_is_taken_too() {
    assert_eq!(Compressor::default().deflate(b""), [0x00]);
    assert_eq!(Inflater::new().inflate(b"", 0), Ok(&b""[..]));
}

#[test]
fn no_message_refers_to_an_earlier_one() {
    let mut compressor = Compressor::default();
    let first = compressor.deflate(&text(1_000)).to_vec();
    assert_eq!(compressor.deflate(&text(1_000)), first);
    let mut inflater = Inflater::new();
    // Its window does not reach into the last message either: this one begins with a reference.
    let reference = sent(&[&text(500), &text(500)], 6, 15, false);
    let cut = reference.windows(4).position(|it| it == [0x00, 0x00, 0xff, 0xff]).unwrap() + 4;
    assert_eq!(inflater.inflate(&reference, BYTES_MAX).unwrap().len(), 1_000);
    assert_eq!(inflater.inflate(&reference[cut..], BYTES_MAX), Err(InflateError::Damaged));
}

#[test]
fn a_damaged_or_truncated_message_is_refused() {
    let mut inflater = Inflater::new();
    let whole = sent(&[&text(5_000)], 9, 15, false);
    for end in 1..whole.len() {
        let cut = inflater.inflate(&whole[..end], BYTES_MAX);
        assert_eq!(cut, Err(InflateError::Damaged), "{end} of {}", whole.len());
    }
    for damaged in [&[0x06][..], &[0xff; 9], &[0x00, 0x05, 0x00, 0x05, 0x00]] {
        assert_eq!(inflater.inflate(damaged, BYTES_MAX), Err(InflateError::Damaged));
    }
    // Bytes that no block claims, behind a block and behind a final one.
    for is_final in [false, true] {
        let garbage = [&sent(&[b"text"], 6, 15, is_final)[..], &[0xff, 0xfe]].concat();
        assert_eq!(inflater.inflate(&garbage, BYTES_MAX), Err(InflateError::Damaged));
    }
    assert_eq!(inflater.inflate(&whole, BYTES_MAX), Ok(&text(5_000)[..]), "and it goes on");
}

#[test]
fn a_message_that_ends_with_its_final_block_is_taken() {
    let mut payload = sent(&[b"text"], 6, 15, true);
    assert_eq!(payload.pop(), Some(0));
    assert_eq!(Inflater::new().inflate(&payload, BYTES_MAX), Ok(&b"text"[..]));
}

#[test]
fn final_blocks_without_end_are_refused() {
    let anew = |times: u32| [&[0x03, 0x00].repeat(times as usize)[..], &[0x00]].concat();
    let mut inflater = Inflater::new();
    assert_eq!(inflater.inflate(&anew(DEFLATE_FINAL_BLOCKS_MAX), 10), Ok(&b""[..]));
    let refusal = inflater.inflate(&anew(DEFLATE_FINAL_BLOCKS_MAX + 1), 10);
    assert_eq!(refusal, Err(InflateError::TooManyFinalBlocks));
}

#[test]
fn a_bomb_is_refused_at_the_bound_and_takes_no_memory_beyond_it() {
    const ZEROS: usize = 128 * 1024 * 1024;
    let mut bomb = Vec::with_capacity(1024 * 1024);
    let mut state = Compress::new(Compression::best(), false);
    let chunk = vec![0; 1024 * 1024];
    for _ in 0..ZEROS / chunk.len() {
        state.compress_vec(&chunk, &mut bomb, FlushCompress::None).unwrap();
    }
    state.compress_vec(&[], &mut bomb, FlushCompress::Sync).unwrap();
    bomb.truncate(bomb.len() - 4);
    assert_eq!(state.total_in(), ZEROS as u64);
    assert!(bomb.len() < 150_000, "{}", bomb.len());

    let mut inflater = Inflater::new();
    assert_eq!(inflater.inflate(&bomb, BYTES_MAX), Err(InflateError::TooBig));
    assert!(inflater.output_bytes_held() <= BYTES_MAX + 1);
    let bill = inflater.take_bill();
    assert_eq!((bill.messages, bill.inflated_bytes), (1, BYTES_MAX as u64 + 1));
    assert_eq!(inflater.take_bill(), Bill::default());
}

#[test]
fn memory_follows_what_comes_out_and_a_peak_is_given_back() {
    let mut inflater = Inflater::new();
    let large = sent(&[&vec![b'x'; 4 * DEFLATE_SCRATCH_BYTES_KEPT]], 6, 15, false);
    let bytes_max = 16 * DEFLATE_SCRATCH_BYTES_KEPT;
    assert!(inflater.inflate(&large, bytes_max).is_ok());
    assert!(inflater.output_bytes_held() <= 8 * DEFLATE_SCRATCH_BYTES_KEPT);
    assert!(inflater.inflate(&[0x00], bytes_max).is_ok());
    assert!(inflater.output_bytes_held() <= DEFLATE_SCRATCH_BYTES_KEPT);
}

#[test]
fn the_bound_is_exact() {
    let payload = sent(&[&text(10_000)], 6, 15, false);
    let mut inflater = Inflater::new();
    assert_eq!(inflater.inflate(&payload, 9_999), Err(InflateError::TooBig));
    assert_eq!(inflater.inflate(&payload, 10_000), Ok(&text(10_000)[..]));
}

#[test]
fn a_twin_is_made_only_if_it_is_smaller() {
    let mut compressor = Compressor::default();
    let plain = frame::encode(TEXT, &text(1_000));
    let twin = compressor.twin(&plain).unwrap();
    assert!(twin.len() < plain.len());
    let (opcode, payload) = frame::parts(&twin);
    assert_eq!((opcode, raw_inflate(payload, 15)), (TEXT, text(1_000)));

    let mut noise = vec![0; 1_000];
    rand::fill(&mut noise[..]);
    assert_eq!(compressor.twin(&frame::encode(BINARY, &noise)), None);
}

#[test]
fn a_small_window_gets_the_twin_only_of_what_fits_into_it() {
    let mut compressor = Compressor::default();
    for bits in 9..=WINDOW_BITS_MAX {
        let agreed = Agreed { server_window_bits: bits };
        let window = 1_usize << bits;
        let fits = SharedFrame::new(frame::encode(TEXT, &text(window)));
        let picked = fits.pick(Some(agreed), |plain| compressor.twin(plain));
        assert!(picked.saved_bytes > 0);
        let (_, payload) = frame::parts(&picked.frame);
        assert_eq!(raw_inflate(payload, bits), text(window));

        let exceeds = SharedFrame::new(frame::encode(TEXT, &text(window + 1)));
        let picked = exceeds.pick(Some(agreed), |plain| compressor.twin(plain));
        assert_eq!(picked.saved_bytes > 0, bits == WINDOW_BITS_MAX);
    }
}

/// Something to compress: words, or noise, or long runs.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "(the|chat|of|17|\\{\"body\":\"|\"\\}| ){0,400}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..3_000),
        (any::<u8>(), 0..40_000_usize).prop_map(|(byte, length)| vec![byte; length]),
    ]
}

proptest! {
    #[test]
    fn what_we_compress_zlib_inflates(payloads in prop::collection::vec(payload(), 1..5)) {
        let (mut compressor, mut inflater) = (Compressor::default(), Inflater::new());
        for payload in payloads {
            let deflated = compressor.deflate(&payload).to_vec();
            prop_assert_eq!(raw_inflate(&deflated, 15), payload.clone());
            prop_assert_eq!(inflater.inflate(&deflated, BYTES_MAX), Ok(&payload[..]));
            if payload.len() >= DEFLATE_BYTES_MIN && payload.len() <= 512 {
                prop_assert_eq!(raw_inflate(&deflated, 9), payload);
            }
        }
    }

    #[test]
    fn what_zlib_compresses_we_inflate(
        messages in prop::collection::vec(
            (prop::collection::vec(payload(), 1..4), 0..=9_u32, 9..=15_u8, any::<bool>()),
            1..4,
        ),
    ) {
        let mut inflater = Inflater::new();
        for (pieces, level, window_bits, is_final) in messages {
            let pieces: Vec<_> = pieces.iter().map(Vec::as_slice).collect();
            let payload = sent(&pieces, level, window_bits, is_final);
            prop_assert_eq!(inflater.inflate(&payload, 256 * 1024), Ok(&pieces.concat()[..]));
        }
    }

    #[test]
    fn any_bytes_are_inflated_within_the_bound_or_refused(
        noise in prop::collection::vec(any::<u8>(), 0..300),
        genuine in payload(),
        at in any::<prop::sample::Index>(),
        bytes_max in 0..5_000_usize,
    ) {
        let mut spoilt = sent(&[&genuine], 6, 15, false);
        let at = at.index(spoilt.len());
        spoilt.splice(at..at, noise.iter().copied());
        let mut inflater = Inflater::new();
        for payload in [&noise, &spoilt] {
            if let Ok(bytes) = inflater.inflate(payload, bytes_max) {
                prop_assert!(bytes.len() <= bytes_max);
            }
            prop_assert!(inflater.output_bytes_held() <= bytes_max + 1);
        }
    }
}
