//! The last entry of each log that this node has seen, and the windows of keys: what is known of the
//! channels that were used last. Pure.
//!
//! A log only grows. If it is seen to end before what was in it, or with another entry in the same place,
//! acknowledged messages are lost, and that must not pass in silence. But a server that was the leader and
//! does not know yet that it is not may also answer so, for some seconds. So it is damage once it lasts.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use crate::{
    limits::JETSTREAM_REGRESSION_MIN,
    log::place::{BatchId, ChannelId, Cursor},
};

/// A map of the channels that were used last.
#[derive(Debug)]
pub(super) struct Recent<T> {
    values: HashMap<ChannelId, (u64, T)>,
    /// When which channel was used, in uses.
    order: BTreeMap<u64, ChannelId>,
    uses: u64,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { values: HashMap::new(), order: BTreeMap::new(), uses: 0 }
    }
}

impl<T> Recent<T> {
    /// What is known of this channel, which is used now.
    pub(super) fn used(&mut self, channel: ChannelId) -> Option<&mut T> {
        let (use_number, value) = self.values.get_mut(&channel)?;
        self.order.remove(use_number);
        self.uses += 1;
        *use_number = self.uses;
        self.order.insert(self.uses, channel);
        Some(value)
    }

    /// What is known of this channel, without using it.
    pub(super) fn peek(&self, channel: ChannelId) -> Option<&T> {
        self.values.get(&channel).map(|(_, value)| value)
    }

    /// Adds a channel, of which nothing was known.
    pub(super) fn add(&mut self, channel: ChannelId, value: T) {
        self.uses += 1;
        if let Some((before, _)) = self.values.insert(channel, (self.uses, value)) {
            self.order.remove(&before);
        }
        self.order.insert(self.uses, channel);
    }

    /// Forgets the channel that was not used for longest.
    pub(super) fn forget_oldest(&mut self) -> Option<T> {
        let (_, channel) = self.order.pop_first()?;
        self.values.remove(&channel).map(|(_, value)| value)
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }
}

/// The last entry that was seen of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct End {
    pub(super) at: Cursor,
    pub(super) batch: BatchId,
    /// Since when the log is seen to end otherwise.
    regressed: Option<Instant>,
}

/// How what is seen of a log fits what was seen before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fit {
    /// It is the same, or more.
    Grown,
    /// It is less or another, maybe because who answered is behind.
    Behind,
    /// It has been so for long: the log has lost this entry.
    Lost(Cursor),
}

impl End {
    pub(super) const fn new(at: Cursor, batch: BatchId) -> Self {
        Self { at, batch, regressed: None }
    }

    /// The log is seen to end with this entry; None: there is no entry.
    pub(super) fn see(&mut self, last: Option<(Cursor, BatchId)>, now: Instant) -> Fit {
        match last {
            Some((at, batch)) if at > self.at || (at, batch) == (self.at, self.batch) => {
                *self = Self::new(at, batch);
                Fit::Grown
            }
            _ => {
                let since = *self.regressed.get_or_insert(now);
                if now.saturating_duration_since(since) < JETSTREAM_REGRESSION_MIN {
                    Fit::Behind
                } else {
                    Fit::Lost(self.at)
                }
            }
        }
    }

    /// This entry is in the log, whatever its end is.
    pub(super) fn holds(&mut self, at: Cursor, batch: BatchId) {
        if at > self.at {
            *self = Self::new(at, batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_channel_not_used_for_longest_is_forgotten_first() {
        let mut recent = Recent::default();
        for channel in 1..=3 {
            recent.add(ChannelId(channel), channel);
        }
        assert_eq!(recent.used(ChannelId(1)), Some(&mut 1));
        assert_eq!(recent.peek(ChannelId(2)), Some(&2));
        assert_eq!(recent.forget_oldest(), Some(2));
        assert_eq!(recent.forget_oldest(), Some(3));
        assert_eq!((recent.len(), recent.used(ChannelId(2))), (1, None));
    }

    #[test]
    fn a_log_that_ends_earlier_or_otherwise_is_damaged_once_it_lasts() {
        let begun = Instant::now();
        let later = begun + JETSTREAM_REGRESSION_MIN;
        let just_before = later.checked_sub(Duration::from_millis(1)).unwrap();
        let seen = |at, batch| Some((Cursor(at), BatchId(batch)));
        for less in [None, seen(4, 1), seen(5, 2)] {
            let mut end = End::new(Cursor(5), BatchId(1));
            assert_eq!(end.see(seen(5, 1), begun), Fit::Grown);
            assert_eq!(end.see(less, begun), Fit::Behind, "{less:?}");
            assert_eq!(end.see(less, just_before), Fit::Behind);
            assert_eq!(end.see(less, later), Fit::Lost(Cursor(5)));
            assert_eq!(end.see(seen(6, 3), later), Fit::Grown, "it was only behind");
            assert_eq!(end.see(less, later), Fit::Behind);
        }
    }
}
