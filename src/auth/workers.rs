//! The threads that hash passwords, and their bounded mailbox.
//!
//! argon2 fills 19 MiB for each password, so nothing else runs on these threads and they run on
//! nobody else's: they are the caller's own OS threads, niced, and placed by the hook that the
//! server gives. When a second of work waits, or too many passwords do, the next one is refused at
//! once with a hint; what waited too long all the same is dropped unhashed, since its client has gone.
//!
//! There are between `min` and `max` of them. When work has waited too long, the worker that takes it
//! starts another; who has had nothing to do for long ends. Each keeps the memory that it hashes in,
//! so that the pool holds as much as `max` hashes need, and a quiet one as much as `min` do.
//!
//! Work is of two [classes](Class). Neither the class nor anything else here depends on whether a
//! user exists: a name that nobody has is verified against a dummy, at the same cost and through the
//! same mailbox.
//!
//! One difference remains for a while after the operator has changed the cost. The dummy has the new
//! cost at once, stored hashes get it one by one, at the next login of their user; until then a wrong
//! password for such a user is answered in the time of the old cost. Nothing is done about it: who
//! logs in ends it, nobody knows the costs of all stored hashes when a password comes, and a dummy of
//! the old cost would only give the upgraded users away instead.

use std::{
    collections::HashMap,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use thiserror::Error;
use tokio::sync::oneshot;

use self::{
    mailbox::{Capacity, Mailbox, Put, Taken},
    stats::Stats,
};
use super::password::{self, Cost, HashError, Memory, Password, SALT_BYTES, Verdict};
use crate::{limits, priority};

mod mailbox;
pub mod stats;
#[cfg(test)]
mod tests;

/// How far below the hub's the threads' priority is.
const NICENESS: i32 = 10;

/// Whose work it is.
///
/// The caller decides it: known is who gives a name and an address that have logged in together
/// before. An unknown name is a stranger, and so is a known name from a new address. An outsider has
/// nothing else, so to an outsider every name is served alike, whether it exists or not. Users keep
/// their place that way while strangers storm the login.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// This user has logged in from this address before.
    Known,
    /// Anybody else, and who makes a new account.
    Stranger,
}

/// How the pool is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// What one hash costs.
    pub cost: Cost,
    /// Workers that are always there, one at least.
    pub min: usize,
    /// Workers when much waits.
    pub max: usize,
}

/// The pool. Stops its threads when dropped; what still waits is answered [`WorkError::Stopped`].
#[derive(Debug)]
pub struct Workers {
    shared: Arc<Shared>,
    /// Verified for users that do not exist, so that they cost what the others cost.
    dummy_hash: String,
}

/// Why no password was hashed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum WorkError {
    /// Too much waits, or this waited too long.
    #[error("too many passwords wait to be hashed")]
    Overloaded {
        /// When a retry may pass.
        retry_after: Duration,
    },
    /// The pool is stopping.
    #[error("the password workers are stopped")]
    Stopped,
    /// The password could not be hashed or compared.
    #[error(transparent)]
    Hash(#[from] HashError),
}

/// Why the pool could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configured cost is out of range.
    #[error(transparent)]
    Cost(#[from] HashError),
    /// No worker, or fewer at most than at least, or more than [`limits::AUTH_WORKERS_MAX`].
    #[error(
        "there are from 1 to {} password workers, not {min} to {max}",
        limits::AUTH_WORKERS_MAX
    )]
    Count {
        /// At least so many were asked for.
        min: usize,
        /// And at most so many.
        max: usize,
    },
    /// The operating system gives no thread.
    #[error("a password worker could not be started")]
    Thread(#[from] io::Error),
    /// Our own dummy password breaks our rules.
    #[error("the dummy password breaks the rules")]
    Rules,
}

impl Workers {
    /// Starts the threads that are always there. Each, and those that come later, calls `on_start`
    /// first: to move itself to its cores.
    ///
    /// # Errors
    /// When the cost or the number is out of range, or a thread cannot be started.
    pub fn start(
        options: Options,
        on_start: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        Self::start_paced(options, Pace::default(), on_start)
    }

