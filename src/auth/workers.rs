//! The threads that hash passwords, and their bounded mailbox.
//!
//! argon2 fills 19 MiB for each password, so nothing else runs on these threads and they run on
//! nobody else's: they are the caller's own OS threads, niced, and placed by the hook that the
//! server gives. When about a second of work waits, the next password is refused at once with a
//! hint; what waited too long all the same is dropped unhashed, since its client has gone.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use thiserror::Error;
use tokio::sync::oneshot;

use super::password::{self, Cost, HashError, Memory, Password, SALT_BYTES};
use crate::limits;

/// How far below the hub's the threads' priority is.
const NICENESS: i32 = 10;

/// The pool. Stops its threads when dropped; what still waits is answered [`WorkError::Stopped`].
#[derive(Debug)]
pub struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
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

#[derive(Debug)]
struct Shared {
    cost: Cost,
    workers: usize,
    state: Mutex<State>,
    /// Work came, or the pool stops.
    news: Condvar,
}

#[derive(Debug, Default)]
struct State {
    mailbox: VecDeque<Job>,
    /// How long a hash takes, as a moving average. Zero before the first.
    hash_time: Duration,
    /// Passwords being hashed at this moment.
    busy: usize,
    stopped: bool,
}

#[derive(Debug)]
struct Job {
    password: Password,
    task: Task,
    since: Instant,
    reply: oneshot::Sender<Result<Answer, WorkError>>,
}

#[derive(Debug)]
enum Task {
    Hash { salt: [u8; SALT_BYTES] },
    Verify { stored: String },
}

#[derive(Debug)]
enum Answer {
    Hashed(String),
    Verified(bool),
}

