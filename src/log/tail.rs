//! The ring of recent batches that answers most resumes without a read of the log. Pure.

use std::{collections::VecDeque, sync::Arc};

use super::{batch::Batch, place::Sequence};
use crate::limits::TAIL_BYTES_MAX;

/// Something made of a batch.
pub trait HoldsBatch {
    /// The batch.
    fn batch(&self) -> &Batch;
}

/// The newest batches of one channel, bounded by bytes. `T` is what the keeper makes of a batch.
#[derive(Debug)]
pub struct Tail<T> {
    kept: VecDeque<Arc<T>>,
    /// Sum of the kept batches' record bytes. At most [`TAIL_BYTES_MAX`], or one batch.
    bytes: usize,
    /// The sequence just before the oldest kept record; the head's when nothing is kept.
    start: Sequence,
}

impl<T: HoldsBatch> Tail<T> {
    /// An empty ring behind `start`.
    #[must_use]
    pub const fn new(start: Sequence) -> Self {
        Self { kept: VecDeque::new(), bytes: 0, start }
    }

    /// Adds the batch that follows the newest one, and lets go of the oldest while there are too
    /// many bytes.
    pub fn push(&mut self, newest: Arc<T>) {
        debug_assert_eq!(newest.batch().first_sequence, self.end().next());
        self.bytes += newest.batch().records.len();
        self.kept.push_back(newest);
        while self.bytes > TAIL_BYTES_MAX && self.kept.len() > 1 {
            if let Some(oldest) = self.kept.pop_front() {
                self.bytes -= oldest.batch().records.len();
                self.start = oldest.batch().last_sequence();
            }
        }
    }

    /// The sequence just before the oldest record that is kept.
    #[must_use]
    pub const fn start(&self) -> Sequence {
        self.start
    }

    /// The newest sequence that is kept.
    fn end(&self) -> Sequence {
        self.kept.back().map_or(self.start, |newest| newest.batch().last_sequence())
    }

    /// The batches that hold what comes after `sequence`, oldest first; the first of them may begin
    /// before it. Only for a sequence from [`Tail::start`] on: below, records are missing.
    pub fn after(&self, sequence: Sequence) -> impl Iterator<Item = &Arc<T>> {
        debug_assert!(sequence >= self.start);
        let first = self.kept.partition_point(|kept| kept.batch().last_sequence() <= sequence);
        self.kept.range(first..)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::log::place::{BatchId, Epoch};

    impl HoldsBatch for Batch {
        fn batch(&self) -> &Batch {
            self
        }
    }

    fn batch(first_sequence: u64, count: u16, bytes: usize) -> Arc<Batch> {
        Arc::new(Batch {
            epoch: Epoch(1),
            id: BatchId(u128::from(first_sequence)),
            previous: BatchId(0),
            first_sequence: Sequence(first_sequence),
            count,
            timestamp_ms: 0,
            records: Bytes::from(vec![0; bytes]),
        })
    }

    #[test]
    fn a_new_ring_covers_its_start_and_nothing_before() {
        let tail = Tail::<Batch>::new(Sequence(7));
        assert_eq!(tail.start(), Sequence(7));
        assert_eq!(tail.after(Sequence(7)).count(), 0);
    }

    #[test]
    fn a_batch_larger_than_the_ring_is_kept_alone() {
        let mut tail = Tail::new(Sequence::ZERO);
        tail.push(batch(1, 3, 10));
        tail.push(batch(4, 1, TAIL_BYTES_MAX + 1));
        assert_eq!(tail.start(), Sequence(3));
        assert_eq!(tail.after(Sequence(3)).count(), 1);
    }

    proptest! {
        #[test]
        fn what_comes_after_a_place_is_there_without_a_hole(
            sizes in prop::collection::vec((1_u16..5, 1_usize..TAIL_BYTES_MAX / 3), 1..40),
            skip in 0_u64..200,
        ) {
            let mut tail = Tail::new(Sequence::ZERO);
            let mut head = 0;
            for (count, bytes) in sizes {
                tail.push(batch(head + 1, count, bytes));
                head += u64::from(count);
            }
            prop_assert!(tail.bytes <= TAIL_BYTES_MAX);
            let from = Sequence((tail.start().0 + skip).min(head));
            let mut next = from.0 + 1;
            for batch in tail.after(from) {
                prop_assert!(batch.first_sequence.0 <= next && batch.last_sequence().0 >= next);
                next = batch.last_sequence().0 + 1;
            }
            prop_assert_eq!(next, head + 1);
        }
    }
}
