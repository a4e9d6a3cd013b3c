//! What a message costs to write and to read, in JSON and in protobuf.
//!
//! `cargo bench --bench serialization`. The first message is the reference report's own, so that its
//! table can stand beside this one; the others are what the server sends most. Prints, and asserts
//! only that each form reads back what it wrote: the machine decides how fast.
//!
//! The forms take turns (A B C A B C …), so that a neighbour on the machine slows all of them alike,
//! and the median of the rounds is told.

use std::{hint::black_box, time::Instant};

use bytes::{Bytes, BytesMut};
use hubbub::{
    log::{
        batch::put_record,
        place::{ChannelId, ClientMessageId, Sequence, UserId},
    },
    wire::{
        Encoding,
        encode::{self, Run},
        proto,
    },
};
use prost::Message as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// As often as the reference report did it, in all rounds together.
const TIMES: u32 = 1_000_000;
/// Odd, so that there is a median.
const ROUNDS: u32 = 25;

const BODY: &str = "The quick brown fox jumps over the lazy dog, and then it sleeps.";
const CHANNEL: ChannelId = ChannelId(7);
const FIRST_SEQUENCE: Sequence = Sequence(1_234_567);
const TIMESTAMP_MS: u64 = 1_795_000_000_000;

fn main() {
    println!(
        "{TIMES} times each, in {ROUNDS} interleaved rounds; ns: median of the rounds; ×: to protobuf\n"
    );
    table("the report's test message", test_message());
    table("delivery of 1 message of 64 bytes", delivery(1));
    table("delivery of 16 messages of 64 bytes", delivery(16));
}

/// One way to write and to read a message.
struct Form {
    name: &'static str,
    bytes: usize,
    /// Does it this many times.
    encode: Box<dyn Fn(u32)>,
    /// Absent where reading is the same as in another form.
    decode: Option<Box<dyn Fn(u32)>>,
}

