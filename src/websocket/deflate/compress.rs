//! A whole frame → its compressed twin, if that is smaller. Hot.

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};

use super::{FLUSH_TAIL, negotiation::WINDOW_BITS_MAX};
use crate::{limits::DEFLATE_SCRATCH_BYTES_KEPT, websocket::frame};

/// Compresses one message after the other, each for itself. One serves a thread: it holds about
/// 370 KiB from its first message on.
#[derive(Debug, Default)]
pub struct Compressor {
    state: Option<Compress>,
    output: Vec<u8>,
}

/// What is spent once is saved for each subscriber. Of deliveries with 1 KiB of words, level 3 left
/// 45 % of the bytes in 32 µs each, level 1 left 58 % in 14, and level 6 44 % in 40.
const LEVEL: u32 = 3;

impl Compressor {
    /// The twin of a whole frame that [`frame`] made. `None` if it does not get smaller.
    #[must_use]
    pub fn twin(&mut self, plain: &[u8]) -> Option<Bytes> {
        let (opcode, payload) = frame::parts(plain);
        let deflated = self.deflate(payload);
        (deflated.len() < payload.len()).then(|| frame::encode_deflated(opcode, deflated))
    }

    /// The payload of a compressed message, of whatever length and however useful.
    ///
    /// # Panics
    /// Never by its input: only if zlib's state broke.
    pub fn deflate(&mut self, payload: &[u8]) -> &[u8] {
        let state = self.state.get_or_insert_with(|| {
            Compress::new_with_window_bits(Compression::new(LEVEL), false, WINDOW_BITS_MAX)
        });
        state.reset();
        if self.output.capacity() > DEFLATE_SCRATCH_BYTES_KEPT {
            self.output = Vec::new();
        }
        self.output.clear();
        // What does not compress grows by an eighth at most; with this room one call does it all.
        let mut room = payload.len() + payload.len() / 8 + 64;
        let mut rest = payload;
        loop {
            self.output.reserve(room);
            let before = state.total_in();
            state
                .compress_vec(rest, &mut self.output, FlushCompress::Sync)
                .expect("zlib compresses any bytes");
            let taken = usize::try_from(state.total_in() - before).expect("a part of a slice");
            rest = &rest[taken..];
            // With room to spare the flush is complete.
            if rest.is_empty() && self.output.len() < self.output.capacity() {
                break;
            }
            room = 64;
        }
        self.output.strip_suffix(&FLUSH_TAIL).expect("a flush ends with an empty stored block")
    }
}
