//! What waits for the auth workers, in two classes, and who is refused when it is full. Pure: the
//! caller brings the time.
//!
//! Known work goes first. So that strangers do not starve behind it, they get every
//! [`limits::AUTH_STRANGER_SHARE`]th hash while any of them waits, and the same share of the places,
//! which known work cannot take.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::Class;
use crate::limits;

/// Work of either class.
#[derive(Debug)]
pub(super) struct Mailbox<T> {
    known: VecDeque<Waiting<T>>,
    strangers: VecDeque<Waiting<T>>,
    /// Done only when nobody waits, so there is never more than one.
    spare: Option<T>,
    /// Known work taken since a stranger's was, while strangers waited.
    known_in_a_row: u32,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self { known: VecDeque::new(), strangers: VecDeque::new(), spare: None, known_in_a_row: 0 }
    }
}

#[derive(Debug)]
struct Waiting<T> {
    work: T,
    since: Instant,
}

/// What became of work that came.
#[derive(Debug)]
pub(super) enum Put<T> {
    /// It waits.
    In,
    /// It waits in the place of this stranger, the youngest, whose answer is no.
    InsteadOf(T),
    /// There is no place for it.
    Full(T),
}

/// Work that is due.
#[derive(Debug)]
pub(super) struct Taken<T> {
    pub(super) work: T,
    /// How long it waited; nothing for spare work, which waits for nobody.
    pub(super) waited: Duration,
}

/// How many may wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Capacity {
    /// Workers that are free: what comes for them does not wait.
    pub(super) free: usize,
    /// Places for those that really wait.
    pub(super) places: usize,
}

impl Capacity {
    /// Room for as much as so many workers hash in [`limits::AUTH_WAIT_MAX`], and for no more than
    /// their absolute bound.
    pub(super) fn new(workers: usize, busy: usize, hash_time: Duration) -> Self {
        let turns = match hash_time.as_nanos() {
            0 => usize::MAX,
            nanos => {
                usize::try_from(limits::AUTH_WAIT_MAX.as_nanos() / nanos).unwrap_or(usize::MAX)
            }
        };
        let places = workers * turns.min(limits::AUTH_MAILBOX_PER_WORKER_MAX);
        Self { free: workers.saturating_sub(busy), places }
    }

    fn all(self) -> usize {
        self.free + self.places
    }

    /// What known work may fill: all but the places of strangers, which are one at least if that
    /// leaves any.
    fn known(self) -> usize {
        let share = self.places / limits::AUTH_STRANGER_SHARE as usize;
        self.all() - share.max(1).min(self.places.saturating_sub(1))
    }
}

impl<T> Mailbox<T> {
    /// How many wait, without spare work.
    pub(super) fn len(&self) -> usize {
        self.known.len() + self.strangers.len()
    }

    /// Whether there is no place for anybody, of whatever class.
    pub(super) fn is_full(&self, capacity: Capacity) -> bool {
        self.len() >= capacity.all() && self.known.len() >= capacity.known()
    }

    /// How many wait of a class.
    pub(super) fn len_of(&self, class: Class) -> usize {
        match class {
            Class::Known => self.known.len(),
            Class::Stranger => self.strangers.len(),
        }
    }

    /// How long the oldest work has waited.
    pub(super) fn oldest(&self, now: Instant) -> Option<Duration> {
        let since = |queue: &VecDeque<Waiting<T>>| queue.front().map(|waiting| waiting.since);
        let since = since(&self.known).into_iter().chain(since(&self.strangers)).min()?;
        Some(now.saturating_duration_since(since))
    }

