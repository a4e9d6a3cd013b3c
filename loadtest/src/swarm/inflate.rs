//! Compressed messages of the server (RFC 7692): what they stand for. Hot. Pure.
//!
//! No message refers to an earlier one, because that is what was agreed on; so one inflater serves
//! all users. It shares no code with the server's: it would share its mistakes.

use flate2::{Decompress, FlushDecompress, Status};
use thiserror::Error;

/// One inflater, and the last message. Without memory before its first one.
#[derive(Debug, Default)]
pub(crate) struct Inflater {
    state: Option<Decompress>,
    message: Vec<u8>,
}

/// What a server must not send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(crate) enum InflateError {
    #[error("a compressed message that is damaged")]
    Damaged,
    #[error("a compressed message of more than {MESSAGE_BYTES_MAX} bytes")]
    TooLarge,
}

/// Far above what a server sends, and far below what would hurt.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What the sender cuts off.
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];
const ROOM_BYTES_MIN: usize = 4 * 1024;

impl Inflater {
    /// The message of this payload.
    pub(crate) fn inflate(&mut self, payload: &[u8]) -> Result<&[u8], InflateError> {
        let state = self.state.get_or_insert_with(|| Decompress::new(false));
        state.reset(false);
        self.message.clear();
        for mut rest in [payload, &TAIL] {
            loop {
                if self.message.len() == self.message.capacity() {
                    self.message.reserve(self.message.len().max(ROOM_BYTES_MIN));
                }
                let before = state.total_in();
                let sync = FlushDecompress::Sync;
                let status = state.decompress_vec(rest, &mut self.message, sync);
                let status = status.map_err(|_| InflateError::Damaged)?;
                let taken = usize::try_from(state.total_in() - before);
                rest = &rest[taken.expect("a part of a slice")..];
                if self.message.len() > MESSAGE_BYTES_MAX {
                    return Err(InflateError::TooLarge);
                }
                let has_room = self.message.len() < self.message.capacity();
                match status {
                    // Our server ends no stream within a message.
                    Status::StreamEnd => return Err(InflateError::Damaged),
                    Status::Ok | Status::BufError if has_room && rest.is_empty() => break,
                    Status::BufError if has_room => return Err(InflateError::Damaged),
                    Status::Ok | Status::BufError => {}
                }
            }
        }
        Ok(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    use super::*;

    fn deflate(message: &[u8]) -> Vec<u8> {
        let mut payload = Vec::with_capacity(message.len() * 2 + 64);
        let mut state = Compress::new(Compression::fast(), false);
        state.compress_vec(message, &mut payload, FlushCompress::Sync).unwrap();
        payload.truncate(payload.len() - TAIL.len());
        payload
    }

    proptest! {
        #[test]
        fn what_was_compressed_is_inflated_one_after_the_other(
            messages in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..300),
                    (any::<u8>(), 0..50_000_usize).prop_map(|(byte, length)| vec![byte; length]),
                ],
                1..5,
            ),
        ) {
            let mut inflater = Inflater::default();
            for message in messages {
                prop_assert_eq!(inflater.inflate(&deflate(&message)), Ok(&message[..]));
            }
        }

        #[test]
        fn bytes_of_any_kind_do_not_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut inflater = Inflater::default();
            let _ = inflater.inflate(&payload);
            prop_assert_eq!(inflater.inflate(&deflate(b"after it")), Ok(&b"after it"[..]));
        }
    }

    #[test]
    fn what_is_damaged_or_endless_is_refused() {
        let mut inflater = Inflater::default();
        assert_eq!(inflater.inflate(&[0xFF; 9]), Err(InflateError::Damaged));
        assert_eq!(inflater.inflate(&[0x03, 0x00]), Err(InflateError::Damaged));
        let bomb = deflate(&vec![0; MESSAGE_BYTES_MAX + 1]);
        assert_eq!(inflater.inflate(&bomb), Err(InflateError::TooLarge));
    }
}
