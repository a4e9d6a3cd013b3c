//! Whether a scenario can be run at all, here. Each refusal is one sentence for the operator.

use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Login, Publish, Scenario, chaos::Chaos, schedule::Schedule};
use crate::Failure;

/// What one process makes within the ports of a few addresses and the memory of a small machine.
const USERS_MAX: u32 = 19_000;
const LENGTH_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Messages per second. Far beyond any server, and within what times in nanoseconds tell apart.
const RATE_MAX: f64 = 1e6;
const BODY_BYTES_MAX: usize = 32 * 1024;
/// As many as a server lets a connection subscribe to.
const CHANNELS_PER_USER_MAX: u32 = 1_000;
const WINDOW_MAX: u32 = 256;
const SOURCE_ADDRESSES_MAX: u32 = 250;
/// Files that are open besides the connections: output, the witness, the server's pipes, /proc.
const OTHER_FILES: u32 = 64;

impl Scenario {
    /// Refuses what cannot be run. Raises the number of files that this process may open, if it has
    /// to.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let checked = self.check_users().and_then(|()| self.check_stages());
        let checked = checked.and_then(|()| self.check_messages());
        let checked = checked
            .and_then(|()| allow_open_files(self.users + self.files_of_storm() + OTHER_FILES));
        let named = checked.map_err(|error| error.context(format!("scenario {}", self.name)));
        named.map_err(Failure::Configuration)
    }

    /// Open requests, and connections that wait for the next one.
    fn files_of_storm(&self) -> u32 {
        self.storm.as_ref().map_or(0, |storm| {
            let waiting = if storm.keep_alive { storm.accounts + storm.addresses } else { 0 };
            storm.requests_max.saturating_add(waiting)
        })
    }

    fn check_users(&self) -> Result<()> {
        let users = self.users;
        ensure!(users >= 1, "there must be at least one user");
        ensure!(users <= USERS_MAX, "{users} users are more than one process makes: {USERS_MAX}");
        let slow = self.slow_readers.users;
        ensure!(slow < users, "of {users} users, {slow} cannot be slow readers: one must be quick");
        let publishers = self.publishers.unwrap_or(users);
        ensure!(publishers <= users, "{publishers} publishers are more than the {users} users");
        ensure!(
            publishers >= 1,
            "0 publishers are written as `publish = {{ model = \"nothing\" }}`"
        );
        ensure!(self.logins_max >= 1, "logins_max is 0, and nobody could ever log in");
        ensure!(self.reconnects_max >= 1, "reconnects_max is 0, and nobody could ever come back");
        let addresses = self.source_addresses;
        ensure!(
            (1..=SOURCE_ADDRESSES_MAX).contains(&addresses),
            "there can be 1 to {SOURCE_ADDRESSES_MAX} source addresses, and not {addresses}"
        );
        Ok(())
    }

    fn check_stages(&self) -> Result<()> {
        let users = self.users;
        ensure!(!self.stages.is_empty(), "there are no stages");
        if let Some(over) = self.stages.iter().find(|stage| stage.target > users) {
            bail!("a stage has a target of {}, and there are {users} users", over.target);
        }
        let whole = self.stages.iter().map(|stage| stage.duration);
        let whole = whole.fold(self.idle, Duration::saturating_add);
        ensure!(
            whole <= LENGTH_MAX,
            "it would last {}, and 7 days are the most",
            humantime::format_duration(Duration::from_secs(whole.as_secs()))
        );
        ensure!(!whole.saturating_sub(self.idle).is_zero(), "all stages together last 0 s");
        let schedule = Schedule::new(self);
        if let Some(storm) = &self.storm {
            ensure!(
                self.login != Login::During,
                "a storm and users who log in on the plateau cannot be told apart: `login` is \
                 `first` or `none`"
            );
            storm.check(schedule.plateaus().next().cloned())?;
        }
        if self.chaos.is_empty() {
            return Ok(());
        }
        let plateau = schedule.plateaus().next();
        let Some(plateau) = plateau.map(|span| span.end - span.start) else {
            bail!("chaos happens on a plateau, and the stages have none");
        };
        if let Some(late) = self.chaos.iter().find(|it| it.moments(plateau).is_empty()) {
            let plateau = humantime::format_duration(plateau);
            bail!("chaos `{late}` comes after the plateau, which lasts {plateau}");
        }
        let is_back_late = |it: &&Chaos| {
            let is_late = |at: Duration| at.saturating_add(it.action.lasts()) > plateau;
            !it.action.is_of_server() && it.moments(plateau).into_iter().any(is_late)
        };
        if let Some(late) = self.chaos.iter().find(is_back_late) {
            bail!("of chaos `{late}` nobody would be back before the plateau ends");
        }
        Ok(())
    }

    fn check_messages(&self) -> Result<()> {
        match self.publish {
            Publish::Paced { rate_per_user: rate } | Publish::Open { rate } => ensure!(
                rate > 0.0 && rate <= RATE_MAX,
                "a rate of {rate} messages per second is not within 0 and {RATE_MAX}"
            ),
            Publish::Window { publishes } => ensure!(
                (1..=WINDOW_MAX).contains(&publishes),
                "a window holds 1 to {WINDOW_MAX} publishes, and not {publishes}"
            ),
            Publish::Nothing | Publish::Closed { .. } => {}
        }
        let bytes = self.body_bytes;
        ensure!(bytes <= BODY_BYTES_MAX, "a body of {bytes} bytes is above {BODY_BYTES_MAX}");
        let (channels, each) = (self.channels, self.channels_per_user);
        ensure!(channels >= 1, "there must be at least one channel");
        ensure!(each >= 1, "each user must be subscribed to at least one channel");
        ensure!(each <= channels, "{each} channels per user are more than the {channels} channels");
        ensure!(
            each <= CHANNELS_PER_USER_MAX,
            "{each} channels per user are above {CHANNELS_PER_USER_MAX}"
        );
        Ok(())
    }
}

/// Raises the soft limit, if it is too low and the hard one is not.
pub(super) fn allow_open_files(needed: u32) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let suffices = |limit: Option<u64>| limit.is_none_or(|limit| limit >= u64::from(needed));
    if suffices(limit.current) {
        return Ok(());
    }
    let raised = Rlimit { current: limit.maximum, ..limit };
    if suffices(limit.maximum) && setrlimit(Resource::Nofile, raised).is_ok() {
        return Ok(());
    }
    let current = limit.current.unwrap_or_default();
    Err(anyhow!(
        "it needs {needed} open files, and {current} are allowed: raise it with `ulimit -n {needed}`"
    ))
}
