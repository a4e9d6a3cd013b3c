//! `hubbub channel create`.

use std::io::{self, Write as _};

use clap::Subcommand;
use hubbub::{client::ClientError, wire::code::ErrorCode};

use super::{
    CliError,
    login::{LoginArgs, connect},
    terminal::escape,
};

#[derive(Debug, Subcommand)]
pub(crate) enum ChannelCommand {
    /// Make a channel, which everybody may then read and write
    Create {
        /// The channel's name
        channel: String,
        #[command(flatten)]
        login: LoginArgs,
    },
}

pub(crate) async fn run(command: ChannelCommand) -> Result<(), CliError> {
    let ChannelCommand::Create { channel, login } = command;
    let client = connect(&login).await?;
    let created = client.create_channel(&channel).await;
    client.close().await;
    created.map_err(|error| not_created(error, &channel))?;
    writeln!(io::stdout(), "channel {} is made", escape(&channel)).map_err(CliError::Output)
}

/// Says which names a channel can have.
pub(super) fn not_created(error: ClientError, channel: &str) -> CliError {
    match error {
        ClientError::Refused(refusal) if refusal.is(ErrorCode::InvalidChannelName) => {
            CliError::ChannelName(channel.to_owned())
        }
        error => error.into(),
    }
}
