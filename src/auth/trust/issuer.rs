//! One issuer that is trusted: where its keys are, which they are now, and what its tokens must say.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, PoisonError, RwLock},
};

use jsonwebtoken::{Algorithm, jwk::Jwk, jwk::JwkSet};
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::watch;

use super::remote::Remote;
use crate::{
    auth::token::{
        Realm, Reason, TokenError, Verified,
        key::{Key, KeySet},
        outside::Rules,
        verify::Unverified,
    },
    limits,
};

/// An issuer.
#[derive(Debug)]
pub(super) struct Issuer {
    kind: Kind,
    source: Source,
    keys: Arc<Keys>,
}

/// What the tokens of an issuer must say.
#[derive(Debug)]
pub(super) enum Kind {
    /// The auth service, in this process or another.
    Own(Realm),
    /// Somebody else.
    Outside(Rules),
}

/// Where keys come from.
#[derive(Debug)]
pub(super) enum Source {
    /// The auth service in this process.
    Process(watch::Receiver<Arc<JwkSet>>),
    /// A file, read at the start.
    File,
    /// A document behind an address.
    Remote(Remote),
}

/// The keys of one issuer, as they are now.
#[derive(Debug)]
pub(super) struct Keys {
    algorithm: Algorithm,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    set: KeySet,
    /// Of keys that were revoked: they are not taken again, whatever a document says.
    revoked: VecDeque<String>,
    /// What `set` was made of, if that came from this process.
    from: Option<Arc<JwkSet>>,
}

/// Why a document holds no keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("it is no JWKS document: an object whose `keys` are a list")]
pub(super) struct NoJwks;

/// Each key by itself: one of a kind that we do not know does not hide the others.
#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

impl Issuer {
    pub(super) const fn new(kind: Kind, source: Source, keys: Arc<Keys>) -> Self {
        Self { kind, source, keys }
    }

    /// `iss`.
    pub(super) fn name(&self) -> &str {
        match &self.kind {
            Kind::Own(realm) => &realm.issuer,
            Kind::Outside(rules) => &rules.issuer,
        }
    }

    pub(super) const fn is_own(&self) -> bool {
        matches!(self.kind, Kind::Own(_))
    }

    /// Takes over what the auth service in this process has published since.
    pub(super) fn catch_up(&self) {
        if let Source::Process(published) = &self.source {
            let published = Arc::clone(&published.borrow());
            self.keys.take_over(&published);
        }
    }

    /// No token of this key is good any more.
    pub(super) fn revoke_key(&self, key_id: &str) {
        self.keys.revoke(key_id);
    }

    /// Verifies a token that says that it is of this issuer. Waits only for a key that may be fetched.
    pub(super) async fn verify(
        &self,
        token: &Unverified<'_>,
        now_s: u64,
    ) -> Result<(Verified, Arc<Key>), TokenError> {
        let key_id = match &self.kind {
            Kind::Own(_) => Some(token.check_own_head().map_err(TokenError::Invalid)?),
            Kind::Outside(_) => token.key_id(),
        };
        if key_id.is_some_and(|id| id.len() > limits::KEY_ID_BYTES_MAX) {
            return Err(TokenError::Invalid(Reason::Key));
        }
        if !token.is_of(self.keys.algorithm) {
            return Err(TokenError::Invalid(Reason::Algorithm));
        }
        let key = match (self.keys.find(key_id), &self.source) {
            (Some(key), _) => key,
            // Not invalid: whoever has it may have come by it rightly, and is to fetch another.
            (None, _) if key_id.is_some_and(|id| self.keys.is_revoked(id)) => {
                return Err(TokenError::Expired);
            }
            (None, Source::Remote(remote)) => remote.wait_for(|| self.keys.find(key_id)).await?,
            (None, Source::Process(_) | Source::File) => {
                return Err(TokenError::Invalid(Reason::Key));
            }
        };
        let verified = match &self.kind {
            Kind::Own(realm) => {
                let claims = token.verify(&key, realm, now_s)?;
                Verified::of_own(claims, key_id.unwrap_or_default())
            }
            Kind::Outside(rules) => rules.verify(token, &key, now_s)?,
        };
        Ok((verified, key))
    }
}

impl Keys {
    pub(super) fn new(algorithm: Algorithm, set: KeySet) -> Self {
        Self { algorithm, state: RwLock::new(State { set, ..State::default() }) }
    }

    pub(super) const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn find(&self, id: Option<&str>) -> Option<Arc<Key>> {
        self.read(|state| state.set.find(id).map(Arc::clone))
    }

    fn is_revoked(&self, id: &str) -> bool {
        self.read(|state| state.revoked.iter().any(|revoked| revoked == id))
    }

    /// Replaces the keys by those of this document. How many there are now.
    pub(super) fn replace(&self, document: &[u8]) -> Result<usize, NoJwks> {
        let set = key_set(document, self.algorithm)?;
        Ok(self.write(|state| state.replace(set)))
    }

    fn take_over(&self, published: &Arc<JwkSet>) {
        let is_it =
            |state: &State| state.from.as_ref().is_some_and(|it| Arc::ptr_eq(it, published));
        if self.read(is_it) {
            return;
        }
        self.write(|state| {
            state.replace(collect(published.keys.iter().cloned(), self.algorithm));
            state.from = Some(Arc::clone(published));
        });
    }

    fn revoke(&self, key_id: &str) {
        self.write(|state| {
            state.set.remove(key_id);
            if !state.revoked.iter().any(|revoked| revoked == key_id) {
                if state.revoked.len() >= limits::REVOKED_KEYS_MAX {
                    state.revoked.pop_front();
                }
                state.revoked.push_back(key_id.to_owned());
            }
        });
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, write: impl FnOnce(&mut State) -> T) -> T {
        write(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn replace(&mut self, later: KeySet) -> usize {
        self.set.become_later(later);
        for revoked in &self.revoked {
            self.set.remove(revoked);
        }
        self.set.len()
    }
}

/// The keys of a JWKS document that fit this algorithm.
pub(super) fn key_set(document: &[u8], algorithm: Algorithm) -> Result<KeySet, NoJwks> {
    let Document { keys } = serde_json::from_slice(document).map_err(|_| NoJwks)?;
    let known = keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
    Ok(collect(known, algorithm))
}

/// Those that have an id, or the only one there is, whose tokens need not name it.
fn collect(keys: impl Iterator<Item = Jwk>, algorithm: Algorithm) -> KeySet {
    let mut fitting = keys.filter_map(|jwk| {
        let key = Key::from_jwk(&jwk, algorithm)?;
        Some((jwk.common.key_id, key))
    });
    let mut first: Vec<_> = fitting.by_ref().take(limits::KEYS_PER_ISSUER_MAX).collect();
    if fitting.next().is_some() {
        let max = limits::KEYS_PER_ISSUER_MAX;
        tracing::warn!(max, "a document has more keys than are taken; the rest is left out");
    }
    if let [(None, _)] = first.as_slice() {
        let (_, key) = first.remove(0);
        return KeySet::nameless(key);
    }
    let mut set = KeySet::default();
    let mut known = HashSet::new();
    for (id, key) in first {
        match id {
            Some(id) if id.len() <= limits::KEY_ID_BYTES_MAX => {
                if !known.insert(id.clone()) {
                    tracing::warn!(
                        id,
                        "two keys of a document have the same id; the first is taken"
                    );
                }
                set.add(id, Arc::new(key));
            }
            _ => tracing::warn!("a key without an id, or with a long one, is left out"),
        }
    }
    set
}
