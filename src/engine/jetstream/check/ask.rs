//! What is asked of the servers: who they are, how they are set up, and how the streams are.

use async_nats::{Client, ConnectErrorKind, ServerAddr};
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Uri;
use hyper_util::{client::legacy, rt::TokioExecutor};
use serde_json::Value;
use tokio::time::timeout;

use super::{CheckError, CheckOptions, Condition, Problem, Verdict};
use crate::{
    engine::jetstream::{
        api::{Api, ApiError},
        connect,
        streams::{self, Plan, StreamsError},
        subject::Subjects,
    },
    limits::{NATS_CHECK_TIMEOUT, NATS_VARZ_BYTES_MAX},
};

/// Where a server tells of itself if it is set up as usual.
const MONITOR_PORT: u16 = 8222;

/// A server, as it was seen.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) address: String,
    pub(super) answer: Answer,
    /// What it tells of itself on its monitoring port, or why that is not known.
    pub(super) varz: Result<Value, String>,
}

/// What came of a connection to a server.
#[derive(Debug)]
pub(super) enum Answer {
    Info(Info),
    /// It does not know us.
    Refused(String),
    Nothing(String),
}

/// What a server says of itself when it is connected to.
#[derive(Debug)]
pub(super) struct Info {
    pub(super) id: String,
    pub(super) version: String,
    pub(super) max_payload: u64,
    pub(super) has_jetstream: bool,
    /// `None` in tests of what follows from the rest.
    pub(super) client: Option<Client>,
}

/// Asks all servers, side by side.
pub(super) async fn servers(options: &CheckOptions) -> Result<Vec<Seen>, CheckError> {
    // Before any waiting: a file that cannot be read is no matter of the servers.
    connect::options(&options.credentials)?;
    let answers = join_all(options.servers.iter().map(|server| info(server, options)));
    let urls = join_all(options.monitor_urls.iter().map(|url| varz(url)));
    let (answers, told) = tokio::join!(answers, urls);
    let mut seen = Vec::with_capacity(answers.len());
    for (address, answer) in options.servers.iter().zip(answers) {
        let varz = match &answer {
            Answer::Info(info) if options.monitor_urls.is_empty() => derived(address, info).await,
            Answer::Info(info) => {
                let of = |varz: &&Value| varz["server_id"] == info.id.as_str();
                let varz = told.iter().flatten().find(of);
                varz.cloned().ok_or_else(|| "none of jetstream.monitor_urls is its".to_owned())
            }
            _ => Err("it does not answer".to_owned()),
        };
        seen.push(Seen { address: address.clone(), answer, varz });
    }
    Ok(seen)
}

async fn info(server: &str, options: &CheckOptions) -> Answer {
    let Ok(connect) = connect::options(&options.credentials) else {
        return Answer::Refused("the credentials cannot be read".to_owned());
    };
    let connect = connect
        .name("hubbub check")
        .connection_timeout(NATS_CHECK_TIMEOUT)
        .ignore_discovered_servers()
        .max_reconnects(1);
    match timeout(NATS_CHECK_TIMEOUT, connect.connect(server)).await {
        Err(_) => Answer::Nothing("it does not answer".to_owned()),
        Ok(Err(error)) => match error.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                Answer::Refused("it does not know us".to_owned())
            }
            _ => Answer::Nothing(format!("it does not answer ({error})")),
        },
        Ok(Ok(client)) => {
            let info = client.server_info();
            Answer::Info(Info {
                id: info.server_id,
                version: info.version,
                max_payload: info.max_payload as u64,
                has_jetstream: info.jetstream,
                client: Some(client),
            })
        }
    }
}

/// What a server tells on the usual port of its host.
async fn derived(address: &str, info: &Info) -> Result<Value, String> {
    let host = address.parse::<ServerAddr>().map_err(|_| "its address has no host".to_owned())?;
    let host = match host.host() {
        host if host.contains(':') && !host.starts_with('[') => format!("[{host}]"),
        host => host.to_owned(),
    };
    let url = format!("http://{host}:{MONITOR_PORT}");
    let told = varz(&url).await?;
    if told["server_id"] == info.id.as_str() {
        Ok(told)
    } else {
        Err(format!("{url} is another server's"))
    }
}

/// `/varz` of a server.
async fn varz(url: &str) -> Result<Value, String> {
    let asked = async {
        let uri: Uri = format!("{}/varz", url.trim_end_matches('/')).parse().ok()?;
        let client = legacy::Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
        let answer = client.get(uri).await.ok()?;
        let body = Limited::new(answer.into_body(), NATS_VARZ_BYTES_MAX).collect().await.ok()?;
        serde_json::from_slice(&body.to_bytes()).ok()
    };
    let told = timeout(NATS_CHECK_TIMEOUT, asked).await.ok().flatten();
    told.ok_or_else(|| format!("{url} does not tell of it"))
}

/// Whether the streams that are there are as they were made.
pub(super) async fn streams(seen: &[Seen], options: &CheckOptions) -> Vec<Condition> {
    let clients = seen.iter().filter_map(|server| match &server.answer {
        Answer::Info(Info { client, has_jetstream: true, .. }) => client.clone(),
        _ => None,
    });
    let Some(client) = { clients }.next() else { return Vec::new() };
    let api = Api::new(client);
    let mut conditions = Vec::new();
    let subjects = Subjects::new(&options.prefix);
    let plan = Plan { subjects: &subjects, logs: options.streams, single: options.single };
    for (stream, made) in plan.streams() {
        conditions.push(match api.stream(&stream).await {
            Ok(None) => Condition::ok(&stream, "made at the first start"),
            Ok(Some(info)) => of_stream(&stream, plan, &made, &info.config),
            Err(ApiError::Unavailable) => {
                let reason = "JetStream does not answer: it has no leader now".to_owned();
                let fix = "wait, or start the other servers".to_owned();
                let verdict = Verdict::NotYet(Problem { reason, fix });
                Condition { about: stream, verdict }
            }
            Err(error) => Condition::failed(
                &stream,
                error.to_string(),
                "let our user have JetStream and its streams, as deploy/nats shows",
            ),
        });
    }
    conditions
}

fn of_stream(stream: &str, plan: Plan<'_>, made: &Value, found: &Value) -> Condition {
    let Err(error) = streams::compare(plan.logs, stream, made, found) else {
        return Condition::ok(stream, format!("as it was made, {} copies", found["num_replicas"]));
    };
    let fix = match &error {
        StreamsError::Logs { made, .. } => format!("set jetstream.streams to {made}"),
        StreamsError::Setting { setting: "num_replicas", .. } if plan.single => {
            "leave --engine-single out: this is a cluster".to_owned()
        }
        StreamsError::Setting { setting: "num_replicas", .. } => {
            format!("`nats stream edit {stream} --replicas 3`, or to try it out: --engine-single")
        }
        _ => format!("`nats stream edit {stream}` sets it back"),
    };
    Condition::failed(stream, error.to_string(), fix)
}
