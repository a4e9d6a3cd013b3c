//! Reads what the auth service revoked, and passes it on to the hub: in this process, or from
//! `GET /v1/revocations` of another one.
//!
//! The feed is asked four times a second, so what is revoked reaches connections well within one. A
//! feed that cannot be read takes nothing back: what is known stays, tokens run out by themselves,
//! and the metrics say since when.

use std::{sync::Arc, time::Duration};

use hyper::{StatusCode, Uri};
use thiserror::Error;
use tokio::time::sleep;

use crate::{
    auth::{
        self, Auth, ServiceError,
        fetch::{self, FetchError, Fetcher},
        revocation::{Page, Revoked},
        trust,
    },
    clock,
    hub::revocations::{Revocation, Revoker},
    limits::{
        REVOCATION_ABSENT_PAUSE, REVOCATION_INTERVAL, REVOCATION_KEPT, REVOCATION_PAGE_BYTES_MAX,
        REVOCATION_PAGES_PER_READ_MAX, REVOCATION_PAUSE_MAX, REVOCATION_TIMEOUT,
        REVOCATIONS_PER_PAGE_MAX, TOKEN_LEEWAY,
    },
    metrics::Metrics,
};

/// How long a hub keeps what was revoked: for as long as tokens live.
pub(super) fn kept(auth: &auth::Settings) -> Duration {
    REVOCATION_KEPT.max(auth.access_token_lifetime + TOKEN_LEEWAY)
}

/// Where the feed is.
#[derive(Debug)]
pub(super) enum Feed {
    /// In this process.
    Here(Arc<Auth>),
    /// In another one.
    Elsewhere(Box<Elsewhere>),
}

/// The address of a feed, and what asks it.
#[derive(Debug)]
pub(super) struct Elsewhere {
    fetcher: Fetcher,
    url: Uri,
}

/// Why the feed was not read.
#[derive(Debug, Error)]
pub(super) enum FeedError {
    /// The issuer has none.
    #[error("{0} has no revocation feed")]
    Absent(Uri),
    /// Of another process.
    #[error(transparent)]
    Fetch(FetchError),
    /// Of this process.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// It is none, or its numbers do not ascend.
    #[error("the revocation feed cannot be understood")]
    Malformed,
}

impl Feed {
    /// That of the auth service in this process, or else of the one that the settings name. None:
    /// tokens are good until they run out.
    pub(super) fn of(auth: Option<&Arc<Auth>>, trust: &trust::Settings) -> Option<Self> {
        if let Some(auth) = auth {
            return Some(Self::Here(Arc::clone(auth)));
        }
        let named = fetch::address(&trust.revocations_url);
        let url = named.or_else(|| beside(&fetch::address(&trust.jwks_url)?))?;
        Some(Self::at(url))
    }

    fn at(url: Uri) -> Self {
        Self::Elsewhere(Box::new(Elsewhere { fetcher: Fetcher::new(), url }))
    }

    async fn read(&self, after: u64) -> Result<Page, FeedError> {
        let page = match self {
            Self::Here(auth) => auth.revocations(after).await?,
            Self::Elsewhere(feed) => {
                let url = with_after(&feed.url, after).ok_or(FeedError::Malformed)?;
                let answer = feed.fetcher.get(&url, REVOCATION_PAGE_BYTES_MAX, REVOCATION_TIMEOUT);
                let answer = answer.await.map_err(|error| match error {
                    FetchError::Status { url, status: StatusCode::NOT_FOUND } => {
                        FeedError::Absent(url)
                    }
                    error => FeedError::Fetch(error),
                })?;
                serde_json::from_slice(&answer).map_err(|_| FeedError::Malformed)?
            }
        };
        check(&page, after)?;
        Ok(page)
    }
}

/// The feed of the auth service whose keys are at this address.
fn beside(jwks: &Uri) -> Option<Uri> {
    let mut parts = jwks.clone().into_parts();
    parts.path_and_query = Some("/v1/revocations".parse().ok()?);
    Uri::from_parts(parts).ok()
}

fn with_after(url: &Uri, after: u64) -> Option<Uri> {
    let mark = if url.query().is_some() { '&' } else { '?' };
    format!("{url}{mark}after={after}").parse().ok()
}

