//! All users lose their connections at once, and come back: `drop` of the chaos.
//!
//! The connections are reset by this side, so that the server is not at fault and no port of ours has
//! to wait. Users come back in their order, so many at a time; whoever is put off by the server tries
//! again by itself, as after any other loss.

use std::{collections::VecDeque, time::Duration};

use super::{Event, conduct::thread_cpu, event_loop::EventLoop};

/// Those who were cut off.
#[derive(Debug, Default)]
pub(super) struct Returning {
    /// Whose turn has not come.
    waiting: VecDeque<u32>,
    /// Who connect for the first time since.
    pub(super) under_way: u32,
    /// Who are not in all their channels again, and have not given up.
    pub(super) away: u32,
    /// Since when they may come back, and what the thread had used of its core then.
    began: Option<(u64, Duration)>,
    /// When the last one was back.
    pub(super) back_us: u64,
    pub(super) counts: Returns,
}

/// What came of it, over the whole run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Returns {
    /// Connections that were cut.
    pub(crate) cut: u64,
    /// Users who were in all their channels again.
    pub(crate) resumed: u64,
    /// Messages that they had missed meanwhile, as the server counts when they resume.
    pub(crate) replayed: u64,
    /// From the first connect to the last user back, added up.
    pub(crate) time: Duration,
    /// CPU time of the thread meanwhile.
    pub(crate) cpu: Duration,
}

/// How far one of them is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Return {
    /// It was not cut off, or is back.
    Done,
    /// Its turn has not come.
    Waiting,
    /// It connects for the first time since.
    UnderWay,
    /// It was put off, and tries again when it may.
    PutOff,
}

impl EventLoop {
    /// Cuts the connection of everybody who is in its channels, but for the witness.
    pub(super) fn cut_all(&mut self) {
        for number in 0..self.world.witness_number() {
            let user = &mut self.users[number as usize];
            if user.cut(&mut self.world) {
                self.world.returning.waiting.push_back(number);
                self.reset(2 * number as usize);
            }
        }
    }

    /// From now on they may come back.
    pub(super) fn let_return(&mut self) {
        if self.world.returning.away > 0 {
            let began = (self.world.now_us, thread_cpu());
            self.world.returning.began.get_or_insert(began);
        }
    }

    /// As many as may be under way at once.
    pub(super) fn return_more(&mut self) {
        let Some((began_us, began_cpu)) = self.world.returning.began else { return };
        let most = self.world.plan.scenario.reconnects_max;
        while self.world.returning.under_way < most
            && let Some(number) = self.world.returning.waiting.pop_front()
        {
            self.users[number as usize].come_back(&mut self.world);
            self.touch(number);
        }
        let returning = &mut self.world.returning;
        if returning.away == 0 {
            returning.began = None;
            let time = Duration::from_micros(returning.back_us.saturating_sub(began_us));
            returning.counts.time += time;
            returning.counts.cpu += thread_cpu().saturating_sub(began_cpu);
            self.tell(Event::Returned);
        }
    }
}
