//! TLS: files with a certificate and its key → sessions on the public port.
//!
//! With TLS configured the port speaks nothing else. A client that speaks plain HTTP there is told
//! so in its own language, as its first byte gives it away. The handshake is done here, on the edge;
//! a WebSocket takes its session along to the hub.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    InconsistentKeys, ServerConfig, ServerConnection,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use x509_cert::{Certificate, der::Decode as _};

use crate::limits::{TLS_FILE_BYTES_MAX, TLS_TICKETS, TLS_UNSENT_BYTES_MAX};

/// What is agreed to be spoken inside, if the client asks.
const ALPN: &[u8] = b"http/1.1";

/// Where the certificate is. Both or none.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Files {
    /// The certificate, and behind it those that sign it, as PEM. Empty: no TLS.
    pub certificate: PathBuf,
    /// The key of the first certificate, as PEM: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// Why there is no TLS with these files.
#[derive(Debug, Error)]
pub enum TlsError {
    /// One file is named, the other is not.
    #[error("edge.tls.certificate and edge.tls.key are needed both, or none of them")]
    Half,
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is too large to be what it should be.
    #[error("{} is larger than {TLS_FILE_BYTES_MAX} bytes: no certificate or key is", .0.display())]
    TooLarge(PathBuf),
    /// A file is not what it should be.
    #[error("{} is not PEM", path.display())]
    NotPem {
        /// Which.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// A file is empty, or has something else in it.
    #[error("{} has no certificate in it (looked for `BEGIN CERTIFICATE`)", .0.display())]
    NoCertificate(PathBuf),
    /// A file is empty, or has something else in it.
    #[error("{} has no private key in it (looked for `BEGIN PRIVATE KEY` and its like)", .0.display())]
    NoKey(PathBuf),
    /// The two are not of each other.
    #[error("the key in {} is not that of the first certificate in {}", key.display(), certificate.display())]
    Mismatch {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// A certificate that is damaged, or a kind of key that is not known.
    #[error("{} and {} cannot be used", certificate.display(), key.display())]
    Unusable {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// Reads the files. None: there are to be none. `now_s` is only for a warning, in seconds since
/// 1970.
///
/// # Errors
/// When a file is missing or is not what it should be.
pub fn load(files: &Files, now_s: u64) -> Result<Option<Arc<ServerConfig>>, TlsError> {
    let Files { certificate, key } = files;
    match (certificate.as_os_str().is_empty(), key.as_os_str().is_empty()) {
        (true, true) => return Ok(None),
        (false, false) => {}
        _ => return Err(TlsError::Half),
    }
    let chain = read_chain(certificate)?;
    let path = certificate.display();
    match validity(&chain[0], now_s) {
        Validity::Now | Validity::Unknown => {}
        Validity::Past => tracing::warn!(%path, "the certificate has expired: clients refuse it"),
        Validity::Future => tracing::warn!(%path, "the certificate is not valid yet"),
    }
    let secret = read_key(key)?;
    config(chain, secret).map(|config| Some(Arc::new(config))).map_err(|source| {
        let (certificate, key) = (certificate.clone(), key.clone());
        match source {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::Mismatch { certificate, key }
            }
            source => TlsError::Unusable { certificate, key, source },
        }
    })
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A storm of reconnects is cheaper by tickets, and their keys are all that they cost here: no
    // session is remembered.
    config.ticketer = ring::Ticketer::new()?;
    config.send_tls13_tickets = TLS_TICKETS;
    Ok(config)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|source| TlsError::NotPem { path: path.to_owned(), source })?;
    if chain.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(chain) }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|source| match source {
        pem::Error::NoItemsFound => TlsError::NoKey(path.to_owned()),
        source => TlsError::NotPem { path: path.to_owned(), source },
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(TLS_FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })?;
    if bytes.len() as u64 > TLS_FILE_BYTES_MAX {
        return Err(TlsError::TooLarge(path.to_owned()));
    }
    Ok(bytes)
}

/// How a certificate stands to the present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Validity {
    Now,
    Past,
    Future,
    /// It cannot be read, which its use will show.
    Unknown,
}

fn validity(certificate: &[u8], now_s: u64) -> Validity {
    let Ok(certificate) = Certificate::from_der(certificate) else { return Validity::Unknown };
    let validity = certificate.tbs_certificate.validity;
    if validity.not_after.to_unix_duration().as_secs() < now_s {
        Validity::Past
    } else if validity.not_before.to_unix_duration().as_secs() > now_s {
        Validity::Future
    } else {
        Validity::Now
    }
}

/// What a new connection to a port with TLS turns out to be.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub(super) enum Opened {
    /// As it should be.
    Secure(TlsStream<TcpStream>),
    /// HTTP without TLS. Nothing has been read of it.
    Plain(TcpStream),
}

/// Waits for the first byte, and does the handshake if it is one. Has no deadline of its own.
pub(super) async fn open(stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<Opened> {
    let mut first = [0];
    // The end of the connection shows as nothing; the handshake will find it.
    let _ = stream.peek(&mut first).await?;
    // A method begins with a letter, a handshake with 22.
    if first[0].is_ascii_alphabetic() {
        return Ok(Opened::Plain(stream));
    }
    let bound = |session: &mut ServerConnection| {
        session.set_buffer_limit(Some(TLS_UNSENT_BYTES_MAX));
    };
    Ok(Opened::Secure(TlsAcceptor::from(config).accept_with(stream, bound).await?))
}

/// What the session has decrypted and nobody has read yet. At most about one record.
pub(super) fn unread(session: &mut ServerConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    // It ends with `WouldBlock`, or with the end of what the client sends; both find out again.
    let _ = session.reader().read_to_end(&mut bytes);
    bytes
}

/// The last words of a session, as they go over the wire.
pub(super) fn last_words(session: &mut ServerConnection, bytes: &[u8]) -> io::Result<Vec<u8>> {
    session.writer().write_all(bytes)?;
    session.send_close_notify();
    let mut wire = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut wire)?;
    }
    Ok(wire)
}

#[cfg(test)]
mod tests;
