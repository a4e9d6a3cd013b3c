//! Frames that wait for one connection, bounded by bytes. Hot.
//!
//! Everything a connection is sent passes through here, so that frames never interleave. Fan-out
//! pushes and never waits: when the outbox is full, its connection is a slow consumer and is
//! closed, and no other connection notices.
//!
//! Invariant: the bytes that leave are the concatenation of the frames that were pushed, but for
//! those that [`Outbox::replace_with_close`] dropped whole.

use std::{collections::VecDeque, io::IoSlice, rc::Rc};

use bytes::Bytes;
use thiserror::Error;

use crate::limits::{OUTBOX_FRAMES_KEPT, WRITE_SLICES_MAX};

/// A whole frame. All outboxes of a shard share one count of it: handing a frame on costs no atomic
/// operation, which on two cores would be a quarrel over the same cache line.
pub type Frame = Rc<Bytes>;

/// The frames on their way to one connection.
#[derive(Debug)]
pub struct Outbox {
    frames: VecDeque<Frame>,
    /// Bytes of the first frame that are written already. Always less than its length.
    written_of_first: usize,
    /// Bytes that still have to be written.
    queued_bytes: usize,
    /// Bound of the queued bytes and the places of their frames together, but for a close frame.
    bytes_max: usize,
    /// A close frame is queued: no frame may follow it.
    is_closing: bool,
}

/// What a frame costs beside its bytes, if no other outbox shares it.
const FRAME_PLACE_BYTES: usize = size_of::<Frame>() + size_of::<Bytes>() + 2 * size_of::<usize>();

/// The frame was not taken: it would cross the bound, or it would follow a close frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the outbox is full")]
pub struct Full;

impl Outbox {
    /// An empty outbox. Allocates nothing.
    #[must_use]
    pub const fn new(bytes_max: usize) -> Self {
        Self {
            frames: VecDeque::new(),
            written_of_first: 0,
            queued_bytes: 0,
            bytes_max,
            is_closing: false,
        }
    }

    /// Puts a frame at the end.
    ///
    /// # Errors
    /// [`Full`], and nothing has changed.
    pub fn push(&mut self, frame: Frame) -> Result<(), Full> {
        // A frame costs its place too, or two-byte pongs would take many times the bound.
        let places = (self.frames.len() + 1) * FRAME_PLACE_BYTES;
        if self.is_closing || self.queued_bytes + frame.len() + places > self.bytes_max {
            return Err(Full);
        }
        self.append(frame);
        Ok(())
    }

    /// Drops every frame that has not begun to be written, and queues a close frame as the last
    /// one, whatever the bound. Does nothing when it has been done before.
    pub fn replace_with_close(&mut self, close: Frame) {
        if self.is_closing {
            return;
        }
        let begun = if self.written_of_first > 0 { self.frames.pop_front() } else { None };
        self.frames = VecDeque::new();
        self.queued_bytes = 0;
        if let Some(frame) = begun {
            self.append(frame);
            self.queued_bytes -= self.written_of_first;
        }
        self.append(close);
        self.is_closing = true;
    }

    /// Queues a close frame behind everything, whatever the bound. Does nothing when one is queued.
    pub fn push_close(&mut self, close: Frame) {
        if !self.is_closing {
            self.append(close);
            self.is_closing = true;
        }
    }

    /// Points `slices` at what is to be written next, and says how many of them it used.
    pub fn slices<'a, const N: usize>(&'a self, slices: &mut [IoSlice<'a>; N]) -> usize {
        const { assert!(N <= WRITE_SLICES_MAX, "one write takes no more") };
        let mut used = 0;
        for (slice, frame) in slices.iter_mut().zip(&self.frames) {
            let written = if used == 0 { self.written_of_first } else { 0 };
            *slice = IoSlice::new(&frame[written..]);
            used += 1;
        }
        used
    }

    /// What is to be written, if a single frame waits.
    #[must_use]
    pub fn only_frame(&self) -> Option<&[u8]> {
        match self.frames.len() {
            1 => self.frames.front().map(|frame| &frame[self.written_of_first..]),
            _ => None,
        }
    }

    /// Takes `written` bytes off the front. Gives memory back when that was the last of many.
    ///
    /// # Panics
    /// When more is written than was queued.
    pub fn advance(&mut self, written: usize) {
        assert!(written <= self.queued_bytes, "only what is queued can have been written");
        self.queued_bytes -= written;
        self.written_of_first += written;
        while let Some(frame) = self.frames.front()
            && frame.len() <= self.written_of_first
        {
            self.written_of_first -= frame.len();
            self.frames.pop_front();
        }
        if self.frames.is_empty() && self.frames.capacity() > OUTBOX_FRAMES_KEPT {
            self.frames.shrink_to(OUTBOX_FRAMES_KEPT);
        }
    }

    /// Whether everything is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes that still have to be written.
    #[must_use]
    pub const fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether a close frame is the last that leaves. The connection ends when it is written.
    #[must_use]
    pub const fn is_closing(&self) -> bool {
        self.is_closing
    }

    fn append(&mut self, frame: Frame) {
        assert!(!frame.is_empty(), "a frame has a header");
        self.queued_bytes += frame.len();
        self.frames.push_back(frame);
    }
}

#[cfg(test)]
mod tests;
