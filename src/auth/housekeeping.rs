//! What the auth service does unasked, twice a second: sees what other processes did to the keys,
//! turns and retires keys, drops what has run out.

use std::{
    io,
    mem::replace,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use super::{
    keyring::{Keyring, KeyringError},
    stats::Stats,
    store::keys::KeyStore,
};
use crate::{clock, limits};

/// Ticks between two counts of the sessions, which read a whole index.
const TICKS_PER_COUNT: u64 = 20;

/// What a tick works on. It has a connection to the store of its own, so that no request waits for it
/// but for the writer's lock.
#[derive(Debug)]
pub(super) struct Housekeeping {
    pub(super) keys: KeyStore,
    pub(super) keyring: Arc<Keyring>,
    pub(super) stats: Arc<Stats>,
    /// After this time a new key signs. Zero: only when the operator says so.
    pub(super) key_rotation: Duration,
    pub(super) ticks: u64,
}

impl Housekeeping {
    /// One tick at this moment. The keys come first: a failure of the rest must not hide them.
    pub(super) fn tick(&mut self, now_s: u64) -> Result<(), KeyringError> {
        let turned = self.keys.turn(self.key_rotation, now_s);
        self.keyring.reload(&self.keys, now_s)?;
        turned?;
        self.keys.drop_expired(now_s)?;
        if self.ticks.is_multiple_of(TICKS_PER_COUNT) {
            self.stats.sessions.set(self.keys.count_sessions()?);
        }
        self.stats.keys.set(u64::try_from(self.keyring.len()).unwrap_or(u64::MAX));
        self.ticks += 1;
        Ok(())
    }
}

/// The thread of the housekeeping. Stops it when dropped.
#[derive(Debug)]
pub(super) struct Housekeeper {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Stop {
    stopped: Mutex<bool>,
    news: Condvar,
}

impl Housekeeper {
    /// Starts the thread, which calls `on_start` first: to move itself to its cores.
    pub(super) fn start(
        mut housekeeping: Housekeeping,
        on_start: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Arc::new(Stop::default());
        let stopped = Arc::clone(&stop);
        let thread =
            std::thread::Builder::new().name("auth-keeper".to_owned()).spawn(move || {
                on_start();
                // Said once, not twice a second for as long as the store is away. The metric counts.
                let mut is_failing = false;
                while !stopped.within(limits::HOUSEKEEPING_INTERVAL) {
                    match housekeeping.tick(clock::unix_s()) {
                        Err(error) => {
                            housekeeping.stats.housekeeping_failed.increase();
                            if !replace(&mut is_failing, true) {
                                tracing::error!(%error, "the housekeeping of the auth service fails");
                            }
                        }
                        Ok(()) if replace(&mut is_failing, false) => {
                            tracing::info!("the housekeeping of the auth service works again");
                        }
                        Ok(()) => {}
                    }
                }
            })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Stop {
    fn within(&self, interval: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopped, _) = self
            .news
            .wait_timeout_while(stopped, interval, |stopped| !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        *stopped
    }
}

impl Drop for Housekeeper {
    fn drop(&mut self) {
        *self.stop.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.news.notify_all();
        if let Some(thread) = self.thread.take() {
            // A keeper that panicked has nothing left to stop.
            let _ = thread.join();
        }
    }
}
