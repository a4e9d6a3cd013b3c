//! `hubbub smoke`: does once all that people do, against a server that runs, and cleans up after
//! itself. For whoever has just deployed one.
//!
//! The HTTP API makes a private channel, publishes to it, finds the message again and removes the
//! channel; a WebSocket that was subscribed before must get the message meanwhile.

use std::{
    io::{self, Write as _},
    time::{Duration, SystemTime},
};

use clap::Args;
use hubbub::{
    client::{
        Accounts, Api, ApiError, Client, ClientError, Delivery, GetToken, Options, ServerUrl,
        Subscription, TokenError,
    },
    log::place::Sequence,
    wire::code::ErrorCode,
};
use hyper::Method;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    CliError,
    login::{LoginArgs, SecretArgs, access_token, settled},
    process::print,
    sentence,
    tail::rfc3339,
    terminal::{Style, escape},
};

/// How long the channel of a test that failed may take to be removed.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Channels in one page of a list, so that a page fits what is read of an answer.
const PAGE: usize = 20;

#[derive(Debug, Args)]
pub(crate) struct SmokeArgs {
    /// The server
    #[arg(value_name = "URL")]
    server: ServerUrl,
    /// The user to act as
    #[arg(
        long = "as",
        value_name = "NAME",
        required_unless_present = "sign_up",
        conflicts_with = "sign_up"
    )]
    name: Option<String>,
    /// Make an account for it, of a name and a password that nobody learns; it stays when the test is
    /// over
    #[arg(long)]
    sign_up: bool,
    /// The auth service, where its tokens come from [default: the server]
    #[arg(long, value_name = "URL")]
    auth: Option<ServerUrl>,
    #[command(flatten)]
    secrets: SecretArgs,
    /// How long all of it may take
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    timeout: humantime::Duration,
    /// Print one JSON object when it is over
    #[arg(long)]
    json: bool,
}

