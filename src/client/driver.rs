//! The client's one task: moves frames between a [`Socket`] and the [`Session`], connects again,
//! renews the login, and hands deliveries to their readers.
//!
//! Back-pressure: while a delivery has no room with its reader, the task does not read from the
//! socket. Writing, commands and deadlines go on.

use std::{
    collections::{HashMap, VecDeque},
    future::{pending, poll_fn},
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, Sleep, sleep_until},
};

use super::{
    backoff::Backoff,
    codec::{Answer, Command, Welcome},
    error::{ClientError, Closed, TokenError},
    options::GetToken,
    session::{Delivery, Effect, Session, SubscriptionKey},
    socket::{Connect, Incoming, OpenError, Socket},
};
use crate::{
    limits::{CLIENT_BACKOFF_MAX, CLIENT_CONNECT_TIMEOUT},
    log::place::{Position, UserId},
    wire::code::{CloseCode, ErrorCode},
};

/// Where a client stands.
#[derive(Clone, Debug)]
pub enum State {
    /// It gets a token, connects, and waits for the welcome.
    Connecting,
    /// It is logged in.
    Connected {
        /// As whom.
        user: UserId,
        /// Their name.
        name: Arc<str>,
        /// The how-manieth connection of this client it is, from 1.
        connection: u32,
    },
    /// It waits before the next attempt.
    Reconnecting {
        /// How long, from the moment of this state on.
        delay: Duration,
        /// What ended the connection or the attempt, for people.
        because: Arc<str>,
    },
    /// It is over.
    Closed(ClientError),
}

pub(super) type Ticket = oneshot::Sender<Result<Answer, ClientError>>;
pub(super) type Item = Result<Delivery, ClientError>;

/// What the handle asks of the task.
pub(super) enum Request {
    Command {
        command: Command,
        ticket: Ticket,
        deadline: Instant,
    },
    Subscribe {
        key: SubscriptionKey,
        channel: String,
        since: Option<Position>,
        ticket: Ticket,
        deadline: Instant,
        mailbox: mpsc::Sender<Item>,
    },
    Unsubscribe(SubscriptionKey),
    Close,
}

pub(super) struct Driver<C: Connect> {
    connect: C,
    url: String,
    get_token: GetToken,
    requests: mpsc::Receiver<Request>,
    state: watch::Sender<State>,
    session: Session<Ticket>,
    mailboxes: HashMap<SubscriptionKey, mpsc::Sender<Item>>,
    /// What one frame brought and its readers have not taken yet.
    undelivered: VecDeque<(SubscriptionKey, Item)>,
    link: Link<C::Stream>,
    backoff: Backoff,
    connections: u32,
    /// The token of the last welcome, used again for reconnects: they must cost no password hash.
    token: Option<Arc<str>>,
    /// Whether the token in use was used before, so that a refusal may only mean that it is stale.
    token_is_reused: bool,
    renewal: Renewal,
}

/// The way to the server.
enum Link<S> {
    Waiting(Instant),
    Opening(Pin<Box<dyn Future<Output = Opened<S>> + Send>>),
    Open(Box<Open<S>>),
}

type Opened<S> = Result<Box<(Socket<S>, Welcome, Arc<str>)>, NotOpened>;

/// Why an attempt to connect failed.
enum NotOpened {
    Token(TokenError),
    Open(OpenError),
}

struct Open<S> {
    socket: Socket<S>,
    since: Instant,
    heard: Instant,
    /// Fires when the silence may have been too long; `heard` tells. It is not set anew by each
    /// frame, because frames are many.
    silence: Pin<Box<Sleep>>,
    /// How long the server may be silent: it pings more often than that.
    silence_max: Duration,
}

/// The renewal of the login on the open connection.
enum Renewal {
    None,
    At(Pin<Box<Sleep>>),
    /// The one call of the callback that is under way.
    Asking(Pin<Box<dyn Future<Output = Result<String, TokenError>> + Send>>),
}

impl Renewal {
    fn after(wait: Duration) -> Self {
        Self::At(Box::pin(tokio::time::sleep(wait)))
    }
}

/// What the task woke up for.
enum Turn<S> {
    Request(Option<Request>),
    Delivered,
    Tick,
    Attempt,
    Opened(Opened<S>),
    Incoming(Incoming),
    Silence,
    RenewalDue,
    Renewed(Result<String, TokenError>),
}

impl<C: Connect> Driver<C> {
    pub(super) fn new(
        connect: C,
        url: String,
        get_token: GetToken,
        requests: mpsc::Receiver<Request>,
        state: watch::Sender<State>,
        backoff_max: Duration,
    ) -> Self {
        Self {
            connect,
            url,
            get_token,
            requests,
            state,
            session: Session::new(),
            mailboxes: HashMap::new(),
            undelivered: VecDeque::new(),
            link: Link::Waiting(Instant::now()),
            backoff: Backoff::up_to(backoff_max),
            connections: 0,
            token: None,
            token_is_reused: false,
            renewal: Renewal::None,
        }
    }

