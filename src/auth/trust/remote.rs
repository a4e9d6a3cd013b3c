//! The keys behind an address: fetched at the start, again and again, and when a token names one that
//! is not known.
//!
//! One task per issuer fetches, so there is never more than one flight, and it pauses after each.
//! Whoever waits is served by the first flight that began after they came: an earlier one may have
//! missed their key.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::Uri;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    task::AbortHandle,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{issuer::Keys, stats::Stats};
use crate::{
    auth::{
        fetch::FetchError,
        token::{Reason, TokenError, key::Key},
    },
    limits::{
        JWKS_COOL_DOWN, JWKS_REFRESH_INTERVAL, JWKS_RETRY_PAUSE, JWKS_WAIT_MAX, JWKS_WAITERS_MAX,
    },
};

/// The task that fetches, as those see it who wait for keys. Dropping it ends the task.
#[derive(Debug)]
pub(super) struct Remote {
    progress: watch::Receiver<Progress>,
    /// How many fetches are wanted, the earlier ones included.
    wanted: watch::Sender<u64>,
    places: Semaphore,
    task: AbortHandle,
}

/// How many fetches have begun and ended, and how the last one that ended went.
#[derive(Clone, Copy, Default, Debug)]
struct Progress {
    begun: u64,
    ended: u64,
    succeeded: bool,
}

/// What the task has to itself.
struct Task<F> {
    fetch: F,
    url: Uri,
    keys: Arc<Keys>,
    stats: Arc<Stats>,
    progress: watch::Sender<Progress>,
    wanted: watch::Receiver<u64>,
}

impl Remote {
    /// Begins to fetch. Does not wait for it. `url` is for the log.
    pub(super) fn start<F, T>(
        fetch: F,
        url: Uri,
        keys: Arc<Keys>,
        stats: Arc<Stats>,
        runtime: &Handle,
    ) -> Self
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<Bytes, FetchError>> + Send + 'static,
    {
        let (sender, progress) = watch::channel(Progress::default());
        let (wanted, is_wanted) = watch::channel(0);
        let task = Task { fetch, url, keys, stats, progress: sender, wanted: is_wanted };
        let task = runtime.spawn(task.run()).abort_handle();
        Self { progress, wanted, places: Semaphore::new(JWKS_WAITERS_MAX), task }
    }

