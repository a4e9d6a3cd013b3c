//! The commands: what they take, and what they can fail of.

use std::{error::Error, future::Future, io, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use hubbub::{
    auth::{UsernameError, calibrate::GoalError, store::keys::KeyStoreError},
    client::{AuthoritiesError, ClientError, Refusal, TokenError},
    config::{ConfigError, Flags},
    engine::jetstream::check::CheckError,
    limits::CHANNEL_NAME_BYTES_MAX,
    server::StartError,
};
use thiserror::Error;

mod account;
mod admin;
mod auth;
mod calibrate;
mod channel;
mod chat;
mod check;
mod explain;
mod feed;
mod hub;
mod login;
mod migrate;
mod process;
mod program;
mod saved;
mod send;
pub(crate) mod serve;
mod smoke;
mod tail;
pub(crate) mod terminal;
mod transfer;

/// A self-hosted realtime chat server: durable, ordered channels over WebSocket.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(Flags),
    /// Run a hub without accounts: it takes the tokens of an auth service elsewhere
    Hub(Flags),
    /// Run the auth service alone, or administer one
    Auth(auth::AuthArgs),
    /// Say whether the servers of the engine are fit for a cluster, condition by condition
    Check(check::CheckArgs),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make accounts, and administer them
    #[command(subcommand)]
    Account(account::AccountCommand),
    /// Make, find and change channels, and say who is in them
    #[command(subcommand)]
    Channel(channel::ChannelCommand),
    /// Read and write a channel in the terminal; /quit or Ctrl-D leaves
    Chat(chat::ChatArgs),
    /// Publish to a channel, wait until it is durable, and print its sequence
    Send(send::SendArgs),
    /// Follow a channel until Ctrl-C
    Tail(tail::TailArgs),
    /// Read messages from a file into a running server; 2 is the exit code if lines were invalid
    Import(transfer::ImportArgs),
    /// Write messages of a running server to a file, as `import` reads them
    Export(transfer::ExportArgs),
    /// Copy everything of a stopped server into another store, byte for byte; run again, it goes on
    Migrate(migrate::MigrateArgs),
    /// Try a running server from end to end, as after a deployment, and leave nothing behind
    Smoke(smoke::SmokeArgs),
    /// Say what an error code or close code means
    Explain(explain::ExplainArgs),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every setting and where it comes from
    Show(Flags),
}

/// Carries the command out.
pub(crate) fn run(arguments: Arguments) -> Result<(), CliError> {
    match arguments.command {
        Command::Serve(flags) => serve::serve(&flags),
        Command::Hub(flags) => hub::hub(&flags),
        Command::Auth(args) => auth::run(args),
        Command::Check(args) => block_on(check::run(args)),
        Command::Config(ConfigCommand::Show(flags)) => serve::show_config(&flags),
        Command::Account(command) => block_on(account::run(command)),
        Command::Channel(command) => block_on(channel::run(command)),
        Command::Chat(args) => block_on(chat::run(args)),
        Command::Send(args) => block_on(send::run(args)),
        Command::Tail(args) => block_on(tail::run(args)),
        Command::Import(args) => block_on(transfer::import(args)),
        Command::Export(args) => block_on(transfer::export(args)),
        Command::Migrate(args) => block_on(migrate::run(args)),
        Command::Smoke(args) => block_on(smoke::run(args)),
        Command::Explain(args) => explain::run(&args),
    }
}

fn block_on(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    let result = runtime.block_on(command);
    // A name lookup may still hang in its own thread; nobody wants it any more.
    runtime.shutdown_background();
    result
}

/// An error and its causes, in one line.
pub(crate) fn sentence(error: &dyn Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let clause = error.to_string();
        // A transparent error repeats the words of its cause.
        if !sentence.ends_with(&clause) {
            sentence.push_str(": ");
            sentence.push_str(&clause);
        }
        cause = error.source();
    }
    // Some of it may be the server's words.
    terminal::escape(&sentence).into_owned()
}

