//! Bulk data: lines of NDJSON into the log, and the log as lines.
//!
//! ```text
//! bytes of a body ─cut─▶ chunks ─decode─▶ blocks ─import─▶ chains of batches in the engine
//! entries of the engine ─export─▶ lines, as ndjson or csv ─▶ chunks of bytes
//! ```

pub mod csv;
pub mod cut;
pub mod decode;
pub mod export;
pub mod import;
pub mod line;
pub mod ndjson;
pub mod pending;
pub mod record;
pub mod times;
pub mod writer;
