//! Whether the servers of NATS are as a cluster needs them.
//!
//! What NATS does by default loses acknowledged messages: it syncs its disk every two minutes. So a node
//! looks at every server before it starts, and refuses one that is not fit, with the reason and what to
//! do. `hubbub check` prints the same. A server that is down does not keep a node from starting as long as
//! most of them answer: what it would say was checked when it ran.

use std::{fmt, path::PathBuf, time::Duration};

use thiserror::Error;
use tokio::time::{Instant, sleep};

use self::ask::{Answer, Seen};
use super::connect::CredentialsError;
use crate::limits::{
    NATS_MAX_PAYLOAD_MIN, NATS_SERVERS_MIN, NATS_START_PAUSE, NATS_START_TIMEOUT, NATS_VERSION_MIN,
};

mod ask;
#[cfg(test)]
mod tests;

/// Which servers are checked, and for what.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// All servers, as `nats://host:port`.
    pub servers: Vec<String>,
    /// A file that says who we are to them. Empty: nobody.
    pub credentials: PathBuf,
    /// What the names of the streams begin with.
    pub prefix: String,
    /// How many streams hold the logs of channels.
    pub streams: usize,
    /// Whether one server is enough.
    pub single: bool,
    /// Whether servers that do not sync are taken.
    pub accept_lossy: bool,
    /// Where they tell of themselves. Empty: each on port 8222.
    pub monitor_urls: Vec<String>,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    /// A server or a stream, and what of it.
    pub about: String,
    /// How it is.
    pub verdict: Verdict,
}

/// How something is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// As it must be. What was seen.
    Ok(String),
    /// Not known, since the server does not answer: the others can do without it.
    Down(Problem),
    /// Not as it must be, and it may come by itself.
    NotYet(Problem),
    /// Not as it must be.
    Failed(Problem),
}

/// What is wrong, and what to do about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// What was seen, and why it will not do.
    pub reason: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.reason, self.fix)
    }
}

impl Condition {
    fn ok(about: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { about: about.into(), verdict: Verdict::Ok(seen.into()) }
    }

    fn failed(about: impl Into<String>, reason: impl Into<String>, fix: impl Into<String>) -> Self {
        let problem = Problem { reason: reason.into(), fix: fix.into() };
        Self { about: about.into(), verdict: Verdict::Failed(problem) }
    }

    /// What is wrong, if something is.
    #[must_use]
    pub const fn problem(&self) -> Option<&Problem> {
        match &self.verdict {
            Verdict::Ok(_) => None,
            Verdict::Down(problem) | Verdict::NotYet(problem) | Verdict::Failed(problem) => {
                Some(problem)
            }
        }
    }
}

/// Why a node does not start on these servers.
#[derive(Debug, Error)]
pub enum CheckError {
    /// Who we are to them is not known.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// What is wrong, a line for each.
    #[error("the servers of NATS are not fit for a cluster:\n{}", .0.join("\n"))]
    Unfit(Vec<String>),
}

/// Checks, and waits for servers that may be starting too.
///
/// # Errors
/// When something must be changed first, or not enough servers came in time.
pub async fn wait_until_fit(options: &CheckOptions) -> Result<(), CheckError> {
    let deadline = Instant::now() + NATS_START_TIMEOUT;
    let mut has_told = false;
    loop {
        let conditions = check(options).await?;
        let lines = |wanted: fn(&Verdict) -> bool| -> Vec<_> {
            let unfit = conditions.iter().filter(|condition| wanted(&condition.verdict));
            unfit.filter_map(|it| Some(format!("{}: {}", it.about, it.problem()?))).collect()
        };
        let failed = lines(|verdict| matches!(verdict, Verdict::Failed(_)));
        if !failed.is_empty() {
            return Err(CheckError::Unfit(failed));
        }
        let waiting = lines(|verdict| matches!(verdict, Verdict::NotYet(_)));
        if waiting.is_empty() {
            for line in lines(|verdict| matches!(verdict, Verdict::Down(_))) {
                tracing::warn!("{line}");
            }
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(CheckError::Unfit(waiting));
        }
        if !has_told {
            tracing::info!(because = waiting.join("; "), "waiting for the servers of NATS");
            has_told = true;
        }
        sleep(NATS_START_PAUSE).await;
    }
}

/// Looks at every server and every stream.
///
/// # Errors
/// When the credentials cannot be read.
pub async fn check(options: &CheckOptions) -> Result<Vec<Condition>, CheckError> {
    let seen = ask::servers(options).await?;
    let mut conditions: Vec<_> =
        seen.iter().flat_map(|server| of_server(server, options)).collect();
    conditions.extend(of_all(&seen, options));
    conditions.extend(ask::streams(&seen, options).await);
    Ok(conditions)
}

