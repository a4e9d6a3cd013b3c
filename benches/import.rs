//! How fast lines of NDJSON come into the log.
//!
//! `cargo bench --bench import [DIRECTORY]`; without a directory, in the system's temporary one, which
//! may be memory. The lines are made before, and handed over in pieces as a socket does. Prints, and
//! asserts nothing but that all are there: the disk decides.

use std::{path::PathBuf, sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::stream;
use hubbub::{
    engine::sqlite::{self, SqliteOptions},
    hub::directory::Directory,
    transfer::{
        cut::Cutter,
        decode::{Authors, Decoded, Worker},
        import::{ImportOptions, Importer},
    },
};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Builder;

const LINES: usize = 1_638_400;
const AUTHORS: usize = 500;
const PIECE_BYTES: usize = 64 * 1024;

fn main() {
    let parent = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let parent = parent.map_or_else(std::env::temp_dir, PathBuf::from);
    println!("what                      lines/s     MB/s   wall ms    CPU ms   CPU ns/line");
    for channels in [1, 16] {
        let pieces = pieces(channels);
        decode(&pieces);
        import(&parent, &pieces, channels);
    }
}

fn pieces(channels: usize) -> Vec<Bytes> {
    let mut text = String::with_capacity(LINES * 180);
    for at in 0..LINES {
        let (channel, author) = (at % channels, at * 7 % AUTHORS);
        let seconds = at / 1_000;
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        text += &format!(
            "{{\"channel\": \"channel-{channel}\", \"author\": \"author-{author}\", \"time\": \"2026-11-21T{hour:02}:{minute:02}:{second:02}.{:03}Z\", \"body\": \"message {at}: as people write them, neither short nor very long.\"}}\n",
            at % 1_000
        );
    }
    println!("{} lines of {} bytes, {channels} channels", LINES, text.len() / LINES);
    let text = Bytes::from(text);
    (0..text.len())
        .step_by(PIECE_BYTES)
        .map(|at| text.slice(at..text.len().min(at + PIECE_BYTES)))
        .collect()
}

/// The decoder alone, on one thread.
fn decode(pieces: &[Bytes]) {
    let mut cutter = Cutter::new(64 * 1024);
    let mut chunks = Vec::new();
    for piece in pieces {
        let mut rest = &piece[..];
        while let Some(chunk) = cutter.take(&mut rest) {
            chunks.push(chunk);
        }
    }
    chunks.extend(cutter.all());
    let authors = Arc::new(Authors::default());
    let mut worker = Worker::new(64 * 1024, Arc::clone(&authors));
    if let Some(Decoded::Unknown(_, unknown)) =
        chunks.first().map(|chunk| worker.decode(chunk.clone()))
    {
        for (number, author) in (1..).zip(&unknown) {
            authors.insert(author, hubbub::log::place::UserId(number));
        }
    }
    let timer = Timer::start();
    let mut valid = 0;
    for chunk in chunks {
        match worker.decode(chunk) {
            Decoded::Block(block) => valid += block.lines.valid,
            Decoded::Unknown(..) => panic!("all authors are in the first chunk"),
        }
    }
    timer.print("decode, one thread", pieces);
    assert_eq!(valid, LINES as u64);
}

fn import(parent: &std::path::Path, pieces: &[Bytes], channels: usize) {
    let dir = tempfile::tempdir_in(parent).expect("the directory takes another");
    let engine = Arc::new(sqlite::open(dir.path(), SqliteOptions::default()).expect("it opens"));
    let directory = Arc::new(Directory::new(Arc::clone(&engine)));
    let options = ImportOptions {
        message_bytes_max: 64 * 1024,
        on_thread_start: Arc::new(|| {}),
        imported: Arc::new(|_, _, _| {}),
    };
    let (importer, _) =
        Importer::start(Arc::clone(&engine), directory, options).expect("there are threads");
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    for (what, added) in [("import", LINES), ("the same again", 0)] {
        let timer = Timer::start();
        let body = stream::iter(pieces.iter().cloned().map(Ok::<_, std::io::Error>));
        let report = runtime.block_on(importer.import(body)).expect("all is imported");
        timer.print(what, pieces);
        assert_eq!(report.stats.added, added as u64, "of {channels} channels");
        let stats = engine.stats();
        println!(
            "  {} commits, {} batches, {} checkpoints",
            stats.commits.get(),
            stats.batches.get(),
            stats.checkpoints.get()
        );
    }
}

struct Timer {
    wall: Instant,
    cpu_ms: f64,
}

impl Timer {
    fn start() -> Self {
        Self { wall: Instant::now(), cpu_ms: cpu_ms() }
    }

    fn print(&self, what: &str, pieces: &[Bytes]) {
        let wall = self.wall.elapsed().as_secs_f64();
        let cpu_ms = cpu_ms() - self.cpu_ms;
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        println!(
            "{what:22} {:10.0} {:8.0} {:9.0} {cpu_ms:9.0} {:13.0}",
            LINES as f64 / wall,
            bytes as f64 / 1e6 / wall,
            wall * 1000.0,
            cpu_ms * 1e6 / LINES as f64,
        );
    }
}

/// What all threads of the process have taken.
fn cpu_ms() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}
