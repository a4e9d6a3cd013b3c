//! Webhooks: addresses at which programs post to a channel, each with a secret instead of a token.
//!
//! A webhook is a user of its own, with a subject that no token may have, so that its messages have an
//! author as all others do. Of the secret only the hash is kept.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use thiserror::Error;

use super::{
    desk::{Desk, Refused},
    directory::{
        ChannelInfo, DirectoryError, RESERVED_SUBJECTS,
        records::{self, of_channel},
    },
};
use crate::{
    clock,
    engine::{Engine, Expect, RecordError, Table},
    limits::{NUMBER_ATTEMPTS_MAX, USER_NAME_BYTES_MAX, WEBHOOKS_PER_CHANNEL_MAX},
    log::{
        place::{ChannelId, UserId},
        settings::Role,
    },
    wire::{code::ErrorCode, decode::ChannelRef},
};

/// Bytes of a secret: nobody guesses it.
const SECRET_BYTES: usize = 32;

/// The name of a webhook: its channel's number, and one that is drawn at random, so that it is never
/// another's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WebhookId {
    channel: ChannelId,
    number: u32,
}

/// The text is the id of no webhook.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("not the id of a webhook")]
pub struct WebhookIdError;

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.channel.0, self.number)
    }
}

impl FromStr for WebhookId {
    type Err = WebhookIdError;

    fn from_str(text: &str) -> Result<Self, WebhookIdError> {
        let (channel, number) = text.split_once('-').ok_or(WebhookIdError)?;
        let number_in = |text: &str| text.parse().map_err(|_| WebhookIdError);
        let id = Self { channel: ChannelId(number_in(channel)?), number: number_in(number)? };
        // One id has one spelling.
        if id.to_string() == text { Ok(id) } else { Err(WebhookIdError) }
    }
}

impl WebhookId {
    /// One that no webhook has.
    const NONE: Self = Self { channel: ChannelId(0), number: 0 };

    fn key(self) -> String {
        format!("{:010}:{:010}", self.channel.0, self.number)
    }

    fn subject(self) -> String {
        format!("{RESERVED_SUBJECTS}webhook:{self}")
    }
}

/// A webhook, but for its secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// The name that its messages have.
    pub name: String,
    /// The user that its messages have.
    pub user: UserId,
    /// Who made it.
    pub created_by: UserId,
    /// When, in milliseconds since 1970.
    pub created_at_ms: u64,
}

/// What stands in an address of a webhook. Shown once.
pub struct WebhookSecret(String);

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret")
    }
}

impl WebhookSecret {
    fn draw() -> Self {
        Self(URL_SAFE_NO_PAD.encode(rand::random::<[u8; SECRET_BYTES]>()))
    }

    /// The secret itself, for who made the webhook.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

#[derive(Serialize, Deserialize)]
struct WebhookRecord {
    name: String,
    user: u32,
    secret_sha256: String,
    created_by: u32,
    created_at_ms: u64,
}

impl WebhookRecord {
    fn webhook(self, id: WebhookId) -> Webhook {
        let Self { name, user, created_by, created_at_ms, .. } = self;
        Webhook { id, name, user: UserId(user), created_by: UserId(created_by), created_at_ms }
    }
}

/// Whether a webhook may have this name: it stands where the name of a user does.
#[must_use]
pub fn is_webhook_name(name: &str) -> bool {
    !name.trim().is_empty() && name.len() <= USER_NAME_BYTES_MAX && !name.contains(char::is_control)
}

impl<E: Engine> Desk<E> {
    /// Makes a webhook of a channel.
    ///
    /// # Errors
    /// When the user may not, the channel has as many as it may, or the records cannot be written.
    pub async fn make_webhook(
        &self,
        user: UserId,
        channel: &ChannelRef,
        name: &str,
    ) -> Result<(Webhook, WebhookSecret), ErrorCode> {
        let made = self.try_make_webhook(user, channel, name).await;
        let (webhook, secret) = made.map_err(ErrorCode::from)?;
        tracing::info!(
            target: "hubbub::audit",
            webhook = %webhook.id, by = user.0, "webhook made"
        );
        Ok((webhook, secret))
    }

