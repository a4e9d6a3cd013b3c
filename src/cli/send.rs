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
        .map_err(|error| no_channel(error.into(), &args.channel, &args.login))?;
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
pub(super) fn no_channel(error: CliError, channel: &str, login: &LoginArgs) -> CliError {
    if error.refusal().is_some_and(|refusal| refusal.is(ErrorCode::UnknownChannel)) {
        let user = login.name.clone();
        let command = login.command(&format!("channel create {channel} --as {user}"));
        return CliError::NoChannel { channel: channel.to_owned(), user, command };
    }
    error
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use futures_util::{SinkExt as _, StreamExt as _};
    use hubbub::wire::proto::{self, client_envelope::Command, reply, server_envelope::Envelope};
    use prost::Message as _;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use tokio_tungstenite::{
        accept_hdr_async,
        tungstenite::{
            Message as Frame,
            handshake::server::{Request, Response},
            http::HeaderValue,
        },
    };

    use super::{SendArgs, run};
    use crate::cli::CliError;

    #[derive(clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        send: SendArgs,
    }

    /// A server that gives a token, then answers one publish.
    #[expect(clippy::result_large_err, reason = "the shape of tungstenite's callback")]
    async fn serve(listener: TcpListener, answer: reply::Result) -> String {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4_096];
        let mut length = 0;
        while !request[..length].ends_with(b"}") {
            length += stream.read(&mut request[length..]).await.unwrap();
        }
        let token = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"access_token\":\"t\"}";
        stream.write_all(token).await.unwrap();
        drop(stream);

        let (stream, _) = listener.accept().await.unwrap();
        let subprotocol = |_: &Request, mut response: Response| {
            let value = HeaderValue::from_static("hubbub.v1.proto");
            response.headers_mut().insert("sec-websocket-protocol", value);
            Ok(response)
        };
        let mut peer = accept_hdr_async(stream, subprotocol).await.unwrap();
        let frame = |envelope| {
            let envelope = proto::ServerEnvelope { envelope: Some(envelope) };
            Frame::Binary(envelope.encode_to_vec().into())
        };
        let welcome = proto::Welcome {
            expires_at: u64::from(u32::MAX),
            ping_interval_ms: 25_000,
            pong_timeout_ms: 10_000,
            message_bytes_max: 65_536,
            ..proto::Welcome::default()
        };
        peer.send(frame(Envelope::Welcome(welcome))).await.unwrap();
        let Frame::Binary(command) = peer.next().await.unwrap().unwrap() else { panic!() };
        let command = proto::ClientEnvelope::decode(command).unwrap();
        let reply = proto::Reply { id: command.id, result: Some(answer) };
        peer.send(frame(Envelope::Reply(reply))).await.unwrap();
        while let Some(Ok(_)) = peer.next().await {}
        match command.command {
            Some(Command::Publish(publish)) => publish.body,
            command => panic!("{command:?}"),
        }
    }

    /// Sends «hello» to such a server.
    async fn send(answer: reply::Result) -> (Result<(), CliError>, String) {
        let folder = tempfile::tempdir().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, "correct horse\n").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let password = password.to_str().unwrap();
        let arguments = [
            "send",
            "lobby",
            "hello",
            "--as",
            "ada",
            "--server",
            &server,
            "--password-file",
            password,
        ];
        let serving = tokio::spawn(serve(listener, answer));
        let sent = run(Arguments::try_parse_from(arguments).unwrap().send).await;
        (sent, serving.await.unwrap())
    }

    #[tokio::test]
    async fn a_message_goes_from_the_command_line_to_the_server() {
        let published = proto::Published { sequence: 1, epoch: 1, ..Default::default() };
        let (sent, body) = send(reply::Result::Published(published)).await;
        sent.unwrap();
        assert_eq!(body, "hello");
    }

    #[tokio::test]
    async fn a_channel_that_does_not_exist_is_explained() {
        let code = proto::error::Code::UnknownChannel.into();
        let error = proto::Error { code, ..Default::default() };
        let (sent, _) = send(reply::Result::Error(error)).await;
        let words = sent.unwrap_err().to_string();
        assert!(
            words.contains(" channel create lobby --as ada --server http://127.0.0.1:"),
            "{words}"
        );
    }
}
