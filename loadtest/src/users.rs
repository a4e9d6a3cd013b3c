//! Virtual users: their accounts, their clients, and what they write.

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

/// A body that tells when it should have been sent, padded to a size.
pub(crate) fn body_sent_at(sent: Duration, bytes: usize) -> String {
    let mut body = base36(u64::try_from(sent.as_micros()).unwrap_or(u64::MAX));
    body.push(' ');
    body.extend(std::iter::repeat_n('x', bytes.saturating_sub(body.len())));
    body
}

/// When a body should have been sent; `None` if it is none of ours.
pub(crate) fn sent_at(body: &str) -> Option<Duration> {
    let (digits, _) = body.split_once(' ')?;
    u64::from_str_radix(digits, 36).ok().map(Duration::from_micros)
}

fn base36(mut number: u64) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut digits = Vec::new();
    loop {
        let digit = usize::try_from(number % 36).unwrap_or_default();
        digits.push(char::from(DIGITS[digit]));
        number /= 36;
        if number == 0 {
            return digits.into_iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_tells_when_it_was_to_be_sent_and_has_its_size() {
        for us in [0, 35, 36, 1_234_567, u64::from(u32::MAX) * 1_000] {
            let sent = Duration::from_micros(us);
            let body = body_sent_at(sent, 64);
            assert_eq!((sent_at(&body), body.len()), (Some(sent), 64));
        }
        assert_eq!(sent_at(&body_sent_at(Duration::from_secs(1), 0)), Some(Duration::from_secs(1)));
        assert_eq!((sent_at("hello"), sent_at("? x")), (None, None));
    }
}
