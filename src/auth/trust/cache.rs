//! Verified tokens, remembered by their hash.
//!
//! Only good tokens come in, so a flood of bad ones puts nobody out. The hash is SHA-256: whoever
//! finds another text with the hash of a good token has broken more than this. A token is remembered
//! with its key, and forgotten as soon as that is withdrawn.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use sha2::{Digest as _, Sha256};

use crate::{
    auth::token::{Verified, key::Key},
    limits,
};

/// Parts with a lock each, so that the edge's threads seldom meet.
const PARTS: usize = 16;

/// Tokens in the younger half of one part.
const GENERATION_MAX: usize = limits::VERIFIED_CACHED_MAX / PARTS / 2;

/// A token's place: of all its bytes, the signature included.
pub(super) type Hash = [u8; 32];

/// What is kept of a token.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) verified: Verified,
    pub(super) key: Arc<Key>,
}

/// Tokens that were verified before.
#[derive(Debug, Default)]
pub(super) struct Cache {
    parts: [Mutex<Part>; PARTS],
}

/// Two generations. What is used goes to the younger one; when that is full, it becomes the older
/// one, and what nobody asked for since is gone, all at once.
#[derive(Debug, Default)]
struct Part {
    young: HashMap<Hash, Arc<Entry>>,
    old: HashMap<Hash, Arc<Entry>>,
}

/// The hash of a token.
pub(super) fn hash(token: &str) -> Hash {
    Sha256::digest(token).into()
}

impl Cache {
    /// What is known of the token of this hash. The caller compares its time with the clock.
    pub(super) fn get(&self, hash: &Hash) -> Option<Arc<Entry>> {
        let mut part = self.part(hash).lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match part.young.get(hash) {
            Some(entry) => Arc::clone(entry),
            None => {
                let entry = part.old.remove(hash)?;
                part.put(*hash, Arc::clone(&entry));
                entry
            }
        };
        if entry.key.is_withdrawn() {
            part.young.remove(hash);
            return None;
        }
        Some(entry)
    }

    /// Remembers a token.
    pub(super) fn put(&self, hash: Hash, entry: Entry) {
        let mut part = self.part(&hash).lock().unwrap_or_else(PoisonError::into_inner);
        part.put(hash, Arc::new(entry));
    }

    fn part(&self, hash: &Hash) -> &Mutex<Part> {
        &self.parts[usize::from(hash[0]) % PARTS]
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let len = |part: &Mutex<Part>| {
            let part = part.lock().unwrap();
            part.young.len() + part.old.len()
        };
        self.parts.iter().map(len).sum()
    }
}

impl Part {
    fn put(&mut self, hash: Hash, entry: Arc<Entry>) {
        if self.young.len() >= GENERATION_MAX {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(hash, entry);
    }
}

/// What an entry takes at most: its place in a table that may be half empty, what is in it, and what
/// the allocator adds to each of its six pieces.
const ENTRY_BYTES_MAX: usize = 2 * (size_of::<Hash>() + size_of::<Arc<Entry>>() + 1)
    + 2 * size_of::<usize>()
    + size_of::<Entry>()
    + limits::SUBJECT_BYTES_MAX
    + limits::USER_NAME_BYTES_MAX
    + limits::SESSION_BYTES_MAX
    + limits::KEY_ID_BYTES_MAX
    + 6 * 16;

const _: () = assert!(
    limits::VERIFIED_CACHED_MAX * ENTRY_BYTES_MAX <= 16 * 1024 * 1024,
    "what is remembered takes at most 16 MiB"
);

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use jsonwebtoken::{Algorithm, DecodingKey};

    use super::*;

    fn key() -> Arc<Key> {
        let public = SigningKey::from_bytes(&[7; 32]).verifying_key();
        let key = DecodingKey::from_ed_der(public.as_bytes());
        Arc::new(Key::new(key, Algorithm::EdDSA).unwrap())
    }

    fn entry(name: &str, key: &Arc<Key>) -> Entry {
        let verified = Verified {
            subject: name.to_owned(),
            name: name.to_owned(),
            is_own: true,
            issued_at_s: None,
            expires_at_s: 1,
            session: None,
            generation: None,
            key_id: String::new(),
        };
        Entry { verified, key: Arc::clone(key) }
    }

    #[test]
    fn a_token_is_known_by_all_of_its_bytes() {
        let (cache, key) = (Cache::default(), key());
        cache.put(hash("a.b.c"), entry("ada", &key));
        assert_eq!(cache.get(&hash("a.b.c")).unwrap().verified.name, "ada");
        for other in ["a.b.", "a.b.d", "a.b.c ", "A.b.c"] {
            assert!(cache.get(&hash(other)).is_none(), "{other}");
        }
    }

    #[test]
    fn the_tokens_of_a_withdrawn_key_are_forgotten() {
        let (cache, key) = (Cache::default(), key());
        cache.put(hash("one"), entry("ada", &key));
        key.withdraw();
        assert!(cache.get(&hash("one")).is_none());
        assert_eq!(cache.len(), 0);
    }

    #[test]
    fn a_full_cache_keeps_what_is_used_and_stays_bounded() {
        let (cache, key) = (Cache::default(), key());
        let used = hash("used");
        cache.put(used, entry("ada", &key));
        for number in 0..3 * limits::VERIFIED_CACHED_MAX {
            cache.put(hash(&number.to_string()), entry("bob", &key));
            assert!(cache.get(&used).is_some(), "after {number} others");
        }
        assert!(cache.len() <= limits::VERIFIED_CACHED_MAX, "{}", cache.len());
        assert!(cache.len() > limits::VERIFIED_CACHED_MAX / 3, "{}", cache.len());
        assert!(cache.get(&hash("0")).is_none(), "the oldest went");
    }
}
