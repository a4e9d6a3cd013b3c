//! The keys in a file: a public key as PEM, a JWKS document, or a shared secret.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{Jwk, ThumbprintHash},
};
use rustix::fs::OFlags;
use thiserror::Error;

use super::issuer;
use crate::{
    auth::token::key::{Key, KeySet},
    limits,
};

/// Why a file has no keys.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("the key file {} cannot be read", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory, a FIFO, …
    #[error("the key file {} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// A secret that others may read, or that another user can change.
    #[error("the secret in {} is not ours alone: chown it to this user and chmod 600 it", .0.display())]
    Exposed(PathBuf),
    /// A secret that can be guessed.
    #[error(
        "the secret in {} has less than {} bytes",
        .0.display(),
        limits::SECRET_BYTES_MIN
    )]
    ShortSecret(PathBuf),
    /// Nothing in it is a public key of this algorithm.
    #[error("the key file {} holds no public key for {algorithm:?}, as PEM or as JWKS", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What was looked for.
        algorithm: Algorithm,
    },
}

/// The keys in the file of another issuer. A PEM or a secret has no id: it is good for all tokens.
pub(super) fn of_outside(path: &Path, algorithm: Algorithm) -> Result<KeySet, KeyFileError> {
    let is_secret = algorithm.family() == AlgorithmFamily::Hmac;
    let content = read(path, is_secret)?;
    if is_secret {
        let key = Key::new(DecodingKey::from_secret(secret(&content)), algorithm);
        return key.map(KeySet::nameless).ok_or_else(|| KeyFileError::ShortSecret(path.to_owned()));
    }
    let nothing = || KeyFileError::Content { path: path.to_owned(), algorithm };
    let set = match issuer::key_set(&content, algorithm) {
        Ok(set) => set,
        Err(_) => KeySet::nameless(Key::from_pem(&content, algorithm).ok_or_else(nothing)?),
    };
    if set.is_empty() { Err(nothing()) } else { Ok(set) }
}

/// The keys in the file of our own auth service. Its tokens name their key by its thumbprint, which
/// the auth service makes of the key as is done here.
pub(super) fn of_own(path: &Path) -> Result<KeySet, KeyFileError> {
    let algorithm = Algorithm::EdDSA;
    let content = read(path, false)?;
    let nothing = || KeyFileError::Content { path: path.to_owned(), algorithm };
    if let Ok(set) = issuer::key_set(&content, algorithm) {
        return if set.is_empty() { Err(nothing()) } else { Ok(set) };
    }
    let key = Key::from_pem(&content, algorithm).ok_or_else(nothing)?;
    let id = thumbprint(&key).ok_or_else(nothing)?;
    let mut set = KeySet::default();
    set.add(id, Arc::new(key));
    Ok(set)
}

fn thumbprint(key: &Key) -> Option<String> {
    let key = DecodingKey::from_ed_components(&URL_SAFE_NO_PAD.encode(key.ed25519()?)).ok()?;
    let jwk = Jwk::from_decoding_key(&key, Some(Algorithm::EdDSA)).ok()?;
    jwk.thumbprint(ThumbprintHash::SHA256).ok()
}

/// A secret that is text ends before the line break that editors leave; any other is taken as it is.
fn secret(content: &[u8]) -> &[u8] {
    match str::from_utf8(content) {
        Ok(text) => text.trim_end_matches(['\n', '\r']).as_bytes(),
        Err(_) => content,
    }
}

/// Follows links, unlike where keys of our own are read: secrets are often mounted as such.
fn read(path: &Path, is_secret: bool) -> Result<Vec<u8>, KeyFileError> {
    let unreadable = |source| KeyFileError::Unreadable { path: path.to_owned(), source };
    // Without O_NONBLOCK the open of a FIFO would wait for a writer for ever.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let mut open = fs::OpenOptions::new();
    let file = open.read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(KeyFileError::NotAFile(path.to_owned()));
    }
    let of_others = ![0, rustix::process::geteuid().as_raw()].contains(&metadata.uid());
    if is_secret && (metadata.mode() & 0o077 != 0 || of_others) {
        return Err(KeyFileError::Exposed(path.to_owned()));
    }
    let mut content = Vec::new();
    file.take(limits::JWKS_BYTES_MAX as u64).read_to_end(&mut content).map_err(unreadable)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use ed25519_dalek::pkcs8::{EncodePublicKey as _, spki::der::pem::LineEnding};
    use jsonwebtoken::jwk::JwkSet;

    use super::*;
    use crate::auth::keys::TokenKey;

    fn file(content: &[u8], mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_key_of_ours_has_the_same_id_as_pem_and_as_jwks() {
        let dir = tempfile::tempdir().unwrap();
        let key = TokenKey::create(dir.path()).unwrap();
        let jwks = serde_json::to_vec(&JwkSet { keys: vec![key.jwk()] }).unwrap();
        let public: [u8; 32] = {
            let set = issuer::key_set(&jwks, Algorithm::EdDSA).unwrap();
            *set.find(Some(key.key_id())).unwrap().ed25519().unwrap()
        };
        let pem = ed25519_dalek::VerifyingKey::from_bytes(&public)
            .unwrap()
            .to_public_key_pem(LineEnding::LF)
            .unwrap();
        for content in [jwks, pem.into_bytes()] {
            let set = of_own(file(&content, 0o644).path()).unwrap();
            assert!(set.find(Some(key.key_id())).is_some());
            assert!(set.find(Some("another")).is_none());
        }
    }

    #[test]
    fn a_secret_is_long_and_private() {
        let long = [b'x'; 32];
        assert!(of_outside(file(&long, 0o600).path(), Algorithm::HS256).is_ok());
        let with_line_break = [&long[..31], b"\n"].concat();
        for short in [&long[..31], &with_line_break] {
            let refused = of_outside(file(short, 0o600).path(), Algorithm::HS256);
            assert!(matches!(refused, Err(KeyFileError::ShortSecret(_))), "{refused:?}");
        }
        for mode in [0o644, 0o640, 0o602] {
            let refused = of_outside(file(&long, mode).path(), Algorithm::HS256);
            assert!(matches!(refused, Err(KeyFileError::Exposed(_))), "{mode:o}");
        }
    }

    #[test]
    fn what_holds_no_public_key_of_the_algorithm_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let key = TokenKey::create(dir.path()).unwrap();
        let file_name = crate::auth::keys::file_name(key.key_id());
        let private = fs::read(dir.path().join(file_name)).unwrap();
        let empty = br#"{"keys":[]}"#;
        let secret =
            br#"{"keys":[{"kty":"oct","k":"eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg"}]}"#;
        for content in [&b""[..], b"{}", empty, secret, &private] {
            for algorithm in [Algorithm::EdDSA, Algorithm::ES256, Algorithm::RS256] {
                let refused = of_outside(file(content, 0o600).path(), algorithm);
                assert!(matches!(refused, Err(KeyFileError::Content { .. })), "{refused:?}");
            }
        }
        let refused = of_own(dir.path());
        assert!(matches!(refused, Err(KeyFileError::NotAFile(_))), "{refused:?}");
    }
}
