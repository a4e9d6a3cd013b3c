//! What survives a reconnect: the commands without an answer, and where each subscription stopped.
//! Pure: time and randomness are arguments, frames go out through [`Session::outgoing`], and what
//! is to be done comes out as [`Effect`]s.
//!
//! A command's frame is encoded once and sent again byte for byte, so a retried publish carries the
//! `client_message_id` of the first attempt. A subscription accepts the next sequence only; any
//! other ends the session, because hiding a hole would make every test above this file blind.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    backoff::Backoff,
    codec::{self, Answer, Command, Event, Message, Published, Run},
    error::{ClientError, ProtocolError, Refusal},
};
use crate::{
    limits::CLIENT_COMMANDS_MAX,
    log::place::{ChannelId, Position, Sequence},
    wire::{channels::ChannelCommand, code::ErrorCode},
};

/// A subscription's number within its session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct SubscriptionKey(pub(super) u64);

/// What a subscription brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The next message.
    Message(Message),
    /// The messages from `from` to `to`, both included, are not delivered; history has them. What
    /// comes after them follows.
    Gap {
        /// The first that is missing.
        from: Sequence,
        /// The last that is missing.
        to: Sequence,
    },
    /// What was delivered so far is void: the channel's numbering began anew, or it lost messages.
    /// The channel follows again from its first message (or from a gap).
    Reset {
        /// Where the channel is now.
        head: Position,
    },
}

/// What the session wants done. `T` is the caller's ticket for an answer.
#[derive(Debug)]
pub(super) enum Effect<T> {
    /// Gives a command its answer.
    Answer(T, Result<Answer, ClientError>),
    /// Hands a delivery to a subscription.
    Deliver(SubscriptionKey, Delivery),
    /// Ends a subscription.
    End(SubscriptionKey, ClientError),
    /// Ends the session.
    Fatal(ClientError),
}

/// The session's state.
#[derive(Debug)]
pub(super) struct Session<T> {
    /// The largest frame that the server takes; `None` without a connection.
    link: Option<usize>,
    /// The id of the last command. Ids ascend, so the commands' order is the order of their making.
    last_id: u32,
    commands: BTreeMap<u32, Pending<T>>,
    subscriptions: BTreeMap<SubscriptionKey, Subscription<T>>,
    /// Which subscription the messages of a channel belong to, on this connection.
    routes: HashMap<ChannelId, Route>,
    outgoing: VecDeque<Bytes>,
    effects: VecDeque<Effect<T>>,
    /// When `going_away` asked to come back.
    retry_after: Option<Duration>,
    /// The newest expiry that the server confirmed since it was last taken.
    expires_at: Option<u64>,
}

/// A command without a final answer.
#[derive(Debug)]
struct Pending<T> {
    frame: Bytes,
    kind: Kind,
    /// Who waits, and until when. `None` for a command of the connection itself, and after the
    /// deadline: the entry stays so that a late reply is recognised.
    caller: Option<(T, Instant)>,
    attempts: u32,
    backoff: Backoff,
    wait: Wait,
    /// The last refusal, told to the caller when the deadline comes.
    refusal: Option<Refusal>,
}

impl<T> Pending<T> {
    fn deadline(&self) -> Option<Instant> {
        self.caller.as_ref().map(|(_, deadline)| *deadline)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Publish,
    History,
    Users,
    Channel,
    Channels,
    DeleteChannel,
    Member,
    Members,
    Presence,
    Typing,
    MarkRead,
    Subscribe(SubscriptionKey),
    Unsubscribe(ChannelId),
    Authenticate,
}

impl Kind {
    /// What a command about channels and members is answered with.
    fn about(command: &ChannelCommand) -> Self {
        match command {
            ChannelCommand::Create(_) | ChannelCommand::Get(_) | ChannelCommand::Update(..) => {
                Self::Channel
            }
            ChannelCommand::List(..) | ChannelCommand::Memberships(_) => Self::Channels,
            ChannelCommand::Delete(_) => Self::DeleteChannel,
            ChannelCommand::Join(_)
            | ChannelCommand::Leave(_)
            | ChannelCommand::SetMember(..)
            | ChannelCommand::RemoveMember(..) => Self::Member,
            ChannelCommand::Members(..) => Self::Members,
            ChannelCommand::FindUsers(_) => Self::Users,
            ChannelCommand::Presence(_) => Self::Presence,
            ChannelCommand::Typing(_) => Self::Typing,
            ChannelCommand::MarkRead(..) => Self::MarkRead,
        }
    }

