//! All connections were cut, and all users came back: what that took, as figures.

use crate::{outcome::Figures, server::observer::Sample, swarm::Returns};

/// The thread that carries every delivery, and those that carry the connections.
const HUB_THREAD: &str = "hub";
const EDGE_THREADS: &str = "edge";

/// Adds the figures `reconnect.…`, if anybody was cut off. Those of the server are of all its work
/// between the two samples, by users who came back.
pub(super) fn figures(
    returns: &Returns,
    samples: &[(Sample, Option<Sample>)],
    hashes_metric: &str,
    figures: &mut Figures,
) {
    if returns.cut == 0 {
        return;
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
    let [cut, resumed, replayed] =
        [returns.cut, returns.resumed, returns.replayed].map(|count| count as f64);
    let mut add = |name: &str, value: f64| {
        // What is divided by nothing is no figure.
        if value.is_finite() {
            figures.insert(format!("reconnect.{name}"), value);
        }
    };
    add("cut", cut);
    add("resumed", resumed);
    add("replayed", replayed);
    add("rate", resumed / returns.time.as_secs_f64());
    add("generator_us", returns.cpu.as_secs_f64() * 1e6 / resumed);
    let share = returns.cpu.as_secs_f64() / returns.time.as_secs_f64();
    add("generator_percent", share * 100.0);
    let pairs = || samples.iter().filter_map(|(began, back)| Some((began, back.as_ref()?)));
    let cpu: f64 = pairs().map(|(began, back)| back.cpu_since(began).as_secs_f64()).sum();
    if cpu > 0.0 {
        let of_threads = |name: &str| {
            let time = pairs().map(|(began, back)| back.threads_since(began, name));
            time.map(|it| it.as_secs_f64()).sum::<f64>()
        };
        add("server_us", cpu * 1e6 / resumed);
        add("hub_us", of_threads(HUB_THREAD) * 1e6 / resumed);
        add("edge_us", of_threads(EDGE_THREADS) * 1e6 / resumed);
    }
    let counted = |sample: &Sample| sample.counters.get(hashes_metric).copied();
    let hashes = pairs().map(|(began, back)| Some(counted(back)? - counted(began)?));
    if let Some(hashes) = hashes.sum::<Option<f64>>().filter(|_| pairs().next().is_some()) {
        add("hashes", hashes);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HASHES: &str = "auth_hashes";

    fn sample(cpu_ms: u64, hub_ms: u64, edge_ms: u64, hashes: Option<f64>) -> Sample {
        let threads = [("hub", hub_ms), ("edge", edge_ms), ("internal", 1)];
        let ms = |(name, ms): (&str, u64)| (name.to_owned(), Duration::from_millis(ms));
        Sample {
            cpu: Duration::from_millis(cpu_ms),
            threads: threads.map(ms).into(),
            counters: hashes.map(|it| (HASHES.to_owned(), it)).into_iter().collect(),
            ..Sample::default()
        }
    }

    fn returns() -> Returns {
        Returns {
            cut: 1_000,
            resumed: 900,
            replayed: 50,
            time: Duration::from_millis(300),
            cpu: Duration::from_millis(18),
        }
    }

    #[test]
    fn what_a_return_costs_is_told_by_user() {
        let mut figures_are = Figures::new();
        let pair = (sample(100, 10, 50, Some(3.0)), Some(sample(190, 28, 95, Some(4.0))));
        // The second time the run ended before all were back.
        figures(&returns(), &[pair, (sample(200, 30, 96, None), None)], HASHES, &mut figures_are);
        let expected = [
            ("cut", 1_000.0),
            ("resumed", 900.0),
            ("replayed", 50.0),
            ("rate", 3_000.0),
            ("generator_us", 20.0),
            ("generator_percent", 6.0),
            ("server_us", 100.0),
            ("hub_us", 20.0),
            ("edge_us", 50.0),
            ("hashes", 1.0),
        ];
        for (name, value) in expected {
            let is = figures_are.remove(&format!("reconnect.{name}")).unwrap();
            assert!((is - value).abs() < 1e-6, "{name}: {is}");
        }
        assert_eq!(figures_are, Figures::new());
    }

    #[test]
    fn what_nobody_saw_is_no_figure() {
        let mut none = Figures::new();
        figures(&Returns::default(), &[], HASHES, &mut none);
        assert_eq!(none, Figures::new(), "nobody was cut off");
        let pair = (sample(0, 0, 0, None), Some(sample(0, 0, 0, None)));
        figures(&Returns { resumed: 0, ..returns() }, &[pair], HASHES, &mut none);
        let kept: Vec<_> = none.keys().map(String::as_str).collect();
        let known = ["cut", "generator_percent", "rate", "replayed", "resumed"];
        assert_eq!(kept, known.map(|name| format!("reconnect.{name}")));
    }
}