/// Why a command failed.
#[derive(Debug, Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Admin(#[from] admin::AdminError),
    #[error(transparent)]
    Keys(#[from] KeyStoreError),
    #[error(transparent)]
    Username(#[from] UsernameError),
    #[error(transparent)]
    Authorities(#[from] AuthoritiesError),
    #[error("--ca is for a server that is reached by https://, and not for {0}")]
    CaWithoutTls(String),
    #[error("could not start")]
    Runtime(#[source] io::Error),
    #[error("could not write the output")]
    Output(#[source] io::Error),
    #[error(transparent)]
    Calibrate(#[from] GoalError),
    #[error("could not read standard input")]
    Input(#[source] io::Error),
    #[error("could not use the terminal")]
    Terminal(#[source] rustyline::error::ReadlineError),
    #[error("could not reach the server at {server} ({because}); is `hubbub serve` running?")]
    CannotConnect { server: String, because: String },
    #[error("there is no channel {channel}, or it is not for {user}; to make it: {command}")]
    NoChannel { channel: String, user: String, command: String },
    #[error(
        "{0} cannot be a channel's name: it has a-z and 0-9, with '.', '_' and '-' between them, \
         and at most {max} characters",
        max = CHANNEL_NAME_BYTES_MAX
    )]
    ChannelName(String),
    #[error("the user name or the password is wrong; to make an account: {command}")]
    WrongPassword { command: String },
    #[error("there is an account {name} already; if it is yours: {command}")]
    NameTaken { name: String, command: String },
    #[error(
        "a password is needed; give it by --password-file, HUBBUB_PASSWORD_FILE or \
         HUBBUB_PASSWORD, or run this on a terminal"
    )]
    NoPassword,
    #[error("the two passwords differ")]
    PasswordsDiffer,
    #[error("standard input cannot hold both the password and the messages")]
    InputTakenTwice,
    #[error("could not read the password from {path}")]
    PasswordFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not use the saved login {path}")]
    SavedLogin {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the saved login {path} can be read by others; remove it, or run `chmod 600` on it")]
    SavedLoginOpen { path: PathBuf },
    #[error("the message has no text")]
    EmptyMessage,
    #[error("line {line} was not sent; the lines before it were")]
    SendLine {
        line: usize,
        #[source]
        source: ClientError,
    },
    #[error("the channel ends at {head}, before {since}")]
    SinceAhead { since: u64, head: u64 },
    #[error("there is no user {0} here; who is to be found must have logged in once")]
    NoUser(String),
    #[error("{count} users have the name {name}: {numbers}; give the number of one of them")]
    ManyUsers { count: usize, name: String, numbers: String },
    #[error("{0} is no user's number; such a one looks like #7")]
    UserNumber(String),
    #[error("name what is to change, as --topic; `--help` lists all")]
    NothingToChange,
    #[error("nothing is removed without --yes, or your word on a terminal")]
    NotConfirmed,
    #[error("{server} is not well: {step} failed")]
    Smoke { server: String, step: &'static str },
    #[error(transparent)]
    Transfer(#[from] transfer::TransferError),
    #[error(transparent)]
    Migration(#[from] migrate::MigrationError),
    #[error("interrupted")]
    Interrupted,
    #[error("there is no code {0}; `hubbub explain` lists all")]
    UnknownCode(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error("{0} conditions are not met")]
    Unfit(usize),
    #[error("log_output.filter cannot be understood: {0}")]
    LogFilter(String),
    #[error("stopped before everybody was told; nothing that was acknowledged is lost")]
    DrainedLate,
    #[error("stopped at once; nothing that was acknowledged is lost")]
    StoppedAtOnce,
}

impl CliError {
    /// Whether the reader of our output has gone away.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// What the shell is told: 1, or 2 where most was done.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Transfer(transfer::TransferError::Invalid { .. }) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }

    /// The server's refusal behind it, if it is one.
    fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Client(ClientError::Refused(refusal))
            | Self::Token(TokenError::Refused(refusal)) => Some(refusal),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_flags_are_consistent() {
        super::Arguments::command().debug_assert();
    }

    #[test]
    fn a_password_is_no_flag() {
        // Whatever stands on the command line is seen by every user of the machine.
        fn visit(command: &clap::Command) {
            assert!(
                command.get_arguments().all(|argument| argument.get_long() != Some("password"))
            );
            command.get_subcommands().for_each(visit);
        }
        visit(&super::Arguments::command());
    }
}
