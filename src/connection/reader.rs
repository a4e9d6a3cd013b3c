//! Stage 1: socket bytes → messages of the client. Hot.
//!
//! All connections of a thread read into one buffer and inflate with one inflater, and a message that
//! came whole is used where it lies. What is left of a read when a command must wait for an answer is
//! kept here, so that a client may send its next command before the last is answered, and they still
//! happen in order.

use std::{cell::RefCell, io, ops::ControlFlow, time::Instant};

use super::socket::Socket;
use crate::{
    limits::{TLS_READ_BYTES_MAX, TURN_INFLATED_BYTES_MAX, TURN_READ_BYTES_MAX},
    metrics::Metrics,
    websocket::{
        deflate::{
            Agreed,
            inflate::{Bill, Inflater},
        },
        reader::{Reader, Received, Violation},
    },
};

thread_local! {
    static INFLATER: RefCell<Inflater> = const { RefCell::new(Inflater::new()) };
    static SCRATCH: RefCell<Box<[u8]>> =
        RefCell::new(vec![0; TURN_READ_BYTES_MAX].into_boxed_slice());
}

/// The reading side of one connection.
#[derive(Debug)]
pub struct Incoming {
    reader: Reader,
    /// What was read and not looked at yet. None on an idle connection.
    unread: Option<Box<Unread>>,
}

/// Bytes that were read and not looked at yet, behind some that were. At most one read.
#[derive(Debug)]
struct Unread {
    bytes: Vec<u8>,
    /// Where the bytes begin that were not looked at.
    from: usize,
}

/// What a visitor of messages wants next.
#[derive(Debug)]
pub enum Next<W> {
    /// More.
    Go,
    /// To wait for this; the rest comes afterwards.
    Wait(W),
    /// No more: the connection ends.
    Stop,
}

/// How a read went.
#[derive(Debug)]
pub enum Read<W> {
    /// What was there has been taken in.
    Taken,
    /// A command must wait; call [`Incoming::resume`] when it is answered.
    Wait(W),
    /// What was there is so much that others must have their turn; then call [`Incoming::resume`].
    Yield,
    /// The connection ends, by the visitor's wish.
    Stop,
    /// The client broke the framing.
    Violation(Violation),
    /// The client is gone.
    Gone,
}

impl Incoming {
    /// A connection that agreed on `deflate`, from which `early` has been read already.
    #[must_use]
    pub fn new(message_bytes_max: usize, deflate: Option<Agreed>, early: Vec<u8>) -> Self {
        let reader = Reader::new(message_bytes_max, deflate);
        let mut incoming = Self { reader, unread: None };
        incoming.keep(early, 0);
        incoming
    }

    /// Sets the bound of the messages that follow.
    pub const fn set_message_bytes_max(&mut self, message_bytes_max: usize) {
        self.reader.set_message_bytes_max(message_bytes_max);
    }

    /// Whether a message has begun and not ended.
    #[must_use]
    pub fn is_mid_message(&self) -> bool {
        self.reader.is_mid_message()
    }

    /// Reads once, and shows `visit` every message that is complete.
    pub fn read<W>(
        &mut self,
        socket: &Socket,
        metrics: &Metrics,
        visit: impl FnMut(Received<'_>) -> Next<W>,
    ) -> Read<W> {
        SCRATCH.with_borrow_mut(|scratch| {
            let count = match socket.try_read(scratch) {
                Ok(0) => return Read::Gone,
                Ok(count) => count,
                Err(error) if is_passing(&error) => return Read::Taken,
                Err(_) => return Read::Gone,
            };
            let mut input = &mut scratch[..count];
            let read = self.take(&mut input, metrics, visit);
            if matches!(read, Read::Wait(_) | Read::Yield) {
                self.keep(input.to_vec(), 0);
            }
            // Who filled the buffer may have more to say: first its answers are written, and others
            // are heard. A TLS session stops where another record might not fit.
            let is_full = count > TURN_READ_BYTES_MAX - TLS_READ_BYTES_MAX;
            if is_full && matches!(read, Read::Taken) { Read::Yield } else { read }
        })
    }

    /// Shows `visit` what was read before and not looked at.
    pub fn resume<W>(
        &mut self,
        metrics: &Metrics,
        visit: impl FnMut(Received<'_>) -> Next<W>,
    ) -> Read<W> {
        let Some(mut unread) = self.unread.take() else {
            // The last message, if it was assembled, is given back.
            return self.take(&mut [].as_mut_slice(), metrics, visit);
        };
        let mut input = &mut unread.bytes[unread.from..];
        let read = self.take(&mut input, metrics, visit);
        let left = input.len();
        if matches!(read, Read::Wait(_) | Read::Yield) {
            let from = unread.bytes.len() - left;
            self.keep(unread.bytes, from);
        }
        read
    }

    /// Keeps the bytes from here on, if there are any.
    fn keep(&mut self, bytes: Vec<u8>, from: usize) {
        self.unread = (from < bytes.len()).then(|| Box::new(Unread { bytes, from }));
    }

    fn take<W>(
        &mut self,
        input: &mut &mut [u8],
        metrics: &Metrics,
        mut visit: impl FnMut(Received<'_>) -> Next<W>,
    ) -> Read<W> {
        INFLATER.with_borrow_mut(|inflater| {
            let mut inflated_bytes = 0;
            loop {
                // Who sends nothing compressed pays for no clock.
                let began = self.reader.takes_deflated().then(Instant::now);
                let read = self.reader.next(input, inflater);
                let took = began.map(|began| began.elapsed());
                let end = match read {
                    Ok(None) => Some(Read::Taken),
                    Ok(Some(received)) => match visit(received) {
                        Next::Go => None,
                        Next::Stop => Some(Read::Stop),
                        Next::Wait(wait) => Some(Read::Wait(wait)),
                    },
                    Err(violation) => Some(Read::Violation(violation)),
                };
                if let Some(took) = took
                    && let Bill { messages: messages @ 1.., inflated_bytes: bytes } =
                        inflater.take_bill()
                {
                    metrics.inflated(messages, bytes, took);
                    inflated_bytes += bytes;
                }
                if let Some(end) = end {
                    return end;
                }
                if inflated_bytes > TURN_INFLATED_BYTES_MAX {
                    return Read::Yield;
                }
            }
        })
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Reads and forgets what a connection that is being closed still sends. `Break`: it has hung up.
pub fn discard(socket: &Socket) -> ControlFlow<()> {
    SCRATCH.with_borrow_mut(|scratch| match socket.try_read(scratch) {
        Ok(0) => ControlFlow::Break(()),
        Err(error) if !is_passing(&error) => ControlFlow::Break(()),
        Ok(_) | Err(_) => ControlFlow::Continue(()),
    })
}
