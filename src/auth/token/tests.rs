use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey, pkcs8::EncodePrivateKey as _};
use jsonwebtoken::DecodingKey;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{auth::Username, limits};

const NOW_S: u64 = 1_800_000_000;

fn realm() -> Realm {
    Realm { issuer: "hubbub".to_owned(), audience: "hubbub".to_owned() }
}

fn signing_key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn issuer() -> Issuer {
    let der = signing_key().to_pkcs8_der().unwrap();
    let key = EncodingKey::from_ed_der(der.as_bytes());
    Issuer::new(key, "k1".to_owned(), realm(), Duration::from_secs(3600))
}

fn verifier() -> Verifier {
    let key = DecodingKey::from_ed_der(signing_key().verifying_key().as_bytes());
    Verifier::new([("k1".to_owned(), key)], realm())
}

fn account() -> Account {
    Account { subject: "s3cr3t".to_owned(), username: Username::parse("anna").unwrap() }
}

fn token() -> String {
    issuer().issue(&account(), 1, NOW_S).unwrap()
}

fn head() -> Value {
    json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "k1"})
}

fn claims() -> Value {
    json!({"sub": "s", "name": "anna", "iss": "hubbub", "aud": "hubbub", "iat": NOW_S,
           "exp": NOW_S + 60, "jti": "1", "scope": "chat"})
}

/// Signs whatever it is given, as a careless issuer with our key would.
fn sign(head: &str, claims: &str) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
    let signature = signing_key().sign(message.as_bytes()).to_bytes();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn verify(token: &str) -> Result<Claims, TokenError> {
    verifier().verify(token, NOW_S)
}

fn invalid(reason: Reason) -> Result<Claims, TokenError> {
    Err(TokenError::Invalid(reason))
}

#[test]
fn an_issued_token_verifies_until_it_runs_out() {
    let claims = verify(&token()).unwrap();
    assert_eq!(claims.sub, "s3cr3t");
    assert_eq!(claims.name, "anna");
    assert_eq!(claims.exp, NOW_S + 3600);
    assert!(verifier().verify(&token(), NOW_S + 3599).is_ok());
    assert_eq!(verifier().verify(&token(), NOW_S + 3600), Err(TokenError::Expired));
}

#[test]
fn no_other_algorithm_is_accepted() {
    for alg in ["none", "None", "HS256", "RS256", "ES256", "eddsa", ""] {
        let mut head = head();
        head["alg"] = json!(alg);
        let token = sign(&head.to_string(), &claims().to_string());
        assert_eq!(verify(&token), invalid(Reason::Algorithm), "{alg}");
    }
    // The classic: the public key, which anybody has, as the secret of an HMAC.
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("k1".to_owned());
    header.typ = Some(TYPE.to_owned());
    let secret = EncodingKey::from_secret(signing_key().verifying_key().as_bytes());
    let token = jsonwebtoken::encode(&header, &claims(), &secret).unwrap();
    assert_eq!(verify(&token), invalid(Reason::Algorithm));
    let unsigned = sign(&head().to_string(), &claims().to_string());
    let unsigned = unsigned.rsplit_once('.').unwrap().0;
    assert_eq!(verify(&format!("{unsigned}.")), invalid(Reason::Signature));
    assert!(verify(unsigned).is_err());
}

#[test]
fn a_head_with_more_than_it_needs_is_refused() {
    for (field, value) in [
        ("jku", json!("http://127.0.0.1/jwks.json")),
        ("x5u", json!("file:///etc/passwd")),
        ("jwk", json!({"kty": "OKP"})),
        ("crit", json!(["exp"])),
        ("x5c", json!([])),
        ("b64", json!(false)),
    ] {
        let mut head = head();
        head[field] = value;
        let token = sign(&head.to_string(), &claims().to_string());
        assert_eq!(verify(&token), invalid(Reason::Head), "{field}");
    }
    let twice = r#"{"alg":"EdDSA","alg":"none","typ":"at+jwt","kid":"k1"}"#;
    assert_eq!(verify(&sign(twice, &claims().to_string())), invalid(Reason::Head));
}

#[test]
fn a_key_id_is_only_looked_up() {
    for kid in ["", "k2", "../../etc/passwd", "' OR 1=1 --"] {
        let mut head = head();
        head["kid"] = json!(kid);
        let token = sign(&head.to_string(), &claims().to_string());
        assert_eq!(verify(&token), invalid(Reason::Key), "{kid}");
    }
    for kid in [json!(["k1"]), json!(1), Value::Null] {
        let mut head = head();
        head["kid"] = kid;
        let token = sign(&head.to_string(), &claims().to_string());
        assert_eq!(verify(&token), invalid(Reason::Head));
    }
}

