//! One channel as a state machine: its head, its tail, its subscribers, its batch in flight. Hot.
//! Pure.
//!
//! Inputs are methods, results are [`Effect`]s in the order in which they must be performed: commit,
//! then fan-out, then reply. For each connection they must be performed in this order wherever it
//! is: who joins between two fan-outs receives the second live and has the first by a replay.
//! Everything that enters the log reaches the subscribers through [`Channel::apply`], whether it was
//! committed here, by another node, or was found by reading; an append's own answer is only a hint of
//! where to look.
//!
//! Invariant: a subscriber is either live and has been handed everything up to the head, or it is
//! replaying and has been handed everything up to its own place. So none misses or repeats anything.
//!
//! Where other nodes write as well, nobody is refused before the log was looked at since the question.
//!
//! Here is the log's side: what goes into it, and what comes of each entry. Beside it: who subscribes
//! (`subscriptions`), who is there and who is
//! writing (`ephemeral`), pages (`history`), members and settings (`changes`), what the owner on
//! another node writes (`forward`).

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::Arc,
};

use self::{
    changes::KnownRights,
    subscriptions::{Replay, Who},
};
pub use self::{
    effect::{Effect, Purpose},
    ephemeral::Cooling,
    subscriptions::Subscribe,
};
use super::{
    ConnectionKey, Ticket,
    directory::ChannelInfo,
    fanout::Delivery,
    presence::{Presence, Typing},
    rights::{Author, Judge, Rights},
    sequencer::{Accepted, Draft, Outcome, Sequencer, Wish},
};
use crate::{
    engine::{AppendError, Caps, MessageKey, ReadError, ReadFrom, Refusal},
    limits::DRAFTS_MAX,
    log::{
        batch::Entry,
        place::{BatchId, ChannelId, ClientMessageId, Cursor, Head, Sequence, UserId},
        settings::Access,
        tail::Tail,
    },
    wire::{
        code::ErrorCode,
        decode::Page,
        encode::{Published, Reply},
    },
};

mod changes;
mod effect;
mod ephemeral;
mod forward;
mod history;
mod subscriptions;

/// One channel.
#[derive(Debug)]
pub struct Channel {
    id: ChannelId,
    name: Arc<str>,
    caps: Caps,
    state: State,
    /// Whether everybody may do everything, or [`KnownRights`] are needed, and for what.
    access: Access,
    rights: KnownRights,
    head: Head,
    tail: Tail<Delivery>,
    /// The live subscribers, and who they are. Their outboxes, and the list that is walked, are with
    /// their shards.
    live: HashMap<ConnectionKey, Who>,
    replays: HashMap<ConnectionKey, Replay>,
    presence: Presence,
    /// The subscribers that asked for what is not in the log, of each user.
    attending: BTreeSet<(UserId, ConnectionKey)>,
    typing: Typing,
    /// Who is writing here, as far as other nodes have not been told.
    typing_untold: Typing,
    sequencer: Sequencer,
    /// What waits for the head to be known or to be current, at most
    /// [`DRAFTS_MAX`](crate::limits::DRAFTS_MAX). Beyond it: `busy`.
    waiting: Vec<Waiting>,
    /// Other nodes write into the log, too.
    is_shared: bool,
    /// What waits to be refused until the log was looked at: another node may have written what allows it.
    /// With what waits at most as many.
    doubted: Vec<Waiting>,
    /// Something was committed that the read of the log under way may have passed by: look again.
    is_stale: bool,
    /// The engine has not answered an append. Whatever a read finds meanwhile, there is no other: its
    /// answer could not be told from the first one's.
    is_appending: bool,
    /// A catch-up read is under way, or will be: appends wait for it.
    is_catching_up: bool,
    /// The log is looked at after a while for what the owner has written.
    is_seeking: bool,
    /// Appends in a row that came too late.
    losses: u32,
    /// Others have added to what the quota counts since the rights were read.
    is_miscounted: bool,
    /// Pages that are being read.
    history_reads: u32,
    /// Entries that extended no chain and were skipped.
    junk: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The head is not known, and nobody asked for it.
    Unloaded,
    /// A read for the head is under way.
    Loading,
    /// The head is known.
    Ready,
    /// The stored log is damaged: nothing is served from it and nothing is added.
    Sealed,
    /// The channel was deleted: there is none.
    Deleted,
}

