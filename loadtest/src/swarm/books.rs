//! The books of a run: each message and its times, the latencies, the counts, the audit. Hot.
//!
//! A message's id is its place in the list of all messages, plus one. Whoever receives it finds the
//! moment at which it was due by that, without reading its body.

use std::{collections::BTreeMap, time::Duration};

use super::{Harvest, Latencies, PartLatencies, Returns, Stormed, Totals, scan::Record};
use crate::{
    audit::{Audit, Digest, Place, Reader},
    latency::Latency,
    outcome::Second,
};

/// One message, from the moment at which it was due.
#[derive(Clone, Copy, Debug)]
struct Message {
    intended_us: u64,
    /// When the first and the last receiver had it, after that moment. `NOBODY` and 0 at first.
    first_us: u32,
    last_us: u32,
    /// Whether it was due on the plateau.
    is_measured: bool,
}

const NOBODY: u32 = u32::MAX;

/// Different errors that are counted by themselves. The rest is counted together.
const ERRORS_MAX: usize = 100;
const OTHER_ERRORS: &str = "other errors";

/// What is being counted in the second that goes on.
#[derive(Debug)]
struct OpenSecond {
    began_us: u64,
    /// Deliveries of messages that were due on the plateau, and of the others.
    measured: Latency,
    unmeasured: Latency,
    ack: Latency,
    login: Latency,
    messages: u64,
    acks: u64,
    deliveries: u64,
    errors: u64,
    reconnects: u64,
    lag_max_us: u64,
}

impl OpenSecond {
    fn new() -> Self {
        Self {
            began_us: 0,
            measured: Latency::new(),
            unmeasured: Latency::new(),
            ack: Latency::new(),
            login: Latency::new(),
            messages: 0,
            acks: 0,
            deliveries: 0,
            errors: 0,
            reconnects: 0,
            lag_max_us: 0,
        }
    }
}

/// All that is written down.
#[derive(Debug)]
pub(crate) struct Books {
    messages: Vec<Message>,
    second: OpenSecond,
    latencies: Latencies,
    /// Of a plateau with a storm.
    pub(super) parts: Option<Box<PartLatencies>>,
    pub(crate) totals: Totals,
    pub(crate) audit: Audit,
    errors: BTreeMap<String, u64>,
    pub(crate) server_version: Option<String>,
}

impl Default for Books {
    fn default() -> Self {
        let new = Latency::new;
        Self {
            messages: Vec::new(),
            second: OpenSecond::new(),
            latencies: Latencies {
                handshake: new(),
                login: new(),
                subscribe: new(),
                reconnect: new(),
                ack: new(),
                first: new(),
                last: new(),
                deliver: new(),
                lag: new(),
            },
            parts: None,
            totals: Totals::default(),
            audit: Audit::default(),
            errors: BTreeMap::new(),
            server_version: None,
        }
    }
}

impl Books {
    /// A message came due, and the loop came to it now. Answers its id.
    pub(crate) fn due(&mut self, intended_us: u64, is_measured: bool, now_us: u64) -> u64 {
        let lag_us = now_us.saturating_sub(intended_us);
        self.second.lag_max_us = self.second.lag_max_us.max(lag_us);
        if is_measured {
            self.latencies.lag.record_us(lag_us);
        }
        self.messages.push(Message { intended_us, first_us: NOBODY, last_us: 0, is_measured });
        self.messages.len() as u64
    }

    /// It is sent, for the first time.
    pub(crate) fn publishing(&mut self, id: u64, place: Place, digest: Digest) {
        self.audit.publishing(place, digest);
        self.second.messages += 1;
        self.totals.messages += 1;
        let is_measured = self.message(id).is_some_and(|message| message.is_measured);
        self.totals.plateau_messages += u64::from(is_measured);
    }

    pub(crate) fn acknowledged(
        &mut self,
        id: u64,
        place: Place,
        sequence: u64,
        digest: Digest,
        now_us: u64,
    ) {
        self.audit.acknowledged(place, sequence, digest);
        self.second.acks += 1;
        self.totals.acks += 1;
        let Some(message) = self.message(id).copied() else { return };
        let us = now_us.saturating_sub(message.intended_us);
        self.second.ack.record_us(us);
        if message.is_measured {
            self.latencies.ack.record_us(us);
        }
    }

