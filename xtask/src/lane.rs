//! The second lane: what steps need built or fetched is prepared ahead of their turn.
//!
//! Most tests wait, for deadlines and for each other, while a build or a download could go on. So one
//! process of the lowest priority goes through [`Step::prepare`](crate::steps::Step) of all steps, in
//! their order, and gets the time that the steps leave. It says when each is done; a step whose turn
//! comes before that waits for it, and then has the machine to share with nobody.
//!
//! A preparation only makes a step shorter. What fails here is not told: the step does the same again,
//! and tells.

use std::{
    env,
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdout, Stdio},
};

use crate::{root, tools::Command};

/// The subcommand that is the lane.
pub(crate) const PREPARE: &str = "prepare";

/// The process that prepares.
pub(crate) struct Lane {
    process: Child,
    /// A line for each step that is prepared.
    done: BufReader<ChildStdout>,
}

impl Lane {
    /// `None` where it cannot be started: then every step does all by itself.
    pub(crate) fn start() -> Option<Self> {
        let mut lane = Command::new("nice");
        lane.args(["-n", "19"]).arg(env::current_exe().ok()?).arg(PREPARE);
        Self::of(lane)
    }

    fn of(mut lane: Command) -> Option<Self> {
        lane.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = lane.current_dir(root()).spawn().ok()?;
        let done = BufReader::new(process.stdout.take()?);
        Some(Self { process, done })
    }

    /// Until this step is prepared, or the lane has ended.
    pub(crate) fn wait_for(&mut self, step: &str) {
        let mut line = String::new();
        while self.done.read_line(&mut line).is_ok_and(|bytes| bytes > 0) && line.trim() != step {
            line.clear();
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // All steps have waited for it: it has ended, or is about to.
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_step_waits_until_it_is_prepared_or_nothing_will_be() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo a; sleep 0.2; echo b"]);
        let started = Instant::now();
        let mut lane = Lane::of(command).unwrap();
        lane.wait_for("b");
        assert!(started.elapsed() >= Duration::from_millis(200));
        // It has ended, without a word about this one.
        lane.wait_for("c");
        assert!(Lane::of(Command::new("a program that is not there")).is_none());
    }
}
