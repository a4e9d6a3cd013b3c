//! The course of a run: one phase after the other, and what is due to the run as a whole.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc::error::TrySendError;

use super::{
    Event,
    books::Moment,
    event_loop::EventLoop,
    timers::{Due, RUN, Timer, patience},
    user::{Stage, User},
    world::{World, us},
};
use crate::{
    Failure,
    audit::Findings,
    scenario::{
        Login, Publish, Scenario,
        schedule::{Pace, Phase},
    },
};

/// How long the last acknowledgements and leavers are waited for.
const DRAIN_PATIENCE: Duration = patience(30);
/// How long the last deliveries are waited for, when history is read.
const DELIVERY_PATIENCE: Duration = patience(30);
/// How long making the accounts of a storm may take.
const ACCOUNTS_PATIENCE: Duration = Duration::from_secs(900);
/// How long reading all of history may take.
const HISTORY_PATIENCE: Duration = Duration::from_secs(900);
/// How long the witness may get no answer with which it gets on.
const WITNESS_PATIENCE: Duration = patience(60);
/// How often history is read on, because something came while it was read.
const READINGS_MAX: u32 = 3;
/// Between two looks at whether everybody has everything.
const CHECK_PAUSE: Duration = Duration::from_millis(50);
const SECOND_US: u64 = 1_000_000;
/// The stamp of the phase timer that says that the last stage is over.
const THE_END: u32 = u32::MAX;

/// How far the run is.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    /// The witness logs in and makes the channels.
    Witness,
    /// Users log in, the next one to do so being this one.
    Login(u32),
    /// The accounts of a storm are made; until then at most.
    Storm(u64),
    /// All are there, and nothing happens until then.
    Idle(u64),
    /// The stages, up to this time.
    Stages(u64),
    /// Nobody publishes; until then at most.
    Drain(u64),
    /// History is read; until then at most.
    History(u64),
    /// History is read up to these heads; deliveries are waited for until then at most.
    Delivery(Vec<u64>, u64),
    /// All is known.
    Over,
}

/// Where the run is, and what belongs to it as a whole.
#[derive(Debug)]
pub(super) struct Course {
    part: Part,
    /// Where messages arrive at a rate: their moments, and who may publish the next one.
    arrivals: Option<Pace>,
    publishers: Vec<u32>,
    next_publisher: usize,
    /// CPU time of the thread at the end of the last second, and at the beginning of the plateau.
    cpu: Duration,
    plateau_began_cpu: Option<Duration>,
    is_unheard: bool,
    /// How often history was read to its end.
    readings: u32,
}

impl Course {
    pub(super) fn new() -> Self {
        Self {
            part: Part::Witness,
            arrivals: None,
            publishers: Vec::new(),
            next_publisher: 0,
            cpu: Duration::ZERO,
            plateau_began_cpu: None,
            is_unheard: false,
            readings: 0,
        }
    }
}

impl EventLoop {
    pub(super) fn begin(&mut self) {
        self.course.cpu = thread_cpu();
        self.enter(Phase::Login);
        self.world.timers.set(SECOND_US, RUN, Due::Second, 0);
        let witness = self.world.witness_number();
        self.users[witness as usize].join(None, &mut self.world);
        self.touch(witness);
    }

    pub(super) fn is_over(&self) -> bool {
        self.course.part == Part::Over || self.course.is_unheard || self.world.failure.is_some()
    }

    /// Tells how the run ended.
    pub(super) fn finish(mut self) {
        if let Some(failure) = self.world.failure.take() {
            let findings = self.world.books.audit.findings();
            return self.tell(Event::Failed(with_findings(failure, &findings)));
        }
        let moment = self.moment();
        self.world.books.end_second(moment);
        let stormed = self.end_storm();
        let books = std::mem::take(&mut self.world.books);
        self.tell(Event::Over(Box::new(books.harvest(self.world.returning.counts, stormed))));
    }

    pub(super) fn tell(&mut self, event: Event) {
        // Nobody listens any more: the conductor has ended, and so does this thread.
        self.course.is_unheard |= self.events.blocking_send(event).is_err();
    }

