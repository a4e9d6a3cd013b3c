//! `hubbub account add`: makes an account, and logs it in for the commands that follow. Its
//! neighbours are the operator's.

use std::{
    io::{self, Write as _},
    time::SystemTime,
};

use clap::{Args, Subcommand};
use hubbub::{
    auth::Username,
    client::{Accounts, ClientError, TokenError},
    wire::code::ErrorCode,
};
use hyper::Method;

use super::{
    CliError,
    admin::AdminArgs,
    login::{ServerArgs, prompt},
    process::print,
    program::program,
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
    /// Take from a user the right to log in, and end its sessions
    Disable(OneUser),
    /// Give a user back the right to log in
    Enable(OneUser),
    /// End all sessions of a user
    Logout(OneUser),
    /// Remove a user for good; nobody gets the name again
    Delete(OneUser),
}

#[derive(Debug, Args)]
pub(crate) struct OneUser {
    /// The user name
    name: String,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) async fn run(command: AccountCommand) -> Result<(), CliError> {
    match command {
        AccountCommand::Add { name, server, no_login } => add(name, server, no_login).await,
        AccountCommand::Disable(user) => {
            administer(user, Method::POST, "/disable", "is disabled").await
        }
        AccountCommand::Enable(user) => {
            administer(user, Method::POST, "/enable", "is enabled").await
        }
        AccountCommand::Logout(user) => {
            administer(user, Method::POST, "/logout", "is logged out everywhere").await
        }
        AccountCommand::Delete(user) => administer(user, Method::DELETE, "", "is removed").await,
    }
}

async fn administer(
    user: OneUser,
    method: Method,
    verb: &str,
    outcome: &str,
) -> Result<(), CliError> {
    // What it may be made of needs no escaping in a path.
    let name = Username::parse(&user.name)?;
    let path = format!("/v1/admin/accounts/{}{verb}", name.as_str());
    user.admin.admin()?.tell(method, &path).await?;
    print(&format!("{} {outcome}\n", name.as_str()))
}

async fn add(name: String, server: ServerArgs, no_login: bool) -> Result<(), CliError> {
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
        let chat = format!("chat lobby --as {shown}");
        // The hub of an auth service apart is elsewhere: most likely where the commands look for it.
        let chat = match accounts.is_hub().await {
            true => server.command(&chat),
            false => format!("{} {chat} --auth {url}", program()),
        };
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
