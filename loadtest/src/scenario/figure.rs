//! Every figure that a run can have: what it is told in, and which direction is better.
//!
//! The names are those of [`Figures`](crate::outcome::Figures).

/// What a figure is told in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Milliseconds.
    Time,
    Bytes,
    Percent,
    /// A number that has no unit, or has it in its name.
    Plain,
}

/// Which direction is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    Lower,
    Higher,
    /// It says how much was done, not how well.
    Neither,
}

/// What there is to know of a figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) better: Better,
}

/// Each with the suffixes of `LATENCY`.
const LATENCIES: [&str; 12] = [
    "handshake",
    "login",
    "subscribe",
    "reconnect",
    "storm.login",
    "storm.refusal",
    "calm.deliver",
    "storm.deliver",
    "ack",
    "first",
    "last",
    "deliver",
];

const LATENCY: [(&str, Kind, Better); 8] = [
    ("count", Kind::Plain, Better::Neither),
    ("p50", Kind::Time, Better::Lower),
    ("p90", Kind::Time, Better::Lower),
    ("p95", Kind::Time, Better::Lower),
    ("p99", Kind::Time, Better::Lower),
    ("p99.9", Kind::Time, Better::Lower),
    ("p99.99", Kind::Time, Better::Lower),
    ("max", Kind::Time, Better::Lower),
];

const FIGURES: [(&str, Kind, Better); 60] = [
    ("users", Kind::Plain, Better::Neither),
    ("messages", Kind::Plain, Better::Neither),
    ("acks", Kind::Plain, Better::Neither),
    ("deliveries", Kind::Plain, Better::Neither),
    ("messages_per_s", Kind::Plain, Better::Higher),
    ("deliveries_per_s", Kind::Plain, Better::Higher),
    ("lost", Kind::Plain, Better::Lower),
    ("acknowledged_lost", Kind::Plain, Better::Lower),
    ("violations", Kind::Plain, Better::Lower),
    ("errors", Kind::Plain, Better::Lower),
    ("reconnects", Kind::Plain, Better::Neither),
    ("gaps", Kind::Plain, Better::Neither),
    ("slow_closed", Kind::Plain, Better::Neither),
    ("probed", Kind::Plain, Better::Neither),
    ("unsent", Kind::Plain, Better::Lower),
    ("unacknowledged", Kind::Plain, Better::Lower),
    ("never_connected", Kind::Plain, Better::Lower),
    ("reconnect.rate", Kind::Plain, Better::Higher),
    ("reconnect.cut", Kind::Plain, Better::Neither),
    ("reconnect.resumed", Kind::Plain, Better::Neither),
    ("reconnect.replayed", Kind::Plain, Better::Neither),
    ("reconnect.hashes", Kind::Plain, Better::Lower),
    ("reconnect.server_us", Kind::Plain, Better::Lower),
    ("reconnect.hub_us", Kind::Plain, Better::Lower),
    ("reconnect.edge_us", Kind::Plain, Better::Lower),
    ("reconnect.generator_us", Kind::Plain, Better::Lower),
    ("reconnect.generator_percent", Kind::Percent, Better::Lower),
    ("storm.deliver_excess", Kind::Time, Better::Lower),
    ("storm.capacity", Kind::Plain, Better::Higher),
    ("storm.offered", Kind::Plain, Better::Neither),
    ("storm.valid", Kind::Plain, Better::Higher),
    ("storm.valid_share", Kind::Plain, Better::Higher),
    ("storm.denied", Kind::Plain, Better::Neither),
    ("storm.refused_429", Kind::Plain, Better::Neither),
    ("storm.refused_503", Kind::Plain, Better::Neither),
    ("storm.other_answers", Kind::Plain, Better::Lower),
    ("storm.unanswered", Kind::Plain, Better::Lower),
    ("storm.unsent", Kind::Plain, Better::Lower),
    ("storm.wrong", Kind::Plain, Better::Lower),
    ("storm.hashes", Kind::Plain, Better::Neither),
    ("storm.valid_by_hashes", Kind::Plain, Better::Higher),
    ("storm.generator_percent", Kind::Percent, Better::Lower),
    ("generator.cpu_percent", Kind::Percent, Better::Lower),
    ("generator.lag.p99", Kind::Time, Better::Lower),
    ("generator.lag.max", Kind::Time, Better::Lower),
    ("generator.dropped_samples", Kind::Plain, Better::Lower),
    ("server.cpu_percent", Kind::Percent, Better::Lower),
    ("server.hub_percent", Kind::Percent, Better::Lower),
    ("server.cpu_us_per_delivery", Kind::Plain, Better::Lower),
    ("server.hub_us_per_delivery", Kind::Plain, Better::Lower),
    ("server.rss_bytes", Kind::Bytes, Better::Lower),
    ("server.rss_bytes_max", Kind::Bytes, Better::Lower),
    ("server.rss_growth_bytes", Kind::Bytes, Better::Lower),
    ("server.bytes_per_connection", Kind::Bytes, Better::Lower),
    ("server.bytes_per_further_connection", Kind::Bytes, Better::Lower),
    ("server.context_switches_per_s", Kind::Plain, Better::Lower),
    ("server.fsyncs_per_s", Kind::Plain, Better::Neither),
    ("server.messages_per_batch", Kind::Plain, Better::Neither),
    ("server.wire_bytes_per_delivery", Kind::Bytes, Better::Lower),
    ("server.deliveries_per_write", Kind::Plain, Better::Higher),
];

/// All, in the order in which people look at them.
pub(crate) fn all() -> impl Iterator<Item = Figure> {
    let latencies = LATENCIES.iter().rev().flat_map(|latency| {
        LATENCY.iter().map(move |&(suffix, kind, better)| Figure {
            name: format!("{latency}.{suffix}"),
            kind,
            better,
        })
    });
    let others = FIGURES.iter();
    let others = others.map(|&(name, kind, better)| Figure { name: name.to_owned(), kind, better });
    latencies.chain(others)
}

/// The one of this name.
pub(crate) fn find(name: &str) -> Option<Figure> {
    all().find(|figure| figure.name == name)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use super::*;
    use crate::{latency::Latency, outcome::Figures};

    #[test]
    fn every_figure_of_a_latency_is_known() {
        let mut figures = Figures::new();
        let mut latency = Latency::new();
        latency.record(Duration::from_millis(1));
        LATENCIES.iter().for_each(|name| latency.figures(name, &mut figures));
        assert!(figures.keys().all(|name| find(name).is_some()), "{figures:?}");
        assert_eq!(figures.len(), LATENCIES.len() * LATENCY.len());
    }

    #[test]
    fn the_document_names_the_same_figures() {
        let documented = include_str!("../outcome.rs");
        let documented = documented.split("pub(crate) type Figures").next().unwrap();
        let documented = documented.split("Figures by name").nth(1).unwrap();
        let quoted = documented.split('`').skip(1).step_by(2);
        let documented: BTreeSet<_> = quoted.filter(|name| !name.starts_with('.')).collect();
        let known: BTreeSet<_> =
            LATENCIES.into_iter().chain(FIGURES.iter().map(|(name, ..)| *name)).collect();
        assert_eq!(known, documented);
    }
}
