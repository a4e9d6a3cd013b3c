//! Why the auth service did not do what it was asked: one enum per operation.

use std::time::Duration;

use thiserror::Error;

use super::{
    UsernameError,
    admission::{RateError, TooMany},
    keyring::KeyringError,
    password::PasswordRuleError,
    store::{OpenError, StoreError, keys::KeyStoreError},
    token::{self, TokenError},
    workers::{StartError, WorkError},
};
use crate::limits;

/// Why the service could not start.
#[derive(Debug, Error)]
pub enum AuthStartError {
    /// The account store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeyStoreError),
    /// The password workers.
    #[error(transparent)]
    Workers(#[from] StartError),
    /// A key.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// How many tries there are.
    #[error(transparent)]
    Rate(#[from] RateError),
    /// The thread of the housekeeping.
    #[error("the housekeeping of the auth service could not be started")]
    Thread(#[source] std::io::Error),
}

/// Why no account was made.
#[derive(Debug, Error)]
pub enum RegisterError {
    /// The form of the user name.
    #[error(transparent)]
    Username(#[from] UsernameError),
    /// The form of the password.
    #[error(transparent)]
    Password(#[from] PasswordRuleError),
    /// Another account has the user name.
    #[error("the user name is taken")]
    Taken,
    /// Accounts are made by the operator only.
    #[error("nobody may make an account here")]
    Closed,
    /// An invite code is needed, and this is none that is good.
    #[error("the invite code is not good")]
    InvalidInvite,
    /// Too many tries from this address.
    #[error(transparent)]
    RateLimited(#[from] TooMany),
    /// No room, or a failure.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// Why no token was issued.
#[derive(Debug, Error)]
pub enum LogInError {
    /// No such user, or another password. Deliberately one error.
    #[error("the user name or the password is wrong")]
    InvalidCredentials,
    /// Too many tries, from this address or for this user name.
    #[error(transparent)]
    RateLimited(#[from] TooMany),
    /// No room, or a failure.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// Why a refresh token got nothing.
#[derive(Debug, Error)]
pub enum RefreshError {
    /// It is nobody's, used up, too old, or of a session or user that is revoked. One error for all.
    #[error("the refresh token is not good")]
    InvalidGrant,
    /// Too many tries from this address.
    #[error(transparent)]
    RateLimited(#[from] TooMany),
    /// The store cannot take it now, or failed.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// Why a session goes on that was to end.
#[derive(Debug, Error)]
pub enum RevokeError {
    /// Too many tries from this address.
    #[error(transparent)]
    RateLimited(#[from] TooMany),
    /// The store cannot take it now, or failed.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// The service could do nothing about a request that may be right.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// There is no room for it now.
    #[error("the auth service is overloaded")]
    Overloaded {
        /// When a retry may pass.
        retry_after: Duration,
    },
    /// The service failed.
    #[error("the auth service failed")]
    Failed(#[source] FailedError),
}

/// Why the password is as it was.
#[derive(Debug, Error)]
pub enum ChangePasswordError {
    /// The access token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The current password.
    #[error("the current password is wrong")]
    InvalidCredentials,
    /// The form of the new password.
    #[error(transparent)]
    Password(#[from] PasswordRuleError),
    /// The user is disabled or gone, or the session is revoked.
    #[error("the session is revoked")]
    Forbidden,
    /// Too many tries.
    #[error(transparent)]
    RateLimited(#[from] TooMany),
    /// No room, or a failure.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// Why a user is not told about itself.
#[derive(Debug, Error)]
pub enum MeError {
    /// The access token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The user is disabled or gone, or the session is revoked.
    #[error("the session is revoked")]
    Forbidden,
    /// No room, or a failure.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// Why the operator's wish was not carried out.
#[derive(Debug, Error)]
pub enum AdministerError {
    /// There is no such user.
    #[error("there is no such user")]
    UnknownUser,
    /// No room, or a failure.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// A failure on our side.
#[derive(Debug, Error)]
pub enum FailedError {
    /// Of the account store.
    #[error(transparent)]
    Store(StoreError),
    /// Of the password workers.
    #[error(transparent)]
    Work(WorkError),
    /// Of the issuer.
    #[error(transparent)]
    Issue(#[from] token::IssueError),
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Busy => Self::Overloaded { retry_after: limits::AUTH_WAIT_MAX },
            error @ (StoreError::Stopped | StoreError::Sqlite(_) | StoreError::Replica(_)) => {
                Self::Failed(FailedError::Store(error))
            }
        }
    }
}

impl From<WorkError> for ServiceError {
    fn from(error: WorkError) -> Self {
        match error {
            WorkError::Overloaded { retry_after } => Self::Overloaded { retry_after },
            error @ (WorkError::Stopped | WorkError::Hash(_)) => {
                Self::Failed(FailedError::Work(error))
            }
        }
    }
}

impl From<token::IssueError> for ServiceError {
    fn from(error: token::IssueError) -> Self {
        Self::Failed(error.into())
    }
}
