//! Stage 1: socket bytes → messages of the client. Hot.
//!
//! All connections of a thread read into one buffer and inflate with one inflater, and a message that
//! came whole is used where it lies. What is left of a read when a command must wait for an answer is kept here, so that a
//! client may send its next command before the last is answered, and they still happen in order.

use std::{cell::RefCell, io, mem, ops::ControlFlow, time::Instant};

use super::socket::Socket;
use crate::{
    limits::{TURN_INFLATED_BYTES_MAX, TURN_READ_BYTES_MAX},
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
    /// Bytes that were read and not looked at yet, behind some that were. At most one read.
    unread: Vec<u8>,
    /// Where in `unread` the bytes begin that were not looked at.
    unread_from: usize,
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
        Self { reader: Reader::new(message_bytes_max, deflate), unread: early, unread_from: 0 }
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
                self.unread.extend_from_slice(input);
            }
            read
        })
    }

    /// Shows `visit` what was read before and not looked at.
    pub fn resume<W>(
        &mut self,
        metrics: &Metrics,
        visit: impl FnMut(Received<'_>) -> Next<W>,
    ) -> Read<W> {
        let mut unread = mem::take(&mut self.unread);
        let mut input = &mut unread[self.unread_from..];
        let read = self.take(&mut input, metrics, visit);
        let left = input.len();
        self.unread_from = 0;
        if matches!(read, Read::Wait(_) | Read::Yield) {
            self.unread_from = unread.len() - left;
            self.unread = unread;
        }
        read
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
