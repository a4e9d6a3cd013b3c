//! How a server of NATS is reached: who this process is to it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use async_nats::ConnectOptions;
use thiserror::Error;

/// What a file of the tool `nsc` has in it: a token and the key that signs for it.
const CREDS_MARK: &str = "BEGIN NATS USER JWT";
/// What a user's key begins with, as NATS writes it.
const NKEY_MARK: &str = "SU";

/// Why a file of credentials is of no use.
#[derive(Debug, Error)]
pub enum CredentialsError {
    /// It cannot be read.
    #[error("the credentials {} cannot be read", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It has none of the forms.
    #[error(
        "the credentials {} are neither a .creds file, nor a user's key, nor `user:password`",
        .0.display()
    )]
    Form(PathBuf),
}

/// The options of a connection by whoever this file names; nobody in particular if the path is empty.
pub(super) fn options(credentials: &Path) -> Result<ConnectOptions, CredentialsError> {
    if credentials.as_os_str().is_empty() {
        return Ok(ConnectOptions::new());
    }
    let path = || credentials.to_owned();
    let text = fs::read_to_string(credentials)
        .map_err(|source| CredentialsError::Unreadable { path: path(), source })?;
    let line = text.trim();
    if text.contains(CREDS_MARK) {
        return ConnectOptions::with_credentials(&text).map_err(|_| CredentialsError::Form(path()));
    }
    match line.split_once(':') {
        Some((user, password)) if !user.is_empty() && !line.contains('\n') => {
            Ok(ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned()))
        }
        None if line.starts_with(NKEY_MARK) => Ok(ConnectOptions::with_nkey(line.to_owned())),
        _ => Err(CredentialsError::Form(path())),
    }
}
