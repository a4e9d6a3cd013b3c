//! Numbers, names and verdicts as people read them: the same ones in the view, the summary and the
//! page.

use crate::{
    outcome::{Figures, Outcome},
    scenario::{Publish, Scenario, schedule::Phase},
    swarm::{body::BodyKind, encoding::Encoding},
};

/// The latencies in the order in which a user meets them: the figure's name, and what it means.
pub(super) const LATENCIES: [(&str, &str); 12] = [
    ("handshake", "connect to upgraded"),
    ("login", "password to token"),
    ("subscribe", "command to reply"),
    ("reconnect", "cut off: connect to subscribed again"),
    ("storm.login", "storm: due to token"),
    ("storm.refusal", "storm: due to refused"),
    ("calm.deliver", "due to each receiver, before the storm"),
    ("storm.deliver", "due to each receiver, in the storm"),
    ("ack", "due to acknowledged"),
    ("first", "due to the first receiver"),
    ("last", "due to the last receiver"),
    ("deliver", "due to each receiver"),
];

/// The columns of a latency.
pub(super) const COLUMNS: [&str; 7] = ["p50", "p90", "p95", "p99", "p99.9", "p99.99", "max"];

/// Figures of the server: the figure's name, and what people call it.
pub(super) const SERVER: [(&str, &str); 13] = [
    ("server.cpu_percent", "CPU (100 %: one core)"),
    ("server.hub_percent", "CPU of the hub (100 %: one core)"),
    ("server.cpu_us_per_delivery", "CPU per delivery"),
    ("server.hub_us_per_delivery", "CPU of the hub per delivery"),
    ("server.rss_bytes", "memory on the plateau (RSS)"),
    ("server.rss_bytes_max", "memory at most (RSS)"),
    ("server.bytes_per_connection", "memory per connection"),
    ("server.bytes_per_further_connection", "memory per connection beyond 1,000"),
    ("server.context_switches_per_s", "context switches per second"),
    ("server.fsyncs_per_s", "fsyncs per second"),
    ("server.messages_per_batch", "messages per batch"),
    ("server.wire_bytes_per_delivery", "bytes on the wire per delivery"),
    ("server.deliveries_per_write", "deliveries per write"),
];

/// Figures of users who were cut off: the figure's name, and what people call it.
pub(super) const RECONNECT: [(&str, &str); 10] = [
    ("reconnect.cut", "connections cut"),
    ("reconnect.resumed", "users back in their channels"),
    ("reconnect.rate", "users back per second"),
    ("reconnect.replayed", "messages replayed to them"),
    ("reconnect.hashes", "passwords hashed meanwhile"),
    ("reconnect.server_us", "CPU of the server for each, µs"),
    ("reconnect.hub_us", "of these in the hub"),
    ("reconnect.edge_us", "of these in the edge"),
    ("reconnect.generator_us", "CPU of the generator for each, µs"),
    ("reconnect.generator_percent", "CPU of the generator meanwhile"),
];

/// Figures of a storm of logins: the figure's name, and what people call it.
pub(super) const STORM: [(&str, &str); 16] = [
    ("storm.capacity", "valid logins/s without it"),
    ("storm.offered", "logins due/s"),
    ("storm.valid", "valid logins/s"),
    ("storm.valid_share", "valid logins by those without it"),
    ("storm.hashes", "passwords hashed/s"),
    ("storm.valid_by_hashes", "valid logins by these"),
    ("storm.denied", "unknown users, told so"),
    ("storm.refused_429", "refused with 429"),
    ("storm.refused_503", "refused with 503"),
    ("storm.other_answers", "other answers"),
    ("storm.unanswered", "without an answer"),
    ("storm.unsent", "due but not sent"),
    ("storm.wrong", "wrong answers"),
    ("storm.deliver_excess", "p99 of deliveries beyond bounds"),
    ("storm.generator_percent", "CPU of the generator meanwhile"),
    ("server.rss_growth_bytes", "memory grown by logins (RSS)"),
];

/// Figures of the generator: the figure's name, and what people call it.
pub(super) const GENERATOR: [(&str, &str); 5] = [
    ("generator.cpu_percent", "CPU (100 %: one core)"),
    ("generator.lag.p99", "lag behind the schedule, p99"),
    ("generator.lag.max", "lag behind the schedule, max"),
    ("unsent", "messages due but not sent"),
    ("generator.dropped_samples", "samples dropped"),
];

/// p90, p95 and p99 that the reference report reached with as many users, on a machine of its own:
/// protobuf, no compression, not pinned.
pub(super) fn reference(scenario: &Scenario) -> Option<[u32; 3]> {
    if !scenario.name.starts_with("reference-") {
        return None;
    }
    match scenario.users {
        250 => Some([125, 156, 215]),
        325 => Some([164, 188, 221]),
        400 => Some([351, 446, 590]),
        425 => Some([481, 570, 768]),
        _ => None,
    }
}

