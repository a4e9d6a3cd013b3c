//! `hubbub migrate`: everything of one store into another, such as from a single node's directory into
//! a cluster.

use std::{
    convert::Infallible,
    fmt,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    str::FromStr,
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use bytesize::ByteSize;
use clap::Args;
use hubbub::{
    engine::{
        Engine,
        sqlite::{self, SqliteEngine, SqliteOptions},
    },
    migrate::{self, MigrateError, Progress, Side, Verified, plan::Plan},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use thiserror::Error;
use tokio::time::interval;

use super::{CliError, process::print};

/// How often the bar moves.
const BAR_EVERY: Duration = Duration::from_millis(200);
/// What a data directory has that a hub has used.
const LOG_FILE: &str = "hubbub.db";

#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// What is copied, and never changed: sqlite:DIR, the data directory of a stopped server
    #[arg(long, value_name = "STORE")]
    from: Store,
    /// Where to: sqlite:DIR; it is empty, or has a part of the same copy
    #[arg(long, value_name = "STORE")]
    to: Store,
    /// Read and check all that would be copied, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the digest of each channel's log, too
    #[arg(long)]
    digests: bool,
}

/// A store as the command line names it.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Store {
    Sqlite(PathBuf),
    Unknown(String),
}

impl FromStr for Store {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.split_once(':') {
            Some(("sqlite", dir)) if !dir.is_empty() => Self::Sqlite(dir.into()),
            _ => Self::Unknown(text.to_owned()),
        })
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(dir) => write!(f, "sqlite:{}", dir.display()),
            Self::Unknown(text) => f.write_str(text),
        }
    }
}

/// Why nothing was copied, or not all.
#[derive(Debug, Error)]
pub(crate) enum MigrationError {
    #[error("{0} is no store; one looks like sqlite:DIR")]
    Store(String),
    #[error("there is no server's data in {}", .0.display())]
    NoData(PathBuf),
    #[error("the {0} cannot be opened")]
    Open(Side, #[source] sqlite::OpenError),
    #[error(transparent)]
    Migrate(#[from] MigrateError),
}

pub(crate) async fn run(args: MigrateArgs) -> Result<(), CliError> {
    let Store::Sqlite(from) = &args.from else { return Err(no_store(&args.from)) };
    let Store::Sqlite(to) = &args.to else { return Err(no_store(&args.to)) };
    if !from.join(LOG_FILE).is_file() {
        return Err(MigrationError::NoData(from.clone()).into());
    }
    let source = open(from, Side::Source)?;
    if args.dry_run {
        return rehearse(&args, &source).await;
    }
    let target = open(to, Side::Target)?;
    copy(&args, &source, &target).await
}

fn no_store(store: &Store) -> CliError {
    MigrationError::Store(store.to_string()).into()
}

fn open(dir: &Path, side: Side) -> Result<SqliteEngine, MigrationError> {
    sqlite::open(dir, SqliteOptions::default()).map_err(|error| MigrationError::Open(side, error))
}

async fn rehearse<A: Engine>(args: &MigrateArgs, source: &A) -> Result<(), CliError> {
    let plan = plan(source).await?;
    let progress = Progress::default();
    let reading = migrate::rehearse(source, &plan, &progress);
    let read = with_bar(&plan, &progress, reading).await.map_err(MigrationError::Migrate)?;
    print(&format!("{} holds, and {} would get:\n{}", args.from, args.to, told(args, &plan, &read)))
}

async fn copy<A: Engine, B: Engine>(
    args: &MigrateArgs,
    source: &A,
    target: &B,
) -> Result<(), CliError> {
    migrate::check_alone(target, Side::Target).await.map_err(MigrationError::Migrate)?;
    let plan = plan(source).await?;
    let progress = Progress::default();
    let copying = migrate::migrate(source, target, &plan, &progress);
    let verified = with_bar(&plan, &progress, copying).await.map_err(MigrationError::Migrate)?;
    print(&format!(
        "copied, read back and compared; {} and {} both hold:\n{}\
         start servers on {} only: what is written to {} from now on is in no copy\n",
        args.from,
        args.to,
        told(args, &plan, &verified),
        args.to,
        args.from
    ))
}

async fn plan<A: Engine>(source: &A) -> Result<Plan, MigrationError> {
    migrate::check_alone(source, Side::Source).await?;
    Ok(Plan::make(source).await?)
}

/// Waits for something, and shows on a terminal how far it is.
async fn with_bar<T>(plan: &Plan, progress: &Progress, work: impl Future<Output = T>) -> T {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style =
        ProgressStyle::with_template("{msg:10} {bar:32.cyan/dim} {pos} of {len}, {eta} left");
    bar.set_style(style.expect("the template is a constant of a valid form"));
    let mut ticks = interval(BAR_EVERY);
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                bar.finish_and_clear();
                return done;
            }
            _ = ticks.tick() => {
                let (what, done, all) = match progress.compared.load(Relaxed) {
                    0 if progress.records.load(Relaxed) > 0 => {
                        ("records", progress.records.load(Relaxed), plan.records)
                    }
                    0 => ("messages", progress.messages.load(Relaxed), plan.messages_max()),
                    compared => ("comparing", compared, plan.messages_max()),
                };
                bar.set_message(what);
                bar.set_length(all.max(done));
                bar.set_position(done);
            }
        }
    }
}

fn told(args: &MigrateArgs, plan: &Plan, read: &Verified) -> String {
    let mut text = format!(
        "  {} messages of {} channels, in {} batches ({}), with {} keys\n  {} records ({})\n",
        read.messages,
        read.logs.len(),
        read.batches,
        ByteSize(read.bytes),
        read.keys,
        read.records,
        ByteSize(plan.record_bytes),
    );
    if read.repeated_keys > 0 {
        text.push_str(&format!(
            "  {} keys were used twice: each is kept for its first message\n",
            read.repeated_keys
        ));
    }
    if args.digests {
        for (channel, digest) in &read.logs {
            text.push_str(&format!("  digest of channel {}: {digest}\n", channel.0));
        }
        text.push_str(&format!("  digest of the records: {}\n", read.records_digest));
    }
    text.push_str(&format!("  digest of all: {}\n", read.digest()));
    text
}
