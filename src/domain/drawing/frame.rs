//! Frames, and lines of text whose parts belong to owners.

use crate::domain::words::{length, pieces};

/// Columns that a frame takes besides what is in it.
pub const EDGES: usize = 4;

/// Pieces of bars, from an eighth of a column to a whole one.
const BLOCKS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// Returns a bar of so many eighths of a column.
pub fn bar(n: usize) -> String {
    let rest = (n % 8).checked_sub(1).map(|rest| BLOCKS[rest]);
    std::iter::repeat_n(BLOCKS[7], n / 8).chain(rest).collect()
}

/// Returns how many eighths of a column a piece of a bar takes; nothing of what is none.
pub fn eighths(c: char) -> Option<usize> {
    let n = BLOCKS.iter().position(|block| *block == c)?;
    Some(n + 1)
}

/// Part of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// What is printed.
    pub text: String,
    /// Index of its owner, which says on what ground it stands.
    pub owner: Option<usize>,
}

/// Line of a picture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// Its parts, from left to right.
    pub spans: Vec<Span>,
}

impl Line {
    /// Returns a line that is one part.
    pub fn of(text: impl Into<String>, owner: Option<usize>) -> Self {
        let mut line = Line::default();
        line.push(text, owner);
        line
    }

    /// Adds a part.
    pub fn push(&mut self, text: impl Into<String>, owner: Option<usize>) {
        let text = text.into();
        self.spans.push(Span { text, owner });
    }

    /// Returns how many columns the line takes.
    pub fn width(&self) -> usize {
        self.spans.iter().map(|span| length(&span.text)).sum()
    }

    /// Returns what is printed, without blanks at the end.
    pub fn text(&self) -> String {
        let text: String = self.spans.iter().map(|span| span.text.as_str()).collect();
        text.trim_end().to_owned()
    }

    /// Fills up with blanks.
    pub fn pad(&mut self, width: usize) {
        let missing = width.saturating_sub(self.width());
        if missing > 0 {
            self.push(" ".repeat(missing), None);
        }
    }
}

/// What frames are drawn with.
#[derive(Debug, Clone, Copy)]
pub struct Pen {
    corners: [char; 4],
    line: char,
    /// What is between two columns.
    pub bar: char,
}

impl Pen {
    /// Returns what draws in ASCII, or with the lines of Unicode.
    pub fn new(is_ascii: bool) -> Self {
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
    pub fn frame(
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
pub fn widest(lines: &[Line]) -> usize {
    lines.iter().map(Line::width).max().unwrap_or(0)
}

/// Puts blocks next to each other, and below where the width is not enough.
pub fn packed(blocks: Vec<Vec<Line>>, width: usize) -> Vec<Line> {
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

/// Returns a text in lines of at most `width` columns; all but the first are indented by two.
pub fn hanging(text: &str, owner: Option<usize>, width: usize) -> Vec<Line> {
    let indent = text.len() - text.trim_start().len();
    let mut lines = Vec::new();
    for piece in pieces(text.trim_start(), width.saturating_sub(indent.max(2) + 2)) {
        let start = match lines.is_empty() {
            true => indent,
            false => indent.max(2) + 2,
        };
        let mut rest = piece.as_str();
        while length(rest) > width - start {
            // A name without a place to break it at.
            let end = rest.char_indices().nth(width - start);
            let (head, tail) = rest.split_at(end.map_or(rest.len(), |(at, _)| at));
            lines.push(Line::of(format!("{}{head}", " ".repeat(start)), owner));
            rest = tail;
        }
        lines.push(Line::of(format!("{}{rest}", " ".repeat(start)), owner));
    }
    lines
}
