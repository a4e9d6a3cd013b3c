//! The ids of users and channels, and the places in a channel's log.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

/// A user, by the number that the directory gave to the subject of its tokens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UserId(pub u32);

/// A channel, by the number that the directory gave to its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChannelId(pub u32);

/// The client's own number for one publish, unique per user and channel. Never 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ClientMessageId(pub u64);

impl ClientMessageId {
    /// The number of a message that has this id: the id itself, if it is a number as our clients give
    /// them, otherwise its XXH3 with 64 bits. It is stored, so it stays what it is, and it is the same
    /// whichever way a message comes.
    #[must_use]
    pub fn of_text(id: &str) -> Self {
        let is_number = !id.starts_with(['0', '+']);
        let number = id.parse::<u64>().ok().filter(|_| is_number);
        Self(number.unwrap_or_else(|| xxh3_64(id.as_bytes()).max(1)))
    }
}

/// A message's place in its channel: 1, 2, 3, … 0 is the place before the first message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The place before the first message.
    pub const ZERO: Self = Self(0);

    /// The place `n` further on, or the last there is.
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    /// The place after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }
}

impl fmt::Debug for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which life of a channel's numbering a sequence belongs to: the second (since 1970) in which that
/// life began, so that a log that was lost and begun anew never repeats an epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Epoch(pub u32);

/// Where a client stopped in a channel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Position {
    /// The life of the numbering.
    pub epoch: Epoch,
    /// The last sequence that the client has.
    pub sequence: Sequence,
}

/// An engine's name for an entry of a channel's log, ascending within the channel. Opaque: only the
/// engine that gave it out can read it. 0 is before the first entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Cursor(pub u64);

/// A batch's own name, drawn at random, so that a writer finds its batch again after an append
/// whose outcome it did not learn. 0 names the absent batch before the first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct BatchId(pub u128);

/// The newest end of a channel's log: what the next batch must name to extend the chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The life of the numbering.
    pub epoch: Epoch,
    /// The last sequence; 0 in an empty channel.
    pub sequence: Sequence,
    /// The last batch of the chain.
    pub batch: BatchId,
    /// When the last batch was put in order, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// The last entry of the log, which the next append must follow.
    pub cursor: Cursor,
}

impl Head {
    /// The head of a log that begins with `epoch`.
    #[must_use]
    pub const fn empty(epoch: Epoch) -> Self {
        Self {
            epoch,
            sequence: Sequence::ZERO,
            batch: BatchId(0),
            timestamp_ms: 0,
            cursor: Cursor(0),
        }
    }

    /// This head as a position that a client may resume from.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position { epoch: self.epoch, sequence: self.sequence }
    }
}

/// What an acknowledged message has survived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Synced to this node's disk.
    Fsynced,
    /// Synced by a majority of the cluster.
    Quorum,
    /// In memory only.
    Ephemeral,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_a_number_of_a_client_is_that_number() {
        for (id, number) in [("1", 1), ("17", 17), ("18446744073709551615", u64::MAX)] {
            assert_eq!(ClientMessageId::of_text(id).0, number);
        }
        let others = ["0", "01", "017", "+17", "-1", "18446744073709551616", "1.0", "1e3", " 1"];
        for id in others {
            assert_eq!(ClientMessageId::of_text(id).0, xxh3_64(id.as_bytes()), "{id}");
        }
    }

    #[test]
    fn the_number_of_an_id_never_changes() {
        assert_eq!(ClientMessageId::of_text("a-b").0, 17717960608275414559);
    }
}
