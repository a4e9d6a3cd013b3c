//! Refresh tokens: what they look like, and how one that was used up is told from one that was made
//! up. Pure: random bytes are arguments.
//!
//! A token is `hbr_` and the base64url of session ‖ secret ‖ tag. The store keeps the hash of the
//! newest secret of a session, and the session's family key. The tag is the HMAC of the secret under
//! that key, so a secret whose hash is not the newest, but whose tag fits, was given out before: a
//! replay. Without a row for each token that ever was, and without letting a forged one end anything.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// What a refresh token begins with, for people and for those who search logs for secrets.
const PREFIX: &str = "hbr_";
const SESSION_BYTES: usize = 16;
const SECRET_BYTES: usize = 32;
const TAG_BYTES: usize = 16;

/// A session's id: `sid`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SessionId([u8; SESSION_BYTES]);

impl SessionId {
    /// An id of 128 bits, which are to be random.
    #[must_use]
    pub const fn new(random: [u8; SESSION_BYTES]) -> Self {
        Self(random)
    }

    /// As the store keeps it.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; SESSION_BYTES] {
        &self.0
    }

    /// Takes the id as [`std::fmt::Display`] writes it, and in no other form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 2 * SESSION_BYTES || !text.bytes().all(plain) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(|number| Self(number.to_be_bytes()))
    }
}

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// What makes the refresh tokens of a session a family.
#[derive(Clone, PartialEq, Eq)]
pub struct FamilyKey([u8; 32]);

impl FamilyKey {
    /// A key of 256 bits, which are to be random.
    #[must_use]
    pub const fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// As the store keeps it.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn mac(&self, secret: &Secret) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("an HMAC takes a key of any length");
        mac.update(&secret.0);
        mac
    }
}

impl std::fmt::Debug for FamilyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FamilyKey(…)")
    }
}

/// What one refresh token has and nothing else.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; SECRET_BYTES]);

impl Secret {
    /// A secret of 256 bits, which are to be random.
    #[must_use]
    pub const fn new(random: [u8; SECRET_BYTES]) -> Self {
        Self(random)
    }

    /// What the store keeps of the newest one.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Writes the refresh token of a session that has this secret.
#[must_use]
pub fn encode(session: SessionId, secret: &Secret, family: &FamilyKey) -> String {
    let tag = family.mac(secret).finalize().into_bytes();
    let mut bytes = [0; SESSION_BYTES + SECRET_BYTES + TAG_BYTES];
    bytes[..SESSION_BYTES].copy_from_slice(&session.0);
    bytes[SESSION_BYTES..SESSION_BYTES + SECRET_BYTES].copy_from_slice(&secret.0);
    bytes[SESSION_BYTES + SECRET_BYTES..].copy_from_slice(&tag[..TAG_BYTES]);
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// A refresh token that somebody brought. It has the form of one, no more.
#[derive(Clone, Debug)]
pub struct Presented {
    /// The session that it names.
    pub session: SessionId,
    secret: Secret,
    tag: [u8; TAG_BYTES],
}

/// What a refresh token is to its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The newest: good for one trade.
    Current,
    /// Given out once, and replaced since.
    Former,
    /// Never given out.
    Forged,
}

impl Presented {
    /// Takes a token apart. None if it has another form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let body = text.strip_prefix(PREFIX)?;
        let mut bytes = [0; SESSION_BYTES + SECRET_BYTES + TAG_BYTES];
        // Three bytes more than needed is what the decoder wants for its estimate.
        let mut room = [0; SESSION_BYTES + SECRET_BYTES + TAG_BYTES + 3];
        let length = URL_SAFE_NO_PAD.decode_slice(body, &mut room).ok()?;
        if length != bytes.len() {
            return None;
        }
        bytes.copy_from_slice(&room[..length]);
        let (session, rest) = bytes.split_at(SESSION_BYTES);
        let (secret, tag) = rest.split_at(SECRET_BYTES);
        Some(Self {
            session: SessionId(session.try_into().ok()?),
            secret: Secret(secret.try_into().ok()?),
            tag: tag.try_into().ok()?,
        })
    }

    /// What it is to the session that has this family key and this hash of its newest secret. Takes
    /// the same time whatever is wrong.
    #[must_use]
    pub fn standing(&self, family: &FamilyKey, current_hash: &[u8; 32]) -> Standing {
        let current: bool = self.secret.hash().ct_eq(current_hash).into();
        let genuine = family.mac(&self.secret).verify_truncated_left(&self.tag).is_ok();
        match (genuine, current) {
            (true, true) => Standing::Current,
            (true, false) => Standing::Former,
            (false, _) => Standing::Forged,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FAMILY: FamilyKey = FamilyKey::new([7; 32]);

    #[test]
    fn a_token_is_current_then_former_and_never_of_another_family() {
        let (first, second) = (Secret::new([1; 32]), Secret::new([2; 32]));
        let token = encode(SessionId::new([9; 16]), &first, &FAMILY);
        assert_eq!(token.len(), 90);
        let presented = Presented::parse(&token).unwrap();
        assert_eq!(presented.session, SessionId::new([9; 16]));
        assert_eq!(presented.standing(&FAMILY, &first.hash()), Standing::Current);
        assert_eq!(presented.standing(&FAMILY, &second.hash()), Standing::Former);
        let other = FamilyKey::new([8; 32]);
        assert_eq!(presented.standing(&other, &second.hash()), Standing::Forged);
        assert_eq!(presented.standing(&other, &first.hash()), Standing::Forged);
    }

    #[test]
    fn debug_shows_no_secret() {
        let token = encode(SessionId::new([9; 16]), &Secret::new([1; 32]), &FAMILY);
        let text = format!("{:?} {FAMILY:?}", Presented::parse(&token).unwrap().secret);
        assert_eq!(text, "Secret(…) FamilyKey(…)");
    }

    #[test]
    fn a_session_id_has_one_form() {
        let id = SessionId::new([0xab; 16]);
        assert_eq!(SessionId::parse(&id.to_string()), Some(id));
        for other in ["", "ab", &id.to_string().to_uppercase(), &format!("+{}", "1".repeat(31))] {
            assert_eq!(SessionId::parse(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn a_token_changed_anywhere_is_no_token_of_the_family(at in 0..86_usize, to in 0..64_usize) {
            const ALPHABET: &[u8; 64] =
                b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let (session, secret) = (SessionId::new([9; 16]), Secret::new([1; 32]));
            let token = encode(session, &secret, &FAMILY);
            let mut changed = token.clone().into_bytes();
            changed[4 + at] = ALPHABET[to];
            let changed = String::from_utf8(changed).unwrap();
            prop_assume!(changed != token);
            if let Some(presented) = Presented::parse(&changed) {
                prop_assert!(
                    presented.session != session
                        || presented.standing(&FAMILY, &secret.hash()) == Standing::Forged
                );
            }
        }

        #[test]
        fn no_text_makes_the_parser_fall(text in ".{0,200}") {
            let long = text.len() > 80;
            prop_assert!(Presented::parse(&text).is_none() || long);
            let body = format!("hbr_{text}");
            prop_assert!(Presented::parse(&body).is_none() || long);
        }
    }
}
