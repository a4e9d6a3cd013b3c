//! The reader against the letter of RFC 6455, against itself on other cuts, and against tungstenite.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
};

use proptest::prelude::*;
use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};
use tokio_tungstenite::tungstenite::{
    Message as Sent, WebSocket,
    protocol::{CloseFrame, Role, frame::FrameHeader, frame::coding::OpCode},
};

use super::{Reader, Received, Violation, unmask};
use crate::{
    limits::EMPTY_FRAGMENTS_MAX,
    websocket::{
        deflate::{Agreed, inflate::Inflater},
        frame::{self, BINARY, TEXT},
    },
    wire::code::CloseCode,
};

mod deflated;

const FINAL: u8 = 0x80;
const CONTINUE: u8 = 0;
const TEXT_BITS: u8 = 1;
const BINARY_BITS: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const MESSAGE_BYTES_MAX: usize = 1_000;

/// A client's frame, as tungstenite writes its header.
fn framed(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let header = FrameHeader {
        is_final: first & 0x80 != 0,
        rsv1: first & 0x40 != 0,
        rsv2: first & 0x20 != 0,
        rsv3: first & 0x10 != 0,
        opcode: OpCode::from(first & 0x0f),
        mask: Some(mask),
    };
    let mut bytes = Vec::new();
    header.format(payload.len() as u64, &mut bytes).unwrap();
    let begin = bytes.len();
    bytes.extend_from_slice(payload);
    unmask_slowly(&mut bytes[begin..], mask);
    bytes
}

fn sent(first: u8, payload: &[u8]) -> Vec<u8> {
    framed(first, payload, [0x37, 0xfa, 0x21, 0x3d])
}

/// What [`unmask`] has to equal.
fn unmask_slowly(payload: &mut [u8], mask: [u8; 4]) {
    for (index, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[index % 4];
    }
}

#[derive(Clone, PartialEq, Debug)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
    Violation(Violation),
}

impl From<Received<'_>> for Seen {
    fn from(received: Received<'_>) -> Self {
        match received {
            Received::Text(text) => Self::Text(text.to_owned()),
            Received::Binary(bytes) => Self::Binary(bytes.to_owned()),
            Received::Ping(bytes) => Self::Ping(bytes.to_owned()),
            Received::Pong(bytes) => Self::Pong(bytes.to_owned()),
            Received::Close(code) => Self::Close(code),
        }
    }
}

fn plain_reader(message_bytes_max: usize) -> Reader {
    Reader::new(message_bytes_max, None)
}

/// Reads pieces as a connection does: to the first close or violation.
fn read_with(reader: &mut Reader, pieces: impl IntoIterator<Item = Vec<u8>>) -> Vec<Seen> {
    let mut inflater = Inflater::new();
    let mut seen = Vec::new();
    for mut piece in pieces {
        let mut input = &mut piece[..];
        loop {
            match reader.next(&mut input, &mut inflater) {
                Ok(Some(received)) => seen.push(received.into()),
                Ok(None) => break,
                Err(violation) => seen.push(Seen::Violation(violation)),
            }
            if let Some(Seen::Close(_) | Seen::Violation(_)) = seen.last() {
                return seen;
            }
        }
        assert!(input.is_empty(), "all of the input is taken");
    }
    seen
}

fn read(bytes: &[u8]) -> Vec<Seen> {
    read_with(&mut plain_reader(MESSAGE_BYTES_MAX), [bytes.to_vec()])
}

fn refusal(bytes: &[u8]) -> (CloseCode, &'static str) {
    match read(bytes).last() {
        Some(Seen::Violation(violation)) => (violation.code, violation.reason),
        other => panic!("{bytes:02x?} gave {other:?}"),
    }
}

fn bytewise(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    bytes.iter().map(|byte| vec![*byte])
}

#[test]
fn the_masked_hello_of_the_rfc_is_read() {
    let bytes = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(read(&bytes), [Seen::Text("Hello".into())]);
}

