//! People at work while servers break: writers who publish as fast as they are answered, readers who
//! follow, and an auditor who reads history. All by the Rust client, which finds its way back by itself.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use hubbub::{
    client::{Client, Delivery, HistoryFrom, Message, PublishOptions, Subscription},
    log::place::{ClientMessageId, Sequence, UserId},
};
use tokio::{sync::watch, task::JoinSet};

pub(crate) mod users;

use users::User;

use crate::audit::{Audit, Digest, Place, Reader};

/// How long the readers may take to get everything, at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
const DRAIN_CHECK: Duration = Duration::from_millis(10);
/// Messages that are asked for at once when history is read.
const PAGE: u32 = 200;
/// A body is at most this much longer than its beginning.
const PADDING_MAX: u64 = 200;

/// What the people share.
pub(crate) struct Shared {
    audit: Mutex<Audit>,
    channels: Vec<(String, Place)>,
    /// How long a publish is tried. Beyond it the server is taken for broken.
    publish_timeout: Duration,
    /// Publishes that had to be sent again, because the server was gone before it answered.
    pub(crate) retried: AtomicU64,
    /// Becomes true when the writers are to stop.
    is_over: watch::Sender<bool>,
}

impl Shared {
    /// Makes these channels, and an audit of them.
    pub(crate) async fn make(
        channels: Vec<String>,
        auditor: &Client,
        publish_timeout: Duration,
    ) -> Result<Arc<Self>> {
        let mut audit = Audit::default();
        let mut known = Vec::new();
        for name in channels {
            auditor.create_channel(&name).await.context("a channel cannot be made")?;
            let place = audit.channel(&name);
            known.push((name, place));
        }
        audit.begin_history();
        Ok(Arc::new(Self {
            audit: Mutex::new(audit),
            channels: known,
            publish_timeout,
            retried: AtomicU64::new(0),
            is_over: watch::Sender::new(false),
        }))
    }

    pub(crate) fn audit(&self) -> MutexGuard<'_, Audit> {
        self.audit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the writers stop, and waits until they have.
    pub(crate) async fn end_writing(&self, writers: &mut JoinSet<()>) -> Result<()> {
        self.is_over.send_replace(true);
        while let Some(writer) = writers.join_next().await {
            writer?;
        }
        Ok(())
    }

    /// Subscribes a user to all channels, into which nobody may have published yet.
    pub(crate) async fn follow(
        self: &Arc<Self>,
        user: &User,
        name: &str,
        readers: &mut JoinSet<()>,
    ) -> Result<()> {
        for (channel, place) in &self.channels {
            let subscription = user.client.subscribe(channel, None).await?;
            let reader = self.audit().subscribed(user.id.0, *place, 0);
            readers.spawn(read(Arc::clone(self), user.id, name.to_owned(), reader, subscription));
        }
        Ok(())
    }

    /// Reads history on from where it was read up to, and answers where each channel ends.
    pub(crate) async fn check_history(&self, client: &Client) -> Result<Vec<Sequence>> {
        self.audit().go_on_with_history();
        let mut heads = Vec::new();
        for (name, place) in &self.channels {
            loop {
                let after = Sequence(self.audit().history_read(*place));
                let page = client.history(name, HistoryFrom::After(after), PAGE).await;
                let page = page.context("history cannot be read")?;
                let mut audit = self.audit();
                for message in &page.messages {
                    audit.history(*place, message.sequence.0, digest_of(message));
                }
                let has_all = audit.history_read(*place) >= page.head_sequence.0;
                if page.messages.is_empty() || has_all {
                    audit.end_history(*place, page.head_sequence.0);
                    heads.push(page.head_sequence);
                    break;
                }
            }
        }
        Ok(heads)
    }

    /// Waits until the readers have everything up to these ends, and looks at what they missed.
    pub(crate) async fn drain(&self, heads: &[Sequence], readers: &mut JoinSet<()>) {
        let ends = || self.channels.iter().zip(heads).map(|((_, place), head)| (*place, head.0));
        let is_complete = || {
            let audit = self.audit();
            ends().all(|(place, head)| audit.is_complete(place, head))
        };
        let begun = Instant::now();
        while !is_complete() && begun.elapsed() < DRAIN_TIMEOUT && self.audit().violations() == 0 {
            tokio::time::sleep(DRAIN_CHECK).await;
        }
        readers.abort_all();
        let mut audit = self.audit();
        ends().for_each(|(place, head)| audit.end_delivery(place, head));
    }
}

/// One of the publishes that a writer has under way, again and again.
pub(crate) async fn write(
    shared: Arc<Shared>,
    user: User,
    author: u64,
    channel_of: impl Fn(u64) -> usize,
    acknowledged: impl Fn(usize, Instant),
) {
    let is_over = shared.is_over.subscribe();
    for n in 1_u64.. {
        if *is_over.borrow() {
            return;
        }
        let channel = channel_of(n);
        let (name, place) = &shared.channels[channel];
        let id = ClientMessageId(((author + 1) << 40) | n);
        let body = body(id);
        let message = digest(user.id, id, &body);
        shared.audit().publishing(*place, message);
        let options =
            PublishOptions { client_message_id: Some(id), timeout: Some(shared.publish_timeout) };
        let begun = Instant::now();
        match user.client.publish_with(name, &body, options).await {
            Ok(published) => {
                shared.retried.fetch_add(u64::from(published.attempts > 1), Ordering::Relaxed);
                shared.audit().acknowledged(*place, published.position.sequence.0, message);
                acknowledged(channel, begun);
            }
            Err(error) => {
                let error = format!("it wrote as author {author}: {}", users::in_full(&error));
                shared.audit().ended(user.id.0, error);
                return;
            }
        }
    }
}

async fn read(
    shared: Arc<Shared>,
    user: UserId,
    name: String,
    reader: Reader,
    mut subscription: Subscription,
) {
    while let Some(delivery) = subscription.next().await {
        let mut audit = shared.audit();
        match delivery {
            Ok(Delivery::Message(message)) => {
                audit.delivered(reader, message.sequence.0, digest_of(&message));
            }
            Ok(Delivery::Gap { from, to }) => audit.skipped(reader, from.0, to.0),
            Ok(Delivery::Reset { head }) => audit.started_over(reader, head.sequence.0),
            Err(error) => {
                audit.ended(user.0, format!("it read as {name}: {}", users::in_full(&error)))
            }
        }
    }
}

/// Bodies of many lengths, each found again from its number.
fn body(id: ClientMessageId) -> String {
    let padding = id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let padding = usize::try_from(padding % PADDING_MAX).unwrap_or_default();
    format!("{:x} {}", id.0, "x".repeat(padding))
}

fn digest(user: UserId, id: ClientMessageId, body: &str) -> Digest {
    Digest::new(user.0, id.0, body.as_bytes())
}

fn digest_of(message: &Message) -> Digest {
    digest(message.user, message.client_message_id.unwrap_or(ClientMessageId(0)), &message.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_differ_in_length_and_are_found_again() {
        let of = |n| body(ClientMessageId(n));
        assert_eq!(of(77), of(77));
        let lengths: std::collections::BTreeSet<_> = (1..200).map(|n| of(n).len()).collect();
        assert!(lengths.len() > 50, "{lengths:?}");
    }
}
