//! What the users write: a body follows from the message's id alone, so that a message that is sent
//! again is the same. Hot. Pure.

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Makes bodies, one after the other, in one buffer.
#[derive(Debug)]
pub(crate) struct Bodies {
    text: String,
    bytes: usize,
}

impl Bodies {
    /// Of this size, or as long as an id needs.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes.max(16)), bytes }
    }

    /// The body of this message. To be given back, so that the next one needs no memory of its own.
    pub(crate) fn take(&mut self, id: u64) -> String {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
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
        if text.len() < self.bytes {
            text.push(' ');
            text.extend(std::iter::repeat_n('x', self.bytes - text.len()));
        }
        text
    }

    pub(crate) fn give_back(&mut self, text: String) {
        self.text = text;
    }
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
    }
}
