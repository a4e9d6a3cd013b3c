//! The conductor of one run.
//!
//! It lets the swarm loose on the server, samples the server whenever the swarm tells of
//! another second, does the mischief and takes the profiles on time, and makes one [`Outcome`] of it
//! all. It runs beside the swarm, on the same core, and does little.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use tempfile::TempDir;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    figures::{self, Notes, WARM_CONNECTIONS},
    flamegraphs::{self, Profile},
    mischief::{self, Deed},
    site::{Ground, Site, Started},
};
use crate::{
    Failure,
    outcome::{Incident, Outcome, PhaseSpan, Second},
    report::live::Live,
    scenario::{
        Scenario,
        schedule::{Phase, Schedule},
        storm::Part,
    },
    server::{cluster::Cluster, observer::Observer},
    swarm::{self, Event, Harvest, Order, Plan},
};

/// Events that wait for the conductor. Beyond it the swarm drops seconds, and says so.
const EVENTS_MAX: usize = 64;

/// What a run does beside running.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extras {
    /// Take a profile of the server in each phase.
    pub(crate) is_profiled: bool,
    /// Show nothing while it goes on.
    pub(crate) is_quiet: bool,
}

/// A run that has been made.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) outcome: Outcome,
    pub(crate) profiles: Vec<Profile>,
}

pub(crate) async fn execute(
    scenario: &Scenario,
    site: Site,
    extras: Extras,
) -> Result<Run, Failure> {
    let began_at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let mut ground = site.enter(scenario).await?;
    let _core_left = ground.core.take();
    let (events, told) = mpsc::channel(EVENTS_MAX);
    let plan = Plan {
        scenario: scenario.clone(),
        targets: ground.targets.clone(),
        run: format!("load-{:08x}", rand::random::<u32>()),
        tokens: ground.tokens.clone(),
    };
    let mut conductor = Conductor::new(scenario, ground, extras).await?;
    conductor.swarm = Some(swarm::spawn(plan, events)?);
    let harvest = conductor.conduct(told).await;
    let is_evidence = harvest.as_ref().map_or(true, |it| it.findings.violations > 0);
    let ended = conductor.end(is_evidence).await;
    // What went wrong first is told first: a server that is gone is why its users are.
    let harvest = match (harvest, &ended) {
        (Err(Failure::Aborted(error)), Err(why)) => {
            return Err(anyhow::anyhow!("{error:#} ({why:#})").into());
        }
        (harvest, _) => harvest?,
    };
    ended?;
    let Conductor { profiles, notes, .. } = conductor;
    Ok(Run { outcome: figures::outcome(scenario, began_at, notes, harvest), profiles })
}

struct Conductor<'a> {
    scenario: &'a Scenario,
    schedule: Schedule,
    extras: Extras,
    began: Instant,
    live: Option<Live>,
    observer: Observer,
    internal: Option<std::net::SocketAddr>,
    swarm: Option<swarm::Swarm>,
    /// A server of our own, while no mischief has it.
    started: Option<Started>,
    /// Several of our own.
    cluster: Option<Cluster>,
    /// Where its data and its log are.
    folder: Option<TempDir>,
    mischief: Option<JoinHandle<Result<Option<Started>>>>,
    profiling: Option<JoinHandle<Result<Profile>>>,
    profiles: Vec<Profile>,
    notes: Notes,
}

impl<'a> Conductor<'a> {
    async fn new(scenario: &'a Scenario, ground: Ground, extras: Extras) -> Result<Self> {
        let mut observer = Observer::new(ground.pid, ground.internal);
        let mut notes = Notes::default();
        notes.samples.before = Some(observer.sample().await?);
        Ok(Self {
            scenario,
            schedule: Schedule::new(scenario),
            extras,
            began: Instant::now(),
            live: (!extras.is_quiet).then(|| Live::new(scenario)),
            observer,
            internal: ground.internal,
            swarm: None,
            started: ground.started,
            cluster: ground.cluster,
            folder: ground.folder,
            mischief: None,
            profiling: None,
            profiles: Vec::new(),
            notes,
        })
    }

