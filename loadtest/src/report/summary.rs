//! A run as lines of text, for the end of it.

use crate::outcome::Outcome;

pub(crate) fn text(_outcome: &Outcome) -> String {
    todo!()
}
