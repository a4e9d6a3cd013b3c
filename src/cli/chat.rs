//! `hubbub chat`: reads and writes a channel in the terminal.
//!
//! Three parts that meet in bounded queues: a thread that reads lines (with an editor on a
//! terminal, plainly in a script), a task that publishes them one after the other, and the loop
//! that prints. The loop never waits for a publish, because a client that is not read does not
//! read its connection either.

use std::{
    collections::HashSet,
    io::{self, IsTerminal as _, Write as _},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use hubbub::{
    client::{
        Client, ClientError, Delivery, HistoryFrom, HistoryPage, Message, PublishOptions, State,
        new_message_id,
    },
    log::place::{ClientMessageId, Position},
    wire::code::ErrorCode,
};
use rustyline::{Config, Editor, ExternalPrinter, error::ReadlineError, history::MemHistory};
use tokio::sync::{mpsc, watch};

use super::{
    CliError,
    channel::not_created,
    feed::{Feed, Names, change_in_words, name, names_of},
    login::{LoginArgs, connect},
    send::{no_channel, stdin_lines},
    tail::rfc3339,
    terminal::{Style, TerminalGuard, escape},
};

/// Messages of the past that are shown at the start.
const HISTORY_SHOWN: u32 = 20;
/// Lines that were typed and are not published yet. Beyond it the editor waits.
const LINES_MAX: usize = 16;
/// Failed publishes that are not shown yet.
const REPORTS_MAX: usize = 16;

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// The channel
    channel: String,
    #[command(flatten)]
    login: LoginArgs,
    /// Make the channel if it does not exist
    #[arg(long)]
    create: bool,
}

/// The messages that this command published and prints no echo of: its user typed them here.
type Own = Arc<Mutex<HashSet<ClientMessageId>>>;

pub(crate) async fn run(args: ChatArgs) -> Result<(), CliError> {
    if args.login.server.reads_stdin() {
        return Err(CliError::InputTakenTwice);
    }
    let client = connect(&args.login).await?;
    let _guard = TerminalGuard::new();
    let chatted = chat(&client, &args).await;
    client.close().await;
    chatted.map_err(|error| no_channel(error, &args.channel, &args.login))
}

async fn chat(client: &Client, args: &ChatArgs) -> Result<(), CliError> {
    if args.create {
        match client.create_channel(&args.channel).await {
            Ok(_) => {}
            Err(ClientError::Refused(refusal)) if refusal.is(ErrorCode::ChannelExists) => {}
            Err(error) => return Err(not_created(error, &args.channel)),
        }
    }
    let page = client.history(&args.channel, HistoryFrom::Newest, HISTORY_SHOWN).await?;
    let names = names_of(client, &page.messages).await;
    let since = Position { epoch: page.epoch, sequence: page.head_sequence };
    // The page ends at the head, so the subscription goes on where it ends.
    let subscription = client.subscribe(&args.channel, Some(since)).await?;
    let mut feed = Feed::new(client, subscription);

    let interactive = io::stdin().is_terminal() && io::stdout().is_terminal();
    let style = Style::of_stdout();
    let (mut screen, lines) = if interactive {
        edited_lines(&format!("{}> ", args.login.name))?
    } else {
        (Screen::Plain, stdin_lines())
    };
    screen.print(&style.note(&opening(args, &page, SystemTime::now())))?;
    for message in &page.messages {
        screen.print(&row(message, &names, style))?;
    }

    let own = Own::default();
    let (reports_mailbox, mut reports) = mpsc::channel(REPORTS_MAX);
    let publisher = publish_lines(
        client.clone(),
        args.channel.clone(),
        lines,
        interactive.then(|| Arc::clone(&own)),
        reports_mailbox,
    );
    let mut publisher = tokio::spawn(publisher);
    let mut state = client.state();
    state.mark_unchanged();
    let mut was_lost = false;
    loop {
        tokio::select! {
            // What has been delivered is printed before the end is noticed.
            biased;
            delivery = feed.next() => {
                let delivery = delivery?;
                let echo = matches!(
                    &delivery,
                    Delivery::Message(Message { client_message_id: Some(id), .. })
                        if own.lock().unwrap_or_else(PoisonError::into_inner).remove(id)
                );
                if !echo {
                    screen.print(&delivered(&delivery, feed.names(), style))?;
                }
            }
            Some(report) = reports.recv() => screen.print(&style.note(&report))?,
            Ok(()) = state.changed() => {
                if let Some(note) = state_note(&mut state, &mut was_lost) {
                    screen.print(&style.note(&note))?;
                }
            }
            ended = &mut publisher => {
                return ended.unwrap_or(Ok(()));
            }
            interrupted = tokio::signal::ctrl_c() => {
                return interrupted.map_err(CliError::Input);
            }
        }
    }
}

