//! Which channel comes next: all of them by name, then by number those that were renamed meanwhile.

use std::collections::VecDeque;

use super::{ExportError, Selection, is_busy, patiently};
use crate::{
    engine::Engine,
    hub::directory::{ChannelInfo, Directory, DirectoryError},
    limits::EXPORT_CHANNELS_PER_PAGE,
    log::place::ChannelId,
};

/// The channels that are still to come.
pub(super) struct Queue {
    next: VecDeque<Candidate>,
    /// What is read when there is no next one.
    rest: Rest,
    /// A bit for each channel that has come, by number.
    seen: Vec<u64>,
}

/// What may be a channel, or may have come before under another name.
enum Candidate {
    This(ChannelInfo),
    Named(String),
    Numbered(ChannelId),
}

/// What of the directory has not been read: what is after the last one that was.
enum Rest {
    Names(Option<String>),
    Numbers(Option<ChannelId>),
    Nothing,
}

impl Queue {
    pub(super) fn new(selection: Selection) -> Self {
        let (next, rest) = match selection {
            Selection::One(channel) => ([Candidate::This(channel)].into(), Rest::Nothing),
            Selection::All => (VecDeque::new(), Rest::Names(None)),
        };
        Self { next, rest, seen: Vec::new() }
    }

    /// The next channel that has not come yet.
    pub(super) async fn next<E: Engine>(
        &mut self,
        directory: &Directory<E>,
    ) -> Result<Option<ChannelInfo>, ExportError> {
        loop {
            let found = match self.next.pop_front() {
                Some(Candidate::This(channel)) => Ok(channel),
                Some(Candidate::Named(name)) => {
                    patiently(|| directory.channel_by_name(&name), is_busy).await
                }
                Some(Candidate::Numbered(id)) if self.has_seen(id) => continue,
                Some(Candidate::Numbered(id)) => numbered(directory, id).await,
                None if self.refill(directory).await? => continue,
                None => return Ok(None),
            };
            match found {
                Ok(channel) if self.has_seen(channel.id) => {}
                Ok(channel) => {
                    self.see(channel.id);
                    return Ok(Some(channel));
                }
                // A name or number that is nobody's, or not any more.
                Err(DirectoryError::UnknownChannel) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads on. Answers whether there may be more.
    async fn refill<E: Engine>(&mut self, directory: &Directory<E>) -> Result<bool, ExportError> {
        let count_max = EXPORT_CHANNELS_PER_PAGE;
        match &self.rest {
            Rest::Names(after) => {
                let page = || directory.channel_names(after.as_deref(), count_max);
                let names = patiently(page, is_busy).await?;
                self.rest = match names.last() {
                    Some(last) => Rest::Names(Some(last.clone())),
                    None => Rest::Numbers(None),
                };
                self.next.extend(names.into_iter().map(Candidate::Named));
            }
            Rest::Numbers(after) => {
                let page = || directory.channel_numbers(*after, count_max);
                let numbers = patiently(page, is_busy).await?;
                self.rest = match numbers.last() {
                    Some(last) => Rest::Numbers(Some(*last)),
                    None => Rest::Nothing,
                };
                self.next.extend(numbers.into_iter().map(Candidate::Numbered));
            }
            Rest::Nothing => return Ok(false),
        }
        Ok(true)
    }

    fn has_seen(&self, channel: ChannelId) -> bool {
        let (word, bit) = bit_of(channel);
        self.seen.get(word).is_some_and(|word| word & bit != 0)
    }

    fn see(&mut self, channel: ChannelId) {
        let (word, bit) = bit_of(channel);
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        self.seen[word] |= bit;
    }
}

const fn bit_of(ChannelId(id): ChannelId) -> (usize, u64) {
    ((id / u64::BITS) as usize, 1 << (id % u64::BITS))
}

/// The channel of a number that may have lost its name, or never got one.
async fn numbered<E: Engine>(
    directory: &Directory<E>,
    id: ChannelId,
) -> Result<ChannelInfo, DirectoryError> {
    let channel = patiently(|| directory.channel(id), is_busy).await?;
    let owner = patiently(|| directory.channel_by_name(&channel.name), is_busy).await?;
    if owner.id == id { Ok(channel) } else { Err(DirectoryError::UnknownChannel) }
}
