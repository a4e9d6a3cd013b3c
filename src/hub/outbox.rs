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

use crate::limits::{OUTBOX_BYTES_MAX, OUTBOX_FRAMES_KEPT, WRITE_SLICES_MAX};

/// A whole frame. All outboxes of a shard share one count of it: handing a frame on costs no atomic
/// operation, which on two cores would be a quarrel over the same cache line.
pub type Frame = Rc<Bytes>;

/// The frames on their way to one connection.
///
/// Small, and with a place of its own for one frame: most connections wait for nothing at most times,
/// and most turns hand a connection one frame, which then costs neither memory nor a further line of
/// the cache.
#[derive(Debug)]
pub struct Outbox {
    /// The frame that is written next. None: nothing waits.
    first: Option<Frame>,
    /// The frames behind it, and memory for them from one turn to the next.
    #[expect(clippy::box_collection, reason = "a vector's three words are paid for by the idle")]
    rest: Option<Box<VecDeque<Frame>>>,
    /// Bytes of the first frame that are written already. Always less than its length.
    written_of_first: u32,
    /// Bytes that still have to be written.
    queued_bytes: u32,
    /// Bound of the queued bytes and the places of their frames together, but for a close frame.
    bytes_max: u32,
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
    /// An empty outbox. Allocates nothing. A bound beyond [`OUTBOX_BYTES_MAX`] is that.
    #[must_use]
    pub const fn new(bytes_max: usize) -> Self {
        let bytes_max = if bytes_max < OUTBOX_BYTES_MAX { bytes_max } else { OUTBOX_BYTES_MAX };
        #[expect(clippy::cast_possible_truncation, reason = "the bound fits, by its assertion")]
        let bytes_max = bytes_max as u32;
        Self {
            first: None,
            rest: None,
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
        self.push_within(frame, self.bytes_max)
    }

    /// The same for a frame that can be done without: it is taken only while at least half of the room
    /// is left after it, for those that cannot.
    ///
    /// # Errors
    /// [`Full`], and nothing has changed.
    pub fn push_spare(&mut self, frame: Frame) -> Result<(), Full> {
        self.push_within(frame, self.bytes_max / 2)
    }

    fn push_within(&mut self, frame: Frame, bytes_max: u32) -> Result<(), Full> {
        // A frame costs its place too, or two-byte pongs would take many times the bound.
        let frames =
            usize::from(self.first.is_some()) + self.rest.as_ref().map_or(0, |it| it.len());
        let places = (frames + 1) * FRAME_PLACE_BYTES;
        let bytes = self.queued_bytes as usize + frame.len() + places;
        if self.is_closing || bytes > bytes_max as usize {
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
        let begun = self.first.take().filter(|_| self.written_of_first > 0);
        self.rest = None;
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
        let frames = self.first.iter().chain(self.rest.iter().flat_map(|rest| rest.iter()));
        let mut used = 0;
        for (slice, frame) in slices.iter_mut().zip(frames) {
            let written = if used == 0 { self.written_of_first as usize } else { 0 };
            *slice = IoSlice::new(&frame[written..]);
            used += 1;
        }
        used
    }

    /// What is to be written, if a single frame waits.
    #[must_use]
    pub fn only_frame(&self) -> Option<&[u8]> {
        let is_alone = self.rest.as_ref().is_none_or(|rest| rest.is_empty());
        self.first.as_ref().filter(|_| is_alone).map(|it| &it[self.written_of_first as usize..])
    }

    /// Takes `written` bytes off the front. Gives memory back when that was the last of many.
    ///
    /// # Panics
    /// When more is written than was queued.
    pub fn advance(&mut self, written: usize) {
        assert!(written <= self.queued_bytes(), "only what is queued can have been written");
        let mut written_of_first = self.written_of_first as usize + written;
        self.queued_bytes -= counted(written);
        while let Some(frame) = &self.first
            && frame.len() <= written_of_first
        {
            written_of_first -= frame.len();
            self.first = self.rest.as_mut().and_then(|rest| rest.pop_front());
        }
        self.written_of_first = counted(written_of_first);
        if self.first.is_none()
            && let Some(rest) = &mut self.rest
            && rest.capacity() > OUTBOX_FRAMES_KEPT
        {
            rest.shrink_to(OUTBOX_FRAMES_KEPT);
        }
    }

    /// Gives back the memory that is kept from one turn to the next. For a connection that has been
    /// silent for a while.
    pub fn release_spare(&mut self) {
        self.rest.take_if(|rest| rest.is_empty());
    }

    /// Whether everything is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Bytes that still have to be written.
    #[must_use]
    pub const fn queued_bytes(&self) -> usize {
        self.queued_bytes as usize
    }

    /// Whether a close frame is the last that leaves. The connection ends when it is written.
    #[must_use]
    pub const fn is_closing(&self) -> bool {
        self.is_closing
    }

    fn append(&mut self, frame: Frame) {
        assert!(!frame.is_empty(), "a frame has a header");
        self.queued_bytes += counted(frame.len());
        if self.first.is_none() {
            self.first = Some(frame);
        } else {
            self.rest.get_or_insert_default().push_back(frame);
        }
    }
}

/// Bytes of frames in an outbox.
fn counted(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("an outbox is bounded far below 32 bits")
}

#[cfg(test)]
mod tests;
