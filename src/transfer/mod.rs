//! Bulk data: the log as lines.

pub mod csv;
pub mod export;
pub mod ndjson;