    /// A reader got a message. Answers whether it is the first of all readers.
    ///
    /// How long it took counts unless the reader is slow on purpose: that would say nothing about
    /// the server.
    #[inline]
    pub(crate) fn delivered(
        &mut self,
        reader: Reader,
        sequence: u64,
        record: &Record<'_>,
        is_slow: bool,
        now_us: u64,
    ) -> bool {
        let digest = Digest::new(record.user_id, record.client_message_id, record.body);
        let is_new = self.audit.delivered(reader, sequence, digest);
        self.second.deliveries += 1;
        if is_slow {
            return is_new;
        }
        // An id that nobody gave is the audit's business: it finds a foreign message.
        if let Some(message) = self.message(record.client_message_id) {
            let us = now_us.saturating_sub(message.intended_us);
            let short_us = u32::try_from(us).unwrap_or(NOBODY - 1);
            message.first_us = message.first_us.min(short_us);
            message.last_us = message.last_us.max(short_us);
            let (is_measured, intended_us) = (message.is_measured, message.intended_us);
            if is_measured {
                self.second.measured.record_us(us);
                if let Some(parts) = &mut self.parts {
                    parts.record(intended_us, us);
                }
            } else {
                self.second.unmeasured.record_us(us);
            }
        }
        is_new
    }

    #[inline]
    fn message(&mut self, id: u64) -> Option<&mut Message> {
        let index = usize::try_from(id.checked_sub(1)?).ok()?;
        self.messages.get_mut(index)
    }

    pub(crate) fn handshake(&mut self, us: u64) {
        self.latencies.handshake.record_us(us);
    }

    pub(crate) fn login(&mut self, us: u64) {
        self.latencies.login.record_us(us);
        self.second.login.record_us(us);
    }

    pub(crate) fn subscribe(&mut self, us: u64) {
        self.latencies.subscribe.record_us(us);
    }

    /// A user who was cut off is in all its channels again.
    pub(crate) fn resumed(&mut self, us: u64) {
        self.latencies.reconnect.record_us(us);
    }

    pub(crate) fn reconnect(&mut self) {
        self.second.reconnects += 1;
        self.totals.reconnects += 1;
    }

    /// A failed attempt or a broken connection, by what was said.
    pub(crate) fn error(&mut self, text: &str) {
        self.second.errors += 1;
        if let Some(count) = self.errors.get_mut(text) {
            *count += 1;
        } else {
            // The server has a say in these texts.
            let text = if self.errors.len() < ERRORS_MAX { text } else { OTHER_ERRORS };
            *self.errors.entry(text.to_owned()).or_default() += 1;
        }
    }

    /// Ends the second that goes on.
    pub(crate) fn end_second(&mut self, moment: Moment) -> Second {
        let second = &mut self.second;
        // Each delivery is recorded once, in its second; the sum is made here.
        self.latencies.deliver.add(&second.measured);
        self.totals.plateau_deliveries += second.measured.count();
        self.totals.deliveries += second.deliveries;
        second.measured.add(&second.unmeasured);
        let lasted_us = moment.at_us.saturating_sub(second.began_us).max(1);
        #[expect(clippy::cast_precision_loss, reason = "a run has far less than 2^52 µs")]
        let [at, lasted, lag_max] =
            [moment.at_us, lasted_us, second.lag_max_us].map(|us| us as f64 / 1e6);
        let ended = Second {
            at,
            connected: moment.connected,
            active: moment.active,
            messages: second.messages,
            acks: second.acks,
            deliveries: second.deliveries,
            errors: second.errors,
            reconnects: second.reconnects,
            deliver: second.measured.five(),
            ack: second.ack.five(),
            login: second.login.five(),
            lag_max: lag_max * 1e3,
            generator_cpu: moment.cpu.as_secs_f64() / lasted * 100.0,
            ..Second::default()
        };
        second.began_us = moment.at_us;
        let latencies =
            [&mut second.measured, &mut second.unmeasured, &mut second.ack, &mut second.login];
        for latency in latencies.into_iter().filter(|latency| latency.count() > 0) {
            latency.clear();
        }
        (second.messages, second.acks, second.deliveries) = (0, 0, 0);
        (second.errors, second.reconnects, second.lag_max_us) = (0, 0, 0);
        ended
    }

