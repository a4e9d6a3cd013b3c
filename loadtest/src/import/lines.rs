//! Lines to import: as many as one likes, always the same for a seed, made as they are needed. Pure.

use std::{
    io::Write as _,
    time::{Duration, SystemTime},
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

/// When the first was written: 2024-01-01.
const BEGAN_MS: u64 = 1_704_067_200_000;
/// At most so long after the one before, and never at the same moment.
const STEP_MS_MAX: u64 = 1_000;
/// How long a line is, its end included: 166 bytes in the mean.
const LINE_BYTES: std::ops::RangeInclusive<usize> = 135..=192;
/// What bodies are made of, as it stands in JSON.
const WORDS: [&str; 16] = [
    "the",
    "server",
    "is",
    "back",
    "who",
    "has",
    "seen",
    "yesterday's",
    "build",
    "again",
    "café",
    "\\\"fine\\\"",
    "tomorrow",
    "at",
    "noon",
    "thanks",
];

/// What the lines are like.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// How many there are, those that are no records included.
    pub(crate) lines: u64,
    /// How many of them are no records, spread evenly.
    pub(crate) invalid: u64,
    /// Channels are called by it and a number.
    pub(crate) prefix: &'static str,
    pub(crate) channels: u64,
    /// Lines of one channel that follow one another.
    pub(crate) run: u64,
    pub(crate) authors: u64,
    /// Whether each has an id of its own.
    pub(crate) has_ids: bool,
    pub(crate) seed: u64,
}

impl Shape {
    /// The name of a channel by its number.
    pub(crate) fn channel(&self, number: u64) -> String {
        format!("{}-{number:05}", self.prefix)
    }

    /// Whether this line, counted from 0, is no record.
    pub(crate) fn is_invalid(&self, line: u64) -> bool {
        let before =
            |line: u64| u128::from(line) * u128::from(self.invalid) / u128::from(self.lines);
        before(line + 1) > before(line)
    }
}

/// The lines, from the first on.
#[derive(Debug)]
pub(crate) struct Lines {
    shape: Shape,
    random: SmallRng,
    /// Of the next.
    line: u64,
    time_ms: u64,
}

impl Lines {
    pub(crate) fn new(shape: Shape) -> Self {
        let random = SmallRng::seed_from_u64(shape.seed);
        Self { shape, random, line: 0, time_ms: BEGAN_MS }
    }

    /// How many there have been.
    pub(crate) fn made(&self) -> u64 {
        self.line
    }

    /// Appends the next line, unless there is none left.
    pub(crate) fn append(&mut self, out: &mut Vec<u8>) -> bool {
        let Self { shape, random, line, time_ms } = self;
        if *line == shape.lines {
            return false;
        }
        *time_ms += random.random_range(1..=STEP_MS_MAX);
        let begin = out.len();
        let end = begin + random.random_range(LINE_BYTES);
        let kind = shape.is_invalid(*line).then_some(*line * shape.invalid / shape.lines % 4);
        let channel = *line / shape.run % shape.channels;
        write!(out, "{{\"channel\":\"{}-{channel:05}\"", shape.prefix).expect(INTO_MEMORY);
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(*time_ms);
        let time = humantime::format_rfc3339_millis(time);
        write!(out, ",\"time\":\"{time}\"").expect(INTO_MEMORY);
        if kind != Some(0) {
            let author = random.random_range(0..shape.authors);
            write!(out, ",\"author\":\"author-{author}\"").expect(INTO_MEMORY);
        }
        if shape.has_ids {
            write!(out, ",\"id\":\"{}\"", *line + 1).expect(INTO_MEMORY);
        }
        if kind != Some(1) {
            out.extend_from_slice(b",\"body\":\"");
            while out.len() < end {
                out.extend_from_slice(WORDS[random.random_range(0..WORDS.len())].as_bytes());
                out.push(b' ');
            }
            // In the place of the last space.
            out.pop();
            out.push(b'"');
        }
        match kind {
            // Cut off in the middle.
            Some(2) => out.truncate(begin + 60),
            Some(3) => {
                out.truncate(begin);
                out.extend_from_slice(b"[\"this\",\"is\",\"no\",\"object\"]");
            }
            _ => out.push(b'}'),
        }
        out.push(b'\n');
        *line += 1;
        true
    }
}

const INTO_MEMORY: &str = "a vector takes every write";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn shape() -> Shape {
        Shape {
            lines: 10_000,
            invalid: 0,
            prefix: "import",
            channels: 50,
            run: 3,
            authors: 500,
            has_ids: false,
            seed: 1,
        }
    }

    fn made(shape: Shape) -> Vec<u8> {
        let (mut lines, mut out) = (Lines::new(shape), Vec::new());
        while lines.append(&mut out) {}
        out
    }

    fn text(value: &Value) -> &str {
        value.as_str().unwrap()
    }

    #[test]
    fn lines_are_records_of_the_wanted_length_whose_times_ascend() {
        for has_ids in [false, true] {
            let all = made(Shape { has_ids, ..shape() });
            let mean = all.len() / 10_000;
            assert!((163..=169).contains(&mean), "{mean}");
            let records: Vec<Value> = all
                .split(|it| *it == b'\n')
                .filter(|it| !it.is_empty())
                .map(|line| serde_json::from_slice(line).unwrap())
                .collect();
            assert_eq!(records.len(), 10_000);
            assert!(records.iter().map(|it| text(&it["time"])).is_sorted_by(|a, b| a < b));
            let distinct = |key| records.iter().map(|it| text(&it[key])).collect::<BTreeSet<_>>();
            assert_eq!((distinct("channel").len(), distinct("author").len()), (50, 500));
            assert!(records.iter().all(|it| !text(&it["body"]).is_empty()));
            let ids = records.iter().filter(|it| it["id"].is_string()).count();
            assert_eq!(ids, if has_ids { 10_000 } else { 0 });
            assert_eq!(text(&records[3]["channel"]), shape().channel(1));
            let channels: Vec<_> = records[..7].iter().map(|it| text(&it["channel"])).collect();
            assert_eq!(
                (channels[0], channels[2], channels[3]),
                ("import-00000", channels[0], "import-00001")
            );
        }
    }

    #[test]
    fn a_seed_always_makes_the_same_lines() {
        assert!(made(shape()) == made(shape()));
        assert!(made(shape()) != made(Shape { seed: 2, ..shape() }));
    }

    #[test]
    fn exactly_so_many_lines_are_no_records_and_of_each_kind_some() {
        for invalid in [1, 7, 400, 10_000] {
            let shape = Shape { invalid, ..shape() };
            let all = made(shape.clone());
            let lines: Vec<&[u8]> =
                all.strip_suffix(b"\n").unwrap().split(|it| *it == b'\n').collect();
            assert_eq!(lines.len(), 10_000);
            let mut found = 0;
            let mut kinds = BTreeSet::new();
            for (line, number) in lines.into_iter().zip(0..) {
                let record: Option<Value> = serde_json::from_slice(line).ok();
                let missing = match &record {
                    None => "JSON",
                    Some(it) if !it.is_object() => "an object",
                    Some(it) if it["author"].is_null() => "an author",
                    Some(it) if it["body"].is_null() => "a body",
                    Some(_) => "",
                };
                assert_eq!(!missing.is_empty(), shape.is_invalid(number), "{number}");
                found += u64::from(!missing.is_empty());
                kinds.insert(missing);
            }
            assert_eq!(found, invalid);
            assert_eq!(kinds.len() as u64, (invalid.min(4) + u64::from(invalid < 10_000)));
        }
    }
}