impl Form {
    /// serde's JSON of this value.
    fn json<T>(name: &'static str, value: &T) -> Self
    where
        T: Serialize + DeserializeOwned + PartialEq + Clone + 'static,
    {
        let written = serde_json::to_vec(value).expect("it has a JSON form");
        let read: T = serde_json::from_slice(&written).expect("what was written can be read");
        assert!(read == *value, "{name} does not read what it wrote");
        Self {
            name,
            bytes: written.len(),
            encode: Box::new(move |times| {
                for _ in 0..times {
                    black_box(serde_json::to_vec(black_box(&read)).expect("it has a JSON form"));
                }
            }),
            decode: Some(Box::new(move |times| {
                for _ in 0..times {
                    black_box(
                        serde_json::from_slice::<T>(black_box(&written)).expect("it is JSON"),
                    );
                }
            })),
        }
    }

    /// prost's protobuf of this value. The last of a table, which the others are compared with.
    fn protobuf<T>(name: &'static str, value: &T) -> Self
    where
        T: prost::Message + Default + PartialEq + Clone + 'static,
    {
        let written = Bytes::from(value.encode_to_vec());
        let read = T::decode(written.clone()).expect("what was written can be read");
        assert!(read == *value, "{name} does not read what it wrote");
        Self {
            name,
            bytes: written.len(),
            encode: Box::new(move |times| {
                for _ in 0..times {
                    black_box(black_box(&read).encode_to_vec());
                }
            }),
            decode: Some(Box::new(move |times| {
                for _ in 0..times {
                    black_box(T::decode(black_box(&*written)).expect("it is protobuf"));
                }
            })),
        }
    }

    /// How the server writes messages. In protobuf the records are copied as the log holds them; in
    /// JSON they are read first.
    fn server(name: &'static str, encoding: Encoding, run: Run, expected: &[u8]) -> Self {
        let mut written = BytesMut::new();
        encode::messages(encoding, CHANNEL, &run, &mut written);
        assert!(written == expected, "{name} writes other bytes than the library");
        let bytes = written.len();
        Self {
            name,
            bytes,
            encode: Box::new(move |times| {
                for _ in 0..times {
                    let mut out = BytesMut::with_capacity(bytes);
                    encode::messages(encoding, CHANNEL, black_box(&run), &mut out);
                    black_box(out);
                }
            }),
            decode: None,
        }
    }
}

/// The reference report's message, for serde and for prost.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
struct TestMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    age: u32,
    #[prost(double, tag = "3")]
    random_float: f64,
    #[prost(string, repeated, tag = "4")]
    items: Vec<String>,
}

fn test_message() -> Vec<Form> {
    let message = TestMessage {
        name: "Test Name".to_owned(),
        age: 40,
        random_float: 0.554_781_258_874,
        items: vec!["Hammer".to_owned(), "Radio".to_owned()],
    };
    vec![Form::json("JSON (serde_json)", &message), Form::protobuf("protobuf (prost)", &message)]
}

/// A delivery as one would write it in JSON without protobuf behind it: numbers as numbers, short.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct PlainDelivery {
    channel_id: u32,
    first_sequence: u64,
    timestamp_ms: u64,
    records: Vec<PlainRecord>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct PlainRecord {
    user_id: u32,
    client_message_id: u64,
    body: String,
}

fn delivery(messages: u32) -> Vec<Form> {
    // Clients draw their numbers at random, so most of them have twenty digits.
    let client_message_id = |at: u32| u64::from(at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let plain = PlainDelivery {
        channel_id: CHANNEL.0,
        first_sequence: FIRST_SEQUENCE.0,
        timestamp_ms: TIMESTAMP_MS,
        records: (0..messages)
            .map(|at| PlainRecord {
                user_id: 100 + at,
                client_message_id: client_message_id(at),
                body: BODY.to_owned(),
            })
            .collect(),
    };
    let mut records = BytesMut::new();
    for record in &plain.records {
        let id = ClientMessageId(record.client_message_id);
        let record = encode::record(UserId(record.user_id), Some(id), record.body.clone());
        put_record(&mut records, &record);
    }
    let run = Run {
        first_sequence: FIRST_SEQUENCE,
        timestamp_ms: TIMESTAMP_MS,
        records: records.freeze(),
    };
    let mut written = BytesMut::new();
    encode::messages(Encoding::Proto, CHANNEL, &run, &mut written);
    let envelope = proto::ServerEnvelope::decode(written).expect("the server writes envelopes");
    let json = serde_json::to_vec(&envelope).expect("it has a JSON form");
    let protobuf = envelope.encode_to_vec();
    vec![
        Form::json("JSON (serde_json, plain)", &plain),
        Form::json("JSON (subprotocol, proto3 mapping)", &envelope),
        Form::server("JSON (the server's own path)", Encoding::Json, run.clone(), &json),
        Form::server("protobuf (the server's own path)", Encoding::Proto, run, &protobuf),
        Form::protobuf("protobuf (prost)", &envelope),
    ]
}

fn table(title: &str, forms: Vec<Form>) {
    let per_round = TIMES / ROUNDS;
    let mut encode = vec![Vec::new(); forms.len()];
    let mut decode = vec![Vec::new(); forms.len()];
    for _ in 0..ROUNDS {
        for (at, form) in forms.iter().enumerate() {
            encode[at].push(ns(per_round, &form.encode));
            if let Some(reading) = &form.decode {
                decode[at].push(ns(per_round, reading));
            }
        }
    }
    let encode: Vec<_> = encode.into_iter().map(median).collect();
    let decode: Vec<_> = decode.into_iter().map(median).collect();
    let (encode_base, decode_base) = (encode.last().copied(), decode.last().copied());
    let cell = |ns: Option<f64>, base: Option<Option<f64>>| match (ns, base.flatten()) {
        (Some(ns), Some(base)) => format!("{ns:9.0} {:7.2}×", ns / base),
        _ => format!("{:>9} {:>8}", "–", ""),
    };
    println!("{title:<36} bytes    encode ns            decode ns");
    for ((form, encode), decode) in forms.iter().zip(encode).zip(decode) {
        let (encode, decode) = (cell(encode, encode_base), cell(decode, decode_base));
        println!("  {:<34} {:5}  {encode}   {decode}", form.name, form.bytes);
    }
    println!();
}

/// Nanoseconds of one of so many times.
fn ns(times: u32, work: impl Fn(u32)) -> f64 {
    let started = Instant::now();
    work(times);
    started.elapsed().as_secs_f64() * 1e9 / f64::from(times)
}

fn median(mut rounds: Vec<f64>) -> Option<f64> {
    rounds.sort_unstable_by(f64::total_cmp);
    rounds.get(rounds.len() / 2).copied()
}
