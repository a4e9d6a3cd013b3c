//! The users' receive path without their sockets: what the generator itself can count at most.

use std::time::Duration;

use super::{
    Plan,
    books::Moment,
    user::{Kind, User},
    world::World,
};
use crate::audit::{Digest, Findings};

/// Users who are subscribed to one channel and take bytes from anywhere.
///
/// What they do for each delivery is what they do in a run: frames, envelopes, digests, the audit
/// and the histograms.
#[derive(Debug)]
pub(crate) struct Receiver {
    users: Vec<User>,
    world: World,
}

impl Receiver {
    /// All users of the plan, in the channel that the server calls `channel_id`. Messages with the ids
    /// 1 to `messages` were due at 0; others are delivered without a latency. An id may come again,
    /// at another sequence.
    pub(crate) fn new(plan: Plan, channel_id: u32, messages: u64) -> Self {
        let mut world = World::new(plan);
        let users = (0..world.plan.scenario.users).map(|number| {
            let mut user = User::new(number, Kind::Ordinary, &world);
            user.stand_in(channel_id, &mut world);
            user
        });
        let users = users.collect();
        for _ in 0..messages {
            world.books.due(0, true, 0);
        }
        Self { users, world }
    }

    /// This user takes what one `read` brought, at this time in microseconds.
    pub(crate) fn receive(&mut self, user: usize, bytes: &[u8], now_us: u64) {
        self.world.now_us = now_us;
        self.users[user].receive(bytes, &mut self.world);
    }

    /// How many messages were delivered since the last call, which ends a second of the books, as one
    /// does in a run.
    pub(crate) fn end_second(&mut self) -> u64 {
        let moment = Moment {
            at_us: self.world.now_us,
            connected: self.world.connected,
            active: self.world.active,
            cpu: Duration::ZERO,
        };
        self.world.books.end_second(moment).deliveries
    }

    /// The newest sequence that any of the users has.
    pub(crate) fn newest(&self) -> u64 {
        let channels = self.world.channels.iter();
        channels.map(|it| self.world.books.audit.delivered_to(it.place)).max().unwrap_or(0)
    }

    /// What the server has at a sequence, as acknowledgements tell in a run.
    ///
    /// Users are compared with one another as they receive; only this tells what all of them got
    /// wrong.
    pub(crate) fn acknowledged(&mut self, sequence: u64, author: u32, id: u64, body: &[u8]) {
        let digest = Digest::new(author, id, body);
        for channel in &self.world.channels {
            self.world.books.audit.acknowledged(channel.place, sequence, digest);
        }
    }

    /// What the audit found so far. A user that broke off is among it.
    pub(crate) fn findings(&self) -> Findings {
        self.world.books.audit.findings()
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};
    use hubbub::wire::proto;
    use prost::Message as _;

    use super::*;
    use crate::{
        scenario::Scenario,
        swarm::{Target, frame::next_frame},
    };

    const MESSAGES: u64 = 500;
    const AUTHOR: u32 = 3;

    fn body(id: u64) -> String {
        format!("{id} xxxxxxxxxx")
    }

    fn receiver() -> Receiver {
        receiver_with(false)
    }

    fn receiver_with(deflate: bool) -> Receiver {
        let address = "127.0.0.1:1".parse().unwrap();
        let targets = vec![Target { address, host: String::new() }];
        let scenario = Scenario { users: 1, deflate, ..Scenario::default() };
        let plan = Plan { scenario, targets, run: "test".to_owned(), tokens: None };
        Receiver::new(plan, 9, MESSAGES)
    }

    /// A stream of frames as a server writes them, with a few messages in each.
    fn stream() -> Vec<u8> {
        stream_of(0x82, <[u8]>::to_vec)
    }

    /// The same, compressed.
    fn deflated_stream() -> Vec<u8> {
        let mut state = Compress::new(Compression::fast(), false);
        stream_of(0xC2, |payload| {
            state.reset();
            let mut deflated = Vec::with_capacity(payload.len() + 64);
            state.compress_vec(payload, &mut deflated, FlushCompress::Sync).unwrap();
            deflated.truncate(deflated.len() - 4);
            deflated
        })
    }

