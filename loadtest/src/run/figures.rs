//! What the conductor saw and what the swarm brought home → the figures of an [`Outcome`].

use std::{collections::BTreeMap, time::Duration};

use super::{returns, storm};
use crate::{
    latency::Latency,
    outcome::{Figures, Incident, Judged, Outcome, PhaseSpan, Second, VERSION},
    scenario::{Scenario, schedule::Phase, threshold::Threshold},
    server::{observer::Sample, usage::Usage},
    swarm::{Harvest, Latencies},
};

/// Beyond this share of its core a thread may be what is slow.
pub(crate) const BUSY_PERCENT: f64 = 85.0;
/// Beyond this the generator comes too late to what is due, in milliseconds.
const LAG_P99_MAX: f64 = 10.0;

/// What the conductor wrote down.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) phases: Vec<PhaseSpan>,
    pub(super) seconds: Vec<Second>,
    pub(super) chaos: Vec<Incident>,
    pub(super) warnings: Vec<String>,
    /// A profile leaves hundreds of MiB of names in the server's memory.
    pub(super) is_profiled: bool,
    pub(super) samples: Samples,
}

/// The server at the moments that matter, by the time since the beginning of the run.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// Before the first user.
    pub(super) before: Option<Sample>,
    /// At the end of the last second, which is in seconds as there.
    pub(super) last: Option<(f64, Sample)>,
    /// At the beginning and the end of what is measured.
    pub(super) begins: Option<(Duration, Sample)>,
    pub(super) ends: Option<(Duration, Sample)>,
    pub(super) resident_bytes_max: u64,
    /// Most connections at once, and the server's memory then.
    pub(super) connected: Option<(u32, u64)>,
    /// The same in the first second with [`WARM_CONNECTIONS`].
    pub(super) warm: Option<(u32, u64)>,
    /// Whenever all connections had been cut: before they were made again, and when all were back.
    pub(super) returns: Vec<(Sample, Option<Sample>)>,
    pub(super) storm: storm::Samples,
    /// What the processes of a cluster had used at the beginning and the end of what is measured.
    pub(super) cluster: (Option<Processes>, Option<Processes>),
}

/// Processes by name, at this time.
pub(super) type Processes = (Duration, Vec<(String, Usage)>);

/// So many connections let a server make what it makes once, whoever comes.
pub(super) const WARM_CONNECTIONS: u32 = 1_000;

/// Figures that a profile makes meaningless.
const MEMORY: [&str; 4] = [
    "server.rss_bytes",
    "server.rss_bytes_max",
    "server.bytes_per_connection",
    "server.bytes_per_further_connection",
];

/// Everything about a run.
pub(super) fn outcome(
    scenario: &Scenario,
    began_at: String,
    notes: Notes,
    harvest: Harvest,
) -> Outcome {
    let samples = &notes.samples;
    let mut figures = Figures::new();
    of_latencies(&harvest.latencies, &mut figures);
    of_counts(&harvest, measured_time(&notes.phases), &mut figures);
    let deliveries = match plateaus(&notes.phases).count() {
        0 | 1 => harvest.totals.plateau_deliveries,
        // The server is sampled from the first to the last, and what is between them counts too.
        _ => samples.deliveries_between(&notes.seconds),
    };
    samples.figures(deliveries, &mut figures);
    returns::figures(&harvest.returns, &samples.returns, &scenario.hashes_metric, &mut figures);
    if let Some(it) = &harvest.storm {
        storm::figures(&it.0, &it.1, &samples.storm, &scenario.hashes_metric, &mut figures);
    }
    figures.insert("users".to_owned(), f64::from(scenario.users));

    if notes.is_profiled {
        figures.retain(|name, _| !MEMORY.contains(&name.as_str()));
    }

    let judge = |threshold: &Threshold| {
        let (value, holds) = threshold.judge(&figures);
        Judged { text: threshold.text().to_owned(), value, holds }
    };
    let thresholds = scenario.thresholds.iter().map(judge).collect();
    let mut warnings = of_generator(&figures);
    let server_threads = samples.threads();
    let processes = samples.processes();
    warnings.extend(notes.warnings);
    Outcome {
        version: VERSION,
        server_version: harvest.server_version,
        began_at,
        scenario: scenario.clone(),
        percentiles_ms: harvest.latencies.deliver.percentiles_ms(),
        thresholds,
        violations: harvest.findings.violations,
        evidence: harvest.findings.evidence,
        errors: harvest.errors,
        warnings,
        phases: notes.phases,
        seconds: notes.seconds,
        curves: curves(&harvest.latencies),
        server_threads,
        processes,
        chaos: notes.chaos,
        figures,
    }
}

