//! One run: a server, its virtual users, what both used, and what came of it.
//!
//! The conductor. It starts the server, lets the swarm loose on it, samples the server once a
//! second, does the mischief, and makes one [`Outcome`](crate::outcome::Outcome) of all they saw.

use crate::{Failure, Verdict};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {}

pub(crate) async fn run(_flags: Flags, _is_json: bool) -> Result<Verdict, Failure> {
    todo!()
}
