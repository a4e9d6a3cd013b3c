//! The axes of plots: how far they reach, where labels stand, and what the labels say. Pure.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};

/// An axis with labels where we want them. Logarithms where it is logarithmic.
#[derive(Clone)]
pub(super) struct Axis {
    pub(super) range: Range<f64>,
    pub(super) ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (begin, end): (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        begin + whole(share * f64::from(end - begin))
    }

    /// Only grid lines that have labels.
    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl Axis {
    /// Time from 0 to this second.
    pub(super) fn time(end: f64) -> Self {
        Self { range: 0.0..end, ticks: time_ticks(end) }
    }

    /// Percentiles up to the rarest of these quantiles, and a place for the maximum behind it.
    pub(super) fn percentile(quantiles: impl Iterator<Item = f64>) -> Self {
        let end = quantiles.filter(|it| *it < 1.0).map(rarity).fold(3.0, f64::max) + MAXIMUM_STEP;
        let nines = (1..10).map(f64::from).filter(|nines| *nines < end - 0.2);
        Self { range: 0.0..end, ticks: [rarity(0.5)].into_iter().chain(nines).collect() }
    }

    /// From 0 to a round number that is not below this one.
    pub(super) fn linear(most: f64) -> Self {
        let most = most.max(f64::MIN_POSITIVE);
        let step = nice_step(most, 5.0);
        let steps = (most / step - 1e-9).ceil();
        let ticks = std::iter::successors(Some(0.0), |at| Some(at + 1.0));
        let ticks = ticks.take_while(|at| *at <= steps).map(|at| at * step).collect();
        Self { range: 0.0..steps * step, ticks }
    }

    /// From the one to the other, which are no powers of ten, with labels at those between.
    pub(super) fn log_between(least: f64, most: f64) -> Self {
        let (start, end) = (least.max(1.0).log10(), most.max(1.0).log10());
        let end = end.max(start + 0.5);
        let powers = std::iter::successors(Some(start.ceil()), |power| Some(power + 1.0));
        Self { range: start..end, ticks: powers.take_while(|it| *it <= end + 1e-9).collect() }
    }

    /// Between powers of ten around these two.
    pub(super) fn log(least: f64, most: f64) -> Self {
        let most = most.max(0.01).log10();
        // What lies more than six powers of ten below would press all else together.
        let bottom = least.max(0.001).log10().max(most - 6.0).floor();
        let top = (most + 0.02).ceil().max(bottom + 1.0);
        let powers = std::iter::successors(Some(bottom), |power| Some(power + 1.0));
        let factors: &[f64] = if top - bottom <= 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let ticks = powers
            .take_while(|power| *power <= top)
            .flat_map(|power| factors.iter().map(move |factor| power + factor.log10()))
            .filter(|at| *at <= top + 1e-9);
        Self { range: bottom..top, ticks: ticks.collect() }
    }
}

/// How far the maximum stands behind the last quantile.
const MAXIMUM_STEP: f64 = 0.3;

/// A quantile → its place on an axis on which each step to the right is ten times rarer.
pub(super) fn rarity(quantile: f64) -> f64 {
    -(1.0 - quantile.clamp(0.0, 1.0 - 1e-9)).log10()
}

pub(super) fn percentile_label(rarity: f64) -> String {
    let percent = 100.0 - 100.0 * 10_f64.powf(-rarity);
    let digits = if rarity > 2.5 { whole(rarity.round()).unsigned_abs() as usize - 2 } else { 0 };
    format!("{percent:.digits$} %")
}

/// `18k` rather than `18000`, and no needless digits.
pub(super) fn tick_label(value: f64) -> String {
    let short = |value: f64, unit: &str| {
        let text = format!("{value:.3}");
        format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    match value.abs() {
        large if large >= 999_999.5 => short(value / 1e6, "M"),
        large if large >= 999.5 => short(value / 1e3, "k"),
        _ => short(value, ""),
    }
}

/// A step of 1, 2 or 5 times a power of ten, so that about so many fit.
fn nice_step(span: f64, steps: f64) -> f64 {
    let raw = span / steps;
    let power = 10_f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|it| it * power >= raw * 0.999).unwrap_or(10.0);
    factor * power
}

fn time_ticks(end: f64) -> Vec<f64> {
    const STEPS: [f64; 15] = [
        1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0, 3_600.0,
        7_200.0, 14_400.0,
    ];
    let step = STEPS.into_iter().find(|step| end / step <= 12.0).unwrap_or(86_400.0);
    std::iter::successors(Some(0.0), |at| Some(at + step)).take_while(|at| *at <= end).collect()
}

/// A coordinate.
pub(crate) fn whole(value: f64) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "plots are a few thousand units large")]
    let whole = value.round() as i32;
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_one_two_or_five() {
        let steps = [425.0, 18_000.0, 0.7, 1.0].map(|most| nice_step(most, 4.0));
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9 * b;
        assert!(
            steps.iter().zip([200.0, 5_000.0, 0.2, 0.5]).all(|(a, b)| near(*a, b)),
            "{steps:?}"
        );
    }

    #[test]
    fn percentiles_are_labelled_with_as_many_nines_as_they_have() {
        let labels = [rarity(0.5), 1.0, 2.0, 3.0, 4.0, 5.0].map(percentile_label);
        assert_eq!(labels, ["50 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"]);
    }

    #[test]
    fn ticks_of_an_axis_are_short() {
        let labels = [0.0, 0.05, 2_500.0, 12_500.0, 3_000_000.0].map(tick_label);
        assert_eq!(labels, ["0", "0.05", "2.5k", "12.5k", "3M"]);
    }

    #[test]
    fn a_linear_axis_ends_with_a_label_above_the_largest_value() {
        let axis = Axis::linear(425.0);
        assert_eq!((axis.range, axis.ticks.last()), (0.0..500.0, Some(&500.0)));
        assert_eq!(Axis::linear(100.0).range.end, 100.0);
    }

    #[test]
    fn an_axis_between_two_values_ends_with_them() {
        let axis = Axis::log_between(20_000.0, 10_000_000.0);
        assert_eq!((axis.range.start, axis.range.end), (20_000_f64.log10(), 7.0));
        assert_eq!(axis.ticks, [5.0, 6.0, 7.0]);
        // One value is in the middle of nothing, but has an axis.
        assert_eq!(Axis::log_between(10_000.0, 10_000.0).range, 4.0..4.5);
    }

    #[test]
    fn a_logarithmic_axis_reaches_around_its_values() {
        let axis = Axis::log(0.4, 30.0);
        assert_eq!((axis.range, axis.ticks.len()), (-1.0..2.0, 4));
    }
}
