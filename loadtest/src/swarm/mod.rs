//! The virtual users: one thread, one loop over all their sockets.
//!
//! Nothing is allocated for a message that is received, and a user who has nothing to read has no
//! buffer. The thread tells the conductor once a second what it saw, and at the end everything.
//!
//! Bytes come from `event_loop` (sockets, clock) through `user` (one state machine each, without
//! I/O: `frame`, `http` and `scan` read for it) into `books` (messages, latencies, audit), which all
//! users share with the `timers` in one `world`. `conduct` leads from one phase to the next. The
//! *witness* is one user more: it makes the channels, is in none of them, and reads their history.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, mpsc::SyncSender},
    thread::{self, JoinHandle},
    time::Duration,
};

pub(crate) use conduct::thread_cpu;
use event_loop::EventLoop;
pub(crate) use event_loop::{EVENTS_PER_TURN, READ_BYTES, READS_PER_TURN};
use mio::Waker;
pub(crate) use returning::Returns;
pub(crate) use storm::{PartLatencies, Stormed};
use tokio::sync::mpsc;

use crate::{
    audit::Findings,
    latency::Latency,
    outcome::Second,
    scenario::{Login, Scenario, schedule::Phase, storm::Part},
};

pub(crate) mod body;
mod books;
mod conduct;
pub(crate) mod encoding;
mod event_loop;
pub(crate) mod frame;
pub(crate) mod http;
mod inflate;
pub(crate) mod receiver;
mod returning;
pub(crate) mod scan;
pub(crate) mod socket;
mod storm;
#[cfg(test)]
mod tests;
mod timers;
mod user;
mod world;

/// Lets the virtual users loose, on a thread of their own.
///
/// The thread ends by itself after `Event::Over` or `Event::Failed`, after `Order::Abort`, and when
/// nobody takes its events any more.
///
/// # Errors
///
/// If nobody is to log in and there are no tokens, and if the system has no sockets or threads left.
pub(crate) fn spawn(plan: Plan, events: mpsc::Sender<Event>) -> anyhow::Result<Swarm> {
    anyhow::ensure!(!plan.targets.is_empty(), "there is no server");
    let has_tokens = plan.tokens.as_ref().is_some_and(|tokens| !tokens.is_empty());
    anyhow::ensure!(
        has_tokens || plan.scenario.login != Login::None,
        "nobody is to log in, and no tokens are given"
    );
    let (event_loop, (orders, waker)) = EventLoop::new(plan, events)?;
    let thread = thread::Builder::new().name("swarm".to_owned()).spawn(|| event_loop.run())?;
    Ok(Swarm { orders, waker, thread })
}

/// The thread of the virtual users.
#[derive(Debug)]
pub(crate) struct Swarm {
    orders: SyncSender<Order>,
    waker: Arc<Waker>,
    thread: JoinHandle<()>,
}

impl Swarm {
    /// Never waits. Of a thread that has ended, or that does not take its orders, nothing is expected.
    pub(crate) fn order(&self, order: Order) {
        let _ = self.orders.try_send(order);
        let _ = self.waker.wake();
    }

    /// Waits for the end of the thread. Take its events or drop their receiver before: it may be
    /// waiting for one to be taken.
    ///
    /// # Panics
    ///
    /// If the thread has.
    pub(crate) fn join(self) {
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Where the users go.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// For the `Host` head.
    pub(crate) host: String,
}

/// What the thread is to do.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) scenario: Scenario,
    /// The servers, one at least: user `n` goes to number `n % len`, and so does the witness.
    pub(crate) targets: Vec<Target>,
    /// Names of users and channels begin with it, so that runs on one server do not meet. Users:
    /// `virtual-0`, …: they are used again by the next run. Channels: `{run}-0`, …
    pub(crate) run: String,
    /// Access tokens, if nobody is to log in: user `n` takes the one at `n % len`, the witness the
    /// last.
    pub(crate) tokens: Option<Vec<String>>,
}

impl Plan {
    /// Where this user goes.
    pub(crate) fn target(&self, user: u32) -> &Target {
        &self.targets[user as usize % self.targets.len()]
    }
}

/// What the thread tells.
#[derive(Debug)]
pub(crate) enum Event {
    /// A phase has begun, at this time since the beginning of the run.
    Phase(Phase, Duration),
    /// Another second is over. Dropped, and counted, if the conductor does not keep up.
    Second(Box<Second>),
    /// All who were cut off are back.
    Returned,
    /// The users are there, and the accounts of the storm are made next.
    BeforeStorm,
    /// This part of the plateau has begun.
    Storm(Part),
    /// The run is over.
    Over(Box<Harvest>),
    /// It could not be made, or could not go on.
    Failed(crate::Failure),
}

/// What the thread is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// End now, without an audit.
    Abort,
    /// The server has been killed or stopped on purpose: failing connections are to be expected.
    ChaosBegins,
    /// Lose all connections.
    Cut,
    /// Make them again.
    Return,
}

/// All that was seen.
#[derive(Clone, Debug)]
pub(crate) struct Harvest {
    pub(crate) latencies: Latencies,
    pub(crate) totals: Totals,
    pub(crate) findings: Findings,
    pub(crate) returns: Returns,
    pub(crate) storm: Option<Box<(Stormed, PartLatencies)>>,
    /// Failed attempts and closed connections, by what was said: `login: 503`, `closed: 4008`.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) server_version: Option<String>,
}

/// From the moment at which something was due to the moment at which it was there.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    /// Connecting and upgrading, in all phases.
    pub(crate) handshake: Latency,
    /// The token endpoint, in all phases.
    pub(crate) login: Latency,
    pub(crate) subscribe: Latency,
    /// Of users who were cut off: from the connect to being in all channels again.
    pub(crate) reconnect: Latency,
    /// Of messages that were due on the plateau, like all that follow.
    pub(crate) ack: Latency,
    pub(crate) first: Latency,
    pub(crate) last: Latency,
    /// Of all readers but the slow ones, like `first` and `last`.
    pub(crate) deliver: Latency,
    /// How late the loop came to what was due.
    pub(crate) lag: Latency,
}

/// Counts of the whole run, but for those whose name says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) messages: u64,
    pub(crate) acks: u64,
    pub(crate) deliveries: u64,
    pub(crate) plateau_messages: u64,
    /// To readers who are not slow on purpose.
    pub(crate) plateau_deliveries: u64,
    pub(crate) reconnects: u64,
    /// Gaps that the server announced, whose messages are to be found in history.
    pub(crate) gaps: u64,
    /// Messages that were due while too many of the user's were unacknowledged, and were left out.
    pub(crate) unsent: u64,
    /// Messages that were sent and not acknowledged, whose latency nobody knows.
    pub(crate) unacknowledged: u64,
    /// Users who had not connected by the time at which they were to leave, or at the end.
    pub(crate) never_connected: u64,
    /// Seconds that the conductor did not take.
    pub(crate) dropped_seconds: u64,
    /// Slow readers that the server closed, which is its right.
    pub(crate) slow_closed: u64,
    /// CPU time of the thread on the plateau.
    pub(crate) plateau_cpu: Duration,
}
