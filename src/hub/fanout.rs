//! Stage 6: committed batch → one frame, in every subscriber's outbox. Hot. Pure.
//!
//! A batch is encoded at most once per encoding, whoever needs it: subscribers now, and resumes
//! later, as long as the batch is in the channel's tail. Only a resume from the middle of a batch
//! makes bytes of its own. The compressed twin of a frame is made as often: once, when the first
//! connection wants it.

use std::{
    collections::HashMap,
    rc::Rc,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

use super::{ConnectionKey, Format, outbox::Frame};
use crate::{
    log::{
        batch::Batch,
        place::{ChannelId, Sequence},
        tail::HoldsBatch,
    },
    websocket::frame::{BINARY, FrameBuilder, OpCode, Picked, SharedFrame, TEXT},
    wire::{
        Encoding,
        encode::{self, Control, Reply, Run},
    },
};

/// A committed batch on its way out, the same for all shards.
#[derive(Debug)]
pub struct Delivery {
    /// The channel.
    pub channel: ChannelId,
    /// What was committed.
    pub batch: Arc<Batch>,
    proto: OnceLock<SharedFrame>,
    json: OnceLock<SharedFrame>,
}

impl HoldsBatch for Delivery {
    fn batch(&self) -> &Batch {
        &self.batch
    }
}

impl Delivery {
    /// A batch that nobody has encoded yet.
    #[must_use]
    pub const fn new(channel: ChannelId, batch: Arc<Batch>) -> Self {
        Self { channel, batch, proto: OnceLock::new(), json: OnceLock::new() }
    }

    /// The whole batch as one frame, the same bytes for every connection of this format. `twin`
    /// compresses a frame, if that makes it smaller.
    pub fn frame(&self, format: Format, twin: impl FnOnce(&[u8]) -> Option<Bytes>) -> Picked {
        self.shared(format.encoding).pick(format.deflate, twin)
    }

    /// The frame of what the batch holds after `sequence`, if anything.
    #[must_use]
    pub fn frame_after(
        &self,
        format: Format,
        sequence: Sequence,
        twin: impl FnOnce(&[u8]) -> Option<Bytes>,
    ) -> Option<Picked> {
        if sequence < self.batch.first_sequence {
            return Some(self.frame(format, twin));
        }
        let rest = Run::after(&self.batch, sequence)?;
        let rest = SharedFrame::new(run_frame(format.encoding, self.channel, &rest));
        Some(rest.pick(format.deflate, twin))
    }

    fn shared(&self, encoding: Encoding) -> &SharedFrame {
        let made = match encoding {
            Encoding::Proto => &self.proto,
            Encoding::Json => &self.json,
        };
        let whole = || run_frame(encoding, self.channel, &Run::whole(&self.batch));
        made.get_or_init(|| SharedFrame::new(whole()))
    }
}

/// The frames of one delivery for the outboxes of one shard: each format's is looked up once.
#[derive(Debug, Default)]
pub struct SharedFrames {
    /// By encoding, then plain or compressed.
    known: [[Option<(Frame, usize)>; 2]; 2],
    deflated: Deflated,
}

/// What was saved by handing out compressed frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Deflated {
    /// So many were compressed.
    pub frames: u64,
    /// So many more bytes would they have plain.
    pub saved_bytes: u64,
}

impl SharedFrames {
    /// The frame of `delivery`, which must be the same each time, for one connection.
    pub fn of(
        &mut self,
        delivery: &Delivery,
        format: Format,
        twin: impl FnOnce(&[u8]) -> Option<Bytes>,
    ) -> Frame {
        let shared = delivery.shared(format.encoding);
        let is_deflated = shared.may_be_deflated(format.deflate);
        let known = &mut self.known[format.encoding as usize][usize::from(is_deflated)];
        let (frame, saved_bytes) = known.get_or_insert_with(|| {
            let Picked { frame, saved_bytes } = shared.pick(format.deflate, twin);
            (Rc::new(frame), saved_bytes)
        });
        if *saved_bytes > 0 {
            self.deflated.frames += 1;
            self.deflated.saved_bytes += *saved_bytes as u64;
        }
        Rc::clone(frame)
    }

    /// What was saved so far.
    #[must_use]
    pub const fn deflated(&self) -> Deflated {
        self.deflated
    }
}

fn run_frame(encoding: Encoding, channel: ChannelId, run: &Run) -> Bytes {
    let mut frame = FrameBuilder::with_capacity(RUN_OVERHEAD_BYTES + run.records.len());
    encode::messages(encoding, channel, run, &mut frame.payload());
    frame.finish(opcode(encoding))
}

