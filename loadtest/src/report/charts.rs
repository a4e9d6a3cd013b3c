//! The plots of a run: what of it stands in which plot.

use super::{
    plot::{Ink, Line, Plot, X, Y, bars},
    words,
};
use crate::outcome::{Outcome, Second};

/// Plots that belong together, under one heading.
pub(super) struct Chart {
    pub(super) title: &'static str,
    /// What to look for.
    pub(super) note: &'static str,
    pub(super) panels: Vec<Panel>,
}

/// One plot.
pub(super) struct Panel {
    /// Empty where the chart's title says it.
    pub(super) name: &'static str,
    /// The lines, where there are several.
    pub(super) legend: Vec<(&'static str, Ink)>,
    /// The element.
    pub(super) svg: String,
}

impl Panel {
    fn new(name: &'static str, plot: &Plot<'_>) -> Self {
        let several = plot.lines.len() > 1;
        let legend = plot.lines.iter().filter(|_| several).map(|it| (it.name, it.ink)).collect();
        Self { name, legend, svg: plot.svg() }
    }
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
    let messages = vec![rate(outcome, "messages", Ink::One, |it| it.messages)];
    let deliveries = vec![rate(outcome, "deliveries", Ink::One, |it| it.deliveries)];
    let plot = |title, y_unit, lines| over_time(outcome, title, y_unit, 1.0, lines);
    let users = plot("Users over time", "users", users);
    let messages = plot("Messages per second over time", "messages/s", messages);
    let deliveries = plot("Deliveries per second over time", "deliveries/s", deliveries);
    Some(Chart {
        title: "Load",
        note: "What the users did, and how much the server delivered for it.",
        panels: vec![
            Panel::new("Users", &users),
            Panel::new("Messages per second", &messages),
            Panel::new("Deliveries per second", &deliveries),
        ],
    })
}

fn latency(outcome: &Outcome) -> Option<Chart> {
    let lines = |of: fn(&Second) -> Option<[f64; 5]>| {
        [("max", Ink::Four, 4), ("p99", Ink::Three, 3), ("p90", Ink::Two, 1), ("p50", Ink::One, 0)]
            .map(|(name, ink, at)| line(outcome, name, ink, move |it| of(it).map(|five| five[at])))
            .into()
    };
    let plot = |title: &'static str, lines: Vec<Line>| Plot {
        title,
        x: time(outcome),
        y_unit: "ms (log scale)",
        y: Y::Log { from: f64::MAX, to: f64::MIN_POSITIVE },
        height: 560,
        lines,
    };
    let deliver = plot("Delivery latency over time", lines(|it| it.deliver));
    let ack = plot("Acknowledgement latency over time", lines(|it| it.ack));
    let extents: Vec<_> = [deliver.extent(), ack.extent()].into_iter().flatten().collect();
    let from = extents.iter().map(|it| it.0).reduce(f64::min)?;
    let to = extents.iter().map(|it| it.1).reduce(f64::max)?;
    // One scale for both, so that they can be compared.
    let y = Y::Log { from, to };
    Some(Chart {
        title: "Latency over time",
        note: "From the moment at which a message was due, by the second in which it came. Both plots have the same scale.",
        panels: vec![
            Panel::new("Delivery", &Plot { y, ..deliver }),
            Panel::new("Acknowledgement", &Plot { y, ..ack }),
        ],
    })
}

fn curves(outcome: &Outcome) -> Option<Chart> {
    /// A linear scale would show nothing but the tail of what varies more than this.
    const LINEAR_RATIO_MAX: f64 = 200.0;
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
    let title = "Latency by percentile";
    let y = Y::Linear { at_least: 0.1 };
    let mut plot = Plot { title, x: X::Percentile, y_unit: "ms", y, height: 640, lines };
    let (from, to) = plot.extent()?;
    if to > LINEAR_RATIO_MAX * from.max(0.01) {
        plot.y = Y::Log { from, to };
        plot.y_unit = "ms (log scale)";
    }
    Some(Chart {
        title,
        note: "On the plateau. The end of each line is its maximum.",
        panels: vec![Panel::new("", &plot)],
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
    let title = "CPU of server and generator over time";
    Some(Chart {
        title: "CPU",
        note: "A generator near 100 % of its core measures itself and not the server.",
        panels: vec![Panel::new("", &over_time(outcome, title, "% of a core", 100.0, lines))],
    })
}

fn memory(outcome: &Outcome) -> Option<Chart> {
    outcome.seconds.iter().find_map(|it| it.server_rss_bytes)?;
    let mebibytes = |it: &Second| it.server_rss_bytes.map(|it| words::count(it) / 1_048_576.0);
    let lines = vec![line(outcome, "RSS", Ink::One, mebibytes)];
    let title = "Memory of the server over time";
    Some(Chart {
        title: "Memory of the server",
        note: "Resident set size.",
        panels: vec![Panel::new("", &over_time(outcome, title, "MiB", 1.0, lines))],
    })
}

fn errors(outcome: &Outcome) -> Option<Chart> {
    outcome.seconds.iter().find(|it| it.errors + it.reconnects > 0)?;
    let lines = vec![
        rate(outcome, "reconnects", Ink::One, |it| it.reconnects),
        rate(outcome, "errors", Ink::Two, |it| it.errors),
    ];
    let title = "Errors and reconnects over time";
    Some(Chart {
        title: "Errors and reconnects",
        note: "Failed attempts and closed connections, and users who came back.",
        panels: vec![Panel::new("", &over_time(outcome, title, "per second", 4.0, lines))],
    })
}

fn threads(outcome: &Outcome) -> Option<Chart> {
    /// Those that do less are not of interest.
    const THREADS_MAX: usize = 24;
    let mut threads: Vec<_> =
        outcome.server_threads.iter().map(|(name, percent)| (name.as_str(), *percent)).collect();
    if threads.is_empty() {
        return None;
    }
    threads.sort_by(|a, b| b.1.total_cmp(&a.1));
    threads.truncate(THREADS_MAX);
    let svg = bars("CPU of the server's threads on the plateau, in percent of a core", &threads);
    Some(Chart {
        title: "Threads of the server",
        note: "CPU on the plateau, in percent of a core.",
        panels: vec![Panel { name: "", legend: Vec::new(), svg }],
    })
}

fn time(outcome: &Outcome) -> X<'_> {
    X::Time { phases: &outcome.phases, chaos: &outcome.chaos }
}

/// A plot over time from 0 to at least this.
fn over_time<'a>(
    outcome: &'a Outcome,
    title: &'a str,
    y_unit: &'a str,
    at_least: f64,
    lines: Vec<Line>,
) -> Plot<'a> {
    Plot { title, x: time(outcome), y_unit, y: Y::Linear { at_least }, height: 420, lines }
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
        (second.at, Some(words::count(count(second)) / length))
    });
    Line { name, ink, points: points.collect() }
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
