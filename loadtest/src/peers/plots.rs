//! Plots of the medians, one picture for each work, drawn by plotters as SVG.
//!
//! They stand in a Markdown page, which shows them as they are: so they bring their own background,
//! and every bar has its figure beside it.

use plotters::{
    coord::Shift,
    drawing::DrawingAreaErrorKind,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    figures::{Medians, Summary, Work},
    page,
};
use crate::{
    report::{axis::whole, words::grouped as thousands},
    spread::Spread,
};

const WIDTH: u32 = 960;
const ROW: u32 = 26;
const HEAD: u32 = 46;
const FOOT: u32 = 12;
/// For the names, before the bars, and for the figures, behind them.
const NAMES: i32 = 190;
const FIGURES: i32 = 200;
const TEXT_SIZE: u32 = 14;

const OURS: RGBColor = RGBColor(0xC8, 0x4B, 0x31);
const FLOOR: RGBColor = RGBColor(0x9A, 0x9A, 0x9A);
const PEER: RGBColor = RGBColor(0x3B, 0x6E, 0xA5);
const TEXT: RGBColor = RGBColor(0x22, 0x22, 0x22);
const SPREAD: RGBColor = RGBColor(0x22, 0x22, 0x22);

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// One figure of all contenders.
struct Panel {
    title: String,
    bars: Vec<(String, Spread)>,
    told: fn(f64) -> String,
}

/// The picture of each work.
pub(super) fn svgs(summaries: &[Summary]) -> Vec<(Work, String)> {
    let mut works: Vec<_> = summaries.iter().map(|it| it.work).collect();
    works.dedup();
    let svg = |work| {
        let panels = panels(summaries, work);
        (work, picture(&panels))
    };
    works.into_iter().map(svg).collect()
}

fn panels(summaries: &[Summary], work: Work) -> Vec<Panel> {
    let panel = |what: &str, told, figure: fn(&Medians) -> Option<Spread>| {
        let of_work = summaries.iter().filter(|it| it.work == work);
        // Who cannot keep up has no figures that could stand beside the others.
        let kept_up = of_work.filter(|it| !it.cannot_keep_up());
        let bar = |it: &Summary| Some((it.contender.clone(), figure(it.figures.as_ref()?)?));
        let title = format!("{}: {what}", page::title(work));
        Panel { title, bars: kept_up.filter_map(bar).collect(), told }
    };
    let cpu = || {
        panel(
            "CPU per delivery, µs",
            |it| format!("{it:.2}"),
            |it| match it {
                Medians::Carried { cpu_us_per_delivery, .. } => Some(*cpu_us_per_delivery),
                _ => None,
            },
        )
    };
    let p99 = || {
        panel(
            "p99, ms",
            |it| format!("{it:.1}"),
            |it| match it {
                Medians::Carried { p99_ms, .. } => Some(*p99_ms),
                _ => None,
            },
        )
    };
    match work {
        Work::Paced | Work::Million => vec![cpu(), p99()],
        Work::Saturation => vec![panel("deliveries a second", thousands, |it| match it {
            Medians::Carried { deliveries_per_s, .. } => Some(*deliveries_per_s),
            _ => None,
        })],
        Work::Idle => vec![panel("bytes per connection", thousands, |it| match it {
            Medians::Rested { bytes_per_connection, .. } => Some(*bytes_per_connection),
            _ => None,
        })],
        Work::Capacity => vec![panel("users", thousands, |it| match it {
            Medians::Reached { users, .. } => Some(*users),
            _ => None,
        })],
    }
}

fn height(panel: &Panel) -> u32 {
    HEAD + FOOT + ROW * u32::try_from(panel.bars.len()).unwrap_or(0)
}

fn picture(panels: &[Panel]) -> String {
    let mut drawn = String::new();
    {
        let size = (WIDTH, panels.iter().map(height).sum::<u32>().max(1));
        let mut rest = SVGBackend::with_string(&mut drawn, size).into_drawing_area();
        let root = rest.clone();
        let mut draw = || -> Drawn<'_> {
            root.fill(&WHITE)?;
            for panel in panels {
                let (area, below) = rest.split_vertically(height(panel));
                draw_panel(&area, panel)?;
                rest = below;
            }
            root.present()
        };
        draw().expect("a string takes every drawing");
    }
    drawn
}

fn draw_panel<'a>(area: &DrawingArea<SVGBackend<'a>, Shift>, panel: &Panel) -> Drawn<'a> {
    let at = (12, 12);
    area.draw(&Text::new(panel.title.clone(), at, text(HPos::Left, VPos::Top, TEXT_SIZE + 2)))?;
    let most = panel.bars.iter().map(|it| it.1.most).fold(0.0, f64::max);
    let room = i32::try_from(WIDTH).unwrap_or(i32::MAX) - NAMES - FIGURES;
    let x = |value: f64| {
        let share = value.max(0.0) / most.max(f64::MIN_POSITIVE);
        NAMES + whole(f64::from(room) * share)
    };
    for ((name, spread), row) in panel.bars.iter().zip(0..) {
        let top = i32::try_from(HEAD).unwrap_or(0) + row * i32::try_from(ROW).unwrap_or(0);
        let middle = top + 10;
        let style = text(HPos::Right, VPos::Center, TEXT_SIZE);
        area.draw(&Text::new(name.clone(), (NAMES - 10, middle), style))?;
        let corners = [(NAMES, top + 1), (x(spread.median).max(NAMES + 2), top + 19)];
        area.draw(&Rectangle::new(corners, color(name).filled()))?;
        let ends = [(x(spread.least), middle), (x(spread.most), middle)];
        area.draw(&PathElement::new(ends, SPREAD.stroke_width(1)))?;
        let told = (panel.told)(spread.median);
        let style = text(HPos::Left, VPos::Center, TEXT_SIZE);
        area.draw(&Text::new(told, (ends[1].0.max(corners[1].0) + 8, middle), style))?;
    }
    Ok(())
}

fn color(contender: &str) -> RGBColor {
    match contender.split('-').next() {
        Some("hubbub") => OURS,
        Some("floor") => FLOOR,
        _ => PEER,
    }
}

fn text(horizontal: HPos, vertical: VPos, size: u32) -> TextStyle<'static> {
    let style = ("sans-serif", size).into_font().color(&TEXT);
    style.pos(Pos::new(horizontal, vertical))
}
