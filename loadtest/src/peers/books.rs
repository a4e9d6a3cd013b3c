//! What was sent, who got it, in which order and how late. Hot. Pure: the caller brings the time.
//!
//! Every receiver has to get every message exactly once. Where a contender has one order for all, the
//! first receiver who comes to a place writes down who is there, and everybody else must find the
//! same; that is one comparison for a delivery. Where it has only an order of each author, the place
//! of a message among its author's own is compared.

use super::mark::{self, Mark};
use crate::latency::Latency;

/// Faults that are told in words.
const EVIDENCE_MAX: usize = 5;

#[derive(Debug)]
pub(super) struct Books {
    receivers: usize,
    sent: Vec<Sent>,
    order: Order,
    /// How many of the messages each author has sent.
    by_author: Vec<u32>,
    /// Receivers that still miss it, for each message; only where somebody wants to know.
    missing: Option<Vec<u32>>,
    /// Messages that all receivers have, where it is known.
    complete: u32,
    deliveries: u64,
    /// From intended to received, of messages that were due in the window.
    pub(super) latency: Latency,
    /// In microseconds since the generator began: from the first, to before the second.
    window_us: (u64, u64),
    /// Receivers that got something else than they had to: at most one fault of each is counted.
    is_wrong: Vec<bool>,
    faults: u64,
    evidence: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    due_us: u32,
    author: u32,
    /// Its place among those of its author, from 1.
    ordinal: u32,
}

#[derive(Debug)]
enum Order {
    /// The numbers in the order in which all receivers get them, the newest ordinal of each author
    /// in it, and how far each receiver has come.
    One { log: Vec<u32>, newest: Vec<u32>, at: Vec<u32> },
    /// The newest ordinal that a receiver has of an author, for each of the pairs.
    OfAuthors { newest: Vec<u32> },
}

/// How it ended.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Findings {
    /// Deliveries that never came.
    pub(super) lost: u64,
    /// Receivers that got something twice, in another order, or from nowhere.
    pub(super) faults: u64,
    /// The first faults in words.
    pub(super) evidence: Vec<String>,
}

impl Books {
    pub(super) fn new(receivers: usize, has_one_order: bool, counts_missing: bool) -> Self {
        let order = if has_one_order {
            Order::One { log: Vec::new(), newest: vec![0; receivers], at: vec![0; receivers] }
        } else {
            Order::OfAuthors { newest: vec![0; receivers * receivers] }
        };
        Self {
            receivers,
            sent: Vec::new(),
            order,
            by_author: vec![0; receivers],
            missing: counts_missing.then(Vec::new),
            complete: 0,
            deliveries: 0,
            latency: Latency::new(),
            window_us: (u64::MAX, u64::MAX),
            is_wrong: vec![false; receivers],
            faults: 0,
            evidence: Vec::new(),
        }
    }

    /// Latencies count of messages that are due between these moments.
    pub(super) fn measure(&mut self, from_us: u64, to_us: u64) {
        self.window_us = (from_us, to_us);
    }

    /// The mark of the next message, which this author sends now.
    pub(super) fn send(&mut self, author: usize, due_us: u64) -> Mark {
        let number = self.sent();
        let due_us = u32::try_from(due_us).unwrap_or(u32::MAX);
        self.by_author[author] += 1;
        let ordinal = self.by_author[author];
        let author = u32::try_from(author).expect("connections are far fewer than 2^32");
        self.sent.push(Sent { due_us, author, ordinal });
        if let Some(missing) = &mut self.missing {
            missing.push(u32::try_from(self.receivers).unwrap_or(u32::MAX));
        }
        Mark { number, due_us }
    }

    /// A receiver has got this body at this moment.
    #[inline]
    pub(super) fn deliver(&mut self, receiver: usize, body: &[u8], now_us: u64) {
        let Some(mark) = mark::read(body) else {
            return self.fault(receiver, "a body that is too short");
        };
        let Some(sent) = self.sent.get(mark.number as usize).filter(|it| it.due_us == mark.due_us)
        else {
            return self.fault(receiver, "a message that nobody sent");
        };
        let sent = *sent;
        if !self.order.take(receiver, self.receivers, mark.number, sent) {
            return self.fault(receiver, "not the message that had to be next");
        }
        self.deliveries += 1;
        if let Some(missing) = &mut self.missing {
            let missing = &mut missing[mark.number as usize];
            *missing = missing.saturating_sub(1);
            self.complete += u32::from(*missing == 0);
        }
        let due_us = u64::from(sent.due_us);
        if due_us >= self.window_us.0 && due_us < self.window_us.1 {
            self.latency.record_us(now_us.saturating_sub(due_us));
        }
    }

    /// How many messages were sent.
    pub(super) fn sent(&self) -> u32 {
        u32::try_from(self.sent.len()).expect("a number has 32 bits")
    }

    /// How many right deliveries there were.
    pub(super) fn deliveries(&self) -> u64 {
        self.deliveries
    }