    /// Whether the command belongs to its connection, and not to a caller.
    fn of_connection(self) -> bool {
        matches!(self, Self::Subscribe(_) | Self::Unsubscribe(_) | Self::Authenticate)
    }

    fn fits(self, answer: &Answer) -> bool {
        matches!(
            (self, answer),
            (Self::Publish, Answer::Published(_))
                | (Self::History, Answer::History(_))
                | (Self::Users, Answer::Users(_))
                | (Self::Channel, Answer::Channel(_))
                | (Self::Channels, Answer::Channels(..))
                | (Self::DeleteChannel, Answer::ChannelDeleted)
                | (Self::Member, Answer::Member(_))
                | (Self::Members, Answer::Members(..))
                | (Self::Presence, Answer::Presence(_))
                | (Self::Typing, Answer::TypingSent)
                | (Self::MarkRead, Answer::ReadMarker(_))
                | (Self::Subscribe(_), Answer::Subscribed { .. })
                | (Self::Unsubscribe(_), Answer::Unsubscribed)
                | (Self::Authenticate, Answer::Authenticated { .. })
        )
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wait {
    Connection,
    Reply,
    Until(Instant),
}

#[derive(Debug)]
struct Subscription<T> {
    channel: String,
    /// The last that was delivered. `None`: live only, and the server has not answered yet.
    position: Option<Position>,
    /// Who waits for the first answer, and until when.
    first: Option<(T, Instant)>,
    state: State,
    backoff: Backoff,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The server is to be asked as soon as there is a connection.
    Idle,
    Asked,
    Active(ChannelId),
    RetryAt(Instant),
    /// Nobody reads it any more, but the server's answer is still to come.
    Dropped,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Route {
    To(SubscriptionKey),
    /// Unsubscribed by this command; what was under way is dropped until the server confirms it.
    Leaving(u32),
}

impl<T> Session<T> {
    pub(super) fn new() -> Self {
        Self {
            link: None,
            last_id: 0,
            commands: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            routes: HashMap::new(),
            outgoing: VecDeque::new(),
            effects: VecDeque::new(),
            retry_after: None,
            expires_at: None,
        }
    }

    /// Frames for the connection, in order.
    pub(super) fn outgoing(&mut self) -> &mut VecDeque<Bytes> {
        &mut self.outgoing
    }

    /// The next thing to do.
    pub(super) fn effect(&mut self) -> Option<Effect<T>> {
        self.effects.pop_front()
    }

    /// Whether it takes another command.
    pub(super) fn has_room(&self) -> bool {
        self.commands.len() < CLIENT_COMMANDS_MAX
    }

    /// Whether it has no room and nobody waits for what takes it up: the server answers nothing.
    pub(super) fn is_stuck(&self) -> bool {
        !self.has_room() && self.commands.values().all(|pending| pending.caller.is_none())
    }

    /// When the server asked to come back, told once.
    pub(super) fn take_retry_after(&mut self) -> Option<Duration> {
        self.retry_after.take()
    }

    /// Until when a renewed login holds, in seconds since 1970, told once.
    pub(super) fn take_expires_at(&mut self) -> Option<u64> {
        self.expires_at.take()
    }

    /// Takes a command of a caller.
    pub(super) fn command(&mut self, command: &Command, ticket: T, deadline: Instant) {
        let kind = match command {
            Command::Publish { .. } => Kind::Publish,
            Command::History { .. } => Kind::History,
            Command::Users(_) => Kind::Users,
            Command::Channels(command) => Kind::about(command),
            Command::Subscribe { .. } | Command::Unsubscribe(_) | Command::Authenticate(_) => {
                unreachable!("the session makes these itself")
            }
        };
        self.submit(command, kind, Some((ticket, deadline)));
    }

    /// Begins a subscription.
    pub(super) fn subscribe(
        &mut self,
        key: SubscriptionKey,
        channel: String,
        since: Option<Position>,
        ticket: T,
        deadline: Instant,
    ) {
        self.subscriptions.insert(
            key,
            Subscription {
                channel,
                position: since,
                first: Some((ticket, deadline)),
                state: State::Idle,
                backoff: Backoff::default(),
            },
        );
        self.ask(key);
    }

    /// Ends a subscription that nobody reads any more.
    pub(super) fn unsubscribe(&mut self, key: SubscriptionKey) {
        let Some(subscription) = self.subscriptions.get_mut(&key) else { return };
        match subscription.state {
            State::Asked | State::Dropped => subscription.state = State::Dropped,
            State::Idle | State::RetryAt(_) => {
                self.subscriptions.remove(&key);
            }
            State::Active(channel) => {
                self.subscriptions.remove(&key);
                self.leave(channel);
            }
        }
    }

    /// Renews the login.
    pub(super) fn authenticate(&mut self, token: &str) {
        let command = Command::Authenticate(token.to_owned());
        self.submit(&command, Kind::Authenticate, None);
    }

    /// There is a connection, and the server has welcomed it.
    pub(super) fn connected(&mut self, message_bytes_max: usize) {
        self.link = Some(message_bytes_max);
        self.retry_after = None;
        // Subscriptions first: a message that is sent again below is then seen by its own sender.
        let keys: Vec<_> = self.subscriptions.keys().copied().collect();
        for key in keys {
            self.ask(key);
        }
        let ids: Vec<_> = self.commands.keys().copied().collect();
        for id in ids {
            if self.commands[&id].wait == Wait::Connection {
                self.send(id);
            }
        }
    }

    /// The connection is gone.
    pub(super) fn disconnected(&mut self) {
        self.link = None;
        self.routes.clear();
        self.outgoing.clear();
        // Who has stopped waiting needs no answer, and on a new connection no late one can come.
        self.commands
            .retain(|_, pending| !pending.kind.of_connection() && pending.caller.is_some());
        for pending in self.commands.values_mut() {
            if pending.wait == Wait::Reply {
                pending.wait = Wait::Connection;
            }
        }
        self.subscriptions.retain(|_, subscription| subscription.state != State::Dropped);
        for subscription in self.subscriptions.values_mut() {
            subscription.state = State::Idle;
        }
    }

    /// The server said something.
    pub(super) fn event(&mut self, event: Event, now: Instant, uniform: f64) {
        match event {
            Event::Messages(run) => self.messages(run),
            Event::Reply { id, result } => self.reply(id, result, now, uniform),
            Event::Gap { channel, from, to } => self.gap(channel, from, to),
            Event::GoingAway { retry_after } => self.retry_after = retry_after,
            Event::SubscriptionEnded { channel, refusal } => {
                if let Some(Route::To(key)) = self.routes.remove(&channel) {
                    self.refused(key, refusal, now, uniform);
                }
            }
            Event::Welcome(_) => self.fatal(ProtocolError::NoWelcome),
            Event::Lagging | Event::Unknown => {}
        }
    }

    /// The earliest moment at which [`Session::tick`] has something to do.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        let commands = self.commands.values().flat_map(|pending| {
            let retry = match pending.wait {
                Wait::Until(at) => Some(at),
                Wait::Connection | Wait::Reply => None,
            };
            retry.into_iter().chain(pending.deadline())
        });
        let subscriptions = self.subscriptions.values().flat_map(|subscription| {
            let retry = match subscription.state {
                State::RetryAt(at) => Some(at),
                _ => None,
            };
            retry.into_iter().chain(subscription.first.as_ref().map(|(_, deadline)| *deadline))
        });
        commands.chain(subscriptions).min()
    }

