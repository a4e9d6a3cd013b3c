//! Stage 4: a draft → its place in the channel. Hot. Pure: the caller brings the time.
//!
//! Owns what waits for a sequence, the one batch in flight, and the memory of recent keys. What may be
//! in a batch is decided by the [`Judge`] when the batch is formed; whether a batch was committed is
//! found out by `channel`, which says so.
//!
//! A message with a number that the judge does not let in may be in the log already, and its sender be
//! owed its sequence: only the engine knows. It is set aside until that is asked, and judged again if
//! it is not there.
//!
//! Where another node owns the channel, drafts with a number go there first (`forward`). And where there
//! are other nodes, a refusal waits until the log was looked at (`doubt`).
//!
//! Invariant: a draft leaves by exactly one of committed, repeated, refused; and each of the
//! sequences that an epoch hands out is handed out once, because a batch is formed on the head of
//! the chain and only its commit moves the head.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    mem,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};

pub use self::forward::{Answered, ForwardedPublish};
use super::{
    Ticket,
    rights::{Author, Change, Changed, Judge, Judgement},
};
use crate::{
    engine::{Append, MessageKey},
    limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, DRAFT_BYTES_MAX, DRAFTS_MAX, KEY_WINDOW_MAX},
    log::{
        batch::{Batch, put_record},
        place::{BatchId, ChannelId, ClientMessageId, Head, Sequence, UserId},
    },
    wire::code::ErrorCode,
};

mod doubt;
mod forward;

/// A valid publish that has no sequence yet.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Who publishes.
    pub user: UserId,
    /// The client's number for it; without one, a retry is a second message.
    pub client_message_id: Option<ClientMessageId>,
    /// A digest of what it says.
    pub digest: u64,
    /// The record as the log will hold it.
    pub record: Bytes,
    /// Who waits for the answer.
    pub ticket: Ticket,
    /// What it wants to be in the channel.
    pub wish: Wish,
}

/// What a draft wants to be in its channel.
#[derive(Clone, Debug)]
pub enum Wish {
    /// A message, whose body has so many bytes.
    Message(Author, usize),
    /// A change of members or settings. Its record is made when it is decided on. It has no number.
    Change(Box<Change>),
}

impl Draft {
    fn key(&self) -> Option<Key> {
        self.client_message_id.map(|id| (self.user, id))
    }
}

type Key = (UserId, ClientMessageId);

/// What became of a draft at the door.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accepted {
    /// It waits for its sequence, or shares the wait of an earlier try.
    Waits,
    /// An earlier try has this sequence.
    Repeated(Sequence),
    /// The same number stands for another message.
    Conflict,
    /// Too much waits.
    Busy,
}

/// How a draft ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is in the log.
    Committed(Sequence),
    /// It is in the log, where another node has put it, at this time; 0: earlier.
    Landed(Sequence, u64),
    /// It was in the log already.
    Repeated(Sequence),
    /// The same number stands for another message.
    Conflict,
    /// This is so from that place on; from the beginning, if it was so already.
    Changed(Changed, Sequence),
    /// It is not allowed.
    Refused(ErrorCode),
}

/// The drafts of one channel on the way to their sequences.
#[derive(Debug, Default)]
pub struct Sequencer {
    drafts: VecDeque<Draft>,
    /// Sum of the waiting drafts' record bytes. Beyond [`DRAFT_BYTES_MAX`] new ones are `busy`.
    draft_bytes: usize,
    /// How many of the waiting drafts are changes.
    changes: usize,
    in_flight: Option<InFlight>,
    /// What was not let in, and may be in the log already. They count as waiting.
    in_doubt: HashMap<Key, Draft>,
    /// Those of them that the engine has not been asked about.
    unasked: Vec<Key>,
    /// Other nodes write into the log, too: what is not let in here may be allowed already.
    doubts: bool,
    /// What was not let in, until the log was looked at. They count as waiting.
    doubted: Vec<Draft>,
    /// The same, since the log was looked at.
    looked: Vec<Draft>,
    keys: KeyWindow,
    /// What the owner of the channel was asked to write. Nothing else is written meanwhile.
    forwarded: Option<Forwarded>,
    /// What the owner has written and the log has not brought yet. With what is forwarded it counts as
    /// waiting.
    landing: Vec<Landing>,
}

