//! What verifying has come to, for the metrics.

use crate::{
    auth::token::{Reason, TokenError, Verified},
    metrics::tally::Counter,
};

/// Tokens and fetches since the start.
#[derive(Debug, Default)]
pub struct Stats {
    /// Tokens whose signature was verified.
    pub verified: Counter,
    /// Tokens that were known as verified.
    pub cached: Counter,
    /// Tokens whose time was over.
    pub refused_expired: Counter,
    /// Tokens that are none of an issuer that is trusted: form, kind, claims, issuer, audience, times.
    pub refused_claims: Counter,
    /// Tokens of an algorithm or a key that the issuer does not have.
    pub refused_key: Counter,
    /// Tokens whose signature does not fit.
    pub refused_signature: Counter,
    /// Tokens that nobody could judge, since the issuer's keys could not be had.
    pub refused_unavailable: Counter,
    /// Documents of keys that were fetched.
    pub fetches: Counter,
    /// Documents of keys that could not be fetched, or were none.
    pub fetches_failed: Counter,
}

impl Stats {
    pub(super) fn count(&self, outcome: &Result<(Verified, Known), TokenError>) {
        let counter = match outcome {
            Ok((_, Known::Before)) => &self.cached,
            Ok((_, Known::Now)) => &self.verified,
            Err(TokenError::Expired) => &self.refused_expired,
            Err(TokenError::KeysUnavailable) => &self.refused_unavailable,
            Err(TokenError::Invalid(Reason::Algorithm | Reason::Key)) => &self.refused_key,
            Err(TokenError::Invalid(Reason::Signature)) => &self.refused_signature,
            Err(TokenError::Invalid(_)) => &self.refused_claims,
        };
        counter.increase();
    }
}

/// Since when a token is known to be good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    Before,
    Now,
}