    /// Time has passed: retries what is due, and gives up what is overdue.
    pub(super) fn tick(&mut self, now: Instant) {
        let overdue: Vec<_> = self
            .commands
            .iter()
            .filter(|(_, pending)| pending.deadline().is_some_and(|deadline| deadline <= now))
            .map(|(&id, _)| id)
            .collect();
        for id in overdue {
            let Some(pending) = self.commands.get_mut(&id) else { continue };
            if let Some((ticket, _)) = pending.caller.take() {
                let error =
                    pending.refusal.take().map_or(ClientError::DeadlineExceeded, Into::into);
                self.effects.push_back(Effect::Answer(ticket, Err(error)));
            }
            if pending.wait != Wait::Reply {
                self.commands.remove(&id);
            }
        }
        let due: Vec<_> = self
            .commands
            .iter()
            .filter(|(_, pending)| matches!(pending.wait, Wait::Until(at) if at <= now))
            .map(|(&id, _)| id)
            .collect();
        for id in due {
            self.send(id);
        }
        let keys: Vec<_> = self.subscriptions.keys().copied().collect();
        for key in keys {
            let Some(subscription) = self.subscriptions.get_mut(&key) else { continue };
            if subscription.first.as_ref().is_some_and(|(_, deadline)| *deadline <= now) {
                if let Some((ticket, _)) = subscription.first.take() {
                    let error = ClientError::DeadlineExceeded;
                    self.effects.push_back(Effect::Answer(ticket, Err(error)));
                }
                self.unsubscribe(key);
            } else if matches!(subscription.state, State::RetryAt(at) if at <= now) {
                subscription.state = State::Idle;
                self.ask(key);
            }
        }
    }

