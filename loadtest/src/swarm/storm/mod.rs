//! A storm of logins while the users chat, from the same thread and loop.
//!
//! First its accounts are made, and each logs in once from its own address. Then, on the plateau: the
//! chat alone; a few logins that are always under way, which say how many a second the server does;
//! and the storm, an open model at a multiple of that. This file has the state and what an answer
//! leads to, `sockets` the connections, `login` the requests.

use std::{collections::VecDeque, ops::Range, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{
    Event,
    conduct::thread_cpu,
    event_loop::EventLoop,
    http::Response,
    timers::{Due, RUN, Timer},
    world::us,
};
use crate::{
    latency::Latency,
    scenario::storm::{Part, Storm},
};

mod login;
mod sockets;

use login::{Answer, Purpose, Request, Who};
use sockets::Slots;

/// Accounts that are made at once.
const PREPARING_MAX: u32 = 4;
/// Requests that may break while the accounts are made, before that is the end.
const PREPARING_BROKEN_MAX: u32 = 20;
/// Before a login that measures the capacity is tried again after a refusal: a refusal costs the
/// server nothing that is measured.
const PROBE_PAUSE: Duration = Duration::from_millis(100);
/// Until a login must be answered.
const PATIENCE: Duration = Duration::from_secs(10);

/// Of a timer for the next login.
const ARRIVAL: u32 = u32::MAX;
/// Of a timer for one more login that measures the capacity.
const PROBE_AGAIN: u32 = u32::MAX - 1;

/// All of the storm.
#[derive(Debug)]
pub(super) struct Tempest {
    plan: Storm,
    slots: Slots,
    /// `None` before the plateau.
    part: Option<Part>,
    /// Accounts to be made, and those that are there and have logged in.
    to_make: VecDeque<u32>,
    made: u32,
    making: u32,
    broken: u32,
    next_account: u32,
    began_us: u64,
    /// When the next login is due, and the mean time between two.
    next_us: f64,
    gap_us: f64,
    random: SmallRng,
    stormed: Stormed,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Stormed {
    /// Logins per second that the server did while nothing else logged in.
    pub(crate) capacity: f64,
    /// How long the storm lasted.
    pub(crate) time: Duration,
    /// CPU time of the thread meanwhile.
    pub(crate) cpu: Duration,
    /// Logins that were due in it.
    pub(crate) offered: u64,
    /// Of these, those that were left out, because too many were open.
    pub(crate) unsent: u64,
    /// Valid logins that were answered with a token before the storm was over.
    pub(crate) valid: u64,
    /// Unknown users who were told so.
    pub(crate) denied: u64,
    /// Answers 429 and 503.
    pub(crate) refused: [u64; 2],
    /// Answers that mean something else.
    pub(crate) others: u64,
    /// Connections that broke, or that nothing came from in time.
    pub(crate) unanswered: u64,
    /// Tokens for nobody, and no tokens for somebody. Violations.
    pub(crate) wrong: u64,
    /// From the moment at which it was due: a valid login's token.
    pub(crate) login: Latency,
    /// The same: a refusal.
    pub(crate) refusal: Latency,
}

impl Stormed {
    fn new() -> Self {
        Self {
            capacity: 0.0,
            time: Duration::ZERO,
            cpu: Duration::ZERO,
            offered: 0,
            unsent: 0,
            valid: 0,
            denied: 0,
            refused: [0; 2],
            others: 0,
            unanswered: 0,
            wrong: 0,
            login: Latency::new(),
            refusal: Latency::new(),
        }
    }
}

impl Tempest {
    pub(super) fn new(plan: Storm, seed: u64) -> Self {
        Self {
            slots: Slots::default(),
            part: None,
            to_make: (0..plan.accounts).collect(),
            made: 0,
            making: 0,
            broken: 0,
            next_account: 0,
            began_us: 0,
            next_us: 0.0,
            gap_us: 0.0,
            // Others than those of the users.
            random: SmallRng::seed_from_u64(seed ^ 0x0053_544F_524D),
            stormed: Stormed::new(),
            plan,
        }
    }

    /// The next account to be made, if not too many are being made.
    fn next_to_make(&mut self) -> Option<u32> {
        let account = if self.making < PREPARING_MAX { self.to_make.pop_front() } else { None };
        self.making += u32::from(account.is_some());
        account
    }

    /// The next account in turn.
    fn next_account(&mut self) -> Who {
        let account = self.next_account;
        self.next_account = (account + 1) % self.plan.accounts;
        Who::Account(account)
    }

    fn anybody(&mut self) -> Who {
        if self.random.random_bool(self.plan.valid) {
            self.next_account()
        } else {
            Who::Stranger(self.random.random_range(0..self.plan.addresses))
        }
    }
}

impl EventLoop {
    /// Whether a storm's accounts are there, if there is one.
    pub(super) fn is_prepared_for_storm(&mut self) -> bool {
        while let Some(account) = self.storm.as_mut().and_then(|it| it.next_to_make()) {
            self.make_account(account);
        }
        self.storm.as_ref().is_none_or(|it| it.made == it.plan.accounts)
    }

    /// The plateau begins then: all parts get their timers.
    pub(super) fn schedule_storm(&mut self, plateau_us: u64) {
        let Some(tempest) = &self.storm else { return };
        for (stamp, (_, at)) in (0..).zip(tempest.plan.parts()) {
            self.world.timers.set(plateau_us + us(at), RUN, Due::Storm, stamp);
        }
        let span = |part| {
            let span = tempest.plan.span(part);
            plateau_us + us(span.start)..plateau_us + us(span.end)
        };
        let (calm, storm) = (span(Part::Calm), span(Part::Storm));
        self.world.books.parts = Some(Box::new(PartLatencies::new(calm, storm)));
    }

    pub(super) fn timer_of_storm(&mut self, timer: Timer) {
        let Some(tempest) = &mut self.storm else { return };
        match (timer.stamp, tempest.part) {
            (ARRIVAL, Some(Part::Storm)) => {
                let who = tempest.anybody();
                tempest.stormed.offered += 1;
                self.set_arrival_of_storm();
                self.request_of_storm(who, Purpose::Storm, timer.at_us);
            }
            (PROBE_AGAIN, Some(Part::Probe)) => self.probe(),
            (ARRIVAL | PROBE_AGAIN, _) => {}
            (stamp, _) => {
                let parts = tempest.plan.parts();
                if let Some(&(part, _)) = parts.get(stamp as usize) {
                    self.enter_part(part, timer.at_us);
                }
            }
        }
    }

    fn enter_part(&mut self, part: Part, at_us: u64) {
        let Some(tempest) = &mut self.storm else { return };
        tempest.part = Some(part);
        match part {
            Part::Calm | Part::Pause => {}
            Part::Probe => {
                let requests = tempest.plan.probe_requests;
                (0..requests).for_each(|_| self.probe());
            }
            Part::Storm => {
                let rate = tempest.plan.rate.of(tempest.stormed.capacity);
                if rate <= 0.0 {
                    self.world.fail(anyhow::anyhow!(
                        "no login was answered while it was measured how many the server does"
                    ));
                    return;
                }
                #[expect(clippy::cast_precision_loss, reason = "a run has far less than 2^52 µs")]
                let now_us = at_us as f64;
                (tempest.began_us, tempest.next_us, tempest.gap_us) = (at_us, now_us, 1e6 / rate);
                // The difference is taken when it is over.
                tempest.stormed.cpu = thread_cpu();
                self.set_arrival_of_storm();
            }
            Part::Over => {
                tempest.stormed.time = Duration::from_micros(at_us - tempest.began_us);
                tempest.stormed.cpu = thread_cpu().saturating_sub(tempest.stormed.cpu);
            }
        }
        if part == Part::Pause
            && let Some(tempest) = &mut self.storm
        {
            tempest.stormed.capacity /= tempest.plan.probe.as_secs_f64();
        }
        self.tell(Event::Storm(part));
    }

    /// A Poisson process.
    fn set_arrival_of_storm(&mut self) {
        let Some(tempest) = &mut self.storm else { return };
        // The chance may be 0 but never 1, so that the logarithm is finite.
        let chance = tempest.random.random::<f64>();
        tempest.next_us -= tempest.gap_us * (1.0 - chance).ln();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and within the run"
        )]
        let next_us = tempest.next_us as u64;
        self.world.timers.set(next_us, RUN, Due::Storm, ARRIVAL);
    }

    /// One of the logins that are always under way.
    fn probe(&mut self) {
        let Some(tempest) = &mut self.storm else { return };
        let who = tempest.next_account();
        self.request_of_storm(who, Purpose::Probe, self.world.now_us);
    }

    /// Sends, or leaves out what would be one too many.
    fn request_of_storm(&mut self, who: Who, purpose: Purpose, due_us: u64) {
        let request = Request { who, purpose, due_us };
        let Some(tempest) = &mut self.storm else { return };
        if purpose == Purpose::Storm && tempest.slots.open() >= tempest.plan.requests_max as usize {
            tempest.stormed.unsent += 1;
            return;
        }
        self.send_of_storm(request);
    }

    /// A request has its answer.
    fn answered_in_storm(&mut self, request: Request, response: &Response<'_>) {
        let answer = request.judge(response);
        let wait_us = self.world.now_us.saturating_sub(request.due_us);
        let Some(tempest) = &mut self.storm else { return };
        let Stormed { login, refusal, .. } = &mut tempest.stormed;
        if answer == Answer::Wrong {
            tempest.stormed.wrong += 1;
            let (who, status) = (request.who, response.status);
            self.world.books.audit.misjudged(format!("a login of {who:?} was answered {status}"));
            return;
        }
        if let Answer::Other(status) = answer {
            self.world.books.error(&format!("storm: {status}"));
        }
        match (request.purpose, answer) {
            (Purpose::SignUp, Answer::Made) => {
                self.request_of_storm(request.who, Purpose::FirstLogin, self.world.now_us);
            }
            (Purpose::FirstLogin, Answer::Valid) => {
                tempest.made += 1;
                tempest.making -= 1;
            }
            (Purpose::SignUp | Purpose::FirstLogin, Answer::Refused(_)) => {
                if let Who::Account(account) = request.who {
                    let at_us = self.world.now_us + us(login::put_off(response));
                    self.world.timers.set(at_us, RUN, Due::Account, account);
                }
            }
            (Purpose::SignUp | Purpose::FirstLogin, _) => {
                let (said, status) = (super::user::problem(response.body), response.status);
                self.world.fail(anyhow::anyhow!("an account of the storm: {status} {said}"));
            }
            (Purpose::Probe, _) if tempest.part != Some(Part::Probe) => {}
            (Purpose::Probe, Answer::Valid) => {
                // The count, until the time is over and it becomes a rate.
                tempest.stormed.capacity += 1.0;
                self.probe();
            }
            (Purpose::Probe, _) => {
                let at_us = self.world.now_us + us(PROBE_PAUSE);
                self.world.timers.set(at_us, RUN, Due::Storm, PROBE_AGAIN);
            }
            (Purpose::Storm, Answer::Valid) => {
                login.record_us(wait_us);
                tempest.stormed.valid += u64::from(tempest.part == Some(Part::Storm));
            }
            (Purpose::Storm, Answer::Refused(status)) => {
                refusal.record_us(wait_us);
                tempest.stormed.refused[usize::from(status != 429)] += 1;
            }
            (Purpose::Storm, Answer::Denied) => tempest.stormed.denied += 1,
            (Purpose::Storm, _) => tempest.stormed.others += 1,
        }
    }

    /// A request will have no answer.
    fn unanswered_in_storm(&mut self, request: Request, why: &str) {
        self.world.books.error(&format!("storm: {why}"));
        let Some(tempest) = &mut self.storm else { return };
        match (request.purpose, request.who) {
            (Purpose::Storm, _) => tempest.stormed.unanswered += 1,
            (Purpose::Probe, _) => {
                let at_us = self.world.now_us + us(PROBE_PAUSE);
                self.world.timers.set(at_us, RUN, Due::Storm, PROBE_AGAIN);
            }
            (Purpose::SignUp | Purpose::FirstLogin, Who::Account(account)) => {
                tempest.broken += 1;
                if tempest.broken > PREPARING_BROKEN_MAX {
                    self.world.fail(anyhow::anyhow!("the storm's accounts cannot be made: {why}"));
                    return;
                }
                let at_us = self.world.now_us + us(PROBE_PAUSE);
                self.world.timers.set(at_us, RUN, Due::Account, account);
            }
            (Purpose::SignUp | Purpose::FirstLogin, Who::Stranger(_)) => {}
        }
    }

    /// Makes an account. One that was put off is made again, from the beginning.
    pub(super) fn make_account(&mut self, account: u32) {
        self.request_of_storm(Who::Account(account), Purpose::SignUp, self.world.now_us);
    }

    /// What came of the storm, once all is over.
    pub(super) fn end_storm(&mut self) -> Option<Stormed> {
        self.storm.take().map(|it| it.stormed)
    }
}

/// How long deliveries took, by the part of the plateau in which their message was due.
#[derive(Clone, Debug)]
pub(crate) struct PartLatencies {
    pub(crate) calm: Latency,
    pub(crate) storm: Latency,
    /// In microseconds since the beginning of the run.
    calm_us: Range<u64>,
    storm_us: Range<u64>,
}

impl PartLatencies {
    pub(crate) fn new(calm_us: Range<u64>, storm_us: Range<u64>) -> Self {
        Self { calm: Latency::new(), storm: Latency::new(), calm_us, storm_us }
    }

    /// Of a message that was due at this moment.
    pub(crate) fn record(&mut self, intended_us: u64, us: u64) {
        if self.calm_us.contains(&intended_us) {
            self.calm.record_us(us);
        } else if self.storm_us.contains(&intended_us) {
            self.storm.record_us(us);
        }
    }
}