/// Why a step failed.
#[derive(Debug, Error)]
enum StepError {
    #[error(transparent)]
    Cli(#[from] CliError),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("HTTP status {status} was answered where {due} was due")]
    Status { status: u16, due: u16 },
    #[error("the answer has no {0}")]
    Missing(&'static str),
    #[error("the message is durable as {0:?}, and that is not on a disk")]
    NotDurable(String),
    #[error("the subscription skipped the message")]
    Skipped,
    #[error("the channel is still there")]
    StillThere,
    #[error("there was no time left for it")]
    NoTimeLeft,
}

/// What was tried so far, told step by step.
struct Report {
    server: String,
    json: bool,
    style: Style,
    until: Instant,
    steps: Vec<Value>,
}

impl Report {
    /// Tries a step.
    async fn step<T>(
        &mut self,
        name: &'static str,
        what: impl Future<Output = Result<T, StepError>>,
    ) -> Result<T, CliError> {
        let begun = Instant::now();
        let done = timeout_at(self.until, what).await.unwrap_or(Err(StepError::NoTimeLeft));
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let reason = done.as_ref().err().map(|error| sentence(error));
        self.steps.push(json!({ "step": name, "ok": done.is_ok(), "ms": ms, "reason": reason }));
        if !self.json {
            let line = match &reason {
                None => format!("{}   {name:<8} {ms:>6} ms", self.style.good("ok")),
                Some(reason) => {
                    format!("{} {name:<8} {ms:>6} ms  {reason}", self.style.bad("FAIL"))
                }
            };
            let mut stdout = io::stdout().lock();
            writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(CliError::Output)?;
        }
        done.map_err(|_| CliError::Smoke { server: self.server.clone(), step: name })
    }
}

pub(crate) async fn run(args: SmokeArgs) -> Result<(), CliError> {
    let mut report = Report {
        server: args.server.to_string(),
        json: args.json,
        style: Style::of_stdout(),
        until: Instant::now() + *args.timeout,
        steps: Vec::new(),
    };
    let done = try_all(&args, &mut report).await;
    if report.json {
        let ok = done.is_ok();
        let steps = report.steps;
        print(&format!("{}\n", json!({ "ok": ok, "server": report.server, "steps": steps })))?;
    }
    done
}

async fn try_all(args: &SmokeArgs, report: &mut Report) -> Result<(), CliError> {
    let name = args.name.clone().unwrap_or_else(|| format!("smoke-{}", random()));
    let (server, auth, secrets) = (args.server.clone(), args.auth.clone(), args.secrets.clone());
    let login = LoginArgs::at(server, name, auth, secrets);
    let token = report.step("token", token(&login, args.sign_up)).await?;
    let api = Api::new(login.server.url()?, None).with_token(&token);
    let probe = Probe { api, login, token, channel: format!("smoke-{}", random()) };
    let done = tokio::select! {
        done = probe.try_channel(report) => done,
        interrupted = tokio::signal::ctrl_c() => {
            Err(interrupted.map_or_else(CliError::Input, |()| CliError::Interrupted))
        }
    };
    if done.is_err() {
        probe.clean_up().await;
    }
    done
}

/// Eight hexadecimal digits that nobody else has drawn.
fn random() -> String {
    format!("{:08x}", rand::random::<u32>())
}

async fn token(login: &LoginArgs, sign_up: bool) -> Result<String, StepError> {
    if !sign_up {
        return Ok(access_token(login).await?);
    }
    let accounts = Accounts::new(login.auth_url()?, None);
    let password = format!("{:032x}", rand::random::<u128>());
    let made = accounts.create(&login.name, &password).await;
    made.map_err(|error| match error {
        // What is refused here is no login.
        TokenError::Refused(refusal) => StepError::Client(refusal.into()),
        error => CliError::from(error).into(),
    })?;
    let token = accounts.token(&login.name, &password).await.map_err(CliError::from)?;
    Ok(token.access_token)
}

/// Who tries a channel.
struct Probe {
    api: Api,
    login: LoginArgs,
    token: String,
    channel: String,
}

/// Where the message is, by the answer to its post.
struct Posted {
    body: String,
    sequence: Sequence,
}

impl Probe {
    async fn try_channel(&self, report: &mut Report) -> Result<(), CliError> {
        report.step("channel", self.make_channel()).await?;
        // Whoever cannot subscribe cannot receive: then that step has failed, before there is a post.
        let subscribed = timeout_at(report.until, self.subscribe()).await;
        let (client, mut subscription) = match subscribed.unwrap_or(Err(StepError::NoTimeLeft)) {
            Ok(subscribed) => subscribed,
            Err(error) => return report.step("receive", async { Err(error) }).await,
        };
        let posted = report.step("post", self.post()).await?;
        let received = report.step("receive", receive(&mut subscription, &posted)).await;
        drop(subscription);
        client.close().await;
        received?;
        report.step("list", self.list()).await?;
        report.step("history", self.history(&posted)).await?;
        report.step("export", self.export(&posted)).await?;
        report.step("delete", self.delete()).await
    }

    async fn make_channel(&self) -> Result<(), StepError> {
        let body = json!({
            "name": self.channel,
            "topic": "a smoke test; it is gone in a moment",
            "visibility": "private",
        });
        let (status, made) = self.api.json(Method::POST, "/v1/channels", &[], Some(&body)).await?;
        expect(status, 201)?;
        if made["name"] == *self.channel { Ok(()) } else { Err(StepError::Missing("name")) }
    }

    async fn subscribe(&self) -> Result<(Client, Subscription), StepError> {
        let get_token = GetToken::fixed(&self.token);
        let client = Client::connect(Options::new(self.login.server.url()?, get_token));
        let client = settled(client, &self.login).await?;
        let subscription = client.subscribe(&self.channel, None).await?;
        Ok((client, subscription))
    }

    async fn post(&self) -> Result<Posted, StepError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let body = format!("a smoke test at {}", rfc3339(now_ms));
        let path = format!("/v1/channels/{}/messages", self.channel);
        let key = format!("smoke-{}", random());
        let head = [("idempotency-key", key.as_str())];
        let message = json!({ "body": body });
        let (status, posted) = self.api.json(Method::POST, &path, &head, Some(&message)).await?;
        expect(status, 201)?;
        let durability = posted["durability"].as_str().ok_or(StepError::Missing("durability"))?;
        if !matches!(durability, "fsynced" | "quorum") {
            return Err(StepError::NotDurable(durability.to_owned()));
        }
        let sequence = posted["sequence"].as_u64().ok_or(StepError::Missing("sequence"))?;
        Ok(Posted { body, sequence: Sequence(sequence) })
    }

    /// Looks for the channel among those of the user, however many they are.
    async fn list(&self) -> Result<(), StepError> {
        let mut path = format!("/v1/me/channels?limit={PAGE}");
        loop {
            let (_, page) = self.api.json(Method::GET, &path, &[], None).await?;
            let channels = page["channels"].as_array().ok_or(StepError::Missing("channels"))?;
            if channels.iter().any(|channel| channel["name"] == *self.channel) {
                return Ok(());
            }
            let next = page["next"].as_str().ok_or(StepError::Missing("channel of the test"))?;
            path = format!("/v1/me/channels?limit={PAGE}&after={}", query(next));
        }
    }

    async fn history(&self, posted: &Posted) -> Result<(), StepError> {
        let path = format!("/v1/channels/{}/messages", self.channel);
        let (_, page) = self.api.json(Method::GET, &path, &[], None).await?;
        let messages = page["messages"].as_array().ok_or(StepError::Missing("messages"))?;
        found(messages.iter(), posted)
    }

    async fn export(&self, posted: &Posted) -> Result<(), StepError> {
        let path = format!("/v1/export?channel={}&format=ndjson", self.channel);
        let (_, export) = self.api.send(Method::GET, &path, &[], Default::default()).await?;
        let lines: Vec<Value> =
            export.split(|byte| *byte == b'\n').flat_map(serde_json::from_slice).collect();
        found(lines.iter(), posted)
    }

    async fn delete(&self) -> Result<(), StepError> {
        let path = format!("/v1/channels/{}", self.channel);
        self.api.json(Method::DELETE, &path, &[], None).await?;
        match self.api.json(Method::GET, &path, &[], None).await {
            Err(ApiError::Refused(refusal)) if refusal.is(ErrorCode::UnknownChannel) => Ok(()),
            Ok(_) => Err(StepError::StillThere),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the channel of a test that failed, wherever it did.
    async fn clean_up(&self) {
        let path = format!("/v1/channels/{}", self.channel);
        let removed = timeout(CLEANUP_TIMEOUT, self.api.json(Method::DELETE, &path, &[], None));
        match removed.await {
            Ok(Ok(_)) => {}
            // It was not made, or was removed.
            Ok(Err(ApiError::Refused(refusal))) if refusal.is(ErrorCode::UnknownChannel) => {}
            Ok(Err(_)) | Err(_) => {
                eprintln!("hubbub: channel {} may be left behind", escape(&self.channel));
            }
        }
    }
}

/// Waits for the message.
async fn receive(subscription: &mut Subscription, posted: &Posted) -> Result<(), StepError> {
    while let Some(delivery) = subscription.next().await {
        match delivery? {
            Delivery::Message(message) if message.sequence < posted.sequence => {}
            Delivery::Message(message)
                if message.sequence == posted.sequence && message.body == posted.body =>
            {
                return Ok(());
            }
            _ => return Err(StepError::Skipped),
        }
    }
    Err(StepError::Skipped)
}

fn expect(status: u16, due: u16) -> Result<(), StepError> {
    if status == due { Ok(()) } else { Err(StepError::Status { status, due }) }
}

fn found<'a>(
    mut entries: impl Iterator<Item = &'a Value>,
    posted: &Posted,
) -> Result<(), StepError> {
    let is_it = |entry: &Value| {
        entry["sequence"].as_u64() == Some(posted.sequence.0) && entry["body"] == *posted.body
    };
    if entries.any(is_it) { Ok(()) } else { Err(StepError::Missing("message of the test")) }
}

/// A value in the query of an address.
pub(super) fn query(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~,".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        sync::mpsc,
    };

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        smoke: SmokeArgs,
    }

