//! Whose request it is: the address at the other end of the connection, or, behind proxies that the
//! operator trusts, the one that they name in `X-Forwarded-For`.
//!
//! What stands in that header is worth as much as whoever wrote it. A proxy appends the address that
//! it was called from, so the header is read from its end, and only for as long as the writer is
//! trusted: the first address that is no trusted proxy's is the client's. What stands before it the
//! client may have made up. `Forwarded` (RFC 7239) is not read: of two headers that could differ, a
//! client would choose.
//!
//! Whether the client spoke HTTPS is told in the same way: by the connection, or by a trusted proxy in
//! `X-Forwarded-Proto`.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use axum::{extract::Request, http::HeaderMap};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The header that proxies append to.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The header in which a proxy says `https` or `http`.
const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// The address at the other end of the connection. The accept loop puts it into every request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer(pub IpAddr);

/// Addresses that begin alike, as `10.0.0.0/8`, `::1/128` or a lone address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Network {
    first: IpAddr,
    prefix_bits: u8,
}

/// A text is no network.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error(
    "`{0}` is neither an address nor a network such as 10.0.0.0/8, with no bits behind its prefix"
)]
pub struct NetworkError(String);

impl Network {
    /// Whether the address is one of these.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
                masked(address.to_canonical(), self.prefix_bits) == self.first
            }
            _ => false,
        }
    }
}

/// The address without what stands behind its first bits.
fn masked(address: IpAddr, prefix_bits: u8) -> IpAddr {
    let prefix_bits = u32::from(prefix_bits);
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - prefix_bits).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - prefix_bits).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let refused = || NetworkError(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| refused())?;
        let bits = if first.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|prefix| *prefix <= bits).ok_or_else(refused)?
            }
            Some(_) => return Err(refused()),
            None => bits,
        };
        // `10.1.2.3/8` is more likely a slip than a wish to trust all of 10.0.0.0/8.
        let is_mapped = first.to_canonical() != first;
        if is_mapped || masked(first, prefix_bits) != first {
            return Err(refused());
        }
        Ok(Self { first, prefix_bits })
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix_bits)
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

/// Whose request this is.
#[must_use]
pub fn client(request: &Request, trusted: &[Network]) -> IpAddr {
    let Peer(peer) = request.extensions().get().expect("the accept loop names the peer");
    named_by(peer.to_canonical(), request.headers(), trusted)
}

/// Whether a trusted proxy says that it was asked by HTTPS.
#[must_use]
pub fn came_by_https(request: &Request, trusted: &[Network]) -> bool {
    let Peer(peer) = request.extensions().get().expect("the accept loop names the peer");
    let is_trusted = trusted.iter().any(|network| network.contains(peer.to_canonical()));
    is_trusted && says_https(request.headers())
}

/// Proxies append to the list, so the client's side is its first entry. A client that makes one up
/// changes only what it is told itself.
fn says_https(headers: &HeaderMap) -> bool {
    let line = headers.get(FORWARDED_PROTO).and_then(|line| line.to_str().ok());
    let first = line.and_then(|line| line.split(',').next());
    first.is_some_and(|scheme| scheme.trim().eq_ignore_ascii_case("https"))
}

