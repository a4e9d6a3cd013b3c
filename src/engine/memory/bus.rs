//! The way between the nodes in memory, and what can go wrong on it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use crate::{
    engine::bus::{Bus, CallError, Inbound, NodeId},
    limits::INBOX_MAX,
};

/// The inboxes of all nodes.
pub(super) type Inboxes = Arc<Mutex<BTreeMap<NodeId, mpsc::Sender<Inbound>>>>;

/// One node's way to the others in memory.
#[derive(Clone, Debug)]
pub struct MemoryBus {
    node: NodeId,
    inboxes: Inboxes,
    faults: Arc<Mutex<BusFaults>>,
}

/// What will go wrong with what this node tells and asks, each used up one by one.
#[derive(Debug, Default)]
pub struct BusFaults {
    /// Casts that nobody gets.
    pub lost_casts: usize,
    /// Calls that are not brought.
    pub lost_calls: usize,
    /// Calls that are brought, whose answer is not.
    pub lost_answers: usize,
}

impl MemoryBus {
    pub(super) fn new(node: NodeId, inboxes: Inboxes) -> Self {
        Self { node, inboxes, faults: Arc::default() }
    }

    /// Changes what will go wrong.
    pub fn fail(&self, change: impl FnOnce(&mut BusFaults)) {
        change(&mut unpoisoned(&self.faults));
    }

    fn inbox_of(&self, node: NodeId) -> Option<mpsc::Sender<Inbound>> {
        unpoisoned(&self.inboxes).get(&node).cloned()
    }
}

/// Whether a fault of this kind is left, which is used up by that.
fn is_due(left: &mut usize) -> bool {
    let is_due = *left > 0;
    *left -= usize::from(is_due);
    is_due
}

impl Bus for MemoryBus {
    fn node(&self) -> NodeId {
        self.node
    }

    fn cast(&self, message: Bytes) {
        if is_due(&mut unpoisoned(&self.faults).lost_casts) {
            return;
        }
        for (node, inbox) in &*unpoisoned(&self.inboxes) {
            if *node != self.node {
                let message = message.clone();
                // What a reader does not keep up with is dropped.
                let _ = inbox.try_send(Inbound { from: self.node, message, reply: None });
            }
        }
    }

    fn call(
        &self,
        to: NodeId,
        message: Bytes,
        within: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let bus = self.clone();
        Box::pin(async move {
            if is_due(&mut unpoisoned(&bus.faults).lost_calls) {
                sleep(within).await;
                return Err(CallError::NoAnswer);
            }
            let inbox = bus.inbox_of(to).ok_or(CallError::Gone)?;
            let (reply, answer) = oneshot::channel();
            let inbound = Inbound { from: bus.node, message, reply: Some(reply) };
            match inbox.try_send(inbound) {
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(CallError::Gone),
                Err(mpsc::error::TrySendError::Full(_)) | Ok(()) => {}
            }
            let is_lost = is_due(&mut unpoisoned(&bus.faults).lost_answers);
            match timeout(within, answer).await {
                Ok(Ok(answer)) if !is_lost => Ok(answer),
                _ => Err(CallError::NoAnswer),
            }
        })
    }

    fn inbox(&self) -> mpsc::Receiver<Inbound> {
        let (inbox, inbound) = mpsc::channel(INBOX_MAX);
        unpoisoned(&self.inboxes).insert(self.node, inbox);
        inbound
    }
}

/// A test that has panicked still wants to see what was said.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
