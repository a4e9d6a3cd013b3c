//! What the owner of the channel writes for this node. Hot. Pure.
//!
//! Only drafts with a number are forwarded: whatever becomes of the question or its answer, the number
//! keeps them from being in the log twice, so they can be written from here after all. One forward at a
//! time, as one batch: so what a user says stays in its order.

use bytes::Bytes;

use super::{Draft, Forwarded, KeyState, Landing, Outcome, Sequencer, Wish};
use crate::{
    hub::{Asked, Ticket, rights::Author},
    limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX},
    log::place::{BatchId, ClientMessageId, Sequence, UserId},
    wire::{code::ErrorCode, record},
};

/// A publish as another node is asked for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForwardedPublish {
    /// Who publishes.
    pub user: UserId,
    /// The client's number for it.
    pub client_message_id: ClientMessageId,
    /// What it says.
    pub body: Bytes,
}

/// What has become of a forwarded publish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answered {
    /// It is in the log, since this time; 0: since earlier.
    Stored(Sequence, u64),
    /// The owner does not take it.
    Refused(ErrorCode),
}

impl Draft {
    /// The draft as the owner is asked for it, if it can be.
    fn forwarded(&self) -> Option<ForwardedPublish> {
        let Wish::Message(Author::User(user), _) = self.wish else { return None };
        // What another node has asked for is not passed on: two who take each other for the owner would pass
        // it to and fro.
        let client_message_id =
            self.client_message_id.filter(|_| self.ticket.asked != Asked::Call)?;
        record::body(&self.record).map(|body| ForwardedPublish { user, client_message_id, body })
    }
}

impl Sequencer {
    /// Takes what waits in front and can be forwarded. The answer has this id.
    pub fn forward(&mut self, id: BatchId) -> Vec<ForwardedPublish> {
        let (mut drafts, mut publishes, mut bytes) = (Vec::new(), Vec::new(), 0);
        if !self.is_ready() {
            return publishes;
        }
        while let Some(publish) = self.drafts.front().and_then(Draft::forwarded) {
            bytes += publish.body.len();
            let is_full = publishes.len() == BATCH_MESSAGES_MAX || bytes > BATCH_BYTES_MAX;
            if is_full && !publishes.is_empty() {
                break;
            }
            let Some(draft) = self.pop() else { break };
            // It may be in the log from now on.
            if let Some(KeyState::Waiting { is_new, .. }) =
                draft.key().and_then(|key| self.keys.states.get_mut(&key))
            {
                *is_new = false;
            }
            self.draft_bytes += draft.record.len();
            publishes.push(publish);
            drafts.push(draft);
        }
        if !drafts.is_empty() {
            self.forwarded = Some(Forwarded { id, drafts });
        }
        publishes
    }

    /// The owner's answer to the forward with this id, as far as it has one: what it says nothing of, or
    /// that may pass elsewhere, waits again, in front.
    pub fn answered(
        &mut self,
        id: BatchId,
        answers: &[Answered],
        end: &mut impl FnMut(Ticket, Outcome),
    ) {
        let Some(forwarded) = self.forwarded.take_if(|it| it.id == id) else { return };
        let mut answers = answers.iter();
        let mut back = Vec::new();
        for draft in forwarded.drafts {
            self.draft_bytes -= draft.record.len();
            match answers.next() {
                Some(&Answered::Stored(sequence, timestamp_ms)) => {
                    self.draft_bytes += draft.record.len();
                    let is_sought = false;
                    self.landing.push(Landing { draft, sequence, timestamp_ms, is_sought });
                }
                Some(Answered::Refused(code)) if !code.again() => {
                    let mut end = |ticket, code| end(ticket, Outcome::Refused(code));
                    self.forget(&draft, *code, &mut end);
                }
                Some(Answered::Refused(_)) => back.push(draft),
                None => {
                    if let Some(KeyState::Waiting { may_come, .. }) =
                        draft.key().and_then(|key| self.keys.states.get_mut(&key))
                    {
                        *may_come = true;
                    }
                    back.push(draft);
                }
            }
        }
        back.into_iter().rev().for_each(|draft| self.put_back(draft));
    }

    /// The log has been applied up to this sequence: ends what the owner has written there.
    pub fn land(&mut self, head: Sequence, end: &mut impl FnMut(Ticket, Outcome)) {
        if self.landing.is_empty() {
            return;
        }
        for landed in self.landing.extract_if(.., |it| it.sequence <= head).collect::<Vec<_>>() {
            let Landing { draft, sequence, timestamp_ms, .. } = landed;
            self.draft_bytes -= draft.record.len();
            end(draft.ticket, Outcome::Landed(sequence, timestamp_ms));
            if let Some(key) = draft.key() {
                self.keys.settle(key, sequence, draft.digest, end);
            }
        }
    }

    /// Whether the owner has written something that the log has not brought yet.
    #[must_use]
    pub const fn is_landing(&self) -> bool {
        !self.landing.is_empty()
    }

    /// The log is about to be read for it.
    pub fn seek(&mut self) {
        self.landing.iter_mut().for_each(|landing| landing.is_sought = true);
    }

    /// The log was read to its end: what was sought and is not there waits again, in front.
    pub fn not_landed(&mut self) {
        let missing: Vec<_> = self.landing.extract_if(.., |it| it.is_sought).collect();
        for landing in missing.into_iter().rev() {
            self.draft_bytes -= landing.draft.record.len();
            self.put_back(landing.draft);
        }
    }

    /// Nothing is applied any more: what has not landed ends with this code.
    pub fn refuse_landing(&mut self, code: ErrorCode, mut end: impl FnMut(Ticket, ErrorCode)) {
        for landing in std::mem::take(&mut self.landing) {
            self.draft_bytes -= landing.draft.record.len();
            self.forget(&landing.draft, code, &mut end);
        }
    }

    /// How many drafts are with the owner, or on the way from there.
    pub(super) fn elsewhere(&self) -> usize {
        self.forwarded.as_ref().map_or(0, |it| it.drafts.len()) + self.landing.len()
    }

    pub(super) fn bytes_elsewhere(&self) -> usize {
        let forwarded = self.forwarded.iter().flat_map(|it| &it.drafts);
        let drafts = forwarded.chain(self.landing.iter().map(|it| &it.draft));
        drafts.map(|draft| draft.record.len()).sum()
    }
}
