//! CSV as RFC 4180 has it: which columns, and how a cell is written. Hot. Pure.
//!
//! Lines end with CR LF, the first one names the columns; a cell is quoted where it must be, with its
//! quotes doubled. UTF-8 without byte order mark.
//!
//! **Not for reading back.** Programs for tables take a cell that begins with `=`, `+`, `-`, `@`, a tab,
//! CR or LF for a formula, and what people write in a channel must not be run on the computer of who
//! looks through it: such a cell begins with an apostrophe. NDJSON is exact.

use thiserror::Error;

/// A column of an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Column {
    /// The channel's name.
    Channel,
    /// The message's place in it.
    Sequence,
    /// When it was written.
    Time,
    /// The display name of who wrote it.
    Author,
    /// The subject of the author's tokens.
    User,
    /// The client's number for it; empty if it gave none.
    Id,
    /// What was written.
    Body,
}

impl Column {
    /// All of them, in the order in which they are written unless another is asked for.
    pub const ALL: [Self; 7] =
        [Self::Channel, Self::Sequence, Self::Time, Self::Author, Self::User, Self::Id, Self::Body];

    /// Its name in the header.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Channel => "channel",
            Self::Sequence => "sequence",
            Self::Time => "time",
            Self::Author => "author",
            Self::User => "user",
            Self::Id => "id",
            Self::Body => "body",
        }
    }
}

/// The columns of an export, in order: at least one, none twice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Columns(Vec<Column>);

/// Why columns cannot be written. For whoever asked.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ColumnsError {
    /// There is no such column.
    #[error(
        "no column has the name at place {0} of columns: there are channel, sequence, time, author, user, id and body"
    )]
    Unknown(usize),
    /// It is asked for again.
    #[error("the column {} is asked for twice", .0.name())]
    Twice(Column),
}

impl Default for Columns {
    fn default() -> Self {
        Self(Column::ALL.to_vec())
    }
}

impl Columns {
    /// Reads names with commas between them.
    ///
    /// # Errors
    /// When a name is unknown, an empty one too, or is there twice.
    pub fn parse(names: &str) -> Result<Self, ColumnsError> {
        let mut columns = Vec::new();
        for (place, name) in (1..).zip(names.split(',')) {
            let column = Column::ALL.into_iter().find(|column| column.name() == name);
            let column = column.ok_or(ColumnsError::Unknown(place))?;
            // So there are never more than there are columns, however long the names.
            if columns.contains(&column) {
                return Err(ColumnsError::Twice(column));
            }
            columns.push(column);
        }
        Ok(Self(columns))
    }

    /// Writes the line that names the columns.
    pub fn header(&self, out: &mut Vec<u8>) {
        self.row(out, |out, column| out.extend_from_slice(column.name().as_bytes()));
    }

