//! `/debug/profile`: where the CPU time of the process goes, sampled by the process itself.
//!
//! While somebody waits for a profile, a timer of the kernel interrupts whichever thread is using
//! the CPU, and the interrupted thread writes down its own stack. Before the first profile there is
//! no timer, no signal and no memory; after it, the memory stays: some 250 MB with the names of a
//! release build, so resident sizes are not to be compared with those of a process that was never
//! profiled.
//!
//! The stack is unwound with the tables of the binary (DWARF). Frame pointers were tried, and take
//! less memory; but all code has to be built for them, and pprof then leaves out the innermost
//! function, which is the one where the time goes.
//!
//! The internal port has one thread, so a profile gets one of its own: it sleeps while the samples
//! gather, and turning addresses into names afterwards is slow.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::Write as _,
    io,
    sync::{
        Mutex, PoisonError, TryLockError,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    time::Duration,
};

use axum::{
    extract::{Form, rejection::FormRejection},
    http::{HeaderName, header},
};
use pprof::{Frames, ProfilerGuardBuilder, Symbol};
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::oneshot;

use super::http::problem::Problem;
use crate::{
    limits::{PROFILE_HZ_MAX, PROFILE_RETRY_AFTER, PROFILE_TIME_MAX},
    wire::code::ErrorCode,
};

/// Code in which no sample is taken: the unwinder's own, and the loader's, whose locks it may need.
///
/// pprof's advice is to leave out the C library too. But system calls return there, and nine in ten
/// samples of a busy hub are in `writev`. What that advice is afraid of is an unwinder that takes the
/// loader's lock: since glibc 2.35 and GCC 12 it finds its tables without (`_dl_find_object`).
const NOT_SAMPLED: &[&str] = &["libgcc", "ld-linux"];

/// The profiler belongs to the process, however many ports ask for it. Held from the first sample
/// to the last name.
static PROFILER: Mutex<()> = Mutex::new(());

/// What is asked for in the query.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wish {
    seconds: u64,
    /// Samples per second of CPU time.
    hz: i32,
}

impl Default for Wish {
    /// Not 100 Hz, which would beat in time with other timers.
    fn default() -> Self {
        Self { seconds: 10, hz: 99 }
    }
}

impl Wish {
    fn check(self) -> Result<(), Problem> {
        let bad = |detail: String| Err(Problem::new(ErrorCode::BadRequest).detail(detail));
        let seconds_max = PROFILE_TIME_MAX.as_secs();
        if !(1..=seconds_max).contains(&self.seconds) {
            return bad(format!("seconds must be 1 to {seconds_max}"));
        }
        if !(1..=PROFILE_HZ_MAX).contains(&self.hz) {
            return bad(format!("hz must be 1 to {PROFILE_HZ_MAX}"));
        }
        Ok(())
    }
}

