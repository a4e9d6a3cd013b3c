//! What log entries say of records and is not known to be written.
//!
//! What an append derives travels in its log message; the records are written behind it, before the
//! append is answered. The rule that keeps this small: who appends after an entry has settled it before.
//! So only the last entry of a log can be unsettled, because its appender is still at work, or died.
//! Whoever has met such an entry settles it before it answers anything that shows its records.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{
    sync::Mutex as AsyncMutex,
    time::{Instant, MissedTickBehavior, interval, timeout, timeout_at},
};

use super::{
    announced::Announced,
    api::Api,
    entry::After,
    reader::{Logged, Reader},
    records::Records,
    subject::Subjects,
};
use crate::{
    engine::{Derived, ReadError, RecordError, Table, bus::NodeId, derived_bytes},
    limits::{
        ANNOUNCED_INTERVAL, SETTLE_GRACE, SETTLE_TIMEOUT, SETTLED_AT_ONCE, UNSETTLED_AGE,
        UNSETTLED_BYTES_MAX, UNSETTLED_MAX,
    },
    log::place::{ChannelId, Cursor},
};

#[cfg(test)]
mod tests;

/// The entries whose records may not follow from them yet, as far as this node has met them.
#[derive(Debug)]
pub(super) struct Settling {
    api: Api,
    subjects: Subjects,
    /// How many logs there are.
    shelves: usize,
    records: Records,
    announced: Announced,
    state: Mutex<State>,
    /// Held by the one who looks at the announcements.
    looking: AsyncMutex<()>,
}

#[derive(Debug, Default)]
struct State {
    unsettled: BTreeMap<ChannelId, Unsettled>,
    /// Of all the derived records.
    bytes: usize,
    /// How often entries were missed, and how many of these times the announcements were looked at.
    missed: u64,
    looked: u64,
}

/// The last known entry of a channel.
#[derive(Clone, Debug)]
struct Unsettled {
    entry_at: Cursor,
    /// What it derives. None: the channel's last entry must be read.
    derived: Option<Arc<[Derived]>>,
    /// Whether it is known to have lost no race. Otherwise the log says so, before anything is written.
    has_won: bool,
    seen: Instant,
    /// Held by the one who settles it: two would only hinder each other.
    at_work: Arc<AsyncMutex<()>>,
}

impl Unsettled {
    /// Of a channel whose last entry must be read, up to this one.
    fn unread(entry_at: Cursor) -> Self {
        let (seen, at_work) = (Instant::now(), Arc::default());
        Self { entry_at, derived: None, has_won: false, seen, at_work }
    }

    fn bytes(&self) -> usize {
        self.derived.as_deref().map_or(0, derived_bytes)
    }

    /// Whether one of these records may follow from it.
    fn derives(&self, wanted: impl Fn(&Derived) -> bool) -> bool {
        self.derived.as_ref().is_none_or(|derived| derived.iter().any(wanted))
    }
}

impl State {
    /// Entries of the channel up to this one are settled.
    fn forget(&mut self, channel: ChannelId, entry_at: Cursor) {
        if self.unsettled.get(&channel).is_some_and(|known| known.entry_at <= entry_at) {
            self.remove(channel);
        }
    }

    fn remove(&mut self, channel: ChannelId) {
        let gone = self.unsettled.remove(&channel);
        self.bytes -= gone.map_or(0, |gone| gone.bytes());
    }

    /// An entry was seen behind these: what its appender knew of is settled. An earlier one that it did
    /// not know of is not, and then it has lost a race.
    fn pass(&mut self, channel: ChannelId, entry_at: Cursor, after: After, has_won: bool) {
        let Some(known) = self.unsettled.get(&channel) else { return };
        let is_before = known.entry_at < entry_at;
        let is_read = known.derived.is_some();
        let knew_it = matches!(after, After::At(after) if is_read && known.entry_at <= after);
        if is_before && (has_won || knew_it) {
            self.remove(channel);
        } else if is_before {
            let known = Unsettled { entry_at, derived: None, has_won: false, ..known.clone() };
            self.remove(channel);
            self.remember(channel, known);
        }
    }

    /// Remembers an entry, unless that or a later one is remembered.
    fn remember(&mut self, channel: ChannelId, mut unsettled: Unsettled) {
        match self.unsettled.get(&channel) {
            Some(known) if known.entry_at >= unsettled.entry_at => return,
            Some(_) => self.remove(channel),
            None if self.unsettled.len() >= UNSETTLED_MAX => {
                self.missed += 1;
                return;
            }
            None => {}
        }
        if self.bytes + unsettled.bytes() > UNSETTLED_BYTES_MAX {
            unsettled.derived = None;
        }
        self.bytes += unsettled.bytes();
        self.unsettled.insert(channel, unsettled);
    }
}

