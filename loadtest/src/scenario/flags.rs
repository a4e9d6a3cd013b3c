//! Which scenario, and what the command line says instead of it.

use std::time::Duration;

use anyhow::{Result, anyhow};

use super::{Login, Publish, Scenario, chaos::Chaos, three_stages, threshold::Threshold};
use crate::{
    Failure,
    swarm::{body::BodyKind, encoding::Encoding},
};

/// Which scenario, and what to change in it.
// A group of clap's is named after its struct, and those who flatten this one are named `Flags` too.
#[derive(clap::Args, Clone, Debug)]
#[group(id = "scenario-flags")]
pub(crate) struct Flags {
    /// A scenario that comes with the program, or the path of a TOML file. Without one: the reference
    /// workload, and no thresholds but those given.
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) scenario: Option<String>,
    #[command(flatten)]
    pub(crate) overrides: Overrides,
}

impl Flags {
    /// The scenario, changed as the flags say, and not yet checked.
    pub(crate) fn load(&self) -> Result<Scenario, Failure> {
        Scenario::load(self.scenario.as_deref(), &self.overrides)
    }
}

/// What the command line says instead of the scenario.
#[derive(clap::Args, Clone, Debug, Default)]
#[group(id = "scenario-overrides")]
pub(crate) struct Overrides {
    /// Users; the targets of the stages change in proportion.
    #[arg(long)]
    pub(crate) users: Option<u32>,
    /// Open model: each user publishes so many messages per second.
    #[arg(long, value_name = "PER_SECOND", group = "publish")]
    pub(crate) rate_per_user: Option<f64>,
    /// Open model: so many messages per second arrive in all, at random.
    #[arg(long, value_name = "PER_SECOND", group = "publish")]
    pub(crate) open_rate: Option<f64>,
    /// Closed model: each user waits for the acknowledgement, thinks so long, and publishes again.
    #[arg(long, value_name = "DURATION", group = "publish", value_parser = humantime::parse_duration)]
    pub(crate) think_time: Option<Duration>,
    /// Closed model: each user has so many publishes under way.
    #[arg(long, value_name = "PUBLISHES", group = "publish")]
    pub(crate) window: Option<u32>,
    /// Channels in all.
    #[arg(long)]
    pub(crate) channels: Option<u32>,
    /// Channels that each user is subscribed to.
    #[arg(long)]
    pub(crate) channels_per_user: Option<u32>,
    /// What the envelopes are written in, as one of the server's subprotocols.
    #[arg(long, value_enum)]
    pub(crate) encoding: Option<Encoding>,
    /// What a message's body looks like. It matters where messages are compressed.
    #[arg(long, value_name = "KIND", value_enum)]
    pub(crate) body: Option<BodyKind>,
    /// The size of a message's body.
    #[arg(long)]
    pub(crate) body_bytes: Option<usize>,
    /// Every user offers permessage-deflate, and inflates what comes. A server that is started for
    /// the run agrees to it.
    #[arg(long)]
    pub(crate) deflate: bool,
    /// How long the number of active users rises.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) ramp_up: Option<Duration>,
    /// How long it stands. This is what is measured.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) plateau: Option<Duration>,
    /// How long it falls.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) ramp_down: Option<Duration>,
    /// Between the last login and the first activity.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) idle: Option<Duration>,
    /// When users log in by password: all first, each when it becomes active, or nobody.
    #[arg(long, value_name = "WHEN", value_enum)]
    pub(crate) auth: Option<Login>,
    /// What must hold besides: `deliver.p99<100ms`. Can be given several times.
    #[arg(long, value_name = "CONDITION")]
    pub(crate) threshold: Vec<Threshold>,
    /// What is done besides, to the server or to all connections: `kill@5s`, `term*3`, `stop:2s@10s`,
    /// `drop:2s@5s`. Can be given several times.
    #[arg(long, value_name = "MISCHIEF")]
    pub(crate) chaos: Vec<Chaos>,
    /// Users who connect again at once, after chaos has dropped all connections.
    #[arg(long)]
    pub(crate) reconnects_max: Option<u32>,
    /// Where the randomness begins.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Loopback addresses that connections come from.
    #[arg(long)]
    pub(crate) source_addresses: Option<u32>,
}

impl Overrides {
    pub(super) fn apply(&self, scenario: &mut Scenario) -> Result<()> {
        if let Some(users) = self.users {
            scenario.set_users(users);
        }
        self.change_stages(scenario)?;
        let publish = [
            self.rate_per_user.map(|rate_per_user| Publish::Paced { rate_per_user }),
            self.open_rate.map(|rate| Publish::Open { rate }),
            self.think_time.map(|think_time| Publish::Closed { think_time }),
            self.window.map(|publishes| Publish::Window { publishes }),
        ];
        replace(&mut scenario.publish, publish.into_iter().flatten().next());
        replace(&mut scenario.channels, self.channels);
        replace(&mut scenario.channels_per_user, self.channels_per_user);
        replace(&mut scenario.encoding, self.encoding);
        replace(&mut scenario.body, self.body);
        replace(&mut scenario.body_bytes, self.body_bytes);
        scenario.deflate |= self.deflate;
        replace(&mut scenario.idle, self.idle);
        replace(&mut scenario.login, self.auth);
        replace(&mut scenario.reconnects_max, self.reconnects_max);
        replace(&mut scenario.seed, self.seed);
        replace(&mut scenario.source_addresses, self.source_addresses);
        scenario.thresholds.extend_from_slice(&self.threshold);
        scenario.chaos.extend_from_slice(&self.chaos);
        Ok(())
    }

    fn change_stages(&self, scenario: &mut Scenario) -> Result<()> {
        let lengths = match [self.ramp_up, self.plateau, self.ramp_down] {
            [None, None, None] => return Ok(()),
            [Some(up), Some(plateau), Some(down)] => [up, plateau, down],
            [up, plateau, down] => {
                let [its_up, its_plateau, its_down] = scenario.three_stages().ok_or_else(|| {
                    anyhow!(
                        "scenario {} has stages of another form: give all of --ramp-up, --plateau \
                         and --ramp-down to replace them, or none",
                        scenario.name
                    )
                })?;
                let plateau = plateau.unwrap_or(its_plateau);
                [up.unwrap_or(its_up), plateau, down.unwrap_or(its_down)]
            }
        };
        scenario.stages = three_stages(scenario.users, lengths);
        Ok(())
    }
}

fn replace<T>(value: &mut T, other: Option<T>) {
    if let Some(other) = other {
        *value = other;
    }
}
