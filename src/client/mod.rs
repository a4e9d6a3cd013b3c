//! The Rust client: reconnects, resumes and retries by itself.
//!
//! [`Client::connect`] starts one task, which owns the connection; the handle is cheap to clone.
//!
//! - **Subscriptions** continue after a reconnect where they stopped. What they bring is every
//!   sequence exactly once, in order, or a [`Delivery::Gap`] or [`Delivery::Reset`] that says what
//!   is missing. Any other sequence is [`ClientError::OutOfOrder`], and the client's end.
//! - **Publishes** carry a number that stays the same over retries and reconnects, so that each
//!   is in its channel once, however often it had to be sent.
//! - **Everything is bounded.** A subscription that is not read slows the reading from the server,
//!   and with it the replies to commands: do not wait for a publish in the task that reads.
//!
//! The parts: `session` (what survives a reconnect; pure), `driver` (the task), `socket` (one
//! connection), `codec` (bytes; pure), `channels` (channels and members), `backoff` (pure), `api` (HTTP), `http` (accounts and tokens).

use std::{
    collections::{HashMap, HashSet},
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

mod api;
mod backoff;
mod channels;
mod codec;
mod driver;
mod error;
mod http;
mod options;
mod session;
mod socket;
mod tls;

pub use self::{
    api::{Api, ApiError},
    channels::{List, NewChannel},
    codec::{Change, HistoryFrom, HistoryPage, Message, Published},
    driver::State,
    error::{ClientError, Closed, ProtocolError, Refusal, TokenError},
    http::Accounts,
    options::{GetToken, Options, ServerUrl, ServerUrlError, Token},
    session::Delivery,
    tls::{Authorities, AuthoritiesError},
};
use self::{
    codec::{Answer, Command},
    driver::{Driver, Item, Request},
    session::SubscriptionKey,
    socket::{Connect, TcpConnect},
};
use crate::{
    limits::{CLIENT_MAILBOX_MAX, CLIENT_USERS_MAX, USERS_PER_LOOKUP_MAX},
    log::place::{ChannelId, ClientMessageId, Epoch, Position, Sequence, UserId},
};

/// A client of one server, as one user. Clones share the connection, which lives until
/// [`Client::close`], or until the last clone and the last [`Subscription`] are dropped.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    requests: mpsc::Sender<Request>,
    state: watch::Receiver<State>,
    command_timeout: Duration,
    deliveries_max: usize,
    subscriptions: AtomicU64,
    /// A cache, and no more: when it is full it starts anew.
    users: Mutex<HashMap<UserId, Arc<str>>>,
}

/// How to publish, if not in the usual way.
#[derive(Clone, Copy, Debug, Default)]
pub struct PublishOptions {
    /// The number of this publish. Absent: drawn at random. Name it to publish again what may have
    /// been published before, or to recognise the message when it is delivered.
    pub client_message_id: Option<ClientMessageId>,
    /// How long to try. Absent: [`Options::command_timeout`].
    pub timeout: Option<Duration>,
}

impl Client {
    /// Starts to connect, on the current tokio runtime. Calls may follow at once; they wait.
    #[must_use]
    pub fn connect(options: Options) -> Self {
        let connect = TcpConnect {
            authority: options.server.authority().to_owned(),
            tls: options.server.authorities().map(Authorities::config),
            local_address: options.local_address,
        };
        Self::connect_through(connect, options)
    }

