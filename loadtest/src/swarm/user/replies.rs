//! What the server says that is not a message: replies, and the rarer events.

use std::time::Duration;

use hubbub::wire::proto::{
    self, client_envelope, error::Code, reply::Result as Answer, server_envelope::Envelope,
};

use super::{COMMAND_PATIENCE, Kind, Stage, User, witness::Inquiry};
use crate::swarm::{
    returning::Return,
    timers::Due,
    world::{World, us},
};

/// Of a command that was refused for a while, unless the server says how long.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);
/// Of what a server says, as much is told.
const SAID_CHARS_MAX: usize = 200;

/// A command that is not answered. Publishes have a list of their own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) id: u32,
    pub(super) command: Command,
    pub(super) at_us: u64,
}

/// What was asked for. The numbers are places in the user's list of subscriptions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Command {
    Subscribe(usize),
    Unsubscribe(usize),
    Authenticate,
    /// This one of all channels.
    CreateChannel(usize),
    History(Inquiry),
}

impl User {
    pub(super) fn envelope(&mut self, envelope: proto::ServerEnvelope, world: &mut World) {
        match envelope.envelope {
            Some(Envelope::Reply(reply)) => self.reply(reply, world),
            Some(Envelope::Welcome(welcome)) => self.welcome(welcome, world),
            Some(Envelope::Gap(gap)) => {
                world.books.totals.gaps += 1;
                let (from, to) = (gap.from_sequence, gap.to_sequence);
                match self.reader(gap.channel_id) {
                    Some((_, reader)) => world.books.audit.skipped(reader, from, to),
                    None => world.books.audit.leaked(self.number, gap.channel_id, from),
                }
            }
            Some(Envelope::GoingAway(going)) => {
                let after = Duration::from_millis(going.retry_after_ms.into());
                self.write_close(1000, world);
                self.lost("going away", Some(after), world);
            }
            Some(Envelope::SubscriptionEnded(ended)) => {
                let code = ended.error.map_or(0, |error| error.code);
                self.end(&format!("its subscription ended: {code} {}", name(code)), world);
            }
            // A lagging connection is told so; nobody asked for what is not in the log; what is unknown is
            // of a later version.
            Some(
                Envelope::Lagging(_)
                | Envelope::Messages(_)
                | Envelope::Presence(_)
                | Envelope::Typing(_)
                | Envelope::ReadMarker(_),
            )
            | None => {}
        }
    }

    fn welcome(&mut self, welcome: proto::Welcome, world: &mut World) {
        if self.stage != Stage::Greeting {
            return;
        }
        self.id = welcome.user_id;
        self.stage = Stage::Subscribing;
        if self.kind == Kind::Witness {
            world.books.server_version.get_or_insert(welcome.server_version);
        }
        for index in 0..self.subscriptions.len() {
            self.subscribe(index, world);
        }
        self.when_subscribed(world);
    }

    fn subscribe(&mut self, index: usize, world: &mut World) {
        let it = &self.subscriptions[index];
        let since = it.reader.map(|reader| proto::Position {
            epoch: it.epoch,
            sequence: world.books.audit.last(reader),
        });
        self.subscribe_since(index, since, world);
    }

    fn subscribe_since(&mut self, index: usize, since: Option<proto::Position>, world: &mut World) {
        let it = &self.subscriptions[index];
        let channel = match it.channel_id {
            0 => {
                let name = world.channels[it.channel as usize].name.clone();
                proto::subscribe::Channel::ChannelName(name)
            }
            id => proto::subscribe::Channel::ChannelId(id),
        };
        let subscribe = proto::Subscribe { channel: Some(channel), since, ephemeral: false };
        let command = client_envelope::Command::Subscribe(subscribe);
        self.ask(Command::Subscribe(index), command, world);
    }

    fn reply(&mut self, reply: proto::Reply, world: &mut World) {
        if let Some(index) = self.outstanding(reply.id) {
            return match reply.result {
                Some(Answer::Published(published)) => {
                    self.published(index, published.sequence, world);
                }
                Some(Answer::Error(error)) => self.not_published(index, &error, world),
                _ => self.end("a publish was answered as if it were something else", world),
            };
        }
        let Some(index) = self.asked.iter().position(|it| it.id == reply.id) else {
            return self.end("the server answered a command that was not sent", world);
        };
        let asked = self.asked.swap_remove(index);
        match (asked.command, reply.result) {
            (Command::Subscribe(index), Some(Answer::Subscribed(subscribed))) => {
                self.subscribed(index, &subscribed, asked.at_us, world);
            }
            (Command::Unsubscribe(index), Some(Answer::Unsubscribed(_))) => {
                self.unsubscribed(index, world);
            }
            (Command::Authenticate, Some(Answer::Authenticated(_))) => {}
            (Command::CreateChannel(index), Some(Answer::Channel(channel))) => {
                self.created(index, channel.channel_id, world);
            }
            (Command::History(inquiry), Some(Answer::History(page))) => {
                self.informed(inquiry, &page, world);
            }
            (command, Some(Answer::Error(error))) => self.refused(command, &error, world),
            _ => self.end("a command was answered as if it were another", world),
        }
    }

