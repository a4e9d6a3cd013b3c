//! The pass over the bytes of a line: fields of an object → their values. Hot. Pure.

use std::{borrow::Cow, fmt, num::NonZeroU64};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{Field, LineError, time};

/// The known fields of a line. What has a form of its own inside is kept as it stands.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub(super) channel: Option<Cow<'a, str>>,
    pub(super) author: Option<Cow<'a, str>>,
    pub(super) user: Option<Cow<'a, str>>,
    pub(super) time_ms: Option<u64>,
    pub(super) id: Option<Cow<'a, str>>,
    pub(super) sequence: Option<NonZeroU64>,
    pub(super) body: Option<Cow<'a, str>>,
    pub(super) member: Option<&'a str>,
    pub(super) settings: Option<&'a str>,
    pub(super) members: Option<&'a str>,
    pub(super) created: Option<&'a str>,
    /// A bit for each field that was there.
    seen: u16,
}

impl<'a> Fields<'a> {
    pub(super) fn scan(line: &'a str) -> Result<Self, LineError> {
        let mut scanner = Scanner { text: line, bytes: line.as_bytes(), at: 0 };
        let mut fields = Self::default();
        scanner.skip_space();
        match scanner.peek() {
            Some(b'{') => scanner.at += 1,
            Some(b'[' | b'"' | b't' | b'f' | b'n' | b'-' | b'0'..=b'9') => {
                return Err(LineError::NotAnObject);
            }
            _ if line.starts_with('\u{feff}') => return Err(LineError::ByteOrderMark),
            _ => return Err(scanner.not_json()),
        }
        scanner.skip_space();
        if scanner.peek() == Some(b'}') {
            scanner.at += 1;
        } else {
            loop {
                let field = scanner.key()?;
                scanner.skip_space();
                scanner.expect(b':')?;
                scanner.skip_space();
                match field {
                    Some(field) => fields.take(field, &mut scanner)?,
                    None => drop(scanner.raw()?),
                }
                scanner.skip_space();
                match scanner.peek() {
                    Some(b',') => scanner.at += 1,
                    Some(b'}') => break scanner.at += 1,
                    _ => return Err(scanner.not_json()),
                }
                scanner.skip_space();
            }
        }
        scanner.skip_space();
        if scanner.at < scanner.bytes.len() {
            return Err(scanner.not_json());
        }
        Ok(fields)
    }

