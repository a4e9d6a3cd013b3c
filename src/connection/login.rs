//! A token → the user behind it. Runs on the edge's threads, never on a shard.

use thiserror::Error;

use crate::{engine::Engine, hub::Identity, wire::code::ErrorCode};

/// Verifies tokens and looks their users up.
#[derive(Debug)]
pub struct Login<E> {
    engine: std::sync::Arc<E>,
}

/// Why a token does not log anybody in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum LoginError {
    /// Wrong, forged, or for another audience.
    #[error("the token is not valid")]
    InvalidToken,
    /// Right, but its time is over.
    #[error("the token has expired")]
    TokenExpired,
    /// The user cannot be looked up now.
    #[error("the user directory is unavailable")]
    Unavailable,
}

impl From<LoginError> for ErrorCode {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::InvalidToken => Self::InvalidToken,
            LoginError::TokenExpired => Self::TokenExpired,
            LoginError::Unavailable => Self::StorageUnavailable,
        }
    }
}

impl<E: Engine> Login<E> {
    /// Finds out whose token this is.
    ///
    /// # Errors
    /// When it is nobody's, or nobody's any more.
    #[expect(clippy::unused_async, reason = "a seam; its body follows")]
    pub async fn login(&self, _token: &str) -> Result<Identity, LoginError> {
        let _ = &self.engine;
        Err(LoginError::InvalidToken)
    }
}
