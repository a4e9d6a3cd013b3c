//! Whether the process beats and takes work, for `/livez` and `/readyz`.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::limits::{BEAT_AGE_MAX, BEAT_INTERVAL, ENGINE_SILENCE_MAX};

/// What the server knows of its own health.
pub(super) struct Vitals {
    started: Instant,
    /// When each shard's thread last had a turn, in milliseconds since the start.
    beats_ms: Box<[AtomicU64]>,
    is_draining: AtomicBool,
    /// How many commits have failed.
    failed_commits: Box<dyn Fn() -> u64 + Send + Sync>,
    /// The same at an earlier beat: when it grows, the storage takes no writes now.
    failed_before: AtomicU64,
    is_failing: AtomicBool,
    /// When an engine elsewhere last answered, in milliseconds since the start. None where it is here.
    answered_ms: Option<AtomicU64>,
}

impl fmt::Debug for Vitals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vitals").field("is_draining", &self.is_draining).finish_non_exhaustive()
    }
}

impl Vitals {
    pub(super) fn new(
        shards: usize,
        failed_commits: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        Self {
            started: Instant::now(),
            beats_ms: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            is_draining: AtomicBool::new(false),
            failed_commits: Box::new(failed_commits),
            failed_before: AtomicU64::new(0),
            is_failing: AtomicBool::new(false),
            answered_ms: None,
        }
    }

    /// With an engine elsewhere, which must be heard of.
    pub(super) fn of_remote_engine(mut self) -> Self {
        self.answered_ms = Some(AtomicU64::new(0));
        self
    }

    /// The engine has answered.
    pub(super) fn engine_answered(&self) {
        if let Some(answered_ms) = &self.answered_ms {
            answered_ms.store(self.age_ms(), Ordering::Relaxed);
        }
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn start_draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Whether every shard's thread, or that of an auth service, gets its turns. Load alone does not fail it.
    pub(super) fn is_live(&self) -> Result<(), String> {
        let beats = self.beats_ms.iter().map(|beat_ms| beat_ms.load(Ordering::Relaxed));
        let beat = Duration::from_millis(beats.min().unwrap_or(0));
        let age = self.started.elapsed().saturating_sub(beat);
        if age <= BEAT_AGE_MAX { Ok(()) } else { Err(format!("no turn for {} s", age.as_secs())) }
    }

    /// Whether new work is welcome.
    pub(super) fn is_ready(&self) -> Result<(), String> {
        self.is_live()?;
        if self.is_draining.load(Ordering::Relaxed) {
            return Err("draining".to_owned());
        }
        if self.is_failing.load(Ordering::Relaxed) {
            return Err("the storage takes no writes".to_owned());
        }
        if let Some(answered_ms) = &self.answered_ms {
            let silence_ms = self.age_ms().saturating_sub(answered_ms.load(Ordering::Relaxed));
            if u128::from(silence_ms) > ENGINE_SILENCE_MAX.as_millis() {
                return Err(format!("engine: no answer for {} s", silence_ms / 1_000));
            }
        }
        Ok(())
    }

    fn beat(&self, shard: u16) {
        self.beats_ms[usize::from(shard)].store(self.age_ms(), Ordering::Relaxed);
        if shard > 0 {
            // One looks for all whether commits fail: since its own beat before.
            return;
        }
        let failed = (self.failed_commits)();
        let before = self.failed_before.swap(failed, Ordering::Relaxed);
        self.is_failing.store(failed > before, Ordering::Relaxed);
    }
}

/// Beats for a shard, on its thread.
pub(super) async fn beat(vitals: Arc<Vitals>, shard: u16) {
    loop {
        vitals.beat(shard);
        tokio::time::sleep(BEAT_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_that_does_not_beat_is_not_live() {
        let now = Instant::now();
        let started = now.checked_sub(BEAT_AGE_MAX * 2).expect("up for some seconds");
        let vitals = Vitals { started, ..Vitals::new(2, || 0) };
        assert!(vitals.is_live().is_err());
        vitals.beat(0);
        assert!(vitals.is_live().is_err(), "the other shard has not beaten");
        vitals.beat(1);
        assert_eq!(vitals.is_live(), Ok(()));
    }

    #[test]
    fn a_draining_server_is_live_but_not_ready() {
        let vitals = Vitals::new(1, || 0);
        assert_eq!(vitals.is_ready(), Ok(()));
        vitals.start_draining();
        assert_eq!(vitals.is_live(), Ok(()));
        assert_eq!(vitals.is_ready(), Err("draining".to_owned()));
    }

    #[test]
    fn failing_commits_make_it_not_ready_until_they_stop() {
        let failed = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&failed);
        let vitals = Vitals::new(2, move || count.load(Ordering::Relaxed));
        failed.store(1, Ordering::Relaxed);
        vitals.beat(0);
        vitals.beat(1);
        assert!(vitals.is_ready().is_err());
        vitals.beat(0);
        assert_eq!(vitals.is_ready(), Ok(()));
    }

    #[test]
    fn an_engine_elsewhere_that_falls_silent_makes_it_not_ready_until_it_answers() {
        let started = Instant::now().checked_sub(BEAT_AGE_MAX).expect("up for some seconds");
        let here = Vitals { started, ..Vitals::new(1, || 0) };
        here.beat(0);
        assert_eq!(here.is_ready(), Ok(()));
        let elsewhere = Vitals { started, ..Vitals::new(1, || 0) }.of_remote_engine();
        elsewhere.beat(0);
        assert_eq!(elsewhere.is_ready(), Err("engine: no answer for 5 s".to_owned()));
        elsewhere.engine_answered();
        assert_eq!(elsewhere.is_ready(), Ok(()));
    }
}
