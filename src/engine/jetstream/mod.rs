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

mod api;
mod mirror;
mod nodes;
mod records;
mod settle;
mod subject;
