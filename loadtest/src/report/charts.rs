//! The plots of a run: what of it stands in which plot.

use super::plot::{Ink, Line, Plot, X, Y, bars};
use crate::outcome::{Outcome, Second};

/// Plots that belong together, under one heading.
pub(super) struct Chart {
    pub(super) title: &'static str,
    /// What to look for.
    pub(super) note: &'static str,
    /// The lines, where there are several.
    pub(super) legend: Vec<(&'static str, Ink)>,
    /// The elements, with the name of each where there are several.
    pub(super) svgs: Vec<(&'static str, String)>,
}

/// All plots that this run has something for.
pub(super) fn of(outcome: &Outcome) -> Vec<Chart> {
    let charts = [
        load(outcome),
        latency(outcome),
        curves(outcome),
        cpu(outcome),
        memory(outcome),
        errors(outcome),
        threads(outcome),
    ];
    charts.into_iter().flatten().collect()
}

fn load(outcome: &Outcome) -> Option<Chart> {
    if outcome.seconds.is_empty() {
        return None;
    }
    let users = vec![
        line(outcome, "connected", Ink::One, |it| Some(it.connected.into())),
        line(outcome, "active", Ink::Two, |it| Some(it.active.into())),
    ];
    let legend = legend(&users);
    let messages = vec![rate(outcome, "messages", Ink::Three, |it| it.messages)];
    let deliveries = vec![rate(outcome, "deliveries", Ink::Four, |it| it.deliveries)];
    let y = Y::Linear { at_least: 1.0 };
    Some(Chart {
        title: "Load",
        note: "What the users did, and how much the server delivered for it.",
        legend,
        svgs: vec![
            ("Users", over_time(outcome, "Users over time", "users", y, users, 420)),
            (
                "Messages per second",
                over_time(outcome, "Messages per second over time", "messages/s", y, messages, 380),
            ),
            (
                "Deliveries per second",
                over_time(
                    outcome,
                    "Deliveries per second over time",
                    "deliveries/s",
                    y,
                    deliveries,
                    380,
                ),
            ),
        ],
    })
}

fn latency(outcome: &Outcome) -> Option<Chart> {
    let lines = |of: fn(&Second) -> Option<[f64; 5]>| {
        // The tail is what people feel: it has the strongest line.
        [("max", Ink::Four, 4), ("p99", Ink::Three, 3), ("p90", Ink::Two, 1), ("p50", Ink::One, 0)]
            .map(|(name, ink, at)| line(outcome, name, ink, move |it| of(it).map(|five| five[at])))
            .into()
    };
    let plot = |title: &'static str, lines: Vec<Line>, y| Plot {
        title,
        x: time(outcome),
        y_unit: "ms (log scale)",
        y,
        height: 560,
        lines,
    };
    let auto = Y::Log { from: f64::MAX, to: f64::MIN_POSITIVE };
    let deliver = plot("Delivery latency over time", lines(|it| it.deliver), auto);
    let ack = plot("Acknowledgement latency over time", lines(|it| it.ack), auto);
    let extents: Vec<_> = [deliver.extent(), ack.extent()].into_iter().flatten().collect();
    let from = extents.iter().map(|it| it.0).reduce(f64::min)?;
    let to = extents.iter().map(|it| it.1).reduce(f64::max)?;
    // One scale for both, so that they can be compared.
    let y = Y::Log { from, to };
    Some(Chart {
        title: "Latency over time",
        note: "From the moment at which a message was due: to each of its receivers above, to its acknowledgement below, on the same scale.",
        legend: legend(&deliver.lines).into_iter().rev().collect(),
        svgs: vec![
            ("Delivery", Plot { y, ..deliver }.svg()),
            ("Acknowledgement", Plot { y, ..ack }.svg()),
        ],
    })
}

fn curves(outcome: &Outcome) -> Option<Chart> {
    let known =
        [("last", Ink::Four), ("deliver", Ink::Three), ("first", Ink::Two), ("ack", Ink::One)];
    let lines: Vec<_> = known
        .into_iter()
        .filter_map(|(name, ink)| {
            let curve = outcome.curves.get(name)?;
            let points = curve.iter().map(|&[quantile, ms]| (quantile, Some(ms))).collect();
            Some(Line { name, ink, points })
        })
        .filter(|line| !line.points.is_empty())
        .collect();
    if lines.is_empty() {
        return None;
    }
    let legend = legend(&lines);
    let y = Y::Linear { at_least: 1.0 };
    let title = "Latency by percentile";
    let plot = Plot { title, x: X::Percentile, y_unit: "ms", y, height: 640, lines };
    Some(Chart {
        title,
        note: "On the plateau. A line that turns up at the right has a tail: few messages, but long waits. The end of each line is its maximum.",
        legend,
        svgs: vec![("", plot.svg())],
    })
}

fn cpu(outcome: &Outcome) -> Option<Chart> {
    if outcome.seconds.is_empty() {
        return None;
    }
    let lines = vec![
        line(outcome, "server", Ink::One, |it| it.server_cpu),
        line(outcome, "generator", Ink::Two, |it| Some(it.generator_cpu)),
    ];
    let legend = legend(&lines);
    let y = Y::Linear { at_least: 100.0 };
    let svg =
        over_time(outcome, "CPU of server and generator over time", "% of a core", y, lines, 440);
    Some(Chart {
        title: "CPU",
        note: "A generator near 100 % of its core measures itself and not the server.",
        legend,
        svgs: vec![("", svg)],
    })
}

fn memory(outcome: &Outcome) -> Option<Chart> {
    let mebibytes =
        |it: &Second| it.server_rss_bytes.map(|it| super::words::count(it) / 1_048_576.0);
    let lines = vec![line(outcome, "RSS", Ink::One, mebibytes)];
    lines[0].points.iter().find(|point| point.1.is_some())?;
    let y = Y::Linear { at_least: 1.0 };
    let svg = over_time(outcome, "Memory of the server over time", "MiB", y, lines, 380);
    Some(Chart {
        title: "Memory of the server",
        note: "Resident set size.",
        legend: Vec::new(),
        svgs: vec![("", svg)],
    })
}

fn errors(outcome: &Outcome) -> Option<Chart> {
    outcome.seconds.iter().find(|it| it.errors + it.reconnects > 0)?;
    let lines = vec![
        rate(outcome, "errors", Ink::Four, |it| it.errors),
        rate(outcome, "reconnects", Ink::One, |it| it.reconnects),
    ];
    let legend = legend(&lines);
    let y = Y::Linear { at_least: 4.0 };
    let svg = over_time(outcome, "Errors and reconnects over time", "per second", y, lines, 400);
    Some(Chart {
        title: "Errors and reconnects",
        note: "Failed attempts and closed connections, and users who came back.",
        legend,
        svgs: vec![("", svg)],
    })
}

fn threads(outcome: &Outcome) -> Option<Chart> {
    let mut threads: Vec<_> =
        outcome.server_threads.iter().map(|(name, percent)| (name.as_str(), *percent)).collect();
    if threads.is_empty() {
        return None;
    }
    threads.sort_by(|a, b| b.1.total_cmp(&a.1));
    threads.truncate(24);
    let svg = bars("CPU of the server's threads on the plateau, in percent of a core", &threads);
    Some(Chart {
        title: "Threads of the server",
        note: "On the plateau, in percent of a core.",
        legend: Vec::new(),
        svgs: vec![("", svg)],
    })
}

fn time(outcome: &Outcome) -> X<'_> {
    X::Time { phases: &outcome.phases, chaos: &outcome.chaos }
}

