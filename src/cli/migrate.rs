//! `hubbub migrate`: everything of one store into another, such as from a single node's directory into
//! a cluster.

use std::{
    convert::Infallible,
    fmt,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytesize::ByteSize;
use clap::Args;
use hubbub::{
    config::EngineFlag,
    engine::{
        any::AnyEngine,
        jetstream::{
            self, JetStreamOptions,
            check::{CheckError, CheckOptions, wait_until_fit},
        },
        sqlite::{self, SqliteOptions},
    },
    limits,
    migrate::{self, Accounts, MigrateError, Progress, Side, Verified, plan::Plan},
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
    /// What is copied, and never changed: sqlite:DIR, the data directory of a stopped server, or the
    /// servers of NATS of a stopped cluster, as nats://a,b,c
    #[arg(long, value_name = "STORE")]
    from: Place,
    /// Where to, in the same forms; it is empty, or has a part of the same copy
    #[arg(long, value_name = "STORE")]
    to: Place,
    /// Read and check all that would be copied, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the digest of each channel's log, too
    #[arg(long)]
    digests: bool,
    /// What all names in NATS begin with
    #[arg(long, default_value = "hubbub")]
    prefix: String,
    /// How many streams share the channels; fixed when the cluster is made
    #[arg(long, default_value_t = 4)]
    streams: usize,
    /// One server of NATS is enough: for trying it out
    #[arg(long)]
    engine_single: bool,
    /// A file with what the servers of NATS ask for
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// Where the servers of NATS tell of themselves [default: port 8222 of each]
    #[arg(long, value_name = "URL,…", value_delimiter = ',')]
    monitor_urls: Vec<String>,
}

/// A store as the command line names it.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    /// A data directory.
    Sqlite(PathBuf),
    /// The servers of NATS of a cluster.
    Cluster(Vec<String>),
    /// Neither.
    Unknown(String),
}

impl FromStr for Place {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let unknown = || Self::Unknown(text.to_owned());
        Ok(match text.split_once(':') {
            Some(("sqlite", dir)) if !dir.is_empty() => Self::Sqlite(dir.into()),
            Some(("nats" | "tls", _)) => match text.parse() {
                Ok(EngineFlag::JetStream(servers)) => Self::Cluster(servers),
                Ok(EngineFlag::Sqlite) => unknown(),
            },
            _ => unknown(),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(dir) => write!(f, "sqlite:{}", dir.display()),
            Self::Cluster(servers) => f.write_str(&servers.join(",")),
            Self::Unknown(text) => f.write_str(text),
        }
    }
}

/// Why nothing was copied, or not all.
#[derive(Debug, Error)]
pub(crate) enum MigrationError {
    #[error("{0} is no store; one looks like sqlite:DIR or nats://a,b,c")]
    Place(String),
    #[error("there is no server's data in {}", .0.display())]
    NoData(PathBuf),
    #[error("the {0} cannot be opened")]
    Sqlite(Side, #[source] sqlite::OpenError),
    #[error("the {0} cannot be opened")]
    Cluster(Side, #[source] jetstream::OpenError),
    #[error("the servers of the {0} are not fit")]
    Unfit(Side, #[source] CheckError),
    #[error(transparent)]
    Migrate(#[from] MigrateError),
}

/// An open store.
struct Opened {
    engine: AnyEngine,
    accounts: Accounts,
}

impl Opened {
    fn store(&self) -> migrate::Store<'_, AnyEngine> {
        migrate::Store { engine: &self.engine, accounts: self.accounts.clone() }
    }
}

pub(crate) async fn run(args: MigrateArgs) -> Result<(), CliError> {
    if let Place::Sqlite(from) = &args.from
        && !from.join(LOG_FILE).is_file()
    {
        return Err(MigrationError::NoData(from.clone()).into());
    }
    let source = open(&args, &args.from, Side::Source).await?;
    if args.dry_run {
        return print(&rehearse(&args, &source).await?);
    }
    let target = open(&args, &args.to, Side::Target).await?;
    print(&copy(&args, &source, &target).await?)
}

async fn open(args: &MigrateArgs, place: &Place, side: Side) -> Result<Opened, MigrationError> {
    match place {
        Place::Sqlite(dir) => open_directory(dir, side),
        Place::Cluster(servers) => open_cluster(args, servers, side).await,
        Place::Unknown(text) => Err(MigrationError::Place(text.clone())),
    }
}

fn open_directory(dir: &Path, side: Side) -> Result<Opened, MigrationError> {
    let engine = sqlite::open(dir, SqliteOptions::default());
    let engine = engine.map_err(|error| MigrationError::Sqlite(side, error))?;
    Ok(Opened { engine: AnyEngine::Sqlite(engine), accounts: Accounts::In(dir.to_owned()) })
}

async fn open_cluster(
    args: &MigrateArgs,
    servers: &[String],
    side: Side,
) -> Result<Opened, MigrationError> {
    let check = CheckOptions {
        servers: servers.to_vec(),
        credentials: args.credentials.clone().unwrap_or_default(),
        prefix: args.prefix.clone(),
        streams: args.streams,
        single: args.engine_single,
        accept_lossy: false,
        monitor_urls: args.monitor_urls.clone(),
    };
    wait_until_fit(&check).await.map_err(|error| MigrationError::Unfit(side, error))?;
    let engine = jetstream::open(JetStreamOptions {
        servers: servers.to_vec(),
        credentials: args.credentials.clone(),
        prefix: args.prefix.clone(),
        streams: args.streams,
        single: args.engine_single,
        ack_timeout: limits::MIGRATION_ACK_TIMEOUT,
        on_thread_start: Arc::new(|| {}),
    });
    let engine = engine.map_err(|error| MigrationError::Cluster(side, error))?;
    let accounts = Accounts::Of(Arc::new(engine.accounts()));
    Ok(Opened { engine: AnyEngine::JetStream(engine), accounts })
}

async fn rehearse(args: &MigrateArgs, source: &Opened) -> Result<String, MigrationError> {
    migrate::check_alone(&source.engine, Side::Source).await?;
    let store = source.store();
    let plan = Plan::make(&store).await?;
    let progress = Progress::default();
    let reading = migrate::rehearse(&store, &plan, &progress);
    let read = with_bar(&plan, &progress, reading).await?;
    Ok(format!("{} holds, and {} would get:\n{}", args.from, args.to, told(args, &plan, &read)))
}

async fn copy(
    args: &MigrateArgs,
    source: &Opened,
    target: &Opened,
) -> Result<String, MigrationError> {
    migrate::check_alone(&source.engine, Side::Source).await?;
    migrate::check_alone(&target.engine, Side::Target).await?;
    let (from, to) = (source.store(), target.store());
    let plan = Plan::make(&from).await?;
    let progress = Progress::default();
    let copying = migrate::migrate(&from, &to, &plan, &progress);
    let verified = with_bar(&plan, &progress, copying).await?;
    Ok(format!(
        "copied, read back and compared; {} and {} both hold:\n{}\
         start servers on {} only: what is written to {} from now on is in no copy\n",
        args.from,
        args.to,
        told(args, &plan, &verified),
        args.to,
        args.from
    ))
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
    text.push_str(&format!("  {} rows of accounts, sessions and keys\n", read.account_rows));
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
        text.push_str(&format!("  digest of the accounts: {}\n", read.accounts_digest));
    }
    text.push_str(&format!("  digest of all: {}\n", read.digest()));
    text
}
