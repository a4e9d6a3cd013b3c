//! What is done to a cluster, and how it is undone.

use std::{fmt, time::Duration};

use anyhow::Result;
use rustix::process::Signal;

use crate::server::cluster::Cluster;

/// One kind of mischief. Each is undone before the next.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// SIGKILL to the engine's server that leads the hot channel's stream, which is started again.
    KillLeader,
    /// SIGKILL to a hub, which is started again.
    KillHub,
    /// SIGSTOP to that leader, and SIGCONT.
    StopLeader,
    /// SIGSTOP to a hub, and SIGCONT.
    StopHub,
    /// That leader does not reach its peers, nor they it. The hubs reach them all.
    CutLeader,
    /// A hub does not reach the engine. Its users reach it.
    CutHub,
    /// All of the engine's servers lose their power at once.
    PowerCut,
}

impl Fault {
    /// Whether it takes namespaces.
    pub(super) const fn needs_network(self) -> bool {
        matches!(self, Self::CutLeader | Self::CutHub)
    }

    /// Whether it is done to the engine, or between it and others.
    pub(super) const fn needs_engine(self) -> bool {
        !matches!(self, Self::None | Self::KillHub | Self::StopHub)
    }

    /// Does it, leaves it so for a time, and undoes it. Answers to whom. A hub of this number is the one
    /// it is done to, if it is a hub.
    pub(super) async fn strike(
        self,
        cluster: &mut Cluster,
        hub: usize,
        hold: Duration,
    ) -> Result<String> {
        let leader = match self {
            Self::KillLeader | Self::StopLeader | Self::CutLeader => cluster.leader().await?,
            _ => 0,
        };
        let pause = || tokio::time::sleep(hold);
        match self {
            Self::None => pause().await,
            Self::KillLeader => {
                cluster.kill_engine(leader).await?;
                pause().await;
                cluster.start_engine_again(leader).await?;
            }
            Self::KillHub => {
                cluster.kill_hub(hub).await?;
                pause().await;
                cluster.start_hub(hub).await?;
            }
            Self::StopLeader => {
                cluster.signal_engine(leader, Signal::STOP).await?;
                pause().await;
                cluster.signal_engine(leader, Signal::CONT).await?;
            }
            Self::StopHub => {
                cluster.freeze_hub(hub)?;
                pause().await;
                cluster.resume_hub(hub)?;
            }
            Self::CutLeader => {
                cluster.cut_engine(leader, false)?;
                pause().await;
                cluster.cut_engine(leader, true)?;
            }
            Self::CutHub => {
                cluster.cut_hub(hub, false)?;
                pause().await;
                cluster.cut_hub(hub, true)?;
            }
            Self::PowerCut => cluster.cut_power(hold).await?,
        }
        Ok(match self {
            Self::None | Self::PowerCut => String::new(),
            Self::KillHub | Self::StopHub | Self::CutHub => format!(" of hub-{hub}"),
            Self::KillLeader | Self::StopLeader | Self::CutLeader => format!(" of nats-{leader}"),
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::None => "none",
            Self::KillLeader => "kill-leader",
            Self::KillHub => "kill-hub",
            Self::StopLeader => "stop-leader",
            Self::StopHub => "stop-hub",
            Self::CutLeader => "cut-leader",
            Self::CutHub => "cut-hub",
            Self::PowerCut => "power-cut",
        })
    }
}