    fn start_paced(
        options: Options,
        pace: Pace,
        on_start: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let Options { cost, min, max } = options;
        if min == 0 || max < min || max > limits::AUTH_WORKERS_MAX {
            return Err(StartError::Count { min, max });
        }
        let dummy =
            Password::new("the password of nobody".to_owned()).map_err(|_| StartError::Rules)?;
        let dummy_hash = password::hash(&dummy, &rand::random(), cost, &mut Memory::default())?;
        let shared = Arc::new(Shared {
            options,
            pace,
            on_start: Box::new(on_start),
            state: Mutex::default(),
            stats: Arc::default(),
        });
        // Dropped on an error, it stops those that run.
        let workers = Self { shared, dummy_hash };
        for _ in 0..min {
            let number = workers.shared.enter(&mut workers.shared.lock());
            workers.shared.spawn(number)?;
        }
        Ok(workers)
    }

    /// What the workers count.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.shared.stats)
    }

    /// What a password of either class would be refused with now, before anybody has looked up which
    /// class it is of: in a storm nearly all are, and that look-up is what costs most of a refusal. So
    /// it is in the counters of no class.
    ///
    /// # Errors
    /// When the pool has no room for anybody, or is stopped.
    pub fn check_room(&self) -> Result<(), WorkError> {
        self.shared.check_room()
    }

    /// Hashes a new password, under a fresh salt.
    ///
    /// # Errors
    /// When the pool has no room for it.
    pub async fn hash(&self, password: Password, class: Class) -> Result<String, WorkError> {
        let answer = self.shared.submit(password, Task::hash(), Some(class)).await?;
        match answer.ok_or(WorkError::Stopped)? {
            Answer::Hashed(stored) => Ok(stored),
            Answer::Verified(_) => Err(WorkError::Stopped),
        }
    }

    /// Whether the password is that of the stored hash. Without a stored hash the answer is no, at
    /// the same cost and through the same mailbox.
    ///
    /// # Errors
    /// When the pool has no room for it, or the stored hash is unusable.
    pub async fn verify(
        &self,
        password: Password,
        stored: Option<String>,
        class: Class,
    ) -> Result<Verdict, WorkError> {
        let known = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.dummy_hash.clone());
        let answer = self.shared.submit(password, Task::Verify { stored }, Some(class)).await?;
        match answer.ok_or(WorkError::Stopped)? {
            Answer::Verified(verdict) if known => Ok(verdict),
            Answer::Verified(_) => Ok(Verdict { matches: false, outdated: false }),
            Answer::Hashed(_) => Err(WorkError::Stopped),
        }
    }

    /// Hashes a password again whose stored hash is outdated, if a worker is free and nothing else
    /// comes meanwhile. Otherwise there is no hash: the user's next login asks anew.
    ///
    /// # Errors
    /// When the pool stops.
    pub async fn rehash(&self, password: Password) -> Result<Option<String>, WorkError> {
        match self.shared.submit(password, Task::hash(), None).await? {
            Some(Answer::Hashed(stored)) => Ok(Some(stored)),
            Some(Answer::Verified(_)) | None => Ok(None),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let (waiting, threads) = {
            let mut state = self.shared.lock();
            state.stopped = true;
            let waiting: Vec<Job> = state.mailbox.drain().collect();
            for idle in state.idle.drain(..) {
                idle.news.notify_one();
            }
            (waiting, std::mem::take(&mut state.threads))
        };
        drop(waiting);
        for thread in threads.into_values() {
            // A worker that panicked has nothing left to stop.
            let _ = thread.join();
        }
    }
}

/// How fast the pool grows and shrinks.
#[derive(Clone, Copy, Debug)]
struct Pace {
    grow_after: Duration,
    idle_max: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { grow_after: limits::AUTH_GROW_AFTER, idle_max: limits::AUTH_WORKER_IDLE_MAX }
    }
}

