//! What must not happen, and the sentence that tells an operator of it. Pure.

use std::fmt;

use super::{Digest, Place};

/// Who saw something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Witness {
    /// The user of this number, by a delivery.
    User(u32),
    /// A publisher, by the acknowledgement.
    Acknowledgement,
    /// Whoever reads history.
    History,
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(f, "user {user}"),
            Self::Acknowledgement => f.write_str("an acknowledgement"),
            Self::History => f.write_str("history"),
        }
    }
}

/// Something that must not happen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Violation {
    /// Sequences were left out.
    Gap { place: Place, witness: Witness, due: u64, came: u64 },
    /// A sequence came again.
    Repeat { place: Place, witness: Witness, due: u64, came: u64 },
    /// A sequence that had been left out came after those behind it.
    Late { place: Place, user: u32, due: u64, came: u64 },
    /// A sequence means one message to one witness and another to this one.
    Differs { place: Place, witness: Witness, sequence: u64, known: Digest, came: Digest },
    /// A sequence that no channel of this run can have.
    Absurd { place: Place, witness: Witness, sequence: u64, known: u64 },
    /// A reader was told that what it has is void.
    StartedOver { place: Place, user: u32, had: u64, head: u64 },
    /// An acknowledged message is not in history at its sequence. Where history does not end before
    /// it, another message is there.
    Lost { place: Place, sequence: u64, head: u64 },
    /// A delivered message is not in history.
    Vanished { place: Place, last_seen: u64, head: u64 },
    /// History has no more than this, and says that it has.
    CutShort { place: Place, read: u64, head: u64 },
    /// A message is in history twice.
    Twice { place: Place, before: u64, sequence: u64 },
    /// A message that nobody published there, or with another body. Where it was published if not
    /// there.
    Foreign { place: Place, sequence: u64, published_in: Option<Place> },
    /// A message is in history at or before a sequence that was known before it was published.
    Backdated { place: Place, sequence: u64, known_to: u64 },
    /// A reader did not get everything before the end.
    Missed { place: Place, user: u32, last_seen: u64, head: u64 },
    /// A reader left, and did not get everything that had been acknowledged before.
    MissedLeaving { place: Place, user: u32, last_seen: u64, due: u64 },
    /// A user got messages of a channel that it is not subscribed to.
    Leak { user: u32, channel_id: u32, first_sequence: u64 },
    /// The same, of a channel that it had unsubscribed from.
    LeakAfterLeaving { place: Place, user: u32, sequence: u64 },
    /// A message was delivered that history did not have at that moment.
    BeforeCommit { place: Place, sequence: u64, head: u64 },
    /// Somebody was let in who may not be, or was not who may be.
    Misjudged { what: String },
    /// A client ended, which none may do, or was refused what it must not be refused.
    Ended { user: u32, error: String },
}

impl Violation {
    /// The sentence, given the names of the channels by place. Its first words name the kind.
    pub(super) fn sentence<'a>(&'a self, channels: &'a [String]) -> Sentence<'a> {
        Sentence { violation: self, channels }
    }
}

/// A violation in words.
pub(super) struct Sentence<'a> {
    violation: &'a Violation,
    channels: &'a [String],
}

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |place: &Place| self.channels.get(place.index()).map_or("?", String::as_str);
        match self.violation {
            Violation::Gap { place, witness, due, came } => write!(
                f,
                "gap: {witness} got {came} of channel {} where {due} was due: {} left out",
                name(place),
                messages(came.saturating_sub(*due))
            ),
            Violation::Repeat { place, witness, due, came } => write!(
                f,
                "repeat: {witness} got {came} of channel {} again, where {due} was due",
                name(place)
            ),
            Violation::Late { place, user, due, came } => write!(
                f,
                "late: user {user} got {came} of channel {} only where {due} was due: out of order",
                name(place)
            ),
            Violation::Differs { place, witness, sequence, known, came } => write!(
                f,
                "differs: {witness} has another message at {sequence} of channel {} than was \
                 known: {:016x} instead of {:016x}",
                name(place),
                came.0,
                known.0
            ),
            Violation::Absurd { place, witness, sequence, known } => write!(
                f,
                "absurd: {witness} has {sequence} of channel {}, of which {known} were known",
                name(place)
            ),
            Violation::StartedOver { place, user, had, head } => write!(
                f,
                "started over: user {user} had {had} of channel {} and was told that this is void: \
                 the channel ends at {head}",
                name(place)
            ),
            Violation::Lost { place, sequence, head } if sequence > head => write!(
                f,
                "lost: {sequence} of channel {} was acknowledged, but history ends at {head}",
                name(place)
            ),
            Violation::Lost { place, sequence, .. } => write!(
                f,
                "lost: {sequence} of channel {} was acknowledged, but history has another message \
                 there",
                name(place)
            ),
            Violation::Vanished { place, last_seen, head } => write!(
                f,
                "vanished: channel {} was delivered up to {last_seen}, but history ends at {head}",
                name(place)
            ),
            Violation::CutShort { place, read, head } => write!(
                f,
                "cut short: history of channel {} stops at {read}, though it says that it has \
                 {head}",
                name(place)
            ),
            Violation::Twice { place, before, sequence } => write!(
                f,
                "twice: history of channel {} has one message at {before} and again at {sequence}",
                name(place)
            ),
            Violation::Foreign { place, sequence, published_in: None } => write!(
                f,
                "foreign: nobody published what history has at {sequence} of channel {}",
                name(place)
            ),
            Violation::Foreign { place, sequence, published_in: Some(other) } => write!(
                f,
                "foreign: what history has at {sequence} of channel {} was published in channel {}",
                name(place),
                name(other)
            ),
            Violation::Backdated { place, sequence, known_to } => write!(
                f,
                "backdated: what history has at {sequence} of channel {} was published when the \
                 channel was known up to {known_to}",
                name(place)
            ),
            Violation::Missed { place, user, last_seen, head } => write!(
                f,
                "missed: user {user} got channel {} up to {last_seen}, but it goes up to {head}: \
                 {} did not come",
                name(place),
                messages(head.saturating_sub(*last_seen))
            ),
            Violation::MissedLeaving { place, user, last_seen, due } => write!(
                f,
                "missed: user {user} left channel {} with {last_seen}, though {due} had been \
                 acknowledged before: {} did not come",
                name(place),
                messages(due.saturating_sub(*last_seen))
            ),
            Violation::Leak { user, channel_id, first_sequence } => write!(
                f,
                "leak: user {user} got {first_sequence} of the channel with id {channel_id}, which \
                 it is not subscribed to"
            ),
            Violation::LeakAfterLeaving { place, user, sequence } => write!(
                f,
                "leak: user {user} got {sequence} of channel {} after it had unsubscribed",
                name(place)
            ),
            Violation::BeforeCommit { place, sequence, head } if sequence > head => write!(
                f,
                "before commit: {sequence} of channel {} was delivered while history ended at \
                 {head}",
                name(place)
            ),
            Violation::BeforeCommit { place, sequence, .. } => write!(
                f,
                "before commit: {sequence} of channel {} was delivered while history did not have \
                 that message there",
                name(place)
            ),
            Violation::Misjudged { what } => write!(f, "misjudged: {what}"),
            Violation::Ended { user, error } => write!(f, "ended: user {user}: {error}"),
        }
    }
}

fn messages(count: u64) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{count} messages") }
}
