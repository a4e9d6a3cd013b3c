//! What the users write: a body follows from the message's id alone, so that a message that is sent
//! again is the same. Hot. Pure.

use serde::{Deserialize, Serialize};

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// What a body looks like. To a server it makes a difference only where it compresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BodyKind {
    /// The id, and the same letter again and again: the least work for the generator.
    #[default]
    Filler,
    /// An object of JSON whose text is of words: it compresses as what people and programs write.
    Json,
}

/// Makes bodies, one after the other, in one buffer.
#[derive(Debug)]
pub(crate) struct Bodies {
    kind: BodyKind,
    text: String,
    bytes: usize,
}

impl Bodies {
    /// Of this size, or as long as an id needs.
    pub(crate) fn new(bytes: usize) -> Self {
        Self::of(BodyKind::Filler, bytes)
    }

    /// Of this kind and size, or as long as an id needs.
    pub(crate) fn of(kind: BodyKind, bytes: usize) -> Self {
        Self { kind, text: String::with_capacity(bytes.max(16)), bytes }
    }

    /// The body of this message. To be given back, so that the next one needs no memory of its own.
    pub(crate) fn take(&mut self, id: u64) -> String {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        match self.kind {
            BodyKind::Filler => {
                write_id(&mut text, id);
                if text.len() < self.bytes {
                    text.push(' ');
                    text.extend(std::iter::repeat_n('x', self.bytes - text.len()));
                }
            }
            BodyKind::Json => write_json(&mut text, id, self.bytes),
        }
        text
    }

    pub(crate) fn give_back(&mut self, text: String) {
        self.text = text;
    }
}

/// In base 36.
fn write_id(text: &mut String, id: u64) {
    // The digits of the largest number, least first.
    let mut digits = [0; 13];
    let (mut rest, mut count) = (id, 0);
    loop {
        digits[count] = DIGITS[usize::try_from(rest % 36).unwrap_or_default()];
        rest /= 36;
        count += 1;
        if rest == 0 {
            break;
        }
    }
    text.extend(digits[..count].iter().rev().copied().map(char::from));
}

/// One for each number of six bits: common ones of English, short and long.
const WORDS: [&str; 64] = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "we",
    "is",
    "that",
    "it",
    "was",
    "for",
    "on",
    "you",
    "he",
    "be",
    "with",
    "as",
    "by",
    "at",
    "have",
    "are",
    "this",
    "not",
    "but",
    "had",
    "from",
    "they",
    "which",
    "or",
    "an",
    "were",
    "can",
    "please",
    "meeting",
    "tomorrow",
    "question",
    "deploy",
    "server",
    "release",
    "branch",
    "review",
    "morning",
    "thanks",
    "maybe",
    "already",
    "channel",
    "message",
    "really",
    "because",
    "something",
    "working",
    "problem",
    "version",
    "before",
    "after",
    "today",
    "think",
    "could",
    "would",
    "there",
    "about",
    "other",
    "people",
    "again",
];

/// An object that holds the id and words, of so many bytes.
fn write_json(text: &mut String, id: u64, bytes: usize) {
    const END: &str = "\"}";
    text.push_str("{\"id\":\"");
    write_id(text, id);
    text.push_str("\",\"kind\":\"message\",\"text\":\"");
    let room = bytes.saturating_sub(END.len());
    // Six bits a word, of numbers that follow from the id (splitmix64).
    let mut state = id;
    while text.len() < room {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        for word in 0..10 {
            text.push_str(WORDS[usize::try_from(bits >> (6 * word) & 63).unwrap_or_default()]);
            text.push(' ');
        }
        text.truncate(room);
    }
    text.push_str(END);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_follows_from_the_id_and_has_the_size_that_was_asked_for() {
        let mut bodies = Bodies::new(16);
        for (id, begin) in [(1, "1 x"), (35, "z x"), (36, "10 x"), (u64::MAX, "3w5e11264sgsf xx")] {
            let body = bodies.take(id);
            assert!(body.starts_with(begin), "{body}");
            assert_eq!(body.len(), 16);
            bodies.give_back(body);
        }
    }

    #[test]
    fn a_body_is_never_shorter_than_its_id() {
        let mut bodies = Bodies::new(0);
        assert_eq!(bodies.take(36), "10");
        assert!(Bodies::of(BodyKind::Json, 0).take(36).contains("\"10\""));
    }

    #[test]
    fn a_body_of_json_is_json_of_the_size_that_was_asked_for_and_of_the_id_alone() {
        let mut bodies = Bodies::of(BodyKind::Json, 512);
        let first = bodies.take(7);
        let json: serde_json::Value = serde_json::from_str(&first).unwrap();
        assert_eq!((json["id"].as_str(), first.len()), (Some("7"), 512));
        bodies.give_back(String::new());
        assert_ne!(bodies.take(8), first);
        assert_eq!(Bodies::of(BodyKind::Json, 512).take(7), first);
    }
}
