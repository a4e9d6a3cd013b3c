//! `Sec-WebSocket-Extensions` of a request → what is agreed on, and what to answer.
//!
//! The offers are tried in the client's order, over all the headers it spread them on. One that has a
//! parameter which is unknown, repeated, or has a value that it may not have is passed over, as RFC
//! 7692 asks for (7.1); a header that breaks the grammar offers nothing from there on. Nothing here
//! is an error: a client whose offers are all declined goes on without compression.

use tokio_tungstenite::tungstenite::http::{
    HeaderMap, HeaderValue, header::SEC_WEBSOCKET_EXTENSIONS,
};

use super::Agreed;

const EXTENSION: &str = "permessage-deflate";
const SERVER_NO_CONTEXT: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT: &str = "client_no_context_takeover";
const SERVER_WINDOW: &str = "server_max_window_bits";
const CLIENT_WINDOW: &str = "client_max_window_bits";

/// The largest window of DEFLATE, and what holds when nobody says a number.
pub const WINDOW_BITS_MAX: u8 = 15;
/// The smallest window that our messages are made for. RFC 7692 knows 8 as well, with which zlib
/// cannot compress.
const SERVER_WINDOW_BITS_MIN: u8 = 9;
/// The smallest window that a client may use. Ours takes in any.
const CLIENT_WINDOW_BITS_MIN: u8 = 8;

/// Takes the first offer that can be taken. The answer is the header's value.
///
/// That no side keeps its context is always answered, whether it was asked for or not: RFC 7692
/// allows it (7.1.1), and it is what lets all connections share their frames and their inflater.
#[must_use]
pub fn negotiate(headers: &HeaderMap, is_enabled: bool) -> Option<(Agreed, HeaderValue)> {
    if !is_enabled {
        return None;
    }
    let lines = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
    lines.filter_map(|line| line.to_str().ok()).find_map(first_good_offer)
}

fn first_good_offer(line: &str) -> Option<(Agreed, HeaderValue)> {
    let mut rest = Scanner { rest: line };
    loop {
        let (offer, more) = rest.extension()?;
        if let Some(offer) = offer {
            return Some(offer.answer());
        }
        if !more {
            return None;
        }
    }
}

/// The parameters of an offer that may be taken.
#[derive(Default)]
struct Offer {
    server_no_context: bool,
    client_no_context: bool,
    server_window_bits: Option<u8>,
    /// Whether it may be set, and to what the client would set it by itself.
    client_window_bits: Option<Option<u8>>,
}

impl Offer {
    /// Takes one more parameter in. `None`: the offer cannot be taken.
    fn add(&mut self, name: &str, value: Option<&str>) -> Option<()> {
        let is_first = match (name, value) {
            (SERVER_NO_CONTEXT, None) => !std::mem::replace(&mut self.server_no_context, true),
            (CLIENT_NO_CONTEXT, None) => !std::mem::replace(&mut self.client_no_context, true),
            (SERVER_WINDOW, Some(value)) => {
                self.server_window_bits.replace(bits(value, SERVER_WINDOW_BITS_MIN)?).is_none()
            }
            (CLIENT_WINDOW, value) => {
                let bits = match value {
                    Some(value) => Some(bits(value, CLIENT_WINDOW_BITS_MIN)?),
                    None => None,
                };
                self.client_window_bits.replace(bits).is_none()
            }
            _ => false,
        };
        is_first.then_some(())
    }

    fn answer(&self) -> (Agreed, HeaderValue) {
        let mut text = format!("{EXTENSION}; {SERVER_NO_CONTEXT}; {CLIENT_NO_CONTEXT}");
        if let Some(bits) = self.server_window_bits {
            text.push_str(&format!("; {SERVER_WINDOW}={bits}"));
        }
        // Only a client that offered it knows the parameter. Unset means the largest window.
        if let Some(Some(bits)) = self.client_window_bits {
            text.push_str(&format!("; {CLIENT_WINDOW}={bits}"));
        }
        let server_window_bits = self.server_window_bits.unwrap_or(WINDOW_BITS_MAX);
        let value = HeaderValue::try_from(text).expect("it is made of ASCII");
        (Agreed { server_window_bits }, value)
    }
}

/// A window, without leading zeros.
fn bits(text: &str, min: u8) -> Option<u8> {
    if text.starts_with('0') || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|bits| (min..=WINDOW_BITS_MAX).contains(bits))
}

/// Reads a header by its grammar (RFC 6455, 9.1). Each step gives `None` where it is broken.
struct Scanner<'h> {
    rest: &'h str,
}

impl<'h> Scanner<'h> {
    /// One extension with its parameters, if it is an offer that can be taken, and whether more
    /// extensions follow.
    fn extension(&mut self) -> Option<(Option<Offer>, bool)> {
        self.skip_spaces();
        if self.skip(',') {
            // An element of a list may be empty.
            return Some((None, true));
        }
        let mut offer = (self.token()? == EXTENSION).then(Offer::default);
        loop {
            self.skip_spaces();
            if self.rest.is_empty() {
                return Some((offer, false));
            }
            if self.skip(',') {
                return Some((offer, true));
            }
            if !self.skip(';') {
                return None;
            }
            self.skip_spaces();
            let name = self.token()?;
            self.skip_spaces();
            let value = if self.skip('=') {
                self.skip_spaces();
                Some(self.value()?)
            } else {
                None
            };
            offer = offer.and_then(|mut offer| offer.add(name, value).map(|()| offer));
        }
    }

    fn token(&mut self) -> Option<&'h str> {
        let end = self.rest.find(|it| !is_token(it)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }

    /// A token, or one in quotes. Within quotes nothing else may stand either, so that there is
    /// nothing to escape.
    fn value(&mut self) -> Option<&'h str> {
        if !self.skip('"') {
            return self.token();
        }
        let token = self.token()?;
        self.skip('"').then_some(token)
    }

    fn skip(&mut self, wanted: char) -> bool {
        let rest = self.rest.strip_prefix(wanted);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }
}

/// Whether a token may contain it (RFC 9110, 5.6.2).
fn is_token(it: char) -> bool {
    it.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(it)
}

#[cfg(test)]
mod tests;
