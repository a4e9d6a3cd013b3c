//! Plots as inline SVG, drawn by plotters.
//!
//! Colours are written as the constants below and mean roles, not colours: `page.css` selects each
//! by its attribute, gives it the colour of the theme, and gives each line a dash of its own. The
//! units are half as large as pixels, since plotters draws at whole units only.

use std::fmt::Write as _;

use plotters::{
    coord::Shift,
    drawing::DrawingAreaErrorKind,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    axis::{Axis, percentile_label, rarity, tick_label, whole},
    words,
};
use crate::{
    outcome::{Incident, PhaseSpan},
    scenario::schedule::Phase,
};

/// Longer series are thinned to this many points.
const POINTS_MAX: usize = 600;
const WIDTH: u32 = 1_840;
const LEFT: u32 = 120;
const RIGHT: u32 = 24;
const TOP: u32 = 52;
const BOTTOM: u32 = 84;
const TEXT_SIZE: u32 = 28;
/// About how wide a letter of that size is, in units.
const LETTER: f64 = 12.5;

// Roles. `page.css` names the same values.
const TEXT: RGBColor = RGBColor(0x10, 0x10, 0x10);
const GRID: RGBColor = RGBColor(0x20, 0x20, 0x20);
const AXIS: RGBColor = RGBColor(0x30, 0x30, 0x30);
const PLATEAU: RGBColor = RGBColor(0x40, 0x40, 0x40);
const OTHER_PHASE: RGBColor = RGBColor(0x50, 0x50, 0x50);
const INCIDENT: RGBColor = RGBColor(0x60, 0x60, 0x60);
const TRACK: RGBColor = RGBColor(0x70, 0x70, 0x70);
const NOTHING: RGBAColor = RGBAColor(0, 0, 0, 0.0);

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// How a line looks: its colour and its dash.
#[derive(Clone, Copy)]
pub(crate) enum Ink {
    One,
    Two,
    Three,
    Four,
}

impl Ink {
    fn color(self) -> RGBColor {
        match self {
            Self::One => RGBColor(0x01, 0, 0),
            Self::Two => RGBColor(0x02, 0, 0),
            Self::Three => RGBColor(0x03, 0, 0),
            Self::Four => RGBColor(0x04, 0, 0),
        }
    }

    /// As the SVG holds it.
    pub(super) fn hex(self) -> String {
        let RGBColor(red, green, blue) = self.color();
        format!("#{red:02X}{green:02X}{blue:02X}")
    }
}

/// One plot: lines over time, or over percentiles.
pub(crate) struct Plot<'a> {
    /// For those who cannot see it.
    pub(crate) title: &'a str,
    pub(crate) x: X<'a>,
    pub(crate) y_unit: &'a str,
    pub(crate) y: Y,
    /// In units.
    pub(crate) height: u32,
    pub(crate) lines: Vec<Line>,
}

pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) ink: Ink,
    /// `None` breaks the line: nothing was measured.
    pub(crate) points: Vec<(f64, Option<f64>)>,
}

#[derive(Clone, Copy)]
pub(crate) enum X<'a> {
    /// Seconds since the beginning of the run.
    Time { phases: &'a [PhaseSpan], chaos: &'a [Incident] },
    /// Quantiles below 1; 1 itself is the maximum.
    Percentile,
    /// How many messages there are, by powers of ten.
    Messages,
}

#[derive(Clone, Copy)]
pub(crate) enum Y {
    /// From 0 to at least this.
    Linear { at_least: f64 },
    /// From the one to the other at least.
    Log { from: f64, to: f64 },
}

