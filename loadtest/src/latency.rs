//! How long things took, in microseconds, and how that is told.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;

/// A longer wait counts as this one.
const LONGEST_US: u64 = 600_000_000;

/// A histogram of waits, exact to three digits.
#[derive(Clone, Debug)]
pub(crate) struct Latency(Histogram<u64>);

impl Latency {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_max(LONGEST_US, 3).expect("the bounds are constant and in range"))
    }

    pub(crate) fn record(&mut self, wait: Duration) {
        self.record_us(u64::try_from(wait.as_micros()).unwrap_or(LONGEST_US));
    }

    /// Hot.
    pub(crate) fn record_us(&mut self, us: u64) {
        self.0.saturating_record(us);
    }

    /// Adds all of another.
    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    pub(crate) fn clear(&mut self) {
        self.0.reset();
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// In milliseconds.
    pub(crate) fn percentile(&self, percentile: f64) -> f64 {
        ms(self.0.value_at_quantile(percentile / 100.0))
    }

    /// In milliseconds.
    pub(crate) fn max(&self) -> f64 {
        ms(self.0.max())
    }

    /// As the reference report prints it: p90, p95 and p99 in milliseconds.
    pub(crate) fn percentiles_ms(&self) -> [f64; 3] {
        [90.0, 95.0, 99.0].map(|it| self.percentile(it))
    }

    /// p50, p90, p95, p99 and the maximum in milliseconds; `None` if nothing was recorded.
    pub(crate) fn five(&self) -> Option<[f64; 5]> {
        let [p50, p90, p95, p99] = [50.0, 90.0, 95.0, 99.0].map(|it| self.percentile(it));
        (self.count() > 0).then_some([p50, p90, p95, p99, self.max()])
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let [p50, p90, p95, p99, p99_9] =
            [50.0, 90.0, 95.0, 99.0, 99.9].map(|it| self.percentile(it));
        format!(
            "p50 {p50:.2}  p90 {p90:.2}  p95 {p95:.2}  p99 {p99:.2}  p99.9 {p99_9:.2}  max {:.2} ms",
            self.max()
        )
    }

    /// Adds `{name}.count`, `{name}.p50`, … to the figures, unless nothing was recorded.
    pub(crate) fn figures(&self, name: &str, figures: &mut BTreeMap<String, f64>) {
        if self.count() == 0 {
            return;
        }
        let mut add = |what: &str, value: f64| figures.insert(format!("{name}.{what}"), value);
        #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
        add("count", self.count() as f64);
        for percentile in ["50", "90", "95", "99", "99.9", "99.99"] {
            let share = percentile.parse().expect("these are numbers");
            add(&format!("p{percentile}"), self.percentile(share));
        }
        add("max", self.max());
    }

    /// Points of the curve, `[quantile, ms]`, ever denser towards 1, which is the last.
    pub(crate) fn curve(&self) -> Vec<[f64; 2]> {
        let points = self.0.iter_quantiles(5);
        points.map(|point| [point.quantile(), ms(point.value_iterated_to())]).collect()
    }
}

/// Microseconds → milliseconds.
fn ms(us: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "at most ten minutes")]
    let us = us as f64;
    us / 1_000.0
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
        assert_eq!(latency.count(), 1);
        assert!(latency.percentile(50.0) >= 599_000.0);
    }

    #[test]
    fn nothing_recorded_is_no_figure() {
        let mut figures = BTreeMap::new();
        Latency::new().figures("ack", &mut figures);
        assert_eq!((figures.len(), Latency::new().five()), (0, None));
    }
}