    /// Runs until the client is closed or cannot go on.
    pub(super) async fn run(mut self) {
        let error = loop {
            let turn = self.turn().await;
            let now = Instant::now();
            let done = self.apply(turn, now);
            // Here and not as a turn alone, so that a busy connection cannot put deadlines off.
            if self.session.next_tick().is_some_and(|at| at <= now.into_std()) {
                self.tick(now);
            }
            match done.and_then(|()| self.perform()) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        self.finish(error).await;
    }

    /// Waits for the next thing to do. Cancelling loses nothing: each branch leaves its state here.
    async fn turn(&mut self) -> Turn<C::Stream> {
        let takes_requests = self.session.has_room();
        let tick = self.session.next_tick().map(Instant::from_std);
        let reads = self.undelivered.is_empty();
        tokio::select! {
            biased;
            request = self.requests.recv(), if takes_requests => Turn::Request(request),
            () = deliver(&mut self.undelivered, &mut self.mailboxes), if !reads => Turn::Delivered,
            turn = renew(&mut self.renewal) => turn,
            turn = proceed(&mut self.link, &mut self.session, reads) => turn,
            () = sleep_until(tick.unwrap_or_else(Instant::now)), if tick.is_some() => Turn::Tick,
        }
    }

    fn apply(&mut self, turn: Turn<C::Stream>, now: Instant) -> Result<(), ClientError> {
        match turn {
            Turn::Request(request) => self.request(request)?,
            Turn::Delivered => {
                // However long the reader took, the server was not silent meanwhile.
                if let Link::Open(open) = &mut self.link {
                    open.heard = now;
                }
            }
            // The loop looks at the clock after every turn.
            Turn::Tick => {}
            Turn::Attempt => self.attempt(),
            Turn::Opened(Ok(opened)) => {
                let (socket, welcome, token) = *opened;
                self.opened(socket, &welcome, token, now);
            }
            Turn::Opened(Err(error)) => self.not_opened(error, now)?,
            Turn::Incoming(Incoming::Event(event)) => {
                self.heard(now);
                self.session.event(event, now.into_std(), rand::random());
                if let Some(expires_at) = self.session.take_expires_at() {
                    self.renewal = Renewal::after(until_renewal(expires_at));
                }
            }
            Turn::Incoming(Incoming::Sign) => self.heard(now),
            Turn::Incoming(Incoming::Closed(closed)) => self.closed(closed, now)?,
            Turn::Incoming(Incoming::Protocol(error)) => return Err(error.into()),
            Turn::Silence => self.lost("the server has fallen silent", None, now),
            Turn::RenewalDue => self.renewal = Renewal::Asking(self.get_token.call()),
            Turn::Renewed(Ok(token)) => {
                self.session.authenticate(&token);
                self.token = Some(token.into());
                self.renewal = Renewal::None;
            }
            Turn::Renewed(Err(error)) => {
                // The login holds a while yet. If no attempt passes until then, the server closes
                // with 4001, and the next connection asks for a token and reports the failure.
                self.renewal = if error.again() {
                    let wait = CLIENT_BACKOFF_MAX.mul_f64(rand::random());
                    Renewal::after(error.retry_after().unwrap_or(wait))
                } else {
                    Renewal::None
                };
            }
        }
        Ok(())
    }

    fn request(&mut self, request: Option<Request>) -> Result<(), ClientError> {
        match request {
            Some(Request::Command { command, ticket, deadline }) => {
                self.session.command(&command, ticket, deadline.into_std());
            }
            Some(Request::Subscribe { key, channel, since, ticket, deadline, mailbox }) => {
                // Before a channel is subscribed to again, its dropped subscription has to go.
                let dropped = |(_, mailbox): &(_, &mpsc::Sender<Item>)| mailbox.is_closed();
                let keys: Vec<_> =
                    self.mailboxes.iter().filter(dropped).map(|(&key, _)| key).collect();
                keys.into_iter().for_each(|key| self.unsubscribe(key));
                self.mailboxes.insert(key, mailbox);
                self.session.subscribe(key, channel, since, ticket, deadline.into_std());
            }
            Some(Request::Unsubscribe(key)) => self.unsubscribe(key),
            Some(Request::Close) | None => return Err(ClientError::ClientClosed),
        }
        Ok(())
    }

    fn tick(&mut self, now: Instant) {
        self.session.tick(now.into_std());
        if self.session.is_stuck() {
            self.lost("the server answers no commands", None, now);
        }
    }

    fn unsubscribe(&mut self, key: SubscriptionKey) {
        self.mailboxes.remove(&key);
        self.undelivered.retain(|(other, _)| *other != key);
        self.session.unsubscribe(key);
    }

    fn heard(&mut self, now: Instant) {
        if let Link::Open(open) = &mut self.link {
            open.heard = now;
        }
    }

    /// Carries out what the session wants.
    fn perform(&mut self) -> Result<(), ClientError> {
        while let Some(effect) = self.session.effect() {
            match effect {
                // Nobody may be waiting any more; then nobody needs the answer.
                Effect::Answer(ticket, answer) => drop(ticket.send(answer)),
                Effect::Deliver(key, delivery) => self.undelivered.push_back((key, Ok(delivery))),
                Effect::End(key, error) => self.undelivered.push_back((key, Err(error))),
                Effect::Fatal(error) => return Err(error),
            }
        }
        // The quick way: most readers have room.
        while let Some((key, item)) = self.undelivered.pop_front() {
            let Some(mailbox) = self.mailboxes.get(&key) else { continue };
            let ends = item.is_err();
            match mailbox.try_send(item) {
                Ok(()) if ends => drop(self.mailboxes.remove(&key)),
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(item)) => {
                    self.undelivered.push_front((key, item));
                    break;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => self.unsubscribe(key),
            }
        }
        Ok(())
    }
}

/// Connecting, and connecting again.
impl<C: Connect> Driver<C> {
    fn attempt(&mut self) {
        self.state.send_replace(State::Connecting);
        let connecting = self.connect.connect();
        let get_token = self.get_token.clone();
        let url = self.url.clone();
        let token = self.token.clone();
        self.token_is_reused = token.is_some();
        self.link = Link::Opening(Box::pin(async move {
            let token = match token {
                Some(token) => token,
                None => get_token.call().await.map_err(NotOpened::Token)?.into(),
            };
            let opening = async {
                let network = |error: std::io::Error| OpenError::Network(error.to_string());
                let stream = connecting.await.map_err(network)?;
                Socket::open(stream, &url, &token).await
            };
            match tokio::time::timeout(CLIENT_CONNECT_TIMEOUT, opening).await {
                Ok(Ok((socket, welcome))) => Ok(Box::new((socket, welcome, token))),
                Ok(Err(error)) => Err(NotOpened::Open(error)),
                Err(_) => {
                    let because = "the server did not answer in time".to_owned();
                    Err(NotOpened::Open(OpenError::Network(because)))
                }
            }
        }));
    }

