//! A storm of logins while others chat: what came of both, as figures.

use crate::{
    outcome::Figures,
    server::observer::Sample,
    swarm::{PartLatencies, Stormed},
};

/// What a storm may add to the chat's p99: a fifth of what it is without, or so many milliseconds, if
/// that is more.
const SHARE_ADDED_MAX: f64 = 0.2;
const MS_ADDED_MAX: f64 = 5.0;

/// The server at the moments that matter to a storm.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples {
    /// Memory when the users were there and no password had been hashed, and at most since.
    memory: Option<(u64, u64)>,
    pub(super) begins: Option<Sample>,
    pub(super) ends: Option<Sample>,
}

impl Samples {
    /// The users are there.
    pub(super) fn before(&mut self, sample: &Sample) {
        let bytes = sample.resident_bytes;
        self.memory = (bytes > 0).then_some((bytes, bytes));
    }

    pub(super) fn see(&mut self, sample: &Sample) {
        if let Some((_, most)) = &mut self.memory {
            *most = sample.resident_bytes.max(*most);
        }
    }
}

/// Adds the figures `storm.…`, `calm.…` and `server.rss_growth_bytes`.
pub(super) fn figures(
    stormed: &Stormed,
    parts: &PartLatencies,
    samples: &Samples,
    hashes_metric: &str,
    figures: &mut Figures,
) {
    parts.calm.figures("calm.deliver", figures);
    parts.storm.figures("storm.deliver", figures);
    stormed.login.figures("storm.login", figures);
    stormed.refusal.figures("storm.refusal", figures);
    let seconds = stormed.time.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
    let plain = |count: u64| count as f64;
    let mut add = |name: &str, value: f64| {
        // What is divided by nothing is no figure.
        if value.is_finite() {
            figures.insert(name.to_owned(), value);
        }
    };
    if parts.calm.count() > 0 && parts.storm.count() > 0 {
        let [calm, storm] = [&parts.calm, &parts.storm].map(|it| it.percentile(99.0));
        add("storm.deliver_excess", storm - calm - (calm * SHARE_ADDED_MAX).max(MS_ADDED_MAX));
    }
    let valid = plain(stormed.valid) / seconds;
    add("storm.capacity", stormed.capacity);
    add("storm.offered", plain(stormed.offered) / seconds);
    add("storm.valid", valid);
    add("storm.generator_percent", stormed.cpu.as_secs_f64() / seconds * 100.0);
    add("storm.valid_share", valid / stormed.capacity);
    let [too_many, overloaded] = stormed.refused;
    for (name, count) in [
        ("storm.denied", stormed.denied),
        ("storm.refused_429", too_many),
        ("storm.refused_503", overloaded),
        ("storm.other_answers", stormed.others),
        ("storm.unanswered", stormed.unanswered),
        ("storm.unsent", stormed.unsent),
        ("storm.wrong", stormed.wrong),
    ] {
        add(name, plain(count));
    }
    if let Some((before, most)) = samples.memory {
        add("server.rss_growth_bytes", plain(most - before));
    }
    if let (Some(begins), Some(ends)) = (&samples.begins, &samples.ends) {
        let hashes = |it: &Sample| it.counters.get(hashes_metric).copied();
        if let (Some(before), Some(after)) = (hashes(begins), hashes(ends)) {
            let hashes = (after - before) / seconds;
            add("storm.hashes", hashes);
            add("storm.valid_by_hashes", valid / hashes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::latency::Latency;

    fn latency(ms: u64) -> Latency {
        let mut latency = Latency::new();
        latency.record(Duration::from_millis(ms));
        latency
    }

    fn stormed() -> Stormed {
        Stormed {
            capacity: 60.0,
            time: Duration::from_secs(10),
            cpu: Duration::from_secs(1),
            offered: 12_000,
            unsent: 1,
            valid: 570,
            denied: 30,
            refused: [2, 11_000],
            others: 3,
            unanswered: 4,
            wrong: 5,
            login: latency(900),
            refusal: latency(7),
        }
    }

    fn parts(calm_ms: u64, storm_ms: u64) -> PartLatencies {
        let mut parts = PartLatencies::new(0..10, 20..30);
        parts.record(9, calm_ms * 1_000);
        // Before the storm, and after it.
        parts.record(10, 999_000);
        parts.record(30, 999_000);
        parts.record(20, storm_ms * 1_000);
        parts
    }

    fn told(parts: &PartLatencies, samples: &Samples) -> Figures {
        let mut told = Figures::new();
        figures(&stormed(), parts, samples, "auth_hashes", &mut told);
        told
    }

    #[test]
    fn a_storm_is_told_by_second_and_beside_what_the_server_can_do() {
        let told = told(&parts(20, 21), &Samples::default());
        for (name, value) in [
            ("storm.capacity", 60.0),
            ("storm.offered", 1_200.0),
            ("storm.valid", 57.0),
            ("storm.valid_share", 0.95),
            ("storm.generator_percent", 10.0),
            ("storm.refused_429", 2.0),
            ("storm.refused_503", 11_000.0),
            ("storm.wrong", 5.0),
            ("storm.login.count", 1.0),
        ] {
            assert!((told[name] - value).abs() < 1e-9, "{name}: {told:?}");
        }
        assert!(!told.contains_key("server.rss_growth_bytes"), "it was not seen");
    }

    #[test]
    fn the_chat_may_lose_a_fifth_or_five_milliseconds_and_what_is_beyond_is_told() {
        // 20 ms may become 25, and 100 ms 120.
        for (calm, storm, excess) in
            [(20, 21, -4.0), (20, 30, 5.0), (100, 119, -1.0), (100, 150, 30.0)]
        {
            let told = told(&parts(calm, storm), &Samples::default())["storm.deliver_excess"];
            // Histograms are exact to three digits.
            assert!((told - excess).abs() < 0.3, "{calm} {storm}: {told}");
        }
    }

    #[test]
    fn memory_grows_from_before_the_first_password_to_the_most_since() {
        let sample = |bytes, hashes: f64| Sample {
            resident_bytes: bytes,
            counters: [("auth_hashes".to_owned(), hashes)].into(),
            ..Sample::default()
        };
        let mut samples = Samples::default();
        samples.see(&sample(900, 0.0));
        samples.before(&sample(100, 0.0));
        samples.see(&sample(350, 0.0));
        samples.see(&sample(200, 0.0));
        (samples.begins, samples.ends) = (Some(sample(1, 40.0)), Some(sample(1, 640.0)));
        let told = told(&parts(1, 1), &samples);
        assert_eq!((told["server.rss_growth_bytes"], told["storm.hashes"]), (250.0, 60.0));
        assert!((told["storm.valid_by_hashes"] - 0.95).abs() < 1e-9, "{told:?}");
    }
}