#[test]
fn a_whole_message_is_borrowed_from_the_input() {
    let mut bytes = sent(FINAL | BINARY_BITS, &[1; 100]);
    let range = bytes.as_ptr_range();
    let mut reader = plain_reader(MESSAGE_BYTES_MAX);
    let (mut input, mut inflater) = (&mut bytes[..], Inflater::new());
    let received = reader.next(&mut input, &mut inflater);
    let Ok(Some(Received::Binary(payload))) = received else { panic!() };
    assert!(range.contains(&payload.as_ptr()));
    assert!(reader.unfinished.is_none());
}

#[test]
fn an_idle_reader_is_small_and_holds_nothing() {
    assert!(size_of::<Reader>() <= 16, "{}", size_of::<Reader>());
    let mut reader = plain_reader(MESSAGE_BYTES_MAX);
    let bytes = [
        sent(TEXT_BITS, b"frag"),
        sent(FINAL | PING, b"between"),
        sent(FINAL, b"ments"),
        sent(FINAL | PONG, b"after"),
    ]
    .concat();
    assert!(!reader.is_mid_message());
    let mut open = Vec::new();
    for byte in bytewise(&bytes) {
        assert!(read_with(&mut reader, [byte]).len() < 2);
        open.push(reader.is_mid_message());
        assert_eq!(reader.unfinished.is_some(), reader.is_mid_message());
    }
    // It is at rest only where a message ends: after the last fragment, and after the pong.
    let rests = [sent(0, b"frag"), sent(0, b"between"), sent(0, b"ments")].concat().len();
    let at_rest: Vec<_> = (1..).zip(open).filter(|(_, open)| !open).map(|(at, _)| at).collect();
    assert_eq!(at_rest, [rests, bytes.len()]);
}

#[test]
fn a_delivered_message_is_not_unfinished() {
    let mut reader = plain_reader(MESSAGE_BYTES_MAX);
    let mut bytes = [sent(BINARY_BITS, b"a"), sent(FINAL, b"b")].concat();
    let (mut input, mut inflater) = (&mut bytes[..], Inflater::new());
    assert_eq!(reader.next(&mut input, &mut inflater), Ok(Some(Received::Binary(b"ab"))));
    assert!(!reader.is_mid_message());
    assert_eq!(reader.next(&mut input, &mut inflater), Ok(None));
    assert!(reader.unfinished.is_none());
}

#[test]
fn control_frames_come_between_fragments() {
    let bytes = [
        sent(TEXT_BITS, "K\u{f6}".as_bytes()),
        sent(FINAL | PING, b"one"),
        sent(CONTINUE, b""),
        sent(FINAL | PONG, b""),
        sent(FINAL, b"ln"),
        sent(FINAL | CLOSE, &[0x03, 0xe8, b'b', b'y', b'e']),
    ];
    let expected = [
        Seen::Ping(b"one".into()),
        Seen::Pong(b"".into()),
        Seen::Text("K\u{f6}ln".into()),
        Seen::Close(Some(1000)),
    ];
    assert_eq!(read(&bytes.concat()), expected);
    let mut reader = plain_reader(MESSAGE_BYTES_MAX);
    assert_eq!(read_with(&mut reader, bytewise(&bytes.concat())), expected);
}

