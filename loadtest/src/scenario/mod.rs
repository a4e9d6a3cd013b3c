//! What a run does: a scenario file and flags → one checked [`Scenario`].

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};

use crate::{
    Failure,
    server::CHEAP_LOGINS,
    swarm::{body::BodyKind, encoding::Encoding},
};

pub(crate) mod chaos;
mod check;
pub(crate) mod figure;
mod file;
mod flags;
pub(crate) mod schedule;
pub(crate) mod storm;
mod suggestion;
pub(crate) mod threshold;

use chaos::Chaos;
pub(crate) use flags::{Flags, Overrides};
use storm::Storm;
use threshold::Threshold;

/// Everything that a run needs to know but which server it meets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Scenario {
    /// The file's stem.
    pub(crate) name: String,
    /// One sentence for people.
    pub(crate) about: String,
    /// Users at the most.
    pub(crate) users: u32,
    /// How the number of active users moves over time: linearly to each target in turn.
    pub(crate) stages: Vec<Stage>,
    /// When users log in.
    pub(crate) login: Login,
    /// Logins under way at once, where they come first.
    pub(crate) logins_max: u32,
    /// Between the last login and the first stage, where logins come first.
    #[serde(with = "humantime_serde")]
    pub(crate) idle: Duration,
    pub(crate) channels: u32,
    /// Channels that each user is subscribed to. It publishes into them in turn.
    pub(crate) channels_per_user: u32,
    pub(crate) publish: Publish,
    /// Users who publish, the first ones. Absent: all.
    pub(crate) publishers: Option<u32>,
    /// What the envelopes are written in.
    pub(crate) encoding: Encoding,
    /// What a message's body looks like.
    pub(crate) body: BodyKind,
    /// The size of a message's body.
    pub(crate) body_bytes: usize,
    /// Whether every user offers permessage-deflate, and does without a server that declines it.
    pub(crate) deflate: bool,
    pub(crate) slow_readers: SlowReaders,
    pub(crate) chaos: Vec<Chaos>,
    /// Logins while the others chat.
    pub(crate) storm: Option<Storm>,
    /// Users who connect again at once, after chaos has dropped all connections.
    pub(crate) reconnects_max: u32,
    pub(crate) thresholds: Vec<Threshold>,
    /// Loopback addresses that the connections come from: 127.0.0.1, 127.0.0.2, … Has no meaning
    /// for a server elsewhere.
    pub(crate) source_addresses: u32,
    /// Where the randomness begins.
    pub(crate) seed: u64,
    /// Settings of a server that is started for the run, as its environment variables name them:
    /// `HUBBUB__AUTH__COST__MEMORY = "8KiB"`.
    pub(crate) server: BTreeMap<String, String>,
    /// What the server counts for each password that it hashes, as its metrics name it, without
    /// `hubbub_` and `_total`.
    pub(crate) hashes_metric: String,
}

impl Default for Scenario {
    /// The reference workload: everybody in one channel, each sending now and then.
    fn default() -> Self {
        Self {
            name: "unnamed".to_owned(),
            about: String::new(),
            users: 425,
            stages: three_stages(425, [10, 60, 10].map(Duration::from_secs)),
            login: Login::First,
            logins_max: 8,
            idle: Duration::from_secs(2),
            channels: 1,
            channels_per_user: 1,
            publish: Publish::Paced { rate_per_user: 0.1 },
            publishers: None,
            encoding: Encoding::Proto,
            body: BodyKind::Filler,
            body_bytes: 64,
            deflate: false,
            slow_readers: SlowReaders::default(),
            chaos: Vec::new(),
            storm: None,
            reconnects_max: 500,
            thresholds: Vec::new(),
            source_addresses: 16,
            seed: 1,
            server: BTreeMap::new(),
            hashes_metric: "auth_hashes".to_owned(),
        }
    }
}

/// Those that come with the program: a name, and the file.
const SHIPPED: [(&str, &str); 12] = [
    ("reference-250", include_str!("../../scenarios/reference-250.toml")),
    ("reference-425", include_str!("../../scenarios/reference-425.toml")),
    ("auth-storm", include_str!("../../scenarios/auth-storm.toml")),
    ("login-rush", include_str!("../../scenarios/login-rush.toml")),
    ("connect-storm", include_str!("../../scenarios/connect-storm.toml")),
    ("reconnect-storm", include_str!("../../scenarios/reconnect-storm.toml")),
    ("reconnect-10k", include_str!("../../scenarios/reconnect-10k.toml")),
    ("slow-readers", include_str!("../../scenarios/slow-readers.toml")),
    ("many-channels", include_str!("../../scenarios/many-channels.toml")),
    ("soak", include_str!("../../scenarios/soak.toml")),
    ("saturate", include_str!("../../scenarios/saturate.toml")),
    ("idle", include_str!("../../scenarios/idle.toml")),
];