struct Shared {
    options: Options,
    pace: Pace,
    on_start: Box<dyn Fn() + Send + Sync>,
    state: Mutex<State>,
    stats: Arc<Stats>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("options", &self.options).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    mailbox: Mailbox<Job>,
    /// How long a hash takes, as a moving average. Zero before the first.
    hash_time: Duration,
    /// Workers, including one that is about to start or to end.
    workers: usize,
    /// Those among them that hash at this moment.
    busy: usize,
    /// Those that wait for work. The last to come gets the next: the others may end, and its memory
    /// is the warmest.
    idle: Vec<Idle>,
    /// The threads, by the number in their names.
    threads: HashMap<u64, JoinHandle<()>>,
    /// The number of the next.
    next_number: u64,
    /// When a worker was added last.
    grown: Option<Instant>,
    stopped: bool,
}

#[derive(Debug)]
struct Idle {
    number: u64,
    /// Work came, or the pool stops.
    news: Arc<Condvar>,
}

#[derive(Debug)]
struct Job {
    password: Password,
    task: Task,
    /// None for work that is done only if nobody waits.
    class: Option<Class>,
    reply: oneshot::Sender<Result<Option<Answer>, WorkError>>,
}

#[derive(Debug)]
enum Task {
    Hash { salt: [u8; SALT_BYTES] },
    Verify { stored: String },
}

impl Task {
    fn hash() -> Self {
        Self::Hash { salt: rand::random() }
    }
}

#[derive(Debug)]
enum Answer {
    Hashed(String),
    Verified(Verdict),
}

/// The way in.
impl Shared {
    /// No code under the lock can panic half-way through a change.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to work; none to spare work that is not done.
    async fn submit(
        &self,
        password: Password,
        task: Task,
        class: Option<Class>,
    ) -> Result<Option<Answer>, WorkError> {
        let (reply, answer) = oneshot::channel();
        self.put(Job { password, task, class, reply }, Instant::now())?;
        answer.await.unwrap_or(Err(WorkError::Stopped))
    }

    fn check_room(&self) -> Result<(), WorkError> {
        let state = self.lock();
        if state.stopped {
            return Err(WorkError::Stopped);
        }
        if !state.mailbox.is_full(Capacity::new(state.workers, state.busy, state.hash_time)) {
            return Ok(());
        }
        let wait = expected_wait(&state);
        drop(state);
        Err(overloaded(wait))
    }

    fn put(&self, job: Job, now: Instant) -> Result<(), WorkError> {
        let mut state = self.lock();
        if state.stopped {
            return Err(WorkError::Stopped);
        }
        let capacity = Capacity::new(state.workers, state.busy, state.hash_time);
        let outcome = match job.class {
            Some(class) => state.mailbox.put(job, class, now, capacity),
            None => state.mailbox.put_spare(job, capacity),
        };
        self.show_waiting(&state);
        let wait = expected_wait(&state);
        let idle = state.idle.pop();
        drop(state);
        if let Some(idle) = idle {
            idle.news.notify_one();
        }
        // Who is refused here is answered by its caller, who is replaced by its own reply.
        match outcome {
            Put::In => Ok(()),
            Put::InsteadOf(replaced) => {
                self.refuse(replaced, wait);
                Ok(())
            }
            Put::Full(refused) => {
                let class = refused.class;
                self.refuse(refused, wait);
                // Spare work has its answer, which is none.
                class.map_or(Ok(()), |_| Err(overloaded(wait)))
            }
        }
    }

    fn refuse(&self, job: Job, wait: Duration) {
        if let Some(class) = job.class {
            self.stats.refused.of(class).increase();
        }
        job.give_up(wait);
    }

    fn show_waiting(&self, state: &State) {
        for class in [Class::Known, Class::Stranger] {
            self.stats.waiting.of(class).set(state.mailbox.len_of(class) as u64);
        }
    }
}