    fn enter(&mut self, phase: Phase) {
        let cpu = thread_cpu();
        if let Some(began) = self.course.plateau_began_cpu.take() {
            self.world.books.totals.plateau_cpu += cpu.saturating_sub(began);
        }
        if phase.is_measured(self.world.schedule.has_plateau()) {
            self.course.plateau_began_cpu = Some(cpu);
        }
        self.world.phase = phase;
        self.tell(Event::Phase(phase, Duration::from_micros(self.world.now_us)));
    }

    /// Goes from one part to the next, as long as one is over.
    pub(super) fn go_on(&mut self) {
        loop {
            let before = std::mem::discriminant(&self.course.part);
            self.go_on_once();
            if before == std::mem::discriminant(&self.course.part) {
                return;
            }
        }
    }

    fn go_on_once(&mut self) {
        let now_us = self.world.now_us;
        match self.course.part {
            Part::Witness => {
                let witness = &self.users[self.world.witness_number() as usize];
                let channels = self.world.channels.len();
                if witness.stage == Stage::Ready && self.world.witness.has_made(channels) {
                    match self.world.plan.scenario.login {
                        Login::During => self.begin_stages(now_us),
                        Login::First | Login::None => self.course.part = Part::Login(0),
                    }
                } else if self.witness_is_stuck() {
                    self.world.fail(anyhow::anyhow!(
                        "the server is there, but made no channel for {} s",
                        WITNESS_PATIENCE.as_secs()
                    ));
                }
            }
            Part::Login(next) => self.log_in_more(next),
            Part::Storm(until_us) => {
                if self.is_prepared_for_storm() {
                    self.begin_idling();
                } else if now_us >= until_us {
                    self.world
                        .fail(anyhow::anyhow!("the storm's accounts were not made in 15 minutes"));
                }
            }
            Part::Idle(until_us) if now_us >= until_us => self.begin_stages(until_us),
            Part::Stages(until_us) if now_us >= until_us => {
                self.enter(Phase::Drain);
                self.read_slow_ones();
                self.course.part = Part::Drain(self.patience(DRAIN_PATIENCE));
            }
            Part::Drain(until_us) => {
                let is_done = self.world.unacknowledged == 0 && self.world.leaving == 0;
                if is_done || now_us >= until_us {
                    self.begin_audit();
                }
            }
            Part::History(until_us) => {
                if let Some(heads) = self.world.witness.heads() {
                    self.course.part = Part::Delivery(heads, self.patience(DELIVERY_PATIENCE));
                    self.check();
                } else if now_us >= until_us {
                    self.world.fail(anyhow::anyhow!("history could not be read in 15 minutes"));
                } else if self.witness_is_stuck() {
                    self.world.fail(anyhow::anyhow!(
                        "the server is there, but answered nothing of history for {} s",
                        WITNESS_PATIENCE.as_secs()
                    ));
                }
            }
            Part::Idle(_) | Part::Stages(_) | Part::Delivery(..) | Part::Over => {}
        }
    }

    /// The loop comes here at least once a second.
    fn witness_is_stuck(&self) -> bool {
        let World { witness, now_us, .. } = &self.world;
        witness.moved_us.is_some_and(|it| now_us.saturating_sub(it) > us(WITNESS_PATIENCE))
    }

    /// A time limit, with a timer that wakes the loop then.
    fn patience(&mut self, patience: Duration) -> u64 {
        let until_us = self.world.now_us + us(patience);
        self.world.timers.set(until_us, RUN, Due::Phase, THE_END);
        until_us
    }

    fn log_in_more(&mut self, mut next: u32) {
        let scenario = &self.world.plan.scenario;
        let (users, logins_max) = (scenario.users, scenario.logins_max.max(1));
        if self.world.turned_away >= logins_max {
            // A server that lets in no more is not asked thousands of times, a minute each.
            next = users;
        }
        while self.world.joining < logins_max && next < users {
            self.users[next as usize].join(None, &mut self.world);
            self.touch(next);
            next += 1;
        }
        self.course.part = Part::Login(next);
        if next == users && self.world.joining == 0 {
            if self.storm.is_some() {
                self.tell(Event::BeforeStorm);
            }
            self.course.part = Part::Storm(self.patience(ACCOUNTS_PATIENCE));
        }
    }