#[test]
fn what_breaks_the_rfc_is_refused_with_1002() {
    let cases: &[(&str, Vec<u8>)] = &[
        ("frame not masked", vec![0x81, 0x01, b'x']),
        ("reserved bit set", sent(FINAL | 0x40 | TEXT_BITS, b"x")),
        ("reserved bit set", sent(FINAL | 0x20 | TEXT_BITS, b"x")),
        ("reserved bit set", sent(FINAL | 0x10 | PING, b"")),
        ("reserved opcode", sent(FINAL | 3, b"")),
        ("reserved opcode", sent(FINAL | 7, b"")),
        ("reserved opcode", sent(FINAL | 11, b"")),
        ("reserved opcode", sent(FINAL | 15, b"")),
        ("control frame fragmented", sent(PING, b"x")),
        ("control frame too long", sent(FINAL | PING, &[0; 126])),
        ("control frame too long", sent(FINAL | CLOSE, &[0; 126])),
        ("continuation of nothing", sent(FINAL | CONTINUE, b"x")),
        (
            "message within a message",
            [sent(TEXT_BITS, b"x"), sent(FINAL | TEXT_BITS, b"y")].concat(),
        ),
        ("length not in its shortest form", vec![0x82, 0xfe, 0, 125, 0, 0, 0, 0]),
        (
            "length not in its shortest form",
            vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0],
        ),
        ("top bit of the length set", vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]),
        ("close code cut short", sent(FINAL | CLOSE, &[3])),
    ];
    for (reason, bytes) in cases {
        assert_eq!(refusal(bytes), (CloseCode::ProtocolError, *reason), "{bytes:02x?}");
    }
}

#[test]
fn only_a_close_code_that_may_be_sent_is_taken() {
    for code in [0, 1, 999, 1004, 1005, 1006, 1014, 1015, 1016, 2999, 5000, 65_535_u16] {
        let refusal = refusal(&sent(FINAL | CLOSE, &code.to_be_bytes()));
        assert_eq!(refusal, (CloseCode::ProtocolError, "close code not allowed"), "{code}");
    }
    for code in [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1013, 3000, 4000, 4999_u16] {
        let bytes = sent(FINAL | CLOSE, &code.to_be_bytes());
        assert_eq!(read(&bytes), [Seen::Close(Some(code))]);
    }
    assert_eq!(read(&sent(FINAL | CLOSE, b"")), [Seen::Close(None)]);
    let not_utf8 = sent(FINAL | CLOSE, &[0x03, 0xe8, 0xff]);
    assert_eq!(refusal(&not_utf8), (CloseCode::InvalidUtf8, "text is not UTF-8"));
}

