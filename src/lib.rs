//! hubbub: a realtime chat server whose channels are durable, ordered logs.
//!
//! The path of one message, and the order of the modules:
//!
//! ```text
//! socket bytes ─1 reader─▶ frame ─2 decode─▶ command ─3 shard─▶ draft ─4 sequence, 5 commit─▶ batch
//! socket bytes ◀─7 flush── outbox ◀─6 fan-out: one encoding, one flush per connection and turn─┘
//! ```
//!
//! Commit, then fan-out, then reply: nothing reaches a subscriber or a history reader before it is
//! durable, and an acknowledged message is never lost.

pub mod buckets;
pub mod clock;
pub mod config;
pub mod limits;
pub mod metrics;
pub mod priority;

pub mod server;

pub mod edge;

pub mod connection;
pub mod websocket;

pub mod migrate;
pub mod transfer;

pub mod wire;

pub mod hub;

pub mod auth;

pub mod engine;

pub mod log;

pub mod client;
