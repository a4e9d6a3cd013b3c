//! A subscription whose messages come with the names of their authors.
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

use hubbub::{
    client::{Client, ClientError, Delivery, Message, Subscription},
    log::place::UserId,
};

/// Deliveries that wait for a name. Beyond it none is taken until the lookup ends.
const WAITING_MAX: usize = 1_024;
/// Names that are remembered. Beyond it all are forgotten; the client below still has them.
const NAMES_MAX: usize = 4_096;
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

type Names = HashMap<UserId, Arc<str>>;
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

    /// The next delivery, and the name of its author if it is a message. Cancelling loses nothing.
    pub(super) async fn next(&mut self) -> Result<(Delivery, Arc<str>), ClientError> {
        loop {
            let name = match self.waiting.front() {
                Some(Delivery::Message(message)) => self.names.get(&message.user).cloned(),
                Some(Delivery::Gap { .. } | Delivery::Reset { .. }) => Some(Arc::from("")),
                None => None,
            };
            if let Some(name) = name
                && let Some(delivery) = self.waiting.pop_front()
            {
                return Ok((delivery, name));
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
                        self.names.clear();
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

    fn unnamed(&self) -> HashSet<UserId> {
        let user = |delivery: &Delivery| match delivery {
            Delivery::Message(message) => Some(message.user),
            Delivery::Gap { .. } | Delivery::Reset { .. } => None,
        };
        let users = self.waiting.iter().filter_map(user);
        users.filter(|user| !self.names.contains_key(user)).collect()
    }
}

/// The names of the authors of messages. Every author has one in the end, if only a number.
pub(super) async fn names_of(client: &Client, messages: &[Message]) -> Names {
    look_up(client.clone(), messages.iter().map(|message| message.user).collect()).await
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
