//! Every counter and histogram, declared once; those of threads that know no registry are counted in
//! [`tally`]s, and read when the page is asked for.
//!
//! Names begin with `hubbub_`. Labels are fixed at compile time: a code has a label, a user or a
//! channel never does.

use std::{fmt::Write as _, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::wire::code::{CloseCode, ErrorCode};

pub mod tally;

/// The process's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Open WebSocket connections.
    pub connections: Gauge,
    /// Publishes that were taken in, whatever became of them.
    pub publishes: Counter,
    /// Frames that a resume was served.
    pub replayed_frames: Counter,
    /// Channels that were sealed because their stored log is damaged.
    pub channels_sealed: Counter,
    /// Committed batches that were handed to another shard, once for each.
    pub crossings: Counter,
    /// Events that are not in a log, handed to a connection.
    pub ephemeral_sent: Counter,
    /// The same, dropped because the connection's outbox was half full.
    pub ephemeral_dropped: Counter,
    /// Users on other nodes that are not counted here, for want of room.
    pub presence_dropped: Counter,
    /// Batches of publishes that the owner of their channel, another node, was asked to write.
    pub forwards: Counter,
    /// Those of them that it has answered.
    pub forwards_answered: Counter,
    /// Those of which this node has written some or all itself.
    pub forwards_taken_back: Counter,
    /// Times that all channels looked at their logs, because news of other nodes were missed.
    pub feed_resets: Counter,
    /// Nodes of the cluster that live, this one too; 0: there is no cluster.
    pub nodes: Gauge,
    /// Bytes written to WebSockets.
    pub written_bytes: Counter,
    /// Write calls on WebSockets.
    pub writes: Counter,
    messages: Counter,
    deliveries: Counter,
    batch_messages: Histogram,
    compressions: Family<CompressedLabel, Counter>,
    compress_seconds: Counter<f64, AtomicU64>,
    inflate_seconds: Counter<f64, AtomicU64>,
    inflated_messages: Counter,
    inflated_bytes: Counter,
    deflated_frames: Counter,
    deflate_saved_bytes: Counter,
    refused: Family<CodeLabel, Counter>,
    closed: Family<CodeLabel, Counter>,
    /// Revocations that the shards were told of.
    pub revocations: Counter,
    /// Attempts to read the revocation feed that failed.
    pub revocation_feed_errors: Counter,
    /// When the revocation feed was last read, in seconds since 1970.
    pub revocation_feed_read: Gauge,
    revoked_connections: Counter,
    revocation_lag: Histogram,
}

/// What is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Compressed {
    /// A committed batch, for all of its subscribers of one encoding.
    Batch,
    /// What a resume is served.
    Replay,
    /// A page of history.
    Page,
}

/// The bounds of the lags that are told apart, in seconds: the promise is one.
const REVOCATION_LAG_S: [f64; 9] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct CompressedLabel {
    of: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct CodeLabel {
    code: u16,
    name: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("hubbub"),
            connections: Gauge::default(),
            publishes: Counter::default(),
            replayed_frames: Counter::default(),
            channels_sealed: Counter::default(),
            crossings: Counter::default(),
            ephemeral_sent: Counter::default(),
            ephemeral_dropped: Counter::default(),
            presence_dropped: Counter::default(),
            forwards: Counter::default(),
            forwards_answered: Counter::default(),
            forwards_taken_back: Counter::default(),
            feed_resets: Counter::default(),
            nodes: Gauge::default(),
            written_bytes: Counter::default(),
            writes: Counter::default(),
            messages: Counter::default(),
            deliveries: Counter::default(),
            batch_messages: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            compressions: Family::default(),
            compress_seconds: Counter::default(),
            inflate_seconds: Counter::default(),
            inflated_messages: Counter::default(),
            inflated_bytes: Counter::default(),
            deflated_frames: Counter::default(),
            deflate_saved_bytes: Counter::default(),
            refused: Family::default(),
            closed: Family::default(),
            revocations: Counter::default(),
            revocation_feed_errors: Counter::default(),
            revocation_feed_read: Gauge::default(),
            revoked_connections: Counter::default(),
            revocation_lag: Histogram::new(REVOCATION_LAG_S),
        };
        metrics.registered()
    }
}

impl Metrics {
    /// A batch of `messages` was committed, and is handed out.
    pub fn committed(&self, messages: u64) {
        self.messages.inc_by(messages);
        self.batch_messages.observe(messages as f64);
    }

    /// A batch of `messages` was handed to `subscribers`.
    pub fn delivered(&self, messages: u64, subscribers: usize) {
        self.deliveries.inc_by(messages * subscribers as u64);
    }

    /// A frame was compressed, whether it got smaller or not.
    pub fn compressed(&self, what: Compressed, took: Duration) {
        let of = match what {
            Compressed::Batch => "batch",
            Compressed::Replay => "replay",
            Compressed::Page => "page",
        };
        self.compressions.get_or_create(&CompressedLabel { of }).inc();
        self.compress_seconds.inc_by(took.as_secs_f64());
    }

