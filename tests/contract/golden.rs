//! Golden bytes: each kind of envelope as JSON and as protobuf, the same in every language.

use std::{any::type_name, collections::BTreeSet, fmt::Debug};

use hubbub::wire::{
    DESCRIPTOR,
    proto::{ClientEnvelope, ServerEnvelope},
};
use prost::Message;
use prost_types::FileDescriptorSet;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{accepting, read_json, write_json};

/// JSON → message → bytes, and back on both ways.
fn check<M>(name: &str, json: &Value, hex: &str)
where
    M: Message + Default + PartialEq + Debug + Serialize + DeserializeOwned,
{
    let kind = type_name::<M>();
    let message: M = serde_json::from_value(json.clone())
        .unwrap_or_else(|error| panic!("{name}: not the JSON of a {kind}: {error}"));
    assert_eq!(to_hex(&message.encode_to_vec()), hex, "{name}: other bytes");
    let decoded = M::decode(from_hex(hex).as_slice()).unwrap();
    assert_eq!(decoded, message, "{name}: the bytes say something else");
    assert_eq!(&serde_json::to_value(&decoded).unwrap(), json, "{name}: other JSON");
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Writes the bytes that the JSON has now.
fn accept() {
    let mut cases = read_json("golden.json");
    for case in cases.as_array_mut().unwrap() {
        let envelope = case["json"].clone();
        let bytes = match case["type"].as_str().unwrap() {
            "ClientEnvelope" => {
                serde_json::from_value::<ClientEnvelope>(envelope).unwrap().encode_to_vec()
            }
            _ => serde_json::from_value::<ServerEnvelope>(envelope).unwrap().encode_to_vec(),
        };
        case["hex"] = json!(to_hex(&bytes));
    }
    write_json("golden.json", &cases);
}

#[test]
fn every_envelope_has_its_golden_bytes_and_json() {
    if accepting() {
        accept();
    }
    let cases = read_json("golden.json");
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let hex = case["hex"].as_str().unwrap();
        match case["type"].as_str().unwrap() {
            "ClientEnvelope" => check::<ClientEnvelope>(name, &case["json"], hex),
            "ServerEnvelope" => check::<ServerEnvelope>(name, &case["json"], hex),
            other => panic!("{name}: what is a {other}?"),
        }
    }
}

#[test]
fn every_command_event_and_reply_is_among_the_golden_ones() {
    let cases = read_json("golden.json");
    let mut covered = BTreeSet::new();
    for case in cases.as_array().unwrap() {
        let kind = case["type"].as_str().unwrap();
        covered.extend(keys(kind, &case["json"]));
        covered.extend(keys("Reply", &case["json"]["reply"]));
    }
    let all: BTreeSet<_> =
        ["ClientEnvelope", "ServerEnvelope", "Reply"].into_iter().flat_map(kinds).collect();
    let missing: Vec<_> = all.difference(&covered).collect();
    assert!(missing.is_empty(), "tests/contract/golden.json has no sample of {missing:?}");
}

fn keys(message: &str, json: &Value) -> Vec<String> {
    let object = json.as_object();
    object.into_iter().flatten().map(|(key, _)| format!("{message}.{key}")).collect()
}

/// The fields of a message that are in a oneof, by their JSON names.
fn kinds(message: &str) -> Vec<String> {
    let set = FileDescriptorSet::decode(DESCRIPTOR).unwrap();
    let mut messages = set.file.iter().flat_map(|file| &file.message_type);
    let found = messages.find(|found| found.name() == message).unwrap();
    let of_a_oneof = found.field.iter().filter(|field| field.oneof_index.is_some());
    of_a_oneof.map(|field| format!("{message}.{}", field.json_name())).collect()
}

#[test]
fn fields_that_this_server_does_not_know_are_skipped() {
    // id 5, field 31 "a"; unsubscribe { channel_id 1, field 99 "zz" }
    let bytes = from_hex("0805fa010161220708019a06027a7a");
    let later = ClientEnvelope::decode(bytes.as_slice()).unwrap();
    let json = json!({ "id": 5, "unsubscribe": { "channelId": 1, "later": true }, "also": [1] });
    let envelope: ClientEnvelope = serde_json::from_value(json).unwrap();
    assert_eq!(later, envelope);
    assert!(later.command.is_some());
}
