//! A scenario → when each user joins and leaves, and when each message is due. Pure.
//!
//! Times count from the beginning of the first stage. The same scenario and seed give the same
//! times, always.

use std::{ops::Range, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use serde::{Deserialize, Serialize};

use super::{Publish, Scenario};

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

impl Phase {
    /// Whether what is due in it counts: plateaus do, and where a run has none, all its stages.
    pub(crate) fn is_measured(self, has_plateau: bool) -> bool {
        match self {
            Self::Plateau => true,
            Self::RampUp | Self::RampDown => !has_plateau,
            Self::Login | Self::Idle | Self::Drain | Self::Audit => false,
        }
    }
}

/// When users join and leave: in order, user 0 first, and out in the opposite order.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    /// The stages, merged where neighbours are of the same phase. Stages without length are in
    /// none. A number that stands at 0 is `Idle` and no plateau.
    pub(crate) phases: Vec<(Phase, Range<Duration>)>,
    moves: Vec<Move>,
}

/// One stage: the number of active users goes from one to another.
#[derive(Clone, Copy, Debug)]
struct Move {
    begins: Duration,
    lasts: Duration,
    from: u32,
    to: u32,
}

impl Schedule {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let mut schedule = Self { phases: Vec::new(), moves: Vec::new() };
        let (mut begins, mut from) = (Duration::ZERO, 0);
        for stage in &scenario.stages {
            let (lasts, to) = (stage.duration, stage.target);
            schedule.moves.push(Move { begins, lasts, from, to });
            let phase = match from.cmp(&to) {
                std::cmp::Ordering::Less => Phase::RampUp,
                std::cmp::Ordering::Greater => Phase::RampDown,
                std::cmp::Ordering::Equal if to == 0 => Phase::Idle,
                std::cmp::Ordering::Equal => Phase::Plateau,
            };
            let ends = begins.saturating_add(lasts);
            match schedule.phases.last_mut() {
                _ if lasts.is_zero() => {}
                Some((last, span)) if *last == phase => span.end = ends,
                _ => schedule.phases.push((phase, begins..ends)),
            }
            (begins, from) = (ends, to);
        }
        schedule
    }

    /// The times in which this user is active. Several, where the stages go down and up again.
    pub(crate) fn active(&self, user: u32) -> Vec<Range<Duration>> {
        let mut ranges: Vec<Range<Duration>> = Vec::new();
        let mut joined = None;
        for it in &self.moves {
            if it.from <= user && user < it.to {
                let joins = it.moment(user - it.from);
                // Somebody who left at this very moment has not left.
                let stays = ranges.pop_if(|last| last.end == joins);
                joined = Some(stays.map_or(joins, |last| last.start));
            } else if it.to <= user && user < it.from {
                let leaves = it.moment(it.from - user);
                ranges.extend(joined.take().map(|joins| joins..leaves));
                ranges.pop_if(|last| last.is_empty());
            }
        }
        ranges.extend(joined.map(|joins| joins..self.end()));
        ranges.pop_if(|last| last.is_empty());
        ranges
    }

    /// How many users are active, the first ones: what `active` must agree with.
    #[cfg(test)]
    pub(crate) fn active_at(&self, at: Duration) -> u32 {
        let next = self.moves.partition_point(|it| it.begins <= at);
        let Some(it) = next.checked_sub(1).map(|last| &self.moves[last]) else { return 0 };
        if at >= it.begins + it.lasts {
            return 0;
        }
        let moved = it.moments_until(at);
        if it.from <= it.to { it.from + moved } else { it.from - moved }
    }

    /// Whether a message that is due at this time counts. Where no number ever stands, all count.
    pub(crate) fn is_measured(&self, at: Duration) -> bool {
        !self.has_plateau() || self.plateaus().any(|span| span.contains(&at))
    }

    pub(crate) fn has_plateau(&self) -> bool {
        self.plateaus().next().is_some()
    }

    /// What is measured.
    pub(crate) fn plateaus(&self) -> impl Iterator<Item = &Range<Duration>> {
        self.phases.iter().filter(|(phase, _)| *phase == Phase::Plateau).map(|(_, span)| span)
    }

    /// The end of the last stage.
    pub(crate) fn end(&self) -> Duration {
        self.moves.last().map_or(Duration::ZERO, |it| it.begins.saturating_add(it.lasts))
    }
}

