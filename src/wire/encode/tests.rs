use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::log::{
    batch::put_record,
    place::{BatchId, Epoch},
};

const CHANNEL: ChannelId = ChannelId(3);

/// What a client makes of the bytes.
fn read(encoding: Encoding, bytes: &[u8]) -> proto::server_envelope::Envelope {
    let envelope: proto::ServerEnvelope = match encoding {
        Encoding::Proto => prost::Message::decode(bytes).unwrap(),
        Encoding::Json => serde_json::from_slice(bytes).unwrap(),
    };
    envelope.envelope.unwrap()
}

fn batch_of(bodies: &[String], first_sequence: u64) -> Batch {
    let mut records = BytesMut::new();
    for (index, body) in bodies.iter().enumerate() {
        let user = UserId(u32::try_from(index).unwrap() + 1);
        let key = (index % 2 == 0).then_some(ClientMessageId(index as u64 + 1));
        put_record(&mut records, &record(user, key, body.clone()));
    }
    Batch {
        epoch: Epoch(9),
        id: BatchId(1),
        previous: BatchId(0),
        first_sequence: Sequence(first_sequence),
        count: u16::try_from(bodies.len()).unwrap(),
        timestamp_ms: 1_700_000_000_000,
        records: records.freeze(),
    }
}

fn bodies_of(messages: &proto::Messages) -> Vec<String> {
    let body = |record: &proto::Record| match &record.content {
        Some(proto::record::Content::Body(body)) => body.clone(),
        content => panic!("{content:?} is no body"),
    };
    messages.records.iter().map(body).collect()
}

fn any_bodies() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(".{1,200}", 1..20)
}

proptest! {
    #[test]
    fn every_run_survives_encode_then_decode(
        bodies in any_bodies(),
        first in 1_u64..u64::MAX / 4,
        cut in any::<(prop::sample::Index, prop::sample::Index)>(),
    ) {
        let batch = batch_of(&bodies, first);
        let (a, b) = (cut.0.index(bodies.len()), cut.1.index(bodies.len()));
        let (from, to) = (a.min(b), a.max(b));
        let (low, high) = (Sequence(first + from as u64), Sequence(first + to as u64));
        let run = Run::between(&batch, low, high).unwrap();
        for encoding in Encoding::ALL {
            let mut bytes = BytesMut::new();
            messages(encoding, CHANNEL, &run, &mut bytes);
            let proto::server_envelope::Envelope::Messages(found) = read(encoding, &bytes) else {
                panic!("messages")
            };
            prop_assert_eq!(found.channel_id, CHANNEL.0);
            prop_assert_eq!(found.first_sequence, low.0);
            prop_assert_eq!(found.timestamp_ms, batch.timestamp_ms);
            prop_assert_eq!(bodies_of(&found), &bodies[from..=to]);
        }
    }

    /// The page is written by hand for protobuf and by prost for JSON: they must say the same.
    #[test]
    fn every_page_survives_encode_then_decode(
        pages in prop::collection::vec(any_bodies(), 0..4),
        id in any::<u32>(),
        head in any::<u32>(),
    ) {
        let mut first = 1;
        let mut runs = Vec::new();
        for bodies in &pages {
            runs.push(Run::whole(&batch_of(bodies, first)));
            first += bodies.len() as u64;
        }
        let head = Position { epoch: Epoch(head), sequence: Sequence(first - 1) };
        let page = Reply::History { channel: CHANNEL, head, runs };
        let [by_hand, by_prost] = Encoding::ALL.map(|encoding| {
            let mut bytes = BytesMut::new();
            reply(encoding, id, &page, &mut bytes);
            read(encoding, &bytes)
        });
        prop_assert_eq!(&by_hand, &by_prost);
        let proto::server_envelope::Envelope::Reply(reply) = by_hand else { panic!("a reply") };
        prop_assert_eq!(reply.id, id);
        let Some(proto::reply::Result::History(found)) = reply.result else { panic!("a page") };
        prop_assert_eq!(found.epoch, head.epoch.0);
        prop_assert_eq!(found.head_sequence, head.sequence.0);
        let found: Vec<_> = found.runs.iter().map(bodies_of).collect();
        prop_assert_eq!(found, pages);
    }

    #[test]
    fn a_digest_tells_one_body_from_another(a in ".{0,80}", b in ".{0,80}") {
        prop_assert_eq!(digest(&a) == digest(&b), a == b);
    }
}

#[test]
fn a_refusal_says_what_helps() {
    let head = Some(Position { epoch: Epoch(4), sequence: Sequence(5) });
    let refusal = Refusal { head, ..ErrorCode::EpochChanged.into() };
    for encoding in Encoding::ALL {
        let mut bytes = BytesMut::new();
        reply(encoding, 6, &Reply::Refused(refusal), &mut bytes);
        let proto::server_envelope::Envelope::Reply(reply) = read(encoding, &bytes) else {
            panic!("a reply")
        };
        let Some(proto::reply::Result::Error(error)) = reply.result else { panic!("an error") };
        assert_eq!((reply.id, error.code), (6, 305));
        assert_eq!(error.head, Some(proto::Position { epoch: 4, sequence: 5 }));
    }
    assert!(Refusal::from(ErrorCode::Busy).retry_after_ms > 0);
}
