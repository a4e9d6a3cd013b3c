//! Two runs side by side, with a verdict for each figure.
//!
//! A difference counts if it is beyond the noise. Where a figure has a value for each second, its
//! noise is measured: how much the seconds of a plateau differ. Where it has not, the operator says
//! what is noise.

use std::{collections::BTreeSet, fs, path::Path, path::PathBuf};

use anyhow::{Context as _, anyhow, bail};
use serde::Serialize;

use crate::{
    Failure, Verdict,
    outcome::{self, Outcome, Second},
    scenario::{
        figure::{self, Better, Kind},
        schedule::Phase,
    },
};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {
    /// The JSON document of the run before.
    a: PathBuf,
    /// The JSON document of the run after.
    b: PathBuf,
    /// Differences up to this share are noise.
    #[arg(long, value_name = "SHARE", default_value = "5%", value_parser = percent)]
    noise: f64,
    /// Exit with 99 if a figure is worse.
    #[arg(long)]
    fail_on_worse: bool,
}

pub(crate) fn run(flags: &Flags, is_json: bool) -> Result<Verdict, Failure> {
    let [a, b] = [&flags.a, &flags.b].map(|path| read(path).map_err(Failure::Configuration));
    let comparison = Comparison::new(&a?, &b?, flags.noise);
    if is_json {
        println!("{}", serde_json::to_string_pretty(&comparison)?);
    } else {
        print!("{}", comparison.text());
    }
    let is_worse = comparison.figures.iter().any(|row| row.judgement == Judgement::Worse);
    Ok(if flags.fail_on_worse && is_worse { Verdict::Broken } else { Verdict::Holds })
}

/// `5%` or `5` → 5.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').trim().parse::<f64>();
    let number = number.ok().filter(|it| it.is_finite() && *it >= 0.0);
    number.ok_or_else(|| format!("`{text}` is no share like `5%`"))
}

fn read(path: &Path) -> anyhow::Result<Outcome> {
    let shown = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("{shown} cannot be read"))?;
    parse(&text).with_context(|| shown.to_string())
}

fn parse(text: &str) -> anyhow::Result<Outcome> {
    let document: serde_json::Value = serde_json::from_str(text).context("it is no JSON")?;
    let Some(version) = document.get("version").and_then(serde_json::Value::as_u64) else {
        bail!("it is not the document of a run, as `loadtest run` writes it");
    };
    if version != u64::from(outcome::VERSION) {
        let ours = outcome::VERSION;
        return Err(anyhow!("its layout is number {version}, and this program reads {ours}"));
    }
    serde_json::from_value(document).context("it is not the document of a run")
}

/// Two runs side by side.
#[derive(Clone, Debug, Serialize)]
struct Comparison {
    /// When they began.
    a: String,
    b: String,
    noise_percent: f64,
    /// What makes the comparison doubtful.
    warnings: Vec<String>,
    figures: Vec<Row>,
}

#[derive(Clone, Debug, Serialize)]
struct Row {
    figure: String,
    a: Option<f64>,
    b: Option<f64>,
    /// From A to B, in percent of A. Not there where A is 0.
    change_percent: Option<f64>,
    /// What the seconds of the plateaus differ by, if that was measured: two standard errors of both
    /// medians together, in the unit of the figure.
    noise: Option<f64>,
    #[serde(rename = "verdict")]
    judgement: Judgement,
    #[serde(skip)]
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Judgement {
    Better,
    Worse,
    Same,
    /// There is nothing to judge: one run does not have the figure, or no direction is better.
    None,
}

impl Comparison {
    fn new(a: &Outcome, b: &Outcome, noise_percent: f64) -> Self {
        let mut names: Vec<_> = figure::all().map(|figure| figure.name).collect();
        let known: BTreeSet<_> = names.iter().cloned().collect();
        let present: BTreeSet<_> = a.figures.keys().chain(b.figures.keys()).cloned().collect();
        names.retain(|name| present.contains(name));
        names.extend(present.difference(&known).cloned());
        Self {
            a: a.began_at.clone(),
            b: b.began_at.clone(),
            noise_percent,
            warnings: warnings(a, b),
            figures: names.into_iter().map(|name| Row::new(name, a, b, noise_percent)).collect(),
        }
    }

