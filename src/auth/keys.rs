//! A key that signs tokens: its file, which nobody else may read, and its public half as part of a
//! JWKS document. Which key signs when is `store::keys`'.

use std::{
    io,
    ops::Deref,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{
    SigningKey,
    pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, spki::der::pem::LineEnding},
};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey,
    jwk::{
        AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, KeyAlgorithm,
        OctetKeyPairParameters, OctetKeyPairType, PublicKeyUse, ThumbprintHash,
    },
};
use thiserror::Error;

use super::private_file::{self, PrivateFileError};
use crate::limits;

/// An Ed25519 key pair and its names.
pub struct TokenKey {
    signing: SigningKey,
    key_id: String,
}

/// Why there is no key.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("the key file {} cannot be used", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path is a symbolic link, a FIFO, a directory, …
    #[error("the key file {} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Others may read it.
    #[error("the key file {} can be read by others: chmod 600 it", .0.display())]
    Readable(PathBuf),
    /// It belongs to another user.
    #[error("the key file {} belongs to another user", .0.display())]
    Owner(PathBuf),
    /// There is no Ed25519 private key in it.
    #[error("the key file {} holds no Ed25519 private key in PKCS#8 PEM", .0.display())]
    Content(PathBuf),
}

impl From<PrivateFileError> for KeyError {
    fn from(error: PrivateFileError) -> Self {
        match error {
            PrivateFileError::Io { path, source } => Self::Io { path, source },
            PrivateFileError::NotAFile(path) => Self::NotAFile(path),
            PrivateFileError::Readable(path) => Self::Readable(path),
            PrivateFileError::Owner(path) => Self::Owner(path),
        }
    }
}

impl TokenKey {
    /// Makes a key, which is nowhere else yet.
    #[must_use]
    pub fn generate() -> Self {
        // One in 2^250 keys is weak; another draw has none.
        loop {
            if let Some(key) = Self::new(SigningKey::from_bytes(&rand::random())) {
                break key;
            }
        }
    }

    /// Makes a key, and its file `KID.pem` (0600) in this folder.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(folder: &Path) -> Result<Self, KeyError> {
        let key = Self::generate();
        let path = folder.join(file_name(&key.key_id));
        key.to_pem()
            .and_then(|pem| private_file::create(&path, pem.as_bytes()))
            .map_err(|source| KeyError::Io { path, source })?;
        Ok(key)
    }

    /// Reads the key in this file.
    ///
    /// # Errors
    /// When the file is unusable, or usable by others.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let bytes = private_file::read(path, limits::KEY_FILE_BYTES_MAX)?;
        let pem = String::from_utf8(bytes).map_err(|_| KeyError::Content(path.to_owned()))?;
        Self::from_pem(&pem).ok_or_else(|| KeyError::Content(path.to_owned()))
    }

    /// The private half as it is in a file.
    ///
    /// # Errors
    /// When it cannot be written as PKCS#8, which does not occur.
    pub fn to_pem(&self) -> io::Result<impl AsRef<str> + Deref<Target = String> + use<>> {
        self.signing.to_pkcs8_pem(LineEnding::LF).map_err(io::Error::other)
    }

    /// The way back. None if it is no key that is good.
    #[must_use]
    pub fn from_pem(pem: &str) -> Option<Self> {
        Self::new(SigningKey::from_pkcs8_pem(pem).ok()?)
    }

    /// None for the few keys whose signatures prove nothing.
    fn new(signing: SigningKey) -> Option<Self> {
        let public = signing.verifying_key();
        if public.is_weak() {
            return None;
        }
        let key_id = jwk(public.as_bytes(), None).thumbprint(ThumbprintHash::SHA256).ok()?;
        Some(Self { signing, key_id })
    }

    /// The name of the key in a token's head: the thumbprint of RFC 7638.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The private half, for an issuer. None if it cannot be written as PKCS#8, which does not occur.
    #[must_use]
    pub fn encoding_key(&self) -> Option<EncodingKey> {
        let der = self.signing.to_pkcs8_der().ok()?;
        Some(EncodingKey::from_ed_der(der.as_bytes()))
    }

    /// The public half, for a verifier.
    #[must_use]
    pub fn decoding_key(&self) -> DecodingKey {
        DecodingKey::from_ed_der(self.signing.verifying_key().as_bytes())
    }

    /// The public half as an entry of the document behind `/.well-known/jwks.json`.
    #[must_use]
    pub fn jwk(&self) -> Jwk {
        jwk(self.signing.verifying_key().as_bytes(), Some(self.key_id.clone()))
    }
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// What the file of a key is called. The id is base64url, so it names no other folder.
#[must_use]
pub fn file_name(key_id: &str) -> String {
    format!("{key_id}.pem")
}

fn jwk(public: &[u8; 32], key_id: Option<String>) -> Jwk {
    Jwk {
        common: CommonParameters {
            public_key_use: Some(PublicKeyUse::Signature),
            key_algorithm: Some(KeyAlgorithm::from(Algorithm::EdDSA)),
            key_id,
            ..CommonParameters::default()
        },
        algorithm: AlgorithmParameters::OctetKeyPair(OctetKeyPairParameters {
            key_type: OctetKeyPairType::OctetKeyPair,
            curve: EllipticCurve::Ed25519,
            x: URL_SAFE_NO_PAD.encode(public),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    /// A folder with a key, and the key's file.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let key = TokenKey::create(dir.path()).unwrap();
        let path = dir.path().join(file_name(key.key_id()));
        (dir, path)
    }

    #[test]
    fn a_key_is_private_and_comes_back_from_its_file() {
        let (dir, path) = folder();
        let key = TokenKey::load(&path).unwrap();
        assert_eq!(key.key_id().len(), 43);
        assert_eq!(path, dir.path().join(file_name(key.key_id())));
        let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap()).collect();
        assert_eq!(files.len(), 1, "no draft is left");
        assert_eq!(files[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let (_dir, path) = folder();
        for mode in [0o644, 0o640, 0o602] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(TokenKey::load(&path), Err(KeyError::Readable(_))));
        }
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        let (dir, key) = folder();
        let path = dir.path().join("other.pem");
        symlink(&key, &path).unwrap();
        assert!(matches!(TokenKey::load(&path), Err(KeyError::NotAFile(_))));
    }

    #[test]
    fn a_damaged_key_is_refused() {
        let (_dir, path) = folder();
        let pem = fs::read(&path).unwrap();
        for damaged in [&b""[..], &pem[..pem.len() / 2], &b"\xff\xfe"[..]] {
            fs::write(&path, damaged).unwrap();
            assert!(matches!(TokenKey::load(&path), Err(KeyError::Content(_))));
        }
    }

    #[test]
    fn the_public_entry_holds_the_public_half_only() {
        let (_dir, path) = folder();
        let key = TokenKey::load(&path).unwrap();
        let jwk = serde_json::to_value(key.jwk()).unwrap();
        assert_eq!(jwk["kty"], "OKP");
        assert_eq!(jwk["crv"], "Ed25519");
        assert_eq!(jwk["alg"], "EdDSA");
        assert_eq!(jwk["use"], "sig");
        assert_eq!(jwk["kid"], key.key_id());
        assert!(jwk.get("d").is_none());
        assert!(DecodingKey::from_jwk(&key.jwk()).is_ok());
    }
}
