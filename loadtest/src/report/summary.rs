//! A run as lines of text, for the end of it.

use std::fmt::{self, Write as _};

use super::words;
use crate::{outcome::Outcome, scenario::schedule::Phase};

/// The lines, each with its end. No colours, so that they can be kept as they are.
pub(crate) fn text(outcome: &Outcome) -> String {
    let mut text = String::new();
    write(&mut text, outcome).expect("a string takes every line");
    text
}

fn write(text: &mut String, outcome: &Outcome) -> fmt::Result {
    head(text, outcome)?;
    load(text, outcome)?;
    latencies(text, outcome)?;
    rows(text, "reconnect", &words::rows(&outcome.figures, &words::RECONNECT))?;
    rows(text, "storm", &words::rows(&outcome.figures, &words::STORM))?;
    rows(text, "server", &words::rows(&outcome.figures, &words::SERVER))?;
    let shown = |(name, percent): (&String, &f64)| format!("{name} {percent:.0} %");
    let processes: Vec<_> = outcome.processes.iter().map(shown).collect();
    if !processes.is_empty() {
        // A cluster has six and more, and a line has room for them.
        writeln!(text, "processes, of a core\n  {}\n", processes.join(", "))?;
    }
    rows(text, "generator", &words::rows(&outcome.figures, &words::GENERATOR))?;
    errors(text, outcome)?;
    thresholds(text, outcome)?;
    end(text, outcome)
}

fn head(text: &mut String, outcome: &Outcome) -> fmt::Result {
    let scenario = &outcome.scenario;
    write!(text, "scenario  {}", scenario.name)?;
    if !scenario.about.is_empty() {
        write!(text, ": {}", scenario.about)?;
    }
    writeln!(text, "\n          {}", words::workload(scenario))?;
    write!(text, "          began {}", outcome.began_at)?;
    if let Some(version) = &outcome.server_version {
        write!(text, ", server {version}")?;
    }
    writeln!(text, "\n")
}

fn load(text: &mut String, outcome: &Outcome) -> fmt::Result {
    let figure = |name: &str| outcome.figures.get(name).copied();
    let has_plateau = outcome.phases.iter().any(|span| span.phase == Phase::Plateau);
    let measured = outcome.phases.iter().filter(|span| span.phase.is_measured(has_plateau));
    let time = measured.map(|span| span.ends - span.begins).sum();
    let label = if has_plateau { "plateau" } else { "stages" };
    write!(text, "{label:<10}{}", words::clock(time))?;
    if let Some(users) = figure("users") {
        write!(text, " with {} users", words::grouped(users))?;
    }
    writeln!(text)?;
    for (label, name, rate) in [
        ("messages", "messages", Some("messages_per_s")),
        ("acknowledged", "acks", None),
        ("deliveries", "deliveries", Some("deliveries_per_s")),
        ("lost", "lost", None),
        ("acknowledged, lost", "acknowledged_lost", None),
        ("gaps told", "gaps", None),
        ("never acknowledged", "unacknowledged", None),
        ("never connected", "never_connected", None),
        ("probed at once", "probed", None),
        ("slow, closed", "slow_closed", None),
        ("errors", "errors", None),
        ("reconnects", "reconnects", None),
    ] {
        let Some(value) = figure(name) else { continue };
        write!(text, "  {label:<20}{:>12}", words::grouped(value))?;
        if let Some(rate) = rate.and_then(figure) {
            write!(text, "{:>12}/s", words::number(rate))?;
        }
        writeln!(text)?;
    }
    writeln!(text)
}

fn latencies(text: &mut String, outcome: &Outcome) -> fmt::Result {
    let figure = |name: &str, what: &str| outcome.figures.get(&format!("{name}.{what}")).copied();
    let known: Vec<_> =
        words::LATENCIES.iter().filter(|(name, _)| figure(name, "count").is_some()).collect();
    if !known.is_empty() {
        write!(text, "latency, ms     ")?;
        for column in words::COLUMNS {
            write!(text, "{column:>10}")?;
        }
        writeln!(text, "{:>13}", "count")?;
        for (name, _) in known {
            write!(text, "  {name:<14}")?;
            for column in words::COLUMNS {
                let value = figure(name, column).map_or_else(|| "–".to_owned(), words::ms);
                write!(text, "{value:>10}")?;
            }
            writeln!(text, "{:>13}", words::grouped(figure(name, "count").unwrap_or_default()))?;
        }
        writeln!(text)?;
    }
    // Scripts look for this line: it stands alone, and its form does not change.
    let [p90, p95, p99] = outcome.percentiles_ms;
    writeln!(text, "percentiles_ms=[{p90:.1},{p95:.1},{p99:.1}]")?;
    if let Some([p90, p95, p99]) = words::reference(&outcome.scenario) {
        writeln!(
            text,
            "          beside [{p90},{p95},{p99}]: the reference report, on its own machine"
        )?;
    }
    writeln!(text)
}

