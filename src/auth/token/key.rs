//! A key that signatures are verified with. It is good for one algorithm, whatever a token says.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{SIGNATURE_LENGTH, Signature, VerifyingKey};
use jsonwebtoken::{
    Algorithm, DecodingKey, crypto,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};

use crate::limits;

/// A key and its only algorithm.
pub struct Key {
    algorithm: Algorithm,
    kind: Kind,
    withdrawn: AtomicBool,
}

enum Kind {
    /// Decompressed once: that is a tenth of what a signature takes.
    Ed25519(VerifyingKey),
    /// All others, as the library takes them; and to compare them, but for secrets.
    Library(DecodingKey, Option<AlgorithmParameters>),
}

impl Key {
    /// The key as the library has it, for this algorithm. None if it does not fit, or proves nothing:
    /// an Ed25519 key of small order, a curve that is another, an RSA key that is too small or too
    /// large, a secret that is too short.
    #[must_use]
    pub fn new(key: DecodingKey, algorithm: Algorithm) -> Option<Self> {
        if key.family() != algorithm.family() {
            return None;
        }
        let kind = match algorithm {
            Algorithm::EdDSA => {
                let bytes = key.try_get_as_bytes().ok()?;
                let key = VerifyingKey::from_bytes(bytes.try_into().ok()?).ok()?;
                (!key.is_weak()).then_some(Kind::Ed25519(key))?
            }
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
                let length = key.try_get_as_bytes().ok()?.len();
                (length >= limits::SECRET_BYTES_MIN).then_some(Kind::Library(key, None))?
            }
            _ => {
                let public = Jwk::from_decoding_key(&key, None).ok()?.algorithm;
                let fits = match (&public, algorithm) {
                    (AlgorithmParameters::EllipticCurve(key), Algorithm::ES256) => {
                        key.curve == EllipticCurve::P256
                    }
                    (AlgorithmParameters::EllipticCurve(key), Algorithm::ES384) => {
                        key.curve == EllipticCurve::P384
                    }
                    (AlgorithmParameters::RSA(key), _) => {
                        let modulus = URL_SAFE_NO_PAD.decode(&key.n).ok()?;
                        limits::RSA_BITS.contains(&bits(&modulus))
                    }
                    _ => false,
                };
                fits.then_some(Kind::Library(key, Some(public)))?
            }
        };
        let key = Self { algorithm, kind, withdrawn: AtomicBool::new(false) };
        // The library looks at a key only when it is used: a point that is on no curve is found now.
        key.is_usable().then_some(key)
    }

    /// A key of a JWKS document, for this algorithm. None if it is for something else, or does not
    /// fit. A secret does not belong into such a document, and is not taken from one.
    #[must_use]
    pub fn from_jwk(jwk: &Jwk, algorithm: Algorithm) -> Option<Self> {
        let common = &jwk.common;
        let for_signatures = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature))
            && common
                .key_operations
                .as_ref()
                .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        let for_this = common.key_algorithm.is_none_or(|it| it == KeyAlgorithm::from(algorithm));
        // Which curve it is, `new` finds by the length of the point; here it must say so too.
        let curve_fits = match &jwk.algorithm {
            AlgorithmParameters::OctetKeyPair(key) => key.curve == EllipticCurve::Ed25519,
            AlgorithmParameters::EllipticCurve(key) => match algorithm {
                Algorithm::ES256 => key.curve == EllipticCurve::P256,
                _ => key.curve == EllipticCurve::P384,
            },
            AlgorithmParameters::RSA(_) => true,
            _ => false,
        };
        if !for_signatures || !for_this || !curve_fits {
            return None;
        }
        Self::new(DecodingKey::from_jwk(jwk).ok()?, algorithm)
    }

    /// The public key in this PEM, for this algorithm.
    #[must_use]
    pub fn from_pem(pem: &[u8], algorithm: Algorithm) -> Option<Self> {
        let key = match algorithm {
            Algorithm::EdDSA => DecodingKey::from_ed_pem(pem),
            Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_pem(pem),
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => return None,
            _ => DecodingKey::from_rsa_pem(pem),
        };
        Self::new(key.ok()?, algorithm)
    }

    /// The algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public half, if it is an Ed25519 key.
    #[must_use]
    pub fn ed25519(&self) -> Option<&[u8; 32]> {
        match &self.kind {
            Kind::Ed25519(key) => Some(key.as_bytes()),
            Kind::Library(..) => None,
        }
    }

    /// Whether this is the key's signature of these bytes, as base64url without padding.
    #[must_use]
    pub fn signed(&self, message: &[u8], signature: &str) -> bool {
        match &self.kind {
            Kind::Ed25519(key) => {
                // The decoder wants room for whole groups of three bytes.
                let mut bytes = [0; SIGNATURE_LENGTH + 2];
                let length = URL_SAFE_NO_PAD.decode_slice(signature, &mut bytes);
                let (Ok(SIGNATURE_LENGTH), Some(bytes)) = (length, bytes.first_chunk()) else {
                    return false;
                };
                // Strict: one message, one key, one signature.
                key.verify_strict(message, &Signature::from_bytes(bytes)).is_ok()
            }
            Kind::Library(key, _) => {
                URL_SAFE_NO_PAD.decode(signature).is_ok()
                    && crypto::verify(signature, message, key, self.algorithm)
                        .is_ok_and(|signed| signed)
            }
        }
    }

    /// Nothing that this key signed is good any more.
    pub fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::Release);
    }

    /// Whether it was withdrawn.
    #[must_use]
    pub fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Acquire)
    }

    /// Whether it is the same key for the same algorithm. A shared secret is not compared.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let kinds = match (&self.kind, &other.kind) {
            (Kind::Ed25519(one), Kind::Ed25519(two)) => one == two,
            (Kind::Library(_, Some(one)), Kind::Library(_, Some(two))) => one == two,
            _ => false,
        };
        self.algorithm == other.algorithm && kinds
    }

    fn is_usable(&self) -> bool {
        match &self.kind {
            Kind::Ed25519(_) => true,
            // An error is about the key; a signature that does not fit is none.
            Kind::Library(key, _) => crypto::verify("", b"", key, self.algorithm).is_ok(),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = &number[zeros..];
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

/// The keys of one issuer.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    by_id: HashMap<String, Arc<Key>>,
    /// The only key of an issuer whose file has no ids in it.
    nameless: Option<Arc<Key>>,
}

impl KeySet {
    /// One key for all tokens, whatever they call it.
    #[must_use]
    pub fn nameless(key: Key) -> Self {
        Self { by_id: HashMap::new(), nameless: Some(Arc::new(key)) }
    }

    /// Adds a key, unless there is one of this id: then the first one stays.
    pub fn add(&mut self, id: String, key: Arc<Key>) {
        self.by_id.entry(id).or_insert(key);
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len() + usize::from(self.nameless.is_some())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key that a token names. One that names none means the only one.
    #[must_use]
    pub fn find(&self, id: Option<&str>) -> Option<&Arc<Key>> {
        if let Some(key) = &self.nameless {
            return Some(key);
        }
        match id {
            Some(id) => self.by_id.get(id),
            None if self.by_id.len() == 1 => self.by_id.values().next(),
            None => None,
        }
    }

    /// Removes a key, and withdraws it.
    pub fn remove(&mut self, id: &str) {
        if let Some(key) = self.by_id.remove(id) {
            key.withdraw();
        }
    }

    /// Becomes this later set of the same issuer. Keys that are still in it stay the same; those that
    /// are not are withdrawn.
    pub fn become_later(&mut self, mut later: Self) {
        for (id, key) in &self.by_id {
            match later.by_id.get_mut(id) {
                Some(same) if same.is(key) => *same = Arc::clone(key),
                _ => key.withdraw(),
            }
        }
        match (&self.nameless, &mut later.nameless) {
            (Some(key), Some(same)) if same.is(key) => *same = Arc::clone(key),
            (Some(key), _) => key.withdraw(),
            (None, _) => {}
        }
        *self = later;
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey, Verifier as _};

    use super::*;

    #[test]
    fn a_signature_by_a_point_of_small_order_is_refused_although_it_fits() {
        // Made with the private key: R is the identity, and S the product of hash and key.
        const MESSAGE: &[u8] = b"whatever";
        const SIGNATURE: &str = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAanWTQYAKWgTwtJBq9Low4sqfEbvKfTn53snWxYyGYCA";
        let signing = SigningKey::from_bytes(&[7; 32]);
        let public = signing.verifying_key();
        let bytes = URL_SAFE_NO_PAD.decode(SIGNATURE).unwrap();
        let loose = Signature::from_bytes(bytes.as_slice().try_into().unwrap());
        assert!(public.verify(MESSAGE, &loose).is_ok(), "a careless verifier takes it");

        let key = DecodingKey::from_ed_der(public.as_bytes());
        let key = Key::new(key, Algorithm::EdDSA).unwrap();
        assert!(!key.signed(MESSAGE, SIGNATURE));
        assert!(key.signed(MESSAGE, &URL_SAFE_NO_PAD.encode(signing.sign(MESSAGE).to_bytes())));
    }

    #[test]
    fn a_key_that_proves_nothing_is_none() {
        let mut weak = [[0; 32]; 2];
        weak[0][0] = 1;
        for bytes in weak {
            assert!(Key::new(DecodingKey::from_ed_der(&bytes), Algorithm::EdDSA).is_none());
        }
        for (bits, fits) in [(1_024, false), (2_047, false), (2_048, true), (4_096, true)] {
            let mut modulus = vec![0xff_u8; bits / 8 + usize::from(bits % 8 > 0)];
            modulus[0] >>= (8 - bits % 8) % 8;
            let key = DecodingKey::from_rsa_raw_components(&modulus, &[1, 0, 1]);
            assert_eq!(Key::new(key, Algorithm::RS256).is_some(), fits, "{bits} bits");
        }
        let short = DecodingKey::from_secret(&[1; 31]);
        assert!(Key::new(short, Algorithm::HS256).is_none());
        let of_another_kind = DecodingKey::from_secret(&[1; 32]);
        assert!(Key::new(of_another_kind, Algorithm::EdDSA).is_none());
    }
}
