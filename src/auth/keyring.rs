//! The keys in this process: who signs, who is published, who verifies. A copy of what `store::keys`
//! has decided, at most a second old.

use std::sync::{Arc, PoisonError, RwLock};

use jsonwebtoken::{DecodingKey, jwk::JwkSet};
use thiserror::Error;
use tokio::sync::watch;

use super::{
    Settings,
    keys::{KeyError, TokenKey},
    store::keys::{KeyStore, KeyStoreError},
    token::{Issuer, Verifier},
};

/// The keys of the service. Cheap to ask: no file, no store.
#[derive(Debug)]
pub struct Keyring {
    settings: Settings,
    ring: RwLock<Arc<Ring>>,
    published: watch::Sender<Arc<JwkSet>>,
}

/// The keys at one moment, the one that signs first.
#[derive(Debug)]
struct Ring {
    keys: Vec<Held>,
    verifier: Verifier,
}

#[derive(Clone, Debug)]
struct Held {
    key: Arc<TokenKey>,
    issuer: Arc<Issuer>,
}

/// Why the keys of the store cannot be used here.
#[derive(Debug, Error)]
pub enum KeyringError {
    /// The store, or the file of the key that signs.
    #[error(transparent)]
    Store(#[from] KeyStoreError),
    /// A key cannot be written in the form that the issuer needs.
    #[error("the token key cannot sign")]
    Unusable,
    /// There is none.
    #[error("there is no token key")]
    None,
}

impl Keyring {
    pub(super) fn open(
        store: &KeyStore,
        settings: Settings,
        now_s: u64,
    ) -> Result<Self, KeyringError> {
        let ring = read(store, &settings, &[], now_s)?;
        let (published, _) = watch::channel(Arc::new(ring.jwks()));
        Ok(Self { settings, ring: RwLock::new(Arc::new(ring)), published })
    }

    /// Takes over what the store says now.
    pub(super) fn reload(&self, store: &KeyStore, now_s: u64) -> Result<(), KeyringError> {
        let before = self.ring();
        let ring = read(store, &self.settings, &before.keys, now_s)?;
        if ring.key_ids().eq(before.key_ids()) {
            return Ok(());
        }
        let jwks = Arc::new(ring.jwks());
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
        self.published.send_replace(jwks);
        Ok(())
    }

    /// Who signs.
    pub(super) fn issuer(&self) -> Arc<Issuer> {
        Arc::clone(&self.ring().keys.first().expect("a ring has a key").issuer)
    }

    /// Who verifies what these keys have signed.
    pub(super) fn verifier(&self) -> Verifier {
        self.ring().verifier.clone()
    }

    /// The public keys, and each change of them.
    pub(super) fn published(&self) -> watch::Receiver<Arc<JwkSet>> {
        self.published.subscribe()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.ring().keys.len()
    }

    fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Ring {
    fn jwks(&self) -> JwkSet {
        JwkSet { keys: self.keys.iter().map(|held| held.key.jwk()).collect() }
    }

    fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|held| held.key.key_id())
    }
}

/// The ring as the store says. Files of keys that are held already are not read again: a key id is
/// the hash of its key.
fn read(
    store: &KeyStore,
    settings: &Settings,
    held: &[Held],
    now_s: u64,
) -> Result<Ring, KeyringError> {
    let mut keys = Vec::new();
    for key_id in store.published(now_s)? {
        if let Some(known) = held.iter().find(|held| held.key.key_id() == key_id) {
            keys.push(known.clone());
            continue;
        }
        match store.load(&key_id) {
            Ok(key) => keys.push(hold(key, settings)?),
            // It may have been retired between the two reads. The one that signs is needed.
            Err(KeyStoreError::Key(KeyError::Io { path, source }))
                if !keys.is_empty() && source.kind() == std::io::ErrorKind::NotFound =>
            {
                tracing::warn!(path = %path.display(), "the file of a former key is missing");
            }
            // A service that runs must not miss the revocation of one key for the sake of another. One
            // that starts says what is wrong, and does not.
            Err(error) if !keys.is_empty() && !held.is_empty() => {
                tracing::error!(%error, "a key that does not sign now cannot be used");
            }
            Err(error) => return Err(error.into()),
        }
    }
    if keys.is_empty() {
        return Err(KeyringError::None);
    }
    let decoding = |held: &Held| -> (String, DecodingKey) {
        (held.key.key_id().to_owned(), held.key.decoding_key())
    };
    let verifier = Verifier::new(keys.iter().map(decoding), settings.realm());
    Ok(Ring { keys, verifier })
}

fn hold(key: TokenKey, settings: &Settings) -> Result<Held, KeyringError> {
    let signing = key.encoding_key().ok_or(KeyringError::Unusable)?;
    let (key_id, lifetime) = (key.key_id().to_owned(), settings.access_token_lifetime);
    let issuer = Arc::new(Issuer::new(signing, key_id, settings.realm(), lifetime));
    Ok(Held { key: Arc::new(key), issuer })
}