    fn stream_of(first: u8, mut form: impl FnMut(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let mut stream = Vec::new();
        for sequence in (1..=MESSAGES).step_by(5) {
            let record = |id| proto::Record {
                user_id: AUTHOR,
                client_message_id: id,
                content: Some(proto::record::Content::Body(body(id))),
                written_at_ms: 0,
            };
            let messages = proto::Messages {
                channel_id: 9,
                first_sequence: sequence,
                timestamp_ms: 1,
                records: (sequence..sequence + 5).map(record).collect(),
            };
            let envelope = proto::server_envelope::Envelope::Messages(messages);
            let payload = proto::ServerEnvelope { envelope: Some(envelope) }.encode_to_vec();
            let payload = form(&payload);
            match u8::try_from(payload.len()).unwrap() {
                length @ ..126 => stream.extend([first, length]),
                length => stream.extend([first, 126, 0, length]),
            }
            stream.extend(payload);
        }
        stream
    }

    #[test]
    fn every_message_is_counted_once_however_the_stream_is_cut() {
        let stream = stream();
        for bytes in [1, 7, 250, 1_000, stream.len()] {
            let mut receiver = receiver();
            stream.chunks(bytes).for_each(|chunk| receiver.receive(0, chunk, 1_000));
            assert_eq!(receiver.end_second(), MESSAGES, "in pieces of {bytes} bytes");
            assert_eq!((receiver.newest(), receiver.findings().violations), (MESSAGES, 0));
            assert_eq!(receiver.world.books.totals.plateau_deliveries, MESSAGES, "with a latency");
            assert_eq!(receiver.users[0].memory_for_reading(), 0);
        }
    }

    #[test]
    fn a_message_that_is_left_out_is_a_violation() {
        let stream = stream();
        let frame_bytes = next_frame(&stream).unwrap().unwrap().bytes;
        let mut receiver = receiver();
        receiver.receive(0, &stream[frame_bytes..], 1_000);
        assert!(receiver.findings().violations > 0);
    }

    #[test]
    fn a_frame_that_breaks_the_protocol_ends_the_user() {
        let mut receiver = receiver();
        receiver.receive(0, &[0xF2, 0], 1_000);
        receiver.receive(0, &stream(), 1_000);
        assert_eq!((receiver.end_second(), receiver.findings().violations), (0, 1));
    }

    #[test]
    fn compressed_messages_are_counted_where_they_were_agreed_on() {
        let stream = deflated_stream();
        assert!(stream.len() < self::stream().len());
        for bytes in [7, 1_000, stream.len()] {
            let mut receiver = receiver_with(true);
            stream.chunks(bytes).for_each(|chunk| receiver.receive(0, chunk, 1_000));
            assert_eq!(receiver.end_second(), MESSAGES, "in pieces of {bytes} bytes");
            assert_eq!((receiver.newest(), receiver.findings().violations), (MESSAGES, 0));
        }
        let damaged = [0xC2, 2, 0xFF, 0xFF];
        for (deflate, bytes) in [(false, &stream[..]), (true, &damaged)] {
            let mut receiver = receiver_with(deflate);
            receiver.receive(0, bytes, 1_000);
            assert_eq!((receiver.end_second(), receiver.findings().violations), (0, 1));
        }
    }

    #[test]
    fn what_every_user_got_wrong_is_found_by_what_the_server_has() {
        let mut receiver = receiver();
        receiver.receive(0, &stream(), 1_000);
        for id in 1..=MESSAGES {
            receiver.acknowledged(id, AUTHOR, id, body(id).as_bytes());
        }
        assert_eq!(receiver.findings().violations, 0);
        for (author, id, body) in [(AUTHOR, 7, body(6)), (AUTHOR, 6, body(7)), (4, 7, body(7))] {
            let before = receiver.findings().violations;
            receiver.acknowledged(7, author, id, body.as_bytes());
            assert_eq!(receiver.findings().violations, before + 1);
        }
    }
}
