//! The counters of tokens and keys among the process's metrics: read when the page is asked for.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter},
};

use crate::{
    auth::trust::stats::Stats,
    metrics::{Metrics, tally::Counter},
};

/// Adds what verifying tokens counts.
pub(super) fn register(metrics: &mut Metrics, stats: &Arc<Stats>) {
    let stats = Arc::clone(stats);
    metrics.register_others(|registry| registry.register_collector(Box::new(TrustCounters(stats))));
}

#[derive(Debug)]
struct TrustCounters(Arc<Stats>);

impl Collector for TrustCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = &*self.0;
        family(
            &mut encoder,
            ("tokens_accepted", "Tokens that were good, by whether that was known before"),
            "by",
            &[("signature", &stats.verified), ("cache", &stats.cached)],
        )?;
        family(
            &mut encoder,
            ("tokens_refused", "Tokens that were not good, by what was wrong with them"),
            "for",
            &[
                ("expired", &stats.refused_expired),
                ("claims", &stats.refused_claims),
                ("key", &stats.refused_key),
                ("signature", &stats.refused_signature),
                ("keys_unavailable", &stats.refused_unavailable),
            ],
        )?;
        family(
            &mut encoder,
            ("key_fetches", "Documents of keys that were asked for, by outcome"),
            "outcome",
            &[("fetched", &stats.fetches), ("failed", &stats.fetches_failed)],
        )
    }
}

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    label: &str,
    counters: &[(&str, &Counter)],
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, counter) in counters {
        let counter = ConstCounter::new(counter.get());
        counter.encode(metric.encode_family(&[(label, *value)])?)?;
    }
    Ok(())
}
