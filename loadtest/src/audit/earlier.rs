//! What must hold of a server's channels, checked against what its users saw. Pure.
//!
//! Three witnesses are compared: the acknowledgements that writers got, the deliveries that readers
//! got, and history. Every reader has every sequence once and in order; every sequence means the
//! same message to all; every acknowledged message is in history at its sequence; and history holds
//! nothing that nobody published, and nothing twice.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use hubbub::{
    client::Message,
    log::place::{ClientMessageId, Sequence, UserId},
};

/// Violations that are kept as evidence. Those beyond are counted.
const EVIDENCE_MAX: usize = 20;

/// A message by its author, its author's number for it, and its body.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    pub(crate) fn new(user: UserId, id: ClientMessageId, body: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        (user, id, body).hash(&mut hasher);
        Self(hasher.finish())
    }

    pub(crate) fn of(message: &Message) -> Self {
        let id = message.client_message_id.unwrap_or(ClientMessageId(0));
        Self::new(message.user, id, &message.body)
    }
}

/// Who saw something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Witness {
    Reader(usize),
    Writer,
    History,
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reader(reader) => write!(f, "reader {reader}"),
            Self::Writer => f.write_str("an acknowledgement"),
            Self::History => f.write_str("history"),
        }
    }
}

/// Something that must not happen, in the channel of this index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Violation {
    /// Sequences were left out.
    Gap { channel: usize, witness: Witness, due: u64, came: u64 },
    /// A sequence came again, or late.
    Repeat { channel: usize, witness: Witness, due: u64, came: u64 },
    /// A sequence means one message to one witness and another to this one.
    Differs { channel: usize, witness: Witness, sequence: u64 },
    /// A reader was told that what it has is void.
    StartedOver { channel: usize, reader: usize, had: u64, head: u64 },
    /// An acknowledged message is not in history at its sequence.
    Lost { channel: usize, sequence: u64, head: u64 },
    /// A delivered message is not in history.
    Vanished { channel: usize, last_seen: u64, head: u64 },
    /// A message is in history twice.
    Twice { channel: usize, sequence: u64 },
    /// A message that nobody published, or with another body.
    Foreign { channel: usize, sequence: u64 },
    /// A reader did not get everything.
    Missed { channel: usize, reader: usize, last_seen: u64, head: u64 },
    /// A client ended, which none may do.
    Ended { who: String, error: String },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap { channel, witness, due, came } => {
                write!(f, "gap: {witness} of channel {channel} got {came} where {due} was due")
            }
            Self::Repeat { channel, witness, due, came } => {
                write!(f, "repeat: {witness} of channel {channel} got {came}, {due} was due")
            }
            Self::Differs { channel, witness, sequence } => {
                write!(f, "{witness} of channel {channel} has another message at {sequence}")
            }
            Self::StartedOver { channel, reader, had, head } => write!(
                f,
                "reader {reader} of channel {channel} had {had} and was sent back: it ends at {head}"
            ),
            Self::Lost { channel, sequence, head } => write!(
                f,
                "lost: {sequence} of channel {channel} was acknowledged; history ends at {head}"
            ),
            Self::Vanished { channel, last_seen, head } => write!(
                f,
                "channel {channel} was delivered up to {last_seen}; history ends at {head}"
            ),
            Self::Twice { channel, sequence } => {
                write!(f, "twice: the message at {sequence} of channel {channel} was there before")
            }
            Self::Foreign { channel, sequence } => {
                write!(f, "nobody published what is at {sequence} of channel {channel}")
            }
            Self::Missed { channel, reader, last_seen, head } => write!(
                f,
                "reader {reader} of channel {channel} got up to {last_seen}, the channel has {head}"
            ),
            Self::Ended { who, error } => write!(f, "{who} ended: {error}"),
        }
    }
}

/// The audit of one run.
#[derive(Debug)]
pub(crate) struct Audit {
    channels: Vec<Channel>,
    /// All publishes, and the number of the reading of history that saw each last.
    published: HashMap<Fingerprint, u32>,
    readings: u32,
    deliveries: u64,
    acknowledged: u64,
    /// By channel and sequence; each reading of history finds them again.
    lost: BTreeSet<(usize, u64)>,
    evidence: Vec<Violation>,
    violations: u64,
}

