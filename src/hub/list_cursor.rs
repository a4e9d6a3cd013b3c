//! Where a page of a list ended, as a client carries it to the next page: opaque and sealed, so that
//! nobody begins to depend on what is in it, and none that was tampered with is looked at.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use thiserror::Error;

/// Bytes of the seal.
const SEAL_BYTES: usize = 16;

/// Seals and opens cursors.
#[derive(Clone)]
pub struct ListCursors {
    mac: Hmac<Sha256>,
}

impl std::fmt::Debug for ListCursors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListCursors").finish_non_exhaustive()
    }
}

/// A cursor that was not sealed here, or for another list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("not a cursor of this list")]
pub struct CursorError;

impl ListCursors {
    /// With a key that is made of this secret.
    ///
    /// # Panics
    /// Never: the key may have any length.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length is taken");
        mac.update(b"hubbub list cursor\0");
        Self { mac }
    }

    /// The cursor of a place in a list.
    #[must_use]
    pub fn seal(&self, list: &str, place: &str) -> String {
        let mut sealed = place.as_bytes().to_vec();
        let seal = self.with(list, place.as_bytes()).finalize().into_bytes();
        sealed.extend_from_slice(&seal[..SEAL_BYTES]);
        URL_SAFE_NO_PAD.encode(sealed)
    }

    /// The place of a cursor.
    ///
    /// # Errors
    /// When it is no cursor of this list.
    pub fn open(&self, list: &str, cursor: &str) -> Result<String, CursorError> {
        let sealed = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| CursorError)?;
        let place = sealed.len().checked_sub(SEAL_BYTES).ok_or(CursorError)?;
        let (place, seal) = sealed.split_at(place);
        self.with(list, place).verify_truncated_left(seal).map_err(|_| CursorError)?;
        String::from_utf8(place.to_vec()).map_err(|_| CursorError)
    }

    fn with(&self, list: &str, place: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        mac.update(&(list.len() as u64).to_le_bytes());
        mac.update(list.as_bytes());
        mac.update(place);
        mac
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_opens_in_its_own_list_only(list in "\\PC{0,20}", place in "\\PC{0,60}") {
            let cursors = ListCursors::new(b"secret");
            let cursor = cursors.seal(&list, &place);
            prop_assert_eq!(cursors.open(&list, &cursor), Ok(place.clone()));
            prop_assert_eq!(cursors.open(&format!("{list}x"), &cursor), Err(CursorError));
            let others = ListCursors::new(b"another");
            prop_assert_eq!(others.open(&list, &cursor), Err(CursorError));
        }

        #[test]
        fn a_cursor_that_was_changed_is_none(at in any::<prop::sample::Index>(), by in 1..64_u8) {
            const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let cursors = ListCursors::new(b"secret");
            let mut cursor = cursors.seal("channels", "lobby-and-more").into_bytes();
            let at = at.index(cursor.len());
            let digit = DIGITS.iter().position(|digit| *digit == cursor[at]).unwrap();
            cursor[at] = DIGITS[(digit + usize::from(by)) % 64];
            let cursor = String::from_utf8(cursor).unwrap();
            prop_assert_eq!(cursors.open("channels", &cursor), Err(CursorError));
        }

        #[test]
        fn any_text_is_a_cursor_or_none(text in "\\PC{0,80}") {
            prop_assert_eq!(ListCursors::new(b"secret").open("channels", &text), Err(CursorError));
        }
    }
}
