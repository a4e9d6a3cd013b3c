//! The log's own counters among the process's metrics: read when the page is asked for.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::counter::ConstCounter,
};

use crate::{
    engine::sqlite::stats::Stats,
    metrics::{Metrics, tally::Counter},
};

/// Adds what the log's threads count.
pub(super) fn register(metrics: &mut Metrics, stats: &Arc<Stats>) {
    let stats = Arc::clone(stats);
    metrics.register_others(|registry| registry.register_collector(Box::new(LogCounters(stats))));
}

#[derive(Debug)]
struct LogCounters(Arc<Stats>);

impl Collector for LogCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = &*self.0;
        let counters: [(&str, &str, &Counter); 8] = [
            ("log_commits", "Transactions committed, each one sync of the disk", &stats.commits),
            ("log_batches", "Batches committed", &stats.batches),
            ("log_messages", "Messages committed", &stats.messages),
            ("log_bytes", "Bytes of the batches committed", &stats.bytes),
            ("log_commits_failed", "Transactions that failed", &stats.commits_failed),
            ("log_checkpoints", "Checkpoints of the write-ahead log", &stats.checkpoints),
            ("log_reads", "Reads answered", &stats.reads),
            ("log_reads_failed", "Reads that the storage failed", &stats.reads_failed),
        ];
        for (name, help, counter) in counters {
            let counter = ConstCounter::new(counter.get());
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        let seconds = ConstCounter::new(stats.commit_time.sum_us() as f64 / 1e6);
        let help = "Time from the start of transactions to the end of their commits";
        let metric =
            encoder.encode_descriptor("log_commit_seconds", help, None, seconds.metric_type())?;
        seconds.encode(metric)
    }
}