#[derive(Debug)]
pub(super) struct Forwarded {
    pub(super) id: BatchId,
    pub(super) drafts: Vec<Draft>,
}

#[derive(Debug)]
pub(super) struct Landing {
    pub(super) draft: Draft,
    pub(super) sequence: Sequence,
    pub(super) timestamp_ms: u64,
    /// The log is being read for it.
    pub(super) is_sought: bool,
}

#[derive(Debug)]
struct InFlight {
    append: Append,
    drafts: Vec<Draft>,
    /// What the batch changes. Then it has one draft.
    changed: Option<Changed>,
}

impl Sequencer {
    /// Takes a draft in.
    pub fn accept(&mut self, draft: Draft) -> Accepted {
        let aside = self.in_doubt.len() + self.doubted.len() + self.looked.len();
        let is_full = self.drafts.len() + aside + self.elsewhere() >= DRAFTS_MAX
            || self.draft_bytes >= DRAFT_BYTES_MAX;
        if let Some(key) = draft.key() {
            match self.keys.states.entry(key) {
                Entry::Occupied(mut known) => return known.get_mut().meet(&draft),
                Entry::Vacant(_) if is_full => return Accepted::Busy,
                Entry::Vacant(new) => {
                    let (digest, also) = (draft.digest, Vec::new());
                    let (is_new, may_come) = (false, false);
                    new.insert(KeyState::Waiting { digest, also, is_new, may_come });
                }
            }
        } else if is_full {
            return Accepted::Busy;
        }
        self.count(&draft);
        self.drafts.push_back(draft);
        Accepted::Waits
    }

    /// Whether a change of members or settings waits.
    #[must_use]
    pub const fn has_changes(&self) -> bool {
        self.changes > 0
    }

    fn count(&mut self, draft: &Draft) {
        self.draft_bytes += draft.record.len();
        self.changes += usize::from(matches!(draft.wish, Wish::Change(_)));
    }

    fn uncount(&mut self, draft: &Draft) {
        self.draft_bytes -= draft.record.len();
        self.changes -= usize::from(matches!(draft.wish, Wish::Change(_)));
    }

    fn pop(&mut self) -> Option<Draft> {
        let draft = self.drafts.pop_front()?;
        self.uncount(&draft);
        Some(draft)
    }

