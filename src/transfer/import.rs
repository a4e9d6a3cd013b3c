//! An import: the bytes of a body → lines in the log, and the answer.
//!
//! Each import cuts its body into chunks, has them decoded, and hands the blocks to the one writer in
//! the order of the body. So many chunks are under way at most; then no more of the body is read. When
//! an import is dropped, what it has handed over is still committed, and nothing more.

use std::{
    fmt, io, mem,
    pin::{Pin, pin},
    sync::{Arc, atomic::AtomicBool},
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream::FuturesOrdered};
use serde::Serialize;
use thiserror::Error;
use tokio::{
    runtime::Builder,
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, sleep},
};
use utoipa::ToSchema;

use super::{
    cut::Cutter,
    decode::{Authors, Block, Decoded, Decoders, InvalidLine, Lines},
    writer::{Imported, Work, WriteError, Writer, Written},
};
use crate::{
    engine::Engine,
    hub::directory::Directory,
    limits::{
        IMPORT_BODY_BYTES_MAX, IMPORT_BODY_TIMEOUT, IMPORT_CHUNKS_MAX, IMPORT_JOBS_MAX, IMPORTS_MAX,
    },
};

/// How the importer is started.
#[derive(Clone)]
pub struct ImportOptions {
    /// Largest body of a message.
    pub message_bytes_max: usize,
    /// Called by each of the importer's threads before anything else, to choose its core and
    /// priority.
    pub on_thread_start: Arc<dyn Fn() + Send + Sync>,
    /// Told of every commit.
    pub imported: Imported,
}

/// The way to import. Cheap to clone; its threads end when all clones are dropped.
#[derive(Clone)]
pub struct Importer {
    message_bytes_max: usize,
    decoders: Decoders,
    writer: mpsc::Sender<Work>,
    places: Arc<Semaphore>,
}

impl fmt::Debug for Importer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Importer").field("places", &self.places).finish_non_exhaustive()
    }
}

/// What became of a body.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, ToSchema)]
#[schema(as = ImportReport)]
pub struct Report {
    /// In numbers.
    pub stats: Stats,
    /// The first of the lines that say nothing.
    pub invalid: Vec<InvalidLine>,
}

/// What became of a body, in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, ToSchema)]
#[schema(as = ImportStats)]
pub struct Stats {
    /// Bytes that were read of it.
    pub bytes: u64,
    /// Its lines.
    pub records: Records,
    /// Lines that are in the log, or channels that are there, by this.
    pub added: u64,
    /// Those that were there before.
    pub known: u64,
}

/// How many lines, but for blank ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, ToSchema)]
#[schema(as = ImportRecords)]
pub struct Records {
    /// That say something.
    pub valid: u64,
    /// That do not.
    pub invalid: u64,
    /// Of both.
    pub total: u64,
}

/// An import that did not come to its end, and how far it came: what is counted is in the log.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("the import ended early")]
pub struct ImportError {
    /// How far it came.
    pub report: Report,
    /// Why it did not come further.
    #[source]
    pub why: ImportFailure,
}

/// Why an import ends early.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ImportFailure {
    /// Too many others are under way. Nothing was read.
    #[error("too many imports are under way")]
    Busy,
    /// The body broke off.
    #[error("the body broke off: {0}")]
    Body(String),
    /// Nothing came of the body for too long.
    #[error("nothing more of the body came")]
    Stalled,
    /// The log took no more.
    #[error("the log took no more")]
    Write(#[from] WriteError),
    /// The importer ends, or has made a mistake.
    #[error("the importer has stopped")]
    Stopped,
}

impl Importer {
    /// Starts the importer's threads. The one whose handle is answered holds the engine; it ends when
    /// nobody is left to import.
    ///
    /// # Errors
    /// When the system gives us no thread.
    pub fn start<E: Engine>(
        engine: Arc<E>,
        directory: Arc<Directory<E>>,
        options: ImportOptions,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let ImportOptions { message_bytes_max, on_thread_start, imported } = options;
        let message_bytes_max = message_bytes_max.min(IMPORT_BODY_BYTES_MAX);
        let authors = Arc::new(Authors::default());
        let decoders = Decoders::start(message_bytes_max, &authors, &on_thread_start)?;
        let (writer, mailbox) = mpsc::channel(IMPORT_JOBS_MAX);
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let thread = thread::Builder::new().name("import-writer".to_owned()).spawn(move || {
            on_thread_start();
            let task = Writer::new(engine, directory, authors, imported, mailbox);
            runtime.block_on(task.run());
        })?;
        let places = Arc::new(Semaphore::new(IMPORTS_MAX));
        Ok((Self { message_bytes_max, decoders, writer, places }, thread))
    }

    /// Imports a body.
    ///
    /// # Errors
    /// When it did not come to the end of the body: with what was imported up to there.
    pub async fn import<S, X>(&self, body: S) -> Result<Report, ImportError>
    where
        S: Stream<Item = Result<Bytes, X>>,
        X: fmt::Display,
    {
        let Ok(_place) = self.places.try_acquire() else {
            return Err(ImportError { report: Report::default(), why: ImportFailure::Busy });
        };
        let mut counted = Counted::default();
        let ended = self.run(pin!(body), &mut counted).await;
        let report = counted.report();
        match ended {
            Ok(()) => Ok(report),
            Err(why) => Err(ImportError { report, why }),
        }
    }