/// Whether reading on from this page leads to the end of the feed.
fn check(page: &Page, after: u64) -> Result<(), FeedError> {
    let numbers = page.revocations.iter().map(|it| it.number);
    let ascends = std::iter::once(after).chain(numbers).is_sorted_by(|a, b| a < b);
    let fits = page.revocations.last().is_none_or(|it| it.number <= page.last);
    // A feed that began anew is read from its beginning, whatever else this page says.
    let began_anew = page.last < after;
    if began_anew || (ascends && fits && page.revocations.len() <= REVOCATIONS_PER_PAGE_MAX) {
        Ok(())
    } else {
        Err(FeedError::Malformed)
    }
}

/// Reads a feed for as long as the server runs.
pub(super) struct Follower<F> {
    feed: Feed,
    /// The last number that was read.
    after: u64,
    revoker: Revoker,
    /// Has tokens that this key signed refused for good.
    forget_key: F,
    metrics: Arc<Metrics>,
}

impl<F: Fn(&str)> Follower<F> {
    /// At the beginning of the feed.
    pub(super) const fn new(
        feed: Feed,
        revoker: Revoker,
        forget_key: F,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { feed, after: 0, revoker, forget_key, metrics }
    }

    /// Reads what there is, if it can be read: before the first connection is let in.
    pub(super) async fn catch_up(&mut self) {
        if let Err(error) = self.read_on().await {
            self.metrics.revocation_feed_errors.inc();
            tracing::warn!(%error, "what was revoked is not known yet");
        }
    }

    /// Reads what comes.
    pub(super) async fn follow(mut self) {
        let mut pause = REVOCATION_INTERVAL;
        let mut is_failing = false;
        loop {
            sleep(pause).await;
            match self.read_on().await {
                Ok(()) => {
                    if is_failing {
                        tracing::info!("the revocation feed can be read again");
                    }
                    is_failing = false;
                    pause = REVOCATION_INTERVAL;
                }
                Err(error) => {
                    self.metrics.revocation_feed_errors.inc();
                    // Said once, not at every attempt.
                    if !is_failing {
                        tracing::warn!(%error, "what is revoked from now on is not known here");
                    }
                    is_failing = true;
                    pause = pause_after(&error, pause).mul_f64(rand::random_range(0.75..1.25));
                }
            }
        }
    }

    /// Reads the feed to its end, or for as many pages as one attempt may have.
    async fn read_on(&mut self) -> Result<(), FeedError> {
        for _ in 0..REVOCATION_PAGES_PER_READ_MAX {
            let page = self.feed.read(self.after).await?;
            if page.last < self.after {
                tracing::warn!(after = self.after, "the revocation feed began anew");
                self.after = 0;
                continue;
            }
            self.metrics.revocation_feed_read.set(clock::unix_s().cast_signed());
            self.after = page.revocations.last().map_or(page.last, |newest| newest.number);
            self.apply(&page).await;
            if self.after >= page.last {
                break;
            }
        }
        Ok(())
    }

    async fn apply(&self, page: &Page) {
        let revocations = page.revocations.iter().map(|it| {
            let revocation = match &it.what {
                Revoked::Session { session } => Revocation::Session(session),
                Revoked::User { subject, generation } => Revocation::User(subject, *generation),
                Revoked::Key { key } => Revocation::Key(key),
            };
            (revocation, it.revoked_at_ms)
        });
        self.revoker.revoke(revocations).await;
        for it in &page.revocations {
            if let Revoked::Key { key } = &it.what {
                (self.forget_key)(key);
            }
        }
        if !page.revocations.is_empty() {
            self.metrics.revocations.inc_by(page.revocations.len() as u64);
            tracing::info!(count = page.revocations.len(), "revocations applied");
        }
    }
}

/// The pause before the next attempt. A store of this process that is busy for a moment is asked
/// again as usual: who floods it with logins must not put revocations off.
fn pause_after(error: &FeedError, before: Duration) -> Duration {
    match error {
        FeedError::Absent(_) => REVOCATION_ABSENT_PAUSE,
        FeedError::Service(ServiceError::Overloaded { .. }) => REVOCATION_INTERVAL,
        FeedError::Fetch(_) | FeedError::Service(_) | FeedError::Malformed => {
            (before * 2).min(REVOCATION_PAUSE_MAX)
        }
    }
}

#[cfg(test)]
mod tests;
