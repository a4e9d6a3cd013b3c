//! What people see of it: a line for each turn, and a table for each work. Pure.

use std::fmt::Write as _;

use super::{
    figures::{Came, Medians, Round, Summary, Work},
    measure::Carried,
};
use crate::{
    report::{grid::grid, words::grouped as thousands},
    spread::{Spread, cell as ratio},
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
    let threads = it.threads_us_per_delivery.iter();
    let threads: Vec<_> = threads.map(|(name, us)| format!("{name} {us:.3}")).collect();
    if threads.len() > 1 {
        let _ = write!(text, "  [{}]", threads.join(", "));
    }
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

const CARRIED: [&str; 14] = [
    "contender",
    "CPU µs per delivery",
    "× floor",
    "× uWS",
    "deliveries/s",
    "p50 ms",
    "p90",
    "p95",
    "p99",
    "p99 × uWS",
    "max",
    "server %",
    "generator %",
    "lost",
];
/// The same, with another figure first, which the ratios are of.
const SATURATED: [&str; 14] = {
    let mut columns = CARRIED;
    (columns[1], columns[4]) = (CARRIED[4], CARRIED[1]);
    columns
};

/// One table for each work.
pub(super) fn tables(summaries: &[Summary]) -> Vec<Table> {
    let mut works: Vec<_> = summaries.iter().map(|it| it.work).collect();
    works.dedup();
    let table = |work| {
        let head: &[&str] = match work {
            Work::Paced | Work::Million => &CARRIED,
            Work::Saturation => &SATURATED,
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
        Some(Medians::Carried { .. }) if summary.cannot_keep_up() => {
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
            let cpu_us = format!("{:.3}", cpu_us_per_delivery.median);
            let rate = thousands(deliveries_per_s.median);
            let is_saturated = summary.work == Work::Saturation;
            let (first, other) = if is_saturated { (rate, cpu_us) } else { (cpu_us, rate) };
            row.extend([first, ratio(summary.to_floor), ratio(summary.to_uws), other]);
            let ms = |it: &Spread| format!("{:.2}", it.median);
            row.extend([p50_ms, p90_ms, p95_ms, p99_ms].map(ms));
            row.extend([ratio(summary.p99_to_uws), ms(max_ms)]);
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

/// All tables for a terminal, each with what its rows do not show.
pub(super) fn text(summaries: &[Summary]) -> String {
    let mut text = String::new();
    for Table { work, rows } in tables(summaries) {
        let _ = write!(text, "\n{}\n{}", work.name(), grid(&rows));
        for remark in remarks(summaries, work) {
            let _ = writeln!(text, "{remark}");
        }
    }
    text
}

/// What the rows of a work do not show.
pub(super) fn remarks(summaries: &[Summary], work: Work) -> Vec<String> {
    let of_work = || summaries.iter().filter(|it| it.work == work);
    let mut remarks: Vec<_> = of_work().filter_map(wrong).collect();
    let disturbed: Vec<_> = of_work().filter(|it| it.quiet < it.rounds).collect();
    if !disturbed.is_empty() {
        let count =
            |it: &&Summary| format!("{} {} of {}", it.contender, it.rounds - it.quiet, it.rounds);
        let counts: Vec<_> = disturbed.iter().map(count).collect();
        let all_count: Vec<_> =
            disturbed.iter().filter(|it| it.counted > it.quiet).map(|it| &*it.contender).collect();
        let and = match &*all_count {
            [] => "they do not count".to_owned(),
            some if some.len() == disturbed.len() => {
                "they count, for want of quiet ones".to_owned()
            }
            some => format!("they count for {} only, for want of quiet ones", some.join(", ")),
        };
        remarks.push(format!("disturbed turns: {}; {and}", counts.join(", ")));
    }
    remarks
}

/// What is wrong with a row, if something is.
fn wrong(summary: &Summary) -> Option<String> {
    let Summary { contender, rounds, lost, faults, failures, overloaded, .. } = summary;
    let mut wrong = Vec::new();
    if *lost > 0 || *faults > 0 {
        wrong.push(format!("{lost} deliveries were lost, and {faults} connections got wrong ones"));
    }
    if *overloaded > 0 {
        wrong.push(format!("could not keep up in {overloaded} of {} turns", summary.counted));
    }
    if let Some(first) = failures.first() {
        wrong.push(format!("failed in {} of {rounds} turns, first: {first}", failures.len()));
    }
    (!wrong.is_empty()).then(|| format!("{contender}: {}", wrong.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::figures::summarise;

    fn carried(cpu_us: f64, foreign_percent: f64) -> Carried {
        Carried {
            deliveries_per_s: 1_234_567.0,
            cpu_us_per_delivery: cpu_us,
            threads_us_per_delivery: [("hub".to_owned(), 2.0), ("log".to_owned(), 0.5)].into(),
            bytes_per_delivery: 98.0,
            latency_ms: [0.7, 1.2, 1.3, 1.8, 2.5],
            server_percent: 4.7,
            generator_percent: 6.1,
            foreign_percent,
            is_overloaded: false,
            lost: 0,
            faults: 0,
            evidence: Vec::new(),
        }
    }

    fn round(work: Work, contender: &str, came: Came) -> Round {
        Round { work, round: 1, contender: contender.to_owned(), came }
    }

    #[test]
    fn a_line_tells_threads_faults_and_disturbance() {
        let bad = Carried {
            lost: 3,
            faults: 1,
            evidence: vec!["connection 7 got nothing".to_owned()],
            ..carried(2.5, 50.0)
        };
        assert_eq!(
            line(&round(Work::Paced, "hubbub", Came::Carried(bad))),
            "paced       1  hubbub                 2.500 us    1234567/s  p50 0.70  p99 1.80  max 2.5 ms  \
             server 4.7 %  generator 6 %  others 50 %  [hub 2.000, log 0.500]  3 LOST  \
             1 FAULTS: connection 7 got nothing  DISTURBED"
        );
    }

    #[test]
    fn at_saturation_the_deliveries_come_first_and_who_is_late_has_a_sentence() {
        let late = Carried { is_overloaded: true, ..carried(9.0, 0.0) };
        let summaries = summarise(&[
            round(Work::Saturation, "floor-batched", Came::Carried(carried(0.1, 0.0))),
            round(Work::Million, "ws", Came::Carried(late)),
        ]);
        let expected = "
saturation
contender      deliveries/s           × floor  × uWS  CPU µs per delivery  p50 ms   p90   p95   p99  p99 × uWS   max  server %  generator %  lost
floor-batched     1,234,567  1.00 (1.00–1.00)      –                0.100    0.70  1.20  1.30  1.80          –  2.50       4.7          6.1     0

million
contender  CPU µs per delivery  × floor  × uWS  deliveries/s  p50 ms  p90  p95  p99  p99 × uWS  max  server %  generator %  lost
ws         cannot keep up
ws: could not keep up in 1 of 1 turns
";
        assert_eq!(text(&summaries), expected);
    }

    #[test]
    fn disturbed_turns_are_told_in_one_line() {
        let of = |contender, number, foreign| Round {
            round: number,
            ..round(Work::Paced, contender, Came::Carried(carried(2.0, foreign)))
        };
        let summaries = summarise(&[
            of("uws", 1, 0.0),
            of("uws", 2, 16.0),
            of("ws", 1, 16.0),
            of("ws", 2, 16.0),
            of("nats", 1, 0.0),
        ]);
        assert_eq!(
            remarks(&summaries, Work::Paced),
            [
                "disturbed turns: uws 1 of 2, ws 2 of 2; they count for ws only, for want of quiet ones"
            ]
        );
        assert!(remarks(&summaries, Work::Idle).is_empty());
    }
}
