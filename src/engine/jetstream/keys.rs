//! The newest keys of a channel: what its log said of publishes up to one entry. Pure.
//!
//! A log that is spread over servers has no unique index. But an append passes only if the log's last
//! entry is the one that its writer knew; so who knows all keys up to that very entry knows whether the
//! append repeats one of them, exactly, as far back as the window reaches.

use std::collections::{HashMap, VecDeque};

use super::entry::Payload;
use crate::{
    engine::MessageKey,
    limits::{JETSTREAM_KEYS_KEPT, JETSTREAM_KEYS_MAX, JETSTREAM_KEYS_MIN},
    log::place::{BatchId, ClientMessageId, Cursor, Sequence, UserId},
};

/// An entry as far as an append that follows it must know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Last {
    /// Where it is.
    pub(super) at: Cursor,
    /// Its batch.
    pub(super) batch: BatchId,
    /// The last sequence of the log's chain, which the next batch goes on from.
    pub(super) sequence: Sequence,
}

/// The newest keys of one channel, up to one entry.
#[derive(Debug, Default)]
pub(super) struct KeyWindow {
    last: Option<Last>,
    index: HashMap<(UserId, ClientMessageId), MessageKey>,
    /// The keys in their order, each with its batch's time.
    order: VecDeque<(u64, MessageKey)>,
}

impl KeyWindow {
    /// The last entry that was taken in.
    pub(super) const fn last(&self) -> Option<Last> {
        self.last
    }

    /// The cursor of that; 0 if there was none.
    pub(super) fn position(&self) -> Cursor {
        self.last.map_or(Cursor(0), |last| last.at)
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Takes in the log's next entry. One that lost a race and landed all the same names another one
    /// before it, is skipped by every reader, and its keys are free.
    pub(super) fn take_in(&mut self, entry_at: Cursor, payload: &Payload) {
        let follows = self.last.is_none_or(|last| payload.after.of(entry_at) == last.at);
        let batch = &payload.batch;
        let sequence = match self.last {
            Some(last) if !follows => last.sequence,
            _ => batch.last_sequence(),
        };
        self.last = Some(Last { at: entry_at, batch: batch.id, sequence });
        if follows {
            for key in &payload.keys {
                self.index.insert((key.user, key.client_message_id), *key);
                self.order.push_back((batch.timestamp_ms, *key));
            }
            self.forget(batch.timestamp_ms);
        }
    }

    /// Which of these are taken: what is stored under them, in their order.
    pub(super) fn taken(
        &self,
        keys: impl IntoIterator<Item = (UserId, ClientMessageId)>,
    ) -> Vec<MessageKey> {
        keys.into_iter().filter_map(|key| self.index.get(&key)).copied().collect()
    }

    /// The messages below this sequence are gone, and their keys free.
    pub(super) fn trim(&mut self, kept: Sequence) {
        while self.order.front().is_some_and(|(_, key)| key.sequence < kept) {
            self.drop_oldest();
        }
    }

    fn forget(&mut self, now_ms: u64) {
        let kept_ms = JETSTREAM_KEYS_KEPT.as_millis() as u64;
        let is_old = |at_ms: u64| at_ms.saturating_add(kept_ms) < now_ms;
        while self.order.len() > JETSTREAM_KEYS_MAX
            || self.order.len() > JETSTREAM_KEYS_MIN
                && self.order.front().is_some_and(|(at_ms, _)| is_old(*at_ms))
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some((_, oldest)) = self.order.pop_front() else { return };
        let name = (oldest.user, oldest.client_message_id);
        // The same number may have been used again since.
        if self.index.get(&name).is_some_and(|key| key.sequence == oldest.sequence) {
            self.index.remove(&name);
        }
    }
}

/// Whether so many keys, the oldest of this time, are all that a window holds.
pub(super) fn is_full(keys: usize, oldest_ms: u64, newest_ms: u64) -> bool {
    let kept_ms = JETSTREAM_KEYS_KEPT.as_millis() as u64;
    keys >= JETSTREAM_KEYS_MAX
        || keys >= JETSTREAM_KEYS_MIN && oldest_ms.saturating_add(kept_ms) < newest_ms
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::{
        engine::jetstream::entry::After,
        log::{
            batch::{Batch, put_record},
            place::Epoch,
        },
    };

    /// An entry of one message by this user, whose number is its sequence.
    fn payload(after: u64, sequence: u64, id: u64, at_ms: u64) -> Payload {
        let mut records = BytesMut::new();
        put_record(&mut records, b"x");
        let batch = Batch {
            epoch: Epoch(1),
            id: BatchId(u128::from(sequence)),
            previous: BatchId(u128::from(sequence) - 1),
            first_sequence: Sequence(sequence),
            count: 1,
            timestamp_ms: at_ms,
            records: records.freeze(),
        };
        let key = MessageKey {
            user: UserId(1),
            client_message_id: ClientMessageId(id),
            sequence: Sequence(sequence),
            digest: 0,
        };
        Payload { after: After::At(Cursor(after)), batch, keys: vec![key], derived: Vec::new() }
    }

    fn taken(window: &KeyWindow, id: u64) -> Option<u64> {
        let taken = window.taken([(UserId(1), ClientMessageId(id))]);
        taken.first().map(|key| key.sequence.0)
    }

    #[test]
    fn a_key_is_kept_while_it_is_new_or_among_the_newest() {
        let mut window = KeyWindow::default();
        let count = JETSTREAM_KEYS_MIN as u64 + 500;
        for n in 1..=count {
            window.take_in(Cursor(n), &payload(n - 1, n, n, 1_000));
        }
        assert_eq!(window.len() as u64, count, "all of them are new");
        let later = 1_001 + JETSTREAM_KEYS_KEPT.as_millis() as u64;
        window.take_in(Cursor(count + 1), &payload(count, count + 1, count + 1, later));
        assert_eq!(window.len(), JETSTREAM_KEYS_MIN, "now the newest of them");
        assert_eq!(taken(&window, 501), None);
        assert_eq!(taken(&window, 502), Some(502));
        for n in count + 2..count + 2 + JETSTREAM_KEYS_MAX as u64 {
            window.take_in(Cursor(n), &payload(n - 1, n, n, later));
        }
        assert_eq!(window.len(), JETSTREAM_KEYS_MAX);
    }

    #[test]
    fn what_lost_a_race_takes_no_key_and_no_sequence() {
        let mut window = KeyWindow::default();
        window.take_in(Cursor(5), &payload(0, 1, 11, 0));
        window.take_in(Cursor(6), &payload(5, 2, 12, 0));
        window.take_in(Cursor(8), &payload(5, 2, 13, 0));
        assert_eq!(window.position(), Cursor(8));
        assert_eq!((taken(&window, 12), taken(&window, 13)), (Some(2), None));
        assert_eq!(window.last().unwrap().sequence, Sequence(2));
        window.take_in(Cursor(9), &payload(8, 3, 13, 0));
        assert_eq!(taken(&window, 13), Some(3));
    }

    #[test]
    fn a_trim_frees_the_keys_below_it() {
        let mut window = KeyWindow::default();
        for n in 1..=4 {
            window.take_in(Cursor(n), &payload(n - 1, n, 10 + n, 0));
        }
        window.take_in(Cursor(5), &payload(4, 5, 11, 0));
        window.trim(Sequence(3));
        assert_eq!(taken(&window, 12), None);
        assert_eq!(taken(&window, 11), Some(5), "used again since");
        assert_eq!(taken(&window, 13), Some(3));
    }
}
