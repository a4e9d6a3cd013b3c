use ed25519_dalek::{SigningKey, pkcs8::EncodePrivateKey as _};
use jsonwebtoken::{
    DecodingKey, EncodingKey, Header,
    jwk::{Jwk, JwkSet, PublicKeyUse},
};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SignatureAlgorithm};
use serde_json::{Value, json};

use self::bad::Forge;
use super::*;
use crate::{auth::token::key::Key, metrics::tally::Counter};

#[path = "../../../tests/tokens/bad.rs"]
mod bad;

const NOW_S: u64 = 1_800_000_000;

fn forge(seed: u8, key_id: &str) -> Forge {
    let key = SigningKey::from_bytes(&[seed; 32]);
    Forge { key, key_id: key_id.to_owned(), realm: "hubbub".to_owned(), now_s: NOW_S }
}

fn jwk(key: &DecodingKey, algorithm: Algorithm, key_id: &str) -> Jwk {
    let mut jwk = Jwk::from_decoding_key(key, Some(algorithm)).unwrap();
    jwk.common.key_id = Some(key_id.to_owned());
    jwk.common.public_key_use = Some(PublicKeyUse::Signature);
    jwk
}

fn jwks(forges: &[&Forge]) -> Arc<JwkSet> {
    let of = |forge: &&Forge| {
        let key = DecodingKey::from_ed_der(forge.key.verifying_key().as_bytes());
        jwk(&key, Algorithm::EdDSA, &forge.key_id)
    };
    Arc::new(JwkSet { keys: forges.iter().map(of).collect() })
}

fn realm() -> Realm {
    Realm { issuer: "hubbub".to_owned(), audience: "hubbub".to_owned() }
}

fn trust(published: Arc<JwkSet>) -> (Trust, watch::Sender<Arc<JwkSet>>) {
    let (publish, keys) = watch::channel(published);
    let settings = Settings::default();
    (Trust::new(Some(keys), realm(), &settings, &Handle::current()).unwrap(), publish)
}

fn invalid<T>(reason: Reason) -> Result<T, TokenError> {
    Err(TokenError::Invalid(reason))
}

#[tokio::test]
async fn a_good_token_says_who_it_is_and_is_remembered() {
    let forge = forge(7, "k1");
    let (trust, _publish) = trust(jwks(&[&forge]));
    let good = forge.good();
    for _ in 0..3 {
        let verified = trust.verify(&good, NOW_S).await.unwrap();
        assert_eq!(
            (verified.subject.as_str(), verified.name.as_str()),
            ("abcdefghijklmnop", "ada")
        );
        assert_eq!((verified.session.as_deref(), verified.generation), (Some("s1"), Some(1)));
        assert_eq!((verified.key_id.as_str(), verified.expires_at_s), ("k1", NOW_S + 600));
    }
    assert_eq!((trust.stats().verified.get(), trust.stats().cached.get()), (1, 2));
    assert!(trust.verify(&good, NOW_S + 599).await.is_ok());
    assert_eq!(trust.verify(&good, NOW_S + 600).await, Err(TokenError::Expired), "remembered");
    let (fresh, _publish) = self::trust(jwks(&[&forge]));
    assert_eq!(fresh.verify(&good, NOW_S + 600).await, Err(TokenError::Expired), "not so");
}

#[tokio::test]
async fn every_bad_token_is_refused_and_puts_no_good_one_out() {
    let forge = forge(7, "k1");
    let (trust, _publish) = trust(jwks(&[&forge]));
    let good = forge.good();
    trust.verify(&good, NOW_S).await.unwrap();
    let bad = forge.bad();
    assert!(bad.len() > 200, "{}", bad.len());
    for (name, token) in &bad {
        let outcome = trust.verify(token, NOW_S).await;
        assert!(matches!(outcome, Err(TokenError::Invalid(_))), "{name}: {outcome:?}");
    }
    assert_eq!(trust.cache.len(), 1);
    trust.verify(&good, NOW_S).await.unwrap();
    let stats = trust.stats();
    assert_eq!((stats.verified.get(), stats.cached.get()), (1, 1));
    let refused = [&stats.refused_claims, &stats.refused_key, &stats.refused_signature];
    assert_eq!(refused.map(Counter::get).iter().sum::<u64>(), bad.len() as u64);
    assert!(refused.iter().all(|counter| counter.get() > 5), "{stats:?}");
}

