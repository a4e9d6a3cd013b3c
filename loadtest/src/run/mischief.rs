//! What is done while a server is loaded: it is killed, terminated or stopped, if it is one of ours,
//! or all its connections are dropped.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
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
    /// All connections are to be cut from this side.
    Cut,
    /// They are to be made again.
    Return,
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
    mut started: Option<Started>,
    deeds: Vec<(Duration, Action)>,
    plateau_began: Instant,
    tell: mpsc::Sender<Deed>,
) -> Result<Option<Started>> {
    for (at, action) in deeds {
        tokio::time::sleep_until(plateau_began + at).await;
        let (begun, done) = match action {
            Action::Kill => ("SIGKILL", "started again"),
            Action::Term => ("SIGTERM", "started again"),
            Action::Stop(_) => ("SIGSTOP", "SIGCONT"),
            Action::Drop(away) => {
                let _ = tell.send(Deed::Cut).await;
                tokio::time::sleep(away).await;
                let _ = tell.send(Deed::Return).await;
                continue;
            }
        };
        let Some(Started { server, setup }) = started else {
            bail!("a server that is not ours cannot be stopped");
        };
        // Nobody listens any more only when the run is over.
        let _ = tell.send(Deed::Begun(begun.to_owned())).await;
        let server = if let Action::Stop(time) = action {
            server.freeze()?;
            tokio::time::sleep(time).await;
            server.resume()?;
            server
        } else {
            if action == Action::Kill {
                server.kill().await?;
            } else {
                server.terminate(DRAIN_TIMEOUT).await?;
            }
            setup.start().await.context("it does not come back")?
        };
        let pid = server.pid()?;
        started = Some(Started { server, setup });
        let _ = tell.send(Deed::Done { pid, what: done.to_owned() }).await;
    }
    Ok(started)
}
