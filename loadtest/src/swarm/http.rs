//! The little HTTP that a virtual user speaks: two JSON requests and an upgrade. Pure.

use thiserror::Error;

/// Appends `POST path` with a JSON body, to be answered on a connection that stays open.
pub(crate) fn write_post(_out: &mut Vec<u8>, _host: &str, _path: &str, _json: &str) {
    todo!()
}

/// Appends the upgrade of `/v1/ws` for `hubbub.v1.proto`, with this `Sec-WebSocket-Key`.
pub(crate) fn write_upgrade(_out: &mut Vec<u8>, _host: &str, _key: &str, _token: &str) {
    todo!()
}

/// An answer, whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Response<'a> {
    pub(crate) status: u16,
    /// In seconds.
    pub(crate) retry_after: Option<u64>,
    /// Of an upgrade.
    pub(crate) accept: Option<&'a str>,
    pub(crate) body: &'a [u8],
    /// Bytes of head and body: what follows is not HTTP any more after an upgrade.
    pub(crate) bytes: usize,
    /// Whether the server closes the connection after it.
    pub(crate) closes: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(crate) enum HttpError {
    #[error("an answer that is not HTTP")]
    Malformed,
    #[error("an answer of more than {0} bytes")]
    TooLarge(usize),
}

/// The answer at the beginning of these bytes. `None`: it is not whole yet.
pub(crate) fn response(_bytes: &[u8]) -> Result<Option<Response<'_>>, HttpError> {
    todo!()
}
