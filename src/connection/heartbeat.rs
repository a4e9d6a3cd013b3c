//! Ping, pong and the end of a silent connection. Pure: the caller brings the time.

use std::time::{Duration, Instant};

use crate::limits::PING_JITTER_PERCENT;

/// Whether the other end is still there.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    interval: Duration,
    timeout: Duration,
    last_heard: Instant,
    /// A ping is out since then, and nothing has been heard after it.
    pinged: Option<Instant>,
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
        Self { interval: interval * percent / 100, timeout, last_heard: now, pinged: None }
    }

    /// Something came from the other end.
    pub const fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        self.pinged = None;
    }

    /// When to ask [`Heartbeat::beat`] next.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        match self.pinged {
            Some(pinged) => pinged + self.timeout,
            None => self.last_heard + self.interval,
        }
    }

    /// What is due. A [`Beat::Ping`] counts as sent.
    pub fn beat(&mut self, now: Instant) -> Beat {
        if now < self.deadline() {
            return Beat::Wait;
        }
        if self.pinged.is_some() {
            return Beat::Dead;
        }
        self.pinged = Some(now);
        Beat::Ping
    }
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
