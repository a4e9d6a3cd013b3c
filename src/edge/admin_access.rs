//! How an operator on this machine gets at the admin addresses: with a secret, at an address, both
//! in the data directory. Whoever may read that directory has the accounts and keys anyway.

use std::{fs, io, net::SocketAddr, path::Path};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq as _;
use thiserror::Error;

use crate::{
    auth::private_file::{self, PrivateFileError},
    limits::KEY_FILE_BYTES_MAX,
};

/// The file with the secret.
pub const SECRET_FILE_NAME: &str = "admin-secret";
/// The file with the address of the internal port, for as long as the process runs.
pub const ADDRESS_FILE_NAME: &str = "admin-address";

/// Random bytes of the secret.
const SECRET_BYTES: usize = 32;

/// What an operator shows at the admin addresses: 256 random bits, as base64url. Never printed.
#[derive(Clone)]
pub struct Secret(String);

/// Why there is no secret.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The file.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// There is no secret in it.
    #[error("the file {SECRET_FILE_NAME} holds no secret: remove it, and the next start makes one")]
    Content,
}

impl Secret {
    /// Reads the secret of this data directory, and makes one if there is none.
    ///
    /// # Errors
    /// When the file is unusable, or usable by others.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, SecretError> {
        match Self::load(data_dir) {
            Err(SecretError::File(error)) if error.is_absence() => {}
            loaded => return loaded,
        }
        let path = data_dir.join(SECRET_FILE_NAME);
        let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; SECRET_BYTES]>());
        match private_file::create(&path, format!("{secret}\n").as_bytes()) {
            // Another process was first; its secret is as good.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => created.map_err(|source| PrivateFileError::Io { path, source })?,
        }
        Self::load(data_dir)
    }

    /// Reads the secret of this data directory.
    ///
    /// # Errors
    /// When there is none, or its file is unusable, or usable by others.
    pub fn load(data_dir: &Path) -> Result<Self, SecretError> {
        let content = private_file::read(&data_dir.join(SECRET_FILE_NAME), KEY_FILE_BYTES_MAX)?;
        let text = String::from_utf8(content).map_err(|_| SecretError::Content)?;
        let decoded = URL_SAFE_NO_PAD.decode(text.trim_end());
        if decoded.is_ok_and(|bytes| bytes.len() == SECRET_BYTES) {
            Ok(Self(text.trim_end().to_owned()))
        } else {
            Err(SecretError::Content)
        }
    }

    /// Whether this is the secret. Takes the same time wherever they differ.
    #[must_use]
    pub fn is(&self, shown: &str) -> bool {
        self.0.as_bytes().ct_eq(shown.as_bytes()).into()
    }

    /// The secret, to be shown.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Leaves word of where the internal port is.
///
/// # Errors
/// When the file cannot be made.
pub fn announce(data_dir: &Path, internal: SocketAddr) -> io::Result<()> {
    private_file::replace(&data_dir.join(ADDRESS_FILE_NAME), format!("{internal}\n").as_bytes())
}

/// Takes the word back, if it is still that of this port.
pub fn renounce(data_dir: &Path, internal: SocketAddr) {
    if announced(data_dir) == Some(internal) {
        // It would be overwritten by the next start anyway.
        let _ = fs::remove_file(data_dir.join(ADDRESS_FILE_NAME));
    }
}

/// Where the internal port of the process on this data directory is, if one runs.
#[must_use]
pub fn announced(data_dir: &Path) -> Option<SocketAddr> {
    let content = private_file::read(&data_dir.join(ADDRESS_FILE_NAME), KEY_FILE_BYTES_MAX).ok()?;
    std::str::from_utf8(&content).ok()?.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_is_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Secret::load(dir.path()).is_err());
        let secret = Secret::load_or_create(dir.path()).unwrap();
        let again = Secret::load_or_create(dir.path()).unwrap();
        assert!(secret.is(again.expose()));
        assert_eq!(secret.expose().len(), 43);
        let other = Secret::load_or_create(tempfile::tempdir().unwrap().path()).unwrap();
        assert!(!secret.is(other.expose()));
        assert!(!secret.is("") && !secret.is(&secret.expose()[..42]));
        assert!(!format!("{secret:?}").contains(secret.expose()));
    }

    #[test]
    fn a_damaged_secret_is_refused_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SECRET_FILE_NAME);
        for content in ["", "\n", "short", "\u{fffd}"] {
            private_file::replace(&path, content.as_bytes()).unwrap();
            let refused = Secret::load_or_create(dir.path());
            assert!(matches!(refused, Err(SecretError::Content)), "{content:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[test]
    fn the_address_is_there_for_as_long_as_its_process_runs() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) =
            (SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([127, 0, 0, 1], 2)));
        assert_eq!(announced(dir.path()), None);
        announce(dir.path(), first).unwrap();
        announce(dir.path(), second).unwrap();
        renounce(dir.path(), first);
        assert_eq!(announced(dir.path()), Some(second), "another process came after it");
        renounce(dir.path(), second);
        assert_eq!(announced(dir.path()), None);
    }
}