    /// Waits for a key that is not known yet, for one fetch that begins from now on.
    pub(super) async fn wait_for(
        &self,
        find: impl Fn() -> Option<Arc<Key>>,
    ) -> Result<Arc<Key>, TokenError> {
        let Ok(_place) = self.places.try_acquire() else {
            return Err(TokenError::KeysUnavailable);
        };
        let mut progress = self.progress.clone();
        let enough = progress.borrow().begun + 1;
        self.wanted.send_if_modified(|wanted| {
            let is_more = enough > *wanted;
            *wanted = enough.max(*wanted);
            is_more
        });
        let found = async {
            loop {
                // First how far it is, then the keys: these may only be newer.
                let seen = *progress.borrow_and_update();
                if let Some(key) = find() {
                    return Ok(key);
                }
                if seen.ended >= enough {
                    let unknown = TokenError::Invalid(Reason::Key);
                    return Err(if seen.succeeded { unknown } else { TokenError::KeysUnavailable });
                }
                if progress.changed().await.is_err() {
                    return Err(TokenError::KeysUnavailable);
                }
            }
        };
        timeout(JWKS_WAIT_MAX, found).await.unwrap_or(Err(TokenError::KeysUnavailable))
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<F, T> Task<F>
where
    F: Fn() -> T,
    T: Future<Output = Result<Bytes, FetchError>>,
{
    async fn run(mut self) {
        let mut failures = 0_u32;
        loop {
            self.progress.send_modify(|progress| progress.begun += 1);
            let succeeded = self.fetch(failures).await;
            self.progress.send_modify(|progress| {
                progress.ended = progress.begun;
                progress.succeeded = succeeded;
            });
            failures = if succeeded { 0 } else { failures.saturating_add(1) };
            let next = Instant::now() + pause(succeeded);
            sleep(JWKS_COOL_DOWN).await;
            // Either somebody wants keys, or it is time.
            let ended = self.progress.borrow().ended;
            let _ = timeout_at(next, self.wanted.wait_for(|wanted| *wanted > ended)).await;
        }
    }

    /// Whether there are new keys. If not, the old ones stay.
    async fn fetch(&self, failures: u32) -> bool {
        let url = &self.url;
        let cause = match (self.fetch)().await {
            Ok(document) => match self.keys.replace(&document) {
                Ok(count) => {
                    self.stats.fetches.increase();
                    if count == 0 {
                        let algorithm = self.keys.algorithm();
                        tracing::warn!(%url, ?algorithm, "no key of this document can be used");
                    } else {
                        tracing::debug!(%url, count, "keys fetched");
                    }
                    if failures > 0 {
                        tracing::info!(%url, "keys can be fetched again");
                    }
                    return true;
                }
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        self.stats.fetches_failed.increase();
        // Once when it begins; the counter tells the rest.
        if failures == 0 {
            tracing::warn!(%url, cause, "keys cannot be fetched; known ones stay in force");
        }
        false
    }
}

/// From the end of a fetch to the next that nobody asked for.
const fn pause(succeeded: bool) -> Duration {
    if succeeded { JWKS_REFRESH_INTERVAL } else { JWKS_RETRY_PAUSE }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use ed25519_dalek::SigningKey;
    use hyper::StatusCode;
    use jsonwebtoken::{Algorithm, DecodingKey, jwk::Jwk};
    use serde_json::json;
    use tokio::time::advance;

    use super::*;
    use crate::auth::token::key::KeySet;

    /// How long an answer takes.
    const FLIGHT: Duration = Duration::from_millis(100);

    /// An issuer whose document a test changes, and which counts who asks for it.
    struct Site {
        remote: Remote,
        keys: Arc<Keys>,
        stats: Arc<Stats>,
        published: Arc<Mutex<Result<Vec<&'static str>, StatusCode>>>,
    }

    impl Site {
        /// What is published counts as of the moment at which a flight begins.
        fn start(first: Result<Vec<&'static str>, StatusCode>) -> Self {
            let published = Arc::new(Mutex::new(first));
            let url: Uri = "http://127.0.0.1/keys".parse().unwrap();
            let fetch = {
                let (published, url) = (Arc::clone(&published), url.clone());
                move || {
                    let (now, url) = (published.lock().unwrap().clone(), url.clone());
                    async move {
                        sleep(FLIGHT).await;
                        now.map(document).map_err(|status| FetchError::Status { url, status })
                    }
                }
            };
            let keys = Arc::new(Keys::new(Algorithm::EdDSA, KeySet::default()));
            let stats = Arc::new(Stats::default());
            let runtime = Handle::current();
            let remote = Remote::start(fetch, url, Arc::clone(&keys), Arc::clone(&stats), &runtime);
            Self { remote, keys, stats, published }
        }

        fn publish(&self, keys: Result<Vec<&'static str>, StatusCode>) {
            *self.published.lock().unwrap() = keys;
        }

        async fn wait_for(&self, id: &str) -> Result<(), TokenError> {
            self.remote.wait_for(|| self.keys.find(Some(id))).await.map(drop)
        }

        fn fetches(&self) -> (u64, u64) {
            (self.stats.fetches.get(), self.stats.fetches_failed.get())
        }
    }

    fn document(ids: Vec<&str>) -> Bytes {
        let key = |id: &&str| {
            let seed = [id.as_bytes()[0]; 32];
            let key = SigningKey::from_bytes(&seed).verifying_key();
            let key = DecodingKey::from_ed_der(key.as_bytes());
            let mut jwk = Jwk::from_decoding_key(&key, Some(Algorithm::EdDSA)).unwrap();
            jwk.common.key_id = Some((*id).to_owned());
            jwk
        };
        let keys: Vec<_> = ids.iter().map(key).collect();
        json!({ "keys": keys }).to_string().into()
    }

    const UNKNOWN: TokenError = TokenError::Invalid(Reason::Key);
    const DOWN: Result<Vec<&str>, StatusCode> = Err(StatusCode::BAD_GATEWAY);

    #[tokio::test(start_paused = true)]
    async fn a_token_that_comes_before_the_keys_waits_for_them() {
        let site = Site::start(Ok(vec!["a"]));
        assert_eq!(site.wait_for("a").await, Ok(()));
        assert_eq!(site.fetches(), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_unknown_keys_is_one_fetch_per_cool_down() {
        let site = Arc::new(Site::start(Ok(vec!["a"])));
        site.wait_for("a").await.unwrap();
        let began = Instant::now();
        let wait = |number: u32| {
            let site = Arc::clone(&site);
            async move { site.wait_for(&format!("unknown{number}")).await }
        };
        let flood: tokio::task::JoinSet<_> = (0..1_000).map(wait).collect();
        assert!(flood.join_all().await.iter().all(|outcome| *outcome == Err(UNKNOWN)));
        assert_eq!(site.fetches(), (2, 0), "one for all");
        assert!(began.elapsed() <= JWKS_COOL_DOWN + 2 * FLIGHT, "{:?}", began.elapsed());
        for number in 0..20 {
            assert_eq!(wait(number).await, Err(UNKNOWN));
        }
        let most = began.elapsed().as_secs() / JWKS_COOL_DOWN.as_secs() + 2;
        assert!(site.fetches().0 <= most, "{:?} in {:?}", site.fetches(), began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn those_beyond_the_places_are_refused_at_once_and_may_try_again() {
        let site = Arc::new(Site::start(Ok(vec!["a"])));
        site.wait_for("a").await.unwrap();
        let wait = |number: usize| {
            let site = Arc::clone(&site);
            async move { site.wait_for(&format!("unknown{number}")).await }
        };
        let flood: tokio::task::JoinSet<_> = (0..JWKS_WAITERS_MAX + 10).map(wait).collect();
        let outcomes = flood.join_all().await;
        let count = |expected| outcomes.iter().filter(|outcome| **outcome == expected).count();
        assert_eq!(count(Err(UNKNOWN)), JWKS_WAITERS_MAX);
        assert_eq!(count(Err(TokenError::KeysUnavailable)), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_published_while_a_flight_is_under_way_is_found_by_the_next() {
        let site = Site::start(Ok(vec!["a"]));
        advance(FLIGHT / 2).await;
        tokio::task::yield_now().await;
        site.publish(Ok(vec!["a", "b"]));
        assert_eq!(site.wait_for("b").await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_key_is_gone_after_the_interval_without_anybody_asking() {
        let site = Site::start(Ok(vec!["a", "b"]));
        site.wait_for("a").await.unwrap();
        let key = site.keys.find(Some("a")).unwrap();
        site.publish(Ok(vec!["b"]));
        sleep(JWKS_REFRESH_INTERVAL / 2).await;
        assert!(!key.is_withdrawn());
        sleep(JWKS_REFRESH_INTERVAL / 2 + JWKS_COOL_DOWN).await;
        assert!(key.is_withdrawn());
        assert!(site.keys.find(Some("a")).is_none() && site.keys.find(Some("b")).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn while_an_issuer_is_down_known_keys_stay_and_unknown_ones_may_try_again() {
        let site = Site::start(Ok(vec!["a"]));
        site.wait_for("a").await.unwrap();
        site.publish(DOWN);
        assert_eq!(site.wait_for("b").await, Err(TokenError::KeysUnavailable));
        sleep(2 * JWKS_REFRESH_INTERVAL).await;
        assert!(site.fetches().1 > 10, "it is asked again: {:?}", site.fetches());
        assert!(site.keys.find(Some("a")).is_some_and(|key| !key.is_withdrawn()));
        site.publish(Ok(vec!["a", "b"]));
        assert_eq!(site.wait_for("b").await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_without_the_issuer_recovers_by_itself() {
        let site = Site::start(DOWN);
        assert_eq!(site.wait_for("a").await, Err(TokenError::KeysUnavailable));
        site.publish(Ok(vec!["a"]));
        sleep(JWKS_RETRY_PAUSE + 2 * FLIGHT).await;
        assert!(site.keys.find(Some("a")).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_it_ends_the_task() {
        let site = Site::start(Ok(vec!["a"]));
        site.wait_for("a").await.unwrap();
        let stats = Arc::clone(&site.stats);
        drop(site);
        sleep(3 * JWKS_REFRESH_INTERVAL).await;
        assert_eq!(stats.fetches.get(), 1);
    }
}
