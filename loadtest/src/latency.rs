//! How long things took, in microseconds, and how that is told.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// A longer wait counts as this one.
const LONGEST_US: u64 = 60_000_000;

/// A histogram of waits, exact to three digits.
#[derive(Clone, Debug)]
pub(crate) struct Latency(Histogram<u64>);

impl Latency {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_max(LONGEST_US, 3).expect("the bounds are constant and in range"))
    }

    pub(crate) fn record(&mut self, wait: Duration) {
        let us = u64::try_from(wait.as_micros()).unwrap_or(LONGEST_US);
        self.0.saturating_record(us);
    }

    pub(crate) fn percentile_ms(&self, percentile: f64) -> f64 {
        round(self.0.value_at_quantile(percentile / 100.0))
    }

    /// As the reference report prints it: p90, p95 and p99.
    pub(crate) fn percentiles_ms(&self) -> [f64; 3] {
        [90.0, 95.0, 99.0].map(|it| self.percentile_ms(it))
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "count": self.0.len(),
            "p50_ms": self.percentile_ms(50.0),
            "p90_ms": self.percentile_ms(90.0),
            "p95_ms": self.percentile_ms(95.0),
            "p99_ms": self.percentile_ms(99.0),
            "p99_9_ms": self.percentile_ms(99.9),
            "max_ms": round(self.0.max()),
        })
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        format!(
            "p50 {:.2}  p90 {:.2}  p95 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2} ms",
            self.percentile_ms(50.0),
            self.percentile_ms(90.0),
            self.percentile_ms(95.0),
            self.percentile_ms(99.0),
            self.percentile_ms(99.9),
            round(self.0.max()),
        )
    }
}

/// Microseconds → milliseconds with two digits.
fn round(us: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "at most a minute")]
    let ms = us as f64 / 1_000.0;
    (ms * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_told_in_milliseconds() {
        let mut latency = Latency::new();
        (1..=1_000).for_each(|ms| latency.record(Duration::from_millis(ms)));
        let near = |told: f64, exact: f64| (told - exact).abs() <= exact / 1_000.0 * 2.0;
        let told = latency.percentiles_ms();
        assert!(near(told[0], 900.0) && near(told[1], 950.0) && near(told[2], 990.0), "{told:?}");
    }

    #[test]
    fn a_wait_beyond_the_longest_is_counted() {
        let mut latency = Latency::new();
        latency.record(Duration::from_secs(3_600));
        assert_eq!(latency.json()["count"], 1);
        assert!(latency.percentile_ms(50.0) >= 60_000.0);
    }
}
