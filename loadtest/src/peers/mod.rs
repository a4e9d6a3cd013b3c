//! hubbub beside its peers: the benchmark that anybody can repeat.
//!
//! Every contender is a broadcaster: what one connection sends, all get. They take turns (A B C A B
//! C …), each time with a fresh process on the server's core, while this program has the other one.
//! What slows the machine for a while so slows all of them, and ratios are made within a round. The
//! *floor* is a program of ours that only writes; nobody can be cheaper with as many writes.
//!
//! `contender` starts them, `dialect` speaks to them, `generator` loads them and `books` counts;
//! `process` reads what was used, `measure` is one turn, `figures` makes medians and ratios of the
//! turns, `table`, `plots` and `page` show them.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_setaffinity},
};
use serde::{Deserialize, Serialize};

use self::{
    contender::{Contender, Kind, Stable, Variant},
    figures::{Came, Round, Summary, Work},
    generator::Pace,
    measure::Ground,
};
use crate::{Failure, Verdict, capacity::Search, ceiling::allowed_cores, server::own::machine};

mod books;
mod contender;
mod dialect;
mod figures;
pub(crate) mod floor;
mod generator;
mod mark;
mod measure;
mod page;
mod plots;
pub(crate) mod process;
mod table;

/// Of the work that is called after it.
const MILLION: f64 = 1_000_000.0;
/// What each user of a search for the capacity publishes.
const MESSAGES_PER_USER_S: f64 = 0.1;
/// The bound on p99 that the search is for.
const P99_MS_MAX: f64 = 200.0;
/// Connections of the first point of `idle`.
const IDLE_FEW: usize = 1_000;
/// Open files that are not connections.
const OTHER_FILES: u64 = 200;
/// How near the answer of a search is to be.
const WITHIN_PERCENT: u32 = 5;

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {
    /// Turns of each contender in each work.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each measure takes.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,
    /// Load before each measure, in seconds.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=60))]
    warm_up: u64,
    /// Who takes part: names, or families such as `floor`.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// What is measured.
    #[arg(long, value_delimiter = ',', default_values = ["paced", "million", "saturation", "idle"])]
    work: Vec<Work>,
    /// Connections, each of which gets every message.
    #[arg(long, default_value_t = 425, value_parser = clap::value_parser!(u32).range(2..=20_000))]
    users: u32,
    /// Deliveries a second of `paced`.
    #[arg(long, default_value_t = 18_000.0)]
    rate: f64,
    /// Messages under way in `saturation`.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    under_way: u32,
    /// The size of a message's body.
    #[arg(long, default_value_t = 96, value_parser = clap::value_parser!(u32).range(16..=16_384))]
    body_bytes: u32,
    /// Most connections of `idle`; fewer where open files do not bear them.
    #[arg(long, default_value_t = 19_000, value_parser = clap::value_parser!(u32).range(1_100..=100_000))]
    idle_users: u32,
    /// Most users of `capacity`.
    #[arg(long, default_value_t = 12_000)]
    capacity_users: u32,
    /// The server; without it, the one that was built together with this program.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// hubbub once more, with settings in its environment, or `binary=PATH`. Can be repeated.
    #[arg(long, value_name = "NAME=KEY=VALUE,…", value_parser = Variant::parse)]
    variant: Vec<Variant>,
    /// Whether a server has the first core only, or the generator's too, as in production.
    #[arg(long, value_enum, default_value_t = ServerCores::One)]
    server_cores: ServerCores,
    #[command(flatten)]
    tools: Tools,
    /// Writes tables and plots into the section of this Markdown page that is marked for it.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Measures nothing, and shows what was printed with `--json` before. Can be repeated.
    #[arg(long, value_name = "FILE")]
    from: Vec<PathBuf>,
}

/// What others have made that stands beside hubbub.
#[derive(clap::Args, Clone, Debug)]
#[group(id = "tools-flags")]
pub(crate) struct Tools {
    /// Where `cargo xtask peers` has put the peers' packages; without it, `target/tools`.
    #[arg(long, value_name = "FOLDER")]
    tools: Option<PathBuf>,
}

impl Tools {
    fn folder(&self) -> Result<PathBuf> {
        if let Some(tools) = &self.tools {
            return Ok(tools.clone());
        }
        // target/release/loadtest → target/tools
        let program = std::env::current_exe()?;
        let target = program.parent().and_then(std::path::Path::parent);
        Ok(target.context("this program is in no folder")?.join("tools"))
    }

    /// The Python with the peers' packages.
    pub(crate) fn python(&self) -> Result<PathBuf, Failure> {
        let python = self.folder()?.join("venv-peers/bin/python");
        if !python.is_file() {
            return Err(Failure::configuration(anyhow!(
                "there is no {}: `cargo xtask peers --install` makes it",
                python.display()
            )));
        }
        Ok(python)
    }
}

