//! What is done during the plateau, to the server (`kill@5s`, `term*3`, `stop:2s@10s`) or to all of
//! its connections (`drop@5s`).

use std::{fmt, str::FromStr, time::Duration};

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
    /// All users lose their connections at once, by no fault of the server's, and connect again after
    /// this time.
    Drop(Duration),
}

/// When, from the beginning of the plateau.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Once.
    At(Duration),
    /// So many times, spread evenly.
    Times(u32),
}

/// More would only be one long outage.
const TIMES_MAX: u32 = 1_000;

impl Chaos {
    /// The moments at which it is done, in a plateau of this length: after its beginning and before
    /// its end. A moment of its own that is later than that is none.
    pub(crate) fn moments(&self, plateau: Duration) -> Vec<Duration> {
        match self.when {
            When::At(at) => Vec::from_iter((at < plateau).then_some(at)),
            When::Times(times) => {
                let share = |n: u32| f64::from(n) / (f64::from(times) + 1.0);
                (1..=times).map(|n| plateau.mul_f64(share(n))).collect()
            }
        }
    }
}

impl Action {
    /// Whether it is done to the server, which has to be one of ours then.
    pub(crate) fn is_of_server(self) -> bool {
        !matches!(self, Self::Drop(_))
    }

    /// How long it lasts, as far as that is known before.
    pub(crate) fn lasts(self) -> Duration {
        match self {
            Self::Kill | Self::Term => Duration::ZERO,
            Self::Stop(lasts) | Self::Drop(lasts) => lasts,
        }
    }
}

impl FromStr for Chaos {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |why: String| Err(format!("chaos `{text}`: {why}"));
        let Some(begins) = text.find(['@', '*']) else {
            return refuse("say when: `kill@5s` for once, `kill*20` for twenty times".to_owned());
        };
        let (action, (sign, when)) = (&text[..begins], text[begins..].split_at(1));
        let (action, stopped) = match action.split_once(':') {
            Some((action, stopped)) => (action.trim(), Some(stopped)),
            None => (action.trim(), None),
        };
        let lasts = |text: &str| {
            let lasts = humantime::parse_duration(text.trim()).ok();
            lasts.filter(|it| !it.is_zero()).ok_or(text.to_owned())
        };
        let action = match (action, stopped.map(lasts)) {
            ("kill", None) => Action::Kill,
            ("term", None) => Action::Term,
            ("drop", None) => Action::Drop(Duration::ZERO),
            ("stop", Some(Ok(lasts))) => Action::Stop(lasts),
            ("drop", Some(Ok(lasts))) => Action::Drop(lasts),
            ("stop" | "drop", Some(Err(lasts))) => {
                return refuse(format!("`{lasts}` is no time like `2s` or `500ms`"));
            }
            ("stop", None) => return refuse("say for how long: `stop:2s@10s`".to_owned()),
            ("kill" | "term", Some(_)) => {
                return refuse(format!("`{action}` lasts as long as the start takes"));
            }
            (other, _) => return refuse(format!("`{other}` is none of kill, term, stop and drop")),
        };
        let when = match (sign, when.trim()) {
            ("@", when) => match humantime::parse_duration(when) {
                Ok(at) => When::At(at),
                Err(_) => return refuse(format!("`{when}` is no time like `2s` or `500ms`")),
            },
            (_, when) => match when.parse() {
                Ok(times) if (1..=TIMES_MAX).contains(&times) => When::Times(times),
                _ => return refuse(format!("`{when}` is no number from 1 to {TIMES_MAX}")),
            },
        };
        Ok(Self { action, when })
    }
}

impl fmt::Display for Chaos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.action {
            Action::Kill => f.write_str("kill")?,
            Action::Term => f.write_str("term")?,
            Action::Stop(stopped) => write!(f, "stop:{}", humantime::format_duration(stopped))?,
            Action::Drop(Duration::ZERO) => f.write_str("drop")?,
            Action::Drop(away) => write!(f, "drop:{}", humantime::format_duration(away))?,
        }
        match self.when {
            When::At(at) => write!(f, "@{}", humantime::format_duration(at)),
            When::Times(times) => write!(f, "*{times}"),
        }
    }
}

impl TryFrom<String> for Chaos {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Chaos> for String {
    fn from(chaos: Chaos) -> Self {
        chaos.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn every_form_is_read() {
        for (text, action, when) in [
            ("kill@5s", Action::Kill, When::At(s(5))),
            ("kill*20", Action::Kill, When::Times(20)),
            ("term @ 1m 5s", Action::Term, When::At(s(65))),
            ("term@0s", Action::Term, When::At(s(0))),
            ("stop:2s@10s", Action::Stop(s(2)), When::At(s(10))),
            ("stop:500ms * 3", Action::Stop(Duration::from_millis(500)), When::Times(3)),
            ("drop@5s", Action::Drop(Duration::ZERO), When::At(s(5))),
            ("drop:2s*2", Action::Drop(s(2)), When::Times(2)),
        ] {
            assert_eq!(text.parse(), Ok(Chaos { action, when }), "{text}");
        }
    }

    #[test]
    fn a_wrong_line_is_refused_with_the_reason() {
        for (text, why) in [
            ("kill", "say when: `kill@5s` for once, `kill*20` for twenty times"),
            ("burn@5s", "`burn` is none of kill, term, stop and drop"),
            ("stop@5s", "say for how long: `stop:2s@10s`"),
            ("stop:0s@5s", "`0s` is no time like `2s` or `500ms`"),
            ("drop:0s@5s", "`0s` is no time like `2s` or `500ms`"),
            ("kill:2s@5s", "`kill` lasts as long as the start takes"),
            ("kill@5", "`5` is no time like `2s` or `500ms`"),
            ("kill*0", "`0` is no number from 1 to 1000"),
            ("kill*1001", "`1001` is no number from 1 to 1000"),
        ] {
            assert_eq!(text.parse::<Chaos>(), Err(format!("chaos `{text}`: {why}")));
        }
    }

    #[test]
    fn many_times_are_spread_with_a_margin_at_both_ends() {
        let chaos: Chaos = "kill*3".parse().unwrap();
        assert_eq!(chaos.moments(s(40)), [s(10), s(20), s(30)]);
        let chaos: Chaos = "kill@7s".parse().unwrap();
        assert_eq!((chaos.moments(s(40)), chaos.moments(s(7))), (vec![s(7)], vec![]));
    }

    proptest! {
        #[test]
        fn a_line_survives_writing_and_reading(
            action in prop_oneof![
                Just(Action::Kill),
                Just(Action::Term),
                (1_u64..1 << 60).prop_map(|it| Action::Stop(Duration::from_nanos(it))),
                (0_u64..1 << 60).prop_map(|it| Action::Drop(Duration::from_nanos(it))),
            ],
            when in prop_oneof![
                any::<u32>().prop_map(|it| When::At(Duration::from_millis(it.into()))),
                (1..=TIMES_MAX).prop_map(When::Times),
            ],
        ) {
            let chaos = Chaos { action, when };
            let text = serde_json::to_string(&chaos).unwrap();
            prop_assert_eq!(serde_json::from_str::<Chaos>(&text).unwrap(), chaos);
        }
    }
}
