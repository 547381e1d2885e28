//! Text in aligned columns, as kubectl's: three spaces between columns, no column narrower than six, nothing after the last cell.

/// Spaces between columns.
const PADDING: usize = 3;
/// Least width of a column, padding included.
const MINIMUM: usize = 6;

/// Rows that line up with those printed before.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    widths: Vec<usize>,
}

// === impl Table ===

impl Table {
    /// A table with this heading.
    pub fn new<S: AsRef<str>>(heading: impl IntoIterator<Item = S>) -> Self {
        let mut table = Self::default();
        table.push(heading);
        table
    }

    /// Adds a row.
    pub fn push<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let row: Vec<String> = cells.into_iter().map(|cell| one_line(cell.as_ref())).collect();
        for (i, cell) in row.iter().enumerate() {
            let width = (cell.chars().count() + PADDING).max(MINIMUM);
            match self.widths.get_mut(i) {
                Some(known) => *known = width.max(*known),
                None => self.widths.push(width),
            }
        }
        self.rows.push(row);
    }

    /// True if there is nothing to print.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows that have not been printed yet. Widths stay, so that later rows line up.
    pub fn take(&mut self) -> String {
        let mut out = String::new();
        for row in std::mem::take(&mut self.rows) {
            let last = row.len().saturating_sub(1);
            for (i, cell) in row.iter().enumerate() {
                out.push_str(cell);
                if i < last {
                    let width = self.widths.get(i).copied().unwrap_or(MINIMUM);
                    out.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
                }
            }
            out.push('\n');
        }
        out
    }
}

/// A cell is one line without control characters: an object's text must not steer the terminal.
fn one_line(cell: &str) -> String {
    let (line, more) = match cell.split_once(['\n', '\r', '\u{c}']) {
        Some((line, _)) => (line, "..."),
        None => (cell, ""),
    };
    let mut out: String = line.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect();
    out.push_str(more);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_as_kubectls() {
        let mut table = Table::new(["NAME", "A", "LAST"]);
        table.push(["long-name", "1", "x"]);
        assert_eq!(table.take(), "NAME        A     LAST\nlong-name   1     x\n");
        table.push(["b", "2", "y"]);
        assert_eq!(table.take(), "b           2     y\n");
    }

    #[test]
    fn a_cell_cannot_break_out_of_its_row() {
        let mut table = Table::new(["a\u{1b}[2Jb\nc"]);
        assert_eq!(table.take(), "a\\u{1b}[2Jb...\n");
    }
}