impl Plot<'_> {
    /// The plot as an element of the page.
    pub(super) fn svg(&self) -> String {
        element(self.title, self.height, |root| self.draw(root))
    }

    /// The smallest and the largest value of all lines.
    pub(super) fn extent(&self) -> Option<(f64, f64)> {
        let values = self.lines.iter().flat_map(|line| &line.points).filter_map(|point| point.1);
        values.filter(|it| it.is_finite()).fold(None, |extent, value| match extent {
            None => Some((value, value)),
            Some((least, most)) => Some((value.min(least), value.max(most))),
        })
    }

    fn draw<'b>(&self, root: &DrawingArea<SVGBackend<'b>, Shift>) -> Drawn<'b> {
        let (x_axis, y_axis) = (self.x_axis(), self.y_axis());
        let (x_end, y_range) = (x_axis.range.end, y_axis.range.clone());
        let mut chart = ChartBuilder::on(root)
            .margin_top(TOP)
            .margin_right(RIGHT)
            .x_label_area_size(BOTTOM)
            .y_label_area_size(LEFT)
            .build_cartesian_2d(x_axis, y_axis)?;
        if let X::Time { phases, .. } = self.x {
            for span in phases {
                let ink = if span.phase == Phase::Plateau { PLATEAU } else { OTHER_PHASE };
                let corners =
                    [(span.begins.min(x_end), y_range.start), (span.ends.min(x_end), y_range.end)];
                chart.plotting_area().draw(&Rectangle::new(corners, ink.filled()))?;
            }
        }
        let x_label = |x: &f64| match self.x {
            X::Time { .. } => words::clock(*x),
            X::Percentile => percentile_label(*x),
            X::Messages => tick_label(10_f64.powf(*x)),
        };
        let y_label = |y: &f64| match self.y {
            Y::Linear { .. } => tick_label(*y),
            Y::Log { .. } => tick_label(10_f64.powf(*y)),
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID.stroke_width(1))
            .light_line_style(NOTHING)
            .axis_style(AXIS.stroke_width(2))
            .label_style(("sans-serif", TEXT_SIZE).into_font().color(&TEXT))
            .x_label_formatter(&x_label)
            .y_label_formatter(&y_label)
            .x_desc(match self.x {
                X::Time { .. } if x_end >= 3_600.0 => "time since the run began (h:mm:ss)",
                X::Time { .. } => "time since the run began (m:ss)",
                X::Percentile => "percentile (each step to the right: ten times rarer)",
                X::Messages => "messages stored",
            })
            .draw()?;
        for line in &self.lines {
            let style = line.ink.color().stroke_width(3);
            for run in self.drawable(line, x_end, y_range.start) {
                match run.as_slice() {
                    [alone] => {
                        let dot = Circle::new(*alone, 4, line.ink.color().filled());
                        chart.draw_series([dot])?;
                    }
                    _ => _ = chart.draw_series(LineSeries::new(run, style))?,
                }
            }
        }
        let across = f64::from(WIDTH - LEFT - RIGHT) / x_end;
        root.draw(&Text::new(self.y_unit, (0, 6), text(HPos::Left, VPos::Top)))?;
        match self.x {
            X::Time { phases, chaos } => mark_time(root, self.height, across, x_end, phases, chaos),
            X::Percentile | X::Messages => Ok(()),
        }
    }

    fn x_axis(&self) -> Axis {
        let xs = self.lines.iter().flat_map(|line| line.points.iter().map(|point| point.0));
        match self.x {
            X::Time { phases, .. } => {
                Axis::time(xs.chain(phases.iter().map(|it| it.ends)).fold(1.0, f64::max))
            }
            X::Percentile => Axis::percentile(xs),
            X::Messages => {
                let (least, most) =
                    xs.fold((f64::MAX, 1.0), |(least, most), x| (x.min(least), x.max(most)));
                Axis::log_between(least.min(most), most)
            }
        }
    }

    fn y_axis(&self) -> Axis {
        let extent = self.extent();
        match self.y {
            Y::Linear { at_least } => Axis::linear(extent.map_or(0.0, |it| it.1).max(at_least)),
            Y::Log { from, to } => {
                let (least, most) = extent.unwrap_or((from, to));
                Axis::log(least.min(from), most.max(to))
            }
        }
    }

    /// The points between the breaks of a line, as the axes count.
    fn drawable(&self, line: &Line, x_end: f64, bottom: f64) -> Vec<Vec<(f64, f64)>> {
        let x = |x: f64| match self.x {
            X::Time { .. } => x,
            X::Percentile if x >= 1.0 => x_end,
            X::Percentile => rarity(x),
            X::Messages => x.max(1.0).log10(),
        };
        let y = |y: f64| match self.y {
            Y::Linear { .. } => y,
            Y::Log { .. } => y.max(1e-9).log10().max(bottom),
        };
        thin(&line.points)
            .split(|point| point.1.is_none())
            .filter(|run| !run.is_empty())
            .map(|run| run.iter().filter_map(|&(at, value)| Some((x(at), y(value?)))).collect())
            .collect()
    }
}

