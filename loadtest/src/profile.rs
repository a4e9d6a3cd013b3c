//! Flamegraphs of the server, one per phase, asked for on its internal port.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Result;

/// Asks the server to sample itself for this long, and answers with folded stacks: a line per stack,
/// frames joined by `;`, the outermost first, a space, and the number of samples.
pub(crate) async fn sample(_internal: SocketAddr, _time: Duration) -> Result<String> {
    todo!()
}

/// Draws the folded stacks as an SVG flamegraph; beside a baseline, as the difference from it.
pub(crate) fn draw(_title: &str, _stacks: &str, _baseline: Option<&str>, _to: &Path) -> Result<()> {
    todo!()
}
