//! Frames, and lines of text whose parts belong to owners.

use crate::domain::words::length;

/// Columns that a frame takes besides what is in it.
pub(super) const EDGES: usize = 4;

/// Part of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// What is printed.
    pub text: String,
    /// Index of the owner whose CPUs it is about.
    pub owner: Option<usize>,
}

/// Line of the picture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// Its parts, from left to right.
    pub spans: Vec<Span>,
}

impl Line {
    /// Returns a line that is one part.
    pub(super) fn of(text: impl Into<String>, owner: Option<usize>) -> Self {
        let mut line = Line::default();
        line.push(text, owner);
        line
    }

    /// Adds a part.
    pub(super) fn push(&mut self, text: impl Into<String>, owner: Option<usize>) {
        let text = text.into();
        self.spans.push(Span { text, owner });
    }

    /// Returns how many columns the line takes.
    pub fn width(&self) -> usize {
        self.spans.iter().map(|span| length(&span.text)).sum()
    }

    /// Fills up with blanks.
    pub(super) fn pad(&mut self, width: usize) {
        let missing = width.saturating_sub(self.width());
        if missing > 0 {
            self.push(" ".repeat(missing), None);
        }
    }
}

/// What frames are drawn with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pen {
    corners: [char; 4],
    line: char,
    /// What is between two columns.
    pub(super) bar: char,
}

impl Pen {
    /// Returns what draws in ASCII, or with the lines of Unicode.
    pub(super) fn new(is_ascii: bool) -> Self {
        match is_ascii {
            true => Pen {
                corners: ['+'; 4],
                line: '-',
                bar: '|',
            },
            false => Pen {
                corners: ['┌', '┐', '└', '┘'],
                line: '─',
                bar: '│',
            },
        }
    }

    /// Returns lines in a frame with a title, with room for `least` columns. What of the title is longer
    /// than `most` columns goes on below it.
    pub(super) fn frame(
        self,
        title: &str,
        mut lines: Vec<Line>,
        (least, most): (usize, usize),
    ) -> Vec<Line> {
        let mut titles: Vec<String> = Vec::new();
        for part in title.split(", ") {
            match titles.last_mut() {
                Some(title) if length(title) + 2 + length(part) <= most => {
                    *title += ", ";
                    *title += part;
                }
                _ => titles.push(part.to_owned()),
            }
        }
        let more = titles.drain(1..).map(|text| Line::of(text, None));
        lines.splice(0..0, more);
        let title = titles.concat();
        let width = widest(&lines).max(length(&title)).max(least) + 2;
        let Pen { corners, line, bar } = self;
        let edge = |left: char, title: &str, right: char| {
            let rest = line.to_string().repeat(width - length(title));
            Line::of(format!("{left}{title}{rest}{right}"), None)
        };
        let title = match title.as_str() {
            "" => String::new(),
            title => format!(" {title} "),
        };
        let mut framed = vec![edge(corners[0], &title, corners[1])];
        framed.extend(lines.into_iter().map(|inner| {
            let mut line = Line::of(format!("{bar} "), None);
            line.spans.extend(inner.spans);
            line.pad(width);
            line.push(format!(" {bar}"), None);
            line
        }));
        framed.push(edge(corners[2], "", corners[3]));
        framed
    }
}

/// Returns how many columns the widest line takes.
pub(super) fn widest(lines: &[Line]) -> usize {
    lines.iter().map(Line::width).max().unwrap_or(0)
}

/// Puts blocks next to each other, and below where the width is not enough.
pub(super) fn packed(blocks: Vec<Vec<Line>>, width: usize) -> Vec<Line> {
    let mut done = Vec::new();
    let mut band: Vec<Line> = Vec::new();
    for block in blocks {
        let before = widest(&band);
        if before + 1 + widest(&block) > width {
            done.append(&mut band);
        }
        if band.is_empty() {
            band = block;
            continue;
        }
        band.resize(band.len().max(block.len()), Line::default());
        for (line, more) in band.iter_mut().zip(block) {
            line.pad(before + 1);
            line.spans.extend(more.spans);
        }
    }
    done.append(&mut band);
    done
}
