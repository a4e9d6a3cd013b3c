//! What people see of it: a line for each turn, and a table for each work. Pure.

use std::fmt::Write as _;

use super::{
    figures::{Came, Medians, Round, Spread, Summary, Work},
    measure::Carried,
};

/// A turn, as soon as it is over.
pub(super) fn line(round: &Round) -> String {
    let Round { work, round: number, contender, came } = round;
    let told = match came {
        Came::Carried(it) => carried(it),
        Came::Rested(it) => format!(
            "{:>6.0} B per connection from {} to {}, {:.0} connects/s, idle {:.1} % of a core, \
             others {:.0} %",
            it.bytes_per_connection,
            it.few,
            it.many,
            it.connects_per_s,
            it.server_percent,
            it.foreign_percent
        ),
        Came::Reached { users, too_many, p99_ms } => {
            let too_many = too_many.map_or(String::new(), |it| format!(", {it} were too many"));
            format!("{users} users with p99 {p99_ms:.1} ms{too_many}")
        }
        Came::Failed(why) => format!("FAILED: {why}"),
    };
    let disturbed = if round.is_quiet() { "" } else { "  DISTURBED" };
    format!("{:<10} {number:>2}  {contender:<20} {told}{disturbed}", work.name())
}

/// A try of a search for the capacity.
pub(super) fn step(contender: &str, users: u32, came: &Carried, has_passed: bool) -> String {
    let verdict = if has_passed { "passed" } else { "FAILED" };
    format!("  {contender:<20} {users:>6} users  {}  {verdict}", carried(came))
}

fn carried(it: &Carried) -> String {
    let [p50, _, _, p99, max] = it.latency_ms;
    let mut text = format!(
        "{:>7.3} us  {:>9.0}/s  p50 {p50:.2}  p99 {p99:.2}  max {max:.1} ms  server {:.1} %  \
         generator {:.0} %  others {:.0} %",
        it.cpu_us_per_delivery,
        it.deliveries_per_s,
        it.server_percent,
        it.generator_percent,
        it.foreign_percent
    );
    if it.is_overloaded {
        text += "  OVERLOADED";
    } else if it.lost > 0 {
        let _ = write!(text, "  {} LOST", it.lost);
    }
    if it.faults > 0 {
        let _ = write!(text, "  {} FAULTS: {}", it.faults, it.evidence.join("; "));
    }
    text
}

/// A table as its rows of cells; the first has the names of the columns.
pub(super) struct Table {
    pub(super) work: Work,
    pub(super) rows: Vec<Vec<String>>,
}

/// One table for each work.
pub(super) fn tables(summaries: &[Summary]) -> Vec<Table> {
    let mut works: Vec<_> = summaries.iter().map(|it| it.work).collect();
    works.dedup();
    let table = |work| {
        let head: &[&str] = match work {
            Work::Paced | Work::Million | Work::Saturation => &[
                "contender",
                "CPU µs per delivery",
                "× floor",
                "× uWS",
                "deliveries/s",
                "p50 ms",
                "p90",
                "p95",
                "p99",
                "max",
                "server %",
                "generator %",
                "lost",
            ],
            Work::Idle => {
                &["contender", "bytes per connection", "× floor", "× uWS", "connects/s", "idle %"]
            }
            Work::Capacity => &["contender", "users", "p99 ms"],
        };
        let mut rows = vec![head.iter().map(|&it| it.to_owned()).collect()];
        rows.extend(summaries.iter().filter(|it| it.work == work).map(row));
        Table { work, rows }
    };
    works.into_iter().map(table).collect()
}

fn row(summary: &Summary) -> Vec<String> {
    let mut row = vec![summary.contender.clone()];
    match &summary.figures {
        None => row.push(format!("failed: {}", summary.failures.join("; "))),
        Some(Medians::Carried { .. }) if summary.overloaded * 2 > summary.quiet.max(1) => {
            row.push("cannot keep up".to_owned());
        }
        Some(Medians::Carried {
            cpu_us_per_delivery,
            deliveries_per_s,
            p50_ms,
            p90_ms,
            p95_ms,
            p99_ms,
            max_ms,
            server_percent,
            generator_percent,
            ..
        }) => {
            row.push(format!("{:.3}", cpu_us_per_delivery.median));
            row.extend([ratio(summary.to_floor), ratio(summary.to_uws)]);
            row.push(thousands(deliveries_per_s.median));
            let latencies = [p50_ms, p90_ms, p95_ms, p99_ms, max_ms];
            row.extend(latencies.map(|it| format!("{:.2}", it.median)));
            row.extend([server_percent, generator_percent].map(|it| format!("{:.1}", it.median)));
            row.push((summary.lost + summary.faults).to_string());
        }
        Some(Medians::Rested { bytes_per_connection, connects_per_s, server_percent, .. }) => {
            row.push(thousands(bytes_per_connection.median));
            row.extend([ratio(summary.to_floor), ratio(summary.to_uws)]);
            row.push(thousands(connects_per_s.median));
            row.push(format!("{:.1}", server_percent.median));
        }
        Some(Medians::Reached { users, p99_ms }) => {
            row.push(thousands(users.median));
            row.push(format!("{:.1}", p99_ms.median));
        }
    }
    row
}

/// The median with the least and the most.
fn ratio(spread: Option<Spread>) -> String {
    let Some(Spread { median, least, most }) = spread else { return "–".to_owned() };
    format!("{median:.2} ({least:.2}–{most:.2})")
}

/// A whole number with a comma after each third digit from the right.
pub(super) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let (sign, digits) = digits.strip_prefix('-').map_or(("", &*digits), |it| ("-", it));
    let mut text = sign.to_owned();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// All tables for a terminal, each with what its rows do not show.
pub(super) fn text(summaries: &[Summary]) -> String {
    let mut text = String::new();
    for Table { work, rows } in tables(summaries) {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        // A row that is cut short says a sentence, which makes no column wide.
        let width = |column: usize| {
            let whole = rows.iter().filter(|row| row.len() == columns);
            let widths = whole.map(|row| row[column].chars().count());
            let names = rows.iter().filter(|_| column == 0).map(|row| row[0].chars().count());
            widths.chain(names).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let _ = writeln!(text, "\n{}", work.name());
        for row in &rows {
            for (at, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let _ = if at == 0 {
                    write!(text, "{cell:<width$}")
                } else {
                    write!(text, "  {cell:>width$}")
                };
            }
            text.push('\n');
        }
        for it in summaries.iter().filter(|it| it.work == work) {
            text += &remark(it).map_or(String::new(), |it| it + "\n");
        }
    }
    text
}

/// What is wrong with a row, if something is.
pub(super) fn remark(summary: &Summary) -> Option<String> {
    let Summary { contender, rounds, quiet, lost, faults, failures, overloaded, .. } = summary;
    let mut wrong = Vec::new();
    if *lost > 0 || *faults > 0 {
        wrong.push(format!("{lost} deliveries were lost, and {faults} connections got wrong ones"));
    }
    if *overloaded > 0 {
        wrong.push(format!("could not keep up in {overloaded} rounds"));
    }
    if !failures.is_empty() {
        wrong.push(format!("failed in {} rounds, first: {}", failures.len(), failures[0]));
    }
    if quiet < rounds {
        let counted =
            if quiet * 2 < *rounds { "all count, with care" } else { "they do not count" };
        wrong.push(format!("{} of {rounds} rounds were disturbed: {counted}", rounds - quiet));
    }
    (!wrong.is_empty()).then(|| format!("{contender}: {}", wrong.join("; ")))
}
