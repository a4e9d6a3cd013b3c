//! What the server pushes, read in place: of a `Messages` event only what the audit needs. Hot. Pure.

use hubbub::wire::proto;
use thiserror::Error;

/// An envelope of the server.
#[derive(Debug)]
pub(crate) enum Scanned<'a> {
    Messages(Messages<'a>),
    /// Anything else, which is rare.
    Other(proto::ServerEnvelope),
}

/// A run of messages; iterate for the records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Messages<'a> {
    pub(crate) channel_id: u32,
    pub(crate) first_sequence: u64,
    rest: &'a [u8],
}

/// One message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) user_id: u32,
    pub(crate) client_message_id: u64,
    pub(crate) body: &'a [u8],
}

#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(crate) enum ScanError {
    #[error("bytes that are no envelope of the protocol")]
    Malformed,
}

/// The envelope in a frame's payload.
pub(crate) fn scan(_payload: &[u8]) -> Result<Scanned<'_>, ScanError> {
    todo!()
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Record<'a>, ScanError>;

    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}
