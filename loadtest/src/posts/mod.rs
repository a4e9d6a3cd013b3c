//! Posts over HTTP: hubbub beside a service in the reference report's manner, under `wrk`.
//!
//! Both make a message durable before they answer, both get the same request on as many
//! connections, on the same cores, in turn. After each turn all that was answered is looked for:
//! the sequences are 1, 2, 3, … as far as they were acknowledged.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use serde_json::json;
use tokio::process::Command;

pub(crate) mod history;
mod wrk;

use self::wrk::{Load, Posted, Target};
use crate::{
    Failure, Verdict,
    peers::{Tools, process::Probe},
    report::{
        grid::{cells, grid},
        words::{count, grouped},
    },
    server::{
        free_address,
        own::{self, Ground},
        program::Program,
    },
    spread::{Spread, cell},
};

/// The channel that all post to.
const CHANNEL: &str = "posts";
/// The Python service's source.
const SERVICE: &str = include_str!("../../peers/posts.py");

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {
    #[command(flatten)]
    own: own::Flags,
    /// Turns of each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each turn takes, in whole seconds.
    #[arg(long, default_value = "5s", value_parser = parse_seconds)]
    duration: u64,
    /// Posts before each turn that are not measured, in whole seconds.
    #[arg(long, default_value = "1s", value_parser = parse_seconds)]
    warm_up: u64,
    /// Connections, each with one post under way.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Threads of wrk.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// The size of a message's body.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    body_bytes: u32,
    /// Who takes part: both, unless named.
    #[arg(long, value_enum)]
    only: Option<Contender>,
    #[command(flatten)]
    tools: Tools,
}

/// Who takes part.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Contender {
    Hubbub,
    Python,
}

/// One turn.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct Turn {
    round: u32,
    contender: Contender,
    #[serde(flatten)]
    posted: Posted,
    /// Of all threads of the server.
    cpu_us_per_post: f64,
    /// Of one core.
    server_percent: f64,
    /// Messages that were found.
    stored: usize,
    /// What is wrong with them.
    complaint: Option<String>,
}

pub(crate) async fn run(flags: Flags, is_json: bool) -> Result<Verdict, Failure> {
    if let Some(why) = wrk::missing() {
        return Err(Failure::configuration(anyhow!(why)));
    }
    if flags.duration == 0 {
        return Err(Failure::configuration(anyhow!("--duration is at least 1s")));
    }
    let needs_python = flags.only != Some(Contender::Hubbub);
    let python = needs_python.then(|| flags.tools.python()).transpose()?;
    let ground = flags.own.ground()?;
    let setting = format!(
        "{} connections, {} threads of wrk, bodies of {} bytes, {} rounds of {} s after {} s; {}",
        flags.connections,
        flags.threads,
        flags.body_bytes,
        flags.rounds,
        flags.duration,
        flags.warm_up,
        ground.setting()
    );
    eprintln!("{setting}");
    let mut turns = Vec::new();
    for round in 1..=flags.rounds {
        let mut order = [Contender::Hubbub, Contender::Python];
        // Whoever follows the other finds the disk as the other left it.
        if round % 2 == 0 {
            order.reverse();
        }
        for contender in order.into_iter().filter(|it| flags.only.is_none_or(|only| only == *it)) {
            let turn = match (contender, &python) {
                (Contender::Python, Some(python)) => {
                    service(&flags, &ground, python, round).await?
                }
                _ => hubbub(&flags, &ground, round).await?,
            };
            eprintln!("{}", line(&turn));
            turns.push(turn);
        }
    }
    let ratios = Ratios::of(&turns);
    let document = json!({ "setting": setting, "ratios": ratios, "turns": turns });
    let text = format!("{setting}\n{}", text(&turns, &ratios));
    flags.own.tell("posts", &document, &text, is_json, None)?;
    let is_right = turns.iter().all(Turn::is_right);
    Ok(if is_right { Verdict::Holds } else { Verdict::Broken })
}

