//! A row of the account store as bytes: its columns by name, so that a node that knows fewer of them
//! or more can read it.
//!
//! ```text
//! 1 | columns: u16 | per column: name length u8, name, kind u8, value
//! value: nothing (null), 8 bytes (integer, real), or length u32 and bytes (text, blob)
//! ```
//!
//! Numbers are big-endian. Another first byte is another layout, of a hubbub to come.

use bytes::{Buf as _, BufMut as _};
use rusqlite::types::Value;

const VERSION: u8 = 1;

/// Columns and what is in them.
pub(super) type Columns = Vec<(String, Value)>;

pub(super) fn encode(columns: &[(String, Value)]) -> Vec<u8> {
    let mut row = vec![VERSION];
    row.put_u16(u16::try_from(columns.len()).expect("a table has few columns"));
    for (name, value) in columns {
        row.put_u8(u8::try_from(name.len()).expect("the name of a column is short"));
        row.put_slice(name.as_bytes());
        match value {
            Value::Null => row.put_u8(0),
            Value::Integer(number) => {
                row.put_u8(1);
                row.put_i64(*number);
            }
            Value::Real(number) => {
                row.put_u8(2);
                row.put_f64(*number);
            }
            Value::Text(text) => put_bytes(&mut row, 3, text.as_bytes()),
            Value::Blob(bytes) => put_bytes(&mut row, 4, bytes),
        }
    }
    row
}

/// None if it is not a row, or one of a layout that is not known here.
pub(super) fn decode(mut row: &[u8]) -> Option<Columns> {
    if row.try_get_u8().ok()? != VERSION {
        return None;
    }
    let count = row.try_get_u16().ok()?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let length = row.try_get_u8().ok()?;
        let name = text(take(&mut row, length.into())?)?;
        let value = match row.try_get_u8().ok()? {
            0 => Value::Null,
            1 => Value::Integer(row.try_get_i64().ok()?),
            2 => Value::Real(row.try_get_f64().ok()?),
            3 => Value::Text(text(take_bytes(&mut row)?)?),
            4 => Value::Blob(take_bytes(&mut row)?.to_vec()),
            _ => return None,
        };
        columns.push((name, value));
    }
    row.is_empty().then_some(columns)
}

fn put_bytes(row: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    row.put_u8(kind);
    row.put_u32(u32::try_from(bytes.len()).expect("SQLite holds less"));
    row.put_slice(bytes);
}

fn take_bytes<'r>(row: &mut &'r [u8]) -> Option<&'r [u8]> {
    let length = row.try_get_u32().ok()?;
    take(row, usize::try_from(length).ok()?)
}

fn take<'r>(row: &mut &'r [u8], length: usize) -> Option<&'r [u8]> {
    let (taken, rest) = row.split_at_checked(length)?;
    *row = rest;
    Some(taken)
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            any::<i32>().prop_map(|number| Value::Real(number.into())),
            any::<String>().prop_map(Value::Text),
            any::<Vec<u8>>().prop_map(Value::Blob),
        ]
    }

    proptest! {
        #[test]
        fn a_row_comes_back_and_no_part_of_it_is_one(
            columns in proptest::collection::vec(("[a-z_]{1,20}", value()), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let row = encode(&columns);
            prop_assert_eq!(decode(&row[..cut.index(row.len())]), None);
            prop_assert_eq!(decode(&row), Some(columns));
        }

        #[test]
        fn any_bytes_are_a_row_or_none(bytes: Vec<u8>) {
            if let Some(columns) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(&columns)).map(|again| again.len()), Some(columns.len()));
            }
        }
    }

    #[test]
    fn a_layout_to_come_is_not_guessed_at() {
        let mut row = encode(&[]);
        row[0] = 2;
        assert_eq!(decode(&row), None);
    }
}