/// Publishes the lines, one after the other, until there are no more or one says `/quit`.
async fn publish_lines(
    client: Client,
    channel: String,
    mut lines: mpsc::Receiver<io::Result<String>>,
    own: Option<Own>,
    reports: mpsc::Sender<String>,
) -> Result<(), CliError> {
    let mut failed = None;
    while let Some(line) = lines.recv().await {
        let line = line.map_err(CliError::Input)?;
        match line.trim() {
            "" => continue,
            "/quit" => break,
            _ => {}
        }
        let id = new_message_id();
        let mark = |present: bool| {
            if let Some(own) = &own {
                let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
                if present {
                    own.insert(id)
                } else {
                    own.remove(&id)
                };
            }
        };
        mark(true);
        let options = PublishOptions { client_message_id: Some(id), timeout: None };
        if let Err(error) = client.publish_with(&channel, &line, options).await {
            mark(false);
            let because = match &error {
                ClientError::Refused(refusal) => refusal.to_string(),
                error => error.to_string(),
            };
            // If nobody prints any more, nobody needs to know.
            let _ = reports.send(format!("not sent: {} ({because})", escape(&line))).await;
            failed = Some(error);
        }
    }
    // A person saw it; a script sees the exit code.
    match failed {
        Some(error) if own.is_none() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Where the chat is printed.
enum Screen {
    Plain,
    /// Above the line that is being edited.
    Editor(Box<dyn ExternalPrinter + Send>),
}

impl Screen {
    fn print(&mut self, line: &str) -> Result<(), CliError> {
        match self {
            Self::Plain => {
                let mut stdout = io::stdout().lock();
                writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(CliError::Output)
            }
            Self::Editor(printer) => printer.print(format!("{line}\n")).map_err(CliError::Terminal),
        }
    }
}

/// Lines from an editor, which keeps its prompt below what is printed meanwhile.
fn edited_lines(prompt: &str) -> Result<(Screen, mpsc::Receiver<io::Result<String>>), CliError> {
    let config = Config::builder().auto_add_history(true).build();
    let mut editor: Editor<(), MemHistory> =
        Editor::with_history(config, MemHistory::new()).map_err(CliError::Terminal)?;
    let printer = editor.create_external_printer().map_err(CliError::Terminal)?;
    let (mailbox, lines) = mpsc::channel(LINES_MAX);
    let prompt = escape(prompt).into_owned();
    thread::spawn(move || {
        loop {
            let line = match editor.readline(&prompt) {
                Ok(line) => Ok(line),
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => break,
                Err(ReadlineError::Io(error)) => Err(error),
                Err(error) => Err(io::Error::other(error)),
            };
            let ends = line.as_ref().map_or(true, |line| line.trim() == "/quit");
            if mailbox.blocking_send(line).is_err() || ends {
                break;
            }
        }
    });
    Ok((Screen::Editor(Box::new(printer)), lines))
}

/// What a delivery looks like.
fn delivered(delivery: &Delivery, names: &Names, style: Style) -> String {
    match delivery {
        Delivery::Message(message) => row(message, names, style),
        Delivery::Gap { from, to } => {
            let count = to.0.saturating_sub(from.0).saturating_add(1);
            style.note(&format!("-- {count} messages are not shown: {from} to {to} --"))
        }
        Delivery::Reset { .. } => {
            style.note("-- the channel began anew: what stands above may be gone from it --")
        }
    }
}

fn row(message: &Message, names: &Names, style: Style) -> String {
    if let Some(change) = &message.change {
        let words = change_in_words(change, message.user, names);
        return style.note(&format!("-- {} --", escape(&words)));
    }
    let row =
        format!("{}: {}", style.name(&escape(name(names, message.user))), escape(&message.body));
    match message.written_at_ms {
        // Among others it would be taken for as new as they are.
        Some(written_at_ms) => format!("{} {row}", style.note(&rfc3339(written_at_ms))),
        None => row,
    }
}

/// The first line.
fn opening(args: &ChatArgs, page: &HistoryPage, now: SystemTime) -> String {
    let channel = escape(&args.channel);
    let past = match page.messages.last() {
        None => "nothing was said yet".to_owned(),
        Some(last) => {
            let last = UNIX_EPOCH + Duration::from_millis(last.time_ms().min(1 << 50));
            let age = now.duration_since(last).unwrap_or_default();
            format!("the last message is {} old", rough(age))
        }
    };
    format!("-- {channel}: {past}; /quit or Ctrl-D leaves --")
}

/// A duration in its largest unit.
fn rough(duration: Duration) -> String {
    let (count, unit) = match duration.as_secs() {
        seconds @ ..60 => (seconds, "s"),
        seconds @ ..3_600 => (seconds / 60, "min"),
        seconds @ ..86_400 => (seconds / 3_600, "h"),
        seconds => (seconds / 86_400, "d"),
    };
    format!("{count} {unit}")
}

/// What to say about the connection, if anything.
fn state_note(state: &mut watch::Receiver<State>, was_lost: &mut bool) -> Option<String> {
    match &*state.borrow_and_update() {
        State::Reconnecting { delay, because } => {
            *was_lost = true;
            let seconds = delay.as_secs_f64().ceil();
            Some(format!("-- {}; reconnecting in {seconds} s --", escape(because)))
        }
        State::Connected { .. } if *was_lost => {
            *was_lost = false;
            Some("-- connected again --".to_owned())
        }
        // How it ended comes through the subscription.
        State::Connected { .. } | State::Connecting | State::Closed(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hubbub::{
        client::{Change, Delivery, Message},
        log::{
            place::{Sequence, UserId},
            settings::{Role, Settings},
        },
    };

    use super::{delivered, rough};
    use crate::cli::terminal::Style;

    fn message(body: &str) -> Message {
        Message {
            sequence: Sequence(1),
            user: UserId(1),
            body: body.to_owned(),
            change: None,
            timestamp_ms: 0,
            written_at_ms: None,
            client_message_id: None,
        }
    }

    fn shown(message: Message, name: &str) -> String {
        let names = [(UserId(1), name.into())].into();
        delivered(&Delivery::Message(message), &names, Style::of_stdout())
    }

    #[test]
    fn neither_a_name_nor_a_body_can_forge_a_row() {
        let row = shown(message("hi\nada: I resign\x1b[1A"), "eve\r\nada");
        assert!(!row.contains(['\n', '\r']), "{row}");
        assert!(row.contains("ada: I resign\\u{1b}[1A"), "{row}");
        let topic = Settings { topic: "x\nada: I resign".to_owned(), ..Settings::open("lobby") };
        let settings = Message { change: Some(Change::Settings(topic)), ..message("") };
        assert!(!shown(settings, "eve\r\nada").contains(['\n', '\r']));
    }

    #[test]
    fn a_change_is_a_note_and_an_imported_message_has_its_own_time() {
        let joined = Change::Member(UserId(1), Some(Role::Member));
        let row = shown(Message { change: Some(joined), ..message("") }, "ada");
        assert!(row.contains("-- ada has joined --"), "{row}");
        let imported = Message { written_at_ms: Some(1_700_000_000_123), ..message("hi") };
        let row = shown(imported, "ada");
        assert!(row.contains("2023-11-14T22:13:20.123Z") && row.ends_with("hi"), "{row}");
    }

    #[test]
    fn a_gap_says_how_much_is_missing() {
        let gap = Delivery::Gap { from: Sequence(3), to: Sequence(12) };
        let row = delivered(&gap, &[].into(), Style::of_stdout());
        assert!(row.contains("10 messages are not shown: 3 to 12"), "{row}");
    }

    #[test]
    fn an_age_is_in_its_largest_unit() {
        let rough = |seconds| rough(Duration::from_secs(seconds));
        assert_eq!(
            [rough(59), rough(60), rough(7_300), rough(90_000)],
            ["59 s", "1 min", "2 h", "1 d"]
        );
    }
}