    fn text(&self) -> String {
        let mut lines = vec![["figure", "A", "B", "change", "verdict"].map(str::to_owned)];
        lines.extend(self.figures.iter().map(|row| {
            let value = |it: Option<f64>| it.map_or("–".to_owned(), |it| shown(it, row.kind));
            let change = row.change_percent.map_or("–".to_owned(), |it| format!("{it:+.1} %"));
            let judgement = match row.judgement {
                Judgement::Better => "better",
                Judgement::Worse => "worse",
                Judgement::Same => "same",
                Judgement::None => "–",
            };
            [row.figure.clone(), value(row.a), value(row.b), change, judgement.to_owned()]
        }));
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
        let [name, a, b, change] = [0, 1, 2, 3].map(|column| width(column).unwrap_or_default());
        let lines = lines.iter().map(|[figure, left, right, by, judgement]| {
            format!("{figure:name$}  {left:>a$}  {right:>b$}  {by:>change$}  {judgement}\n")
        });
        let warnings = self.warnings.iter().map(|warning| format!("warning: {warning}\n"));
        format!("A  {}\nB  {}\n", self.a, self.b)
            + &warnings.chain(["\n".to_owned()]).chain(lines).collect::<String>()
    }
}

impl Row {
    fn new(figure: String, a: &Outcome, b: &Outcome, noise_percent: f64) -> Self {
        let known = figure::find(&figure);
        let better = known.as_ref().map_or(Better::Neither, |known| known.better);
        let noise = measured_noise(&figure, a, b);
        let [a, b] = [a, b].map(|run| run.figures.get(&figure).copied());
        let (change_percent, judgement) = match (a, b) {
            (Some(a), Some(b)) => {
                let change = (a != 0.0).then(|| (b - a) / a * 100.0);
                let is_noise = a == b
                    || change.is_some_and(|change| change.abs() <= noise_percent)
                    || noise.is_some_and(|noise| (b - a).abs() <= noise);
                let judgement = match better {
                    Better::Neither => Judgement::None,
                    _ if is_noise => Judgement::Same,
                    Better::Lower if b < a => Judgement::Better,
                    Better::Higher if b > a => Judgement::Better,
                    Better::Lower | Better::Higher => Judgement::Worse,
                };
                (change, judgement)
            }
            _ => (None, Judgement::None),
        };
        let kind = known.map_or(Kind::Plain, |known| known.kind);
        Self { figure, a, b, change_percent, noise, judgement, kind }
    }
}

/// Two standard errors of the difference of the medians, if the figure has values by the second.
fn measured_noise(figure: &str, a: &Outcome, b: &Outcome) -> Option<f64> {
    let of_second = of_second(figure)?;
    let errors = [a, b].map(|run| {
        let values: Vec<_> = measured_seconds(run).filter_map(of_second).collect();
        error_of_median(&values)
    });
    let [Some(a), Some(b)] = errors else { return None };
    Some(2.0 * a.hypot(b))
}

/// Where a second has the figure.
fn of_second(figure: &str) -> Option<fn(&Second) -> Option<f64>> {
    Some(match figure {
        "deliver.p50" => |it| it.deliver.map(|[p50, ..]| p50),
        "deliver.p90" => |it| it.deliver.map(|[_, p90, ..]| p90),
        "deliver.p95" => |it| it.deliver.map(|[_, _, p95, ..]| p95),
        "deliver.p99" => |it| it.deliver.map(|[_, _, _, p99, _]| p99),
        "ack.p50" => |it| it.ack.map(|[p50, ..]| p50),
        "ack.p90" => |it| it.ack.map(|[_, p90, ..]| p90),
        "ack.p95" => |it| it.ack.map(|[_, _, p95, ..]| p95),
        "ack.p99" => |it| it.ack.map(|[_, _, _, p99, _]| p99),
        "messages_per_s" => |it| Some(float(it.messages)),
        "deliveries_per_s" => |it| Some(float(it.deliveries)),
        "generator.cpu_percent" => |it| Some(it.generator_cpu),
        "server.cpu_percent" => |it| it.server_cpu,
        _ => return None,
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts of a second are far below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}

/// The seconds that lie in a plateau as a whole; all of them, where there is no plateau.
fn measured_seconds(run: &Outcome) -> impl Iterator<Item = &Second> {
    let plateaus: Vec<_> = run.phases.iter().filter(|it| it.phase == Phase::Plateau).collect();
    run.seconds.iter().filter(move |second| {
        plateaus.is_empty()
            || plateaus.iter().any(|it| it.begins <= second.at - 1.0 && second.at <= it.ends)
    })
}

/// Fewer seconds say nothing about their spread.
const SECONDS_MIN: usize = 5;

/// The standard error of the median, from the median absolute deviation, which a few bad seconds
/// cannot spoil.
fn error_of_median(values: &[f64]) -> Option<f64> {
    if values.len() < SECONDS_MIN {
        return None;
    }
    let median = median(values.to_vec());
    let deviation = self::median(values.iter().map(|value| (value - median).abs()).collect());
    // For a normal distribution, the standard deviation is 1.4826 times the median absolute
    // deviation, and the error of the median is √(π/2) times that of the mean.
    #[expect(clippy::cast_precision_loss, reason = "seconds of a run")]
    let count = values.len() as f64;
    Some(1.4826 * deviation * (std::f64::consts::FRAC_PI_2 / count).sqrt())
}

/// Of at least one value.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

/// What makes the comparison doubtful: the runs did not do the same, or were doubtful themselves.
fn warnings(a: &Outcome, b: &Outcome) -> Vec<String> {
    let mut warnings = Vec::new();
    let [left, right] = [a, b].map(|run| {
        let scenario = serde_json::to_value(&run.scenario);
        scenario.expect("it was read from JSON, and has no other keys than text")
    });
    let fields = left.as_object().into_iter().flatten();
    for (field, left) in fields {
        // These do not change what is done.
        if ["name", "about", "thresholds"].contains(&field.as_str()) {
            continue;
        }
        let right = &right[field];
        if left != right {
            warnings.push(format!("the scenarios differ in {field}: {left} and {right}"));
        }
    }
    for (name, run) in [("A", a), ("B", b)] {
        warnings.extend(run.warnings.iter().map(|warning| format!("{name}: {warning}")));
    }
    warnings
}

/// With its unit, in about four digits.
fn shown(value: f64, kind: Kind) -> String {
    let digits = |value: f64| match value.abs() {
        size if size >= 1_000.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    const MIB: f64 = 1024.0 * 1024.0;
    match kind {
        Kind::Plain => digits(value),
        Kind::Time => format!("{} ms", digits(value)),
        Kind::Percent => format!("{} %", digits(value)),
        Kind::Bytes if value >= MIB => format!("{} MiB", digits(value / MIB)),
        Kind::Bytes => format!("{} B", digits(value)),
    }
}

#[cfg(test)]
mod tests;
