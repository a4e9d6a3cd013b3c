//! The reference workload: everybody is in one channel, and sends a message now and then.
//!
//! All log in and subscribe first, then sit idle for a moment; then they begin to send one after
//! another (the ramp-up) and go on (the plateau, which is what is measured). A message is due at a
//! moment that does not depend on the server (an open model): its latency counts from there, so a
//! server that stalls cannot hide it by keeping its users waiting.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use hubbub::{
    client::{Client, Delivery, HistoryFrom, PublishOptions, ServerUrl, Subscription},
    log::place::{ClientMessageId, Sequence},
};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

use crate::{
    Failure, Verdict,
    audit::{Audit, Fingerprint, Seen},
    latency::Latency,
    server::{Server, Setup},
    usage::Usage,
    users::{self, User},
};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {
    /// How many users.
    #[arg(long, default_value_t = 425)]
    users: u32,
    /// Messages that each sends per second.
    #[arg(long, default_value_t = 0.1)]
    rate_per_user: f64,
    /// How long the plateau is, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// From the first user's first message to the last user's.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    ramp_up: Duration,
    /// The size of a message's body.
    #[arg(long, default_value_t = 64)]
    body_bytes: usize,
    /// The server to load.
    #[arg(long, value_name = "URL", conflicts_with = "start_server")]
    server: Option<ServerUrl>,
    /// Start a server, on fresh data and its own core.
    #[arg(long)]
    start_server: bool,
    /// The server's program, if not the one beside this.
    #[arg(long, value_name = "PATH", requires = "start_server")]
    binary: Option<PathBuf>,
    /// Where the randomness begins.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Users who log in at the same time. The server's password hashing is the bottleneck.
const LOGINS_MAX: usize = 8;
/// Between the last subscription and the first message.
const IDLE: Duration = Duration::from_secs(1);
/// How long the last deliveries may take.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is looked whether they have come.
const DRAIN_CHECK: Duration = Duration::from_millis(20);
/// The back-off of the clients: the usual one.
const BACKOFF_MAX: Duration = hubbub::limits::CLIENT_BACKOFF_MAX;
/// Open files beyond one per user.
const FILES_KEPT: u64 = 64;
/// Messages that are asked for at once when history is read.
const PAGE: u32 = 200;
/// The only channel of this run, as the audit counts.
const CHANNEL: usize = 0;

/// What the virtual users share.
struct Shared {
    channel: String,
    body_bytes: usize,
    /// The moment that the times in bodies count from.
    origin: Instant,
    plateau: (Duration, Duration),
    books: Mutex<Books>,
}

struct Books {
    audit: Audit,
    /// From the due moment of a message to each receiver, on the plateau.
    deliver: Latency,
    /// From the due moment to the acknowledgement, on the plateau.
    ack: Latency,
    /// From the due moment to the moment at which the generator came to it.
    lag: Latency,
    plateau_deliveries: u64,
    messages: u64,
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_plateau(&self, due: Duration) -> bool {
        (self.plateau.0..self.plateau.1).contains(&due)
    }
}

pub(crate) async fn run(flags: Flags, is_json: bool) -> Result<Verdict, Failure> {
    check(&flags)?;
    let folder = tempfile::tempdir()?;
    let server = match &flags.server {
        Some(_) => None,
        None => {
            let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
            let server = Setup::new(flags.binary.clone(), any, folder.path())?.start().await?;
            // The server takes the first core for its hub. Only now, or it would inherit this.
            leave_first_core()?;
            Some(server)
        }
    };
    let url = match (&server, &flags.server) {
        (Some(server), _) => server.url.clone(),
        (None, Some(url)) => url.clone(),
        (None, None) => unreachable!("checked above"),
    };

    eprintln!("{} users log in …", flags.users);
    let users = log_in(&url, flags.users).await?;
    let first = users.first().context("there are no users")?.clone();
    let channel = format!("reference-{:08x}", rand::random::<u32>());
    first.client.create_channel(&channel).await.context("the channel cannot be made")?;
    let readings = subscribe(&users, &channel).await?;

    let run = load(&flags, users, readings, channel, server.as_ref()).await?;
    if is_json {
        println!("{:#}", run.json(&flags));
    } else {
        run.print(&flags);
    }
    // Before the folder goes.
    if let Some(server) = server {
        server.kill().await?;
    }
    Ok(if run.violations == 0 { Verdict::Holds } else { Verdict::Broken })
}

fn check(flags: &Flags) -> Result<(), Failure> {
    let wrong = |what: &str| Err(Failure::configuration(anyhow!("{what}")));
    if flags.server.is_none() && !flags.start_server {
        return wrong("say which server: --server URL, or --start-server");
    }
    if flags.users == 0 || flags.seconds == 0 {
        return wrong("--users and --seconds must be at least 1");
    }
    if !(flags.rate_per_user > 0.0 && flags.rate_per_user <= 10_000.0) {
        return wrong("--rate-per-user must be above 0 and at most 10000");
    }
    if flags.body_bytes > hubbub::limits::BATCH_BYTES_MAX / 2 {
        return wrong("--body-bytes is too large");
    }
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if files.is_some_and(|files| files < u64::from(flags.users) + FILES_KEPT) {
        return wrong("too few open files are allowed for so many users: see `ulimit -n`");
    }
    Ok(())
}

/// Leaves the first allowed core to the server, if there is another.
fn leave_first_core() -> Result<()> {
    let mut cores = sched_getaffinity(None)?;
    let first = (0..CpuSet::MAX_CPU).find(|core| cores.is_set(*core));
    if cores.count() > 1
        && let Some(first) = first
    {
        cores.unset(first);
        sched_setaffinity(None, &cores)?;
    }
    Ok(())
}

async fn log_in(url: &ServerUrl, count: u32) -> Result<Vec<User>> {
    let permits = Arc::new(Semaphore::new(LOGINS_MAX));
    let mut logins = JoinSet::new();
    for number in 0..count {
        let (permits, url) = (Arc::clone(&permits), url.clone());
        logins.spawn(async move {
            let _permit = permits.acquire_owned().await?;
            users::log_in(&url, &format!("virtual-{number}"), BACKOFF_MAX).await
        });
    }
    let mut users = Vec::new();
    while let Some(user) = logins.join_next().await {
        users.push(user??);
        if users.len() % 100 == 0 {
            eprintln!("{} of {count} are logged in", users.len());
        }
    }
    Ok(users)
}

async fn subscribe(users: &[User], channel: &str) -> Result<Vec<Subscription>> {
    let mut subscriptions = Vec::new();
    for user in users {
        let subscription = user.client.subscribe(channel, None).await;
        subscriptions.push(subscription.context("a user cannot subscribe")?);
    }
    Ok(subscriptions)
}

/// The load itself, from the idle moment to the last delivery, and the reading of history.
async fn load(
    flags: &Flags,
    users: Vec<User>,
    subscriptions: Vec<Subscription>,
    channel: String,
    server: Option<&Server>,
) -> Result<Run> {
    let plateau_begins = IDLE + flags.ramp_up;
    let plateau_ends = plateau_begins + Duration::from_secs(flags.seconds);
    let shared = Arc::new(Shared {
        channel,
        body_bytes: flags.body_bytes,
        origin: Instant::now(),
        plateau: (plateau_begins, plateau_ends),
        books: Mutex::new(Books {
            audit: Audit::new(1, users.len()),
            deliver: Latency::new(),
            ack: Latency::new(),
            lag: Latency::new(),
            plateau_deliveries: 0,
            messages: 0,
        }),
    });

    let mut readers = JoinSet::new();
    for (reader, subscription) in subscriptions.into_iter().enumerate() {
        readers.spawn(read(Arc::clone(&shared), reader, subscription));
    }
    let mut writers = JoinSet::new();
    for (number, user) in users.iter().enumerate() {
        let plan = Plan::new(flags, number);
        writers.spawn(write(Arc::clone(&shared), user.clone(), number, plan));
    }

    let measure = || -> Result<_> {
        let own = Usage::read(std::process::id())?;
        let of_server = server.map(|server| Usage::read(server.pid()?)).transpose()?;
        Ok((own, of_server))
    };
    tokio::time::sleep_until(shared.origin + plateau_begins).await;
    eprintln!("the plateau of {} s begins", flags.seconds);
    let before = measure()?;
    tokio::time::sleep_until(shared.origin + plateau_ends).await;
    let after = measure()?;

    while let Some(writer) = writers.join_next().await {
        writer?;
    }
    let client = &users.first().context("there are no users")?.client;
    let seen = shared.books().audit.seen();
    let head = read_history(&shared, client, &seen).await?;
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, async {
        while !shared.books().audit.is_complete(CHANNEL, head) {
            tokio::time::sleep(DRAIN_CHECK).await;
        }
    });
    if drained.await.is_err() {
        eprintln!("not everything came within {DRAIN_TIMEOUT:?}");
    }
    readers.abort_all();

    let mut books = shared.books();
    books.audit.end_delivery(CHANNEL, head);
    let plateau = Duration::from_secs(flags.seconds);
    let rate = |cpu: Duration| cpu.as_secs_f64() / plateau.as_secs_f64() * 100.0;
    let of_server = before.1.zip(after.1).map(|(before, after)| OfServer {
        cpu: after.cpu_since(&before),
        hub: after.thread_since(&before, "hub"),
        threads: after
            .threads
            .keys()
            .map(|name| (name.clone(), rate(after.thread_since(&before, name))))
            .collect(),
        resident_bytes: after.resident_bytes,
    });
    Ok(Run {
        messages: head.0,
        deliveries: books.audit.deliveries(),
        deliveries_per_second: per_second(books.plateau_deliveries, plateau),
        messages_per_second: per_second(books.messages, plateau),
        lost: books.audit.missed(CHANNEL, head),
        acknowledged_lost: books.audit.lost(),
        plateau_deliveries: books.plateau_deliveries,
        deliver: books.deliver.clone(),
        ack: books.ack.clone(),
        lag: books.lag.clone(),
        generator_percent: rate(after.0.cpu_since(&before.0)),
        server: of_server,
        plateau,
        violations: books.audit.violations(),
        evidence: books.audit.evidence().iter().map(ToString::to_string).collect(),
    })
}

