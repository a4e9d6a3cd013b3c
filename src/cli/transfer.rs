//! `hubbub import` and `hubbub export`: files of messages, to and from a running server, through its
//! internal port. What is moved is never in memory as a whole.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use bytesize::ByteSize;
use clap::Args;
use futures_util::stream;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::{
    Method,
    body::{Frame, Incoming},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Deserialize;
use thiserror::Error;
use tokio::{sync::mpsc, time::timeout};

use super::{
    CliError,
    admin::{Admin, AdminArgs, AdminError, Body},
    process::print,
    smoke::query,
    terminal::escape,
};

/// Bytes of a file that are read at once.
const PART_BYTES: usize = 64 * 1024;
/// Parts that are read ahead of what is sent. Beyond it the file waits.
const PARTS_MAX: usize = 4;
/// How long nothing may move, in either direction.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The file, one JSON object per line, as `export` writes it; - is standard input
    file: PathBuf,
    /// Print the server's answer as it is
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The channel [default: all, private ones too]
    #[arg(long)]
    channel: Option<String>,
    /// How the messages are written; `import` reads ndjson
    #[arg(long, default_value = "ndjson", value_parser = ["ndjson", "csv"])]
    format: String,
    /// The columns of csv, with commas between them
    #[arg(long, value_name = "A,B,…")]
    columns: Option<String>,
    /// Where to; what was there is replaced when all is written [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Why a file was not moved, or not whole.
#[derive(Debug, Error)]
pub(crate) enum TransferError {
    #[error("could not read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not write {}", .path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the import broke off after {sent}; what the server has taken stays: run the same again, and \
         it goes on from there"
    )]
    ImportBroke {
        sent: ByteSize,
        #[source]
        source: AdminError,
    },
    #[error("the export broke off after {received}, and is not whole; run it again")]
    ExportBroke {
        received: ByteSize,
        #[source]
        source: AdminError,
    },
    #[error(transparent)]
    Admin(AdminError),
    #[error("the server's answer to the import was not understood; run the same again to be sure")]
    Unintelligible,
    #[error("{lines} of the lines are invalid and were left out")]
    Invalid { lines: u64 },
}

/// What the server says of an import.
#[derive(Debug, Deserialize)]
struct Answer {
    result: Imported,
}

#[derive(Debug, Deserialize)]
struct Imported {
    status: String,
    stats: Stats,
    #[serde(default)]
    invalid: Vec<InvalidLine>,
}

#[derive(Debug, Deserialize)]
struct Stats {
    bytes: u64,
    records: Records,
    added: u64,
    known: u64,
}

#[derive(Debug, Deserialize)]
struct Records {
    invalid: u64,
    total: u64,
}

#[derive(Debug, Deserialize)]
struct InvalidLine {
    line: u64,
    reason: String,
}

/// How far a transfer has come; a bar on a terminal shows it.
#[derive(Clone)]
struct Progress {
    moved: Arc<AtomicU64>,
    bar: ProgressBar,
}

