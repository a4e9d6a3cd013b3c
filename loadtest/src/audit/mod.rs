//! What must hold of a server's channels, checked against what its users saw. Pure.
//!
//! Three witnesses are compared: the acknowledgements that publishers got, the deliveries that
//! readers got, and history. Every reader has every sequence once and in order; every sequence means
//! the same message to all; nobody gets what it is not subscribed to; nothing is delivered that
//! history does not have at that moment; every acknowledged message is in history at its sequence;
//! and history holds nothing that nobody published, and nothing twice.

pub(crate) mod earlier;

/// A message by its author, its author's number for it, and its body.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Digest(u64);

impl Digest {
    /// Hot: once per delivery.
    pub(crate) fn new(_author: u32, _id: u64, _body: &[u8]) -> Self {
        todo!()
    }
}

/// One subscription of one user, as the audit counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reader(u32);

/// One channel, as the audit counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place(u32);

/// The audit of one run.
#[derive(Debug, Default)]
pub(crate) struct Audit {}

impl Audit {
    /// An empty channel of this name.
    pub(crate) fn channel(&mut self, _name: &str) -> Place {
        todo!()
    }

    /// A user, by its number, subscribed for the first time; everything after `head` is due to it.
    pub(crate) fn subscribed(&mut self, _user: u32, _place: Place, _head: u64) -> Reader {
        todo!()
    }

    /// What the reader got last: where it resumes from.
    pub(crate) fn last(&self, _reader: Reader) -> u64 {
        todo!()
    }

    /// A message is about to be published. Whether it will be is open.
    pub(crate) fn publishing(&mut self, _place: Place, _message: Digest) {
        todo!()
    }

    /// A publish was acknowledged.
    pub(crate) fn acknowledged(&mut self, _place: Place, _sequence: u64, _message: Digest) {
        todo!()
    }

    /// A reader got a message. Hot. Answers whether nobody was known to have this sequence before:
    /// then it is time to ask history for it.
    pub(crate) fn delivered(&mut self, _reader: Reader, _sequence: u64, _message: Digest) -> bool {
        todo!()
    }

    /// A user got messages of a channel that it is not subscribed to.
    pub(crate) fn leaked(&mut self, _user: u32, _channel_id: u32, _first_sequence: u64) {
        todo!()
    }

    /// A reader was told to look for these messages in history, which it need not: history is read
    /// anyhow.
    pub(crate) fn skipped(&mut self, _reader: Reader, _from: u64, _to: u64) {
        todo!()
    }

    /// A reader was told that what it has is void.
    pub(crate) fn started_over(&mut self, _reader: Reader, _head: u64) {
        todo!()
    }

    /// A reader is about to unsubscribe: all that is acknowledged to anybody by now is due to it.
    pub(crate) fn leaving(&mut self, _reader: Reader) {
        todo!()
    }

    /// Its unsubscribe was answered: nothing more is due to it.
    pub(crate) fn left(&mut self, _reader: Reader) {
        todo!()
    }

    /// A reader is given up without an audit of its end: it was slow on purpose, and was closed.
    pub(crate) fn given_up(&mut self, _reader: Reader) {
        todo!()
    }

    /// A user ended by itself, or was refused what it must not be refused.
    pub(crate) fn ended(&mut self, _user: u32, _error: String) {
        todo!()
    }

    /// History was asked for `sequence` after somebody had got it, and answered with this head and
    /// the message at it, if it had one.
    pub(crate) fn probed(
        &mut self,
        _place: Place,
        _sequence: u64,
        _head: u64,
        _message: Option<Digest>,
    ) {
        todo!()
    }

    /// History is read from the beginning.
    pub(crate) fn begin_history(&mut self) {
        todo!()
    }

    /// Up to where history was read.
    pub(crate) fn history_read(&self, _place: Place) -> u64 {
        todo!()
    }

    /// The next message of history.
    pub(crate) fn history(&mut self, _place: Place, _sequence: u64, _message: Digest) {
        todo!()
    }

    /// History ends here. Whatever was acknowledged or delivered before this reading of history
    /// began lies before its end.
    pub(crate) fn end_history(&mut self, _place: Place, _head: u64) {
        todo!()
    }

    /// Whether every reader that has not left has got everything up to the head.
    pub(crate) fn is_complete(&self, _place: Place, _head: u64) -> bool {
        todo!()
    }

    /// Nothing more comes: whoever has not got everything up to the head has missed it.
    pub(crate) fn end_delivery(&mut self, _place: Place, _head: u64) {
        todo!()
    }

    /// Violations so far.
    pub(crate) fn violations(&self) -> u64 {
        todo!()
    }

    pub(crate) fn findings(&self) -> Findings {
        todo!()
    }
}

/// What the audit found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    pub(crate) violations: u64,
    /// The first of them, a sentence each.
    pub(crate) evidence: Vec<String>,
    /// Deliveries that were due and did not come.
    pub(crate) lost: u64,
    /// Acknowledged messages that history does not have.
    pub(crate) acknowledged_lost: u64,
    /// Messages that history was asked for as soon as they were delivered.
    pub(crate) probed: u64,
}
