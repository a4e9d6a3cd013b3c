//! From which entries of which channels' logs a record follows. Pure.
//!
//! What an append derives travels in its log message, so the log decides alone whether it was appended.
//! The records are written behind it, by the appender and, should that one die, by whoever meets the
//! entry. So one entry may be settled twice, the second time late: after another entry, of the same
//! channel or of another one, and after a put. Therefore each record says which entry of each channel it
//! followed from last, and what is as old or older is left out. Puts and removals keep what it says.

use std::{fmt, str::FromStr};

use crate::{
    limits::SETTLED_PER_RECORD_MAX,
    log::place::{ChannelId, Cursor},
};

/// The last entries that a record follows from, at most one of each channel, the latest written last.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Settled(Vec<(ChannelId, Cursor)>);

impl Settled {
    /// Whether the record follows from this entry of the channel or from a later one.
    pub(super) fn holds(&self, channel: ChannelId, entry_at: Cursor) -> bool {
        self.0.iter().any(|(of, at)| *of == channel && *at >= entry_at)
    }

    /// The same, once the record follows from this entry too, which it [`holds`](Self::holds) not yet.
    pub(super) fn with(&self, channel: ChannelId, entry_at: Cursor) -> Self {
        let others = self.0.iter().filter(|(of, _)| *of != channel);
        let excess = others.clone().count().saturating_sub(SETTLED_PER_RECORD_MAX - 1);
        Self(others.skip(excess).copied().chain([(channel, entry_at)]).collect())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// As it is in a header: `<channel>:<cursor>`, with commas between.
impl fmt::Display for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (channel, at)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}:{}", channel.0, at.0)?;
        }
        Ok(())
    }
}

/// A header that says something else than this program writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct MalformedSettled;

impl FromStr for Settled {
    type Err = MalformedSettled;

    fn from_str(header: &str) -> Result<Self, MalformedSettled> {
        let mut settled = Vec::new();
        for item in header.split(',') {
            let (channel, at) = item.split_once(':').ok_or(MalformedSettled)?;
            let channel = ChannelId(channel.parse().map_err(|_| MalformedSettled)?);
            let at = Cursor(at.parse().map_err(|_| MalformedSettled)?);
            let is_new = settled.iter().all(|(of, _)| *of != channel);
            if !is_new || settled.len() == SETTLED_PER_RECORD_MAX {
                return Err(MalformedSettled);
            }
            settled.push((channel, at));
        }
        Ok(Self(settled))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries() -> impl Strategy<Value = Vec<(u32, u64)>> {
        prop::collection::vec((0..12_u32, 1..100_u64), 0..40)
    }

    fn settled(entries: &[(u32, u64)]) -> Settled {
        let mut settled = Settled::default();
        for (channel, at) in entries {
            let (channel, at) = (ChannelId(*channel), Cursor(*at));
            if !settled.holds(channel, at) {
                settled = settled.with(channel, at);
            }
        }
        settled
    }

    proptest! {
        #[test]
        fn any_of_them_comes_back_from_a_header(entries in entries()) {
            let settled = settled(&entries);
            let header = settled.to_string();
            prop_assert_eq!(settled.is_empty(), header.is_empty());
            if !header.is_empty() {
                prop_assert_eq!(header.parse(), Ok(settled));
            }
        }

        #[test]
        fn a_header_of_anything_is_read_without_a_panic(header in "[0-9:,a]{0,40}") {
            if let Ok(settled) = header.parse::<Settled>() {
                prop_assert!(!settled.is_empty());
                prop_assert_eq!(settled.to_string().parse(), Ok(settled));
            }
        }

        #[test]
        fn the_newest_entry_of_each_of_the_last_channels_is_kept(entries in entries()) {
            let settled = settled(&entries);
            prop_assert!(settled.0.len() <= SETTLED_PER_RECORD_MAX);
            if let Some((channel, at)) = entries.last() {
                prop_assert!(settled.holds(ChannelId(*channel), Cursor(*at)));
            }
            for (channel, at) in &settled.0 {
                prop_assert!(entries.contains(&(channel.0, at.0)));
                prop_assert!(!settled.holds(*channel, Cursor(at.0 + 1)));
            }
        }

        #[test]
        fn nothing_is_forgotten_while_there_are_few_channels(
            entries in prop::collection::vec((0..8_u32, 1..100_u64), 0..40),
        ) {
            let settled = settled(&entries);
            for (channel, at) in entries {
                prop_assert!(settled.holds(ChannelId(channel), Cursor(at)));
            }
        }
    }
}