    /// The session is over: everybody who waits is told.
    pub(super) fn end(&mut self, error: &ClientError) {
        for (_, pending) in std::mem::take(&mut self.commands) {
            if let Some((ticket, _)) = pending.caller {
                self.effects.push_back(Effect::Answer(ticket, Err(error.clone())));
            }
        }
        for (key, subscription) in std::mem::take(&mut self.subscriptions) {
            match subscription.first {
                Some((ticket, _)) => {
                    self.effects.push_back(Effect::Answer(ticket, Err(error.clone())));
                }
                None => self.effects.push_back(Effect::End(key, error.clone())),
            }
        }
    }
}

/// Commands.
impl<T> Session<T> {
    /// Takes a command on, and tells its id.
    fn submit(&mut self, command: &Command, kind: Kind, caller: Option<(T, Instant)>) -> u32 {
        let id = self.unused_id();
        let pending = Pending {
            frame: codec::encode(id, command),
            kind,
            caller,
            attempts: 0,
            backoff: Backoff::default(),
            wait: Wait::Connection,
            refusal: None,
        };
        self.commands.insert(id, pending);
        self.send(id);
        id
    }

    fn unused_id(&mut self) -> u32 {
        loop {
            // 0 is the id of a frame that the server could not read.
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.commands.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }

    /// Sends a command, or has it wait for a connection.
    fn send(&mut self, id: u32) {
        let Some(pending) = self.commands.get_mut(&id) else { return };
        let Some(message_bytes_max) = self.link else {
            pending.wait = Wait::Connection;
            return;
        };
        if pending.frame.len() > message_bytes_max {
            // The server would close the connection with 1009, and this client would come back
            // with the same frame.
            let (kind, caller) = (pending.kind, pending.caller.take());
            self.commands.remove(&id);
            let refusal = Refusal::local(ErrorCode::MessageTooLarge);
            if let Kind::Subscribe(key) = kind {
                self.give_up(key, refusal);
            } else if let Some((ticket, _)) = caller {
                self.effects.push_back(Effect::Answer(ticket, Err(refusal.into())));
            }
            return;
        }
        pending.attempts += 1;
        pending.wait = Wait::Reply;
        self.outgoing.push_back(pending.frame.clone());
    }

    fn reply(&mut self, id: u32, result: Result<Answer, Refusal>, now: Instant, uniform: f64) {
        let Some(mut pending) = self.commands.remove(&id) else {
            return self.fatal(match (id, result) {
                (0, Err(refusal)) => ProtocolError::Unreadable(refusal),
                _ => ProtocolError::UnknownReply(id),
            });
        };
        match result {
            Ok(answer) if pending.kind.fits(&answer) && pending.wait == Wait::Reply => {
                self.answered(id, pending, answer);
            }
            Ok(_) => self.fatal(ProtocolError::WrongReply(id)),
            Err(refusal) => match pending.kind {
                Kind::Subscribe(key) => self.refused(key, refusal, now, uniform),
                // Ended by the server at the same moment, so there is nothing left to end.
                Kind::Unsubscribe(channel) => self.left(channel, id),
                // The connection lives on with the login that it has; see `driver.rs`.
                Kind::Authenticate => {}
                Kind::Publish
                | Kind::History
                | Kind::Users
                | Kind::Channel
                | Kind::Channels
                | Kind::DeleteChannel
                | Kind::Member
                | Kind::Members
                | Kind::Presence
                | Kind::Typing
                | Kind::MarkRead => {
                    let at = now + pending.backoff.next(uniform, refusal.retry_after);
                    let in_time = pending.deadline().is_some_and(|deadline| at < deadline);
                    if refusal.again() && in_time {
                        pending.wait = Wait::Until(at);
                        pending.refusal = Some(refusal);
                        self.commands.insert(id, pending);
                    } else if let Some((ticket, _)) = pending.caller {
                        self.effects.push_back(Effect::Answer(ticket, Err(refusal.into())));
                    }
                }
            },
        }
    }

    fn answered(&mut self, id: u32, pending: Pending<T>, answer: Answer) {
        let answer = match (pending.kind, answer) {
            (Kind::Subscribe(key), Answer::Subscribed { channel, epoch, head }) => {
                return self.subscribed(key, channel, Position { epoch, sequence: head });
            }
            (Kind::Unsubscribe(channel), _) => return self.left(channel, id),
            (Kind::Authenticate, Answer::Authenticated { expires_at }) => {
                self.expires_at = Some(expires_at);
                return;
            }
            (Kind::Publish, Answer::Published(published)) => {
                Ok(Answer::Published(Published { attempts: pending.attempts, ..published }))
            }
            (Kind::History, Answer::History(page)) => match first_break(&page.messages) {
                None => Ok(Answer::History(page)),
                Some((expected, delivered)) => {
                    let channel = format!("number {}", page.channel.0);
                    Err(ClientError::OutOfOrder { channel, expected, delivered })
                }
            },
            (_, answer) => Ok(answer),
        };
        if let Some((ticket, _)) = pending.caller {
            self.effects.push_back(Effect::Answer(ticket, answer));
        }
    }

    fn fatal(&mut self, error: impl Into<ClientError>) {
        self.effects.push_back(Effect::Fatal(error.into()));
    }
}

/// Subscriptions.
impl<T> Session<T> {
    fn ask(&mut self, key: SubscriptionKey) {
        let Some(subscription) = self.subscriptions.get(&key) else { return };
        if self.link.is_none() || subscription.state != State::Idle {
            return;
        }
        // A dropped one of the same channel may still begin, and would have this one refused.
        let is_in_the_way =
            |it: &Subscription<T>| it.state == State::Dropped && it.channel == subscription.channel;
        if self.subscriptions.values().any(is_in_the_way) {
            return;
        }
        let Some(subscription) = self.subscriptions.get_mut(&key) else { return };
        subscription.state = State::Asked;
        let command = Command::Subscribe {
            channel: subscription.channel.clone(),
            since: subscription.position,
        };
        self.submit(&command, Kind::Subscribe(key), None);
    }

