//! `hubbub tail`: follows a channel, message by message, for people or as NDJSON.
//!
//! What lies in the past is paged from history, then a subscription goes on from there. A gap ends
//! that subscription, and paging begins again: so nothing is left out, and no page is waited for
//! while deliveries pile up behind it.

use std::{
    io::{self, Write as _},
    time::{Duration, UNIX_EPOCH},
};

use clap::Args;
use hubbub::{
    client::{Change, Client, ClientError, Delivery, HistoryFrom, Message},
    log::place::{Epoch, Position, Sequence},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    CliError,
    feed::{Feed, Names, change_in_words, name, names_of},
    login::{LoginArgs, connect},
    send::no_channel,
    terminal::{Style, escape},
};

#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// The channel
    channel: String,
    #[command(flatten)]
    login: LoginArgs,
    /// Print one JSON object per message
    #[arg(long)]
    json: bool,
    /// Begin after this sequence; 0 is the whole channel
    #[arg(long, value_name = "SEQ", conflicts_with = "last")]
    since: Option<u64>,
    /// Begin with this many messages of the past
    #[arg(long, value_name = "N")]
    last: Option<u64>,
}

/// A message as NDJSON.
#[derive(Serialize)]
struct Line<'a> {
    sequence: u64,
    epoch: u32,
    time: String,
    user: &'a str,
    user_id: u32,
    body: &'a str,
    /// What changed, of an entry that is no message.
    #[serde(flatten)]
    change: Option<Value>,
}

pub(crate) async fn run(args: TailArgs) -> Result<(), CliError> {
    let client = connect(&args.login).await?;
    let followed = tokio::select! {
        followed = follow(&client, &args) => followed,
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(CliError::Input),
    };
    client.close().await;
    followed.map_err(|error| no_channel(error, &args.channel, &args.login))
}

async fn follow(client: &Client, args: &TailArgs) -> Result<(), CliError> {
    let mut position = start(client, args).await?;
    let mut printer = Printer { json: args.json, style: Style::of_stdout() };
    loop {
        if let Some(position) = &mut position {
            catch_up(client, args, position, &mut printer).await?;
        }
        let subscription = client.subscribe(&args.channel, position).await?;
        let mut at = position.unwrap_or_else(|| subscription.start());
        let mut feed = Feed::new(client, subscription);
        loop {
            match feed.next().await? {
                Delivery::Message(message) => {
                    at.sequence = message.sequence;
                    printer.print(&message, feed.names(), at.epoch)?;
                }
                Delivery::Gap { .. } => break,
                Delivery::Reset { head } => {
                    eprintln!("hubbub: the channel began anew; what was read so far is void");
                    at = Position { sequence: Sequence::ZERO, ..head };
                }
            }
        }
        position = Some(at);
    }
}

/// The position to begin at; `None`: what comes from now on.
async fn start(client: &Client, args: &TailArgs) -> Result<Option<Position>, CliError> {
    if args.since.is_none() && args.last.is_none() {
        return Ok(None);
    }
    let page = client.history(&args.channel, HistoryFrom::Newest, 1).await?;
    let head = page.head_sequence.0;
    let sequence = match (args.since, args.last) {
        (Some(since), _) if since > head => return Err(CliError::SinceAhead { since, head }),
        (Some(since), _) => since,
        (None, last) => head.saturating_sub(last.unwrap_or_default()),
    };
    Ok(Some(Position { epoch: page.epoch, sequence: Sequence(sequence) }))
}

/// Prints the history after a position, and moves the position to its end.
async fn catch_up(
    client: &Client,
    args: &TailArgs,
    position: &mut Position,
    printer: &mut Printer,
) -> Result<(), CliError> {
    loop {
        let from = HistoryFrom::After(position.sequence);
        let page = client.history(&args.channel, from, 0).await?;
        // In another epoch the subscription is refused, and says so by a reset.
        let Some(first) = page.messages.first() else { return Ok(()) };
        if page.epoch != position.epoch {
            return Ok(());
        }
        let expected = position.sequence.next();
        if first.sequence != expected {
            let (channel, delivered) = (args.channel.clone(), first.sequence);
            return Err(ClientError::OutOfOrder { channel, expected, delivered }.into());
        }
        let names = names_of(client, &page.messages).await;
        for message in &page.messages {
            printer.print(message, &names, page.epoch)?;
            position.sequence = message.sequence;
        }
    }
}

struct Printer {
    json: bool,
    style: Style,
}

impl Printer {
    fn print(&mut self, message: &Message, names: &Names, epoch: Epoch) -> Result<(), CliError> {
        let line = if self.json {
            // JSON escapes control characters by itself, and what reads it is a program.
            let line = Line {
                sequence: message.sequence.0,
                epoch: epoch.0,
                time: rfc3339(message.time_ms()),
                user: name(names, message.user),
                user_id: message.user.0,
                body: &message.body,
                change: message.change.as_ref().map(|change| change_as_json(change, names)),
            };
            serde_json::to_string(&line).map_err(|error| CliError::Output(error.into()))?
        } else {
            row(message, names, self.style)
        };
        // Locked and flushed per line: a reader behind a pipe waits for whole lines.
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(CliError::Output)
    }
}

/// An entry in one line, for people.
fn row(message: &Message, names: &Names, style: Style) -> String {
    let prefix = style.note(&format!("{} {}", message.sequence, rfc3339(message.time_ms())));
    match &message.change {
        Some(change) => {
            let words = change_in_words(change, message.user, names);
            format!("{prefix} {}", style.note(&format!("-- {} --", escape(&words))))
        }
        None => {
            let name = escape(name(names, message.user)).into_owned();
            format!("{prefix} {}: {}", style.name(&name), escape(&message.body))
        }
    }
}

/// A change in the words of the HTTP API.
fn change_as_json(change: &Change, names: &Names) -> Value {
    match change {
        Change::Member(user, role) => json!({ "member": {
            "user_id": user.0,
            "name": name(names, *user),
            "role": role.map_or("none", |role| role.name()),
        }}),
        Change::Settings(settings) => json!({ "settings": {
            "name": &*settings.name,
            "topic": settings.topic,
            "visibility": settings.visibility,
            "posting": settings.posting,
            "archived": settings.archived,
            "quota": settings.quota,
        }}),
        Change::Deleted => json!({ "deleted": true }),
    }
}

pub(super) fn rfc3339(timestamp_ms: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(timestamp_ms));
    // Past the year 9999 there is no such form.
    let latest = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_millis(time.unwrap_or(latest).min(latest)).to_string()
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn a_time_is_in_utc_and_any_number_is_one() {
        assert_eq!(rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.000Z");
    }
}