    /// A server that answers what it is asked by this, and tells the requests' first lines.
    async fn answering(
        answer: impl Fn(&str) -> (&'static str, &'static str) + Send + 'static,
    ) -> (String, mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (mailbox, asked) = mpsc::channel(16);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4_096];
                let length = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let first = request.lines().next().unwrap_or_default().to_owned();
                let (status, body) = answer(&first);
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
                mailbox.send(first).await.unwrap();
            }
        });
        (url, asked)
    }

    async fn smoke(url: &str) -> Result<(), CliError> {
        run(Arguments::try_parse_from(["smoke", url, "--sign-up", "--json"]).unwrap().smoke).await
    }
    /// What was asked, as far as it goes without WebSocket.
    fn asked(mut asked: mpsc::Receiver<String>) -> Vec<String> {
        std::iter::from_fn(|| asked.try_recv().ok()).collect()
    }

    #[tokio::test]
    async fn a_step_that_fails_ends_the_test_and_its_channel_is_removed() {
        let (url, requests) = answering(|request| match request.split(' ').nth(1) {
            Some("/v1/accounts") => ("201 Created", ""),
            Some("/v1/token") => ("200 OK", r#"{"access_token":"t"}"#),
            _ => ("200 OK", "{}"),
        })
        .await;
        let error = smoke(&url).await.unwrap_err();
        assert!(matches!(error, CliError::Smoke { step: "channel", .. }), "{error:?}");
        let asked = asked(requests);
        let verbs: Vec<_> = asked.iter().map(|line| line.split("smoke-").next().unwrap()).collect();
        let expected = [
            "POST /v1/accounts HTTP/1.1",
            "POST /v1/token HTTP/1.1",
            "POST /v1/channels HTTP/1.1",
            "DELETE /v1/channels/",
        ];
        assert_eq!(verbs, expected);
    }

    #[tokio::test]
    async fn whoever_gets_no_token_asks_for_nothing_else() {
        let (url, requests) =
            answering(|_| ("403 Forbidden", r#"{"code":203,"title":"accounts are closed"}"#)).await;
        let error = smoke(&url).await.unwrap_err();
        assert!(matches!(error, CliError::Smoke { step: "token", .. }), "{error:?}");
        assert_eq!(asked(requests), ["POST /v1/accounts HTTP/1.1"]);
    }

    #[tokio::test]
    async fn no_step_outlasts_the_whole() {
        let until = Instant::now();
        let style = Style::of_stdout();
        let server = "http://127.0.0.1:1".to_owned();
        let mut report = Report { server, json: true, style, until, steps: Vec::new() };
        let never = std::future::pending::<Result<(), StepError>>();
        report.step("token", never).await.unwrap_err();
        assert_eq!(report.steps[0]["reason"], "there was no time left for it");
    }

    #[test]
    fn a_message_is_found_by_its_place_and_its_words() {
        let posted = Posted { body: "hi".to_owned(), sequence: Sequence(2) };
        let entry = |sequence: u64, body: &str| json!({ "sequence": sequence, "body": body });
        let has = |entries: &[Value]| found(entries.iter(), &posted).is_ok();
        assert!(has(&[json!({ "channel": "lobby" }), entry(1, "hi"), entry(2, "hi")]));
        assert!(!has(&[entry(1, "hi"), entry(2, "ho")]) && !has(&[]));
    }

    #[test]
    fn a_value_of_a_query_is_one() {
        assert_eq!(query("AAEC_-~.a,b"), "AAEC_-~.a,b");
        assert_eq!(query("a b&c=d/é"), "a%20b%26c%3Dd%2F%C3%A9");
    }
}
