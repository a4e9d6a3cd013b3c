//! What a channel is: a log of batches, numbered 1, 2, 3, … without a gap. Pure.

pub mod batch;
pub mod place;
pub mod settings;
pub mod tail;
