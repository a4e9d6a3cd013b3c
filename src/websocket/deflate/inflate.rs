//! The payload of a client's compressed message → what it stands for, within a bound.

use std::mem;

use flate2::{Decompress, FlushDecompress, Status};
use thiserror::Error;

use super::{FLUSH_TAIL, negotiation::WINDOW_BITS_MAX};
use crate::limits::{DEFLATE_FINAL_BLOCKS_MAX, DEFLATE_SCRATCH_BYTES_KEPT, INFLATE_STEP_BYTES};

/// Inflates one message after the other, each for itself. One serves a thread: it holds about 46 KiB
/// from its first message on, and the last message.
#[derive(Debug, Default)]
pub struct Inflater {
    state: Option<Decompress>,
    output: Vec<u8>,
    bill: Bill,
}

/// What was inflated, for the operator's bill.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bill {
    /// Messages, of which some may have been refused.
    pub messages: u64,
    /// Bytes that came out.
    pub inflated_bytes: u64,
}

/// Why a compressed message is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum InflateError {
    /// What comes out exceeds the bound.
    #[error("message too big when inflated")]
    TooBig,
    /// It is no DEFLATE, or not to the end of a block.
    #[error("compressed data is damaged")]
    Damaged,
    /// It begins anew too often.
    #[error("too many final blocks")]
    TooManyFinalBlocks,
}

/// How far the state came with some bytes.
enum Fed<'i> {
    /// All of them are taken, and more may follow.
    Open,
    /// A final block ended; these follow it.
    Ended(&'i [u8]),
}

impl Inflater {
    /// One that has inflated nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: None, output: Vec::new(), bill: Bill { messages: 0, inflated_bytes: 0 } }
    }

    /// Inflates the payload of a message, all of its fragments together.
    ///
    /// # Errors
    /// When it is no whole message, or would exceed `bytes_max`: more than that is never made.
    pub fn inflate(&mut self, payload: &[u8], bytes_max: usize) -> Result<&[u8], InflateError> {
        if self.output.capacity() > DEFLATE_SCRATCH_BYTES_KEPT {
            self.output = Vec::new();
        }
        self.output.clear();
        let outcome = self.inflate_message(payload, bytes_max);
        self.bill.messages += 1;
        self.bill.inflated_bytes += self.output.len() as u64;
        outcome.map(|()| &self.output[..])
    }

    /// What was inflated since the last time that this was asked.
    pub fn take_bill(&mut self) -> Bill {
        mem::take(&mut self.bill)
    }

    #[cfg(test)]
    pub(super) const fn output_bytes_held(&self) -> usize {
        self.output.capacity()
    }

    fn inflate_message(&mut self, payload: &[u8], bytes_max: usize) -> Result<(), InflateError> {
        // The end that the sender cut off, then a final block: zlib says that a stream has ended, but
        // not that a block has, so without a final one a message that is cut short would pass.
        const END: [u8; 9] = {
            let [a, b, c, d] = FLUSH_TAIL;
            [a, b, c, d, 0x01, 0x00, 0x00, 0xff, 0xff]
        };
        // A second flush of nothing writes nothing: some send an empty message like this.
        if payload.is_empty() {
            return Ok(());
        }
        self.begin_stream();
        let mut rest = payload;
        let mut final_blocks = 0;
        while let Fed::Ended(behind) = self.feed(rest, bytes_max)? {
            // The sender ended a stream within its message (RFC 7692, 7.2.3.4). What follows is
            // another, of which the empty block to come is a part; some leave even that away.
            if behind.is_empty() {
                return Ok(());
            }
            final_blocks += 1;
            if final_blocks > DEFLATE_FINAL_BLOCKS_MAX {
                return Err(InflateError::TooManyFinalBlocks);
            }
            self.begin_stream();
            rest = behind;
        }
        match self.feed(&END, bytes_max)? {
            Fed::Ended([]) => Ok(()),
            Fed::Ended(_) | Fed::Open => Err(InflateError::Damaged),
        }
    }

    fn begin_stream(&mut self) {
        match &mut self.state {
            Some(state) => state.reset(false),
            None => {
                self.state = Some(Decompress::new_with_window_bits(false, WINDOW_BITS_MAX));
            }
        }
    }

    fn feed<'i>(&mut self, mut input: &'i [u8], bytes_max: usize) -> Result<Fed<'i>, InflateError> {
        let state = self.state.as_mut().expect("a stream has begun");
        let output = &mut self.output;
        loop {
            if output.len() == output.capacity() {
                // Twice as much each time, and one byte beyond the bound to see that it is crossed.
                let twice = output.capacity().saturating_mul(2).max(INFLATE_STEP_BYTES);
                let capacity = twice.min(bytes_max.saturating_add(1));
                output.reserve_exact(capacity.saturating_sub(output.len()));
            }
            let before = state.total_in();
            let status = state
                .decompress_vec(input, output, FlushDecompress::None)
                .map_err(|_| InflateError::Damaged)?;
            let taken = usize::try_from(state.total_in() - before).expect("a part of a slice");
            input = &input[taken..];
            if output.len() > bytes_max {
                return Err(InflateError::TooBig);
            }
            match status {
                Status::StreamEnd => return Ok(Fed::Ended(input)),
                Status::Ok | Status::BufError if output.len() == output.capacity() => {}
                Status::Ok | Status::BufError if input.is_empty() => return Ok(Fed::Open),
                Status::Ok => {}
                Status::BufError => return Err(InflateError::Damaged),
            }
        }
    }
}
