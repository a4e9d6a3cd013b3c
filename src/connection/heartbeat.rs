//! Ping, pong and the end of a silent connection. Pure: the caller brings the time.

use std::time::{Duration, Instant};

use crate::limits::PING_JITTER_PERCENT;

/// Whether the other end is still there.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    interval_ms: u32,
    timeout_ms: u32,
    /// The last sign of life, or, if none has come since, the last ping.
    since: Instant,
    /// `since` is the last ping.
    is_pinged: bool,
}

/// What the heartbeat wants when its deadline passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beat {
    /// Nothing yet.
    Wait,
    /// A ping.
    Ping,
    /// An end: no sign of life came in time.
    Dead,
}

impl Heartbeat {
    /// A heartbeat that begins now. `spread` (any number) moves the interval by up to
    /// [`PING_JITTER_PERCENT`], so that connections do not ping together.
    #[must_use]
    pub fn new(interval: Duration, timeout: Duration, spread: u32, now: Instant) -> Self {
        let percent = 100 - PING_JITTER_PERCENT + spread % (2 * PING_JITTER_PERCENT + 1);
        Self {
            interval_ms: millis(interval * percent / 100),
            timeout_ms: millis(timeout),
            since: now,
            is_pinged: false,
        }
    }

    /// Something came from the other end.
    pub const fn heard(&mut self, now: Instant) {
        self.since = now;
        self.is_pinged = false;
    }

    /// When to ask [`Heartbeat::beat`] next.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let wait_ms = if self.is_pinged { self.timeout_ms } else { self.interval_ms };
        self.since + Duration::from_millis(wait_ms.into())
    }

    /// What is due. A [`Beat::Ping`] counts as sent.
    pub fn beat(&mut self, now: Instant) -> Beat {
        if now < self.deadline() {
            return Beat::Wait;
        }
        if self.is_pinged {
            return Beat::Dead;
        }
        self.since = now;
        self.is_pinged = true;
        Beat::Ping
    }
}

/// Seven weeks at the most.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(25);
    const TIMEOUT: Duration = Duration::from_secs(10);

    fn heartbeat(now: Instant) -> Heartbeat {
        Heartbeat::new(INTERVAL, TIMEOUT, PING_JITTER_PERCENT, now)
    }

    #[test]
    fn a_silent_connection_is_pinged_once_and_then_taken_for_dead() {
        let start = Instant::now();
        let mut heartbeat = heartbeat(start);
        assert_eq!(heartbeat.beat(start + INTERVAL - Duration::from_millis(1)), Beat::Wait);
        assert_eq!(heartbeat.beat(start + INTERVAL), Beat::Ping);
        assert_eq!(heartbeat.beat(start + INTERVAL + TIMEOUT / 2), Beat::Wait);
        assert_eq!(heartbeat.beat(start + INTERVAL + TIMEOUT), Beat::Dead);
    }

    #[test]
    fn whatever_comes_is_a_sign_of_life() {
        let start = Instant::now();
        let mut heartbeat = heartbeat(start);
        assert_eq!(heartbeat.beat(start + INTERVAL), Beat::Ping);
        heartbeat.heard(start + INTERVAL + TIMEOUT / 2);
        assert_eq!(heartbeat.beat(start + INTERVAL + TIMEOUT), Beat::Wait);
        assert_eq!(heartbeat.deadline(), start + INTERVAL + TIMEOUT / 2 + INTERVAL);
    }

    #[test]
    fn intervals_spread_to_both_sides_of_what_was_asked_for() {
        let now = Instant::now();
        let spreads = 0..1_000;
        let deadlines =
            spreads.map(|spread| Heartbeat::new(INTERVAL, TIMEOUT, spread, now).deadline() - now);
        let (min, max) = deadlines.fold((INTERVAL, INTERVAL), |(min, max), deadline| {
            (min.min(deadline), max.max(deadline))
        });
        assert_eq!((min, max), (Duration::from_secs(20), Duration::from_secs(30)));
    }
}
