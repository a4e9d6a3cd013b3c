//! `hubbub send`: publishes one message, or each line of standard input, and waits until it is
//! durable.

use std::{
    io::{self, BufRead as _, Write as _},
    thread,
};

use clap::Args;
use hubbub::{client::Client, wire::code::ErrorCode};
use tokio::sync::mpsc;

use super::{
    CliError,
    login::{LoginArgs, connect},
};

/// Lines that are read ahead of what is sent.
const LINES_MAX: usize = 16;

#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// The channel
    channel: String,
    /// The message; - or nothing sends each line of standard input
    text: Option<String>,
    #[command(flatten)]
    login: LoginArgs,
}

pub(crate) async fn run(args: SendArgs) -> Result<(), CliError> {
    let text = args.text.as_deref().filter(|text| *text != "-");
    if text.is_none() && args.login.server.reads_stdin() {
        return Err(CliError::InputTakenTwice);
    }
    if text.is_some_and(|text| text.trim().is_empty()) {
        return Err(CliError::EmptyMessage);
    }
    let client = connect(&args.login).await?;
    let sent = match text {
        Some(text) => publish(&client, &args, text).await,
        None => publish_lines(&client, &args).await,
    };
    client.close().await;
    sent
}

async fn publish(client: &Client, args: &SendArgs, text: &str) -> Result<(), CliError> {
    let published = client
        .publish(&args.channel, text)
        .await
        .map_err(|error| no_channel(error.into(), &args.channel, &args.login.name))?;
    writeln!(io::stdout(), "{}", published.position.sequence).map_err(CliError::Output)
}

/// One after the other, so that their order in the channel is theirs in the input.
async fn publish_lines(client: &Client, args: &SendArgs) -> Result<(), CliError> {
    let mut lines = stdin_lines();
    let mut number = 0;
    while let Some(line) = lines.recv().await {
        let line = line.map_err(CliError::Input)?;
        number += 1;
        if line.trim().is_empty() {
            continue;
        }
        match publish(client, args, &line).await {
            Err(CliError::Client(source)) => {
                return Err(CliError::SendLine { line: number, source });
            }
            result => result?,
        }
    }
    Ok(())
}

/// The lines of standard input, read by a thread of their own: a read from a terminal or a pipe
/// cannot be cancelled, and must not hold up the runtime.
pub(super) fn stdin_lines() -> mpsc::Receiver<io::Result<String>> {
    let (mailbox, lines) = mpsc::channel(LINES_MAX);
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let ends = line.is_err();
            if mailbox.blocking_send(line).is_err() || ends {
                break;
            }
        }
    });
    lines
}

/// Says how to make a channel that does not exist.
pub(super) fn no_channel(error: CliError, channel: &str, user: &str) -> CliError {
    if error.refusal().is_some_and(|refusal| refusal.is(ErrorCode::UnknownChannel)) {
        return CliError::NoChannel { channel: channel.to_owned(), user: user.to_owned() };
    }
    error
}
