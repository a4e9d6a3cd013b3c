//! How often a user may ask for what is not in the log, through both doors together. Pure: the caller
//! brings the time.

use std::time::Instant;

use crate::{
    buckets::{Buckets, Rate},
    limits::{ALLOWANCES_MAX, Limits},
    log::place::UserId,
    wire::{code::ErrorCode, encode::Refusal},
};

/// What is left of each user's allowance, at most [`ALLOWANCES_MAX`] of them.
#[derive(Debug)]
pub struct Allowance(Buckets<UserId>);

impl Allowance {
    /// Everybody has all of what these limits allow, which is at least one command.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let (per_second, burst) =
            (limits.ephemeral_per_second.max(1), limits.ephemeral_burst.max(1));
        let rate = Rate::new(per_second.into(), burst).expect("both are above 0");
        Self(Buckets::new(rate, ALLOWANCES_MAX))
    }

    /// Takes one command of a user out of it.
    ///
    /// # Errors
    /// When there is none left: `rate_limited`, and when there is one again.
    pub fn take(&mut self, user: UserId, now: Instant) -> Result<(), Refusal> {
        self.0.take(user, now).map_err(|refill| {
            let ms = refill.retry_after.as_nanos().div_ceil(1_000_000);
            let retry_after_ms = u32::try_from(ms).unwrap_or(u32::MAX);
            Refusal { retry_after_ms, ..ErrorCode::RateLimited.into() }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_user_has_a_burst_and_then_a_rate_and_others_have_their_own() {
        let mut allowance = Allowance::new(&Limits::default());
        let now = Instant::now();
        for _ in 0..20 {
            allowance.take(UserId(1), now).unwrap();
        }
        let refusal = allowance.take(UserId(1), now).unwrap_err();
        assert_eq!((refusal.code, refusal.retry_after_ms), (ErrorCode::RateLimited, 200));
        allowance.take(UserId(2), now).unwrap();
        let again = now + Duration::from_millis(refusal.retry_after_ms.into());
        allowance.take(UserId(1), again).unwrap();
        assert_eq!(allowance.take(UserId(1), again).unwrap_err().retry_after_ms, 200);
    }
}
