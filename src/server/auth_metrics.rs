//! The auth workers' own counters among the process's metrics: read when the page is asked for.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use crate::{
    auth::workers::{
        Class,
        stats::{ByClass, Stats},
    },
    metrics::{
        Metrics,
        tally::{BUCKET_BOUNDS_US, Counter, Durations},
    },
};

/// Adds what the auth workers count.
pub(super) fn register(metrics: &mut Metrics, stats: &Arc<Stats>) {
    let stats = Arc::clone(stats);
    metrics.register_others(|registry| registry.register_collector(Box::new(AuthCounters(stats))));
}

#[derive(Debug)]
struct AuthCounters(Arc<Stats>);

const CLASSES: [(&str, Class); 2] = [("known", Class::Known), ("stranger", Class::Stranger)];

impl Collector for AuthCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = &*self.0;
        let kinds = [("hash", &stats.hashed), ("verify", &stats.verified)];
        let help = "Passwords hashed, by what for and for whom";
        let mut family =
            encoder.encode_descriptor("auth_hashes", help, None, MetricType::Counter)?;
        for (kind, numbers) in kinds {
            for (name, class) in CLASSES {
                let labels = [("kind", kind), ("class", name)];
                let counter = ConstCounter::new(numbers.of(class).get());
                counter.encode(family.encode_family(&labels)?)?;
            }
        }
        let labels = [("kind", "rehash"), ("class", "known")];
        ConstCounter::new(stats.rehashed.get()).encode(family.encode_family(&labels)?)?;

        let counters: [(&str, &str, &ByClass<Counter>); 3] = [
            ("auth_refused", "Passwords refused because too many waited", &stats.refused),
            ("auth_expired", "Passwords that waited too long or for nobody", &stats.expired),
            ("auth_failed", "Passwords whose stored hash was unusable", &stats.failed),
        ];
        for (name, help, numbers) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (label, class) in CLASSES {
                let counter = ConstCounter::new(numbers.of(class).get());
                counter.encode(family.encode_family(&[("class", label)])?)?;
            }
        }

        let help = "Passwords that wait to be hashed";
        let mut family =
            encoder.encode_descriptor("auth_waiting", help, None, MetricType::Gauge)?;
        for (label, class) in CLASSES {
            let gauge = ConstGauge::new(stats.waiting.of(class).get());
            gauge.encode(family.encode_family(&[("class", label)])?)?;
        }
        let gauges = [
            ("auth_workers", "Threads that hash passwords", stats.workers.get()),
            ("auth_memory_bytes", "Memory that they hold to hash in", stats.memory_bytes.get()),
        ];
        for (name, help, number) in gauges {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(number).encode(metric)?;
        }

        let help = "Time that a hash took on its thread";
        encode_durations(&mut encoder, "auth_hash_seconds", help, &stats.hash_time)?;
        let help = "Time that a password waited to be hashed";
        encode_durations(&mut encoder, "auth_wait_seconds", help, &stats.wait_time)
    }
}

fn encode_durations(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    durations: &Durations,
) -> Result<(), fmt::Error> {
    let counts = durations.buckets();
    let bounds = BUCKET_BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
    let (sum, count) = (durations.sum_us() as f64 / 1e6, counts.iter().sum());
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;

    use super::*;
    use crate::auth::{
        password::{Cost, Password},
        workers::{Options, Workers},
    };

    #[tokio::test]
    async fn the_page_has_what_the_workers_did() {
        let cost = Cost { memory: ByteSize::kib(64), passes: 1, lanes: 1 };
        let workers = Workers::start(Options { cost, min: 1, max: 1 }, || {}).unwrap();
        let mut metrics = Metrics::default();
        register(&mut metrics, &workers.stats());
        let password = Password::new("correct horse".to_owned()).unwrap();
        workers.hash(password.clone(), Class::Stranger).await.unwrap();
        workers.verify(password, None, Class::Known).await.unwrap();
        let page = metrics.to_text();
        for line in [
            "hubbub_auth_hashes_total{kind=\"hash\",class=\"stranger\"} 1",
            "hubbub_auth_hashes_total{kind=\"hash\",class=\"known\"} 0",
            "hubbub_auth_hashes_total{kind=\"verify\",class=\"known\"} 1",
            "hubbub_auth_refused_total{class=\"stranger\"} 0",
            "hubbub_auth_waiting{class=\"known\"} 0",
            "hubbub_auth_workers 1",
            "hubbub_auth_memory_bytes 65536",
            "hubbub_auth_hash_seconds_bucket{le=\"+Inf\"} 2",
            "hubbub_auth_wait_seconds_count 2",
        ] {
            assert!(page.lines().any(|one| one == line), "{line}\n{page}");
        }
    }
}