    fn subscribed(
        &mut self,
        index: usize,
        subscribed: &proto::Subscribed,
        asked_us: u64,
        world: &mut World,
    ) {
        world.books.subscribe(world.now_us - asked_us);
        let it = &mut self.subscriptions[index];
        it.channel_id = subscribed.channel_id;
        it.epoch = subscribed.epoch;
        it.head = subscribed.head_sequence;
        if self.returns != Return::Done
            && let Some(reader) = it.reader
        {
            let missed = it.head.saturating_sub(world.books.audit.last(reader));
            world.returning.counts.replayed += missed;
        }
        it.is_open = true;
        if it.reader.is_none() {
            let place = world.channels[it.channel as usize].place;
            it.reader = Some(world.books.audit.subscribed(self.number, place, it.head));
        }
        self.when_subscribed(world);
    }

    /// Whoever is in all its channels is ready.
    fn when_subscribed(&mut self, world: &mut World) {
        if self.stage != Stage::Subscribing || !self.subscriptions.iter().all(|it| it.is_open) {
            return;
        }
        self.stage = Stage::Ready;
        self.was_ready = true;
        world.turned_away = 0;
        self.is_back(world);
        (self.tries, self.trying_since_us) = (0, None);
        self.joined(world);
        match self.kind {
            Kind::Witness => {
                world.witness.moved_us.get_or_insert(world.now_us);
                self.inquire(world);
            }
            Kind::Ordinary => world.connected += 1,
            Kind::Slow => {
                world.connected += 1;
                let stamp = self.attempt;
                world.set_timer(super::SLOW_READ_PAUSE, self.number, Due::Read, stamp);
            }
        }
        self.send_outstanding(world);
        self.begin_publishing(world);
        self.go_on_leaving(world);
    }

    fn refused(&mut self, command: Command, error: &proto::Error, world: &mut World) {
        let (number, name) = (error.code, name(error.code));
        match command {
            Command::Subscribe(index) if resets(error.code) => {
                let head = error.head.unwrap_or_default();
                let it = &mut self.subscriptions[index];
                it.epoch = head.epoch;
                if let Some(reader) = it.reader {
                    world.books.audit.started_over(reader, head.sequence);
                }
                world.books.error(&format!("subscribe: {number} {name}"));
                let start = proto::Position { sequence: 0, ..head };
                return self.subscribe_since(index, Some(start), world);
            }
            Command::Authenticate => {
                // The server closes when the old token runs out, and then there is a new login.
                self.token = None;
                return world.books.error(&format!("authenticate: {number} {name}"));
            }
            _ => {}
        }
        world.books.error(&format!("{}: {number} {name}", command.word()));
        if !may_pass_later(error.code) {
            let (word, said) = (command.word(), in_one_line(&error.message));
            return self.end(&format!("{word} was refused: {number} {name}: {said}"), world);
        }
        let after = put_off_for(error);
        match command {
            Command::History(_) | Command::CreateChannel(_) => {
                let until_us = world.now_us + us(after);
                world.witness.refused(command, until_us);
                world.set_timer(after, self.number, Due::Again, 0);
            }
            // A connection without its channels is of no use; another one begins anew.
            _ => self.lost("subscribe: put off", Some(after), world),
        }
    }
}

impl Command {
    fn word(self) -> &'static str {
        match self {
            Self::Subscribe(_) => "subscribe",
            Self::Unsubscribe(_) => "unsubscribe",
            Self::Authenticate => "authenticate",
            Self::CreateChannel(_) => "create channel",
            Self::History(_) => "history",
        }
    }
}

/// The name of an error, as the protocol writes it.
pub(super) fn name(code: i32) -> String {
    Code::try_from(code).map_or("unknown", |code| code.as_str_name()).to_lowercase()
}

/// Until when the same command is not to be sent again. Bounded, since a server may say anything.
pub(super) fn put_off_for(error: &proto::Error) -> Duration {
    match error.retry_after_ms {
        0 => REFUSED_PAUSE,
        ms => Duration::from_millis(ms.into()).min(COMMAND_PATIENCE),
    }
}

/// What a server said, so that it fits into a sentence, whatever it was.
pub(super) fn in_one_line(text: &str) -> String {
    let is_plain = |it: char| !it.is_control();
    let plain = text.chars().take(SAID_CHARS_MAX).map(|it| if is_plain(it) { it } else { ' ' });
    plain.collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether the same command may pass later.
pub(super) fn may_pass_later(code: i32) -> bool {
    matches!(
        Code::try_from(code),
        Ok(Code::Busy
            | Code::RateLimited
            | Code::Overloaded
            | Code::Internal
            | Code::StorageUnavailable
            | Code::Draining)
    )
}

/// Whether what a reader has is void.
fn resets(code: i32) -> bool {
    matches!(Code::try_from(code), Ok(Code::EpochChanged | Code::PositionAhead))
}