/// Why there is no profile.
#[derive(Debug, Error)]
enum ProfileError {
    #[error("another profile is being taken")]
    Taken,
    #[error("whoever asked for the profile has gone")]
    Unwanted,
    #[error("the profiler failed")]
    Profiler(#[from] pprof::Error),
    #[error("a thread for the profile cannot be started")]
    Thread(#[source] io::Error),
    #[error("the thread of the profile has panicked")]
    Panicked,
}

impl From<ProfileError> for Problem {
    fn from(error: ProfileError) -> Self {
        match error {
            ProfileError::Taken | ProfileError::Profiler(pprof::Error::Running) => {
                Self::new(ErrorCode::Busy)
                    .detail(ProfileError::Taken.to_string())
                    .retry_after(PROFILE_RETRY_AFTER)
            }
            ProfileError::Unwanted
            | ProfileError::Profiler(_)
            | ProfileError::Thread(_)
            | ProfileError::Panicked => {
                tracing::warn!(error = &error as &dyn std::error::Error, "no profile");
                Self::new(ErrorCode::Internal).detail(error.to_string())
            }
        }
    }
}

/// Samples for as long as is asked for, and answers with folded stacks: a line for each, with the
/// thread, the frames from the outermost to the innermost, and the number of samples.
#[utoipa::path(
    get, path = "/debug/profile", tag = "health", operation_id = "take_profile",
    params(
        ("seconds" = Option<u64>, Query, minimum = 1, maximum = 60, description = "For how long; 10 without it."),
        ("hz" = Option<i32>, Query, minimum = 1, maximum = 999, description = "Samples a second of CPU time; 99 without it."),
    ),
    responses((status = 200, description = "Folded stacks.", body = String)),
)]
pub async fn profile(
    wish: Result<Form<Wish>, FormRejection>,
) -> Result<([(HeaderName, &'static str); 2], String), Problem> {
    let Form(wish) = wish
        .map_err(|rejection| Problem::new(ErrorCode::BadRequest).detail(rejection.body_text()))?;
    wish.check()?;
    let (answer, answered) = oneshot::channel();
    // Dropped with this future, when its client goes away.
    let (_waiting, is_waiting) = sync_channel(0);
    let sampling = move || {
        let profile = take(wish, &is_waiting);
        // Whoever asked may have gone meanwhile.
        let _ = answer.send(profile);
    };
    std::thread::Builder::new()
        .name("profile".to_owned())
        .spawn(sampling)
        .map_err(ProfileError::Thread)?;
    let stacks = answered.await.unwrap_or(Err(ProfileError::Panicked))?;
    let plain = (header::CONTENT_TYPE, "text/plain; charset=utf-8");
    Ok(([plain, (header::CACHE_CONTROL, "no-store")], stacks))
}

/// Blocks until the time is up, or until nobody waits any more.
fn take(wish: Wish, is_waiting: &Receiver<Infallible>) -> Result<String, ProfileError> {
    let _only = match PROFILER.try_lock() {
        Ok(only) => only,
        Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
        Err(TryLockError::WouldBlock) => return Err(ProfileError::Taken),
    };
    let guard =
        ProfilerGuardBuilder::default().frequency(wish.hz).blocklist(NOT_SAMPLED).build()?;
    match is_waiting.recv_timeout(Duration::from_secs(wish.seconds)) {
        Err(RecvTimeoutError::Timeout) => {}
        Err(RecvTimeoutError::Disconnected) => return Err(ProfileError::Unwanted),
        Ok(never) => match never {},
    }
    // Only copied while the timer still runs: names are looked up in the program's file, and that
    // would be sampled too.
    let samples = guard.report().build_unresolved()?;
    drop(guard);
    let samples = samples.data.into_iter().map(|(stack, count)| (Frames::from(stack), count));
    Ok(fold(samples))
}

/// One line for each stack. Threads of one name are one.
fn fold(samples: impl Iterator<Item = (Frames, isize)>) -> String {
    let mut stacks: BTreeMap<String, isize> = BTreeMap::new();
    for (stack, count) in samples {
        let mut line = frame(&stack.thread_name_or_id());
        let names = stack.frames.iter().rev().flat_map(|inlined| inlined.iter().rev());
        for name in names.map(Symbol::name).take_while(|name| !is_profilers_own(name)) {
            line.push(';');
            line.push_str(&frame(&name));
        }
        *stacks.entry(line).or_default() += count;
    }
    stacks.iter().fold(String::new(), |mut page, (line, count)| {
        let _ = writeln!(page, "{line} {count}");
        page
    })
}

/// The interrupted thread runs the profiler, which finds itself on the stack, innermost.
fn is_profilers_own(name: &str) -> bool {
    ["backtrace::", "pprof::", "<pprof::"].iter().any(|own| name.starts_with(own))
}

/// A name that does not end its frame or its line: `[u8; 4]` has what separates frames.
fn frame(name: &str) -> String {
    name.replace(';', ",").replace(char::is_control, " ")
}

#[cfg(test)]
mod tests;
