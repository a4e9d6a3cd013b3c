//! Importing many records: hubbub with one file, hubbub with many requests, and Python that only
//! parses them and writes a CSV file.
//!
//! Each turn of hubbub has a fresh server, so that its peak of memory is that of this import. What is
//! answered is compared with what was made, to the record.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::process::Command;

pub(crate) mod answer;
pub(crate) mod lines;
pub(crate) mod send;

use self::{
    answer::{Counts, Imported, NAMED_MAX},
    lines::{Lines, Shape},
};
use crate::{
    Failure, Verdict,
    peers::Tools,
    report::{
        grid::{cells, grid},
        words::{bytes, count, grouped},
    },
    server::{
        own::{self, Ground, Own},
        program,
        usage::{self, Usage},
    },
    spread::{Spread, cell},
};

/// The Python program's source.
const INTAKE: &str = include_str!("../../peers/intake.py");
/// How long it may take.
const INTAKE_DEADLINE: Duration = Duration::from_secs(3_600);

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {
    #[command(flatten)]
    own: own::Flags,
    /// Lines of the file.
    #[arg(long, default_value_t = 1_638_400, value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    /// How many of them are no records.
    #[arg(long, default_value_t = 0)]
    invalid: u64,
    /// Channels that the records are of, in turn.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    channels: u64,
    /// Authors of the records.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    authors: u64,
    /// Give each record an id of its own.
    #[arg(long)]
    ids: bool,
    /// Where the randomness begins: a seed always makes the same file.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Turns of each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Requests that the file is cut into, where it is.
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u64).range(1..))]
    requests: u64,
    /// Connections that these come on.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Who takes part: all, unless named.
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Way>,
    /// Instead: import the file twice; the second time nothing is new.
    #[arg(long, conflicts_with = "size")]
    twice: bool,
    /// Instead: one import of this size, made while it is sent, for the server's memory.
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    size: Option<u64>,
    #[command(flatten)]
    tools: Tools,
}

/// How the lines get in.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    /// One request with the whole file.
    File,
    /// Many requests.
    Requests,
    /// The Python program.
    Python,
}

/// One turn.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct Turn {
    round: u32,
    way: Way,
    seconds: f64,
    records_per_s: f64,
    counts: Counts,
    /// Of all threads of the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_s: Option<f64>,
    /// Resident memory before.
    #[serde(skip_serializing_if = "Option::is_none")]
    rested_bytes: Option<u64>,
    /// Resident memory at most.
    peak_bytes: u64,
    /// What is wrong with what was answered.
    complaint: Option<String>,
}

pub(crate) async fn run(flags: Flags, is_json: bool) -> Result<Verdict, Failure> {
    if flags.invalid > flags.records {
        return Err(Failure::configuration(anyhow!("--invalid is more than --records")));
    }
    let is_contest = !flags.twice && flags.size.is_none();
    let needs_python = is_contest && flags.takes(Way::Python);
    let python = needs_python.then(|| flags.tools.python()).transpose()?;
    let ground = flags.own.ground()?;
    let folder = flags.own.scratch("import")?;
    let mut setting = format!(
        "{} lines of {} authors in {} channels, {} of them no records{}, seed {}; {}",
        grouped(count(flags.records)),
        flags.authors,
        flags.channels,
        flags.invalid,
        if flags.ids { ", each with an id" } else { "" },
        flags.seed,
        ground.setting()
    );
    let turns = if let Some(size) = flags.size {
        setting = format!("{} made while they were sent; {}", bytes(count(size)), ground.setting());
        vec![streamed(&flags, &ground, size).await?]
    } else {
        let path = folder.path().join("lines.ndjson");
        let file_bytes = send::write_file(&path, &flags.shape())?;
        setting = format!("{}: {setting}", bytes(count(file_bytes)));
        eprintln!("{setting}");
        let file = Input { path, bytes: file_bytes };
        if flags.twice {
            twice(&flags, &ground, &file).await?
        } else {
            contest(&flags, &ground, &file, python.as_deref()).await?
        }
    };
    let ratios = Ratios::of(&turns);
    let document = json!({ "setting": setting, "ratios": ratios, "turns": turns });
    flags.own.tell(
        "import",
        &document,
        &format!("{setting}\n{}", text(&turns, &ratios)),
        is_json,
        None,
    )?;
    let is_right = turns.iter().all(|it| it.complaint.is_none());
    Ok(if is_right { Verdict::Holds } else { Verdict::Broken })
}

/// The file, and its length.
struct Input {
    path: PathBuf,
    bytes: u64,
}

/// All ways in turn; in each round another one is the first.
async fn contest(
    flags: &Flags,
    ground: &Ground,
    file: &Input,
    python: Option<&Path>,
) -> Result<Vec<Turn>, Failure> {
    let mut turns = Vec::new();
    for round in 1..=flags.rounds {
        let mut order = [Way::File, Way::Requests, Way::Python];
        order.rotate_left(round as usize % 3);
        for way in order.into_iter().filter(|it| flags.takes(*it)) {
            own::settle().await?;
            let turn = match (way, python) {
                (Way::Python, Some(python)) => intake(flags, ground, file, python, round).await?,
                _ => {
                    let own = ground.start("import", 1).await?;
                    let turn = import(flags, &own, file, way, round, 0).await?;
                    own.end().await?;
                    turn
                }
            };
            eprintln!("{}", line(&turn));
            turns.push(turn);
        }
    }
    Ok(turns)
}

