//! A storm of logins while others chat: how many, of whom, and when. Pure.

use std::{fmt, ops::Range, str::FromStr, time::Duration};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// Between the measure of the capacity and the storm: what was under way is answered meanwhile.
const PAUSE: Duration = Duration::from_secs(2);
/// Far beyond what one generator sends.
const RATE_MAX: f64 = 100_000.0;
const ACCOUNTS_MAX: u32 = 10_000;
/// As many as `address` of the swarm tells apart.
const ADDRESSES_MAX: u32 = 1_000_000;
const REQUESTS_MAX: u32 = 15_000;

/// Logins in an open model: they are due at random moments at a rate of their own, whatever becomes of
/// those before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Storm {
    pub(crate) rate: Rate,
    /// The share of accounts that exist, with their right password. The others are of unknown users.
    pub(crate) valid: f64,
    /// Accounts, each with a loopback address of its own, from which it has logged in before.
    pub(crate) accounts: u32,
    /// Loopback addresses that the logins of unknown users come from.
    pub(crate) addresses: u32,
    /// Whether a connection is used again for the next login from its address.
    pub(crate) keep_alive: bool,
    /// Requests that are open at once. What is due beyond it is left out, and counted.
    pub(crate) requests_max: u32,
    /// From the beginning of the plateau: the chat alone, which the storm is compared with.
    #[serde(with = "humantime_serde")]
    pub(crate) calm: Duration,
    /// After it: how many logins a second the server does at most, while the chat goes on.
    #[serde(with = "humantime_serde")]
    pub(crate) probe: Duration,
    /// Logins that are always under way in this time.
    pub(crate) probe_requests: u32,
    /// How long the storm lasts.
    #[serde(with = "humantime_serde")]
    pub(crate) lasts: Duration,
}

impl Default for Storm {
    fn default() -> Self {
        Self {
            rate: Rate::Times(20.0),
            valid: 0.5,
            accounts: 200,
            addresses: 5_000,
            keep_alive: false,
            requests_max: 4_000,
            calm: Duration::from_secs(20),
            probe: Duration::from_secs(8),
            probe_requests: 3,
            lasts: Duration::from_secs(20),
        }
    }
}

/// How many logins are due.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum Rate {
    /// So many times what the server was measured to do: `20x`.
    Times(f64),
    /// `500/s`.
    PerSecond(f64),
}

impl Rate {
    /// Logins per second.
    pub(crate) fn of(self, capacity: f64) -> f64 {
        match self {
            Self::Times(times) => times * capacity,
            Self::PerSecond(rate) => rate,
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse().ok().filter(|it: &f64| it.is_finite());
        let times = text.strip_suffix('x').and_then(number).map(Self::Times);
        let rate = times.or_else(|| text.strip_suffix("/s").and_then(number).map(Self::PerSecond));
        rate.ok_or_else(|| format!("rate `{text}`: it is written like `20x` or `500/s`"))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Times(times) => write!(f, "{times}x"),
            Self::PerSecond(rate) => write!(f, "{rate}/s"),
        }
    }
}

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

/// The parts of a plateau with a storm, as they follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Part {
    /// The chat alone.
    Calm,
    /// The capacity is measured.
    Probe,
    /// What is under way is answered.
    Pause,
    Storm,
    /// Nothing more is sent.
    Over,
}

impl Storm {
    /// When each part begins, after the beginning of the plateau.
    pub(crate) fn parts(&self) -> [(Part, Duration); 5] {
        let storm = self.calm.saturating_add(self.probe).saturating_add(PAUSE);
        [
            (Part::Calm, Duration::ZERO),
            (Part::Probe, self.calm),
            (Part::Pause, self.calm.saturating_add(self.probe)),
            (Part::Storm, storm),
            (Part::Over, storm.saturating_add(self.lasts)),
        ]
    }

