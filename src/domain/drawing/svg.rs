//! A drawing as SVG: the same lines, with what belongs to an owner on a ground of its own.

use std::fmt::Write;

use super::frame::{Line, eighths};
use crate::domain::words::length;

/// Size of a character in px; `textLength` holds every font to it.
const WIDTH: usize = 8;
const HEIGHT: usize = 18;
/// Where letters stand in a line.
const BASE: usize = 14;
const MARGIN: usize = 12;
/// How far a bar is from the edges of its line.
const BAR_EDGE: usize = 4;

/// What words stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// A color, by its number.
    Color(usize),
    /// Gray.
    Gray,
}

/// Colors in turn, as red, green and blue; see-through, so that they suit a light page and a dark one.
const COLORS: [&str; 5] = [
    "46,160,67",
    "56,139,253",
    "188,140,255",
    "210,153,34",
    "248,81,73",
];

/// Returns a drawing of lines; `ground` says on what the parts of an owner stand.
pub fn svg(lines: &[Line], ground: impl Fn(usize) -> Option<Ground>) -> String {
    let columns = lines.iter().map(Line::width).max().unwrap_or(0);
    let (width, height) = (
        columns * WIDTH + 2 * MARGIN,
        lines.len() * HEIGHT + 2 * MARGIN,
    );
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\">\n<style>text{{font:13px ui-monospace,\"DejaVu Sans \
         Mono\",monospace;fill:#1f2328;}}path{{fill:none;stroke:#8c959f}}.paper{{fill:#fff}}@media \
         (prefers-color-scheme:dark){{text{{fill:#e6edf3}}.paper{{fill:#0d1117}}}}</style>\n<rect \
         class=\"paper\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>\n"
    );
    for (n, line) in lines.iter().enumerate() {
        add(&mut text, line, &ground, MARGIN + n * HEIGHT);
    }
    text + "</svg>\n"
}

/// Adds a line whose upper edge is at `top`.
fn add(text: &mut String, line: &Line, ground: impl Fn(usize) -> Option<Ground>, top: usize) {
    let mut left = MARGIN;
    for span in &line.spans {
        if let Some(ground) = span.owner.and_then(&ground) {
            let said = span.text.trim_end();
            let edge = match said.chars().all(|c| eighths(c).is_some()) {
                true => BAR_EDGE,
                false => 0,
            };
            let width: usize = said.chars().map(|c| eighths(c).unwrap_or(8)).sum();
            let (y, width, height) = (top + edge, width * WIDTH / 8, HEIGHT - 2 * edge);
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "<rect x=\"{left}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"rgba({})\"/>",
                ground.fill()
            );
        }
        left = add_span(text, &span.text, left, top);
    }
}

/// Adds words where their first letters are, and frames as strokes: no two fonts are equally wide. Returns where
/// the next span begins.
fn add_span(text: &mut String, span: &str, mut left: usize, top: usize) -> usize {
    let (mut strokes, mut word) = (String::new(), String::new());
    for c in span.chars() {
        let stroke = stroke(c);
        if stroke.is_none() && c != ' ' && eighths(c).is_none() {
            word.push(c);
        } else {
            add_word(text, &mut word, left, top);
        }
        if let Some(stroke) = stroke {
            let (x, y) = (left + WIDTH / 2, top + HEIGHT / 2);
            let _ = write!(strokes, "M{x} {y}{stroke}");
        }
        left += WIDTH;
    }
    add_word(text, &mut word, left, top);
    if !strokes.is_empty() {
        let _ = writeln!(text, "<path d=\"{strokes}\"/>");
    }
    left
}

/// Adds a word that ends at `right`, and empties it.
fn add_word(text: &mut String, word: &mut String, right: usize, top: usize) {
    let width = length(word) * WIDTH;
    if width > 0 {
        let (x, y, said) = (right - width, top + BASE, escaped(word));
        let _ = writeln!(
            text,
            "<text x=\"{x}\" y=\"{y}\" textLength=\"{width}\">{said}</text>"
        );
    }
    word.clear();
}

/// Returns the strokes of a piece of a frame, from its middle.
fn stroke(piece: char) -> Option<&'static str> {
    Some(match piece {
        '─' => "m-4 0h8",
        '│' => "m0-9v18",
        '┌' => "m4 0h-4v9",
        '┐' => "m-4 0h4v9",
        '└' => "m0-9v9h4",
        '┘' => "m0-9v9h-4",
        _ => return None,
    })
}

impl Ground {
    /// Returns red, green, blue, and how much of what is below it cannot be seen.
    fn fill(self) -> String {
        match self {
            Ground::Color(n) => format!("{},.35", COLORS[n % COLORS.len()]),
            Ground::Gray => "110,118,129,.3".to_owned(),
        }
    }
}

/// Returns text as XML has it; what XML cannot have is a question mark.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            c if c.is_control() => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}
