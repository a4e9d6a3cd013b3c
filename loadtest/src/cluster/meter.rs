//! What acknowledgements tell while servers break: how long none came, how fast the others were, and
//! which hub works again. Pure: the caller brings the time.

use std::time::{Duration, Instant};

use crate::latency::Latency;

/// The longest time without an acknowledgement since it was begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stall {
    last: Instant,
    longest: Duration,
}

impl Stall {
    pub(super) const fn begin(now: Instant) -> Self {
        Self { last: now, longest: Duration::ZERO }
    }

    fn acknowledged(&mut self, now: Instant) {
        self.longest = self.so_far(now);
        self.last = now;
    }

    /// With what goes on now.
    pub(super) fn so_far(&self, now: Instant) -> Duration {
        self.longest.max(now.saturating_duration_since(self.last))
    }
}

/// All acknowledgements.
#[derive(Debug)]
pub(super) struct Meter {
    /// From the call to the answer.
    pub(super) acks: Latency,
    /// Of anybody, in any channel.
    pub(super) anywhere: Stall,
    /// Of anybody, in the first channel, which is the hot one.
    pub(super) hot: Stall,
    /// When the newest publish into the hot channel was begun that each hub has acknowledged.
    hubs: Vec<Option<Instant>>,
}

/// The number of the hot channel.
pub(super) const HOT: usize = 0;

impl Meter {
    pub(super) fn new(hubs: usize, now: Instant) -> Self {
        let stall = Stall::begin(now);
        Self { acks: Latency::new(), anywhere: stall, hot: stall, hubs: vec![None; hubs] }
    }

    /// A publish through this hub was acknowledged.
    pub(super) fn acknowledged(
        &mut self,
        hub: usize,
        channel: usize,
        begun: Instant,
        now: Instant,
    ) {
        self.acks.record(now.saturating_duration_since(begun));
        self.anywhere.acknowledged(now);
        if channel == HOT {
            self.hot.acknowledged(now);
            self.hubs[hub] = self.hubs[hub].max(Some(begun));
        }
    }

    /// Another cycle begins.
    pub(super) fn begin(&mut self, now: Instant) {
        (self.anywhere, self.hot) = (Stall::begin(now), Stall::begin(now));
    }

    /// The first hub that has not acknowledged a publish that was begun after this moment.
    pub(super) fn is_missing(&self, since: Instant) -> Option<usize> {
        self.hubs.iter().position(|newest| newest.is_none_or(|newest| newest < since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_stall_is_the_longest_wait_and_one_that_goes_on_counts() {
        let zero = Instant::now();
        let mut stall = Stall::begin(zero);
        assert_eq!(stall.so_far(zero + ms(7)), ms(7), "nothing came at all");
        for at in [10, 40, 45] {
            stall.acknowledged(zero + ms(at));
        }
        assert_eq!(stall.so_far(zero + ms(50)), ms(30));
        assert_eq!(stall.so_far(zero + ms(90)), ms(45));
    }

    #[test]
    fn a_hub_is_back_when_it_acknowledges_what_was_begun_since() {
        let zero = Instant::now();
        let mut meter = Meter::new(2, zero);
        meter.acknowledged(0, HOT, zero + ms(5), zero + ms(9));
        // It was begun before, and comes late.
        meter.acknowledged(1, HOT, zero, zero + ms(9));
        meter.acknowledged(1, HOT + 1, zero + ms(6), zero + ms(9));
        assert_eq!(meter.is_missing(zero + ms(3)), Some(1));
        meter.acknowledged(1, HOT, zero + ms(3), zero + ms(10));
        assert_eq!(meter.is_missing(zero + ms(3)), None);
        // A later answer to an earlier publish takes nothing back.
        meter.acknowledged(1, HOT, zero + ms(1), zero + ms(11));
        assert_eq!(meter.is_missing(zero + ms(3)), None);
    }

    #[test]
    fn other_channels_do_not_hide_a_stall_of_the_hot_one() {
        let zero = Instant::now();
        let mut meter = Meter::new(1, zero);
        meter.acknowledged(0, HOT, zero, zero + ms(1));
        meter.acknowledged(0, HOT + 1, zero, zero + ms(50));
        let now = zero + ms(60);
        assert_eq!((meter.anywhere.so_far(now), meter.hot.so_far(now)), (ms(49), ms(59)));
        meter.begin(now);
        assert_eq!(meter.hot.so_far(now), Duration::ZERO);
    }
}