fn plateaus(phases: &[PhaseSpan]) -> impl Iterator<Item = &PhaseSpan> {
    phases.iter().filter(|it| it.phase == Phase::Plateau)
}

/// All plateaus together, without what is between them. Where there is none, all stages.
fn measured_time(phases: &[PhaseSpan]) -> Duration {
    let has_plateau = plateaus(phases).next().is_some();
    let seconds = |it: &PhaseSpan| (it.ends - it.begins).max(0.0);
    let measured = phases.iter().filter(|it| it.phase.is_measured(has_plateau));
    Duration::from_secs_f64(measured.map(seconds).sum())
}

fn each(latencies: &Latencies) -> [(&'static str, &Latency); 8] {
    let Latencies { handshake, login, subscribe, reconnect, ack, first, last, deliver, lag: _ } =
        latencies;
    [
        ("handshake", handshake),
        ("login", login),
        ("subscribe", subscribe),
        ("reconnect", reconnect),
        ("ack", ack),
        ("first", first),
        ("last", last),
        ("deliver", deliver),
    ]
}

fn of_latencies(latencies: &Latencies, figures: &mut Figures) {
    for (name, latency) in each(latencies) {
        latency.figures(name, figures);
    }
    if latencies.lag.count() > 0 {
        figures.insert("generator.lag.p99".to_owned(), latencies.lag.percentile(99.0));
        figures.insert("generator.lag.max".to_owned(), latencies.lag.max());
    }
}

fn curves(latencies: &Latencies) -> BTreeMap<String, Vec<[f64; 2]>> {
    let measured = each(latencies).into_iter().filter(|(_, latency)| latency.count() > 0);
    measured.map(|(name, latency)| (name.to_owned(), latency.curve())).collect()
}

fn of_counts(harvest: &Harvest, plateau: Duration, figures: &mut Figures) {
    let Harvest { totals, findings, errors, .. } = harvest;
    let counts = [
        ("messages", totals.messages),
        ("acks", totals.acks),
        ("deliveries", totals.deliveries),
        ("reconnects", totals.reconnects),
        ("gaps", totals.gaps),
        ("unsent", totals.unsent),
        ("unacknowledged", totals.unacknowledged),
        ("never_connected", totals.never_connected),
        ("slow_closed", totals.slow_closed),
        ("errors", errors.values().sum()),
        ("lost", findings.lost),
        ("acknowledged_lost", findings.acknowledged_lost),
        ("violations", findings.violations),
        ("probed", findings.probed),
        ("generator.dropped_samples", totals.dropped_seconds),
    ];
    #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
    let plain = |count: u64| count as f64;
    for (name, count) in counts {
        figures.insert(name.to_owned(), plain(count));
    }
    let seconds = plateau.as_secs_f64();
    if seconds > 0.0 {
        let mut rate = |name: &str, count| figures.insert(name.to_owned(), plain(count) / seconds);
        rate("messages_per_s", totals.plateau_messages);
        rate("deliveries_per_s", totals.plateau_deliveries);
        let percent = totals.plateau_cpu.as_secs_f64() / seconds * 100.0;
        figures.insert("generator.cpu_percent".to_owned(), percent);
    }
}

/// What makes the run's latencies the generator's rather than the server's.
fn of_generator(figures: &Figures) -> Vec<String> {
    let figure = |name: &str| figures.get(name).copied().unwrap_or_default();
    let mut warnings = Vec::new();
    let cpu = figure("generator.cpu_percent");
    if cpu > BUSY_PERCENT {
        warnings.push(format!(
            "the generator was the bottleneck: it used {cpu:.0} % of its core; the server may be \
             faster than these figures"
        ));
    }
    for (name, when) in [
        ("reconnect.generator_percent", "while users came back"),
        ("storm.generator_percent", "in the storm"),
    ] {
        let percent = figure(name);
        if percent > BUSY_PERCENT {
            warnings.push(format!(
                "the generator was the bottleneck {when}: it used {percent:.0} % of its core"
            ));
        }
    }
    let lag = figure("generator.lag.p99");
    if lag > LAG_P99_MAX {
        warnings.push(format!(
            "the generator was late: 1 % of the messages were sent {lag:.1} ms or more after they \
             were due, which is in every latency here"
        ));
    }
    let unsent = figure("unsent");
    if unsent > 0.0 {
        warnings.push(format!(
            "{unsent} messages were left out, because too many of their user's were not \
             acknowledged: the load was less than asked for"
        ));
    }
    let unacknowledged = figure("unacknowledged");
    if unacknowledged > 0.0 {
        warnings.push(format!(
            "{unacknowledged} messages were never acknowledged: they are in no latency of `ack`"
        ));
    }
    let never_connected = figure("never_connected");
    if never_connected > 0.0 {
        warnings.push(format!(
            "{never_connected} users had not connected when they were to leave: the load was less \
             than asked for"
        ));
    }
    if figures.contains_key("reconnect.server_us") && !figures.contains_key("reconnect.hashes") {
        warnings.push(
            "the server has no metric of the passwords that it hashes, as `hashes_metric` names it: \
             whether any were while users came back is not known"
                .to_owned(),
        );
    }
    let unsent = figure("storm.unsent");
    if unsent > 0.0 {
        warnings.push(format!(
            "{unsent} logins were left out, because too many were open: the storm was less than \
             asked for"
        ));
    }
    let gaps = figure("gaps");
    if gaps > 0.0 {
        warnings.push(format!(
            "the server announced {gaps} gaps instead of delivering: what lies in them is in \
             history, and in no delivery"
        ));
    }
    if figure("deliveries") > 0.0 && figure("probed") == 0.0 {
        warnings.push(
            "history was never asked for what was just delivered: whether messages are told before \
             their commit is not known"
                .to_owned(),
        );
    }
    let dropped = figure("generator.dropped_samples");
    if dropped > 0.0 {
        warnings.push(format!("{dropped} seconds are missing from the plots"));
    }
    warnings
}

impl Samples {
    /// Of the seconds that end between the samples.
    fn deliveries_between(&self, seconds: &[Second]) -> u64 {
        let (Some((begins, _)), Some((ends, _))) = (&self.begins, &self.ends) else { return 0 };
        let span = begins.as_secs_f64()..ends.as_secs_f64();
        seconds.iter().filter(|it| span.contains(&it.at)).map(|it| it.deliveries).sum()
    }

    fn measured_time(&self) -> Option<Duration> {
        let (begins, ends) = (self.begins.as_ref()?.0, self.ends.as_ref()?.0);
        Some(ends.saturating_sub(begins))
    }

    fn figures(&self, deliveries: u64, figures: &mut Figures) {
        #[expect(clippy::cast_precision_loss, reason = "a process has far less than 2^52 bytes")]
        let plain = |bytes: u64| bytes as f64;
        if let (Some((began, earlier)), Some((ended, later))) = (&self.begins, &self.ends) {
            let time = ended.saturating_sub(*began);
            later.figures(earlier, time, deliveries, figures);
        }
        if self.resident_bytes_max > 0 {
            figures.insert("server.rss_bytes_max".to_owned(), plain(self.resident_bytes_max));
        }
        let before = self.before.as_ref().map(|it| it.resident_bytes).filter(|it| *it > 0);
        let growths = [
            ("server.bytes_per_connection", before.map(|bytes| (0, bytes))),
            ("server.bytes_per_further_connection", self.warm),
        ];
        for (name, from) in growths {
            if let (Some((fewer, less)), Some((more, bytes))) = (from, self.connected)
                && more > fewer
            {
                let each = plain(bytes.saturating_sub(less)) / f64::from(more - fewer);
                figures.insert(name.to_owned(), each);
            }
        }
    }

    /// CPU of a cluster's processes while it was measured, in percent of a core. Without those that ended.
    fn processes(&self) -> BTreeMap<String, f64> {
        let (Some((began, earlier)), Some((ended, later))) = &self.cluster else {
            return BTreeMap::new();
        };
        let time = ended.saturating_sub(*began).as_secs_f64().max(0.001);
        let of = |(name, usage): &(String, Usage)| {
            let (_, before) = earlier.iter().find(|(it, _)| it == name)?;
            Some((name.clone(), usage.cpu.saturating_sub(before.cpu).as_secs_f64() / time * 100.0))
        };
        later.iter().filter_map(of).collect()
    }

    /// CPU of the server's threads while it was measured, in percent of a core.
    fn threads(&self) -> BTreeMap<String, f64> {
        let (Some((_, earlier)), Some((_, later))) = (&self.begins, &self.ends) else {
            return BTreeMap::new();
        };
        let time = self.measured_time().unwrap_or_default().as_secs_f64().max(0.001);
        let of = |(name, cpu): (&String, &Duration)| {
            let before = earlier.threads.get(name).copied().unwrap_or_default();
            (name.clone(), cpu.saturating_sub(before).as_secs_f64() / time * 100.0)
        };
        later.threads.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(phases: &[(Phase, f64, f64)]) -> Vec<PhaseSpan> {
        phases.iter().map(|&(phase, begins, ends)| PhaseSpan { phase, begins, ends }).collect()
    }

    #[test]
    fn what_lies_between_two_plateaus_is_not_measured() {
        use Phase::{Idle, Plateau, RampDown, RampUp};
        let two = [(RampUp, 1.0, 3.0), (Plateau, 3.0, 8.0), (RampUp, 8.0, 20.0)];
        let two = [&two[..], &[(Plateau, 20.0, 22.0), (RampDown, 22.0, 30.0)]].concat();
        assert_eq!(measured_time(&spans(&two)), Duration::from_secs(7));
        let none = spans(&[(Idle, 0.0, 1.0), (RampUp, 1.0, 3.0), (RampDown, 3.0, 4.0)]);
        assert_eq!(measured_time(&none), Duration::from_secs(3));
    }

    #[test]
    fn each_process_of_a_cluster_is_told_by_its_share_of_a_core() {
        let used = |name: &str, ms| {
            (name.to_owned(), Usage { cpu: Duration::from_millis(ms), ..Usage::default() })
        };
        let seconds = Duration::from_secs;
        let mut samples = Samples::default();
        assert_eq!(samples.processes(), BTreeMap::new(), "there is none");
        samples.cluster.0 = Some((seconds(10), vec![used("hub-0", 500), used("nats-1", 0)]));
        samples.cluster.1 = Some((seconds(14), vec![used("hub-0", 2_500), used("nats-2", 9)]));
        assert_eq!(samples.processes(), [("hub-0".to_owned(), 50.0)].into());
    }

    #[test]
    fn memory_is_told_by_connection_from_none_and_from_the_first_thousand_on() {
        let before = Sample { resident_bytes: 10_000, ..Sample::default() };
        let mut samples = Samples { before: Some(before), ..Samples::default() };
        let figures = |samples: &Samples| {
            let mut figures = Figures::new();
            samples.figures(0, &mut figures);
            let names = ["server.bytes_per_connection", "server.bytes_per_further_connection"];
            names.map(|name| figures.get(name).copied())
        };
        samples.connected = Some((900, 1_810_000));
        assert_eq!(figures(&samples), [Some(2_000.0), None]);
        samples.warm = Some((1_000, 2_010_000));
        samples.connected = samples.warm;
        assert_eq!(figures(&samples), [Some(2_000.0), None], "nothing came after it");
        samples.connected = Some((3_000, 5_010_000));
        assert_eq!(figures(&samples)[1], Some(1_500.0));
    }

    #[test]
    fn what_an_honest_reader_must_know_is_a_warning_and_a_sound_run_has_none() {
        let sound = [("deliveries", 9.0), ("probed", 1.0)];
        let sound: Figures = sound.map(|(name, value)| (name.to_owned(), value)).into();
        assert_eq!(of_generator(&sound), [""; 0]);
        let cases = [
            ("generator.cpu_percent", 90.0, "the generator was the bottleneck"),
            ("reconnect.generator_percent", 90.0, "the bottleneck while users came back"),
            ("storm.generator_percent", 90.0, "the bottleneck in the storm"),
            ("generator.lag.p99", 11.0, "the generator was late"),
            ("unsent", 1.0, "left out"),
            ("unacknowledged", 1.0, "never acknowledged"),
            ("never_connected", 1.0, "had not connected"),
            ("reconnect.server_us", 1.0, "while users came back is not known"),
            ("storm.unsent", 1.0, "the storm was less than asked for"),
            ("gaps", 1.0, "announced 1 gaps"),
            ("probed", 0.0, "commit is not known"),
            ("generator.dropped_samples", 2.0, "2 seconds are missing"),
        ];
        for (name, value, said) in cases {
            let mut figures = sound.clone();
            figures.insert(name.to_owned(), value);
            let warnings = of_generator(&figures);
            assert!(warnings.len() == 1 && warnings[0].contains(said), "{name}: {warnings:?}");
        }
    }
}