fn mib(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a process has far less than 2^52")]
    let bytes = bytes as f64;
    bytes / 1_048_576.0
}

fn per_second(count: u64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
    let count = count as f64;
    count / time.as_secs_f64()
}

/// When a user's messages are due.
struct Plan {
    first: Duration,
    period: Duration,
    ends: Duration,
    random: SmallRng,
}

impl Plan {
    /// Users begin one after another, evenly over the ramp-up. Their turns spread evenly over the
    /// period, however long it is beside the ramp-up.
    fn new(flags: &Flags, number: usize) -> Self {
        let period = Duration::from_secs_f64(1.0 / flags.rate_per_user);
        #[expect(clippy::cast_precision_loss, reason = "users are few")]
        let share = number as f64 / f64::from(flags.users);
        let begin = flags.ramp_up.mul_f64(share);
        let mut turn = period.mul_f64(share);
        while turn < begin {
            turn += period;
        }
        Self {
            first: IDLE + turn,
            period,
            ends: IDLE + flags.ramp_up + Duration::from_secs(flags.seconds),
            random: SmallRng::seed_from_u64(flags.seed.wrapping_add(number as u64)),
        }
    }

    /// The moment of the n-th message, from 0: a period after the last, give or take a tenth.
    fn due(&mut self, n: u32) -> Option<Duration> {
        let jitter = self.period.mul_f64(self.random.random_range(0.0..0.2));
        let due = self.first + self.period * n + jitter;
        (due < self.ends).then_some(due)
    }
}

