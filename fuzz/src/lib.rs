//! What the fuzz targets share: the server's WebSocket layer with a client's way to feed it, the half
//! of its tokens that verifies, and the lines of its imports.
//!
//! All are pure and name little beside the bounds and the codes, so their files are compiled in here
//! by themselves: with the whole server, and SQLite in it, a fuzz build would take minutes.

#[path = "../../src/limits.rs"]
pub mod limits;
#[path = "../../src/websocket/mod.rs"]
pub mod websocket;
/// Verifying without issuing.
#[path = "../../src/auth/token"]
pub mod token {
    pub mod claims;
    pub mod key;
    pub mod outside;
    pub mod verify;
}
/// Lines, how a body is cut into them, and how they are written.
#[path = "../../src/transfer"]
pub mod transfer {
    pub mod cut;
    pub mod line;
    pub mod ndjson;
}
/// What lines say of channels.
#[path = "../../src/log"]
pub mod log {
    pub mod settings;
}
/// The codes alone.
#[path = "../../src/wire"]
pub mod wire {
    pub mod code;
}

use std::alloc::System;

use cap::Cap;
use websocket::{
    deflate::{Agreed, inflate::Inflater},
    reader::{Reader, Received, Violation},
};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Does this, and aborts if it takes more memory.
pub fn within<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let limit = ALLOCATOR.allocated() + bytes;
    ALLOCATOR.set_limit(limit).expect("it is more than what is allocated");
    let done = work();
    ALLOCATOR.set_limit(usize::MAX).expect("anything is allowed again");
    done
}

/// What a reader keeps beside messages: what has begun, in a box, and a control frame's payload.
const BESIDE_MESSAGES_BYTES: usize = 512;

/// A message, a control frame, or the end.
#[derive(PartialEq, Eq, Debug)]
pub enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
    Violation(Violation),
}

impl From<Received<'_>> for Seen {
    fn from(received: Received<'_>) -> Self {
        match received {
            Received::Text(text) => Self::Text(text.to_owned()),
            Received::Binary(bytes) => Self::Binary(bytes.to_owned()),
            Received::Ping(bytes) => Self::Ping(bytes.to_owned()),
            Received::Pong(bytes) => Self::Pong(bytes.to_owned()),
            Received::Close(code) => Self::Close(code),
        }
    }
}

/// A client's bytes, and how to read them.
pub struct Session<'s> {
    /// As they are on the wire.
    pub stream: &'s [u8],
    /// Lengths of the pieces in which they come, over and over. None: all at once.
    pub pieces: &'s [u8],
    /// The bound of a message.
    pub message_bytes_max: usize,
    /// Whether the client may compress.
    pub deflate: bool,
}

impl Session<'_> {
    /// Everything up to the first close or violation, and whether a message is unfinished then.
    pub fn read(&self, inflater: &mut Inflater) -> (Vec<Seen>, bool) {
        let mut seen = Vec::new();
        let mut stream = self.stream.to_vec();
        let open = self.each(&mut stream, inflater, |one| {
            seen.push(match one {
                Ok(received) => Seen::from(received),
                Err(violation) => Seen::Violation(violation),
            });
        });
        (seen, open)
    }

    /// Reads the same without looking at it, and aborts if that takes more memory than the bound
    /// of a message, once as it came and once inflated.
    pub fn read_within_bounds(&self, inflater: &mut Inflater) {
        let mut stream = self.stream.to_vec();
        let (bound, inflated) = if self.deflate {
            let deflated = limits::deflated_message_bytes_max(self.message_bytes_max);
            (deflated, self.message_bytes_max + 1)
        } else {
            (self.message_bytes_max, 0)
        };
        within(bound + inflated + BESIDE_MESSAGES_BYTES, || {
            self.each(&mut stream, inflater, |_| ())
        });
    }

    fn each(
        &self,
        mut rest: &mut [u8],
        inflater: &mut Inflater,
        mut visit: impl FnMut(Result<Received<'_>, Violation>),
    ) -> bool {
        let mut reader =
            Reader::new(self.message_bytes_max, self.deflate.then_some(Agreed::WHOLE_WINDOW));
        let mut lengths = self.pieces.iter().cycle();
        while !rest.is_empty() {
            let length = lengths.next().map_or(rest.len(), |length| usize::from(*length).max(1));
            let (mut piece, behind) = rest.split_at_mut(length.min(rest.len()));
            loop {
                match reader.next(&mut piece, inflater) {
                    Ok(None) => break,
                    Ok(Some(received)) => {
                        let is_last = matches!(received, Received::Close(_));
                        visit(Ok(received));
                        if is_last {
                            return false;
                        }
                    }
                    Err(violation) => {
                        visit(Err(violation));
                        return false;
                    }
                }
            }
            assert!(piece.is_empty(), "all of a piece is taken");
            rest = behind;
        }
        reader.is_mid_message()
    }
}

/// Takes numbers off the front of the fuzzer's input.
pub struct Numbers<'i> {
    pub rest: &'i [u8],
}

impl<'i> Numbers<'i> {
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    pub fn word(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    /// So many, or as many as there are.
    pub fn bytes(&mut self, count: usize) -> &'i [u8] {
        let (front, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        front
    }
}
