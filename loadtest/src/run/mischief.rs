//! What is done to a server of our own while it is loaded: killed, terminated, stopped.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::{sync::mpsc, time::Instant};

use super::site::Started;
use crate::scenario::chaos::{Action, Chaos};

/// How long a server may take to drain after SIGTERM.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// What has been done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Deed {
    /// The server is going away, or stands still.
    Begun(String),
    /// It is back, as this process.
    Done { pid: u32, what: String },
}

/// All deeds of a plateau of this length, the first first.
pub(crate) fn plan(chaos: &[Chaos], plateau: Duration) -> Vec<(Duration, Action)> {
    let mut deeds = Vec::new();
    for line in chaos {
        deeds.extend(line.moments(plateau).into_iter().map(|at| (at, line.action)));
    }
    deeds.sort_by_key(|(at, _)| *at);
    deeds
}

/// Does them one after another, and gives the server back. One that is due while the server is not
/// back from the one before waits for it.
pub(crate) async fn run(
    mut started: Started,
    deeds: Vec<(Duration, Action)>,
    plateau_began: Instant,
    tell: mpsc::Sender<Deed>,
) -> Result<Started> {
    for (at, action) in deeds {
        tokio::time::sleep_until(plateau_began + at).await;
        let (begun, done) = match action {
            Action::Kill => ("SIGKILL", "started again"),
            Action::Term => ("SIGTERM", "started again"),
            Action::Stop(_) => ("SIGSTOP", "SIGCONT"),
        };
        // Nobody listens any more only when the run is over.
        let _ = tell.send(Deed::Begun(begun.to_owned())).await;
        match action {
            Action::Stop(time) => {
                started.server.freeze()?;
                tokio::time::sleep(time).await;
                started.server.resume()?;
            }
            Action::Kill | Action::Term => {
                let Started { server, setup } = started;
                if action == Action::Kill {
                    server.kill().await?;
                } else {
                    server.terminate(DRAIN_TIMEOUT).await?;
                }
                let server = setup.start().await.context("it does not come back")?;
                started = Started { server, setup };
            }
        }
        let pid = started.server.pid()?;
        let _ = tell.send(Deed::Done { pid, what: done.to_owned() }).await;
    }
    Ok(started)
}