    /// Goes with the swarm to its end.
    async fn conduct(&mut self, mut told: mpsc::Receiver<Event>) -> Result<Harvest, Failure> {
        let (tell, mut deeds) = mpsc::channel(EVENTS_MAX);
        loop {
            tokio::select! {
                event = told.recv() => match event {
                    Some(Event::Phase(phase, at)) => self.phase(phase, at, &tell).await?,
                    Some(Event::Second(second)) => self.second(*second).await?,
                    Some(Event::Returned) => self.returned().await?,
                    Some(Event::BeforeStorm) => {
                        let sample = self.observer.sample().await?;
                        self.notes.samples.storm.before(&sample);
                    }
                    Some(Event::Storm(part)) => self.part(part).await?,
                    Some(Event::Over(harvest)) => {
                        self.end_phase(self.began.elapsed());
                        return Ok(*harvest);
                    }
                    Some(Event::Failed(failure)) => return Err(failure),
                    None => return Err(anyhow::anyhow!("the virtual users ended early").into()),
                },
                Some(deed) = deeds.recv() => self.deed(deed).await?,
                broken = ended_badly(&mut self.mischief, &mut self.started) => {
                    return Err(broken.context("chaos").into());
                }
            }
        }
    }

    async fn phase(
        &mut self,
        phase: Phase,
        at: Duration,
        tell: &mpsc::Sender<Deed>,
    ) -> Result<(), Failure> {
        self.end_phase(at);
        self.notes.phases.push(PhaseSpan {
            phase,
            begins: at.as_secs_f64(),
            ends: at.as_secs_f64(),
        });
        if let Some(live) = &mut self.live {
            live.phase(phase, at);
        }
        let sample = self.observer.sample().await?;
        let has_plateau = self.schedule.has_plateau();
        let is_measured = phase.is_measured(has_plateau);
        let is_first = is_measured && self.notes.samples.begins.is_none();
        let is_last = !is_measured && self.was_measured(has_plateau);
        if let Some(cluster) = self.cluster.as_ref().filter(|_| is_first || is_last) {
            let used = Some((at, cluster.usage().await?));
            let cluster = &mut self.notes.samples.cluster;
            *(if is_first { &mut cluster.0 } else { &mut cluster.1 }) = used;
        }
        if is_first {
            self.notes.samples.begins = Some((at, sample));
        } else if is_last {
            self.notes.samples.ends = Some((at, sample));
        }
        if phase == Phase::Plateau {
            self.make_mischief(tell);
        }
        self.take_profile(phase).await;
        Ok(())
    }

    /// Whether the phase before this one was measured.
    fn was_measured(&self, has_plateau: bool) -> bool {
        let before = self.notes.phases.iter().rev().nth(1);
        before.is_some_and(|it| it.phase.is_measured(has_plateau))
    }

    fn end_phase(&mut self, at: Duration) {
        if let Some(last) = self.notes.phases.last_mut() {
            last.ends = at.as_secs_f64();
        }
    }

    /// From the first plateau on.
    fn make_mischief(&mut self, tell: &mpsc::Sender<Deed>) {
        let plateau = self.schedule.plateaus().next();
        let Some(span) = plateau.filter(|_| !self.scenario.chaos.is_empty()) else { return };
        let deeds = mischief::plan(&self.scenario.chaos, span.end.saturating_sub(span.start));
        let run = mischief::run(self.started.take(), deeds, Instant::now(), tell.clone());
        self.mischief = Some(tokio::spawn(run));
    }

    async fn deed(&mut self, deed: Deed) -> Result<()> {
        let what = match deed {
            Deed::Begun(what) => {
                self.order(Order::ChaosBegins);
                what
            }
            Deed::Done { pid, what } => {
                self.observer.follow(pid);
                what
            }
            Deed::Cut => {
                self.order(Order::Cut);
                "all connections cut".to_owned()
            }
            Deed::Return => {
                // What it did about the end of so many is not what their return costs it.
                let sample = self.observer.sample().await?;
                self.notes.samples.returns.push((sample, None));
                self.order(Order::Return);
                "all connect again".to_owned()
            }
        };
        self.note_incident("chaos", what);
        Ok(())
    }

    /// All who were cut off are back.
    async fn returned(&mut self) -> Result<()> {
        let sample = self.observer.sample().await?;
        if let Some((_, back)) = self.notes.samples.returns.last_mut() {
            *back = Some(sample);
        }
        self.note_incident("chaos", "all are back".to_owned());
        Ok(())
    }

    /// A part of a plateau with a storm has begun.
    async fn part(&mut self, part: Part) -> Result<()> {
        let sample = self.observer.sample().await?;
        let what = match part {
            Part::Calm | Part::Pause => return Ok(()),
            Part::Probe => "the capacity for logins is measured",
            Part::Storm => {
                self.notes.samples.storm.begins = Some(sample);
                "the storm begins"
            }
            Part::Over => {
                self.notes.samples.storm.ends = Some(sample);
                "the storm is over"
            }
        };
        self.note_incident("storm", what.to_owned());
        Ok(())
    }

    fn order(&self, order: Order) {
        if let Some(swarm) = &self.swarm {
            swarm.order(order);
        }
    }

