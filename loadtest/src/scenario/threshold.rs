//! What must hold of a run's figures: `deliver.p99<100ms`, `lost==0`.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{
    figure::{self, Kind},
    suggestion::nearest,
};
use crate::outcome::Figures;

/// One condition: a figure's name, an operator, and a number that may have a unit. Without one it
/// is what the figure is told in: milliseconds, bytes, percent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Threshold {
    /// As it was written.
    text: String,
    figure: String,
    operator: Operator,
    /// In the unit of the figure.
    bound: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

impl Threshold {
    /// The figure's value, and whether the condition holds. A figure that the run does not have is
    /// `None`, and its condition does not hold.
    pub(crate) fn judge(&self, figures: &Figures) -> (Option<f64>, bool) {
        let value = figures.get(&self.figure).copied();
        let holds = value.is_some_and(|value| match self.operator {
            Operator::Less => value < self.bound,
            Operator::LessOrEqual => value <= self.bound,
            Operator::Greater => value > self.bound,
            Operator::GreaterOrEqual => value >= self.bound,
            Operator::Equal => value == self.bound,
            Operator::NotEqual => value != self.bound,
        });
        (value, holds)
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |why: String| Err(format!("threshold `{text}`: {why}"));
        let Some(begins) = text.find(SIGNS) else {
            return refuse("no operator; it is written like `deliver.p99<100ms`".to_owned());
        };
        let (name, rest) = (text[..begins].trim(), &text[begins..]);
        let (operator, bound) =
            rest.split_at(rest.find(|it| !SIGNS.contains(&it)).unwrap_or(rest.len()));
        let operator = match operator {
            "<" => Operator::Less,
            "<=" => Operator::LessOrEqual,
            ">" => Operator::Greater,
            ">=" => Operator::GreaterOrEqual,
            "==" => Operator::Equal,
            "!=" => Operator::NotEqual,
            other => return refuse(format!("`{other}` is none of < <= > >= == !=")),
        };
        let Some(figure) = figure::find(name) else {
            let meant = nearest(name, figure::all().map(|figure| figure.name));
            let meant = meant.map(|it| format!("; did you mean `{it}`?")).unwrap_or_default();
            return refuse(format!("no run has a figure `{name}`{meant}"));
        };
        match bound_of(bound.trim(), figure.kind) {
            Ok(bound) => Ok(Self { text: text.to_owned(), figure: figure.name, operator, bound }),
            Err(why) => refuse(why),
        }
    }
}

/// What operators are made of.
const SIGNS: [char; 4] = ['<', '>', '=', '!'];

/// `1.5s` → 1500, if that is a time.
fn bound_of(text: &str, kind: Kind) -> Result<f64, String> {
    let ends = text.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(ends);
    let Ok(number) = number.parse::<f64>() else {
        return Err(format!("`{text}` is no number"));
    };
    let factor = match (kind, unit.trim()) {
        (_, "") | (Kind::Time, "ms") | (Kind::Percent, "%") => 1.0,
        (Kind::Time, "us" | "µs" | "μs") => 1e-3,
        (Kind::Time, "s") => 1e3,
        (Kind::Bytes, "KiB") => 1024.0,
        (Kind::Bytes, "MiB") => 1024.0 * 1024.0,
        (Kind::Bytes, "GiB") => 1024.0 * 1024.0 * 1024.0,
        (kind, unit) => {
            let expected = match kind {
                Kind::Time => "a time, in us, ms or s",
                Kind::Bytes => "a size, in bytes (no unit), KiB, MiB or GiB",
                Kind::Percent => "a share, in %",
                Kind::Plain => "a number without a unit",
            };
            return Err(format!("`{unit}` is not its unit: the figure is {expected}"));
        }
    };
    Ok(number * factor)
}

impl TryFrom<String> for Threshold {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Threshold> for String {
    fn from(threshold: Threshold) -> Self {
        threshold.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(text: &str, name: &str, value: f64) -> (Option<f64>, bool) {
        let threshold: Threshold = text.parse().unwrap();
        threshold.judge(&Figures::from([(name.to_owned(), value)]))
    }

    #[test]
    fn every_operator_compares() {
        for (operator, holds) in [
            ("<", [true, false, false]),
            ("<=", [true, true, false]),
            (">", [false, false, true]),
            (">=", [false, true, true]),
            ("==", [false, true, false]),
            ("!=", [true, false, true]),
        ] {
            let text = format!("lost{operator}2");
            let judged = [1.0, 2.0, 3.0].map(|value| judge(&text, "lost", value));
            assert_eq!(judged.map(|(_, it)| it), holds, "{text}");
            assert_eq!(judged.map(|(value, _)| value), [Some(1.0), Some(2.0), Some(3.0)]);
        }
    }

    #[test]
    fn units_become_those_of_the_figure() {
        for (text, bound) in [
            ("deliver.p99<100ms", 100.0),
            ("deliver.p99.9 <= 1.5 s", 1_500.0),
            ("ack.max<250us", 0.25),
            ("ack.max<250µs", 0.25),
            (" ack.max < 250 ", 250.0),
            ("server.rss_bytes_max<2MiB", 2_097_152.0),
            ("server.cpu_percent<80%", 80.0),
            ("lost==0", 0.0),
        ] {
            let threshold: Threshold = text.parse().unwrap();
            assert_eq!(threshold.bound, bound, "{text}");
        }
    }

    #[test]
    fn a_figure_that_is_missing_does_not_hold() {
        assert_eq!(judge("lost!=5", "users", 1.0), (None, false));
    }

    #[test]
    fn a_wrong_threshold_is_refused_with_the_reason() {
        for (text, expected) in [
            (
                "deliver.p99",
                "threshold `deliver.p99`: no operator; it is written like `deliver.p99<100ms`",
            ),
            ("lost=0", "threshold `lost=0`: `=` is none of < <= > >= == !="),
            (
                "deliver.p98<1",
                "threshold `deliver.p98<1`: no run has a figure `deliver.p98`; \
                 did you mean `deliver.p90`?",
            ),
            ("zzz<1", "threshold `zzz<1`: no run has a figure `zzz`"),
            ("lost<", "threshold `lost<`: `` is no number"),
            ("lost<x", "threshold `lost<x`: `x` is no number"),
            ("lost<1.2.3", "threshold `lost<1.2.3`: `1.2.3` is no number"),
            (
                "lost<1ms",
                "threshold `lost<1ms`: `ms` is not its unit: the figure is a number without a unit",
            ),
            (
                "ack.p50<1 min",
                "threshold `ack.p50<1 min`: `min` is not its unit: the figure is a time, in us, \
                 ms or s",
            ),
        ] {
            assert_eq!(text.parse::<Threshold>().unwrap_err(), expected);
        }
    }

    #[test]
    fn a_threshold_stays_as_it_was_written() {
        let text = "\"deliver.p99  <  100 ms\"";
        let threshold: Threshold = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&threshold).unwrap(), text);
        assert_eq!(threshold.text(), "deliver.p99  <  100 ms");
    }
}
