//! What a run does: a scenario file and flags → one checked [`Scenario`].

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

pub(crate) mod chaos;
pub(crate) mod schedule;
pub(crate) mod threshold;

use chaos::Chaos;
use threshold::Threshold;

/// Everything that a run needs to know but which server it meets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Scenario {
    /// The file's stem, or `flags`.
    #[serde(skip_deserializing)]
    pub(crate) name: String,
    /// One sentence for people.
    pub(crate) about: String,
    /// Users at the most. Stages without targets of their own rise to it.
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
    /// The size of a message's body.
    pub(crate) body_bytes: usize,
    pub(crate) slow_readers: SlowReaders,
    pub(crate) chaos: Vec<Chaos>,
    pub(crate) thresholds: Vec<Threshold>,
    /// Loopback addresses that the connections come from: 127.0.0.1, 127.0.0.2, … Has no meaning
    /// for a server elsewhere.
    pub(crate) source_addresses: u32,
    /// Where the randomness begins.
    pub(crate) seed: u64,
    /// Settings of a server that is started for the run, as its environment variables name them:
    /// `HUBBUB__AUTH__COST__MEMORY = "8KiB"`.
    pub(crate) server: BTreeMap<String, String>,
}

impl Default for Scenario {
    /// The reference workload: everybody in one channel, each sending now and then.
    fn default() -> Self {
        let stage = |seconds, target| Stage { duration: Duration::from_secs(seconds), target };
        Self {
            name: "flags".to_owned(),
            about: String::new(),
            users: 425,
            stages: vec![stage(10, 425), stage(60, 425), stage(10, 0)],
            login: Login::First,
            logins_max: 8,
            idle: Duration::from_secs(2),
            channels: 1,
            channels_per_user: 1,
            publish: Publish::Paced { rate_per_user: 0.1 },
            publishers: None,
            body_bytes: 64,
            slow_readers: SlowReaders::default(),
            chaos: Vec::new(),
            thresholds: Vec::new(),
            source_addresses: 16,
            seed: 1,
            server: BTreeMap::new(),
        }
    }
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
    /// Connections are made as with `First`.
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
