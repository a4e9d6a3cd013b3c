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
        name: String,
        #[command(flatten)]
        login: LoginArgs,
    },
}

pub(crate) async fn run(command: ChannelCommand) -> Result<(), CliError> {
    let ChannelCommand::Create { name, login } = command;
    let client = connect(&login).await?;
    client.create_channel(&name).await?;
    client.close().await;
    writeln!(io::stdout(), "channel {} is made", escape(&name)).map_err(CliError::Output)
}