    fn connect_through<C: Connect>(connect: C, options: Options) -> Self {
        let (requests, mailbox) = mpsc::channel(CLIENT_MAILBOX_MAX);
        let (state, watched) = watch::channel(State::Connecting);
        let url = options.server.web_socket();
        let driver =
            Driver::new(connect, url, options.get_token, mailbox, state, options.backoff_max);
        tokio::spawn(driver.run());
        let shared = Shared {
            requests,
            state: watched,
            command_timeout: options.command_timeout,
            deliveries_max: options.deliveries_max,
            subscriptions: AtomicU64::new(0),
            users: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Where the client stands, now and from now on. Only the newest state is kept.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.shared.state.clone()
    }

    /// Waits for a connection, and answers who is logged in.
    ///
    /// # Errors
    /// When the client ends before.
    pub async fn connected(&self) -> Result<(UserId, Arc<str>), ClientError> {
        let mut state = self.state();
        loop {
            match &*state.borrow_and_update() {
                State::Connected { user, name, .. } => return Ok((*user, Arc::clone(name))),
                State::Closed(error) => return Err(error.clone()),
                State::Connecting | State::Reconnecting { .. } => {}
            }
            if state.changed().await.is_err() {
                return Err(self.ended());
            }
        }
    }

    /// Subscribes to a channel: to what comes from now on, or to what came since a position. Each
    /// channel can have one subscription per client.
    ///
    /// # Errors
    /// When the server refuses, or does not answer in time. Later ends come through the
    /// subscription.
    pub async fn subscribe(
        &self,
        channel: &str,
        since: Option<Position>,
    ) -> Result<Subscription, ClientError> {
        let key = SubscriptionKey(self.shared.subscriptions.fetch_add(1, Ordering::Relaxed));
        let (mailbox, deliveries) = mpsc::channel(self.shared.deliveries_max.max(1));
        let mut subscription = Subscription {
            client: self.clone(),
            key,
            deliveries,
            channel: ChannelId(0),
            start: Position { epoch: Epoch(0), sequence: Sequence::ZERO },
        };
        let channel = channel.to_owned();
        let answer = self
            .ask(None, |ticket, deadline| Request::Subscribe {
                key,
                channel,
                since,
                ticket,
                deadline,
                mailbox,
            })
            .await?;
        let Answer::Subscribed { channel, epoch, head } = answer else { unreachable_answer() };
        subscription.channel = channel;
        subscription.start = Position { epoch, sequence: head };
        Ok(subscription)
    }

    /// Publishes a message, and waits until it is durable.
    ///
    /// # Errors
    /// When the server refuses, or does not answer in time.
    pub async fn publish(&self, channel: &str, body: &str) -> Result<Published, ClientError> {
        self.publish_with(channel, body, PublishOptions::default()).await
    }

    /// Publishes a message in a particular way.
    ///
    /// # Errors
    /// When the server refuses, or does not answer in time.
    pub async fn publish_with(
        &self,
        channel: &str,
        body: &str,
        options: PublishOptions,
    ) -> Result<Published, ClientError> {
        let id = options.client_message_id.unwrap_or_else(new_message_id);
        let command = Command::Publish { channel: channel.to_owned(), id, body: body.to_owned() };
        match self.command(command, options.timeout).await? {
            Answer::Published(published) => Ok(published),
            _ => unreachable_answer(),
        }
    }

    /// Reads a page of history. `limit` 0 leaves its size to the server.
    ///
    /// # Errors
    /// When the server refuses, or does not answer in time.
    pub async fn history(
        &self,
        channel: &str,
        from: HistoryFrom,
        limit: u32,
    ) -> Result<HistoryPage, ClientError> {
        let command = Command::History { channel: channel.to_owned(), from, limit };
        match self.command(command, None).await? {
            Answer::History(page) => Ok(page),
            _ => unreachable_answer(),
        }
    }

    /// The names of users, remembered from call to call. Those that the server does not know are
    /// missing.
    ///
    /// # Errors
    /// When the server refuses, or does not answer in time.
    pub async fn users(
        &self,
        users: impl IntoIterator<Item = UserId>,
    ) -> Result<HashMap<UserId, Arc<str>>, ClientError> {
        let mut names = HashMap::new();
        let mut unknown = HashSet::new();
        {
            let cache = self.cache();
            for user in users {
                match cache.get(&user) {
                    Some(name) => drop(names.insert(user, Arc::clone(name))),
                    None => drop(unknown.insert(user)),
                }
            }
        }
        let unknown: Vec<_> = unknown.into_iter().collect();
        for users in unknown.chunks(USERS_PER_LOOKUP_MAX) {
            match self.command(Command::Users(users.to_vec()), None).await? {
                Answer::Users(found) => {
                    let mut cache = self.cache();
                    if cache.len() + found.len() > CLIENT_USERS_MAX {
                        cache.clear();
                    }
                    for (user, name) in found {
                        let name = Arc::<str>::from(name);
                        cache.insert(user, Arc::clone(&name));
                        names.insert(user, name);
                    }
                }
                _ => unreachable_answer(),
            }
        }
        Ok(names)
    }

    /// Ends the connection with a goodbye. Calls under way fail with [`ClientError::ClientClosed`].
    pub async fn close(&self) {
        // A task that is gone has closed already.
        let _ = self.shared.requests.send(Request::Close).await;
        let mut state = self.state();
        while state.changed().await.is_ok() {}
    }

    async fn command(
        &self,
        command: Command,
        timeout: Option<Duration>,
    ) -> Result<Answer, ClientError> {
        self.ask(timeout, |ticket, deadline| Request::Command { command, ticket, deadline }).await
    }

    async fn ask(
        &self,
        timeout: Option<Duration>,
        request: impl FnOnce(driver::Ticket, Instant) -> Request,
    ) -> Result<Answer, ClientError> {
        let deadline = Instant::now() + timeout.unwrap_or(self.shared.command_timeout);
        let (ticket, answer) = oneshot::channel();
        let sending = self.shared.requests.send(request(ticket, deadline));
        match tokio::time::timeout_at(deadline, sending).await {
            Err(_) => return Err(ClientError::DeadlineExceeded),
            Ok(Err(_)) => return Err(self.ended()),
            Ok(Ok(())) => {}
        }
        // The task keeps the deadline from here on: it knows what the last refusal was.
        answer.await.unwrap_or_else(|_| Err(self.ended()))
    }

    fn ended(&self) -> ClientError {
        match &*self.shared.state.borrow() {
            State::Closed(error) => error.clone(),
            _ => ClientError::ClientClosed,
        }
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, HashMap<UserId, Arc<str>>> {
        self.shared.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("state", &*self.shared.state.borrow())
            .finish_non_exhaustive()
    }
}

/// The deliveries of one channel, in order. Dropping it ends the subscription. It is a
/// [`futures_util::Stream`]; after an error it is over.
#[derive(Debug)]
pub struct Subscription {
    client: Client,
    key: SubscriptionKey,
    deliveries: mpsc::Receiver<Item>,
    channel: ChannelId,
    start: Position,
}

impl Subscription {
    /// The channel's number.
    #[must_use]
    pub fn channel(&self) -> ChannelId {
        self.channel
    }

    /// The channel's newest position when the subscription began.
    #[must_use]
    pub fn start(&self) -> Position {
        self.start
    }

    /// The next delivery. `None` after the error that ended it.
    pub async fn next(&mut self) -> Option<Result<Delivery, ClientError>> {
        self.deliveries.recv().await
    }
}

impl futures_util::Stream for Subscription {
    type Item = Result<Delivery, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.deliveries.poll_recv(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // Without room in the mailbox the task notices at the next delivery that nobody reads.
        self.deliveries.close();
        let _ = self.client.shared.requests.try_send(Request::Unsubscribe(self.key));
    }
}

/// A number for a publish. Never 0, which stands for none.
#[must_use]
pub fn new_message_id() -> ClientMessageId {
    ClientMessageId(rand::random_range(1..=u64::MAX))
}

/// The session has compared each answer with its command.
fn unreachable_answer() -> ! {
    unreachable!("an answer of another kind than its command passed the session")
}

#[cfg(test)]
mod tests;
