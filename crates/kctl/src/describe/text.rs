//! Text with cells that line up among neighbouring lines, as kubectl's `describe` has it.

/// Spaces between a cell and the next.
const PADDING: usize = 2;

/// Lines of cells. A cell lines up with the cells of its column in the lines right above and below that go on after it.
#[derive(Debug, Default)]
pub struct Text {
    lines: Vec<Vec<String>>,
}

// === impl Text ===

impl Text {
    /// Adds a line at a level of indentation; tabs separate its cells.
    pub fn line(&mut self, level: usize, line: impl AsRef<str>) {
        let mut cells: Vec<String> = line.as_ref().split('\t').map(printable).collect();
        if let Some(first) = cells.first_mut() {
            first.insert_str(0, &"  ".repeat(level));
        }
        self.lines.push(cells);
    }

    /// Adds `Key:  value`. A value of several lines goes on below its beginning.
    pub fn field(&mut self, level: usize, key: &str, value: impl AsRef<str>) {
        let mut lines = value.as_ref().lines();
        self.line(level, format!("{key}:\t{}", lines.next().unwrap_or_default().replace('\t', " ")));
        for line in lines {
            self.line(level, format!("\t{}", line.replace('\t', " ")));
        }
    }

    /// Adds `Key:` and a line for each entry, the first of them beside the key; `<none>` if there are none.
    pub fn entries(&mut self, level: usize, key: &str, entries: impl IntoIterator<Item = String>) {
        let mut entries = entries.into_iter();
        self.line(level, format!("{key}:\t{}", entries.next().unwrap_or_else(|| "<none>".to_owned())));
        for entry in entries {
            self.line(level, format!("\t{entry}"));
        }
    }

    /// The text.
    pub fn render(self) -> String {
        let mut widths: Vec<Vec<usize>> =
            self.lines.iter().map(|cells| cells.iter().map(|cell| cell.chars().count()).collect()).collect();
        let columns = self.lines.iter().map(Vec::len).max().unwrap_or_default();
        for column in 0..columns {
            let mut start = 0;
            while start < widths.len() {
                let goes_on = |row: &Vec<usize>| row.len() > column + 1;
                let end = start + widths[start..].iter().take_while(|row| goes_on(row)).count();
                let widest = widths[start..end].iter().map(|row| row[column]).max().unwrap_or_default();
                widths[start..end].iter_mut().for_each(|row| row[column] = widest + PADDING);
                start = end.max(start + 1);
            }
        }
        let mut out = String::new();
        for (cells, widths) in self.lines.iter().zip(&widths) {
            for (i, cell) in cells.iter().enumerate() {
                out.push_str(cell);
                if i + 1 < cells.len() {
                    out.extend(std::iter::repeat_n(' ', widths[i].saturating_sub(cell.chars().count())));
                }
            }
            while out.ends_with(' ') {
                out.pop();
            }
            out.push('\n');
        }
        out
    }
}

/// An object's text must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_line_up_and_others_do_not() {
        let mut text = Text::default();
        text.field(0, "Name", "a");
        text.field(0, "Longer Key", "b\nc");
        text.line(0, "Parts:");
        text.field(1, "x", "y");
        text.entries(0, "None", []);
        assert_eq!(text.render(), "Name:        a\nLonger Key:  b\n             c\nParts:\n  x:   y\nNone:  <none>\n");
    }
}