impl Move {
    /// How far it moves, up or down.
    fn users(&self) -> u32 {
        self.from.abs_diff(self.to)
    }

    /// When the number has moved by so many. Not asked where it does not move.
    fn moment(&self, moved: u32) -> Duration {
        self.begins + nanos(self.lasts.as_nanos() * u128::from(moved) / u128::from(self.users()))
    }

    /// The moments that are over, the one at `at` too: the opposite of `moment`. Going up, the
    /// first user joins at once; going down, the last one leaves at the end.
    #[cfg(test)]
    fn moments_until(&self, at: Duration) -> u32 {
        let users = u128::from(self.users());
        let over = ((at - self.begins).as_nanos() + 1) * users;
        let moments = over.div_ceil(self.lasts.as_nanos());
        let moments = if self.from < self.to { moments } else { moments.saturating_sub(1) };
        u32::try_from(moments.min(users)).expect("not more than the users, who are a u32")
    }
}

fn nanos(nanos: u128) -> Duration {
    // A scenario lasts a few days at the most; 2^64 ns are 584 years.
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The moments at which messages are due in an open model: of one user where each has its own pace,
/// of all together where messages arrive at a rate.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    random: SmallRng,
    rhythm: Rhythm,
    ends: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Rhythm {
    /// A message per turn, a little late by chance, so that equal periods do not beat together.
    Turns {
        /// Of turn 0, in nanoseconds.
        first: f64,
        /// In nanoseconds.
        period: f64,
        /// The next one. Times are made from its number, so that no error adds up.
        turn: u64,
    },
    /// A Poisson process.
    Arrivals {
        /// The last one, in nanoseconds.
        last: f64,
        /// The mean from one to the next, in nanoseconds.
        gap: f64,
    },
}

/// The fraction of the golden ratio: its multiples fill the time from 0 to 1 ever more densely.
const GOLDEN: f64 = 0.618_033_988_749_894_9;
/// Of the period: how late a message may be by chance.
const JITTER: f64 = 0.1;
const SECOND_NS: f64 = 1e9;

impl Pace {
    /// `None` for the closed models, where nobody publishes, and for a user who does not.
    ///
    /// Where messages arrive at a rate, the whole schedule is one range, and the user plays no part.
    pub(crate) fn new(scenario: &Scenario, user: u32, active: Range<Duration>) -> Option<Self> {
        let publishers = scenario.publishers.unwrap_or(scenario.users);
        let begins = nanoseconds(active.start);
        let rhythm = match scenario.publish {
            Publish::Nothing | Publish::Closed { .. } | Publish::Window { .. } => return None,
            Publish::Paced { .. } if user >= publishers => return None,
            Publish::Paced { rate_per_user } => {
                let period = SECOND_NS / rate_per_user;
                // Any number of the first users has its turns spread evenly, since users come and
                // go in this order.
                let first = period * (f64::from(user) * GOLDEN).fract();
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a negative number of turns is 0, and a checked rate makes few enough"
                )]
                let turn = ((begins - first) / period).ceil() as u64;
                Rhythm::Turns { first, period, turn }
            }
            Publish::Open { rate } => Rhythm::Arrivals { last: begins, gap: SECOND_NS / rate },
        };
        // Neighbours in users are strangers in randomness: the golden ratio scatters their seeds.
        let seed = scenario.seed ^ u64::from(user).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Some(Self { random: SmallRng::seed_from_u64(seed), rhythm, ends: active.end })
    }
}

impl Iterator for Pace {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let chance = self.random.random::<f64>();
        let due = match &mut self.rhythm {
            Rhythm::Turns { first, period, turn } => {
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52 turns")]
                let turns = *turn as f64;
                *turn += 1;
                *first + *period * (turns + JITTER * chance)
            }
            Rhythm::Arrivals { last, gap } => {
                // `chance` may be 0 but never 1, so that the logarithm is finite.
                *last -= *gap * (1.0 - chance).ln();
                *last
            }
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and what is too much is after the end"
        )]
        let due = Duration::from_nanos(due as u64);
        (due < self.ends).then_some(due)
    }
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * SECOND_NS
}

#[cfg(test)]
mod tests;