#[derive(Clone, Debug)]
struct Channel {
    /// What is at each sequence, from 1, by the first witness. `None`: no witness yet.
    known: Vec<Option<Fingerprint>>,
    acknowledged: BTreeMap<u64, Fingerprint>,
    /// What each reader got last.
    readers: Vec<u64>,
    /// What history was read up to.
    history: u64,
}

impl Channel {
    /// Whether the sequence means this message to everybody so far.
    fn agrees(&mut self, sequence: u64, message: Fingerprint) -> bool {
        let Some(index) = sequence.checked_sub(1).and_then(|it| usize::try_from(it).ok()) else {
            return false;
        };
        if self.known.len() <= index {
            self.known.resize(index + 1, None);
        }
        *self.known[index].get_or_insert(message) == message
    }
}

impl Audit {
    /// For channels that all are empty, each with this many readers.
    pub(crate) fn new(channels: usize, readers: usize) -> Self {
        let channel = Channel {
            known: Vec::new(),
            acknowledged: BTreeMap::new(),
            readers: vec![0; readers],
            history: 0,
        };
        Self {
            channels: vec![channel; channels],
            published: HashMap::new(),
            readings: 0,
            deliveries: 0,
            acknowledged: 0,
            lost: BTreeSet::new(),
            evidence: Vec::new(),
            violations: 0,
        }
    }

    /// A message is about to be published. Whether it will be is open.
    pub(crate) fn publishing(&mut self, message: Fingerprint) {
        self.published.insert(message, 0);
    }

    /// A publish was acknowledged.
    pub(crate) fn acknowledged(&mut self, channel: usize, at: Sequence, message: Fingerprint) {
        self.acknowledged += 1;
        let sequence = at.0;
        let agrees = self.channels[channel].agrees(sequence, message);
        // The first promise stands; a second one for the same place is found against it.
        let places = &mut self.channels[channel].acknowledged;
        let is_second = *places.entry(sequence).or_insert(message) != message;
        if !agrees || is_second {
            self.violated(Violation::Differs { channel, witness: Witness::Writer, sequence });
        }
    }

    /// A reader got a message.
    pub(crate) fn delivered(
        &mut self,
        channel: usize,
        reader: usize,
        at: Sequence,
        message: Fingerprint,
    ) {
        self.deliveries += 1;
        let last = self.channels[channel].readers[reader];
        self.in_order(channel, Witness::Reader(reader), last, at.0);
        let place = &mut self.channels[channel];
        place.readers[reader] = last.max(at.0);
        if !place.agrees(at.0, message) {
            let witness = Witness::Reader(reader);
            self.violated(Violation::Differs { channel, witness, sequence: at.0 });
        }
    }

    /// A reader was told to look for these messages in history, which it need not: history is read
    /// anyhow.
    pub(crate) fn skipped(&mut self, channel: usize, reader: usize, from: Sequence, to: Sequence) {
        let last = self.channels[channel].readers[reader];
        self.in_order(channel, Witness::Reader(reader), last, from.0);
        self.channels[channel].readers[reader] = last.max(to.0);
    }

    /// A reader was told that what it has is void.
    pub(crate) fn started_over(&mut self, channel: usize, reader: usize, head: Sequence) {
        let had = std::mem::take(&mut self.channels[channel].readers[reader]);
        self.violated(Violation::StartedOver { channel, reader, had, head: head.0 });
    }

    /// A client ended by itself.
    pub(crate) fn ended(&mut self, who: String, error: String) {
        self.violated(Violation::Ended { who, error });
    }

    /// History is read from the beginning.
    pub(crate) fn begin_history(&mut self) {
        self.readings += 1;
        self.channels.iter_mut().for_each(|channel| channel.history = 0);
    }

    /// Up to where history was read.
    pub(crate) fn history_read(&self, channel: usize) -> Sequence {
        Sequence(self.channels[channel].history)
    }