impl Scenario {
    /// The names of the scenarios that come with the program.
    pub(crate) fn shipped() -> impl Iterator<Item = &'static str> {
        SHIPPED.iter().map(|(name, _)| *name)
    }

    /// A shipped scenario, the one in a file, or the default, with what the flags say instead. What it says as a
    /// whole is for [`check`](Self::check) to judge, so that one can still change it.
    pub(crate) fn load(name_or_path: Option<&str>, overrides: &Overrides) -> Result<Self, Failure> {
        let named = |name: &str| match SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
            Some((name, text)) => file::parse(name, text).context(format!("scenario {name}")),
            None => Self::read(Path::new(name)),
        };
        let scenario = name_or_path.map_or_else(|| Ok(Self::of_flags()), named);
        let mut scenario = scenario.map_err(Failure::Configuration)?;
        overrides.apply(&mut scenario).map_err(Failure::Configuration)?;
        Ok(scenario)
    }

    /// What the flags change when they name no scenario.
    fn of_flags() -> Self {
        Self {
            name: "flags".to_owned(),
            about: "Everybody is in one channel, and publishes now and then.".to_owned(),
            // Logging in is not what is measured.
            server: CHEAP_LOGINS.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..Self::default()
        }
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        if !path.exists() {
            let names: Vec<_> = Self::shipped().collect();
            let meant = suggestion::nearest(&shown.to_string(), names.iter().copied());
            let meant = meant.map(|it| format!("did you mean `{it}`? ")).unwrap_or_default();
            let names = names.join(", ");
            return Err(anyhow!(
                "there is no scenario and no file `{shown}`: {meant}The scenarios are {names}"
            ));
        }
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("the scenario {shown} cannot be read"))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        file::parse(&stem, &text).context(shown.to_string())
    }

    /// Changes the number of users, and the stages in proportion.
    pub(crate) fn set_users(&mut self, users: u32) {
        for stage in &mut self.stages {
            let target = u64::from(stage.target) * u64::from(users);
            let target = target.div_ceil(u64::from(self.users.max(1)));
            stage.target = u32::try_from(target).unwrap_or(u32::MAX);
        }
        self.users = users;
    }

    /// The lengths of ramp-up, plateau and ramp-down, if these are the stages.
    fn three_stages(&self) -> Option<[Duration; 3]> {
        let [up, plateau, down] = self.stages.as_slice() else { return None };
        let targets = [up.target, plateau.target, down.target];
        (targets == [self.users, self.users, 0]).then_some([
            up.duration,
            plateau.duration,
            down.duration,
        ])
    }
}

/// A ramp-up, a plateau and a ramp-down of these lengths.
fn three_stages(users: u32, [up, plateau, down]: [Duration; 3]) -> Vec<Stage> {
    let stage = |duration, target| Stage { duration, target };
    vec![stage(up, users), stage(plateau, users), stage(down, 0)]
}

/// Part of a run in which the number of active users moves linearly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stage {
    #[serde(with = "humantime_serde")]
    pub(crate) duration: Duration,
    /// Active users at its end.
    pub(crate) target: u32,
}

/// When users log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Login {
    /// All log in, connect and subscribe, then sit idle, before the first stage begins.
    First,
    /// Each logs in, connects and subscribes when it becomes active.
    During,
    /// Nobody logs in by password: tokens are given, or signed with the key of a started server.
    /// Connections are made as with `first`.
    None,
}

/// When an active user publishes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "model", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Publish {
    /// Nobody publishes.
    Nothing,
    /// Open model: each user at a pace of its own, whether or not the server keeps up.
    Paced {
        /// Messages per second of one user.
        rate_per_user: f64,
    },
    /// Open model: messages arrive at a rate of their own (a Poisson process), whoever is active.
    Open {
        /// Messages per second of all users together.
        rate: f64,
    },
    /// Closed model: a user publishes, waits for the acknowledgement, thinks, and begins again.
    Closed {
        /// From an acknowledgement to the next publish.
        #[serde(with = "humantime_serde")]
        think_time: Duration,
    },
    /// Closed model: each user always has this many publishes that are not acknowledged.
    Window {
        /// How many.
        publishes: u32,
    },
}

/// Users who do not read as fast as they are sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SlowReaders {
    /// How many of the users, the last ones.
    pub(crate) users: u32,
    /// How much each of them reads. 0: nothing.
    pub(crate) bytes_per_second: u32,
}

#[cfg(test)]
mod tests;
