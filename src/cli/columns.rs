//! Small tables in plain text: columns as wide as their widest cell.

/// A table whose rows are printed under its heads.
#[derive(Debug)]
pub struct Columns {
    rows: Vec<Vec<String>>,
}

impl Columns {
    /// Returns a table with these heads and no rows.
    pub fn new<const N: usize>(heads: [&str; N]) -> Self {
        let mut columns = Columns { rows: Vec::new() };
        columns.add(heads.map(str::to_owned));
        columns
    }

    /// Adds a row.
    pub fn add<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// Returns the lines of the table, indented by two; numbers are aligned to the right.
    pub fn lines(&self) -> String {
        let n_columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..n_columns).map(|n| self.width(n)).collect();
        let numbers: Vec<bool> = (0..n_columns).map(|n| self.is_number(n)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), is_number) in row.iter().zip(&widths).zip(&numbers) {
                let padding = " ".repeat(width - cell.chars().count());
                line += &match is_number {
                    true => format!("  {padding}{cell}"),
                    false => format!("  {cell}{padding}"),
                };
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }

    fn width(&self, n: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(n));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    }

    fn is_number(&self, n: usize) -> bool {
        let cells = self.rows.iter().skip(1).filter_map(|row| row.get(n));
        let mut cells = cells.filter(|cell| *cell != "-").peekable();
        cells.peek().is_some() && cells.all(|cell| cell.parse::<u64>().is_ok())
    }
}

/// Returns a sentence in lines of at most 80 columns, indented by two and by four.
pub fn paragraph(text: &str) -> String {
    let mut lines = String::new();
    let mut line = " ".to_owned();
    for word in text.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > 80 {
            lines += &(line + "\n");
            line = "   ".to_owned();
        }
        line += " ";
        line += word;
    }
    lines + &line + "\n"
}

/// Returns a value, or a dash where there is none.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    let text = value.map(|value| value.to_string());
    text.filter(|text| !text.is_empty())
        .unwrap_or_else(|| "-".to_owned())
}

/// Returns a number of things, such as `1 thread` or `3 threads`.
pub fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        _ => format!("{n} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph_is_wrapped_between_words() {
        let word = "x".repeat(30);
        let text = paragraph(&format!("{word} {word} {word}"));
        assert_eq!(text, format!("  {word} {word}\n    {word}\n"));
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut columns = Columns::new(["cpu", "core", "node"]);
        columns.add(["6", "6,18", "0"].map(str::to_owned));
        columns.add(["18", "é", "-"].map(str::to_owned));
        assert_eq!(
            columns.lines(),
            "  cpu  core  node\n    6  6,18     0\n   18  é        -\n"
        );
    }
}