    fn take(&mut self, field: Field, scanner: &mut Scanner<'a>) -> Result<(), LineError> {
        let bit = 1 << field as u16;
        if self.seen & bit != 0 {
            return Err(LineError::Twice(field));
        }
        self.seen |= bit;
        match field {
            Field::Channel => self.channel = Some(scanner.string_of(field)?),
            Field::Author => self.author = Some(scanner.string_of(field)?),
            Field::Body => self.body = Some(scanner.string_of(field)?),
            Field::Time => self.time_ms = Some(scanner.time()?),
            Field::User if scanner.null() => {}
            Field::User => self.user = Some(scanner.string_of(field)?),
            Field::Id if scanner.null() => {}
            Field::Id => self.id = Some(scanner.id()?),
            Field::Sequence if scanner.null() => {}
            Field::Sequence => self.sequence = Some(scanner.sequence()?),
            Field::Member => self.member = Some(scanner.raw()?),
            Field::Settings => self.settings = Some(scanner.raw()?),
            Field::Members => self.members = Some(scanner.raw()?),
            Field::Created => self.created = Some(scanner.raw()?),
        }
        Ok(())
    }
}

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    fn not_json(&self) -> LineError {
        LineError::NotJson(self.at + 1)
    }

    fn expect(&mut self, byte: u8) -> Result<(), LineError> {
        if self.peek() != Some(byte) {
            return Err(self.not_json());
        }
        self.at += 1;
        Ok(())
    }

    /// The eight bytes from here.
    fn word(&self) -> Option<u64> {
        word_at(self.bytes, self.at)
    }

    /// A key. `None`: one that nobody knows.
    fn key(&mut self) -> Result<Option<Field>, LineError> {
        self.expect(b'"')?;
        // All names but two fit a word with their closing quote.
        if let Some(word) = self.word() {
            let found = match word {
                _ if word == spelt(b"channel\"") => Some((Field::Channel, 8)),
                _ if word == spelt(b"members\"") => Some((Field::Members, 8)),
                _ if word == spelt(b"created\"") => Some((Field::Created, 8)),
                _ if word & BYTES_7 == spelt(b"author\"") => Some((Field::Author, 7)),
                _ if word & BYTES_5 == spelt(b"time\"") => Some((Field::Time, 5)),
                _ if word & BYTES_5 == spelt(b"body\"") => Some((Field::Body, 5)),
                _ if word & BYTES_5 == spelt(b"user\"") => Some((Field::User, 5)),
                _ if word & BYTES_3 == spelt(b"id\"") => Some((Field::Id, 3)),
                _ => None,
            };
            if let Some((field, bytes)) = found {
                self.at += bytes;
                return Ok(Some(field));
            }
        }
        Ok(match &*self.string()? {
            "channel" => Some(Field::Channel),
            "author" => Some(Field::Author),
            "user" => Some(Field::User),
            "time" => Some(Field::Time),
            "id" => Some(Field::Id),
            "sequence" => Some(Field::Sequence),
            "body" => Some(Field::Body),
            "member" => Some(Field::Member),
            "settings" => Some(Field::Settings),
            "members" => Some(Field::Members),
            "created" => Some(Field::Created),
            _ => None,
        })
    }

    fn string_of(&mut self, field: Field) -> Result<Cow<'a, str>, LineError> {
        if self.peek() != Some(b'"') {
            return Err(LineError::NotAString(field));
        }
        self.at += 1;
        self.string()
    }

    /// A string behind its opening quote.
    fn string(&mut self) -> Result<Cow<'a, str>, LineError> {
        let start = self.at;
        self.at = plain_end(self.bytes, start);
        match self.peek() {
            Some(b'"') => {
                let text = &self.text[start..self.at];
                self.at += 1;
                Ok(Cow::Borrowed(text))
            }
            Some(b'\\') => self.escaped(start).map(Cow::Owned),
            _ => Err(self.not_json()),
        }
    }

    /// The whole of a string with an escape: here is the first one.
    fn escaped(&mut self, start: usize) -> Result<String, LineError> {
        let mut text = String::with_capacity(self.bytes.len() - start);
        let mut from = start;
        while self.peek() == Some(b'\\') {
            let Some(character) = self.bytes.get(self.at + 1).and_then(|byte| plain_escape(*byte))
            else {
                return self.numbered(start);
            };
            text.push_str(&self.text[from..self.at]);
            text.push(character);
            from = self.at + 2;
            self.at = plain_end(self.bytes, from);
        }
        text.push_str(&self.text[from..self.at]);
        self.expect(b'"')?;
        Ok(text)
    }

    /// The same, when here is an escape by the number of a character, or one that there is not.
    fn numbered(&mut self, start: usize) -> Result<String, LineError> {
        while self.peek() == Some(b'\\') {
            self.at = plain_end(self.bytes, self.at + 2);
        }
        if self.peek() != Some(b'"') {
            return Err(self.not_json());
        }
        self.at += 1;
        let quoted = &self.bytes[start - 1..self.at];
        serde_json::from_slice(quoted)
            .map_err(|error| LineError::NotJson(start - 1 + error.column()))
    }

    /// Whether here is `null`. Moves behind it.
    fn null(&mut self) -> bool {
        let is_null = self.bytes[self.at..].starts_with(b"null");
        if is_null {
            self.at += 4;
        }
        is_null
    }

    /// The digits of a whole number without sign, as JSON writes it. `None` for any other value.
    fn digits(&mut self) -> Option<&'a str> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        let digits = &self.text[start..self.at];
        let is_whole = match digits.as_bytes() {
            [] | [b'0', _, ..] => false,
            _ => matches!(self.peek(), Some(b',' | b'}' | b' ' | b'\t' | b'\r' | b'\n')),
        };
        is_whole.then_some(digits)
    }

    fn time(&mut self) -> Result<u64, LineError> {
        if self.peek() == Some(b'"') {
            let text = self.string_of(Field::Time)?;
            return time::rfc3339_ms(&text).map_err(|error| error.of(Field::Time));
        }
        let digits = self.digits().ok_or(LineError::Time(Field::Time))?;
        let time_ms = digits.parse().ok().filter(|time_ms| time::in_range(*time_ms));
        time_ms.ok_or(LineError::TimeRange(Field::Time))
    }

    fn id(&mut self) -> Result<Cow<'a, str>, LineError> {
        if self.peek() == Some(b'"') {
            return self.string_of(Field::Id);
        }
        self.digits().map(Cow::Borrowed).ok_or(LineError::Id)
    }

    fn sequence(&mut self) -> Result<NonZeroU64, LineError> {
        self.digits().and_then(|digits| digits.parse().ok()).ok_or(LineError::Sequence)
    }

    /// Any value, as it stands.
    fn raw(&mut self) -> Result<&'a str, LineError> {
        let start = self.at;
        if self.peek() == Some(b'"') {
            self.at += 1;
            self.string()?;
        } else {
            let mut values =
                serde_json::Deserializer::from_slice(&self.bytes[start..]).into_iter::<Skipped>();
            match values.next() {
                Some(Ok(Skipped)) => self.at += values.byte_offset(),
                Some(Err(error)) if error.to_string().starts_with(TOO_DEEP) => {
                    return Err(LineError::TooDeep);
                }
                Some(Err(error)) => return Err(LineError::NotJson(start + error.column())),
                None => return Err(self.not_json()),
            }
        }
        Ok(&self.text[start..self.at])
    }
}

