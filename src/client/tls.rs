//! TLS of a client: whose signature under a server's certificate is believed.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{
        CertificateDer,
        pem::{self, PemObject as _},
    },
};
use thiserror::Error;

/// Those whose signature is believed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Authorities {
    config: Arc<ClientConfig>,
}

/// Why a file has no authorities.
#[derive(Debug, Error)]
pub enum AuthoritiesError {
    /// It cannot be read, or is not PEM.
    #[error("{} cannot be read as PEM", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// It has no certificate, or one that is damaged.
    #[error("{} has no usable certificate in it", .0.display())]
    NoCertificate(PathBuf),
}

impl Authorities {
    /// Those that this system believes. None at all, if it has no list: then every server is refused.
    #[must_use]
    pub fn of_system() -> Self {
        let mut roots = RootCertStore::empty();
        // What cannot be used signs nothing that is believed, and its owner hears of it then.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Self::new(roots)
    }

    /// Those in this file, as PEM, and no others.
    ///
    /// # Errors
    /// When there is no certificate in it.
    pub fn in_file(path: &Path) -> Result<Self, AuthoritiesError> {
        let unreadable = |source| AuthoritiesError::Unreadable { path: path.to_owned(), source };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
            roots
                .add(certificate.map_err(unreadable)?)
                .map_err(|_| AuthoritiesError::NoCertificate(path.to_owned()))?;
        }
        if roots.is_empty() {
            return Err(AuthoritiesError::NoCertificate(path.to_owned()));
        }
        Ok(Self::new(roots))
    }

    /// Nobody: for a client that is not to use TLS.
    pub(super) fn nobody() -> Self {
        Self::new(RootCertStore::empty())
    }

    pub(super) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    fn new(roots: RootCertStore) -> Self {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the suites of both versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { config: Arc::new(config) }
    }
}

/// An error of TLS in words that help.
pub(super) fn explain(error: io::Error) -> io::Error {
    use rustls::{CertificateError, Error};
    let cause = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    let words = match cause {
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "nobody that is believed here has signed its certificate"
        }
        Some(Error::InvalidMessage(_)) => "it does not speak TLS",
        _ => return error,
    };
    io::Error::new(error.kind(), words)
}
