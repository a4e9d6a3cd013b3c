//! Many nodes: the engine on NATS JetStream.
//!
//! ```text
//! append ─▶ log ─▶ stream MSGk (R3, synced) ─▶ RePublish ─▶ feed of every node
//!                     │ what an entry says of records
//!                     ▼
//! put, append ─▶ settle ─▶ stream RECORDS ─▶ RePublish ─▶ mirror of every node (for scans)
//! ```
//!
//! | file | what |
//! |---|---|
//! | `subject` | every name that NATS sees |
//! | `api` | what JetStream is asked |
//! | `connect` | who we are to a server |
//! | `check` | whether the servers are fit |

mod api;
pub mod check;
mod connect;
mod subject;

pub use connect::CredentialsError;

/// The streams of a cluster, and how each is made.
fn streams(_prefix: &str, _count: u16, _single: bool) -> Vec<(String, serde_json::Value)> {
    Vec::new()
}
