//! Hubs that share an engine: processes of the program, on real servers of NATS.
//!
//! `cargo xtask test` runs it as the step `cluster`; by hand it is `cargo test --test cluster`. Where there
//! is no nats-server the tests say so and end, and the step says that it was not run.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod balancer;
mod deploy;
mod faults;
mod harness;
mod talk;