    fn begin_idling(&mut self) {
        let idle = self.world.plan.scenario.idle;
        self.enter(Phase::Idle);
        self.course.part = Part::Idle(self.patience(idle));
    }

    /// The first stage begins. All that is due by the schedule gets its timer.
    fn begin_stages(&mut self, zero_us: u64) {
        self.world.zero_us = Some(zero_us);
        let (schedule, scenario) = (&self.world.schedule, &self.world.plan.scenario);
        let timers = &mut self.world.timers;
        for user in 0..scenario.users {
            let ranges = schedule.active(user);
            let leaves =
                ranges.last().is_some_and(|last| leaves(scenario, last.end, schedule.end()));
            for (stamp, range) in (0..).zip(&ranges) {
                let is_last = stamp + 1 == ranges.len() as u32;
                timers.set(zero_us + us(range.start), user, Due::Join, stamp);
                let leaves = u32::from(leaves && is_last);
                timers.set(zero_us + us(range.end), user, Due::Leave, leaves);
            }
        }
        for (stamp, (_, range)) in (0..).zip(&schedule.phases) {
            timers.set(zero_us + us(range.start), RUN, Due::Phase, stamp);
        }
        let plateau_us = schedule.plateaus().next().map(|span| zero_us + us(span.start));
        let end_us = zero_us + us(schedule.end());
        timers.set(end_us, RUN, Due::Phase, THE_END);
        if matches!(scenario.publish, Publish::Open { .. }) {
            self.course.arrivals = Pace::new(scenario, 0, Duration::ZERO..schedule.end());
        }
        plateau_us.into_iter().for_each(|plateau_us| self.schedule_storm(plateau_us));
        self.course.part = Part::Stages(end_us);
        self.set_arrival();
    }

    fn set_arrival(&mut self) {
        let next = self.course.arrivals.as_mut().and_then(Iterator::next);
        if let (Some(next), Some(zero_us)) = (next, self.world.zero_us) {
            self.world.timers.set(zero_us + us(next), RUN, Due::Arrival, 0);
        }
    }

    pub(super) fn timer_of_run(&mut self, timer: Timer) {
        match timer.due {
            Due::Second => self.second(timer),
            Due::Arrival => {
                self.arrival(timer.at_us);
                self.set_arrival();
            }
            Due::Phase if timer.stamp != THE_END => {
                let phase = self.world.schedule.phases.get(timer.stamp as usize);
                if let Some(&(phase, _)) = phase {
                    self.enter(phase);
                }
            }
            Due::Storm => self.timer_of_storm(timer),
            Due::Account => self.make_account(timer.stamp),
            Due::Check => self.check(),
            _ => {}
        }
    }

    fn second(&mut self, timer: Timer) {
        let next_us = timer.at_us + SECOND_US;
        self.world.timers.set(next_us.max(self.world.now_us), RUN, Due::Second, 0);
        self.end_slow_slots();
        let cpu = thread_cpu();
        let moment = Moment { cpu: cpu.saturating_sub(self.course.cpu), ..self.moment() };
        self.course.cpu = cpu;
        let second = Box::new(self.world.books.end_second(moment));
        match self.events.try_send(Event::Second(second)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.world.books.totals.dropped_seconds += 1,
            Err(TrySendError::Closed(_)) => self.course.is_unheard = true,
        }
    }

    fn moment(&self) -> Moment {
        Moment {
            at_us: self.world.now_us,
            connected: self.world.connected,
            active: self.world.active,
            cpu: Duration::ZERO,
        }
    }

