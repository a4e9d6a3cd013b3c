//! Tokens that must not be taken, each by its name: what an attacker may send who knows our public
//! key, our names and some good token. Shared by the unit tests, the server's tests and the bench.
//!
//! Most are signed by the very key, so that the signature alone would let them in.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// Makes tokens, good and bad.
pub(crate) struct Forge {
    /// The key of the auth service.
    pub(crate) key: SigningKey,
    /// Its id.
    pub(crate) key_id: String,
    /// `iss` and `aud`.
    pub(crate) realm: String,
    /// The time, in seconds since 1970.
    pub(crate) now_s: u64,
}

impl Forge {
    /// The head of a good token.
    pub(crate) fn head(&self) -> Value {
        json!({"alg": "EdDSA", "typ": "at+jwt", "kid": self.key_id})
    }

    /// The claims of a good token.
    pub(crate) fn claims(&self) -> Value {
        json!({
            "sub": "abcdefghijklmnop", "name": "ada", "iss": self.realm, "aud": self.realm,
            "iat": self.now_s, "nbf": self.now_s, "exp": self.now_s + 600, "jti": "1",
            "scope": "chat", "sid": "s1", "gen": 1,
        })
    }

    /// Signs whatever it is given.
    pub(crate) fn sign(&self, head: &str, claims: &str) -> String {
        self.sign_parts(&URL_SAFE_NO_PAD.encode(head), &URL_SAFE_NO_PAD.encode(claims))
    }