#[tokio::test]
async fn keys_come_and_go_with_what_is_published() {
    let (first, second) = (forge(7, "k1"), forge(8, "k2"));
    let (trust, publish) = trust(jwks(&[&first]));
    trust.verify(&first.good(), NOW_S).await.unwrap();
    assert_eq!(trust.verify(&second.good(), NOW_S).await, invalid(Reason::Key));

    publish.send(jwks(&[&first, &second])).unwrap();
    trust.verify(&second.good(), NOW_S).await.unwrap();
    trust.verify(&first.good(), NOW_S).await.unwrap();
    assert_eq!(trust.stats().cached.get(), 1, "a key that stays keeps its tokens known");

    publish.send(jwks(&[&second])).unwrap();
    assert_eq!(trust.verify(&first.good(), NOW_S).await, invalid(Reason::Key));
    trust.verify(&second.good(), NOW_S).await.unwrap();

    // The id is the old one, the key is not.
    let impostor = forge(9, "k2");
    publish.send(jwks(&[&impostor])).unwrap();
    assert_eq!(trust.verify(&second.good(), NOW_S).await, invalid(Reason::Signature));
    trust.verify(&impostor.good(), NOW_S).await.unwrap();
}

#[tokio::test]
async fn a_revoked_key_stays_revoked_whatever_is_published() {
    let (first, second) = (forge(7, "k1"), forge(8, "k2"));
    let (trust, publish) = trust(jwks(&[&first, &second]));
    trust.verify(&first.good(), NOW_S).await.unwrap();
    trust.forget_key("k1");
    trust.forget_key("k3");
    assert_eq!(trust.verify(&first.good(), NOW_S).await, Err(TokenError::Expired));
    let later = forge(9, "k3");
    publish.send(jwks(&[&first, &second, &later])).unwrap();
    for revoked in [&first, &later] {
        assert_eq!(trust.verify(&revoked.good(), NOW_S).await, Err(TokenError::Expired));
    }
    trust.verify(&second.good(), NOW_S).await.unwrap();
}

/// Another issuer with a key of its own.
struct Outside {
    name: &'static str,
    algorithm: Algorithm,
    signing: EncodingKey,
    public: DecodingKey,
}

impl Outside {
    fn ed25519(name: &'static str, seed: u8) -> Self {
        let key = SigningKey::from_bytes(&[seed; 32]);
        Self {
            name,
            algorithm: Algorithm::EdDSA,
            signing: EncodingKey::from_ed_der(key.to_pkcs8_der().unwrap().as_bytes()),
            public: DecodingKey::from_ed_der(key.verifying_key().as_bytes()),
        }
    }

    fn ecdsa(name: &'static str, algorithm: Algorithm, curve: &'static SignatureAlgorithm) -> Self {
        let key = KeyPair::generate_for(curve).unwrap();
        Self {
            name,
            algorithm,
            signing: EncodingKey::from_ec_der(&key.serialize_der()),
            public: DecodingKey::from_ec_der(key.public_key_raw()),
        }
    }

    fn shared(name: &'static str, secret: &[u8]) -> Self {
        Self {
            name,
            algorithm: Algorithm::HS256,
            signing: EncodingKey::from_secret(secret),
            public: DecodingKey::from_secret(secret),
        }
    }

    fn issuer(&self, key_id: &str) -> Issuer {
        let mut set = KeySet::default();
        let key = Key::new(self.public.clone(), self.algorithm).unwrap();
        set.add(key_id.to_owned(), Arc::new(key));
        let kind = Kind::Outside(Rules {
            issuer: self.name.to_owned(),
            audience: "chat".to_owned(),
            user_claim: "uid".to_owned(),
            name_claim: "name".to_owned(),
        });
        Issuer::new(kind, Source::File, Arc::new(Keys::new(self.algorithm, set)))
    }

    fn claims(&self) -> Value {
        json!({"iss": self.name, "aud": "chat", "exp": NOW_S + 60, "uid": "42", "name": "Ada"})
    }

    fn sign(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.signing).unwrap()
    }

    fn header(&self, key_id: &str) -> Header {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(key_id.to_owned());
        header
    }
}

