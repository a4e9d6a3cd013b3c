//! What the server used and did: `/proc` and its own metrics, over all its lives in a run.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Result, bail};

use super::{
    ask,
    usage::{self, Usage},
};
use crate::outcome::Figures;

/// How long the metrics may take. The sample of a second must not hold up the next.
const METRICS_DEADLINE: Duration = Duration::from_secs(1);
const METRICS_PREFIX: &str = "hubbub_";
/// The thread that carries every delivery.
const HUB_THREAD: &str = "hub";

/// Follows one server, which may be killed and started again.
#[derive(Debug)]
pub(crate) struct Observer {
    pid: Option<u32>,
    internal: Option<SocketAddr>,
    process: Lives<Used>,
    counters: Lives<BTreeMap<String, f64>>,
    resident_bytes: u64,
}

/// Everything up to a moment. What counts up is added up over the server's lives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// Zero if the server's process is not on this machine.
    pub(crate) cpu: Duration,
    /// CPU time by thread name.
    pub(crate) threads: BTreeMap<String, Duration>,
    /// As last seen, if the server is down.
    pub(crate) resident_bytes: u64,
    /// Of all threads, voluntary and not.
    pub(crate) context_switches: u64,
    /// The counters of its metrics, by their names without labels, without `hubbub_` and `_total`.
    /// The `_sum` and the `_count` of a histogram are counters too.
    pub(crate) counters: BTreeMap<String, f64>,
}

impl Observer {
    /// Of the process of this id, if it is on this machine, and of its internal port, if that can
    /// be reached.
    pub(crate) fn new(pid: Option<u32>, internal: Option<SocketAddr>) -> Self {
        Self {
            pid,
            internal,
            process: Lives::default(),
            counters: Lives::default(),
            resident_bytes: 0,
        }
    }

    /// The server has been started again.
    pub(crate) fn follow(&mut self, pid: u32) {
        self.pid = Some(pid);
        self.process.end();
        self.counters.end();
    }

    /// What it used up to now. While the server is down, what it had used before.
    ///
    /// # Errors
    /// When there is something else behind the address of the metrics.
    pub(crate) async fn sample(&mut self) -> Result<Sample> {
        if let Some(pid) = self.pid
            && let (Ok(usage), Ok(context_switches)) =
                (Usage::read(pid), usage::context_switches(pid))
        {
            self.resident_bytes = usage.resident_bytes;
            self.process.see(Used { cpu: usage.cpu, threads: usage.threads, context_switches });
        }
        if let Some(internal) = self.internal
            && let Ok(page) = ask::get(internal, "/metrics", METRICS_DEADLINE).await
        {
            self.counters.see(counters(&page)?);
        }
        let Used { cpu, threads, context_switches } = self.process.total();
        Ok(Sample {
            cpu,
            threads,
            resident_bytes: self.resident_bytes,
            context_switches,
            counters: self.counters.total(),
        })
    }
}

impl Sample {
    /// CPU time since an earlier sample.
    pub(crate) fn cpu_since(&self, earlier: &Self) -> Duration {
        self.cpu.saturating_sub(earlier.cpu)
    }

    /// The same of all threads whose names begin so.
    pub(crate) fn threads_since(&self, earlier: &Self, prefix: &str) -> Duration {
        let of = |sample: &Self| {
            let threads = sample.threads.iter().filter(|(name, _)| name.starts_with(prefix));
            threads.map(|(_, time)| *time).sum::<Duration>()
        };
        of(self).saturating_sub(of(earlier))
    }