    async fn try_make_webhook(
        &self,
        user: UserId,
        channel: &ChannelRef,
        name: &str,
    ) -> Result<(Webhook, WebhookSecret), Refused> {
        let channel = self.moderated(user, channel).await?.id;
        // One at a time: those who count and those who add are not to be different ones. Another node may
        // add one more at the same moment.
        let _one_at_a_time = self.webhooks.lock().await;
        let (engine, directory) = (self.engine(), self.directory());
        let (prefix, table) = (of_channel(channel), Table::Webhooks);
        let found = engine.scan(table, &prefix, None, WEBHOOKS_PER_CHANNEL_MAX).await?;
        if found.len() >= WEBHOOKS_PER_CHANNEL_MAX {
            return Err(ErrorCode::TooMany.into());
        }
        let secret = WebhookSecret::draw();
        for _ in 0..NUMBER_ATTEMPTS_MAX {
            let id = WebhookId { channel, number: rand::random() };
            if engine.get(table, &id.key()).await?.is_some() {
                continue;
            }
            let record = WebhookRecord {
                name: name.to_owned(),
                user: directory.user(&id.subject(), name).await?.0,
                secret_sha256: URL_SAFE_NO_PAD.encode(hash(secret.expose())),
                created_by: user.0,
                created_at_ms: clock::unix_ms(),
            };
            let put = engine.put(table, &id.key(), records::format(&record), Expect::Absent);
            match put.await {
                Ok(_) => return Ok((record.webhook(id), secret)),
                Err(RecordError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(DirectoryError::Contended.into())
    }

    /// The webhooks of a channel.
    ///
    /// # Errors
    /// When the user may not know, or the records cannot be read.
    pub async fn list_webhooks(
        &self,
        user: UserId,
        channel: &ChannelRef,
    ) -> Result<Vec<Webhook>, ErrorCode> {
        let listed = async {
            let channel = self.moderated(user, channel).await?.id;
            let (prefix, count_max) = (of_channel(channel), WEBHOOKS_PER_CHANNEL_MAX);
            let found = self.engine().scan(Table::Webhooks, &prefix, None, count_max).await?;
            let mut listed = Vec::with_capacity(found.len());
            for (key, record) in &found {
                let number = records::last_number(key).ok_or(DirectoryError::Damaged)?;
                let record: WebhookRecord = records::parse(record)?;
                listed.push(record.webhook(WebhookId { channel, number }));
            }
            Ok::<_, Refused>(listed)
        };
        listed.await.map_err(ErrorCode::from)
    }

    /// Removes a webhook of a channel: what is posted to it from now on is refused.
    ///
    /// # Errors
    /// When the user may not, the channel has no such webhook, or the records cannot be written.
    pub async fn remove_webhook(
        &self,
        user: UserId,
        channel: &ChannelRef,
        id: Option<WebhookId>,
    ) -> Result<(), ErrorCode> {
        let removed = async {
            let channel = self.moderated(user, channel).await?.id;
            let id = id.filter(|id| id.channel == channel).ok_or(ErrorCode::NotFound)?;
            let found = self.engine().get(Table::Webhooks, &id.key()).await?;
            let revision = found.ok_or(ErrorCode::NotFound)?.revision;
            match self.engine().remove(Table::Webhooks, &id.key(), revision).await {
                Ok(()) => {}
                // Somebody else has just removed it.
                Err(RecordError::Conflict) => return Err(ErrorCode::NotFound.into()),
                Err(error) => return Err(error.into()),
            }
            tracing::info!(
                target: "hubbub::audit",
                webhook = %id, by = user.0, "webhook removed"
            );
            Ok::<_, Refused>(())
        };
        removed.await.map_err(ErrorCode::from)
    }

    /// The channel and the user of a webhook, for who has its secret. An id that nothing has costs as
    /// much as a wrong secret, and has the same answer.
    ///
    /// # Errors
    /// `not_found`, or when the records cannot be read.
    pub async fn webhook(
        &self,
        id: &str,
        secret: &str,
    ) -> Result<(UserId, ChannelInfo), ErrorCode> {
        let opened = async {
            let id = id.parse().unwrap_or(WebhookId::NONE);
            let found = self.engine().get(Table::Webhooks, &id.key()).await?;
            let record: Option<WebhookRecord> = found.as_ref().map(records::parse).transpose()?;
            let kept =
                record.as_ref().and_then(|it| URL_SAFE_NO_PAD.decode(&it.secret_sha256).ok());
            // Nothing has a hash of zeros only.
            let kept = kept.unwrap_or_else(|| vec![0; 32]);
            let is_right: bool = hash(secret).as_slice().ct_eq(&kept).into();
            let record = record.filter(|_| is_right).ok_or(ErrorCode::NotFound)?;
            match self.directory().channel(id.channel).await {
                Ok(channel) => Ok((UserId(record.user), channel)),
                // It was deleted, and its webhooks are about to be.
                Err(DirectoryError::UnknownChannel) => Err(ErrorCode::NotFound.into()),
                Err(error) => Err(Refused::from(error)),
            }
        };
        opened.await.map_err(ErrorCode::from)
    }

    /// The channel that a user names, if the user is a moderator or owner of it.
    async fn moderated(&self, user: UserId, channel: &ChannelRef) -> Result<ChannelInfo, Refused> {
        let channel = self.directory().channel_for(user, channel).await?;
        let role = self.directory().role(channel.id, user).await?;
        if role >= Some(Role::Moderator) { Ok(channel) } else { Err(ErrorCode::Forbidden.into()) }
    }
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = WebhookId { channel: ChannelId(7), number: 4_294_967_295 };
        assert_eq!(id.to_string(), "7-4294967295");
        assert_eq!("7-4294967295".parse(), Ok(id));
        for text in ["", "7", "7-", "-7", "07-1", "+7-1", "7-1-1", "7-4294967296", "7 -1", "7-٣"] {
            assert_eq!(text.parse::<WebhookId>(), Err(WebhookIdError), "{text}");
        }
    }

    #[test]
    fn a_secret_is_long_and_not_shown() {
        let secret = WebhookSecret::draw();
        assert_eq!(secret.expose().len(), 43);
        assert!(!format!("{secret:?}").contains(secret.expose()));
    }

    #[test]
    fn a_name_is_that_of_a_user() {
        for name in ["build", "Bob's bot", "é"] {
            assert!(is_webhook_name(name), "{name}");
        }
        for name in ["", " ", "a\nb", "\0", &"a".repeat(USER_NAME_BYTES_MAX + 1)] {
            assert!(!is_webhook_name(name), "{name}");
        }
    }
}
