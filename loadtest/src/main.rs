//! The load generator: virtual users over the real wire, who measure and who audit what they get.
//!
//! It shares nothing with the server but the wire contract (the crash harness speaks it through the
//! Rust client, to test that too). What it says about a server therefore holds for what people see.
//!
//! The path of a run: `scenario` (what is to happen) → `run` (the conductor) → `swarm` (the virtual
//! users, on one thread) → `audit` (what must hold, pure) and `latency` (histograms) → `outcome`
//! (everything in one document) → `report` (what people see of it). Beside it: `server` (a server of
//! our own, and what it uses), `profile` (flamegraphs), `capacity` and `compare` (many runs),
//! `ceiling` (the generator alone), `peers` (hubbub beside others, with a generator of its own),
//! `crash` (kills and power cuts), and what is asked over HTTP: `posts`, `quota`, `import`, `growth`.

use std::process::ExitCode;

use clap::{Parser, Subcommand, error::ErrorKind};
use tokio::signal::unix::{SignalKind, signal};

mod audit;
mod capacity;
mod ceiling;
mod cluster;
mod compare;
mod crash;
mod growth;
mod import;
mod latency;
mod outcome;
mod peers;
mod posts;
mod profile;
mod quota;
mod report;
mod run;
mod scenario;
mod server;
mod spread;
mod swarm;
mod traffic;

#[derive(Parser)]
#[command(name = "loadtest", about = "Loads a hubbub server and audits every delivery", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON object instead of lines.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Loads a server with virtual users, and audits every delivery.
    Run(run::Flags),
    /// Searches for the most users that a server carries within bounds.
    Capacity(capacity::Flags),
    /// Compares two runs, figure by figure.
    Compare(compare::Flags),
    /// Measures this generator alone, against a sink: what it could count at most.
    Ceiling(ceiling::Flags),
    /// Measures hubbub beside its peers and beside a floor that only writes.
    Peers(peers::Flags),
    /// The floor itself.
    #[command(hide = true)]
    PeersFloor(peers::floor::Flags),
    /// Kills the server again and again under writers, and looks for what it lost.
    Crash(crash::Flags),
    /// Breaks a cluster again and again under writers, and looks for what it lost.
    Cluster(cluster::Flags),
    /// Measures posts over HTTP, beside a service in Python.
    Posts(posts::Flags),
    /// Posts beyond a channel's quota while the server is killed, and looks for what it holds.
    Quota(quota::Flags),
    /// Measures imports, beside Python that parses the same file, and counts what came of each line.
    Import(import::Flags),
    /// Measures what is asked of a server while millions of messages are put into it.
    Growth(growth::Flags),
    /// Draws folded stacks as a flamegraph.
    Draw(profile::Flags),
}

/// How a run ended that could be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Holds,
    Broken,
}

/// Why a run could not be made.
#[derive(Debug)]
enum Failure {
    /// What was asked for cannot be done here.
    Configuration(anyhow::Error),
    /// It began, and could not go on.
    Aborted(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Aborted(error.into())
    }
}

impl Failure {
    fn configuration(error: impl Into<anyhow::Error>) -> Self {
        Self::Configuration(error.into())
    }
}

/// The exit codes of k6.
const BROKEN: u8 = 99;
const BAD_CONFIGURATION: u8 = 104;
const ABORTED: u8 = 105;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing is left to do when even this cannot be printed.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(BAD_CONFIGURATION),
            };
        }
    };
    match run(arguments) {
        Ok(Verdict::Holds) => ExitCode::SUCCESS,
        Ok(Verdict::Broken) => ExitCode::from(BROKEN),
        Err(Failure::Configuration(error)) => {
            eprintln!("error: {error:#}");
            ExitCode::from(BAD_CONFIGURATION)
        }
        Err(Failure::Aborted(error)) => {
            eprintln!("aborted: {error:#}");
            ExitCode::from(ABORTED)
        }
    }
}

/// All virtual users share one thread, so that the generator has one core and not two.
fn run(arguments: Arguments) -> Result<Verdict, Failure> {
    // It has no runtime under it, whose signals nobody would hear.
    if let Command::PeersFloor(flags) = &arguments.command {
        peers::floor::run(flags)?;
        return Ok(Verdict::Holds);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let run = async {
            match arguments.command {
                Command::Run(flags) => run::run(flags, arguments.json).await,
                Command::Capacity(flags) => capacity::run(flags, arguments.json).await,
                Command::Compare(flags) => compare::run(&flags, arguments.json),
                Command::Ceiling(flags) => ceiling::run(&flags, arguments.json),
                Command::Peers(flags) => peers::run(flags, arguments.json).await,
                Command::PeersFloor(_) => unreachable!("it has ended above"),
                Command::Crash(flags) => crash::run(flags, arguments.json).await,
                Command::Cluster(flags) => cluster::run(flags, arguments.json).await,
                Command::Posts(flags) => posts::run(flags, arguments.json).await,
                Command::Quota(flags) => quota::run(flags, arguments.json).await,
                Command::Import(flags) => import::run(flags, arguments.json).await,
                Command::Growth(flags) => growth::run(flags, arguments.json).await,
                Command::Draw(flags) => profile::run(&flags),
            }
        };
        // Both before the run begins: a signal that comes before it is listened for ends this process
        // alone, and leaves the others behind.
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // Dropping the run ends the server and unmounts the disk.
        tokio::select! {
            verdict = run => verdict,
            _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted").into()),
            _ = terminate.recv() => Err(anyhow::anyhow!("terminated").into()),
        }
    })
}