/// A turn of hubbub, on fresh data.
async fn hubbub(flags: &Flags, ground: &Ground, round: u32) -> Result<Turn, Failure> {
    own::settle().await?;
    let own = ground.start("posts", 1).await?;
    own.create_channel(json!({}), CHANNEL).await?;
    let folder = own.setup.data_dir.with_file_name("wrk");
    std::fs::create_dir_all(&folder)?;
    let path = format!("/v1/channels/{CHANNEL}/messages");
    let target = Target { address: own.setup.listen, path: &path, token: &own.tokens[0] };
    let loaded = flags.load(ground, own.pid()?, target, &folder).await?;
    let history = history::read(&mut own.user(0), CHANNEL).await?;
    own.end().await?;
    let complaint = loaded.complaint(&history.sequences, flags);
    let is_whole = history.sequences.last().copied().unwrap_or(0) == history.head;
    let complaint = complaint.or_else(|| {
        (!is_whole).then(|| format!("history says that it ends with {}", history.head))
    });
    Ok(loaded.turn(Contender::Hubbub, round, history.sequences.len(), complaint))
}

/// A turn of the Python service, on a fresh log.
async fn service(
    flags: &Flags,
    ground: &Ground,
    python: &Path,
    round: u32,
) -> Result<Turn, Failure> {
    own::settle().await?;
    let folder = flags.own.scratch("posts")?;
    let (script, log) = (folder.path().join("posts.py"), folder.path().join("posts.ndjson"));
    std::fs::write(&script, SERVICE)?;
    let address = free_address()?;
    let key = format!("{:032x}", rand::random::<u128>());
    let mut command = Command::new(python);
    command.arg(script).arg(address.ip().to_string()).arg(address.port().to_string()).arg(&log);
    command.env("POSTS_KEY", &key).env("PYTHONDONTWRITEBYTECODE", "1");
    let program = Program::start(command, address, folder, &ground.servers).await;
    let program = program.context("the Python service does not start")?;
    let claims = json!({ "sub": "virtual-0" });
    let token = jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &claims,
        &EncodingKey::from_secret(key.as_bytes()),
    )?;
    let path = format!("/v1/channels/{CHANNEL}/messages");
    let target = Target { address, path: &path, token: &token };
    let loaded = flags.load(ground, program.pid()?, target, program.folder.path()).await?;
    // What is written was synced before it was answered; nothing has to be waited for.
    let written = std::fs::read_to_string(&log).context("the service's log")?;
    program.kill().await?;
    let sequences = logged(&written)?;
    let complaint = loaded.complaint(&sequences, flags);
    Ok(loaded.turn(Contender::Python, round, sequences.len(), complaint))
}

/// What wrk and the scheduler say of a turn.
struct Loaded {
    posted: Posted,
    /// Before the turn.
    warmed_up: u64,
    server_s: f64,
    wall_s: f64,
}

impl Flags {
    /// Warms a server up, and measures it.
    async fn load(
        &self,
        ground: &Ground,
        pid: u32,
        target: Target<'_>,
        folder: &Path,
    ) -> Result<Loaded> {
        let &Self { connections, threads, body_bytes, .. } = self;
        let load = Load {
            connections,
            threads: threads.min(connections),
            body_bytes: body_bytes as usize,
        };
        let warmed_up = match self.warm_up {
            0 => 0,
            seconds => load.post(target, seconds, folder).await?.accepted,
        };
        let before = Probe::take(pid, &ground.all)?;
        let posted = load.post(target, self.duration, folder).await?;
        let spent = before.until(&Probe::take(pid, &ground.all)?, ground.all.len());
        let (server_s, wall_s) = (spent.server_s, spent.wall_s);
        Ok(Loaded { posted, warmed_up, server_s, wall_s })
    }
}

impl Loaded {
    /// What is wrong with the messages that were found.
    fn complaint(&self, sequences: &[u64], flags: &Flags) -> Option<String> {
        let runs = 1 + u64::from(flags.warm_up > 0);
        // When wrk stops, each of its connections may have a post under way.
        let under_way = runs * u64::from(flags.connections) + self.posted.unanswered;
        history::complaint(sequences, self.warmed_up + self.posted.accepted, under_way)
    }

    fn turn(
        self,
        contender: Contender,
        round: u32,
        stored: usize,
        complaint: Option<String>,
    ) -> Turn {
        Turn {
            round,
            contender,
            cpu_us_per_post: self.server_s * 1e6 / count(self.posted.accepted.max(1)),
            server_percent: self.server_s / self.wall_s.max(1e-6) * 100.0,
            posted: self.posted,
            stored,
            complaint,
        }
    }
}