impl Settling {
    /// Of a node that has just started: it has missed everything.
    pub(super) fn new(
        api: Api,
        subjects: Subjects,
        shelves: usize,
        records: Records,
        node: NodeId,
    ) -> Self {
        let announced = Announced::new(records.clone(), node);
        let state = Mutex::new(State { missed: 1, ..State::default() });
        let looking = AsyncMutex::default();
        Self { api, subjects, shelves, records, announced, state, looking }
    }

    /// An entry was seen: the last of its log, as far as that is known. `has_won`: it is known to have
    /// lost no race. Cheap, also if it derives nothing or is settled.
    pub(super) fn seen(
        &self,
        channel: ChannelId,
        entry_at: Cursor,
        after: After,
        derived: &[Derived],
        has_won: bool,
    ) {
        let is_settled = self.is_settled(channel, entry_at, derived);
        let mut state = self.state();
        state.pass(channel, entry_at, after, has_won);
        if !is_settled {
            let unread = Unsettled::unread(entry_at);
            state.remember(channel, Unsettled { derived: Some(derived.into()), has_won, ..unread });
        } else if !derived.is_empty() {
            state.forget(channel, entry_at);
        }
    }

    /// Entries of some log were missed.
    pub(super) fn missed(&self) {
        self.state().missed += 1;
    }

    /// Before an append that derives something: a node that starts will look at this channel.
    pub(super) async fn announce(&self, channel: ChannelId) -> Result<(), RecordError> {
        self.announced.announce(channel).await
    }

    /// Settles what was seen of this channel, if there is anything.
    pub(super) async fn settle(&self, channel: ChannelId) -> Result<(), RecordError> {
        self.look().await?;
        let unsettled = self.state().unsettled.get(&channel).cloned();
        match unsettled {
            Some(unsettled) => self.settle_known(channel, &unsettled).await,
            None => Ok(()),
        }
    }

    /// Settles all that was seen and says something of these records of a table.
    pub(super) async fn settle_for(
        &self,
        table: Table,
        key: impl Fn(&str) -> bool,
    ) -> Result<(), RecordError> {
        self.settle_those(|of| of.table == table && key(&of.key)).await
    }

    /// Settles all that was seen and says something of wanted records.
    pub(super) async fn settle_those(
        &self,
        wanted: impl Fn(&Derived) -> bool,
    ) -> Result<(), RecordError> {
        self.look().await?;
        let unsettled = self.those(|unsettled| unsettled.derives(&wanted));
        let settled = unsettled.into_iter().map(|(channel, unsettled)| async move {
            if self.comes_to_be_settled(channel, &unsettled).await {
                self.state().forget(channel, unsettled.entry_at);
                return Ok(());
            }
            self.settle_known(channel, &unsettled).await
        });
        let settled: Vec<_> = settled.collect();
        stream::iter(settled).buffer_unordered(SETTLED_AT_ONCE).try_collect().await
    }