/// Whether a run passed, and why.
pub(super) struct Verdict {
    pub(super) passed: bool,
    /// A sentence or two.
    pub(super) why: String,
}

impl Verdict {
    pub(super) fn of(outcome: &Outcome) -> Self {
        let broken: Vec<_> = outcome.thresholds.iter().filter(|it| !it.holds).collect();
        let all = outcome.thresholds.len();
        let thresholds = match (all, broken.as_slice()) {
            (0, _) => "No threshold was set".to_owned(),
            (1, []) => "The one threshold holds".to_owned(),
            (_, []) => format!("All {all} thresholds hold"),
            (1, [_]) => "The one threshold does not hold".to_owned(),
            (_, [one]) => format!("Of {all} thresholds, {} does not hold", one.text),
            (_, some) => format!("{} of {all} thresholds do not hold", some.len()),
        };
        let audit = match outcome.violations {
            0 => "the audit found no violation".to_owned(),
            1 => "the audit found 1 violation".to_owned(),
            violations => format!("the audit found {} violations", grouped(count(violations))),
        };
        let passed = broken.is_empty() && outcome.violations == 0;
        Self { passed, why: format!("{thresholds}, and {audit}.") }
    }

    pub(super) fn word(&self) -> &'static str {
        if self.passed { "Passed" } else { "Failed" }
    }
}

/// ✓ or ✗.
pub(super) fn mark(holds: bool) -> &'static str {
    if holds { "✓" } else { "✗" }
}

pub(super) fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Login => "logins",
        Phase::Idle => "idle",
        Phase::RampUp => "ramp-up",
        Phase::Plateau => "plateau",
        Phase::RampDown => "ramp-down",
        Phase::Drain => "drain",
        Phase::Audit => "audit",
    }
}

/// What the users do, in one line.
pub(super) fn workload(scenario: &Scenario) -> String {
    let people = |number: u32, one: &str| {
        let plural = if number == 1 { "" } else { "s" };
        format!("{} {one}{plural}", grouped(number.into()))
    };
    let place = match (scenario.channels, scenario.channels_per_user) {
        (1, _) => "in one channel".to_owned(),
        (channels, own) => format!("in {own} of {} channels each", grouped(channels.into())),
    };
    let who = match scenario.publishers {
        None => "each".to_owned(),
        Some(publishers) => format!("{} of them", grouped(publishers.into())),
    };
    let publish = match scenario.publish {
        Publish::Nothing => "nobody publishes".to_owned(),
        Publish::Paced { rate_per_user } => {
            format!("{who} publishing {} messages/s (open model)", plain(rate_per_user))
        }
        Publish::Open { rate } => {
            format!("{} messages/s in all (open model)", plain(rate))
        }
        Publish::Closed { think_time } => format!(
            "{who} publishing {} after each acknowledgement (closed model)",
            humantime::format_duration(think_time)
        ),
        Publish::Window { publishes } => {
            let ending = if publishes == 1 { "" } else { "es" };
            format!("{who} with {publishes} publish{ending} under way (closed model)")
        }
    };
    let kind = match scenario.body {
        BodyKind::Filler => "",
        BodyKind::Json => " of JSON",
    };
    let encoding = match scenario.encoding {
        Encoding::Proto => "",
        Encoding::Json => ", in JSON",
    };
    let deflate = if scenario.deflate { ", compressed" } else { "" };
    let body = format!("bodies{kind} of {} bytes{encoding}{deflate}", scenario.body_bytes);
    format!("{} {place}, {publish}, {body}", people(scenario.users, "user"))
}

/// A figure with its unit, which its name tells.
pub(super) fn figure(name: &str, value: f64) -> String {
    let last = name.rsplit_once('.').map_or(name, |(_, last)| last);
    let is_wait = last == "max"
        || name
            .split_once(".p")
            .is_some_and(|(_, rest)| rest.starts_with(|it: char| it.is_ascii_digit()));
    if is_wait {
        format!("{} ms", ms(value))
    } else if last.ends_with("_percent") {
        format!("{value:.1} %")
    } else if last.contains("_us_") {
        format!("{} µs", number(value))
    } else if last.contains("bytes") {
        bytes(value)
    } else {
        number(value)
    }
}

