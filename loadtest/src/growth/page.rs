//! What people see of it: a line for each step, a table, a plot over the fill. Pure.

use super::{Asked, Step, ask::Ask};
use crate::{
    report::{
        grid::{cells, grid},
        plot::{Ink, Line, Plot, X, Y, picture},
        words::{bytes, count, grouped},
    },
    spread::cell,
};

/// Of each plot, in its units.
const HEIGHT: u32 = 420;

/// A step, as soon as it is over.
pub(super) fn lines(step: &Step) -> String {
    let asked = step.asked.iter().map(|it| {
        format!(
            "  {:<24} p99 {:.2} beside {:.2} ms: {}",
            it.ask.name(),
            it.large_ms[1],
            it.small_ms[1],
            cell(it.p99_ratio)
        )
    });
    let asked: Vec<_> = asked.collect();
    format!("{}\n{}", head(step), asked.join("\n"))
}

fn head(step: &Step) -> String {
    format!(
        "{} messages in {} channels, filled at {}/s, {} on the disk, {} resident",
        grouped(count(step.messages)),
        grouped(count(step.channels)),
        grouped(step.filled_per_s),
        bytes(count(step.data_bytes)),
        bytes(count(step.resident_bytes))
    )
}

/// A table for each kind of request, and what the fills were.
pub(super) fn text(steps: &[Step]) -> String {
    let mut text = String::new();
    for ask in Ask::ALL {
        let head = [
            ask.name(),
            "p50 small",
            "p50 large",
            "× (slices)",
            "p99 small",
            "p99 large",
            "× (slices)",
        ];
        let mut rows = vec![cells(head)];
        for (step, asked) in of(steps, ask) {
            let ms = |it: f64| format!("{it:.2}");
            let [small, large] = [asked.small_ms, asked.large_ms];
            rows.push(vec![
                grouped(count(step.messages)),
                ms(small[0]),
                ms(large[0]),
                cell(asked.p50_ratio),
                ms(small[1]),
                ms(large[1]),
                cell(asked.p99_ratio),
            ]);
        }
        text += &format!("\n{}", grid(&rows));
    }
    text.push('\n');
    for step in steps {
        text += &head(step);
        text.push('\n');
    }
    text
}

/// p50 and p99 of each kind of request at both servers, over the fill of the large one.
pub(super) fn svg(steps: &[Step]) -> String {
    let plot = |ask: Ask| {
        let line = |name, ink, figure: fn(&Asked) -> f64| Line {
            name,
            ink,
            points: of(steps, ask)
                .map(|(step, asked)| (count(step.messages), Some(figure(asked))))
                .collect(),
        };
        Plot {
            title: ask.name(),
            x: X::Messages,
            y_unit: "ms",
            y: Y::Log { from: 0.1, to: 1.0 },
            height: HEIGHT,
            lines: vec![
                line("p99, this many", Ink::One, |it| it.large_ms[1]),
                line("p99, the small server", Ink::Two, |it| it.small_ms[1]),
                line("p50, this many", Ink::Three, |it| it.large_ms[0]),
                line("p50, the small server", Ink::Four, |it| it.small_ms[0]),
            ],
        }
    };
    picture(&Ask::ALL.map(plot))
}

fn of(steps: &[Step], ask: Ask) -> impl Iterator<Item = (&Step, &Asked)> {
    steps.iter().flat_map(move |step| {
        step.asked.iter().filter(move |it| it.ask == ask).map(move |it| (step, it))
    })
}