impl State {
    /// Why nothing is served, if nothing is.
    const fn refusal(self) -> Option<ErrorCode> {
        match self {
            Self::Sealed => Some(ErrorCode::ChannelSealed),
            Self::Deleted => Some(ErrorCode::UnknownChannel),
            Self::Unloaded | Self::Loading | Self::Ready => None,
        }
    }
}

#[derive(Debug)]
enum Waiting {
    Subscribe(Subscribe),
    History(Ticket, UserId, Page),
    Presence(Ticket, UserId),
    Typing(Ticket, UserId),
}

impl Waiting {
    fn refuse(self, code: ErrorCode, effects: &mut Vec<Effect>) {
        match self {
            Self::Subscribe(Subscribe { ticket, .. }) => {
                effects.push(refused(ticket, code));
                effects.push(Effect::Ended(ticket.connection));
            }
            Self::History(ticket, ..) | Self::Presence(ticket, _) | Self::Typing(ticket, _) => {
                effects.push(refused(ticket, code));
            }
        }
    }
}

impl Channel {
    /// A channel whose log has not been looked at. More users than so many are not named.
    #[must_use]
    pub fn new(info: &ChannelInfo, caps: Caps, presence_users_max: u32) -> Self {
        Self {
            id: info.id,
            name: Arc::clone(&info.name),
            caps,
            state: State::Unloaded,
            access: info.access,
            rights: KnownRights::default(),
            head: Head::empty(info.epoch),
            tail: Tail::new(Sequence::ZERO),
            live: HashMap::new(),
            replays: HashMap::new(),
            presence: Presence::new(info.id, presence_users_max),
            attending: BTreeSet::new(),
            typing: Typing::default(),
            typing_untold: Typing::default(),
            sequencer: Sequencer::default(),
            waiting: Vec::new(),
            is_shared: false,
            doubted: Vec::new(),
            is_stale: false,
            is_appending: false,
            is_catching_up: false,
            is_seeking: false,
            losses: 0,
            is_miscounted: false,
            history_reads: 0,
            junk: 0,
        }
    }

    /// The newest end of the log as far as it is known here.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// The settings, the members and what the quota counts, if all of it is known.
    #[must_use]
    pub fn rights(&self) -> Option<&Rights> {
        self.rights.known().filter(|_| !self.is_miscounted)
    }

    /// Whether the head is known.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Entries that extended no chain and were skipped.
    #[must_use]
    pub const fn junk(&self) -> u64 {
        self.junk
    }

    /// Whether nobody needs this channel in memory: it can be loaded again.
    #[must_use]
    pub fn is_evictable(&self) -> bool {
        self.state != State::Loading
            && !self.rights.is_reading()
            && self.is_idle()
            && !self.is_appending
            && !self.is_catching_up
            && self.waiting.is_empty()
            && self.doubted.is_empty()
            && self.live.is_empty()
            && self.replays.is_empty()
            && self.history_reads == 0
            && !self.is_cooling()
            && !self.presence.has_untold()
    }

