//! What a message's body says of itself: its number, and when it was to be sent. Hot. Pure.
//!
//! Sixteen hexadecimal digits, because a body is text in some dialects, and then filler.

/// Of the two numbers at the beginning of a body. No body is shorter.
pub(super) const MARK_BYTES: usize = 16;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// A message, as its body tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    /// 0, 1, 2, … in the order of sending.
    pub(super) number: u32,
    /// The moment for which it was intended, in microseconds since the generator began.
    pub(super) due_us: u32,
}

/// Appends a body of this many bytes, or as many as the mark takes.
pub(super) fn write(out: &mut Vec<u8>, mark: Mark, bytes: usize) {
    let start = out.len();
    for number in [mark.number, mark.due_us] {
        let digit = |shift: u32| DIGITS[(number >> shift & 0xF) as usize];
        out.extend((0..8).rev().map(|at| digit(at * 4)));
    }
    out.resize(start + bytes.max(MARK_BYTES), b'x');
}

/// What a body says. Of bytes that are no digits something comes out that no message has.
#[inline]
pub(super) fn read(body: &[u8]) -> Option<Mark> {
    let (number, rest) = body.split_first_chunk()?;
    let (due_us, _) = rest.split_first_chunk()?;
    Some(Mark { number: number_of(*number), due_us: number_of(*due_us) })
}

/// Eight digits at once: for 10 million messages a second, 100 ns is all there is for one.
#[inline]
fn number_of(digits: [u8; 8]) -> u32 {
    const NIBBLES: u64 = 0x0F0F_0F0F_0F0F_0F0F;
    const ONES: u64 = 0x0101_0101_0101_0101;
    let letters = u64::from_be_bytes(digits);
    // A letter has bit 6 set, and 1 to 6 in its low half.
    let mut nibbles = (letters & NIBBLES).wrapping_add((letters >> 6 & ONES) * 9);
    nibbles = (nibbles | nibbles >> 4) & 0x00FF_00FF_00FF_00FF;
    nibbles = (nibbles | nibbles >> 8) & 0x0000_FFFF_0000_FFFF;
    #[expect(clippy::cast_possible_truncation, reason = "both halves are put together here")]
    let number = (nibbles | nibbles >> 16) as u32;
    number
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(number: u32, due_us: u32, bytes in 0..200_usize) {
            let mut body = b"before".to_vec();
            write(&mut body, Mark { number, due_us }, bytes);
            prop_assert_eq!(body.len(), 6 + bytes.max(MARK_BYTES));
            prop_assert_eq!(read(&body[6..]), Some(Mark { number, due_us }));
        }

        #[test]
        fn eight_digits_are_read_as_the_standard_library_reads_them(number: u32) {
            let digits: [u8; 8] = format!("{number:08x}").into_bytes().try_into().unwrap();
            prop_assert_eq!(number_of(digits), number);
        }
    }

    #[test]
    fn a_body_is_text_with_digits_first() {
        let mut body = Vec::new();
        write(&mut body, Mark { number: 0xBEEF, due_us: 1_000 }, 20);
        assert_eq!(body, b"0000beef000003e8xxxx");
        assert_eq!(read(b"0000beef000003e"), None);
    }
}