    /// The next message of history.
    pub(crate) fn history(&mut self, channel: usize, at: Sequence, message: Fingerprint) {
        let sequence = at.0;
        let last = self.channels[channel].history;
        self.in_order(channel, Witness::History, last, sequence);
        let place = &mut self.channels[channel];
        place.history = last.max(sequence);
        let agrees = place.agrees(sequence, message);
        let lost = place.acknowledged.get(&sequence).is_some_and(|it| *it != message);
        let head = place.history;
        if lost {
            self.lost.insert((channel, sequence));
            self.violated(Violation::Lost { channel, sequence, head });
        } else if !agrees {
            self.violated(Violation::Differs { channel, witness: Witness::History, sequence });
        }
        let reading = self.readings;
        match self.published.insert(message, reading) {
            Some(before) if before < reading => {}
            Some(_) => self.violated(Violation::Twice { channel, sequence }),
            None => {
                self.published.remove(&message);
                self.violated(Violation::Foreign { channel, sequence });
            }
        }
    }

    /// History ends here. Whatever was acknowledged or delivered before this reading of history
    /// began lies before its end.
    pub(crate) fn end_history(&mut self, channel: usize, head: Sequence, seen: &Seen) {
        let head = head.0;
        if self.channels[channel].history < head {
            let (witness, due) = (Witness::History, self.channels[channel].history + 1);
            self.violated(Violation::Gap { channel, witness, due, came: head + 1 });
        }
        let missing: Vec<u64> = self.channels[channel]
            .acknowledged
            .range(head + 1..)
            .map(|(sequence, _)| *sequence)
            .take_while(|sequence| *sequence <= seen.acknowledged[channel])
            .collect();
        for sequence in missing {
            self.lost.insert((channel, sequence));
            self.violated(Violation::Lost { channel, sequence, head });
        }
        let last_seen = seen.delivered[channel];
        if last_seen > head {
            self.violated(Violation::Vanished { channel, last_seen, head });
        }
    }

    /// What has been promised up to now.
    pub(crate) fn seen(&self) -> Seen {
        let last = |channel: &Channel| channel.acknowledged.last_key_value().map_or(0, |it| *it.0);
        let delivered = |channel: &Channel| channel.readers.iter().copied().max().unwrap_or(0);
        Seen {
            acknowledged: self.channels.iter().map(last).collect(),
            delivered: self.channels.iter().map(delivered).collect(),
        }
    }

    /// Whether every reader has got everything up to the head.
    pub(crate) fn is_complete(&self, channel: usize, head: Sequence) -> bool {
        self.channels[channel].readers.iter().all(|last| *last >= head.0)
    }

    /// Nothing more comes: whoever has not got everything has missed it.
    pub(crate) fn end_delivery(&mut self, channel: usize, head: Sequence) {
        for reader in 0..self.channels[channel].readers.len() {
            let last_seen = self.channels[channel].readers[reader];
            if last_seen < head.0 {
                self.violated(Violation::Missed { channel, reader, last_seen, head: head.0 });
            }
        }
    }

    /// Deliveries that are missing up to the heads.
    pub(crate) fn missed(&self, channel: usize, head: Sequence) -> u64 {
        self.channels[channel].readers.iter().map(|last| head.0.saturating_sub(*last)).sum()
    }

    pub(crate) fn deliveries(&self) -> u64 {
        self.deliveries
    }

    pub(crate) fn acknowledgements(&self) -> u64 {
        self.acknowledged
    }

    /// Acknowledged messages that history does not have.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.len() as u64
    }

    pub(crate) fn violations(&self) -> u64 {
        self.violations
    }

    /// The first violations.
    pub(crate) fn evidence(&self) -> &[Violation] {
        &self.evidence
    }

    fn in_order(&mut self, channel: usize, witness: Witness, last: u64, came: u64) {
        let due = last + 1;
        match came.cmp(&due) {
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Greater => {
                self.violated(Violation::Gap { channel, witness, due, came });
            }
            std::cmp::Ordering::Less => {
                self.violated(Violation::Repeat { channel, witness, due, came });
            }
        }
    }

    fn violated(&mut self, violation: Violation) {
        self.violations += 1;
        if self.evidence.len() < EVIDENCE_MAX {
            self.evidence.push(violation);
        }
    }
}

