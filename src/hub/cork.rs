//! When a fan-out is held back so that what comes next shares its writes. Pure: the caller brings
//! the time.
//!
//! A write costs about as much for eight messages as for one, so under load fewer writes are the one
//! big saving. Idle, a cork would only cost latency: a fan-out leaves at once as long as writing
//! takes less than half of the shard's time. From there on rounds of writing begin further apart, by
//! the whole of the budget that the operator named when writing takes three quarters of the time, and
//! by less again when it takes more: in a shard that always writes, messages wait for one another
//! anyway, and time in which it does nothing would be throughput lost. Replies are never corked, and
//! take along what waits before them.

use std::time::{Duration, Instant};

/// How much of the recent time counts: long beside a round, short beside a change of the load.
const MEMORY: Duration = Duration::from_millis(50);
/// The share of the time that writing may take before anything is held back.
const FREE_LOAD: f64 = 0.5;

/// Spaces the rounds of writing of one shard.
#[derive(Clone, Copy, Debug)]
pub struct Cork {
    /// The budget: what a message may wait for others at most.
    max: Duration,
    /// Share of the recent time that went into writing, from 0 to 1, as of `as_of`.
    load: f64,
    as_of: Instant,
    round_began: Instant,
}

impl Cork {
    /// A cork that has never held anything. A `max` of zero holds nothing, ever.
    #[must_use]
    pub const fn new(max: Duration, now: Instant) -> Self {
        Self { max, load: 0.0, as_of: now, round_began: now }
    }

    /// Until when the next round has to wait, if it may not begin now.
    #[must_use]
    pub fn holds_until(&self, now: Instant) -> Option<Instant> {
        let next = self.round_began + self.spacing(now);
        (next > now).then_some(next)
    }

    /// A round begins.
    pub const fn begin(&mut self, now: Instant) {
        self.round_began = now;
    }

    /// Writing went on from `from` to `to`.
    pub fn wrote(&mut self, from: Instant, to: Instant) {
        let busy = to.saturating_duration_since(from).as_secs_f64() / MEMORY.as_secs_f64();
        self.load = (self.load_at(to) + busy).min(1.0);
        self.as_of = to;
    }

    /// How far apart the beginnings of two rounds have to be now.
    fn spacing(&self, now: Instant) -> Duration {
        let over = ((self.load_at(now) - FREE_LOAD) / (1.0 - FREE_LOAD)).clamp(0.0, 1.0);
        self.max.mul_f64(4.0 * over * (1.0 - over))
    }

    fn load_at(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.as_of).as_secs_f64();
        self.load * (-passed / MEMORY.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_millis(5);
    const MS: Duration = Duration::from_millis(1);

    /// Rounds that take `busy` each, wanted `every` so long and begun when the cork lets them, which
    /// is asked all the time. Answers how far apart the last ones began.
    fn settle(cork: &mut Cork, start: Instant, busy: Duration, every: Duration) -> Duration {
        let (mut now, mut before) = (start, start);
        for _ in 0..1_000 {
            before = cork.round_began;
            cork.begin(now);
            cork.wrote(now, now + busy);
            now += every.max(busy);
            while cork.holds_until(now).is_some() {
                now += MS / 100;
            }
        }
        cork.round_began - before
    }

    #[test]
    fn a_lone_message_is_never_held() {
        let start = Instant::now();
        let mut cork = Cork::new(MAX, start);
        assert_eq!(cork.holds_until(start), None);
        // The reference load: rounds of 3 ms, 42 a second.
        assert_eq!(settle(&mut cork, start, 3 * MS, 24 * MS), 24 * MS);
    }

    #[test]
    fn under_load_rounds_move_apart_and_never_further_than_the_budget() {
        let start = Instant::now();
        let mut cork = Cork::new(MAX, start);
        let apart = settle(&mut cork, start, MS, MS);
        assert!((MS * 3 / 2..2 * MS).contains(&apart), "{apart:?}");
        // With all the budget of the world, writing is held to half of the time.
        let mut cork = Cork::new(Duration::from_secs(1), start);
        let apart = settle(&mut cork, start, MS, MS);
        assert!((MS * 9 / 5..MS * 11 / 5).contains(&apart), "{apart:?}");
    }

    #[test]
    fn a_round_that_takes_longer_than_the_budget_is_not_held() {
        let start = Instant::now();
        let mut cork = Cork::new(MAX, start);
        assert_eq!(settle(&mut cork, start, 8 * MS, 8 * MS), 8 * MS);
    }

    #[test]
    fn after_a_pause_the_load_is_forgotten() {
        let start = Instant::now();
        let mut cork = Cork::new(MAX, start);
        settle(&mut cork, start, MS, MS);
        let later = cork.round_began + 2 * MEMORY;
        assert_eq!(cork.holds_until(later), None);
    }

    #[test]
    fn without_a_budget_nothing_is_held() {
        let start = Instant::now();
        let mut cork = Cork::new(Duration::ZERO, start);
        assert_eq!(settle(&mut cork, start, MS, MS), MS);
    }
}