impl Progress {
    /// `size` is how much there is to move, if that is known.
    fn new(size: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr());
        let template = match size {
            Some(_) => "{bar:32.cyan/dim} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
            None => "{spinner:.cyan} {bytes}, {bytes_per_sec}",
        };
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.expect("the templates are two constants of a valid form"));
        Self { moved: Arc::default(), bar }
    }

    fn add(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
        self.bar.inc(bytes as u64);
    }

    fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Waits for something for as long as it moves. `None`: it has stalled.
    async fn while_moving<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        let mut what = pin!(what);
        loop {
            let before = self.moved();
            match timeout(STALL_TIMEOUT, what.as_mut()).await {
                Ok(done) => return Some(done),
                Err(_) if self.moved() == before => return None,
                Err(_) => {}
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

pub(crate) async fn import(args: ImportArgs) -> Result<(), CliError> {
    let admin = args.admin.admin()?;
    let unreadable = |source| TransferError::Read { path: args.file.clone(), source };
    let (source, size): (Box<dyn Read + Send>, _) = if args.file == Path::new("-") {
        (Box::new(io::stdin()), None)
    } else {
        let file = File::open(&args.file).map_err(unreadable)?;
        let about = file.metadata().map_err(unreadable)?;
        (Box::new(file), about.is_file().then_some(about.len()))
    };
    let answer = send(&admin, &args.file, source, Progress::new(size)).await?;
    let read = serde_json::from_slice::<Answer>(&answer);
    let Ok(Answer { result }) = read else { return Err(TransferError::Unintelligible.into()) };
    if result.status != "ok" {
        return Err(TransferError::Unintelligible.into());
    }
    if args.json {
        print(&format!("{}\n", String::from_utf8_lossy(&answer).trim_end()))?;
    } else {
        print(&told(&result))?;
    }
    match result.stats.records.invalid {
        0 => Ok(()),
        lines => Err(TransferError::Invalid { lines }.into()),
    }
}

/// Sends what there is to read, and answers the server's answer.
async fn send(
    admin: &Admin,
    path: &Path,
    source: Box<dyn Read + Send>,
    progress: Progress,
) -> Result<Bytes, TransferError> {
    let (body, mut unread) = parts(source, progress.clone());
    let exchange = async {
        let answer = admin.open(Method::POST, "/v1/import", "application/x-ndjson", body).await?;
        admin.whole(answer).await
    };
    let answered = progress.while_moving(exchange).await;
    let sent = ByteSize(progress.moved());
    // A file that cannot be read breaks the connection, and is the reason why.
    if let Ok(source) = unread.try_recv() {
        return Err(TransferError::Read { path: path.to_owned(), source });
    }
    answered.unwrap_or_else(|| Err(admin.timed_out())).map_err(|source| match source {
        AdminError::Unreachable { .. } | AdminError::TimedOut { .. } if sent.as_u64() > 0 => {
            TransferError::ImportBroke { sent, source }
        }
        source => TransferError::Admin(source),
    })
}

/// A body that a thread reads, and where that tells why it could not go on.
fn parts(
    mut source: Box<dyn Read + Send>,
    progress: Progress,
) -> (Body, mpsc::Receiver<io::Error>) {
    let (mailbox, parts) = mpsc::channel::<io::Result<Bytes>>(PARTS_MAX);
    let (failure, failed) = mpsc::channel(1);
    thread::spawn(move || {
        loop {
            let mut part = vec![0; PART_BYTES];
            let part = match source.read(&mut part) {
                Ok(0) => return,
                Ok(length) => {
                    part.truncate(length);
                    Ok(Bytes::from(part))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let kind = error.kind();
                    // Nobody may be left to be told.
                    let _ = failure.try_send(error);
                    Err(kind.into())
                }
            };
            let is_last = part.is_err();
            // An error means that the request is over.
            if mailbox.blocking_send(part).is_err() || is_last {
                return;
            }
        }
    });
    let parts = stream::unfold((parts, progress), |(mut parts, progress)| async move {
        let part = parts.recv().await?;
        if let Ok(part) = &part {
            progress.add(part.len());
        }
        Some((part.map(Frame::data), (parts, progress)))
    });
    (StreamBody::new(parts).boxed_unsync(), failed)
}

/// What became of the lines, for people.
fn told(Imported { stats, invalid, .. }: &Imported) -> String {
    let Stats { bytes, records, added, known } = stats;
    let mut text = format!(
        "{} read, {} lines: {added} added, {known} known already, {} invalid\n",
        ByteSize(*bytes),
        records.total,
        records.invalid
    );
    for InvalidLine { line, reason } in invalid {
        text.push_str(&format!("line {line}: {}\n", escape(reason)));
    }
    let shown = invalid.len() as u64;
    if records.invalid > shown {
        text.push_str(&format!("and {} more\n", records.invalid - shown));
    }
    text
}

pub(crate) async fn export(args: ExportArgs) -> Result<(), CliError> {
    let admin = args.admin.admin()?;
    let mut path = format!("/v1/export?format={}", args.format);
    for (name, value) in [("channel", &args.channel), ("columns", &args.columns)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", query(value)));
        }
    }
    let progress = Progress::new(None);
    let opening = admin.open(Method::GET, &path, "application/json", nothing());
    let answer = progress.while_moving(opening).await;
    let answer = answer.unwrap_or_else(|| Err(admin.timed_out()))?;
    let Some(output) = args.output else {
        let mut stdout = io::stdout().lock();
        receive(&admin, answer.into_body(), &mut stdout, &progress, CliError::Output).await?;
        return stdout.flush().map_err(CliError::Output);
    };
    let unwritable = |source| CliError::from(TransferError::Write { path: output.clone(), source });
    let mut part = PartFile::beside(&output).map_err(unwritable)?;
    receive(&admin, answer.into_body(), &mut part.file, &progress, unwritable).await?;
    part.keep_as(&output).map_err(unwritable)
}

fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Writes a body as it comes, to its end.
async fn receive(
    admin: &Admin,
    mut body: Incoming,
    output: &mut impl Write,
    progress: &Progress,
    unwritable: impl Fn(io::Error) -> CliError,
) -> Result<(), CliError> {
    let broke = |source| {
        let received = ByteSize(progress.moved());
        TransferError::ExportBroke { received, source }
    };
    loop {
        let frame = progress.while_moving(body.frame()).await;
        let frame = match frame.ok_or_else(|| broke(admin.timed_out()))? {
            None => return Ok(()),
            Some(frame) => frame.map_err(|error| broke(admin.unreachable(error.into())))?,
        };
        if let Ok(data) = frame.into_data() {
            output.write_all(&data).map_err(&unwritable)?;
            progress.add(data.len());
        }
    }
}

/// A file that has another name until it is whole, and is removed if it never is.
struct PartFile {
    file: File,
    path: Option<PathBuf>,
}

impl PartFile {
    fn beside(output: &Path) -> io::Result<Self> {
        let name = output.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let random = rand::random::<u64>();
        let path = output.with_file_name(format!(".{}.{random:016x}", name.to_string_lossy()));
        let file = File::create_new(&path)?;
        Ok(Self { file, path: Some(path) })
    }

    fn keep_as(mut self, output: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        if let Some(path) = &self.path {
            fs::rename(path, output)?;
        }
        self.path = None;
        Ok(())
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // What is left is worth nothing to anybody, and says so by its name.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests;
