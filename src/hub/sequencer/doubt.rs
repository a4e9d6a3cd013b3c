//! What is not let in here, and may be allowed already. Pure.
//!
//! Another node may have written, and been thanked for, what allows a draft, and this node's feed not have
//! brought it yet. So where there are other nodes a refusal is final when the log was looked at since the
//! draft came, and until then the draft waits here. On a single node there is none of it.

use super::{Draft, Judge, KeyState, Outcome, Sequence, Sequencer, Ticket, judged};
use crate::hub::rights::Judgement;

impl Sequencer {
    /// There are other nodes.
    pub const fn doubt_refusals(&mut self) {
        self.doubts = true;
    }

    /// Whether a look at the log is waited for.
    #[must_use]
    pub const fn is_doubting(&self) -> bool {
        !self.doubted.is_empty()
    }

    /// The log was looked at: what was not let in is judged once more, before all else.
    pub fn looked(&mut self) {
        self.looked.append(&mut self.doubted);
    }

    /// Whether a draft that is not let in may be allowed already.
    pub(super) fn is_doubtful(&self, draft: &Draft, no: &Judgement) -> bool {
        let is_old = matches!(no, Judgement::Refuse(code) if code.again());
        // Who has been asked for in the engine was judged after a look.
        let state = draft.key().and_then(|key| self.keys.states.get(&key));
        let was_looked_for = matches!(state, Some(KeyState::Waiting { is_new: true, .. }));
        self.doubts && !is_old && !was_looked_for
    }

    pub(super) fn doubt(&mut self, draft: Draft) {
        self.count(&draft);
        self.doubted.push(draft);
    }

    /// Judges those that waited for a look, each by what is so now. Who is let in waits again, in front.
    pub(super) fn judge_again(
        &mut self,
        judge: &Judge<'_>,
        place: Sequence,
        now_ms: u64,
        end: &mut impl FnMut(Ticket, Outcome),
    ) {
        for draft in std::mem::take(&mut self.looked).into_iter().rev() {
            self.uncount(&draft);
            let judgement = judged(&mut judge.afresh(), &draft, place, now_ms);
            self.decline(draft, judgement, end);
        }
    }
}