/// The sequences in the Python service's log, in its order.
fn logged(written: &str) -> Result<Vec<u64>> {
    // Of the last line only a part may be there.
    let whole = written.rfind('\n').map_or("", |end| &written[..end]);
    let sequence = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line)?;
        line["sequence"].as_u64().context("a line of the log has no sequence")
    };
    whole.lines().map(sequence).collect()
}

impl Turn {
    fn is_right(&self) -> bool {
        self.complaint.is_none() && self.posted.refused == 0 && self.posted.unanswered == 0
    }
}

/// hubbub's figures by those of the service, round by round.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct Ratios {
    accepted_per_s: Option<Spread>,
    p99: Option<Spread>,
    cpu_us_per_post: Option<Spread>,
}

impl Ratios {
    fn of(turns: &[Turn]) -> Self {
        let last = turns.iter().map(|it| it.round).max().unwrap_or(0);
        let ratios = |figure: fn(&Turn) -> f64| {
            let of = |contender, round| {
                turns.iter().find(|it| it.contender == contender && it.round == round).map(figure)
            };
            Spread::of_ratios(
                (1..=last).map(|it| (of(Contender::Hubbub, it), of(Contender::Python, it))),
            )
        };
        Self {
            accepted_per_s: ratios(|it| it.posted.accepted_per_s),
            p99: ratios(|it| it.posted.latency_ms[2]),
            cpu_us_per_post: ratios(|it| it.cpu_us_per_post),
        }
    }
}

impl Contender {
    fn name(self) -> &'static str {
        match self {
            Self::Hubbub => "hubbub",
            Self::Python => "python",
        }
    }
}

/// A turn, as soon as it is over.
fn line(turn: &Turn) -> String {
    let Turn { round, contender, posted, complaint, .. } = turn;
    let [p50, _, p99, max] = posted.latency_ms;
    let wrong = complaint.as_ref().map_or(String::new(), |it| format!("  WRONG: {it}"));
    format!(
        "{round:>2}  {:<7} {:>7}/s  p50 {p50:.2}  p99 {p99:.2}  max {max:.2} ms  server {:.0} %{wrong}",
        contender.name(),
        grouped(posted.accepted_per_s),
        turn.server_percent
    )
}

/// Medians of both, and the ratios.
fn text(turns: &[Turn], ratios: &Ratios) -> String {
    let head =
        ["", "posts/s", "p50 ms", "p90", "p99", "max", "CPU µs per post", "server %", "errors"];
    let mut rows = vec![cells(head)];
    for contender in [Contender::Hubbub, Contender::Python] {
        let ours: Vec<_> = turns.iter().filter(|it| it.contender == contender).collect();
        if ours.is_empty() {
            continue;
        }
        let median = |figure: &dyn Fn(&Turn) -> f64| {
            Spread::of(ours.iter().map(|it| figure(it))).map_or(0.0, |it| it.median)
        };
        let mut row = vec![contender.name().to_owned()];
        row.push(grouped(median(&|it| it.posted.accepted_per_s)));
        row.extend((0..4).map(|at| format!("{:.2}", median(&|it| it.posted.latency_ms[at]))));
        row.push(format!("{:.1}", median(&|it| it.cpu_us_per_post)));
        row.push(format!("{:.0}", median(&|it| it.server_percent)));
        let errors: u64 = ours.iter().map(|it| it.posted.refused + it.posted.unanswered).sum();
        row.push(grouped(count(errors)));
        rows.push(row);
    }
    let mut text = grid(&rows);
    text += &format!(
        "hubbub / python, by rounds: posts/s {}, p99 {}, CPU per post {}\n",
        cell(ratios.accepted_per_s),
        cell(ratios.p99),
        cell(ratios.cpu_us_per_post)
    );
    for turn in turns {
        if let Some(complaint) = &turn.complaint {
            text +=
                &format!("WRONG: {} in round {}: {complaint}\n", turn.contender.name(), turn.round);
        }
    }
    text
}

fn parse_seconds(text: &str) -> Result<u64, String> {
    let duration: Duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if duration.subsec_nanos() > 0 {
        return Err("wrk counts whole seconds".to_owned());
    }
    Ok(duration.as_secs())
}

#[cfg(test)]
mod tests;