    /// Writes a line. Each cell is written as it is in a file, as by [`cell`].
    pub fn row(&self, out: &mut Vec<u8>, mut cell: impl FnMut(&mut Vec<u8>, Column)) {
        for (place, column) in self.0.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            let before = out.len();
            cell(out, *column);
            // A line with nothing in it would be no row for many readers.
            if self.0.len() == 1 && out.len() == before {
                out.extend_from_slice(b"\"\"");
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Writes a text that anybody may have written.
pub fn cell(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let guard: &[u8] = match bytes.first() {
        Some(b'=' | b'+' | b'-' | b'@' | b'\t' | b'\r' | b'\n') => b"'",
        _ => b"",
    };
    // No way out early: so the compiler makes vectors of it.
    let is_special = |byte: &u8| matches!(byte, b',' | b'"' | b'\r' | b'\n');
    if !bytes.iter().fold(false, |found, byte| found | is_special(byte)) {
        out.extend_from_slice(guard);
        out.extend_from_slice(bytes);
        return;
    }
    out.push(b'"');
    out.extend_from_slice(guard);
    for (place, part) in bytes.split(|byte| *byte == b'"').enumerate() {
        if place > 0 {
            out.extend_from_slice(b"\"\"");
        }
        out.extend_from_slice(part);
    }
    out.push(b'"');
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a whole file. Strict: RFC 4180's grammar and nothing else.
    pub(in crate::transfer) fn read(mut text: &str) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        let mut row = Vec::new();
        while !text.is_empty() {
            let mut value = String::new();
            if let Some(mut quoted) = text.strip_prefix('"') {
                loop {
                    let (part, rest) = quoted.split_once('"').expect("a quote is closed");
                    value.push_str(part);
                    match rest.strip_prefix('"') {
                        Some(rest) => {
                            value.push('"');
                            quoted = rest;
                        }
                        None => break text = rest,
                    }
                }
            } else {
                let end = text.find([',', '\r']).expect("a line has an end");
                assert!(!text[..end].contains(['"', '\n']), "it should be quoted");
                value.push_str(&text[..end]);
                text = &text[end..];
            }
            row.push(value);
            if let Some(rest) = text.strip_prefix(',') {
                text = rest;
            } else {
                text = text.strip_prefix("\r\n").expect("a cell ends with a comma or its line");
                rows.push(std::mem::take(&mut row));
            }
        }
        rows
    }

    /// What becomes of a text in a program for tables.
    pub(in crate::transfer) fn guarded(text: &str) -> String {
        if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) {
            format!("'{text}")
        } else {
            text.to_owned()
        }
    }

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        cell(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_cell_is_quoted_where_it_must_be() {
        let cases = [
            ("", ""),
            ("plain", "plain"),
            (" with spaces ", " with spaces "),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("\"", "\"\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("two\r\nlines", "\"two\r\nlines\""),
            ("grüße 👋", "grüße 👋"),
        ];
        for (text, expected) in cases {
            assert_eq!(written(text), expected);
        }
    }

    #[test]
    fn what_would_be_a_formula_is_text() {
        let cases = [
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "'\t=1"),
            ("\r=1", "\"'\r=1\""),
            ("\n=1", "\"'\n=1\""),
            ("=HYPERLINK(\"http://x\",\"y\")", "\"'=HYPERLINK(\"\"http://x\"\",\"\"y\"\")\""),
            ("'=1", "'=1"),
            ("1=1", "1=1"),
        ];
        for (text, expected) in cases {
            assert_eq!(written(text), expected);
        }
    }

    #[test]
    fn columns_come_as_asked_for() {
        let header = |columns: &Columns| {
            let mut out = Vec::new();
            columns.header(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(header(&Columns::default()), "channel,sequence,time,author,user,id,body\r\n");
        assert_eq!(header(&Columns::parse("body,time").unwrap()), "body,time\r\n");
        assert_eq!(Columns::parse(""), Err(ColumnsError::Unknown(1)));
        assert_eq!(Columns::parse("body,"), Err(ColumnsError::Unknown(2)));
        assert_eq!(Columns::parse("id, body"), Err(ColumnsError::Unknown(2)));
        assert_eq!(Columns::parse("Body"), Err(ColumnsError::Unknown(1)));
        assert_eq!(Columns::parse("id,body,id"), Err(ColumnsError::Twice(Column::Id)));
        assert_eq!(ColumnsError::Twice(Column::Id).to_string(), "the column id is asked for twice");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            rows in prop::collection::vec(
                prop::collection::vec(prop_oneof![any::<String>(), "[=+@\t\r\n\"',a-]{0,6}"], 3), 0..8
            ),
            count in 1_usize..=3,
        ) {
            let columns = Columns(Column::ALL[..count].to_vec());
            let mut out = Vec::new();
            for row in &rows {
                let mut cells = row.iter();
                columns.row(&mut out, |out, _| cell(out, cells.next().unwrap()));
            }
            let text = String::from_utf8(out).unwrap();
            let expected: Vec<Vec<String>> =
                rows.iter().map(|row| row[..count].iter().map(|text| guarded(text)).collect()).collect();
            prop_assert_eq!(read(&text), expected);
        }
    }
}