    /// A dropped subscription is gone: asks for those that it was in the way of.
    fn ask_idle(&mut self) {
        let keys: Vec<_> = self.subscriptions.keys().copied().collect();
        for key in keys {
            self.ask(key);
        }
    }

    fn leave(&mut self, channel: ChannelId) {
        let id = self.submit(&Command::Unsubscribe(channel), Kind::Unsubscribe(channel), None);
        self.routes.insert(channel, Route::Leaving(id));
    }

    /// The server has confirmed the command that left a channel. Replies may overtake one another, so the
    /// channel may be subscribed to again by now.
    fn left(&mut self, channel: ChannelId, id: u32) {
        if self.routes.get(&channel) == Some(&Route::Leaving(id)) {
            self.routes.remove(&channel);
        }
    }

    fn subscribed(&mut self, key: SubscriptionKey, channel: ChannelId, head: Position) {
        let Some(subscription) = self.subscriptions.get_mut(&key) else { return };
        if subscription.state == State::Dropped {
            self.subscriptions.remove(&key);
            self.leave(channel);
            return self.ask_idle();
        }
        if let Some(asked) = subscription.position {
            let channel = || subscription.channel.clone();
            if asked.epoch != head.epoch {
                let (asked, resumed) = (asked.epoch, head.epoch);
                let error = ProtocolError::EpochMixed { channel: channel(), asked, resumed };
                return self.fatal(error);
            }
            if asked.sequence > head.sequence {
                let (asked, head) = (asked.sequence, head.sequence);
                let error = ProtocolError::ResumedAhead { channel: channel(), asked, head };
                return self.fatal(error);
            }
        }
        subscription.position.get_or_insert(head);
        subscription.state = State::Active(channel);
        subscription.backoff.reset();
        self.routes.insert(channel, Route::To(key));
        if let Some((ticket, _)) = subscription.first.take() {
            let (epoch, head) = (head.epoch, head.sequence);
            let answer = Answer::Subscribed { channel, epoch, head };
            self.effects.push_back(Effect::Answer(ticket, Ok(answer)));
        }
    }

