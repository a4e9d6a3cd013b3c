//! Calls on their way to a shard.

use std::{
    pin::Pin,
    task::{Context, Waker},
};

use tokio::task::JoinHandle;

use super::*;
use crate::{
    limits::CALLS_GATHERED_MAX,
    log::{place::Epoch, settings::Access},
    wire::decode::{Page, PageFrom},
};

fn a_hub(room: usize) -> (Hub, mpsc::Receiver<ShardInput>) {
    let (inputs, mailbox) = mpsc::channel(room);
    (Hub::new(vec![inputs]), mailbox)
}

fn call(hub: &Hub) -> impl Future<Output = Reply> + use<> {
    let (name, access) = (Arc::from("lobby"), Access::Public);
    let channel = ChannelInfo { id: ChannelId(1), name, epoch: Epoch(1), access };
    let page = Page { from: PageFrom::Newest, limit: 1 };
    hub.clone().call(channel, Wanted::History(UserId(1), page))
}

fn calls(hub: &Hub, count: usize) -> Vec<JoinHandle<Reply>> {
    (0..count).map(|_| tokio::spawn(call(hub))).collect()
}

fn is_pending(call: Pin<&mut impl Future>) -> bool {
    call.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

async fn next(mailbox: &mut mpsc::Receiver<ShardInput>) -> Vec<Call> {
    match mailbox.recv().await {
        Some(ShardInput::Calls(calls)) => calls,
        other => panic!("not calls: {other:?}"),
    }
}

fn refusal(reply: &Reply) -> Option<ErrorCode> {
    match reply {
        Reply::Refused(refusal) => Some(refusal.code),
        _ => None,
    }
}

#[tokio::test]
async fn calls_that_are_ready_together_go_together() {
    let (hub, mut mailbox) = a_hub(8);
    for count in [3, 1, 5] {
        let waiting = calls(&hub, count);
        let arrived = next(&mut mailbox).await;
        assert_eq!(arrived.len(), count);
        arrived.into_iter().for_each(|call| call.refuse(ErrorCode::Busy));
        for reply in waiting {
            assert_eq!(refusal(&reply.await.unwrap()), Some(ErrorCode::Busy));
        }
    }
    assert!(mailbox.try_recv().is_err());
}

#[tokio::test]
async fn calls_go_although_who_was_first_has_gone() {
    let (hub, mut mailbox) = a_hub(8);
    let mut first = Box::pin(call(&hub));
    assert!(is_pending(first.as_mut()));
    let mut second = Box::pin(call(&hub));
    assert!(is_pending(second.as_mut()));
    assert!(mailbox.try_recv().is_err(), "they wait for who else is ready");
    drop(first);
    assert_eq!(next(&mut mailbox).await.len(), 2);
}

#[tokio::test]
async fn calls_for_which_there_is_no_room_are_refused() {
    let (hub, mut mailbox) = a_hub(1);
    let (done, _) = oneshot::channel();
    hub.mailboxes[0].inputs.try_send(ShardInput::Drain(DrainStep::Stop, done)).unwrap();
    for reply in calls(&hub, 2) {
        assert_eq!(refusal(&reply.await.unwrap()), Some(ErrorCode::Busy));
    }
    mailbox.close();
    for reply in calls(&hub, 2) {
        assert_eq!(refusal(&reply.await.unwrap()), Some(ErrorCode::Draining));
    }
}

#[tokio::test]
async fn more_calls_than_may_gather_are_refused() {
    let (hub, mut mailbox) = a_hub(1);
    let waiting = calls(&hub, CALLS_GATHERED_MAX + 1);
    assert_eq!(next(&mut mailbox).await.len(), CALLS_GATHERED_MAX);
    drop(mailbox);
    let mut codes = Vec::new();
    for reply in waiting {
        codes.push(refusal(&reply.await.unwrap()));
    }
    assert_eq!(codes.iter().filter(|code| **code == Some(ErrorCode::Busy)).count(), 1);
}