/// Everything about a run, as `--json` prints it.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    setting: String,
    #[serde(default)]
    left_out: Vec<String>,
    /// Follow from the rounds.
    #[serde(skip_deserializing)]
    summaries: Vec<Summary>,
    rounds: Vec<Round>,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum ServerCores {
    One,
    All,
}

pub(crate) async fn run(flags: Flags, is_json: bool) -> Result<Verdict, Failure> {
    if let Some(path) = &flags.write {
        // What cannot be written is not measured first.
        page::check(path).map_err(Failure::Configuration)?;
    }
    let documents = if flags.from.is_empty() {
        vec![measured(&flags).await?]
    } else {
        flags.from.iter().map(read).collect::<Result<_, _>>().map_err(Failure::Configuration)?
    };
    let mut settings: Vec<_> = documents.iter().map(|it| it.setting.clone()).collect();
    settings.dedup();
    let left_out = documents.iter().flat_map(|it| it.left_out.clone()).collect();
    let rounds: Vec<_> = documents.into_iter().flat_map(|it| it.rounds).collect();
    let summaries = figures::summarise(&rounds);
    if let Some(path) = &flags.write {
        page::write(path, &settings, &summaries)?;
    }
    let is_right = summaries.iter().all(Summary::is_right);
    if is_json {
        let document = Document { setting: settings.join("; "), left_out, summaries, rounds };
        println!("{}", serde_json::to_string_pretty(&document).map_err(anyhow::Error::from)?);
    } else {
        print!("{}", table::text(&summaries));
    }
    Ok(if is_right { Verdict::Holds } else { Verdict::Broken })
}

fn read(path: &PathBuf) -> Result<Document> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--from {} cannot be read", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("--from {} is not what --json printed", path.display()))
}

/// All turns of all that take part.
async fn measured(flags: &Flags) -> Result<Document, Failure> {
    let binary = match &flags.binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe()?.with_file_name("hubbub"),
    };
    let contenders = chosen(flags, contender::all(&binary, &flags.variant))?;
    raise_open_files()?;
    let (ground, setting) = ground(flags)?;
    ground.stable.furnish()?;
    let (mut present, mut left_out) = (Vec::new(), Vec::new());
    for it in contenders {
        match it.missing(&ground.stable) {
            None => present.push(it),
            Some(why) => left_out.push(format!("{} does not take part: {why}", it.name)),
        }
    }
    for line in &left_out {
        eprintln!("{line} (`cargo xtask peers` installs the peers)");
    }
    if present.is_empty() {
        return Err(Failure::configuration(anyhow!("nobody is left to take part")));
    }
    eprintln!("{setting}");

    let mut rounds = Vec::new();
    for &work in &flags.work {
        for number in 1..=flags.rounds {
            for contender in &present {
                let came = turn(flags, &ground, work, number, contender).await;
                let came = came.unwrap_or_else(|error| Came::Failed(format!("{error:#}")));
                let round = Round { work, round: number, contender: contender.name.clone(), came };
                eprintln!("{}", table::line(&round));
                rounds.push(round);
            }
        }
    }
    Ok(Document { setting, left_out, summaries: Vec::new(), rounds })
}

/// One contender's turn.
async fn turn(
    flags: &Flags,
    ground: &Ground,
    work: Work,
    round: u32,
    contender: &Contender,
) -> Result<Came> {
    let users = flags.users as usize;
    let seed = u64::from(round);
    let open = |deliveries_per_s: f64| {
        let messages_per_s = deliveries_per_s / f64::from(flags.users);
        Pace::Open { messages_per_s }
    };
    let pace = match work {
        Work::Paced => open(flags.rate),
        Work::Million => open(MILLION),
        Work::Saturation => Pace::Closed { under_way: flags.under_way },
        Work::Idle => {
            let many = idle_users(flags.idle_users, contender);
            return Ok(Came::Rested(ground.rest(contender, IDLE_FEW, many).await?));
        }
        Work::Capacity => return reach(flags, ground, contender, seed).await,
    };
    Ok(Came::Carried(ground.carry(contender, users, pace, seed).await?))
}

