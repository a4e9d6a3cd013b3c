//! Any bytes as the body of an import: its lines do not depend on how it comes, and a line that is
//! taken can be written again.
//!
//! Input: the bound of a message's body (2 bytes), how often the lines come (1 byte), how many piece
//! lengths follow (their roots, as pieces may be large), these, the lines.

#![no_main]

use hubbub_fuzz::{
    Numbers,
    limits::import_line_bytes_max,
    transfer::{
        cut::Cutter,
        line::{Change, Line, Member, Origin, decode},
        ndjson::{SettingsLine, json, number, string, time},
    },
    within,
};
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;

/// A line's values for each of its bytes: its strings with escapes, each of which makes room for the
/// whole line, or its members, a growing list of which is held twice.
const HELD_PER_BYTE: usize = 16;
/// What the reason for an invalid line takes.
const HELD_BESIDE_BYTES: usize = 1024;

fuzz_target!(|input: &[u8]| {
    let mut numbers = Numbers { rest: input };
    let message_bytes_max = numbers.word();
    let times = 1 + usize::from(numbers.byte()) / 8;
    let count = usize::from(numbers.byte());
    let pieces = numbers.bytes(count);
    the_cut_changes_nothing(&numbers.rest.repeat(times), pieces, message_bytes_max);

    for line in numbers.rest.split(|byte| *byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else { continue };
        let bound = line.len() * HELD_PER_BYTE + HELD_BESIDE_BYTES;
        let Ok(decoded) = within(bound, || decode(line, message_bytes_max)) else { continue };
        // Values lie one deeper for who reads the line as one.
        if let Err(error) = serde_json::from_str::<IgnoredAny>(line) {
            assert!(error.to_string().starts_with("recursion limit"), "{error}: {line}");
        }
        let again = written(&decoded);
        let again = decode(&again, usize::MAX).expect("what is taken can be written as a line");
        assert_eq!(settled(again), settled(decoded), "{line}");
    }
});

/// The lines of a body are those between its line ends, but for the rest of one that is too long.
fn the_cut_changes_nothing(body: &[u8], pieces: &[u8], message_bytes_max: usize) {
    let mut cutter = Cutter::new(message_bytes_max);
    let mut chunks = Vec::new();
    let mut rest = body;
    let mut lengths = pieces.iter().cycle();
    while !rest.is_empty() {
        let length = lengths.next().map_or(rest.len(), |root| usize::from(*root).pow(2).max(1));
        let (mut piece, behind) = rest.split_at(length.min(rest.len()));
        while let Some(chunk) = cutter.take(&mut piece) {
            chunks.push(chunk);
        }
        assert!(piece.is_empty(), "all of a piece is taken");
        rest = behind;
    }
    chunks.extend(cutter.rest());
    assert!(chunks.iter().all(|chunk| chunk.ends_with(b"\n")), "a chunk ends with a line");
    chunks.extend(cutter.all());

    // Of a line that is too long there may be more, if it came in one piece.
    let shown_bytes_max = import_line_bytes_max(message_bytes_max) + 1;
    let lines = |bytes: &[u8]| -> Vec<Vec<u8>> {
        let lines = bytes.split(|byte| *byte == b'\n');
        lines.map(|line| line[..line.len().min(shown_bytes_max)].to_vec()).collect()
    };
    assert_eq!(lines(&chunks.concat()), lines(body));
}

/// As an export writes it.
fn written(line: &Line<'_>) -> String {
    let mut out = b"{\"channel\":".to_vec();
    match line {
        Line::Message(message) => {
            write_origin(&mut out, &message.origin);
            out.extend_from_slice(b",\"body\":");
            string(&mut out, &message.body);
        }
        Line::Event(event) => {
            write_origin(&mut out, &event.origin);
            match &event.change {
                Change::Member(member) => {
                    out.extend_from_slice(b",\"member\":");
                    write_member(&mut out, member);
                }
                Change::Settings(settings) => {
                    out.extend_from_slice(b",\"settings\":");
                    let settings = settings.of(&event.origin.channel);
                    json(&mut out, &SettingsLine::named(&settings));
                }
            }
        }
        Line::Channel(channel) => {
            string(&mut out, &channel.channel);
            out.extend_from_slice(b",\"created\":\"");
            time(&mut out, channel.created_ms);
            out.extend_from_slice(b"\",\"settings\":");
            json(&mut out, &SettingsLine::of(&channel.settings()));
            out.extend_from_slice(b",\"members\":[");
            for (place, member) in channel.members.iter().enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                write_member(&mut out, member);
            }
            out.push(b']');
        }
    }
    out.push(b'}');
    String::from_utf8(out).expect("a line is made of text")
}

fn write_origin(out: &mut Vec<u8>, origin: &Origin<'_>) {
    string(out, &origin.channel);
    if let Some(sequence) = origin.sequence {
        out.extend_from_slice(b",\"sequence\":");
        number(out, sequence.get());
    }
    out.extend_from_slice(b",\"time\":\"");
    time(out, origin.time_ms);
    out.extend_from_slice(b"\",\"author\":");
    string(out, &origin.author);
    for (name, value) in [(b",\"user\":".as_slice(), &origin.user), (b",\"id\":", &origin.id)] {
        if let Some(value) = value {
            out.extend_from_slice(name);
            string(out, value);
        }
    }
}

fn write_member(out: &mut Vec<u8>, member: &Member) {
    out.extend_from_slice(b"{\"name\":");
    string(out, &member.name);
    if let Some(user) = &member.user {
        out.extend_from_slice(b",\"user\":");
        string(out, user);
    }
    out.extend_from_slice(b",\"role\":");
    string(out, member.role.map_or("none", |role| role.name()));
    out.push(b'}');
}

/// The same with what an export adds or leaves out: an event says the channel's name, and the line of
/// a channel says it once.
fn settled(line: Line<'_>) -> Line<'_> {
    match line {
        Line::Event(mut event) => {
            if let Change::Settings(settings) = &mut event.change {
                settings.name.get_or_insert_with(|| event.origin.channel.to_string());
            }
            Line::Event(event)
        }
        Line::Channel(mut channel) => {
            channel.settings.name = None;
            Line::Channel(channel)
        }
        message @ Line::Message(_) => message,
    }
}
