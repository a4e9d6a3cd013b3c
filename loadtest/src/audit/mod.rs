//! What must hold of a server's channels, checked against what its users saw. Pure.
//!
//! Three witnesses are compared: the acknowledgements that publishers got, the deliveries that
//! readers got, and history. Every reader has every sequence once and in order; every sequence means
//! the same message to all; nobody gets what it is not subscribed to; nothing is delivered that
//! history does not have at that moment; every acknowledged message is in history at its sequence;
//! and history holds nothing that nobody published, and nothing twice.
//!
//! Takes plain numbers and bytes, and shares no code with the server: a mistake there is not made
//! here as well.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap},
    hash::{BuildHasherDefault, Hasher},
    mem::discriminant,
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use violation::{Violation, Witness};

mod violation;

#[cfg(test)]
mod tests;

/// Violations that are kept as evidence, whatever they are. Beyond these one more of each other kind
/// is kept, so that a thousand of the one do not hide the other; the rest is counted.
const EVIDENCE_MAX: usize = 20;
/// How far beyond all that is known of a channel a sequence may be before it is taken for nonsense,
/// and not for a number to make room for.
const AHEAD_MAX: u64 = 1 << 20;
/// Sequences left out that are remembered, to tell a late delivery from a repeated one.
const HOLES_MAX: usize = 10_000;

/// A message by its author, its author's number for it, and its body. Never 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Digest(u64);

impl Digest {
    /// Hot: once per delivery.
    pub(crate) fn new(author: u32, id: u64, body: &[u8]) -> Self {
        // Odd factors, so that neither alone loses a bit, and both are everywhere in the seed.
        let seed = id.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
            ^ u64::from(author).wrapping_mul(0xd6e8_feb8_6659_fd93);
        Self(xxh3_64_with_seed(body, seed).max(1))
    }

    /// `None` for the 0 that stands for an unknown message.
    fn known(digest: u64) -> Option<Self> {
        (digest != 0).then_some(Self(digest))
    }
}

/// One subscription of one user, as the audit counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reader(u32);

impl Reader {
    const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One channel, as the audit counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place(u32);

impl Place {
    const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The audit of one run.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    readers: Vec<ReaderState>,
    places: Vec<PlaceState>,
    /// By place.
    names: Vec<String>,
    /// All publishes, by message and place.
    published: HashMap<u64, Published, BuildHasherDefault<AsItIs>>,
    /// How often history was read from its beginning.
    readings: u32,
    /// What was left out on the way to a reader, and may still come late.
    holes: Vec<(Reader, u64)>,
    /// Acknowledged messages that history does not have; each reading finds them again.
    acknowledged_lost: BTreeSet<(usize, u64)>,
    acknowledgements: u64,
    deliveries: u64,
    probed: u64,
    violations: u64,
    evidence: Vec<Violation>,
}

#[derive(Debug)]
struct ReaderState {
    place: Place,
    user: u32,
    status: Status,
    /// What it got last.
    last: u64,
    /// What had been acknowledged to anybody when it began to leave.
    due_at_leaving: u64,
    /// Sequences that were left out and have not come late.
    lost: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    Subscribed,
    Leaving,
    Left,
    GivenUp,
}

#[derive(Debug, Default)]
struct PlaceState {
    /// What is at each sequence, from 1, by the first witness. 0: no witness yet.
    known: Vec<u64>,
    /// What was acknowledged at each sequence, from 1. 0: nothing.
    acknowledged: Vec<u64>,
    /// The highest sequence that was acknowledged.
    acknowledged_to: u64,
    /// The highest sequence that a reader was told of.
    delivered_to: u64,
    /// What history was read up to.
    history: u64,
    /// The two from above when this reading of history began: what it must have.
    promised_acknowledged: u64,
    promised_delivered: u64,
}

impl PlaceState {
    /// Whether there is room for a message at this sequence, or it is nonsense.
    fn is_sane(&self, sequence: u64) -> bool {
        sequence > 0 && sequence <= (self.known.len() as u64).saturating_add(AHEAD_MAX)
    }

    /// What is known to be at this sequence, which must be sane: from now on this message, unless it
    /// was another before.
    fn agree(&mut self, sequence: u64, message: Digest) -> (Digest, Known) {
        match slot(&mut self.known, sequence) {
            known if *known == 0 => {
                *known = message.0;
                (message, Known::Now)
            }
            known => (Digest(*known), Known::Before),
        }
    }
}

/// Since when a message is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    Before,
    Now,
}