/// The most users in one channel with p99 within its bound.
async fn reach(flags: &Flags, ground: &Ground, contender: &Contender, seed: u64) -> Result<Came> {
    let mut search = Search {
        passed: 0,
        failed: None,
        first: flags.users,
        last: flags.capacity_users,
        within: WITHIN_PERCENT,
    };
    let (mut p99_ms, mut last_error) = (0.0, None);
    while let Some(users) = search.next() {
        let pace = Pace::Open { messages_per_s: f64::from(users) * MESSAGES_PER_USER_S };
        let mut has_passed = false;
        // Once more before it counts: a hiccup of the machine is no limit of the server.
        for _ in 0..2 {
            match ground.carry(contender, users as usize, pace, seed).await {
                Ok(came) => {
                    ensure!(
                        came.is_right(),
                        "{users} users: {} deliveries lost, {} connections got wrong ones: {}",
                        came.lost,
                        came.faults,
                        came.evidence.join("; ")
                    );
                    has_passed = !came.is_overloaded && came.latency_ms[3] <= P99_MS_MAX;
                    eprintln!("{}", table::step(&contender.name, users, &came, has_passed));
                    p99_ms = if has_passed { came.latency_ms[3] } else { p99_ms };
                }
                // Who closes the connections that cannot keep up has reached its limit too.
                Err(error) => {
                    eprintln!("  {:<20} {users:>6} users  FAILED: {error:#}", contender.name);
                    last_error = Some(error);
                }
            }
            if has_passed {
                break;
            }
        }
        search.tell(users, has_passed);
    }
    if let (0, Some(error)) = (search.passed, last_error) {
        return Err(error);
    }
    Ok(Came::Reached { users: search.passed, too_many: search.failed, p99_ms })
}

/// As many as both processes may have; hubbub keeps some of its files for others.
fn idle_users(wanted: u32, contender: &Contender) -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let kept = if contender.is_hubbub() { hubbub::limits::OPEN_FILES_KEPT } else { OTHER_FILES };
    let borne = files.saturating_sub(kept.max(OTHER_FILES));
    let most = u64::from(wanted).min(borne).max(IDLE_FEW as u64 + 100);
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// As many as the system allows, also for the servers, which inherit it.
fn raise_open_files() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("the number of open files cannot be raised")
}

/// Keeps this program on the generator's core, and says who has which.
fn ground(flags: &Flags) -> Result<(Ground, String)> {
    let cores = allowed_cores()?;
    let (&[first, ..], &[.., last]) = (&*cores, &*cores) else {
        return Err(anyhow!("there is no core to run on"));
    };
    let only = |core| {
        let mut set = CpuSet::new();
        set.set(core);
        set
    };
    let mut server_cores = only(first);
    if flags.server_cores == ServerCores::All {
        server_cores.set(last);
    }
    sched_setaffinity(None, &only(last)).context("the generator has no core")?;
    let tools = flags.tools.folder()?;
    let server = match (first == last, flags.server_cores) {
        (true, _) => "server and generator share the only core: nothing here can be trusted".into(),
        (_, ServerCores::One) => format!("server on core {first} only, generator on core {last}"),
        (_, ServerCores::All) => {
            format!("server on cores {first} and {last}, generator on core {last}")
        }
    };
    let Flags { users, body_bytes, rounds, seconds, warm_up, .. } = flags;
    let setting = format!(
        "{server}; {users} users, bodies of {body_bytes} bytes, {rounds} rounds of {seconds} s after \
         {warm_up} s; {}",
        machine()
    );
    let setting = flags.variant.iter().fold(setting, |setting, it| format!("{setting}; {it}"));
    let mut measured = vec![first, last];
    measured.dedup();
    let ground = Ground {
        stable: Stable { tools, server_cores },
        cores: measured,
        body_bytes: *body_bytes as usize,
        warm_up: Duration::from_secs(*warm_up),
        window: Duration::from_secs(*seconds),
    };
    Ok((ground, setting))
}

fn chosen(flags: &Flags, all: Vec<Contender>) -> Result<Vec<Contender>, Failure> {
    let names: Vec<_> = all.iter().map(|it| it.name.clone()).collect();
    if let Some(unknown) = flags.only.iter().find(|word| !all.iter().any(|it| it.is_meant_by(word)))
    {
        return Err(Failure::configuration(anyhow!(
            "--only {unknown}: there is nobody of this name; there are {}",
            names.join(", ")
        )));
    }
    if flags.capacity_users < flags.users && flags.work.contains(&Work::Capacity) {
        return Err(Failure::configuration(anyhow!("--capacity-users is less than --users")));
    }
    if !(flags.rate.is_finite() && flags.rate > 0.0) {
        return Err(Failure::configuration(anyhow!("--rate must be more than 0")));
    }
    let is_chosen = |it: &Contender| {
        // What was added on this command line was meant to take part.
        let is_variant = matches!(&it.kind, Kind::Hubbub { .. }) && it.name != "hubbub";
        flags.only.is_empty() || is_variant || flags.only.iter().any(|word| it.is_meant_by(word))
    };
    Ok(all.into_iter().filter(is_chosen).collect())
}

#[cfg(test)]
mod tests;
