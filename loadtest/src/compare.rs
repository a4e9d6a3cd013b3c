//! Two runs side by side, with a verdict for each figure.

use crate::{Failure, Verdict};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {}

pub(crate) fn run(_flags: &Flags, _is_json: bool) -> Result<Verdict, Failure> {
    todo!()
}
