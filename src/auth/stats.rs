//! What the auth service counts, for the metrics. Nobody's name is in it.

use crate::metrics::tally::{Counter, Gauge};

/// What the service of this process has done since its start.
#[derive(Debug, Default)]
pub struct Stats {
    /// Logins by the right password.
    pub logins: Counter,
    /// Logins with wrong credentials, whatever was wrong about them.
    pub logins_refused: Counter,
    /// Accounts made.
    pub registrations: Counter,
    /// Passwords changed.
    pub passwords_changed: Counter,
    /// Refresh tokens traded.
    pub refreshes: Counter,
    /// Refresh tokens that were nobody's, or of a session that is over.
    pub refreshes_refused: Counter,
    /// Refresh tokens that had been used up; each ended its session.
    pub replays: Counter,
    /// Sessions ended by their own token.
    pub logouts: Counter,
    /// Requests that were too many from one address.
    pub limited_by_address: Counter,
    /// Passwords that were too many for one user name.
    pub limited_by_account: Counter,
    /// Requests that found no room: passwords in the pool, or anything in the store.
    pub overloaded: Counter,
    /// Requests that the service failed.
    pub failed: Counter,
    /// Ticks of the housekeeping that failed.
    pub housekeeping_failed: Counter,
    /// Hashes made anew at another cost.
    pub rehashes: Counter,
    /// Sessions in the store, of all processes that share it. Counted from time to time.
    pub sessions: Gauge,
    /// Keys that are published.
    pub keys: Gauge,
}
