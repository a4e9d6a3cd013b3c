//! The way between nodes: core NATS. Nothing of it is stored.
//!
//! Each node listens on a subject of its own and on one that all share. A call is a request: if nobody
//! listens, the servers say so at once.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::{Client, HeaderMap, Message, Request, Subscriber, client::RequestErrorKind};
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    future::BoxFuture,
    stream::{FuturesUnordered, select},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::timeout,
};

use super::subject::{self, Subjects};
use crate::{
    engine::bus::{Bus, CallError, Inbound, NodeId},
    limits::{NODE_CALL_TIMEOUT, NODE_CALLS_MAX, NODE_CASTS_MAX, NODE_INBOX_MAX},
};

#[cfg(test)]
mod tests;

/// This node among the others. It is heard until it is dropped.
#[derive(Debug)]
pub(super) struct Nodes {
    node: NodeId,
    client: Client,
    subjects: Subjects,
    casts: mpsc::Sender<Bytes>,
    inbox: Arc<Mutex<Option<mpsc::Sender<Inbound>>>>,
    tasks: [AbortHandle; 2],
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Nodes {
    /// Listens, so that others can call this node from now on.
    pub(super) async fn listen(client: Client, subjects: Subjects) -> Result<Self, ListenError> {
        let node = NodeId(rand::random());
        let all = client.subscribe(subjects.nodes()).await.map_err(|_| ListenError)?;
        let mut own = client.subscribe(subjects.node(node)).await.map_err(|_| ListenError)?;
        // What comes back came behind the subscriptions: the server knows of them.
        let sent = client.publish(subjects.node(node), Bytes::new()).await;
        sent.map_err(|_| ListenError)?;
        let came = timeout(NODE_CALL_TIMEOUT, own.next()).await;
        came.ok().flatten().ok_or(ListenError)?;
        let (casts, waiting) = mpsc::channel(NODE_CASTS_MAX);
        let inbox = Arc::new(Mutex::new(None));
        let hear = hear(node, client.clone(), own, all, Arc::clone(&inbox));
        let tell = tell(node, client.clone(), subjects.nodes(), waiting);
        let tasks = [tokio::spawn(hear).abort_handle(), tokio::spawn(tell).abort_handle()];
        Ok(Self { node, client, subjects, casts, inbox, tasks })
    }
}

/// The servers could not be told what this node listens to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the servers do not take this node's subscriptions")]
pub(super) struct ListenError;

impl Bus for Nodes {
    fn node(&self) -> NodeId {
        self.node
    }

    fn cast(&self, message: Bytes) {
        if self.casts.try_send(message).is_err() {
            tracing::debug!("a cast was dropped: too many wait");
        }
    }

    fn call(
        &self,
        to: NodeId,
        message: Bytes,
        within: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let request = Request::new().headers(from(self.node)).payload(message);
        let (client, subject) = (self.client.clone(), self.subjects.node(to));
        Box::pin(async move {
            // The deadline is also over the way into the connection, which may be down.
            let asked = timeout(within, client.send_request(subject, request.timeout(None))).await;
            match asked.map_err(|_| CallError::NoAnswer)? {
                Ok(answer) => Ok(answer.payload),
                Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                    Err(CallError::Gone)
                }
                Err(_) => Err(CallError::NoAnswer),
            }
        })
    }

    fn inbox(&self) -> mpsc::Receiver<Inbound> {
        let (reader, inbox) = mpsc::channel(NODE_INBOX_MAX);
        *self.inbox.lock().unwrap_or_else(PoisonError::into_inner) = Some(reader);
        inbox
    }
}

/// Hands on what comes, and sends the answers back.
async fn hear(
    node: NodeId,
    client: Client,
    own: Subscriber,
    all: Subscriber,
    inbox: Arc<Mutex<Option<mpsc::Sender<Inbound>>>>,
) {
    let mut messages = select(own, all);
    let mut calls = FuturesUnordered::new();
    loop {
        let message: Message = tokio::select! {
            Some(()) = calls.next(), if !calls.is_empty() => continue,
            message = messages.next() => match message {
                Some(message) => message,
                None => return,
            },
        };
        let Some(sender) = sender_of(&message).filter(|from| *from != node) else { continue };
        let reader = inbox.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(reader) = reader else { continue };
        let mut inbound = Inbound { from: sender, message: message.payload, reply: None };
        if let Some(to) = message.reply {
            if calls.len() == NODE_CALLS_MAX {
                continue;
            }
            let (reply, answer) = oneshot::channel();
            inbound.reply = Some(reply);
            let client = client.clone();
            calls.push(async move {
                // Who drops it without an answer leaves the caller to its own deadline.
                if let Ok(Ok(answer)) = timeout(NODE_CALL_TIMEOUT, answer).await {
                    let sent = client.publish(to, answer);
                    if !matches!(timeout(NODE_CALL_TIMEOUT, sent).await, Ok(Ok(()))) {
                        tracing::debug!("the answer to a node was not sent");
                    }
                }
            });
        }
        if reader.try_send(inbound).is_err() {
            tracing::debug!(from = %sender, "a message of a node was dropped: nobody reads it");
        }
    }
}

/// Sends the casts, one behind the other.
async fn tell(node: NodeId, client: Client, subject: String, mut casts: mpsc::Receiver<Bytes>) {
    while let Some(message) = casts.recv().await {
        let sent = client.publish_with_headers(subject.clone(), from(node), message);
        if sent.await.is_err() {
            tracing::debug!("a cast was not sent");
        }
    }
}

fn from(node: NodeId) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(subject::NODE, node.to_string());
    headers
}

fn sender_of(message: &Message) -> Option<NodeId> {
    let node = message.headers.as_ref()?.get(subject::NODE)?;
    u64::from_str_radix(node.as_str(), 16).ok().map(NodeId)
}
