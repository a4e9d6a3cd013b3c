//! Times of RFC 3339 → milliseconds since 1970. Hot. Pure.

use super::{Field, LineError};

/// Year 10000: no time lies there.
pub const TIME_MS_END: u64 = 253_402_300_800_000;

/// Why a text is no time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeError {
    /// It is not of the form.
    Form,
    /// It is before 1970, or after 9999.
    Range,
}

impl TimeError {
    pub(super) const fn of(self, field: Field) -> LineError {
        match self {
            Self::Form => LineError::Time(field),
            Self::Range => LineError::TimeRange(field),
        }
    }
}

/// The time, cut to milliseconds. A leap second is the first of the next minute, as POSIX counts.
///
/// # Errors
/// When there is none in the text, or none after the beginning of 1970 and before the year 10000.
pub fn rfc3339_ms(text: &str) -> Result<u64, TimeError> {
    let &[
        y0,
        y1,
        y2,
        y3,
        b'-',
        m0,
        m1,
        b'-',
        d0,
        d1,
        b'T' | b't' | b' ',
        h0,
        h1,
        b':',
        i0,
        i1,
        b':',
        s0,
        s1,
        ref rest @ ..,
    ] = text.as_bytes()
    else {
        return Err(TimeError::Form);
    };
    let year = i64::from(two(y0, y1)? * 100 + two(y2, y3)?);
    let (month, day) = (two(m0, m1)?, two(d0, d1)?);
    let (hour, minute, second) = (two(h0, h1)?, two(i0, i1)?, two(s0, s1)?);
    let (millis, zone) = fraction(rest)?;
    let offset_minutes = match *zone {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h0, h1, b':', m0, m1] => {
            let (hours, minutes) = (two(h0, h1)?, two(m0, m1)?);
            if hours > 23 || minutes > 59 {
                return Err(TimeError::Form);
            }
            let offset = i64::from(hours * 60 + minutes);
            if sign == b'-' { -offset } else { offset }
        }
        _ => return Err(TimeError::Form),
    };
    let is_date = (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 60 {
        return Err(TimeError::Form);
    }
    let minutes = i64::from(hour * 60 + minute) - offset_minutes;
    let seconds = days_since_1970(year, month, day) * 86_400 + minutes * 60 + i64::from(second);
    // Leap seconds come at the end of a day of UTC.
    if second == 60 && seconds.rem_euclid(86_400) != 0 {
        return Err(TimeError::Form);
    }
    u64::try_from(seconds * 1000 + i64::from(millis))
        .ok()
        .filter(|time_ms| in_range(*time_ms))
        .ok_or(TimeError::Range)
}

/// Whether somebody can have written something at this time.
#[must_use]
pub const fn in_range(time_ms: u64) -> bool {
    0 < time_ms && time_ms < TIME_MS_END
}

fn two(tens: u8, ones: u8) -> Result<u32, TimeError> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    if tens > 9 || ones > 9 {
        return Err(TimeError::Form);
    }
    Ok(u32::from(tens * 10 + ones))
}

/// The milliseconds of what begins with a fraction, or of what does not, and what follows.
fn fraction(rest: &[u8]) -> Result<(u32, &[u8]), TimeError> {
    let Some((b'.', digits)) = rest.split_first() else { return Ok((0, rest)) };
    let count = digits.iter().take_while(|digit| digit.is_ascii_digit()).count();
    if count == 0 {
        return Err(TimeError::Form);
    }
    let at = |place: usize| if place < count { u32::from(digits[place] - b'0') } else { 0 };
    Ok((at(0) * 100 + at(1) * 10 + at(2), &digits[count..]))
}

fn days_in(year: i64, month: u32) -> u32 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// By years that begin with March, so that the leap day is the last of its year.
fn days_since_1970(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((i64::from(month) + 9) % 12) + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use ::time::{OffsetDateTime, format_description::well_known::Rfc3339};
    use proptest::prelude::*;

    use super::*;

    fn oracle(text: &str) -> Option<u64> {
        let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        let ms = time.unix_timestamp_nanos().div_euclid(1_000_000);
        u64::try_from(ms).ok().filter(|ms| in_range(*ms))
    }

    proptest! {
        #[test]
        fn a_time_is_what_another_program_takes_it_for(
            (year, month, day) in (0..=9999_u32, 0..=13_u32, 0..=32_u32),
            (hour, minute, second) in (0..=24_u32, 0..=60_u32, 0..=59_u32),
            fraction in "(\\.[0-9]{1,9})?",
            zone in "Z|z|[+-](0[0-9]|1[0-9]|2[0-4]):[0-6][0-9]",
        ) {
            let text = format!(
                "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{zone}"
            );
            prop_assert_eq!(rfc3339_ms(&text).ok(), oracle(&text), "{}", text);
        }

        #[test]
        fn a_time_that_was_written_is_read(ms in 1..TIME_MS_END) {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms);
            let text = humantime::format_rfc3339_millis(time).to_string();
            prop_assert_eq!(rfc3339_ms(&text), Ok(ms), "{}", text);
        }

        #[test]
        fn any_text_is_a_time_or_not_but_never_a_panic(text in "\\PC{0,40}|[0-9T:.Z+-]{0,40}") {
            let _ = rfc3339_ms(&text);
        }
    }

    #[test]
    fn the_ends_and_the_oddities_of_the_calendar_are_known() {
        for (text, ms) in [
            ("2026-11-21T12:00:00.123Z", Ok(1_795_262_400_123)),
            ("1970-01-01T00:00:00.001Z", Ok(1)),
            ("1970-01-01T00:00:00Z", Err(TimeError::Range)),
            ("1969-12-31T23:59:59.999Z", Err(TimeError::Range)),
            ("9999-12-31T23:59:59.999Z", Ok(TIME_MS_END - 1)),
            ("9999-12-31T23:59:59-00:01", Err(TimeError::Range)),
            ("2000-02-29T00:00:00Z", Ok(951_782_400_000)),
            ("1900-02-29T00:00:00Z", Err(TimeError::Form)),
            ("2016-12-31T23:59:60Z", Ok(1_483_228_800_000)),
            ("2016-12-31T22:59:60-01:00", Ok(1_483_228_800_000)),
            ("2016-12-31T12:00:60Z", Err(TimeError::Form)),
            ("2026-11-21 12:00:00z", Ok(1_795_262_400_000)),
            ("2026-11-21T12:00:00", Err(TimeError::Form)),
            ("2026-11-21T12:00:00.Z", Err(TimeError::Form)),
            ("2026-11-21", Err(TimeError::Form)),
        ] {
            assert_eq!(rfc3339_ms(text), ms, "{text}");
        }
    }
}
