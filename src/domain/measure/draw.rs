//! The drawing of a card: a column for each measurement.

use super::card::{Card, Compared, Row};
use super::tally::in_units;
use crate::domain::drawing::frame::{Line, bar, hanging};
use crate::domain::drawing::svg::{Ground, svg};
use crate::domain::words::{count, length};

/// Least columns of a measurement.
const LEAST_COLUMN: usize = 13;
/// Columns of a value that has a bar behind it, and of the longest bar.
const VALUE: usize = 10;
const LONGEST_BAR: usize = 12;

/// Columns of a card as text, as a picture, and as one for a narrow screen.
const TEXT: usize = 80;
const WIDE: usize = 96;
const NARROW: usize = 40;

/// Where the columns are.
struct Columns {
    /// Columns of the names of rows.
    head: usize,
    /// Columns of each measurement.
    each: usize,
    /// How many measurements.
    n: usize,
    has_bars: bool,
}

impl Card {
    /// Returns the card as text.
    pub fn text(&self) -> String {
        let lines = self.lines(TEXT, false);
        lines.iter().map(|line| line.text() + "\n").collect()
    }

    /// Returns the card as a picture: values have a bar behind them, as long as they are beside the others.
    pub fn svg(&self) -> String {
        svg(&self.lines(WIDE, true), |n| Some(Ground::Color(n)))
    }

    /// Returns the card as a picture that is as narrow as it can be.
    pub fn narrow_svg(&self) -> String {
        svg(&self.lines(NARROW, false), |n| Some(Ground::Color(n)))
    }

    /// Returns the lines of the card, of this width where that is enough. The owner of a part is its measurement.
    fn lines(&self, width: usize, has_bars: bool) -> Vec<Line> {
        let columns = self.columns(width, has_bars);
        let mut lines = Vec::new();
        for (n, one) in self.measurements.iter().enumerate() {
            lines.extend(hanging(&one.told(), Some(n), columns.end()));
        }
        lines.push(Line::default());
        lines.push(self.names(&columns));
        lines.extend(self.taken.iter().map(|row| columns.row(row)));
        for (title, rows) in [
            ("in each second by kind", &self.by_kind),
            ("in each second by name", &self.by_name),
        ] {
            if !rows.is_empty() {
                lines.push(Line::default());
                lines.push(Line::of(title, None));
                lines.extend(rows.iter().map(|row| columns.row(row)));
            }
        }
        lines
    }

    fn columns(&self, width: usize, has_bars: bool) -> Columns {
        let n = self.measurements.len().max(1);
        let rows = [&self.taken, &self.by_kind, &self.by_name];
        let names = |rows: &[Row]| rows.iter().map(|row| length(&row.name)).max().unwrap_or(0);
        let longest = rows.map(|rows| names(rows)).into_iter().max().unwrap_or(0);
        // Those of rows that are always there are not cut.
        let always = names(&self.taken).max(names(&self.by_kind)) + 2;
        let room = width.saturating_sub(n * LEAST_COLUMN);
        let head = (longest + 2).min(room).max(always);
        let most = match has_bars {
            true => VALUE + 1 + LONGEST_BAR,
            false => usize::MAX,
        };
        let each = width.saturating_sub(head) / n;
        Columns {
            head,
            each: each.max(LEAST_COLUMN).min(most),
            has_bars,
            n,
        }
    }

    /// Returns the names of the measurements, each above its column.
    fn names(&self, columns: &Columns) -> Line {
        let mut line = Line::of(" ".repeat(columns.head), None);
        for (n, one) in self.measurements.iter().enumerate() {
            let end = columns.head + (n + 1) * columns.each;
            let name = cut(&one.name, columns.each - 2);
            let is_short = columns.has_bars && length(&name) + 2 <= VALUE;
            let right = match is_short {
                true => end - columns.each + VALUE,
                false => end,
            };
            line.pad(right - length(&name));
            line.push(name, Some(n));
            line.pad(end);
        }
        line
    }
}

