//! The user who is in no channel: it makes them, asks history for what others have just got, and
//! reads all of history at the end.

use std::collections::VecDeque;

use hubbub::wire::proto::{self, client_envelope};

use super::{Command, Stage, User};
use crate::{audit::Digest, swarm::world::World};

/// Channels that are being made at once.
const MAKING_MAX: usize = 32;
/// The server allows as many history reads per connection.
const INQUIRIES_MAX: u32 = 2;
/// Probes that wait. One more is left out: they are a sample anyhow.
const PROBES_MAX: usize = 64;
/// The largest page that the server answers.
const PAGE_MESSAGES: u32 = 200;

/// What history is asked for, in which of all channels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Inquiry {
    /// This one message, which somebody has.
    Probe { channel: u32, sequence: u64 },
    /// The next page.
    Page { channel: u32 },
}

/// What the witness has in mind.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// Channels that were asked for, and that are there.
    asked: usize,
    made: usize,
    /// Channels to be asked for again.
    unmade: Vec<usize>,
    under_way: u32,
    probes: VecDeque<(u32, u64)>,
    readings: Vec<Reading>,
    hold_until_us: u64,
    /// When it last got on. `None`: it has not begun.
    pub(crate) moved_us: Option<u64>,
}

/// How far one channel's history is read.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    is_asked: bool,
    /// Its end, once it is reached.
    head: Option<u64>,
}

impl Witness {
    /// Somebody has a message that nobody had before.
    pub(crate) fn notice(&mut self, channel: u32, sequence: u64) {
        if self.probes.len() < PROBES_MAX {
            self.probes.push_back((channel, sequence));
        }
    }

    /// Whether there is something that it could ask now.
    pub(crate) fn is_curious(&self) -> bool {
        self.under_way < INQUIRIES_MAX && !self.probes.is_empty()
    }

    pub(crate) fn has_made(&self, channels: usize) -> bool {
        self.made >= channels
    }

    /// History is to be read from the beginning.
    pub(crate) fn begin(&mut self, channels: usize) {
        self.probes.clear();
        self.readings = vec![Reading::default(); channels];
    }

    /// The heads of all channels, once all are read.
    pub(crate) fn heads(&self) -> Option<Vec<u64>> {
        self.readings.iter().map(|it| it.head).collect()
    }

    /// All that was asked on the connection is void. Answers whether it can be asked again: whether
    /// a channel was made or not, nobody knows.
    pub(crate) fn disconnected(&mut self) -> bool {
        self.under_way = 0;
        self.hold_until_us = 0;
        self.readings.iter_mut().for_each(|it| it.is_asked = false);
        self.asked == self.made + self.unmade.len()
    }

    /// Put off until then.
    pub(super) fn refused(&mut self, command: Command, until_us: u64) {
        self.hold_until_us = until_us;
        match command {
            Command::CreateChannel(index) => self.unmade.push(index),
            Command::History(Inquiry::Page { channel }) => {
                self.under_way -= 1;
                self.readings[channel as usize].is_asked = false;
            }
            // Its moment is over.
            Command::History(Inquiry::Probe { .. }) => self.under_way -= 1,
            Command::Subscribe(_) | Command::Unsubscribe(_) | Command::Authenticate => {}
        }
    }

    /// The next channel to be made.
    fn next_unmade(&mut self, channels: usize) -> Option<usize> {
        if self.asked - self.made - self.unmade.len() >= MAKING_MAX {
            return None;
        }
        self.unmade.pop().or_else(|| {
            let next = self.asked;
            self.asked += usize::from(next < channels);
            (next < channels).then_some(next)
        })
    }

    fn next(&mut self) -> Option<Inquiry> {
        if let Some((channel, sequence)) = self.probes.pop_front() {
            return Some(Inquiry::Probe { channel, sequence });
        }
        let channel = self.readings.iter().position(|it| !it.is_asked && it.head.is_none())?;
        self.readings[channel].is_asked = true;
        Some(Inquiry::Page { channel: u32::try_from(channel).ok()? })
    }
}

impl User {
    /// Asks for as much as may be under way.
    pub(crate) fn inquire(&mut self, world: &mut World) {
        if self.stage != Stage::Ready || world.witness.hold_until_us > world.now_us {
            return;
        }
        while let Some(index) = world.witness.next_unmade(world.channels.len()) {
            let channel_name = world.channels[index].name.clone();
            let create = proto::CreateChannel { channel_name, ..Default::default() };
            let command = client_envelope::Command::CreateChannel(create);
            self.ask(Command::CreateChannel(index), command, world);
        }
        while world.witness.under_way < INQUIRIES_MAX
            && let Some(inquiry) = world.witness.next()
        {
            world.witness.under_way += 1;
            let (channel, after, limit) = match inquiry {
                Inquiry::Probe { channel, sequence } => (channel, sequence - 1, 1),
                Inquiry::Page { channel } => {
                    let place = world.channels[channel as usize].place;
                    (channel, world.books.audit.history_read(place), PAGE_MESSAGES)
                }
            };
            let id = world.channels[channel as usize].id;
            let history = proto::History {
                channel: Some(proto::history::Channel::ChannelId(id)),
                from: Some(proto::history::From::AfterSequence(after)),
                limit,
            };
            let command = client_envelope::Command::History(history);
            self.ask(Command::History(inquiry), command, world);
        }
    }

    /// A channel is there.
    pub(super) fn created(&mut self, index: usize, channel_id: u32, world: &mut World) {
        world.channels[index].id = channel_id;
        world.witness.made += 1;
        world.witness.moved_us = Some(world.now_us);
        self.inquire(world);
    }

    /// History has answered.
    pub(super) fn informed(
        &mut self,
        inquiry: Inquiry,
        page: &proto::HistoryPage,
        world: &mut World,
    ) {
        world.witness.under_way -= 1;
        let audit = &mut world.books.audit;
        match inquiry {
            Inquiry::Probe { channel, sequence } => {
                let place = world.channels[channel as usize].place;
                let found = messages(page).find(|it| it.0 == sequence);
                audit.probed(place, sequence, page.head_sequence, found.map(|it| it.1));
            }
            Inquiry::Page { channel } => {
                let place = world.channels[channel as usize].place;
                let before = audit.history_read(place);
                for (sequence, digest) in messages(page) {
                    audit.history(place, sequence, digest);
                }
                let read = audit.history_read(place);
                world.witness.moved_us = Some(world.now_us);
                // Who answers ever more than was ever published would never come to an end.
                let is_endless = read > audit.published() + u64::from(PAGE_MESSAGES);
                let reading = &mut world.witness.readings[channel as usize];
                reading.is_asked = false;
                // A page that brings nothing ends it too: the audit finds what is missing.
                if read >= page.head_sequence || read == before || is_endless {
                    audit.end_history(place, page.head_sequence);
                    reading.head = Some(page.head_sequence);
                }
            }
        }
        self.inquire(world);
    }
}

fn messages(page: &proto::HistoryPage) -> impl Iterator<Item = (u64, Digest)> {
    page.runs.iter().flat_map(|run| {
        (0..).zip(&run.records).map(|(place, record)| {
            let sequence = run.first_sequence.saturating_add(place);
            let body = match &record.content {
                Some(proto::record::Content::Body(body)) => body.as_bytes(),
                _ => &[],
            };
            (sequence, Digest::new(record.user_id, record.client_message_id, body))
        })
    })
}