async fn write(shared: Arc<Shared>, user: User, number: usize, mut plan: Plan) {
    let mut n = 0;
    while let Some(due) = plan.due(n) {
        n += 1;
        tokio::time::sleep_until(shared.origin + due).await;
        let body = users::body_sent_at(due, shared.body_bytes);
        let id = ClientMessageId(((number as u64 + 1) << 32) | u64::from(n));
        let message = Fingerprint::new(user.id, id, &body);
        let is_plateau = shared.is_plateau(due);
        {
            let mut books = shared.books();
            books.audit.publishing(message);
            if is_plateau {
                books.messages += 1;
                books.lag.record(shared.origin.elapsed().saturating_sub(due));
            }
        }
        let options = PublishOptions { client_message_id: Some(id), timeout: None };
        match user.client.publish_with(&shared.channel, &body, options).await {
            Ok(published) => {
                let took = shared.origin.elapsed().saturating_sub(due);
                let mut books = shared.books();
                books.audit.acknowledged(CHANNEL, published.position.sequence, message);
                if is_plateau {
                    books.ack.record(took);
                }
            }
            Err(error) => {
                let who = format!("writer {number}");
                shared.books().audit.ended(who, users::in_full(&error));
                return;
            }
        }
    }
}

async fn read(shared: Arc<Shared>, reader: usize, mut subscription: Subscription) {
    while let Some(delivery) = subscription.next().await {
        let now = shared.origin.elapsed();
        let mut books = shared.books();
        match delivery {
            Ok(Delivery::Message(message)) => {
                let print = Fingerprint::of(&message);
                books.audit.delivered(CHANNEL, reader, message.sequence, print);
                let due = users::sent_at(&message.body);
                if let Some(due) = due.filter(|due| shared.is_plateau(*due)) {
                    books.deliver.record(now.saturating_sub(due));
                    books.plateau_deliveries += 1;
                }
            }
            Ok(Delivery::Gap { from, to }) => books.audit.skipped(CHANNEL, reader, from, to),
            Ok(Delivery::Reset { head }) => {
                books.audit.started_over(CHANNEL, reader, head.sequence);
            }
            Err(error) => {
                books.audit.ended(format!("reader {reader}"), users::in_full(&error));
            }
        }
    }
}