    /// Takes in work.
    pub(super) fn put(
        &mut self,
        work: T,
        class: Class,
        since: Instant,
        capacity: Capacity,
    ) -> Put<T> {
        let waiting = Waiting { work, since };
        let full = self.len() >= capacity.all();
        match class {
            Class::Stranger if full => Put::Full(waiting.work),
            Class::Stranger => {
                self.strangers.push_back(waiting);
                Put::In
            }
            Class::Known if self.known.len() >= capacity.known() => Put::Full(waiting.work),
            Class::Known if full => match self.strangers.pop_back() {
                Some(youngest) => {
                    self.known.push_back(waiting);
                    Put::InsteadOf(youngest.work)
                }
                None => Put::Full(waiting.work),
            },
            Class::Known => {
                self.known.push_back(waiting);
                Put::In
            }
        }
    }

    /// Takes in work that is done only if nobody waits.
    pub(super) fn put_spare(&mut self, work: T, capacity: Capacity) -> Put<T> {
        if self.len() > 0 || self.spare.is_some() || capacity.free == 0 {
            return Put::Full(work);
        }
        self.spare = Some(work);
        Put::In
    }

    /// The work that is next. What is dead, or waited longer than [`limits::AUTH_DEADLINE`], is put
    /// into `dropped` instead, and takes nobody's turn; so is spare work that others have overtaken.
    pub(super) fn take(
        &mut self,
        now: Instant,
        is_dead: impl Fn(&T) -> bool,
        dropped: &mut Vec<T>,
    ) -> Option<Taken<T>> {
        while let Some((Waiting { work, since }, class)) = self.pop() {
            let waited = now.saturating_duration_since(since);
            if waited > limits::AUTH_DEADLINE || is_dead(&work) {
                dropped.push(work);
                continue;
            }
            self.known_in_a_row = match class {
                Class::Known if !self.strangers.is_empty() => self.known_in_a_row + 1,
                Class::Known | Class::Stranger => 0,
            };
            dropped.extend(self.spare.take());
            return Some(Taken { work, waited });
        }
        let spare = self.spare.take()?;
        if is_dead(&spare) {
            dropped.push(spare);
            return None;
        }
        Some(Taken { work: spare, waited: Duration::ZERO })
    }

    fn pop(&mut self) -> Option<(Waiting<T>, Class)> {
        let strangers_turn = self.known_in_a_row + 1 >= limits::AUTH_STRANGER_SHARE;
        let order = if strangers_turn {
            [Class::Stranger, Class::Known]
        } else {
            [Class::Known, Class::Stranger]
        };
        order.into_iter().find_map(|class| {
            let queue = match class {
                Class::Known => &mut self.known,
                Class::Stranger => &mut self.strangers,
            };
            Some((queue.pop_front()?, class))
        })
    }

    /// Everything that waits.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> {
        let known = std::mem::take(&mut self.known).into_iter();
        let strangers = std::mem::take(&mut self.strangers).into_iter();
        known.chain(strangers).map(|waiting| waiting.work).chain(self.spare.take())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_mailbox_that_is_full_takes_nobody_and_another_takes_somebody() {
        for places in [1, 2, 20] {
            let mut mailbox = Mailbox::default();
            while !mailbox.is_full(capacity(places)) {
                let known = put(&mut mailbox, 1, Class::Known, places);
                let stranger = put(&mut mailbox, 2, Class::Stranger, places);
                let is_in = |put: &Put<u32>| !matches!(put, Put::Full(_));
                assert!(is_in(&known) || is_in(&stranger), "{places}");
            }
            for class in [Class::Known, Class::Stranger] {
                assert!(matches!(put(&mut mailbox, 3, class, places), Put::Full(3)), "{places}");
            }
        }
    }

    const SHARE: usize = limits::AUTH_STRANGER_SHARE as usize;

    fn capacity(places: usize) -> Capacity {
        Capacity { free: 0, places }
    }

    fn put(mailbox: &mut Mailbox<u32>, work: u32, class: Class, places: usize) -> Put<u32> {
        mailbox.put(work, class, Instant::now(), capacity(places))
    }

    fn take(mailbox: &mut Mailbox<u32>) -> Option<u32> {
        let mut dropped = Vec::new();
        let taken = mailbox.take(Instant::now(), |_| false, &mut dropped).map(|taken| taken.work);
        assert!(dropped.is_empty(), "{dropped:?}");
        taken
    }