/// One server that is given the same file once more.
async fn twice(flags: &Flags, ground: &Ground, file: &Input) -> Result<Vec<Turn>, Failure> {
    let own = ground.start("import", 1).await?;
    let records = flags.records - flags.invalid;
    let mut turns = Vec::new();
    for (round, known) in [(1, 0), (2, records)] {
        let turn = import(flags, &own, file, Way::File, round, known).await?;
        eprintln!("{}", line(&turn));
        turns.push(turn);
    }
    own.end().await?;
    Ok(turns)
}

/// A turn of hubbub, of whose records so many are known already.
async fn import(
    flags: &Flags,
    own: &Own,
    file: &Input,
    way: Way,
    round: u32,
    known: u64,
) -> Result<Turn> {
    let before = Usage::read(own.pid()?)?;
    let began = Instant::now();
    let (counts, complaint) = if way == Way::Requests {
        let talks = (0..flags.connections).map(|_| own.operator()).collect::<Result<_>>()?;
        let lines_each = flags.records.div_ceil(flags.requests);
        (send::requests(talks, &file.path, lines_each).await?.1, None)
    } else {
        let imported = send::file(&mut own.operator()?, &file.path).await?;
        (counts(&imported)?, flags.misnamed(&imported))
    };
    let seconds = began.elapsed().as_secs_f64();
    let valid = flags.records - flags.invalid;
    let (bytes, invalid, added) = (file.bytes, flags.invalid, valid - known);
    let expected = Counts { bytes, valid, invalid, added, known };
    let complaint = counts.complaint(expected).or(complaint);
    Turn::of_server(round, way, seconds, counts, own, &before, complaint)
}

/// One import that is made while it is sent.
async fn streamed(flags: &Flags, ground: &Ground, size: u64) -> Result<Turn, Failure> {
    let own = ground.start("import", 1).await?;
    let before = Usage::read(own.pid()?)?;
    // More than there will be.
    let mut lines = Lines::new(Shape { lines: u64::MAX, invalid: 0, ..flags.shape() });
    let began = Instant::now();
    let (sent, imported) = send::made(&mut own.operator()?, &mut lines, u64::MAX, size).await?;
    let seconds = began.elapsed().as_secs_f64();
    let (counts, valid) = (counts(&imported)?, lines.made());
    let expected = Counts { bytes: sent, valid, invalid: 0, added: valid, known: 0 };
    let complaint = counts.complaint(expected);
    let turn = Turn::of_server(1, Way::File, seconds, counts, &own, &before, complaint)?;
    own.end().await?;
    Ok(turn)
}

fn counts(imported: &Imported) -> Result<Counts> {
    imported.counts().map_err(|wrong| anyhow!(wrong))
}

/// What the Python program prints.
#[derive(Deserialize)]
struct Taken {
    valid: u64,
    invalid: u64,
    seconds: f64,
    peak_bytes: u64,
}

