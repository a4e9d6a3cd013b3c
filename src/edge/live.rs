//! What may change while the server runs: the settings of the edge, with the certificate that they
//! name. A reload replaces all of it at once. New connections see the new, those that are open keep
//! what they have.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;

use super::{
    Settings,
    tls::{self, TlsError},
};
use crate::clock;

/// The settings, and what was read from the files that they name.
#[derive(Debug)]
pub struct Present {
    /// As they are configured.
    pub settings: Settings,
    /// The certificate and its key. None: the public port speaks plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
}

impl Present {
    fn read(settings: Settings) -> Result<Arc<Self>, TlsError> {
        let tls = tls::load(&settings.tls, clock::unix_s())?;
        Ok(Arc::new(Self { settings, tls }))
    }
}

/// The settings of the edge that are in force.
#[derive(Debug)]
pub struct Live {
    // Held for the time of a clone, never over an await.
    present: RwLock<Arc<Present>>,
}

impl Live {
    /// Puts these settings in force.
    ///
    /// # Errors
    /// When a file that they name is missing or is not what it should be.
    pub fn new(settings: Settings) -> Result<Self, TlsError> {
        Ok(Self { present: RwLock::new(Present::read(settings)?) })
    }

    /// What is in force now.
    pub fn now(&self) -> Arc<Present> {
        Arc::clone(&self.present.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files again and puts these settings in force.
    ///
    /// # Errors
    /// As [`Live::new`]; then nothing has changed.
    pub fn replace(&self, settings: Settings) -> Result<(), TlsError> {
        let present = Present::read(settings)?;
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = present;
        Ok(())
    }
}
