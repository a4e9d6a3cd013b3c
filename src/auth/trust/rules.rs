//! What makes no sense about whose tokens are taken.

use jsonwebtoken::{Algorithm, AlgorithmFamily};

use super::{OutsideIssuer, Settings};
use crate::{auth::fetch, limits};

impl Settings {
    /// Everything that makes no sense, one sentence each. `own_issuer` is the auth service's.
    #[must_use]
    pub fn nonsense(&self, own_issuer: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (key, url) in [("jwks_url", &self.jwks_url), ("revocations_url", &self.revocations_url)]
        {
            found.extend(address(&format!("trust.{key}"), url));
        }
        if !self.jwks_url.is_empty() && !self.key_file.as_os_str().is_empty() {
            found.push("trust.jwks_url and trust.key_file exclude each other".to_owned());
        }
        if self.issuers.len() > limits::OUTSIDE_ISSUERS_MAX {
            let max = limits::OUTSIDE_ISSUERS_MAX;
            found.push(format!("trust.issuers must not be more than {max}"));
        }
        for (at, issuer) in self.issuers.iter().enumerate() {
            let place = format!("trust.issuers[{at}]");
            let name = &issuer.issuer;
            if self.issuers[..at].iter().any(|other| other.issuer == *name) {
                found.push(format!("{place}: `{name}` is there twice"));
            }
            if name == own_issuer {
                found.push(format!("{place}: `{name}` is the auth service's own, auth.issuer"));
            }
            found.extend(issuer.nonsense(&place));
        }
        found
    }
}

impl OutsideIssuer {
    fn nonsense(&self, place: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut must = |holds: bool, sentence: &str| {
            if !holds {
                found.push(format!("{place}.{sentence}"));
            }
        };
        must(!self.issuer.is_empty(), "issuer must not be empty");
        must(
            !self.issuer.contains('#'),
            "issuer must not have a `#` in it, which parts it from the user's id",
        );
        must(!self.audience.is_empty(), "audience must not be empty");
        must(!self.user_claim.is_empty(), "user_claim must not be empty");
        must(!self.name_claim.is_empty(), "name_claim must not be empty");
        must(
            self.jwks_url.is_empty() != self.key_file.as_os_str().is_empty(),
            "jwks_url or key_file is needed, and not both",
        );
        let algorithm: Option<Algorithm> = self.algorithm.parse().ok();
        must(
            algorithm.is_some(),
            &format!(
                "algorithm `{}` is unknown: it is one of EdDSA, ES256, ES384, RS256, RS384, RS512, \
                 PS256, PS384, PS512, HS256, HS384 and HS512",
                self.algorithm
            ),
        );
        let is_shared = algorithm.is_some_and(|it| it.family() == AlgorithmFamily::Hmac);
        must(
            !is_shared || self.jwks_url.is_empty(),
            &format!(
                "jwks_url cannot be used with {}, whose key is a secret: use key_file",
                self.algorithm
            ),
        );
        found.extend(address(&format!("{place}.jwks_url"), &self.jwks_url));
        found
    }
}

/// The address itself is not repeated: there may be a password in it.
fn address(key: &str, url: &str) -> Option<String> {
    let is_one = url.is_empty() || fetch::address(url).is_some();
    (!is_one)
        .then(|| format!("{key} is not of the form `https://host/path`, without name or password"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer() -> OutsideIssuer {
        OutsideIssuer {
            issuer: "https://id.example.com".to_owned(),
            audience: "chat".to_owned(),
            algorithm: "ES256".to_owned(),
            jwks_url: "https://id.example.com/keys".to_owned(),
            key_file: "".into(),
            user_claim: "sub".to_owned(),
            name_claim: "name".to_owned(),
        }
    }

    fn nonsense(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = Settings { issuers: vec![issuer()], ..Settings::default() };
        change(&mut settings);
        settings.nonsense("hubbub").join("\n")
    }

    #[test]
    fn settings_that_make_sense_are_left_alone() {
        assert_eq!(nonsense(|_| ()), "");
        assert_eq!(nonsense(|it| it.jwks_url = "http://127.0.0.1:1/keys".to_owned()), "");
        let shared = |it: &mut Settings| {
            it.issuers[0].algorithm = "HS256".to_owned();
            it.issuers[0].jwks_url.clear();
            it.issuers[0].key_file = "secret".into();
        };
        assert_eq!(nonsense(shared), "");
    }

    #[test]
    fn each_mistake_has_its_sentence() {
        type Change = fn(&mut Settings);
        let cases: [(Change, &str); 13] = [
            (
                |it| it.jwks_url = "id.example.com/keys".to_owned(),
                "trust.jwks_url is not of the form",
            ),
            (|it| it.revocations_url = "ftp://a".to_owned(), "trust.revocations_url is not of"),
            (
                |it| {
                    it.jwks_url = "https://a/".to_owned();
                    it.key_file = "key.pem".into();
                },
                "trust.jwks_url and trust.key_file exclude",
            ),
            (|it| it.issuers.push(issuer()), "trust.issuers[1]: `https://id.example.com` is there"),
            (|it| it.issuers[0].issuer = "hubbub".to_owned(), "trust.issuers[0]: `hubbub` is the"),
            (|it| it.issuers[0].issuer.clear(), "trust.issuers[0].issuer must not be empty"),
            (|it| it.issuers[0].issuer.push('#'), "trust.issuers[0].issuer must not have a `#`"),
            (|it| it.issuers[0].audience.clear(), "trust.issuers[0].audience must not"),
            (|it| it.issuers[0].algorithm = "none".to_owned(), "algorithm `none` is unknown"),
            (|it| it.issuers[0].algorithm = "HS256".to_owned(), "cannot be used with HS256"),
            (|it| it.issuers[0].jwks_url.clear(), "jwks_url or key_file is needed"),
            (|it| it.issuers[0].key_file = "key".into(), "jwks_url or key_file is needed"),
            (
                |it| it.issuers[0].jwks_url = "https://me:secret@a/".to_owned(),
                "trust.issuers[0].jwks_url is not of",
            ),
        ];
        for (change, sentence) in cases {
            let said = nonsense(change);
            assert!(said.contains(sentence), "{sentence}: {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(!said.contains("secret@"), "{said}");
        }
    }
}
