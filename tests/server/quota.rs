//! A channel takes exactly as much as its quota says, whoever comes at once and whatever restarts.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use hubbub::wire::{code::ErrorCode, proto};

use crate::harness::{
    Peer, TestServer,
    channels::{change, open},
    code_of, publish, within,
};

const MESSAGES: usize = 10_000;
const PUBLISHERS: usize = 64;

fn with_quota(name: &str, messages_max: usize, bytes_max: u64) -> proto::CreateChannel {
    let quota = proto::Quota { messages_max: messages_max as u64, bytes_max };
    proto::CreateChannel { quota: Some(quota), ..open(name) }
}

/// Publishes under numbers until the quota is exhausted, or somebody has had that many. How many were
/// accepted.
async fn publish_some(peer: &mut Peer, from: u64, accepted: &AtomicUsize, until: usize) -> usize {
    let mut own = 0;
    for burst in 0.. {
        let ids = from + burst * 20..from + (burst + 1) * 20;
        let mut sent = Vec::new();
        for id in ids {
            sent.push(peer.send(publish("full", "x", id)).await);
        }
        let mut is_over = false;
        for id in sent {
            match peer.published(id).await {
                Ok(_) => own += 1,
                refused => {
                    assert_eq!(code_of(refused), ErrorCode::QuotaExhausted);
                    is_over = true;
                }
            }
        }
        if is_over || accepted.fetch_add(20, Ordering::Relaxed) >= until {
            break;
        }
    }
    own
}

#[tokio::test]
async fn a_quota_is_exact_whoever_publishes_at_once_and_beyond_a_restart() {
    let mut server = TestServer::start().await;
    let mut owner = Peer::login(&server, "owner").await;
    owner.create(with_quota("full", MESSAGES, 0)).await.unwrap();
    let mut accepted = 0;
    for (half, until) in [(0, MESSAGES / 2), (1, usize::MAX)] {
        let counted = Arc::new(AtomicUsize::new(0));
        let mut tasks = Vec::new();
        for number in 0..PUBLISHERS {
            let mut peer = Peer::login(&server, &format!("user{number}")).await;
            let counted = Arc::clone(&counted);
            tasks.push(tokio::spawn(async move {
                publish_some(&mut peer, half * 1_000_000 + 1, &counted, until).await
            }));
        }
        for task in tasks {
            accepted += within("a publisher", task).await.unwrap();
        }
        server.restart().await;
    }
    assert_eq!(accepted, MESSAGES);
    let mut owner = Peer::login(&server, "owner").await;
    let page = owner.history("full", None, 1).await.unwrap().1;
    assert_eq!(page.head_sequence, MESSAGES as u64);
    // More room is room for exactly that.
    let quota = proto::Quota { messages_max: MESSAGES as u64 + 1, bytes_max: 0 };
    let more = proto::UpdateChannel { quota: Some(quota), ..change("full") };
    let used = owner.update(more).await.unwrap().used.unwrap();
    assert_eq!(used.messages, MESSAGES as u64);
    owner.publish("full", "x").await.unwrap();
    assert_eq!(code_of(owner.publish("full", "x").await), ErrorCode::QuotaExhausted);
}

#[tokio::test]
async fn bytes_are_those_of_the_bodies() {
    let server = TestServer::in_memory().await;
    let mut owner = Peer::login(&server, "owner").await;
    owner.create(with_quota("full", 0, 10)).await.unwrap();
    owner.publish("full", "\u{e9}\u{e9}\u{e9}\u{e9}").await.unwrap();
    assert_eq!(code_of(owner.publish("full", "abc").await), ErrorCode::QuotaExhausted);
    owner.publish("full", "ab").await.unwrap();
    assert_eq!(code_of(owner.publish("full", "a").await), ErrorCode::QuotaExhausted);
}

#[tokio::test]
async fn a_retry_of_what_a_channel_has_is_answered_also_when_it_is_full_or_archived() {
    let mut server = TestServer::start().await;
    let mut owner = Peer::login(&server, "owner").await;
    owner.create(with_quota("full", 1, 0)).await.unwrap();
    let id = owner.send(publish("full", "x", 7)).await;
    let first = owner.published(id).await.unwrap().sequence;
    for archived in [None, Some(true)] {
        owner.update(proto::UpdateChannel { archived, ..change("full") }).await.unwrap();
        server.restart().await;
        owner = Peer::login(&server, "owner").await;
        let id = owner.send(publish("full", "x", 7)).await;
        assert_eq!(owner.published(id).await.unwrap().sequence, first);
        let id = owner.send(publish("full", "y", 7)).await;
        assert_eq!(code_of(owner.published(id).await), ErrorCode::IdempotencyConflict);
        let id = owner.send(publish("full", "x", 8)).await;
        let code =
            if archived.is_some() { ErrorCode::ChannelArchived } else { ErrorCode::QuotaExhausted };
        assert_eq!(code_of(owner.published(id).await), code);
    }
}