fn trusting(issuers: Vec<Issuer>) -> Trust {
    Trust { issuers, cache: Cache::default(), stats: Arc::default() }
}

#[tokio::test]
async fn issuers_of_each_algorithm_are_let_in() {
    let issuers = [
        Outside::ed25519("https://a", 1),
        Outside::ecdsa("https://b", Algorithm::ES256, &PKCS_ECDSA_P256_SHA256),
        Outside::ecdsa("https://c", Algorithm::ES384, &PKCS_ECDSA_P384_SHA384),
        Outside::shared("https://d", &[5; 32]),
    ];
    // All of them call their key the same, which confuses nobody.
    let trust = trusting(issuers.iter().map(|issuer| issuer.issuer("k")).collect());
    for issuer in &issuers {
        let token = issuer.sign(&issuer.header("k"), &issuer.claims());
        let verified = trust.verify(&token, NOW_S).await.unwrap();
        assert_eq!(verified.subject, format!("{}#42", issuer.name));
        assert_eq!((verified.name.as_str(), verified.key_id.as_str()), ("Ada", "k"));
        assert_eq!((verified.session, verified.generation), (None, None));
        for other in issuers.iter().filter(|other| other.name != issuer.name) {
            // Signed by one, in the name of another.
            let token = issuer.sign(&issuer.header("k"), &other.claims());
            let refused = trust.verify(&token, NOW_S).await;
            assert_eq!(refused, invalid(Reason::Algorithm), "{} as {}", issuer.name, other.name);
        }
    }
    let impostor = Outside::ed25519("https://a", 2);
    let token = impostor.sign(&impostor.header("k"), &impostor.claims());
    assert_eq!(trust.verify(&token, NOW_S).await, invalid(Reason::Signature));
}

#[tokio::test]
async fn an_outside_issuer_cannot_make_tokens_of_our_own() {
    let forge = forge(7, "k1");
    let outside = Outside::ed25519("https://a", 1);
    let (mut trust, _publish) = trust(jwks(&[&forge]));
    trust.issuers.push(outside.issuer("k1"));
    let mut header = outside.header("k1");
    header.typ = Some("at+jwt".to_owned());
    let token = outside.sign(&header, &forge.claims());
    assert_eq!(trust.verify(&token, NOW_S).await, invalid(Reason::Signature));
    trust.verify(&forge.good(), NOW_S).await.unwrap();
}

#[tokio::test]
async fn the_claims_of_an_outside_issuer_are_checked_and_mapped() {
    let issuer = Outside::ed25519("https://a", 1);
    let trust = trusting(vec![issuer.issuer("k")]);
    let long = "ü".repeat(40);
    let shown = "ü".repeat(32);
    for (claim, value, expected) in [
        ("aud", json!(["other", "chat"]), Ok("Ada")),
        ("aud", json!("other"), Err(Reason::Audience)),
        ("aud", json!(["other"]), Err(Reason::Audience)),
        ("aud", json!([]), Err(Reason::Audience)),
        ("aud", json!(["chat", 1]), Err(Reason::Claims)),
        ("aud", json!({"chat": 1}), Err(Reason::Claims)),
        ("aud", Value::Null, Err(Reason::Claims)),
        ("iss", json!("https://a/"), Err(Reason::Issuer)),
        ("iss", json!(["https://a"]), Err(Reason::Claims)),
        ("exp", json!("1800000060"), Err(Reason::Claims)),
        ("exp", json!(1_800_000_060.5), Err(Reason::Claims)),
        ("exp", Value::Null, Err(Reason::Claims)),
        ("iat", json!(NOW_S + 30), Ok("Ada")),
        ("iat", json!(NOW_S + 61), Err(Reason::Claims)),
        ("iat", json!("now"), Err(Reason::Claims)),
        ("nbf", json!(NOW_S + 60), Ok("Ada")),
        ("nbf", json!(NOW_S + 61), Err(Reason::NotYet)),
        ("nbf", json!("1"), Err(Reason::Claims)),
        ("uid", json!(42), Err(Reason::Claims)),
        ("uid", json!(""), Err(Reason::Claims)),
        ("uid", json!("a\nb"), Err(Reason::Claims)),
        ("name", json!("A\u{1b}[31mda\n"), Ok("A[31mda")),
        ("name", json!(" \u{7}\n"), Ok("42")),
        ("name", json!(long), Ok(shown.as_str())),
        ("name", json!(1), Err(Reason::Claims)),
        ("more", json!({"what": ["ever"]}), Ok("Ada")),
    ] {
        let mut claims = issuer.claims();
        claims[claim] = value.clone();
        let token = issuer.sign(&issuer.header("k"), &claims);
        let outcome = trust.verify(&token, NOW_S).await.map(|verified| verified.name);
        let expected = expected.map(str::to_owned).map_err(TokenError::Invalid);
        assert_eq!(outcome, expected, "{claim} {value}");
    }
    for claim in ["iss", "aud", "exp", "uid", "name"] {
        let mut claims = issuer.claims();
        claims.as_object_mut().unwrap().remove(claim);
        let token = issuer.sign(&issuer.header("k"), &claims);
        let outcome = trust.verify(&token, NOW_S).await.map(|verified| verified.name);
        let expected = if claim == "name" { Ok("42".to_owned()) } else { invalid(Reason::Claims) };
        assert_eq!(outcome, expected, "without {claim}");
    }
    let mut claims = issuer.claims();
    claims["exp"] = json!(NOW_S);
    let token = issuer.sign(&issuer.header("k"), &claims);
    assert_eq!(trust.verify(&token, NOW_S).await, Err(TokenError::Expired));
}

