//! What several rounds say of one figure: the middle one, and how far they lie apart. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A median with the least and the most of what it is of.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&least, &most) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, least, most })
    }

    /// Of the ratios `one / other` within each round: what slowed the machine for a while slowed
    /// both. A round in which one of the two is missing, or the other is nothing, has no ratio.
    pub(crate) fn of_ratios(
        rounds: impl IntoIterator<Item = (Option<f64>, Option<f64>)>,
    ) -> Option<Self> {
        let ratio = |(one, other): (Option<f64>, Option<f64>)| {
            let ratio = one? / other?;
            ratio.is_finite().then_some(ratio)
        };
        Self::of(rounds.into_iter().filter_map(ratio))
    }
}

impl fmt::Display for Spread {
    /// The median with the least and the most.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, least, most } = self;
        write!(f, "{median:.2} ({least:.2}–{most:.2})")
    }
}

/// A cell with a ratio, or with a dash where there is none.
pub(crate) fn cell(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "–".to_owned(), |it| it.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_one_or_between_the_two() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!(spread, Spread { median: 2.0, least: 1.0, most: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0]).map(|it| it.median), Some(2.5));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_are_made_round_by_round() {
        // The machine is three times as slow in the second round, for both.
        let rounds = [(2.0, 1.0), (6.0, 3.0), (5.0, 2.0)].map(|it| (Some(it.0), Some(it.1)));
        let spread = Spread::of_ratios(rounds).unwrap();
        assert_eq!(spread, Spread { median: 2.0, least: 2.0, most: 2.5 });
        assert_eq!(cell(Some(spread)), "2.00 (2.00–2.50)");
        let none =
            Spread::of_ratios([(None, Some(1.0)), (Some(1.0), None), (Some(1.0), Some(0.0))]);
        assert_eq!((none, cell(none)), (None, "–".to_owned()));
    }
}