fn rows(text: &mut String, title: &str, rows: &[(&str, String)]) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(text, "{title}")?;
    for (label, value) in rows {
        writeln!(text, "  {label:<34}{value:>12}")?;
    }
    writeln!(text)
}

fn errors(text: &mut String, outcome: &Outcome) -> fmt::Result {
    /// More kinds than this are on the page only.
    const KINDS_MAX: usize = 10;
    if !outcome.errors.is_empty() {
        let mut errors: Vec<_> = outcome.errors.iter().collect();
        errors.sort_by_key(|error| std::cmp::Reverse(error.1));
        writeln!(text, "errors")?;
        for (what, times) in errors.iter().take(KINDS_MAX) {
            writeln!(text, "  {:>10}  {what}", words::grouped(words::count(**times)))?;
        }
        if errors.len() > KINDS_MAX {
            writeln!(text, "              and {} kinds more", errors.len() - KINDS_MAX)?;
        }
        writeln!(text)?;
    }
    for warning in &outcome.warnings {
        writeln!(text, "warning   {warning}")?;
    }
    if outcome.warnings.is_empty() { Ok(()) } else { writeln!(text) }
}

fn thresholds(text: &mut String, outcome: &Outcome) -> fmt::Result {
    if outcome.thresholds.is_empty() {
        return Ok(());
    }
    let width = outcome.thresholds.iter().map(|it| it.text.chars().count()).max().unwrap_or(0);
    writeln!(text, "thresholds")?;
    for judged in &outcome.thresholds {
        let figure = words::threshold_figure(&judged.text);
        let value = judged.value.map(|value| words::figure(figure, value));
        let value = value.as_deref().unwrap_or("not measured");
        writeln!(text, "  {} {:<width$}  {value:>14}", words::mark(judged.holds), judged.text)?;
    }
    writeln!(text)
}

fn end(text: &mut String, outcome: &Outcome) -> fmt::Result {
    let plural = if outcome.violations == 1 { "" } else { "s" };
    let violations = words::grouped(words::count(outcome.violations));
    let holds = if outcome.violations == 0 { "holds" } else { "BROKEN" };
    writeln!(text, "audit  {holds}: {violations} violation{plural}")?;
    for sentence in &outcome.evidence {
        writeln!(text, "  {sentence}")?;
    }
    let verdict = words::Verdict::of(outcome);
    let mark = words::mark(verdict.passed);
    writeln!(text, "\n{mark} {}: {}", verdict.word().to_lowercase(), verdict.why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    #[test]
    fn the_percentiles_stand_alone_in_the_form_that_scripts_look_for() {
        let text = text(&example::outcome());
        assert_eq!(text.lines().filter(|line| *line == "percentiles_ms=[3.6,4.2,6.9]").count(), 1);
    }

    #[test]
    fn the_reference_stands_beside_its_scenario_and_no_other() {
        let mut outcome = example::outcome();
        let words = "[481,570,768]: the reference report, on its own machine";
        assert!(text(&outcome).contains(words));
        "storm".clone_into(&mut outcome.scenario.name);
        assert!(!text(&outcome).contains(words));
    }

    #[test]
    fn an_audit_that_holds_says_so_and_one_that_does_not_shows_why() {
        let mut outcome = example::outcome();
        let broken = text(&outcome);
        assert!(broken.contains("audit  BROKEN: 2 violations\n  user 17, channel 1"), "{broken}");
        outcome.violations = 0;
        outcome.evidence.clear();
        assert!(text(&outcome).contains("\naudit  holds: 0 violations\n"));
    }

    #[test]
    fn thresholds_are_marked_and_stand_in_columns() {
        let text = text(&example::outcome());
        let rows: Vec<_> =
            text.lines().filter(|it| it.starts_with("  ✓") || it.starts_with("  ✗")).collect();
        assert_eq!(rows.len(), 5);
        assert_eq!(rows.iter().filter(|row| row.starts_with("  ✗")).count(), 2);
        let widths: Vec<_> = rows.iter().map(|row| row.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
    }

    #[test]
    fn what_each_process_of_a_cluster_took_is_told_where_there_is_one() {
        let mut outcome = example::outcome();
        assert!(text(&outcome).contains("\n  hub-0 70 %, nats-0 32 %\n"));
        outcome.processes.clear();
        assert!(!text(&outcome).contains("processes"));
    }

    #[test]
    fn a_line_fits_a_terminal_of_100_columns() {
        let text = text(&example::outcome());
        let longest = text.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(100), "{longest:?}\n{text}");
    }

    #[test]
    fn a_latency_that_was_not_measured_has_no_row() {
        let mut outcome = example::outcome();
        assert!(text(&outcome).contains("\n  handshake "));
        outcome.figures.retain(|name, _| !name.starts_with("handshake."));
        assert!(!text(&outcome).contains("\n  handshake "));
    }
}