/// Bytes before the records of a run, at most: tags, lengths, numbers. A guess that saves a copy.
const RUN_OVERHEAD_BYTES: usize = 48;

/// The frame that answers a command. Only what holds messages and nothing else is compressed.
#[must_use]
pub fn reply_frame(
    Format { encoding, deflate }: Format,
    id: u32,
    reply: &Reply,
    twin: impl FnOnce(&[u8]) -> Option<Bytes>,
) -> Picked {
    let mut frame = FrameBuilder::with_capacity(RUN_OVERHEAD_BYTES);
    encode::reply(encoding, id, reply, &mut frame.payload());
    let frame = frame.finish(opcode(encoding));
    if may_be_compressed(reply) {
        SharedFrame::new(frame).pick(deflate, twin)
    } else {
        Picked::plain(frame)
    }
}

/// Whether the length of a reply may depend on how alike its parts are. Where words of others stand
/// beside something about the client that is not theirs to know, whoever sees the lengths of its
/// frames and may choose the words could guess the other part (the attack is known as CRIME).
const fn may_be_compressed(reply: &Reply) -> bool {
    match reply {
        Reply::History { .. } => true,
        Reply::Refused(_)
        | Reply::Published(_)
        | Reply::Subscribed { .. }
        | Reply::Unsubscribed(_)
        | Reply::Authenticated { .. }
        | Reply::Users(_)
        | Reply::Channel(_)
        | Reply::Channels(..)
        | Reply::ChannelDeleted(_)
        | Reply::Member(_)
        | Reply::Members(..)
        | Reply::Presence(_)
        | Reply::TypingSent(_)
        | Reply::ReadMarker(..) => false,
    }
}

/// The frame that tells a connection something unasked. Never compressed, for the reason that most
/// replies are not.
#[must_use]
pub fn control_frame(Format { encoding, .. }: Format, control: &Control) -> Bytes {
    let mut frame = FrameBuilder::with_capacity(RUN_OVERHEAD_BYTES);
    encode::control(encoding, control, &mut frame.payload());
    frame.finish(opcode(encoding))
}

const fn opcode(encoding: Encoding) -> OpCode {
    match encoding {
        Encoding::Proto => BINARY,
        Encoding::Json => TEXT,
    }
}

/// The connections of one shard that receive a channel now. Handing out walks a dense list.
#[derive(Debug, Default)]
pub struct Subscribers {
    dense: Vec<Subscriber>,
    /// Where each stands in `dense`. In 32 bits, since each subscription pays for it.
    places: HashMap<ConnectionKey, u32>,
}

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subscriber {
    /// Whose outbox.
    pub connection: ConnectionKey,
    /// Which bytes.
    pub format: Format,
}

impl Subscribers {
    /// Adds a connection, unless it is there.
    pub fn insert(&mut self, subscriber: Subscriber) {
        self.places.entry(subscriber.connection).or_insert_with(|| {
            self.dense.push(subscriber);
            u32::try_from(self.dense.len() - 1).expect("a slot is unique and has 32 bits")
        });
    }

    /// Takes a connection out. Whether it was there.
    pub fn remove(&mut self, connection: ConnectionKey) -> bool {
        let Some(place) = self.places.remove(&connection) else { return false };
        self.dense.swap_remove(place as usize);
        if let Some(moved) = self.dense.get(place as usize) {
            self.places.insert(moved.connection, place);
        }
        true
    }

    /// Whether a connection is among them.
    #[must_use]
    pub fn contains(&self, connection: ConnectionKey) -> bool {
        self.places.contains_key(&connection)
    }

    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[Subscriber] {
        &self.dense
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dense.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        hub::ShardId,
        log::{
            batch::put_record,
            place::{BatchId, Epoch, Position, UserId},
            settings::Settings,
        },
        websocket::deflate::{Agreed, compress::Compressor},
        wire::channels::ChannelView,
    };

    const PROTO: Format = Format::plain(Encoding::Proto);

    fn key(slot: u32) -> ConnectionKey {
        ConnectionKey { shard: ShardId(0), slot, generation: 0 }
    }

    fn delivery(record: &[u8]) -> Delivery {
        let mut records = BytesMut::new();
        put_record(&mut records, record);
        put_record(&mut records, record);
        Delivery::new(
            ChannelId(1),
            Arc::new(Batch {
                epoch: Epoch(1),
                id: BatchId(1),
                previous: BatchId(0),
                first_sequence: Sequence(1),
                count: 2,
                timestamp_ms: 1,
                records: records.freeze(),
            }),
        )
    }