/// Reads the whole channel, and answers where it ends.
async fn read_history(shared: &Shared, client: &Client, seen: &Seen) -> Result<Sequence> {
    shared.books().audit.begin_history();
    loop {
        let after = shared.books().audit.history_read(CHANNEL);
        let page = client.history(&shared.channel, HistoryFrom::After(after), PAGE).await;
        let page = page.context("history cannot be read")?;
        let mut books = shared.books();
        for message in &page.messages {
            books.audit.history(CHANNEL, message.sequence, Fingerprint::of(message));
        }
        if page.messages.is_empty() || books.audit.history_read(CHANNEL) >= page.head_sequence {
            books.audit.end_history(CHANNEL, page.head_sequence, seen);
            return Ok(page.head_sequence);
        }
    }
}

/// What the run showed.
struct Run {
    messages: u64,
    messages_per_second: f64,
    deliveries: u64,
    deliveries_per_second: f64,
    plateau_deliveries: u64,
    lost: u64,
    acknowledged_lost: u64,
    deliver: Latency,
    ack: Latency,
    lag: Latency,
    generator_percent: f64,
    server: Option<OfServer>,
    plateau: Duration,
    violations: u64,
    evidence: Vec<String>,
}

/// What the server used on the plateau.
struct OfServer {
    cpu: Duration,
    hub: Duration,
    /// In percent of one core.
    threads: BTreeMap<String, f64>,
    resident_bytes: u64,
}

