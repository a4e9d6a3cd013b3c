//! What all users share: the plan, the books, the timers, the time.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{
    Plan,
    body::Bodies,
    books::Books,
    inflate::Inflater,
    returning::Returning,
    timers::{Due, Timers},
    user::witness::Witness,
};
use crate::{
    Failure,
    audit::Place,
    scenario::{
        Login,
        schedule::{Phase, Schedule},
    },
};

/// The first and the largest pause before a connection is tried again; a random part of it is taken.
const PAUSE_MIN_US: u64 = 50_000;
const PAUSE_MAX_US: u64 = 2_000_000;

/// One channel of the run.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) name: String,
    pub(crate) place: Place,
    /// As the server counts.
    pub(crate) id: u32,
}

/// All that users share.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) schedule: Schedule,
    pub(crate) books: Books,
    pub(crate) timers: Timers,
    pub(crate) channels: Vec<Channel>,
    pub(crate) witness: Witness,
    pub(crate) bodies: Bodies,
    /// Of all users.
    pub(crate) inflater: Inflater,
    /// Where a frame's two parts are put together. Of no meaning between two calls.
    pub(crate) scratch: Vec<u8>,
    pub(crate) random: SmallRng,
    /// Since the beginning of the run. Read from the clock once per turn and per socket that is read.
    pub(crate) now_us: u64,
    /// The beginning of the first stage.
    pub(crate) zero_us: Option<u64>,
    pub(crate) phase: Phase,
    /// When the server was last stopped on purpose.
    pub(crate) chaos_us: Option<u64>,
    /// Users with a subscribed connection.
    pub(crate) connected: u32,
    pub(crate) active: u32,
    /// Users whose first connection is being made.
    pub(crate) joining: u32,
    /// Users in a row who came to their end before they were in their channels.
    pub(crate) turned_away: u32,
    /// Users who are about to leave.
    pub(crate) leaving: u32,
    /// Users who were cut off.
    pub(super) returning: Returning,
    /// Publishes of all users that are not acknowledged.
    pub(crate) unacknowledged: u64,
    /// Whether there was any answer at all.
    pub(crate) has_answered: bool,
    /// Why the run cannot go on.
    pub(crate) failure: Option<Failure>,
}

impl World {
    pub(crate) fn new(plan: Plan) -> Self {
        let mut books = Books::default();
        let names = (0..plan.scenario.channels).map(|number| format!("{}-{number}", plan.run));
        let channels = names
            .map(|name| Channel { place: books.audit.channel(&name), name, id: 0 })
            .collect::<Vec<_>>();
        Self {
            schedule: Schedule::new(&plan.scenario),
            books,
            timers: Timers::default(),
            witness: Witness::default(),
            bodies: Bodies::of(plan.scenario.body, plan.scenario.body_bytes),
            inflater: Inflater::default(),
            scratch: Vec::new(),
            random: SmallRng::seed_from_u64(plan.scenario.seed),
            channels,
            plan,
            now_us: 0,
            zero_us: None,
            phase: Phase::Login,
            chaos_us: None,
            connected: 0,
            active: 0,
            joining: 0,
            turned_away: 0,
            leaving: 0,
            returning: Returning::default(),
            unacknowledged: 0,
            has_answered: false,
            failure: None,
        }
    }

    /// Sets a user's timer, this long from now.
    pub(crate) fn set_timer(&mut self, after: Duration, user: u32, due: Due, stamp: u32) {
        self.timers.set(self.now_us + us(after), user, due, stamp);
    }

    /// Ends the run. The first reason is the one that counts.
    pub(crate) fn fail(&mut self, error: anyhow::Error) {
        self.failure.get_or_insert(Failure::Aborted(error));
    }

    /// Whether a message that was due at this time is measured.
    pub(crate) fn is_measured(&self, intended_us: u64) -> bool {
        let at = self.zero_us.and_then(|zero_us| intended_us.checked_sub(zero_us));
        at.is_some_and(|at_us| self.schedule.is_measured(Duration::from_micros(at_us)))
    }

    /// Whether users log in by name and password.
    pub(crate) fn has_logins(&self) -> bool {
        self.plan.scenario.login != Login::None
    }

    /// The number of the witness, which is none of the users.
    pub(crate) fn witness_number(&self) -> u32 {
        self.plan.scenario.users
    }

    /// How long to wait before try number `tries` (from 0): what the server said, else ever longer,
    /// and always a random part, so that thousands do not come back at once.
    pub(crate) fn pause(&mut self, tries: u32, asked_for: Option<Duration>) -> Duration {
        let most_us = (PAUSE_MIN_US << tries.min(10)).min(PAUSE_MAX_US);
        let random = Duration::from_micros(self.random.random_range(0..=most_us));
        asked_for.map_or(random, |asked_for| asked_for + random)
    }

    /// A key for one frame.
    pub(crate) fn mask(&mut self) -> [u8; 4] {
        self.random.random()
    }
}

/// A duration as the timers count.
pub(crate) fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 2)
}
