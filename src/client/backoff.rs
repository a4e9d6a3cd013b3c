//! How long to wait before the next attempt. Pure: the caller brings the randomness.

use std::time::Duration;

use crate::limits::{CLIENT_BACKOFF_MAX, CLIENT_BACKOFF_MIN, CLIENT_RETRY_AFTER_MAX};

/// The wait that a server asks for. 0 asks for none, and leaves it to the back-off: all who are told so
/// would come back at once, and again.
pub(super) fn asked_for(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms).min(CLIENT_RETRY_AFTER_MAX))
}

/// Exponential back-off with full jitter: the n-th wait is drawn evenly from zero up to a ceiling
/// that doubles from [`CLIENT_BACKOFF_MIN`] to a maximum. The jitter is full because clients of one
/// server lose their connections together, and must not come back together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    attempts: u32,
    max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::up_to(CLIENT_BACKOFF_MAX)
    }
}

impl Backoff {
    /// With another maximum than [`CLIENT_BACKOFF_MAX`].
    pub(super) fn up_to(max: Duration) -> Self {
        Self { attempts: 0, max }
    }

    /// The next wait. `uniform` is drawn evenly from 0 up to, not including, 1. What the server
    /// asked for wins: it knows how many others are waiting.
    pub(super) fn next(&mut self, uniform: f64, retry_after: Option<Duration>) -> Duration {
        let ceiling = self.ceiling();
        self.attempts = self.attempts.saturating_add(1);
        retry_after.unwrap_or_else(|| ceiling.mul_f64(uniform.clamp(0.0, 1.0)))
    }

    /// Begins anew, after a success.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }

    /// The most that the next wait can be.
    fn ceiling(self) -> Duration {
        // Past the sixth doubling the maximum rules, so the shift cannot overflow.
        (CLIENT_BACKOFF_MIN * (1 << self.attempts.min(6))).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{Backoff, asked_for};
    use crate::limits::{CLIENT_BACKOFF_MAX, CLIENT_BACKOFF_MIN, CLIENT_RETRY_AFTER_MAX};

    proptest! {
        #[test]
        fn a_wait_never_exceeds_its_ceiling(draws in prop::collection::vec(0.0..1.0_f64, 1..80)) {
            let mut backoff = Backoff::default();
            for (attempt, uniform) in draws.into_iter().enumerate() {
                let doublings = u32::try_from(attempt).unwrap().min(31);
                let ceiling = CLIENT_BACKOFF_MIN.saturating_mul(1 << doublings).min(CLIENT_BACKOFF_MAX);
                let wait = backoff.next(uniform, None);
                prop_assert!(wait <= ceiling, "attempt {attempt}: {wait:?}");
            }
        }

        #[test]
        fn what_the_server_asks_for_wins(millis in 0..600_000_u64, attempts in 0..40_u32) {
            let mut backoff = Backoff { attempts, ..Backoff::default() };
            let asked = Duration::from_millis(millis);
            prop_assert_eq!(backoff.next(0.5, Some(asked)), asked);
        }
    }

    #[test]
    fn a_wait_of_0_is_none_and_no_wait_is_for_ever() {
        assert_eq!(asked_for(0), None);
        assert_eq!(asked_for(1), Some(Duration::from_millis(1)));
        assert_eq!(asked_for(u64::MAX), Some(CLIENT_RETRY_AFTER_MAX));
    }

    #[test]
    fn waits_spread_over_the_whole_range_and_grow_to_the_maximum() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(0.0, None), Duration::ZERO);
        backoff.reset();
        let waits: Vec<_> = (0..8).map(|_| backoff.next(1.0, None).as_millis()).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000]);
        backoff.reset();
        assert_eq!(backoff.next(1.0, None), CLIENT_BACKOFF_MIN);
    }

    #[test]
    fn another_maximum_holds_from_the_first_wait_on() {
        let max = Duration::from_millis(50);
        let mut backoff = Backoff::up_to(max);
        assert_eq!([backoff.next(1.0, None), backoff.next(1.0, None)], [max, max]);
    }
}