    fn opened(
        &mut self,
        socket: Socket<C::Stream>,
        welcome: &Welcome,
        token: Arc<str>,
        now: Instant,
    ) {
        self.token = Some(token);
        self.connections += 1;
        self.renewal = Renewal::after(until_renewal(welcome.expires_at));
        // Pings are spread by a fifth around the interval; half of it more is no coincidence.
        let silence_max = welcome.ping_interval.mul_f64(1.5) + welcome.pong_timeout;
        self.link = Link::Open(Box::new(Open {
            socket,
            since: now,
            heard: now,
            silence: Box::pin(sleep_until(now + silence_max)),
            silence_max,
        }));
        self.session.connected(welcome.message_bytes_max);
        self.state.send_replace(State::Connected {
            user: welcome.user,
            name: welcome.name.as_str().into(),
            connection: self.connections,
        });
    }

    fn not_opened(&mut self, error: NotOpened, now: Instant) -> Result<(), ClientError> {
        match error {
            NotOpened::Token(error) if error.again() => {
                let retry_after = error.retry_after();
                self.lost(&error.to_string(), retry_after, now);
            }
            NotOpened::Token(error) => return Err(ClientError::Token(Arc::new(error))),
            NotOpened::Open(OpenError::Network(because)) => self.lost(&because, None, now),
            NotOpened::Open(OpenError::Closed(closed)) => self.closed(closed, now)?,
            NotOpened::Open(OpenError::Protocol(error)) => return Err(error.into()),
            NotOpened::Open(OpenError::Status { status, refusal }) => {
                let retry_after = refusal.as_ref().and_then(|refusal| refusal.retry_after);
                let stale = refusal.as_ref().is_some_and(|r| r.is(ErrorCode::TokenExpired));
                if status == 401 && (stale || self.token_is_reused) {
                    self.token = None;
                    self.lost("the login has run out", retry_after, now);
                } else if status == 429 || status >= 500 {
                    let because = format!("the server answered with HTTP status {status}");
                    self.lost(&because, retry_after, now);
                } else {
                    return Err(ClientError::Handshake { status, refusal });
                }
            }
        }
        Ok(())
    }

