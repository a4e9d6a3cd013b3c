//! A scenario → when each user joins and leaves, and when each message is due. Pure.
//!
//! Times count from the beginning of the first stage.

use std::{ops::Range, time::Duration};

use serde::{Deserialize, Serialize};

use super::Scenario;

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// Users log in, connect and subscribe, before anything else.
    Login,
    /// All are connected, nobody is active.
    Idle,
    /// More and more users are active.
    RampUp,
    /// The number of active users stands. This is what is measured.
    Plateau,
    /// Fewer and fewer users are active.
    RampDown,
    /// Nobody publishes; the last deliveries and acknowledgements come.
    Drain,
    /// History is read and compared.
    Audit,
}

/// When users join and leave.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    /// The stages, merged where neighbours are of the same phase.
    pub(crate) phases: Vec<(Phase, Range<Duration>)>,
}

impl Schedule {
    pub(crate) fn new(_scenario: &Scenario) -> Self {
        todo!()
    }

    /// The times in which this user is active. Several, where the stages go down and up again.
    pub(crate) fn active(&self, _user: u32) -> Vec<Range<Duration>> {
        todo!()
    }

    /// Whether a message that is due at this time counts.
    pub(crate) fn is_measured(&self, _at: Duration) -> bool {
        todo!()
    }

    /// The end of the last stage.
    pub(crate) fn end(&self) -> Duration {
        todo!()
    }
}

/// The moments at which messages are due in an open model: of one user where each has its own pace,
/// of all together where messages arrive at a rate.
#[derive(Clone, Debug)]
pub(crate) struct Pace {}

impl Pace {
    /// `None` for the closed models and where nobody publishes.
    pub(crate) fn new(_scenario: &Scenario, _user: u32, _active: Range<Duration>) -> Option<Self> {
        todo!()
    }
}

impl Iterator for Pace {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        todo!()
    }
}