    /// A compressor that nobody may ask.
    fn never(_: &[u8]) -> Option<Bytes> {
        panic!("this is not to be compressed")
    }

    #[test]
    fn every_subscriber_of_a_format_gets_the_same_bytes() {
        let delivery = delivery(b"\x08\x01");
        let first = delivery.frame(PROTO, never).frame.as_ptr();
        assert_eq!(delivery.frame(PROTO, never).frame.as_ptr(), first);
        let after = |sequence| delivery.frame_after(PROTO, sequence, never);
        assert_eq!(after(Sequence::ZERO).unwrap().frame.as_ptr(), first);
        assert_ne!(after(Sequence(1)).unwrap().frame.as_ptr(), first);
        assert_eq!(after(Sequence(2)), None);
    }

    #[test]
    fn a_batch_is_compressed_once_for_all_who_want_that() {
        let delivery = delivery(&encode::record(UserId(1), None, "word ".repeat(200)));
        let mut compressor = Compressor::default();
        let mut compressions = 0;
        for encoding in [Encoding::Proto, Encoding::Json] {
            let plain = Format::plain(encoding);
            let deflated = Format { deflate: Some(Agreed::WHOLE_WINDOW), ..plain };
            let mut frames = SharedFrames::default();
            let mut of = |format| {
                frames.of(&delivery, format, |frame| {
                    compressions += 1;
                    compressor.twin(frame)
                })
            };
            let [first, second, third] = [deflated, plain, deflated].map(&mut of);
            assert!(Rc::ptr_eq(&first, &third));
            assert!(first.len() < second.len() / 2, "{} of {}", first.len(), second.len());
            assert_eq!(delivery.frame(deflated, never).frame.as_ptr(), first.as_ptr());
            let saved_bytes = 2 * (second.len() - first.len()) as u64;
            assert_eq!(frames.deflated(), Deflated { frames: 2, saved_bytes });
        }
        assert_eq!(compressions, 2, "one for each encoding");
    }

    #[test]
    fn only_replies_and_events_that_hold_nothing_but_messages_are_compressed() {
        let format = Format { encoding: Encoding::Json, deflate: Some(Agreed::WHOLE_WINDOW) };
        let long = "x".repeat(10_000);
        let login = Reply::Authenticated { user: UserId(1), name: long.clone(), expires_at: 1 };
        assert_eq!(reply_frame(format, 1, &login, never).saved_bytes, 0);
        let users = Reply::Users(vec![(UserId(1), long.clone())]);
        assert_eq!(reply_frame(format, 1, &users, never).saved_bytes, 0);
        let topic = Settings { topic: long, ..Settings::open("lobby") };
        let view = ChannelView {
            id: ChannelId(1),
            settings: topic,
            member_count: 0,
            role: None,
            created_at_ms: 0,
            used: None,
            read: None,
        };
        let channel = Reply::Channel(Box::new(view));
        assert_eq!(reply_frame(format, 1, &channel, never).saved_bytes, 0);

        let batch = delivery(&encode::record(UserId(1), None, "word ".repeat(200))).batch;
        let head = Position { epoch: Epoch(1), sequence: Sequence(2) };
        let runs = vec![Run::whole(&batch)];
        let page = Reply::History { channel: ChannelId(1), head, runs };
        let mut compressor = Compressor::default();
        let picked = reply_frame(format, 1, &page, |frame| compressor.twin(frame));
        assert!(picked.saved_bytes > picked.frame.len());
        assert_eq!(reply_frame(Format::plain(Encoding::Json), 1, &page, never).saved_bytes, 0);
    }

    proptest! {
        #[test]
        fn subscribers_are_a_set(operations in prop::collection::vec((any::<bool>(), 0_u32..8), 0..60)) {
            let mut subscribers = Subscribers::default();
            let mut oracle = BTreeSet::new();
            for (inserts, slot) in operations {
                if inserts {
                    subscribers.insert(Subscriber { connection: key(slot), format: PROTO });
                    oracle.insert(slot);
                } else {
                    prop_assert_eq!(subscribers.remove(key(slot)), oracle.remove(&slot));
                }
                let listed: BTreeSet<u32> =
                    subscribers.as_slice().iter().map(|it| it.connection.slot).collect();
                prop_assert_eq!(&listed, &oracle);
                prop_assert_eq!(subscribers.as_slice().len(), oracle.len());
            }
        }
    }
}