    /// A user became active, or is active no longer.
    pub(super) fn activity_changed(&mut self, user: u32) {
        if !matches!(self.world.plan.scenario.publish, Publish::Open { .. }) {
            return;
        }
        let publishers = &mut self.course.publishers;
        let place = publishers.iter().position(|it| *it == user);
        match (self.users[user as usize].publishes(&self.world), place) {
            (true, None) => publishers.push(user),
            (false, Some(place)) => {
                publishers.swap_remove(place);
            }
            _ => {}
        }
    }

    /// A message arrives from anywhere: the next connected user publishes it. When none is, it waits
    /// with the next one, because the server's absence is a part of its latency.
    fn arrival(&mut self, intended_us: u64) {
        let Course { publishers, next_publisher, .. } = &mut self.course;
        let count = publishers.len();
        let user = |step: usize| &self.users[publishers[(*next_publisher + step) % count] as usize];
        let connected = (0..count).find(|step| user(*step).stage == Stage::Ready);
        let waiting = || (0..count).find(|step| user(*step).takes_messages(&self.world));
        let Some(step) = connected.or_else(waiting) else {
            self.world.books.totals.unsent += 1;
            return;
        };
        let user = user(step).number;
        *next_publisher = (*next_publisher + step + 1) % count;
        self.users[user as usize].publish(intended_us, &mut self.world);
        self.touch(user);
    }

    fn begin_audit(&mut self) {
        for _ in 0..self.world.unacknowledged {
            self.world.books.error("publish: not acknowledged in 30 s");
        }
        self.enter(Phase::Audit);
        self.world.books.audit.begin_history();
        self.read_history();
    }

    fn read_history(&mut self) {
        self.course.readings += 1;
        self.world.witness.begin(self.world.channels.len());
        self.world.witness.moved_us = Some(self.world.now_us);
        let witness = self.world.witness_number();
        self.users[witness as usize].inquire(&mut self.world);
        self.touch(witness);
        self.course.part = Part::History(self.patience(HISTORY_PATIENCE));
    }

    /// Looks whether everybody has everything.
    fn check(&mut self) {
        let Part::Delivery(heads, until_us) = &self.course.part else { return };
        let audit = &mut self.world.books.audit;
        let ends = || self.world.channels.iter().map(|it| it.place).zip(heads.iter().copied());
        let is_complete = ends().all(|(place, head)| audit.is_complete(place, head));
        let everybody_is_there = !self.users.iter().any(User::is_away);
        if is_complete && everybody_is_there || self.world.now_us >= *until_us {
            let is_overtaken = ends().any(|(place, head)| audit.is_overtaken(place, head));
            if is_overtaken && self.course.readings < READINGS_MAX {
                audit.go_on_with_history();
                return self.read_history();
            }
            for (place, head) in ends() {
                audit.end_delivery(place, head);
            }
            let witness = self.world.witness_number() as usize;
            for user in &mut self.users[..witness] {
                user.judge_outstanding(&mut self.world);
                user.judge_absence(&mut self.world);
            }
            self.course.part = Part::Over;
        } else {
            self.world.set_timer(CHECK_PAUSE, RUN, Due::Check, 0);
        }
    }
}

/// Whether a user whose last activity ends then leaves its channels too: in a scenario that goes
/// down at its end, and unless it is one of those who stay.
fn leaves(scenario: &Scenario, ends: Duration, end: Duration) -> bool {
    let mut targets = scenario.stages.iter().rev().map(|stage| stage.target);
    let (last, before) = (targets.next().unwrap_or(0), targets.next().unwrap_or(0));
    last < before && (last == 0 || ends < end)
}

/// A run that breaks off has no outcome. What its audit had found by then is told nevertheless.
fn with_findings(failure: Failure, findings: &Findings) -> Failure {
    let (Failure::Aborted(why), Some(first)) = (&failure, findings.evidence.first()) else {
        return failure;
    };
    let count = findings.violations;
    Failure::Aborted(anyhow::anyhow!(
        "{why:#}; the audit had found {count} violations before, the first: {first}"
    ))
}

/// CPU time that this thread has used.
pub(crate) fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("a thread's time is positive")
}