    /// Whether no publish is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.sequencer.is_idle()
    }

    /// Whether [`Channel::next_append`] would form a batch, or read what it needs for that.
    #[must_use]
    pub fn is_ready_to_append(&self) -> bool {
        self.state == State::Ready
            && !self.is_appending
            && !self.is_catching_up
            && self.sequencer.is_ready()
    }

    /// Takes a publish in. It is answered when it is durable.
    pub fn publish(&mut self, draft: Draft, effects: &mut Vec<Effect>) {
        if let Some(code) = self.state.refusal() {
            return effects.push(refused(draft.ticket, code));
        }
        self.load(effects);
        let ticket = draft.ticket;
        let reader = match draft.wish {
            Wish::Message(Author::User(user), _) => Some(user),
            Wish::Message(Author::Webhook(_), _) | Wish::Change(_) => None,
        };
        match self.sequencer.accept(draft) {
            Accepted::Waits => {}
            // Not even what the user wrote: the channel is as good as missing.
            Accepted::Repeated(_) | Accepted::Conflict
                if self.may_serve() && reader.is_some_and(|user| self.may_read(user).is_err()) =>
            {
                effects.push(refused(ticket, ErrorCode::UnknownChannel));
            }
            Accepted::Repeated(sequence) => {
                effects.push(self.end(ticket, Outcome::Repeated(sequence)))
            }
            Accepted::Conflict => effects.push(self.end(ticket, Outcome::Conflict)),
            Accepted::Busy => effects.push(refused(ticket, ErrorCode::Busy)),
        }
    }

    /// Forms the next batch out of what waits. Called once a turn, so that all that came in a turn
    /// shares a batch. What cannot be decided on without the rights waits until they are read.
    pub fn next_append(&mut self, id: BatchId, now_ms: u64, effects: &mut Vec<Effect>) {
        if !self.is_ready_to_append() {
            return;
        }
        if self.needs_rights() && self.rights.known().is_none() {
            return self.read_rights(effects);
        }
        if self.is_miscounted && self.needs_rights() {
            self.rights = KnownRights::Unread;
            return self.read_rights(effects);
        }
        let judge = Judge::new(self.rights.known().filter(|_| self.needs_rights()));
        let mut ended = Vec::new();
        let end = |ticket, outcome| ended.push((ticket, outcome));
        let append = self.sequencer.next_batch(self.id, &self.head, id, now_ms, judge, end);
        self.is_appending = append.is_some();
        effects.extend(append.map(Effect::Append));
        effects.extend(ended.into_iter().map(|(ticket, outcome)| self.end(ticket, outcome)));
        if self.sequencer.is_doubting() {
            self.catch_up(effects);
        }
        let unasked = self.sequencer.take_unasked();
        if !unasked.is_empty() {
            effects.push(Effect::FindKeys(unasked));
        }
    }

    /// The answer to [`Effect::FindKeys`]: those of the asked keys that are stored.
    pub fn keys_found(
        &mut self,
        asked: &[(UserId, ClientMessageId)],
        answer: Result<Vec<MessageKey>, ReadError>,
        effects: &mut Vec<Effect>,
    ) {
        match answer {
            Ok(stored) => {
                let mut ended = Vec::new();
                let end = |ticket, outcome| ended.push((ticket, outcome));
                self.sequencer.found(asked, &stored, end);
                effects
                    .extend(ended.into_iter().map(|(ticket, outcome)| self.end(ticket, outcome)));
            }
            Err(error) => {
                let code = read_code(&error);
                let end = |ticket, code| effects.push(refused(ticket, code));
                self.sequencer.not_found(asked, code, end);
            }
        }
    }

    /// The engine's answer to the append in flight.
    pub fn appended(&mut self, answer: Result<Cursor, AppendError>, effects: &mut Vec<Effect>) {
        self.is_appending = false;
        let Some(append) = self.sequencer.in_flight() else { return };
        match answer {
            // Where a lost race can land in the log, only the log tells who won it.
            Ok(_) if self.caps.junk_possible => self.catch_up(effects),
            Ok(at) => {
                let entry = Entry {
                    channel: self.id,
                    at,
                    after: append.after,
                    batch: (*append.batch).clone(),
                };
                self.apply(entry, effects);
            }
            Err(AppendError::Moved) => self.contend(effects),
            Err(AppendError::Unknown) => self.catch_up(effects),
            Err(AppendError::Duplicates(stored)) => {
                let mut ended = Vec::new();
                self.sequencer.repeated(&stored, |ticket, outcome| ended.push((ticket, outcome)));
                effects
                    .extend(ended.into_iter().map(|(ticket, outcome)| self.end(ticket, outcome)));
            }
            Err(AppendError::Refused(refusal)) => {
                let code = match refusal {
                    Refusal::Busy => ErrorCode::Busy,
                    Refusal::StorageUnavailable => ErrorCode::StorageUnavailable,
                    Refusal::TooLarge => ErrorCode::MessageTooLarge,
                };
                let end = |ticket, code| effects.push(refused(ticket, code));
                self.sequencer.refuse_in_flight(code, end);
            }
        }
    }

    /// An entry of the log, from wherever it came: stale → drop, next → deliver, gap → read.
    pub fn apply(&mut self, entry: Entry, effects: &mut Vec<Effect>) {
        if self.state == State::Loading {
            // The read for the head may have passed this entry by.
            self.is_stale = true;
        }
        if self.state != State::Ready || entry.at <= self.head.cursor {
            return;
        }
        if entry.after != self.head.cursor {
            return self.catch_up(effects);
        }
        let Some(delivery) = self.extend(entry, effects) else { return };
        self.forget_typing(&delivery.batch);
        effects.push(Effect::FanOut(Arc::clone(&delivery)));
        self.take_changes(&delivery.batch, effects);
        let mut ended = Vec::new();
        self.sequencer.committed(&delivery.batch, |ticket, outcome| ended.push((ticket, outcome)));
        self.losses = if ended.is_empty() { self.losses } else { 0 };
        effects.extend(ended.into_iter().map(|(ticket, outcome)| self.end(ticket, outcome)));
        self.land(effects);
        if self.state == State::Deleted {
            self.end_all(ErrorCode::UnknownChannel, effects);
        }
    }

    /// Moves the head to the next entry, unless that extends no chain.
    fn extend(&mut self, entry: Entry, effects: &mut Vec<Effect>) -> Option<Arc<Delivery>> {
        if !entry.batch.extends(&self.head) {
            if self.caps.junk_possible {
                self.junk += 1;
                self.head.cursor = entry.at;
            } else {
                self.seal(effects);
            }
            return None;
        }
        self.head = entry.batch.head(entry.at);
        let delivery = Arc::new(Delivery::new(self.id, Arc::new(entry.batch)));
        self.tail.push(Arc::clone(&delivery));
        Some(delivery)
    }

    /// Another node was first. Who loses again and again waits a little before it looks where the log
    /// ends now: nodes that try in step would lose in step.
    fn contend(&mut self, effects: &mut Vec<Effect>) {
        self.losses = self.losses.saturating_add(1);
        if self.losses <= LOSSES_IN_A_ROW_MAX || self.is_catching_up || self.state != State::Ready {
            return self.catch_up(effects);
        }
        self.is_catching_up = true;
        effects.push(Effect::ContendLater(self.losses - LOSSES_IN_A_ROW_MAX));
    }

    /// Looks for what was committed after the head.
    pub fn catch_up(&mut self, effects: &mut Vec<Effect>) {
        if self.state == State::Loading {
            self.is_stale = true;
        }
        if self.state != State::Ready {
            return;
        }
        if mem::replace(&mut self.is_catching_up, true) {
            self.is_stale = true;
        } else {
            effects.push(Effect::Read(ReadFrom::After(self.head.cursor), Purpose::CatchUp));
        }
    }

    /// Tries again what a failing read put off.
    pub fn recover(&mut self, effects: &mut Vec<Effect>) {
        if mem::take(&mut self.is_catching_up) {
            self.catch_up(effects);
        }
    }

    /// The answer to a read.
    pub fn read_done(
        &mut self,
        purpose: Purpose,
        answer: Result<Vec<Entry>, ReadError>,
        effects: &mut Vec<Effect>,
    ) {
        if matches!(purpose, Purpose::History(..)) {
            self.history_reads -= 1;
        }
        match (purpose, answer) {
            (Purpose::Load, Ok(entries)) => self.loaded(entries, effects),
            (Purpose::Load, Err(error)) => self.not_loaded(&error, effects),
            (Purpose::CatchUp, Ok(entries)) => self.caught_up(entries, effects),
            (Purpose::CatchUp, Err(ReadError::Damaged { .. })) => self.seal(effects),
            (Purpose::CatchUp, Err(_)) => effects.push(Effect::RecoverLater),
            (Purpose::Replay(connection), Ok(entries)) => {
                self.replayed(connection, entries, effects);
            }
            (Purpose::Replay(connection), Err(error)) => {
                self.replay_failed(connection, &error, effects);
            }
            (Purpose::History(ticket, user, page), Ok(entries)) => {
                self.history_read(ticket, user, page, &entries, effects);
            }
            (Purpose::History(ticket, ..), Err(error)) => {
                effects.push(refused(ticket, read_code(&error)));
            }
        }
    }

    fn load(&mut self, effects: &mut Vec<Effect>) {
        if self.state == State::Unloaded {
            self.state = State::Loading;
            effects.push(Effect::Read(ReadFrom::Tail, Purpose::Load));
        }
    }

    fn loaded(&mut self, entries: Vec<Entry>, effects: &mut Vec<Effect>) {
        if let Some(first) = entries.first() {
            self.head = Head {
                epoch: first.batch.epoch,
                sequence: Sequence(first.batch.first_sequence.0 - 1),
                batch: first.batch.previous,
                timestamp_ms: first.batch.timestamp_ms,
                cursor: first.after,
            };
        }
        self.tail = Tail::new(self.head.sequence);
        self.state = State::Ready;
        for entry in entries {
            if let Some(delivery) = self.extend(entry, effects) {
                self.take_loaded_changes(&delivery.batch);
            }
        }
        if self.state == State::Deleted {
            return self.refuse_all(ErrorCode::UnknownChannel, effects);
        }
        if mem::take(&mut self.is_stale) {
            self.catch_up(effects);
        } else {
            self.admit_waiting(effects);
        }
    }

    /// The head is known and current: serves those who waited for that, or reads what else is needed.
    fn admit_waiting(&mut self, effects: &mut Vec<Effect>) {
        if self.waiting.is_empty() {
            return;
        }
        if !self.may_serve() {
            return self.prepare(effects);
        }
        for waiting in mem::take(&mut self.waiting) {
            self.serve(waiting, !self.is_shared, effects);
        }
    }

    /// Serves somebody. With `is_current` the log was looked at since it was asked for.
    fn serve(&mut self, waiting: Waiting, is_current: bool, effects: &mut Vec<Effect>) {
        match waiting {
            Waiting::Subscribe(wanted) => self.subscribe_now(wanted, is_current, effects),
            Waiting::History(ticket, user, page) => {
                self.history_now(ticket, user, page, is_current, effects);
            }
            Waiting::Presence(ticket, user) => {
                self.presence_now(ticket, user, is_current, effects);
            }
            Waiting::Typing(ticket, user) => self.typing_now(ticket, user, is_current, effects),
        }
    }

    /// Refuses somebody, once the log was looked at since it was asked for: where there are other nodes,
    /// one of them may have written what allows it.
    fn decline(
        &mut self,
        waiting: Waiting,
        code: ErrorCode,
        is_current: bool,
        effects: &mut Vec<Effect>,
    ) {
        if is_current || !self.is_shared {
            waiting.refuse(code, effects);
        } else {
            self.doubt(waiting, effects);
        }
    }

    /// Serves somebody when the log was looked at.
    fn doubt(&mut self, waiting: Waiting, effects: &mut Vec<Effect>) {
        if self.waiting.len() + self.doubted.len() >= DRAFTS_MAX {
            return waiting.refuse(ErrorCode::Busy, effects);
        }
        self.doubted.push(waiting);
        self.catch_up(effects);
    }

    /// The log was looked at: serves those who waited for that.
    fn end_doubts(&mut self, effects: &mut Vec<Effect>) {
        self.sequencer.looked();
        for doubted in mem::take(&mut self.doubted) {
            if self.may_serve() {
                self.serve(doubted, true, effects);
            } else {
                self.waiting.push(doubted);
            }
        }
    }

    fn not_loaded(&mut self, error: &ReadError, effects: &mut Vec<Effect>) {
        let is_damaged = matches!(error, ReadError::Damaged { .. });
        self.state = if is_damaged { State::Sealed } else { State::Unloaded };
        if is_damaged {
            effects.push(Effect::Sealed);
        }
        self.refuse_all(read_code(error), effects);
    }

    fn caught_up(&mut self, entries: Vec<Entry>, effects: &mut Vec<Effect>) {
        self.is_catching_up = false;
        let is_at_the_end = entries.is_empty();
        for entry in entries {
            self.apply(entry, effects);
        }
        if mem::take(&mut self.is_stale) || !is_at_the_end {
            return self.catch_up(effects);
        }
        self.sequencer.not_landed();
        self.end_doubts(effects);
        self.admit_waiting(effects);
        // The batch in flight is not in the log. While its place is still the end, it may yet
        // arrive there, so only the same batch may follow: if the first try wins, the second is
        // told `Moved` and this function finds the first. Once the end has moved on, the place is
        // taken for good and its drafts can go into another batch.
        let Some(append) = self.sequencer.in_flight().filter(|_| !self.is_appending) else {
            return;
        };
        if append.after == self.head.cursor {
            effects.push(Effect::Append(append.clone()));
            self.is_appending = true;
        } else {
            self.sequencer.retake();
        }
    }

    /// The stored log is not what was written: stop serving it, loudly.
    fn seal(&mut self, effects: &mut Vec<Effect>) {
        self.state = State::Sealed;
        effects.push(Effect::Sealed);
        let code = ErrorCode::ChannelSealed;
        self.end_subscriptions(code, |_| true, effects);
        self.end_all(code, effects);
    }

    /// Whatever waits ends with this code, and so does the batch in flight. What was forwarded ends with
    /// the owner's answer: it may be in the log.
    fn end_all(&mut self, code: ErrorCode, effects: &mut Vec<Effect>) {
        self.refuse_all(code, effects);
        self.refuse_landing(code, effects);
        let end = |ticket, code| effects.push(refused(ticket, code));
        self.sequencer.refuse_in_flight(code, end);
    }

    /// Whatever waits ends with this code, but for the batch in flight.
    fn refuse_all(&mut self, code: ErrorCode, effects: &mut Vec<Effect>) {
        for waiting in mem::take(&mut self.waiting).into_iter().chain(mem::take(&mut self.doubted))
        {
            waiting.refuse(code, effects);
        }
        self.sequencer.refuse_waiting(code, |ticket, code| effects.push(refused(ticket, code)));
    }

    fn end(&self, ticket: Ticket, outcome: Outcome) -> Effect {
        let (sequence, timestamp_ms) = match outcome {
            Outcome::Conflict => return refused(ticket, ErrorCode::IdempotencyConflict),
            Outcome::Refused(code) => return refused(ticket, code),
            Outcome::Changed(changed, sequence) => {
                return Effect::Reply(ticket, self.changed_reply(changed, sequence));
            }
            Outcome::Committed(sequence) => (sequence, self.head.timestamp_ms),
            Outcome::Landed(sequence, timestamp_ms) => (sequence, timestamp_ms),
            Outcome::Repeated(sequence) => (sequence, 0),
        };
        Effect::Reply(
            ticket,
            Reply::Published(Published {
                channel: self.id,
                epoch: self.head.epoch,
                sequence,
                timestamp_ms,
                durability: self.caps.durability,
            }),
        )
    }
}

/// Appends in a row that may come too late before a channel waits with the next.
const LOSSES_IN_A_ROW_MAX: u32 = 2;

fn refused(ticket: Ticket, code: ErrorCode) -> Effect {
    Effect::Reply(ticket, Reply::Refused(code.into()))
}

/// The code of a read that failed.
pub(super) const fn read_code(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::Busy => ErrorCode::Busy,
        ReadError::StorageUnavailable => ErrorCode::StorageUnavailable,
        ReadError::Damaged { .. } => ErrorCode::ChannelSealed,
    }
}

#[cfg(test)]
mod tests;
