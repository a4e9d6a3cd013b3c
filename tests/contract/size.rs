//! What a delivered message costs beyond its body.

use hubbub::{
    log::batch::{RECORD_TAG, put_record},
    wire::{
        DESCRIPTOR,
        proto::{Messages, Record, ServerEnvelope, record, server_envelope},
    },
};
use prost::Message;
use prost_types::FileDescriptorSet;

/// The promise: bytes beyond the body, the WebSocket header included.
const OVERHEAD_MAX: usize = 40;

/// One message to the last byte before the promise ends: every number is as long as it may be.
fn overhead(body_bytes: usize) -> usize {
    let record = Record {
        user_id: 16_383,
        client_message_id: u64::MAX,
        content: Some(record::Content::Body("x".repeat(body_bytes))),
        written_at_ms: 0,
    };
    let messages = Messages {
        channel_id: 127,
        first_sequence: 99_999,
        // In the year 2100.
        timestamp_ms: 4_102_444_800_000,
        records: vec![record],
    };
    let envelope = ServerEnvelope { envelope: Some(server_envelope::Envelope::Messages(messages)) };
    let payload = envelope.encoded_len();
    // RFC 6455, section 5.2; a server's frame has no mask.
    let header = match payload {
        0..=125 => 2,
        126..=65_535 => 4,
        _ => 10,
    };
    header + payload - body_bytes
}

#[test]
fn a_delivered_message_costs_at_most_40_bytes_beyond_its_body() {
    for body_bytes in [1, 64, 80, 100, 200, 1_024, 16_000] {
        let overhead = overhead(body_bytes);
        assert!(overhead <= OVERHEAD_MAX, "{overhead} bytes beyond a body of {body_bytes}");
    }
}

#[test]
fn the_log_tags_its_records_as_the_wire_does() {
    let set = FileDescriptorSet::decode(DESCRIPTOR).unwrap();
    let mut messages = set.file.iter().flat_map(|file| &file.message_type);
    let run = messages.find(|message| message.name() == "Messages").unwrap();
    let records = run.field.iter().find(|field| field.name() == "records").unwrap();
    let length_delimited = 2;
    assert_eq!(i32::from(RECORD_TAG), records.number() << 3 | length_delimited);
}

#[test]
fn records_as_the_log_holds_them_are_the_end_of_a_messages_on_the_wire() {
    let record = Record {
        user_id: 7,
        client_message_id: 0,
        content: Some(record::Content::Body("hello".to_owned())),
        written_at_ms: 0,
    };
    let mut by_hand =
        Messages { channel_id: 3, first_sequence: 9, ..Messages::default() }.encode_to_vec();
    put_record(&mut by_hand, &record.encode_to_vec());
    put_record(&mut by_hand, &record.encode_to_vec());
    let decoded = Messages::decode(by_hand.as_slice()).unwrap();
    assert_eq!(decoded.records, [record.clone(), record]);
    assert_eq!(decoded.encode_to_vec(), by_hand);
}