    /// How many are still to come.
    pub(super) fn outstanding(&self) -> u64 {
        u64::from(self.sent()) * self.receivers as u64 - self.deliveries
    }

    /// Messages that not everybody has yet, where it is counted.
    pub(super) fn under_way(&self) -> u32 {
        self.sent() - self.complete
    }

    pub(super) fn findings(&self) -> Findings {
        let lost = self.outstanding();
        Findings { lost, faults: self.faults, evidence: self.evidence.clone() }
    }

    #[cold]
    fn fault(&mut self, receiver: usize, what: &str) {
        // One fault makes everything after it look wrong.
        if std::mem::replace(&mut self.is_wrong[receiver], true) {
            return;
        }
        self.faults += 1;
        if self.evidence.len() < EVIDENCE_MAX {
            self.evidence.push(format!("connection {receiver} got {what}"));
        }
    }
}

impl Order {
    /// Whether this message is what the receiver had to get next.
    #[inline]
    fn take(&mut self, receiver: usize, receivers: usize, number: u32, sent: Sent) -> bool {
        match self {
            Self::One { log, newest, at } => {
                let place = &mut at[receiver];
                match log.get(*place as usize) {
                    Some(&there) if there == number => {}
                    Some(_) => return false,
                    None => {
                        let newest = &mut newest[sent.author as usize];
                        if *newest + 1 != sent.ordinal {
                            return false;
                        }
                        *newest = sent.ordinal;
                        log.push(number);
                    }
                }
                *place += 1;
                true
            }
            Self::OfAuthors { newest } => {
                let newest = &mut newest[receiver * receivers + sent.author as usize];
                let is_next = *newest + 1 == sent.ordinal;
                *newest += u32::from(is_next);
                is_next
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(mark: Mark) -> Vec<u8> {
        let mut body = Vec::new();
        mark::write(&mut body, mark, 0);
        body
    }

    /// Two authors send two messages each, and receivers get these of them.
    fn delivered(has_one_order: bool, got: &[&[usize]]) -> Findings {
        let mut books = Books::new(got.len(), has_one_order, true);
        let bodies: Vec<_> = [0, 1, 0, 1].map(|author| body(books.send(author, 5))).to_vec();
        for (receiver, numbers) in got.iter().enumerate() {
            for &number in *numbers {
                books.deliver(receiver, &bodies[number], 10);
            }
        }
        books.findings()
    }

    #[test]
    fn everything_once_and_in_one_order_is_right_whatever_the_order_of_the_authors() {
        for order in [[0, 1, 2, 3], [1, 0, 3, 2], [0, 2, 1, 3]] {
            assert_eq!(delivered(true, &[&order, &order]), Findings::default());
        }
        assert_eq!(delivered(false, &[&[0, 2, 1, 3], &[1, 3, 0, 2]]), Findings::default());
    }

    #[test]
    fn two_receivers_with_two_orders_are_a_fault_where_there_is_one_order() {
        let findings = delivered(true, &[&[0, 1, 2, 3], &[1, 0, 2, 3]]);
        assert_eq!(findings.faults, 1);
        assert!(findings.evidence[0].contains("connection 1"), "{findings:?}");
    }

    #[test]
    fn what_an_author_sent_in_order_must_come_in_order() {
        for has_one_order in [true, false] {
            let wrong: &[usize] = &[2, 0, 1, 3];
            assert!(delivered(has_one_order, &[wrong, wrong]).faults > 0);
        }
    }

    #[test]
    fn a_gap_is_lost_and_a_repeat_is_a_fault() {
        for has_one_order in [true, false] {
            let whole: &[usize] = &[0, 1, 2, 3];
            assert_eq!(delivered(has_one_order, &[whole, &[0, 1, 2]]).lost, 1);
            assert!(delivered(has_one_order, &[whole, &[0, 1, 3]]).lost > 0);
            let repeated = delivered(has_one_order, &[whole, &[0, 1, 2, 3, 3]]);
            assert_eq!((repeated.lost, repeated.faults), (0, 1));
        }
    }

    #[test]
    fn a_message_from_nowhere_is_a_fault() {
        let mut books = Books::new(1, true, false);
        let mark = books.send(0, 5);
        books.deliver(0, &body(Mark { number: mark.number + 1, ..mark }), 10);
        assert_eq!((books.findings().faults, books.deliveries()), (1, 0));
        let mut books = Books::new(1, true, false);
        books.send(0, 5);
        books.deliver(0, b"short", 10);
        assert_eq!(books.findings().faults, 1);
    }

    #[test]
    fn latency_is_from_the_intended_moment_and_of_the_window_only() {
        let mut books = Books::new(1, true, true);
        books.measure(1_000, 2_000);
        for due_us in [999, 1_000, 1_999, 2_000] {
            let mark = books.send(0, due_us);
            assert_eq!(books.under_way(), 1);
            books.deliver(0, &body(mark), due_us + 700);
        }
        assert_eq!((books.latency.count(), books.under_way(), books.outstanding()), (2, 0, 0));
        assert!((books.latency.max() - 0.7).abs() < 0.01);
    }
}
