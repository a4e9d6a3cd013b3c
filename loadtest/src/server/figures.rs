//! What the server used and did: `/proc` and its own metrics, over all its lives in a run.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::Result;

use crate::outcome::Figures;

/// Follows one server, which may be killed and started again.
#[derive(Debug)]
pub(crate) struct Observer {}

/// Everything up to a moment. What counts up is added up over the server's lives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) cpu: Duration,
    /// CPU time by thread name.
    pub(crate) threads: BTreeMap<String, Duration>,
    pub(crate) resident_bytes: u64,
    /// Of all threads, voluntary and not.
    pub(crate) context_switches: u64,
    /// The counters of its metrics, by their names without labels.
    pub(crate) counters: BTreeMap<String, f64>,
}

impl Observer {
    /// Of the process of this id, if it is on this machine, and of its internal port, if that can
    /// be reached.
    pub(crate) fn new(_pid: Option<u32>, _internal: Option<SocketAddr>) -> Self {
        todo!()
    }

    /// The server has been started again.
    pub(crate) fn follow(&mut self, _pid: u32) {
        todo!()
    }

    /// What it used up to now. While the server is down, what it had used before.
    pub(crate) async fn sample(&mut self) -> Result<Sample> {
        todo!()
    }
}

impl Sample {
    /// Adds the figures `server.…` of the time since an earlier sample.
    pub(crate) fn figures(
        &self,
        _earlier: &Self,
        _time: Duration,
        _deliveries: u64,
        _figures: &mut Figures,
    ) {
        todo!()
    }
}