#[test]
fn a_token_of_another_type_is_no_access_token() {
    for typ in ["JWT", "refresh+jwt", "AT+JWT"] {
        let mut head = head();
        head["typ"] = json!(typ);
        let token = sign(&head.to_string(), &claims().to_string());
        assert_eq!(verify(&token), invalid(Reason::Type), "{typ}");
    }
}

#[test]
fn every_claim_is_required_and_typed() {
    for claim in ["sub", "name", "iss", "aud", "iat", "exp", "jti", "scope"] {
        let mut missing = claims();
        missing.as_object_mut().unwrap().remove(claim);
        let token = sign(&head().to_string(), &missing.to_string());
        assert_eq!(verify(&token), invalid(Reason::Claims), "{claim} missing");
        let mut wrong = claims();
        wrong[claim] = json!(["hubbub"]);
        let token = sign(&head().to_string(), &wrong.to_string());
        assert_eq!(verify(&token), invalid(Reason::Claims), "{claim} a list");
    }
    for time in ["\"9999999999\"", "9999999999.5", "-1", "18446744073709551616", "1e30", "true"] {
        for claim in ["exp", "nbf", "iat"] {
            let mut wrong = claims();
            wrong[claim] = json!("TIME");
            let wrong = wrong.to_string().replace("\"TIME\"", time);
            let token = sign(&head().to_string(), &wrong);
            assert_eq!(verify(&token), invalid(Reason::Claims), "{claim}: {time}");
        }
    }
    let twice = claims().to_string().replacen('{', r#"{"sub":"root","#, 1);
    assert_eq!(verify(&sign(&head().to_string(), &twice)), invalid(Reason::Claims));
}

#[test]
fn claims_must_be_ours_and_of_now() {
    for (claim, value, reason) in [
        ("iss", json!("hubbub.example"), Reason::Issuer),
        ("iss", json!(""), Reason::Issuer),
        ("aud", json!("other"), Reason::Audience),
        ("sub", json!(""), Reason::Claims),
        ("sub", json!("x".repeat(129)), Reason::Claims),
        ("name", json!("x".repeat(65)), Reason::Claims),
        ("nbf", json!(NOW_S + 61), Reason::NotYet),
        ("iat", json!(NOW_S + 61), Reason::Claims),
    ] {
        let mut wrong = claims();
        wrong[claim] = value;
        let token = sign(&head().to_string(), &wrong.to_string());
        assert_eq!(verify(&token), invalid(reason), "{claim}");
    }
    let mut future = claims();
    future["iat"] = json!(NOW_S + 61);
    future["exp"] = json!(NOW_S + 600);
    let token = sign(&head().to_string(), &future.to_string());
    assert_eq!(verify(&token), invalid(Reason::NotYet));
    let mut skewed = claims();
    skewed["iat"] = json!(NOW_S + 60);
    assert!(verify(&sign(&head().to_string(), &skewed.to_string())).is_ok());
}

#[test]
fn a_token_that_is_too_long_is_refused_unread() {
    let long = "eyJ.".repeat(limits::TOKEN_BYTES_MAX / 4 + 1);
    assert_eq!(verify(&long), invalid(Reason::TooLong));
}

#[test]
fn the_parts_of_a_token_are_exact() {
    let token = token();
    for wrong in [
        format!("{token}."),
        format!("{token}.e30"),
        format!(".{token}"),
        format!("{token}="),
        format!(" {token}"),
        format!("{token}\n"),
        token.replace('.', ""),
        String::new(),
        "..".to_owned(),
    ] {
        assert!(matches!(verify(&wrong), Err(TokenError::Invalid(_))), "{wrong:?}");
    }
    // A signature has 64 bytes, which leaves four bits over in its last character.
    let (rest, last) = token.split_at(token.len() - 1);
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let index = alphabet.find(last).unwrap();
    let wrong = format!("{rest}{}", &alphabet[index + 1..index + 2]);
    assert_eq!(verify(&wrong), invalid(Reason::Signature), "trailing bits");
}

#[test]
fn malleable_and_empty_signatures_are_refused() {
    let token = token();
    let (message, signature) = token.rsplit_once('.').unwrap();
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    // S + L: the same point, another number. L is the order of the group, little-endian.
    let order = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut carry = 0_u16;
    for (byte, add) in signature[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + add + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    for signature in [signature, vec![0; 64], Vec::new(), vec![0; 65]] {
        let wrong = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
        assert_eq!(verify(&wrong), invalid(Reason::Signature));
    }
}

proptest! {
    #[test]
    fn a_changed_token_never_verifies(index: prop::sample::Index, with in "[A-Za-z0-9_.-]") {
        let mut token = token();
        let at = index.index(token.len());
        prop_assume!(token[at..=at] != with);
        token.replace_range(at..=at, &with);
        prop_assert!(verify(&token).is_err());
    }

    #[test]
    fn arbitrary_text_never_verifies(text in "\\PC{0,200}") {
        prop_assert!(verify(&text).is_err());
    }
}
