//! A token → the user behind it. Runs on the edge's threads, never on a shard's.

use std::sync::Arc;

use thiserror::Error;
use tokio::runtime::Handle;

use crate::{
    auth::{
        token::{Reason, TokenError},
        trust::{Trust, Verified},
    },
    clock,
    engine::Engine,
    hub::{
        Identity,
        directory::{Directory, DirectoryError, RESERVED_SUBJECTS},
        revocations::Register,
        revoked::{Claim, Refused},
    },
    limits::{SUBJECT_BYTES_MAX, USER_NAME_BYTES_MAX},
    wire::code::{CloseCode, ErrorCode},
};

/// Verifies tokens and looks their users up.
#[derive(Debug)]
pub struct Login<E> {
    trust: Arc<Trust>,
    register: Arc<Register>,
    directory: Arc<Directory<E>>,
    edge: Handle,
}

/// Why a token does not log anybody in.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum LoginError {
    /// Wrong, forged, for another audience, or past its time.
    #[error("the token is not accepted")]
    Token(#[from] TokenError),
    /// It was good, and is not any more.
    #[error(transparent)]
    Revoked(#[from] Refused),
    /// The user cannot be looked up now.
    #[error("the user cannot be looked up")]
    Directory(#[from] DirectoryError),
    /// The server is stopping.
    #[error("the edge has stopped")]
    Stopped,
}

impl From<&LoginError> for ErrorCode {
    fn from(error: &LoginError) -> Self {
        match error {
            LoginError::Token(TokenError::Expired) | LoginError::Revoked(Refused::Stale) => {
                Self::TokenExpired
            }
            LoginError::Revoked(Refused::Revoked) => Self::Forbidden,
            LoginError::Token(TokenError::Invalid(_)) => Self::InvalidToken,
            LoginError::Token(TokenError::KeysUnavailable) => Self::Overloaded,
            LoginError::Directory(error) => error.into(),
            LoginError::Stopped => Self::Draining,
        }
    }
}

impl LoginError {
    /// How a connection that offered this token ends; `None` if it may try again.
    #[must_use]
    pub const fn close_code(&self) -> Option<CloseCode> {
        match self {
            Self::Token(TokenError::Expired) => Some(CloseCode::TokenExpired),
            Self::Token(TokenError::Invalid(_)) => Some(CloseCode::InvalidToken),
            Self::Revoked(Refused::Stale) => Some(CloseCode::TokenExpired),
            Self::Revoked(Refused::Revoked) => Some(CloseCode::Forbidden),
            Self::Token(TokenError::KeysUnavailable) | Self::Directory(_) | Self::Stopped => None,
        }
    }
}

impl<E: Engine> Login<E> {
    /// A login that works on the runtime behind `edge`.
    #[must_use]
    pub const fn new(
        trust: Arc<Trust>,
        register: Arc<Register>,
        directory: Arc<Directory<E>>,
        edge: Handle,
    ) -> Self {
        Self { trust, register, directory, edge }
    }

    /// Whose tokens are taken.
    #[must_use]
    pub const fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// What is revoked.
    #[must_use]
    pub const fn register(&self) -> &Arc<Register> {
        &self.register
    }

    /// Finds out whose token this is. For callers on the edge.
    ///
    /// # Errors
    /// When it is nobody's, or nobody's any more.
    pub async fn login(&self, token: &str) -> Result<Identity, LoginError> {
        let verified = self.trust.verify(token, clock::unix_s()).await?;
        let Verified { subject, name, expires_at_s: expires_at, .. } = &verified;
        // A hub's own users, such as webhooks, have subjects that no token may have.
        let is_reserved = subject.starts_with(RESERVED_SUBJECTS);
        if subject.is_empty() || subject.len() > SUBJECT_BYTES_MAX || is_reserved {
            return Err(TokenError::Invalid(Reason::Claims).into());
        }
        let claim = Box::new(self.claim(&verified));
        // Here for an answer before the upgrade; the shard that admits the login looks again.
        self.register.check(&claim)?;
        let name = cut(name, USER_NAME_BYTES_MAX);
        let user = self.directory.user(subject, name).await?;
        Ok(Identity { user, name: name.to_owned(), expires_at: *expires_at, claim })
    }

    fn claim(&self, verified: &Verified) -> Claim {
        let Verified { subject, session, generation, key_id, issued_at_s, .. } = verified;
        // Only tokens of the auth service and their keys are in its feed: a key of another issuer may
        // have the same name. Whether one names a session says nothing about that: who has stolen a
        // key leaves out what he likes. One without a generation is older than all generations.
        let (key_id, issued_at_s, generation) = if verified.is_own {
            (key_id.as_str(), *issued_at_s, &Some(generation.unwrap_or(0)))
        } else {
            ("", None, generation)
        };
        let session = session.as_deref();
        let credential = self.register.credential(subject, session, *generation, key_id);
        Claim { credential, issued_at_s }
    }

    /// The same for callers on a shard: the work is done on the edge.
    ///
    /// # Errors
    /// When it is nobody's, or nobody's any more.
    pub async fn login_from_shard(self: &Arc<Self>, token: String) -> Result<Identity, LoginError> {
        let login = Arc::clone(self);
        let on_the_edge = self.edge.spawn(async move { login.login(&token).await });
        on_the_edge.await.unwrap_or(Err(LoginError::Stopped))
    }
}

fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}
