//! `hubbub channel create`.

use std::io::{self, Write as _};

use clap::Subcommand;

use super::{
    CliError,
    login::{LoginArgs, connect},
    terminal::escape,
};

#[derive(Debug, Subcommand)]
pub(crate) enum ChannelCommand {
    /// Make a channel
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
    client.create_channel(&channel).await?;
    client.close().await;
    writeln!(io::stdout(), "channel {} is made", escape(&channel)).map_err(CliError::Output)
}