    #[test]
    fn known_work_goes_first_and_otherwise_the_oldest() {
        let mut mailbox = Mailbox::default();
        for (work, class) in
            [(1, Class::Stranger), (2, Class::Known), (3, Class::Stranger), (4, Class::Known)]
        {
            assert!(matches!(put(&mut mailbox, work, class, 64), Put::In));
        }
        let order: Vec<u32> = std::iter::from_fn(|| take(&mut mailbox)).collect();
        assert_eq!(order, [2, 4, 1, 3]);
    }

    #[test]
    fn a_stranger_gets_one_hash_of_sixteen_however_much_known_work_comes() {
        let mut mailbox = Mailbox::default();
        for work in 0..4 {
            put(&mut mailbox, work, Class::Stranger, 1000);
        }
        let mut turns = Vec::new();
        for turn in 1..=4 * SHARE {
            put(&mut mailbox, 100, Class::Known, 1000);
            if take(&mut mailbox).unwrap() < 100 {
                turns.push(turn);
            }
        }
        assert_eq!(turns, [SHARE, 2 * SHARE, 3 * SHARE, 4 * SHARE]);
    }

    #[test]
    fn known_work_without_strangers_saves_no_turns_up_for_them() {
        let mut mailbox = Mailbox::default();
        for _ in 0..3 * SHARE {
            put(&mut mailbox, 100, Class::Known, 1000);
            take(&mut mailbox);
        }
        put(&mut mailbox, 1, Class::Stranger, 1000);
        put(&mut mailbox, 100, Class::Known, 1000);
        assert_eq!(take(&mut mailbox), Some(100));
    }

    #[test]
    fn known_work_takes_the_place_of_the_youngest_stranger() {
        let mut mailbox = Mailbox::default();
        for work in 0..4 {
            assert!(matches!(put(&mut mailbox, work, Class::Stranger, 4), Put::In));
        }
        assert!(matches!(put(&mut mailbox, 9, Class::Stranger, 4), Put::Full(9)));
        assert!(matches!(put(&mut mailbox, 100, Class::Known, 4), Put::InsteadOf(3)));
        assert!(matches!(put(&mut mailbox, 101, Class::Known, 4), Put::InsteadOf(2)));
        assert!(matches!(put(&mut mailbox, 102, Class::Known, 4), Put::InsteadOf(1)));
        // The last place is the strangers'.
        assert!(matches!(put(&mut mailbox, 103, Class::Known, 4), Put::Full(103)));
        assert_eq!(mailbox.len(), 4);
    }

    #[test]
    fn known_work_leaves_strangers_their_places() {
        let mut mailbox = Mailbox::default();
        let places = 4 * SHARE;
        let taken = (0..1000)
            .filter(|&work| matches!(put(&mut mailbox, work, Class::Known, places), Put::In))
            .count();
        assert_eq!(taken, places - 4);
        let strangers = (0..1000)
            .filter(|&work| matches!(put(&mut mailbox, work, Class::Stranger, places), Put::In))
            .count();
        assert_eq!(strangers, 4);
    }

    #[test]
    fn what_is_dead_or_expired_takes_nobodys_turn() {
        let mut mailbox = Mailbox::default();
        let now = Instant::now();
        let later = now + limits::AUTH_DEADLINE + Duration::from_millis(1);
        for (work, since) in [(1, now), (2, later), (3, later)] {
            mailbox.put(work, Class::Known, since, capacity(9));
        }
        mailbox.put(4, Class::Stranger, later, capacity(9));
        let mut dropped = Vec::new();
        let taken = mailbox.take(later, |work| *work == 2, &mut dropped).unwrap();
        assert_eq!((taken.work, dropped), (3, vec![1, 2]));
        assert_eq!(mailbox.known_in_a_row, 1);
        assert_eq!(mailbox.len(), 1);
    }

