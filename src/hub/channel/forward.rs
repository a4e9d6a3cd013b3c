//! What the owner of the channel writes for this node, and when its sender may know. Hot.
//!
//! The owner's answer says where a publish is; its sender is told when the log has brought that place
//! here, after the subscribers: commit, fan-out, reply.

use super::{Channel, Effect, refused};
use crate::{
    engine::bus::NodeId,
    hub::sequencer::Answered,
    log::place::{BatchId, Epoch},
};

impl Channel {
    /// Forwards what waits in front to the owner, as far as it has numbers. Whether there was any.
    pub fn forward(&mut self, id: BatchId, to: NodeId, effects: &mut Vec<Effect>) -> bool {
        if !self.is_ready_to_append() {
            return false;
        }
        let publishes = self.sequencer.forward(id);
        let is_any = !publishes.is_empty();
        if is_any {
            effects.push(Effect::Forward(id, to, publishes));
        }
        is_any
    }

    /// The answer to [`Effect::Forward`]; none, or one that says less than was asked: the rest is written
    /// from here.
    pub fn forwarded(
        &mut self,
        id: BatchId,
        epoch: Epoch,
        answers: &[Answered],
        effects: &mut Vec<Effect>,
    ) {
        // Sequences of another life of the log say nothing here: the numbers find out.
        let is_other = epoch != self.head.epoch
            && answers.iter().any(|answer| matches!(answer, Answered::Stored(..)));
        let answers = if is_other { &[] } else { answers };
        let mut ended = Vec::new();
        self.sequencer.answered(id, answers, &mut |ticket, outcome| ended.push((ticket, outcome)));
        effects.extend(ended.into_iter().map(|(ticket, outcome)| self.end(ticket, outcome)));
        self.land(effects);
        if let Some(code) = self.state.refusal() {
            // The channel ended while the owner was asked.
            return self.end_all(code, effects);
        }
        if self.sequencer.is_landing() && !self.is_seeking {
            self.is_seeking = true;
            effects.push(Effect::SeekLater);
        }
    }

    /// Looks for what the owner has written and nobody has brought.
    pub fn seek(&mut self, effects: &mut Vec<Effect>) {
        self.is_seeking = self.sequencer.is_landing();
        if self.is_seeking {
            self.sequencer.seek();
            self.catch_up(effects);
            effects.push(Effect::SeekLater);
        }
    }

    /// Answers those whose publish the owner has written up to the head.
    pub(super) fn land(&mut self, effects: &mut Vec<Effect>) {
        if self.sequencer.is_landing() {
            let mut ended = Vec::new();
            let mut end = |ticket, outcome| ended.push((ticket, outcome));
            self.sequencer.land(self.head.sequence, &mut end);
            effects.extend(ended.into_iter().map(|(ticket, outcome)| self.end(ticket, outcome)));
        }
    }

    pub(super) fn refuse_landing(
        &mut self,
        code: crate::wire::code::ErrorCode,
        effects: &mut Vec<Effect>,
    ) {
        let end = |ticket, code| effects.push(refused(ticket, code));
        self.sequencer.refuse_landing(code, end);
    }
}
