//! The server as its clients see it: a real one in this process, on a port of its own, and real
//! sockets. Nothing here knows how the server is built inside.
//!
//! A test waits for events, never for a while: [`harness::within`] is the only clock, and it runs
//! out only when something is broken. What a test needs to happen slowly it holds back with the
//! gates of the memory engine; a limit that it waits for it makes short by configuration.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod harness;

mod publish;
mod resume;

mod history;
mod idempotency;

mod members;
mod nodes;
mod presence;
mod private;
mod quota;
mod read_markers;

mod api_document;
mod channels_http;
mod messages_http;
mod migrate;
mod transfer;
mod webhooks;

mod auth;
mod ban;
mod expiry;
mod guessing;
mod limits;
mod revocation;
mod session;
mod slow_consumer;
mod timing;
mod tokens;

mod deflate;
mod drain;
mod flood;
mod json;
mod profile;
mod shards;
mod tls;
