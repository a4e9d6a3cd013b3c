//! Any bytes as a token: none verifies but the one that was signed, to the byte.
//!
//! Input: what to do with the signed token, one byte, and its matter. Even: the matter is the token.
//! 1: the matter is what the token says, and is signed by the very key, so that the claims are
//! reached; then it may be accepted only if it is what it must be. 3 and above: the token with some
//! bytes replaced.

#![no_main]

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use hubbub_fuzz::{
    Numbers,
    limits::{SUBJECT_BYTES_MAX, TOKEN_BYTES_MAX, USER_NAME_BYTES_MAX},
    token::{
        claims::Realm,
        key::Key,
        outside::Rules,
        verify::{TokenError, Unverified, Verifier},
    },
};
use jsonwebtoken::{Algorithm, DecodingKey};
use libfuzzer_sys::fuzz_target;

const NOW_S: u64 = 1_800_000_000;
const HEAD: &str = r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1"}"#;
const CLAIMS: &str = r#"{"sub":"abcdefghijklmnop","name":"ada","iss":"hubbub","aud":"hubbub","iat":1800000000,"exp":1800000600,"jti":"1","scope":"chat","sid":"s1","gen":1}"#;

struct Known {
    signing: SigningKey,
    verifier: Verifier,
    key: Key,
    rules: Rules,
    good: String,
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let signing = SigningKey::from_bytes(&[7; 32]);
    let public = || DecodingKey::from_ed_der(signing.verifying_key().as_bytes());
    let realm = Realm { issuer: "hubbub".to_owned(), audience: "hubbub".to_owned() };
    let rules = Rules {
        issuer: "hubbub".to_owned(),
        audience: "hubbub".to_owned(),
        user_claim: "sub".to_owned(),
        name_claim: "name".to_owned(),
    };
    Known {
        verifier: Verifier::new([("k1".to_owned(), public())], realm),
        key: Key::new(public(), Algorithm::EdDSA).expect("it is a key"),
        rules,
        good: sign(&signing, HEAD.as_bytes(), CLAIMS.as_bytes()),
        signing,
    }
});

fn sign(key: &SigningKey, head: &[u8], claims: &[u8]) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
    let signature = key.sign(message.as_bytes()).to_bytes();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// As a token of an outside issuer with the same key and the same names.
fn outside(token: &str) -> bool {
    let Ok(parts) = Unverified::parse(token) else { return false };
    match KNOWN.rules.verify(&parts, &KNOWN.key, NOW_S) {
        Ok(verified) => {
            assert!(verified.subject.starts_with("hubbub#") || verified.subject.starts_with('#'));
            assert!((1..=SUBJECT_BYTES_MAX).contains(&verified.subject.len()));
            assert!((1..=USER_NAME_BYTES_MAX).contains(&verified.name.len()));
            assert!(!verified.name.contains(char::is_control));
            assert!(verified.expires_at_s > NOW_S);
            true
        }
        Err(_) => false,
    }
}

fn only_the_good_one(token: &str) {
    let verified = KNOWN.verifier.verify(token, NOW_S);
    assert_eq!(verified.is_ok(), token == KNOWN.good, "{token:?}: {verified:?}");
    assert_eq!(outside(token), token == KNOWN.good, "{token:?}");
}

fuzz_target!(|input: &[u8]| {
    let mut numbers = Numbers { rest: input };
    match numbers.byte() {
        1 => {
            let length = numbers.word() % TOKEN_BYTES_MAX;
            let head = numbers.bytes(length);
            let (head, claims) = if head.is_empty() {
                (HEAD.as_bytes(), numbers.rest)
            } else {
                (head, numbers.rest)
            };
            let token = sign(&KNOWN.signing, head, claims);
            outside(&token);
            match KNOWN.verifier.verify(&token, NOW_S) {
                Ok(claims) => {
                    assert!(token.len() <= TOKEN_BYTES_MAX);
                    assert_eq!((claims.iss.as_str(), claims.aud.as_str()), ("hubbub", "hubbub"));
                    assert!(claims.exp > NOW_S && claims.iat <= claims.exp);
                    assert!(!claims.sub.is_empty() && !claims.sub.contains('#'));
                }
                Err(TokenError::KeysUnavailable) => panic!("the keys are there"),
                Err(TokenError::Invalid(_) | TokenError::Expired) => {}
            }
        }
        kind if kind % 2 == 0 => {
            if let Ok(token) = str::from_utf8(numbers.rest) {
                only_the_good_one(token);
            }
        }
        _ => {
            let mut token = KNOWN.good.clone().into_bytes();
            while !numbers.rest.is_empty() {
                let at = numbers.word() % token.len();
                token[at] = numbers.byte();
            }
            if let Ok(token) = str::from_utf8(&token) {
                only_the_good_one(token);
            }
        }
    }
});
