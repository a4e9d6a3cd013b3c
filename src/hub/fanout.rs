//! Stage 6: committed batch → one frame, in every subscriber's outbox. Hot. Pure.
//!
//! A batch is encoded at most once per encoding, whoever needs it: subscribers now, and resumes
//! later, as long as the batch is in the channel's tail. Only a resume from the middle of a batch
//! makes bytes of its own.

use std::{cell::OnceCell, collections::HashMap, rc::Rc, sync::Arc};

use bytes::Bytes;

use super::{ConnectionKey, Format, outbox::Frame};
use crate::{
    log::{
        batch::Batch,
        place::{ChannelId, Sequence},
        tail::HoldsBatch,
    },
    websocket::frame::{BINARY, FrameBuilder, OpCode, SharedFrame, TEXT},
    wire::{
        Encoding,
        encode::{self, Control, Reply, Run},
    },
};

/// A committed batch on its way out.
#[derive(Debug)]
pub struct Delivery {
    /// The channel.
    pub channel: ChannelId,
    /// What was committed.
    pub batch: Arc<Batch>,
    proto: OnceCell<SharedFrame>,
    json: OnceCell<SharedFrame>,
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
        Self { channel, batch, proto: OnceCell::new(), json: OnceCell::new() }
    }

    /// The whole batch as one frame, the same bytes for every connection of this format.
    pub fn frame(&self, format: Format) -> Bytes {
        let Format { encoding } = format;
        let made = match encoding {
            Encoding::Proto => &self.proto,
            Encoding::Json => &self.json,
        };
        let whole = || run_frame(encoding, self.channel, &Run::whole(&self.batch));
        made.get_or_init(|| SharedFrame::new(whole())).pick()
    }

    /// The frame of what the batch holds after `sequence`, if anything.
    #[must_use]
    pub fn frame_after(&self, format: Format, sequence: Sequence) -> Option<Bytes> {
        if sequence < self.batch.first_sequence {
            return Some(self.frame(format));
        }
        let rest = Run::after(&self.batch, sequence)?;
        Some(run_frame(format.encoding, self.channel, &rest))
    }
}

/// The frames of one delivery for the outboxes of one shard: each format's is looked up once.
#[derive(Debug, Default)]
pub struct SharedFrames {
    proto: Option<Frame>,
    json: Option<Frame>,
}

impl SharedFrames {
    /// The frame of `delivery`, which must be the same each time, for one connection.
    pub fn of(&mut self, delivery: &Delivery, format: Format) -> Frame {
        let known = match format.encoding {
            Encoding::Proto => &mut self.proto,
            Encoding::Json => &mut self.json,
        };
        Rc::clone(known.get_or_insert_with(|| Rc::new(delivery.frame(format))))
    }
}

fn run_frame(encoding: Encoding, channel: ChannelId, run: &Run) -> Bytes {
    let mut frame = FrameBuilder::with_capacity(RUN_OVERHEAD_BYTES + run.records.len());
    encode::messages(encoding, channel, run, &mut frame.payload());
    frame.finish(opcode(encoding))
}

/// Bytes before the records of a run, at most: tags, lengths, numbers. A guess that saves a copy.
const RUN_OVERHEAD_BYTES: usize = 48;

/// The frame that answers a command.
#[must_use]
pub fn reply_frame(Format { encoding }: Format, id: u32, reply: &Reply) -> Bytes {
    let mut frame = FrameBuilder::with_capacity(RUN_OVERHEAD_BYTES);
    encode::reply(encoding, id, reply, &mut frame.payload());
    frame.finish(opcode(encoding))
}

/// The frame that tells a connection something unasked.
#[must_use]
pub fn control_frame(Format { encoding }: Format, control: &Control) -> Bytes {
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

/// The connections that receive a channel now. Handing out walks a dense list.
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
            u32::try_from(self.dense.len() - 1).expect("open files are fewer than 32 bits count")
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

    /// Takes all of them out.
    pub fn drain(&mut self) -> impl Iterator<Item = Subscriber> + '_ {
        self.places.clear();
        self.dense.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::log::{
        batch::put_record,
        place::{BatchId, Epoch},
    };

    const PROTO: Format = Format { encoding: Encoding::Proto };

    fn key(slot: u32) -> ConnectionKey {
        ConnectionKey { slot, generation: 0 }
    }

    #[test]
    fn every_subscriber_of_a_format_gets_the_same_bytes() {
        let mut records = BytesMut::new();
        put_record(&mut records, b"\x08\x01");
        let delivery = Delivery::new(
            ChannelId(1),
            Arc::new(Batch {
                epoch: Epoch(1),
                id: BatchId(1),
                previous: BatchId(0),
                first_sequence: Sequence(1),
                count: 1,
                timestamp_ms: 1,
                records: records.freeze(),
            }),
        );
        let first = delivery.frame(PROTO).as_ptr();
        assert_eq!(delivery.frame(PROTO).as_ptr(), first);
        assert_eq!(delivery.frame_after(PROTO, Sequence::ZERO).unwrap().as_ptr(), first);
        assert_eq!(delivery.frame_after(PROTO, Sequence(1)), None);
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
