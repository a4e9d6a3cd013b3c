//! The most users that a server carries within bounds: run after run, closing in on the number.

use crate::{Failure, Verdict};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {}

pub(crate) async fn run(_flags: Flags, _is_json: bool) -> Result<Verdict, Failure> {
    todo!()
}
