//! The load generator as an operator and a script meet it: the built program, its exit codes, its
//! JSON and its refusals. Servers are real ones; between the two there is at times a proxy that
//! breaks, on purpose, what a server must hold.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod harness;
mod proxy;

mod bulk;
mod chaos;
mod cluster;
mod defects;
mod deflate;
mod many_runs;
mod peers;
mod refusals;
mod stall;
mod storm;
