//! The passwords that anybody would try first, to refuse them when they are chosen.
//!
//! Some 8,000 of the most common ones that have the length of ours, from the list of Django 5.2
//! (BSD-3-Clause, see `common_passwords.license.txt`), who have it from Royce Williams' counts of
//! leaked passwords. In lower case, one in a line, sorted by their bytes: searched as it lies in the
//! program, so that it costs nothing at the start and nothing on the heap.

use std::cmp::Ordering;

const LIST: &str = include_str!("common_passwords.txt");

/// Bytes of the longest.
const LENGTH_MAX: usize = 21;

/// Whether the password is one of them, in upper or lower case.
#[must_use]
pub fn contains(password: &str) -> bool {
    // Lower case may be shorter than upper case, by less than this.
    if password.len() > 4 * LENGTH_MAX {
        return false;
    }
    find(LIST.as_bytes(), password.to_lowercase().as_bytes())
}

/// Binary search in lines that are sorted, each with its end.
fn find(mut lines: &[u8], wanted: &[u8]) -> bool {
    while !lines.is_empty() {
        let is_end = |byte: &u8| *byte == b'\n';
        let (before, after) = lines.split_at(lines.len() / 2);
        let begin = before.iter().rposition(is_end).map_or(0, |end| end + 1);
        let end = before.len() + after.iter().position(is_end).unwrap_or(after.len());
        match wanted.cmp(&lines[begin..end]) {
            Ordering::Equal => return true,
            Ordering::Less => lines = &lines[..begin],
            Ordering::Greater => lines = lines.get(end + 1..).unwrap_or_default(),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;

    #[test]
    fn the_list_is_sorted_and_in_lower_case_and_every_entry_could_be_chosen() {
        let entries: Vec<&str> = LIST.lines().collect();
        assert!(entries.len() >= 3000, "{}", entries.len());
        assert!(entries.is_sorted_by(|a, b| a.as_bytes() < b.as_bytes()));
        assert!(LIST.ends_with('\n') && !LIST.contains('\r'));
        for entry in entries {
            assert!((limits::PASSWORD_BYTES_MIN..=LENGTH_MAX).contains(&entry.len()), "{entry}");
            assert_eq!(entry, entry.to_lowercase());
        }
    }

    #[test]
    fn every_entry_is_found_and_nothing_else() {
        for entry in LIST.lines() {
            assert!(contains(entry), "{entry}");
            assert!(contains(&entry.to_uppercase()) || !entry.is_ascii(), "{entry}");
            for other in [format!("{entry}\u{1}"), format!("\u{1}{entry}"), format!("{entry}\n")] {
                assert!(!contains(&other), "{other:?}");
            }
        }
        for other in ["", "\n", "correct horse battery", "zzzzzzzzzzzzzzzzzzzzzzz", "\u{10ffff}"] {
            assert!(!contains(other), "{other:?}");
        }
        assert!(!contains(&"password".repeat(128)));
    }
}
