//! What the generator itself can count: its users against a sink that only writes.

use crate::{Failure, Verdict};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {}

pub(crate) fn run(_flags: &Flags, _is_json: bool) -> Result<Verdict, Failure> {
    todo!()
}