    /// Whether a batch can be formed now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let is_any = !self.drafts.is_empty() || !self.looked.is_empty();
        self.in_flight.is_none() && self.forwarded.is_none() && is_any
    }

    /// Whether nothing waits and nothing is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_none()
            && self.drafts.is_empty()
            && self.in_doubt.is_empty()
            && self.doubted.is_empty()
            && self.looked.is_empty()
            && self.elsewhere() == 0
    }

    /// Forms the next batch on `head` out of what waits and `judge` lets in, and holds it as the one
    /// in flight. What is not let in ends.
    pub fn next_batch(
        &mut self,
        channel: ChannelId,
        head: &Head,
        id: BatchId,
        now_ms: u64,
        mut judge: Judge<'_>,
        mut end: impl FnMut(Ticket, Outcome),
    ) -> Option<Append> {
        if self.in_flight.is_some() || self.forwarded.is_some() {
            return None;
        }
        let first_sequence = head.sequence.next();
        if !self.looked.is_empty() {
            self.judge_again(&judge, first_sequence, now_ms, &mut end);
        }
        let mut records = BytesMut::new();
        let mut drafts: Vec<Draft> = Vec::new();
        let mut keys = Vec::new();
        let mut changed = None;
        while let Some(draft) = self.drafts.front() {
            let is_full = drafts.len() == BATCH_MESSAGES_MAX
                || records.len() + draft.record.len() > BATCH_BYTES_MAX;
            let is_change = matches!(draft.wish, Wish::Change(_));
            if (is_full || is_change) && !drafts.is_empty() {
                break;
            }
            let Some(draft) = self.pop() else { break };
            match judged(&mut judge, &draft, first_sequence, now_ms) {
                Judgement::Take => put_record(&mut records, &draft.record),
                Judgement::TakeAlone(record, what) => {
                    put_record(&mut records, &record);
                    changed = Some(what);
                }
                Judgement::Defer => {
                    self.put_back(draft);
                    break;
                }
                no => {
                    if self.is_doubtful(&draft, &no) {
                        self.doubt(draft);
                    } else {
                        self.decline(draft, no, &mut end);
                    }
                    continue;
                }
            }
            if let Some(client_message_id) = draft.client_message_id {
                keys.push(MessageKey {
                    user: draft.user,
                    client_message_id,
                    sequence: first_sequence.plus(drafts.len() as u64),
                    digest: draft.digest,
                });
            }
            drafts.push(draft);
            if changed.is_some() {
                break;
            }
        }
        if drafts.is_empty() {
            return None;
        }
        let batch = Batch {
            epoch: head.epoch,
            id,
            previous: head.batch,
            first_sequence,
            count: u16::try_from(drafts.len()).expect("BATCH_MESSAGES_MAX fits 16 bits"),
            timestamp_ms: now_ms.max(head.timestamp_ms),
            records: records.freeze(),
        };
        let derived = judge.derived();
        let append = Append { channel, after: head.cursor, batch: Arc::new(batch), keys, derived };
        self.in_flight = Some(InFlight { append: append.clone(), drafts, changed });
        Some(append)
    }

    /// The append in flight.
    #[must_use]
    pub fn in_flight(&self) -> Option<&Append> {
        self.in_flight.as_ref().map(|in_flight| &in_flight.append)
    }

    /// Whether what is in flight is a change of members or settings.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        self.in_flight.as_ref().is_some_and(|in_flight| in_flight.changed.is_some())
    }

    /// The batch with this id is in the log: ends its drafts if it is the one in flight.
    pub fn committed(&mut self, batch: &Batch, mut end: impl FnMut(Ticket, Outcome)) {
        let Some(in_flight) = self.in_flight.take_if(|it| it.append.batch.id == batch.id) else {
            return;
        };
        let mut changed = in_flight.changed;
        for (index, draft) in in_flight.drafts.into_iter().enumerate() {
            let sequence = batch.first_sequence.plus(index as u64);
            let outcome = match changed.take() {
                Some(changed) => Outcome::Changed(changed, sequence),
                None => Outcome::Committed(sequence),
            };
            end(draft.ticket, outcome);
            if let Some(key) = draft.key() {
                self.keys.settle(key, sequence, draft.digest, &mut end);
            }
        }
    }

    /// The engine holds these keys already: ends their drafts, and puts the others of the batch in
    /// flight back to the front.
    pub fn repeated(&mut self, stored: &[MessageKey], mut end: impl FnMut(Ticket, Outcome)) {
        let Some(in_flight) = self.in_flight.take() else { return };
        for draft in in_flight.drafts.into_iter().rev() {
            let is_it = |it: &&MessageKey| Some((it.user, it.client_message_id)) == draft.key();
            match stored.iter().find(is_it) {
                None => self.put_back(draft),
                Some(stored) => self.end_stored(&draft, stored, &mut end),
            }
        }
    }

    fn end_stored(
        &mut self,
        draft: &Draft,
        stored: &MessageKey,
        end: &mut impl FnMut(Ticket, Outcome),
    ) {
        let outcome = if stored.digest == draft.digest {
            Outcome::Repeated(stored.sequence)
        } else {
            Outcome::Conflict
        };
        end(draft.ticket, outcome);
        let key = (stored.user, stored.client_message_id);
        self.keys.settle_as(key, stored, draft.digest, end);
    }

    /// Ends what is not let in. What is, waits again, in front.
    fn decline(
        &mut self,
        draft: Draft,
        judgement: Judgement,
        end: &mut impl FnMut(Ticket, Outcome),
    ) {
        match judgement {
            Judgement::Take | Judgement::TakeAlone(..) | Judgement::Defer => self.put_back(draft),
            Judgement::AsItIs(what) => end(draft.ticket, Outcome::Changed(what, Sequence::ZERO)),
            Judgement::Refuse(code) if self.may_be_stored(&draft, code) => self.set_aside(draft),
            Judgement::Refuse(code) => {
                self.forget(&draft, code, &mut |ticket, code| end(ticket, Outcome::Refused(code)));
            }
        }
    }

    /// Whether a draft that is to be refused may be in the log. Who may not know of the channel is not
    /// told, whatever was written before.
    fn may_be_stored(&self, draft: &Draft, code: ErrorCode) -> bool {
        let state = draft.key().and_then(|key| self.keys.states.get(&key));
        code != ErrorCode::UnknownChannel
            && matches!(state, Some(KeyState::Waiting { is_new: false, .. }))
    }

    fn set_aside(&mut self, draft: Draft) {
        if let Some(key) = draft.key() {
            self.draft_bytes += draft.record.len();
            self.unasked.push(key);
            self.in_doubt.insert(key, draft);
        }
    }

    /// The keys that the engine has to be asked about, each once.
    pub fn take_unasked(&mut self) -> Vec<(UserId, ClientMessageId)> {
        mem::take(&mut self.unasked)
    }

    /// The engine was asked about these keys, and holds those that are stored. What it does not hold
    /// is judged again, before all else.
    pub fn found(
        &mut self,
        asked: &[(UserId, ClientMessageId)],
        stored: &[MessageKey],
        mut end: impl FnMut(Ticket, Outcome),
    ) {
        let stored: HashMap<Key, &MessageKey> =
            stored.iter().map(|it| ((it.user, it.client_message_id), it)).collect();
        for key in asked.iter().rev() {
            let Some(draft) = self.in_doubt.remove(key) else { continue };
            self.draft_bytes -= draft.record.len();
            if let Some(stored) = stored.get(key) {
                self.end_stored(&draft, stored, &mut end);
                continue;
            }
            if let Some(KeyState::Waiting { is_new, .. }) = self.keys.states.get_mut(key) {
                *is_new = true;
            }
            self.put_back(draft);
        }
    }

    /// The engine cannot say what became of these keys: their drafts end with this code.
    pub fn not_found(
        &mut self,
        asked: &[(UserId, ClientMessageId)],
        code: ErrorCode,
        mut end: impl FnMut(Ticket, ErrorCode),
    ) {
        for key in asked {
            if let Some(draft) = self.in_doubt.remove(key) {
                self.draft_bytes -= draft.record.len();
                self.forget(&draft, code, &mut end);
            }
        }
    }

    /// The batch in flight can no longer be committed: its drafts wait again, in front.
    pub fn retake(&mut self) {
        if let Some(in_flight) = self.in_flight.take() {
            in_flight.drafts.into_iter().rev().for_each(|draft| self.put_back(draft));
        }
    }

    /// The engine refused the batch in flight: its drafts end with this code.
    pub fn refuse_in_flight(&mut self, code: ErrorCode, mut end: impl FnMut(Ticket, ErrorCode)) {
        let Some(in_flight) = self.in_flight.take() else { return };
        for draft in in_flight.drafts {
            self.forget(&draft, code, &mut end);
        }
    }

    /// Everything that waits ends with this code, but for what is in flight.
    pub fn refuse_waiting(&mut self, code: ErrorCode, mut end: impl FnMut(Ticket, ErrorCode)) {
        self.draft_bytes = self.bytes_elsewhere();
        self.changes = 0;
        self.unasked.clear();
        let in_doubt = mem::take(&mut self.in_doubt).into_values();
        let doubted = mem::take(&mut self.doubted).into_iter().chain(mem::take(&mut self.looked));
        let drafts = mem::take(&mut self.drafts).into_iter();
        for draft in drafts.chain(in_doubt).chain(doubted) {
            self.forget(&draft, code, &mut end);
        }
    }

    /// Ends a draft with this code; or with one that does not say that nothing is stored, if another node
    /// may yet write it.
    fn forget(&mut self, draft: &Draft, code: ErrorCode, end: &mut impl FnMut(Ticket, ErrorCode)) {
        let state = draft.key().and_then(|key| self.keys.states.remove(&key));
        let Some(KeyState::Waiting { also, may_come, .. }) = state else {
            return end(draft.ticket, code);
        };
        let code = if may_come { ErrorCode::Busy } else { code };
        end(draft.ticket, code);
        also.into_iter().for_each(|ticket| end(ticket, code));
    }

    fn put_back(&mut self, draft: Draft) {
        self.count(&draft);
        self.drafts.push_front(draft);
    }
}