#[tokio::test]
async fn a_claim_of_an_outside_issuer_stands_once() {
    let key = SigningKey::from_bytes(&[1; 32]);
    let forge = Forge { key, key_id: "k".to_owned(), realm: "https://a".to_owned(), now_s: NOW_S };
    let issuer = Outside::ed25519("https://a", 1);
    let trust = trusting(vec![issuer.issuer("k")]);
    let claims = issuer.claims().to_string();
    trust.verify(&forge.sign(&forge.head().to_string(), &claims), NOW_S).await.unwrap();
    for (twice, reason) in [
        (r#"{"uid":"1","#, Reason::Claims),
        (r#"{"\u0075id":"1","#, Reason::Claims),
        (r#"{"more":1,"more":1,"#, Reason::Claims),
    ] {
        let token = forge.sign(&forge.head().to_string(), &claims.replacen('{', twice, 1));
        assert_eq!(trust.verify(&token, NOW_S).await, invalid(reason), "{twice}");
    }
}

#[tokio::test]
async fn the_head_of_an_outside_issuer_may_have_less_but_nothing_to_follow() {
    let issuer = Outside::ed25519("https://a", 1);
    let forge = Forge {
        key: SigningKey::from_bytes(&[1; 32]),
        key_id: "k".to_owned(),
        realm: "https://a".to_owned(),
        now_s: NOW_S,
    };
    let trust = trusting(vec![issuer.issuer("k")]);
    let claims = issuer.claims().to_string();
    for (head, expected) in [
        (r#"{"alg":"EdDSA"}"#, None),
        (r#"{"alg":"EdDSA","kid":"k"}"#, None),
        (r#"{"alg":"EdDSA","kid":"k","typ":"JWT"}"#, None),
        (r#"{"alg":"EdDSA","kid":"k","typ":"at+jwt"}"#, None),
        (r#"{"alg":"EdDSA","kid":"k","x5t":"abc","x5t#S256":"def"}"#, None),
        (r#"{"alg":"EdDSA","kid":"other"}"#, Some(Reason::Key)),
        (r#"{"alg":"EdDSA","typ":"refresh+jwt"}"#, Some(Reason::Type)),
        (r#"{"alg":"none"}"#, Some(Reason::Algorithm)),
        (r#"{"alg":"HS256","kid":"k"}"#, Some(Reason::Algorithm)),
        (r#"{"kid":"k"}"#, Some(Reason::Head)),
        (r#"{"alg":"EdDSA","crit":["exp"]}"#, Some(Reason::Head)),
        (r#"{"alg":"EdDSA","jku":"http://127.0.0.1/"}"#, Some(Reason::Head)),
        (r#"{"alg":"EdDSA","x5u":"http://127.0.0.1/"}"#, Some(Reason::Head)),
        (r#"{"alg":"EdDSA","jwk":{}}"#, Some(Reason::Head)),
        (r#"{"alg":"EdDSA","x5c":[]}"#, Some(Reason::Head)),
    ] {
        let outcome = trust.verify(&forge.sign(head, &claims), NOW_S).await;
        assert_eq!(outcome.err(), expected.map(TokenError::Invalid), "{head}");
    }
}

#[test]
fn no_two_users_have_the_same_subject() {
    let rules = |issuer: &str| Rules {
        issuer: issuer.to_owned(),
        audience: "chat".to_owned(),
        user_claim: "sub".to_owned(),
        name_claim: "name".to_owned(),
    };
    let (short, long) = (rules("https://a"), rules(&format!("https://{}", "a".repeat(200))));
    let users = ["1", "1#2", "#", "2", &"x".repeat(118), &"x".repeat(119), &"x".repeat(120)];
    let mut subjects = Vec::new();
    for rules in [short, rules("https://b"), long] {
        subjects.extend(users.iter().map(|user| rules.subject(user)));
    }
    assert!(subjects.iter().all(|subject| subject.len() <= 128 && subject.contains('#')));
    assert!(subjects.iter().any(|subject| subject.starts_with('#')), "some are hashed");
    let count = subjects.len();
    subjects.sort();
    subjects.dedup();
    assert_eq!(subjects.len(), count);
}

#[test]
fn only_keys_that_fit_are_taken_from_a_document() {
    let ed = DecodingKey::from_ed_der(SigningKey::from_bytes(&[1; 32]).verifying_key().as_bytes());
    let good = || serde_json::to_value(jwk(&ed, Algorithm::EdDSA, "good")).unwrap();
    let with = |field: &str, value: Value| {
        let mut key = good();
        key["kid"] = json!(field);
        key[field] = value;
        key
    };
    let ec = Outside::ecdsa("", Algorithm::ES256, &PKCS_ECDSA_P256_SHA256).public;
    let identity = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let mut keys = vec![
        good(),
        with("use", json!("enc")),
        with("key_ops", json!(["sign"])),
        with("alg", json!("ES256")),
        with("crv", json!("Ed448")),
        with("crv", json!("P-256")),
        with("kty", json!("new")),
        with("x", json!(identity)),
        with("x", json!("AAAA")),
        json!({"kty": "oct", "kid": "secret", "k": "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg"}),
        json!("nonsense"),
        serde_json::to_value(jwk(&ec, Algorithm::ES256, "ec")).unwrap(),
    ];
    keys.push(with("x", json!(identity)));
    let document = json!({ "keys": keys }).to_string();
    let set = issuer::key_set(document.as_bytes(), Algorithm::EdDSA).unwrap();
    assert_eq!(set.len(), 1, "{set:?}");
    assert!(set.find(Some("good")).is_some());
    let set = issuer::key_set(document.as_bytes(), Algorithm::ES256).unwrap();
    assert!(set.len() == 1 && set.find(Some("ec")).is_some());
    for algorithm in [Algorithm::HS256, Algorithm::RS256, Algorithm::ES384] {
        assert!(issuer::key_set(document.as_bytes(), algorithm).unwrap().is_empty());
    }
    for wrong in ["", "{}", "[]", r#"{"keys":{}}"#, "<html>"] {
        assert!(issuer::key_set(wrong.as_bytes(), Algorithm::EdDSA).is_err(), "{wrong}");
    }
    let many: Vec<_> = (0..100).map(|n| with("kid", json!(format!("k{n}")))).collect();
    let document = json!({ "keys": many }).to_string();
    let set = issuer::key_set(document.as_bytes(), Algorithm::EdDSA).unwrap();
    assert_eq!(set.len(), crate::limits::KEYS_PER_ISSUER_MAX);
}

#[tokio::test]
async fn nobody_to_trust_is_an_error_and_so_is_a_missing_file() {
    let new = |settings: &Settings| Trust::new(None, realm(), settings, &Handle::current());
    assert!(matches!(new(&Settings::default()), Err(TrustError::Nobody)));
    let missing = Settings { key_file: "/nowhere/key.pem".into(), ..Settings::default() };
    assert!(matches!(new(&missing), Err(TrustError::KeyFile(_))));
}