/// The rows of these figures that a run has.
pub(super) fn rows(
    figures: &Figures,
    names: &[(&str, &'static str)],
) -> Vec<(&'static str, String)> {
    let row = |&(name, label): &(&str, &'static str)| {
        figures.get(name).map(|&value| (label, figure(name, value)))
    };
    names.iter().filter_map(row).collect()
}

/// The figure that a threshold is about: what stands before the comparison.
pub(super) fn threshold_figure(text: &str) -> &str {
    text.split(['<', '>', '=', '!']).next().unwrap_or(text).trim()
}

/// Milliseconds, without the unit.
pub(super) fn ms(value: f64) -> String {
    match value.abs() {
        large if large >= 1_000.0 => grouped(value),
        large if large >= 100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// As many digits as help.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => grouped(value),
        large if large >= 10.0 && value.fract() != 0.0 => format!("{value:.1}"),
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

/// A setting as it was written: `0.1`, `18000`.
fn plain(value: f64) -> String {
    if value >= 10_000.0 && value.fract() == 0.0 { grouped(value) } else { value.to_string() }
}

/// Rounded, with commas: `1,073,550`.
pub(crate) fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut grouped = String::new();
    if value < 0.0 && digits != "0" {
        grouped.push('-');
    }
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `512 B`, `38.2 MiB`.
pub(crate) fn bytes(value: f64) -> String {
    let mut scaled = value;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if scaled.abs() < 1_024.0 {
            return match unit {
                "B" => format!("{} B", number(scaled)),
                _ => format!("{scaled:.1} {unit}"),
            };
        }
        scaled /= 1_024.0;
    }
    format!("{scaled:.1} TiB")
}

/// Seconds as `1:22` or `1:02:03`.
pub(super) fn clock(seconds: f64) -> String {
    let seconds = std::time::Duration::try_from_secs_f64(seconds.round()).unwrap_or_default();
    let seconds = seconds.as_secs();
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

/// A count as a figure.
pub(crate) fn count(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
    let count = count as f64;
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{outcome::Judged, report::example};

    #[test]
    fn numbers_are_grouped_and_no_longer_than_they_help() {
        let told = [0.0, 3.0, 0.25, 42.37, 999.6, 1_073_550.0, -1_234.0].map(number);
        assert_eq!(told, ["0", "3", "0.25", "42.4", "1,000", "1,073,550", "-1,234"]);
    }

    #[test]
    fn a_figure_is_told_in_the_unit_of_its_name() {
        let told = [
            figure("deliver.p99.9", 12.345),
            figure("generator.lag.max", 120.0),
            figure("server.cpu_percent", 71.4),
            figure("server.cpu_us_per_delivery", 1.5),
            figure("server.rss_bytes_max", 40.0 * 1_048_576.0),
            figure("server.deliveries_per_write", 1.0),
            figure("messages", 2_541.0),
        ];
        assert_eq!(told, ["12.35 ms", "120.0 ms", "71.4 %", "1.50 µs", "40.0 MiB", "1", "2,541"]);
    }

    #[test]
    fn a_clock_shows_hours_only_where_there_are_some() {
        assert_eq!([0.4, 82.0, 3_723.0].map(clock), ["0:00", "1:22", "1:02:03"]);
    }

    #[test]
    fn the_reference_stands_beside_its_own_scenarios_only() {
        let named = |name: &str, users| {
            reference(&Scenario { name: name.to_owned(), users, ..Scenario::default() })
        };
        assert_eq!(named("reference-425", 425), Some([481, 570, 768]));
        assert_eq!(named("reference-250", 250), Some([125, 156, 215]));
        assert_eq!(named("storm", 425), None);
        assert_eq!(named("reference-1000", 1_000), None);
    }

    #[test]
    fn one_violation_fails_a_run_whose_thresholds_all_hold() {
        let mut outcome = example::outcome();
        outcome.thresholds.iter_mut().for_each(|it| it.holds = true);
        outcome.violations = 0;
        assert!(Verdict::of(&outcome).passed);
        outcome.violations = 1;
        assert!(!Verdict::of(&outcome).passed);
    }

    #[test]
    fn the_one_threshold_that_fails_is_named() {
        let mut outcome = example::outcome();
        outcome.violations = 0;
        let judged = |text: &str, holds| Judged { text: text.to_owned(), value: None, holds };
        outcome.thresholds = vec![judged("lost==0", true), judged("ack.p99<1ms", false)];
        let verdict = Verdict::of(&outcome);
        assert!(!verdict.passed && verdict.why.contains("ack.p99<1ms does not hold"));
    }

    #[test]
    fn a_threshold_is_about_what_stands_before_the_comparison() {
        assert_eq!(threshold_figure("deliver.p99 < 100ms"), "deliver.p99");
        assert_eq!(threshold_figure("lost==0"), "lost");
        assert_eq!(threshold_figure("messages!=0"), "messages");
    }
}