/// Plots below one another as a file of its own, each with its title and the names of its lines.
pub(crate) fn picture(plots: &[Plot<'_>]) -> String {
    const HEAD: u32 = 100;
    const INDENT: u32 = 28;
    let total: u32 = plots.iter().map(|it| it.height + HEAD).sum();
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {total}\">\
         <style>{}</style><rect width=\"{WIDTH}\" height=\"{total}\" fill=\"#fff\"/>",
        include_str!("plot.css").trim_end()
    );
    let mut top = 0;
    for plot in plots {
        let (baseline, mut x) = (top + 44, INDENT);
        let title = super::page::escaped(plot.title);
        let _ = write!(picture, "<text x=\"{x}\" y=\"{baseline}\" class=\"title\">{title}</text>");
        for Line { name, ink, .. } in &plot.lines {
            let (ink, end, baseline) = (ink.hex(), x + 50, top + 86);
            let _ = write!(
                picture,
                "<path d=\"M{x} {}H{end}\" stroke=\"{ink}\" stroke-width=\"4\"/>\
                 <text x=\"{}\" y=\"{baseline}\">{}</text>",
                baseline - 9,
                end + 12,
                super::page::escaped(name)
            );
            x = end + 12 + 16 * u32::try_from(name.chars().count()).unwrap_or(0) + 30;
        }
        top += HEAD;
        let placed = format!("<svg y=\"{top}\" width=\"{WIDTH}\" height=\"{}\" ", plot.height);
        picture += &plot.svg().replacen("<svg ", &placed, 1);
        top += plot.height;
    }
    picture += "</svg>\n";
    picture
}

/// Horizontal bars, the longest first: shares of one core in percent.
pub(super) fn bars(title: &str, bars: &[(&str, f64)]) -> String {
    const ROW: u32 = 50;
    const NAMES: i32 = 240;
    const VALUES: i32 = 130;
    let rows = u32::try_from(bars.len()).unwrap_or(u32::MAX).min(40);
    let most = bars.iter().map(|bar| bar.1).fold(100.0, f64::max);
    let full = i32::try_from(WIDTH).unwrap_or(i32::MAX) - NAMES - VALUES;
    element(title, rows * ROW + 12, |root| {
        for ((name, value), row) in bars.iter().zip(0..) {
            let top = 6 + row * 50;
            let middle = top + 20;
            let end = NAMES + whole(f64::from(full) * value / most).max(2);
            let bar = |end, ink: RGBColor| {
                Rectangle::new([(NAMES, top + 6), (end, top + 34)], ink.filled())
            };
            root.draw(&bar(NAMES + whole(f64::from(full) * 100.0 / most), TRACK))?;
            root.draw(&bar(end, Ink::One.color()))?;
            let at = (NAMES - 20, middle);
            root.draw(&Text::new(short(name, 16), at, text(HPos::Right, VPos::Center)))?;
            let at = (end + 14, middle);
            root.draw(&Text::new(format!("{value:.1} %"), at, text(HPos::Left, VPos::Center)))?;
        }
        Ok(())
    })
}

/// The names of the phases above them, where they fit, and lines with numbers where chaos struck.
fn mark_time<'b>(
    root: &DrawingArea<SVGBackend<'b>, Shift>,
    height: u32,
    across: f64,
    x_end: f64,
    phases: &[PhaseSpan],
    chaos: &[Incident],
) -> Drawn<'b> {
    let x = |seconds: f64| whole(f64::from(LEFT) + seconds.clamp(0.0, x_end) * across);
    let [top, bottom] = [TOP, height - BOTTOM].map(|it| i32::try_from(it).unwrap_or(0));
    for span in phases {
        let name = words::phase(span.phase);
        let room = (span.ends - span.begins) * across;
        if room >= (words::count(name.len() as u64) + 1.0) * LETTER {
            let middle = (x((span.begins + span.ends) / 2.0), top - 8);
            root.draw(&Text::new(name, middle, text(HPos::Center, VPos::Bottom)))?;
        }
    }
    let mut labelled = i32::MIN;
    for (incident, number) in chaos.iter().zip(1..) {
        let at = x(incident.at);
        root.draw(&PathElement::new([(at, top), (at, bottom)], INCIDENT.stroke_width(2)))?;
        // Numbers that would lie on each other are left out; the list below the plot has them all.
        if at >= labelled {
            let style = text(HPos::Left, VPos::Top);
            root.draw(&Text::new(format!("{number}"), (at + 7, top + 6), style.color(&INCIDENT)))?;
            labelled = at + 36;
        }
    }
    Ok(())
}

/// At most [`POINTS_MAX`] points: of neighbours the largest stays, since a peak must not vanish.
fn thin(points: &[(f64, Option<f64>)]) -> Vec<(f64, Option<f64>)> {
    let bucket = points.len().div_ceil(POINTS_MAX).max(1);
    let largest = |bucket: &[(f64, Option<f64>)]| {
        let values = bucket.iter().filter(|point| point.1.is_some_and(f64::is_finite));
        let largest =
            values.max_by(|a, b| a.1.partial_cmp(&b.1).unwrap_or(std::cmp::Ordering::Equal));
        largest.copied().unwrap_or((bucket[0].0, None))
    };
    points.chunks(bucket).map(largest).collect()
}

