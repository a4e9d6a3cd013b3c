//! The view while a run goes on: a progress bar and the figures of the last second. Only on a
//! terminal; elsewhere a line per phase.

use std::time::Duration;

use crate::{
    outcome::Second,
    scenario::{Scenario, schedule::Phase},
};

#[derive(Debug)]
pub(crate) struct Live {}

impl Live {
    pub(crate) fn new(_scenario: &Scenario) -> Self {
        todo!()
    }

    pub(crate) fn phase(&mut self, _phase: Phase, _at: Duration) {
        todo!()
    }

    pub(crate) fn second(&mut self, _second: &Second) {
        todo!()
    }

    /// Something that people should know: the server was killed, and is back.
    pub(crate) fn note(&mut self, _text: &str) {
        todo!()
    }

    pub(crate) fn end(&mut self) {
        todo!()
    }
}
