//! How many tries an address or a user name has, before any of them costs a hash.

use std::{net::IpAddr, time::Duration};

use super::{Settings, store::AccountId};

/// Whose wrong passwords are counted together.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Guesser {
    /// Strangers to the user of this name, whether there is one or not. Empty: names that no user can
    /// have, all together.
    Stranger(String),
    /// Whoever is where the user has logged in before: strangers cannot use up what is the user's.
    Known(AccountId, String),
    /// Whoever holds an access token of the user.
    Insider(AccountId),
}

/// The tries that are left, in bounded tables of this process.
#[derive(Debug)]
pub struct Admission {}

impl Admission {
    pub(super) fn new(_settings: &Settings) -> Self {
        Self {}
    }

    /// Takes one password from this address. Err: when there is one again.
    pub(super) fn password_from(&self, _from: IpAddr) -> Result<(), Duration> {
        Ok(())
    }

    /// Takes one refresh from this address. Err: when there is one again.
    pub(super) fn refresh_from(&self, _from: IpAddr) -> Result<(), Duration> {
        Ok(())
    }

    /// Takes one wrong password, before it is known to be wrong. Err: when there is one again.
    pub(super) fn guess(&self, _guesser: Guesser) -> Result<(), Duration> {
        Ok(())
    }

    /// The password was right, or was never compared.
    pub(super) fn give_back(&self, _guesser: &Guesser) {}
}

/// What counts as one address: an IPv4 address, or the /64 of an IPv6 one.
pub(super) fn address_of(from: IpAddr) -> String {
    match from.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let prefix = u128::from(address) >> 64 << 64;
            format!("{}/64", std::net::Ipv6Addr::from(prefix))
        }
    }
}