    #[test]
    fn work_that_waited_to_the_deadline_is_still_done() {
        let mut mailbox = Mailbox::default();
        let now = Instant::now();
        mailbox.put(1, Class::Known, now, capacity(9));
        let taken = mailbox.take(now + limits::AUTH_DEADLINE, |_| false, &mut Vec::new()).unwrap();
        assert_eq!(taken.waited, limits::AUTH_DEADLINE);
    }

    #[test]
    fn spare_work_is_done_only_when_nobody_waits() {
        let free = Capacity { free: 1, places: 9 };
        let mut mailbox = Mailbox::default();
        assert!(matches!(mailbox.put_spare(1, free), Put::In));
        assert!(matches!(mailbox.put_spare(2, free), Put::Full(2)), "one at a time");
        assert_eq!(take(&mut mailbox), Some(1));

        assert!(matches!(mailbox.put_spare(3, Capacity { free: 0, places: 9 }), Put::Full(3)));
        assert!(matches!(mailbox.put_spare(4, free), Put::In));
        put(&mut mailbox, 5, Class::Stranger, 9);
        assert!(matches!(mailbox.put_spare(6, free), Put::Full(6)));
        let mut dropped = Vec::new();
        let taken = mailbox.take(Instant::now(), |_| false, &mut dropped).unwrap();
        assert_eq!((taken.work, dropped), (5, vec![4]));
    }

    #[test]
    fn at_most_a_second_of_work_waits() {
        let ms = Duration::from_millis;
        let (max, new) = (limits::AUTH_MAILBOX_PER_WORKER_MAX, Capacity::new);
        // Before the first hash only the absolute bound is known.
        assert_eq!(new(2, 0, Duration::ZERO), Capacity { free: 2, places: 2 * max });
        assert_eq!(new(2, 2, ms(1)), Capacity { free: 0, places: 2 * max });
        assert_eq!(new(1, 1, ms(100)), Capacity { free: 0, places: 10 });
        assert_eq!(new(3, 1, ms(400)), Capacity { free: 2, places: 6 });
        // One hash takes longer than anybody may wait: who finds a free worker is served.
        assert_eq!(new(2, 1, ms(1001)), Capacity { free: 1, places: 0 });
    }

    #[test]
    fn a_free_worker_takes_work_of_either_class() {
        for class in [Class::Known, Class::Stranger] {
            let mut mailbox = Mailbox::default();
            let capacity = Capacity { free: 1, places: 0 };
            assert!(
                matches!(mailbox.put(1, class, Instant::now(), capacity), Put::In),
                "{class:?}"
            );
            assert!(matches!(mailbox.put(2, class, Instant::now(), capacity), Put::Full(2)));
        }
    }

    proptest! {
        #[test]
        fn the_mailbox_is_bounded_and_loses_nothing(
            places in 0_usize..40,
            free in 0_usize..4,
            steps in prop::collection::vec((0_u8..4, any::<bool>()), 0..300),
        ) {
            let mut mailbox = Mailbox::default();
            let capacity = Capacity { free, places };
            let (mut put, mut gone) = (0_u32, 0_u32);
            for (step, known) in steps {
                if step == 0 {
                    let mut dropped = Vec::new();
                    gone += u32::from(mailbox.take(Instant::now(), |_| false, &mut dropped).is_some());
                    gone += u32::try_from(dropped.len()).unwrap();
                } else {
                    let class = if known { Class::Known } else { Class::Stranger };
                    put += 1;
                    let outcome = if step == 1 {
                        mailbox.put_spare(put, capacity)
                    } else {
                        mailbox.put(put, class, Instant::now(), capacity)
                    };
                    gone += u32::from(!matches!(outcome, Put::In));
                }
                prop_assert!(mailbox.len() <= free + places);
            }
            prop_assert_eq!(u32::try_from(mailbox.drain().count()).unwrap(), put - gone);
        }
    }
}
