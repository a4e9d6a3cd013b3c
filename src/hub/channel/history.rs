//! Pages of a channel's history.

use super::{Channel, Effect, Purpose, Ticket, Waiting, refused};
use crate::{
    engine::ReadFrom,
    limits::DRAFTS_MAX,
    log::{
        batch::Entry,
        place::{Sequence, UserId},
    },
    wire::{
        code::ErrorCode,
        decode::{Page, PageFrom},
        encode::{Reply, Run},
    },
};

impl Channel {
    /// Reads a page.
    pub fn history(&mut self, ticket: Ticket, user: UserId, page: Page, effects: &mut Vec<Effect>) {
        if let Some(code) = self.state.refusal() {
            effects.push(refused(ticket, code));
        } else if self.may_serve() {
            self.history_now(ticket, user, page, false, effects);
        } else if self.waiting.len() < DRAFTS_MAX {
            self.waiting.push(Waiting::History(ticket, user, page));
            self.prepare(effects);
        } else {
            effects.push(refused(ticket, ErrorCode::Busy));
        }
    }

    pub(super) fn history_now(
        &mut self,
        ticket: Ticket,
        user: UserId,
        page: Page,
        is_current: bool,
        effects: &mut Vec<Effect>,
    ) {
        if let Err(code) = self.may_read(user) {
            let waiting = Waiting::History(ticket, user, page);
            return self.decline(waiting, code, is_current, effects);
        }
        let head = self.head.sequence;
        // Pages end at the head and not at the log's end, where entries may lie that are not applied
        // yet: a page of those alone would be cut to nothing.
        let ending_with = |last: Sequence| (last.0 > 0).then_some(ReadFrom::EndingWith(last));
        // A client may name any sequence, also the largest, which has no next one.
        let from = match page.from {
            PageFrom::Newest => ending_with(head),
            PageFrom::Before(before) => ending_with(head.min(Sequence(before.0.saturating_sub(1)))),
            PageFrom::After(after) if after >= head => None,
            PageFrom::After(after) => Some(ReadFrom::Holding(after.next())),
        };
        match from {
            Some(from) => {
                self.history_reads += 1;
                effects.push(Effect::Read(from, Purpose::History(ticket, user, page)));
            }
            None => effects.push(self.page(ticket, page, &[])),
        }
    }

    /// A page has been read. What was read may be newer than the right to read it.
    pub(super) fn history_read(
        &mut self,
        ticket: Ticket,
        user: UserId,
        page: Page,
        entries: &[Entry],
        effects: &mut Vec<Effect>,
    ) {
        if !self.may_serve() {
            // It ends, or is read again when it is known who may read.
            return self.history(ticket, user, page, effects);
        }
        effects.push(match self.may_read(user) {
            Ok(()) => self.page(ticket, page, entries),
            Err(code) => refused(ticket, code),
        });
    }

    fn page(&self, ticket: Ticket, page: Page, entries: &[Entry]) -> Effect {
        let runs = cut_page(page, self.head.sequence, entries);
        let head = self.head.position();
        Effect::Reply(ticket, Reply::History { channel: self.id, head, runs })
    }
}

/// Cuts what was read to what was asked for, and to what has been applied here.
fn cut_page(page: Page, head: Sequence, entries: &[Entry]) -> Vec<Run> {
    let (Some(oldest), Some(newest)) = (entries.first(), entries.last()) else { return Vec::new() };
    let limit = u64::from(page.limit);
    let (first, last) = (oldest.batch.first_sequence, newest.batch.last_sequence().min(head));
    let (first, last) = match page.from {
        PageFrom::After(after) => {
            let first = first.max(after.next());
            (first, last.min(Sequence(first.0 + limit - 1)))
        }
        PageFrom::Newest | PageFrom::Before(_) => {
            let last = match page.from {
                PageFrom::Before(before) => last.min(Sequence(before.0.saturating_sub(1))),
                _ => last,
            };
            (first.max(Sequence((last.0 + 1).saturating_sub(limit))), last)
        }
    };
    entries.iter().filter_map(|entry| Run::between(&entry.batch, first, last)).collect()
}
