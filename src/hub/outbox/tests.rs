//! The outbox against the plain concatenation of its frames.

use std::{io::IoSlice, rc::Rc};

use bytes::Bytes;
use proptest::prelude::*;

use super::{FRAME_PLACE_BYTES, Full, Outbox};
use crate::limits::{OUTBOX_BYTES_MAX, OUTBOX_FRAMES_KEPT, WRITE_SLICES_MAX};

const PLACE: usize = FRAME_PLACE_BYTES;

/// Writes up to `bytes`, as a socket with little room would.
fn write(outbox: &mut Outbox, bytes: usize, to: &mut Vec<u8>) {
    let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
    let used = outbox.slices(&mut slices);
    let mut taken: Vec<u8> =
        slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect();
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
                    match outbox.push(Rc::new(Bytes::copy_from_slice(&frame))) {
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
            outbox.push(Rc::new(Bytes::from(vec![fill; length]))).unwrap();
            pushed.extend(vec![fill; length]);
            ends.push(pushed.len());
        }
        write(&mut outbox, bytes, &mut written);
        let end = ends.into_iter().find(|end| *end >= written.len()).unwrap();

        outbox.replace_with_close(Rc::new(Bytes::from_static(b"close")));
        prop_assert_eq!(outbox.queued_bytes(), end - written.len() + 5);
        write_all(&mut outbox, &mut written);
        prop_assert_eq!(written, [&pushed[..end], b"close"].concat());
    }
}

#[test]
fn a_push_that_would_cross_the_bound_is_refused() {
    let mut outbox = Outbox::new(2 * (10 + PLACE));
    let frame = Rc::new(Bytes::from_static(b"0123456789"));
    assert_eq!(outbox.push(frame.clone()), Ok(()));
    assert_eq!(outbox.push(frame.clone()), Ok(()));
    assert_eq!(outbox.push(Rc::new(Bytes::from_static(b"0"))), Err(Full));
    outbox.advance(10);
    assert_eq!(outbox.push(frame), Ok(()));
}

#[test]
fn tiny_frames_fill_an_outbox_by_their_number() {
    let mut outbox = Outbox::new(1024 * 1024);
    let pong = Rc::new(Bytes::from_static(&[0x8a, 0]));
    let taken = (0..1_000_000).take_while(|_| outbox.push(pong.clone()).is_ok()).count();
    assert_eq!(taken, 1024 * 1024 / (2 + PLACE));
}

#[test]
fn a_full_outbox_still_takes_its_close() {
    let mut outbox = Outbox::new(100 + PLACE);
    outbox.push(Rc::new(Bytes::from(vec![1; 60]))).unwrap();
    assert_eq!(outbox.push(Rc::new(Bytes::from(vec![2; 60]))), Err(Full));
    outbox.replace_with_close(Rc::new(Bytes::from_static(b"close")));
    assert!(outbox.is_closing());
    let mut written = Vec::new();
    write_all(&mut outbox, &mut written);
    assert_eq!(written, b"close");
}

#[test]
fn nothing_follows_a_close() {
    let mut outbox = Outbox::new(1_000);
    outbox.replace_with_close(Rc::new(Bytes::from_static(b"first")));
    assert_eq!(outbox.push(Rc::new(Bytes::from_static(b"late"))), Err(Full));
    let mut written = Vec::new();
    write(&mut outbox, 2, &mut written);
    outbox.replace_with_close(Rc::new(Bytes::from_static(b"second")));
    write_all(&mut outbox, &mut written);
    assert_eq!(written, b"first");
}

#[test]
fn one_write_is_offered_no_more_than_its_slices() {
    let mut outbox = Outbox::new(usize::MAX);
    for _ in 0..WRITE_SLICES_MAX + 1 {
        outbox.push(Rc::new(Bytes::from_static(b"xy"))).unwrap();
    }
    outbox.advance(1);
    let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
    assert_eq!(outbox.slices(&mut slices), WRITE_SLICES_MAX);
    assert_eq!(slices.iter().map(|slice| slice.len()).sum::<usize>(), 2 * WRITE_SLICES_MAX - 1);
}

/// Places behind the first.
fn capacity(outbox: &Outbox) -> usize {
    outbox.rest.as_ref().map_or(0, |rest| rest.capacity())
}

/// Hands out so many frames and writes them all. Answers the capacity with them and after them.
fn turn(outbox: &mut Outbox, frames: usize) -> (usize, usize) {
    for _ in 0..frames {
        outbox.push(Rc::new(Bytes::from_static(b"xy"))).unwrap();
    }
    let full = capacity(outbox);
    outbox.advance(2 * frames);
    (full, capacity(outbox))
}

#[test]
fn a_drained_outbox_keeps_room_for_a_turn_and_gives_a_peak_back() {
    let mut outbox = Outbox::new(usize::MAX);
    assert_eq!(turn(&mut outbox, 1), (0, 0), "one frame needs no memory");
    let (full, drained) = turn(&mut outbox, OUTBOX_FRAMES_KEPT);
    assert_eq!(full, drained, "the next turn allocates nothing");
    let (full, drained) = turn(&mut outbox, 10_000);
    assert!(full >= 9_999);
    assert_eq!(drained, OUTBOX_FRAMES_KEPT);
}

#[test]
fn a_silent_connection_keeps_no_room_and_loses_no_frame() {
    let mut outbox = Outbox::new(usize::MAX);
    turn(&mut outbox, 2);
    assert!(outbox.rest.is_some());
    outbox.release_spare();
    assert!(outbox.rest.is_none());
    for frame in [b"ab", b"cd"] {
        outbox.push(Rc::new(Bytes::from_static(frame))).unwrap();
    }
    outbox.release_spare();
    let mut written = Vec::new();
    write_all(&mut outbox, &mut written);
    assert_eq!(written, b"abcd");
}

#[test]
fn a_bound_beyond_all_reason_is_bounded() {
    assert_eq!(Outbox::new(usize::MAX).bytes_max as usize, OUTBOX_BYTES_MAX);
}

#[test]
fn an_outbox_is_half_a_cache_line() {
    assert!(size_of::<Outbox>() <= 32);
    assert_eq!(size_of::<Full>(), 0);
}
