//! A table for a terminal: columns as wide as their widest cell. Pure.

use std::fmt::Write as _;

/// The rows below one another: the first column to the left, the others to the right.
///
/// A row that is cut short says a sentence, which makes no column wide.
pub(crate) fn grid(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let whole = rows.iter().filter(|row| row.len() == columns);
        let widths = whole.map(|row| row[column].chars().count());
        let names = rows.iter().filter(|_| column == 0).map(|row| row[0].chars().count());
        widths.chain(names).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (at, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let _ = if at == 0 {
                write!(text, "{cell:<width$}")
            } else if row.len() < columns {
                write!(text, "  {cell}")
            } else {
                write!(text, "  {cell:>width$}")
            };
        }
        text.push('\n');
    }
    text
}

/// Cells of text.
pub(crate) fn cells<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_sentences_are_not() {
        let rows = [
            cells(["who", "n", "µs"]),
            cells(["one", "1,000", "2"]),
            cells(["longer", "it failed"]),
        ];
        assert_eq!(grid(&rows), "who         n  µs\none     1,000   2\nlonger  it failed\n");
    }
}
