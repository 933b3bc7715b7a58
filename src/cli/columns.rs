//! Small tables in plain text: columns as wide as their widest cell.

use crate::domain::words::{LEAST_COLUMNS, length, pieces, words};

/// Columns of a terminal that everything but log lines fits into.
pub const MAX_COLUMNS: usize = 80;

/// A table whose rows are printed under its heads.
#[derive(Debug)]
pub struct Columns {
    rows: Vec<Vec<String>>,
}

impl Columns {
    /// Returns a table with these heads and rows.
    pub fn of(heads: &[&str], rows: Vec<Vec<String>>) -> Self {
        let heads = heads.iter().map(|head| (*head).to_owned()).collect();
        let rows = std::iter::once(heads).chain(rows).collect();
        Columns { rows }
    }

    /// Returns the lines of the table, indented by two; numbers are aligned to the right. Lists and
    /// paths go on below themselves where a line would be too long.
    pub fn lines(&self) -> String {
        let widths = self.widths();
        let numbers: Vec<bool> = (0..widths.len()).map(|n| self.is_number(n)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths);
            let cells: Vec<Vec<String>> = cells.map(|(cell, width)| pieces(cell, *width)).collect();
            let height = cells.iter().map(Vec::len).max().unwrap_or(0);
            for n in 0..height {
                let mut line = String::new();
                for ((cell, width), is_number) in cells.iter().zip(&widths).zip(&numbers) {
                    let cell = cell.get(n).map_or("", String::as_str);
                    let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
                    line += &match is_number {
                        true => format!("  {padding}{cell}"),
                        false => format!("  {cell}{padding}"),
                    };
                }
                text += line.trim_end();
                text.push('\n');
            }
        }
        text
    }

    /// Returns the width of each column: that of its widest cell, unless a line were too long.
    fn widths(&self) -> Vec<usize> {
        let n_columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut widths: Vec<usize> = (0..n_columns).map(|n| self.width(n)).collect();
        loop {
            let total: usize = widths.iter().map(|width| width + 2).sum();
            let excess = total.saturating_sub(MAX_COLUMNS);
            let narrowest = |n: usize| {
                let cells = self.rows.iter().filter_map(|row| row.get(n));
                let longest = |cell: &String| words(cell).iter().map(|word| length(word)).max();
                cells
                    .filter_map(longest)
                    .max()
                    .unwrap_or(0)
                    .max(LEAST_COLUMNS)
            };
            let breakable = (0..n_columns).filter(|n| widths[*n] > narrowest(*n));
            match breakable.max_by_key(|n| widths[*n]).filter(|_| excess > 0) {
                Some(widest) => {
                    let others = widths.iter().enumerate().filter(|(n, _)| *n != widest);
                    let second = others.map(|(_, width)| *width).max().unwrap_or(0);
                    // Down to the next one first, so that long columns share what there is.
                    let least = narrowest(widest).max(second.min(widths[widest] - 1));
                    widths[widest] = widths[widest].saturating_sub(excess).max(least);
                }
                None => return widths,
            }
        }
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
    wrapped(text, "  ")
}

/// Returns a sentence in lines of at most 80 columns; the first one is indented by `indent`, the
/// others by two more.
pub fn wrapped(text: &str, indent: &str) -> String {
    let width = MAX_COLUMNS - indent.len() - 2;
    let mut lines = String::new();
    for (n, line) in pieces(text, width).into_iter().enumerate() {
        let more = if n > 0 { "  " } else { "" };
        lines += &format!("{indent}{more}{line}\n");
    }
    lines
}

/// Returns a value, or a dash where there is none.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    let text = value.map(|value| value.to_string());
    text.filter(|text| !text.is_empty())
        .unwrap_or_else(|| "-".to_owned())
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
    fn long_lists_go_on_below_themselves() {
        let list = (0..60).map(|n| (2 * n).to_string());
        let list = list.collect::<Vec<_>>().join(",");
        let group = "user.slice/user-0.slice/session-3.scope";
        let row = ["vcpu 0", "1", &list, group].map(str::to_owned);
        let heads = ["thread", "cpus", "actual", "cgroup"];
        let text = Columns::of(&heads, vec![row.into()]).lines();
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        assert!(text.lines().count() > 3, "{text}");
        let all = text.split_whitespace().collect::<String>();
        assert!(all.contains("user.slice/"), "{text}");
        let sentence = wrapped(&format!("vm 100: running, cpus {list}"), "");
        assert!(sentence.lines().all(|line| line.len() <= 80), "{sentence}");
        let joined: String = sentence.lines().map(str::trim).collect();
        assert!(joined.ends_with(&list), "{sentence}");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["6", "6,18", "0"], ["18", "é", "-"]];
        let rows = rows.map(|row| row.map(str::to_owned).into());
        assert_eq!(
            Columns::of(&["cpu", "core", "node"], rows.into()).lines(),
            "  cpu  core  node\n    6  6,18     0\n   18  é        -\n"
        );
    }
}
