//! What is done to the server during the plateau: `kill@5s`, `term*3`, `stop:2s@10s`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One line of mischief.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Chaos {
    pub(crate) action: Action,
    pub(crate) when: When,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// SIGKILL, and a start on the same data.
    Kill,
    /// SIGTERM, its end awaited, and a start on the same data.
    Term,
    /// SIGSTOP, and SIGCONT after this time.
    Stop(Duration),
}

/// When, from the beginning of the plateau.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Once.
    At(Duration),
    /// So many times, spread evenly.
    Times(u32),
}

impl Chaos {
    /// The moments at which it is done, in a plateau of this length.
    pub(crate) fn moments(&self, _plateau: Duration) -> Vec<Duration> {
        todo!()
    }
}

impl TryFrom<String> for Chaos {
    type Error = String;

    fn try_from(_text: String) -> Result<Self, String> {
        todo!()
    }
}

impl From<Chaos> for String {
    fn from(_chaos: Chaos) -> Self {
        todo!()
    }
}
