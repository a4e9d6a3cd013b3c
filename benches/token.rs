//! What verifying a token costs, in CPU time of one thread: cold, remembered, and by the library
//! alone; other implementations of Ed25519 beside ours; and the most that a bad token costs.
//!
//! `cargo bench --bench token`. The contenders take turns, so that a busy machine hits all alike;
//! ratios are to be trusted more than rates. Fails when a bad token is taken.

use std::{
    hint::black_box,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use ed25519_dalek::{Signature, SigningKey};
use hubbub::auth::{
    token::{Realm, TokenError, Verified},
    trust::{Settings, Trust},
};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    jwk::{Jwk, JwkSet},
};
use rustix::time::{ClockId, clock_gettime};
use tokio::{runtime::Builder, sync::watch};

use self::bad::Forge;

#[path = "../tests/tokens/bad.rs"]
mod bad;

/// Rounds in which each contender has its turn.
const ROUNDS: usize = 20;
/// Tokens in a turn, all different.
const TOKENS: usize = 1_000;
/// How often each bad token is refused.
const REFUSALS: u32 = 200;
/// What a bad token may cost.
const REFUSAL_MAX: Duration = Duration::from_millis(1);

const NOW_S: u64 = 1_800_000_000;

/// Verifies all tokens once.
type Turn<'t> = Box<dyn FnMut() + 't>;

fn main() {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let forge = Forge {
        key: SigningKey::from_bytes(&[7; 32]),
        key_id: "Wm0bTn3Wy8kz5mXwV1Ck4oKp2qS7uR9eXcYvBnMlQaE".to_owned(),
        realm: "hubbub".to_owned(),
        now_s: NOW_S,
    };
    let (_publish, keys) = watch::channel(Arc::new(jwks(&forge)));
    let realm = Realm { issuer: "hubbub".to_owned(), audience: "hubbub".to_owned() };
    let trust = || {
        Trust::new(Some(keys.clone()), realm.clone(), &Settings::default(), runtime.handle())
            .expect("it trusts the key")
    };
    race(&forge, &trust);
    refuse(&forge, &trust());
}

/// Good tokens, verified in each way.
fn race(forge: &Forge, trust: &dyn Fn() -> Trust) {
    let tokens: Vec<_> = (0..TOKENS).map(|number| good(forge, number)).collect();
    let public = forge.key.verifying_key();
    let key = DecodingKey::from_ed_der(public.as_bytes());
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_audience(&["hubbub"]);
    validation.set_issuer(&["hubbub"]);
    let signatures: Vec<_> = tokens.iter().map(|token| parts(token)).collect();
    let with_ring = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, public);

    let mut turns: [(&str, Turn<'_>); 6] = [
        (
            "cold: ours, nothing remembered",
            Box::new(|| {
                // Fresh, so that none is known; making it is not worth mentioning among a thousand.
                let trust = trust();
                tokens.iter().for_each(|token| assert!(verify(&trust, token).is_ok()));
            }),
        ),
        (
            "remembered: ours",
            Box::new({
                let trust = trust();
                tokens.iter().for_each(|token| assert!(verify(&trust, token).is_ok()));
                let tokens = &tokens;
                move || tokens.iter().for_each(|token| assert!(verify(&trust, token).is_ok()))
            }),
        ),
        (
            "jsonwebtoken::decode, bare",
            Box::new(|| {
                for token in &tokens {
                    let decoded =
                        jsonwebtoken::decode::<serde_json::Value>(token, &key, &validation);
                    assert!(black_box(decoded).is_ok());
                }
            }),
        ),
        (
            "signature alone: dalek, strict",
            Box::new(|| {
                for (message, signature) in &signatures {
                    let signature = Signature::from_bytes(signature);
                    assert!(public.verify_strict(message, &signature).is_ok());
                }
            }),
        ),
        (
            "signature alone: dalek, not strict",
            Box::new(|| {
                use ed25519_dalek::Verifier as _;
                for (message, signature) in &signatures {
                    assert!(public.verify(message, &Signature::from_bytes(signature)).is_ok());
                }
            }),
        ),
        (
            "signature alone: ring",
            Box::new(|| {
                for (message, signature) in &signatures {
                    assert!(with_ring.verify(message, signature).is_ok());
                }
            }),
        ),
    ];
    let mut times = vec![Vec::new(); turns.len()];
    for _ in 0..ROUNDS {
        for ((_, turn), times) in turns.iter_mut().zip(&mut times) {
            let before = cpu_time();
            turn();
            times.push(cpu_time() - before);
        }
    }
    println!("{:<36} {:>9} {:>9} {:>12}", "a token", "µs", "least µs", "a second");
    for ((name, _), times) in turns.iter().zip(&mut times) {
        times.sort_unstable();
        let us = |time: Duration| time.as_secs_f64() * 1e6 / TOKENS as f64;
        let median = us(times[ROUNDS / 2]);
        println!("{name:<36} {median:>9.2} {:>9.2} {:>12.0}", us(times[0]), 1e6 / median);
    }
}

/// Bad tokens: none is taken, and the dearest are named.
fn refuse(forge: &Forge, trust: &Trust) {
    let bad = forge.bad();
    let mut costs = Vec::new();
    for (name, token) in &bad {
        let before = cpu_time();
        for _ in 0..REFUSALS {
            let outcome = verify(trust, token);
            assert!(matches!(outcome, Err(TokenError::Invalid(_))), "{name}: {outcome:?}");
        }
        costs.push(((cpu_time() - before) / REFUSALS, name));
    }
    costs.sort();
    costs.reverse();
    println!("\n{} bad tokens, all refused; the dearest:", bad.len());
    for (cost, name) in costs.iter().take(5) {
        println!("{:>9.2} µs  {name}", cost.as_secs_f64() * 1e6);
    }
    let (most, name) = costs[0];
    assert!(most <= REFUSAL_MAX, "{name} costs {most:?}");
}

fn good(forge: &Forge, number: usize) -> String {
    let mut claims = forge.claims();
    claims["sub"] = format!("{number:016}").into();
    claims["sid"] = format!("{number:032}").into();
    claims["jti"] = format!("{number:032x}").into();
    // The library has a clock of its own.
    claims["exp"] = (NOW_S + 600_000_000).into();
    claims.as_object_mut().and_then(|claims| claims.remove("nbf"));
    forge.sign(&forge.head().to_string(), &claims.to_string())
}

fn parts(token: &str) -> (&[u8], [u8; 64]) {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let (message, signature) = token.rsplit_once('.').expect("it has parts");
    let signature = URL_SAFE_NO_PAD.decode(signature).expect("it is base64url");
    (message.as_bytes(), signature.try_into().expect("it has 64 bytes"))
}

fn jwks(forge: &Forge) -> JwkSet {
    let key = DecodingKey::from_ed_der(forge.key.verifying_key().as_bytes());
    let mut jwk = Jwk::from_decoding_key(&key, Some(Algorithm::EdDSA)).expect("it is a key");
    jwk.common.key_id = Some(forge.key_id.clone());
    JwkSet { keys: vec![jwk] }
}

/// Nothing has to be waited for: all keys are there.
fn verify(trust: &Trust, token: &str) -> Result<Verified, TokenError> {
    match pin!(trust.verify(token, NOW_S)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("it waits"),
    }
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}
