//! One request of a storm: what is sent, and what its answer means. Pure.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde_json::json;

use crate::swarm::http;

/// Of all accounts of storms, so that the next run can use them again.
const PASSWORD: &str = "an account in a storm";

/// Who knocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Who {
    /// The account of this number, from its own address.
    Account(u32),
    /// A user that there is not, from the address of this number.
    Stranger(u32),
}

/// What for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// The account is made.
    SignUp,
    /// It logs in once, so that the server knows its address.
    FirstLogin,
    /// It is one of those that measure the capacity.
    Probe,
    Storm,
}

/// One request, from the moment at which it was due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) who: Who,
    pub(super) purpose: Purpose,
    pub(super) due_us: u64,
}

/// What an answer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// The token, to an account with its password.
    Valid,
    /// No token, to somebody that there is not.
    Denied,
    /// Not now, as this status.
    Refused(u16),
    /// The account is there.
    Made,
    /// No token to somebody who has one to get, or a token to somebody that there is not.
    Wrong,
    /// Anything else.
    Other(u16),
}

impl Request {
    /// Appends it as the server reads it.
    pub(super) fn write(&self, host: &str, out: &mut Vec<u8>) {
        let username = match self.who {
            Who::Account(number) => format!("storm-{number}"),
            // Always another one.
            Who::Stranger(number) => format!("nobody-{number}-{}", self.due_us),
        };
        let (path, json) = match self.purpose {
            Purpose::SignUp => {
                ("/v1/accounts", json!({ "username": username, "password": PASSWORD }))
            }
            Purpose::FirstLogin | Purpose::Probe | Purpose::Storm => (
                "/v1/token",
                json!({ "grant_type": "password", "username": username, "password": PASSWORD }),
            ),
        };
        http::write_post(out, host, path, &json.to_string());
    }

    pub(super) fn judge(&self, response: &http::Response<'_>) -> Answer {
        let has_token = || response.body.windows(14).any(|it| it == b"\"access_token\"");
        match (response.status, self.purpose, self.who) {
            (refused @ (429 | 503), _, _) => Answer::Refused(refused),
            (201 | 409, Purpose::SignUp, _) => Answer::Made,
            (other, Purpose::SignUp, _) => Answer::Other(other),
            (200, _, Who::Account(_)) if has_token() => Answer::Valid,
            (401, _, Who::Stranger(_)) => Answer::Denied,
            (200 | 401, ..) => Answer::Wrong,
            (other, ..) => Answer::Other(other),
        }
    }
}

impl Who {
    /// Its number among its kind.
    pub(super) const fn number(self) -> u32 {
        let (Self::Account(number) | Self::Stranger(number)) = self;
        number
    }

    /// The loopback address that it comes from.
    pub(super) fn source(self) -> SocketAddr {
        match self {
            Self::Account(number) => address(2 * number),
            Self::Stranger(number) => address(2 * number + 1),
        }
    }
}

/// Neighbours in number are strangers in address: they share no network of 65,536. None is one that a
/// server of ours or the users have.
fn address(number: u32) -> SocketAddr {
    const NETWORKS: u32 = 120;
    let (network, place) = (number % NETWORKS, number / NETWORKS);
    let byte = |it: u32| u8::try_from(it).expect("a remainder, and as many as are checked");
    let host = Ipv4Addr::new(127, byte(128 + network), byte(place / 250), byte(1 + place % 250));
    SocketAddr::new(host.into(), 0)
}

/// How long to wait before a request is made again that was refused while accounts are made.
pub(super) fn put_off(response: &http::Response<'_>) -> Duration {
    const PAUSE_MAX_S: u64 = 5;
    let seconds = response.retry_after.unwrap_or(1).min(PAUSE_MAX_S);
    // At once is never.
    Duration::from_secs(seconds).max(Duration::from_millis(100))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn response(status: u16, body: &[u8]) -> http::Response<'_> {
        http::Response {
            status,
            retry_after: None,
            accept: None,
            extensions: None,
            body,
            bytes: 0,
            closes: false,
        }
    }

    #[test]
    fn an_answer_is_right_or_wrong_by_who_asked() {
        let token = br#"{"access_token":"a"}"#;
        let (account, stranger) = (Who::Account(1), Who::Stranger(1));
        let cases: [(Purpose, Who, u16, &[u8], Answer); 10] = [
            (Purpose::Storm, account, 200, token, Answer::Valid),
            (Purpose::Storm, account, 200, b"{}", Answer::Wrong),
            (Purpose::Storm, account, 401, b"", Answer::Wrong),
            (Purpose::Storm, stranger, 401, b"", Answer::Denied),
            (Purpose::Storm, stranger, 200, token, Answer::Wrong),
            (Purpose::Probe, account, 503, b"", Answer::Refused(503)),
            (Purpose::Storm, stranger, 429, b"", Answer::Refused(429)),
            (Purpose::SignUp, account, 409, b"", Answer::Made),
            (Purpose::SignUp, account, 401, b"", Answer::Other(401)),
            (Purpose::Storm, account, 500, b"", Answer::Other(500)),
        ];
        for (purpose, who, status, body, answer) in cases {
            let request = Request { who, purpose, due_us: 0 };
            assert_eq!(request.judge(&response(status, body)), answer, "{request:?} {status}");
        }
    }

    #[test]
    fn nobody_shares_an_address_or_has_that_of_a_user() {
        let accounts = (0..10_000).map(|it| Who::Account(it).source().ip());
        let strangers = (0..1_000_000).step_by(37).map(|it| Who::Stranger(it).source().ip());
        let all: Vec<_> = accounts.chain(strangers).collect();
        let different: BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        assert!(all.iter().all(|it| it.is_loopback()));
        let of_users = |it: &&std::net::IpAddr| it.to_string().starts_with("127.0.");
        assert_eq!(all.iter().find(of_users), None);
    }
}