impl Job {
    /// Nobody hashes this.
    fn give_up(self, wait: Duration) {
        let answer = self.class.map_or(Ok(None), |_| Err(overloaded(wait)));
        // Who asked may be gone.
        let _ = self.reply.send(answer);
    }
}

/// The threads.
impl Shared {
    /// Counts a worker that is about to start.
    fn enter(&self, state: &mut State) -> u64 {
        let number = state.next_number;
        state.next_number += 1;
        state.workers += 1;
        self.stats.workers.set(state.workers as u64);
        number
    }

    fn leave(&self, state: &mut State, number: u64) {
        state.workers -= 1;
        self.stats.workers.set(state.workers as u64);
        // Dropping its handle lets the thread go on to its end by itself.
        state.threads.remove(&number);
    }

    /// Starts the thread of a worker that has entered.
    fn spawn(self: &Arc<Self>, number: u64) -> io::Result<()> {
        let shared = Arc::clone(self);
        let thread = std::thread::Builder::new().name(format!("auth-{number}")).spawn(move || {
            priority::lower_to(NICENESS);
            (shared.on_start)();
            // A panic is our bug, and it costs the one whose password it was an answer. Without
            // this it would cost the pool a worker, until nobody can log in.
            while catch_unwind(AssertUnwindSafe(|| shared.work(number))).is_err() {
                tracing::error!("a password worker panicked, and goes on");
            }
        });
        let mut state = self.lock();
        match thread {
            Err(error) => {
                self.leave(&mut state, number);
                Err(error)
            }
            Ok(thread) if state.stopped => {
                // The pool stopped meanwhile and does not know of this one.
                drop(state);
                let _ = thread.join();
                Ok(())
            }
            Ok(thread) => {
                state.threads.insert(number, thread);
                Ok(())
            }
        }
    }

    /// What a worker does until the pool stops or no longer needs it.
    fn work(self: &Arc<Self>, number: u64) {
        let mut memory = HeldMemory { memory: Memory::default(), shown: 0, stats: &self.stats };
        let news = Arc::default();
        let mut dropped = Vec::new();
        while let Some(taken) = self.take(number, &news, &mut dropped) {
            if let Some(number) = taken.growth
                && let Err(error) = self.spawn(number)
            {
                tracing::warn!(%error, "no further password worker could be started");
            }
            self.give_up(&mut dropped);
            if let Some(Taken { work, waited }) = taken.job {
                self.do_job(work, waited, &mut memory);
            }
        }
        self.give_up(&mut dropped);
    }

    fn do_job(&self, job: Job, waited: Duration, memory: &mut HeldMemory<'_>) {
        let busy = Busy(self);
        let begun = Instant::now();
        let cost = self.options.cost;
        let answer = match &job.task {
            Task::Hash { salt } => {
                password::hash(&job.password, salt, cost, &mut memory.memory).map(Answer::Hashed)
            }
            Task::Verify { stored } => {
                password::verify(&job.password, stored, cost, &mut memory.memory)
                    .map(Answer::Verified)
            }
        };
        let took = begun.elapsed();
        memory.memory.shrink_to(cost);
        memory.show();
        self.count(&job, answer.is_ok(), waited, took);
        if answer.is_ok() {
            let mut state = self.lock();
            state.hash_time = average(state.hash_time, took);
        }
        drop(busy);
        let _ = job.reply.send(answer.map(Some).map_err(WorkError::from));
    }

    fn count(&self, job: &Job, done: bool, waited: Duration, took: Duration) {
        let Stats { hashed, verified, rehashed, failed, hash_time, wait_time, .. } = &*self.stats;
        let class = job.class.unwrap_or(Class::Known);
        if !done {
            failed.of(class).increase();
            return;
        }
        match (&job.task, job.class) {
            (_, None) => rehashed.increase(),
            (Task::Hash { .. }, Some(class)) => hashed.of(class).increase(),
            (Task::Verify { .. }, Some(class)) => verified.of(class).increase(),
        }
        hash_time.record(took);
        wait_time.record(waited);
    }