    fn note_incident(&mut self, kind: &str, what: String) {
        if let Some(live) = &mut self.live {
            live.note(&format!("{kind}: {what}"));
        }
        self.notes.chaos.push(Incident { at: self.began.elapsed().as_secs_f64(), what });
    }

    /// Adds what the server used meanwhile.
    async fn second(&mut self, mut second: Second) -> Result<()> {
        let sample = self.observer.sample().await?;
        let samples = &mut self.notes.samples;
        if let Some((at, earlier)) = &samples.last
            && !sample.cpu.is_zero()
        {
            let cpu = sample.cpu.saturating_sub(earlier.cpu).as_secs_f64();
            second.server_cpu = Some(cpu / (second.at - at).max(0.001) * 100.0);
        }
        if sample.resident_bytes > 0 {
            second.server_rss_bytes = Some(sample.resident_bytes);
            samples.resident_bytes_max = samples.resident_bytes_max.max(sample.resident_bytes);
            samples.storm.see(&sample);
            if second.connected >= WARM_CONNECTIONS && samples.warm.is_none() {
                samples.warm = Some((second.connected, sample.resident_bytes));
            }
            if samples.connected.is_none_or(|(most, _)| second.connected > most) {
                samples.connected = Some((second.connected, sample.resident_bytes));
            }
        }
        samples.last = Some((second.at, sample));
        if let Some(live) = &mut self.live {
            live.second(&second);
        }
        self.notes.seconds.push(second);
        Ok(())
    }

    /// Begins to sample a phase whose length is known. The server takes one profile at a time.
    async fn take_profile(&mut self, phase: Phase) {
        let spans = &self.schedule.phases;
        let stage =
            spans.iter().find(|(it, _)| *it == phase).map(|(_, span)| span.end - span.start);
        let time = match phase {
            Phase::Login => Some(flamegraphs::LOGIN_TIME),
            Phase::Idle => Some(self.scenario.idle),
            _ => stage,
        };
        let (Some(internal), Some(time)) = (self.internal, time) else { return };
        let is_busy = self.profiling.as_ref().is_some_and(|it| !it.is_finished());
        let is_known = self.profiles.iter().any(|it| it.phase == phase);
        if self.extras.is_profiled && !is_busy && !is_known && time >= flamegraphs::TIME_MIN {
            self.keep_profile().await;
            self.profiling = Some(tokio::spawn(flamegraphs::take(internal, phase, time)));
        }
    }

    /// Takes the profile that is being made, when it is finished.
    async fn keep_profile(&mut self) {
        let Some(profiling) = self.profiling.take() else { return };
        let why = match timeout(flamegraphs::TIMEOUT, profiling).await {
            Ok(Ok(Ok(profile))) => {
                self.notes.is_profiled = true;
                return self.profiles.push(profile);
            }
            Ok(Ok(Err(error))) => format!("{error:#}"),
            Ok(Err(error)) => error.to_string(),
            Err(late) => late.to_string(),
        };
        self.notes.warnings.push(format!("a profile is missing: {why}"));
    }

    /// Ends what goes on beside the swarm. Keeps what a started server left, if it is evidence.
    async fn end(&mut self, is_evidence: bool) -> Result<()> {
        if let Some(swarm) = self.swarm.take() {
            swarm.order(Order::Abort);
            swarm.join();
        }
        self.keep_profile().await;
        if let Some(live) = &mut self.live {
            live.end();
        }
        if let Some(mischief) = self.mischief.take() {
            // What is still due is not done any more.
            mischief.abort();
            // What went wrong with it ended the run, or is of no importance any more.
            self.started = mischief.await.ok().and_then(Result::ok).flatten();
        }
        let killed = match self.started.take() {
            Some(Started { server, .. }) => server.kill().await,
            None => Ok(()),
        };
        if let Some(cluster) = self.cluster.take()
            && is_evidence
        {
            eprintln!("the logs are kept in {}", cluster.end_and_keep_logs()?.display());
        }
        // Also of a server that is gone: why it is, its log may say.
        if let Some(folder) = self.folder.take()
            && is_evidence
        {
            eprintln!("the server's data and log are kept in {}", folder.keep().display());
        }
        killed
    }
}

/// Waits until the mischief ends because something went wrong, and answers what.
async fn ended_badly(
    mischief: &mut Option<JoinHandle<Result<Option<Started>>>>,
    back: &mut Option<Started>,
) -> anyhow::Error {
    if let Some(running) = mischief {
        let ended = running.await;
        // It is not to be waited for again.
        *mischief = None;
        match ended {
            Ok(Ok(started)) => *back = started,
            Ok(Err(error)) => return error,
            Err(error) => return error.into(),
        }
    }
    std::future::pending().await
}
