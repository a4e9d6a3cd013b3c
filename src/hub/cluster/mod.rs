//! What nodes of a cluster know of one another.

pub mod presence;