#[test]
fn a_message_beyond_the_bound_is_refused_by_its_header_alone() {
    let header_only = |bytes: Vec<u8>, payload: usize| bytes[..bytes.len() - payload].to_vec();
    let one = header_only(sent(FINAL | BINARY_BITS, &[0; 1_001]), 1_001);
    assert_eq!(refusal(&one), (CloseCode::MessageTooBig, "message too big"));
    let two = header_only([sent(BINARY_BITS, &[0; 600]), sent(FINAL, &[0; 401])].concat(), 401);
    assert_eq!(refusal(&two), (CloseCode::MessageTooBig, "message too big"));
    let huge = vec![0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    assert_eq!(refusal(&huge), (CloseCode::MessageTooBig, "message too big"));

    let fits = [sent(BINARY_BITS, &[0; 600]), sent(FINAL, &[0; 400])].concat();
    assert_eq!(read(&fits), [Seen::Binary(vec![0; 1_000])]);
}

#[test]
fn the_bound_may_be_raised_after_login() {
    let mut reader = plain_reader(10);
    reader.set_message_bytes_max(11);
    let seen = read_with(&mut reader, [sent(FINAL | BINARY_BITS, &[0; 11])]);
    assert_eq!(seen, [Seen::Binary(vec![0; 11])]);
    reader.set_message_bytes_max(10);
    let seen = read_with(&mut reader, [sent(FINAL | BINARY_BITS, &[0; 11])]);
    assert!(matches!(seen[..], [Seen::Violation(_)]));
}

#[test]
fn memory_follows_what_was_received_and_never_passes_the_bound() {
    let mut reader = plain_reader(MESSAGE_BYTES_MAX);
    let bytes = sent(FINAL | BINARY_BITS, &[0; MESSAGE_BYTES_MAX]);
    for (index, byte) in (0..).zip(bytewise(&bytes[..bytes.len() - 1])) {
        assert!(read_with(&mut reader, [byte]).is_empty());
        let capacity = reader.message().map_or(0, |message| message.bytes.capacity());
        assert!(capacity <= (2 * index).min(MESSAGE_BYTES_MAX), "{capacity} after {index}");
    }
}

#[test]
fn endless_empty_fragments_are_refused() {
    let empty = |count: u32| {
        let mut bytes = sent(BINARY_BITS, b"x");
        (0..count).for_each(|_| bytes.extend(sent(CONTINUE, b"")));
        bytes.extend(sent(FINAL, b"y"));
        bytes
    };
    assert_eq!(read(&empty(EMPTY_FRAGMENTS_MAX)), [Seen::Binary(b"xy".into())]);
    let refusal = refusal(&empty(EMPTY_FRAGMENTS_MAX + 1));
    assert_eq!(refusal, (CloseCode::MessageTooBig, "too many empty fragments"));
}

/// A reader that looked at the whole message again for each piece would take minutes here.
#[test]
fn a_long_text_in_tiny_fragments_is_checked_once() {
    const BYTES: usize = 512 * 1024;
    // The second case is a row of two-byte characters, each cut in two: the worst place.
    let cases = [(&b"x"[..], &b"x"[..], &b"x"[..], 0), (b"\xc3", b"\xb6\xc3", b"\xb6", 1)];
    for (first, next, last, unchecked) in cases {
        let mut reader = plain_reader(BYTES);
        assert!(read_with(&mut reader, [sent(TEXT_BITS, first)]).is_empty());
        let next = sent(CONTINUE, next);
        for _ in 0..BYTES / 2 - 1 {
            let mut bytes = next.clone();
            assert_eq!(reader.next(&mut &mut bytes[..], &mut Inflater::new()), Ok(None));
            let message = reader.message().unwrap();
            assert_eq!(message.valid_bytes, message.bytes.len() - unchecked);
        }
        let seen = read_with(&mut reader, [sent(FINAL, last)]);
        assert!(matches!(&seen[..], [Seen::Text(_)]));
    }
}

#[test]
fn invalid_text_is_refused_before_its_frame_ends() {
    // Autobahn 6.4: a character that no continuation can complete, in a frame without an end.
    let text = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xf4\x90\x80\x80edited";
    let bytes = sent(FINAL | TEXT_BITS, text);
    let header = bytes.len() - text.len();
    let mut reader = plain_reader(MESSAGE_BYTES_MAX);
    assert!(read_with(&mut reader, bytewise(&bytes[..header + 8])).is_empty());
    let seen = read_with(&mut reader, bytewise(&bytes[header + 8..=header + 8]));
    let [Seen::Violation(violation)] = seen[..] else { panic!("{seen:?}") };
    assert_eq!(violation.code, CloseCode::InvalidUtf8);

    // And over fragments, where the first ends within a character.
    let halves = [sent(TEXT_BITS, b"\xe2\x82"), sent(CONTINUE, b"\x2a")].concat();
    assert_eq!(refusal(&halves).0, CloseCode::InvalidUtf8);
    let cut = [sent(TEXT_BITS, b"\xe2\x82"), sent(FINAL, b"")].concat();
    assert_eq!(refusal(&cut).0, CloseCode::InvalidUtf8);
    let whole = [sent(TEXT_BITS, b"\xe2\x82"), sent(FINAL, b"\xac")].concat();
    assert_eq!(read(&whole), [Seen::Text("\u{20ac}".into())]);
}

/// Mostly what a client may send, so that a property reaches deep into the reader.
fn client_frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        6 => Just(FINAL | TEXT_BITS),
        6 => Just(FINAL | BINARY_BITS),
        3 => Just(TEXT_BITS),
        3 => Just(BINARY_BITS),
        6 => Just(CONTINUE),
        6 => Just(FINAL | CONTINUE),
        3 => Just(FINAL | PING),
        3 => Just(FINAL | PONG),
        1 => Just(FINAL | CLOSE),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        6 => "\\PC{0,40}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..20),
        1 => prop::collection::vec(Just(b'x'), 100..400),
    ];
    (first, payload, any::<[u8; 4]>())
        .prop_map(|(first, payload, mask)| framed(first, &payload, mask))
}