    /// Adds the figures `server.…` of the time since an earlier sample.
    pub(crate) fn figures(
        &self,
        earlier: &Self,
        time: Duration,
        deliveries: u64,
        figures: &mut Figures,
    ) {
        // What is divided by nothing, or was not to be seen, is no figure.
        let mut add = |name: &str, value: Option<f64>| {
            if let Some(value) = value.filter(|value| value.is_finite()) {
                figures.insert(format!("server.{name}"), value);
            }
        };
        let seconds = time.as_secs_f64();
        let deliveries = deliveries as f64;
        let cpu = (!self.cpu.is_zero()).then(|| self.cpu.saturating_sub(earlier.cpu).as_secs_f64());
        let hub = self.threads.get(HUB_THREAD).map(|now| {
            let before = earlier.threads.get(HUB_THREAD).copied().unwrap_or_default();
            now.saturating_sub(before).as_secs_f64()
        });
        add("cpu_percent", cpu.map(|cpu| 100.0 * cpu / seconds));
        add("hub_percent", hub.map(|hub| 100.0 * hub / seconds));
        add("cpu_us_per_delivery", cpu.map(|cpu| 1e6 * cpu / deliveries));
        add("hub_us_per_delivery", hub.map(|hub| 1e6 * hub / deliveries));
        add("rss_bytes", (self.resident_bytes > 0).then_some(self.resident_bytes as f64));
        let switches = self.context_switches.saturating_sub(earlier.context_switches);
        let has_switches = self.context_switches > 0;
        add("context_switches_per_s", has_switches.then_some(switches as f64 / seconds));

        let counted = |name: &str| {
            let now = self.counters.get(name)?;
            Some(now - earlier.counters.get(name).copied().unwrap_or_default())
        };
        let ratio = |of: &str, per: &str| Some(counted(of)? / counted(per)?);
        add("fsyncs_per_s", counted("log_commits").map(|commits| commits / seconds));
        add("messages_per_batch", ratio("batch_messages_sum", "batch_messages_count"));
        // The server's own count, since the bytes and the writes are of the same page.
        add("wire_bytes_per_delivery", ratio("written_bytes", "deliveries"));
        add("deliveries_per_write", ratio("deliveries", "writes"));
    }
}

/// What counts up from nothing in each life of the server.
#[derive(Debug, Default)]
struct Lives<T> {
    /// Of the lives that have ended.
    before: T,
    /// Of this one, as last seen.
    current: T,
}

trait Counts: Clone + Default {
    /// Whether this cannot be a later moment of the same life.
    fn is_another_life(&self, earlier: &Self) -> bool;
    fn add(&mut self, other: Self);
    /// The same life, later.
    fn go_on(&mut self, later: Self);
}

impl<T: Counts> Lives<T> {
    fn see(&mut self, now: T) {
        if now.is_another_life(&self.current) {
            self.end();
        }
        self.current.go_on(now);
    }

    fn end(&mut self) {
        self.before.add(std::mem::take(&mut self.current));
    }

    fn total(&self) -> T {
        let mut total = self.before.clone();
        total.add(self.current.clone());
        total
    }
}

#[derive(Clone, Debug, Default)]
struct Used {
    cpu: Duration,
    threads: BTreeMap<String, Duration>,
    context_switches: u64,
}

impl Counts for Used {
    fn is_another_life(&self, earlier: &Self) -> bool {
        self.cpu < earlier.cpu
    }

    fn add(&mut self, other: Self) {
        self.cpu += other.cpu;
        self.context_switches += other.context_switches;
        for (name, time) in other.threads {
            *self.threads.entry(name).or_default() += time;
        }
    }

    fn go_on(&mut self, later: Self) {
        self.cpu = later.cpu;
        // A thread that has ended takes its own figures with it; what it had used stays used.
        self.context_switches = self.context_switches.max(later.context_switches);
        for (name, time) in later.threads {
            let known = self.threads.entry(name).or_default();
            *known = time.max(*known);
        }
    }
}

impl Counts for BTreeMap<String, f64> {
    fn is_another_life(&self, earlier: &Self) -> bool {
        earlier.iter().any(|(name, before)| self.get(name).is_some_and(|now| now < before))
    }

    fn add(&mut self, other: Self) {
        for (name, count) in other {
            *self.entry(name).or_default() += count;
        }
    }

    fn go_on(&mut self, later: Self) {
        *self = later;
    }
}

/// The counters of a page of OpenMetrics text, with those of one name added up over their labels.
fn counters(page: &str) -> Result<BTreeMap<String, f64>> {
    let mut kinds = BTreeMap::new();
    let mut counters = BTreeMap::new();
    for line in page.lines() {
        if let Some((family, kind)) = line.strip_prefix("# TYPE ").and_then(|it| it.split_once(' '))
        {
            kinds.insert(family, kind.trim_end());
        } else if let Some((name, value)) = parse_sample(line)
            && let Some((family, kind, counter)) = parse_name(name)
            && kinds.get(family) == Some(&kind)
        {
            let counter = counter.strip_prefix(METRICS_PREFIX).unwrap_or(counter);
            *counters.entry(counter.to_owned()).or_default() += value;
        }
    }
    if kinds.is_empty() {
        bail!("what the internal port answers as metrics is no OpenMetrics text");
    }
    Ok(counters)
}