impl Workers {
    /// Starts `count` threads, each of which calls `on_start` first: to move itself to its cores.
    ///
    /// # Errors
    /// When the cost is out of range or a thread cannot be started.
    pub fn start(
        cost: Cost,
        count: usize,
        on_start: impl Fn() + Clone + Send + 'static,
    ) -> Result<Self, StartError> {
        let dummy =
            Password::new("the password of nobody".to_owned()).map_err(|_| StartError::Rules)?;
        let dummy_hash = password::hash(&dummy, &rand::random(), cost, &mut Memory::default())?;
        let shared = Arc::new(Shared {
            cost,
            workers: count,
            state: Mutex::default(),
            news: Condvar::new(),
        });
        let mut workers = Self { shared, threads: Vec::with_capacity(count), dummy_hash };
        for number in 0..count {
            let (shared, on_start) = (Arc::clone(&workers.shared), on_start.clone());
            let thread =
                std::thread::Builder::new().name(format!("auth-{number}")).spawn(move || {
                    be_nice();
                    on_start();
                    shared.work();
                })?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Hashes a new password, under a fresh salt.
    ///
    /// # Errors
    /// When the pool has no room for it.
    pub async fn hash(&self, password: Password) -> Result<String, WorkError> {
        match self.submit(password, Task::Hash { salt: rand::random() }).await? {
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
    ) -> Result<bool, WorkError> {
        let known = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.dummy_hash.clone());
        match self.submit(password, Task::Verify { stored }).await? {
            Answer::Verified(same) => Ok(same && known),
            Answer::Hashed(_) => Err(WorkError::Stopped),
        }
    }

    async fn submit(&self, password: Password, task: Task) -> Result<Answer, WorkError> {
        let (reply, answer) = oneshot::channel();
        self.shared.put(Job { password, task, since: Instant::now(), reply })?;
        answer.await.unwrap_or(Err(WorkError::Stopped))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.shared.lock();
            state.stopped = true;
            std::mem::take(&mut state.mailbox)
        };
        self.shared.news.notify_all();
        drop(waiting);
        for thread in self.threads.drain(..) {
            // A worker that panicked has nothing left to stop.
            let _ = thread.join();
        }
    }
}

/// Why the pool could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configured cost is out of range.
    #[error(transparent)]
    Cost(#[from] HashError),
    /// The operating system gives no thread.
    #[error("a password worker could not be started")]
    Thread(#[from] io::Error),
    /// Our own dummy password breaks our rules.
    #[error("the dummy password breaks the rules")]
    Rules,
}

impl Shared {
    /// No code under the lock can panic half-way through a change.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, job: Job) -> Result<(), WorkError> {
        let mut state = self.lock();
        if state.stopped {
            return Err(WorkError::Stopped);
        }
        let wait = expected_wait(&state, self.workers);
        let full = state.mailbox.len() >= self.workers * limits::AUTH_MAILBOX_PER_WORKER_MAX;
        if full || wait > limits::AUTH_WAIT_MAX {
            return Err(WorkError::Overloaded { retry_after: retry_after(wait) });
        }
        state.mailbox.push_back(job);
        drop(state);
        self.news.notify_one();
        Ok(())
    }

    fn work(&self) {
        let mut memory = Memory::default();
        while let Some(job) = self.take() {
            let begun = Instant::now();
            // The client left, or will have left before the answer: its hash would be for nothing.
            let abandoned = job.reply.is_closed();
            let expired = begun.duration_since(job.since) > limits::AUTH_DEADLINE;
            if abandoned || expired {
                let retry_after = retry_after(limits::AUTH_WAIT_MAX);
                self.lock().busy -= 1;
                let _ = job.reply.send(Err(WorkError::Overloaded { retry_after }));
                continue;
            }
            let answer = match &job.task {
                Task::Hash { salt } => {
                    password::hash(&job.password, salt, self.cost, &mut memory).map(Answer::Hashed)
                }
                Task::Verify { stored } => {
                    password::verify(&job.password, stored, &mut memory).map(Answer::Verified)
                }
            };
            memory.shrink_to(self.cost);
            {
                let mut state = self.lock();
                state.busy -= 1;
                if answer.is_ok() {
                    state.hash_time = average(state.hash_time, begun.elapsed());
                }
            }
            let _ = job.reply.send(answer.map_err(WorkError::from));
        }
    }

    /// The next job; none when the pool stops.
    fn take(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(job) = state.mailbox.pop_front() {
                state.busy += 1;
                return Some(job);
            }
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// How long a password that comes now would wait until a worker takes it.
fn expected_wait(state: &State, workers: usize) -> Duration {
    let ahead = state.mailbox.len() + state.busy;
    if ahead < workers {
        return Duration::ZERO;
    }
    let turns = u32::try_from((ahead + 1 - workers).div_ceil(workers)).unwrap_or(u32::MAX);
    state.hash_time.saturating_mul(turns)
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

/// Lowers the priority of this thread alone: Linux takes a thread id for a process id here.
fn be_nice() {
    let thread = Some(rustix::thread::gettid());
    if let Err(error) = rustix::process::setpriority_process(thread, NICENESS) {
        tracing::warn!(%error, "the priority of a password worker could not be lowered");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use bytesize::ByteSize;

    use super::*;

    const SMALL: Cost = Cost { memory: ByteSize::kib(64), passes: 1, lanes: 1 };

    fn password() -> Password {
        Password::new("correct horse".to_owned()).unwrap()
    }

    /// A pool of one worker that starts to work when the sender is dropped.
    fn held_pool() -> (Workers, mpsc::SyncSender<()>) {
        let (release, held) = mpsc::sync_channel::<()>(0);
        let held = Arc::new(Mutex::new(held));
        let workers = Workers::start(SMALL, 1, move || {
            let _ = held.lock().unwrap().recv();
        });
        (workers.unwrap(), release)
    }

    fn job(since: Instant) -> (Job, oneshot::Receiver<Result<Answer, WorkError>>) {
        let (reply, answer) = oneshot::channel();
        (Job { password: password(), task: Task::Hash { salt: [0; 16] }, since, reply }, answer)
    }

    #[tokio::test]
    async fn what_was_hashed_verifies() {
        let workers = Workers::start(SMALL, 2, || {}).unwrap();
        let stored = workers.hash(password()).await.unwrap();
        assert_eq!(workers.verify(password(), Some(stored.clone())).await, Ok(true));
        let other = Password::new("wrong horse!".to_owned()).unwrap();
        assert_eq!(workers.verify(other, Some(stored)).await, Ok(false));
    }

    #[tokio::test]
    async fn nobody_has_a_password_not_even_the_dummy() {
        let workers = Workers::start(SMALL, 1, || {}).unwrap();
        let dummy = Password::new("the password of nobody".to_owned()).unwrap();
        assert_eq!(workers.verify(dummy, None).await, Ok(false));
    }

    #[tokio::test]
    async fn a_full_mailbox_refuses_at_once() {
        let (workers, release) = held_pool();
        let mut answers = Vec::new();
        for _ in 0..limits::AUTH_MAILBOX_PER_WORKER_MAX {
            let (job, answer) = job(Instant::now());
            workers.shared.put(job).unwrap();
            answers.push(answer);
        }
        let refused = workers.shared.put(job(Instant::now()).0);
        let Err(WorkError::Overloaded { retry_after }) = refused else { panic!("{refused:?}") };
        assert!(retry_after >= Duration::from_secs(1));
        drop(release);
        for answer in answers {
            assert!(matches!(answer.await, Ok(Ok(Answer::Hashed(_)))));
        }
    }

    #[tokio::test]
    async fn slow_hashes_fill_the_mailbox_sooner() {
        let (workers, release) = held_pool();
        workers.shared.lock().hash_time = Duration::from_millis(400);
        let mut answers = Vec::new();
        for _ in 0..3 {
            let (job, answer) = job(Instant::now());
            workers.shared.put(job).unwrap();
            answers.push(answer);
        }
        let refused = workers.shared.put(job(Instant::now()).0);
        assert!(matches!(refused, Err(WorkError::Overloaded { .. })), "{refused:?}");
        drop(release);
    }

    #[tokio::test]
    async fn expired_and_abandoned_work_is_dropped_unhashed() {
        let (workers, release) = held_pool();
        let Some(long_ago) = Instant::now().checked_sub(limits::AUTH_DEADLINE * 2) else { return };
        let (expired, expired_answer) = job(long_ago);
        let (abandoned, abandoned_answer) = job(Instant::now());
        drop(abandoned_answer);
        workers.shared.put(expired).unwrap();
        workers.shared.put(abandoned).unwrap();
        drop(release);
        assert!(matches!(expired_answer.await, Ok(Err(WorkError::Overloaded { .. }))));
        // The pool goes on, and nothing but this was hashed.
        let (last, answer) = job(Instant::now());
        workers.shared.put(last).unwrap();
        assert!(matches!(answer.await, Ok(Ok(Answer::Hashed(_)))));
        assert_eq!(workers.shared.lock().busy, 0);
    }

    #[tokio::test]
    async fn a_pool_that_stops_answers_what_waits() {
        let (workers, release) = held_pool();
        let (job, answer) = job(Instant::now());
        workers.shared.put(job).unwrap();
        drop(release);
        drop(workers);
        // Hashed before the stop, or dropped by it; never left waiting.
        assert!(!matches!(answer.await, Ok(Ok(Answer::Verified(_)))));
    }

    #[test]
    fn workers_are_niced_and_the_caller_is_not() {
        let priority = || rustix::process::getpriority_process(Some(rustix::thread::gettid()));
        let before = priority().unwrap();
        let (report, reported) = mpsc::sync_channel(1);
        let _workers = Workers::start(SMALL, 1, move || {
            let _ = report.send(priority());
        });
        assert_eq!(reported.recv().unwrap(), Ok(NICENESS));
        assert_eq!(priority(), Ok(before));
    }
}
