//! Virtual users: their accounts and their clients.

use std::time::Duration;

use anyhow::{Context as _, Result};
use hubbub::{
    client::{Accounts, Client, ClientError, Options, ServerUrl, TokenError},
    log::place::UserId,
};

/// Of all virtual users.
const PASSWORD: &str = "a virtual user";
/// How often making an account is tried, when the server has too much to do.
const ATTEMPTS_MAX: u32 = 100;
/// The pause between, unless the server says otherwise.
const PAUSE: Duration = Duration::from_millis(200);

/// Makes the account of this name, unless it is there, and logs in.
pub(crate) async fn log_in(server: &ServerUrl, name: &str, backoff_max: Duration) -> Result<User> {
    let accounts = Accounts::new(server.clone(), None);
    let mut attempts = 0;
    loop {
        match accounts.create(name, PASSWORD).await {
            Ok(()) => break,
            Err(TokenError::Refused(refusal))
                if refusal.code() == Some(hubbub::wire::code::ErrorCode::UsernameTaken) =>
            {
                break;
            }
            // A server that is not there, on the other hand, is a wrong address.
            Err(TokenError::Refused(refusal)) if refusal.again() && attempts < ATTEMPTS_MAX => {
                attempts += 1;
                tokio::time::sleep(refusal.retry_after.unwrap_or(PAUSE)).await;
            }
            Err(error) => return Err(error).context("an account cannot be made"),
        }
    }
    let get_token = accounts.get_token(name, PASSWORD);
    let options = Options { backoff_max, ..Options::new(server.clone(), get_token) };
    let client = Client::connect(options);
    let (id, _) = client.connected().await.context("a virtual user cannot log in")?;
    Ok(User { id, client })
}

/// A virtual user who is logged in.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) id: UserId,
    pub(crate) client: Client,
}

/// An error with its causes, in one line.
pub(crate) fn in_full(error: &ClientError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