fn text(horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    let style = ("sans-serif", TEXT_SIZE).into_font().color(&TEXT);
    style.pos(Pos::new(horizontal, vertical))
}

fn short(text: &str, letters: usize) -> String {
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    text.chars().take(letters - 1).chain(['…']).collect()
}

/// An SVG element with its title, of the full width.
fn element(
    title: &str,
    height: u32,
    draw: impl for<'b> FnOnce(&DrawingArea<SVGBackend<'b>, Shift>) -> Drawn<'b>,
) -> String {
    let mut drawn = String::new();
    {
        let root = SVGBackend::with_string(&mut drawn, (WIDTH, height)).into_drawing_area();
        draw(&root).and_then(|()| root.present()).expect("a string takes every drawing");
    }
    // The opening tag is ours: no fixed size, and a name for those who cannot see the plot.
    let inner = drawn.split_once('>').map_or("", |(_, inner)| inner).replace(" opacity=\"1\"", "");
    let title = super::page::escaped(title);
    let mut element = String::new();
    let _ = write!(
        element,
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\"><title>{title}</title>{}",
        inner.trim_start()
    );
    element
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_peak_and_the_bound() {
        let mut points: Vec<_> = (0..10_000).map(|at| (f64::from(at), Some(1.0))).collect();
        points[4_321].1 = Some(99.0);
        let thinned = thin(&points);
        assert!(thinned.len() <= POINTS_MAX);
        assert!(thinned.contains(&(4_321.0, Some(99.0))));
    }

    #[test]
    fn a_bucket_in_which_nothing_was_measured_stays_a_break() {
        let points: Vec<_> = (0..1_200)
            .map(|at| (f64::from(at), (!(600..700).contains(&at)).then_some(1.0)))
            .collect();
        let breaks = thin(&points).iter().filter(|point| point.1.is_none()).count();
        assert_eq!(breaks, 50);
    }

    #[test]
    fn a_plot_without_a_single_value_can_be_drawn() {
        for y in [Y::Linear { at_least: 0.0 }, Y::Log { from: 1.0, to: 10.0 }] {
            for x in [X::Time { phases: &[], chaos: &[] }, X::Percentile, X::Messages] {
                let lines = vec![Line { name: "a", ink: Ink::One, points: vec![(1.0, None)] }];
                let plot = Plot { title: "t", x, y_unit: "ms", y, height: 400, lines };
                assert!(plot.svg().ends_with("</svg>\n"));
            }
        }
    }

    #[test]
    fn a_break_splits_the_line_and_a_lone_point_is_a_dot() {
        let points = [Some(1.0), Some(2.0), None, Some(3.0)];
        let points = points.into_iter().zip(0..).map(|(y, x)| (f64::from(x), y)).collect();
        let lines = vec![Line { name: "a", ink: Ink::Two, points }];
        let (x, y) = (X::Time { phases: &[], chaos: &[] }, Y::Linear { at_least: 1.0 });
        let svg = Plot { title: "t", x, y_unit: "ms", y, height: 400, lines }.svg();
        let of_the_line = format!("stroke=\"{}\"", Ink::Two.hex());
        assert_eq!(svg.matches(&of_the_line).count(), 1);
        assert_eq!(svg.matches("<circle").count(), 1);
    }

    #[test]
    fn a_picture_has_all_plots_below_one_another_and_their_names() {
        let points = vec![(10_000.0, Some(1.0)), (10_000_000.0, Some(3.0))];
        let plot = |title| Plot {
            title,
            x: X::Messages,
            y_unit: "ms",
            y: Y::Linear { at_least: 1.0 },
            height: 400,
            lines: vec![Line { name: "p99 <large>", ink: Ink::Three, points: points.clone() }],
        };
        let picture = picture(&[plot("one"), plot("two & three")]);
        assert!(picture.contains("viewBox=\"0 0 1840 1000\""), "{picture}");
        for part in
            ["y=\"100\"", "y=\"600\"", ">two &amp; three<", ">p99 &lt;large&gt;<", "10M", "10k"]
        {
            assert!(picture.contains(part), "{part} is not in {picture}");
        }
        // In the legends and the plots.
        assert_eq!(picture.matches("stroke=\"#030000\"").count(), 4 + 1);
    }

    #[test]
    fn a_threads_name_cannot_become_markup() {
        let svg = bars("CPU <of> threads", &[("<script>", 3.0)]);
        assert!(!svg.contains("<script>") && !svg.contains("<of>"));
    }
}
