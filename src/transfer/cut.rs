//! The bytes of a body → chunks that end with a line. Hot. Pure.

use memchr::{memchr, memrchr};

use crate::limits::{IMPORT_CHUNK_BYTES, import_line_bytes_max};

/// Gathers bytes until a chunk is full. Holds at most two chunks and a line of the longest kind.
#[derive(Debug)]
pub struct Cutter {
    gathered: Vec<u8>,
    /// Where the line begins that has no end yet.
    line_start: usize,
    /// The rest of this line is dropped: enough of it is here to see that it is too long.
    is_skipping: bool,
    line_bytes_max: usize,
}

impl Cutter {
    /// For messages whose body has at most so many bytes.
    #[must_use]
    pub fn new(message_bytes_max: usize) -> Self {
        Self {
            gathered: Vec::with_capacity(IMPORT_CHUNK_BYTES * 2),
            line_start: 0,
            is_skipping: false,
            line_bytes_max: import_line_bytes_max(message_bytes_max),
        }
    }

    /// Takes bytes off the front of `bytes`: all of them, or as many as fill a chunk.
    pub fn take(&mut self, bytes: &mut &[u8]) -> Option<Vec<u8>> {
        while !bytes.is_empty() {
            if self.is_skipping {
                let Some(end) = memchr(b'\n', bytes) else {
                    *bytes = &[];
                    return None;
                };
                *bytes = &bytes[end..];
                self.is_skipping = false;
            }
            let (piece, rest) = bytes.split_at(bytes.len().min(IMPORT_CHUNK_BYTES));
            *bytes = rest;
            if let Some(end) = memrchr(b'\n', piece) {
                self.line_start = self.gathered.len() + end + 1;
            }
            self.gathered.extend_from_slice(piece);
            if self.gathered.len() - self.line_start > self.line_bytes_max {
                self.gathered.truncate(self.line_start + self.line_bytes_max + 1);
                self.is_skipping = true;
            }
            if self.line_start > 0 && self.gathered.len() >= IMPORT_CHUNK_BYTES {
                return Some(self.cut());
            }
        }
        None
    }

    /// The whole lines that are left.
    pub fn rest(&mut self) -> Option<Vec<u8>> {
        (self.line_start > 0).then(|| self.cut())
    }

    /// All that is left, when a body has ended: its last line needs no end.
    pub fn all(&mut self) -> Option<Vec<u8>> {
        self.line_start = 0;
        Some(std::mem::take(&mut self.gathered)).filter(|line| !line.is_empty())
    }

    fn cut(&mut self) -> Vec<u8> {
        let mut next = Vec::with_capacity(IMPORT_CHUNK_BYTES * 2);
        next.extend_from_slice(&self.gathered[self.line_start..]);
        self.gathered.truncate(self.line_start);
        self.line_start = 0;
        std::mem::replace(&mut self.gathered, next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lines as a cutter hands them on, whatever the pieces.
    fn lines(text: &[u8], pieces: &[usize], message_bytes_max: usize) -> Vec<Vec<u8>> {
        let mut cutter = Cutter::new(message_bytes_max);
        let mut chunks = Vec::new();
        let mut rest = text;
        let mut lengths = pieces.iter().cycle();
        while !rest.is_empty() {
            let length = lengths.next().map_or(rest.len(), |length| *length);
            let (mut piece, behind) = rest.split_at(length.clamp(1, rest.len()));
            while let Some(chunk) = cutter.take(&mut piece) {
                chunks.push(chunk);
            }
            rest = behind;
        }
        chunks.extend(cutter.rest());
        assert!(chunks.iter().all(|chunk| chunk.ends_with(b"\n")), "chunks end with a line");
        chunks.extend(cutter.all());
        chunks.concat().split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
    }

    proptest! {
        #[test]
        fn however_the_bytes_come_the_lines_are_the_same(
            lengths in prop::collection::vec(0..9_000_usize, 0..120),
            pieces in prop::collection::vec(1..200_000_usize, 0..6),
        ) {
            let message_bytes_max = 500;
            let line_max = import_line_bytes_max(message_bytes_max);
            let text: Vec<Vec<u8>> = lengths
                .iter()
                .enumerate()
                .map(|(at, length)| vec![b'a' + (at % 26) as u8; *length])
                .collect();
            let mut cut = text.clone();
            cut.iter_mut().for_each(|line| line.truncate(line_max + 1));
            if text.is_empty() {
                cut.push(Vec::new());
            }
            // What is in one piece may be longer: it is not held for the sake of its line.
            let mut found = lines(&text.join(&b'\n'), &pieces, message_bytes_max);
            found.iter_mut().for_each(|line| line.truncate(line_max + 1));
            prop_assert_eq!(found, cut);
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_held() {
        let mut cutter = Cutter::new(1_000);
        let endless = [b'x'; 100_000];
        for _ in 0..1_000 {
            assert_eq!(cutter.take(&mut &endless[..]), None);
            assert!(cutter.gathered.len() <= import_line_bytes_max(1_000) + 1);
        }
        assert_eq!(cutter.take(&mut &b"\nnext\n"[..]), None);
        let rest = cutter.rest().unwrap();
        assert!(rest.ends_with(b"x\nnext\n"));
        assert_eq!(rest.len(), import_line_bytes_max(1_000) + 1 + 6);
    }

    #[test]
    fn a_line_that_was_cut_is_only_the_last() {
        let mut cutter = Cutter::new(1_000);
        assert_eq!(cutter.take(&mut &b"one\ntwo"[..]), None);
        assert_eq!(cutter.rest().as_deref(), Some(&b"one\n"[..]));
        assert_eq!(cutter.rest(), None);
        assert_eq!(cutter.all().as_deref(), Some(&b"two"[..]));
        assert_eq!(cutter.all(), None);
    }
}
