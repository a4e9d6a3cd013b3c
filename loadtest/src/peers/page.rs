//! The section of a Markdown page that the tool writes, between two marks, and its plots beside it.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result, bail};

use super::{
    figures::{FOREIGN_PERCENT_MAX, Summary, Work},
    plots,
    table::{Table, remarks, tables},
};

const BEGIN: &str = "<!-- peers: begin (written by `cargo xtask peers -- --write`) -->";
const END: &str = "<!-- peers: end -->";

/// Writes the section into this page, which has the marks already, and the plots beside the page.
pub(super) fn write(path: &Path, settings: &[String], summaries: &[Summary]) -> Result<()> {
    let shown = path.display();
    let page = fs::read_to_string(path).with_context(|| format!("{shown} cannot be read"))?;
    let page = replaced(&page, &section(settings, summaries));
    let page = page.with_context(|| format!("{shown} has no lines `{BEGIN}` and `{END}`"))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    for (work, svg) in plots::svgs(summaries) {
        let path = folder.join(plot_name(work));
        fs::write(&path, svg).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    fs::write(path, page).with_context(|| format!("{shown} cannot be written"))
}

/// Whether the section can be written once everything is measured.
pub(super) fn check(path: &Path) -> Result<()> {
    let page = fs::read_to_string(path)
        .with_context(|| format!("--write {} cannot be read", path.display()))?;
    if replaced(&page, "").is_none() {
        bail!("--write {}: there are no lines `{BEGIN}` and `{END}`", path.display());
    }
    Ok(())
}

/// The page with this between its marks.
fn replaced(page: &str, section: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{section}\n{END}{after}"))
}

fn plot_name(work: Work) -> String {
    format!("peers-{}.svg", work.name())
}

fn section(settings: &[String], summaries: &[Summary]) -> String {
    let mut text = String::new();
    for setting in settings {
        let _ = writeln!(text, "Measured: {setting}.");
    }
    let _ = writeln!(
        text,
        "Figures are medians; behind a ratio stand the least and the most of it, round by round. A turn in \
         which others used more than {FOREIGN_PERCENT_MAX:.0} % of a core counts as disturbed."
    );
    for Table { work, rows } in tables(summaries) {
        let _ = writeln!(text, "\n### {}\n\n{}\n", title(work), about(work));
        text += &markdown(&rows);
        for (number, remark) in remarks(summaries, work).iter().enumerate() {
            let _ = writeln!(text, "{}- {remark}", if number == 0 { "\n" } else { "" });
        }
        let _ = writeln!(text, "\n![{}]({})", title(work), plot_name(work));
    }
    text
}

fn markdown(rows: &[Vec<String>]) -> String {
    let Some((head, rows)) = rows.split_first() else { return String::new() };
    let mut text = format!("| {} |\n|---|{}\n", head.join(" | "), "--:|".repeat(head.len() - 1));
    for row in rows {
        // What has no figures says why in the first of their columns.
        let missing = head.len().saturating_sub(row.len());
        let row = row.iter().map(String::as_str).chain(std::iter::repeat_n("–", missing));
        let row: Vec<_> = row.collect();
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

pub(super) fn title(work: Work) -> &'static str {
    match work {
        Work::Paced => "The reference load",
        Work::Million => "A million deliveries a second",
        Work::Saturation => "Saturation",
        Work::Idle => "Idle connections",
        Work::Capacity => "Users in one channel",
    }
}

fn about(work: Work) -> &'static str {
    match work {
        Work::Paced => {
            "Messages come at exponential intervals from users drawn by lot, whether or not a server \
             keeps up; latency is from the moment that was intended."
        }
        Work::Million => "The same at another rate.",
        Work::Saturation => {
            "A message is sent as soon as everybody has one of those under way. The ratios are those \
             of deliveries per second: more is better."
        }
        Work::Idle => {
            "Resident memory of the process, by the slope from 1,000 to as many connections as its \
             open files bear, each subscribed. What the kernel keeps is not in it."
        }
        Work::Capacity => {
            "Each user publishes 0.1 messages a second to all the others. The most users with p99 of \
             at most 200 ms, to 5 %."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::{
        figures::{Came, Round, summarise},
        measure::{Carried, Rested},
    };

    fn carried(cpu_us: f64) -> Came {
        Came::Carried(Carried {
            deliveries_per_s: 18_012.4,
            cpu_us_per_delivery: cpu_us,
            threads_us_per_delivery: [("main".to_owned(), cpu_us)].into(),
            bytes_per_delivery: 98.0,
            latency_ms: [0.7, 1.2, 1.3, 1.8, 2.5],
            server_percent: 4.7,
            generator_percent: 6.12,
            foreign_percent: 0.5,
            is_overloaded: false,
            lost: 0,
            faults: 0,
            evidence: Vec::new(),
        })
    }

    fn rested(bytes_per_connection: f64) -> Came {
        Came::Rested(Rested {
            few: 1_000,
            many: 19_000,
            few_bytes: 1,
            many_bytes: 2,
            bytes_per_connection,
            connects_per_s: 12_345.6,
            server_percent: 0.04,
            foreign_percent: 0.0,
        })
    }

    fn summaries() -> Vec<Summary> {
        let of = |work, contender: &str, came| Round {
            work,
            round: 1,
            contender: contender.to_owned(),
            came,
        };
        summarise(&[
            of(Work::Paced, "floor-direct", carried(2.5)),
            of(Work::Paced, "hubbub", carried(2.75)),
            of(Work::Paced, "nats", Came::Failed("it ended".to_owned())),
            of(Work::Idle, "hubbub", rested(1_950.0)),
        ])
    }

    #[test]
    fn the_section_is_what_it_always_was() {
        let section = section(&["server on core 0".to_owned()], &summaries());
        let expected = "\
Measured: server on core 0.
Figures are medians; behind a ratio stand the least and the most of it, round by round. A turn in which \
others used more than 15 % of a core counts as disturbed.

### The reference load

Messages come at exponential intervals from users drawn by lot, whether or not a server keeps up; latency is \
from the moment that was intended.

| contender | CPU µs per delivery | × floor | × uWS | deliveries/s | p50 ms | p90 | p95 | p99 | p99 × uWS | max | server % | generator % | lost |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
| floor-direct | 2.500 | 1.00 (1.00–1.00) | – | 18,012 | 0.70 | 1.20 | 1.30 | 1.80 | – | 2.50 | 4.7 | 6.1 | 0 |
| hubbub | 2.750 | 1.10 (1.10–1.10) | – | 18,012 | 0.70 | 1.20 | 1.30 | 1.80 | – | 2.50 | 4.7 | 6.1 | 0 |
| nats | failed: it ended | – | – | – | – | – | – | – | – | – | – | – | – |

- nats: failed in 1 of 1 turns, first: it ended

![The reference load](peers-paced.svg)

### Idle connections

Resident memory of the process, by the slope from 1,000 to as many connections as its open files bear, each \
subscribed. What the kernel keeps is not in it.

| contender | bytes per connection | × floor | × uWS | connects/s | idle % |
|---|--:|--:|--:|--:|--:|
| hubbub | 1,950 | – | – | 12,346 | 0.0 |

![Idle connections](peers-idle.svg)
";
        assert_eq!(section, expected);
    }

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("PAGE.md");
        fs::write(&path, format!("# Title\n\n{BEGIN}\nold\n{END}\n\n## After\n")).unwrap();
        check(&path).unwrap();
        for _ in 0..2 {
            write(&path, &["here".to_owned()], &summaries()).unwrap();
            let page = fs::read_to_string(&path).unwrap();
            assert!(
                page.starts_with(&format!("# Title\n\n{BEGIN}\n\nMeasured: here.\n")),
                "{page}"
            );
            assert!(page.ends_with(&format!("\n{END}\n\n## After\n")), "{page}");
            assert!(!page.contains("old") && page.matches(BEGIN).count() == 1);
        }
        let svg = fs::read_to_string(folder.path().join("peers-paced.svg")).unwrap();
        assert!(svg.contains("hubbub"), "{svg}");
        fs::write(&path, "# Title\n").unwrap();
        assert!(check(&path).unwrap_err().to_string().contains("peers: begin"));
    }
}
