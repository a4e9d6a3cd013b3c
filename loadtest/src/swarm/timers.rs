//! What is due when: one heap for all users. Hot. Pure.
//!
//! Nothing is ever taken out before its time. Who sets a timer and then no longer wants it gives the
//! next one another stamp, and the old one is passed over when it comes.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

/// The number that stands for the run itself and not for one of its users.
pub(crate) const RUN: u32 = u32::MAX;

/// A time limit of so many seconds. In unit tests a second of it lasts 50 ms.
pub(crate) const fn patience(seconds: u64) -> Duration {
    if cfg!(test) { Duration::from_millis(50 * seconds) } else { Duration::from_secs(seconds) }
}

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Due {
    /// Of the run: the next message of an open model, before all else.
    Arrival,
    /// Of a user: its next message.
    Publish,
    /// Of the run: the next login of a storm, or another part of the plateau.
    Storm,
    /// Of the run: an account of the storm, whose number is the stamp, is made again.
    Account,
    /// Of a user: it becomes active.
    Join,
    /// Of a user: it is active no longer. The stamp is 1 if it is to leave its channels too.
    Leave,
    /// Of a user: its acknowledgements have had their time; it leaves without them.
    LeaveBy,
    /// Of a user: it connects again.
    Retry,
    /// Of a user: its connection must be subscribed by now.
    Attempt,
    /// Of a user: it asks for a token again.
    Knock,
    /// Of a user: the answer about its token must be there by now.
    KnockBy,
    /// Of a user: its token has run for most of its time.
    Renew,
    /// Of a user: what was refused for a while is sent again.
    Again,
    /// Of a user: its oldest command must be answered by now.
    Patience,
    /// Of a slow reader: it reads a little.
    Read,
    /// Of the run: a stage has ended.
    Phase,
    /// Of the run: look whether everybody has everything.
    Check,
    /// Of the run: a second is over.
    Second,
}

/// One entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Timer {
    /// In microseconds since the beginning of the run.
    pub(crate) at_us: u64,
    pub(crate) due: Due,
    pub(crate) user: u32,
    /// Which of the user's timers of this kind it is: an older one has no meaning any more.
    pub(crate) stamp: u32,
}

/// All that is to come.
#[derive(Debug, Default)]
pub(crate) struct Timers(BinaryHeap<Reverse<Timer>>);

impl Timers {
    pub(crate) fn set(&mut self, at_us: u64, user: u32, due: Due, stamp: u32) {
        self.0.push(Reverse(Timer { at_us, due, user, stamp }));
    }

    /// The earliest of those whose time has come.
    pub(crate) fn next_due(&mut self, now_us: u64) -> Option<Timer> {
        let next = self.0.peek_mut().filter(|next| next.0.at_us <= now_us)?;
        Some(std::collections::binary_heap::PeekMut::pop(next).0)
    }

    /// When the next one is due.
    pub(crate) fn next_at(&self) -> Option<u64> {
        self.0.peek().map(|next| next.0.at_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_come_in_the_order_of_their_time_and_not_before_it() {
        let mut timers = Timers::default();
        for at in [30, 10, 20] {
            timers.set(at, 1, Due::Publish, 0);
        }
        assert_eq!(timers.next_due(9), None);
        assert_eq!(timers.next_due(20).map(|it| it.at_us), Some(10));
        assert_eq!(timers.next_due(20).map(|it| it.at_us), Some(20));
        assert_eq!((timers.next_due(20), timers.next_at()), (None, Some(30)));
    }

    #[test]
    fn a_message_comes_before_all_else_that_is_due_at_the_same_time() {
        let mut timers = Timers::default();
        timers.set(10, 1, Due::Read, 0);
        timers.set(10, 9, Due::Publish, 0);
        timers.set(10, RUN, Due::Second, 0);
        let order = std::iter::from_fn(|| timers.next_due(10)).map(|it| it.due);
        assert_eq!(order.collect::<Vec<_>>(), [Due::Publish, Due::Read, Due::Second]);
    }
}