/// The place of a sequence, which is not 0, in a table that grows.
fn slot(table: &mut Vec<u64>, sequence: u64) -> &mut u64 {
    let index = sequence as usize - 1;
    if table.len() <= index {
        table.resize(index + 1, 0);
    }
    &mut table[index]
}

/// One message.
#[derive(Clone, Copy, Debug, Default)]
struct Published {
    /// Where the latest reading of history that met it met it. 0 and 0: none has.
    reading: u32,
    sequence: u64,
    /// The highest sequence of its channel that was known before it was published.
    known_to: u64,
}

/// The key of a message in a channel. The same id of an author may be another message elsewhere.
const fn key(place: Place, message: Digest) -> u64 {
    message.0 ^ (place.0 as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Keys that are hashes already are not hashed again.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// Who reads, and what it got.
impl Audit {
    /// An empty channel of this name.
    pub(crate) fn channel(&mut self, name: &str) -> Place {
        let place = u32::try_from(self.places.len()).expect("a run has fewer than 2^32 channels");
        self.places.push(PlaceState::default());
        self.names.push(name.to_owned());
        Place(place)
    }

    /// A user, by its number, subscribed for the first time, or again after it had left; everything
    /// after `head` is due to it.
    pub(crate) fn subscribed(&mut self, user: u32, place: Place, head: u64) -> Reader {
        let number = u32::try_from(self.readers.len()).expect("fewer than 2^32 subscriptions");
        let known = &mut self.places[place.index()];
        let mut last = head;
        if head > 0 && !known.is_sane(head) {
            self.absurd(place, Witness::User(user), head);
            last = 0;
        } else {
            known.delivered_to = known.delivered_to.max(head);
        }
        let status = Status::Subscribed;
        self.readers.push(ReaderState { place, user, status, last, due_at_leaving: 0, lost: 0 });
        Reader(number)
    }

    /// What the reader got last: where it resumes from.
    pub(crate) fn last(&self, reader: Reader) -> u64 {
        self.readers[reader.index()].last
    }

    /// The highest sequence that a reader was told of.
    pub(crate) fn delivered_to(&self, place: Place) -> u64 {
        self.places[place.index()].delivered_to
    }

    /// A reader got a message. Hot. Answers whether nobody was known to have this sequence before:
    /// then it is time to ask history for it.
    pub(crate) fn delivered(&mut self, reader: Reader, sequence: u64, message: Digest) -> bool {
        self.deliveries += 1;
        let state = &mut self.readers[reader.index()];
        let place = &mut self.places[state.place.index()];
        // In order, to a reader that has not left, and known: all but one delivery of a message.
        if sequence == state.last.wrapping_add(1)
            && state.status != Status::Left
            && place.known.get(state.last as usize) == Some(&message.0)
        {
            state.last = sequence;
            place.delivered_to = place.delivered_to.max(sequence);
            return false;
        }
        self.delivered_unlike(reader, sequence, message)
    }

    /// A delivery that is the first of its message, or a violation.
    #[cold]
    fn delivered_unlike(&mut self, reader: Reader, sequence: u64, message: Digest) -> bool {
        let ReaderState { place, user, last, status, .. } = self.readers[reader.index()];
        let witness = Witness::User(user);
        if status == Status::Left {
            self.violated(Violation::LeakAfterLeaving { place, user, sequence });
            return false;
        }
        if !self.places[place.index()].is_sane(sequence) {
            self.absurd(place, witness, sequence);
            return false;
        }
        self.reader_in_order(reader, sequence);
        self.readers[reader.index()].last = last.max(sequence);
        let channel = &mut self.places[place.index()];
        channel.delivered_to = channel.delivered_to.max(sequence);
        let (known, since) = channel.agree(sequence, message);
        if known != message {
            let came = message;
            self.violated(Violation::Differs { place, witness, sequence, known, came });
        }
        since == Known::Now
    }

    /// A user got messages of a channel that it is not subscribed to.
    pub(crate) fn leaked(&mut self, user: u32, channel_id: u32, first_sequence: u64) {
        self.violated(Violation::Leak { user, channel_id, first_sequence });
    }

    /// A reader was told to look for these messages in history, which it need not: history is read
    /// anyhow.
    pub(crate) fn skipped(&mut self, reader: Reader, from: u64, to: u64) {
        let ReaderState { place, user, last, .. } = self.readers[reader.index()];
        let channel = &mut self.places[place.index()];
        if !channel.is_sane(to) || from > to {
            return self.absurd(place, Witness::User(user), from.max(to));
        }
        channel.delivered_to = channel.delivered_to.max(to);
        self.reader_in_order(reader, from);
        self.readers[reader.index()].last = last.max(to);
    }

    /// A reader was told that what it has is void, and begins with the first message again.
    pub(crate) fn started_over(&mut self, reader: Reader, head: u64) {
        let state = &mut self.readers[reader.index()];
        let had = std::mem::take(&mut state.last);
        let (place, user) = (state.place, state.user);
        self.violated(Violation::StartedOver { place, user, had, head });
    }

    /// A reader is about to unsubscribe: all that is acknowledged to anybody by now is due to it.
    /// Only for a reader that is up to date: where messages are still being replayed to it, the
    /// server ends the replay at once.
    pub(crate) fn leaving(&mut self, reader: Reader) {
        let state = &mut self.readers[reader.index()];
        state.status = Status::Leaving;
        state.due_at_leaving = self.places[state.place.index()].acknowledged_to;
    }

    /// Its unsubscribe was answered: nothing more is due to it.
    pub(crate) fn left(&mut self, reader: Reader) {
        let state = &mut self.readers[reader.index()];
        let was_leaving = state.status == Status::Leaving;
        state.status = Status::Left;
        if was_leaving {
            self.missed_leaving(reader);
        }
    }

    fn missed_leaving(&mut self, reader: Reader) {
        let state = &mut self.readers[reader.index()];
        let &mut ReaderState { place, user, last: last_seen, due_at_leaving: due, .. } = state;
        if last_seen < due {
            state.lost = state.lost.saturating_add(due - last_seen);
            self.violated(Violation::MissedLeaving { place, user, last_seen, due });
        }
    }

    /// A reader is given up without an audit of its end: it was slow on purpose, and was closed.
    pub(crate) fn given_up(&mut self, reader: Reader) {
        self.readers[reader.index()].status = Status::GivenUp;
    }

    /// A login was answered as it may not be.
    pub(crate) fn misjudged(&mut self, what: String) {
        self.violated(Violation::Misjudged { what });
    }

    /// A user ended by itself, or was refused what it must not be refused.
    pub(crate) fn ended(&mut self, user: u32, error: String) {
        self.violated(Violation::Ended { user, error });
    }

    /// Whether every reader that has not left has got everything up to the head. Looks at every
    /// reader: not for every turn of a loop.
    pub(crate) fn is_complete(&self, place: Place, head: u64) -> bool {
        self.readers.iter().filter(|reader| reader.place == place).all(|reader| {
            match reader.status {
                Status::Subscribed => reader.last >= head,
                Status::Leaving => reader.last >= reader.due_at_leaving.min(head),
                Status::Left | Status::GivenUp => true,
            }
        })
    }

    /// Nothing more comes: whoever has not got everything up to the head has missed it. To be called
    /// once.
    pub(crate) fn end_delivery(&mut self, place: Place, head: u64) {
        for index in 0..self.readers.len() {
            let state = &mut self.readers[index];
            if state.place != place {
                continue;
            }
            let (user, last_seen) = (state.user, state.last);
            match state.status {
                Status::Subscribed if last_seen < head => {
                    state.lost = state.lost.saturating_add(head - last_seen);
                    self.violated(Violation::Missed { place, user, last_seen, head });
                }
                // Whoever was still about to leave is owed no more than if it had.
                Status::Leaving => self.missed_leaving(Reader(index as u32)),
                Status::Subscribed | Status::Left | Status::GivenUp => {}
            }
        }
    }

    /// Compares what came with what was due, and notes what was left out.
    fn reader_in_order(&mut self, reader: Reader, came: u64) {
        let state = &mut self.readers[reader.index()];
        let (place, user, due) = (state.place, state.user, state.last.saturating_add(1));
        match came.cmp(&due) {
            Ordering::Equal => {}
            Ordering::Greater => {
                state.lost = state.lost.saturating_add(came - due);
                let room = HOLES_MAX.saturating_sub(self.holes.len());
                self.holes.extend((due..came).take(room).map(|hole| (reader, hole)));
                let witness = Witness::User(user);
                self.violated(Violation::Gap { place, witness, due, came });
            }
            Ordering::Less => {
                match self.holes.iter().position(|hole| *hole == (reader, came)) {
                    Some(hole) => {
                        self.holes.swap_remove(hole);
                        state.lost -= 1;
                        self.violated(Violation::Late { place, user, due, came });
                    }
                    None => {
                        let witness = Witness::User(user);
                        self.violated(Violation::Repeat { place, witness, due, came });
                    }
                };
            }
        }
    }
}

/// Who publishes, and what was promised to it.
impl Audit {
    /// A message is about to be published, the first time or again. Whether it will be is open.
    pub(crate) fn publishing(&mut self, place: Place, message: Digest) {
        let it = &self.places[place.index()];
        let known_to = it.delivered_to.max(it.acknowledged_to);
        // When it is published again, what was known at the first time is what counts.
        let new = || Published { known_to, ..Published::default() };
        self.published.entry(key(place, message)).or_insert_with(new);
    }

    /// Messages that were published so far, in all channels.
    pub(crate) fn published(&self) -> u64 {
        self.published.len() as u64
    }

    /// A publish was acknowledged.
    pub(crate) fn acknowledged(&mut self, place: Place, sequence: u64, message: Digest) {
        self.acknowledgements += 1;
        let witness = Witness::Acknowledgement;
        let channel = &mut self.places[place.index()];
        if !channel.is_sane(sequence) {
            return self.absurd(place, witness, sequence);
        }
        channel.acknowledged_to = channel.acknowledged_to.max(sequence);
        let (mut known, _) = channel.agree(sequence, message);
        // The first promise stands; a second one for the same sequence is found against it.
        let promised = slot(&mut channel.acknowledged, sequence);
        match Digest::known(*promised) {
            None => *promised = message.0,
            Some(first) if first != message => known = first,
            Some(_) => {}
        }
        if known != message {
            let came = message;
            self.violated(Violation::Differs { place, witness, sequence, known, came });
        }
    }
}

/// What history has.
impl Audit {
    /// History was asked for `sequence` after somebody had got it, and answered with this head and
    /// the message at it, if it had one.
    pub(crate) fn probed(
        &mut self,
        place: Place,
        sequence: u64,
        head: u64,
        message: Option<Digest>,
    ) {
        self.probed += 1;
        let index = (sequence as usize).wrapping_sub(1);
        let known = self.places[place.index()].known.get(index).copied().and_then(Digest::known);
        if head < sequence || message.is_none() || message != known {
            self.violated(Violation::BeforeCommit { place, sequence, head });
        }
    }

    /// History is read from the beginning.
    pub(crate) fn begin_history(&mut self) {
        self.readings += 1;
        self.places.iter_mut().for_each(|place| place.history = 0);
        self.go_on_with_history();
    }

    /// History is read on from where it was read up to. Whatever was acknowledged or delivered by
    /// now it must have.
    pub(crate) fn go_on_with_history(&mut self) {
        for place in &mut self.places {
            place.promised_acknowledged = place.acknowledged_to;
            place.promised_delivered = place.delivered_to;
        }
    }

    /// Whether something beyond this end of history came to be known only after its reading began.
    /// Then history is to be read on: nobody knows whether it has it.
    pub(crate) fn is_overtaken(&self, place: Place, head: u64) -> bool {
        let it = &self.places[place.index()];
        let is_beyond = |known: u64, promised: u64| known > promised && known > head;
        is_beyond(it.acknowledged_to, it.promised_acknowledged)
            || is_beyond(it.delivered_to, it.promised_delivered)
    }

    /// Up to where history was read.
    pub(crate) fn history_read(&self, place: Place) -> u64 {
        self.places[place.index()].history
    }

    /// The next message of history.
    pub(crate) fn history(&mut self, place: Place, sequence: u64, message: Digest) {
        let witness = Witness::History;
        let channel = &mut self.places[place.index()];
        let due = channel.history.saturating_add(1);
        // Goes on in any case, so that whoever reads it comes to an end.
        channel.history = channel.history.max(sequence);
        let is_sane = channel.is_sane(sequence);
        match sequence.cmp(&due) {
            _ if !is_sane => return self.absurd(place, witness, sequence),
            Ordering::Equal => {}
            Ordering::Greater => {
                self.violated(Violation::Gap { place, witness, due, came: sequence });
            }
            Ordering::Less => {
                self.violated(Violation::Repeat { place, witness, due, came: sequence });
            }
        }
        let channel = &mut self.places[place.index()];
        let (known, _) = channel.agree(sequence, message);
        let promised = channel.acknowledged.get(sequence as usize - 1).copied();
        match promised.and_then(Digest::known) {
            Some(promised) if promised != message => {
                self.acknowledged_lost.insert((place.index(), sequence));
                self.violated(Violation::Lost { place, sequence, head: sequence });
            }
            _ if known != message => {
                let came = message;
                self.violated(Violation::Differs { place, witness, sequence, known, came });
            }
            _ => {}
        }
        self.once_and_ours(place, sequence, message);
    }

    /// Whether somebody published what history has, and no earlier place has it.
    fn once_and_ours(&mut self, place: Place, sequence: u64, message: Digest) {
        match self.published.get_mut(&key(place, message)) {
            Some(published) => {
                let now = Published { reading: self.readings, sequence, ..*published };
                let before = std::mem::replace(published, now);
                if sequence <= now.known_to {
                    let known_to = now.known_to;
                    self.violated(Violation::Backdated { place, sequence, known_to });
                }
                if before.reading == now.reading && ![0, sequence].contains(&before.sequence) {
                    let before = before.sequence;
                    self.violated(Violation::Twice { place, before, sequence });
                }
            }
            None => {
                let is_from = |other: &Place| self.published.contains_key(&key(*other, message));
                let published_in = (0..self.places.len() as u32).map(Place).find(is_from);
                self.violated(Violation::Foreign { place, sequence, published_in });
            }
        }
    }

    /// History ends here. Whatever was acknowledged or delivered before this reading of history
    /// began, or was gone on with, lies before its end.
    pub(crate) fn end_history(&mut self, place: Place, head: u64) {
        let channel = &self.places[place.index()];
        let (read, last_seen) = (channel.history, channel.promised_delivered);
        let missing: Vec<u64> = (head.saturating_add(1)..=channel.promised_acknowledged)
            .filter(|sequence| channel.acknowledged[*sequence as usize - 1] != 0)
            .collect();
        if read < head {
            self.violated(Violation::CutShort { place, read, head });
        }
        for sequence in missing {
            self.acknowledged_lost.insert((place.index(), sequence));
            self.violated(Violation::Lost { place, sequence, head });
        }
        if last_seen > head {
            self.violated(Violation::Vanished { place, last_seen, head });
        }
    }
}

/// What came of it.
impl Audit {
    /// Deliveries so far.
    pub(crate) fn deliveries(&self) -> u64 {
        self.deliveries
    }

    /// Acknowledgements so far.
    pub(crate) fn acknowledgements(&self) -> u64 {
        self.acknowledgements
    }

    /// Violations so far.
    pub(crate) fn violations(&self) -> u64 {
        self.violations
    }

    pub(crate) fn findings(&self) -> Findings {
        let readers = self.readers.iter().filter(|reader| reader.status != Status::GivenUp);
        let sentence = |violation: &Violation| violation.sentence(&self.names).to_string();
        Findings {
            violations: self.violations,
            evidence: self.evidence.iter().map(sentence).collect(),
            lost: readers.map(|reader| reader.lost).fold(0, u64::saturating_add),
            acknowledged_lost: self.acknowledged_lost.len() as u64,
            probed: self.probed,
        }
    }

    fn absurd(&mut self, place: Place, witness: Witness, sequence: u64) {
        let known = self.places[place.index()].known.len() as u64;
        self.violated(Violation::Absurd { place, witness, sequence, known });
    }

    fn violated(&mut self, violation: Violation) {
        self.violations += 1;
        let is_first_of_its_kind =
            || self.evidence.iter().all(|it| discriminant(it) != discriminant(&violation));
        if self.evidence.len() < EVIDENCE_MAX || is_first_of_its_kind() {
            self.evidence.push(violation);
        }
    }
}

/// What the audit found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    pub(crate) violations: u64,
    /// The first of them, a sentence each.
    pub(crate) evidence: Vec<String>,
    /// Deliveries that were due and did not come.
    pub(crate) lost: u64,
    /// Acknowledged messages that history does not have.
    pub(crate) acknowledged_lost: u64,
    /// Messages that history was asked for as soon as they were delivered.
    pub(crate) probed: u64,
}