/// What `serde_json` says beyond a depth of [`IMPORT_DEPTH_MAX`](crate::limits::IMPORT_DEPTH_MAX).
const TOO_DEEP: &str = "recursion limit exceeded";

const ONES: u64 = u64::from_le_bytes([1; 8]);
const HIGHS: u64 = ONES << 7;
const BYTES_3: u64 = (1 << 24) - 1;
const BYTES_5: u64 = (1 << 40) - 1;
const BYTES_7: u64 = (1 << 56) - 1;

/// A name with its closing quote, as the first bytes of a word.
const fn spelt(name: &[u8]) -> u64 {
    let mut word = [0; 8];
    let mut at = 0;
    while at < name.len() {
        word[at] = name[at];
        at += 1;
    }
    u64::from_le_bytes(word)
}

fn word_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
}

/// Where the first byte from `at` on is that a string does not hold as it is: a quote, a backslash or
/// a control character. The end, if there is none.
///
/// Eight bytes at a time. For each of the three, the high bits of `found` are set in the bytes that
/// hold it, and at times in bytes behind one that does; so the lowest is right.
fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(word) = word_at(bytes, at) {
        let quotes = word ^ (ONES * b'"' as u64);
        let backslashes = word ^ (ONES * b'\\' as u64);
        let found = ((quotes.wrapping_sub(ONES) & !quotes)
            | (backslashes.wrapping_sub(ONES) & !backslashes)
            | (word.wrapping_sub(ONES * 0x20) & !word))
            & HIGHS;
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while at < bytes.len() && !matches!(bytes[at], b'"' | b'\\' | 0..0x20) {
        at += 1;
    }
    at
}

/// The character of an escape that is a backslash and one byte.
const fn plain_escape(byte: u8) -> Option<char> {
    Some(match byte {
        b'"' | b'\\' | b'/' => byte as char,
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        _ => return None,
    })
}

/// A value that is checked in all its parts and not kept.
struct Skipped;

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Skipped {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Self, A::Error> {
        while let Some(Self) = values.next_element()? {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self, A::Error> {
        while let Some((Self, Self)) = entries.next_entry()? {}
        Ok(self)
    }
}