    /// The same for parts that are encoded already, well or not.
    pub(crate) fn sign_parts(&self, head: &str, claims: &str) -> String {
        let signed = format!("{head}.{claims}");
        let signature = self.key.sign(signed.as_bytes()).to_bytes();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A good one, so that the bad ones differ from it by one thing.
    pub(crate) fn good(&self) -> String {
        self.sign(&self.head().to_string(), &self.claims().to_string())
    }

    /// All bad ones.
    pub(crate) fn bad(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        self.algorithms(&mut all);
        self.heads(&mut all);
        self.claims_of_wrong_types(&mut all);
        self.claims_of_others(&mut all);
        self.forms(&mut all);
        self.signatures(&mut all);
        all
    }

    /// A token whose head differs in this field.
    fn with_head(&self, field: &str, value: Value) -> String {
        let mut head = self.head();
        head[field] = value;
        self.sign(&head.to_string(), &self.claims().to_string())
    }

    /// A token whose claims differ in this one, given as JSON text: JSON has numbers that Rust's do
    /// not.
    fn with_claim(&self, claim: &str, json: &str) -> String {
        let mut claims = self.claims();
        claims[claim] = json!("\u{1}");
        let claims = claims.to_string().replace("\"\\u0001\"", json);
        self.sign(&self.head().to_string(), &claims)
    }

    fn algorithms(&self, all: &mut Vec<(String, String)>) {
        for alg in
            ["none", "None", "nOnE", "", "HS256", "RS256", "ES256", "ES384", "eddsa", "Ed448"]
        {
            let token = self.with_head("alg", json!(alg));
            let (signed, _) = token.rsplit_once('.').unwrap_or_default();
            all.push((format!("alg {alg:?}, unsigned"), format!("{signed}.")));
            all.push((format!("alg {alg:?}"), token));
        }
        for (name, alg) in [("list", json!(["EdDSA"])), ("null", Value::Null), ("number", json!(1))]
        {
            all.push((format!("alg a {name}"), self.with_head("alg", alg)));
        }
        // The classic: the public key, which anybody has, as the secret of an HMAC.
        let public = self.key.verifying_key();
        let as_text = URL_SAFE_NO_PAD.encode(public.as_bytes());
        for (name, secret) in [("bytes", &public.as_bytes()[..]), ("text", as_text.as_bytes())] {
            let mut header = Header::new(Algorithm::HS256);
            header.typ = Some("at+jwt".to_owned());
            header.kid = Some(self.key_id.clone());
            let key = EncodingKey::from_secret(secret);
            let token = jsonwebtoken::encode(&header, &self.claims(), &key).unwrap_or_default();
            all.push((format!("HS256 with the public key as {name}"), token));
        }
    }

    fn heads(&self, all: &mut Vec<(String, String)>) {
        for kid in ["", "unknown", "../../etc/passwd", "' OR 1=1 --", "http://127.0.0.1/key", "\0"]
        {
            all.push((format!("kid {kid:?}"), self.with_head("kid", json!(kid))));
        }
        for length in [1_024, 10 * 1_024] {
            let kid = "k".repeat(length);
            all.push((format!("kid of {length} bytes"), self.with_head("kid", json!(kid))));
        }
        for (name, kid) in [
            ("list", json!([self.key_id])),
            ("number", json!(1)),
            ("null", Value::Null),
            ("map", json!({"kid": self.key_id})),
        ] {
            all.push((format!("kid a {name}"), self.with_head("kid", kid)));
        }
        for (field, value) in [
            ("jku", json!("http://127.0.0.1:9/jwks.json")),
            ("x5u", json!("file:///etc/passwd")),
            ("jwk", json!({"kty": "OKP", "crv": "Ed25519", "x": self.key_id})),
            ("x5c", json!(["MIIB"])),
            ("x5t", json!("abc")),
            ("crit", json!(["exp"])),
            ("crit", json!([])),
            ("b64", json!(false)),
            ("zip", json!("DEF")),
            ("cty", json!("JWT")),
        ] {
            all.push((format!("head with {field}"), self.with_head(field, value)));
        }
        for field in ["alg", "typ", "kid"] {
            let mut head = self.head();
            head.as_object_mut().and_then(|head| head.remove(field));
            let token = self.sign(&head.to_string(), &self.claims().to_string());
            all.push((format!("head without {field}"), token));
        }
        for typ in ["JWT", "refresh+jwt", "AT+JWT", "application/at+jwt", ""] {
            all.push((format!("typ {typ:?}"), self.with_head("typ", json!(typ))));
        }
    }

    fn claims_of_wrong_types(&self, all: &mut Vec<(String, String)>) {
        let times = [
            "\"9999999999\"",
            "9999999999.5",
            "9999999999.0",
            "-1",
            "18446744073709551616",
            "1e30",
            "1e10",
            "true",
            "null",
            "[9999999999]",
            "{}",
        ];
        for claim in ["exp", "iat", "nbf"] {
            for time in times {
                all.push((format!("{claim} {time}"), self.with_claim(claim, time)));
            }
        }
        for claim in ["iss", "aud", "sub", "name", "jti", "scope", "sid"] {
            for json in ["1", "null", "{}", &format!("[\"{}\"]", self.realm)] {
                all.push((format!("{claim} {json}"), self.with_claim(claim, json)));
            }
        }
        for json in ["-1", "4294967296", "\"1\"", "null", "1.0"] {
            all.push((format!("gen {json}"), self.with_claim("gen", json)));
        }
        for claim in ["exp", "iat", "iss", "aud", "sub", "name", "jti", "scope"] {
            let mut claims = self.claims();
            claims.as_object_mut().and_then(|claims| claims.remove(claim));
            let token = self.sign(&self.head().to_string(), &claims.to_string());
            all.push((format!("without {claim}"), token));
        }
    }

    fn claims_of_others(&self, all: &mut Vec<(String, String)>) {
        let later = (self.now_s + 120).to_string();
        for (claim, json) in [
            ("iss", "\"https://id.example.com\""),
            ("iss", "\"\""),
            ("aud", "\"somebody\""),
            ("aud", "\"\""),
            ("sub", "\"\""),
            ("sub", "\"https://id.example.com#ada\""),
            ("name", "\"\""),
            ("sid", "\"\""),
            ("iat", later.as_str()),
            ("nbf", later.as_str()),
        ] {
            all.push((format!("{claim} {json}"), self.with_claim(claim, json)));
        }
        for (claim, length) in [("sub", 129), ("name", 65), ("sid", 65)] {
            let long = format!("\"{}\"", "x".repeat(length));
            all.push((format!("{claim} of {length} bytes"), self.with_claim(claim, &long)));
        }
    }

    fn forms(&self, all: &mut Vec<(String, String)>) {
        let good = self.good();
        let (signed, signature) = good.rsplit_once('.').unwrap_or_default();
        let (head, claims) = signed.split_once('.').unwrap_or_default();
        let (head_text, claims_text) = (self.head().to_string(), self.claims().to_string());
        let mut form = |name: &str, token: String| all.push((name.to_owned(), token));

        form("nothing", String::new());
        form("two dots", "..".to_owned());
        form("one part", good.replace('.', ""));
        form("two parts", signed.to_owned());
        form("an empty part more", format!("{good}."));
        form("an empty part before", format!(".{good}"));
        form("four parts", format!("{good}.e30"));
        form("five parts, as if encrypted", format!("{head}.{claims}.e30.e30.{signature}"));
        form("no claims", format!("{head}..{signature}"));
        form("a space before", format!(" {good}"));
        form("a line break behind", format!("{good}\n"));
        form("a NUL behind", format!("{good}\0"));
        form("1 MiB of parts", "eyJ.".repeat(256 * 1_024));
        form("as long as may be, of one part", "e".repeat(4_096));
        form("as long as may be, of parts", "e30.".repeat(1_024));

        for (name, text) in [("head", head), ("claims", claims), ("signature", signature)] {
            for (what, changed) in [
                ("padded", format!("{text}=")),
                ("padded twice", format!("{text}==")),
                ("with a line break", format!("{}\n{}", &text[..4], &text[4..])),
                ("in the other alphabet", format!("{}+/", &text[..text.len() - 2])),
                ("cut", text[..text.len() - 1].to_owned()),
            ] {
                let token = match name {
                    "head" => self.sign_parts(&changed, claims),
                    "claims" => self.sign_parts(head, &changed),
                    _ => format!("{signed}.{changed}"),
                };
                form(&format!("{name} {what}"), token);
            }
        }
        // One byte or two in the last group leave bits over, which must be zero.
        for (name, json) in [("head", &head_text), ("claims", &claims_text)] {
            for spaces in 0..3 {
                let mut text = json.clone();
                text.push_str(&" ".repeat(spaces));
                if text.len() % 3 == 0 {
                    continue;
                }
                let odd = with_trailing_bits(&URL_SAFE_NO_PAD.encode(text));
                let token = match name {
                    "head" => self.sign_parts(&odd, claims),
                    _ => self.sign_parts(head, &odd),
                };
                form(&format!("{name} with trailing bits after {spaces} spaces"), token);
            }
        }
        form("signature with trailing bits", format!("{signed}.{}", with_trailing_bits(signature)));

        for (name, json) in [
            ("alg twice", head_text.replacen('{', r#"{"alg":"EdDSA","#, 1)),
            ("kid twice, once escaped", head_text.replacen('{', r#"{"\u006bid":"k","#, 1)),
            ("data behind the head", format!("{head_text}{{}}")),
            ("a mark before the head", format!("\u{feff}{head_text}")),
            ("a head that is a list", format!("[{head_text}]")),
            ("a head that is text", "\"EdDSA\"".to_owned()),
        ] {
            form(name, self.sign(&json, &claims_text));
        }
        for (name, json) in [
            ("sub twice", claims_text.replacen('{', r#"{"sub":"root","#, 1)),
            ("sub twice, once escaped", claims_text.replacen('{', r#"{"\u0073ub":"root","#, 1)),
            ("iss twice", claims_text.replacen('{', r#"{"iss":"hubbub","#, 1)),
            ("exp twice", claims_text.replacen('{', r#"{"exp":9999999999,"#, 1)),
            ("data behind the claims", format!("{claims_text}{{}}")),
            ("a mark before the claims", format!("\u{feff}{claims_text}")),
            ("claims that are a list", format!("[{claims_text}]")),
            ("claims that are null", "null".to_owned()),
            (
                "claims that nest",
                claims_text.replacen('{', &format!(r#"{{"x":{},"#, "[".repeat(1_500)), 1),
            ),
            ("a lone surrogate", claims_text.replacen("ada", r"\ud800", 1)),
        ] {
            form(name, self.sign(&head_text, &json));
        }
        let not_utf8 = [claims_text.as_bytes(), b"\xff"].concat();
        form("claims that are not UTF-8", self.sign_parts(head, &URL_SAFE_NO_PAD.encode(not_utf8)));
    }

    fn signatures(&self, all: &mut Vec<(String, String)>) {
        let good = self.good();
        let (signed, signature) = good.rsplit_once('.').unwrap_or_default();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
        let other = self.with_claim("name", "\"eve\"");
        let other_key = SigningKey::from_bytes(&[99; 32]).sign(signed.as_bytes()).to_bytes();
        let (r, s) = signature.split_at(32);
        let identity = [&[1][..], &[0; 31]].concat();
        // The point of order two, and one that is not reduced: p + 1, which is 1 once more.
        let order_two = [&[0xec][..], &[0xff; 30], &[0x7f]].concat();
        let not_reduced = [&[0xee][..], &[0xff; 30], &[0x7f]].concat();
        for (name, bytes) in [
            ("none", Vec::new()),
            ("of zeros", vec![0; 64]),
            ("of ones", vec![0xff; 64]),
            ("cut", signature[..63].to_vec()),
            ("with a byte more", [&signature[..], &[0]].concat()),
            ("with S + L", [r, &plus_order(s)].concat()),
            ("with S of zeros", [r, &[0; 32]].concat()),
            ("with R of zeros", [&[0; 32], s].concat()),
            ("with the identity as R", [&identity, s].concat()),
            ("with the identity as R and no S", [&identity[..], &[0; 32]].concat()),
            ("with R of order two", [&order_two, s].concat()),
            ("with R not reduced", [&not_reduced[..], &[0; 32]].concat()),
            ("with R and S swapped", [s, r].concat()),
            ("of another key", other_key.to_vec()),
        ] {
            let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(bytes));
            all.push((format!("signature {name}"), token));
        }
        let (_, of_other) = other.rsplit_once('.').unwrap_or_default();
        all.push(("signature of another token".to_owned(), format!("{signed}.{of_other}")));
    }
}

/// The next character of the alphabet as the last one: the same bytes to a careless decoder.
fn with_trailing_bits(text: &str) -> String {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (rest, last) = text.split_at(text.len() - 1);
    let at = ALPHABET.find(last).unwrap_or_default();
    format!("{rest}{}", &ALPHABET[at + 1..at + 2])
}

/// S + L: the same point, another number. L is the order of the group, little-endian.
fn plus_order(s: &[u8]) -> Vec<u8> {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut carry = 0_u16;
    let add = |(byte, add): (&u8, u8)| {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        carry = sum >> 8;
        sum.to_le_bytes()[0]
    };
    s.iter().zip(ORDER).map(add).collect()
}