fn over_time(
    outcome: &Outcome,
    title: &str,
    y_unit: &str,
    y: Y,
    lines: Vec<Line>,
    height: u32,
) -> String {
    Plot { title, x: time(outcome), y_unit, y, height, lines }.svg()
}

fn line(
    outcome: &Outcome,
    name: &'static str,
    ink: Ink,
    value: impl Fn(&Second) -> Option<f64>,
) -> Line {
    let points = outcome.seconds.iter().map(|second| (second.at, value(second))).collect();
    Line { name, ink, points }
}

/// A count of each second, by how long that second was: the last one may be short.
fn rate(outcome: &Outcome, name: &'static str, ink: Ink, count: impl Fn(&Second) -> u64) -> Line {
    let before = std::iter::once(0.0).chain(outcome.seconds.iter().map(|it| it.at));
    let points = outcome.seconds.iter().zip(before).map(|(second, before)| {
        let length = if second.at - before > 0.05 { second.at - before } else { 1.0 };
        (second.at, Some(super::words::count(count(second)) / length))
    });
    Line { name, ink, points: points.collect() }
}

fn legend(lines: &[Line]) -> Vec<(&'static str, Ink)> {
    lines.iter().map(|line| (line.name, line.ink)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    fn titles(outcome: &Outcome) -> Vec<&'static str> {
        of(outcome).iter().map(|it| it.title).collect()
    }

    #[test]
    fn a_run_without_errors_has_no_plot_of_them() {
        let mut outcome = example::outcome();
        assert!(titles(&outcome).contains(&"Errors and reconnects"));
        for second in &mut outcome.seconds {
            (second.errors, second.reconnects) = (0, 0);
        }
        assert!(!titles(&outcome).contains(&"Errors and reconnects"));
    }

    #[test]
    fn what_was_not_measured_has_no_plot() {
        let mut outcome = example::outcome();
        outcome.seconds.clear();
        outcome.curves.clear();
        outcome.server_threads.clear();
        assert!(titles(&outcome).is_empty());
    }

    #[test]
    fn a_rate_counts_by_the_length_of_its_second() {
        let mut outcome = example::outcome();
        let second = |at, messages| Second { at, messages, ..Second::default() };
        outcome.seconds = vec![second(1.0, 10), second(1.5, 10)];
        let rate = rate(&outcome, "messages", Ink::One, |it| it.messages);
        assert_eq!(rate.points, [(1.0, Some(10.0)), (1.5, Some(20.0))]);
    }
}
