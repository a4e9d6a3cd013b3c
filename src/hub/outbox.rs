//! Frames that wait for one connection, bounded by bytes. Hot.
//!
//! Everything a connection is sent passes through here, so that frames never interleave. Fan-out
//! pushes and never waits: when the outbox is full, its connection is a slow consumer and is
//! closed, and no other connection notices.
//!
//! Invariant: the bytes that leave are the concatenation of the frames that were pushed, but for
//! those that [`Outbox::replace_with_close`] dropped whole.

use std::{collections::VecDeque, io::IoSlice};

use bytes::Bytes;
use thiserror::Error;

use crate::limits::{OUTBOX_FRAMES_KEPT, WRITE_SLICES_MAX};

/// The frames on their way to one connection.
#[derive(Debug)]
pub struct Outbox {
    frames: VecDeque<Bytes>,
    /// Bytes of the first frame that are written already. Always less than its length.
    written_of_first: usize,
    /// Bytes that still have to be written.
    queued_bytes: usize,
    /// Bound of the queued bytes and the places of their frames together, but for a close frame.
    bytes_max: usize,
    /// A close frame is queued: no frame may follow it.
    is_closing: bool,
}

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
    pub fn push(&mut self, frame: Bytes) -> Result<(), Full> {
        // A frame costs its place too, or two-byte pongs would take many times the bound.
        let places = (self.frames.len() + 1) * size_of::<Bytes>();
        if self.is_closing || self.queued_bytes + frame.len() + places > self.bytes_max {
            return Err(Full);
        }
        self.append(frame);
        Ok(())
    }

    /// Drops every frame that has not begun to be written, and queues a close frame as the last
    /// one, whatever the bound. Does nothing when it has been done before.
    pub fn replace_with_close(&mut self, close: Bytes) {
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
    pub fn push_close(&mut self, close: Bytes) {
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

    fn append(&mut self, frame: Bytes) {
        assert!(!frame.is_empty(), "a frame has a header");
        self.queued_bytes += frame.len();
        self.frames.push_back(frame);
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::{Full, Outbox};
    use crate::limits::{OUTBOX_FRAMES_KEPT, WRITE_SLICES_MAX};

    const PLACE: usize = size_of::<Bytes>();

    /// Writes up to `bytes`, as a socket with little room would.
    fn write(outbox: &mut Outbox, bytes: usize, to: &mut Vec<u8>) {
        let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
        let used = outbox.slices(&mut slices);
        let mut taken = slices[..used].concat();
        taken.truncate(bytes);
        to.extend_from_slice(&taken);
        outbox.advance(taken.len());
    }

    fn write_all(outbox: &mut Outbox, to: &mut Vec<u8>) {
        while !outbox.is_empty() {
            write(outbox, usize::MAX, to);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(Vec<u8>),
        Write(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let push = prop::collection::vec(any::<u8>(), 1..60).prop_map(Step::Push);
        let write = (0..150_usize).prop_map(Step::Write);
        prop::collection::vec(prop_oneof![3 => push, 1 => write], 0..200)
    }

    proptest! {
        #[test]
        fn what_leaves_is_what_was_pushed(steps in steps(), bytes_max in 0..4_000_usize) {
            let mut outbox = Outbox::new(bytes_max);
            let (mut pushed, mut written) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Push(frame) => {
                        let before = outbox.queued_bytes();
                        match outbox.push(Bytes::copy_from_slice(&frame)) {
                            Ok(()) => pushed.extend_from_slice(&frame),
                            Err(Full) => prop_assert_eq!(outbox.queued_bytes(), before),
                        }
                    }
                    Step::Write(bytes) => write(&mut outbox, bytes, &mut written),
                }
                prop_assert_eq!(outbox.queued_bytes(), pushed.len() - written.len());
                prop_assert_eq!(outbox.is_empty(), outbox.queued_bytes() == 0);
                prop_assert!(outbox.queued_bytes() <= bytes_max);
            }
            write_all(&mut outbox, &mut written);
            prop_assert_eq!(written, pushed);
        }

        #[test]
        fn a_close_follows_only_the_frame_that_was_begun(
            frames in prop::collection::vec(1..50_usize, 0..100),
            bytes in 0..2_000_usize,
        ) {
            let mut outbox = Outbox::new(usize::MAX);
            let (mut pushed, mut ends, mut written) = (Vec::new(), vec![0], Vec::new());
            for (length, fill) in frames.into_iter().zip(0..) {
                outbox.push(Bytes::from(vec![fill; length])).unwrap();
                pushed.extend(vec![fill; length]);
                ends.push(pushed.len());
            }
            write(&mut outbox, bytes, &mut written);
            let end = ends.into_iter().find(|end| *end >= written.len()).unwrap();

            outbox.replace_with_close(Bytes::from_static(b"close"));
            prop_assert_eq!(outbox.queued_bytes(), end - written.len() + 5);
            write_all(&mut outbox, &mut written);
            prop_assert_eq!(written, [&pushed[..end], b"close"].concat());
        }
    }

    #[test]
    fn a_push_that_would_cross_the_bound_is_refused() {
        let mut outbox = Outbox::new(2 * (10 + PLACE));
        let frame = Bytes::from_static(b"0123456789");
        assert_eq!(outbox.push(frame.clone()), Ok(()));
        assert_eq!(outbox.push(frame.clone()), Ok(()));
        assert_eq!(outbox.push(Bytes::from_static(b"0")), Err(Full));
        outbox.advance(10);
        assert_eq!(outbox.push(frame), Ok(()));
    }

    #[test]
    fn tiny_frames_fill_an_outbox_by_their_number() {
        let mut outbox = Outbox::new(1024 * 1024);
        let pong = Bytes::from_static(&[0x8a, 0]);
        let taken = (0..1_000_000).take_while(|_| outbox.push(pong.clone()).is_ok()).count();
        assert_eq!(taken, 1024 * 1024 / (2 + PLACE));
    }

    #[test]
    fn a_full_outbox_still_takes_its_close() {
        let mut outbox = Outbox::new(100);
        outbox.push(Bytes::from(vec![1; 60])).unwrap();
        assert_eq!(outbox.push(Bytes::from(vec![2; 60])), Err(Full));
        outbox.replace_with_close(Bytes::from_static(b"close"));
        assert!(outbox.is_closing());
        let mut written = Vec::new();
        write_all(&mut outbox, &mut written);
        assert_eq!(written, b"close");
    }

    #[test]
    fn nothing_follows_a_close() {
        let mut outbox = Outbox::new(1_000);
        outbox.replace_with_close(Bytes::from_static(b"first"));
        assert_eq!(outbox.push(Bytes::from_static(b"late")), Err(Full));
        let mut written = Vec::new();
        write(&mut outbox, 2, &mut written);
        outbox.replace_with_close(Bytes::from_static(b"second"));
        write_all(&mut outbox, &mut written);
        assert_eq!(written, b"first");
    }

    #[test]
    fn one_write_is_offered_no_more_than_its_slices() {
        let mut outbox = Outbox::new(usize::MAX);
        for _ in 0..WRITE_SLICES_MAX + 1 {
            outbox.push(Bytes::from_static(b"xy")).unwrap();
        }
        outbox.advance(1);
        let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
        assert_eq!(outbox.slices(&mut slices), WRITE_SLICES_MAX);
        assert_eq!(slices.iter().map(|slice| slice.len()).sum::<usize>(), 2 * WRITE_SLICES_MAX - 1);
    }

    #[test]
    fn a_drained_outbox_keeps_room_for_a_turn_and_gives_a_peak_back() {
        let mut outbox = Outbox::new(usize::MAX);
        assert_eq!(outbox.frames.capacity(), 0, "idle holds nothing");
        let turn = |outbox: &mut Outbox, frames: usize| {
            for _ in 0..frames {
                outbox.push(Bytes::from_static(b"xy")).unwrap();
            }
            let capacity = outbox.frames.capacity();
            outbox.advance(2 * frames);
            (capacity, outbox.frames.capacity())
        };
        let (full, drained) = turn(&mut outbox, OUTBOX_FRAMES_KEPT);
        assert_eq!(full, drained, "the next turn allocates nothing");
        let (full, drained) = turn(&mut outbox, 10_000);
        assert!(full >= 10_000);
        assert_eq!(drained, OUTBOX_FRAMES_KEPT);
    }

    #[test]
    fn an_outbox_is_one_cache_line() {
        assert!(size_of::<Outbox>() <= 64);
        assert_eq!(size_of::<Full>(), 0);
    }
}
