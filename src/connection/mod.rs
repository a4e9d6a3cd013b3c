//! The life of a connection on its shard.

pub mod login;
