//! A subscription whose messages come with the names of those who are in them.
//!
//! Names are looked up over the connection that also brings the messages, and a client that is not
//! read stops reading its connection. So while a lookup is under way, messages are taken and kept
//! here, up to a bound; and a lookup has a deadline, after which a number stands for the name.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::Future,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytesize::ByteSize;
use hubbub::{
    client::{Change, Client, ClientError, Delivery, Message, Subscription},
    log::{
        place::UserId,
        settings::{Posting, Role, Settings, Visibility},
    },
};

/// Deliveries that wait for a name. Beyond it none is taken until the lookup ends.
const WAITING_MAX: usize = 1_024;
/// Names that are remembered. Beyond it all are forgotten; the client below still has them.
const NAMES_MAX: usize = 4_096;
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) type Names = HashMap<UserId, Arc<str>>;
type Lookup = Pin<Box<dyn Future<Output = Names> + Send>>;

/// The deliveries of a subscription, in order, with names.
pub(super) struct Feed {
    client: Client,
    subscription: Subscription,
    waiting: VecDeque<Delivery>,
    names: Names,
    lookup: Option<Lookup>,
    /// Why the subscription ended, told after what came before.
    end: Option<ClientError>,
}

impl Feed {
    pub(super) fn new(client: &Client, subscription: Subscription) -> Self {
        Self {
            client: client.clone(),
            subscription,
            waiting: VecDeque::new(),
            names: HashMap::new(),
            lookup: None,
            end: None,
        }
    }

    /// The next delivery; [`Feed::names`] has the names of all who are in it. Cancelling loses
    /// nothing.
    pub(super) async fn next(&mut self) -> Result<Delivery, ClientError> {
        loop {
            let is_named = match self.waiting.front() {
                Some(Delivery::Message(message)) => {
                    users_in(message).all(|user| self.names.contains_key(&user))
                }
                Some(Delivery::Gap { .. } | Delivery::Reset { .. }) => true,
                None => false,
            };
            if is_named && let Some(delivery) = self.waiting.pop_front() {
                return Ok(delivery);
            }
            if self.waiting.is_empty()
                && let Some(end) = self.end.take()
            {
                return Err(end);
            }
            if self.lookup.is_none() && !self.waiting.is_empty() {
                self.lookup = Some(Box::pin(look_up(self.client.clone(), self.unnamed())));
            }
            let takes = self.end.is_none() && self.waiting.len() < WAITING_MAX;
            tokio::select! {
                names = async { self.lookup.as_mut().expect("it is looked up").await },
                    if self.lookup.is_some() => {
                    self.lookup = None;
                    if self.names.len() + names.len() > NAMES_MAX {
                        let waiting: HashSet<_> = self.waiting.iter().flat_map(users).collect();
                        self.names.retain(|user, _| waiting.contains(user));
                    }
                    self.names.extend(names);
                }
                delivery = self.subscription.next(), if takes => match delivery {
                    Some(Ok(delivery)) => self.waiting.push_back(delivery),
                    Some(Err(error)) => self.end = Some(error),
                    None => self.end = Some(ClientError::ClientClosed),
                },
            }
        }
    }

    /// The names of those who are in the last delivery, and of others.
    pub(super) const fn names(&self) -> &Names {
        &self.names
    }

    fn unnamed(&self) -> HashSet<UserId> {
        let users = self.waiting.iter().flat_map(users);
        users.filter(|user| !self.names.contains_key(user)).collect()
    }
}

/// Who is in a delivery.
fn users(delivery: &Delivery) -> impl Iterator<Item = UserId> {
    let message = match delivery {
        Delivery::Message(message) => Some(message),
        Delivery::Gap { .. } | Delivery::Reset { .. } => None,
    };
    message.into_iter().flat_map(users_in)
}

/// The author, and whose membership it is about.
fn users_in(message: &Message) -> impl Iterator<Item = UserId> + use<> {
    let member = match message.change {
        Some(Change::Member(user, _)) => Some(user),
        Some(Change::Settings(_) | Change::Deleted) | None => None,
    };
    [message.user].into_iter().chain(member)
}

