//! What the tests stand on: [`TestServer`], a server of their own; [`Peer`], a client that hides
//! nothing; [`Bystander`], who must not notice anything; [`Socket`], for bytes that no client sends.

mod bystander;
pub(crate) mod channels;
mod http;
mod peer;
mod server;
mod socket;

use std::{future::Future, time::Duration};

use tokio::{sync::oneshot, time::timeout};

pub(crate) use self::{
    bystander::Bystander,
    http::{Answer, Api, JSON, ask, get, post},
    peer::{
        Heard, Message, Peer, Refused, authenticate, code_of, history, position, publish,
        subscribe, unsubscribe,
    },
    server::{TestServer, now_s},
    socket::{BINARY, CLOSE, CONTINUATION, PING, RSV1, Socket, TEXT, bearer, handshake, masked},
};

/// The channel that every test server has.
pub(crate) const LOBBY: &str = "lobby";

/// How long anything may take. Far more than it does: who gets here has found a fault.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for what must happen.
pub(crate) async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, event).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Does what blocks, or what needs a runtime of its own, on a thread of its own.
pub(crate) async fn off_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, is_done) = oneshot::channel();
    // Whoever no longer waits has failed already.
    std::thread::spawn(move || drop(done.send(work())));
    is_done.await.expect("the work has panicked, and said so")
}