impl Columns {
    /// Returns how many columns there are.
    fn end(&self) -> usize {
        self.head + self.n * self.each
    }

    fn row(&self, row: &Row) -> Line {
        let mut line = Line::of(format!("  {}", cut(&row.name, self.head - 2)), None);
        line.pad(self.head);
        let highest = row.values.iter().copied().max().unwrap_or(0);
        for (n, value) in row.values.iter().enumerate() {
            let said = row.unit.shown(*value);
            let end = self.head + (n + 1) * self.each;
            if !self.has_bars {
                line.push(format!("{said:>width$}", width = self.each), None);
                continue;
            }
            line.push(format!("{said:>VALUE$} "), None);
            let most = (self.each - VALUE - 1) * 8;
            if *value > 0 {
                line.push(bar(scaled(*value, highest, most)), Some(n));
            }
            line.pad(end);
        }
        line
    }
}

impl Compared {
    fn told(&self) -> String {
        let who = match self.vmid {
            Some(vmid) => format!("vm {vmid} on {}", self.cpus.in_words()),
            None => self.cpus.in_words(),
        };
        let what = if self.vmid.is_some() { "vcpu" } else { "cpu" };
        let (seats, time) = (count(self.n_seats, what), in_units(self.duration_ns));
        let Compared { name, kernel, .. } = self;
        format!("{name}: {who}, {seats}, {time}, linux {kernel}")
    }
}

/// Returns a part of `most`, as large as `value` is of `highest`; at least 1 of what is not 0.
fn scaled(value: u64, highest: u64, most: usize) -> usize {
    let part = u128::from(value) * most as u128 / u128::from(highest.max(1));
    let part = usize::try_from(part).unwrap_or(most);
    part.max(usize::from(value > 0))
}

/// Returns a name in so many columns, with dots for what is missing.
fn cut(name: &str, width: usize) -> String {
    match length(name) > width {
        true => {
            name.chars()
                .take(width.saturating_sub(2))
                .collect::<String>()
                + ".."
        }
        false => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::card::Unit;
    use super::*;

    fn card(names: &[String], by: &str, value: u64) -> Card {
        let measurements = names.iter().map(|name| Compared {
            name: name.clone(),
            vmid: None,
            cpus: "0-3".parse().unwrap(),
            n_seats: 4,
            duration_ns: 1,
            kernel: "6.12".to_owned(),
        });
        let row = |name: &str| Row {
            name: name.to_owned(),
            unit: Unit::Ns,
            values: (0..names.len()).map(|n| value >> n).collect(),
        };
        Card {
            measurements: measurements.collect(),
            taken: vec![row("taken from the vm")],
            by_kind: vec![row("kernel threads and work")],
            by_name: vec![row(by)],
        }
    }

    #[test]
    fn a_bar_is_as_long_as_its_value_is_beside_the_highest() {
        assert_eq!(scaled(0, 100, 96), 0);
        assert_eq!(scaled(1, 1_000_000, 96), 1);
        assert_eq!(scaled(50, 100, 96), 48);
        assert_eq!(scaled(u64::MAX, u64::MAX, 96), 96);
        assert_eq!(scaled(0, 0, 96), 0);
    }

    proptest! {
        #[test]
        fn a_card_is_as_wide_as_its_paper(
            names in proptest::collection::vec("[a-z]{1,64}", 1..=4),
            by in "[a-z]{1,15}( [(]?[a-z.]{1,40})?",
            // More than 100 days.
            value in 0..10_u64.pow(16),
        ) {
            let card = card(&names, &by, value);
            for (width, has_bars) in [(TEXT, false), (WIDE, true)] {
                let lines = card.lines(width, has_bars);
                let widest = lines.iter().map(Line::width).max().unwrap_or(0);
                prop_assert!(widest <= width, "{}", card.text());
            }
            let text = card.text();
            let (_, rows) = text.split_once("\n\n").unwrap();
            let heads = rows.lines().next().unwrap();
            prop_assert_eq!(heads.split_whitespace().count(), names.len(), "{}", text);
        }
    }
}
