//! One contender, one work: started, connected, warmed up, measured, ended.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{
    contender::{Contender, Running, Stable},
    dialect::Speaker,
    generator::{Edge, Generator, Load, Loaded, Pace},
    process::{Probe, Spent},
};

/// After the last connection was subscribed, until the first message.
const SETTLE: Duration = Duration::from_millis(300);
/// After many were made, until memory is looked at.
const SETTLE_IDLE: Duration = Duration::from_secs(2);

/// A thread that has less of its process's time is not named.
const THREAD_SHARE_MIN: f64 = 0.01;

/// What holds for all measures.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    pub(super) stable: Stable,
    /// The server's and the generator's.
    pub(super) cores: Vec<usize>,
    pub(super) body_bytes: usize,
    pub(super) warm_up: Duration,
    pub(super) window: Duration,
}

/// What a contender did under load.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Carried {
    pub(super) deliveries_per_s: f64,
    /// Of the whole process, in the window.
    pub(super) cpu_us_per_delivery: f64,
    /// The same by threads: those of one name together, without those that did next to nothing.
    pub(super) threads_us_per_delivery: BTreeMap<String, f64>,
    /// From the server, frames and all, without what TCP and IP add.
    pub(super) bytes_per_delivery: f64,
    /// p50, p90, p95, p99 and the longest, from the intended moment, in milliseconds.
    pub(super) latency_ms: [f64; 5],
    pub(super) server_percent: f64,
    pub(super) generator_percent: f64,
    /// Of one core, by neither of the two.
    pub(super) foreign_percent: f64,
    /// Whether it could not keep up; then what is outstanding is late, not lost.
    pub(super) is_overloaded: bool,
    pub(super) lost: u64,
    pub(super) faults: u64,
    pub(super) evidence: Vec<String>,
}

/// What connections cost a contender that have nothing to do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Rested {
    pub(super) few: usize,
    pub(super) many: usize,
    pub(super) few_bytes: u64,
    pub(super) many_bytes: u64,
    /// The slope between the two.
    pub(super) bytes_per_connection: f64,
    /// Upgraded and subscribed, with 64 under way.
    pub(super) connects_per_s: f64,
    /// Of a core, with all of them idle.
    pub(super) server_percent: f64,
    pub(super) foreign_percent: f64,
}

impl Carried {
    /// Whether everybody got everything, or would have in time.
    pub(super) fn is_right(&self) -> bool {
        self.faults == 0 && (self.lost == 0 || self.is_overloaded)
    }

    fn new(loaded: Loaded, spent: &Spent) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
        let (deliveries, bytes) = (loaded.deliveries.max(1) as f64, loaded.bytes as f64);
        let percent = |seconds: f64| seconds / spent.wall_s.max(1e-6) * 100.0;
        let busy = spent.threads_s.iter().filter(|it| *it.1 >= spent.server_s * THREAD_SHARE_MIN);
        let threads = busy.map(|(name, seconds)| (name.clone(), seconds * 1e6 / deliveries));
        Self {
            deliveries_per_s: deliveries / loaded.window.as_secs_f64().max(1e-6),
            cpu_us_per_delivery: spent.server_s * 1e6 / deliveries,
            threads_us_per_delivery: threads.collect(),
            bytes_per_delivery: bytes / deliveries,
            latency_ms: loaded.latency.five().unwrap_or([0.0; 5]),
            server_percent: percent(spent.server_s),
            generator_percent: percent(spent.generator_s),
            foreign_percent: percent(spent.foreign_s),
            is_overloaded: loaded.is_overloaded,
            lost: loaded.findings.lost,
            faults: loaded.findings.faults,
            evidence: loaded.findings.evidence,
        }
    }
}

impl Ground {
    /// Loads a fresh server of this contender with so many users.
    pub(super) async fn carry(
        &self,
        contender: &Contender,
        users: usize,
        pace: Pace,
        seed: u64,
    ) -> Result<Carried> {
        let load = Load { pace, warm_up: self.warm_up, window: self.window, seed };
        self.with(contender, users, move |generator, pid, cores| {
            generator.connect(users)?;
            generator.rest(SETTLE)?;
            let (mut begin, mut end) = (None, None);
            let loaded = generator.load(load, |edge| {
                let probe = Some(Probe::take(pid, cores)?);
                match edge {
                    Edge::Begins => begin = probe,
                    Edge::Ends => end = probe,
                }
                Ok(())
            })?;
            let end = end.context("the window did not end")?;
            // Who is overloaded in the warm-up already has no window.
            let spent = begin.as_ref().unwrap_or(&end).until(&end, cores.len());
            Ok(Carried::new(loaded, &spent))
        })
        .await
    }

    /// Connects so few and then so many users to a fresh server of this contender.
    pub(super) async fn rest(
        &self,
        contender: &Contender,
        few: usize,
        many: usize,
    ) -> Result<Rested> {
        let window = self.window;
        self.with(contender, many, move |generator, pid, cores| {
            generator.connect(few)?;
            generator.rest(SETTLE_IDLE)?;
            let at_few = Probe::take(pid, cores)?;
            generator.connect(many)?;
            let connected = Probe::take(pid, cores)?;
            generator.rest(SETTLE_IDLE)?;
            let at_many = Probe::take(pid, cores)?;
            generator.rest(window)?;
            let end = Probe::take(pid, cores)?;
            let (connecting, idle) =
                (at_few.until(&connected, cores.len()), at_many.until(&end, cores.len()));
            let (few_bytes, many_bytes) = (at_few.resident_bytes(), at_many.resident_bytes());
            #[expect(clippy::cast_precision_loss, reason = "memory is far below 2^52 bytes")]
            let (more, bytes) = ((many - few) as f64, many_bytes as f64 - few_bytes as f64);
            Ok(Rested {
                few,
                many,
                few_bytes,
                many_bytes,
                bytes_per_connection: bytes / more,
                connects_per_s: more / connecting.wall_s,
                server_percent: idle.server_s / idle.wall_s * 100.0,
                foreign_percent: idle.foreign_s / idle.wall_s * 100.0,
            })
        })
        .await
    }

    /// Starts the contender, runs this on a thread of its own, and kills the contender.
    ///
    /// Not on this thread: who interrupts the program is heard here, and then the contender must go.
    async fn with<T: Send + 'static>(
        &self,
        contender: &Contender,
        users: usize,
        run: impl FnOnce(&mut Generator, u32, &[usize]) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut running = contender.start(&self.stable, users).await?;
        let pid = running.program.pid()?;
        let tokens = std::mem::take(&mut running.tokens);
        let (address, cores) = (running.program.address, self.cores.clone());
        let host = address.to_string();
        let speaker = Speaker::new(contender.dialect(), host, tokens, self.body_bytes);
        let (tell, told) = oneshot::channel();
        thread::Builder::new().name("generator".to_owned()).spawn(move || {
            let ran = Generator::new(address, speaker)
                .and_then(|mut generator| run(&mut generator, pid, &cores));
            // Nobody listens after an interruption.
            let _ = tell.send(ran);
        })?;
        let ran = told.await.map_err(|_| anyhow!("the generator panicked"))?;
        end(running, ran).await
    }
}

/// What a server said last is often why something went wrong with it.
async fn end<T>(running: Running, ran: Result<T>) -> Result<T> {
    let last_words = running.program.last_words();
    let killed = running.program.kill().await;
    let ran = ran.context(last_words)?;
    killed?;
    Ok(ran)
}