/// A turn of Python, on the same cores.
async fn intake(
    flags: &Flags,
    ground: &Ground,
    file: &Input,
    python: &Path,
    round: u32,
) -> Result<Turn> {
    let folder = flags.own.scratch("intake")?;
    let script = folder.path().join("intake.py");
    std::fs::write(&script, INTAKE)?;
    let mut command = Command::new(python);
    command.arg(script).arg(&file.path).arg(folder.path().join("out.csv"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = program::spawn_on(&ground.servers, &mut command)?;
    let output = tokio::time::timeout(INTAKE_DEADLINE, child.wait_with_output()).await;
    let output = output.context("the Python program does not end")??;
    if !output.status.success() {
        bail!("the Python program failed: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    let taken: Taken = serde_json::from_slice(&output.stdout).context("what Python printed")?;
    let Taken { valid, invalid, seconds, peak_bytes } = taken;
    let counts = Counts { bytes: file.bytes, valid, invalid, added: valid, known: 0 };
    let records = flags.records - flags.invalid;
    let expected = Counts { valid: records, invalid: flags.invalid, added: records, ..counts };
    Ok(Turn {
        round,
        way: Way::Python,
        seconds,
        records_per_s: count(valid) / seconds.max(1e-6),
        counts,
        cpu_s: None,
        rested_bytes: None,
        peak_bytes,
        complaint: counts.complaint(expected),
    })
}

impl Flags {
    fn takes(&self, way: Way) -> bool {
        self.only.is_empty() || self.only.contains(&way)
    }

    fn shape(&self) -> Shape {
        let &Self { invalid, channels, authors, seed, .. } = self;
        let (lines, has_ids) = (self.records, self.ids);
        Shape { lines, invalid, prefix: "import", channels, run: 1, authors, has_ids, seed }
    }

    /// What is wrong with the invalid lines that an import of the whole file names.
    fn misnamed(&self, imported: &Imported) -> Option<String> {
        let shape = self.shape();
        let bad = (0..self.records).filter(|it| shape.is_invalid(*it)).map(|it| it + 1);
        let bad: Vec<_> = bad.take(NAMED_MAX).collect();
        let named = imported.bad_lines();
        (named != bad).then(|| format!("it names the lines {named:?}, and not {bad:?}"))
    }
}

impl Turn {
    fn of_server(
        round: u32,
        way: Way,
        seconds: f64,
        counts: Counts,
        own: &Own,
        before: &Usage,
        complaint: Option<String>,
    ) -> Result<Self> {
        let after = Usage::read(own.pid()?)?;
        Ok(Self {
            round,
            way,
            seconds,
            records_per_s: count(counts.valid) / seconds.max(1e-6),
            counts,
            cpu_s: Some(after.cpu.saturating_sub(before.cpu).as_secs_f64()),
            rested_bytes: Some(before.resident_bytes),
            peak_bytes: usage::peak_bytes(own.pid()?)?,
            complaint,
        })
    }
}

/// Python's time by hubbub's, round by round: how many times as fast hubbub is.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct Ratios {
    python_by_file: Option<Spread>,
    python_by_requests: Option<Spread>,
}

impl Ratios {
    fn of(turns: &[Turn]) -> Self {
        let last = turns.iter().map(|it| it.round).max().unwrap_or(0);
        let of = |way, round| {
            turns.iter().find(|it| it.way == way && it.round == round).map(|it| it.seconds)
        };
        let by = |way| Spread::of_ratios((1..=last).map(|it| (of(Way::Python, it), of(way, it))));
        Self { python_by_file: by(Way::File), python_by_requests: by(Way::Requests) }
    }
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::File => "one file",
            Self::Requests => "requests",
            Self::Python => "python",
        }
    }
}

/// A turn, as soon as it is over.
fn line(turn: &Turn) -> String {
    let wrong = turn.complaint.as_ref().map_or(String::new(), |it| format!("  WRONG: {it}"));
    format!(
        "{:>2}  {:<8} {:>7.2} s  {:>9} records/s  peak {}{wrong}",
        turn.round,
        turn.way.name(),
        turn.seconds,
        grouped(turn.records_per_s),
        bytes(count(turn.peak_bytes))
    )
}

/// A row for each way, medians where there are several rounds; then the ratios.
fn text(turns: &[Turn], ratios: &Ratios) -> String {
    let head =
        ["", "seconds", "records/s", "CPU s", "peak memory", "of it before", "added", "known"];
    let mut rows = vec![cells(head)];
    for way in [Way::File, Way::Requests, Way::Python] {
        let ours: Vec<_> = turns.iter().filter(|it| it.way == way).collect();
        // Two imports into one server are two things.
        let groups: Vec<&[&Turn]> = if ours.iter().any(|it| it.counts.known > 0) {
            ours.chunks(1).collect()
        } else {
            ours.chunks(ours.len().max(1)).collect()
        };
        for group in groups {
            rows.push(row(way, group));
        }
    }
    let mut text = grid(&rows);
    if ratios.python_by_file.is_some() || ratios.python_by_requests.is_some() {
        text += &format!(
            "python / hubbub in seconds, by rounds: one file {}, requests {}\n",
            cell(ratios.python_by_file),
            cell(ratios.python_by_requests)
        );
    }
    for turn in turns {
        if let Some(complaint) = &turn.complaint {
            text += &format!("WRONG: {} in round {}: {complaint}\n", turn.way.name(), turn.round);
        }
    }
    text
}

fn row(way: Way, turns: &[&Turn]) -> Vec<String> {
    let median = |figure: &dyn Fn(&Turn) -> Option<f64>| {
        Spread::of(turns.iter().filter_map(|it| figure(it))).map(|it| it.median)
    };
    let told = |figure: Option<f64>, tell: fn(f64) -> String| figure.map_or("–".to_owned(), tell);
    let seconds = |it: f64| format!("{it:.2}");
    let most = turns.iter().map(|it| it.peak_bytes).max().map(count);
    vec![
        way.name().to_owned(),
        told(median(&|it| Some(it.seconds)), seconds),
        told(median(&|it| Some(it.records_per_s)), grouped),
        told(median(&|it| it.cpu_s), seconds),
        told(most, bytes),
        told(median(&|it| it.rested_bytes.map(count)), bytes),
        told(median(&|it| Some(count(it.counts.added))), grouped),
        told(median(&|it| Some(count(it.counts.known))), grouped),
    ]
}

/// `2GiB`, `500MiB`, or a number of bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size such as `2GiB` or `500MiB`");
    let digits = text.trim_end_matches(|it: char| !it.is_ascii_digit());
    let unit: u64 = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    let size = digits.parse::<u64>().ok().and_then(|it| it.checked_mul(unit));
    size.filter(|it| *it > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests;