impl Run {
    /// CPU time → microseconds per delivery of the plateau.
    fn per_delivery(&self, cpu: Duration) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a plateau has far less than 2^52")]
        let deliveries = self.plateau_deliveries.max(1) as f64;
        (cpu.as_secs_f64() * 1e6 / deliveries * 100.0).round() / 100.0
    }

    fn percent(&self, cpu: Duration) -> f64 {
        (cpu.as_secs_f64() / self.plateau.as_secs_f64() * 1_000.0).round() / 10.0
    }

    fn json(&self, flags: &Flags) -> Value {
        json!({
            "users": flags.users,
            "messages": self.messages,
            "messages_per_second": self.messages_per_second,
            "deliveries": self.deliveries,
            "deliveries_per_second": self.deliveries_per_second,
            "lost": self.lost,
            "acknowledged_lost": self.acknowledged_lost,
            "percentiles_ms": self.deliver.percentiles_ms(),
            "deliver": self.deliver.json(),
            "ack": self.ack.json(),
            "generator": { "cpu_percent": self.generator_percent, "lag": self.lag.json() },
            "server": self.server.as_ref().map(|it| json!({
                "cpu_us_per_delivery": self.per_delivery(it.cpu),
                "hub_us_per_delivery": self.per_delivery(it.hub),
                "cpu_percent": self.percent(it.cpu),
                "hub_percent": self.percent(it.hub),
                "threads_percent": it.threads,
                "resident_bytes": it.resident_bytes,
            })),
            "violations": self.violations,
            "evidence": self.evidence,
        })
    }

    fn print(&self, flags: &Flags) {
        let Self { messages, deliveries, lost, acknowledged_lost, .. } = self;
        println!("users         {}, {} bytes a message", flags.users, flags.body_bytes);
        println!(
            "plateau       {} s, {:.1} messages/s, {:.0} deliveries/s",
            self.plateau.as_secs(),
            self.messages_per_second,
            self.deliveries_per_second
        );
        println!("whole run     {messages} messages, {deliveries} deliveries");
        println!("lost          {lost} deliveries, {acknowledged_lost} acknowledged messages");
        println!("deliver       {}", self.deliver.line());
        println!("ack           {}", self.ack.line());
        let [p90, p95, p99] = self.deliver.percentiles_ms();
        println!("percentiles_ms=[{p90:.1},{p95:.1},{p99:.1}]");
        if let Some(server) = &self.server {
            println!(
                "server        {:.2} µs CPU per delivery ({:.2} of it the hub's thread), {:.1} MiB",
                self.per_delivery(server.cpu),
                self.per_delivery(server.hub),
                mib(server.resident_bytes),
            );
            println!(
                "cores         hub {:.1} %, whole server {:.1} %",
                self.percent(server.hub),
                self.percent(server.cpu)
            );
        }
        println!(
            "generator     {:.1} % of a core, late by: {}",
            self.generator_percent,
            self.lag.line()
        );
        for violation in &self.evidence {
            println!("VIOLATION     {violation}");
        }
        let verdict = if self.violations == 0 { "holds" } else { "BROKEN" };
        println!("audit         {verdict}: {} violations", self.violations);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        flags: Flags,
    }

    fn flags(arguments: &[&str]) -> Flags {
        let arguments = ["reference"].iter().chain(arguments);
        Arguments::try_parse_from(arguments).unwrap().flags
    }

    #[test]
    fn turns_spread_evenly_and_the_rate_is_kept() {
        let flags = flags(&["--users", "10", "--seconds", "30", "--rate-per-user", "0.5"]);
        let mut due = Vec::new();
        for number in 0..10 {
            let mut plan = Plan::new(&flags, number);
            due.extend((0..).map_while(|n| plan.due(n)));
        }
        let plateau = (IDLE + flags.ramp_up)..(IDLE + flags.ramp_up + Duration::from_secs(30));
        let on_plateau = due.iter().filter(|due| plateau.contains(*due)).count();
        assert!((145..=155).contains(&on_plateau), "{on_plateau}");
        // Any second has about its share.
        let busiest = (12..40)
            .map(|second| due.iter().filter(|due| due.as_secs() == second).count())
            .max()
            .unwrap();
        assert!(busiest <= 10, "{busiest}");
    }

    #[test]
    fn what_cannot_be_done_is_said_before_it_begins() {
        for arguments in [
            &[][..],
            &["--start-server", "--users", "0"],
            &["--start-server", "--rate-per-user", "0"],
            &["--start-server", "--users", "4000000000"],
        ] {
            let checked = check(&flags(arguments));
            assert!(matches!(checked, Err(Failure::Configuration(_))), "{arguments:?}");
        }
        assert!(check(&flags(&["--start-server"])).is_ok());
    }
}