    /// So many frames went out compressed, and would have had so many bytes more.
    pub fn sent_deflated(&self, frames: u64, saved_bytes: u64) {
        self.deflated_frames.inc_by(frames);
        self.deflate_saved_bytes.inc_by(saved_bytes);
    }

    /// So many messages of clients were inflated, to so many bytes.
    pub fn inflated(&self, messages: u64, bytes: u64, took: Duration) {
        self.inflated_messages.inc_by(messages);
        self.inflated_bytes.inc_by(bytes);
        self.inflate_seconds.inc_by(took.as_secs_f64());
    }

    /// A command or request was refused.
    pub fn refused(&self, code: ErrorCode) {
        self.refused.get_or_create(&CodeLabel { code: code.number(), name: code.name() }).inc();
    }

    /// A connection was closed by the server.
    pub fn closed(&self, code: CloseCode) {
        self.closed.get_or_create(&CodeLabel { code: code.number(), name: code.name() }).inc();
    }

    /// A connection was closed because its login was revoked so long ago.
    pub fn revoked(&self, lag_ms: u64) {
        self.revoked_connections.inc();
        self.revocation_lag.observe(lag_ms as f64 / 1000.0);
    }

    /// All of it in the Prometheus text format.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut page = String::new();
        if text::encode(&mut page, &self.registry).is_err() {
            let _ = writeln!(page, "# not encodable");
        }
        page
    }

    /// Adds metrics that another part of the program keeps.
    pub fn register_others(&mut self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry);
    }

    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        let mut add = |name: &str, help: &str, counter: &Counter| {
            registry.register(name, help, counter.clone());
        };
        add("publishes", "Publishes taken in", &self.publishes);
        add("messages", "Messages committed and handed out", &self.messages);
        add("deliveries", "Messages handed to subscribers, once for each", &self.deliveries);
        add("replayed_frames", "Frames that resumes were served", &self.replayed_frames);
        add("channels_sealed", "Channels sealed: their log is damaged", &self.channels_sealed);
        add("crossings", "Batches handed to another shard, once for each", &self.crossings);
        add("ephemeral_sent", "Events beside the logs handed to connections", &self.ephemeral_sent);
        add(
            "ephemeral_dropped",
            "Events beside the logs not handed to connections that lag",
            &self.ephemeral_dropped,
        );
        add(
            "presence_dropped",
            "Users on other nodes not counted here for want of room",
            &self.presence_dropped,
        );
        add("forwards", "Batches that another node was asked to write", &self.forwards);
        add("forwards_answered", "Those that it has answered", &self.forwards_answered);
        add(
            "forwards_taken_back",
            "Those that were written here after all, or partly",
            &self.forwards_taken_back,
        );
        add("feed_resets", "Times that news of other nodes were missed", &self.feed_resets);
        add("written_bytes", "Bytes written to WebSockets", &self.written_bytes);
        add("writes", "Write calls on WebSockets", &self.writes);
        add("deflated_frames", "Frames sent compressed", &self.deflated_frames);
        add(
            "deflate_saved_bytes",
            "Bytes not sent: plain less compressed",
            &self.deflate_saved_bytes,
        );
        add("inflated_messages", "Messages of clients inflated", &self.inflated_messages);
        add("inflated_bytes", "Bytes that came out of them", &self.inflated_bytes);
        registry.register(
            "compressions",
            "Frames compressed, each for all who get it",
            self.compressions.clone(),
        );
        registry.register(
            "compress_seconds",
            "Time that compressing took on the hub's threads",
            self.compress_seconds.clone(),
        );
        registry.register(
            "inflate_seconds",
            "Time that inflating took on the hub's threads",
            self.inflate_seconds.clone(),
        );
        registry.register("nodes", "Nodes of the cluster that live", self.nodes.clone());
        registry.register("connections", "Open WebSocket connections", self.connections.clone());
        registry.register(
            "batch_messages",
            "Messages of one committed batch",
            self.batch_messages.clone(),
        );
        registry.register("refused", "Commands and requests refused", self.refused.clone());
        registry.register(
            "revocations_applied",
            "Revocations that the shards were told of",
            self.revocations.clone(),
        );
        registry.register(
            "revoked_connections",
            "Connections closed because their login was revoked",
            self.revoked_connections.clone(),
        );
        registry.register(
            "revocation_lag_seconds",
            "From a revocation to the close of each connection that it is about",
            self.revocation_lag.clone(),
        );
        registry.register(
            "revocation_feed_errors",
            "Attempts to read the revocation feed that failed",
            self.revocation_feed_errors.clone(),
        );
        registry.register(
            "revocation_feed_read_timestamp_seconds",
            "When the revocation feed was last read, since 1970",
            self.revocation_feed_read.clone(),
        );
        registry.register("closed", "Connections closed by the server", self.closed.clone());
        self
    }
}
