//! The ways in which lines get to a server: one file, many requests, or a stream made on the way.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use tokio::task::JoinSet;

use super::{
    answer::{Answered, Counts, Imported},
    lines::{Lines, Shape},
};
use crate::server::talk::{Length, Talk};

const PATH: &str = "/v1/import";
const NDJSON: &str = "application/x-ndjson";
/// What is read, made and sent at once.
const BLOCK_BYTES: usize = 256 * 1024;
/// How long an import may take, whatever its size.
const DEADLINE: Duration = Duration::from_secs(3_600);

/// Writes all lines of this shape, durably, and says how many bytes they are.
pub(crate) fn write_file(path: &Path, shape: &Shape) -> Result<u64> {
    let mut file = BufWriter::with_capacity(BLOCK_BYTES, File::create(path)?);
    let (mut lines, mut line, mut bytes) = (Lines::new(shape.clone()), Vec::new(), 0);
    while lines.append(&mut line) {
        file.write_all(&line)?;
        bytes += line.len() as u64;
        line.clear();
    }
    // Or the disk would be busy with it while something else is measured.
    file.into_inner()?.sync_all()?;
    Ok(bytes)
}

/// One request with a whole file.
pub(crate) async fn file(talk: &mut Talk, path: &Path) -> Result<Imported> {
    let mut file = File::open(path)?;
    let length = Length::Known(file.metadata()?.len());
    let next = move |block: &mut Vec<u8>| {
        (&mut file).take(BLOCK_BYTES as u64).read_to_end(block)?;
        Ok(())
    };
    stream(talk, length, next).await
}

/// One request with the lines that come next, until there have been so many, or until they are about
/// so many bytes: its bytes and its answer.
pub(crate) async fn made(
    talk: &mut Talk,
    lines: &mut Lines,
    lines_max: u64,
    bytes_max: u64,
) -> Result<(u64, Imported)> {
    let mut bytes = 0;
    let next = |block: &mut Vec<u8>| {
        while block.len() < BLOCK_BYTES && bytes + (block.len() as u64) < bytes_max {
            if lines.made() == lines_max || !lines.append(block) {
                break;
            }
        }
        bytes += block.len() as u64;
        Ok(())
    };
    let imported = stream(talk, Length::Chunked, next).await?;
    Ok((bytes, imported))
}

async fn stream(
    talk: &mut Talk,
    length: Length,
    next: impl FnMut(&mut Vec<u8>) -> Result<()>,
) -> Result<Imported> {
    talk.deadline = DEADLINE;
    let answer = talk.stream(PATH, NDJSON, length, next).await.context("an import")?;
    Ok(answer.expect::<Answered>(200).context("an import")?.result)
}

/// The whole file in requests of so many lines each, on as many connections as there are talks: how
/// many requests, and their counts together.
pub(crate) async fn requests(
    talks: Vec<Talk>,
    path: &Path,
    lines_each: u64,
) -> Result<(u64, Counts)> {
    let file = Arc::new(Mutex::new(BufReader::with_capacity(BLOCK_BYTES, File::open(path)?)));
    let mut workers = JoinSet::new();
    for mut talk in talks {
        let file = Arc::clone(&file);
        workers.spawn(async move {
            let (mut requests, mut counts, mut piece) = (0, Counts::default(), Vec::new());
            loop {
                piece.clear();
                take(
                    &mut file.lock().unwrap_or_else(PoisonError::into_inner),
                    lines_each,
                    &mut piece,
                )?;
                if piece.is_empty() {
                    return anyhow::Ok((requests, counts));
                }
                let length = Length::Known(piece.len() as u64);
                let mut rest = Some(&piece);
                let next = |block: &mut Vec<u8>| {
                    rest.take().into_iter().for_each(|it| block.extend_from_slice(it));
                    Ok(())
                };
                let imported = stream(&mut talk, length, next).await?;
                counts.add(imported.counts().map_err(|wrong| anyhow!(wrong))?);
                requests += 1;
            }
        });
    }
    let (mut requests, mut counts) = (0, Counts::default());
    while let Some(ended) = workers.join_next().await {
        let (more, of_these) = ended??;
        requests += more;
        counts.add(of_these);
    }
    Ok((requests, counts))
}

/// The next lines of a file.
fn take(file: &mut BufReader<File>, lines: u64, piece: &mut Vec<u8>) -> Result<()> {
    for _ in 0..lines {
        if file.read_until(b'\n', piece)? == 0 {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::server::talk::tests::{Asked, stand_in};

    fn shape() -> Shape {
        Shape {
            lines: 1_000,
            invalid: 7,
            prefix: "import",
            channels: 3,
            run: 1,
            authors: 5,
            has_ids: true,
            seed: 3,
        }
    }

    /// An import as it should answer, for ids that nobody has seen before.
    fn answer(asked: &Asked) -> Option<(u16, String)> {
        assert_eq!((asked.line(), asked.header("content-type")), ("POST /v1/import", Some(NDJSON)));
        let is_valid = |line: &str| {
            let record: Value = serde_json::from_str(line).unwrap_or_default();
            record["body"].is_string() && record["author"].is_string()
        };
        let total = asked.body.lines().count();
        let bad: Vec<_> = (1..)
            .zip(asked.body.lines())
            .filter(|it| !is_valid(it.1))
            .map(|it| json!({"line": it.0, "reason": "no record"}))
            .collect();
        let valid = total - bad.len();
        let stats = json!({
            "bytes": asked.body.len(),
            "records": {"valid": valid, "invalid": bad.len(), "total": total},
            "added": valid,
            "known": 0,
        });
        let result = json!({"status": "ok", "stats": stats, "invalid": bad});
        Some((200, json!({ "result": result }).to_string()))
    }

    #[tokio::test]
    async fn every_way_brings_every_line_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines.ndjson");
        let bytes = write_file(&path, &shape()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes);
        let expected = Counts { bytes, valid: 993, invalid: 7, added: 993, known: 0 };
        let address = stand_in(answer).await;
        let talk = || Talk::new(address, "secret");

        let whole = file(&mut talk(), &path).await.unwrap();
        assert_eq!(whole.counts(), Ok(expected));
        let bad: Vec<_> =
            (0..1_000).filter(|it| shape().is_invalid(*it)).map(|it| it + 1).collect();
        assert_eq!(whole.bad_lines(), bad);

        let (count, counts) = requests(vec![talk(), talk(), talk()], &path, 64).await.unwrap();
        assert_eq!((count, counts), (16, expected));

        let mut lines = Lines::new(shape());
        let (sent, imported) = made(&mut talk(), &mut lines, u64::MAX, u64::MAX).await.unwrap();
        assert_eq!((sent, imported.counts(), lines.made()), (bytes, Ok(expected), 1_000));
        let mut lines = Lines::new(shape());
        let (sent, imported) = made(&mut talk(), &mut lines, u64::MAX, 50_000).await.unwrap();
        assert!((50_000..50_400).contains(&sent) && imported.counts().unwrap().bytes == sent);
        let begun = lines.made();
        let more = made(&mut talk(), &mut lines, begun + 10, u64::MAX).await.unwrap().1;
        assert_eq!((lines.made(), more.counts().unwrap().bytes < 2_000), (begun + 10, true));
    }
}
