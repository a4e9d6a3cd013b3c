//! What was promised about a channel with a quota, and whether its history keeps it. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// Sentences about what is wrong; beyond these they are only counted.
const EVIDENCE_MAX: usize = 10;

/// The last word that each post got.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    /// The sequence of each post that was accepted.
    accepted: BTreeMap<u64, u64>,
    /// Those that were told that the quota is exhausted.
    refused: BTreeSet<u64>,
    /// Those that got no last word, and what was said instead.
    unanswered: BTreeMap<u64, String>,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Verdict {
    pub(super) violations: u64,
    /// The first of them.
    pub(super) evidence: Vec<String>,
}

impl Ledger {
    pub(super) fn accept(&mut self, post: u64, sequence: u64) {
        self.accepted.insert(post, sequence);
    }

    pub(super) fn refuse(&mut self, post: u64) {
        self.refused.insert(post);
    }

    pub(super) fn give_up(&mut self, post: u64, said: String) {
        self.unanswered.insert(post, said);
    }

    pub(super) fn accepted(&self) -> u64 {
        self.accepted.len() as u64
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.len() as u64
    }

    /// Of all posts that were answered.
    pub(super) fn answered(&self) -> u64 {
        self.accepted() + self.refused()
    }

    /// Compares it with the history, whose messages are to be so many: the sequence and the body of
    /// each.
    pub(super) fn judge(&self, history: &[(u64, String)], messages_max: u64) -> Verdict {
        let mut verdict = Verdict::default();
        for (post, said) in &self.unanswered {
            verdict.add(format!("post {post} got no last word: {said}"));
        }
        if history.len() as u64 != messages_max {
            verdict.add(format!("history has {} messages, and not {messages_max}", history.len()));
        }
        let mut places: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (sequence, body) in history {
            match post(body) {
                Some(post) => places.entry(post).or_default().push(*sequence),
                None => verdict.add(format!("nobody posted what stands at {sequence}")),
            }
        }
        for (post, accepted) in &self.accepted {
            let found = places.get(post).map_or(&[][..], Vec::as_slice);
            if found != [*accepted] {
                verdict.add(format!("post {post} was accepted as {accepted}, and is at {found:?}"));
            }
        }
        for (post, found) in &places {
            if self.refused.contains(post) {
                verdict.add(format!("post {post} was refused, and is at {found:?}"));
            } else if !self.accepted.contains_key(post) && !self.unanswered.contains_key(post) {
                verdict.add(format!("post {post} was never made, and is at {found:?}"));
            }
        }
        verdict
    }
}

impl Verdict {
    fn add(&mut self, what: String) {
        self.violations += 1;
        if self.evidence.len() < EVIDENCE_MAX {
            self.evidence.push(what);
        }
    }
}

/// The body of a post, by which it is found again.
pub(super) fn body(post: u64) -> String {
    format!("post {post}")
}

fn post(body: &str) -> Option<u64> {
    body.strip_prefix("post ")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Posts 0 to 4 for three places, as it should be.
    fn sound() -> (Ledger, Vec<(u64, String)>) {
        let mut ledger = Ledger::default();
        let history: Vec<_> =
            [2, 0, 4].into_iter().map(body).zip(1..).map(|it| (it.1, it.0)).collect();
        [(2, 1), (0, 2), (4, 3)].into_iter().for_each(|it| ledger.accept(it.0, it.1));
        [1, 3].into_iter().for_each(|it| ledger.refuse(it));
        (ledger, history)
    }

    fn complaint(ledger: &Ledger, history: &[(u64, String)], quota: u64) -> String {
        let verdict = ledger.judge(history, quota);
        assert_eq!(verdict.violations as usize, verdict.evidence.len());
        verdict.evidence.join("; ")
    }

    #[test]
    fn who_has_a_place_was_accepted_and_all_others_were_refused() {
        let (ledger, history) = sound();
        assert_eq!(ledger.judge(&history, 3), Verdict::default());
        assert_eq!((ledger.accepted(), ledger.refused(), ledger.answered()), (3, 2, 5));
    }

    #[test]
    fn a_history_of_another_length_is_a_violation() {
        let (ledger, history) = sound();
        assert_eq!(complaint(&ledger, &history, 4), "history has 3 messages, and not 4");
    }

    #[test]
    fn what_was_accepted_and_is_not_there_or_twice_or_elsewhere_is_a_violation() {
        let (ledger, mut history) = sound();
        history[1].0 = 9;
        assert_eq!(complaint(&ledger, &history, 3), "post 0 was accepted as 2, and is at [9]");
        history.push((2, body(0)));
        assert_eq!(complaint(&ledger, &history, 4), "post 0 was accepted as 2, and is at [9, 2]");
        let (ledger, mut history) = sound();
        history[2].1 = body(2);
        let told = complaint(&ledger, &history, 3);
        let expected =
            "post 2 was accepted as 1, and is at [1, 3]; post 4 was accepted as 3, and is at []";
        assert_eq!(told, expected);
    }

    #[test]
    fn what_was_refused_or_never_made_and_is_there_is_a_violation() {
        let (ledger, mut history) = sound();
        history.push((4, body(3)));
        assert_eq!(complaint(&ledger, &history, 4), "post 3 was refused, and is at [4]");
        history[3].1 = body(77);
        assert_eq!(complaint(&ledger, &history, 4), "post 77 was never made, and is at [4]");
        history[3].1 = "hello".to_owned();
        assert_eq!(complaint(&ledger, &history, 4), "nobody posted what stands at 4");
    }

    #[test]
    fn a_post_without_a_last_word_is_a_violation_wherever_it_is() {
        let (mut ledger, history) = sound();
        ledger.give_up(7, "503".to_owned());
        assert_eq!(complaint(&ledger, &history, 3), "post 7 got no last word: 503");
    }

    #[test]
    fn all_violations_are_counted_and_the_first_are_told() {
        let (ledger, _) = sound();
        let strangers: Vec<_> = (1..=50).map(|it| (it, "x".to_owned())).collect();
        let verdict = ledger.judge(&strangers, 50);
        assert_eq!((verdict.violations, verdict.evidence.len()), (53, EVIDENCE_MAX));
    }
}