/// What becomes of a draft that would have this place.
fn judged(judge: &mut Judge<'_>, draft: &Draft, place: Sequence, now_ms: u64) -> Judgement {
    match &draft.wish {
        Wish::Message(author, bytes) => judge.message(*author, *bytes),
        Wish::Change(change) => judge.change(draft.user, change, place, now_ms),
    }
}

/// The keys of what waits and of what was recently committed. Older keys are the engine's to know.
#[derive(Debug, Default)]
struct KeyWindow {
    states: HashMap<Key, KeyState>,
    /// The settled keys, oldest first, at most [`KEY_WINDOW_MAX`].
    settled: VecDeque<Key>,
}

#[derive(Debug)]
enum KeyState {
    /// A draft with this key waits or is in flight; the tickets are those of its later tries. It is new
    /// if the engine was asked, and does not have it. It may come if another node was asked to write it and
    /// has not answered.
    Waiting { digest: u64, also: Vec<Ticket>, is_new: bool, may_come: bool },
    /// The message is in the log.
    Settled { digest: u64, sequence: Sequence },
}

impl KeyState {
    fn meet(&mut self, again: &Draft) -> Accepted {
        match self {
            Self::Waiting { digest, .. } | Self::Settled { digest, .. }
                if *digest != again.digest =>
            {
                Accepted::Conflict
            }
            Self::Settled { sequence, .. } => Accepted::Repeated(*sequence),
            Self::Waiting { also, .. } if also.len() >= RETRIES_WAITING_MAX => Accepted::Busy,
            Self::Waiting { also, .. } => {
                also.push(again.ticket);
                Accepted::Waits
            }
        }
    }
}

