//! The wall clock, for what others read: timestamps, epochs, the claims of tokens. Deadlines use
//! `Instant`, which nobody can set.

use std::time::{Duration, SystemTime};

/// Milliseconds since 1970 (UTC). 0 on a clock that stands before.
#[must_use]
pub fn unix_ms() -> u64 {
    u64::try_from(since_1970().as_millis()).unwrap_or(u64::MAX)
}

/// Seconds since 1970 (UTC). 0 on a clock that stands before.
#[must_use]
pub fn unix_s() -> u64 {
    since_1970().as_secs()
}

fn since_1970() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO)
}
