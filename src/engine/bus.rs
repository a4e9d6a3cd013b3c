//! The way between nodes: messages that are never durable, each at most once.

use std::{fmt, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// A node of a cluster. Drawn at random when its process starts, so a node that starts again is another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One node's way to the others.
pub trait Bus: fmt::Debug + Send + Sync + 'static {
    /// This node.
    fn node(&self) -> NodeId;

    /// Tells all other nodes, without waiting. It may get lost.
    fn cast(&self, message: Bytes);

    /// Asks one node, and waits for its answer at most so long.
    fn call(
        &self,
        to: NodeId,
        message: Bytes,
        within: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CallError>>;

    /// What other nodes tell and ask this one, from now on. Has one reader: the last who asked for it.
    /// What the reader does not keep up with is dropped.
    fn inbox(&self) -> mpsc::Receiver<Inbound>;
}

/// A message of another node.
#[derive(Debug)]
pub struct Inbound {
    /// Whose.
    pub from: NodeId,
    /// What it says.
    pub message: Bytes,
    /// Where the answer goes, if it waits for one.
    pub reply: Option<oneshot::Sender<Bytes>>,
}

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum CallError {
    /// The node is not there: it has not got the message.
    #[error("the node is not there")]
    Gone,
    /// Whether the node has got the message is not known.
    #[error("the node did not answer in time")]
    NoAnswer,
}
