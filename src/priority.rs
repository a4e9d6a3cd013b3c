//! How far a thread stands back for the others.

use std::io;

/// Of a thread whose work can wait for everything else's.
pub const LOWEST: i32 = 19;

/// Lowers the priority of this thread, and of those that it starts, unless it is as low already:
/// Linux takes a thread's id where others want a process's. (`SCHED_BATCH` would be a hint more;
/// rustix has no safe call for it.)
pub fn lower_to(niceness: i32) {
    let thread = Some(rustix::thread::gettid());
    let lowered = rustix::process::getpriority_process(thread)
        .and_then(|now| rustix::process::setpriority_process(thread, now.max(niceness)));
    if let Err(error) = lowered {
        tracing::warn!(error = %io::Error::from(error), "the priority of a thread could not be lowered");
    }
}