/// What one server says of itself.
fn of_server(server: &Seen, options: &CheckOptions) -> Vec<Condition> {
    let name = &server.address;
    let about = |what: &str| format!("{name} {what}");
    let answer = match &server.answer {
        Answer::Info(answer) => answer,
        Answer::Refused(reason) => {
            let fix = "jetstream.credentials names a file with what the server asks for";
            return vec![Condition::failed(about("login"), reason, fix)];
        }
        Answer::Nothing(reason) => {
            let fix = "start it, or correct its address".to_owned();
            let problem = Problem { reason: reason.clone(), fix };
            return vec![Condition { about: about("answers"), verdict: Verdict::Down(problem) }];
        }
    };
    let mut conditions = Vec::new();
    let (major, minor) = NATS_VERSION_MIN;
    conditions.push(if is_at_least(&answer.version, NATS_VERSION_MIN) {
        Condition::ok(about("version"), &answer.version)
    } else {
        Condition::failed(
            about("version"),
            format!("it is {}, which cannot store several messages in one step", answer.version),
            format!("install nats-server {major}.{minor} or newer"),
        )
    });
    conditions.push(if answer.max_payload >= NATS_MAX_PAYLOAD_MIN {
        Condition::ok(about("max_payload"), bytesize::ByteSize::b(answer.max_payload).to_string())
    } else {
        Condition::failed(
            about("max_payload"),
            format!(
                "it takes messages of {}, and a batch may have more",
                bytesize::ByteSize::b(answer.max_payload)
            ),
            "set `max_payload: 8MB` in its configuration",
        )
    });
    if !answer.has_jetstream {
        conditions.push(Condition::failed(
            about("JetStream"),
            "it is off, so nothing can be stored",
            "set `jetstream { store_dir: …, sync_interval: always }` in its configuration",
        ));
        return conditions;
    }
    conditions.push(Condition::ok(about("JetStream"), "on"));
    conditions.push(of_sync(about("sync"), server, options));
    conditions
}

/// Whether what a server acknowledges is on its disk.
fn of_sync(about: String, server: &Seen, options: &CheckOptions) -> Condition {
    let config = match &server.varz {
        Ok(varz) => &varz["jetstream"]["config"],
        Err(reason) if options.accept_lossy => return Condition::ok(about, reason),
        Err(reason) => {
            return Condition::failed(
                about,
                format!("{reason}, so nobody knows whether it syncs its disk"),
                "set `http: 8222` in its configuration, or name where it tells of itself in \
                 jetstream.monitor_urls",
            );
        }
    };
    if config["sync_always"] == true {
        return Condition::ok(about, "before every acknowledgement");
    }
    let every = config["sync_interval"].as_u64().map_or_else(
        || "at times".to_owned(),
        |ns| format!("every {}", humantime::format_duration(Duration::from_nanos(ns))),
    );
    if options.accept_lossy {
        return Condition::ok(about, format!("{every}: a power cut loses acknowledged messages"));
    }
    Condition::failed(
        about,
        format!("it syncs its disk {every}, so a power cut loses acknowledged messages"),
        "set `sync_interval: always` in the `jetstream` section of its configuration",
    )
}

/// Whether the servers are enough, and different, and all.
fn of_all(seen: &[Seen], options: &CheckOptions) -> Vec<Condition> {
    let mut conditions = Vec::new();
    let up: Vec<_> = seen
        .iter()
        .filter_map(|server| match &server.answer {
            Answer::Info(info) => Some((server, info)),
            _ => None,
        })
        .collect();
    for (at, (server, info)) in up.iter().enumerate() {
        if let Some((other, _)) = up[..at].iter().find(|(_, it)| it.id == info.id) {
            conditions.push(Condition::failed(
                format!("{} server", server.address),
                format!("it is the same as {}", other.address),
                "name each server once",
            ));
        }
    }
    let sizes = up.iter().filter_map(|(server, _)| {
        server.varz.as_ref().ok()?["jetstream"]["meta"]["cluster_size"].as_u64()
    });
    let size = sizes.max().map_or(1, |size| usize::try_from(size).unwrap_or(usize::MAX));
    let (named, answering) = (seen.len(), up.len());
    let about = "servers";
    conditions.push(if answering * 2 <= named {
        let reason = format!("{answering} of {named} answer, and most of them must");
        let fix = "start the others".to_owned();
        let verdict = Verdict::NotYet(Problem { reason, fix });
        Condition { about: about.to_owned(), verdict }
    } else if options.single {
        Condition::ok(about, "one is enough by --engine-single: what its disk loses is lost")
    } else if named < NATS_SERVERS_MIN {
        Condition::failed(
            about,
            format!("{named} named, and {NATS_SERVERS_MIN} are the least that survive a loss"),
            "name all of them in --engine; to try it out on one, add --engine-single",
        )
    } else if size < NATS_SERVERS_MIN {
        Condition::failed(
            about,
            "they are no cluster of JetStream",
            "give each a `cluster` section with the routes to the others",
        )
    } else if size > named {
        Condition::failed(
            about,
            format!("the cluster has {size}, and {named} are named: the others are not checked"),
            "name all of them in --engine",
        )
    } else {
        Condition::ok(about, format!("{answering} of {size} answer"))
    });
    conditions
}

/// Whether a version such as `2.15.1` or `2.16.0-RC.1` is this one or a later one.
fn is_at_least(version: &str, least: (u32, u32)) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    let mut next = || numbers.next().flatten();
    next().zip(next()).is_some_and(|version| version >= least)
}