    fn closed(&mut self, closed: Closed, now: Instant) -> Result<(), ClientError> {
        if !closed.reconnects() {
            return Err(ClientError::Closed(closed));
        }
        if closed.is(CloseCode::TokenExpired) {
            self.token = None;
        }
        self.lost(&closed.to_string(), closed.retry_after, now);
        Ok(())
    }

    /// There is no connection, or none any more. Waits before the next attempt.
    fn lost(&mut self, because: &str, retry_after: Option<Duration>, now: Instant) {
        if let Link::Open(open) = &self.link
            && now - open.since >= CLIENT_BACKOFF_MAX
        {
            self.backoff.reset();
        }
        let retry_after = retry_after.or(self.session.take_retry_after());
        self.session.disconnected();
        self.renewal = Renewal::None;
        let delay = self.backoff.next(rand::random(), retry_after);
        self.link = Link::Waiting(now + delay);
        self.state.send_replace(State::Reconnecting { delay, because: because.into() });
    }

    /// Tells everybody that it is over.
    async fn finish(mut self, error: ClientError) {
        self.session.end(&error);
        while let Some(effect) = self.session.effect() {
            match effect {
                Effect::Answer(ticket, answer) => drop(ticket.send(answer)),
                Effect::Deliver(key, delivery) => self.undelivered.push_back((key, Ok(delivery))),
                Effect::End(key, error) => self.undelivered.push_back((key, Err(error))),
                Effect::Fatal(_) => {}
            }
        }
        // From here on calls of the handle fail at once, with the error of the state.
        self.state.send_replace(State::Closed(error));
        self.requests.close();
        drop(self.requests);
        let link = std::mem::replace(&mut self.link, Link::Waiting(Instant::now()));
        if let Link::Open(open) = link {
            open.socket.close().await;
        }
        // `Client::close` waits for this.
        drop(self.state);
        // What was in order is still handed over, and then why it ends. A reader that never comes
        // back costs nothing but this task's memory: it ends when the reader is dropped.
        while !self.undelivered.is_empty() {
            deliver(&mut self.undelivered, &mut self.mailboxes).await;
        }
    }
}

/// Hands over the first undelivered item, when its reader has room.
async fn deliver(
    undelivered: &mut VecDeque<(SubscriptionKey, Item)>,
    mailboxes: &mut HashMap<SubscriptionKey, mpsc::Sender<Item>>,
) {
    let Some((key, _)) = undelivered.front() else { return };
    let key = *key;
    let ends = {
        let permit = match mailboxes.get(&key) {
            Some(mailbox) => mailbox.reserve().await.ok(),
            None => None,
        };
        // No await from here on, so an item is either still queued or handed over.
        let Some((_, item)) = undelivered.pop_front() else { return };
        let ends = item.is_err();
        if let Some(permit) = permit {
            permit.send(item);
        }
        ends
    };
    if ends {
        mailboxes.remove(&key);
    }
}

/// Waits for the connection, in whichever state it is.
async fn proceed<S>(link: &mut Link<S>, session: &mut Session<Ticket>, reads: bool) -> Turn<S>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    match link {
        Link::Waiting(until) => {
            sleep_until(*until).await;
            Turn::Attempt
        }
        Link::Opening(opening) => Turn::Opened(opening.await),
        Link::Open(open) => {
            let Open { socket, silence, heard, silence_max, .. } = open.as_mut();
            loop {
                tokio::select! {
                    biased;
                    incoming = poll_fn(|cx| socket.poll(cx, session.outgoing(), reads)) => {
                        return Turn::Incoming(incoming);
                    }
                    () = silence.as_mut(), if reads => {
                        let silent_at = *heard + *silence_max;
                        if silent_at <= Instant::now() {
                            return Turn::Silence;
                        }
                        silence.as_mut().reset(silent_at);
                    }
                }
            }
        }
    }
}

/// Waits for the moment of renewal, or for the token.
async fn renew<S>(renewal: &mut Renewal) -> Turn<S> {
    match renewal {
        Renewal::None => pending().await,
        Renewal::At(sleep) => {
            sleep.as_mut().await;
            Turn::RenewalDue
        }
        Renewal::Asking(asking) => Turn::Renewed(asking.await),
    }
}

/// How long from now until a login that ends at this second should be renewed: four fifths of what
/// is left, so that a token of an hour has twelve minutes for attempts.
fn until_renewal(expires_at: u64) -> Duration {
    let expires_at = UNIX_EPOCH.checked_add(Duration::from_secs(expires_at));
    let left = expires_at.and_then(|at| at.duration_since(SystemTime::now()).ok());
    // A second at least: a wrong clock must not make a loop of it.
    left.unwrap_or_default().mul_f64(0.8).clamp(Duration::from_secs(1), RENEWAL_MAX)
}

/// Beyond this a timer is not worth setting; the login is then renewed that much earlier.
const RENEWAL_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