    /// Settles in the background what nobody else does. Never ends.
    pub(super) async fn run(self: Arc<Self>) {
        let mut ticks = interval(UNSETTLED_AGE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut withdrawn = Instant::now();
        loop {
            ticks.tick().await;
            if let Err(error) = self.settle_old().await {
                tracing::debug!(%error, "entries are not settled yet");
            }
            if withdrawn.elapsed() > ANNOUNCED_INTERVAL {
                withdrawn = Instant::now();
                if let Err(error) = self.clear_up().await {
                    tracing::debug!(%error, "announcements are not withdrawn yet");
                }
            }
        }
    }

    async fn settle_old(&self) -> Result<(), RecordError> {
        self.look().await?;
        let old = self.those(|it| it.derived.is_none() || it.seen.elapsed() >= UNSETTLED_AGE);
        let settled: Vec<_> =
            old.iter().map(|(channel, unsettled)| self.settle_known(*channel, unsettled)).collect();
        stream::iter(settled).buffer_unordered(SETTLED_AT_ONCE).try_collect().await
    }

    async fn clear_up(&self) -> Result<(), RecordError> {
        self.announced.withdraw_idle().await?;
        for channel in self.announced.left_behind() {
            self.settle_one(channel, &Unsettled::unread(Cursor(0))).await?;
            self.announced.clear(channel).await?;
        }
        Ok(())
    }

    fn those(&self, wanted: impl Fn(&Unsettled) -> bool) -> Vec<(ChannelId, Unsettled)> {
        let state = self.state();
        let wanted = state.unsettled.iter().filter(|(_, unsettled)| wanted(unsettled));
        wanted.map(|(channel, unsettled)| (*channel, unsettled.clone())).collect()
    }

    /// If entries were missed, remembers all channels that were announced.
    async fn look(&self) -> Result<(), RecordError> {
        let is_due = |state: &State| state.looked < state.missed;
        if !is_due(&self.state()) {
            return Ok(());
        }
        let _looking = self.looking.lock().await;
        let missed = self.state().missed;
        if !is_due(&self.state()) {
            return Ok(());
        }
        self.records.catch_up().await?;
        let mut state = self.state();
        for channel in self.announced.all() {
            let unread = || Unsettled::unread(Cursor(0));
            state.unsettled.entry(channel).or_insert_with(unread);
        }
        state.looked = missed;
        Ok(())
    }

    /// Whether its appender settles the entry while one may wait for that.
    async fn comes_to_be_settled(&self, channel: ChannelId, unsettled: &Unsettled) -> bool {
        let Some(derived) = &unsettled.derived else { return false };
        let mut positions = self.records.mirror().positions();
        let deadline = unsettled.seen + SETTLE_GRACE;
        loop {
            if self.is_settled(channel, unsettled.entry_at, derived) {
                return true;
            }
            if !matches!(timeout_at(deadline, positions.changed()).await, Ok(Ok(()))) {
                return false;
            }
        }
    }

    /// Settles what is remembered, unless somebody else has done so meanwhile.
    async fn settle_known(
        &self,
        channel: ChannelId,
        unsettled: &Unsettled,
    ) -> Result<(), RecordError> {
        let at_work = timeout(SETTLE_TIMEOUT, unsettled.at_work.lock()).await;
        let _at_work = at_work.map_err(|_| RecordError::StorageUnavailable)?;
        let is_settled = self.state().unsettled.get(&channel).is_none_or(|known| {
            known.entry_at > unsettled.entry_at && !Arc::ptr_eq(&known.at_work, &unsettled.at_work)
        });
        if is_settled { Ok(()) } else { self.settle_one(channel, unsettled).await }
    }

    async fn settle_one(
        &self,
        channel: ChannelId,
        unsettled: &Unsettled,
    ) -> Result<(), RecordError> {
        // An old one may not be the last any more. Then it is settled, and what its records say may have
        // changed since.
        let is_sure = unsettled.has_won && unsettled.seen.elapsed() < UNSETTLED_AGE;
        let known = unsettled.derived.clone().filter(|_| is_sure);
        let settle = async {
            let (entry_at, derived) = match known {
                Some(derived) => (unsettled.entry_at, derived),
                None => self.last_of(channel).await?,
            };
            if !self.is_settled(channel, entry_at, &derived) {
                self.records.settle(channel, entry_at, &derived).await?;
            }
            Ok(entry_at)
        };
        let settled = timeout(SETTLE_TIMEOUT, settle).await;
        let entry_at = settled.map_err(|_| RecordError::StorageUnavailable)??;
        self.state().forget(channel, entry_at.max(unsettled.entry_at));
        Ok(())
    }

    /// The last entry of a channel's log that counts, and what it derives.
    async fn last_of(&self, channel: ChannelId) -> Result<(Cursor, Arc<[Derived]>), RecordError> {
        let reader = Reader::new(&self.api, &self.subjects, self.shelves, channel);
        let last = async {
            let Some(last) = reader.last().await? else { return Ok(None) };
            // What derives nothing may hide one that does, if it has lost a race.
            reader.last_won(last).await
        };
        match last.await {
            Ok(Some(Logged { at, payload })) => Ok((at, payload.derived.into())),
            Ok(None) => Ok((Cursor(0), [].into())),
            Err(ReadError::Damaged { cursor, .. }) => {
                // Its channel is sealed by who reads it. The others go on.
                tracing::error!(
                    channel = channel.0,
                    cursor = cursor.0,
                    "a log is damaged at its end"
                );
                Ok((cursor, [].into()))
            }
            Err(_) => Err(RecordError::StorageUnavailable),
        }
    }

    /// Whether this node knows that the records follow from the entry.
    fn is_settled(&self, channel: ChannelId, entry_at: Cursor, derived: &[Derived]) -> bool {
        derived.iter().all(|of| {
            let current = self.records.mirror().current(of.table.name(), &of.key);
            current.is_some_and(|current| current.settled.holds(channel, entry_at))
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
