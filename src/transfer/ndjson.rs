//! The text of an export's lines: strings, numbers, times and settings. Hot. Pure.
//!
//! Strings are escaped as `serde_json` escapes them, which the tests hold them against.

use serde::Serialize;

use crate::log::settings::{Posting, Quota, Settings, Visibility};

/// What a channel is, apart from its messages and members.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SettingsLine<'a> {
    /// Its name, where that is not said before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    /// For people.
    pub topic: &'a str,
    /// Who knows of it.
    pub visibility: Visibility,
    /// Who may publish.
    pub posting: Posting,
    /// Whether it takes no message.
    pub archived: bool,
    /// What it accepts in its whole life.
    pub quota: Quota,
}

impl<'a> SettingsLine<'a> {
    /// These settings without their name.
    #[must_use]
    pub fn of(settings: &'a Settings) -> Self {
        Self {
            name: None,
            topic: &settings.topic,
            visibility: settings.visibility,
            posting: settings.posting,
            archived: settings.archived,
            quota: settings.quota,
        }
    }

    /// These settings with their name.
    #[must_use]
    pub fn named(settings: &'a Settings) -> Self {
        Self { name: Some(&settings.name), ..Self::of(settings) }
    }
}

/// Writes what is rare.
pub fn json(out: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(out, value).expect("numbers and strings always have a JSON form");
}

/// What a byte of a string becomes: 0, itself; `u`, `\u00XX`; otherwise a backslash and this.
const ESCAPES: [u8; 256] = {
    let mut escapes = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        escapes[byte] = b'u';
        byte += 1;
    }
    escapes[0x08] = b'b';
    escapes[b'\t' as usize] = b't';
    escapes[b'\n' as usize] = b'n';
    escapes[0x0c] = b'f';
    escapes[b'\r' as usize] = b'r';
    escapes[b'"' as usize] = b'"';
    escapes[b'\\' as usize] = b'\\';
    escapes
};

/// Bytes that are looked at together. The compiler makes vectors of it.
const LOOK_BYTES: usize = 16;

/// Writes a string with its quotes.
pub fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let (blocks, rest) = text.as_bytes().as_chunks::<LOOK_BYTES>();
    let is_plain = |block: &[u8; LOOK_BYTES]| {
        !block
            .iter()
            .fold(false, |found, byte| found | (*byte < 0x20) | (*byte == b'"') | (*byte == b'\\'))
    };
    // What is plain is copied in runs as long as they are.
    let mut written = 0;
    for (number, block) in blocks.iter().enumerate() {
        if is_plain(block) {
            continue;
        }
        let at = number * LOOK_BYTES;
        out.extend_from_slice(&text.as_bytes()[written..at]);
        written = at + LOOK_BYTES;
        escaped(out, block);
    }
    out.extend_from_slice(&text.as_bytes()[written..blocks.len() * LOOK_BYTES]);
    escaped(out, rest);
    out.push(b'"');
}

fn escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut written = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let escape = ESCAPES[usize::from(byte)];
        if escape == 0 {
            continue;
        }
        out.extend_from_slice(&bytes[written..at]);
        written = at + 1;
        out.extend_from_slice(&[b'\\', escape]);
        if escape == b'u' {
            let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
            out.extend_from_slice(&[b'0', b'0', high, low]);
        }
    }
    out.extend_from_slice(&bytes[written..]);
}

/// Writes a number in decimal.
pub fn number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = digit(number);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The last millisecond of the year 9999. RFC 3339 knows no later ones.
const TIME_MS_LAST: u64 = 253_402_300_799_999;

/// Writes a time in milliseconds since 1970 as RFC 3339 has it, to the millisecond, in UTC.
pub fn time(out: &mut Vec<u8>, time_ms: u64) {
    let time_ms = time_ms.min(TIME_MS_LAST);
    let (year, month, day) = date(time_ms / 86_400_000);
    let (ms, s, min, h) =
        (time_ms % 1_000, time_ms / 1_000 % 60, time_ms / 60_000 % 60, time_ms / 3_600_000 % 24);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    for (at, number) in
        [(0, year / 100), (2, year % 100), (5, month), (8, day), (11, h), (14, min), (17, s)]
    {
        text[at] = digit(number / 10);
        text[at + 1] = digit(number);
    }
    for (at, number) in [(20, ms / 100), (21, ms / 10), (22, ms)] {
        text[at] = digit(number);
    }
    out.extend_from_slice(&text);
}

/// The last decimal digit of a number.
#[allow(clippy::cast_possible_truncation, reason = "a remainder of 10 fits a byte")]
const fn digit(number: u64) -> u8 {
    b'0' + (number % 10) as u8
}

/// Year, month and day of the day that lies so many days after 1970-01-01. Years begin in March here,
/// so that the day that comes and goes is the last one of a year; 400 of them have always as many days.
const fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let from_0000_03_01 = days + 719_468;
    let (era, day) = (from_0000_03_01 / DAYS_OF_400_YEARS, from_0000_03_01 % DAYS_OF_400_YEARS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let years = era * 400 + year;
    (if month <= 2 { years + 1 } else { years }, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn a_string_is_what_serde_json_writes(
            text in prop_oneof![
                any::<String>(), "[\\x00-\\x7f]{0,100}", "[a-z]{0,40}[\"\\\\\n\u{7f}é]?[a-z]{0,40}",
            ],
        ) {
            prop_assert_eq!(
                written(|out| string(out, &text)), serde_json::to_string(&text).unwrap()
            );
        }

        #[test]
        fn a_number_is_written_as_usual(value: u64, shift in 0_u32..64) {
            let value = value >> shift;
            prop_assert_eq!(written(|out| number(out, value)), value.to_string());
        }

        #[test]
        fn a_time_is_what_another_program_writes(time_ms in 0..=TIME_MS_LAST) {
            let other = SystemTime::UNIX_EPOCH + Duration::from_millis(time_ms);
            let other = humantime::format_rfc3339_millis(other).to_string();
            prop_assert_eq!(written(|out| time(out, time_ms)), other);
        }
    }

    #[test]
    fn every_day_of_400_years_is_the_one_after_the_last() {
        let mut last = date(0);
        assert_eq!(last, (1970, 1, 1));
        for days in 1..146_097 {
            let (year, month, day) = date(days);
            let follows = match last {
                (y, m, d) if d < day => (year, month, day) == (y, m, d + 1),
                (y, 12, 31) => (year, month, day) == (y + 1, 1, 1),
                (y, m, 28..=31) => (year, month, day) == (y, m + 1, 1),
                _ => false,
            };
            assert!(follows, "{last:?}, then {:?}", (year, month, day));
            last = (year, month, day);
        }
        assert_eq!(written(|out| time(out, u64::MAX)), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn settings_are_written_with_or_without_the_name() {
        let open = Settings::open("lobby");
        assert_eq!(
            written(|out| json(out, &SettingsLine::of(&open))),
            r#"{"topic":"","visibility":"public","posting":"everyone","archived":false,"quota":{}}"#
        );
        let closed = Settings {
            topic: "all \"things\"".to_owned(),
            visibility: Visibility::Private,
            posting: Posting::Moderators,
            archived: true,
            quota: Quota { messages_max: 9.try_into().ok(), bytes_max: None },
            ..open
        };
        assert_eq!(
            written(|out| json(out, &SettingsLine::named(&closed))),
            "{\"name\":\"lobby\",\"topic\":\"all \\\"things\\\"\",\"visibility\":\"private\",\
             \"posting\":\"moderators\",\"archived\":true,\"quota\":{\"messages_max\":9}}"
        );
    }
}
