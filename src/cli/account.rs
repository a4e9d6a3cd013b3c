//! `hubbub account add`: makes an account, and logs it in for the commands that follow.

use std::{
    io::{self, Write as _},
    time::SystemTime,
};

use clap::Subcommand;
use hubbub::{
    client::{Accounts, ClientError, TokenError},
    wire::code::ErrorCode,
};

use super::{
    CliError,
    login::{ServerArgs, prompt},
    saved::{Place, SavedLogin},
    terminal::escape,
};

#[derive(Debug, Subcommand)]
pub(crate) enum AccountCommand {
    /// Make an account, and log in with it here
    Add {
        /// The user name
        name: String,
        #[command(flatten)]
        server: ServerArgs,
        /// Do not keep a login for the commands that follow
        #[arg(long)]
        no_login: bool,
    },
}

pub(crate) async fn run(command: AccountCommand) -> Result<(), CliError> {
    let AccountCommand::Add { name, server, no_login } = command;
    let password = match server.password()? {
        Some(password) => password,
        None => {
            let password = prompt(&format!("Password for {name}: "))?;
            if prompt("The same again: ")? != password {
                return Err(CliError::PasswordsDiffer);
            }
            password
        }
    };
    let url = server.url()?;
    let accounts = Accounts::new(url.clone(), None);
    let shown = escape(&name);
    accounts.create(&name, &password).await.map_err(|error| not_made(error, &shown, &server))?;
    let mut words = format!("{shown} has an account.\n");
    if !no_login && let Some(place) = Place::of(&url, &name) {
        let token = accounts.token(&name, &password).await?;
        place.save(&SavedLogin::new(&token, SystemTime::now()))?;
        let chat = server.command(&format!("chat lobby --as {shown}"));
        words.push_str(&format!("You are logged in here for a while. Try: {chat}\n"));
    }
    io::stdout().write_all(words.as_bytes()).map_err(CliError::Output)
}

/// What is refused here is no login, and a name that is taken may be the person's own.
fn not_made(error: TokenError, name: &str, server: &ServerArgs) -> CliError {
    match error {
        TokenError::Refused(refusal) if refusal.is(ErrorCode::UsernameTaken) => {
            let command = server.command(&format!("chat lobby --as {name}"));
            CliError::NameTaken { name: name.to_owned(), command }
        }
        TokenError::Refused(refusal) => ClientError::Refused(refusal).into(),
        error => error.into(),
    }
}