/// A well-formed conversation, so that violations do not end every case early.
fn client_message() -> impl Strategy<Value = Vec<u8>> {
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..5);
    (any::<bool>(), "\\PC{0,60}", cuts, any::<[u8; 4]>()).prop_map(|(is_text, text, cuts, mask)| {
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.push(text.len());
        cuts.sort_unstable();
        let mut bytes = Vec::new();
        let mut from = 0;
        for (index, to) in cuts.iter().copied().enumerate() {
            let opcode = if index > 0 { CONTINUE } else { 2 - u8::from(is_text) };
            let end = if index + 1 == cuts.len() { FINAL } else { 0 };
            bytes.extend(framed(opcode | end, &text.as_bytes()[from..to], mask));
            bytes.extend(framed(FINAL | PING, &mask, mask));
            from = to;
        }
        bytes
    })
}

fn split(bytes: &[u8], cuts: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|cut| bytes[cut[0]..cut[1]].to_vec()).collect()
}

proptest! {
    #[test]
    fn how_the_bytes_are_cut_changes_nothing(
        frames in prop::collection::vec(prop_oneof![client_message(), client_frame()], 1..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
        lost in 0..20_usize,
    ) {
        let mut bytes = frames.concat();
        bytes.truncate(bytes.len().saturating_sub(lost));
        let mut whole = plain_reader(MESSAGE_BYTES_MAX);
        let expected = read_with(&mut whole, [bytes.clone()]);
        for pieces in [split(&bytes, &cuts), bytewise(&bytes).collect()] {
            let mut reader = plain_reader(MESSAGE_BYTES_MAX);
            prop_assert_eq!(&read_with(&mut reader, pieces), &expected);
            if !matches!(expected.last(), Some(Seen::Violation(_) | Seen::Close(_))) {
                prop_assert_eq!(reader.is_mid_message(), whole.is_mid_message());
            }
        }
    }

    #[test]
    fn a_conversation_is_read_without_violation(
        messages in prop::collection::vec(client_message(), 1..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let mut reader = plain_reader(MESSAGE_BYTES_MAX);
        let seen = read_with(&mut reader, split(&messages.concat(), &cuts));
        let is_message = |seen: &&Seen| matches!(seen, Seen::Text(_) | Seen::Binary(_));
        prop_assert_eq!(seen.iter().filter(is_message).count(), messages.len());
        prop_assert!(!matches!(seen.last(), Some(Seen::Violation(_))));
        prop_assert!(reader.unfinished.is_none());
    }

    #[test]
    fn unmasking_by_words_equals_unmasking_by_bytes(
        mut payload in prop::collection::vec(any::<u8>(), 0..100),
        from in 0..8_usize,
        mask in any::<[u8; 4]>(),
    ) {
        let from = from.min(payload.len());
        let mut slowly = payload.clone();
        unmask_slowly(&mut slowly[from..], mask);
        unmask(&mut payload[from..], mask);
        prop_assert_eq!(payload, slowly);
    }
}

/// 100,000 strings from a fixed seed, half of them with the mask bit set and no reserved bits but
/// perhaps the first, so that they pass for frames. Goes on with the next piece after a violation,
/// which no caller does.
#[test]
fn no_bytes_make_it_panic() {
    let mut random = SmallRng::seed_from_u64(6455);
    let mut inflater = Inflater::new();
    let mut outcomes = [0_u32; 3];
    for _ in 0..100_000 {
        let mut bytes = vec![0; random.random_range(0..64)];
        random.fill_bytes(&mut bytes);
        let deflate = random.random_ratio(1, 4).then_some(Agreed::WHOLE_WINDOW);
        if let [first, second, ..] = &mut bytes[..]
            && random.random()
        {
            *first &= if deflate.is_some() { 0xcf } else { 0x8f };
            *second |= 0x80;
        }
        let bytes_max = random.random_range(0..100);
        let mut reader = Reader::new(bytes_max, deflate);
        while !bytes.is_empty() {
            let mut piece: Vec<u8> = bytes.drain(..random.random_range(1..=bytes.len())).collect();
            let mut input = &mut piece[..];
            loop {
                match reader.next(&mut input, &mut inflater) {
                    Ok(Some(Received::Binary(message))) => {
                        assert!(message.len() <= bytes_max);
                        outcomes[0] += 1;
                    }
                    Ok(Some(_)) => outcomes[0] += 1,
                    Ok(None) => break,
                    Err(_) => {
                        outcomes[1] += 1;
                        break;
                    }
                }
            }
            outcomes[2] += u32::from(reader.is_mid_message());
        }
    }
    assert!(outcomes.iter().all(|count| *count > 800), "{outcomes:?}");
}

/// An in-memory socket: what tungstenite's client writes, and what it will read.
#[derive(Default)]
struct Pipe {
    to_server: Vec<u8>,
    to_client: VecDeque<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.to_client.is_empty() {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            self.to_client.read(buffer)
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to_server.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn client_sends() -> impl Strategy<Value = Sent> {
    prop_oneof![
        "\\PC{0,300}".prop_map(Sent::text),
        prop::collection::vec(any::<u8>(), 0..70_000).prop_map(Sent::binary),
        prop::collection::vec(any::<u8>(), 0..=125).prop_map(|payload| Sent::Ping(payload.into())),
        prop::collection::vec(any::<u8>(), 0..=125).prop_map(|payload| Sent::Pong(payload.into())),
    ]
}

fn seen(message: &Sent) -> Seen {
    match message {
        Sent::Text(text) => Seen::Text(text.to_string()),
        Sent::Binary(bytes) => Seen::Binary(bytes.to_vec()),
        Sent::Ping(bytes) => Seen::Ping(bytes.to_vec()),
        Sent::Pong(bytes) => Seen::Pong(bytes.to_vec()),
        Sent::Close(close) => Seen::Close(close.as_ref().map(|close| close.code.into())),
        Sent::Frame(_) => unreachable!("tungstenite gives no frames out"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_tungstenite_sends_is_received(
        messages in prop::collection::vec(client_sends(), 0..10),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        code in prop::option::of(prop_oneof![Just(1000_u16), 4000..5000_u16]),
    ) {
        let mut client = WebSocket::from_raw_socket(Pipe::default(), Role::Client, None);
        for message in &messages {
            client.send(message.clone()).unwrap();
        }
        client.close(code.map(|code| CloseFrame { code: code.into(), reason: "bye".into() })).unwrap();
        client.flush().unwrap();

        let mut reader = plain_reader(70_000);
        let received = read_with(&mut reader, split(&client.get_ref().to_server, &cuts));
        let expected: Vec<_> = messages.iter().map(seen).chain([Seen::Close(code)]).collect();
        prop_assert_eq!(received, expected);
    }

    #[test]
    fn what_is_sent_tungstenite_receives(
        messages in prop::collection::vec(client_sends(), 0..10),
        code in prop_oneof![Just(1000_u16), 4000..5000_u16],
    ) {
        let mut client = WebSocket::from_raw_socket(Pipe::default(), Role::Client, None);
        for message in &messages {
            client.get_mut().to_client.extend(match message {
                Sent::Text(text) => frame::encode(TEXT, text.as_bytes()),
                Sent::Binary(bytes) => frame::encode(BINARY, bytes),
                Sent::Ping(payload) => frame::ping(payload),
                Sent::Pong(payload) => frame::pong(payload),
                Sent::Close(_) | Sent::Frame(_) => unreachable!("not among those that are sent"),
            });
        }
        client.get_mut().to_client.extend(frame::close(code, "bye"));
        for message in &messages {
            prop_assert_eq!(&client.read().unwrap(), message);
        }
        let close = CloseFrame { code: code.into(), reason: "bye".into() };
        prop_assert_eq!(client.read().unwrap(), Sent::Close(Some(close)));
    }
}
