//! What a run showed, as one document: JSON for machines, the source of the page, of the thresholds
//! and of comparisons.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::scenario::{Scenario, schedule::Phase};

/// The layout of the document. It changes when a figure changes its meaning.
pub(crate) const VERSION: u32 = 1;

/// Figures by name. Times are in milliseconds, sizes in bytes, shares in percent.
///
/// - `handshake`, `login`, `subscribe`, `reconnect`, `storm.login`, `storm.refusal`, `calm.deliver`,
///   `storm.deliver`, `ack`, `first`, `last`, `deliver`, each with `.count`, `.p50`, `.p90`, `.p95`, `.p99`, `.p99.9`, `.p99.99`, `.max`
/// - `users`, `messages`, `acks`, `deliveries`, `messages_per_s`, `deliveries_per_s` (plateau)
/// - `lost` (deliveries), `acknowledged_lost`, `violations`, `errors`, `reconnects`, `gaps`, `unsent`,
///   `slow_closed` (slow readers), `probed` (messages that history was asked for at once),
///   `unacknowledged` (publishes at the end), `never_connected` (users)
/// - `reconnect.rate` (users back in their channels per second, after all were cut off),
///   `reconnect.cut`, `reconnect.resumed`, `reconnect.replayed` (messages), `reconnect.hashes` (of
///   passwords), `reconnect.server_us`, `reconnect.hub_us`, `reconnect.edge_us`,
///   `reconnect.generator_us` (CPU time, by users who came back), `reconnect.generator_percent`
/// - `storm.deliver_excess` (of the p99 of deliveries in the storm, beyond a fifth or 5 ms more than
///   before it), `storm.capacity`, `storm.offered`, `storm.valid` (logins per second that the server
///   can do, that were due, and that were answered with a token), `storm.valid_share` (of the
///   capacity), `storm.hashes` (per second), `storm.valid_by_hashes`, `storm.denied`,
///   `storm.refused_429`, `storm.refused_503`, `storm.other_answers`, `storm.unanswered`, `storm.unsent`, `storm.wrong`,
///   `storm.generator_percent`
/// - `generator.cpu_percent`, `generator.lag.p99`, `generator.lag.max`, `generator.dropped_samples`
/// - `server.cpu_percent`, `server.hub_percent`, `server.cpu_us_per_delivery`,
///   `server.hub_us_per_delivery`, `server.rss_bytes`, `server.rss_bytes_max`,
///   `server.rss_growth_bytes` (by logins), `server.bytes_per_connection`, `server.bytes_per_further_connection` (beyond 1,000),
///   `server.context_switches_per_s`, `server.fsyncs_per_s`, `server.messages_per_batch`, `server.wire_bytes_per_delivery`, `server.deliveries_per_write`
///
/// A figure that was not measured is not there.
pub(crate) type Figures = BTreeMap<String, f64>;

/// The document.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) version: u32,
    /// `hubbub` that was loaded, where it tells: the version of its welcome.
    pub(crate) server_version: Option<String>,
    /// When the run began, in RFC 3339.
    pub(crate) began_at: String,
    pub(crate) scenario: Scenario,
    pub(crate) figures: Figures,
    /// p90, p95 and p99 of every delivery, as the reference report prints them.
    pub(crate) percentiles_ms: [f64; 3],
    pub(crate) thresholds: Vec<Judged>,
    pub(crate) violations: u64,
    /// The first violations, a sentence each.
    pub(crate) evidence: Vec<String>,
    /// Failed attempts and closed connections, by what was said.
    pub(crate) errors: BTreeMap<String, u64>,
    /// What an honest reader must know: a generator that was the bottleneck, samples dropped, …
    pub(crate) warnings: Vec<String>,
    /// In seconds since the beginning of the run.
    pub(crate) phases: Vec<PhaseSpan>,
    pub(crate) seconds: Vec<Second>,
    /// By the name of the latency: points of its HDR curve, `[quantile, ms]`, up to the maximum.
    pub(crate) curves: BTreeMap<String, Vec<[f64; 2]>>,
    /// CPU of the server's threads on the plateau, in percent of a core, by name.
    pub(crate) server_threads: BTreeMap<String, f64>,
    /// CPU of all processes of a cluster on the plateau, in percent of a core, by name.
    #[serde(default)]
    pub(crate) processes: BTreeMap<String, f64>,
    /// What chaos did, in seconds since the beginning of the run.
    pub(crate) chaos: Vec<Incident>,
}

/// A threshold and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Judged {
    pub(crate) text: String,
    pub(crate) value: Option<f64>,
    pub(crate) holds: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct PhaseSpan {
    pub(crate) phase: Phase,
    pub(crate) begins: f64,
    pub(crate) ends: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Incident {
    pub(crate) at: f64,
    pub(crate) what: String,
}

/// One second of the run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Second {
    /// Its end, in seconds since the beginning of the run.
    pub(crate) at: f64,
    pub(crate) connected: u32,
    pub(crate) active: u32,
    pub(crate) messages: u64,
    pub(crate) acks: u64,
    pub(crate) deliveries: u64,
    pub(crate) errors: u64,
    pub(crate) reconnects: u64,
    /// p50, p90, p95, p99 and max in milliseconds; `None` where nothing was measured.
    pub(crate) deliver: Option<[f64; 5]>,
    pub(crate) ack: Option<[f64; 5]>,
    pub(crate) login: Option<[f64; 5]>,
    /// How late the generator came to what was due, at most, in milliseconds.
    pub(crate) lag_max: f64,
    /// In percent of a core.
    pub(crate) generator_cpu: f64,
    pub(crate) server_cpu: Option<f64>,
    pub(crate) server_rss_bytes: Option<u64>,
}
