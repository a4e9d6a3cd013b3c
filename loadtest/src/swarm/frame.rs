//! WebSocket frames as a client needs them: heads of the server's, whole ones of its own. Hot. Pure.

use thiserror::Error;

/// One frame of the server, whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) opcode: Opcode,
    pub(crate) is_final: bool,
    pub(crate) payload: &'a [u8],
    /// Bytes of the head and the payload.
    pub(crate) bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

/// What a server must not send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(crate) enum FrameError {
    #[error("a masked frame")]
    Masked,
    #[error("a reserved bit or opcode")]
    Reserved,
    #[error("a frame of {0} bytes")]
    TooLarge(u64),
    #[error("a control frame in parts or of more than 125 bytes")]
    Control,
}

/// The frame at the beginning of these bytes. `None`: it is not whole yet.
pub(crate) fn next_frame(_bytes: &[u8]) -> Result<Option<Frame<'_>>, FrameError> {
    todo!()
}

/// Appends one final frame, masked with this key, whose payload is written by `payload`.
pub(crate) fn write_frame(
    _out: &mut Vec<u8>,
    _opcode: Opcode,
    _mask: [u8; 4],
    _payload: impl FnOnce(&mut Vec<u8>),
) {
    todo!()
}