    /// Answers what expired.
    fn give_up(&self, dropped: &mut Vec<Job>) {
        for job in dropped.drain(..) {
            if let Some(class) = job.class {
                self.stats.expired.of(class).increase();
            }
            job.give_up(limits::AUTH_WAIT_MAX);
        }
    }

    /// Waits for the next turn of a worker; none when it is to end.
    fn take(&self, number: u64, news: &Arc<Condvar>, dropped: &mut Vec<Job>) -> Option<Turn> {
        let mut state = self.lock();
        let mut idle_since = None;
        loop {
            if state.stopped {
                return None;
            }
            let now = Instant::now();
            let growth = self.growth(&mut state, now);
            let job = state.mailbox.take(now, |job| job.reply.is_closed(), dropped);
            if job.is_some() || growth.is_some() || !dropped.is_empty() {
                state.busy += usize::from(job.is_some());
                self.show_waiting(&state);
                return Some(Turn { job, growth });
            }
            let idle_since = *idle_since.get_or_insert(now);
            let idle = now.saturating_duration_since(idle_since);
            if idle >= self.pace.idle_max && state.workers > self.options.min {
                self.leave(&mut state, number);
                return None;
            }
            state.idle.push(Idle { number, news: Arc::clone(news) });
            // One that may not end waits for news alone, but for a look now and then.
            let left = self.pace.idle_max.saturating_sub(idle);
            let left = if left.is_zero() { limits::AUTH_WORKER_IDLE_MAX } else { left };
            state = news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.idle.retain(|idle| idle.number != number);
        }
    }

    /// The number of a new worker, if the pool is to have one more.
    fn growth(&self, state: &mut State, now: Instant) -> Option<u64> {
        let grow_after = self.pace.grow_after;
        let late = state.mailbox.oldest(now)? > grow_after;
        let settled = state.grown.is_none_or(|grown| now.duration_since(grown) >= grow_after);
        if !late || !settled || state.workers >= self.options.max {
            return None;
        }
        state.grown = Some(now);
        Some(self.enter(state))
    }
}

/// What a worker does next: first start another, then do the job.
#[derive(Debug)]
struct Turn {
    job: Option<Taken<Job>>,
    growth: Option<u64>,
}

/// A worker hashes while this lives.
struct Busy<'a>(&'a Shared);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.lock().busy -= 1;
    }
}

/// The memory of a worker, as the metrics show it.
struct HeldMemory<'a> {
    memory: Memory,
    /// Bytes of it that are counted.
    shown: u64,
    stats: &'a Stats,
}

impl HeldMemory<'_> {
    fn show(&mut self) {
        let held = self.memory.bytes();
        self.stats.memory_bytes.add(held);
        self.stats.memory_bytes.subtract(self.shown);
        self.shown = held;
    }
}

impl Drop for HeldMemory<'_> {
    fn drop(&mut self) {
        self.stats.memory_bytes.subtract(self.shown);
    }
}

/// How long a password that comes now would wait until a worker takes it.
fn expected_wait(state: &State) -> Duration {
    let ahead = state.mailbox.len() + state.busy;
    if ahead < state.workers || state.workers == 0 {
        return Duration::ZERO;
    }
    let turns = (ahead + 1 - state.workers).div_ceil(state.workers);
    state.hash_time.saturating_mul(u32::try_from(turns).unwrap_or(u32::MAX))
}

fn overloaded(wait: Duration) -> WorkError {
    WorkError::Overloaded { retry_after: retry_after(wait) }
}

/// A hint that spreads the retries over as long again as the wait, and never less than a second:
/// `Retry-After` counts in whole ones.
fn retry_after(wait: Duration) -> Duration {
    let spread = rand::random_range(1.0..2.0);
    wait.max(Duration::from_secs(1)).mul_f64(spread)
}

fn average(before: Duration, sample: Duration) -> Duration {
    if before.is_zero() { sample } else { (before * 7 + sample) / 8 }
}
