//! Requests at a fixed rate to one server, and how long each kind took.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::task::JoinSet;

use super::ask::{Ask, Request, complaint, success};
use crate::{latency::Latency, server::talk::Talk};

/// How long each kind of request took, in the order of [`Ask::ALL`].
#[derive(Clone, Debug)]
pub(super) struct Waits([Latency; Ask::ALL.len()]);

impl Waits {
    pub(super) fn new() -> Self {
        Self(Ask::ALL.map(|_| Latency::new()))
    }

    pub(super) fn of(&self, ask: Ask) -> &Latency {
        &self.0[ask as usize]
    }

    pub(super) fn record(&mut self, ask: Ask, wait: Duration) {
        self.0[ask as usize].record(wait);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(ours, other)| ours.add(other));
    }
}

/// Sends these requests, so many a second, on as many connections as there are talks, and takes every
/// answer apart if they are to be checked, which takes time from the others.
pub(super) async fn slice(
    talks: Vec<Talk>,
    requests: Vec<Request>,
    rate: f64,
    checks: bool,
) -> Result<Waits> {
    let requests = Arc::new(requests);
    let connections = talks.len();
    let mut ready = Vec::new();
    for mut talk in talks {
        talk.connect().await?;
        ready.push(talk);
    }
    let began = Instant::now();
    let mut workers = JoinSet::new();
    for (worker, mut talk) in ready.into_iter().enumerate() {
        let requests = Arc::clone(&requests);
        workers.spawn(async move {
            let mut waits = Waits::new();
            let mut free_at = began;
            for at in (worker..requests.len()).step_by(connections) {
                #[expect(clippy::cast_precision_loss, reason = "requests are some thousands")]
                let due = began + Duration::from_secs_f64(at as f64 / rate);
                tokio::time::sleep_until(due.into()).await;
                // Late because of an earlier answer, it counts from when it was due. Late because a
                // timer is coarse, it counts from when it was sent.
                let from = if free_at > due { due } else { Instant::now() };
                ask(&mut talk, &requests[at], checks).await?;
                free_at = Instant::now();
                waits.record(requests[at].ask, free_at - from);
            }
            anyhow::Ok(waits)
        });
    }
    let mut waits = Waits::new();
    while let Some(ended) = workers.join_next().await {
        waits.add(&ended??);
    }
    Ok(waits)
}

async fn ask(talk: &mut Talk, request: &Request, checks: bool) -> Result<()> {
    let Request { ask, path, json } = request;
    let method = if json.is_some() { "POST" } else { "GET" };
    let answer =
        talk.ask(method, path, &[], json.as_deref()).await.with_context(|| path.clone())?;
    if checks || answer.status != success(*ask) {
        let said: Value = answer.expect(success(*ask)).with_context(|| path.clone())?;
        if let Some(wrong) = complaint(request, &said) {
            bail!(wrong);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::server::talk::tests::stand_in;

    fn requests(ask: Ask, count: usize) -> Vec<Request> {
        vec![Request { ask, path: "/v1/channels/a".to_owned(), json: None }; count]
    }

    fn waiting(answer: &'static str) -> impl Future<Output = std::net::SocketAddr> {
        stand_in(move |_| Some((200, answer.to_owned())))
    }

    #[tokio::test]
    async fn every_request_is_timed_once_under_its_kind() {
        let address = waiting("{\"name\":\"a\"}").await;
        let talks = || (0..3).map(|_| Talk::new(address, "t")).collect();
        let waits = slice(talks(), requests(Ask::Channel, 50), 5_000.0, true).await.unwrap();
        assert_eq!((waits.of(Ask::Channel).count(), waits.of(Ask::Newest).count()), (50, 0));
        let mut twice = waits.clone();
        twice.add(&waits);
        assert_eq!(twice.of(Ask::Channel).count(), 100);
    }

    #[tokio::test]
    async fn an_answer_that_is_wrong_ends_the_slice() {
        let address = waiting(&json!({"name": "b"}).to_string().leak()[..]).await;
        let talk = || vec![Talk::new(address, "t")];
        assert!(slice(talk(), requests(Ask::Channel, 1), 1_000.0, false).await.is_ok());
        let wrong = slice(talk(), requests(Ask::Channel, 1), 1_000.0, true).await.unwrap_err();
        assert!(wrong.to_string().contains("was answered with"), "{wrong}");
        let status = slice(talk(), requests(Ask::Publish, 1), 1_000.0, false).await.unwrap_err();
        assert!(format!("{status:#}").contains("200 and not 201"), "{status:#}");
    }

    #[tokio::test]
    async fn who_waits_behind_a_slow_answer_waits_from_when_it_was_due() {
        let mut asked = 0;
        let address = stand_in(move |_| {
            asked += 1;
            if asked == 1 {
                let began = Instant::now();
                while began.elapsed() < Duration::from_millis(60) {
                    std::thread::yield_now();
                }
            }
            Some((200, "{}".to_owned()))
        });
        let talks = vec![Talk::new(address.await, "t")];
        let waits = slice(talks, requests(Ask::Newest, 10), 1_000.0, false).await.unwrap();
        // The tenth was due after 9 ms, and was asked after 60.
        assert!(
            waits.of(Ask::Newest).percentile(1.0) >= 40.0,
            "{:?}",
            waits.of(Ask::Newest).five()
        );
    }
}