/// A name that was looked up.
pub(super) fn name(names: &Names, user: UserId) -> &str {
    names.get(&user).map_or("", |name| name)
}

/// What a change comes to, in words for people. The names and the topic are not escaped.
pub(super) fn change_in_words(change: &Change, by: UserId, names: &Names) -> String {
    let actor = name(names, by);
    match change {
        Change::Member(user, Some(Role::Member)) if *user == by => format!("{actor} has joined"),
        Change::Member(user, None) if *user == by => format!("{actor} has left"),
        Change::Member(user, None) => format!("{actor} has removed {}", name(names, *user)),
        Change::Member(user, Some(role)) => {
            format!("{actor} has made {} {}", name(names, *user), with_article(*role))
        }
        Change::Settings(settings) => {
            format!("{actor} has changed the channel: {}", settings_in_words(settings))
        }
        Change::Deleted => format!("{actor} has deleted the channel"),
    }
}

const fn with_article(role: Role) -> &'static str {
    match role {
        Role::Member => "a member",
        Role::Moderator => "a moderator",
        Role::Owner => "an owner",
    }
}

/// Settings, in one line.
pub(super) fn settings_in_words(settings: &Settings) -> String {
    let Settings { name, topic, visibility, posting, archived, quota } = settings;
    let mut words = vec![name.to_string()];
    words.push(
        match visibility {
            Visibility::Public => "public",
            Visibility::Private => "private",
        }
        .to_owned(),
    );
    words.push(
        match posting {
            Posting::Everyone => "everyone writes",
            Posting::Members => "members write",
            Posting::Moderators => "moderators write",
        }
        .to_owned(),
    );
    if *archived {
        words.push("archived".to_owned());
    }
    if let Some(max) = quota.messages_max {
        words.push(format!("at most {max} messages"));
    }
    if let Some(max) = quota.bytes_max {
        words.push(format!("at most {}", ByteSize(max.get())));
    }
    let mut words = words.join(", ");
    if !topic.is_empty() {
        words.push_str(&format!(": {topic}"));
    }
    words
}

/// The names of all who are in messages. Everybody has one in the end, if only a number.
pub(super) async fn names_of(client: &Client, messages: &[Message]) -> Names {
    look_up(client.clone(), messages.iter().flat_map(users_in).collect()).await
}

async fn look_up(client: Client, users: HashSet<UserId>) -> Names {
    let asked = tokio::time::timeout(LOOKUP_TIMEOUT, client.users(users.iter().copied())).await;
    let mut names = match asked {
        Ok(Ok(names)) => names,
        // The messages matter more than who is behind a number.
        Ok(Err(_)) | Err(_) => HashMap::new(),
    };
    for user in users {
        names.entry(user).or_insert_with(|| Arc::from(format!("user {}", user.0)));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_in_one_clause() {
        let names: Names = [(UserId(1), "ada".into()), (UserId(2), "bob".into())].into();
        let words = |change| change_in_words(&change, UserId(1), &names);
        let member = |user, role| words(Change::Member(UserId(user), role));
        assert_eq!(member(1, Some(Role::Member)), "ada has joined");
        assert_eq!(member(1, None), "ada has left");
        assert_eq!(member(2, Some(Role::Member)), "ada has made bob a member");
        assert_eq!(member(2, Some(Role::Owner)), "ada has made bob an owner");
        assert_eq!(member(2, None), "ada has removed bob");
        assert_eq!(words(Change::Deleted), "ada has deleted the channel");
        let settings = Settings {
            topic: "what breaks".to_owned(),
            visibility: Visibility::Private,
            archived: true,
            ..Settings::open("ops")
        };
        assert_eq!(
            words(Change::Settings(settings)),
            "ada has changed the channel: ops, private, everyone writes, archived: what breaks"
        );
    }
}