    async fn run<S, X>(
        &self,
        mut body: Pin<&mut S>,
        counted: &mut Counted,
    ) -> Result<(), ImportFailure>
    where
        S: Stream<Item = Result<Bytes, X>>,
        X: fmt::Display,
    {
        let has_failed = Arc::new(AtomicBool::new(false));
        let mut cutter = Cutter::new(self.message_bytes_max);
        let mut decoding = FuturesOrdered::new();
        let mut writing = FuturesOrdered::new();
        // What of the body has come and is not cut yet.
        let mut frame = Bytes::new();
        let mut last_chunks = Vec::new().into_iter();
        let mut end: Option<Result<(), ImportFailure>> = None;
        let mut failure: Option<ImportFailure> = None;
        let mut was_reading = false;
        let mut deadline = pin!(sleep(IMPORT_BODY_TIMEOUT));
        loop {
            let has_room = failure.is_none() && decoding.len() + writing.len() < IMPORT_CHUNKS_MAX;
            if has_room {
                let mut rest = &frame[..];
                let chunk = cutter.take(&mut rest);
                frame = frame.slice(frame.len() - rest.len()..);
                if let Some(chunk) = chunk.or_else(|| last_chunks.next()) {
                    decoding.push_back(self.decode(chunk));
                    continue;
                }
            }
            if writing.is_empty() && (failure.is_some() || decoding.is_empty()) {
                if let Some(failure) = failure {
                    return Err(failure);
                }
                if let Some(end) = end.take_if(|_| has_room) {
                    return end;
                }
            }
            let is_reading = has_room && end.is_none();
            if is_reading && !was_reading {
                deadline.as_mut().reset(Instant::now() + IMPORT_BODY_TIMEOUT);
            }
            was_reading = is_reading;
            tokio::select! {
                biased;
                Some((lines, outcome)) = writing.next(), if !writing.is_empty() => {
                    if let Err(why) = counted.add(lines, outcome) {
                        failure.get_or_insert(why);
                    }
                }
                Some(decoded) = decoding.next(), if failure.is_none() && !decoding.is_empty() => {
                    match decoded {
                        Ok(block) => writing.push_back(self.write(block, &has_failed).await?),
                        Err(why) => failure = Some(why),
                    }
                }
                next = body.next(), if is_reading => {
                    was_reading = false;
                    match next {
                        Some(Ok(bytes)) => {
                            counted.bytes += bytes.len() as u64;
                            frame = bytes;
                        }
                        Some(Err(error)) => {
                            end = Some(Err(ImportFailure::Body(error.to_string())));
                            last_chunks = Vec::from_iter(cutter.rest()).into_iter();
                        }
                        None => {
                            end = Some(Ok(()));
                            last_chunks = Vec::from_iter(cutter.all()).into_iter();
                        }
                    }
                }
                () = &mut deadline, if is_reading => {
                    end = Some(Err(ImportFailure::Stalled));
                    last_chunks = Vec::from_iter(cutter.rest()).into_iter();
                }
            }
        }
    }

    /// A chunk → its block, once all of its authors have numbers.
    async fn decode(&self, mut chunk: Vec<u8>) -> Result<Block, ImportFailure> {
        let mut numbered = Vec::new();
        loop {
            match self.decoders.decode(chunk, numbered).await.ok_or(ImportFailure::Stopped)? {
                Decoded::Block(block) => return Ok(block),
                Decoded::Unknown(again, authors) => {
                    chunk = again;
                    let (reply, answer) = oneshot::channel();
                    let sent = self.writer.send(Work::Number(authors, reply)).await;
                    sent.map_err(|_| ImportFailure::Stopped)?;
                    numbered = answer.await.map_err(|_| ImportFailure::Stopped)??;
                }
            }
        }
    }

    /// Hands a block to the writer.
    async fn write(
        &self,
        mut block: Block,
        has_failed: &Arc<AtomicBool>,
    ) -> Result<impl Future<Output = (Lines, Outcome)>, ImportFailure> {
        let lines = mem::take(&mut block.lines);
        let (reply, answer) = oneshot::channel();
        let work = Work::Write(block, Arc::clone(has_failed), reply);
        self.writer.send(work).await.map_err(|_| ImportFailure::Stopped)?;
        Ok(async move {
            let outcome = match answer.await {
                Ok(outcome) => outcome.map_err(ImportFailure::Write),
                Err(_) => Err(ImportFailure::Stopped),
            };
            (lines, outcome)
        })
    }
}

type Outcome = Result<Written, ImportFailure>;

/// What was counted of a body, block by block in its order.
#[derive(Default)]
struct Counted {
    bytes: u64,
    lines: Lines,
    written: Written,
}

impl Counted {
    fn add(&mut self, lines: Lines, outcome: Outcome) -> Result<(), ImportFailure> {
        match outcome {
            Ok(written) => {
                self.lines.add(lines);
                self.written.added += written.added;
                self.written.known += written.known;
                Ok(())
            }
            Err(why) => {
                // They count as read, so that the numbers of later lines are right.
                self.lines.add(Lines { lines: lines.lines, ..Lines::default() });
                Err(why)
            }
        }
    }

    fn report(self) -> Report {
        let Lines { valid, invalid, told, .. } = self.lines;
        let records = Records { valid, invalid, total: valid + invalid };
        let Written { added, known } = self.written;
        let stats = Stats { bytes: self.bytes, records, added, known };
        Report { stats, invalid: told }
    }
}

#[cfg(test)]
mod tests;