/// Name and value of a line, without its labels.
fn parse_sample(line: &str) -> Option<(&str, f64)> {
    // A label may hold anything, so its end is the last brace.
    let (name, rest) = match line.split_once('{') {
        Some((name, labelled)) => (name, labelled.rsplit_once('}')?.1),
        None => line.split_once(' ')?,
    };
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    (!name.starts_with('#')).then_some((name, value))
}

/// Family and kind of what counts up, and what we call it.
fn parse_name(name: &str) -> Option<(&str, &'static str, &str)> {
    if let Some(family) = name.strip_suffix("_total") {
        return Some((family, "counter", family));
    }
    let family = name.strip_suffix("_sum").or_else(|| name.strip_suffix("_count"))?;
    Some((family, "histogram", name))
}

#[cfg(test)]
mod tests {
    use super::{super::ask::tests::answering, *};

    const PAGE: &str = "\
# HELP hubbub_writes Write calls on WebSockets.
# TYPE hubbub_writes counter
hubbub_writes_total 40
# TYPE hubbub_connections gauge
hubbub_connections 425
# TYPE hubbub_batch_messages histogram
hubbub_batch_messages_sum 30.0
hubbub_batch_messages_count 12
hubbub_batch_messages_bucket{le=\"1.0\"} 3
# TYPE hubbub_closed counter
hubbub_closed_total{code=\"4008\",name=\"slow } 7\"} 2
hubbub_closed_total{code=\"4000\",name=\"going_away\"} 3
# EOF
";

    fn map(counters: &[(&str, f64)]) -> BTreeMap<String, f64> {
        counters.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn what_counts_up_is_read_and_added_up_over_its_labels() {
        let expected = [
            ("writes", 40.0),
            ("batch_messages_sum", 30.0),
            ("batch_messages_count", 12.0),
            ("closed", 5.0),
        ];
        assert_eq!(counters(PAGE).unwrap(), map(&expected));
        assert!(counters("<html>not here</html>").is_err());
    }

    #[test]
    fn the_names_are_those_of_the_real_page() {
        let metrics = hubbub::metrics::Metrics::default();
        metrics.committed(3);
        metrics.delivered(3, 100);
        metrics.written_bytes.inc_by(9);
        let counters = counters(&metrics.to_text()).unwrap();
        for (name, count) in [
            ("deliveries", 300.0),
            ("batch_messages_sum", 3.0),
            ("batch_messages_count", 1.0),
            ("written_bytes", 9.0),
            ("writes", 0.0),
        ] {
            assert_eq!(counters.get(name), Some(&count), "{name} in {counters:?}");
        }
    }

    #[test]
    fn lives_are_added_up_whether_their_end_was_seen_or_not() {
        let mut lives = Lives::default();
        lives.see(map(&[("writes", 10.0)]));
        lives.see(map(&[("writes", 25.0)]));
        // Restarted unseen.
        lives.see(map(&[("writes", 5.0), ("batches", 1.0)]));
        assert_eq!(lives.total(), map(&[("writes", 30.0), ("batches", 1.0)]));
        // Restarted by ourselves: the new life may have counted further than the old one.
        lives.end();
        assert_eq!(lives.total(), map(&[("writes", 30.0), ("batches", 1.0)]));
        lives.see(map(&[("writes", 6.0)]));
        assert_eq!(lives.total(), map(&[("writes", 36.0), ("batches", 1.0)]));

        let used = |cpu, threads: &[(&str, u64)], context_switches| Used {
            cpu: Duration::from_secs(cpu),
            threads: threads
                .iter()
                .map(|(name, time)| ((*name).to_owned(), Duration::from_secs(*time)))
                .collect(),
            context_switches,
        };
        let mut lives = Lives::default();
        lives.see(used(9, &[("hub", 5), ("profile", 2)], 100));
        // A thread has ended, and has taken its figures with it.
        lives.see(used(10, &[("hub", 6)], 90));
        lives.end();
        lives.see(used(1, &[("hub", 1)], 7));
        let total = lives.total();
        assert_eq!(total.cpu, Duration::from_secs(11));
        assert_eq!(total.threads["hub"], Duration::from_secs(7));
        assert_eq!(total.threads["profile"], Duration::from_secs(2));
        assert_eq!(total.context_switches, 107);
    }

    #[tokio::test]
    async fn we_can_be_observed_ourselves_and_with_a_server_that_is_down() {
        let answer: &'static str = format!("HTTP/1.0 200 OK\r\n\r\n{PAGE}").leak();
        let mut observer = Observer::new(Some(std::process::id()), Some(answering(answer).await));
        let first = observer.sample().await.unwrap();
        assert!(first.resident_bytes > 0 && first.context_switches > 0, "{first:?}");
        assert!(!first.threads.is_empty());
        assert_eq!(first.counters["writes"], 40.0);
        // Nobody answers any more, and no process has this id.
        observer.pid = Some(u32::MAX);
        let then = observer.sample().await.unwrap();
        assert_eq!(then.counters, first.counters);
        assert_eq!((then.cpu, then.resident_bytes), (first.cpu, first.resident_bytes));
        // Another life of it, which begins at nothing, as far as we can tell.
        observer.follow(std::process::id());
        let again = observer.sample().await.unwrap();
        assert!(again.cpu >= first.cpu * 2, "{again:?} after {first:?}");
        assert_eq!(again.counters, first.counters);
    }

    #[tokio::test]
    async fn who_answers_something_else_than_metrics_is_no_server() {
        let other = answering("HTTP/1.0 200 OK\r\n\r\nhello").await;
        let error = Observer::new(None, Some(other)).sample().await.unwrap_err();
        assert!(error.to_string().contains("no OpenMetrics text"), "{error}");
    }

    #[test]
    fn figures_are_of_the_time_between_and_those_that_cannot_be_known_are_left_out() {
        let sample = |scale: u64| Sample {
            cpu: Duration::from_secs(3 * scale),
            threads: [("hub".to_owned(), Duration::from_secs(2 * scale))].into(),
            resident_bytes: 1_000 * scale,
            context_switches: 500 * scale,
            counters: map(&[
                ("log_commits", 70.0),
                ("batch_messages_sum", 90.0),
                ("batch_messages_count", 30.0),
                ("written_bytes", 6_000.0),
                ("deliveries", 100.0),
                ("writes", 20.0),
            ])
            .into_iter()
            .map(|(name, count)| (name, count * scale as f64))
            .collect(),
        };
        let mut figures = Figures::new();
        sample(3).figures(&sample(2), Duration::from_secs(10), 1_000, &mut figures);
        let expected = map(&[
            ("server.cpu_percent", 30.0),
            ("server.hub_percent", 20.0),
            ("server.cpu_us_per_delivery", 3_000.0),
            ("server.hub_us_per_delivery", 2_000.0),
            ("server.rss_bytes", 3_000.0),
            ("server.context_switches_per_s", 50.0),
            ("server.fsyncs_per_s", 7.0),
            ("server.messages_per_batch", 3.0),
            ("server.wire_bytes_per_delivery", 60.0),
            ("server.deliveries_per_write", 5.0),
        ]);
        assert_eq!(figures, expected);

        // An idle server: what is divided by its deliveries, batches and writes is unknown.
        let mut idle = Figures::new();
        sample(2).figures(&sample(2), Duration::from_secs(10), 0, &mut idle);
        let kept: Vec<_> = idle.keys().map(String::as_str).collect();
        let known = [
            "server.context_switches_per_s",
            "server.cpu_percent",
            "server.fsyncs_per_s",
            "server.hub_percent",
            "server.rss_bytes",
        ];
        assert_eq!(kept, known);
        // A server that cannot be seen at all.
        let mut unseen = Figures::new();
        let nothing = Sample::default();
        nothing.figures(&nothing, Duration::from_secs(10), 1_000, &mut unseen);
        assert_eq!(unseen, Figures::new());
    }
}
