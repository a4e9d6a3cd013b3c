//! A scenario as it is written: TOML → [`Scenario`]. Pure.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, anyhow, bail};
use serde::Deserialize;

use super::{
    Login, Publish, Scenario, SlowReaders, Stage, chaos::Chaos, storm::Storm, suggestion::nearest,
    threshold::Threshold,
};
use crate::swarm::{body::BodyKind, encoding::Encoding};

/// What is not written is as in [`Scenario::default`].
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    about: Option<String>,
    users: Option<u32>,
    stages: Option<Vec<FileStage>>,
    /// The short form of three stages: up to all users, on, and down to none.
    #[serde(with = "humantime_serde")]
    ramp_up: Option<Duration>,
    #[serde(with = "humantime_serde")]
    plateau: Option<Duration>,
    #[serde(with = "humantime_serde")]
    ramp_down: Option<Duration>,
    login: Option<Login>,
    logins_max: Option<u32>,
    #[serde(with = "humantime_serde")]
    idle: Option<Duration>,
    channels: Option<u32>,
    channels_per_user: Option<u32>,
    publish: Option<Publish>,
    publishers: Option<u32>,
    encoding: Option<Encoding>,
    body: Option<BodyKind>,
    body_bytes: Option<usize>,
    deflate: Option<bool>,
    slow_readers: Option<SlowReaders>,
    chaos: Option<Vec<Chaos>>,
    storm: Option<Storm>,
    reconnects_max: Option<u32>,
    thresholds: Option<Vec<Threshold>>,
    source_addresses: Option<u32>,
    seed: Option<u64>,
    server: Option<BTreeMap<String, String>>,
    hashes_metric: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileStage {
    #[serde(with = "humantime_serde")]
    duration: Duration,
    /// Absent: all users.
    target: Option<u32>,
}

/// The scenario of this name.
pub(super) fn parse(name: &str, text: &str) -> Result<Scenario> {
    let file = toml::from_str(text).map_err(|error| explain(&error, text))?;
    resolve(name, file)
}

fn resolve(name: &str, file: File) -> Result<Scenario> {
    let default = Scenario::default();
    let users = file.users.unwrap_or(default.users);
    let lengths = [file.ramp_up, file.plateau, file.ramp_down];
    let stages = match file.stages {
        Some(_) if lengths.iter().any(Option::is_some) => {
            bail!("either `stages` or `ramp_up`, `plateau` and `ramp_down`, not both")
        }
        Some(stages) => {
            let stages = stages.into_iter();
            let target = |it: Option<u32>| it.unwrap_or(users);
            stages.map(|it| Stage { duration: it.duration, target: target(it.target) }).collect()
        }
        None => {
            let ours = default.three_stages().expect("the default has these stages");
            let [up, plateau, down] = [0, 1, 2].map(|it| lengths[it].unwrap_or(ours[it]));
            super::three_stages(users, [up, plateau, down])
        }
    };
    Ok(Scenario {
        name: name.to_owned(),
        about: file.about.unwrap_or(default.about),
        users,
        stages,
        login: file.login.unwrap_or(default.login),
        logins_max: file.logins_max.unwrap_or(default.logins_max),
        idle: file.idle.unwrap_or(default.idle),
        channels: file.channels.unwrap_or(default.channels),
        channels_per_user: file.channels_per_user.unwrap_or(default.channels_per_user),
        publish: file.publish.unwrap_or(default.publish),
        publishers: file.publishers.or(default.publishers),
        encoding: file.encoding.unwrap_or(default.encoding),
        body: file.body.unwrap_or(default.body),
        body_bytes: file.body_bytes.unwrap_or(default.body_bytes),
        deflate: file.deflate.unwrap_or(default.deflate),
        slow_readers: file.slow_readers.unwrap_or(default.slow_readers),
        chaos: file.chaos.unwrap_or(default.chaos),
        storm: file.storm.or(default.storm),
        reconnects_max: file.reconnects_max.unwrap_or(default.reconnects_max),
        thresholds: file.thresholds.unwrap_or(default.thresholds),
        source_addresses: file.source_addresses.unwrap_or(default.source_addresses),
        seed: file.seed.unwrap_or(default.seed),
        server: file.server.unwrap_or(default.server),
        hashes_metric: file.hashes_metric.unwrap_or(default.hashes_metric),
    })
}

/// What is wrong, and in which line.
fn explain(error: &toml::de::Error, text: &str) -> anyhow::Error {
    let mut what = error.message().trim().to_owned();
    if what.starts_with("unknown field") {
        // Serde names the key first, and then those it knows, all in backticks.
        let mut named = what.split('`').skip(1).step_by(2);
        let unknown = named.next().unwrap_or_default();
        let meant = nearest(unknown, named);
        let meant = meant.map(|it| format!(": did you mean `{it}`?")).unwrap_or_default();
        what = format!("unknown key `{unknown}`{meant}");
    }
    let Some(span) = error.span() else { return anyhow!(what) };
    let before = &text[..span.start];
    let line = before.matches('\n').count();
    let written = text.lines().nth(line).unwrap_or_default().trim();
    anyhow!("line {}, `{written}`: {what}", line + 1)
}