    /// The server refused to begin a subscription, or ended it.
    fn refused(&mut self, key: SubscriptionKey, refusal: Refusal, now: Instant, uniform: f64) {
        let Some(subscription) = self.subscriptions.get_mut(&key) else { return };
        if subscription.state == State::Dropped {
            self.subscriptions.remove(&key);
            return self.ask_idle();
        }
        if refusal.is(ErrorCode::EpochChanged) || refusal.is(ErrorCode::PositionAhead) {
            let start = refusal.head.map(|head| Position { sequence: Sequence::ZERO, ..head });
            let (Some(head), true) = (refusal.head, start != subscription.position) else {
                let channel = subscription.channel.clone();
                return self.fatal(ProtocolError::NoHead(channel));
            };
            subscription.position = start;
            subscription.state = State::Idle;
            self.effects.push_back(Effect::Deliver(key, Delivery::Reset { head }));
            return self.ask(key);
        }
        let at = now + subscription.backoff.next(uniform, refusal.retry_after);
        let in_time = subscription.first.as_ref().is_none_or(|(_, deadline)| at < *deadline);
        if refusal.again() && in_time {
            subscription.state = State::RetryAt(at);
        } else {
            self.give_up(key, refusal);
        }
    }

    /// Ends a subscription for good.
    fn give_up(&mut self, key: SubscriptionKey, refusal: Refusal) {
        if let Some(subscription) = self.subscriptions.remove(&key) {
            self.effects.push_back(match subscription.first {
                Some((ticket, _)) => Effect::Answer(ticket, Err(refusal.into())),
                None => Effect::End(key, refusal.into()),
            });
        }
    }

    fn messages(&mut self, run: Run) {
        let Some((key, subscription)) = self.route(run.channel) else { return };
        let Some(position) = &mut subscription.position else { return };
        let expected = following(position.sequence);
        if run.first != expected {
            let channel = subscription.channel.clone();
            return self.fatal(ClientError::OutOfOrder { channel, expected, delivered: run.first });
        }
        let Some(last) = run.messages.last() else { return };
        position.sequence = last.sequence;
        let deliveries = run.messages.into_iter().map(Delivery::Message);
        self.effects.extend(deliveries.map(|delivery| Effect::Deliver(key, delivery)));
    }

    fn gap(&mut self, channel: ChannelId, from: Sequence, to: Sequence) {
        let Some((key, subscription)) = self.route(channel) else { return };
        let Some(position) = &mut subscription.position else { return };
        let expected = following(position.sequence);
        if from != expected || to < from {
            let channel = subscription.channel.clone();
            return self.fatal(ClientError::OutOfOrder { channel, expected, delivered: from });
        }
        position.sequence = to;
        self.effects.push_back(Effect::Deliver(key, Delivery::Gap { from, to }));
    }

    /// The subscription behind a channel; `None` if what came for it is to be dropped.
    fn route(&mut self, channel: ChannelId) -> Option<(SubscriptionKey, &mut Subscription<T>)> {
        match self.routes.get(&channel).copied() {
            Some(Route::Leaving(_)) => None,
            Some(Route::To(key)) => {
                self.subscriptions.get_mut(&key).map(|subscription| (key, subscription))
            }
            None => {
                self.fatal(ProtocolError::NotSubscribed(channel));
                None
            }
        }
    }
}

/// The sequence after this one, whatever a server may claim.
fn following(sequence: Sequence) -> Sequence {
    Sequence(sequence.0.saturating_add(1))
}

/// The first message that is not the one after its predecessor, and what was due.
fn first_break(messages: &[Message]) -> Option<(Sequence, Sequence)> {
    messages.windows(2).find_map(|pair| {
        let expected = following(pair[0].sequence);
        (pair[1].sequence != expected).then_some((expected, pair[1].sequence))
    })
}

#[cfg(test)]
mod tests;