/// Who called the peer, as far as trusted proxies tell.
fn named_by(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address| trusted.iter().any(|network| network.contains(address));
    let mut client = peer;
    if !is_trusted(peer) {
        return client;
    }
    // Several lines are one list.
    let lines = headers.get_all(FORWARDED_FOR).iter();
    let lines: Vec<_> = lines.map(|line| line.to_str().unwrap_or_default()).collect();
    for entry in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        // What cannot be read was vouched for by nobody: the client is then whoever wrote it.
        let Some(address) = address(entry.trim()) else { break };
        client = address;
        if !is_trusted(client) {
            break;
        }
    }
    client
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1` or `[2001:db8::1]:4711`, as proxies write them.
fn address(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
    let address = bare
        .parse::<IpAddr>()
        .or_else(|_| entry.parse().map(|address: std::net::SocketAddr| address.ip()))
        .ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn named(peer: &str, lines: &[&'static str], trusted: &[&str]) -> IpAddr {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_static(line));
        }
        named_by(ip(peer), &headers, &networks(trusted))
    }

    #[test]
    fn a_network_holds_what_begins_alike() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("::1/128", "::1", "::2"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
            ("::/0", "2001:db8::1", "127.0.0.1"),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert!(parsed.contains(ip(inside)), "{network} {inside}");
            assert!(!parsed.contains(ip(outside)), "{network} {outside}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
        let v4: Network = "10.0.0.0/8".parse().unwrap();
        assert!(v4.contains(ip("::ffff:10.1.2.3")), "a dual socket writes IPv4 like that");
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.1/8",
            "10.0.0.0/+8",
            "x/8",
            "10.0.0.0/8/8",
            "10.0.0.0/-1",
            "::ffff:10.0.0.0/104",
            "10.0.0.0/256",
            " 10.0.0.1",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_stranger_cannot_say_who_it_is() {
        for trusted in [&[][..], &["10.0.0.0/8"][..]] {
            assert_eq!(named("192.0.2.1", &["203.0.113.9"], trusted), ip("192.0.2.1"));
        }
    }

    #[test]
    fn a_trusted_proxy_says_who_called_it() {
        let trusted = ["127.0.0.1"];
        assert_eq!(named("127.0.0.1", &["203.0.113.9"], &trusted), ip("203.0.113.9"));
        assert_eq!(named("127.0.0.1", &["203.0.113.9:4711"], &trusted), ip("203.0.113.9"));
        assert_eq!(named("127.0.0.1", &["[2001:db8::9]:4711"], &trusted), ip("2001:db8::9"));
        assert_eq!(named("127.0.0.1", &["[2001:db8::9]"], &trusted), ip("2001:db8::9"));
        assert_eq!(named("127.0.0.1", &["::ffff:203.0.113.9"], &trusted), ip("203.0.113.9"));
        assert_eq!(named("127.0.0.1", &[], &trusted), ip("127.0.0.1"));
    }

    #[test]
    fn what_the_client_wrote_before_the_proxy_counts_for_nothing() {
        let trusted = ["127.0.0.1", "10.0.0.0/8"];
        let expected = ip("203.0.113.9");
        // The client sent the first address itself; proxies appended the others.
        assert_eq!(named("127.0.0.1", &["198.51.100.1, 203.0.113.9"], &trusted), expected);
        assert_eq!(
            named("127.0.0.1", &["198.51.100.1", "203.0.113.9, 10.0.0.7"], &trusted),
            expected
        );
        assert_eq!(named("127.0.0.1", &["10.0.0.1, 203.0.113.9"], &trusted), expected);
    }

    #[test]
    fn what_cannot_be_read_is_the_word_of_whoever_passed_it_on() {
        let trusted = ["127.0.0.1", "10.0.0.0/8"];
        for line in ["unknown", "", "203.0.113.9;x", "\u{7f}", "999.1.1.1"] {
            let mut headers = HeaderMap::new();
            let Ok(value) = HeaderValue::from_str(line) else { continue };
            headers.append(FORWARDED_FOR, value);
            let client = named_by(ip("127.0.0.1"), &headers, &networks(&trusted));
            assert_eq!(client, ip("127.0.0.1"), "{line}");
        }
        assert_eq!(named("127.0.0.1", &["1.2.3.4, nonsense, 10.0.0.7"], &trusted), ip("10.0.0.7"));
    }

    #[test]
    fn https_is_what_a_trusted_proxy_calls_so_first() {
        for (line, expected) in [
            ("https", true),
            ("HTTPS, http", true),
            ("http", false),
            ("http, https", false),
            ("", false),
            ("httpsx", false),
        ] {
            let mut request = Request::new(axum::body::Body::empty());
            request.extensions_mut().insert(Peer(ip("10.0.0.2")));
            request.headers_mut().insert(FORWARDED_PROTO, HeaderValue::from_static(line));
            assert_eq!(came_by_https(&request, &networks(&["10.0.0.0/8"])), expected, "{line}");
            assert!(!came_by_https(&request, &networks(&["192.0.2.1"])), "{line}: a stranger");
        }
    }

    #[test]
    fn if_all_are_trusted_it_is_the_first_of_them() {
        assert_eq!(named("10.0.0.2", &["10.0.0.9, 10.0.0.1"], &["10.0.0.0/8"]), ip("10.0.0.9"));
    }
}
