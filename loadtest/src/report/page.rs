//! A run as one self-contained HTML page.

use crate::outcome::Outcome;

/// The page. It refers to nothing outside itself but the flamegraphs beside it: a title and a path.
pub(crate) fn html(_outcome: &Outcome, _flamegraphs: &[(String, String)]) -> String {
    todo!()
}