    /// The sum of all, once the last second has ended.
    pub(crate) fn harvest(mut self, returns: Returns, stormed: Option<Stormed>) -> Harvest {
        for message in self.messages.iter().filter(|it| it.is_measured && it.first_us != NOBODY) {
            self.latencies.first.record_us(message.first_us.into());
            self.latencies.last.record_us(message.last_us.into());
        }
        Harvest {
            latencies: self.latencies,
            totals: self.totals,
            findings: self.audit.findings(),
            returns,
            storm: stormed.zip(self.parts).map(|(it, parts)| Box::new((it, *parts))),
            errors: self.errors,
            server_version: self.server_version,
        }
    }
}

/// What the loop knows at the end of a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) at_us: u64,
    pub(crate) connected: u32,
    pub(crate) active: u32,
    pub(crate) cpu: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment() -> Moment {
        let cpu = Duration::ZERO;
        Moment { at_us: 1_000_000, connected: 1, active: 1, cpu }
    }

    fn record(id: u64) -> Record<'static> {
        Record { user_id: 1, client_message_id: id, body: b"x" }
    }

    #[test]
    fn only_messages_that_were_due_on_the_plateau_are_in_the_sum() {
        let mut books = Books::default();
        let place = books.audit.channel("a");
        let readers = [0, 1].map(|user| books.audit.subscribed(user, place, 0));
        let early = books.due(100_000, false, 100_000);
        let counted = books.due(200_000, true, 205_000);
        for (sequence, id) in [(1, early), (2, counted)] {
            books.publishing(id, place, Digest::new(1, id, b"x"));
            books.delivered(readers[0], sequence, &record(id), false, 300_000);
            books.delivered(readers[1], sequence, &record(id), false, 500_000);
        }
        let second = books.end_second(moment());
        assert_eq!((second.messages, second.deliveries), (2, 4));
        assert!((second.lag_max - 5.0).abs() < 1e-9, "{}", second.lag_max);
        let harvest = books.harvest(Returns::default(), None);
        assert_eq!((harvest.totals.deliveries, harvest.totals.plateau_deliveries), (4, 2));
        assert_eq!(harvest.totals.plateau_messages, 1);
        let latencies = harvest.latencies;
        assert_eq!((latencies.deliver.count(), latencies.first.count()), (2, 1));
        assert!((latencies.first.max() - 100.0).abs() < 1.0, "{}", latencies.first.max());
        assert!((latencies.last.max() - 300.0).abs() < 1.0, "{}", latencies.last.max());
    }

    #[test]
    fn a_second_begins_with_nothing() {
        let mut books = Books::default();
        books.error("login: 503");
        books.login(1_000);
        let first = books.end_second(moment());
        assert_eq!((first.errors, first.login.is_some()), (1, true));
        let second = books.end_second(moment());
        assert_eq!((second.errors, second.login.is_some()), (0, false));
        assert_eq!(books.harvest(Returns::default(), None).errors["login: 503"], 1);
    }

    #[test]
    fn a_server_that_says_something_else_each_time_costs_no_memory() {
        let mut books = Books::default();
        for number in 0..10 * ERRORS_MAX {
            books.error(&format!("publish: {number} unknown"));
        }
        let errors = books.harvest(Returns::default(), None).errors;
        assert_eq!(errors.len(), ERRORS_MAX + 1);
        assert_eq!(errors.values().sum::<u64>(), 10 * ERRORS_MAX as u64);
        assert_eq!(errors[OTHER_ERRORS], 9 * ERRORS_MAX as u64);
    }

    #[test]
    fn what_a_slow_reader_gets_is_counted_and_its_latency_is_not() {
        let mut books = Books::default();
        let place = books.audit.channel("a");
        let reader = books.audit.subscribed(0, place, 0);
        let id = books.due(0, true, 0);
        books.publishing(id, place, Digest::new(1, id, b"x"));
        books.delivered(reader, 1, &record(id), true, 5_000_000);
        let second = books.end_second(moment());
        assert_eq!((second.deliveries, second.deliver), (1, None));
        assert_eq!(books.harvest(Returns::default(), None).latencies.last.count(), 0);
    }

    #[test]
    fn a_message_that_nobody_published_has_no_latency() {
        let mut books = Books::default();
        let place = books.audit.channel("a");
        let reader = books.audit.subscribed(0, place, 0);
        books.delivered(reader, 1, &record(0), false, 1);
        books.delivered(reader, 2, &record(77), false, 1);
        let second = books.end_second(moment());
        assert_eq!((second.deliveries, second.deliver), (2, None));
    }
}
