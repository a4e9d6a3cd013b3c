//! Rounds → medians and ratios. Pure.

use serde::{Deserialize, Serialize};

use super::measure::{Carried, Rested};
use crate::spread::Spread;

/// More than this of a core, in percent, that is neither idle nor the server's nor the generator's
/// disturbed the round. Interrupts are in it: at a million deliveries a second they take 9 alone.
pub(super) const FOREIGN_PERCENT_MAX: f64 = 15.0;

/// What is measured.
#[derive(
    clap::ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub(super) enum Work {
    /// Open loop at the rate of the reference.
    Paced,
    /// Open loop at a million deliveries a second.
    Million,
    /// Closed loop.
    Saturation,
    /// Connections that have nothing to do.
    Idle,
    /// The most users who publish 0.1 messages a second each.
    Capacity,
}

/// One contender in one round of one work.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Round {
    pub(super) work: Work,
    pub(super) round: u32,
    pub(super) contender: String,
    #[serde(flatten)]
    pub(super) came: Came,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Came {
    Carried(Carried),
    Rested(Rested),
    /// The most users within the bound, and p99 with them.
    Reached {
        users: u32,
        too_many: Option<u32>,
        p99_ms: f64,
    },
    /// Nothing, because of this.
    Failed(String),
}

/// All rounds of one contender in one work.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Summary {
    pub(super) work: Work,
    pub(super) contender: String,
    pub(super) rounds: usize,
    /// How many of them nobody disturbed. If it is at least half, the figures are of these only.
    pub(super) quiet: usize,
    /// How many the figures are of.
    pub(super) counted: usize,
    pub(super) overloaded: usize,
    pub(super) lost: u64,
    pub(super) faults: u64,
    pub(super) failures: Vec<String>,
    pub(super) figures: Option<Medians>,
    /// Of the first figure of the work, round by round, to that of the floor.
    pub(super) to_floor: Option<Spread>,
    /// The same to that of uWebSockets.
    pub(super) to_uws: Option<Spread>,
    /// Of p99 to that of uWebSockets.
    pub(super) p99_to_uws: Option<Spread>,
}

#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Medians {
    Carried {
        cpu_us_per_delivery: Spread,
        bytes_per_delivery: Spread,
        deliveries_per_s: Spread,
        p50_ms: Spread,
        p90_ms: Spread,
        p95_ms: Spread,
        p99_ms: Spread,
        max_ms: Spread,
        server_percent: Spread,
        generator_percent: Spread,
        foreign_percent: Spread,
    },
    Rested {
        bytes_per_connection: Spread,
        connects_per_s: Spread,
        server_percent: Spread,
        foreign_percent: Spread,
    },
    Reached {
        users: Spread,
        p99_ms: Spread,
    },
}

impl Work {
    pub(super) const NAMES: [&str; 5] = ["paced", "million", "saturation", "idle", "capacity"];

    pub(super) fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The floor that others are held against: where messages come in bursts, the least is to send
    /// them in one.
    pub(super) fn floor(self) -> &'static str {
        if self == Self::Paced { "floor-direct" } else { "floor-batched" }
    }
}

impl Came {
    fn foreign_percent(&self) -> f64 {
        match self {
            Self::Carried(it) => it.foreign_percent,
            Self::Rested(it) => it.foreign_percent,
            Self::Reached { .. } | Self::Failed(_) => 0.0,
        }
    }

    /// The figure that the work is about.
    fn first(&self, work: Work) -> Option<f64> {
        match self {
            Self::Carried(it) if work == Work::Saturation => Some(it.deliveries_per_s),
            Self::Carried(it) if !it.is_overloaded => Some(it.cpu_us_per_delivery),
            Self::Rested(it) => Some(it.bytes_per_connection),
            Self::Reached { users, .. } => Some(f64::from(*users)),
            Self::Carried(_) | Self::Failed(_) => None,
        }
    }

    fn p99_ms(&self) -> Option<f64> {
        match self {
            Self::Carried(it) if !it.is_overloaded => Some(it.latency_ms[3]),
            _ => None,
        }
    }
}

impl Round {
    pub(super) fn is_quiet(&self) -> bool {
        self.came.foreign_percent() <= FOREIGN_PERCENT_MAX
    }
}