/// Later tries that wait for the same message. Beyond it: `busy`.
const RETRIES_WAITING_MAX: usize = 16;

impl KeyWindow {
    fn settle(
        &mut self,
        key: Key,
        sequence: Sequence,
        digest: u64,
        end: &mut impl FnMut(Ticket, Outcome),
    ) {
        let before = self.states.insert(key, KeyState::Settled { digest, sequence });
        if let Some(KeyState::Waiting { also, .. }) = before {
            also.into_iter().for_each(|ticket| end(ticket, Outcome::Repeated(sequence)));
        }
        self.settled.push_back(key);
        if self.settled.len() > KEY_WINDOW_MAX
            && let Some(oldest) = self.settled.pop_front()
        {
            self.states.remove(&oldest);
        }
    }

    /// Settles a key as the engine has it. The later tries that waited said the same as `digest`.
    fn settle_as(
        &mut self,
        key: Key,
        stored: &MessageKey,
        digest: u64,
        end: &mut impl FnMut(Ticket, Outcome),
    ) {
        let conflicts = stored.digest != digest;
        self.settle(key, stored.sequence, stored.digest, &mut |ticket, outcome| {
            end(ticket, if conflicts { Outcome::Conflict } else { outcome });
        });
    }
}

#[cfg(test)]
mod tests;
