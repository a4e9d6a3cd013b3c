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
//! | `accounts` | the rows of the account stores |

pub mod accounts;
mod api;
mod subject;