/// One summary for each contender and work, in the order in which they come first.
pub(super) fn summarise(rounds: &[Round]) -> Vec<Summary> {
    let mut keys: Vec<(Work, &str)> = Vec::new();
    for it in rounds {
        let key = (it.work, it.contender.as_str());
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys.into_iter().map(|(work, contender)| Summary::of(rounds, work, contender)).collect()
}

impl Summary {
    fn of(all: &[Round], work: Work, contender: &str) -> Self {
        let is_ours = |it: &&Round| it.work == work && it.contender == contender;
        let ours: Vec<_> = all.iter().filter(is_ours).collect();
        let quiet = ours.iter().filter(|it| it.is_quiet()).count();
        let takes_all = quiet * 2 < ours.len();
        let counted: Vec<_> =
            ours.iter().copied().filter(|it| takes_all || it.is_quiet()).collect();
        let carried: Vec<_> = counted.iter().filter_map(|it| it.carried()).collect();
        let failure = |it: &&Round| match &it.came {
            Came::Failed(why) => Some(why.clone()),
            _ => None,
        };
        Self {
            work,
            contender: contender.to_owned(),
            rounds: ours.len(),
            quiet,
            counted: counted.len(),
            overloaded: carried.iter().filter(|it| it.is_overloaded).count(),
            lost: wrong(&ours, |it| if it.is_overloaded { 0 } else { it.lost }),
            faults: wrong(&ours, |it| it.faults),
            failures: ours.iter().filter_map(failure).collect(),
            figures: medians(&counted),
            to_floor: ratios(all, &counted, work.floor(), Came::first),
            to_uws: ratios(all, &counted, "uws", Came::first),
            p99_to_uws: ratios(all, &counted, "uws", |came, _| came.p99_ms()),
        }
    }

    /// Whether it was overloaded more often than not: then its other figures say nothing.
    pub(super) fn cannot_keep_up(&self) -> bool {
        self.overloaded * 2 > self.counted
    }

    /// Whether everybody got everything.
    pub(super) fn is_right(&self) -> bool {
        self.lost == 0 && self.faults == 0 && self.failures.is_empty()
    }
}

impl Round {
    fn carried(&self) -> Option<&Carried> {
        if let Came::Carried(carried) = &self.came { Some(carried) } else { None }
    }
}

fn wrong(rounds: &[&Round], what: impl Fn(&Carried) -> u64) -> u64 {
    rounds.iter().filter_map(|it| it.carried()).map(what).sum()
}

fn medians(rounds: &[&Round]) -> Option<Medians> {
    let carried: Vec<_> = rounds.iter().filter_map(|it| it.carried()).collect();
    if !carried.is_empty() {
        let of = |what: fn(&Carried) -> f64| Spread::of(carried.iter().map(|it| what(it)));
        return Some(Medians::Carried {
            cpu_us_per_delivery: of(|it| it.cpu_us_per_delivery)?,
            bytes_per_delivery: of(|it| it.bytes_per_delivery)?,
            deliveries_per_s: of(|it| it.deliveries_per_s)?,
            p50_ms: of(|it| it.latency_ms[0])?,
            p90_ms: of(|it| it.latency_ms[1])?,
            p95_ms: of(|it| it.latency_ms[2])?,
            p99_ms: of(|it| it.latency_ms[3])?,
            max_ms: of(|it| it.latency_ms[4])?,
            server_percent: of(|it| it.server_percent)?,
            generator_percent: of(|it| it.generator_percent)?,
            foreign_percent: of(|it| it.foreign_percent)?,
        });
    }
    let rested = rounds.iter().filter_map(|it| match &it.came {
        Came::Rested(rested) => Some(rested),
        _ => None,
    });
    let rested: Vec<_> = rested.collect();
    if !rested.is_empty() {
        let of = |what: fn(&Rested) -> f64| Spread::of(rested.iter().map(|it| what(it)));
        return Some(Medians::Rested {
            bytes_per_connection: of(|it| it.bytes_per_connection)?,
            connects_per_s: of(|it| it.connects_per_s)?,
            server_percent: of(|it| it.server_percent)?,
            foreign_percent: of(|it| it.foreign_percent)?,
        });
    }
    let reached = rounds.iter().filter_map(|it| match it.came {
        Came::Reached { users, p99_ms, .. } => Some((f64::from(users), p99_ms)),
        _ => None,
    });
    let reached: Vec<_> = reached.collect();
    let users = Spread::of(reached.iter().map(|it| it.0))?;
    let p99_ms = Spread::of(reached.iter().map(|it| it.1))?;
    Some(Medians::Reached { users, p99_ms })
}

/// Of a figure to that of another contender in the same round: what slowed the machine for a while
/// slowed both.
fn ratios(
    all: &[Round],
    ours: &[&Round],
    other: &str,
    figure: impl Fn(&Came, Work) -> Option<f64>,
) -> Option<Spread> {
    let both = |ours: &&Round| {
        let is_beside =
            |it: &&Round| it.work == ours.work && it.contender == other && it.round == ours.round;
        let beside = all.iter().find(is_beside).and_then(|it| figure(&it.came, ours.work));
        (figure(&ours.came, ours.work), beside)
    };
    Spread::of_ratios(ours.iter().map(both))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(cpu_us: f64, foreign_percent: f64) -> Carried {
        Carried {
            deliveries_per_s: 18_000.0,
            cpu_us_per_delivery: cpu_us,
            threads_us_per_delivery: [("main".to_owned(), cpu_us)].into(),
            bytes_per_delivery: 98.0,
            latency_ms: [1.0, 2.0, 3.0, 4.0, 5.0],
            server_percent: 5.0,
            generator_percent: 6.0,
            foreign_percent,
            is_overloaded: false,
            lost: 0,
            faults: 0,
            evidence: Vec::new(),
        }
    }

    fn round(round: u32, contender: &str, came: Came) -> Round {
        Round { work: Work::Paced, round, contender: contender.to_owned(), came }
    }

    fn cpu(summary: &Summary) -> Spread {
        match summary.figures {
            Some(Medians::Carried { cpu_us_per_delivery, .. }) => cpu_us_per_delivery,
            ref other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ratios_are_made_round_by_round() {
        let mut rounds = Vec::new();
        // The machine is three times as slow in the second round, for both.
        for (number, factor) in [(1, 1.0), (2, 3.0), (3, 1.0)] {
            let floor = Came::Carried(carried(2.0 * factor, 0.0));
            let ours = Came::Carried(carried(2.2 * factor, 0.0));
            rounds.push(round(number, "floor-direct", floor));
            rounds.push(round(number, "hubbub", ours));
        }
        let [floor, hubbub] = summarise(&rounds).try_into().unwrap();
        let to_floor = hubbub.to_floor.unwrap();
        for ratio in [to_floor.median, to_floor.least, to_floor.most] {
            assert!((ratio - 1.1).abs() < 1e-9, "{to_floor:?}");
        }
        assert_eq!((hubbub.p99_to_uws, hubbub.to_uws), (None, None));
        assert_eq!((hubbub.to_uws, floor.to_floor.map(|it| it.most)), (None, Some(1.0)));
        assert!((cpu(&hubbub).most - 6.6).abs() < 1e-9);
    }

    #[test]
    fn the_last_percentile_is_held_against_uws() {
        let slow = Carried { latency_ms: [1.0, 2.0, 3.0, 6.0, 9.0], ..carried(2.0, 0.0) };
        let uws = Came::Carried(carried(1.0, 0.0));
        let rounds = [round(1, "uws", uws), round(1, "hubbub", Came::Carried(slow))];
        let [_, hubbub] = summarise(&rounds).try_into().unwrap();
        assert_eq!(hubbub.p99_to_uws.map(|it| it.median), Some(1.5));
        assert_eq!(hubbub.to_uws.map(|it| it.median), Some(2.0));
    }

    #[test]
    fn disturbed_rounds_do_not_count_unless_most_are() {
        let of = |foreign: [f64; 3]| {
            let round = |(number, (cpu, foreign))| {
                round(number, "hubbub", Came::Carried(carried(cpu, foreign)))
            };
            let rounds = (1..).zip([2.0, 3.0, 9.0].into_iter().zip(foreign)).map(round);
            summarise(&rounds.collect::<Vec<_>>()).remove(0)
        };
        let quiet = of([0.0, 1.0, 50.0]);
        assert!((quiet.quiet, cpu(&quiet).median) == (2, 2.5), "{quiet:?}");
        let loud = of([0.0, 50.0, 50.0]);
        assert!((loud.quiet, cpu(&loud).median) == (1, 3.0), "{loud:?}");
    }

    #[test]
    fn what_is_lost_in_any_round_is_told_and_what_is_late_is_not() {
        let lost = Carried { lost: 3, ..carried(2.0, 50.0) };
        let late = Carried { lost: 1_000, is_overloaded: true, ..carried(2.0, 0.0) };
        let rounds = [
            round(1, "hubbub", Came::Carried(carried(2.0, 0.0))),
            round(2, "hubbub", Came::Carried(lost)),
            round(1, "ws", Came::Carried(late)),
            round(1, "nats", Came::Failed("it ended".to_owned())),
        ];
        let [hubbub, ws, nats] = summarise(&rounds).try_into().unwrap();
        assert_eq!((hubbub.lost, hubbub.is_right()), (3, false));
        assert_eq!((ws.lost, ws.overloaded, ws.is_right()), (0, 1, true));
        assert!(!nats.is_right() && nats.figures.is_none());
    }
}
