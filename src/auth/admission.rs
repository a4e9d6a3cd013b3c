//! Who may try a password now: by address and by user name, before anything costs a hash.
//!
//! Strangers to a user name share its tries, wherever they are; whoever is where the user has logged
//! in before has tries of their own. So guessing from a thousand addresses is as slow as from one, and
//! none of it locks the user out. The same holds for names that nobody has.
//!
//! The tries are counted in this process only, so processes on one store allow as many times more.
//! That is a bound all the same, and needs no write to the store for a password that is wrong.

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use thiserror::Error;

use super::{Settings, Username, store::AccountId};
use crate::{
    buckets::{AccountKey, AccountKeys, AddressPrefix, Buckets, Rate},
    limits,
};

/// Whose wrong passwords are counted together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Guesser {
    /// Strangers to the user of a name, whether there is one or not.
    Stranger(AccountKey),
    /// Whoever is where the user has logged in before.
    Known(AccountId, AddressPrefix),
    /// Whoever holds an access token of the user.
    Insider(AccountId),
}

/// The tries that are left, in bounded tables of this process.
#[derive(Debug)]
pub struct Admission {
    passwords: Mutex<Buckets<AddressPrefix>>,
    refreshes: Mutex<Buckets<AddressPrefix>>,
    guesses: Mutex<Buckets<Guesser>>,
    names: AccountKeys,
}

/// A rate lets nothing through, or everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("tries per address and per account must be above 0")]
pub struct RateError;

/// There is no try left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("too many tries")]
pub struct TooMany {
    /// When there is one again.
    pub retry_after: Duration,
}

impl Admission {
    pub(super) fn new(settings: &Settings) -> Result<Self, RateError> {
        let passwords =
            (settings.attempts_per_address_per_second, settings.attempts_per_address_burst);
        let refreshes =
            (limits::REFRESHES_PER_ADDRESS_PER_SECOND, limits::REFRESHES_PER_ADDRESS_BURST);
        let guesses =
            (settings.attempts_per_account_per_minute / 60.0, settings.attempts_per_account_burst);
        Ok(Self {
            passwords: table(passwords)?,
            refreshes: table(refreshes)?,
            guesses: table(guesses)?,
            names: AccountKeys::default(),
        })
    }

    /// Takes a password from this address.
    pub(super) fn take_password(&self, from: IpAddr, now: Instant) -> Result<(), TooMany> {
        take(&self.passwords, from.into(), now)
    }

    /// Takes a refresh token from this address.
    pub(super) fn take_refresh(&self, from: IpAddr, now: Instant) -> Result<(), TooMany> {
        take(&self.refreshes, from.into(), now)
    }

    /// Takes a guess, before it is known to be wrong.
    pub(super) fn take_guess(&self, guesser: Guesser, now: Instant) -> Result<(), TooMany> {
        take(&self.guesses, guesser, now)
    }

    /// Gives the guess back: it was right, or never compared.
    pub(super) fn give_back(&self, guesser: Guesser) {
        lock(&self.guesses).give_back(guesser);
    }

    /// A stranger to the user of this name. Names that no user can have are one.
    pub(super) fn stranger(&self, username: Option<&Username>) -> Guesser {
        Guesser::Stranger(self.names.key(username.map_or("", Username::as_str)))
    }
}

fn table<K: Copy + Ord + std::hash::Hash>(
    (per_second, burst): (f64, u32),
) -> Result<Mutex<Buckets<K>>, RateError> {
    let rate = Rate::new(per_second, burst).ok_or(RateError)?;
    Ok(Mutex::new(Buckets::new(rate, limits::BUCKETS_MAX)))
}

fn take<K: Copy + Ord + std::hash::Hash>(
    table: &Mutex<Buckets<K>>,
    key: K,
    now: Instant,
) -> Result<(), TooMany> {
    lock(table).take(key, now).map_err(|refill| TooMany { retry_after: refill.retry_after })
}

/// No code under a lock can panic half-way through a change.
fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the store keeps of an address: as much as is counted as one.
pub(super) fn address_of(from: IpAddr) -> String {
    match AddressPrefix::from(from) {
        AddressPrefix::V4(address) => address.to_string(),
        AddressPrefix::V6(half) => {
            format!("{}/64", std::net::Ipv6Addr::from(u128::from(half) << 64))
        }
    }
}