/// What had been promised at one moment, by channel: the last sequence that was acknowledged, and
/// the last that was delivered.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    acknowledged: Vec<u64>,
    delivered: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(n: u64) -> Fingerprint {
        Fingerprint::new(UserId(7), ClientMessageId(n), "body")
    }

    /// Three messages that two readers and history have; the third is not acknowledged.
    fn sound() -> Audit {
        let mut audit = Audit::new(1, 2);
        for n in 1..=3 {
            audit.publishing(message(n));
            audit.delivered(0, 0, Sequence(n), message(n));
            audit.delivered(0, 1, Sequence(n), message(n));
            if n < 3 {
                audit.acknowledged(0, Sequence(n), message(n));
            }
        }
        audit
    }

    fn read_history(audit: &mut Audit, messages: &[u64]) {
        let seen = audit.seen();
        audit.begin_history();
        for (n, at) in messages.iter().zip(1..) {
            audit.history(0, Sequence(at), message(*n));
        }
        audit.end_history(0, Sequence(messages.len() as u64), &seen);
    }

    fn only(audit: &Audit) -> &Violation {
        assert_eq!(audit.violations(), 1, "{:?}", audit.evidence());
        &audit.evidence()[0]
    }

    #[test]
    fn a_sound_run_has_no_violation_however_often_history_is_read() {
        let mut audit = sound();
        read_history(&mut audit, &[1, 2, 3]);
        read_history(&mut audit, &[1, 2, 3]);
        audit.end_delivery(0, Sequence(3));
        assert_eq!(audit.evidence(), []);
        assert_eq!((audit.deliveries(), audit.acknowledgements(), audit.lost()), (6, 2, 0));
    }

    #[test]
    fn a_lost_acknowledged_message_is_found_at_the_end_and_in_the_middle() {
        let mut audit = Audit::new(1, 0);
        for n in 1..=4 {
            audit.publishing(message(n));
        }
        audit.acknowledged(0, Sequence(1), message(1));
        audit.acknowledged(0, Sequence(2), message(2));
        read_history(&mut audit, &[1]);
        assert_eq!(only(&audit), &Violation::Lost { channel: 0, sequence: 2, head: 1 });
        let mut audit = sound();
        audit.publishing(message(4));
        read_history(&mut audit, &[4, 2, 3]);
        assert_eq!(only(&audit), &Violation::Lost { channel: 0, sequence: 1, head: 1 });
        assert_eq!(audit.lost(), 1);
    }

    #[test]
    fn an_acknowledgement_after_the_reading_began_is_not_lost() {
        let mut audit = Audit::new(1, 0);
        audit.publishing(message(1));
        let seen = audit.seen();
        audit.begin_history();
        audit.acknowledged(0, Sequence(1), message(1));
        audit.end_history(0, Sequence(0), &seen);
        assert_eq!(audit.evidence(), []);
    }

    #[test]
    fn a_delivered_message_that_history_lacks_has_vanished() {
        let mut audit = sound();
        read_history(&mut audit, &[1, 2]);
        assert_eq!(only(&audit), &Violation::Vanished { channel: 0, last_seen: 3, head: 2 });
    }

    #[test]
    fn a_changed_body_is_found_in_history_and_in_a_delivery() {
        let other = Fingerprint::new(UserId(7), ClientMessageId(3), "another body");
        let mut audit = sound();
        audit.begin_history();
        audit.history(0, Sequence(1), message(1));
        audit.history(0, Sequence(2), message(2));
        audit.history(0, Sequence(3), other);
        let (witness, sequence) = (Witness::History, 3);
        assert_eq!(audit.evidence()[0], Violation::Differs { channel: 0, witness, sequence });
        assert_eq!(audit.evidence()[1], Violation::Foreign { channel: 0, sequence });
        let mut audit = Audit::new(1, 2);
        audit.delivered(0, 0, Sequence(1), message(1));
        audit.delivered(0, 1, Sequence(1), other);
        let (witness, sequence) = (Witness::Reader(1), 1);
        assert_eq!(only(&audit), &Violation::Differs { channel: 0, witness, sequence });
    }

    #[test]
    fn a_gap_and_a_repeat_of_a_reader_are_found() {
        let mut audit = Audit::new(1, 1);
        audit.delivered(0, 0, Sequence(1), message(1));
        audit.delivered(0, 0, Sequence(3), message(3));
        let witness = Witness::Reader(0);
        assert_eq!(only(&audit), &Violation::Gap { channel: 0, witness, due: 2, came: 3 });
        let mut audit = Audit::new(1, 1);
        audit.delivered(0, 0, Sequence(1), message(1));
        audit.delivered(0, 0, Sequence(1), message(1));
        assert_eq!(only(&audit), &Violation::Repeat { channel: 0, witness, due: 2, came: 1 });
    }

    #[test]
    fn messages_that_a_reader_may_skip_are_no_gap() {
        let mut audit = Audit::new(1, 1);
        audit.delivered(0, 0, Sequence(1), message(1));
        audit.skipped(0, 0, Sequence(2), Sequence(9));
        audit.delivered(0, 0, Sequence(10), message(10));
        assert_eq!(audit.evidence(), []);
        audit.skipped(0, 0, Sequence(12), Sequence(13));
        let witness = Witness::Reader(0);
        assert_eq!(only(&audit), &Violation::Gap { channel: 0, witness, due: 11, came: 12 });
    }

    #[test]
    fn a_gap_within_history_and_a_page_that_ends_early_are_found() {
        let mut audit = sound();
        let seen = audit.seen();
        audit.begin_history();
        audit.history(0, Sequence(1), message(1));
        audit.history(0, Sequence(3), message(3));
        audit.end_history(0, Sequence(4), &seen);
        let witness = Witness::History;
        let gaps = [
            Violation::Gap { channel: 0, witness, due: 2, came: 3 },
            Violation::Gap { channel: 0, witness, due: 4, came: 5 },
        ];
        assert_eq!(audit.evidence(), gaps);
    }

    #[test]
    fn a_message_that_is_in_history_twice_is_found_also_across_channels() {
        let mut audit = Audit::new(2, 0);
        audit.publishing(message(1));
        audit.begin_history();
        audit.history(0, Sequence(1), message(1));
        audit.history(1, Sequence(1), message(1));
        assert_eq!(only(&audit), &Violation::Twice { channel: 1, sequence: 1 });
    }

    #[test]
    fn a_message_that_nobody_published_is_found() {
        let mut audit = Audit::new(1, 0);
        read_history(&mut audit, &[1]);
        assert_eq!(only(&audit), &Violation::Foreign { channel: 0, sequence: 1 });
    }

    #[test]
    fn two_messages_acknowledged_at_one_sequence_are_found() {
        let mut audit = Audit::new(1, 0);
        audit.acknowledged(0, Sequence(1), message(1));
        audit.acknowledged(0, Sequence(1), message(2));
        let (witness, sequence) = (Witness::Writer, 1);
        assert_eq!(only(&audit), &Violation::Differs { channel: 0, witness, sequence });
    }

    #[test]
    fn a_reader_that_is_sent_back_and_one_that_gets_too_little_are_found() {
        let mut audit = sound();
        audit.started_over(0, 1, Sequence(1));
        let back = Violation::StartedOver { channel: 0, reader: 1, had: 3, head: 1 };
        assert_eq!(only(&audit), &back);
        audit.delivered(0, 1, Sequence(1), message(1));
        audit.end_delivery(0, Sequence(3));
        let missed = Violation::Missed { channel: 0, reader: 1, last_seen: 1, head: 3 };
        assert_eq!(audit.evidence()[1..], [missed]);
        assert_eq!(audit.missed(0, Sequence(3)), 2);
    }
}
