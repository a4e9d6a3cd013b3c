//! What is told once and not kept: who is there, who is writing. Pure.
//!
//! It goes to those who asked for it, encoded once per encoding for all shards, and only where there is
//! room: an outbox that is half full is left to messages, and none was ever full because of this. (What
//! a newcomer is told first is part of the reply, and is none of this.)
//! Who is writing is forgotten then. Who is there is told as a whole when there is room again, since
//! what comes next builds on it.

use std::{
    collections::HashMap,
    rc::Rc,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

use super::{ConnectionKey, Format, fanout::control_frame, outbox::Frame, presence::News};
use crate::{
    log::place::{ChannelId, UserId},
    wire::{Encoding, channels::PresenceView, encode::Control},
};

/// A connection that asked for what is not in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attendant {
    /// Whose outbox.
    pub connection: ConnectionKey,
    /// Which bytes.
    pub format: Format,
    /// Whose it is: nobody is told what they do themselves.
    pub user: UserId,
}

/// An event on its way out, the same for all shards.
#[derive(Debug)]
pub struct Announcement {
    /// The channel.
    pub channel: ChannelId,
    event: Event,
    /// The frames for most, by encoding.
    frames: [OnceLock<Bytes>; 2],
    /// The frames for who has missed one before.
    whole: [OnceLock<Bytes>; 2],
}

/// What is told.
#[derive(Debug)]
pub enum Event {
    /// Who is there.
    Presence(News),
    /// Who is writing. Ascending.
    Typing(Vec<UserId>),
}

impl Announcement {
    /// Who is there.
    #[must_use]
    pub fn presence(channel: ChannelId, news: News) -> Self {
        Self::new(channel, Event::Presence(news))
    }

    /// These are writing. Ascending.
    #[must_use]
    pub fn typing(channel: ChannelId, users: Vec<UserId>) -> Self {
        Self::new(channel, Event::Typing(users))
    }

    fn new(channel: ChannelId, event: Event) -> Self {
        Self { channel, event, frames: Default::default(), whole: Default::default() }
    }

    /// What is told.
    #[must_use]
    pub const fn event(&self) -> &Event {
        &self.event
    }

    /// What it keeps in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        let users = match &self.event {
            Event::Presence(news) => named(&news.changes) + named(&news.whole),
            Event::Typing(users) => users.len(),
        };
        size_of::<Self>() + users * size_of::<UserId>()
    }

    fn shared(&self, encoding: Encoding, is_whole: bool) -> &Bytes {
        let frames = if is_whole { &self.whole } else { &self.frames };
        frames[encoding as usize].get_or_init(|| {
            let control = match &self.event {
                Event::Presence(news) if is_whole => Control::Presence(news.whole.clone()),
                Event::Presence(news) => Control::Presence(news.changes.clone()),
                Event::Typing(users) => self.writing(users.clone()),
            };
            control_frame(Format::plain(encoding), &control)
        })
    }

    const fn writing(&self, users: Vec<UserId>) -> Control {
        Control::Typing { channel: self.channel, users }
    }

    const fn is_presence(&self) -> bool {
        matches!(self.event, Event::Presence(_))
    }

    /// The users that are writing, ascending.
    fn who_is_writing(&self) -> &[UserId] {
        match &self.event {
            Event::Presence(_) => &[],
            Event::Typing(users) => users,
        }
    }
}

/// How many users a view names.
#[must_use]
pub fn named(view: &PresenceView) -> usize {
    use crate::wire::channels::Named;
    match &view.named {
        Named::Everyone(users) => users.len(),
        Named::Changes { joined, left } => joined.len() + left.len(),
        Named::TooMany => 0,
    }
}

/// The connections of one shard that asked for what is not in the log of one channel.
#[derive(Debug, Default)]
pub struct Audience {
    attendants: HashMap<ConnectionKey, State>,
    /// Who was there last, for those who missed it.
    last: Option<Arc<Announcement>>,
    /// Somebody missed it and will be told.
    is_behind: bool,
}

#[derive(Clone, Copy, Debug)]
struct State {
    format: Format,
    user: UserId,
    /// It has missed who was there.
    is_behind: bool,
}

/// What became of an announcement.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Handed {
    /// So many got it.
    pub sent: u64,
    /// So many had no room for it.
    pub dropped: u64,
    /// [`Audience::catch_up`] is to be called after a while, and was not before.
    pub is_behind: bool,
}

impl Audience {
    /// Adds a connection.
    pub fn insert(&mut self, attendant: Attendant) {
        let Attendant { connection, format, user } = attendant;
        self.attendants.insert(connection, State { format, user, is_behind: false });
    }

    /// Takes a connection out. Not an error if it is none of them.
    pub fn remove(&mut self, connection: ConnectionKey) {
        self.attendants.remove(&connection);
    }

    /// Whether there is none, and [`Audience::catch_up`] is not to be called: it can be let go. If it were
    /// before that, who comes and goes would have it called once more each time.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.attendants.is_empty() && !self.is_behind
    }

    /// Hands an event to all whom it is for. `push` says whether there was room.
    pub fn hand(
        &mut self,
        announcement: &Arc<Announcement>,
        mut push: impl FnMut(ConnectionKey, Frame) -> bool,
    ) -> Handed {
        let mut handed = Handed::default();
        let mut frames: [[Option<Frame>; 2]; 2] = Default::default();
        let (is_presence, writing) = (announcement.is_presence(), announcement.who_is_writing());
        for (connection, state) in &mut self.attendants {
            let frame = if writing.binary_search(&state.user).is_ok() {
                if writing.len() == 1 {
                    continue;
                }
                let others = writing.iter().copied().filter(|it| *it != state.user).collect();
                Rc::new(control_frame(state.format, &announcement.writing(others)))
            } else {
                let (encoding, is_whole) = (state.format.encoding, is_presence && state.is_behind);
                let known = &mut frames[encoding as usize][usize::from(is_whole)];
                let shared = || Rc::new(announcement.shared(encoding, is_whole).clone());
                Rc::clone(known.get_or_insert_with(shared))
            };
            let is_sent = push(*connection, frame);
            handed.count(is_sent);
            if is_presence {
                state.is_behind = !is_sent;
            }
        }
        if is_presence {
            self.last = Some(Arc::clone(announcement));
            handed.is_behind = handed.dropped > 0 && !self.is_behind;
            self.is_behind |= handed.is_behind;
        }
        handed
    }

    /// Tells those who missed who was there, as far as there is room now. Called as often as it says
    /// that somebody is still behind.
    pub fn catch_up(&mut self, mut push: impl FnMut(ConnectionKey, Frame) -> bool) -> Handed {
        let mut handed = Handed::default();
        if let Some(last) = &self.last {
            for (connection, state) in &mut self.attendants {
                if state.is_behind {
                    let frame = last.shared(state.format.encoding, true).clone();
                    state.is_behind = !push(*connection, Rc::new(frame));
                    handed.count(!state.is_behind);
                }
            }
        }
        self.is_behind = handed.dropped > 0;
        handed.is_behind = self.is_behind;
        handed
    }

    /// Nobody is told any more what they missed.
    pub fn give_up(&mut self) {
        self.is_behind = false;
    }
}

impl Handed {
    const fn count(&mut self, is_sent: bool) {
        if is_sent { self.sent += 1 } else { self.dropped += 1 }
    }
}

#[cfg(test)]
mod tests;