    /// From the beginning of the plateau. The last one does not end.
    pub(crate) fn span(&self, part: Part) -> Range<Duration> {
        let parts = self.parts();
        let of = |part| parts.iter().find(|(it, _)| *it == part).map(|(_, at)| *at);
        let next = parts.iter().find(|(it, _)| *it > part).map(|(_, at)| *at);
        of(part).unwrap_or_default()..next.unwrap_or(Duration::MAX)
    }

    /// Refuses what cannot be, or would measure nothing.
    pub(super) fn check(&self, plateau: Option<Range<Duration>>) -> Result<()> {
        let (Rate::Times(rate) | Rate::PerSecond(rate)) = self.rate;
        ensure!(
            rate > 0.0 && rate <= RATE_MAX,
            "a storm of {} is not within 0 and {RATE_MAX}",
            self.rate
        );
        ensure!(
            (0.0..=1.0).contains(&self.valid),
            "a share of {} valid logins is not within 0 and 1",
            self.valid
        );
        for (what, count, max) in [
            ("accounts", self.accounts, ACCOUNTS_MAX),
            ("addresses", self.addresses, ADDRESSES_MAX),
            ("requests_max", self.requests_max, REQUESTS_MAX),
            ("probe_requests", self.probe_requests, self.accounts),
        ] {
            let is_in = (1..=max).contains(&count);
            ensure!(is_in, "of a storm, {what} is from 1 to {max}, and not {count}");
        }
        for (what, time) in [("calm", self.calm), ("probe", self.probe), ("lasts", self.lasts)] {
            ensure!(!time.is_zero(), "of a storm, {what} cannot be 0s");
        }
        let plateau = plateau.map_or(Duration::ZERO, |it| it.end.saturating_sub(it.start));
        let [.., (_, over)] = self.parts();
        ensure!(
            over <= plateau,
            "calm, probe and storm last {} together, and the plateau {}",
            humantime::format_duration(over),
            humantime::format_duration(plateau)
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_multiple_of_the_capacity_or_a_number_per_second() {
        for (text, rate, of_60) in
            [("20x", Rate::Times(20.0), 1_200.0), ("0.5/s", Rate::PerSecond(0.5), 0.5)]
        {
            assert_eq!(text.parse(), Ok(rate));
            assert_eq!((rate.to_string().as_str(), rate.of(60.0)), (text, of_60));
        }
        for text in ["20", "x", "nanx", "/s", "20 per second", ""] {
            let said = format!("rate `{text}`: it is written like `20x` or `500/s`");
            assert_eq!(text.parse::<Rate>(), Err(said));
        }
    }

    #[test]
    fn what_would_measure_nothing_is_refused() {
        type Change = fn(&mut Storm);
        let s = Duration::from_secs;
        let check = |change: Change, plateau| {
            let mut storm = Storm::default();
            change(&mut storm);
            let checked = storm.check(Some(s(10)..s(10 + plateau)));
            checked.map_err(|error| error.to_string())
        };
        assert_eq!(check(|_| (), 50), Ok(()));
        let cases: [(Change, u64, &str); 7] = [
            (|_| (), 49, "calm, probe and storm last 50s together, and the plateau 49s"),
            (|it| it.rate = Rate::Times(0.0), 60, "a storm of 0x is not within 0 and 100000"),
            (|it| it.valid = 1.1, 60, "a share of 1.1 valid logins is not within 0 and 1"),
            (|it| it.accounts = 0, 60, "of a storm, accounts is from 1 to 10000, and not 0"),
            (|it| it.addresses = 0, 60, "of a storm, addresses is from 1 to 1000000, and not 0"),
            (
                |it| it.probe_requests = 201,
                60,
                "of a storm, probe_requests is from 1 to 200, and not 201",
            ),
            (|it| it.probe = Duration::ZERO, 60, "of a storm, probe cannot be 0s"),
        ];
        for (change, plateau, said) in cases {
            assert_eq!(check(change, plateau), Err(said.to_owned()));
        }
    }
}
